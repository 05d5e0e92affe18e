"""The properties of rooms in SQLite: what one commit changes of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from realtime_chat.store.retention import Retention
from realtime_chat.store.sqlite.rooms import RoomTop
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import Draft, Message

_FIND_SIZES = "SELECT json_group_object(name, length(data)) FROM properties WHERE room = ?"
_SET = """
INSERT OR REPLACE INTO properties (room, name, offset, at, sender_id, sender_name, key, data)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_REMOVE = "DELETE FROM properties WHERE room = ? AND name = ?"
_FILE_KEY = "INSERT OR REPLACE INTO keys (room, sender_id, key, offset, at, digest) VALUES (?, ?, ?, ?, ?, ?)"
_MOVE_TOP = "UPDATE rooms SET top = ?, removed = max(removed, ?), emptied = NULL WHERE id = ? AND top = ?"

_decode_sizes = msgspec.json.Decoder(dict[str, int]).decode


class _LogChanges:
    """What a commit changes of one room's properties.

    :ivar sizes: bytes of data, by name; of the properties that there are after the changes so far.
    :ivar last: the last change of each name.
    :ivar begin: the top before the commit.
    """

    __slots__ = ("begin", "keys", "last", "removed", "room", "sizes", "top")

    def __init__(self, room: RoomTop, sizes: dict[str, int]) -> None:
        self.room = room
        self.sizes = sizes
        self.last: dict[str, Message] = {}
        self.keys: list[tuple[int, str, str, int, int, bytes]] = []
        self.begin = self.top = room.top
        self.removed = 0

    def add(self, message: Message, digest: bytes | None) -> None:
        self.top = message.position.offset
        self.last[message.event] = message
        if message.data:
            self.sizes[message.event] = len(message.data)
        else:
            del self.sizes[message.event]
            self.removed = self.top
        self.file_key(message, digest)

    def file_key(self, message: Message, digest: bytes | None) -> None:
        if message.key is not None and digest is not None:
            self.keys.append((self.room.id, message.sender_id, message.key, self.top, message.at, digest))

    def write(self, connection: sqlite3.Connection) -> None:
        room = self.room.id
        values = [message for message in self.last.values() if message.data]
        connection.executemany(_SET, [_row(room, message) for message in values])
        connection.executemany(_REMOVE, [(room, name) for name, message in self.last.items() if not message.data])
        connection.executemany(_FILE_KEY, self.keys)
        if self.last and connection.execute(_MOVE_TOP, (self.top, self.removed, room, self.begin)).rowcount != 1:
            raise sqlite3.DatabaseError("another program has changed it")


def _row(room: int, message: Message) -> tuple[object, ...]:
    sender = message.sender_id, message.sender_name
    return room, message.event, message.position.offset, message.at, *sender, message.key, message.data


class PropertyChanges:
    """What one commit changes of rooms' properties. Of a property that changes twice the last value is written.

    :param retention: how many properties a room may have.
    :ivar count: how many changes there are.
    :ivar size: bytes of data in them.
    """

    def __init__(self, connection: sqlite3.Connection, retention: Retention) -> None:
        self._connection = connection
        self._retention = retention
        self._logs: dict[str, _LogChanges] = {}
        self.count = self.size = 0

    def load(self, rooms: Iterable[tuple[str, RoomTop]]) -> None:
        """Read what there is in some logs of properties.

        :raises sqlite3.Error:
        """
        for name, room in rooms:
            (sizes,) = self._connection.execute(_FIND_SIZES, (room.id,)).fetchone()
            self._logs[name] = _LogChanges(room, _decode_sizes(sizes))

    def has(self, draft: Draft) -> bool:
        """Whether there is the property that a draft changes."""
        log = self._logs.get(draft.room)
        return log is not None and draft.event in log.sizes

    def refusal(self, draft: Draft) -> RealtimeError | None:
        """Why a property can't be set; None if it can."""
        log = self._logs.get(draft.room)
        sizes = {} if log is None else log.sizes
        others = len(sizes) - (draft.event in sizes), sum(sizes.values()) - sizes.get(draft.event, 0)
        return self._retention.refuse_property(others[0] + 1, others[1] + len(draft.data)) if draft.data else None

    def add(self, room: RoomTop, message: Message, digest: bytes | None) -> None:
        """Add a change.

        :param room: the log, whose top is still that before this change.
        :param digest: that of the content, if the message has a key.
        """
        log = self._logs.get(message.room)
        if log is None:
            log = self._logs[message.room] = _LogChanges(room, {})
        log.add(message, digest)
        self.count += 1
        self.size += len(message.data)

    def file_key(self, message: Message, digest: bytes | None) -> None:
        """Keep the key of a removal of what isn't there. Where the room never had properties, there is no place for it.

        :param message: it, placed where the log ends.
        """
        if message.room in self._logs:
            self._logs[message.room].file_key(message, digest)

    @property
    def has_changes(self) -> bool:
        """Whether there is something to write."""
        return any(log.last or log.keys for log in self._logs.values())

    def write(self) -> None:
        """Write the changes, within a transaction.

        :raises sqlite3.Error:
        """
        for log in self._logs.values():
            if log.last or log.keys:
                log.write(self._connection)
