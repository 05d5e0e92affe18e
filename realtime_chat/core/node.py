"""What all parts of one node share: its name, its clocks, its limits and its counters."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IReactorTime

from realtime_chat.core.turns import FlushQueue
from realtime_chat.core.wheel import Wheel
from realtime_chat.values.counters import Counters
from realtime_chat.values.limits import Limits


@attrs.frozen
class Node:
    """One process of the daemon.

    :ivar name: no other node has it, and this one never had it before.
    :ivar clock: seconds that only grow, for durations, and calls in a later turn.
    :ivar time: seconds since 1970, for people; orders nothing.
    :ivar wheel: calls that may come a little late.
    :ivar flush_queue: what is sent at the end of the turn.
    """

    name: str
    clock: IReactorTime
    time: Callable[[], float]
    limits: Limits
    wheel: Wheel = attrs.Factory(lambda self: Wheel(self.clock), takes_self=True)
    flush_queue: FlushQueue = attrs.Factory(lambda self: FlushQueue(self.clock), takes_self=True)
    counters: Counters = attrs.Factory(Counters)

    def time_ms(self) -> int:
        """Milliseconds since 1970, as messages and events have them."""
        return int(self.time() * 1000)
