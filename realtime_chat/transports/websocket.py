"""WebSocket, by Autobahn: all that knows of Autobahn is in this file."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.interfaces import IPushProducer
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from realtime_chat import codec
from realtime_chat.codec import Entry
from realtime_chat.errors import Goodbye, RealtimeError
from realtime_chat.http.answers import JSONResource
from realtime_chat.http.site import RealtimeRequest
from realtime_chat.http.wishes import Wishes, read_wishes
from realtime_chat.hub import Hub
from realtime_chat.interfaces import R
from realtime_chat.model import Position
from realtime_chat.session import Session
from realtime_chat.transports.fanout import Frames, is_direct, queued, send_frames, send_to_all, unsent
from realtime_chat.wheel import Alarm

__all__ = ["SUBPROTOCOL", "WebSocketFactory", "WebSocketResource"]

SUBPROTOCOL = "realtime.v1"

_TEXT = 0x81
_CLOSE_WAIT = 2.0
_MUCH = 65536
_MAX_FRAGMENTS = 64
_MAX_PINGS = 100
_VERSION = b"13"
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_ONCE = (b"Upgrade", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version", b"Sec-WebSocket-Protocol")


def frame(payload: bytes) -> bytes:
    """One unmasked text frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((_TEXT, size)) + payload
    if size < 65536:
        return bytes((_TEXT, 126)) + size.to_bytes(2, "big") + payload
    return bytes((_TEXT, 127)) + size.to_bytes(8, "big") + payload


class _WebSocketFanout:
    """The same frames for every WebSocket."""

    name = "websocket"

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> Frames:
        return Frames([frame(entry.json) for entry in entries])

    def send(self, batch: Frames, readers: Collection[R]) -> list[tuple[R, int]]:
        return send_to_all(batch, readers)


@implementer(IPushProducer)
class RealtimeProtocol(WebSocketServerProtocol):
    """One WebSocket, as the transport of a session.

    It is its own Twisted transport's producer: what the socket doesn't take makes it full, and it says so to the
    session again when the socket has drained. While it is full, nothing is read from it.
    """

    fanout: ClassVar[_WebSocketFanout] = _WebSocketFanout()
    factory: WebSocketFactory
    transport: Any
    session: Session | None = None
    full = False
    _direct = False
    _heard = True
    _pings = 0
    _fragments = 0
    _alarm: Alarm | None = None
    _slow: Alarm | None = None

    def __init__(self, wishes: Wishes) -> None:
        super().__init__()
        self._wishes = wishes

    # What Autobahn tells

    def onConnect(self, request: Any) -> str | None:
        return SUBPROTOCOL if SUBPROTOCOL in request.protocols else None

    def onOpen(self) -> None:
        hub = self.factory.hub
        self._direct = is_direct(self.transport)
        # A pull producer is told each time that the transport has drained, a push producer only after a pause. Over
        # TLS a pull producer would be asked on every turn.
        self.transport.registerProducer(self, not self._direct)
        self.session = Session(hub, self)
        self._schedule_ping()
        for room, since in self._wishes.rooms:
            text = None if since is None else str(since)
            self.session.execute(codec.Join(room=room, since=text, last=self._wishes.last))

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        session = self.session
        if session is None:
            return
        if isBinary:
            session.execute(codec.UnreadableCommand("bad_request", "a command is a text frame, this one was binary"))
        else:
            session.receive(payload)
        if session.busy:
            self._stop_reading()

    def onMessageBegin(self, isBinary: bool) -> None:
        self._fragments = 0
        super().onMessageBegin(isBinary)

    def onMessageFrameBegin(self, length: int) -> None:
        self._fragments += 1
        if self._fragments > _MAX_FRAGMENTS:
            self._dismiss("too_many_frames")
        super().onMessageFrameBegin(length)

    def onPing(self, payload: bytes) -> None:
        self._pings += 1
        if self._pings > _MAX_PINGS:
            self._dismiss("too_many_frames")
        elif not self.full:
            super().onPing(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._quiet()
        if self.session is not None:
            self.session.close()
            self.session = None

    def onCloseFrame(self, code: int, reasonRaw: bytes) -> bool | None:
        done = super().onCloseFrame(code, reasonRaw)
        self._part()
        return done

    def _fail_connection(self, code: int = 1002, reason: str = "") -> None:
        super()._fail_connection(code, reason)
        self._part()

    def _part(self) -> None:
        """One of the two sides has said that it closes: deliver nothing more, and don't wait for ever."""
        if self.session is not None:
            self.session.close()
            self._quiet()
            self._alarm = self.factory.hub.wheel.call_later(_CLOSE_WAIT, self._drop)

    def dropConnection(self, abort: bool = False) -> None:  # noqa: N802
        # Autobahn resets the connection once it has heard a close, even where its own is not on its way yet.
        super().dropConnection(abort and not queued(self.transport))

    def dataReceived(self, data: bytes) -> None:
        self._heard = True
        self._dataReceived(data)

    # What the session wants

    @property
    def queued(self) -> int:
        return queued(self.transport)

    def send(self, data: bytes) -> None:
        if self.state == self.STATE_OPEN:
            self.transport.write(frame(data))
            if self._direct and queued(self.transport) > _MUCH:  # a pull producer is not told
                self._become_full()

    def send_batch(self, batch: Frames) -> int:
        if self.full or self.state != self.STATE_OPEN:
            return 0
        if not self._direct:
            self.transport.write(batch.data)
            return batch.count
        taken, drained = send_frames(self.transport, batch)
        if not drained:
            self._become_full()
        return taken

    def reset(self, room: str, position: Position) -> None:
        self.send(codec.encode_reset(room, position))

    def pumped(self) -> None:
        pass

    def ready(self) -> None:
        self._read_on()

    def goodbye(self, goodbye: Goodbye) -> None:
        self.send(codec.encode_goodbye(goodbye))
        self._quiet()
        if self.state == self.STATE_OPEN:
            self.sendClose(goodbye.code, goodbye.reason)
            self.transport.resumeProducing()  # to hear the other side's close
            self._alarm = self.factory.hub.wheel.call_later(_CLOSE_WAIT, self._drop)

    def _dismiss(self, reason: str) -> None:
        if self.session is not None:
            self.session.dismiss(reason)

    def _drop(self) -> None:
        self.wasClean = True  # for Autobahn, which would warn of every client that doesn't answer a close
        self.dropConnection()
        self.transport.abortConnection()

    # What the Twisted transport tells, of which this is the producer

    def pauseProducing(self) -> None:
        self._become_full()

    def resumeProducing(self) -> None:
        if not self.full:
            return
        self.full = False
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
        self._read_on()
        # In the next turn but one: what the client has sent meanwhile is read before the socket is filled again, or a
        # slow reader of a busy room could never leave it.
        clock = self.factory.hub.clock
        clock.callLater(0, clock.callLater, 0, self._drained)

    def _drained(self) -> None:
        if self.session is not None and not self.full:
            self.session.drained()
            self._read_on()

    def stopProducing(self) -> None:
        """The connection is lost; ``onClose`` says so, too."""

    def _become_full(self) -> None:
        if self.full:
            return
        self.full = True
        self._stop_reading()
        self._watch(unsent(self.transport), self.factory.hub.limits.slow)

    def _watch(self, left: int, patience: float) -> None:
        """Look now and then whether a full connection drains at all."""
        step = self.factory.hub.limits.slow / 6
        self._slow = self.factory.hub.wheel.call_later(step, lambda: self._look(left, patience - step))

    def _look(self, left: int, patience: float) -> None:
        now = unsent(self.transport)
        if now < left:
            self._watch(now, self.factory.hub.limits.slow)
        elif patience > 0:
            self._watch(left, patience)
        else:
            self._dismiss("slow")

    def _stop_reading(self) -> None:
        self.transport.pauseProducing()

    def _read_on(self) -> None:
        if not self.full and self.session is not None and not self.session.busy:
            self.transport.resumeProducing()

    # Pings

    def _schedule_ping(self) -> None:
        self._alarm = self.factory.hub.wheel.call_later(self.factory.hub.limits.ping, self._ping)

    def _ping(self) -> None:
        self._pings = 0
        self._heard = False
        if not self.full:
            self.sendPing()
        self._alarm = self.factory.hub.wheel.call_later(self.factory.hub.limits.pong, self._expect_pong)

    def _expect_pong(self) -> None:
        if self._heard or self.full:
            self._schedule_ping()
        else:
            self._dismiss("silent")

    def _quiet(self) -> None:
        for alarm in (self._alarm, self._slow):
            if alarm is not None:
                alarm.cancel()
        self._alarm = self._slow = None


class WebSocketFactory(WebSocketServerFactory):
    """Makes the protocols; used by :class:`WebSocketResource`, never given to a port."""

    protocol = RealtimeProtocol  # type: ignore[assignment]

    def __init__(self, reactor: Any, hub: Hub) -> None:
        super().__init__(reactor=reactor, server="")
        self.hub = hub
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            utf8validateIncoming=False,  # the JSON decoder does it
            maxFramePayloadSize=hub.limits.max_message,
            maxMessagePayloadSize=hub.limits.max_message,
            failByDrop=False,
            openHandshakeTimeout=0,  # the Site has a deadline for headers
            closeHandshakeTimeout=0,  # goodbye() has
            tcpNoDelay=True,
            autoPingInterval=0,  # the wheel pings
            allowedOrigins=["*"],  # the Site has checked it
            allowNullOrigin=True,
        )

    def build(self, wishes: Wishes) -> RealtimeProtocol:
        """A protocol whose session reads ``wishes`` from the start."""
        protocol = RealtimeProtocol(wishes)
        protocol.factory = self
        return protocol


class WebSocketResource(JSONResource):
    """``/ws``: turns a GET into a WebSocket."""

    isLeaf = True

    def __init__(self, factory: WebSocketFactory) -> None:
        super().__init__()
        self._factory = factory

    def render_GET(self, request: RealtimeRequest) -> int:
        _check_upgrade(request)
        self._factory.hub.check_open()
        wishes = read_wishes(request.args, self._factory.hub.limits.max_limit)
        protocol = self._factory.build(wishes)
        head = _handshake(request)
        protocol.makeConnection(request.channel.take_over(protocol))
        protocol.dataReceived(head)
        return NOT_DONE_YET


def _check_upgrade(request: RealtimeRequest) -> None:
    if b"websocket" not in _tokens(request, b"Upgrade"):
        raise RealtimeError("upgrade_required", "this is a WebSocket's address; plain HTTP has poll and rooms")
    if request.has_body:
        raise RealtimeError("bad_request", "an upgrade has no body")
    if request.clientproto != b"HTTP/1.1" or b"upgrade" not in _tokens(request, b"Connection"):
        raise RealtimeError("bad_request", "a WebSocket begins with HTTP/1.1 and Connection: Upgrade")
    for header in _ONCE:
        if len(request.requestHeaders.getRawHeaders(header, ())) > 1:
            raise RealtimeError("bad_request", f"the header {header.decode()} is given at most once")
    if request.getHeader(b"Sec-WebSocket-Version") != _VERSION:
        request.setHeader(b"Sec-WebSocket-Version", _VERSION)
        raise RealtimeError("upgrade_required", "a WebSocket says Sec-WebSocket-Version: 13")
    if not _KEY.fullmatch(request.getHeader(b"Sec-WebSocket-Key") or b""):
        raise RealtimeError("bad_request", "a Sec-WebSocket-Key is 16 bytes in base64")


def _tokens(request: RealtimeRequest, header: bytes) -> set[bytes]:
    """The words of a header that is a list, in lower case."""
    values = b",".join(request.requestHeaders.getRawHeaders(header, ()))
    return {token.strip().lower() for token in values.split(b",")}


def _handshake(request: RealtimeRequest) -> bytes:
    """The request again, for Autobahn to read: only what was checked, as it would refuse it in words of its own."""
    offered = (request.getHeader(b"Sec-WebSocket-Protocol") or b"").split(b",")
    chosen = SUBPROTOCOL.encode() in [name.strip() for name in offered]
    lines = [
        b"GET /ws HTTP/1.1",
        b"Host: localhost",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: " + _VERSION,
        b"Sec-WebSocket-Key: " + (request.getHeader(b"Sec-WebSocket-Key") or b""),
        *[b"Sec-WebSocket-Protocol: " + SUBPROTOCOL.encode()] * chosen,
    ]
    return b"\r\n".join([*lines, b"", b""])
