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
import ast
import json
import os
import queue
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from tools.mutations import Mutation, mutations

__all__ = ["MIN_NOTICED", "Calls", "Mutant", "Result", "Sources", "Worker", "draw", "equivalents", "main"]

MIN_NOTICED = 0.95
"""The share of the changes that the tests have to notice."""

ROOT = Path(__file__).resolve().parents[1]
_LANGUAGES = {".py": "Python", ".lua": "Lua", ".js": "JavaScript"}
_APART = frozenset(("console",))
"""Packages that are tested as programs, by functional tests. Modules at the top are left out for that reason too."""

_SPARE = 10.0
"""A test hangs after ten times its time and as many seconds."""

_FUNCTIONAL_LIMIT = 900.0


class Mutant(NamedTuple):
    """A change to a file.

    :ivar path: of the file, from the checkout.
    :ivar text: of the file, unchanged.
    """

    path: str
    text: str
    mutation: Mutation

    @property
    def language(self) -> str:
        """The name of its language."""
        return _LANGUAGES[Path(self.path).suffix]

    @property
    def place(self) -> str:
        """Its path and its line."""
        return f"{self.path}:{self.mutation.line(self.text)}"


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


class Sources:
    """The files of a checkout that are changed, and what their tests are.

    :param only: paths, or beginnings of paths, each perhaps with ``:LINE``; all packages if there are none.
    """

    def __init__(self, root: Path, only: Sequence[str] = ()) -> None:
        self.root = root
        self._only = only
        package = root / "realtime_chat"
        paths = [*package.rglob("*.py"), *package.rglob("*.lua"), *(root / "browser" / "src").glob("*.js")]
        self._all = {str(path.relative_to(root)): path.read_text("utf-8") for path in sorted(paths)}

    @cached_property
    def files(self) -> dict[str, str]:
        """The texts of the files that are changed, by their paths."""
        if self._only:
            starts = tuple(one.partition(":")[0] for one in self._only)
            return {path: text for path, text in self._all.items() if path.startswith(starts)}
        return {path: text for path, text in self._all.items() if not _is_apart(path)}

    def mutants(self, path: str) -> list[Mutant]:
        """All changes to a file."""
        text = self.files[path]
        found = [Mutant(path, text, mutation) for mutation in mutations(path, text)]
        lines = {one for one in self._only if ":" in one}
        if any(one.partition(":")[0] == path for one in lines):
            return [mutant for mutant in found if mutant.place in lines]
        return found

    @cached_property
    def uses(self) -> dict[str, set[tuple[str, str]]]:
        """The functions of the package that use a name or a string; each is a path and a qualified name."""
        found: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for path, text in self._all.items():
            if path.endswith(".py"):
                for code in _codes(compile(text, path, "exec")):
                    for name in (*code.co_names, *(one for one in code.co_consts if isinstance(one, str))):
                        found[name].add((path, code.co_qualname))
        return found

    @cached_property
    def test_modules(self) -> dict[str, set[str]]:
        """The modules of tests that need no daemon, each with all that it imports, also through modules beside it."""
        texts = {_dotted(path.relative_to(self.root)): path.read_text("utf-8") for path in self.tests("*.py")}
        direct = {name: _imports(text) for name, text in texts.items()}
        found = {}
        for name in direct:
            if name.rpartition(".")[2].startswith("test_") and not name.startswith("tests.functional."):
                reached, waiting = set[str](), [name]
                while waiting:
                    new = direct.get(waiting.pop(), set()) - reached
                    reached |= new
                    waiting += new
                found[name] = {one for one in reached if one.startswith("realtime_chat")}
        return found

    def tests(self, pattern: str) -> list[Path]:
        """The files in ``tests``."""
        return sorted((self.root / "tests").rglob(pattern))

    def concerned(self, paths: Iterable[str]) -> list[str]:
        """The modules of tests that stand beside some files or import them, and the scripts beside them."""
        names = {_dotted(Path(path)) for path in paths}
        places = {_beside(path) for path in paths}
        found = [
            module
            for module, imported in self.test_modules.items()
            if imported & names or (imported and _stands_in(module, places))
        ]
        scripts = [str(path.relative_to(self.root)) for path in self.tests("*.test.js")]
        return found + [script for script in scripts if str(Path(script).parent).replace("/", ".") in places]


def _is_apart(path: str) -> bool:
    package, *inner = Path(path).parts
    return package == "realtime_chat" and (len(inner) == 1 or inner[0] in _APART)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _imports(text: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _dotted(path: Path) -> str:
    return ".".join(part for part in path.with_suffix("").parts if part != "__init__")


def _beside(path: str) -> str:
    """The package, or at the top the module, of the tests that mirror a file."""
    first, *inner = Path(path).parts
    if first == "browser":
        return "tests.browser"
    directories = [part for part in inner[:-1] if part != "lua"]
    return ".".join(("tests", *(directories or [f"test_{Path(path).stem}"])))


def _stands_in(module: str, places: Iterable[str]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


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
    drawn: list[Mutant] = []
    skipped = 0
    while left and len(drawn) < count:
        paths = [*left]
        (path,) = chosen.choices(paths, [_code_lines(sources.files[path]) for path in paths])
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


class Calls:
    """Which tests call which functions, and how long each test takes.

    :ivar seconds: how long a test took; only those that passed are known.
    :ivar failed: the tests that fail without any change.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._tests: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._by_file: dict[str, set[str]] = defaultdict(set)
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def add(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Take over what :mod:`tools.run_tests` reports."""
        for entry in entries:
            if entry.get("failed"):
                self.failed.append(entry["id"])
            elif "id" in entry:
                self.seconds[entry["id"]] = entry["seconds"]
                for path, function in entry["calls"]:
                    self._tests[path, function].add(entry["id"])
                    self._by_file[path].add(entry["id"])

    def order(self, mutant: Mutant) -> list[str]:
        """The tests that may notice a change, in the order in which they should run."""
        place = _beside(mutant.path)
        likely = self._likely(mutant)
        if not likely or not mutant.mutation.function:
            more = self._of_files(mutant.path) or {one for one in self.seconds if _stands_in(_place(one), [place])}
            more -= likely
        else:
            more = set()

        def rank(test: str) -> tuple[bool, bool, float]:
            return test in more, not _stands_in(_place(test), [place]), self.seconds[test]

        return sorted(likely | more, key=rank)

    def _likely(self, mutant: Mutant) -> set[str]:
        if mutant.language == "JavaScript":
            return {test for test in self.seconds if test.endswith(".js")}
        if mutant.language == "Lua":
            stem = Path(mutant.path).stem
            return self._of_users((stem, f"{stem}.lua", f"lua/{stem}.lua"), str(Path(mutant.path).parents[1]))
        function = mutant.mutation.function
        while function:
            if (mutant.path, function) in self._tests:
                return set(self._tests[mutant.path, function])
            function = function.rpartition(".")[0].removesuffix(".<locals>")
        return self._of_users(mutant.mutation.names)

    def _of_users(self, names: Iterable[str], package: str = "") -> set[str]:
        """The tests that call a function that uses one of some names."""
        users = {user for name in names for user in self._sources.uses.get(name, ())}
        return {test for user in users if user[0].startswith(package) for test in self._tests.get(user, ())}

    def _of_files(self, path: str) -> set[str]:
        """The tests that call a function of a module; those of its package for a script of Lua."""
        if path.endswith(".lua"):
            package = f"{Path(path).parents[1]}/"
            return {test for other, tests in self._by_file.items() if other.startswith(package) for test in tests}
        return set(self._by_file[path])


def _place(test: str) -> str:
    """The dotted name of a test, or of the directory of a script."""
    return str(Path(test).parent).replace("/", ".") if test.endswith(".js") else test


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

    def run(self, modules: Iterable[str], tests: Mapping[str, float], calls: bool) -> tuple[list[Any], str | None]:
        """Run tests.

        :param tests: how many seconds each may take.
        :returns: the entries of the report, and what failed first: a test, or words.
        """
        job, report = self.path / "mutants.job", self.path / "mutants.report"
        job.write_text(json.dumps({"modules": [*modules], "tests": {**tests}, "calls": calls}))
        report.unlink(missing_ok=True)
        status = self._call("-m", "tools.run_tests", str(job), str(report))
        lines = report.read_text("utf-8").splitlines() if report.exists() else []
        entries = [json.loads(line) for line in lines]
        failed = [entry["id"] for entry in entries if entry.get("failed")]
        if failed or status == 0:
            return entries, failed[0] if failed else None
        if status == -signal.SIGALRM:
            return entries, f"{entries[-1]['start']} (it hangs)"
        last = [*(self.path / "mutants.err").read_text("utf-8", "replace").split("\n"), ""]
        return entries, f"the process, which ends with {status}: {next(filter(str.strip, reversed(last)), '')[:200]}"

    @contextmanager
    def changed(self, mutant: Mutant) -> Iterator[bool]:
        """Make a change, and take it back in the end. Tells whether it makes a difference to what is run."""
        changed = [self.path / mutant.path]
        if mutant.language == "JavaScript":
            changed.append(self.path / "realtime_chat" / "static" / "realtime.js")
        before = [(path, path.read_bytes(), path.stat().st_mtime) for path in changed]
        try:
            changed[0].write_text(mutant.mutation.apply(mutant.text), "utf-8")
            # Another time than the original's, or the compiled original would still be good.
            os.utime(changed[0], (before[0][2] + _SPARE,) * 2)
            if len(changed) > 1:
                self._call("browser/build.py")
            yield changed[-1].read_bytes() != before[-1][1]
        finally:
            for path, content, at in before:
                path.write_bytes(content)
                os.utime(path, (at, at))


class Session:
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

    def stop(self) -> None:
        """End all that runs."""
        for worker in self._workers:
            worker.stop()

    def learn(self, sources: Sources, paths: Iterable[str]) -> Calls:
        """Run all tests that concern some files once."""
        calls = Calls(sources)
        names = sources.concerned(paths)
        modules = sorted(name for name in names if not name.endswith(".js"))
        scripts = {name: 600.0 for name in names if name.endswith(".js")}
        jobs = len(self._workers)
        parts = [modules[index::jobs] for index in range(jobs)]
        with ThreadPoolExecutor(jobs) as pool:
            for entries, failed in pool.map(self._learn, parts, [scripts, *({},) * (jobs - 1)]):
                calls.add(entries)
                if failed is not None and failed not in calls.failed:
                    raise SystemExit(f"The tests can't run: {failed}")
        return calls

    def _learn(self, modules: list[str], scripts: dict[str, float]) -> tuple[list[Any], str | None]:
        with self._worker() as worker:
            return worker.run(modules, scripts, calls=True) if modules or scripts else ([], None)

    def judge(self, mutant: Mutant, order: list[str], calls: Calls, functional: list[str]) -> Result | None:
        """Run tests with a change until one fails; None if the change makes no difference to what is run."""
        limits: dict[str, float] = {}
        total = 0.0
        for test in order:
            total += calls.seconds[test]
            if total > self._patience and limits:
                break
            limits[test] = _SPARE * calls.seconds[test] + _SPARE
        with self._worker() as worker, worker.changed(mutant) as is_other:
            if not is_other:
                return None
            begun = time.monotonic()
            entries, failed = worker.run(_modules(limits), limits, calls=False) if limits else ([], None)
            for module in functional if failed is None else ():
                more, failed = worker.run([module], {}, calls=False)
                entries += more
                if failed is not None:
                    break
            ran = sum("id" in entry for entry in entries)
            return Result(mutant, failed, time.monotonic() - begun, ran)


def _modules(tests: Iterable[str]) -> list[str]:
    return sorted({test.rsplit(".", 2)[0] for test in tests if not test.endswith(".js")})


def functional_modules(sources: Sources, mutant: Mutant) -> list[str]:
    """The modules of functional tests that mention a file's or its package's name, the one with most mentions first."""
    path = Path(mutant.path)
    words = {path.stem, path.parent.name} - {"realtime_chat", "lua"}
    if mutant.language == "JavaScript":
        words = {"realtime.js"}
    pattern = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in sorted(words)))
    found = {}
    for test in sources.tests("test_*.py"):
        if test.parent.name == "functional":
            found[_dotted(test.relative_to(sources.root))] = len(pattern.findall(test.read_text("utf-8")))
    return sorted((module for module, count in found.items() if count), key=lambda module: -found[module])


def _told(result: Result) -> str:
    mutant, by, seconds, ran = result
    if by is not None:
        return f"noticed  {seconds:6.1f} s  {mutant.place} ({mutant.mutation.operator}) by {by}"
    before, after = mutant.mutation.lines(mutant.text)
    return (
        f"SURVIVED {seconds:6.1f} s  {mutant.place} ({mutant.mutation.operator}), {ran} tests\n"
        f"    before: {before}\n    after:  {after}"
    )


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
    parser.add_argument("--list", action="store_true", help="print the changes, and run nothing")
    return parser.parse_args(arguments)


def _run(
    options: argparse.Namespace, sources: Sources, drawn: list[Mutant], directory: Path
) -> Iterator[Result | None]:
    """Judge all changes; each result comes when it is known."""
    session = Session(sources.root, directory, options.jobs, options.patience)
    pool = ThreadPoolExecutor(options.jobs)
    try:
        begun = time.monotonic()
        calls = session.learn(sources, {mutant.path for mutant in drawn})
        print(f"{len(calls.seconds)} tests without a change: {time.monotonic() - begun:.0f} s", flush=True)
        for test in calls.failed:
            print(f"It fails without a change, and is not used: {test}", flush=True)
        more = [functional_modules(sources, mutant) if options.all else [] for mutant in drawn]
        yield from pool.map(lambda one, last: session.judge(one, calls.order(one), calls, last), drawn, more)
    finally:
        session.stop()
        pool.shutdown(cancel_futures=True)


def main(arguments: Sequence[str] = tuple(sys.argv[1:])) -> int:
    """Draw the changes, print what the tests say of each, and return the exit status."""
    options = _options(arguments)
    sources = Sources(ROOT, options.only)
    drawn, skipped = draw(sources, options.count, options.seed, equivalents(ROOT / "tools" / "equivalent_mutants.toml"))
    if options.list or not drawn:
        print(*(_told(Result(mutant, None, 0, 0)) for mutant in drawn), sep="\n")
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
