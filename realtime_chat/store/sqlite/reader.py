"""Reading pages of a log from SQLite. Each page is one snapshot, and waits for no writer."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.store.retention import PAGE_BYTES, RetentionClock, readable_page
from realtime_chat.store.sqlite.file import DatabaseFile
from realtime_chat.store.sqlite.rooms import IS_ROOM
from realtime_chat.store.sqlite.sessions import SELECT_RECORD, session_cutoff
from realtime_chat.values.errors import StoreError, StoreRefused
from realtime_chat.values.model import Message, Page, Position, is_properties_log

# One statement is one snapshot. It gives one row, as each row releases the interpreter's lock. With a row per message,
# a busy reactor's thread would hold up the page.
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
_ROOMS = f"""
SELECT json_group_array(name)
FROM (SELECT name FROM rooms WHERE name > :after AND {IS_ROOM} ORDER BY name LIMIT :limit)
"""
_PROPERTIES = """
SELECT epoch, floor, log.top, log.removed, (
    SELECT json_group_array(json_array(offset, at, name, CAST(data AS TEXT), sender_id, sender_name, key))
    FROM properties WHERE room = log.id AND offset > :offset
)
FROM identity LEFT JOIN rooms AS log ON log.name = :room
"""
_MAX_OFFSET = 2**62
_MAX_READS = 20_000


class _PageRow(msgspec.Struct, array_like=True, frozen=True):
    offset: int
    at: int
    event: str
    data: str
    sender_id: str
    sender_name: str
    key: str | None


_decode_rows = msgspec.json.Decoder(list[_PageRow]).decode
_decode_names = msgspec.json.Decoder(list[str]).decode


class PageReader:
    """Reads pages of a log, one after another, on a thread and through a connection of its own.

    :param clock: tells which messages are too old to be read.
    :param call_from_thread: calls something on the reactor's thread (``IReactorFromThreads.callFromThread``).
    """

    _log = Logger()

    def __init__(self, file: DatabaseFile, clock: RetentionClock, call_from_thread: Callable[..., Any]) -> None:
        self._file = file
        self._clock = clock
        self._call_from_thread = call_from_thread
        self._connection: sqlite3.Connection | None = None
        self._next = threading.Lock()  # held by the thread that uses the connection next
        self._in_use = threading.Lock()
        self._reads: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], Deferred[Any]] | None] = SimpleQueue()
        self._waiting = 0
        self._thread = threading.Thread(target=self._run, name="store-reader", daemon=True)

    # On the reactor's thread.

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def read_after(self, room: str, offset: int, limit: int) -> Deferred[Page]:
        """Read on the thread; see :meth:`IMessageStore.read_after`."""
        if is_properties_log(room):
            return self._ask(self._properties, room, offset)
        return self._ask(self._page, _AFTER, room, offset, limit)

    def read_before(self, room: str, offset: int | None, limit: int) -> Deferred[Page]:
        """Read on the thread; see :meth:`IMessageStore.read_before`."""
        return self._ask(self._page, _BEFORE, room, _MAX_OFFSET if offset is None else offset, limit)

    def rooms(self, after: str, limit: int) -> Deferred[Sequence[str]]:
        """Read on the thread; see :meth:`IMessageStore.rooms`."""
        return self._ask(self._rooms, after, limit)

    def session(self, key: str) -> Deferred[bytes | None]:
        """Read on the thread; see :meth:`ISessionStore.get`."""
        return self._ask(self._session, key)

    def _ask(self, read: Callable[..., Any], *asked: Any) -> Deferred[Any]:
        if self._waiting >= _MAX_READS:
            return fail(StoreError("too many reads wait"))
        self._waiting += 1
        answer: Deferred[Any] = Deferred()
        self._reads.put((read, asked, answer))
        return answer

    def _answer(self, answer: Deferred[Any], result: Any) -> None:
        self._waiting -= 1
        answer.callback(result)

    # On its own thread.

    def _run(self) -> None:
        while (read := self._reads.get()) is not None:
            call, asked, answer = read
            try:
                result = call(*asked)
            except Exception:
                result = Failure()
            self._call_from_thread(self._answer, answer, result)

    def _rooms(self, after: str, limit: int) -> Sequence[str]:
        return sorted(_decode_names(self._row(_ROOMS, {"after": after, "limit": limit})[0]))

    def _session(self, key: str) -> bytes | None:
        record: bytes | None = self._row(SELECT_RECORD, {"key": key, "cutoff": session_cutoff(self._clock)})[0]
        return record

    def _page(self, statement: str, room: str, offset: int, limit: int) -> Page:
        cutoff = self._clock.message_cutoff()
        asked = {
            "room": room,
            "offset": offset,
            "limit": limit,
            "bytes": PAGE_BYTES,
            "count": self._clock.retention.count_for(room),
            "cutoff": cutoff,
        }
        epoch, floor, top, oldest, epoch_start, rows = self._row(statement, asked)
        if top is None:
            return Page(epoch, floor + 1, floor, (), floor)
        found = sorted(_decode_rows(rows), key=lambda row: row.offset)
        return readable_page(epoch, oldest, top, [_message(room, epoch, row) for row in found], cutoff, epoch_start)

    def _properties(self, log: str, offset: int) -> Page:
        epoch, floor, top, removed, rows = self._row(_PROPERTIES, {"room": log, "offset": offset})
        if top is None:
            return Page(epoch, floor + 1, floor)
        found = sorted(_decode_rows(rows), key=lambda row: row.offset)
        return Page(epoch, removed + 1, top, tuple(_message(log, epoch, row) for row in found))

    def _row(self, statement: str, values: dict[str, Any]) -> Any:
        with self._next:
            self._in_use.acquire()
        try:
            return self._read_row(statement, values)
        finally:
            self._in_use.release()

    def _read_row(self, statement: str, values: dict[str, Any]) -> Any:
        try:
            return self._opened().execute(statement, values).fetchone()
        except (sqlite3.Error, StoreRefused) as error:
            self._drop()
            self._log.error("{path} can't be read: {error}", path=self._file.path, error=str(error))
            raise StoreError("the store can't be read", str(error)) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._file.open_to_read()
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # On the writing thread.

    @contextmanager
    def paused(self, patience: float) -> Iterator[bool]:
        """Pause all reads during a ``with`` block, after the page that is being read.

        :param patience: the most seconds to wait for that page.
        :returns: the value of the block: whether all reads are paused.
        """
        with self._next:
            paused = self._in_use.acquire(timeout=patience)
            try:
                yield paused
            finally:
                if paused:
                    self._in_use.release()

    def open(self) -> None:
        """Open the connection now. It can still read later, when the files can no longer be opened."""
        with self._in_use, suppress(sqlite3.Error, StoreRefused):
            self._opened()

    def close(self) -> None:
        """Close the connection; the next read opens another."""
        with self._in_use:
            self._drop()

    def stop(self) -> None:
        """Finish what was asked for, end the thread, and close the connection."""
        self._reads.put(None)
        self._thread.join()
        self.close()


def _message(room: str, epoch: str, row: _PageRow) -> Message:
    place = Position(epoch, row.offset)
    return Message(room, place, row.event, row.data.encode(), row.sender_id, row.sender_name, row.at, row.key)
