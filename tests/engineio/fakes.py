"""A transport and a receiver that keep what they are given, for tests of connections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from realtime_chat.engineio.connection import Connection, Handshake
from realtime_chat.engineio.packets import EnginePacket, EnginePacketType
from realtime_chat.engineio.prepared import FrameEncoding, PreparedMessage
from realtime_chat.engineio.settings import Settings
from realtime_chat.transports.backpressure import Send

HANDSHAKE = Handshake({"EIO": "4"}, {}, None, False, 1_795_000_000.0)


class FakeTransport:
    """Takes as many messages as it has room for.

    :ivar room: how many messages it takes before it is full; None for any number.
    :ivar packets: the packets that it was given.
    :ivar ended: why it was ended, and the packets that it could still send then.
    """

    name = "websocket"

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.packets: list[bytes] = []
        self.is_reading = True
        self.queued = 0
        self.direct: tuple[FrameEncoding, Send] | None = None
        self.ended: tuple[str, list[bytes]] | None = None
        self.is_awaited = False

    @property
    def writable(self) -> bool:
        return self.room is None or self.room > 0

    @property
    def congested(self) -> bool:
        return not self.writable

    def send(self, messages: Sequence[PreparedMessage]) -> int:
        taken = messages if self.room is None else messages[: self.room]
        self.packets += _shown(taken)
        if self.room is not None:
            self.room -= len(taken)
        return len(taken)

    def send_rest(self, message: PreparedMessage, sent: int) -> bool:
        self.room = 0
        if sent > 0:
            self.packets += _shown([message])
        return sent > 0

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def end(self, reason: str, rest: Sequence[PreparedMessage] = ()) -> bool:
        self.ended = reason, _shown(rest)
        return self.is_awaited


def _shown(messages: Sequence[PreparedMessage]) -> list[bytes]:
    return [b"%d%b" % (packet.type, packet.data) for message in messages for packet in message.packets]


class FakeReceiver:
    """Keeps what it is told.

    :ivar told: all of it, in order.
    """

    def __init__(self, connection: Connection, on_text: Callable[[bytes], Any] = lambda text: None) -> None:
        self.connection = connection
        self.told: list[Any] = []
        self._on_text = on_text

    def text_received(self, text: bytes) -> None:
        self.told.append(text)
        self._on_text(text)

    def binary_received(self, data: bytes) -> None:
        self.told.append(("binary", data))

    def pause_writing(self) -> None:
        self.told.append("paused")

    def resume_writing(self) -> None:
        self.told.append("resumed")

    def closed(self, reason: str) -> None:
        self.told.append(("closed", reason))


def make_connection(
    wheel: Any, transport: FakeTransport | None = None, version: int = 4, accepted: bool = True, **settings: Any
) -> Connection:
    """A connection over a fake transport, which a fake receiver has accepted."""
    transport = FakeTransport() if transport is None else transport
    connection = Connection("a" * 20, version, HANDSHAKE, transport, Settings(**settings), wheel)
    if accepted:
        connection.open(FakeReceiver)
        transport.packets.clear()
    return connection


def text(*texts: bytes) -> PreparedMessage:
    return PreparedMessage(texts)


def packet(type: EnginePacketType, data: bytes = b"") -> EnginePacket:
    return EnginePacket(type, data)
