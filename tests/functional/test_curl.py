"""What is promised to those who have nothing but a URL."""

from __future__ import annotations

import json
import shutil
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue

from tests.clients import SocketClient, Watched
from tests.functional.daemon import DaemonTestCase

JSON_TYPE = ("-H", "Content-Type: application/json")


class Output(Watched, ProcessProtocol):
    """What a program writes, and how it ends."""

    reactor = reactor

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.status: int | None = None

    def outReceived(self, data: bytes) -> None:
        self.text += data.decode()
        self.notice()

    def processEnded(self, reason: Any) -> None:
        self.status = reason.value.exitCode
        self.notice()


class CurlTests(DaemonTestCase):
    """A room by ``curl``."""

    async def curl(self, path: str, *options: str) -> tuple[int, Any]:
        """Run curl; give the status and the JSON of the answer."""
        program = shutil.which("curl")
        self.assertIsNotNone(program, "install the package curl")
        command = ("-sS", "--max-time", "30", "-w", "\n%{http_code}", *options, self.server.url + path)
        out, error, status = await getProcessOutputAndValue(str(program), command)
        self.assertEqual((b"", 0), (error, status))
        body, _, code = out.rpartition(b"\n")
        return int(code), json.loads(body)

    async def test_publishes_and_reads(self) -> None:
        """A form and JSON both say something, and the last messages can be read."""
        self.server = await self.started()
        form = await self.curl("rooms/lobby/messages", "-d", "text=Hello, world")
        told = await self.curl("rooms/lobby/messages", *JSON_TYPE, "-d", '{"data": {"text": "Hello again"}}')
        status, page = await self.curl("rooms/lobby/messages?last=10")
        self.assertEqual((201, 201, 200), (form[0], told[0], status))
        self.assertEqual(["Hello, world", "Hello again"], [message["data"]["text"] for message in page["messages"]])
        self.assertEqual(
            [form[1]["position"], told[1]["position"]], [message["position"] for message in page["messages"]]
        )

    async def test_encodes(self) -> None:
        """A form may hold any character."""
        self.server = await self.started()
        text = 'Grüße & "50 %" + 🎉\nnext line'
        await self.curl("rooms/lobby/messages", "--data-urlencode", f"text={text}")
        _, page = await self.curl("rooms/lobby/messages?last=1")
        self.assertEqual(text, page["messages"][0]["data"]["text"])

    async def test_waits_for_the_next(self) -> None:
        """With the position of the first answer, the second comes when somebody says something."""
        self.server = await self.started()
        await self.curl("rooms/lobby/messages", "-d", "text=before")
        _, first = await self.curl("poll?room=lobby&last=0")
        self.assertEqual(["presence"], [event["type"] for event in first["events"]])
        waiting = Deferred.fromCoroutine(self.curl(f"poll?room=lobby&wait=20&since={first['positions']['lobby']}"))
        await self.curl("rooms/lobby/messages", "-d", "text=now")
        _, second = await waiting
        self.assertEqual(["now"], [event["data"]["text"] for event in second["events"]])
        self.assertNotEqual(first["positions"], second["positions"])

    async def test_waits_in_vain(self) -> None:
        """When nobody says anything, the answer comes when the time is about up, without events."""
        self.server = await self.started()
        _, first = await self.curl("poll?room=lobby&last=0")
        begun = reactor.seconds()
        status, second = await self.curl(f"poll?room=lobby&wait=1&since={first['positions']['lobby']}")
        self.assertEqual((200, [], first["positions"]), (status, second["events"], second["positions"]))
        self.assertGreater(reactor.seconds() - begun, 0.4)

    async def test_follows(self) -> None:
        """A stream can be read as it comes, from the last messages on, and ends with a goodbye when the daemon does."""
        self.server = await self.started()
        await self.curl("rooms/lobby/messages", "-d", "text=before")
        output = Output()
        arguments = ["curl", "-sSN", "--max-time", "60", self.server.url + "sse?room=lobby"]
        reactor.spawnProcess(output, str(shutil.which("curl")), arguments, env=None)
        await output.until(lambda: '"before"' in output.text)
        await self.curl("rooms/lobby/messages", "-d", "text=now")
        await output.until(lambda: '"now"' in output.text)
        await deferToThread(self.server.terminate)
        await output.until(lambda: output.status == 0)
        lines = [line for line in output.text.split("\n") if line]
        self.assertEqual(
            ["retry", "event: welcome", "data", "id", "event: joined", "data", "id", "data", "id", "data"],
            [line if line.startswith("event: ") else line.partition(": ")[0] for line in lines[:10]],
        )
        self.assertEqual("event: goodbye", lines[-2])
        message = json.loads(lines[9].removeprefix("data: "))
        self.assertEqual((f"id: {message['position']}", {"text": "now"}), (lines[8], message["data"]))

    async def test_key(self) -> None:
        """Who isn't sure that it got through says it again with the same key, and it is there once."""
        self.server = await self.started()
        command = ("rooms/lobby/messages", "-d", "text=once", "-d", "key=k1")
        answers = await gatherResults([Deferred.fromCoroutine(self.curl(*command)) for _ in range(3)])
        _, page = await self.curl("rooms/lobby/messages")
        self.assertEqual([200, 200, 201], sorted(status for status, _ in answers))
        self.assertEqual(1, len(page["messages"]))

    async def test_error(self) -> None:
        """What can't be done is said as JSON, with the fitting status."""
        self.server = await self.started()
        status, error = await self.curl("rooms/lobby/messages", *JSON_TYPE, "-d", '{"text": "no data"}')
        self.assertEqual((400, "bad_request"), (status, error["code"]))

    async def test_says_what_is_right(self) -> None:
        """Who sends a form in parts, JSON without saying so, or half of a character is told what would be right."""
        self.server = await self.started()
        for status, sent, told in (
            (415, ("-F", "text=Hello"), "or a form as application/x-www-form-urlencoded; this is multipart/form-data"),
            (400, ("-d", '{"data": "Hello"}'), "for JSON, say Content-Type: application/json"),
            (400, (*JSON_TYPE, "-d", r'{"data": "\ud83d"}'), "a lone surrogate at byte 10 "),
            (400, (*JSON_TYPE, "-d", ""), "it is empty"),
        ):
            answer = await self.curl("rooms/lobby/messages", *sent)
            self.assertEqual(status, answer[0])
            self.assertIn(told, answer[1]["message"])

    async def test_websocket_by_url(self) -> None:
        """A WebSocket client that knows the URL alone shows a room, and what is typed into it is published."""
        self.server = await self.started()
        await self.curl("rooms/lobby/messages", "-d", "text=before")
        client = SocketClient(reactor, self.server.port)
        self.addCleanup(client.stop)
        await client.connect({"room": "lobby"})
        await client.count(1)
        client.send(type="publish", room="lobby", data={"text": "typed"})
        await client.count(2)
        await self.curl("rooms/lobby/messages", "-d", "text=after")
        await client.count(3)
        self.assertEqual(["before", "typed", "after"], [data["text"] for data in client.data])
