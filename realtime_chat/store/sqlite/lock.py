"""The lock file of a database: one process at a time may use it."""

from __future__ import annotations

import fcntl
import os

from realtime_chat.values.errors import StoreRefused

__all__ = ["NO_FILE", "LockFile"]

NO_FILE = "unmarked"
"""The mark if there was no lock file."""

_LOCK_BYTES = 256


class LockFile:
    """Keeps other processes out until this process ends (flock).

    The file stays after :meth:`release`. If it were removed, that could be the file that another process just locked.
    Its first line is the process that locked it last. The second line is the *mark*: what the database held when it was
    last used. A restored backup doesn't fit the mark.

    :ivar mark: the mark that was found when the file was locked. It is :data:`NO_FILE` if there was no file, and empty
        if an older release wrote it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: int | None = None
        self.mark = NO_FILE

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
        self.write(found.partition("\n")[2].strip() if found else NO_FILE)

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
