"""Tests for :mod:`realtime_chat.broker.redis`, with a real Redis that also fails."""

from __future__ import annotations

import gc
import os
import random
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import TestCase

from realtime_chat.broker.redis import RedisBroker
from realtime_chat.logs import ThrottledLog
from realtime_chat.redis.address import parse_address
from realtime_chat.redis.names import RedisNames
from realtime_chat.store.redis.store import RedisStore
from realtime_chat.store.retention import Retention
from realtime_chat.values.errors import StoreError
from realtime_chat.values.model import ForwardedCommand, RemoteClient
from tests.contracts import AWKWARD_NAMES, BrokerContract, draft
from tests.deadlines import DEADLINE, TEST_TIMEOUT
from tests.fakes import Recorder
from tests.redis_server import RedisServer, shared_server
from tests.soak import SOAK


async def until(condition: Callable[[], Any], patience: float = DEADLINE) -> None:
    """Wait till a condition is true, while the reactor runs."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await deferLater(reactor, 0.01, lambda: None)


class FakePresence:
    """Records the calls of the broker.

    :ivar failing: whether rooms can't be met for now.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.failing = False
        self.asked = False
        self.replica = self

    def channels(self) -> dict[str, Any]:
        return {}

    async def start(self, listener: Any) -> None:
        self.calls.append(("start",))

    def ask_for_renewals(self) -> None:
        self.asked = True

    def stop_asking(self) -> None:
        self.asked = False

    async def stop(self) -> None:
        self.calls.append(("stop",))

    def count(self, rooms: Sequence[str]) -> Deferred[Sequence[int]]:
        return succeed([0] * len(rooms))

    async def follow(self, room: str) -> None:
        if self.failing:
            raise StoreError("not now")
        self.calls.append(("follow", room))

    def unfollow(self, room: str) -> None:
        self.calls.append(("unfollow", room))

    def take(self, room: str, payload: bytes) -> bool:
        self.calls.append(("take", room, payload))
        return payload != b"pwrong"

    def publish_presence(self, room: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        self.calls.append(("publish_presence", room, came, gone))

    def forward(self, command: ForwardedCommand) -> None:
        self.calls.append(("forward", command))


class Node:
    """A store, a broker on it, and a listener that records its calls.

    :param relays: further patterns, each with its room.
    """

    def __init__(
        self,
        url: str,
        name: str = "aaaa0001",
        prefix: str = "realtime",
        relays: Sequence[tuple[str, str]] = (),
        **settings: Any,
    ) -> None:
        address = parse_address(url)
        self.names = RedisNames(prefix, address.database)
        self.store = RedisStore(
            reactor,
            address,
            self.names,
            Retention(100),
            65536,
            time.time,
            os.urandom,
            random.random,
            node=os.urandom(8).hex(),
        )
        self.presence = FakePresence()
        self.listener = Recorder()
        commands = self.store.links[0]
        self.broker = RedisBroker(
            reactor, address, self.names, name, random.random, commands, self.presence, relays, **settings
        )
        (self.link,) = self.broker.links

    async def start(self) -> None:
        await self.store.start()
        await self.broker.start(self.listener)

    async def stop(self) -> None:
        await self.broker.stop()
        await self.store.stop()

    def heard(self, *kinds: str) -> list[tuple[Any, ...]]:
        """The arguments of the listener's calls of these kinds."""
        return [told[1:] for told in self.listener.of(*kinds)]


class RedisBrokerContractTests(BrokerContract, TestCase):
    """The broker over Redis keeps the contract."""

    timeout = TEST_TIMEOUT

    async def build_broker(self) -> RedisBroker:
        node = Node(shared_server(self).url)
        await node.store.start()
        self.addCleanup(node.store.stop)
        return node.broker


class NodesCase(TestCase):
    """Nodes on one server."""

    timeout = TEST_TIMEOUT

    def setUp(self) -> None:
        self.server = shared_server(self)

    async def node(self, name: str = "aaaa0001", url: str | None = None, **more: Any) -> Node:
        node = Node(url or self.server.url, name, **more)
        await node.start()
        self.addCleanup(node.stop)
        return node

    async def nodes(self, **more: Any) -> tuple[Node, Node]:
        """Two of them, both of which follow the lobby."""
        nodes = await self.node("aaaa0001", **more), await self.node("bbbb0002", **more)
        for node in nodes:
            await node.broker.follow("lobby")
        return nodes

    def publish(self, channel: str, payload: str | bytes) -> int:
        """Publish something from outside; answer how many have heard it."""
        heard: int = self.server.command("PUBLISH", channel, payload)
        return heard

    def channels(self) -> list[str]:
        """The channels that are subscribed on the server, except for the nodes' own."""
        names = [name.decode() for name in self.server.command("PUBSUB", "CHANNELS")]
        return sorted(name for name in names if ":node:" not in name and not name.startswith("__redis__"))


class HeardTests(NodesCase):
    """What nodes receive from each other."""

    async def test_messages(self) -> None:
        """Stored messages are announced to all nodes, with their content; several at once in one announcement."""
        one, two = await self.nodes()
        drafts = [draft({"a": [1, 2.50]}, key="k"), draft("é\u2028\n"), draft(None, event="x")]
        stored = await gatherResults([one.store.append(each) for each in drafts])
        messages = [each.message for each in stored]
        for node in (one, two):
            await until(lambda node=node: node.heard("announced"))
            self.assertEqual([("lobby", messages[0].position.epoch, 1, 3, messages)], node.heard("announced"))

    async def test_duplicates(self) -> None:
        """A message that was there already isn't announced again."""
        one, two = await self.nodes()
        for node in (one, two, one):
            await node.store.append(draft("a", key="k"))
        await one.store.append(draft("end"))
        await until(lambda: len(two.heard("announced")) == 2)

    async def test_followed_rooms_only(self) -> None:
        """A node hears of rooms that it follows, and of no others; nor of one that it follows no more."""
        one, two = await self.nodes()
        await two.broker.follow("news")
        two.broker.unfollow("lobby")
        for room in ("lobby", "sports", "news"):
            await one.store.append(draft(room=room))
        await until(lambda: two.heard("announced"))
        self.assertEqual(["news"], [told[0] for told in two.heard("announced")])

    async def test_signals(self) -> None:
        """A signal reaches the other nodes as it is, and not the one that it comes from."""
        one, two = await self.nodes()
        event = b'{"type":"signal","data":"\\n\xc3\xa9"}'
        one.broker.signal("lobby", "0123456789abcdef", event)
        two.broker.signal("lobby", "f" * 16, b"{}")
        await until(lambda: one.heard("signalled") and two.heard("signalled"))
        self.assertEqual([("lobby", "0123456789abcdef", event)], two.heard("signalled"))
        self.assertEqual([("lobby", "f" * 16, b"{}")], one.heard("signalled"))

    async def test_awkward_rooms(self) -> None:
        """Rooms stay apart, whatever they are called."""
        one, two = await self.nodes()
        for room in AWKWARD_NAMES:
            await two.broker.follow(room)
        for room in AWKWARD_NAMES:
            one.broker.signal(room, "0" * 16, room.encode())
        await until(lambda: len(two.heard("signalled")) >= len(AWKWARD_NAMES))
        self.assertEqual([(room, "0" * 16, room.encode()) for room in AWKWARD_NAMES], two.heard("signalled"))

    async def test_databases_and_prefixes(self) -> None:
        """Nodes of another database, or with another prefix, hear nothing."""
        one = await self.node()
        others = [await self.node(url=self.server.url_of(1)), await self.node(prefix="other")]
        for node in (one, *others):
            await node.broker.follow("lobby")
        await one.store.append(draft())
        one.broker.signal("lobby", "0" * 16, b"{}")
        self.publish("realtime:relay:lobby", "1")
        await until(lambda: one.heard("relayed"))
        await gatherResults([node.link.command("PING") for node in others])  # what came before was heard before
        self.assertEqual([[], []], [node.heard("announced", "signalled", "relayed") for node in others])

    async def test_presence(self) -> None:
        """Payloads about presence go to the presence backend."""
        node = await self.node()
        await node.broker.follow("lobby")
        self.publish(node.names.room("lobby"), b"pwhatever\n\x00")
        await until(lambda: len(node.presence.calls) == 3)
        self.assertEqual([("start",), ("follow", "lobby"), ("take", "lobby", b"pwhatever\n\x00")], node.presence.calls)

    async def test_malformed(self) -> None:
        """Malformed payloads are counted, logged once in a while, and make the room read its log."""
        one, _ = await self.nodes()
        channel = one.names.room("lobby")
        wrong = [b"", b"x", b"m", b"mabc", b"mabc:x 1\n", b"m\xff:1 1\n", b"s", b"s\n{}", b"sNODE MARK\n{}", b"pwrong"]
        with capturedLogs() as events:
            for payload in wrong:
                self.publish(channel, payload)
            await until(lambda: one.broker.counters.malformed == len(wrong))
        self.assertEqual([("lobby",)] * len(wrong), one.heard("may_have_missed"))
        said: list[str] = []
        throttled = ThrottledLog(lambda event: said.append(formatEvent(event)), lambda: 0.0, lambda *_: None)
        for event in events:
            if "no node publishes" in (event["log_format"] or ""):
                throttled(event)
        self.assertEqual(2, len(said))
        throttled.write_all_counts()
        # This node's, and all or some of the other's, which heard the same.
        self.assertLessEqual(len(wrong) - 2, int(said[-1].split()[0]))
        self.assertTrue(one.link.ready)

    async def test_mistake(self) -> None:
        """A mistake of ours in taking in one publication is logged, and costs no other."""
        one, two = await self.nodes()
        self.patch(two.listener, "signalled", lambda *args: 1 / 0)
        one.broker.signal("lobby", "0" * 16, b"{}")
        self.publish("realtime:relay:lobby", "1")
        await until(lambda: two.heard("relayed"))
        self.assertEqual((1, 1), (len(self.flushLoggedErrors(ZeroDivisionError)), two.link.counters.connects))


class RelayTests(NodesCase):
    """What other programs publish."""

    async def test_room(self) -> None:
        """On the relay's channel of a room, as it is; on all nodes, once each time."""
        nodes = await self.nodes()
        for payload in (b"1", b"1", b"\xff\n"):
            self.assertEqual(2, self.publish("realtime:relay:lobby", payload))
        self.publish("realtime:0:relay:lobby", b"2")
        for node in nodes:
            await until(lambda node=node: len(node.heard("relayed")) == 4)
            self.assertEqual([b"1", b"1", b"\xff\n", b"2"], [payload for _, payload in node.heard("relayed")])

    async def test_database(self) -> None:
        """Another database's relay has its number in it."""
        node = await self.node(url=self.server.url_of(3))
        await node.broker.follow("lobby")
        self.assertEqual(0, self.publish("realtime:relay:lobby", "1"))
        self.assertEqual(1, self.publish("realtime:3:relay:lobby", "2"))
        await until(lambda: node.heard("relayed"))
        self.assertEqual([("lobby", b"2")], node.heard("relayed"))

    async def test_patterns(self) -> None:
        """Patterns that overlap each other, and the channel itself, bring a publication once to each of their rooms."""
        relays = (("realtime:*", "lobby"), ("*:lobby", "lobby"), ("*:lob?y", "news"))
        node = await self.node(relays=relays)
        await node.broker.follow("lobby")
        for payload in (b"1", b"1", b"2"):
            self.assertEqual(4, self.publish("realtime:relay:lobby", payload))
        await until(lambda: len(node.heard("relayed")) == 6)
        expected = [(room, payload) for payload in (b"1", b"1", b"2") for room in ("lobby", "news")]
        self.assertEqual(expected, node.heard("relayed"))

    async def test_events(self) -> None:
        """A pattern's payloads go to whatever takes events, too, each with its channel and once."""
        taken: list[tuple[bytes, bytes]] = []
        node = await self.node(
            relays=(("news*", "lobby"),), event_relays={"news*": lambda *given: taken.append(given), "x": print}
        )
        await node.broker.follow("lobby")
        for channel, payload in (("news:a", b"1"), ("news:a", b"1"), ("news:b", b"2")):
            self.assertEqual(1, self.publish(channel, payload))
        await until(lambda: len(taken) == 3)
        self.assertEqual([(b"news:a", b"1"), (b"news:a", b"1"), (b"news:b", b"2")], taken)
        self.assertEqual(3, len(node.heard("relayed")))

    async def test_pattern_of_everything(self) -> None:
        """A pattern that fits the nodes' own channels as well disturbs nothing."""
        one, two = await self.nodes(relays=(("*", "all"),))
        await one.store.append(draft())
        self.publish("anything", "1")
        await until(lambda: ("all", b"1") in two.heard("relayed"))
        self.assertEqual((1, 0), (len(two.heard("announced")), two.broker.counters.malformed))


class SubscriptionTests(NodesCase):
    """The subscriptions that the server keeps for a node."""

    async def test_counted(self) -> None:
        """There are subscriptions for the rooms that are followed, as long as they are."""
        node = await self.node()
        before = len(node.broker.subscriptions)
        await node.broker.follow("lobby")
        self.assertEqual(["realtime:0:relay:lobby", "realtime:0:room:lobby", "realtime:relay:lobby"], self.channels())
        self.assertEqual(before + 3, len(node.broker.subscriptions))
        node.broker.unfollow("lobby")
        await until(lambda: not self.channels())
        self.assertEqual(before, len(node.broker.subscriptions))

    async def test_again_at_once(self) -> None:
        """A room that is unfollowed and followed again at once is followed."""
        one, two = await self.nodes()
        for _ in range(10):
            two.broker.unfollow("lobby")
            await two.broker.follow("lobby")
        await one.store.append(draft())
        await until(lambda: two.heard("announced"))

    async def follow_and_unfollow(self, node: Node, count: int, followed: Callable[[], None]) -> None:
        """Follow many rooms at once, lose the connection, and unfollow them once they are followed again."""
        rooms = [f"room{number}" for number in range(count)]
        await gatherResults([node.broker.follow(room) for room in rooms])
        followed()
        self.assertEqual(3 * count, len(self.channels()))
        self.server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: len(node.heard("may_have_missed")) == count, 30)
        self.assertEqual(3 * count, len(self.channels()))
        for room in rooms:
            node.broker.unfollow(room)
        await until(lambda: not self.channels(), 30)
        self.assertEqual(1, len(node.broker.subscriptions))

    async def test_ten_thousand_rooms(self) -> None:
        """Ten thousand rooms, asked for all at once, are followed, also over a new connection, and then unfollowed."""
        await self.follow_and_unfollow(await self.node(), 10_000 if SOAK else 2000, lambda: None)

    async def test_no_memory_left(self) -> None:
        """After two thousand rooms, followed over two connections, no memory is left of them."""
        node = await self.node()
        sizes: list[int] = []
        gc.collect()
        tracemalloc.start()  # makes everything five times slower: so there are fewer rooms
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        await self.follow_and_unfollow(node, 2000, lambda: sizes.append(tracemalloc.get_traced_memory()[0] - before))
        node.listener.told.clear()
        node.presence.calls.clear()
        await node.link.command("PING")  # is answered after all others
        gc.collect()
        left = tracemalloc.get_traced_memory()[0] - before
        self.assertLess(left, sizes[0] / 4, "tables that have been large are all that is left")

    async def test_left_while_away(self) -> None:
        """A room that is unfollowed while there is no connection isn't subscribed again."""
        one, node = await self.nodes()
        await node.broker.follow("news")
        self.server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: not node.link.ready)
        node.broker.unfollow("lobby")
        await until(lambda: node.link.ready and one.link.ready and one.link.counters.losses)
        self.assertEqual(1, self.publish(node.names.room("lobby"), b"p"))
        self.assertEqual(1, self.publish(node.names.room("news"), b"p"))

    async def test_left_while_coming_back(self) -> None:
        """Nor is one that is unfollowed while the subscriptions are being made again."""
        node = await self.node()
        rooms = [f"room{number}" for number in range(300)]
        await gatherResults([node.broker.follow(room) for room in rooms])
        renew = node.broker.subscriptions.renew
        begun: list[Any] = []

        async def renewing(connection: Any) -> None:
            reactor.callLater(0, lambda: [node.broker.unfollow(room) for room in rooms])
            begun.append(connection)
            await renew(connection)

        self.patch(node.broker.subscriptions, "renew", renewing)
        self.server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: begun and node.link.ready)
        self.assertEqual(([], 1), (self.channels(), len(node.broker.subscriptions)))

    async def test_stopped(self) -> None:
        """A node that stops tells the others first, and leaves no connection and no subscription."""
        node = Node(self.server.url)
        await node.start()
        await node.broker.follow("lobby")
        await node.stop()
        self.assertEqual(("stop",), node.presence.calls[-1])
        self.assertEqual([], self.server.command("PUBSUB", "CHANNELS"))


class FailureTests(NodesCase):
    """A Redis that fails."""

    def setUp(self) -> None:
        self.server = RedisServer(self.mktemp()).start()
        self.addCleanup(self.server.kill)

    async def hears_again(self, node: Node) -> None:
        """Stored messages reach a node again, and it has read the room's log and its members."""
        await until(lambda: ("lobby",) in node.heard("may_have_missed"))
        await until(lambda: node.presence.calls.count(("follow", "lobby")) >= 2)
        await until(lambda: node.link.ready and node.store.links[0].ready)
        before = len(node.heard("announced"))
        await node.store.append(draft())
        await until(lambda: len(node.heard("announced")) > before)

    async def test_connection_killed(self) -> None:
        """A connection that is killed is replaced, and its rooms are looked into."""
        node, _ = await self.nodes()
        self.server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: node.link.counters.losses == 1)
        await self.hears_again(node)

    async def test_flushed(self) -> None:
        """That the data was flushed is heard of at once, and every room looks."""
        node, _ = await self.nodes()
        node.store.links[0].abort("not by way of the store")
        await node.broker.follow("news")
        self.server.command("FLUSHALL")
        await until(lambda: {("lobby",), ("news",)} <= set(node.heard("may_have_missed")))
        self.assertEqual(0, node.link.counters.losses)

    async def test_flushes_not_allowed(self) -> None:
        """A user of Redis without permission for that receives everything else."""
        rights = ("on", "nopass", "~*", "&realtime:*", "+@all", "-client|tracking")
        self.server.command("ACL", "SETUSER", "some", *rights)
        node = Node(f"redis://some:none@127.0.0.1:{self.server.port}/0")
        await node.start()
        self.addCleanup(node.stop)
        await node.broker.follow("lobby")
        await node.store.append(draft())
        await until(lambda: node.heard("announced"))

    async def test_follow_while_away(self) -> None:
        """While there is no connection a room can't be followed, which is said at once."""
        node, _ = await self.nodes()
        self.server.kill()
        await until(lambda: not node.link.ready)
        self.failureResultOf(node.broker.follow("news"), StoreError)
        node.broker.signal("lobby", "0" * 16, b"{}")
        self.assertEqual(1, node.broker.counters.signals_dropped)
        self.server.start()
        await self.hears_again(node)
        await node.broker.follow("news")

    async def test_lost_while_following(self) -> None:
        """A connection that is lost while a room is asked for leaves it unfollowed."""
        node = await self.node()
        self.server.pause()
        answer = node.broker.follow("news")
        self.server.kill()
        await self.assertFailure(answer, StoreError)
        self.server.start()
        await until(lambda: node.link.counters.connects == 2)
        self.assertEqual(([], 1), (self.channels(), len(node.broker.subscriptions)))

    async def test_lost_while_following_many(self) -> None:
        """The same of thousands, most of which wait for their turn."""
        node = await self.node()
        self.server.pause()
        answers = [node.broker.follow(f"room{number}") for number in range(5000)]
        self.server.kill()
        for answer in answers:
            await self.assertFailure(answer, StoreError)
        self.server.start()
        await until(lambda: node.link.counters.connects == 2)
        await gatherResults([node.broker.follow(f"room{number}") for number in range(200)])
        self.assertEqual((600, 601), (len(self.channels()), len(node.broker.subscriptions)))
        self.assertEqual([], self.flushLoggedErrors())

    async def test_slow_subscriber(self) -> None:
        """A node that Redis has disconnected for being slow reconnects, and reads what it missed."""
        node, _ = await self.nodes()
        self.server.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 0 0")
        node.link._connection.transport.pauseProducing()
        for _ in range(40):
            self.publish(node.names.relay("lobby")[0], b"x" * 1_000_000)
        node.link._connection.transport.resumeProducing()
        await until(lambda: node.link.counters.losses == 1)
        await self.hears_again(node)

    async def test_hanging(self) -> None:
        """A server that hangs is found out within ten seconds; when it goes on, so does all else."""
        node, _ = await self.nodes(probe=1.0)
        self.server.pause()
        await until(lambda: not node.link.ready, 10)
        self.server.resume()
        await self.hears_again(node)

    async def test_deaf(self) -> None:
        """A connection that lives but brings nothing is found out within ten seconds, and replaced."""
        node, _ = await self.nodes()
        await node.link.command("UNSUBSCRIBE", node.names.node("aaaa0001"))
        await node.link.command("UNSUBSCRIBE", node.names.room("lobby"))
        await until(lambda: node.link.counters.losses == 1, 10)
        self.assertEqual(1, node.broker.counters.deaf)
        await self.hears_again(node)

    async def test_not_deaf(self) -> None:
        """A connection that receives stays open, also after a reconnect between a probe and its return."""
        node, _ = await self.nodes(probe=0.05)
        for losses in range(1, 6):
            probes = node.broker._probes
            await until(lambda probes=probes: node.broker._probes > probes + 1)
            self.server.command("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda losses=losses: node.link.counters.losses == losses)
            await until(lambda: node.link.ready)
        self.assertEqual((0, 5), (node.broker.counters.deaf, node.link.counters.losses))

    async def test_meets_again(self) -> None:
        """The members of the rooms are asked for again until they are known."""
        node, _ = await self.nodes()
        node.presence.failing = True
        self.server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: node.heard("may_have_missed"))
        node.presence.calls.clear()
        node.presence.failing = False
        await until(lambda: ("follow", "lobby") in node.presence.calls)
        self.assertEqual(1, node.presence.calls.count(("follow", "lobby")))

    async def test_lost_again(self) -> None:
        """A new connection ends what waits to be asked again over the last one, so that no timer is left."""
        node, _ = await self.nodes()
        node.presence.failing = True
        for losses in (1, 2):
            self.server.command("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda losses=losses: len(node.heard("may_have_missed")) >= losses)
        await node.broker.stop()  # trial fails a test that leaves a timer

    async def test_nobody_met(self) -> None:
        """A room whose members can't be found out is not followed."""
        node = await self.node()
        node.presence.failing = True
        await self.assertFailure(node.broker.follow("lobby"), StoreError)
        await until(lambda: not self.channels())

    async def test_restarted(self) -> None:
        """A server that is killed and started again is heard again."""
        node, _ = await self.nodes()
        self.server.restart()
        await self.hears_again(node)
