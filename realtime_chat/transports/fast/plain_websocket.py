"""Autobahn's protocol, handshake included, by nothing but Autobahn's documented methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionRequest

from realtime_chat.core.command_session import CommandSession
from realtime_chat.transports.handshake import SUBPROTOCOL, Upgrade, accept_offer, encode_request

__all__ = ["AutobahnWebSocket"]


class AutobahnWebSocket(WebSocketServerProtocol):
    """The receiving half of a WebSocket, all of which Autobahn reads."""

    OPTIONS: ClassVar[Mapping[str, Any]] = MappingProxyType({"utf8validateIncoming": True, "openHandshakeTimeout": 0})
    """Autobahn validates text. The Site has a deadline for the handshake."""

    # What RealtimeProtocol adds
    session: CommandSession | None
    compress: Callable[[], None]

    @staticmethod
    def class_attributes(factory: WebSocketServerFactory, longest: int) -> dict[str, Any]:
        """None: Autobahn sets everything for each connection."""
        return {}

    def answer_handshake(self, upgrade: Upgrade) -> None:
        """Give Autobahn a request that was checked, which it answers."""
        if self.factory.compress:
            self.perMessageCompressionAccept = accept_offer
        super().dataReceived(encode_request(upgrade))
        if self.websocket_extensions_in_use:
            self.compress()

    def onConnect(self, request: ConnectionRequest) -> str | None:
        """Accept the subprotocol where it is offered."""
        return SUBPROTOCOL if SUBPROTOCOL in request.protocols else None

    def process(self, data: bytes) -> None:
        """Read the frames in a piece of data, unless reading is paused meanwhile."""
        super().dataReceived(data)

    def text_received(self, text: bytes) -> None:
        """Take a whole text message, which is valid UTF-8."""
        if self.session is not None:
            self.session.receive(text)
