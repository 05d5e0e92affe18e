"""A hardened :class:`twisted.web.server.Site`: deadlines, limits, names, origins, and errors as JSON.

``twisted.web`` has no deadline for headers, spools bodies of any size to disk, and closes on errors so fast that
clients often can't read why. All that is mended in the channel, before a resource is asked.
"""

# Twisted calls most of what stands here by names of its own.
# ruff: noqa: N802

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from io import BytesIO
from types import MappingProxyType
from typing import Any, TextIO
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime, ISSLTransport, ITransport
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.error import UnsupportedMethod
from twisted.web.http import NO_BODY_CODES
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource, Resource, getChildForRequest
from zope.interface import implementer

from realtime_chat.core.turns import Turns
from realtime_chat.core.wheel import DeadlineQueue, Stall, Timeout, Wheel
from realtime_chat.http import answers, request_head
from realtime_chat.http.origins import (
    FOR_SCRIPTS,
    Authority,
    HostList,
    OriginPolicy,
    destination_of,
    explain_refusal,
    is_foreign,
)
from realtime_chat.http.subscribe_params import read_query
from realtime_chat.logs import reopen
from realtime_chat.values.errors import RealtimeError

__all__ = ["MAX_LINE", "RealtimeChannel", "RealtimeRequest", "RealtimeSite", "access_line", "when_lost"]

_REASONS = {**http.RESPONSES, 421: b"Misdirected Request", 426: b"Upgrade Required", 429: b"Too Many Requests"}
_REASONS[431] = b"Request Header Fields Too Large"
_CORS_METHODS = b"GET, POST"
_CORS_HEADERS = b"Content-Type, Realtime-Client, Last-Event-ID, Authorization"
_CORS_EXPOSED = b"Retry-After"
_CORS_SECONDS = b"600"
_OK = 200  # to get at what is in twisted.web.http takes half a microsecond, as some of it is deprecated
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)(/?.*)", re.DOTALL)
_LENGTH_DIGITS = 15
_OTHER_SITES = "pages of other sites can't use this server; whoever runs it can list an origin with --allow-origin"
_FOREIGN = (
    "a page of another site or origin asked for this in a way that no script of it can read; what it may read it asks "
    "for with an Origin header, as fetch and EventSource do, and whoever runs this can list it with --allow-origin"
)
MAX_LINE = 8000
"""Bytes of the longest line of a request that any client needs, which common proxies let through. All header lines
together may have more than three times that: an address, a Last-Event-ID, and what browsers add."""

_SOME_CHUNKS = 1024
"""Bytes of a body in chunks that are read between two looks at the clock; with a byte a chunk that takes 1 ms."""

_KNOWN_BYTES = 1024
"""Header lines of at most so many bytes are remembered, for a connection's next request."""


class _Phase(enum.Enum):
    """What a connection is waiting for."""

    CONNECTED = "the first byte"
    HEADERS = "the rest of a request's headers"
    BODY = "the rest of a request's body"
    ANSWER = "our answer"
    DRAIN = "the client to read our answers"
    IDLE = "a next request"
    OVER = "its end"


_IDLE = _Phase.IDLE  # an Enum's members are slow to get at
_TIMEOUT_TEXT = {
    _Phase.HEADERS: "all headers of a request have to be there within {:g} s",
    _Phase.BODY: "a request's body has to be there {:g} s after its headers, or else to come at 500 bytes a second",
}
_UNREADABLE = {
    _Phase.HEADERS: "this is no HTTP/1.1 request: METHOD /path HTTP/1.1, then lines of Name: value, then an empty line",
    _Phase.BODY: "this is no chunked body: every chunk is its length in hexadecimal, its bytes, and the line ends",
}


_NO_HEADERS = Headers()
_TLS_RECORD = b"\x16\x03"
"""What a TLS handshake begins with; it has no end of a line, so that we would wait for one."""


class RealtimeRequest(server.Request, answers.AnswersWhole):
    """A request: its body in memory, its errors as JSON, no cookies and no session.

    :ivar has_body: whether its headers announced a body; an upgrade must not have one.
    :ivar is_cross_origin: whether a page of another origin, one that is listed, sent it.
    :ivar is_foreign: whether a browser says that another origin's page is behind it, and not which.
    :ivar destination: what a browser wants its answer for; ``empty`` is for a script.
    :ivar lost: called if the connection is lost before the answer; see :func:`when_lost`.
    """

    channel: RealtimeChannel
    site: RealtimeSite
    has_body = False
    is_cross_origin = False
    is_foreign = False
    destination = FOR_SCRIPTS
    lost: Callable[[], object] | None = None
    defaultContentType = b"application/json"
    # All requests share these, so nothing may be put into them.
    received_cookies: Any = MappingProxyType({})
    cookies: Any = ()
    notifications: Any = ()
    queued = False
    _parsePOSTFormSubmission = False
    _asked: Headers | None = None
    _said: Headers | None = None
    _adapted: dict[str, Any] | None = None
    prepath: Any = ()
    postpath: Any = ()

    def __init__(self, channel: RealtimeChannel, queued: object = False) -> None:
        # Not Twisted's, which asks the kernel for both ends' addresses, and makes room for cookies, each time.
        self.channel = channel
        self.transport = channel.transport

    # What few requests need is made when it is asked for.

    @property
    def requestHeaders(self) -> Headers:
        """The headers that came."""
        if self._asked is None:
            self._asked = Headers()
        return self._asked

    @requestHeaders.setter
    def requestHeaders(self, headers: Headers) -> None:
        self._asked = headers

    @property
    def responseHeaders(self) -> Headers:
        """The headers that are going to be sent."""
        if self._said is None:
            self._said = Headers()
        return self._said

    @responseHeaders.setter
    def responseHeaders(self, headers: Headers) -> None:
        self._said = headers

    @property
    def _adapterCache(self) -> dict[str, Any]:  # type: ignore[override]
        """Twisted's: what the request was adapted to."""
        if self._adapted is None:
            self._adapted = {}
        return self._adapted

    def notifyFinish(self) -> Deferred[None]:
        """A Deferred that fires when the request is answered, and fails when its connection is lost before that."""
        waiting: Deferred[None] = Deferred()
        self.notifications = [*self.notifications, waiting]
        return waiting

    @property
    def client(self) -> Any:
        """The other end of the connection."""
        return self.channel.getPeer()

    @property
    def host(self) -> Any:
        """Our end of the connection."""
        return self.channel.getHost()

    def parseCookies(self) -> None:
        """Cookies identify nobody here."""

    def gotLength(self, length: int | None) -> None:
        """Make room for the body; None stands for a chunked one."""
        self.has_body = length != 0
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of the body, while it keeps the limit."""
        content = self.content
        if content is None or self.channel is None or self.channel.is_over:
            return
        if content.tell() + len(data) > self.channel.site.max_body:
            self.channel.refuse_body()
        else:
            content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """All of it is there. Twisted's own reads forms, too, and the query at four times the cost."""
        self.method, self.uri, self.clientproto = command, path, version
        self.path, _, query = path.partition(b"?")
        if self.content is not None:
            self.content.seek(0)
        try:
            self.args = read_query(query)  # type: ignore[assignment]  # nobody puts anything into it
        except RealtimeError:
            self.args, self.site = {}, self.channel.site
            self.processingFailed(Failure())
        else:
            self.process()

    def take(self, target: request_head.Target) -> None:
        """The same of a GET without a body, whose first line was read."""
        self.method, self.clientproto = b"GET", b"HTTP/1.1"
        self.uri, self.path, self.args = target  # type: ignore[assignment]
        site = self.site = self.channel.site
        leaf = site.leaf(target.path)
        if leaf is None:
            self.process()
            return
        try:
            self.render(leaf)
        except Exception:
            self.processingFailed(Failure())

    def process(self) -> None:
        """Find the resource, and let it answer."""
        self.site = self.channel.site
        self.prepath = []
        self.postpath = list(map(unquote_to_bytes, self.path[1:].split(b"/")))
        try:
            if not self._is_answered_for_all():
                self.render(self.site.getResourceFor(self))
        except Exception:
            self.processingFailed(Failure())

    def _is_answered_for_all(self) -> bool:
        if self.method != b"OPTIONS":
            return False
        if self.path == b"*":
            self.setHeader(b"Allow", b"GET, HEAD, POST, OPTIONS")
        elif self.is_cross_origin and self.requestHeaders.hasHeader(b"Access-Control-Request-Method"):
            self.setHeader(b"Access-Control-Allow-Methods", _CORS_METHODS)
            self.setHeader(b"Access-Control-Allow-Headers", _CORS_HEADERS)
            self.setHeader(b"Access-Control-Max-Age", _CORS_SECONDS)
        else:
            return False
        answers.answer(self, answers.Answer(b"", http.NO_CONTENT))
        return True

    def render(self, resource: IResource) -> None:
        """Let a resource answer; what it leaves open stays open."""
        try:
            if self.is_foreign and isinstance(resource, answers.JSONResource) and resource.is_guarded(self):
                raise RealtimeError("bad_origin", _FOREIGN)
            body = resource.render(self)
        except UnsupportedMethod as error:
            self._refuse_method(error.allowedMethods)
            return
        if body is not server.NOT_DONE_YET:
            self.setHeader(b"Content-Length", b"%d" % len(body))
            self.write(body)
            self.finish()

    def _refuse_method(self, allowed: Iterable[bytes]) -> None:
        methods = b", ".join(sorted(allowed))
        self.setHeader(b"Allow", methods)
        message = f"the methods here are {methods.decode('ascii')}"
        answers.error_answer(self, RealtimeError("method_not_allowed", message))

    def processingFailed(self, reason: Failure) -> Failure:
        """Answer an exception that a resource raised."""
        answers.failure_answer(self, reason)
        return reason

    def answer_whole(self, body: bytes, status: int = _OK, content_type: bytes = answers.JSON) -> None:
        """Send status, headers and body in one piece, and finish."""
        self.code, self.startedWriting, self.sentLength = status, 1, len(body)
        if self._said is None and status == _OK and self.clientproto == b"HTTP/1.1":
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: %b\r\nCache-Control: no-store\r\n%b" % (
                len(body),
                content_type,
                self.site.headers_of_all(),
            )
        else:
            head = self._head(answers.Answer(body, status, content_type))
        has_body = self.method != b"HEAD" and status not in NO_BODY_CODES
        self.site.write(self.channel.transport, head + body if has_body else head)
        self._end()

    def _head(self, given: answers.Answer) -> bytes:
        lines = [self.clientproto, b" %d " % given.status, _REASONS.get(given.status, b"Unknown"), b"\r\n"]
        has_policy = False
        for name, values in self.responseHeaders.getAllRawHeaders():
            has_policy = has_policy or name == b"Cache-Control"
            if name not in _OF_WHOLE:
                lines += [part for value in values for part in (name, b": ", value, b"\r\n")]
        if given.status not in NO_BODY_CODES:
            lines.append(b"Content-Length: %d\r\nContent-Type: %b\r\n" % (len(given.body), given.content_type))
        if not has_policy:
            lines.append(b"Cache-Control: no-store\r\n")
        lines.append(self.site.headers_of_all())
        return b"".join(lines)

    def _end(self) -> None:
        """Finish what was answered whole: Twisted's own way looks for what can't be then."""
        if self.producer is not None:
            self.finish()
            return
        self.site.log(self)
        self.finished = 1
        channel, self.channel = self.channel, None  # type: ignore[assignment]
        channel.requestDone(self)
        self.content = None
        notifications, self.notifications = self.notifications, ()
        for waiting in notifications:
            waiting.callback(None)

    def connectionLost(self, reason: Failure) -> None:
        """The connection is lost, and there will be no answer."""
        super().connectionLost(reason)
        if self.lost is not None:
            self.lost()

    def forget_question(self) -> None:
        """Let go of what was asked, for a request that may wait long; the access log still wants some of it."""
        if self.site.logPath is None:
            self.requestHeaders = _NO_HEADERS
            self.args = {}
            self.content = None
            self.prepath = self.postpath = ()

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        """Set the status; Twisted has no words for all of ours."""
        super().setResponseCode(code, message or _REASONS.get(code))

    def detach(self) -> None:
        """End without an answer: the connection has become something else's."""
        notifications, self.notifications = self.notifications, []
        self.finished = 1
        self.content = self.transport = self.channel = None  # type: ignore[assignment]
        for waiting in notifications:
            waiting.callback(None)


def when_lost(request: server.Request, call: Callable[[], object]) -> None:
    """Have ``call()`` called if a request's connection is lost before the answer, without a Deferred if it is ours."""
    if isinstance(request, RealtimeRequest):
        request.lost = call
    else:
        request.notifyFinish().addErrback(lambda _: call())


class RealtimeChannel(http.HTTPChannel):
    """One HTTP/1.1 connection.

    Whatever a client does wrong here is answered with an error object, and the connection is closed in such a way that
    the client can read it.
    """

    _log = Logger()
    site: RealtimeSite
    transport: Any = None
    maxHeaders = 100
    totalHeadersSize = 24 * 1024  # noqa: N815
    requestFactory: Any = RealtimeRequest
    _watched: tuple[_Phase, int] | None = None
    _alarm: Timeout | Stall | None = None
    _answered = 0
    _body_before = 0
    _discarded = 0
    _successor: _CountedProtocol | None = None
    _is_paused = False
    _share_ends = 0.0
    _is_in_line = False
    _known: request_head.CachedHeaders | None = None
    is_over = False

    # Deadlines. Every connection has one at most, for what it is waiting for now.

    def connectionMade(self) -> None:
        """Start to wait for a first request, or refuse to."""
        super().connectionMade()
        self.site.read(self.transport)
        self.site.opened(self)
        excess = self.site.connections - self.site.max_connections
        if excess > self.site.max_refusals:
            self.transport.abortConnection()
        elif excess > 0:
            self.refuse(RealtimeError("too_many", "too many connections are open; come back in a while"), 503)
        else:
            self._watch()

    def dataReceived(self, data: bytes) -> None:
        """Read what has come."""
        if self.is_over:
            self._discard(data)
            return
        is_next = self.line_mode and self.persistent and not (self._buffer or self.requests or self.paused)
        if is_next and self._reuse_checked_headers(data):
            return  # nothing is waited for but our answer, or by now the next request, as requestDone has seen
        if is_next and data.startswith(_TLS_RECORD):
            self.refuse(RealtimeError("bad_request", "this port speaks plain HTTP, and this is TLS (https)"))
        elif not (is_next and self._parse_simple_get(data)):
            self._known = None
            self._share_ends = self.site.turns.share()
            # Not HTTPChannel's, which only winds up the TimeoutMixin that isn't used.
            LineReceiver.dataReceived(self, data)
        self._watch()

    def _parse_simple_get(self, data: bytes) -> bool:
        """Take a plain request without a body that came in one piece, as nearly all do, at a third of what it costs
        line by line; everything else, and whatever is odd, is left to that."""
        whole = request_head.split_whole(data) if len(data) <= self.MAX_LENGTH else None
        headers = None if whole is None else request_head.read_headers(whole[1], self.maxHeaders)
        if whole is None or headers is None:
            return False
        request = self.requestFactory(self)
        request.requestHeaders = headers
        self.requests.append(request)
        self._command, self._path, self._version = b"GET", whole[0], b"HTTP/1.1"
        self.allHeadersReceived()
        if self.length == 0:
            self._remember(request, data.partition(b"\r\n")[2])
            self.allContentReceived()
        return True

    def _remember(self, request: RealtimeRequest, rest: bytes) -> None:
        """Remember header lines that were checked, if they don't change what is answered, and no log wants them."""
        is_usual = not request.is_foreign and request.destination == FOR_SCRIPTS
        is_plain = is_usual and not request.requestHeaders.hasHeader(b"Origin") and self.site.logPath is None
        self._known = request_head.CachedHeaders(rest) if is_plain and len(rest) <= _KNOWN_BYTES else None

    def _reuse_checked_headers(self, data: bytes) -> bool:
        """Take a plain request whose header lines are those of the one before it, byte for byte: what was checked of
        them holds, and what is left is its first line."""
        known = self._known
        if known is None or len(data) > self.MAX_LENGTH:
            return False
        line, _, lines = data.partition(b"\r\n")
        target = request_head.read_line(line) if lines == known.lines else None
        if target is None:
            return False
        self._watched = None
        self._wait(None)
        request = self.requestFactory(self)
        request.requestHeaders = known
        if self.site.origins.lists_any:
            request.responseHeaders.setRawHeaders(b"Vary", [b"Origin"])
        self.requests.append(request)
        self._handlingRequest = True
        self.line_mode = 0
        request.take(target)
        return True

    def _phase(self) -> _Phase:
        if self.is_over:
            return _Phase.OVER
        if self._handlingRequest:
            return _Phase.ANSWER
        if self._waitingForTransport:
            return _Phase.DRAIN
        if not self.line_mode:
            return _Phase.BODY
        if self._buffer or self.requests:
            return _Phase.HEADERS
        return _Phase.IDLE if self._answered else _Phase.CONNECTED

    def _watch(self) -> None:
        """Set the deadline for what is waited for now; one that runs for the same already is left alone."""
        phase = self._phase()
        watched = (phase, self._answered)
        if watched == self._watched or phase is _Phase.OVER:
            return
        self._watched = watched
        self._body_before = 0
        if phase is _Phase.IDLE:
            self._wait(None)
            self.site.idle.add(self)
            return
        if phase is _Phase.DRAIN:
            self._wait(self._stall(self.site.stalled_after))
            return
        seconds = self.site.deadlines.get(phase.name)
        self._wait(None if seconds is None else self.site.wheel.call_later(seconds, self.too_late))

    def _stall(self, seconds: float) -> Stall:
        """Abort the connection when the client takes nothing of what was written for so long."""
        transport = self.transport
        return Stall(self.site.wheel, seconds, lambda: self.site.unsent(transport), transport.abortConnection)

    def _wait(self, alarm: Timeout | Stall | None) -> None:
        self.site.idle.drop(self)
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = alarm

    def too_late(self) -> None:
        """What is waited for has not come."""
        phase = self._phase()
        if phase is _Phase.BODY and self._body_goes_on():
            self._wait(self.site.wheel.call_later(self.site.deadlines[phase.name], self.too_late))
            return
        self._log.debug("closing a connection: too long without {what}", what=phase.value)
        if phase in _TIMEOUT_TEXT:
            message = _TIMEOUT_TEXT[phase].format(self.site.deadlines[phase.name])
            self.refuse(RealtimeError("bad_request", message), 408)
        else:
            # Nothing was asked: browsers open connections ahead, and would take a 408 for an answer to what comes next.
            self.loseConnection()

    def _body_goes_on(self) -> bool:
        """Whether enough of the body has come since this was asked before."""
        content = self.requests[-1].content
        before, self._body_before = self._body_before, 0 if content is None else content.tell()
        return self._body_before - before >= self.site.body_rate * self.site.deadlines[_Phase.BODY.name]

    # What is read.

    def lineReceived(self, line: bytes) -> None:
        """Read a line of the headers."""
        if self.is_over:
            return
        if self._receivedHeaderSize + len(line) > self.totalHeadersSize:
            self._refuse_headers()
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line of the headers is longer than all of them may be."""
        self._refuse_headers()

    def headerReceived(self, line: bytes) -> bool:
        """Read a header; answer whether the request may go on."""
        if self.is_over:
            return False
        if self._receivedHeaderCount >= self.maxHeaders:
            self._refuse_headers()
            return False
        return bool(super().headerReceived(line)) and not self.is_over

    def _refuse_headers(self) -> None:
        limits = f"{self.maxHeaders} headers and {self.totalHeadersSize} bytes in all"
        self.refuse(RealtimeError("bad_request", f"a request has at most {limits}"), 431)

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        # int() raises for more digits than Python's own limit.
        if header == b"Content-Length" and not (data.isdigit() and len(data) <= _LENGTH_DIGITS):
            return self._refuse_framing(f"Content-Length is a number of at most {_LENGTH_DIGITS} digits")
        if header == b"Transfer-Encoding" and data.lower() != b"chunked":
            return self._refuse_framing("the only Transfer-Encoding that is understood is chunked")
        return bool(super()._maybeChooseTransferDecoder(header, data))

    def _failChooseTransferDecoder(self) -> bool:
        return self._refuse_framing("a request has one Content-Length or one Transfer-Encoding, and not both")

    def _refuse_framing(self, message: str) -> bool:
        self.refuse(RealtimeError("bad_request", message))
        self.length = None
        return False

    def allHeadersReceived(self) -> None:
        """Check a request by its headers, before its body is read."""
        if self.is_over:
            return
        try:
            self._check(self.requests[-1])
        except RealtimeError as error:
            self.refuse(error)
            # lineReceived would take a request without a body for complete.
            self.length = None
        else:
            super().allHeadersReceived()

    def _check(self, request: RealtimeRequest) -> None:
        headers = request.requestHeaders
        hosts = headers.getRawHeaders(b"Host", ())
        host = self.site.hosts.check(hosts)
        self._path = self._origin_form(self._path, host)
        origins = headers.getRawHeaders(b"Origin", ())
        self._check_origin(request, origins, hosts[0])
        request.destination = destination_of(headers)
        request.is_foreign = not origins and is_foreign(headers)
        if self._version != b"HTTP/1.1" and headers.hasHeader(b"Transfer-Encoding"):
            raise RealtimeError("bad_request", "HTTP/1.0 has no Transfer-Encoding")
        if self.length is not None and self.length > self.site.max_body:
            raise self.site.body_too_large()

    def _origin_form(self, target: bytes, host: Authority) -> bytes:
        """The path and query of a request's target, which proxies' clients send with the scheme and host in front."""
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is not None:
            if self.site.hosts.check([absolute[1]]) != host:
                raise RealtimeError("bad_request", "the Host header and the host of the address are the same")
            target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
        elif not (target.startswith(b"/") or (target == b"*" and self._command == b"OPTIONS")):
            raise RealtimeError("bad_request", "the target of a request is a path that starts with /")
        if not target.isascii():
            raise RealtimeError("bad_request", "an address is ASCII, with everything else percent-encoded")
        return target

    def _check_origin(self, request: RealtimeRequest, origins: Sequence[bytes], host: bytes) -> None:
        policy = self.site.origins
        if policy.lists_any:
            request.responseHeaders.setRawHeaders(b"Vary", [b"Origin"])
        if not origins:
            return
        if self._path.partition(b"?")[0] in self.site.public:
            request.responseHeaders.setRawHeaders(b"Access-Control-Allow-Origin", [b"*"])
            return
        if len(origins) > 1 or not policy.permits(origins[0], host, self.isSecure()):
            if self._command != b"OPTIONS":  # the error tells no secret, and a page that reads it can say what is wrong
                request.responseHeaders.setRawHeaders(b"Access-Control-Allow-Origin", [b"*"])
            self._log.warn("a page was refused: {why}", why=explain_refusal(origins, host))
            raise RealtimeError("bad_origin", _OTHER_SITES)
        if policy.shares(origins[0]):
            request.is_cross_origin = True
            request.responseHeaders.setRawHeaders(b"Access-Control-Allow-Origin", [origins[0]])
            request.responseHeaders.setRawHeaders(b"Access-Control-Expose-Headers", [_CORS_EXPOSED])

    def checkPersistence(self, request: RealtimeRequest, version: bytes) -> bool:
        """Whether the connection may stay open; Twisted's own overlooks ``close`` in a list."""
        values = b",".join(request.requestHeaders.getRawHeaders(b"Connection", ()))
        if version == b"HTTP/1.1" and b"close" not in {token.strip().lower() for token in values.split(b",")}:
            return True
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def rawDataReceived(self, data: bytes) -> None:
        """Read of a body, or what comes behind a request."""
        if self._successor is not None:
            self._successor.dataReceived(data)
        elif isinstance(self._transferDecoder, http._ChunkedTransferDecoder) and len(data) > _SOME_CHUNKS:
            self._take_chunks(data)
        elif not self.is_over:
            super().rawDataReceived(data)

    def _take_chunks(self, data: bytes) -> None:
        """Read as much of a body in chunks as fits the connection's share: each byte of it may be a chunk."""
        decoder = self._transferDecoder
        while len(data) > _SOME_CHUNKS:
            super().rawDataReceived(data[:_SOME_CHUNKS])
            data = data[_SOME_CHUNKS:]
            if self._transferDecoder is not decoder or self.is_over:
                break
            if self.site.turns.is_over(self._share_ends):
                self._buffer = data
                self.paused = True
                self._networkProducer.pauseProducing()
                self._wait_in_line()
                return
        if self.line_mode and not self.is_over:  # the request is answered already, and what follows it waits there
            self._buffer += data
        else:
            self.rawDataReceived(data)

    def pauseProducing(self) -> None:
        """The client doesn't read: read no more requests of it for now."""
        self._is_paused = True
        super().pauseProducing()
        self._watch()

    def resumeProducing(self) -> None:
        """It has read: go on with what it had sent meanwhile."""
        super().resumeProducing()
        if self._is_in_line:  # its next share comes
            self._networkProducer.pauseProducing()
            return
        self._is_paused = self._handlingRequest
        self.paused = False
        rest, self._buffer = self._buffer, b""
        if rest and (self.line_mode or self._transferDecoder is not None):
            self.dataReceived(rest)
        else:
            self._buffer = rest
            self._watch()

    def allContentReceived(self) -> None:
        """Hand a complete request on."""
        if not self.is_over:
            super().allContentReceived()

    def requestDone(self, request: RealtimeRequest) -> None:
        """Go on to the next request."""
        self._answered += 1
        if self.site.stopping:
            self.persistent = False
        if self._waitingForTransport and self.persistent and not self.is_over:
            self._hold_back(request)
        elif self._busyReceiving and (self._buffer or any(self._dataBuffer)) and self._has_had_its_share():
            self._hold_back(request)
            self._wait_in_line()
        elif self._dataBuffer or self._is_paused or self.is_over or not self.persistent:
            self._is_paused = self._waitingForTransport
            super().requestDone(request)
        else:  # the same, where nothing more has come, and nothing stopped reading
            self.requests.remove(request)
            self._handlingRequest = False
            self.line_mode = 1
        if self._busyReceiving:
            return
        if self._watched is None and not self.is_over:  # so nothing was waited for
            self._watched = (_IDLE, self._answered)
            self.site.idle.add(self)
        else:
            self._watch()

    def _has_had_its_share(self) -> bool:
        """Whether it has to wait for a later turn with what else it has sent."""
        return bool(self.persistent) and not self.is_over and self.site.turns.is_over(self._share_ends)

    def _wait_in_line(self) -> None:
        self._is_in_line = True
        self.site.turns.later(self._go_on, self.transport.abortConnection)

    def _go_on(self) -> None:
        self._is_in_line = False
        if not self.is_over and not self._waitingForTransport:
            self.resumeProducing()

    def _hold_back(self, request: RealtimeRequest) -> None:
        """Begin no further request before the client has read the answers that wait for it, or before the connection's
        turn has come, and read none either: so one connection holds one answer and what little a transport holds."""
        self.requests.remove(request)
        self._handlingRequest = False
        self.line_mode = 1
        self.paused = True  # which LineReceiver heeds
        self._buffer += b"".join(self._dataBuffer)
        self._dataBuffer = []
        self._networkProducer.pauseProducing()

    # What is refused, and how a connection ends.

    def refuse_body(self) -> None:
        """Answer that the body is larger than allowed, and close."""
        self.refuse(self.site.body_too_large())

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse(RealtimeError("bad_request", _UNREADABLE.get(self._phase(), _UNREADABLE[_Phase.HEADERS])))

    def refuse(self, error: RealtimeError, status: int | None = None) -> None:
        """Answer the request that is being read with an error, and close.

        :param status: another one than the error's own.
        """
        if self.is_over:
            return
        request = self.requests[-1] if self.requests else None
        headers = Headers() if request is None else request.responseHeaders
        given = answers.error_headers(headers, error, status)
        answers.describe(headers, given)
        headers.setRawHeaders(b"Connection", [b"close"])
        self.writeHeaders(b"HTTP/1.1", b"%d" % given.status, _REASONS[given.status], headers)
        if getattr(self, "_command", b"") != b"HEAD":
            self.write(given.body)
        if request is not None:
            self._log_refused(request, given)
        self._linger()

    def _log_refused(self, request: RealtimeRequest, given: answers.Answer) -> None:
        request.method = getattr(self, "_command", b"-")
        request.uri = getattr(self, "_path", b"-")
        request.clientproto = getattr(self, "_version", b"-")
        request.setResponseCode(given.status)
        request.sentLength = len(given.body)
        self.site.log(request)

    def _linger(self) -> None:
        """Close for writing, and read on for a while without looking.

        Closing at once while something is unread makes the kernel send a reset, which lets the client throw away an
        answer that it has not read yet (RFC 9112, section 9.6).
        """
        self._end()
        transport = self.transport
        transport.unregisterProducer()
        self._networkProducer.resumeProducing()
        self._wait(self._stall(self.site.linger_seconds))
        # TLS closes by messages of its own: only the bare socket may be closed by half.
        half_close = getattr(transport, "loseWriteConnection", None)
        if half_close is None or ISSLTransport.providedBy(transport):
            transport.loseConnection()
        else:
            half_close()

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > self.site.linger_bytes:
            self.transport.abortConnection()

    def close_if_idle(self) -> None:
        """Close, if nothing was asked that isn't answered."""
        if self._phase() in (_Phase.CONNECTED, _Phase.IDLE, _Phase.DRAIN):
            self.loseConnection()

    def loseConnection(self) -> None:
        """Close when everything is written, and in any case once the client takes nothing more of it for a while."""
        if not self.is_over:
            self._end()
            self._wait(self._stall(self.site.stalled_after))
        super().loseConnection()

    def _end(self) -> None:
        self.is_over = True
        self.clearLineBuffer()
        self._dataBuffer = []
        if not self._handlingRequest:
            self.requests = []
            self._transferDecoder = None

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Tell the request that waits, and leave nothing behind."""
        self.is_over = True
        self._wait(None)
        super().connectionLost(reason)
        self._forget()
        self.site.lost(self)

    def _forget(self) -> None:
        """Cut the cycles, which would else wait for the oldest generation of the garbage collector."""
        self.requests = []
        self._dataBuffer = []
        self._transferDecoder = None
        self._networkProducer = None  # type: ignore[assignment]

    # Becoming something else.

    def take_over(self, protocol: IProtocol, status: int = http.SWITCHING) -> ITransport:
        """Give the connection to another protocol, while a request of it waits for its answer.

        From here on ``protocol`` gets what comes in, and in the end its ``connectionLost``; the connection is counted
        until then. The caller connects it (``protocol.makeConnection(transport)``) and feeds it what it likes in this
        same turn; what the client sent behind its request comes after that. The request is over: neither it nor this
        channel can be used any more.

        :param status: what the protocol answers with, for the access log.
        :returns: the transport, which is paused no more and has no producer.
        :raises RuntimeError: there is no waiting request, or the connection is lost.
        """
        if self.is_over or not self._handlingRequest:
            raise RuntimeError("only the connection of a request that waits for its answer can be taken over")
        transport: ITransport = self.transport
        request = self.requests[0]
        request.setResponseCode(status)
        self.site.log(request)
        rest, self._dataBuffer = b"".join(self._dataBuffer), []
        successor = self._successor = _CountedProtocol(protocol, self.site)
        _replace_protocol(transport, self, successor)
        self.site.opened(successor)
        self.site.lost(self)
        self.transport.unregisterProducer()
        self.is_over = True
        self._wait(None)
        self._forget()
        self.transport = None
        request.detach()
        _release(transport, successor, rest, self.site.reactor)
        return transport

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Write the head of an answer, with the headers that all have."""
        self.transport.write(self.head(code, reason, headers, version))

    def head(self, code: bytes, reason: bytes, headers: Headers, version: bytes = b"HTTP/1.1") -> bytes:
        """The head of an answer, with the headers that all have."""
        lines = [version, b" ", code, b" ", reason, b"\r\n"]
        for name, values in headers.getAllRawHeaders():
            if name not in _OF_ALL:
                lines += [part for value in values for part in (name, b": ", value, b"\r\n")]
        lines.append(self.site.headers_of_all())
        return b"".join(lines)


_OF_ALL = frozenset((b"Server", b"Date", b"X-Content-Type-Options"))
_OF_WHOLE = _OF_ALL | {b"Content-Length", b"Content-Type"}


@implementer(IProtocol)
class _CountedProtocol:
    """Stands where the channel stood, so that the connection stays counted; passes everything on."""

    __slots__ = ("_protocol", "_site")

    def __init__(self, protocol: IProtocol, site: RealtimeSite) -> None:
        self._protocol: IProtocol | None = protocol
        self._site = site

    def dataReceived(self, data: bytes) -> None:
        """Pass on what came, unless the connection is lost."""
        if self._protocol is not None:
            self._protocol.dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:
        """Count the connection as gone, and say so."""
        protocol, self._protocol = self._protocol, None
        self._site.lost(self)
        if protocol is not None:
            protocol.connectionLost(reason)

    def makeConnection(self, transport: ITransport) -> None:
        """It is connected already."""

    def connectionMade(self) -> None:
        """It is connected already."""


def _replace_protocol(transport: Any, old: IProtocol, new: IProtocol) -> None:
    """Find who calls ``old``: the transport, as a socket or as a wrapper (TLS, haproxy), or a wrapper in between."""
    for owner, name in (
        (transport, "wrappedProtocol"),
        (transport, "protocol"),
        (getattr(transport, "protocol", None), "wrappedProtocol"),
    ):
        if getattr(owner, name, None) is old:
            setattr(owner, name, new)
            return
    raise RuntimeError("this transport's protocol can't be replaced")


def _release(transport: Any, successor: _CountedProtocol, rest: bytes, reactor: IReactorTime) -> None:
    """Let data flow again; what had come before goes first."""
    if not rest:
        transport.resumeProducing()
        return
    transport.pauseProducing()

    def deliver() -> None:
        transport.resumeProducing()
        successor.dataReceived(rest)

    reactor.callLater(0, deliver)


_SECRETS = frozenset((b"client", b"token", b"access_token", b"commands"))


def _redacted(address: bytes) -> bytes:
    """An address without the query values that are somebody's secrets, or may hold them."""
    path, mark, query = address.partition(b"?")
    return path + mark + b"&".join(map(_redacted_pair, re.split(rb"[&;]", query)))


def _redacted_pair(pair: bytes) -> bytes:
    name, mark, _ = pair.partition(b"=")
    is_secret = unquote_to_bytes(name.replace(b"+", b" ")).strip().lower() in _SECRETS
    return name + mark + b"REDACTED" if mark and is_secret else pair


_MOST_QUOTED = 4096
"""So many bytes of a word stand in the access log; a request may have four times as many."""


def _quoted(text: bytes) -> str:
    """Any bytes as one quoted word of printable ASCII; of a very long one the beginning."""
    cut = text[:_MOST_QUOTED]
    words = "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in cut)
    return f'"{words}..."' if len(text) > _MOST_QUOTED else f'"{words}"'


def access_line(when: str, request: http.Request) -> str:
    """A line of the access log in the combined format: secrets redacted, everything from the client escaped.

    :param when: the time, ready in its brackets.
    """
    address = getattr(request.getClientAddress(), "host", None) or "-"
    target = _redacted(request.uri) if request.uri.startswith(b"/") else b"-"
    words = (
        address,
        "- -",
        when,
        _quoted(b" ".join((request.method, target, request.clientproto))),
        str(request.code),
        str(request.sentLength or "-"),
        _quoted(_redacted(request.getHeader(b"Referer") or b"-")),
        _quoted(request.getHeader(b"User-Agent") or b"-"),
    )
    return " ".join(words)


def _write(transport: Any, data: bytes) -> None:
    transport.write(data)


def _unknown(transport: Any) -> int:
    return 0


def _leave_to_reactor(transport: Any) -> None:
    """It reads from every connection by itself."""


def _children_of(resource: IResource) -> dict[bytes, IResource]:
    """A resource's children, where it looks for them nowhere but among these."""
    if isinstance(resource, Resource) and type(resource).getChildWithDefault is Resource.getChildWithDefault:
        children: dict[bytes, IResource] = resource.children
        return children
    return {}


class RealtimeSite(server.Site):
    """The HTTP side of the daemon.

    :param resource: the root of the tree.
    :param reactor: calls later.
    :param wheel: runs all deadlines.
    :param hosts: the names that are answered to.
    :param origins: whose pages may use it.
    :param wall: seconds since 1970; dates answers and the access log.
    :param max_body: bytes in a request's body.
    :param max_connections: open connections, those included that became WebSockets.
    :param log_path: a file for the access log; None for none. It is opened by :meth:`open_log`, or at the first line.
    :param write: how whole answers are given to a transport.
    :param unsent: how many bytes of what was given to a transport its other side has not acknowledged.
    :param read: is given the transport of each new connection, and may read from it in the reactor's place.
    :param slow: seconds without progress after which a connection is closed whose client doesn't read its answers.
    :param public: paths of what pages of every origin may read.
    :param turns: where those wait that have more to do than fits a turn.
    :ivar deadlines: seconds by phase: to a first request and all its headers, to the end of its body, to a next one.
    :ivar body_rate: bytes a second; a body that comes at least as fast is given more time than its deadline.
    :ivar idle: connections that were answered, and have to ask again in time.
    :ivar stopping: whether no connection is kept open for a next request any more.
    """

    _log = Logger()
    protocol = RealtimeChannel  # type: ignore[assignment]
    requestFactory: Any = RealtimeRequest
    deadlines = {"CONNECTED": 10.0, "HEADERS": 10.0, "BODY": 30.0, "IDLE": 60.0}
    body_rate = 500  # as mod_reqtimeout of Apache has it
    linger_seconds = 5.0
    linger_bytes = 4 * 1024 * 1024
    max_refusals = 64

    def __init__(
        self,
        resource: IResource,
        reactor: IReactorTime,
        wheel: Wheel,
        hosts: HostList,
        origins: OriginPolicy,
        wall: Callable[[], float],
        max_body: int,
        max_connections: int,
        log_path: str | None = None,
        write: Callable[[Any, bytes], None] = _write,
        unsent: Callable[[Any], int] = _unknown,
        read: Callable[[Any], None] = _leave_to_reactor,
        slow: float = 60.0,
        public: frozenset[bytes] = frozenset(),
        turns: Turns | None = None,
    ) -> None:
        super().__init__(resource, logPath=log_path, reactor=reactor, parsePOSTFormSubmission=False)
        self._children = _children_of(resource)
        self.idle = DeadlineQueue(wheel, reactor.seconds, self.deadlines["IDLE"], RealtimeChannel.too_late)
        self.wheel = wheel
        self.hosts = hosts
        self.origins = origins
        self._wall = wall
        self.max_body = max_body
        self.max_connections = max_connections
        self.write = write
        self.unsent = unsent
        self.stalled_after = slow
        self.read = read
        self.public = public
        self.turns = Turns(reactor) if turns is None else turns
        self.stopping = False
        self._channels: set[RealtimeChannel] = set()
        self._successors = 0
        self._drained: Deferred[None] | None = None
        self._second = -1
        self._headers = b""
        self._log_is_broken = False

    def acceptableProtocols(self) -> list[bytes]:
        """HTTP/1.1 alone: our channel doesn't negotiate others."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> RealtimeChannel:  # type: ignore[override]
        """A channel for a new connection."""
        channel = RealtimeChannel()
        channel.factory = channel.site = self
        return channel

    def getResourceFor(self, request: server.Request) -> IResource:
        """The resource at a request's address."""
        resource: IResource = getChildForRequest(self.resource, request)
        return resource

    def leaf(self, path: bytes) -> IResource | None:
        """The leaf right below the root at a path, if there is one and nothing has to be unquoted to tell."""
        leaf = self._children.get(path[1:])
        return leaf if leaf is not None and leaf.isLeaf and path[1:].isalnum() else None

    def body_too_large(self) -> RealtimeError:
        """What is wrong with a longer body."""
        return RealtimeError("too_large", f"a request's body has at most {self.max_body} bytes")

    @property
    def connections(self) -> int:
        """How many connections are open, those included that became something else."""
        return len(self._channels) + self._successors

    def opened(self, connection: RealtimeChannel | _CountedProtocol) -> None:
        """Count a connection that is there."""
        if isinstance(connection, RealtimeChannel):
            self._channels.add(connection)
        else:
            self._successors += 1

    def lost(self, connection: RealtimeChannel | _CountedProtocol) -> None:
        """Count a connection no more."""
        if isinstance(connection, RealtimeChannel):
            self._channels.discard(connection)
        else:
            self._successors -= 1
        self._check_drained()

    def stop(self) -> Deferred[None]:
        """Close every connection as soon as it waits for nothing; what became something else isn't touched.

        :returns: fires when no connection is left.
        """
        self.stopping = True
        drained: Deferred[None] = Deferred()
        self._drained = drained
        for channel in tuple(self._channels):
            channel.close_if_idle()
        self._check_drained()
        return drained

    def _check_drained(self) -> None:
        if self._drained is not None and not self.connections:
            drained, self._drained = self._drained, None
            drained.callback(None)

    def headers_of_all(self) -> bytes:
        """The last lines of every answer's head, the date among them."""
        second = int(self._wall())
        if second != self._second:
            self._second = second
            date = http.datetimeToString(second)
            self._headers = b"Server: realtime_chat\r\nDate: %b\r\nX-Content-Type-Options: nosniff\r\n\r\n" % date
        return self._headers

    # The access log. Twisted's own would keep a timer running, and logs elsewhere where no file is given.

    def startFactory(self) -> None:
        """Nothing is opened here: privileges may not have been dropped yet."""

    def stopFactory(self) -> None:
        """Close the access log."""
        if self._logFile is not None:
            self._logFile.close()
            self._logFile = None

    def open_log(self) -> None:
        """Open the access log, if there is one.

        :raises OSError:
        """
        if self.logPath is not None and self._logFile is None:
            self._logFile = self._openLogFile(self.logPath)

    def _openLogFile(self, path: str | bytes) -> TextIO:
        return open(path, "a", 1, encoding="ascii", newline="\n", opener=partial(os.open, mode=0o600))

    def reopen_log(self) -> None:
        """Go on at the access log's path, where another file may be by now. If that fails, the old file goes on."""
        if self._logFile is None:
            return
        try:
            reopen(self._logFile)
        except OSError as error:
            self._log.error("the access log can't be opened again: {error}", error=error)

    def log(self, request: http.Request) -> None:
        """Write a request's line. A log that can't be written is reported once, and disturbs no request."""
        if self.logPath is None:
            return
        try:
            self.open_log()
            when = http.datetimeToLogString(self._wall())
            if self._logFile is not None:
                self._logFile.write(access_line(when, request) + "\n")
            self._log_is_broken = False
        except OSError as error:
            if not self._log_is_broken:
                self._log.error("the access log can't be written: {error}", error=error)
            self._log_is_broken = True
