"""What the tables of :mod:`realtime_chat.core.rate_limiter` take of the memory if everybody is new."""

from __future__ import annotations

import tracemalloc

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.identity import Identity
from realtime_chat.core.node import Node
from realtime_chat.core.quota import Quota
from realtime_chat.core.rate_limiter import RateLimiter
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import User
from realtime_chat.values.rates import COMMANDS, DEFAULTS, GUESTS
from tests.soak import SOAK

_GUESTS = 100_000 if SOAK else 10_000
_MOST = 100_000
_MOST_BYTES = 1024
"""Of one usage, with its place in the tables."""


class GrowthTests(SynchronousTestCase):
    """Guests come, each from an address of its own, and none comes back: a hundred thousand with ``SOAK=1``."""

    def test_bounded(self) -> None:
        """The tables hold a hundred thousand entries at most, each is small, and they are empty two minutes later."""
        clock = Clock()
        clock.advance(1000)
        limiter = RateLimiter(Node("n", clock, clock.seconds, Limits()), DEFAULTS)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for number in range(_GUESTS):
            identity = Identity(f"client-{number}", f"{number}", User(f"~{number}", "guest"))
            quota = Quota(limiter, identity, f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::/64", is_held=False)
            quota.take_all(((COMMANDS, 1.0), (GUESTS, 1.0)))
        self.assertLessEqual(len(limiter), _MOST)
        self.assertLess(tracemalloc.get_traced_memory()[0], len(limiter) * _MOST_BYTES)
        clock.pump([0.25] * 480)
        self.assertEqual((0, []), (len(limiter), clock.getDelayedCalls()))
