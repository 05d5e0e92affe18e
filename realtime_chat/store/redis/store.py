"""Durable logs in Redis, for as many nodes as wanted.

How durable they are is Redis' affair; :meth:`RedisStore.describe` says what it promises. What is acknowledged was
appended and announced by one script, and is what every node reads. Two connections: one for appends, one for reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from realtime_chat.core.interfaces import IMessageStore
from realtime_chat.redis.address import Address
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import Names
from realtime_chat.redis.wire import RedisProtocol
from realtime_chat.store.ages import Ages
from realtime_chat.store.redis.log import RedisLog, load_store_script
from realtime_chat.store.redis.reader import LogReader
from realtime_chat.store.redis.writer import LogWriter
from realtime_chat.store.retention import Retention
from realtime_chat.values.errors import StoreError, StoreRefused
from realtime_chat.values.model import AppendResult, Draft, Page

__all__ = ["RedisStore"]

_LOOKS_A_CLOSE_ONE = 5
_ROOMS_A_SWEEP = 100
_ENTRIES_A_SWEEP = 256


@implementer(IMessageStore)
class RedisStore:
    """Logs in a database of a Redis server, which other nodes use as well.

    :param reactor: connects, and tells the time.
    :param names: of its keys and channels.
    :param retention: what is kept; all nodes should say the same.
    :param max_message: bytes of the largest message that other programs may append.
    :param now: seconds since 1970, for :attr:`~realtime_chat.values.model.Message.at` and ages.
    :param token: random bytes, as many as it is asked for.
    :param random: gives a float from 0 up to 1.
    :param tick: seconds between two looks after what is too old.
    :param look: seconds between two looks whether the log is still there.
    :param monotonic: seconds that only grow, for ages.
    :ivar links: its connections; the first one takes commands of others too, in order with the appends.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        address: Address,
        names: Names,
        retention: Retention,
        max_message: int,
        now: Callable[[], float],
        token: Callable[[int], bytes],
        random: Callable[[], float],
        *,
        tick: float = 1.0,
        look: float = 3.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._names = names
        self._retention = retention
        self._ages = Ages(retention.age, now, monotonic)
        append = load_store_script("append")
        self._redis_log = RedisLog(
            names, retention, max_message, lambda: float(reactor.seconds()), token, append, monotonic
        )
        self._appending = RedisConnection(
            reactor, address, "append", random, on_ready=self._begin, on_lost=lambda: self._writer.lost()
        )
        self._reading = RedisConnection(
            reactor, address, "read", random, on_ready=self._begin, on_lost=lambda: self._reader.lost()
        )
        self._writer = LogWriter(
            reactor, self._appending, self._redis_log, names, append, token(8).hex(), self._ages, retention
        )
        self._reader = LogReader(self._reading, self._redis_log, names, retention, self._ages)
        self._sweep = load_store_script("sweep")
        self._swept = b"0"
        self._looks = 0
        self._regularly = [(LoopingCall(self._look), look), (LoopingCall(self._sweep_some), tick)]
        self._closed: str | None = "the store is not started"
        self.links: Sequence[RedisConnection] = (self._appending, self._reading)
        self.commits = self._writer.appends

    @property
    def secret(self) -> bytes:
        """See :class:`IMessageStore`."""
        return self._redis_log.secret

    def describe(self) -> str:
        """See :meth:`IMessageStore.describe`."""
        kept = f"the last {self._retention.count} messages a room"
        if self._retention.age is not None:
            kept += f", for {self._retention.age:g} s"
        promise = self._redis_log.persistence.promise or "not connected yet"
        return f"{self._address.describe()} (prefix {self._names.prefix}; {kept}; {promise})"

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
        for call, seconds in self._regularly:
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
                self._stop_looking()
                await self._writer.stop()
        finally:  # also for those who lose patience and cancel
            await gatherResults([link.stop() for link in self.links])

    def _stop_looking(self) -> None:
        for call, _ in self._regularly:
            if call.running:
                call.stop()

    async def _begin(self, connection: RedisProtocol) -> None:
        await self._redis_log.begin(connection, connection.info)

    # Messages

    def append(self, draft: Draft) -> Deferred[AppendResult]:
        """See :meth:`IMessageStore.append`."""
        return self._refusal() or self._writer.append(draft)

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
        return self._refusal() or Deferred.fromCoroutine(self._check())

    async def _check(self) -> None:
        await self._redis_log.look(self._appending, self._appending.info, write=True)

    def watch(self, doubt: Callable[[], None], is_read: Callable[[str], bool] = lambda room: False) -> None:
        """See :meth:`IMessageStore.watch`; Redis may have lost its data. It knows itself which rooms a node follows."""
        self._redis_log.doubt = doubt

    def _refusal(self) -> Deferred[Any] | None:
        return None if self._closed is None else fail(StoreError(self._closed))

    # Now and then

    async def _look(self) -> None:
        """See whether the log is still there: nobody may have asked since it was lost."""
        link = self._appending
        if not link.ready:
            return
        self._looks += 1
        try:
            await self._redis_log.look(link, link.info)
            if self._looks % _LOOKS_A_CLOSE_ONE == 0:
                await self._redis_log.look_closely(link)
        except StoreError as error:
            self._log.warn("Looking at the log in Redis: {why}", why=error.detail)
        except Exception:
            self._log.failure("Looking at the log in Redis")

    async def _sweep_some(self) -> None:
        """Trim the next rooms that nobody writes to, and forget those that are unused."""
        link = self._reading
        if not link.ready:
            return
        try:
            self._swept, rooms = await self._redis_log.scan_rooms(link, self._swept, _ROOMS_A_SWEEP)
            await self._sweep_rooms(link, rooms)
        except StoreError as error:
            self._log.warn("Trimming in Redis: {why}", why=error.detail)
        except Exception:
            self._log.failure("Trimming in Redis")

    async def _sweep_rooms(self, link: RedisConnection, rooms: Sequence[str]) -> None:
        names = self._names
        room_age, elapsed = int(self._retention.room_age * 1000), self._redis_log.elapsed()
        keys = [names.log, *chain.from_iterable((names.stream(room), names.keys(room)) for room in rooms)]
        arguments = (self._retention.count, self._ages.cutoff(), _ENTRIES_A_SWEEP, room_age, elapsed)
        while rooms and link.ready and await self._sweep.run(link, keys, arguments):
            pass
