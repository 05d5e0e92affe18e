"""What one connection may do in a turn of the reactor, and what all that want more do in later turns.

A piece of what a socket holds may be a thousand commands. Whoever does them all in one turn lets everybody else wait.
So a connection does for half a millisecond what stands in its piece, and the rest when its place in a line comes up; a
turn does for ten milliseconds what stands in that line. A publish and its delivery take some four turns.

While nobody waits in line, one goes on to the end of those ten milliseconds. So publishes that come at once stay one
batch: in pieces of half a millisecond, a fan-out of 64 at a time brings half as much a second, and polls a fifth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from realtime_chat.core.interfaces import TurnClock

__all__ = ["TURN", "Turns"]

_SHARE = 0.0005
"""Seconds after which a connection that wants more waits for its next share."""

TURN = 0.01
"""Seconds after which the line waits for the next turn."""


class Turns:
    """The line of those that have more to do.

    :param clock: calls in the next turn.
    :param seconds: a clock that nobody sets, to measure by; the other one where there is none.
    """

    _log = Logger()

    def __init__(self, clock: TurnClock, seconds: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._seconds = clock.seconds if seconds is None else seconds
        self._line: deque[tuple[Callable[[], object], Callable[[], object]]] = deque()
        self._is_due = False
        self._end: float | None = None
        """When the turn ends; None while all have had no more than their shares."""

    def share(self) -> float:
        """When the share of one who begins now ends."""
        return self._seconds() + _SHARE

    def is_over(self, share: float) -> bool:
        """Whether a share has ended, and nothing is left of the turn for those who want more."""
        now = self._seconds()
        if now < share:
            return False
        return bool(self._line) or now >= min(share - _SHARE + TURN, self._turn_end(now))

    def _turn_end(self, now: float) -> float:
        if self._end is None:
            self._end = now + TURN
            self._run_soon()
        return self._end

    def later(self, call: Callable[[], object], lose: Callable[[], object]) -> None:
        """Have ``call()`` called in a later turn, behind all that wait already.

        :param lose: is called where that raises.
        """
        self._line.append((call, lose))
        self._run_soon()

    def next(self) -> Deferred[None]:
        """Answer in a later turn, after all that wait already."""
        turn: Deferred[None] = Deferred()
        self.later(lambda: turn.callback(None), lambda: None)
        return turn

    def _run_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._clock.callLater(0, self._run)

    def _run(self) -> None:
        self._is_due = False
        self._end = None
        if not self._line:
            return
        end = self._turn_end(self._seconds())
        for _ in range(len(self._line)):  # who wants still more comes behind all others, and not in this turn
            call, lose = self._line.popleft()
            try:
                call()
            except Exception:
                self._log.failure("a connection is closed, as what came from it could not be dealt with")
                lose()
            if self._seconds() >= end:
                break
