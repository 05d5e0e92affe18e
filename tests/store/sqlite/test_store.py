"""The store in SQLite keeps the contract."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from realtime_chat.store.retention import Retention
from realtime_chat.store.sqlite.store import SQLiteStore
from tests.contracts import LastingStoreContract


class SQLiteStoreTests(LastingStoreContract, TestCase):
    """The store in SQLite keeps the contract."""

    def build_store(self, retention: Retention) -> SQLiteStore:
        directory = self.mktemp()
        os.makedirs(directory)
        self.path = f"{directory}/realtime.sqlite"
        return self.rebuild_store(retention)

    def rebuild_store(self, retention: Retention) -> SQLiteStore:
        return SQLiteStore(
            reactor, self.path, retention, self.wall, os.urandom, tick=0.02, monotonic=self.clock.seconds
        )

    async def back_up(self, store: SQLiteStore) -> str:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("VACUUM INTO ?", (f"{self.path}-backup",))
        return f"{self.path}-backup"

    async def put_back(self, backup: str) -> None:
        os.replace(backup, self.path)
