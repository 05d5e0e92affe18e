"""The contract of the transports over Redis, with one node, and with clients spread over two."""

from __future__ import annotations

import os
import random
from itertools import cycle
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from realtime_chat.broker.redis import RedisBroker
from realtime_chat.broker.redis_presence import RedisPresence
from realtime_chat.redis.address import parse_address
from realtime_chat.redis.names import Names
from realtime_chat.service import RealtimeService
from realtime_chat.store.redis import RedisStore
from realtime_chat.store.retention import Retention
from tests.clients import Client, EventClient, PollClient, SocketClient
from tests.redis_server import RedisServer
from tests.transports.test_contract import ServedTestCase, TogetherContract, TransportContract


class RedisServedTestCase(ServedTestCase):
    """Tests against daemons in this process that share a Redis server; clients go to one after the other.

    :cvar nodes: how many daemons there are.
    """

    nodes = 1

    async def setUp(self) -> None:
        self.clients: list[Any] = []
        self.services: list[RealtimeService] = []
        self.server = RedisServer(self.mktemp()).start()
        self.addCleanup(self.server.kill)
        self.addCleanup(self._stop_all)
        await self.serve_all()

    async def serve_all(self) -> None:
        """Start the daemons."""
        self.services = [await self.start_node() for _ in range(self.nodes)]
        self.service, self.store = self.services[0], self.services[0]._store
        self.ports = cycle([service.ports()[0] for service in self.services])

    async def start_node(self) -> RealtimeService:
        """Start one daemon."""
        started: Deferred[None] = Deferred()
        address, names = parse_address(self.server.url), Names("realtime", 0)
        retention, node = Retention(self.history), os.urandom(4).hex()
        store = RedisStore(reactor, address, names, retention, 65536, lambda: self.wall(), os.urandom, random.random)
        presence = RedisPresence(reactor, names, node, store.links[0], os.urandom)
        broker = RedisBroker(reactor, address, names, node, random.random, store.links[0], presence)
        service = RealtimeService(
            reactor,
            store,
            broker,
            self.configuration(),
            self.wall,
            os.urandom,
            started=lambda: started.callback(None),
        )
        service.startService()
        await started
        return service

    async def serve_anew(self) -> None:
        """Stop the daemons, and start others with an empty store."""
        for service in self.services:
            await service.stopService()
        self.server.command("FLUSHALL")
        await self.serve_all()

    async def _stop_all(self) -> None:
        for client in self.clients:
            await client.stop()
        for service in self.services:
            await service.stopService()

    def client(self, kind: type[Client], room: str = "lobby") -> Any:
        self.port = next(self.ports)
        return super().client(kind, room)


class RedisWebSocketContractTests(TransportContract, RedisServedTestCase):
    """The contract on WebSocket over Redis."""

    kind = SocketClient


class RedisPollContractTests(TransportContract, RedisServedTestCase):
    """The contract on long poll over Redis."""

    kind = PollClient


class RedisEventsContractTests(TransportContract, RedisServedTestCase):
    """The contract on server-sent events over Redis."""

    kind = EventClient


class RedisTogetherTests(TogetherContract, RedisServedTestCase):
    """All transports share the same rooms over Redis."""


class NodesWebSocketContractTests(TransportContract, RedisServedTestCase):
    """The contract on WebSocket, with clients on two nodes."""

    kind = SocketClient
    nodes = 2


class NodesPollContractTests(TransportContract, RedisServedTestCase):
    """The contract on long poll, with clients on two nodes."""

    kind = PollClient
    nodes = 2


class NodesEventsContractTests(TransportContract, RedisServedTestCase):
    """The contract on server-sent events, with clients on two nodes."""

    kind = EventClient
    nodes = 2


class NodesTogetherTests(TogetherContract, RedisServedTestCase):
    """All transports share the same rooms, with clients on two nodes."""

    nodes = 2
