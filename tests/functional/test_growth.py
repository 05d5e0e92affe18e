"""Nothing grows with what has passed: not memory, not the database, not what connections leave behind.

With ``SOAK=1`` in the environment a million messages pass instead of forty thousand, 2,000 connect instead of 1,000, a
thousand streams read instead of 200, and 10,000 rooms are joined instead of 2,000.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.request
from pathlib import Path
from typing import Any, ClassVar

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from tests.clients import EventClient, SocketClient
from tests.deadlines import DEADLINE
from tests.functional.daemon import NO_LIMITS, SOAK, Daemon, DaemonTestCase, free_port, wait_until
from tests.transports.test_contract import ServedTestCase

MESSAGES = 1_000_000 if SOAK else 40_000
CONNECTIONS = 2000 if SOAK else 1000
STREAMS = 1000 if SOAK else 200
PASSING = 1000 if SOAK else 200
ROOMS_EACH = 1000 if SOAK else 200
HISTORY = 1000
TEXT = "x" * 100
WINDOW = 200
MIB = 1024 * 1024


class _Pipeline(WebSocketClientProtocol):
    """A connection that publishes, with so many publishes under way, and one that reads: each parses the least."""

    growth: GrowthTests

    def onOpen(self) -> None:
        self.growth.opened(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        raise NotImplementedError


class _Writer(_Pipeline):
    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if payload.startswith(b'{"type":"published"'):
            self.growth.published()
        else:
            self.growth.fail_with(payload)


class _Reader(_Pipeline):
    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.growth.received(json.loads(payload))


class GrowthTests(DaemonTestCase):
    """Much through one room."""

    _log = Logger()
    timeout = 3600 if SOAK else 300

    def setUp(self) -> None:
        self.sent = self.acknowledged = 0
        self.at = 0
        self.messages = self.told = 0
        self.wrong: list[str] = []
        self.rss: list[tuple[int, int]] = []
        self.largest = 0
        self.joined: Deferred[None] = Deferred()
        self.done: Deferred[None] = Deferred()
        self.reading: Deferred[None] = Deferred()

    async def connect(self, kind: type[_Pipeline], query: str = "") -> None:
        """Open a WebSocket."""
        factory = WebSocketClientFactory(f"ws://127.0.0.1:{self.server.port}/ws{query}", reactor=reactor)
        factory.protocol = type(kind.__name__, (kind,), {"growth": self})
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.server.port)
        protocol = await endpoint.connect(factory)
        self.addCleanup(self.close, protocol)

    def close(self, protocol: Any) -> Deferred[None]:
        """Drop a connection, and wait until it is gone."""
        protocol.transport.abortConnection()
        return deferToThread(wait_until, lambda: protocol.state == protocol.STATE_CLOSED)

    def opened(self, protocol: _Pipeline) -> None:
        """A connection is there."""
        if isinstance(protocol, _Writer):
            self.writer = protocol
            self.send(WINDOW)

    def send(self, count: int) -> None:
        """Publish some more."""
        for number in range(self.sent, min(self.sent + count, MESSAGES)):
            self.writer.sendMessage(
                b'{"type":"publish","room":"lobby","id":1,"data":["%d","%b"]}' % (number, TEXT.encode())
            )
        self.sent = min(self.sent + count, MESSAGES)

    def published(self) -> None:
        """One more is stored; now and then look at what it costs."""
        self.acknowledged += 1
        if self.acknowledged % (WINDOW // 2) == 0:
            self.send(WINDOW // 2)
        if self.acknowledged % (MESSAGES // 100) == 0:
            self.look()
        if self.acknowledged == MESSAGES:
            self.done.callback(None)

    def look(self) -> None:
        """Write down how much memory and disk is used."""
        self.rss.append((self.acknowledged, memory(self.server.pid)))
        self.largest = max(self.largest, disk(self.server))

    def received(self, event: dict[str, Any]) -> None:
        """The reader got something."""
        kind = event["type"]
        if kind not in ("message", "reset", "joined"):
            return
        offset = int(event["position"].split(":")[1])
        if kind == "message":
            if offset != self.at + 1 or event["data"][0] != str(offset - 1):
                self.wrong.append(f"{offset} after {self.at}")
            self.messages += 1
        elif kind == "reset":
            self.told += offset - self.at
        else:
            self.joined.callback(None)
        self.at = offset
        if self.at == MESSAGES:
            self.reading.callback(None)

    def fail_with(self, payload: bytes) -> None:
        """The writer got what it should not."""
        if not self.done.called:
            self.done.errback(AssertionError(payload))

    async def test_one_room(self) -> None:
        """Many messages through one room: memory is flat, the database bounded, and its reader gets all, or is told.

        Memory: after the first fifth all that is bounded has grown to its bound (the room's tail of 512 KiB, SQLite's
        page caches of 16 MB for the writer and 2 MB for the reader, 256 publishes of a connection), so that nothing but
        the allocator's slack of a few MB may come. Disk: the history and a tenth, at most 512 bytes each with their
        indexes, and a write-ahead log of 8 MiB and what is written between two looks at it, 8 MiB more.
        """
        self.server = await self.started("--history", str(HISTORY), *NO_LIMITS)
        await self.connect(_Reader, "?room=lobby")
        await self.joined  # or it would start at the last of what was written by then
        begun = time.monotonic()
        await self.connect(_Writer)
        await self.done
        seconds = time.monotonic() - begun
        await self.reading.addTimeout(60, reactor)
        self.assertEqual([], self.wrong)
        self.assertEqual(MESSAGES, self.messages + self.told)
        self.assert_bounded(seconds)

    def assert_bounded(self, seconds: float) -> None:
        """Memory and disk."""
        early = next(size for count, size in self.rss if count >= MESSAGES // 5)
        late = self.rss[-1][1]
        database = (self.server.directory / "data" / "realtime.sqlite").stat().st_size
        most = max(size for _, size in self.rss)
        self._log.info(
            f"{self.messages} messages in {seconds:.1f} s, {self.told} told as gone; "
            f"resident {early / MIB:.1f} MiB after a fifth, {most / MIB:.1f} at most, {late / MIB:.1f} at the end; "
            f"database {database / MIB:.2f} MiB, with its log {self.largest / MIB:.2f} at most"
        )
        self.assertLess(late - early, 6 * MIB, self.rss)
        self.assertLess(database, HISTORY * 1.1 * 512 + MIB)
        self.assertLess(self.largest, HISTORY * 1.1 * 512 + MIB + 16 * MIB)


def memory(pid: int) -> int:
    """Resident memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def disk(server: Daemon) -> int:
    """Bytes of a daemon's database and its write-ahead log."""
    directory = server.directory / "data"
    return sum((directory / name).stat().st_size for name in ("realtime.sqlite", "realtime.sqlite-wal"))


class ConnectionTests(DaemonTestCase):
    """Many who come and go."""

    async def test_connections(self) -> None:
        """Connections that come and go in four ways leave no descriptor, no session and hardly any memory."""
        self.metrics_port = free_port()
        listen = f"tcp:{self.metrics_port}:interface=127.0.0.1"
        self.server = await self.started("--metrics-listen", listen)
        await self.come_and_go(200)
        before, memory_before = descriptors(self.server.pid), memory(self.server.pid)
        await self.come_and_go(CONNECTIONS)
        await self.until_there_are(0)
        server = self.server
        await deferToThread(
            wait_until, lambda: descriptors(server.pid) <= before, lambda: f"{descriptors(server.pid)}, not {before}"
        )
        self.assertLess(memory(server.pid) - memory_before, 6 * MIB)
        self.assertNotIn("Traceback", server.log)

    async def come_and_go(self, count: int) -> None:
        """Connect so many times, fifty at a time, and a quarter in each way."""
        for _ in range(count // 200):
            for way in (self.close, self.drop, self.touch, self.poll):
                await way()

    async def close(self) -> None:
        """WebSockets that join, and close."""
        for client in await self.sockets():
            await client.stop()

    async def drop(self) -> None:
        """WebSockets that join, and are gone."""
        for client in await self.sockets():
            client.protocol.dropConnection(abort=True)
            await client.until(lambda client=client: not client.open)

    async def sockets(self) -> list[SocketClient]:
        """Fifty WebSockets in a room."""
        clients = [SocketClient(reactor, self.server.port) for _ in range(50)]
        await gatherResults([Deferred.fromCoroutine(client.start()) for client in clients])
        return clients

    async def touch(self) -> None:
        """Connections that say nothing."""
        for connection in await self.connections():
            connection.transport.abortConnection()

    async def poll(self) -> None:
        """Polls that wait, and whose clients go away."""
        await self.until_there_are(0)
        first = await deferToThread(self.server.get, "poll?room=lobby&last=0")
        request = (
            f"GET /poll?room=lobby&since={first['positions']['lobby']}&wait=50 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        connections = await self.connections()
        for connection in connections:
            connection.transport.write(request.encode())
        await self.until_there_are(50)
        for connection in connections:
            connection.transport.abortConnection()
        await self.until_there_are(0)

    async def connections(self) -> list[Any]:
        """Fifty connections."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.server.port)
        return list(await gatherResults([endpoint.connect(Factory.forProtocol(Protocol)) for _ in range(50)]))

    async def until_there_are(self, sessions: int) -> None:
        """Wait till the daemon counts so many sessions."""
        await deferToThread(wait_until, lambda: self.sessions() == sessions, lambda: f"{self.sessions()} sessions")

    def sessions(self) -> int:
        """WebSockets and waiting polls, as the daemon counts them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=DEADLINE) as answer:
            text = answer.read().decode()
        return sum(int(float(count)) for count in re.findall(r"^realtime_sessions{.*} (.*)$", text, re.MULTILINE))


class StreamTests(DaemonTestCase):
    """Many readers of event streams, and some that don't read."""

    async def test_streams(self) -> None:
        """One publish reaches all streams; ten that don't read while many megabytes pass cost under 1 MiB each."""
        listen = f"tcp:{free_port()}:interface=127.0.0.1"
        self.server = await self.started("--metrics-listen", listen)
        self.metrics = f"http://127.0.0.1:{listen.split(':')[1]}/metrics"
        clients = await self.streams(STREAMS)
        await clients[0].publish("to all")
        await gatherResults([client.count(1) for client in clients])
        self.assertEqual({"to all"}, {text for client in clients for text in client.data})
        await self.stall(1)  # so that all caches have their size
        before = memory(self.server.pid)
        self.assertLess(await self.stall(10), 10 * MIB)
        self.assertLess(memory(self.server.pid) - before, 10 * MIB)

    async def stall(self, count: int) -> int:
        """Some stop reading while hundreds of messages pass, and catch up; answer how much was queued at most."""
        stalled = [self.stream("busy") for _ in range(count)]
        for client in stalled:
            await client.start(last=0)
            client.pause()
        most = await self.pass_by("busy", PASSING)
        for client in stalled:
            client.resume()
        for client in stalled:
            await client.count(PASSING)
            self.assertEqual(list(range(PASSING)), [int(text[:6]) for text in client.data])
        return most

    def stream(self, room: str) -> EventClient:
        """A client for a stream."""
        client = EventClient(reactor, self.server.port, room)
        self.addCleanup(client.stop)
        return client

    async def streams(self, count: int) -> list[EventClient]:
        """So many streams of the lobby, a hundred at a time."""
        clients = [self.stream("lobby") for _ in range(count)]
        for start in range(0, count, 100):
            await gatherResults([Deferred.fromCoroutine(client.start()) for client in clients[start : start + 100]])
        return clients

    async def pass_by(self, room: str, count: int) -> int:
        """Let messages of 40 kB pass through a room; answer how much was queued in the daemon at most."""
        writer = SocketClient(reactor, self.server.port, room)
        self.addCleanup(writer.stop)
        await writer.connect()
        most = 0
        for number in range(count):
            await writer.publish(f"{number:06}" + "x" * 40_000)
            if number % 20 == 0:
                most = max(most, await deferToThread(self.queued))
        return most

    def queued(self) -> int:
        """The bytes that wait in the daemon for clients to read."""
        with urllib.request.urlopen(self.metrics, timeout=DEADLINE) as answer:
            text = answer.read().decode()
        return int(float(re.findall(r"^realtime_queued_bytes (.*)$", text, re.MULTILINE)[0]))


class RoomTests(ServedTestCase):
    """Many rooms."""

    limits: ClassVar[dict[str, Any]] = {"room_idle": 0.5}

    async def test_rooms(self) -> None:
        """Rooms that were joined and left leave nothing: no room, no reader, no session, and nothing stored."""
        before = len(self.service.hub.wheel)
        clients = [self.client(SocketClient) for _ in range(10)]
        for client in clients:
            await client.connect()
        await gatherResults([Deferred.fromCoroutine(self.visit(client, index)) for index, client in enumerate(clients)])
        self.assertEqual(10, len(self.service.hub.sessions))
        self.assertEqual(set(), {name for session in self.service.hub.sessions for name in session.subscriptions})
        await self.until(lambda: not self.service.hub.rooms)
        self.assertEqual([], list(await self.store.rooms("", 1000)))
        for client in clients:
            await client.stop()
        await self.until(lambda: not self.service.hub.sessions and len(self.service.hub.wheel) <= before)

    async def visit(self, client: SocketClient, index: int) -> None:
        """Join many rooms and leave them again, a hundred at a time."""
        for start in range(0, ROOMS_EACH, 100):
            rooms = [f"room-{index}-{number}" for number in range(start, start + 100)]
            for kind in ("join", "leave"):
                for room in rooms:
                    client.send(type=kind, room=room, id=room)
            await client.until(lambda start=start: len(client.of_type("left")) == start + 100)
        self.assertEqual(ROOMS_EACH, len(client.of_type("joined")))
