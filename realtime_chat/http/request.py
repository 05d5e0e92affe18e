"""One HTTP request: its body in memory, its errors as JSON, no cookies and no sessions.

``twisted.web`` spools bodies to disk, parses forms and cookies, and answers errors with HTML pages. This request does
none of that.
"""

# Twisted calls most of these methods by its own names.

from __future__ import annotations

from io import BytesIO
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.error import UnsupportedMethod
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource

from realtime_chat.http import answers
from realtime_chat.http.client_address import ClientAddress
from realtime_chat.http.origins import FOR_SCRIPTS, FOREIGN_PAGE, allow_credentials, allow_preflight
from realtime_chat.http.site import Channel, RealtimeSite
from realtime_chat.http.subscribe_params import read_query
from realtime_chat.values.errors import RealtimeError

MAX_LINE = 8000
"""Bytes of the longest line of a request that any client needs, and that common proxies let through. All header lines
together may have more than three times that: an address, a Last-Event-ID, and what browsers add."""

REASONS = {
    **http.RESPONSES,
    421: b"Misdirected Request",
    426: b"Upgrade Required",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
}
"""The reason phrase of each status. Twisted lacks some."""

_NO_HEADERS = Headers()
_NO_ARGUMENTS: Any = MappingProxyType({})


class Waiter(Protocol):
    """Answers a request later."""

    def request_lost(self) -> None:
        """The connection is lost before the answer."""


class RealtimeRequest(server.Request):
    """A request whose answer is written by Twisted's own methods.

    :class:`~realtime_chat.http.fast_channel.FastRequest` writes it in one piece.

    :ivar has_body: whether the headers announced a body; an upgrade must not have one.
    :ivar is_cross_origin: whether a page of another origin that is listed sent the request.
    :ivar is_foreign: whether a browser says that another origin's page caused the request, without naming the origin.
    :ivar authorization: the ``Authorization`` header.
    :ivar client_address: where it comes from; None until its headers are there.
    :ivar destination: what a browser wants the answer for; ``empty`` is a script.
    :ivar waiter: is told if the connection is lost before the answer; see :func:`when_lost`.
    """

    channel: Channel  # type: ignore[assignment]
    site: RealtimeSite
    has_body = False
    is_cross_origin = False
    is_foreign = False
    authorization: bytes | None = None
    client_address: ClientAddress | None = None
    destination = FOR_SCRIPTS
    waiter: Waiter | None = None
    defaultContentType = b"application/json"
    prepath: Any = ()
    postpath: Any = ()

    def __init__(self, channel: Any, queued: object = False) -> None:
        super().__init__(channel, False, parsePOSTFormSubmission=False)
        # Cookies are neither read nor set. Nothing can be put into these.
        self.received_cookies: Any = MappingProxyType({})
        self.cookies: Any = ()

    def parseCookies(self) -> None:
        """Read no cookies: they identify nobody here."""

    def gotLength(self, length: int | None) -> None:
        """Make room for the body. None stands for a chunked body."""
        self.has_body = length != 0
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of the body, or refuse the body once it exceeds the limit."""
        content = self.content
        if content is None or self.channel is None or self.channel.is_closing:
            return
        if content.tell() + len(data) > self.channel.site.max_body:
            self.channel.refuse_body()
        else:
            content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Parse the query of a complete request, and process it.

        Twisted's own method also parses forms, and takes four times as long for a query.
        """
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

    def process(self) -> None:
        """Find the resource, and let it answer."""
        self.site = self.channel.site
        self.prepath = []
        self.postpath = list(map(unquote_to_bytes, self.path[1:].split(b"/")))
        try:
            if self.method != b"OPTIONS" or not self._answer_options():
                self.render(self.site.getResourceFor(self))
        except Exception:
            self.processingFailed(Failure())

    def _answer_options(self) -> bool:
        """Answer ``OPTIONS *`` and preflights, which concern no resource. Return False for any other OPTIONS."""
        if self.path == b"*":
            self.setHeader(b"Allow", b"GET, HEAD, POST, OPTIONS")
        elif self.is_cross_origin and self.requestHeaders.hasHeader(b"Access-Control-Request-Method"):
            allow_preflight(self.responseHeaders)
            resource = self.site.getResourceFor(self)
            if isinstance(resource, answers.JSONResource) and resource.allows_credentials(self):
                allow_credentials(self.responseHeaders)
        else:
            return False
        answers.answer(self, answers.Answer(b"", http.NO_CONTENT))
        return True

    def render(self, resource: IResource) -> None:
        """Let a resource answer, now or later."""
        try:
            if self.is_foreign and isinstance(resource, answers.JSONResource) and resource.is_guarded(self):
                raise RealtimeError("bad_origin", FOREIGN_PAGE)
            body = resource.render(self)
        except UnsupportedMethod as error:
            answers.refuse_method(self, map(bytes.decode, error.allowedMethods))
            return
        if body is not server.NOT_DONE_YET:
            self.setHeader(b"Content-Length", b"%d" % len(body))
            self.write(body)
            self.finish()

    def processingFailed(self, reason: Failure) -> Failure:
        """Answer an exception that a resource raised."""
        answers.failure_answer(self, reason)
        return reason

    def connectionLost(self, reason: Failure) -> None:
        """Tell those who wait for the end of the request that its connection is lost."""
        super().connectionLost(reason)
        if self.waiter is not None:
            self.waiter.request_lost()

    def charge(self, error: RealtimeError) -> RealtimeError:
        """Charge the address for an error; see :meth:`~realtime_chat.http.limited_channel.LimitedChannel.charge`."""
        return error if self.channel is None else self.channel.charge(self, error)

    def release_memory(self) -> None:
        """Drop what the client sent, as the request may wait long. With an access log, keep it for the line."""
        if self.site.access_log.path is None:
            self.requestHeaders = _NO_HEADERS
            self.authorization = None
            self.args = _NO_ARGUMENTS
            self.content = None
            self.prepath = self.postpath = ()

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        """Set the status, and a reason phrase for those that Twisted has none for."""
        super().setResponseCode(code, message or REASONS.get(code))

    def detach(self) -> None:
        """End without an answer, as another protocol has the connection now."""
        notifications, self.notifications = self.notifications, []
        self.finished = 1
        self.content = self.transport = self.channel = None  # type: ignore[assignment]
        for waiting in notifications:
            waiting.callback(None)


def when_lost(request: server.Request, waiter: Waiter) -> None:
    """Tell ``waiter`` if a request's connection is lost before the answer. Our requests need no Deferred for that."""
    if isinstance(request, RealtimeRequest):
        request.waiter = waiter
    else:
        request.notifyFinish().addErrback(lambda _: waiter.request_lost())
