"""Tests for :mod:`realtime_chat.engineio.fanout`."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.wheel import Wheel
from realtime_chat.engineio.connection import Connection
from realtime_chat.engineio.fanout import send_to_all
from realtime_chat.engineio.prepared import frame_encoding
from tests.engineio.fakes import FakeTransport, make_connection, text


def full(data: bytes) -> int:
    """The send of a socket that takes nothing."""
    raise BlockingIOError


class FanoutTests(SynchronousTestCase):
    """One message to many connections."""

    def setUp(self) -> None:
        self.wheel = Wheel(Clock())
        self.sent: list[bytes] = []

    def take(self, data: bytes) -> int:
        self.sent.append(data)
        return len(data)

    def direct(self, send: Callable[[bytes], int], version: int = 4) -> tuple[Connection, FakeTransport]:
        """A connection whose socket may be sent to."""
        transport = FakeTransport()
        transport.direct = frame_encoding(version, False), send
        return make_connection(self.wheel, transport, version), transport

    def test_by_sockets_and_transports(self) -> None:
        """Sockets get the same bytes directly; whoever has none that may be used gets the message by its transport."""
        connections = [self.direct(self.take)[0] for _ in range(3)]
        transport = FakeTransport()
        send_to_all(text(b"hi"), [*connections, make_connection(self.wheel, transport)])
        self.assertEqual(([b"\x81\x034hi"] * 3, [b"4hi"]), (self.sent, transport.packets))
        self.assertEqual(1, len(set(map(id, self.sent))))

    def test_versions(self) -> None:
        """Each connection gets what its version expects."""
        connections = [self.direct(self.take, version)[0] for version in (3, 4, 3)]
        send_to_all(text(b"hi"), connections)
        self.assertEqual(3, len(self.sent))

    def test_full_sockets(self) -> None:
        """A message of which a socket took a part is finished; one of which it took nothing waits, if not volatile."""
        for send, volatile, waits in ((full, False, True), (full, True, False), (lambda data: 2, True, False)):
            connection, transport = self.direct(send)
            send_to_all(text(b"hi"), [connection], volatile)
            self.assertEqual(waits, connection.queued > 0)
            self.assertEqual(send is not full, transport.packets == [b"4hi"])
            self.assertIsNone(connection.direct)

    def test_one_that_fails(self) -> None:
        """A connection that fails disturbs no other, and the error is logged."""
        broken, other = FakeTransport(), FakeTransport()
        connections = [make_connection(self.wheel, broken), make_connection(self.wheel, other)]
        broken.send = lambda messages: 1 // 0  # type: ignore[method-assign]
        send_to_all(text(b"hi"), connections)
        self.assertEqual([b"4hi"], other.packets)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_closed(self) -> None:
        """A closed connection gets nothing."""
        connection, _ = self.direct(self.take)
        connection.close()
        send_to_all(text(b"hi"), [connection])
        self.assertEqual([], self.sent)
