"""The events of a room, and the state of the connection: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from realtime_chat.values.model import Position, User

TRANSPORTS = ("websocket", "sse", "poll")
"""Names of the transports, the best first."""


class OwnUser(User, frozen=True):
    """The client's own user.

    :param info: what the site vouches for, from the token.
    """

    info: Mapping[str, Any] = MappingProxyType({})


class Sender(msgspec.Struct, frozen=True):
    """The sender of a message or signal, with the name at that time.

    :param guest: whether the id and the name are unverified.
    """

    id: str
    name: str
    guest: bool = False


class Message(msgspec.Struct, frozen=True):
    """One stored message of a room.

    :param data: the sender's value, decoded from JSON.
    :param at: milliseconds since 1970 by the server's clock. Messages are ordered by position, not by this.
    :param own: whether this client's user sent it.
    """

    room: str
    position: Position
    event: str
    data: Any
    sender: Sender
    at: int
    key: str | None = None
    own: bool = False

    @property
    def text(self) -> str | None:
        """The text of a chat message, whose data is ``{"text": …}``; None for other data."""
        text = self.data.get("text") if isinstance(self.data, dict) else None
        return text if isinstance(text, str) else None


class Signal(msgspec.Struct, frozen=True):
    """A volatile event, which is not stored.

    :param sender: None if another program sent it through a relay.
    """

    room: str
    event: str
    data: Any
    sender: Sender | None
    at: int


class Member(msgspec.Struct, frozen=True):
    """A member of a room.

    :param state: what the member's client has set: away, page, colour, …
    """

    id: str
    name: str
    guest: bool = True
    state: Mapping[str, Any] = MappingProxyType({})


class Presence(msgspec.Struct, frozen=True):
    """Members have joined or left.

    :param count: how many members the room has now.
    :param joined: members who have joined; or have changed, if they were there already.
    :param members: all members; then ``joined`` and ``left`` are empty. None if this is only a change, or if the room
        is so large that the server only sends the count.
    """

    room: str
    count: int
    joined: tuple[Member, ...] = ()
    left: tuple[Member, ...] = ()
    members: tuple[Member, ...] | None = None


class Reset(msgspec.Struct, frozen=True):
    """This reader has lost messages; it goes on after ``position``."""

    room: str
    position: Position


class Rights(msgspec.Struct, frozen=True):
    """What the client may do in a room has changed.

    :param rights: letters: ``r`` read, ``w`` write, ``s`` signal, ``p`` see who is there, ``m`` moderate.
    """

    room: str
    rights: str


class Property(msgspec.Struct, frozen=True):
    """A property of a room was set or removed.

    :param data: its value, decoded from JSON; None if it was removed.
    :param position: its place in the room's log of properties, which isn't that of its messages; None if unknown.
    :param sender: who has set it; None if it was only found to be gone.
    :param at: milliseconds since 1970 by the server's clock.
    """

    room: str
    name: str
    position: Position | None
    data: Any = None
    removed: bool = False
    sender: Sender | None = None
    at: int | None = None
    key: str | None = None
    own: bool = False


Event = Message | Signal | Presence | Reset | Rights | Property


class State(msgspec.Struct, frozen=True):
    """The state of the connection.

    :param kind: ``connecting``, ``connected``, ``waiting`` (for the next attempt) or ``closed``.
    :param transport: ``websocket``, ``sse`` or ``poll``, if it is connecting or connected.
    :param reason: why the connection was lost, if it is waiting or closed.
    :param delay: seconds until the next attempt, if it is waiting.
    """

    kind: str
    transport: str | None = None
    reason: str = ""
    delay: float = 0.0


def read_members(members: Any) -> tuple[Member, ...]:
    """Read a list of members from the server.

    :raises msgspec.ValidationError: it is none.
    """
    return msgspec.convert(members, tuple[Member, ...])


_KINDS: Mapping[str, type[Event]] = MappingProxyType(
    {"message": Message, "signal": Signal, "presence": Presence, "reset": Reset, "rights": Rights, "property": Property}
)


def read_message(event: dict[str, Any], me: User | None) -> Message:
    """Read a message from the server, as :func:`read_event` does."""
    message = read_event(event, me)
    assert isinstance(message, Message)
    return message


def read_event(event: dict[str, Any], me: User | None) -> Event:
    """Read an event from the server.

    :param me: the client's own user.
    :raises KeyError, TypeError, ValueError, realtime_chat.values.errors.RealtimeError: it breaks the protocol.
    """
    kind = _KINDS[event["type"]]
    fields: dict[str, Any] = {"data": None, **event} if kind is Signal else dict(event)
    if kind is Property:
        fields["removed"] = "data" not in event
    if kind in (Message, Signal, Property):
        fields["sender"] = event["from"]
    if kind in (Message, Reset, Property):
        fields["position"] = Position.parse(event["position"])
    if kind in (Message, Property):
        fields["own"] = me is not None and me.id == event["from"]["id"]
    return msgspec.convert(fields, kind)
