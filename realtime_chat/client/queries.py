"""Queries that wait for their reply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred

__all__ = ["PendingQueries"]


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
