"""The store in Redis, and what becomes of it when Redis fails, restarts or forgets."""

from __future__ import annotations

import os
import random

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from realtime_chat.redis.address import parse_address
from realtime_chat.redis.names import Names
from realtime_chat.store.redis import RedisStore
from realtime_chat.store.retention import Retention
from tests.contracts import MessageStoreContract
from tests.redis_server import RedisServer

_shared: list[RedisServer] = []


def shared_server(case: TestCase) -> RedisServer:
    """One server for all tests that don't harm it; it is empty."""
    if not _shared:
        _shared.append(RedisServer(case.mktemp()).start())
    _shared[0].command("FLUSHALL")
    return _shared[0]


def tearDownModule() -> None:
    """Called by trial."""
    while _shared:
        _shared.pop().kill()


class RedisStoreTests(MessageStoreContract, TestCase):
    """The store in Redis keeps the contract."""

    timeout = 60

    def build_store(self, retention: Retention) -> RedisStore:
        server = shared_server(self)
        return RedisStore(
            reactor,
            parse_address(server.url),
            Names("realtime", 0),
            retention,
            65536,
            self.clock.seconds,
            os.urandom,
            random.random,
        )
