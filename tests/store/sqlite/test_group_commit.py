"""Group commit, queues and threads of the store in SQLite."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher

from realtime_chat.store.sqlite.store import SQLiteStore
from realtime_chat.values.counters import Histogram
from realtime_chat.values.model import Draft, Message, User
from tests.contracts import BOB, append_all, draft, texts
from tests.store.sqlite.fixtures import SQLiteTestCase


class WaitingTests(SQLiteTestCase):
    """What waits for what."""

    async def test_group_commit(self) -> None:
        """What waits together is committed together."""
        store = await self.open_store()
        sizes = store.commits.sizes = Histogram(range(1, 257))
        await append_all(store, [draft(number, room=f"r{number % 7}") for number in range(1000)])
        self.assertLess(sum(sizes.buckets), 50)
        self.assertEqual(sizes.total, 1000)
        self.assertEqual(sizes.buckets[-1], 0, "more than 256 messages")

    async def test_sizes(self) -> None:
        """Commits of every size are stored whole and in order, with and without keys, and with much data."""
        store = await self.open_store(count=10_000)
        top = 0
        for count in (1, 2, 3, 5, 9, 16, 17, 47, 49, 65, 97, 129, 193, 256, 257):
            for keyed, text in [(0, "a"), (1, "a"), (2, "a"), (0, "b" * 70_000 if count < 10 else "b" * 4000)]:
                drafts = [
                    draft(f"{text}{number}", key=f"{count}-{number}-{keyed}" if keyed and number % keyed == 0 else None)
                    for number in range(count)
                ]
                stored = [one.message for one in await append_all(store, drafts)]
                self.assertEqual([one.data for one in stored], [one.data for one in drafts])
                self.assertEqual([one.position.offset for one in stored], list(range(top + 1, top + count + 1)))
                found = [message async for message in self.read_all(store, top)]
                self.assertEqual(found, stored)
                top += count
        kinds = "SELECT group_concat(DISTINCT typeof(data)), group_concat(DISTINCT typeof(digest)) FROM messages"
        self.assertEqual(self.query(kinds), ("blob", "null,blob"))
        self.assertEqual(self.query("SELECT top FROM rooms"), (top,))

    async def read_all(self, store: SQLiteStore, after: int) -> AsyncIterator[Message]:
        """What the lobby holds after an offset, page by page."""
        while messages := (await store.read_after("lobby", after, 1000)).messages:
            for message in messages:
                yield message
            after = messages[-1].position.offset

    async def test_bounded_queue(self) -> None:
        """More than a bounded number of waiting drafts is refused at once."""
        store = await self.open_store()
        answers = [store.append(draft()) for _ in range(20_001)]
        await self.assert_unavailable(answers.pop())
        self.assertEqual((await gatherResults(answers))[-1].message.position.offset, 20_000)
        self.assertEqual((await store.append(draft())).message.position.offset, 20_001)

    async def test_bounded_bytes(self) -> None:
        """More than a bounded number of waiting bytes is refused at once."""
        store = await self.open_store()
        large = Draft("lobby", "message", b'"%b"' % (b"x" * 20_000_000), BOB)
        answers = [store.append(large) for _ in range(4)]
        await self.assert_unavailable(answers.pop())
        await gatherResults(answers)

    async def test_reads_do_not_wait(self) -> None:
        """While another program holds the write lock, reads work, and appends wait or fail."""
        store = await self.open_store()
        await append_all(store, [draft(1), draft(2)])
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            answer = store.append(draft(3))
            self.assertEqual(texts(await store.read_after("lobby", 0, 9)), [1, 2])
            self.assertFalse(answer.called)
            await self.assert_unavailable(answer)
            other.execute("ROLLBACK")
        self.assertEqual((await store.append(draft(4))).message.position.offset, 3)

    async def test_foreign_transaction(self) -> None:
        """Another program's transaction blocks checkpoints, but holds up no commit."""
        store = await self.open_store()
        alone = await self.seconds_for(store, 150)
        with self.foreign_transaction():
            await append_all(store, [draft("x" * 50_000) for _ in range(400)])
            beside = await self.seconds_for(store, 150)
        self.assertLess(beside, 3 * alone + 1.0)

    async def seconds_for(self, store: SQLiteStore, count: int) -> float:
        """What so many appends take, one after the other."""
        begun = reactor.seconds()
        for number in range(count):
            await store.append(draft(number))
        return reactor.seconds() - begun

    @contextmanager
    def foreign_transaction(self) -> Iterator[None]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM messages").fetchone()
            yield
            other.execute("COMMIT")

    async def test_log_after_a_foreign_transaction(self) -> None:
        """While there is such a transaction the log grows, which is warned of once; afterwards it is short again,
        though commits go on."""
        store = await self.open_store()
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        wal = Path(f"{self.path}-wal")
        await store.append(draft())
        with self.foreign_transaction():
            while wal.stat().st_size < 90_000_000:
                await append_all(store, [draft("x" * 50_000) for _ in range(20)])
            await self.eventually(self.warned(events))
        going_on = True

        async def publish() -> None:
            while going_on:
                await append_all(store, [draft("x" * 1000) for _ in range(20)])

        publishing = Deferred.fromCoroutine(publish())
        await self.eventually(lambda: deferToThread(lambda: wal.stat().st_size < 24_000_000))
        going_on = False
        await publishing
        warnings = [event for event in events if event["log_level"].name == "warn"]
        self.assertEqual(1, len(warnings))
        self.assertEqual(self.query("PRAGMA integrity_check"), ("ok",))

    def warned(self, events: list[Any]) -> Any:
        """Whether somebody was warned."""

        async def attempt() -> bool:
            return any(event["log_level"].name == "warn" for event in events)

        return attempt

    async def test_poison(self) -> None:
        """A draft that can't be stored at all fails alone."""
        store = await self.open_store()
        poison = Draft("lobby", "message", b"1", User("\ud800", "x"))
        before, failing, after = store.append(draft(1)), store.append(poison), store.append(draft(2))
        await self.assert_unavailable(failing)
        await gatherResults([before, after])
        self.assertEqual(texts(await store.read_after("lobby", 0, 9)), [1, 2])
        self.assertGreaterEqual(len(self.flushLoggedErrors(UnicodeEncodeError)), 1)

    async def test_threads_end(self) -> None:
        """Stopping leaves no thread behind."""
        before = set(threading.enumerate())
        store = await self.open_store()
        await store.append(draft())
        await store.stop()
        self.assertEqual({each for each in threading.enumerate() if each.name.startswith("store-")} - before, set())
