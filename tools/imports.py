"""Who imports whom in ``realtime_chat``, and who may (``docs/architecture.rst``)."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

__all__ = [
    "BESIDE",
    "CLIENT_MAY",
    "LAYERS",
    "PACKAGE",
    "circles",
    "imported_names",
    "imports",
    "is_below",
    "modules",
    "own_imports",
    "reachable",
    "wrong_arrows",
]

PACKAGE = Path(__file__).resolve().parents[1] / "realtime_chat"

LAYERS = (
    (
        "certificates",
        "clock",
        "data_dir",
        "hosts",
        "listening",
        "logs",
        "malloc",
        "process",
        "proxy_protocol",
        "text_files",
    ),
    ("values",),
    ("core.identity", "core.interfaces", "core.turns", "tokens"),
    ("core.access", "core.access_renewal", "core.wheel"),
    ("core.node", "core.tail"),
    ("core.rate_limiter", "core.user_sessions"),
    ("core.log_view", "core.quota"),
    ("core.room",),
    ("core.by_room", "core.catch_up", "core.properties"),
    ("presence",),
    ("core.publishing", "core.room_cache"),
    ("core.hub",),
    ("core.delivery", "core.hello"),
    ("core.session",),
    ("core.performing_session",),
    ("core.command_session",),
    ("http",),
    ("transports",),
    ("legacy",),
    ("engineio",),
    ("socketio",),
    ("composition", "service", "config_file", "option_values", "limit_options", "socketio_options"),
    ("option_combinations",),
    ("options",),
    ("reload",),
    ("tap",),
)
"""From the bottom up. A module imports from its own layer and from the layers below it. A package stands for all of its
modules."""

_VALUES = ("values", "core.interfaces")
BESIDE: Mapping[str, tuple[str, ...]] = {
    "redis": ("values", "hosts", "redis"),
    "store": (*_VALUES, "redis", "store"),
    "broker": (*_VALUES, "redis", "broker"),
}
"""What stands beside the layers, and what it may import: values and interfaces, but no rooms, sessions or HTTP."""

_CHOOSES_STORE = ("option_values", "options", "tap")
"""What may import a store or a broker."""

CLIENT_MAY: Mapping[str, tuple[str, ...]] = {
    "client": ("client", "clock", "hosts", "values"),
    "console": ("client", "console", "contrib", "tokens", "values"),
    "console.config": ("console", "options", "values"),
    "contrib": ("client", "contrib", "values"),
}
"""The client imports values, their JSON and errors, and nothing of the server. The console and what joins the daemon
with other systems import the client, and one module of the console the daemon's options."""


@cache
def modules() -> Mapping[str, ast.Module]:
    """Parse all modules of the package; the keys are their names without ``realtime_chat.``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = ast.parse(path.read_text("utf-8"), str(path))
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """The full names of what a module imports, wherever in the module: in functions and for type checkers too.

    ``from a import b`` gives both ``a`` and ``a.b``.
    """
    return imported_names(modules()[module])


def imported_names(tree: ast.Module) -> frozenset[str]:
    """The full names that a parsed module imports; see :func:`imports`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"a relative import in line {node.lineno}"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


@cache
def own_imports(module: str) -> frozenset[str]:
    """The modules of this package that a module imports, without ``realtime_chat.``."""
    names = {name.removeprefix("realtime_chat.") for name in imports(module) if name.startswith("realtime_chat.")}
    return frozenset(names & modules().keys())


def is_below(name: str, *packages: str) -> bool:
    """Whether a module is one of some packages, or stands in one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


def circles() -> list[list[str]]:
    """The largest sets of modules that import each other, directly or through others."""
    reached = {module: reachable(module, own_imports) for module in modules()}
    found = {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in modules()
        if module in reached[module]
    }
    return sorted(sorted(circle) for circle in found)


def reachable(module: str, direct: Callable[[str], Iterable[str]]) -> set[str]:
    """What a module imports, directly and through others.

    :param direct: gives what one module imports.
    """
    found: set[str] = set()
    waiting = [*direct(module)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += direct(name)
    return found


def wrong_arrows() -> list[str]:
    """Say which modules import what they may not."""
    return [
        f"{module} imports {imported}"
        for module in modules()
        for imported in sorted(own_imports(module))
        if not _may_import(module, imported)
    ] + [f"{module} stands in no layer; add it to LAYERS in tools/imports.py" for module in _without_layer()]


def _may_import(module: str, imported: str) -> bool:
    for rule in (BESIDE, CLIENT_MAY):
        allowed = rule.get(module, rule.get(_package(module)))
        if allowed is not None:
            return is_below(imported, *allowed)
    if _package(imported) in BESIDE:
        return module in _CHOOSES_STORE
    if _package(imported) in CLIENT_MAY:
        return False
    upper, lower = _layer(module), _layer(imported)
    return upper is None or lower is None or lower <= upper


def _without_layer() -> Iterator[str]:
    for module in filter(None, modules()):
        aside = _package(module) in BESIDE or _package(module) in CLIENT_MAY
        if not aside and _layer(module) is None and modules()[module].body:
            yield module


def _package(module: str) -> str:
    return module.partition(".")[0]


def _layer(module: str) -> int | None:
    return next((index for index, layer in enumerate(LAYERS) if is_below(module, *layer)), None)
