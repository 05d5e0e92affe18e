"""Tests for recovery namespaces: what a socket gets that was away, or slow."""

from __future__ import annotations

import json
from typing import Any

from realtime_chat.core.interfaces import SESSION_SECONDS
from realtime_chat.socketio import Namespace
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from tests.fakes import make_hub, tokens
from tests.socketio.world import SocketIOWorld


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
