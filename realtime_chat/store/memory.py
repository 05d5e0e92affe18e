"""Logs in memory, which live as long as the process."""

from __future__ import annotations

import time
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from realtime_chat.core.interfaces import IMessageStore
from realtime_chat.store.idempotency import KeyEntry, content_digest
from realtime_chat.store.retention import (
    Retention,
    RetentionClock,
    RoomCreationLimit,
    fitting,
    new_epoch,
    readable_page,
)
from realtime_chat.store.sessions import MemorySessions
from realtime_chat.values.errors import RealtimeError, StoreError, out_of_order
from realtime_chat.values.model import (
    AppendResult,
    Draft,
    Message,
    Page,
    Position,
    is_properties_log,
    properties_log,
    room_of_log,
)

_ROOMS_PER_SWEEP = 100
_SWEEP_INTERVAL = 1.0

_Messages = tuple[Message, ...]


class _RoomLog(msgspec.Struct, eq=False):
    """The log of one room. Its messages have no gap, and the last one has the offset ``top``.

    :ivar count: how many messages are kept.
    :ivar keys: by the sender's id and the key, in the order of the offsets.
    :ivar empty_since: when it was found to be empty, in elapsed seconds; None while it has messages.
    """

    top: int
    count: int
    empty_since: float | None = None
    messages: list[Message] = []
    keys: dict[tuple[str, str], KeyEntry] = {}

    @property
    def first_held(self) -> int:
        """The offset of the first message that is held; ``top + 1`` if none is."""
        return self.top - len(self.messages) + 1

    def oldest_readable(self, cutoff: int) -> int:
        """Return the offset of the first message that can be read; ``top + 1`` if none can."""
        oldest = max(self.first_held, self.top - self.count + 1)
        while oldest <= self.top and self.messages[oldest - self.first_held].at < cutoff:
            oldest += 1
        return oldest

    def between(self, first: int, last: int) -> tuple[Message, ...]:
        """Return the messages from one offset to another, both included."""
        start = self.first_held
        return tuple(self.messages[first - start : max(0, last + 1 - start)])

    def get(self, offset: int) -> Message | None:
        """Return the message at an offset up to the top; None if it isn't held."""
        index = offset - self.first_held
        return self.messages[index] if index >= 0 else None

    def trim(self, oldest: int, key_cutoff: int) -> None:
        """Delete the messages below an offset, and their keys, except those that are young."""
        del self.messages[: oldest - self.first_held]
        expired = []
        for name, entry in self.keys.items():
            if entry.offset >= oldest or entry.at >= key_cutoff:
                break
            expired.append(name)
        for name in expired:
            del self.keys[name]


class _PropertiesLog(msgspec.Struct, eq=False):
    """The log of a room's properties.

    :ivar messages: the last one of each name, ascending by offset.
    :ivar removed: the offset of the last removal; 0 if there was none.
    """

    top: int
    empty_since: float | None = None
    messages: dict[str, Message] = {}
    keys: dict[tuple[str, str], KeyEntry] = {}
    removed: int = 0

    def add(self, message: Message) -> None:
        """Add a message in the place of the one of the same name, or remove that one."""
        self.top = message.position.offset
        self.messages.pop(message.event, None)  # so that it becomes the last one
        if message.data:
            self.messages[message.event] = message
        else:
            self.removed = self.top

    def refusal(self, draft: Draft, retention: Retention) -> RealtimeError | None:
        """Why a property can't be set; None if it can."""
        others = [one.data for one in self.messages.values() if one.event != draft.event]
        return retention.refuse_property(len(others) + 1, sum(map(len, others)) + len(draft.data))

    def trim_keys(self, key_cutoff: int) -> None:
        """Delete the keys that are not young."""
        self.keys = {name: entry for name, entry in self.keys.items() if entry.at >= key_cutoff}


_AnyLog = _RoomLog | _PropertiesLog


@implementer(IMessageStore)
class MemoryStore:
    """Logs in memory. They end with the process, and each start is a new epoch.

    :param retention: what is kept.
    :param time: seconds since 1970, for :attr:`~realtime_chat.values.model.Message.at` and ages.
    :param random_bytes: gives as many as it is asked for.
    :param secret: a secret to use instead of a random one.
    :param monotonic: seconds that only grow, for ages.
    """

    def __init__(
        self,
        retention: Retention,
        time: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        secret: bytes | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._retention = retention
        self._slack = retention.slack
        self._clock = RetentionClock(retention, time, monotonic)
        self._logs: dict[str, _AnyLog] = {}
        self._names: list[str] = []  # those of the rooms, sorted
        self._floor = 0
        self._room_limit = RoomCreationLimit(retention)
        self._is_read: Callable[[str], bool] = lambda room: False
        self._swept_at = 0.0
        self._swept_room = ""
        self._epoch = new_epoch(random_bytes)
        self._stopped = False
        self.sessions = MemorySessions(self._clock.elapsed)
        self.secret = random_bytes(32) if secret is None else secret

    def describe(self) -> str:
        return f"memory (lost at a restart; {self._retention.describe()})"

    def start(self) -> Deferred[None]:
        return succeed(None)

    def stop(self) -> Deferred[None]:
        self._stopped = True
        return succeed(None)

    def append(self, draft: Draft) -> Deferred[AppendResult]:
        if self._stopped:
            return fail(_stopped())
        at = self._clock.now_ms()
        if self._clock.elapsed() - self._swept_at >= _SWEEP_INTERVAL:
            self._sweep()
        try:
            log = self._logs.get(draft.room)
            if log is None:
                if not draft.data:
                    return succeed(AppendResult(draft.placed(Position(self._epoch, self._floor), at), duplicate=True))
                log = self._create(draft.room)
            if draft.key is None:
                return succeed(self._add(log, draft, at))
            return self._append_once(log, draft, draft.key, at)
        except RealtimeError as refusal:
            return fail(refusal)

    def _create(self, name: str) -> _AnyLog:
        """Create a log, and its room.

        :raises RealtimeError: there are too many rooms.
        """
        room = room_of_log(name)
        if room not in self._logs:
            refusal = self._room_limit.refusal(len(self._names), self._clock.elapsed())
            if refusal is not None:
                raise refusal
            self._logs[room] = _RoomLog(self._floor, self._retention.count_for(room))
            insort(self._names, room)
        if name != room:
            self._logs[name] = _PropertiesLog(self._floor)
        return self._logs[name]

    def _add(self, log: _AnyLog, draft: Draft, at: int) -> AppendResult:
        if isinstance(log, _PropertiesLog):
            return self._set(log, draft, at)
        log.top += 1
        message = draft.placed(Position(self._epoch, log.top), at)
        log.messages.append(message)
        if len(log.messages) > log.count + self._slack:
            self._trim(log)
        return AppendResult(message)

    def _set(self, log: _PropertiesLog, draft: Draft, at: int) -> AppendResult:
        """Set or remove a property.

        :raises RealtimeError: ``too_many``.
        """
        if not draft.data and draft.event not in log.messages:
            return AppendResult(draft.placed(Position(self._epoch, log.top), at), duplicate=True)
        refusal = log.refusal(draft, self._retention) if draft.data else None
        if refusal is not None:
            raise refusal
        message = draft.placed(Position(self._epoch, log.top + 1), at)
        log.add(message)
        return AppendResult(message)

    def _append_once(self, log: _AnyLog, draft: Draft, key: str, at: int) -> Deferred[AppendResult]:
        name = (draft.sender.id, key)
        digest = content_digest(draft)
        entry = self._find_key(log, name)
        if entry is not None:
            found = log.get(entry.offset) if isinstance(log, _RoomLog) else None
            result = entry._replace(message=found).replay(draft, digest, self._epoch)
            return fail(result) if isinstance(result, RealtimeError) else succeed(result)
        if draft.after is not None and self._find_key(log, (draft.sender.id, draft.after)) is None:
            return fail(out_of_order())
        added = self._add(log, draft, at)
        log.keys.pop(name, None)  # or it would keep its place among the older ones
        log.keys[name] = KeyEntry(digest, log.top, at)
        return succeed(added)

    def _find_key(self, log: _AnyLog, name: tuple[str, str]) -> KeyEntry | None:
        entry = log.keys.get(name)
        return entry if entry is not None and self._clock.keeps_key(entry.at, entry.offset, log.top) else None

    def read_after(self, room: str, offset: int, limit: int) -> Deferred[Page]:

        def bounds(oldest: int, top: int) -> tuple[int, int]:
            return max(oldest, offset + 1), min(top, max(oldest - 1, offset) + limit)

        return self._read(room, bounds, lambda found: found[: fitting(found)])

    def read_before(self, room: str, offset: int | None, limit: int) -> Deferred[Page]:

        def bounds(oldest: int, top: int) -> tuple[int, int]:
            last = top if offset is None else min(top, offset - 1)
            return max(oldest, last - limit + 1), last

        return self._read(room, bounds, lambda found: found[len(found) - fitting(found[::-1]) :])

    def _read(
        self, room: str, bounds: Callable[[int, int], tuple[int, int]], cut: Callable[[_Messages], _Messages]
    ) -> Deferred[Page]:
        if self._stopped:
            return fail(_stopped())
        log = self._logs.get(room)
        if log is None:
            return succeed(Page(self._epoch, self._floor + 1, self._floor))
        if isinstance(log, _PropertiesLog):
            first, _ = bounds(1, log.top)
            changes = tuple(one for one in log.messages.values() if one.position.offset >= first)
            return succeed(Page(self._epoch, log.removed + 1, log.top, cut(changes)))
        cutoff = self._clock.message_cutoff()
        oldest = log.oldest_readable(cutoff)
        first, last = bounds(oldest, log.top)
        found = cut(log.between(first, last) if first <= last else ())
        return succeed(readable_page(self._epoch, oldest, log.top, found, cutoff))

    def _trim(self, log: _AnyLog) -> None:
        if isinstance(log, _PropertiesLog):
            log.trim_keys(self._clock.key_cutoff())
            return
        oldest = log.oldest_readable(self._clock.message_cutoff())
        log.trim(oldest, self._clock.key_cutoff())

    # There is no timer: appends and lists of rooms sweep.

    def _sweep(self) -> None:
        begin = bisect_right(self._names, self._swept_room)
        rooms = self._names[begin : begin + _ROOMS_PER_SWEEP]
        self._swept_room = rooms[-1] if len(rooms) == _ROOMS_PER_SWEEP else ""
        self._swept_at = now = self._clock.elapsed()
        for room in rooms:
            for name in (properties_log(room), room):
                if name in self._logs:
                    self._sweep_log(name, self._logs[name], now)

    def _sweep_log(self, name: str, log: _AnyLog, now: float) -> None:
        self._trim(log)
        if log.messages or properties_log(name) in self._logs:
            log.empty_since = None
        elif log.empty_since is None or self._is_read(name):
            log.empty_since = now
        elif not log.keys and now >= log.empty_since + self._retention.room_age:
            self.forget(name)

    def forget(self, name: str) -> None:
        """Forget a log that exists, see :meth:`IMessageStore.rooms`."""
        self._floor = max(self._floor, self._logs.pop(name).top)
        if not is_properties_log(name):
            del self._names[bisect_right(self._names, name) - 1]

    def rooms(self, after: str, limit: int) -> Deferred[Sequence[str]]:
        if self._stopped:
            return fail(_stopped())
        self._sweep()
        begin = bisect_right(self._names, after)
        return succeed(self._names[begin : begin + limit])

    def check(self) -> Deferred[None]:
        return fail(_stopped()) if self._stopped else succeed(None)

    def watch(self, on_epoch_change: Callable[[], None], is_read: Callable[[str], bool] = lambda room: False) -> None:
        """The epoch never changes."""
        self._is_read = is_read


def _stopped() -> StoreError:
    return StoreError("the store is stopped")
