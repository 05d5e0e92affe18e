"""Tests for :mod:`realtime_chat.store.sessions`, beside the contract."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.interfaces import SESSION_SECONDS
from realtime_chat.store.sessions import MemorySessions


class MemorySessionsTests(SynchronousTestCase):
    """Records in memory."""

    def test_bounded(self) -> None:
        """Of too many disconnected sockets the oldest ones are forgotten, and no connected one."""
        clock = Clock()
        sessions = MemorySessions(clock.seconds, 3)
        for number in range(10):
            sessions.put(f"connected {number}", b"1", connected=True)
            sessions.put(f"away {number}", b"2", connected=False)
        found = [self.successResultOf(sessions.get(f"away {number}")) for number in range(10)]
        self.assertEqual([None] * 7 + [b"2"] * 3, found)
        self.assertEqual(b"1", self.successResultOf(sessions.get("connected 0")))
        clock.advance(SESSION_SECONDS + 1)
        self.successResultOf(sessions.get("away 9"))
        self.assertEqual({}, sessions._ended)
