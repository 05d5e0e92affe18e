"""Frozen values that all other modules use: positions, messages, users and pages of a log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import msgspec

from realtime_chat.values.errors import RealtimeError

_CACHED_NAMES = 1024
"""How many checked names are cached, so that they are not checked again."""

_ROOM = re.compile(r"[A-Za-z0-9_.:@~-]{1,128}")
_NOT_IN_ROOMS = re.compile(r"[^A-Za-z0-9_.:@-]")
_PROPERTIES = "/properties"
_GUEST_ID = re.compile(r"(~?)(u[a-z2-7]{16})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_POSITION = re.compile(r"([A-Za-z0-9_-]{1,64}):(0|[1-9][0-9]{0,15})")


class Position(msgspec.Struct, frozen=True):
    """A place in a room's log.

    :param epoch: names the log; a new log has a new epoch.
    :param offset: the number of the message: 1, 2, 3, … without a gap. 0 is before the first message.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Parse ``EPOCH:OFFSET``.

        :raises RealtimeError: ``bad_position``.
        """
        match = _POSITION.fullmatch(text)
        if match is None:
            raise RealtimeError(
                "bad_position", "a position is the string EPOCH:OFFSET that the server gave, such as k3x9:42"
            )
        return cls(match[1], int(match[2]))


class User(msgspec.Struct, frozen=True):
    """A user as other users see them.

    :param id: the same on every node and after a restart. A guest's begins with ``~``.
    :param guest: whether the id and the name are unverified.
    """

    id: str
    name: str
    guest: bool = True


ANONYMOUS = User("anonymous", "anonymous")
"""The user of plain HTTP requests without a client or a token. It is never a member."""


class Draft(msgspec.Struct, frozen=True):
    """A message before it has a position in the log.

    :param room: the room, or the log of its properties; see :func:`properties_log`.
    :param data: the sender's value as compact JSON.
    :param sender: the user as stores name it; see :func:`author`.
    :param key: the idempotency key, unique for a room and a user.
    :param after: the key of an own message in this room that must be stored before; only together with ``key``.
    """

    room: str
    event: str
    data: bytes
    sender: User
    key: str | None = None
    after: str | None = None

    def placed(self, position: Position, at: int) -> Message:
        """The stored message, at a position in its log.

        :param at: milliseconds since 1970.
        """
        sender = self.sender
        return Message(self.room, position, self.event, self.data, sender.id, sender.name, at, self.key)


class Message(msgspec.Struct, frozen=True):
    """One stored message of a room's log.

    :param data: the sender's value as compact JSON.
    :param at: milliseconds since 1970 by the server's clock. Messages are not ordered by it.
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
    """The store's answer to an append, once the message is durable.

    :param message: the stored message; if ``duplicate``, the message that was stored first under this key.
    :param duplicate: whether the same content was stored before under the same key.
    """

    message: Message
    duplicate: bool = False


class Page(msgspec.Struct, frozen=True):
    """Consecutive messages of a room, and the bounds of its log at the moment of the read.

    :param oldest: the lowest offset that is kept; ``top + 1`` if no message is kept.
    :param top: the highest offset that was ever given. It stays when messages are dropped. If the store has no such
        room, it is the highest top of all rooms that were dropped, or 0.
    :param messages: ascending by offset.
    :param epoch_start: the offset after which the epoch's own messages begin. Messages up to it come from an earlier
        epoch, whose last messages may be missing. A reader of another epoch resumes from here.
    """

    epoch: str
    oldest: int
    top: int
    messages: tuple[Message, ...] = ()
    epoch_start: int = 0


class RemoteClient(msgspec.Struct, frozen=True):
    """A client that is in a room through one node, as the other nodes know it.

    :param client_hash: names the client between nodes. It is the same on every node; the client can't be derived from
        it.
    :param state: its presence state, a compact JSON object.
    :param changed: when its name or state changed last, in milliseconds since 1970; 1 if it has only given a name, 0
        if it has given nothing. If clients of one user differ, or nodes differ about a client, the latest change wins.
    """

    client_hash: str
    user: User
    state: bytes = b"{}"
    changed: int = 0


class ForwardedCommand(msgspec.Struct, frozen=True):
    """A command that reached one node, for the nodes through which the client is in rooms.

    :param client_hash: names the client that sent the command.
    :param state: its new presence state, a compact JSON object; None if it stays.
    :param leaves: the room that the client leaves; None if it leaves no room.
    :param renewed: the client as it is sealed now, if its user has renewed it. Other nodes verify it.
    :param user: the id of the user that has renewed it.
    :param order: of two renewals of one client, that of the higher order counts.
    """

    client_hash: str
    state: bytes | None = None
    leaves: str | None = None
    renewed: str | None = None
    user: str = ""
    order: tuple[int, int] = (0, 0)


def check_room(name: Any) -> str:
    """Return a room's name if it is valid.

    :raises RealtimeError: ``bad_room``.
    """
    return _checked_room(name if isinstance(name, str) else "")


@lru_cache(_CACHED_NAMES)
def _checked_room(name: str) -> str:
    if not is_room(name):
        raise RealtimeError(
            "bad_room", "a room's name is 1 to 128 characters of A-Z a-z 0-9 _ - . : @ ~, and neither . nor .."
        )
    return name


def is_room(name: str) -> bool:
    """Whether a text is a valid room name."""
    return _ROOM.fullmatch(name) is not None and name not in (".", "..")


def is_namespace_log(name: str) -> bool:
    """Whether a log is that of a Socket.IO namespace, called by its own name: ``/chat``. No client can name it."""
    return name[:1] == "/"


@contextmanager
def naming(room: str) -> Iterator[None]:
    """Put a room's name into each error that is raised in the block, if the name is valid."""
    try:
        yield
    except RealtimeError as error:
        error.room = room if is_room(room) else None
        raise


def is_private(room: str) -> bool:
    """Whether only one user may read a room."""
    return room.startswith("@")


def properties_log(room: str) -> str:
    """The name of the log of a room's properties, which no room can have.

    In it, the ``event`` of a message is the name of a property, and empty data say that it was removed.
    """
    return room + _PROPERTIES


def is_properties_log(name: str) -> bool:
    """Whether a log is that of a room's properties: of each ``event`` it keeps the last message alone."""
    return name.endswith(_PROPERTIES) and not is_namespace_log(name)


def room_of_log(name: str) -> str:
    """The room that a log belongs to."""
    return name.removesuffix(_PROPERTIES)


@lru_cache(_CACHED_NAMES)
def private_room(user_id: str) -> str:
    """The name of the private room of a user, ``@ID``.

    Of a user with a token, characters that no room's name has, and ``~``, are written as ``~`` and two upper-case
    hexadecimal digits for each byte of UTF-8. The name may be longer than a room's name can be.
    """
    if is_guest_id(user_id):
        return f"@{user_id}"
    return "@" + _NOT_IN_ROOMS.sub(_escape, user_id)


def _escape(match: re.Match[str]) -> str:
    return "".join(f"~{byte:02X}" for byte in match[0].encode())


@lru_cache(_CACHED_NAMES)
def is_guest_id(id: str) -> bool:
    """Whether an id is a guest's, as it is shown or as it is stored, or that of ``anonymous``. No user has such an id.

    A guest's id is ``~``, ``u`` and 16 of ``a-z2-7``. Stores keep it without the ``~``, as before guests had one.
    """
    return id == ANONYMOUS.id or _GUEST_ID.fullmatch(id) is not None


@lru_cache(_CACHED_NAMES)
def shown_id(stored: str) -> str:
    """The id of a message's sender as readers see it: with the ``~`` of a guest."""
    match = _GUEST_ID.fullmatch(stored)
    return stored if match is None else f"~{match[2]}"


@lru_cache(_CACHED_NAMES)
def author(user: User) -> User:
    """A user as stores name it: a guest's id is without its ``~``. So a guest's keys stay what they were before."""
    return User(user.id[1:], user.name) if user.guest and user.id[0] == "~" else user


@lru_cache(_CACHED_NAMES)
def check_event(name: str) -> str:
    """Return a client's event name if it is valid.

    :raises RealtimeError: ``bad_request``; a leading ``$`` is reserved for the server's own events.
    """
    if name.startswith("$"):
        raise RealtimeError("bad_request", "event names that begin with $ are the server's own")
    return _plain_text("event", name, 128)


def check_property(name: str) -> str:
    """Return a property's name if it is valid. The rules are those of an event's name.

    :raises RealtimeError: ``bad_request``.
    """
    if name.startswith("$"):
        raise RealtimeError("bad_request", "property names that begin with $ are the server's own")
    return _plain_text("the name of a property", name, 128)


def check_key(key: str) -> str:
    """Return an idempotency key if it is valid.

    :raises RealtimeError: ``bad_request``.
    """
    return _plain_text("key", key, 128)


def check_name(name: str) -> str:
    """Return a user's display name without surrounding white space, if it is valid.

    :raises RealtimeError: ``bad_request``.
    """
    return _plain_text("name", name.strip(), 64)


def _plain_text(what: str, text: str, most: int) -> str:
    if not 1 <= len(text) <= most or _CONTROL.search(text):
        raise RealtimeError("bad_request", f"{what} is 1 to {most} characters without control characters")
    return text
