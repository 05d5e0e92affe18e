"""The connection that changes the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from realtime_chat.store.problem_log import ProblemLog
from realtime_chat.store.retention_clock import RetentionClock
from realtime_chat.store.sqlite.checkpoints import CheckpointScheduler
from realtime_chat.store.sqlite.file import DatabaseFile, LogIdentity
from realtime_chat.store.sqlite.reader import SQLiteReader
from realtime_chat.store.sqlite.rooms import RoomIndex
from realtime_chat.store.sqlite.saved_clock import SavedClock
from realtime_chat.store.sqlite.trim import Trimmer
from realtime_chat.values.errors import StoreError, StoreRefused

__all__ = ["WriterConnection"]


class WriterConnection:
    """The only connection that changes the database. It is opened again when the file was replaced.

    :param reader: has the only other connection to the file.
    :param on_replaced: called when the file was found to be another log.
    :ivar current: the open connection; None if there is none.
    :ivar epoch: the epoch of the log.
    :ivar rooms: the rooms of the log.
    """

    _log = Logger()

    def __init__(
        self,
        file: DatabaseFile,
        clock: RetentionClock,
        reader: SQLiteReader,
        on_replaced: Callable[[], None],
    ) -> None:
        self._file = file
        self._reader = reader
        self._on_replaced = on_replaced
        self._problems = ProblemLog(self._log)
        self._secret: bytes | None = None
        self._data_version: Any = None
        self.current: sqlite3.Connection | None = None
        self.epoch = ""
        self.rooms = RoomIndex(clock)
        self.trimmer = Trimmer(clock)
        self.saved_clock = SavedClock(clock)
        self.checkpoints = CheckpointScheduler(file, reader, self.log_problem)

    def open(self) -> LogIdentity:
        """Open or create the database.

        :raises StoreRefused: it can't be opened.
        """
        self.close()
        connection, identity = self._file.open_to_write(self._secret, self.rooms.total, self._reader.close)
        self.trimmer.install(connection)
        self.saved_clock.restore(connection)
        if identity.epoch != self.epoch and self.epoch:
            self._log.warn("{path} is another log now", path=self._file.path)
            self._on_replaced()
        self.epoch = identity.epoch
        self._secret = self._secret or identity.secret
        self.rooms.load(connection, identity.total)
        self._data_version = connection.execute("PRAGMA data_version").fetchone()
        self.current = connection
        self._reader.open()
        return identity

    def close(self) -> None:
        """Close the connection."""
        self.rooms.clear_cache()
        self.checkpoints.stop()
        if self.current is not None:
            self.current.close()
            self.current = None

    def mark_closed(self) -> None:
        """Note in the lock file that the database is about to be closed, and what it holds."""
        if self.current is not None:
            self._file.mark_closed(self.current)

    def get(self) -> sqlite3.Connection:
        """Return the connection. It is opened again if the file was replaced or the last statement failed.

        :raises StoreError: it can't be opened.
        """
        if self.current is None or not self._file.in_place():
            try:
                self.open()
            except StoreRefused as refusal:
                self.log_problem(str(refusal))
                raise StoreError("the store can't be opened", str(refusal)) from refusal
        assert self.current is not None
        return self.current

    def get_unchanged(self) -> sqlite3.Connection:
        """Return the connection. It is opened again if another program has changed the database.

        That may have been a backup that was put back.

        :raises StoreError: it can't be opened.
        """
        connection = self.get()
        try:
            version = connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            return connection
        if version == self._data_version:
            return connection
        self.close()
        return self.get()

    def save_clock(self) -> None:
        """Save what the wall clock has shown."""
        if self.current is not None:
            try:
                self.saved_clock.save(self.current)
            except sqlite3.Error as error:
                self.log_problem(str(error))

    def log_problem(self, problem: str) -> None:
        """Log what is wrong, once: a full disk fails every commit."""
        self._problems.problem(problem, "{path}: {problem}", path=self._file.path)

    def log_recovered(self) -> None:
        """Log that the database can be written to again, if a problem was logged."""
        self._problems.recovered("{path} can be written to again", path=self._file.path)
