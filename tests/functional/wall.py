"""A wall clock that tests can set, for processes of their own (libfaketime)."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["SettableClock"]

_LIBRARY = "/usr/lib/*/faketime/libfaketimeMT.so.1"


class SettableClock:
    """The wall clock of those processes that are started with ``prefix``; their monotonic clock is the real one.

    :param path: a file that holds by how much it is ahead; they look into it once a second, as looking whenever they
        ask for the time would slow them down ten times.
    :ivar prefix: a command that runs another one, in the same process.
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
        """Set it to so many seconds after the real one."""
        new = self._path.with_suffix(".new")
        new.write_text(f"{ahead:+d}\n")
        os.replace(new, self._path)
        self.ahead = ahead
