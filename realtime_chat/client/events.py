"""What comes out of a room, and what is told of the connection: frozen values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from realtime_chat.values.model import Position, User

__all__ = ["Event", "Member", "Message", "Presence", "Reset", "Sender", "Signal", "State", "read_event", "read_members"]


class Sender(msgspec.Struct, frozen=True):
    """Who sent something, by the name that they had then."""

    id: str
    name: str


class Message(msgspec.Struct, frozen=True):
    """One stored message of a room.

    :param data: the sender's value, as JSON says it.
    :param at: milliseconds since 1970 by the server's clock; it orders nothing.
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
        """What it says, where its data is ``{"text": …}``, as chat messages are."""
        text = self.data.get("text") if isinstance(self.data, dict) else None
        return text if isinstance(text, str) else None


class Signal(msgspec.Struct, frozen=True):
    """Something volatile that another client told the room.

    :param sender: None where no client did, but another program, by way of a relay.
    """

    room: str
    event: str
    data: Any
    sender: Sender | None
    at: int


class Member(msgspec.Struct, frozen=True):
    """Somebody who is in a room.

    :param state: what the member's client says of itself: away, page, colour, …
    """

    id: str
    name: str
    guest: bool = True
    state: Mapping[str, Any] = MappingProxyType({})


class Presence(msgspec.Struct, frozen=True):
    """Who came and who went.

    :param count: how many are in the room now.
    :param joined: who came; or, where the member was there already, who has changed.
    :param members: where it is given, all who are there; then ``joined`` and ``left`` are empty. In a large room
        only the count is told.
    """

    room: str
    count: int
    joined: tuple[Member, ...] = ()
    left: tuple[Member, ...] = ()
    members: tuple[Member, ...] | None = None


class Reset(msgspec.Struct, frozen=True):
    """Messages were lost to this reader: it goes on after ``position``."""

    room: str
    position: Position


Event = Message | Signal | Presence | Reset


class State(msgspec.Struct, frozen=True):
    """How the connection is.

    :param kind: ``connecting``, ``connected``, ``waiting`` (for the next attempt) or ``closed``.
    :param transport: ``websocket``, ``sse`` or ``poll``, while connecting and connected.
    :param reason: why it was lost, while waiting and when closed.
    :param delay: seconds until the next attempt.
    """

    kind: str
    transport: str | None = None
    reason: str = ""
    delay: float = 0.0


def _sender(event: dict[str, Any]) -> Sender:
    return msgspec.convert(event["from"], Sender)


def _message(event: dict[str, Any], me: User | None) -> Message:
    sender = _sender(event)
    return Message(
        event["room"],
        Position.parse(event["position"]),
        event["event"],
        event["data"],
        sender,
        event["at"],
        event.get("key"),
        me is not None and me.id == sender.id,
    )


def _signal(event: dict[str, Any], me: User | None) -> Signal:
    sender = None if event["from"] is None else _sender(event)
    return Signal(event["room"], event["event"], event.get("data"), sender, event["at"])


def _presence(event: dict[str, Any], me: User | None) -> Presence:
    full = read_members(event["members"]) if "members" in event else None
    joined, left = (read_members(event.get(which, ())) for which in ("joined", "left"))
    return Presence(event["room"], event["count"], joined, left, full)


def _reset(event: dict[str, Any], me: User | None) -> Reset:
    return Reset(event["room"], Position.parse(event["position"]))


def read_members(members: Any) -> tuple[Member, ...]:
    """Members as the server lists them.

    :raises msgspec.ValidationError: these are none.
    """
    return msgspec.convert(members, tuple[Member, ...])


_READERS: Mapping[str, Callable[[dict[str, Any], User | None], Event]] = MappingProxyType(
    {"message": _message, "signal": _signal, "presence": _presence, "reset": _reset}
)


def read_event(event: dict[str, Any], me: User | None) -> Event:
    """Make the value of one of the events above.

    :param me: the client's own user.
    :raises KeyError, TypeError, ValueError, realtime_chat.values.errors.RealtimeError: it isn't what the protocol says.
    """
    return _READERS[event["type"]](event, me)
