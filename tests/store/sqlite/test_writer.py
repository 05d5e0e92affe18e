"""What the writer does when the disk or the file fails."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher

from realtime_chat.store.sqlite.store import SQLiteStore
from realtime_chat.values.errors import InDoubt, StoreError
from tests.contracts import append_all, draft, offsets, texts, whole_log
from tests.store.sqlite.fixtures import AppenderProcess, SQLiteTestCase, failing_sync, overwrite


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
                store._writer.connection.execute("PRAGMA max_page_count = 100")
            acknowledged = await self.attempt_until_unavailable(store)
            await self.assert_unavailable(store.append(draft("x" * 100_000)))
            page = await whole_log(store, "lobby")
            self.assertEqual(offsets(page), acknowledged)
            if mounted:
                subprocess.check_call(["mount", "-o", "remount,size=50m", str(self.directory)])
            else:
                store._writer.connection.execute("PRAGMA max_page_count = 1000000")
            await store.check()
            stored = await store.append(draft("x" * 100_000))
            self.assertEqual(stored.message.position.offset, len(acknowledged) + 1)
            await store.stop()

    async def test_file_size_limit(self) -> None:
        """If writes fail, a message is acknowledged only if it is stored, and the store recovers."""
        child = AppenderProcess(self.path, 40, 10, 300_000)
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
        child = AppenderProcess(self.path, 40, 10, before=failing_sync("15+7"))
        try:
            child.read_until(lambda line: line == "done")
        finally:
            child.kill()
        self.assertTrue(any(line.startswith("-") for line in child.lines))
        await self.assert_ledger([child])

    async def test_sync_fails_for_a_while(self) -> None:
        """While no sync succeeds, the first commit is in doubt, and all others are refused. Then the store recovers."""
        child = AppenderProcess(self.path, 60, 3, before=failing_sync("20..60"))
        try:
            child.read_until(lambda line: line.endswith(" in_doubt"))
            child.read_until(lambda line: line == "done")
        finally:
            child.kill()
        self.assertTrue(child.lines[-2].startswith("+"))
        await self.assert_ledger([child])

    async def test_in_doubt_and_stored(self) -> None:
        """If a message in doubt is found to be stored, readers are told. Its sender may publish it again."""
        store = await self.open_store()
        await store.append(draft("a"))
        notified: Deferred[None] = Deferred()
        store.watch(lambda: notified.callback(None))
        with self.commits_in_doubt() as mend:
            await self.assert_in_doubt(store.append(draft("b", key="k")))
            mend()
            await self.assert_unavailable(store.append(draft("c")))
            self.assertFalse(notified.called)
        await notified
        self.assertEqual(texts(await store.read_after("lobby", 0, 9)), ["a", "b"])
        self.assertTrue((await store.append(draft("b", key="k"))).duplicate)

    async def test_killed_after_failing_sync(self) -> None:
        """A message that was refused after a failed sync stays away, even if the process is killed right then."""
        child = AppenderProcess(self.path, 100, 1, before=failing_sync("20"))
        try:
            child.read_until(lambda line: line.startswith("-"))
        finally:
            child.kill()
        await self.assert_ledger([child])

    async def test_write_protected(self) -> None:
        """A database that can't be written to can still be read."""
        store = await self.open_store()
        await store.append(draft(1))
        store._writer.connection.execute("PRAGMA query_only = ON")
        await self.assert_unavailable(store.append(draft(2)))
        self.assertEqual(texts(await store.read_after("lobby", 0, 9)), [1])
        self.assertEqual((await store.append(draft(3))).message.position.offset, 2)

    async def test_logged_once(self) -> None:
        """A problem is logged when it begins and when it ends, not with every commit."""
        store = await self.open_store(tick=600)
        await store.append(draft(1))
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        store._writer.connection.execute("PRAGMA max_page_count = 1")
        for _ in range(10):
            await self.assert_unavailable(store.append(draft("x" * 20_000)))
        store._writer.connection.execute("PRAGMA max_page_count = 100000")
        await store.append(draft("x" * 20_000))
        said = [event["log_level"].name for event in events if event["log_namespace"].startswith("realtime_chat.store")]
        self.assertEqual(said, ["error", "info"])

    async def test_check_writes(self) -> None:
        """A check fails where appending would."""
        store = await self.open_store()
        await store.check()
        store._writer.connection.execute("PRAGMA query_only = ON")
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
        """A removed file is noticed without an append."""
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
        """A backup that replaces the file is used. The former write-ahead log is not replayed into it."""
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
        self.assertEqual((texts(page), page.epoch_start), ([0, 1, 2, 3, 4, "new"], 5))

    async def test_changed_by_another(self) -> None:
        """If another program changes the database but no top, it is still the same log."""
        store = await self.open_store()
        before = (await append_all(store, [draft(number) for number in range(5)]))[0].message.position
        with closing(sqlite3.connect(self.path)) as other, other:
            other.execute("DELETE FROM messages WHERE offset = 2")
        await deferLater(reactor, 0.1)
        self.assertEqual(before.epoch, (await store.append(draft())).message.position.epoch)

    async def test_moved_while_committing(self) -> None:
        """A commit to a file that was moved away meanwhile is in doubt: the file may be moved back."""
        store = await self.open_store(tick=600)
        await store.append(draft(1))
        connection = store._writer.connection
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
        """If only some pages are damaged, the others can still be read."""
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
