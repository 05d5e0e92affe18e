"""Print how large, how documented and how entangled ``realtime_chat`` is: ``make stats``.

It ends with status 1 if a bound is broken. ``tests/test_stats.py`` holds the same bounds.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeGuard

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.imports import PACKAGE, circles, modules, wrong_arrows

__all__ = [
    "MAX_FUNCTION",
    "MAX_MEDIAN",
    "MAX_MODULE",
    "MAX_P90",
    "MAX_WORDS",
    "MIN_DOCUMENTED",
    "Function",
    "broken_bounds",
    "documented",
    "functions",
    "lines_by_kind",
    "long_sentences",
    "module_lines",
    "percentile",
    "repeated_classes",
    "sentences",
]

MAX_MODULE = 450
"""Lines of a module."""

MAX_FUNCTION = 45
"""Lines of a function with its docstring."""

MAX_MEDIAN, MAX_P90 = 5, 12
"""Lines of code of a function, without its docstring."""

MIN_DOCUMENTED = 0.98
"""The share of public modules, classes, functions and methods that have a docstring."""

MAX_WORDS = 30
"""Words of a sentence in a docstring."""

_SHOWN = 10

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Function(NamedTuple):
    """How long a function is.

    :ivar code: its lines without the docstring.
    :ivar all: its lines with the docstring.
    """

    name: str
    code: int
    all: int


def module_lines() -> dict[str, int]:
    """The lines of each module, by its path."""
    return {str(path.relative_to(PACKAGE)): len(path.read_text("utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}


def lines_by_kind() -> dict[str, int]:
    """Count the lines of the package by what they are. A blank line in a docstring counts as docstring."""
    counts = dict.fromkeys(("code", "imports", "docstrings", "comments", "blank"), 0)
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        kinds = {
            line: "docstrings" if isinstance(node, ast.Expr) else "imports"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom) or _is_string(node)
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        for number, line in enumerate(text.splitlines(), 1):
            plain = line.strip()
            counts[kinds.get(number) or ("comments" if plain[:1] == "#" else "code" if plain else "blank")] += 1
    return counts


def _is_string(node: ast.AST) -> TypeGuard[ast.Expr]:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    """All classes and functions in a node, with their dotted names; those in functions too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            name = f"{prefix}.{child.name}"
            yield name, child
            yield from _definitions(child, name)
        else:
            yield from _definitions(child, prefix)


def _all_definitions() -> Iterator[tuple[str, Definition]]:
    for module, tree in modules().items():
        yield from _definitions(tree, module)


@cache
def functions() -> list[Function]:
    """All functions and methods of the package, the shortest first."""
    found = []
    for name, node in _all_definitions():
        if not isinstance(node, ast.ClassDef):
            lines = _lines(node)
            doc = _docstring(node)
            found.append(Function(name, lines - (0 if doc is None else _lines(doc)), lines))
    return sorted(found, key=lambda function: function.code)


def _lines(node: Definition | ast.Expr) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def _docstring(node: Definition) -> ast.Expr | None:
    first = node.body[0]
    return first if ast.get_docstring(node) is not None and isinstance(first, ast.Expr) else None


def percentile(numbers: list[int], share: float) -> int:
    """The number below or at which a share of the numbers is."""
    return sorted(numbers)[min(len(numbers) - 1, int(share * len(numbers)))]


@cache
def documented() -> tuple[int, list[str]]:
    """Count the public modules, classes, functions and methods; name those without a docstring.

    A method may have the docstring of the method that it overrides, or that an interface of its class declares.
    """
    public: list[tuple[str, ast.Module | Definition]] = [(name, tree) for name, tree in modules().items() if tree.body]
    public += [pair for module, tree in modules().items() for pair in _public(tree, module)]
    bare = [name for name, node in public if ast.get_docstring(node) is None and not _is_override(name)]
    return len(public), bare


def _public(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, Definition]]:
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield f"{prefix}.{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from _public(child, f"{prefix}.{child.name}")


@cache
def _classes() -> dict[str, ast.ClassDef]:
    return {node.name: node for _, node in _all_definitions() if isinstance(node, ast.ClassDef)}


def _is_override(name: str) -> bool:
    """Whether a method overrides one of this package that has a docstring."""
    *_, owner, method = name.split(".")
    return owner in _classes() and any(_has_docstring(base, method) for base in _bases(owner))


def _bases(name: str) -> Iterator[ast.ClassDef]:
    node = _classes()[name]
    for base in (*node.bases, *_interfaces(node)):
        text = ast.unparse(base).partition("[")[0].rpartition(".")[2]
        if text != name and text in _classes():
            yield _classes()[text]
            yield from _bases(text)


def _interfaces(node: ast.ClassDef) -> Iterator[ast.expr]:
    """The interfaces of zope.interface that a class implements."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "implementer":
            yield from decorator.args


def _has_docstring(node: ast.ClassDef, method: str) -> bool:
    return any(
        isinstance(child, Definition) and child.name == method and ast.get_docstring(child) is not None
        for child in node.body
    )


def repeated_classes() -> dict[str, list[str]]:
    """Names that several classes have, leading underscores aside, with the modules of the classes."""
    homes: dict[str, list[str]] = {}
    for module, tree in modules().items():
        for _, node in _definitions(tree, module):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name.lstrip("_"), []).append(module)
    return {name: found for name, found in sorted(homes.items()) if len(found) > 1}


def long_sentences() -> list[tuple[int, str, str]]:
    """The sentences of docstrings that have more than 30 words: how many, where, and the sentence; longest first."""
    found = []
    nodes: list[tuple[str, Definition | ast.Module]] = [*modules().items(), *_all_definitions()]
    for name, node in nodes:
        for sentence in sentences(ast.get_docstring(node) or ""):
            words = len(sentence.split())
            if words > MAX_WORDS:
                found.append((words, name, sentence))
    return sorted(found, reverse=True)


def sentences(text: str) -> Iterator[str]:
    """Split a docstring into sentences, without tables; a blank line, a field and an item of a list begin a new one."""
    for block in re.split(r"\n\s*\n|\n(?=\s*(?::\w|[*+-] ))", text):
        if re.search(r"^\s*={3,}", block, re.MULTILINE):  # a table
            continue
        plain = re.sub(r"^\s*:[^:]+:\s*", "", block)
        yield from re.split(r"(?<=[.!?])\s+(?=\S)", " ".join(plain.split()))


def broken_bounds() -> list[str]:
    """Say which bounds are broken."""
    lengths = [function.code for function in functions()]
    median, p90 = percentile(lengths, 0.5), percentile(lengths, 0.9)
    count, bare = documented()
    broken = [f"{' and '.join(circle)} import each other" for circle in circles()]
    broken += wrong_arrows()
    broken += [f"{name} has {lines} lines" for name, lines in module_lines().items() if lines > MAX_MODULE]
    broken += [f"{name} has {lines} lines" for name, _, lines in functions() if lines > MAX_FUNCTION]
    broken += [f"a sentence in {where} has {words} words" for words, where, _ in long_sentences()]
    if median > MAX_MEDIAN:
        broken.append(f"the median of functions is {median} lines")
    if p90 > MAX_P90:
        broken.append(f"the 90th percentile of functions is {p90} lines")
    if 1 - len(bare) / count < MIN_DOCUMENTED:
        broken.append(f"only {1 - len(bare) / count:.1%} of public objects have a docstring")
    return broken


def _report() -> Iterator[str]:
    lines, all_functions = module_lines(), functions()
    yield f"modules: {len(lines)}, {sum(lines.values())} lines"
    yield "lines: " + ", ".join(f"{count} {kind}" for kind, count in lines_by_kind().items())
    for what, lengths in (
        ("without docstrings", {function.name: function.code for function in all_functions}),
        ("with docstrings", {function.name: function.all for function in all_functions}),
    ):
        longest = max(lengths, key=lengths.__getitem__)
        numbers = [*lengths.values()]
        yield (
            f"lines of functions {what}: median {percentile(numbers, 0.5)}, 90th percentile "
            f"{percentile(numbers, 0.9)}, longest {lengths[longest]} ({longest})"
        )
    yield from _list(f"modules over {MAX_MODULE} lines", [f"{n} {c}" for n, c in lines.items() if c > MAX_MODULE])
    count, bare = documented()
    yield f"public objects: {count}, {1 - len(bare) / count:.1%} have a docstring"
    yield from _list("public objects without a docstring", bare)
    yield from _list("circles of imports", [" ".join(circle) for circle in circles()])
    yield from _list("arrows that point up", wrong_arrows())
    yield from _list("class names used more than once", [f"{n}: {', '.join(h)}" for n, h in repeated_classes().items()])
    long = [f"{words} words in {where}: {sentence}" for words, where, sentence in long_sentences()]
    yield from _list(f"sentences over {MAX_WORDS} words in docstrings", long, _SHOWN)


def _list(what: str, items: list[str], most: int | None = None) -> Iterator[str]:
    yield f"{what}: {len(items)}"
    for item in items[:most]:
        yield f"    {item}"


def main() -> int:
    """Print the report; return the exit status."""
    print(*_report(), sep="\n")
    broken = broken_bounds()
    if broken:
        print("", "Broken bounds:", *(f"    {one}" for one in broken), sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
