"""Tests for :mod:`realtime_chat.store.sqlite.sweeper`: how long it holds up the writing thread."""

from __future__ import annotations

import sqlite3
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.store.retention import Retention, RetentionClock
from realtime_chat.store.sqlite import sweeper
from realtime_chat.store.sqlite.sweeper import Sweeper


class SlowSweeper(Sweeper):
    """One whose rooms take some time.

    :ivar swept: how many times some rooms were swept.
    :ivar rounds: after how many it has been through all rooms.
    """

    def __init__(self, rounds: int) -> None:
        self.now, self.swept, self.rounds = 0.0, 0, rounds
        nothing: Any = None
        super().__init__(RetentionClock(Retention(), lambda: self.now, lambda: self.now), nothing)

    def _sweep_some(self, connection: sqlite3.Connection) -> bool:
        self.now += 0.004
        self.swept += 1
        return self.swept < self.rounds


class TimeTests(SynchronousTestCase):
    """A sweep takes no longer than it may."""

    def test_short(self) -> None:
        """It begins nothing more after ten milliseconds, and stops after the last room."""
        connection: Any = None
        for rounds, swept in ((100, 3), (2, 2)):
            slow = SlowSweeper(rounds)
            self.patch(sweeper, "time", SimpleNamespace(monotonic=lambda slow=slow: slow.now))
            slow.sweep(connection)
            self.assertEqual(swept, slow.swept)
