"""What documents, docstrings and comments name, and which of it doesn't exist (any more).

These are references: Sphinx's roles, paths of files, and names of this repository between two backquotes or, with an
underscore in them, in comments. ``tests/test_docs.py`` refuses those that are dead; this prints them.
"""

from __future__ import annotations

import ast
import importlib
import io
import os
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

__all__ = ["Text", "dead_in", "dead_references", "texts"]

CHECKOUT = Path(__file__).resolve().parents[1]
_CODE = ("realtime_chat", "tests", "tools", "benchmarks", "docs", "twisted")
_SOURCES = (".py", ".lua", ".sql", ".js", ".c", ".cfg", ".toml")
_PAGES_ABOUT_CODE = ("docs/architecture.rst", "docs/performance.rst", "CONTRIBUTING.rst")
"""Pages in which a word with an underscore is a name of the code. In the others it may be one of nginx, say."""

_ROLE = re.compile(r":(class|meth|func|attr|mod|exc|data|const|obj|ref|doc):`([^`]*)`")
_LITERAL = re.compile(r"(?<!`)``([^`]+?)(?:\(\))?``(?!`)")
_PATH = re.compile(r"(?:[\w.-]+/)*[\w.-]+\.(?:py|lua|sql|rst)|(?:[\w.-]+/)+")
_DOTTED = re.compile(r"_?[A-Za-z]\w*(?:\.\w+)+")
_NAME = re.compile(r"_?[a-z][a-z0-9]*(?:_[a-z0-9]+)+|_[a-z]\w+|_?[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]*)+")
_PLACE = re.compile(
    r"``(?P<file>[\w./]+\.(?:py|lua))``[,:] (?P<names>``\w+``(?:(?:,| and) ``\w+``)*)|"
    r"(?P<before>``\w+``(?:(?:,| and) ``\w+``)*) in ``(?P<home>[\w./]+\.(?:py|lua))``"
)
"""Names and the file that they are said to be in."""

_OF_OTHERS = {
    *("EventSource.CLOSED", "IReactorFromThreads.callFromThread", "VirtualHost", "mod_reqtimeout", "tcpi_bytes_acked"),
    *("ISSUE.WORD.KIND.rst", "NODE.NUMBER", "a.b", "chat_server", "newsfragments/ISSUE.KIND.rst"),
}
"""What looks like a name of this repository and is none."""


class Text(NamedTuple):
    """A page, a docstring or a comment.

    :ivar where: its file and line.
    :ivar module: the module that it stands in; ``""`` for a page.
    :ivar owner: the dotted name of the class that it stands in; ``""`` outside of classes.
    :ivar names: whether each word with an underscore names something of the code.
    """

    where: str
    text: str
    module: str = ""
    owner: str = ""
    names: bool = True


# What there is


@cache
def _files() -> frozenset[str]:
    skipped = {"node_modules", "_build", ".build", "build", "dist", "_trial_temp", "__pycache__"}
    found: set[str] = set()
    for top, directories, files in os.walk(CHECKOUT):
        directories[:] = [name for name in directories if name not in skipped and (name[0] != "." or name == ".ci")]
        within = Path(top).relative_to(CHECKOUT)
        found |= {f"{within / name}" for name in files} | {f"{within / name}/" for name in directories}
    return frozenset(found)


@cache
def _trees() -> dict[str, ast.Module]:
    """The modules of the repository by their dotted names."""
    found = {}
    for name in sorted(_files()):
        if name.endswith(".py") and name.startswith(tuple(f"{top}/" for top in _CODE)):
            dotted = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            found[dotted] = ast.parse((CHECKOUT / name).read_text("utf-8"), name)
    return found


@cache
def _nodes(module: str) -> list[ast.AST]:
    return [*ast.walk(_trees()[module])]


@cache
def _words() -> frozenset[str]:
    """Every name in the code of the repository, and every word of its strings; not of docstrings and tests' strings."""
    found: set[str] = set()
    for module in _trees():
        docs = {id(node.value) for node in _nodes(module) if isinstance(node, ast.Expr)}
        for node in _nodes(module):
            if isinstance(node, ast.Constant) and id(node) not in docs and not module.startswith("tests."):
                found |= {*re.findall(r"\w+", str(node.value))}
            for field in ("id", "attr", "name", "arg", "asname", "module"):
                if isinstance(value := getattr(node, field, None), str):
                    found |= {*value.split(".")}
    for name in _files():
        if name.endswith(_SOURCES[1:]):
            found |= {*re.findall(r"\w+", (CHECKOUT / name).read_text("utf-8"))}
    return frozenset(found | {"__slots__", "__all__"})


@cache
def _classes() -> dict[str, list[tuple[str, ast.ClassDef]]]:
    found: dict[str, list[tuple[str, ast.ClassDef]]] = defaultdict(list)
    for module in _trees():
        for node in _nodes(module):
            if isinstance(node, ast.ClassDef):
                found[node.name].append((module, node))
    return found


@cache
def _bindings(module: str) -> dict[str, str | ast.AST]:
    """What a module binds at its top: the node of a definition, or the dotted name of an import."""
    found: dict[str, str | ast.AST] = {}
    for node in _nodes(module):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
    return found | _bound(_trees()[module].body)


def _bound(body: Iterable[ast.stmt]) -> dict[str, ast.AST]:
    """The names that statements bind, those in an ``if`` and a ``try`` too."""
    found: dict[str, ast.AST] = {}
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.For | ast.With | ast.If | ast.Try):
            targets = [name for name in ast.walk(node) if isinstance(name, ast.Name | ast.alias)]
            found |= {name.id if isinstance(name, ast.Name) else name.asname or name.name: node for name in targets}
            found |= _bound(one for one in ast.iter_child_nodes(node) if isinstance(one, ast.stmt))
    return found


def _members(module: str, node: ast.ClassDef) -> set[str]:
    """The attributes of a class and its instances, without those of its bases."""
    found = {*_bound(node.body)} | {*re.findall(r":(?:ivar|param) (\w+):", ast.get_docstring(node) or "")}
    for inner in ast.walk(node):
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
            found.add(inner.attr)
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str) and inner.value.isidentifier():
            found.add(inner.value)  # such as a slot
    return found


# Whether something exists


def _exists(dotted: str) -> bool:
    """Whether a full dotted name is a module, or something in one, of this repository or an installed package."""
    module, rest = dotted, ""
    while module not in _trees():
        module, _, last = module.rpartition(".")
        if not module:
            return _exists_outside(dotted)
        rest = f"{last}.{rest}".rstrip(".")
    return not rest or _in_module(module, rest)


def _in_module(module: str, dotted: str) -> bool:
    first, _, rest = dotted.partition(".")
    bound = _bindings(module).get(first)
    if isinstance(bound, str):
        return _exists(f"{bound}.{rest}" if rest else bound)
    if isinstance(bound, ast.ClassDef):
        return not rest or _in_class(module, bound, rest)
    return bound is not None and not rest


def _in_class(module: str, node: ast.ClassDef, dotted: str) -> bool:
    """Whether a class or one of its bases has an attribute. What an attribute's own attributes are isn't known."""
    first, _, rest = dotted.partition(".")
    inner = _bound(node.body).get(first)
    if isinstance(inner, ast.ClassDef) and rest:
        return _in_class(module, inner, rest)
    return first in _members(module, node) or any(_in_module(module, f"{base}.{first}") for base in _base_names(node))


def _base_names(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).partition("[")[0] for base in node.bases]


def _exists_outside(dotted: str) -> bool:
    """Whether an installed package has a name. What can't be imported here may exist."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        except Exception:
            return True
        for part in parts[end:]:
            try:
                value = getattr(value, part)
            except AttributeError:
                return False
        return True
    return parts[0] in _imported_packages() - sys.stdlib_module_names


@cache
def _imported_packages() -> frozenset[str]:
    bound = [name for module in _trees() for name in _bindings(module).values()]
    return frozenset(name.partition(".")[0] for name in bound if isinstance(name, str))


def _in_scope(text: Text, dotted: str) -> bool:
    """Whether a name means something where it stands: in its class, in its module, or as a full name."""
    if dotted.startswith("."):
        return _in_any_class(dotted[1:]) or dotted[1:] in _classes()
    if text.module:
        owners = [node for module, node in _classes()[text.owner] if module == text.module] if text.owner else []
        if any(_in_class(text.module, node, dotted) for node in owners) or _in_module(text.module, dotted):
            return True
    return _exists(dotted) or _exists(f"realtime_chat.{dotted}") or _in_any_class(dotted)


def _in_any_class(dotted: str) -> bool:
    """Whether a class of that name, here or imported from elsewhere, has the attribute."""
    name, _, rest = dotted.partition(".")
    if rest and name in _classes():
        return any(_in_class(module, node, rest) for module, node in _classes()[name])
    return any(name in _bindings(module) and _in_module(module, dotted) for module in _trees())


def _is_file(path: str) -> bool:
    return bool(_named(path))


@cache
def _named(path: str) -> list[str]:
    """The files whose path ends in one."""
    return [name for name in _files() if name == path or name.endswith(f"/{path}")]


# References


def dead_in(text: Text) -> Iterator[str]:
    """The references of a text that name nothing."""
    for kind, shown in _ROLE.findall(text.text):
        target = re.sub(r"^.*<(.*)>$|^~", r"\1", " ".join(shown.split()), flags=re.DOTALL).removesuffix("()")
        if not (_page_or_label(text, target) if kind in ("ref", "doc") else _in_scope(text, target)):
            yield f"{text.where}: {shown}"
    for literal in _LITERAL.findall(text.text):
        if literal not in _OF_OTHERS and not _is_alive(text, literal):
            yield f"{text.where}: {literal}"
    for match in _PLACE.finditer(" ".join(text.text.split())):
        path = match["file"] or match["home"]
        for name in re.findall(r"\w+", match["names"] or match["before"]):
            if not _is_in_file(path, name):
                yield f"{text.where}: {name} in {path}"


def _page_or_label(text: Text, target: str) -> bool:
    if f".. _{target}:" in _all_pages():
        return True
    here = CHECKOUT / text.where.partition(":")[0]
    return (here.parent / f"{target}.rst").exists()


@cache
def _all_pages() -> str:
    return "\n".join((CHECKOUT / name).read_text("utf-8") for name in _files() if name.endswith(".rst"))


def _is_alive(text: Text, literal: str) -> bool:
    """Whether a literal names something that exists, or isn't the name of anything of ours."""
    if _PATH.fullmatch(literal):
        of_user = not text.names and not literal.endswith(".rst") and f"{literal.partition('/')[0]}/" not in _files()
        return of_user or _is_file(literal)
    if _DOTTED.fullmatch(literal):
        first = literal.partition(".")[0]
        if first in _packages():
            return _in_scope(text, literal)
        return not first.lstrip("_")[:1].isupper() or not text.names or _in_any_class(literal)
    return not text.names or not _NAME.fullmatch(literal) or literal in _words()


@cache
def _packages() -> frozenset[str]:
    inner = {name.split("/")[1] for name in _files() if re.fullmatch(r"realtime_chat/\w+/__init__\.py", name)}
    return frozenset({"realtime_chat", "tests", "tools", *inner} - {"redis", "client", "http"})


def _is_in_file(path: str, name: str) -> bool:
    return any(re.search(rf"\b{name}\b", (CHECKOUT / one).read_text("utf-8")) for one in _named(path))


# Texts


def texts() -> Iterator[Text]:
    """All pages, docstrings and comments of the repository, but its old news."""
    for name in sorted(_files()):
        if name.endswith(".rst") and not name.startswith("newsfragments/") and name != "CHANGELOG.rst":
            yield Text(name, (CHECKOUT / name).read_text("utf-8"), names=name in _PAGES_ABOUT_CODE)
        elif name.endswith((".lua", ".js", ".sql")) and not name.startswith("realtime_chat/static/"):
            comments = re.findall(r"(?:--|//|^\s*\*|/\*).*", (CHECKOUT / name).read_text("utf-8"), re.MULTILINE)
            yield Text(name, "\n".join(comments), names=False)
    for module, tree in _trees().items():
        yield from _docstrings(module, tree, "")
        yield from _comments(module)


def _docstrings(module: str, node: ast.AST, owner: str) -> Iterator[Text]:
    """The docstrings in a node, those behind an assignment too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) and isinstance(child.value.value, str):
            yield Text(f"{module}:{child.lineno}", child.value.value, module, owner)
        elif not isinstance(child, ast.expr):
            yield from _docstrings(module, child, child.name if isinstance(child, ast.ClassDef) else owner)


def _comments(module: str) -> Iterator[Text]:
    """The comments of a module, with each name that has an underscore as a literal."""
    path = CHECKOUT / module.replace(".", "/")
    source = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    for token in tokenize.generate_tokens(io.StringIO(source.read_text("utf-8")).readline):
        if token.type == tokenize.COMMENT and not re.match(r"# (?:type|noqa)", token.string):
            marked = re.sub(r"(?<![\w`./:$-])(_?[a-z][a-z0-9]*(?:_[a-z0-9]+)+)(?![\w`/:-])", r"``\1``", token.string)
            yield Text(f"{module}:{token.start[0]}", marked, module)


@cache
def dead_references() -> list[str]:
    """Everything that a text of the repository names and that doesn't exist: where, and the name."""
    return [dead for text in texts() for dead in dead_in(text)]


if __name__ == "__main__":
    print(*dead_references(), sep="\n")
    sys.exit(bool(dead_references()))
