"""Who may do what, over every transport: tokens, rights, readers, renewal and the end of a client's time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import combinations, count
from typing import Any, NamedTuple
from urllib.parse import urlencode

import attrs
import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.web.client import HTTPConnectionPool

from realtime_chat.core.access import AccessPolicy
from realtime_chat.service import Configuration
from realtime_chat.values.access import Grants, RoomRule, RoomRules, format_rights, parse_rights
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import ANONYMOUS, Draft
from tests.clients import EventClient, EventStream, PollClient, SocketClient
from tests.site_tokens import KEY, SiteTokens
from tests.transports.test_contract import ServedTestCase

RIGHTS = ["".join(some) for number in range(5) for some in combinations("rwsp", number)]
"""All sets of the rights that commands need."""


class Reply(NamedTuple):
    """What came of something: the code of an error, or None, and its message."""

    code: str | None
    message: str | None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Reply:
        if answer.get("type") == "error":
            return cls(answer["code"], answer["message"])
        return cls(None, None)


class CountingStore:
    """A store that counts what it is asked."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.asked = 0
        self.hold: Callable[..., Any] | None = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name in ("append", "read_after", "read_before", "rooms"):
            self.asked += 1
            return found if self.hold is None else partial(self.hold, found)
        return found


class AccessTestCase(ServedTestCase):
    """A daemon with keys, whose guests may do what the rules give them."""

    rules: tuple[RoomRule, ...] = ()
    is_open = False
    jsonp = True

    def serve(self) -> None:
        self.tokens = SiteTokens()
        self.numbers = count(1)
        self.pool = HTTPConnectionPool(reactor)
        self.pool.maxPersistentPerHost = 10
        self.addCleanup(self.pool.closeCachedConnections)
        super().serve()

    def make_service(self) -> Any:
        self.counting = self.store = CountingStore(self.store)  # type: ignore[assignment]
        return super().make_service()

    def configuration(self) -> Configuration:
        return Configuration(
            ("tcp:0:interface=127.0.0.1",),
            jsonp=self.jsonp,
            limits=Limits(history=self.history, **self.limits),
            access=AccessPolicy(RoomRules(self.rules), self.is_open),
            verify=self.tokens.verify,
            token_keys=self.tokens.token_keys,
        )

    async def request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Any = None, **headers: str
    ) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        url = f"http://127.0.0.1:{self.port}/{path}" + ("?" + urlencode(query) if query else "")
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        response = await treq.request(method, url, headers=given, json=body, pool=self.pool, timeout=60)
        text = await response.content()
        if text.startswith(b"/**/"):
            text = text[text.index(b"(") + 1 : -2]
        return response.code, json.loads(text)

    async def welcome(self, **hello: Any) -> dict[str, Any]:
        """Say hello over HTTP."""
        _, welcome = await self.request("POST", "commands", body={"type": "hello", **hello})
        self.assertEqual("welcome", welcome["type"], welcome)
        return welcome  # type: ignore[no-any-return]

    async def stream(self, query: Mapping[str, str], *headers: str) -> EventStream:
        """Open an event stream."""
        client = EventClient(reactor, self.port)
        client.take = lambda event: None  # type: ignore[method-assign]
        self.clients.append(client)
        return await client.connect(query, *headers)


@attrs.frozen(eq=False)
class Who:
    """Somebody: what says who it is, in headers, in an address, and in a hello over a WebSocket."""

    kind: str
    headers: dict[str, str]
    query: dict[str, str]
    hello: dict[str, str]


Way = Callable[[Who, str], Awaitable[Reply]]
"""Somebody does something in a room."""


class TableTests(AccessTestCase):
    """What isn't granted is forbidden, over every transport, by every command, to everybody."""

    rules = tuple(RoomRule(f"guests.{rights or 'none'}-*", parse_rights(rights), users=0) for rights in RIGHTS)

    async def somebody(self) -> list[Who]:
        """Each kind of client, and each way in which it says who it is."""
        grants = Grants(tuple((f"users.{rights or 'none'}-*", parse_rights(rights)) for rights in RIGHTS))
        token = self.tokens.issue_for("ann", grants)
        guest, named, user = await self.welcome(), await self.welcome(name="Bob"), await self.welcome(token=token)
        client, reader = user["client"], user["reader"]
        return [
            Who("nobody", {}, {}, {}),
            Who("guest", {"Realtime-Client": guest["client"]}, {}, {"client": guest["client"]}),
            Who("guest", {}, {"client": guest["client"]}, {"client": guest["client"]}),
            Who("guest", {"Realtime-Client": named["client"]}, {}, {"client": named["client"]}),
            Who("guest", {}, {"client": named["client"]}, {"client": named["client"]}),
            Who("user", {"Realtime-Client": client}, {}, {"client": client}),
            Who("user", {"Authorization": f"Bearer {token}"}, {}, {"token": token}),
            Who("user", {"Authorization": f"Bearer {token}", "Realtime-Client": client}, {}, {"client": client}),
            Who("reader", {}, {"reader": reader}, {"client": reader}),
        ]

    # The ways, each by what it needs

    async def by_socket(self, who: Who, command: dict[str, Any]) -> Reply:
        socket = self.sockets.get(who)
        if socket is None:
            socket = self.sockets[who] = self.client(SocketClient)
            await socket.connect()
            if who.hello:
                self.assertEqual("welcome", (await socket.tell(type="hello", **who.hello))["type"])
        socket.send(**command, id="the")
        if command["type"] == "join":
            socket.send(type="leave", room=command["room"])
        await socket.tell(type="ping")
        return Reply.of(socket.replies.pop("the", {}))

    async def by_post(self, who: Who, command: dict[str, Any]) -> Reply:
        _, answer = await self.request("POST", "commands", who.query, command, **who.headers)
        return Reply.of(answer)

    async def by_array(self, who: Who, command: dict[str, Any]) -> Reply:
        _, answers = await self.request("POST", "commands", who.query, [{"type": "ping"}, command], **who.headers)
        return Reply.of(answers[1])

    async def by_script(self, who: Who, command: dict[str, Any]) -> Reply:
        query = {**who.query, "commands": json.dumps(command), "callback": "f"}
        _, answer = await self.request("GET", "commands", query, **who.headers)
        return Reply.of(answer)

    async def by_poll(self, who: Who, room: str) -> Reply:
        _, answer = await self.request("GET", "poll", {**who.query, "room": room, "properties": "1"}, **who.headers)
        return Reply.of(answer)

    async def by_polled_script(self, who: Who, room: str) -> Reply:
        _, answer = await self.request("GET", "poll", {**who.query, "room": room, "callback": "f"}, **who.headers)
        return Reply.of(answer)

    async def by_stream(self, who: Who, room: str) -> Reply:
        headers = [f"{name}: {value}" for name, value in who.headers.items()]
        stream = await self.stream({**who.query, "room": room, "properties": "1"}, *headers)
        await stream.until(lambda: stream.is_stream or b"}" in stream.text)
        error = {} if stream.is_stream else json.loads(stream.text)
        stream.transport.abortConnection()
        return Reply.of(error)

    async def by_rooms(self, who: Who, room: str, below: str, body: Any = None, method: str = "") -> Reply:
        method = method or ("GET" if body is None else "POST")
        _, answer = await self.request(method, f"rooms/{room}/{below}", who.query, body, **who.headers)
        return Reply.of(answer)

    def ways(self) -> list[tuple[str, str, Way]]:
        """Every way to do something: its name, the right that it needs, and how it is done."""
        commands: dict[str, tuple[str, dict[str, Any]]] = {
            "join": ("r", {"properties": True}),
            "history": ("r", {}),
            "publish": ("w", {"data": 1}),
            "set": ("w", {"name": "a", "data": 1}),
            "signal": ("s", {"event": "typing", "data": 1}),
            "members": ("p", {}),
        }
        some = {self.by_socket: commands, self.by_post: commands}
        some |= {
            by: {kind: commands[kind] for kind in ("join", "publish", "set")} for by in (self.by_array, self.by_script)
        }
        ways = [
            (f"{by.__name__} {kind}", right, partial(_command, by, {"type": kind, **fields}))
            for by, commands in some.items()
            for kind, (right, fields) in commands.items()
        ]
        return [
            *ways,
            ("by_poll", "r", self.by_poll),
            ("by_polled_script", "r", self.by_polled_script),
            ("by_stream", "r", self.by_stream),
            ("GET messages", "r", lambda who, room: self.by_rooms(who, room, "messages")),
            ("GET members", "p", lambda who, room: self.by_rooms(who, room, "members")),
            ("POST messages", "w", lambda who, room: self.by_rooms(who, room, "messages", {"data": 1})),
            ("GET properties", "r", lambda who, room: self.by_rooms(who, room, "properties")),
            ("GET property", "r", lambda who, room: self.by_rooms(who, room, "properties/none")),
            ("PUT property", "w", lambda who, room: self.by_rooms(who, room, "properties/a", {"data": 1}, "PUT")),
            ("DELETE property", "w", lambda who, room: self.by_rooms(who, room, "properties/a", None, "DELETE")),
        ]

    def is_possible(self, way: str, who: Who) -> bool:
        """Commands by scripts name a guest in the address, as nothing else proves who sends them."""
        return not way.startswith("by_script") or (who.kind == "guest" and bool(who.query))

    def may(self, who: Who, right: str, granted: tuple[str, str]) -> bool:
        kind, rights = granted
        if who.kind == "reader" and right in "ws":
            return False
        return right in rights and (kind == "guests") == (who.kind in ("nobody", "guest"))

    async def test_table(self) -> None:
        """(Transport × command × right × kind of user): forbidden, or not; in the same words for rooms that exist and
        those that don't, and without asking the store."""
        self.sockets: dict[Who, Any] = {}
        somebody = await self.somebody()
        tried = 0
        for kind in ("guests", "users"):
            for rights in RIGHTS:
                message = Draft(f"{kind}.{rights or 'none'}-there", "message", b"1", ANONYMOUS)
                await self.service.hub.publish(message)
        for name, right, way in self.ways():
            others = "".join(letter for letter in "rwsp" if letter != right)
            for who in somebody:
                for granted in (("guests", right), ("users", right), ("guests", others), ("users", others)):
                    if self.is_possible(name, who):
                        tried += 1
                        await self.check_one(name, right, way, who, granted)
        self.assertEqual(924, tried)

    async def check_one(self, name: str, right: str, way: Way, who: Who, granted: tuple[str, str]) -> None:
        kind, rights = granted
        room = f"{kind}.{rights or 'none'}"
        before = self.counting.asked
        there, missing = await way(who, f"{room}-there"), await way(who, f"{room}-missing{next(self.numbers)}")
        case = f"{name} by {who} in {room}: {there}"
        if self.may(who, right, granted):
            self.assertIn(there.code, (None, "not_joined", "not_found"), case)
            self.assertEqual(there.code, missing.code, case)
        else:
            self.assertEqual(("forbidden", there), (there.code, missing), case)
            self.assertEqual(before, self.counting.asked, case)


def _command(
    by: Callable[[Who, dict[str, Any]], Awaitable[Reply]], command: dict[str, Any], who: Who, room: str
) -> Any:
    return by(who, {**command, "room": room})


class TokenTests(AccessTestCase):
    """What a token makes of its client."""

    rules = (RoomRule("news", parse_rights("r"), listed=True),)

    async def test_welcome(self) -> None:
        """A welcome says who the user is, until when, and how to come back: by the client, or the reader to read."""
        token = self.tokens.issue("u7", name="Ann", info=b'{"role":"staff"}', lobby="rwsp")
        welcome = await self.welcome(token=token)
        user = {"id": "u7", "name": "Ann", "guest": False, "info": {"role": "staff"}}
        self.assertEqual(user, welcome["user"])
        self.assertLess(abs(time.time() * 1000 + 3_600_000 - welcome["expires"]), 60_000)
        for client in (welcome["client"], welcome["reader"]):
            self.assertRegex(client, r"\A[A-Za-z0-9_-]{33,600}\Z")
        guest = await self.welcome()
        self.assertEqual((None, False), (guest["expires"], "reader" in guest))

    async def test_goes_on_as_that_user(self) -> None:
        """With the client, and without the token, somebody is that user over every transport."""
        client = (await self.welcome(token=self.tokens.issue("u7", name="Ann", lobby="rwsp")))["client"]
        socket = self.client(SocketClient)
        await socket.connect()
        welcome = await socket.tell(type="hello", client=client)
        self.assertEqual((client, "u7"), (welcome["client"], welcome["user"]["id"]))
        await socket.tell(type="join", room="lobby")
        poll, events = self.client(PollClient), self.client(EventClient)
        poll.client = events.client = client
        await poll.start()
        await events.start()
        for writer in (socket, poll, events):
            reply = await writer.publish(writer.__class__.__name__)
            self.assertEqual("published", reply["type"], reply)
        for reader in (socket, poll, events):
            await reader.count(3)
            self.assertEqual([{"id": "u7", "name": "Ann"}] * 3, [message["from"] for message in reader.messages])
        token = self.tokens.issue("u8", lobby="p")
        _, found = await self.request("GET", "rooms/lobby/members", Authorization=f"Bearer {token}")
        self.assertEqual([{"id": "u7", "name": "Ann", "guest": False, "state": {}}], found["members"])

    async def test_guests_are_marked(self) -> None:
        """A guest's id begins with ~, and its messages say that it is a guest; a user's don't."""
        self.rules = (RoomRule("lobby", parse_rights("rwsp")),)
        await self.serve_anew()
        named = await self.welcome(name="u7")
        self.assertRegex(named["user"]["id"], r"\A~u[a-z2-7]{16}\Z")
        body = {"type": "publish", "room": "lobby", "data": 1}
        await self.request("POST", "commands", body=body, Realtime_Client=named["client"])
        await self.request("POST", "commands", body=body)
        token = self.tokens.issue("u7", lobby="rw")
        await self.request("POST", "commands", body=body, Authorization=f"Bearer {token}")
        _, page = await self.request("GET", "rooms/lobby/messages")
        senders = [message["from"] for message in page["messages"]]
        self.assertEqual(
            [
                {"id": named["user"]["id"], "name": "u7", "guest": True},
                {"id": "anonymous", "name": "anonymous", "guest": True},
                {"id": "u7", "name": "u7"},
            ],
            senders,
        )

    async def test_without_keys(self) -> None:
        """A server without keys refuses a token, and names the option."""
        self.patch(self.service.hub, "_verify", None)
        status, error = await self.request("POST", "commands", body={"type": "hello", "token": "t"})
        self.assertEqual((401, "unauthorized"), (status, error["code"]))
        self.assertIn("--token-key", error["message"])

    async def test_two_at_once(self) -> None:
        """A token of one user and a client of another in one request are forbidden."""
        ann, ben = self.tokens.issue("ann", lobby="rw"), self.tokens.issue("ben", lobby="rw")
        guest, user = (await self.welcome())["client"], (await self.welcome(token=ben))["client"]
        body = {"type": "publish", "room": "lobby", "data": 1}
        for client in (guest, user):
            status, error = await self.request(
                "POST", "commands", body=body, Authorization=f"Bearer {ann}", Realtime_Client=client
            )
            self.assertEqual((403, "forbidden"), (status, error["code"]))
            _, error = await self.request("POST", "commands", body={"type": "hello", "token": ann, "client": client})
            self.assertEqual("forbidden", error["code"])
        socket = self.client(SocketClient)
        await socket.connect()
        await socket.tell(type="hello", token=ann)
        self.assertEqual("forbidden", (await socket.tell(type="hello", token=ben))["code"])
        self.assertEqual("bad_request", (await socket.tell(type="hello", token=ann, name="Eve"))["code"])

    async def test_one_way_at_once(self) -> None:
        """Who says in two ways who it is, is refused; so is a user's client in an address, also beside a token."""
        token = self.tokens.issue("ann", lobby="rw")
        ann, ben = await self.welcome(token=token), await self.welcome(token=self.tokens.issue("ben", lobby="r"))
        guest, bearer = (await self.welcome())["client"], {"Authorization": f"Bearer {token}"}
        client = {"Realtime-Client": ann["client"]}
        for query, headers, code in (
            ({"reader": ben["reader"]}, bearer, "bad_request"),
            ({"reader": ann["reader"]}, bearer, "bad_request"),
            ({"reader": ben["reader"]}, client, "bad_request"),
            ({"reader": ben["reader"], "client": guest}, {}, "bad_request"),
            ({"client": guest}, client, "forbidden"),
            ({"client": guest}, bearer, "forbidden"),
            ({"client": ann["client"]}, client, "unauthorized"),
            ({"client": ann["client"]}, bearer, "unauthorized"),
        ):
            for path in ("poll", "rooms/lobby/messages", "sse"):
                _, error = await self.request("GET", path, {"room": "lobby", "wait": "1", **query}, **headers)
                self.assertEqual(code, error.get("code"), (path, query, headers))
            body = {"type": "publish", "room": "lobby", "data": 1}
            _, error = await self.request("POST", "commands", query, body, **headers)
            self.assertEqual(code, error.get("code"), (query, headers))
        url = f"http://127.0.0.1:{self.port}/poll?room=lobby"
        two = {"Realtime-Client": [ann["client"], ben["client"]]}
        response = await treq.get(url, headers=two, pool=self.pool)
        self.assertEqual((400, "bad_request"), (response.code, (await response.json())["code"]))

    async def test_credentials_of_a_proxy(self) -> None:
        """Other credentials than a token's are for a proxy in between, and say nothing here."""
        status, page = await self.request("GET", "rooms/news/messages", Authorization="Basic YTpi")
        self.assertEqual((200, []), (status, page["messages"]))

    async def test_refused_clients(self) -> None:
        """A sealed client that was cut, changed, made elsewhere or given in the wrong place is unauthorized, and
        never replaced by a guest."""
        welcome = await self.welcome(token=self.tokens.issue("u7", news="rwsp"))
        guest = (await self.welcome(name="Bob"))["client"]
        client, reader = welcome["client"], welcome["reader"]
        flip = [client[:at] + ("A" if client[at] != "A" else "B") + client[at + 1 :] for at in range(0, len(client), 7)]
        for wrong in (client[:-1], client[:40], client + "A", client + "=", client * 20, *flip, guest[:-2], "x" * 33):
            for status, error in (
                await self.request("GET", "poll", {"room": "news"}, Realtime_Client=wrong),
                await self.request("POST", "commands", body={"type": "hello", "client": wrong}),
                await self.request("GET", "poll", {"room": "news", "reader": wrong}),
            ):
                self.assertEqual((401, "unauthorized"), (status, error.get("code")), wrong)
        for query in ({"client": client}, {"reader": client}, {"reader": guest}):
            status, error = await self.request("GET", "poll", {"room": "news", **query})
            self.assertEqual((401, "unauthorized"), (status, error["code"]), query)
            stream = await self.stream({"room": "news", **query})
            self.assertIn(b" 401 ", stream.head)
        status, error = await self.request("GET", "poll", {"room": "news", "reader": reader, "client": guest})
        self.assertEqual((400, "bad_request"), (status, error["code"]))
        await self.serve_anew()
        status, error = await self.request("GET", "poll", {"room": "news"}, Realtime_Client=client)
        self.assertEqual((401, "unauthorized"), (status, error["code"]))

    async def test_reader_writes_nothing(self) -> None:
        """With a reader nobody writes, whatever the user may do, and nobody learns the client."""
        token = self.tokens.issue("u7", lobby="rwsp")
        welcome = await self.welcome(token=token)
        reader = welcome["reader"]
        commands: list[dict[str, Any]] = [
            {"type": "publish", "room": "lobby", "data": 1},
            {"type": "signal", "room": "lobby", "event": "e", "data": 1},
            {"type": "state", "state": {}},
            {"type": "leave", "room": "lobby"},
            {"type": "hello", "token": token},
        ]
        hello = {"type": "hello", "token": token, "client": reader}
        status, error = await self.request("POST", "commands", body=hello)
        self.assertEqual((403, "forbidden"), (status, error.get("code")))
        for query, headers in (({"reader": reader}, {}), ({}, {"Realtime_Client": reader})):
            for command in commands:
                status, error = await self.request("POST", "commands", query, command, **headers)
                self.assertEqual((403, "forbidden"), (status, error.get("code")), command)
        status, error = await self.request("POST", "rooms/lobby/messages", {"reader": reader}, {"data": 1})
        self.assertEqual((403, "forbidden"), (status, error["code"]))
        _, poll = await self.request("GET", "poll", {"room": "lobby", "reader": reader})
        self.assertEqual((reader, False), (poll["reader"], "client" in poll))
        _, answer = await self.request("POST", "commands", {"reader": reader}, {"type": "hello"})
        self.assertEqual((reader, False), (answer["reader"], "client" in answer))

    async def test_list_of_rooms(self) -> None:
        """The list has rooms that a rule lists, that a token names, and the user's own, if the asker may read them."""
        for room in ("news", "help-1", "help-2", "staff", "lobby", "@u7", "@u8", "@u9~20x"):
            await self.service.hub.publish(Draft(room, "message", b"1", ANONYMOUS))
        token = self.tokens.issue("u7", help_="r", staff="w", news="")
        for headers, rooms in (
            ({}, ["news"]),
            ({"Authorization": f"Bearer {token}"}, ["@u7", "help-1", "help-2", "news"]),
            ({"Authorization": f"Bearer {self.tokens.issue('u9 x', at_='rw')}"}, ["@u9~20x", "news"]),
        ):
            _, listed = await self.request("GET", "rooms", **headers)
            self.assertEqual(rooms, [room["room"] for room in listed["rooms"]])
            _, listed = await self.request("GET", "rooms", {"limit": "1", "after": rooms[0]}, **headers)
            self.assertEqual(rooms[1:2], [room["room"] for room in listed["rooms"]])
        _, listed = await self.request("GET", "rooms", Authorization=f"Bearer {token}")
        self.assertEqual(["@u7"], [room["room"] for room in listed["rooms"] if "count" in room])


class LifeTests(AccessTestCase):
    """How a client's time goes on, and how it ends."""

    rules = (RoomRule("open", parse_rights("rwsp")),)

    async def readers(self, token: str, room: str = "lobby") -> tuple[dict[str, Any], list[Any]]:
        """A reader on each transport, all of the same client; a poll that waits, too."""
        welcome = await self.welcome(token=token)
        readers = [self.client(kind, room) for kind in (SocketClient, EventClient, PollClient)]
        for reader in readers:
            reader.client = welcome["client"]
            await reader.start()
        query = {"room": room, "wait": "50", "since": readers[2].position, "presence": readers[2].version}
        waiting = Deferred.fromCoroutine(self.request("GET", "poll", {**query, "reader": welcome["reader"]}))
        await readers[2].stop()
        await self.until(lambda: len(self.service.hub.sessions) == 3)
        return welcome, [*readers[:2], waiting]

    async def test_renewed(self) -> None:
        """A renewed client keeps its hash and its readers: nobody leaves, and nobody joins."""
        watcher = self.client(SocketClient, "open")
        await watcher.start()
        token = self.tokens.issue("u7", name="Ann")
        socket = self.client(SocketClient, "open")
        socket.client = (await self.welcome(token=token))["client"]
        await socket.start()
        await watcher.until(lambda: "Ann" in watcher.view.names)
        welcome = await socket.tell(type="hello", token=self.tokens.issue("u7", name="Anne"))
        self.assertNotEqual(socket.client, welcome["client"])
        await watcher.until(lambda: "Anne" in watcher.view.names)
        self.assertEqual([], [event for event in watcher.of_type("presence") if event.get("left")])

    async def test_lost_rights(self) -> None:
        """Rights that a renewal takes away are over at once on every transport, waiting polls included."""
        token = self.tokens.issue("u7", lobby="rwsp", other="r")
        welcome, (socket, events, waiting) = await self.readers(token)
        status, _ = await self.request(
            "POST",
            "commands",
            body={"type": "hello", "token": self.tokens.issue("u7", other="r")},
            Realtime_Client=welcome["client"],
        )
        self.assertEqual(200, status)
        left = {"type": "left", "room": "lobby", "reason": "forbidden"}
        for reader in (socket, events):
            await reader.until(lambda reader=reader: left in reader.of_type("left"))
        _, answer = await waiting
        self.assertIn(left, answer["events"])
        await self.service.hub.publish(Draft("lobby", "message", b'"secret"', ANONYMOUS))
        self.assertEqual("pong", (await socket.tell(type="ping"))["type"])
        self.assertNotIn("secret", [*socket.data, *events.data])
        self.assertEqual("forbidden", (await socket.tell(type="publish", room="lobby", data=1))["code"])

    async def test_client_from_before(self) -> None:
        """Who comes with the client or the reader from before a renewal has what the renewal left."""
        before = await self.welcome(token=self.tokens.issue("u7", lobby="rwsp", other="r"))
        hello = {"type": "hello", "token": self.tokens.issue("u7", other="r")}
        _, welcome = await self.request("POST", "commands", body=hello, Realtime_Client=before["client"])
        for path in ("poll?room=lobby&wait=1", "sse?room=lobby", "rooms/lobby/messages", "rooms/lobby/members"):
            reader = f"{path}{'&' if '?' in path else '?'}reader={before['reader']}"
            for status, error in (
                await self.request("GET", path, Realtime_Client=before["client"]),
                await self.request("GET", reader),
            ):
                self.assertEqual((403, "forbidden"), (status, error["code"]), path)
        publish = {"type": "publish", "room": "lobby", "data": 1}
        _, error = await self.request("POST", "commands", body=publish, Realtime_Client=before["client"])
        self.assertEqual("forbidden", error["code"])
        _, again = await self.request("POST", "commands", body={"type": "hello", "client": before["client"]})
        self.assertEqual(welcome["client"], again["client"])
        _, poll = await self.request("GET", "poll", {"room": "other", "reader": before["reader"]})
        self.assertEqual((welcome["reader"], False), (poll["reader"], "client" in poll))

    async def test_older_token_of_a_client(self) -> None:
        """An older token gives a client nothing back, in a hello or beside it; without the client, it is its own."""
        older = self.tokens.issue("u7", lobby="rwsp")
        before = await self.welcome(token=older)
        newer = {"type": "hello", "token": self.tokens.issue("u7", lobby="r")}
        _, after = await self.request("POST", "commands", body=newer, Realtime_Client=before["client"])
        publish, bearer = {"type": "publish", "room": "lobby", "data": 1}, {"Authorization": f"Bearer {older}"}
        for client in (before["client"], after["client"]):
            hello = {"type": "hello", "token": older, "client": client}
            _, (welcome, reply) = await self.request("POST", "commands", body=[hello, publish])
            self.assertEqual((after["client"], "forbidden"), (welcome["client"], reply.get("code")))
            status, _ = await self.request("POST", "commands", body=publish, Realtime_Client=client, **bearer)
            self.assertEqual(403, status)
        status, _ = await self.request("POST", "commands", body=publish, **bearer)
        self.assertEqual(200, status)

    async def test_tokens_of_two_devices(self) -> None:
        """A token has its own rights in a request, whatever another token of the same user has renewed."""
        lobby, news = self.tokens.issue("u7", lobby="rw"), self.tokens.issue("u7", news="rw")
        for token in (lobby, news):
            bearer = {"Authorization": f"Bearer {token}"}
            await self.request("POST", "commands", body={"type": "hello", "token": token}, **bearer)
        for token, room, other in ((lobby, "lobby", "news"), (news, "news", "lobby")):
            bearer = {"Authorization": f"Bearer {token}"}
            for path, status in ((f"rooms/{room}/messages", 200), (f"rooms/{other}/messages", 403)):
                self.assertEqual(status, (await self.request("GET", path, **bearer))[0], path)
            history = {"type": "history", "room": room}
            self.assertEqual(200, (await self.request("POST", "commands", body=history, **bearer))[0])

    async def test_rights_stay_with_their_token(self) -> None:
        """What reads by a token keeps that token's rights, whatever another token of the same user renews anywhere."""
        narrow, wide = self.tokens.issue("u7", lobby="r"), self.tokens.issue("u7", lobby="rwsp")
        bearer, other = {"Authorization": f"Bearer {narrow}"}, {"Authorization": f"Bearer {wide}"}
        socket, renewing = self.client(SocketClient), self.client(SocketClient)
        await socket.connect({"room": "lobby"}, headers=bearer)
        stream = await self.stream({"room": "lobby"}, f"Authorization: Bearer {narrow}")
        _, poll = await self.request("GET", "poll", {"room": "lobby"}, **bearer)
        query = {"room": "lobby", "wait": "50", "since": poll["positions"]["lobby"]}
        waiting = Deferred.fromCoroutine(self.request("GET", "poll", query, **bearer))
        sessions = self.service.hub.sessions
        await self.until(lambda: stream.is_stream and len(sessions) == 3)
        reading = list(sessions)
        await renewing.connect(headers=other)
        client = (await renewing.tell(type="hello", token=wide))["client"]
        for hello in ({"token": wide}, {}):
            await self.request("POST", "commands", body={"type": "hello", **hello}, **other)
        await self.request("POST", "commands", body={"type": "hello", "token": wide}, Realtime_Client=client)
        rights = [format_rights(session.identity.grants.rights("lobby")) for session in reading]
        self.assertEqual(["r"] * 3, rights)
        self.assertFalse(waiting.called)
        client_hashes = {session.identity.client_hash for session in sessions}
        self.assertEqual(4, len(client_hashes))
        await self.service.hub.publish(Draft("lobby", "message", b"1", ANONYMOUS))
        await waiting

    async def test_lost_while_waiting(self) -> None:
        """Who loses its rights while the store is asked for it isn't given what the store gives."""
        ways = (
            ("POST", "commands", {"type": "history", "room": "slow"}),
            ("GET", "rooms/slow/messages", None),
            ("GET", "poll?room=slow", None),
            ("GET", "sse?room=slow", None),
        )
        for lose, codes in ((self._renew_without, ("forbidden",)), (self._over, ("token_expired", "unauthorized"))):
            for method, path, body in ways:
                before = await self.welcome(token=self.tokens.issue("u7", slow="r"))
                held = self._hold_reads()
                asked = Deferred.fromCoroutine(self.request(method, path, body=body, Realtime_Client=before["client"]))
                await self.until(lambda held=held: held)
                await lose(before["client"])
                self.counting.hold = None
                for release in held:
                    release()
                _, error = await asked
                self.assertIn(error.get("code"), codes, (path, error))
                self.tokens.keys = frozenset((KEY,))
                self.service.hub.rooms.clear()

    def _hold_reads(self) -> list[Callable[[], None]]:
        """Hold up what the store is asked from now on, until each of these is called."""
        held: list[Callable[[], None]] = []

        def hold(read: Callable[..., Any], *asked: Any) -> Deferred[Any]:
            waiting: Deferred[Any] = Deferred()
            waiting.addCallback(lambda _: read(*asked))
            held.append(partial(waiting.callback, None))
            return waiting

        self.counting.hold = hold
        return held

    async def _renew_without(self, client: str) -> None:
        hello = {"type": "hello", "token": self.tokens.issue("u7", other="r")}
        await self.request("POST", "commands", body=hello, Realtime_Client=client)

    async def _over(self, client: str) -> None:
        self.tokens.keys = frozenset()
        await deferLater(reactor, 1.0)  # after a second, it is over on every transport

    async def test_changed_rights(self) -> None:
        """Other rights in a room that is read are told, and presence begins or ends with p."""
        socket = self.client(SocketClient)
        await socket.connect()
        await socket.tell(type="hello", token=self.tokens.issue("u7", name="Ann", lobby="r"))
        joined = await socket.tell(type="join", room="lobby")
        self.assertEqual(("r", False, False), (joined["rights"], "members" in joined, "count" in joined))
        await socket.tell(type="hello", token=self.tokens.issue("u7", name="Ann", lobby="rwp"))
        self.assertEqual(["rwp"], [event["rights"] for event in socket.of_type("rights")])
        await socket.until(lambda: socket.of_type("presence"))
        self.assertEqual(["u7"], [member["id"] for member in socket.of_type("presence")[0]["members"]])
        watcher = self.client(SocketClient)
        await watcher.connect()
        await watcher.tell(type="hello", token=self.tokens.issue("u8", name="Ben", lobby="rp"))
        self.assertEqual(2, (await watcher.tell(type="join", room="lobby"))["count"])
        await socket.tell(type="hello", token=self.tokens.issue("u7", name="Ann", lobby="rs"))
        await watcher.until(lambda: watcher.view.names == ["Ben"])
        seen = len(socket.of_type("presence"))
        await watcher.tell(type="state", state={"a": 1})
        await watcher.until(lambda: any(event.get("joined") for event in watcher.of_type("presence")))
        await socket.tell(type="signal", room="lobby", event="typing", data=1)
        await watcher.until(lambda: watcher.of_type("signal"))
        self.assertEqual(seen, len(socket.of_type("presence")))

    async def test_time_is_over(self) -> None:
        """When a client's time is over, every connection ends within a second with the reason, and a waiting poll."""
        token = self.tokens.issue("u7", lifetime=4.0, lobby="rwsp")
        welcome, (socket, events, waiting) = await self.readers(token)
        await self.check_over(socket, events, waiting)
        self.assertGreaterEqual(time.time() * 1000, welcome["expires"])
        status, error = await self.request("GET", "poll", {"room": "lobby"}, Realtime_Client=welcome["client"])
        self.assertEqual((401, "token_expired"), (status, error["code"]))
        status, error = await self.request("GET", "poll", {"room": "lobby", "reader": welcome["reader"]})
        self.assertEqual((401, "token_expired"), (status, error["code"]))
        again = await self.welcome(token=self.tokens.issue("u7", lobby="r"), client=welcome["client"])
        self.assertEqual("u7", again["user"]["id"])

    async def test_key_is_gone(self) -> None:
        """When a key is removed, the clients of its tokens end within a second."""
        welcome, (socket, events, waiting) = await self.readers(self.tokens.issue("u7", lobby="rwsp"))
        self.tokens.keys = frozenset()
        begun = time.monotonic()
        await self.check_over(socket, events, waiting)
        self.assertLess(time.monotonic() - begun, 30.0)
        status, error = await self.request("GET", "poll", {"room": "lobby"}, Realtime_Client=welcome["client"])
        self.assertEqual((401, "unauthorized"), (status, error["code"]))

    async def check_over(self, socket: Any, events: Any, waiting: Any) -> None:
        for reader in (socket, events):
            await reader.until(lambda reader=reader: reader.of_type("goodbye"))
            goodbye = reader.of_type("goodbye")[0]
            self.assertEqual((4004, "token_expired", True), (goodbye["code"], goodbye["reason"], goodbye["reconnect"]))
        await socket.until(lambda: not socket.open)
        self.assertEqual(4004, socket.close_code)
        status, error = await waiting
        self.assertEqual((401, "token_expired"), (status, error["code"]))


class SecretTests(AccessTestCase):
    """Users with a room each, on all transports at once."""

    users = 100 if os.environ.get("SOAK") else 12
    rounds = 100 if os.environ.get("SOAK") else 10

    async def test_own_rooms_alone(self) -> None:
        """Each reader gets every message of its user's room, and not one byte of another's, while the users change."""
        readers: dict[int, list[Any]] = {}
        for number in range(self.users):
            token = self.tokens.issue_for(f"user-{number}", Grants(((f"room-{number}", parse_rights("rwsp")),)))
            client = (await self.welcome(token=token))["client"]
            readers[number] = [self.client(kind, f"room-{number}") for kind in (SocketClient, EventClient, PollClient)]
            for reader in readers[number]:
                reader.client = client
                await reader.start()
        for turn in range(self.rounds):
            publishing = [
                Deferred.fromCoroutine(own[turn % 3].publish(f"<room-{number}:{turn}>"))
                for number, own in readers.items()
            ]
            for reply in await gatherResults(publishing):
                self.assertEqual("published", reply["type"], reply)
        for number, own in readers.items():
            for reader in own:
                await reader.count(self.rounds)
                self.assertEqual([f"<room-{number}:{turn}>" for turn in range(self.rounds)], reader.data)
                self.assertEqual({f"room-{number}"}, {event["room"] for event in reader.events if "room" in event})
                named = {member["id"] for member in (reader.view.members or {}).values()}
                self.assertEqual({f"user-{number}"}, named)
