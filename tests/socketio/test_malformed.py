"""Malformed packets by each transport: each ends its own connection, and a neighbour notices nothing."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from urllib.parse import quote_from_bytes

from tests.engineio.session_cases import payload3, payload4
from tests.engineio.site import BINARY, FakeSocket
from tests.socketio.site import SocketIOTestCase

DEEP = b"[" * 100_000 + b"]" * 100_000
_ONE = b'{"_placeholder":true,"num":0}'


def _placeholder(number: bytes) -> bytes:
    return b'{"_placeholder":true,"num":%b}' % number


MALFORMED: dict[str, Sequence[bytes]] = {
    "an event with a deep array": (b'2["message",%b]' % DEEP,),
    "an event with a deep object": (b'2["message",%b1%b]' % (b'{"a":' * 50_000, b"}" * 50_000),),
    "an event with an array without end": (b'2["message",' + b"[" * 100_000,),
    "an acknowledgement with a deep array": (b"31[%b]" % DEEP,),
    "a CONNECT with a deep object": (b'0/custom,{"a":%b}' % DEEP,),
    "a deep array beside an attachment": (b'51-["message",%b,%b]' % (_ONE, DEEP), b"\1"),
    **{
        f"a placeholder with the number {number.decode()}": (b'51-["message",%b]' % _placeholder(number), b"\1")
        for number in (b"1", b"-1", b"10", b"0.5", b'"0"', b"null", b"true", b"1e30", b"9" * 30, b"[0]")
    },
    "a placeholder without a number": (b'51-["message",{"_placeholder":true}]', b"\1"),
    "a placeholder twice": (b'52-["message",%b,%b]' % (_ONE, _ONE), b"\1", b"\2"),
    "an attachment without a placeholder": (b'51-["message"]', b"\1"),
    "a text instead of an attachment": (b'51-["message",%b]' % _ONE, b'2["message"]'),
    "one of two attachments": (b'52-["message",%b,%b]' % (_ONE, _placeholder(b"1")), b"\1", b'2["message"]'),
    "an attachment that nobody announced": (b"\1",),
    "eleven attachments": (b'511-["message",%b]' % _ONE,),
    "very many attachments": (b'5%b-["message",%b]' % (b"9" * 50_000, _ONE),),
    "a number of attachments without end": (b"5" + b"1" * 100_000,),
    "an id that is too large": (b"2" + b"9" * 50_000 + b'["message"]',),
}
"""The packets: those that begin with a control character are attachments."""


def _is_attachment(part: bytes) -> bool:
    return part[0] < 32


class NeighbourTestCase(SocketIOTestCase):
    """Two connections that have to notice nothing, over a WebSocket and over polling."""

    settings = {"max_payload": 400_000, "ping_interval": 25, "ping_timeout": 20}
    limits = {"max_message": 400_000}

    def setUp(self) -> None:
        super().setUp()
        self.websocket_neighbour = self.connected()
        self.polling_neighbour = self.connected_by_polling()
        self.count = 0

    def connected_by_polling(self, **query: str) -> str:
        """The sid of a connection over polling that is connected to the main namespace."""
        sid = self.open_polling(**query)
        self.post(sid, b"40")
        return sid

    def check_neighbours(self, name: str) -> None:
        self.count += 1
        answer = b'42["message-back",%d]' % self.count
        self.websocket_neighbour.send(b'42["message",%d]' % self.count)
        self.assertEqual(answer, self.websocket_neighbour.messages[-1], name)
        self.post(self.polling_neighbour, b'42["message",%d]' % self.count)
        self.assertTrue(self.poll(self.polling_neighbour).body.endswith(answer), name)


class MalformedTests(NeighbourTestCase):
    """Each row of the table."""

    def check_table(self, send: Callable[[Sequence[bytes]], object]) -> None:
        """Send each row over a new connection, which has to end."""
        for name, parts in MALFORMED.items():
            self.hub.counters.engineio_closed.clear()
            send(parts)
            self.check_reason("parse error")
            self.check_neighbours(name)
        self.assertEqual(len(MALFORMED), self.engine.application.counters.violations)
        self.assertEqual(0, self.engine.application.counters.method_errors)

    def send_by(self, socket: FakeSocket, parts: Sequence[bytes]) -> None:
        for part in parts:
            if not _is_attachment(part):
                socket.send(b"4" + part)
            else:
                socket.send(part if self.version == 4 else b"\4" + part, opcode=BINARY)

    def payload(self, parts: Sequence[bytes]) -> bytes:
        base64 = b"b" if self.version == 4 else b"b4"
        records = [base64 + b64encode(part) if _is_attachment(part) else b"4" + part for part in parts]
        return payload4(*records) if self.version == 4 else payload3(*records)

    def test_websocket(self) -> None:
        """By WebSockets."""
        self.check_table(lambda parts: self.send_by(self.connected(), parts))

    def test_upgraded(self) -> None:
        """By WebSockets of connections that began by polling."""

        def send(parts: Sequence[bytes]) -> None:
            socket = self.websocket(self.connected_by_polling())
            socket.send(b"2probe", b"5")
            self.send_by(socket, parts)

        self.check_table(send)

    def test_polling(self) -> None:
        """By POSTs."""
        self.check_table(lambda parts: self.post(self.connected_by_polling(), self.payload(parts)))

    def test_jsonp(self) -> None:
        """By the forms of JSONP."""

        def send(parts: Sequence[bytes]) -> None:
            form = b"d=" + quote_from_bytes(self.payload(parts), safe='[]{}":,/=').encode()
            self.post(self.connected_by_polling(), form, b"Content-Type: application/x-www-form-urlencoded", j="0")

        self.check_table(send)

    def test_version_3(self) -> None:
        """By WebSockets and POSTs of version 3."""

        def send_by_websocket(parts: Sequence[bytes]) -> None:
            self.version = 3
            self.send_by(self.websocket(), parts)
            self.version = 4

        self.check_table(send_by_websocket)
        self.engine.application.counters.violations = 0

        def post(parts: Sequence[bytes]) -> None:
            self.version = 3
            self.post(self.open_polling(), self.payload(parts))
            self.version = 4

        self.check_table(post)

    def test_attachments_that_never_come(self) -> None:
        """A client that goes before its attachments have come leaves nothing, and its event isn't dispatched."""
        for parts in ((b'51-["message",%b]' % _ONE,), (b'52-["message",%b,%b]' % (_ONE, _placeholder(b"1")), b"\1")):
            socket = self.connected()
            self.send_by(socket, parts)
            self.check_neighbours("meanwhile")
            self.assertIsNone(socket.close_code)
            socket.transport.lose()
            self.check_neighbours("afterwards")
        self.assertEqual({"transport close": 2}, self.hub.counters.engineio_closed)
        self.assertEqual(2, len(self.engine.connections))


UPGRADES: dict[str, tuple[Sequence[bytes], bool]] = {
    "a WebSocket without a word": ((), True),
    "no packet": ((b"x",), True),
    "a message instead of the probe": ((b'42["message",0]',), True),
    "another probe": ((b"2other",), True),
    "an upgrade without a probe": ((b"5",), True),
    "a probe": ((b"2probe",), True),
    "two probes": ((b"2probe", b"2probe"), True),
    "a message after the probe": ((b"2probe", b'42["message",0]'), True),
    "a deep array after the probe": ((b"2probe", b'42["message",%b]' % DEEP), True),
    "an upgrade": ((b"2probe", b"5"), False),
    "an upgrade and half a packet": ((b"2probe", b"5", b'451-["message",%b]' % _ONE), False),
}
"""What a WebSocket sends before it breaks off, and whether polling goes on then."""


class UpgradeTests(NeighbourTestCase):
    """Upgrades that break off at each step."""

    def test_upgrades(self) -> None:
        """Before the upgrade packet, polling goes on; after it, the session is over."""
        for name, (packets, goes_on) in UPGRADES.items():
            sid = self.connected_by_polling()
            self.poll(sid)
            socket = self.websocket(sid)
            socket.send(*packets)
            socket.transport.lose()
            self.check_neighbours(name)
            self.assertEqual(200 if goes_on else 400, self.post(sid, b'42["message",-1]').status, name)
            if goes_on:
                self.assertTrue(self.poll(sid).body.endswith(b'42["message-back",-1]'), name)
        self.assertEqual(0, self.engine.application.counters.violations)
