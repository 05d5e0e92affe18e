"""A link over a WebSocket, by Autobahn."""

from __future__ import annotations

import re
from collections.abc import Mapping
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

from realtime_chat.client.address import Address, unsent
from realtime_chat.client.errors import Refused
from realtime_chat.client.link import Disconnect, Identity, JoinRequest, Link, LinkListener, refusal

__all__ = ["WebSocketLink"]

_CLOSE_WITHIN = 1.0
_LARGEST = 64 * 1024 * 1024
_PING = 25.0
_PONG = 15.0
_TOO_LARGE = 1009
_REFUSED = re.compile(r"upgrade failed \[([0-9]{3})\]")
_COME_BACK = range(4000, 4500)
_STAY_AWAY = range(4500, 5000)


class WebSocketLink(Link):
    """One WebSocket; its commands and events are the protocol's own."""

    kind = "websocket"

    def __init__(self, address: Address, above: LinkListener, identity: Identity) -> None:
        self._address = address
        self._above = above
        self._identity = identity
        self._rooms: set[str] = set()
        self._joining: dict[str, str] = {}
        self._last_id = 0
        self._connecting: Deferred[Any] | None = None
        self._socket: _Socket | None = None
        self._closed = False
        self._gone: Deferred[None] = Deferred()

    def open(self) -> None:
        """Connect, shake hands and say hello."""
        # In a turn of its own: what fails at once is told later, too.
        self._connecting = deferLater(self._address.reactor, 0, self._connect)
        self._connecting.addCallbacks(self._connected, self._not_connected)

    def _connect(self) -> Deferred[Any]:
        return self._address.endpoint().connect(_factory(self._address, self))

    def _connected(self, socket: _Socket) -> None:
        self._connecting = None
        self._socket = socket

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        self.lost(Disconnect(self._address.explain(failure)))

    # What the core wants

    def join(self, wish: JoinRequest) -> None:
        if wish.room in self._rooms:
            self.send({"type": "leave", "room": wish.room})
        self._rooms.add(wish.room)
        self._last_id += 1
        id = f"join-{self._last_id}"
        self._joining[id] = wish.room
        self.send({"type": "join", "id": id, **wish.fields()})

    def leave(self, room: str) -> None:
        self._rooms.discard(room)
        self.send({"type": "leave", "room": room})

    def send(self, command: Mapping[str, Any]) -> None:
        if self._socket is not None and not self._closed:
            self._socket.send(msgspec.json.encode(command))

    def pause(self) -> None:
        if self._socket is not None:
            self._socket.pause()

    def resume(self) -> None:
        if self._socket is not None:
            self._socket.resume()

    def close(self, leaving: bool = False) -> Deferred[None]:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            return succeed(None)
        if self._socket is None or self._socket.gone:
            return succeed(None)
        self._socket.hang_up()
        return self._gone

    # What the socket tells

    def shaken_hands(self, socket: _Socket) -> None:
        """It is open: say hello."""
        self._socket = socket
        self.send({**self._identity.hello(), "id": "hello"})

    def received(self, event: dict[str, Any]) -> None:
        """An event or a reply came."""
        id = event.get("id")
        if self._closed:
            return
        if id == "hello":
            self._answered(event)
        elif id in self._joining and event["type"] == "error":
            room = self._joining.pop(id)
            self._rooms.discard(room)
            self._above.refused(self, room, refusal(event))
        elif event.get("type") != "left":
            self._joining.pop(id, None)  # type: ignore[arg-type]
            self._above.received(self, event)

    def _answered(self, welcome: dict[str, Any]) -> None:
        if welcome.get("type") == "welcome":
            assert self._socket is not None
            self._socket.expect(float(welcome.get("ping", _PING)) + _PONG)
            self._above.opened(self, welcome)
        else:
            error = refusal(welcome)
            self.lost(Disconnect(error.message, error=error, permanent=not error.temporary))

    def lost(self, loss: Disconnect) -> None:
        """It is no more."""
        if not self._closed:
            self._above.closed(self, loss)

    def explain(self, failure: Failure) -> str:
        """Why its connection ended."""
        return self._address.explain(failure)

    def gone(self) -> None:
        """Its connection is no more, either."""
        self._gone.callback(None)


class _Socket(WebSocketClientProtocol):
    """What Autobahn calls.

    :ivar gone: whether the connection is no more.
    """

    link: WebSocketLink
    transport: Any
    gone = False
    _opened = False
    _heard = True
    _quiet = False
    _unsent = 0
    _silence: IDelayedCall | None = None
    _end = Failure(ConnectionDone())

    def onOpen(self) -> None:
        self._opened = True
        self.link.shaken_hands(self)

    def dataReceived(self, data: bytes) -> None:
        self._heard = True
        super().dataReceived(data)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        try:
            event = msgspec.json.decode(payload, type=dict[str, Any])
        except msgspec.DecodeError:
            self.link.lost(Disconnect("the server sent what isn't JSON"))
        else:
            self.link.received(event)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.gone = True
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None
        self.link.lost(
            _why(code, reason or "the connection was lost") if self._opened else Disconnect(self._not_opened())
        )
        self.link.gone()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end = reason
        super().connectionLost(reason)

    def _not_opened(self) -> str:
        """Why there was no handshake; what Autobahn says of an answer stands in brackets."""
        refused = _REFUSED.search(self.wasNotCleanReason or "")
        if refused:
            what = f"/ws was answered with status {refused[1]} and no WebSocket"
            return f"{what}; is this the URL of a realtime_chat daemon?"
        return self.link.explain(self._end)

    def send(self, data: bytes) -> None:
        """Send one frame, if it can still be sent."""
        if self.state == self.STATE_OPEN:
            self.sendMessage(data)

    def pause(self) -> None:
        """Read nothing; silence means nothing now."""
        self._quiet = True
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read on."""
        self._quiet = False
        self._heard = True
        self.transport.resumeProducing()

    def hang_up(self) -> None:
        """Close, by the book as far as the handshake is done."""
        if self._quiet:
            self.resume()
        if self.state == self.STATE_OPEN:
            self.sendClose()
        else:
            self.transport.abortConnection()

    def expect(self, seconds: float) -> None:
        """Take the server for lost when nothing comes in so many seconds, and it takes nothing of what waits for it."""
        self._silence = self.factory.reactor.callLater(seconds, self._listen, seconds)

    def _listen(self, seconds: float) -> None:
        self._silence = None
        before, self._unsent = self._unsent, unsent(self.transport)
        if self._heard or self._quiet or self._unsent < before:
            self._heard = False
            self.expect(seconds)
        else:
            self.link.lost(Disconnect("the server fell silent"))
            self.transport.abortConnection()


def _why(code: int | None, reason: str) -> Disconnect:
    """What a close code means (``docs/protocol.rst``, "Close codes")."""
    if code in _STAY_AWAY:
        why = f"the server closed the connection, not to come back: {reason}"
        return Disconnect(why, error=Refused("closed", why), permanent=True)
    if code in _COME_BACK:
        return Disconnect(f"the server closed the connection: {reason}")
    return Disconnect(reason, too_large=code == _TOO_LARGE)


def _factory(address: Address, link: WebSocketLink) -> WebSocketClientFactory:
    scheme, path = "wss" if address.secure else "ws", urlsplit(address.url).path
    factory = WebSocketClientFactory(f"{scheme}://host{path}ws", reactor=address.reactor, protocols=["realtime.v1"])
    # By itself Autobahn leaves the brackets of an IPv6 address out, and takes a host called unix for a socket.
    factory.host, factory.port = address.host, address.port
    factory.setProtocolOptions(
        openHandshakeTimeout=0,  # the core has a deadline for all of it
        closeHandshakeTimeout=_CLOSE_WITHIN,
        serverConnectionDropTimeout=_CLOSE_WITHIN,
        maxMessagePayloadSize=_LARGEST,
    )

    class LinkedSocket(_Socket):
        pass

    LinkedSocket.link = link
    factory.protocol = LinkedSocket
    factory.noisy = False
    return factory
