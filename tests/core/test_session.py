"""Tests for ``core.session``, ``core.room`` and ``core.hub`` together."""

import gc
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.session import Session
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.transports.poll import PollResource
from realtime_chat.values.errors import GOODBYES, InDoubt, RealtimeError, StoreError
from realtime_chat.values.model import ANONYMOUS, Draft
from tests.fakes import (
    FakeFanout,
    FakeRequest,
    FakeTransport,
    HeldStore,
    left_to_collect,
    make_hub,
    make_session,
    tokens,
)


class World(SynchronousTestCase):
    """A hub over a store in memory, and clients without sockets."""

    history = 20
    limits: dict[str, Any] = {}

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(Retention(self.history), self.clock.seconds, tokens())
        self.held = HeldStore(self.store)
        self.hub = make_hub(self.store, self.clock, **{"history": self.history, **self.limits})

    def slow_hub(self) -> None:
        """From now on the store answers when it is told to."""
        self.hub = make_hub(self.held, self.clock, **{"history": self.history, **self.limits})

    def client(self, window: int | None = None, **transport: Any) -> tuple[Session, FakeTransport]:
        fake = FakeTransport(window, **transport)
        return make_session(self.hub, fake), fake

    def tell(self, session: Session, type: str, **fields: Any) -> None:
        session.receive(json.dumps({"type": type, **fields}).encode())

    def joined(self, room: str = "lobby", **fields: Any) -> tuple[Session, FakeTransport]:
        session, transport = self.client()
        self.tell(session, "join", room=room, **fields)
        return session, transport

    def publish(self, *texts: Any, room: str = "lobby") -> None:
        for text in texts:
            self.hub.publish(Draft(room, "message", json.dumps(text).encode(), ANONYMOUS))

    def turn(self) -> None:
        self.clock.advance(0)

    def data(self, transport: FakeTransport) -> list[Any]:
        return [message["data"] for message in transport.of_type("message")]


class HelloTests(World):
    """Saying who one is."""

    def test_welcome(self) -> None:
        """A hello makes a guest with the name that it gives."""
        session, transport = self.client()
        self.tell(session, "hello", id=1, name="Bob")
        (welcome,) = transport.received
        self.assertEqual(("welcome", 1, 1, 25), tuple(welcome[field] for field in ("type", "id", "v", "ping")))
        self.assertEqual(("Bob", True), (welcome["user"]["name"], welcome["user"]["guest"]))
        self.assertEqual(self.hub.limits.max_rooms, welcome["rooms"])

    def test_same_client_again(self) -> None:
        """With the client of before, one is the same user on another connection."""
        first, one = self.client()
        self.tell(first, "hello")
        second, two = self.client()
        self.tell(second, "hello", client=one.received[0]["client"])
        self.assertEqual(one.received[0]["user"], two.received[0]["user"])

    def test_made_up_client(self) -> None:
        """A client that was never issued is replaced by a new one."""
        session, transport = self.client()
        self.tell(session, "hello", client="A" * 32)
        self.assertNotEqual("A" * 32, transport.received[0]["client"])

    def test_once(self) -> None:
        """Who one is can't be changed later, only said again."""
        session, transport = self.client()
        self.tell(session, "hello", name="Bob")
        self.tell(session, "hello", name="Bob")
        self.tell(session, "hello", name="Eve")
        self.assertEqual(["welcome", "welcome", "error"], [event["type"] for event in transport.received])
        self.assertEqual("forbidden", transport.received[2]["code"])

    def test_other_version(self) -> None:
        """Another version of the protocol is refused."""
        session, transport = self.client()
        self.tell(session, "hello", v=2)
        self.assertEqual("bad_request", transport.received[0]["code"])

    def test_guest_without_hello(self) -> None:
        """Who publishes without a hello is a guest from then on."""
        _reader, seen = self.joined()
        session, _ = self.client()
        self.tell(session, "publish", room="lobby", data=1)
        self.tell(session, "publish", room="lobby", data=2)
        self.turn()
        ids = {message["from"]["id"] for message in seen.of_type("message")}
        self.assertEqual(1, len(ids))
        self.assertNotIn("anonymous", ids)


class JoinTests(World):
    """Where a reader starts."""

    def test_empty_room(self) -> None:
        """A room that nobody has written to can be joined; nothing is stored for that."""
        _, transport = self.joined(id=7)
        (joined,) = transport.received
        self.assertEqual(("joined", 7, True), (joined["type"], joined["id"], joined["recovered"]))
        self.assertEqual((joined["position"], joined["top"]), (joined["top"], joined["position"]))
        self.assertEqual([], list(self.successResultOf(self.store.rooms("", 1000))))

    def test_last(self) -> None:
        """Without a position one starts so many messages before the top."""
        self.publish(*range(10))
        for last, expected in ((0, []), (3, [7, 8, 9]), (10, list(range(10))), (500, list(range(10)))):
            _, transport = self.joined(last=last)
            self.assertEqual(expected, self.data(transport), last)

    def test_resume(self) -> None:
        """With a position one goes on from there, and is told so."""
        _, first = self.joined()
        self.publish(*range(10))
        self.turn()
        since = first.of_type("message")[3]["position"]
        _, transport = self.joined(since=since)
        self.assertEqual((True, since), (transport.received[0]["recovered"], transport.received[0]["position"]))
        self.assertEqual(list(range(4, 10)), self.data(transport))

    def test_position_that_is_gone(self) -> None:
        """With a position that the log no longer covers one starts at the last messages, and is told so."""
        _, first = self.joined()
        self.publish(0)
        self.turn()
        since = first.of_type("message")[0]["position"]
        self.publish(*range(1, 40))
        _, transport = self.joined(since=since, last=2)
        self.assertFalse(transport.received[0]["recovered"])
        self.assertEqual([38, 39], self.data(transport))

    def test_foreign_positions(self) -> None:
        """A position of another epoch, or from the future, isn't recovered."""
        self.publish(*range(5))
        epoch = self.successResultOf(self.store.read_before("lobby", None, 1)).epoch
        for since in ("other:3", f"{epoch}:6", f"{epoch}:9999999999999999", "other:0"):
            _, transport = self.joined(since=since, last=1)
            self.assertFalse(transport.received[0]["recovered"], since)
            self.assertEqual([4], self.data(transport), since)

    def test_top_is_covered(self) -> None:
        """At the top nothing is missing, also when all messages are gone."""
        _, first = self.joined()
        self.publish(0)
        self.turn()
        _, transport = self.joined(since=first.of_type("message")[0]["position"])
        self.assertTrue(transport.received[0]["recovered"])

    def test_twice(self) -> None:
        """A room is joined once on a connection."""
        session, transport = self.joined()
        self.tell(session, "join", room="lobby")
        self.assertEqual("already_joined", transport.received[-1]["code"])

    def test_wrong_positions_and_rooms(self) -> None:
        """What is no position and no room's name is refused with its code."""
        session, transport = self.client()
        self.tell(session, "join", room="lobby", since="nonsense", id=1)
        self.tell(session, "join", room="no spaces", id=2)
        self.assertEqual([(1, "bad_position"), (2, "bad_room")], [(e["id"], e["code"]) for e in transport.received])

    def test_too_many_rooms(self) -> None:
        """One connection reads so many rooms and no more."""
        session, transport = self.client()
        for number in range(self.hub.limits.max_rooms + 1):
            self.tell(session, "join", room=f"r{number}")
        self.assertEqual("too_many", transport.received[-1]["code"])
        self.assertEqual(self.hub.limits.max_rooms, len(transport.of_type("joined")))

    def test_private_room(self) -> None:
        """A room @ID is read by the user with that id, and by nobody else."""
        session, transport = self.client()
        self.tell(session, "hello")
        own = "@" + transport.received[0]["user"]["id"]
        for reader, expected in ((session, "joined"), (self.client()[0], "error")):
            self.tell(reader, "join", room=own)
            self.assertEqual(expected, reader.transport.received[-1]["type"])
            self.tell(reader, "history", room=own)
            self.assertEqual("history" if expected == "joined" else "error", reader.transport.received[-1]["type"])

    def test_publish_to_private_room(self) -> None:
        """Everybody may write to a user's private room."""
        session, transport = self.client()
        self.tell(session, "hello")
        own = "@" + transport.received[0]["user"]["id"]
        self.tell(session, "join", room=own)
        self.tell(self.client()[0], "publish", room=own, data="psst")
        self.turn()
        self.assertEqual(["psst"], self.data(transport))


class OrderTests(World):
    """Commands take effect in the order in which they came."""

    def test_commands_wait_for_a_join(self) -> None:
        """While a join waits for the store, what follows it waits, too, and the session says that it is busy."""
        self.slow_hub()
        session, transport = self.client()
        self.tell(session, "join", room="lobby", id=1)
        self.tell(session, "leave", room="lobby", id=2)
        self.tell(session, "ping", id=3)
        self.assertEqual(([], True), (transport.received, session.busy))
        self.held.settle()
        self.assertEqual([1, 2, 3], [event["id"] for event in transport.received])
        self.assertEqual(["joined", "left", "pong"], [event["type"] for event in transport.received])
        self.assertEqual((False, 1), (session.busy, transport.commands_resumed))

    def test_publishes_dont_wait_for_each_other(self) -> None:
        """Publishes are handed to the store without waiting for the one before."""
        self.slow_hub()
        session, _ = self.client()
        for number in range(10):
            self.tell(session, "publish", room="lobby", data=number)
        self.assertEqual(10, len(self.held.appends))

    def test_too_many_publishes(self) -> None:
        """With many publishes under way the session is busy until some are done."""
        self.slow_hub()
        session, transport = self.client()
        for number in range(self.hub.limits.max_publishes):
            self.assertFalse(session.busy)
            self.tell(session, "publish", room="lobby", data=number)
        self.assertTrue(session.busy)
        self.held.commit()
        self.held.acknowledge()
        self.assertEqual((False, 1), (session.busy, transport.commands_resumed))

    def test_joined_comes_first(self) -> None:
        """Nothing of a room comes before its joined."""
        self.publish(*range(5))
        _, transport = self.joined(last=5)
        self.assertEqual(["joined"] + ["message"] * 5, [event["type"] for event in transport.received])

    def test_nothing_after_left(self) -> None:
        """Nothing of a room comes after its left, not even what was stored in the same turn."""
        session, transport = self.joined()
        self.publish("late")
        self.tell(session, "leave", room="lobby")
        self.turn()
        self.assertEqual(["joined", "left"], [event["type"] for event in transport.received])

    def test_leave_while_behind(self) -> None:
        """Leaving while a page is being read stops the pump; the page is not sent."""
        self.slow_hub()
        self.publish(*range(5))
        self.held.settle()
        session, transport = self.client(window=1)
        self.tell(session, "join", room="lobby")
        self.held.settle()
        self.hub.rooms["lobby"].tail.clear()
        transport.window, transport.write_paused = None, False
        session.resume_writing()
        self.tell(session, "leave", room="lobby")
        self.held.settle()
        self.assertEqual(
            ([0], ["joined", "message", "left"]), (self.data(transport), [e["type"] for e in transport.received])
        )

    def test_commands_wait_for_a_full_transport(self) -> None:
        """While the transport is full nothing is answered; when it has drained, commands come before messages."""
        session, transport = self.client(window=0)
        self.tell(session, "join", room="lobby")
        self.publish(1)
        self.turn()
        self.tell(session, "leave", room="lobby")
        self.assertEqual(([], True), (transport.of_type("left"), session.busy))
        transport.window, transport.write_paused = None, False
        session.resume_writing()
        self.assertEqual((["joined", "left"], False), ([e["type"] for e in transport.received], session.busy))

    def test_leave_not_joined(self) -> None:
        """A room that isn't read can't be left."""
        session, transport = self.client()
        self.tell(session, "leave", room="lobby")
        self.assertEqual("not_joined", transport.received[0]["code"])


class PublishTests(World):
    """Messages, once stored, reach everyone."""

    def test_everyone_once_in_order(self) -> None:
        """Every reader of the room gets each message once, in the same order, and nobody else does."""
        readers = [self.joined()[1] for _ in range(5)]
        _, elsewhere = self.joined("other")
        self.publish(*range(7))
        self.turn()
        self.publish(*range(7, 9))
        self.turn()
        self.assertEqual([list(range(9))] * 5, [self.data(reader) for reader in readers])
        self.assertEqual([], self.data(elsewhere))

    def test_frozen_clock(self) -> None:
        """Ten thousand messages without the clock moving are in order: order never comes from time."""
        _, reader = self.joined()
        self.publish(*range(10_000))
        self.turn()
        self.assertEqual(list(range(10_000)), self.data(reader))
        self.assertEqual({0.0}, {self.clock.seconds()})

    def test_encoded_once(self) -> None:
        """However many read it, a message is encoded once for each kind of transport."""
        fanout = FakeFanout()
        for _ in range(20):
            session, _ = self.client(fanout=fanout)
            self.tell(session, "join", room="lobby")
        self.publish(*range(7))
        self.turn()
        self.assertEqual(7, fanout.encoded)

    def test_published_after_stored(self) -> None:
        """The acknowledgement comes when the message is stored, and says where."""
        self.slow_hub()
        session, transport = self.client()
        self.tell(session, "publish", room="lobby", data=1, id="p")
        self.held.commit()
        self.assertEqual([], transport.received)
        self.held.acknowledge()
        self.turn()
        (reply,) = transport.received
        self.assertEqual(("published", "p", "lobby"), (reply["type"], reply["id"], reply["room"]))
        self.assertTrue(reply["position"].endswith(":1"))

    def test_published_with_its_message(self) -> None:
        """Who reads the room that it writes to gets the acknowledgement right before the message, in the same turn."""
        _, other = self.joined()
        session, transport = self.joined()
        self.tell(session, "publish", room="lobby", data=1, id="p")
        self.tell(session, "publish", room="lobby", data=2, id="q")
        self.assertEqual(["joined"], [event["type"] for event in transport.received])
        self.turn()
        kinds = [event["type"] for event in transport.received]
        self.assertEqual(["joined", "published", "published", "message", "message"], kinds)
        self.assertEqual([1, 2], self.data(other))

    def test_published_behind(self) -> None:
        """Who publishes and is left behind at the same moment gets the acknowledgement, and is brought the message."""
        session, transport = self.joined()
        self.tell(session, "publish", room="lobby", data=1, id="p")
        transport.window = 0
        self.turn()
        self.assertEqual(["joined", "published"], [event["type"] for event in transport.received])
        transport.window, transport.write_paused = None, False
        session.resume_writing()
        self.assertEqual([1], self.data(transport))

    def test_bad_transports(self) -> None:
        """Transports that can't send the replies that they hold disturb nobody, neither now nor later."""

        def fail() -> None:
            raise ZeroDivisionError

        reading, bad_reader = self.joined()
        writing, bad_writer = self.client()
        _, reader = self.joined()
        _, other = self.joined("other")
        bad_reader.send_batch = lambda batch: batch.count  # type: ignore[method-assign]
        bad_reader.flush_replies = bad_writer.flush_replies = fail  # type: ignore[method-assign]
        for number in range(2):
            self.tell(reading, "publish", room="lobby", data=number)
            self.tell(writing, "publish", room="elsewhere", data=number)
            self.publish(number, room="other")
            self.turn()
        self.assertEqual(([0, 1], [0, 1]), (self.data(reader), self.data(other)))
        self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))

    def test_key(self) -> None:
        """The same key and content answer the first position and reach nobody again; other content is refused."""
        _, reader = self.joined()
        session, transport = self.client()
        for data in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2}):
            self.tell(session, "publish", room="lobby", data=data, key="k")
        self.turn()
        first, again, other = transport.received
        self.assertEqual(first, again)
        self.assertEqual("key_reused", other["code"])
        self.assertEqual([{"a": 1, "b": 2}], self.data(reader))

    def test_reserved_event(self) -> None:
        """A client can't send the server's events."""
        session, transport = self.client()
        self.tell(session, "publish", room="lobby", data=1, event="$deleted")
        self.assertEqual("bad_request", transport.received[0]["code"])

    def test_store_failure(self) -> None:
        """What can't be stored is answered with a temporary error, and reaches nobody."""
        _, reader = self.joined()
        self.successResultOf(self.store.stop())
        session, transport = self.client()
        self.tell(session, "publish", room="lobby", data=1, id=4)
        self.turn()
        error = transport.received[0]
        self.assertEqual(("store_unavailable", True, 4), (error["code"], error["temporary"], error["id"]))
        self.assertEqual([], self.data(reader))

    def test_replies_in_order(self) -> None:
        """Replies to publishes come in their order, though some needn't or can't wait for the store."""
        self.slow_hub()
        session, transport = self.client()
        self.tell(session, "publish", room="lobby", data=1, id=1)
        self.tell(session, "publish", room="a b", data=2, id=2)
        self.tell(session, "publish", room="lobby", data=3, id=3)
        self.tell(session, "publish", room="lobby", data=4, event="$no", id=4)
        self.tell(session, "ping", id=5)
        self.held.append = lambda draft: fail(StoreError("too many wait"))  # type: ignore[method-assign]
        self.tell(session, "publish", room="lobby", data=6, id=6)
        self.turn()
        self.assertEqual([5], [reply["id"] for reply in transport.received])
        answers = [answer for _, answer in self.held.appends]
        answers[1].errback(InDoubt())
        self.turn()
        self.assertEqual([5], [reply["id"] for reply in transport.received])
        answers[0].errback(StoreError("the disk is full"))
        self.turn()
        self.assertEqual([5, 1, 2, 3, 4, 6], [reply["id"] for reply in transport.received])
        codes = ["store_unavailable", "bad_room", "in_doubt", "bad_request", "store_unavailable"]
        self.assertEqual(codes, [reply["code"] for reply in transport.received[1:]])
        self.assertFalse(session.busy)
        self.tell(session, "publish", room="a b", data=7, id=7)
        self.assertEqual(7, transport.received[-1]["id"])

    def test_message_while_room_is_looked_up(self) -> None:
        """What is stored between the look-up of a room and its answer is not missed."""
        self.slow_hub()
        session, transport = self.client()
        self.tell(session, "join", room="lobby", last=0)
        self.held.look(0)
        self.publish("between")
        self.held.commit()
        self.held.acknowledge()
        self.held.settle()
        self.publish("after")
        self.held.settle()
        self.turn()
        self.assertEqual("after", self.data(transport)[-1])
        offsets = [int(m["position"].split(":")[1]) for m in transport.of_type("message")]
        start = int(transport.received[0]["position"].split(":")[1])
        self.assertEqual(list(range(start + 1, 3)), offsets)


class GarbageTests(World):
    """What clients can repeat is gone when it is over."""

    def test_errors(self) -> None:
        """Commands that are refused leave nothing to the garbage collector, whose work stops everybody."""
        session, _ = self.client()
        for command in (
            b"{",
            b"{}",
            b'{"type":"leave","room":"a"}',
            b'{"type":"join","room":"!"}',
            b'{"type":"publish","room":"!","data":1}',
            b'{"type":"history","room":"a","after":"x"}',
        ):
            self.assertEqual(0, left_to_collect(lambda command=command: session.receive(command)), command)  # type: ignore[misc]


class BehindTests(World):
    """Who can't keep up is left behind and pumped."""

    def test_full_transport_gets_nothing_more(self) -> None:
        """A full transport is sent nothing, and all of it in order when it has drained."""
        session, transport = self.client(window=3)
        self.tell(session, "join", room="lobby")
        for number in range(10):
            self.publish(number)
            self.turn()
        self.assertEqual([0, 1, 2], self.data(transport))
        transport.window, transport.write_paused = None, False
        session.resume_writing()
        self.publish(10)
        self.turn()
        self.assertEqual(list(range(11)), self.data(transport))

    def test_closing_transport(self) -> None:
        """A transport that takes nothing as it is closing, though it is not full, is not tried for ever."""
        session, transport = self.client()
        self.publish(1)
        transport.said_goodbye = GOODBYES["silent"]
        self.tell(session, "join", room="lobby")
        self.assertEqual((["joined"], []), ([event["type"] for event in transport.received], self.data(transport)))

    def test_others_are_not_held_up(self) -> None:
        """One that is full holds up nobody."""
        stalled, _ = self.client(window=0)
        self.tell(stalled, "join", room="lobby")
        _, other = self.joined()
        self.publish(*range(5))
        self.turn()
        self.assertEqual(list(range(5)), self.data(other))

    def test_reset(self) -> None:
        """What was trimmed meanwhile is announced by one reset, at the position where delivery goes on."""
        session, transport = self.client(window=1)
        self.tell(session, "join", room="lobby")
        for number in range(60):
            self.publish(number)
            self.turn()
        transport.window, transport.write_paused = None, False
        session.resume_writing()
        (reset,) = transport.of_type("reset")
        messages = transport.of_type("message")
        self.assertEqual(list(range(60 - self.history, 60)), self.data(transport)[1:])
        self.assertEqual(int(reset["position"].split(":")[1]) + 1, int(messages[1]["position"].split(":")[1]))

    def test_read_failure_is_tried_again(self) -> None:
        """A page that can't be read is tried again after a while; nothing is lost by it."""
        self.slow_hub()
        self.publish(*range(3))
        self.held.settle()
        session, transport = self.client(window=0)
        self.tell(session, "join", room="lobby")
        self.held.settle()
        self.hub.rooms["lobby"].tail.clear()
        transport.window, transport.write_paused = None, False
        session.resume_writing()
        self.held.fail_read()
        self.clock.pump([0.25] * 6)
        self.held.settle()
        self.assertEqual([0, 1, 2], self.data(transport))

    def test_catching_up_shares_reads(self) -> None:
        """However many stand at the same place behind the tail, the store is read once."""
        self.slow_hub()
        self.publish(*range(3))
        self.held.settle()
        self.successResultOf(self.hub.room("lobby")) if "lobby" in self.hub.rooms else None
        sessions = [self.client(window=0) for _ in range(50)]
        for session, _ in sessions:
            self.tell(session, "join", room="lobby")
        self.held.settle()
        self.hub.rooms["lobby"].tail.clear()
        for session, transport in sessions:
            transport.window, transport.write_paused = None, False
            session.resume_writing()
        self.assertEqual(1, len(self.held.looks))
        self.held.settle()
        self.assertEqual([[0, 1, 2]] * 50, [self.data(transport) for _, transport in sessions])


class LifeTests(World):
    """Rooms and sessions come and go."""

    def test_closed_session_leaves_nothing(self) -> None:
        """A closed session is no longer told anything, and nobody holds it."""
        session, transport = self.joined()
        session.close()
        self.publish(1)
        self.turn()
        self.assertEqual(
            (["joined"], 0, {}),
            ([e["type"] for e in transport.received], self.hub.rooms["lobby"].subscribers, self.hub.sessions),
        )

    def test_closing_while_joining(self) -> None:
        """A session that closes while it joins leaves no reader behind."""
        self.slow_hub()
        session, transport = self.client()
        self.tell(session, "join", room="lobby")
        session.close()
        self.held.settle()
        self.assertEqual(([], 0), (transport.received, self.hub.rooms["lobby"].subscribers))

    def test_idle_room_leaves_memory(self) -> None:
        """A room without readers is forgotten after a while, one with a reader isn't."""
        session, _ = self.joined("a")
        self.joined("b")
        session.close()
        self.clock.pump([10.0] * 20)
        self.assertEqual(["b"], list(self.hub.rooms))

    def test_many_idle_rooms(self) -> None:
        """Ten thousand rooms that were joined and left are gone, with their timers."""
        for number in range(10_000):
            self.joined(f"r{number}")[0].close()
        self.clock.pump([10.0] * 20)
        self.assertEqual(({}, [], 0), (self.hub.rooms, self.clock.getDelayedCalls(), len(self.hub.wheel)))

    def test_stop(self) -> None:
        """Stopping says goodbye to everyone, takes no more messages, and is told to publishers."""
        _session, transport = self.joined()
        self.hub.stop()
        self.assertEqual(GOODBYES["stopping"], transport.said_goodbye)
        self.assertEqual("stopping", self.assertRaises(RealtimeError, self.publish, 1).code)

    def test_too_many_errors(self) -> None:
        """Who sends nothing but errors is told goodbye, for good."""
        session, transport = self.client()
        for _ in range(self.hub.limits.max_errors):
            session.receive(b"nonsense")
        self.turn()
        assert transport.said_goodbye is not None
        self.assertEqual(("too_many_errors", False), (transport.said_goodbye.reason, transport.said_goodbye.reconnect))

    def test_our_own_errors(self) -> None:
        """What the server can't do for a while isn't counted against the client, however often it asks."""
        session, transport = self.client()
        self.store.stop()
        for number in range(self.hub.limits.max_errors + 1):
            self.tell(session, "publish", room="lobby", data=number)
            self.tell(session, "join", room="lobby")
            self.tell(session, "history", room="lobby")
        self.turn()
        self.assertIsNone(transport.said_goodbye)
        self.assertTrue(all(error["temporary"] for error in transport.of_type("error")))
        self.assertEqual(3 * (self.hub.limits.max_errors + 1), len(transport.of_type("error")))

    def test_after(self) -> None:
        """A message that follows one that isn't stored is refused, for now; so is one that follows without a key."""
        session, transport = self.client()
        self.tell(session, "publish", room="lobby", data=2, key="b", after="a")
        self.tell(session, "publish", room="lobby", data=1, key="a")
        self.tell(session, "publish", room="lobby", data=2, key="b", after="a")
        self.tell(session, "publish", room="lobby", data=3, after="a")
        self.turn()
        refused = [(error["code"], error["temporary"]) for error in transport.of_type("error")]
        self.assertEqual([("out_of_order", True), ("bad_request", False)], refused)
        self.assertEqual(["1", "2"], [reply["position"].partition(":")[2] for reply in transport.of_type("published")])

    def test_tails_are_bounded_together(self) -> None:
        """All tails together stay under their bound; the rooms go on working."""
        self.hub = make_hub(self.store, self.clock, tails_bytes=2000)
        readers = [self.joined(f"r{number}")[1] for number in range(20)]
        for number in range(20):
            self.publish("x" * 200, room=f"r{number}")
        self.turn()
        self.clock.pump([10.0] * 5)
        self.assertLessEqual(sum(room.tail.size for room in self.hub.rooms.values()), 2000)
        self.publish("more", room="r0")
        self.turn()
        self.assertEqual(["x" * 200, "more"], self.data(readers[0]))
        self.assertEqual(["x" * 200, "more"], self.data(self.joined("r0")[1]))


class EmptyRoomTests(World):
    """Rooms without messages, which anybody can make up."""

    def poll(self, *rooms: str, client: str | None = None) -> FakeRequest:
        """Poll rooms; the first poll is answered at once."""
        headers = {b"Realtime-Client": [client.encode()]} if client else None
        request = FakeRequest({b"room": [room.encode() for room in rooms], b"wait": [b"20"]}, headers)
        PollResource(self.hub, jsonp=False).render_GET(request)  # type: ignore[arg-type]
        return request

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.pump([0.25] * round(seconds * 4))

    def assert_small(self, read: Callable[[int], object]) -> None:
        """A hundred rooms, each read by one client, as 20 clients read them, take less than 1 KB each."""
        kept = [read(20)]
        self.wait(0.5)
        gc.collect()
        tracemalloc.start()
        try:
            kept += [read(number) for number in range(20)]
            self.wait(2)
            gc.collect()
            size, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertEqual(2100, len(self.hub.rooms))
        self.assertLess(size / 2000, 1024)

    def test_size(self) -> None:
        """One takes less than a kilobyte with its reader, its member and all."""

        def read(number: int) -> Session:
            session, transport = self.client()
            for room in range(100):
                self.tell(session, "join", room=f"made-up-{number}-{room}")
            self.wait(0.25)
            transport.received.clear()
            return session

        self.assert_small(read)

    def test_size_polled(self) -> None:
        """So it does while its reader is between two polls."""

        def read(number: int) -> None:
            self.poll(*(f"made-up-{number}-{room}" for room in range(100)))

        self.assert_small(read)

    def test_gone_with_the_reader(self) -> None:
        """It goes a moment after its last reader's user is out of it, with all that is known of it."""
        session, _ = self.joined("made-up")
        session.close()
        self.wait(4)
        self.assertEqual(({}, {}), (self.hub.rooms, self.hub.presence.memberships))

    def test_poll_comes_back(self) -> None:
        """It is there for the next poll, as long as that is waited for, and then goes."""
        client = json.loads(self.poll("made-up").body)["client"]
        room = self.hub.rooms["made-up"]
        for _ in range(3):
            self.wait(8)
            self.poll("made-up", client=client)
            self.assertIs(room, self.hub.rooms["made-up"])
        self.wait(12)
        self.assertEqual(({}, {}), (self.hub.rooms, self.hub.presence.memberships))

    def test_gone_though_nobody_came(self) -> None:
        """It goes if who asked for it is gone before it was found."""
        self.slow_hub()
        request = self.poll("a", "b")
        request.disconnect()
        self.held.settle()
        self.wait(3)
        self.assertEqual({}, self.hub.rooms)

    def test_message_keeps_it(self) -> None:
        """One that has its first message meanwhile stays as any other does."""
        session, _ = self.joined("made-up")
        self.publish(1, room="made-up")
        self.turn()
        session.close()
        self.wait(10)
        self.assertEqual(["made-up"], list(self.hub.rooms))


class ManyRoomsTests(World):
    """A bound on the rooms in memory."""

    limits = {"max_rooms_total": 3}

    def test_refused(self) -> None:
        """What is one too many is refused for the moment, and counted; the others go on."""
        rooms = [self.joined(name) for name in "abc"]
        _, transport = self.joined("d")
        (error,) = transport.received
        self.assertEqual(("too_many", True, 1), (error["code"], error["temporary"], self.hub.counters.rooms_refused))
        again = self.joined("a")[1]
        self.publish("on", room="a")
        self.turn()
        self.assertEqual((["on"], ["on"]), (self.data(rooms[0][1]), self.data(again)))

    def test_looked_up(self) -> None:
        """Rooms that are being looked up count."""
        self.slow_hub()
        transports = [self.joined(name)[1] for name in "abcd"]
        self.held.settle()
        types = [transport.received[0]["type"] for transport in transports]
        self.assertEqual(["joined", "joined", "joined", "error"], types)

    def test_idle_ones_go_first(self) -> None:
        """Rooms with messages that nobody reads make place for others, those that were left first before others; and
        one that is read is never one of them."""
        sessions = {}
        for name in "abc":
            self.publish(1, room=name)
            sessions[name] = self.joined(name)[0]
        for name in "bac":
            sessions[name].close()
        self.clock.pump([0.5] * 8)
        self.joined("b")
        for name, left in (("d", ["c", "b", "d"]), ("e", ["b", "d", "e"])):
            self.assertEqual("joined", self.joined(name)[1].received[0]["type"])
            self.assertEqual(sorted(left), sorted(self.hub.rooms))
        self.assertEqual("error", self.joined("f")[1].received[0]["type"])

    def test_tails_are_bounded_while_they_grow(self) -> None:
        """However much is published in rooms that are read, their tails are bounded at each moment; what was made of
        them for readers goes with them."""
        self.hub = make_hub(self.store, self.clock, tails_bytes=8000)
        readers = [self.joined(f"r{number}")[1] for number in range(20)]
        for number in range(100):
            self.publish("x" * 500, room=f"r{number % 20}")
            self.turn()
            self.assertLessEqual(sum(room.tail.size for room in self.hub.rooms.values()), 8000)
        self.assertEqual([["x" * 500] * 5] * 20, [self.data(reader) for reader in readers])
        self.joined("r0", last=5)
        self.assertEqual([["x" * 500] * 5], [self.data(self.joined("r0", last=5)[1])])

    def test_slices_go_with_readers(self) -> None:
        """What was read and encoded for readers of a room goes with the last of them."""
        self.publish("x" * 500)
        session, transport = self.joined(last=1)
        self.assertEqual(["x" * 500], self.data(transport))
        room = self.hub.rooms["lobby"]
        self.assertNotEqual((None, None), (room._cached_page, room._batches))
        session.close()
        self.assertEqual((None, None), (room._cached_page, room._batches))

    def test_tails_are_bounded_while_rooms_are_read(self) -> None:
        """However many rooms are looked up between two sweeps, their tails are bounded."""
        self.hub = make_hub(self.store, self.clock, tails_bytes=8000)
        for number in range(40):
            self.publish("x" * 500, room=f"r{number}")
            self.joined(f"r{number}")
            self.assertLessEqual(sum(room.tail.size for room in self.hub.rooms.values()), 8000 + 3000)


class HistoryTests(World):
    """Reading pages of a log."""

    def history_of(self, **fields: Any) -> dict[str, Any]:
        session, transport = self.client()
        self.tell(session, "history", room="lobby", **fields)
        return transport.received[0]

    def test_pages(self) -> None:
        """Pages before and after a position, and the last one, hold what they should, and say where they end."""
        self.publish(*range(10))
        epoch = self.successResultOf(self.store.read_before("lobby", None, 1)).epoch
        for fields, expected, end in (
            ({}, list(range(10)), 10),
            ({"limit": 2}, [8, 9], 10),
            ({"before": f"{epoch}:3"}, [0, 1], 2),
            ({"before": f"{epoch}:9", "limit": 3}, [5, 6, 7], 8),
            ({"since": f"{epoch}:8"}, [8, 9], 10),
            ({"since": f"{epoch}:2", "limit": 2}, [2, 3], 4),
            ({"since": f"{epoch}:10"}, [], 10),
            ({"before": f"{epoch}:1"}, [], 0),
        ):
            page = self.history_of(**fields)
            self.assertEqual(expected, [message["data"] for message in page["messages"]], fields)
            self.assertEqual((f"{epoch}:{end}", f"{epoch}:10"), (page["position"], page["top"]), fields)

    def test_both_ways(self) -> None:
        """A page goes before or after, not both; and a position of another log has no before."""
        self.publish(1)
        self.assertEqual("bad_request", self.history_of(before="a:1", since="a:1")["code"])
        self.assertEqual("bad_position", self.history_of(before="other:1")["code"])
