"""Commands that wait for their reply: publishes, by key, and queries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from realtime_chat.client.errors import ChatError, FateUnknown, Refused
from realtime_chat.values.model import Position

__all__ = ["KEY_KEPT", "Outbox", "PendingPublish", "PendingQueries"]

KEY_KEPT = 290.0
"""Seconds for which a key makes it safe to publish again: the server keeps it for at least 300."""

_MAY_BE_STORED = ("in_doubt", "internal")
"""Temporary errors after which the message may be stored none the less."""


class PendingPublish:
    """A publish that is not acknowledged yet.

    :ivar on_wire: whether it was sent on the current connection.
    :ivar first_sent: when it was first sent; None if it never was.
    :ivar sent_by: the id of the user as whom it was sent.
    :ivar covered: whether its room has been read without a gap since before it was sent. Then it is stored if and only
        if it was seen.
    :ivar new_log: whether its room has a new log since it was sent.
    :ivar in_doubt: whether it may be stored: it was sent and not answered, or the server doesn't know.
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
        """The size of its data in bytes."""
        return len(bytes(self.command["data"]))

    def result(self) -> Deferred[Position]:
        """Return a new Deferred that fires with the message's position, or fails."""
        deferred: Deferred[Position] = Deferred(self._cancelled)
        self.waiting.append(deferred)
        return deferred

    def _cancelled(self, deferred: Deferred[Position]) -> None:
        self.waiting.remove(deferred)

    def why_not_again(self, now: float, user: str | None) -> str | None:
        """Why it is not safe to publish it again; None if it is safe."""
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
        """The server refused it with a temporary error: it is to be sent again."""
        self.on_wire = False
        if code in _MAY_BE_STORED:
            self.in_doubt, self.covered = True, False  # not seen is no proof: it may be stored later
        elif not self.in_doubt:
            self.first_sent = None

    def settle(self, result: Position | ChatError) -> None:
        """Fire everything that waits for its result."""
        waiting, self.waiting = self.waiting, []
        for deferred in waiting:
            if isinstance(result, ChatError):
                deferred.errback(result)
            else:
                deferred.callback(result)


class Outbox:
    """All pending publishes, in the order in which they were added."""

    def __init__(self) -> None:
        self._pending: dict[tuple[str, str], PendingPublish] = {}
        self._by_id: dict[int, PendingPublish] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[PendingPublish]:
        return iter(list(self._pending.values()))

    @property
    def on_wire(self) -> int:
        """How many wait for a reply on the current connection."""
        return sum(publish.on_wire for publish in self._pending.values())

    def find(self, command: dict[str, Any]) -> PendingPublish | None:
        """The pending publish with a command's room and key, if there is one.

        :raises Refused: ``key_reused``: it has other content.
        """
        publish = self.by_key(command["room"], command["key"])
        if publish is not None and _content(publish.command) != _content(command):
            raise Refused("key_reused", "other content is on its way under this key; give each message its own key")
        return publish

    def add(self, id: int, command: dict[str, Any]) -> PendingPublish:
        """Add a publish, whose ``id`` and key are new."""
        publish = self._by_id[id] = PendingPublish(id, {**command, "id": id})
        self._pending[publish.room, publish.key] = publish
        return publish

    def remove(self, publish: PendingPublish) -> None:
        """Remove a publish that is settled, or was cancelled before it was sent."""
        self._pending.pop((publish.room, publish.key), None)
        self._by_id.pop(publish.id, None)

    def by_id(self, id: Any) -> PendingPublish | None:
        """The publish that a reply with this ``id`` answers."""
        return self._by_id.get(id) if isinstance(id, int) else None

    def by_key(self, room: str, key: str) -> PendingPublish | None:
        """The publish whose message has this key."""
        return self._pending.get((room, key))

    def disconnected(self) -> None:
        """The connection is gone: nothing is on the wire, and whatever was is in doubt."""
        for publish in self._pending.values():
            publish.in_doubt = publish.in_doubt or publish.on_wire
            publish.on_wire = False

    def on_gap(self, room: str, new_log: bool) -> None:
        """Messages of a room were missed; those that were sent to it may be among them."""
        for publish in self._pending.values():
            if publish.room == room and publish.first_sent is not None:
                publish.covered = False
                publish.new_log = publish.new_log or new_log

    def largest_on_wire(self) -> PendingPublish | None:
        """The largest publish that waits for a reply, if any does."""
        on_wire = (publish for publish in self._pending.values() if publish.on_wire)
        return max(on_wire, key=lambda publish: publish.size, default=None)

    def fail_all(self, error: ChatError) -> None:
        """Fail all: with ``error``, or with :class:`FateUnknown` if it was sent already."""
        for publish in list(self._pending.values()):
            self.remove(publish)
            publish.settle(error if publish.first_sent is None else FateUnknown(error.message))


def _content(command: dict[str, Any]) -> tuple[Any, Any]:
    return command["event"], msgspec.json.decode(bytes(command["data"]))


class PendingQueries:
    """Commands that only read. Each is sent on every new connection until it is answered."""

    def __init__(self) -> None:
        self._pending: dict[int, tuple[dict[str, Any], Deferred[dict[str, Any]]]] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, command: dict[str, Any]) -> Deferred[dict[str, Any]]:
        """Add a command with a new ``id``; fires with its reply."""
        id = command["id"]
        reply: Deferred[dict[str, Any]] = Deferred(lambda deferred: self._forget(id))
        self._pending[id] = command, reply
        return reply

    def _forget(self, id: int) -> None:
        self._pending.pop(id, None)

    def commands(self) -> Iterator[dict[str, Any]]:
        """The commands that wait for their replies, in order."""
        return (command for command, _ in self._pending.values())

    def take(self, id: Any) -> Deferred[dict[str, Any]] | None:
        """Remove the query that a reply answers, and return its Deferred; None if no query has this id."""
        _, reply = self._pending.pop(id, (None, None))
        return reply

    def take_all(self) -> list[Deferred[dict[str, Any]]]:
        """Remove all queries, and return their Deferreds."""
        pending, self._pending = self._pending, {}
        return [reply for _, reply in pending.values()]
