"""A message as it stands in Redis: in a stream, and in the announcement of what was appended.

A row is the JSON array ``[at, event, sender id, sender name, key or null, data]``. It has no line break, and its data
is what the sender sent, byte for byte. An announcement is ``m``, then ``EPOCH:FIRST COUNT`` and a line break, then the
rows with line breaks between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from realtime_chat.values.model import Message, Position

__all__ = [
    "ANNOUNCEMENT",
    "DAMAGED",
    "Announcement",
    "MessageRow",
    "as_message",
    "encode_row",
    "read_announcement",
    "read_rows",
]

ANNOUNCEMENT = b"m"
"""The first byte of an announcement."""


class MessageRow(msgspec.Struct, array_like=True, frozen=True):
    """See :class:`~realtime_chat.values.model.Message`."""

    at: int
    event: str
    sender_id: str
    sender_name: str
    key: str | None
    data: msgspec.Raw


DAMAGED = MessageRow(0, "$damaged", "", "", None, msgspec.Raw(b"null"))
"""What stands for a row that isn't one: somebody has written to the stream by hand. Its place is kept."""

_decode_rows = msgspec.json.Decoder(list[MessageRow]).decode
_encode = msgspec.json.Encoder().encode
_decode_row = msgspec.json.Decoder(MessageRow).decode


class Announcement(msgspec.Struct, frozen=True):
    """What was appended to a room.

    :param first: the offset of the first.
    :param rows: their encoded rows, for :func:`read_rows`; decoded only where they are needed.
    """

    epoch: str
    first: int
    count: int
    rows: bytes


def read_announcement(payload: bytes) -> Announcement:
    """Read an announcement, but not its rows.

    :raises ValueError: it isn't one.
    """
    head, _, rows = payload.partition(b"\n")
    place, _, count = head[1:].decode("ascii").partition(" ")
    epoch, colon, first = place.partition(":")
    if head[:1] != ANNOUNCEMENT or not colon:
        raise ValueError("not an announcement")
    return Announcement(epoch, int(first), int(count), rows)


def as_message(row: MessageRow, room: str, epoch: str, offset: int) -> Message:
    """The message that a row is at its place."""
    place = Position(epoch, offset)
    return Message(room, place, row.event, bytes(row.data), row.sender_id, row.sender_name, row.at, row.key)


def encode_row(row: MessageRow) -> bytes:
    """Encode a row."""
    encoded = _encode(row)
    return encoded.replace(b"\n", b" ") if b"\n" in encoded else encoded  # it can only be white space of the data


def read_rows(rows: Sequence[bytes]) -> list[MessageRow]:
    """Decode rows; those that can't be are :data:`DAMAGED`."""
    text = b"[%b]" % b",".join(rows)
    try:
        text.decode()  # as what stays encoded isn't looked at by the decoder
        found = _decode_rows(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = []
    return found if len(found) == len(rows) else [_read_row(row) for row in rows]


def _read_row(row: bytes) -> MessageRow:
    try:
        row.decode()
        return _decode_row(row)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return DAMAGED
