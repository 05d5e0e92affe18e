"""In which rooms a socket of a recovery namespace was, and at which offsets of the namespace's log.

Where a socket was when an event was stored decides whether it gets the event. Where it is when the event is sent counts
for nothing: a slow client still gets what came before it left a room.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import msgspec

_UNLIMITED = 2**62

MAX_ENDED = 100
"""How many stays in rooms that it has left are known of a socket."""


def check_rooms(rooms: Iterable[Any]) -> None:
    """Check names of rooms.

    :raises TypeError: one of them is something that the log can't keep.
    """
    for room in rooms:
        if not isinstance(room, str):
            name = type(room).__name__
            raise TypeError(f"with recovery = True a room's name is a str, not {name}; right would be str(room)")


class Stay(NamedTuple):
    """A stay in a room that has ended.

    :param after: the events after this offset are for the socket,
    :param upto: and those up to this one.
    """

    room: str
    after: int
    upto: int


class Memberships(msgspec.Struct):
    """The rooms of one socket.

    :ivar id: of the socket, which is a room of its own.
    :ivar rooms: by their names, the offset after which it is in them.
    :ivar ended: stays that have ended, by when they ended.
    :ivar floor: what was for the socket up to this offset is not known any more.
    """

    id: str
    rooms: dict[str, int] = {}
    ended: list[Stay] = []
    floor: int = 0

    def enter(self, room: str, after: int) -> None:
        """Be in a room from an offset on. Nothing changes if the socket is in it."""
        self.rooms.setdefault(room, after)

    def leave(self, room: str, upto: int) -> None:
        """Be in a room up to an offset."""
        after = self.rooms.pop(room, upto)
        if after < upto:
            self.ended.append(Stay(room, after, upto))
            if len(self.ended) > MAX_ENDED:
                self.floor = self.ended.pop(0).upto

    def was_in(self, room: str, offset: int) -> bool:
        """Whether it was in a room at an offset."""
        if room == self.id or self.rooms.get(room, _UNLIMITED) < offset:
            return True
        return any(stay.after < offset <= stay.upto for stay in self.ended if stay.room == room)

    def was_in_any(self, rooms: Collection[str], offset: int) -> bool:
        """Whether it was in at least one of some rooms at an offset."""
        return any(self.was_in(room, offset) for room in rooms)
