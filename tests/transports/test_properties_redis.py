"""Properties on three nodes that share a Redis server."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from realtime_chat.values.model import ANONYMOUS, Draft, properties_log
from tests.clients import Client, EventClient, PollClient, SocketClient
from tests.transports.test_contract import KINDS
from tests.transports.test_contract_redis import RedisServedTestCase


class ThreeNodesTests(RedisServedTestCase):
    """Whatever node a reader and a writer use, all readers end with the last value of each name."""

    size = 3

    async def readers(self) -> list[Client]:
        """A reader of each transport on each node."""
        return [await self.started(kind, properties=1) for kind in KINDS for _ in self.nodes]

    async def hold(self, readers: list[Client], values: dict[str, Any]) -> None:
        """Wait till all hold exactly these properties."""
        await gatherResults([reader.until(lambda one=reader: one.properties.values == values) for reader in readers])

    async def set(self, name: str, data: bytes, node: int = 0) -> None:
        """Set a property by way of a node."""
        await self.nodes[node].hub.publish(Draft(properties_log("lobby"), name, data, ANONYMOUS))

    async def test_all_hold_the_same(self) -> None:
        """Writers on all nodes set and remove the same names; the readers hold what Redis holds, also late ones."""
        readers = await self.readers()
        writers = [await self.started(SocketClient) for _ in self.nodes]

        async def write(number: int) -> None:
            writer = writers[number]
            for turn in range(60):
                data = {"data": [number, turn]} if turn % 7 else {}
                await writer.tell(type="set", room="lobby", name=f"n{turn % 5}", **data)

        await gatherResults([Deferred.fromCoroutine(write(number)) for number in range(3)])
        page = await self.store.read_after(properties_log("lobby"), 0, 99)
        (last,) = [await self.started(SocketClient, properties=1)]
        await self.hold([*readers, last], last.properties.values)
        self.assertEqual({message.event for message in page.messages}, set(last.properties.values))
        offsets = {reader.properties.position for reader in readers}
        self.assertEqual({last.properties.position}, offsets)

    async def test_announcements_lost(self) -> None:
        """A node that heard nothing for a while reads what was set and removed meanwhile."""
        readers = await self.readers()
        await self.set("gone", b"1")
        await self.set("kept", b"1")
        await self.hold(readers, {"gone": 1, "kept": 1})
        self.nodes[1].broker.links[0].abort("a test")
        await self.set("gone", b"")
        await self.set("new", b"2", 2)
        await self.hold(readers, {"kept": 1, "new": 2})
        await self.set("live", b"3", 1)
        await self.hold(readers, {"kept": 1, "new": 2, "live": 3})

    async def test_new_epoch(self) -> None:
        """When Redis has lost everything, the readers hold what is set since, and nothing from before."""
        readers = await self.readers()
        await self.set("old", b"1")
        await self.hold(readers, {"old": 1})
        self.server.command("FLUSHALL")
        while True:
            reply = await readers[0].tell(type="set", room="lobby", name="new", data=2)
            if reply["type"] == "set":
                break
        await self.hold(readers, {"new": 2})

    async def test_from_node_to_node(self) -> None:
        """A reader goes on at another node from where it was."""
        reader = await self.started(SocketClient, properties=1)
        for name in ("a", "b", "c"):
            await self.set(name, b"1")
        await reader.until(lambda: len(reader.properties.values) == 3)
        await self.started(EventClient, properties=1)
        await self.set("a", b"")
        await self.set("b", b"2")
        for kind in (SocketClient, EventClient, PollClient, SocketClient):
            other = self.client(kind)
            other.properties.values = dict(reader.properties.values)
            other.properties.position = reader.properties.position
            await other.start(properties=reader.properties.position)
            await other.until(lambda other=other: other.properties.values == {"c": 1, "b": 2})
