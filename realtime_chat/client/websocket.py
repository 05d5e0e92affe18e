"""A link over a WebSocket, by Autobahn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import msgspec
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from realtime_chat.client.errors import Refused
from realtime_chat.client.link import (
    LARGEST_EVENT,
    ClientIdentity,
    Disconnect,
    JoinRequest,
    Link,
    LinkListener,
    refusal,
)
from realtime_chat.client.server_url import ServerURL, unsent_bytes

_CLOSE_WITHIN = 1.0
_PING = 25.0
_PONG = 15.0
_MESSAGE_TOO_BIG = 1009
_STATUS = re.compile(r"upgrade failed \[([0-9]{3})\]")
_RECONNECT = range(4000, 4500)
_DONT_RECONNECT = range(4500, 5000)


class WebSocketLink(Link):
    """A link over one WebSocket. Commands and events go over it unchanged."""

    kind = "websocket"

    def __init__(self, server: ServerURL, listener: LinkListener, identity: ClientIdentity) -> None:
        self.server = server
        self._listener = listener
        self._identity = identity
        self._rooms: set[str] = set()
        self._joining: dict[str, str] = {}
        self._last_id = 0
        self._connecting: Deferred[Any] | None = None
        self._protocol: _ClientProtocol | None = None
        self._closed = False

    def open(self) -> None:
        """Connect, shake hands and say hello."""
        # In a later turn of the reactor, so that an error that comes at once is reported later, too.
        self._connecting = deferLater(self.server.reactor, 0, self._connect)
        self._connecting.addCallbacks(self._connected, self._not_connected)

    def _connect(self) -> Deferred[Any]:
        return self.server.endpoint().connect(_factory(self.server, self))

    def _connected(self, protocol: _ClientProtocol) -> None:
        self._connecting = None
        self._protocol = protocol

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        self.disconnected(Disconnect(self.server.explain(failure)))

    # The Link interface

    def join(self, request: JoinRequest) -> None:
        if request.room in self._rooms:
            self.send({"type": "leave", "room": request.room})
        self._rooms.add(request.room)
        self._last_id += 1
        id = f"join-{self._last_id}"
        self._joining[id] = request.room
        self.send({"type": "join", "id": id, **request.fields()})

    def leave(self, room: str) -> None:
        self._rooms.discard(room)
        self.send({"type": "leave", "room": room})

    def send(self, command: Mapping[str, Any]) -> None:
        if self._protocol is not None and not self._closed:
            self._protocol.send(msgspec.json.encode(command))

    def renew(self, token: str) -> None:
        self.send({"type": "hello", "id": "renew", "token": token})

    def pause(self) -> None:
        if self._protocol is not None:
            self._protocol.pause()

    def resume(self) -> None:
        if self._protocol is not None:
            self._protocol.resume()

    def close(self, leaving: bool = False) -> Deferred[None]:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            return succeed(None)
        if self._protocol is None:
            return succeed(None)
        if not self._protocol.lost.called:
            self._protocol.hang_up()
        return self._protocol.lost

    # What the protocol reports

    def handshaken(self, protocol: _ClientProtocol) -> None:
        """The WebSocket is open: say hello."""
        self._protocol = protocol
        self.send({**self._identity.hello(), "id": "hello"})

    def received(self, event: dict[str, Any]) -> None:
        """An event or a reply has come."""
        id = event.get("id")
        if self._closed:
            return
        if id == "hello":
            self._answered(event)
        elif id in self._joining and event["type"] == "error":
            room = self._joining.pop(id)
            self._rooms.discard(room)
            self._listener.refused(self, room, refusal(event))
        elif id == "renew":
            self._listener.renewed(self, event)
        elif event.get("type") != "left" or "reason" in event:
            self._joining.pop(id, None)  # type: ignore[arg-type]
            self._listener.received(self, event)

    def _answered(self, welcome: dict[str, Any]) -> None:
        if welcome.get("type") == "welcome":
            assert self._protocol is not None
            self._protocol.watch(float(welcome.get("ping", _PING)) + _PONG)
            self._listener.opened(self, welcome)
        else:
            self.disconnected(Disconnect.by_error(refusal(welcome)))

    def disconnected(self, disconnect: Disconnect) -> None:
        """The WebSocket can't be used any more."""
        if not self._closed:
            self._listener.closed(self, disconnect)


class _ClientProtocol(WebSocketClientProtocol):
    """The protocol that Autobahn calls.

    :ivar lost: fires when the connection is gone.
    :ivar _is_alive: whether something has come since the last check.
    :ivar _unsent: how many bytes were unsent at the last check.
    """

    transport: Any
    _opened = False
    _is_alive = True
    _paused = False
    _unsent = 0
    _timer: IDelayedCall | None = None
    _reason = Failure(ConnectionDone())

    def __init__(self, link: WebSocketLink) -> None:
        super().__init__()
        self.link = link
        self.lost: Deferred[None] = Deferred()

    def onOpen(self) -> None:
        self._opened = True
        self.link.handshaken(self)

    def dataReceived(self, data: bytes) -> None:
        self._is_alive = True
        super().dataReceived(data)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        try:
            event = msgspec.json.decode(payload, type=dict[str, Any])
        except msgspec.DecodeError:
            self.link.disconnected(Disconnect("the server sent what isn't JSON"))
        else:
            self.link.received(event)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.link.disconnected(
            _disconnect(code, reason or "the connection was lost") if self._opened else Disconnect(self._why_not_open())
        )
        self.lost.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._reason = reason
        super().connectionLost(reason)

    def _why_not_open(self) -> str:
        """Why the handshake failed. Autobahn puts the status of the response in brackets."""
        refused = _STATUS.search(self.wasNotCleanReason or "")
        if refused:
            what = f"/ws was answered with status {refused[1]} and no WebSocket"
            return f"{what}; is this the URL of a realtime_chat daemon?"
        return self.link.server.explain(self._reason)

    def send(self, data: bytes) -> None:
        """Send one message, if the WebSocket is open."""
        if self.state == self.STATE_OPEN:
            self.sendMessage(data)

    def pause(self) -> None:
        """Stop reading; there is no time-out meanwhile."""
        self._paused = True
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read on after :meth:`pause`."""
        self._paused = False
        self._is_alive = True
        self.transport.resumeProducing()

    def hang_up(self) -> None:
        """Close: with a closing handshake if the WebSocket is open, else at once."""
        if self._paused:
            self.resume()
        if self.state == self.STATE_OPEN:
            self.sendClose()
        else:
            self.transport.abortConnection()

    def watch(self, seconds: float) -> None:
        """Abort the connection when for so many seconds nothing comes and none of the unsent bytes leave."""
        self._timer = self.factory.reactor.callLater(seconds, self._check, seconds)

    def _check(self, seconds: float) -> None:
        self._timer = None
        before, self._unsent = self._unsent, unsent_bytes(self.transport)
        if self._is_alive or self._paused or self._unsent < before:
            self._is_alive = False
            self.watch(seconds)
        else:
            self.link.disconnected(Disconnect("the server fell silent"))
            self.transport.abortConnection()


def _disconnect(code: int | None, reason: str) -> Disconnect:
    """What a close code means (``docs/protocol.rst``, "Close codes")."""
    if code in _DONT_RECONNECT:
        return Disconnect.by_error(Refused("closed", f"the server closed the connection, not to come back: {reason}"))
    if code in _RECONNECT:
        return Disconnect(f"the server closed the connection: {reason}")
    return Disconnect(reason, too_large=code == _MESSAGE_TOO_BIG)


def _factory(server: ServerURL, link: WebSocketLink) -> WebSocketClientFactory:
    scheme, path = "wss" if server.secure else "ws", urlsplit(server.url).path
    factory = WebSocketClientFactory(f"{scheme}://host{path}ws", reactor=server.reactor, protocols=["realtime.v1"])
    # Autobahn would leave out the brackets of an IPv6 address, and would take a host called unix for a Unix socket.
    factory.host, factory.port = server.host, server.port
    factory.setProtocolOptions(
        openHandshakeTimeout=0,  # the connector has a deadline for all of it
        closeHandshakeTimeout=_CLOSE_WITHIN,
        serverConnectionDropTimeout=_CLOSE_WITHIN,
        maxMessagePayloadSize=LARGEST_EVENT,
    )

    factory.protocol = partial(_ClientProtocol, link)  # type: ignore[assignment]
    factory.noisy = False
    return factory
