"""Messages that are encoded once for many connections."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from typing import Protocol

import attrs

from realtime_chat.engineio.packets import (
    EnginePacket,
    EnginePacketType,
    encode_binary,
    encode_record,
    encode_text,
    join_records,
)
from realtime_chat.transports.frames import FrameBatch, binary_frame, frame


class Binary(bytes):
    """The bytes of a binary message. A message that is plain ``bytes`` is text in UTF-8."""


class Encoding(Protocol):
    """What packets are on the wire, for one kind of transport and one version of the protocol."""

    def encode(self, packets: Sequence[EnginePacket]) -> bytes:
        """Encode packets that belong together."""


@attrs.frozen(eq=False)
class FrameEncoding:
    """WebSocket frames.

    :ivar base64: whether the client can't take binary frames.
    """

    version: int
    base64: bool

    def encode(self, packets: Sequence[EnginePacket]) -> bytes:
        """Encode each packet as a frame."""
        return self._frame(packets[0]) if len(packets) == 1 else b"".join(map(self._frame, packets))

    def _frame(self, packet: EnginePacket) -> bytes:
        if not packet.binary:
            return frame(encode_text(packet.type, packet.data))
        if self.base64:
            return frame((b"b" if self.version == 4 else b"b4") + b64encode(packet.data))
        return binary_frame(encode_binary(packet.data, self.version))


@attrs.frozen(eq=False)
class PayloadEncoding:
    """The body of a poll's answer.

    :ivar binary: whether it is ``application/octet-stream``, which version 3 has.
    """

    version: int
    binary: bool

    def encode(self, packets: Sequence[EnginePacket]) -> bytes:
        """Encode packets as a part of a body; see :func:`join_records`."""
        return join_records([encode_record(packet, self.version, self.binary) for packet in packets], self.version)


frame_encoding = cache(FrameEncoding)
payload_encoding = cache(PayloadEncoding)
"""Encodings are told apart by identity, so there is one of each."""


class PreparedMessage:
    """One or several Engine.IO messages that belong together, in order. It never changes.

    Each encoding is made once.

    :param parts: texts as ``bytes`` in UTF-8, and :class:`Binary`.
    :ivar size: bytes of all parts.
    """

    __slots__ = ("_encoded", "packets", "size")

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._keep([EnginePacket(EnginePacketType.MESSAGE, part, type(part) is Binary) for part in parts])

    def _keep(self, packets: Sequence[EnginePacket]) -> None:
        self.packets = packets
        self.size = len(packets)
        for packet in packets:
            self.size += len(packet.data)
        self._encoded: dict[Encoding, bytes] = {}

    @classmethod
    def of_packet(cls, type: EnginePacketType, data: bytes = b"") -> PreparedMessage:
        """Prepare a packet that is no message, such as a ping."""
        return cls._of([EnginePacket(type, data)])

    @classmethod
    def joined(cls, messages: Sequence[PreparedMessage]) -> PreparedMessage:
        """Prepare several messages as one."""
        if len(messages) == 1:
            return messages[0]
        return cls._of([packet for message in messages for packet in message.packets])

    @classmethod
    def _of(cls, packets: Sequence[EnginePacket]) -> PreparedMessage:
        prepared = cls.__new__(cls)
        prepared._keep(packets)
        return prepared

    @property
    def has_binary(self) -> bool:
        """Whether a part is binary."""
        return any(packet.binary for packet in self.packets)

    def encode(self, encoding: Encoding) -> bytes:
        """What the messages are on the wire."""
        encoded = self._encoded.get(encoding)
        if encoded is None:
            encoded = self._encoded[encoding] = encoding.encode(self.packets)
        return encoded

    def batch(self, encoding: FrameEncoding) -> FrameBatch:
        """Their frames, as one: a part of the messages is of no use to a client."""
        return FrameBatch([self.encode(encoding)])
