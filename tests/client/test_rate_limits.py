"""What a chat does where a client may go on only so fast: it waits, and loses nothing."""

from __future__ import annotations

import os
import time
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from realtime_chat.broker.local import LocalBroker
from realtime_chat.composition import make_service
from realtime_chat.service import Configuration, RealtimeService
from realtime_chat.values.limits import Limits
from realtime_chat.values.rates import Rate, RateLimits, ScopeLimits
from tests.client.served import ChatTestCase

_LIMITS = ScopeLimits(publishes=Rate(40, 15), joins=Rate(4, 1), commands=Rate(200, 100), connects=Rate(2, 2))


class LimitContract:
    """What holds for a chat on each transport."""

    def make_service(self: Any) -> RealtimeService:
        limits = Limits(history=self.history, **self.limits)
        configuration = Configuration((self.listen,), limits=limits, rate_limits=RateLimits(client=_LIMITS))
        return make_service(reactor, self.store, LocalBroker(), configuration, time.time, os.urandom)

    async def test_publishes(self: Any) -> None:
        """Messages beyond the limit are stored later, each once and in order."""
        chat = await self.chat()
        room = await chat.join("lobby")
        positions = await gatherResults([room.publish(number) for number in range(60)])
        self.assertEqual(list(range(1, 61)), [position.offset for position in positions])
        self.assertEqual(list(range(60)), await self.data(room, 60))
        self.assertLessEqual(1, self.service.hub.counters.limited["client", "publishes"])
        self.assert_never_lost(chat)

    async def test_joins(self: Any) -> None:
        """Rooms beyond the limit are joined later."""
        chat = await self.chat()
        rooms = await gatherResults([Deferred.fromCoroutine(chat.join(f"r{number}")) for number in range(4)])
        for number, room in enumerate(rooms):
            await room.publish(number)
            self.assertEqual([number], await self.data(room, 1))

    async def test_history(self: Any) -> None:
        """What is read beyond the limit is read later."""
        chat = await self.chat()
        room = await chat.join("lobby")
        await room.publish("here")
        pages = await gatherResults([Deferred.fromCoroutine(room.history(limit=1)) for _ in range(6)])
        self.assertEqual({("here",)}, {tuple(message.data for message in page.messages) for page in pages})
        self.assertLessEqual(1, self.service.hub.counters.limited["client", "joins"])


class WebSocketLimitTests(LimitContract, ChatTestCase):
    """By WebSocket."""

    transports = ("websocket",)


class PollLimitTests(LimitContract, ChatTestCase):
    """By long poll."""

    transports = ("poll",)


class SSELimitTests(LimitContract, ChatTestCase):
    """By event stream."""

    transports = ("sse",)
