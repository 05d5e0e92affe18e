"""Bringing what is in SQLite's write-ahead log into the database, without holding up a commit.

A checkpoint gets no further than the oldest transaction that somebody reads in. Our own pages are read in a moment, and
are waited for; nobody waits for another program's transaction. While there is one the log grows, as it must, and a try
each second finds out that it has ended. What has grown by then is worked off on a thread of its own.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress

from twisted.logger import Logger

from realtime_chat.store.sqlite.file import DatabaseFile
from realtime_chat.store.sqlite.reader import LogReader
from realtime_chat.values.errors import StoreRefused

__all__ = ["Checkpoints"]

_PAGES_A_CHECKPOINT = 2000
_MOST_COMMITS_A_CHECKPOINT = 128
_BYTES_A_CHECKPOINT = 4 * 1024 * 1024
_WAL_GROWTH_A_CHECKPOINT = 8 * 1024 * 1024
_COMMITS_A_LOOK = 8
_PAGE_BYTES = 4096
_PAGES_IN_BETWEEN = 8000
"""More than so many are not brought over between two commits."""
_SECONDS_FOR_A_PAGE = 0.05
_WORTH_A_WARNING = 64 * 1024 * 1024
_SECONDS_BETWEEN_WARNINGS = 60.0


class Checkpoints:
    """When to checkpoint, and how. Everything here is called on the writing thread.

    :param reader: has the other connection of ours.
    :param complain: is told why a checkpoint failed.
    """

    _log = Logger()

    def __init__(self, file: DatabaseFile, reader: LogReader, complain: Callable[[str], None]) -> None:
        self._file = file
        self._reader = reader
        self._log_throttled = complain
        self._commits = 0
        self._bytes = 0
        self._commits_a_checkpoint = 8
        self._wal_size = 0
        self._held = False  # by another program's transaction
        self._done = 0  # how many pages of the log are in the database
        self._warned = -_SECONDS_BETWEEN_WARNINGS
        self._aside: threading.Thread | None = None
        self._aside_connection: sqlite3.Connection | None = None

    def committed(self, size: int) -> None:
        """There was a commit of so many bytes of data."""
        self._commits += 1
        self._bytes += size

    def are_due(self) -> bool:
        """Whether it is time for one: after some commits, but not while it would get nowhere."""
        if self._aside is not None:
            return not self._aside.is_alive()
        if self._held:
            return False
        return self._commits >= self._commits_a_checkpoint or self._bytes >= _BYTES_A_CHECKPOINT or self._has_grown()

    def _has_grown(self) -> bool:
        """Whether the write-ahead log has become much longer; looked at now and then."""
        if self._commits % _COMMITS_A_LOOK:
            return False
        return self._file.wal_size() - self._wal_size >= _WAL_GROWTH_A_CHECKPOINT

    def run(self, connection: sqlite3.Connection) -> None:
        """Checkpoint as far as that can be done at once.

        :param connection: the writer's.
        """
        if self._aside is not None and self._aside.is_alive():
            return
        self._aside = None
        if not (self._commits or self._held or self._done):
            return
        commits, self._commits, self._bytes = self._commits, 0, 0
        self._wal_size = self._file.wal_size()
        try:
            if self._wal_size // _PAGE_BYTES - self._done > _PAGES_IN_BETWEEN:
                self._begin_aside()
            else:
                self._run_in_between(connection, max(1, commits))
        except (sqlite3.Error, StoreRefused) as error:
            self._log_throttled(f"no checkpoint: {error}")
        self._warn()

    def _run_in_between(self, connection: sqlite3.Connection, commits: int) -> None:
        _, pages, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if pages > done or self._done:
            self._start_over(connection)
        fitting = _PAGES_A_CHECKPOINT * commits // max(1, pages)
        self._commits_a_checkpoint = min(max(1, fitting), _MOST_COMMITS_A_CHECKPOINT)

    def _start_over(self, connection: sqlite3.Connection) -> None:
        """Have the next commit begin at the start of the log, if nobody else reads in it."""
        with self._reader.paused(_SECONDS_FOR_A_PAGE) as paused:
            connection.execute("PRAGMA busy_timeout = 0")
            try:
                busy, _, done = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            finally:
                connection.execute("PRAGMA busy_timeout = 1000")
        self._held = bool(busy) and paused
        self._done = done if busy else 0

    def _begin_aside(self) -> None:
        """Bring much over while commits go on."""
        connection = self._aside_connection = self._file.open_another()
        self._aside = threading.Thread(target=self._run_aside, args=(connection,), name="store-checkpoint", daemon=True)
        self._aside.start()

    def _run_aside(self, connection: sqlite3.Connection) -> None:
        """On a thread of its own."""
        with closing(connection):
            try:
                _, pages, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error:  # it was interrupted, or the writing thread will meet the same
                return
            self._held = pages > done
            self._done = done

    def _warn(self) -> None:
        """Say that another program's transaction has it grow, once in a while."""
        now = time.monotonic()
        if not self._held or self._wal_size < _WORTH_A_WARNING or now - self._warned < _SECONDS_BETWEEN_WARNINGS:
            return
        self._warned = now
        self._log.warn(
            "{path}-wal has {size} MB, as another program reads {path} in a transaction that doesn't end; right is to "
            "end it",
            path=self._file.path,
            size=self._wal_size // 1_000_000,
        )

    def stop(self) -> None:
        """Begin anew with another connection; nothing is under way any more."""
        aside, connection = self._aside, self._aside_connection
        if aside is not None and connection is not None:
            while aside.is_alive():
                with suppress(sqlite3.ProgrammingError):  # it is closed already
                    connection.interrupt()
                aside.join(0.01)
        self._aside = self._aside_connection = None
        self._commits = self._bytes = self._done = 0
        self._held = False
