"""Tests for :mod:`realtime_chat.engineio.websocket`, and of the fan-out to it, over real sockets."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Factory, Protocol

from realtime_chat.core.turns import Turns
from realtime_chat.engineio.connection import Connection
from realtime_chat.engineio.fanout import send_to_all
from realtime_chat.engineio.prepared import Binary, PreparedMessage
from realtime_chat.engineio.resource import ConnectionsResource
from realtime_chat.engineio.settings import Settings
from realtime_chat.transports.fast.choice import PLAIN
from tests.clients import Watched
from tests.engineio.echo import Echo
from tests.engineio.site import CLOSE, TEXT, EngineTestCase
from tests.functional.raw_clients import frame
from tests.transports.test_contract import ServedTestCase

MEGABYTE = 1024 * 1024
PING = 9


class EngineClient(Watched, Protocol):
    """A WebSocket client that keeps the frames that come, and can stop reading.

    :ivar frames: their opcodes and payloads; the first one is the open packet.
    """

    reactor = reactor

    def __init__(self) -> None:
        super().__init__()
        self.head = b""
        self.frames: list[tuple[int, bytes]] = []
        self.lost = False
        self._data = bytearray()

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        if not self.head and b"\r\n\r\n" in self._data:
            head, _, rest = bytes(self._data).partition(b"\r\n\r\n")
            self.head, self._data = head, bytearray(rest)
        while self.head and self._take_frame():
            pass
        self.notice()

    def _take_frame(self) -> bool:
        data = self._data
        size, start = data[1] if len(data) > 1 else 0, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start], "big")
        if len(data) < max(2, start + size):
            return False
        self.frames.append((data[0] & 15, bytes(data[start : start + size])))
        del data[: start + size]
        return True

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True
        self.notice()

    @property
    def messages(self) -> list[bytes]:
        """All messages after the open packet."""
        return [payload for opcode, payload in self.frames[1:] if opcode < CLOSE]

    def send(self, *texts: bytes) -> None:
        self.transport.write(b"".join([frame(TEXT, text) for text in texts]))

    async def stop(self) -> None:
        if not self.lost:
            self.transport.abortConnection()
            await self.until(lambda: self.lost)


class WebSocketTests(ServedTestCase):
    """Connections by WebSocket."""

    def serve(self) -> None:
        super().serve()
        self.echoes: list[Echo] = []
        sites: Any = self.service._sites
        self.engine = ConnectionsResource(
            reactor, self.service.hub, self.accept, Settings(eio3=True), Turns(reactor), os.urandom, self.io
        )
        sites.chat.resource.putChild(b"engine.io", self.engine)

    def accept(self, connection: Connection) -> Echo:
        self.echoes.append(Echo(connection))
        return self.echoes[-1]

    async def connected(self, version: int = 4, *headers: str) -> EngineClient:
        endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{self.port}")
        client: EngineClient = await endpoint.connect(Factory.forProtocol(EngineClient))
        self.clients.append(client)
        lines = [
            f"GET /engine.io/?EIO={version}&transport=websocket HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
            *headers,
        ]
        client.transport.write("\r\n".join([*lines, "", ""]).encode())
        await client.until(lambda: client.frames)
        return client

    def broadcast(self, *parts: bytes, volatile: bool = False) -> None:
        send_to_all(PreparedMessage(parts), [echo.connection for echo in self.echoes], volatile)

    async def test_no_compression(self) -> None:
        """Compression isn't agreed on, as it would be made for each message again."""
        client = await self.connected(4, "Sec-WebSocket-Extensions: permessage-deflate")
        self.assertNotIn(b"Extensions", client.head)

    async def test_fanout(self) -> None:
        """Broadcasts and messages to one come to each connection in the order in which they were sent."""
        clients = [await self.connected(version) for version in (3, 4) for _ in range(5)]
        for number in range(50):
            self.broadcast(b"all %d" % number, Binary(b"\xff%d" % number))
            for echo in self.echoes:
                echo.connection.send(PreparedMessage([b"one %d" % number]))
        for client in clients:
            await client.until(lambda client=client: len(client.messages) == 150)
        for client, prefix in [(client, b"\4") for client in clients[:5]] + [(client, b"") for client in clients[5:]]:
            expected = [(b"4all %d" % n, prefix + b"\xff%d" % n, b"4one %d" % n) for n in range(50)]
            self.assertEqual([part for parts in expected for part in parts], client.messages)

    async def test_pings(self) -> None:
        """A client may send pings of WebSocket as long as the heartbeat goes on."""
        client = await self.connected(3)
        for number in range(4):
            client.transport.write(frame(PING, b"") * 60)
            client.send(b"2%d" % number)
            await client.until(lambda number=number: b"3%d" % number in client.messages)
        client.transport.write(frame(PING, b"") * 200)
        await client.until(lambda: client.lost)

    async def test_slow_reader(self) -> None:
        """Who reads too slowly for a broadcast is closed when too much waits; all others get all of it."""
        slow, other = await self.connected(), await self.connected()
        slow.transport.pauseProducing()
        text = b"x" * 50_000
        for number in range(400):  # more than sockets hold
            self.broadcast(b"%d " % number + text)
            await other.until(lambda number=number: len(other.messages) == number + 1)
            self.assertLess(self.echoes[0].connection.queued, 2 * MEGABYTE)
        self.assertEqual(["slow", None], [echo.reason for echo in self.echoes])
        self.assertEqual([b"4%d " % number + text for number in range(400)], other.messages)

    async def test_slow_for_a_while(self) -> None:
        """A client that is slow for less than that gets everything, in order, but for what is volatile."""
        slow = await self.connected()
        slow.transport.pauseProducing()
        connection = self.echoes[0].connection
        text, sent = b"x" * 20_000, 0
        while not connection.write_paused:
            self.broadcast(b"%d " % sent + text)
            sent += 1
        for _ in range(20):
            self.broadcast(b"%d " % sent + text)
            self.broadcast(b"volatile", volatile=True)
            sent += 1
        slow.transport.resumeProducing()
        await slow.until(lambda: len(slow.messages) == sent)
        self.assertEqual([b"4%d " % number + text for number in range(sent)], slow.messages)
        await self.until(lambda: not connection.write_paused)
        self.broadcast(b"again")
        await slow.until(lambda: slow.messages[-1] == b"4again")

    async def test_send_now(self) -> None:
        """Several messages go by one system call; of those that the socket doesn't take whole, one is finished."""
        slow = await self.connected()
        slow.transport.pauseProducing()
        connection = self.echoes[0].connection
        messages = [PreparedMessage([b"%d " % number + b"x" * 20_000, Binary(b"\1")]) for number in range(600)]
        at = 0
        while not connection.write_paused:
            at += connection.send_now(messages[at : at + 10])
        self.assertLess(0, at)
        self.assertLess(connection.queued, 2 * len(messages[0].packets[0].data))
        slow.transport.resumeProducing()
        while at < len(messages):
            await self.until(lambda: not connection.write_paused)
            at += connection.send_now(messages[at : at + 10])
        await slow.until(lambda: len(slow.messages) == 2 * at)
        self.assertEqual([b"4%d " % number + b"x" * 20_000 for number in range(at)], slow.messages[::2])

    async def test_pausing(self) -> None:
        """While the receiver has enough to do nothing is read, and afterwards all comes in order."""
        client = await self.connected()
        (echo,) = self.echoes
        got: list[bytes] = []

        def pause_often(text: bytes) -> None:
            got.append(text)
            echo.connection.pause_reading()
            reactor.callLater(0, echo.connection.resume_reading)  # type: ignore[attr-defined]

        echo.text_received = pause_often  # type: ignore[method-assign]
        client.send(*[b"4%d" % number for number in range(300)])
        await self.until(lambda: len(got) == 300)
        self.assertEqual([b"%d" % number for number in range(300)], got)
        echo.connection.pause_reading()
        client.send(b"4later")
        await self.connected()  # so the daemon has had turns in which it could have read
        self.assertEqual(300, len(got))
        echo.connection.resume_reading()
        await self.until(lambda: got[-1] == b"later")

    async def test_close_with_the_rest(self) -> None:
        """What was sent before an orderly close comes before the close frame, though the socket was full."""
        client = await self.connected()
        client.transport.pauseProducing()
        connection, text, sent = self.echoes[0].connection, b"x" * 50_000, 0
        while not connection.write_paused:
            self.broadcast(text)
            sent += 1
        for _ in range(5):
            self.broadcast(text)
        connection.close("server namespace disconnect")
        client.transport.resumeProducing()
        await client.until(lambda: client.frames[-1][0] == CLOSE)
        self.assertEqual([b"4" + text] * (sent + 5), client.messages)

    async def test_client_is_lost(self) -> None:
        """A connection that is cut ends its session."""
        client = await self.connected()
        client.transport.abortConnection()
        await self.until(lambda: self.echoes[0].reason)
        self.assertEqual(("transport close", 0), (self.echoes[0].reason, len(self.engine.connections)))


class PieceTests(EngineTestCase):
    """What comes in pieces."""

    def test_bytes_and_fragments(self) -> None:
        """Messages may come byte by byte, and in fragments."""
        socket = self.websocket()
        data = b"".join([frame(TEXT, b"4%d" % number) for number in range(20)])
        data += (
            frame(TEXT, b"4").replace(b"\x81", b"\x01", 1)
            + frame(0, b"e").replace(b"\x80", b"\x00", 1)
            + frame(0, b"nd")
        )
        for byte in data:
            socket.transport.protocol.dataReceived(bytes((byte,)))
        self.assertEqual([b"4%d" % number for number in range(20)] + [b"4end"], socket.messages[1:])


class PlainWebSocketTests(WebSocketTests):
    """The same with nothing that goes past Twisted and Autobahn."""

    io = PLAIN
    repeats = True
