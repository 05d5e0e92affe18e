"""When rooms catch up with their logs, because an announcement may have been lost."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.core.node import Node
from realtime_chat.core.room import Room
from realtime_chat.core.wheel import Timeout
from realtime_chat.values.errors import StoreError


class CatchUpScheduler:
    """Starts the catch-ups of rooms.

    At most ``max_catch_ups`` run at a time. After one has failed, none starts until ``retry`` seconds have passed.
    """

    _log = Logger()

    def __init__(self, node: Node) -> None:
        self._clock = node.clock
        self._wheel = node.wheel
        self._limits = node.limits
        self._waiting: dict[Room, None] = {}
        self._timer: IDelayedCall | None = None
        self._due: dict[Room, None] = {}
        self._running: dict[Room, None] = {}
        self._retry: Timeout | None = None
        self._starting = False

    def __len__(self) -> int:
        return len(self._due) + len(self._running)

    def on_gap(self, room: Room) -> None:
        """A room has a gap. Let it catch up, unless what it lacks is announced within ``gap_grace`` seconds."""
        self._waiting[room] = None
        if self._timer is None:
            self._timer = self._clock.callLater(self._limits.gap_grace, self._end_grace)

    def _end_grace(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, {}
        for room in waiting:
            if room.has_gap:
                self.add(room)

    def add(self, room: Room) -> None:
        """Let a room catch up. A catch-up that runs already doesn't count."""
        self._due[room] = None
        self._start_some()

    def forget(self, room: Room) -> None:
        """Let a room not catch up; one that runs already goes on."""
        self._waiting.pop(room, None)
        self._due.pop(room, None)

    def stop(self) -> None:
        """Start no more catch-ups."""
        self._waiting.clear()
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_some(self) -> None:
        if self._starting:
            return
        self._starting = True
        while self._retry is None and len(self._running) < self._limits.max_catch_ups:
            room = next((room for room in self._due if room not in self._running), None)
            if room is None:
                break
            del self._due[room]
            self._running[room] = None
            Deferred.fromCoroutine(room.catch_up()).addBoth(self._caught_up, room)
        self._starting = False

    def _caught_up(self, result: Failure | None, room: Room) -> None:
        del self._running[room]
        if isinstance(result, Failure):
            self._not_caught_up(result, room)
        self._start_some()

    def _not_caught_up(self, failure: Failure, room: Room) -> None:
        if failure.check(StoreError) is None:
            self._log.failure("a room could not catch up with its log", failure)
        self._due[room] = None
        if self._retry is None:
            self._retry = self._wheel.call_later(self._limits.retry, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._start_some()
