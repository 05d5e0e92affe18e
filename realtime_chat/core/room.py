"""A room: who of this node reads it, and how what is new in its log reaches them.

Between reading the log and being live there is one rule. The fan-out brings only the offset that follows. A reader
becomes live in the turn in which its cursor equals the last offset that was fanned out here, after the pending messages
were flushed. So no message falls between reading and waiting, and none is delivered twice.

The states of a :class:`Subscription`::

    state      event                 what follows                                                     then
    ---------  --------------------  ---------------------------------------------------------------  --------
    (new)      subscribe             The cursor is where the reader starts.                           behind
    behind     write resumed         The pump sends a page, from memory or the store. The cursor      behind
                                     moves by what the transport took.
    behind     cursor is at the top  The room's pending messages are flushed.                         live
    behind     page starts later     A ``reset`` is sent, and the cursor moves to the page's start.   behind
    live       message               The fan-out sends it; the room's cursor stands for this one.     live
    live       transport full        The cursor is set after the messages that were taken.            behind
    live       log restarted         The cursor is set after what was flushed, and the pump goes on.  behind
    any        leave, close          It is removed from its room.                                     (gone)

Only ``Room.go_live`` makes it live; only ``Room.fall_behind`` and ``Room.remove`` end that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from realtime_chat.core.interfaces import Fanout, MessageSink, Reader, ReplySink, Subscriber
from realtime_chat.core.log_view import EntryPage, LogContext, LogView, StartPosition, chunks
from realtime_chat.core.turns import flush_all_replies
from realtime_chat.values.codec import Entry
from realtime_chat.values.model import Page


class BroadcastResult(NamedTuple):
    """What became of an event that stands in no log.

    :param delivered: how many readers took it.
    :param missed: who was live and did not take it, and is behind now.
    """

    delivered: int
    missed: Sequence[Reader]


class Room(LogView):
    """One room's log as far as this node has sent it to its readers, and these readers.

    Anybody can name rooms that don't exist, so a room without messages is small. What it may never need is made when it
    is needed, and a reader who is alone has no dictionary.

    :ivar reader_count: how many readers there are, live or behind.
    :ivar used: when it was looked up last, by the clock.
    :ivar members_version_sent: the version of its members that every live reader was sent.
    """

    __slots__ = (
        "_alone",
        "_announced_at",
        "_answered",
        "_flushed",
        "_live",
        "_pending",
        "members_version_sent",
        "reader_count",
        "used",
    )

    def __init__(self, name: str, page: Page, context: LogContext) -> None:
        super().__init__(name, page, context)
        self.reader_count = 0
        self.used = 0.0
        self.members_version_sent = 0
        self._announced_at = 0.0
        self._alone: Reader | None = None  # the only one that is live, where it was never one of several
        self._live: dict[Fanout, dict[Reader, Any]] | None = None  # all that are live, where there were several
        self._flushed = page.top
        self._pending: list[Entry] | None = None
        self._answered: dict[Reader, ReplySink] | None = None

    def stop(self) -> None:
        """The process ends."""

    @property
    def idle(self) -> bool:
        """Whether nobody here reads it or is about to."""
        return not self.reader_count and not self.is_read

    def live_count(self) -> int:
        """How many readers are live."""
        alone = 0 if self._alone is None else 1
        return alone if self._live is None else alone + sum(map(len, self._live.values()))

    def _readers(self) -> list[tuple[Fanout, dict[Reader, Any]]]:
        """Everyone who is live, with what the fan-out sends by, grouped by fan-out."""
        if self._alone is not None:
            transport = self._alone.transport
            return [(transport.fanout, {self._alone: transport.direct_send})]
        return [] if self._live is None else list(self._live.items())

    # Fan-out

    def _append(self, entry: Entry) -> None:
        self.top = entry.offset
        self._keep(entry)
        if self._pending:
            self._pending.append(entry)
        elif self._live or self._alone is not None:
            self._announced_at = self._context.clock.seconds()
            self._flush_soon()
            self._pending = [entry]

    def _flush_soon(self) -> None:
        if not (self._pending or self._answered):
            self._context.flush_soon(self)

    def answer(self, reader: Reader, replies: ReplySink) -> None:
        """Flush a reader's replies at the end of the turn, together with what is new."""
        self._flush_soon()
        if self._answered is None:
            self._answered = {}
        self._answered[reader] = replies

    def flush(self) -> None:
        """Send the pending messages to everyone who is live, and to publishers among them their buffered replies."""
        answered, self._answered = self._answered, None
        if self._pending:
            entries, self._pending = self._pending, None
            for chunk in chunks(entries, self._context.limits.page_bytes):
                self._fan_out(chunk, answered or ())
        if answered:
            flush_all_replies(answered.values())

    def _fan_out(self, entries: Sequence[Entry], answered: Collection[Reader]) -> None:
        counts, clock = self._context.counters, self._context.clock
        for fanout, readers in self._readers():
            batch = fanout.encode(self.name, self.epoch, entries)
            delivered = len(readers) * batch.count
            first = [reader for reader in answered if reader in readers]
            for reader, taken in fanout.send(batch, readers, first):
                delivered -= batch.count - taken
                self.fall_behind(reader)
                reader.offset = entries[taken - 1].offset if taken else self._flushed
            counts.delivered[fanout.name] += delivered
            counts.lag_seconds.observe(clock.seconds() - self._announced_at, delivered)
        self._flushed = entries[-1].offset

    def broadcast(self, kind: str, event: bytes, skip: Collection[Reader] = ()) -> BroadcastResult:
        """Send an event that stands in no log to everyone who is live, but for some.

        :param kind: its type.
        :param event: it, encoded.
        """
        delivered, missed = 0, []
        for fanout, live in self._readers():
            readers = _without(live, skip)
            delivered += len(readers)
            for reader, taken in fanout.send(fanout.encode_event(kind, event), readers) if readers else ():
                self.fall_behind(reader)
                if not taken:
                    missed.append(reader)
        return BroadcastResult(delivered - len(missed), missed)

    # Readers

    def add(self) -> None:
        """Add a reader, who is behind at first."""
        self.reader_count += 1

    def remove(self, reader: Reader) -> None:
        """Remove a reader."""
        self.reader_count -= 1
        if reader.live:
            self._remove_live(reader)
        self.release()

    def release(self) -> None:
        """A reader or a lease of the room has ended: if nobody reads it, it may be forgotten."""
        if not self.reader_count:
            self.forget_batches()
            self._context.on_unused(self)

    def _remove_live(self, reader: Reader) -> None:
        reader.live = False
        if self._live is None:
            self._alone = None
            return
        fanout = reader.transport.fanout
        readers = self._live[fanout]
        del readers[reader]
        if not readers:
            del self._live[fanout]
            self._live = self._live or None

    def go_live(self, reader: Reader) -> bool:
        """Make a reader live, if its cursor has come to the top.

        :returns: whether it is live now.
        """
        if reader.epoch != self.epoch or reader.offset != self.top:
            return False
        self.flush()
        self._flushed = self.top
        reader.live = True
        if self._live is None and self._alone is None:
            self._alone = reader
            return True
        if self._live is None:
            self._live, self._alone = dict(self._readers()), None
        transport = reader.transport
        self._live.setdefault(transport.fanout, {})[reader] = transport.direct_send
        return True

    def fall_behind(self, reader: Reader) -> None:
        """If a reader is live, leave it behind after what was flushed; its subscriber goes on from there."""
        if not reader.live:
            return
        self._remove_live(reader)
        reader.epoch = self.epoch
        reader.offset = self._flushed
        reader.members_version_sent = max(reader.members_version_sent, self.members_version_sent)
        reader.subscriber.fell_behind(reader)

    def _stop_live(self) -> Sequence[Reader]:
        self.flush()
        left = [reader for _, readers in self._readers() for reader in readers]
        for reader in left:
            self.fall_behind(reader)
        return left


def _without(readers: dict[Reader, Any], skip: Collection[Reader]) -> dict[Reader, Any]:
    if not any(reader in readers for reader in skip):
        return readers
    rest = readers.copy()
    for reader in skip:
        rest.pop(reader, None)
    return rest


class Subscription:
    """A cursor in a room, and where what follows it is sent.

    While it is *live* its cursor is the room's own, and ``offset`` says nothing.

    :param start: where it starts.
    :ivar first_page: what follows the start, where that was read already; None once it was used.
    :ivar lease: what keeps its client's user in the room; set by presence, and None if nothing does.
    :ivar members_version_sent: the version of the members that it was sent; while it is live, at least the room's.
    :ivar rights: what its client may do in the room.
    :cvar is_of_properties: whether it is one in the room's properties.
    """

    is_of_properties = False
    __slots__ = (
        "epoch",
        "first_page",
        "lease",
        "live",
        "members_version_sent",
        "offset",
        "rights",
        "room",
        "subscriber",
        "transport",
    )

    def __init__(self, subscriber: Subscriber, transport: MessageSink, room: Room, start: StartPosition) -> None:
        self.subscriber = subscriber
        self.transport = transport
        self.room = room
        self.epoch = start.position.epoch
        self.offset = start.position.offset
        self.first_page: EntryPage | None = start.page
        self.live = False
        self.lease: Any = None
        self.members_version_sent = 0
        self.rights = 0

    def next_page(self) -> EntryPage | None:
        """What follows the cursor, as far as that was read already; else None."""
        room, first, self.first_page = self.room, self.first_page, None
        offset = room.resume_offset(self)
        page = room.recent_after(room.epoch, offset)
        if page is None and first is not None and first.epoch == room.epoch and first.start == offset:
            return first
        return page
