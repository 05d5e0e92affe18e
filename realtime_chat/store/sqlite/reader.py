"""Reading pages of a log from SQLite, each as one snapshot that waits for no writer."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from twisted.logger import Logger

from realtime_chat.store.ages import Ages
from realtime_chat.store.retention import PAGE_BYTES, Retention, young_part
from realtime_chat.store.sqlite.file import DatabaseFile
from realtime_chat.values.errors import StoreError, StoreRefused
from realtime_chat.values.model import Message, Page, Position

__all__ = ["LogReader"]

# One statement is one snapshot, and one row is one hand-over of the interpreter's lock: with a row a message a page
# would take as long as a busy reactor thread lets it.
_PAGE = """
WITH log AS MATERIALIZED (
    SELECT id, top, begun, ifnull(
        (SELECT offset FROM messages WHERE room = rooms.id AND offset > top - :count AND at >= :cutoff
         ORDER BY offset LIMIT 1),
        top + 1) AS oldest
    FROM rooms WHERE name = :room
)
SELECT epoch, floor, log.top, log.oldest, log.begun, (
    SELECT json_group_array(json_array(offset, at, event, CAST(data AS TEXT), sender_id, sender_name, key))
    FROM (
        SELECT *, sum(length(data)) OVER (ORDER BY offset %(direction)s) - length(data) AS ahead
        FROM (
            SELECT * FROM messages
            WHERE room = log.id AND offset >= log.oldest AND offset %(beyond)s :offset
            ORDER BY offset %(direction)s LIMIT :limit
        )
    )
    WHERE ahead < :bytes
)
FROM identity LEFT JOIN log
"""
_AFTER = _PAGE % {"beyond": ">", "direction": "ASC"}
_BEFORE = _PAGE % {"beyond": "<", "direction": "DESC"}
_ROOMS = """
SELECT json_group_array(name) FROM (SELECT name FROM rooms WHERE name > :after ORDER BY name LIMIT :limit)
"""
_BEYOND = 2**62


class _Row(msgspec.Struct, array_like=True, frozen=True):
    offset: int
    at: int
    event: str
    data: str
    sender_id: str
    sender_name: str
    key: str | None


_decode_rows = msgspec.json.Decoder(list[_Row]).decode
_decode_names = msgspec.json.Decoder(list[str]).decode


class LogReader:
    """Pages of a log, read through a connection of its own.

    :param ages: of what is too old to be read.
    """

    _log = Logger()

    def __init__(self, file: DatabaseFile, retention: Retention, ages: Ages) -> None:
        self._file = file
        self._retention = retention
        self._ages = ages
        self._connection: sqlite3.Connection | None = None
        self._turn = threading.Lock()  # who waits for the connection's use is next
        self._use = threading.Lock()

    def read_after(self, room: str, offset: int, limit: int) -> Page:
        """See :meth:`IMessageStore.read_after`.

        :raises StoreError:
        """
        return self._page(_AFTER, room, offset, limit)

    def read_before(self, room: str, offset: int | None, limit: int) -> Page:
        """See :meth:`IMessageStore.read_before`.

        :raises StoreError:
        """
        return self._page(_BEFORE, room, _BEYOND if offset is None else offset, limit)

    def rooms(self, after: str, limit: int) -> list[str]:
        """See :meth:`IMessageStore.rooms`.

        :raises StoreError:
        """
        return sorted(_decode_names(self._row(_ROOMS, {"after": after, "limit": limit})[0]))

    def _page(self, statement: str, room: str, offset: int, limit: int) -> Page:
        cutoff = self._ages.cutoff()
        asked = {
            "room": room,
            "offset": offset,
            "limit": limit,
            "bytes": PAGE_BYTES,
            "count": self._retention.count,
            "cutoff": cutoff,
        }
        epoch, floor, top, oldest, begun, rows = self._row(statement, asked)
        if top is None:
            return Page(epoch, floor + 1, floor, (), floor)
        found = sorted(_decode_rows(rows), key=lambda row: row.offset)
        messages = young_part([_message(room, epoch, row) for row in found], cutoff)
        if len(messages) < len(found):
            oldest = found[len(found) - len(messages) - 1].offset + 1
        return Page(epoch, oldest, top, tuple(messages), begun)

    @contextmanager
    def paused(self, patience: float) -> Iterator[bool]:
        """Let nothing be read for a moment, after the page that is being read.

        :param patience: seconds to wait for that page at most.
        :returns: by the context: whether nothing is read now.
        """
        with self._turn:
            paused = self._use.acquire(timeout=patience)
            try:
                yield paused
            finally:
                if paused:
                    self._use.release()

    def _row(self, statement: str, values: dict[str, Any]) -> Any:
        with self._turn:
            self._use.acquire()
        try:
            return self._read_row(statement, values)
        finally:
            self._use.release()

    def _read_row(self, statement: str, values: dict[str, Any]) -> Any:
        try:
            return self._opened().execute(statement, values).fetchone()
        except (sqlite3.Error, StoreRefused) as error:
            self._drop()
            self._log.error("{path} can't be read: {error}", path=self._file.path, error=str(error))
            raise StoreError("the store can't be read", str(error)) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._file.open_another()
        return self._connection

    def open(self) -> None:
        """Open the connection while it can be: it goes on reading where nothing could be opened any more."""
        with self._use, suppress(sqlite3.Error, StoreRefused):
            self._opened()

    def close(self) -> None:
        """Close the connection; the next read opens another."""
        with self._use:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _message(room: str, epoch: str, row: _Row) -> Message:
    place = Position(epoch, row.offset)
    return Message(room, place, row.event, row.data.encode(), row.sender_id, row.sender_name, row.at, row.key)
