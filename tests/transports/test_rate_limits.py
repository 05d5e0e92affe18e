"""Limits of clients, users and addresses, struck on each transport beside an honest client."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import treq
from twisted.internet import reactor
from twisted.web.client import HTTPConnectionPool

from realtime_chat.core.access import AccessPolicy
from realtime_chat.http import clients, commands, rooms
from realtime_chat.service import Configuration
from realtime_chat.transports import sse, websocket
from realtime_chat.values.access import RoomRule, RoomRules
from realtime_chat.values.limits import Limits
from realtime_chat.values.rates import Rate, RateLimits, ScopeLimits
from tests.clients import EventClient, HTTPClient, PollClient, SocketClient
from tests.transports.test_contract import KINDS, ServedTestCase

_SLOW = Rate(0.2, 4)
"""So slow that a test meets nothing of what it brings: four at once, and the next after five seconds."""

Act = Callable[[Any, int], Awaitable[dict[str, Any]]]


async def _state(client: Any, number: int) -> dict[str, Any]:
    reply: dict[str, Any] = await client.tell(type="state", state={"n": number})
    return reply


ACTS: dict[str, Act] = {
    "commands": lambda client, number: client.tell(type="ping"),
    "publishes": lambda client, number: client.publish(number),
    "bytes": lambda client, number: client.publish("x" * 98),
    "signals": lambda client, number: client.tell(type="signal", room="lobby", event="e", data=number),
    "states": _state,
    "rooms": lambda client, number: client.tell(type="publish", room=f"r{number}", data=1),
}
"""What strikes a limit, if it is done again and again."""


class LimitedTestCase(ServedTestCase):
    """A daemon with limits; the address of a request is what the test says."""

    limits: dict[str, Any] = {"poll_grace": 4.0}
    rates = RateLimits()
    rules: tuple[RoomRule, ...] = ()
    address: str | None = None

    def setUp(self) -> None:
        for module in (clients, commands, rooms, sse, websocket):
            self.patch(module, "address_of", lambda request: self.address)
        self.pool = HTTPConnectionPool(reactor)
        self.addCleanup(self.pool.closeCachedConnections)
        super().setUp()

    def configuration(self) -> Configuration:
        return Configuration(
            ("tcp:0:interface=127.0.0.1",),
            limits=Limits(history=self.history, **self.limits),
            access=AccessPolicy(RoomRules(self.rules)),
            rate_limits=self.rates,
        )

    async def limit(self, scope: str, **rates: Rate) -> None:
        """Go on with a daemon that has these limits."""
        self.rates = RateLimits(**{scope: ScopeLimits(**rates)})
        await self.serve_anew()

    @property
    def limited(self) -> dict[tuple[str, str], int]:
        """How often each limit was struck."""
        return dict(self.service.hub.counters.limited)

    async def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, str | None]:
        """The status, the JSON and Retry-After of an answer."""
        url = f"http://127.0.0.1:{self.port}/{path}"
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        response = await treq.request(method, url, headers=names, json=body, pool=self.pool, timeout=60)
        after = (response.headers.getRawHeaders("Retry-After") or [None])[0]
        return response.code, json.loads(await response.content()), after

    def assert_told(self, error: dict[str, Any], scope: str, kind: str) -> None:
        """Assert that a refusal says when to go on, and was counted."""
        self.assertEqual(("rate_limited", True), (error.get("code"), error.get("temporary")), error)
        self.assertTrue(0 < error["after"] <= 20, error)
        self.assertIn("wait as many seconds as after says", error["message"])
        self.assertLessEqual(1, self.limited[scope, kind])
        self.assertEqual({(scope, kind)}, set(self.limited))


async def errors_of(client: Any, act: Act, times: int) -> list[dict[str, Any]]:
    """The errors that a client gets for doing something several times."""
    errors = []
    for number in range(times):
        reply = await act(client, number)
        if reply.get("type") == "error":
            errors.append(reply)
    return errors + [event for event in client.of_type("error") if "id" not in event]


class CommandTests(LimitedTestCase):
    """Each limit of commands, on each transport."""

    async def test_client(self) -> None:
        """Who exceeds a limit of its own is told, and is stopped by nothing else; an honest client notices nothing."""
        for kind in KINDS:
            for limit, act in ACTS.items():
                field = "signals" if limit == "states" else limit
                rates = {field: Rate(0.2, 5)} if limit != "commands" else {field: Rate(0.2, 20)}
                await self.limit("client", **({"bytes": Rate(20, 450)} if limit == "bytes" else rates))
                honest = await self.started(SocketClient)
                busy = await self.started(kind)
                errors = await errors_of(busy, act, 22 if limit == "commands" else 7)
                self.assertLessEqual(1, len(errors), (kind, limit))
                self.assert_told(errors[0], "client", limit)
                self.assertEqual("published", (await honest.publish("still here"))["type"], (kind, limit))
                await honest.until(lambda honest=honest: "still here" in honest.data)
                await busy.stop()

    async def test_properties_are_publishes(self) -> None:
        """A change of a property takes from the same buckets as a publish, over each transport and by plain HTTP."""

        async def set_by_put(client: Any, number: int) -> dict[str, Any]:
            _, reply, _ = await self.request("PUT", "rooms/lobby/properties/a", {"data": "x" * 60})
            return reply  # type: ignore[no-any-return]

        async def set_by_command(client: Any, number: int) -> dict[str, Any]:
            return await client.tell(type="set", room="lobby", name="a", data="x" * 60)  # type: ignore[no-any-return]

        for limit, rate in (("publishes", Rate(0.2, 5)), ("bytes", Rate(20, 330)), ("commands", Rate(0.2, 7))):
            for kind in KINDS:
                await self.limit("client", **{limit: rate})
                client = await self.started(kind)
                if limit != "commands":
                    self.assertEqual("published", (await client.publish("x" * 60))["type"])
                errors = await errors_of(client, set_by_command, 8)
                self.assertLessEqual(1, len(errors), (kind, limit))
                self.assert_told(errors[0], "client", limit)
                await client.stop()
            await self.limit("address", **{limit: rate})
            self.address = "192.0.2.1"
            errors = await errors_of(self.client(SocketClient), set_by_put, 9)
            self.assert_told(errors[0], "address", limit)
            self.address = None

    async def test_address(self) -> None:
        """All clients of an address have its limits together; another address has its own."""
        for kind in (SocketClient, PollClient):
            await self.limit("address", publishes=_SLOW)
            self.address = "192.0.2.1"
            crowd = [await self.started(kind) for _ in range(3)]
            replies = [await client.publish(number) for number, client in enumerate(crowd * 2)]
            self.assertEqual(["published"] * 4 + ["error"] * 2, [reply["type"] for reply in replies])
            self.assert_told(replies[-1], "address", "publishes")
            self.address = "192.0.2.2"
            other = await self.started(kind)
            self.assertEqual("published", (await other.publish(1))["type"])

    async def test_new_guests(self) -> None:
        """An address has so many new guests, by whatever way they come; who is one already goes on."""
        await self.limit("address", guests=_SLOW)
        self.address = "192.0.2.1"
        known = await self.started(SocketClient)
        await self.started(PollClient)
        await self.started(EventClient)
        plain = self.client(HTTPClient)
        self.assertEqual("welcome", (await plain.tell(type="hello"))["type"])
        self.assert_told(await plain.tell(type="hello"), "address", "guests")
        for path in ("poll?room=lobby", "poll?room=lobby&since=abcdefgh:0", "sse?room=lobby"):
            status, error, after = await self.request("GET", path)
            self.assertEqual((429, True), (status, int(after or 0) >= 1), path)
            self.assert_told(error, "address", "guests")
        socket = self.client(SocketClient)
        await socket.connect()
        self.assert_told(await socket.tell(type="hello"), "address", "guests")
        self.assertEqual("published", (await known.publish(1))["type"])

    async def test_joins(self) -> None:
        """Rooms count that are joined by commands, by streams, and by polls that begin."""
        await self.limit("client", joins=_SLOW)
        socket = self.client(SocketClient)
        await socket.connect()
        replies = [await socket.tell(type="join", room=f"r{number}") for number in range(5)]
        self.assertEqual(["joined"] * 4 + ["error"], [reply["type"] for reply in replies])
        self.assert_told(replies[-1], "client", "joins")
        for path in ("poll", "sse"):
            await self.limit("client", joins=_SLOW)
            _, welcome, _ = await self.request("POST", "commands", {"type": "hello"})
            client = {"Realtime_Client": welcome["client"]}
            await self.request("GET", "poll?room=a&room=b&room=c&wait=0", **client)
            status, error, after = await self.request("GET", f"{path}?room=d&room=e", **client)
            self.assertEqual((429, "5"), (status, after))
            self.assert_told(error, "client", "joins")

    async def test_reads(self) -> None:
        """What reads the store counts as a join: the history, by a command and over HTTP; polls that go on
        after a position, if what they read isn't in memory."""
        await self.limit("client", joins=_SLOW)
        socket = self.client(SocketClient)
        await socket.connect()
        replies = [await socket.tell(type="history", room="lobby") for _ in range(5)]
        self.assertEqual(["history"] * 4 + ["error"], [reply["type"] for reply in replies])
        self.assert_told(replies[-1], "client", "joins")
        two = "room=d&since=abcdefgh:1&room=e&since=abcdefgh:1"
        for path in ("rooms/lobby/messages", f"poll?{two}"):
            await self.limit("client", joins=Rate(0.2, 3))
            _, welcome, _ = await self.request("POST", "commands", {"type": "hello"})
            client = {"Realtime_Client": welcome["client"]}
            await self.request("GET", "poll?room=a&room=b&room=c&wait=0", **client)
            status, error, _ = await self.request("GET", path, **client)
            self.assertEqual(429, status, path)
            self.assert_told(error, "client", "joins")

    async def test_polls_in_memory(self) -> None:
        """A poll that goes on in a room that is in memory reads no store, and is no join."""
        await self.limit("client", joins=_SLOW)
        _, welcome, _ = await self.request("POST", "commands", {"type": "hello"})
        client = {"Realtime_Client": welcome["client"]}
        _, answer, _ = await self.request("GET", "poll?room=lobby&wait=0", **client)
        for _ in range(9):
            since = answer["positions"]["lobby"]
            status, answer, _ = await self.request("GET", f"poll?room=lobby&wait=0&since={since}", **client)
            self.assertEqual(200, status)

    async def test_connects(self) -> None:
        """A client that connects too often is told so in the answer to its hello, or to its stream."""
        await self.limit("client", connects=_SLOW)
        _, welcome, _ = await self.request("POST", "commands", {"type": "hello"})
        client, replies = welcome["client"], []
        for _ in range(5):
            socket = self.client(SocketClient)
            await socket.connect()
            replies.append(await socket.tell(type="hello", client=client))
        self.assertEqual(["welcome"] * 4 + ["error"], [reply["type"] for reply in replies])
        self.assert_told(replies[-1], "client", "connects")
        status, error, _ = await self.request("GET", "sse?room=lobby", Realtime_Client=client)
        self.assertEqual(429, status)
        self.assert_told(error, "client", "connects")

    async def test_polls_and_streams_are_commands(self) -> None:
        """A poll, a stream, and a read or a publish by a plain request is a command as any other."""
        for method, path, body in (
            ("GET", "poll?room=lobby&since=abcdefgh:0&wait=0", None),
            ("GET", "rooms", None),
            ("GET", "rooms/lobby/messages", None),
            ("GET", "rooms/lobby/members", None),
            ("POST", "rooms/lobby/messages", {"data": 1}),
            ("POST", "commands", {"type": "ping"}),
        ):
            await self.limit("client", commands=_SLOW)
            welcome = self.service.hub.identities.new_guest("Ann")
            answers = [await self.request(method, path, body, Realtime_Client=welcome.client) for _ in range(5)]
            self.assertEqual([True] * 4 + [False], [status < 300 for status, _, _ in answers], path)
            status, error, after = answers[-1]
            self.assertEqual((429, "5"), (status, after), path)
            self.assert_told(error, "client", "commands")

    async def test_plain_requests(self) -> None:
        """Plain requests without a client have the limits of their address, for messages, bytes and new rooms."""
        for limit, rate, path in (
            ("publishes", _SLOW, lambda number: "lobby"),
            ("bytes", Rate(20, 400), lambda number: "lobby"),
            ("rooms", _SLOW, lambda number: f"r{number}"),
        ):
            await self.limit("address", **{limit: rate})
            self.address = "192.0.2.1"
            body = {"data": "x" * 98}
            answers = [await self.request("POST", f"rooms/{path(number)}/messages", body) for number in range(5)]
            self.assertEqual([201] * 4 + [429], [status for status, _, _ in answers], limit)
            self.assert_told(answers[-1][1], "address", limit)
            self.address = None
            self.assertEqual(201, (await self.request("POST", "rooms/other/messages", body))[0])

    async def test_array(self) -> None:
        """In an array, what exceeds a limit is refused by itself, and what follows it isn't stored before it."""
        await self.limit("client", publishes=_SLOW)
        client = await self.started(PollClient)
        keys = [f"k{number}" for number in range(8)]
        array = [
            {"type": "publish", "room": "lobby", "data": key, "key": key, **({"after": before} if before else {})}
            for key, before in zip(keys, [None, *keys], strict=False)
        ]
        replies = await client.tell_all([*array, {"type": "ping"}])
        codes = [reply.get("code", reply["type"]) for reply in replies]
        self.assertEqual(["published"] * 4 + ["rate_limited"] + ["out_of_order"] * 3 + ["pong"], codes)
        self.assertEqual(1, self.limited["client", "publishes"])

    async def test_unreadable(self) -> None:
        """What can't be read costs a command, too."""
        await self.limit("client", commands=_SLOW)
        socket = self.client(SocketClient)
        await socket.connect()
        for number in range(6):
            socket.send(type="nonsense", id=number)
        await socket.until(lambda: 5 in socket.replies)
        codes = [socket.replies[number]["code"] for number in range(6)]
        self.assertEqual(["unknown_command"] * 4 + ["rate_limited"] * 2, codes)


class FloodTests(LimitedTestCase):
    """A client that sends as fast as it can."""

    async def test_is_not_read(self) -> None:
        """A WebSocket that has struck a limit isn't read for a while; it is not closed, and its pings are answered."""
        await self.limit("client", commands=Rate(1, 20))
        socket = await self.started(SocketClient)
        for number in range(3000):
            socket.send(type="ping", id=number)
        await socket.until(lambda: len(socket.of_type("error")) >= 3)
        self.assertLess(len(socket.of_type("error")), 30)
        self.assertTrue(socket.open)

    async def test_refusals_are_no_errors(self) -> None:
        """However often a client is refused, it isn't dismissed for that."""
        self.limits = {**self.limits, "max_errors": 3}
        await self.limit("client", publishes=_SLOW)
        client = await self.started(PollClient)
        for number in range(15):
            await client.publish(number)
        self.assertEqual("pong", (await client.tell(type="ping"))["type"])


class RuleTests(LimitedTestCase):
    """What rules for rooms tighten."""

    rules = (RoomRule("slow-*", publish_rate=_SLOW, signal_rate=Rate(0.2, 2), max_members=2),)

    async def test_rates(self) -> None:
        """A client is limited in the rooms of the rule, each by itself, and not elsewhere."""
        client = await self.started(SocketClient, "slow-1")
        other = await self.started(SocketClient, "slow-1")
        replies = [await client.publish(number) for number in range(5)]
        self.assertEqual(["published"] * 4 + ["error"], [reply["type"] for reply in replies])
        self.assert_told(replies[-1], "room", "publishes")
        self.assertEqual("published", (await other.publish(1))["type"])
        refused = await client.tell(type="set", room="slow-1", name="a", data=1)
        self.assert_told(refused, "room", "publishes")
        client.room = "lobby"
        self.assertEqual("published", (await client.publish(1))["type"])
        for number in range(3):
            await client.tell(type="signal", room="slow-1", event="e", data=number)
        await other.until(lambda: len(other.of_type("signal")) == 2)
        self.assertEqual(1, self.limited["room", "signals"])

    async def test_members(self) -> None:
        """Who would be one member too many may not join, by any transport; who leaves makes room."""
        first = await self.started(SocketClient, "slow-1")
        await self.started(EventClient, "slow-1")
        socket = self.client(SocketClient)
        await socket.connect()
        error = await socket.tell(type="join", room="slow-1")
        self.assertEqual(("too_many", True), (error["code"], error["temporary"]))
        for path in ("poll", "sse"):
            status, error, _ = await self.request("GET", f"{path}?room=slow-1")
            self.assertEqual((429, "too_many", "slow-1"), (status, error["code"], error.get("room")), path)
        again = self.client(SocketClient)
        await again.connect()
        await again.tell(type="hello", client=(await first.tell(type="hello"))["client"])
        self.assertEqual("joined", (await again.tell(type="join", room="slow-1"))["type"])
        for one in (first, again):
            await one.tell(type="leave", room="slow-1")

        async def has_joined() -> bool:
            return (await socket.tell(type="join", room="slow-1"))["type"] == "joined"

        for _ in count():
            if await has_joined():
                break
