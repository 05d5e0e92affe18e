"""How old what is stored is, by a wall clock that may step.

What is stored bears the time that the wall clock showed. How long ago that was, that clock alone can't tell, as it may
have been set since. So it is remembered what it has shown. Whatever bears less than the lowest time that it showed
within the last hour of the monotonic clock was stored before that hour. So a step can only make an age longer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from realtime_chat.store.retention import KEY_SECONDS

__all__ = ["Ages", "Span"]

_JITTER = 0.5
"""Seconds that the clocks may move against each other without having been set: they are read one after the other."""

_MOST_SPANS = 64

_DAY = 86400.0
"""What is remembered where messages are kept for ever: for so long rooms are kept then that nobody uses."""


class Span(NamedTuple):
    """A time in which the wall clock wasn't set.

    :param begun: seconds that had elapsed.
    :param ahead: by how many seconds the wall clock was ahead of that one, at least.
    """

    begun: float
    ahead: float


class Ages:
    """The wall clock, and what it has shown. May be asked on any thread.

    What elapses is the time of this process, and of those before it as far as :meth:`restore` is told of them. What
    came before that is taken for a time in which the clock wasn't set, by :meth:`cutoff` but not by :meth:`young`.

    :param age: for how many seconds messages are kept; None for ever.
    :param wall: seconds since 1970; it may be set at any time.
    :param monotonic: seconds that only grow.
    """

    def __init__(self, age: float | None, wall: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._age = age
        self._longest = max(KEY_SECONDS, _DAY if age is None else age)
        self._wall = wall
        self._monotonic = monotonic
        self._change = threading.Lock()
        self._started = self._zero = monotonic()
        self.spans: Sequence[Span] = (Span(0.0, wall()),)
        self._ahead = self.spans[-1].ahead

    @property
    def lasting(self) -> bool:
        """Whether it is of use for the next process to be told of the spans."""
        return self._age is not None

    def elapsed(self) -> float:
        """Seconds that processes have been there."""
        return self._monotonic() - self._zero

    def restore(self, spans: Sequence[Span]) -> None:
        """Go on from what the last process has seen, before anything else; the last span begins where that ended."""
        with self._change:
            if spans:
                self._zero = self._started - spans[-1].begun
            now = self.elapsed()
            self.spans = _shortened((*spans, Span(now, self._wall() - now)), now - self._longest)
            self._ahead = self.spans[-1].ahead

    def now(self) -> float:
        """What the wall clock shows; every time that something stored is to bear comes from here."""
        wall = self._wall()
        if not 0 <= wall - self._monotonic() + self._zero - self._ahead < _JITTER:
            self._set()
        return wall

    def _set(self) -> None:
        """The wall clock was set, or the other one was read a little later than before."""
        with self._change:
            wall, now = self._wall(), self.elapsed()
            ahead = wall - now
            last = self.spans[-1]
            if abs(ahead - last.ahead) < _JITTER:
                self.spans = (*self.spans[:-1], Span(last.begun, min(last.ahead, ahead)))
            else:
                self.spans = _shortened((*self.spans, Span(now, ahead)), now - self._longest)
            self._ahead = self.spans[-1].ahead

    def cutoff(self) -> int:
        """The lowest :attr:`~realtime_chat.values.model.Message.at` of a message that is young enough to be read."""
        return 0 if self._age is None else self.lowest(self._age)

    def lowest(self, seconds: float) -> int:
        """The lowest time (milliseconds since 1970) that something bears which is no older than that.

        :param seconds: at most those for which messages are kept; a day where they are kept for ever.
        """
        return int(self._lowest(seconds) * 1000)

    def young(self) -> int:
        """The lowest time (milliseconds since 1970) that a key bears which has to be known still.

        None is too old for a process that hasn't seen so many seconds itself.
        """
        if self._monotonic() - self._started < KEY_SECONDS:
            return 0
        return max(0, int(self._lowest(KEY_SECONDS) * 1000))

    def _lowest(self, seconds: float) -> float:
        """The lowest time that the wall clock has shown within the last seconds."""
        self.now()
        since = self.elapsed() - seconds
        spans = self.spans
        first = next((index for index in range(len(spans) - 1, 0, -1) if spans[index].begun < since), 0)
        return min([since + spans[first].ahead, *(span.begun + span.ahead for span in spans[first + 1 :])])


def _shortened(spans: Sequence[Span], before: float) -> Sequence[Span]:
    """Without the spans that ended before that time; the two oldest become one where they are too many."""
    while len(spans) > 1 and spans[1].begun < before:
        spans = spans[1:]
    if len(spans) > _MOST_SPANS:
        first, second = spans[:2]
        spans = (Span(first.begun, min(first.ahead, second.ahead)), *spans[2:])
    return spans
