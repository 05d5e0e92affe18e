"""Tests for :mod:`realtime_chat.engineio.connection` and its heartbeat."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.wheel import Wheel
from realtime_chat.engineio.connection import Connection
from realtime_chat.engineio.packets import EnginePacket, EnginePacketType
from realtime_chat.engineio.prepared import frame_encoding
from tests.engineio.fakes import FakeReceiver, FakeTransport, make_connection, packet, text


class ConnectionTestCase(SynchronousTestCase):
    """A connection on a fake clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wheel = Wheel(self.clock)

    def make(self, transport: FakeTransport | None = None, **settings: Any) -> tuple[Connection, FakeTransport, Any]:
        transport = FakeTransport() if transport is None else transport
        connection = make_connection(self.wheel, transport, **settings)
        return connection, transport, connection.receiver

    def wait(self, seconds: float) -> None:
        self.clock.pump([0.25] * round(seconds / 0.25))


class OpeningTests(ConnectionTestCase):
    """How a connection begins."""

    def open(self, accept: Any) -> tuple[Connection, FakeTransport]:
        transport = FakeTransport()
        connection = make_connection(self.wheel, transport, accepted=False)
        connection.open(accept)
        return connection, transport

    def test_accept_may_send(self) -> None:
        """What is sent while a connection is accepted comes after the open packet."""

        def accept(connection: Connection) -> FakeReceiver:
            connection.send(text(b"welcome"))
            return FakeReceiver(connection)

        _, transport = self.open(accept)
        opening, welcome = transport.packets
        self.assertEqual((b"0", 25000, b"4welcome"), (opening[:1], json.loads(opening[1:])["pingInterval"], welcome))

    def test_accept_may_close(self) -> None:
        """A receiver whose connection was closed while it was accepted is told so."""

        receivers: list[FakeReceiver] = []

        def accept(connection: Connection) -> FakeReceiver:
            connection.close("server namespace disconnect")
            receivers.append(FakeReceiver(connection))
            return receivers[0]

        self.open(accept)
        self.assertEqual([("closed", "server namespace disconnect")], receivers[0].told)

    def test_accept_may_raise(self) -> None:
        """A connection that can't be accepted is closed, and the error is logged."""
        connection, transport = self.open(lambda connection: 1 / 0)
        self.assertTrue(connection.is_closed)
        self.assertEqual(("forced close", []), transport.ended)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))


class SendingTests(ConnectionTestCase):
    """Who may send, and what waits."""

    def test_order(self) -> None:
        """What is sent while the transport is full waits, and then goes out in order."""
        connection, transport, receiver = self.make()
        transport.room = 1
        sent = [connection.send(text(b"%d" % number)) for number in range(4)]
        self.assertEqual(([True] * 4, [b"40"]), (sent, transport.packets))
        self.assertTrue(connection.write_paused)
        transport.room = 2
        connection.writable_changed()
        self.assertEqual([b"40", b"41", b"42"], transport.packets)
        transport.room = None
        connection.writable_changed()
        self.assertEqual([b"40", b"41", b"42", b"43"], transport.packets)
        self.assertEqual((["paused", "resumed"], 0), (receiver.told, connection.queued))

    def test_sent_while_resumed(self) -> None:
        """What a receiver sends as soon as it may comes after what waited."""
        connection, transport, receiver = self.make()
        transport.room = 0
        connection.send(text(b"first"))
        receiver.resume_writing = lambda: connection.send(text(b"second"))
        transport.room = None
        connection.writable_changed()
        self.assertEqual([b"4first", b"4second"], transport.packets)

    def test_volatile(self) -> None:
        """A volatile message is dropped where the client reads too slowly, something waits, or an upgrade goes on."""
        connection, transport, _ = self.make()
        self.assertTrue(connection.send(text(b"a"), volatile=True))
        transport.room = 0
        self.assertFalse(connection.send(text(b"b"), volatile=True))
        connection.send(text(b"c"))
        self.assertFalse(connection.send(text(b"d"), volatile=True))
        transport.room = None
        connection.writable_changed()
        connection.upgrading = True
        self.assertFalse(connection.send(text(b"e"), volatile=True))
        self.assertEqual([b"4a", b"4c"], transport.packets)

    def test_send_now(self) -> None:
        """What isn't taken at once isn't kept, and the receiver is told."""
        connection, transport, receiver = self.make()
        transport.room = 2
        self.assertEqual(2, connection.send_now([text(b"a"), text(b"b"), text(b"c")]))
        self.assertEqual(0, connection.send_now([text(b"d")]))
        self.assertEqual(([b"4a", b"4b"], ["paused"], 0), (transport.packets, receiver.told, connection.queued))
        connection.close()
        self.assertEqual(0, connection.send_now([text(b"e")]))

    def test_direct(self) -> None:
        """While nothing waits, a message goes to the socket itself; what the socket doesn't take, goes as ever."""
        connection, transport, receiver = self.make()
        sent: list[bytes] = []
        transport.direct = frame_encoding(4, False), lambda data: sent.append(data) or min(len(data), 5)
        connection.writable_changed()
        self.assertTrue(connection.send(text(b"hi")))
        self.assertEqual(([b"\x81\x034hi"], []), (sent, transport.packets))
        self.assertTrue(connection.send(text(b"longer")))
        self.assertTrue(connection.send(text(b"after")))
        transport.room, transport.direct = None, None
        connection.writable_changed()
        self.assertEqual((2, [b"4longer", b"4after"]), (len(sent), transport.packets))
        self.assertEqual(["paused", "resumed"], receiver.told)

    def test_direct_and_full(self) -> None:
        """If the socket takes nothing of a message, the message waits, or is dropped if it is volatile."""
        for volatile, packets in ((False, [b"4hi"]), (True, [])):
            connection, transport, _ = self.make()
            transport.direct = frame_encoding(4, False), lambda data: -1
            connection.writable_changed()
            connection.send(text(b"hi"), volatile)
            self.assertTrue(connection.write_paused)
            transport.room, transport.direct = None, None
            connection.writable_changed()
            self.assertEqual(packets, transport.packets)

    def test_slow(self) -> None:
        """A client for whom more waits than may is closed as slow, and gets none of it."""
        connection, transport, receiver = self.make(max_queued=1000)
        transport.room = 0
        sent = [connection.send(text(b"x" * 299)) for _ in range(4)]
        self.assertEqual([True, True, True, False], sent)
        self.assertEqual(("slow", []), transport.ended)
        self.assertEqual(["paused", ("closed", "slow")], receiver.told)

    def test_after_the_end(self) -> None:
        """Nothing can be sent on a closed connection, and nothing is told of it."""
        connection, transport, receiver = self.make()
        connection.close()
        self.assertFalse(connection.send(text(b"late")))
        connection.packet_received(packet(EnginePacketType.MESSAGE, b"late"))
        connection.writable_changed()
        connection.close("transport close")
        self.assertEqual(([], [("closed", "forced close")]), (transport.packets, receiver.told))

    def test_orderly_close(self) -> None:
        """What waits is still for the client where the server closes in order, and not where it gives up."""
        for reason, rest in (("forced close", [b"4bye"]), ("ping timeout", []), ("parse error", [])):
            connection, transport, _ = self.make()
            transport.room = 0
            connection.send(text(b"bye"))
            connection.close(reason)
            self.assertEqual((reason, rest), transport.ended)

    def test_awaited_client(self) -> None:
        """A client that may come for the rest is forgotten after a while."""
        forgotten: list[Connection] = []
        transport = FakeTransport(0)
        transport.is_awaited = True
        connection, _, _ = self.make(transport, close_timeout=2)
        connection._forget = forgotten.append
        connection.close()
        self.assertEqual([], forgotten)
        self.wait(2.5)
        self.assertEqual([connection], forgotten)


class ReceivingTests(ConnectionTestCase):
    """What a receiver is told."""

    def test_messages(self) -> None:
        """Texts and binary messages come as what they are, in order."""
        connection, _, receiver = self.make()
        connection.packet_received(EnginePacket(EnginePacketType.MESSAGE, b"\xc3\xa9"))
        connection.packet_received(EnginePacket(EnginePacketType.MESSAGE, b"\xff", True))
        connection.packet_received(EnginePacket(EnginePacketType.NOOP))
        self.assertEqual([b"\xc3\xa9", ("binary", b"\xff")], receiver.told)

    def test_receiver_that_raises(self) -> None:
        """A receiver that raises loses its connection, and the error is logged."""
        connection, _, receiver = self.make()
        receiver._on_text = lambda text: 1 / 0
        connection.packet_received(packet(EnginePacketType.MESSAGE, b"a"))
        self.assertEqual([b"a", ("closed", "transport error")], receiver.told)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_violations(self) -> None:
        """Packets that no client may send close the connection."""
        for version, type, reason in (
            (4, EnginePacketType.PING, "transport error"),
            (3, EnginePacketType.PONG, "transport error"),
            (4, EnginePacketType.OPEN, "parse error"),
            (4, EnginePacketType.UPGRADE, "parse error"),
            (4, EnginePacketType.CLOSE, "transport close"),
        ):
            connection, _, receiver = self.make(version=version)
            connection.packet_received(packet(type))
            self.assertEqual([("closed", reason)], receiver.told, (version, type))

    def test_pausing(self) -> None:
        """Reading stays paused over an upgrade."""
        connection, transport, _ = self.make()
        connection.pause_reading()
        other = FakeTransport()
        connection.upgrade(other)
        self.assertEqual((False, False), (transport.is_reading, other.is_reading))
        connection.resume_reading()
        self.assertTrue(other.is_reading)


class UpgradeTests(ConnectionTestCase):
    """Another transport."""

    def test_what_waits_goes_over_the_new_one(self) -> None:
        """After an upgrade everything goes over the new transport, first what waited."""
        connection, transport, _ = self.make()
        transport.room = 0
        connection.send(text(b"waits"))
        other = FakeTransport()
        connection.upgrade(other)
        connection.send(text(b"more"))
        self.assertEqual(([], [b"4waits", b"4more"]), (transport.packets, other.packets))
        self.assertEqual(("transport close", []), transport.ended)


class HeartbeatTests(ConnectionTestCase):
    """Pings, and what becomes of a client that doesn't answer."""

    def test_server_pings(self) -> None:
        """In version 4 the server pings in time, and a client that answers stays."""
        connection, transport, receiver = self.make()
        for _ in range(10):
            transport.packets.clear()
            self.wait(25)
            self.assertEqual([b"2"], transport.packets)
            connection.packet_received(packet(EnginePacketType.PONG))
        self.assertEqual([], receiver.told)

    def test_no_answer(self) -> None:
        """A client that doesn't answer a ping is closed after the time-out."""
        _, _, receiver = self.make()
        self.wait(44.75)
        self.assertEqual([], receiver.told)
        self.wait(1)
        self.assertEqual([("closed", "ping timeout")], receiver.told)

    def test_client_pings(self) -> None:
        """In version 3 the client pings, gets its data back, and stays for as long as it does."""
        connection, transport, receiver = self.make(version=3)
        for _ in range(10):
            self.wait(44)
            connection.packet_received(packet(EnginePacketType.PING, b"x"))
        self.assertEqual(([b"3x"] * 10, []), (transport.packets, receiver.told))
        self.wait(45.5)
        self.assertEqual([("closed", "ping timeout")], receiver.told)

    def test_is_overdue_by_the_clock(self) -> None:
        """Who asks is answered by the clock, not by the wheel, which is late."""
        for version in (3, 4):
            connection, _, receiver = self.make(version=version, ping_interval=0.3, ping_timeout=0.2)
            self.clock.pump([0.25, 0.249])
            self.assertFalse(connection.is_overdue())
            self.clock.advance(0.0011)
            self.assertTrue(connection.is_overdue())
            self.assertEqual([("closed", "ping timeout")], receiver.told)

    def test_slow_reader(self) -> None:
        """A client that reads slowly isn't pinged and isn't given up: its socket says whether it is there."""
        _, transport, receiver = self.make()
        transport.room = 0
        self.wait(200)
        transport.room = None
        self.wait(25)
        self.assertEqual([b"2"], transport.packets)
        transport.room = 0
        self.wait(100)
        self.assertNotIn(("closed", "ping timeout"), receiver.told)

    def test_nothing_is_left(self) -> None:
        """A closed connection leaves no timer."""
        for version in (3, 4):
            connection, _, _ = self.make(version=version)
            connection.close()
        self.assertEqual(0, len(self.wheel))
