"""The thread that commits: all drafts that wait go into one commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.store.append_queue import Answers, AppendOutcome, CommitCounts, PendingAppend, batch_end, refusals
from realtime_chat.store.sqlite.writer import CommitInDoubt, SQLiteWriter
from realtime_chat.values.errors import InDoubt, StoreError, StoreRefused


class GroupCommitThread:
    """Runs a :class:`~realtime_chat.store.sqlite.writer.SQLiteWriter` on a thread of its own.

    :param counts: counts the commits.
    :param interval: seconds between two runs of :meth:`SQLiteWriter.maintain`.
    :param on_answers: called on this thread with answers, and with True if nothing is left to be committed.
    :param on_change: called on this thread when the log has messages that were not announced.
    """

    _log = Logger()

    def __init__(
        self,
        writer: SQLiteWriter,
        counts: CommitCounts,
        interval: float,
        on_answers: Callable[[Answers, bool], None],
        on_change: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._counts = counts
        self._interval = interval
        self._on_answers = on_answers
        self._on_change = on_change
        self._submitted: SimpleQueue[list[PendingAppend] | None] = SimpleQueue()
        self._answers: list[tuple[PendingAppend, AppendOutcome | None]] = []
        self._thread: threading.Thread | None = None

    # On the reactor's thread.

    def start(self, on_open: Callable[[bytes | Failure], None], on_end: Callable[[], None]) -> None:
        """Start the thread, which opens the database.

        :param on_open: called on the new thread with the secret of the logs, or with a ``StoreRefused``.
        :param on_end: called on the new thread after its last answer.
        """
        self._thread = threading.Thread(target=self._run, args=(on_open, on_end), name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, appends: list[PendingAppend]) -> None:
        """Commit appends, in one commit or several."""
        self._submitted.put(appends)

    def stop(self) -> None:
        """Let the thread end after what was submitted."""
        self._submitted.put(None)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def join(self) -> None:
        """Wait for the end of the thread."""
        if self._thread is not None:
            self._thread.join()

    # On its own thread.

    def _run(self, on_open: Callable[[bytes | Failure], None], on_end: Callable[[], None]) -> None:
        try:
            identity = self._writer.open()
        except StoreRefused:
            self._writer.close()
            on_open(Failure())
            return
        on_open(identity.secret)
        self._commit_until_stopped()
        self._resolve_in_doubt()
        self._send_answers()
        on_end()

    def _commit_until_stopped(self) -> None:
        due = time.monotonic()
        while True:
            with suppress(Empty):
                appends = self._submitted.get(timeout=max(0.0, due - time.monotonic()))
                if appends is None:
                    return
                self._commit_all(appends)
            if time.monotonic() >= due:
                self._maintain()
                due = time.monotonic() + self._interval

    def _commit_all(self, appends: list[PendingAppend]) -> None:
        end = 0
        while end < len(appends):
            start, end = end, batch_end(appends, end)
            self._commit(appends[start:end])
            self._send_answers(end == len(appends))
            self._writer.checkpoint_if_due()

    def _commit(self, appends: list[PendingAppend]) -> None:
        """Commit appends. Whatever happens, each gets an answer."""
        self._resolve_in_doubt()
        drafts = [(one.draft, one.at) for one in appends if one.draft is not None]
        others = [] if len(drafts) == len(appends) else [one.change for one in appends if one.draft is None]
        try:
            outcomes = self._writer.commit(drafts, None in others, [one for one in others if one is not None])
        except CommitInDoubt:
            self._answer_in_doubt(appends)
        except InDoubt:
            self._leave_in_doubt(appends)
        except StoreError as error:
            self._refuse(appends, error)
        except Exception:
            self._log.failure("A commit of {count} drafts", count=len(appends))
            self._commit_one_by_one(appends)
        else:
            self._counts.sizes.observe(len(drafts))
            self._answer(appends, outcomes)

    def _commit_one_by_one(self, appends: list[PendingAppend]) -> None:
        """Let a draft that can't be stored at all fail alone."""
        if len(appends) == 1:
            self._refuse(appends, StoreError("this message can't be stored"))
            return
        for one in appends:
            self._commit([one])

    def _answer_in_doubt(self, appends: list[PendingAppend]) -> None:
        """Answer appends whose sync failed: whether they are stored may be visible at once."""
        checks = [one for one in appends if one.draft is None]
        drafts = [one for one in appends if one.draft is not None]
        try:
            outcomes = self._writer.resolve_in_doubt()
        except StoreError as error:
            self._refuse(appends, error)
            return
        if outcomes is None:
            self._leave_in_doubt(appends)
        else:
            self._refuse(checks, StoreError("the disk failed"))
            self._answer(drafts, outcomes)

    def _leave_in_doubt(self, appends: list[PendingAppend]) -> None:
        self._counts.failed += 1
        self._answers += [(one, StoreError("the disk failed") if one.draft is None else InDoubt()) for one in appends]

    def _resolve_in_doubt(self) -> None:
        """Look again whether a commit in doubt is stored. If so, let readers know."""
        with suppress(StoreError):
            if self._writer.resolve_in_doubt() is not None:
                self._on_change()

    def _maintain(self) -> None:
        try:
            self._resolve_in_doubt()
            self._send_answers()
            self._writer.maintain()
        except Exception:
            self._log.failure("Maintaining the database")

    def _answer(self, appends: Sequence[PendingAppend], outcomes: Sequence[AppendOutcome]) -> None:
        """Keep answers for :meth:`_send_answers`. A check has no outcome, and is answered with None."""
        if len(outcomes) == len(appends):
            self._answers += zip(appends, outcomes, strict=True)
            return
        rest = iter(outcomes)
        self._answers += [(one, None if one.draft is None else next(rest)) for one in appends]

    def _refuse(self, appends: Sequence[PendingAppend], error: StoreError) -> None:
        self._counts.failed += 1
        self._answers += refusals(appends, error)

    def _send_answers(self, idle: bool = False) -> None:
        answers, self._answers = self._answers, []
        if answers or idle:
            self._on_answers(answers, idle)
