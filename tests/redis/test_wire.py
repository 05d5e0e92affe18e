"""Tests for :mod:`realtime_chat.redis.wire`, on a clock and a transport that the test holds."""

from __future__ import annotations

from twisted.internet.error import ConnectionAborted
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.redis.wire import RedisProtocol, Unanswered


class AbortTests(SynchronousTestCase):
    """Connections that can't be trusted any more are cut at once, and say why."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.protocol = RedisProtocol(self.clock, 5.0)
        self.wire = StringTransport()
        self.wire.protocol = self.protocol
        self.protocol.makeConnection(self.wire)

    def assert_aborted(self, why: str) -> None:
        self.assertEqual((why, True, False), (self.protocol.aborted, self.wire.disconnected, self.protocol.open))

    def test_unasked(self) -> None:
        """One that answers what nobody asked is cut: its later answers would go to the wrong commands."""
        self.protocol.dataReceived(b"+OK\r\n")
        self.assert_aborted("an answer that nobody asked for")

    def test_late(self) -> None:
        """One that is late is looked at once more a tenth later, and then cut. What waited may have run."""
        answer = self.protocol.command("PING")
        self.clock.advance(5.0)
        self.assertTrue(self.protocol.open)
        self.clock.advance(0.5)
        self.assert_aborted("no answer within 5 s")
        self.protocol.connectionLost(Failure(ConnectionAborted()))
        self.failureResultOf(answer, Unanswered)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_in_time(self) -> None:
        """One that is late once, and then answers, is used on; each command has its own deadline."""
        for late in (5.2, 4.9, 5.2):
            answer = self.protocol.command("PING")
            self.clock.pump([0.1] * round(late * 10))
            self.protocol.dataReceived(b"+PONG\r\n")
            self.assertEqual(b"PONG", self.successResultOf(answer))
        self.assertTrue(self.protocol.open)
