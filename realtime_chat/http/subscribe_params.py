"""The query parameters of a subscription: ``?room=…&since=…&last=…&name=…``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import unquote_to_bytes

import attrs

from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import Position, check_name, naming

Parameters = Mapping[bytes, Sequence[bytes]]
"""The values of each parameter in a query, by name."""

MAX_PARAMETERS = 1024
"""The most parameters in a query. A query with more doesn't fit a line, unless most of them are empty."""

_MAX_MEMOIZED = 256
"""The number of queries that are kept, and the bytes of the longest one that is."""

_MANY_ESCAPES = 64
_STRAY_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")

T = TypeVar("T")


@attrs.frozen
class SubscribeParams:
    """What a client subscribes to.

    :ivar rooms: the rooms, each with the position to resume from, or None.
    :ivar last: the number of messages to start with in a room without a position; None stands for the default.
    :ivar name: the user's display name.
    :ivar versions: the members' version that a poll has of each room, in order; a version may be empty. The tuple is
        empty if the client keeps none.
    :ivar properties: for each room in order, whether to read its properties, or the position in them to resume from.
        The tuple is empty if none are read.
    """

    rooms: tuple[tuple[str, Position | None], ...] = ()
    last: int | None = None
    name: str | None = None
    versions: tuple[str, ...] = ()
    properties: tuple[bool | Position, ...] = ()

    def properties_of(self, index: int) -> bool | Position:
        """The same for one room."""
        return self.properties[index] if self.properties else False

    @property
    def joins(self) -> int:
        """How many logs are read without a position, which costs a join each."""
        joins = sum(since is None for _, since in self.rooms)
        return joins + self.properties.count(True) if self.properties else joins


def memoized(read: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """Memoize a function of a short query. Nearly all polls of a room have the same one.

    Results are shared, so they must be immutable.
    """
    cached = lru_cache(_MAX_MEMOIZED)(read)
    return lambda query: cached(query) if len(query) <= _MAX_MEMOIZED else read(query)


@memoized
def read_query(query: bytes) -> Parameters:
    """Parse a query. A part that isn't NAME=VALUE is ignored.

    :raises RealtimeError: ``bad_request``.
    """
    if query.count(b"&") >= MAX_PARAMETERS:  # before any of it is read
        raise RealtimeError("bad_request", f"a query has at most {MAX_PARAMETERS:,} parameters, joined by &")
    args: dict[bytes, list[bytes]] = {}
    is_plain = b"%" not in query and b"+" not in query
    for pair in query.split(b"&"):
        name, equals, value = pair.partition(b"=")
        if equals and is_plain:
            args.setdefault(name, []).append(value)
        elif equals:
            args.setdefault(unquoted(name), []).append(unquoted(value))
    return MappingProxyType(args)


def unquoted(text: bytes) -> bytes:
    """Decode a name or a value of a query or a form. A ``%`` that begins no escape stands for itself."""
    if b"+" in text:
        text = text.replace(b"+", b" ")
    escapes = text.count(b"%")
    if escapes < _MANY_ESCAPES:
        return unquote_to_bytes(text) if escapes else text
    for _ in range(2):  # runs of % first, which the pattern would find one by one
        text = text.replace(b"%%", b"%25%")
    text = _STRAY_PERCENT.sub(b"%25", text).replace(b"\\", b"\\\\")
    return text.replace(b"%", b"\\x").decode("unicode_escape").encode("latin-1")  # a tenth of the time


def one(args: Parameters, name: bytes) -> str | None:
    """Return a parameter that may be given once, or None.

    :raises RealtimeError: ``bad_request``.
    """
    values = args.get(name, ())
    if len(values) > 1:
        raise RealtimeError("bad_request", f"{name.decode()} is given at most once")
    return _text(name, values[0]) if values else None


def natural(args: Parameters, name: bytes, most: int) -> int | None:
    """Return a parameter that is a whole number, at most ``most``, or None. A larger number is taken as ``most``.

    :raises RealtimeError: ``bad_request``.
    """
    text = one(args, name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise RealtimeError("bad_request", f"{name.decode()} is a whole number, 0 or more")
    digits = text.lstrip("0")
    return most if len(digits) > len(str(most)) else min(int(digits or "0"), most)


def check_rooms(params: SubscribeParams, most: int, what: str, example: str) -> None:
    """Check that a subscription names at least one room and at most ``most``.

    :param what: the kind of reader, for the message.
    :param example: a correct address, for the message.
    :raises RealtimeError: ``bad_request`` or ``too_many``.
    """
    if not params.rooms:
        raise RealtimeError("bad_request", f"{what} names at least one room: {example}")
    if len(params.rooms) > most:
        with naming(params.rooms[most][0]):
            raise RealtimeError("too_many", f"{what} reads at most {most} rooms")


def read_subscribe_params(args: Parameters, most_last: int) -> SubscribeParams:
    """Read the parameters of the URL of a WebSocket, an event stream or a poll.

    :param most_last: the upper limit of ``last``.
    :raises RealtimeError: ``bad_request`` or ``bad_position``.
    """
    rooms = [_text(b"room", room) for room in args.get(b"room", ())]
    since = [_text(b"since", since) for since in args.get(b"since", ())]
    if since and len(since) != len(rooms):
        raise RealtimeError("bad_request", "give no since at all, or one for each room in order, empty for none")
    if len(set(rooms)) < len(rooms):
        raise RealtimeError("bad_request", "a room is given at most once")
    versions = [_text(b"presence", version) for version in args.get(b"presence", ())]
    if versions and len(versions) != len(rooms):
        raise RealtimeError("bad_request", "give no presence at all, or one for each room in order, empty for none")
    properties = _read_properties(args[b"properties"], len(rooms)) if b"properties" in args else ()
    positions = [Position.parse(text) if text else None for text in since] or [None] * len(rooms)
    name = one(args, b"name")
    return SubscribeParams(
        tuple(zip(rooms, positions, strict=True)),
        natural(args, b"last", most_last),
        check_name(name) if name else None,
        tuple(versions),
        properties,
    )


def _read_properties(values: Sequence[bytes], rooms: int) -> tuple[bool | Position, ...]:
    texts = [_text(b"properties", value) for value in values]
    if texts == ["1"]:
        return (True,) * rooms
    if len(texts) != rooms:
        raise RealtimeError(
            "bad_request",
            "give properties=1 for all rooms, or one for each room in order: 1, a position, or empty for none",
        )
    return tuple([text == "1" if text in ("", "1") else Position.parse(text) for text in texts])


def _text(name: bytes, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RealtimeError("bad_request", f"{name.decode()} is UTF-8, and this is not") from error
