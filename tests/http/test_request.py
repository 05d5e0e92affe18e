"""Tests for :mod:`realtime_chat.http.request` and :mod:`realtime_chat.http.fast_channel`."""

from __future__ import annotations

import json

from twisted.web.server import Request

from realtime_chat.http.answers import Answer
from realtime_chat.http.request import MAX_LINE
from tests.http.site_case import (
    CHUNKED,
    MAX_BODY,
    SiteTestCase,
    get,
    post,
    read_answers,
)


class RequestTests(SiteTestCase):
    """Valid requests are served."""

    def test_get(self) -> None:
        """An answer has the common headers, and the connection stays open."""
        transport = self.send(get(b"/?a=b"))
        (said,) = read_answers(transport.value())
        self.assertEqual((said.status, json.loads(said.body)), (200, {"a": "b"}))
        self.assertEqual(said.headers["server"], "realtime_chat")
        self.assertEqual(said.headers["x-content-type-options"], "nosniff")
        self.assertFalse(transport.disconnecting or transport.half_closed)

    def test_long_lines(self) -> None:
        """The longest address, the longest Last-Event-ID, and what browsers add go together."""
        longest = b"a" * (MAX_LINE - len(b"GET /?a= HTTP/1.1"))
        headers = (b"Last-Event-ID: " + b"b" * MAX_LINE, b"Cookie: " + b"c" * 3072)
        for pieces in ((get(b"/?a=" + longest, *headers),), (get(b"/?a=" + longest), get(b"/?a=" + longest, *headers))):
            self.assertEqual({200}, {said.status for said in read_answers(self.send(*pieces).value())})

    def test_hosts(self) -> None:
        """All names of loopback are served, on any port and in any case."""
        for host in (b"localhost", b"LocalHost:8080", b"127.0.0.1:1", b"[::1]", b"[::1]:65535", b"[0::1]"):
            self.assertEqual(self.ask(get(host=host)).status, 200)

    def test_absolute_form(self) -> None:
        """A target with its scheme and host is the same as its path."""
        for target in (b"http://localhost/?a=b", b"HTTP://LOCALHOST?a=b", b"https://localhost/?a=b"):
            self.assertEqual(json.loads(self.ask(get(target)).body), {"a": "b"})

    def test_bodies(self) -> None:
        """A body up to the limit arrives, declared or in chunks, whole or in pieces."""
        body = b"a" * MAX_BODY
        self.send(post(body))
        self.send(*(post(body)[place : place + 7] for place in range(0, 200, 7)))
        self.send(CHUNKED + b"32\r\n" + b"a" * 50 + b"\r\n32;x=y\r\n" + b"a" * 50 + b"\r\n0\r\nTrailer: x\r\n\r\n")
        self.assertEqual(self.root.index.bodies, [body] * 3)

    def test_pipelining(self) -> None:
        """Requests that come together are answered in their order."""
        transport = self.send(get(b"/?n=1") + post(b"abc") + get(b"/?n=2") + get(b"/nowhere"))
        statuses = [said.status for said in read_answers(transport.value())]
        self.assertEqual(statuses, [200, 201, 200, 404])

    def test_pipelining_behind_a_waiting_one(self) -> None:
        """A request behind one that waits is answered after it."""
        transport = self.send(get(b"/later") + get(b"/?n=2"))
        self.assertEqual(transport.value(), b"")
        self.root.waiting[0].callback(b'"first"')
        bodies = [said.body for said in read_answers(transport.value())]
        self.assertEqual(bodies, [b'"first"', b'{"n": "2"}'])

    def test_pipelined_bytes_are_bounded(self) -> None:
        """Little is read behind a request that waits."""
        transport = self.send(get(b"/later"), b"a" * 20000)
        self.assertEqual(transport.producerState, "paused")

    def test_continue(self) -> None:
        """A client that expects 100 Continue gets it."""
        data = self.send(get(b"/", b"Content-Length: 3", b"Expect: 100-continue", method=b"POST"), b"abc").value()
        self.assertTrue(data.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 "))

    def test_no_continue(self) -> None:
        """A body that will be refused is refused at once, instead of 100 Continue."""
        for header, status in ((b"Content-Length: 1000", 413), (b"Content-Length: 1\r\nOrigin: null", 403)):
            said = self.ask(get(b"/", header, b"Expect: 100-continue", method=b"POST"))
            self.assertEqual(said.status, status)

    def test_close(self) -> None:
        """The connection closes if the client asks for it, also in a list, and after HTTP/1.0."""
        for header in (b"Connection: close", b"Connection: foo, Close", b"Connection: close, TE"):
            transport = self.send(get(b"/", header))
            self.assertEqual((transport.disconnecting, transport.value().count(b"Connection: close")), (True, 1))
        transport = self.send(get().replace(b"HTTP/1.1", b"HTTP/1.0"))
        self.assertTrue(transport.disconnecting)
        transport.protocol.dataReceived(get())
        self.assertEqual(len(read_answers(transport.value())), 1)

    def test_head(self) -> None:
        """HEAD is GET without the body."""
        transport = self.send(get(b"/", method=b"HEAD"))
        self.assertIn(b"Content-Length: 2\r\n", transport.value())
        self.assertTrue(transport.value().endswith(b"\r\n\r\n"))

    def test_methods(self) -> None:
        """A method that a resource lacks is refused, with the list of those that it has."""
        for path, allowed in ((b"/", "get, head, post"), (b"/later", "get, head"), (b"/old", "get, head, put")):
            said = self.ask(get(path, method=b"DELETE"))
            self.assertEqual((said.status, said.code, said.headers["allow"]), (405, "method_not_allowed", allowed))

    def test_plain_resources(self) -> None:
        """twisted.web's own resources are served as well, and their errors are JSON."""
        self.assertEqual(self.ask(get(b"/old")).body, b"old")
        self.assertEqual(self.ask(get(b"/old", method=b"PUT")).code, "forbidden")

    def test_paths(self) -> None:
        """An address without a resource is not found, whatever it consists of."""
        for path in (b"/nowhere", b"//", b"/../etc/passwd", b"/%2e%2e/", b"/later/", b"/later/x", b"/old%2Fx", b"/%zz"):
            self.assertEqual(self.ask(get(path)).code, "not_found")

    def test_failure(self) -> None:
        """An exception is logged once and answered without its text, and the connection stays open."""
        transport = self.send(get(b"/broken"), get())
        first, second = read_answers(transport.value())
        self.assertEqual((first.status, first.code, second.status), (500, "internal", 200))
        self.assertNotIn(b"client bytes", first.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_options_star(self) -> None:
        """``OPTIONS *`` is answered."""
        self.assertEqual(self.ask(get(b"*", method=b"OPTIONS")).status, 204)

    def test_no_cookies(self) -> None:
        """Cookies are neither read nor set."""
        said = self.ask(get(b"/", b"Cookie: TWISTED_SESSION=abc"))
        self.assertNotIn("set-cookie", said.headers)

    def test_cookies_cannot_be_set(self) -> None:
        """Setting a cookie is a bug, and reaches nobody."""
        self.root.index.render_PUT = lambda request: request.addCookie(b"a", b"b")  # type: ignore[attr-defined]
        transport = self.send(get(method=b"PUT"), get())
        self.assertEqual([said.status for said in read_answers(transport.value())], [500, 200])
        self.assertNotIn(b"Cookie", transport.value())
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_each_header_once(self) -> None:
        """Headers that the answer sets replace the resource's own."""

        def render(request: Request) -> Answer:
            for name in (b"Content-Type", b"Content-Length", b"Server", b"X-Content-Type-Options"):
                request.setHeader(name, b"77")
            return Answer(b"[]", 200, b"text/plain")

        self.root.index.render_PUT = render  # type: ignore[attr-defined]
        transport = self.send(get(method=b"PUT"))
        self.assertEqual(read_answers(transport.value())[0].headers["content-type"], "text/plain")
        self.assertNotIn(b"77", transport.value())

    def test_has_body(self) -> None:
        """A resource can tell whether a body was announced."""
        seen = []
        self.root.index.render_PUT = lambda request: seen.append(request.has_body) or b""  # type: ignore[attr-defined]
        for header in (b"X-A: b", b"Content-Length: 0", b"Content-Length: 1", b"Transfer-Encoding: chunked"):
            self.send(get(b"/", header, method=b"PUT") + b"1\r\na\r\n0\r\n\r\n")
        self.assertEqual(seen, [False, False, True, True])


class ForeignPageTests(SiteTestCase):
    """Requests of other origins' pages that can't read the answer."""

    def statuses(self, path: bytes, *headers: bytes) -> int:
        return self.ask(get(path, *headers)).status

    def test_table(self) -> None:
        """A request that Fetch Metadata calls foreign is refused at guarded resources, unless its Origin is listed."""
        foreign = (b"Sec-Fetch-Site: cross-site", b"sec-fetch-site: Same-Site")
        for header in foreign:
            for path in (b"/guarded", b"/guarded?a=1", b"/%67uarded", b"/guarded/"):
                said = self.ask(get(path, header))
                self.assertEqual((path, 403, "bad_origin"), (path, said.status, said.code))
            self.assertEqual(200, self.statuses(b"/", header))
            self.assertEqual(404, self.statuses(b"/nowhere", header))
            self.assertEqual(200, self.statuses(b"/guarded", header, b"Origin: https://other.example"))
            self.assertEqual(403, self.statuses(b"/guarded", header, b"Origin: https://evil.example"))
        for header in (b"Sec-Fetch-Site: same-origin", b"Sec-Fetch-Site: none", b"X: y"):
            self.assertEqual(200, self.statuses(b"/guarded", header))

    def test_each_is_checked(self) -> None:
        """Each request of a connection is checked by itself, even if the same headers come again."""
        foreign, own = b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Site: same-origin"
        asked = [(b"/", foreign), (b"/guarded", foreign), (b"/guarded", foreign), (b"/guarded", own)]
        asked += [(b"/guarded", own), (b"/", own), (b"/guarded", foreign)]
        transport = self.send(*(get(path, header) for path, header in asked))
        statuses = [said.status for said in read_answers(transport.value())]
        self.assertEqual([200, 403, 403, 200, 200, 200, 403], statuses)


class PlainRequestTests(RequestTests):
    """The same with Twisted's own parsing and answering."""

    fast = False


class PlainForeignPageTests(ForeignPageTests):
    """The same with Twisted's own parsing and answering."""

    fast = False
