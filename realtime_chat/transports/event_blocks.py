"""The bytes of an event stream: blocks (WHATWG HTML, section 9.2), chunks, batches of messages, and ids.

An id is the positions in all logs, and comes back in ``Last-Event-ID``. The id of a stream of one room is a position,
``EPOCH:OFFSET``. With several rooms it is ``ROOM=EPOCH:OFFSET,…``, and the log of a room's properties is among them as
``ROOM/properties``. Where the names are long, it is
``#DIGEST=EPOCH:OFFSET,…`` instead: the positions in the order of the URL's rooms.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from hashlib import blake2b
from typing import Any

from realtime_chat.core.interfaces import R
from realtime_chat.http.request import MAX_LINE
from realtime_chat.transports.fast.direct_send import FrameFanout
from realtime_chat.transports.frames import FrameBatch
from realtime_chat.values.codec import Entry
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import Position, is_properties_log

_LONGEST_POSITION = len("=k3x9wq2a:9007199254740992,")
_MAX_NAMES = 1024
"""Characters of rooms' names that an id may have."""

_ID_EXPECTED = (
    "Last-Event-ID is an id of this stream: the position EPOCH:OFFSET where it reads one room, and else "
    "ROOM=EPOCH:OFFSET for each, with commas between, or what stood there"
)

Envelope = Callable[[bytes], bytes]
"""Makes what goes over the wire of one block, or of several."""


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked answer (RFC 9112, section 7.1).

    Without chunks, clients that read pieces of a fixed size and some proxies hold events back.
    """
    return b"%x\r\n%b\r\n" % (len(data), data)


def identity(data: bytes) -> bytes:
    """The same bytes, for clients of HTTP/1.0."""
    return data


def encode_block(kind: str, data: bytes, *fields: str) -> bytes:
    """One event that is not a message.

    :param kind: its type.
    :param data: its JSON, without line breaks.
    :param fields: further lines.
    """
    head = "".join(f"{field}\n" for field in (*fields, f"event: {kind}"))
    return b"%bdata: %b\n\n" % (head.encode(), data)


class RoomFanout(FrameFanout):
    """The same blocks for every stream of one room. Each message's id is its position.

    :param envelope: what each block goes in.
    """

    name = "sse"

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> FrameBatch:
        """Encode consecutive messages of a room."""
        log = epoch.encode()
        blocks = (b"id: %b:%d\ndata: %b\n\n" % (log, entry.offset, entry.json) for entry in entries)
        return FrameBatch([self.envelope(one) for one in blocks])

    def encode_event(self, kind: str, data: bytes) -> FrameBatch:
        """Encode an event that stands in no log."""
        return FrameBatch([self.envelope(encode_block(kind, data))])


class RoomBatch(FrameBatch):
    """Consecutive messages of one room, for streams of several rooms: only a stream knows the positions in the others.

    :ivar room: the name of the room.
    """

    __slots__ = ("_before", "_envelope", "_epoch", "_last", "room")

    def __init__(self, room: str, epoch: str, entries: Sequence[Entry], envelope: Envelope) -> None:
        blocks = [b"data: %b\n\n" % entry.json for entry in entries]
        super().__init__([envelope(one) for one in blocks])
        self.room = room
        self._epoch = epoch
        self._before = entries[0].offset - 1
        self._envelope = envelope
        self._last = blocks[-1]

    def position(self, count: int) -> str:
        """The position after the first ``count`` messages."""
        return f"{self._epoch}:{self._before + count}"

    def with_id(self, id: str) -> FrameBatch:
        """The same messages, with an id on the last one."""
        return self.with_last(self._envelope(b"id: %b\n%b" % (id.encode(), self._last)))


class PropertyBatch(RoomBatch):
    """Changes of a room's properties, which are no messages, and whose offsets have holes."""

    __slots__ = ("_offsets",)

    def __init__(self, log: str, epoch: str, entries: Sequence[Entry], envelope: Envelope) -> None:
        blocks = [encode_block(entry.kind, entry.json) for entry in entries]
        FrameBatch.__init__(self, [envelope(one) for one in blocks])
        self.room = log
        self._epoch = epoch
        self._offsets = [entry.offset for entry in entries]
        self._envelope = envelope
        self._last = blocks[-1]

    def position(self, count: int) -> str:
        """The position after the first ``count`` changes."""
        return f"{self._epoch}:{self._offsets[count - 1]}"


class RoomsFanout(RoomFanout):
    """The same blocks for every stream of several logs, each of which adds an id of its own."""

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> FrameBatch:
        """Encode consecutive messages of a room, or changes of its properties, without ids."""
        if is_properties_log(room):
            return PropertyBatch(room, epoch, entries, self.envelope)
        return RoomBatch(room, epoch, entries, self.envelope)

    def send(
        self, batch: FrameBatch, readers: MutableMapping[R, Any], first: Collection[R] = ()
    ) -> list[tuple[R, int]]:
        """Send to each reader by its stream, which adds the id. A stream has no replies to send before."""
        return super().send(batch, dict.fromkeys(readers))


# Ids


def check_id_length(rooms: Sequence[str]) -> None:
    """Check that the longest id of these rooms fits into a request's header. Otherwise no stream could be resumed.

    :raises RealtimeError: ``too_many``.
    """
    if _MAX_NAMES + _LONGEST_POSITION * len(rooms) > MAX_LINE:
        raise RealtimeError(
            "too_many",
            f"the id of a stream of these rooms could be longer than {MAX_LINE} bytes; read some by another stream",
        )


def id_writer(rooms: Sequence[str]) -> Callable[[Mapping[str, str]], str]:
    """What makes the id of a stream of several rooms out of the positions in these.

    An id names the rooms if their names are short: it comes back in a header, whose length servers and proxies limit.
    """
    return _name_positions if sum(map(len, rooms)) <= _MAX_NAMES else _list_positions


def _name_positions(positions: Mapping[str, str]) -> str:
    return ",".join([f"{room}={position}" for room, position in positions.items() if position])


def _list_positions(positions: Mapping[str, str]) -> str:
    """The positions in the order of the rooms, after a digest of the rooms. No room's name begins with ``#``."""
    return f"#{_rooms_digest(positions)}=" + ",".join(positions.values())


def _rooms_digest(rooms: Iterable[str]) -> str:
    return blake2b(",".join(rooms).encode(), digest_size=6).hexdigest()


def read_id(text: str, rooms: Sequence[str]) -> dict[str, Position]:
    """The positions in an id, by room.

    :raises RealtimeError: ``bad_position``.
    """
    positions = _read_positions(text, rooms)
    try:
        return {room: Position.parse(position) for room, position in positions.items()}
    except RealtimeError as error:
        raise RealtimeError("bad_position", _ID_EXPECTED) from error


def _read_positions(text: str, rooms: Sequence[str]) -> dict[str, str]:
    digest, _, listed = text.removeprefix("#").partition("=")
    if text.startswith("#"):
        positions = listed.split(",")
        if digest != _rooms_digest(rooms) or len(positions) != len(rooms):
            raise RealtimeError("bad_position", "Last-Event-ID is of a stream of other rooms, or of another order")
        return {room: position for room, position in zip(rooms, positions, strict=True) if position}
    if len(rooms) == 1:
        return {rooms[0]: text}
    pairs = [part.partition("=") for part in text.split(",")]
    if len({room for room, _, _ in pairs}) < len(pairs):
        raise RealtimeError("bad_position", "Last-Event-ID names each room once")
    if not {room for room, _, _ in pairs} <= set(rooms):
        raise RealtimeError("bad_position", "Last-Event-ID names a room that this stream doesn't read")
    return {room: position for room, _, position in pairs}
