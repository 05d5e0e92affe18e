"""Processes and cores: what a server has used, where it runs, and what this machine is."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import resource
import socket
from pathlib import Path

__all__ = [
    "cpu_seconds",
    "describe",
    "free_ports",
    "generator_cores",
    "process_tree",
    "processes_of",
    "raise_file_limit",
    "resident_kilobytes",
    "server_cores",
]

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CORES = sorted(os.sched_getaffinity(0))


def generator_cores() -> set[int]:
    """The core that the load generator has for itself; with one core only it shares it."""
    return {_CORES[-1]}


def server_cores() -> set[int]:
    """All other cores."""
    return set(_CORES[:-1]) or set(_CORES)


def free_ports(count: int) -> range:
    """Loopback ports in a row that nobody listens on, below the ephemeral range and that of the tests' own servers."""
    while True:
        first = random.randrange(10_000, 20_000 - count)
        if all(map(_is_free, range(first, first + count))):
            return range(first, first + count)


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return True
    return False


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, and answer it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def process_tree(pid: int) -> list[int]:
    """A process and all that it has started."""
    found = [pid]
    for process in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{process}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def processes_of(program: str, pids: list[int]) -> list[int]:
    """Those of these processes that run a program."""
    return [pid for pid in pids if _command(pid) == program]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def cpu_seconds(pids: list[int]) -> float:
    """CPU seconds, user and system, that these processes have used so far."""
    return sum(map(_ticks, pids)) / _TICKS


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def resident_kilobytes(pids: list[int]) -> float:
    """Resident memory of these processes."""
    return sum(map(_resident_pages, pids)) * _PAGE / 1024


def _resident_pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0


def describe() -> dict[str, str]:
    """What the measurements ran on."""
    return {
        "processor": _processor(),
        "cores": str(len(_CORES)),
        "kernel": platform.system() + " " + ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
