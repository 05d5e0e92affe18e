"""Socket.IO's packets: versions 5 (on Engine.IO 4) and 4 (on Engine.IO 3) of the protocol.

A packet is a text, and after it come its binary attachments. The format is in the README of
``socketio/socket.io-protocol``, in its branches ``main`` and ``v4``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from realtime_chat.engineio.packets import PacketError
from realtime_chat.values.errors import UnreadableCommand
from realtime_chat.values.json import decode_body, encode_value

__all__ = [
    "MAX_ATTACHMENTS",
    "MAX_DEPTH",
    "MAX_ID",
    "MAX_NAMESPACE",
    "RESERVED_EVENTS",
    "EncodedPacket",
    "Packet",
    "PacketReader",
    "PacketType",
    "check_namespace",
    "encode_packet",
]

MAX_ATTACHMENTS = 10
"""The binary attachments of one packet that is read."""

MAX_DEPTH = 100
"""How deep the JSON of a packet that is read may nest."""

MAX_ID = 2**53
"""The highest id of an event: the end of JavaScript's exact integers."""

MAX_NAMESPACE = 512
"""The bytes of a namespace's name."""

RESERVED_EVENTS = frozenset(
    ("connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener")
)
"""Names of events that no packet may carry, as Socket.IO emits these itself."""


class PacketType(IntEnum):
    """The types of packets; each stands for one digit."""

    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6


class Packet(msgspec.Struct, frozen=True):
    """A packet that was read, with its attachments in their places.

    :param type: never ``BINARY_EVENT`` or ``BINARY_ACK``: such packets become ``EVENT`` and ``ACK``.
    :param data: of an event, its name (a string or a number) and its arguments; of an acknowledgement, its arguments.
        Of ``CONNECT``, the client's ``auth``; in version 4 that is the query of the namespace. None stands for no data.
    :param id: of an event, what its acknowledgement must repeat. An acknowledgement always has one.
    """

    type: PacketType
    namespace: str
    data: Any = None
    id: int | None = None


class EncodedPacket(msgspec.Struct, frozen=True):
    """A packet to send: one for all sockets that get it.

    :param head: the type, the number of attachments, and the namespace.
    :param payload: JSON, or nothing.
    :param attachments: each is a binary message of its own, right after the text.
    """

    head: bytes
    payload: bytes = b""
    attachments: tuple[bytes, ...] = ()

    def text(self, id: int | None = None) -> bytes:
        """The text to send, with an id that may be another one for each socket."""
        return self.head + self.payload if id is None else b"%b%d%b" % (self.head, id, self.payload)


class _Rule(NamedTuple):
    """What a type of packet may carry."""

    type: PacketType
    accepts: Callable[[Any], bool]
    wanted: str
    may_have_id: bool = False
    needs_id: bool = False


def _is_event(data: Any) -> bool:
    if not isinstance(data, (list, tuple)) or not data:
        return False
    name = data[0]
    return name not in RESERVED_EVENTS if type(name) is str else type(name) in (int, float)


_EVENT = _Rule(
    PacketType.EVENT,
    _is_event,
    "the data of an event is an array that begins with its name, a string that Socket.IO doesn't reserve, or a number",
    may_have_id=True,
)
_ACK = _Rule(
    PacketType.ACK,
    lambda data: isinstance(data, (list, tuple)),
    "the data of an acknowledgement is an array, and before it stands the id of the event",
    may_have_id=True,
    needs_id=True,
)
_RULES = (
    _Rule(
        PacketType.CONNECT,
        lambda data: data is None or isinstance(data, dict),
        "the data of CONNECT is an object, or there is none",
    ),
    _Rule(PacketType.DISCONNECT, lambda data: data is None, "DISCONNECT has no data"),
    _EVENT,
    _ACK,
    _Rule(
        PacketType.CONNECT_ERROR,
        lambda data: isinstance(data, (dict, str)),
        "the data of CONNECT_ERROR is an object or a string",
    ),
    _EVENT,
    _ACK,
)
"""By the type's digit."""

_HEADER = re.compile(rb"(?:[0-4]|[56]([0-9]++)-)(?:(/[^,\x00-\x1f\x7f]*+)(?:,|\Z))?+([0-9]++)?+")
_NAME = re.compile(r"/[^,?\x00-\x1f\x7f]*")
_MAX_DIGITS = len(str(MAX_ID))


class PacketReader:
    """Puts packets together from what one connection receives.

    After an error it must not be used again: what comes next may belong to the packet that was refused.

    :param version: of Socket.IO's protocol: 5 or 4.
    :param max_bytes: of a packet's text and its attachments together.
    """

    def __init__(self, version: int, max_bytes: int) -> None:
        self._version = version
        self._max_bytes = max_bytes
        self._incomplete: Packet | None = None
        self._attachments: list[bytes] = []
        self._missing = 0
        self._size = 0

    def read_text(self, text: bytes) -> Packet | None:
        """Read a text; None if attachments are to come.

        :raises PacketError: it is no packet, or an attachment should have come.
        """
        if self._missing:
            raise PacketError(f"{self._missing} binary attachments are missing, and a text came instead")
        self._check_size(len(text))
        if text.startswith(b"2["):  # most packets are events of the main namespace without an id
            return self._packet(_EVENT, None, None, _decode_json(text[1:]))
        header = _HEADER.match(text)
        if header is None:
            raise PacketError("a Socket.IO packet begins with its type, a digit from 0 to 6; after 5 and 6 comes N-")
        attachments, path, digits = header.groups()
        end = header.end()
        data = _decode_json(text[end:]) if end < len(text) else None
        packet = self._packet(_RULES[text[0] - 48], path, digits, data)
        return packet if attachments is None else self._expect(packet, attachments, len(text))

    def _packet(self, rule: _Rule, path: bytes | None, digits: bytes | None, data: Any) -> Packet:
        id = None if digits is None else _read_number(digits, MAX_ID, "an id")
        if not rule.accepts(data) or (rule.needs_id if id is None else not rule.may_have_id):
            raise PacketError(rule.wanted if id is None or rule.may_have_id else "only events and acks have an id")
        namespace = "/"
        if path is not None:
            namespace, data = self._split(rule.type, _decode_text(path), data)
        return Packet(rule.type, namespace, data, id)

    def read_binary(self, data: bytes) -> Packet | None:
        """Read an attachment; None if others are to come.

        :raises PacketError: no packet wants one, or the packet's placeholders are wrong.
        """
        if self._incomplete is None:
            raise PacketError("a binary attachment came, and no packet before it announced one")
        self._size += len(data)
        self._check_size(self._size)
        self._attachments.append(data)
        self._missing -= 1
        return None if self._missing else self._complete(self._incomplete)

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise PacketError(f"a packet and its attachments have at most {self._max_bytes} bytes")

    def _split(self, type: PacketType, namespace: str, data: Any) -> tuple[str, Any]:
        """Take the query off a namespace: in version 4 it is what CONNECT has for data."""
        if self._version == 4 and type is PacketType.CONNECT:
            namespace, _, query = namespace.partition("?")
            data = dict(parse_qsl(query, keep_blank_values=True)) or None
        if len(namespace.encode()) > MAX_NAMESPACE:
            raise PacketError(f"the name of a namespace has at most {MAX_NAMESPACE} bytes")
        return namespace, data

    def _expect(self, packet: Packet, attachments: bytes, size: int) -> Packet | None:
        self._size = size
        self._missing = _read_number(attachments, MAX_ATTACHMENTS, "the number of attachments")
        if not self._missing:
            return self._complete(packet)
        self._incomplete = packet
        return None

    def _complete(self, packet: Packet) -> Packet:
        attachments: list[bytes | None] = [*self._attachments]
        self._incomplete, self._attachments = None, []
        data = _with_attachments(packet.data, attachments)
        if any(attachment is not None for attachment in attachments):
            raise PacketError("a packet has a placeholder for each of its attachments")
        return Packet(packet.type, packet.namespace, data, packet.id)


def _decode_text(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise PacketError("the name of a namespace is UTF-8") from error


def _decode_json(raw: bytes) -> Any:
    try:
        value = decode_body(raw, MAX_DEPTH)
    except UnreadableCommand as error:
        raise PacketError(error.message) from error
    if value is None:
        raise PacketError("the data of a packet is never null; leave it out where there is none")
    return value


def _read_number(digits: bytes, most: int, what: str) -> int:
    if len(digits) <= _MAX_DIGITS and (digits[0] != 48 or len(digits) == 1) and (number := int(digits)) <= most:
        return number
    raise PacketError(f"{what} is a whole number up to {most}, without zeros before it")


def _with_attachments(value: Any, attachments: list[bytes | None]) -> Any:
    """Put attachments where their placeholders are, and None where each one was.

    It calls itself once a level, and there are at most ``MAX_DEPTH`` levels.
    """
    if isinstance(value, list):
        return [_with_attachments(item, attachments) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("_placeholder") is True:
        return _take_attachment(value.get("num"), attachments)
    return {key: _with_attachments(item, attachments) for key, item in value.items()}


def _take_attachment(number: Any, attachments: list[bytes | None]) -> bytes:
    if type(number) is int and 0 <= number < len(attachments):
        attachment, attachments[number] = attachments[number], None
        if attachment is not None:
            return attachment
    raise PacketError("a placeholder's num is the number of an attachment, from 0, and each stands once")


_BINARY = (bytes, bytearray, memoryview)
_DIGITS = tuple(b"%d" % type for type in PacketType)
_SCALARS = frozenset((str, int, float, bool, type(None)))


def encode_packet(type: PacketType, namespace: str = "/", data: Any = None) -> EncodedPacket:
    """Encode a packet, once for all sockets that get it.

    In an event or an acknowledgement, bytes become attachments. NaN and infinities become null, as in JavaScript.

    :param type: not ``BINARY_EVENT`` or ``BINARY_ACK``, as the data says that.
    :raises TypeError: JSON has no such type.
    :raises ValueError: the packet can't carry this data, or JSON can't.
    """
    rule = _RULES[type]
    if rule.type is not type or not rule.accepts(data):
        raise ValueError(f"this can't be sent: {rule.wanted}")
    attachments: list[bytes] = []
    try:
        payload = b"" if data is None else encode_value(data)
        if rule.may_have_id and not _is_plain(data):
            plain = msgspec.to_builtins(data, builtin_types=_BINARY, str_keys=True)
            payload = encode_value(_without_attachments(plain, attachments))
    except (OverflowError, RecursionError, UnicodeError) as error:
        raise ValueError(f"this can't be said in JSON: {error}") from error
    path = b"" if namespace == "/" else namespace.encode() + b","
    if attachments:
        return EncodedPacket(b"%b%d-%b" % (_DIGITS[type + 3], len(attachments), path), payload, tuple(attachments))
    return EncodedPacket(_DIGITS[type] + path, payload)


def _is_plain(values: Iterable[Any]) -> bool:
    """Whether values hold nothing but what JSON has; else there may be bytes in them.

    :param values: no circle, and not too deep: JSON was made of them.
    """
    for item in values:
        kind = type(item)
        if kind in _SCALARS:
            continue
        if kind is not dict and kind is not list and kind is not tuple:
            return False
        if not _is_plain(item.values() if kind is dict else item):
            return False
    return True


def _without_attachments(value: Any, attachments: list[bytes]) -> Any:
    """Put placeholders where bytes are, and collect the bytes."""
    if isinstance(value, _BINARY):
        attachments.append(bytes(value))
        return {"_placeholder": True, "num": len(attachments) - 1}
    if isinstance(value, (list, tuple)):
        return [_without_attachments(item, attachments) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("_placeholder") is True:
        # A client that is sent somebody's placeholder puts an attachment there, or closes the connection.
        raise ValueError("this can't be sent with bytes beside it: a dict has the key _placeholder")
    return {key: _without_attachments(item, attachments) for key, item in value.items()}


def check_namespace(name: str) -> str:
    """Return the name of a namespace, if it is one.

    :raises ValueError: it doesn't begin with ``/``, is too long, or has a comma, question mark or control character.
    """
    if not _NAME.fullmatch(name) or len(name.encode()) > MAX_NAMESPACE:
        raise ValueError(
            f"a namespace begins with /, has at most {MAX_NAMESPACE} bytes, and no comma, question mark or control "
            "character"
        )
    return name
