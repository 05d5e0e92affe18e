"""Clients of tokens on several nodes: what a renewal, and the end of their time, do on all of them."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.command_session import CommandSession
from realtime_chat.core.identity import NOBODY
from realtime_chat.core.performing_session import PerformingSession
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.transports.poll import PollResource
from realtime_chat.values import commands
from realtime_chat.values.errors import GOODBYES, RealtimeError
from realtime_chat.values.model import ANONYMOUS, Draft
from tests.exchange import Exchange, make_node
from tests.fakes import FakeRequest, FakeTransport, tokens
from tests.site_tokens import SiteTokens


class NodesTests(SynchronousTestCase):
    """Three nodes that share a store and its secret."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.site = SiteTokens(lambda: 1_795_000_000.0 + self.clock.seconds())
        store = MemoryStore(Retention(100), self.clock.seconds, tokens())
        self.exchange = exchange = Exchange(self.clock)
        self.hubs = [make_node(exchange, store, number, self.site)[0] for number in range(3)]

    def wait(self, seconds: float) -> None:
        self.clock.pump([0.05] * round(seconds * 20))

    def say(self, session: CommandSession, type: str, **fields: Any) -> None:
        session.receive(json.dumps({"type": type, **fields}).encode())
        self.wait(0.1)

    def arrive(self, node: int, room: str = "lobby", **hello: Any) -> tuple[CommandSession, FakeTransport]:
        """Somebody says hello to a node, and joins a room."""
        transport = FakeTransport()
        session = CommandSession(self.hubs[node], transport, transport)
        self.say(session, "hello", **hello)
        self.say(session, "join", room=room)
        return session, transport

    def renew(self, node: int, client: str, token: str) -> dict[str, Any]:
        """Renew a client by a request to a node."""
        session = PerformingSession(self.hubs[node], identity=self.hubs[node].identities.check(client))
        answer = session.perform(commands.Hello(token=token))
        session.close()
        assert isinstance(answer, bytes)
        self.wait(1.0)
        return json.loads(answer)  # type: ignore[no-any-return]

    def test_renewed_everywhere(self) -> None:
        """A renewal at one node changes the name at all, and nobody leaves."""
        first = self.site.issue("u7", name="Ann", lobby="rp")
        _, one = self.arrive(0, token=first)
        client = one.of_type("welcome")[0]["client"]
        self.arrive(1, client=client)
        _, watcher = self.arrive(2, token=self.site.issue("u8", name="Ben", lobby="rp"))
        self.wait(1.0)
        watcher.received.clear()
        self.renew(2, client, self.site.issue("u7", name="Anne", lobby="rp"))
        events = watcher.of_type("presence")
        self.assertEqual(["Anne"], [member["name"] for event in events for member in event.get("joined", ())])
        self.assertEqual([], [member for event in events for member in event.get("left", ())])

    def test_lost_rights_everywhere(self) -> None:
        """Rights that a renewal at one node takes away are over at all within a second; later messages reach nobody."""
        _, one = self.arrive(0, token=self.site.issue("u7", lobby="r"))
        client = one.of_type("welcome")[0]["client"]
        _, two = self.arrive(1, client=client)
        _, other = self.arrive(1, token=self.site.issue("u8", lobby="r"))
        self.renew(2, client, self.site.issue("u7", elsewhere="r"))
        left = {"type": "left", "room": "lobby", "reason": "forbidden"}
        self.assertEqual([[left], [left], []], [one.of_type("left"), two.of_type("left"), other.of_type("left")])
        self.hubs[0].publish(Draft("lobby", "message", b"1", ANONYMOUS))
        self.hubs[1].publish(Draft("lobby", "message", b"2", ANONYMOUS))
        self.wait(1.0)
        self.assertEqual([], one.of_type("message") + two.of_type("message"))

    def test_older_token_changes_nothing(self) -> None:
        """A token that was issued before the present one gives nothing back."""
        older = self.site.issue("u7", lobby="rw")
        session, transport = self.arrive(0, token=self.site.issue("u7", lobby="r"))
        self.say(session, "hello", token=older)
        self.say(session, "publish", room="lobby", data=1)
        self.assertEqual(["forbidden"], [error["code"] for error in transport.of_type("error")])

    def test_same_second_everywhere(self) -> None:
        """Renewals at two nodes at once, by tokens of one second, leave the same rights on all nodes."""
        for room in ("one", "two", "three", "four", "five", "six"):
            before = self.site.issue("u7", **{room: "rwsp"})
            tokens_of_both = [self.site.issue("u7", **{room: rights}) for rights in ("rw", "rs")]
            self.site.issue_together(*tokens_of_both)
            session, transport = self.arrive(0, room, token=before)
            client = transport.of_type("welcome")[0]["client"]
            sessions = [session, self.arrive(1, room, client=client)[0], self.arrive(2, room, client=client)[0]]
            for node, token in enumerate(tokens_of_both):
                renewing = PerformingSession(self.hubs[node], identity=self.hubs[node].identities.check(client))
                renewing.perform(commands.Hello(token=token))
                renewing.close()
            self.wait(1.0)
            rights = {one.identity.grants.rights(room) for one in sessions if one.identity is not None}
            self.assertEqual(1, len(rights))
            self.assertNotEqual({15}, rights)

    def test_over_on_arrival(self) -> None:
        """A renewal whose own time is over when a node hears of it takes effect there: the client's session ends."""
        session, one = self.arrive(0, token=self.site.issue("u7", lobby="rw"))
        _, other = self.arrive(0, token=self.site.issue("u8", lobby="rw"))
        elsewhere = self.hubs[1].identities
        claims = self.site.verify(self.site.issue("u7", lifetime=1.0, lobby="r"))
        renewed = elsewhere.admit(claims, session.identity)
        self.wait(2.0)
        self.hubs[0].presence.on_renewed(renewed.client)
        self.assertEqual((GOODBYES["token_expired"], None), (one.said_goodbye, other.said_goodbye))
        client = one.of_type("welcome")[0]["client"]
        self.assertEqual("token_expired", self.assertRaises(RealtimeError, self.hubs[0].identities.check, client).code)

    def test_made_up_renewal(self) -> None:
        """What isn't a client of this store renews nobody, though a node says it."""
        _, one = self.arrive(0, token=self.site.issue("u7", lobby="r"))
        reader = one.of_type("welcome")[0]["reader"]
        for renewed in ("x" * 40, "", "\ud800", reader, self.hubs[1].identities.new_guest("Eve").client):
            self.hubs[0].presence.on_renewed(renewed)
        self.assertEqual([], one.of_type("left") + one.of_type("rights"))
        self.assertIsNone(one.said_goodbye)

    def test_time_is_over(self) -> None:
        """Each node ends a client within a second of the end of its time, and no other."""
        _, one = self.arrive(0, token=self.site.issue("u7", lifetime=10, lobby="r"))
        _, two = self.arrive(1, client=one.of_type("welcome")[0]["client"])
        _, later = self.arrive(1, token=self.site.issue("u8", lifetime=20, lobby="r"))
        self.wait(10 - self.clock.seconds() - 0.2)
        self.assertEqual([None, None], [one.said_goodbye, two.said_goodbye])
        self.wait(1.2)
        self.assertEqual([GOODBYES["token_expired"]] * 2, [one.said_goodbye, two.said_goodbye])
        self.assertIsNone(later.said_goodbye)
        self.wait(12)
        self.assertEqual(GOODBYES["token_expired"], later.said_goodbye)
        self.wait(60)
        self.assertEqual([0] * 3, [len(hub.wheel) for hub in self.hubs])

    def test_rights_end_while_waiting(self) -> None:
        """A signal that waits for news of its client from another node is sent by the rights of the moment after."""
        for lifetime, renewed, code in ((3600, "rsp", None), (3600, "rp", "forbidden"), (0.3, "", "token_expired")):
            _, seen = self.arrive(2, token=self.site.issue("u8", lobby="r"))
            for node in (0, 1):
                self.arrive(node, token=self.site.issue("u9", lobby="r"))
            self.exchange.lag = 0.4
            hello = commands.Hello(token=self.site.issue("u7", lifetime, lobby="rsp"))
            transport = FakeTransport()
            session = CommandSession(self.hubs[0], transport, transport)
            welcome = session.perform(hello)
            session.execute(commands.Join(room="lobby"))
            client = json.loads(welcome)["client"]  # type: ignore[arg-type]
            request = PerformingSession(self.hubs[1], identity=self.hubs[1].identities.check(client))
            answer = request.perform(commands.SendSignal(room="lobby", event="e", data=1))
            assert isinstance(answer, Deferred), "it was known already"
            if renewed:
                self.renew(1, client, self.site.issue("u7", lobby=renewed))
            self.wait(1.5)
            error = self.successResultOf(answer)
            self.assertEqual(code, json.loads(error)["code"] if error else None)
            self.assertEqual(code is None, bool(seen.of_type("signal")))
            self.exchange.lag = 0.01
            session.close()
            self.wait(30)

    def test_leave_without_a_right(self) -> None:
        """A request to leave a room that its sender may not read is answered at once, and no room is loaded for it."""
        client = self.hubs[0].identities.admit(self.site.verify(self.site.issue("u7", other="r"))).client
        for who in (self.hubs[0].identities.check(client), self.hubs[0].identities.new_guest(), NOBODY, None):
            request = PerformingSession(self.hubs[0], identity=who)
            answer = request.perform(commands.Leave(room="lobby"))
            assert isinstance(answer, bytes), "it was waited for"
            self.assertEqual("not_joined", json.loads(answer)["code"])
            request.close()
        self.assertEqual([{}, {}], [self.hubs[0].rooms, self.hubs[0].cache.loading])

    def test_lost_between_polls(self) -> None:
        """A client between two polls is no member after a renewal that takes that away; without ``r`` it is gone."""
        _, watcher = self.arrive(1, token=self.site.issue("u8", name="Ben", lobby="rp"))
        hub = self.hubs[0]
        for rights, members, is_there in (("rp", 2, True), ("r", 1, True), ("p", 1, False), ("", 1, False)):
            client = hub.identities.admit(self.site.verify(self.site.issue("u7", name="Ann", lobby="rp"))).client
            request = FakeRequest({b"room": [b"lobby"]}, {b"Realtime-Client": [client.encode()]})
            PollResource(hub, jsonp=False).render_GET(request)  # type: ignore[arg-type]
            self.wait(1.0)
            self.assertEqual((True, 2), (bool(request.body), self.hubs[1].presence.count("lobby")))
            watcher.received.clear()
            self.renew(2, client, self.site.issue("u7", name="Ann", lobby=rights))
            left = [member["id"] for event in watcher.of_type("presence") for member in event.get("left", ())]
            self.assertEqual((members, 2 - members), (self.hubs[1].presence.count("lobby"), len(left)), rights)
            client_hash = hub.identities.check(client).client_hash
            self.assertEqual(is_there, client_hash in hub.presence._clients, rights)
            self.wait(30)
        self.assertEqual(({}, {}), (hub.presence._clients, hub.presence._table.hidden))
