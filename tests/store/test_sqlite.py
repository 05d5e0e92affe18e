"""The store in SQLite."""

from __future__ import annotations

import os

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from realtime_chat.store.retention import Retention
from realtime_chat.store.sqlite import SQLiteStore
from tests.contracts import MessageStoreContract


class SQLiteStoreTests(MessageStoreContract, TestCase):
    """The store in SQLite keeps the contract."""

    def build_store(self, retention: Retention) -> SQLiteStore:
        directory = self.mktemp()
        os.makedirs(directory)
        return SQLiteStore(reactor, f"{directory}/realtime.sqlite", retention, self.clock.seconds, os.urandom)
