"""What tells that a database's files were removed, moved or replaced."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import TestCase

from realtime_chat.store.sqlite.file import FileWatch


class WatchTests(TestCase):
    """With the kernel's names of open files."""

    names = "/proc/self/fd"

    def setUp(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        self.paths = [directory / "one", directory / "two"]
        for path in self.paths:
            path.touch()
        self.watch = FileWatch([str(path) for path in self.paths], self.names)
        self.addCleanup(self.watch.close)

    def test_in_place(self) -> None:
        """Files that are written to are in place."""
        self.paths[1].write_text("more")
        self.assertTrue(self.watch.in_place())

    def test_removed(self) -> None:
        """A file that was removed is not in place."""
        self.paths[1].unlink()
        self.assertFalse(self.watch.in_place())

    def test_moved(self) -> None:
        """A file that was moved is not in place, until it is moved back."""
        elsewhere = self.paths[0].with_name("elsewhere")
        self.paths[0].rename(elsewhere)
        self.assertFalse(self.watch.in_place())
        elsewhere.rename(self.paths[0])
        self.assertTrue(self.watch.in_place())

    def test_replaced(self) -> None:
        """A file that was replaced is not in place."""
        other = self.paths[0].with_name("other")
        other.touch()
        other.rename(self.paths[0])
        self.assertFalse(self.watch.in_place())

    def test_directory_moved(self) -> None:
        """Files whose directory was moved are not in place."""
        directory = self.paths[0].parent
        directory.rename(directory.with_name(directory.name + "-moved"))
        self.assertFalse(self.watch.in_place())

    def test_close(self) -> None:
        """Closing the watch closes its files."""
        before = len(os.listdir("/proc/self/fd"))
        FileWatch([str(path) for path in self.paths], self.names).close()
        self.assertEqual(before, len(os.listdir("/proc/self/fd")))


class WatchWithoutNamesTests(WatchTests):
    """The same where no such names can be had, as in a chroot."""

    names = "/nonexistent"
