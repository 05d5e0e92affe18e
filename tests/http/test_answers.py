"""Tests for :mod:`realtime_chat.http.answers`, under twisted.web's own site."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from treq.testing import StubTreq
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.test.requesthelper import DummyChannel

from realtime_chat.http.answers import (
    Answer,
    JSONResource,
    answer,
    answer_later,
    error_answer,
    is_gone,
)
from realtime_chat.values.errors import ERRORS, RealtimeError, StoreError


class Asked(JSONResource):
    """Calls a function for every GET, keeping the request."""

    isLeaf = True
    request: Any = None

    def __init__(self, call: Callable[[Request], Any]) -> None:
        super().__init__()
        self._call = call

    def render_GET(self, request: Request) -> Any:
        self.request = request
        return self._call(request)


class AnswerTestCase(SynchronousTestCase):
    """Asks a resource through treq, without a socket."""

    def ask(self, call: Callable[[Request], Any], method: str = "GET", path: str = "") -> Any:
        """The response to a request that ``call`` answers."""
        self.treq = StubTreq(Asked(call))
        return self.successResultOf(self.treq.request(method, f"http://localhost/{path}"))

    def body(self, response: Any) -> Any:
        return json.loads(self.successResultOf(response.content()))

    def check_error(self, response: Any, status: int, code: str) -> None:
        body = self.body(response)
        self.assertEqual((response.code, body["type"], body["code"]), (status, "error", code))

    def write(self, call: Callable[[Request], Any]) -> tuple[Request, Any]:
        """Ask: the request, and the file of what is written to it."""
        channel = DummyChannel()
        request = Request(channel, False)
        request.method, request.uri, request.path, request.clientproto = b"GET", b"/", b"/", b"HTTP/1.1"
        request.postpath = []
        self.assertEqual(Asked(call).render(request), NOT_DONE_YET)
        return request, channel.transport.written

    def lose(self, call: Callable[[Request], Any]) -> tuple[Request, Any]:
        """Ask, then go: the request, and the file of what is written to it."""
        request, written = self.write(call)
        request.connectionLost(Failure(ConnectionError()))
        return request, written


class AnswerTests(AnswerTestCase):
    """Answers and errors at once."""

    def test_json(self) -> None:
        """JSON is sent as what it is, with its length, and isn't kept."""
        response = self.ask(lambda request: answer(request, Answer(b'{"a":1}', 201)))
        self.assertEqual((response.code, self.body(response)), (201, {"a": 1}))
        headers = {name.lower(): values for name, values in response.headers.getAllRawHeaders()}
        self.assertEqual(headers[b"content-type"], [b"application/json"])
        self.assertEqual(headers[b"cache-control"], [b"no-store"])
        self.assertEqual(headers[b"x-content-type-options"], [b"nosniff"])
        self.assertEqual(response.length, 7)

    def test_content_type(self) -> None:
        """Another content type, and what a resource says of keeping, are left as they are."""

        def call(request: Request) -> Answer:
            request.setHeader(b"Cache-Control", b"no-cache")
            return Answer(b"f()", 200, b"application/javascript")

        response = self.ask(call)
        self.assertEqual(response.headers.getRawHeaders("Content-Type"), ["application/javascript"])
        self.assertEqual(response.headers.getRawHeaders("Cache-Control"), ["no-cache"])

    def test_without_body(self) -> None:
        """A status without a body has neither type nor length."""
        for status in (204, 304):
            _, written = self.write(lambda request, status=status: answer(request, Answer(b"", status)))
            head = written.getvalue().lower()
            self.assertTrue(head.startswith(b"http/1.1 %d " % status))
            self.assertFalse(b"content-type:" in head or b"content-length:" in head or b"chunked" in head)

    def test_upgrade(self) -> None:
        """Who comes without an upgrade where one is wanted is told to which."""
        _, written = self.write(lambda request: error_answer(request, RealtimeError("upgrade_required", "why")))
        self.assertIn(b"Upgrade: websocket\r\n", written.getvalue())

    def test_every_error(self) -> None:
        """Every error of the catalogue is answered with its status."""
        for code, kind in ERRORS.items():
            response = self.ask(lambda request, code=code: error_answer(request, RealtimeError(code, "why")))
            self.check_error(response, kind.status, code)

    def test_companions(self) -> None:
        """Errors carry the headers that HTTP wants with their status."""
        for code, name in (
            ("too_many", "Retry-After"),
            ("store_unavailable", "Retry-After"),
            ("stopping", "Retry-After"),
            ("unauthorized", "WWW-Authenticate"),
        ):
            response = self.ask(lambda request, code=code: error_answer(request, RealtimeError(code, "why")))
            self.assertTrue(response.headers.hasHeader(name), code)

    def test_retry_after(self) -> None:
        """Retry-After has whole seconds, rounded up and at least one; two where the server doesn't know better."""
        for after, expected in ((0.01, "1"), (1.0, "1"), (1.2, "2"), (100.5, "101"), (None, "2")):
            error = RealtimeError("rate_limited", "slower", after=after)
            response = self.ask(lambda request, error=error: error_answer(request, error))
            self.assertEqual([expected], response.headers.getRawHeaders("Retry-After"))

    def test_once(self) -> None:
        """A second answer is dropped."""

        def call(request: Request) -> int:
            answer(request, Answer(b"1"))
            return error_answer(request, RealtimeError("internal", "late"))

        self.assertEqual(self.body(self.ask(call)), 1)

    def test_gone(self) -> None:
        """To a client that has gone nothing is written."""
        request, written = self.lose(lambda _: NOT_DONE_YET)
        self.assertTrue(is_gone(request))
        answer(request, Answer(b"1"))
        self.assertEqual(written.getvalue(), b"")


class LaterTests(AnswerTestCase):
    """Answers that come later."""

    def test_coroutine(self) -> None:
        """A coroutine's result is the answer."""
        waiting: Deferred[bytes] = Deferred()

        async def call() -> bytes:
            return await waiting

        treq = StubTreq(Asked(lambda request: answer_later(request, call())))
        asked = treq.get("http://localhost/")
        self.assertNoResult(asked)
        waiting.callback(b"[1]")
        treq.flush()
        self.assertEqual(self.body(self.successResultOf(asked)), [1])

    def test_at_once(self) -> None:
        """One that is there already is sent at once."""
        self.assertEqual(self.body(self.ask(lambda request: answer_later(request, succeed(Answer(b"1", 201))))), 1)

    def test_error(self) -> None:
        """An error is answered as itself, and isn't logged."""
        response = self.ask(lambda request: answer_later(request, fail(StoreError("full"))))
        self.check_error(response, 503, "store_unavailable")

    def test_failure(self) -> None:
        """A bug is logged once, and answered without a word of it."""
        response = self.ask(lambda request: answer_later(request, fail(ZeroDivisionError("secret"))))
        self.check_error(response, 500, "internal")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_cancelled(self) -> None:
        """What only waits is cancelled the moment the client goes."""
        cancelled: list[Any] = []
        _, written = self.lose(lambda request: answer_later(request, Deferred(cancelled.append), cancel=True))
        self.assertEqual((len(cancelled), written.getvalue()), (1, b""))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_finished_without_client(self) -> None:
        """What changes something is finished without its client, and its answer dropped."""
        waiting: Deferred[bytes] = Deferred()
        done: list[bytes] = []

        async def call() -> bytes:
            done.append(await waiting)
            return b"1"

        _, written = self.lose(lambda request: answer_later(request, call()))
        waiting.callback(b"done")
        self.assertEqual((done, written.getvalue()), ([b"done"], b""))

    def test_errors_without_client(self) -> None:
        """Errors that nobody can be told are dropped, but a bug is logged."""
        for error, logged in ((StoreError("full"), 0), (CancelledError(), 0), (ZeroDivisionError(), 1)):
            waiting: Deferred[bytes] = Deferred()
            self.lose(lambda request, waiting=waiting: answer_later(request, waiting))
            waiting.errback(error)
            self.assertEqual(len(self.flushLoggedErrors()), logged)

    def test_begun(self) -> None:
        """Where the answer was begun already, a bug closes the connection."""
        closed: list[bool] = []

        def call(request: Request) -> int:
            request.write(b"[")
            request.loseConnection = lambda: closed.append(True)  # type: ignore[method-assign]
            return answer_later(request, fail(ZeroDivisionError()))

        self.lose(call)
        self.assertEqual((closed, len(self.flushLoggedErrors(ZeroDivisionError))), ([True], 1))


class JSONResourceTests(AnswerTestCase):
    """What every resource of ours does by itself."""

    def test_results(self) -> None:
        """A method may give bytes, an answer, a coroutine or a Deferred."""

        async def later() -> bytes:
            return b"1"

        for given in (b"1", Answer(b"1"), later(), succeed(b"1")):
            self.assertEqual(self.body(self.ask(lambda _, given=given: given)), 1)

    def test_raised(self) -> None:
        """An error that a method raises is answered."""

        def call(request: Request) -> Any:
            raise RealtimeError("forbidden", "no")

        self.check_error(self.ask(call), 403, "forbidden")

    def test_bug(self) -> None:
        """A bug is logged, and answered as internal; so is a result of another kind."""
        for call in (lambda _: {}[1], lambda _: None):
            self.check_error(self.ask(call), 500, "internal")
            self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_methods(self) -> None:
        """Other methods are not allowed, and the answer says which are."""
        for method in ("POST", "PUT", "OPTIONS", "render_GET"):
            response = self.ask(lambda _: b"1", method=method)
            self.check_error(response, 405, "method_not_allowed")
            self.assertEqual(response.headers.getRawHeaders("Allow"), ["GET, HEAD"])

    def test_no_get(self) -> None:
        """Where there is no GET there is no HEAD."""

        class Posted(JSONResource):
            def render_POST(self, request: Request) -> bytes:
                return b"1"

        self.assertEqual(Posted().allowed(), ["POST"])
        root = JSONResource()
        root.putChild(b"posted", Posted())
        response = self.successResultOf(StubTreq(root).head("http://localhost/posted"))
        self.assertEqual(response.code, 405)

    def test_head(self) -> None:
        """HEAD is GET without a body."""
        response = self.ask(lambda _: b"[1]", method="HEAD")
        self.assertEqual((response.code, self.successResultOf(response.content())), (200, b""))
        self.assertEqual(response.headers.getRawHeaders("Content-Length"), ["3"])

    def test_not_found(self) -> None:
        """Children that were not put are not found, nor is anything below a leaf."""
        self.check_error(self.ask(lambda _: b"1", path="below"), 404, "not_found")
        response = self.successResultOf(StubTreq(JSONResource()).get("http://localhost/a/b"))
        self.check_error(response, 404, "not_found")
