"""One timer for many deadlines: a hashed timing wheel (Varghese and Lauck, 1987).

Pings, poll waits and header deadlines are many, coarse, and mostly cancelled. A reactor's own delayed calls cost a heap
operation each way; here adding and cancelling are a dictionary operation, and the reactor wakes once a tick.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Generic, TypeVar

from twisted.logger import Logger

from realtime_chat.core.interfaces import DelayedCall, TurnClock

__all__ = ["DeadlineQueue", "Stall", "Timeout", "Wheel"]

K = TypeVar("K")


class Timeout:
    """A call that is due some time; see :meth:`Wheel.call_later`."""

    __slots__ = ("_call", "_slot")

    def __init__(self, slot: dict[Timeout, None], call: Callable[[], object]) -> None:
        self._slot: dict[Timeout, None] | None = slot
        self._call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """See that it is never called; more than once, or after the call, does nothing."""
        if self._slot is not None:
            self._slot.pop(self, None)
        self._slot = self._call = None

    def ring(self) -> None:
        """Call it now, unless it was cancelled."""
        call, self._slot, self._call = self._call, None, None
        if call is not None:
            call()


class Wheel:
    """Deadlines to the next full tick.

    :param clock: whose time counts.
    :param tick: seconds; a call comes up to this much late, and never early.
    """

    _log = Logger()

    def __init__(self, clock: TurnClock, tick: float = 0.25) -> None:
        self._clock = clock
        self._tick = tick
        self._slots: dict[int, dict[Timeout, None]] = {}
        self._next: DelayedCall | None = None
        self._done = 0

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def seconds(self) -> float:
        """The clock's time."""
        return self._clock.seconds()

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timeout:
        """Call ``call()`` when ``seconds`` have passed."""
        if self._next is None:
            self._done = self._now()
            self._next = self._clock.callLater(self._tick, self._turn)
        due = max(self._done, int((self._clock.seconds() + seconds) / self._tick)) + 1
        slot = self._slots.get(due)
        if slot is None:
            slot = self._slots[due] = {}
        alarm = Timeout(slot, call)
        slot[alarm] = None
        return alarm

    def call_within(self, seconds: float, call: Callable[[], object]) -> Timeout:
        """Call ``call()`` before more than ``seconds`` have passed, up to two ticks before that.

        Two, as a deadline goes to the next full tick, and the wheel turns somewhere between that and the one after.
        """
        return self.call_later(seconds - self.lateness, call)

    @property
    def lateness(self) -> float:
        """How many seconds late a call comes at most, while the clock's owner isn't busy."""
        return 2 * self._tick

    def stop(self) -> None:
        """Forget all deadlines."""
        self._slots.clear()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _now(self) -> int:
        return int(self._clock.seconds() / self._tick)

    def _turn(self) -> None:
        now = self._now()
        due = sorted(slot for slot in self._slots if slot <= now)
        self._done = now
        alarms = [alarm for slot in due for alarm in self._slots.pop(slot)]
        self._next = self._clock.callLater(self._tick, self._turn) if self._slots else None
        for alarm in alarms:
            try:
                alarm.ring()
            except Exception:
                self._log.failure("a call that was due failed")


class Stall:
    """Calls ``call()`` once a number has not gone down for a while: who makes progress has all the time that it needs.

    :param seconds: without progress; it is looked at six times in that time.
    :param left: gives the number, such as bytes that the other side has not acknowledged.
    """

    __slots__ = ("_alarm", "_call", "_due", "_left", "_lowest", "_seconds", "_wheel")

    def __init__(self, wheel: Wheel, seconds: float, left: Callable[[], float], call: Callable[[], object]) -> None:
        self._wheel = wheel
        self._seconds = seconds
        self._left = left
        self._call = call
        self._lowest = left()
        self._due = wheel.seconds() + seconds
        self._wait()

    def _wait(self) -> None:
        remaining = self._due - self._wheel.seconds()
        self._alarm = self._wheel.call_later(min(remaining, self._seconds / 6), self._look)

    def _look(self) -> None:
        left, now = self._left(), self._wheel.seconds()
        if left < self._lowest:
            self._lowest, self._due = left, now + self._seconds
        if now < self._due:
            self._wait()
        else:
            self._call()

    def cancel(self) -> None:
        """See that it is never called; more than once, or after the call, does nothing."""
        self._alarm.cancel()


class DeadlineQueue(Generic[K]):
    """What is held for the same time each, and so ends in the order in which it was added.

    Of what mostly doesn't come to its end each costs an entry in a dictionary, and no alarm of its own.

    :param now: seconds of the wheel's clock.
    :param seconds: how long each is held at least.
    :param end: called with what was not dropped in time.
    """

    _log = Logger()

    def __init__(self, wheel: Wheel, now: Callable[[], float], seconds: float, end: Callable[[K], object]) -> None:
        self._wheel = wheel
        self._now = now
        self._seconds = seconds
        self._end = end
        self._due: dict[K, float] = {}
        self._alarm: Timeout | None = None

    def __contains__(self, held: K) -> bool:
        return held in self._due

    def add(self, held: K) -> None:
        """Hold something, which isn't held yet, from now on."""
        self._due[held] = self._now() + self._seconds
        if self._alarm is None:
            self._alarm = self._wheel.call_later(self._seconds, self._end_some)

    def drop(self, held: K) -> None:
        """Hold it no longer, if it is held."""
        if self._due.pop(held, None) is not None and not self._due:
            self.stop()

    def stop(self) -> None:
        """Forget all."""
        self._due.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _end_some(self) -> None:
        now, self._alarm = self._now(), None
        for held in list(takewhile(lambda held: self._due[held] <= now, self._due)):
            if self._due.pop(held, None) is not None:
                self._end_one(held)
        if self._due and self._alarm is None:
            self._alarm = self._wheel.call_later(next(iter(self._due.values())) - now, self._end_some)

    def _end_one(self, held: K) -> None:
        try:
            self._end(held)
        except Exception:
            self._log.failure("what was held for long enough could not be ended")
