"""What an application is written with: a namespace is a class, and each socket has an instance of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from inspect import Parameter, signature
from math import inf
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from twisted.internet.defer import Deferred

from realtime_chat.core.hub import Hub
from realtime_chat.core.performing_session import Command
from realtime_chat.engineio.connection import Handshake
from realtime_chat.socketio.method_call import EventMethod
from realtime_chat.socketio.packets import RESERVED_EVENTS
from realtime_chat.socketio.rooms import ACK_TIMEOUT, Broadcast
from realtime_chat.socketio.socket import Socket
from realtime_chat.socketio.stored import Stored
from realtime_chat.values import commands
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import User

M = TypeVar("M", bound=Callable[..., Any])

_EVENT = "_socketio_event"
_PREFIX = "on_"
_NO_EVENTS = frozenset(("on_connect", "on_disconnect"))


def event(name: str) -> Callable[[M], M]:
    """Mark a method of a :class:`Namespace` as the one for an event, such as ``@event("client event")``.

    :raises TypeError: Socket.IO reserves the name.
    """
    _check_name(name)

    def mark(method: M) -> M:
        setattr(method, _EVENT, name)
        return method

    return mark


def _check_name(name: str) -> None:
    if name in RESERVED_EVENTS:
        raise TypeError(f"no client can send the event {name!r}: Socket.IO reserves that name; choose another")


class _Event:
    """The method for an event, with the number of arguments that it takes.

    :param attribute: the method's name.
    """

    def __init__(self, attribute: str, method: Any) -> None:
        self._attribute = attribute
        parameters = list(signature(method).parameters.values())[1:]
        single = [one for one in parameters if one.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)]
        self._least = sum(one.default is Parameter.empty for one in single)
        self._most = inf if any(one.kind is Parameter.VAR_POSITIONAL for one in parameters) else len(single)

    def __call__(self, namespace: Any, arguments: Sequence[Any]) -> Any:
        if not self._least <= len(arguments) <= self._most:
            raise RealtimeError("bad_request", f"this event takes {self._expected()} arguments, not {len(arguments)}")
        return getattr(namespace, self._attribute)(*arguments)

    def _expected(self) -> str:
        if self._most == self._least:
            return str(self._least)
        return f"{self._least} or more" if self._most == inf else f"{self._least} to {self._most}"


def _events_of(cls: type) -> Iterator[tuple[str, EventMethod]]:
    for attribute in dir(cls):
        method = getattr(cls, attribute)
        name = getattr(method, _EVENT, None)
        if name is None and attribute.startswith(_PREFIX) and attribute not in _NO_EVENTS and callable(method):
            name = attribute.removeprefix(_PREFIX)
            _check_name(name)
        if name is not None:
            yield name, _Event(attribute, method)


class Namespace:
    """One socket of a namespace. Subclasses have methods for events: ``on_NAME``, or any with :func:`event`.

    A method gets the event's arguments. What it returns is the acknowledgement, and a tuple is several arguments of it.
    It may be a coroutine or return a Deferred; other events don't wait for it. What it raises is logged.

    :cvar recovery: whether clients that come back within two minutes get the events that they have missed. Then events
        are stored: each that asks for no acknowledgement and isn't volatile.
    :cvar message_event: the event that brings the messages of native rooms that the socket follows.
    :cvar message_as_arguments: whether that event has two arguments: the data, and ``{room, position, from, at}``. Else
        it has the message as native clients get it.
    :ivar session: what the application keeps of this socket: a dictionary of what JSON has.
    """

    recovery: ClassVar[bool] = False
    message_event: ClassVar[str] = "message"
    message_as_arguments: ClassVar[bool] = False
    events: ClassVar[Mapping[str, EventMethod]] = MappingProxyType({})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.events = MappingProxyType(dict(_events_of(cls)))

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self.session: dict[str, Any] = {}

    # For subclasses to override

    def on_connect(self, auth: dict[str, Any]) -> Any:
        """A client connects. What is emitted here comes after the answer.

        :param auth: what the client gave; in protocol 4 it is the query of the namespace.
        :raises Refused: it may not connect.
        """

    def on_disconnect(self, reason: str) -> Any:
        """A client that was connected is gone; :attr:`rooms` are those that it was in.

        :param reason: in Socket.IO's words, such as ``transport close``.
        """

    # Who it is

    @property
    def id(self) -> str:
        """The socket's id, which is a room of its own. Others may know it."""
        return self._socket.id

    @property
    def recovered(self) -> bool:
        """Whether the client was away, and gets all that it has missed. Then :attr:`id`, :attr:`rooms` and
        :attr:`session` are as before."""
        return self._socket.reader is not None and self._socket.reader.recovered

    @property
    def name(self) -> str:
        """The name of the namespace."""
        return self._socket.index.name

    @property
    def handshake(self) -> Handshake:
        """What the request said that opened the connection."""
        return self._socket.connection.handshake

    @property
    def user(self) -> User:
        """The user: that of the token in ``auth`` or the header ``Authorization``, or else a guest.

        :raises RealtimeError: why the token isn't accepted. Raised in ``on_connect``, this refuses the client.
        """
        return self._socket.native.session.identify().user

    # Events

    def emit(self, event: str, *arguments: Any, volatile: bool = False) -> Stored:
        """Emit an event to this client.

        :param arguments: what JSON has, and bytes.
        :param volatile: drop it if the client can't take it at once.
        :returns: in a recovery namespace, what may be awaited until the event is stored.
        :raises ValueError: this can't be sent, as for ``TypeError``.
        """
        return self._socket.emit(event, *arguments, volatile=volatile)

    def call(self, event: str, *arguments: Any, timeout: float = ACK_TIMEOUT) -> Deferred[Any]:
        """Emit an event, and wait until the client has acknowledged it.

        ``on_connect`` can't wait for this: the client gets no event before that ends.

        :param timeout: seconds to wait.
        :returns: None for no argument, the argument if it is one, and else a tuple. Fails with :class:`TimedOut`.
        """
        return self._socket.call(event, *arguments, timeout=timeout)

    @property
    def broadcast(self) -> Broadcast:
        """All other sockets of the namespace."""
        return self._socket.broadcast

    def to(self, *rooms: str) -> Broadcast:
        """The other sockets in some rooms. The id of a socket is a room."""
        return self.broadcast.to(*rooms)

    def skip(self, *rooms: str) -> Broadcast:
        """The other sockets that are not in some rooms."""
        return self.broadcast.skip(*rooms)

    def of(self, name: str | None = None) -> Broadcast:
        """All sockets of a namespace; without a name of this one, this socket included.

        :raises ValueError: the application has no such namespace.
        """
        return self._socket.context.of(self.name if name is None else name)

    def disconnect(self, close: bool = False) -> None:
        """Disconnect the client from the namespace.

        :param close: whether its connection is closed, with all namespaces.
        """
        self._socket.disconnect(close)

    # Rooms of sockets

    @property
    def rooms(self) -> Collection[str]:
        """The rooms that the socket is in."""
        return frozenset(self._socket.rooms)

    def enter(self, room: str) -> Stored:
        """Enter a room. It is Socket.IO's kind: without a log.

        :returns: in a recovery namespace, what may be awaited until that is stored.
        :raises ValueError: the socket is in too many rooms.
        :raises TypeError: in a recovery namespace: the room's name is no text.
        """
        return self._socket.enter(room)

    def leave(self, room: str) -> Stored:
        """Leave a room. Nothing happens if the socket isn't in it."""
        return self._socket.leave(room)

    async def sockets(self, *rooms: str) -> list[str]:
        """The ids of the sockets in some rooms; without rooms, of all in the namespace."""
        return await (self.of().to(*rooms) if rooms else self.of()).sockets()

    # Native rooms

    @property
    def hub(self) -> Hub:
        """The daemon's rooms and sessions."""
        return self._socket.context.hub

    def follow(self, room: str, since: str | None = None, last: int | None = None) -> Deferred[dict[str, Any]]:
        """Read a native room. Its messages come as events named :attr:`message_event`, with their positions.

        :param since: the position after which to begin.
        :param last: how many of the newest messages to begin with, if there is no position.
        :returns: the ``joined`` of ``docs/protocol.rst``. Fails with a :class:`RealtimeError`.
        """
        return self.perform(commands.Join(room=room, since=since, last=last))

    def unfollow(self, room: str) -> Deferred[dict[str, Any]]:
        """Read a native room no more."""
        return self.perform(commands.Leave(room=room))

    def publish(self, room: str, data: Any, event: str = "message", key: str | None = None) -> Deferred[dict[str, Any]]:
        """Publish to a native room, as the user of this socket. All who read it get the message, on every transport.

        :param key: an idempotency key.
        :returns: the ``published`` of ``docs/protocol.rst``, once it is durable. Fails with a :class:`RealtimeError`.
        """
        return self.perform(commands.Publish(room=room, data=data, event=event, key=key))

    def perform(self, command: Command) -> Deferred[dict[str, Any]]:
        """Do any native command; see ``docs/protocol.rst``.

        :returns: its reply. Fails with a :class:`RealtimeError`.
        """
        return self._socket.perform(command)
