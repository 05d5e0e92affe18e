"""Messages in Redis: as rows of a stream, and in announcements.

A row is the JSON array ``[at, event, sender id, sender name, key or null, data]``. It has no line break. Its data are
what the sender sent, byte for byte. The removal of a property has none. An announcement says what was appended to a
room: ``m``, then ``EPOCH:FIRST COUNT`` and a line break, then the rows with line breaks between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from realtime_chat.values.model import Message, Position

ANNOUNCEMENT = b"m"
"""The first byte of an announcement."""


class MessageRow(msgspec.Struct, array_like=True, frozen=True):
    """A message without its room and its position; see :class:`~realtime_chat.values.model.Message`."""

    at: int
    event: str
    sender_id: str
    sender_name: str
    key: str | None
    data: msgspec.Raw = msgspec.Raw(b"")


DAMAGED = MessageRow(0, "$damaged", "", "", None, msgspec.Raw(b"null"))
"""Replaces a row that can't be decoded, as somebody has written to the stream by hand. It keeps its offset."""

_decode_rows = msgspec.json.Decoder(list[MessageRow]).decode
_encode = msgspec.json.Encoder().encode
_decode_row = msgspec.json.Decoder(MessageRow).decode


class Announcement(msgspec.Struct, frozen=True):
    """Messages that were appended to a room.

    :param first: the offset of the first message.
    :param rows: the encoded rows, for :func:`read_rows`. They are decoded only if they are needed.
    """

    epoch: str
    first: int
    count: int
    rows: bytes


def read_announcement(payload: bytes) -> Announcement:
    """Decode an announcement, but not its rows.

    :raises ValueError: it is no announcement.
    """
    head, _, rows = payload.partition(b"\n")
    place, _, count = head[1:].decode("ascii").partition(" ")
    epoch, colon, first = place.partition(":")
    if head[:1] != ANNOUNCEMENT or not colon:
        raise ValueError("not an announcement")
    return Announcement(epoch, int(first), int(count), rows)


def encode_row(row: MessageRow) -> bytes:
    """Encode a row in one line."""
    encoded = _encode(row) if row.data else _encode(msgspec.structs.astuple(row)[:-1])
    return (
        encoded.replace(b"\n", b" ") if b"\n" in encoded else encoded
    )  # only white space between JSON tokens can be a line break


def read_rows(rows: Sequence[bytes]) -> list[MessageRow]:
    """Decode rows. A row that can't be decoded becomes :data:`DAMAGED`."""
    text = b"[%b]" % b",".join(rows)
    try:
        text.decode()  # the decoder doesn't check the UTF-8 of msgspec.Raw
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


def read_messages(room: str, epoch: str, offsets: Iterable[int], rows: Sequence[bytes]) -> list[Message]:
    """Decode rows of a room, each with its offset; see :func:`read_rows`."""
    return [
        Message(
            room, Position(epoch, offset), row.event, bytes(row.data), row.sender_id, row.sender_name, row.at, row.key
        )
        for row, offset in zip(read_rows(rows), offsets, strict=False)
    ]
