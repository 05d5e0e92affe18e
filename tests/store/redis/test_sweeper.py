"""What is kept in Redis stays bounded; the list of rooms, and rooms that are forgotten."""

from __future__ import annotations

import os
import random

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from realtime_chat.redis.address import parse_address
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.store.redis.store import RedisStore
from realtime_chat.store.retention import KEY_SECONDS
from tests.contracts import append_all, draft, offsets, texts
from tests.deadlines import DEADLINE
from tests.redis_server import PERSISTENT, RedisServer
from tests.store.redis.fixtures import RedisTestCase, failures


class ListTests(RedisTestCase):
    """The list of rooms beside the log, and what is left of rooms that are forgotten."""

    async def listed(self, store: RedisStore, *rooms: str) -> None:
        """Let time pass till these are the rooms."""
        deadline = reactor.seconds() + DEADLINE
        while list(await store.rooms("", 99)) != list(rooms):
            assert reactor.seconds() < deadline, await store.rooms("", 99)
            self.later += 31
            await deferLater(reactor, 0.01)

    async def test_lost(self) -> None:
        """A list that is lost, or lacks rooms, is made again, also by a node that has just started."""
        self.serve()
        store = await self.open_store()
        await append_all(store, [draft(room=room) for room in "cab"])
        self.server.command("DEL", "realtime:0:rooms")
        self.assertEqual(["a", "b", "c"], list(await store.rooms("", 9)))
        self.server.command("DEL", "realtime:0:rooms")
        await append_all(store, [draft(room=room) for room in "dab"])
        self.assertEqual(["a", "b", "c", "d"], list(await store.rooms("", 9)))
        self.server.command("DEL", "realtime:0:rooms")
        await self.open_store()
        self.assertEqual(4, self.server.command("ZCARD", "realtime:0:rooms"))

    async def test_older_release(self) -> None:
        """Rooms of an older release are listed, even those that one of its nodes creates meanwhile."""
        self.serve()
        store = await self.open_store()
        await append_all(store, [draft(number, f"r{number:04}") for number in range(1500)])
        await store.stop()
        self.server.command("DEL", "realtime:0:rooms", "realtime:0:empty")
        self.server.command("HDEL", "realtime:0:log", "rooms", "rate", "making", "floor", "unlisted")
        store = await self.open_store()
        self.assertEqual([f"r{number:04}" for number in range(1500)], list(await store.rooms("", 2000)))
        epoch = (await store.read_after("r0000", 0, 1)).epoch
        self.server.command("HSET", "realtime:0:log", "room:older", f"1 {epoch} 0")
        self.assertEqual(["older", "r0000"], list(await store.rooms("", 2)))
        await store.append(draft(room="newer"))
        self.assertEqual(["newer", "older"], list(await store.rooms("", 2)))

    async def test_new_log(self) -> None:
        """If the log is lost, the list of the new log has no room of the old one."""
        self.serve()
        store = await self.open_store()
        await append_all(store, [draft(room=room) for room in "ab"])
        self.server.command("DEL", "realtime:0:log")
        self.assertEqual([], list(await store.rooms("", 9)))
        await store.append(draft(room="c"))
        self.assertEqual(["c"], list(await store.rooms("", 9)))

    async def test_forgotten_leave_nothing(self) -> None:
        """Forgotten rooms leave no key and no field. Only the floor is left."""
        self.serve()
        store = await self.open_store(age=60)
        before = self.server.command("HLEN", "realtime:0:log")
        await append_all(store, [draft(n, f"r{n % 100}") for n in range(500)])
        await self.listed(store)
        self.assertEqual(before, self.server.command("HLEN", "realtime:0:log"))
        self.assertEqual(b"5", self.server.command("HGET", "realtime:0:log", "floor"))
        left = {key for key in self.server.command("KEYS", "*") if b":done:" not in key}
        self.assertEqual({b"realtime:0:log"}, left)

    async def test_restarted_safely(self) -> None:
        """After a restart that loses nothing, forgotten rooms are not taken for lost messages."""
        self.serve(*PERSISTENT)
        store = await self.open_store(age=60)
        epoch_changes = self.watch_epoch(store)
        position = (await append_all(store, [draft(n) for n in range(5)]))[-1].message.position
        await self.listed(store)
        self.server.restart()
        await self.until(lambda: store.links[0].counters.connects == 2)
        await self.connected(store)
        page = await store.read_after("lobby", 2, 9)
        self.assertEqual((position.epoch, 6, 5, []), (page.epoch, page.oldest, page.top, epoch_changes))
        self.assertEqual(6, (await store.append(draft(room="new"))).message.position.offset)

    async def test_restarted_with_a_snapshot(self) -> None:
        """If a restart loses that a room was forgotten, and its last messages, there is a new epoch."""
        self.serve()
        store = await self.open_store(age=60)
        epoch_changes = self.watch_epoch(store)
        await append_all(store, [draft(n) for n in range(5)])
        epoch = (await store.read_after("lobby", 0, 9)).epoch
        self.server.command("SAVE")
        await append_all(store, [draft(n) for n in range(3)])
        await self.listed(store)
        self.assertEqual(8, (await store.read_after("lobby", 0, 9)).top)
        self.server.restart()
        await self.until(lambda: epoch_changes)
        await self.connected(store)
        self.assertNotEqual(epoch, (await store.read_after("lobby", 0, 9)).epoch)

    async def test_followed_elsewhere(self) -> None:
        """A room that any node follows is not forgotten. It is forgotten after that node is gone."""
        self.serve()
        store = await self.open_store(age=60)
        link = RedisConnection(
            reactor, parse_address(self.server.url), "test", random.random, on_message=lambda *event: None
        )
        self.addCleanup(link.stop)
        await link.start()
        await link.command("SUBSCRIBE", RedisNames("realtime", 0).room("read"))
        await append_all(store, [draft(room="read"), draft(room="unused")])
        await self.listed(store, "read")
        for _ in range(3):
            await store.append(draft(room="again"))
            await self.listed(store, "read")
        await link.stop()
        await self.listed(store)

    async def test_forgotten_after_a_day(self) -> None:
        """Where messages are kept for ever, a room that has lost its messages is forgotten after a day."""
        self.serve()
        store = await self.open_store()
        await append_all(store, [draft(room="a"), draft(room="a"), draft(room="b")])
        self.server.command("DEL", "realtime:0:stream:a")
        await self.until(lambda: self.server.command("ZCARD", "realtime:0:empty") == 1)
        self.later = 86_000.0
        self.assertEqual(["a", "b"], list(await store.rooms("", 9)))
        self.later = 86_401.0
        await self.until(lambda: self.server.command("HGET", "realtime:0:log", "floor") == b"2")
        self.assertEqual(["b"], list(await store.rooms("", 9)))


class BoundsTests(RedisTestCase):
    """What is kept in Redis, and what waits for it, stays bounded."""

    async def test_swept(self) -> None:
        """Rooms without writes lose old messages and keys. Their tops stay."""
        self.serve()
        store = await self.open_store(age=60)
        await append_all(store, [draft(n, room=f"r{n % 7}", key=f"k{n}") for n in range(500)])
        self.assertEqual(self.server.command("XLEN", "realtime:0:stream:r1"), 72)
        self.later = 61.0
        await self.until(lambda: self.server.command("EXISTS", *(f"realtime:0:stream:r{n}" for n in range(7))) == 0)
        self.assertEqual(self.server.command("EXISTS", *(f"realtime:0:keys:r{n}" for n in range(7))), 0)
        self.assertTrue((await store.append(draft(8, room="r1", key="k8"))).duplicate)
        self.later += KEY_SECONDS + 5
        self.assertFalse((await store.append(draft(8, room="r1", key="k8"))).duplicate)
        self.assertEqual((await store.read_after("r1", 0, 9)).top, 73)

    async def test_trimmed(self) -> None:
        """A stream holds few messages beyond those that are kept. Keys that outlive their messages expire later."""
        self.serve()
        store = await self.open_store(count=10)
        for _ in range(10):
            await append_all(store, [draft(n, key=os.urandom(4).hex()) for n in range(100)])
        self.assertLessEqual(self.server.command("XLEN", "realtime:0:stream:lobby"), 74)
        self.assertLessEqual(self.server.command("HLEN", "realtime:0:keys:lobby"), 74)
        self.assertGreaterEqual(self.server.command("HLEN", "realtime:0:gone:0"), 926)
        self.later = 2.0 * (KEY_SECONDS + 10)
        await self.until(lambda: not self.server.command("EXISTS", "realtime:0:gone:0"))

    async def test_key_used_anew(self) -> None:
        """A key that was used again stays when its old message is trimmed."""
        self.serve()
        store = await self.open_store(count=100)
        await append_all(store, [draft("old", key="k"), *map(draft, range(120))])
        self.later = KEY_SECONDS + 6.0
        await store.append(draft("new", key="k"))
        await append_all(store, [draft(n) for n in range(50)])
        self.assertGreater(int(self.server.command("XRANGE", "realtime:0:stream:lobby", "-", "+")[0][0][:-2]), 1)
        self.assertEqual(self.server.command("HKEYS", "realtime:0:keys:lobby"), [b"2:u7:k"])

    async def test_less_history(self) -> None:
        """If a store is to keep less than before, it deletes the rest in bounded steps."""
        self.serve()
        store = await self.open_store(count=3000)
        await append_all(store, [draft(n) for n in range(2000)])
        await store.stop()
        store = await self.open_store(count=10)
        self.assertEqual(offsets(await store.read_after("lobby", 0, 99)), list(range(1991, 2001)))
        await self.until(lambda: self.server.command("XLEN", "realtime:0:stream:lobby") == 10)
        self.assertEqual(offsets(await store.read_after("lobby", 0, 99)), list(range(1991, 2001)))

    async def test_too_many_wait(self) -> None:
        """What waits for a hanging server is bounded, by number and by bytes, and is stored when it goes on."""
        self.serve()
        store = await self.open_store()
        self.server.pause()
        large = [store.append(draft("x" * 1_000_000)) for _ in range(100)]
        refused = [answer for answer in large if answer.called]
        self.server.resume()
        errors = [error.value.message for error in await failures(refused)]
        self.assertEqual(["too many messages wait to be stored"] * (100 - 67), errors)
        await gatherResults(large[:67])

    async def test_full(self) -> None:
        """A server whose memory is full takes no messages and says so; what is there can be read."""
        self.serve()
        store = await self.open_store()
        await store.append(draft(1))
        self.server.command("CONFIG", "SET", "maxmemory", "1")
        error = await self.unavailable(store.append(draft(2)))
        self.assertEqual(error.message, "the store is full")
        await self.unavailable(store.check())
        self.assertEqual(texts(await store.read_after("lobby", 0, 9)), [1])
        self.server.command("CONFIG", "SET", "maxmemory", "0")
        await store.check()
        self.assertEqual((await store.append(draft(3))).message.position.offset, 2)

    async def test_eviction_is_warned_of(self) -> None:
        """A maxmemory-policy that evicts keys is warned of at the start."""
        self.serve("--maxmemory-policy", "allkeys-lru")
        lines = self.logged()
        await self.open_store()
        self.assertTrue([line for line in lines if "maxmemory-policy is allkeys-lru" in line and "noeviction" in line])

    async def test_promises(self) -> None:
        """The line for the operator says what the settings of Redis promise."""
        for options, promise in (
            ((), "a restart of Redis loses everything"),
            (("--save", "3600 1"), "a crash loses what came after the last one"),
            (("--appendonly", "yes"), "a crash loses the last second or more"),
            (PERSISTENT, "what was acknowledged survives a crash"),
            (("--rename-command", "CONFIG", ""), "unknown, as CONFIG GET isn't allowed"),
        ):
            server = RedisServer(self.mktemp(), *options).start()
            self.addCleanup(server.kill)
            store = await self.open_store(server.url)
            self.assertIn(promise, store.describe())
            self.assertIn(
                f"redis://127.0.0.1:{server.port}/0 (prefix realtime; the last 1000 messages", store.describe()
            )
            await store.stop()
            server.kill()
