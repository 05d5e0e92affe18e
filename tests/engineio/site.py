"""Engine.IO at a site in memory, on a fake clock, and clients for it that speak in bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectionDone

from realtime_chat.core.turns import Turns
from realtime_chat.engineio.connection import Connection
from realtime_chat.engineio.resource import ConnectionsResource
from realtime_chat.engineio.settings import Settings
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.transports.fast.choice import PLAIN
from realtime_chat.values.rates import RateLimits
from tests.engineio.echo import Echo
from tests.fakes import make_hub, tokens
from tests.functional.raw_clients import frame
from tests.http.site_case import Said, SiteTestCase, SocketLike, get, read_answers

TEXT, BINARY, CLOSE = 1, 2, 8


def read_frames(data: bytes) -> list[tuple[int, bytes]]:
    """The opcodes and payloads of a server's frames (RFC 6455, section 5.2)."""
    frames = []
    while data:
        size, start = data[1], 2
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start], "big")
        frames.append((data[0] & 15, data[start : start + size]))
        data = data[start + size :]
    return frames


class FakeSocket:
    """A WebSocket of a client.

    :ivar head: the head of the answer to its handshake.
    """

    def __init__(self, transport: SocketLike) -> None:
        self.transport = transport

    @property
    def head(self) -> bytes:
        return self.transport.value().partition(b"\r\n\r\n")[0]

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """All frames that have come."""
        head, _, rest = self.transport.value().partition(b"\r\n\r\n")
        return read_frames(rest) if head.startswith(b"HTTP/1.1 101") else []

    @property
    def messages(self) -> list[bytes]:
        """The messages among them, but for the first, the handshake's answer."""
        return [payload for opcode, payload in self.frames if opcode in (TEXT, BINARY)]

    @property
    def close_code(self) -> int | None:
        """The code that the server has closed with."""
        return next((int.from_bytes(data[:2], "big") for opcode, data in self.frames if opcode == CLOSE), None)

    def send(self, *messages: bytes, opcode: int = TEXT) -> None:
        for message in messages:
            self.transport.protocol.dataReceived(frame(opcode, message))


class EngineTestCase(SiteTestCase):
    """A site with an echo, or with another resource of Engine.IO.

    :cvar mount: the path of the resource.
    :cvar settings: what is unlike the settings of the official protocol suites.
    :cvar version: of the protocol that clients speak.
    :ivar echoes: one for each connection, in order.
    """

    mount = "engine.io"
    settings: dict[str, Any] = {}
    version = 4
    limits: dict[str, Any] = {"max_message": 60_000}
    rates: RateLimits | None = None

    def setUp(self) -> None:
        super().setUp()
        self.site.max_body = self.limits["max_message"]
        self.echoes: list[Echo] = []
        self.hub = make_hub(
            MemoryStore(Retention(10), lambda: 0.0, tokens()), self.clock, rates=self.rates, **self.limits
        )
        self.turns = Turns(self.clock)
        settings = {"ping_interval": 0.3, "ping_timeout": 0.2, "max_payload": 60_000, "eio3": True, "jsonp": True}
        self.engine = self.make_resource(Settings(**settings | self.settings))
        self.root.putChild(self.mount.encode(), self.engine)

    def make_resource(self, settings: Settings) -> ConnectionsResource:
        return ConnectionsResource(self.clock, self.hub, self.accept, settings, self.turns, tokens(), PLAIN)

    def accept(self, connection: Connection) -> Echo:
        echo = Echo(connection)
        self.echoes.append(echo)
        return echo

    def check_reason(self, reason: str) -> None:
        """One session is over, for this reason."""
        self.assertEqual({reason: 1}, dict(self.hub.counters.engineio_closed))

    # Requests

    def path(self, transport: str = "polling", sid: str | None = None, **query: str) -> bytes:
        query = {"EIO": str(self.version), "transport": transport, "sid": sid or "", **query}
        parameters = "&".join(f"{name}={value}" for name, value in query.items() if value)
        return f"/{self.mount}/?{parameters}".encode()

    def ask_for(self, path: bytes, *headers: bytes, body: bytes | None = None, method: bytes | None = None) -> Waiting:
        """Send a request on a connection of its own."""
        method = method or (b"GET" if body is None else b"POST")
        length = () if body is None else (b"Content-Length: %d" % len(body),)
        return Waiting(self.send(get(path, *length, *headers, method=method) + (body or b"")))

    def poll(self, sid: str, *headers: bytes, **query: str) -> Waiting:
        return self.ask_for(self.path(sid=sid, **query), *headers)

    def post(self, sid: str, body: bytes, *headers: bytes, **query: str) -> Said:
        return self.ask_for(self.path(sid=sid, **query), *headers, body=body).said

    def open_polling(self, **query: str) -> str:
        """Open a session by polling, and return its sid."""
        body = self.ask_for(self.path(**query)).said.body
        opening = body[body.index(b"{") : body.rindex(b"}") + 1].replace(b'\\"', b'"')
        sid: str = json.loads(opening)["sid"]
        return sid

    def websocket(self, sid: str | None = None, transport: str = "websocket", **query: str) -> FakeSocket:
        headers = (
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            b"Sec-WebSocket-Version: 13",
        )
        return FakeSocket(self.send(get(self.path(transport, sid, **query), *headers)))

    def statuses(self, *asked: Waiting) -> list[int]:
        return [one.said.status for one in asked]

    def until(self, condition: Callable[[], Any], seconds: float = 5.0) -> None:
        """Let time pass until a condition is true."""
        for _ in range(int(seconds / 0.05)):
            if condition():
                return
            self.clock.advance(0.05)
        self.fail("not in time")


class Waiting:
    """A request that may have been answered."""

    def __init__(self, transport: SocketLike) -> None:
        self.transport = transport

    @property
    def is_answered(self) -> bool:
        return bool(self.transport.value())

    @property
    def said(self) -> Said:
        """The one answer."""
        (said,) = read_answers(self.transport.value())
        return said

    @property
    def body(self) -> bytes:
        return self.said.body

    def cancel(self) -> None:
        """Break the connection off."""
        self.transport.lose(ConnectionDone)
