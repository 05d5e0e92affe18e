"""Daemons whose wall clock is set while they run, back and forth by an hour and more.

With ``SOAK=1`` in the environment the clocks are set for five minutes instead of nine seconds, with 300
messages a second and not 100, the node that is away is so for as long as nodes are believed in by default, and the
silent are pinged as late as by default.
"""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.request import urlopen

from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from tests.clients import PollClient, SocketClient
from tests.deadlines import Stopwatch
from tests.functional.cluster import HISTORY, ClusterTestCase
from tests.functional.daemon import SOAK, TWISTD, Daemon, with_limits
from tests.functional.faults import with_faults
from tests.functional.settable_clock import SettableClock
from tests.redis_server import PERSISTENT, RedisServer

SECONDS = 300 if SOAK else 9
STEP_EVERY = 10.0 if SOAK else 1.5
HOUR = 3600
NODE_TIMEOUT = 30 if SOAK else 6
PING = 25.0 if SOAK else 5.0
RATE = 300 if SOAK else 100
READERS = {"socket": 4, "events": 4, "poll": 4}
WRITERS = {"socket": 2, "rooms": 1, "commands": 1}


class SetClockTestCase(ClusterTestCase):
    """Tests of daemons with wall clocks of their own."""

    def clocked(self, *options: str, program: str = TWISTD) -> tuple[Daemon, SettableClock]:
        """A daemon that isn't started yet, and its clock."""
        directory = self.mktemp()
        clock = SettableClock(f"{directory}/ahead")
        return self.daemon(*options, prefix=clock.prefix, directory=directory, program=program), clock

    def shown(self, daemon: Daemon) -> float:
        """By how many seconds a daemon dates its answers ahead of us."""
        with urlopen(daemon.url + "healthz", timeout=5) as answer:
            return parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time()

    async def step(self, daemon: Daemon, clock: SettableClock, ahead: int) -> None:
        """Set a daemon's clock, and see that it shows that."""
        clock.set(ahead)
        await self.eventually(lambda: abs(self.shown(daemon) - ahead) < 5, lambda: f"it doesn't show {ahead}")


class StepTests(SetClockTestCase):
    """One daemon, of which everything that takes time is asked."""

    async def reader(self, daemon: Daemon, name: str) -> SocketClient:
        """Somebody who reads the lobby."""
        client = SocketClient(reactor, daemon.port)
        await client.start(name=name)
        self.addCleanup(client.stop)
        return client

    async def passes(self, daemon: Daemon, names: list[str], readers: list[SocketClient]) -> None:
        """Polls end in time and not before, who comes is seen soon, who goes too, and what is said comes through."""
        begun, watch = time.monotonic(), Stopwatch(daemon.pid)
        poll = PollClient(reactor, daemon.port)
        self.addCleanup(poll.stop)
        position = readers[0].position
        answer = await poll.get("poll", room="lobby", since=position, wait=2)
        self.assertEqual([], answer["events"])
        self.assertGreater(time.monotonic() - begun, 1.4)
        self.assertLess(watch.seconds(), 4)
        coming = await self.reader(daemon, "Eve")
        for reader in readers:
            await reader.sees("Eve", *names)
        said = len(readers[0].messages)
        self.assertEqual("published", (await coming.publish("hello"))["type"])
        for reader in readers:
            await reader.until(lambda reader=reader: len(reader.messages) > said)
        await coming.stop()
        for reader in readers:
            await reader.sees(*names)

    async def test_steps(self) -> None:
        """Set back by an hour and forward by two, a daemon does all in the time that it always takes."""
        daemon, clock = self.clocked("--store", "memory:")
        await deferToThread(daemon.start)
        readers = [await self.reader(daemon, "Ann"), await self.reader(daemon, "Bob")]
        for ahead in (0, -HOUR, HOUR, 0, 10 * HOUR):
            await self.step(daemon, clock, ahead)
            await self.passes(daemon, ["Ann", "Bob"], readers)
        self.assertEqual([True, True], [reader.open for reader in readers])

    async def test_pings(self) -> None:
        """Set back by an hour, it still pings those who are silent, and finds out who has gone without a word."""
        daemon, clock = self.clocked("--store", "memory:", program=with_limits(ping=PING))
        await deferToThread(daemon.start)
        reader = await self.reader(daemon, "Ann")
        gone = await self.reader(daemon, "Bob")
        await reader.sees("Ann", "Bob")
        pings: list[bytes] = []
        answer = reader.protocol.onPing
        reader.protocol.onPing = lambda payload: (pings.append(payload), answer(payload), reader.notice())
        gone.protocol.transport.pauseProducing()
        await self.step(daemon, clock, -HOUR)
        await reader.until(lambda: pings, PING + 5)
        await reader.until(lambda: reader.view.names == ["Ann"], 20)
        self.assertTrue(reader.open)
        gone.protocol.transport.resumeProducing()

    async def assert_keys_hold(self, daemon: Daemon, clock: SettableClock) -> None:
        """A key is known whatever the clock shows, also where its message is gone, and after a restart."""
        client = PollClient(reactor, daemon.port)
        self.addCleanup(client.stop)
        await client.who()
        places: dict[str, str] = {}
        for ahead in (0, 400, -HOUR, HOUR, -2 * HOUR):
            await self.step(daemon, clock, ahead)
            for key, place in places.items():
                self.assertEqual(place, (await client.publish(key, key=key))["position"], (key, ahead))
            places[f"key{ahead}"] = (await client.publish(f"key{ahead}", key=f"key{ahead}"))["position"]
            more = [
                {"type": "publish", "room": "lobby", "data": number, "key": f"{ahead}-{number}"} for number in range(90)
            ]
            self.assertEqual({"published"}, {reply["type"] for reply in await client.tell_all(more)})
        await deferToThread(daemon.kill)
        clock.set(3 * HOUR)
        await deferToThread(daemon.start)
        for key, place in places.items():
            self.assertEqual(place, (await client.publish(key, key=key))["position"], key)

    async def test_keys_in_sqlite(self) -> None:
        """Nothing is stored twice because a clock was set, in SQLite."""
        daemon, clock = self.clocked("--history", "10")
        await deferToThread(daemon.start)
        await self.assert_keys_hold(daemon, clock)

    async def test_keys_in_redis(self) -> None:
        """Nor in Redis."""
        redis = await self.redis_server()
        daemon, clock = self.clocked("--store", redis.url, "--history", "10")
        await deferToThread(daemon.start)
        await self.assert_keys_hold(daemon, clock)


class PresenceTests(SetClockTestCase):
    """Who is seen by way of a node whose clock is set."""

    async def test_node(self) -> None:
        """A node whose clock was set back for longer than nodes are believed in without a word is still believed in."""
        redis = await self.redis_server()
        program = with_limits(node_timeout=NODE_TIMEOUT)
        nodes = [self.clocked("--store", redis.url, program=program) for _ in range(2)]
        for daemon, _ in nodes:
            await deferToThread(daemon.start)
        load = self.load([daemon for daemon, _ in nodes], redis)
        await self.ask(load, "read", kinds=READERS)
        await self.all_see(load, sum(READERS.values()))
        daemon, clock = nodes[0]
        for ahead, seconds in ((HOUR, NODE_TIMEOUT / 6), (0, NODE_TIMEOUT * 4 / 3), (2 * HOUR, NODE_TIMEOUT / 6)):
            await self.step(daemon, clock, ahead)
            await self.sleep(seconds)
        self.assertEqual({sum(READERS.values())}, {seen["count"] for seen in (await self.ask(load, "see")).values()})
        self.assert_nobody_left(await self.ask(load, "balance"))


class SetTogetherTests(SetClockTestCase):
    """Daemons under load, whose clocks are set all the time, and some of whose sends fail."""

    timeout = SECONDS + 180
    errors = ("ENOBUFS", "ENOMEM")

    def clocked(self, *options: str, program: str = TWISTD) -> tuple[Daemon, SettableClock]:
        """Its sends fail now and then though the connection goes on."""
        daemon, clock = super().clocked(*options, program=program)
        error = random.choice(self.errors)
        daemon.prefix = (*with_faults("sendto,sendmsg", f"error={error}:when=29+29"), *daemon.prefix)
        return daemon, clock

    async def begin(self, daemons: list[Daemon], redis: RedisServer | None = None) -> Any:
        """Start them, readers and writers."""
        for daemon in daemons:
            await deferToThread(daemon.start)
        load = self.load(daemons, redis)
        await self.ask(load, "read", kinds=READERS)
        await self.ask(load, "write", kinds=WRITERS, rate=RATE)
        await self.acknowledged(load, 100)
        return load

    async def set_all(self, clocks: list[SettableClock], daemons: list[Daemon]) -> None:
        """Set clocks back and forth by an hour, and kill a daemon now and then, so that much is sent again."""
        end, steps = time.monotonic() + SECONDS, 0
        while time.monotonic() < end or steps < 6:
            for clock in clocks:
                clock.set(random.choice([ahead for ahead in (-HOUR, 0, HOUR) if ahead != clock.ahead]))
            steps += 1
            await self.sleep(STEP_EVERY)
            if steps % 3 == 0:
                daemon = random.choice(daemons)
                await deferToThread(daemon.kill)
                await deferToThread(daemon.start)
        for ahead in (HOUR, -HOUR):
            for clock in clocks:
                clock.set(ahead)
            await self.sleep(STEP_EVERY)

    async def settle(self, load: Any) -> None:
        """Nothing is lost, doubled, out of order or missing in silence, and everybody is seen, also who comes now."""
        await self.acknowledged(load, 100)
        await self.ask(load, "read", kinds=READERS)
        await self.all_see(load, 2 * sum(READERS.values()), 60)
        await self.ask(load, "rest")
        report = await self.ask(load, "balance")
        self.assert_balanced(report)
        self.assert_nothing_lost(report)
        ledger = report["ledger"]
        self.assertEqual(ledger["attempted"], ledger["acknowledged"])

    async def test_sqlite(self) -> None:
        """Over SQLite the accounts balance."""
        daemon, clock = self.clocked("--history", HISTORY)
        load = await self.begin([daemon])
        await self.set_all([clock], [daemon])
        await self.settle(load)

    async def test_redis(self) -> None:
        """Over Redis, each node with a clock of its own, they do as well."""
        self.errors = ("ENOBUFS",)  # after ENOMEM Twisted closes connections, also that to Redis
        redis = await self.redis_server(*PERSISTENT)
        nodes = [self.clocked("--store", redis.url, "--history", HISTORY) for _ in range(2)]
        daemons, clocks = [daemon for daemon, _ in nodes], [clock for _, clock in nodes]
        load = await self.begin(daemons, redis)
        await self.set_all(clocks, daemons)
        await self.settle(load)
