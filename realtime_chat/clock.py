"""A clock for reactors that doesn't step when the system clock is set.

Twisted's reactors take the time from :func:`time.time`. If that clock is set back by an hour, no delayed call comes for
an hour. A reactor looks up its ``seconds`` each time it needs them. So another ``seconds`` changes ``callLater``, the
calls that are due, and the reactor's sleep together. Twisted's own deadlines (endpoints, agents, Autobahn,
``addTimeout``) follow it too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def time_steadily(reactor: Any, time_of_day: Callable[[], float] = time.time) -> None:
    """Let a reactor use the monotonic clock. A reactor whose clock is not the system clock keeps its own.

    The new clock continues from the system clock, so that calls that are already scheduled stay right. Code that takes
    the reactor's seconds for the time of day, as Twisted's access log does, is wrong only by later steps of the clock.

    :param time_of_day: the clock that Twisted's reactors use.
    """
    if getattr(reactor, "seconds", None) is not time_of_day:
        return
    monotonic = time.monotonic
    ahead: float = time_of_day() - monotonic()

    def seconds() -> float:
        return ahead + monotonic()

    reactor.seconds = seconds


def seconds_asleep_too() -> float:
    """Seconds of a clock that doesn't step and, if the system has such a clock, runs on while the machine sleeps.

    It measures how long another machine remembers something. The monotonic clock of Linux stops during sleep.
    """
    seconds: float = time.clock_gettime(_CLOCK)
    return seconds


_CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
