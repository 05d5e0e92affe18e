"""Tests for :class:`realtime_chat.transports.fast.direct_send.DirectSender`, with a socket of a limited size."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.wheel import Wheel
from realtime_chat.transports.fast.direct_send import DirectSender
from realtime_chat.transports.frames import FrameBatch
from realtime_chat.values.limits import Limits
from tests.soak import examples
from tests.transports.fast.test_direct_send import FakeConnection


class Connection(DirectSender):
    """The sending half of a protocol whose connection takes ``space`` bytes."""

    session = None
    write_paused = False
    may_send = True
    hub: Any = None

    def __init__(self, space: int = 1 << 30, direct: bool = True) -> None:
        clock = Clock()
        self.hub = SimpleNamespace(clock=clock, wheel=Wheel(clock), limits=Limits())
        self.transport = FakeConnection(space)
        self.sends: list[bytes] = []
        self.direct_send = self._send if direct else None

    def _send(self, data: bytes) -> int:
        self.sends.append(data)
        return self.transport.socket.send(data)

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class HoldTests(SynchronousTestCase):
    """Replies that wait for what goes out next."""

    def test_in_one_piece(self) -> None:
        """Buffered replies are sent in one piece, with the next messages or with anything else."""
        connection = Connection()
        connection.buffer_reply(b"a")
        connection.buffer_reply(b"b")
        self.assertEqual([], connection.sends)
        self.assertEqual(2, connection.send_batch(FrameBatch([b"c", b"d"])))
        connection.buffer_reply(b"e")
        connection.write(b"f")
        self.assertEqual([b"abcd", b"ef"], connection.sends)

    def test_released(self) -> None:
        """It goes out by itself when it is released, and then no more."""
        connection = Connection()
        connection.buffer_reply(b"a")
        connection.flush_replies()
        connection.flush_replies()
        connection.write(b"b")
        self.assertEqual([b"a", b"b"], connection.sends)

    def test_closing(self) -> None:
        """Nothing is released on a connection that ends."""
        connection = Connection()
        connection.buffer_reply(b"a")
        connection.may_send = False
        connection.flush_replies()
        self.assertEqual(b"", connection.transport.wire)

    def test_no_short_way(self) -> None:
        """Over TLS, too, it is one write."""
        connection = Connection(direct=False)
        connection.buffer_reply(b"a")
        connection.send_batch(FrameBatch([b"b"]))
        self.assertEqual([b"ab"], connection.transport._tempDataBuffer)

    def test_broken(self) -> None:
        """Where a send fails, replies are queued, no message is taken, and the connection is full."""
        for number in (errno.ENOBUFS, errno.ENOMEM, errno.EPIPE, errno.ECONNRESET):
            connection = Connection()
            connection.transport.socket.error = OSError(number, "failed")
            connection.buffer_reply(b"a")
            self.assertEqual((0, True), (connection.send_batch(FrameBatch([b"b"])), connection.write_paused), number)
            self.assertEqual(b"a", connection.transport.wire)

    def test_tried_again(self) -> None:
        """After a send that failed though its socket isn't full, the socket is asked again in a while, not at once."""
        connection = Connection()
        connection.transport.socket.error = OSError(errno.ENOBUFS, "no buffers")
        self.assertEqual(0, connection.send_batch(FrameBatch([b"b"])))
        self.assertFalse(connection.transport.asked)
        connection.hub.clock.pump([0.1] * 10)
        self.assertTrue(connection.transport.asked)

    def test_lost_meanwhile(self) -> None:
        """A connection that is lost in that while isn't asked."""
        connection = Connection()
        connection.transport.socket.error = OSError(errno.ENOBUFS, "no buffers")
        connection.send_batch(FrameBatch([b"b"]))
        connection.direct_send = None
        connection.hub.clock.pump([0.1] * 10)
        self.assertFalse(connection.transport.asked)

    def test_partly_held(self) -> None:
        """Where not even the replies go out at once, they are queued, no message is taken, and it is full."""
        for space in range(4):
            connection = Connection(space)
            connection.buffer_reply(b"aaa")
            self.assertEqual(
                (0, True), (connection.send_batch(FrameBatch([b"b", b"c"])), connection.write_paused), space
            )
            self.assertEqual(b"aaa", connection.transport.wire)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(("buffer_reply", "write", "batch", "flush_replies", "drain", "fail")),
                st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=4),
                st.integers(0, 80),
            ),
            max_size=40,
        ),
        st.booleans(),
    )
    @settings(max_examples=examples(500))
    def test_order(self, steps: list[tuple[str, list[bytes], int]], direct: bool) -> None:
        """Whatever the socket takes: replies and whole messages arrive once, in the order in which they were given."""
        connection = Connection(40, direct)
        expected = b""
        for step, texts, space in steps:
            if step == "buffer_reply":
                connection.buffer_reply(texts[0])
                expected += texts[0]
            elif step == "write":
                connection.write(texts[0])
                expected += texts[0]
            elif step == "batch":
                expected += b"".join(texts[: connection.send_batch(FrameBatch(texts))])
            elif step == "flush_replies":
                connection.flush_replies()
            elif step == "fail":
                connection.transport.socket.error = OSError(errno.ENOMEM, "no memory") if space % 2 else None
            else:
                connection.transport.drain(space)
                connection.resumeProducing()
        connection.flush_replies()
        self.assertEqual(expected, connection.transport.wire)
