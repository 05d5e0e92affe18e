"""Tests for :mod:`realtime_chat.transports.poll`, in memory: what the contract doesn't ask of every transport."""

from __future__ import annotations

import gc
import json
import weakref
from typing import Any
from urllib.parse import urlencode

from twisted.internet.defer import fail
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.server import Site

from realtime_chat.values.errors import StoreError
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
        self.assertEqual(0, sum(room.reader_count for room in self.hub.rooms.values()))
        self.assertEqual([], self.flushLoggedErrors())


def data(poll: Poll) -> list[Any]:
    return [event["data"] for event in poll.answer["events"] if event["type"] == "message"]


class PageTests(PollTestCase):
    """The contents of one answer."""

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
        """A gap is reported first. Then at most ``last`` kept messages follow."""
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
        """Messages that are published in one turn are in one answer."""
        poll = self.poll("lobby", since=self.publish(0))
        self.publish(1, 2, 3)
        self.turn()
        self.assertEqual([1, 2, 3], data(poll))
        self.assert_nothing_left()

    def test_large_turn(self) -> None:
        """Messages of one turn that don't fit one answer are in the next."""
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
        """Where nothing is said it is 25 seconds at most."""
        self.assertIn(self.answered_after(), (24.5, 24.75))

    def test_asked(self) -> None:
        """It is what was asked for."""
        self.assertIn(self.answered_after(wait=3), (2.5, 2.75))

    def test_most(self) -> None:
        """It is 55 seconds at most."""
        for wait in ("56", "1000000", "9" * 500):
            self.assertIn(self.answered_after(wait=wait), (54.5, 54.75))

    def test_none(self) -> None:
        """With 0 it is answered with what is there."""
        self.assertLess(self.answered_after(wait=0), 0.6)


class ClientTests(PollTestCase):
    """The client of a poll."""

    def test_issued_and_kept(self) -> None:
        """A first poll is given a client; with it, the next ones are that client's."""
        client = self.poll("lobby").answer["client"]
        self.assertTrue(self.hub.identities.find(client))
        self.assertEqual(client, self.poll("lobby", client=client).answer["client"])
        _, welcome = self.command({"type": "hello"}, headers={"Realtime-Client": client})
        self.assertEqual(client, welcome["client"])

    def test_made_up(self) -> None:
        """A client that wasn't issued here is replaced."""
        client = self.poll("lobby", client="A" * 32).answer["client"]
        self.assertNotEqual("A" * 32, client)
        self.assertTrue(self.hub.identities.find(client))

    def test_private_room(self) -> None:
        """A private room is polled by its owner alone."""
        _, welcome = self.command({"type": "hello"})
        room = "@" + welcome["user"]["id"]
        self.publish("psst", room=room)
        self.assertEqual(["psst"], data(self.poll(room, client=welcome["client"])))
        for poll in (self.poll(room), self.poll("lobby", room)):
            self.assertEqual((403, "forbidden"), (poll.status, poll.answer["code"]))
        self.assert_nothing_left()


def presence(poll: Poll) -> list[dict[str, Any]]:
    return [event for event in poll.answer["events"] if event["type"] == "presence"]


def names(members: list[dict[str, Any]]) -> list[str]:
    return [member["name"] for member in members]


class PresenceTests(PollTestCase):
    """A client that polls is a member."""

    def first(self, *rooms: str, name: str = "Ann", **query: Any) -> Any:
        """A first poll's answer."""
        return self.poll(*(rooms or ("lobby",)), name=name, **query).answer

    def next(self, answer: Any, keep: str = "", **query: Any) -> Poll:
        """The poll after that, which gives back what it was given."""
        since = list(answer["positions"].values())
        pairs = {"presence": answer["presence"]["lobby"]} if keep == "version" else {}
        return self.poll(*answer["positions"], since=since, client=answer["client"], **pairs, **query)

    def count(self) -> int:
        return self.hub.presence.count("lobby")

    def test_first(self) -> None:
        """A first answer lists the members, the client among them, and has a version for each room."""
        answer = self.first("lobby", "other")
        listed = {event["room"]: names(event["members"]) for event in answer["events"]}
        self.assertEqual({"lobby": ["Ann"], "other": ["Ann"]}, listed)
        self.assertEqual({"lobby", "other"}, set(answer["presence"]))

    def test_own_coming_is_not_told(self) -> None:
        """The poll after the first one waits: nothing of its own coming comes again."""
        for keep in ("version", ""):
            waiting = self.next(self.first(), keep)
            self.clock.pump([0.1] * 30)
            self.assertFalse(waiting.answered, keep)
            waiting.cut()
            self.clock.pump([1.0] * 12)

    def test_grace(self) -> None:
        """A poller is there for ten seconds after its last poll, and back in that time it never left."""
        watcher = self.first()
        self.clock.pump([0.1] * 5)
        waiting = self.next(watcher, "version")
        other = self.first(name="Bob")
        self.clock.advance(0.1)
        self.assertEqual(["Bob"], names(presence(waiting)[0]["joined"]))
        waiting = self.next(waiting.answer, "version")
        self.clock.pump([0.25] * 38)
        again = self.next(other, "version", wait=0)
        self.clock.advance(0.25)
        self.assertEqual((2, True, False), (self.count(), again.answered, waiting.answered))
        self.clock.pump([0.25] * 37)
        self.assertEqual(2, self.count())
        self.clock.pump([0.25] * 4)
        self.assertEqual(1, self.count())
        (event,) = presence(waiting)
        self.assertEqual((1, ["Bob"]), (event["count"], names(event["left"])))

    def test_version_after_an_event(self) -> None:
        """A change is told in one answer only. A client that lost the answer is told everything."""
        answer = self.first()
        self.clock.pump([0.1] * 5)
        waiting = self.next(answer, "version")
        self.first(name="Bob")
        self.clock.pump([0.1] * 5)
        self.assertEqual(["Bob"], names(presence(waiting)[0]["joined"]))
        self.assertFalse(self.next(waiting.answer, "version").answered)
        lost = self.next(answer, "version")
        self.assertEqual(2, len(presence(lost)[0]["members"]))

    def test_without_versions(self) -> None:
        """For a client without versions, the node keeps them. A first poll is told everything again."""
        answer = self.first()
        waiting = self.next(answer)
        self.first(name="Bob")
        self.clock.pump([0.1] * 5)
        self.assertEqual(1, len(presence(waiting)))
        waiting = self.next(waiting.answer)
        self.assertFalse(waiting.answered)
        again = self.poll("lobby", client=answer["client"])
        self.assertEqual(2, len(presence(again)[0]["members"]))

    def test_told_between_polls(self) -> None:
        """A change between two polls answers the second one at once."""
        answer = self.first()
        self.clock.advance(1)
        self.first(name="Bob")
        self.clock.pump([0.1] * 5)
        for keep in ("version", ""):
            self.assertEqual(2, len(presence(self.next(answer, keep))[0]["members"]), keep)

    def test_settled_room_keeps_no_polls(self) -> None:
        """Polls of a room in which nobody comes or goes leave nothing behind in it."""
        answer = self.first()
        self.clock.pump([0.1] * 5)
        for number in range(5):
            waiting = self.next(answer)
            self.publish(number)
            self.turn()
            answer = waiting.answer
        self.assertEqual([], self.hub.presence.memberships["lobby"].take_already_current())

    def test_other_versions(self) -> None:
        """A version of another node, of the future, or that is none, is answered with all."""
        answer = self.first()
        self.clock.advance(1)
        node, _, number = answer["presence"]["lobby"].partition(".")
        for version in ("", "other.1", f"{node}.{int(number) + 1}", f"{node}.-1", f"{node}.", f"{node}.٣", "9" * 500):
            poll = self.poll("lobby", since=answer["positions"]["lobby"], client=answer["client"], presence=version)
            self.assertEqual(1, len(presence(poll)[0]["members"]), version)

    def test_one_for_each_room(self) -> None:
        """Versions are given for all rooms or for none."""
        poll = self.poll("a", "b", presence="x")
        self.assertEqual((400, "bad_request"), (poll.status, poll.answer["code"]))

    def test_nobody(self) -> None:
        """A poll that goes on without its client is no member, and isn't woken by new members."""
        since = self.publish(0)
        waiting = self.poll("lobby", since=since)
        self.first()
        self.clock.pump([0.1] * 5)
        self.assertEqual((False, 1), (waiting.answered, self.count()))
        self.publish(1)
        self.turn()
        self.assertEqual(["message"], [event["type"] for event in waiting.answer["events"]])

    def test_leave(self) -> None:
        """A beacon says that the page is closed: the poller is gone within two seconds."""
        watcher, going = self.first(), self.first(name="Bob")
        self.clock.pump([0.1] * 3)
        watching, waiting = self.next(watcher), self.next(going, "version")
        beacon = b'{"type":"leave","room":"lobby","id":1}'
        headers = {"Content-Type": "text/plain;charset=UTF-8"}
        response, body = self.ask("POST", "commands", {"client": going["client"]}, data=beacon, headers=headers)
        self.assertEqual((200, {"type": "left", "id": 1, "room": "lobby"}), (response.code, json.loads(body)))
        waiting.cut()
        watching = self.next(watching.answer, "version")
        self.clock.pump([0.25] * 8)
        self.assertEqual(["Bob"], names(presence(watching)[0]["left"]))

    def test_leave_and_return(self) -> None:
        """A client that polls again in time has not left, and has ten seconds again."""
        going = self.first()
        leave = {"type": "leave", "room": "lobby"}
        headers = {"Realtime-Client": going["client"]}
        self.assertEqual(200, self.command(leave, headers=headers)[0])
        self.clock.advance(1)
        self.next(going, wait=0)
        self.clock.pump([1.0] * 9)
        self.assertEqual(1, self.count())
        self.assertEqual(200, self.command(leave, headers=headers)[0])
        self.assertEqual("not_joined", self.command(leave, headers=headers)[1]["code"])
        self.clock.pump([0.5] * 4)
        self.assertEqual(0, self.count())

    def test_nothing_is_left(self) -> None:
        """When all polls have ended, and their time is over, nobody is there, and no alarm is left."""
        polls = [self.next(self.first(room)) for room in ("lobby", "lobby", "other")]
        for poll in polls:
            poll.cut()
        self.clock.pump([0.5] * 24)
        presence = self.hub.presence
        self.assertEqual(({}, {}, None), (presence.memberships, presence._clients, presence._table._timer))
        self.assertEqual(1, len(self.hub.wheel))  # the sweep of idle rooms
        self.assert_nothing_left()


class TraceTests(PollTestCase):
    """What is left in memory after a poll."""

    def test_no_cycles(self) -> None:
        """A poll that was answered, at once or later, is gone with its session, and no garbage collector is needed."""
        since = self.publish(0)
        gc.disable()
        self.addCleanup(gc.enable)
        at_once, later = self.poll("lobby", since=since.split(":")[0] + ":0"), self.poll("lobby", since=since)
        waiting = [weakref.ref(session) for session in self.hub.sessions]
        self.assertEqual((True, False, 1), (at_once.answered, later.answered, len(waiting)))
        self.publish(1)
        self.turn()
        self.assertTrue(later.answered)
        self.assertIsNone(waiting[0]())


class LargeRoomTests(PollTestCase):
    """Polls of a room with too many to list."""

    limits = {"presence_limit": 2}

    def test_count(self) -> None:
        """They have the number alone."""
        answers = [self.poll("lobby", name=name).answer for name in "abc"]
        expected = {"type": "presence", "room": "lobby", "count": 3}
        self.assertEqual(expected, answers[2]["events"][0])
        self.clock.pump([0.1] * 5)
        stale = self.poll("lobby", since=answers[0]["positions"]["lobby"], client=answers[0]["client"])
        self.assertEqual([expected], stale.answer["events"])


class SignalTests(PollTestCase):
    """Signals to and from clients that poll."""

    def setUp(self) -> None:
        super().setUp()
        self.sender = self.poll("lobby", name="Ann").answer
        self.reader = self.poll("lobby", name="Bob").answer
        self.clock.pump([0.1] * 5)
        self.reader = self.again()

    def again(self) -> Any:
        """The reader's next answer, at once."""
        poll = self.ask_again(wait=0)
        self.clock.advance(0.25)
        return poll.answer

    def ask_again(self, **query: Any) -> Poll:
        answer = self.reader
        return self.poll("lobby", since=answer["positions"]["lobby"], client=answer["client"], **query)

    def signal(self, data: Any, **fields: Any) -> tuple[int, Any]:
        command = {"type": "signal", "room": "lobby", "event": "e", "data": data, **fields}
        return self.command(command, headers={"Realtime-Client": self.sender["client"]})

    def told(self, answer: Any) -> list[Any]:
        return [event["data"] for event in answer["events"] if event["type"] == "signal"]

    def test_wakes(self) -> None:
        """A signal answers a waiting poll, and its sender is told that it was taken."""
        waiting = self.ask_again()
        self.assertEqual((200, {"type": "ok"}), self.signal(1))
        self.assertEqual((200, {"type": "ok", "id": 5}), self.signal(2, id=5))
        (event,) = waiting.answer["events"]
        self.assertEqual(("signal", 1, "Ann"), (event["type"], event["data"], event["from"]["name"]))

    def test_back_in_time(self) -> None:
        """A poll that is back within five seconds gets what was signalled meanwhile, once."""
        self.signal(1)
        self.clock.advance(2)
        self.signal(2)
        self.clock.advance(2)
        self.reader = self.again()
        self.assertEqual([1, 2], self.told(self.reader))
        self.assertEqual([], self.told(self.again()))

    def test_back_too_late(self) -> None:
        """After that it gets nothing of it."""
        self.signal(1)
        self.clock.advance(4.5)
        self.signal(2)
        self.clock.advance(1)
        self.assertEqual([], self.told(self.again()))

    def test_what_was_heard(self) -> None:
        """A signal that answered a poll doesn't come with the next one."""
        waiting = self.ask_again()
        self.signal(1)
        self.reader = waiting.answer
        self.signal(2)
        self.assertEqual([2], self.told(self.again()))

    def test_own(self) -> None:
        """A client's own signal isn't in its next poll."""
        self.signal(1)
        own = self.poll("lobby", since=self.sender["positions"]["lobby"], client=self.sender["client"], wait=0)
        self.clock.advance(0.25)
        self.assertEqual([], self.told(own.answer))

    def test_bounded(self) -> None:
        """The signals that are kept between polls are bounded; the newest are kept."""
        for number in range(20):
            self.signal([number, "x" * 50_000])
        self.assertEqual([15, 16, 17, 18, 19], [number for number, _ in self.told(self.again())])

    def test_kept_for_nobody(self) -> None:
        """Nothing is kept where nobody could come back for it."""
        waiting = [self.ask_again(), self.poll("lobby", since="x:1", client=self.sender["client"])]
        signals = self.hub.presence._signals
        waiting[1] = self.poll("lobby", since=self.sender["positions"]["lobby"], client=self.sender["client"])
        self.assertEqual([], [name for name, room in signals._rooms.items() if room.waiting])
        for room in signals._rooms.values():
            room.add(0, "somebody", b"1")
        self.assertEqual((0, 0), (signals.kept.size, signals.kept.number))
        for poll in waiting:
            poll.cut()

    def test_wants_membership(self) -> None:
        """A client that doesn't read the room can't signal there, and neither can an anonymous one."""
        status, error = self.signal(1, room="other")
        self.assertEqual((400, "not_joined"), (status, error["code"]))
        status, error = self.command({"type": "signal", "room": "lobby", "event": "e", "data": 1})
        self.assertEqual((400, "not_joined"), (status, error["code"]))

    def test_too_many(self) -> None:
        """A client that sends too many is told 429."""
        answers = [self.signal(number)[0] for number in range(61)]
        self.assertEqual([200] * 60 + [429], answers)

    def test_state(self) -> None:
        """A state over HTTP is that of the client's polls; without any it is refused."""
        headers = {"Realtime-Client": self.sender["client"]}
        self.assertEqual((200, {"type": "ok"}), self.command({"type": "state", "state": {"a": 1}}, headers=headers))
        _, reply = self.command({"type": "members", "room": "lobby"})
        self.assertEqual([{"a": 1}], [member["state"] for member in reply["members"] if member["name"] == "Ann"])
        for headers in ({}, {"Realtime-Client": self.hello()["client"]}):
            status, error = self.command({"type": "state", "state": {}}, headers=headers)
            self.assertEqual((400, "not_joined"), (status, error["code"]))


class TroubleTests(PollTestCase):
    """Failures."""

    limits = {"max_rooms": 3}

    def test_refused(self) -> None:
        """A wrong poll is refused, and leaves nothing behind."""
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

    def test_names_the_room(self) -> None:
        """An error that is about one room of several says which one, where it has a room's name."""
        for rooms, expected in (
            (("a", "@b"), ("forbidden", "@b")),
            (("a", "b", "c", "d"), ("too_many", "d")),
            (("a", "<b>"), ("bad_room", None)),
            (("a", "b", "c", "<d>"), ("too_many", None)),
            ((), ("bad_request", None)),
        ):
            answer = self.poll(*rooms).answer
            self.assertEqual(expected, (answer["code"], answer.get("room")))
        self.poll("a")
        self.patch(self.store, "read_before", lambda *given: fail(StoreError("the disk is away")))
        answer = self.poll("a", "b").answer
        self.assertEqual(("store_unavailable", "b"), (answer["code"], answer["room"]))

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
        self.clock.pump([0.25] * 8)  # rooms without messages are gone by then
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


class CrowdTests(PollTestCase):
    """Polls of rooms with more members than an answer has bytes for."""

    limits = {"answer_bytes": 4000}

    def test_many_members(self) -> None:
        """An answer ends with what brings it to its limit, and the next ones bring the rest, whoever keeps versions."""
        rooms = [f"room-{number}" for number in range(6)]
        others = [self.poll(*rooms, last="0", name=f"Somebody {number:02}") for number in range(40)]
        self.clock.advance(1)
        for versions in (False, True):
            told: dict[str, int] = {}
            answer: dict[str, Any] = self.poll(*rooms, last="0").answer
            for _ in range(10):
                self.assertLess(len(json.dumps(answer)), 12_000)
                told |= {event["room"]: len(event["members"]) for event in answer["events"] if "members" in event}
                if len(told) == len(rooms):
                    break
                since = [answer["positions"][room] for room in rooms]
                pairs = [("room", room) for room in rooms] + [("since", one) for one in since]
                if versions:
                    pairs += [("presence", answer["presence"][room]) for room in rooms]
                poll = Poll(self.site, "poll?" + urlencode(pairs), **{"Realtime-Client": answer["client"]})
                self.clock.advance(1)
                answer = poll.answer
            self.assertEqual(set(rooms), set(told))
            self.assertGreaterEqual(min(told.values()), 40)
        self.assertEqual(40, len(others))
