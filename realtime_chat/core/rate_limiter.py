"""How much each client, user and address uses of what they are limited in.

A :class:`Usage` has one token bucket for each kind of use. What one session draws from is a
:class:`~realtime_chat.core.quota.Quota`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from realtime_chat.core.identity import Identity
from realtime_chat.core.node import Node
from realtime_chat.values.errors import RateLimited, RealtimeError
from realtime_chat.values.limits import NEVER
from realtime_chat.values.rate_messages import explain
from realtime_chat.values.rates import (
    ADDRESS,
    CLIENT,
    COMMANDS,
    CONNECTS,
    GUESTS,
    JOINS,
    KINDS,
    ROUNDING,
    SCOPES,
    SIGNALS,
    USER,
    Rate,
    RateLimits,
    Scope,
    TokenBucket,
)

_OPEN = {"connections": "connections", "polls": "polls that wait"}
"""What an address may have only so many of at once, and the words for it."""

_AFTER_TOO_MANY = 5.0  # seconds; nobody knows when one is closed

LONGEST_PAUSE = 1.0
"""Seconds for which a refused connection isn't read, at most: pings and a close have to be read, too."""

_STRIKES = Rate(20, 100)
"""How many requests of an address may be refused before its new connections have to wait. It is full within a sweep."""

_SWEEP = 5.0
"""Seconds after which usages that nobody holds are looked at."""
_SWEEP_SOON = 0.25
_SWEEP_AT_ONCE = 500
_MOST_IDLE = 100_000
"""Usages that are kept though nobody holds them; each takes some 300 bytes."""
_MOST_ROOMS = 10_000

Costs = tuple[tuple[int, float], ...]
"""Kinds, and how many tokens of each."""

ONE_COMMAND: Costs = ((COMMANDS, 1.0),)
ONE_READ: Costs = ((COMMANDS, 1.0), (JOINS, 1.0))
"""What it costs to read a page of the store."""
ONE_SIGNAL: Costs = ((SIGNALS, 1.0),)
ONE_GUEST: Costs = ((GUESTS, 1.0),)
ONE_CONNECT: Costs = ((CONNECTS, 1.0),)


class Usage:
    """What one client, one user or one address has used: for each kind the time at which its bucket is full again.

    :ivar key: what it is found by.
    :ivar holders: how many sessions and requests hold it.
    :ivar connections: how many connections are open. Only addresses have that, and ``polls``.
    :ivar polls: how many polls wait.
    :ivar strikes: how many more of an address's requests may be refused; None before the first.
    """

    __slots__ = ("connections", "full_at", "holders", "key", "polls", "scope", "strikes")

    def __init__(self, key: str, scope: Scope) -> None:
        self.key = key
        self.scope = scope
        self.full_at = [NEVER] * len(KINDS)
        self.holders = 0
        self.connections = 0
        self.polls = 0
        self.strikes: TokenBucket | None = None

    def is_full(self, now: float) -> bool:
        """Whether all buckets are full, as those of a new usage are."""
        return max(self.full_at) <= now

    def wait(self, kind: int, tokens: float, now: float) -> float:
        """Seconds until there are so many tokens. A debt is at most what the bucket holds."""
        cost, depth = self.scope.cost(kind, tokens), self.scope.buckets[kind][1]
        self.full_at[kind] = min(self.full_at[kind], now + 2 * depth)
        return max(self.full_at[kind], now) + cost - depth - now

    def give_back(self, kind: int, tokens: float) -> None:
        """Give back what was taken a moment ago."""
        self.full_at[kind] -= self.scope.cost(kind, tokens)


class RateLimiter:
    """The usages of all clients, users and addresses of this node.

    One that nobody holds is forgotten once its buckets are full again.

    :ivar rooms_made: the rooms that were made last through this node.
    """

    def __init__(self, node: Node, limits: RateLimits) -> None:
        self.seconds = node.clock.seconds
        self.limits = limits
        self._wheel = node.wheel
        self._limited = node.counters.limited
        self._scopes = tuple([Scope(name, getattr(limits, name)) for name in (CLIENT, USER, ADDRESS)])
        self._of_client, self._of_user, self._of_address = self._scopes
        self._usages: dict[str, dict[str, Usage]] = {name: {} for name in SCOPES}
        self._clients, self._users, self._addresses, self._rooms = self._usages.values()
        self._idle: dict[Usage, None] = {}  # those that nobody holds
        self._is_sweeping = False
        self.rooms_made: dict[str, None] = {}

    def __len__(self) -> int:
        return sum(map(len, self._usages.values()))

    def replace(self, limits: RateLimits) -> None:
        """Go on with other limits. What was used counts on."""
        self.limits = limits
        for scope in self._scopes:
            scope.replace(getattr(limits, scope.name))

    # Usages

    def client(self, client_hash: str) -> Usage:
        """The usage of a client.

        :param client_hash: its hash; empty for one that hasn't said who it is, and has a usage of its own.
        """
        if not client_hash:
            return Usage("", self._of_client)
        return self._clients.get(client_hash) or self._add(self._clients, client_hash, self._of_client)

    def user(self, id: str) -> Usage:
        """The usage of a user with a token."""
        return self._users.get(id) or self._add(self._users, id, self._of_user)

    def address(self, key: str) -> Usage:
        """The usage of an address."""
        return self._addresses.get(key) or self._add(self._addresses, key, self._of_address)

    def usages(self, identity: Identity, address: str | None) -> tuple[Usage, ...]:
        """The usages that a request draws from: of its client, its user and its address, where these have a rate."""
        found: tuple[Usage, ...] = ()
        if address is not None and self._of_address.has_rates:
            found = (self.address(address),)
        if identity.expires is not None and self._of_user.has_rates:
            found = (self.user(identity.user.id), *found)
        if identity.client_hash and self._of_client.has_rates:
            found = (self.client(identity.client_hash), *found)
        return found

    def in_room(self, sender: str, room: str, scope: Scope) -> Usage:
        """The usage of a sender in a room.

        :param scope: the rates that a rule of the site has for the room.
        """
        key = f"{room} {sender}"
        usage = self._rooms.get(key) or self._add(self._rooms, key, scope)
        usage.scope = scope
        return usage

    def _add(self, usages: dict[str, Usage], key: str, scope: Scope) -> Usage:
        usage = usages[key] = Usage(key, scope)
        self._set_idle(usage)
        return usage

    def name(self, usage: Usage, client_hash: str) -> Usage:
        """A client that had a usage of its own has said who it is. Give back the usage that it has from now on."""
        known = self._clients.get(client_hash)
        if known is not None:
            return known
        usage.key = client_hash
        self._clients[client_hash] = usage
        return usage

    def hold(self, usage: Usage) -> None:
        """Keep a usage until :meth:`release`, though it may be full meanwhile."""
        if not usage.holders:
            self._idle.pop(usage, None)
        usage.holders += 1

    def release(self, usage: Usage) -> None:
        """End what :meth:`hold` began."""
        usage.holders -= 1
        if not usage.holders and usage.key:
            self._set_idle(usage)

    def open(self, address: str, kind: str) -> Usage:
        """Count what an address opens, and hold its usage, until :meth:`close`.

        :param kind: ``connections`` or ``polls``.
        """
        usage = self.address(address)
        self.hold(usage)
        setattr(usage, kind, getattr(usage, kind) + 1)
        return usage

    def admit(self, address: str, kind: str) -> Usage:
        """Count what an address opens, as :meth:`open` does, if it may have one more.

        :raises RealtimeError: ``too_many``; nothing is counted then.
        """
        usage = self.open(address, kind)
        if self.excess(usage, kind) <= 0:
            return usage
        self.close(usage, kind)
        raise self.too_many(kind)

    def close(self, usage: Usage, kind: str) -> None:
        """End what :meth:`open` or :meth:`admit` began."""
        setattr(usage, kind, getattr(usage, kind) - 1)
        self.release(usage)

    def excess(self, usage: Usage, kind: str) -> int:
        """How many more an address has open than it may; 0 or less if it may."""
        most: int | None = getattr(self.limits.address, kind)
        return 0 if most is None else getattr(usage, kind) - most

    def too_many(self, kind: str) -> RealtimeError:
        """Count that an address has too many open, and make the error that says so."""
        self._limited[ADDRESS, kind] += 1
        allowed = f"{getattr(self.limits.address, kind)} {_OPEN[kind]} (--address-{kind})"
        message = f"an address may have {allowed}; close some, or come back in a while"
        return RealtimeError("too_many", message, after=_AFTER_TOO_MANY)

    def _set_idle(self, usage: Usage) -> None:
        self._idle[usage] = None
        if not self._is_sweeping:
            self._is_sweeping = True
            self._wheel.call_later(_SWEEP, self._sweep)
        if len(self._idle) > _MOST_IDLE:
            self._forget_oldest()

    def _sweep(self) -> None:
        """Forget some of those that are full again."""
        now = self.seconds()
        for usage in list(islice(self._idle, _SWEEP_AT_ONCE)):
            del self._idle[usage]
            if usage.is_full(now):
                self._forget(usage)
            else:
                self._idle[usage] = None
        self._is_sweeping = bool(self._idle)
        if self._idle:
            self._wheel.call_later(_SWEEP_SOON if len(self._idle) > _SWEEP_AT_ONCE else _SWEEP, self._sweep)

    def _forget_oldest(self) -> None:
        """Forget one that nobody holds: the first full one among the oldest, or else the oldest."""
        now = self.seconds()
        oldest = list(islice(self._idle, 8))
        usage = next((usage for usage in oldest if usage.is_full(now)), oldest[0])
        del self._idle[usage]
        self._forget(usage)

    def _forget(self, usage: Usage) -> None:
        del self._usages[usage.scope.name][usage.key]

    def room_made(self, room: str) -> None:
        """A room was made through this node: it exists, though it may not be in memory."""
        self.rooms_made[room] = None
        if len(self.rooms_made) > _MOST_ROOMS:
            del self.rooms_made[next(iter(self.rooms_made))]

    # Taking

    def draw(self, identity: Identity, address: str | None, costs: Costs) -> None:
        """Take what a request costs from its client, its user and its address.

        :raises RateLimited: nothing is taken then.
        """
        self.take(self.usages(identity, address), costs)

    def take(self, usages: Iterable[Usage], costs: Costs) -> None:
        """Take tokens of several kinds, from all usages or from none.

        :raises RateLimited: nothing is taken then.
        """
        now = self.seconds()
        latest = now + ROUNDING
        for usage in usages:
            full_at, buckets = usage.full_at, usage.scope.buckets
            for kind, tokens in costs:
                interval, depth = buckets[kind]
                at, cost = full_at[kind], tokens * interval
                full_at[kind] = at = (at if at > now else now) + (cost if cost < depth else depth)
                if at - depth > latest:
                    raise self.refuse(usages, costs, now, (usage, kind))

    def refuse(self, usages: Iterable[Usage], costs: Costs, now: float, last: tuple[Usage, int]) -> RateLimited:
        """Give back what was taken up to the last bucket, which had not enough, and say for how long to wait."""
        taken = [(usage, kind, tokens) for usage in usages for kind, tokens in costs]
        count = next(index for index, (usage, kind, _) in enumerate(taken) if (usage, kind) == last) + 1
        for usage, kind, tokens in taken[:count]:
            usage.give_back(kind, tokens)
        waits = [(usage.wait(kind, tokens, now), usage.scope, kind) for usage, kind, tokens in taken]
        after, scope, kind = max(waits, key=lambda wait: wait[0])
        return self._refusal(scope, kind, after)

    def _refusal(self, scope: Scope, kind: int, after: float) -> RateLimited:
        """Count that a limit was reached, and make the error that says so.

        :param after: seconds after which there is enough again.
        """
        self._limited[scope.name, KINDS[kind]] += 1
        return RateLimited(explain(scope, kind), after)

    def call_after(self, after: float, call: Callable[[], object]) -> None:
        """Call ``call()``, which reads a refused connection again, after that time, or :data:`LONGEST_PAUSE`."""
        self._wheel.call_later(min(after, LONGEST_PAUSE - self._wheel.lateness), call)

    def strike(self, address: Usage) -> None:
        """Count that a request from an address was refused."""
        if address.strikes is None:
            address.strikes = TokenBucket()
        address.strikes.take(self.seconds(), _STRIKES)

    def is_flooding(self, address: Usage) -> bool:
        """Whether so many requests from an address were refused lately that its new connections have to wait."""
        return address.strikes is not None and address.strikes.wait(self.seconds(), _STRIKES) > 0
