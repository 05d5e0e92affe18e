"""Tests for :mod:`realtime_chat.transports.fast.direct_send`, against a socket that takes as much as it is told to."""

from __future__ import annotations

import errno
import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase

from realtime_chat.transports.fast import direct_send
from realtime_chat.transports.fast.direct_send import (
    FAILED,
    FrameFanout,
    direct_send_of,
    finish_frame,
    queued,
    try_send,
    unsent,
    write_now,
)
from realtime_chat.transports.frames import FrameBatch
from tests.deadlines import TEST_TIMEOUT
from tests.soak import examples

send_to_all = FrameFanout().send


class FakeSocket:
    """Takes ``space`` bytes, and then none.

    :ivar error: raised where bytes are sent.
    """

    def __init__(self, space: int) -> None:
        self.space = space
        self.taken = b""
        self.error: OSError | None = None

    def send(self, data: bytes) -> int:
        if self.error is not None:
            raise self.error
        if not self.space:
            raise BlockingIOError
        taken = data[: self.space]
        self.space -= len(taken)
        self.taken += taken
        return len(taken)


class FakeConnection:
    """As much of a ``tcp.Server`` as is used; what is written to it is queued."""

    def __init__(self, space: int = 1 << 30) -> None:
        self.socket = FakeSocket(space)
        self.dataBuffer = b""
        self.offset = 0
        self._tempDataBuffer: list[bytes] = []
        self._tempDataLen = 0
        self.disconnecting = self.disconnected = False
        self.asked = False

    def write(self, data: bytes) -> None:
        self._tempDataBuffer.append(data)
        self._tempDataLen += len(data)

    def startWriting(self) -> None:  # noqa: N802
        self.asked = True

    def drain(self, space: int) -> None:
        """The other side has read: what is queued goes first, and then there is space for more."""
        waiting = b"".join(self._tempDataBuffer)
        self._tempDataBuffer, self._tempDataLen = [], 0
        self.socket.taken += waiting
        self.socket.space = space

    @property
    def wire(self) -> bytes:
        """All bytes that the other side gets in the end."""
        return self.socket.taken + b"".join(self._tempDataBuffer)


class Reader:
    """A reader on a fake connection; it is its own transport."""

    def __init__(self, space: int = 1 << 30) -> None:
        self.connection = FakeConnection(space)
        self.transport = self

    def send_rest(self, frames: FrameBatch, sent: int) -> int:
        return finish_frame(self.connection, frames, max(0, sent))


class OrdinaryReader:
    """A reader that is only reached by its transport, which takes all or nothing."""

    def __init__(self, takes: bool | Exception = True, full: bool = False) -> None:
        self.takes = takes
        self.write_paused = full or takes is False
        self.transport = self
        self.wire = b""

    def send_batch(self, frames: FrameBatch) -> int:
        if isinstance(self.takes, Exception):
            raise self.takes
        self.wire += frames.data if self.takes else b""
        return frames.count if self.takes else 0


def send(reader: Any, *texts: bytes) -> int:
    """Send frames to one reader; give how many it took."""
    send_directly = reader.connection.socket.send if isinstance(reader, Reader) else None
    full = send_to_all(FrameBatch(list(texts)), {reader: send_directly})
    return full[0][1] if full else len(texts)


class FramesTests(SynchronousTestCase):
    """Joined frames."""

    @given(st.lists(st.binary(max_size=9), max_size=9))
    def test_ends(self, texts: list[bytes]) -> None:
        """They know where each of them ends."""
        frames = FrameBatch(texts)
        starts = [0, *frames.ends[:-1]]
        self.assertEqual(len(texts), frames.count)
        self.assertEqual(texts, [frames.data[start:end] for start, end in zip(starts, frames.ends, strict=False)])


class SendTests(SynchronousTestCase):
    """Sending frames without the transport."""

    def test_all(self) -> None:
        """A socket with space takes everything at once."""
        reader = Reader()
        self.assertEqual([], send_to_all(FrameBatch([b"aa", b"b"]), {reader: reader.connection.socket.send}))
        self.assertEqual(
            (b"aab", False, 0), (reader.connection.wire, reader.connection.asked, queued(reader.connection))
        )

    def test_begun_frame(self) -> None:
        """A frame that was begun is finished, and what follows is not sent."""
        reader = Reader(3)
        self.assertEqual(2, send(reader, b"aa", b"bbb", b"ccc"))
        self.assertEqual((b"aab", b"aabbb"), (reader.connection.socket.taken, reader.connection.wire))

    def test_last_frame(self) -> None:
        """A reader that takes all but the end of the last frame has taken all, and its writing is paused."""
        reader = Reader(4)
        full = send_to_all(FrameBatch([b"aa", b"bbb"]), {reader: reader.connection.socket.send})
        self.assertEqual(([(reader, 2)], b"aabbb"), (full, reader.connection.wire))

    def test_boundary(self) -> None:
        """Where the socket is full right after a frame, nothing is queued, and we are told when it takes more."""
        reader = Reader(2)
        self.assertEqual(1, send(reader, b"aa", b"bbb"))
        self.assertEqual((b"aa", True, 0), (reader.connection.wire, reader.connection.asked, queued(reader.connection)))

    def test_full(self) -> None:
        """A socket that takes nothing gets nothing, and we are told when it takes more."""
        reader = Reader(0)
        self.assertEqual(0, send(reader, b"aa", b"bbb"))
        self.assertEqual((b"", True), (reader.connection.wire, reader.connection.asked))

    def test_broken(self) -> None:
        """A send that fails, for whatever reason, took nothing, and nobody but its reader is left behind."""
        for number in errno.errorcode:
            broken, well = Reader(), Reader()
            broken.connection.socket.error = OSError(number, os.strerror(number))
            sends = {reader: reader.connection.socket.send for reader in (broken, well)}
            self.assertEqual([(broken, 0)], send_to_all(FrameBatch([b"aa", b"b"]), sends), number)
            self.assertEqual((b"", b"aab"), (broken.connection.wire, well.connection.wire), number)

    def test_try_send(self) -> None:
        """A socket that is full took nothing; any other failure is told apart from that."""
        connection = FakeConnection(0)
        self.assertEqual(0, try_send(connection.socket.send, b"aa"))
        connection.socket.error = OSError(errno.ENOBUFS, "no buffers")
        self.assertEqual(FAILED, try_send(connection.socket.send, b"aa"))

    @given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=30), st.integers(0, 600))
    @settings(max_examples=examples(500))
    def test_whole_frames(self, texts: list[bytes], space: int) -> None:
        """Whatever a socket takes, whole frames go over the wire, just as many as are said."""
        reader = Reader(space)
        taken = send(reader, *texts)
        connection = reader.connection
        self.assertEqual(b"".join(texts[:taken]), connection.wire)
        self.assertTrue(space >= sum(map(len, texts)) or connection.asked or queued(connection))

    @given(
        st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=30),
        st.lists(st.tuples(st.integers(1, 9), st.integers(0, 200)), max_size=40),
    )
    @settings(max_examples=examples(500))
    def test_in_the_end(self, texts: list[bytes], steps: list[tuple[int, int]]) -> None:
        """Sent in parts to a socket that drains now and then, every frame arrives once and in order."""
        reader = Reader(0)
        sent = 0
        for count, space in [*steps, (len(texts), 1 << 30)]:
            reader.connection.drain(space)
            if sent < len(texts):
                sent += send(reader, *texts[sent : sent + count])
        self.assertEqual((len(texts), b"".join(texts)), (sent, reader.connection.wire))


class SendToAllTests(SynchronousTestCase):
    """Sending to many readers."""

    def test_different_readers(self) -> None:
        """Each reader gets what it takes. Those that are paused are returned, with how much they took."""
        readers = [Reader(), Reader(3), OrdinaryReader(), OrdinaryReader(False), Reader(0), OrdinaryReader(full=True)]
        sends = {reader: reader.connection.socket.send if isinstance(reader, Reader) else None for reader in readers}
        full = send_to_all(FrameBatch([b"aa", b"bb", b"cc"]), sends)
        self.assertCountEqual([(readers[1], 2), (readers[3], 0), (readers[4], 0), (readers[5], 3)], full)
        self.assertEqual((b"aabbcc", b"aabbcc"), (readers[0].connection.wire, readers[2].wire))  # type: ignore[union-attr]

    def test_a_bad_one(self) -> None:
        """A reader that raises is logged, and the others get theirs."""
        bad, good = OrdinaryReader(ValueError("broken")), OrdinaryReader()
        self.assertEqual([], send_to_all(FrameBatch([b"a"]), {bad: None, good: None}))
        self.assertEqual((b"a", 1), (good.wire, len(self.flushLoggedErrors(ValueError))))

    def test_first(self) -> None:
        """A first reader is sent to by its transport, once, and keeps its ``direct_send`` and its place."""
        order: list[bytes] = []

        class Early(Reader):
            write_paused = False

            def send_batch(self, frames: FrameBatch) -> int:
                order.append(b"first")
                return frames.count

        other, early = Reader(), Early()
        other.connection.socket.send = lambda data: order.append(data) or len(data)  # type: ignore[method-assign]
        readers = {reader: reader.connection.socket.send for reader in (other, early)}
        sends = readers.copy()
        self.assertEqual([], send_to_all(FrameBatch([b"a"]), readers, [early]))
        self.assertEqual(([b"first", b"a"], b""), (order, early.connection.wire))
        self.assertEqual(list(sends.items()), list(readers.items()))

    def test_first_and_full(self) -> None:
        """A reader whose writing is paused, and which leaves, is returned with its count, and doesn't come back."""
        readers: dict[Any, Any] = {}

        class Leaver(OrdinaryReader):
            def send_batch(self, frames: FrameBatch) -> int:
                self.write_paused = True
                del readers[self]
                return 1

        early = Leaver()
        readers[early] = None
        self.assertEqual([(early, 1)], send_to_all(FrameBatch([b"a", b"b"]), readers, [early]))
        self.assertEqual({}, readers)

    def test_first_and_a_bad_one(self) -> None:
        """After a failure of another reader, a first reader is sent to in the next turn, too."""

        class Bad(Reader):
            def send_rest(self, frames: FrameBatch, sent: int) -> int:
                raise ZeroDivisionError

        class Early(Reader):
            write_paused = False

            def send_batch(self, frames: FrameBatch) -> int:
                return frames.count

        early, bad = Early(), Bad(0)
        readers = {reader: reader.connection.socket.send for reader in (early, bad)}
        self.assertRaises(ZeroDivisionError, send_to_all, FrameBatch([b"a"]), readers, [early])
        del readers[bad]
        send_to_all(FrameBatch([b"b"]), readers)
        self.assertEqual(b"b", early.connection.wire)

    def test_leaving_meanwhile(self) -> None:
        """A reader may leave while the others are sent to."""
        readers: dict[Any, None] = {}

        class Leaver(OrdinaryReader):
            def send_batch(self, frames: FrameBatch) -> int:
                readers.clear()
                return super().send_batch(frames)

        last = OrdinaryReader()
        readers.update({Leaver(): None, last: None})
        self.assertEqual([], send_to_all(FrameBatch([b"a"]), readers))
        self.assertEqual(b"a", last.wire)

    def test_failed_and_full(self) -> None:
        """A reader whose transport fails while it is full has taken nothing."""
        bad, good = OrdinaryReader(takes=OSError(), full=True), OrdinaryReader()
        self.assertEqual([(bad, 0)], send_to_all(FrameBatch([b"a"]), {bad: None, good: None}))
        self.assertEqual(b"a", good.wire)
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))


class WriteNowTests(SynchronousTestCase):
    """Writing some bytes without the transport."""

    def setUp(self) -> None:
        def send_of(transport: Any) -> Any:
            return transport.socket.send if isinstance(transport, FakeConnection) else None

        self.patch(direct_send, "direct_send_of", send_of)

    def test_at_once(self) -> None:
        """Bytes go to the socket where nothing is queued."""
        connection = FakeConnection()
        write_now(connection, b"abc")
        self.assertEqual((b"abc", 0), (connection.socket.taken, queued(connection)))

    def test_others(self) -> None:
        """Transports that aren't known here are written to."""
        transport = StringTransport()
        write_now(transport, b"abc")
        self.assertEqual(b"abc", transport.value())

    def test_closing(self) -> None:
        """A transport that is closing decides by itself."""
        connection = FakeConnection()
        connection.disconnecting = True
        write_now(connection, b"abc")
        self.assertEqual((b"", 3), (connection.socket.taken, queued(connection)))

    def test_broken(self) -> None:
        """A broken socket is left to the transport."""
        connection = FakeConnection()
        connection.socket.error = BrokenPipeError()
        write_now(connection, b"abc")
        self.assertEqual(3, queued(connection))

    @given(st.lists(st.tuples(st.binary(min_size=1, max_size=50), st.integers(0, 60)), max_size=30))
    @settings(max_examples=examples(200))
    def test_order(self, writes: list[tuple[bytes, int]]) -> None:
        """Whatever the socket takes, all bytes arrive in order."""
        connection = FakeConnection()
        for data, space in writes:
            connection.socket.space = space
            write_now(connection, data)
        self.assertEqual(b"".join(data for data, _ in writes), connection.wire)


class KnowledgeTests(SynchronousTestCase):
    """How much is told of a transport."""

    def test_unknown(self) -> None:
        """A transport that isn't known is never bypassed, and counts as empty."""
        transport = StringTransport()
        self.assertEqual((None, 0, 0), (direct_send_of(transport), queued(transport), unsent(transport)))

    def test_queued(self) -> None:
        """Bytes that wait in the transport are counted, without those that were sent."""
        connection = FakeConnection()
        connection.dataBuffer, connection.offset = b"abcdef", 2
        connection.write(b"xyz")
        self.assertEqual((7, 7), (queued(connection), unsent(connection)))


class RealTransportTests(TestCase):
    """Twisted's own TCP connections."""

    timeout = TEST_TIMEOUT

    async def test_direct(self) -> None:
        """A server's bare TCP connection is bypassed; a client's is not."""
        accepted: Deferred[Any] = Deferred()

        class Accepting(Protocol):
            def connectionMade(self) -> None:
                accepted.callback(self)

        port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(Factory.forProtocol(Accepting))
        self.addCleanup(port.stopListening)
        endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{port.getHost().port}")
        client = await endpoint.connect(Factory.forProtocol(Protocol))
        server = await accepted
        send_directly = direct_send_of(server.transport)
        assert send_directly is not None
        self.assertIsNone(direct_send_of(client.transport))
        received: Deferred[bytes] = Deferred()
        client.dataReceived = received.callback
        self.assertEqual(5, send_directly(b"hello"))
        self.assertEqual(b"hello", await received)
        gone: Deferred[Any] = Deferred()
        server.connectionLost = lambda reason: gone.callback(None)
        client.transport.loseConnection()
        await gone
