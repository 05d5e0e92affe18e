"""A connection to Redis that is kept up, on a real server."""

from __future__ import annotations

import random
import time
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from realtime_chat.redis.address import parse_address
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.wire import ServerError
from realtime_chat.values.errors import StoreError, StoreRefused
from tests.redis_server import RedisServer


async def until(condition: Any, patience: float = 10.0) -> None:
    """Wait till ``condition()`` is true, while the reactor runs."""
    deadline = reactor.seconds() + patience
    while not condition():
        assert reactor.seconds() < deadline, "not in time"
        await deferLater(reactor, 0.01)


class LinkTests(TestCase):
    """One connection at a time, and another as soon as there can be one."""

    timeout = 60

    def setUp(self) -> None:
        self.server = RedisServer(self.mktemp())
        self.addCleanup(self.server.kill)

    def link(self, url: str | None = None, **more: Any) -> RedisConnection:
        link = RedisConnection(reactor, parse_address(url or self.server.url), "test", random.random, **more)
        self.addCleanup(link.stop)
        return link

    async def test_command(self) -> None:
        """A command is answered with bytes, whatever they look like."""
        self.server.start()
        link = self.link()
        await link.start()
        self.assertEqual(await link.command("SET", "a", b"007\xff"), b"OK")
        self.assertEqual(await link.command("GET", "a"), b"007\xff")
        self.assertIsNone(await link.command("GET", "b"))
        self.assertEqual(link.info["run_id"], self.server.info("server")["run_id"])

    async def test_server_error(self) -> None:
        """An error of the server is a StoreError that tells clients no details."""
        self.server.start()
        link = self.link()
        await link.start()
        error = await self.assertFailure(link.command("NONSENSE", "secret"), ServerError)
        self.assertEqual((error.word, "NONSENSE" in error.text, "secret" in error.message), ("ERR", True, False))

    async def test_away(self) -> None:
        """While the server is away commands fail at once; when it is back they work."""
        self.server.start()
        link = self.link()
        await link.start()
        self.server.kill()
        await until(lambda: not link.ready)
        begun = reactor.seconds()
        await self.assertFailure(link.command("PING"), StoreError)
        self.assertLess(reactor.seconds() - begun, 0.1)
        self.server.start()
        await until(lambda: link.ready)
        self.assertEqual(await link.command("PING"), b"PONG")
        self.assertEqual((link.counters.connects, link.counters.losses), (2, 1))

    async def test_hanging(self) -> None:
        """Commands to a server that hangs fail within their time, and the next connection is another."""
        self.server.start()
        link = self.link(timeout=0.3)
        await link.start()
        self.server.pause()
        begun = reactor.seconds()
        answers = [link.command("PING") for _ in range(5)]
        for answer in answers:
            await self.assertFailure(answer, StoreError)
        self.assertLess(reactor.seconds() - begun, 1.0)
        self.server.resume()
        await until(lambda: link.ready)

    async def test_stop_while_connecting(self) -> None:
        """A link that is stopped while it connects makes no connection any more, and tries no other."""
        self.server.start()
        link = RedisConnection(reactor, parse_address(self.server.url), "test", random.random)
        link.start()
        await link.stop()
        self.assertEqual(await link.command("PING").addErrback(lambda failure: failure.type), StoreError)
        self.assertEqual((link.counters.attempts, link.counters.connects), (1, 0))

    async def test_busy(self) -> None:
        """A server that has answered in time isn't given up because we were too busy to read that."""
        self.server.start()
        link = self.link(timeout=0.1)
        await link.start()
        answers = [link.command("PING") for _ in range(5)]
        time.sleep(0.3)
        for answer in answers:
            self.assertEqual(await answer, b"PONG")
        self.assertEqual((link.counters.losses, link.counters.failures), (0, 0))

    async def test_killed_connection(self) -> None:
        """A connection that the server closes is replaced."""
        self.server.start()
        link = self.link()
        await link.start()
        self.server.command("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: link.counters.connects == 2)
        self.assertEqual(await link.command("PING"), b"PONG")

    async def test_published(self) -> None:
        """A subscriber hears what is published on its channels and patterns."""
        self.server.start()
        heard: list[Any] = []
        link = self.link(on_message=lambda *what: heard.append(what))
        await link.start()
        await link.command("SUBSCRIBE", "a")
        await link.command("PSUBSCRIBE", "b*")
        self.server.command("PUBLISH", "a", b"\xff")
        self.server.command("PUBLISH", "b2", "x")
        self.assertEqual(await link.command("PING"), [b"pong", b""])
        await until(lambda: len(heard) == 2)
        self.assertEqual(heard, [(None, b"a", b"\xff"), (b"b*", b"b2", b"x")])

    async def test_prepared_before_use(self) -> None:
        """Nobody uses a connection before it is prepared; one that can't be is given up for another."""
        self.server.start()
        tries: list[bool] = []

        async def prepare(connection: Any) -> None:
            tries.append(link.ready)
            self.assertEqual(await connection.command("PING"), b"PONG")
            if len(tries) == 1:
                raise StoreError("not yet")

        link = self.link(on_ready=prepare)
        await link.start()
        self.assertEqual((tries, link.ready), ([False, False], True))

    async def test_nobody_there(self) -> None:
        """A start where nobody answers is refused after some patience, with the address."""
        error = await self.assertFailure(self.link().start(patience=0.2), StoreRefused)
        self.assertIn(f"redis://127.0.0.1:{self.server.port}/0: nobody answers", str(error))

    async def test_wrong_password(self) -> None:
        """A password that isn't right, or is missing, is said at once, and never shown."""
        self.server.password = "right"
        self.server.start()
        wrong = self.server.url.replace("right", "wrong")
        error = await self.assertFailure(self.link(wrong).start(), StoreRefused)
        self.assertIn("the user or the password is not what Redis knows", str(error))
        self.assertNotIn("wrong@", str(error))
        error = await self.assertFailure(self.link(wrong.replace(":wrong@", "")).start(), StoreRefused)
        self.assertIn("--store-password-file", str(error))
        await self.link().start()

    async def test_stop_answers_when_closed(self) -> None:
        """After stopping nothing is left, and what was under way has failed."""
        self.server.start()
        link = self.link()
        await link.start()
        self.server.pause()
        answer: Deferred[Any] = link.command("PING")
        await link.stop()
        await self.assertFailure(answer, StoreError)
        await link.stop()
