"""A connection to Redis that reconnects by itself, on a real server."""

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
from tests.deadlines import DEADLINE, TEST_TIMEOUT, Stopwatch
from tests.redis_server import RedisServer


async def until(condition: Any, patience: float = DEADLINE) -> None:
    """Wait till ``condition()`` is true, while the reactor runs."""
    deadline = reactor.seconds() + patience
    while not condition():
        assert reactor.seconds() < deadline, "not in time"
        await deferLater(reactor, 0.01)


class RedisConnectionTests(TestCase):
    """One connection at a time. If it is lost, another one is made."""

    timeout = TEST_TIMEOUT

    def setUp(self) -> None:
        self.server = RedisServer(self.mktemp())
        self.addCleanup(self.server.kill)

    def connection(self, url: str | None = None, **more: Any) -> RedisConnection:
        connection = RedisConnection(reactor, parse_address(url or self.server.url), "test", random.random, **more)
        self.addCleanup(connection.stop)
        return connection

    async def test_command(self) -> None:
        """A command is answered with bytes, whatever they look like."""
        self.server.start()
        connection = self.connection()
        await connection.start()
        self.assertEqual(await connection.command("SET", "a", b"007\xff"), b"OK")
        self.assertEqual(await connection.command("GET", "a"), b"007\xff")
        self.assertIsNone(await connection.command("GET", "b"))
        self.assertEqual(connection.info["run_id"], self.server.info("server")["run_id"])

    async def test_server_error(self) -> None:
        """An error of the server is a StoreError that tells clients no details."""
        self.server.start()
        connection = self.connection()
        await connection.start()
        error = await self.assertFailure(connection.command("NONSENSE", "secret"), ServerError)
        self.assertEqual((error.word, "NONSENSE" in error.text, "secret" in error.message), ("ERR", True, False))

    async def test_away(self) -> None:
        """While the server is away commands fail at once; when it is back they work."""
        self.server.start()
        connection = self.connection()
        await connection.start()
        self.server.kill()
        await until(lambda: not connection.ready)
        self.failureResultOf(connection.command("PING"), StoreError)
        self.server.start()
        await until(lambda: connection.ready)
        self.assertEqual(await connection.command("PING"), b"PONG")
        self.assertEqual((connection.counters.connects, connection.counters.losses), (2, 1))

    async def test_hanging(self) -> None:
        """Commands to a server that hangs fail within their time, and the next connection is another."""
        self.server.start()
        connection = self.connection(timeout=0.3)
        await connection.start()
        self.server.pause()
        watch = Stopwatch()
        answers = [connection.command("PING") for _ in range(5)]
        for answer in answers:
            await self.assertFailure(answer, StoreError)
        self.assertLess(watch.seconds(), 1.0)
        self.server.resume()
        await until(lambda: connection.ready)

    async def test_stop_while_connecting(self) -> None:
        """A connection that is stopped while it connects is never made, and no other is tried."""
        self.server.start()
        connection = RedisConnection(reactor, parse_address(self.server.url), "test", random.random)
        connection.start()
        await connection.stop()
        self.assertEqual(await connection.command("PING").addErrback(lambda failure: failure.type), StoreError)
        self.assertEqual((connection.counters.attempts, connection.counters.connects), (1, 0))

    async def test_waiting_ends(self) -> None:
        """Who waits for a connection is told when it is stopped; who begins to wait after that is told at once."""
        self.server.start()
        connection = self.connection()
        await connection.start()
        self.server.kill()
        await until(lambda: not connection.ready)
        waiting = connection.when_ready()
        await connection.stop()
        for one in (waiting, connection.when_ready()):
            self.assertIsInstance(self.failureResultOf(one).value, StoreError)

    async def test_busy(self) -> None:
        """A server that has answered in time isn't given up because we were too busy to read that."""
        self.server.start()
        connection = self.connection(timeout=1.0)
        await connection.start()
        answers = [connection.command("PING") for _ in range(5)]
        await deferLater(reactor, 0)  # which sends them
        time.sleep(1.2)
        for answer in answers:
            self.assertEqual(await answer, b"PONG")
        self.assertEqual((connection.counters.losses, connection.counters.failures), (0, 0))

    async def test_killed_connection(self) -> None:
        """A connection that the server closes is replaced."""
        self.server.start()
        connection = self.connection()
        await connection.start()
        self.server.command("CLIENT", "KILL", "TYPE", "normal")
        await until(lambda: connection.counters.connects == 2)
        self.assertEqual(await connection.command("PING"), b"PONG")

    async def test_published(self) -> None:
        """A subscriber hears what is published on its channels and patterns."""
        self.server.start()
        heard: list[Any] = []
        connection = self.connection(on_message=lambda *what: heard.append(what))
        await connection.start()
        await connection.command("SUBSCRIBE", "a")
        await connection.command("PSUBSCRIBE", "b*")
        self.server.command("PUBLISH", "a", b"\xff")
        self.server.command("PUBLISH", "b2", "x")
        self.assertEqual(await connection.command("PING"), [b"pong", b""])
        await until(lambda: len(heard) == 2)
        self.assertEqual(heard, [(None, b"a", b"\xff"), (b"b*", b"b2", b"x")])

    async def test_prepared_before_use(self) -> None:
        """A connection is not used before it is prepared. If that fails, another one is made."""
        self.server.start()
        tries: list[bool] = []

        async def prepare(new: Any) -> None:
            tries.append(connection.ready)
            self.assertEqual(await new.command("PING"), b"PONG")
            if len(tries) == 1:
                raise StoreError("not yet")

        connection = self.connection(on_ready=prepare)
        await connection.start()
        self.assertEqual((tries, connection.ready), ([False, False], True))

    async def test_nobody_there(self) -> None:
        """A start where nobody answers is refused after some patience, with the address."""
        error = await self.assertFailure(self.connection().start(patience=0.2), StoreRefused)
        self.assertIn(f"redis://127.0.0.1:{self.server.port}/0: nobody answers", str(error))

    async def test_wrong_password(self) -> None:
        """A password that isn't right, or is missing, is said at once, and never shown."""
        self.server.password = "right"
        self.server.start()
        wrong = self.server.url.replace("right", "wrong")
        error = await self.assertFailure(self.connection(wrong).start(), StoreRefused)
        self.assertIn("the user or the password is not what Redis knows", str(error))
        self.assertNotIn("wrong@", str(error))
        error = await self.assertFailure(self.connection(wrong.replace(":wrong@", "")).start(), StoreRefused)
        self.assertIn("--store-password-file", str(error))
        await self.connection().start()

    async def test_stop_answers_when_closed(self) -> None:
        """After stopping nothing is left, and what was under way has failed."""
        self.server.start()
        connection = self.connection()
        await connection.start()
        self.server.pause()
        answer: Deferred[Any] = connection.command("PING")
        await connection.stop()
        await self.assertFailure(answer, StoreError)
        await connection.stop()
