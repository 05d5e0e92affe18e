"""Tests for :mod:`realtime_chat.presence.poll_version`: what polls are told that come with versions."""

from __future__ import annotations

import json

from realtime_chat.presence.membership import DIGEST_OF_EMPTY
from realtime_chat.transports.poll import PollResource
from realtime_chat.values.model import ANONYMOUS, Draft
from tests.fakes import FakeRequest
from tests.presence.test_presence import PresenceWorld
from tests.presence.test_remote_members import NodesWorld


class NobodyThereTests(NodesWorld):
    """Polls of rooms without members, by clients that are no members either."""

    def test_told(self) -> None:
        """One that knows members who are gone is told once that nobody is there, whoever told it of them."""
        given = self.polled(0)
        self.wait(30)
        for version in (
            given["presence"],  # of a node that knew them
            "f00d.7.00000000000000ff",  # of one that has ended
            "f00d.7",  # of a daemon alone, before it was started again
            "0.1795000000000.00000000000000ff",  # of one that didn't know the members
            "",
            "nonsense",
        ):
            for node in (0, 1):
                poll = self.poll(node, since=given["since"], presence=version)
                answer = json.loads(poll.body)
                (event,) = answer["events"]
                self.assertEqual((0, []), (event["count"], event["members"]), version)
                again = self.poll(node, since=given["since"], presence=answer["presence"]["lobby"])
                self.assertEqual(b"", again.body, version)

    def test_known(self) -> None:
        """One that knows that nobody is there waits, on whichever node."""
        since = self.polled(0)["since"]
        self.wait(30)
        for node in (0, 1):
            poll = self.poll(node, since=since, presence=f"f00d.7.{DIGEST_OF_EMPTY}")
            self.assertEqual(b"", poll.body)


class AloneTests(PresenceWorld):
    """A daemon without other nodes."""

    def test_started_again(self) -> None:
        """A poll with a version from before the start is told once that nobody is there, and then waits."""
        session, seen = self.arrive()
        session.close()
        self.wait(60)
        self.assertEqual({}, self.hub.rooms)
        (joined,) = seen.of_type("joined")
        args = {b"room": [b"lobby"], b"since": [joined["position"].encode()], b"wait": [b"20"]}
        told = FakeRequest({**args, b"presence": [b"f00d.7"]})
        PollResource(self.hub, jsonp=False).render_GET(told)  # type: ignore[arg-type]
        answer = json.loads(told.body)
        self.assertEqual([[]], [event["members"] for event in answer["events"]])
        waiting = FakeRequest({**args, b"presence": [answer["presence"]["lobby"].encode()]})
        PollResource(self.hub, jsonp=False).render_GET(waiting)  # type: ignore[arg-type]
        self.assertEqual(b"", waiting.body)


class JustChangedTests(NodesWorld):
    """Polls with another node's version, soon after an event, so that the next one has to wait."""

    limits = {"presence_interval": 2.0}

    def setUp(self) -> None:
        super().setUp()
        self.given = self.polled(1)
        self.wait(2)
        self.arrive(2, "Ann")
        self.given |= self.polled(1, **self.given)

    def test_unknown_for_long(self) -> None:
        """One that holds members whom all nodes should have heard of long ago is told the true ones at once."""
        poll = self.poll(2, **{**self.given, "presence": "0.1.00000000000000ff"})
        (event,) = json.loads(poll.body)["events"]
        self.assertEqual(2, len(event["members"]))

    def test_unknown(self) -> None:
        """One that holds members whom this node may hear of yet waits for two intervals, and is told the true ones."""
        poll = self.poll(2, **{**self.given, "presence": "f00d.1.00000000000000ff"})
        self.wait(3.5)
        self.assertEqual(b"", poll.body)
        self.wait(2.5)
        (event,) = json.loads(poll.body)["events"]
        self.assertEqual(2, len(event["members"]))

    def test_next_event(self) -> None:
        """One that holds the members as they are is told of the next change together with all others."""
        poll = self.poll(2, **self.given)
        _, seen = self.arrive(2, "Bob")
        self.assertEqual(b"", poll.body)
        while not self.events(seen) and not poll.body:
            self.wait(0.05)
        self.assertEqual(["Bob"], [member["name"] for member in json.loads(poll.body)["events"][0]["joined"]])

    def test_answered_before_the_event(self) -> None:
        """One that a message answers before a change of the members is sent hears of that change on the next node."""
        poll = self.poll(2, **self.given)
        self.arrive(2, "Bob")
        self.hubs[2].publish(Draft("lobby", "message", b"1", ANONYMOUS))
        self.wait(0.1)
        answer = json.loads(poll.body)
        self.assertEqual(["message"], [event["type"] for event in answer["events"]])
        since = answer["positions"]["lobby"]
        for _ in range(2):  # the first is told of those whom the other node knows already
            poll = self.poll(1, **{**self.given, "since": since, "presence": answer["presence"]["lobby"]})
            self.wait(5)
            answer = json.loads(poll.body)
        (event,) = answer["events"]
        self.assertIn("Bob", [member["name"] for member in event.get("joined") or event["members"]])
