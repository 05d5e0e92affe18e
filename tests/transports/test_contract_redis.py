"""The contract of the transports over Redis, with one node, and with clients spread over two."""

from __future__ import annotations

from itertools import cycle
from typing import Any

from twisted.internet.defer import Deferred

from tests.clients import Client, EventClient, PollClient, SocketClient
from tests.redis_nodes import RedisNode
from tests.redis_server import RedisServer, allow_slow_redis
from tests.transports.test_contract import FullContract, ServedTestCase, TogetherContract, TransportContract


class RedisServedTestCase(ServedTestCase):
    """Tests against nodes in this process that share a Redis server; clients go to one after the other.

    :cvar size: how many nodes there are.
    """

    size = 1
    repeats = True

    async def setUp(self) -> None:
        allow_slow_redis(self)
        self.clients: list[Any] = []
        self.nodes: list[RedisNode] = []
        self.server = RedisServer(self.mktemp()).start()
        self.addCleanup(self.server.kill)
        self.addCleanup(self._stop_all)
        await self.serve_all()

    async def serve_all(self) -> None:
        """Start the nodes."""
        self.nodes = [
            RedisNode(self.server, history=self.history, wall=lambda: self.wall(), io=self.io, **self.limits)
            for _ in range(self.size)
        ]
        for node in self.nodes:
            await node.start()
        self.service, self.store = self.nodes[0].service, self.nodes[0].store
        self._ports = cycle([node.port for node in self.nodes])

    async def serve_anew(self) -> None:
        """Stop the nodes, and start others with an empty store."""
        for node in self.nodes:
            await node.stop()
        self.server.command("FLUSHALL")
        await self.serve_all()

    async def _stop_all(self) -> None:
        for client in self.clients:
            await client.stop()
        for node in self.nodes:
            await node.stop()

    def client(self, kind: type[Client], room: str = "lobby") -> Any:
        self.port = next(self._ports)
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


class RedisFullTests(FullContract, RedisServedTestCase):
    """A node over Redis, which looks up a room to know who is in it."""

    statuses = {"members": 429, "signal": 429}


class NodesWebSocketContractTests(TransportContract, RedisServedTestCase):
    """The contract on WebSocket, with clients on two nodes."""

    kind = SocketClient
    size = 2


class NodesPollContractTests(TransportContract, RedisServedTestCase):
    """The contract on long poll, with clients on two nodes."""

    kind = PollClient
    size = 2


class NodesEventsContractTests(TransportContract, RedisServedTestCase):
    """The contract on server-sent events, with clients on two nodes."""

    kind = EventClient
    size = 2


class NodesTogetherTests(TogetherContract, RedisServedTestCase):
    """All transports share the same rooms, with clients on two nodes."""

    size = 2


class RelayTests(RedisServedTestCase):
    """What other programs publish, with clients on two nodes."""

    size = 2

    async def test_relayed(self) -> None:
        """It reaches everybody in the room on each transport and node once, by nobody, and stands in no log."""
        readers = [await self.started(kind) for kind in (SocketClient, EventClient, PollClient) for _ in self.nodes]
        elsewhere = await self.started(SocketClient, "elsewhere")
        for reader in readers:
            await reader.until(lambda reader=reader: reader.view.count == len(readers))
        for number in range(10):
            self.server.command("PUBLISH", "realtime:relay:lobby", f'{{"number":\n {number}}}')
            self.server.command("PUBLISH", "realtime:relay:lobby", "no JSON")
            for reader in readers:
                await reader.until(lambda reader=reader, number=number: len(reader.of_type("signal")) > number)
        await readers[0].publish("end")
        for reader in readers:
            await reader.count(1)
            signals = reader.of_type("signal")
            self.assertEqual([{"number": number} for number in range(10)], [signal["data"] for signal in signals])
            self.assertEqual({("relay", None)}, {(signal["event"], signal["from"]) for signal in signals})
        self.assertEqual([], elsewhere.of_type("signal"))
        self.assertEqual(1, (await self.store.read_before("lobby", None, 9)).top)
        self.assertEqual([10, 10], [node.hub.counters.relays_refused for node in self.nodes])

    async def test_without_members(self) -> None:
        """It reaches a reader that is nobody, in a room without members."""
        poller = self.client(PollClient)
        first = await poller.get("poll", room="lobby", last=0)
        await self.until(lambda: not any(node.hub.presence.memberships for node in self.nodes))
        poll = Deferred.fromCoroutine(
            self.client(PollClient).get("poll", room="lobby", since=first["positions"]["lobby"])
        )
        await self.until(lambda: any(node.hub.sessions for node in self.nodes))
        (node,) = (node for node in self.nodes if node.hub.sessions)
        await self.until(lambda: "lobby" in node.hub.rooms and node.hub.rooms["lobby"].live_count())
        self.server.command("PUBLISH", "realtime:relay:lobby", "7")
        (signal,) = (await poll)["events"]
        self.assertEqual(("signal", 7, None), (signal["type"], signal["data"], signal["from"]))
