"""One WebSocket in front of its session, whatever its messages mean.

Autobahn reads and writes the protocol (:mod:`~realtime_chat.transports.fast.open_websocket` says what is done without
it). Here reading depends on writing, on the session, and on the connection's share of a turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from realtime_chat.core.hub import Hub
from realtime_chat.core.turns import Turns
from realtime_chat.http.request import RealtimeRequest
from realtime_chat.transports.fast.choice import SocketIO
from realtime_chat.transports.handshake import Upgrade
from realtime_chat.transports.keepalive import Keepalive
from realtime_chat.transports.sessions import WebSocketSession

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


P = TypeVar("P", bound="WebSocketProtocol")


class WebSocketProtocol(Keepalive, WebSocketServerProtocol):  # type: ignore[misc]  # Autobahn's own bases disagree
    """One WebSocket in front of a session. A subclass says what the messages mean.

    Nothing is read while writing is paused, while the session is busy, and when the connection has had its share of a
    turn. What of a piece of data is not done then stays in ``data``, where Autobahn has what it hasn't read. Reading is
    *deferred* until that is done.
    """

    turns: Turns
    transport: Any
    current_frame: Any
    session: WebSocketSession | None = None
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
        """A whole message has come."""
        if isBinary:
            self.binary_received(payload)
        else:
            self.text_received(payload)

    def binary_received(self, data: bytes) -> None:
        """A binary message has come."""
        raise NotImplementedError

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

    def close_with(self, code: int, reason: str) -> None:
        """Begin to close, after what was sent."""
        self.stop_timers()
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code, reason.encode())  # sendClose() refuses the codes of RFC 6455
            self.transport.resumeProducing()  # the client's close has to be read
            if self._is_reading_deferred:
                self._queue_turn()

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Autobahn's own bytes are sent like all others."""
        self.write(data)

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


def protocol_maker(
    base: type[P], reactor: Any, hub: Hub, turns: Turns, io: SocketIO, longest: int, compress: bool = False
) -> Callable[[], P]:
    """What makes protocols of a kind, each for one connection.

    :param turns: the line of connections that have more to do than fits a turn.
    :param io: how bytes get to sockets and come from them.
    :param longest: bytes of the longest message.
    :param compress: whether messages are compressed for clients that offer it.
    """
    factory = WebSocketServerFactory(reactor=reactor, server="")
    factory.setProtocolOptions(
        maxFramePayloadSize=longest,
        maxMessagePayloadSize=longest,
        failByDrop=False,
        closeHandshakeTimeout=0,  # sendCloseFrame() has a timeout
        autoPingInterval=0,  # Keepalive pings
        **io.websocket.OPTIONS,
    )
    common = {"factory": factory, "hub": hub, "may_compress": compress, "turns": turns}
    attributes = {**io.websocket.class_attributes(factory, longest), **common}
    return type(base.__name__, (base, io.sender, io.websocket), attributes)


def take_over(make_protocol: Callable[[], P], request: RealtimeRequest, upgrade: Upgrade) -> P:
    """Answer a handshake that was checked, and return the protocol that has the request's connection now."""
    protocol = make_protocol()
    protocol.makeConnection(request.channel.take_over(protocol))
    protocol.answer_handshake(upgrade)
    return protocol
