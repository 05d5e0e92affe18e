"""Tests for :mod:`realtime_chat.store.sqlite.sessions`, beside the contract."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.interfaces import SESSION_SECONDS
from realtime_chat.store.retention import Retention, RetentionClock
from realtime_chat.store.sqlite.file import SCHEMA
from realtime_chat.store.sqlite.sessions import expire


class ExpireTests(SynchronousTestCase):
    """What is removed."""

    def test_bounded(self) -> None:
        """Records that have expired go, and of too many disconnected sockets the oldest; no connected one goes."""
        clock = Clock()
        clock.advance(10_000)
        retention = RetentionClock(Retention(), clock.seconds, clock.seconds)
        clock.advance(SESSION_SECONDS)
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.executescript("".join(SCHEMA))
            now = retention.now_ms()
            ends = [now - 1000 * SESSION_SECONDS - 1, *range(now - 5, now), None, None, None, None]
            rows = [(str(number), end, b"") for number, end in enumerate(ends)]
            connection.executemany("INSERT INTO sessions (key, ended, record) VALUES (?, ?, ?)", rows)
            expire(connection, retention)
            self.assertEqual(9, connection.execute("SELECT count(*) FROM sessions").fetchone()[0])
            expire(connection, retention, 3)
            left = connection.execute("SELECT ended FROM sessions ORDER BY ended").fetchall()
        self.assertEqual([None] * 4 + [now - 3, now - 2, now - 1], [end for (end,) in left])
