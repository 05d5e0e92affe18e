"""Tests for :mod:`realtime_chat.presence.visibility`: clients that may read a room and not see who is there."""

from __future__ import annotations

import json
from typing import Any

import attrs

from realtime_chat.core.access import AccessPolicy
from realtime_chat.transports.poll import PollResource
from realtime_chat.values.access import RoomRule, RoomRules, parse_rights
from tests.fakes import FakeRequest
from tests.presence.test_presence import PresenceWorld
from tests.presence.test_remote_members import assert_nobody
from tests.site_tokens import SiteTokens


class UnseenTests(PresenceWorld):
    """Guests that may read and signal, and users that may see who is there."""

    def setUp(self) -> None:
        super().setUp()
        self.site = SiteTokens(lambda: self.hub.time_ms() / 1000)
        self.hub.access = AccessPolicy(RoomRules((RoomRule("lobby", parse_rights("rs")),)), is_open=False)
        self.hub._verify, self.hub.identities._token_keys = self.site.verify, self.site.token_keys
        self.polls = PollResource(self.hub, jsonp=False)

    def arrive_as(self, sub: str, rights: str) -> Any:
        """A user joins."""
        session, transport = self.client()
        self.tell(session, "hello", token=self.site.issue(sub, name=sub, lobby=rights))
        self.tell(session, "join", room="lobby")
        return session, transport

    def poll(self, client: str | None = None, **query: str) -> dict[str, Any]:
        """A poll that is answered at once, or after its wait."""
        headers = None if client is None else {b"Realtime-Client": [client.encode()]}
        args = {
            b"room": [b"lobby"],
            b"wait": [b"1"],
            **{name.encode(): [text.encode()] for name, text in query.items()},
        }
        request = FakeRequest(args, headers)
        self.polls.render_GET(request)  # type: ignore[arg-type]
        if not request.body:
            self.wait(2)
        return json.loads(request.body)  # type: ignore[no-any-return]

    def test_not_a_member(self) -> None:
        """Who may not be seen is no member, and is told of nobody: neither at first, nor later, nor by polls."""
        ann, seeing = self.arrive_as("Ann", "rp")
        session, guest = self.arrive()
        (joined,) = guest.of_type("joined")
        self.assertEqual(("rs", False, False), (joined["rights"], "count" in joined, "members" in joined))
        first = self.poll()
        self.assertEqual(({"lobby": ""}, {"lobby": "rs"}), (first["presence"], first["rights"]))
        self.settled((ann, seeing))
        self.arrive_as("Ben", "rp")
        self.wait(1)
        self.assertEqual(["Ben"], [member["name"] for event in self.events(seeing) for member in event["joined"]])
        later = self.poll(first["client"], since=first["positions"]["lobby"], presence="")
        self.assertEqual(([], []), (self.events(guest), later["events"]))
        self.assertEqual(2, self.hub.presence.count("lobby"))
        self.tell(session, "members", room="lobby")
        self.assertEqual("forbidden", guest.of_type("error")[0]["code"])

    def test_signals(self) -> None:
        """Who may not be seen signals all the same, and gets what is signalled between two polls."""
        _, seeing = self.arrive_as("Ann", "rsp")
        session, guest = self.arrive()
        first = self.poll()
        self.tell(session, "signal", room="lobby", event="typing", data=1)
        self.assertEqual([1], [signal["data"] for signal in seeing.of_type("signal")])
        self.assertEqual([], guest.of_type("signal"))
        later = self.poll(first["client"], since=first["positions"]["lobby"], presence="")
        self.assertEqual([1], [event["data"] for event in later["events"] if event["type"] == "signal"])

    def test_nothing_is_left(self) -> None:
        """When all have gone, nothing is kept of those that were not seen."""
        sessions = [self.arrive()[0], self.arrive_as("Ann", "r")[0], self.arrive_as("Ben", "rp")[0]]
        self.poll()
        self.assertFalse(self.hub.presence.drop_room("lobby"))
        for session in sessions:
            session.close()
        self.assertFalse(self.hub.presence.drop_room("lobby"))
        self.wait(60)
        assert_nobody(self.hub)

    def test_full_answer(self) -> None:
        """A poll whose answer is full before a room where it may not see is told of nobody there, and ends."""
        self.hub.limits = attrs.evolve(self.hub.limits, answer_bytes=1)
        rules = RoomRule("hall", parse_rights("rp")), RoomRule("lobby", parse_rights("rs"))
        self.hub.access = AccessPolicy(RoomRules(rules), is_open=False)
        for room in ("hall", "lobby"):
            self.publish("there", room=room)
        arrived, _ = self.arrive(room="hall")
        request = FakeRequest({b"room": [b"hall", b"lobby"], b"presence": [b"", b""]})
        self.polls.render_GET(request)  # type: ignore[arg-type]
        answer = json.loads(request.body)
        events = [event["room"] for event in answer["events"] if event["type"] == "presence"]
        self.assertEqual((["hall"], ""), (events, answer["presence"]["lobby"]))
        arrived.close()
        self.wait(60)
        assert_nobody(self.hub)
