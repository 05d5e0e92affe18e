"""How resources answer: in JSON, with errors as JSON objects, now or later.

This works under any :class:`twisted.web.server.Site`, so resources can be tested without a socket.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from math import ceil
from typing import Any, NamedTuple, TypeAlias

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import NO_BODY_CODES
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from realtime_chat.values.codec import encode_error
from realtime_chat.values.errors import RealtimeError, internal_error

_log = Logger()

RETRY_AFTER = b"2"
"""Seconds after which a client may retry after a temporary error."""


JSON = b"application/json"

COMMON_HEADERS = frozenset((b"Server", b"Date", b"X-Content-Type-Options"))
"""The headers that every answer has. A resource's own values for them are left out."""


class Answer(NamedTuple):
    """An answer to a request.

    :param body: empty if the status has no body.
    :param content_type: of the body.
    """

    body: bytes
    status: int = 200
    content_type: bytes = JSON


TAKEN_OVER = Answer(b"")
"""The answer to a request whose connection is no longer HTTP's: it goes nowhere."""

Answerable: TypeAlias = bytes | Answer
"""An answer, or the JSON body of an answer with status 200."""

Later: TypeAlias = Coroutine[Deferred[Any], Any, Answerable] | Deferred[Any]
"""An :data:`Answerable` that comes later."""

_TEMPORARY = ((b"Retry-After", RETRY_AFTER),)
_HEADERS_BY_STATUS: dict[int, tuple[tuple[bytes, bytes], ...]] = {
    401: ((b"WWW-Authenticate", b"Bearer"),),
    426: ((b"Upgrade", b"websocket"),),
    429: _TEMPORARY,
    503: _TEMPORARY,
}


def is_gone(request: Request) -> bool:
    """Return whether nothing can be sent any more: the client has gone, or has its answer."""
    return bool(request._disconnected or request.finished)


def answer(request: Request, given: Answerable) -> int:
    """Answer a request, unless its client has gone.

    :returns: NOT_DONE_YET, for a ``render_`` method to return.
    """
    if is_gone(request):
        return NOT_DONE_YET
    respond = getattr(request, "respond", None)  # which writes once; see FastRequest
    if respond is not None:
        if isinstance(given, Answer):
            respond(*given)
        else:
            respond(given)
    else:
        given = given if isinstance(given, Answer) else Answer(given)
        request.setResponseCode(given.status)
        describe(request.responseHeaders, given)
        request.write(given.body)
        request.finish()
    return NOT_DONE_YET


def describe(headers: Headers, given: Answer) -> None:
    """Set the headers that describe an answer's body."""
    headers.setRawHeaders(b"X-Content-Type-Options", [b"nosniff"])
    if given.status not in NO_BODY_CODES:
        headers.setRawHeaders(b"Content-Length", [b"%d" % len(given.body)])
        headers.setRawHeaders(b"Content-Type", [given.content_type])
    if not headers.hasHeader(b"Cache-Control"):
        headers.setRawHeaders(b"Cache-Control", [b"no-store"])


def head(
    version: bytes,
    code: bytes,
    reason: bytes,
    headers: Headers,
    last: bytes,
    without: frozenset[bytes] = COMMON_HEADERS,
) -> bytes:
    """Return the head of an answer.

    :param last: further lines, with the empty one that ends the head.
    :param without: the headers that they set; their values in ``headers`` are left out.
    """
    lines = [version, b" ", code, b" ", reason, b"\r\n"]
    for name, values in headers.getAllRawHeaders():
        if name not in without:
            lines += [part for value in values for part in (name, b": ", value, b"\r\n")]
    lines.append(last)
    return b"".join(lines)


def error_answer(request: Request, error: RealtimeError) -> int:
    """Answer with an error object, unless the client has gone.

    :returns: NOT_DONE_YET.
    """
    return answer(request, charged_error(request, error))


def charged_error(request: Request, error: RealtimeError) -> Answer:
    """Charge a request's address for an error, set the headers of the error's status, and return its answer."""
    charge = getattr(request, "charge", None)  # which a RealtimeRequest has
    return error_headers(request.responseHeaders, error if charge is None else charge(error))


def error_headers(headers: Headers, error: RealtimeError, status: int | None = None) -> Answer:
    """Set the headers that belong to an error's status, and return its answer."""
    given = Answer(encode_error(error), error.kind.status if status is None else status)
    for name, value in _HEADERS_BY_STATUS.get(given.status, ()):
        headers.setRawHeaders(name, [value])
    if error.after is not None:
        headers.setRawHeaders(b"Retry-After", [b"%d" % max(1, ceil(error.after))])
    return given


def failure_answer(request: Request, failure: Failure) -> int:
    """Answer a failure. Send a :class:`RealtimeError` as it is; log any other, and send ``internal``.

    If a part of an answer was sent already, close the connection.

    :returns: NOT_DONE_YET.
    """
    if isinstance(failure.value, RealtimeError) and not request.startedWriting:
        return error_answer(request, failure.value)
    if is_gone(request) and failure.check(CancelledError, RealtimeError):
        return NOT_DONE_YET
    _log.failure("answering a request failed", failure)
    if request.startedWriting and not is_gone(request):
        request.loseConnection()
        return NOT_DONE_YET
    return error_answer(request, internal_error())


def _answer_failure(request: Request, failure: Failure) -> int:
    """Answer a failure, and drop its traceback.

    If the failure came out of a coroutine, a frame of the traceback refers to the failure. This cycle would be work for
    the garbage collector, which stops the whole process.
    """
    try:
        return failure_answer(request, failure)
    finally:
        if failure.value is not None:
            failure.value.__traceback__ = None


def answer_later(request: Request, later: Later, cancel: bool = False) -> int:
    """Answer a request when its answer comes.

    :param later: a coroutine or a Deferred.
    :param cancel: whether to cancel ``later`` when the client goes away. This is right for what only waits, and wrong
        for what changes something. Otherwise the work is finished, and its answer dropped.
    :returns: NOT_DONE_YET.
    """
    waiting: Deferred[Answerable] = ensureDeferred(later)
    if not waiting.called:
        # Only an unanswered request can lose its connection.
        request.notifyFinish().addErrback(lambda _: waiting.cancel() if cancel else None)
    waiting.addCallback(lambda given: answer(request, given))
    waiting.addErrback(lambda failure: _answer_failure(request, failure))
    return NOT_DONE_YET


def refuse_method(request: Request, allowed: Iterable[str]) -> int:
    """Answer that the request's method is not allowed, but others are. Return NOT_DONE_YET."""
    methods = ", ".join(sorted(allowed))
    request.setHeader(b"Allow", methods.encode("ascii"))
    return error_answer(request, RealtimeError("method_not_allowed", f"the methods here are {methods}"))


_METHODS = {b"GET": "render_GET", b"HEAD": "render_GET"}


def _method(method: bytes) -> str:
    return "render_" + method.decode("ascii", "replace")


class JSONResource(Resource):
    """A resource that answers in JSON, with errors too.

    A ``render_`` method returns bytes (JSON, with status 200), an :class:`Answer`, a coroutine or a Deferred of either,
    or NOT_DONE_YET. It may raise :class:`~realtime_chat.values.errors.RealtimeError`. ``render_GET`` also answers HEAD.
    A path that is no child is not found, also below a leaf. A method without a ``render_`` method is not allowed.

    :cvar guarded: whether images, forms and links of other origins' pages are refused.
    """

    guarded = False

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return what answers at a path that is no child."""
        return NotFound()

    def is_guarded(self, request: Request) -> bool:
        """Return whether to refuse a request of another origin's page that can't read the answer."""
        return self.guarded

    def allows_credentials(self, request: Request) -> bool:
        """Return whether pages of listed origins may send a request with credentials (Fetch, section 3.2.5)."""
        return False

    def render(self, request: Request) -> int:
        """Answer by the ``render_`` method of the request's method."""
        if request.postpath and any(request.postpath):
            return NotFound().render(request)
        render = getattr(self, _METHODS.get(request.method) or _method(request.method), None)
        if render is None:
            return self._refuse_method(request) if self.allowed() else NotFound().render(request)
        try:
            return _answer_any(request, render(request))
        except Exception:
            return failure_answer(request, Failure())

    def allowed(self) -> list[str]:
        """Return the methods that are allowed here."""
        names = {name.removeprefix("render_") for name in dir(self) if name.startswith("render_")}
        return list(names if "GET" in names else names - {"HEAD"})

    def _refuse_method(self, request: Request) -> int:
        return refuse_method(request, self.allowed())


def _answer_any(request: Request, given: Any) -> int:
    if isinstance(given, int):  # NOT_DONE_YET
        return given
    return answer(request, given) if isinstance(given, (bytes, Answer)) else answer_later(request, given)


class NotFound(JSONResource):
    """Answers at every address that has no resource."""

    isLeaf = True

    def render(self, request: Request) -> int:
        """Answer with ``not_found``."""
        return error_answer(request, RealtimeError("not_found", "there is nothing at this address"))
