"""The one place where a reactor gets a clock that doesn't step.

Twisted's reactors take the time from :func:`time.time`: where the clock is set back by an hour, no call comes for that
long. They look their ``seconds`` up each time. So giving them another moves ``callLater``, what is due, and how long
they sleep together, for Twisted's own deadlines (endpoints, agents, Autobahn, ``addTimeout``) as for ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["seconds_asleep_too", "time_steadily"]


def time_steadily(reactor: Any, wall: Callable[[], float] = time.time) -> None:
    """Let a reactor time its calls by the monotonic clock; one that has another clock than the wall's keeps it.

    Its seconds go on from the wall clock's: so what others have scheduled already stays right, and who takes them for
    the time of day, as Twisted's own access log does, is wrong by no more than the steps that come.

    :param wall: what Twisted's reactors tell the time by.
    """
    if getattr(reactor, "seconds", None) is not wall:
        return
    monotonic = time.monotonic
    ahead: float = wall() - monotonic()

    def seconds() -> float:
        return ahead + monotonic()

    reactor.seconds = seconds


def seconds_asleep_too() -> float:
    """Seconds of a clock that doesn't step, and that counts while the machine sleeps, where there is such a clock.

    For how long another machine remembers something; the monotonic clock of Linux stands still meanwhile.
    """
    seconds: float = time.clock_gettime(_CLOCK)
    return seconds


_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
