"""How fast somebody may go on: rates, token buckets, and the limits of a client, a user and an address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType

import attrs

from realtime_chat.values.limits import NEVER

KINDS = ("commands", "publishes", "bytes", "signals", "states", "joins", "connects", "guests", "rooms")
"""What is counted in buckets."""

COMMANDS, PUBLISHES, BYTES, SIGNALS, STATES, JOINS, CONNECTS, GUESTS, ROOMS = range(len(KINDS))

CLIENT, USER, ADDRESS, ROOM = SCOPES = ("client", "user", "address", "room")
"""Whose use is counted; ``room`` is one client in one room, which a rule of the site limits."""

_BY_ALL = tuple(kind for kind in KINDS if kind != "guests")
LIMITED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        CLIENT: _BY_ALL,
        USER: _BY_ALL,
        ADDRESS: (*(kind for kind in KINDS if kind != "states"), "connections", "polls"),
        ROOM: ("publishes", "signals"),
    }
)
"""What is limited for each scope."""

_TEXT = re.compile(
    r"(?P<count>[1-9][0-9]{0,8})(?P<size>[kKmM]?)(?:/(?P<unit>[smh]))?"
    r"(?:\+(?P<burst>[1-9][0-9]{0,8})(?P<burst_size>[kKmM]?))?"
)
_UNITS = ("second", "minute", "hour")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_SIZES = {"": 1, "k": 1024, "m": 1024**2}
ROUNDING = 1e-6
"""Seconds that a token may come early, as sums of floats are not exact."""


def _positive(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{attribute.name} is {value}; right would be a number above 0")


@attrs.frozen
class Rate:
    """How many tokens a bucket gets, and how many it holds.

    :ivar per_second: tokens that are added each second.
    :ivar burst: tokens that a full bucket holds.
    :ivar interval: seconds that one token takes.
    :ivar depth: seconds in which an empty bucket becomes full.
    """

    per_second: float = attrs.field(validator=_positive)
    burst: float = attrs.field(validator=_positive)
    interval: float = attrs.field(init=False, eq=False, repr=False)
    depth: float = attrs.field(init=False, eq=False, repr=False)

    @interval.default
    def _interval(self) -> float:
        return 1 / self.per_second if self.per_second else 0.0

    @depth.default
    def _depth(self) -> float:
        return self.burst * self.interval

    @classmethod
    def parse(cls, text: str, in_bytes: bool = False) -> Rate:
        """Parse ``COUNT[/s|/m|/h][+BURST]``, such as ``20``, ``100/m`` or ``10/s+200``.

        Without a unit the count is one of a second. Without ``+BURST`` a bucket holds what two seconds bring, and at
        least one token.

        :param in_bytes: whether the counts are bytes, perhaps with a unit: ``512k/s+8m``.
        :raises ValueError: it is something else; the message says what would be right.
        """
        match = _TEXT.fullmatch(text)
        if match is None or not (in_bytes or not (match["size"] or match["burst_size"])):
            right = "512k/s+8m" if in_bytes else "10/s+200"
            raise ValueError(
                f"{text[:40]!a} is no rate; right would be COUNT, COUNT/s, COUNT/m or COUNT/h, and perhaps +BURST, "
                f"such as {right}; or 0 for no limit"
            )
        per_second = _count(match["count"], match["size"]) / _SECONDS[match["unit"] or "s"]
        burst = _count(match["burst"], match["burst_size"]) if match["burst"] else max(1.0, 2 * per_second)
        return cls(per_second, burst)

    @property
    def count(self) -> str:
        """How many tokens are added in each :attr:`unit`."""
        return f"{self.per_second * _SECONDS[self.unit[0]]:.10g}"

    @property
    def unit(self) -> str:
        """The shortest unit of time in which a whole number of tokens is added: second, minute or hour."""
        return next((unit for unit in _UNITS if _is_whole(self.per_second * _SECONDS[unit[0]])), _UNITS[0])

    def text(self, in_bytes: bool = False) -> str:
        """The rate as :meth:`parse` takes it."""
        count, burst = self.per_second * _SECONDS[self.unit[0]], self.burst
        shown = (_size_text(count), _size_text(burst)) if in_bytes else (f"{count:.10g}", f"{burst:.10g}")
        return f"{shown[0]}/{self.unit[0]}+{shown[1]}"


def _size_text(count: float) -> str:
    unit = next((unit for unit in ("m", "k") if count >= _SIZES[unit] and count % _SIZES[unit] == 0), "")
    return f"{count / _SIZES[unit]:.10g}{unit}"


def _is_whole(count: float) -> bool:
    return abs(count - round(count)) < 1e-6


def _count(digits: str, unit: str) -> int:
    return int(digits) * _SIZES[unit.lower()]


class TokenBucket:
    """A rate limit, full at first.

    It is one number, the time at which the bucket will be full: the generic cell rate algorithm (ATM Forum, Traffic
    Management 4.1).
    """

    __slots__ = ("full_at",)

    def __init__(self) -> None:
        self.full_at = NEVER

    def take(self, now: float, rate: Rate, tokens: float = 1.0) -> float:
        """Take tokens, if there are enough. A full bucket always has enough.

        :param now: seconds that only grow.
        :param tokens: how many to take; more than the bucket holds count as that.
        :returns: 0 if they were taken, else the seconds until there are enough.
        """
        wait = self.wait(now, rate, tokens)
        if not wait:
            self.full_at = max(self.full_at, now) + min(tokens * rate.interval, rate.depth)
        return wait

    def wait(self, now: float, rate: Rate, tokens: float = 1.0) -> float:
        """Return the seconds until there are enough tokens; 0 if there are."""
        wait = max(self.full_at, now) + min(tokens * rate.interval, rate.depth) - now - rate.depth
        return wait if wait > ROUNDING else 0.0


@attrs.frozen
class ScopeLimits:
    """What one client, one user or one address may do. None is no limit.

    :ivar commands: commands on any transport, and requests that are as much as a command.
    :ivar publishes: messages that are published.
    :ivar bytes: bytes of their data.
    :ivar signals: signals; and, counted by itself, to how many rooms a state is told.
    :ivar joins: rooms whose reading begins.
    :ivar connects: connections that begin.
    :ivar guests: guests who are new.
    :ivar rooms: rooms that are made.
    :ivar connections: connections that are open.
    :ivar polls: polls that wait.
    """

    commands: Rate | None = None
    publishes: Rate | None = None
    bytes: Rate | None = None
    signals: Rate | None = None
    joins: Rate | None = None
    connects: Rate | None = None
    guests: Rate | None = None
    rooms: Rate | None = None
    connections: int | None = None
    polls: int | None = None


@attrs.frozen
class RateLimits:
    """The limits of each client, of each user over all of its clients, and of each address."""

    client: ScopeLimits = ScopeLimits()
    user: ScopeLimits = ScopeLimits()
    address: ScopeLimits = ScopeLimits()


def _default(times: int, **others: Rate | int) -> ScopeLimits:
    """The limits of a client, some times over, and others."""
    limits: dict[str, Rate | int] = {
        "commands": Rate(times * 200, times * 2000),
        "publishes": Rate(times * 100, times * 1000),
        "bytes": Rate(times * 512 * 1024, times * 8 * 1024**2),
        "signals": Rate(times * 30, times * 60),
        "joins": Rate(times * 100, times * 1000),
        "connects": Rate(times * 5, times * 100),
        "rooms": Rate(times, times * 100),
    }
    return ScopeLimits(**{**limits, **others})  # type: ignore[arg-type]  # each has the type of its field


DEFAULTS = RateLimits(
    _default(1),
    _default(3),
    _default(
        10,
        commands=Rate(2000, 10_000),
        publishes=Rate(1000, 5000),
        bytes=Rate(5 * 1024**2, 40 * 1024**2),
        rooms=Rate(10, 500),
        signals=Rate(1000, 2000),
        connects=Rate(20, 3000),
        guests=Rate(1, 2000),
        connections=3000,
        polls=2000,
    ),
)
"""The limits of the daemon: a busy and honest user never meets them."""


class Scope:
    """The rates that all usages of one scope have, as numbers by kind.

    :ivar name: one of :data:`SCOPES`.
    :ivar limits: the limits as they are configured.
    :ivar buckets: for each kind the seconds that one token takes, and those in which an empty bucket becomes full;
        without a limit 0 and infinity.
    :ivar has_rates: whether there is any limit of this kind.
    """

    __slots__ = ("buckets", "has_rates", "limits", "name", "publish_costs")

    def __init__(self, name: str, limits: ScopeLimits) -> None:
        self.name = name
        self.replace(limits)

    def replace(self, limits: ScopeLimits) -> None:
        """Go on with other limits."""
        self.limits = limits
        rates = [self.rate(kind) for kind in range(len(KINDS))]
        self.buckets = [(0.0, float("inf")) if rate is None else (rate.interval, rate.depth) for rate in rates]
        self.has_rates = any(rate is not None for rate in rates)
        self.publish_costs = tuple(chain.from_iterable(self.buckets[kind] for kind in (COMMANDS, PUBLISHES, BYTES)))

    def cost(self, kind: int, tokens: float) -> float:
        """The seconds that some tokens take."""
        interval, depth = self.buckets[kind]
        return min(tokens * interval, depth)

    def rate(self, kind: int) -> Rate | None:
        """The rate of a kind; None without a limit.

        An address has none for states: a whole school that comes to another node tells its states at once.
        """
        if kind == STATES and self.name == ADDRESS:
            return None
        rate: Rate | None = getattr(self.limits, "signals" if kind == STATES else KINDS[kind])
        return rate
