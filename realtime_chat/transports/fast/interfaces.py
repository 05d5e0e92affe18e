"""What the rest of the package uses of this one. Nothing here depends on how it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from realtime_chat.transports.handshake import Upgrade

__all__ = ["Send", "SocketReader", "WebSocketReceiver"]

Send = Callable[[bytes], int]
"""Gives bytes to a socket, and returns how many bytes the socket took."""


class SocketReader(Protocol):
    """Reads from connections."""

    def adopt(self, transport: Any) -> None:
        """Read from a connection from now on."""

    def close(self) -> None:
        """Leave reading from the connections that are still open to the reactor."""


class WebSocketReceiver(Protocol):
    """The receiving half of a WebSocket; Autobahn's ``WebSocketServerProtocol`` is its base.

    :cvar OPTIONS: options of its factory (``setProtocolOptions``).
    """

    OPTIONS: ClassVar[Mapping[str, Any]]

    @staticmethod
    def class_attributes(factory: Any, longest: int) -> dict[str, Any]:
        """What is the same for all connections of a factory, to be attributes of their class.

        :param longest: bytes of the longest message.
        """

    def answer_handshake(self, upgrade: Upgrade) -> None:
        """Answer a request that was checked. If compression is agreed on, call ``compress()``."""

    def process(self, data: bytes) -> None:
        """Read the frames in a piece of data, until ``has_to_wait()`` is true. What is left stays in ``data``."""

    def text_received(self, text: bytes) -> None:
        """Give a whole text message to the session. Invalid UTF-8 fails the connection (RFC 6455, section 8.1)."""
