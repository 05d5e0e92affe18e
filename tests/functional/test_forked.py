"""Tests for :mod:`tests.functional.forked`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.deadlines import DEADLINE
from tests.functional.daemon import CHECKOUT, wait_until
from tests.functional.forked import ForkedProcess

_TELL = """
import json, os, signal, sys
told = [sys.argv, os.getcwd(), dict(os.environ), sys.stdin.read(), __name__, sorted(os.listdir('/proc/self/fd'))[:-1]]
print(json.dumps([*told, signal.getsignal(signal.SIGINT).__name__, str(signal.getsignal(signal.SIGPIPE))]))
print('wrong', file=sys.stderr)
sys.exit(7)
"""

_IN_TWO = """
import subprocess, sys
from tests.functional.forked import ForkedProcess
fork = ForkedProcess('input()', [], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=None, env={})
print(fork.pid, flush=True)
sys.stdin.read()
"""

_IN_THREADS = """
import subprocess, threading
from tests.functional.forked import ForkedProcess
nothing, statuses = subprocess.DEVNULL, []
def fork():
    process = ForkedProcess('import time; time.sleep(0.3)', [], stdin=nothing, stdout=nothing, stderr=None, env={})
    statuses.append(process.wait(20))
threads = [threading.Thread(target=fork) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(statuses)
"""


class ForkedTests(SynchronousTestCase):
    """What a program can tell of a fork, and of a Python of its own."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir()

    def told(self, forked: bool) -> list[object]:
        """Run a program; give what it writes, and its status."""
        environment = {"PYTHONPATH": str(CHECKOUT), "HERE": "é", "LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
        with (self.directory / "out").open("wb") as out, (self.directory / "err").open("wb") as err:
            if forked:
                process: ForkedProcess | subprocess.Popen[bytes] = ForkedProcess(
                    _TELL, ["a", "b"], stdin=subprocess.PIPE, stdout=out, stderr=err, env=environment, cwd="/"
                )
            else:
                command = [sys.executable, "-c", _TELL, "a", "b"]
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=out, stderr=err, env=environment, cwd="/"
                )
        assert process.stdin is not None
        process.stdin.write("süß".encode())
        process.stdin.close()
        status = process.wait(20)
        return [status, process.returncode, (self.directory / "out").read_text(), (self.directory / "err").read_text()]

    def test_like_a_new_python(self) -> None:
        """Arguments, directory, environment, files, signals and status are those that a new Python has."""
        forked = self.told(forked=True)
        self.assertEqual(self.told(forked=False), forked)
        self.assertEqual([7, 7], forked[:2])

    def test_signals(self) -> None:
        """It runs until it is killed, and its status is the signal's number."""
        process = ForkedProcess(
            "print('here', flush=True); input()", [], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, env={}
        )
        assert process.stdout is not None
        self.assertEqual(b"here\n", process.stdout.readline())
        self.assertIsNone(process.poll())
        self.assertRaises(subprocess.TimeoutExpired, process.wait, 0.01)
        process.kill()
        self.assertEqual(-signal.SIGKILL, process.wait(20))
        process.kill()  # which is nothing now

    def test_ends_with_the_tests(self) -> None:
        """When the process that asked for it is gone, it is gone, too."""
        asking = subprocess.Popen([sys.executable, "-c", _IN_TWO], cwd=CHECKOUT, stdin=-1, stdout=subprocess.PIPE)
        assert asking.stdout is not None
        pid = int(asking.stdout.readline())
        self.assertTrue(Path(f"/proc/{pid}").exists())
        asking.kill()
        asking.communicate()
        wait_until(lambda: not Path(f"/proc/{pid}").exists())

    def test_first_ones_together(self) -> None:
        """The first forks of a process may be asked for by several threads at once, and each runs to its end."""
        done = subprocess.run([sys.executable, "-c", _IN_THREADS], cwd=CHECKOUT, capture_output=True, timeout=DEADLINE)
        self.assertEqual(b"[0, 0, 0, 0]\n", done.stdout, done.stderr.decode())
