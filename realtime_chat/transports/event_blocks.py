"""The bytes of an event stream: blocks (WHATWG HTML, section 9.2), chunks, and batches of messages."""

from __future__ import annotations

from collections.abc import Callable, Collection, MutableMapping, Sequence
from typing import Any

from realtime_chat.core.interfaces import R
from realtime_chat.transports.fast.direct_send import FrameFanout
from realtime_chat.transports.frames import FrameBatch
from realtime_chat.values.codec import Entry

__all__ = ["Envelope", "RoomBatch", "RoomFanout", "RoomsFanout", "chunk", "encode_block", "identity"]

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


class RoomsFanout(RoomFanout):
    """The same blocks for every stream of several rooms, each of which adds an id of its own."""

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> FrameBatch:
        """Encode consecutive messages of a room, without ids."""
        return RoomBatch(room, epoch, entries, self.envelope)

    def send(
        self, batch: FrameBatch, readers: MutableMapping[R, Any], first: Collection[R] = ()
    ) -> list[tuple[R, int]]:
        """Send to each reader by its stream, which adds the id. A stream has no replies to send before."""
        return super().send(batch, dict.fromkeys(readers))
