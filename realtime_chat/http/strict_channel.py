"""A connection on which a bad request is refused, with an error that its client can read.

Twisted's parser accepts some requests that are invalid or ambiguous, has no limits that fit here, and closes on errors
so fast that clients often can't read why. :class:`StrictChannel` checks each head before a resource is asked.
"""

# Twisted calls many of these methods by its own names.

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import ISSLTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http_headers import Headers

from realtime_chat.core.wheel import Stall, Timeout
from realtime_chat.http import answers
from realtime_chat.http.client_address import ClientAddress, Peer
from realtime_chat.http.origins import destination_of, is_foreign
from realtime_chat.http.request import REASONS, RealtimeRequest
from realtime_chat.http.site import RealtimeSite
from realtime_chat.values.errors import RealtimeError

_LENGTH_DIGITS = 15
NO_HEADERS = Headers()


class StrictChannel(http.HTTPChannel):
    """An HTTP connection that refuses bad requests, and reads on for a while after a refusal.

    :ivar is_closing: whether nothing is read as HTTP any more.
    """

    _log = Logger()
    site: RealtimeSite
    requestFactory = RealtimeRequest  # type: ignore[assignment]
    transport: Any = None
    maxHeaders = 100
    totalHeadersSize = 24 * 1024  # noqa: N815
    is_closing = False
    _timeout: Timeout | Stall | None = None
    _discarded = 0
    _peer: Peer | None = None

    # Heads

    def lineReceived(self, line: bytes) -> None:
        """Read a line of a head."""
        if self.is_closing:
            return
        if self._receivedHeaderSize + len(line) > self.totalHeadersSize:
            self._refuse_headers()
        else:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a line that is longer than a whole head may be."""
        self._refuse_headers()

    def headerReceived(self, line: bytes) -> bool:
        """Read a header. Return whether the request may go on."""
        if self.is_closing:
            return False
        if self._receivedHeaderCount >= self.maxHeaders:
            self._refuse_headers()
            return False
        return bool(super().headerReceived(line)) and not self.is_closing

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
        if self.is_closing:
            return
        try:
            self._check(self.requests[-1])
        except RealtimeError as error:
            self.refuse(error)
            self.length = None  # with 0, lineReceived would take the request for complete
        else:
            super().allHeadersReceived()

    def _check(self, request: RealtimeRequest) -> None:
        headers = request.requestHeaders
        request.client_address = self._client_address(headers)
        hosts = headers.getRawHeaders(b"Host", ())
        self._path = self.site.hosts.origin_form(self._path, self.site.hosts.check(hosts), self._command)
        origins = headers.getRawHeaders(b"Origin", ())
        if self.site.origins.varies:
            self.site.origins.set_vary(request.responseHeaders)
        if origins:
            path, is_preflight = self._path.partition(b"?")[0], self._command == b"OPTIONS"
            response, is_secure = request.responseHeaders, self.isSecure()
            request.is_cross_origin = self.site.origins.check(
                response, origins, path, hosts[0], is_secure, is_preflight
            )
        credentials = headers.getRawHeaders(b"Authorization")
        if credentials:
            if len(credentials) > 1:
                raise RealtimeError("bad_request", "the header Authorization is given at most once")
            request.authorization = credentials[0]
        request.destination = destination_of(headers)
        request.is_foreign = not origins and is_foreign(headers)
        if self._version != b"HTTP/1.1" and headers.hasHeader(b"Transfer-Encoding"):
            raise RealtimeError("bad_request", "HTTP/1.0 has no Transfer-Encoding")
        if self.length is not None and self.length > self.site.max_body:
            raise self.site.body_too_large()

    def _client_address(self, headers: Headers) -> ClientAddress:
        """Where a request with these headers comes from."""
        if self._peer is None:
            self._peer = self.site.client_addresses.peer_of(self.transport)
        return self.site.client_addresses.of(self._peer, headers)

    def forget_peer(self) -> None:
        """Find out again, with the next request, whose connection this is."""
        self._peer = None

    def checkPersistence(self, request: RealtimeRequest, version: bytes) -> bool:
        """Return whether the connection may stay open. Twisted's own method overlooks ``close`` in a list."""
        values = b",".join(request.requestHeaders.getRawHeaders(b"Connection", ()))
        if version == b"HTTP/1.1" and b"close" not in {token.strip().lower() for token in values.split(b",")}:
            return True
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def allContentReceived(self) -> None:
        """Pass on a complete request."""
        if not self.is_closing:
            super().allContentReceived()

    # Refusals

    def refuse_body(self) -> None:
        """Answer that the body is larger than allowed, and close."""
        self.refuse(self.site.body_too_large())

    def refuse(self, error: RealtimeError, status: int | None = None) -> None:
        """Answer the request that is being read with an error, and close.

        :param status: another status than the error's own.
        """
        if self.is_closing:
            return
        request = self.requests[-1] if self.requests else None
        headers = Headers() if request is None else request.responseHeaders
        given = answers.error_headers(headers, error, status)
        answers.describe(headers, given)
        headers.setRawHeaders(b"Connection", [b"close"])
        self.writeHeaders(b"HTTP/1.1", b"%d" % given.status, REASONS[given.status], headers)
        if getattr(self, "_command", b"") != b"HEAD":
            self.write(given.body)
        if request is not None:
            self._log_refused(request, given)
        self._linger()

    def _log_refused(self, request: RealtimeRequest, given: answers.Answer) -> None:
        # Without all of its headers, a request may lack the line that its proxy has added.
        request.client_address = request.client_address or self._client_address(NO_HEADERS)
        request.method = getattr(self, "_command", b"-")
        request.uri = getattr(self, "_path", b"-")
        request.clientproto = getattr(self, "_version", b"-")
        request.setResponseCode(given.status)
        request.sentLength = len(given.body)
        self.site.log(request)

    def _linger(self) -> None:
        """Close for writing, and discard for a while what still comes.

        If the connection were closed with unread data, the kernel would send a reset. Then the client would drop an
        answer that it has not read yet (RFC 9112, section 9.6).
        """
        self._end()
        transport = self.transport
        transport.unregisterProducer()
        self._networkProducer.resumeProducing()
        self._set_timeout(self._stall(self.site.linger_seconds))
        # TLS closes by its own messages, so only a bare socket may be closed by half.
        half_close = getattr(transport, "loseWriteConnection", None)
        if half_close is None or ISSLTransport.providedBy(transport):
            transport.loseConnection()
        else:
            half_close()

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > self.site.linger_bytes:
            self.transport.abortConnection()

    # The end of the connection

    def loseConnection(self) -> None:
        """Close when everything is written. Cut the client off if it reads nothing more."""
        if not self.is_closing:
            self._end()
            self._set_timeout(self._stall(self.site.stalled_after))
        super().loseConnection()

    def _end(self) -> None:
        self.is_closing = True
        self.clearLineBuffer()
        self._dataBuffer = []
        if not self._handlingRequest:
            self.requests = []
            self._transferDecoder = None

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Tell the request that waits, and drop all references."""
        self.is_closing = True
        self._set_timeout(None)
        super().connectionLost(reason)
        self._break_cycles()
        self.site.disconnected(self)

    def _break_cycles(self) -> None:
        """Drop the references that form cycles, which only a full garbage collection would find."""
        self.requests = []
        self._dataBuffer = []
        self._transferDecoder = None
        self._networkProducer = None  # type: ignore[assignment]

    def _stall(self, seconds: float) -> Stall:
        """Abort the connection if the client reads nothing for so long."""
        transport = self.transport
        return Stall(self.site.wheel, seconds, lambda: self.site.unsent(transport), transport.abortConnection)

    def _set_timeout(self, timeout: Timeout | Stall | None) -> None:
        self.site.idle.drop(self)
        if self._timeout is not None:
            self._timeout.cancel()
        self._timeout = timeout

    # Heads of answers

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Write the head of an answer, with the headers of every answer."""
        self.transport.write(self.head(code, reason, headers, version))

    def head(self, code: bytes, reason: bytes, headers: Headers, version: bytes = b"HTTP/1.1") -> bytes:
        """Return the head of an answer, with the headers of every answer."""
        return answers.head(version, code, reason, headers, self.site.common_headers())
