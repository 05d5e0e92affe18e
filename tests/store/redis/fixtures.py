"""What the tests of the store in Redis share."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher
from twisted.protocols.portforward import ProxyClient, ProxyClientFactory, ProxyFactory, ProxyServer
from twisted.trial.unittest import TestCase

from realtime_chat.redis.address import parse_address
from realtime_chat.redis.names import RedisNames
from realtime_chat.store.redis.store import RedisStore
from realtime_chat.store.retention import Retention
from realtime_chat.values.errors import RealtimeError, StoreError
from tests.deadlines import DEADLINE, TEST_TIMEOUT, Stopwatch
from tests.redis_server import RedisServer, allow_slow_redis

UNAVAILABLE_WITHIN = 2.0
"""Seconds in which a publish has to be refused while Redis is away."""


class RedisTestCase(TestCase):
    """Stores, which are nodes of their own, on one server.

    :cvar redis_may_be_slow: False where the tests are about how late Redis may store something.
    """

    timeout = TEST_TIMEOUT
    redis_may_be_slow = True

    def setUp(self) -> None:
        if self.redis_may_be_slow:
            allow_slow_redis(self)
        self.later = 0.0
        self.directory = Path(self.mktemp())

    def serve(self, *options: str, **more: Any) -> RedisServer:
        """A server that this test may harm."""
        self.server = RedisServer(self.directory, *options, **more).start()
        self.addCleanup(self.server.kill)
        return self.server

    def build_store(
        self,
        url: str | None = None,
        prefix: str = "realtime",
        count: int = 1000,
        age: float | None = None,
        retention: Retention | None = None,
        **more: Any,
    ) -> RedisStore:
        address = parse_address(url or self.server.url)
        names = RedisNames(prefix, address.database)
        more = {
            "node": os.urandom(8).hex(),
            "look": 0.05,
            "tick": 0.05,
            "monotonic": lambda: time.monotonic() + self.later,
            **more,
        }
        retention = retention or Retention(count, age)
        store = RedisStore(reactor, address, names, retention, 65536, self.now, os.urandom, random.random, **more)
        self.addCleanup(store.stop)
        return store

    async def open_store(self, *arguments: Any, **more: Any) -> RedisStore:
        store = self.build_store(*arguments, **more)
        await store.start()
        return store

    def now(self) -> float:
        return time.time() + self.later

    async def until(self, condition: Callable[[], Any], patience: float = DEADLINE) -> None:
        """Wait till ``condition()`` is true, while the reactor runs."""
        deadline = reactor.seconds() + patience
        while not condition():
            assert reactor.seconds() < deadline, "not in time"
            await deferLater(reactor, 0.01)

    async def connected(self, store: RedisStore) -> None:
        """Wait till a store can be used again: its connections answer, and don't only seem to be open."""
        answered = False
        while not answered:
            await self.until(lambda: all(link.ready for link in store.links))
            answers = await DeferredList([link.command("PING") for link in store.links], consumeErrors=True)
            answered = all(success for success, _ in answers)

    async def unavailable(self, answer: Deferred[Any]) -> StoreError:
        """Await the error of a store that is away; it comes in time."""
        watch = Stopwatch(self.server.pid)
        error = await self.assertFailure(answer, StoreError)
        self.assertLess(watch.seconds(), UNAVAILABLE_WITHIN)
        return error

    def watch_epoch(self, store: RedisStore) -> list[None]:
        """Grows with each change of the epoch."""
        epoch_changes: list[None] = []
        store.watch(lambda: epoch_changes.append(None))
        return epoch_changes

    def logged(self) -> list[str]:
        """Grows with each line that is logged."""
        lines: list[str] = []

        def observe(event: Any) -> None:
            lines.append((event.get("log_format") or "").format(**event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return lines


class LossyProxy(ProxyFactory):
    """Stands before a server, and may lose what it answers.

    :ivar loses_answers: whether it does.
    """

    noisy = False

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self.loses_answers = False
        self._incoming: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        """Called by Twisted."""
        incoming = _Incoming(self)
        incoming.factory = self
        self._incoming.append(incoming)
        return incoming

    def cut(self) -> None:
        """Cut all connections."""
        incoming, self._incoming = self._incoming, []
        for each in incoming:
            each.transport.abortConnection()


class _Incoming(ProxyServer):
    def __init__(self, proxy: LossyProxy) -> None:
        self._proxy = proxy

    def clientProtocolFactory(self) -> ProxyClientFactory:
        """Called by Twisted."""
        factory = ProxyClientFactory()
        factory.protocol = partial(_Outgoing, self._proxy)
        factory.noisy = False
        return factory


class _Outgoing(ProxyClient):
    def __init__(self, proxy: LossyProxy) -> None:
        self._proxy = proxy

    def dataReceived(self, data: bytes) -> None:
        """Called by Twisted."""
        if not self._proxy.loses_answers:
            super().dataReceived(data)


async def failures(answers: list[Deferred[Any]]) -> list[Any]:
    """Await all answers, and give the failures among them."""
    results = await DeferredList(answers, consumeErrors=True)
    failures = [failure for success, failure in results if not success]
    for failure in failures:
        failure.trap(RealtimeError)
    return failures
