"""Tests for :mod:`realtime_chat.core.user_sessions`."""

from __future__ import annotations

from itertools import permutations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.identity import Identity
from realtime_chat.core.session import Session
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from tests.fakes import FakeTransport, make_hub, tokens
from tests.site_tokens import SiteTokens


class UserSessionsTests(SynchronousTestCase):
    """Sessions by their clients, some of which have several."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.hub = make_hub(MemoryStore(Retention(20), self.clock.seconds, tokens()), self.clock)
        self.site = SiteTokens(lambda: self.hub.time_ms() / 1000)
        self.hub.identities._token_keys = self.hub.users._token_keys = self.site.token_keys

    def admit(self, sub: str, lifetime: float = 60.0) -> Identity:
        return self.hub.identities.admit(self.site.verify(self.site.issue(sub, lifetime)))

    def begin(self, identity: Identity) -> Session:
        return Session(self.hub, FakeTransport(), identity)

    def test_found_by_client(self) -> None:
        """All open sessions of a client are found, whichever of them end first, and nobody else's."""
        ann, ben = self.admit("ann"), self.admit("ben")
        other = self.begin(ben)
        for order in permutations(range(3)):
            sessions = [self.begin(ann) for _ in order]
            self.hub.users.add(sessions[1], ann)  # as a renewal does
            for index in order:
                self.assertEqual({one for one in sessions if not one.closed}, {*self.hub.users.of(ann.client_hash)})
                self.assertEqual(sum(not one.closed for one in sessions), len(self.hub.users.of(ann.client_hash)))
                sessions[index].close()
            self.assertEqual([], self.hub.users.of(ann.client_hash))
        self.assertEqual([other], self.hub.users.of(ben.client_hash))

    def test_end_in_order(self) -> None:
        """Each session ends with its own time, though it began while another one that ends later was open."""
        ends = (40.0, 20.0, 30.0, 20.0, 50.0)
        sessions = [self.begin(self.admit("ann", lifetime)) for lifetime in ends]
        for second in range(1, 60):
            self.clock.pump([0.25] * 4)
            if second % 10 > 1:
                self.assertEqual([second > end for end in ends], [session.closed for session in sessions], second)

    def test_begins_again(self) -> None:
        """After nobody was there for a while, the next session ends with its time, too."""
        for lifetime in (30.0, 10.0, 40.0):
            self.begin(self.admit("ann", 5.0)).close()
            self.clock.pump([0.25] * 8)
            self.assertEqual(0, len(self.hub.wheel))
            session = self.begin(self.admit("ann", lifetime))
            self.clock.pump([0.25] * round(lifetime * 4 - 1))
            self.assertFalse(session.closed)
            self.clock.pump([0.25] * 5)
            self.assertTrue(session.closed)
            self.clock.pump([0.25] * 8)

    def test_key_is_gone(self) -> None:
        """When a key is gone, all sessions of its clients end."""
        ann = self.admit("ann")
        sessions = [self.begin(ann), self.begin(ann), self.begin(self.admit("ben"))]
        self.clock.pump([0.25] * 8)
        self.site.keys = frozenset()
        self.clock.pump([0.25] * 5)
        self.assertEqual([True] * 3, [session.closed for session in sessions])
