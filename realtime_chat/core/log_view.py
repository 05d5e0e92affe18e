"""A room's log as one node sees it: how far it was announced here, its newest part in memory, and pages of it.

A node hears of most messages by announcements. What it hears of too early, or not at all, leaves a gap. The room closes
it by a catch-up: it reads the log from the last offset that was announced here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from realtime_chat.core.interfaces import EncodedBatch, Fanout, IMessageStore, Reader
from realtime_chat.core.tail import Tail
from realtime_chat.values.codec import Entry
from realtime_chat.values.counters import Counters
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import Message, Page, Position, is_namespace_log

_NO_TAIL = Tail(0, 0)
"""Stands for the tail of every room that has none yet; nothing is ever added to it."""


class EntryPage(NamedTuple):
    """Consecutive entries of a log, ready to be sent.

    :param start: the offset before the first entry; no entry between the two is missing.
    :param read: which of the room's reads of the store it comes from, counted from 1; 0 for a page from memory.
    """

    epoch: str
    start: int
    entries: Sequence[Entry]
    read: int = 0


class StartPosition(NamedTuple):
    """Where a reader starts.

    :param recovered: whether that is where it asked to start.
    :param page: what follows this position, if it was read already to find the position.
    """

    position: Position
    recovered: bool
    page: EntryPage | None = None


class LogContext(NamedTuple):
    """What the logs of all rooms of a node share.

    :param on_gap: called with the room when it has heard of a message, and not of what comes before; see
        :meth:`LogView.catch_up`.
    :param on_tail_growth: called with the bytes by which its tail grew.
    :param on_properties_growth: called with the bytes by which the properties in memory grew.
    :param flush_soon: called with the room when it has something to flush at the end of the turn.
    :param on_unused: called with the room when its last reader has gone, and when the last lease of it has ended.
    :param time: seconds since 1970, for forgetting by age.
    :param clock: seconds that only grow, for measuring.
    """

    store: IMessageStore
    limits: Limits
    on_gap: Callable[..., None]
    on_tail_growth: Callable[[int], None]
    on_properties_growth: Callable[[int], None]
    flush_soon: Callable[..., None]
    on_unused: Callable[..., None]
    time: Callable[[], float]
    clock: IReactorTime
    counters: Counters


class LogView:
    """What this node knows of one room's log. The room itself adds its readers: :class:`~realtime_chat.core.room.Room`.

    :param page: the newest messages and the log's bounds, as the store has them.
    :ivar epoch_start: where this epoch begins; see :class:`~realtime_chat.values.model.Page`.
    :ivar oldest: no offset below this one is kept.
    :ivar top: the last offset that was announced here, with all before it.
    :ivar highest_announced: the highest offset that this node has heard of.
    """

    __slots__ = (
        "_batches",
        "_cached_changes",
        "_cached_page",
        "_context",
        "_epoch_changes",
        "_previous_epoch",
        "_reads",
        "_waiting",
        "epoch",
        "epoch_start",
        "highest_announced",
        "name",
        "oldest",
        "tail",
        "top",
    )

    def __init__(self, name: str, page: Page, context: LogContext) -> None:
        self.name = name
        self.epoch = page.epoch
        self.epoch_start = page.epoch_start
        self.oldest = page.oldest
        self.top = self.highest_announced = page.top
        self.tail = _NO_TAIL
        self._context = context
        self._waiting: dict[int, list[Deferred[EntryPage]]] | None = None  # for reads under way, by offset
        self._cached_page: EntryPage | None = None  # that was taken from the tail last
        self._cached_changes = 0  # and the tail's changes then
        self._reads = 0
        self._epoch_changes = 0  # how often another log took this one's place
        self._previous_epoch: str | None = None  # the epoch of the one before
        self._batches: dict[Fanout, tuple[EntryPage, EncodedBatch]] | None = None
        for message in page.messages:
            self._keep(Entry(message))

    @property
    def position(self) -> Position:
        """The last position that was announced here."""
        return Position(self.epoch, self.top)

    @property
    def empty(self) -> bool:
        """Whether its log has no message, as far as this node knows."""
        return self.oldest > self.top and not self.has_gap

    @property
    def is_read(self) -> bool:
        """Whether a read of the store is under way."""
        return bool(self._waiting)

    @property
    def _history(self) -> int:
        """How many messages its log keeps."""
        limits = self._context.limits
        return limits.namespace_history if is_namespace_log(self.name) else limits.history

    # What the room adds

    def _append(self, entry: Entry) -> None:
        """Take in the entry that follows :attr:`top`: keep it, and send it to the readers soon."""
        raise NotImplementedError

    def _stop_live(self) -> Sequence[Reader]:
        """Send what is pending, and leave behind all who are live; give them back."""
        raise NotImplementedError

    # Announcements and gaps

    def announce(self, message: Message) -> None:
        """Take in a message that was stored. The next one is sent to readers at the end of the turn.

        A message that was announced before is ignored. One that comes too early, or is of another epoch, makes a gap.
        """
        position = message.position
        if position.epoch != self.epoch:
            self._on_announced(self.top + 1)  # something, at least
        elif position.offset == self.top + 1:
            self._append(Entry(message))
        else:
            self._on_announced(position.offset)

    def knows(self, epoch: str, offset: int) -> bool:
        """Whether an announcement of messages up to this one would bring nothing new."""
        return epoch == self.epoch and offset <= self.top

    @property
    def has_gap(self) -> bool:
        """Whether there is something in the log that this node has heard of and doesn't have."""
        return self.highest_announced > self.top

    def _on_announced(self, offset: int) -> None:
        if offset > self.top:
            self.highest_announced = max(self.highest_announced, offset)
            self._context.on_gap(self)

    def _keep(self, entry: Entry) -> None:
        if self.tail is _NO_TAIL:
            limits = self._context.limits
            self.tail = Tail(self._history, limits.tail_bytes)
        self.tail.append(entry)
        self._context.on_tail_growth(len(entry.json))

    async def catch_up(self) -> None:
        """Take in all that the log has by now beyond what was announced here.

        :raises StoreError:
        """
        before = self._reads
        while True:
            position = self.position
            page = await self.read_after(self.top)
            if page.read > before and (not self.has_gap or position == self.position):
                self.highest_announced = self.top
                return

    def _learn(self, page: Page) -> None:
        """Take in what a read shows of the log beyond what was announced."""
        left: list[Reader] = []
        if page.epoch != self.epoch:
            left += self._restart(page.epoch, page.epoch_start)
        if page.oldest > self.top + 1:  # what comes next is gone
            left += self._restart(page.epoch, page.oldest - 1)
        for message in page.messages:
            if message.position.offset == self.top + 1:
                self._append(Entry(message))
        self.oldest = max(self.oldest, page.oldest)
        self._on_announced(page.top)
        for reader in left:
            reader.subscriber.pump()

    def _restart(self, epoch: str, top: int) -> Sequence[Reader]:
        """Go on in another log, or behind a part of this one that is gone.

        :returns: who was live, and has to catch up now.
        """
        left = self._stop_live()
        self._batches = None
        self.tail.clear()
        if epoch != self.epoch:
            self._epoch_changes += 1
            self._previous_epoch, self.epoch_start = self.epoch, top
        self.epoch, self.top, self.highest_announced, self.oldest = epoch, top, top, 1
        return left

    # Pages

    def resume_offset(self, reader: Reader) -> int:
        """The offset after which a reader goes on.

        A reader of another epoch goes on where this epoch began. If its epoch is the one before this, it goes on before
        that, with what was kept of the log that it knew.
        """
        if reader.epoch == self.epoch:
            return reader.offset
        start = self.epoch_start
        return min(reader.offset, start) if reader.epoch == self._previous_epoch else start

    def recent_after(self, epoch: str, offset: int) -> EntryPage | None:
        """One page of what follows ``offset``, if memory has it."""
        if epoch != self.epoch or offset > self.top:
            return None
        if offset == self.top:
            return EntryPage(epoch, offset, ())
        self._forget_old()
        if (
            self._cached_page is not None
            and self._cached_page.start == offset
            and self._cached_changes == self.tail.changes
        ):
            return self._cached_page
        entries = self.tail.after(offset, self._context.limits.page_messages)
        if not entries:
            return None
        self._cached_page = self._first_page(epoch, offset, entries)
        self._cached_changes = self.tail.changes
        return self._cached_page

    def _first_page(self, epoch: str, start: int, entries: Sequence[Entry], read: int = 0) -> EntryPage:
        return EntryPage(epoch, start, next(chunks(entries, self._context.limits.page_bytes)), read)

    def _forget_old(self) -> None:
        if self._context.limits.history_age is not None:
            self.tail.forget_before((self._context.time() - self._context.limits.history_age) * 1000)

    def cached_page_after(self, since: Position, limit: int) -> Page | None:
        """What follows ``since``, from memory alone, for when the store can't be read.

        :returns: None where memory doesn't reach back so far.
        """
        if since.epoch != self.epoch or since.offset > self.top:
            return None
        self._forget_old()
        entries = [] if since.offset == self.top else self.tail.after(since.offset, limit)
        return None if entries is None else self._cached_page_of(entries)

    def cached_page_before(self, before: Position | None, limit: int) -> Page | None:
        """The same of the last messages, or of those before a position; perhaps fewer than there are."""
        if before is not None and before.epoch != self.epoch:
            return None
        self._forget_old()
        entries = self.tail.before(self.top + 1 if before is None else before.offset, limit)
        return self._cached_page_of(entries) if entries else None

    def _cached_page_of(self, entries: Sequence[Entry]) -> Page:
        messages = tuple(entry.message() for entry in entries)
        return Page(self.epoch, self.oldest, self.top, messages, self.epoch_start)

    async def find_after(self, offset: int) -> EntryPage:
        """One page of what follows ``offset``, also where that is more than was announced here.

        :raises StoreError:
        """
        if offset > self.top:  # another node has announced it
            await self.catch_up()
        return self.recent_after(self.epoch, offset) or await self.read_after(offset)

    def read_after(self, offset: int) -> Deferred[EntryPage]:
        """One page of what follows ``offset`` in the store. If the log lacks a part, the page starts after that.

        Readers who ask for the same at the same time share one read.

        :raises StoreError:
        """
        answer: Deferred[EntryPage] = Deferred()
        if self._waiting is None:
            self._waiting = {}
        waiting = self._waiting.get(offset)
        if waiting is not None:
            waiting.append(answer)
            return answer
        self._waiting[offset] = [answer]
        Deferred.fromCoroutine(self._read_page_after(offset)).addBoth(self._on_page_read, offset)
        return answer

    async def _read_page_after(self, offset: int) -> EntryPage:
        store, limits = self._context.store, self._context.limits
        page, read = await self._read(partial(store.read_after, self.name, offset, limits.page_messages))
        if not page.messages:
            return EntryPage(page.epoch, min(page.top, max(offset, page.oldest - 1)), (), read)
        return self._page_of(page, read)

    def _page_of(self, page: Page, read: int) -> EntryPage:
        entries = [Entry(message) for message in page.messages]
        return self._first_page(page.epoch, entries[0].offset - 1, entries, read)

    def _on_page_read(self, result: EntryPage | Failure, offset: int) -> None:
        assert self._waiting is not None
        waiting = self._waiting.pop(offset)
        self._waiting = self._waiting or None
        for answer in waiting:
            if isinstance(result, Failure):
                answer.errback(result)
            else:
                answer.callback(result)

    async def _read(self, read: Callable[[], Deferred[Page]]) -> tuple[Page, int]:
        """Read a page from the store, and learn from it. A page of an earlier epoch is read again.

        :returns: the page, and which of the room's reads it is.
        """
        while True:
            self._reads += 1
            self._context.counters.reads += 1
            number, epoch_changes = self._reads, self._epoch_changes
            page = await read()
            if epoch_changes == self._epoch_changes or page.epoch == self.epoch:
                self._learn(page)
                return page, number

    def batch(self, fanout: Fanout, page: EntryPage) -> EncodedBatch:
        """Encode a page, once where many readers stand at the same place."""
        if self._batches is None:
            self._batches = {}
        cached = self._batches.get(fanout)
        if cached is not None and (cached[0] is page or _same(cached[0], page)):
            return cached[1]
        batch = fanout.encode(self.name, page.epoch, page.entries)
        self._batches[fanout] = (page, batch)
        return batch

    def forget_batches(self) -> None:
        """Forget what was encoded for readers who are behind."""
        self._batches = self._cached_page = None

    # Where readers start

    async def start(self, since: Position | None, last: int) -> StartPosition:
        """Where a reader starts.

        :param since: its position; None where it has none.
        :param last: how many messages before the top it starts with, where ``since`` can't be recovered.
        :raises StoreError:
        """
        known = self.start_known(since)
        if known is not None:
            return known
        if since is not None:
            if since.epoch != self.epoch:  # another node may have heard of that epoch sooner
                await self.catch_up()
            page = await self.find_after(since.offset)
            recovered = page.epoch == since.epoch and page.start == since.offset
            self._context.counters.resumes[recovered] += 1
            if recovered:
                return StartPosition(since, True, page)
        start = await self._before_last(last)
        if since is not None and since.epoch == self._previous_epoch and start.position.epoch == self.epoch:
            # not again what it had
            offset = max(start.position.offset, min(since.offset, self.epoch_start))
            return StartPosition(Position(self.epoch, offset), False)
        return start._replace(recovered=since is None)

    def start_known(self, since: Position | None) -> StartPosition | None:
        """The same, if memory shows that nothing after ``since`` is lost; else None."""
        if since is None:
            return None
        is_top = since.offset == self.top and since.epoch == self.epoch
        if not is_top and self.recent_after(since.epoch, since.offset) is None:
            return None
        self._context.counters.resumes[True] += 1
        return StartPosition(since, True)

    async def _before_last(self, last: int) -> StartPosition:
        """The position before the last messages that are kept, at most ``last`` of them."""
        first = self.tail.first
        if first is None:
            if last == 0 or self.oldest > self.top:
                return StartPosition(self.position, True)
        elif self.top - last >= first - 1:
            return StartPosition(Position(self.epoch, self.top - last), True)
        elif first <= self.oldest or len(self.tail) >= self._history:
            return StartPosition(Position(self.epoch, first - 1), True)
        page, read = await self._read(partial(self._context.store.read_before, self.name, None, last))
        if self.has_gap:
            await self.catch_up()
        if not page.messages:
            return StartPosition(Position(page.epoch, page.top), True)
        entries = self._page_of(page, read)
        return StartPosition(Position(page.epoch, entries.start), True, entries)


def _same(one: EntryPage, other: EntryPage) -> bool:
    return one.epoch == other.epoch and one.start == other.start and len(one.entries) == len(other.entries)


def chunks(entries: Sequence[Entry], most_bytes: int) -> Iterator[Sequence[Entry]]:
    """Cut into runs of at most ``most_bytes``, of at least one entry each."""
    return iter((entries,)) if len(entries) == 1 else _cut(entries, most_bytes)


def _cut(entries: Sequence[Entry], most_bytes: int) -> Iterator[Sequence[Entry]]:
    start = size = 0
    for index, entry in enumerate(entries):
        if size and size + len(entry.json) > most_bytes:
            yield entries[start:index]
            start, size = index, 0
        size += len(entry.json)
    yield entries[start:]
