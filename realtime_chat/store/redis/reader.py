"""Reading pages of a log from Redis, each as one script, which sees nothing half done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail

from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import Names
from realtime_chat.redis.rows import as_message, read_rows
from realtime_chat.redis.scripts import Script
from realtime_chat.redis.wire import Argument, ServerError
from realtime_chat.store.ages import Ages
from realtime_chat.store.redis.log import LOST, RedisLog, load_store_script
from realtime_chat.store.retention import PAGE_BYTES, Retention, young_part
from realtime_chat.values.errors import StoreError
from realtime_chat.values.model import Message, Page

__all__ = ["LogReader"]

_MOST_UNDER_WAY = 16
_MOST_WAITING = 20_000

_T = TypeVar("_T")


class LogReader:
    """Pages of a log, read through a connection of its own, a few at a time.

    :param ages: of what is too old to be read.
    """

    def __init__(self, link: RedisConnection, log: RedisLog, names: Names, retention: Retention, ages: Ages) -> None:
        self._link = link
        self._redis_log = log
        self._names = names
        self._retention = retention
        self._ages = ages
        self._script = load_store_script("read")
        self._list = load_store_script("list")
        self._waiting: deque[tuple[Callable[[], Any], Deferred[Any]]] = deque()
        self._under_way = 0

    def read_after(self, room: str, offset: int, limit: int) -> Deferred[Page]:
        """See :meth:`IMessageStore.read_after`."""
        return self._ask(lambda: self._page(room, "after", offset, limit))

    def read_before(self, room: str, offset: int | None, limit: int) -> Deferred[Page]:
        """See :meth:`IMessageStore.read_before`."""
        return self._ask(lambda: self._page(room, "before", "+" if offset is None else offset, limit))

    def rooms(self, after: str, limit: int) -> Deferred[Sequence[str]]:
        """See :meth:`IMessageStore.rooms`."""
        return self._ask(lambda: self._rooms(after, limit))

    def lost(self) -> None:
        """The connection is gone; what waits is not read."""
        waiting, self._waiting = self._waiting, deque()
        for _, answer in waiting:
            answer.errback(StoreError("the connection to the store was lost"))

    def _ask(self, read: Callable[[], Any]) -> Deferred[Any]:
        if not self._link.ready:
            return fail(StoreError("the store is not connected"))
        if len(self._waiting) >= _MOST_WAITING:
            return fail(StoreError("too many reads wait"))
        answer: Deferred[Any] = Deferred()
        self._waiting.append((read, answer))
        self._go_on()
        return answer

    def _go_on(self) -> None:
        while self._waiting and self._under_way < _MOST_UNDER_WAY:
            read, answer = self._waiting.popleft()
            self._under_way += 1
            reading = Deferred.fromCoroutine(read())
            reading.addBoth(self._done).chainDeferred(answer)

    def _done(self, result: _T) -> _T:
        self._under_way -= 1
        self._go_on()
        return result

    async def _page(self, room: str, direction: str, offset: Argument, limit: int) -> Page:
        cutoff = self._ages.cutoff()
        asked = (direction, offset, limit, self._retention.count, cutoff, PAGE_BYTES)
        answer = await self._run(self._script, [self._names.log, self._names.stream(room)], asked)
        epoch = answer[0].decode()
        oldest, top, begun = map(int, answer[1:4])
        self._redis_log.saw(epoch)
        self._redis_log.saw_top(room, top)
        found = _messages(room, epoch, answer[4::2], answer[5::2])
        messages = young_part(found, cutoff)
        if len(messages) < len(found):
            oldest = found[len(found) - len(messages) - 1].position.offset + 1
        return Page(epoch, oldest, top, tuple(messages), begun)

    async def _run(self, script: Script, keys: Sequence[str], asked: Sequence[Argument]) -> Any:
        try:
            return await script.run(self._link, keys, [self._link.info["run_id"], *asked])
        except ServerError as error:
            if error.word not in LOST:
                raise
        await self._redis_log.begin(self._link, self._link.info)
        return await script.run(self._link, keys, [self._link.info["run_id"], *asked])

    async def _rooms(self, after: str, limit: int) -> list[str]:
        return [name.decode() for name in await self._run(self._list, [self._names.log], [after, limit])]


def _messages(room: str, epoch: str, offsets: Sequence[bytes], rows: Sequence[bytes]) -> list[Message]:
    found = zip(offsets, read_rows(rows), strict=True)
    return [as_message(row, room, epoch, int(offset)) for offset, row in found]
