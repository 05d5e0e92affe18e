"""Redis has lost data: the log gets a new epoch."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.redis.names import RedisNames
from realtime_chat.store.redis.shared_logs import SharedLogs
from realtime_chat.store.redis.store import RedisStore
from realtime_chat.store.retention import Retention, RetentionClock
from realtime_chat.values.model import AppendResult, Page
from tests.contracts import append_all, draft, texts
from tests.redis_server import PERSISTENT, RedisServer
from tests.store.redis.fixtures import RedisTestCase


class TimeTests(RedisTestCase):
    """What Redis' clock shows."""

    async def test_told(self) -> None:
        """When a node connects, and at each check, it hears the time of Redis to the millisecond."""
        self.serve()
        heard: list[int] = []
        self.patch(SharedLogs, "_note_redis_time", lambda logs, milliseconds: heard.append(milliseconds))
        before = self.redis_time()
        await self.open_store()
        await self.until(lambda: len(heard) > 3)
        self.assertEqual(sorted(heard), heard)
        self.assertTrue(before <= heard[0] and heard[-1] <= self.redis_time(), (before, heard))

    def redis_time(self) -> int:
        """The same, as Redis itself says it."""
        seconds, microseconds = map(int, self.server.command("TIME"))
        return seconds * 1000 + microseconds // 1000


class TopsTests(SynchronousTestCase):
    """What a node remembers of tops, to notice that Redis has lost messages."""

    def test_first_message(self) -> None:
        """A room whose only message is gone has lost it; one that has it, or more by now, has not."""
        clock = Clock()
        retention = RetentionClock(Retention(), clock.seconds, clock.seconds)
        logs = SharedLogs(RedisNames("realtime", 0), retention, 65536, clock.seconds, os.urandom)
        logs.observe_top("lobby", 1)
        for top, lost in ((None, True), (b"1 e 0", False), (b"2 e 0", False)):
            connection: Any = SimpleNamespace(command=lambda *words, top=top: succeed([b"0", top]))
            answer = Deferred.fromCoroutine(logs._has_lost_messages(connection))
            self.assertEqual(lost, self.successResultOf(answer), top)


class ForgettingTests(RedisTestCase):
    """Redis has lost data: everybody is told, and no offset stands for two messages."""

    async def lost(self, store: RedisStore, epoch_changes: list[None], before: Page) -> Page:
        """Wait till the loss is noticed without anybody asking; the lobby as it is now."""
        await self.until(lambda: epoch_changes)
        await self.connected(store)
        page = await store.read_after("lobby", 0, 1000)
        self.assertNotEqual(page.epoch, before.epoch)
        return page

    async def filled(self, messages: int, **more: Any) -> tuple[RedisStore, list[None], Page]:
        """A store with messages in the lobby, the changes of its epoch, and the lobby."""
        store = await self.open_store(**more)
        await append_all(store, [draft(n) for n in range(1, messages + 1)])
        return store, self.watch_epoch(store), await store.read_after("lobby", 0, 1000)

    async def test_flushed(self) -> None:
        """A flush is noticed without a command, and starts another log. All nodes agree on it, and the secret stays."""
        self.serve()
        store, epoch_changes, before = await self.filled(5)
        other = await self.open_store()
        secret = store.secret
        self.server.command("FLUSHALL")
        page = await self.lost(store, epoch_changes, before)
        self.assertEqual((page.oldest, page.top, page.epoch_start), (1, 0, 0))
        self.assertEqual((await other.append(draft())).message.position.offset, 1)
        self.assertEqual((await other.read_after("lobby", 0, 9)).epoch, page.epoch)
        self.assertEqual([store.secret, other.secret], [secret, secret])
        self.assertEqual(len(epoch_changes), 1)

    async def test_flushed_and_appended(self) -> None:
        """An append after a flush is stored in the new log, and answered with its epoch."""
        self.serve()
        store = await self.open_store(look=60.0)
        epoch_changes = self.watch_epoch(store)
        before = (await store.append(draft("a", key="k"))).message.position
        self.server.command("FLUSHALL")
        answers = await append_all(store, [draft("b"), draft("a", key="k")])
        self.assertEqual([answer.message.position.offset for answer in answers], [1, 2])
        self.assertNotEqual(answers[0].message.position.epoch, before.epoch)
        self.assertEqual(len(epoch_changes), 1)

    async def test_flushed_and_read(self) -> None:
        """A read after a flush reads the new log."""
        self.serve()
        store = await self.open_store(look=60.0)
        epoch_changes = self.watch_epoch(store)
        before = (await store.append(draft())).message.position
        self.server.command("FLUSHALL")
        pages = await gatherResults([store.read_after("lobby", 0, 9) for _ in range(30)])
        self.assertEqual(len({page.epoch for page in pages} | {before.epoch}), 2)
        self.assertEqual(len(epoch_changes), 1)

    async def test_restarted_without_persistence(self) -> None:
        """A restart that loses everything begins another log."""
        self.serve()
        store, epoch_changes, before = await self.filled(5)
        self.server.restart()
        page = await self.lost(store, epoch_changes, before)
        self.assertEqual((page.top, page.epoch_start), (0, 0))

    async def test_restarted_with_a_snapshot(self) -> None:
        """A restart that may have lost the end keeps the history it has, in a new epoch that begins after it."""
        self.serve()
        store, epoch_changes, before = await self.filled(5)
        self.server.command("SAVE")
        await append_all(store, [draft(6), draft(7)])
        self.server.restart()
        page = await self.lost(store, epoch_changes, before)
        self.assertEqual((texts(page), page.oldest, page.top, page.epoch_start), ([1, 2, 3, 4, 5], 1, 5, 5))
        self.assertEqual((await store.append(draft("new"))).message.position.offset, 6)
        page = await store.read_after("lobby", 0, 1000)
        self.assertEqual((texts(page)[-1], page.top, page.epoch_start), ("new", 6, 5))
        self.assertEqual((await store.read_after("other", 0, 1)).epoch_start, 0)

    async def test_restarted_safely(self) -> None:
        """A restart that can't have lost anything keeps the epoch, keys and all."""
        self.serve(*PERSISTENT)
        store, epoch_changes, before = await self.filled(5)
        stored = await store.append(draft("a", key="k"))
        self.server.restart()
        await self.until(lambda: store.links[0].counters.connects == 2)
        await self.connected(store)
        self.assertEqual(await store.append(draft("a", key="k")), AppendResult(stored.message, duplicate=True))
        page = await store.read_after("lobby", 0, 1000)
        self.assertEqual((page.epoch, page.top, page.epoch_start, epoch_changes), (before.epoch, 6, 0, []))

    async def test_restarted_less_safely(self) -> None:
        """If the settings are safe now, but were not before the restart, there is a new epoch."""
        self.serve("--appendonly", "yes")
        store, epoch_changes, before = await self.filled(5)
        await self.until(lambda: self.server.info("persistence")["aof_buffer_length"] == "0")
        self.server.restart("--appendfsync", "always")
        page = await self.lost(store, epoch_changes, before)
        self.assertEqual((page.top, page.epoch_start), (5, 5))

    async def test_no_longer_safe(self) -> None:
        """If the settings become unsafe while Redis runs, that is noticed, and the next restart starts a new epoch."""
        self.serve(*PERSISTENT)
        store, epoch_changes, before = await self.filled(5)
        self.server.command("CONFIG", "SET", "appendfsync", "everysec")
        await self.until(lambda: "loses the last second" in store.describe())
        self.assertEqual(epoch_changes, [])
        self.server.restart()
        await self.lost(store, epoch_changes, before)

    async def test_truncated(self) -> None:
        """A log that lacks observed messages gets a new epoch, whatever Redis promises."""
        self.serve(*PERSISTENT)
        store, epoch_changes, before = await self.filled(5)
        (log,) = self.directory.glob("appendonlydir/*.incr.aof")
        size = log.stat().st_size
        await append_all(store, [draft(6), draft(7)])
        self.server.kill()
        os.truncate(log, size)
        self.server.start()
        page = await self.lost(store, epoch_changes, before)
        self.assertEqual((page.top, page.epoch_start), (5, 5))

    async def test_promoted_replica(self) -> None:
        """A promoted replica may lack the last messages. So there is a new epoch, whatever its settings promise."""
        self.serve(*PERSISTENT)
        store, epoch_changes, before = await self.filled(5)
        replica = await self.replica()
        await append_all(store, [draft(6), draft(7)])
        self.server.kill()
        replica.move(self.server.port)
        page = await self.lost(store, epoch_changes, before)
        self.assertEqual((page.top, page.epoch_start), (5, 5))

    async def test_promoted_replica_and_a_new_node(self) -> None:
        """A node that has just started notices a promoted replica, too."""
        self.serve(*PERSISTENT)
        store, _, before = await self.filled(5)
        replica = await self.replica()
        await store.stop()
        page = await (await self.open_store(replica.url)).read_after("lobby", 0, 9)
        self.assertNotEqual(page.epoch, before.epoch)
        self.assertEqual((page.top, page.epoch_start), (5, 5))

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
        """Data from another run of Redis are another log, for appends and for reads."""
        self.serve()
        store = await self.open_store(look=60.0)
        epochs = [(await store.append(draft())).message.position.epoch]
        self.server.command("HSET", "realtime:0:log", "run_id", "another")
        epochs.append((await store.append(draft())).message.position.epoch)
        self.server.command("HSET", "realtime:0:log", "run_id", "another")
        epochs.append((await store.read_after("lobby", 0, 9)).epoch)
        self.assertEqual(len(set(epochs)), 3)

    async def test_log_evicted(self) -> None:
        """If the log's hash is evicted but the messages are not, no offset is given twice."""
        self.serve()
        store, epoch_changes, before = await self.filled(5)
        self.server.command("DEL", "realtime:0:log")
        page = await self.lost(store, epoch_changes, before)
        self.assertEqual((texts(page), page.top, page.epoch_start), ([1, 2, 3, 4, 5], 5, 5))
        self.assertEqual((await store.append(draft(6))).message.position.offset, 6)

    async def test_messages_evicted(self) -> None:
        """If a room's messages are evicted, its top stays, and a page says what is missing."""
        self.serve()
        store, _, before = await self.filled(5)
        self.server.command("DEL", "realtime:0:stream:lobby", "realtime:0:keys:lobby")
        page = await store.read_after("lobby", 2, 9)
        self.assertEqual((page.epoch, page.oldest, page.top, page.messages), (before.epoch, 6, 5, ()))
        await store.append(draft(6))
        page = await store.read_after("lobby", 2, 9)
        self.assertEqual((page.epoch, page.oldest, page.top, texts(page)), (before.epoch, 6, 6, [6]))
