"""Tests for :mod:`realtime_chat.legacy.poll`, in memory."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

from twisted.web.server import Request

from realtime_chat.core.access import AccessPolicy
from realtime_chat.legacy.poll import FirstText, LegacyResource
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.values.access import READ, RoomRule, RoomRules
from realtime_chat.values.codec import Entry
from realtime_chat.values.model import Message, Position
from realtime_chat.values.rates import Rate, RateLimits, ScopeLimits
from tests.fakes import make_hub, tokens
from tests.transports.test_poll import Poll, PollTestCase

CALLBACK = "jQuery1102_1795"
FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}
HELD = 1.1
"""Seconds after which a page has given a poll up."""


def read_script(poll: Poll, callback: str = CALLBACK) -> Any:
    """What a script calls its function with."""
    body = poll.wire.value().partition(b"\r\n\r\n")[2].decode()
    match = re.fullmatch(rf"/\*\*/typeof {re.escape(callback)}==='function'&&{re.escape(callback)}\((.*)\);", body)
    assert match is not None, body
    return json.loads(match[1])


class LegacyPollTestCase(PollTestCase):
    """Polls of old pages, on a clock that stands still."""

    def serve(self, store: Any) -> None:
        super().serve(store)
        self.root.putChild(b"", LegacyResource(self.hub, "lobby"))

    def ask_for(self, last_update: str | None = None, callback: str | None = CALLBACK, **query: str) -> Poll:
        """One poll of a page."""
        fields = {"lastupdate": last_update, "callback": callback, **query}
        return Poll(self.site, "?" + urlencode({name: text for name, text in fields.items() if text is not None}))

    def send(self, text: str, query: str = "", **headers: str) -> tuple[int, bytes]:
        """Send the page's form; the status and the body of its answer."""
        response, body = self.ask("POST", query, data=text.encode(), headers=FORM | headers)
        return response.code, body

    def texts(self, count: int, last_update: str = "0") -> list[str]:
        """The next texts that a page gets, one after another."""
        found = []
        for _ in range(count):
            said = read_script(self.ask_for(last_update))
            last_update = said["timestamp"]
            found.append(said["data"])
        return found

    def hold(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.clock.advance(0.05)


class PositionTests(LegacyPollTestCase):
    """Where a page begins, and where it goes on."""

    def test_negative(self) -> None:
        """A new page is told at once that it is connected, and goes on 50 messages before the newest."""
        self.publish(*range(60))
        said = read_script(self.ask_for("-1"))
        self.assertEqual((1, "connected..."), (said["status"], said["data"]))
        self.assertEqual([str(number) for number in range(10, 60)], self.texts(50, said["timestamp"]))

    def test_from_the_oldest(self) -> None:
        """With 0 or no number a page gets all that is kept, one message an answer."""
        self.publish(1, 2, 3)
        self.assertEqual(["1", "2", "3"], self.texts(3))
        self.assertEqual("1", read_script(self.ask_for())["data"])

    def test_no_news(self) -> None:
        """If there is nothing to say, a poll ends with a comment, when the page has given it up."""
        since = self.publish("first")
        for last_update in (since, "0"):
            poll = self.ask_for(last_update, room="lobby" if last_update == since else "empty")
            self.hold(HELD)
            self.assertFalse(poll.answered)
            self.hold(0.7)
            self.assertTrue(poll.wire.value().endswith(b"\r\n\r\n/**/"), poll.wire.value())
        self.assert_nothing_left()

    def test_a_message_answers_all(self) -> None:
        """A message answers all polls that wait, each by its own function, with the first of what came in the turn."""
        since = self.publish("first")
        polls = [(name, self.ask_for(since, name)) for name in ("a", "b.c", "$d")]
        start = len(self.hub.sessions)
        self.publish({"text": "one"}, {"text": "two"})
        self.turn()
        said = [read_script(poll, name) for name, poll in polls]
        self.assertEqual((3, ["one"] * 3), (start, [one["data"] for one in said]))
        self.assertEqual(["two"], self.texts(1, said[0]["timestamp"]))
        self.assertEqual(3 + 1, self.hub.counters.delivered["legacy_poll"])
        self.assert_nothing_left()

    def test_garbage(self) -> None:
        """What is no position is answered at once, and never with an error. It is the newest that comes next."""
        epoch = self.publish(*range(60)).split(":")[0]
        for garbage in (
            *("1385740800.123", "NaN", "undefined", "null", "", "1e3", "00", "0x0", " 0", "é", "\0", "a" * 500, "--1"),
            *(f"{epoch}:-1", f"{epoch}:99999999999999999999", f"{epoch}:5:5"),
        ):
            said = read_script(self.ask_for(garbage))
            self.assertEqual(("connected...", f"{epoch}:60"), (said["data"], said["timestamp"]), garbage)
        for foreign in ("elsewhere:3", f"{epoch}:61"):
            said = read_script(self.ask_for(foreign))
            self.assertEqual(("connected...", f"{epoch}:10"), (said["data"], said["timestamp"]), foreign)
        twice = Poll(self.site, f"?lastupdate=1&lastupdate=2&callback={CALLBACK}")
        self.assertEqual("connected...", read_script(twice)["data"])
        not_text = Poll(self.site, f"?lastupdate=%FF&callback={CALLBACK}")
        self.assertEqual("connected...", read_script(not_text)["data"])

    def test_trimmed(self) -> None:
        """If messages are gone, the page is told that it is connected. Then it goes on with what is kept."""
        self.serve(MemoryStore(Retention(5), self.clock.seconds, tokens()))
        since = self.publish("first")
        self.publish(*range(20))
        said = read_script(self.ask_for(since))
        self.assertEqual("connected...", said["data"])
        self.assertEqual(["15", "16", "17", "18", "19"], self.texts(5, said["timestamp"]))
        self.assertEqual(["15"], self.texts(1, "0"))

    def test_trimmed_in_memory(self) -> None:
        """If a room that is in memory is trimmed, 0 still means the oldest message that is kept."""
        self.limits = {"history": 5}
        self.serve(MemoryStore(Retention(5), self.clock.seconds, tokens()))
        self.publish("first")
        read_script(self.ask_for("-1"))
        self.publish(*range(20))
        self.assertEqual(["15", "16"], self.texts(2))

    def test_store_fails(self) -> None:
        """While the store can't be read, a poll gets an error, and nothing of it is left."""
        self.serve(self.held)
        poll = self.ask_for("0")
        self.held.fail_read()
        self.assertEqual(503, poll.status)
        self.assert_nothing_left()

    def test_shown_events(self) -> None:
        """Events of the server's own are passed over; if there are no others, no page is answered."""
        entries = [self.entry(number, "$amended" if number != 3 else "note") for number in (1, 2, 3, 4)]
        batch = FirstText("lobby", "e", entries)
        self.assertEqual((3, "e:3"), (batch.count, json.loads(batch.json)["timestamp"]))
        hidden = FirstText("lobby", "e", entries[:2])
        self.assertEqual((2, b""), (hidden.count, hidden.json))

    def entry(self, offset: int, event: str) -> Entry:
        return Entry(Message("lobby", Position("e", offset), event, b'{"text":"hi"}', "a", "a", 0))

    def test_signals_and_presence(self) -> None:
        """Signals and members answer no poll."""
        poll = self.ask_for(self.publish("first"))
        client = self.hello()["client"]
        self.poll("lobby", client=client)
        self.command({"type": "signal", "room": "lobby", "event": "e", "data": 1}, headers={"Realtime-Client": client})
        self.hold(HELD)
        self.assertFalse(poll.answered)
        self.hold(0.7)
        self.assertTrue(poll.wire.value().endswith(b"/**/"))


class ScriptTests(LegacyPollTestCase):
    """The answer as a script."""

    def test_callbacks(self) -> None:
        """Only the name of a function is called. Everything else is refused in JSON, with a status."""
        self.publish("x")
        for callback in ("a", "$", "_", "a.b.c", "jQuery1102_1795._x", "a" * 64):
            self.assertEqual("&quot;x&quot;", read_script(self.ask_for("0", callback), callback)["data"])
        for callback in ("", "alert(1)//", "a;b", "1a", "a.", ".a", "a..b", "a[0]", "a-b", "é", "a" * 65, "a\n", "<b>"):
            poll = self.ask_for("0", callback)
            self.assertEqual((400, "bad_request"), (poll.status, poll.answer["code"]), callback)
            self.assertIn(b"application/json", poll.wire.value())

    def test_headers(self) -> None:
        """A script says its type, that nothing else is guessed, and that nobody keeps it."""
        self.publish({"text": "x"})
        head = self.ask_for("0").wire.value().partition(b"\r\n\r\n")[0]
        for line in (
            b"Content-Type: text/javascript; charset=utf-8",
            b"X-Content-Type-Options: nosniff",
            b"Cache-Control: no-store",
        ):
            self.assertIn(line, head)

    def test_separators(self) -> None:
        """What may not stand in a script is escaped in it."""
        self.publish({"text": "a\u2028b\u2029c</script>"})
        body = self.ask_for("0").wire.value().partition(b"\r\n\r\n")[2]
        self.assertNotIn(b"<", body)
        self.assertNotIn("\u2028".encode(), body)
        self.assertEqual("a\u2028b\u2029c&lt;/script&gt;", read_script(self.ask_for("0"))["data"])

    def test_json(self) -> None:
        """Without a callback the answer is the same, in JSON."""
        position = self.publish({"text": "<é>"})
        poll = self.ask_for("0", None)
        self.assertEqual({"status": 1, "timestamp": position, "data": "&lt;é&gt;"}, poll.answer)
        self.assertIn(b"Content-Type: application/json", poll.wire.value())


class FormTests(LegacyPollTestCase):
    """What the page sends."""

    def test_publish(self) -> None:
        """A form is published by the anonymous user, as it was typed, and its answer is empty."""
        for form, text in (
            ("new_message=from+lp+%C3%A9", "from lp é"),
            ("new_message=", ""),
            ("a=b&new_message=%26", "&"),
        ):
            self.assertEqual((200, b""), self.send(form, "?lastupdate=-1"))
            _, page = self.get("rooms/lobby/messages", {"last": 1})
            (message,) = page["messages"]
            self.assertEqual(({"text": text}, "message"), (message["data"], message["event"]))
            self.assertEqual({"id": "anonymous", "name": "anonymous", "guest": True}, message["from"])

    def test_nothing(self) -> None:
        """Without the field nothing is stored."""
        for form in ("", "text=hi", "new_message", "&&=&%"):
            self.assertEqual((200, b""), self.send(form))
        self.assertEqual([], self.get("rooms/lobby/messages")[1]["messages"])

    def test_refused(self) -> None:
        """What can't be a form is refused with the words that are right."""
        for form, headers, status, words in (
            ("new_message=a&new_message=b", {}, 400, b"at most once"),
            ("new_message=%FF", {}, 400, b"UTF-8"),
            ('{"new_message":"a"}', {"Content-Type": "application/json"}, 415, b"application/x-www-form-urlencoded"),
        ):
            found, body = self.send(form, "", **headers)
            self.assertEqual(status, found)
            self.assertIn(words, body)

    def test_foreign_elements(self) -> None:
        """Scripts on pages of other sites may ask; forms, images and links there may not."""
        resource: Any = self.root.children[b""]
        for method, args, expected in (
            (b"GET", {b"callback": [b"f"]}, False),
            (b"GET", {}, True),
            (b"POST", {}, True),
            (b"POST", {b"callback": [b"f"]}, True),
        ):
            request = SimpleNamespace(method=method, args=args)
            self.assertEqual(expected, resource.is_guarded(request), (method, args))


class RoomTests(LegacyPollTestCase):
    """Which room, and who may."""

    def test_rooms(self) -> None:
        """A page may name another room. The rooms stay apart."""
        self.send("new_message=a")
        self.send("new_message=b", "?room=other")
        self.assertEqual("a", read_script(self.ask_for("0"))["data"])
        self.assertEqual("b", read_script(self.ask_for("0", room="other"))["data"])
        for room, status in (("a b", 400), ("", 400), ("@private", 403), ("a" * 129, 400)):
            self.assertEqual(status, self.ask_for("0", room=room).status, room)

    def test_rights(self) -> None:
        """If guests may not read a room, its polls are refused with a status, which makes no page show anything.

        If they may only read it, their forms are refused.
        """
        rules = RoomRules((RoomRule("lobby", READ, READ),))
        self.hub.replace_access(AccessPolicy(rules, is_open=False))
        self.assertEqual("connected...", read_script(self.ask_for("-1"))["data"])
        self.assertEqual(403, self.send("new_message=a")[0])
        poll = self.ask_for("0", room="other")
        self.assertEqual((403, "forbidden"), (poll.status, poll.answer["code"]))

    def test_rights_end(self) -> None:
        """A poll whose room is closed to guests meanwhile brings nothing more, and the next one is refused."""
        poll = self.ask_for(self.publish("x"))
        self.hub.replace_access(AccessPolicy(RoomRules(), is_open=False))
        self.hold(1.8)
        self.assertTrue(poll.wire.value().endswith(b"/**/"))
        self.assertEqual(403, self.ask_for("0").status)

    def test_nobody_is_there(self) -> None:
        """Old pages are no members of their room."""
        self.ask_for(self.publish("x"))
        self.assertEqual(0, self.get("rooms/lobby/members")[1]["count"])

    def test_stopping(self) -> None:
        """When the daemon stops, polls that wait and new ones get an error with a status."""
        poll = self.ask_for(self.publish("x"))
        self.hub.stop()
        self.assertEqual((503, "stopping"), (poll.status, poll.answer["code"]))
        self.assertEqual(503, self.ask_for("-1").status)
        self.assert_nothing_left()

    def test_gone(self) -> None:
        """Of a poll whose client goes away nothing is left."""
        self.ask_for(self.publish("x")).cut()
        self.assert_nothing_left()


class LimitTests(LegacyPollTestCase):
    """How fast pages may go on."""

    def test_address(self) -> None:
        """Polls and forms draw from what their address may use; too many are refused with a status and a time."""
        rates = RateLimits(address=ScopeLimits(commands=Rate(1, 2), polls=1))
        self.hub = make_hub(self.store, self.clock, rates=rates)
        self.root.putChild(b"", LegacyResource(self.hub, "lobby"))
        self.addCleanup(self.hub.wheel.stop)
        Request.client_address = SimpleNamespace(key="192.0.2.1")  # type: ignore[attr-defined]  # as a site sets it
        self.addCleanup(delattr, Request, "client_address")
        self.ask_for("0")
        waiting = self.ask_for("0")
        self.assertEqual((429, "too_many"), (waiting.status, waiting.answer["code"]))
        limited = self.ask_for("0")
        self.assertEqual((429, "rate_limited"), (limited.status, limited.answer["code"]))
        self.assertIn(b"Retry-After: 1", limited.wire.value())
