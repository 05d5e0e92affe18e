"""One commit: looking up keys, giving each draft its place, and inserting all messages with one statement."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from realtime_chat.store.append_queue import MAX_BATCH, AppendOutcome
from realtime_chat.store.idempotency import KeyEntry, content_digest
from realtime_chat.store.retention import RetentionClock
from realtime_chat.store.sqlite.file import transaction
from realtime_chat.store.sqlite.properties import PropertyChanges
from realtime_chat.store.sqlite.rooms import RoomIndex, RoomTop
from realtime_chat.values.errors import out_of_order
from realtime_chat.values.model import AppendResult, Draft, Message, Position, is_properties_log, room_of_log

# The sqlite3 module looks for adapters of None and of bytes, not of a bytearray. That costs more than binding them. So
# there are columns for a key only if a draft of the batch has one, and empty rows are of zeros.
_COLUMNS = ("room", "offset", "at", "event", "sender_id", "sender_name", "data")
_KEY_COLUMNS = (*_COLUMNS, "key", "digest")
_DATA = _COLUMNS.index("data")
# Rows are padded with empty ones to one of these sizes, so that prepared statements are used again.
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, MAX_BATCH)
# A prepared statement holds on to what was bound to it last. So commits of much data share a few statements.
_LARGE_SIZES = (16, MAX_BATCH)
_LARGE_BYTES = 64 * 1024


def _insert_statement(columns: Sequence[str], size: int) -> str:
    row = f"({','.join('?' * len(columns))})"
    return (
        f"INSERT INTO messages ({', '.join(columns)}) SELECT * FROM (VALUES {','.join([row] * size)}) WHERE column1 > 0"
    )


_INSERTS = {
    (columns, size): _insert_statement(columns, size) for columns in (_COLUMNS, _KEY_COLUMNS) for size in _SIZES
}
_ADD_ROOM = "INSERT INTO rooms (id, name, top, begun) VALUES (?1, ?2, ?3, ?3)"
_KeyName = tuple[str, str, str]
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
) -> dict[_KeyName, KeyEntry]:
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
            message = _first_message(draft, row, epoch)
            entries[draft.room, draft.sender.id, draft.key] = KeyEntry(
                bytes.fromhex(row.digest), row.offset, row.at, message
            )
    return entries


def _first_message(draft: Draft, row: _KeyRow, epoch: str) -> Message | None:
    if row.message_at is None or row.event is None or row.data is None or row.sender_name is None:
        return None
    place = Position(epoch, row.offset)
    sender_id = draft.sender.id
    return Message(
        draft.room, place, row.event, row.data.encode(), sender_id, row.sender_name, row.message_at, draft.key
    )


class CommitBatch:
    """What one commit adds, and the outcome of each draft.

    :param rooms: the rooms of the drafts that exist; copies, whose tops are moved on here.
    :param index: says whether a room may be created, and with which id and offset it begins.
    :param keys: what is stored under the keys of the drafts.
    :param keyed: whether a draft may have a key.
    :param properties: what it changes of properties; None if none of the drafts is of a property.
    :ivar created: how many logs it creates.
    :ivar rooms_created: how many rooms are among them.
    :ivar next_id: the id of the next room.
    :ivar size: bytes of data that it adds.
    """

    def __init__(
        self,
        epoch: str,
        rooms: dict[str, RoomTop],
        index: RoomIndex,
        keys: dict[_KeyName, KeyEntry],
        keyed: bool,
        properties: PropertyChanges | None = None,
    ) -> None:
        self.epoch = epoch
        self.rooms = rooms
        self.next_id = index.next_id
        self.created = self.rooms_created = 0
        self.outcomes: list[AppendOutcome] = []
        self.size = 0
        self._index = index
        self._rows: list[Any] = []
        self._columns = _KEY_COLUMNS if keyed else _COLUMNS
        self._keys = keys
        self._keyed = keyed
        self._properties = properties

    @property
    def count(self) -> int:
        """How many messages and properties it adds."""
        return len(self._rows) // len(self._columns) + (0 if self._properties is None else self._properties.count)

    @property
    def has_changes(self) -> bool:
        """Whether it writes anything: messages, properties, or keys of removals that remove nothing."""
        return self.count > 0 or (self._properties is not None and self._properties.has_changes)

    @property
    def last(self) -> Message | None:
        """The last message that it adds; None if it adds none."""
        added = (one.message for one in reversed(self.outcomes) if isinstance(one, AppendResult) and not one.duplicate)
        return next(added, None)

    def add(self, drafts: Sequence[tuple[Draft, int]]) -> None:
        """Place drafts, each with its time in milliseconds, or find out why not."""
        for draft, at in drafts:
            if draft.key is None:
                self._place(draft, at)
            else:
                self._place_once(draft, at, draft.key)
        self.size = sum(map(len, self._rows[_DATA :: len(self._columns)]))
        if self._properties is not None:
            self.size += self._properties.size

    def _place_once(self, draft: Draft, at: int, key: str) -> None:
        digest = content_digest(draft)
        name = draft.room, draft.sender.id, key
        entry = self._keys.get(name)
        if entry is not None:
            self.outcomes.append(entry.replay(draft, digest, self.epoch))
        elif draft.after is not None and (draft.room, draft.sender.id, draft.after) not in self._keys:
            self.outcomes.append(out_of_order())
        else:
            message = self._place(draft, at, digest)
            if message is not None:
                self._keys[name] = KeyEntry(digest, message.position.offset, at, message)

    def _place(self, draft: Draft, at: int, digest: bytes | None = None) -> Message | None:
        if self._properties is not None and is_properties_log(draft.room):
            return self._set(self._properties, draft, at, digest)
        room = self.rooms.get(draft.room) or self._create_room(draft.room)
        if room is None:
            return None
        room.top = offset = room.top + 1
        message = draft.placed(Position(self.epoch, offset), at)
        self.outcomes.append(AppendResult(message))
        sender = draft.sender
        self._rows += (room.id, offset, at, draft.event, sender.id, sender.name, bytearray(draft.data))
        if self._keyed:
            self._rows += (draft.key, None if digest is None else bytearray(digest))
        return message

    def _set(self, properties: PropertyChanges, draft: Draft, at: int, digest: bytes | None) -> Message | None:
        """Set or remove a property, or find out why not."""
        log = self.rooms.get(draft.room)
        if not (draft.data or properties.has(draft)):
            top = Position(self.epoch, self._index.floor if log is None else log.top)
            message = draft.placed(top, at)
            self.outcomes.append(AppendResult(message, duplicate=True))
            properties.file_key(message, digest)
            return message
        refusal = properties.refusal(draft)
        if refusal is not None:
            self.outcomes.append(refusal)
            return None
        log = log or self._create_room(draft.room)
        if log is None:
            return None
        message = draft.placed(Position(self.epoch, log.top + 1), at)
        self.outcomes.append(AppendResult(message))
        properties.add(log, message, digest)
        log.top += 1
        return message

    def _create_room(self, name: str) -> RoomTop | None:
        """Create a room, or the log of a room's properties and perhaps the room."""
        room = room_of_log(name)
        if room not in self.rooms:
            refusal = self._index.refusal(self.rooms_created)
            if refusal is not None:
                self.outcomes.append(refusal)
                return None
            self._create_log(room)
            self.rooms_created += 1
        return self.rooms.get(name) or self._create_log(name)

    def _create_log(self, name: str) -> RoomTop:
        log = self.rooms[name] = RoomTop(self.next_id, self._index.floor, new=True)
        self.next_id += 1
        self.created += 1
        return log

    def insert(self, connection: sqlite3.Connection) -> None:
        """Write the batch to the database, as one transaction.

        :raises sqlite3.Error: and nothing is stored, unless the disk failed.
        """
        if not self.created and self._properties is None:
            self._insert_messages(connection)
            return
        new = [(room.id, name, self._index.floor) for name, room in self.rooms.items() if room.new]
        with transaction(connection):
            connection.executemany(_ADD_ROOM, new)
            if self._rows:
                self._insert_messages(connection)
            if self._properties is not None:
                self._properties.write()

    def _insert_messages(self, connection: sqlite3.Connection) -> None:
        width = len(self._columns)
        count = len(self._rows) // width
        sizes = _SIZES if self.size <= _LARGE_BYTES else _LARGE_SIZES
        size = sizes[bisect_left(sizes, count)]
        connection.execute(_INSERTS[self._columns, size], self._rows + [0] * (width * (size - count)))

    def note_committed(self) -> None:
        """Let the index know what was committed."""
        self._index.committed(self.rooms, self.created, self.rooms_created, self.count, self.next_id)
