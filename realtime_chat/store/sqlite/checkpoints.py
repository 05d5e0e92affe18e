"""Checkpoints: copying SQLite's write-ahead log into the database, without holding up a commit.

A checkpoint gets no further than the oldest transaction that reads. Our own reads are short, so that a checkpoint waits
for them. It doesn't wait for another program's transaction. Meanwhile the log grows, and a try each second finds out
whether the transaction has ended. If the log is long by then, a thread of its own copies it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress

from twisted.logger import Logger

from realtime_chat.store.sqlite.file import DatabaseFile
from realtime_chat.store.sqlite.reader import PageReader
from realtime_chat.values.errors import StoreRefused

_CHECKPOINT_PAGES = 2000
_MAX_CHECKPOINT_COMMITS = 128
_CHECKPOINT_BYTES = 4 * 1024 * 1024
_CHECKPOINT_WAL_GROWTH = 8 * 1024 * 1024
_COMMITS_PER_SIZE_CHECK = 8
_PAGE_BYTES = 4096
_MAX_FOREGROUND_PAGES = 8000
"""If there are more pages to copy, a thread does it."""
_READ_PATIENCE = 0.05
_WARN_WAL_BYTES = 64 * 1024 * 1024
_WARN_INTERVAL = 60.0


class CheckpointScheduler:
    """Decides when to checkpoint, and does it. All methods are called on the writing thread.

    :param reader: has our other connection.
    :param log_problem: logs why a checkpoint failed.
    """

    _log = Logger()

    def __init__(self, file: DatabaseFile, reader: PageReader, log_problem: Callable[[str], None]) -> None:
        self._file = file
        self._reader = reader
        self._log_problem = log_problem
        self._commits = 0
        self._bytes = 0
        self._checkpoint_commits = 8
        self._wal_size = 0
        self._blocked = False  # by another program's transaction
        self._copied = 0  # pages of the log that are in the database
        self._warned_at = -_WARN_INTERVAL
        self._background: threading.Thread | None = None
        self._background_connection: sqlite3.Connection | None = None

    def committed(self, size: int) -> None:
        """Note a commit.

        :param size: its bytes of data.
        """
        self._commits += 1
        self._bytes += size

    def are_due(self) -> bool:
        """Return whether it is time for a checkpoint: after some commits, but not while it is blocked."""
        if self._background is not None:
            return not self._background.is_alive()
        if self._blocked:
            return False
        return self._commits >= self._checkpoint_commits or self._bytes >= _CHECKPOINT_BYTES or self._has_grown()

    def _has_grown(self) -> bool:
        """Return whether the write-ahead log has become much longer. Its size is read every few commits."""
        if self._commits % _COMMITS_PER_SIZE_CHECK:
            return False
        return self._file.wal_size() - self._wal_size >= _CHECKPOINT_WAL_GROWTH

    def run(self, connection: sqlite3.Connection) -> None:
        """Checkpoint now if that is quick, else on a thread.

        :param connection: that of the writer.
        """
        if self._background is not None and self._background.is_alive():
            return
        self._background = None
        if not (self._commits or self._blocked or self._copied):
            return
        commits, self._commits, self._bytes = self._commits, 0, 0
        self._wal_size = self._file.wal_size()
        try:
            if self._wal_size // _PAGE_BYTES - self._copied > _MAX_FOREGROUND_PAGES:
                self._start_background()
            else:
                self._run_foreground(connection, max(1, commits))
        except (sqlite3.Error, StoreRefused) as error:
            self._log_problem(f"no checkpoint: {error}")
        self._warn()

    def _run_foreground(self, connection: sqlite3.Connection, commits: int) -> None:
        _, pages, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if pages > done or self._copied:
            self._restart_log(connection)
        fitting = _CHECKPOINT_PAGES * commits // max(1, pages)
        self._checkpoint_commits = min(max(1, fitting), _MAX_CHECKPOINT_COMMITS)

    def _restart_log(self, connection: sqlite3.Connection) -> None:
        """Let the next commit write to the start of the log, if nobody else reads the log."""
        with self._reader.paused(_READ_PATIENCE) as paused:
            connection.execute("PRAGMA busy_timeout = 0")
            try:
                busy, _, done = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            finally:
                connection.execute("PRAGMA busy_timeout = 1000")
        self._blocked = bool(busy) and paused
        self._copied = done if busy else 0

    def _start_background(self) -> None:
        """Copy many pages on a thread, while commits go on."""
        connection = self._background_connection = self._file.open_to_read()
        self._background = threading.Thread(
            target=self._run_background, args=(connection,), name="store-checkpoint", daemon=True
        )
        self._background.start()

    def _run_background(self, connection: sqlite3.Connection) -> None:
        with closing(connection):
            try:
                _, pages, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error:  # interrupted, or the writing thread will see the same error
                return
            self._blocked = pages > done
            self._copied = done

    def _warn(self) -> None:
        """Warn of another program's transaction that lets the log grow."""
        now = time.monotonic()
        if self._blocked and self._wal_size >= _WARN_WAL_BYTES and now - self._warned_at >= _WARN_INTERVAL:
            self._warned_at = now
            self._log.warn(
                "{path}-wal has {size} MB, as another program reads {path} in a transaction that doesn't end; right is "
                "to end it",
                path=self._file.path,
                size=self._wal_size // 1_000_000,
            )

    def stop(self) -> None:
        """Stop the thread, and forget everything about the connection that is closed."""
        thread, connection = self._background, self._background_connection
        if thread is not None and connection is not None:
            while thread.is_alive():
                with suppress(sqlite3.ProgrammingError):  # it is already closed
                    connection.interrupt()
                thread.join(0.01)
        self._background = self._background_connection = None
        self._commits = self._bytes = self._copied = 0
        self._blocked = False
