"""The store in memory."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from tests.contracts import MessageStoreContract, append_all, check_positions, draft
from tests.soak import examples


class MemoryStoreTests(MessageStoreContract, TestCase):
    """The store in memory keeps the contract, and answers at once."""

    def build_store(self, retention: Retention) -> MemoryStore:
        return MemoryStore(retention, self.wall, os.urandom, monotonic=self.clock.seconds)

    def test_answers_at_once(self) -> None:
        """Nothing waits for a reactor."""
        store = self.build_store(Retention())
        self.successResultOf(store.append(draft()))
        self.assertEqual(self.successResultOf(store.read_after("lobby", 0, 1)).top, 1)

    @settings(max_examples=examples(300), deadline=None, database=None)
    @given(st.binary(min_size=5, max_size=60))
    def test_no_position_twice_ever(self, steps: bytes) -> None:
        """In no order of making, using, forgetting and making anew does a position stand for two messages."""
        store = self.build_store(Retention(1000, 60))

        async def pass_time(seconds: int) -> None:
            self.clock.advance(seconds)
            while await store.rooms("", 9):
                self.clock.advance(31)

        self.successResultOf(Deferred.fromCoroutine(check_positions(store, steps, pass_time)))

    async def test_new_epoch(self) -> None:
        """Every store in memory is another log."""
        first, second = await self.open_store(), await self.open_store()
        self.assertNotEqual((await first.read_after("a", 0, 1)).epoch, (await second.read_after("a", 0, 1)).epoch)

    def test_given_secret(self) -> None:
        """A secret that is given is used."""
        store = MemoryStore(Retention(), self.clock.seconds, os.urandom, secret=b"s" * 32)
        self.assertEqual(store.secret, b"s" * 32)

    async def test_bounded(self) -> None:
        """What is held stays bounded, keys included, once they are old."""
        store = await self.open_store(count=10)
        for _ in range(10):
            await append_all(store, [draft(number, key=f"{self.clock.seconds()}{number}") for number in range(100)])
            self.clock.advance(400)
        log = store._logs["lobby"]
        self.assertLessEqual(len(log.messages), 10 + 64)
        self.assertLessEqual(len(log.keys), 200)


class RetentionTests(TestCase):
    """What can be asked to be kept."""

    def test_refused(self) -> None:
        """Nothing at all, or no time at all, can't be kept."""
        for count, age in [(0, None), (-1, None), (10, 0), (10, -1.0)]:
            with self.assertRaises(ValueError):
                Retention(count, age)
        for rooms, rate in [(0, 1), (1, 0), (-1, 1), (1, -1)]:
            with self.assertRaises(ValueError):
                Retention(rooms=rooms, room_rate=rate)
