"""The same without tricks: every byte goes through Twisted's transports and Autobahn's protocol, and the reactor reads.

It is slower, and leans on nothing but documented interfaces. Tests run with it, and it is the way out if a new version
of Twisted or Autobahn breaks a trick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionRequest

from realtime_chat.transports import backpressure
from realtime_chat.transports.handshake import SUBPROTOCOL, Upgrade, accept_offer, encode_request
from realtime_chat.transports.sessions import WebSocketSession


def write(transport: Any, data: bytes) -> None:
    """Write to a transport."""
    transport.write(data)


def unsent(transport: Any) -> int:
    """A number that falls with each byte that the peer acknowledges.

    How many bytes wait in the transport itself can't be told. So this is no count of bytes where the kernel tells how
    many were acknowledged.
    """
    count = backpressure.acknowledged(transport)
    return backpressure.in_kernel(transport) if count is None else -count


def accept_as_reactor(port: Any) -> None:
    """Leave a listening port as it is."""


class ReactorReader:
    """Leaves reading to the reactor, which reads from each connection already."""

    def __init__(self, reactor: Any) -> None:
        pass

    def adopt(self, transport: Any) -> None:
        """Do nothing: the reactor reads from the connection."""

    def close(self) -> None:
        """Do nothing."""


class AutobahnWebSocket(WebSocketServerProtocol):
    """The receiving half of a WebSocket, all of which Autobahn reads."""

    OPTIONS: ClassVar[Mapping[str, Any]] = MappingProxyType({"utf8validateIncoming": True, "openHandshakeTimeout": 0})
    """Autobahn validates text. The Site has a deadline for the handshake."""

    # What WebSocketProtocol adds
    session: WebSocketSession | None
    may_compress: bool
    compress: Callable[[], None]

    @staticmethod
    def class_attributes(factory: WebSocketServerFactory, longest: int) -> dict[str, Any]:
        """None: Autobahn sets everything for each connection."""
        return {}

    def answer_handshake(self, upgrade: Upgrade) -> None:
        """Give Autobahn a request that was checked, which it answers."""
        if self.may_compress:
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
