"""A problem is logged once, not each time that the same thing fails."""

from __future__ import annotations

import math
import time
from typing import Any

from twisted.logger import Logger, LogLevel

__all__ = ["ProblemLog"]


class ProblemLog:
    """Logs a problem when it begins, and again only if it changes, is over, or has lasted for a while.

    :param log: where to.
    :param interval: seconds after which the same problem is logged again.
    """

    def __init__(self, log: Logger, interval: float = math.inf) -> None:
        self._log = log
        self._interval = interval
        self._problem: str | None = None
        self._logged_at = 0.0

    def problem(self, problem: str, format: str, level: LogLevel = LogLevel.error, **values: Any) -> None:
        """Log a problem, unless it is the one that was logged last.

        :param problem: tells this problem from others; it is the value ``problem`` of the format.
        """
        now = time.monotonic()
        if problem != self._problem or now - self._logged_at >= self._interval:
            self._problem, self._logged_at = problem, now
            self._log.emit(level, format, problem=problem, **values)

    def recovered(self, format: str, **values: Any) -> None:
        """Log that the problem is over, if there was one."""
        if self._problem is not None:
            self._problem = None
            self._log.info(format, **values)
