"""What :mod:`tools.mutants` changes, and which tests may notice it: those beside a file, then those that import it."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from tools.imports import imported_names, reachable
from tools.mutations import Mutation, mutations

__all__ = ["Mutant", "Sources"]

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
    """The files of a checkout that are changed, and their tests.

    :param only: paths, or beginnings of paths, each perhaps with ``:LINE``; all packages if there are none.
    """

    def __init__(self, root: Path, only: Sequence[str] = ()) -> None:
        self.root = root
        self._only = only

    @cached_property
    def files(self) -> dict[str, str]:
        """The texts of the files that are changed, by their paths."""
        package = self.root / "realtime_chat"
        found = [*package.rglob("*.py"), *package.rglob("*.lua"), *(self.root / "browser" / "src").glob("*.js")]
        paths = [str(path.relative_to(self.root)) for path in sorted(found)]
        starts = tuple(one.partition(":")[0] for one in self._only)
        chosen = [path for path in paths if (path.startswith(starts) if starts else not _is_apart(path))]
        return {path: (self.root / path).read_text("utf-8") for path in chosen}

    def mutants(self, path: str) -> list[Mutant]:
        """All changes to a file."""
        text = self.files[path]
        found = [Mutant(path, text, mutation) for mutation in mutations(path, text)]
        lines = {one for one in self._only if ":" in one}
        if any(one.partition(":")[0] == path for one in lines):
            return [mutant for mutant in found if mutant.place in lines]
        return found

    @cached_property
    def _texts(self) -> dict[str, str]:
        """What is in ``tests``: modules by their names, and scripts by their paths."""
        modules, scripts = ((self.root / "tests").rglob(pattern) for pattern in ("*.py", "*.test.js"))
        return {
            **{_dotted(path.relative_to(self.root)): path.read_text("utf-8") for path in modules},
            **{str(path.relative_to(self.root)): path.read_text("utf-8") for path in scripts},
        }

    @cached_property
    def _imported(self) -> dict[str, set[str]]:
        """The modules of tests that need no daemon, each with all that it imports, directly and through others."""
        package = (self.root / "realtime_chat").rglob("*.py")
        texts = {_dotted(path.relative_to(self.root)): path.read_text("utf-8") for path in package} | self._texts
        direct = {name: imported_names(ast.parse(text)) for name, text in texts.items() if not name.endswith(".js")}
        return {
            name: reachable(name, lambda name: direct.get(name, ()))
            for name in self._texts.keys() & direct.keys()
            if name.rpartition(".")[2].startswith("test_") and not name.startswith("tests.functional.")
        }

    def tests(self, path: str) -> list[list[str]]:
        """The modules or scripts of tests for a file, in the order in which they should run.

        First the one with its name, then others beside it, then those that import it, directly or through others.
        """
        place, stem = _beside(path), Path(path).stem
        # What a script of Lua does is seen by those who import a module beside it.
        name = _dotted(Path(path).parents[1] if path.endswith(".lua") else Path(path))
        if place == "tests.browser":
            found = [name for name in self._texts if name.startswith("tests/browser/")]
        else:
            found = [
                module
                for module, imported in self._imported.items()
                if _stands_in(module, place) or any(_stands_in(one, name) for one in imported)
            ]

        def rank(module: str) -> tuple[bool, bool]:
            last = Path(module).name.removesuffix(".test.js").rpartition(".")[2].removeprefix("test_")
            return not _stands_in(module, place), last != stem

        return [[*group] for _, group in groupby(sorted(sorted(found), key=rank), key=rank)]


def _is_apart(path: str) -> bool:
    package, *inner = Path(path).parts
    return package == "realtime_chat" and (len(inner) == 1 or inner[0] in _APART)


def _dotted(path: Path) -> str:
    return ".".join(part for part in path.with_suffix("").parts if part != "__init__")


def _beside(path: str) -> str:
    """The package, or at the top the module, of the tests that mirror a file."""
    first, *inner = Path(path).parts
    if first == "browser":
        return "tests.browser"
    directories = [part for part in inner[:-1] if part != "lua"]
    return ".".join(("tests", *(directories or [f"test_{Path(path).stem}"])))


def _stands_in(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")
