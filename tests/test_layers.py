"""The layers of the package: who may import whom (``docs/architecture.rst``)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

PACKAGE = Path(__file__).resolve().parents[1] / "realtime_chat"

LAYERS = (
    ("clock", "hosts", "listening", "logs", "process"),
    ("values",),
    ("core", "presence"),
    ("http",),
    ("transports",),
    ("service",),
    ("tap",),
    ("client",),
    ("console",),
)
"""From the bottom up; a module imports from its own entry and from the layers below it. A package is one entry."""

PLAIN = frozenset(("values", "core.identity", "core.tail"))
"""Plain values: nothing of Twisted at all."""

DOMAIN = PLAIN | {"core", "presence"}
TWISTED_IN_DOMAIN = (
    "twisted.internet.defer",
    "twisted.internet.interfaces",
    "twisted.logger",
    "twisted.python.failure",
)
_VALUES = frozenset(("values", "core"))
BESIDE = {
    "redis": frozenset(("values", "hosts", "redis")),
    "store": _VALUES | {"redis", "store"},
    "broker": _VALUES | {"redis", "broker"},
}
"""What stands beside the domain, and what it may import: values, and what a store or a broker is, but nothing of rooms,
sessions or HTTP."""

CLIENT_MAY = {
    "client": frozenset(("client", "clock", "hosts", "values")),
    "console": frozenset(("client", "console", "values")),
}
"""The client knows values, their JSON and errors, and nothing of the server; the console knows the client."""

EMPTY_WORDS = ("Manager", "Handler", "Processor", "Engine", "Helper", "Util", "Utils")


def _rank(entry: str) -> int:
    for rank, layer in enumerate(LAYERS):
        if entry in layer:
            return rank
    raise AssertionError(f"realtime_chat.{entry} stands in no layer; LAYERS has to say where it belongs")


def _modules() -> dict[str, ast.Module]:
    """Every module of the package, by its name without ``realtime_chat.``."""
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        modules[name] = ast.parse(path.read_text("utf-8"), str(path))
    return modules


MODULES = _modules()


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All statements but those that are there for the type checker alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.stmt):
            yield child
        yield from _statements(child)


def _imports(module: str) -> set[str]:
    """Full names of what a module imports; of ``from a import b`` both ``a`` and ``a.b``."""
    found = set()
    for statement in _statements(MODULES[module]):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.module is not None, f"{module} has a relative import"
            found |= {statement.module, *(f"{statement.module}.{alias.name}" for alias in statement.names)}
    return found


def _own_imports(module: str) -> set[str]:
    """The modules of this package that a module imports, without ``realtime_chat.``."""
    names = {name.removeprefix("realtime_chat.") for name in _imports(module) if name.startswith("realtime_chat.")}
    return {name for name in names if name in MODULES}


def _entry(module: str) -> str:
    return module.partition(".")[0]


def _is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


class LayerTests(SynchronousTestCase):
    """An arrow points at what may be imported."""

    def test_arrows_point_down(self) -> None:
        """Nothing imports what stands above it, and below the edges nothing imports its neighbour's inside."""
        wrong = [
            f"{module} imports {imported}"
            for module in MODULES
            if module and _entry(module) not in BESIDE
            for imported in _own_imports(module)
            if _entry(imported) not in BESIDE and _rank(_entry(imported)) > _rank(_entry(module))
        ]
        self.assertEqual([], wrong)

    def test_stores_and_brokers(self) -> None:
        """A store and a broker import values, interfaces and what they reach their server by; only tap imports one."""
        wrong = []
        for module in MODULES:
            for imported in _own_imports(module):
                may = BESIDE.get(_entry(module))
                if may and _entry(imported) not in may:
                    wrong.append(f"{module} imports {imported}")
                if not may and _entry(imported) in BESIDE and _entry(module) != "tap":
                    wrong.append(f"{module} imports {imported}")
        self.assertEqual([], wrong)

    def test_client(self) -> None:
        """The client and the console know nothing of the server, and the server nothing of them."""
        wrong = []
        for module in MODULES:
            for imported in _own_imports(module):
                may = CLIENT_MAY.get(_entry(module))
                if _entry(imported) not in may if may else _entry(imported) in CLIENT_MAY:
                    wrong.append(f"{module} imports {imported}")
        self.assertEqual([], wrong)

    def test_client_core_does_no_io(self) -> None:
        """The client's core is given links and a clock; only links and what makes them know sockets and HTTP."""
        for module in (
            *("backoff", "connector", "core", "errors", "events", "flow_control", "link", "options", "outbox"),
            *("publisher", "queries", "subscription", "subscriptions"),
        ):
            for name in _imports(f"client.{module}"):
                if _is_below(name, "twisted"):
                    self.assertTrue(any(_is_below(name, one) for one in TWISTED_IN_DOMAIN), f"{module} imports {name}")
                self.assertNotIn(_entry(name), ("autobahn", "treq", "socket", "time", "random"), module)

    def test_no_circles(self) -> None:
        """No modules import each other, not even in a roundabout way."""
        TopologicalSorter({module: _own_imports(module) for module in MODULES}).prepare()

    def test_only_programs_import_the_reactor(self) -> None:
        """Everything but the daemon's and the console's own wiring is given its clock and its reactor."""
        users = [module for module in MODULES if "twisted.internet.reactor" in _imports(module)]
        self.assertEqual(["console.main", "tap"], sorted(users))

    def test_domain_does_no_io(self) -> None:
        """The domain knows neither sockets nor HTTP nor SQL, and its plain values nothing of Twisted."""
        wrong = []
        for module in MODULES:
            if not any(_is_below(module, one) for one in DOMAIN):
                continue
            allowed = () if any(_is_below(module, one) for one in PLAIN) else TWISTED_IN_DOMAIN
            for name in _imports(module):
                if _is_below(name, "twisted") and not any(
                    _is_below(name, one) or _is_below(one, name) for one in allowed
                ):
                    wrong.append(f"{module} imports {name}")
                if _entry(name) in ("sqlite3", "socket", "autobahn", "treq", "threading", "time"):
                    wrong.append(f"{module} imports {name}")
        self.assertEqual([], wrong)

    def test_sql_and_websockets_stay_where_they_are(self) -> None:
        """SQLite is imported by its store alone, Autobahn by one file of the server and one of the client."""
        for package, homes in (
            ("sqlite3", ("store.sqlite.",)),
            ("autobahn", ("transports.websocket", "client.websocket")),
            ("treq", ("client.http_client",)),
            ("txredisapi", ("redis.",)),
        ):
            for module in MODULES:
                if any(_is_below(name, package) for name in _imports(module)):
                    self.assertTrue(module.startswith(homes), f"{module} imports {package}")

    def test_names_say_something(self) -> None:
        """No class is called by a word that fits any class."""
        names = [
            f"{module}.{node.name}"
            for module, tree in MODULES.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and node.name.endswith(EMPTY_WORDS)
        ]
        self.assertEqual([], names)
