"""The Socket.IO side of one Engine.IO connection: its packets, and its sockets by namespace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from twisted.logger import Logger

from realtime_chat.core.quota import Quota
from realtime_chat.core.wheel import Timeout
from realtime_chat.engineio.connection import Connection
from realtime_chat.engineio.packets import PacketError
from realtime_chat.http.clients import bearer_token
from realtime_chat.socketio.packets import Packet, PacketReader, PacketType, encode_packet
from realtime_chat.socketio.rooms import prepare
from realtime_chat.socketio.socket import CLIENT_DISCONNECT, SERVER_DISCONNECT, Context, Socket
from realtime_chat.values.errors import RateLimited

MAX_NAMESPACES = 32
"""The namespaces that one connection is in."""

MAX_PENDING = 256
"""Methods of one connection that may run. While as many do, nothing is read from it."""

MakeSocket = Callable[["ClientSockets", str], Socket | None]
"""Makes the socket for a namespace; None if there is no such namespace."""


class ClientSockets:
    """Receives what comes over one connection. What breaks the protocol closes that connection."""

    _log = Logger()

    def __init__(self, connection: Connection, context: Context, make_socket: MakeSocket) -> None:
        self.connection = connection
        self.sockets: dict[str, Socket] = {}
        self.token = bearer_token(connection.authorization)
        self._context = context
        self._make_socket = make_socket
        self._reader = PacketReader(5 if connection.version == 4 else 4, context.settings.max_payload)
        self._ended: set[str] = set()  # namespaces that the server has ended: what was on its way there is ignored
        self._pending = 0
        self._is_limited = self._is_held_up = self._is_reading_paused = False
        self._is_charged = False  # whether the address has paid for the event that is being dispatched
        self._quota = Quota(context.hub.limiter, None, connection.handshake.address)
        self._connect_timeout: Timeout | None = None
        connection.authorization = None
        self._await_connect()

    def begin(self) -> ClientSockets:
        """Connect to the main namespace, if the version of the protocol does that by itself."""
        if self.connection.version == 3:
            self._connect(Packet(PacketType.CONNECT, "/"))
        return self

    def _await_connect(self) -> None:
        wheel, seconds = self._context.hub.wheel, self._context.settings.connect_timeout
        self._connect_timeout = wheel.call_later(seconds, lambda: self.connection.close("forced close"))

    # Receiving

    def text_received(self, text: bytes) -> None:
        """A text has come: a packet, or the beginning of one."""
        self._read(self._reader.read_text, text)

    def binary_received(self, data: bytes) -> None:
        """An attachment has come."""
        self._read(self._reader.read_binary, data)

    def _read(self, read: Callable[[bytes], Packet | None], message: bytes) -> None:
        try:
            packet = read(message)
        except PacketError as error:
            self._violated(str(error))
            return
        if packet is not None:
            self._context.counters.received += 1
            _ACTIONS[packet.type](self, packet)

    def _violated(self, why: str) -> None:
        self._context.counters.violations += 1
        self._log.debug("a Socket.IO connection is closed: {why}", why=why)
        self.connection.close("parse error")

    def _connect(self, packet: Packet) -> None:
        name = packet.namespace
        if name in self.sockets:
            self._violated("a namespace is connected to once")
        elif len(self.sockets) >= MAX_NAMESPACES:
            self._refuse(name, f"a connection is in at most {MAX_NAMESPACES} namespaces")
        elif (socket := self._make_socket(self, name)) is None:
            self._refuse(name, "Invalid namespace")  # the words of Socket.IO's server
        else:
            self._ended.discard(name)
            self.sockets[name] = socket
            socket.connect(packet.data or {})

    def _refuse(self, name: str, message: str) -> None:
        self._context.counters.refused += 1
        data = message if self.connection.version == 3 else {"message": message}
        self.connection.send(prepare(encode_packet(PacketType.CONNECT_ERROR, name, data)))

    def _disconnect(self, packet: Packet) -> None:
        socket = self.sockets.get(packet.namespace)
        if socket is not None:
            socket.close(CLIENT_DISCONNECT)

    def _event(self, packet: Packet) -> None:
        if (socket := self._open_socket(packet)) is not None:
            self._is_charged = self._take_command()
            socket.event_received(packet)
            self._is_charged = False
            if socket.reader is not None:
                self._wait_for_store()

    def _wait_for_store(self) -> None:
        """While much is to be stored, read one event for one that was stored."""
        publisher = self._context.hub.publisher
        if publisher.has_much_to_store and not self._is_held_up:
            self._is_held_up = True
            publisher.hold_up(self._no_longer_held_up)
            self._update_reading()

    def _no_longer_held_up(self) -> None:
        self._is_held_up = False
        self._update_reading()

    def _take_command(self) -> bool:
        """Take what an event costs. Where there is not enough, the client waits, but nothing is lost.

        :returns: whether there was enough.
        """
        try:
            self._quota.take_command()
            return True
        except RateLimited as error:
            if not self._is_limited:
                self._is_limited = True
                self._context.hub.wheel.call_later(error.after or 0.0, self._no_longer_limited)
                self._update_reading()
            return False

    def _no_longer_limited(self) -> None:
        self._is_limited = False
        self._update_reading()

    def _update_reading(self) -> None:
        """Read nothing while too much is to be done."""
        is_paused = self._is_limited or self._is_held_up or self._pending >= MAX_PENDING
        if is_paused is self._is_reading_paused or self.connection.is_closed:
            return
        self._is_reading_paused = is_paused
        if is_paused:
            self.connection.pause_reading()
        else:
            self.connection.resume_reading()

    def _ack(self, packet: Packet) -> None:
        if (socket := self._open_socket(packet)) is not None:
            socket.ack_received(packet)

    def _open_socket(self, packet: Packet) -> Socket | None:
        socket = self.sockets.get(packet.namespace)
        if socket is not None and socket.is_connected:
            return socket
        if packet.namespace not in self._ended:
            self._violated("before the first event a namespace has to be connected to")
        return None

    def _unexpected(self, packet: Packet) -> None:
        self._violated("a client sends no CONNECT_ERROR")

    # What sockets tell

    def method_started(self) -> None:
        """One more method runs for this connection."""
        self._pending += 1
        self._update_reading()

    def method_ended(self) -> None:
        """A method has come to its end."""
        self._pending -= 1
        self._update_reading()

    def waiting_changed(self) -> None:
        """More waits for a namespace that isn't connected to yet. Too much closes the connection, as elsewhere."""
        if sum(socket.waiting_bytes for socket in self.sockets.values()) > self._context.settings.max_queued:
            self.connection.close("slow")

    def command_charged(self) -> None:
        """A native command is about to draw from the address. Then the event that does it costs nothing more."""
        if self._is_charged:
            self._is_charged = False
            self._quota.give_back_command()

    def socket_opened(self, socket: Socket) -> None:
        """A namespace was connected to."""
        if self._connect_timeout is not None:
            self._connect_timeout.cancel()
            self._connect_timeout = None

    def socket_closed(self, socket: Socket, reason: str) -> None:
        """A socket has come to its end. A connection without any has to connect again, or is closed."""
        self.sockets.pop(socket.index.name, None)
        if reason == SERVER_DISCONNECT and len(self._ended) < MAX_NAMESPACES:
            self._ended.add(socket.index.name)
        if not self.sockets and self._connect_timeout is None and not self.connection.is_closed:
            self._await_connect()

    def disconnect(self, reason: str) -> None:
        """Disconnect all sockets, and close the connection."""
        for socket in list(self.sockets.values()):
            socket.disconnect()
        self.connection.close(reason)

    # What the connection tells

    def pause_writing(self) -> None:
        """Nothing more can be sent for now."""
        for socket in list(self.sockets.values()):
            socket.pause_writing()

    def resume_writing(self) -> None:
        """More can be sent again."""
        for socket in list(self.sockets.values()):
            socket.resume_writing()

    def closed(self, reason: str) -> None:
        """The connection is over, and so are its sockets."""
        if self._connect_timeout is not None:
            self._connect_timeout.cancel()
        self._quota.close()
        for socket in list(self.sockets.values()):
            socket.close(reason)


_ACTIONS: Mapping[PacketType, Callable[[ClientSockets, Packet], None]] = MappingProxyType(
    {
        PacketType.CONNECT: ClientSockets._connect,
        PacketType.DISCONNECT: ClientSockets._disconnect,
        PacketType.EVENT: ClientSockets._event,
        PacketType.ACK: ClientSockets._ack,
        PacketType.CONNECT_ERROR: ClientSockets._unexpected,
    }
)
