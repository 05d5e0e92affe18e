"""How tests measure a time that somebody was promised."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from twisted.trial.unittest import SynchronousTestCase

from tests.deadlines import Stopwatch

_SPINS = "while True: pass"


class StopwatchTests(SynchronousTestCase):
    """Seconds in which the measured processes had a processor."""

    def test_busy_processor(self) -> None:
        """On a processor that three other programs use, no more seconds count than this process computes."""
        before = os.sched_getaffinity(0)
        self.addCleanup(os.sched_setaffinity, 0, before)
        os.sched_setaffinity(0, {min(before)})
        for _ in range(3):
            other = subprocess.Popen([sys.executable, "-c", _SPINS])
            self.addCleanup(other.wait)
            self.addCleanup(other.kill)
        watch, begun, computed = Stopwatch(), time.monotonic(), time.process_time()
        while time.process_time() - computed < 0.2:
            pass
        self.assertGreater(time.monotonic() - begun, 2 * watch.seconds())

    def test_sleep(self) -> None:
        """Time in which a process does nothing counts, also once it has ended."""
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"])
        watch = Stopwatch(other.pid)
        other.wait()
        self.assertGreater(watch.seconds(), 0.25)
