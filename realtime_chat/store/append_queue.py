"""The queue of appends in front of a store, which commits several of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime

from realtime_chat.values.counters import SIZES, Histogram
from realtime_chat.values.errors import InDoubt, RealtimeError, StoreError
from realtime_chat.values.limits import begin_within
from realtime_chat.values.model import AppendResult, Draft

MAX_BATCH = 256
"""The most drafts in one batch."""

_MAX_BATCH_BYTES = 1024 * 1024
_MAX_UNANSWERED = 20_000
_MAX_UNANSWERED_BYTES = 64 * 1024 * 1024

AppendOutcome = AppendResult | RealtimeError
"""What became of a draft."""


class CommitCounts:
    """Counts commits for the metrics. All numbers only grow.

    :ivar sizes: how many messages each commit held.
    :ivar failed: batches that could not be committed.
    """

    def __init__(self) -> None:
        self.failed = 0
        self.sizes = Histogram(SIZES)


class PendingAppend(msgspec.Struct, eq=False):
    """A draft that waits for its commit.

    :param draft: None for a check whether the store can be written to.
    :param at: the time of the message, in milliseconds since 1970.
    :param answer: fires with the result.
    :param arrived: when it came, in seconds by the reactor's clock.
    :param answered: whether ``answer`` has fired.
    :param change: what else is committed, in place of a draft.
    """

    draft: Draft | None
    at: int
    answer: Deferred[Any]
    arrived: float = 0.0
    answered: bool = False
    change: Any = None


Answers = Iterable[tuple[PendingAppend, AppendOutcome | None]]
"""Appends with their outcomes; a check that succeeded has None."""


class AppendQueue:
    """Admits appends up to a limit, and submits those of one turn of the reactor together.

    :param clock: the reactor.
    :param submit: takes appends from the queue. Returns True if the store is busy until it calls :meth:`ready`.
    :ivar pending: the appends that no batch has taken, in order.
    :ivar unanswered: how many appends and checks have no answer.
    """

    def __init__(self, clock: IReactorTime, submit: Callable[[], bool]) -> None:
        self._clock = clock
        self._submit = submit
        self._scheduled = False
        self._unanswered_bytes = 0
        self.unanswered = 0
        self.pending: list[PendingAppend] = []

    def append(self, draft: Draft, at: int, arrived: float = 0.0) -> Deferred[AppendResult]:
        """Queue a draft. See :class:`PendingAppend` for the parameters.

        :raises StoreError: too many messages wait already.
        """
        size = len(draft.data)
        if self.unanswered >= _MAX_UNANSWERED or self._unanswered_bytes + size > _MAX_UNANSWERED_BYTES:
            return fail(StoreError("too many messages wait to be stored"))
        self._unanswered_bytes += size
        return self._add(PendingAppend(draft, at, Deferred(), arrived))

    def check(self) -> Deferred[None]:
        """Queue a check whether the store can be written to."""
        return self._add(PendingAppend(None, 0, Deferred()))

    def change(self, change: Any) -> Deferred[None]:
        """Queue something else to be committed, in order with the drafts.

        :raises StoreError: too much waits already.
        """
        if self.unanswered >= _MAX_UNANSWERED:
            return fail(StoreError("too many messages wait to be stored"))
        return self._add(PendingAppend(None, 0, Deferred(), change=change))

    def _add(self, pending: PendingAppend) -> Deferred[Any]:
        self.unanswered += 1
        self.pending.append(pending)
        if not self._scheduled:
            self._schedule()
        return pending.answer

    def _schedule(self) -> None:
        self._scheduled = True
        self._clock.callLater(0, self._flush)

    def _flush(self) -> None:
        self._scheduled = bool(self.pending) and self._submit()

    def ready(self) -> None:
        """Submit what has come meanwhile: the store is no longer busy."""
        self._scheduled = False
        if self.pending:
            self._schedule()

    def take(self, count: int | None = None) -> list[PendingAppend]:
        """Remove the first ``count`` appends from the queue, or all of them, and return them."""
        taken = self.pending[:count]
        del self.pending[:count]
        return taken

    def answer(self, answers: Answers) -> None:
        """Fire the answers of some appends. An append that was answered before is left alone."""
        for pending, outcome in answers:
            if pending.answered:
                continue
            pending.answered = True
            self.unanswered -= 1
            if pending.draft is not None:
                self._unanswered_bytes -= len(pending.draft.data)
            if isinstance(outcome, RealtimeError):
                pending.answer.errback(outcome)
            else:
                pending.answer.callback(outcome)


def batch_end(pending: Sequence[PendingAppend], start: int = 0) -> int:
    """Return the index after the last append of the batch that begins at ``start``."""
    drafts = (one.draft for one in pending[start : start + MAX_BATCH])
    return start + begin_within((0 if draft is None else len(draft.data) for draft in drafts), _MAX_BATCH_BYTES)


def refusals(appends: Iterable[PendingAppend], error: StoreError | InDoubt) -> Answers:
    """Pair each append with an error of its own, for :meth:`AppendQueue.answer`."""
    return [(one, InDoubt() if isinstance(error, InDoubt) else StoreError(error.message)) for one in appends]
