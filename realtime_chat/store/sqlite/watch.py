"""Notices that files were removed, moved or replaced."""

from __future__ import annotations

import os
from collections.abc import Sequence

__all__ = ["FileWatch", "inode"]


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
        return [inode(path) for path in self._paths]

    def in_place(self) -> bool:
        """Return whether all files are in place."""
        return self._current() == self._initial

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            os.close(file)
        self._files = []


def inode(path: str) -> tuple[int, int] | None:
    """Return the device and the inode of a file; None if there is no such file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
