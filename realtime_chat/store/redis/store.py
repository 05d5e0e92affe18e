"""Durable logs in Redis, for any number of nodes.

How durable they are depends on the settings of Redis; :meth:`RedisStore.describe` says what they promise. One script
appends a message and announces it, before it is acknowledged. Two connections: one for appends, one for reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from realtime_chat.core.interfaces import IMessageStore
from realtime_chat.redis.address import RedisAddress
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.wire import RedisProtocol
from realtime_chat.store.redis.appender import RedisAppender
from realtime_chat.store.redis.log import RedisLog, load_store_script
from realtime_chat.store.redis.reader import RedisReader
from realtime_chat.store.redis.sweeper import RedisSweeper
from realtime_chat.store.retention import Retention
from realtime_chat.store.retention_clock import RetentionClock
from realtime_chat.values.errors import StoreError, StoreRefused
from realtime_chat.values.model import AppendResult, Draft, Page

__all__ = ["RedisStore"]

_CHECKS_PER_SETTINGS_CHECK = 5


@implementer(IMessageStore)
class RedisStore:
    """Logs in a database of a Redis server, which other nodes use as well.

    :param reactor: connects, and tells the time.
    :param names: of its keys and channels.
    :param retention: what is kept; the same on all nodes.
    :param max_message: the most bytes of a message that other programs append.
    :param time: seconds since 1970, for :attr:`~realtime_chat.values.model.Message.at` and ages.
    :param random_bytes: gives as many as it is asked for.
    :param random: gives a float from 0 up to 1.
    :param node: a name that no other node has, nor this one after a restart.
    :param tick: seconds between two sweeps.
    :param look: seconds between two checks whether the log is still there.
    :param monotonic: seconds that only grow, for ages.
    :ivar links: its connections. The first one also takes commands of others, in order with the appends.
    :ivar commits: counts for the metrics.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        address: RedisAddress,
        names: RedisNames,
        retention: Retention,
        max_message: int,
        time: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        random: Callable[[], float],
        *,
        node: str,
        tick: float = 1.0,
        look: float = 3.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._names = names
        self._retention = retention
        clock = RetentionClock(retention, time, monotonic)
        append = load_store_script("append")
        self._redis_log = log = RedisLog(
            names, retention, max_message, lambda: float(reactor.seconds()), random_bytes, append, monotonic
        )
        self._appending = RedisConnection(
            reactor, address, "append", random, on_ready=self._prepare, on_lost=lambda: self._appender.connection_lost()
        )
        self._reading = RedisConnection(
            reactor, address, "read", random, on_ready=self._prepare, on_lost=lambda: self._reader.connection_lost()
        )
        self._appender = RedisAppender(reactor, self._appending, log, names, append, node, clock)
        self._reader = RedisReader(self._reading, log, names, clock)
        self._sweeper = RedisSweeper(self._reading, log, names, clock)
        self._checks = 0
        self._loops = [(LoopingCall(self._check_log), look), (LoopingCall(self._sweeper.sweep), tick)]
        self._closed: str | None = "the store is not started"
        self.links: Sequence[RedisConnection] = (self._appending, self._reading)
        self.commits = self._appender.counts

    @property
    def secret(self) -> bytes:
        """See :class:`IMessageStore`."""
        return self._redis_log.secret

    def describe(self) -> str:
        """See :meth:`IMessageStore.describe`."""
        promise = self._redis_log.persistence.promise or "not connected yet"
        where, kept = self._address.describe(), self._retention.describe()
        return f"{where} (prefix {self._names.prefix}; {kept}; {promise})"

    # Starting and stopping

    def start(self) -> Deferred[None]:
        """See :meth:`IMessageStore.start`."""
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        try:
            await self._appending.start()
            await self._reading.start()
        except StoreRefused:
            await self._appending.stop()
            raise
        self._closed = None
        self._warn_of_eviction()
        for call, seconds in self._loops:
            call.clock = self._reactor
            call.start(seconds, now=False)

    def _warn_of_eviction(self) -> None:
        policy = self._appending.info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            self._log.warn(
                "Redis' maxmemory-policy is {policy}: when its memory is full it deletes messages, or all that is "
                "known of them; right would be noeviction",
                policy=policy,
            )

    def stop(self) -> Deferred[None]:
        """See :meth:`IMessageStore.stop`."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        try:
            if self._closed is None:
                self._closed = "the store is stopped"
                self._stop_loops()
                await self._appender.stop()
        finally:  # also if the caller loses patience and cancels
            await gatherResults([connection.stop() for connection in self.links])

    def _stop_loops(self) -> None:
        for call, _ in self._loops:
            if call.running:
                call.stop()

    async def _prepare(self, connection: RedisProtocol) -> None:
        await self._redis_log.initialise(connection, connection.info)

    # Messages

    def append(self, draft: Draft) -> Deferred[AppendResult]:
        """See :meth:`IMessageStore.append`."""
        return self._refusal() or self._appender.append(draft)

    def read_after(self, room: str, offset: int, limit: int) -> Deferred[Page]:
        """See :meth:`IMessageStore.read_after`."""
        return self._refusal() or self._reader.read_after(room, offset, limit)

    def read_before(self, room: str, offset: int | None, limit: int) -> Deferred[Page]:
        """See :meth:`IMessageStore.read_before`."""
        return self._refusal() or self._reader.read_before(room, offset, limit)

    def rooms(self, after: str, limit: int) -> Deferred[Sequence[str]]:
        """See :meth:`IMessageStore.rooms`."""
        return self._refusal() or self._reader.rooms(after, limit)

    def check(self) -> Deferred[None]:
        """See :meth:`IMessageStore.check`."""
        return self._refusal() or Deferred.fromCoroutine(self._check_writable())

    async def _check_writable(self) -> None:
        await self._redis_log.check(self._appending, self._appending.info, write=True)

    def watch(self, on_epoch_change: Callable[[], None], is_read: Callable[[str], bool] = lambda room: False) -> None:
        """See :meth:`IMessageStore.watch`. The epoch changes if Redis loses data. Redis knows the rooms in use."""
        self._redis_log.on_epoch_change = on_epoch_change

    def _refusal(self) -> Deferred[Any] | None:
        return None if self._closed is None else fail(StoreError(self._closed))

    async def _check_log(self) -> None:
        """Check whether the log is still there. It may have been lost while no command came."""
        connection = self._appending
        if not connection.ready:
            return
        self._checks += 1
        try:
            await self._redis_log.check(connection, connection.info)
            if self._checks % _CHECKS_PER_SETTINGS_CHECK == 0:
                await self._redis_log.check_settings(connection)
        except StoreError as error:
            self._log.warn("Looking at the log in Redis: {why}", why=error.detail)
        except Exception:
            self._log.failure("Looking at the log in Redis")
