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

from realtime_chat.transports.fast import direct_send as fanout
from realtime_chat.transports.fast.direct_send import (
    FAILED,
    Frames,
    direct_send,
    finish_frame,
    queued,
    send_to_all,
    try_send,
    unsent,
    write_now,
)


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

    def send_rest(self, frames: Frames, sent: int) -> int:
        return finish_frame(self.connection, frames, max(0, sent))


class OrdinaryReader:
    """A reader that is only reached by its transport, which takes all or nothing."""

    def __init__(self, takes: bool | Exception = True, full: bool = False) -> None:
        self.takes = takes
        self.write_paused = full or takes is False
        self.transport = self
        self.wire = b""

    def send_batch(self, frames: Frames) -> int:
        if isinstance(self.takes, Exception):
            raise self.takes
        self.wire += frames.data if self.takes else b""
        return frames.count if self.takes else 0


def send(reader: Any, *texts: bytes) -> int:
    """Send frames to one reader; give how many it took."""
    outlet = reader.connection.socket.send if isinstance(reader, Reader) else None
    full = send_to_all(Frames(list(texts)), {reader: outlet})
    return full[0][1] if full else len(texts)


class FramesTests(SynchronousTestCase):
    """Joined frames."""

    @given(st.lists(st.binary(max_size=9), max_size=9))
    def test_ends(self, texts: list[bytes]) -> None:
        """They know where each of them ends."""
        frames = Frames(texts)
        starts = [0, *frames.ends[:-1]]
        self.assertEqual(len(texts), frames.count)
        self.assertEqual(texts, [frames.data[start:end] for start, end in zip(starts, frames.ends, strict=False)])


class SendTests(SynchronousTestCase):
    """Sending frames past the transport."""

    def test_all(self) -> None:
        """A socket with space takes everything at once."""
        reader = Reader()
        self.assertEqual([], send_to_all(Frames([b"aa", b"b"]), {reader: reader.connection.socket.send}))
        self.assertEqual(
            (b"aab", False, 0), (reader.connection.wire, reader.connection.asked, queued(reader.connection))
        )

    def test_begun_frame(self) -> None:
        """A frame that was begun is finished, and what follows is not sent."""
        reader = Reader(3)
        self.assertEqual(2, send(reader, b"aa", b"bbb", b"ccc"))
        self.assertEqual((b"aab", b"aabbb"), (reader.connection.socket.taken, reader.connection.wire))

    def test_last_frame(self) -> None:
        """Who takes all but the end of the last frame has taken all, and is full all the same."""
        reader = Reader(4)
        full = send_to_all(Frames([b"aa", b"bbb"]), {reader: reader.connection.socket.send})
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
            self.assertEqual([(broken, 0)], send_to_all(Frames([b"aa", b"b"]), sends), number)
            self.assertEqual((b"", b"aab"), (broken.connection.wire, well.connection.wire), number)

    def test_try_send(self) -> None:
        """A socket that is full took nothing; any other failure is told apart from that."""
        connection = FakeConnection(0)
        self.assertEqual(0, try_send(connection.socket.send, b"aa"))
        connection.socket.error = OSError(errno.ENOBUFS, "no buffers")
        self.assertEqual(FAILED, try_send(connection.socket.send, b"aa"))

    @given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=30), st.integers(0, 600))
    @settings(max_examples=500)
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
    @settings(max_examples=500)
    def test_in_the_end(self, texts: list[bytes], steps: list[tuple[int, int]]) -> None:
        """Sent page by page to a socket that drains now and then, every frame arrives once and in order."""
        reader = Reader(0)
        sent = 0
        for page, space in [*steps, (len(texts), 1 << 30)]:
            reader.connection.drain(space)
            if sent < len(texts):
                sent += send(reader, *texts[sent : sent + page])
        self.assertEqual((len(texts), b"".join(texts)), (sent, reader.connection.wire))


class SendToAllTests(SynchronousTestCase):
    """Sending to many readers."""

    def test_different_readers(self) -> None:
        """Each gets what it takes; those that are full are named, with how much they took."""
        readers = [Reader(), Reader(3), OrdinaryReader(), OrdinaryReader(False), Reader(0), OrdinaryReader(full=True)]
        outlets = {reader: reader.connection.socket.send if isinstance(reader, Reader) else None for reader in readers}
        full = send_to_all(Frames([b"aa", b"bb", b"cc"]), outlets)
        self.assertCountEqual([(readers[1], 2), (readers[3], 0), (readers[4], 0), (readers[5], 3)], full)
        self.assertEqual((b"aabbcc", b"aabbcc"), (readers[0].connection.wire, readers[2].wire))  # type: ignore[union-attr]

    def test_a_bad_one(self) -> None:
        """A reader that raises is logged, and the others get theirs."""
        bad, good = OrdinaryReader(ValueError("broken")), OrdinaryReader()
        self.assertEqual([], send_to_all(Frames([b"a"]), {bad: None, good: None}))
        self.assertEqual((b"a", 1), (good.wire, len(self.flushLoggedErrors(ValueError))))

    def test_first(self) -> None:
        """Who is sent to first is so by its transport, gets it once, and keeps its outlet and its place."""
        order: list[bytes] = []

        class Early(Reader):
            write_paused = False

            def send_batch(self, frames: Frames) -> int:
                order.append(b"first")
                return frames.count

        plain, early = Reader(), Early()
        plain.connection.socket.send = lambda data: order.append(data) or len(data)  # type: ignore[method-assign]
        readers = {reader: reader.connection.socket.send for reader in (plain, early)}
        outlets = readers.copy()
        self.assertEqual([], send_to_all(Frames([b"a"]), readers, [early]))
        self.assertEqual(([b"first", b"a"], b""), (order, early.connection.wire))
        self.assertEqual(list(outlets.items()), list(readers.items()))

    def test_first_and_full(self) -> None:
        """One that becomes full, and leaves, is named with how much it took, and doesn't come back."""
        readers: dict[Any, Any] = {}

        class Leaver(OrdinaryReader):
            def send_batch(self, frames: Frames) -> int:
                self.write_paused = True
                del readers[self]
                return 1

        early = Leaver()
        readers[early] = None
        self.assertEqual([(early, 1)], send_to_all(Frames([b"a", b"b"]), readers, [early]))
        self.assertEqual({}, readers)

    def test_first_and_a_bad_one(self) -> None:
        """Whatever goes wrong with others: who was sent to first is sent to in the next turn, too."""

        class Bad(Reader):
            def send_rest(self, frames: Frames, sent: int) -> int:
                raise ZeroDivisionError

        class Early(Reader):
            write_paused = False

            def send_batch(self, frames: Frames) -> int:
                return frames.count

        early, bad = Early(), Bad(0)
        readers = {reader: reader.connection.socket.send for reader in (early, bad)}
        self.assertRaises(ZeroDivisionError, send_to_all, Frames([b"a"]), readers, [early])
        del readers[bad]
        send_to_all(Frames([b"b"]), readers)
        self.assertEqual(b"b", early.connection.wire)

    def test_leaving_meanwhile(self) -> None:
        """A reader may leave while the others are sent to."""
        readers: dict[Any, None] = {}

        class Leaver(OrdinaryReader):
            def send_batch(self, frames: Frames) -> int:
                readers.clear()
                return super().send_batch(frames)

        last = OrdinaryReader()
        readers.update({Leaver(): None, last: None})
        self.assertEqual([], send_to_all(Frames([b"a"]), readers))
        self.assertEqual(b"a", last.wire)


class WriteNowTests(SynchronousTestCase):
    """Writing some bytes past a transport."""

    def setUp(self) -> None:
        self.patch(
            fanout, "direct_send", lambda given: given.socket.send if isinstance(given, FakeConnection) else None
        )

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
    @settings(max_examples=200)
    def test_order(self, writes: list[tuple[bytes, int]]) -> None:
        """Whatever the socket takes, all bytes arrive in order."""
        connection = FakeConnection()
        for data, space in writes:
            connection.socket.space = space
            write_now(connection, data)
        self.assertEqual(b"".join(data for data, _ in writes), connection.wire)


class KnowledgeTests(SynchronousTestCase):
    """What is known of transports."""

    def test_unknown(self) -> None:
        """Of a transport that isn't known nothing is queued, as far as can be told, and it isn't gone past."""
        transport = StringTransport()
        self.assertEqual((None, 0, 0), (direct_send(transport), queued(transport), unsent(transport)))

    def test_queued(self) -> None:
        """What waits in the transport is counted, without what was sent of it."""
        connection = FakeConnection()
        connection.dataBuffer, connection.offset = b"abcdef", 2
        connection.write(b"xyz")
        self.assertEqual((7, 7), (queued(connection), unsent(connection)))


class RealTransportTests(TestCase):
    """Twisted's own TCP connections."""

    timeout = 20

    async def test_direct(self) -> None:
        """A server's bare TCP connection is gone past; a client's is not."""
        accepted: Deferred[Any] = Deferred()

        class Accepting(Protocol):
            def connectionMade(self) -> None:
                accepted.callback(self)

        port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(Factory.forProtocol(Accepting))
        self.addCleanup(port.stopListening)
        endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{port.getHost().port}")
        client = await endpoint.connect(Factory.forProtocol(Protocol))
        server = await accepted
        outlet = direct_send(server.transport)
        assert outlet is not None
        self.assertIsNone(direct_send(client.transport))
        received: Deferred[bytes] = Deferred()
        client.dataReceived = received.callback
        self.assertEqual(5, outlet(b"hello"))
        self.assertEqual(b"hello", await received)
        gone: Deferred[Any] = Deferred()
        server.connectionLost = lambda reason: gone.callback(None)
        client.transport.loseConnection()
        await gone
