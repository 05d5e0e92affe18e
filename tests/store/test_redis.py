"""The store in Redis, and what becomes of it when Redis fails, restarts or forgets."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hiredis
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher
from twisted.protocols.portforward import ProxyClient, ProxyClientFactory, ProxyFactory, ProxyServer
from twisted.trial.unittest import TestCase

from realtime_chat.redis.address import parse_address
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.rows import read_announcement, read_rows
from realtime_chat.store.redis.log import load_store_script
from realtime_chat.store.redis.store import RedisStore
from realtime_chat.store.retention import KEY_SECONDS, Retention
from realtime_chat.values.errors import InDoubt, RealtimeError, StoreError, StoreRefused
from realtime_chat.values.model import AppendResult, Draft, Message, Page
from tests.contracts import BOB, LastingStoreContract, append_all, draft, offsets, texts, whole_log
from tests.redis_server import PERSISTENT, RedisServer, shared_server

_UNAVAILABLE_WITHIN = 2.0
"""Seconds in which a publish has to be refused while Redis is away."""


class RedisStoreTests(LastingStoreContract, TestCase):
    """The store in Redis keeps the contract."""

    timeout = 60
    keys_kept = KEY_SECONDS + 5

    def build_store(self, retention: Retention) -> RedisStore:
        self.url = shared_server(self).url
        return self.rebuild_store(retention)

    def rebuild_store(self, retention: Retention) -> RedisStore:
        address = parse_address(self.url)
        names = RedisNames("realtime", 0)
        return RedisStore(
            reactor,
            address,
            names,
            retention,
            65536,
            self.wall,
            os.urandom,
            random.random,
            look=0.05,
            tick=0.02,
            monotonic=self.clock.seconds,
        )

    async def pass_half_a_second(self) -> None:
        """By Redis' own clock, which is that of this machine."""
        await deferLater(reactor, 0.5)

    async def read_room(self, store: RedisStore, room: str) -> None:
        """Follow a room, as a node does by way of which somebody reads it, whichever node that is."""
        link = RedisConnection(reactor, parse_address(self.url), "test", random.random, published=lambda *event: None)
        self.addCleanup(link.stop)
        await link.start()
        await link.command("SUBSCRIBE", RedisNames("realtime", 0).room(room))

    async def back_up(self, store: RedisStore) -> Any:
        server = shared_server(self, empty=False)
        return [(key, server.command("DUMP", key)) for key in server.command("KEYS", "realtime:0:*")]

    async def put_back(self, backup: Any) -> None:
        server = shared_server(self, empty=False)
        server.command("DEL", *server.command("KEYS", "realtime:0:*"))
        for key, dump in backup:
            server.command("RESTORE", key, 0, dump)


class RedisTestCase(TestCase):
    """Stores, which are nodes of their own, on one server."""

    timeout = 120

    def setUp(self) -> None:
        self.later = 0.0
        self.directory = Path(self.mktemp())

    def serve(self, *options: str, **more: Any) -> RedisServer:
        """A server that this test may harm."""
        self.server = RedisServer(self.directory, *options, **more).start()
        self.addCleanup(self.server.kill)
        return self.server

    def build_store(
        self,
        url: str | None = None,
        prefix: str = "realtime",
        count: int = 1000,
        age: float | None = None,
        retention: Retention | None = None,
        **more: Any,
    ) -> RedisStore:
        address = parse_address(url or self.server.url)
        names = RedisNames(prefix, address.database)
        more = {"look": 0.05, "tick": 0.05, "monotonic": lambda: time.monotonic() + self.later, **more}
        retention = retention or Retention(count, age)
        store = RedisStore(reactor, address, names, retention, 65536, self.now, os.urandom, random.random, **more)
        self.addCleanup(store.stop)
        return store

    async def open_store(self, *arguments: Any, **more: Any) -> RedisStore:
        store = self.build_store(*arguments, **more)
        await store.start()
        return store

    def now(self) -> float:
        return time.time() + self.later

    async def until(self, condition: Callable[[], Any], patience: float = 20.0) -> None:
        """Wait till ``condition()`` is true, while the reactor runs."""
        deadline = reactor.seconds() + patience
        while not condition():
            assert reactor.seconds() < deadline, "not in time"
            await deferLater(reactor, 0.01)

    async def connected(self, store: RedisStore) -> None:
        """Wait till a store can be used again."""
        await self.until(lambda: all(link.ready for link in store.links))

    async def unavailable(self, answer: Deferred[Any]) -> StoreError:
        """Await the error of a store that is away; it comes in time."""
        begun = reactor.seconds()
        error = await self.assertFailure(answer, StoreError)
        self.assertLess(reactor.seconds() - begun, _UNAVAILABLE_WITHIN)
        return error

    def watched(self, store: RedisStore) -> list[None]:
        """Grows with each doubt."""
        doubts: list[None] = []
        store.watch(lambda: doubts.append(None))
        return doubts

    def logged(self) -> list[str]:
        """Grows with each line that is logged."""
        lines: list[str] = []

        def observe(event: Any) -> None:
            lines.append((event.get("log_format") or "").format(**event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return lines


class NodesTests(RedisTestCase):
    """Several nodes, and several services, on one server."""

    def setUp(self) -> None:
        super().setUp()
        self.server = shared_server(self)

    async def test_one_log(self) -> None:
        """Nodes have one epoch, one secret and one log, and know each other's keys."""
        first, second = await self.open_store(), await self.open_store()
        stored = await first.append(draft("a", key="k"))
        self.assertEqual(await second.append(draft("a", key="k")), AppendResult(stored.message, duplicate=True))
        self.assertEqual((await second.read_after("lobby", 0, 9)).messages, (stored.message,))
        self.assertEqual(first.secret, second.secret)

    async def test_started_together(self) -> None:
        """Nodes that start at once on an empty server agree."""
        stores = [self.build_store() for _ in range(5)]
        await gatherResults([store.start() for store in stores])
        self.assertEqual(len({store.secret for store in stores}), 1)
        self.assertEqual(len({(await store.read_after("a", 0, 1)).epoch for store in stores}), 1)

    async def test_appending_at_once(self) -> None:
        """What nodes append at once gets each offset once, and is read alike by all."""
        stores = [await self.open_store() for _ in range(3)]
        answers = [store.append(draft([node, n])) for n in range(200) for node, store in enumerate(stores)]
        given = [stored.message.position.offset for stored in await gatherResults(answers)]
        self.assertEqual(sorted(given), list(range(1, 601)))
        pages = [await whole_log(store, "lobby") for store in stores]
        self.assertEqual(pages[0], pages[1])
        self.assertEqual(pages[0], pages[2])
        for node in range(3):
            self.assertEqual([n for of, n in texts(pages[0]) if of == node], list(range(200)))

    async def test_apart(self) -> None:
        """Databases and prefixes don't see each other, and have logs of their own."""
        places = [(self.server.url, "realtime"), (self.server.url_of(1), "realtime"), (self.server.url, "a")]
        stores = [await self.open_store(url, prefix) for url, prefix in places]
        for number, store in enumerate(stores):
            await append_all(store, [draft(number, key="k"), draft(number, room=f"room{number}")])
        for number, store in enumerate(stores):
            self.assertEqual(texts(await store.read_after("lobby", 0, 9)), [number])
            self.assertEqual(list(await store.rooms("", 1000)), ["lobby", f"room{number}"])
        self.assertEqual(len({store.secret for store in stores}), 3)

    async def test_strange_names(self) -> None:
        """A room's name is data: none is a pattern, a part of another's, or of a script."""
        rooms = [
            "*",
            "{x}",
            "x",
            "a:b",
            "a",
            "b",
            "[a-z]",
            "?",
            "room:a",
            "log",
            "' .. x",
            "%s",
            "ä\n",
            "1:a",
            "stream:a",
        ]
        store = await self.open_store(count=3)
        await append_all(store, [draft([room, number], room, key="k") for number in (1,) for room in rooms])
        await append_all(store, [draft([room, n], room, f"n{n}") for n in range(2, 150) for room in rooms])
        for room in rooms:
            self.assertEqual(texts(await store.read_after(room, 0, 9)), [[room, n] for n in (147, 148, 149)])
            self.assertTrue((await store.append(draft([room, 1], room, key="k"))).duplicate)
        self.assertEqual(list(await store.rooms("", 1000)), sorted(rooms))

    async def test_announced(self) -> None:
        """What one turn appends is announced once a room, in order, byte for byte, with its first offset."""
        heard: list[Any] = []
        names = RedisNames("realtime", 0)
        link = RedisConnection(
            reactor, parse_address(self.server.url), "test", random.random, published=lambda *e: heard.append(e)
        )
        self.addCleanup(link.stop)
        await link.start()
        for room in ("a", "b"):
            await link.command("SUBSCRIBE", names.room(room))
        store = await self.open_store()
        stored = await append_all(
            store, [Draft("a", "note", b'{"x": 1.50}', BOB, "k"), draft("2", "b"), draft("3", "a"), draft("3", "a")]
        )
        await store.append(Draft("a", "note", b'{"x": 1.5}', BOB, "k"))
        await link.command("PING")
        self.assertEqual(sorted(channel for _, channel, _ in heard), [b"realtime:0:room:a", b"realtime:0:room:b"])
        payload = {channel: payload for _, channel, payload in heard}[b"realtime:0:room:a"]
        announced = read_announcement(payload)
        place = stored[0].message.position
        self.assertEqual((announced.epoch, announced.first, announced.count), (place.epoch, 1, 3))
        row = read_rows(announced.rows.split(b"\n"))[0]
        self.assertEqual((bytes(row.data), row.key, row.event), (b'{"x": 1.50}', "k", "note"))
        self.assertEqual(row.at, stored[0].message.at)

    async def test_damaged(self) -> None:
        """What somebody else wrote into a stream keeps its place, and nothing else is harmed."""
        store = await self.open_store()
        await store.append(draft(1))
        self.server.command("XADD", "realtime:0:stream:lobby", "2-0", "m", b'[1,"\xff"')
        self.server.command("XADD", "realtime:0:stream:lobby", "3-0", "nonsense", "x")
        epoch = (await store.read_after("lobby", 0, 9)).epoch
        self.server.command("HSET", "realtime:0:log", "room:lobby", f"3 {epoch} 0")
        await store.append(draft(4))
        page = await store.read_after("lobby", 0, 9)
        self.assertEqual([message.event for message in page.messages], ["message", "$damaged", "$damaged", "message"])
        self.assertEqual((offsets(page), texts(page)), ([1, 2, 3, 4], [1, None, None, 4]))


class ListTests(RedisTestCase):
    """The list of rooms beside the log, and what is left of rooms that are forgotten."""

    async def listed(self, store: RedisStore, *rooms: str) -> None:
        """Let time pass till these are the rooms."""
        deadline = reactor.seconds() + 20
        while list(await store.rooms("", 99)) != list(rooms):
            assert reactor.seconds() < deadline, await store.rooms("", 99)
            self.later += 31
            await deferLater(reactor, 0.01)

    async def test_lost(self) -> None:
        """A list that is lost, or lacks rooms, is made anew, also by who has just started."""
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
        """Rooms of an older release are listed, those too that one of its nodes makes meanwhile."""
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
        """Where all that is known of the rooms is lost, the list of a new log has none of the old one's."""
        self.serve()
        store = await self.open_store()
        await append_all(store, [draft(room=room) for room in "ab"])
        self.server.command("DEL", "realtime:0:log")
        self.assertEqual([], list(await store.rooms("", 9)))
        await store.append(draft(room="c"))
        self.assertEqual(["c"], list(await store.rooms("", 9)))

    async def test_forgotten_leave_nothing(self) -> None:
        """Of forgotten rooms there is no key and no field left, but for one number."""
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
        """After a restart that loses nothing, rooms that were forgotten are not taken for messages that are lost."""
        self.serve(*PERSISTENT)
        store = await self.open_store(age=60)
        doubts = self.watched(store)
        position = (await append_all(store, [draft(n) for n in range(5)]))[-1].message.position
        await self.listed(store)
        self.server.restart()
        await self.until(lambda: store.links[0].counters.connects == 2)
        await self.connected(store)
        page = await store.read_after("lobby", 2, 9)
        self.assertEqual((position.epoch, 6, 5, []), (page.epoch, page.oldest, page.top, doubts))
        self.assertEqual(6, (await store.append(draft(room="new"))).message.position.offset)

    async def test_restarted_with_a_snapshot(self) -> None:
        """After a restart that lost a room's last messages and that it was forgotten, there is a new epoch."""
        self.serve()
        store = await self.open_store(age=60)
        doubts = self.watched(store)
        await append_all(store, [draft(n) for n in range(5)])
        epoch = (await store.read_after("lobby", 0, 9)).epoch
        self.server.command("SAVE")
        await append_all(store, [draft(n) for n in range(3)])
        await self.listed(store)
        self.assertEqual(8, (await store.read_after("lobby", 0, 9)).top)
        self.server.restart()
        await self.until(lambda: doubts)
        await self.connected(store)
        self.assertNotEqual(epoch, (await store.read_after("lobby", 0, 9)).epoch)

    async def test_followed_elsewhere(self) -> None:
        """A room that any node follows is not forgotten by another, and goes when that one is gone."""
        self.serve()
        store = await self.open_store(age=60)
        link = RedisConnection(
            reactor, parse_address(self.server.url), "test", random.random, published=lambda *event: None
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
        """Rooms that nobody writes to lose what is too old, keys too; their tops stay."""
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
        """A stream has little more than what is kept; keys that outlive their messages are forgotten a while later."""
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
        """A key that was used anew stays with its new message when the old one is trimmed."""
        self.serve()
        store = await self.open_store(count=100)
        await append_all(store, [draft("old", key="k"), *map(draft, range(120))])
        self.later = KEY_SECONDS + 6.0
        await store.append(draft("new", key="k"))
        await append_all(store, [draft(n) for n in range(50)])
        self.assertGreater(int(self.server.command("XRANGE", "realtime:0:stream:lobby", "-", "+")[0][0][:-2]), 1)
        self.assertEqual(self.server.command("HKEYS", "realtime:0:keys:lobby"), [b"2:u7:k"])

    async def test_less_history(self) -> None:
        """A store that is to keep less than before deletes the rest, a bounded number at a time."""
        self.serve()
        store = await self.open_store(count=3000)
        await append_all(store, [draft(n) for n in range(2000)])
        await store.stop()
        store = await self.open_store(count=10)
        self.assertEqual(offsets(await store.read_after("lobby", 0, 99)), list(range(1991, 2001)))
        await self.until(lambda: self.server.command("XLEN", "realtime:0:stream:lobby") == 10)
        self.assertEqual(offsets(await store.read_after("lobby", 0, 99)), list(range(1991, 2001)))

    async def test_too_many_wait(self) -> None:
        """Of what waits for a server that hangs there is a bound, by number and by bytes."""
        self.serve()
        store = await self.open_store()
        self.server.pause()
        large = [store.append(draft("x" * 1_000_000)) for _ in range(100)]
        refused = [str(error.value) for error in await _failures(large) if "too many" in str(error.value)]
        self.assertEqual(len(refused), 100 - 67)
        self.assertEqual(len(large), 100)

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
        """A maxmemory-policy with which Redis deletes what it likes is warned of at start."""
        self.serve("--maxmemory-policy", "allkeys-lru")
        lines = self.logged()
        await self.open_store()
        self.assertTrue([line for line in lines if "maxmemory-policy is allkeys-lru" in line and "noeviction" in line])

    async def test_promises(self) -> None:
        """The line for the operator says what the persistence that was found promises."""
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


class AwayTests(RedisTestCase):
    """Redis hangs, breaks off, or is not there."""

    async def test_hanging(self) -> None:
        """While Redis hangs, publishes are refused within two seconds, and none of them is stored when it goes on."""
        self.serve()
        store = await self.open_store()
        await store.append(draft("before"))
        self.server.pause()
        begun = reactor.seconds()
        answers = [store.append(draft(n)) for n in range(600)]
        while reactor.seconds() - begun < 2.5:
            asked = reactor.seconds()
            await self.assertFailure(store.append(draft("more")), StoreError, InDoubt)
            self.assertLess(reactor.seconds() - asked, _UNAVAILABLE_WITHIN)
            await deferLater(reactor, 0.1)
        self.assertEqual(len(await _failures(answers)), 600)
        self.server.resume()
        await self.connected(store)
        await store.append(draft("after"))
        # Those that were given up are gone when all that they had sent was looked at.
        await self.until(lambda: self.server.command("CLIENT", "LIST").count(b"name=realtime-append") == 1)
        self.assertEqual(texts(await store.read_after("lobby", 0, 1000)), ["before", "after"])

    async def test_hanging_for_a_moment(self) -> None:
        """What waits while Redis hangs for less than a second is stored, once and in order."""
        self.serve()
        store = await self.open_store()
        self.server.pause()
        answers = [store.append(draft(n)) for n in range(2000)]
        await deferLater(reactor, 0.5)
        self.server.resume()
        await gatherResults(answers)
        self.assertEqual(texts(await whole_log(store, "lobby"))[-1000:], list(range(1000, 2000)))

    async def test_hanging_reads(self) -> None:
        """While Redis hangs, reads and checks are refused within two seconds."""
        self.serve()
        store = await self.open_store()
        self.server.pause()
        answers = [store.read_after("lobby", 0, 10) for _ in range(100)]
        await self.unavailable(store.check())
        for answer in answers:
            await self.unavailable(answer)

    async def test_killed_connections(self) -> None:
        """Connections that break off under load lose nothing that was acknowledged, and double nothing with a key."""
        self.serve()
        store = await self.open_store()
        acknowledged: list[int] = []
        for n in range(60):
            if n % 15 == 7:
                self.server.command("CLIENT", "KILL", "TYPE", "normal")
            await self.publish(store, n, acknowledged)
        await self.connected(store)
        self.assertEqual(texts(await store.read_after("lobby", 0, 1000)), list(range(60)))
        self.assertEqual(acknowledged, list(range(60)))
        self.assertGreater(store.links[0].counters.losses, 0)

    async def test_killed_connections_without_keys(self) -> None:
        """What was under way when a connection broke is stored once, and nobody needs to publish again."""
        self.serve()
        store = await self.open_store()
        for n in range(20):
            answers = [store.append(draft([n, m])) for m in range(20)]
            await deferLater(reactor, 0)
            self.server.command("CLIENT", "KILL", "TYPE", "normal")
            await gatherResults(answers)
            await self.connected(store)
        self.assertEqual(
            texts(await store.read_after("lobby", 0, 1000)), [[n, m] for n in range(20) for m in range(20)]
        )

    async def test_answer_lost(self) -> None:
        """An append that was done, and whose answer was lost with the connection, is answered and not doubled."""
        self.serve()
        leak = Leak(self.server.port)
        port = reactor.listenTCP(0, leak, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        store = await self.open_store(f"redis://127.0.0.1:{port.getHost().port}/0", look=60.0)
        await store.append(draft("a", key="k"))
        leak.open = True
        answers = [store.append(each) for each in (draft("b"), draft("a", key="k"), draft("c", key="k"), draft("d"))]
        await self.until(lambda: self.server.command("XLEN", "realtime:0:stream:lobby") == 3)
        leak.open = False
        leak.cut()
        error = await self.assertFailure(answers.pop(2), RealtimeError)
        self.assertEqual(error.code, "key_reused")
        stored = await gatherResults(answers)
        self.assertEqual(
            [(each.message.position.offset, each.duplicate) for each in stored], [(2, False), (1, True), (3, False)]
        )
        await self.connected(store)
        self.assertEqual(texts(await store.read_after("lobby", 0, 9)), ["a", "b", "d"])

    async def test_in_doubt(self) -> None:
        """What was sent and isn't answered in time is in doubt, whether it is stored or not; the key settles it, and
        what wasn't sent is refused."""
        self.serve()
        leak = Leak(self.server.port)
        port = reactor.listenTCP(0, leak, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        store = await self.open_store(f"redis://127.0.0.1:{port.getHost().port}/0", look=60.0)
        leak.open = True
        begun = reactor.seconds()
        stored = store.append(draft("a", key="a"))
        await self.until(lambda: self.server.command("XLEN", "realtime:0:stream:lobby") == 1)
        self.server.pause()
        unseen = store.append(draft("b", key="b"))
        error = await self.assertFailure(stored, InDoubt)
        await self.assertFailure(unseen, InDoubt)
        self.assertLess(reactor.seconds() - begun, _UNAVAILABLE_WITHIN)
        self.assertEqual(("in_doubt", 503, True), (error.code, *error.kind))
        leak.open = False
        leak.cut()
        await self.until(lambda: not store.links[0].ready)
        await self.assertFailure(store.append(draft("c")), StoreError)
        self.server.resume()
        await self.connected(store)
        again = [await store.append(draft(text, key=text)) for text in "ab"]
        self.assertEqual([(1, True), (2, False)], [(each.message.position.offset, each.duplicate) for each in again])
        self.assertEqual(["a", "b"], texts(await store.read_after("lobby", 0, 9)))

    async def publish(self, store: RedisStore, number: int, acknowledged: list[int]) -> None:
        """Publish till it is acknowledged, as clients do."""
        while True:
            try:
                await store.append(draft(number, key=f"k{number}"))
            except StoreError:
                await deferLater(reactor, 0.01)
            else:
                acknowledged.append(number)
                return

    async def test_forgotten_scripts(self) -> None:
        """Scripts that Redis has forgotten are sent again; nobody notices, and nothing overtakes."""
        self.serve()
        store = await self.open_store()
        answers = []
        for n in range(3000):
            answers.append(store.append(draft(n)))
            if n % 50 == 0:
                await deferLater(reactor, 0)
            if n % 500 == 0:
                self.server.command("SCRIPT", "FLUSH")
        await gatherResults(answers)
        self.assertEqual(texts(await whole_log(store, "lobby")), list(range(2000, 3000)))
        self.server.command("SCRIPT", "FLUSH")
        sha = load_store_script("append").sha
        await self.until(lambda: self.server.command("SCRIPT", "EXISTS", sha) == [1])

    async def test_forgotten_scripts_and_another_node(self) -> None:
        """Nothing overtakes where another node loads the script after one append had found it gone."""
        self.serve()
        store = await self.open_store(look=60.0)
        append = load_store_script("append")
        link = store.links[0]
        command = link.command

        def loads_in_between(*words: Any) -> Deferred[Any]:
            answer = command(*words)
            if words[0] == "EVALSHA":
                command("SCRIPT", "LOAD", append.text)
            return answer

        link.command = loads_in_between
        for turn in range(5):
            self.server.command("SCRIPT", "FLUSH")
            stored = await gatherResults([store.append(draft(n)) for n in range(700)])
            self.assertEqual(
                list(range(turn * 700 + 1, turn * 700 + 701)), [each.message.position.offset for each in stored]
            )
        self.assertEqual(texts(await whole_log(store, "lobby"))[-700:], list(range(700)))

    async def test_away_and_back(self) -> None:
        """While Redis is not there everything is refused at once; each change of state is logged once."""
        self.serve(*PERSISTENT)
        store = await self.open_store()
        await store.append(draft(1))
        lines = self.logged()
        self.server.kill()
        await self.until(lambda: not any(link.ready for link in store.links))
        begun = reactor.seconds()
        while reactor.seconds() - begun < 1.0:
            for answer in (
                store.append(draft()),
                store.read_after("lobby", 0, 1),
                store.rooms("", 1000),
                store.check(),
            ):
                self.failureResultOf(answer, StoreError)
            await deferLater(reactor, 0.1)
        self.server.start()
        await self.connected(store)
        self.assertEqual((await store.append(draft(2))).message.position.offset, 2)
        self.assertEqual([line for line in lines if not line.startswith("redis ")], [])
        for link in store.links:
            said = [line for line in lines if line.startswith(f"redis {link.name}: ")]
            self.assertEqual(len(said), 3, said)
            self.assertIn("the connection was lost", said[0])
            self.assertIn("nobody answers", said[1])
            self.assertIn(f"connected to redis://127.0.0.1:{self.server.port}/0", said[2])

    async def test_loading(self) -> None:
        """A server that loads its data is waited for, at start and later."""
        self.serve(*PERSISTENT)
        store = await self.open_store()
        await append_all(store, [draft(n, room=f"r{n}") for n in range(300)])
        self.server.command("BGREWRITEAOF")
        await self.until(lambda: self.server.info("persistence")["aof_rewrite_in_progress"] == "0")
        lines = self.logged()
        slowly = ("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
        self.server.kill()
        self.server.start(*slowly, wait=False)
        another = self.build_store()
        await another.start()
        await self.connected(store)
        self.assertTrue([line for line in lines if "LOADING" in line], lines)
        for each in (store, another):
            self.assertEqual(texts(await each.read_after("r299", 0, 9)), [299])

    async def test_password_changed(self) -> None:
        """A password that no longer fits is tried again and again, and one day fits."""
        self.serve(password="right")
        store = await self.open_store()
        self.server.command("CONFIG", "SET", "requirepass", "other")
        self.server.password = "other"
        self.server.command("CLIENT", "KILL", "TYPE", "normal")
        await self.until(lambda: store.links[0].counters.attempts > 4)
        await self.unavailable(store.append(draft()))
        self.server.command("CONFIG", "SET", "requirepass", "right")
        await self.connected(store)
        await store.append(draft())

    async def test_became_a_replica(self) -> None:
        """A server that takes no messages any more is left till it, or another one at its address, takes them."""
        self.serve()
        store = await self.open_store()
        self.server.command("REPLICAOF", "127.0.0.1", 1)
        await self.unavailable(store.append(draft()))
        await self.until(lambda: not store.links[0].ready)
        self.server.promote()
        await self.connected(store)
        await store.append(draft())

    async def test_refused(self) -> None:
        """A start that can't succeed says what is wrong, and leaves nothing behind."""
        self.serve()
        store = self.build_store(self.server.url_of(99))
        error = await self.assertFailure(store.start(), StoreRefused)
        self.assertIn("there is no database 99", str(error))
        await store.stop()


class ForgettingTests(RedisTestCase):
    """Redis has lost data: everybody is told, and no offset stands for two messages."""

    async def lost(self, store: RedisStore, doubts: list[None], before: Page) -> Page:
        """Wait till the loss is noticed without anybody asking; the lobby as it is now."""
        await self.until(lambda: doubts)
        await self.connected(store)
        page = await store.read_after("lobby", 0, 1000)
        self.assertNotEqual(page.epoch, before.epoch)
        return page

    async def filled(self, messages: int, **more: Any) -> tuple[RedisStore, list[None], Page]:
        """A store with messages in the lobby, its doubts, and the lobby."""
        store = await self.open_store(**more)
        await append_all(store, [draft(n) for n in range(1, messages + 1)])
        return store, self.watched(store), await store.read_after("lobby", 0, 1000)

    async def test_flushed(self) -> None:
        """A database that was flushed is another log, noticed by looking; all nodes agree, and the secret lives on."""
        self.serve()
        store, doubts, before = await self.filled(5)
        other = await self.open_store()
        secret = store.secret
        self.server.command("FLUSHALL")
        page = await self.lost(store, doubts, before)
        self.assertEqual((page.oldest, page.top, page.begun), (1, 0, 0))
        self.assertEqual((await other.append(draft())).message.position.offset, 1)
        self.assertEqual((await other.read_after("lobby", 0, 9)).epoch, page.epoch)
        self.assertEqual([store.secret, other.secret], [secret, secret])
        self.assertEqual(len(doubts), 1)

    async def test_flushed_and_appended(self) -> None:
        """An append after a flush is stored in the new log, and says which one that is."""
        self.serve()
        store = await self.open_store(look=60.0)
        doubts = self.watched(store)
        before = (await store.append(draft("a", key="k"))).message.position
        self.server.command("FLUSHALL")
        answers = await append_all(store, [draft("b"), draft("a", key="k")])
        self.assertEqual([answer.message.position.offset for answer in answers], [1, 2])
        self.assertNotEqual(answers[0].message.position.epoch, before.epoch)
        self.assertEqual(len(doubts), 1)

    async def test_flushed_and_read(self) -> None:
        """A read after a flush is one of the new log."""
        self.serve()
        store = await self.open_store(look=60.0)
        doubts = self.watched(store)
        before = (await store.append(draft())).message.position
        self.server.command("FLUSHALL")
        pages = await gatherResults([store.read_after("lobby", 0, 9) for _ in range(30)])
        self.assertEqual(len({page.epoch for page in pages} | {before.epoch}), 2)
        self.assertEqual(len(doubts), 1)

    async def test_restarted_without_persistence(self) -> None:
        """A restart that loses everything begins another log."""
        self.serve()
        store, doubts, before = await self.filled(5)
        self.server.restart()
        page = await self.lost(store, doubts, before)
        self.assertEqual((page.top, page.begun), (0, 0))

    async def test_restarted_with_a_snapshot(self) -> None:
        """A restart that may have lost the end keeps the history it has, in a new epoch that begins after it."""
        self.serve()
        store, doubts, before = await self.filled(5)
        self.server.command("SAVE")
        await append_all(store, [draft(6), draft(7)])
        self.server.restart()
        page = await self.lost(store, doubts, before)
        self.assertEqual((texts(page), page.oldest, page.top, page.begun), ([1, 2, 3, 4, 5], 1, 5, 5))
        self.assertEqual((await store.append(draft("new"))).message.position.offset, 6)
        page = await store.read_after("lobby", 0, 1000)
        self.assertEqual((texts(page)[-1], page.top, page.begun), ("new", 6, 5))
        self.assertEqual((await store.read_after("other", 0, 1)).begun, 0)

    async def test_restarted_safely(self) -> None:
        """A restart that can't have lost anything keeps the epoch, keys and all."""
        self.serve(*PERSISTENT)
        store, doubts, before = await self.filled(5)
        stored = await store.append(draft("a", key="k"))
        self.server.restart()
        await self.until(lambda: store.links[0].counters.connects == 2)
        await self.connected(store)
        self.assertEqual(await store.append(draft("a", key="k")), AppendResult(stored.message, duplicate=True))
        page = await store.read_after("lobby", 0, 1000)
        self.assertEqual((page.epoch, page.top, page.begun, doubts), (before.epoch, 6, 0, []))

    async def test_restarted_less_safely(self) -> None:
        """What is safe now may not have been while it ran before: then the epoch is another."""
        self.serve("--appendonly", "yes")
        store, doubts, before = await self.filled(5)
        await self.until(lambda: self.server.info("persistence")["aof_buffer_length"] == "0")
        self.server.restart("--appendfsync", "always")
        page = await self.lost(store, doubts, before)
        self.assertEqual((page.top, page.begun), (5, 5))

    async def test_no_longer_safe(self) -> None:
        """Where the promise changes while Redis runs, that is noticed, and counts at the next restart."""
        self.serve(*PERSISTENT)
        store, doubts, before = await self.filled(5)
        self.server.command("CONFIG", "SET", "appendfsync", "everysec")
        await self.until(lambda: "loses the last second" in store.describe())
        self.assertEqual(doubts, [])
        self.server.restart()
        await self.lost(store, doubts, before)

    async def test_truncated(self) -> None:
        """A log that lacks messages that were seen is another, whatever Redis promises."""
        self.serve(*PERSISTENT)
        store, doubts, before = await self.filled(5)
        (log,) = self.directory.glob("appendonlydir/*.incr.aof")
        size = log.stat().st_size
        await append_all(store, [draft(6), draft(7)])
        self.server.kill()
        os.truncate(log, size)
        self.server.start()
        page = await self.lost(store, doubts, before)
        self.assertEqual((page.top, page.begun), (5, 5))

    async def test_promoted_replica(self) -> None:
        """A replica that is promoted may lack the end: a new epoch, whatever it promises for itself."""
        self.serve(*PERSISTENT)
        store, doubts, before = await self.filled(5)
        replica = await self.replica()
        await append_all(store, [draft(6), draft(7)])
        self.server.kill()
        replica.move(self.server.port)
        page = await self.lost(store, doubts, before)
        self.assertEqual((page.top, page.begun), (5, 5))

    async def test_promoted_replica_and_a_new_node(self) -> None:
        """A node that has seen nothing before finds that out, too."""
        self.serve(*PERSISTENT)
        store, _, before = await self.filled(5)
        replica = await self.replica()
        await store.stop()
        page = await (await self.open_store(replica.url)).read_after("lobby", 0, 9)
        self.assertNotEqual(page.epoch, before.epoch)
        self.assertEqual((page.top, page.begun), (5, 5))

    async def replica(self) -> RedisServer:
        """A server that has what this one has up to now, and is promoted."""
        replica = RedisServer(self.mktemp(), *PERSISTENT).start()
        self.addCleanup(replica.kill)
        replica.replica_of(self.server)
        top = self.server.info("replication")["master_repl_offset"]
        await self.until(lambda: int(replica.info("replication")["slave_repl_offset"]) >= int(top))
        replica.promote()
        return replica

    async def test_another_run(self) -> None:
        """Data that came from another run of a server, under our feet, is another log: to appends, and to reads."""
        self.serve()
        store = await self.open_store(look=60.0)
        epochs = [(await store.append(draft())).message.position.epoch]
        self.server.command("HSET", "realtime:0:log", "run_id", "another")
        epochs.append((await store.append(draft())).message.position.epoch)
        self.server.command("HSET", "realtime:0:log", "run_id", "another")
        epochs.append((await store.read_after("lobby", 0, 9)).epoch)
        self.assertEqual(len(set(epochs)), 3)

    async def test_log_evicted(self) -> None:
        """Where all that is known of the rooms is gone but not the messages, no offset is given twice."""
        self.serve()
        store, doubts, before = await self.filled(5)
        self.server.command("DEL", "realtime:0:log")
        page = await self.lost(store, doubts, before)
        self.assertEqual((texts(page), page.top, page.begun), ([1, 2, 3, 4, 5], 5, 5))
        self.assertEqual((await store.append(draft(6))).message.position.offset, 6)

    async def test_messages_evicted(self) -> None:
        """Where a room's messages are gone, its top stays, and the page says what is missing."""
        self.serve()
        store, _, before = await self.filled(5)
        self.server.command("DEL", "realtime:0:stream:lobby", "realtime:0:keys:lobby")
        page = await store.read_after("lobby", 2, 9)
        self.assertEqual((page.epoch, page.oldest, page.top, page.messages), (before.epoch, 6, 5, ()))
        await store.append(draft(6))
        page = await store.read_after("lobby", 2, 9)
        self.assertEqual((page.epoch, page.oldest, page.top, texts(page)), (before.epoch, 6, 6, [6]))


class PlainTests(RedisTestCase):
    """Appending from other programs: one EVALSHA with plain arguments."""

    def setUp(self) -> None:
        super().setUp()
        self.server = shared_server(self)

    def append(self, *arguments: str | bytes, room: str = "news") -> Any:
        """What the documentation says."""
        sha = self.server.command("HGET", "realtime:0:log", "append")
        keys = ("realtime:0:log", f"realtime:0:stream:{room}", f"realtime:0:keys:{room}")
        return self.server.command("EVALSHA", sha, 3, *keys, *arguments)

    async def test_stored(self) -> None:
        """A message is stored as if a client had sent it, and answered with its position."""
        store = await self.open_store()
        answer = self.append("message", "bot", "The böt", '{ "text":\n"hi/\\"\\u00e4",\t"n": 1.50}')
        page = await store.read_after("news", 0, 9)
        self.assertEqual(answer, [b"stored", f"{page.epoch}:1".encode()])
        (message,) = page.messages
        expected = Message(
            "news", message.position, "message", b'{ "text": "hi/\\"\\u00e4", "n": 1.50}', "bot", "The böt", message.at
        )
        self.assertEqual(message, expected)
        self.assertLess(abs(message.at - time.time() * 1000), 5000)

    async def test_once(self) -> None:
        """The same message under the same key is stored once; another under it is refused."""
        store = await self.open_store()
        first = self.append("message", "bot", "Bot", '"a"', "k")
        self.assertEqual(self.append("message", "bot", "Bot", '"a"', "k"), [b"duplicate", first[1]])
        with self.assertRaisesRegex(hiredis.ReplyError, "^KEYREUSED "):
            self.append("message", "bot", "Bot", '"b"', "k")
        self.assertEqual(texts(await store.read_after("news", 0, 9)), ["a"])
        self.assertEqual((await store.read_after("news", 0, 9)).messages[0].key, "k")

    async def test_refused(self) -> None:
        """What isn't right is refused with what would be, and stores nothing."""
        store = await self.open_store()
        good = ("message", "bot", "Bot", "1")
        wrong: list[tuple[tuple[str | bytes, ...], str, str]] = [
            (good[:3], "news", "arguments are"),
            (("$deleted", *good[1:]), "news", "event is"),
            (("", *good[1:]), "news", "event is"),
            (("a\n", *good[1:]), "news", "event is"),
            ((b"\xff", *good[1:]), "news", "event is"),
            (("message", "", "Bot", "1"), "news", "sender's id"),
            (("message", "bot", "x" * 65, "1"), "news", "sender's id"),
            ((*good, "k\x00"), "news", "key is"),
            ((*good[:3], '"' + "x" * 65535 + '"'), "news", "65536 bytes"),
            (good, "a b", "room's name"),
            (good, "", "room's name"),
            (good, "..", "room's name"),
            (good, "x" * 129, "room's name"),
        ]
        for data in (
            *(
                "",
                "{",
                "1 2",
                "1,2",
                "1],[2",
                "NaN",
                "Infinity",
                "-Infinity",
                "0x10",
                "01",
                "+1",
                ".5",
                "1.",
                "1e",
                "nan",
            ),
            *("'a'", '{"a":}', "{a:1}", "[1,]", "truefalse", "nulll", '"\x01"', "[" * 40 + "]" * 40, "1\x002", "{} //"),
        ):
            wrong += [((*good[:3], data), "news", "one JSON value")]
        for data in (b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xe2\x82"'):
            wrong += [((*good[:3], data), "news", "one JSON value")]
        for arguments, room, reason in wrong:
            with self.assertRaisesRegex(hiredis.ReplyError, f"^BADMESSAGE .*{reason}", msg=repr(arguments)):
                self.append(*arguments, room=room)
        self.assertEqual(list(await store.rooms("", 1000)), [])

    async def test_accepted(self) -> None:
        """All that is JSON is taken as it is."""
        store = await self.open_store()
        values = [
            "null",
            "true",
            "-0",
            "0",
            "-1.5e+10",
            "1E5",
            "0.5",
            '""',
            '"\\\\"',
            '"]\\""',
            "[]",
            "{}",
            '"ä€😀"',
            "[[1],{}]",
        ]
        for value in values:
            self.append("message", "bot", "Bot", value)
        page = await store.read_after("news", 0, 99)
        self.assertEqual([message.data.decode() for message in page.messages], values)
        for message in page.messages:
            json.loads(message.data)

    async def test_rooms_are_limited(self) -> None:
        """Other programs make no more rooms, and no faster, than clients may; rooms that exist take their messages."""
        store = await self.open_store(retention=Retention(rooms=2))
        answers = [self.append("message", "bot", "Bot", "1", room=room) for room in "aba"]
        self.assertEqual([1, 1, 2], [int(position.partition(b":")[2]) for _, position in answers])
        with self.assertRaisesRegex(hiredis.ReplyError, "^MANYROOMS "):
            self.append("message", "bot", "Bot", "1", room="c")
        await store.stop()
        store = await self.open_store(retention=Retention(room_rate=0.01))
        with self.assertRaisesRegex(hiredis.ReplyError, "^FASTROOMS "):
            self.append("message", "bot", "Bot", "1", room="c")
        self.append("message", "bot", "Bot", "1", room="b")
        self.assertEqual(["a", "b"], list(await store.rooms("", 9)))

    async def test_no_log(self) -> None:
        """Where no daemon was ever started there is nothing to append to."""
        sha = self.server.command("SCRIPT", "LOAD", load_store_script("append").text)
        keys = ("other:0:log", "other:0:stream:a", "other:0:keys:a")
        with self.assertRaisesRegex(hiredis.ReplyError, "^NOLOG .*daemon has to be started"):
            self.server.command("EVALSHA", sha, 3, *keys, "message", "bot", "Bot", "1")

    async def test_keys_of_two_rooms(self) -> None:
        """Keys that don't belong together are refused."""
        await self.open_store()
        sha = self.server.command("HGET", "realtime:0:log", "append")
        for keys in (
            ("realtime:0:log", "realtime:0:stream:a", "realtime:0:keys:b"),
            ("realtime:0:log", "realtime:1:stream:a", "realtime:1:keys:a"),
        ):
            with self.assertRaisesRegex(hiredis.ReplyError, "^BADMESSAGE "):
                self.server.command("EVALSHA", sha, 3, *keys, "message", "bot", "Bot", "1")


class ReachedTests(RedisTestCase):
    """Ways to a server other than plain TCP."""

    async def works(self, url: str) -> None:
        store = await self.open_store(url)
        self.assertEqual((await store.append(draft())).message.position.offset, 1)

    async def test_unix_socket(self) -> None:
        """A Unix socket, and a database there."""
        server = self.serve(unix=True)
        await self.works(f"redis+unix://{server.path}?db=3")
        self.assertEqual(server.command("EXISTS", "realtime:3:log", database=3), 1)

    async def test_user(self) -> None:
        """A user with a password, and only the rights that are documented."""
        server = self.serve()
        rights = (
            "~realtime:* &realtime:* -@all +@read +@write +@hash +@stream +@string +@pubsub +@connection +@scripting"
        )
        server.command("ACL", "SETUSER", "chat", "on", ">p@ss/:%", *rights.split(), "+info", "+time", "+config|get")
        await self.works(f"redis://chat:p%40ss%2F%3A%25@127.0.0.1:{server.port}/0")


class Leak(ProxyFactory):
    """Stands before a server, and may lose what it answers.

    :ivar open: whether it does.
    """

    noisy = False

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self.open = False
        self._incoming: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        """Called by Twisted."""
        incoming = _Incoming(self)
        incoming.factory = self
        self._incoming.append(incoming)
        return incoming

    def cut(self) -> None:
        """Cut all connections."""
        incoming, self._incoming = self._incoming, []
        for each in incoming:
            each.transport.abortConnection()


class _Incoming(ProxyServer):
    def __init__(self, leak: Leak) -> None:
        self._leak = leak

    def clientProtocolFactory(self) -> ProxyClientFactory:
        """Called by Twisted."""
        factory = ProxyClientFactory()
        factory.protocol = partial(_Outgoing, self._leak)
        factory.noisy = False
        return factory


class _Outgoing(ProxyClient):
    def __init__(self, leak: Leak) -> None:
        self._leak = leak

    def dataReceived(self, data: bytes) -> None:
        """Called by Twisted."""
        if not self._leak.open:
            super().dataReceived(data)


async def _failures(answers: list[Deferred[Any]]) -> list[Any]:
    """Await all answers, and give the failures among them."""
    results = await DeferredList(answers, consumeErrors=True)
    failures = [failure for success, failure in results if not success]
    for failure in failures:
        failure.trap(RealtimeError)
    return failures
