"""Tests for :mod:`realtime_chat.socketio.rooms`: whom an event reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.engineio.prepared import PreparedMessage
from realtime_chat.socketio import Namespace, TimedOut
from tests.socketio.world import SocketIOClient, SocketIOWorld


class Plain(Namespace):
    """Remembers the objects of its sockets."""

    made: list[Plain] = []

    def on_connect(self, auth: dict[str, Any]) -> None:
        self.made.append(self)


class PlainWorld(SocketIOWorld):
    """Sockets of one namespace."""

    limits = {"max_rooms": 5}

    def setUp(self) -> None:
        super().setUp()
        Plain.made = []
        self.serve({"/": Plain, "/other": Plain})

    def members(self, count: int) -> list[tuple[Plain, SocketIOClient]]:
        """So many sockets, each with its client."""
        clients = [self.connected() for _ in range(count)]
        return list(zip(Plain.made[-count:], clients, strict=True))

    def reached(self, *clients: SocketIOClient) -> list[int]:
        """The numbers of the clients that got an event."""
        return [number for number, client in enumerate(clients) if client.events()]


class BroadcastTests(PlainWorld):
    """Choosing sockets."""

    def test_whom(self) -> None:
        """To, skip and broadcast choose as Socket.IO's do."""
        (a, one), (b, two), (c, three), (d, four) = self.members(4)
        clients = one, two, three, four
        for namespace, rooms in ((a, "xy"), (b, "x"), (c, "y")):
            for room in rooms:
                namespace.enter(room)
        everyone = self.app.of("/")
        for broadcast, expected in (
            (everyone, [0, 1, 2, 3]),
            (everyone.to("x"), [0, 1]),
            (everyone.to("x", "y"), [0, 1, 2]),
            (everyone.to("x").to("y"), [0, 1, 2]),
            (everyone.to("x", "y").skip("y"), [1]),
            (everyone.skip("x"), [2, 3]),
            (everyone.to(b.id), [1]),
            (everyone.to(b.id, "y"), [0, 1, 2]),
            (everyone.skip(a.id, d.id), [1, 2]),
            (everyone.to("nobody"), []),
            (everyone.to(), []),
            (a.broadcast, [1, 2, 3]),
            (a.to("x"), [1]),
            (a.to("x", "y"), [1, 2]),
            (a.skip("y"), [1, 3]),
            (a.of(), [0, 1, 2, 3]),
            (a.broadcast.to(c.id), [2]),
            (a.of("/other"), []),
        ):
            broadcast.emit("event")
            self.assertEqual(expected, self.reached(*clients), broadcast)

    def test_id_is_no_room(self) -> None:
        """Nobody hears what another socket is sent by entering a room of its id's name."""
        (a, one), (b, two) = self.members(2)
        b.enter(a.id)
        self.app.of("/").to(a.id).emit("private")
        self.assertEqual([0], self.reached(one, two))

    def test_rooms(self) -> None:
        """A socket knows its rooms, may enter twice, and may leave what it isn't in."""
        ((a, _),) = self.members(1)
        for room in ("x", "x", "y"):
            a.enter(room)
        a.leave("y")
        a.leave("z")
        self.assertEqual({"x"}, set(a.rooms))

    def test_too_many_rooms(self) -> None:
        """A socket is in so many rooms at most."""
        ((a, _),) = self.members(1)
        for number in range(5):
            a.enter(f"room {number}")
        self.assertIn("--max-rooms", str(self.assertRaises(ValueError, a.enter, "one more")))
        a.enter("room 1")

    def test_sockets(self) -> None:
        """One can ask which sockets are in a room, or in the namespace."""
        (a, _), (b, _) = self.members(2)
        a.enter("x")
        for asked, expected in ((a.sockets("x"), [a.id]), (a.sockets(), [a.id, b.id]), (a.sockets("none"), [])):
            self.assertEqual(expected, self.successResultOf(Deferred.fromCoroutine(asked)))

    def test_unknown_namespace(self) -> None:
        """An emit to a namespace that isn't there is refused, with those that are."""
        self.assertIn("/other", str(self.assertRaises(ValueError, self.app.of, "/nope")))

    def test_disconnect(self) -> None:
        """Sockets that are chosen can be disconnected."""
        (a, one), (_, two) = self.members(2)
        a.enter("x")
        self.app.of("/").to("x").disconnect()
        self.assertEqual([(1, "/", None, None)], one.packets())
        self.assertEqual([], two.packets())

    def test_slow_client(self) -> None:
        """For a slow client events wait in order, volatile ones are dropped, and too many close it."""
        (_, one), (_, two) = self.members(2)
        one.pause()
        everyone = self.app.of("/")
        everyone.emit("first")
        everyone.emit("dropped", volatile=True)
        everyone.emit("second")
        self.assertEqual([["first"], ["dropped"], ["second"]], two.events())
        one.resume()
        self.assertEqual([["first"], ["second"]], one.events())
        one.pause()
        for _ in range(3):
            everyone.emit("large", "x" * 500_000)
        self.turn()
        self.assertEqual("slow", one.closed)
        self.assertIsNone(two.closed)

    def test_binary(self) -> None:
        """Bytes reach all as attachments right after the text."""
        clients = [client for _, client in self.members(2)]
        self.app.of("/").emit("image", {"data": b"\x00\x01"})
        for client in clients:
            text, attachment = client.take()
            self.assertEqual((b"51-", b"\x00\x01"), (text[:3], attachment))

    def test_unencodable(self) -> None:
        """What JSON can't say is refused where it is emitted, as is an event's reserved name."""
        self.members(1)
        self.assertRaises(TypeError, self.app.of("/").emit, "event", object())
        self.assertRaises(ValueError, self.app.of("/").emit, "disconnect")


class CallTests(PlainWorld):
    """A call to several sockets."""

    def test_all_answer(self) -> None:
        """The answers of all come in the order in which they were given."""
        clients = [client for _, client in self.members(3)]
        called = self.app.of("/").call("question")
        for number in (2, 0, 1):
            ((_, _, id, _),) = clients[number].packets()
            clients[number].send(f"3{id}[{number}]")
        self.assertEqual([2, 0, 1], self.successResultOf(called))
        self.clock.pump([1.0] * 80)  # nothing happens when the time is over

    def test_nobody(self) -> None:
        """A call to nobody is answered at once."""
        self.assertEqual([], self.successResultOf(self.app.of("/").to("nobody").call("question")))

    def test_some_answer(self) -> None:
        """If not all answer in time, or one goes, the error has the answers that came."""
        (_, one), (_, two), (_, three) = self.members(3)
        called = self.app.of("/").call("question", timeout=1)
        ((_, _, id, _),) = one.packets()
        one.send(f"3{id}[1]")
        two.connection.close()
        self.assertNoResult(called)
        self.clock.pump([0.25] * 8)
        error = self.failureResultOf(called, TimedOut).value
        self.assertEqual(([1], "2 of 3 acknowledgements have not come"), (error.answers, str(error)))
        self.assertEqual(1, self.app.counters.acks_timed_out)  # whoever has gone is not late
        three.send(f"3{id}[3]")


class TurnTests(PlainWorld):
    """What is emitted in one turn of the reactor."""

    def setUp(self) -> None:
        super().setUp()
        ((self.a, self.one), (self.b, self.two)) = self.members(2)
        self.pieces: list[int] = []
        transport = self.two.transport
        send = transport.send

        def spy(messages: Sequence[PreparedMessage]) -> int:
            self.pieces.append(sum(len(message.packets) for message in messages))
            return send(messages)

        transport.send = spy  # type: ignore[method-assign]

    def emit(self, *events: str, to: str | None = None) -> None:
        """Emit events to others."""
        for event in events:
            (self.a.broadcast if to is None else self.a.to(to)).emit(event)

    def check(self, *pieces: int) -> list[str]:
        """End the turn. The events came in so many pieces, of so many events; return their names."""
        names = [name for name, *_ in self.two.events()]
        self.assertEqual(list(pieces), self.pieces)
        return names

    def test_joined(self) -> None:
        """Events to the same sockets are sent together at its end."""
        self.emit("first", "second", "third")
        self.assertEqual([], self.pieces)
        self.assertEqual(["first", "second", "third"], self.check(3))

    def test_attachments(self) -> None:
        """Joined events have their attachments right after them."""
        self.a.broadcast.emit("first", b"1")
        self.a.broadcast.emit("second", b"2")
        self.assertEqual([b"51-", b"1", b"51-", b"2"], [message[:3] for message in self.two.take()])

    def test_other_sockets(self) -> None:
        """Events to other sockets come in their order."""
        self.b.enter("x")
        self.emit("first")
        self.emit("second", to="x")
        self.emit("third")
        self.assertEqual(["first", "second", "third"], self.check(1, 1, 1))

    def test_own_events(self) -> None:
        """What a socket is sent by itself comes in its order."""
        self.emit("first", "second")
        self.b.emit("third")
        self.emit("fourth")
        self.assertEqual(["first", "second", "third", "fourth"], self.check(2, 1, 1))

    def test_volatile(self) -> None:
        """A volatile event comes in its order."""
        self.emit("first")
        self.a.broadcast.emit("second", volatile=True)
        self.assertEqual(["first", "second"], self.check(1, 1))

    def test_many_bytes(self) -> None:
        """Not more is joined than a socket may take at once."""
        for _ in range(4):
            self.a.broadcast.emit("large", "x" * 30_000)
        self.assertEqual(["large"] * 4, self.check(2, 2))

    def test_disconnect(self) -> None:
        """A socket that is disconnected gets what was emitted before, and nothing after it."""
        self.emit("first")
        self.b.disconnect()
        self.emit("second")
        self.assertEqual([(2, "/", None, ["first"]), (1, "/", None, None)], self.two.packets())

    def test_closed(self) -> None:
        """So does one whose connection is closed by the application."""
        self.emit("first")
        self.b.disconnect(close=True)
        self.assertEqual([(2, "/", None, ["first"]), (1, "/", None, None)], self.two.packets())

    def test_rooms_change(self) -> None:
        """A socket gets what was emitted while it was in a room."""
        self.emit("missed", to="x")
        self.b.enter("x")
        self.emit("first", to="x")
        self.b.leave("x")
        self.emit("missed", to="x")
        self.assertEqual(["first"], self.check(1))


ROOMS = st.sampled_from("abc")


class RoomMachine(RuleBasedStateMachine):
    """Sockets come, go, enter, leave, pause and disconnect; each event reaches whom a simple model says, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = PlainWorld("setUp")
        self.world.setUp()
        self.rooms: dict[Plain, set[str]] = {}
        self.clients: dict[Plain, SocketIOClient] = {}
        self.expected: dict[Plain, list[int]] = {}
        self.got: dict[Plain, list[int]] = {}
        self.emitted = 0

    @rule(rooms=st.sets(ROOMS))
    def connect(self, rooms: set[str]) -> None:
        """A socket comes."""
        client = self.world.connected()
        namespace = Plain.made[-1]
        self.clients[namespace], self.rooms[namespace] = client, set()
        self.expected[namespace], self.got[namespace] = [], []
        for room in rooms:
            self.enter(namespace, room)

    def enter(self, namespace: Plain, room: str) -> None:
        """A socket enters a room."""
        namespace.enter(room)
        self.rooms[namespace].add(room)

    def one(self, data: st.DataObject) -> Plain:
        """Some socket."""
        return data.draw(st.sampled_from(list(self.clients)))

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), room=ROOMS, enters=st.booleans())
    def move(self, data: st.DataObject, room: str, enters: bool) -> None:
        """A socket enters or leaves a room."""
        namespace = self.one(data)
        if enters:
            self.enter(namespace, room)
        else:
            namespace.leave(room)
            self.rooms[namespace].discard(room)

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), how=st.sampled_from(("client", "server", "lost")))
    def end(self, data: st.DataObject, how: str) -> None:
        """A socket ends."""
        namespace = self.one(data)
        client = self.clients[namespace]
        if how == "client":
            client.send("1")
        elif how == "server":
            namespace.disconnect()
        else:
            client.connection.close("transport close")
        self.check(namespace, complete=how != "lost" and client.transport.writable)
        del self.clients[namespace], self.rooms[namespace]

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), pauses=st.booleans())
    def pace(self, data: st.DataObject, pauses: bool) -> None:
        """A client stops or goes on reading."""
        client = self.clients[self.one(data)]
        if pauses:
            client.pause()
        else:
            client.resume()

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), to=st.none() | st.sets(ROOMS), skip=st.sets(ROOMS), own=st.booleans(), volatile=st.booleans())
    def emit(self, data: st.DataObject, to: set[str] | None, skip: set[str], own: bool, volatile: bool) -> None:
        """Something is emitted, by a socket to others, or to all."""
        sender = None if own else self.one(data)
        broadcast = self.world.app.of("/") if sender is None else sender.broadcast
        if to is not None:
            broadcast = broadcast.to(*sorted(to))
        self.emitted += 1
        for namespace, rooms in self.rooms.items():
            if namespace is sender or (to is not None and not rooms & to) or rooms & skip:
                continue
            if not (volatile and self.waits(namespace)):
                self.expected[namespace].append(self.emitted)
        broadcast.skip(*sorted(skip)).emit("number", self.emitted, volatile=volatile)

    def waits(self, namespace: Plain) -> bool:
        """Whether something waits for a client already."""
        transport = self.clients[namespace].transport
        came = len(self.got[namespace]) + len(transport.messages)
        return not transport.writable and len(self.expected[namespace]) > came

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def emit_to_one(self, data: st.DataObject) -> None:
        """Something is emitted to one socket."""
        namespace = self.one(data)
        self.emitted += 1
        self.expected[namespace].append(self.emitted)
        namespace.emit("number", self.emitted)

    def check(self, namespace: Plain, complete: bool) -> None:
        """Take what a client has got: all of it, or the first of it."""
        self.got[namespace] += [event[1] for event in self.clients[namespace].events("number")]
        got, expected = self.got[namespace], self.expected[namespace]
        assert got == (expected if complete else expected[: len(got)]), (got, expected)

    @rule()
    def turn(self) -> None:
        """A turn ends. Who reads has all; who doesn't has the first of it, in order."""
        for namespace, client in self.clients.items():
            self.check(namespace, client.transport.writable)

    @invariant()
    def index_is_small(self) -> None:
        """The index has the sockets and rooms that there are, and no others."""
        index = self.world.app.of("/")._index
        assert len(index.sockets) == len(self.clients)
        assert set(index.rooms) == set().union(*self.rooms.values()), index.rooms


class RoomMachineTests(SynchronousTestCase):
    """Random interleavings."""

    def test_machine(self) -> None:
        """Each event reaches whom it should, once and in order."""
        machine = RoomMachine.TestCase("runTest")
        machine.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
        machine.runTest()
