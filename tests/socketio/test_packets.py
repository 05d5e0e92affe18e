"""Tests for :mod:`realtime_chat.socketio.packets`."""

from __future__ import annotations

import contextlib
import json
from datetime import date
from math import inf, nan
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from socketio.packet import Packet as PeerPacket
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.engineio.packets import PacketError
from realtime_chat.socketio.packets import (
    MAX_ATTACHMENTS,
    MAX_DEPTH,
    MAX_ID,
    MAX_NAMESPACE,
    RESERVED_EVENTS,
    Packet,
    PacketReader,
    PacketType,
    check_namespace,
    encode_packet,
)

CONNECT, DISCONNECT, EVENT = PacketType.CONNECT, PacketType.DISCONNECT, PacketType.EVENT
ACK, CONNECT_ERROR = PacketType.ACK, PacketType.CONNECT_ERROR
BYTES = b"\1\2\3\4"
MAX_BYTES = 1_000_000

PACKETS: tuple[tuple[bytes, tuple[bytes, ...], Packet], ...] = (
    (b"0", (), Packet(CONNECT, "/")),
    (b'0{"token":"123"}', (), Packet(CONNECT, "/", {"token": "123"})),
    (b"0/admin,", (), Packet(CONNECT, "/admin")),
    (b'0/admin,{"sid":"oSO0OpakMV_3jnilAAAA"}', (), Packet(CONNECT, "/admin", {"sid": "oSO0OpakMV_3jnilAAAA"})),
    (b"1", (), Packet(DISCONNECT, "/")),
    (b"1/admin,", (), Packet(DISCONNECT, "/admin")),
    (b'2["foo"]', (), Packet(EVENT, "/", ["foo"])),
    (b'2/admin,["bar"]', (), Packet(EVENT, "/admin", ["bar"])),
    (b'212["foo"]', (), Packet(EVENT, "/", ["foo"], 12)),
    (b'20["foo"]', (), Packet(EVENT, "/", ["foo"], 0)),
    (b'2/1,2["foo",3]', (), Packet(EVENT, "/1", ["foo", 3], 2)),
    (b'3/admin,13["bar"]', (), Packet(ACK, "/admin", ["bar"], 13)),
    (b"312[]", (), Packet(ACK, "/", [], 12)),
    (b'4{"message":"Not authorized"}', (), Packet(CONNECT_ERROR, "/", {"message": "Not authorized"})),
    (b'4/admin,"no"', (), Packet(CONNECT_ERROR, "/admin", "no")),
    (b'51-["baz",{"_placeholder":true,"num":0}]', (BYTES,), Packet(EVENT, "/", ["baz", BYTES])),
    (
        b'52-/admin,["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]',
        (b"\1\2", b"\3\4"),
        Packet(EVENT, "/admin", ["baz", b"\1\2", b"\3\4"]),
    ),
    (b'61-15["bar",{"_placeholder":true,"num":0}]', (BYTES,), Packet(ACK, "/", ["bar", BYTES], 15)),
    (b'2[5,"a number names the event"]', (), Packet(EVENT, "/", [5, "a number names the event"])),
    ('2/ä,["é"]'.encode(), (), Packet(EVENT, "/ä", ["é"])),
    (b"29007199254740992[5]", (), Packet(EVENT, "/", [5], MAX_ID)),
)
"""Text, attachments, packet: the documents' examples, and the limits."""

READ_ONLY: tuple[tuple[bytes, tuple[bytes, ...], Packet], ...] = (
    (b"0/admin", (), Packet(CONNECT, "/admin")),
    (b"1/admin", (), Packet(DISCONNECT, "/admin")),
    (b'2/,["foo"]', (), Packet(EVENT, "/", ["foo"])),
    (b'50-["foo"]', (), Packet(EVENT, "/", ["foo"])),
    (b'2[ "foo" ]', (), Packet(EVENT, "/", ["foo"])),
    (b'2["a",{"_placeholder":true,"num":0}]', (), Packet(EVENT, "/", ["a", {"_placeholder": True, "num": 0}])),
    (
        b'52-["a",{"b":[{"_placeholder":true,"num":1}],"_placeholder":1},{"_placeholder":true,"num":0}]',
        (b"x", b"y"),
        Packet(EVENT, "/", ["a", {"b": [b"y"], "_placeholder": 1}, b"x"]),
    ),
)
"""What is read, and written otherwise."""

MALFORMED = (
    b"",
    b"7",
    b"x",
    b"-1",
    b" 2",
    '٢["foo"]'.encode(),
    b"2",
    b"20",
    b"2/admin",
    b"2/admin,",
    b"2{}",
    b"2[]",
    b"2[null]",
    b"2[true]",
    b'2[["foo"]]',
    b'2"foo"',
    b'2["foo"',
    b'2["foo"]]',
    b'2["foo"] x',
    b'2["\xff"]',
    b'2["\\ud800"]',
    b'2["foo",NaN]',
    b"2[1e400]",
    b'2["foo",1' + b"0" * 400 + b"]",
    b'201["foo"]',
    b'2+1["foo"]',
    b'2-1["foo"]',
    b'29007199254740993["foo"]',
    b"2" + b"9" * 100_000 + b'["foo"]',
    b'3["no id"]',
    b"312",
    b"312{}",
    b"0null",
    b"0[]",
    b'0"token"',
    b"01{}",
    b"0{",
    b"1{}",
    b"12",
    b"4",
    b"4[]",
    b"41",
    b"5",
    b'5["foo"]',
    b'5-["foo"]',
    b'501-["foo"]',
    b'511-["foo"]',
    b"5" + b"9" * 100_000 + b'-["foo"]',
    b'5-1-["foo"]',
    b'21-["foo"]',
    b'50-["a",{"_placeholder":true,"num":0}]',
    b'51-[{"_placeholder":true,"num":0}]',
    b'61-[{"_placeholder":true,"num":0}]',
    b"51-",
    b'2admin,["foo"]',
    b'2/a\nb,["foo"]',
    b'2/\xff,["foo"]',
    b"2/" + b"n" * MAX_NAMESPACE + b',["foo"]',
    b'2["' + b"x" * MAX_BYTES + b'"]',
    b'2["foo",' + b"[" * 100_000 + b"]" * 100_000 + b"]",
    b'2["foo",' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"]",
    b"2" + b"[" * 100_000,
    b"2" + b"[" * MAX_DEPTH + b"[]" + b"]" * MAX_DEPTH,
    *(b'2["%b"]' % name.encode() for name in sorted(RESERVED_EVENTS)),
)

WRONG_PLACEHOLDERS = (
    b"{}",
    b'{"_placeholder":true}',
    b'{"_placeholder":true,"num":1}',
    b'{"_placeholder":true,"num":-1}',
    b'{"_placeholder":true,"num":0.0}',
    b'{"_placeholder":true,"num":"0"}',
    b'{"_placeholder":true,"num":true}',
    b'{"_placeholder":true,"num":false}',
    b'{"_placeholder":true,"num":null}',
    b'{"_placeholder":true,"num":"length"}',
    b'{"_placeholder":true,"num":1e999}',
    b'{"_placeholder":false,"num":0}',
    b'{"_placeholder":1,"num":0}',
    b'{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}',
)

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=8
)
values = st.recursive(
    scalars | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
names = st.text(max_size=9).filter(lambda name: name not in RESERVED_EVENTS)
events = st.builds(lambda name, rest: [name, *rest], names, st.lists(values, max_size=4))
namespaces = st.text("/abcä0 -", max_size=9).map("/{}".format)
ids = st.none() | st.integers(0, MAX_ID)


def read(text: bytes, *attachments: bytes, version: int = 5) -> Packet:
    """Read one whole packet with a new reader."""
    reader = PacketReader(version, MAX_BYTES)
    packet = reader.read_text(text)
    for data in attachments:
        assert packet is None
        packet = reader.read_binary(data)
    assert packet is not None
    return packet


def peer_decode(text: bytes, attachments: tuple[bytes, ...]) -> PeerPacket:
    """Read a packet as python-socketio does."""
    packet = PeerPacket(encoded_packet=text.decode())
    for data in attachments:
        packet.add_attachment(data)
    return packet


class DecodeTests(SynchronousTestCase):
    """Bytes to packets."""

    def test_documented(self) -> None:
        """The documents' examples are read in both versions."""
        for text, attachments, packet in PACKETS + READ_ONLY:
            self.assertEqual(packet, read(text, *attachments), text)
            if packet.type is not CONNECT:
                self.assertEqual(packet, read(text, *attachments, version=4), text)

    def test_query(self) -> None:
        """In version 4 a namespace's query is the data of CONNECT; in version 5 it belongs to the name."""
        text = b"0/admin?token=a%2Cb&empty="
        for end in (b"", b","):
            self.assertEqual(Packet(CONNECT, "/admin", {"token": "a,b", "empty": ""}), read(text + end, version=4))
        self.assertEqual(Packet(CONNECT, "/admin"), read(b"0/admin?", version=4))
        self.assertEqual("/admin?token=a%2Cb&empty=", read(text).namespace)
        self.assertEqual("/admin", read(b"0/admin?" + b"a=" + b"b" * 1000, version=4).namespace)

    def test_malformed(self) -> None:
        """What is wrong is refused with a short reason, which repeats nothing of it."""
        for text in MALFORMED:
            with self.assertRaises(PacketError) as caught:
                read(text)
            self.assertLess(len(str(caught.exception)), 200)
            self.assertNotIn("foo", str(caught.exception))

    def test_depth(self) -> None:
        """JSON may nest 100 levels, and the reason for refusing more says so."""
        deep = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)
        self.assertEqual("a", read(b'2["a",%b]' % deep).data[0])
        with self.assertRaises(PacketError) as caught:
            read(b'2["a",[%b]]' % deep)
        self.assertIn("100 levels", str(caught.exception))
        placeholder = b'{"_placeholder":true,"num":0}'
        nested = b"[" * (MAX_DEPTH - 2) + placeholder + b"]" * (MAX_DEPTH - 2)
        self.assertIn(str(BYTES), str(read(b'51-["a",%b]' % nested, BYTES).data))

    def test_placeholders(self) -> None:
        """Each attachment has one placeholder, with its number."""
        for placeholder in WRONG_PLACEHOLDERS:
            with self.assertRaises(PacketError):
                read(b'51-["a",%b]' % placeholder, BYTES)

    def test_order(self) -> None:
        """A text between attachments and an attachment without a text are refused; None says that more is to come."""
        reader = PacketReader(5, MAX_BYTES)
        self.assertRaises(PacketError, reader.read_binary, BYTES)
        two = b'52-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
        self.assertIsNone(reader.read_text(two))
        self.assertIsNone(reader.read_binary(b"x"))
        self.assertRaises(PacketError, reader.read_text, b'2["a"]')
        reader = PacketReader(5, MAX_BYTES)
        for _ in range(2):
            self.assertIsNone(reader.read_text(two))
            self.assertIsNone(reader.read_binary(b"x"))
            self.assertEqual(Packet(EVENT, "/", ["a", b"x", b""]), reader.read_binary(b""))
        self.assertRaises(PacketError, reader.read_binary, BYTES)

    def test_limits(self) -> None:
        """A packet has at most ten attachments, and its limit of bytes counts the text and all of them."""
        marks = b",".join(b'{"_placeholder":true,"num":%d}' % number for number in range(MAX_ATTACHMENTS))
        text = b'510-["a",%b]' % marks
        self.assertEqual(["a", *[b"x"] * 10], read(text, *[b"x"] * 10).data)
        for spare, fits in ((10, True), (9, False)):
            reader = PacketReader(5, len(text) + spare)
            reader.read_text(text)
            for _ in range(9):
                self.assertIsNone(reader.read_binary(b"x"))
            if fits:
                self.assertIsNotNone(reader.read_binary(b"x"))
            else:
                self.assertRaises(PacketError, reader.read_binary, b"x")

    @given(st.binary(max_size=20) | st.text('01256-/,a[]{}":', max_size=20).map(str.encode), st.sampled_from((4, 5)))
    @example(b"2[nul]", 5)
    def test_any_bytes(self, text: bytes, version: int) -> None:
        """Any bytes are a packet or refused."""
        with contextlib.suppress(PacketError):
            PacketReader(version, MAX_BYTES).read_text(text)

    @given(events, namespaces, ids, st.data())
    def test_cut(self, event: list[Any], namespace: str, id: int | None, data: Any) -> None:
        """A packet that is cut anywhere is never taken for an event."""
        text = encode_packet(EVENT, namespace, event).text(id)
        cut = text[: data.draw(st.integers(0, len(text) - 1))]
        with contextlib.suppress(PacketError):
            packet = PacketReader(5, MAX_BYTES).read_text(cut)
            self.fail(f"{cut!r} gives {packet!r}")


class EncodeTests(SynchronousTestCase):
    """Packets to bytes."""

    def test_documented(self) -> None:
        """The documents' examples are written as they stand there; the id is put into bytes that all sockets share."""
        for text, attachments, packet in PACKETS:
            encoded = encode_packet(packet.type, packet.namespace, packet.data)
            self.assertEqual((text, attachments), (encoded.text(packet.id), encoded.attachments))

    @given(st.sampled_from((EVENT, ACK)), events, namespaces, ids)
    def test_round_trip(self, type: PacketType, event: list[Any], namespace: str, id: int | None) -> None:
        """Events and acknowledgements arrive as they were sent, in both versions."""
        encoded = encode_packet(type, namespace, event)
        id = id or 0 if type is ACK else id
        if len(encoded.attachments) <= MAX_ATTACHMENTS:
            for version in (4, 5):
                found = read(encoded.text(id), *encoded.attachments, version=version)
                self.assertEqual(Packet(type, namespace, event, id), found)

    def test_what_holds_bytes(self) -> None:
        """Bytes of each kind become attachments, wherever they stand; other types are what JSON makes of them."""
        event = ("a", {"b": [bytearray(b"x"), (memoryview(b"y"),)]}, date(2026, 11, 28), {1: b"z"})
        encoded = encode_packet(EVENT, "/", event)
        found = read(encoded.text(), *encoded.attachments)
        self.assertEqual(["a", {"b": [b"x", [b"y"]]}, "2026-11-28", {"1": b"z"}], found.data)
        self.assertEqual(b'2["a",null,null]', encode_packet(EVENT, "/", ["a", nan, inf]).text())

    def test_copies(self) -> None:
        """An attachment doesn't change after it was sent."""
        buffer = bytearray(b"before")
        encoded = encode_packet(EVENT, "/", ["a", buffer])
        buffer[:] = b"after!"
        self.assertEqual((b"before",), encoded.attachments)

    def test_refused(self) -> None:
        """What a client would close its connection for isn't sent: the application gets an error."""
        circle: list[Any] = ["a"]
        circle.append(circle)
        forged = {"_placeholder": True, "num": 7}
        for type, data in (
            (EVENT, []),
            (EVENT, None),
            (EVENT, "a"),
            (EVENT, [None]),
            (EVENT, [b"a"]),
            (EVENT, ["connect"]),
            (EVENT, circle),
            (EVENT, ["a", "\ud800"]),
            (EVENT, ["a", b"x", "\ud800"]),
            (EVENT, ["a", b"x", forged]),
            (ACK, None),
            (CONNECT, "a"),
            (DISCONNECT, {}),
            (CONNECT_ERROR, None),
            (PacketType.BINARY_EVENT, ["a", b"x"]),
        ):
            with self.assertRaises(ValueError):
                encode_packet(type, "/", data)
        self.assertRaises(TypeError, encode_packet, EVENT, "/", ["a", object()])
        self.assertEqual(["a", forged], json.loads(encode_packet(EVENT, "/", ["a", forged]).payload))

    def test_namespaces(self) -> None:
        """An application's namespaces are names that a packet can carry."""
        for name in ("/", "/admin", "/a/b", "/ä", "/" + "n" * (MAX_NAMESPACE - 1)):
            self.assertEqual(name, check_namespace(name))
        for name in ("", "admin", "/a,b", "/a?b", "/a\n", "/a\0", "/" + "n" * MAX_NAMESPACE, "/" + "ä" * 256):
            self.assertRaises(ValueError, check_namespace, name)


class LikePythonSocketIOTests(SynchronousTestCase):
    """Beside python-socketio, whose packets are version 5's."""

    @given(events.filter(lambda event: '"_placeholder"' not in repr(event)), namespaces, ids)
    def test_written(self, event: list[Any], namespace: str, id: int | None) -> None:
        """Each reads what the other writes."""
        ours = encode_packet(EVENT, namespace, event)
        peer = peer_decode(ours.text(id), ours.attachments)
        self.assertEqual((event, namespace, id), (peer.data, peer.namespace or "/", peer.id))
        theirs = PeerPacket(2, data=event, namespace=namespace, id=id).encode()
        text, *attachments = theirs if isinstance(theirs, list) else [theirs]
        if len(attachments) <= MAX_ATTACHMENTS:
            self.assertEqual(Packet(EVENT, namespace, event, id), read(text.encode(), *attachments))

    @given(
        st.builds(
            "{}{}{}{}".format,
            st.sampled_from(("0", "1", "2", "3", "4", "50-", "2", "3")),
            st.sampled_from(("", "/a,", "/a/b,", "/a", "/,")),
            st.sampled_from(("", "0", "1", "12", "9007199254740992")),
            st.one_of(st.just(""), json_values.map(json.dumps), st.text('[]{}",:a1', max_size=9)),
        )
    )
    def test_read(self, text: str) -> None:
        """What we take, python-socketio reads in the same way; it takes more."""
        try:
            ours = PacketReader(5, MAX_BYTES).read_text(text.encode())
        except PacketError:
            return
        assert ours is not None
        peer = peer_decode(text.encode(), ())
        type = PacketType(peer.packet_type)
        type = {PacketType.BINARY_EVENT: EVENT}.get(type, type)
        self.assertEqual(ours, Packet(type, peer.namespace or "/", peer.data, peer.id))
