"""The channels that one connection to Redis subscribes to. Each new connection subscribes to all of them again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.logger import Logger

from realtime_chat.redis.wire import Argument, Commands, OnMessage, Slots, ignore_store_error
from realtime_chat.values.errors import StoreError

_COMMANDS_AT_ONCE = 200
"""How many commands wait for their replies at a time, so that none waits for long."""


class ChannelSubscriptions:
    """The channels that are subscribed, each with its callback.

    :param permanent: channels that are subscribed as long as there is a connection.
    :param patterns: patterns of channels, in the same way.
    """

    _log = Logger()

    def __init__(self, permanent: Mapping[str, OnMessage], patterns: Mapping[str, OnMessage]) -> None:
        self._permanent = dict(permanent)
        self._patterns = dict(patterns)
        self._groups: dict[str, Sequence[bytes]] = {}
        self._by_channel: dict[bytes, OnMessage] = {
            channel.encode(): callback for channel, callback in permanent.items()
        }
        self._by_pattern: dict[bytes, OnMessage] = {
            pattern.encode(): callback for pattern, callback in patterns.items()
        }
        self._to_unsubscribe: dict[bytes, None] = {}
        self._is_unsubscribing = False
        self._slots = Slots(_COMMANDS_AT_ONCE // 4)

    def __len__(self) -> int:
        return len(self._by_channel) + len(self._by_pattern)

    def __contains__(self, name: str) -> bool:
        return name in self._groups

    @property
    def groups(self) -> list[str]:
        """The names of all groups that are subscribed."""
        return list(self._groups)

    def published(self, pattern: bytes | None, channel: bytes, payload: bytes) -> None:
        """Call the callback of a channel or a pattern."""
        callback = self._by_channel.get(channel) if pattern is None else self._by_pattern.get(pattern)
        if callback is None:
            return
        try:
            callback(pattern, channel, payload)
        except Exception:  # a bad payload must not close the connection
            self._log.failure("what was published could not be told")

    async def add(self, commands: Commands, name: str, channels: Mapping[str, OnMessage]) -> None:
        """Subscribe to a group of channels.

        :param name: of the group.
        :raises StoreError: not now; the group isn't subscribed.
        """
        await self._slots.take()
        encoded = {channel.encode(): callback for channel, callback in channels.items()}
        self._groups[name] = tuple(encoded)
        for channel in encoded:
            self._to_unsubscribe.pop(channel, None)
        self._by_channel.update(encoded)
        try:
            await _run_for_each(commands, "SUBSCRIBE", encoded)
        except StoreError:
            self.remove(commands, name)
            raise
        finally:
            self._slots.give_back()

    def remove(self, commands: Commands, name: str) -> None:
        """Unsubscribe from a group of channels."""
        self._to_unsubscribe |= dict.fromkeys(self._forget(name))
        if not self._is_unsubscribing:
            Deferred.fromCoroutine(self._unsubscribe(commands)).addErrback(ignore_store_error)

    async def _unsubscribe(self, commands: Commands) -> None:
        """Unsubscribe from all removed channels. If that fails, the connection is lost, and with it all of them."""
        self._is_unsubscribing = True
        try:
            while self._to_unsubscribe:
                some = list(islice(self._to_unsubscribe, _COMMANDS_AT_ONCE))
                for channel in some:
                    del self._to_unsubscribe[channel]
                await _run_for_each(commands, "UNSUBSCRIBE", some)
        finally:
            self._is_unsubscribing = False
            self._shrink()

    def _shrink(self) -> None:
        """Replace dictionaries that are empty now: they keep the memory of their former entries."""
        if not self._to_unsubscribe:
            self._to_unsubscribe = {}
        if not self._groups:
            self._groups = {}
            self._by_channel = dict(self._by_channel)

    def _forget(self, name: str) -> Sequence[bytes]:
        channels = self._groups.pop(name, ())
        for channel in channels:
            del self._by_channel[channel]
        return channels

    async def renew(self, commands: Commands) -> None:
        """Subscribe to all channels over a new connection. Groups that are removed meanwhile are unsubscribed after it.

        :raises StoreError: the connection failed.
        """
        self._to_unsubscribe.clear()
        await _run_for_each(commands, "SUBSCRIBE", self._permanent)
        await _run_for_each(commands, "PSUBSCRIBE", self._patterns)
        channels = ((name, channel) for name, channels in list(self._groups.items()) for channel in channels)
        while part := list(islice(channels, _COMMANDS_AT_ONCE)):
            await _run_for_each(commands, "SUBSCRIBE", [channel for name, channel in part if name in self._groups])
        await self._unsubscribe(commands)


async def _run_for_each(commands: Commands, command: str, channels: Iterable[Argument]) -> None:
    """Run a command once for each channel, as Redis replies once for each channel."""
    try:
        await gatherResults([commands.command(command, channel) for channel in channels], consumeErrors=True)
    except FirstError as first:
        first.subFailure.raiseException()
