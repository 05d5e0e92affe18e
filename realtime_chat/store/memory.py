"""Logs that live as long as the process."""

from __future__ import annotations

import time
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from typing import NamedTuple

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from realtime_chat.core.interfaces import IMessageStore
from realtime_chat.store.ages import Ages
from realtime_chat.store.retention import NewRooms, Retention, content_digest, leading_part, new_epoch, young_part
from realtime_chat.values.errors import RealtimeError, StoreError, out_of_order
from realtime_chat.values.model import AppendResult, Draft, Message, Page, Position

__all__ = ["MemoryStore"]

_ROOMS_A_SWEEP = 100
_SECONDS_BETWEEN_SWEEPS = 1.0

_Messages = tuple[Message, ...]


class _Known(NamedTuple):
    """What is remembered of a message that was given a key."""

    digest: bytes
    offset: int
    at: int


class _Log:
    """One room's messages, without a hole; the last is that of ``top``.

    :ivar emptied: what had elapsed (:meth:`Ages.elapsed`) when it was found to have none; None while it has some.
    """

    __slots__ = ("emptied", "known", "messages", "top")

    def __init__(self, top: int) -> None:
        self.top = top
        self.emptied: float | None = None
        self.messages: list[Message] = []
        # From (sender's id, key), in the order of the offsets.
        self.known: dict[tuple[str, str], _Known] = {}

    @property
    def held(self) -> int:
        """The offset of the first message that is held; ``top + 1`` where none is."""
        return self.top - len(self.messages) + 1

    def oldest(self, count: int, cutoff: int) -> int:
        """The offset of the first message that can be read; ``top + 1`` where none can."""
        oldest = max(self.held, self.top - count + 1)
        while oldest <= self.top and self.messages[oldest - self.held].at < cutoff:
            oldest += 1
        return oldest

    def between(self, first: int, last: int) -> tuple[Message, ...]:
        """The messages from one offset to another, both included."""
        held = self.held
        return tuple(self.messages[first - held : max(0, last + 1 - held)])

    def forget(self, oldest: int, young: int) -> None:
        """Let go of what can't be read, and of keys that are not kept longer than that."""
        del self.messages[: oldest - self.held]
        expired = []
        for name, known in self.known.items():
            if known.offset >= oldest or known.at >= young:
                break
            expired.append(name)
        for name in expired:
            del self.known[name]


@implementer(IMessageStore)
class MemoryStore:
    """Logs in memory: gone when the process is, and every start is a new epoch.

    :param retention: what is kept.
    :param now: seconds since 1970, for :attr:`~realtime_chat.values.model.Message.at` and ages.
    :param token: random bytes, as many as it is asked for.
    :param secret: one to use instead of a random one.
    :param monotonic: seconds that only grow, for ages.
    """

    def __init__(
        self,
        retention: Retention,
        now: Callable[[], float],
        token: Callable[[int], bytes],
        secret: bytes | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._retention = retention
        self._most = retention.count + retention.slack
        self._ages = Ages(retention.age, now, monotonic)
        self._logs: dict[str, _Log] = {}
        self._names: list[str] = []  # those of the logs, sorted
        self._floor = 0
        self._new_rooms = NewRooms(retention)
        self._is_read: Callable[[str], bool] = lambda room: False
        self._swept_at = 0.0
        self._swept = ""
        self._epoch = new_epoch(token)
        self._stopped = False
        self.secret = token(32) if secret is None else secret

    def describe(self) -> str:
        """See :meth:`IMessageStore.describe`."""
        return f"memory (lost at a restart; the last {self._retention.count} messages a room)"

    def start(self) -> Deferred[None]:
        """See :meth:`IMessageStore.start`."""
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """See :meth:`IMessageStore.stop`."""
        self._stopped = True
        return succeed(None)

    def append(self, draft: Draft) -> Deferred[AppendResult]:
        """See :meth:`IMessageStore.append`."""
        if self._stopped:
            return fail(_stopped())
        at = int(self._ages.now() * 1000)
        if self._ages.elapsed() - self._swept_at >= _SECONDS_BETWEEN_SWEEPS:
            self._sweep()
        log = self._logs.get(draft.room)
        if log is None:
            refusal = self._new_rooms.refusal(len(self._logs), self._ages.elapsed())
            if refusal is not None:
                return fail(refusal)
            log = self._logs[draft.room] = _Log(self._floor)
            insort(self._names, draft.room)
        if draft.key is None:
            return succeed(AppendResult(self._add(log, draft, at)))
        return self._append_once(log, draft, draft.key, at)

    def _add(self, log: _Log, draft: Draft, at: int) -> Message:
        log.top += 1
        message = draft.placed(Position(self._epoch, log.top), at)
        log.messages.append(message)
        if len(log.messages) > self._most:
            self._trim(log)
        return message

    def _append_once(self, log: _Log, draft: Draft, key: str, at: int) -> Deferred[AppendResult]:
        name = (draft.sender.id, key)
        digest = content_digest(draft)
        known = self._still_known(log, name)
        if known is None:
            if draft.after is not None and self._still_known(log, (draft.sender.id, draft.after)) is None:
                return fail(out_of_order())
            message = self._add(log, draft, at)
            log.known.pop(name, None)  # or it would keep its place among the older ones
            log.known[name] = _Known(digest, log.top, at)
            return succeed(AppendResult(message))
        if known.digest != digest:
            return fail(RealtimeError("key_reused", "this key was used for another message in this room"))
        kept = log.between(known.offset, known.offset) if known.offset >= log.held else ()
        return succeed(
            AppendResult(kept[0] if kept else draft.placed(Position(self._epoch, known.offset), known.at), True)
        )

    def _still_known(self, log: _Log, name: tuple[str, str]) -> _Known | None:
        known = log.known.get(name)
        if known is None or known.at >= self._ages.young() or known.offset >= self._oldest(log):
            return known
        return None

    def read_after(self, room: str, offset: int, limit: int) -> Deferred[Page]:
        """See :meth:`IMessageStore.read_after`."""

        def bounds(oldest: int, top: int) -> tuple[int, int]:
            return max(oldest, offset + 1), min(top, max(oldest - 1, offset) + limit)

        return self._read(room, bounds, lambda found: found[: leading_part(found)])

    def read_before(self, room: str, offset: int | None, limit: int) -> Deferred[Page]:
        """See :meth:`IMessageStore.read_before`."""

        def bounds(oldest: int, top: int) -> tuple[int, int]:
            last = top if offset is None else min(top, offset - 1)
            return max(oldest, last - limit + 1), last

        return self._read(room, bounds, lambda found: found[len(found) - leading_part(found[::-1]) :])

    def _read(
        self, room: str, bounds: Callable[[int, int], tuple[int, int]], cut: Callable[[_Messages], _Messages]
    ) -> Deferred[Page]:
        if self._stopped:
            return fail(_stopped())
        log = self._logs.get(room)
        if log is None:
            return succeed(Page(self._epoch, self._floor + 1, self._floor))
        cutoff = self._ages.cutoff()
        oldest = log.oldest(self._retention.count, cutoff)
        first, last = bounds(oldest, log.top)
        found = cut(log.between(first, last) if first <= last else ())
        messages = young_part(found, cutoff)
        if len(messages) < len(found):
            oldest = found[len(found) - len(messages) - 1].position.offset + 1
        return succeed(Page(self._epoch, oldest, log.top, tuple(messages)))

    def _oldest(self, log: _Log) -> int:
        return log.oldest(self._retention.count, self._ages.cutoff())

    def _trim(self, log: _Log) -> None:
        log.forget(self._oldest(log), self._ages.young())

    # Nothing here has a clock that ticks: whoever uses the store sweeps it.

    def _sweep(self) -> None:
        """Let go of what can't be read in the next rooms, and of those that are unused."""
        begin = bisect_right(self._names, self._swept)
        rooms = self._names[begin : begin + _ROOMS_A_SWEEP]
        self._swept = rooms[-1] if len(rooms) == _ROOMS_A_SWEEP else ""
        self._swept_at = now = self._ages.elapsed()
        for room in rooms:
            log = self._logs[room]
            self._trim(log)
            if log.messages:
                log.emptied = None
            elif log.emptied is None or self._is_read(room):
                log.emptied = now
            elif not log.known and now >= log.emptied + self._retention.room_age:
                self.forget(room)

    def forget(self, room: str) -> None:
        """Forget a room that is there, see :meth:`IMessageStore.rooms`."""
        self._floor = max(self._floor, self._logs.pop(room).top)
        del self._names[bisect_right(self._names, room) - 1]

    def rooms(self, after: str, limit: int) -> Deferred[Sequence[str]]:
        """See :meth:`IMessageStore.rooms`."""
        if self._stopped:
            return fail(_stopped())
        self._sweep()
        begin = bisect_right(self._names, after)
        return succeed(self._names[begin : begin + limit])

    def check(self) -> Deferred[None]:
        """See :meth:`IMessageStore.check`."""
        return fail(_stopped()) if self._stopped else succeed(None)

    def watch(self, doubt: Callable[[], None], is_read: Callable[[str], bool] = lambda room: False) -> None:
        """See :meth:`IMessageStore.watch`; these logs never change by themselves."""
        self._is_read = is_read


def _stopped() -> StoreError:
    return StoreError("the store is stopped")
