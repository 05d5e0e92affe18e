"""Attempts to be somebody else, or to do more than one may, against a real daemon."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from tests.clients import SocketClient
from tests.deadlines import DEADLINE
from tests.functional.daemon import Daemon, DaemonTestCase
from tests.functional.raw_clients import RawHTTP
from tests.tokens.made import SECRET, token

HEAD = re.compile(rb"HTTP/1\.[01] (\d{3}) .*?\r\n\r\n", re.DOTALL)
ORIGIN = "https://shop.example"
WRITING = (
    {"type": "publish", "room": "lobby", "data": 1},
    {"type": "signal", "room": "lobby", "event": "e", "data": 1},
    {"type": "state", "state": {"a": 1}},
    {"type": "leave", "room": "lobby"},
)


def request(method: str, path: str, *headers: str, body: Any = None, version: str = "HTTP/1.1") -> bytes:
    """A request as it is sent."""
    raw = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} {version}", "Host: 127.0.0.1", *headers]
    lines += [] if body is None else ["Content-Type: application/json", f"Content-Length: {len(raw)}"]
    return "\r\n".join([*lines, "", ""]).encode() + raw


def bearer(text: str) -> str:
    """The header with a token."""
    return f"Authorization: Bearer {text}"


class RightsTestCase(DaemonTestCase):
    """A daemon with a key, two users, and what they have got from it."""

    async def begin(self, *options: str) -> Daemon:
        """Start it."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        keys = directory / "site.key"
        keys.write_text(SECRET)
        self.server = await self.started("--store=memory:", "--token-key", str(keys), *options)
        return self.server

    def token(self, sub: str, **rooms: str) -> str:
        """A token for these rooms."""
        now = time.time()
        return token({"sub": sub, "rooms": rooms, "iat": now}, now=now)

    async def tell(self, *requests: bytes, count: int | None = None) -> list[tuple[int, bytes]]:
        """Send requests in one piece, on one connection, and give the statuses and the bodies of the answers."""
        return await deferToThread(asyncio.run, self._tell(b"".join(requests), count or len(requests)))

    async def _tell(self, data: bytes, count: int) -> list[tuple[int, bytes]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        answers = []
        try:
            writer.write(data)
            async with asyncio.timeout(DEADLINE):
                for _ in range(count):
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = re.search(rb"(?i)content-length: (\d+)", head)
                    answers.append((int(head[9:12]), await reader.readexactly(int(length[1]) if length else 0)))
        finally:
            writer.transport.abort()
        return answers

    async def welcome(self, **hello: Any) -> dict[str, Any]:
        """Say hello over HTTP."""
        ((_, body),) = await self.tell(request("POST", "/commands", body={"type": "hello", **hello}))
        found: dict[str, Any] = json.loads(body)
        return found

    async def socket(self, **hello: Any) -> SocketClient:
        """A WebSocket that has said hello."""
        client = SocketClient(reactor, self.server.port)
        await client.connect()
        self.addCleanup(client.stop)
        self.assertEqual("welcome", (await client.tell(type="hello", **hello))["type"])
        return client


def codes(answers: Sequence[tuple[int, bytes]]) -> list[Any]:
    """The codes of errors, and the statuses of other answers."""
    return [json.loads(body)["code"] if status >= 400 else status for status, body in answers]


class ForgeryTests(RightsTestCase):
    """Clients that nobody has issued."""

    async def test_changed(self) -> None:
        """A client or a reader of which any character is another one is unauthorized, and never a guest."""
        await self.begin()
        welcome = await self.welcome(token=self.token("ann", lobby="rwsp"))
        client, reader = welcome["client"], welcome["reader"]
        asked = []
        for text, where in ((client, "Realtime-Client: {}"), (reader, "")):
            for at, was in enumerate(text):
                changed = text[:at] + ("A" if was != "A" else "B") + text[at + 1 :]
                path = "/poll?room=lobby&wait=1" + ("" if where else f"&reader={changed}")
                asked.append(request("GET", path, *([where.format(changed)] if where else [])))
        answers = [one for start in range(0, len(asked), 50) for one in await self.tell(*asked[start : start + 50])]
        self.assertEqual(len(client) + len(reader), len(answers))
        self.assertEqual({"unauthorized"}, set(codes(answers)))

    async def test_of_another_daemon(self) -> None:
        """A client of another daemon with the same key is unauthorized everywhere; its token is not."""
        await self.begin()
        text = self.token("ann", lobby="rwsp")
        other = await self.welcome(token=text)
        await self.begin()
        header = f"Realtime-Client: {other['client']}"
        answers = await self.tell(
            request("GET", "/poll?room=lobby&wait=1", header),
            request("GET", f"/poll?room=lobby&wait=1&reader={other['reader']}"),
            request("GET", f"/sse?room=lobby&reader={other['reader']}"),
            request("GET", "/rooms/lobby/messages", header),
            request("POST", "/commands", body={"type": "hello", "client": other["client"]}),
            request("POST", "/commands", body={"type": "hello", "client": other["client"], "token": text}),
            request("GET", "/rooms/lobby/messages", bearer(text)),
        )
        self.assertEqual(["unauthorized"] * 6 + [200], codes(answers))

    async def test_long_tokens(self) -> None:
        """A token of 60 KB is refused in a header, in a body and in a frame, and the daemon goes on."""
        await self.begin()
        long = token({"sub": "ann", "rooms": {}, "filler": "x" * 45_000}, now=time.time())
        self.assertGreater(len(long), 60_000)
        ((status, _),) = await self.tell(request("GET", "/rooms/lobby/messages", bearer(long)))
        self.assertIn(status, (400, 431))
        self.assertEqual("unauthorized", (await self.welcome(token=long))["code"])
        socket = await self.socket()
        self.assertEqual("unauthorized", (await socket.tell(type="hello", token=long))["code"])
        self.assertEqual("pong", (await socket.tell(type="ping"))["type"])


class MixedTests(RightsTestCase):
    """Several people on one connection, and several ways to say who one is."""

    async def test_pipelined(self) -> None:
        """Each request on a connection is answered for whom it names, and no later one inherits that."""
        await self.begin()
        ann = self.token("ann", ann="rw")
        ben = await self.welcome(token=self.token("ben", ben="rw"))
        room = "/rooms/ann/messages"
        by_token, by_client = (
            request("GET", room, bearer(ann)),
            request("GET", room, f"Realtime-Client: {ben['client']}"),
        )
        nobody, reader = request("GET", room), request("GET", f"{room}?reader={ben['reader']}")
        publish = request("POST", "/commands", bearer(ann), body={"type": "publish", "room": "ann", "data": 1})
        again = request("POST", "/commands", body={"type": "publish", "room": "ann", "data": 1})
        row = (by_token, nobody, by_client, by_token, reader, nobody, nobody, publish, again, by_client, by_token)
        expected = [200, *["forbidden"] * 2, 200, *["forbidden"] * 3, 200, *["forbidden"] * 2, 200]
        self.assertEqual(expected * 3, codes(await self.tell(*row * 3)))
        connection = RawHTTP(self.server.port)

        async def one_by_one() -> list[int]:
            try:
                return [
                    (await connection.ask("GET", room, b"", *headers))[0]
                    for headers in ((bearer(ann),), (), (bearer(ann),), (f"Realtime-Client: {ben['client']}",), ()) * 3
                ]
            finally:
                connection.close()

        self.assertEqual([200, 403, 200, 403, 403] * 3, await deferToThread(asyncio.run, one_by_one()))

    async def test_http_1_0(self) -> None:
        """A request of HTTP/1.0 is somebody's, too."""
        await self.begin()
        ann = bearer(self.token("ann", ann="r"))
        for headers, expected in (((ann,), 200), ((), "forbidden"), ((ann, ann), "bad_request")):
            answers = await self.tell(request("GET", "/rooms/ann/messages", *headers, version="HTTP/1.0"))
            self.assertEqual([expected], codes(answers))

    async def test_hello_twice(self) -> None:
        """Who somebody is never changes on a connection: not by a token, a client, a reader or a name."""
        await self.begin()
        ann, ben = [await self.welcome(token=self.token(sub, lobby="rw")) for sub in ("ann", "ben")]
        guest = await self.welcome()
        socket = await self.socket(client=ann["client"])
        for hello in (
            {"client": ben["client"]},
            {"client": ben["reader"]},
            {"client": ann["reader"]},
            {"client": guest["client"]},
            {"token": self.token("ben", lobby="rw")},
            {"token": self.token("ann", lobby="rw"), "client": ben["client"]},
            {"name": "Ben"},
        ):
            self.assertEqual("forbidden", (await socket.tell(type="hello", **hello))["code"], hello)
        again = await socket.tell(type="hello")
        self.assertEqual(("ann", ann["client"]), (again["user"]["id"], again["client"]))

    async def test_reader(self) -> None:
        """A reader writes nothing, by any command and any transport; nor does a frame or a script."""
        await self.begin("--allow-jsonp")
        text = self.token("ann", lobby="rwsp")
        welcome = await self.welcome(token=text)
        reader = welcome["reader"]
        commands = [*WRITING, {"type": "hello", "token": text}]
        socket = await self.socket(client=reader)
        self.assertEqual("joined", (await socket.tell(type="join", room="lobby"))["type"])
        for command in commands:
            errors = len(socket.of_type("error"))
            await socket.tell(**command)
            await socket.tell(type="ping")  # by now there is a reply to the command, if it has one
            self.assertEqual(["forbidden"], [error["code"] for error in socket.of_type("error")[errors:]], command)
            for address, headers in ((f"?reader={reader}", ()), ("", (f"Realtime-Client: {reader}",))):
                answers = await self.tell(request("POST", f"/commands{address}", *headers, body=command))
                self.assertEqual(["forbidden"], codes(answers), command)
        rooms = request("POST", f"/rooms/lobby/messages?reader={reader}", body={"data": 1})
        script = f"/commands?callback=f&commands=%5B%5D&client={reader}"
        self.assertEqual(["forbidden"], codes(await self.tell(rooms)))
        ((_, body),) = await self.tell(request("GET", script))
        self.assertIn(b'"code":"unauthorized"', body)
        ((_, page),) = await self.tell(request("GET", "/rooms/lobby/messages", bearer(text)))
        self.assertEqual([], json.loads(page)["messages"])

    async def test_script(self) -> None:
        """A script (JSONP) that names a user's client is refused, as that stands in an address; a reader reads."""
        await self.begin("--allow-jsonp")
        ann = await self.welcome(token=self.token("ann", lobby="rw"))
        commands = "%5B%7B%22type%22:%22publish%22,%22room%22:%22lobby%22,%22data%22:1%7D%5D"
        for path, expected in (
            (f"/commands?callback=f&commands={commands}&client={ann['client']}", b'"code":"unauthorized"'),
            (f"/commands?callback=f&commands={commands}&reader={ann['reader']}", b'"code":"'),
            (f"/poll?callback=f&room=lobby&client={ann['client']}", b'"code":"unauthorized"'),
            (f"/poll?callback=f&room=lobby&reader={ann['reader']}&wait=1", b'"type":"poll"'),
        ):
            ((status, body),) = await self.tell(request("GET", path))
            self.assertEqual((200, True), (status, body.startswith(b"/**/f(")), path)
            self.assertIn(expected, body)
            self.assertNotIn(b'"published"', body)

    async def test_preflight(self) -> None:
        """A page of a listed origin may send a token; any other is refused before anybody looks at its token."""
        await self.begin("--allow-origin", ORIGIN)
        text = self.token("ann", lobby="rw")
        asks = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization, content-type")
        for origin, expected in ((ORIGIN, True), ("https://evil.example", False), ("null", False)):
            heads = await deferToThread(
                asyncio.run, self._head(request("OPTIONS", "/commands", f"Origin: {origin}", *asks))
            )
            allowed = re.search(rb"(?i)access-control-allow-headers: .*authorization", heads)
            self.assertEqual(expected, heads[9:12] in (b"200", b"204") and allowed is not None, heads)
            answers = await self.tell(request("GET", "/rooms/lobby/messages", f"Origin: {origin}", bearer(text)))
            self.assertEqual([200 if expected else "bad_origin"], codes(answers))

    async def _head(self, data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        try:
            writer.write(data)
            async with asyncio.timeout(DEADLINE):
                return await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.transport.abort()


class RaceTests(RightsTestCase):
    """Renewals while something is under way."""

    ROUNDS = 10

    async def test_publishes(self) -> None:
        """What was sent before a renewal is stored, and nothing that was sent after it; other connections obey, too."""
        await self.begin()
        for number in range(self.ROUNDS):
            room = f"room-{number}"
            before = await self.welcome(token=self.token("ann", **{room: "rw"}))
            first, other = [await self.socket(client=before["client"]) for _ in range(2)]
            less = self.token("ann", **{room: "r"})
            sent = [first.tell(type="publish", room=room, data=f"before {step}") for step in range(10)]
            sent.append(first.tell(type="hello", token=less))
            sent += [first.tell(type="publish", room=room, data=f"after {step}") for step in range(10)]
            replies = await gatherResults([Deferred.fromCoroutine(one) for one in sent])
            self.assertEqual(["published"] * 10 + ["welcome"], [reply["type"] for reply in replies[:11]])
            self.assertEqual(["forbidden"] * 10, [reply["code"] for reply in replies[11:]])
            self.assertEqual("forbidden", (await other.tell(type="publish", room=room, data="after"))["code"])
            old = request(
                "POST", f"/rooms/{room}/messages", f"Realtime-Client: {before['client']}", body={"data": "after"}
            )
            self.assertEqual(["forbidden"], codes(await self.tell(old)))
            ((_, page),) = await self.tell(request("GET", f"/rooms/{room}/messages?limit=50", bearer(less)))
            data = [message["data"] for message in json.loads(page)["messages"]]
            self.assertEqual([f"before {step}" for step in range(10)], data)

    async def test_back_and_forth(self) -> None:
        """After many renewals at once, over many connections, all of a client's connections have the same rights."""
        await self.begin()
        before = await self.welcome(token=self.token("ann", lobby="rw"))
        sockets = [await self.socket(client=before["client"]) for _ in range(6)]
        for number in range(self.ROUNDS):
            tokens = [self.token("ann", lobby="rw" if (number + step) % 2 else "r") for step in range(len(sockets))]
            renewals = zip(sockets, tokens, strict=True)
            await gatherResults(
                [Deferred.fromCoroutine(socket.tell(type="hello", token=text)) for socket, text in renewals]
            )
            answers = [await socket.tell(type="publish", room="lobby", data=1) for socket in sockets]
            self.assertEqual(1, len({answer.get("code") for answer in answers}), answers)
