"""What becomes of appends and reads while Redis hangs, breaks off, or is not there."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from realtime_chat.store.redis.shared_logs import load_store_script
from realtime_chat.store.redis.store import RedisStore
from realtime_chat.values.errors import InDoubt, RealtimeError, StoreError, StoreRefused
from tests.contracts import append_all, draft, texts, whole_log
from tests.deadlines import Stopwatch
from tests.redis_server import PERSISTENT, allow_slow_redis
from tests.store.redis.fixtures import UNAVAILABLE_WITHIN, LossyProxy, RedisTestCase, failures


class AwayTests(RedisTestCase):
    """Redis hangs, breaks off, or is not there."""

    redis_may_be_slow = False

    async def test_hanging(self) -> None:
        """While Redis hangs, publishes are refused within two seconds, and none of them is stored when it goes on."""
        self.serve()
        store = await self.open_store()
        await store.append(draft("before"))
        self.server.pause()
        begun = reactor.seconds()
        answers = [store.append(draft(n)) for n in range(600)]
        while reactor.seconds() - begun < 2.5:
            watch = Stopwatch(self.server.pid)
            await self.assertFailure(store.append(draft("more")), StoreError, InDoubt)
            self.assertLess(watch.seconds(), UNAVAILABLE_WITHIN)
            await deferLater(reactor, 0.1)
        self.assertEqual(len(await failures(answers)), 600)
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
        answers = [store.append(draft(n)) for n in range(600)]
        await deferLater(reactor, 0.5)
        self.server.resume()
        await gatherResults(answers)
        self.assertEqual(texts(await whole_log(store, "lobby")), list(range(600)))

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
        """If connections are lost under load, no acknowledged message is lost, and none with a key is stored twice."""
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
        """Messages in flight when a connection is lost are stored once, and need no second publish."""
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
        """If the answer to an append is lost with the connection, the append is answered later, and stored once."""
        self.serve()
        proxy = LossyProxy(self.server.port)
        port = reactor.listenTCP(0, proxy, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        store = await self.open_store(f"redis://127.0.0.1:{port.getHost().port}/0", look=60.0)
        await store.append(draft("a", key="k"))
        proxy.loses_answers = True
        answers = [store.append(each) for each in (draft("b"), draft("a", key="k"), draft("c", key="k"), draft("d"))]
        await self.until(lambda: self.server.command("XLEN", "realtime:0:stream:lobby") == 3)
        proxy.loses_answers = False
        proxy.cut()
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
        proxy = LossyProxy(self.server.port)
        port = reactor.listenTCP(0, proxy, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        store = await self.open_store(f"redis://127.0.0.1:{port.getHost().port}/0", look=60.0)
        proxy.loses_answers = True
        watch = Stopwatch(self.server.pid)
        stored = store.append(draft("a", key="a"))
        await self.until(lambda: self.server.command("XLEN", "realtime:0:stream:lobby") == 1)
        self.server.pause()
        unseen = store.append(draft("b", key="b"))
        error = await self.assertFailure(stored, InDoubt)
        await self.assertFailure(unseen, InDoubt)
        self.assertLess(watch.seconds(), UNAVAILABLE_WITHIN)
        self.assertEqual(("in_doubt", 503, True), (error.code, *error.kind))
        proxy.loses_answers = False
        proxy.cut()
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
        """If Redis has forgotten the scripts, they are sent again. All appends succeed, in order."""
        allow_slow_redis(self)
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
        """Appends stay in order even if another node loads the script between two of them."""
        allow_slow_redis(self)
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
        """While Redis is down everything is refused at once. Each change of state is logged once."""
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

    async def test_lost_meanwhile(self) -> None:
        """If Redis goes while a node checks, trims and prolongs, only the connections log that."""
        self.serve()
        store = await self.open_store()
        await store.sessions.put("k", b"record", True)
        lines = self.logged()
        self.server.pause()
        tasks = store._check_logs, store._sweeper.sweep, store.sessions._prolong
        running = [Deferred.fromCoroutine(task()) for task in tasks]
        self.server.kill()
        await gatherResults(running)
        self.assertEqual([], [line for line in lines if not line.startswith("redis ")])

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
        """A password that is wrong by now is tried again, until it is right again."""
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
        """A server that became a replica is left, until a server at its address accepts writes."""
        self.serve()
        store = await self.open_store()
        self.server.command("REPLICAOF", "127.0.0.1", 1)
        await self.unavailable(store.append(draft()))
        await self.until(lambda: not store.links[0].ready)
        self.server.promote()
        await self.connected(store)
        await store.append(draft())

    async def test_refused(self) -> None:
        """A start that can't succeed says what is wrong, and leaves no connection behind."""
        self.serve()
        store = self.build_store(self.server.url_of(99))
        error = await self.assertFailure(store.start(), StoreRefused)
        self.assertIn("there is no database 99", str(error))
        await store.stop()
