"""Runs chosen tests one after another until one fails, for :mod:`tools.mutants`.

``python -m tools.run_tests JOB REPORT`` is run in the copy of the checkout that it tests. ``JOB`` is a JSON file with

* ``tests``: ids of tests, or paths of scripts for ``node --test``, in their order, with the seconds that each may take.
* ``modules``: modules of tests, all of whose tests are run.
* ``calls``: whether to say which functions of the package each test has called, and to go on after a failure.

``REPORT`` gets a JSON object a line: ``{"start": ID}``, and later ``{"id", "failed", "seconds", "calls"}``. A test that
takes longer ends the whole process, by ``SIGALRM``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TextIO

from hypothesis import Phase, settings
from twisted.trial import reporter, runner

import realtime_chat

__all__ = ["CallTrace", "Report", "main", "single_tests"]

_ROOT = Path(__file__).resolve().parents[1]
_MOST_MEMORY = 4 << 30
_FAILED_SCRIPT = "not ok "


class CallTrace:
    """Which functions of the package are called. It doesn't look at lines, so tests take only twice as long."""

    def __init__(self) -> None:
        self._seen: set[CodeType] = set()

    def start(self) -> None:
        """Begin in this thread and in all that start later."""
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def _trace(self, frame: FrameType, event: str, argument: object) -> None:
        self._seen.add(frame.f_code)

    def take(self) -> list[tuple[str, str]]:
        """The paths and qualified names of what was called since this was last asked."""
        seen, self._seen = self._seen, set()
        package = f"{_ROOT / 'realtime_chat'}/"
        called = {(code.co_filename, code.co_qualname) for code in seen if code.co_filename.startswith(package)}
        return sorted((str(Path(path).relative_to(_ROOT)), name) for path, name in called)


class Report(reporter.TestResult):
    """Trial's result, which writes each test to a file.

    :param limits: the seconds that a test may take, by its id.
    :param trace: what it asks for calls; the first failure ends the run if there is none.
    """

    def __init__(self, file: TextIO, limits: Mapping[str, float], trace: CallTrace | None) -> None:
        super().__init__()
        self._file = file
        self._limits = limits
        self._trace = trace
        self._failed = False
        self._begun = 0.0

    def begin(self, name: str) -> None:
        """A test begins."""
        self._failed = False
        self._write({"start": name})
        if self._trace is not None:
            self._trace.take()
        signal.setitimer(signal.ITIMER_REAL, self._limits.get(name, 0))
        self._begun = time.monotonic()

    def end(self, name: str, failed: bool) -> None:
        """A test has ended."""
        seconds = round(time.monotonic() - self._begun, 3)
        signal.setitimer(signal.ITIMER_REAL, 0)
        calls = [] if self._trace is None else self._trace.take()
        self._write({"id": name, "failed": failed, "seconds": seconds, "calls": calls})
        self.shouldStop = self.shouldStop or (failed and self._trace is None)

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


def _load(modules: Iterable[str], ids: Iterable[str]) -> list[Any]:
    """All tests of some modules, or of these the ones that are named, in their order. What can't be loaded is first."""
    loader = runner.TestLoader()
    found = {test.id(): test for module in modules for test in single_tests(loader.loadByName(module))}
    wanted = [*ids]
    if not wanted:
        return [*found.values()]
    broken = [test for test in found.values() if isinstance(test, runner.ErrorHolder)]
    return [*broken, *(found[name] for name in wanted if name in found)]


def _run_scripts(paths: Iterable[str], report: Report) -> None:
    environment = {**os.environ, "NPM_MODULES": str(_ROOT / "browser" / "node_modules")}
    for path in paths:
        report.begin(path)
        command = ["node", "--test", "--test-reporter=tap", path]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        failed = [line.partition(" - ")[2] for line in done.stdout.splitlines() if _FAILED_SCRIPT in line[:20]]
        report.end(f"{path} ({failed[0]})" if failed else path, bool(failed) or done.returncode != 0)
        if report.shouldStop:
            break


def main() -> int:
    """Run a job."""
    assert Path(realtime_chat.__file__).parents[1] == _ROOT == Path.cwd(), f"{realtime_chat.__file__} isn't the copy"
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
    # The same examples each time, and no search for smaller ones.
    settings.register_profile("mutants", derandomize=True, phases=(Phase.explicit, Phase.generate), database=None)
    settings.load_profile("mutants")
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    trace = CallTrace() if job["calls"] else None
    with Path(sys.argv[2]).open("w", encoding="utf-8") as file:
        report = Report(file, job["tests"], trace)
        _run_scripts([name for name in job["tests"] if name.endswith(".js")], report)
        tests = _load(job["modules"], [name for name in job["tests"] if not name.endswith(".js")])
        if trace is not None:
            trace.start()
        if tests and not report.shouldStop:
            runner.TrialRunner(lambda *_: report).run(runner.TestSuite(tests))
    return 0


if __name__ == "__main__":
    sys.exit(main())
