"""Tests for :mod:`realtime_chat.broker.local`."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from realtime_chat.broker.local import LocalBroker
from tests.contracts import BrokerContract


class LocalBrokerTests(BrokerContract, TestCase):
    """A node that is alone keeps the contract."""

    async def build_broker(self) -> LocalBroker:
        return LocalBroker()
