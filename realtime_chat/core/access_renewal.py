"""Lets whatever is open go on with new rules, some of it in each turn, so that nobody waits for all of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

Renewals = Iterable[Callable[[], object]]

_SHARE = 0.005
"""Seconds of each turn. A reader whose rights stay takes 3 µs; one that is told something takes 15 to 28 µs. So 20,000
readers take half a second, and others go on between them."""

_MORE = 1 / 20
"""The share grows by so much of the time that has passed, so that all are done within a second on a busy node, too."""


class AccessRenewal:
    """Makes the calls by which sessions and clients take the rights that they have now.

    :param renewals: gives a call for everything that is open.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, renewals: Callable[[], Renewals]) -> None:
        self._clock = clock
        self._renewals = renewals
        self._left: deque[Callable[[], object]] = deque()
        self._is_changed = False
        self._begun = 0.0
        self._next: IDelayedCall | None = None

    def begin(self) -> None:
        """The rules have changed. If calls are left of the change before, all are made again after them."""
        if self._next is not None:
            self._is_changed = True
            return
        self._begun = self._clock.seconds()
        self._left.extend(self._renewals())
        self._next = self._clock.callLater(0, self._run)

    def stop(self) -> None:
        """Make no more calls."""
        self._left.clear()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _run(self) -> None:
        now = self._clock.seconds()
        end = now + _SHARE + (now - self._begun) * _MORE
        while self._left and self._clock.seconds() < end:
            self._renew(self._left.popleft())
        self._next = self._clock.callLater(0, self._run) if self._left else None
        if self._next is None and self._is_changed:
            self._is_changed = False
            self.begin()

    def _renew(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception:  # one client never disturbs another
            self._log.failure("rights could not be renewed")
