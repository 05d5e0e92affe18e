"""Tests for :mod:`realtime_chat.socketio.socket` and :mod:`realtime_chat.socketio.client`."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from realtime_chat.engineio.settings import Settings
from realtime_chat.socketio import Namespace, Refused, TimedOut, event
from realtime_chat.socketio.client import MAX_NAMESPACES, MAX_PENDING
from realtime_chat.values.rates import DEFAULTS
from tests.fakes import make_hub
from tests.socketio.world import SocketIOClient, SocketIOWorld


class Echo(Namespace):
    """Answers, emits, and remembers."""

    made: list[Echo] = []

    def on_connect(self, auth: dict[str, Any]) -> None:
        self.made.append(self)
        self.session["auth"] = auth
        self.reason: str | None = None

    def on_disconnect(self, reason: str) -> None:
        self.reason = reason

    def on_message(self, *arguments: Any) -> None:
        self.emit("message-back", *arguments)

    @event("client event")
    def typed(self, data: Any) -> Any:
        return data

    def on_pair(self) -> tuple[int, int]:
        return 1, 2

    def on_nothing(self) -> None:
        pass

    def on_one(self, value: Any, other: Any = None) -> Any:
        return value

    def on_raise(self) -> None:
        raise RuntimeError("oh")

    async def on_ask(self) -> Any:
        return await self.call("question", timeout=1)

    async def on_slow(self) -> Any:
        self.held: Deferred[Any] = Deferred()
        self.session.setdefault("held", []).append(self.held)
        return await self.held


class EchoWorld(SocketIOWorld):
    """An application that echoes."""

    def setUp(self) -> None:
        super().setUp()
        Echo.made = []
        self.serve({"/": Echo, "/custom": Echo, "/tenant-*": Echo})

    def made(self) -> Echo:
        """The object of the socket that was made last."""
        return Echo.made[-1]


class ConnectTests(EchoWorld):
    """Connecting to namespaces."""

    def test_connect(self) -> None:
        """CONNECT is answered with an id of 20 characters, which is not the connection's."""
        client = self.open()
        client.send("0")
        ((type, namespace, id, data),) = client.packets()
        self.assertEqual((0, "/", None, {"sid"}), (type, namespace, id, set(data)))
        self.assertEqual(20, len(data["sid"]))

    def test_auth(self) -> None:
        """The application gets what the client gives, and an empty dictionary where it gives nothing."""
        self.connected(auth={"token": "123"})
        self.assertEqual({"token": "123"}, self.made().session["auth"])
        self.connected()
        self.assertEqual({}, self.made().session["auth"])

    def test_unknown_namespace(self) -> None:
        """A namespace that isn't there is refused in the words of Socket.IO's server, and the connection goes on."""
        client = self.open()
        client.send("0/random,")
        self.assertEqual([(4, "/random", None, {"message": "Invalid namespace"})], client.packets())
        client.send("0/custom,")
        self.assertEqual(0, client.packets()[0][0])

    def test_dynamic_namespaces(self) -> None:
        """A pattern stands for many namespaces, each of which has its own sockets."""
        one, other = self.connected("/tenant-1"), self.connected("/tenant-2")
        self.app.of("/tenant-1").emit("news")
        self.assertEqual([["news"]], one.events())
        self.assertEqual([], other.events())

    def test_refused(self) -> None:
        """What on_connect refuses gets the message and the data, and its emits are dropped."""

        class Closed(Namespace):
            def on_connect(self, auth: dict[str, Any]) -> None:
                self.emit("never")
                raise Refused("members only", {"retry": False})

        self.serve({"/": Closed})
        client = self.open()
        client.send("0")
        self.assertEqual([(4, "/", None, {"message": "members only", "data": {"retry": False}})], client.packets())
        self.assertEqual(1, self.app.counters.refused)

    def test_failing_on_connect(self) -> None:
        """If on_connect fails, the client is refused and learns nothing of the error."""

        class Broken(Namespace):
            def on_connect(self, auth: dict[str, Any]) -> None:
                raise RuntimeError("secret")

        self.serve({"/": Broken})
        client = self.open()
        client.send("0")
        ((type, _, _, data),) = client.packets()
        self.assertEqual(4, type)
        self.assertNotIn("secret", data["message"])
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_emit_in_on_connect(self) -> None:
        """What is emitted in on_connect comes after the answer to CONNECT, in order."""

        class Greeting(Namespace):
            async def on_connect(self, auth: dict[str, Any]) -> None:
                self.enter("room")
                self.emit("one")
                self.answer: Deferred[None] = Deferred()
                waiting.append(self.answer)
                await self.answer
                self.emit("two")

        waiting: list[Deferred[None]] = []
        self.serve({"/": Greeting})
        client = self.open()
        client.send("0")
        self.app.of("/").to("room").emit("too early")
        self.assertEqual([], client.packets())
        waiting[0].callback(None)
        types = [(type, data if type else None) for type, _, _, data in client.packets()]
        self.assertEqual([(0, None), (2, ["one"]), (2, ["two"])], types)
        self.app.of("/").to("room").emit("now")
        self.assertEqual([["now"]], client.events())

    def test_gone_while_connecting(self) -> None:
        """If the client goes while on_connect runs, on_disconnect is called once that is through."""
        waiting: list[Deferred[None]] = []
        reasons: list[str] = []

        class Slow(Namespace):
            async def on_connect(self, auth: dict[str, Any]) -> None:
                waiting.append(Deferred())
                await waiting[0]

            def on_disconnect(self, reason: str) -> None:
                reasons.append(reason)

        self.serve({"/": Slow})
        client = self.open()
        client.send("0")
        client.connection.close("transport close")
        self.assertEqual([], reasons)
        waiting[0].callback(None)
        self.assertEqual(["transport close"], reasons)
        self.assertEqual(0, self.app.sockets_by_namespace()["/"])

    def test_middleware(self) -> None:
        """Middleware is asked in order before on_connect, may wait, and may refuse."""
        asked: list[str] = []

        def first(namespace: Namespace, auth: dict[str, Any]) -> None:
            asked.append(namespace.name)

        async def second(namespace: Namespace, auth: dict[str, Any]) -> None:
            if "key" not in auth:
                raise Refused("no key")

        self.serve({"/": Echo}, middleware=[first, second])
        client = self.open()
        client.send("0")
        self.assertEqual([(4, "/", None, {"message": "no key"})], client.packets())
        client.send('0{"key":1}')
        self.assertEqual(0, client.packets()[0][0])
        self.assertEqual(["/", "/"], asked)

    def test_deadline(self) -> None:
        """A connection that connects to no namespace in time is closed; one that did stays."""
        settings = Settings(connect_timeout=5.0, ping_interval=1000.0)
        self.settings = settings
        self.serve({"/": Echo})
        idle, busy = self.open(), self.connected()
        self.clock.advance(0)
        for _ in range(30):
            self.clock.advance(0.25)
        self.assertIsNotNone(idle.closed)
        self.assertIsNone(busy.closed)
        busy.send("1")
        for _ in range(30):
            self.clock.advance(0.25)
        self.assertIsNotNone(busy.closed)

    def test_too_many_namespaces(self) -> None:
        """A connection is in at most so many namespaces."""
        client = self.connected(*(f"/tenant-{number}" for number in range(MAX_NAMESPACES)))
        client.send("0/custom,")
        ((type, _, _, data),) = client.packets()
        self.assertEqual(4, type)
        self.assertIn(str(MAX_NAMESPACES), data["message"])


class SlowConnectTests(SocketIOWorld):
    """What a namespace emits before its client is connected."""

    settings = Settings(max_queued=10_000)

    def setUp(self) -> None:
        super().setUp()
        self.made = made = []

        class Slow(Namespace):
            async def on_connect(self, auth: dict[str, Any]) -> None:
                made.append(self)
                self.asked: Deferred[None] = Deferred()
                await self.asked

        self.serve({"/": Slow, "/custom": Slow})

    def test_waits(self) -> None:
        """It waits as long as it is no more than may wait for one client, and then comes after the answer."""
        client = self.connected()
        self.made[0].emit("event", "x" * 9_000)
        self.made[0].asked.callback(None)
        self.assertEqual([0, 2], [type for type, _, _, _ in client.packets()])
        self.made[0].emit("event", "x" * 9_000)
        self.assertIsNone(client.closed)

    def test_too_much(self) -> None:
        """If more waits, the client is closed as slow, and no other."""
        client, other = self.connected(), self.connected()
        for _ in range(2):
            self.made[0].emit("event", "x" * 6_000)
        self.assertEqual(("slow", None), (client.closed, other.closed))

    def test_several_namespaces(self) -> None:
        """All namespaces of a client count together."""
        client = self.connected("/", "/custom")
        for namespace in self.made:
            self.assertIsNone(client.closed)
            namespace.emit("event", "x" * 6_000)
        self.assertEqual("slow", client.closed)
        self.made[0].asked.callback(None)
        self.assertEqual([], client.packets())

    def test_refused(self) -> None:
        """What waited for a namespace that refuses its client counts no more."""
        client = self.connected("/")
        self.made[0].emit("event", "x" * 6_000)
        self.made[0].asked.errback(Refused("no"))
        client.send("0/custom,")
        self.made[1].emit("event", "x" * 6_000)
        self.assertIsNone(client.closed)


class ViolationTests(EchoWorld):
    """What breaks the protocol closes that connection alone."""

    def test_violations(self) -> None:
        """Each of them closes its connection, and no other."""
        other = self.connected()
        for before, text in (
            ((), '2["message"]'),
            ((), "4abc"),
            ((), "abc"),
            (("/",), "0"),
            (("/",), '4{"message":"x"}'),
            (("/",), "2{}"),
            (("/",), '2["connect"]'),
            (("/",), '2/custom,["message"]'),
            (("/",), '51-["message",{"_placeholder":true,"num":1}]'),
            (("/",), "2" + "[" * 200 + "]" * 200),
        ):
            client = self.connected(*before) if before else self.open()
            client.send(text, *([b"x"] if text.startswith("51") else []))
            self.assertEqual("parse error", client.closed, text)
        other.emit("message", 1)
        self.assertEqual([["message-back", 1]], other.events())
        self.assertEqual(10, self.app.counters.violations)

    def test_unexpected_binary(self) -> None:
        """An attachment that nobody has announced closes the connection."""
        client = self.connected()
        assert client.connection.receiver is not None
        client.connection.receiver.binary_received(b"x")
        self.assertEqual("parse error", client.closed)

    def test_late_event(self) -> None:
        """What was on its way when the server disconnected a namespace is ignored."""
        client = self.connected("/", "/custom")
        self.made().disconnect()
        client.emit("message", 1, namespace="/custom")
        self.assertIsNone(client.closed)
        client.emit("message", 1)
        self.assertEqual([(1, "/custom"), (2, "/")], [packet[:2] for packet in client.packets()])


class EventTests(EchoWorld):
    """Events, and what becomes of them."""

    def test_event(self) -> None:
        """An event calls its method with its arguments, and what that emits comes back."""
        client = self.connected()
        client.emit("message", 1, "2", {"3": [True]})
        self.assertEqual([["message-back", 1, "2", {"3": [True]}]], client.events())

    def test_binary(self) -> None:
        """Binary arguments come and go as attachments."""
        client = self.connected()
        client.send('52-["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', b"\x01", b"\x02\x03")
        text, *attachments = client.take()
        self.assertTrue(text.startswith(b'52-["message-back",'))
        self.assertEqual([b"\x01", b"\x02\x03"], attachments)

    def test_acknowledgements(self) -> None:
        """What a method returns is the acknowledgement: nothing, one argument, or several."""
        client = self.connected()
        for id, sent, expected in (
            (0, ("client event", {"a": 1}), [{"a": 1}]),
            (1, ("pair",), [1, 2]),
            (2, ("nothing",), []),
            (3, ("one", [1, 2]), [[1, 2]]),
        ):
            client.emit(*sent, id=id)
            self.assertEqual([(3, "/", id, expected)], client.packets())

    def test_no_acknowledgement(self) -> None:
        """A client that asks for no acknowledgement gets none."""
        client = self.connected()
        client.emit("pair")
        self.assertEqual([], client.packets())

    def test_unknown_event(self) -> None:
        """An event without a method is ignored, whatever a class has under that name."""
        client = self.connected()
        for name in ("nope", "disconnect_", "emit", "__init__", "connect_", 5, 1.5):
            client.emit(name, id=1)
        self.assertEqual([], client.packets())
        self.assertIsNone(client.closed)

    def test_wrong_number_of_arguments(self) -> None:
        """If an event has too few or too many arguments, the client is told, and nothing is logged."""
        client = self.connected()
        for arguments in ((), (1, 2, 3)):
            client.emit("one", *arguments, id=9)
            ((type, _, id, data),) = client.packets()
            self.assertEqual((3, 9, "bad_request"), (type, id, data[0]["code"]))
            self.assertIn("1 to 2 arguments", data[0]["message"])

    def test_raising_method(self) -> None:
        """What a method raises is logged and counted, and neither this client nor another notices."""
        client, other = self.connected(), self.connected()
        client.emit("raise", id=1)
        client.emit("pair", id=2)
        other.emit("pair", id=3)
        self.assertEqual([(3, "/", 2, [1, 2])], client.packets())
        self.assertEqual([(3, "/", 3, [1, 2])], other.packets())
        self.assertEqual(1, self.app.counters.method_errors)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_unencodable_answer(self) -> None:
        """An answer that JSON can't say is an error of the method."""

        class Odd(Namespace):
            def on_odd(self) -> Any:
                return object()

        self.serve({"/": Odd})
        client = self.connected()
        client.emit("odd", id=1)
        self.assertEqual([], client.packets())
        self.assertEqual(1, len(self.flushLoggedErrors(TypeError)))

    def test_slow_method(self) -> None:
        """A method that takes time holds nobody up, and its acknowledgement comes when it is through."""
        client = self.connected()
        client.emit("slow", id=1)
        client.emit("pair", id=2)
        self.made().held.callback("late")
        self.assertEqual([(2, [1, 2]), (1, ["late"])], [(id, data) for _, _, id, data in client.packets()])

    def test_too_many_pending(self) -> None:
        """While 256 methods of a connection run, nothing is read from it."""
        client = self.connected()
        for _ in range(MAX_PENDING - 1):
            client.emit("slow")
        self.assertTrue(client.transport.reading)
        client.emit("slow")
        self.assertFalse(client.transport.reading)
        held = self.made().session["held"]
        held.pop().callback(None)
        self.assertTrue(client.transport.reading)
        client.connection.close()
        for deferred in held:
            deferred.callback(None)


class CallTests(EchoWorld):
    """Acknowledgements of clients."""

    def test_call(self) -> None:
        """A call gives the client's answer: None, one argument, or a tuple."""
        client = self.connected()
        for arguments, expected in (("[]", None), ("[5]", 5), ("[1,2]", (1, 2)), ("[[]]", [])):
            called = self.made().call("question", "x")
            ((type, _, id, data),) = client.packets()
            self.assertEqual((2, ["question", "x"]), (type, data))
            client.send(f"3{id}{arguments}")
            self.assertEqual(expected, self.successResultOf(called))

    def test_binary_answer(self) -> None:
        """The answer may be binary."""
        client = self.connected()
        called = self.made().call("question")
        ((_, _, id, _),) = client.packets()
        client.send(f'61-{id}[{{"_placeholder":true,"num":0}}]', b"\x07")
        self.assertEqual(b"\x07", self.successResultOf(called))

    def test_timeout(self) -> None:
        """A client that doesn't answer in time makes the call fail, and its answer is ignored later."""
        client = self.connected()
        called = self.made().call("question", timeout=2)
        self.clock.pump([0.25] * 7)
        self.assertNoResult(called)
        self.clock.pump([0.25] * 3)
        self.assertEqual([], self.failureResultOf(called, TimedOut).value.answers)
        client.send("30[1]")
        self.assertIsNone(client.closed)

    def test_disconnected(self) -> None:
        """A call fails at once if the client goes, or is gone."""
        client = self.connected()
        called = self.made().call("question")
        client.connection.close("transport close")
        self.failureResultOf(called, TimedOut)
        self.failureResultOf(self.made().call("question"), TimedOut)

    def test_waiting_method(self) -> None:
        """If a method doesn't get its answer as the client has gone, nothing is logged; if it came too late, it is."""
        client = self.connected()
        client.emit("ask")
        client.connection.close("transport close")
        self.assertEqual(0, self.app.counters.method_errors)
        self.connected().emit("ask")
        self.clock.pump([0.25] * 8)
        self.assertEqual(1, self.app.counters.method_errors)
        self.flushLoggedErrors(TimedOut)

    def test_cancelled(self) -> None:
        """A call may be cancelled; the answer is ignored then."""
        client = self.connected()
        called = self.made().call("question")
        called.cancel()
        self.failureResultOf(called)
        client.send("30[1]")

    def test_unknown_acknowledgement(self) -> None:
        """An acknowledgement that nobody asked for is ignored."""
        client = self.connected()
        client.send("3123[]")
        self.assertIsNone(client.closed)


class DisconnectTests(EchoWorld):
    """The end of a socket."""

    def test_client_disconnects(self) -> None:
        """A client that leaves a namespace keeps its connection and the other namespaces."""
        client = self.connected("/", "/custom")
        client.send("1/custom,")
        self.assertEqual("client namespace disconnect", self.made().reason)
        client.emit("pair", id=1)
        self.assertEqual(1, len(client.packets()))

    def test_server_disconnects(self) -> None:
        """The server ends one namespace, and the client may connect to it again."""
        client = self.connected("/", "/custom")
        self.made().disconnect()
        self.assertEqual([(1, "/custom", None, None)], client.packets())
        self.assertEqual("server namespace disconnect", self.made().reason)
        client.send("0/custom,")
        self.assertEqual(0, client.packets()[0][0])

    def test_server_closes(self) -> None:
        """The server ends the connection with all of its namespaces."""
        client = self.connected("/", "/custom")
        self.made().disconnect(close=True)
        self.assertEqual("server namespace disconnect", client.closed)
        self.assertEqual({"server namespace disconnect"}, {one.reason for one in Echo.made})

    def test_middle_of_method(self) -> None:
        """A method that is under way when its socket ends comes to its end, and nothing is sent."""
        client = self.connected()
        client.emit("slow", id=1)
        namespace = self.made()
        client.connection.close("transport close")
        namespace.held.callback(1)
        namespace.emit("too late")
        namespace.enter("room")
        self.assertEqual([], client.packets())
        self.assertEqual(0, len(namespace.rooms))

    def test_rooms_after_the_end(self) -> None:
        """In on_disconnect the socket is in no room, and knows in which it was."""
        seen: list[Any] = []

        class Leaving(Namespace):
            def on_connect(self, auth: dict[str, Any]) -> None:
                self.enter("room")

            def on_disconnect(self, reason: str) -> None:
                seen.append(self.rooms)
                self.to(*self.rooms).emit("left", self.id)

        self.serve({"/": Leaving})
        first, second = self.connected(), self.connected()
        first.connection.close("transport close")
        self.assertEqual([frozenset(("room",))], seen)
        self.assertEqual(1, len(second.events("left")))

    def test_failing_on_disconnect(self) -> None:
        """What on_disconnect raises is logged."""

        class Broken(Namespace):
            def on_disconnect(self, reason: str) -> None:
                raise RuntimeError

        self.serve({"/": Broken})
        self.connected().connection.close()
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))


class Kept(Echo):
    """Refuses, waits, calls and follows as its client asks."""

    async def on_connect(self, auth: dict[str, Any]) -> None:
        self.made_here += map(weakref.ref, (self, self._socket, self._socket._owner))
        if auth.get("wait"):
            await self.waiting
        if auth.get("refuse"):
            raise Refused("no")
        if "room" in auth:
            await self.follow(auth["room"])

    async def on_follow(self, room: str) -> Any:
        return await self.follow(room)

    made_here: list[weakref.ref[Any]] = []
    waiting: Deferred[None]


class GarbageTests(SocketIOWorld):
    """What is left of a socket."""

    def setUp(self) -> None:
        super().setUp()
        self.serve({"/": Kept})
        gc.disable()
        self.addCleanup(gc.enable)

    def check_freed(self, name: str, use: Callable[[SocketIOClient], object], auth: Any = None) -> None:
        gc.collect()
        Kept.made_here.clear()
        Kept.waiting = Deferred()
        client = self.connected(auth=auth)
        use(client)
        self.clock.advance(0)
        client.connection.close()
        Kept.waiting.callback(None)
        self.clock.pump([0.25] * 4)
        self.assertEqual([None] * 3, [one() for one in Kept.made_here], name)

    def test_no_cycles(self) -> None:
        """A socket that is over, and its namespace, need no garbage collector, however they have ended."""
        use: dict[str, Callable[[SocketIOClient], object]] = {
            "the end of the connection": lambda client: None,
            "a client that leaves": lambda client: client.send("1"),
            "a server that disconnects": lambda client: self.app.of("/").disconnect(),
            "a packet that is none": lambda client: client.send("nonsense"),
            "a call under way": lambda client: client.emit("ask", id=1),
            "a native room": lambda client: client.emit("follow", "lobby", id=1),
            "a native room that is none": lambda client: client.emit("follow", "no room", id=1),
            "a wrong number of arguments": lambda client: client.emit("one", 1, 2, 3, id=1),
        }
        for name, one in use.items():
            self.check_freed(name, one)
        for auth in ({"refuse": True}, {"room": "no room"}, {"wait": True}):
            self.check_freed(str(auth), lambda client: None, auth)


class OldVersionTests(EchoWorld):
    """Version 4 of Socket.IO, on version 3 of Engine.IO."""

    def test_implicit_connect(self) -> None:
        """The main namespace is connected to at once, and the socket's id is the connection's."""
        client = self.open(3)
        self.assertEqual([b"0"], client.take())
        self.assertEqual("sid1", self.made().id)
        client.emit("message", 1)
        self.assertEqual([["message-back", 1]], client.events())

    def test_namespace_with_query(self) -> None:
        """What the client gives stands in the namespace's query; the id has the namespace before it."""
        client = self.open(3)
        client.take()
        client.send("0/custom?token=abc,")
        self.assertEqual([b"0/custom,"], client.take())
        self.assertEqual(({"token": "abc"}, "/custom#sid1"), (self.made().session["auth"], self.made().id))

    def test_refused(self) -> None:
        """A refusal is the data if there is any, or else the message."""

        class Closed(Namespace):
            def on_connect(self, auth: dict[str, Any]) -> None:
                raise Refused("members only", {"retry": False} if auth else None)

        self.serve({"/": Closed})
        client = self.open(3)
        self.assertEqual([b'4"members only"'], client.take())
        client.send("0/nope,")
        self.assertEqual([b'4/nope,"Invalid namespace"'], client.take())


class RateTests(EchoWorld):
    """A client that sends events too fast."""

    def test_slowed_down(self) -> None:
        """It is read no more for a while, and nothing that it has sent is lost."""
        self.hub = make_hub(self.store, self.clock, rates=DEFAULTS)
        self.serve({"/": Echo})
        client = self.connected()
        most = 20_000
        sent = 0
        while client.transport.reading and sent < most:
            client.emit("message", sent)
            sent += 1
        self.assertLess(sent, most)
        self.assertEqual(sent, len(client.events("message-back")))
        self.clock.pump([0.25] * 40)
        self.assertTrue(client.transport.reading)
