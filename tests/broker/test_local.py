"""Tests for :mod:`realtime_chat.broker.local`."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from realtime_chat.broker.local import LocalBroker
from tests.contracts import BrokerContract
from tests.core.world import World


class LocalBrokerTests(BrokerContract, TestCase):
    """A node that is alone keeps the contract."""

    async def build_broker(self) -> LocalBroker:
        return LocalBroker()


class AloneTests(World):
    """A node on it."""

    def test_alone(self) -> None:
        """A client that has gone is a member no longer than the limits say, as no other node has to be heard."""
        session, _ = self.joined()
        session.close()
        limits, wheel = self.hub.limits, self.hub.wheel
        self.clock.pump([0.01] * int(100 * (limits.leave_delay + wheel.lateness) + 1))
        self.assertEqual(0, self.hub.presence.count("lobby"))
