"""Properties in SQLite: what a restart, a backup and another program leave of them."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

from twisted.internet.defer import Deferred

from realtime_chat.store.sqlite.file import SCHEMA
from realtime_chat.values.errors import InDoubt, StoreError
from realtime_chat.values.model import properties_log
from tests.contracts import draft
from tests.properties_contract import change, values
from tests.store.sqlite.fixtures import SQLiteTestCase

LOBBY = properties_log("lobby")


class PropertiesTests(SQLiteTestCase):
    """Properties are as durable as messages."""

    async def test_restart(self) -> None:
        """After a restart the properties, their positions, their keys and the last removal are known."""
        store = await self.open_store()
        for one in (change("a", 1, "k"), change("b", 2), change("a", 3), change("b")):
            await store.append(one)
        before = await store.read_after(LOBBY, 0, 9)
        await store.stop()
        store = await self.open_store()
        self.assertEqual(before, await store.read_after(LOBBY, 0, 9))
        self.assertEqual(({"a": 3}, 5), (values(before), before.oldest))
        self.assertTrue((await store.append(change("a", 1, "k"))).duplicate)
        self.assertEqual(5, (await store.append(change("c", 1))).message.position.offset)

    async def test_older_data(self) -> None:
        """When a backup was put back, the properties are under a new epoch, and go on after their offsets."""
        store = await self.open_store()
        await store.append(change("a", 1))
        await store.stop()
        shutil.copy(self.path, self.directory / "backup")
        store = await self.open_store()
        before = (await store.append(change("a", 2))).message.position
        await store.stop()
        shutil.move(self.directory / "backup", self.path)
        store = await self.open_store()
        page = await store.read_after(LOBBY, 0, 9)
        self.assertEqual({"a": 1}, values(page))
        self.assertNotEqual(before.epoch, page.epoch)

    async def test_changed_by_another(self) -> None:
        """If another program has set a property, nothing is stored in its place by mistake."""
        store = await self.open_store()
        await store.append(change("a", 1))
        with closing(sqlite3.connect(self.path)) as other, other:
            other.execute("UPDATE rooms SET top = top + 5 WHERE name = ?", (LOBBY,))
        with self.assertRaises(StoreError):
            await store.append(change("a", 2))
        self.assertEqual(7, (await store.append(change("a", 2))).message.position.offset)

    async def test_in_doubt_and_stored(self) -> None:
        """If a change in doubt is found to be stored, readers are told. It may be set again under its key."""
        store = await self.open_store()
        await store.append(change("a", 1))
        notified: Deferred[None] = Deferred()
        store.watch(lambda: notified.callback(None))
        with self.commits_in_doubt() as mend:
            with self.assertRaises(InDoubt):
                await store.append(change("a", 2, "k"))
            mend()
        await notified
        self.assertEqual({"a": 2}, values(await store.read_after(LOBBY, 0, 9)))
        self.assertTrue((await store.append(change("a", 2, "k"))).duplicate)

    async def test_with_messages(self) -> None:
        """Messages and properties of one commit are stored together, each with its key and its place."""
        store = await self.open_store()
        drafts = [draft(1, key="k"), change("a", 1, "k"), draft(2), change("a", 2), change("b", 1, room="new")]
        answers = [await answer for answer in [store.append(one) for one in drafts]]
        self.assertEqual([1, 1, 2, 2, 1], [answer.message.position.offset for answer in answers])
        self.assertEqual({"a": 2}, values(await store.read_after(LOBBY, 0, 9)))
        self.assertEqual(2, (await store.read_after("lobby", 0, 9)).top)
        again = [await answer for answer in [store.append(one) for one in drafts[:2]]]
        self.assertEqual([True, True], [answer.duplicate for answer in again])

    async def test_older_schema(self) -> None:
        """A database from before there were properties gets them."""
        store = self.build_store(schema=SCHEMA[:-1])
        await store.start()
        with closing(sqlite3.connect(self.path)) as connection:
            self.assertEqual(
                [], connection.execute("SELECT name FROM sqlite_master WHERE name = 'properties'").fetchall()
            )
        await store.stop()
        store = await self.open_store()
        await store.append(draft(1))
        await store.append(change("a", 1))
        self.assertEqual({"a": 1}, values(await store.read_after(LOBBY, 0, 9)))
