"""Tests for :mod:`realtime_chat.presence.presence`: members, states and signals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.broker.local import LocalBroker
from realtime_chat.core.identity import NOBODY
from realtime_chat.core.performing_session import PerformingSession
from realtime_chat.presence.signals import KeptSignals, RoomSignals
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.transports.poll import PollResource
from realtime_chat.values import commands
from realtime_chat.values.model import ANONYMOUS, Draft, RemoteClient
from realtime_chat.values.rates import RateLimits
from tests.core.world import World
from tests.fakes import FakeRequest, FakeTransport, identify, make_hub, make_session, tokens
from tests.soak import examples
from tests.views import View

RUNS = examples(1000)
STEP = 0.05
"""Seconds by which the clocks here go on."""


class PresenceWorld(World):
    """Clients that join and leave a room."""

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.pump([STEP] * round(seconds / STEP))

    def arrive(self, client: str | None = None, name: str | None = None, room: str = "lobby") -> Any:
        """A client joins; give its session and its transport."""
        fake = FakeTransport()
        session = make_session(self.hub, fake, client, name)
        self.tell(session, "join", room=room)
        return session, fake

    def settled(self, *clients: Any) -> list[FakeTransport]:
        """Send all due events, and forget what these transports have received so far."""
        self.wait(0.5)
        for _, transport in clients:
            transport.received.clear()
        return [transport for _, transport in clients]

    def events(self, transport: FakeTransport) -> list[dict[str, Any]]:
        return transport.of_type("presence")

    def names(self, members: list[dict[str, Any]]) -> list[str]:
        return sorted(member["name"] for member in members)


class TellingBroker(LocalBroker):
    """Writes down what other nodes would be told of clients."""

    shared = True

    def __init__(self) -> None:
        self.came: list[RemoteClient] = []

    def publish_presence(self, room: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        self.came += came


class ToldTests(PresenceWorld):
    """What other nodes are told."""

    def test_clock_set_back(self) -> None:
        """Of two states of a client, the later one has the higher number, though the wall clock was set back."""
        wall, broker = 1_700_000_000.0, TellingBroker()
        self.hub = make_hub(self.store, self.clock, broker, time=lambda: wall)
        session, _ = self.arrive(name="Ann")
        for number in range(4):
            self.tell(session, "state", state={"number": number})
            self.wait(1)
            wall -= 1000
        numbers = [client.changed for client in broker.came]
        self.assertEqual([0, 1, 2, 3], [json.loads(client.state)["number"] for client in broker.came])
        self.assertEqual(sorted(set(numbers)), numbers)


class JoinedTests(PresenceWorld):
    """Clients that join."""

    def test_joined(self) -> None:
        """The reply to a join lists all members, itself among them, sorted by id. No event of its own join follows."""
        for name in ("Ann", "Bob", "Cid"):
            session, transport = self.arrive(name=name)
        (joined,) = transport.of_type("joined")
        self.assertEqual((3, ["Ann", "Bob", "Cid"]), (joined["count"], self.names(joined["members"])))
        ids = [member["id"] for member in joined["members"]]
        self.assertEqual(sorted(ids), ids)
        own = {"id": session.identify().user.id, "name": "Cid", "guest": True, "state": {}}
        self.assertIn(own, joined["members"])
        self.wait(5)
        self.assertEqual([], self.events(transport))

    def test_others_are_told(self) -> None:
        """Readers get an event of a client that joins."""
        first = self.arrive(name="Ann")
        (seen,) = self.settled(first)
        self.arrive(name="Bob")
        self.assertEqual([], self.events(seen))
        self.wait(0.1)
        (event,) = self.events(seen)
        self.assertEqual((2, ["Bob"], []), (event["count"], self.names(event["joined"]), event["left"]))

    def test_coalesced(self) -> None:
        """However many come at once, a room has an event each 250 ms at most, and all are in them."""
        (seen,) = self.settled(self.arrive(name="first"))
        begun = self.clock.seconds()
        for number in range(100):
            self.arrive(name=f"n{number}")
            self.wait(STEP / 5 * 5 if number % 5 == 4 else 0)
        self.wait(1)
        events = self.events(seen)
        self.assertLessEqual(len(events), (self.clock.seconds() - begun) / 0.25 + 1)
        self.assertEqual(100, sum(len(event["joined"]) for event in events))
        self.assertEqual(101, events[-1]["count"])

    def test_one_member_with_several_tabs(self) -> None:
        """A client with several connections is one member, and stays one until the last of them is gone."""
        watcher = self.arrive(name="Ann")
        one, _ = self.arrive(name="Bob")
        two, other = self.arrive(client=one.identify().client, name="Bob")
        self.assertEqual(2, other.of_type("joined")[0]["count"])
        (seen,) = self.settled(watcher)
        one.close()
        self.wait(5)
        self.assertEqual([], self.events(seen))
        two.close()
        self.wait(2)
        self.assertEqual([(1, ["Bob"])], [(event["count"], self.names(event["left"])) for event in self.events(seen)])

    def test_anonymous(self) -> None:
        """Anonymous readers, and requests that join, are no members."""
        session = PerformingSession(self.hub)
        session.identity = NOBODY
        reply = self.successResultOf(session.act(commands.Join(room="lobby")))
        self.assertEqual((0, []), (json.loads(reply)["count"], json.loads(reply)["members"]))
        self.assertEqual(0, self.hub.presence.count("lobby"))

    def test_rooms_are_apart(self) -> None:
        """A member of one room is not a member of another."""
        (seen,) = self.settled(self.arrive(room="a"))
        self.arrive(room="b")
        self.wait(1)
        self.assertEqual(([], 1), (self.events(seen), self.hub.presence.count("a")))

    def test_private_room(self) -> None:
        """All tabs of a user are in its private room, as one member; a message and a signal reach them all."""
        one, first = self.client()
        self.tell(one, "hello", name="Ann")
        room = "@" + one.identify().user.id
        self.tell(one, "join", room=room)
        _, second = self.arrive(client=one.identify().client, name="Ann", room=room)
        self.assertEqual(1, second.of_type("joined")[0]["count"])
        self.publish("psst", room=room)
        self.turn()
        self.assertEqual([["psst"]] * 2, [self.data(first), self.data(second)])

    def test_new_name(self) -> None:
        """A client that joins again with another name changes; without a name it keeps the one it has."""
        watcher = self.arrive(name="Ann")
        one, _ = self.arrive(name="Bob")
        (seen,) = self.settled(watcher)
        self.arrive(client=one.identify().client)
        self.wait(1)
        self.assertEqual([], self.events(seen))
        self.arrive(client=one.identify().client, name="Rob")
        self.wait(1)
        (event,) = self.events(seen)
        self.assertEqual((2, ["Rob"], []), (event["count"], self.names(event["joined"]), event["left"]))


class LeaveTests(PresenceWorld):
    """Clients that leave."""

    def test_gone_in_two_seconds(self) -> None:
        """After a closed connection or a leave, the member leaves within two seconds, and not at once."""
        for way in ("close", "leave"):
            watcher, (going, _) = self.arrive(name="Ann"), self.arrive(name="Bob")
            (seen,) = self.settled(watcher)
            going.close() if way == "close" else self.tell(going, "leave", room="lobby")
            self.wait(1.45)
            self.assertEqual([], self.events(seen), way)
            self.wait(0.5)
            (event,) = self.events(seen)
            self.assertEqual(([], ["Bob"]), (event["joined"], self.names(event["left"])), way)
            watcher[0].close()
            self.wait(3)

    def test_return_is_unseen(self) -> None:
        """A client that is back within that time never left, any number of times."""
        watcher, (going, _) = self.arrive(name="Ann"), self.arrive(name="Bob")
        (seen,) = self.settled(watcher)
        for _ in range(10):
            going.close()
            self.wait(1.4)
            going, _ = self.arrive(client=going.identify().client, name="Bob")
        self.wait(5)
        self.assertEqual([], self.events(seen))

    def test_short_visit(self) -> None:
        """A client that leaves as it comes back causes one event, or none."""
        self.hub = make_hub(self.store, self.clock, presence_gather=1.0, presence_interval=1.0, leave_delay=0)
        watcher, (going, _) = self.arrive(name="Ann"), self.arrive(name="Bob")
        (seen,) = self.settled(watcher)
        self.wait(2)
        seen.received.clear()
        going.close()
        self.wait(0.5)
        self.assertEqual(1, self.hub.presence.count("lobby"))
        self.arrive(client=going.identify().client, name="Bob")
        self.wait(5)
        self.assertEqual([], [event["left"] for event in self.events(seen) if event["left"]])

    def test_shown_in_between(self) -> None:
        """A client that joins between a join and a leave that cancel out gets the event of the leave."""
        self.hub = make_hub(self.store, self.clock, presence_gather=1.0, presence_interval=1.0, leave_delay=0)
        (seen,) = self.settled(self.arrive(name="Ann"))
        visitor, _ = self.arrive(name="Bob")
        _, late = self.arrive(name="Cid")
        visitor.close()
        self.wait(3)
        view = View()
        for event in late.received:
            view.take(event)
        self.assertEqual(["Ann", "Cid"], view.names)
        self.assertEqual(2, self.events(seen)[-1]["count"])

    def test_behind_without_a_change(self) -> None:
        """A reader that was current before it fell behind gets no full list."""
        session, stalled = self.client()
        self.tell(session, "join", room="lobby")
        for name in "bcd":
            self.arrive(name=name)
            self.wait(1)
        stalled.received.clear()
        stalled.window = 0
        self.publish(1)
        self.turn()
        stalled.window, stalled.write_paused = None, False
        session.resume_writing()
        self.assertEqual(([1], []), (self.data(stalled), self.events(stalled)))

    def test_behind(self) -> None:
        """A reader that is behind gets no events. When it is live again it gets a full list, if it missed anything."""
        session, stalled = self.client(window=0)
        self.tell(session, "join", room="lobby")
        self.publish(1)
        self.turn()
        self.assertTrue(stalled.write_paused)
        self.arrive(name="Bob")
        self.wait(1)
        self.assertEqual([], self.events(stalled))
        for expected in ([2], []):
            stalled.received.clear()
            stalled.window, stalled.write_paused = None, False
            session.resume_writing()
            self.assertEqual(expected, [len(event["members"]) for event in self.events(stalled)])
            stalled.window = 0
            self.publish(2)
            self.turn()

    def test_full_by_the_event_itself(self) -> None:
        """A reader that can't take an event gets a full list later."""
        session, stalled = self.client()
        self.tell(session, "join", room="lobby")
        self.wait(1)
        stalled.window = 0
        self.arrive(name="Bob")
        self.wait(1)
        self.assertEqual(([], True), (self.events(stalled), stalled.write_paused))
        stalled.window, stalled.write_paused = None, False
        session.resume_writing()
        (event,) = self.events(stalled)
        self.assertEqual(2, len(event["members"]))


class StateTests(PresenceWorld):
    """What a client says of itself."""

    def test_told(self) -> None:
        """A state goes to all rooms that the client is in, as a change of the member; there is no reply."""
        watchers = [self.arrive(name="Ann", room=room) for room in "ab"]
        session, transport = self.arrive(name="Bob", room="a")
        self.tell(session, "join", room="b")
        seen = self.settled(*watchers, (session, transport))
        self.tell(session, "state", state={"page": "/help"}, id=9)
        self.assertEqual([], transport.received)
        self.wait(1)
        for one in seen[:2]:
            (event,) = self.events(one)
            (member,) = event["joined"]
            self.assertEqual(("Bob", {"page": "/help"}, []), (member["name"], member["state"], event["left"]))
        self.tell(session, "state", state={"page": "/help"})
        self.wait(1)
        self.assertEqual([1, 1], [len(self.events(one)) for one in seen[:2]])

    def test_rate(self) -> None:
        """A client may say 30 states a second in one room, and twice that at once; more are refused, and change
        nothing."""
        session, transport = self.arrive()
        (seen,) = self.settled(self.arrive())
        for number in range(100):
            self.tell(session, "state", state={"a": number}, id=number)
        errors = transport.of_type("error")
        self.assertEqual(list(range(60, 100)), [error["id"] for error in errors])
        self.assertEqual(("rate_limited", True), (errors[0]["code"], errors[0]["temporary"]))
        self.wait(1)
        self.assertEqual({"a": 59}, self.events(seen)[-1]["joined"][0]["state"])
        self.tell(session, "signal", room="lobby", event="e", data=1)
        self.assertEqual(1, len(seen.of_type("signal")))  # which has a rate of its own
        for _ in range(100):
            self.tell(session, "state", state={"a": 1000})
        self.assertEqual(40, len(transport.of_type("error")))  # what says nothing new costs nothing

    def test_rate_in_many_rooms(self) -> None:
        """A state counts in each of the client's rooms; one each two seconds is taken in any number of them."""
        session, transport = self.arrive()
        for number in range(99):
            self.tell(session, "join", room=f"room-{number}")
        for turn in range(3):
            for again in (1, 2):
                self.tell(session, "state", state={"a": [turn, again]})
            self.assertEqual(1 + turn, len(transport.of_type("error")))
            self.wait(2.1)

    def test_a_state_a_second(self) -> None:
        """In 30 rooms nobody is ever refused a state a second."""
        session, transport = self.arrive()
        for number in range(29):
            self.tell(session, "join", room=f"room-{number}")
        for number in range(20):
            self.tell(session, "state", state={"a": number})
            self.wait(1)
        self.assertEqual([], transport.of_type("error"))

    def test_before_joining(self) -> None:
        """What was said before is known when the client joins; it survives a reload."""
        session, _ = self.client()
        self.tell(session, "state", state={"colour": "red"})
        self.tell(session, "join", room="lobby")
        client = session.identify().client
        session.close()
        self.wait(1)
        _, again = self.arrive(client=client)
        self.assertEqual([{"colour": "red"}], [member["state"] for member in again.of_type("joined")[0]["members"]])

    def test_wrong(self) -> None:
        """Only an object of at most a kibibyte is a state."""
        session, transport = self.arrive()
        for state, code in (({"a": "x" * 1100}, "too_large"), ([], "bad_request"), (None, "bad_request")):
            self.tell(session, "state", state=state, id=1)
            self.assertEqual(("error", 1, code), tuple(map(transport.received[-1].get, ("type", "id", "code"))))
        self.tell(session, "state", state={"a": "x" * 1016})
        self.assertEqual(4, len(transport.received))

    def test_undone(self) -> None:
        """A state that is undone before the next event causes no event."""
        watcher, (session, _) = self.arrive(name="Ann"), self.arrive(name="Bob")
        (seen,) = self.settled(watcher)
        self.tell(session, "state", state={"a": 1})
        self.tell(session, "state", state={})
        self.wait(1)
        self.assertEqual([], self.events(seen))

    def test_undone_after_being_shown(self) -> None:
        """A client that joined before the state was undone gets an event."""
        session, _ = self.arrive(name="Ann")
        self.wait(1)
        self.tell(session, "state", state={"a": 1})
        _, late = self.arrive(name="Bob")
        self.tell(session, "state", state={})
        self.wait(1)
        view = View()
        for event in late.received:
            view.take(event)
        self.assertEqual([{}, {}], [member["state"] for member in (view.members or {}).values()])


class LargeRoomTests(PresenceWorld):
    """Rooms with more members than are listed."""

    limits = {"presence_limit": 20, "presence_page": 10}

    def crowd(self, size: int) -> list[Any]:
        crowd = [self.arrive(name=f"n{number:03}") for number in range(size)]
        self.wait(1)
        return crowd

    def test_count_alone(self) -> None:
        """Above the limit, joined and events have the number alone."""
        crowd = self.crowd(21)
        (joined,) = crowd[-1][1].of_type("joined")
        self.assertEqual((21, False), (joined["count"], "members" in joined))
        event = self.events(crowd[0][1])[-1]
        self.assertEqual({"type": "presence", "room": "lobby", "count": 21}, event)
        (seen,) = self.settled(crowd[0])
        self.tell(crowd[1][0], "state", state={"a": 1})
        self.wait(6)
        self.assertEqual([], seen.received)

    def test_small_again(self) -> None:
        """When a tenth of them has gone it is listed again, and everybody is given the whole list, once."""
        crowd = self.crowd(22)
        (seen,) = self.settled(crowd[0])
        for number in (1, 2, 3):
            crowd[number][0].close()
            self.wait(3)
        self.assertEqual([21, 20, 19], [event["count"] for event in self.events(seen)])
        self.assertEqual([False] * 3, ["members" in event for event in self.events(seen)])
        crowd[4][0].close()
        self.wait(3)
        self.assertEqual(18, len(self.events(seen)[-1]["members"]))
        crowd[5][0].close()
        self.wait(3)
        self.assertEqual(1, len(self.events(seen)[-1]["left"]))

    def test_one_more_and_one_less(self) -> None:
        """A client that joined while there was one member more gets the number when it falls again."""
        self.hub = make_hub(self.store, self.clock, presence_limit=5, presence_gather=1.0, leave_delay=0)
        self.crowd(9)
        self.wait(9)
        visitor, _ = self.arrive()
        _, late = self.arrive()
        visitor.close()
        self.tell(next(iter(self.hub.sessions)), "leave", room="lobby")
        self.assertEqual(11, late.of_type("joined")[0]["count"])
        self.wait(3)
        self.assertEqual([9], [event["count"] for event in self.events(late)])

    def test_interval_grows(self) -> None:
        """The events of a room of thousands are as many seconds apart, at most five."""
        intervals = [self.hub.presence._table.interval(size) for size in (1, 250, 1000, 3000, 5000, 100_000)]
        self.assertEqual([0.25, 0.25, 1, 3, 5, 5], intervals)

    def test_pages(self) -> None:
        """Pages have everybody once, sorted by id."""
        self.crowd(35)
        asking, transport = self.client()
        ids, after = [], ""
        while True:
            self.tell(asking, "members", room="lobby", **({"after": after} if after else {}), id=1)
            reply = transport.received[-1]
            self.assertEqual(("members", 1, "lobby", 35), tuple(map(reply.get, ("type", "id", "room", "count"))))
            self.assertLessEqual(len(reply["members"]), 10)
            ids += [member["id"] for member in reply["members"]]
            if "after" not in reply:
                break
            after = reply["after"]
        self.assertEqual((35, sorted(set(ids))), (len(ids), ids))

    def test_pages_of_a_small_room(self) -> None:
        """A small room's page is of this moment; a room that nobody is in is empty; another's private one forbidden."""
        session, transport = self.arrive(name="Ann")
        self.tell(session, "members", room="lobby")
        self.tell(session, "members", room="nowhere")
        self.tell(session, "members", room="@somebody")
        here, nowhere, private = transport.received[-3:]
        self.assertEqual((["Ann"], 0, []), (self.names(here["members"]), nowhere["count"], nowhere["members"]))
        self.assertEqual("forbidden", private["code"])

    def test_joining_costs_the_same(self) -> None:
        """In a large room a join looks at nobody else: no member is encoded for it."""
        crowd = self.crowd(100)
        members = self.hub.presence.memberships["lobby"].members
        for member in members.values():
            member.client._json = None
        self.arrive(name="one more")
        self.wait(6)
        self.assertEqual(0, sum(member.client._json is not None for member in members.values()))
        self.assertEqual(101, self.events(crowd[0][1])[-1]["count"])


class KeptTests(PresenceWorld):
    """What is kept of signals for those between two polls."""

    def poll(self, client: str, **given: dict[str, str]) -> FakeRequest:
        """Poll two rooms without waiting for anything."""
        args = {name.encode(): [of[room].encode() for room in "ab"] for name, of in given.items()}
        args |= {b"room": [b"a", b"b"], b"last": [b"0"], b"wait": [b"0"]}
        request = FakeRequest(args, {b"Realtime-Client": [client.encode()]})
        PollResource(self.hub, jsonp=False).render_GET(request)  # type: ignore[arg-type]
        self.wait(0.2)
        return request

    def test_over_all_rooms(self) -> None:
        """All rooms together keep so many bytes; the oldest go first, whichever room they are of."""
        self.hub = make_hub(self.store, self.clock, signals_bytes=3000)
        poller = self.hub.identities.issue()
        first = json.loads(self.poll(poller).body)
        sender, _ = self.arrive(room="a")
        self.tell(sender, "join", room="b")
        for number, room in enumerate("aabab"):
            self.tell(sender, "signal", room=room, event="e", data=[number, "x" * 700])
        self.assertLessEqual(self.hub.presence._signals.kept.size, 3000)
        answer = self.poll(poller, since=first["positions"], presence=first["presence"])
        events = [event for event in json.loads(answer.body)["events"] if event["type"] == "signal"]
        self.assertEqual([2, 3, 4], sorted(event["data"][0] for event in events))

    def test_with_members(self) -> None:
        """A poll that missed a change of the members and a signal gets both."""
        poller = self.hub.identities.issue()
        first = json.loads(self.poll(poller).body)
        sender, _ = self.arrive(room="a")
        self.tell(sender, "signal", room="a", event="e", data=1)
        self.wait(1)
        answer = self.poll(poller, since=first["positions"], presence=first["presence"])
        events = [event for event in json.loads(answer.body)["events"] if event["room"] == "a"]
        self.assertEqual(["presence", "signal"], [event["type"] for event in events])

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60) | st.none(), st.sampled_from((0.0, 0.5, 3.0)))))
    @settings(max_examples=examples(1000))
    def test_sizes(self, steps: list[tuple[int, int | None, float]]) -> None:
        """What is counted is what there is, within the bounds of all and of one, and the newest."""
        kept = KeptSignals(5.0, 100)
        rooms = [RoomSignals(80, kept) for _ in range(4)]
        now = 0.0
        for index, size, seconds in steps:
            now += seconds
            room = rooms[index]
            room.waiting = 0 if size is None else 1
            room.drop_if_unneeded()
            if size is not None:
                room.add(now, "", b"x" * size)
            self.assertEqual(kept.size, sum(len(data) for room in rooms for *_, data in room._kept or ()))
            self.assertEqual([room._size for room in rooms], [sum(len(s[-1]) for s in r._kept or ()) for r in rooms])
            self.assertLessEqual(kept.size, 100)
            self.assertLessEqual(max(room._size for room in rooms), 80)
            self.assertTrue(all(now - at <= 5 for at, *_ in kept._order) or size is None)


class SignalTests(PresenceWorld):
    """Signals: events that are not stored."""

    def test_reaches_others_once(self) -> None:
        """A signal reaches everybody else once, with its sender and without a position; nothing comes back."""
        sender, mine = self.arrive(name="Ann")
        _, own_other_tab = self.arrive(client=sender.identify().client)
        others = [self.arrive(name=name)[1] for name in "bc"]
        elsewhere = self.arrive(room="other")[1]
        self.tell(sender, "signal", room="lobby", event="typing", data={"on": True}, id=1)
        for other in others:
            (signal,) = other.of_type("signal")
            self.assertEqual(("lobby", "typing", {"on": True}), tuple(map(signal.get, ("room", "event", "data"))))
            self.assertEqual({"id": sender.identify().user.id, "name": "Ann", "guest": True}, signal["from"])
            self.assertEqual((1_795_000_000_000, False), (signal["at"], "position" in signal))
        unmoved = [transport.of_type("signal") for transport in (mine, own_other_tab, elsewhere)]
        self.assertEqual(([[], [], []], []), (unmoved, [event for event in mine.received if event.get("id") == 1]))

    def test_wants_membership(self) -> None:
        """Only a client that reads the room may signal. After a leave it may not, even while its lease expires."""
        session, transport = self.arrive()
        self.tell(session, "signal", room="other", event="e", data=1, id=1)
        self.tell(session, "leave", room="lobby")
        self.tell(session, "signal", room="lobby", event="e", data=1, id=2)
        errors = transport.of_type("error")
        self.assertEqual([(1, "not_joined"), (2, "not_joined")], [(e["id"], e["code"]) for e in errors])

    def test_behind(self) -> None:
        """A reader that is behind doesn't get signals."""
        session, stalled = self.client(window=0)
        self.tell(session, "join", room="lobby")
        self.publish(1)
        self.turn()
        sender, _ = self.arrive()
        self.tell(sender, "signal", room="lobby", event="e", data=1)
        stalled.window, stalled.write_paused = None, False
        session.resume_writing()
        self.assertEqual(([1], []), (self.data(stalled), stalled.of_type("signal")))
        self.assertEqual((1, 0, 1), self.counted())

    def counted(self) -> tuple[int, int, int]:
        counts = self.hub.counters
        return counts.signals, counts.signals_delivered, counts.signals_dropped

    def test_rate(self) -> None:
        """A client may send so many a second, and twice that at once; more are refused, for a while."""
        sender, transport = self.arrive()
        _, other = self.arrive()
        self.wait(1)
        for _ in range(100):
            self.tell(sender, "signal", room="lobby", event="e", data=1)
        self.assertEqual((60, 40), (len(other.of_type("signal")), len(transport.of_type("error"))))
        error = transport.received[-1]
        self.assertEqual(("rate_limited", True), (error["code"], error["temporary"]))
        self.wait(1)
        for _ in range(100):
            self.tell(sender, "signal", room="lobby", event="e", data=1)
        self.assertEqual(90, len(other.of_type("signal")))
        self.assertEqual((90, 90, 0), self.counted())

    def test_rate_is_the_clients(self) -> None:
        """Another connection, or joining anew, gives no more of them."""
        sender, _ = self.arrive()
        _, other = self.arrive()
        again, _ = self.arrive(client=sender.identify().client)
        for session in (sender, again):
            for _ in range(60):
                self.tell(session, "signal", room="lobby", event="e", data=1)
        self.tell(sender, "leave", room="lobby")
        self.tell(sender, "join", room="lobby")
        self.tell(sender, "signal", room="lobby", event="e", data=1)
        self.assertEqual(60, len(other.of_type("signal")))

    def test_wrong(self) -> None:
        """What is no event's name, or lacks something, is refused."""
        session, transport = self.arrive()
        for fields, code in (
            ({"event": "$e", "data": 1, "room": "lobby"}, "bad_request"),
            ({"event": "", "data": 1, "room": "lobby"}, "bad_request"),
            ({"data": 1, "room": "lobby"}, "bad_request"),
            ({"event": "e", "room": "lobby"}, "bad_request"),
            ({"event": "e", "data": 1, "room": "a b"}, "bad_room"),
        ):
            self.tell(session, "signal", **fields)
            self.assertEqual(code, transport.received[-1]["code"], fields)


class EndTests(PresenceWorld):
    """Nothing is left."""

    def assert_nobody(self) -> None:
        presence = self.hub.presence
        table = presence._table
        self.assertEqual(({}, {}, {}, None), (table.by_room, presence._clients, table._changed, table._timer))

    def test_all_gone(self) -> None:
        """When everybody has gone there is no lease, no membership, no room, no alarm and no timer."""
        sessions = [self.arrive(room=room)[0] for room in "abc" for _ in range(5)]
        self.wait(1)
        for session in sessions:
            session.close()
        self.wait(3)
        self.assert_nobody()
        self.clock.pump([10.0] * 20)
        self.assertEqual(({}, [], 0), (self.hub.rooms, self.clock.getDelayedCalls(), len(self.hub.wheel)))

    def test_stop(self) -> None:
        """A hub that stops sends no events of leaves, and keeps no leases and no timeouts."""
        _, seen = self.arrive()
        going, _ = self.arrive()
        self.wait(1)
        going.close()
        seen.received.clear()
        self.hub.stop()
        self.assert_nobody()
        self.assertEqual(2, len(self.hub.wheel))  # the sweeps of idle rooms and of what limits count
        self.wait(5)
        self.assertEqual([], seen.received)

    def test_membership_outlives_an_idle_room(self) -> None:
        """A room isn't forgotten before its last lease has ended."""
        self.hub = make_hub(self.store, self.clock, room_idle=0.2, leave_delay=2)
        session, _ = self.arrive()
        session.close()
        self.wait(1)
        _, again = self.arrive(client=session.identify().client)
        self.assertEqual(1, again.of_type("joined")[0]["count"])
        again_session = next(iter(self.hub.sessions))
        self.arrive(name="Bob")
        self.wait(1)
        self.assertEqual(2, self.events(again)[-1]["count"])
        again_session.close()


# Everything at once


class Presences(SynchronousTestCase):
    """Interleavings of joining, leaving, closing, coming back, polling, stalling, draining, states and signals."""

    @settings(max_examples=RUNS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(min_size=8, max_size=64), st.sampled_from((3, 100)))
    def test_everybody_agrees(self, steps: bytes, limit: int) -> None:
        """In the end every reader has the true members; nobody who was back in time is seen to leave; no signal comes
        twice, or back to its sender."""
        street = Street(limit)
        for byte in steps:
            street.step(byte)
        street.settle()
        street.check()
        street.close()


class Person:
    """A client, and until when it is in the room, as the protocol says."""

    def __init__(self, street: Street) -> None:
        self.street = street
        self.key = street.hub.identities.issue()
        self.id = street.hub.identities.check(self.key).user.id
        self.readers = 0
        self.leaving = False
        self.until: float | None = None
        self.possibly_left = self.surely_left = 0

    def begins(self) -> None:
        """Something reads for it."""
        if not self.readers and self.until is not None:
            self.possibly_left, self.surely_left = self.left()
        self.readers += 1
        self.leaving = False

    def ends(self, at: float, polls: bool) -> None:
        """That has ended."""
        self.readers -= 1
        if not self.readers:
            self.until = at + (9.5 if polls and not self.leaving else 1.5)

    def leaves(self) -> None:
        """It says, beside its polls, that it goes."""
        self.leaving = True
        if not self.readers:
            self.until = self.street.clock.seconds() + 1.5

    def say(self, state: dict[str, Any]) -> None:
        """Set its state by a request of its own."""
        self.act(commands.SetState(state=state))

    def act(self, command: commands.Command) -> str:
        """Do something by a request of its own; give the type of the reply, which is empty where there is none."""
        session = PerformingSession(self.street.hub, identity=identify(self.street.hub, self.key))
        answer = session.perform(command)
        session.close()
        assert isinstance(answer, bytes)
        return str(json.loads(answer or b'{"type": ""}')["type"])

    def left(self) -> tuple[int, int]:
        """How often it may have left so far, and how often it must have."""
        if self.readers or self.until is None:
            return self.possibly_left, self.surely_left
        past = self.street.clock.seconds() - self.until
        return self.possibly_left + (past > -0.01), self.surely_left + (past > 1.0)


class Tab:
    """A person's page, on one transport."""

    def __init__(self, street: Street, person: Person) -> None:
        self.street = street
        self.person = person
        self.open = False
        self.forget()

    def forget(self) -> None:
        """The page is new: it knows nothing."""
        self.view = View()
        self.signals: list[int] = []
        self.base = {person.id: person.left()[1] for person in self.street.people}

    def take(self, event: dict[str, Any]) -> None:
        """Something has come."""
        self.view.take(event)
        if event["type"] == "signal":
            assert event["from"]["id"] != self.person.id
            assert event["data"] not in self.signals
            self.signals.append(event["data"])
        for person in self.street.people:
            seen = self.view.left.count(person.id)
            assert seen <= person.left()[0] - self.base[person.id], (person.id, seen, person.left(), self.base)


class SocketTab(Tab):
    """On something like a WebSocket."""

    def begin(self) -> None:
        if self.open:
            return
        self.open = True
        self.forget()
        self.transport = FakeTransport()
        self.session = make_session(self.street.hub, self.transport, self.person.key)
        self.person.begins()
        self.session.execute(commands.Join(room="a", last=0))

    def end(self) -> None:
        if self.open:
            self.check()
            self.open = False
            self.session.close()
            self.person.ends(self.street.clock.seconds(), False)

    def leave(self) -> None:
        """Leave and join again on one connection, which is another way to be away."""
        if self.open and not self.transport.write_paused:
            self.session.execute(commands.Leave(room="a"))
            self.person.ends(self.street.clock.seconds(), False)
            self.check()
            self.forget()
            self.session.execute(commands.Join(room="a", last=0))
            self.person.begins()

    def stall(self, window: int) -> None:
        if self.open:
            self.transport.window = window

    def drain(self) -> None:
        if self.open:
            self.transport.window = None
            if self.transport.write_paused:
                self.transport.write_paused = False
                self.session.resume_writing()

    def command(self, command: commands.Command) -> None:
        if self.open and not self.transport.write_paused:
            self.session.execute(command)

    def check(self) -> None:
        if self.open:
            received, self.transport.received = self.transport.received, []
            for event in received:
                self.take(event)


class _TimedRequest(FakeRequest):
    """A request that knows when it ended."""

    ended: float | None = None
    clock: Clock

    def _fire(self, result: Any) -> None:
        self.ended = self.clock.seconds()
        super()._fire(result)


class PollTab(Tab):
    """On long poll.

    :param keeps: whether it keeps the versions that it is given; else no answer may be lost on its way.
    """

    keeps = True

    def begin(self) -> None:
        if not self.open:
            self.open = True
            self.forget()
            self.request: _TimedRequest | None = None
            self.position: str | None = None
            self.version = ""
        self._poll()

    def _poll(self) -> None:
        if self.request is not None:
            return
        args = {b"room": [b"a"], b"last": [b"0"], b"wait": [b"20"]}
        if self.position is not None:
            args[b"since"] = [self.position.encode()]
        if self.keeps:
            args[b"presence"] = [self.version.encode()]
        self.request = _TimedRequest(args, {b"Realtime-Client": [self.person.key.encode()]})
        self.request.clock = self.street.clock
        self.person.begins()
        PollResource(self.street.hub, jsonp=False).render_GET(self.request)  # type: ignore[arg-type]
        self._note_end()

    def _note_end(self) -> None:
        request = self.request
        if request is not None and request.ended is not None:
            self.person.ends(request.ended, True)
            self.request = None
            self._answered(request)

    def _answered(self, request: _TimedRequest) -> None:
        if self.keeps and self.street.loses():
            return
        answer = json.loads(request.body)
        assert answer["type"] == "poll", answer
        for event in answer["events"]:
            self.take(event)
        self.position, self.version = answer["positions"]["a"], answer["presence"]["a"]

    def end(self) -> None:
        """The connection breaks, perhaps with an answer in it."""
        if self.open and self.request is not None:
            self.request.disconnect()
            self.request = None
            self.person.ends(self.street.clock.seconds(), True)

    def leave(self) -> None:
        """Say that it goes, by a request of its own; and come back some day, or not."""
        if self.person.act(commands.Leave(room="a")) == "left":
            self.person.leaves()

    def stall(self, window: int) -> None:
        """Give up: the page is closed without a word."""
        if self.open:
            self.end()
            self.open = False

    def drain(self) -> None:
        if self.open:
            self._poll()

    def command(self, command: commands.Command) -> None:
        self.person.act(command)

    def check(self) -> None:
        if self.open:
            self._note_end()


class ForgetfulPollTab(PollTab):
    """One that keeps no versions."""

    keeps = False


class Street:
    """Some people, their pages, and a room."""

    def __init__(self, limit: int) -> None:
        self.clock = Clock()
        self.limit = limit
        store = MemoryStore(Retention(20), self.clock.seconds, tokens())
        self.hub = make_hub(store, self.clock, rates=RateLimits(), presence_limit=limit)
        self.people: list[Person] = []
        self.people += [Person(self) for _ in range(5)]
        one, two, three, four, five = self.people
        self.tabs: list[Any] = [
            SocketTab(self, one),
            PollTab(self, one),
            SocketTab(self, two),
            ForgetfulPollTab(self, two),
            SocketTab(self, three),
            SocketTab(self, three),
            PollTab(self, four),
            SocketTab(self, five),
        ]
        self.number = self.lost = 0

    def loses(self) -> bool:
        """Whether the next answer to a poll gets lost on its way."""
        self.lost -= 1
        return self.lost >= 0

    def lose(self) -> None:
        self.lost = 1

    def step(self, byte: int) -> None:
        what, tab = byte // 8 % 16, self.tabs[byte % 8]
        self.number += 1
        (
            tab.begin,
            tab.begin,
            tab.begin,
            tab.end,
            tab.leave,
            lambda: tab.stall(byte // 128),
            tab.drain,
            lambda: tab.command(commands.SetState(state={"n": self.number % 3})),
            lambda: tab.command(commands.SendSignal(room="a", event="e", data=self.number)),
            self.publish,
            self.lose,
            lambda: self.wait(0.3 if byte % 2 else STEP),
            lambda: self.wait(1.0),
            lambda: self.wait(1.6),
            lambda: self.wait(5),
            lambda: self.wait(12),
        )[what]()
        self.look()

    def publish(self) -> None:
        self.hub.publish(Draft("a", "message", b"1", ANONYMOUS))
        self.clock.advance(0)

    def look(self) -> None:
        for tab in self.tabs:
            tab.check()

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP)):
            self.clock.advance(STEP)
            self.look()

    def settle(self) -> None:
        """All present clients stay, read, and get all events; all others are gone."""
        for turn in range(32):
            for tab in self.tabs:
                tab.drain()
            self.wait(0.5)
            if turn == 25:
                for person in self.people:
                    person.say({"at last": person.id})

    def check(self) -> None:
        """All readers agree with the truth."""
        here = {person.id: person for person in self.people if person.readers}
        page = self.hub.presence.page("a", "")
        listed = {member["id"]: member for member in json.loads(page.members)}
        assert set(listed) == set(here), (listed, here)
        assert [member["state"] for member in listed.values()] == [{"at last": id} for id in sorted(here)]
        for tab in self.tabs:
            if tab.open:
                expected = listed if len(here) <= self.limit else None
                assert (tab.view.count, tab.view.members) == (len(here), expected), (tab, tab.view.members, listed)

    def close(self) -> None:
        """When all have gone, nothing is left."""
        for tab in self.tabs:
            tab.end()
            tab.open = False
        self.clock.pump([0.5] * 30)
        presence = self.hub.presence
        table = presence._table
        assert (table.by_room, presence._clients, table._changed, table._timer) == ({}, {}, {}, None)
        self.clock.pump([10.0] * 20)
        assert len(self.hub.wheel) == 0
