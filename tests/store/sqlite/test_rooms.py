"""Tests for :mod:`realtime_chat.store.sqlite.rooms`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.store.retention import Retention, RetentionClock
from realtime_chat.store.sqlite import rooms
from realtime_chat.store.sqlite.rooms import RoomIndex, RoomTop


class CacheTests(SynchronousTestCase):
    """Tops that needn't be read from the database."""

    def test_bounded(self) -> None:
        """Those of the rooms that were written to last stay in memory, and no more than there may be."""
        self.patch(rooms, "_CACHED_ROOMS", 2)
        clock, asked = Clock(), []

        def execute(query: str, words: tuple[str]) -> Any:
            asked.append(words)
            return SimpleNamespace(fetchone=lambda: ("[]", 3))

        index = RoomIndex(RetentionClock(Retention(), clock.seconds, clock.seconds))
        for name in "abac":
            index.committed({name: RoomTop(ord(name), 7)}, 0, 0, 1, 4)
        found = index.find(SimpleNamespace(execute=execute), "abc")  # type: ignore[arg-type]
        self.assertEqual(({"a", "c"}, [('["b"]',)]), ({*found}, asked))
