"""Make small changes to the code, one at a time, and say which of them no test notices: ``make mutants``.

The changes (:mod:`tools.mutations`) are drawn at random from the package, its Lua scripts and ``browser/src``. Each is
made in a copy of the checkout. There the tests run (:mod:`tools.run_tests`) that stand beside the file, and then others
that import it (:mod:`tools.test_selection`), until one fails that passes without the change. It ends with status 1 if
less than 95 % are noticed.

Why none of the well-known tools: mutmut and cosmic-ray change Python only and choose no tests by trial's ids, Stryker
changes JavaScript only and knows nothing of ``browser/build.py``, and universalmutator chooses no tests at all.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tools.test_selection import Mutant, Sources

__all__ = ["MIN_NOTICED", "Result", "Workers", "draw", "equivalents", "main"]

MIN_NOTICED = 0.95
"""The share of the changes that the tests have to notice."""

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 60.0
"""A test that takes more seconds hangs, if it does so twice, and not without the change."""

_PROCESS = "the process"
_HANGS = "hangs"


class Result(NamedTuple):
    """What the tests said of a change.

    :ivar by: the test that noticed it; None if it survived.
    :ivar seconds: how long the tests ran.
    :ivar ran: how many did.
    """

    mutant: Mutant
    by: str | None
    seconds: float
    ran: int


class _Run(NamedTuple):
    """What :mod:`tools.run_tests` says.

    :ivar seconds: how long each test took that has ended.
    :ivar failed: the test that failed, if one did; "the process" if Python ended before the report did.
    :ivar module: the one that it is in.
    :ivar how: what happened to it; empty if it simply failed.
    """

    seconds: Mapping[str, float]
    failed: str | None = None
    module: str = ""
    how: str = ""


def equivalents(path: Path) -> dict[tuple[str, str, str], str]:
    """The reasons of changes that make no difference, by the file and the lines before and after."""
    listed = tomllib.loads(path.read_text("utf-8")).get("mutant", [])
    return {(one["path"], one["before"], one["after"]): one["reason"] for one in listed}


def draw(sources: Sources, count: int, seed: int, listed: Collection[tuple[str, str, str]]) -> tuple[list[Mutant], int]:
    """Draw changes: a file, as often as it has lines of code, and one of its changes that wasn't drawn yet.

    :returns: the changes, and how many others were drawn that are listed as equivalent.
    """
    chosen = random.Random(seed)
    left = {path: found for path in sources.files if (found := sources.mutants(path))}
    sizes = {path: _code_lines(sources.files[path]) for path in left}
    drawn: list[Mutant] = []
    skipped = 0
    while left and len(drawn) < count:
        (path,) = chosen.choices([*left], [sizes[path] for path in left])
        mutant = left[path].pop(chosen.randrange(len(left[path])))
        if not left[path]:
            del left[path]
        if (mutant.path, *mutant.mutation.lines(mutant.text)) in listed:
            skipped += 1
        else:
            drawn.append(mutant)
    return drawn, skipped


def _code_lines(text: str) -> int:
    return sum(not line.lstrip().startswith(("#", "--", "//", "/*", "*")) for line in text.splitlines() if line.strip())


class _Worker:
    """A copy of the checkout, in which one change is made at a time.

    :param path: the directory, which doesn't exist yet.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self.path = path
        self._running: subprocess.Popen[bytes] | None = None
        self._stopped = False
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        listed = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout
        for name in filter(None, listed.split("\0")):
            if (root / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, path / name)
        (path / "browser" / "node_modules").symlink_to(root / "browser" / "node_modules")
        self._temp = path.with_name(f"{path.name}t")
        self._temp.mkdir()
        self._call("-m", "compileall", "-q", "realtime_chat", "tests", "tools")

    def _call(self, *arguments: str) -> int:
        """Run Python in the copy, and end all that it has started."""
        if self._stopped:
            return 1
        own = {"PYTHONPATH": str(self.path), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(self._temp)}
        with (self.path / "mutants.err").open("wb") as errors:
            self._running = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.path,
                env={**os.environ, **own},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        try:
            return self._running.wait()
        finally:
            self._end()

    def stop(self) -> None:
        """End what runs, and start nothing more."""
        self._stopped = True
        self._end()

    def _end(self) -> None:
        if self._running is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._running.pid, signal.SIGKILL)
            self._running.wait()

    def run(self, **job: object) -> _Run:
        """Run tests; see :mod:`tools.run_tests`."""
        written, report = self.path / "mutants.job", self.path / "mutants.report"
        written.write_text(json.dumps(job))
        report.unlink(missing_ok=True)
        status = self._call("-m", "tools.run_tests", str(written), str(report))
        entries = [json.loads(line) for line in report.read_text("utf-8").splitlines()] if report.exists() else []
        seconds = {entry["id"]: entry["seconds"] for entry in entries if "seconds" in entry}
        failed = [entry for entry in entries if entry.get("failed")]
        if failed:
            return _Run(seconds, failed[0]["id"], failed[0]["module"])
        if status == 0:
            return _Run(seconds)
        if status == -signal.SIGALRM:
            return _Run(seconds, entries[-1]["id"], entries[-1]["module"], _HANGS)
        errors = (self.path / "mutants.err").read_text("utf-8", "replace").split("\n")
        last = next(filter(str.strip, reversed(errors)), "")
        module = entries[-1]["module"] if entries else ""
        return _Run(seconds, _PROCESS, module, f"ends with {status}: {last[:200]}")

    @contextmanager
    def changed(self, mutant: Mutant) -> Iterator[bool]:
        """Make a change, and take it back in the end. Tells whether it makes a difference to what is run."""
        changed = [self.path / mutant.path]
        if mutant.language == "JavaScript":
            changed.append(self.path / "realtime_chat" / "static" / "realtime.js")
        before = [(path, path.read_bytes(), path.stat().st_mtime) for path in changed]
        try:
            changed[0].write_text(mutant.mutation.apply(mutant.text), "utf-8")
            # In another second than the original, or what is compiled of that would still be good.
            os.utime(changed[0], (before[0][2] + 10,) * 2)
            if len(changed) > 1 and self._call("browser/build.py") != 0:
                changed[-1].write_bytes(b"")  # what can't be built can't be served
            yield changed[-1].read_bytes() != before[-1][1]
        finally:
            for path, content, at in before:
                path.write_bytes(content)
                os.utime(path, (at, at))


class Workers:
    """Judges changes in several copies of the checkout side by side.

    :param directory: where the copies are made.
    :param jobs: how many copies.
    :param patience: the seconds after which no further test of one change begins.
    :ivar broken: tests that fail without any change, or hang only now and then. They aren't run again.
    """

    def __init__(self, sources: Sources, directory: Path, jobs: int, patience: float) -> None:
        self._sources = sources
        self._patience = patience
        self._workers = [_Worker(sources.root, directory / str(number)) for number in range(jobs)]
        self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._seconds: dict[str, float] = {}
        self._sound: set[str] = set()
        self.broken: set[str] = set()

    def stop(self) -> None:
        """End all that runs, and start nothing more."""
        for worker in self._workers:
            worker.stop()

    def judge(self, mutant: Mutant) -> Result | None:
        """Run tests with a change until one fails; None if the change makes no difference to what is run."""
        worker = self._free.get()
        try:
            return self._judge(worker, mutant)
        finally:
            self._free.put(worker)

    def _judge(self, worker: _Worker, mutant: Mutant) -> Result | None:
        groups = self._sources.tests(mutant.path)
        begun = time.monotonic()
        while True:
            with worker.changed(mutant) as is_other:
                if not is_other:
                    return None
                run = self._run(worker, groups)
                happens_again = run.how != _HANGS or self._run_alone(worker, run).failed is not None
            self._seconds.update(run.seconds)
            seconds = time.monotonic() - begun
            if run.failed is None:
                return Result(mutant, None, seconds, len(run.seconds))
            if happens_again and self._is_sound(worker, run):
                return Result(mutant, f"{run.failed} {run.how}".strip(), seconds, len(run.seconds))
            self.broken.add(run.failed)

    def _run(self, worker: _Worker, groups: Sequence[Sequence[str]], only: Sequence[str] = ()) -> _Run:
        return worker.run(
            groups=groups,
            only=only,
            skipped=[*self.broken],
            seconds=self._seconds,
            limit=LIMIT,
            patience=self._patience,
        )

    def _run_alone(self, worker: _Worker, run: _Run) -> _Run:
        """Run what failed again."""
        return self._run(worker, [[run.module]] if run.module else [], [run.failed or ""])

    def _is_sound(self, worker: _Worker, run: _Run) -> bool:
        """Whether what failed passes without the change.

        :raises SystemExit: not even Python's process does.
        """
        assert run.failed is not None
        if run.failed not in self._sound:
            again = self._run_alone(worker, run)
            if again.failed == _PROCESS:
                raise SystemExit(f"Without a change, {again.failed} {again.how}")
            if again.failed is not None:
                return False
            self._sound.add(run.failed)
        return True


def _described(mutant: Mutant) -> str:
    before, after = mutant.mutation.lines(mutant.text)
    return f"{mutant.place} ({mutant.mutation.operator})\n    before: {before}\n    after:  {after}"


def _told(result: Result) -> str:
    mutant, by, seconds, ran = result
    if by is not None:
        return f"noticed  {seconds:6.1f} s  {mutant.place} ({mutant.mutation.operator}) by {by}"
    return f"SURVIVED {seconds:6.1f} s, {ran} tests, {_described(mutant)}"


def _summary(results: Sequence[Result], skipped: int) -> Iterator[str]:
    survivors = sorted((result for result in results if result.by is None), key=lambda result: result.mutant.place)
    yield from ("", "Nobody noticed:", *map(_told, survivors), "") if survivors else ("",)
    total = Counter(result.mutant.language for result in results)
    noticed = Counter(result.mutant.language for result in results if result.by is not None)
    for language in sorted(total):
        share = noticed[language] / total[language]
        yield f"{language}: {noticed[language]} of {total[language]} noticed, {share:.0%}"
    if results:
        yield f"all: {noticed.total()} of {total.total()} noticed, {noticed.total() / total.total():.1%}"
        yield f"seconds for one: {statistics.median(result.seconds for result in results):.1f} in the median"
    yield f"left out, as they make no difference: {skipped}"


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=150, metavar="N", help="how many changes to draw (150)")
    parser.add_argument("--seed", type=int, default=1, help="another one draws others (1)")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many run side by side (2)")
    parser.add_argument("--only", action="append", default=[], metavar="PATH[:LINE]", help="change only these files")
    parser.add_argument("--patience", type=float, default=120, metavar="S", help="for the tests of one change (120)")
    parser.add_argument("--list", action="store_true", help="print the changes, and run nothing")
    return parser.parse_args(arguments)


def _judge(sources: Sources, drawn: Sequence[Mutant], jobs: int, patience: float) -> Iterator[Result | None]:
    """Judge changes; each result comes as soon as it is known."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory, ThreadPoolExecutor(jobs) as pool:
        workers = Workers(sources, Path(directory), jobs, patience)
        try:
            for done in as_completed([pool.submit(workers.judge, mutant) for mutant in drawn]):
                yield done.result()
            for test in sorted(workers.broken):
                print(f"It fails without a change, or only now and then, and was not used: {test}", flush=True)
        finally:
            workers.stop()
            pool.shutdown(cancel_futures=True)


def main(arguments: Sequence[str] = tuple(sys.argv[1:])) -> int:
    """Draw the changes, print what the tests say of each, and return the exit status."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C: the copies are removed
    sources = Sources(ROOT, options.only)
    drawn, skipped = draw(sources, options.count, options.seed, equivalents(ROOT / "tools" / "equivalent_mutants.toml"))
    if options.list or not drawn:
        print(*map(_described, drawn), sep="\n")
        return 0
    results: list[Result] = []
    for result in _judge(sources, drawn, options.jobs, options.patience):
        if result is None:
            skipped += 1
        else:
            results.append(result)
            print(_told(result), flush=True)
    print(*_summary(results, skipped), sep="\n")
    noticed = sum(result.by is not None for result in results)
    return int(noticed < MIN_NOTICED * len(results))


if __name__ == "__main__":
    sys.exit(main())
