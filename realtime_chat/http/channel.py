"""One HTTP/1.1 connection: its phases and deadlines, and the order of its requests.

``twisted.web`` has no deadline for a head, and begins requests while the client reads none of its answers.
"""

# Twisted calls many of these methods by its own names.

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.interfaces import IProtocol, IReactorTime, ITransport
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web import http

from realtime_chat.core.rate_limiter import Usage
from realtime_chat.http.limited_channel import LimitedChannel
from realtime_chat.http.request import RealtimeRequest
from realtime_chat.http.site import RealtimeSite
from realtime_chat.values.errors import RealtimeError

_CHUNKED_PIECE = 1024
"""Bytes of a chunked body that are read between two looks at the clock. With one byte a chunk that takes 1 ms."""

_TLS_RECORD = b"\x16\x03"
"""What a TLS handshake begins with. It has no line end, so we would wait for one."""


class _Phase(enum.Enum):
    """What a connection waits for."""

    CONNECTED = "the first byte"
    HEADERS = "the rest of a request's headers"
    BODY = "the rest of a request's body"
    ANSWER = "our answer"
    DRAIN = "the client to read our answers"
    IDLE = "a next request"
    CLOSING = "its end"


_IDLE = _Phase.IDLE  # reading a member of an Enum is slow
_TIMEOUT_TEXT = {
    _Phase.HEADERS: "all headers of a request have to be there within {:g} s",
    _Phase.BODY: "a request's body has to be there {:g} s after its headers, or else to come at 500 bytes a second",
}
_UNREADABLE = {
    _Phase.HEADERS: "this is no HTTP/1.1 request: METHOD /path HTTP/1.1, then lines of Name: value, then an empty line",
    _Phase.BODY: "this is no chunked body: every chunk is its length in hexadecimal, its bytes, and the line ends",
}


class CountedProtocol:
    """Takes the channel's place in front of the new protocol, so that the site still counts the connection.

    :param protocol: gets everything that comes in.
    :param usage: of the address that the connection is counted for.
    """

    __slots__ = ("_protocol", "_site", "_usage")

    def __init__(self, protocol: IProtocol, site: RealtimeSite, usage: Usage | None) -> None:
        self._protocol: IProtocol | None = protocol
        self._site = site
        self._usage = usage

    def dataReceived(self, data: bytes) -> None:
        """Pass data on, unless the connection is lost."""
        if self._protocol is not None:
            self._protocol.dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:
        """Tell the site, then the protocol."""
        protocol, self._protocol = self._protocol, None
        self._site.taken_over_lost(self._usage)
        if protocol is not None:
            protocol.connectionLost(reason)


class RealtimeChannel(LimitedChannel):
    """One HTTP/1.1 connection.

    The connection is in one phase at a time (:class:`_Phase`), and each phase has at most one deadline:

    ==========  ============================================  ======================================================
    phase       ends with                                     when its deadline passes
    ==========  ============================================  ======================================================
    CONNECTED   the first byte (HEADERS)                      the connection is closed without an answer
    HEADERS     an empty line (BODY or ANSWER)                it is refused with 408
    BODY        the last byte (ANSWER)                        it is refused with 408, unless the body comes fast
    ANSWER      our answer (IDLE, HEADERS or DRAIN)           there is none
    DRAIN       the client has read (IDLE or HEADERS)         it is cut off, if the client has read nothing since
    IDLE        the first byte (HEADERS)                      it is closed without an answer
    CLOSING     the end of the connection                     it is cut off, if the client has read nothing since
    ==========  ============================================  ======================================================

    A refused request leads to CLOSING from every phase. The error is sent, and the connection is closed for writing.
    What still comes is discarded for a while, so that the client can read the error.
    """

    cached_headers: Any = None
    """Header lines that were checked before, where a channel keeps them."""
    _deadline_for: tuple[_Phase, int] | None = None
    """Which phase, after how many answers, the deadline is for."""
    _answered = 0
    _body_before = 0
    _taken_over_by: CountedProtocol | None = None
    _is_paused = False
    _share_ends = 0.0
    _awaits_turn = False

    # Deadlines

    def connectionMade(self) -> None:
        """Wait for a first request, or refuse the connection if too many are open."""
        super().connectionMade()
        site = self.site
        site.connected(self)
        excess = site.excess()
        if excess > site.max_refusals:
            self.transport.abortConnection()
        elif excess > 0:
            self.refuse(RealtimeError("too_many", "too many connections are open; come back in a while"), 503)
        elif self.count_for_address():
            self.update_deadline()

    def _phase(self) -> _Phase:
        if self.is_closing:
            return _Phase.CLOSING
        if self._handlingRequest:
            return _Phase.ANSWER
        if self._waitingForTransport:
            return _Phase.DRAIN
        if not self.line_mode:
            return _Phase.BODY
        if self._buffer or self.requests:
            return _Phase.HEADERS
        return _Phase.IDLE if self._answered else _Phase.CONNECTED

    def update_deadline(self) -> None:
        """Set the deadline of the current phase. Leave one that is set for it already."""
        phase = self._phase()
        current = (phase, self._answered)
        if current == self._deadline_for or phase is _Phase.CLOSING:
            return
        self._deadline_for = current
        self._body_before = 0
        if phase is _Phase.IDLE:
            self._set_timeout(None)
            self.site.idle.add(self)
        elif phase is _Phase.DRAIN:
            self._set_timeout(self._stall(self.site.stalled_after))
        else:
            seconds = self.site.deadlines.get(phase.name)
            self._set_timeout(None if seconds is None else self.site.wheel.call_later(seconds, self.deadline_passed))

    def deadline_passed(self) -> None:
        """Refuse the request that came too slowly, or close the connection on which none came."""
        phase = self._phase()
        if phase is _Phase.BODY and self._body_is_fast():
            self._set_timeout(self.site.wheel.call_later(self.site.deadlines[phase.name], self.deadline_passed))
            return
        self._log.debug("closing a connection: too long without {what}", what=phase.value)
        if phase in _TIMEOUT_TEXT:
            message = _TIMEOUT_TEXT[phase].format(self.site.deadlines[phase.name])
            self.refuse(RealtimeError("bad_request", message), 408)
        else:
            # Browsers open connections ahead, and would take a 408 for the answer to a request they send next.
            self.loseConnection()

    def _body_is_fast(self) -> bool:
        """Return whether enough of the body has come since the last call."""
        content = self.requests[-1].content
        before, self._body_before = self._body_before, 0 if content is None else content.tell()
        return self._body_before - before >= self.site.body_rate * self.site.deadlines[_Phase.BODY.name]

    # Heads of requests

    def dataReceived(self, data: bytes) -> None:
        """Read what came."""
        if self.is_closing:
            self._discard(data)
            return
        if self.line_mode and self.persistent and not (self._buffer or self.requests or self.paused):
            if self._read_whole_head(data):
                return
            if data.startswith(_TLS_RECORD):
                self.refuse(RealtimeError("bad_request", "this port speaks plain HTTP, and this is TLS (https)"))
                return
        if not self._busyReceiving:  # else it is the rest of what is being read, in the same share
            self._share_ends = self.site.turns.share()
        # HTTPChannel's own method only resets the TimeoutMixin, which isn't used.
        LineReceiver.dataReceived(self, data)
        self.update_deadline()

    def _read_whole_head(self, data: bytes) -> bool:
        """Read ``data`` and start the request, if it is exactly one request without a body. Return whether it was.

        This class leaves every head to Twisted; see :class:`~realtime_chat.http.fast_channel.FastChannel`.
        """
        return False

    # Bodies, and requests that follow each other

    def rawDataReceived(self, data: bytes) -> None:
        """Read a body, or what comes behind a request."""
        if self._taken_over_by is not None:
            self._taken_over_by.dataReceived(data)
        elif isinstance(self._transferDecoder, http._ChunkedTransferDecoder) and len(data) > _CHUNKED_PIECE:
            self._read_chunks(data)
        elif not self.is_closing:
            super().rawDataReceived(data)

    def _read_chunks(self, data: bytes) -> None:
        """Read as much of a chunked body as fits the connection's share of the turn: each byte may be a chunk."""
        decoder = self._transferDecoder
        while len(data) > _CHUNKED_PIECE:
            super().rawDataReceived(data[:_CHUNKED_PIECE])
            data = data[_CHUNKED_PIECE:]
            if self._transferDecoder is not decoder or self.is_closing:
                break
            if self.site.turns.is_over(self._share_ends):
                self._buffer = data
                self.paused = True
                self._networkProducer.pauseProducing()
                self._await_turn()
                return
        if self.line_mode and not self.is_closing:  # the request is answered, and what follows it waits in the buffer
            self._buffer += data
        else:
            self.rawDataReceived(data)

    def pauseProducing(self) -> None:
        """Read no more requests, as the client doesn't read its answers."""
        self._is_paused = True
        super().pauseProducing()
        self.update_deadline()

    def resumeProducing(self) -> None:
        """Go on with what the client had sent, as it has read its answers."""
        super().resumeProducing()
        if self._awaits_turn:
            self._networkProducer.pauseProducing()
            return
        self._is_paused = self._handlingRequest
        self.paused = False
        rest, self._buffer = self._buffer, b""
        if rest and (self.line_mode or self._transferDecoder is not None):
            self.dataReceived(rest)
        else:
            self._buffer = rest
            self.update_deadline()

    def requestDone(self, request: RealtimeRequest) -> None:
        """Go on to the next request."""
        self._answered += 1
        if self.admitted is not None:
            self.end_admitted()
        if self.site.stopping:
            self.persistent = False
        pause = self.strike() if self.refused_for else 0.0
        if pause and self.persistent and not self.is_closing:
            self._stop_reading(request)
            self.pause_for(pause)
        elif self._waitingForTransport and self.persistent and not self.is_closing:
            self._stop_reading(request)
        elif self._busyReceiving and (self._buffer or any(self._dataBuffer)) and self._used_its_share():
            self._stop_reading(request)
            self._await_turn()
        elif self._dataBuffer or self._is_paused or self.is_closing or not self.persistent:
            self._is_paused = self._waitingForTransport
            super().requestDone(request)
        else:  # nothing more has come, and nothing stopped reading: there is nothing to resume
            self.requests.remove(request)
            self._handlingRequest = False
            self.line_mode = 1
        if self._busyReceiving:
            return
        if self._deadline_for is None and not self.is_closing:  # a checked request: no deadline was set since
            self._deadline_for = (_IDLE, self._answered)
            self.site.idle.add(self)
        else:
            self.update_deadline()

    def _used_its_share(self) -> bool:
        """Return whether what else the client has sent must wait for a later turn."""
        return bool(self.persistent) and not self.is_closing and self.site.turns.is_over(self._share_ends)

    def pause_for(self, seconds: float, then: Callable[[], object] = lambda: None) -> None:
        """Read nothing for some seconds, and call ``then()`` after them, also if the connection is lost meanwhile."""
        assert self.site.limiter is not None
        self._awaits_turn = True
        self.paused = True
        self._networkProducer.pauseProducing()
        self.site.limiter.call_after(seconds, partial(self._end_pause, then))

    def _end_pause(self, then: Callable[[], object]) -> None:
        then()
        self._resume_in_turn()

    def _await_turn(self) -> None:
        self._awaits_turn = True
        self.site.turns.later(self._resume_in_turn, self.transport.abortConnection)

    def _resume_in_turn(self) -> None:
        self._awaits_turn = False
        if not self.is_closing and not self._waitingForTransport:
            self.resumeProducing()

    def _stop_reading(self, request: RealtimeRequest) -> None:
        """Begin no further request until the client reads its answers, or the connection's turn comes.

        So a connection holds at most one answer in memory, and what little the transport holds.
        """
        self.requests.remove(request)
        self._handlingRequest = False
        self.line_mode = 1
        self.paused = True  # which LineReceiver heeds
        self._buffer += b"".join(self._dataBuffer)
        self._dataBuffer = []
        self._networkProducer.pauseProducing()

    # Refusals, and the end of the connection

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse(RealtimeError("bad_request", _UNREADABLE.get(self._phase(), _UNREADABLE[_Phase.HEADERS])))

    def close_if_idle(self) -> None:
        """Close, unless a request has been begun that isn't answered."""
        if self._phase() in (_Phase.CONNECTED, _Phase.IDLE, _Phase.DRAIN):
            self.loseConnection()

    # Becoming something else

    def take_over(self, protocol: IProtocol, status: int = http.SWITCHING) -> ITransport:
        """Give the connection to another protocol, while a request waits for its answer.

        From here on ``protocol`` gets what comes in, and in the end its ``connectionLost``; until then the connection
        is counted. The caller connects it (``protocol.makeConnection(transport)``) and feeds it what it likes in the
        same turn. What the client sent behind its request comes after that. Neither the request nor this channel can
        be used any more.

        :param status: what the protocol answers with, for the access log.
        :returns: the transport, which is not paused and has no producer.
        :raises RuntimeError: no request waits, the connection is lost, or the transport's protocol can't be replaced.
        """
        if self.is_closing or not self._handlingRequest:
            raise RuntimeError("only the connection of a request that waits for its answer can be taken over")
        transport: ITransport = self.transport
        new_protocol = CountedProtocol(protocol, self.site, self.counted or self.admitted)
        _replace_protocol(transport, self, new_protocol)
        self.counted = self.admitted = None
        self.site.taken_over(self)
        rest = self._detach(new_protocol, status)
        _release(transport, new_protocol, rest, self.site.reactor)
        return transport

    def _detach(self, new_protocol: CountedProtocol, status: int) -> bytes:
        """End HTTP on this connection without closing it. Return what the client sent behind its request."""
        request = self.requests[0]
        request.setResponseCode(status)
        self.site.log(request)
        rest = b"".join(self._dataBuffer)
        self._taken_over_by = new_protocol
        self.transport.unregisterProducer()
        self.is_closing = True
        self._set_timeout(None)
        self._break_cycles()
        self.transport = None
        request.detach()
        return rest


def _replace_protocol(transport: Any, old: Any, new: CountedProtocol) -> None:
    """Replace ``old`` in the object that calls it: the transport (a socket, TLS, haproxy), or a wrapper in between.

    :raises RuntimeError: the transport's protocol can't be replaced.
    """
    for owner, name in (
        (transport, "wrappedProtocol"),
        (transport, "protocol"),
        (getattr(transport, "protocol", None), "wrappedProtocol"),
    ):
        if getattr(owner, name, None) is old:
            setattr(owner, name, new)
            return
    raise RuntimeError("this transport's protocol can't be replaced")


def _release(transport: Any, new_protocol: CountedProtocol, rest: bytes, reactor: IReactorTime) -> None:
    """Let data flow again. What came before goes first, in a turn of its own."""
    if not rest:
        transport.resumeProducing()
        return
    transport.pauseProducing()

    def deliver() -> None:
        transport.resumeProducing()
        new_protocol.dataReceived(rest)

    reactor.callLater(0, deliver)
