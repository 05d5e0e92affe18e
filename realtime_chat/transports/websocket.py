"""WebSocket, as the transport of a session.

Autobahn reads and writes the protocol (:mod:`~realtime_chat.transports.fast.open_websocket` says what is done without
it). Here it is connected to a session: commands go in, and replies and messages come out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET

from realtime_chat.core.command_session import CommandSession
from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import Identity
from realtime_chat.core.rate_limiter import ONE_CONNECT
from realtime_chat.core.turns import Turns
from realtime_chat.http.answers import JSONResource
from realtime_chat.http.clients import address_of, identify_bearer
from realtime_chat.http.request import RealtimeRequest
from realtime_chat.http.subscribe_params import SubscribeParams, read_subscribe_params
from realtime_chat.transports.fast.choice import SocketIO
from realtime_chat.transports.fast.direct_send import FrameFanout
from realtime_chat.transports.frames import FrameBatch, deflated_frame, frame
from realtime_chat.transports.handshake import Upgrade, check_upgrade
from realtime_chat.transports.keepalive import Keepalive
from realtime_chat.values import codec, commands
from realtime_chat.values.codec import Entry
from realtime_chat.values.errors import Goodbye, UnreadableCommand
from realtime_chat.values.model import Position

_STATE = ("STATE_OPEN", "STATE_CLOSED", "state", "data", "frame_data", "inside_message")
_METHODS = ("consumeData", "processData", "sendData", "sendCloseFrame", "dropConnection")
LEANS_ON = tuple(f"autobahn.twisted.websocket:WebSocketServerProtocol.{name}" for name in (*_STATE, *_METHODS))
"""What is used of Autobahn beyond its documented interfaces. None of it is private."""

_CLOSE_WAIT = 2.0
"""Seconds for which the client may take to answer a close."""

_MAX_FRAGMENTS = 64
_MAX_PINGS = 100
_MANY_PIECES = 64
"""Pieces of a frame that are joined into one, as each takes more memory than a few bytes do."""


class WebSocketFanout(FrameFanout):
    """The same frames for all WebSockets.

    :param encode: makes a message's frame.
    """

    name = "websocket"

    def __init__(self, encode: Callable[[bytes], bytes]) -> None:
        self._encode = encode

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> FrameBatch:
        return FrameBatch([self._encode(entry.json) for entry in entries])

    def encode_event(self, kind: str, data: bytes) -> FrameBatch:
        return FrameBatch([self._encode(data)])


_UNCOMPRESSED = WebSocketFanout(frame)
_COMPRESSED = WebSocketFanout(deflated_frame)


class RealtimeProtocol(Keepalive, WebSocketServerProtocol):  # type: ignore[misc]  # Autobahn's own bases disagree
    """One WebSocket, as the transport of a session.

    Nothing is read while writing is paused, while the session is busy, and when the connection has had its share of a
    turn. What of a piece of data is not done then stays in ``data``, where Autobahn has what it hasn't read. Reading is
    *deferred* until that is done.
    """

    fanout = _UNCOMPRESSED
    turns: Turns
    transport: Any
    current_frame: Any
    session: CommandSession | None = None
    write_paused = False
    _fragments = 0
    _share_ends = 0.0
    _is_queued = False

    # What a WebSocketReceiver adds

    answer_handshake: Callable[[Upgrade], None]
    process: Callable[[bytes], None]
    text_received: Callable[[bytes], None]

    @property
    def may_send(self) -> bool:
        return bool(self.state == self.STATE_OPEN)

    def connectionMade(self) -> None:
        """The handshake was checked, and is answered next."""
        super().connectionMade()
        self.start_sending()
        self.schedule_ping()

    def compress(self) -> None:
        """Send compressed messages, as was agreed."""
        self.fanout = _COMPRESSED

    def begin(self, params: SubscribeParams, identity: Identity | None, address: str | None) -> None:
        """Start the session, with the rooms that the URL names.

        :param identity: the user of the token that came with the request; None if none came.
        :param address: what the address is limited by.
        """
        session = self.session = CommandSession(self.hub, self, self, identity, params.name, address)
        for room, since in params.rooms:
            text = None if since is None else str(since)
            session.execute(commands.Join(room=room, since=text, last=params.last))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone, in whatever way."""
        super().connectionLost(reason)
        self._is_reading_deferred = False
        self.data = b""
        self.stop_timers()
        self.direct_send = None
        if self.session is not None:
            self.session.close()
            self.session = None

    # Receiving

    def dataReceived(self, data: bytes) -> None:
        self._received_since_ping = True
        if self._is_reading_deferred:  # TLS, for one, gives all that it has, though it should pause
            self.data += data
        else:
            self._share_ends = 0.0
            self.process(data)

    def consumeData(self) -> None:
        """Autobahn's loop over what was received, which ends when the connection has had its share."""
        if self.state == self.STATE_CONNECTING:
            super().consumeData()
            return
        while self.state != self.STATE_CLOSED and self.processData():
            if self.has_to_wait(bool(self.data)):
                return

    def has_to_wait(self, wants_more: bool) -> bool:
        """Stop reading if the session is busy, or if more was received than fits the connection's share of a turn.

        :param wants_more: whether there is more to read.
        """
        if self.session is not None and self.session.busy and self.state == self.STATE_OPEN:
            pass  # the session calls resume_commands()
        elif not wants_more:
            return False
        elif not self._share_ends:  # the clock is asked only where more than one frame was received
            self._share_ends = self.turns.share()
            return False
        elif self.turns.is_over(self._share_ends):
            self._queue_turn()
        else:
            return False
        self._is_reading_deferred = True
        self.pause_reading()
        return True

    def _queue_turn(self) -> None:
        if not self._is_queued:
            self._is_queued = True
            self.turns.later(self._take_turn, self.transport.abortConnection)

    def _take_turn(self) -> None:
        """Process what was received before, and then read on."""
        self._is_queued = False
        is_busy = self.state == self.STATE_OPEN and (self.session is None or self.session.busy)
        if not self._is_reading_deferred or is_busy:
            return
        self._is_reading_deferred = False
        data, self.data = self.data, b""
        if data:
            self._share_ends = 0.0
            self.process(data)
        if self.state != self.STATE_OPEN:
            self.transport.resumeProducing()
        else:
            self.resume_reading()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """A whole message has come: a command."""
        if isBinary and self.session is not None:
            error = UnreadableCommand("bad_request", "a command is a text frame, this one was binary")
            self.session.execute(error)
        elif not isBinary:
            self.text_received(payload)

    def onMessageBegin(self, isBinary: bool) -> None:
        self._fragments = self._message_size = 0
        self._messages_begun += 1
        super().onMessageBegin(isBinary)

    def onMessageFrameBegin(self, length: int) -> None:
        self._fragments += 1
        if self._fragments > _MAX_FRAGMENTS:
            self.dismiss("too_many_frames")
        super().onMessageFrameBegin(length)

    def onMessageFrameData(self, payload: bytes) -> None:
        self._message_size += len(payload)
        super().onMessageFrameData(payload)
        if len(self.frame_data) > _MANY_PIECES:
            self.frame_data = [b"".join(self.frame_data)]

    def onPing(self, payload: bytes) -> None:
        """Answer a ping, unless too much waits for the client; refuse more than enough between two of ours."""
        self._pings += 1
        if self._pings > _MAX_PINGS:
            self.dismiss("too_many_frames")
        elif not self.write_paused:
            super().onPing(payload)

    # Closing

    def sendCloseFrame(  # noqa: N802
        self, code: int | None = None, reasonUtf8: bytes | None = None, isReply: bool = False
    ) -> None:
        """Close, or answer the client's close: deliver nothing more, and don't wait for ever."""
        super().sendCloseFrame(code, reasonUtf8, isReply)
        if self.session is not None:
            self.session.close()
            self.stop_timers()
            self._timeout = self.hub.wheel.call_later(_CLOSE_WAIT, self.transport.abortConnection)

    def dropConnection(self, abort: bool = False) -> None:
        # Autobahn would reset the connection after the answer to its own close: the client would take that for a
        # connection that broke. A FIN ends it (RFC 6455, section 7.1.1). A client that never answers is aborted.
        self.state = self.STATE_CLOSED
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    # What the session calls

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Autobahn's own bytes are sent like all others."""
        self.write(data)

    def buffer_reply(self, data: bytes) -> None:
        super().buffer_reply(frame(data))

    def send_event(self, kind: str, data: bytes) -> None:
        """Send one event in a frame."""
        if self.state == self.STATE_OPEN:
            self.write(frame(data))

    def reset(self, room: str, position: Position) -> None:
        """Send a ``reset`` event."""
        self.send_event("reset", codec.encode_reset(room, position))

    def goodbye(self, goodbye: Goodbye) -> None:
        """Send a ``goodbye`` event, and close with its code."""
        self.send_event("goodbye", codec.encode_goodbye(goodbye))
        self.stop_timers()
        if self.state == self.STATE_OPEN:
            self.sendClose(goodbye.code, goodbye.reason)
            self.transport.resumeProducing()  # the client's close has to be read
            if self._is_reading_deferred:
                self._queue_turn()

    # Reading depends on writing

    def pause_reading(self) -> None:
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        if self.write_paused or self.session is None or self.session.busy:
            return
        if self._is_reading_deferred:
            self._queue_turn()
        else:
            self.transport.resumeProducing()

    resume_commands = resume_reading


class WebSocketResource(JSONResource):
    """``/ws``: turns a GET into a WebSocket.

    :cvar protocol: what a connection does; the sender and the receiver are mixed in.
    :param compress: whether messages are compressed for clients that offer it.
    :param turns: the line of connections that have more to do than fits a turn.
    :param io: how bytes get to sockets and come from them.
    """

    isLeaf = True
    protocol = RealtimeProtocol

    def __init__(self, reactor: Any, hub: Hub, compress: bool, turns: Turns, io: SocketIO) -> None:
        super().__init__()
        self.hub = hub
        factory = WebSocketServerFactory(reactor=reactor, server="")
        longest = hub.limits.max_message
        factory.setProtocolOptions(
            maxFramePayloadSize=longest,
            maxMessagePayloadSize=longest,
            failByDrop=False,
            closeHandshakeTimeout=0,  # sendCloseFrame() has a timeout
            autoPingInterval=0,  # Keepalive pings
            **io.websocket.OPTIONS,
        )
        common = {"factory": factory, "hub": hub, "may_compress": compress, "turns": turns}
        bases = (self.protocol, io.sender, io.websocket)
        self.make_protocol: Callable[[], Any] = type(
            "RealtimeProtocol", bases, {**io.websocket.class_attributes(factory, longest), **common}
        )

    def render_GET(self, request: RealtimeRequest) -> int:
        """Upgrade the connection to a WebSocket (RFC 6455, section 4.2)."""
        upgrade = check_upgrade(request)
        self.hub.check_open()
        params = read_subscribe_params(request.args, self.hub.limits.max_limit)
        request.channel.admit(request)
        identity = None if request.authorization is None else identify_bearer(request, self.hub)
        if identity is not None:
            self.hub.limiter.draw(identity, None, ONE_CONNECT)  # the address has paid
        address = address_of(request)
        self.take_over(request, upgrade).begin(params, identity, address)
        return NOT_DONE_YET

    def take_over(self, request: RealtimeRequest, upgrade: Upgrade) -> Any:
        """Answer a handshake that was checked, and return the protocol that has the connection now."""
        protocol = self.make_protocol()
        protocol.makeConnection(request.channel.take_over(protocol))
        protocol.answer_handshake(upgrade)
        return protocol
