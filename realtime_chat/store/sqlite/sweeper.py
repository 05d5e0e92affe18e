"""Sweeping: trimming rooms that are not written to, and forgetting rooms that are unused."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence

from realtime_chat.store.retention_clock import RetentionClock
from realtime_chat.store.sqlite.rooms import RoomIndex
from realtime_chat.store.sqlite.transaction import transaction
from realtime_chat.store.sqlite.trim import Trimmer

__all__ = ["RoomSweeper"]

_SWEEP_SECONDS = 0.01
_ROOMS_PER_SWEEP = 100

_FIND_EMPTY = """
SELECT id, name, top, emptied, EXISTS (SELECT 1 FROM keys WHERE room = rooms.id) FROM rooms
WHERE id > ? AND id <= ? AND NOT EXISTS (SELECT 1 FROM messages WHERE room = rooms.id)
"""
_SET_EMPTIED = "UPDATE rooms SET emptied = ? WHERE id = ?"
_RAISE_FLOOR = "UPDATE identity SET floor = max(floor, ?)"
_FORGET_ROOM = "DELETE FROM rooms WHERE id = ?"


class RoomSweeper:
    """Goes through all rooms, some at a time.

    :ivar is_read: tells whether somebody reads a room. Such a room is not forgotten.
    """

    def __init__(self, clock: RetentionClock, rooms: RoomIndex, trimmer: Trimmer) -> None:
        self._clock = clock
        self._rooms = rooms
        self._trimmer = trimmer
        self._swept_id = 0
        self.is_read: Callable[[str], bool] = lambda room: False

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
        self._trimmer.trim(connection, self._swept_id, last)
        self._sweep_empty(connection, self._swept_id, last)
        (more,) = connection.execute("SELECT max(id) > ? FROM rooms", (last,)).fetchone()
        self._swept_id = last if more else 0
        return bool(more)

    def _sweep_empty(self, connection: sqlite3.Connection, after: int, last: int) -> None:
        """Forget unused rooms. If a room is read, note now and then that it was."""
        clock, room_age = self._clock, self._clock.retention.room_age
        now, expired, half_expired = int(clock.now() * 1000), clock.cutoff(room_age), clock.cutoff(room_age / 2)
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
