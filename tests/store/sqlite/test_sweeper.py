"""Tests for :mod:`realtime_chat.store.sqlite.sweeper`: how long it holds up the writing thread."""

from __future__ import annotations

import sqlite3
from contextlib import closing
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


class IdleSweeper(Sweeper):
    """One that finds nothing to delete."""

    def __init__(self) -> None:
        nothing: Any = None
        super().__init__(RetentionClock(Retention(), lambda: 0.0, lambda: 0.0), nothing)

    def _trim(self, connection: sqlite3.Connection, after: int, last: int) -> None: ...

    def _sweep_empty(self, connection: sqlite3.Connection, after: int, last: int) -> None: ...


class RoundTests(SynchronousTestCase):
    """A sweep goes through all rooms."""

    def test_some_at_a_time(self) -> None:
        """It takes a hundred at a time, says whether there are more, and begins again after the last."""
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute("CREATE TABLE rooms (id INTEGER PRIMARY KEY)")
            connection.executemany("INSERT INTO rooms VALUES (?)", [(number,) for number in range(1, 251)])
            idle = IdleSweeper()
            self.assertEqual([True, True, False] * 2, [idle._sweep_some(connection) for _ in range(6)])


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
