"""Nodes in this process that share a real Redis, and clients who use any of them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from realtime_chat.broker.redis import RedisBroker
from realtime_chat.broker.redis_presence import RedisPresence
from realtime_chat.composition import make_service
from realtime_chat.redis.address import parse_address
from realtime_chat.redis.names import RedisNames
from realtime_chat.service import Configuration
from realtime_chat.store.redis.store import RedisStore
from realtime_chat.store.retention import Retention
from realtime_chat.transports.fast.choice import FAST, SocketIO
from realtime_chat.values.errors import StoreError
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import ANONYMOUS, Draft
from tests.clients import PollClient
from tests.deadlines import DEADLINE, TEST_TIMEOUT
from tests.redis_server import RedisServer


class RedisNode:
    """A daemon in this process.

    :param node_timeout: seconds after which the others know that it has died.
    :param held: seconds for which they hold its clients when it has stopped.
    :param history: messages that are kept a room.
    :param wall: seconds since 1970.
    :param io: how bytes get to sockets and come from them.
    """

    def __init__(
        self,
        server: RedisServer,
        *,
        node_timeout: float = 30.0,
        held: float = 5.0,
        prefix: str = "realtime",
        database: int = 0,
        history: int = 1000,
        wall: Callable[[], float] = time.time,
        io: SocketIO = FAST,
        **limits: Any,
    ) -> None:
        address = parse_address(server.url_of(database))
        self.names = RedisNames(prefix, database)
        self.name = os.urandom(8).hex()
        self.store = RedisStore(
            reactor, address, self.names, Retention(history), 65536, wall, os.urandom, random.random, node=self.name
        )
        appending, reading = self.store.links
        self.presence = RedisPresence(
            reactor, self.names, self.name, reading, os.urandom, node_timeout=node_timeout, held=held
        )
        self.broker = RedisBroker(
            reactor, address, self.names, self.name, random.random, appending, self.presence, probe=0.5
        )
        configuration = Configuration(("tcp:0:interface=127.0.0.1",), limits=Limits(history=history, **limits))
        self.started: Deferred[None] = Deferred()
        self.service = make_service(
            reactor,
            self.store,
            self.broker,
            configuration,
            wall,
            os.urandom,
            self._give_up,
            lambda: self.started.callback(None),
            io=io,
            node=self.name,
        )
        self.hub = self.service.hub

    def _give_up(self) -> None:
        self.started.errback(AssertionError("the node could not start"))

    @property
    def port(self) -> int:
        return self.service.ports()[0]

    @property
    def members(self) -> list[str]:
        """The names of those in the lobby, as this node knows them."""
        membership = self.hub.presence.memberships.get("lobby")
        members = () if membership is None else membership.members.values()
        return sorted(member.client.user.name for member in members)

    def start(self) -> Deferred[None]:
        """Start it."""
        self.service.startService()
        return self.started

    async def stop(self) -> None:
        """Stop it in order."""
        if self.service.running:
            await self.service.stopService()

    async def die(self) -> None:
        """Let it tell nobody anything any more, as if its process had been killed."""
        for link in (*self.broker.links, *self.store.links):
            await link.stop()
        await self.stop()


class NodesTestCase(TestCase):
    """Tests of several nodes on one redis-server, which is theirs alone."""

    timeout = TEST_TIMEOUT
    options: dict[str, Any] = {}

    async def setUp(self) -> None:
        self.server = RedisServer(self.mktemp())
        self.server.start()
        self.addCleanup(self.server.kill)
        self.nodes: list[RedisNode] = []
        self.clients: list[Any] = []
        self.addCleanup(self._stop)
        for _ in range(2):
            await self.node()

    async def _stop(self) -> None:
        for client in self.clients:
            await client.stop()
        for node in self.nodes:
            await node.stop()

    async def node(self, **options: Any) -> RedisNode:
        """One node more."""
        node = RedisNode(self.server, **{**self.options, **options})
        self.nodes.append(node)
        await node.start()
        return node

    async def client(self, kind: Any, node: RedisNode, name: str, client: str | None = None) -> Any:
        """A client that has joined the lobby by way of a node."""
        made = kind(reactor, node.port)
        made.client = client
        self.clients.append(made)
        await made.start(name=name)
        return made

    async def write(self) -> None:
        """Let the lobby have a message; Redis holds who is there only for a room that has one."""
        while True:
            try:
                await self.nodes[0].hub.publish(Draft("lobby", "message", b"1", ANONYMOUS))
                return
            except StoreError:
                await deferLater(reactor, 0.1, lambda: None)  # type: ignore[arg-type]

    async def until(self, condition: Callable[[], Any], patience: float = DEADLINE) -> None:
        """Wait for a condition, with a deadline."""
        deadline = time.monotonic() + patience
        while not condition():
            self.assertLess(time.monotonic(), deadline, f"not in time; {[node.members for node in self.nodes]}")
            await deferLater(reactor, 0.02, lambda: None)  # type: ignore[arg-type]

    async def agree(self, *names: str, nodes: Sequence[RedisNode] | None = None) -> None:
        """Wait till nodes have exactly these members in the lobby."""
        await self.until(
            lambda: all(node.members == sorted(names) for node in (self.nodes if nodes is None else nodes))
        )


class RovingPollClient(PollClient):
    """A reader by long poll, each of whose polls goes to another node."""

    def rove(self, nodes: Sequence[RedisNode]) -> None:
        """Go on with these nodes, one after the other."""
        self._ports = cycle([node.port for node in nodes])

    async def _poll(self, query: dict[str, Any]) -> None:
        if hasattr(self, "_ports"):
            self.port = next(self._ports)
        await super()._poll(query)
