"""A room as this node knows it: the top of its log, and everyone here who reads it.

The hand-over between reading the log and being told live has one rule. Fan-out brings only the offset that follows;
a subscription becomes live in the turn in which its cursor equals the last offset fanned out here, after the pending
messages were flushed. So nothing falls between looking and waiting, and nothing is seen twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.core.interfaces import Batch, Fanout, IMessageStore, MessageSink, ReplySink, TurnClock
from realtime_chat.core.tail import Tail
from realtime_chat.values.codec import Entry
from realtime_chat.values.counters import Counters
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import Message, Page, Position

if TYPE_CHECKING:
    from realtime_chat.core.session import Session
    from realtime_chat.presence.membership import Lease

__all__ = ["BroadcastResult", "EntryPage", "Room", "RoomContext", "StartPosition", "Subscription", "flush_all_replies"]

_log = Logger()
_NO_TAIL = Tail(0, 0)
"""Stands for the tail of every room that has none yet; nothing is ever added to it."""


class EntryPage(NamedTuple):
    """Consecutive entries of a log, ready to be sent.

    :param start: the offset that they follow without a hole.
    :param read: which of the room's looks into the store it comes from, counted from 1; 0 for one out of memory.
    """

    epoch: str
    start: int
    entries: Sequence[Entry]
    read: int = 0


class StartPosition(NamedTuple):
    """Where a reader starts.

    :param recovered: whether that is where it asked to start.
    """

    position: Position
    recovered: bool


class BroadcastResult(NamedTuple):
    """What became of an event that stands in no log.

    :param delivered: how many took it.
    :param missed: who was live and didn't, and is behind now.
    """

    delivered: int
    missed: Sequence[Subscription]


class Subscription:
    """A session's cursor in a room.

    While it is *live* its cursor is the room's own, and ``offset`` says nothing.

    :ivar lease: what makes its user a member of the room; None where it has none.
    :ivar members_version_sent: the version of the members that it was sent; while it is live, at least the room's.
    """

    __slots__ = ("epoch", "lease", "live", "members_version_sent", "offset", "room", "session", "transport")

    def __init__(self, session: Session, transport: MessageSink, room: Room, position: Position) -> None:
        self.session = session
        self.transport = transport
        self.room = room
        self.epoch = position.epoch
        self.offset = position.offset
        self.live = False
        self.lease: Lease | None = None
        self.members_version_sent = 0


class RoomContext(NamedTuple):
    """What all rooms of a node share.

    :param schedule: called with the room when it has something to flush at the end of the turn.
    :param lacks: called with the room when it has heard of a message, and not of what comes before; see
        :meth:`Room.look`.
    :param left: called with the room when its last reader has gone, and when the lease has ended that held it longer.
    :param grew: called with the bytes by which its tail grew.
    :param wall: seconds since 1970, for forgetting by age.
    :param clock: seconds that only grow, for measuring.
    :param counters: where to count.
    """

    store: IMessageStore
    limits: Limits
    schedule: Callable[[Room], None]
    lacks: Callable[[Room], None]
    left: Callable[[Room], None]
    grew: Callable[[int], None]
    wall: Callable[[], float]
    clock: TurnClock
    counters: Counters


class Room:
    """One room's log as far as this node has told its readers, and these readers.

    Anybody can name rooms that don't exist, so a room without messages is small: what it may never need is made when it
    is needed, and a reader who is alone has no dictionary.

    :param page: the newest messages and the log's bounds, as the store has them.
    :ivar begun: where this epoch begins; see :class:`~realtime_chat.values.model.Page`.
    :ivar oldest: no offset below this one is kept.
    :ivar top: the last offset that was announced here, with all before it.
    :ivar heard: the highest offset that was heard of.
    :ivar members_version_sent: the stamp up to which everyone who is live was told who is here.
    """

    __slots__ = (
        "_alone",
        "_announced_at",
        "_answered",
        "_batches",
        "_context",
        "_epoch_changes",
        "_flushed",
        "_live",
        "_looks",
        "_pending",
        "_previous_epoch",
        "_reads",
        "_slice",
        "_sliced",
        "begun",
        "epoch",
        "heard",
        "members_version_sent",
        "name",
        "oldest",
        "subscribers",
        "tail",
        "top",
        "used",
    )

    def __init__(self, name: str, page: Page, context: RoomContext) -> None:
        self.name = name
        self.epoch = page.epoch
        self.begun = page.begun
        self.oldest = page.oldest
        self.top = self.heard = page.top
        self.tail = _NO_TAIL
        self.subscribers = 0
        self.used = 0.0
        self.members_version_sent = 0
        self._context = context
        self._announced_at = 0.0
        self._alone: Subscription | None = None  # the only one that is live, where it was never one of several
        self._live: dict[Fanout, dict[Subscription, Any]] | None = None  # all that are live, where there were several
        self._flushed = page.top
        self._pending: list[Entry] | None = None
        self._answered: dict[Subscription, None] | None = None
        self._reads: dict[int, list[Deferred[EntryPage]]] | None = None
        self._slice: EntryPage | None = None  # that was read out of the tail last
        self._sliced = 0  # and the tail's changes then
        self._looks = 0
        self._epoch_changes = 0  # how often another log took this one's place
        self._previous_epoch: str | None = None  # the epoch of the one before
        self._batches: dict[Fanout, tuple[EntryPage, Batch]] | None = None
        for message in page.messages:
            self._keep(Entry(message))

    @property
    def idle(self) -> bool:
        """Whether nobody here reads it or is about to."""
        return not self.subscribers and not self._reads

    @property
    def empty(self) -> bool:
        """Whether its log never had a message, as far as is known here: nothing is lost if it is forgotten."""
        return not self.top and not self.heard

    @property
    def position(self) -> Position:
        """The last position that was announced here."""
        return Position(self.epoch, self.top)

    def live_count(self) -> int:
        """How many subscriptions are live."""
        alone = 0 if self._alone is None else 1
        return alone if self._live is None else alone + sum(map(len, self._live.values()))

    def _readers(self) -> list[tuple[Fanout, dict[Subscription, Any]]]:
        """Everyone who is live, with their outlets, by what brings messages to them."""
        if self._alone is not None:
            transport = self._alone.transport
            return [(transport.fanout, {self._alone: transport.direct_send})]
        return [] if self._live is None else list(self._live.items())

    # What is new in the log

    def announce(self, message: Message) -> None:
        """Take in a message that was stored: the next one is fanned out at the end of the turn.

        One that was announced before is ignored; one that comes too early, or stands in another log, makes the room
        look into the log.
        """
        position = message.position
        if position.epoch != self.epoch:
            self._hear(self.top + 1)  # something, at least
        elif position.offset == self.top + 1:
            self._append(Entry(message))
        else:
            self._hear(position.offset)

    def knows(self, epoch: str, offset: int) -> bool:
        """Whether an announcement of messages up to this one would bring nothing new."""
        return epoch == self.epoch and offset <= self.top

    @property
    def has_gap(self) -> bool:
        """Whether there is something in the log that it has heard of and doesn't have."""
        return self.heard > self.top

    def _append(self, entry: Entry) -> None:
        self.top = entry.offset
        self._keep(entry)
        if self._pending:
            self._pending.append(entry)
        elif self._live or self._alone is not None:
            self._announced_at = self._context.clock.seconds()
            self._flush_soon()
            self._pending = [entry]
        else:
            self._flushed = self.top

    def _keep(self, entry: Entry) -> None:
        if self.tail is _NO_TAIL:
            limits = self._context.limits
            self.tail = Tail(limits.history, limits.tail_bytes)
        self.tail.append(entry)
        self._context.grew(len(entry.json))

    def _flush_soon(self) -> None:
        if not (self._pending or self._answered):
            self._context.schedule(self)

    def answer(self, subscription: Subscription) -> None:
        """Let a reader's transport send the replies that it holds at the end of the turn, together with what is new."""
        self._flush_soon()
        if self._answered is None:
            self._answered = {}
        self._answered[subscription] = None

    def _hear(self, offset: int) -> None:
        if offset > self.top:
            self.heard = max(self.heard, offset)
            self._context.lacks(self)

    async def look(self) -> None:
        """Take in all that the log has by now beyond what was announced here.

        :raises StoreError:
        """
        before = self._looks
        while True:
            place = self.position
            part = await self.read_after(self.top)
            if part.read > before and (not self.has_gap or place == self.position):
                self.heard = self.top
                return

    def _learn(self, page: Page) -> None:
        """Take in what a read shows of the log beyond what was announced."""
        left: list[Subscription] = []
        if page.epoch != self.epoch:
            left += self._start_anew(page.epoch, page.begun)
        if page.oldest > self.top + 1:  # what comes next is gone
            left += self._start_anew(page.epoch, page.oldest - 1)
        for message in page.messages:
            if message.position.offset == self.top + 1:
                self._append(Entry(message))
        self.oldest = max(self.oldest, page.oldest)
        self._hear(page.top)
        for subscription in left:
            subscription.session.pump()

    def _start_anew(self, epoch: str, top: int) -> list[Subscription]:
        """Go on in another log, or behind a part of this one that is gone.

        :returns: who was live, and has to look itself.
        """
        self.flush()
        left = [subscription for _, readers in self._readers() for subscription in readers]
        for subscription in left:
            self.fall_behind(subscription)
        self._batches = None
        self.tail.clear()
        if epoch != self.epoch:
            self._epoch_changes += 1
            self._previous_epoch, self.begun = self.epoch, top
        self.epoch, self.top, self.heard, self.oldest, self._flushed = epoch, top, top, 1, top
        return left

    def flush(self) -> None:
        """Bring the pending messages to everyone who is live."""
        answered, self._answered = self._answered, None
        if self._pending:
            entries, self._pending = self._pending, None
            for chunk in _chunks(entries, self._context.limits.page_bytes):
                self._fan_out(chunk, answered or ())
        if answered:
            flush_all_replies(subscription.session.replies for subscription in answered)

    def _fan_out(self, entries: Sequence[Entry], answered: Collection[Subscription]) -> None:
        counts, clock = self._context.counters, self._context.clock
        for fanout, readers in self._readers():
            batch = fanout.encode(self.name, self.epoch, entries)
            delivered = len(readers) * batch.count
            first = [subscription for subscription in answered if subscription in readers]
            for subscription, taken in fanout.send(batch, readers, first):
                delivered -= batch.count - taken
                self.fall_behind(subscription)
                subscription.offset = self._flushed + taken
            counts.delivered[fanout.name] += delivered
            counts.lag_seconds.observe(clock.seconds() - self._announced_at, delivered)
        self._flushed = entries[-1].offset

    def tell(self, kind: str, event: bytes, skip: Collection[Subscription] = ()) -> BroadcastResult:
        """Bring everyone who is live an event that stands in no log, but for some.

        :param kind: its type.
        :param event: it, encoded.
        """
        delivered, missed = 0, []
        for fanout, live in self._readers():
            readers = _without(live, skip)
            delivered += len(readers)
            for subscription, taken in fanout.send(fanout.encode_event(kind, event), readers) if readers else ():
                self.fall_behind(subscription)
                if not taken:
                    missed.append(subscription)
        return BroadcastResult(delivered - len(missed), missed)

    # Readers

    def add(self) -> None:
        """Take on a reader, who is behind at first."""
        self.subscribers += 1

    def remove(self, subscription: Subscription) -> None:
        """Let a reader go."""
        self.subscribers -= 1
        if subscription.live:
            self._not_live(subscription)
        self.left()

    def left(self) -> None:
        """One thing less holds the room: if nobody reads it, it may go."""
        if not self.subscribers:
            self.forget_batches()
            self._context.left(self)

    def _not_live(self, subscription: Subscription) -> None:
        subscription.live = False
        if self._live is None:
            self._alone = None
            return
        fanout = subscription.transport.fanout
        readers = self._live[fanout]
        del readers[subscription]
        if not readers:
            del self._live[fanout]
            self._live = self._live or None

    def go_live(self, subscription: Subscription) -> bool:
        """Tell a reader from now on, if its cursor has come to the top.

        :returns: whether it is live now.
        """
        if subscription.epoch != self.epoch or subscription.offset != self.top:
            return False
        self.flush()
        subscription.live = True
        if self._live is None and self._alone is None:
            self._alone = subscription
            return True
        if self._live is None:
            self._live, self._alone = dict(self._readers()), None
        transport = subscription.transport
        self._live.setdefault(transport.fanout, {})[subscription] = transport.direct_send
        return True

    def fall_behind(self, subscription: Subscription) -> None:
        """Leave a reader, if it is live, after what was flushed; its session pumps it from there."""
        if not subscription.live:
            return
        self._not_live(subscription)
        subscription.epoch = self.epoch
        subscription.offset = self._flushed
        subscription.members_version_sent = max(subscription.members_version_sent, self.members_version_sent)
        subscription.session.left_behind(subscription)

    # Reading the log

    def resume_offset(self, subscription: Subscription) -> int:
        """The offset after which a reader goes on; one of another log goes on where this one began, or before that
        with what was kept of the log that it knew."""
        if subscription.epoch == self.epoch:
            return subscription.offset
        return min(subscription.offset, self.begun) if subscription.epoch == self._previous_epoch else self.begun

    def recent_after(self, epoch: str, offset: int) -> EntryPage | None:
        """What follows ``offset``, if memory has it; see :meth:`read_after`."""
        if epoch != self.epoch or offset > self.top:
            return None
        if offset == self.top:
            return EntryPage(epoch, offset, ())
        self._forget_old()
        if self._slice is not None and self._slice.start == offset and self._sliced == self.tail.changes:
            return self._slice
        entries = self.tail.after(offset, self._context.limits.page_messages)
        if not entries:
            return None
        self._slice = EntryPage(epoch, offset, next(_chunks(entries, self._context.limits.page_bytes)))
        self._sliced = self.tail.changes
        return self._slice

    def _forget_old(self) -> None:
        if self._context.limits.history_age is not None:
            self.tail.forget_before((self._context.wall() - self._context.limits.history_age) * 1000)

    def cached_page_after(self, since: Position, limit: int) -> Page | None:
        """A page of what follows ``since``, of what memory has, for when the store can't be read; None where memory
        doesn't reach back so far."""
        if since.epoch != self.epoch or since.offset > self.top:
            return None
        self._forget_old()
        entries = [] if since.offset == self.top else self.tail.after(since.offset, limit)
        return None if entries is None else self._remembered(entries)

    def cached_page_before(self, before: Position | None, limit: int) -> Page | None:
        """The same of the last messages, or of those before a position; perhaps fewer than there are."""
        if before is not None and before.epoch != self.epoch:
            return None
        self._forget_old()
        entries = self.tail.before(self.top + 1 if before is None else before.offset, limit)
        return self._remembered(entries) if entries else None

    def _remembered(self, entries: Sequence[Entry]) -> Page:
        return Page(self.epoch, self.oldest, self.top, tuple(entry.message() for entry in entries), self.begun)

    async def find_after(self, offset: int) -> EntryPage:
        """One page of what follows ``offset``, also where that is more than was announced here.

        :raises StoreError:
        """
        if offset > self.top:  # by way of another node it was
            await self.look()
        return self.recent_after(self.epoch, offset) or await self.read_after(offset)

    def read_after(self, offset: int) -> Deferred[EntryPage]:
        """One page of what follows ``offset`` in the store; its start is another where the log lacks a part.

        Readers who ask for the same at the same time share one read.

        :raises StoreError:
        """
        answer: Deferred[EntryPage] = Deferred()
        if self._reads is None:
            self._reads = {}
        waiting = self._reads.get(offset)
        if waiting is not None:
            waiting.append(answer)
            return answer
        self._reads[offset] = [answer]
        Deferred.fromCoroutine(self._read_slice(offset)).addBoth(self._answer_read, offset)
        return answer

    async def _read_slice(self, offset: int) -> EntryPage:
        page, read = await self._read(
            partial(self._context.store.read_after, self.name, offset, self._context.limits.page_messages)
        )
        if not page.messages:
            return EntryPage(page.epoch, min(page.top, max(offset, page.oldest - 1)), (), read)
        entries = [Entry(message) for message in page.messages]
        return EntryPage(
            page.epoch, entries[0].offset - 1, next(_chunks(entries, self._context.limits.page_bytes)), read
        )

    def _answer_read(self, result: EntryPage | Failure, offset: int) -> None:
        assert self._reads is not None
        waiting = self._reads.pop(offset)
        self._reads = self._reads or None
        for answer in waiting:
            if isinstance(result, Failure):
                answer.errback(result)
            else:
                answer.callback(result)

    async def _read(self, read: Callable[[], Deferred[Page]]) -> tuple[Page, int]:
        """A page, which the room has learned from. One that was read before the log became another is read again.

        :returns: the page, and which of the room's looks into the store it is.
        """
        while True:
            self._looks += 1
            self._context.counters.reads += 1
            look, turns = self._looks, self._epoch_changes
            page = await read()
            if turns == self._epoch_changes or page.epoch == self.epoch:
                self._learn(page)
                return page, look

    def batch(self, fanout: Fanout, part: EntryPage) -> Batch:
        """Encode a slice, once where many readers stand at the same place."""
        if self._batches is None:
            self._batches = {}
        cached = self._batches.get(fanout)
        if cached is not None and (cached[0] is part or _same(cached[0], part)):
            return cached[1]
        batch = fanout.encode(self.name, part.epoch, part.entries)
        self._batches[fanout] = (part, batch)
        return batch

    def forget_batches(self) -> None:
        """Let go of what was encoded for readers who are behind."""
        self._batches = self._slice = None

    async def start(self, since: Position | None, last: int) -> StartPosition:
        """Where a reader with these wishes starts.

        :param since: its position; None where it has none.
        :param last: how many messages before the top it starts with, where ``since`` can't be had.
        :raises StoreError:
        """
        known = self.start_known(since)
        if known is not None:
            return known
        if since is not None:
            if since.epoch != self.epoch:  # which another node may have heard of sooner
                await self.look()
            found = await self.find_after(since.offset)
            recovered = found.epoch == since.epoch and found.start == since.offset
            self._context.counters.resumes[recovered] += 1
            if recovered:
                return StartPosition(since, True)
        start = await self._before_last(last)
        if since is not None and since.epoch == self._previous_epoch and start.epoch == self.epoch:
            start = Position(start.epoch, max(start.offset, min(since.offset, self.begun)))  # not again what it had
        return StartPosition(start, since is None)

    def start_known(self, since: Position | None) -> StartPosition | None:
        """The same, where it takes no look into the store to tell that nothing after ``since`` is lost."""
        if since is None:
            return None
        is_top = since.offset == self.top and since.epoch == self.epoch
        if not is_top and self.recent_after(since.epoch, since.offset) is None:
            return None
        self._context.counters.resumes[True] += 1
        return StartPosition(since, True)

    async def _before_last(self, last: int) -> Position:
        """The position before the last messages that are kept, at most ``last`` of them."""
        first = self.tail.first
        if first is None:
            if last == 0 or self.oldest > self.top:
                return self.position
        elif self.top - last >= first - 1:
            return Position(self.epoch, self.top - last)
        elif first <= self.oldest or len(self.tail) >= self._context.limits.history:
            return Position(self.epoch, first - 1)
        page, _ = await self._read(partial(self._context.store.read_before, self.name, None, last))
        if self.has_gap:
            await self.look()
        return Position(page.epoch, page.messages[0].position.offset - 1 if page.messages else page.top)


def flush_all_replies(sinks: Iterable[ReplySink]) -> None:
    """Send the replies that are buffered; a sink that fails disturbs no other."""
    for sink in sinks:
        try:
            sink.flush_replies()
        except Exception:
            _log.failure("replies could not be sent")


def _without(readers: dict[Subscription, Any], skip: Collection[Subscription]) -> dict[Subscription, Any]:
    if not any(subscription in readers for subscription in skip):
        return readers
    rest = readers.copy()
    for subscription in skip:
        rest.pop(subscription, None)
    return rest


def _same(one: EntryPage, other: EntryPage) -> bool:
    return one.epoch == other.epoch and one.start == other.start and len(one.entries) == len(other.entries)


def _chunks(entries: Sequence[Entry], most_bytes: int) -> Iterator[Sequence[Entry]]:
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
