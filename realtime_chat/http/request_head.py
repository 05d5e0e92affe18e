"""Reading the heads of plain requests that come in one piece, as nearly all do.

Twisted reads a head line by line. :class:`FastHeadReader` goes past that in two ways.

* One regular expression reads a whole GET without a body. From the bytes to the answer, a GET takes 35 µs instead of
  56 µs in memory; with the dozen headers of a browser the difference is larger.
* A client that polls sends the same header lines byte for byte each time, and all clients that poll a room send the
  same first line. Header lines that were checked once are used again, and a first line is parsed once. Such a GET
  takes 5 µs. ``docs/performance.rst`` says what that is of a whole poll.

:class:`PlainHeadReader` leaves every head to Twisted. A site chooses one of them; both give the same answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, TypeVar, overload

from twisted.web.http_headers import Headers

from realtime_chat.http.cors import CORSPolicy
from realtime_chat.http.fast_request import FastRequest
from realtime_chat.http.origins import FOR_SCRIPTS
from realtime_chat.http.request import RequestChannel, RequestSite
from realtime_chat.http.subscribe_params import Parameters, memoized, read_query
from realtime_chat.values.errors import RealtimeError

__all__ = [
    "LEANS_ON",
    "CachedHeaders",
    "FastHeadReader",
    "HeadChannel",
    "HeadReader",
    "HeadSite",
    "PlainHeadReader",
    "Target",
    "parse_headers",
    "parse_request_line",
    "split_head",
]

LEANS_ON = (
    "twisted.web.http:HTTPChannel._command",
    "twisted.web.http:HTTPChannel._path",
    "twisted.web.http:HTTPChannel._version",
    "twisted.web.http_headers:Headers._rawHeaders",
)
"""Private names of Twisted whose meaning this module relies on."""

D = TypeVar("D")

_MAX_CACHED = 1024
"""Bytes of header lines that are kept for a connection's next request."""

_HEADER = re.compile(rb"([A-Za-z0-9-]+): ?([!-~](?:[ -~]*[!-~])?)\r\n")
_REQUEST_LINE = re.compile(rb"GET (/[!-~]*) HTTP/1\.1")
_HEAD = re.compile(
    _REQUEST_LINE.pattern
    + rb"\r\n((?:(?!(?i:Content-Length|Transfer-Encoding|Expect):)"
    + _HEADER.pattern.replace(b"([", b"(?:[")
    + rb")*)\r\n"
)


class HeadSite(RequestSite, Protocol):
    """What a head reader needs of the site."""

    cors: CORSPolicy


class HeadChannel(RequestChannel, Protocol):
    """What a head reader needs of the connection, most of which is Twisted's."""

    MAX_LENGTH: int
    maxHeaders: int
    requests: list[Any]
    length: int | None
    cached_headers: CachedHeaders | None
    _command: bytes
    _path: bytes
    _version: bytes

    @property
    def site(self) -> HeadSite:
        """The site."""

    def allHeadersReceived(self) -> None:
        """Check a request by its headers."""

    def allContentReceived(self) -> None:
        """Pass on a complete request."""

    def start_checked(self, request: Any) -> None:
        """Note that a complete request, whose headers need no check, is being answered."""

    def update_deadline(self) -> None:
        """Set the deadline for what the connection waits for now."""


class HeadReader(Protocol):
    """Reads the head of a request that may have come in one piece."""

    def read(self, channel: HeadChannel, data: bytes) -> bool:
        """Read ``data``, and start the request, if it is exactly one request without a body.

        :param channel: a connection on which no request has been begun.
        :returns: whether it was read; if not, the channel reads it line by line.
        """


class PlainHeadReader:
    """Leaves every head to Twisted."""

    def read(self, channel: HeadChannel, data: bytes) -> bool:
        """Read nothing."""
        return False


class FastHeadReader:
    """Reads a plain GET at once. Whatever is unusual is left to Twisted."""

    def read(self, channel: HeadChannel, data: bytes) -> bool:
        """Read a plain GET."""
        if len(data) > channel.MAX_LENGTH:
            return False
        cached = channel.cached_headers
        if cached is not None:
            line, _, lines = data.partition(b"\r\n")
            target = parse_request_line(line) if lines == cached.lines else None
            if target is not None:
                self._reuse_checked_headers(channel, cached, target)
                return True
        return self._parse_simple_get(channel, data)

    def _reuse_checked_headers(self, channel: HeadChannel, cached: CachedHeaders, target: Target) -> None:
        """Start a request with the header lines of the request before, which were checked."""
        request = FastRequest(channel)
        request.requestHeaders = cached
        if channel.site.cors.varies:
            channel.site.cors.set_vary(request.responseHeaders)
        channel.start_checked(request)
        request.process_get(target)

    def _parse_simple_get(self, channel: HeadChannel, data: bytes) -> bool:
        """Read all of a GET without a body, for a third of what reading it line by line costs."""
        head = split_head(data)
        headers = None if head is None else parse_headers(head[1], channel.maxHeaders)
        if head is None or headers is None:
            return False
        request = FastRequest(channel)
        request.requestHeaders = headers
        channel.requests.append(request)
        channel._command, channel._path, channel._version = b"GET", head[0], b"HTTP/1.1"
        channel.allHeadersReceived()
        if channel.length == 0:
            self._cache(channel, request, data.partition(b"\r\n")[2])
            channel.allContentReceived()
        channel.update_deadline()
        return True

    def _cache(self, channel: HeadChannel, request: FastRequest, lines: bytes) -> None:
        """Keep header lines that were checked, unless they change the answer, or the access log needs them."""
        is_usual = not request.is_foreign and request.destination == FOR_SCRIPTS
        is_plain = is_usual and not request.requestHeaders.hasHeader(b"Origin") and channel.site.access_log is None
        channel.cached_headers = CachedHeaders(lines) if is_plain and len(lines) <= _MAX_CACHED else None


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
    """Parse a request's first line. Return None if it isn't a plain GET, or its query is invalid."""
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        return None
    path, _, query = match[1].partition(b"?")
    try:
        return Target(match[1], path, read_query(query))
    except RealtimeError:
        return None


def split_head(data: bytes) -> tuple[bytes, bytes] | None:
    """Return the target and the header lines of ``data``, or None if it isn't exactly one plain GET without a body."""
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
    """

    __slots__ = ("_name", "_values", "lines")

    def __init__(self, lines: bytes) -> None:
        self.lines = lines
        self._name: Any = None
        self._values: Any = None

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

    def getRawHeaders(self, name: Any, default: Any = None) -> Any:  # noqa: N802
        """Return the values of a header, or ``default``."""
        if name is not self._name:
            self._name, self._values = name, super().getRawHeaders(name)
        return default if self._values is None else self._values
