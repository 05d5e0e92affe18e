"""Tests for :mod:`realtime_chat.broker.subscriptions`."""

from __future__ import annotations

import gc
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.broker.subscriptions import ChannelSubscriptions
from realtime_chat.redis.wire import Argument
from realtime_chat.values.errors import StoreError
from tests.fakes import new_objects_alone


class LostConnection:
    """A connection to Redis that is gone."""

    def command(self, *words: Argument) -> Deferred[Any]:
        return fail(StoreError("it is gone"))


class SubscriptionsTests(SynchronousTestCase):
    """Groups of channels."""

    def test_all_fail(self) -> None:
        """If the connection is lost under many channels, one error is told, none is logged, and none is subscribed."""
        subscriptions = ChannelSubscriptions({}, {})
        channels = {f"channel {number}": lambda *_: None for number in range(3)}
        with new_objects_alone():
            adding = Deferred.fromCoroutine(subscriptions.add(LostConnection(), "lobby", channels))
            self.failureResultOf(adding, StoreError)
            del adding
            gc.collect()
        self.assertEqual(([], 0), (self.flushLoggedErrors(), len(subscriptions)))
