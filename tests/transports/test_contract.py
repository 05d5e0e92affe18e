"""The promises of every transport, alone and together with the others, over real sockets in one process."""

from __future__ import annotations

import os
import time
from typing import Any

import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from realtime_chat.broker.local import LocalBroker
from realtime_chat.composition import make_service
from realtime_chat.service import Configuration, RealtimeService
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.transports.fast.choice import FAST
from realtime_chat.transports.fast.direct_send import queued
from realtime_chat.values.limits import Limits
from tests.clients import Client, EventClient, PollClient, SocketClient
from tests.deadlines import DEADLINE, TEST_TIMEOUT, Stopwatch
from tests.soak import SOAK

KINDS: tuple[type[Client], ...] = (SocketClient, EventClient, PollClient)
"""A client of each transport."""


class ServedTestCase(TestCase):
    """Tests against a daemon in this process, on a free port, with its messages in memory.

    :cvar io: how its bytes get to sockets and come from them.
    :cvar repeats: whether another class has the same tests, with crowds and bursts in full.
    """

    io = FAST
    repeats = False

    timeout = TEST_TIMEOUT
    history = 1000
    limits: dict[str, Any] = {}

    def setUp(self) -> None:
        self.clients: list[Any] = []
        self.serve()
        self.addCleanup(self._stop)

    def serve(self) -> None:
        """Start a daemon with an empty store."""
        self.store = MemoryStore(Retention(self.history), lambda: self.wall(), os.urandom)
        self.service = self.make_service()
        self.service.startService()
        self.port = self.service.ports()[0]

    async def serve_anew(self) -> None:
        """Stop the daemon, and start another with an empty store."""
        await self.service.stopService()
        self.serve()

    def make_service(self) -> RealtimeService:
        return make_service(reactor, self.store, LocalBroker(), self.configuration(), time.time, os.urandom, io=self.io)

    def configuration(self) -> Configuration:
        return Configuration(("tcp:0:interface=127.0.0.1",), limits=Limits(history=self.history, **self.limits))

    def wall(self) -> float:
        """The store's clock."""
        return time.time()

    async def _stop(self) -> None:
        for client in self.clients:
            await client.stop()
        await self.service.stopService()

    def many(self, number: int) -> int:
        """So many; a fifth, in the short form, where another class does the same with so many."""
        return number // 5 if self.repeats and not SOAK else number

    def client(self, kind: type[Client], room: str = "lobby") -> Any:
        client = kind(reactor, self.port, room)
        self.clients.append(client)
        return client

    async def until(self, condition: Any) -> None:
        """Wait for a condition, with a deadline."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            self.assertLess(time.monotonic(), deadline, "not in time")
            await deferLater(reactor, 0.01, lambda: None)

    async def started(self, kind: type[Client], room: str = "lobby", **query: Any) -> Any:
        client = self.client(kind, room)
        await client.start(**query)
        return client


class TransportContract:
    """The tests that every transport passes; ``kind`` is its client."""

    kind: type[Client]
    limits: dict[str, Any] = {"poll_grace": 4.0}  # of the 10 seconds that members of polls are waited for

    async def test_joins_with_the_last_messages(self: Any) -> None:
        """A reader without a position starts with as many messages as it asks for."""
        writer = await self.started(SocketClient)
        for number in range(5):
            await writer.publish(number)
        reader = await self.started(self.kind, last=2)
        await reader.count(2)
        self.assertEqual([3, 4], reader.data)

    async def test_reads_in_order(self: Any) -> None:
        """Messages of others come once, in order, each with its position."""
        reader = await self.started(self.kind)
        writer = await self.started(SocketClient)
        await gatherResults([Deferred.fromCoroutine(writer.publish(number)) for number in range(300)])
        await reader.count(300)
        self.assertEqual(list(range(300)), reader.data)
        offsets = [int(message["position"].split(":")[1]) for message in reader.messages]
        self.assertEqual(list(range(1, 301)), offsets)

    async def test_own_messages(self: Any) -> None:
        """A writer sees its own messages like everybody's, and knows them by their key."""
        reader = await self.started(self.kind)
        reply = await reader.publish("mine", key="k1")
        await reader.count(1)
        (message,) = reader.messages
        self.assertEqual(("k1", reply["position"]), (message["key"], message["position"]))

    async def test_key_is_stored_once(self: Any) -> None:
        """Publishing again under the same key answers the same position and reaches nobody twice."""
        reader = await self.started(self.kind)
        first = await reader.publish({"a": 1}, key="k")
        again = await reader.publish({"a": 1}, key="k")
        other = await reader.publish({"a": 2}, key="k")
        await reader.publish("end")
        await reader.count(2)
        self.assertEqual((first["position"], "key_reused"), (again["position"], other["code"]))
        self.assertEqual([{"a": 1}, "end"], reader.data)

    async def test_resumes(self: Any) -> None:
        """With its position a reader goes on where it was, on a new connection."""
        reader = await self.started(self.kind)
        writer = await self.started(SocketClient)
        await writer.publish(0)
        await reader.count(1)
        await reader.stop()
        await gatherResults([Deferred.fromCoroutine(writer.publish(number)) for number in range(1, 250)])
        again = await self.started(self.kind, since=reader.position)
        await again.count(249)
        self.assertEqual(list(range(1, 250)), again.data)
        self.assertEqual([], again.of_type("reset"))

    async def test_gap_is_told(self: Any) -> None:
        """A position that the log no longer covers is told as such, and what is kept follows."""
        self.history = 50
        await self.serve_anew()
        reader = await self.started(self.kind, last=0)
        writer = await self.started(SocketClient)
        await writer.publish(0)
        await reader.count(1)
        await reader.stop()
        for number in range(100):
            await writer.publish(number)
        again = await self.started(self.kind, since=reader.position, last=3)
        await again.count(3)
        lost = [event for event in again.events if event["type"] == "reset" or event.get("recovered") is False]
        self.assertEqual((1, [97, 98, 99]), (len(lost), again.data))

    async def test_reader_of_another_log(self: Any) -> None:
        """A position of another epoch is told as lost."""
        writer = await self.started(SocketClient)
        await writer.publish(0)
        again = await self.started(self.kind, since="elsewhere:1")
        await again.count(1)
        lost = [event for event in again.events if event["type"] == "reset" or event.get("recovered") is False]
        self.assertEqual((1, [0]), (len(lost), again.data))

    async def test_stopping_is_told(self: Any) -> None:
        """When the daemon stops, a reader is told goodbye, and that it should come back."""
        reader = await self.started(self.kind)
        await self.until(lambda: self.service.hub.rooms["lobby"].live_count() == 1)
        await self.service.stopService()
        await reader.until(lambda: bool(reader.of_type("goodbye")))
        (goodbye,) = reader.of_type("goodbye")
        self.assertEqual((4000, 4000), (goodbye["close_code"], goodbye["code"]))
        self.assertEqual(("stopping", True), (goodbye["reason"], goodbye["reconnect"]))

    async def test_large_messages(self: Any) -> None:
        """Messages of sixty kilobytes come whole, also many at once."""
        reader = await self.started(self.kind)
        writer = await self.started(SocketClient)
        texts = [f"{number}" + "x" * 60_000 for number in range(40)]
        await gatherResults([Deferred.fromCoroutine(writer.publish(text)) for text in texts])
        await reader.count(40)
        self.assertEqual(texts, reader.data)

    # Who is there, and what is not stored

    async def test_members(self: Any) -> None:
        """Everybody sees a member come and go once, on any transport."""
        reader = await self.started(self.kind, name="Ann")
        await reader.sees("Ann")
        others = [await self.started(kind, name=kind.__name__) for kind in KINDS]
        names = ["Ann", *(kind.__name__ for kind in KINDS)]
        for one in (reader, *others):
            await one.sees(*names)
        self.assertEqual([], reader.view.left)
        for one in others:
            await one.stop()
        await reader.sees("Ann")
        self.assertEqual(len(KINDS), len(reader.view.left))

    async def test_return_is_unseen(self: Any) -> None:
        """A member that changes its transport, or comes back at once, isn't seen to leave."""
        watcher = await self.started(self.kind, name="Ann")
        going = await self.started(self.kind, name="Bob")
        await watcher.sees("Ann", "Bob")
        for kind in (*KINDS, self.kind) * 2:
            user = await going.who()
            await going.stop()
            client, going = going.client, self.client(kind)
            going.client = client
            await going.start(name="Bob")
            self.assertEqual(user["id"], (await going.who())["id"])
            await going.sees("Ann", "Bob")
        last = await self.started(SocketClient, name="Cid")
        user = await last.who()
        await watcher.sees("Ann", "Bob", "Cid")
        await last.stop()
        await watcher.sees("Ann", "Bob")  # whoever went before is gone by then
        self.assertEqual([user["id"]], watcher.view.left)

    async def test_state(self: Any) -> None:
        """Everybody sees the state that a client sets."""
        reader = await self.started(self.kind, name="Ann")
        others = [await self.started(kind) for kind in KINDS]
        user = await reader.who()
        await reader.tell(type="state", state={"page": 7})
        for one in (reader, *others):
            await one.until(lambda one=one: one.view.members.get(user["id"], {}).get("state") == {"page": 7})

    async def test_signals(self: Any) -> None:
        """A signal reaches everybody else in the room, once, and stands in no log."""
        sender = await self.started(self.kind, name="Ann")
        others = [await self.started(kind) for kind in KINDS]
        elsewhere = await self.started(self.kind, "elsewhere")
        for one in (sender, *others):
            await one.until(lambda one=one: one.view.count == 1 + len(KINDS))
        for number in range(5):
            await sender.tell(type="signal", room="lobby", event="typing", data=number)
        await sender.publish("end")
        for one in (sender, *others):
            await one.count(1)
        for one in others:
            await one.until(lambda one=one: len(one.of_type("signal")) == 5)
            signals = one.of_type("signal")
            self.assertEqual(list(range(5)), [signal["data"] for signal in signals])
            self.assertEqual({("typing", "Ann")}, {(signal["event"], signal["from"]["name"]) for signal in signals})
        self.assertEqual(([], []), (sender.of_type("signal"), elsewhere.of_type("signal")))
        self.assertEqual(1, (await self.store.read_before("lobby", None, 9)).top)

    async def test_private_room(self: Any) -> None:
        """A message in a user's private room reaches all of the user's connections, and no others."""
        first = self.client(self.kind)
        await first.start(name="Ann")
        user = await first.who()
        tabs = []
        for kind in (self.kind, *KINDS):
            tab = self.client(kind, "@" + user["id"])
            tab.client = first.client
            await tab.start(name="Ann")
            tabs.append(tab)
        writer = await self.started(self.kind)
        await writer.tell(type="publish", room="@" + user["id"], data="psst")
        for tab in tabs:
            await tab.count(1)
            self.assertEqual((["psst"], ["Ann"]), (tab.data, tab.view.names))
        refused = await writer.tell(type="members", room="@" + user["id"])
        self.assertEqual("forbidden", refused["code"])

    async def test_members_on_demand(self: Any) -> None:
        """A member can ask for the list of members."""
        reader = await self.started(self.kind, name="Ann")
        await reader.sees("Ann")
        reply = await reader.tell(type="members", room="lobby")
        self.assertEqual((1, ["Ann"]), (reply["count"], [member["name"] for member in reply["members"]]))


class SlowReaderContract:
    """The tests of transports whose connection stays open, with a reader that doesn't read.

    ``stall`` gives one that has joined the room and reads no more, with its ``events`` and its ``transport``.
    """

    stall: Any

    async def test_fifty_megabytes(self: Any) -> None:
        """While 50 MB pass through its room, under 1 MiB is buffered for one that never reads, and nobody waits for it;
        when it reads again it gets what it is owed in order, with one reset for each gap, and who is there."""
        self.history = self.many(1000)
        await self.serve_anew()
        count = self.history + 250
        stalled = await self.stall()
        (session,) = self.service.hub.sessions
        (subscription,) = session.subscriptions.values()
        reader = await self.started(SocketClient)
        writer = self.client(SocketClient)
        await writer.connect()
        most = 0
        cursors = set()
        for number in range(count):
            await writer.publish(f"{number:06}" + "x" * 40_000)
            most = max(most, queued(session.transport.transport))
            if number >= self.history:
                cursors.add(subscription.offset)
        await reader.count(count)
        self.assertLess(most, 1024 * 1024)
        self.assertEqual([], reader.of_type("reset"))
        await self.started(SocketClient, last=0)
        await reader.until(lambda: any(event["count"] == 3 for event in reader.of_type("presence")))
        stalled.transport.resumeProducing()
        last = f"{count - 1:06}"
        await stalled.until(lambda: any(event.get("data", "").startswith(last) for event in stalled.events[-2:]))
        await stalled.until(lambda: stalled.events[-1]["type"] == "presence")
        self.assertEqual(3, len(stalled.events[-1]["members"]))
        # The kernel probes a closed window 0.2 s later, and takes more. If messages are gone by then, that is one gap.
        self.check_ledger(stalled.events, count, most_resets=len(cursors))

    def check_ledger(self: Any, events: list[dict[str, Any]], count: int, most_resets: int) -> None:
        """Each message once, in order, or told as gone, and that but once for each gap."""
        expected = 1
        resets = 0
        for event in events:
            if event["type"] not in ("message", "reset"):
                continue
            offset = int(event["position"].split(":")[1])
            if event["type"] == "reset":
                resets += 1
                self.assertGreaterEqual(offset, expected)
            else:
                self.assertEqual((offset, f"{offset - 1:06}"), (expected, event["data"][:6]))
            expected = offset + 1
        self.assertEqual(count + 1, expected)
        self.assertIn(resets, range(1, most_resets + 1))


class SlowGoodbyeContract:
    """The tests with a reader that never reads again, and is dismissed early."""

    limits: dict[str, Any] = {"stalled_after": 1.5, "ping": 60}
    stall: Any

    async def test_closed_after_a_while(self: Any) -> None:
        """After so many seconds without one drained byte it is closed, and nothing of it is left."""
        await self.stall()
        writer = self.client(SocketClient)
        await writer.connect()
        for _ in range(300):
            await writer.publish("x" * 40_000)
        await self.until(lambda: len(self.service.hub.sessions) == 1)
        self.assertEqual(0, self.service.hub.rooms["lobby"].reader_count)


class WebSocketContractTests(TransportContract, ServedTestCase):
    """The contract on WebSocket."""

    kind = SocketClient


class PollContractTests(TransportContract, ServedTestCase):
    """The contract on long poll."""

    kind = PollClient


class EventsContractTests(TransportContract, ServedTestCase):
    """The contract on server-sent events, with commands by request."""

    kind = EventClient


class FullContract:
    """A node with as many rooms in memory as it may have."""

    limits: dict[str, Any] = {"max_rooms_total": 2, "poll_grace": 2.0}
    statuses = {"members": 200, "signal": 400}  # where the answers need no room

    async def ask(self: Any, path: str, **json: Any) -> tuple[int, Any, Any]:
        """Ask something by HTTP; give the status, Retry-After, and the answer."""
        url = f"http://127.0.0.1:{self.port}/{path}"
        asked = treq.post(url, json=json, persistent=False) if json else treq.get(url, persistent=False)
        response = await asked
        return response.code, response.headers.getRawHeaders("Retry-After"), await response.json()

    async def test_one_more(self: Any) -> None:
        """One room more is refused for the moment on every transport, those that are there go on, history is read all
        the same, and when a reader has gone another room has its place."""
        readers = [await self.started(kind) for kind in KINDS]
        other = await self.started(SocketClient, "other")
        refused = [await self.ask(path) for path in ("poll?room=c", "poll?room=lobby&room=c", "sse?room=c")]
        refused.append(await self.ask("commands", type="join", room="c"))
        client = self.client(SocketClient, "c")
        await client.connect({"room": "c"})
        await client.until(lambda: client.of_type("error"))
        for status, after, error in (*refused, (429, ["1"], client.of_type("error")[0])):
            self.assertEqual((429, "too_many", True), (status, error["code"], error["temporary"]))
            self.assertIsNotNone(after)
            self.assertIn("try again", error["message"])
        self.assertEqual(self.statuses["members"], (await self.ask("rooms/c/members"))[0])
        signal = await self.ask(f"commands?client={readers[-1].client}", type="signal", room="c", event="e", data=1)
        self.assertEqual(self.statuses["signal"], signal[0])
        history = await self.ask("rooms/c/messages")
        self.assertEqual((200, []), (history[0], history[2]["messages"]))
        await other.publish("on")
        for reader in readers:
            await reader.publish("on")
        for reader in readers:
            await reader.count(3)
        await other.stop()
        await self.until(lambda: "other" not in self.service.hub.presence.memberships)
        await self.started(PollClient, "c")

    async def test_nothing_stays(self: Any) -> None:
        """Rooms without messages that were read over any transport, or asked about, are gone soon after their last
        reader, with all that is known of who was there."""
        for _ in range(10):
            for kind in KINDS:
                reader = await self.started(kind)
                await reader.stop()
            self.assertEqual(200, (await self.ask("rooms/lobby/members"))[0])
        hub = self.service.hub
        await self.until(lambda: not hub.rooms)
        self.assertEqual(({}, {}, {}), (hub.presence.memberships, hub.presence._clients, hub.cache.loading))
        self.assertEqual([], list(await self.store.rooms("", 10)))


class FullTests(FullContract, ServedTestCase):
    """A node alone."""


class TogetherContract:
    """All transports share the same rooms."""

    async def test_another_transport_for_every_message(self: Any) -> None:
        """A reader that changes its transport between messages, and keeps its position, gets each message once."""
        writer = await self.started(SocketClient)
        position = (await writer.publish("first"))["position"]
        seen: list[Any] = []
        for number in range(30):
            reader = await self.started(KINDS[number % 3], since=position)
            await writer.publish(number)
            await reader.until(lambda reader=reader, number=number: reader.data[-1:] == [number])
            await reader.stop()
            await writer.publish(f"after {number}")
            self.assertEqual([], reader.of_type("reset"))
            seen += reader.data
            position = reader.position
        last = await self.started(EventClient, since=position)
        await last.until(lambda: last.data[-1:] == ["after 29"])
        expected = [text for number in range(30) for text in (number, f"after {number}")]
        self.assertEqual(expected, seen + last.data)

    async def test_two_rooms_three_transports(self: Any) -> None:
        """300 messages in each of two rooms from all transports at once: none in the wrong room, one order for all."""
        each = self.many(100)
        readers = [await self.started(kind, room) for room in "ab" for kind in KINDS]
        writers = [await self.started(kind, room, last=0) for room in "ab" for kind in KINDS]

        async def write(writer: Any, name: str) -> None:
            for number in range(each):
                await writer.publish(f"{writer.room}-{name}-{number}")

        await gatherResults([Deferred.fromCoroutine(write(writer, str(index))) for index, writer in enumerate(writers)])
        for reader in readers:
            await reader.count(3 * each)
        logs = [reader.data for reader in readers]
        for room, ours in (("a", logs[:3]), ("b", logs[3:])):
            self.assertEqual([ours[0]] * 3, ours)
            self.assertEqual({room}, {text[0] for text in ours[0]})
            self.assertEqual(3 * each, len(set(ours[0])))

    async def test_ten_thousand_at_once(self: Any) -> None:
        """A burst of 10,000 messages in one turn of a frozen wall clock gives identical logs on all transports."""
        burst = self.history = self.many(10_000)
        await self.serve_anew()
        readers = [await self.started(kind) for kind in KINDS]
        writer = self.client(SocketClient)
        await writer.connect()
        frozen = time.time()
        self.patch(self, "wall", lambda: frozen)
        for number in range(burst):
            writer.send(type="publish", room="lobby", data=number)
        for reader in readers:
            await reader.count(burst)
        for other in readers[1:]:
            self.assertEqual(readers[0].messages, other.messages)
        self.assertEqual(list(range(burst)), readers[0].data)
        self.assertEqual(1, len({message["at"] for message in readers[0].messages}))


class TogetherTests(TogetherContract, ServedTestCase):
    """All transports on one node, and crowds."""

    async def test_a_thousand_polls(self) -> None:
        """One publish answers a thousand waiting polls."""
        crowd = self.many(1000)
        first = await self.started(SocketClient)
        reply = await first.publish(0)
        pollers = [self.client(PollClient) for _ in range(crowd)]
        polls = [
            Deferred.fromCoroutine(poller.get("poll", room="lobby", since=reply["position"])) for poller in pollers
        ]
        room = self.service.hub.rooms["lobby"]
        await self.until(lambda: room.live_count() == crowd + 1)
        await first.publish("to all")
        answers = await gatherResults(polls)
        self.assertEqual(crowd, len(answers))
        self.assertEqual({"to all"}, {answer["events"][0]["data"] for answer in answers})
        self.assertEqual(crowd, len({answer["client"] for answer in answers}))
        self.assertEqual((1, 1), (room.live_count(), len(self.service.hub.sessions)))

    async def test_a_thousand_polls_cut_off(self) -> None:
        """A thousand polls whose clients go away leave no waiter, no session, no alarm and no logged error."""
        crowd = self.many(1000)
        first = await self.started(SocketClient)
        reply = await first.publish(0)
        room = self.service.hub.rooms["lobby"]
        alarms = len(self.service.hub.wheel)
        pollers = [self.client(PollClient) for _ in range(crowd)]
        polls = [
            Deferred.fromCoroutine(poller.get("poll", room="lobby", since=reply["position"])) for poller in pollers
        ]
        await self.until(lambda: room.live_count() == crowd + 1)
        for poll in polls:
            poll.addErrback(lambda failure: None)
            poll.cancel()
        await self.until(lambda: room.live_count() == 1)
        self.assertEqual(1, len(self.service.hub.sessions))
        await self.until(lambda: len(self.service.hub.wheel) <= alarms)
        await first.publish("nobody waits")
        self.assertEqual([], self.flushLoggedErrors())

    async def test_poll_in_several_rooms(self) -> None:
        """One poll reads several rooms, and answers what is there in all of them."""
        writers = {room: await self.started(SocketClient, room) for room in "abc"}
        positions = {room: (await writer.publish(f"{room}0"))["position"] for room, writer in writers.items()}
        for room in "ab":
            await writers[room].publish(f"{room}1")
        poller = self.client(PollClient)
        query = [("room", room) for room in "abc"] + [("since", positions[room]) for room in "abc"]
        answer = await poller.get("poll?" + "&".join(f"{name}={value}" for name, value in query))
        self.assertEqual(["a1", "b1"], [event["data"] for event in answer["events"]])
        self.assertEqual(["2", "2", "1"], [answer["positions"][room].split(":")[1] for room in "abc"])

    async def test_wait(self) -> None:
        """A poll for which nothing comes is answered without events when its time is up."""
        poller = self.client(PollClient)
        begun, watch = time.monotonic(), Stopwatch()
        first = await poller.get("poll", room="lobby")
        answer = await poller.get("poll", room="lobby", since=first["positions"]["lobby"], wait=1)
        self.assertEqual(([], first["positions"]), (answer["events"], answer["positions"]))
        self.assertGreater(time.monotonic() - begun, 0.4)
        self.assertLess(watch.seconds(), 5)
