"""The file of a SQLite store: starting, upgrading, restoring and refusing it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

from twisted.internet.threads import deferToThread

from realtime_chat.store.idempotency import content_digest
from realtime_chat.store.retention import Retention
from realtime_chat.store.sqlite.file import APPLICATION_ID, SCHEMA
from realtime_chat.store.sqlite.store import SQLiteStore
from realtime_chat.values.errors import RealtimeError
from tests.contracts import BOB, START, append_all, draft, offsets, texts
from tests.store.sqlite.fixtures import AppenderProcess, SQLiteTestCase


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
        """A path is not a URL: no character in it has a special meaning."""
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
        """A backup that is restored while the store is stopped is another log. The same data elsewhere are not."""
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
        """A backup in a place that had no database is another log."""
        epoch, backup = await self.backed_up()
        self.path = self.directory / "elsewhere" / "realtime.sqlite"
        self.path.parent.mkdir()
        shutil.copy(backup, self.path)
        self.assertNotEqual(epoch, await self.epoch())

    async def test_backup_put_back_after_a_kill(self) -> None:
        """A backup that is restored after a kill is another log. A kill alone changes nothing."""
        child = AppenderProcess(self.path, 100_000, 1)
        child.read_until(lambda line: line.startswith("+"), times=5)
        child.kill()
        epoch = await self.epoch()
        self.query(f"VACUUM INTO '{self.directory}/backup'")
        child = AppenderProcess(self.path, 100_000, 1)
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
        """A file that is not ours is refused, and not changed."""
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
        """A database of the second version keeps its rooms, and can forget them."""
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
        """A restart keeps the floor, the number of rooms, and since when a room is empty."""
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
        """A step that fails is rolled back, and the database stays usable."""
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
