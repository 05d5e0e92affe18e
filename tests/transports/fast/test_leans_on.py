"""Tests for what the package uses of Twisted and Autobahn beyond their documented interfaces."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import socket
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import tcp, unix
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.logger import LogPublisher
from twisted.python.components import Componentized
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel, HTTPFactory, Request
from twisted.web.resource import Resource
from twisted.web.server import Site

import realtime_chat
from realtime_chat.transports.handshake import Upgrade, encode_request

PACKAGE = Path(realtime_chat.__file__).parent
TRICKS = ("transports/fast/", "http/fast_channel.py")
"""Where private names of Twisted and Autobahn may be used."""

EXCEPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "http/": (
        "HTTPChannel, Request and Site have no documented hooks for what is refused, counted, logged and taken over",
        (
            "twisted.web.http:_ChunkedTransferDecoder",
            "twisted.web.http:HTTPChannel._buffer",
            "twisted.web.http:HTTPChannel._busyReceiving",
            "twisted.web.http:HTTPChannel._command",
            "twisted.web.http:HTTPChannel._dataBuffer",
            "twisted.web.http:HTTPChannel._failChooseTransferDecoder",
            "twisted.web.http:HTTPChannel._handlingRequest",
            "twisted.web.http:HTTPChannel._log",
            "twisted.web.http:HTTPChannel._maybeChooseTransferDecoder",
            "twisted.web.http:HTTPChannel._networkProducer",
            "twisted.web.http:HTTPChannel._path",
            "twisted.web.http:HTTPChannel._receivedHeaderCount",
            "twisted.web.http:HTTPChannel._receivedHeaderSize",
            "twisted.web.http:HTTPChannel._respondToBadRequestAndDisconnect",
            "twisted.web.http:HTTPChannel._transferDecoder",
            "twisted.web.http:HTTPChannel._version",
            "twisted.web.http:HTTPChannel._waitingForTransport",
            "twisted.web.http:Request._disconnected",
        ),
    ),
    "listening.py": (
        "there is no other parser of endpoint descriptions, and one of ours would differ in the escapes",
        ("twisted.internet.endpoints:_parse",),
    ),
    "logs.py": (
        "nothing else lists the observers of a publisher, which are replaced",
        ("twisted.logger:LogPublisher._observers",),
    ),
    "client/server_url.py": (
        "nothing else tells how much a transport has queued",
        ("twisted.internet.tcp:Server._tempDataLen",),
    ),
}
"""What is used elsewhere, with the reason, by the beginning of a module's path."""

NOT_PRIVATE = frozenset(("_replace", "_asdict", "_fields", "_make", "_exit", "_SubParsersAction"))
"""Names of the standard library that begin with an underscore; all but the last are documented."""


def modules() -> Iterator[tuple[str, ModuleType]]:
    """All modules of the package, each with its path inside of it."""
    for found in pkgutil.walk_packages([str(PACKAGE)], "realtime_chat."):
        module = importlib.import_module(found.name)
        yield str(Path(str(module.__file__)).relative_to(PACKAGE)), module


@cache
def others() -> list[tuple[str, ModuleType, ast.Module]]:
    """The modules that use no private names, with their syntax trees."""
    found = [(path, module) for path, module in modules() if not path.startswith(TRICKS)]
    return [(path, module, ast.parse((PACKAGE / path).read_text())) for path, module in found]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in NOT_PRIVATE


def name_of(leant_on: str) -> str:
    """The last part of a ``module:attribute``."""
    return leant_on.replace(":", ".").rpartition(".")[2]


def is_foreign(class_: type) -> bool:
    return class_.__module__.split(".")[0] in ("twisted", "autobahn")


def defined(tree: ast.AST) -> Iterator[str]:
    """All names that a module defines: functions, classes, variables, attributes and slots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__slots__":
            yield from ast.literal_eval(node.value)


@cache
def private_names(class_: type) -> frozenset[str]:
    """The private attributes of a class and of its instances, without those of its bases."""
    if class_.__module__ == "builtins":
        return frozenset()
    tree = classes(class_.__module__)[class_.__name__]
    return frozenset(filter(is_private, (*vars(class_), *defined(tree))))


@cache
def classes(module: str) -> dict[str, ast.ClassDef]:
    """The syntax trees of a module's classes. ``inspect`` would read the whole module for each of them."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


class Instances:
    """One instance of each class whose attributes are set when it is made, or later."""

    def __init__(self, test: SynchronousTestCase) -> None:
        self._test = test
        self._made: dict[type, Any] = {}
        self._make: dict[type, Callable[[], Any]] = {
            tcp.Server: lambda: tcp.Server(self._socket(), Protocol(), ("", 0), None, 0, MemoryReactor()),
            unix.Server: lambda: unix.Server(self._socket(), Protocol(), "", None, 0, MemoryReactor()),
            tcp.Port: self._port,
            HTTPChannel: self._channel,
            HTTPFactory: HTTPFactory,
            Componentized: Componentized,
            LogPublisher: LogPublisher,
            Request: lambda: Request(HTTPChannel()),
            Site: lambda: Site(Resource()),
            WebSocketServerProtocol: self._websocket,
        }

    def of(self, class_: type) -> Any:
        """The instance of a class; the class itself where it isn't known here."""
        if class_ not in self._made:
            self._made[class_] = self._make.get(class_, lambda: class_)()
        return self._made[class_]

    def _socket(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._test.addCleanup(ours.close)
        self._test.addCleanup(theirs.close)
        return ours

    def _port(self) -> tcp.Port:
        port = tcp.Port(0, Factory(), interface="127.0.0.1", reactor=MemoryReactor())
        port.startListening()
        self._test.addCleanup(port.socket.close)
        return port

    def _channel(self) -> HTTPChannel:
        """A channel that has received the first line of a request."""
        channel = HTTPChannel()
        channel.makeConnection(StringTransport())
        channel.dataReceived(b"GET / HTTP/1.1\r\n")
        self._test.addCleanup(channel.setTimeout, None)
        return channel

    def _websocket(self) -> WebSocketServerProtocol:
        """An open WebSocket that has received the first bytes of a message."""
        protocol = WebSocketServerProtocol()
        protocol.factory = WebSocketServerFactory()
        protocol.factory.setProtocolOptions(openHandshakeTimeout=0)
        protocol.makeConnection(StringTransport())
        protocol.dataReceived(encode_request(Upgrade(b"dGhlIHNhbXBsZSBub25jZQ==", False, "")))
        protocol.dataReceived(b"\x81\x85mask12")
        return protocol


class LeansOnTests(SynchronousTestCase):
    """The names on which the package leans."""

    def setUp(self) -> None:
        self.instances = Instances(self)

    def exists(self, name: str) -> bool:
        """Whether a name of ``LEANS_ON`` is there, in a module, in a class or in an instance of the class."""
        module, _, path = name.partition(":")
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            if not hasattr(found, part) and isinstance(found, type):
                found = self.instances.of(found)
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True

    def test_names(self) -> None:
        """All names that the package leans on are there; those that a new version has not are listed here."""
        leans_on = {path: module.LEANS_ON for path, module in modules() if hasattr(module, "LEANS_ON")}
        leans_on |= {path: names for path, (_, names) in EXCEPTIONS.items()}
        gone = [f"{path}: {name}" for path, names in leans_on.items() for name in names if not self.exists(name)]
        self.assertEqual([], gone)
        self.assertLess(30, sum(map(len, leans_on.values())))

    def test_a_name_that_is_gone(self) -> None:
        """A name that isn't there is told apart, in a class and in an instance."""
        self.assertFalse(self.exists("twisted.internet.tcp:Server._tempDataBuffers"))
        self.assertFalse(self.exists("twisted.internet.tcp:Servers"))
        self.assertTrue(self.exists("twisted.internet.tcp:Server._tempDataBuffer"))

    def test_tuples(self) -> None:
        """Every module of tricks says on what it leans, in a tuple that can't be changed."""
        for path, module in modules():
            imported = [value for value in vars(module).values() if isinstance(value, type)]
            is_plain = path == "transports/fast/plain.py"
            if path.startswith("transports/fast/") and not is_plain and any(map(is_foreign, imported)):
                self.assertIsInstance(getattr(module, "LEANS_ON", None), tuple, path)


class PrivateNamesTests(SynchronousTestCase):
    """Private names of Twisted and Autobahn outside of the modules of tricks."""

    def used(self) -> set[tuple[str, str]]:
        """Private attributes of anything but ``self`` and ``cls`` that are not defined in the same module."""
        found = set()
        for path, _, tree in others():
            own = set(defined(tree))
            for node in ast.walk(tree):
                if not isinstance(node, ast.Attribute) or not is_private(node.attr) or node.attr in own:
                    continue
                if not isinstance(node.value, ast.Name) or node.value.id not in ("self", "cls"):
                    found.add((path, node.attr))
        return found

    def inherited(self) -> set[tuple[str, str]]:
        """Private names of a Twisted or Autobahn class that a class of ours uses or replaces."""
        found = set()
        for path, module, tree in others():
            for node in [node for node in tree.body if isinstance(node, ast.ClassDef)]:
                bases = [base for base in getattr(getattr(module, node.name), "__mro__", ()) if is_foreign(base)]
                theirs = {name for base in bases for name in private_names(base)}
                ours = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
                found |= {(path, name) for name in (ours | set(defined(node))) & theirs}
        return found

    def test_none(self) -> None:
        """None are used, but for those with a reason; and no reason is left that isn't needed any more."""
        used = {
            (next((part for part in EXCEPTIONS if path.startswith(part)), path), name)
            for path, name in self.used() | self.inherited()
        }
        expected = {(path, name_of(name)) for path, (_, names) in EXCEPTIONS.items() for name in names}
        self.assertEqual(expected, used)
