"""Tests for :mod:`realtime_chat.store.sqlite.checkpoints`, with a connection that the test holds up."""

from __future__ import annotations

import sqlite3
import threading
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.store.sqlite.checkpoints import CheckpointScheduler


class LongCheckpoint:
    """A database whose log is long, and a connection to it that copies the log until it is interrupted."""

    def __init__(self) -> None:
        self.begun, self.interrupted, self.closed = threading.Event(), threading.Event(), threading.Event()

    def wal_size(self) -> int:
        return 1 << 30

    def open_to_read(self) -> Any:
        return self

    def execute(self, statement: str) -> Any:
        self.begun.set()
        self.interrupted.wait(5)
        raise sqlite3.OperationalError("interrupted")

    def interrupt(self) -> None:
        self.interrupted.set()

    def close(self) -> None:
        self.closed.set()


class StopTests(SynchronousTestCase):
    """The end of a checkpoint."""

    def test_interrupted(self) -> None:
        """A thread that copies a long log is interrupted when the store stops, and its connection is closed."""
        long: Any = LongCheckpoint()
        problems: list[str] = []
        scheduler = CheckpointScheduler(long, long, problems.append)
        scheduler.committed(1)
        scheduler.run(long)
        self.assertTrue(long.begun.wait(60))
        self.assertFalse(scheduler.are_due())
        scheduler.stop()
        self.assertEqual((True, True, []), (long.interrupted.is_set(), long.closed.is_set(), problems))
