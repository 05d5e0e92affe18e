"""The values that everything else speaks of: positions, messages, users and pages of a log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import msgspec

from realtime_chat.values.errors import RealtimeError

__all__ = [
    "ANONYMOUS",
    "AppendResult",
    "Draft",
    "ForwardedCommand",
    "Message",
    "Page",
    "Position",
    "RemoteClient",
    "User",
    "check_event",
    "check_key",
    "check_name",
    "check_reader",
    "check_room",
    "is_room",
    "listed_ranges",
    "may_read",
    "naming",
    "private_owner",
]

_REMEMBERED = 1024
"""So many names that were found right are not looked at again."""

_LAST = "\x7f"
"""Comes after every character that a room's name may have."""

_ROOM = re.compile(r"[A-Za-z0-9_.:@~-]{1,128}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_POSITION = re.compile(r"([A-Za-z0-9_-]{1,64}):(0|[1-9][0-9]{0,15})")


class Position(msgspec.Struct, frozen=True):
    """A place in a room's log.

    :param epoch: which log; a new log has a new epoch.
    :param offset: 1, 2, 3, … without a hole; 0 is "before the first".
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read ``EPOCH:OFFSET``.

        :raises RealtimeError: ``bad_position``.
        """
        match = _POSITION.fullmatch(text)
        if match is None:
            raise RealtimeError(
                "bad_position",
                "a position is the string EPOCH:OFFSET that the server gave, such as k3x9:42",
            )
        return cls(match[1], int(match[2]))


class User(msgspec.Struct, frozen=True):
    """Who somebody is, as others see it.

    :param id: the same on every node and after a restart.
    :param guest: whether nobody vouches for the id and the name.
    """

    id: str
    name: str
    guest: bool = True


ANONYMOUS = User("anonymous", "anonymous")
"""Whoever sends plain HTTP without a client or a token; never a member."""


class Draft(msgspec.Struct, frozen=True):
    """A message before the log has given it a place.

    :param data: the sender's value as compact JSON.
    :param key: the sender's own name for it, unique for a room and a user.
    :param after: the key of the sender's message in this room that has to be stored before it; only together with
        ``key``.
    """

    room: str
    event: str
    data: bytes
    sender: User
    key: str | None = None
    after: str | None = None

    def placed(self, position: Position, at: int) -> Message:
        """The message that it is at a place in its log."""
        sender = self.sender
        return Message(self.room, position, self.event, self.data, sender.id, sender.name, at, self.key)


class Message(msgspec.Struct, frozen=True):
    """One stored entry of a room's log.

    :param data: the sender's value as compact JSON.
    :param at: milliseconds since 1970 by the server's clock; it orders nothing.
    """

    room: str
    position: Position
    event: str
    data: bytes
    sender_id: str
    sender_name: str
    at: int
    key: str | None = None


class AppendResult(msgspec.Struct, frozen=True):
    """What the store answers to an append, once the message is durable.

    :param message: the stored entry; where ``duplicate``, the first one under that key.
    :param duplicate: whether the same content was there already under the same key.
    """

    message: Message
    duplicate: bool = False


class Page(msgspec.Struct, frozen=True):
    """Some consecutive messages of a room, and the bounds of its log at the moment of the read.

    :param oldest: the lowest offset that is kept; ``top + 1`` where nothing is.
    :param top: the highest offset that was ever given. A room's top outlives its messages; of a room that isn't there
        it is the highest one of all rooms that were forgotten, 0 where none was.
    :param messages: ascending by offset.
    :param begun: the offset after which the epoch's own messages begin; what is below was kept from an earlier epoch,
        and may lack its end. A reader of another epoch goes on from here.
    """

    epoch: str
    oldest: int
    top: int
    messages: tuple[Message, ...] = ()
    begun: int = 0


class RemoteClient(msgspec.Struct, frozen=True):
    """A client that is in a room by way of one node, as the other nodes know it.

    :param client_hash: names the client between nodes. It is the same on every node. Nobody can find the client's
        key from it.
    :param state: what it says of itself, as a compact JSON object.
    :param changed: when its name or state changed last, in milliseconds since 1970; 1 where it has only given a name
        so far, 0 where it has said nothing. Where clients of one user differ, or nodes about a client, the later one
        counts.
    """

    client_hash: str
    user: User
    state: bytes = b"{}"
    changed: int = 0


class ForwardedCommand(msgspec.Struct, frozen=True):
    """What a client says to whichever node it has reached, and is for those by way of which it is in rooms.

    :param client_hash: the client's.
    :param state: what it says of itself from now on, as a compact JSON object; None where it says nothing of itself.
    :param leaves: the room that it is about to leave; None where it leaves none.
    """

    client_hash: str
    state: bytes | None = None
    leaves: str | None = None


def check_room(name: Any) -> str:
    """Give back a room's name.

    :raises RealtimeError: ``bad_room``.
    """
    return _checked_room(name if isinstance(name, str) else "")


@lru_cache(_REMEMBERED)
def _checked_room(name: str) -> str:
    if not is_room(name):
        raise RealtimeError(
            "bad_room",
            "a room's name is 1 to 128 characters of A-Z a-z 0-9 _ - . : @ ~, and neither . nor ..",
        )
    return name


def is_room(name: str) -> bool:
    """Whether this can be a room's name."""
    return _ROOM.fullmatch(name) is not None and name not in (".", "..")


@contextmanager
def naming(room: str) -> Iterator[None]:
    """Let an error that is about one room of several say which one it is, where that is a room's name at all."""
    try:
        yield
    except RealtimeError as error:
        error.room = room if is_room(room) else None
        raise


def private_owner(room: str) -> str | None:
    """The id of the only user who may read ``room``; None where everybody may."""
    return room[1:] if room.startswith("@") else None


def may_read(user: User, room: str) -> bool:
    """Whether a user may read a room: a private one is its owner's alone."""
    return private_owner(room) in (None, user.id)


def listed_ranges(user: User, after: str) -> Iterator[tuple[str, str]]:
    """Where the rooms are that a user may read, in order: what the rooms of a range come after, and its end.

    Private rooms stand together, so that a list passes by those of others without looking at them.

    :param after: the first room comes after this name.
    """
    own = f"@{user.id}"
    ranges = (("", f"?{_LAST}"), (own[:-1] + chr(ord(own[-1]) - 1) + _LAST, own), (f"@{_LAST}", _LAST))
    return ((max(after, first), last) for first, last in ranges if after < last)


def check_reader(user: User, room: str) -> None:
    """Refuse another's private room.

    :raises RealtimeError: ``forbidden``.
    """
    if not may_read(user, room):
        raise RealtimeError("forbidden", "a room whose name begins with @ is read by the user of that id alone")


@lru_cache(_REMEMBERED)
def check_event(name: str) -> str:
    """Give back a client's event name.

    :raises RealtimeError: ``bad_request``; a leading ``$`` is kept for the server's own events.
    """
    if name.startswith("$"):
        raise RealtimeError("bad_request", "event names that begin with $ are the server's own")
    return _plain_text("event", name, 128)


def check_key(key: str) -> str:
    """Give back a publisher's key.

    :raises RealtimeError: ``bad_request``.
    """
    return _plain_text("key", key, 128)


def check_name(name: str) -> str:
    """Give back a user's display name without surrounding white space.

    :raises RealtimeError: ``bad_request``.
    """
    return _plain_text("name", name.strip(), 64)


def _plain_text(what: str, text: str, most: int) -> str:
    if not 1 <= len(text) <= most or _CONTROL.search(text):
        raise RealtimeError("bad_request", f"{what} is 1 to {most} characters without control characters")
    return text
