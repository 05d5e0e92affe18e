"""Appending to the logs in SQLite, a batch of drafts per commit, through the only connection that changes them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import Logger

from realtime_chat.store.append_queue import AppendOutcome
from realtime_chat.store.retention import ClockSpan, RetentionClock
from realtime_chat.store.sqlite.batch import CommitBatch, find_keys
from realtime_chat.store.sqlite.checkpoints import CheckpointScheduler
from realtime_chat.store.sqlite.file import DatabaseFile, DatabaseIdentity, transaction
from realtime_chat.store.sqlite.properties import PropertyChanges
from realtime_chat.store.sqlite.reader import PageReader
from realtime_chat.store.sqlite.rooms import RoomIndex
from realtime_chat.store.sqlite.sessions import Change, apply_changes, end_all, expire
from realtime_chat.store.sqlite.sweeper import Sweeper
from realtime_chat.values.errors import InDoubt, StoreError, StoreRefused
from realtime_chat.values.model import Draft, is_properties_log, room_of_log

_SAVE_INTERVAL = 600.0


class CommitInDoubt(Exception):
    """The disk failed during a commit. Once the disk can be read, it shows whether the commit is stored."""


class SQLiteWriter:
    """Changes the database. All methods are called on one thread.

    It is either usable or in doubt. A commit whose sync fails makes it in doubt: then nothing can be stored until
    :meth:`resolve_in_doubt` finds out whether that commit is on the disk.

    :param reader: has the only other connection to the file.
    :param on_replaced: called when the file was found to be another log.
    :ivar connection: the open connection; None if there is none. It is opened again when the file was replaced.
    :ivar sweeper: trims and forgets rooms.
    """

    _log = Logger()

    def __init__(
        self, file: DatabaseFile, clock: RetentionClock, reader: PageReader, on_replaced: Callable[[], None]
    ) -> None:
        self._file = file
        self._clock = clock
        self._reader = reader
        self._on_replaced = on_replaced
        self._rooms = RoomIndex(clock)
        self._checkpoints = CheckpointScheduler(file, reader, self._log_problem)
        self._saved_clock = _SavedClock(clock)
        self._secret: bytes | None = None
        self._epoch = ""
        self._data_version: Any = None
        self._in_doubt: CommitBatch | None = None
        self._problem = ""
        self.connection: sqlite3.Connection | None = None
        self.sweeper = Sweeper(clock, self._rooms)

    def open(self) -> DatabaseIdentity:
        """Open or create the database.

        :raises StoreRefused: it can't be opened.
        """
        self._disconnect()
        connection, identity = self._file.open_to_write(self._secret, self._rooms.total, self._reader.close)
        self.sweeper.install(connection)
        self._saved_clock.restore(connection)
        if identity.epoch != self._epoch:
            end_all(connection, self._clock)
        if identity.epoch != self._epoch and self._epoch:
            self._log.warn("{path} is another log now", path=self._file.path)
            self._on_replaced()
        self._epoch = identity.epoch
        self._secret = self._secret or identity.secret
        self._rooms.load(connection, identity.total)
        self._data_version = connection.execute("PRAGMA data_version").fetchone()
        self.connection = connection
        self._reader.open()
        return identity

    def close(self) -> None:
        """Close the database for good, and let other processes use it."""
        if self._in_doubt is None and self.connection is not None:
            self._save_clock(self.connection)
            self._file.mark_closed(self.connection)
        self._disconnect()
        self._file.release()

    def _disconnect(self) -> None:
        self._rooms.clear_cache()
        self._checkpoints.stop()
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _connected(self) -> sqlite3.Connection:
        """Return the connection. It is opened again if the file was replaced or the last statement failed.

        :raises StoreError: it can't be opened.
        """
        if self.connection is None or not self._file.in_place():
            try:
                self.open()
            except StoreRefused as refusal:
                self._log_problem(str(refusal))
                raise StoreError("the store can't be opened", str(refusal)) from refusal
        assert self.connection is not None
        return self.connection

    def _connected_to_same(self) -> sqlite3.Connection:
        """Return the connection. It is opened again if another program has changed the database.

        That may have been a backup that was put back.

        :raises StoreError: it can't be opened.
        """
        connection = self._connected()
        try:
            version = connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            return connection
        if version == self._data_version:
            return connection
        self._disconnect()
        return self._connected()

    def commit(
        self, drafts: Sequence[tuple[Draft, int]], check: bool = False, changes: Sequence[Change] = ()
    ) -> list[AppendOutcome]:
        """Store drafts in one transaction. Returns their outcomes, in order, once they are durable.

        :param drafts: at most :data:`~realtime_chat.store.append_queue.MAX_BATCH`, each with its time in milliseconds.
        :param check: write something even if there is no draft.
        :param changes: of sockets' records; they are committed before the drafts.
        :raises StoreError: nothing was stored.
        :raises CommitInDoubt: see :meth:`resolve_in_doubt`.
        :raises InDoubt: it is stored in a file that is no longer in place, but may be moved back.
        """
        if self._in_doubt is not None:
            raise StoreError("the disk failed, and can't be read yet")
        connection = self._connected()
        batch = None
        try:
            batch = self._prepare(connection, drafts)
            self.sweeper.update_key_cutoff(connection)
            if changes:
                apply_changes(connection, changes)
            if batch.has_changes:
                batch.insert(connection)
            elif check:
                connection.execute("UPDATE identity SET checks = checks + 1")
        except sqlite3.Error as error:
            raise self._failure(error, batch) from error
        if not self._file.in_place():
            self._log_problem("it was moved or replaced")
            self._rooms.clear_cache()
            raise InDoubt
        if self._problem and (batch.has_changes or check or changes):
            self._problem = ""
            self._log.info("{path} can be written to again", path=self._file.path)
        batch.note_committed()
        self._checkpoints.committed(batch.size)
        return batch.outcomes

    def _prepare(self, connection: sqlite3.Connection, drafts: Sequence[tuple[Draft, int]]) -> CommitBatch:
        names = {draft.room for draft, _ in drafts}
        logs = [name for name in names if is_properties_log(name)]
        rooms = self._rooms.find(connection, names.union(map(room_of_log, logs)))
        properties = None
        if logs:
            properties = PropertyChanges(connection, self._clock.retention)
            properties.load((name, rooms[name]) for name in logs if name in rooms)
        keyed = [draft for draft, _ in drafts if draft.key is not None]
        keys = find_keys(connection, keyed, rooms, self._epoch, self._clock) if keyed else {}
        batch = CommitBatch(self._epoch, rooms, self._rooms, keys, bool(keyed), properties)
        batch.add(drafts)
        return batch

    def _failure(self, error: sqlite3.Error, batch: CommitBatch | None) -> Exception:
        """Return what a failed statement means. It was rolled back, unless the disk failed."""
        code = getattr(error, "sqlite_errorcode", 0)
        self._log_problem(str(error))
        if code & 0xFF == sqlite3.SQLITE_FULL:
            return StoreError("the disk is full")
        self._rooms.clear_cache()
        # SQLite writes the commit mark last. If writing failed, that mark isn't there.
        is_written = code & 0xFF == sqlite3.SQLITE_IOERR and code != sqlite3.SQLITE_IOERR_WRITE
        if is_written and batch is not None and batch.count:
            # Written but not synced: SQLite may see it, and it may be found after a crash, or not.
            self._in_doubt = batch
            return CommitInDoubt(str(error))
        self._disconnect()
        return StoreError("the store can't be written to", str(error))

    def resolve_in_doubt(self) -> list[AppendOutcome] | None:
        """Find out whether the commit in doubt is stored.

        After a checkpoint, what is visible is durable, and what is not visible is gone.

        :returns: the outcomes if it is stored; None while that can't be seen, or if no commit is in doubt.
        :raises StoreError: it was not stored.
        """
        batch = self._in_doubt
        last = None if batch is None else batch.last
        if batch is None or last is None:
            return None
        try:
            identity = self.open()
            connection = self.connection
            assert connection is not None
            if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                return None
            row = connection.execute("SELECT top FROM rooms WHERE name = ?", (last.room,)).fetchone()
        except (sqlite3.Error, StoreRefused):
            return None
        self._in_doubt = None
        if identity.epoch == batch.epoch and row is not None and row[0] >= last.position.offset:
            return batch.outcomes
        raise StoreError("the disk failed")

    def checkpoint_if_due(self) -> None:
        """Checkpoint if it is time, so that the write-ahead log stays small. Call it after the answers are sent."""
        if self.connection is not None and self._in_doubt is None and self._checkpoints.are_due():
            self._checkpoints.run(self.connection)

    def maintain(self) -> None:
        """Notice that the file was replaced, checkpoint, trim rooms without writes, and forget unused rooms."""
        if self._in_doubt is not None:
            return
        try:
            connection = self._connected_to_same()
        except StoreError:
            return
        if self._saved_clock.is_stale:
            self._save_clock(connection)
        self._checkpoints.run(connection)
        try:
            self.sweeper.sweep(connection)
            expire(connection, self._clock)
        except sqlite3.Error as error:
            self._log_problem(f"nothing trimmed: {error}")

    def _save_clock(self, connection: sqlite3.Connection) -> None:
        try:
            self._saved_clock.save(connection)
        except sqlite3.Error as error:
            self._log_problem(str(error))

    def _log_problem(self, problem: str) -> None:
        """Log what is wrong, once: a full disk fails every commit."""
        if problem != self._problem:
            self._problem = problem
            self._log.error("{path}: {problem}", path=self._file.path, problem=problem)


class _SavedClock:
    """Saves in the database, for the next process, what the wall clock has shown; restores it once."""

    def __init__(self, clock: RetentionClock) -> None:
        self._clock = clock
        self._saved: tuple[Sequence[ClockSpan], float] | None = None

    def restore(self, connection: sqlite3.Connection) -> None:
        """Restore the clock when the first connection is opened."""
        if self._saved is None:
            rows = connection.execute("SELECT elapsed, ahead FROM spans ORDER BY elapsed")
            self._clock.restore([ClockSpan(*row) for row in rows])
            self._saved = (), 0.0

    @property
    def is_stale(self) -> bool:
        """Whether the clock should be saved again."""
        spans, elapsed = self._saved or ((), 0.0)
        return spans is not self._clock.spans or self._clock.elapsed() - elapsed > _SAVE_INTERVAL

    def save(self, connection: sqlite3.Connection) -> None:
        """Save the spans, and how far the elapsed time has got.

        :raises sqlite3.Error: they are not saved.
        """
        if not self._clock.needs_saving:
            return
        spans, elapsed = self._clock.spans, self._clock.elapsed()
        rows = [*spans, ClockSpan(elapsed, spans[-1].ahead)]
        with transaction(connection):
            connection.execute("DELETE FROM spans")
            connection.executemany("INSERT OR REPLACE INTO spans (elapsed, ahead) VALUES (?, ?)", rows)
        self._saved = spans, elapsed
