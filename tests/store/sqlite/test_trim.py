"""Trimming, and the size of the files."""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from realtime_chat.store.retention import KEY_SECONDS
from realtime_chat.values.model import User
from tests.contracts import append_all, draft
from tests.soak import SOAK
from tests.store.sqlite.fixtures import SQLiteTestCase

_THOUSANDS = 200 if SOAK else 100
"""Messages through one room. Without a checkpoint, those of the short form make a write-ahead log of 37 MB."""


class TrimTests(SQLiteTestCase):
    """What is physically held."""

    async def test_count(self) -> None:
        """A room holds few messages beyond those that can be read."""
        store = await self.open_store(count=100)
        for _ in range(20):
            await append_all(store, [draft(number) for number in range(100)])
        self.assertLessEqual(self.query("SELECT count(*) FROM messages")[0], 100 + 64)

    async def test_age(self) -> None:
        """Messages that are too old are deleted even in rooms without writes. Their tops stay."""
        store = await self.open_store(age=60)
        await append_all(store, [draft(number, room=f"r{number}") for number in range(250)])
        self.clock.advance(61)
        await self.eventually(lambda: deferToThread(lambda: self.query("SELECT count(*) FROM messages") == (0,)))
        self.assertEqual((await store.append(draft(room="r7"))).message.position.offset, 2)

    async def test_age_after_restart_and_step(self) -> None:
        """If the wall clock is wrong by a year when the daemon starts, nothing young is deleted."""
        for step in (31e6, 31e6, -31e6):
            store = await self.open_store(age=60)
            await append_all(store, [draft(number) for number in range(5)])
            self.clock.advance(20)
            await store.stop()
            self.ahead += step
            store = await self.open_store(age=60)
            self.clock.advance(20)
            await deferLater(reactor, 0.1)
            self.assertEqual(5, len((await store.read_before("lobby", None, 5)).messages), step)
            if step > 0:
                self.clock.advance(41)
                gone = lambda: deferToThread(lambda: self.query("SELECT count(*) FROM messages") == (0,))  # noqa: E731
                await self.eventually(gone)
            await store.stop()

    async def test_keys(self) -> None:
        """Expired keys are deleted. Young keys, and those of kept messages, stay."""
        store = await self.open_store(count=10)
        await append_all(store, [draft(number, key=f"k{number}") for number in range(500)])
        await append_all(store, [draft(number, key=f"k{number}", room="quiet") for number in range(5)])
        await deferLater(reactor, 0.1)
        self.assertEqual(self.query("SELECT count(*) FROM keys"), (505,))
        self.clock.advance(KEY_SECONDS + 1)
        await self.eventually(lambda: deferToThread(lambda: self.query("SELECT count(*) FROM keys") == (15,)))

    async def test_size(self) -> None:
        """Many times as many messages as a room keeps leave files as small as its history."""
        store = await self.open_store(count=1000)
        largest = 0
        for _ in range(_THOUSANDS):
            await append_all(store, [draft("x" * 100) for _ in range(1000)])
            largest = max(largest, sum(file.stat().st_size for file in self.directory.iterdir()))
        self.assertLess(largest, 24_000_000)
        self.assertLess(self.path.stat().st_size, 2_000_000)
        self.assertEqual((await store.read_before("lobby", None, 1)).top, 1000 * _THOUSANDS)

    async def test_size_of_log(self) -> None:
        """The write-ahead log stays small even if each message dirties pages of its own."""
        store = await self.open_store(count=10, tick=600)
        largest = 0
        for turn in range(200):
            senders = [User(f"{number * 7919 % 5000:04}" * 8, "n") for number in range(turn * 100, turn * 100 + 100)]
            await append_all(store, [draft(turn, key=f"key-{turn}", sender=sender) for sender in senders])
            largest = max(largest, Path(f"{self.path}-wal").stat().st_size)
        self.assertLess(largest, 20_000_000)

    async def test_size_while_reading(self) -> None:
        """Readers that never pause don't keep the write-ahead log from starting over."""
        store = await self.open_store(count=100)
        going_on = True

        async def read() -> None:
            while going_on:
                await gatherResults([store.read_before("lobby", None, 100) for _ in range(20)])

        reading = Deferred.fromCoroutine(read())
        for _ in range(300):
            await append_all(store, [draft("x" * 1000) for _ in range(100)])
        going_on = False
        await reading
        wal = Path(f"{self.path}-wal")
        self.assertLess(wal.stat().st_size, 24_000_000)
