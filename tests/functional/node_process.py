"""A node program that prints a line of JSON for each thing that happens in it."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

from tests.functional.browsers import NPM_MODULES, node_environment, program

__all__ = ["NodeProcess"]


class NodeProcess:
    """Runs a program, whose first argument is the folder of the packages of npm.

    :ivar events: what it has printed.
    """

    def __init__(self, script: Path, *arguments: str) -> None:
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [program("node"), str(script), str(NPM_MODULES), *arguments],
            env=node_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.take(json.loads(line))

    def take(self, event: dict[str, Any]) -> None:
        """Something was printed. This is called in a thread."""
        self.events.append(event)

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """The events of a type."""
        return [event for event in self.events if event["type"] == kind]

    def write(self, line: str) -> None:
        """Give the program a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End the program."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
