"""The events of a recovery namespace's log: how they are stored, and who of the readers gets which.

An entry that isn't for a reader moves the reader's cursor like any other, and sends nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from itertools import groupby
from typing import Any, Protocol

import msgspec
from twisted.logger import Logger

from realtime_chat.core.interfaces import R
from realtime_chat.engineio.connection import Connection
from realtime_chat.engineio.fanout import send_to_all
from realtime_chat.engineio.prepared import Binary, PreparedMessage
from realtime_chat.socketio.membership import Memberships
from realtime_chat.socketio.packets import EncodedPacket, PacketType, encode_packet
from realtime_chat.values.codec import Entry
from realtime_chat.values.model import Position

_NOBODY: frozenset[str] = frozenset()


class StoredEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event as the log keeps it.

    :param args: its name and its arguments, with placeholders for attachments.
    :param to: rooms and ids of sockets; None for all sockets.
    :param skip: rooms and ids of sockets that don't get it.
    """

    args: msgspec.Raw
    to: frozenset[str] | None = None
    skip: frozenset[str] = _NOBODY
    attachments: tuple[bytes, ...] = ()


class _StoredMessage(msgspec.Struct, frozen=True):
    data: StoredEvent


_decode = msgspec.json.Decoder(_StoredMessage).decode
_log = Logger()


class EventRun:
    """Consecutive events for the same sockets. They are encoded once, when the first socket wants them.

    :ivar last: the offset of the last one.
    :ivar count: how many there are.
    """

    __slots__ = ("_events", "_head", "_position", "_prepared", "count", "last", "skip", "to")

    def __init__(self, head: bytes, epoch: str, events: Sequence[tuple[int, StoredEvent]]) -> None:
        self.last, event = events[-1]
        self.count = len(events)
        self.to, self.skip = event.to, event.skip
        self._head = head
        self._position = epoch
        self._events = events
        self._prepared: PreparedMessage | None = None

    @property
    def prepared(self) -> PreparedMessage:
        """The events as packets. The last argument of each is its position."""
        if self._prepared is None:
            self._prepared = PreparedMessage(
                [part for offset, event in self._events for part in self._parts(offset, event)]
            )
        return self._prepared

    def _parts(self, offset: int, event: StoredEvent) -> Iterator[bytes]:
        head = b"5%d-%b" % (len(event.attachments), self._head[1:]) if event.attachments else self._head
        payload = b'%b,"%b:%d"]' % (bytes(event.args)[:-1], self._position.encode(), offset)
        yield EncodedPacket(head, payload).text()
        yield from map(Binary, event.attachments)

    def is_for(self, rooms: Memberships) -> bool:
        """Whether a socket gets it that is in some rooms."""
        if self.to is not None and not rooms.was_in_any(self.to, self.last):
            return False
        return not (self.skip and rooms.was_in_any(self.skip, self.last))


class LogBatch:
    """Consecutive entries of the log.

    :ivar count: how many there are.
    """

    __slots__ = ("count", "runs")

    def __init__(self, runs: Sequence[EventRun]) -> None:
        self.runs = runs
        self.count = sum(run.count for run in runs)

    def count_before(self, run: EventRun) -> int:
        """How many entries come before one of its runs."""
        return sum(before.count for before in self.runs[: self.runs.index(run)])


class EventReader(Protocol):
    """The cursor of a socket, as the fan-out sees it.

    :ivar last: the offset of the last event that the socket was sent.
    :ivar subscription: its cursor; None before it has begun.
    """

    memberships: Memberships
    last: int
    connection: Connection
    subscription: Any

    @property
    def is_live(self) -> bool: ...


class LogFanout:
    """Sends the events of one namespace's log to its sockets.

    It knows which sockets are in which rooms, as a first choice. Their memberships decide. A socket stays in a room's
    choice until the events from before it left are sent.

    :param namespace: its name.
    :ivar is_sending: whether it sends just now. What that brings about must not send what comes later.
    """

    name = "socketio"

    def __init__(self, namespace: str) -> None:
        self._head = encode_packet(PacketType.EVENT, namespace, [""]).head
        self._readers: dict[str, EventReader] = {}
        self._rooms: dict[str, dict[EventReader, None]] = {}
        self._left: list[tuple[int, str, EventReader]] = []
        self.is_sending = False

    # Which sockets there are

    def add(self, reader: EventReader) -> None:
        """Add a socket, with the rooms that it is in."""
        self._readers[reader.memberships.id] = reader
        for room in reader.memberships.rooms:
            self.enter(reader, room)

    def remove(self, reader: EventReader) -> None:
        """Remove a socket."""
        if self._readers.get(reader.memberships.id) is reader:
            del self._readers[reader.memberships.id]
        for room in (*reader.memberships.rooms, *(room for _, room, other in self._left if other is reader)):
            self._remove(reader, room)
        self._left = [left for left in self._left if left[2] is not reader]

    def has(self, id: str) -> bool:
        """Whether there is a socket with an id."""
        return id in self._readers

    def enter(self, reader: EventReader, room: str) -> None:
        """A socket has entered a room."""
        self._rooms.setdefault(room, {})[reader] = None

    def leave(self, reader: EventReader, room: str, upto: int, sent: Position | None) -> None:
        """A socket has left a room. The events up to an offset are still for it.

        :param sent: up to where all who are live have the events; None if that isn't known.
        """
        if sent is None or sent.offset < upto:
            self._left.append((upto, room, reader))
        else:
            self._remove(reader, room)

    def _remove(self, reader: EventReader, room: str) -> None:
        readers = self._rooms.get(room)
        if readers is not None and readers.pop(reader, reader) is None and not readers:
            del self._rooms[room]

    def _forget_left(self, offset: int) -> None:
        """Events up to an offset are sent to all who are live."""
        left, self._left = self._left, []
        for upto, room, reader in left:
            if upto > offset:
                self._left.append((upto, room, reader))
            elif room not in reader.memberships.rooms:
                self._remove(reader, room)

    # What the room of the log calls

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> LogBatch:
        """Encode consecutive entries, of which those for everybody are put together."""
        events = [(entry.offset, _event_of(entry)) for entry in entries]
        runs: list[EventRun] = []
        for is_for_all, group in groupby(events, lambda event: event[1].to is None and not event[1].skip):
            runs += self._runs(epoch, list(group), is_for_all)
        return LogBatch(runs)

    def _runs(self, epoch: str, events: list[tuple[int, StoredEvent]], is_one: bool) -> Iterable[EventRun]:
        parts = [events] if is_one else [[event] for event in events]
        return [EventRun(self._head, epoch, part) for part in parts]

    def encode_event(self, kind: str, data: bytes) -> LogBatch:
        """Nothing: this log has no events of other kinds."""
        return LogBatch(())

    def send(self, batch: LogBatch, readers: MutableMapping[R, Any], first: Collection[R] = ()) -> list[tuple[R, int]]:
        """Send to each reader what is for it. A reader whose writing is paused is left behind."""
        self.is_sending = True
        try:
            return self._send(batch, readers)
        finally:
            self.is_sending = False

    def _send(self, batch: LogBatch, readers: Mapping[Any, EventReader]) -> list[tuple[Any, int]]:
        paused: dict[Any, int] = {}
        taken = 0
        for run in batch.runs:
            chosen = [reader for reader in self._choose(run, readers) if reader.subscription not in paused]
            _note_paused(chosen, taken, paused)
            if paused:
                chosen = [reader for reader in chosen if reader.subscription not in paused]
            for reader in chosen:
                reader.last = run.last
            taken += run.count
            if chosen:
                send_to_all(run.prepared, [reader.connection for reader in chosen])
                _note_paused(chosen, taken, paused)
        if batch.runs:
            self._forget_left(batch.runs[-1].last)
        return list(paused.items())

    def _choose(self, run: EventRun, readers: Mapping[Any, EventReader]) -> Collection[EventReader]:
        """The live readers that an event is for."""
        if run.to is None:
            skipped = {reader for reader in self._in_any(run.skip) if reader.memberships.was_in_any(run.skip, run.last)}
            return [reader for reader in readers.values() if reader not in skipped]
        chosen = [reader for reader in self._in_any(run.to) if reader.subscription in readers]
        return [reader for reader in chosen if run.is_for(reader.memberships)]

    def _in_any(self, rooms: Collection[str]) -> Collection[EventReader]:
        found: dict[EventReader, None] = {}
        for room in rooms:
            found.update(self._rooms.get(room, {}))
            if (reader := self._readers.get(room)) is not None:
                found[reader] = None
        return found


def _note_paused(readers: Iterable[EventReader], taken: int, paused: dict[Any, int]) -> None:
    """Note for the cursors of readers whose writing is paused how many events they took."""
    for reader in readers:
        connection = reader.connection
        if connection.direct is None and connection.write_paused:
            paused[reader.subscription] = taken


_UNREADABLE = StoredEvent(msgspec.Raw(b"[null]"), _NOBODY)


def _event_of(entry: Entry) -> StoredEvent:
    """Decode an entry. What another program has put into the log is for nobody."""
    try:
        return _decode(entry.json).data
    except msgspec.MsgspecError as error:
        _log.error("an entry of a namespace's log can't be read: {error}", error=str(error))
        return _UNREADABLE
