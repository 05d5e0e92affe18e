"""The store in SQLite, and what becomes of it when the disk, the file or the process fails."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase

from realtime_chat.store.idempotency import content_digest
from realtime_chat.store.retention import KEY_SECONDS, Retention
from realtime_chat.store.sqlite.batch import CommitBatch
from realtime_chat.store.sqlite.file import APPLICATION_ID, SCHEMA
from realtime_chat.store.sqlite.store import SQLiteStore
from realtime_chat.values.counters import Histogram
from realtime_chat.values.errors import InDoubt, RealtimeError, StoreError, StoreRefused
from realtime_chat.values.model import Draft, Message, User
from tests.contracts import BOB, START, LastingStoreContract, append_all, draft, offsets, texts, whole_log
from tests.functional.browsers import program

ROOT = Path(__file__).parents[2]


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


class SQLiteTestCase(TestCase):
    """Stores on one path."""

    timeout = 60

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.ahead = 0.0
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.path = self.directory / "realtime.sqlite"

    def wall(self) -> float:
        """The wall clock, which may be set."""
        return self.clock.seconds() + self.ahead

    def build_store(
        self, count: int = 1000, age: float | None = None, retention: Retention | None = None, **more: Any
    ) -> SQLiteStore:
        more.setdefault("tick", 0.02)
        more.setdefault("monotonic", self.clock.seconds)
        kept = retention or Retention(count, age)
        return SQLiteStore(reactor, str(self.path), kept, self.wall, os.urandom, **more)

    async def open_store(self, count: int = 1000, age: float | None = None, **more: Any) -> SQLiteStore:
        store = self.build_store(count, age, **more)
        await store.start()
        self.addCleanup(store.stop)
        return store

    async def assert_refused(self, pattern: str, **more: Any) -> None:
        """The store can't be started; the message names the file and says why."""
        store = self.build_store(**more)
        try:
            await store.start()
        except StoreRefused as refusal:
            self.assertRegex(str(refusal), pattern)
            self.assertIn(str(self.path), str(refusal))
        else:
            await store.stop()
            raise AssertionError("it was not refused")

    async def assert_unavailable(self, answer: Deferred[Any]) -> StoreError:
        try:
            result = await answer
        except StoreError as error:
            return error
        raise AssertionError(f"{result!r} instead of an error")

    async def eventually(self, attempt: Any, seconds: float = 20) -> Any:
        """What ``attempt()`` gives as soon as it is true and raises no StoreError."""
        end = reactor.seconds() + seconds
        while True:
            with contextlib.suppress(StoreError):
                if result := await attempt():
                    return result
            if reactor.seconds() > end:
                raise AssertionError("it never became true")
            await deferLater(reactor, 0.01)

    def query(self, statement: str) -> Any:
        """The first row of a statement, through a connection of its own."""
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(statement).fetchone()


class FileTests(SQLiteTestCase):
    """The file: what it is, whose it is, and which ones are refused."""

    async def test_describe(self) -> None:
        """The line for the operator names the file and its promise."""
        store = self.build_store()
        expected = f"SQLite {self.path} (WAL, synchronous=FULL; the last 1000 messages a room)"
        self.assertEqual(store.describe(), expected)

    async def test_private(self) -> None:
        """Nobody else may read any of its files."""
        store = await self.open_store()
        await store.append(draft())
        names = sorted(os.listdir(self.directory))
        self.assertEqual(names, [f"realtime.sqlite{suffix}" for suffix in ("", "-lock", "-shm", "-wal")])
        for name in names:
            self.assertEqual(stat.S_IMODE((self.directory / name).stat().st_mode), 0o600, name)

    async def test_stop_leaves_one_file(self) -> None:
        """A store that was stopped is one file that can be copied, and the one that others lock."""
        store = await self.open_store()
        await store.append(draft())
        await store.stop()
        self.assertEqual(sorted(os.listdir(self.directory)), ["realtime.sqlite", "realtime.sqlite-lock"])
        self.assertEqual(self.query("SELECT count(*) FROM messages"), (1,))

    async def test_settings(self) -> None:
        """It is in WAL mode, marked as ours, and of the newest version."""
        await self.open_store()
        for pragma, value in [
            ("journal_mode", "wal"),
            ("application_id", APPLICATION_ID),
            ("user_version", len(SCHEMA)),
        ]:
            self.assertEqual(self.query(f"PRAGMA {pragma}"), (value,))

    async def test_awkward_path(self) -> None:
        """A path is not an address: nothing in it has a meaning."""
        self.path = self.directory / "a?mode=memory&x=%41#b é.sqlite"
        await (await self.open_store()).append(draft())
        self.assertTrue(self.path.exists())

    async def test_restart(self) -> None:
        """After a restart everything is as before: messages, tops, epoch and secret."""
        store = await self.open_store()
        await append_all(store, [draft(number) for number in range(5)])
        page, secret = await store.read_after("lobby", 0, 9), store.secret
        await store.stop()
        store = await self.open_store()
        self.assertEqual(await store.read_after("lobby", 0, 9), page)
        self.assertEqual(store.secret, secret)
        self.assertEqual((await store.append(draft())).message.position.offset, 6)

    async def test_new_epoch(self) -> None:
        """A database that is made anew is another log."""
        store = await self.open_store()
        epoch, secret = (await store.read_after("lobby", 0, 9)).epoch, store.secret
        await store.stop()
        self.path.unlink()
        store = await self.open_store()
        self.assertNotEqual((await store.read_after("lobby", 0, 9)).epoch, epoch)
        self.assertNotEqual(store.secret, secret)

    async def epoch(self) -> str:
        """That of the log, as a start finds it."""
        store = await self.open_store()
        epoch = (await store.read_after("lobby", 0, 9)).epoch
        await store.stop()
        return str(epoch)

    async def backed_up(self) -> tuple[str, Path]:
        """The epoch of a store, and a backup that lacks its last message."""
        store = await self.open_store()
        first = await append_all(store, [draft(number) for number in range(5)])
        backup = self.directory / "backup"
        self.query(f"VACUUM INTO '{backup}'")
        await store.append(draft("later"))
        await store.stop()
        return first[0].message.position.epoch, backup

    async def test_backup_put_back(self) -> None:
        """A backup that was put back while the store was stopped is another log; the same data elsewhere are not."""
        epoch, backup = await self.backed_up()
        self.assertEqual(epoch, await self.epoch())
        moved = self.directory / "moved"
        shutil.copytree(self.directory, moved)
        path, self.path = self.path, moved / "realtime.sqlite"
        self.assertEqual(epoch, await self.epoch())
        self.path = path
        self.query("VACUUM")
        self.assertEqual(epoch, await self.epoch())
        shutil.copy(backup, self.path)
        restored = await self.epoch()
        self.assertNotEqual(epoch, restored)
        self.assertEqual(restored, await self.epoch())

    async def test_backup_on_another_machine(self) -> None:
        """A backup where no database was, is another log."""
        epoch, backup = await self.backed_up()
        self.path = self.directory / "elsewhere" / "realtime.sqlite"
        self.path.parent.mkdir()
        shutil.copy(backup, self.path)
        self.assertNotEqual(epoch, await self.epoch())

    async def test_backup_put_back_after_a_kill(self) -> None:
        """The same after a kill, which alone changes nothing."""
        child = Child(self.path, 100_000, 1)
        child.read_until(lambda line: line.startswith("+"), times=5)
        child.kill()
        epoch = await self.epoch()
        self.query(f"VACUUM INTO '{self.directory}/backup'")
        child = Child(self.path, 100_000, 1)
        child.read_until(lambda line: line.startswith("+"), times=5)
        child.kill()
        self.assertEqual((epoch,), self.query("SELECT epoch FROM identity"))
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        shutil.copy(self.directory / "backup", self.path)
        self.assertNotEqual(epoch, await self.epoch())

    async def test_keys_after_restart(self) -> None:
        """Keys are kept over a restart, with or without their messages."""
        store = await self.open_store(count=3)
        first = await store.append(draft("a", key="k1"))
        await append_all(store, [draft(number, key=f"n{number}") for number in range(300)])
        await store.stop()
        store = await self.open_store(count=3)
        self.assertEqual((await store.append(draft("a", key="k1"))).message, first.message)
        self.assertTrue((await store.append(draft(299, key="n299"))).duplicate)
        with self.assertRaises(RealtimeError):
            await store.append(draft("b", key="k1"))

    async def test_less_history(self) -> None:
        """With less history after a restart, less is shown at once, and soon less is held."""
        store = await self.open_store(count=1000)
        await append_all(store, [draft(number) for number in range(900)])
        await store.stop()
        store = await self.open_store(count=10)
        self.assertEqual(offsets(await store.read_after("lobby", 0, 1000)), list(range(891, 901)))
        await self.eventually(lambda: deferToThread(lambda: self.query("SELECT count(*) FROM messages") == (10,)))

    async def test_refused(self) -> None:
        """What is not ours is refused, and not touched."""
        foreign = self.directory / "foreign"
        with closing(sqlite3.connect(foreign)) as connection:
            connection.execute("CREATE TABLE a (b)")
        marked = self.directory / "marked"
        with closing(sqlite3.connect(marked)) as connection:
            connection.execute("PRAGMA application_id = 7")
        for content, pattern in [
            (b"hello, this is a text file\n" * 100, "not a SQLite database"),
            (os.urandom(8192), "not a SQLite database"),
            (foreign.read_bytes(), "another program"),
            (marked.read_bytes(), "another program"),
        ]:
            self.path.write_bytes(content)
            await self.assert_refused(pattern)
            self.assertEqual(self.path.read_bytes(), content)

    async def test_refused_places(self) -> None:
        """A directory, and a file in a directory that isn't there, are refused."""
        self.path.mkdir()
        await self.assert_refused("can't be opened")
        self.path = self.directory / "missing" / "realtime.sqlite"
        await self.assert_refused("No such file or directory")

    async def test_empty_file(self) -> None:
        """An empty file, as a crash right at the beginning leaves it, becomes a database."""
        self.path.touch()
        await (await self.open_store()).append(draft())

    async def test_newer_version(self) -> None:
        """A database of a newer release is refused with both versions, and stays as it is."""
        store = await self.open_store(schema=(*SCHEMA, "CREATE TABLE future (a);"))
        await store.append(draft())
        await store.stop()
        content = self.path.read_bytes()
        newer = len(SCHEMA) + 1
        await self.assert_refused(f"version {newer}, and this release knows versions up to {len(SCHEMA)}")
        self.assertEqual(self.path.read_bytes(), content)

    async def test_upgrade(self) -> None:
        """An older database is brought up to date, step by step, with everything in it."""
        store = await self.open_store()
        stored = await store.append(draft("a", key="k"))
        await store.stop()
        steps = ("ALTER TABLE rooms ADD COLUMN topic TEXT;", "UPDATE rooms SET topic = 'x;y'; CREATE TABLE more (a);")
        store = await self.open_store(schema=SCHEMA + steps)
        self.assertEqual((await store.read_after("lobby", 0, 9)).messages, (stored.message,))
        self.assertEqual(self.query("SELECT topic FROM rooms"), ("x;y",))
        self.assertEqual(self.query("PRAGMA user_version"), (len(SCHEMA) + 2,))

    async def test_upgrade_from_first_version(self) -> None:
        """A database of the first version keeps its messages and its keys."""
        with closing(sqlite3.connect(self.path)) as old:
            old.executescript(f"{SCHEMA[0]} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;")
            old.execute("INSERT INTO identity (one, epoch, secret) VALUES (1, 'old', zeroblob(32))")
            old.execute("INSERT INTO rooms VALUES (1, 'lobby', 1)")
            digest = content_digest(draft("a"))
            old.execute("INSERT INTO messages VALUES (1, 1, 5, 'message', ?, 'n', 'k', ?)", (BOB.id, draft("a").data))
            old.execute("INSERT INTO keys VALUES (1, ?, 'k', 1, 5, ?)", (BOB.id, digest))
            old.commit()
        Path(f"{self.path}-lock").write_text("4711\n")  # as releases left it that knew no mark
        store = await self.open_store()
        again = await store.append(draft("a", key="k"))
        self.assertEqual((True, "old:1"), (again.duplicate, str(again.message.position)))
        self.assertEqual("old:2", str((await store.append(draft("b", key="l"))).message.position))
        self.assertEqual(texts(await store.read_after("lobby", 0, 9)), ["a", "b"])

    async def test_upgrade_from_second_version(self) -> None:
        """A database without what is left of forgotten rooms keeps its rooms, and can forget them."""
        with closing(sqlite3.connect(self.path)) as old:
            old.executescript(f"{SCHEMA[0]} {SCHEMA[1]} PRAGMA application_id = {APPLICATION_ID};")
            old.execute("PRAGMA user_version = 2")
            old.execute("INSERT INTO identity (one, epoch, secret) VALUES (1, 'old', zeroblob(32))")
            old.execute("INSERT INTO rooms VALUES (1, 'lobby', 7), (2, 'empty', 9)")
            row = (7, int(START * 1000), "message", BOB.id, "n", draft("a").data)
            old.execute("INSERT INTO messages VALUES (1, ?, ?, ?, ?, ?, NULL, ?, NULL)", row)
            old.commit()
        Path(f"{self.path}-lock").write_text("4711\n")  # as releases left it that knew no mark
        store = await self.open_store(age=60)
        page = await store.read_after("lobby", 0, 9)
        self.assertEqual(("old", 7, 7, ["a"]), (page.epoch, page.oldest, page.top, texts(page)))
        self.assertEqual(["empty", "lobby"], list(await store.rooms("", 9)))
        self.assertEqual(0, (await store.read_after("new", 0, 9)).top)
        await self.listed(store)
        self.assertEqual("old:10", str((await store.append(draft(room="new"))).message.position))

    async def listed(self, store: SQLiteStore, *rooms: str) -> None:
        """Let time pass till these are the rooms."""

        async def is_so() -> bool:
            self.clock.advance(31)
            return list(await store.rooms("", 9)) == list(rooms)

        await self.eventually(is_so)

    async def test_forgotten_after_restart(self) -> None:
        """A restart forgets neither what is left of forgotten rooms, nor their number, nor since when one is empty."""
        store = await self.open_store(age=60)
        await append_all(store, [draft(n, "a") for n in range(5)])
        await self.listed(store)
        await append_all(store, [draft(n, "b") for n in range(2)])
        self.clock.advance(61)
        await self.eventually(lambda: deferToThread(self.query, "SELECT emptied FROM rooms WHERE emptied > 0"))
        await store.stop()
        store = self.build_store(retention=Retention(1000, 60, rooms=1))
        await store.start()
        self.addCleanup(store.stop)
        self.assertEqual((6, 5), ((page := await store.read_after("a", 2, 9)).oldest, page.top))
        with self.assertRaises(RealtimeError):
            await store.append(draft(room="a"))
        self.clock.advance(61)
        await self.eventually(lambda: deferToThread(lambda: self.query("SELECT count(*) FROM rooms") == (0,)))
        self.assertEqual(8, (await store.append(draft(room="a"))).message.position.offset)

    async def test_forgotten_after_a_day(self) -> None:
        """Where messages are kept for ever, a room that has lost its messages is forgotten after a day."""
        store = await self.open_store()
        await append_all(store, [draft(room="a"), draft(room="a"), draft(room="b")])
        with closing(sqlite3.connect(self.path)) as other:
            other.execute("DELETE FROM messages WHERE room = (SELECT id FROM rooms WHERE name = 'a')")
            other.commit()
        await self.eventually(lambda: deferToThread(self.query, "SELECT 1 FROM rooms WHERE emptied > 0"))
        self.clock.advance(86_000)
        self.assertEqual(["a", "b"], list(await store.rooms("", 9)))
        self.clock.advance(401)
        await self.eventually(lambda: deferToThread(lambda: self.query("SELECT floor FROM identity") == (2,)))
        self.assertEqual(["b"], list(await store.rooms("", 9)))

    async def test_failed_upgrade(self) -> None:
        """A step that fails leaves nothing of itself, and what was before it stays usable."""
        await (await self.open_store()).stop()
        await self.assert_refused("syntax error", schema=(*SCHEMA, "CREATE TABLE half (a); CREATE nonsense;"))
        self.assertEqual(self.query("SELECT count(*) FROM sqlite_schema WHERE name = 'half'"), (0,))
        await (await self.open_store()).append(draft())

    async def test_never_started(self) -> None:
        """A store that was not started, or was refused, answers errors and can be stopped."""
        store = self.build_store()
        await self.assert_unavailable(store.append(draft()))
        await self.assert_unavailable(store.read_after("lobby", 0, 1))
        await store.stop()
        self.assertEqual(os.listdir(self.directory), [])


class TrimTests(SQLiteTestCase):
    """What is physically held."""

    async def test_count(self) -> None:
        """A room holds little more than what can be read."""
        store = await self.open_store(count=100)
        for _ in range(20):
            await append_all(store, [draft(number) for number in range(100)])
        self.assertLessEqual(self.query("SELECT count(*) FROM messages")[0], 100 + 64)

    async def test_age(self) -> None:
        """What is too old is deleted also in rooms that nobody writes to; their tops stay."""
        store = await self.open_store(age=60)
        await append_all(store, [draft(number, room=f"r{number}") for number in range(250)])
        self.clock.advance(61)
        await self.eventually(lambda: deferToThread(lambda: self.query("SELECT count(*) FROM messages") == (0,)))
        self.assertEqual((await store.append(draft(room="r7"))).message.position.offset, 2)

    async def test_age_after_restart_and_step(self) -> None:
        """A daemon that starts under a wall clock that is wrong by a year deletes nothing that is young."""
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
        """Keys that expired are deleted, those of kept messages and young ones stay."""
        store = await self.open_store(count=10)
        await append_all(store, [draft(number, key=f"k{number}") for number in range(500)])
        await append_all(store, [draft(number, key=f"k{number}", room="quiet") for number in range(5)])
        await deferLater(reactor, 0.1)
        self.assertEqual(self.query("SELECT count(*) FROM keys"), (505,))
        self.clock.advance(KEY_SECONDS + 1)
        await self.eventually(lambda: deferToThread(lambda: self.query("SELECT count(*) FROM keys") == (15,)))

    async def test_size(self) -> None:
        """200,000 messages through one room leave files as small as its history."""
        store = await self.open_store(count=1000)
        largest = 0
        for _ in range(200):
            await append_all(store, [draft("x" * 100) for _ in range(1000)])
            largest = max(largest, sum(file.stat().st_size for file in self.directory.iterdir()))
        self.assertLess(largest, 24_000_000)
        self.assertLess(self.path.stat().st_size, 2_000_000)
        self.assertEqual((await store.read_before("lobby", None, 1)).top, 200_000)

    async def test_size_of_log(self) -> None:
        """The write-ahead log stays small also where every message dirties pages of its own."""
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
        """While somebody else holds the database's write lock, reads go on, and appends fail or wait."""
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
        """Another program's transaction, which keeps the write-ahead log from starting over, holds up no commit."""
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


class FailureTests(SQLiteTestCase):
    """The disk is full, the file can't be written, is damaged, or is gone."""

    async def attempt_until_unavailable(self, store: SQLiteStore) -> list[int]:
        """Append until an error; the offsets that were acknowledged."""
        acknowledged = []
        for number in itertools.count():
            try:
                stored = await store.append(draft([number, "x" * 4000]))
            except StoreError:
                return acknowledged
            acknowledged.append(stored.message.position.offset)
            self.assertLess(number, 20_000)
        raise AssertionError

    @contextmanager
    def little_space(self) -> Iterator[bool]:
        """A file system of one megabyte under the test's directory, where the user may mount one."""
        mounted = not subprocess.call(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(self.directory)], stderr=subprocess.DEVNULL
        )
        try:
            yield mounted
        finally:
            if mounted:
                subprocess.check_call(["umount", "-l", str(self.directory)])

    async def test_full_disk(self) -> None:
        """On a full disk appends and checks fail, reads go on, and all is well when there is space again."""
        with self.little_space() as mounted:
            store = await self.open_store(count=100_000)
            if not mounted:
                store._connection.current.execute("PRAGMA max_page_count = 100")
            acknowledged = await self.attempt_until_unavailable(store)
            await self.assert_unavailable(store.append(draft("x" * 100_000)))
            page = await whole_log(store, "lobby")
            self.assertEqual(offsets(page), acknowledged)
            if mounted:
                subprocess.check_call(["mount", "-o", "remount,size=50m", str(self.directory)])
            else:
                store._connection.current.execute("PRAGMA max_page_count = 1000000")
            await store.check()
            stored = await store.append(draft("x" * 100_000))
            self.assertEqual(stored.message.position.offset, len(acknowledged) + 1)
            await store.stop()

    async def test_file_size_limit(self) -> None:
        """Where writing fails, nothing is acknowledged that isn't stored, nothing else is stored, and it recovers."""
        child = Child(self.path, 40, 10, 300_000)
        try:
            refused = child.read_until(lambda line: line.startswith("-"))
            self.assertIn("store_unavailable", refused)
            child.process.stdin.write(b"lift\n")
            child.process.stdin.flush()
            child.read_until(lambda line: line.startswith("+"))
            child.read_until(lambda line: line == "done")
        finally:
            child.kill()
        await self.assert_ledger([child])

    async def test_failing_sync(self) -> None:
        """A failing fdatasync now and then never leads to a wrong answer."""
        child = Child(self.path, 40, 10, before=failing_sync("12+7"))
        try:
            child.read_until(lambda line: line == "done")
        finally:
            child.kill()
        self.assertTrue(any(line.startswith("-") for line in child.lines))
        await self.assert_ledger([child])

    async def test_sync_fails_for_a_while(self) -> None:
        """Where no sync succeeds, what was committed is in doubt and all else is refused; then it goes on."""
        child = Child(self.path, 60, 3, before=failing_sync("20..60"))
        try:
            child.read_until(lambda line: line.endswith(" in_doubt"))
            child.read_until(lambda line: line == "done")
        finally:
            child.kill()
        self.assertTrue(child.lines[-2].startswith("+"))
        await self.assert_ledger([child])

    async def test_in_doubt_and_stored(self) -> None:
        """Readers are told of a message that was in doubt and is found later; its key settles it for its sender."""
        store = await self.open_store()
        await store.append(draft("a"))
        told: Deferred[None] = Deferred()
        store.watch(lambda: told.callback(None))
        insert = CommitBatch.insert

        def fails(batch: CommitBatch, connection: sqlite3.Connection) -> None:
            insert(batch, connection)
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error

        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM messages").fetchone()  # so that nobody can tell that it is durable
            self.patch(CommitBatch, "insert", fails)
            await self.assert_in_doubt(store.append(draft("b", key="k")))
            self.patch(CommitBatch, "insert", insert)
            await self.assert_unavailable(store.append(draft("c")))
            self.assertFalse(told.called)
        await told
        self.assertEqual(texts(await store.read_after("lobby", 0, 9)), ["a", "b"])
        self.assertTrue((await store.append(draft("b", key="k"))).duplicate)

    async def test_killed_after_failing_sync(self) -> None:
        """What was refused because its sync failed doesn't turn up, even when the process is killed right then."""
        child = Child(self.path, 100, 1, before=failing_sync("20"))
        try:
            child.read_until(lambda line: line.startswith("-"))
        finally:
            child.kill()
        await self.assert_ledger([child])

    async def test_write_protected(self) -> None:
        """A database that can't be written to can still be read."""
        store = await self.open_store()
        await store.append(draft(1))
        store._connection.current.execute("PRAGMA query_only = ON")
        await self.assert_unavailable(store.append(draft(2)))
        self.assertEqual(texts(await store.read_after("lobby", 0, 9)), [1])
        self.assertEqual((await store.append(draft(3))).message.position.offset, 2)

    async def test_logged_once(self) -> None:
        """Trouble is logged when it begins and when it ends, not with every commit that meets it."""
        store = await self.open_store(tick=600)
        await store.append(draft(1))
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        store._connection.current.execute("PRAGMA max_page_count = 1")
        for _ in range(10):
            await self.assert_unavailable(store.append(draft("x" * 20_000)))
        store._connection.current.execute("PRAGMA max_page_count = 100000")
        await store.append(draft("x" * 20_000))
        said = [event["log_level"].name for event in events if event["log_namespace"].startswith("realtime_chat.store")]
        self.assertEqual(said, ["error", "info"])

    async def test_check_writes(self) -> None:
        """A check fails where appending would."""
        store = await self.open_store()
        await store.check()
        store._connection.current.execute("PRAGMA query_only = ON")
        await self.assert_unavailable(store.check())
        await store.check()

    async def test_removed(self) -> None:
        """When the file is removed, appends go to a new one, a new epoch, and never to the one that is gone."""
        store = await self.open_store(tick=600)
        first = await store.append(draft(1, key="k"))
        self.path.unlink()
        second = await store.append(draft(1, key="k"))
        self.assertFalse(second.duplicate)
        self.assertNotEqual(second.message.position.epoch, first.message.position.epoch)
        self.assertEqual((await store.read_after("lobby", 0, 9)).messages, (second.message,))
        self.assertEqual(self.query("SELECT count(*) FROM messages"), (1,))

    async def test_removed_keeps_secret(self) -> None:
        """A new file in place of one that was removed keeps the secret: guests stay who they are."""
        store = await self.open_store()
        secret = store.secret
        self.path.unlink()
        await store.append(draft())
        self.assertEqual(self.query("SELECT secret FROM identity"), (secret,))

    async def test_removed_while_idle(self) -> None:
        """That the file was removed is noticed without an append."""
        store = await self.open_store()
        first = await store.append(draft(1))
        self.path.unlink()

        async def renewed() -> bool:
            return (await store.read_after("lobby", 0, 9)).epoch != first.message.position.epoch

        await self.eventually(renewed)

    async def test_log_removed(self) -> None:
        """When only the write-ahead log is removed, nothing is acknowledged into it."""
        store = await self.open_store(tick=600)
        await store.append(draft(1))
        Path(f"{self.path}-wal").unlink()
        stored = await store.append(draft(2))
        await store.stop()
        store = await self.open_store()
        self.assertIn(stored.message, (await store.read_after("lobby", 0, 9)).messages)

    async def test_directory_removed(self) -> None:
        """While its directory is gone appends fail and reads go on; when it is back, so is the store."""
        store = await self.open_store(tick=600)
        first = await store.append(draft(1))
        shutil.rmtree(self.directory)
        await self.assert_unavailable(store.append(draft(2)))
        await self.assert_unavailable(store.check())
        self.assertEqual((await store.read_after("lobby", 0, 9)).messages, (first.message,))
        self.directory.mkdir()
        await store.check()
        second = await store.append(draft(3))
        self.assertNotEqual(second.message.position.epoch, first.message.position.epoch)
        self.assertEqual(texts(await store.read_after("lobby", 0, 9)), [3])

    async def test_replaced(self) -> None:
        """A backup that is put in the file's place is used, without what the former log would add to it."""
        store = await self.open_store()
        await store.append(draft("kept"))
        await store.stop()
        backup = self.directory / "backup"
        shutil.copy(self.path, backup)
        store = await self.open_store(tick=600)
        await append_all(store, [draft(number) for number in range(500)])
        os.replace(backup, self.path)
        stored = await store.append(draft("new"))
        self.assertEqual(stored.message.position.offset, 2)
        self.assertEqual(texts(await store.read_after("lobby", 0, 9)), ["kept", "new"])
        self.assertEqual(self.query("PRAGMA integrity_check"), ("ok",))

    async def test_restored_in_place(self) -> None:
        """A backup that SQLite writes into the database in use is another log, though it is the same file."""
        store = await self.open_store(tick=600)
        await append_all(store, [draft(number) for number in range(5)])
        before = await store.append(draft(room="other"))
        with closing(sqlite3.connect(self.directory / "backup")) as backup:
            with closing(sqlite3.connect(self.path)) as source:
                source.backup(backup)
            await append_all(store, [draft(number) for number in range(5)])
            with closing(sqlite3.connect(self.path)) as target:
                backup.backup(target)
        await self.assert_unavailable(store.append(draft("refused")))
        stored = await store.append(draft("new"))
        self.assertNotEqual(stored.message.position.epoch, before.message.position.epoch)
        page = await store.read_after("lobby", 0, 99)
        self.assertEqual((texts(page), page.begun), ([0, 1, 2, 3, 4, "new"], 5))

    async def test_changed_by_another(self) -> None:
        """What another program changes without taking messages away leaves the log what it was."""
        store = await self.open_store()
        before = (await append_all(store, [draft(number) for number in range(5)]))[0].message.position
        with closing(sqlite3.connect(self.path)) as other, other:
            other.execute("DELETE FROM messages WHERE offset = 2")
        await deferLater(reactor, 0.1)
        self.assertEqual(before.epoch, (await store.append(draft())).message.position.epoch)

    async def test_moved_while_committing(self) -> None:
        """What was committed into a file that was moved away meanwhile is in doubt: it may be moved back."""
        store = await self.open_store(tick=600)
        await store.append(draft(1))
        connection = store._connection.current
        connection.set_trace_callback(lambda sql: sql.startswith("INSERT") and self.move_away())
        await self.assert_in_doubt(store.append(draft(2, key="k")))
        connection.set_trace_callback(None)
        for suffix in ("", "-wal"):
            (self.directory / f"away{suffix}").rename(f"{self.path}{suffix}")
        again = await store.append(draft(2, key="k"))
        self.assertEqual((again.message.position.offset, again.duplicate), (2, True))
        self.assertEqual(3, (await store.append(draft(3))).message.position.offset)

    def move_away(self) -> None:
        if self.path.exists():
            for suffix in ("", "-wal"):
                Path(f"{self.path}{suffix}").rename(self.directory / f"away{suffix}")

    async def assert_in_doubt(self, answer: Deferred[Any]) -> None:
        with self.assertRaises(InDoubt):
            await answer

    async def test_damaged(self) -> None:
        """With a damaged file appends fail; when it is moved away a new one takes its place, with a new epoch."""
        store = await self.open_store()
        await append_all(store, [draft("x" * 1000, room=f"r{number % 50}") for number in range(2000)])
        await store.stop()
        store = await self.open_store(tick=600)
        epoch = (await store.read_after("r1", 0, 1)).epoch
        overwrite(self.path)
        # To the last room, as looking for rooms without messages has read the pages where the others begin.
        await self.assert_unavailable(store.append(draft(room="r49")))
        await self.assert_unavailable(store.append(draft(room="r49")))
        await self.assert_unavailable(store.read_after("r3", 0, 100))
        self.path.rename(self.directory / "damaged")
        stored = await store.append(draft(room="r2"))
        self.assertEqual(stored.message.position.offset, 1)
        self.assertNotEqual(stored.message.position.epoch, epoch)
        self.assertEqual((await store.read_after("r2", 0, 9)).messages, (stored.message,))

    async def test_partly_damaged(self) -> None:
        """Where only some pages are damaged, what is elsewhere can still be read."""
        store = await self.open_store()
        await append_all(store, [draft("x" * 1000, room=f"r{number:02}") for number in range(50) for _ in range(40)])
        await store.stop()
        size = self.path.stat().st_size
        overwrite(self.path, size - 400_000, 300_000)
        store = await self.open_store(tick=600)
        pages = [await self.read_or_none(store, f"r{number:02}") for number in range(50)]
        readable = [page for page in pages if page is not None]
        self.assertTrue(0 < len(readable) < 50, len(readable))
        self.assertEqual({len(page.messages) for page in readable}, {40})

    async def read_or_none(self, store: SQLiteStore, room: str) -> Any:
        try:
            return await store.read_after(room, 0, 1000)
        except StoreError:
            return None

    async def assert_ledger(self, children: list[Child]) -> SQLiteStore:
        """What was acknowledged is stored once, under its offset; what was refused is not stored."""
        store = await self.open_store(count=1_000_000)
        page = await whole_log(store, "lobby")
        self.assertEqual(offsets(page), list(range(1, page.top + 1)))
        stored = [(message.position.offset, message.key) for message in page.messages]
        self.assertEqual(len({key for _, key in stored}), len(stored))
        acknowledged, refused = set(), set()
        for line in itertools.chain.from_iterable(child.lines for child in children):
            match line.split():
                case ["+", offset, key]:
                    acknowledged.add((int(offset), key))
                case ["-", key, "store_unavailable"]:
                    refused.add(key)
        self.assertGreater(len(acknowledged), 0)
        self.assertEqual(acknowledged - set(stored), set())
        self.assertEqual(refused & {key for _, key in stored}, set())
        return store


class ProcessTests(SQLiteTestCase):
    """Other processes: a second one on the file, one that is killed, and what the disk sees."""

    assert_ledger = FailureTests.assert_ledger

    async def test_second_process(self) -> None:
        """A second process on the same file is refused by the name of the first, until that is killed."""
        child = Child(self.path, 100_000, 1)
        try:
            child.read_until(lambda line: line.startswith("+"))
            child.stop()
            refusal = f"in use by another process, pid {child.process.pid}; right would be another file$"
            await self.assert_refused(refusal)
        finally:
            child.kill()
        await (await self.open_store()).append(draft())

    async def test_second_store(self) -> None:
        """A second store on the same file in the same process is refused too, and the first one goes on."""
        store = await self.open_store()
        await self.assert_refused(f"in use by another process, pid {os.getpid()}; right would be another file$")
        await store.append(draft())

    async def test_killed(self) -> None:
        """After kill -9 every acknowledged message is there, once, and every key is still known."""
        children = []
        for round_ in range(5):
            child = Child(self.path, 100_000, 20)
            children.append(child)
            child.read_until(lambda line: line.startswith("+"), times=100 + 300 * round_)
            child.kill()
        store = await self.assert_ledger(children)
        last = (await store.read_before("lobby", None, 1)).messages[0]
        again = await store.append(Draft("lobby", "message", last.data, User("u", "n"), last.key))
        self.assertEqual((again.message, again.duplicate), (last, True))

    async def test_sync_before_acknowledgement(self) -> None:
        """The system calls show it: each acknowledgement is written after a sync of its commit."""
        tracer = program("strace")
        trace = self.directory / "trace"
        watched = "trace=fdatasync,fsync,pwrite64,write"
        child = Child(self.path, 20, 1, before=[tracer, "-f", "-y", "-s", "64", "-o", str(trace), "-e", watched])
        try:
            child.read_until(lambda line: line == "done")
        finally:
            child.kill()
        self.assert_synced(trace.read_text(errors="replace").splitlines())

    def assert_synced(self, calls: list[str]) -> None:
        """Between the last write to the log before an acknowledgement and that one there is a finished sync."""
        dirty, acknowledged = False, 0
        for call in calls:
            if "pwrite64(" in call and "-wal>" in call:
                dirty = True
            elif re.search(r"f(data)?sync.*= 0$", call) and ("-wal>" in call or "resumed" in call):
                dirty = False
            elif re.search(r'write\(1<.*"\+ ', call):
                acknowledged += 1
                self.assertFalse(dirty, call)
        self.assertEqual(acknowledged, 20)


class Child:
    """A process that runs :mod:`tests.store.appender`."""

    def __init__(self, path: Path, count: int, publishers: int, *more: int, before: list[str] | None = None) -> None:
        command = [*(before or []), sys.executable, "-m", "tests.store.appender", str(path)]
        self.process = subprocess.Popen(
            [*command, *map(str, (count, publishers, *more))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            start_new_session=True,
        )
        self.lines: list[str] = []

    def read_until(self, wanted: Any, times: int = 1) -> str:
        """Read until so many lines were as wanted; the last of them."""
        for line in self.process.stdout:
            self.lines.append(line.decode().rstrip("\n"))
            times -= bool(wanted(self.lines[-1]))
            if not times:
                return self.lines[-1]
        raise AssertionError(f"it ended after {self.lines[-3:]}")

    def stop(self) -> None:
        """Let it stand still where it is."""
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """Kill it and whatever it started; read what it had written."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        rest = self.process.stdout.read().decode()
        self.lines += [line.rstrip("\n") for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def failing_sync(when: str) -> list[str]:
    """A command before another, by which its fdatasync calls fail ``when`` (as strace reads it)."""
    return [program("strace"), "-f", "-qq", "-o", "/dev/null", "-e", f"inject=fdatasync:error=EIO:when={when}"]


def overwrite(path: Path, start: int = 0, size: int | None = None) -> None:
    """Overwrite bytes of a file with others, from another process: closing it here would drop SQLite's locks."""
    size = path.stat().st_size if size is None else size
    code = (
        "import os, sys; f = open(sys.argv[1], 'r+b'); f.seek(int(sys.argv[2])); f.write(os.urandom(int(sys.argv[3])))"
    )
    subprocess.check_call([sys.executable, "-c", code, str(path), str(start), str(size)])
