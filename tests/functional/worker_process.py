"""Processes beside a test that do its work: each line of JSON on their standard input is answered with one line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.functional.forked import ForkedProcess

__all__ = ["WorkerProcess", "serve"]


class WorkerProcess:
    """A worker process, as the test sees it.

    :param module: the program; it calls :func:`serve`.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self.process = ForkedProcess(
            f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)",
            arguments,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Call one of the worker's coroutine functions by its name, and wait for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the process beside the test ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


async def _converse(worker: Any) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        answer = await getattr(worker, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


def serve(worker: Any) -> None:
    """In the process: answer commands until the standard input ends, then exit.

    :param worker: each command calls one of its coroutine functions, whose result is the answer.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_converse(worker))
    os._exit(0)
