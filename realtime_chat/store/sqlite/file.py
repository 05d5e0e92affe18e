"""The file of a SQLite store.

It is created, opened and upgraded here. One process at a time may use it. If the file is moved, replaced, or restored
from a backup, that is noticed.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple
from urllib.parse import quote

from realtime_chat.store.retention import new_epoch
from realtime_chat.values.errors import StoreRefused

APPLICATION_ID = 0x52744368
"""Marks a SQLite file as ours (``PRAGMA application_id``): "RtCh"."""

_PRAGMAS = """
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = OFF;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -16000;
-- A mapped file that somebody truncates kills the process.
PRAGMA mmap_size = 0;
-- A commit never checkpoints: see checkpoints.py.
PRAGMA wal_autocheckpoint = 0;
PRAGMA journal_size_limit = 8388608;
"""

_NO_FILE = "unmarked"  # the mark if there was no lock file
_LOCK_BYTES = 256
_TOTALS = "SELECT ifnull(sum(top), 0), count(*), ifnull(max(id), 0) FROM rooms"


def load_schema(directory: Traversable) -> tuple[str, ...]:
    """Read the statements that upgrade each version to the next: ``0001.sql``, ``0002.sql``, …"""
    found = {entry.name: entry for entry in directory.iterdir() if entry.name.endswith(".sql")}
    return tuple(found[f"{version:04}.sql"].read_text("utf-8") for version in range(1, len(found) + 1))


SCHEMA = load_schema(files("realtime_chat.store.sqlite") / "schema")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block executes, or roll it back if it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


class FileWatch:
    """Tells whether files are still in place: neither removed, nor moved, nor replaced.

    It keeps the files open, and asks the kernel for their names (``readlink``). A file that is no longer in place has
    another name. ``stat`` would be simpler, but slows down each commit by a third: after it, the kernel writes a finer
    time with the next write (https://docs.kernel.org/filesystems/multigrain-ts.html).

    :param names: where the kernel shows the names of open files. If it is missing, as in a chroot, inodes are compared.
    """

    def __init__(self, paths: Sequence[str], names: str = "/proc/self/fd") -> None:
        self._paths = paths
        # Closing an O_PATH descriptor leaves the process's POSIX locks alone.
        self._files = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths]
        self._links = [f"{names}/{file}" for file in self._files] if os.path.isdir(names) else []
        self._initial = self._current()

    def _current(self) -> list[object]:
        if self._links:
            return [os.readlink(link) for link in self._links]
        return [_inode(path) for path in self._paths]

    def in_place(self) -> bool:
        """Return whether all files are in place."""
        return self._current() == self._initial

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            os.close(file)
        self._files = []


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


class _LockFile:
    """Keeps other processes out until this process ends (flock).

    The file stays after :meth:`release`. If it were removed, that could be the file that another process just locked.
    Its first line is the process that locked it last. The second line is the *mark*: what the database held when it was
    last used. A restored backup doesn't fit the mark.

    :ivar mark: the mark that was found when the file was locked. It is empty if an older release wrote it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: int | None = None
        self.mark = _NO_FILE

    def acquire(self) -> None:
        """Lock the file. Does nothing if this process holds the lock.

        :raises StoreRefused: another process has it.
        """
        if self._file is not None and self._in_place(self._file):
            return
        self.release()
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 20, 0).decode("ascii", "replace").partition("\n")[0] or "unknown"
            os.close(file)
            raise StoreRefused(f"it is in use by another process, pid {holder}; right would be another file") from None
        found = os.pread(file, _LOCK_BYTES, 0).decode("ascii", "replace")
        self._file = file
        self.write(found.partition("\n")[2].strip() if found else _NO_FILE)

    def write(self, mark: str) -> None:
        """Write a mark, and sync it. The file never grows, so that a full disk takes it too."""
        assert self._file is not None, "it is not locked"
        self.mark = mark
        os.pwrite(self._file, f"{os.getpid()}\n{mark}\n".ljust(_LOCK_BYTES).encode("ascii"), 0)
        os.fsync(self._file)

    def _in_place(self, file: int) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(file))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Unlock the file, if it is locked."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class DatabaseIdentity(NamedTuple):
    """What identifies the log in a database.

    :param total: how many offsets it has given, in all rooms.
    """

    epoch: str
    secret: bytes
    total: int


class _FileIds(NamedTuple):
    """The inodes of the database and of its write-ahead log."""

    database: tuple[int, int] | None
    wal: tuple[int, int] | None


def _open_mark(epoch: str, ids: _FileIds) -> str:
    """Make the mark of a database in use: after a kill it is the same log if the same files are there."""
    files = (ids.database or (0, 0)) + (ids.wal or (0, 0))
    return f"open {epoch} {':'.join(map(str, files))}"


def _closed_mark(epoch: str, totals: tuple[int, int, int]) -> str:
    """Make the mark of a closed database: it is the same log if it holds the same totals, in any file."""
    return f"closed {epoch} {':'.join(map(str, totals))}"


class DatabaseFile:
    """A SQLite file that only this process writes to.

    Nothing but SQLite opens it. Closing any descriptor of a file drops all POSIX locks that the process holds on it
    (https://sqlite.org/howtocorrupt.html, 2.2).

    :param path: its directory has to exist.
    :param random_bytes: gives as many as it is asked for.
    :param schema: see :func:`load_schema`.
    """

    def __init__(self, path: str, random_bytes: Callable[[int], bytes], schema: Sequence[str] = SCHEMA) -> None:
        self.path = os.path.abspath(path)
        self._wal = self.path + "-wal"
        self._random_bytes = random_bytes
        self._schema = schema
        self._lock = _LockFile(self.path + "-lock")
        self._ids: _FileIds | None = None
        self._watch: FileWatch | None = None
        self._watch_lock = threading.Lock()  # the reading thread asks, too

    def in_place(self) -> bool:
        """Return whether the files that were opened are still in place.

        SQLite itself goes on writing into files that were removed or renamed.
        """
        with self._watch_lock:
            return self._watch is not None and self._watch.in_place()

    def wal_size(self) -> int:
        """Return the size of the write-ahead log in bytes. When SQLite starts it over, the file keeps its size."""
        try:
            return os.stat(self._wal).st_size
        except OSError:
            return 0

    def _current_ids(self) -> _FileIds:
        return _FileIds(_inode(self.path), _inode(self._wal))

    def open_to_write(
        self, secret: bytes | None, least: int, before_replacing: Callable[[], object]
    ) -> tuple[sqlite3.Connection, DatabaseIdentity]:
        """Open or create the file, and upgrade its schema.

        If an older state of the database was put back, it may lack acknowledged messages. Then it gets a new epoch.

        :param secret: the secret of a new database; None for a random one.
        :param least: how many offsets this process knows that it has given.
        :param before_replacing: closes all connections to the files that were open so far. It is called if other files
            are in their place, as connections to the old and the new ones must not share a ``-shm`` file.
        :raises StoreRefused: the message says which file and why.
        """
        try:
            self._lock.acquire()
            self._create()
            was = self._ids
            if was is not None and not self.in_place():
                before_replacing()
                self._remove_stale_wal(was)
            return self._open(secret, was, least)
        except StoreRefused as refusal:
            raise StoreRefused(f"{self.path}: {refusal}") from None
        except (OSError, sqlite3.Error) as error:
            raise StoreRefused(
                f"{self.path} can't be opened: {error}; right would be a file in a directory that this user may write"
            ) from error

    def _create(self) -> None:
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            directory = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.fsync(directory)
            os.close(directory)

    def _remove_stale_wal(self, was: _FileIds) -> None:
        """Remove the write-ahead log of the former database, or SQLite would replay it into the new one."""
        if _inode(self.path) != was.database and _inode(self._wal) == was.wal:
            with suppress(FileNotFoundError):
                os.unlink(self._wal)

    def _open(
        self, secret: bytes | None, was: _FileIds | None, least: int
    ) -> tuple[sqlite3.Connection, DatabaseIdentity]:
        found = self._current_ids()
        connection = self._connect()
        try:
            self._check_ours(connection)
            if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
                raise StoreRefused("it can't be switched to write-ahead logging")
            connection.executescript(_PRAGMAS)
            is_new = self._upgrade(connection, secret)
            # What a killed process wrote without a sync is synced before anybody reads it.
            with suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            epoch, stored_secret = connection.execute("SELECT epoch, secret FROM identity").fetchone()
            totals = connection.execute(_TOTALS).fetchone()
            if not (is_new or (self._is_current(found, was, epoch, totals) and totals[0] >= least)):
                epoch = self._start_epoch(connection)
            self._ids = ids = self._current_ids()
            self._watch_files(self.path, self._wal)
            self._lock.write(_open_mark(epoch, ids))
        except BaseException:
            connection.close()
            raise
        return connection, DatabaseIdentity(epoch, stored_secret, totals[0])

    def _is_current(self, found: _FileIds, was: _FileIds | None, epoch: str, totals: tuple[int, int, int]) -> bool:
        """Return whether this is the database that was used last, and no older state of it.

        :param found: the files that were there before it was opened.
        :param was: the files that this process has used; None at the first start.
        """
        if was is not None:
            return found.database == was.database
        return self._lock.mark in ("", _open_mark(epoch, found), _closed_mark(epoch, totals))

    def _start_epoch(self, connection: sqlite3.Connection) -> str:
        """Give the log a new epoch. It begins after the messages that are there."""
        epoch = new_epoch(self._random_bytes)
        with transaction(connection):
            connection.execute("UPDATE identity SET epoch = ?", (epoch,))
            connection.execute("UPDATE rooms SET begun = top")
        return epoch

    def mark_closed(self, connection: sqlite3.Connection) -> None:
        """Mark what the database holds, just before the last connection is closed. It may be moved afterwards."""
        with suppress(sqlite3.Error, OSError):  # then the next start takes it for another log, and readers are told
            (epoch,) = connection.execute("SELECT epoch FROM identity").fetchone()
            if self.in_place():
                self._lock.write(_closed_mark(epoch, connection.execute(_TOTALS).fetchone()))

    def _watch_files(self, *paths: str) -> None:
        """Watch these files, and no others."""
        with self._watch_lock:
            if self._watch is not None:
                self._watch.close()
            self._watch = FileWatch(paths) if paths else None

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(self.path)}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=1.0
        )

    def _check_ours(self, connection: sqlite3.Connection) -> None:
        """Refuse a file that is no database of ours, or that a newer release wrote."""
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise StoreRefused(
                    "it is damaged, or not a SQLite database; restore it, or move it away for a new one"
                ) from error
            raise
        if application != APPLICATION_ID and (application or tables):
            raise StoreRefused("it is the database of another program; name another file")
        if version > len(self._schema):
            raise StoreRefused(
                f"its schema has version {version}, and this release knows versions up to {len(self._schema)}; "
                "use the release that wrote it, or name another file"
            )

    def _upgrade(self, connection: sqlite3.Connection, secret: bytes | None) -> bool:
        """Run the missing steps of the schema. Returns whether the database was empty."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for number in range(version + 1, len(self._schema) + 1):
            try:
                connection.executescript(f"BEGIN IMMEDIATE;\n{self._schema[number - 1]}")
                if number == 1:
                    self._create_identity(connection, secret)
                connection.execute(f"PRAGMA user_version = {number}")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        return bool(version == 0)

    def _create_identity(self, connection: sqlite3.Connection, secret: bytes | None) -> None:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(
            "INSERT INTO identity (one, epoch, secret) VALUES (1, ?, ?)",
            (new_epoch(self._random_bytes), self._random_bytes(32) if secret is None else secret),
        )

    def open_to_read(self) -> sqlite3.Connection:
        """Open one more connection, which changes nothing.

        :raises StoreRefused: the file was moved or replaced.
        :raises sqlite3.Error: it can't be opened.
        """
        if not self.in_place():
            raise StoreRefused(f"{self.path} was moved or replaced")
        connection = self._connect()
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT epoch FROM identity").fetchone()  # opens the write-ahead log now
        return connection

    def release(self) -> None:
        """Unlock the file for other processes. All connections are closed."""
        self._ids = None
        self._watch_files()
        self._lock.release()
