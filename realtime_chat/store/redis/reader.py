"""Reading pages of a log from Redis. One script reads each page, as one snapshot."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail

from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.rows import as_message, read_rows
from realtime_chat.redis.wire import Argument, Script, ServerError, Slots
from realtime_chat.store.redis.shared_logs import STALE_LOG, SharedLogs, load_store_script
from realtime_chat.store.retention import PAGE_BYTES, readable_page
from realtime_chat.values.errors import StoreError
from realtime_chat.values.model import Message, Page

__all__ = ["RedisReader"]

_MAX_IN_FLIGHT = 16
_MAX_WAITING = 20_000

_T = TypeVar("_T")


class RedisReader:
    """Reads pages of a log through a connection of its own, a few at a time."""

    def __init__(self, connection: RedisConnection, logs: SharedLogs) -> None:
        self._connection = connection
        self._logs = logs
        self._names = logs.names
        self._clock = logs.clock
        self._read_script = load_store_script("read")
        self._list_script = load_store_script("list")
        self._slots = Slots(_MAX_IN_FLIGHT)

    def read_after(self, room: str, offset: int, limit: int) -> Deferred[Page]:
        """See :meth:`IMessageStore.read_after`."""
        return self._queue(self._page, room, "after", offset, limit)

    def read_before(self, room: str, offset: int | None, limit: int) -> Deferred[Page]:
        """See :meth:`IMessageStore.read_before`."""
        return self._queue(self._page, room, "before", "+" if offset is None else offset, limit)

    def rooms(self, after: str, limit: int) -> Deferred[Sequence[str]]:
        """See :meth:`IMessageStore.rooms`."""
        return self._queue(self._rooms, after, limit)

    def _queue(self, read: Callable[..., Awaitable[_T]], *asked: Any) -> Deferred[_T]:
        if not self._connection.ready:
            return fail(StoreError("the store is not connected"))
        if len(self._slots.waiting) >= _MAX_WAITING:
            return fail(StoreError("too many reads wait"))
        return Deferred.fromCoroutine(self._in_turn(read, asked))

    async def _in_turn(self, read: Callable[..., Awaitable[_T]], asked: Sequence[Any]) -> _T:
        await self._slots.take()
        try:
            return await read(*asked)
        finally:
            self._slots.give_back()

    async def _page(self, room: str, direction: str, offset: Argument, limit: int) -> Page:
        cutoff = self._clock.message_cutoff()
        asked = (direction, offset, limit, self._clock.retention.count, cutoff, PAGE_BYTES)
        answer = await self._run(self._read_script, [self._names.log, self._names.stream(room)], asked)
        epoch = answer[0].decode()
        oldest, top, epoch_start = map(int, answer[1:4])
        self._logs.observe_epoch(epoch)
        self._logs.observe_top(room, top)
        found = _messages(room, epoch, answer[4::2], answer[5::2])
        return readable_page(epoch, oldest, top, found, cutoff, epoch_start)

    async def _run(self, script: Script, keys: Sequence[str], asked: Sequence[Argument]) -> Any:
        """Run a script. If there is no log, or one of another run of Redis, initialise it first."""
        try:
            return await script.run(self._connection, keys, [self._connection.info["run_id"], *asked])
        except ServerError as error:
            if error.word not in STALE_LOG:
                raise
        await self._logs.initialise(self._connection, self._connection.info)
        return await script.run(self._connection, keys, [self._connection.info["run_id"], *asked])

    async def _rooms(self, after: str, limit: int) -> Sequence[str]:
        return [name.decode() for name in await self._run(self._list_script, [self._names.log], [after, limit])]


def _messages(room: str, epoch: str, offsets: Sequence[bytes], rows: Sequence[bytes]) -> list[Message]:
    found = zip(offsets, read_rows(rows), strict=True)
    return [as_message(row, room, epoch, int(offset)) for offset, row in found]
