"""Clients for tests, one a transport, that look the same: they join a room, keep what comes, and publish."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import treq
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateResponseAccept
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.web.client import Agent, HTTPConnectionPool, ResponseNeverReceived
from twisted.web.http import _ChunkedTransferDecoder

from tests.deadlines import DEADLINE
from tests.secrecy import assert_tells_nothing
from tests.views import Properties, View


class Watched:
    """An object that changes. Others can wait for a condition on it."""

    reactor: Any

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], Any], Deferred[None]]] = []

    def notice(self) -> None:
        """Check all conditions, after a change."""
        for condition, deferred in list(self._waiting):
            if condition():
                self._waiting.remove((condition, deferred))
                # In a later turn: the code that waited may stop this object, which may be in the middle of something.
                self.reactor.callLater(0, lambda deferred=deferred: deferred.called or deferred.callback(None))

    def until(self, condition: Callable[[], Any], patience: float = DEADLINE) -> Deferred[None]:
        """Wait till a condition on what has come is true.

        :raises twisted.internet.defer.TimeoutError: it doesn't become true in time.
        """
        deferred: Deferred[None] = Deferred()
        self._waiting.append((condition, deferred))
        self.notice()
        return deferred.addTimeout(patience, self.reactor)


class Client(Watched):
    """A reader of one room, which keeps what it receives.

    :ivar events: all that has come.
    :ivar messages: the messages among that.
    :ivar replies: the first reply to each id.
    """

    def __init__(self, reactor: Any, port: int, room: str = "lobby") -> None:
        self.reactor = reactor
        self.port = port
        self.room = room
        self.events: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.replies: dict[Any, dict[str, Any]] = {}
        self.position: str | None = None
        self.client: str | None = None
        self.view = View()
        self.properties = Properties()
        super().__init__()

    @property
    def data(self) -> list[Any]:
        """The data of the messages."""
        return [message["data"] for message in self.messages]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """The events of one type that have come."""
        return [event for event in self.events if event["type"] == kind]

    def take(self, event: dict[str, Any]) -> None:
        """An event has come."""
        assert_tells_nothing(event)
        self.events.append(event)
        if "id" in event:
            self.replies.setdefault(event["id"], event)
        if event["type"] == "message":
            self.messages.append(event)
        if event["type"] in ("message", "joined", "reset"):
            self.position = event["position"]
        self.view.take(event)
        self.properties.take(self.events)
        self.notice()

    def count(self, number: int) -> Deferred[None]:
        """Wait for so many messages in all."""
        return self.until(lambda: len(self.messages) >= number)

    def sees(self, *names: str) -> Deferred[None]:
        """Wait till exactly these are in the room."""
        return self.until(lambda: self.view.names == sorted(names))

    async def tell(self, **command: Any) -> dict[str, Any]:
        """Send one command; give what it is answered with, where that can be told apart."""
        raise NotImplementedError

    async def who(self) -> dict[str, Any]:
        """The user that it is; from now on it is the same one again."""
        welcome = await self.tell(type="hello")
        self.client = welcome["client"]
        user: dict[str, Any] = welcome["user"]
        return user


class _Protocol(WebSocketClientProtocol):
    client: SocketClient

    def onOpen(self) -> None:
        self.client.opened.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.client.take(json.loads(payload))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.client.close_code = code
        self.client.open = False
        if not self.client.opened.called:
            self.client.opened.errback(ConnectionLost(reason))
        self.client.notice()


class SocketClient(Client):
    """A reader on a WebSocket."""

    close_code: int | None = None
    open = False
    _asked = 0

    async def start(self, **query: Any) -> None:
        """Connect, and join the room by the URL; as a client that is known already, by commands."""
        if self.client is None:
            await self.connect({"room": self.room, **query})
        else:
            await self.connect()
            name = {"name": query.pop("name")} if "name" in query else {}
            await self.tell(type="hello", client=self.client, **name)
            self.send(type="join", room=self.room, **query)
        await self.until(lambda: bool(self.of_type("joined")))

    async def connect(
        self, query: dict[str, Any] | None = None, offers: Sequence[PerMessageDeflateOffer] = (), **options: Any
    ) -> None:
        """Connect, perhaps with offers of compression."""
        self.opened: Deferred[None] = Deferred()
        url = f"ws://127.0.0.1:{self.port}/ws?" + urlencode(query or {})
        factory = WebSocketClientFactory(url, reactor=self.reactor, **options)
        factory.setProtocolOptions(openHandshakeTimeout=DEADLINE, closeHandshakeTimeout=1)
        if offers:
            factory.setProtocolOptions(
                perMessageCompressionOffers=offers, perMessageCompressionAccept=PerMessageDeflateResponseAccept
            )
        factory.protocol = _Protocol
        endpoint = clientFromString(self.reactor, f"tcp:127.0.0.1:{self.port}:timeout={DEADLINE:.0f}")
        self.protocol = await endpoint.connect(factory)
        self.protocol.client = self
        await self.opened.addTimeout(DEADLINE, self.reactor)
        self.open = True

    @property
    def extensions(self) -> str:
        """The compression that was agreed on; empty if there is none."""
        return " ".join(str(extension.EXTENSION_NAME) for extension in self.protocol.websocket_extensions_in_use)

    def send(self, **command: Any) -> None:
        """Send one command."""
        self.protocol.sendMessage(json.dumps(command).encode())

    async def publish(self, data: Any, **fields: Any) -> dict[str, Any]:
        """Publish, and give the reply."""
        return await self._ask(type="publish", room=self.room, data=data, **fields)

    async def tell(self, **command: Any) -> dict[str, Any]:
        if command["type"] not in ("signal", "state"):
            return await self._ask(**command)
        self.send(**command)
        await self._ask(type="ping")
        return {}

    async def _ask(self, **command: Any) -> dict[str, Any]:
        self._asked += 1
        number = f"ask-{self._asked}"
        self.send(id=number, **command)
        await self.until(lambda: number in self.replies)
        return self.replies[number]

    async def stop(self) -> None:
        """Close, and wait till it is closed."""
        if self.open:
            self.protocol.sendClose()
            await self.until(lambda: not self.open)


def _told(answer: Any) -> Any:
    """An answer, in which no error tells a secret."""
    for one in answer if isinstance(answer, list) else [answer]:
        assert_tells_nothing(one)
    return answer


class HTTPClient(Client):
    """A client that sends commands by requests, over persistent connections."""

    def __init__(self, reactor: Any, port: int, room: str = "lobby") -> None:
        super().__init__(reactor, port, room)
        self.version = ""
        self._pool = HTTPConnectionPool(reactor)
        self._pool.retryAutomatically = False
        self._agent = Agent(reactor, pool=self._pool)

    async def get(self, path: str, **query: Any) -> Any:
        """The JSON that a GET answers."""
        url = f"http://127.0.0.1:{self.port}/{path}" + ("?" + urlencode(query) if query else "")
        response = await treq.get(url, agent=self._agent, headers=self._headers(), timeout=DEADLINE)
        return _told(await response.json())

    def _headers(self) -> dict[str, str]:
        return {} if self.client is None else {"Realtime-Client": self.client}

    async def tell(self, **command: Any) -> dict[str, Any]:
        """Give a command, and give the reply."""
        reply: dict[str, Any] = await self._post(command)
        return reply

    async def tell_all(self, commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Give several commands in one request, and give their replies."""
        replies: list[dict[str, Any]] = await self._post(commands)
        return replies

    async def _post(self, body: Any) -> Any:
        url = f"http://127.0.0.1:{self.port}/commands"
        response = await treq.post(url, json=body, agent=self._agent, headers=self._headers(), timeout=DEADLINE)
        return _told(await response.json())

    async def publish(self, data: Any, **fields: Any) -> dict[str, Any]:
        """Publish, and give the reply."""
        return await self.tell(type="publish", room=self.room, data=data, **fields)

    async def stop(self) -> None:
        """Close the connections."""
        await self._pool.closeCachedConnections()


class PollClient(HTTPClient):
    """A reader by long poll, over one kept connection for its polls and one for its commands."""

    _polling: Deferred[Any] | None = None

    async def start(self, **query: Any) -> None:
        """Poll once, and go on polling."""
        await self._poll(query)
        self._polling = Deferred.fromCoroutine(self._go_on())
        self._polling.addErrback(lambda failure: failure.trap(CancelledError, ResponseNeverReceived))
        self._polling.addErrback(lambda failure: failure.printTraceback())

    async def _go_on(self) -> None:
        while True:
            await self._poll({})

    async def _poll(self, query: dict[str, Any]) -> None:
        since = {} if self.position is None else {"since": self.position}
        if self.properties.position:
            since["properties"] = self.properties.position
        query = {"room": self.room, "presence": self.version, **since, **query}
        answer = await self.get("poll", **query)
        self.client = answer["client"]
        self.version = answer["presence"][self.room]
        for event in answer["events"]:
            self.take(event)
        self.position = answer["positions"][self.room]
        if "properties" in answer:
            self.properties.position = answer["properties"][self.room]

    async def stop(self) -> None:
        """Stop polling, and close the connections."""
        if self._polling is not None:
            self._polling.cancel()
        await super().stop()


class EventStream(Watched, Protocol):
    """The connection of an event stream: reads as a browser's EventSource does, and can stop reading.

    :ivar head: the head of the answer.
    :ivar text: what came after it, where it is no stream.
    :ivar blocks: how many there were, comments included.
    :ivar ids: each id that was given, after how many events.
    :ivar retry: the milliseconds to wait before coming back.
    :ivar chunks: what has come in chunks, as it came.
    :ivar ended: whether the last chunk has come.
    """

    def __init__(self, reactor: Any, request: bytes, take: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self.reactor = reactor
        self.head = b""
        self.blocks = self.comments = 0
        self.ids: list[tuple[int, str]] = []
        self.events: list[dict[str, Any]] = []
        self.retry: int | None = None
        self.lost = False
        self._request = request
        self._take = take
        self._data = b""
        self._decoder: _ChunkedTransferDecoder | None = None
        self.chunks: list[bytes] = []
        self.ended = False

    def connectionMade(self) -> None:
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        if self._decoder is not None:
            self._decoder.dataReceived(data)
            data = b""
        self._data += data
        if not self.head and b"\r\n\r\n" in self._data:
            self.head, _, self._data = self._data.partition(b"\r\n\r\n")
            if b"\r\nTransfer-Encoding: chunked" in self.head:
                self._decoder = _ChunkedTransferDecoder(self._chunk_received, self._end_received)
                rest, self._data = self._data, b""
                self._decoder.dataReceived(rest)
        if self.is_stream:
            *blocks, self._data = self._data.split(b"\n\n")
            for block in blocks:
                self._take_block(block.decode())
        self.notice()

    def _chunk_received(self, data: bytes) -> None:
        self.chunks.append(data)
        self._data += data

    def _end_received(self, rest: bytes) -> None:
        assert not rest
        self.ended = True

    @property
    def is_stream(self) -> bool:
        """Whether the answer is one."""
        return self.head.startswith(b"HTTP/1.1 200") and b"\r\nContent-Type: text/event-stream" in self.head

    @property
    def last_id(self) -> str:
        """The value that a browser would send as ``Last-Event-ID``."""
        return self.ids[-1][1] if self.ids else ""

    @property
    def text(self) -> bytes:
        """The bytes that were received and are no whole block."""
        return self._data

    def _take_block(self, block: str) -> None:
        self.blocks += 1
        fields = dict(line.split(": ", 1) if line != ":" else ("", "") for line in block.split("\n"))
        self.comments += "" in fields
        self.retry = int(fields.get("retry", self.retry or 0))
        if "data" in fields:
            event = json.loads(fields["data"])
            assert fields.get("event", "message") == event["type"], block
            self.events.append(event)
            self._take(event)
        if "id" in fields:
            self.ids.append((len(self.events), fields["id"]))

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True
        self.notice()


class EventClient(HTTPClient):
    """A reader of server-sent events, whose commands are requests."""

    stream: EventStream | None = None

    async def start(self, **query: Any) -> None:
        """Open the stream, and wait for the room."""
        await self.connect({"room": self.room, **query})
        await self.until(lambda: bool(self.of_type("joined")))

    async def connect(self, query: Mapping[str, Any] | Sequence[tuple[str, Any]], *headers: str) -> EventStream:
        """Open a stream, perhaps with further headers, and wait for the head of the answer."""
        stream = self.stream = EventStream(self.reactor, self.request(query, headers), self.take)
        endpoint = clientFromString(self.reactor, f"tcp:127.0.0.1:{self.port}:timeout={DEADLINE:.0f}")
        await connectProtocol(endpoint, stream)
        await stream.until(lambda: stream.head or stream.lost)
        return stream

    def request(self, query: Mapping[str, Any] | Sequence[tuple[str, Any]], headers: Sequence[str]) -> bytes:
        """The request for a stream."""
        client = [] if self.client is None else [f"Realtime-Client: {self.client}"]
        lines = [f"GET /sse?{urlencode(query)} HTTP/1.1", "Host: localhost", *client, *headers, "", ""]
        return "\r\n".join(lines).encode()

    @property
    def open(self) -> bool:
        """Whether there is a stream."""
        return self.stream is not None and not self.stream.lost

    def take(self, event: dict[str, Any]) -> None:
        if event["type"] == "welcome":
            self.client = event["client"]
        super().take(event)

    def pause(self) -> None:
        """Stop reading the stream."""
        assert self.stream is not None
        self.stream.transport.pauseProducing()

    def resume(self) -> None:
        """Read it on."""
        assert self.stream is not None
        self.stream.transport.resumeProducing()

    async def close(self) -> None:
        """Cut the stream."""
        stream = self.stream
        if stream is not None and not stream.lost:
            stream.transport.abortConnection()
            await stream.until(lambda: stream.lost)

    async def stop(self) -> None:
        """Cut the stream, and close the connections."""
        await self.close()
        await super().stop()
