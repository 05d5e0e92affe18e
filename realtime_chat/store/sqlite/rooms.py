"""The rooms of the database: how many there are, and the tops of some of them."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from realtime_chat.store.retention import RetentionClock, RoomCreationLimit
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import is_properties_log, properties_log

_CACHED_ROOMS = 10_000

IS_ROOM = f"substr(name, -{len(properties_log(''))}) <> '{properties_log('')}'"
"""Whether a row of the table of rooms is a room, and not the log of a room's properties."""

_COUNT_ROOMS = f"SELECT floor, (SELECT count(*) FROM rooms WHERE {IS_ROOM}) FROM identity"
_FIND_ROOMS = """
SELECT json_group_array(json_array(rooms.name, rooms.id, rooms.top)), (SELECT ifnull(max(id), 0) FROM rooms)
FROM json_each(?) AS asked CROSS JOIN rooms ON rooms.name = asked.value
"""

_encode = msgspec.json.Encoder().encode
_decode_rooms = msgspec.json.Decoder(list[tuple[str, int, int]]).decode


class RoomTop(msgspec.Struct, eq=False):
    """The id and the top of a room, or of the log of a room's properties.

    :param new: whether the database doesn't have the room yet.
    """

    id: int
    top: int
    new: bool = False


class RoomIndex:
    """Counts the rooms, and caches the tops of the logs that were written to last.

    :ivar next_id: the id of the next room that is created.
    :ivar floor: the offset after which a new room begins: the highest top of all rooms that were forgotten.
    :ivar total: how many offsets were given in all rooms.
    """

    def __init__(self, clock: RetentionClock) -> None:
        self._clock = clock
        self._limit = RoomCreationLimit(clock.retention)
        self._cache: OrderedDict[str, RoomTop] = OrderedDict()
        self._stored = 0
        self.next_id = 1
        self.floor = 0
        self.total = 0

    def load(self, connection: sqlite3.Connection, total: int) -> None:
        """Count the rooms of a database that was just opened."""
        self.floor, self._stored = connection.execute(_COUNT_ROOMS).fetchone()
        self.total = total

    def clear_cache(self) -> None:
        """Read the tops from the database again."""
        self._cache.clear()

    def find(self, connection: sqlite3.Connection, names: Iterable[str]) -> dict[str, RoomTop]:
        """Return the rooms with these names that exist, as copies."""
        rooms, missing = {}, []
        for name in names:
            room = self._cache.get(name)
            if room is None:
                missing.append(name)
            else:
                rooms[name] = RoomTop(room.id, room.top)
        if missing:
            found, last_id = connection.execute(_FIND_ROOMS, (_encode(missing).decode(),)).fetchone()
            rooms |= {name: RoomTop(id, top) for name, id, top in _decode_rooms(found)}
            self.next_id = last_id + 1
        return rooms

    def refusal(self, created: int) -> RealtimeError | None:
        """Return why no room may be created; None if one may, which counts then.

        :param created: how many rooms the current batch creates already.
        """
        return self._limit.refusal(self._stored + created, self._clock.elapsed())

    def committed(
        self, rooms: Mapping[str, RoomTop], created: int, rooms_created: int, messages: int, next_id: int
    ) -> None:
        """Note what a commit has changed.

        :param rooms: the rooms and logs of properties that it wrote to.
        :param created: how many of them are new.
        :param rooms_created: how many rooms are among these.
        :param messages: how many messages and properties it added.
        :param next_id: the id of the next room that is created.
        """
        self.next_id = next_id
        self._stored += rooms_created
        self.total += messages + created * self.floor
        self._cache.update(rooms)
        for name in rooms:
            self._cache.move_to_end(name)
        while len(self._cache) > _CACHED_ROOMS:
            self._cache.popitem(last=False)

    def forgotten(self, rooms: Sequence[tuple[int, str, int]]) -> None:
        """Note that rooms were deleted.

        :param rooms: the id, the name and the top of each.
        """
        self._stored -= sum(not is_properties_log(name) for _, name, _ in rooms)
        for _, name, top in rooms:
            self.floor = max(self.floor, top)
            self.total -= top
            self._cache.pop(name, None)
