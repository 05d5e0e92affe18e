"""System calls of a running process that fail or take long (strace)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.functional.browsers import program
from tests.functional.daemon import wait_until

__all__ = ["SystemCallFaults", "with_faults"]


def with_faults(calls: str, fault: str) -> tuple[str, ...]:
    """A command that runs another command in the same process, with faults in its system calls.

    It slows down only those calls. If strace attaches to a running process, the process stops at each system call. With
    a faked clock, which takes a lock for each look at the time, such a process may make no progress.

    :param calls: the system calls, such as ``sendto,sendmsg``.
    :param fault: as in strace's ``inject``, such as ``error=EIO:when=9+9``.
    """
    faults = ("-e", f"trace={calls}", "-e", f"inject={calls}:{fault}")
    return (program("strace"), "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", *faults)


class SystemCallFaults:
    """Faults in the system calls of a running process, until :meth:`end` or until the process ends.

    :param what: the calls and their fault, as in strace's ``inject``, such as ``sendto:error=EIO:when=9+9``.
    """

    def __init__(self, pid: int, what: str) -> None:
        arguments = [program("strace"), "-f", "-qq", "-o", "/dev/null", "-p", str(pid), "-e", f"inject={what}"]
        self._tracing = subprocess.Popen(arguments)
        status = Path(f"/proc/{pid}/status")
        wait_until(lambda: "TracerPid:\t0" not in status.read_text())

    def end(self) -> None:
        """Remove the faults."""
        self._tracing.terminate()
        self._tracing.wait()
