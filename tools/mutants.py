"""Make small changes to the code, one at a time, and say which of them no test notices: ``make mutants``.

The changes (:mod:`tools.mutations`) are drawn at random from the package, its Lua scripts and ``browser/src``. Each is
made in a copy of the checkout. First the tests run once in it, to learn which functions each of them calls and how long
it takes (:mod:`tools.run_tests`). For each change run those that call the changed function: the ones beside the module
first, and among them the fastest. It ends with status 1 if less than 95 % are noticed.

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
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tools.concerned import Calls, Mutant, Sources, functional_modules

__all__ = ["MIN_NOTICED", "Result", "Run", "Worker", "Workers", "draw", "equivalents", "main"]

MIN_NOTICED = 0.95
"""The share of the changes that the tests have to notice."""

ROOT = Path(__file__).resolve().parents[1]
SPARE = 10.0
"""A test hangs after ten times its time and as many seconds."""

_LONGEST = 600.0


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


class Run(NamedTuple):
    """What :mod:`tools.run_tests` says.

    :ivar entries: of its report.
    :ivar failed: the test that failed first, if one did; "the process" if Python ended before the report did.
    :ivar how: what happened to it; empty if it simply failed.
    """

    entries: list[Any]
    failed: str | None
    how: str = ""


def equivalents(path: Path) -> dict[tuple[str, str], str]:
    """The reasons of changes that make no difference, by the lines before and after."""
    listed = tomllib.loads(path.read_text("utf-8")).get("mutant", [])
    return {(one["before"], one["after"]): one["reason"] for one in listed}


def draw(sources: Sources, count: int, seed: int, listed: Mapping[tuple[str, str], str]) -> tuple[list[Mutant], int]:
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
        if mutant.mutation.lines(mutant.text) in listed:
            skipped += 1
        else:
            drawn.append(mutant)
    return drawn, skipped


def _code_lines(text: str) -> int:
    return sum(not line.lstrip().startswith(("#", "--", "//", "/*", "*")) for line in text.splitlines() if line.strip())


class Worker:
    """A copy of the checkout, in which one change is made at a time.

    :param path: the directory, which doesn't exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._running: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._temp = path.with_name(f"{path.name}t")

    def fill(self, source: Path) -> None:
        """Copy what git knows or would add, or all of another copy."""
        if (source / ".git").exists():
            command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
            listed = subprocess.run(command, cwd=source, check=True, stdout=subprocess.PIPE, text=True).stdout
            for name in filter(None, listed.split("\0")):
                if (source / name).is_file():
                    (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(source / name, self.path / name)
            (self.path / "browser" / "node_modules").symlink_to(source / "browser" / "node_modules")
            self._call("-m", "compileall", "-q", "realtime_chat", "tests", "tools")
        else:
            shutil.copytree(source, self.path, symlinks=True)
        self._temp.mkdir()

    def _call(self, *arguments: str) -> int:
        """Run Python in the copy, and end all that it has started."""
        if self._stopped:
            return 1
        environment = {**os.environ, "PYTHONPATH": str(self.path), "PYTHONDONTWRITEBYTECODE": "1"}
        with (self.path / "mutants.err").open("wb") as errors:
            self._running = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.path,
                env={**environment, "TMPDIR": str(self._temp)} if self._temp.is_dir() else environment,
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

    def run(self, modules: Iterable[str], tests: Mapping[str, float], calls: bool) -> Run:
        """Run tests.

        :param modules: those that the tests are in.
        :param tests: how many seconds each may take; all of the modules are run if there are none.
        :param calls: whether to ask for the functions that each calls, and to go on after a failure.
        """
        job, report = self.path / "mutants.job", self.path / "mutants.report"
        job.write_text(json.dumps({"modules": [*modules], "tests": {**tests}, "calls": calls}))
        report.unlink(missing_ok=True)
        status = self._call("-m", "tools.run_tests", str(job), str(report))
        lines = report.read_text("utf-8").splitlines() if report.exists() else []
        entries = [json.loads(line) for line in lines]
        failed = [entry["id"] for entry in entries if entry.get("failed")]
        if failed or status == 0:
            return Run(entries, failed[0] if failed else None)
        if status == -signal.SIGALRM:
            return Run(entries, entries[-1]["start"], "hangs")
        errors = (self.path / "mutants.err").read_text("utf-8", "replace").split("\n")
        last = next(filter(str.strip, reversed(errors)), "")
        return Run(entries, "the process", f"ends with {status}: {last[:200]}")

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


def _modules(tests: Iterable[str]) -> list[str]:
    return sorted({test.rsplit(".", 2)[0] for test in tests if not test.endswith(".js")})


class Workers:
    """Runs tests in several copies side by side.

    :param root: the checkout.
    :param jobs: how many copies.
    :param patience: how many seconds the tests of one change may take, by the times that they took without a change.
    """

    def __init__(self, root: Path, directory: Path, jobs: int, patience: float) -> None:
        self._workers = [Worker(directory / str(number)) for number in range(jobs)]
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._patience = patience
        self._workers[0].fill(root)
        for worker in self._workers[1:]:
            worker.fill(self._workers[0].path)
        for worker in self._workers:
            self._free.put(worker)

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        worker = self._free.get()
        try:
            yield worker
        finally:
            self._free.put(worker)

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """End all that runs if there is an exception, such as that of Ctrl-C."""
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all that runs, and start nothing more."""
        for worker in self._workers:
            worker.stop()

    def learn(self, sources: Sources, paths: Iterable[str], kept: Path | None = None) -> Calls:
        """Run all tests that concern some files once.

        :param kept: a file for what is learnt; a module runs again if it has changed, or if one of its tests failed.
        :raises SystemExit: they can't be run.
        """
        calls = Calls(sources)
        known = json.loads(kept.read_text("utf-8")) if kept is not None and kept.exists() else {}
        wanted = {name: zlib.crc32(sources.test_file(name).read_bytes()) for name in sources.concerned(paths)}
        left = sorted(name for name in wanted if known.get(name, [None])[0] != wanted[name])
        for name in wanted.keys() - {*left}:
            calls.add(known[name][1])
        modules = [name for name in left if not name.endswith(".js")]
        scripts = {name: _LONGEST for name in left if name.endswith(".js")}
        jobs = len(self._workers)
        parts = [modules[index::jobs] for index in range(jobs)]
        with ThreadPoolExecutor(jobs) as pool, self._stopping():
            for run in pool.map(self._learn, parts, [scripts, *({},) * (jobs - 1)]):
                calls.add(run.entries)
                if run.how:
                    raise SystemExit(f"Without a change, {run.failed} {run.how}")
                for name in left:
                    entries = [
                        one
                        for one in run.entries
                        if one.get("id", "").startswith(name if name.endswith(".js") else f"{name}.")
                    ]
                    if entries and not any(one["failed"] for one in entries):
                        known[name] = [wanted[name], entries]
        if kept is not None:
            kept.write_text(json.dumps(known), "utf-8")
        return calls

    def _learn(self, modules: list[str], scripts: dict[str, float]) -> Run:
        with self._worker() as worker:
            return worker.run(modules, scripts, calls=True) if modules or scripts else Run([], None)

    def judge(self, mutant: Mutant, calls: Calls, functional: Iterable[str] = ()) -> Result | None:
        """Run tests with a change until one fails; None if the change makes no difference to what is run.

        :param functional: modules of other tests, for the case that none fails.
        """
        limits = self._limits(mutant, calls)
        stages: list[tuple[list[str], dict[str, float]]] = [(_modules(limits), limits)] if limits else []
        stages += [([module], {}) for module in functional]
        begun, ran = time.monotonic(), 0
        with self._worker() as worker:
            for modules, tests in stages:
                with worker.changed(mutant) as is_other:
                    if not is_other:
                        return None
                    run = worker.run(modules, tests, calls=False)
                ran += sum("id" in entry for entry in run.entries)
                is_sure = run.how != "hangs" and tests
                if run.failed is not None and (is_sure or _passes(worker, run.failed)):
                    return Result(mutant, f"{run.failed} {run.how}".strip(), time.monotonic() - begun, ran)
        return Result(mutant, None, time.monotonic() - begun, ran)

    def _limits(self, mutant: Mutant, calls: Calls) -> dict[str, float]:
        limits: dict[str, float] = {}
        total = 0.0
        for test in calls.order(mutant):
            total += calls.seconds[test]
            if total > self._patience and limits:
                break
            limits[test] = SPARE * calls.seconds[test] + SPARE
        return limits


def _passes(worker: Worker, test: str) -> bool:
    """Whether a test passes without the change. Under load, one may not."""
    return worker.run(_modules([test]), {test: _LONGEST}, calls=False).failed is None


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
    parser.add_argument("--all", action="store_true", help="if no other test notices, functional ones")
    parser.add_argument("--patience", type=float, default=120, metavar="S", help="for the tests of one change (120)")
    parser.add_argument(
        "--calls", type=Path, metavar="FILE", help="keep in FILE what each test calls, for the next time"
    )
    parser.add_argument("--list", action="store_true", help="print the changes, and run nothing")
    return parser.parse_args(arguments)


def _run(
    options: argparse.Namespace, sources: Sources, drawn: list[Mutant], directory: Path
) -> Iterator[Result | None]:
    """Judge all changes; each result comes when it is known."""
    workers = Workers(sources.root, directory, options.jobs, options.patience)
    pool = ThreadPoolExecutor(options.jobs)
    try:
        begun = time.monotonic()
        calls = workers.learn(sources, {mutant.path for mutant in drawn}, options.calls)
        print(f"{len(calls.seconds)} tests without a change: {time.monotonic() - begun:.0f} s", flush=True)
        for test in calls.failed:
            print(f"It fails without a change, and is not used: {test}", flush=True)
        more = [functional_modules(sources, mutant) if options.all else [] for mutant in drawn]
        yield from pool.map(lambda mutant, modules: workers.judge(mutant, calls, modules), drawn, more)
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
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        for result in _run(options, sources, drawn, Path(directory)):
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
