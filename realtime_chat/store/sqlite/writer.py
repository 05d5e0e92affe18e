"""Appending to the logs in SQLite, a batch of drafts per commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from realtime_chat.store.append_queue import AppendOutcome
from realtime_chat.store.retention_clock import RetentionClock
from realtime_chat.store.sqlite.batch import CommitBatch
from realtime_chat.store.sqlite.connection import WriterConnection
from realtime_chat.store.sqlite.file import DatabaseFile, LogIdentity
from realtime_chat.store.sqlite.keys import find_keys
from realtime_chat.store.sqlite.sweeper import RoomSweeper
from realtime_chat.values.errors import InDoubt, StoreError, StoreRefused
from realtime_chat.values.model import Draft

__all__ = ["CommitInDoubt", "SQLiteWriter"]


class CommitInDoubt(Exception):
    """The disk failed during a commit. Once the disk can be read, it shows whether the commit is stored."""


class SQLiteWriter:
    """Changes the database. All methods are called on one thread.

    It is either usable or in doubt. A commit whose sync fails makes it in doubt: then nothing can be stored until
    :meth:`resolve_in_doubt` finds out whether that commit is on the disk.

    :ivar sweeper: trims and forgets rooms.
    """

    def __init__(self, file: DatabaseFile, clock: RetentionClock, connection: WriterConnection) -> None:
        self._file = file
        self._clock = clock
        self._connection = connection
        self._rooms = connection.rooms
        self._in_doubt: CommitBatch | None = None
        self.sweeper = RoomSweeper(clock, self._rooms, connection.trimmer)

    def open(self) -> LogIdentity:
        """Open or create the database.

        :raises StoreRefused: it can't be opened.
        """
        return self._connection.open()

    def close(self) -> None:
        """Close the database for good, and let other processes use it."""
        if self._in_doubt is None:
            self._connection.save_clock()
            self._connection.mark_closed()
        self._connection.close()
        self._file.release()

    def commit(self, drafts: Sequence[tuple[Draft, int]], check: bool = False) -> list[AppendOutcome]:
        """Store drafts in one transaction. Returns their outcomes, in order, once they are durable.

        :param drafts: at most :data:`~realtime_chat.store.append_queue.MAX_BATCH`, each with its time in milliseconds.
        :param check: write something even if there is no draft.
        :raises StoreError: nothing was stored.
        :raises CommitInDoubt: see :meth:`resolve_in_doubt`.
        :raises InDoubt: it is stored in a file that is no longer in place, but may be moved back.
        """
        if self._in_doubt is not None:
            raise StoreError("the disk failed, and can't be read yet")
        connection = self._connection.get()
        batch = None
        try:
            batch = self._prepare(connection, drafts)
            self._connection.trimmer.update_key_cutoff(connection)
            if batch.count:
                batch.insert(connection)
            elif check:
                connection.execute("UPDATE identity SET checks = checks + 1")
        except sqlite3.Error as error:
            raise self._failure(error, batch) from error
        if not self._file.in_place():
            self._connection.log_problem("it was moved or replaced")
            self._rooms.clear_cache()
            raise InDoubt
        if batch.count or check:
            self._connection.log_recovered()
        batch.note_committed()
        self._connection.checkpoints.committed(batch.size)
        return batch.outcomes

    def _prepare(self, connection: sqlite3.Connection, drafts: Sequence[tuple[Draft, int]]) -> CommitBatch:
        epoch = self._connection.epoch
        rooms = self._rooms.find(connection, {draft.room for draft, _ in drafts})
        keyed = [draft for draft, _ in drafts if draft.key is not None]
        keys = find_keys(connection, keyed, rooms, epoch, self._clock) if keyed else {}
        batch = CommitBatch(epoch, rooms, self._rooms, keys, bool(keyed))
        batch.add(drafts)
        return batch

    def _failure(self, error: sqlite3.Error, batch: CommitBatch | None) -> Exception:
        """Return what a failed statement means. It was rolled back, unless the disk failed."""
        code = getattr(error, "sqlite_errorcode", 0)
        self._connection.log_problem(str(error))
        if code & 0xFF == sqlite3.SQLITE_FULL:
            return StoreError("the disk is full")
        self._rooms.clear_cache()
        # SQLite writes the commit mark last. If writing failed, that mark isn't there.
        is_written = code & 0xFF == sqlite3.SQLITE_IOERR and code != sqlite3.SQLITE_IOERR_WRITE
        if is_written and batch is not None and batch.count:
            # Written but not synced: SQLite may see it, and it may be found after a crash, or not.
            self._in_doubt = batch
            return CommitInDoubt(str(error))
        self._connection.close()
        return StoreError("the store can't be written to", str(error))

    @property
    def in_doubt(self) -> bool:
        """Whether it is unknown if the last commit is stored. Until that is resolved nothing can be stored."""
        return self._in_doubt is not None

    def resolve_in_doubt(self) -> list[AppendOutcome] | None:
        """Find out whether the commit in doubt is stored.

        After a checkpoint, what is visible is durable, and what is not visible is gone.

        :returns: the outcomes if it is stored; None while that can't be seen.
        :raises StoreError: it was not stored.
        """
        batch = self._in_doubt
        last = None if batch is None else batch.last
        if batch is None or last is None:
            return None
        try:
            identity = self.open()
            connection = self._connection.current
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
        connection = self._connection
        if connection.current is not None and self._in_doubt is None and connection.checkpoints.are_due():
            connection.checkpoints.run(connection.current)

    def maintain(self) -> None:
        """Notice that the file was replaced, checkpoint, trim rooms without writes, and forget unused rooms."""
        if self._in_doubt is not None:
            return
        try:
            connection = self._connection.get_unchanged()
        except StoreError:
            return
        if self._connection.saved_clock.is_stale:
            self._connection.save_clock()
        self._connection.checkpoints.run(connection)
        try:
            self.sweeper.sweep(connection)
        except sqlite3.Error as error:
            self._connection.log_problem(f"nothing trimmed: {error}")
