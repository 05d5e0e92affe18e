"""Delays between attempts."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Backoff"]

SHORTEST = 0.5
LONGEST = 20.0


class Backoff:
    """Exponential backoff with full jitter: a random time up to a bound that doubles with each failure.

    Clients that were cut off together don't come back together (M. Brooker, "Exponential Backoff And Jitter", 2015).

    :param random: returns a float from 0 up to 1.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._failures = 0

    def next(self) -> float:
        """Count one more failure, and return the seconds to wait: from 0.5 to at most 20."""
        bound = min(LONGEST, 2.0 ** min(self._failures, 10))
        self._failures += 1
        return SHORTEST + self._random() * (bound - SHORTEST)

    def succeeded(self) -> None:
        """Forget the failures."""
        self._failures = 0
