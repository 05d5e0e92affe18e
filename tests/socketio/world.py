"""An application on a hub over a store in memory, and Socket.IO clients without sockets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from realtime_chat.core.hub import Hub
from realtime_chat.engineio.connection import Connection, Handshake
from realtime_chat.engineio.packets import EnginePacketType
from realtime_chat.engineio.prepared import PreparedMessage
from realtime_chat.engineio.settings import Settings
from realtime_chat.socketio import Application, Namespace
from tests.core.world import World
from tests.fakes import tokens

_PACKET = re.compile(rb"([0-6])(?:(\d+)-)?(?:(/[^,]*),)?(\d+)?(.*)", re.DOTALL)


class FakeTransport:
    """Takes what a connection sends while it is writable; what it took stands in ``messages``."""

    name = "websocket"
    direct = None
    congested = False
    queued = 0

    def __init__(self) -> None:
        self.writable = True
        self.messages: list[bytes] = []
        self.closed: str | None = None
        self.reading = True

    def send(self, messages: Sequence[PreparedMessage]) -> int:
        packets = [packet for message in messages for packet in message.packets]
        self.messages += [packet.data for packet in packets if packet.type is EnginePacketType.MESSAGE]
        return len(messages)

    def send_rest(self, message: PreparedMessage, sent: int) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def end(self, reason: str, rest: Sequence[PreparedMessage] = ()) -> bool:
        self.closed = reason
        return False


class SocketIOClient:
    """A client of Socket.IO over a :class:`FakeTransport`. Each packet is sent as its text.

    :param turn: ends the reactor's turn.
    """

    def __init__(self, connection: Connection, transport: FakeTransport, turn: Callable[[], None]) -> None:
        self.connection = connection
        self.transport = transport
        self._turn = turn

    @property
    def closed(self) -> str | None:
        """Why the connection was closed."""
        return self.transport.closed

    def send(self, text: str, *attachments: bytes) -> None:
        """Send one packet."""
        receiver = self.connection.receiver
        assert receiver is not None
        receiver.text_received(text.encode())
        for attachment in attachments:
            receiver.binary_received(attachment)

    def emit(self, *event: Any, namespace: str = "/", id: int | str = "") -> None:
        """Emit an event."""
        path = "" if namespace == "/" else f"{namespace},"
        self.send(f"2{path}{id}{json.dumps(event)}")

    def take(self) -> list[bytes]:
        """All messages since the last call, with those of this turn."""
        self._turn()
        messages = self.transport.messages[:]
        del self.transport.messages[:]
        return messages

    def packets(self) -> list[tuple[int, str, int | None, Any]]:
        """Type, namespace, id and data of all packets since the last call; attachments are left out."""
        found = []
        for text in self.take():
            match = _PACKET.fullmatch(text)
            assert match, text
            type, _, path, id, data = match.groups()
            number = None if id is None else int(id)
            found.append((int(type), (path or b"/").decode(), number, json.loads(data) if data else None))
        return found

    def events(self, name: str | None = None) -> list[list[Any]]:
        """The events since the last call: name and arguments."""
        events = [data for type, _, _, data in self.packets() if type in (2, 5)]
        return [event for event in events if name in (None, event[0])]

    def pause(self) -> None:
        """Take nothing more."""
        self.transport.writable = False
        self.connection.writable_changed()

    def resume(self) -> None:
        """Take what waits."""
        self.transport.writable = True
        self.connection.writable_changed()


def open_client(
    accept: Any,
    hub: Hub,
    sid: str,
    turn: Callable[[], None],
    version: int = 4,
    authorization: bytes | None = None,
    query: dict[str, str] | None = None,
    settings: Settings | None = None,
) -> SocketIOClient:
    """A client that has opened its connection, and nothing more.

    :param turn: ends the reactor's turn.
    """
    transport = FakeTransport()
    handshake = Handshake(query or {}, {}, "192.0.2.1", False, 0.0)
    connection = Connection(sid, version, handshake, transport, settings or Settings(), hub.wheel)
    connection.authorization = authorization
    connection.open(accept)
    return SocketIOClient(connection, transport, turn)


class SocketIOWorld(World):
    """Serves an application, and makes clients of it."""

    settings = Settings()

    def setUp(self) -> None:
        super().setUp()
        self._count = 0

    def serve(self, namespaces: dict[str, type[Namespace]], **options: Any) -> Application:
        """Serve an application of some namespaces."""
        app = self.app = Application(namespaces, **options)
        self._accept = app.acceptor(self.hub, self.settings, tokens(1))
        return app

    def open(
        self, version: int = 4, authorization: bytes | None = None, query: dict[str, str] | None = None
    ) -> SocketIOClient:
        """A client that has opened its connection, and nothing more."""
        self._count += 1
        sid = f"sid{self._count}"
        return open_client(self._accept, self.hub, sid, self.turn, version, authorization, query, self.settings)

    def connected(self, *namespaces: str, auth: Any = None) -> SocketIOClient:
        """A client that is connected to namespaces, without what it received for that."""
        client = self.open()
        for name in namespaces or ("/",):
            path = "" if name == "/" else f"{name},"
            client.send(f"0{path}{'' if auth is None else json.dumps(auth)}")
        client.take()
        return client
