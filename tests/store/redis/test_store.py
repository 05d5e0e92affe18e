"""The store in Redis keeps the contract, on one node and on several."""

from __future__ import annotations

import os
import random
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import TestCase

from realtime_chat.redis.address import parse_address
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.rows import read_announcement, read_rows
from realtime_chat.store.redis.store import RedisStore
from realtime_chat.store.retention import KEY_SECONDS, Retention
from realtime_chat.values.model import AppendResult, Draft
from tests.contracts import BOB, LastingStoreContract, append_all, draft, offsets, texts, whole_log
from tests.deadlines import TEST_TIMEOUT
from tests.redis_server import allow_slow_redis, shared_server
from tests.store.redis.fixtures import RedisTestCase


class RedisStoreTests(LastingStoreContract, TestCase):
    """The store in Redis keeps the contract."""

    timeout = TEST_TIMEOUT
    keys_kept = KEY_SECONDS + 5
    room_rate = 0.1  # Redis' own clock goes on: the test has ten seconds to reach its refusals

    def build_store(self, retention: Retention) -> RedisStore:
        allow_slow_redis(self)
        self.url = shared_server(self).url
        return self.rebuild_store(retention)

    def rebuild_store(self, retention: Retention) -> RedisStore:
        address = parse_address(self.url)
        names = RedisNames("realtime", 0)
        store = RedisStore(
            reactor,
            address,
            names,
            retention,
            65536,
            self.wall,
            os.urandom,
            random.random,
            node=os.urandom(8).hex(),
            look=0.05,
            tick=0.02,
            monotonic=self.clock.seconds,
        )
        self.stores = [store]
        return store

    async def pass_room_time(self) -> None:
        """By Redis' clock: the bucket of new rooms was used so much earlier."""
        server = shared_server(self, empty=False)
        left, since = server.command("HGET", "realtime:0:log", "making").split()
        earlier = int(since) - int(1000 / self.room_rate)
        server.command("HSET", "realtime:0:log", "making", f"{left.decode()} {earlier}")

    async def pass_session_time(self, seconds: float) -> None:
        """By Redis' clock: each record has so much less time. Then the nodes that live prolong theirs."""
        server = shared_server(self, empty=False)
        for key in server.command("KEYS", "realtime:0:session:*"):
            server.command("PEXPIRE", key, int(server.command("PTTL", key) - 1000 * seconds))
        for store in self.stores:
            await store.sessions._prolong()

    async def read_room(self, store: RedisStore, room: str) -> None:
        """Follow a room, as a node does by way of which somebody reads it, whichever node that is."""
        link = RedisConnection(reactor, parse_address(self.url), "test", random.random, on_message=lambda *event: None)
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

    async def test_just_old_enough(self) -> None:
        """A message that is as old as messages may be is read; an older one isn't."""
        time, elapsed = 1_700_000_000.0, 0.0
        self.patch(self, "now", lambda: time + elapsed)
        store = await self.open_store(age=60.0, monotonic=lambda: elapsed)
        for text in ("old", "as old", "younger"):
            await store.append(draft(text))
            elapsed += 1.0
        elapsed = 61.0
        page = await store.read_after("lobby", 0, 9)
        self.assertEqual((["as old", "younger"], 2), (texts(page), page.oldest))

    async def test_announced(self) -> None:
        """What one turn appends is announced once a room, in order, byte for byte, with its first offset."""
        heard: list[Any] = []
        names = RedisNames("realtime", 0)
        link = RedisConnection(
            reactor, parse_address(self.server.url), "test", random.random, on_message=lambda *e: heard.append(e)
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
        """An invalid row in a stream keeps its offset, and the other messages can be read."""
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
