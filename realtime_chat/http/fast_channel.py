"""Simple requests past Twisted: a whole GET is read at once, and each request is answered in one write.

Each delivery to a poll is one request and its answer. Twisted reads a head line by line. It writes an answer's head and
body separately, after it has decided about chunks, ``Last-Modified``, ``ETag`` and cookies. What this gives, in memory:

* One regular expression reads a whole GET without a body. From the bytes to the answer, a GET takes 35 µs instead of
  56 µs; with the dozen headers of a browser the difference is larger.
* A client that polls sends the same header lines byte for byte each time, and all clients that poll a room send the
  same first line. Header lines that were checked once are used again, and a first line is parsed once. Such a GET
  takes 5 µs. ``docs/performance.rst`` says what that is of a whole poll.
* A POST takes 77 µs instead of 88 µs, and its answer one system call instead of two. Twisted's constructor isn't
  called, which asks the kernel for both addresses and creates two header objects, a dictionary and two lists.

:class:`~realtime_chat.http.channel.RealtimeChannel` does the same by Twisted's own methods. A site is given one of the
two, and both give the same answers.
"""

# Twisted names most of these attributes and methods.
# ruff: noqa: N802

from __future__ import annotations

import re
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, overload

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http import NO_BODY_CODES
from twisted.web.http_headers import Headers

from realtime_chat.core.identity import Identity
from realtime_chat.http import answers
from realtime_chat.http.channel import RealtimeChannel
from realtime_chat.http.client_address import ClientAddress
from realtime_chat.http.origins import FOR_SCRIPTS
from realtime_chat.http.request import REASONS, RealtimeRequest
from realtime_chat.http.site import Channel
from realtime_chat.http.subscribe_params import Parameters, memoized, read_query
from realtime_chat.values.errors import RealtimeError

LEANS_ON = (
    "twisted.web.http:HTTPChannel._command",
    "twisted.web.http:HTTPChannel._handlingRequest",
    "twisted.web.http:HTTPChannel._path",
    "twisted.web.http:HTTPChannel._version",
    "twisted.web.http:Request._cleanup",
    "twisted.web.http:Request._disconnected",
    "twisted.web.http_headers:Headers._rawHeaders",
    "twisted.web.server:Request._encoder",
    "twisted.web.server:Request._inFakeHead",
)
"""Private names of Twisted whose meaning this module relies on."""

D = TypeVar("D")

_OK = 200  # reading a name of twisted.web.http takes half a microsecond, as the module checks for deprecated names
_ONCE = answers.COMMON_HEADERS | {b"Content-Length", b"Content-Type"}
"""Headers that the answer itself sets. A resource's own values for them are left out."""

_NO_HEADERS = Headers()

_MAX_CACHED = 2048
"""Bytes of header lines that are kept for a connection's next request: a browser's, with a client of a token."""

_HEADER = re.compile(rb"([A-Za-z0-9-]+): ?([!-~](?:[ -~]*[!-~])?)\r\n")
_REQUEST_LINE = re.compile(rb"GET (/[!-~]*) HTTP/1\.1")
_HEAD = re.compile(
    _REQUEST_LINE.pattern
    + rb"\r\n((?:(?!(?i:Content-Length|Transfer-Encoding|Expect):)"
    + _HEADER.pattern.replace(b"([", b"(?:[")
    + rb")*)\r\n"
)


class FastRequest(RealtimeRequest):
    """A request whose answer goes to the socket in one piece."""

    # All requests share these, so they can't be changed.
    received_cookies: Any = MappingProxyType({})
    cookies: Any = ()
    notifications: Any = ()
    queued = False
    _response_headers: Headers | None = None

    def __init__(self, channel: Channel, queued: object = False, headers: Headers | None = None) -> None:
        self.channel = channel
        self.transport = channel.transport
        self.requestHeaders = Headers() if headers is None else headers

    @property
    def responseHeaders(self) -> Headers:  # type: ignore[override]
        """The headers to send."""
        if self._response_headers is None:
            self._response_headers = Headers()
        return self._response_headers

    @property
    def client(self) -> Any:
        """The address of the other end of the connection."""
        return self.channel.getPeer()

    @property
    def host(self) -> Any:
        """The address of this end of the connection."""
        return self.channel.getHost()

    def notifyFinish(self) -> Deferred[None]:
        """Return a Deferred that fires after the answer, and fails if the connection is lost before it."""
        waiting: Deferred[None] = Deferred()
        self.notifications = [*self.notifications, waiting]
        return waiting

    def process_get(self, target: tuple[bytes, bytes, Parameters]) -> None:
        """Process a GET without a body.

        :param target: the URI, its path and its query's parameters.
        """
        self.method, self.clientproto = b"GET", b"HTTP/1.1"
        self.uri, self.path, self.args = target  # type: ignore[assignment]
        site = self.site = self.channel.site
        leaf = site.leaf(self.path)
        if leaf is None:
            self.process()
            return
        try:
            self.render(leaf)
        except Exception:
            self.processingFailed(Failure())

    def respond(self, body: bytes, status: int = _OK, content_type: bytes = answers.JSON) -> None:
        """Send status, headers and body in one write, and finish."""
        self.code, self.startedWriting, self.sentLength = status, 1, len(body)
        if self._response_headers is None and status == _OK and self.clientproto == b"HTTP/1.1":
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: %b\r\nCache-Control: no-store\r\n%b" % (
                len(body),
                content_type,
                self.site.common_headers(),
            )
        else:
            head = self._head(answers.Answer(body, status, content_type))
        has_body = self.method != b"HEAD" and status not in NO_BODY_CODES
        self.site.write(self.channel.transport, head + body if has_body else head)
        self._end()

    def _head(self, given: answers.Answer) -> bytes:
        """Return the head of an answer, without setting the headers that describe it, which would take 7 µs."""
        status, headers, lines = given.status, self._response_headers or _NO_HEADERS, b""
        if status not in NO_BODY_CODES:
            lines = b"Content-Length: %d\r\nContent-Type: %b\r\n" % (len(given.body), given.content_type)
        if not headers.hasHeader(b"Cache-Control"):
            lines += b"Cache-Control: no-store\r\n"
        reason = REASONS.get(status, b"Unknown")
        lines += self.site.common_headers()
        return answers.head(self.clientproto, b"%d" % status, reason, headers, lines, _ONCE)

    def _end(self) -> None:
        """Finish, without Twisted's checks for what a request answered in one write can't have."""
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


class FastChannel(RealtimeChannel):
    """A channel that reads a simple GET at once. Whatever is unusual is left to Twisted.

    :ivar cached_headers: the last request's header lines, if they can be used again.
    """

    requestFactory = FastRequest  # type: ignore[assignment]
    cached_headers: CachedHeaders | None

    def _read_whole_head(self, data: bytes) -> bool:
        if len(data) > self.MAX_LENGTH:
            return False
        cached = self.cached_headers
        if cached is not None:
            line, _, lines = data.partition(b"\r\n")
            target = parse_request_line(line) if lines == cached.lines else None
            if target is not None:
                self._reuse_checked_headers(cached, target)
                return True
            self.cached_headers = None
        return self._parse_simple_get(data)

    def _reuse_checked_headers(self, cached: CachedHeaders, target: Target) -> None:
        """Start a request with the header lines of the request before, which were checked."""
        request = FastRequest(self, headers=cached)
        request.client_address = cached.client_address
        if self.site.origins.varies:
            self.site.origins.set_vary(request.responseHeaders)
        self._deadline_for = None
        self._set_timeout(None)
        self.requests.append(request)
        self._handlingRequest = True
        self.line_mode = 0
        request.process_get(target)

    def _parse_simple_get(self, data: bytes) -> bool:
        """Read all of a GET without a body, for a third of what reading it line by line costs."""
        head = split_head(data)
        headers = None if head is None else parse_headers(head[1], self.maxHeaders)
        if head is None or headers is None:
            return False
        request = FastRequest(self, headers=headers)
        self.requests.append(request)
        self._command, self._path, self._version = b"GET", head[0], b"HTTP/1.1"
        self.allHeadersReceived()
        if self.length == 0:
            self._cache(request, data.partition(b"\r\n")[2])
            self.allContentReceived()
        self.update_deadline()
        return True

    def _cache(self, request: FastRequest, lines: bytes) -> None:
        """Keep header lines that were checked, unless they change the answer, or the access log needs them."""
        can_be_reused = (
            len(lines) <= _MAX_CACHED
            and not request.is_foreign
            and request.destination == FOR_SCRIPTS
            and not request.requestHeaders.hasHeader(b"Origin")
            and request.authorization is None
            and self.site.access_log.path is None
        )
        self.cached_headers = CachedHeaders(lines, request.client_address) if can_be_reused else None

    def forget_peer(self) -> None:
        """Find out again, with the next request, whose connection this is."""
        super().forget_peer()
        self.cached_headers = None


class Target(NamedTuple):
    """What the first line of a GET asks for.

    :param uri: path and query, as they were sent.
    :param args: the query's parameters. They are shared, so they must not be changed.
    """

    uri: bytes
    path: bytes
    args: Parameters


@memoized
def parse_request_line(line: bytes) -> Target | None:
    """Parse a request's first line. Return None if it isn't a simple GET, or its query is invalid."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        return None
    path, _, query = match[1].partition(b"?")
    try:
        return Target(match[1], path, read_query(query))
    except RealtimeError:
        return None


def split_head(data: bytes) -> tuple[bytes, bytes] | None:
    """Return the target and the header lines of ``data``, or None if it isn't exactly one simple GET without a body."""
    match = _HEAD.fullmatch(data)
    return None if match is None else (match[1], match[2])


def parse_headers(lines: bytes, most: int) -> Headers | None:
    """Parse header lines of :func:`split_head`. Return None if there are more than ``most``."""
    found = _HEADER.findall(lines)
    return None if len(found) > most else _headers(found)


def _headers(found: Iterable[tuple[bytes, bytes]]) -> Headers:
    headers = Headers()
    for name, value in found:
        headers.addRawHeader(name, value)
    return headers


class CachedHeaders(Headers):
    """Header lines that were checked before. They are parsed when somebody asks for a header.

    All requests with the same lines on a connection share this object, so changes to it are dropped. It keeps only its
    last answer, to save memory: requests of a kind ask for the same header.

    :ivar lines: the lines, with the empty one at their end.
    :ivar client_address: where requests with these lines come from.
    :ivar identity: that of the client in the lines, once it was verified. Whether its time is over is asked each time.
    """

    __slots__ = ("_name", "_values", "client_address", "identity", "lines")

    def __init__(self, lines: bytes, client_address: ClientAddress | None = None) -> None:
        self.lines = lines
        self.client_address = client_address
        self.identity: Identity | None = None
        self._name: Any = None
        self._values: Any = None

    def remember(self, identity: Identity) -> None:
        """Remember whose client stands in the lines, in place of the client's header."""
        self.identity = identity
        self._name = self._values = None

    @property
    def _rawHeaders(self) -> dict[bytes, list[bytes]]:  # type: ignore[override]
        return self.copy()._rawHeaders

    def copy(self) -> Headers:
        """Return headers that can be changed."""
        return _headers(_HEADER.findall(self.lines))

    @overload
    def getRawHeaders(self, name: Any) -> Any: ...

    @overload
    def getRawHeaders(self, name: Any, default: D) -> Any | D: ...

    def getRawHeaders(self, name: Any, default: Any = None) -> Any:
        """Return the values of a header, or ``default``."""
        if name is not self._name:
            self._name, self._values = name, super().getRawHeaders(name)
        return default if self._values is None else self._values
