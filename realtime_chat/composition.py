"""The parts of one daemon, built and given to each other."""

from __future__ import annotations

from collections.abc import Callable

from realtime_chat.core.catch_up import CatchUpScheduler
from realtime_chat.core.flush import FlushQueue
from realtime_chat.core.history import History
from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import Identities
from realtime_chat.core.interfaces import IBroker, IMessageStore, TurnClock
from realtime_chat.core.publishing import Publisher
from realtime_chat.core.room_cache import RoomCache
from realtime_chat.core.wheel import Wheel
from realtime_chat.presence.presence import Presence
from realtime_chat.values.counters import Counters
from realtime_chat.values.limits import Limits

__all__ = ["make_hub"]


def make_hub(
    store: IMessageStore,
    clock: TurnClock,
    limits: Limits,
    time: Callable[[], float],
    random_bytes: Callable[[int], bytes],
    broker: IBroker,
) -> Hub:
    """Build a hub, and what it is made of. The hub listens to nothing before the broker is started.

    :param time: seconds since 1970; orders nothing.
    :param random_bytes: so many random bytes.
    """

    def now() -> int:
        return int(time() * 1000)

    wheel, counters = Wheel(clock), Counters()
    identities = Identities(lambda: store.secret, random_bytes)
    node = clock, wheel, limits, counters, random_bytes(4).hex()
    presence = Presence(*node, broker, identities.client_hash, now)
    catch_ups = CatchUpScheduler(clock, wheel, limits)
    flush_queue = FlushQueue(clock)
    cache = RoomCache(store, broker, limits, clock, wheel, time, counters, catch_ups, flush_queue, presence)
    publisher = Publisher(store, clock, limits, counters, cache.announce)
    history = History(store, limits, cache.rooms)
    return Hub(
        store,
        broker,
        limits,
        clock,
        wheel,
        now,
        counters,
        identities,
        presence,
        cache,
        catch_ups,
        flush_queue,
        publisher,
        history,
    )
