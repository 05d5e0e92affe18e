"""Tests for :mod:`realtime_chat.http.commands`, in memory."""

from __future__ import annotations

import json
from functools import partial
from itertools import count
from typing import Any
from urllib.parse import urlencode

from treq.testing import StubTreq
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.turns import Turns
from realtime_chat.http.answers import JSONResource
from realtime_chat.http.commands import CommandsResource
from realtime_chat.http.rooms import RoomsResource
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.transports.poll import PollResource
from realtime_chat.values.errors import StoreError
from tests.core.test_turns import next_turn
from tests.fakes import HeldStore, left_to_collect, make_hub, tokens
from tests.site_tokens import SiteTokens


class StubTestCase(SynchronousTestCase):
    """The resources over a hub with a store in memory."""

    jsonp = False
    limits: dict[str, Any] = {}

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(Retention(1000), self.clock.seconds, tokens())
        self.held = HeldStore(self.store)
        self.serve(self.store)

    def serve(self, store: Any) -> None:
        """Serve the rooms of a store."""
        self.hub = make_hub(store, self.clock, **self.limits)
        self.root = JSONResource()
        self.root.putChild(b"commands", CommandsResource(self.hub, self.jsonp))
        self.root.putChild(b"rooms", RoomsResource(self.hub))
        self.root.putChild(b"poll", PollResource(self.hub, self.jsonp))
        self.treq: Any = StubTreq(self.root)

    def begin(self, method: str, path: str, query: Any = (), **options: Any) -> Deferred[Any]:
        """Send a request; the answer may come later."""
        url = f"http://chat.example/{path}" + ("?" + urlencode(query) if query else "")
        return self.treq.request(method, url, **options)  # type: ignore[no-any-return]

    def ask(self, method: str, path: str, query: Any = (), **options: Any) -> tuple[Any, bytes]:
        """Send a request that is answered at once; give the response and its body."""
        response = self.successResultOf(self.begin(method, path, query, **options))
        return response, self.successResultOf(response.content())

    def get(self, path: str, query: Any = (), **options: Any) -> tuple[int, Any]:
        """The status and the JSON that a GET answers."""
        response, body = self.ask("GET", path, query, **options)
        return response.code, json.loads(body)

    def command(self, value: Any, query: Any = (), **options: Any) -> tuple[int, Any]:
        """The status and the JSON that commands are answered with."""
        response, body = self.ask("POST", "commands", query, json=value, **options)
        return response.code, json.loads(body)

    def hello(self, **fields: Any) -> dict[str, Any]:
        """Become a guest."""
        status, welcome = self.command({"type": "hello", **fields})
        self.assertEqual((200, "welcome"), (status, welcome["type"]))
        return welcome  # type: ignore[no-any-return]

    def publish(self, *data: Any, room: str = "lobby") -> str:
        """Publish; give the last one's position."""
        for value in data:
            status, reply = self.command({"type": "publish", "room": room, "data": value})
            self.assertEqual(200, status)
        return str(reply["position"])


class CommandTests(StubTestCase):
    """One command."""

    def test_reply(self) -> None:
        """A command is answered with its reply, and its id."""
        self.assertEqual((200, {"type": "pong", "id": 7}), self.command({"type": "ping", "id": 7}))

    def test_statuses(self) -> None:
        """Every error comes with its own status, and with the command's id."""
        publish = {"type": "publish", "room": "lobby"}
        self.command(publish | {"data": 1, "key": "k"}, headers={"Realtime-Client": self.hello()["client"]})
        for command, status, code in (
            ({"type": "nonsense"}, 400, "unknown_command"),
            (publish, 400, "bad_request"),
            ({"type": "join", "room": "a b"}, 400, "bad_room"),
            ({"type": "join", "room": "a", "since": "x"}, 400, "bad_position"),
            ({"type": "leave", "room": "a"}, 400, "not_joined"),
            ({"type": "hello", "token": "t"}, 401, "unauthorized"),
            ({"type": "history", "room": "@u1"}, 403, "forbidden"),
        ):
            got, error = self.command(command | {"id": 5})
            self.assertEqual(
                (status, "error", code, 5, False), (got, *map(error.get, ("type", "code", "id", "temporary")))
            )

    def test_key_reused(self) -> None:
        """Other content under a key is a conflict; the same content answers the first position."""
        headers = {"Realtime-Client": self.hello()["client"]}
        publish = {"type": "publish", "room": "lobby", "data": 1, "key": "k"}
        first = self.command(publish, headers=headers)
        self.assertEqual(first, self.command(publish, headers=headers))
        status, error = self.command(publish | {"data": 2}, headers=headers)
        self.assertEqual((409, "key_reused"), (status, error["code"]))

    def test_store_unavailable(self) -> None:
        """A store that can't is 503, for a while, and says when to try again."""
        self.patch(self.store, "append", lambda draft: fail(StoreError("the disk is full")))
        response, body = self.ask("POST", "commands", json={"type": "publish", "room": "a", "data": 1, "id": 3})
        self.assertEqual((503, ["2"]), (response.code, response.headers.getRawHeaders("Retry-After")))
        error = json.loads(body)
        self.assertEqual(("store_unavailable", True, 3), tuple(map(error.get, ("code", "temporary", "id"))))

    def test_stopping(self) -> None:
        """While the daemon stops, nothing is published."""
        self.hub.stop()
        status, error = self.command({"type": "publish", "room": "a", "data": 1})
        self.assertEqual((503, "stopping", True), (status, error["code"], error["temporary"]))

    def test_internal(self) -> None:
        """A mistake of ours is 500, is logged, and tells nothing of itself."""
        self.patch(self.store, "append", lambda draft: fail(ValueError("secret detail")))
        status, error = self.command({"type": "publish", "room": "a", "data": 1})
        self.assertEqual((500, "internal"), (status, error["code"]))
        self.assertNotIn("secret", error["message"])
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_nothing_is_left(self) -> None:
        """What a join begins ends with the request."""
        status, joined = self.command({"type": "join", "room": "lobby"})
        self.assertEqual((200, "joined"), (status, joined["type"]))
        self.assertEqual(({}, 0), (self.hub.sessions, self.hub.rooms["lobby"].reader_count))

    def test_client_goes_away(self) -> None:
        """A publish whose sender goes away meanwhile is finished all the same."""
        self.serve(self.held)
        asked = self.begin("POST", "commands", json={"type": "publish", "room": "lobby", "data": 1})
        self.assertNoResult(asked)
        asked.addErrback(lambda failure: None)
        asked.cancel()
        self.treq.flush()
        self.held.settle()
        self.assertEqual(1, self.successResultOf(self.store.read_after("lobby", 0, 9)).top)
        self.assertEqual(({}, []), (self.hub.sessions, self.flushLoggedErrors()))

    def test_content_types(self) -> None:
        """JSON is taken as such, as plain text, and without a type; nothing else is."""
        for kind, status in (
            ("application/json", 200),
            ("Application/JSON; charset=utf-8", 200),
            ("text/plain;charset=UTF-8", 200),
            ("", 200),
            ("text/html", 415),
            ("application/x-www-form-urlencoded", 415),
        ):
            headers = {"Content-Type": kind} if kind else {}
            response, _ = self.ask("POST", "commands", data=b'{"type":"ping"}', headers=headers)
            self.assertEqual(status, response.code, kind)

    def test_wrong_types_are_named(self) -> None:
        """A refused type is named beside the right one, unless it is none: nothing else of a header comes back."""
        for kind, named in (
            ("multipart/mixed; boundary=MARKER", "multipart/mixed"),
            ("application/x-www-form-urlencoded", "application/x-www-form-urlencoded"),
            ("Text/HTML", "text/html"),
            ("<script>/MARKER", "of no type that there is"),
            ("marker", "of no type that there is"),
            (f"text/marker{'x' * 60}", "of no type that there is"),
        ):
            _, body = self.ask("POST", "commands", data=b'{"type":"ping"}', headers={"Content-Type": kind})
            wanted = f"send JSON with Content-Type: application/json; this is {named}"
            self.assertEqual(wanted, json.loads(body)["message"])

    def test_lone_surrogate(self) -> None:
        """Half of a surrogate pair is called that."""
        sent = rb'[{"type":"ping","id":"\ud800"}]'
        _, posted = self.ask("POST", "commands", data=sent)
        self.assertIn("a lone surrogate at byte 22 ", json.loads(posted)["message"])

    def test_methods(self) -> None:
        """Other methods are refused, and told which there are."""
        response, body = self.ask("PUT", "commands")
        self.assertEqual((405, "method_not_allowed"), (response.code, json.loads(body)["code"]))
        self.assertEqual(["GET, HEAD, POST"], response.headers.getRawHeaders("Allow"))

    def test_headers(self) -> None:
        """No cache keeps an answer, and nobody guesses its type."""
        response, _ = self.ask("POST", "commands", json={"type": "ping"})
        for name, value in (
            ("Content-Type", "application/json"),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.assertEqual([value], response.headers.getRawHeaders(name))


class GarbageTests(StubTestCase):
    """What clients can repeat is gone when it is over."""

    def test_errors(self) -> None:
        """Requests that are refused leave nothing to the garbage collector, whose work stops everybody."""
        self.store.append = lambda draft: fail(StoreError("the disk is full"))  # type: ignore[method-assign]
        for method, path, body in (
            ("GET", "nothing", ""),
            ("GET", "rooms/!/messages", ""),
            ("GET", "poll?room=!", ""),
            ("POST", "commands", "{"),
            ("POST", "commands", "{}"),
            ("POST", "commands", "[{},{}]"),
            ("POST", "commands", '[{"type":"publish","room":"a","data":1},{"type":"leave","room":"a"}]'),
            ("POST", "rooms/!/messages", '{"data":1}'),
            ("POST", "rooms/a/messages", '{"data":1}'),
        ):
            ask = partial(self.ask, method, path, data=body.encode())
            self.assertEqual(0, left_to_collect(ask), (method, path, body))


class WhoTests(StubTestCase):
    """Who the commands are from."""

    def who(self, query: Any = (), **options: Any) -> tuple[str, dict[str, Any]]:
        status, welcome = self.command({"type": "hello"}, query, **options)
        self.assertEqual(200, status)
        return welcome["client"], welcome["user"]

    def test_header(self) -> None:
        """A client in the header is that client, over many requests."""
        client, user = self.who()
        self.assertEqual((client, user), self.who(headers={"Realtime-Client": client}))

    def test_url(self) -> None:
        """A client in the URL is that client, too; the header comes first."""
        client, user = self.who()
        other, _ = self.who()
        self.assertEqual((client, user), self.who({"client": client}))
        self.assertEqual((client, user), self.who({"client": other}, headers={"Realtime-Client": client}))

    def test_name(self) -> None:
        """The name in the URL is the one that messages carry."""
        client, _ = self.who()
        query = {"name": "Bjørn <b>"}
        self.command({"type": "publish", "room": "r", "data": 1}, query, headers={"Realtime-Client": client})
        _, page = self.get("rooms/r/messages")
        self.assertEqual("Bjørn <b>", page["messages"][0]["from"]["name"])

    def test_bad_name(self) -> None:
        """A name that can't be one is refused."""
        client, _ = self.who()
        status, error = self.command({"type": "ping"}, {"name": "x" * 65}, headers={"Realtime-Client": client})
        self.assertEqual((400, "bad_request"), (status, error["code"]))

    def test_made_up(self) -> None:
        """A client that wasn't issued here is not taken for anybody."""
        response, body = self.ask("POST", "commands", json={"type": "ping"}, headers={"Realtime-Client": "A" * 32})
        self.assertEqual((401, "unauthorized"), (response.code, json.loads(body)["code"]))
        self.assertEqual(["Bearer"], response.headers.getRawHeaders("WWW-Authenticate"))

    def test_nobody(self) -> None:
        """Without a client each request is another guest's."""
        self.assertNotEqual(self.who(), self.who())


class ArrayTests(StubTestCase):
    """Many commands in one request."""

    def test_order(self) -> None:
        """Replies come in the order of the commands, errors among them, with status 200."""
        commands = [
            {"type": "publish", "room": "a", "data": 1, "id": 1},
            {"type": "nonsense", "id": 2},
            {"type": "publish", "room": "a b", "data": 1, "id": 3},
            5,
            {"type": "history", "room": "a", "id": 4},
            {"type": "ping", "id": 5},
        ]
        status, replies = self.command(commands)
        self.assertEqual(200, status)
        self.assertEqual([1, 2, 3, None, 4, 5], [reply.get("id") for reply in replies])
        self.assertEqual(
            ["published", "unknown_command", "bad_room", "bad_request", "history", "pong"],
            [reply.get("code", reply["type"]) for reply in replies],
        )
        self.assertEqual([1], [message["data"] for message in replies[4]["messages"]])

    def test_publishes_together(self) -> None:
        """Publishes of one array don't wait for each other, and keep their order."""
        self.serve(self.held)
        commands = [{"type": "publish", "room": "a", "data": number, "id": number} for number in range(3)]
        asked = self.begin("POST", "commands", json=commands)
        self.assertEqual(3, len(self.held.appends))
        self.assertNoResult(asked)
        self.held.settle()
        self.treq.flush()
        replies = json.loads(self.successResultOf(self.successResultOf(asked).content()))
        self.assertEqual([1, 2, 3], [int(reply["position"].split(":")[1]) for reply in replies])

    def test_publishes_wait_for_others(self) -> None:
        """Publishes over HTTP wait while enough of others wait for the store; each request keeps its order,
        and they take turns."""
        self.limits = {"max_publishing": 4}
        self.serve(self.held)
        commands = [{"type": "publish", "room": "a", "data": number, "id": number} for number in range(6)]
        asked = [self.begin("POST", "commands", json=commands) for _ in range(2)]
        asked.append(self.begin("POST", "rooms/a/messages", json={"data": "last"}))
        drafts = []
        while self.held.appends:
            self.assertLessEqual(len(self.held.appends), 4)
            drafts.append(json.loads(self.held.appends[0][0].data))
            self.held.commit()
            self.held.acknowledge()
            self.clock.advance(0)
        self.assertEqual([0, 1, 2, 3, 4, 0, "last", 5, 1, 2, 3, 4, 5], drafts)  # they take turns
        self.treq.flush()
        self.assertEqual([200, 200, 201], [self.successResultOf(response).code for response in asked])

    def test_many_are_refused_at_once(self) -> None:
        """However many wait when the store begins to refuse at once, each is told."""
        self.limits = {"max_publishing": 1}
        self.serve(self.held)
        asked = [self.begin("POST", "rooms/a/messages", json={"data": number}) for number in range(1000)]
        self.held.append = lambda draft: fail(StoreError("the disk is away"))  # type: ignore[method-assign]
        self.held.commit()
        self.held.acknowledge()
        self.clock.advance(0)
        self.treq.flush()
        codes = [self.successResultOf(response).code for response in asked]
        self.assertEqual([201] + [503] * 999, codes)

    def test_long_array(self) -> None:
        """An array that takes longer than a turn may goes on in later ones."""
        seconds = count()  # each look takes longer than a share
        turns = Turns(self.clock, lambda: next(seconds))
        self.root.putChild(b"commands", CommandsResource(self.hub, self.jsonp, turns))
        asked = self.begin("POST", "commands", json=[{"type": "ping", "id": number} for number in range(9)])
        for _ in range(9):
            self.assertNoResult(asked)
            next_turn(self.clock)
        self.treq.flush()
        replies = json.loads(self.successResultOf(self.successResultOf(asked).content()))
        self.assertEqual(list(range(9)), [reply["id"] for reply in replies])

    def test_one_client(self) -> None:
        """A hello at the beginning is for all that follow."""
        _, replies = self.command(
            [
                {"type": "hello", "name": "Ann"},
                {"type": "publish", "room": "a", "data": 1},
                {"type": "hello", "name": "Bob"},
            ]
        )
        self.assertEqual(["welcome", "published", "forbidden"], [reply.get("code", reply["type"]) for reply in replies])
        _, page = self.get("rooms/a/messages")
        self.assertEqual(replies[0]["user"]["id"], page["messages"][0]["from"]["id"])

    def test_none(self) -> None:
        """No commands are answered with no replies."""
        self.assertEqual((200, []), self.command([]))

    def test_too_many(self) -> None:
        """A hundred are done; of a hundred and one, none."""
        publish = {"type": "publish", "room": "a", "data": 1}
        self.assertEqual(100, len(self.command([publish] * 100)[1]))
        status, error = self.command([publish] * 101)
        self.assertEqual((400, "bad_request"), (status, error["code"]))
        self.assertEqual(100, self.successResultOf(self.store.read_after("a", 0, 1)).top)

    def test_large_replies(self) -> None:
        """After a mebibyte of replies no further command is begun, and each is told that it is too many."""
        self.publish(*["a" * 60_000] * 18)
        reads = [{"type": "history", "id": number, "room": "lobby"} for number in range(5)]
        publish = {"type": "publish", "id": "p", "room": "lobby", "data": 1}
        _, body = self.ask("POST", "commands", json=[*reads, publish, {"type": "nothing", "id": 7}, 1])
        replies = json.loads(body)
        self.assertLess(len(body), 1_250_000)
        self.assertEqual(["history", *["error"] * 7], [reply["type"] for reply in replies])
        self.assertEqual([0, 1, 2, 3, 4, "p", 7, None], [reply.get("id") for reply in replies])
        self.assertEqual({("too_many", True)}, {(reply["code"], reply["temporary"]) for reply in replies[1:]})
        _, page = self.get("rooms/lobby/messages", {"limit": 1})
        self.assertEqual("a" * 60_000, page["messages"][0]["data"])

    def test_deep(self) -> None:
        """The array itself counts where JSON nests too deep."""
        status, error = self.command([{"type": "publish", "room": "a", "data": json.loads("[" * 31 + "]" * 31)}])
        self.assertEqual((400, "bad_request"), (status, error["code"]))


class EndTests(StubTestCase):
    """Requests that are under way when their user's time ends, or its key is removed."""

    limits = {"max_publishing": 1}

    def serve(self, store: Any) -> None:
        super().serve(store)
        self.site = SiteTokens(lambda: self.hub.time_ms() / 1000)
        self.hub._verify, self.hub.identities._token_keys = self.site.verify, self.site.token_keys

    def begin_as_user(self, commands: Any) -> Deferred[Any]:
        """Send commands as a user, whose time is over in ten seconds."""
        token = self.site.issue("u7", 10, lobby="rws")
        headers = {"Realtime-Client": self.hello(token=token)["client"]}
        return self.begin("POST", "commands", json=commands, headers=headers)

    def end_by(self, way: str) -> None:
        """End all users."""
        if way == "time":
            self.clock.pump([0.25] * 48)
        else:
            self.site.keys = frozenset()

    def settle(self) -> None:
        """Let the store do all that it is asked for."""
        while self.held.appends or self.held.looks:
            self.held.settle()
            self.clock.advance(0)
        self.treq.flush()

    def test_array(self) -> None:
        """What an array does after that is refused, and only that: nobody publishes, reads or tells anything."""
        later = [
            {"type": "publish", "room": "lobby", "data": 2},
            {"type": "publish", "room": "lobby", "data": 3},
            {"type": "signal", "room": "lobby", "event": "e", "data": 1},
            {"type": "state", "state": {"a": 1}},
            {"type": "members", "room": "lobby"},
            {"type": "history", "room": "lobby"},
            {"type": "join", "room": "lobby"},
            {"type": "leave", "room": "lobby"},
        ]
        for way, code in (("time", "token_expired"), ("key", "unauthorized")):
            self.serve(self.held)
            asked = self.begin_as_user([{"type": "publish", "room": "lobby", "data": 1}, *later])
            self.end_by(way)
            self.settle()
            replies = json.loads(self.successResultOf(self.successResultOf(asked).content()))
            self.assertEqual(["published"] + [code] * len(later), [one.get("code", one["type"]) for one in replies])

    def test_one(self) -> None:
        """So is a publish that waits for its place, and a join that waits for its room, which tells no position."""
        waiting = ({"type": "publish", "room": "lobby", "data": 2}, {"type": "join", "room": "lobby"})
        for way, code in (("time", "token_expired"), ("key", "unauthorized")):
            self.serve(self.held)
            self.begin("POST", "commands", json={"type": "publish", "room": "lobby", "data": 1})
            asked = [self.begin_as_user(command) for command in waiting]
            self.end_by(way)
            self.settle()
            for response in map(self.successResultOf, asked):
                error = json.loads(self.successResultOf(response.content()))
                self.assertEqual((401, code, False), (response.code, error.get("code"), "position" in error))

    def test_goes_on(self) -> None:
        """A new token, first in an array, lets the user whose time is over go on."""
        client = self.hello(token=self.site.issue("u7", 10, lobby="rws"))["client"]
        self.end_by("time")
        hello = {"type": "hello", "client": client, "token": self.site.issue("u7", lobby="rws")}
        _, replies = self.command([hello, {"type": "ping"}])
        self.assertEqual(["welcome", "pong"], [reply["type"] for reply in replies])


class NoScriptTests(StubTestCase):
    """GET, as long as JSONP is off."""

    def test_off(self) -> None:
        """Commands by GET are forbidden, with and without a callback."""
        for query in ({"commands": "[]"}, {"commands": "[]", "callback": "f"}):
            status, error = self.get("commands", query)
            self.assertEqual((403, "forbidden"), (status, error["code"]))


class ScriptTests(StubTestCase):
    """GET, where JSONP is on."""

    jsonp = True

    def script(self, **query: Any) -> Any:
        """What the callback ``f`` is called with."""
        response, body = self.ask("GET", "commands", {"callback": "f", **query})
        self.assertEqual(200, response.code)
        self.assertEqual(["application/javascript; charset=utf-8"], response.headers.getRawHeaders("Content-Type"))
        self.assertTrue(body.startswith(b"/**/f(") and body.endswith(b");"), body)
        return json.loads(body[6:-2])

    def test_commands(self) -> None:
        """With a client, commands are done, and the callback is called with the replies."""
        client = self.hello()["client"]
        commands = json.dumps([{"type": "publish", "room": "a", "data": 1}, {"type": "ping"}])
        replies = self.script(client=client, commands=commands)
        self.assertEqual(["published", "pong"], [reply["type"] for reply in replies])

    def test_errors(self) -> None:
        """Errors come by the callback too, as a page's script element sees no status."""
        client = self.hello()["client"]
        self.assertEqual("bad_room", self.script(client=client, commands='{"type":"join","room":" "}')["code"])
        self.assertEqual("bad_request", self.script(client=client, commands="[")["code"])
        self.assertIn("a lone surrogate at byte 2 ", self.script(client=client, commands=r'["\udc00"]')["message"])
        self.assertEqual("bad_request", self.script(client=client)["code"])

    def test_no_client(self) -> None:
        """Without a client, or with a made-up one, nothing is done."""
        publish = '{"type":"publish","room":"a","data":1}'
        self.assertEqual("unauthorized", self.script(commands=publish)["code"])
        self.assertEqual("unauthorized", self.script(client="A" * 32, commands=publish)["code"])
        self.assertEqual(0, self.successResultOf(self.store.read_after("a", 0, 1)).top)

    def test_cookie_is_nobody(self) -> None:
        """A cookie stands for no client."""
        client = self.hello()["client"]
        _, body = self.ask("GET", "commands", {"callback": "f", "commands": "[]"}, cookies={"client": client})
        self.assertIn(b"unauthorized", body)

    def test_without_callback(self) -> None:
        """Without a callback the answer is JSON."""
        self.assertEqual((200, []), self.get("commands", {"client": self.hello()["client"], "commands": "[]"}))
