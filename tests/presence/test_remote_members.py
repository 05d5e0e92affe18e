"""Tests for :mod:`realtime_chat.presence.remote_members`: who is in a room through several nodes."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.hub import Hub
from realtime_chat.core.performing_session import PerformingSession
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.transports.poll import PollResource
from realtime_chat.values import commands
from realtime_chat.values.model import ANONYMOUS, Draft
from tests.exchange import HELD, End, Exchange, make_node
from tests.fakes import FakeRequest, FakeTransport, identify, make_session, tokens
from tests.presence.test_presence import STEP, Person, PollTab, SocketTab, Street
from tests.soak import examples
from tests.views import View

RUNS = examples(500)


class NodesWorld(SynchronousTestCase):
    """Three nodes, and clients that connect to any of them."""

    limits: dict[str, Any] = {}

    def setUp(self) -> None:
        self.clock = Clock()
        self.exchange = Exchange(self.clock)
        self.store = MemoryStore(Retention(20), self.clock.seconds, tokens())
        self.nodes = [make_node(self.exchange, self.store, number, **self.limits) for number in range(3)]
        self.hubs = [hub for hub, _ in self.nodes]

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.clock.pump([STEP / 5] * round(seconds / STEP * 5))

    def tell(self, session: PerformingSession, type: str, **fields: Any) -> None:
        session.receive(json.dumps({"type": type, **fields}).encode())

    def arrive(
        self, node: int, name: str | None = None, client: str | None = None, room: str = "lobby", **state: Any
    ) -> tuple[PerformingSession, FakeTransport]:
        """A client joins on a node, and was answered."""
        transport = FakeTransport()
        session = make_session(self.hubs[node], transport, client, name)
        if state:
            self.tell(session, "state", state=state)
        self.tell(session, "join", room=room)
        self.wait(0.1)
        return session, transport

    def watch(self, node: int) -> tuple[View, FakeTransport]:
        """A client that joins on a node and watches. All events of that were sent."""
        _, transport = self.arrive(node)
        self.wait(1)
        view = View()
        for event in transport.received:
            view.take(event)
        transport.received.clear()
        return view, transport

    def events(self, transport: FakeTransport) -> list[dict[str, Any]]:
        return transport.of_type("presence")

    def names(self, node: int, room: str = "lobby") -> list[str]:
        """The names of the members, as a node pages them."""
        return sorted(member["name"] for member in json.loads(self.hubs[node].presence.page(room, "").members))

    def request(self, node: int, client: str | None, command: commands.Command) -> Any:
        """Send a command to a node by a request, and return the reply."""
        session = PerformingSession(self.hubs[node], identity=identify(self.hubs[node], client))
        answer = session.perform(command)
        self.wait(2)
        if isinstance(answer, Deferred):
            answer = self.successResultOf(answer)
        session.close()
        return json.loads(answer) if answer else None

    def poll(self, node: int, client: str | None = None, **fields: str) -> FakeRequest:
        """Poll the room on a node."""
        args = {b"room": [b"lobby"], b"wait": [b"20"]} | {key.encode(): [to.encode()] for key, to in fields.items()}
        request = FakeRequest(args, {b"Realtime-Client": [client.encode()]} if client else None)
        PollResource(self.hubs[node], jsonp=False).render_GET(request)  # type: ignore[arg-type]
        self.wait(0.1)
        return request

    def polled(self, node: int, client: str | None = None, **fields: str) -> dict[str, Any]:
        """The same, and the answer has come; as keywords for the next one."""
        request = self.poll(node, client, **fields)
        answer = json.loads(request.body)
        self.assertEqual("poll", answer["type"])
        return {
            "client": answer["client"],
            "since": answer["positions"]["lobby"],
            "presence": answer["presence"]["lobby"],
        }


class MemberTests(NodesWorld):
    """Clients that join and leave."""

    def test_on_three_nodes(self) -> None:
        """A client that is with several nodes is one member for all of them, until it has left the last one."""
        seen = [self.watch(node)[1] for node in range(3)]
        self.wait(1)
        for transport in seen:
            transport.received.clear()
        first, _ = self.arrive(0, "Bob")
        others = [self.arrive(node, "Bob", first.identify().client)[0] for node in (1, 2)]
        for session in (first, *others):
            self.assertEqual([True] * 3, ["Bob" in self.names(node) for node in range(3)])
            session.close()
            self.wait(5)
        for transport in seen:
            joined, left = self.events(transport)
            names = [[member["name"] for member in members] for members in (joined["joined"], left["left"])]
            self.assertEqual([["Bob"], ["Bob"]], names)

    def test_joined(self) -> None:
        """The reply to a join lists the members on all nodes."""
        for number, name in enumerate(("Ann", "Bob", "Cid")):
            _, transport = self.arrive(number, name)
            self.wait(0.5)
        (joined,) = transport.of_type("joined")
        self.assertEqual((3, ["Ann", "Bob", "Cid"]), (joined["count"], sorted(m["name"] for m in joined["members"])))
        self.wait(5)
        self.assertEqual([], self.events(transport))

    def test_others_are_told(self) -> None:
        """Readers on all nodes get differences of the joins, changes and leaves on one of them."""
        views = [self.watch(number) for number in range(3)]
        self.wait(1)
        for _, transport in views:
            transport.received.clear()
        session, _ = self.arrive(0, "Ann", mood="fine")
        self.wait(1)
        self.tell(session, "state", state={"mood": "tired"})
        self.wait(1)
        session.close()
        self.wait(4)
        for _, transport in views:
            told = [(event["count"], event["joined"], event["left"]) for event in self.events(transport)]
            ann = {"id": session.identify().user.id, "name": "Ann", "guest": True}
            fine, tired = {**ann, "state": {"mood": "fine"}}, {**ann, "state": {"mood": "tired"}}
            self.assertEqual([(4, [fine], []), (4, [tired], []), (3, [], [tired])], told)

    def test_storm(self) -> None:
        """A thousand joins within a second reach the other nodes in a few messages."""
        _view, transport = self.watch(1)
        before = self.exchange.announcements
        for number in range(1000):
            session = make_session(self.hubs[0], name=f"n{number}")
            self.tell(session, "join", room="lobby")
            self.clock.advance(0.001)
        self.wait(2)
        self.assertEqual(1001, self.hubs[1].presence.count("lobby"))
        self.assertLess(self.exchange.announcements - before, 8)
        self.assertEqual(1001, self.events(transport)[-1]["count"])

    def test_same_client_on_two_nodes(self) -> None:
        """A client that is with two nodes is one member until both are without it; the last that it said counts."""
        _view, transport = self.watch(2)
        one, _ = self.arrive(0, "Ann")
        self.wait(1)
        two, _ = self.arrive(1, "Anna", client=one.identify().client)
        self.wait(1)
        for number in range(3):
            self.assertEqual(2, self.hubs[number].presence.count("lobby"))
            self.assertIn("Anna", self.names(number))
        transport.received.clear()
        two.close()
        self.wait(5)
        self.assertEqual([], self.events(transport))
        one.close()
        self.wait(5)
        self.assertEqual([["Anna"]], [[gone["name"] for gone in event["left"]] for event in self.events(transport)])

    def test_moves(self) -> None:
        """A client that closes here and joins there in time never left, over and over, and keeps name and state."""
        _view, transport = self.watch(2)
        session, _ = self.arrive(0, "Ann", mood="fine")
        self.wait(1)
        transport.received.clear()
        for number in range(10):
            session.close()
            self.wait(1.2)
            session, joined = self.arrive((number + 1) % 2, client=session.identify().client)
            (reply,) = joined.of_type("joined")
            self.assertIn(("Ann", {"mood": "fine"}), [(m["name"], m["state"]) for m in reply["members"]])
        self.wait(3)
        self.assertEqual([], self.events(transport))

    def test_large_room(self) -> None:
        """A room is large by its members on all nodes together: only their number is sent."""
        self.hubs = [make_node(self.exchange, self.store, 5 + n, presence_limit=20)[0] for n in range(3)]
        for number in range(21):
            self.arrive(number % 3)
        self.wait(2)
        _, transport = self.arrive(1)
        (joined,) = transport.of_type("joined")
        self.assertEqual((22, False), (joined["count"], "members" in joined))

    def test_lost_and_doubled(self) -> None:
        """A lost change is found by reading the room again; a duplicate has no effect."""
        view, transport = self.watch(1)
        end = self.nodes[1][1]
        end.doubles = True
        one, _ = self.arrive(0, "Ann")
        end.loses = 1
        _two, _ = self.arrive(2, "Bob")
        self.wait(2)
        one.close()
        self.wait(3)
        for event in self.events(transport):
            view.take(event)
        self.assertEqual(
            (["Bob"], 3), ([name for name in view.names if name[:5] != "Guest"], len(self.events(transport)))
        )


class LookTests(NodesWorld):
    """Clients that ask for a room's members without being in it."""

    def test_members(self) -> None:
        """A node without readers in the room finds out its members before it replies."""
        self.arrive(0, "Ann")
        self.wait(1)
        reply = self.request(1, None, commands.ReadMembers(room="lobby"))
        self.assertEqual((1, ["Ann"]), (reply["count"], [member["name"] for member in reply["members"]]))
        session, transport = self.arrive(2, room="other")
        self.tell(session, "members", room="lobby", id=1)
        self.wait(0.1)
        self.assertEqual((1, 1), (transport.received[-1]["id"], transport.received[-1]["count"]))

    def test_forgotten(self) -> None:
        """A room that nobody reads here is forgotten though others are in it elsewhere, and known again when needed."""
        self.successResultOf(self.hubs[0].publish(Draft("lobby", "message", b"1", ANONYMOUS)))
        self.arrive(0, "Ann")
        self.request(1, None, commands.ReadMembers(room="lobby"))
        hub, end = self.nodes[1]
        self.assertEqual(["lobby"], list(hub.presence.memberships))
        self.wait(130)
        self.assertEqual(({}, {}, {}), (hub.rooms, hub.presence.memberships, end.followed))
        self.arrive(2, "Bob")
        reply = self.request(1, None, commands.ReadMembers(room="lobby"))
        self.assertEqual(2, reply["count"])

    def test_away_keeps_it(self) -> None:
        """A room isn't forgotten while a client of this node is between two polls."""
        self.hubs = [make_node(self.exchange, self.store, 5 + n, room_idle=1.0)[0] for n in range(2)]
        self.arrive(1, "Ann")
        self.polled(0)
        self.wait(6)
        self.assertEqual(2, self.hubs[0].presence.count("lobby"))
        self.wait(10)
        self.assertEqual({}, self.hubs[0].rooms)


class NodeTests(NodesWorld):
    """Nodes that go."""

    def test_dies(self) -> None:
        """When a node's death is known, the members that were in the room through it leave."""
        _view, transport = self.watch(1)
        self.arrive(0, "Ann")
        self.wait(1)
        transport.received.clear()
        self.exchange.end("node0", 0)
        self.wait(1)
        (event,) = self.events(transport)
        self.assertEqual(["Ann"], [gone["name"] for gone in event["left"]])

    def test_stops(self) -> None:
        """When a node stops, clients that come to another node never left; the others leave after a while."""
        _view, transport = self.watch(1)
        ann, _ = self.arrive(0, "Ann")
        self.arrive(0, "Bob")
        self.wait(1)
        transport.received.clear()
        self.hubs[0].stop()
        self.nodes[0][1].stop()
        self.wait(3)
        self.arrive(2, "Ann", client=ann.identify().client)
        self.assertEqual([], self.events(transport))
        self.wait(4)
        left = [[gone["name"] for gone in event["left"]] for event in self.events(transport)]
        self.assertEqual([["Bob"]], left)
        self.assertIn("Ann", self.names(1))

    def test_look_after_stop(self) -> None:
        """Reading the room in that time doesn't remove the clients that are held."""
        _view, transport = self.watch(1)
        self.arrive(0, "Ann")
        self.wait(1)
        transport.received.clear()
        self.nodes[0][1].stop()
        self.wait(0.5)
        self.nodes[1][1]._look("lobby")
        self.wait(3)
        self.assertEqual([], self.events(transport))
        self.wait(4)
        self.assertEqual(1, self.hubs[1].presence.count("lobby"))


class PollTests(NodesWorld):
    """Clients whose polls go to one node after another."""

    def test_no_event(self) -> None:
        """A client that polls one node after another stays a member, and causes no events."""
        _view, transport = self.watch(0)
        given = self.polled(1)
        self.wait(1)
        transport.received.clear()
        for number in range(40):
            poll = self.poll(number % 3, **given)
            self.wait(2 + number % 3)
            poll.disconnect()
            counts = [hub.presence.count("lobby") for hub in self.hubs if "lobby" in hub.rooms]
            self.assertEqual([2] * len(counts), counts)
        self.wait(1)
        self.assertEqual([], self.events(transport))
        self.wait(12)
        self.assertEqual([1], [event["count"] for event in self.events(transport)])

    def test_waits(self) -> None:
        """A poll with another node's version waits, where that is of the same members; with old ones it is answered."""
        self.arrive(0, "Ann")
        given = self.polled(1)
        self.wait(1)
        given |= self.answer_of(self.poll(1, **given))
        poll = self.poll(2, **given)
        self.wait(3)
        self.assertEqual(b"", poll.body)
        self.arrive(0, "Bob")
        self.wait(1)
        (event,) = json.loads(poll.body)["events"]
        self.assertEqual(["Bob"], [member["name"] for member in event["joined"]])
        poll = self.poll(0, **given)
        self.wait(1)
        (event,) = json.loads(poll.body)["events"]
        self.assertEqual(3, len(event["members"]))

    def test_no_longer_sees(self) -> None:
        """A poll that waits for members that another node knows is told of nobody if it may not see them any more."""
        self.arrive(0, "Ann")
        given = self.polled(1)
        given["presence"] = "f00d.1.00000000000000ff"
        poll = self.poll(2, **given)
        (session,) = self.hubs[2].sessions
        (reader,) = session.subscriptions.values()  # type: ignore[attr-defined]
        self.hubs[2].presence.visibility.set_seeing(reader, False)
        self.wait(25)
        answer = json.loads(poll.body)
        self.assertEqual(([], {"lobby": ""}), (answer["events"], answer["presence"]))
        self.assertEqual({}, self.hubs[2].presence._table._unseeing)

    def answer_of(self, poll: FakeRequest) -> dict[str, str]:
        """The version in a poll's answer, if it was answered."""
        answer = json.loads(poll.body or b"{}")
        return {"presence": answer["presence"]["lobby"]} if answer else {}

    def test_lively_room(self) -> None:
        """Where other things answer the polls, one that holds old members is given the true ones all the same."""
        sender, _ = self.arrive(0, "Ann")
        given = self.polled(0)
        for node in (1, 2):
            self.poll(node, **given).disconnect()
        self.arrive(1, "Bob")
        self.wait(1)
        events: list[dict[str, Any]] = []
        for number in range(10):
            poll = self.poll(1 + number % 2, **given)
            self.tell(sender, "signal", room="lobby", event="e", data=number)
            self.wait(0.1)
            answer = json.loads(poll.body)
            given["presence"] = answer["presence"]["lobby"]
            events += [event for event in answer["events"] if event["type"] == "presence"]
        self.assertEqual([3], [len(event["members"]) for event in events])

    def test_keeps_nothing(self) -> None:
        """One that gives no version back isn't answered over and over because it comes from another node."""
        given = {key: value for key, value in self.polled(0).items() if key != "presence"}
        self.wait(1)
        answered = 0
        for number in range(12):
            poll = self.poll(number % 3, **given)
            self.wait(1)
            answered += bool(poll.body)
            poll.disconnect()
        self.assertLessEqual(answered, 1)

    def test_large_room(self) -> None:
        """In a large room a poll with another node's version waits as well."""
        self.hubs = [make_node(self.exchange, self.store, 5 + n, presence_limit=3)[0] for n in range(3)]
        for number in range(6):
            self.arrive(number % 3)
        self.wait(1)
        given = self.polled(0)
        self.wait(1)
        given = {**given, **self.answer_of(self.poll(0, **given))}
        poll = self.poll(1, **given)
        self.wait(3)
        self.assertEqual(b"", poll.body)

    def test_signals_in_between(self) -> None:
        """A signal between two polls comes with the next, if that goes to the same node; none comes twice."""
        sender, _ = self.arrive(0, "Ann")
        given = self.polled(0)
        self.wait(1)
        self.tell(sender, "signal", room="lobby", event="e", data=1)
        (event,) = json.loads(self.poll(0, **given).body)["events"]
        self.assertEqual(1, event["data"])
        self.tell(sender, "signal", room="lobby", event="e", data=2)
        other = {**given, "presence": "abcd.7.0123456789abcdef"}
        poll = self.poll(0, **other)
        self.assertNotIn(b"signal", poll.body)

    def test_overtaken_signal(self) -> None:
        """A signal with which one node has answered a poll, and which comes late to the node of the next, isn't told
        there again; another one is."""
        sender, _ = self.arrive(0, "Ann")
        given = self.polled(0)
        self.wait(1)
        self.poll(1, **given).disconnect()
        poll = self.poll(0, **given)
        self.exchange.lag = 0.2
        for number in (1, 2):
            self.tell(sender, "signal", room="lobby", event="e", data=number)
        answer = json.loads(poll.body)
        self.assertEqual([1], [event["data"] for event in answer["events"]])
        poll = self.poll(1, **{**given, "presence": answer["presence"]["lobby"]})
        self.assertEqual(b"", poll.body)
        self.wait(0.3)
        self.assertEqual([2], [event["data"] for event in json.loads(poll.body)["events"]])


class AnyNodeTests(NodesWorld):
    """Commands that a client sends to a node that it isn't connected to."""

    def test_state(self) -> None:
        """A state is the client's on all nodes."""
        _view, transport = self.watch(2)
        session, _ = self.arrive(0, "Ann")
        self.wait(1)
        transport.received.clear()
        self.assertIsNone(self.request(1, session.identify().client, commands.SetState(state={"a": 1})))
        (event,) = self.events(transport)
        self.assertEqual([{"a": 1}], [member["state"] for member in event["joined"]])

    def test_state_rate(self) -> None:
        """Another node, which doesn't know the client's rooms, takes a state a second of it, and two at once."""
        session, _ = self.arrive(0, "Ann")
        self.wait(1)
        replies = [
            self.ask(1, session.identify().client, commands.SetState(state={"a": number})) for number in range(4)
        ]
        self.assertEqual([False, False, True, True], ["rate_limited" in reply for reply in replies])
        self.wait(1.1)
        self.assertEqual("", self.ask(1, session.identify().client, commands.SetState(state={"a": 5})))

    def test_leave(self) -> None:
        """A polling client that leaves through another node is gone in a moment, not after ten seconds."""
        _view, transport = self.watch(2)
        given = self.polled(0)
        self.wait(1)
        transport.received.clear()
        reply = self.request(1, given["client"], commands.Leave(room="lobby"))
        self.assertEqual("left", reply["type"])
        self.wait(1.5)
        self.assertEqual([1], [len(event["left"]) for event in self.events(transport)])

    def test_signal(self) -> None:
        """A client may signal through any node, at the rate of one client. All others get the signal."""
        _, ann = self.arrive(2, "Ann")
        poller = self.polled(0)
        poll = self.poll(0, **poller)
        signals = [commands.SendSignal(room="lobby", event="e", data=number) for number in range(70)]
        replies = [self.ask(1, poller["client"], signal) for signal in signals]
        self.wait(1)
        taken = sum("rate_limited" not in reply for reply in replies)
        self.assertEqual(list(range(taken)), [signal["data"] for signal in ann.of_type("signal")])
        self.assertTrue(60 <= taken <= 64, taken)
        self.assertNotIn(b"signal", poll.body)

    def ask(self, node: int, client: str, command: commands.Command) -> str:
        """Send a command to a node by a request. It is answered at once if the node knows all that it needs."""
        session = PerformingSession(self.hubs[node], identity=identify(self.hubs[node], client))
        answer = session.perform(command)
        if isinstance(answer, Deferred):
            self.wait(0.1)
            answer = self.successResultOf(answer)
        session.close()
        return answer.decode()

    def test_just_joined(self) -> None:
        """A command is not refused for having come to a node before the news that its client has joined on another."""
        self.arrive(0, "Cid")
        self.arrive(1, "Bob")
        _, seen = self.arrive(2, "Ann")
        self.wait(1)
        self.exchange.lag = 0.1
        request = self.poll(0)
        client = json.loads(request.body)["client"]
        self.assertEqual("", self.ask_soon(1, client, commands.SendSignal(room="lobby", event="e", data=1)))
        self.wait(0.2)
        self.assertEqual(1, len(seen.of_type("signal")))

    def ask_soon(self, node: int, client: str, command: commands.Command) -> str:
        """The same where the answer takes longer."""
        answer = PerformingSession(self.hubs[node], identity=identify(self.hubs[node], client)).perform(command)
        assert isinstance(answer, Deferred), "it was known already"
        self.wait(0.5)
        return self.successResultOf(answer).decode()

    def test_leave_of_nobody(self) -> None:
        """A client that is in the room through no node can't leave it."""
        self.arrive(0)
        reply = self.request(1, self.hubs[1].identities.issue(), commands.Leave(room="lobby"))
        self.assertEqual("not_joined", reply["code"])


class EndTests(NodesWorld):
    """Nothing is left."""

    def test_all_gone(self) -> None:
        """When everybody has gone there is nobody, no news, no room, no alarm and no timer, on any node."""
        sessions = [self.arrive(number % 3, room=room)[0] for number, room in enumerate("abcabcab")]
        self.request(0, sessions[0].identify().client, commands.ReadMembers(room="b"))
        for session in sessions:
            session.close()
        self.wait(5)
        for hub in self.hubs:
            assert_nobody(hub)
        self.clock.pump([10.0] * 20)
        for hub, end in self.nodes:
            self.assertEqual(({}, {}, 0), (hub.rooms, end.followed, len(hub.wheel)))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_stop(self) -> None:
        """A hub that stops publishes that it stops, and no changes of its clients; it keeps nothing."""
        self.arrive(1, "Ann")
        going, _ = self.arrive(0, "Bob")
        self.wait(1)
        told = self.exchange.announcements
        self.hubs[0].stop()
        self.wait(5)
        self.assertEqual((told, True), (self.exchange.announcements, going.closed))
        presence: Any = self.hubs[0].presence
        self.assertEqual(
            ({}, {}, {}, {}),
            (presence._clients, presence.remote._nodes, presence.remote.rooms, presence._outbox._changes),
        )


def assert_nobody(hub: Hub) -> None:
    """Nobody is in any room."""
    presence: Any = hub.presence
    table, remote, outbox = presence._table, presence.remote, presence._outbox
    held = (
        presence.memberships,
        presence._clients,
        table.hidden,
        table._unseeing,
        remote._nodes,
        outbox._changes,
        table._changed,
    )
    assert held == ({},) * 7, held
    assert (table._timer, outbox._timer, remote._waiting, remote._leaving) == (None, None, {}, {})


# Everything at once


class Presences(SynchronousTestCase):
    """People on three nodes, which die, stop and lose messages."""

    @settings(max_examples=RUNS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(min_size=8, max_size=64), st.sampled_from((3, 100)))
    def test_everybody_agrees(self, steps: bytes, limit: int) -> None:
        """In the end all nodes and readers have the true members; nobody is seen to leave who was back in time on any
        node, or whose every poll goes to another one."""
        town = Town(limit)
        for byte in steps:
            town.step(byte)
        town.settle()
        town.check()
        town.close()


NOW_AND_THEN = 3.0
"""Seconds by which a leave may be late, when all nodes have to hear of it."""

LEASE = 4.0
"""Seconds after which it is known that a node has died."""


class Citizen(Person):
    """A person with clients on several nodes, and until when it may be in the room through each.

    :ivar node: where it is that something begins or ends to read for it.
    """

    def __init__(self, street: Town) -> None:
        super().__init__(street)
        self.node = 0
        self.reading: dict[int, int] = {}
        self.begun: dict[int, float] = {}
        self.soonest: dict[int, float] = {}
        self.latest: dict[int, float] = {}
        self.left_at = -10.0

    def begins(self) -> None:
        if not self.readers:
            self.possibly_left, self.surely_left = self.left()
        self.readers += 1
        self.reading[self.node] = self.reading.get(self.node, 0) + 1
        self.begun[self.node] = self.street.clock.seconds()

    def ends(self, at: float, polls: bool) -> None:
        node = self.node
        self.readers -= 1
        self.reading[node] -= 1
        if not self.reading[node]:
            leaving = self.left_at > self.begun[node] - 0.5
            held = 9.5 if polls and not leaving else 1.5
            if at > self.begun[node] + 0.1:
                self.soonest[node] = at + held
            else:  # the node may not even have looked the room up
                self.soonest[node] = min(self.soonest.get(node, at), at + held)
            self.latest[node] = at + 10.0

    def loses(self, node: int, held: float) -> None:
        """A node is gone. Its clients are held for a while, if the other nodes knew them."""
        now = self.street.clock.seconds()
        reading = self.reading.pop(node, 0)
        self.readers -= reading
        if reading:
            self.soonest[node] = now + held if now > self.begun[node] + 0.5 else now
            self.latest[node] = now + held
        elif node in self.soonest:
            self.soonest[node] = min(self.soonest[node], now + held)

    def leaves(self) -> None:
        self.left_at = now = self.street.clock.seconds()
        for node, until in self.soonest.items():
            self.soonest[node] = min(until, now + 1.5)
            self.latest[node] = max(self.latest[node], now + 1.5)

    def left(self) -> tuple[int, int]:
        if self.readers or not self.soonest:
            return self.possibly_left, self.surely_left
        now = self.street.clock.seconds()
        possibly = now > max(self.soonest.values()) - 0.01
        surely = now > max(self.latest.values()) + NOW_AND_THEN
        return self.possibly_left + possibly, self.surely_left + surely

    def act(self, command: commands.Command) -> str:
        """Do something by a request to any node; it is answered later."""
        self.street.pick()  # type: ignore[attr-defined]
        session = PerformingSession(self.street.hub, identity=identify(self.street.hub, self.key))
        answer = session.perform(command)
        if isinstance(answer, Deferred):
            answer.addCallback(self._acted)
        else:
            self._acted(answer)
        return ""

    def _acted(self, reply: bytes) -> None:
        if b'"left"' in reply:
            self.leaves()


class Roving:
    """A page each of whose connections, or polls, goes to another node."""

    node = 0
    open: bool
    person: Any
    street: Any

    def there(self) -> None:
        """Note changes of the person for the node that this page is connected to."""
        self.person.node = self.node

    def go(self) -> None:
        """Go to another node."""
        self.node = self.street.pick()
        self.there()


class RovingSocketTab(Roving, SocketTab):
    """On something like a WebSocket."""

    def begin(self) -> None:
        if not self.open:
            self.go()
            super().begin()

    def end(self) -> None:
        self.there()
        super().end()

    def leave(self) -> None:
        self.there()
        super().leave()

    def lose(self, node: int) -> None:
        """A node is gone."""
        if self.open and self.node == node:
            self.check()
            self.open = False


class RovingPollTab(Roving, PollTab):
    """On long poll."""

    def _poll(self) -> None:
        if self.request is None:
            self.go()
            super()._poll()

    def _note_end(self) -> None:
        self.there()
        super()._note_end()

    def end(self) -> None:
        self.there()
        super().end()

    def leave(self) -> None:
        self.person.act(commands.Leave(room="a"))

    def lose(self, node: int) -> None:
        """A node is gone, and with it the request."""
        if self.open and self.node == node:
            self.request = None


class Town(Street):
    """Some people, their pages, and a room that is on three nodes."""

    def __init__(self, limit: int) -> None:
        self.clock = Clock()
        self.limit = limit
        self.store = MemoryStore(Retention(20), self.clock.seconds, tokens())
        self.exchange = Exchange(self.clock)
        self.nodes = {number: self.make_node(number) for number in range(3)}
        self.random = Random(7)
        self.pick()
        one, two, three, four, five = self.people = [Citizen(self) for _ in range(5)]
        self.tabs = [
            RovingSocketTab(self, one),
            RovingPollTab(self, one),
            RovingSocketTab(self, two),
            RovingPollTab(self, two),
            RovingSocketTab(self, three),
            RovingSocketTab(self, three),
            RovingPollTab(self, four),
            RovingSocketTab(self, five),
        ]
        self.number = self.lost = 0

    def make_node(self, number: int) -> tuple[Hub, End]:
        return make_node(self.exchange, self.store, number, presence_limit=self.limit)

    def pick(self) -> int:
        """A node; from now on everything goes there."""
        node = self.random.choice(list(self.nodes))
        self.hub = self.nodes[node][0]
        return node

    def step(self, byte: int) -> None:
        self.pick()
        super().step(byte)

    def publish(self) -> None:
        """Publishing needs no test here; instead, something happens to a node."""
        node = self.pick()
        hub, end = self.nodes[node]
        what = self.number % 5
        if what == 0:
            self.replace(node, LEASE)
            end.cut = True
            hub.stop()
            self.clock.callLater(LEASE, self.exchange.end, end.name, 0)
        elif what == 1:
            self.replace(node, HELD)
            hub.stop()
            end.stop()
        elif what == 2:
            end.doubles = not end.doubles
        else:
            end.loses = 1

    def replace(self, node: int, held: float) -> None:
        """A node is going to be gone; there is a new one."""
        for tab in self.tabs:
            tab.lose(node)
        for person in self.people:
            person.loses(node, held)  # type: ignore[attr-defined]
        del self.nodes[node]
        self.nodes[max(self.nodes) + self.number + 3] = self.make_node(max(self.nodes) + self.number + 3)

    def check(self) -> None:
        """All readers on all nodes agree with the truth."""
        for hub, _ in self.nodes.values():
            if "a" in hub.rooms:
                self.hub = hub
                super().check()

    def close(self) -> None:
        """When all have gone, nothing is left on any node."""
        for tab in self.tabs:
            tab.end()
            tab.open = False
        self.clock.pump([0.5] * 40)
        for hub, _ in self.nodes.values():
            assert_nobody(hub)
        self.clock.pump([10.0] * 20)
        for hub, end in self.nodes.values():
            assert (len(hub.wheel), hub.rooms, end.followed) == (0, {}, {})
