"""Tests for :mod:`realtime_chat.engineio.packets`."""

from __future__ import annotations

import json
from urllib.parse import quote_plus

from engineio.packet import Packet as PeerPacket
from engineio.payload import Payload as PeerPayload
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.engineio.packets import (
    EnginePacket,
    EnginePacketType,
    PacketError,
    decode_binary,
    decode_jsonp_body,
    decode_payload,
    decode_text,
    encode_binary,
    encode_jsonp,
    encode_record,
    encode_text,
    join_records,
)

MESSAGE, PING, NOOP = EnginePacketType.MESSAGE, EnginePacketType.PING, EnginePacketType.NOOP
HELLO = EnginePacket(MESSAGE, b"hello")
EURO = EnginePacket(MESSAGE, "€".encode())
BYTES = EnginePacket(MESSAGE, b"\x01\x02\x03\x04", True)

PAYLOADS = (
    (4, False, b"4hello", [HELLO]),
    (4, False, b"4hello\x1e2\x1e4world", [HELLO, EnginePacket(PING), EnginePacket(MESSAGE, b"world")]),
    (4, False, b"4hello\x1ebAQIDBA==", [HELLO, BYTES]),
    (4, False, "4€\x1e4\x1e6".encode(), [EURO, EnginePacket(MESSAGE), EnginePacket(NOOP)]),
    (4, False, b"b", [EnginePacket(MESSAGE, b"", True)]),
    (3, False, "6:4hello2:4€".encode(), [HELLO, EURO]),
    (3, False, "2:4€10:b4AQIDBA==".encode(), [EURO, BYTES]),
    (3, False, "3:4😀6:2probe".encode(), [EnginePacket(MESSAGE, "😀".encode()), EnginePacket(PING, b"probe")]),
    (3, False, b"6:4hello1:2", [HELLO, EnginePacket(PING)]),
    (3, True, b"\0\4\xff4\xe2\x82\xac\1\5\xff\4\1\2\3\4", [EURO, BYTES]),
    (3, True, b"\1\1\2\xff\4" + b"x" * 11, [EnginePacket(MESSAGE, b"x" * 11, True)]),
)
"""Version, whether the body is octet-stream, body, packets: the documents' examples and what lies between them."""

MALFORMED = (
    (4, False, b""),
    (4, False, b"\x1e"),
    (4, False, b"4hello\x1e"),
    (4, False, b"\x1e4hello"),
    (4, False, b"4a\x1e\x1e4b"),
    (4, False, b"7"),
    (4, False, b"hello"),
    (4, False, "٤hello".encode()),
    (4, False, b"4\xff"),
    (4, False, b"4\xed\xa0\x80"),
    (4, False, b"bAQIDBA="),
    (4, False, b"bAQ IDBA=="),
    (4, False, b"b!"),
    (4, True, b"4hello"),
    (3, False, b""),
    (3, True, b""),
    (3, False, b"4hello"),
    (3, False, b"7:4hello"),
    (3, False, b"5:4hello"),
    (3, False, b"06:4hello"),
    (3, False, b"+6:4hello"),
    (3, False, b"0:"),
    (3, False, b":4"),
    (3, False, b"99999999999:4hello"),
    (3, False, "06:4hell€".encode()),
    (3, False, "2:4😀".encode()),
    (3, False, "4:4€".encode()),
    (3, False, "٦:4hello".encode()),
    (3, False, b"6:4hell\xff"),
    (3, False, b"2:b4AQ="),
    (3, False, b"5:b4AQ="),
    (3, False, b"5:b7AA=="),
    (3, False, b"1:b"),
    (3, True, b"\2\1\xff4"),
    (3, True, b"\0\xff"),
    (3, True, b"\0\x0a\xff4"),
    (3, True, b"\0\2\xff4"),
    (3, True, b"\0" + b"\1" * 11 + b"\xff4"),
    (3, True, b"\0\1"),
    (3, True, b"\0\2\xff4\xff"),
    (3, True, b"\1\0\xff"),
    (3, True, b"\1\1\xff\7"),
)

texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x1e"), max_size=20)
packets = st.one_of(
    st.builds(EnginePacket, st.sampled_from(EnginePacketType), texts.map(str.encode)),
    st.builds(EnginePacket, st.just(MESSAGE), st.binary(max_size=20), st.just(True)),
)
forms = st.sampled_from(((4, False), (3, False), (3, True)))


class PayloadTests(SynchronousTestCase):
    """What a poll and a POST carry."""

    def test_documented(self) -> None:
        """The examples of both versions' documents are read and written as they stand there."""
        for version, binary, body, expected in PAYLOADS:
            self.assertEqual(expected, list(decode_payload(body, version, binary)), body)
            records = [encode_record(packet, version, binary) for packet in expected]
            self.assertEqual(body, join_records(records, version))

    @given(forms, st.lists(packets, min_size=1, max_size=5))
    def test_round_trip(self, form: tuple[int, bool], sent: list[EnginePacket]) -> None:
        """Packets arrive as they were sent, in order, in each form of a payload."""
        version, binary = form
        body = join_records([encode_record(packet, version, binary) for packet in sent], version)
        self.assertEqual(sent, list(decode_payload(body, version, binary)))

    def test_malformed(self) -> None:
        """What is wrong is refused with a reason, never with another error."""
        for version, binary, body in MALFORMED:
            with self.assertRaises(PacketError) as caught:
                list(decode_payload(body, version, binary))
            self.assertTrue(str(caught.exception).isascii())

    @given(st.sampled_from(((4, False), (3, False), (3, True), (4, True))), st.binary(max_size=30))
    def test_any_bytes(self, form: tuple[int, bool], body: bytes) -> None:
        """Bytes are packets or refused. What is read has one spelling but for the padding bits of base64."""
        version, binary = form
        try:
            found = list(decode_payload(body, version, binary))
        except PacketError:
            return
        again = join_records([encode_record(packet, version, binary) for packet in found], version)
        self.assertEqual(found, list(decode_payload(again, version, binary)))

    def test_one_at_a_time(self) -> None:
        """The packets before what is wrong are given; a body of many packets makes none before it is asked."""
        payload = decode_payload(b"4hello\x1e9", 4)
        self.assertEqual(HELLO, next(payload))
        self.assertRaises(PacketError, next, payload)
        self.assertEqual(HELLO, next(decode_payload(b"6:4hello" * 100_000, 3)))

    @given(st.lists(texts.filter(lambda text: not text[:1].isnumeric()), min_size=1, max_size=10), st.binary())
    def test_like_python_engineio(self, sent: list[str], data: bytes) -> None:
        """python-engineio writes the same bytes in version 4, and reads ours."""
        peers = [PeerPacket(4, text) for text in sent] + [PeerPacket(4, data)]
        ours = [EnginePacket(MESSAGE, text.encode()) for text in sent] + [EnginePacket(MESSAGE, data, True)]
        body = join_records([encode_record(packet, 4) for packet in ours], 4)
        self.assertEqual(PeerPayload(peers).encode().encode(), body)
        self.assertEqual(ours, list(decode_payload(body, 4)))


class WebSocketTests(SynchronousTestCase):
    """What one WebSocket message carries."""

    def test_text(self) -> None:
        """A text is its type's digit and its data, in both versions."""
        for text, packet in ((b"2probe", EnginePacket(PING, b"probe")), (b"4hello", HELLO), (b"6", EnginePacket(NOOP))):
            self.assertEqual(packet, decode_text(text))
            self.assertEqual(text, encode_text(packet.type, packet.data))

    def test_binary(self) -> None:
        """Binary data goes as it is in version 4, and after a byte with its type in version 3."""
        for version, frame in ((4, b"\1\2\3\4"), (3, b"\4\1\2\3\4")):
            self.assertEqual(BYTES, decode_binary(frame, version))
            self.assertEqual(frame, encode_binary(BYTES.data, version))
        self.assertEqual(EnginePacket(MESSAGE, b"", True), decode_binary(b"", 4))

    def test_malformed(self) -> None:
        """A message without a type is refused."""
        for text in (b"", b"7", b"-", b"b", b"x"):
            self.assertRaises(PacketError, decode_text, text)
        for frame in (b"", b"\7", b"4"):
            self.assertRaises(PacketError, decode_binary, frame, 3)


def posted(payload: str) -> bytes:
    """What a browser sends for a JSONP client: the client doubles a backslash before n, and escapes newlines."""
    return b"d=" + quote_plus(payload.replace("\\n", "\\\\n").replace("\n", "\\n")).encode()


class JSONPTests(SynchronousTestCase):
    """The forms that go up, and the scripts that come down."""

    @given(st.text("\\n\nab+ &=€😀", max_size=20).filter(lambda payload: "\\\n" not in payload))
    def test_form(self, payload: str) -> None:
        """A form gives what the client sent: newlines, backslashes, spaces and all other signs.

        The clients' escapes can't tell a backslash before a newline; JSON never has these two together.
        """
        self.assertEqual(payload.encode(), decode_jsonp_body(posted(payload)))

    def test_malformed_forms(self) -> None:
        """A form has one field, which is d."""
        for body in (b"", b"4hello", b"e=4hello", b"d=4hello&d=4hello", b"a=1&d=4", b"D=4"):
            self.assertRaises(PacketError, decode_jsonp_body, body)

    def test_script(self) -> None:
        """The payload is one string of JavaScript, also where JSON has more signs than JavaScript had."""
        self.assertEqual(b'___eio[4]("6:4hello");', encode_jsonp(b"4", b"6:4hello"))
        script = encode_jsonp(b"0", '4"\\\n\u2028\u2029€\x1e\u2028'.encode()).decode()
        self.assertFalse(set("\n\u2028\u2029\x1e") & set(script))
        self.assertEqual('4"\\\n\u2028\u2029€\x1e\u2028', json.loads(script[len("___eio[0](") : -2]))

    def test_index(self) -> None:
        """Nothing but digits gets into the script."""
        for index in (b"", b"a", b"1]", b"-1", "٣".encode(), b"1\n", b"1" * 17):
            self.assertRaises(PacketError, encode_jsonp, index, b"6")
