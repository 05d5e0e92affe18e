"""Tests for :mod:`realtime_chat.console.main`: what a command imports."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

_PROGRAM = "import sys; from realtime_chat.console.main import main; main(); sys.stderr.write(' '.join(sys.modules))"


class ImportTests(SynchronousTestCase):
    """A command without a daemon starts fast, as it imports only what it needs."""

    def imported(self, *arguments: str) -> set[str]:
        command = [sys.executable, "-c", _PROGRAM, *arguments]
        environment = {**os.environ, "REALTIME_URL": "no address"}  # which is of no use for them
        done = subprocess.run(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60, check=True
        )
        return {*done.stderr.decode().split()}

    def test_printing(self) -> None:
        """What prints keys and blocks imports nothing of Twisted."""
        for command in "key", "nginx":
            self.assertEqual(set(), {"twisted", "autobahn", "asyncio", "pika"} & self.imported(command), command)

    def test_config(self) -> None:
        """What prints the daemon's options imports them, and nothing that connects to a daemon."""
        imported = self.imported("config")
        self.assertIn("realtime_chat.options", imported)
        self.assertNotIn("realtime_chat.client.chat", imported)
