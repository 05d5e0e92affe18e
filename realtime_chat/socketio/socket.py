"""One socket: one namespace on one connection.

======== ======================== ==========================================================================
State    Ends by                  Meaning
======== ======================== ==========================================================================
opening  CONNECT or CONNECT_ERROR Middleware and ``on_connect`` run. What is emitted to it waits.
open     DISCONNECT, or the end   Events are dispatched. It is in its rooms.
closed   –                        It is in no room; ``on_disconnect`` is called once if it was open.
======== ======================== ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.core.hub import Hub
from realtime_chat.core.performing_session import Command
from realtime_chat.core.turns import FlushQueue
from realtime_chat.core.wheel import Wheel
from realtime_chat.engineio.connection import Connection
from realtime_chat.engineio.prepared import PreparedMessage
from realtime_chat.engineio.settings import Settings
from realtime_chat.socketio.acks import Acks, TimedOut
from realtime_chat.socketio.counters import SocketCounters
from realtime_chat.socketio.membership import check_rooms
from realtime_chat.socketio.method_call import EventReceiver, MethodCall, finished, without_frames
from realtime_chat.socketio.native import NativeFanout, NativeRooms
from realtime_chat.socketio.packets import Packet, PacketType, encode_packet
from realtime_chat.socketio.reader import LogReader
from realtime_chat.socketio.recovery import Recovery
from realtime_chat.socketio.rooms import ACK_TIMEOUT, Broadcast, SocketIndex, prepare
from realtime_chat.socketio.stored import NOTHING_TO_STORE, Stored
from realtime_chat.values.errors import RealtimeError, internal_error

SERVER_DISCONNECT = "server namespace disconnect"
CLIENT_DISCONNECT = "client namespace disconnect"
_FINAL = (SERVER_DISCONNECT, CLIENT_DISCONNECT)
"""The reasons after which a client is not recovered. One that is refused may be later."""


class Refused(Exception):
    """Raised by ``on_connect`` or middleware: the client may not connect.

    :param message: for the client, which gets it as the message of ``connect_error``.
    :param data: what else the client gets: anything that JSON has.
    """

    def __init__(self, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


Middleware = Callable[[Any, dict[str, Any]], Any]
"""Is called with a namespace and the client's ``auth`` before ``on_connect``; raises :class:`Refused` to refuse it."""


@attrs.frozen
class Context:
    """What all sockets of an application share.

    :ivar of: see :meth:`~realtime_chat.socketio.application.Application.of`.
    :ivar recovery: what recovery namespaces share; None if there are none.
    """

    hub: Hub
    settings: Settings
    random_bytes: Callable[[int], bytes]
    of: Callable[[str], Broadcast]
    middleware: Sequence[Middleware]
    counters: SocketCounters
    recovery: Recovery | None = None


class SocketOwner(Protocol):
    """The connection of a socket, as the socket sees it."""

    @property
    def connection(self) -> Connection: ...

    @property
    def token(self) -> str | None:
        """The token that came in the header ``Authorization``."""

    def method_started(self) -> None: ...

    def method_ended(self) -> None: ...

    def command_charged(self) -> None: ...

    def waiting_changed(self) -> None: ...

    def socket_opened(self, socket: Socket) -> None: ...

    def socket_closed(self, socket: Socket, reason: str) -> None: ...

    def disconnect(self, reason: str) -> None:
        """Close the connection with all of its sockets."""


class Socket:
    """One namespace on one connection.

    :param index: of the namespace.
    :param make: makes the application's object for this socket.
    :ivar rooms: the names of those that it is in. After its end, those that it was in.
    :ivar acks: the acknowledgements that it has not sent yet.
    :ivar waiting_bytes: the size of what was emitted to it before its CONNECT was answered.
    :ivar is_connected: whether its CONNECT was answered, and it isn't closed.
    :ivar reader: its cursor in the log of a recovery namespace; None in others.
    """

    _log = Logger()

    def __init__(
        self,
        context: Context,
        owner: SocketOwner,
        index: SocketIndex,
        fanout: NativeFanout,
        id: str,
        make: Callable[[Socket], EventReceiver],
    ) -> None:
        self.context = context
        self.connection = owner.connection
        self.index = index
        self.id = id
        self.rooms: set[str] = set()
        self.acks: dict[int, Acks] = {}
        self.is_connected = False
        self._owner = owner
        self._fanout = fanout
        self.waiting_bytes = 0
        self._waiting: list[PreparedMessage] = []
        self._reason: str | None = None
        self._native: NativeRooms | None = None
        self._auth: dict[str, Any] = {}
        self.reader = None if index.log is None else LogReader(index.log, self)
        self._application = make(self)

    @property
    def wheel(self) -> Wheel:
        """Where its timeouts are."""
        return self.context.hub.wheel

    @property
    def flush_queue(self) -> FlushQueue:
        """What sends at the end of the turn."""
        return self.context.hub.flush_queue

    @property
    def broadcast(self) -> Broadcast:
        """All other sockets of the namespace."""
        return Broadcast(self.index, skip=frozenset((self.id,)))

    @property
    def session(self) -> dict[str, Any]:
        """What the application keeps of it."""
        return self._application.session

    @session.setter
    def session(self, session: dict[str, Any]) -> None:
        self._application.session = session

    # Connecting

    def connect(self, auth: dict[str, Any]) -> None:
        """Ask middleware and the application, and answer the CONNECT."""
        self._auth = auth
        Deferred.fromCoroutine(self._ask(auth)).addCallbacks(self._opened, self._refused)

    async def _ask(self, auth: dict[str, Any]) -> None:
        application = self._application
        if self.reader is not None:
            await self.reader.begin(auth)
            if self._reason is not None:
                raise Refused("the connection was lost")
        for middleware in self.context.middleware:
            await finished(middleware(application, auth))
        await finished(application.on_connect(auth))

    def _opened(self, _: None) -> None:
        if self._reason is not None:
            self._tell_disconnected(self._reason)
            return
        packet = encode_packet(PacketType.CONNECT, self.index.name, self._connected_data())
        waiting = self._take_waiting()
        self.is_connected = True
        self.index.add(self)
        self._owner.socket_opened(self)
        for message in (prepare(packet), *waiting):
            self.connection.send(message)
        if self.reader is not None:
            self.reader.open()
        self.resume_writing()

    def _take_waiting(self) -> Sequence[PreparedMessage]:
        waiting, self._waiting = self._waiting, []
        self.waiting_bytes = 0
        return waiting

    def _connected_data(self) -> dict[str, str] | None:
        if self.connection.version == 3:
            return None
        pid = None if self.reader is None else self.reader.pid
        return {"sid": self.id} if pid is None else {"sid": self.id, "pid": pid.text}

    def _refused(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, RealtimeError):
            error = Refused(error.message, {"code": error.code})
        elif not isinstance(error, Refused):
            self._log_failure(failure)
            error = Refused(internal_error().message)
        if self._reason is None:
            self.context.counters.refused += 1
            self.connection.send(prepare(encode_packet(PacketType.CONNECT_ERROR, self.index.name, self._why(error))))
            self._end(SERVER_DISCONNECT)
        self._release_application()
        failure.cleanFailure()  # see without_frames

    def _why(self, error: Refused) -> Any:
        if self.connection.version == 3:
            return error.message if not isinstance(error.data, (dict, str)) else error.data
        return {"message": error.message} if error.data is None else {"message": error.message, "data": error.data}

    # Sending

    def send(self, message: PreparedMessage, volatile: bool = False) -> bool:
        """Send something, once the CONNECT was answered.

        :returns: False if it was dropped.
        """
        if self.is_connected:
            self.index.fanout.send_pending()
            return self.connection.send(message, volatile)
        if self._reason is None:
            self._waiting.append(message)
            self.waiting_bytes += message.size
            self._owner.waiting_changed()
        return self._reason is None

    def emit(self, event: str, *arguments: Any, volatile: bool = False) -> Stored:
        """Emit an event to the client; see :meth:`Broadcast.emit`."""
        if self.reader is not None:
            return Broadcast(self.index, to=frozenset((self.id,))).emit(event, *arguments, volatile=volatile)
        self.send(prepare(encode_packet(PacketType.EVENT, self.index.name, [event, *arguments])), volatile)
        return NOTHING_TO_STORE

    def call(self, event: str, *arguments: Any, timeout: float = ACK_TIMEOUT) -> Deferred[Any]:
        """Emit an event, and wait until the client has acknowledged it; see :meth:`Broadcast.call`."""
        packet = encode_packet(PacketType.EVENT, self.index.name, [event, *arguments])
        acks = self.index.expect_acks((self,), timeout)
        if not self.send(prepare(packet, acks.id)):
            self._acks_disconnected()
        return acks.all.addCallback(lambda answers: answers[0])

    # Rooms

    def enter(self, room: str) -> Stored:
        """Enter a room. A socket is in at most ``--max-rooms``.

        :returns: in a recovery namespace, what may be awaited until that is stored.
        :raises ValueError: it is in too many.
        :raises TypeError: in a recovery namespace: the room's name is no text.
        """
        if self.reader is not None:
            check_rooms((room,))
        most = self.context.hub.limits.max_rooms
        if room not in self.rooms and len(self.rooms) >= most:
            raise ValueError(f"a socket is in at most {most} rooms (--max-rooms); leave one first")
        if self._reason is None:
            self.rooms.add(room)
        if self.is_connected:
            self.index.enter(self, room)
        return NOTHING_TO_STORE if self.reader is None else self.reader.enter(room)

    def leave(self, room: str) -> Stored:
        """Leave a room. Nothing happens if the socket isn't in it."""
        self.rooms.discard(room)
        self.index.leave(self, room)
        return NOTHING_TO_STORE if self.reader is None else self.reader.leave(room)

    @property
    def native(self) -> NativeRooms:
        """The socket's session on the hub, which begins here.

        :raises RealtimeError: why the client's token isn't accepted.
        """
        if self._native is None:
            if self._reason is not None:
                raise RealtimeError("not_joined", "this socket is disconnected")
            hub = self.context.hub
            token = self._auth.get("token", self._owner.token) if hub.identities.has_keys else None
            if token is not None and not isinstance(token, str):
                raise RealtimeError("unauthorized", "auth.token is a string")
            self._native = NativeRooms(hub, self, self._fanout, token)
        return self._native

    def perform(self, command: Command) -> Deferred[dict[str, Any]]:
        """Do a native command; see :meth:`NativeRooms.perform`."""
        return Deferred.fromCoroutine(self._perform(command)).addErrback(without_frames)

    async def _perform(self, command: Command) -> dict[str, Any]:
        return await self.native.perform(command, self._owner.command_charged)

    def resume_writing(self) -> None:
        """The client takes more again."""
        if self.reader is not None:
            self.reader.resume_writing()
        if self._native is not None:
            self._native.resume_writing()

    def pause_writing(self) -> None:
        """The client takes no more for now."""
        if self.reader is not None:
            self.reader.pause_writing()
        if self._native is not None:
            self._native.session.pause_writing()

    # Receiving

    def event_received(self, packet: Packet) -> None:
        """Call the application's method for an event. An event without one is ignored."""
        method = self._application.events.get(packet.data[0])
        if method is not None:
            self._owner.method_started()
            MethodCall(self, packet.id).begin(method, self._application, packet.data[1:])

    def method_ended(self) -> None:
        """A method has come to its end, and is acknowledged as far as that is asked for."""
        self._owner.method_ended()
        if self.reader is not None:
            self.reader.session_changed()

    def method_failed(self, failure: Failure) -> None:
        """A method has raised what is not the client's fault."""
        if self._reason is None or not isinstance(failure.value, TimedOut):  # a client may go before it has answered
            self._log_failure(failure)

    def _log_failure(self, failure: Failure) -> None:
        self.context.counters.method_errors += 1
        self._log.failure("a method of a Socket.IO namespace failed", failure)

    def ack_received(self, packet: Packet) -> None:
        """Give an acknowledgement to who waits for it. One that nobody waits for is ignored."""
        acks = self.acks.pop(packet.id, None) if packet.id is not None else None
        if acks is not None:
            acks.received(self, packet.data)

    # The end

    def disconnect(self, close: bool = False) -> None:
        """Disconnect the client from the namespace.

        :param close: whether the connection is closed, with its other namespaces.
        """
        if self.reader is None:
            self._disconnect(close)
        else:  # after the events that are on their way
            self.reader.log.when_stored(lambda _: self._disconnect(close))

    def _disconnect(self, close: bool) -> None:
        if self.reader is not None:
            self.reader.log.flush()
        if close:
            self._owner.disconnect(SERVER_DISCONNECT)
        elif self._reason is None:
            if self.is_connected:
                self.send(prepare(encode_packet(PacketType.DISCONNECT, self.index.name)))
            self.close(SERVER_DISCONNECT)

    def goodbye(self, reconnect: bool) -> None:
        """End. A client that should come back loses its connection, as it stays away after a DISCONNECT."""
        if reconnect:
            self.index.fanout.send_pending()
            self.connection.close("forced close")
        else:
            self.disconnect()

    def close(self, reason: str) -> None:
        """End: the socket is in no room any more, and nothing more comes from it.

        :param reason: for ``on_disconnect``.
        """
        if self._reason is None:
            was_connected = self.is_connected
            self._end(reason)
            if was_connected:
                self._tell_disconnected(reason)

    def _end(self, reason: str) -> None:
        self._reason = reason
        was_connected, self.is_connected = self.is_connected, False
        self._take_waiting()
        self.index.remove(self)
        self._acks_disconnected()
        if self.reader is not None:
            self.reader.close(reason in _FINAL and (was_connected or not self.reader.recovered))
        if self._native is not None:
            self._native.session.close()
        self._owner.socket_closed(self, reason)

    def _acks_disconnected(self) -> None:
        acks, self.acks = self.acks, {}
        for one in acks.values():
            one.disconnected(self)

    def _tell_disconnected(self, reason: str) -> None:
        called = Deferred.fromCoroutine(_call_on_disconnect(self._application, reason))
        self._release_application()
        called.addErrback(self._log_failure)

    def _release_application(self) -> None:
        """Let go of the application's object. It has this socket: together they would form a cycle."""
        if self.reader is None:
            del self._application
        else:
            Deferred.fromCoroutine(self._release_when_stored(self.reader))

    async def _release_when_stored(self, reader: LogReader) -> None:
        await reader.ended  # its record has the session
        del self._application


async def _call_on_disconnect(application: EventReceiver, reason: str) -> None:
    await finished(application.on_disconnect(reason))
