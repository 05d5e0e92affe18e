"""One Engine.IO connection: who may send, what waits, and how it ends, whatever transport it uses at the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import attrs
from twisted.logger import Logger

from realtime_chat.core.wheel import Wheel
from realtime_chat.engineio.heartbeat import ClientPings, Pings, ServerPings
from realtime_chat.engineio.packets import EnginePacket, EnginePacketType
from realtime_chat.engineio.prepared import FrameEncoding, PreparedMessage
from realtime_chat.engineio.settings import Settings
from realtime_chat.transports.backpressure import Send
from realtime_chat.transports.fast.direct_send import try_send
from realtime_chat.values.json import encode_value

_PING = PreparedMessage.of_packet(EnginePacketType.PING)

TRANSPORT_CLOSE = "transport close"
"""The client has closed the connection or its WebSocket, or a WebSocket is used no more."""

ORDERLY = frozenset(("forced close", "server namespace disconnect"))
"""Reasons of a close after which the client still gets what was sent before."""


@attrs.frozen
class Handshake:
    """What the request that opened a connection said.

    :ivar query: the parameters of its address; of one that is given twice, the last value.
    :ivar headers: a few of its headers, by lower-case name. No cookie and no credentials are among them.
    :ivar address: what the client's address is limited by; None if it is not.
    :ivar secure: whether the connection to us uses TLS.
    :ivar time: seconds since 1970.
    """

    query: Mapping[str, str]
    headers: Mapping[str, str]
    address: str | None
    secure: bool
    time: float


class Receiver(Protocol):
    """What a connection tells this. It calls nothing more after ``closed``."""

    def text_received(self, text: bytes) -> None:
        """A text message has come. It is valid UTF-8."""

    def binary_received(self, data: bytes) -> None:
        """A binary message has come."""

    def pause_writing(self) -> None:
        """What is sent from now on waits: the socket is full, or no poll waits for an answer."""

    def resume_writing(self) -> None:
        """Nothing waits any more."""

    def closed(self, reason: str) -> None:
        """The connection is over.

        :param reason: in Socket.IO's words, such as ``transport close`` or ``ping timeout``; or ``slow``.
        """


class Transport(Protocol):
    """One way to reach the client: polling, or a WebSocket."""

    @property
    def name(self) -> str:
        """``polling`` or ``websocket``."""

    @property
    def writable(self) -> bool:
        """Whether it takes a message now."""

    @property
    def congested(self) -> bool:
        """Whether the client reads too slowly. A client between two polls doesn't."""

    @property
    def queued(self) -> int:
        """Bytes that it was given, and that wait in this process."""

    @property
    def direct(self) -> tuple[FrameEncoding, Send] | None:
        """What a fan-out may send by while the transport is writable, and the frames to send; None where it may not."""

    def send(self, messages: Sequence[PreparedMessage]) -> int:
        """Send as many messages as the transport takes, in order. Return how many that were."""

    def send_rest(self, message: PreparedMessage, sent: int) -> bool:
        """Go on with a message of which a fan-out has sent a part by :attr:`direct`. Return whether it is taken.

        :param sent: as :func:`~realtime_chat.transports.fast.direct_send.send_to_sockets` gives it.
        """

    def pause_reading(self) -> None:
        """Give the connection no more packets."""

    def resume_reading(self) -> None:
        """Give packets again."""

    def end(self, reason: str, rest: Sequence[PreparedMessage] = ()) -> bool:
        """Be used no more, as the connection is closed or goes on with another transport.

        :param rest: what the client should still get, if it can.
        :returns: whether the client may have to come for the rest, and the connection be known until then.
        """


class Upgrading(Protocol):
    """A WebSocket to which a connection may move."""

    def connection_closed(self, reason: str, rest: Sequence[PreparedMessage]) -> None:
        """The connection is closed.

        :param rest: what the client should still get.
        """


class Connection:
    """One client of Engine.IO, from its handshake to its end.

    :param on_closed: called once the connection is closed, with the reason.
    :param forget: called when no request of the client can find the connection any more.
    :ivar sid: its session id. Who knows it can send and read as this client, so it is a secret.
    :ivar version: of the protocol: 3 or 4.
    :ivar authorization: the ``Authorization`` header of the handshake. Whoever has used it sets it to None.
    :ivar receiver: gets what the client sends, until the connection is over.
    :ivar direct: what a fan-out may send by at this moment, and the frames to send; None where it uses :meth:`send`.
    :ivar transport: how the client is reached now.
    :ivar probe: the WebSocket to which the client may move.
    :ivar upgrading: whether the client has probed it, and is about to move.
    :ivar is_closed: whether the connection is over.
    :ivar is_awaited: whether the client may still come for what was sent before.
    """

    __slots__ = (
        "__weakref__",
        "_forget",
        "_heartbeat",
        "_is_reading_paused",
        "_on_closed",
        "_queue",
        "_queued",
        "_reason",
        "_settings",
        "_was_paused",
        "_wheel",
        "authorization",
        "direct",
        "handshake",
        "is_awaited",
        "is_closed",
        "probe",
        "receiver",
        "sid",
        "transport",
        "upgrading",
        "version",
    )

    _log = Logger()

    def __init__(
        self,
        sid: str,
        version: int,
        handshake: Handshake,
        transport: Transport,
        settings: Settings,
        wheel: Wheel,
        on_closed: Callable[[Connection, str], object] = lambda connection, reason: None,
        forget: Callable[[Connection], object] = lambda connection: None,
    ) -> None:
        self.sid = sid
        self.version = version
        self.handshake = handshake
        self.authorization: bytes | None = None
        self.receiver: Receiver | None = None
        self.direct: tuple[FrameEncoding, Send] | None = None
        self.probe: Upgrading | None = None
        self.upgrading = self.is_closed = self.is_awaited = False
        self.transport = transport
        self._settings = settings
        self._wheel = wheel
        self._on_closed = on_closed
        self._forget = forget
        self._queue: list[PreparedMessage] = []
        self._queued = 0
        self._is_reading_paused = self._was_paused = False
        self._reason = ""
        self._heartbeat: Pings = (
            ServerPings(settings, wheel, self._ping, self._expire)
            if version == 4
            else ClientPings(settings, wheel, self._expire)
        )

    def open(self, accept: Callable[[Connection], Receiver]) -> None:
        """Send the handshake's answer, and let somebody receive what the client sends.

        :param accept: may send already, and may close the connection. If it raises, the connection is closed.
        """
        self.send(PreparedMessage.of_packet(EnginePacketType.OPEN, self._opening()))
        try:
            receiver = accept(self)
        except Exception:
            self._log.failure("an Engine.IO connection is closed, as it could not be accepted")
            self.close()
            return
        if self.is_closed:
            receiver.closed(self._reason)
        else:
            self.receiver = receiver
            self._tell_if_paused()

    def _opening(self) -> bytes:
        settings = self._settings
        return encode_value(
            {
                "sid": self.sid,
                "upgrades": ["websocket"] if self.transport_name == "polling" else [],
                "pingInterval": round(settings.ping_interval * 1000),
                "pingTimeout": round(settings.ping_timeout * 1000),
                "maxPayload": settings.max_payload,
            }
        )

    # Sending

    @property
    def transport_name(self) -> str:
        """``polling`` or ``websocket``."""
        return self.transport.name

    @property
    def write_paused(self) -> bool:
        """Whether what is sent now has to wait."""
        return bool(self._queue) or not self.transport.writable

    @property
    def queued(self) -> int:
        """Bytes that wait for the client, in this process."""
        return self._queued + self.transport.queued

    def send(self, message: PreparedMessage, volatile: bool = False) -> bool:
        """Send messages in order, now or as soon as the client takes them.

        If more than ``settings.max_queued`` waits, the connection is closed as ``slow``.

        :param volatile: drop them if something waits already, or the client reads too slowly, or it is upgrading.
        :returns: False if they were dropped, or the connection is over.
        """
        if self.is_closed or (volatile and self._is_full()):
            return False
        if self.direct is None:
            return self._send_by_transport(message)
        encoding, send = self.direct
        data = message.encode(encoding)
        sent = try_send(send, data)
        if sent != len(data):
            self.send_rest(message, sent, volatile)
        return not self.is_closed

    def _send_by_transport(self, message: PreparedMessage) -> bool:
        self._queue.append(message)
        self._queued += message.size
        self.writable_changed()
        if self._queued > self._settings.max_queued:
            self.close("slow")
        return not self.is_closed

    def send_now(self, messages: Sequence[PreparedMessage]) -> int:
        """Send messages in order, as far as the client takes them now. The others are not kept.

        :returns: how many it took.
        """
        if self.is_closed or self.write_paused:
            return 0
        taken = self.transport.send(messages)
        self._tell_if_paused()
        return taken

    def send_rest(self, message: PreparedMessage, sent: int, volatile: bool = False) -> None:
        """Go on with a message of which a fan-out has sent a part by :attr:`direct`; see :meth:`Transport.send_rest`.

        :param volatile: drop it if nothing was sent of it.
        """
        if not self.transport.send_rest(message, sent) and not (volatile and self._is_full()):
            self._send_by_transport(message)
        self._tell_if_paused()

    def _is_full(self) -> bool:
        return bool(self._queue) or self.upgrading or self.transport.congested

    def writable_changed(self) -> None:
        """Send what waits, as far as the transport takes it."""
        if self.is_closed:
            return
        if self._queue and self.transport.writable:
            waiting, self._queue = self._queue, []  # to send may bring the client's next request
            taken = self.transport.send(waiting)
            self._queued -= sum(message.size for message in waiting[:taken])
            self._queue = waiting[taken:] + self._queue
        self._tell_if_paused()

    def _tell_if_paused(self) -> None:
        if self.is_closed:
            return
        is_paused = self.write_paused
        self.direct = None if is_paused else self.transport.direct
        if self.receiver is None or is_paused is self._was_paused:
            return
        self._was_paused = is_paused
        if is_paused:
            self.receiver.pause_writing()
        else:
            self.receiver.resume_writing()

    # Receiving

    def pause_reading(self) -> None:
        """Give the receiver nothing more; at most what the transport has read already is kept."""
        self._is_reading_paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Give the receiver messages again, in a later turn."""
        self._is_reading_paused = False
        self.transport.resume_reading()

    def packet_received(self, packet: EnginePacket) -> None:
        """A packet of the client has come."""
        if not self.is_closed:
            _ACTIONS[packet.type](self, packet)

    def _message_received(self, packet: EnginePacket) -> None:
        receiver = self.receiver
        if receiver is None:
            return
        try:
            if packet.binary:
                receiver.binary_received(packet.data)
            else:
                receiver.text_received(packet.data)
        except Exception:
            self._log.failure("an Engine.IO connection is closed, as what came from it could not be dealt with")
            self.close("transport error")

    def _ping_received(self, packet: EnginePacket) -> None:
        if self.version == 4:
            self.close("transport error")
            return
        self._heartbeat.received()
        self._send_by_transport(PreparedMessage.of_packet(EnginePacketType.PONG, packet.data))

    def _pong_received(self, packet: EnginePacket) -> None:
        if self.version == 4:
            self._heartbeat.received()
        else:
            self.close("transport error")

    def _close_received(self, packet: EnginePacket) -> None:
        self.close(TRANSPORT_CLOSE)

    def _noop_received(self, packet: EnginePacket) -> None:
        pass

    def _unexpected(self, packet: EnginePacket) -> None:
        self.close("parse error")

    # The heartbeat

    def is_overdue(self) -> bool:
        """Whether the client has been silent for too long. Then the connection is closed now."""
        if not self.is_closed and self._heartbeat.is_over():
            self._expire()
        return self.is_closed

    def _ping(self) -> bool:
        if self.transport.congested:  # the ping would come after all that the client has not read
            return False
        self._send_by_transport(_PING)  # which allows the client as many pings of WebSocket again
        return True

    def _expire(self) -> None:
        if self.transport.congested:
            self._heartbeat.received()  # a client that takes nothing for too long is closed by its transport
        else:
            self.close("ping timeout")

    # Another transport, and the end

    def upgrade(self, transport: Transport) -> None:
        """Go on with another transport. What waits goes over that."""
        before, self.transport = self.transport, transport
        self.upgrading = False
        before.end(TRANSPORT_CLOSE)
        if self._is_reading_paused:
            transport.pause_reading()
        self.writable_changed()

    def close(self, reason: str = "forced close") -> None:
        """End the connection. Nothing happens if it is over.

        :param reason: what ``closed`` of the receiver is called with, before this returns. For one of :data:`ORDERLY`
            the client still gets what was sent, if it comes for it in time.
        """
        if self.is_closed:
            return
        self.is_closed = True
        self._reason = reason
        self.direct = None
        self._heartbeat.stop()
        rest, self._queue = self._queue, []
        self._queued = 0
        last = rest if reason in ORDERLY else ()
        if self.probe is not None:
            self.probe.connection_closed(reason, last)
        self.is_awaited = self.transport.end(reason, last)
        self._on_closed(self, reason)
        if self.is_awaited:
            self._wheel.call_later(self._settings.close_timeout, self.forget)
        else:
            self.forget()
        receiver, self.receiver = self.receiver, None  # so that they form no cycle
        if receiver is not None:
            receiver.closed(reason)

    def forget(self) -> None:
        """Let no request of the client find the connection any more."""
        self._forget(self)


_ACTIONS: Mapping[EnginePacketType, Callable[[Connection, EnginePacket], None]] = MappingProxyType(
    {
        EnginePacketType.OPEN: Connection._unexpected,
        EnginePacketType.CLOSE: Connection._close_received,
        EnginePacketType.PING: Connection._ping_received,
        EnginePacketType.PONG: Connection._pong_received,
        EnginePacketType.MESSAGE: Connection._message_received,
        EnginePacketType.UPGRADE: Connection._unexpected,
        EnginePacketType.NOOP: Connection._noop_received,
    }
)
