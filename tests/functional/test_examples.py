"""The programs of ``docs/howto`` run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from realtime_chat.client import Message, Room, connect
from tests.clients import SocketClient
from tests.deadlines import DEADLINE
from tests.functional.browsers import node_environment, program
from tests.functional.cluster import ClusterTestCase
from tests.functional.daemon import CHECKOUT, DaemonTestCase, wait_until

_HOWTO = CHECKOUT / "docs" / "howto"


class ExampleTests(DaemonTestCase):
    """Bots in processes of their own, and chats here that talk to them."""

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one of the programs."""
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        command = [sys.executable, str(_HOWTO / program), *arguments]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.addCleanup(_end, process)
        return process

    async def texts(self, room: Room, count: int) -> list[Any]:
        """What the next messages say."""
        found: list[Any] = []
        async for event in room:
            found += [event.text] if isinstance(event, Message) else []
            if len(found) == count:
                break
        return found

    async def test_echo_bot(self) -> None:
        """The bot says again what others say, also after the daemon was killed and started again."""
        server = await self.started()
        bot = self.start("echo_bot.py", server.url, "lobby")
        await deferToThread(wait_until, lambda: server.get("rooms/lobby/members")["count"] == 1, lambda: _fate(bot))
        async with connect(reactor, server.url, name="Ann") as chat:
            room = await chat.join("lobby", last=0)
            await room.publish({"text": "one"})
            self.assertEqual(["one", "Ann said: one"], await self.texts(room, 2))
            server.kill()
            await deferToThread(server.start)
            await room.publish({"text": "two"})
            self.assertEqual(["two", "Ann said: two"], await self.texts(room, 2))

    async def test_asyncio(self) -> None:
        """The client works on asyncio's event loop, from asyncio's coroutines."""
        server = await self.started("--store=memory:")
        program = self.start("asyncio_bot.py", server.url, "lobby")
        output, _ = await deferToThread(program.communicate, timeout=DEADLINE)
        self.assertEqual(b"message 0\nmessage 1\nmessage 2\n", output)
        self.assertEqual(0, program.returncode)


def _fate(process: subprocess.Popen[bytes]) -> str:
    return f"the program ended with {process.returncode}" if process.poll() is not None else "it runs"


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


class RedisExampleTests(ClusterTestCase):
    """Programs that publish by Redis, and chats that read what they say."""

    async def begin(self) -> None:
        """A daemon over Redis, and who reads the room ``news`` there."""
        self.redis = await self.redis_server()
        self.server, self.other = await self.nodes(2, self.redis.url)
        self.reader = SocketClient(reactor, self.other.port, "news")
        self.addCleanup(self.reader.stop)
        await self.reader.start()

    async def run_program(self, *words: str, **environment: str) -> str:
        """What a program prints, which must not fail."""
        done = await deferToThread(
            subprocess.run, words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
        output: str = done.stdout.decode()
        self.assertEqual(0, done.returncode, output)
        return output

    async def assert_published(self, output: str, text: str, key: str) -> None:
        """The program has said where its message is, and everybody has got that, and the signal."""
        await self.reader.until(lambda: self.reader.of_type("message") and self.reader.of_type("signal"))
        (message,), (signal,) = self.reader.of_type("message"), self.reader.of_type("signal")
        self.assertEqual((output.strip(), {"text": text}, key), (message["position"], message["data"], message["key"]))
        self.assertEqual({"id": "shop", "name": "The web shop"}, message["from"])
        self.assertEqual((None, {"progress": 100}), (signal["from"], signal["data"]))
        self.assertEqual(message, self.server.get("rooms/news/messages")["messages"][0])

    async def assert_runs_twice(self, *words: str, **environment: str) -> None:
        """A program stores its message once, however often it is run."""
        await self.begin()
        words = (*words, f"redis://127.0.0.1:{self.redis.port}/0", "news", "Grüße, “quoted”", "order-4711")
        first = await self.run_program(*words, **environment)
        await self.assert_published(first, "Grüße, “quoted”", "order-4711")
        self.assertEqual(first, await self.run_program(*words, **environment))
        self.assertEqual(1, len(self.server.get("rooms/news/messages")["messages"]))

    async def test_python(self) -> None:
        """The program with redis-py."""
        await self.assert_runs_twice(sys.executable, str(_HOWTO / "redis_publish.py"))

    async def test_node(self) -> None:
        """The program for Node."""
        modules = (await deferToThread(node_environment))["NPM_MODULES"]
        await self.assert_runs_twice(program("node"), str(_HOWTO / "redis_publish.js"), NODE_PATH=modules)

    async def test_redis_cli(self) -> None:
        """The two command lines with ``redis-cli``."""
        await self.begin()
        text = (_HOWTO / "other-languages.rst").read_text("utf-8")
        relay, append = re.findall(r"^   \$ (redis-cli .*)$", text, re.MULTILINE)
        here = f"redis-cli -p {self.redis.port}"
        self.assertEqual("1\n", await self.run_program("sh", "-c", relay.replace("redis-cli", here)))
        stored = await self.run_program("sh", "-c", append.replace("redis-cli", here))
        again = await self.run_program("sh", "-c", append.replace("redis-cli", here))
        await self.reader.until(lambda: self.reader.of_type("message") and self.reader.of_type("signal"))
        (message,), (signal,) = self.reader.of_type("message"), self.reader.of_type("signal")
        self.assertEqual(
            (["stored", message["position"]], ["duplicate", message["position"]]), (stored.split(), again.split())
        )
        self.assertEqual({"text": "The backup is done"}, message["data"])
        self.assertEqual(("relay", None, {"title": "It works"}), (signal["event"], signal["from"], signal["data"]))
