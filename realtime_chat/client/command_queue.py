"""Commands that wait for a ``POST /commands``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from realtime_chat.client.link import JoinRequest

__all__ = ["CommandQueue", "QueuedCommand"]

_MAX_COMMANDS = 100
_MAX_BYTES = 32 * 1024


class QueuedCommand(NamedTuple):
    """A command; with the request that its reply answers, if it reads the history of a room to join."""

    command: Mapping[str, Any]
    request: JoinRequest | None = None


class CommandQueue:
    """Commands in order, taken in batches."""

    def __init__(self) -> None:
        self._queue: list[QueuedCommand] = []
        self._max_commands = _MAX_COMMANDS

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, command: Mapping[str, Any], request: JoinRequest | None = None) -> None:
        """Add a command at the end."""
        self._queue.append(QueuedCommand(command, request))

    def drop_join(self, room: str) -> None:
        """Remove what would join a room."""
        self._queue = [queued for queued in self._queue if queued.request is None or queued.request.room != room]

    def next_batch(self) -> list[QueuedCommand]:
        """Remove and return as many commands as one request may have."""
        size = count = 0
        for queued in self._queue[: self._max_commands]:
            size += len(msgspec.json.encode(queued.command))
            if count and size > _MAX_BYTES:
                break
            count += 1
        batch, self._queue = self._queue[:count], self._queue[count:]
        return batch

    def send_one_by_one(self, batch: list[QueuedCommand]) -> None:
        """Put a batch that was too large back, and return one command at a time from now on."""
        self._max_commands = 1
        self._queue[:0] = batch
