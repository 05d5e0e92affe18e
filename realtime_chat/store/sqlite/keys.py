"""Looking up the idempotency keys of a batch."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from realtime_chat.store.idempotency import KeyEntry
from realtime_chat.store.retention_clock import RetentionClock
from realtime_chat.store.sqlite.rooms import RoomTop
from realtime_chat.values.model import Draft, Message, Position

__all__ = ["KeyName", "find_keys"]

KeyName = tuple[str, str, str]
"""A room, the sender's id and the key."""

_FIND_KEYS = """
SELECT json_group_array(json_array(asked.key, hex(keys.digest), keys.offset, keys.at,
                                   messages.at, event, CAST(data AS TEXT), sender_name))
FROM json_each(?) AS asked
CROSS JOIN keys ON keys.room = asked.value ->> 0 AND keys.sender_id = asked.value ->> 1 AND keys.key = asked.value ->> 2
LEFT JOIN messages ON messages.room = keys.room AND messages.offset = keys.offset
"""


class _KeyRow(msgspec.Struct, array_like=True, frozen=True):
    """A row of :data:`_FIND_KEYS`: which draft it is for, its key, and its message, unless that was deleted."""

    index: int
    digest: str
    offset: int
    at: int
    message_at: int | None
    event: str | None
    data: str | None
    sender_name: str | None


_encode = msgspec.json.Encoder().encode
_decode_keys = msgspec.json.Decoder(list[_KeyRow]).decode


def find_keys(
    connection: sqlite3.Connection,
    drafts: Sequence[Draft],
    rooms: Mapping[str, RoomTop],
    epoch: str,
    clock: RetentionClock,
) -> dict[KeyName, KeyEntry]:
    """Find what is stored under the keys of some drafts, and under the keys that they have to follow.

    :param drafts: each has a key.
    :param rooms: the rooms that exist.
    """
    keyed = [draft for draft in drafts if draft.room in rooms]
    keyed += [replace(draft, key=draft.after) for draft in keyed if draft.after is not None]
    if not keyed:
        return {}
    asked = _encode([(rooms[draft.room].id, draft.sender.id, draft.key) for draft in keyed]).decode()
    (found,) = connection.execute(_FIND_KEYS, (asked,)).fetchone()
    entries = {}
    for row in _decode_keys(found):
        draft = keyed[row.index]
        if draft.key is not None and clock.keeps_key(row.at, row.offset, rooms[draft.room].top):
            message = _message(draft, row, epoch)
            entries[draft.room, draft.sender.id, draft.key] = KeyEntry(
                bytes.fromhex(row.digest), row.offset, row.at, message
            )
    return entries


def _message(draft: Draft, row: _KeyRow, epoch: str) -> Message | None:
    if row.message_at is None or row.event is None or row.data is None or row.sender_name is None:
        return None
    place = Position(epoch, row.offset)
    sender_id = draft.sender.id
    return Message(
        draft.room, place, row.event, row.data.encode(), sender_id, row.sender_name, row.message_at, draft.key
    )
