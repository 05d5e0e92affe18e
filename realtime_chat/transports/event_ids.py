"""The ids of event streams: the positions of all rooms, which come back in ``Last-Event-ID``.

The id of a stream of one room is a position, ``EPOCH:OFFSET``. With several rooms it is ``ROOM=EPOCH:OFFSET,…``. Where
the names are long, it is ``#DIGEST=EPOCH:OFFSET,…`` instead: the positions in the order of the URL's rooms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b

from realtime_chat.http.request import MAX_LINE
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import Position

__all__ = ["check_id_length", "id_writer", "read_id"]

_LONGEST_POSITION = len("=k3x9wq2a:9007199254740992,")
_MAX_NAMES = 1024
"""Characters of rooms' names that an id may have."""

_ID_EXPECTED = (
    "Last-Event-ID is an id of this stream: the position EPOCH:OFFSET where it reads one room, and else "
    "ROOM=EPOCH:OFFSET for each, with commas between, or what stood there"
)


def check_id_length(rooms: Sequence[str]) -> None:
    """Check that the longest id of these rooms fits into a request's header. Otherwise no stream could be resumed.

    :raises RealtimeError: ``too_many``.
    """
    if _MAX_NAMES + _LONGEST_POSITION * len(rooms) > MAX_LINE:
        raise RealtimeError(
            "too_many",
            f"the id of a stream of these rooms could be longer than {MAX_LINE} bytes; read some by another stream",
        )


def id_writer(rooms: Sequence[str]) -> Callable[[Mapping[str, str]], str]:
    """What makes the id of a stream of several rooms out of the positions in these.

    An id names the rooms if their names are short: it comes back in a header, whose length servers and proxies limit.
    """
    return _name_positions if sum(map(len, rooms)) <= _MAX_NAMES else _list_positions


def _name_positions(positions: Mapping[str, str]) -> str:
    return ",".join([f"{room}={position}" for room, position in positions.items() if position])


def _list_positions(positions: Mapping[str, str]) -> str:
    """The positions in the order of the rooms, after a digest of the rooms. No room's name begins with ``#``."""
    return f"#{_rooms_digest(positions)}=" + ",".join(positions.values())


def _rooms_digest(rooms: Iterable[str]) -> str:
    return blake2b(",".join(rooms).encode(), digest_size=6).hexdigest()


def read_id(text: str, rooms: Sequence[str]) -> dict[str, Position]:
    """The positions in an id, by room.

    :raises RealtimeError: ``bad_position``.
    """
    positions = _read_positions(text, rooms)
    try:
        return {room: Position.parse(position) for room, position in positions.items()}
    except RealtimeError as error:
        raise RealtimeError("bad_position", _ID_EXPECTED) from error


def _read_positions(text: str, rooms: Sequence[str]) -> dict[str, str]:
    digest, _, listed = text.removeprefix("#").partition("=")
    if text.startswith("#"):
        positions = listed.split(",")
        if digest != _rooms_digest(rooms) or len(positions) != len(rooms):
            raise RealtimeError("bad_position", "Last-Event-ID is of a stream of other rooms, or of another order")
        return {room: position for room, position in zip(rooms, positions, strict=True) if position}
    if len(rooms) == 1:
        return {rooms[0]: text}
    pairs = [part.partition("=") for part in text.split(",")]
    if len({room for room, _, _ in pairs}) < len(pairs):
        raise RealtimeError("bad_position", "Last-Event-ID names each room once")
    if not {room for room, _, _ in pairs} <= set(rooms):
        raise RealtimeError("bad_position", "Last-Event-ID names a room that this stream doesn't read")
    return {room: position for room, _, position in pairs}
