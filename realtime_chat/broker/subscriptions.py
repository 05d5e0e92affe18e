"""The subscriptions of one connection to Redis: what is wanted is subscribed, again with each new connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.logger import Logger

from realtime_chat.redis.wire import Argument, Commands, ignore_store_error
from realtime_chat.values.errors import StoreError

__all__ = ["Hear", "Subscriptions"]

Hear = Callable[[bytes | None, bytes, bytes], None]
"""Is called with the pattern (None for a plain subscription), the channel and what was published."""

_AT_ONCE = 200
"""Commands that are under way at a time, so that none waits long for its answer, however many there are."""


class _Turns:
    """Lets only so many do something at a time; the others wait for their turn. However many have waited for one, and
    are done with it at once, they don't go deeper and deeper into each other."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._waiting: deque[Deferred[None]] = deque()
        self._giving = False

    def take(self) -> Deferred[None]:
        """Answers when it is one's turn."""
        turn: Deferred[None] = Deferred()
        self._waiting.append(turn)
        self._give()
        return turn

    def give_back(self) -> None:
        """The turn is over."""
        self._free += 1
        self._give()

    def _give(self) -> None:
        if self._giving:
            return
        self._giving = True
        while self._free and self._waiting:
            self._free -= 1
            self._waiting.popleft().callback(None)
        self._giving = False


class Subscriptions:
    """Which channels are heard, and by whom.

    :param always: what is heard as long as there is a connection, by channel.
    :param patterns: the same by pattern.
    """

    _log = Logger()

    def __init__(self, always: Mapping[str, Hear], patterns: Mapping[str, Hear]) -> None:
        self._always = dict(always)
        self._patterns = dict(patterns)
        self._groups: dict[str, Sequence[bytes]] = {}
        self._by_channel: dict[bytes, Hear] = {channel.encode(): hear for channel, hear in always.items()}
        self._by_pattern: dict[bytes, Hear] = {pattern.encode(): hear for pattern, hear in patterns.items()}
        self._leaving: dict[bytes, None] = {}
        self._is_leaving = False
        self._turns = _Turns(_AT_ONCE // 4)

    def __len__(self) -> int:
        return len(self._by_channel) + len(self._by_pattern)

    def __contains__(self, name: str) -> bool:
        return name in self._groups

    @property
    def groups(self) -> list[str]:
        """The names of all groups that are wanted."""
        return list(self._groups)

    def published(self, pattern: bytes | None, channel: bytes, payload: bytes) -> None:
        """Something has come in."""
        hear = self._by_channel.get(channel) if pattern is None else self._by_pattern.get(pattern)
        if hear is None:
            return
        try:
            hear(pattern, channel, payload)
        except Exception:  # one publication never costs the connection
            self._log.failure("what was published could not be told")

    async def add(self, commands: Commands, name: str, channels: Mapping[str, Hear]) -> None:
        """Want some channels as one group, and subscribe them.

        :raises StoreError: not now, and they are not wanted.
        """
        await self._turns.take()
        encoded = {channel.encode(): hear for channel, hear in channels.items()}
        self._groups[name] = tuple(encoded)
        for channel in encoded:
            self._leaving.pop(channel, None)
        self._by_channel.update(encoded)
        try:
            await _all(commands, "SUBSCRIBE", encoded)
        except StoreError:
            self.remove(commands, name)
            raise
        finally:
            self._turns.give_back()

    def remove(self, commands: Commands, name: str) -> None:
        """Want a group no more."""
        self._leaving |= dict.fromkeys(self._forget(name))
        if not self._is_leaving:
            Deferred.fromCoroutine(self._leave(commands)).addErrback(ignore_store_error)

    async def _leave(self, commands: Commands) -> None:
        """Unsubscribe what isn't wanted any more; what can't be now needn't be, as the connection is lost."""
        self._is_leaving = True
        try:
            while self._leaving:
                some = list(islice(self._leaving, _AT_ONCE))
                for channel in some:
                    del self._leaving[channel]
                await _all(commands, "UNSUBSCRIBE", some)
        finally:
            self._is_leaving = False
            self._shrink()

    def _shrink(self) -> None:
        """Let go of tables that have been large: a dictionary keeps its size when its entries go."""
        if not self._leaving:
            self._leaving = {}
        if not self._groups:
            self._groups = {}
            self._by_channel = dict(self._by_channel)

    def _forget(self, name: str) -> Sequence[bytes]:
        channels = self._groups.pop(name, ())
        for channel in channels:
            del self._by_channel[channel]
        return channels

    async def renew(self, commands: Commands) -> None:
        """Subscribe all that is wanted over a new connection, and nothing that isn't wanted any more when that is done.

        :raises StoreError: the connection failed.
        """
        self._leaving.clear()
        await _all(commands, "SUBSCRIBE", self._always)
        await _all(commands, "PSUBSCRIBE", self._patterns)
        channels = ((name, channel) for name, channels in list(self._groups.items()) for channel in channels)
        while part := list(islice(channels, _AT_ONCE)):
            await _all(commands, "SUBSCRIBE", [channel for name, channel in part if name in self._groups])
        await self._leave(commands)


async def _all(commands: Commands, command: str, channels: Iterable[Argument]) -> None:
    """Do the same with all channels, each in a command of its own, as Redis answers once for each channel."""
    try:
        await gatherResults([commands.command(command, channel) for channel in channels], consumeErrors=True)
    except FirstError as first:
        first.subFailure.raiseException()
