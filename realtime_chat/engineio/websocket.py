"""A WebSocket as the transport of an Engine.IO connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from realtime_chat.engineio.connection import TRANSPORT_CLOSE
from realtime_chat.engineio.packets import EnginePacket, PacketError, decode_binary, decode_payload, decode_text
from realtime_chat.engineio.prepared import FrameEncoding, PreparedMessage, frame_encoding
from realtime_chat.transports.backpressure import Send
from realtime_chat.transports.frames import FrameBatch
from realtime_chat.transports.websocket_protocol import WebSocketProtocol

_CLOSE_CODES = {"server shutting down": 1001, "parse error": 1002, "slow": 1008}
"""The codes of closes (RFC 6455, section 7.4.1) that aren't normal ones."""


class PacketListener(Protocol):
    """Whom the packets of a WebSocket are for: a connection, or a probe for one."""

    def packet_received(self, packet: EnginePacket) -> None:
        """A packet has come."""

    def writable_changed(self) -> None:
        """The socket is full, or has drained."""

    def close(self, reason: str) -> None:
        """The WebSocket is closing or lost, or something wrong came."""


class EngineProtocol(WebSocketProtocol):
    """One WebSocket of Engine.IO. Engine.IO's own heartbeat finds out whether the client is there."""

    session: WebSocketTransport | None = None

    def schedule_ping(self) -> None:
        """Send no pings of WebSocket."""

    def binary_received(self, data: bytes) -> None:
        """Pass a binary message on."""
        if self.session is not None:
            self.session.receive_binary(data)

    def forget_pings(self) -> None:
        """Allow the client as many pings of WebSocket again."""
        self._pings = 0


class WebSocketTransport:
    """A WebSocket's session: what comes are packets, and what is sent are prepared messages.

    :param protocol: is open already.
    :ivar listener: whom the packets are for.
    :ivar busy: whether no packets are given at the moment.
    """

    __slots__ = ("_encoding", "_protocol", "_version", "busy", "listener")

    name: ClassVar[str] = "websocket"

    def __init__(self, protocol: Any, version: int, base64: bool) -> None:
        self._protocol = protocol
        self._version = version
        self._encoding = frame_encoding(version, base64)
        self.busy = False
        self.listener: PacketListener | None = None
        protocol.session = self

    # What the connection uses

    @property
    def writable(self) -> bool:
        """Whether the socket is not full."""
        return not self._protocol.write_paused and self._protocol.may_send

    @property
    def congested(self) -> bool:
        """Whether the socket is full."""
        return bool(self._protocol.write_paused)

    @property
    def queued(self) -> int:
        """Bytes that wait for the socket in this process."""
        return int(self._protocol.queued)

    @property
    def direct(self) -> tuple[FrameEncoding, Send] | None:
        """What a fan-out may send by while the socket isn't full, and the frames to send."""
        send = self._protocol.direct_send
        return None if send is None else (self._encoding, send)

    def send(self, messages: Sequence[PreparedMessage]) -> int:
        """Send messages until the socket is full. Where nothing lies between, they are sent by one system call."""
        self._protocol.forget_pings()
        if self._protocol.direct_send is not None and len(messages) > 1:
            batch = FrameBatch([message.encode(self._encoding) for message in messages])
            return int(self._protocol.send_batch(batch))
        for index, message in enumerate(messages):
            if not self.writable or not self._protocol.send_batch(message.batch(self._encoding)):
                return index
        return len(messages)

    def send_rest(self, message: PreparedMessage, sent: int) -> bool:
        """Finish a message that a fan-out has begun. Return False if nothing of it was sent."""
        return bool(self._protocol.send_rest(message.batch(self._encoding), sent))

    def pause_reading(self) -> None:
        """Read no more from the socket."""
        self.busy = True
        self._protocol.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self.busy = False
        self._protocol.resume_commands()

    def end(self, reason: str, rest: Sequence[PreparedMessage] = ()) -> bool:
        """Send what is left, and begin to close."""
        self.listener = None
        if rest and self._protocol.may_send:
            self._protocol.write(b"".join([message.encode(self._encoding) for message in rest]))
        self._protocol.close_with(_CLOSE_CODES.get(reason, 1000), reason)
        return False

    # What the protocol calls

    def receive(self, text: bytes) -> None:
        """A text message has come."""
        self._receive(_decode_text, text)

    def receive_binary(self, data: bytes) -> None:
        """A binary message has come."""
        self._receive(decode_binary, data)

    def _receive(self, decode: Callable[[bytes, int], EnginePacket], message: bytes) -> None:
        if self.listener is None:
            return
        try:
            packet = decode(message, self._version)
        except PacketError:
            self.listener.close("parse error")
            return
        self.listener.packet_received(packet)

    def pause_writing(self) -> None:
        """The socket is full."""
        if self.listener is not None:
            self.listener.writable_changed()

    resume_writing = pause_writing

    def dismiss(self, reason: str) -> None:
        """The protocol gives the client up."""
        if self.listener is not None:
            self.listener.close(reason if reason == "slow" else "transport error")

    def close(self) -> None:
        """The WebSocket is closing, or its connection is lost."""
        if self.listener is not None:
            self.listener.close(TRANSPORT_CLOSE)


def _decode_text(text: bytes, version: int) -> EnginePacket:
    """Decode a text message. Clients that can't send binary frames put ``b`` and base64 into it."""
    if text[:1] != b"b":
        return decode_text(text)
    return next(decode_payload(text if version == 4 else b"%d:%b" % (len(text), text), version))
