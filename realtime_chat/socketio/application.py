"""An application: its namespaces by name, and how connections come to them."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from twisted.logger import Logger

from realtime_chat.core.hub import Hub
from realtime_chat.engineio.connection import Connection
from realtime_chat.engineio.settings import Settings
from realtime_chat.socketio.client import ClientSockets
from realtime_chat.socketio.counters import SocketCounters
from realtime_chat.socketio.log import NamespaceLog
from realtime_chat.socketio.namespace import Namespace
from realtime_chat.socketio.native import NativeFanout
from realtime_chat.socketio.packets import MAX_DEPTH, check_namespace
from realtime_chat.socketio.recovery import RECOVERABLE, Recovery
from realtime_chat.socketio.rooms import Broadcast, SocketIndex, TurnFanout
from realtime_chat.socketio.socket import Context, Middleware, Socket
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.json import decode_body

_ID_BYTES = 15
_RIGHT = 'right would be {"/": Shop, "/chat": Chat, "/tenant-*": Tenant}'


class Application:
    """Namespaces by their names.

    :param namespaces: classes by the name of their namespace. A name that ends with ``*`` is a pattern: it stands for
        all names that begin so, each of which is a namespace of its own. A name without one comes first.
    :param relay: patterns of channels in Redis, and the namespace in which each payload that is published there is
        emitted, as an event with the channel's name. A payload is JSON, or else text, or else binary.
    :param middleware: called in order for each client that connects to a namespace, with its object and its ``auth``.
    :raises ValueError: a namespace has a wrong name.
    :raises TypeError: what stands for a namespace is no class of one.
    :ivar counters: what has happened here.
    """

    _log = Logger()

    def __init__(
        self,
        namespaces: Mapping[str, type[Namespace]],
        relay: Mapping[str, str] | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self.counters = SocketCounters()
        self._turn_fanout = TurnFanout()
        self.relay = dict(relay or {})
        self._middleware = tuple(middleware)
        self._classes = {name: _check(name, cls) for name, cls in namespaces.items()}
        self._patterns = [name for name in self._classes if name.endswith("*")]
        # An index lives as long as its sockets, and whoever keeps a broadcast: clients can make up names.
        self._indexes: WeakValueDictionary[str, SocketIndex] = WeakValueDictionary()
        self._logs: WeakValueDictionary[str, NamespaceLog] = WeakValueDictionary()
        self._recovery: Recovery | None = None
        self._fanouts: WeakValueDictionary[str, NativeFanout] = WeakValueDictionary()
        for pattern, name in self.relay.items():
            if self.find(name) is None:
                raise ValueError(f"relay: {pattern!r} is relayed to {name!r}, which is none of the namespaces")

    def find(self, name: str) -> type[Namespace] | None:
        """The class for a namespace; None if there is none of that name."""
        return self._classes.get(self._declared(name) or "")

    def _declared(self, name: str) -> str | None:
        """The name or the pattern under which a namespace was declared."""
        if name in self._classes and not name.endswith("*"):
            return name
        return next((pattern for pattern in self._patterns if name.startswith(pattern[:-1])), None)

    def of(self, name: str) -> Broadcast:
        """All sockets of a namespace.

        :raises ValueError: the application has no such namespace.
        """
        if self.find(name) is None:
            raise ValueError(f"{name!r} is none of the namespaces: {', '.join(sorted(self._classes))}")
        return Broadcast(self._index(name))

    def _index(self, name: str) -> SocketIndex:
        index = self._indexes.get(name)
        if index is None:
            index = self._indexes[name] = SocketIndex(name, self.counters, self._turn_fanout, self._log_of(name))
        return index

    def _log_of(self, name: str) -> NamespaceLog | None:
        """The log of a recovery namespace, which outlives the index while something of it is being stored."""
        cls = self.find(name)
        if cls is None or not cls.recovery:
            return None
        log = self._logs.get(name)
        if log is None:
            log = self._logs[name] = NamespaceLog(name, self._get_recovery)
        return log

    def _get_recovery(self) -> Recovery:
        if self._recovery is None:
            raise RuntimeError("events of a recovery namespace are stored: emit them once the application is served")
        return self._recovery

    def _fanout(self, name: str, cls: type[Namespace]) -> NativeFanout:
        fanout = self._fanouts.get(name)
        if fanout is None:
            fanout = self._fanouts[name] = NativeFanout(name, cls.message_event, cls.message_as_arguments)
        return fanout

    def event_relays(self) -> Mapping[str, Callable[[bytes, bytes], None]]:
        """What is called with each channel and payload of Redis, by the pattern of the channels."""
        return {pattern: partial(self._relayed, name) for pattern, name in self.relay.items()}

    def _relayed(self, namespace: str, channel: bytes, payload: bytes) -> None:
        """Emit what another program has published. That is JSON, or else text, or else binary."""
        try:
            self.of(namespace).emit(channel.decode(), _decoded(payload))
        except (ValueError, RuntimeError) as error:
            self.counters.relays_refused += 1
            self._log.warn(
                "what was published for the namespace {name} is not relayed: {why}", name=namespace, why=error
            )
        else:
            self.counters.relayed += 1

    def acceptor(
        self, hub: Hub, settings: Settings, random_bytes: Callable[[int], bytes]
    ) -> Callable[[Connection], ClientSockets]:
        """Make the function that accepts Engine.IO connections.

        :param random_bytes: so many random bytes.
        """
        if any(cls.recovery for cls in self._classes.values()):
            self._recovery = Recovery(hub, random_bytes, self.counters.recoveries)
        context = Context(hub, settings, random_bytes, self.of, self._middleware, self.counters, self._recovery)
        return lambda connection: ClientSockets(connection, context, partial(self._make_socket, context)).begin()

    def _make_socket(self, context: Context, client: ClientSockets, name: str) -> Socket | None:
        cls = self.find(name)
        if cls is None:
            return None
        id = _id(client.connection, name, context.random_bytes, cls.recovery)
        return Socket(context, client, self._index(name), self._fanout(name, cls), id, cls)

    def sockets_by_namespace(self) -> Mapping[str, int]:
        """How many sockets are connected, by the names and patterns that were declared."""
        counts = dict.fromkeys(self._classes, 0)
        for name, index in list(self._indexes.items()):
            counts[self._declared(name) or name] += len(index.sockets)
        return counts


def _decoded(payload: bytes) -> Any:
    try:
        return decode_body(payload, MAX_DEPTH)
    except RealtimeError:
        pass
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return payload


def _check(name: str, cls: type[Namespace]) -> type[Namespace]:
    try:
        check_namespace(name.removesuffix("*"))
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}; {_RIGHT}") from error
    if not (isinstance(cls, type) and issubclass(cls, Namespace)):
        raise TypeError(f"{name!r}: what stands for a namespace is a class below Namespace; {_RIGHT}")
    return cls


def _id(connection: Connection, name: str, random_bytes: Callable[[int], bytes], recovery: bool) -> str:
    """The id of a new socket. Version 4 of the protocol makes it of the connection's, which clients compute, too."""
    if connection.version == 3:
        return connection.sid if name == "/" else f"{name}#{connection.sid}"
    return (RECOVERABLE if recovery else "") + urlsafe_b64encode(random_bytes(_ID_BYTES)).decode()
