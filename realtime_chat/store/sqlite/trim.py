"""Deleting old messages and keys in SQLite, with triggers that are part of each commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from realtime_chat.store.retention_clock import ClockSpan, RetentionClock

__all__ = ["Trimmer"]

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
    VALUES (NEW.room, NEW.offset - %(count)d + 1, (SELECT young FROM ages), %(most)d);
END;
"""
_TRIM_ROOMS = """
INSERT INTO trims (room, below, young, most)
SELECT id, max(top - :count + 1, ifnull(
    (SELECT offset FROM messages WHERE room = rooms.id AND at >= :cutoff ORDER BY offset LIMIT 1), top + 1)),
    :young, :most
FROM rooms WHERE id > :after AND id <= :last
"""


class Trimmer:
    """Deletes messages and keys that are no longer kept, in the rooms that are written to and in others."""

    def __init__(self, clock: RetentionClock) -> None:
        self._clock = clock
        self._spans: Sequence[ClockSpan] = ()
        # A trim walks through so many offsets of a room: more than are added until the next trim.
        self._most = 4 * clock.retention.slack

    def install(self, connection: sqlite3.Connection) -> None:
        """Create the triggers of a new connection."""
        connection.executescript(
            _TRIGGERS % {"slack": self._clock.retention.slack, "count": self._clock.retention.count, "most": self._most}
        )
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

    def trim(self, connection: sqlite3.Connection, after: int, last: int) -> None:
        """Trim the rooms whose ids are above ``after`` and at most ``last``."""
        values = {
            "young": self._set_key_cutoff(connection),
            "count": self._clock.retention.count,
            "cutoff": self._clock.message_cutoff(),
            "most": self._most,
            "after": after,
            "last": last,
        }
        connection.execute(_TRIM_ROOMS, values)
