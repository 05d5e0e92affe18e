"""Tests for :mod:`realtime_chat.http.rooms`, in memory."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

from twisted.internet.defer import fail

from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import SECONDS_AT_ONCE, Retention
from realtime_chat.values.errors import StoreError
from realtime_chat.values.model import ANONYMOUS, Draft
from tests.fakes import tokens
from tests.http.test_commands import StubTestCase


class RoomsTestCase(StubTestCase):
    """Tests with rooms as plain resources."""

    def post(self, room: str, query: Any = (), **options: Any) -> tuple[int, Any]:
        """Publish; give the status and the JSON."""
        response, body = self.ask("POST", f"rooms/{room}/messages", query, **options)
        return response.code, json.loads(body)

    def form(self, body: bytes | str) -> tuple[int, Any]:
        """Publish a form in the lobby."""
        data = body.encode() if isinstance(body, str) else body
        return self.post("lobby", data=data, headers={"Content-Type": "application/x-www-form-urlencoded"})

    def messages(self, room: str = "lobby", **query: Any) -> list[dict[str, Any]]:
        """The messages of a room."""
        status, page = self.get(f"rooms/{room}/messages", query)
        self.assertEqual(200, status)
        return page["messages"]  # type: ignore[no-any-return]

    def offsets(self, **query: Any) -> list[int]:
        """The offsets of the lobby's messages."""
        return [int(message["position"].split(":")[1]) for message in self.messages(**query)]


class PublishTests(RoomsTestCase):
    """POST /rooms/ROOM/messages."""

    def test_created(self) -> None:
        """A new message is 201, and says where it went."""
        status, reply = self.post("lobby", json={"data": {"text": "hi"}})
        (message,) = self.messages()
        self.assertEqual(201, status)
        self.assertEqual({"type": "published", "room": "lobby", "position": message["position"]}, reply)
        self.assertEqual(({"text": "hi"}, "message"), (message["data"], message["event"]))
        self.assertNotIn("key", message)

    def test_again(self) -> None:
        """The same again under its key is 200 with the first position; other content is 409."""
        first = self.post("lobby", json={"data": {"a": 1, "b": 2}, "key": "k", "event": "e"})
        again = self.post("lobby", json={"data": {"b": 2, "a": 1}, "key": "k", "event": "e"})
        other = self.post("lobby", json={"data": 2, "key": "k", "event": "e"})
        self.assertEqual(((201, first[1]), (200, first[1])), (first, again))
        self.assertEqual((409, "key_reused"), (other[0], other[1]["code"]))
        self.assertEqual([("e", "k")], [(message["event"], message["key"]) for message in self.messages()])

    def test_any_value(self) -> None:
        """Data is any JSON value, null among them."""
        values = [None, False, 0, "", [], {}, "ü\u2028😀", {"a": [1, {"b": None}]}]
        for value in values:
            self.assertEqual(201, self.post("lobby", json={"data": value})[0])
        self.assertEqual(values, [message["data"] for message in self.messages()])

    def test_anonymous(self) -> None:
        """Without a client the sender is anonymous."""
        self.post("lobby", json={"data": 1})
        self.assertEqual({"id": "anonymous", "name": "anonymous", "guest": True}, self.messages()[0]["from"])

    def test_guest(self) -> None:
        """With a client the sender is that guest, with the name of the URL."""
        welcome = self.hello()
        self.post("lobby", {"name": "Ann"}, json={"data": 1}, headers={"Realtime-Client": welcome["client"]})
        self.assertEqual({"id": welcome["user"]["id"], "name": "Ann", "guest": True}, self.messages()[0]["from"])
        status, error = self.post("lobby", json={"data": 1}, headers={"Realtime-Client": "made up"})
        self.assertEqual((401, "unauthorized"), (status, error["code"]))

    def test_refused(self) -> None:
        """What can't be published is refused, and not stored."""
        for body in (
            {"event": "e"},
            [],
            "text",
            {"data": 1, "event": 5},
            {"data": 1, "event": ""},
            {"data": 1, "event": "$deleted"},
            {"data": 1, "event": "x" * 129},
            {"data": 1, "key": 5},
            {"data": 1, "key": ""},
            {"data": 1, "key": "a\nb"},
            {"data": 1, "key": "x" * 129},
        ):
            status, error = self.post("lobby", json=body)
            self.assertEqual((400, "bad_request"), (status, error["code"]), body)
        self.assertEqual([], self.messages())

    def test_bad_rooms(self) -> None:
        """A room that can't be one is refused, also where it is percent-encoded."""
        for room in ("a b", "a/b", "ä", "\0", "x" * 129, "a\r\nb"):
            status, error = self.post(quote(room, safe=""), json={"data": 1})
            self.assertEqual((400, "bad_room"), (status, error["code"]), room)

    def test_store_unavailable(self) -> None:
        """A store that can't is 503."""
        self.patch(self.store, "append", lambda draft: fail(StoreError("the disk is full")))
        status, error = self.post("lobby", json={"data": 1})
        self.assertEqual((503, "store_unavailable"), (status, error["code"]))

    def test_stopping(self) -> None:
        """While the daemon stops nothing is published."""
        self.hub.stop()
        status, error = self.post("lobby", json={"data": 1})
        self.assertEqual((503, "stopping"), (status, error["code"]))


class FormTests(RoomsTestCase):
    """Publishing a form."""

    def test_text(self) -> None:
        """A form's text becomes the data that the chat page uses."""
        status, _ = self.form(urlencode({"text": "ü + <b> & \u2028", "event": "e", "key": "k"}))
        (message,) = self.messages()
        self.assertEqual(201, status)
        self.assertEqual(({"text": "ü + <b> & \u2028"}, "e", "k"), tuple(map(message.get, ("data", "event", "key"))))

    def test_empty_text(self) -> None:
        """An empty text is a text."""
        self.assertEqual(201, self.form("text=")[0])

    def test_last_of_a_name(self) -> None:
        """Of a field that is given twice the last is taken, and an escape that is none is text."""
        self.assertEqual(201, self.form("text=a&text=100%+or+%zz&other=&=")[0])
        self.assertEqual({"text": "100% or %zz"}, self.messages()[0]["data"])

    def test_refused(self) -> None:
        """A form without text, or that isn't UTF-8 or too large, is refused."""
        for body in (
            b"",
            b"txt=a",
            b"text",
            b"text=\xff",
            b"text=%ff",
            b"text=%ed%a0%80",
            b"text=a&x",
            b"a=&" * 101 + b"text=a",
        ):
            status, error = self.form(body)
            self.assertEqual((400, "bad_request"), (status, error["code"]), body)
        self.assertEqual([], self.messages())

    def test_not_a_form(self) -> None:
        """JSON that is called a form, as programs do unasked, is told what to say instead."""
        for body in (b'{"data": 1}', b'{"data": "a=b"}'):
            self.assertIn("for JSON, say Content-Type: application/json", self.form(body)[1]["message"])

    def test_other_types(self) -> None:
        """A form of another type is told which types would be right, and which it is."""
        status, error = self.post("lobby", data=b"--x--", headers={"Content-Type": "multipart/mixed; boundary=x"})
        self.assertEqual(415, status)
        right = "application/json, or a form as application/x-www-form-urlencoded; this is multipart/mixed"
        self.assertEqual(f"send JSON with Content-Type: {right}", error["message"])


class ReadTests(RoomsTestCase):
    """GET /rooms/ROOM/messages."""

    def setUp(self) -> None:
        super().setUp()
        self.epoch = self.publish(*range(1, 61)).split(":")[0]

    def at(self, offset: int) -> str:
        return f"{self.epoch}:{offset}"

    def test_last(self) -> None:
        """Without a position the last messages come, fifty where nothing is said; limit and last are the same."""
        self.assertEqual(list(range(11, 61)), self.offsets())
        self.assertEqual([59, 60], self.offsets(limit=2))
        self.assertEqual([59, 60], self.offsets(last=2))
        self.assertEqual([], self.offsets(limit=0))
        self.assertEqual(60, len(self.offsets(limit="9" * 100)))

    def test_since(self) -> None:
        """With since the first messages come that follow it, and the position to read on from."""
        status, page = self.get("rooms/lobby/messages", {"since": self.at(10), "limit": 3})
        self.assertEqual([11, 12, 13], [message["data"] for message in page["messages"]])
        self.assertEqual((200, "lobby", self.at(13), self.at(60), True), (status, *_bounds(page)))
        self.assertEqual([], self.offsets(since=self.at(60)))

    def test_before(self) -> None:
        """With before one pages back, till a page is empty."""
        self.assertEqual([7, 8, 9], self.offsets(before=self.at(10), limit=3))
        self.assertEqual([1, 2], self.offsets(before=self.at(3)))
        self.assertEqual([], self.offsets(before=self.at(1)))

    def test_largest(self) -> None:
        """A page ends with what brings its JSON to a mebibyte, however little of that is data, and paging loses
        nothing."""
        name, draft = "\U0001f600" * 64, {"event": "\U0001f600" * 128, "data": "", "key": ""}
        _, welcome = self.command({"type": "hello"})
        client = {"client": welcome["client"], "name": name}
        for number in range(1000):
            draft["key"] = f"{number:03}" + "\U0001f600" * 125
            self.command({"type": "publish", "room": "r" * 128, **draft}, client)
        for way, place in (("since", -1), ("before", 0)):
            found: list[str] = []
            query: dict[str, Any] = {"limit": 1000} if way == "before" else {"since": "", "limit": 1000}
            if way == "since":
                _, page = self.get(f"rooms/{'r' * 128}/messages", {"limit": 1})
                query["since"] = page["position"].partition(":")[0] + ":0"
            while True:
                _, body = self.ask("GET", f"rooms/{'r' * 128}/messages", query)
                self.assertLess(len(body), 1_060_000)
                page = json.loads(body)
                if not page["messages"]:
                    break
                keys = [message["key"] for message in page["messages"]]
                found = found + keys if way == "since" else keys + found
                query[way] = page["messages"][place]["position"]
            self.assertEqual([f"{number:03}" for number in range(1000)], [key[:3] for key in found])

    def test_lost(self) -> None:
        """A since that the log doesn't cover is told as such, and the last messages come instead."""
        for since in ("elsewhere:3", self.at(61)):
            _, page = self.get("rooms/lobby/messages", {"since": since, "limit": 2})
            self.assertEqual((False, [59, 60]), (page["recovered"], [message["data"] for message in page["messages"]]))

    def test_empty_room(self) -> None:
        """A room without messages is an empty page, and stays unknown."""
        status, page = self.get("rooms/nobody/messages")
        self.assertEqual((200, "nobody", self.at(0), self.at(0), True), (status, *_bounds(page)))
        self.assertEqual([{"room": "lobby", "count": 0}], self.get("rooms")[1]["rooms"])

    def test_refused(self) -> None:
        """Positions and numbers that are none are refused."""
        for query, code in (
            ({"since": "x"}, "bad_position"),
            ({"before": "x"}, "bad_position"),
            ({"before": "elsewhere:3"}, "bad_position"),
            ({"since": self.at(1), "before": self.at(3)}, "bad_request"),
            ({"limit": "many"}, "bad_request"),
            ({"limit": "-1"}, "bad_request"),
            ({"last": "1.5"}, "bad_request"),
            ([("limit", 1), ("limit", 2)], "bad_request"),
        ):
            status, error = self.get("rooms/lobby/messages", query)
            self.assertEqual((400, code), (status, error["code"]), query)

    def test_store_unavailable(self) -> None:
        """A store that can't be read is 503."""
        self.patch(self.store, "read_before", lambda *given: fail(StoreError("the disk is away")))
        status, error = self.get("rooms/lobby/messages")
        self.assertEqual((503, "store_unavailable"), (status, error["code"]))

    def test_head(self) -> None:
        """HEAD is GET without the body."""
        response, body = self.ask("HEAD", "rooms/lobby/messages")
        self.assertEqual((200, b""), (response.code, body))


class PrivateTests(RoomsTestCase):
    """Rooms that belong to one user."""

    def setUp(self) -> None:
        super().setUp()
        self.welcome = self.hello()
        self.headers = {"Realtime-Client": self.welcome["client"]}
        self.room = "@" + self.welcome["user"]["id"]

    def test_read(self) -> None:
        """Only the owner reads a private room; everybody may write to it."""
        self.assertEqual(201, self.post(self.room, json={"data": "psst"})[0])
        status, page = self.get(f"rooms/{self.room}/messages", headers=self.headers)
        self.assertEqual((200, ["psst"]), (status, [message["data"] for message in page["messages"]]))
        for headers in ({}, {"Realtime-Client": self.hello()["client"]}):
            status, error = self.get(f"rooms/{self.room}/messages", headers=headers)
            self.assertEqual((403, "forbidden"), (status, error["code"]))

    def test_list(self) -> None:
        """Only the owner sees that there is one."""
        self.publish(1)
        self.post(self.room, json={"data": 1})
        self.assertEqual([{"room": "lobby", "count": 0}], self.get("rooms")[1]["rooms"])
        mine = self.get("rooms", headers=self.headers)[1]["rooms"]
        self.assertEqual([{"room": self.room, "count": 0}, {"room": "lobby", "count": 0}], mine)


class MembersTests(RoomsTestCase):
    """GET /rooms/ROOM/members."""

    limits = {"presence_page": 2}

    def test_pages(self) -> None:
        """The members come page by page, sorted by id; and the list of rooms has their number."""
        self.publish(1)
        for name in ("Ann", "Bob", "Cid"):
            self.get("poll", {"room": "lobby", "name": name})
        status, first = self.get("rooms/lobby/members")
        self.assertEqual((200, "members", "lobby", 3), (status, *map(first.get, ("type", "room", "count"))))
        _, second = self.get("rooms/lobby/members", {"after": first["after"]})
        ids = [member["id"] for page in (first, second) for member in page["members"]]
        self.assertEqual((3, sorted(set(ids)), False), (len(ids), ids, "after" in second))
        self.assertEqual([{"room": "lobby", "count": 3}], self.get("rooms")[1]["rooms"])

    def test_nobody(self) -> None:
        """A room that nobody is in has no members; one that can't be is refused."""
        expected = {"type": "members", "room": "nobody", "count": 0, "members": []}
        self.assertEqual((200, expected), self.get("rooms/nobody/members"))
        status, error = self.get("rooms/a%20b/members")
        self.assertEqual((400, "bad_room"), (status, error["code"]))

    def test_private(self) -> None:
        """Only the owner sees who is in a private room."""
        welcome = self.hello()
        room, headers = "@" + welcome["user"]["id"], {"Realtime-Client": welcome["client"]}
        self.get("poll", {"room": room}, headers=headers)
        self.assertEqual(1, self.get(f"rooms/{room}/members", headers=headers)[1]["count"])
        status, error = self.get(f"rooms/{room}/members")
        self.assertEqual((403, "forbidden"), (status, error["code"]))


class ListTests(RoomsTestCase):
    """GET /rooms."""

    def names(self, **query: Any) -> list[str]:
        status, answer = self.get("rooms", query)
        self.assertEqual(200, status)
        return [room["room"] for room in answer["rooms"]]

    def test_pages(self) -> None:
        """Rooms come sorted, page by page, each once."""
        rooms = [f"room-{number:02}" for number in range(25)]
        for room in reversed(rooms):
            self.publish(1, room=room)
        self.assertEqual(rooms, self.names())
        pages = [self.names(limit=10)]
        while pages[-1]:
            pages.append(self.names(limit=10, after=pages[-1][-1]))
        self.assertEqual([10, 10, 5, 0], [len(page) for page in pages])
        self.assertEqual(rooms, [room for page in pages for room in page])

    def test_private_ones_cost_nothing(self) -> None:
        """A page costs what it shows, however many private rooms of others stand between, and has one's own."""
        self.store = MemoryStore(Retention(room_rate=1000), self.clock.seconds, tokens())
        self.serve(self.store)
        welcome = self.hello()
        own, headers = "@" + welcome["user"]["id"], {"Realtime-Client": welcome["client"]}
        for number in range(1000):
            self.store.append(Draft(f"@u{number:03}", "message", b"1", ANONYMOUS))
            self.store.append(Draft(f"@z{number:03}", "message", b"1", ANONYMOUS))
        rooms = ["0", "9", own, "@", "A", "b", "~"]
        for room in rooms:
            self.store.append(Draft(room, "message", b"1", ANONYMOUS))
        looked: list[int] = []
        rooms_of = self.store.rooms
        self.patch(self.store, "rooms", lambda after, limit: (looked.append(limit), rooms_of(after, limit))[1])
        for limit in (1, 2, 3, 100):
            seen = [""]
            while page := self.get("rooms", {"after": seen[-1], "limit": limit}, headers=headers)[1]["rooms"]:
                seen += [room["room"] for room in page]
            self.assertEqual(["0", "9", own, "A", "b", "~"], seen[1:])
        self.assertLess(sum(looked), 2000)
        self.assertEqual(["0", "9", "A", "b", "~"], self.names())

    def test_made_too_fast(self) -> None:
        """A message to a new room is refused where rooms are made too fast, one to a room that exists is not."""
        self.serve(MemoryStore(Retention(room_rate=1), self.clock.seconds, tokens(), monotonic=self.clock.seconds))
        answers = [self.post(f"r{number}", json={"data": 1}) for number in range(SECONDS_AT_ONCE + 1)]
        self.assertEqual([201] * SECONDS_AT_ONCE, [status for status, _ in answers[:-1]])
        status, error = answers[-1]
        self.assertEqual((429, "rate_limited", True), (status, error["code"], error["temporary"]))
        self.assertEqual(201, self.post("r0", json={"data": 2})[0])
        self.clock.advance(1)
        self.assertEqual(201, self.post("new", json={"data": 2})[0])

    def test_too_many(self) -> None:
        """Where there are as many rooms as there may be, no command makes one."""
        self.serve(MemoryStore(Retention(rooms=1), self.clock.seconds, tokens()))
        self.publish(1)
        status, error = self.command({"type": "publish", "id": 7, "room": "new", "data": 1})
        self.assertEqual((429, "too_many", 7), (status, error["code"], error["id"]))
        self.assertEqual(["lobby"], self.names())

    def test_none(self) -> None:
        """Without rooms the list is empty."""
        self.assertEqual([], self.names())

    def test_refused(self) -> None:
        """A limit that is none is refused."""
        status, error = self.get("rooms", {"limit": "all"})
        self.assertEqual((400, "bad_request"), (status, error["code"]))

    def test_elsewhere(self) -> None:
        """What isn't there is not found; what can't be done is not allowed."""
        for path in ("rooms/lobby", "rooms/lobby/members/1", "rooms/lobby/messages/1"):
            response, _ = self.ask("GET", path)
            self.assertIn(response.code, (400, 404, 405), path)
        response, _ = self.ask("DELETE", "rooms/lobby/messages")
        self.assertEqual((405, ["GET, HEAD, POST"]), (response.code, response.headers.getRawHeaders("Allow")))


def _bounds(page: dict[str, Any]) -> tuple[Any, ...]:
    return page["room"], page["position"], page["top"], page["recovered"]
