"""Native rooms, as a Socket.IO socket uses them: rooms with a log, which clients of every transport share.

A socket that follows a room has a cursor there, as a native WebSocket has. While its client reads too slowly, nothing
is queued for it: it is left behind, and goes on from the log.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, MutableMapping, Sequence
from typing import Any, ClassVar, Protocol

from msgspec import UNSET
from twisted.internet.defer import Deferred

from realtime_chat.core.hub import Hub
from realtime_chat.core.interfaces import R
from realtime_chat.core.performing_session import Command, PerformingSession
from realtime_chat.engineio.connection import Connection
from realtime_chat.engineio.fanout import send_to_all
from realtime_chat.engineio.prepared import PreparedMessage
from realtime_chat.socketio.packets import EncodedPacket, PacketType, encode_packet
from realtime_chat.values import codec, commands
from realtime_chat.values.codec import Entry
from realtime_chat.values.errors import Goodbye, RealtimeError
from realtime_chat.values.json import decode_json, encode_checked, encode_value
from realtime_chat.values.model import Position, is_properties_log

_INFO = ("room", "position", "from", "at")


def _whole_message(entry: Entry) -> bytes:
    return entry.json


def _data_and_info(entry: Entry) -> bytes:
    message = decode_json(entry.json)
    info = {name: message[name] for name in _INFO if name in message}
    return encode_value(message["data"]) + b"," + encode_value(info)


class NativeBatch:
    """Messages of a room as events, encoded once.

    :ivar prepared: all of them.
    """

    def __init__(self, events: Sequence[bytes]) -> None:
        self.count = len(events)
        self.prepared = PreparedMessage(events)


class NativeFanout:
    """Sends messages of native rooms to the sockets of one namespace.

    :param namespace: its name.
    :param event: the name of the event that brings a message.
    :param as_arguments: whether it has two arguments, the data and ``{room, position, from, at}``, or the message.
    """

    name = "socketio"

    def __init__(self, namespace: str, event: str, as_arguments: bool = False) -> None:
        self._head = encode_packet(PacketType.EVENT, namespace, [""]).head
        self._event = encode_value(event)
        self._encode_arguments = _data_and_info if as_arguments else _whole_message

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> NativeBatch:
        """Encode consecutive messages of a room, or changes of its properties."""
        if is_properties_log(room):
            return NativeBatch([self._text(encode_value(entry.kind), entry.json) for entry in entries])
        return NativeBatch([self._text(self._event, self._encode_arguments(entry)) for entry in entries])

    def encode_event(self, kind: str, data: bytes) -> NativeBatch:
        """Encode an event that stands in no log."""
        return NativeBatch([self._text(encode_value(kind), data)])

    def _text(self, event: bytes, arguments: bytes) -> bytes:
        return EncodedPacket(self._head, b"[%b,%b]" % (event, arguments)).text()

    def send(
        self, batch: NativeBatch, readers: MutableMapping[R, Any], first: Collection[R] = ()
    ) -> list[tuple[R, int]]:
        """Send to all. A client that has become slow with it gets it all the same, and nothing after it."""
        ordered = list(dict.fromkeys((*first, *readers)))
        send_to_all(batch.prepared, [reader.transport.direct_send for reader in ordered])
        return [(reader, batch.count) for reader in ordered if reader.transport.write_paused]


class NativeSocket(Protocol):
    """A socket, as its session on the hub sees it."""

    @property
    def connection(self) -> Connection: ...

    @property
    def is_connected(self) -> bool:
        """Whether its CONNECT was answered. Before, nothing can be delivered."""

    def send(self, message: PreparedMessage, volatile: bool = False) -> bool: ...

    def goodbye(self, reconnect: bool) -> None:
        """End, and let the client reconnect or not."""


class NativeSink:
    """Where the session of a socket sends messages and events: the socket."""

    on_caught_up: ClassVar[None] = None

    def __init__(self, socket: NativeSocket, fanout: NativeFanout) -> None:
        self.fanout = fanout
        self._socket = socket

    @property
    def direct_send(self) -> Connection:
        """What the fan-out sends to."""
        return self._socket.connection

    @property
    def write_paused(self) -> bool:
        """Whether the socket takes nothing now."""
        return self._socket.connection.write_paused or not self._socket.is_connected

    @property
    def queued(self) -> int:
        """Bytes that wait for the client."""
        return self._socket.connection.queued

    def send_batch(self, batch: NativeBatch) -> int:
        """Send messages: all of them, if any can be sent."""
        return batch.count if not self.write_paused and self._socket.send(batch.prepared) else 0

    def send_event(self, kind: str, data: bytes) -> None:
        """Send an event that stands in no log."""
        self._socket.send(self.fanout.encode_event(kind, data).prepared)

    def reset(self, room: str, position: Position) -> None:
        """Send ``reset``: messages are missing, and delivery goes on after ``position``."""
        self.send_event("reset", codec.encode_reset(room, position))

    def goodbye(self, goodbye: Goodbye) -> None:
        """Send ``goodbye``, and end the socket."""
        self.send_event("goodbye", codec.encode_goodbye(goodbye))
        self._socket.goodbye(goodbye.reconnect)


class NativeRooms:
    """A socket's session on the hub: who its user is, and what it follows and publishes.

    :param token: of the site; None for a guest.
    :raises RealtimeError: why the token isn't accepted.
    """

    def __init__(self, hub: Hub, socket: NativeSocket, fanout: NativeFanout, token: str | None) -> None:
        address = socket.connection.handshake.address
        self._hub = hub
        self.session = PerformingSession(hub, NativeSink(socket, fanout), address=address)
        if token is not None:
            try:
                self.session.act(commands.Hello(token=token))
            except Exception:
                self.session.close()
                raise

    async def perform(self, command: Command, charging: Callable[[], None]) -> dict[str, Any]:
        """Do a native command.

        :param charging: called before it draws from the address.
        :returns: the reply, decoded.
        :raises RealtimeError: of the command.
        """
        try:
            reply = await self._act(command, charging)
        except RealtimeError as error:
            self.session.refuse(error)  # after too many it ends
            raise
        self._hub.clock.callLater(0, self.resume_writing)  # the reply goes before the messages
        decoded: dict[str, Any] = decode_json(reply) if reply else {"type": "ok"}
        return decoded

    async def _act(self, command: Command, charging: Callable[[], None]) -> bytes:
        if isinstance(command, (*commands.STORING, commands.SendSignal)) and command.data is not UNSET:
            _check_data(command.data)
        charging()
        if isinstance(command, commands.STORING) and (place := self._hub.publisher.place()) is not None:
            await place
        answer = self.session.act(command)
        return await answer if isinstance(answer, Deferred) else answer

    def resume_writing(self) -> None:
        """Send what the cursors lack, as far as the client takes it."""
        if not self.session.closed:
            self.session.resume_writing()


def _check_data(data: Any) -> None:
    """Check that a log can keep data, whose JSON may nest less deep there than in Socket.IO's packets.

    :raises RealtimeError: ``bad_request``.
    """
    if encode_packet(PacketType.EVENT, data=["message", data]).attachments:
        raise RealtimeError("bad_request", "a native room keeps JSON, and no binary data; send that as text, in base64")
    encode_checked(data)
