"""Runs modules of tests one after another until a test fails, for :mod:`tools.mutants`.

``python -m tools.run_tests JOB REPORT`` is run in the copy of the checkout that it tests. ``JOB`` is a JSON file with

* ``groups``: lists of modules of tests, or of paths of scripts for ``node --test``, in their order.
* ``only``: ids of tests; all are run if there are none.
* ``skipped``: ids of tests that aren't run.
* ``seconds``: how long some tests took before; the fastest of a group run first.
* ``limit``: the seconds that a test may take. One that takes longer ends the whole process, by ``SIGALRM``.
* ``patience``: the seconds after which no further test begins.

``REPORT`` gets a JSON object a line: ``{"module", "id"}`` for a test that begins, and the same with ``"failed"`` and
``"seconds"`` when it has ended.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from hypothesis import Phase, settings
from twisted.trial import reporter, runner

import realtime_chat

__all__ = ["Job", "Report", "main", "single_tests"]

_ROOT = Path(__file__).resolve().parents[1]
_MOST_MEMORY = 4 << 30
_FAILED_SCRIPT = "not ok "


class Report(reporter.TestResult):
    """Trial's result, which writes each test to a file, and stops at the first failure or when the time is over.

    :ivar module: the module that the tests are in.
    """

    def __init__(self, file: TextIO, limit: float, patience: float) -> None:
        super().__init__()
        self.module = ""
        self._file = file
        self._limit = limit
        self._failed = False
        self._begun = 0.0
        self._end = time.monotonic() + patience

    def begin(self, name: str) -> None:
        """A test begins."""
        self._failed = False
        self._write({"module": self.module, "id": name})
        signal.setitimer(signal.ITIMER_REAL, self._limit)
        self._begun = time.monotonic()

    def end(self, name: str, failed: bool) -> None:
        """A test has ended."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        now = time.monotonic()
        self._write({"module": self.module, "id": name, "failed": failed, "seconds": round(now - self._begun, 3)})
        self.shouldStop = self.shouldStop or failed or now > self._end

    def _write(self, entry: Mapping[str, object]) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self.begin(test.id())

    def stopTest(self, test: Any) -> None:
        super().stopTest(test)
        self.end(test.id(), self._failed)

    def addError(self, test: Any, error: Any) -> None:
        super().addError(test, error)
        self._failed = True

    def addFailure(self, test: Any, error: Any) -> None:
        super().addFailure(test, error)
        self._failed = True

    def addUnexpectedSuccess(self, test: Any, todo: Any = None) -> None:
        super().addUnexpectedSuccess(test, todo)
        self._failed = True


def single_tests(suite: Any) -> Iterator[Any]:
    """Give the tests in a suite, and in the suites that it holds."""
    try:
        parts = iter(suite)
    except TypeError:
        yield suite
    else:
        for part in parts:
            yield from single_tests(part)


class Job(runner.TestSuite):
    """What to run, as a suite of trial's. A group is imported only when those before it have passed."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        super().__init__()
        self._job = job

    def run(self, result: Any, debug: bool = False) -> Any:
        """Run the groups."""
        seconds = self._job["seconds"]
        for group in self._job["groups"]:
            if result.shouldStop:
                break
            scripts = [name for name in group if name.endswith(".js")]
            for script in sorted(scripts, key=lambda script: seconds.get(script, 0)):
                self._run_script(script, result)
            tests = [(module, test) for module in group if module not in scripts for test in self._selected(module)]
            for module, test in sorted(tests, key=lambda found: seconds.get(found[1].id(), 0)):
                if not result.shouldStop:
                    result.module = module
                    test(result)
        return result

    def _selected(self, module: str) -> list[Any]:
        only, skipped = ({*self._job[key]} for key in ("only", "skipped"))
        return [
            test
            for test in single_tests(runner.TestLoader().loadByNames([module]))
            if test.id() not in skipped and (not only or test.id() in only or isinstance(test, runner.ErrorHolder))
        ]

    def _run_script(self, path: str, result: Report) -> None:
        if result.shouldStop or any(name.startswith(path) for name in self._job["skipped"]):
            return
        result.module = path
        result.begin(path)
        environment = {**os.environ, "NPM_MODULES": str(_ROOT / "browser" / "node_modules")}
        command = ["node", "--test", "--test-reporter=tap", str(_ROOT / path)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        failed = [line.partition(" - ")[2] for line in done.stdout.splitlines() if _FAILED_SCRIPT in line[:20]]
        result.end(f"{path} ({failed[0]})" if failed else path, bool(failed) or done.returncode != 0)


def main() -> int:
    """Run a job."""
    assert Path(realtime_chat.__file__).parents[1] == _ROOT == Path.cwd(), f"{realtime_chat.__file__} isn't the copy"
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
    # The same examples each time, and no search for smaller ones.
    settings.register_profile("mutants", derandomize=True, phases=(Phase.explicit, Phase.generate), database=None)
    settings.load_profile("mutants")
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    with Path(sys.argv[2]).open("w", encoding="utf-8") as file:
        report = Report(file, job["limit"], job["patience"])
        runner.TrialRunner(lambda *_: report).run(Job(job))
    return 0


if __name__ == "__main__":
    sys.exit(main())
