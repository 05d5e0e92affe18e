"""Rooms that have to look into their log, as something may have happened there that nobody told them."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.core.interfaces import DelayedCall, TurnClock
from realtime_chat.core.room import Room
from realtime_chat.core.wheel import Timeout, Wheel
from realtime_chat.values.errors import StoreError
from realtime_chat.values.limits import Limits

__all__ = ["CatchUpScheduler"]


class CatchUpScheduler:
    """Lets rooms look: only so many at a time, and while the store fails one after a while, until it works again."""

    _log = Logger()

    def __init__(self, clock: TurnClock, wheel: Wheel, limits: Limits) -> None:
        self._clock = clock
        self._wheel = wheel
        self._limits = limits
        self._waiting: dict[Room, None] = {}
        self._timer: DelayedCall | None = None
        self._due: dict[Room, None] = {}
        self._running: dict[Room, None] = {}
        self._retry: Timeout | None = None
        self._starting = False

    def __len__(self) -> int:
        return len(self._due) + len(self._running)

    def on_gap(self, room: Room) -> None:
        """A room lacks something that may be on its way: let it look if that hasn't come in a moment."""
        self._waiting[room] = None
        if self._timer is None:
            self._timer = self._clock.callLater(self._limits.gap_grace, self._waited)

    def _waited(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, {}
        for room in waiting:
            if room.has_gap:
                self.add(room)

    def add(self, room: Room) -> None:
        """Let a room look, with a look that begins from now on."""
        self._due[room] = None
        self._start_some()

    def forget(self, room: Room) -> None:
        """A room is no longer of interest."""
        self._waiting.pop(room, None)
        self._due.pop(room, None)

    def stop(self) -> None:
        """Let no room look any more."""
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
            self._log.failure("a room could not look into its log", failure)
        self._due[room] = None
        if self._retry is None:
            self._retry = self._wheel.call_later(self._limits.retry, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._start_some()
