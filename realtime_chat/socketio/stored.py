"""An answer that may be awaited, or not."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


class Stored:
    """Tells when something is stored. Whoever doesn't await it needs not care whether it fails.

    :ivar is_done: whether it is known whether that is stored.
    :raises RealtimeError: awaited: why it was not stored.
    """

    __slots__ = ("_failure", "_waiting", "is_done")

    def __init__(self) -> None:
        self.is_done = False
        self._failure: Failure | None = None
        self._waiting: list[Deferred[None]] = []

    def __await__(self) -> Generator[Deferred[None], Any, None]:
        answer: Deferred[None] = Deferred()
        if self.is_done:
            self._answer(answer)
        else:
            self._waiting.append(answer)
        return answer.__await__()

    def done(self, failure: Failure | None = None) -> None:
        """Answer all who wait for it, and who will."""
        self.is_done, self._failure = True, failure
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            self._answer(answer)

    def _answer(self, answer: Deferred[None]) -> None:
        if self._failure is None:
            answer.callback(None)
        else:
            answer.errback(self._failure)


NOTHING_TO_STORE = Stored()
"""The answer where nothing is stored."""
NOTHING_TO_STORE.done()
