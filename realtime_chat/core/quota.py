"""What one session or request draws from: the usages of its client, of its user, and of its address.

It takes from all of them or from none.
"""

from __future__ import annotations

from realtime_chat.core.identity import NOBODY, Identity
from realtime_chat.core.rate_limiter import ONE_COMMAND, Costs, RateLimiter, Usage
from realtime_chat.values.model import AppendResult
from realtime_chat.values.rates import BYTES, COMMANDS, PUBLISHES, ROOMS, ROUNDING, Scope


class Quota:
    """What one session or one request draws from.

    :param identity: who it is; None if it hasn't said that. Nobody has no client's usage.
    :param address: the key of its address; None where addresses are not limited.
    :param is_held: whether the usages are held until :meth:`close`. A request that takes once needn't hold them.
    """

    __slots__ = ("_address", "_is_held", "_limiter", "_sender", "_usages")

    def __init__(
        self, limiter: RateLimiter, identity: Identity | None, address: str | None = None, is_held: bool = True
    ) -> None:
        self._limiter = limiter
        self._sender = ""
        self._address = address
        self._is_held = is_held
        if not is_held and identity is not None:
            self._sender = identity.client_hash
            self._usages = limiter.usages(identity, address)
            return
        self._usages = () if address is None else (limiter.address(address),)
        if identity is None:
            self._usages = (limiter.client(""), *self._usages)
        for usage in self._usages:
            self._hold(usage)
        if identity is not None:
            self.become(identity)

    def become(self, identity: Identity) -> None:
        """Belong to a client from now on. What was used before counts for it, if it is new."""
        client_hash = identity.client_hash
        if client_hash == self._sender or identity is NOBODY:
            return
        limiter, usages, before = self._limiter, self._usages, None
        if usages and not usages[0].key:
            before, usages = usages[0], usages[1:]
        mine = limiter.client(client_hash) if before is None else limiter.name(before, client_hash)
        if identity.expires is not None:
            usages = (limiter.user(identity.user.id), *usages)
            self._hold(usages[0])
        if mine is not before:
            self._hold(mine)
        self._usages = (mine, *usages)
        self._sender = client_hash

    def _hold(self, usage: Usage) -> None:
        if self._is_held:
            self._limiter.hold(usage)

    def close(self) -> None:
        """Draw no more, but for what was begun before."""
        for usage in self._usages if self._is_held else ():
            self._limiter.release(usage)

    # Taking

    def take(self, kind: int, tokens: float = 1.0) -> None:
        """Take tokens of one kind.

        :raises RateLimited: nothing is taken then.
        """
        self.take_all(((kind, tokens),))

    def take_command(self) -> None:
        """Take what a command costs.

        :raises RateLimited: nothing is taken then.
        """
        self.take_all(ONE_COMMAND)

    def give_back_command(self) -> None:
        """Give the address back what a command has cost, as the same command draws from it in another quota."""
        if self._address is not None:
            self._limiter.address(self._address).give_back(COMMANDS, 1.0)

    def take_publish(self, size: int, room: str = "", rule: Scope | None = None) -> None:
        """Take what a publish costs.

        :param size: bytes of the data.
        :param rule: the rates that a rule has for the room.
        :raises RateLimited: nothing is taken then.
        """
        usages = self._usages if rule is None else self._with_room(room, rule)
        now = self._limiter.seconds()
        latest = now + ROUNDING
        # As RateLimiter.take() does, but without a loop over kinds, as most commands are publishes.
        for usage in usages:
            full_at = usage.full_at
            commands, publishes, data = full_at[COMMANDS], full_at[PUBLISHES], full_at[BYTES]
            of_command, commands_most, of_publish, publishes_most, of_byte, data_most = usage.scope.publish_costs
            of_data = size * of_byte
            full_at[COMMANDS] = commands = (commands if commands > now else now) + of_command
            full_at[PUBLISHES] = publishes = (publishes if publishes > now else now) + of_publish
            full_at[BYTES] = data = (data if data > now else now) + (of_data if of_data < data_most else data_most)
            if commands - commands_most > latest or publishes - publishes_most > latest or data - data_most > latest:
                costs = ((COMMANDS, 1.0), (PUBLISHES, 1.0), (BYTES, size))
                raise self._limiter.refuse(usages, costs, now, (usage, BYTES))

    def take_all(self, costs: Costs, room: str = "", rule: Scope | None = None) -> None:
        """Take tokens of several kinds, from all usages or from none.

        :param costs: more than a bucket holds count as that.
        :param rule: the rates that a rule has for a room; they are for each client there.
        :raises RateLimited: nothing is taken then.
        """
        self._limiter.take(self._usages if rule is None else self._with_room(room, rule), costs)

    def _with_room(self, room: str, rule: Scope) -> tuple[Usage, ...]:
        return (*self._usages, self._limiter.in_room(self._sender or self._address or "", room, rule))

    # Whether a publish makes a room is known only once it is stored

    def check(self, kind: int) -> None:
        """Check that a token could be taken.

        :raises RateLimited: it couldn't.
        """
        self.take(kind)
        for usage in self._usages:
            usage.give_back(kind, 1.0)

    def charge(self, kind: int) -> None:
        """Take a token, even where there is none."""
        now = self._limiter.seconds()
        for usage in self._usages:
            usage.full_at[kind] = max(usage.full_at[kind], now) + usage.scope.cost(kind, 1.0)

    def on_stored(self, stored: AppendResult) -> None:
        """Charge for a room that a publish has made."""
        if stored.message.position.offset == 1 and not stored.duplicate:
            self.charge(ROOMS)
            self._limiter.room_made(stored.message.room)
