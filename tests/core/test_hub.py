"""Tests for ``core.hub`` and ``core.catch_up``: what a hub does with what it is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.access import AccessPolicy
from realtime_chat.core.identity import NOBODY, Identity
from realtime_chat.core.log_view import EntryPage
from realtime_chat.core.performing_session import PerformingSession
from realtime_chat.core.room import Room
from realtime_chat.logs import ThrottledLog
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.values.access import READ, RoomRule, RoomRules
from realtime_chat.values.codec import Entry
from realtime_chat.values.model import ANONYMOUS, Draft, Message, Position, User
from tests.core.world import World
from tests.fakes import FakeTransport, HeldBroker, HeldStore, make_hub, make_session, tokens


class SharedWorld(SynchronousTestCase):
    """A node with others, of which it hears by a broker, over a store that answers when it is told to."""

    limits: dict[str, Any] = {}

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(Retention(100), self.clock.seconds, tokens())
        self.held = HeldStore(self.store)
        self.broker = HeldBroker()
        self.hub = make_hub(self.held, self.clock, self.broker, **self.limits)
        self.broker.start(self.hub.cache)

    def elsewhere(self, *texts: Any, room: str = "lobby") -> list[Message]:
        """Another node stores messages; give them."""
        drafts = [Draft(room, "message", json.dumps(text).encode(), ANONYMOUS) for text in texts]
        return [self.successResultOf(self.store.append(draft)).message for draft in drafts]

    def told(self, *messages: Message) -> None:
        """Other nodes' messages are announced."""
        for message in messages:
            place = message.position
            self.hub.cache.announced(message.room, place.epoch, place.offset, 1, lambda message=message: [message])
        self.clock.advance(0)

    def joined(self, room: str = "lobby", **fields: Any) -> FakeTransport:
        """Somebody reads a room, and is live."""
        transport = FakeTransport()
        make_session(self.hub, transport).receive(json.dumps({"type": "join", "room": room, **fields}).encode())
        self.settle()
        return transport

    def settle(self) -> None:
        """What is under way is done."""
        self.broker.subscribe()
        self.held.settle()
        self.clock.advance(0)

    def data(self, transport: FakeTransport) -> list[Any]:
        return [message["data"] for message in transport.of_type("message")]

    def room(self, name: str = "lobby") -> Room:
        return self.hub.rooms[name]


class ForgottenTests(SharedWorld):
    """Rooms that the store forgets while somebody reads them."""

    def forget_another(self, top: int) -> None:
        """Another room, with so many messages, is forgotten."""
        self.elsewhere(*range(top), room="another")
        self.store.forget("another")

    def seen(self, transport: FakeTransport) -> list[tuple[str, int]]:
        """The types and offsets of what a reader was told of the log after it had joined."""
        told = [event for event in transport.received if event["type"] in ("reset", "message")]
        return [(event["type"], int(event["position"].split(":")[1])) for event in told]

    def test_never_made(self) -> None:
        """Who reads a room that isn't there gets its first message, after a reset where that begins higher by now."""
        transport = self.joined()
        self.forget_another(5)
        self.told(*self.elsewhere("first", "second"))
        self.clock.advance(1)
        self.settle()
        self.assertEqual([("reset", 5), ("message", 6), ("message", 7)], self.seen(transport))
        self.assertTrue(self.room().live_count())

    def test_forgotten(self) -> None:
        """Who reads a room that was forgotten all the same goes on after the highest of those that were."""
        messages = self.elsewhere("a", "b")
        transport = self.joined(last=0)
        self.forget_another(5)
        self.store.forget("lobby")
        self.told(*self.elsewhere("c"))
        self.clock.advance(1)
        self.settle()
        self.assertEqual([("reset", 5), ("message", 6)], self.seen(transport))
        self.assertEqual((["c"], 2), (self.data(transport), messages[-1].position.offset))

    def test_highest(self) -> None:
        """Who reads the one that was the highest misses nothing, and no reset comes."""
        self.elsewhere("a", "b")
        transport = self.joined(last=0)
        self.store.forget("lobby")
        self.told(*self.elsewhere("c"))
        self.settle()
        self.assertEqual([("message", 3)], self.seen(transport))

    def test_resumed(self) -> None:
        """A position of a forgotten room can't be recovered, unless nothing was missed; either way all is shown."""
        self.elsewhere("a", "b", "c")
        epoch = self.elsewhere("x")[0].position.epoch
        self.store.forget("lobby")
        self.elsewhere("d", "e")
        for since, recovered, data in ((2, False, ["d", "e"]), (4, True, ["d", "e"]), (5, True, ["e"])):
            transport = self.joined(since=f"{epoch}:{since}")
            (joined,) = transport.of_type("joined")
            self.assertEqual((recovered, data), (joined["recovered"], self.data(transport)), since)

    def test_resumed_before_made_anew(self) -> None:
        """The same before the room is made anew: who resumes follows without a gap."""
        epoch = self.elsewhere("a", "b", "c")[0].position.epoch
        self.store.forget("lobby")
        early, late = self.joined(since=f"{epoch}:1"), self.joined(since=f"{epoch}:3")
        for transport, recovered in ((early, False), (late, True)):
            (joined,) = transport.of_type("joined")
            self.assertEqual((recovered, f"{epoch}:3"), (joined["recovered"], joined["position"]))
        self.told(*self.elsewhere("d"))
        self.settle()
        self.assertEqual([[("message", 4)]] * 2, [self.seen(early), self.seen(late)])

    def test_known(self) -> None:
        """The store knows which rooms are in memory, or are being looked up."""
        make_session(self.hub).receive(b'{"type": "join", "room": "lobby"}')
        self.assertEqual((True, False), ("lobby" in self.hub.cache, "other" in self.hub.cache))
        self.settle()
        self.assertEqual((True, False), ("lobby" in self.hub.cache, "other" in self.hub.cache))


class FollowTests(SharedWorld):
    """Rooms are heard of before they are looked at, and for as long as they are of interest."""

    limits = {"room_idle": 10.0}

    def test_before_reading(self) -> None:
        """What happens between the look at a room and its being followed can't be missed: it is followed first."""
        transport = FakeTransport()
        make_session(self.hub, transport).receive(b'{"type": "join", "room": "lobby"}')
        self.assertEqual(([], ["lobby"]), (self.held.looks, [room for room, _ in self.broker.asked]))
        self.broker.subscribe()
        self.assertEqual(1, len(self.held.looks))
        self.told(*self.elsewhere("meanwhile"))
        self.settle()
        self.assertEqual(["meanwhile"], self.data(transport))

    def test_away(self) -> None:
        """A room that can't be followed now can't be joined now, and can be later."""
        self.broker.lose()
        transport = self.joined()
        (error,) = transport.received
        self.assertEqual(("store_unavailable", True), (error["code"], error["temporary"]))
        self.assertEqual({}, self.hub.rooms)
        self.broker.come_back()
        self.assertEqual("joined", self.joined().received[0]["type"])

    def test_store_away(self) -> None:
        """A room that can be followed but not read is followed no more."""
        transport = FakeTransport()
        make_session(self.hub, transport).receive(b'{"type": "join", "room": "lobby"}')
        self.broker.subscribe()
        self.held.fail_read()
        self.assertEqual("store_unavailable", transport.received[0]["code"])
        self.assertEqual({}, self.broker.followed)

    def test_forgotten(self) -> None:
        """A room that nobody reads any more is followed no more when it is forgotten."""
        session = make_session(self.hub)
        session.receive(b'{"type": "join", "room": "lobby"}')
        self.settle()
        session.close()
        self.clock.pump([1] * 30)
        self.assertEqual(({}, {}), (self.hub.rooms, self.broker.followed))

    def test_doubted_while_loading(self) -> None:
        """What was lost while a room was being looked up is looked for afterwards."""
        transport = FakeTransport()
        make_session(self.hub, transport).receive(b'{"type": "join", "room": "lobby"}')
        self.broker.subscribe()
        self.held.look(0)
        self.elsewhere("lost")
        self.hub.cache.may_have_missed("lobby")
        self.settle()
        self.assertEqual(["lost"], self.data(transport))


class AnnouncedTests(SharedWorld):
    """What other nodes say of the log."""

    limits = {"gap_grace": 0.01}

    def test_delivered(self) -> None:
        """The next messages are brought without a look into the store."""
        transport = self.joined()
        reads = self.hub.counters.reads
        self.told(*self.elsewhere("a", "b"))
        self.assertEqual((["a", "b"], reads), (self.data(transport), self.hub.counters.reads))

    def test_known(self) -> None:
        """What is known already isn't even decoded."""
        self.joined()
        (message,) = self.elsewhere("a")
        self.told(message)

        def read() -> Sequence[Message]:
            raise AssertionError("decoded")

        self.hub.cache.announced("lobby", message.position.epoch, 1, 1, read)
        self.hub.cache.announced("unread", message.position.epoch, 1, 1, read)

    def test_overtaken(self) -> None:
        """A message that overtakes another waits for it; if it comes in a moment, the store isn't asked."""
        transport = self.joined()
        first, second = self.elsewhere("a", "b")
        reads = self.hub.counters.reads
        self.told(second)
        self.assertEqual([], self.data(transport))
        self.told(first, second)
        self.clock.advance(1)
        self.assertEqual((["a", "b"], reads), (self.data(transport), self.hub.counters.reads))

    def test_lost(self) -> None:
        """If it doesn't, the store is, also for what was lost before."""
        transport = self.joined()
        messages = self.elsewhere(*range(250))
        self.told(messages[-1])
        self.clock.advance(0.01)
        self.settle()
        self.assertEqual(list(range(250)[-100:]), self.data(transport))
        self.assertEqual(1, len(transport.of_type("reset")))

    def test_reader_is_ahead(self) -> None:
        """Who comes with a position that another node gave, and that wasn't announced here yet, waits and misses
        nothing; nobody else is disturbed."""
        transport = self.joined()
        messages = self.elsewhere("a", "b")
        later = self.joined(since=str(messages[0].position))
        self.assertEqual((True, ["b"]), (later.received[0]["recovered"], self.data(later)))
        self.assertEqual(["a", "b"], self.data(transport))
        self.assertEqual([], transport.of_type("reset") + later.of_type("reset"))

    def test_crowd_is_ahead(self) -> None:
        """However many come with such a position, the store is asked but twice."""
        self.joined()
        (message,) = self.elsewhere("a")
        reads = self.hub.counters.reads
        crowd = [FakeTransport() for _ in range(100)]
        for transport in crowd:
            command = {"type": "join", "room": "lobby", "since": str(message.position)}
            make_session(self.hub, transport).receive(json.dumps(command).encode())
        self.settle()
        self.assertLessEqual(self.hub.counters.reads - reads, 2)
        self.assertEqual({True}, {transport.received[0]["recovered"] for transport in crowd})

    def test_position_of_the_future(self) -> None:
        """A position that no node has given is told as lost, and costs no endless looking."""
        self.joined()
        self.elsewhere("a")
        epoch = self.room().epoch
        later = self.joined(since=f"{epoch}:99")
        self.assertFalse(later.received[0]["recovered"])
        self.assertEqual(["a"], self.data(later))
        self.assertEqual([], self.held.looks)


class DoubtTests(SharedWorld):
    """Rooms that look into their log."""

    limits = {"max_catch_ups": 3, "retry": 1.0}

    def test_nothing_missed(self) -> None:
        """A doubt without a reason costs one look and is told to nobody."""
        transport = self.joined()
        before, reads = list(transport.received), self.hub.counters.reads
        self.hub.cache.may_have_missed("lobby")
        self.settle()
        self.assertEqual((before, reads + 1), (transport.received, self.hub.counters.reads))

    def test_missed(self) -> None:
        """What was announced to nobody is found."""
        transport = self.joined()
        self.elsewhere("a", "b")
        self.hub.cache.may_have_missed("lobby")
        self.settle()
        self.assertEqual(["a", "b"], self.data(transport))

    def test_looks_anew(self) -> None:
        """A look that began before the doubt says nothing about it: there is another."""
        transport = self.joined()
        self.hub.cache.may_have_missed("lobby")
        self.held.look(0)
        self.elsewhere("a")
        self.hub.cache.may_have_missed("lobby")
        self.settle()
        self.assertEqual(["a"], self.data(transport))

    def test_shared_read_began_earlier(self) -> None:
        """Nor does a page that is being read for somebody else."""
        transport = self.joined()
        self.room().read_after(0)
        self.held.look(0)
        self.elsewhere("a")
        self.hub.cache.may_have_missed("lobby")
        self.settle()
        self.assertEqual(["a"], self.data(transport))

    def test_bounded(self) -> None:
        """Of many rooms only a few look at a time; in the end all have."""
        rooms = [f"room{number}" for number in range(20)]
        transports = [self.joined(room) for room in rooms]
        for room in rooms:
            self.elsewhere("a", room=room)
        self.hub.cache.all_may_have_missed()
        most = 0
        while self.held.looks or self.held.found:
            most = max(most, len(self.held.looks) + len(self.held.found))
            self.held.look(0)
            self.held.answer(0)
        self.clock.advance(0)
        self.assertEqual(3, most)
        self.assertEqual([["a"]] * 20, [self.data(transport) for transport in transports])

    def test_many_at_once(self) -> None:
        """A store that answers at once lets as many rooms look as there are."""
        self.hub = make_hub(self.store, self.clock, self.broker, **self.limits)
        self.broker.start(self.hub.cache)
        transports = [self.joined(f"room{number}") for number in range(2000)]
        for number in range(2000):
            self.elsewhere("a", room=f"room{number}")
        self.hub.cache.all_may_have_missed()
        self.clock.advance(0)
        self.assertEqual([["a"]] * 2000, [self.data(transport) for transport in transports])

    def test_store_away(self) -> None:
        """While the store fails there is one try after a while, not one after the other; when it works again, all
        rooms look."""
        rooms = [f"room{number}" for number in range(9)]
        transports = [self.joined(room) for room in rooms]
        for room in rooms:
            self.elsewhere("a", room=room)
        self.hub.cache.all_may_have_missed()
        for _ in range(3):
            self.held.fail_read()
        self.hub.cache.all_may_have_missed()
        self.assertEqual([], self.held.looks)
        self.clock.pump([0.25] * 6)
        self.assertEqual(3, len(self.held.looks))
        self.settle()
        self.assertEqual([["a"]] * 9, [self.data(transport) for transport in transports])
        self.assertEqual([], self.flushLoggedErrors())

    def test_stopped(self) -> None:
        """A hub that has stopped lets nobody look, and leaves no timer."""
        self.joined()
        self.told(self.elsewhere("a", "b")[1])
        self.hub.cache.may_have_missed("lobby")
        self.hub.stop()
        self.settle()
        self.hub.wheel.stop()
        self.clock.advance(10)
        self.assertEqual(([], []), (self.held.looks, self.clock.getDelayedCalls()))

    def test_new_log(self) -> None:
        """In a new log, every reader is told so, though nobody has written there."""
        transport = self.joined()
        self.store._epoch, self.store._logs = "new", {}
        self.hub.cache.all_may_have_missed()
        self.settle()
        self.assertEqual([{"type": "reset", "room": "lobby", "position": "new:0"}], transport.of_type("reset"))
        self.told(*self.elsewhere("a"))
        self.assertEqual((["a"], "new:1"), (self.data(transport), transport.of_type("message")[0]["position"]))

    def test_new_log_announced(self) -> None:
        """A message of a new log lets a room look, however low its offset is."""
        transport = self.joined()
        self.told(*self.elsewhere(*range(5)))
        self.store._epoch, self.store._logs = "new", {}
        self.told(*self.elsewhere("a"))
        self.clock.pump([0.25] * 6)
        self.settle()
        self.assertEqual(["new:0"], [reset["position"] for reset in transport.of_type("reset")])
        self.assertEqual([*range(5), "a"], self.data(transport))

    def test_new_log_heard_of_elsewhere(self) -> None:
        """Who comes with a position of a new log, of which this node hasn't heard yet, goes on in it: it isn't led back
        into the old one."""
        self.elsewhere(*range(20))
        transport = self.joined(last=0)
        self.store._epoch, self.store._logs = "new", {}
        (message,) = self.elsewhere("a")
        later = self.joined(since="new:0")
        self.assertEqual((True, ["a"]), (later.received[0]["recovered"], self.data(later)))
        self.assertEqual(str(message.position), later.of_type("message")[0]["position"])
        self.assertEqual(["new:0"], [reset["position"] for reset in transport.of_type("reset")])

    def test_failure(self) -> None:
        """A mistake of ours is logged, and the room looks again later."""
        self.joined()
        self.patch(self.store, "read_after", lambda *args: [][0])
        self.hub.cache.may_have_missed("lobby")
        self.held.looks.pop()[1].errback(ValueError("a mistake"))
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.clock.pump([0.25] * 6)
        self.assertEqual(1, len(self.held.looks))


class TailTests(SharedWorld):
    """A node that holds less of a log than the store does."""

    limits = {"history": 20}

    def test_more_than_the_tail(self) -> None:
        """Who asks for more than a node holds gets all that it holds, and no read of the store is made for that."""
        self.joined()
        self.told(*self.elsewhere(*range(30)))
        transport = FakeTransport()
        make_session(self.hub, transport).receive(b'{"type": "join", "room": "lobby", "last": 25}')
        self.assertEqual([], self.held.looks)
        self.clock.advance(0)
        self.assertEqual([*range(10, 30)], self.data(transport))


class Encoder:
    """Encodes for the readers of one transport.

    :ivar encoded: how often it did.
    """

    encoded = 0

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> Any:
        self.encoded += 1
        return epoch, [entry.offset for entry in entries]


class BatchTests(World):
    """Pages that are sent to readers who are behind."""

    def test_encoded_once(self) -> None:
        """The same page is encoded once for all readers of a transport, and one of another log or place by itself."""
        self.joined()
        room, encoder = self.hub.rooms["lobby"], Encoder()
        fanout: Any = encoder
        entries = [Entry(Message("lobby", Position("e", offset), "message", b"1", "u", "U", 1)) for offset in (1, 2, 3)]
        for epoch, start, end, times in (
            ("e", 0, 2, 1),
            ("e", 0, 2, 1),
            ("f", 0, 2, 2),
            ("e", 0, 2, 3),
            ("e", 0, 3, 4),
        ):
            batch = room.batch(fanout, EntryPage(epoch, start, entries[start:end]))
            self.assertEqual(((epoch, [*range(start + 1, end + 1)]), times), (batch, encoder.encoded))


class ListTests(World):
    """The list of rooms."""

    def test_private(self) -> None:
        """A user is told of the public rooms and of the own private one, in order, and of no other's."""
        for room in ("b", "@u7", "@u6", "@u8", "a"):
            self.publish("x", room=room)
        ann = Identity("c", "0" * 16, User("u7", "Ann", False), expires=1)
        listing = Deferred.fromCoroutine(self.hub.list_rooms(ann, "", 10))
        self.assertEqual([("@u7", 0), ("a", 0), ("b", 0)], self.successResultOf(listing))

    def test_hidden(self) -> None:
        """Rooms that the asker may not read cost no reads, whatever the limit is; nobody's list is read on for."""
        rules = (RoomRule("help-*", READ), RoomRule("hidden-*", 0), RoomRule("*", READ))
        names = [*(f"hidden-{number:03}" for number in range(300)), "a", "help-1", "help-2", "z"]
        for room in names:
            self.publish("x", room=room)
        self.hub.access = AccessPolicy(RoomRules(rules))
        asked: list[int] = []
        rooms = self.hub._store.rooms
        self.patch(self.hub._store, "rooms", lambda after, limit: asked.append(limit) or rooms(after, limit))
        found, after = [], ""
        while page := self.successResultOf(Deferred.fromCoroutine(self.hub.list_rooms(NOBODY, after, 1))):
            found += [room for room, _ in page]
            after = found[-1]
        self.assertEqual(["a", "help-1", "help-2", "z"], found)
        self.assertLessEqual(len(asked), 8)
        self.assertLessEqual(sum(asked), 16)
        asked.clear()
        gone = Deferred.fromCoroutine(self.hub.list_rooms(NOBODY, "", 1, lambda: True))
        self.assertEqual(([], []), (self.successResultOf(gone), asked))


class RelayTests(SharedWorld):
    """What somebody sends who is no client."""

    limits = {"max_message": 2000}

    def signals(self, transport: FakeTransport) -> list[Any]:
        return [signal["data"] for signal in transport.of_type("signal")]

    def test_signal(self) -> None:
        """Any JSON value is signalled to all who are live there, by nobody."""
        transport, other = self.joined(), self.joined("elsewhere")
        values = [{"title": "…"}, [1, 2], "text", 7, True, None, -0.5]
        for value in values:
            self.hub.cache.relayed("lobby", json.dumps(value, indent=1).encode())
        self.assertEqual((values, []), (self.signals(transport), self.signals(other)))
        signal = transport.of_type("signal")[0]
        expected = {"type": "signal", "room": "lobby", "event": "relay", "data": {"title": "…"}, "from": None}
        self.assertEqual(expected | {"at": self.hub.time_ms()}, signal)
        self.assertEqual(len(values), self.hub.counters.relayed)

    def test_one_line(self) -> None:
        """However it was laid out, it goes on in one line, as event streams need it."""
        self.joined()
        sent: list[bytes] = []
        self.patch(FakeTransport, "send_batch", lambda _, batch: sent.append(batch.entries[0].json) or 1)
        self.hub.cache.relayed("lobby", b'{\r\n "a": [\n1]\n}\n')
        self.assertIn(b'"data":{"a":[1]}', sent[0])
        self.assertNotIn(b"\n", sent[0])

    def test_malformed(self) -> None:
        """What is no JSON, too large or too deep is counted, said in the log once in a while, and told to nobody."""
        transport = self.joined()
        wrong = [
            b"",
            b"{",
            b"nan",
            b"\xff",
            b'"\xed\xa0\x80"',
            b"[" * 40 + b"]" * 40,
            b'"' + b"x" * 2000 + b'"',
            b"1 2",
        ]
        said: list[str] = []
        throttled = ThrottledLog(
            lambda event: said.append(formatEvent(event)), self.clock.seconds, self.clock.callLater
        )
        with capturedLogs() as events:
            for payload in wrong:
                self.hub.cache.relayed("lobby", payload)
        for event in events:
            throttled(event)
        self.assertEqual(([], len(wrong)), (self.signals(transport), self.hub.counters.relays_refused))
        self.assertEqual(4, len(said))
        self.clock.advance(60)
        self.assertIn(f"{len(wrong) - 4} more like this", said[-1])

    def test_nobody_there(self) -> None:
        """For a room that nobody reads here it is nothing."""
        self.hub.cache.relayed("lobby", b"1")
        self.assertEqual((0, 0), (self.hub.counters.relayed, self.hub.counters.relays_refused))


class SignalTests(SharedWorld):
    """Signals of clients, from node to node."""

    def arrive(self, client: str) -> tuple[PerformingSession, FakeTransport]:
        transport = FakeTransport()
        session = make_session(self.hub, transport, client, "Ann")
        session.receive(b'{"type": "join", "room": "lobby"}')
        self.settle()
        return session, transport

    def test_sent(self) -> None:
        """A signal is told to the other nodes with its sender's client hash."""
        client = self.hub.identities.issue()
        session, _ = self.arrive(client)
        session.receive(b'{"type": "signal", "room": "lobby", "event": "typing", "data": true}')
        ((room, client_hash, data),) = self.broker.signals
        self.assertEqual(("lobby", self.hub.identities.check(client).client_hash), (room, client_hash))
        self.assertEqual(("signal", True, "Ann"), (*map(json.loads(data).get, ("type", "data")), "Ann"))

    def test_heard(self) -> None:
        """One from another node reaches everybody here but the client that sent it there."""
        client = self.hub.identities.issue()
        _, own = self.arrive(client)
        _, other = self.arrive(self.hub.identities.issue())
        signal = {"type": "signal", "room": "lobby", "event": "e", "data": 1, "from": {"id": "u", "name": "n"}, "at": 1}
        self.hub.cache.signalled("lobby", self.hub.identities.check(client).client_hash, json.dumps(signal).encode())
        self.hub.cache.signalled("unread", "0" * 16, json.dumps(signal).encode())
        self.assertEqual(([], [signal]), (own.of_type("signal"), other.of_type("signal")))

    def test_refused(self) -> None:
        """A signal that is refused goes nowhere."""
        transport = FakeTransport()
        session = make_session(self.hub, transport, self.hub.identities.issue(), "Ann")
        session.receive(b'{"type": "signal", "room": "lobby", "event": "typing", "data": true}')
        self.settle()
        self.clock.pump([0.25] * 40)
        self.assertEqual([], self.broker.signals)
        self.assertEqual(["not_joined"], [reply["code"] for reply in transport.received])


class RememberedHistoryTests(SharedWorld):
    """What can be read of a room's history while the store can't be."""

    limits = {"tail_bytes": 2000, "default_last": 5}

    def setUp(self) -> None:
        super().setUp()
        self.reader = self.joined()
        self.messages = self.elsewhere(*range(1, 41))
        self.told(*self.messages)
        self.settle()

    def history(self, **fields: Any) -> dict[str, Any]:
        """The reply to ``history`` when every read fails."""
        transport = FakeTransport()
        command = {"type": "history", "room": "lobby", **fields}
        make_session(self.hub, transport).receive(json.dumps(command).encode())
        while self.held.looks:
            self.held.fail_read()
        self.clock.advance(0)
        return transport.received[-1]

    def place(self, offset: int) -> str:
        return str(self.messages[offset - 1].position)

    def test_last(self) -> None:
        """The last messages are given as they are, from memory."""
        reply = self.history(limit=2)
        self.assertEqual(self.reader.of_type("message")[-2:], reply["messages"])
        self.assertEqual((self.place(40), self.place(40)), (reply["position"], reply["top"]))

    def test_since(self) -> None:
        """What follows a position is given as far as memory reaches, and is whole."""
        reply = self.history(since=self.place(38))
        self.assertEqual(([39, 40], True), ([message["data"] for message in reply["messages"]], reply["recovered"]))
        self.assertEqual([], self.history(since=self.place(40))["messages"])

    def test_before(self) -> None:
        """Paging back gives what memory has of it."""
        reply = self.history(before=self.place(39), limit=1)
        self.assertEqual([38], [message["data"] for message in reply["messages"]])

    def test_forgotten(self) -> None:
        """What memory doesn't have, of this or another log, is an error, and no empty page."""
        for fields in ({"since": self.place(2)}, {"before": self.place(3)}, {"since": "other:39"}, {"room": "never"}):
            self.assertEqual("store_unavailable", self.history(**fields).get("code"), fields)
