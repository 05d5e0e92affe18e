"""Durable logs in Redis, for any number of nodes.

How durable they are depends on the settings of Redis; :meth:`RedisStore.describe` says what they promise. One script
appends a message and announces it, before it is acknowledged. Two connections: one for appends, one for reads.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from realtime_chat.core.interfaces import IMessageStore
from realtime_chat.redis.address import RedisAddress
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.rows import read_messages
from realtime_chat.redis.wire import Argument, RedisProtocol, Script, ServerError, Slots
from realtime_chat.store.redis.appender import RedisAppender
from realtime_chat.store.redis.sessions import RedisSessions
from realtime_chat.store.redis.shared_logs import STALE_LOGS, SharedLogs, load_store_script
from realtime_chat.store.retention import PAGE_BYTES, Retention, RetentionClock, readable_page
from realtime_chat.values.errors import StoreError, StoreRefused
from realtime_chat.values.model import AppendResult, Draft, Page, is_properties_log

_CHECKS_PER_SETTINGS_CHECK = 5
_MAX_READS_IN_FLIGHT = 16
_MAX_READS_WAITING = 20_000
_ROOMS_PER_SWEEP = 100
_ENTRIES_PER_SWEEP = 256

_T = TypeVar("_T")


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
    :param look: seconds between two checks whether the logs are still there.
    :param monotonic: seconds that only grow, for ages.
    :ivar links: its connections. The first one also takes commands of others, in order with the appends.
    :ivar commits: counts for the metrics.
    :ivar sessions: see :class:`~realtime_chat.core.interfaces.ISessionStore`.
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
        self._logs = logs = SharedLogs(names, clock, max_message, lambda: float(reactor.seconds()), random_bytes)
        self._appending = RedisConnection(
            reactor, address, "append", random, on_ready=self._prepare, on_lost=lambda: self._appender.connection_lost()
        )
        self._reading = RedisConnection(reactor, address, "read", random, on_ready=self._prepare)
        self._appender = RedisAppender(reactor, self._appending, logs, node)
        self._read_script = load_store_script("read")
        self._list_script = load_store_script("list")
        self._slots = Slots(_MAX_READS_IN_FLIGHT)
        self._sweeper = _RedisSweeper(self._reading, logs)
        self._checks = 0
        self._loops = [(LoopingCall(self._check_logs), look), (LoopingCall(self._sweeper.sweep), tick)]
        self._closed: str | None = "the store is not started"
        self.sessions = RedisSessions(reactor, self._appending, names)
        self.links: Sequence[RedisConnection] = (self._appending, self._reading)
        self.commits = self._appender.counts

    @property
    def secret(self) -> bytes:
        return self._logs.secret

    def describe(self) -> str:
        promise = self._logs.persistence.promise or "not connected yet"
        where, kept = self._address.describe(), self._retention.describe()
        return f"{where} (prefix {self._names.prefix}; {kept}; {promise})"

    # Starting and stopping

    def start(self) -> Deferred[None]:
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
        self.sessions.start()

    def _warn_of_eviction(self) -> None:
        policy = self._appending.info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            self._log.warn(
                "Redis' maxmemory-policy is {policy}: when its memory is full it deletes messages, or all that is "
                "known of them; right would be noeviction",
                policy=policy,
            )

    def stop(self) -> Deferred[None]:
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
        self.sessions.stop()
        for call, _ in self._loops:
            if call.running:
                call.stop()

    async def _prepare(self, connection: RedisProtocol) -> None:
        await self._logs.initialise(connection, connection.info)

    # Messages

    def append(self, draft: Draft) -> Deferred[AppendResult]:
        return self._appender.append(draft) if self._closed is None else fail(StoreError(self._closed))

    def read_after(self, room: str, offset: int, limit: int) -> Deferred[Page]:
        return self._read(self._page, room, "after", offset, limit)

    def read_before(self, room: str, offset: int | None, limit: int) -> Deferred[Page]:
        return self._read(self._page, room, "before", "+" if offset is None else offset, limit)

    def rooms(self, after: str, limit: int) -> Deferred[Sequence[str]]:
        return self._read(self._list, after, limit)

    def _read(self, read: Callable[..., Awaitable[_T]], *asked: Any) -> Deferred[_T]:
        if self._closed is not None:
            return fail(StoreError(self._closed))
        if not self._reading.ready:
            return fail(StoreError("the store is not connected"))
        if len(self._slots.waiting) >= _MAX_READS_WAITING:
            return fail(StoreError("too many reads wait"))
        return Deferred.fromCoroutine(self._in_turn(read, asked))

    async def _in_turn(self, read: Callable[..., Awaitable[_T]], asked: Sequence[Any]) -> _T:
        await self._slots.take()
        try:
            return await read(*asked)
        finally:
            self._slots.give_back()

    async def _page(self, room: str, direction: str, offset: Argument, limit: int) -> Page:
        cutoff = 0 if is_properties_log(room) else self._logs.clock.message_cutoff()
        asked = (direction, offset, limit, self._logs.clock.retention.count_for(room), cutoff, PAGE_BYTES)
        answer = await self._run_read(self._read_script, [self._names.log, self._names.stream(room)], asked)
        epoch = answer[0].decode()
        oldest, top, epoch_start = map(int, answer[1:4])
        self._logs.observe_epoch(epoch)
        self._logs.observe_top(room, top)
        found = read_messages(room, epoch, map(int, answer[4::2]), answer[5::2])
        return readable_page(epoch, oldest, top, found, cutoff, epoch_start)

    async def _run_read(self, script: Script, keys: Sequence[str], asked: Sequence[Argument]) -> Any:
        """Run a script. If there are no logs, or those of another run of Redis, initialise them first."""
        try:
            return await script.run(self._reading, keys, [self._reading.info["run_id"], *asked])
        except ServerError as error:
            if error.word not in STALE_LOGS:
                raise
        await self._logs.initialise(self._reading, self._reading.info)
        return await script.run(self._reading, keys, [self._reading.info["run_id"], *asked])

    async def _list(self, after: str, limit: int) -> Sequence[str]:
        return [name.decode() for name in await self._run_read(self._list_script, [self._names.log], [after, limit])]

    # Checking

    def check(self) -> Deferred[None]:
        if self._closed is not None:
            return fail(StoreError(self._closed))
        return Deferred.fromCoroutine(self._logs.check(self._appending, self._appending.info, write=True))

    def watch(self, on_epoch_change: Callable[[], None], is_read: Callable[[str], bool] = lambda room: False) -> None:
        """The epoch changes if Redis loses data. Redis knows the rooms in use."""
        self._logs.on_epoch_change = on_epoch_change

    async def _check_logs(self) -> None:
        """Check whether the logs are still there. They may have been lost while no command came."""
        connection = self._appending
        if not connection.ready:
            return
        self._checks += 1
        try:
            await self._logs.check(connection, connection.info)
            if self._checks % _CHECKS_PER_SETTINGS_CHECK == 0:
                await self._logs.check_settings(connection)
        except StoreError as error:
            if connection.ready:  # a lost connection is logged by itself
                self._log.warn("Looking at the log in Redis: {why}", why=error.detail)
        except Exception:
            self._log.failure("Looking at the log in Redis")


class _RedisSweeper:
    """Trims rooms that are not written to, and forgets unused ones. It goes through all rooms, some at a time."""

    _log = Logger()

    def __init__(self, connection: RedisConnection, logs: SharedLogs) -> None:
        self._connection = connection
        self._logs = logs
        self._script = load_store_script("sweep")
        self._cursor = b"0"

    async def sweep(self) -> None:
        """Sweep the next rooms. An error is logged."""
        if not self._connection.ready:
            return
        try:
            self._cursor, rooms = await self._scan(self._cursor)
            await self._sweep_rooms(rooms)
        except StoreError as error:
            if self._connection.ready:
                self._log.warn("Trimming in Redis: {why}", why=error.detail)
        except Exception:
            self._log.failure("Trimming in Redis")

    async def _scan(self, cursor: bytes) -> tuple[bytes, list[str]]:
        """Return where to continue (``b"0"`` at the end), and the names of some rooms. A room may come twice."""
        words = ("HSCAN", self._logs.names.log, cursor, "MATCH", "room:*", "COUNT", _ROOMS_PER_SWEEP)
        cursor, fields = await self._connection.command(*words)
        return cursor, [name.removeprefix(b"room:").decode() for name in fields[::2]]

    async def _sweep_rooms(self, rooms: Sequence[str]) -> None:
        names, clock = self._logs.names, self._logs.clock
        room_age, elapsed = int(clock.retention.room_age * 1000), self._logs.elapsed()
        keys = [names.log, *chain.from_iterable((names.stream(room), names.keys(room)) for room in rooms)]
        counts = clock.retention.count, clock.retention.namespace_count
        arguments = (*counts, clock.message_cutoff(), _ENTRIES_PER_SWEEP, room_age, elapsed)
        while rooms and self._connection.ready and await self._script.run(self._connection, keys, arguments):
            pass
