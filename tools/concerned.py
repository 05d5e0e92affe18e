"""Which tests may notice a change: those that call the changed function (:mod:`tools.mutants`)."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from tools.imports import imported_names, reachable
from tools.mutations import Mutation, mutations

__all__ = ["Calls", "Mutant", "Sources", "functional_modules"]

_LANGUAGES = {".py": "Python", ".lua": "Lua", ".js": "JavaScript"}
_APART = frozenset(("console",))
"""Packages that are tested as programs, by functional tests. Modules at the top are left out for that reason too."""


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
        direct = {name: imported_names(ast.parse(text)) for name, text in texts.items()}
        return {
            name: {one for one in reachable(name, lambda name: direct.get(name, ())) if one.startswith("realtime_chat")}
            for name in direct
            if name.rpartition(".")[2].startswith("test_") and not name.startswith("tests.functional.")
        }

    def test_file(self, name: str) -> Path:
        """Where a module of tests is, or a script."""
        return self.root / (name if name.endswith(".js") else f"{name.replace('.', '/')}.py")

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
