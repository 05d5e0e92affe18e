"""Tests for :mod:`realtime_chat.core.room_cache`: rooms come, and are forgotten."""

import gc
import json
import tracemalloc
from collections.abc import Callable

from realtime_chat.core.performing_session import PerformingSession
from realtime_chat.transports.poll import PollResource
from realtime_chat.values.errors import GOODBYES, RealtimeError
from tests.core.world import World
from tests.fakes import (
    FakeRequest,
    make_hub,
    new_objects_alone,
)
from tests.soak import SOAK


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
            ([e["type"] for e in transport.received], self.hub.rooms["lobby"].reader_count, self.hub.sessions),
        )

    def test_closing_while_joining(self) -> None:
        """A session that closes while it joins leaves no reader behind."""
        self.slow_hub()
        session, transport = self.client()
        self.tell(session, "join", room="lobby")
        session.close()
        self.held.settle()
        self.assertEqual(([], 0), (transport.received, self.hub.rooms["lobby"].reader_count))

    def test_idle_room_leaves_memory(self) -> None:
        """A room without readers is forgotten after a while, one with a reader isn't."""
        session, _ = self.joined("a")
        self.joined("b")
        session.close()
        self.clock.pump([10.0] * 20)
        self.assertEqual(["b"], list(self.hub.rooms))

    def test_many_idle_rooms(self) -> None:
        """Ten thousand rooms that were joined and left are gone, with their timers."""
        for number in range(10_000 if SOAK else 1000):
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
        with new_objects_alone():
            size = self.traced(read)
        self.assertEqual(2100, len(self.hub.rooms))
        self.assertLess(size / 2000, 1024)

    def traced(self, read: Callable[[int], object]) -> int:
        """The bytes that they take, together."""
        kept = [read(20)]
        self.wait(0.5)
        gc.collect()
        tracemalloc.start()
        try:
            kept += [read(number) for number in range(20)]
            self.wait(2)
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    def test_size(self) -> None:
        """One takes less than a kilobyte with its reader, its member and all."""

        def read(number: int) -> PerformingSession:
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

    def test_gone_above_the_floor(self) -> None:
        """So it goes once the store has forgotten rooms, and rooms that don't exist stand above the first offset."""
        self.publish(1, 2, room="forgotten")
        self.store.forget("forgotten")
        self.test_gone_with_the_reader()

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
