"""What happened so far, as plain numbers; ``http/metrics.py`` tells Prometheus of them.

Counting is an addition to an attribute, once a batch where that can be, and never by room or user.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

__all__ = ["LATENCIES", "SIZES", "Counters", "Histogram"]

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""The upper bounds of the buckets for how many there are of something."""

LATENCIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""The upper bounds of the buckets for latencies, in seconds."""


class Histogram:
    """How often values fell into each of some buckets.

    :param bounds: ascending upper bounds; one more bucket takes what is above the last.
    """

    __slots__ = ("bounds", "buckets", "total")

    def __init__(self, bounds: Sequence[float] = LATENCIES) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, or the same one several times."""
        self.buckets[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def cumulative(self) -> list[tuple[str, float]]:
        """Each bound with how many values were at or below it, as Prometheus wants it."""
        names = [*map(str, self.bounds), "+Inf"]
        sums = [float(sum(self.buckets[: index + 1])) for index in range(len(names))]
        return list(zip(names, sums, strict=True))


class Counters:
    """The numbers of one process.

    :ivar published: messages stored.
    :ivar duplicates: publishes that were answered with the position of an earlier one.
    :ivar delivered: messages handed to a transport, by its name.
    :ivar publish_errors: refused publishes, by error code.
    :ivar publish_seconds: from a publish to its answer.
    :ivar lag_seconds: from a message's announcement to its being sent to those who are live, by delivery.
    :ivar resumes: readers who came with a position, by whether that could be recovered.
    :ivar goodbyes: by reason.
    :ivar reads: pages of a log that were read from the store for readers.
    :ivar rooms_refused: rooms that were asked for and not taken in, as there were too many.
    :ivar presence: events about who is in a room, handed to a transport.
    :ivar signals: signals that clients sent.
    :ivar signals_delivered: signals handed to a transport.
    :ivar signals_dropped: signals not brought to a reader, who was behind.
    :ivar relayed: what other programs published for rooms that are read here, and was signalled there.
    :ivar relays_refused: the same where it couldn't be.
    """

    __slots__ = (
        "delivered",
        "duplicates",
        "goodbyes",
        "lag_seconds",
        "presence",
        "publish_errors",
        "publish_seconds",
        "published",
        "reads",
        "relayed",
        "relays_refused",
        "resumes",
        "rooms_refused",
        "signals",
        "signals_delivered",
        "signals_dropped",
    )

    def __init__(self) -> None:
        self.published = 0
        self.duplicates = 0
        self.delivered: Counter[str] = Counter()
        self.publish_errors: Counter[str] = Counter()
        self.publish_seconds = Histogram()
        self.lag_seconds = Histogram()
        self.resumes: Counter[bool] = Counter()
        self.goodbyes: Counter[str] = Counter()
        self.reads = 0
        self.rooms_refused = 0
        self.presence = 0
        self.signals = 0
        self.signals_delivered = 0
        self.signals_dropped = 0
        self.relayed = 0
        self.relays_refused = 0
