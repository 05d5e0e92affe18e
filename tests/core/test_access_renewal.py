"""Tests for :mod:`realtime_chat.core.access_renewal`: what is open follows rules that change."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.access import AccessPolicy
from realtime_chat.core.access_renewal import AccessRenewal
from realtime_chat.core.performing_session import PerformingSession
from realtime_chat.transports.poll import PollResource
from realtime_chat.values import commands
from realtime_chat.values.access import RoomRule, RoomRules, parse_rights
from realtime_chat.values.errors import GOODBYES
from tests.core.world import World
from tests.fakes import FakeRequest, new_objects_alone
from tests.site_tokens import SiteTokens

FORBIDDEN = {"type": "left", "room": "lobby", "reason": "forbidden"}


class BusyClock(Clock):
    """A clock by which each look takes a millisecond. It makes one call a turn."""

    looks = 0

    def seconds(self) -> float:
        self.looks += 1
        return self.looks / 1000

    def turn(self) -> bool:
        """Make the next call; return whether there was one."""
        calls = self.getDelayedCalls()
        for call in calls[:1]:
            func = call.func
            call.cancel()
            func()
        return bool(calls)


class AccessRenewalTests(SynchronousTestCase):
    """The calls themselves."""

    def setUp(self) -> None:
        self.clock = BusyClock()
        self.called: list[int] = []
        self.renewal = AccessRenewal(self.clock, self.calls)

    def calls(self) -> list[Callable[[], object]]:
        return [lambda number=number: self.called.append(number) for number in range(20)]  # type: ignore[misc]

    def turns(self) -> int:
        """How many turns pass until all is done."""
        count = 0
        while self.clock.turn():
            count += 1
        return count

    def test_share_of_a_turn(self) -> None:
        """A turn has some milliseconds for it, and all are called in the end, in their order."""
        self.renewal.begin()
        self.assertEqual([], self.called)
        self.assertEqual(3, self.turns())
        self.assertEqual([*range(20)], self.called)

    def test_busy_node(self) -> None:
        """Half a second of work is done within a second, though others take 20 ms of each turn."""
        done: list[int] = []
        AccessRenewal(self.clock, lambda: [lambda: done.append(1)] * 500).begin()
        while len(done) < 500:
            self.clock.turn()
            self.clock.looks += 20
        self.assertLess(self.clock.seconds(), 1.0)

    def test_changed_meanwhile(self) -> None:
        """If rules change again, those who had their turn get another one, and those who wait don't wait longer."""
        self.renewal.begin()
        self.clock.turn()
        for _ in range(3):
            self.renewal.begin()
        self.turns()
        self.assertEqual([*range(20)] * 2, self.called)

    def test_failing(self) -> None:
        """A call that fails disturbs no other, and is logged."""
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        done: list[int] = []
        AccessRenewal(self.clock, lambda: [lambda: 1 // 0, lambda: done.append(1)]).begin()
        self.turns()
        self.assertEqual([1], done)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_stopped(self) -> None:
        """After it is stopped, nothing is called."""
        self.renewal.begin()
        self.renewal.stop()
        self.renewal.stop()
        self.assertEqual((0, []), (self.turns(), self.called))


class ReplacedTests(World):
    """Guests and users of a hub whose policy is replaced."""

    limits = {"presence_gather": 0.01, "presence_interval": 0.05}

    def setUp(self) -> None:
        super().setUp()
        self.site = SiteTokens(lambda: self.hub.time_ms() / 1000)
        self.equip()

    def equip(self) -> None:
        self.hub._verify, self.hub.identities._token_keys = self.site.verify, self.site.token_keys
        self.hub.access = self.policy("rwsp")
        self.polls = PollResource(self.hub, jsonp=False)

    def policy(self, guests: str, users: str | None = None, room: str = "lobby") -> AccessPolicy:
        """What a file says of one room; elsewhere guests may do nothing."""
        given = None if users is None else parse_rights(users)
        return AccessPolicy(RoomRules((RoomRule(room, parse_rights(guests), given),)), is_open=False)

    def replace(self, policy: AccessPolicy, seconds: float = 0.9) -> None:
        self.hub.replace_access(policy)
        self.polls = PollResource(self.hub, jsonp=False)
        self.clock.pump([0.05] * round(seconds * 20))

    def poll(self, **query: str) -> FakeRequest:
        """A poll that perhaps waits."""
        client = query.pop("client", None)
        headers = {b"Realtime-Client": [client.encode()]} if client else None
        args = {b"room": [b"lobby"], b"wait": [b"9"], **{key.encode(): [text.encode()] for key, text in query.items()}}
        request = FakeRequest(args, headers)
        self.polls.render_GET(request)  # type: ignore[arg-type]
        return request

    def waiting_poll(self, presence: str | None = None) -> tuple[FakeRequest, str]:
        """A guest's second poll, which waits, and its client."""
        first = json.loads(self.poll().body)
        since, version = first["positions"]["lobby"], first["presence"]["lobby"]
        query = {} if presence is None else {"presence": version}
        second = self.poll(client=first["client"], since=since, **query)
        self.assertEqual(b"", second.body)
        return second, first["client"]

    def test_guest_may_not_read(self) -> None:
        """A guest whose room is closed is told so, and gets no message after that; its publish is forbidden."""
        session, guest = self.joined()
        other, user = self.client()
        self.tell(other, "hello", token=self.site.issue("u7", lobby="rw"))
        self.tell(other, "join", room="lobby")
        self.replace(self.policy(""))
        self.publish(1)
        self.turn()
        self.tell(session, "publish", room="lobby", data=2)
        self.assertEqual(([FORBIDDEN], []), (guest.of_type("left"), guest.of_type("message")))
        self.assertEqual(["forbidden"], [error["code"] for error in guest.of_type("error")])
        self.assertEqual(([], [1]), (user.of_type("left"), self.data(user)))
        self.assertEqual({}, dict(session.subscriptions))

    def test_told_of_rights(self) -> None:
        """Who keeps a room with other rights is told them, those that were given and those that were taken."""
        _, guest = self.joined()
        for rights in ("rp", "rwsp", "rw"):
            self.replace(self.policy(rights))
        self.assertEqual(["rp", "rwsp", "rw"], [event["rights"] for event in guest.of_type("rights")])

    def test_unchanged(self) -> None:
        """Who may do what it could do before is told nothing."""
        _, guest = self.joined()
        request, _ = self.waiting_poll()
        before = len(guest.received)
        self.replace(AccessPolicy(RoomRules((RoomRule("lobby", 15), RoomRule("other", 1))), is_open=True))
        told = [event["type"] for event in guest.received[before:]]
        self.assertEqual((set(), b""), (set(told) - {"presence"}, request.body))

    def test_waiting_poll(self) -> None:
        """A poll that waits is answered with what has changed, and with the rights that count now."""
        for rights, type in (("", "left"), ("r", "rights")):
            self.hub.access = self.policy("rwsp")
            request, client = self.waiting_poll()
            self.replace(self.policy(rights))
            answer = json.loads(request.body)
            self.assertIn(type, [event["type"] for event in answer["events"]])
            self.assertEqual({"lobby": "r"} if rights else {}, answer["rights"])
            again = json.loads(self.poll(client=client, since="0:0").body)
            self.assertEqual("poll" if rights else "error", again["type"])
            self.clock.pump([1.0] * 30)

    def test_poll_that_is_read(self) -> None:
        """A poll whose rooms are looked up while rules change has the rights after that, or is forbidden."""
        for rights, type in (("r", "poll"), ("", "error")):
            self.slow_hub()
            self.equip()
            request = self.poll()
            self.replace(self.policy(rights))
            self.held.settle()
            answer = json.loads(request.body)
            self.assertEqual(type, answer["type"])
            self.assertEqual({"lobby": "r"} if rights else None, answer.get("rights"))

    def test_rooms_that_are_read(self) -> None:
        """A poll of two rooms of which one is found already waits for the other one, and answers for both."""
        self.joined(room="lobby")
        self.slow_hub()
        self.equip()
        self.hub.access = AccessPolicy()
        request = FakeRequest({b"room": [b"lobby", b"other"], b"wait": [b"9"]})
        self.polls.render_GET(request)  # type: ignore[arg-type]
        self.held.look(0)
        self.held.answer(0)
        self.replace(self.policy("r", room="*"))
        self.assertEqual(b"", request.body)
        self.held.settle()
        answer = json.loads(request.body)
        self.assertEqual({"lobby", "other"}, set(answer["positions"]))
        self.assertEqual({"lobby": "r", "other": "r"}, answer["rights"])

    def test_between_polls(self) -> None:
        """A client between two polls is no member any more if it may not be; without ``r`` it is gone."""
        _, client = self.waiting_poll()
        for rights, is_there in (("r", True), ("", False)):
            self.hub.access = self.policy("rwsp")
            request = self.poll(client=client, presence="")
            self.clock.advance(0.2)
            self.assertEqual((True, 1), (bool(request.body), self.hub.presence.count("lobby")))
            self.replace(self.policy(rights))
            client_hash = self.hub.identities.check(client).client_hash
            self.assertEqual(
                (0, is_there), (self.hub.presence.count("lobby"), client_hash in self.hub.presence._clients)
            )

    def test_presence_follows(self) -> None:
        """Without ``p`` a guest is no member and is told of nobody; with it again, it is one and gets the list."""
        other, user = self.client()
        self.tell(other, "hello", token=self.site.issue("u7", name="Ann", lobby="rp"))
        self.tell(other, "join", room="lobby")
        _, guest = self.joined()
        self.clock.advance(0.2)
        self.replace(self.policy("r", ""))
        self.assertEqual(1, self.hub.presence.count("lobby"))
        guest.received.clear()
        user.received.clear()
        self.joined()
        self.replace(self.policy("rp", ""))
        self.assertEqual(3, self.hub.presence.count("lobby"))
        self.assertEqual(3, guest.of_type("presence")[-1]["count"])
        self.assertEqual(2, sum(len(event["joined"]) for event in user.of_type("presence")))

    def test_asked_before(self) -> None:
        """What a guest asked before, and is answered after the change, is answered by the rules after it."""
        self.slow_hub()
        self.equip()
        session, guest = self.client()
        self.tell(session, "join", room="lobby")
        request = PerformingSession(self.hub, identity=self.hub.identities.new_guest())
        history = request.perform(commands.ReadHistory(room="lobby"))
        self.replace(self.policy(""))
        self.held.settle()
        assert isinstance(history, Deferred)
        self.assertEqual("forbidden", json.loads(self.successResultOf(history))["code"])
        self.assertEqual(["forbidden"], [error["code"] for error in guest.of_type("error")])

    def test_list_of_rooms(self) -> None:
        """A list of rooms that is read while rules change names no room that is hidden by then."""
        self.publish(1)
        self.slow_hub()
        self.equip()
        self.hub.access = AccessPolicy()
        identity = self.hub.identities.new_guest()
        held: Deferred[Any] = Deferred()
        self.patch(self.hub, "_store", attrs.make_class("Store", ["rooms"])(lambda after, limit: held))
        found = Deferred.fromCoroutine(self.hub.list_rooms(identity, "", 10))
        self.replace(self.policy("r", room="other"))
        held.callback(["lobby", "other"])
        self.assertEqual([], [room for room, _ in self.successResultOf(found) if room == "lobby"])

    def test_nobody_keeps_the_old_one(self) -> None:
        """After a second nothing refers to the policy from before, whatever is open."""
        with new_objects_alone():
            old = self.policy("rwsp")
            self.hub.access = old
            kept = weakref.ref(old)
            del old
            self.joined()
            self.client()
            self.waiting_poll()
            self.replace(self.policy("r"))
            gc.collect()
            self.assertIsNone(kept())

    def test_many(self) -> None:
        """All of many sessions are told, also those that come while others are renewed."""
        clients = [self.joined() for _ in range(50)]
        self.hub.replace_access(self.policy("r"))
        clients.append(self.joined())
        self.clock.advance(0)
        rights = [transport.of_type("rights")[-1:] for _, transport in clients[:-1]]
        self.assertEqual({"r"}, {event[0]["rights"] for event in rights})
        self.assertEqual("r", clients[-1][1].of_type("joined")[0]["rights"])

    def test_key_for_a_moment(self) -> None:
        """A user whose key came and went within a moment ends, though the keys are those from before."""
        stays, _ = self.client()
        self.tell(stays, "hello", token=self.site.issue("u7"))
        before = self.site.keys
        self.site.keys = before | {"1234"}
        goes, transport = self.client()
        self.tell(goes, "hello", token=self.site.issue("u8", key="1234"))
        self.site.keys = frozenset([*before])
        self.clock.pump([0.05] * 20)
        self.assertEqual((True, False), (goes.closed, stays.closed))
        self.assertEqual(GOODBYES["token_expired"], transport.said_goodbye)

    def test_stopping(self) -> None:
        """A hub that stops renews nobody any more."""
        self.joined()
        self.hub.replace_access(self.policy(""))
        self.hub.stop()
        self.hub.wheel.stop()
        self.assertEqual([], [str(call) for call in self.clock.getDelayedCalls() if "_run" in str(call)])

    def test_lost_transport(self) -> None:
        """A session that is closed before its turn is left alone."""
        session, guest = self.joined()
        self.hub.replace_access(self.policy(""))
        session.close()
        self.clock.advance(0)
        self.assertEqual([], guest.of_type("left"))
