"""Tests for :mod:`realtime_chat.core.command_session`: commands and their replies in order."""

from twisted.internet.defer import fail

from realtime_chat.values.errors import InDoubt, StoreError
from realtime_chat.values.rates import Rate, RateLimits, ScopeLimits
from tests.core.world import World
from tests.fakes import (
    FakeFanout,
    FakeTransport,
    left_to_collect,
    make_hub,
)


class OrderTests(World):
    """Commands take effect in the order in which they came."""

    def test_busy(self) -> None:
        """While the answer to a command is awaited, no further commands should be read."""
        self.slow_hub()
        session, _ = self.client()
        self.assertFalse(session.busy)
        self.tell(session, "join", room="lobby")
        self.assertTrue(session.busy)
        self.held.settle()
        self.assertFalse(session.busy)

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


class LimitTests(World):
    """What a session does whose client has reached a limit."""

    def setUp(self) -> None:
        super().setUp()
        limits = ScopeLimits(publishes=Rate(1, 3), commands=Rate(2, 20), signals=Rate(1, 2))
        self.hub = make_hub(self.store, self.clock, rates=RateLimits(client=limits))

    def codes(self, transport: FakeTransport) -> list[str]:
        return [reply.get("code", reply["type"]) for reply in transport.received if "id" in reply]

    def test_pauses(self) -> None:
        """After a refusal no commands are read for a while, at most for a second, and then they are again."""
        session, transport = self.client()
        for number in range(4):
            self.assertFalse(session.busy)
            self.tell(session, "publish", room="lobby", data=number, id=number)
        self.turn()
        self.assertTrue(session.busy)
        self.clock.pump([0.1] * 11)
        self.assertFalse(session.busy)
        self.tell(session, "publish", room="lobby", data=4, id=4)
        self.turn()
        self.assertEqual(["published"] * 3 + ["rate_limited", "published"], self.codes(transport))

    def test_order(self) -> None:
        """What follows a refused message isn't stored before it, nor does it take what others could use."""
        session, transport = self.client()
        before: dict[str, str] = {}
        for number in range(8):
            self.tell(session, "publish", room="lobby", data=number, id=number, key=f"k{number}", **before)
            before = {"after": f"k{number}"}
        self.turn()
        self.assertEqual(["published"] * 3 + ["rate_limited"] + ["out_of_order"] * 4, self.codes(transport))
        self.clock.pump([1.0] * 5)
        transport.received.clear()
        for number in range(3, 6):
            self.tell(
                session, "publish", room="lobby", data=number, id=number, key=f"k{number}", after=f"k{number - 1}"
            )
        self.turn()
        self.assertEqual(["published"] * 3, self.codes(transport))

    def test_nothing_is_left(self) -> None:
        """When all sessions have ended, nothing is kept of them once their buckets are full."""
        sessions = [self.client()[0] for _ in range(5)]
        for session in sessions:
            self.tell(session, "hello")
            self.tell(session, "publish", room="lobby", data=1)
        self.turn()
        self.assertEqual(5, len(self.hub.limiter))
        for session in sessions:
            session.close()
        self.clock.pump([1.0] * 60)
        self.assertEqual(0, len(self.hub.limiter))

    def test_new_rooms(self) -> None:
        """Who makes a room is charged for it; a message to one that exists costs nothing of that."""
        limits = ScopeLimits(rooms=Rate(1, 2))
        self.publish("before", room="old")
        self.hub = make_hub(self.store, self.clock, rates=RateLimits(client=limits))
        session, transport = self.client()
        rooms = ("old", "a", "a", "b", "a", "c", "b")
        for number, room in enumerate(rooms):
            self.tell(session, "publish", room=room, data=1, id=number)
            self.turn()
        refused = [rooms[error["id"]] for error in transport.of_type("error")]
        self.assertEqual(["c"], refused)
