"""Properties of a real daemon: slow readers, and a daemon that is killed."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread

from tests.clients import Client, EventClient, PollClient, SocketClient
from tests.deadlines import DEADLINE
from tests.functional.daemon import NO_LIMITS, SOAK, Daemon, DaemonTestCase
from tests.functional.test_growth import MIB, memory
from tests.functional.test_restart import GONE, pause

CHANGES_A_SECOND = 200
SECONDS = 30 if SOAK else 4
NAMES = 25
KINDS = (SocketClient, EventClient, PollClient)


class PropertiesCase(DaemonTestCase):
    """A daemon, and clients of its lobby."""

    def setUp(self) -> None:
        self.clients: list[Any] = []

    async def started(self, *options: str, prefix: tuple[str, ...] = ()) -> Daemon:
        """Start a daemon, which ends after its clients."""
        daemon = await super().started(*options, prefix=prefix)
        self.addCleanup(self.stop_clients)
        return daemon

    async def stop_clients(self) -> None:
        """Stop the clients before the daemon ends."""
        for client in self.clients:
            await client.stop()

    def client(self, kind: type[Client], daemon: Daemon) -> Any:
        self.clients.append(kind(reactor, daemon.port))
        return self.clients[-1]


class SlowReaderTests(PropertiesCase):
    """A room whose properties change 200 times a second, and readers that take a kilobyte a second."""

    async def test_slow_readers(self) -> None:
        """They cost the daemon no memory to speak of, and hold the last value of each name as soon as they read on."""
        daemon = await self.started(*NO_LIMITS)
        readers = [self.client(kind, daemon) for kind in (SocketClient, EventClient) for _ in range(10)]
        for reader in readers:
            await reader.start(properties=1)
        before = memory(daemon.pid)
        slow = LoopingCall(lambda: [read_a_little(transport_of(reader), 256) for reader in readers])
        slow.start(0.25)
        expected = await self.change(daemon)
        slow.stop()
        self.assertLess(memory(daemon.pid) - before, 12 * MIB)
        self.assertTrue(all(reader.properties.values != expected for reader in readers))
        for reader in readers:
            read_on(transport_of(reader))
        await gatherResults([reader.until(lambda one=reader: one.properties.values == expected) for reader in readers])
        for reader in readers:
            self.assertLess(len(reader.of_type("property")), CHANGES_A_SECOND * SECONDS / 2)

    async def change(self, daemon: Daemon) -> dict[str, Any]:
        """Set properties for some seconds; what they are then."""
        writer = self.client(SocketClient, daemon)
        await writer.connect()
        expected = {}
        for number in range(CHANGES_A_SECOND * SECONDS):
            name, data = f"n{number % NAMES}", [number, "x" * 15_000]
            expected[name] = data
            writer.send(type="set", id=number, room="lobby", name=name, data=data)
            await deferLater(reactor, 1 / CHANGES_A_SECOND)
        await writer.until(lambda: CHANGES_A_SECOND * SECONDS - 1 in writer.replies)
        return expected


def transport_of(reader: Any) -> Any:
    """The transport of a client's connection."""
    return reader.protocol.transport if isinstance(reader, SocketClient) else reader.stream.transport


def read_a_little(transport: Any, size: int) -> None:
    """Read at most so many bytes, once."""
    transport.bufferSize = size
    transport.resumeProducing()
    transport.doRead()
    transport.pauseProducing()


def read_on(transport: Any) -> None:
    """Read whatever comes."""
    transport.bufferSize = 2**16
    transport.resumeProducing()


class KilledTests(PropertiesCase):
    """A daemon that is killed while properties change."""

    async def test_killed(self) -> None:
        """What was acknowledged is there afterwards; readers go on from their positions, and hold what the daemon
        holds."""
        daemon = await self.started(*NO_LIMITS)
        readers = [self.client(kind, daemon) for kind in KINDS]
        for reader in readers:
            await reader.start(properties=1)
        acknowledged: dict[str, int] = {}
        for life in range(3):
            writer = self.client(SocketClient, daemon)
            await writer.connect()
            writing = Deferred.fromCoroutine(self.write(writer, life, acknowledged))
            await deferLater(reactor, 0.3)
            daemon.kill()
            await writing
            await deferToThread(daemon.start)
            readers = [await self.again(reader, daemon) for reader in readers]
        stored = {one["name"]: one["data"] for one in daemon.get("rooms/lobby/properties")["values"]}
        for name, number in acknowledged.items():
            self.assertGreaterEqual(stored[name], number)
        await gatherResults([reader.until(lambda one=reader: one.properties.values == stored) for reader in readers])
        self.assertEqual(len(readers), 3)

    async def write(self, writer: Any, life: int, acknowledged: dict[str, int]) -> None:
        """Set properties until the daemon is gone."""
        number = life * 100_000
        while writer.open:
            number += 1
            name = f"n{number % 5}"
            try:
                writer.send(type="set", id=number, room="lobby", name=name, data=number)
            except Exception:
                return
            answered = writer.until(lambda number=number: number in writer.replies or not writer.open, DEADLINE)
            await answered
            if writer.replies.get(number, {}).get("type") == "set":
                acknowledged[name] = number

    async def again(self, reader: Any, daemon: Daemon) -> Any:
        """The same reader with a new connection, from where it was."""
        await reader.stop()
        again = self.client(type(reader), daemon)
        again.client = reader.client if isinstance(reader, PollClient) else None
        again.position = reader.position if isinstance(reader, PollClient) else None
        again.properties.values = reader.properties.values
        again.properties.position = position = reader.properties.position
        while True:
            try:
                await again.start(properties=position or 1)
                return again
            except GONE:
                await pause()
