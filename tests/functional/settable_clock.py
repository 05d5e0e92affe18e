"""A wall clock that tests can set, for processes of their own (libfaketime)."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["SettableClock"]

_LIBRARY = "/usr/lib/*/faketime/libfaketimeMT.so.1"


class SettableClock:
    """The wall clock of the processes that are started with ``prefix``. Their monotonic clock is the real one.

    :param path: a file with the seconds that the clock is ahead. The processes read it once a second; to read it at
        each look at the clock would make them ten times slower.
    :ivar prefix: a command that runs another command in the same process.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path).absolute()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        libraries = sorted(Path("/").glob(_LIBRARY[1:]))
        assert libraries, "the tests need the Debian package faketime"
        self.set(0)
        self.prefix = (
            "env",
            f"LD_PRELOAD={libraries[0]}",
            f"FAKETIME_TIMESTAMP_FILE={self._path}",
            "FAKETIME_CACHE_DURATION=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "NO_FAKE_STAT=1",
        )

    def set(self, ahead: int) -> None:
        """Set the clock to so many seconds ahead of the real clock."""
        new = self._path.with_suffix(".new")
        new.write_text(f"{ahead:+d}\n")
        os.replace(new, self._path)
        self.ahead = ahead
