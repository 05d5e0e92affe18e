"""Counters of one process, as plain numbers. ``http/monitoring.py`` gives them to Prometheus.

To count is to add to an attribute, once a batch if possible. No counter is kept by room or by user.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

import attrs

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""The upper bounds of the buckets for sizes."""

LATENCIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""The upper bounds of the buckets for latencies, in seconds."""


class Histogram:
    """How many values fell into each bucket.

    :param bounds: ascending upper bounds. One more bucket counts the values above the last bound.
    """

    __slots__ = ("bounds", "buckets", "total")

    def __init__(self, bounds: Sequence[float] = LATENCIES) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, once or several times."""
        self.buckets[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def cumulative(self) -> list[tuple[str, float]]:
        """Each bound with the number of values at or below it, as Prometheus expects."""
        names = [*map(str, self.bounds), "+Inf"]
        sums = [float(sum(self.buckets[: index + 1])) for index in range(len(names))]
        return list(zip(names, sums, strict=True))


@attrs.define(eq=False)
class Counters:
    """The numbers of one process.

    :ivar published: messages stored.
    :ivar duplicates: publishes that were answered with the position of an earlier publish.
    :ivar delivered: messages handed to transports, by the transport's name.
    :ivar publish_errors: refused publishes, by error code.
    :ivar publish_seconds: from a publish to its answer.
    :ivar lag_seconds: from a message's announcement until it is sent to the live readers.
    :ivar resumes: joins with a position, by whether the log still held everything after it.
    :ivar goodbyes: by reason.
    :ivar limited: what was refused as ``rate_limited``, by whose limit it was and what it limits.
    :ivar reads: pages that were read from the store for readers.
    :ivar rooms_refused: rooms that were refused, as too many were in memory.
    :ivar presence: presence events handed to transports.
    :ivar signals: signals that clients sent.
    :ivar signals_delivered: signals handed to transports.
    :ivar signals_dropped: signals that were not sent, as the reader was behind.
    :ivar relayed: signals that other programs published in Redis, and that were sent in rooms of this node.
    :ivar relays_refused: the same, but refused.
    :ivar engineio_connections: open Engine.IO connections, by transport and version.
    :ivar engineio_closed: Engine.IO connections that were closed, by reason.
    :ivar engineio_refused: requests that Engine.IO has refused, by its code.
    :ivar engineio_upgrades: attempts to go on over a WebSocket, by outcome.
    """

    published: int = 0
    duplicates: int = 0
    delivered: Counter[str] = attrs.Factory(Counter)
    publish_errors: Counter[str] = attrs.Factory(Counter)
    publish_seconds: Histogram = attrs.Factory(Histogram)
    lag_seconds: Histogram = attrs.Factory(Histogram)
    resumes: Counter[bool] = attrs.Factory(Counter)
    goodbyes: Counter[str] = attrs.Factory(Counter)
    limited: Counter[tuple[str, str]] = attrs.Factory(Counter)
    reads: int = 0
    rooms_refused: int = 0
    presence: int = 0
    signals: int = 0
    signals_delivered: int = 0
    signals_dropped: int = 0
    relayed: int = 0
    relays_refused: int = 0
    engineio_connections: Counter[tuple[str, str]] = attrs.Factory(Counter)
    engineio_closed: Counter[str] = attrs.Factory(Counter)
    engineio_refused: Counter[str] = attrs.Factory(Counter)
    engineio_upgrades: Counter[str] = attrs.Factory(Counter)
