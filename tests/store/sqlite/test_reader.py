"""Tests for :mod:`realtime_chat.store.sqlite.reader`."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from tests.contracts import draft, texts
from tests.store.sqlite.fixtures import SQLiteTestCase


class PausedTests(SQLiteTestCase):
    """Reads while the other thread has paused them."""

    async def test_paused(self) -> None:
        """Reads that are asked for during a pause wait for its end, and then all are answered; so it is each time."""
        store = await self.open_store()
        await store.append(draft("a"))
        for _ in range(3):
            with store._reader.paused(10.0) as paused:
                self.assertTrue(paused)
                reads = [store.read_after("lobby", 0, 9) for _ in range(3)]
                self.assertEqual([False] * 3, [read.called for read in reads])
            waiting: Deferred[list[object]] = gatherResults(reads)
            pages = await waiting.addTimeout(30, reactor)
            self.assertEqual([["a"]] * 3, [texts(page) for page in pages])
