"""Deleting in SQLite what is no longer kept: old messages and keys, and unused rooms.

Triggers trim the rooms that are written to, as a part of each commit. A sweep trims the other rooms.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence

from realtime_chat.store.retention import ClockSpan, RetentionClock
from realtime_chat.store.sqlite.file import transaction
from realtime_chat.store.sqlite.rooms import RoomIndex
from realtime_chat.values.model import properties_log

_SWEEP_SECONDS = 0.01
_ROOMS_PER_SWEEP = 100

_FIND_EMPTY = f"""
SELECT id, name, top, emptied, EXISTS (SELECT 1 FROM keys WHERE room = rooms.id) FROM rooms
WHERE id > ? AND id <= ? AND NOT EXISTS (SELECT 1 FROM messages WHERE room = rooms.id)
AND NOT EXISTS (SELECT 1 FROM properties WHERE room = rooms.id)
AND NOT EXISTS (SELECT 1 FROM rooms AS log WHERE log.name = rooms.name || '{properties_log("")}')
"""
_SET_EMPTIED = "UPDATE rooms SET emptied = ? WHERE id = ?"
_RAISE_FLOOR = "UPDATE identity SET floor = max(floor, ?)"
_FORGET_ROOM = "DELETE FROM rooms WHERE id = ?"


# Each statement releases the interpreter's lock. While the reactor's thread is busy, it takes up to
# sys.getswitchinterval() to get it back. So a commit is one statement, and triggers do the rest. They are triggers of
# the table, as those of a view cost three times as much.
_TRIGGERS = """
CREATE TEMP VIEW trims AS
SELECT NULL AS room, NULL AS below, NULL AS young, NULL AS most;

CREATE TEMP TRIGGER trim INSTEAD OF INSERT ON trims BEGIN
    DELETE FROM messages WHERE room = NEW.room AND offset < min(
        NEW.below,
        NEW.most + ifnull((SELECT min(offset) FROM messages WHERE room = NEW.room), 0));
    DELETE FROM keys WHERE room = NEW.room AND offset < min(
        NEW.below,
        NEW.most + ifnull((SELECT min(offset) FROM keys WHERE room = NEW.room), 0),
        ifnull((SELECT offset FROM keys WHERE room = NEW.room AND at >= NEW.young ORDER BY offset LIMIT 1), NEW.below));
END;

CREATE TEMP TABLE ages (young INTEGER NOT NULL);
INSERT INTO ages (young) VALUES (0);

CREATE TEMP TRIGGER move_top AFTER INSERT ON main.messages BEGIN
    UPDATE rooms SET top = NEW.offset, emptied = NULL WHERE id = NEW.room AND top = NEW.offset - 1;
    SELECT RAISE(ABORT, 'another program has changed it') WHERE changes() = 0;
END;

CREATE TEMP TRIGGER file_key AFTER INSERT ON main.messages WHEN NEW.digest IS NOT NULL BEGIN
    INSERT OR REPLACE INTO keys (room, sender_id, key, offset, at, digest)
    VALUES (NEW.room, NEW.sender_id, NEW.key, NEW.offset, NEW.at, NEW.digest);
END;

CREATE TEMP TRIGGER trim_room AFTER INSERT ON main.messages WHEN NEW.offset %% %(slack)d = 0 BEGIN
    INSERT INTO trims (room, below, young, most)
    SELECT NEW.room, NEW.offset - iif(name GLOB '/*', %(namespace_count)d, %(count)d) + 1, (SELECT young FROM ages),
        %(most)d
    FROM rooms WHERE id = NEW.room;
END;
"""
_TRIM_ROOMS = """
INSERT INTO trims (room, below, young, most)
SELECT id, max(top - iif(name GLOB '/*', :namespace_count, :count) + 1, ifnull(
    (SELECT offset FROM messages WHERE room = rooms.id AND at >= :cutoff ORDER BY offset LIMIT 1), top + 1)),
    :young, :most
FROM rooms WHERE id > :after AND id <= :last
"""


class Sweeper:
    """Deletes what is no longer kept.

    :ivar is_read: tells whether somebody reads a room. Such a room is not forgotten.
    """

    def __init__(self, clock: RetentionClock, rooms: RoomIndex) -> None:
        self._clock = clock
        self._rooms = rooms
        self._spans: Sequence[ClockSpan] = ()
        # A trim walks through so many offsets of a room: more than are added until the next trim.
        self._most = 4 * clock.retention.slack
        self._swept_id = 0
        self.is_read: Callable[[str], bool] = lambda room: False

    def install(self, connection: sqlite3.Connection) -> None:
        """Create the triggers of a new connection."""
        retention = self._clock.retention
        counts = {"count": retention.count, "namespace_count": retention.namespace_count}
        connection.executescript(_TRIGGERS % {"slack": retention.slack, "most": self._most, **counts})
        self._spans = ()

    def update_key_cutoff(self, connection: sqlite3.Connection) -> None:
        """Tell the triggers which keys are young, if the wall clock was set.

        As time passes, the cutoff that they know becomes too low. That only keeps more keys, until the next sweep.
        After the wall clock was set it may be too high.
        """
        if self._spans is not self._clock.spans:
            self._set_key_cutoff(connection)

    def _set_key_cutoff(self, connection: sqlite3.Connection) -> int:
        self._spans = self._clock.spans
        cutoff = self._clock.key_cutoff()
        connection.execute("UPDATE ages SET young = ?", (cutoff,))
        return cutoff

    def sweep(self, connection: sqlite3.Connection) -> None:
        """Sweep the next rooms, for a short time.

        :raises sqlite3.Error: some were not swept.
        """
        end = time.monotonic() + _SWEEP_SECONDS
        while self._sweep_some(connection) and time.monotonic() < end:
            pass

    def _sweep_some(self, connection: sqlite3.Connection) -> bool:
        """Sweep some rooms. Returns False after the last room."""
        last = self._swept_id + _ROOMS_PER_SWEEP
        self._trim(connection, self._swept_id, last)
        self._sweep_empty(connection, self._swept_id, last)
        (more,) = connection.execute("SELECT max(id) > ? FROM rooms", (last,)).fetchone()
        self._swept_id = last if more else 0
        return bool(more)

    def _trim(self, connection: sqlite3.Connection, after: int, last: int) -> None:
        values = {
            "young": self._set_key_cutoff(connection),
            "count": self._clock.retention.count,
            "namespace_count": self._clock.retention.namespace_count,
            "cutoff": self._clock.message_cutoff(),
            "most": self._most,
            "after": after,
            "last": last,
        }
        connection.execute(_TRIM_ROOMS, values)

    def _sweep_empty(self, connection: sqlite3.Connection, after: int, last: int) -> None:
        """Forget unused rooms. If a room is read, note now and then that it was."""
        clock, room_age = self._clock, self._clock.retention.room_age
        now, expired, half_expired = clock.now_ms(), clock.cutoff(room_age), clock.cutoff(room_age / 2)
        emptied: list[tuple[int, int]] = []
        unused: list[tuple[int, str, int]] = []
        for id, name, top, since, has_keys in connection.execute(_FIND_EMPTY, (after, last)).fetchall():
            if since is None or (since <= half_expired and self.is_read(name)):
                emptied.append((now, id))
            elif since <= expired and not has_keys:
                unused.append((id, name, top))
        if emptied or unused:
            with transaction(connection):
                connection.executemany(_SET_EMPTIED, emptied)
                self._forget(connection, unused)
            self._rooms.forgotten(unused)

    def _forget(self, connection: sqlite3.Connection, rooms: Sequence[tuple[int, str, int]]) -> None:
        if rooms:
            connection.execute(_RAISE_FLOOR, (max(top for _, _, top in rooms),))
            connection.executemany(_FORGET_ROOM, [(id,) for id, _, _ in rooms])
