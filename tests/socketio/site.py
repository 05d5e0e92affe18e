"""Socket.IO at a site in memory, on a fake clock."""

from __future__ import annotations

from typing import Any

from realtime_chat.engineio.settings import Settings
from realtime_chat.socketio import Application, Namespace, event
from realtime_chat.socketio.resource import SocketIOResource
from realtime_chat.transports.fast.choice import PLAIN
from tests.engineio.site import EngineTestCase, FakeSocket
from tests.fakes import tokens


class Echo(Namespace):
    """Sends back what it gets."""

    def on_connect(self, auth: dict[str, Any]) -> None:
        self.emit("auth", auth)

    def on_message(self, *arguments: Any) -> None:
        self.emit("message-back", *arguments)

    @event("message-with-ack")
    def acknowledged(self, *arguments: Any) -> Any:
        return arguments


class SocketIOTestCase(EngineTestCase):
    """A site with an application that emits what a client gave, and sends back what it gets."""

    mount = "socket.io"

    engine: SocketIOResource

    def make_resource(self, settings: Settings) -> SocketIOResource:
        application = Application({"/": Echo, "/custom": Echo})
        return SocketIOResource(application, self.hub, settings, self.clock, self.turns, tokens(), PLAIN)

    def connected(self) -> FakeSocket:
        """A WebSocket that is connected to the main namespace."""
        socket = self.websocket()
        socket.send(b"40")
        return socket
