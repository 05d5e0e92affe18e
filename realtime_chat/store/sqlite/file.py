"""The file of a SQLite store: whose it is, what is in it, and connections to it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple
from urllib.parse import quote

from realtime_chat.store.retention import new_epoch
from realtime_chat.values.errors import StoreRefused

__all__ = ["APPLICATION_ID", "SCHEMA", "DatabaseFile", "Identity", "Watch", "load_schema"]

APPLICATION_ID = 0x52744368
"""What marks a SQLite file as ours (``PRAGMA application_id``): "RtCh"."""

_PRAGMAS = """
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = OFF;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -16000;
-- A mapped file that somebody truncates kills the process.
PRAGMA mmap_size = 0;
-- A commit never checkpoints: see sqlite_checkpoints.py.
PRAGMA wal_autocheckpoint = 0;
PRAGMA journal_size_limit = 8388608;
"""


_TOTALS = "SELECT ifnull(sum(top), 0), count(*), ifnull(max(id), 0) FROM rooms"
_UNMARKED = "unmarked"
_LOCK_BYTES = 256


def load_schema(directory: Traversable) -> tuple[str, ...]:
    """The statements that lead from each version to the next: ``0001.sql``, ``0002.sql``, …"""
    found = {entry.name: entry for entry in directory.iterdir() if entry.name.endswith(".sql")}
    return tuple(found[f"{version:04}.sql"].read_text("utf-8") for version in range(1, len(found) + 1))


SCHEMA = load_schema(files("realtime_chat.store.sqlite") / "schema")


class Identity(NamedTuple):
    """What makes a database a log of its own.

    :param total: how many offsets were given in it, in all rooms.
    """

    epoch: str
    secret: bytes
    total: int


class _Places(NamedTuple):
    """Which files stand under the names of the database and of its write-ahead log."""

    database: tuple[int, int] | None
    wal: tuple[int, int] | None


class Watch:
    """Tells whether files still stand under their names.

    Looking at a file's inode (stat) has the kernel write a finer time into it with the next write, which makes each
    commit a third slower (https://docs.kernel.org/filesystems/multigrain-ts.html). So the kernel is asked for the names
    of the open files instead: one that was removed, moved or replaced has another.

    :param names: where the kernel shows the names of open files; without it (in a chroot) inodes are looked at.
    """

    def __init__(self, paths: Sequence[str], names: str = "/proc/self/fd") -> None:
        self._paths = paths
        # Closing an O_PATH descriptor leaves the process's POSIX locks alone.
        self._files = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths]
        self._links = [f"{names}/{file}" for file in self._files] if os.path.isdir(names) else []
        self._found = self._look()

    def _look(self) -> list[object]:
        if self._links:
            return [os.readlink(link) for link in self._links]
        return [_inode(path) for path in self._paths]

    def in_place(self) -> bool:
        """Whether all of them do."""
        return self._look() == self._found

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files:
            os.close(file)
        self._files = []


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


class _Lock:
    """Keeps a second process away, for as long as this one lives (flock).

    The locked file stays when it is unlocked: whoever removed it could remove one that somebody just locked. Its first
    line is the process that locked it last, its second one the *mark* that the database left outside of itself: by it a
    backup that was put back is known for one.

    :ivar mark: what was found when it was locked; :data:`_UNMARKED` where there was no such file, and empty in one of a
        release that left no marks.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: int | None = None
        self.mark = _UNMARKED

    def acquire(self) -> None:
        """Lock, unless it is locked already.

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
        self.write(found.partition("\n")[2].strip() if found else _UNMARKED)

    def write(self, mark: str) -> None:
        """Leave a mark, and answer when it is durable. It is always of one length, so that a full disk takes it too."""
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
        """Unlock, if it is locked."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _mark_of_open(epoch: str, places: _Places) -> str:
    """The mark of a database in use: if the process is killed, the same files have to be there."""
    files = (places.database or (0, 0)) + (places.wal or (0, 0))
    return f"open {epoch} {':'.join(map(str, files))}"


def _mark_of_closed(epoch: str, totals: tuple[int, int, int]) -> str:
    """The mark of one that was closed: as much has to be in it, whichever file that is."""
    return f"closed {epoch} {':'.join(map(str, totals))}"


class DatabaseFile:
    """One SQLite file that only this process writes to.

    It is never opened other than by SQLite: closing any descriptor of a file gives up all POSIX locks that the process
    holds on it (https://sqlite.org/howtocorrupt.html, 2.2).

    :param path: where it is; its directory exists.
    :param token: random bytes, as many as it is asked for.
    :param schema: see :func:`load_schema`.
    """

    def __init__(self, path: str, token: Callable[[int], bytes], schema: Sequence[str] = SCHEMA) -> None:
        self.path = os.path.abspath(path)
        self._wal = self.path + "-wal"
        self._token = token
        self._schema = schema
        self._lock = _Lock(self.path + "-lock")
        self._places: _Places | None = None
        self._watch: Watch | None = None
        self._watching = threading.Lock()  # the reading thread asks, too

    def in_place(self) -> bool:
        """Whether what was opened is still what stands under its name.

        SQLite goes on writing into files that were removed or renamed.
        """
        with self._watching:
            return self._watch is not None and self._watch.in_place()

    def wal_size(self) -> int:
        """The bytes of the write-ahead log; it grows, and starts over without shrinking."""
        try:
            return os.stat(self._wal).st_size
        except OSError:
            return 0

    def _look(self) -> _Places:
        return _Places(_inode(self.path), _inode(self._wal))

    def open_to_write(
        self, secret: bytes | None, least: int, before_replacing: Callable[[], object]
    ) -> tuple[sqlite3.Connection, Identity]:
        """Open or create the file, and bring its schema up to date.

        One that may lack what was acknowledged gets a new epoch: an older state of it was put back, while we used it or
        before we were started.

        :param secret: what a new database uses; None for a random one.
        :param least: how many offsets were given in it, as far as this process knows.
        :param before_replacing: closes every connection to the files that were open so far; called when others stand in
            their place. An old and a new one must not share one ``-shm``.
        :raises StoreRefused: the message says which file and why.
        """
        try:
            self._lock.acquire()
            self._create()
            was = self._places
            if was is not None and not self.in_place():
                before_replacing()
                self._clear_away(was)
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

    def _clear_away(self, was: _Places) -> None:
        """Remove the write-ahead log that a former database left: SQLite would replay it into the new one."""
        if _inode(self.path) != was.database and _inode(self._wal) == was.wal:
            with suppress(FileNotFoundError):
                os.unlink(self._wal)

    def _open(self, secret: bytes | None, was: _Places | None, least: int) -> tuple[sqlite3.Connection, Identity]:
        found = self._look()
        connection = self._connect()
        try:
            self._recognise(connection)
            if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
                raise StoreRefused("it can't be switched to write-ahead logging")
            connection.executescript(_PRAGMAS)
            is_new = self._upgrade(connection, secret)
            # What a process that was killed had written but not synced is synced before anybody is told of it.
            with suppress(sqlite3.OperationalError):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            epoch, kept = connection.execute("SELECT epoch, secret FROM identity").fetchone()
            totals = connection.execute(_TOTALS).fetchone()
            if not (is_new or (self._is_ours(found, was, epoch, totals) and totals[0] >= least)):
                epoch = self._begin_anew(connection)
            self._places = places = self._look()
            self._watch_files(self.path, self._wal)
            self._lock.write(_mark_of_open(epoch, places))
        except BaseException:
            connection.close()
            raise
        return connection, Identity(epoch, kept, totals[0])

    def _is_ours(self, found: _Places, was: _Places | None, epoch: str, totals: tuple[int, int, int]) -> bool:
        """Whether it is what was used last, and no older state of it.

        :param found: which files there were before it was opened.
        :param was: which ones this process has used so far.
        """
        if was is not None:
            return found.database == was.database
        return self._lock.mark in ("", _mark_of_open(epoch, found), _mark_of_closed(epoch, totals))

    def _begin_anew(self, connection: sqlite3.Connection) -> str:
        """Give the log a new epoch, which begins behind what is there."""
        epoch = new_epoch(self._token)
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute("UPDATE identity SET epoch = ?", (epoch,))
            connection.execute("UPDATE rooms SET begun = top")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return epoch

    def leave(self, connection: sqlite3.Connection) -> None:
        """Mark what is in it, before the last connection is closed: so it is known again, wherever it is then."""
        with suppress(sqlite3.Error, OSError):  # it will be taken for another, and readers are told
            (epoch,) = connection.execute("SELECT epoch FROM identity").fetchone()
            if self.in_place():
                self._lock.write(_mark_of_closed(epoch, connection.execute(_TOTALS).fetchone()))

    def _watch_files(self, *paths: str) -> None:
        """Watch these instead of what was watched so far."""
        with self._watching:
            if self._watch is not None:
                self._watch.close()
            self._watch = Watch(paths) if paths else None

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(self.path)}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=1.0
        )

    def _recognise(self, connection: sqlite3.Connection) -> None:
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
        """Take the steps that are missing; answer whether it was empty."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for number in range(version + 1, len(self._schema) + 1):
            try:
                connection.executescript(f"BEGIN IMMEDIATE;\n{self._schema[number - 1]}")
                if number == 1:
                    self._found(connection, secret)
                connection.execute(f"PRAGMA user_version = {number}")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        return bool(version == 0)

    def _found(self, connection: sqlite3.Connection, secret: bytes | None) -> None:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(
            "INSERT INTO identity (one, epoch, secret) VALUES (1, ?, ?)",
            (new_epoch(self._token), self._token(32) if secret is None else secret),
        )

    def open_another(self) -> sqlite3.Connection:
        """A further connection to the file that was opened to write, which changes nothing in it.

        :raises StoreRefused: another file stands in its place.
        :raises sqlite3.Error:
        """
        if not self.in_place():
            raise StoreRefused(f"{self.path} was moved or replaced")
        connection = self._connect()
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT epoch FROM identity").fetchone()  # or the log would be opened with the first read
        return connection

    def release(self) -> None:
        """Let other processes have it; all connections are closed."""
        self._places = None
        self._watch_files()
        self._lock.release()
