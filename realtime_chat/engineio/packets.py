"""Engine.IO's packets, as text, as binary and in the payloads of long polling: versions 3 and 4 of the protocol.

Data stays bytes: the UTF-8 of a text, or binary. The formats are in the README of ``socketio/engine.io-protocol``, in
its branches ``main`` and ``v3``. Those of JSONP are in the transport ``polling-jsonp`` of ``socketio/engine.io``.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from urllib.parse import unquote_to_bytes

import msgspec

from realtime_chat.values.json import json_in_script

__all__ = [
    "EnginePacket",
    "EnginePacketType",
    "PacketError",
    "decode_binary",
    "decode_jsonp_body",
    "decode_payload",
    "decode_text",
    "encode_binary",
    "encode_jsonp",
    "encode_record",
    "encode_text",
    "join_records",
]


class PacketError(ValueError):
    """A packet, a payload or a form that can't be read. The message repeats nothing of it, so that it may be logged."""


class EnginePacketType(IntEnum):
    """The types of packets; each stands for one digit."""

    OPEN = 0
    CLOSE = 1
    PING = 2
    PONG = 3
    MESSAGE = 4
    UPGRADE = 5
    NOOP = 6


class EnginePacket(msgspec.Struct, frozen=True):
    """One packet.

    :param data: the UTF-8 of a text, or binary data.
    :param binary: whether ``data`` is binary.
    """

    type: EnginePacketType
    data: bytes = b""
    binary: bool = False


_SEPARATOR = b"\x1e"
_TYPES: Mapping[int, EnginePacketType] = {ord("0") + type: type for type in EnginePacketType}
_DIGITS: Mapping[int, bytes] = {type: b"%d" % type for type in EnginePacketType}
_BAD_TYPE = "an Engine.IO packet begins with its type, a digit from 0 to 6"

_LENGTH = re.compile(rb"(0|[1-9][0-9]{0,9}):")
_WIDE_LENGTH = re.compile(rb"(0\x00|[1-9]\x00(?:[0-9]\x00){0,9}):\x00")
_BINARY_LENGTH = re.compile(rb"([\x00\x01])([\x00-\x09]{1,10})\xff")
_TO_DIGITS = bytes.maketrans(bytes(range(10)), b"0123456789")
_FROM_DIGITS = bytes.maketrans(b"0123456789", bytes(range(10)))

_ESCAPED_NEWLINE = re.compile(rb"(\\)?\\n")
_INDEX = re.compile(rb"[0-9]{1,16}")


def decode_text(text: bytes) -> EnginePacket:
    """Decode a WebSocket's text message.

    :param text: valid UTF-8.
    :raises PacketError: it has no type.
    """
    type = _TYPES.get(text[0]) if text else None
    if type is None:
        raise PacketError(_BAD_TYPE)
    return EnginePacket(type, text[1:])


def decode_binary(frame: bytes, version: int) -> EnginePacket:
    """Decode a WebSocket's binary message. In version 4 it is data alone, and in version 3 the first byte is the type.

    :raises PacketError: version 3: it has no type.
    """
    if version == 4:
        return EnginePacket(EnginePacketType.MESSAGE, frame, True)
    if not frame or frame[0] > EnginePacketType.NOOP:
        raise PacketError("a binary Engine.IO packet begins with its type, a byte from 0 to 6")
    return EnginePacket(EnginePacketType(frame[0]), frame[1:], True)


def decode_payload(body: bytes, version: int, binary: bool = False) -> Iterator[EnginePacket]:
    """Decode the body of a polling client's POST, one packet at a time.

    Each step may raise. The packets before what is wrong have been given by then.

    :param binary: whether the body is ``application/octet-stream``, which only version 3 has.
    :raises PacketError: it is empty, not UTF-8, cut off, or holds something that is no packet.
    """
    if not body:
        raise PacketError("a payload holds at least one packet, and this body is empty")
    decode = _PAYLOADS.get((version, binary))
    if decode is None:
        raise PacketError("version 4 of Engine.IO has no binary payloads; send text/plain, with binary data in base64")
    return decode(body)


def _decode_separated(body: bytes) -> Iterator[EnginePacket]:
    """Decode version 4: packets between separators."""
    _check_utf8(body)
    start = 0
    while start <= len(body):
        end = body.find(_SEPARATOR, start)
        end = len(body) if end < 0 else end
        yield _decode_record(body[start:end])
        start = end + 1


def _decode_record(record: bytes) -> EnginePacket:
    if record[:1] == b"b":
        return EnginePacket(EnginePacketType.MESSAGE, _decode_base64(record[1:]), True)
    return decode_text(record)


def _decode_base64(text: bytes) -> bytes:
    try:
        return a2b_base64(text, strict_mode=True)
    except Base64Error as error:
        raise PacketError("the data of a binary packet in a text is base64, with its padding") from error


def _check_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise PacketError(f"a payload is UTF-8, and this is not (byte {error.start})") from error


def _decode_counted(body: bytes) -> Iterator[EnginePacket]:
    """Decode version 3: before each packet stands its length, in UTF-16 units."""
    if body.isascii():
        for start, end in _spans(body, _LENGTH, 1):
            yield _decode_record3(body[start:end])
        return
    _check_utf8(body)
    wide = body.decode().encode("utf-16-le")
    for start, end in _spans(wide, _WIDE_LENGTH, 2):
        yield _decode_record3(_narrowed(wide[start:end]))


def _spans(body: bytes, length: re.Pattern[bytes], unit: int) -> Iterator[tuple[int, int]]:
    """Where the packets stand.

    :param length: matches a length and its colon.
    :param unit: the bytes of one UTF-16 unit.
    """
    end = 0
    while end < len(body):
        header = length.match(body, end)
        if header is None:
            raise PacketError("before a packet stands its length in UTF-16 units and a colon, as in 6:4hello")
        start = header.end()
        end = _end(body, start, int(header[1].replace(b"\0", b"")) * unit)
        yield start, end


def _end(body: bytes, start: int, length: int) -> int:
    if length > len(body) - start:
        raise PacketError("a packet is shorter than the length that stands before it")
    return start + length


def _narrowed(wide: bytes) -> bytes:
    try:
        return wide.decode("utf-16-le").encode()
    except UnicodeDecodeError as error:
        raise PacketError("a packet's length cuts a character in two; lengths count UTF-16 units") from error


def _decode_record3(record: bytes) -> EnginePacket:
    if record[:1] != b"b":
        return decode_text(record)
    return EnginePacket(decode_text(record[1:2]).type, _decode_base64(record[2:]), True)


def _decode_binary_payload(body: bytes) -> Iterator[EnginePacket]:
    """Decode version 3: each packet after 0 (text) or 1 (binary), the digits of its length in bytes, and 255."""
    end = 0
    while end < len(body):
        header = _BINARY_LENGTH.match(body, end)
        if header is None:
            raise PacketError("before a packet stands a byte 0 or 1, its length as bytes from 0 to 9, and a byte 255")
        start = header.end()
        end = _end(body, start, int(header[2].translate(_TO_DIGITS)))
        packet = body[start:end]
        if header[1] == b"\x01":
            yield decode_binary(packet, 3)
        else:
            _check_utf8(packet)
            yield decode_text(packet)


_PAYLOADS: Mapping[tuple[int, bool], Callable[[bytes], Iterator[EnginePacket]]] = {
    (4, False): _decode_separated,
    (3, False): _decode_counted,
    (3, True): _decode_binary_payload,
}


def decode_jsonp_body(body: bytes) -> bytes:
    """Get the payload out of the form that a JSONP client posts.

    The client escapes newlines, as browsers change them in forms.

    :raises PacketError: the form has another field than ``d``, or several.
    """
    if not body.startswith(b"d=") or b"&" in body:
        raise PacketError("the body of a JSONP request is one field of a form, as in d=4hello")
    text = unquote_to_bytes(body[2:].replace(b"+", b" "))
    return _ESCAPED_NEWLINE.sub(lambda found: rb"\n" if found[1] else b"\n", text)


def encode_text(type: EnginePacketType, data: bytes = b"") -> bytes:
    """Encode a packet with text for a WebSocket, in either version.

    :param data: UTF-8.
    """
    return _DIGITS[type] + data


def encode_binary(data: bytes, version: int) -> bytes:
    """Encode a message with binary data for a WebSocket."""
    return data if version == 4 else b"\x04" + data


def encode_record(packet: EnginePacket, version: int, binary: bool = False) -> bytes:
    """Encode a packet as one part of a payload; :func:`join_records` joins them.

    :param binary: make it for a body of ``application/octet-stream``. In version 3 a client that can read one gets it
        if any packet of the payload is binary.
    """
    return _RECORDS[version, binary](packet)


def join_records(records: Iterable[bytes], version: int) -> bytes:
    """Join the parts of a payload."""
    return (_SEPARATOR if version == 4 else b"").join(records)


def _record4(packet: EnginePacket) -> bytes:
    if packet.binary:
        return b"b" + b2a_base64(packet.data, newline=False)
    return encode_text(packet.type, packet.data)


def _record3(packet: EnginePacket) -> bytes:
    text = encode_text(packet.type, packet.data)
    if packet.binary:
        text = b"b" + _DIGITS[packet.type] + b2a_base64(packet.data, newline=False)
    return b"%d:%b" % (_utf16_length(text), text)


def _utf16_length(text: bytes) -> int:
    return len(text) if text.isascii() else len(text.decode().encode("utf-16-le")) // 2


def _binary_record3(packet: EnginePacket) -> bytes:
    type = bytes((packet.type,)) if packet.binary else _DIGITS[packet.type]
    length = b"%d" % (1 + len(packet.data))
    return b"%c%b\xff%b%b" % (packet.binary, length.translate(_FROM_DIGITS), type, packet.data)


_RECORDS: Mapping[tuple[int, bool], Callable[[EnginePacket], bytes]] = {
    (4, False): _record4,
    (3, False): _record3,
    (3, True): _binary_record3,
}


def encode_jsonp(index: bytes, payload: bytes) -> bytes:
    """Encode the script that gives a JSONP client its payload.

    :param index: the query's ``j``.
    :param payload: UTF-8.
    :raises PacketError: ``index`` is no number. Nothing else may get into the script.
    """
    if not _INDEX.fullmatch(index):
        raise PacketError("j is the number of a JSONP callback, with 1 to 16 digits")
    return b"___eio[%b](%b);" % (index, json_in_script(msgspec.json.encode(payload.decode())))
