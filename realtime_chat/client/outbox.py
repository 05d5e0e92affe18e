"""Publishes that wait for their acknowledgement, by key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from realtime_chat.client.errors import ChatError, FateUnknown, Refused
from realtime_chat.values.model import Position

__all__ = ["KEY_KEPT", "Outbox", "PendingPublish"]

KEY_KEPT = 290.0
"""Seconds for which a key certainly makes publishing again safe: the server keeps it for 300 at least."""


_DOUBTFUL = ("in_doubt", "internal")
"""Temporary errors that don't say that nothing was stored."""


class PendingPublish:
    """A publish on its way.

    :ivar on_wire: whether it was sent on the connection that is open now.
    :ivar first_sent: when it was sent first; None if it never was.
    :ivar sent_by: the user id under which it was.
    :ivar covered: whether its room has been read from before it was sent until now, without a gap: then it is stored
        if it was seen, and only then.
    :ivar in_doubt: whether it may be stored, as it was sent and not answered, or the server doesn't know.
    """

    __slots__ = (
        "command",
        "covered",
        "first_sent",
        "id",
        "in_doubt",
        "key",
        "new_log",
        "on_wire",
        "room",
        "sent_by",
        "waiting",
    )

    def __init__(self, id: int, command: dict[str, Any]) -> None:
        self.id = id
        self.command = command
        self.room: str = command["room"]
        self.key: str = command["key"]
        self.on_wire = False
        self.first_sent: float | None = None
        self.sent_by: str | None = None
        self.covered = False
        self.new_log = False
        self.in_doubt = False
        self.waiting: list[Deferred[Position]] = []

    @property
    def size(self) -> int:
        """About how many bytes it is."""
        return len(bytes(self.command["data"]))

    def promise(self) -> Deferred[Position]:
        """Fires once, with its position, or fails."""
        deferred: Deferred[Position] = Deferred(self._forget)
        self.waiting.append(deferred)
        return deferred

    def _forget(self, deferred: Deferred[Position]) -> None:
        self.waiting.remove(deferred)

    def why_not_again(self, now: float, user: str | None) -> str | None:
        """Why it can't be published again safely; None where it can be."""
        if self.first_sent is None or self.covered:
            return None
        if self.new_log:
            return "the room's log was made anew since"
        if self.sent_by != user:
            return "the server no longer knows the client that sent it"
        if now - self.first_sent > KEY_KEPT:
            return "the connection was away for longer than the server is sure to know the message's key"
        return None

    def refused_for_now(self, code: str) -> None:
        """The server can't store it now; it is to be sent again."""
        self.on_wire = False
        if code in _DOUBTFUL:
            self.in_doubt, self.covered = True, False  # that it wasn't seen says nothing: it may be stored later
        elif not self.in_doubt:
            self.first_sent = None

    def settle(self, result: Position | ChatError) -> None:
        """Keep the promise, or fail it."""
        waiting, self.waiting = self.waiting, []
        for deferred in waiting:
            if isinstance(result, ChatError):
                deferred.errback(result)
            else:
                deferred.callback(result)


class Outbox:
    """All parcels, in the order in which they were given."""

    def __init__(self) -> None:
        self._parcels: dict[tuple[str, str], PendingPublish] = {}
        self._by_id: dict[int, PendingPublish] = {}

    def __len__(self) -> int:
        return len(self._parcels)

    def __iter__(self) -> Iterator[PendingPublish]:
        return iter(list(self._parcels.values()))

    @property
    def unsent(self) -> int:
        """How many wait for a connection."""
        return sum(not parcel.on_wire for parcel in self._parcels.values())

    @property
    def on_wire(self) -> int:
        """How many wait for a reply."""
        return len(self._parcels) - self.unsent

    def find(self, command: dict[str, Any]) -> PendingPublish | None:
        """The parcel that has a publish's room and key already.

        :raises Refused: ``key_reused``: it has other content.
        """
        parcel = self._parcels.get((command["room"], command["key"]))
        if parcel is not None and _content(parcel.command) != _content(command):
            raise Refused("key_reused", "other content is on its way under this key; give each message its own key")
        return parcel

    def add(self, id: int, command: dict[str, Any]) -> PendingPublish:
        """Take a publish, whose ``id`` is new."""
        parcel = self._by_id[id] = PendingPublish(id, {**command, "id": id})
        self._parcels[parcel.room, parcel.key] = parcel
        return parcel

    def remove(self, parcel: PendingPublish) -> None:
        """It is settled, or was given up before it was sent."""
        self._parcels.pop((parcel.room, parcel.key), None)
        self._by_id.pop(parcel.id, None)

    def by_id(self, id: Any) -> PendingPublish | None:
        """The parcel that a reply belongs to."""
        return self._by_id.get(id) if isinstance(id, int) else None

    def by_key(self, room: str, key: str) -> PendingPublish | None:
        """The parcel that a message is."""
        return self._parcels.get((room, key))

    def cut_off(self) -> None:
        """The connection is gone: nothing is on the wire, and what was is in doubt."""
        for parcel in self._parcels.values():
            parcel.in_doubt = parcel.in_doubt or parcel.on_wire
            parcel.on_wire = False

    def gap(self, room: str, new_log: bool) -> None:
        """Messages of a room were not seen: what was sent to it may be among them."""
        for parcel in self._parcels.values():
            if parcel.room == room and parcel.first_sent is not None:
                parcel.covered = False
                parcel.new_log = parcel.new_log or new_log

    def largest_on_wire(self) -> PendingPublish | None:
        """The one that was too large, if one was."""
        return max((parcel for parcel in self._parcels.values() if parcel.on_wire), key=lambda p: p.size, default=None)

    def fail_all(self, error: ChatError) -> None:
        """Nothing more is sent: of what was sent already, the fate is unknown."""
        for parcel in list(self._parcels.values()):
            self.remove(parcel)
            parcel.settle(error if parcel.first_sent is None else FateUnknown(error.message))


def _content(command: dict[str, Any]) -> tuple[Any, Any]:
    return command["event"], msgspec.json.decode(bytes(command["data"]))
