"""Properties in Redis: what is held there, and what is left of it."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.task import deferLater

from realtime_chat.values.model import properties_log
from tests.contracts import draft
from tests.deadlines import DEADLINE
from tests.properties_contract import change, values
from tests.redis_server import PERSISTENT
from tests.store.redis.fixtures import RedisTestCase

LOBBY = properties_log("lobby")


class PropertiesTests(RedisTestCase):
    """The stream of changes, and the hash beside it."""

    async def test_bounded(self) -> None:
        """However often properties are set, Redis holds one entry and one field for each, and the right number of
        bytes."""
        self.serve()
        store = await self.open_store()
        for turn in range(20):
            drafts = [change(f"n{number % 7}", "x" * number, f"{turn}.{number}") for number in range(100)]
            for answer in [store.append(one) for one in drafts]:
                await answer
        await store.append(change("n0", key="removed"))
        self.assertEqual(6, self.server.command("XLEN", f"realtime:0:stream:{LOBBY}"))
        index = dict(zip(*[iter(self.server.command("HGETALL", "realtime:0:properties:lobby"))] * 2, strict=True))
        size = sum(int(value.split()[1]) for name, value in index.items() if name)
        self.assertEqual((7, b"2001 %d" % size), (len(index), index[b""]))
        self.assertEqual(6, self.server.command("HLEN", f"realtime:0:keys:{LOBBY}"))
        page = await store.read_after(LOBBY, 0, 9)
        self.assertEqual(size, sum(len(message.data) for message in page.messages))

    async def test_nothing_is_left(self) -> None:
        """Of a room that is forgotten with its properties nothing is left, and the list of rooms stays right."""
        self.serve()
        store = await self.open_store(age=60)
        await store.append(draft(room="lobby"))
        for one in (change("a", 1, "k"), change("b", 2), change("a"), change("b", key="r")):
            await store.append(one)
        await store.append(change("a", 1, room="other"))
        deadline = reactor.seconds() + DEADLINE
        while self.server.command("KEYS", "*lobby*") or list(await store.rooms("", 9)) != ["other"]:
            assert reactor.seconds() < deadline, self.server.command("KEYS", "*lobby*")
            self.later += 31
            await deferLater(reactor, 0.01)
        fields = set(self.server.command("HKEYS", "realtime:0:log"))
        self.assertEqual({b"room:other", b"room:other/properties"}, {name for name in fields if b"room:" in name})
        unlisted = int(self.server.command("HGET", "realtime:0:log", "unlisted"))
        self.assertEqual(len(fields) - 1, unlisted)

    async def test_restart(self) -> None:
        """A restart of Redis that keeps all keeps the properties and the epoch; a list that was lost is made again."""
        self.serve(*PERSISTENT)
        store = await self.open_store()
        await store.append(change("a", 1, "k"))
        await store.append(change("b", 1))
        await store.append(change("b"))
        before = await store.read_after(LOBBY, 0, 9)
        await store.stop()
        self.server.command("DEL", "realtime:0:rooms")
        self.server.kill()
        self.server.start()
        store = await self.open_store()
        self.assertEqual(before, await store.read_after(LOBBY, 0, 9))
        self.assertEqual(["lobby"], list(await store.rooms("", 9)))
        self.assertTrue((await store.append(change("a", 1, "k"))).duplicate)
        self.assertEqual(4, (await store.append(change("c", 1))).message.position.offset)

    async def test_new_epoch(self) -> None:
        """A restart that may have lost something begins a new epoch, in which the properties that are left go on."""
        self.serve("--save", "1 1")
        store = await self.open_store()
        first = await store.append(change("a", 1))
        self.server.command("SAVE")
        await store.stop()
        self.server.kill()
        self.server.start()
        store = await self.open_store()
        page = await store.read_after(LOBBY, 0, 9)
        self.assertEqual(({"a": 1}, 1), (values(page), page.top))
        self.assertNotEqual(first.message.position.epoch, page.epoch)
        self.assertEqual(page.epoch, (await store.append(change("a", 2))).message.position.epoch)

    async def test_other_programs(self) -> None:
        """The form of the script for other programs sets no property, and can't write to their log."""
        self.serve()
        await self.open_store()
        sha = self.server.command("HGET", "realtime:0:log", "append")
        keys = ("realtime:0:log", f"realtime:0:stream:{LOBBY}", f"realtime:0:keys:{LOBBY}")
        try:
            answer = self.server.command("EVALSHA", sha, 3, *keys, "a", "id", "name", "1")
        except Exception as error:
            answer = str(error)
        self.assertIn("a room's name is", str(answer))
