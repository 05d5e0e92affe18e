"""WebSocket, by Autobahn: all that knows of Autobahn is in this file.

Autobahn reads what is fragmented, large, compressed or wrong, and closes by the book. What is done a thousand times a
second is done here: the handshake, whose request the Site has read and checked already; commands that come as one
whole masked text frame; and frames that are sent. Its defaults are class attributes, so that an idle connection costs
little memory.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflate, PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.protocol import TrafficStats
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET

from realtime_chat.core.command_session import CommandSession
from realtime_chat.core.hub import Hub
from realtime_chat.core.interfaces import R
from realtime_chat.core.turns import Turns
from realtime_chat.core.wheel import Stall, Timeout
from realtime_chat.http.answers import JSONResource
from realtime_chat.http.site import RealtimeRequest
from realtime_chat.http.subscribe_params import SubscribeParams, read_subscribe_params
from realtime_chat.transports.backpressure import BackpressuredSender
from realtime_chat.transports.fast.direct_send import Frames, Send, acknowledged_bytes, send_to_all, unsent
from realtime_chat.transports.frames import deflated_frame, frame, short_frame, unmask
from realtime_chat.values import codec, commands
from realtime_chat.values.codec import Entry
from realtime_chat.values.errors import Goodbye, RealtimeError, UnreadableCommand
from realtime_chat.values.model import Position

__all__ = ["SUBPROTOCOL", "WebSocketFactory", "WebSocketResource"]

SUBPROTOCOL = "realtime.v1"

_CLOSE_WAIT = 2.0
_MAX_FRAGMENTS = 64
_MAX_PINGS = 100
_SHORT = 1024
_RATE = 500
"""Bytes a second at which a message goes on that was begun, as bodies do over HTTP."""

_MANY_PIECES = 64
"""So many pieces of a frame are joined into one, as each takes more memory than a few bytes do."""

_MUCH = 4096
"""Bytes before a ping that a client may need more time for than for the ping itself."""
_VERSION = b"13"
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_ONCE = (b"Upgrade", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version", b"Sec-WebSocket-Protocol")
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


_FALSE_AT_REST = (
    "inside_message",
    "wasMaxFramePayloadSizeExceeded",
    "wasMaxMessagePayloadSizeExceeded",
    "closedByMe",
    "failedByMe",
    "droppedByMe",
    "wasClean",
    "wasServingFlashSocketPolicyFile",
)
_NONE_AT_REST = (
    "current_frame",
    "trackedTimings",
    "utf8validator",
    "wasNotCleanReason",
    "localCloseCode",
    "localCloseReason",
    "remoteCloseCode",
    "remoteCloseReason",
    "closeHandshakeTimeoutCall",
    "openHandshakeTimeoutCall",
    "autoPingTimeoutCall",
    "autoPingPending",
    "autoPingPendingCall",
    "_perMessageCompress",
)
_AT_REST: Mapping[str, Any] = MappingProxyType(
    {
        "CONFIG_ATTRS": (),
        "state": WebSocketServerProtocol.STATE_OPEN,
        "send_state": WebSocketServerProtocol.SEND_STATE_GROUND,
        "trafficStats": TrafficStats(),
        "websocket_version": 13,
        "data": b"",
        **dict.fromkeys(_FALSE_AT_REST, False),
        **dict.fromkeys(_NONE_AT_REST),
    }
)
"""What Autobahn sets for each connection when it is made, here once for all of them."""


class _WebSocketFanout:
    """The same frames for every WebSocket.

    :param encode: makes a message's frame.
    """

    name = "websocket"

    def __init__(self, encode: Callable[[bytes], bytes]) -> None:
        self._encode = encode

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> Frames:
        return Frames([self._encode(entry.json) for entry in entries])

    def encode_event(self, kind: str, data: bytes) -> Frames:
        return Frames([self._encode(data)])

    def send(
        self, batch: Frames, readers: MutableMapping[R, Send | None], first: Collection[R] = ()
    ) -> list[tuple[R, int]]:
        return send_to_all(batch, readers, first)


_PLAIN = _WebSocketFanout(frame)
_DEFLATED = _WebSocketFanout(deflated_frame)


class RealtimeProtocol(BackpressuredSender, WebSocketServerProtocol):  # type: ignore[misc]  # Autobahn's own bases disagree
    """One WebSocket, as the transport of a session.

    While it is full, its session is busy, or it has had its share of a turn, nothing is read from it. What of a piece
    is not done then stays in ``data``, where Autobahn has what it hasn't read.
    """

    fanout = _PLAIN
    factory: WebSocketFactory
    transport: Any
    current_frame: Any
    session: CommandSession | None = None
    direct_send: Send | None = None
    write_paused = False
    short = _SHORT
    _heard = True
    _pings = 0
    _fragments = 0
    _begun = 0
    _come = 0
    _looked_at: tuple[int, int, float] | None = None
    _share_ends = 0.0
    _waits = False
    _is_in_line = False
    _alarm: Timeout | None = None
    _slow: Stall | None = None

    def __init__(self, factory: WebSocketFactory) -> None:
        self.factory = factory

    @property
    def hub(self) -> Hub:
        return self.factory.hub

    @property
    def may_send(self) -> bool:
        return bool(self.state == self.STATE_OPEN)

    def connectionMade(self) -> None:
        """The handshake is done."""
        self.transport.setTcpNoDelay(True)
        self.open_outlet()
        self._schedule_ping()

    def compress(self, accept: PerMessageDeflateOfferAccept) -> None:
        """Take compressed messages, and send them, as was agreed."""
        self._perMessageCompress = PerMessageDeflate.create_from_offer_accept(True, accept)
        self.fanout = _DEFLATED

    def begin(self, params: SubscribeParams) -> None:
        """Start the session, with the rooms that the URL names."""
        session = self.session = CommandSession(self.factory.hub, self, self, None, params.name)
        for room, since in params.rooms:
            text = None if since is None else str(since)
            session.execute(commands.Join(room=room, since=text, last=params.last))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone, in whatever way."""
        self.state = self.STATE_CLOSED
        self._waits = False
        self.data = b""
        self._quiet()
        self.direct_send = None
        if self.session is not None:
            self.session.close()
            self.session = None

    # What the client sends

    def dataReceived(self, data: bytes) -> None:
        self._heard = True
        if self._waits:  # TLS, for one, gives all that it has, though it should pause
            self.data += data
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        """Do what a piece says, unless it is too much for now."""
        start, size = 0, len(data)
        self._share_ends = 0.0
        if not self.data and self.current_frame is None and not self.inside_message:
            while self.state == self.STATE_OPEN and (found := short_frame(data, start, self.short)) is not None:
                begin, start = found
                self._receive(unmask(data[begin:start], data[begin - 4 : begin]))
                if self._has_to_wait(start < size):
                    self.data = data[start:]
                    return
                if start == size:
                    return
        if start < size:
            self._dataReceived(data[start:])

    def consumeData(self) -> None:
        """Autobahn's loop over what has come, ended where the connection has had its share."""
        while self.state != self.STATE_CLOSED and self.processData():
            if self._has_to_wait(bool(self.data)):
                return

    def _has_to_wait(self, wants_more: bool) -> bool:
        """Read no more for now, if the session is busy, or if more has come than fits the connection's share."""
        if self.session is not None and self.session.busy and self.state == self.STATE_OPEN:
            pass  # and then it says when it is ready
        elif not wants_more:
            return False
        elif not self._share_ends:  # the clock is asked only where more than one frame came
            self._share_ends = self.factory.turns.share()
            return False
        elif self.factory.turns.is_over(self._share_ends):
            self._go_on_later()
        else:
            return False
        self._waits = True
        self.stop_reading()
        return True

    def _go_on_later(self) -> None:
        if not self._is_in_line:
            self._is_in_line = True
            self.factory.turns.later(self._go_on, self.transport.abortConnection)

    def _go_on(self) -> None:
        """Its next share: what it had sent before comes before what is to be read."""
        self._is_in_line = False
        is_busy = self.state == self.STATE_OPEN and (self.session is None or self.session.busy)
        if not self._waits or is_busy:
            return
        self._waits = False
        data, self.data = self.data, b""
        if data:
            self._take(data)
        if self.state != self.STATE_OPEN:
            self.transport.resumeProducing()
        else:
            self.read_on()

    def _receive(self, text: bytes) -> None:
        """Take a whole text message. Invalid UTF-8 fails the connection (RFC 6455, section 8.1)."""
        if self.session is None:
            return
        if text.isascii() or _is_utf8(text):
            self.session.receive(text)
        else:
            self._invalid_payload("a text message is UTF-8, and this one is not")

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if isBinary and self.session is not None:
            error = UnreadableCommand("bad_request", "a command is a text frame, this one was binary")
            self.session.execute(error)
        elif not isBinary:
            self._receive(payload)

    def onMessageBegin(self, isBinary: bool) -> None:
        self._fragments = self._come = 0
        self._begun += 1
        super().onMessageBegin(isBinary)

    def onMessageFrameBegin(self, length: int) -> None:
        self._fragments += 1
        if self._fragments > _MAX_FRAGMENTS:
            self._dismiss("too_many_frames")
        super().onMessageFrameBegin(length)

    def onMessageFrameData(self, payload: bytes) -> None:
        self._come += len(payload)
        super().onMessageFrameData(payload)
        if len(self.frame_data) > _MANY_PIECES:
            self.frame_data = [b"".join(self.frame_data)]

    def onPing(self, payload: bytes) -> None:
        self._pings += 1
        if self._pings > _MAX_PINGS:
            self._dismiss("too_many_frames")
        elif not self.write_paused:
            super().onPing(payload)

    # Closing

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

    def dropConnection(self, abort: bool = False) -> None:
        # Autobahn would reset the connection once it has heard the answer to its own close: the client would take
        # that for a connection that broke. A FIN ends it (RFC 6455, section 7.1.1); _drop is for who never answers.
        self.state = self.STATE_CLOSED
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _drop(self) -> None:
        self.dropConnection()
        self.transport.abortConnection()

    # What the session wants

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Autobahn's own bytes go the way of all others."""
        self.put(data)

    def send(self, data: bytes) -> None:
        if self.state == self.STATE_OPEN:
            self.put(frame(data))

    def buffer_reply(self, data: bytes) -> None:
        super().buffer_reply(frame(data))

    def send_event(self, kind: str, data: bytes) -> None:
        self.send(data)

    def reset(self, room: str, position: Position) -> None:
        self.send(codec.encode_reset(room, position))

    def resume_commands(self) -> None:
        self.read_on()

    def goodbye(self, goodbye: Goodbye) -> None:
        self.send(codec.encode_goodbye(goodbye))
        self._quiet()
        if self.state == self.STATE_OPEN:
            self.sendClose(goodbye.code, goodbye.reason)
            self.transport.resumeProducing()  # to hear the other side's close
            if self._waits:
                self._go_on_later()
            self._alarm = self.factory.hub.wheel.call_later(_CLOSE_WAIT, self._drop)

    def _dismiss(self, reason: str) -> None:
        if self.session is not None:
            self.session.dismiss(reason)

    # What being full means for reading

    def stop_reading(self) -> None:
        self.transport.pauseProducing()

    def read_on(self) -> None:
        if self.write_paused or self.session is None or self.session.busy:
            return
        if self._waits:
            self._go_on_later()
        else:
            self.transport.resumeProducing()

    # Pings

    def _schedule_ping(self) -> None:
        self._alarm = self.factory.hub.wheel.call_within(self.factory.hub.limits.ping, self._ping)

    def _goes_on(self) -> bool:
        """Whether a message that was begun before the ping before has come on since, where anything was read."""
        before, self._looked_at = self._looked_at, None
        if self.write_paused or self._waits or not self.inside_message:
            return True
        now = self.hub.clock.seconds()
        self._looked_at = self._begun, self._come, now
        if before is None or before[0] != self._begun:
            return True
        return self._come - before[1] >= _RATE * (now - before[2])

    def _ping(self) -> None:
        if (self.inside_message or self._looked_at) and not self._goes_on():
            self._dismiss("silent")
            return
        self._pings = 0
        self._heard = False
        ahead, acknowledged = unsent(self.transport), acknowledged_bytes(self.transport)
        if not self.write_paused:
            self.sendPing()
        patience = self.hub.limits.stalled_after if ahead > _MUCH else 0
        self._wait_for_pong(acknowledged, acknowledged + ahead, patience)

    def _wait_for_pong(self, taken: int, ping_at: int, patience: float) -> None:
        """Expect an answer soon. A client that has much to take before it gets the ping may be slow about that.

        :param taken: bytes that it has acknowledged.
        :param ping_at: how many it has acknowledged when it has all that was sent before the ping.
        :param patience: seconds for which it may take nothing of that, and then not answer.
        """
        pong = self.hub.limits.pong
        self._alarm = self.hub.wheel.call_later(pong, lambda: self._expect_pong(taken, ping_at, patience - pong))

    def _expect_pong(self, taken: int, ping_at: int, patience: float) -> None:
        now = min(acknowledged_bytes(self.transport), ping_at)
        if self._heard or self.write_paused or self._waits:
            self._schedule_ping()
        elif now > taken and patience > 0:
            self._wait_for_pong(now, ping_at, self.hub.limits.stalled_after)
        elif patience > 0:
            self._wait_for_pong(taken, ping_at, patience)
        else:
            self._dismiss("silent")

    def _quiet(self) -> None:
        self.stop_watching()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


class WebSocketFactory(WebSocketServerFactory):
    """Makes the protocols; used by :class:`WebSocketResource`, never given to a port.

    :param compress: whether messages are compressed for clients that offer it.
    :param turns: where those wait that have more to do than fits a turn.
    """

    def __init__(self, reactor: Any, hub: Hub, compress: bool = False, turns: Turns | None = None) -> None:
        super().__init__(reactor=reactor, server="")
        self.turns = Turns(hub.clock) if turns is None else turns
        self.compress = compress
        self.hub = hub
        self.setProtocolOptions(
            utf8validateIncoming=False,  # _receive does it, faster
            maxFramePayloadSize=hub.limits.max_message,
            maxMessagePayloadSize=hub.limits.max_message,
            failByDrop=False,
            closeHandshakeTimeout=0,  # goodbye() has
            autoPingInterval=0,  # the wheel pings
        )
        names = WebSocketServerProtocol.CONFIG_ATTRS_COMMON + WebSocketServerProtocol.CONFIG_ATTRS_SERVER
        options = {name: getattr(self, name) for name in names} | {"short": min(_SHORT, hub.limits.max_message)}
        self._protocol = type("RealtimeProtocol", (RealtimeProtocol,), {**_AT_REST, **options})

    def build(self) -> RealtimeProtocol:
        """A protocol for a connection whose handshake is done."""
        protocol: RealtimeProtocol = self._protocol(self)
        return protocol


class WebSocketResource(JSONResource):
    """``/ws``: turns a GET into a WebSocket."""

    isLeaf = True

    def __init__(self, factory: WebSocketFactory) -> None:
        super().__init__()
        self._factory = factory

    def render_GET(self, request: RealtimeRequest) -> int:
        key = _check_upgrade(request)
        self._factory.hub.check_open()
        params = read_subscribe_params(request.args, self._factory.hub.limits.max_limit)
        protocol = self._factory.build()
        accept = _choose_compression(request, protocol) if self._factory.compress else None
        answer = _accept(key, _offers_subprotocol(request), accept)
        protocol.makeConnection(request.channel.take_over(protocol))
        protocol.sendData(answer)
        if accept is not None:
            protocol.compress(accept)
        protocol.begin(params)
        return NOT_DONE_YET


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_upgrade(request: RealtimeRequest) -> bytes:
    """Give the key of a request that is a handshake (RFC 6455, section 4.2.1).

    :raises RealtimeError:
    """
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
    key = request.getHeader(b"Sec-WebSocket-Key") or b""
    if not _KEY.fullmatch(key):
        raise RealtimeError("bad_request", "a Sec-WebSocket-Key is 16 bytes in base64")
    return key


def _tokens(request: RealtimeRequest, header: bytes) -> set[bytes]:
    """The words of a header that is a list, in lower case."""
    values = b",".join(request.requestHeaders.getRawHeaders(header, ()))
    return {token.strip().lower() for token in values.split(b",")}


def _offers_subprotocol(request: RealtimeRequest) -> bool:
    offered = (request.getHeader(b"Sec-WebSocket-Protocol") or b"").split(b",")
    return SUBPROTOCOL.encode() in [name.strip() for name in offered]


def _choose_compression(request: RealtimeRequest, protocol: RealtimeProtocol) -> PerMessageDeflateOfferAccept | None:
    """The first of the client's offers that can be had: one that doesn't want a smaller window of us."""
    header = (request.getHeader(b"Sec-WebSocket-Extensions") or b"").decode("ascii", "replace")
    for name, parameters in protocol._parseExtensionsHeader(header):
        if name == PerMessageDeflateOffer.EXTENSION_NAME:
            with suppress(Exception):  # Autobahn raises nothing narrower for an offer that it can't read
                offer = PerMessageDeflateOffer.parse(parameters)
                if not offer.request_max_window_bits:
                    return PerMessageDeflateOfferAccept(offer, offer.accept_no_context_takeover)
    return None


def _accept(key: bytes, subprotocol: bool, compression: PerMessageDeflateOfferAccept | None) -> bytes:
    """The answer to a handshake (RFC 6455, section 4.2.2)."""
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + base64.b64encode(hashlib.sha1(key + _GUID).digest()),
        *[b"Sec-WebSocket-Protocol: " + SUBPROTOCOL.encode()] * subprotocol,
    ]
    if compression is not None:
        lines.append(b"Sec-WebSocket-Extensions: " + compression.get_extension_string().encode())
    return b"\r\n".join([*lines, b"", b""])
