"""Tests for recovery namespaces: what a socket gets that was away, or slow."""

from __future__ import annotations

import gc
import json
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred, fail

from realtime_chat.core.identity import NOBODY
from realtime_chat.core.interfaces import SESSION_SECONDS
from realtime_chat.socketio import Application, Namespace, Refused, membership
from realtime_chat.socketio.recovery import MAX_RECORD
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.values.errors import StoreError
from tests.fakes import HeldStore, make_hub, tokens
from tests.socketio.world import SocketIOClient, SocketIOWorld


class Chat(Namespace):
    """Remembers the objects of its sockets."""

    recovery = True
    made: list[Chat] = []

    def on_connect(self, auth: dict[str, Any]) -> None:
        self.made.append(self)

    def on_remember(self, value: Any) -> None:
        """Keep something."""
        self.session["value"] = value

    def on_say(self, *words: Any) -> str:
        """Tell everybody."""
        self.of().emit("said", *words)
        return "done"


class OfficialClient:
    """A client that recovers as the official one does: it keeps the last string at the end of an event."""

    def __init__(self, world: RecoveryWorld) -> None:
        self.world = world
        self.pid: str | None = None
        self.offset: str | None = None
        self.seen: list[Any] = []
        self.recovered = False
        self.connect()

    def connect(self) -> None:
        """Connect, as the first time or anew."""
        self.client = self.world.open()
        auth = {} if self.pid is None else {"pid": self.pid}
        if self.offset is not None:
            auth["offset"] = self.offset
        made = len(Chat.made)
        self.client.send(f"0/chat,{json.dumps(auth)}")
        self.world.turn()
        assert len(Chat.made) == made + 1
        self.socket = Chat.made[-1]
        self.receive()

    def receive(self) -> list[Any]:
        """Take what has come, and give back the events."""
        events = []
        for type, _, id, data in self.client.packets():
            if type == 0:
                self.recovered = data["pid"] == self.pid
                self.sid, self.pid = data["sid"], data["pid"]
            elif type in (2, 5):
                events.append(data)
                if id is None and isinstance(data[-1], str):
                    self.offset = data[-1]
        self.seen += events
        return [event[:-1] for event in events]

    def lose(self) -> None:
        """Lose the connection."""
        self.client.connection.close("transport close")
        self.client.take()


class RecoveryWorld(SocketIOWorld):
    """Sockets of one recovery namespace."""

    history = 20

    namespace_history = 50

    def setUp(self) -> None:
        super().setUp()
        retention = Retention(self.history, namespace_count=self.namespace_history)
        self.store = MemoryStore(retention, self.clock.seconds, tokens(), monotonic=self.clock.seconds)
        self.hub = make_hub(self.store, self.clock, namespace_history=self.namespace_history)
        Chat.made = []
        self.serve({"/chat": Chat, "/": Namespace})

    def emit(self, *event: Any, to: str | None = None) -> None:
        """Emit to all, or to a room, and let it be sent."""
        chosen = self.app.of("/chat")
        (chosen if to is None else chosen.to(to)).emit(*event)
        self.turn()

    def events(self, client: OfficialClient) -> list[Any]:
        """What has come to a client in this turn."""
        self.turn()
        return client.receive()


class RecoveryTests(RecoveryWorld):
    """A client comes back."""

    def test_missed_events(self) -> None:
        """A client that was away gets what it missed, once and in order; id, rooms and session are as before."""
        one = OfficialClient(self)
        one.socket.enter("room")
        one.client.emit("remember", 7, namespace="/chat")
        self.emit("a", 1)
        self.emit("b", to="room")
        self.assertEqual([["a", 1], ["b"]], one.receive())
        sid = one.sid
        one.lose()
        self.emit("c")
        self.emit("d", to="room")
        self.emit("e", to="elsewhere")
        one.connect()
        self.assertTrue(one.recovered)
        self.assertTrue(one.socket.recovered)
        self.assertEqual((sid, sid), (one.sid, one.socket.id))
        self.assertEqual({"room"}, one.socket.rooms)
        self.assertEqual({"value": 7}, one.socket.session)
        self.assertEqual([["c"], ["d"]], [event[:-1] for event in one.seen[2:]])
        self.emit("f", to="room")
        self.assertEqual([["f"]], one.receive())

    def test_before_the_first_event(self) -> None:
        """A client recovers that had no event yet."""
        one = OfficialClient(self)
        one.lose()
        self.emit("a")
        one.connect()
        self.assertTrue(one.recovered)
        self.assertEqual([["a"]], [event[:-1] for event in one.seen])

    def test_unknown(self) -> None:
        """Whoever comes too late, or with a made-up pid, begins anew."""
        one = OfficialClient(self)
        one.lose()
        self.clock.advance(SESSION_SECONDS - 1)
        one.connect()
        self.assertTrue(one.recovered)
        one.lose()
        self.clock.advance(SESSION_SECONDS + 1)
        self.emit("a")
        one.connect()
        self.assertFalse(one.recovered)
        self.assertEqual([], one.seen)
        one.lose()
        one.pid = f"{one.pid}x"
        one.connect()
        self.assertFalse(one.recovered)
        self.assertEqual({"recovered": 1, "unknown": 2}, self.app.counters.recoveries)

    def test_trimmed(self) -> None:
        """If the log lacks what was missed, the client is told."""
        one = OfficialClient(self)
        self.emit("first")
        one.receive()
        one.lose()
        for number in range(self.namespace_history + 1):
            self.emit("a", number)
        one.connect()
        self.assertFalse(one.recovered)

    def test_quiet_socket(self) -> None:
        """A client for which there was nothing recovers, whatever others were sent in the meantime."""
        one, two = OfficialClient(self), OfficialClient(self)
        two.socket.enter("room")
        self.emit("first")
        one.receive()
        for number in range(3 * self.namespace_history):
            self.emit("a", number, to="room")
        one.lose()
        self.emit("b")
        one.connect()
        self.assertTrue(one.recovered)
        self.assertEqual([["first"], ["b"]], [event[:-1] for event in one.seen])

    def test_on_connect(self) -> None:
        """What is emitted while the client connects comes after the answer, and after what was missed."""
        one = OfficialClient(self)
        one.lose()
        self.emit("missed")

        def on_connect(namespace: Chat, auth: dict[str, Any]) -> None:
            Chat.made.append(namespace)
            namespace.emit("welcome")

        self.patch(Chat, "on_connect", on_connect)
        one.connect()
        self.assertEqual([["missed"], ["welcome"]], [event[:-1] for event in one.seen])

    def test_slow_reader(self) -> None:
        """Nothing is queued for a slow reader; it gets all in the end."""
        one, two = OfficialClient(self), OfficialClient(self)
        one.client.pause()
        for number in range(10):
            self.emit("a", number)
        self.assertEqual(0, one.client.connection.queued)
        self.assertEqual(10, len(two.receive()))
        one.client.resume()
        self.assertEqual([["a", number] for number in range(10)], self.events(one))

    def test_poll(self) -> None:
        """A poll brings all events of a page, of which others get some: each answer takes it until the next."""
        one = OfficialClient(self)
        one.client.pause()
        for number in range(6):
            self.emit("a", number, to=None if number % 2 else one.sid)
        self.emit("b", to="elsewhere")
        transport = one.client.transport
        send = transport.send

        def answer(messages: Any) -> int:
            transport.writable = False
            return send(messages)

        self.patch(transport, "send", answer)
        one.client.resume()
        self.assertEqual([["a", number] for number in range(6)], self.events(one))

    def test_acknowledgement_after_events(self) -> None:
        """An acknowledgement comes after the events that were emitted before it."""
        one = OfficialClient(self)
        one.client.emit("say", "hi", namespace="/chat", id=3)
        self.turn()
        packets = [(type, id, data[:2]) for type, _, id, data in one.client.packets()]
        self.assertEqual([(2, None, ["said", "hi"]), (3, 3, ["done"])], packets)

    def test_volatile(self) -> None:
        """A volatile event isn't stored. It has the position up to which the client has all. Slow ones miss it."""
        one, two = OfficialClient(self), OfficialClient(self)
        self.emit("a")
        two.client.pause()
        self.app.of("/chat").emit("v", "x", volatile=True)
        one.socket.emit("w", volatile=True)
        self.assertEqual([["a"], ["v", "x"], ["w"]], one.receive())
        self.assertEqual({one.seen[0][-1]}, {event[-1] for event in one.seen})
        two.client.resume()
        self.assertEqual([["a"]], self.events(two))
        one.lose()
        self.emit("b")
        one.connect()
        self.assertTrue(one.recovered)
        self.assertEqual(["b"], one.seen[-1][:-1])

    def test_attachments(self) -> None:
        """Attachments are stored, too."""
        one = OfficialClient(self)
        one.lose()
        self.emit("image", {"data": b"\x00\xff"})
        made = len(Chat.made)
        client = self.open()
        client.send(f"0/chat,{json.dumps({'pid': one.pid})}")
        self.assertEqual(made + 1, len(Chat.made))
        _, text, attachment = client.take()
        self.assertTrue(text.startswith(b'51-/chat,["image",{"data":{"_placeholder":true,"num":0}},"'), text)
        self.assertEqual(b"\x00\xff", attachment)

    def test_call(self) -> None:
        """An event that asks for an acknowledgement isn't stored, and has no position."""
        one = OfficialClient(self)
        answer = one.socket.call("question")
        ((type, _, id, data),) = one.client.packets()
        self.assertEqual((2, ["question"]), (type, data))
        one.client.send(f"3/chat,{id}[1]")
        self.assertEqual(1, self.successResultOf(answer))

    def test_old_client(self) -> None:
        """A client of protocol 4 gets the events, also those for which it was too slow. It has no pid."""
        client = self.open(version=3)
        client.send("0/chat,")
        self.assertEqual([(0, "/", None, None), (0, "/chat", None, None)], client.packets())
        client.pause()
        self.emit("a")
        self.assertEqual([], client.events())
        client.resume()
        self.assertEqual(["a"], [event[0] for event in client.events()])

    def test_still_connected(self) -> None:
        """If the server doesn't know yet that a connection is lost, the client's next one takes its place."""
        one = OfficialClient(self)
        one.socket.enter("room")
        before = one.client
        self.emit("a")
        one.receive()
        self.emit("b", to="room")  # which gets lost
        before.take()
        one.connect()
        self.assertTrue(one.recovered)
        self.assertEqual("transport close", before.closed)
        self.assertEqual([["a"], ["b"]], [event[:-1] for event in one.seen])
        self.assertEqual([one.sid], list(self.app.of("/chat")._index.sockets))

    def test_disconnected(self) -> None:
        """After a disconnect by either side there is nothing to recover."""
        for disconnect in (lambda one: one.socket.disconnect(), lambda one: one.client.send("1/chat,")):
            one = OfficialClient(self)
            disconnect(one)
            one.lose()
            one.connect()
            self.assertFalse(one.recovered)
            self.assertFalse(one.socket.recovered)

    def test_refused(self) -> None:
        """Middleware runs each time. A client that was refused may be recovered later."""
        one = OfficialClient(self)
        one.lose()
        self.emit("a")

        def on_connect(namespace: Chat, auth: dict[str, Any]) -> None:
            raise Refused("not now")

        with self.patched(Chat, "on_connect", on_connect):
            client = self.open()
            client.send(f"0/chat,{json.dumps({'pid': one.pid})}")
            self.assertEqual([(4, "/chat", None, {"message": "not now"})], client.packets())
            client.connection.close()
        one.connect()
        self.assertTrue(one.recovered)
        self.assertEqual(["a"], one.seen[-1][:-1])

    def test_id_of_other(self) -> None:
        """Nobody hears what another socket is sent by entering a room of its id's name, also while that one is away."""
        one, two = OfficialClient(self), OfficialClient(self)
        two.socket.enter(one.sid)
        self.emit("private", to=one.sid)
        one.receive()
        one.lose()
        two.socket.leave(one.sid)
        two.socket.enter(one.sid)
        self.emit("private", to=one.sid)
        self.assertEqual([], two.receive())
        one.connect()
        self.assertEqual([["private"], ["private"]], [event[:-1] for event in one.seen])

    def test_rooms_are_texts(self) -> None:
        """A room whose name the log can't keep is refused where it is named, and others aren't concerned."""
        one = OfficialClient(self)
        chosen: Any = self.app.of("/chat")
        rooms: list[Any] = [7, None, ("a",)]
        for room in rooms:
            self.assertRaises(TypeError, one.socket.enter, room)
            self.assertRaises(TypeError, chosen.to(room).emit, "a")
            self.assertRaises(TypeError, chosen.skip(room).emit, "a")
        self.emit("b")
        self.assertEqual([["b"]], one.receive())
        self.assertEqual(frozenset(), one.socket.rooms)

    def test_record_not_stored(self) -> None:
        """A record that can't be stored is tried again, once at a time however often it has changed."""
        one = OfficialClient(self)
        put, tries = self.store.sessions.put, []

        def refuse(*arguments: Any) -> Deferred[None]:
            tries.append(arguments)
            return fail(StoreError("the disk is full"))

        with self.patched(self.store.sessions, "put", refuse):
            for number in range(5):
                one.socket.enter(f"room{number}")
            del tries[:]
            self.clock.advance(self.hub.limits.retry + 0.5)
            self.assertEqual(1, len(tries))
        self.patch(self.store.sessions, "put", lambda *arguments: tries.append(arguments) or put(*arguments))
        for _ in range(2):
            self.clock.advance(self.hub.limits.retry + 0.5)
        self.assertEqual(2, len(tries))

    def test_unreadable_record(self) -> None:
        """A record that another version of the daemon has written makes its client begin anew."""
        one = OfficialClient(self)
        one.lose()
        sessions: Any = self.store.sessions
        for key in list(sessions._ended):
            sessions.put(key, b'{"v":2}', False)
        one.connect()
        self.assertFalse(one.recovered)
        self.assertEqual({"unknown": 1}, self.app.counters.recoveries)

    def test_session(self) -> None:
        """A session that can't be kept makes its client begin anew; others aren't concerned."""
        for value in ("x" * MAX_RECORD, object()):
            one, two = OfficialClient(self), OfficialClient(self)
            one.socket.session["value"] = value
            one.client.emit("say", "hi", namespace="/chat")
            for client in (one, two):
                client.lose()
                client.connect()
            self.assertEqual((False, True), (one.recovered, two.recovered))

    def test_method_outlives_socket(self) -> None:
        """A method that ends after its socket harms nobody."""
        one = OfficialClient(self)
        running: Deferred[None] = Deferred()
        self.patch(Chat, "events", {**Chat.events, "wait": lambda namespace, arguments: running})
        one.client.emit("wait", namespace="/chat", id=1)
        one.lose()
        running.callback(None)
        gc.collect()
        self.assertEqual([], self.flushLoggedErrors())

    def test_rooms_of_a_quiet_namespace(self) -> None:
        """Where no event comes, sockets that leave their rooms and go leave nothing behind."""
        OfficialClient(self)
        for number in range(3):
            one = OfficialClient(self)
            one.socket.enter(f"room{number}")
            one.socket.leave(f"room{number}")
            one.lose()
        fanout = self.app.of("/chat")._index.log.fanout  # type: ignore[union-attr]
        self.assertEqual(({}, []), (fanout._rooms, fanout._left))

    def test_other_namespace(self) -> None:
        """The pid of one namespace is of no use in another."""
        self.serve({"/chat": Chat, "/other": Chat})
        one = OfficialClient(self)
        one.lose()
        client = self.open()
        client.send(f"0/other,{json.dumps({'pid': one.pid})}")
        self.assertNotIn(one.pid.encode(), client.take()[0])

    def patched(self, owner: Any, name: str, value: Any) -> Any:
        """A context in which an attribute is another one."""
        return mock.patch.object(owner, name, value)


class LeavingTests(RecoveryWorld):
    """A socket that has left a room gets what came before."""

    def move_about(self, client: OfficialClient, *rooms: str) -> None:
        """Enter rooms and leave them again. In each comes an event."""
        for room in rooms:
            client.socket.enter(room)
            self.emit("in", room, to=room)
            client.socket.leave(room)
            self.emit("after", room, to=room)

    def test_slow(self) -> None:
        """A slow client gets the events of rooms that it has left by now."""
        one = OfficialClient(self)
        one.client.pause()
        self.move_about(one, "a", "b", "a")
        one.client.resume()
        self.assertEqual([["in", "a"], ["in", "b"], ["in", "a"]], self.events(one))

    def test_away(self) -> None:
        """So does a client that comes back, whose connection was lost with these events."""
        one = OfficialClient(self)
        self.move_about(one, "a", "b")
        one.lose()
        one.connect()
        self.assertTrue(one.recovered)
        self.assertEqual([["in", "a"], ["in", "b"]], [event[:-1] for event in one.seen])

    def test_too_many_stays(self) -> None:
        """Only so many stays are known. Whoever needs more than these begins anew."""
        self.patch(membership, "MAX_ENDED", 1)
        one, two, three = OfficialClient(self), OfficialClient(self), OfficialClient(self)
        self.move_about(one, "a", "b")
        one.receive()
        self.move_about(two, "a", "b")
        three.client.pause()
        self.move_about(three, "a", "b")
        self.assertEqual("forced close", three.client.closed)
        for client, expected in ((one, True), (two, False), (three, False)):
            client.lose()
            client.connect()
            self.assertIs(expected, client.recovered)
        self.assertEqual(2, self.app.counters.recoveries["trimmed"] + self.app.counters.recoveries["unknown"])

    def test_large_events(self) -> None:
        """Events that were emitted before a leave arrive, also if they are sent in several pieces."""
        self.hub = make_hub(self.store, self.clock, page_bytes=10)
        self.serve({"/chat": Chat})
        one, two = OfficialClient(self), OfficialClient(self)
        for client in (one, two):
            client.socket.enter("a")
        for number in range(3):
            self.app.of("/chat").to("a").emit("in", number)
        one.socket.leave("a")
        self.emit("after", to="a")
        self.assertEqual([["in", 0], ["in", 1], ["in", 2]], self.events(one))
        self.assertEqual(4, len(self.events(two)))


class NativeTests(RecoveryWorld):
    """The log of a namespace is no native room."""

    def test_commands(self) -> None:
        """No command can name it."""
        self.emit("secret")
        session, transport = self.client()
        for type, fields in (
            ("join", {}),
            ("history", {}),
            ("publish", {"data": 1}),
            ("signal", {"event": "e", "data": 1}),
            ("members", {}),
            ("leave", {}),
        ):
            self.tell(session, type, room="/chat", **fields)
            self.assertEqual("bad_room", transport.received[-1]["code"], type)

    def test_list(self) -> None:
        """It isn't listed."""
        self.publish("hi", room="lobby")
        self.emit("secret")
        self.serve({"/": Chat})
        self.app.of("/").emit("secret")
        self.turn()
        listed = Deferred.fromCoroutine(self.hub.list_rooms(NOBODY, "", 10))
        self.assertEqual(["lobby"], [room for room, _ in self.successResultOf(listed)])

    def test_relay(self) -> None:
        """What another program publishes for a room of that name reaches nobody."""
        one = OfficialClient(self)
        self.hub.cache.relayed("/chat", b'"forged"')
        self.assertEqual([], self.events(one))

    def test_foreign_entry(self) -> None:
        """An entry that another program has put into the log is for nobody, and stops nothing."""
        one = OfficialClient(self)
        self.publish("forged", room="/chat")
        self.emit("a")
        self.assertEqual([["a"]], one.receive())

    def test_not_served(self) -> None:
        """An event can only be stored where there is a store."""
        self.assertRaises(RuntimeError, Application({"/chat": Chat}).of("/chat").emit, "a")


class HeldTests(RecoveryWorld):
    """What waits for the store."""

    def setUp(self) -> None:
        super().setUp()
        self.held = HeldStore(self.store)
        self.hub = make_hub(self.held, self.clock, max_publishing=2)
        self.serve({"/chat": Chat})

    def open(self, *args: Any, **options: Any) -> SocketIOClient:
        """A client; reads are answered until it is connected."""
        client = super().open(*args, **options)
        self.clock.callLater(0, self.held.settle)
        return client

    def test_acknowledgement(self) -> None:
        """An acknowledgement waits until the events before it are stored, and so does a disconnect."""
        one = OfficialClient(self)
        self.held.settle()
        one.client.emit("say", "hi", namespace="/chat", id=3)
        one.socket.disconnect()
        self.turn()
        self.assertEqual([], one.client.packets())
        self.held.settle()
        self.turn()
        self.assertEqual([2, 3, 1], [type for type, _, _, _ in one.client.packets()])

    def test_not_kept(self) -> None:
        """What isn't stored doesn't wait for what is."""
        one = OfficialClient(self)
        self.held.settle()
        one.socket.emit("stored")
        one.socket.emit("volatile", volatile=True)
        one.socket.call("call")
        self.assertEqual(["volatile", "call"], [data[0] for _, _, _, data in one.client.packets()])
        self.held.settle()
        self.turn()
        self.assertEqual(["stored"], [data[0] for _, _, _, data in one.client.packets()])

    def test_awaited(self) -> None:
        """An emit and an enter can be awaited until they are stored."""
        one = OfficialClient(self)
        self.held.settle()
        namespace, everyone = one.socket, self.app.of("/chat")
        for act in (lambda: namespace.emit("a"), lambda: namespace.enter("room"), lambda: everyone.emit("b")):
            answer = Deferred.fromCoroutine(_awaited(act()))
            self.assertNoResult(answer)
            self.held.settle()
            self.successResultOf(answer)

    def test_not_stored(self) -> None:
        """If an event can't be stored, who awaits it is told, and the log is written for all others."""
        one = OfficialClient(self)
        self.held.settle()
        stored = one.socket.emit("a")
        _, answer = self.held.appends.pop()
        answer.errback(StoreError("the disk is full"))
        self.failureResultOf(Deferred.fromCoroutine(_awaited(stored)), StoreError)
        one.socket.emit("b")
        self.held.settle()
        self.assertEqual([["b"]], self.events(one))

    def test_store_away(self) -> None:
        """If the store can't be read, the connection is closed: the client comes back by itself."""
        client = SocketIOWorld.open(self)
        client.send("0/chat,")
        self.held.fail_read()
        self.assertEqual([], client.packets())
        self.assertEqual("transport error", client.closed)

    def test_last_socket(self) -> None:
        """A namespace without sockets still knows what is being stored of those that have gone."""
        one = OfficialClient(self)
        self.held.settle()
        one.receive()
        everyone = self.app.of("/chat")
        one.socket.enter("room")
        everyone.to("room").emit("a")
        one.lose()
        del one.socket, one.client, everyone
        Chat.made.clear()
        gc.collect()
        auth = json.dumps({"pid": one.pid})
        client = SocketIOWorld.open(self)
        client.send(f"0/chat,{auth}")
        while self.held.looks:  # what is read is what was there before
            self.held.look(0)
            self.held.answer(0)
        self.held.settle()
        self.turn()
        self.assertIn(str(one.pid).encode(), client.take()[0])
        self.assertEqual(["room"], list(Chat.made[-1].rooms))

    def test_third_connection(self) -> None:
        """A client that comes back again, before its former socket is stored, gets what that one has stored."""
        one = OfficialClient(self)
        self.held.settle()
        one.socket.enter("room")
        one.socket.emit("a")
        for _ in range(2):
            client = SocketIOWorld.open(self)
            client.send(f"0/chat,{json.dumps({'pid': one.pid})}")
            self.turn()
            self.held.look(0)
        self.held.settle()
        self.turn()
        self.emit("b", to="room")
        self.held.settle()
        connect, *events = client.packets()
        self.assertEqual(one.sid, connect[3]["sid"])
        self.assertEqual([["a"], ["b"]], [event[3][:-1] for event in events])

    def test_closed_meanwhile(self) -> None:
        """If a connection ends before its record was read, the application isn't told that it connects."""
        one = OfficialClient(self)
        self.held.settle()
        one.lose()
        self.held.settle()
        client = SocketIOWorld.open(self)
        client.send(f"0/chat,{json.dumps({'pid': one.pid})}")
        client.connection.close("transport close")
        self.held.settle()
        self.assertEqual(1, len(Chat.made))
        one.connect()
        self.assertTrue(one.recovered)

    def test_reading_waits(self) -> None:
        """While much is to be stored, no more events are read."""
        one = OfficialClient(self)
        self.held.settle()
        for _ in range(2):
            one.client.emit("say", "hi", namespace="/chat")
        self.assertFalse(one.client.transport.reading)
        self.held.settle()
        self.assertTrue(one.client.transport.reading)


async def _awaited(stored: Any) -> None:
    await stored
