"""One timer for many deadlines: a hashed timing wheel (Varghese and Lauck, 1987).

Pings, waits of polls and deadlines of request heads are many, coarse, and mostly cancelled. A delayed call of the
reactor costs a heap operation to add, and one to cancel. Here each is a dictionary operation, and the reactor wakes
once a tick.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

K = TypeVar("K")


class Timeout:
    """A scheduled call; see :meth:`Wheel.call_later`."""

    __slots__ = ("_call", "_slot")

    def __init__(self, slot: dict[Timeout, None], call: Callable[[], object]) -> None:
        self._slot: dict[Timeout, None] | None = slot
        self._call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Cancel the call. If it was called or cancelled already, nothing happens."""
        if self._slot is not None:
            self._slot.pop(self, None)
        self._slot = self._call = None

    def ring(self) -> None:
        """Call it now, unless it was cancelled."""
        call, self._slot, self._call = self._call, None, None
        if call is not None:
            call()


class Wheel:
    """Schedules calls to the next full tick.

    :param clock: gives the time.
    :param tick: seconds between two turns of the wheel. A call comes never early, and at most :attr:`lateness` late.
    :ivar seconds: gives the clock's time.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, tick: float = 0.25) -> None:
        self._clock = clock
        self._tick = tick
        self._slots: dict[int, dict[Timeout, None]] = {}
        self._next: IDelayedCall | None = None
        self._done = 0
        self.seconds = clock.seconds

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timeout:
        """Call ``call()`` when ``seconds`` have passed."""
        if self._next is None:
            self._done = self._now()
            self._next = self._clock.callLater(self._tick, self._turn)
        due = max(self._done, int((self._clock.seconds() + seconds) / self._tick)) + 1
        slot = self._slots.get(due)
        if slot is None:
            slot = self._slots[due] = {}
        timeout = Timeout(slot, call)
        slot[timeout] = None
        return timeout

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
        timeouts = [timeout for slot in due for timeout in self._slots.pop(slot)]
        self._next = self._clock.callLater(self._tick, self._turn) if self._slots else None
        for timeout in timeouts:
            try:
                timeout.ring()
            except Exception:
                self._log.failure("a call that was due failed")


class Stall:
    """Calls ``call()`` once a number has not gone down for some time. While it goes down, nothing is called.

    :param seconds: the time without progress; the number is read six times in it.
    :param left: gives the number, such as bytes that the other side has not acknowledged.
    """

    __slots__ = ("_call", "_due", "_left", "_lowest", "_seconds", "_timeout", "_wheel")

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
        self._timeout = self._wheel.call_later(min(remaining, self._seconds / 6), self._look)

    def _look(self) -> None:
        left, now = self._left(), self._wheel.seconds()
        if left < self._lowest:
            self._lowest, self._due = left, now + self._seconds
        if now < self._due:
            self._wait()
        else:
            self._call()

    def cancel(self) -> None:
        """Cancel the call. If it was called or cancelled already, nothing happens."""
        self._timeout.cancel()


class DeadlineQueue(Generic[K]):
    """A queue of items that all expire after the same time, and so in the order in which they were added.

    Most are dropped before. So each costs an entry in a dictionary, and all have one timeout.

    :param seconds: how long after it was added an item expires.
    :param end: called with each item that expires.
    """

    _log = Logger()

    def __init__(self, wheel: Wheel, seconds: float, end: Callable[[K], object]) -> None:
        self._wheel = wheel
        self._now = wheel.seconds
        self._seconds = seconds
        self._end = end
        self._due: dict[K, float] = {}
        self._timeout: Timeout | None = None

    def __contains__(self, item: K) -> bool:
        return item in self._due

    def add(self, item: K) -> None:
        """Add an item that isn't in the queue."""
        self._due[item] = self._now() + self._seconds
        if self._timeout is None:
            self._timeout = self._wheel.call_later(self._seconds, self._end_some)

    def drop(self, item: K) -> None:
        """Drop an item, if it is in the queue."""
        if self._due.pop(item, None) is not None and not self._due:
            self.stop()

    def stop(self) -> None:
        """Drop all items."""
        self._due.clear()
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    def _end_some(self) -> None:
        now, self._timeout = self._now(), None
        for item in list(takewhile(lambda item: self._due[item] <= now, self._due)):
            if self._due.pop(item, None) is not None:
                self._end_one(item)
        if self._due and self._timeout is None:
            self._timeout = self._wheel.call_later(next(iter(self._due.values())) - now, self._end_some)

    def _end_one(self, item: K) -> None:
        try:
            self._end(item)
        except Exception:
            self._log.failure("something that had expired could not be ended")
