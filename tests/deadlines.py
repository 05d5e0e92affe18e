"""How long tests wait, and how they measure a time that somebody was promised.

A test waits for a condition, and not for a time to go by. How fast something is, benchmarks judge, by ratios. Where a
promise names seconds, a :class:`Stopwatch` measures them, so that other work on the machine makes none of them longer.
"""

from __future__ import annotations

import contextlib
import os
import time

__all__ = ["DEADLINE", "TEST_TIMEOUT", "RunDelay", "Stopwatch", "stolen_seconds"]

DEADLINE = 60.0
"""Seconds after which a test waits no longer for a condition. It promises nothing, and no test passes because of it."""

TEST_TIMEOUT = 5 * DEADLINE
"""Seconds after which a whole test is given up. It may wait for several conditions, or for a slow program."""


_TICKS = os.sysconf("SC_CLK_TCK")


def stolen_seconds() -> float:
    """How long processors of this machine have been taken by the hypervisor so far; 0 where the kernel doesn't say.

    A process that has lost its processor this way looks as if it ran (``steal`` in proc(5)).
    """
    with contextlib.suppress(OSError, IndexError), open("/proc/stat", "rb") as file:
        return int(file.readline().split()[8]) / _TICKS
    return 0.0


class RunDelay:
    """How long the threads of some processes were ready to run and had no processor (Linux's ``schedstat``).

    The files stay open, as some tests read them at each message.
    """

    def __init__(self, *processes: int) -> None:
        self._directories = [f"/proc/{process}/task" for process in processes]
        self._files: dict[str, int] = {}
        self._waited: dict[str, int] = {}

    def seconds(self) -> float:
        """All of it so far, of threads that have ended too; 0 where the kernel doesn't say."""
        for directory in self._directories:
            with contextlib.suppress(OSError):  # the process has ended
                for thread in os.listdir(directory):
                    self._look(f"{directory}/{thread}/schedstat")
        return sum(self._waited.values()) / 1e9

    def close(self) -> None:
        """Close its files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _look(self, path: str) -> None:
        try:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY)
            self._waited[path] = int(os.pread(self._files[path], 100, 0).split()[1])
        except (OSError, IndexError):  # the thread has ended; another one may come to have its number
            if path in self._files:
                os.close(self._files.pop(path))


class Stopwatch:
    """Measures seconds in which the processes that had something to do had a processor to do it with.

    :param processes: those that are measured, besides this one.
    """

    def __init__(self, *processes: int) -> None:
        self._delay = RunDelay(os.getpid(), *processes)
        self._waited = self._lost()
        self._begun = time.monotonic()

    def _lost(self) -> float:
        return self._delay.seconds() + stolen_seconds()

    def seconds(self) -> float:
        """Seconds since it was started, without those in which one of the processes waited for a processor."""
        passed = time.monotonic() - self._begun
        return max(0.0, passed - self._lost() + self._waited)

    def __del__(self) -> None:
        self._delay.close()
