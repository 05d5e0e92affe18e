"""Tests for :mod:`realtime_chat.socketio.native`: native rooms from Socket.IO, and back."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred

from realtime_chat import composition
from realtime_chat.broker.local import LocalBroker
from realtime_chat.core.access import AccessPolicy
from realtime_chat.socketio import Namespace, PubSubNamespace, Rooms
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import Position
from realtime_chat.values.rates import COMMANDS, DEFAULTS
from tests.fakes import make_hub, tokens
from tests.site_tokens import SiteTokens
from tests.socketio.world import SocketIOClient, SocketIOWorld


class Lobby(Namespace):
    """Follows a native room, and publishes to it."""

    async def on_connect(self, auth: dict[str, Any]) -> None:
        self.joined = await self.follow("lobby", since=auth.get("since"), last=auth.get("last"))
        self.emit("joined", self.joined["position"])

    async def on_say(self, data: Any) -> Any:
        return await self.publish("lobby", data)

    def on_say_unawaited(self, data: Any) -> Any:
        return self.publish("lobby", data)

    def on_who(self) -> Any:
        return {"name": self.user.name, "guest": self.user.guest}


class FollowTests(SocketIOWorld):
    """A namespace that follows a native room."""

    history = 50

    def setUp(self) -> None:
        super().setUp()
        self.serve({"/": Lobby})

    def follower(self, auth: str = "") -> SocketIOClient:
        """A client whose socket follows the lobby."""
        client = self.open()
        client.send(f"0{auth}")
        self.turn()
        return client

    def messages(self, client: SocketIOClient) -> list[Any]:
        """The data of the messages that a client got."""
        self.turn()
        return [message["data"] for _, message in client.events("message")]

    def test_messages(self) -> None:
        """What native clients publish comes as events, with the position and who said it."""
        client = self.follower()
        self.publish("hello")
        self.turn()
        ((_, message),) = client.events("message")
        self.assertEqual(("lobby", "hello"), (message["room"], message["data"]))
        self.assertLessEqual({"position", "from", "at"}, set(message))

    def test_publish(self) -> None:
        """What a socket publishes reaches native clients, and its acknowledgement has the position."""
        _, native = self.joined()
        client = self.follower()
        client.take()
        for name in ("say", "say_unawaited"):
            client.emit(name, {"n": 1}, id=1)
        self.turn()
        acks = [data[0]["type"] for type, _, _, data in client.packets() if type == 3]
        self.assertEqual(["published", "published"], acks)
        self.assertEqual([{"n": 1}] * 2, self.data(native))

    def test_messages_after_connect(self) -> None:
        """Messages of a room that is followed in on_connect come after the answer, and what is emitted there."""
        self.publish(*range(3))
        client = self.follower('{"last":3}')
        kinds = [data[0] if type == 2 else type for type, _, _, data in client.packets()]
        self.assertEqual([0, "joined", "message", "message", "message"], [kind for kind in kinds if kind != "presence"])

    def test_resume(self) -> None:
        """A position leads on from there, with nothing twice and nothing missing."""
        self.publish(*range(3))
        client = self.follower('{"last":2}')
        (_, first), _ = client.events("message")
        client.connection.close()
        self.publish(3)
        again = self.follower(f'{{"since":"{first["position"]}"}}')
        self.assertEqual([2, 3], self.messages(again))

    def test_slow_client(self) -> None:
        """A client that doesn't read is left behind, with nothing queued, and gets all from the log later."""
        client = self.follower()
        self.messages(client)
        client.pause()
        for number in range(40):
            self.publish(number)
            self.turn()
        self.assertEqual(0, client.connection.queued)
        client.resume()
        self.assertEqual(list(range(40)), self.messages(client))

    def test_too_slow_for_the_log(self) -> None:
        """If the log no longer holds what was missed, the client is told by a reset."""
        client = self.follower()
        self.messages(client)
        client.pause()
        for number in range(80):
            self.publish(number)
            self.turn()
        client.resume()
        self.turn()
        events = [event for event in client.events() if event[0] in ("reset", "message")]
        self.assertEqual("reset", events[0][0])
        self.assertEqual(30, Position.parse(events[0][1]["position"]).offset)
        self.assertEqual(list(range(30, 80)), [event[1]["data"] for event in events[1:]])

    def test_guest(self) -> None:
        """Without a token the user is a guest."""
        client = self.follower()
        client.take()
        client.emit("who", id=1)
        (who,) = [data[0] for type, _, _, data in client.packets() if type == 3]
        self.assertTrue(who["guest"])

    def test_end(self) -> None:
        """When the connection ends, so does the session on the hub."""
        before = len(self.hub.sessions)
        client = self.follower()
        self.assertEqual(before + 1, len(self.hub.sessions))
        client.connection.close()
        self.assertEqual(before, len(self.hub.sessions))

    def test_binary_data(self) -> None:
        """Binary data can't be published to a native room, and the client is told why."""
        client = self.follower()
        client.take()
        client.send('51-7["say",{"_placeholder":true,"num":0}]', b"x")
        self.turn()
        (error,) = [data[0] for type, _, _, data in client.packets() if type == 3]
        self.assertEqual("bad_request", error["code"])
        self.assertIn("binary", error["message"])

    def test_deep_data(self) -> None:
        """Data that nests too deep for the log is refused."""
        client = self.follower()
        client.take()
        client.send('27["say",' + "[" * 60 + "]" * 60 + "]")
        self.turn()
        (error,) = [data[0] for type, _, _, data in client.packets() if type == 3]
        self.assertEqual("bad_request", error["code"])

    def test_stopping(self) -> None:
        """When the server stops, the connection is closed, so that the client comes back."""
        client = self.follower()
        client.take()
        self.hub.stop()
        self.assertEqual("forced close", client.closed)
        self.assertEqual(["goodbye"], [event[0] for event in client.events()])


class SlowConnectTests(SocketIOWorld):
    """A socket that follows a room while its on_connect still runs."""

    def test_left_behind(self) -> None:
        """Nothing piles up until CONNECT is answered; then all comes once, from the log."""
        made: list[Any] = []

        class Slow(Namespace):
            async def on_connect(self, auth: dict[str, Any]) -> None:
                made.append((self, Deferred()))
                await self.follow("lobby")
                await made[0][1]

        self.serve({"/": Slow})
        client = self.open()
        client.send("0")
        for number in range(10):
            self.publish(number)
            self.turn()
        namespace, held = made[0]
        texts = [packet.data for message in namespace._socket._waiting for packet in message.packets]
        self.assertEqual([], [text for text in texts if b'"message"' in text])
        held.callback(None)
        self.turn()
        self.assertEqual(list(range(10)), [event[1]["data"] for event in client.events("message")])


class FollowRefusedTests(SocketIOWorld):
    """A room that one may not read."""

    def test_bad_room(self) -> None:
        """What follow refuses in on_connect refuses the client, with the code."""

        class Wrong(Namespace):
            def on_connect(self, auth: dict[str, Any]) -> Any:
                return self.follow("no room!")

        self.serve({"/": Wrong})
        client = self.open()
        client.send("0")
        ((type, _, _, data),) = client.packets()
        self.assertEqual((4, {"code": "bad_room"}), (type, data["data"]))

    def test_after_the_end(self) -> None:
        """A socket that is disconnected follows nothing any more."""
        made: list[Namespace] = []

        class Late(Namespace):
            def on_connect(self, auth: dict[str, Any]) -> None:
                made.append(self)

        self.serve({"/": Late})
        self.connected().connection.close()
        self.failureResultOf(made[0].follow("lobby"), RealtimeError)


class Chat(PubSubNamespace):
    """Rooms by number; number 13 is refused."""

    def subscribe_room(self, room: Any) -> Any:
        return False if room == 13 else f"room-{room}" if isinstance(room, int) else None

    def on_user_message(self, room: str, message: str) -> Any:
        return self.publish(room, {"message": message})


class PubSubTests(SocketIOWorld):
    """The ready-made namespace for publish and subscribe."""

    def setUp(self) -> None:
        super().setUp()
        self.serve({"/chat": Chat})

    def subscribe(self, client: SocketIOClient, room: Any) -> Any:
        """The answer to a subscription."""
        client.emit("subscribe", room, namespace="/chat", id=1)
        self.turn()
        return next(data[0] for type, _, _, data in client.packets() if type == 3)

    def test_publication(self) -> None:
        """All subscribers get what is published: the data, and where it stands."""
        one, two = self.connected("/chat"), self.connected("/chat")
        self.assertEqual("room-7", self.subscribe(one, 7)["room"])
        self.subscribe(two, "room-7")
        one.emit("user_message", "room-7", "hi", namespace="/chat")
        self.turn()
        for client in (one, two):
            ((_, data, info),) = client.events("pubblication")
            self.assertEqual(({"message": "hi"}, {"room", "position", "from", "at"}), (data, set(info)))

    def test_veto(self) -> None:
        """A room that the namespace refuses is answered by False."""
        self.assertIs(False, self.subscribe(self.connected("/chat"), 13))

    def test_wrong_room(self) -> None:
        """What can't be a room is refused."""
        self.assertEqual("bad_room", self.subscribe(self.connected("/chat"), {"a": 1})["code"])

    def test_unsubscribe(self) -> None:
        """After unsubscribe nothing comes any more."""
        client = self.connected("/chat")
        self.subscribe(client, 7)
        client.emit("unsubscribe", "room-7", namespace="/chat")
        self.turn()
        client.take()
        self.publish("x", room="room-7")
        self.turn()
        self.assertEqual([], client.events("pubblication"))


class RoomsTests(SocketIOWorld):
    """The native commands as events."""

    def setUp(self) -> None:
        super().setUp()
        self.serve({"/": Rooms})

    def ask(self, client: SocketIOClient, name: str, *arguments: Any) -> Any:
        """The acknowledgement of an event."""
        client.emit(name, *arguments, id=1)
        self.turn()
        return next(data[0] for type, _, _, data in client.packets() if type == 3)

    def test_commands(self) -> None:
        """Each command is answered as it is natively."""
        client = self.connected()
        for name, fields, type in (
            ("hello", {"name": "Bob"}, "welcome"),
            ("join", {"room": "lobby"}, "joined"),
            ("publish", {"room": "lobby", "data": 1}, "published"),
            ("set", {"room": "lobby", "name": "a", "data": 1}, "set"),
            ("history", {"room": "lobby"}, "history"),
            ("signal", {"room": "lobby", "event": "typing", "data": 1}, "ok"),
            ("state", {"state": {}}, "ok"),
            ("members", {"room": "lobby"}, "members"),
            ("leave", {"room": "lobby"}, "left"),
        ):
            self.assertEqual(type, self.ask(client, name, fields)["type"], name)

    def test_properties(self) -> None:
        """Who joins with properties is told them, and then each change by an event of its kind."""
        client = self.connected()
        self.ask(client, "set", {"room": "lobby", "name": "a", "data": 1})
        joined = self.ask(client, "join", {"room": "lobby", "properties": True})
        self.assertEqual([("a", 1)], [(one["name"], one["data"]) for one in joined["properties"]["values"]])
        client.emit("set", {"room": "lobby", "name": "a", "data": [2]})
        self.turn()
        ((_, change),) = client.events("property")
        self.assertEqual(("lobby", "a", [2]), (change["room"], change["name"], change["data"]))

    def test_errors(self) -> None:
        """Each error is the acknowledgement, with its code."""
        client = self.connected()
        for name, arguments, code in (
            ("join", ({"room": "no room!"},), "bad_room"),
            ("join", ({},), "bad_request"),
            ("join", (5,), "bad_request"),
            ("join", (), "bad_request"),
            ("leave", ({"room": "lobby"},), "not_joined"),
            ("publish", ({"room": "lobby"},), "bad_request"),
            ("publish", ({"room": "lobby", "data": 1, "type": "join"},), None),
        ):
            self.assertEqual(code, self.ask(client, name, *arguments).get("code"), (name, arguments))

    def test_too_many_errors(self) -> None:
        """After too many errors the client is disconnected."""
        client = self.connected()
        for _ in range(self.hub.limits.max_errors):
            client.emit("join", {}, id=1)
        self.turn()
        self.assertEqual([1, 2], sorted({type for type, _, _, _ in client.packets()} - {3}))

    def test_read_from_position(self) -> None:
        """A room is resumed by a position."""
        client = self.connected()
        self.publish(1, 2, 3)
        position = self.ask(client, "history", {"room": "lobby", "limit": 3})["messages"][0]["position"]
        self.ask(client, "join", {"room": "lobby", "since": position})
        self.publish(4)
        self.turn()
        self.assertEqual([4], [event[1]["data"] for event in client.events("message")])


class ChargeTests(SocketIOWorld):
    """What events cost."""

    def setUp(self) -> None:
        super().setUp()
        self.hub = make_hub(self.store, self.clock, rates=DEFAULTS)
        self.serve({"/": Rooms})

    def cost(self, *event: Any) -> int:
        """How many commands an event costs its address."""
        usage = self.hub.limiter.address("192.0.2.1")
        client = self.connected()
        client.emit(*event, id=1)
        self.turn()
        used = usage.full_at[COMMANDS] - self.clock.seconds()
        self.clock.advance(100)
        return round(used / usage.scope.cost(COMMANDS, 1))

    def test_once(self) -> None:
        """A native command costs as much as any other event: one command. So does one that is refused."""
        for event in (
            ("join", {"room": "lobby"}),
            ("publish", {"room": "lobby", "data": 1}),
            ("members", {"room": "lobby"}),
            ("leave", {"room": "lobby"}),
            ("publish", {"room": "lobby", "data": json.loads("[" * 40 + "]" * 40)}),
            ("publish", {"room": "no room!", "data": 1}),
            ("join", {}),
            ("join",),
            ("nothing",),
        ):
            self.assertEqual(1, self.cost(*event), event)

    def test_limits(self) -> None:
        """A client that sends commands too fast is read no more for a while."""
        client = self.connected()
        for _ in range(20_000):
            client.emit("members", {"room": "lobby"})
            if not client.transport.reading:
                break
        self.assertFalse(client.transport.reading)


class TokenTests(SocketIOWorld):
    """Users with tokens."""

    def setUp(self) -> None:
        super().setUp()
        wall = lambda: 1_795_000_000.0 + self.clock.seconds()  # noqa: E731
        site = self.site = SiteTokens(wall)
        self.hub = composition.make_hub(
            self.store,
            self.clock,
            Limits(),
            wall,
            tokens(1),
            LocalBroker(),
            access=AccessPolicy(is_open=False),
            verify=site.verify,
            token_keys=lambda: site.keys,
        )

        class Member(Namespace):
            def on_connect(self, auth: dict[str, Any]) -> None:
                self.emit("you", self.user.id)

        self.serve({"/": Member, "/rooms": Rooms})

    def answer(self, client: SocketIOClient, auth: Any, namespace: str = "") -> list[Any]:
        """What comes of a CONNECT."""
        client.send(f"0{namespace}{json.dumps(auth)}")
        return [data for _, _, _, data in client.packets()]

    def test_user(self) -> None:
        """The user is that of the token in auth, or in the header Authorization, and is forgotten there."""
        self.assertEqual(["you", "ann"], self.answer(self.open(), {"token": self.site.issue("ann")})[1])
        client = self.open(authorization=b"Bearer " + self.site.issue("bob").encode())
        self.assertIsNone(client.connection.authorization)
        self.assertEqual(["you", "bob"], self.answer(client, {})[1])

    def test_refused(self) -> None:
        """A token that isn't accepted refuses the client, with the code, and leaves no session behind."""
        before = len(self.hub.sessions)
        over = self.site.issue("ann", -5.0)
        for token, code in (("nonsense", "unauthorized"), (5, "unauthorized"), (over, "token_expired")):
            (error,) = self.answer(self.open(), {"token": token})
            self.assertEqual({"code": code}, error["data"])
        self.assertEqual(before, len(self.hub.sessions))

    def test_rights(self) -> None:
        """A user may do in a native room what its token says, and a guest nothing."""
        for auth, expected in (({"token": self.site.issue("ann", lobby="rw")}, "published"), ({}, "error")):
            client = self.open()
            self.answer(client, auth, "/rooms,")
            client.emit("publish", {"room": "lobby", "data": 1}, namespace="/rooms", id=1)
            self.turn()
            (answer,) = [data[0] for type, _, _, data in client.packets() if type == 3]
            self.assertEqual(expected, answer["type"])

    def test_expired(self) -> None:
        """When the time of the token is over, the client is told, and loses its connection."""
        client = self.open()
        self.answer(client, {"token": self.site.issue("ann", 5.0)})
        self.clock.pump([0.25] * 40)
        self.assertEqual(["goodbye"], [event[0] for event in client.events()])
        self.assertEqual("forced close", client.closed)
