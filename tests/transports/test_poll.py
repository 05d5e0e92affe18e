"""Tests for :mod:`realtime_chat.transports.poll`, in memory: what the contract doesn't ask of every transport."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from twisted.internet.defer import fail
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.server import Site

from realtime_chat.errors import StoreError
from tests.http.test_commands import StubTestCase


class Poll:
    """A poll that may be answered later, on a connection of its own."""

    def __init__(self, site: Site, path: str, **headers: str) -> None:
        self.channel: Any = site.buildProtocol(None)  # type: ignore[arg-type]
        self.wire = StringTransport()
        self.channel.makeConnection(self.wire)
        lines = [
            f"GET /{path} HTTP/1.1",
            "Host: chat.example",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.channel.dataReceived("\r\n".join([*lines, "", ""]).encode())

    @property
    def answered(self) -> bool:
        """Whether the answer has come."""
        return bool(self.wire.value())

    @property
    def status(self) -> int:
        """The answer's status."""
        return int(self.wire.value().split()[1])

    @property
    def answer(self) -> Any:
        """The answer."""
        return json.loads(self.wire.value().partition(b"\r\n\r\n")[2])

    def cut(self) -> None:
        """The client goes away."""
        self.channel.connectionLost(Failure(ConnectionDone()))


class PollTestCase(StubTestCase):
    """Polls on a clock that stands still."""

    def serve(self, store: Any) -> None:
        super().serve(store)
        self.site = Site(self.root, reactor=self.clock)
        self.addCleanup(self.hub.wheel.stop)

    def poll(self, *rooms: str, since: list[str] | str = (), client: str = "", **query: Any) -> Poll:  # type: ignore[assignment]
        positions = [since] if isinstance(since, str) else since
        pairs = [("room", room) for room in rooms] + [("since", one) for one in positions] + list(query.items())
        headers = {"Realtime-Client": client} if client else {}
        return Poll(self.site, "poll?" + urlencode(pairs), **headers)

    def turn(self) -> None:
        self.clock.advance(0)

    def assert_nothing_left(self) -> None:
        """No poll is left anywhere."""
        self.assertEqual({}, self.hub.sessions)
        self.assertEqual(0, sum(room.subscribers for room in self.hub.rooms.values()))
        self.assertEqual([], self.flushLoggedErrors())


def data(poll: Poll) -> list[Any]:
    return [event["data"] for event in poll.answer["events"] if event["type"] == "message"]


class PageTests(PollTestCase):
    """What one answer holds."""

    def test_hundred_over_several_rooms(self) -> None:
        """A page is a hundred messages over all rooms; asking on brings the rest, each message once."""
        start = {room: self.publish(f"{room}0", room=room) for room in "abc"}
        for room in "abc":
            self.publish(*[f"{room}{number}" for number in range(1, 61)], room=room)
        since, got = list(start.values()), []
        sizes = []
        while not sizes or sizes[-1]:
            poll = self.poll("a", "b", "c", since=since, wait=0)
            self.clock.advance(1)
            sizes.append(len(data(poll)))
            got += data(poll)
            since = [poll.answer["positions"][room] for room in "abc"]
        self.assertEqual([100, 80, 0], sizes)
        for room in "abc":
            mine = [text for text in got if text[0] == room]
            self.assertEqual([f"{room}{number}" for number in range(1, 61)], mine)

    def test_bytes(self) -> None:
        """A page holds as many messages as begin within 256 KiB."""
        start = self.publish("first")
        self.publish(*["x" * 50_000] * 20)
        poll = self.poll("lobby", since=start)
        self.assertEqual((6, "7"), (len(data(poll)), poll.answer["positions"]["lobby"].split(":")[1]))

    def test_again(self) -> None:
        """Asking with the same position gives the same answer."""
        start = self.publish(0)
        self.publish(1, 2, 3)
        one, two = (self.poll("lobby", since=start) for _ in range(2))
        self.assertEqual(one.answer["events"], two.answer["events"])

    def test_reset_first(self) -> None:
        """What is lost is told first, then comes what is kept, at most ``last``."""
        self.publish(*range(10))
        for since in ("elsewhere:3", self.publish("top").split(":")[0] + ":99"):
            poll = self.poll("lobby", since=since, last=2)
            reset, *messages = poll.answer["events"]
            self.assertEqual(("reset", "lobby"), (reset["type"], reset["room"]))
            self.assertEqual(2, len(messages))
            first, last = (int(message["position"].split(":")[1]) for message in messages)
            self.assertEqual(
                (first - 1, last),
                tuple(int(place.split(":")[1]) for place in (reset["position"], poll.answer["positions"]["lobby"])),
            )

    def test_reset_of_nothing(self) -> None:
        """A position of another log is told at once, also where nothing follows."""
        poll = self.poll("lobby", since="elsewhere:3")
        self.assertEqual(["reset"], [event["type"] for event in poll.answer["events"]])
        again = self.poll("lobby", since=poll.answer["positions"]["lobby"])
        self.assertFalse(again.answered)

    def test_first(self) -> None:
        """A first poll is answered at once, with the last messages and the position."""
        self.publish(*range(5))
        poll = self.poll("lobby", last=2)
        self.assertEqual([3, 4], data(poll))
        empty = self.poll("nobody")
        self.assertEqual(([], "0"), (data(empty), empty.answer["positions"]["nobody"].split(":")[1]))

    def test_one_turn(self) -> None:
        """What is published in one turn comes in one answer."""
        poll = self.poll("lobby", since=self.publish(0))
        self.publish(1, 2, 3)
        self.turn()
        self.assertEqual([1, 2, 3], data(poll))
        self.assert_nothing_left()

    def test_large_turn(self) -> None:
        """What one turn brings too much of is asked for again."""
        since = self.publish(0)
        poll = self.poll("lobby", since=since)
        for number in range(1, 251):
            self.publish(number)
        self.turn()
        got = data(poll)
        while len(got) < 250:
            poll = self.poll("lobby", since=poll.answer["positions"]["lobby"])
            got += data(poll)
        self.assertEqual(list(range(1, 251)), got)


class WaitTests(PollTestCase):
    """How long a poll waits."""

    def answered_after(self, **query: Any) -> float:
        poll = self.poll("lobby", since=self.publish(0), **query)
        begun = self.clock.seconds()
        while not poll.answered:
            self.clock.advance(0.25)
            self.assertLess(self.clock.seconds() - begun, 100)
        self.assertEqual((200, []), (poll.status, poll.answer["events"]))
        self.assert_nothing_left()
        return self.clock.seconds() - begun

    def test_usual(self) -> None:
        """Where nothing is said it is 25 seconds."""
        self.assertIn(self.answered_after(), (25, 25.25))

    def test_asked(self) -> None:
        """It is what was asked for."""
        self.assertIn(self.answered_after(wait=3), (3, 3.25))

    def test_most(self) -> None:
        """It is 55 seconds at most."""
        for wait in ("56", "1000000", "9" * 500):
            self.assertIn(self.answered_after(wait=wait), (55, 55.25))

    def test_none(self) -> None:
        """With 0 it is answered with what is there."""
        self.assertLess(self.answered_after(wait=0), 0.6)


class ClientTests(PollTestCase):
    """Whose poll it is."""

    def test_issued_and_kept(self) -> None:
        """A first poll is given a client; with it, the next ones are that client's."""
        client = self.poll("lobby").answer["client"]
        self.assertTrue(self.hub.identities.known(client))
        self.assertEqual(client, self.poll("lobby", client=client).answer["client"])
        _, welcome = self.command({"type": "hello"}, headers={"Realtime-Client": client})
        self.assertEqual(client, welcome["client"])

    def test_made_up(self) -> None:
        """One that wasn't issued here is replaced."""
        client = self.poll("lobby", client="A" * 32).answer["client"]
        self.assertNotEqual("A" * 32, client)
        self.assertTrue(self.hub.identities.known(client))

    def test_private_room(self) -> None:
        """A private room is polled by its owner alone."""
        _, welcome = self.command({"type": "hello"})
        room = "@" + welcome["user"]["id"]
        self.publish("psst", room=room)
        self.assertEqual(["psst"], data(self.poll(room, client=welcome["client"])))
        for poll in (self.poll(room), self.poll("lobby", room)):
            self.assertEqual((403, "forbidden"), (poll.status, poll.answer["code"]))
        self.assert_nothing_left()


class TroubleTests(PollTestCase):
    """What can go wrong."""

    limits = {"max_rooms": 3}

    def test_refused(self) -> None:
        """What can't be polled is refused, and leaves nothing."""
        for rooms, query, status, code in (
            ((), {}, 400, "bad_request"),
            (("a b",), {}, 400, "bad_room"),
            (("a",), {"since": "x"}, 400, "bad_position"),
            (("a", "b"), {"since": "x:1"}, 400, "bad_request"),
            (("a", "a"), {}, 400, "bad_request"),
            (("a",), {"wait": "-1"}, 400, "bad_request"),
            (("a",), {"last": "x"}, 400, "bad_request"),
            (("a",), {"name": "x" * 65}, 400, "bad_request"),
            (("a",), {"callback": "f"}, 403, "forbidden"),
            (("a", "b", "c", "d"), {}, 429, "too_many"),
        ):
            poll = self.poll(*rooms, **query)
            self.assertEqual((status, code), (poll.status, poll.answer["code"]), (rooms, query))
        self.assert_nothing_left()

    def test_store_fails(self) -> None:
        """Where the store can't be read, the poll says so at once, and leaves nothing."""
        self.patch(self.store, "read_before", lambda *given: fail(StoreError("the disk is away")))
        poll = self.poll("lobby")
        self.assertEqual((503, "store_unavailable", True), (poll.status, poll.answer["code"], poll.answer["temporary"]))
        self.assertIn(b"Retry-After: 2", poll.wire.value())
        self.assert_nothing_left()

    def test_second_room_fails(self) -> None:
        """Where the second of two rooms fails, the first is let go of."""
        self.poll("a")
        self.patch(self.store, "read_before", lambda *given: fail(StoreError("the disk is away")))
        self.assertEqual(503, self.poll("a", "b").status)
        self.assert_nothing_left()

    def test_mistake(self) -> None:
        """A mistake of ours is 500, and logged."""
        self.patch(self.store, "read_before", lambda *given: fail(ValueError("secret detail")))
        poll = self.poll("lobby")
        self.assertEqual((500, "internal"), (poll.status, poll.answer["code"]))
        self.assertNotIn("secret", poll.answer["message"])
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.assert_nothing_left()

    def test_gone_while_looking(self) -> None:
        """A client that goes away while the store is asked leaves nothing behind."""
        self.serve(self.held)
        polls = [self.poll("a", "b"), self.poll("a", since="x:1"), self.poll("b", since="x:1", wait=1)]
        alarms = len(self.hub.wheel)
        polls[0].cut()
        self.held.look(0)
        polls[1].cut()
        self.held.settle()
        polls[2].cut()
        self.held.settle()
        self.turn()
        self.assertLessEqual(len(self.hub.wheel), alarms + 1)  # the sweep of idle rooms
        self.assert_nothing_left()

    def test_gone_while_waiting(self) -> None:
        """A client that goes away while it waits leaves no alarm, and the next message reaches nobody."""
        since = self.publish(0)
        self.poll("lobby")
        alarms = len(self.hub.wheel)
        poll = self.poll("lobby", since=since)
        self.assertEqual(1, len(self.hub.sessions))
        poll.cut()
        self.assertEqual(alarms, len(self.hub.wheel))
        self.publish(1)
        self.turn()
        self.assert_nothing_left()

    def test_stopping(self) -> None:
        """A poll that comes while the daemon stops is 503; one that waits is answered with a goodbye."""
        waiting = self.poll("lobby", since=self.publish(0))
        self.hub.stop()
        (goodbye,) = waiting.answer["events"]
        self.assertEqual(("goodbye", "stopping", True), tuple(map(goodbye.get, ("type", "reason", "reconnect"))))
        late = self.poll("lobby")
        self.assertEqual((503, "stopping"), (late.status, late.answer["code"]))
        self.assert_nothing_left()
