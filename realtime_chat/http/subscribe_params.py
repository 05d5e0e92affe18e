"""What a URL says that its sender wants to read: ``?room=…&since=…&last=…&name=…``."""

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

__all__ = [
    "Parameters",
    "SubscribeParams",
    "check_rooms",
    "memoized",
    "natural",
    "one",
    "read_query",
    "read_subscribe_params",
    "unquoted",
]

Parameters = Mapping[bytes, Sequence[bytes]]
"""The values of each name in an address's query."""

MAX_PARAMETERS = 1024
"""How many parameters a query may have: more than any that fits a line, if each of them says something."""

_REMEMBERED = 256
"""So many queries of at most so many bytes are remembered."""

_MANY_ESCAPES = 64
_STRAY = re.compile(rb"%(?![0-9A-Fa-f]{2})")

T = TypeVar("T")


@attrs.frozen
class SubscribeParams:
    """Rooms to read, each with the position to read on from, if there is one.

    :ivar name: the name that the sender goes by.
    :ivar last: how many messages to start with where there is no position; None for the usual number.
    :ivar versions: what a poll was told of who is in the rooms, one version for each in order, perhaps empty ones;
        none where its client keeps none.
    """

    rooms: tuple[tuple[str, Position | None], ...] = ()
    last: int | None = None
    name: str | None = None
    versions: tuple[str, ...] = ()


def memoized(read: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """Make what reads a query give the same answer to the same one again, without reading it: of the polls of a room,
    nearly all ask the same. What it gives is shared, and so must be frozen."""
    remembered = lru_cache(_REMEMBERED)(read)
    return lambda query: remembered(query) if len(query) <= _REMEMBERED else read(query)


@memoized
def read_query(query: bytes) -> Parameters:
    """Read an address's query; what is no NAME=VALUE is nothing.

    :raises RealtimeError: ``bad_request``.
    """
    if query.count(b"&") >= MAX_PARAMETERS:  # before any of it is read
        raise RealtimeError("bad_request", f"a query has at most {MAX_PARAMETERS:,} parameters, joined by &")
    args: dict[bytes, list[bytes]] = {}
    for pair in query.split(b"&"):
        name, equals, value = pair.partition(b"=")
        if equals:
            args.setdefault(unquoted(name), []).append(unquoted(value))
    return MappingProxyType(args)


def unquoted(text: bytes) -> bytes:
    """A name or a value of a query or a form, without its escapes; a ``%`` that begins none stands for itself."""
    if b"+" in text:
        text = text.replace(b"+", b" ")
    escapes = text.count(b"%")
    if escapes < _MANY_ESCAPES:
        return unquote_to_bytes(text) if escapes else text
    for _ in range(2):  # more than one in a row first, which the pattern would find one by one
        text = text.replace(b"%%", b"%25%")
    text = _STRAY.sub(b"%25", text).replace(b"\\", b"\\\\")
    return text.replace(b"%", b"\\x").decode("unicode_escape").encode("latin-1")  # the same, at a tenth of the time


def one(args: Parameters, name: bytes) -> str | None:
    """A parameter that is given once or not at all.

    :raises RealtimeError: ``bad_request``.
    """
    values = args.get(name, ())
    if len(values) > 1:
        raise RealtimeError("bad_request", f"{name.decode()} is given at most once")
    return _text(name, values[0]) if values else None


def natural(args: Parameters, name: bytes, most: int) -> int | None:
    """A parameter that is a whole number; more than ``most`` is taken as ``most``.

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
    """Refuse a reader that names no room, or too many.

    :param what: what it is, for the message.
    :param example: an address that would be right.
    :raises RealtimeError: ``bad_request`` or ``too_many``.
    """
    if not params.rooms:
        raise RealtimeError("bad_request", f"{what} names at least one room: {example}")
    if len(params.rooms) > most:
        with naming(params.rooms[most][0]):
            raise RealtimeError("too_many", f"{what} reads at most {most} rooms")


def read_subscribe_params(args: Parameters, most_last: int) -> SubscribeParams:
    """Read the parameters of a WebSocket's, an event stream's or a poll's URL.

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
    positions = [Position.parse(text) if text else None for text in since] or [None] * len(rooms)
    name = one(args, b"name")
    return SubscribeParams(
        tuple(zip(rooms, positions, strict=True)),
        natural(args, b"last", most_last),
        check_name(name) if name else None,
        tuple(versions),
    )


def _text(name: bytes, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RealtimeError("bad_request", f"{name.decode()} is UTF-8, and this is not") from error
