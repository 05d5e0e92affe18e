"""Tests for :mod:`realtime_chat.transports.fast.epoll_reader`, over real sockets."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from realtime_chat.transports.fast import epoll_reader
from realtime_chat.transports.fast.epoll_reader import EpollReader, accept_few
from tests.clients import Watched
from tests.deadlines import TEST_TIMEOUT


class Peer(Watched, Protocol):
    """One end of a connection, which keeps what comes."""

    reactor = reactor
    lost: Any = None

    def __init__(self, when_made: Callable[[Peer], None] = lambda peer: None) -> None:
        super().__init__()
        self.data = b""
        self.on_data: Callable[[], object] = lambda: None
        self.on_lost: Callable[[], object] = lambda: None
        self._when_made = when_made

    def connectionMade(self) -> None:
        self._when_made(self)

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self.on_data()
        self.notice()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost = reason
        self.notice()
        self.on_lost()


class BadProducer:
    """Can't be stopped."""

    stopped = 0

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        self.stopped += 1
        raise ZeroDivisionError


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Peer):
    """Counts how often it is told that nothing more will come."""

    ends = 0

    def readConnectionLost(self) -> None:  # noqa: N802
        self.ends += 1
        self.notice()

    def writeConnectionLost(self) -> None:  # noqa: N802
        pass


class EpollReaderTests(TestCase, Watched):
    """Reading from many sockets."""

    timeout = TEST_TIMEOUT
    reactor = reactor
    paired = 0

    async def setUp(self) -> None:
        Watched.__init__(self)
        self.reader = EpollReader(reactor)
        self.addCleanup(self.reader.close)
        self.accepted: list[Peer] = []
        factory = Factory.forProtocol(lambda: Peer(self.accept))
        self.port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(factory)
        self.addCleanup(self.port.stopListening)

    def accept(self, peer: Peer) -> None:
        self.accepted.append(peer)
        self.reader.adopt(peer.transport)
        self.notice()

    async def pair(self) -> tuple[Peer, Peer]:
        """A client, and our end of its connection, from which something was read already."""
        endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{self.port.getHost().port}")
        client: Peer = await endpoint.connect(Factory.forProtocol(Peer))
        client.transport.write(b".")
        await self.until(lambda: len(self.accepted) > self.paired)
        ours = self.accepted[self.paired]
        self.paired += 1
        await ours.until(lambda: ours.data)
        self.addCleanup(self.part, client, ours)
        return client, ours

    async def part(self, *peers: Peer) -> None:
        for peer in peers:
            if peer.lost is None:
                peer.transport.abortConnection()
                await peer.until(lambda peer=peer: peer.lost)

    async def test_reads(self) -> None:
        """The protocol gets what is received, and the reactor doesn't read from the connection."""
        client, ours = await self.pair()
        client.transport.write(b"hello")
        await ours.until(lambda: ours.data == b".hello")
        self.assertNotIn(ours.transport, reactor.getReaders())
        self.assertIn(self.reader, reactor.getReaders())

    async def test_answers(self) -> None:
        """Writing, and waiting to write, is the reactor's as before."""
        client, ours = await self.pair()
        ours.transport.write(b"x" * 3_000_000)
        await client.until(lambda: len(client.data) == 3_000_000)

    async def test_pause(self) -> None:
        """Of a paused connection nothing is read, and all that it sent when it goes on."""
        client, ours = await self.pair()
        other, fence = await self.pair()
        ours.transport.pauseProducing()
        client.transport.write(b"later")
        other.transport.write(b"now")
        await fence.until(lambda: fence.data == b".now")
        self.assertEqual(b".", ours.data)
        ours.transport.resumeProducing()
        await ours.until(lambda: ours.data == b".later")

    async def test_pausing_each_other(self) -> None:
        """A connection that is paused while others are read isn't read in that turn either."""
        pairs = [await self.pair() for _ in range(3)]
        ends = [ours for _, ours in pairs]

        def pause_others(reader: Peer) -> None:
            for end in ends:
                if end is not reader:
                    end.transport.pauseProducing()

        for end in ends:
            end.on_data = lambda end=end: pause_others(end)
        for client, _ in pairs:
            client.transport.write(b"x")
        other, fence = await self.pair()
        other.transport.write(b"!")
        await fence.until(lambda: fence.data == b".!")
        self.assertEqual([b".", b".", b".x"], sorted(end.data for end in ends))

    async def test_end(self) -> None:
        """A connection that is closed by its client is lost cleanly, and forgotten."""
        client, ours = await self.pair()
        client.transport.loseConnection()
        await ours.until(lambda: ours.lost)
        self.assertIsInstance(ours.lost.value, ConnectionDone)
        self.assertEqual({}, self.reader._transports)

    async def test_reset(self) -> None:
        """A connection that breaks is lost."""
        client, ours = await self.pair()
        client.transport.abortConnection()
        await ours.until(lambda: ours.lost)
        self.assertIsInstance(ours.lost.value, ConnectionLost)

    async def test_closing(self) -> None:
        """Our own end can be closed as ever."""
        client, ours = await self.pair()
        ours.transport.loseConnection()
        await client.until(lambda: client.lost)
        await ours.until(lambda: ours.lost)
        self.assertEqual({}, self.reader._transports)

    async def test_a_bad_one(self) -> None:
        """A protocol that raises is logged and closed; the others go on."""
        client, ours = await self.pair()
        other, good = await self.pair()
        ours.on_data = lambda: 1 / 0
        client.transport.write(b"x")
        await ours.until(lambda: ours.lost)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        other.transport.write(b"y")
        await good.until(lambda: good.data == b".y")

    async def test_bad_losers(self) -> None:
        """A protocol that raises when its connection is lost disturbs no other."""
        other, good = await self.pair()

        def end(client: Peer) -> None:
            client.transport.loseConnection()

        def break_off(client: Peer) -> None:
            client.transport.abortConnection()

        def confuse(client: Peer) -> None:
            client.transport.write(b"x")

        for lose in (end, break_off, confuse):
            client, ours = await self.pair()
            ours.on_data = ours.on_lost = lambda: 1 / 0
            lose(client)
            await ours.until(lambda ours=ours: ours.lost)
            self.assertLessEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        other.transport.write(b"y")
        await good.until(lambda: good.data == b".y")

    async def test_bad_producer(self) -> None:
        """Of a connection whose producer raises when it is stopped, nothing is read again and again."""
        other, good = await self.pair()
        client, ours = await self.pair()
        producer = BadProducer()
        ours.transport.registerProducer(producer, True)
        client.transport.loseConnection()
        await client.until(lambda: client.lost)
        for _ in range(2):
            await self.fence(other, good)
        self.assertIn(producer.stopped, (1, 2))
        self.assertEqual(producer.stopped, len(self.flushLoggedErrors(ZeroDivisionError)))
        ours.transport.producer = None
        ours.transport.connectionLost(Failure(ConnectionDone()))

    async def fence(self, client: Peer, ours: Peer) -> None:
        """Let the reactor turn several times, in each of which something is read."""
        for _ in range(5):
            size = len(ours.data)
            client.transport.write(b"!")
            await ours.until(lambda size=size: len(ours.data) > size)

    async def test_half_closed(self) -> None:
        """A protocol that can go on when its client has said all is told so once."""
        other, good = await self.pair()
        client, ours = await self.pair()
        half: Any = HalfCloseable()
        half.makeConnection(ours.transport)
        ours.transport.protocol = half
        client.transport.loseWriteConnection()
        await half.until(lambda: half.ends)
        await self.fence(other, good)
        self.assertEqual(1, half.ends)
        half.transport.write(b"the rest")
        await client.until(lambda: client.data == b"the rest")
        ours.transport.protocol = ours

    async def test_aborted(self) -> None:
        """A connection that was aborted gives nothing more, whoever lets it read on."""
        other, good = await self.pair()
        client, ours = await self.pair()
        ours.transport.pauseProducing()
        client.transport.write(b"late")
        await self.fence(other, good)
        ours.transport.abortConnection()
        ours.transport.resumeProducing()
        await ours.until(lambda: ours.lost)
        self.assertEqual(b".", ours.data)

    async def test_bounded_turn(self) -> None:
        """When a turn's time is over, those that were not read come first in the next, each once before any again."""
        pairs = [await self.pair() for _ in range(5)]
        order: list[int] = []
        for number, (client, ours) in enumerate(pairs):
            ours.on_data = lambda number=number: order.append(number)
            client.transport.socket.send(b"x" * 40_000)
        looks = itertools.count(0, 0.6 * epoll_reader.TURN)
        self.patch(epoll_reader, "time", SimpleNamespace(monotonic=lambda: next(looks)))
        before = len(order)
        turns = []
        for _ in range(10):
            self.reader.doRead()
            turns.append(len(order) - before)
            before = len(order)
        self.assertEqual([1] * 10, turns)
        self.assertEqual([1, 1, 1, 1, 1], [order[-5:].count(number) for number in range(5)])
        for _, ours in pairs:
            await ours.until(lambda ours=ours: len(ours.data) == 40_001)

    async def test_handed_back(self) -> None:
        """When it is closed, the connections that are open go on by way of the reactor; so do those that pause."""
        client, ours = await self.pair()
        other, paused = await self.pair()
        paused.transport.pauseProducing()
        self.reader.close()
        self.assertNotIn(self.reader, reactor.getReaders())
        paused.transport.resumeProducing()
        client.transport.write(b"x")
        other.transport.write(b"y")
        await ours.until(lambda: ours.data == b".x")
        await paused.until(lambda: paused.data == b".y")
        self.assertIn(ours.transport, reactor.getReaders())

    async def test_reactor_ends(self) -> None:
        """When the reactor ends, so do the connections."""
        _, ours = await self.pair()
        self.reader.connectionLost(Failure(ConnectionLost()))
        self.assertIsInstance(ours.lost.value, ConnectionLost)

    async def test_others(self) -> None:
        """A transport that isn't known is left to the reactor, and nothing is opened for it."""
        transport = StringTransport()
        self.reader.adopt(transport)
        self.assertEqual(-1, self.reader.fileno())

    async def test_without_epoll(self) -> None:
        """On a system without epoll all is the reactor's."""
        self.patch(epoll_reader, "select", SimpleNamespace())
        self.reader = EpollReader(reactor)
        client, ours = await self.pair()
        client.transport.write(b"hello")
        await ours.until(lambda: ours.data == b".hello")
        self.assertIn(ours.transport, reactor.getReaders())


class AcceptTests(TestCase):
    """How many connections are accepted at once."""

    async def test_few(self) -> None:
        """However many come, a turn of the reactor accepts a few; all are accepted in the end."""
        accepted: list[float] = []

        class Counted(Factory):
            def buildProtocol(self, addr: Any) -> Protocol:
                accepted.append(turns[0])
                return Protocol()

        turns = [0.0]

        def count() -> None:
            turns[0] += 1
            if len(accepted) < 60:
                reactor.callLater(0, count)

        port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1:backlog=100").listen(Counted())
        accept_few(port)
        self.addCleanup(port.stopListening)
        sockets = [socket.create_connection(("127.0.0.1", port.getHost().port)) for _ in range(60)]
        for one in sockets:
            self.addCleanup(one.close)
        reactor.callLater(0, count)
        while len(accepted) < 60:
            await deferLater(reactor, 0)
        self.assertLessEqual(max(accepted.count(turn) for turn in set(accepted)), 16)
        for reader in reactor.getReaders():
            if isinstance(getattr(reader, "protocol", None), Protocol) and reader.getHost() == port.getHost():
                reader.abortConnection()
        await deferLater(reactor, 0)
