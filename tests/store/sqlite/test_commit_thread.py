"""Tests for :mod:`realtime_chat.store.sqlite.group_commit`: the thread, with a writer that does what the test says."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.store.append_queue import CommitCounts, PendingAppend
from realtime_chat.store.sqlite.group_commit import GroupCommitThread
from realtime_chat.values.errors import InDoubt, StoreError
from tests.contracts import draft


class Writer:
    """A writer whose commits fail.

    :param error: what they fail with.
    :ivar maintained: when it was maintained.
    """

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.maintained: list[float] = []
        self.three_times = threading.Event()

    def open(self) -> Any:
        return SimpleNamespace(secret=b"s")

    def commit(self, drafts: object, check: bool, changes: object) -> Any:
        raise self.error

    def resolve_in_doubt(self) -> None:
        return None

    def checkpoint_if_due(self) -> None: ...

    def maintain(self) -> None:
        self.maintained.append(time.monotonic())
        if len(self.maintained) == 3:
            self.three_times.set()


class ThreadTests(SynchronousTestCase):
    """A thread that ends with the test."""

    def start(self, interval: float, error: Exception) -> None:
        self.answered = threading.Event()
        self.answers: list[Any] = []
        self.writer, self.counts = Writer(error), CommitCounts()
        writer: Any = self.writer
        self.thread = GroupCommitThread(writer, self.counts, interval, self.on_answers, lambda: None)
        self.thread.start(lambda secret: None, lambda: None)
        self.addCleanup(self.thread.join)
        self.addCleanup(self.thread.stop)

    def on_answers(self, answers: Any, idle: bool) -> None:
        self.answers += answers
        if answers:
            self.answered.set()

    def test_interval(self) -> None:
        """An idle database is maintained once in each interval."""
        self.start(0.05, InDoubt())
        self.assertTrue(self.writer.three_times.wait(30))
        first, second, third = self.writer.maintained[:3]
        self.assertGreaterEqual(min(second - first, third - second), 0.05)

    def test_failed(self) -> None:
        """A commit that fails, or is in doubt, counts once, however many drafts it has; each of them is told."""
        for error in (InDoubt(), StoreError("the disk is full")):
            self.start(60.0, error)
            self.thread.submit([PendingAppend(draft(number), 1, Deferred()) for number in range(3)])
            self.assertTrue(self.answered.wait(30))
            outcomes = [type(outcome) for _, outcome in self.answers]
            self.assertEqual((1, [type(error)] * 3), (self.counts.failed, outcomes))
