"""What is sent at the end of a turn: replies, and the messages that rooms have gathered in the turn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from twisted.logger import Logger

from realtime_chat.core.interfaces import ReplySink, TurnClock

__all__ = ["FlushQueue", "flush_all_replies"]

_log = Logger()


class _Flushable(Protocol):
    def flush(self) -> None: ...


class FlushQueue:
    """Flushes rooms and sinks of replies at the end of the turn in which they were added.

    :param clock: calls in the next turn.
    """

    def __init__(self, clock: TurnClock) -> None:
        self._clock = clock
        self._rooms: list[_Flushable] = []
        self._replies: dict[ReplySink, None] = {}

    def add_room(self, room: _Flushable) -> None:
        """Flush a room; it is added only once in a turn."""
        self._flush_soon()
        self._rooms.append(room)

    def add_replies(self, replies: ReplySink) -> None:
        """Flush the replies that a sink has buffered."""
        self._flush_soon()
        self._replies[replies] = None

    def _flush_soon(self) -> None:
        if not (self._rooms or self._replies):
            self._clock.callLater(0, self.flush)

    def flush(self) -> None:
        """Flush all, now. A room or a sink that fails disturbs no other."""
        sinks, self._replies = self._replies, {}
        rooms, self._rooms = self._rooms, []
        flush_all_replies(sinks)
        for room in rooms:
            try:
                room.flush()
            except Exception:
                _log.failure("a room's messages could not be brought to its readers")


def flush_all_replies(sinks: Iterable[ReplySink]) -> None:
    """Send the replies that are buffered. A sink that fails disturbs no other."""
    for sink in sinks:
        try:
            sink.flush_replies()
        except Exception:
            _log.failure("replies could not be sent")
