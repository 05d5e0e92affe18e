"""The log of a room's properties: of each name it keeps the last value alone.

All of it is in memory while somebody reads it, as a dictionary in the order of the offsets. So a page for a reader who
is behind is what was set after its cursor, and values that were set again meanwhile are skipped. Offsets between two
entries of a page may be missing. Removals are kept as entries, too, as long as there are not too many. A reader from
before the oldest removal that is known is sent all properties anew: a *snapshot*.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import NamedTuple

from msgspec.structs import replace
from twisted.internet.interfaces import IDelayedCall

from realtime_chat.core.interfaces import EncodedBatch, Fanout, MessageSink, Subscriber
from realtime_chat.core.log_view import EntryPage, LogContext, StartPosition, chunks
from realtime_chat.core.room import Room, Subscription
from realtime_chat.values import codec
from realtime_chat.values.codec import PropertiesEntry, PropertyEntry
from realtime_chat.values.model import Message, Page, Position, room_of_log

ALL_PROPERTIES = 1_000_000
"""A limit for reads of the store that is never reached: a room's properties are bounded."""

_MAX_REMOVALS = 1000
_UNPLACED = -1
"""The offset of a reader that has to be sent a snapshot first."""


def after_position(properties: bool | Position) -> StartPosition:
    """Where a reader starts that is told nothing at first.

    :param properties: its position; True if it has none.
    """
    return StartPosition(properties if isinstance(properties, Position) else Position("", _UNPLACED), True)


class PropertyValues(NamedTuple):
    """What a reader of properties is sent first.

    :param full: whether these are all properties; else they are what has changed since the reader's position.
    :param position: the reader's position after them.
    :param top: where the log ends.
    """

    full: bool
    position: Position
    top: Position
    entries: Sequence[codec.Entry]

    def encode(self, room: str) -> bytes:
        """The event ``properties``."""
        return codec.encode_properties(room, self.full, self.position, self.top, self.entries)

    def fields(self) -> codec.PropertiesFields:
        """The same for the ``joined``."""
        return codec.properties_fields(self.full, self.position, self.top, self.entries)


class PropertyLog(Room):
    """The log of a room's properties as one node knows it, and who reads it.

    :param page: all that is kept.
    :ivar complete_after: removals up to this offset may be unknown.
    :ivar size: bytes of its encoded changes in memory.
    """

    __slots__ = ("_all", "_entries", "_flush_timer", "_flushed_at", "complete_after", "size")

    def __init__(self, name: str, page: Page, context: LogContext) -> None:
        super().__init__(name, replace(page, messages=()), context)
        self._entries: dict[str, PropertyEntry] = {}
        self._all: dict[int | None, PropertyValues] = {}  # what readers without a position were sent last
        self.size = 0
        self._fill(page)
        self.complete_after = page.oldest - 1
        self._flushed_at = float("-inf")
        self._flush_timer: IDelayedCall | None = None

    def stop(self) -> None:
        """Send nothing more, as the process ends."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None

    def forget_batches(self) -> None:
        """Forget what was put together for readers."""
        super().forget_batches()
        self._all.clear()

    @property
    def empty(self) -> bool:
        return not self._entries and not self.has_gap

    def find(self, name: str) -> PropertyEntry | None:
        """The property of a name; None if there is none."""
        entry = self._entries.get(name)
        return None if entry is None or entry.removed else entry

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep it in memory during a ``with`` block, for somebody who is about to read it."""
        self.add()
        try:
            yield
        finally:
            self.reader_count -= 1
            self.release()

    # What is new

    def announce(self, message: Message) -> None:
        """Take in a change that was stored. See :meth:`LogView.announce`."""
        position = message.position
        if position.epoch == self.epoch and position.offset == self.top + 1:
            self._append(PropertyEntry(message))
        else:
            self._on_announced(position.offset if position.epoch == self.epoch else self.top + 1)

    def _fill(self, page: Page) -> None:
        """Hold what a page has, and nothing else."""
        self._entries = {message.event: PropertyEntry(message) for message in page.messages}
        self._resized(sum(len(entry.json) for entry in self._entries.values()) - self.size)

    def _resized(self, growth: int) -> None:
        self.size += growth
        self._context.on_properties_growth(growth)

    def _append(self, entry: codec.Entry) -> None:
        assert isinstance(entry, PropertyEntry)
        self.top = entry.offset
        before = self._entries.pop(entry.name, None)  # so that it becomes the last one
        self._entries[entry.name] = entry
        self._resized(len(entry.json) - (0 if before is None else len(before.json)))
        if entry.removed:
            self._forget_removals()
        if not self._pending and (self._live or self._alone is not None):
            self._announced_at = self._context.clock.seconds()
            self._flush_soon()
            self._pending = [entry]

    def _forget_removals(self) -> None:
        """Forget the older half of the removals, if there are too many."""
        if len(self._entries) < 2 * _MAX_REMOVALS:
            return
        removals = [entry for entry in self._entries.values() if entry.removed]
        for entry in removals[: len(removals) // 2]:
            self.complete_after = entry.offset
            self._resized(-len(self._entries.pop(entry.name).json))

    def _flush_soon(self) -> None:
        """Flush at the end of the turn; but not sooner than ``property_interval`` seconds after the last flush."""
        if self._pending or self._flush_timer is not None:
            return
        wait = self._flushed_at + self._context.limits.property_interval - self._context.clock.seconds()
        if wait <= 0:
            self._context.flush_soon(self)
        else:
            self._flush_timer = self._context.clock.callLater(wait, self._end_interval)

    def _end_interval(self) -> None:
        self._flush_timer = None
        if self._pending:
            self._context.flush_soon(self)

    def flush(self) -> None:
        """Send everyone who is live the last value of each name that has changed."""
        if self._pending and self._flushed < self.complete_after:
            self._pending = None
            for reader in self._stop_live():  # they need a snapshot
                reader.subscriber.pump()
        elif self._pending:
            self._pending = list(self._after(self._flushed))
            self._flushed_at = self._context.clock.seconds()
        super().flush()

    # Catching up

    async def catch_up(self) -> None:
        """Take in all that the log has by now.

        :raises StoreError:
        """
        while True:
            position, epoch_changes = self.position, self._epoch_changes
            page = await self._read_changes(self.top)
            if page.epoch != self.epoch or page.oldest > self.top + 1:
                page = await self._read_changes(0)
                if self._epoch_changes != epoch_changes:
                    continue
                self._replace(page)
            else:
                self._add(page)
            if not self.has_gap or position == self.position:
                self.highest_announced = self.top
                return

    async def _read_changes(self, offset: int) -> Page:
        self._context.counters.reads += 1
        page: Page = await self._context.store.read_after(self.name, offset, ALL_PROPERTIES)
        return page

    def _add(self, page: Page) -> None:
        """Take in what was set after what is known."""
        for message in page.messages:
            if message.position.offset > self.top:
                self._append(PropertyEntry(message))
        self.highest_announced = max(self.highest_announced, page.top)

    def _replace(self, page: Page) -> None:
        """Go on with all that the log has, where it is another one, or what was removed isn't known."""
        if page.epoch == self.epoch and page.top <= self.top:
            return  # what was missing has been announced meanwhile
        announced = self.highest_announced if page.epoch == self.epoch else 0
        left = self._restart(page.epoch, page.top)
        self.highest_announced = max(announced, page.top)
        self._fill(page)
        self.complete_after = max(page.top, page.oldest - 1)  # readers know what is gone now
        for reader in left:
            reader.subscriber.pump()

    # Pages

    def _after(self, offset: int) -> Sequence[PropertyEntry]:
        """What was set or removed after an offset, ascending."""
        found = list(takewhile(lambda entry: entry.offset > offset, reversed(self._entries.values())))
        found.reverse()
        return found

    def first_values(self, since: Position | None, most: int | None) -> PropertyValues:
        """What a reader is sent first.

        :param since: its position; None if it has none.
        :param most: bytes of the largest answer; None for all that there is.
        """
        if since is not None and self._can_resume(since.epoch, since.offset, 0):
            return self._cut(False, self._after(since.offset), most)
        known = self._all.get(most)
        if known is None or known.top != self.position:
            entries = [entry for entry in self._entries.values() if not entry.removed]
            known = self._all[most] = self._cut(True, entries, most)
        return known

    def _cut(self, full: bool, entries: Sequence[PropertyEntry], most: int | None) -> PropertyValues:
        first = entries if most is None or not entries else next(chunks(entries, most))
        end = self.top if len(first) == len(entries) else first[-1].offset
        return PropertyValues(full, Position(self.epoch, end), self.position, first)

    def _can_resume(self, epoch: str, offset: int, complete_to: int) -> bool:
        is_placed = epoch == self.epoch and 0 <= offset <= self.top
        return is_placed and max(offset, complete_to) >= self.complete_after

    def covers(self, properties: bool | Position) -> bool:
        """Whether this node has heard of all that a reader at a position has.

        :param properties: its position; True if it has none.
        """
        return properties is True or (
            isinstance(properties, Position) and self.knows(properties.epoch, properties.offset)
        )

    def page_for(self, epoch: str, offset: int, complete_to: int) -> EntryPage:
        """One page of what a reader lacks.

        :param complete_to: it needs no removals up to this offset.
        """
        if self._can_resume(epoch, offset, complete_to):
            values = self._cut(False, self._after(offset), self._context.limits.page_bytes)
            if values.entries and values.entries[-1].offset == values.position.offset:
                return EntryPage(epoch, offset, values.entries)
            return EntryPage(epoch, offset, (self._event(values),))  # at the end is a removal that isn't known
        cached = self._cached_page
        if cached is None or cached.epoch != self.epoch or self._cached_changes != self.top:
            snapshot = self._event(self.first_values(None, self._context.limits.page_bytes))
            cached = self._cached_page = EntryPage(self.epoch, _UNPLACED, (snapshot,))
            self._cached_changes = self.top
        return cached

    def _event(self, values: PropertyValues) -> PropertiesEntry:
        return PropertiesEntry(values.position.offset, values.encode(room_of_log(self.name)))

    def batch(self, fanout: Fanout, page: EntryPage) -> EncodedBatch:
        """Encode a page. Readers at the same place may need other pages a moment later, so none is kept."""
        return fanout.encode(self.name, page.epoch, page.entries)


class PropertySubscription(Subscription):
    """A cursor in the properties of a room.

    :ivar complete_to: it needs no removals up to this offset, as it was sent a snapshot that was taken there; else 0.
    """

    is_of_properties = True
    __slots__ = ("complete_to",)

    def __init__(
        self,
        subscriber: Subscriber,
        transport: MessageSink,
        log: PropertyLog,
        start: StartPosition,
        complete_to: int,
    ) -> None:
        super().__init__(subscriber, transport, log, start)
        self.complete_to = complete_to

    def next_page(self) -> EntryPage:
        """What follows the cursor. A snapshot says itself that it replaces what was sent before."""
        log = self.room
        assert isinstance(log, PropertyLog)
        page = log.page_for(self.epoch, self.offset, self.complete_to)
        self.epoch, self.offset = page.epoch, page.start
        if page.start == _UNPLACED:
            self.complete_to = log.top
        return page
