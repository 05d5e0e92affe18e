"""How old a stored message is, by a wall clock that may be set.

A message bears the time that the wall clock showed. That alone doesn't give its age, as the clock may have been set
since. So :class:`RetentionClock` remembers how far the wall clock was ahead of the monotonic clock, and when.

Say that messages are kept for an hour. A message is too old if its time is lower than the lowest time that the wall
clock has shown within the last hour. So setting the clock can make a message stay longer, but never deletes it early.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from realtime_chat.store.retention import KEY_SECONDS, Retention

__all__ = ["ClockSpan", "RetentionClock"]

_JITTER = 0.5
"""Seconds by which two readings may differ without the clock having been set: one clock is read after the other."""

_MAX_SPANS = 64

_DAY = 86400.0
"""How far back spans are remembered where messages are kept for ever: empty rooms are kept so long then."""


class ClockSpan(NamedTuple):
    """A time in which the wall clock was not set.

    :param start: when it began, in elapsed seconds (:meth:`RetentionClock.elapsed`).
    :param ahead: the wall clock minus the elapsed seconds, the lowest value that was seen.
    """

    start: float
    ahead: float


class RetentionClock:
    """The wall clock, and the oldest times that are kept. May be asked on any thread.

    Elapsed time is that of this process, and of the earlier ones whose spans :meth:`restore` gets. For the time before
    that, :meth:`message_cutoff` assumes that the clock was not set; :meth:`key_cutoff` doesn't.

    :param retention: what is kept; readers and sweepers take it from here.
    :param time: seconds since 1970; this clock may be set at any time.
    :param monotonic: seconds that only grow.
    :ivar spans: what is known of the wall clock, ascending.
    """

    def __init__(self, retention: Retention, time: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self.retention = retention
        self._remembered = max(KEY_SECONDS, _DAY if retention.age is None else retention.age)
        self._time = time
        self._monotonic = monotonic
        self._change = threading.Lock()
        self._started = self._zero = monotonic()
        self.spans: Sequence[ClockSpan] = (ClockSpan(0.0, time()),)
        self._ahead = self.spans[-1].ahead

    @property
    def needs_saving(self) -> bool:
        """Whether the next process needs the spans of this one."""
        return self.retention.age is not None

    def elapsed(self) -> float:
        """Return for how many seconds processes have run."""
        return self._monotonic() - self._zero

    def restore(self, spans: Sequence[ClockSpan]) -> None:
        """Continue with the spans of the last process, before anything else is asked.

        :param spans: the last of them begins where that process ended.
        """
        with self._change:
            if spans:
                self._zero = self._started - spans[-1].start
            now = self.elapsed()
            self._set_spans((*spans, ClockSpan(now, self._time() - now)), now)

    def now(self) -> float:
        """Return the time of the wall clock. Each stored time has to come from here."""
        time = self._time()
        if not 0 <= time - self._monotonic() + self._zero - self._ahead < _JITTER:
            self._note_change()
        return time

    def _note_change(self) -> None:
        """Note that the wall clock was set, or that the gap between two readings was smaller than before."""
        with self._change:
            time, now = self._time(), self.elapsed()
            ahead = time - now
            last = self.spans[-1]
            if abs(ahead - last.ahead) < _JITTER:
                self.spans = (*self.spans[:-1], ClockSpan(last.start, min(last.ahead, ahead)))
                self._ahead = self.spans[-1].ahead
            else:
                self._set_spans((*self.spans, ClockSpan(now, ahead)), now)

    def _set_spans(self, spans: Sequence[ClockSpan], now: float) -> None:
        self.spans = _shortened(spans, now - self._remembered)
        self._ahead = self.spans[-1].ahead

    def message_cutoff(self) -> int:
        """Return the lowest :attr:`~realtime_chat.values.model.Message.at` that can be read."""
        age = self.retention.age
        return 0 if age is None else self.cutoff(age)

    def key_cutoff(self) -> int:
        """Return the lowest time of a key that is kept in any case, in milliseconds since 1970.

        It is 0 until this process has run for that long.
        """
        if self._monotonic() - self._started < KEY_SECONDS:
            return 0
        return max(0, self.cutoff(KEY_SECONDS))

    def cutoff(self, seconds: float) -> int:
        """Return the lowest time that something no older than that may bear, in milliseconds since 1970.

        :param seconds: at most the age for which messages are kept; a day if they are kept for ever.
        """
        return int(self._lowest_time(seconds) * 1000)

    def keeps_key(self, at: int, offset: int, top: int) -> bool:
        """Return whether a key still counts: it is young, or its message is kept.

        :param at: its time, in milliseconds since 1970.
        :param offset: the offset of its message.
        :param top: the top of the room.
        """
        return at >= self.key_cutoff() or (offset > top - self.retention.count and at >= self.message_cutoff())

    def _lowest_time(self, seconds: float) -> float:
        """Return the lowest time that the wall clock has shown within the last seconds."""
        self.now()
        since = self.elapsed() - seconds
        spans = self.spans
        first = next((index for index in range(len(spans) - 1, 0, -1) if spans[index].start < since), 0)
        return min([since + spans[first].ahead, *(span.start + span.ahead for span in spans[first + 1 :])])


def _shortened(spans: Sequence[ClockSpan], before: float) -> Sequence[ClockSpan]:
    """Drop the spans that ended before a time. If too many are left, the two oldest become one."""
    while len(spans) > 1 and spans[1].start < before:
        spans = spans[1:]
    if len(spans) > _MAX_SPANS:
        first, second = spans[:2]
        spans = (ClockSpan(first.start, min(first.ahead, second.ahead)), *spans[2:])
    return spans
