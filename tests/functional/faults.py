"""System calls of a running process that fail or take long (strace)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.functional.browsers import program
from tests.functional.daemon import wait_until

__all__ = ["SystemCallFaults", "with_faults"]


def with_faults(calls: str, fault: str) -> tuple[str, ...]:
    """A command that runs another one, in the same process, with faults in what that asks of the system.

    Nothing but those calls is slowed down. A process that is attached to stops at each of its calls, and with a faked
    clock, which locks and unlocks for each time that somebody asks, it may come to nothing else.

    :param calls: ``sendto,sendmsg``.
    :param fault: as strace's ``inject`` has it: ``error=EIO:when=9+9``.
    """
    faults = ("-e", f"trace={calls}", "-e", f"inject={calls}:{fault}")
    return (program("strace"), "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", *faults)


class SystemCallFaults:
    """Faults in what a process asks of the system, until :meth:`end` or its own end.

    :param what: which calls, and what becomes of them, as strace's ``inject`` has it: ``sendto:error=EIO:when=9+9``.
    """

    def __init__(self, pid: int, what: str) -> None:
        arguments = [program("strace"), "-f", "-qq", "-o", "/dev/null", "-p", str(pid), "-e", f"inject={what}"]
        self._tracing = subprocess.Popen(arguments)
        status = Path(f"/proc/{pid}/status")
        wait_until(lambda: "TracerPid:\t0" not in status.read_text())

    def end(self) -> None:
        """Let the process be."""
        self._tracing.terminate()
        self._tracing.wait()
