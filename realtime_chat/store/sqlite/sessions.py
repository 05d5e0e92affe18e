"""The records of Socket.IO sockets in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from realtime_chat.core.interfaces import MAX_SESSIONS, SESSION_SECONDS, ISessionStore
from realtime_chat.store.retention import RetentionClock
from realtime_chat.store.sqlite.file import transaction

SELECT_RECORD = "SELECT (SELECT record FROM sessions WHERE key = :key AND ifnull(ended >= :cutoff, 1))"
_PUT = "INSERT OR REPLACE INTO sessions (key, ended, record) VALUES (?, ?, ?)"
_REMOVE = "DELETE FROM sessions WHERE key = ?"
_END_ALL = "UPDATE sessions SET ended = ? WHERE ended IS NULL"
_EXPIRE = """
DELETE FROM sessions WHERE ended < :cutoff OR key IN (
    SELECT key FROM sessions WHERE ended IS NOT NULL ORDER BY ended DESC LIMIT -1 OFFSET :most)
"""

Change = tuple[str, Sequence[Any]]
"""A statement, and its parameters."""


def session_cutoff(clock: RetentionClock) -> int:
    """Return the lowest ``ended`` of a record that has not expired."""
    return clock.cutoff(SESSION_SECONDS)


def apply_changes(connection: sqlite3.Connection, changes: Sequence[Change]) -> None:
    """Write records, as one transaction.

    :raises sqlite3.Error: nothing is written, unless the disk failed.
    """
    with transaction(connection):
        for statement, values in changes:
            connection.execute(statement, values)


def end_all(connection: sqlite3.Connection, clock: RetentionClock) -> None:
    """Note that no socket is connected any more, as the process has begun."""
    connection.execute(_END_ALL, (clock.now_ms(),))


def expire(connection: sqlite3.Connection, clock: RetentionClock, most: int = MAX_SESSIONS) -> None:
    """Remove the records that have expired.

    :param most: how many records of disconnected sockets are kept.
    """
    connection.execute(_EXPIRE, {"cutoff": session_cutoff(clock), "most": most})


@implementer(ISessionStore)
class SQLiteSessions:
    """Records in the database of the logs. They are written by the thread that commits messages, in order with these.

    :param change: has a change committed.
    :param read: reads a record.
    """

    def __init__(
        self,
        clock: RetentionClock,
        change: Callable[[Change], Deferred[None]],
        read: Callable[[str], Deferred[bytes | None]],
    ) -> None:
        self._clock = clock
        self._change = change
        self._read = read

    def put(self, key: str, record: bytes, connected: bool) -> Deferred[None]:
        # A bytearray, as in batch.py.
        return self._change((_PUT, (key, None if connected else self._clock.now_ms(), bytearray(record))))

    def get(self, key: str) -> Deferred[bytes | None]:
        return self._read(key)

    def remove(self, key: str) -> Deferred[None]:
        return self._change((_REMOVE, (key,)))
