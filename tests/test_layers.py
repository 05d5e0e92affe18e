"""The layers of the package: who may import whom (``docs/architecture.rst``)."""

from __future__ import annotations

import ast

from twisted.trial.unittest import SynchronousTestCase

from tools.imports import circles, imports, is_below, modules, wrong_arrows

PLAIN = frozenset(("values", "core.identity", "core.tail", "engineio.packets", "socketio.packets"))
"""Plain values: nothing of Twisted at all."""

DOMAIN = PLAIN | {"core", "presence"}
TWISTED_IN_DOMAIN = (
    "twisted.internet.defer",
    "twisted.internet.interfaces",
    "twisted.logger",
    "twisted.python.failure",
)
CLIENT_IO = frozenset(
    f"client.{name}"
    for name in ("address", "chat", "http", "http_client", "http_link", "poll", "server_url", "sse", "websocket")
)
"""The client's links, and what makes them."""

EMPTY_WORDS = ("Manager", "Handler", "Processor", "Engine", "Helper", "Util", "Utils")


class LayerTests(SynchronousTestCase):
    """An arrow points at what may be imported."""

    def test_arrows_point_down(self) -> None:
        """A module imports nothing that stands above it; imports for type checkers count too.

        Stores and brokers import values and interfaces, and only the composition root imports stores and brokers. The
        client and the console import nothing of the server, and the server imports nothing of them.
        """
        self.assertEqual([], wrong_arrows())

    def test_client_core_does_no_io(self) -> None:
        """The client's core is given links and a clock; only links and what makes them know sockets and HTTP."""
        for module in modules():
            if is_below(module, "client") and module not in CLIENT_IO:
                for name in imports(module):
                    if is_below(name, "twisted"):
                        self.assertTrue(is_below(name, *TWISTED_IN_DOMAIN), f"{module} imports {name}")
                    self.assertNotIn(name.partition(".")[0], ("autobahn", "treq", "socket", "time", "random"), module)

    def test_no_circles(self) -> None:
        """No modules import each other, directly or through others; imports for type checkers count too."""
        self.assertEqual([], circles())

    def test_only_programs_import_the_reactor(self) -> None:
        """Everything but the daemon's and the console's own wiring is given its clock and its reactor."""
        users = [module for module in modules() if "twisted.internet.reactor" in imports(module)]
        self.assertEqual(["console.main", "tap"], sorted(users))

    def test_domain_does_no_io(self) -> None:
        """The domain knows neither sockets nor HTTP nor SQL, and its plain values nothing of Twisted."""
        wrong = []
        for module in modules():
            if not is_below(module, *DOMAIN):
                continue
            allowed = () if is_below(module, *PLAIN) else TWISTED_IN_DOMAIN
            for name in imports(module):
                if is_below(name, "twisted") and not any(is_below(name, one) or is_below(one, name) for one in allowed):
                    wrong.append(f"{module} imports {name}")
                if name.partition(".")[0] in ("sqlite3", "socket", "autobahn", "treq", "threading", "time"):
                    wrong.append(f"{module} imports {name}")
        self.assertEqual([], wrong)

    def test_sql_and_websockets_stay_where_they_are(self) -> None:
        """SQLite is imported by its store alone, Autobahn by one file of the server and one of the client."""
        for package, homes in (
            ("sqlite3", ("store.sqlite.",)),
            ("autobahn", ("transports.websocket", "transports.handshake", "transports.fast", "client.websocket")),
            ("treq", ("client.http_client",)),
            ("txredisapi", ("redis.",)),
            ("pika", ("contrib.amqp.",)),
        ):
            for module in modules():
                if any(is_below(name, package) for name in imports(module)):
                    self.assertTrue(module.startswith(homes), f"{module} imports {package}")

    def test_names_say_something(self) -> None:
        """No class is called by a word that fits any class."""
        names = [
            f"{module}.{node.name}"
            for module, tree in modules().items()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and node.name.endswith(EMPTY_WORDS)
        ]
        self.assertEqual([], names)
