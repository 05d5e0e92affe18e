"""A call of an application's method for an event, and the acknowledgement that it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import isawaitable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from realtime_chat.core.wheel import Wheel
from realtime_chat.engineio.prepared import PreparedMessage
from realtime_chat.socketio.packets import PacketType, encode_packet
from realtime_chat.socketio.reader import LogReader
from realtime_chat.socketio.rooms import SocketIndex, prepare
from realtime_chat.values.errors import RealtimeError


class EventReceiver(Protocol):
    """What a socket calls: one instance of an application's namespace."""

    session: dict[str, Any]

    @property
    def events(self) -> Mapping[str, EventMethod]: ...

    def on_connect(self, auth: dict[str, Any]) -> Any: ...

    def on_disconnect(self, reason: str) -> Any: ...


class EventMethod(Protocol):
    """A method for one event."""

    def __call__(self, namespace: Any, arguments: Sequence[Any]) -> Any: ...


class CallingSocket(Protocol):
    """The socket that an event came to, as the call sees it."""

    index: SocketIndex
    is_connected: bool
    reader: LogReader | None

    @property
    def wheel(self) -> Wheel: ...

    @property
    def context(self) -> Any: ...

    def send(self, message: PreparedMessage, volatile: bool = False) -> bool: ...

    def method_ended(self) -> None: ...

    def method_failed(self, failure: Failure) -> None: ...


class MethodCall:
    """One call.

    :param id: of the event, if it asks for an acknowledgement.
    """

    __slots__ = ("_begun", "_id", "_socket")

    def __init__(self, socket: CallingSocket, id: int | None) -> None:
        self._socket = socket
        self._id = id
        self._begun = socket.wheel.seconds()

    def begin(self, method: EventMethod, namespace: EventReceiver, arguments: Sequence[Any]) -> None:
        """Call the method. When it is finished, acknowledge the event."""
        try:
            result = method(namespace, arguments)
        except BaseException:  # as Twisted does with a coroutine
            result = Failure()
        if result is not None and isawaitable(result):
            Deferred.fromCoroutine(finished(result)).addBoth(self._ended)
        else:
            self._ended(result)

    def _ended(self, result: Any) -> None:
        """The method has returned, or failed."""
        socket = self._socket
        try:
            if isinstance(result, Failure):
                self._failed(result)
            else:
                self._acknowledge(result)
        except Exception:  # what was returned can't be sent
            self._failed(Failure())
        socket.context.counters.method_seconds.observe(socket.wheel.seconds() - self._begun)
        socket.method_ended()

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, RealtimeError):  # the client's fault, mostly: it is told, if it wants to know
            self._acknowledge({"type": "error", "code": error.code, "message": error.message})
        else:
            self._socket.method_failed(failure)
        failure.cleanFailure()  # see without_frames

    def _acknowledge(self, result: Any) -> None:
        socket = self._socket
        if self._id is None or not socket.is_connected:
            return
        arguments = [] if result is None else list(result) if isinstance(result, tuple) else [result]
        message = prepare(encode_packet(PacketType.ACK, socket.index.name, arguments), self._id)
        recovery = socket.context.recovery
        if recovery is None:
            socket.send(message)
        else:
            recovery.when_stored(lambda: self._send(message))

    def _send(self, message: PreparedMessage) -> None:
        """Send an acknowledgement after the events that were emitted before it."""
        socket = self._socket
        if socket.reader is not None:
            socket.reader.log.flush()
        if socket.is_connected:
            socket.send(message)


async def finished(result: Any) -> Any:
    """What a method has returned, or what that becomes."""
    return await result if isawaitable(result) else result


def without_frames(failure: Failure) -> Failure:
    """Drop the traceback of an error that the client has made: its frames hold the failure, and the socket."""
    if isinstance(failure.value, RealtimeError):
        failure.cleanFailure()
    return failure
