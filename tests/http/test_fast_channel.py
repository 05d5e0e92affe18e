"""Tests for :mod:`realtime_chat.http.fast_channel`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers
from twisted.web.server import Request

from realtime_chat.http.answers import JSONResource
from realtime_chat.http.channel import RealtimeChannel
from realtime_chat.http.fast_channel import CachedHeaders, parse_headers, parse_request_line, split_head
from tests.http.site_case import BAD, SiteTestCase, get, read_answers

HEADER_LINES = b"Host: localhost\r\naccept:text/html\r\nX-A: b, c\r\nx-a: d  e\r\n"


class LineTests(SynchronousTestCase):
    """The first line of a plain GET."""

    def test_plain(self) -> None:
        """Its path and its parameters are separated."""
        target = parse_request_line(b"GET /poll?room=a&room=%62&wait=5 HTTP/1.1")
        assert target is not None
        self.assertEqual((b"/poll?room=a&room=%62&wait=5", b"/poll"), target[:2])
        self.assertEqual({b"room": [b"a", b"b"], b"wait": [b"5"]}, dict(target.args))

    def test_others(self) -> None:
        """No other line is parsed."""
        for line in (
            b"",
            b"POST / HTTP/1.1",
            b"HEAD / HTTP/1.1",
            b"get / HTTP/1.1",
            b"GET / HTTP/1.0",
            b"GET * HTTP/1.1",
            b"GET http://localhost/ HTTP/1.1",
            b"GET /a b HTTP/1.1",
            b"GET /\x80 HTTP/1.1",
            b"GET / HTTP/1.1\n",
            b"GET / HTTP/1.1\nHost: evil.example",
            b" GET / HTTP/1.1",
        ):
            self.assertIsNone(parse_request_line(line), line)


class CachedHeadersTests(SynchronousTestCase):
    """Header lines that are parsed when somebody asks."""

    def setUp(self) -> None:
        self.block = CachedHeaders(HEADER_LINES + b"\r\n")
        whole = split_head(b"GET / HTTP/1.1\r\n" + HEADER_LINES + b"\r\n")
        assert whole is not None
        headers = parse_headers(whole[1], 4)
        assert headers is not None
        self.headers: Headers = headers

    def test_same(self) -> None:
        """It gives the same answers as headers that were parsed at once, in any order of questions."""
        for _ in range(2):
            for name in (b"Host", b"host", "Host", b"X-A", b"X-A", "x-a", b"Nothing", b"Accept"):
                for default in (None, (), [b"x"]):
                    asked = self.headers.getRawHeaders(name, default), self.block.getRawHeaders(name, default)
                    self.assertEqual(*asked, name)
                self.assertEqual(self.headers.hasHeader(name), self.block.hasHeader(name), name)
        self.assertEqual(list(self.headers.getAllRawHeaders()), list(self.block.getAllRawHeaders()))

    def test_unchanged(self) -> None:
        """Changes to it don't reach other requests."""
        self.block.setRawHeaders(b"X-B", [b"c"])
        self.block.addRawHeader(b"X-A", b"c")
        self.block.removeHeader(b"Host")
        self.assertEqual(list(self.headers.getAllRawHeaders()), list(self.block.getAllRawHeaders()))

    def test_copy(self) -> None:
        """A copy has the same headers, and can be changed."""
        copy = self.block.copy()
        self.assertEqual(list(self.headers.getAllRawHeaders()), list(copy.getAllRawHeaders()))
        copy.addRawHeader(b"X-A", b"c")
        self.assertIn(b"c", copy.getRawHeaders(b"X-A"))
        self.assertEqual(list(self.headers.getAllRawHeaders()), list(self.block.getAllRawHeaders()))

    def test_too_many(self) -> None:
        """Too many headers are not parsed."""
        self.assertIsNone(parse_headers(HEADER_LINES, 3))


TARGETS = (
    b"/",
    b"/?a=1&b=x%3Ay+z",
    b"/?a=1;b",
    b"/?",
    b"*",
    b"http://localhost/?a=1",
    b"/later?",
    b"/\x80",
    b"//",
    b"/a b",
)
LINES = (
    b"Host: localhost",
    b"host:localhost",
    b"Host: evil.example",
    b"Connection: close",
    b"Connection: keep-alive, Close",
    b"Content-Length: 0",
    b"content-length: 1",
    b"Transfer-Encoding: chunked",
    b"Expect: 100-continue",
    b"Origin: https://other.example",
    b"Origin: https://evil.example",
    b"X-A: b",
    b"X-A:",
    b"X-A:  b \t",
    b" folded",
    b"X-A: \xc3\xa9",
    b"X A: b",
    b"X_A: b",
    b"nonsense",
    b"",
)
VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"http/1.1")


class _Kept(JSONResource):
    """Keeps what it is asked."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []

    def render_GET(self, request: Request) -> bytes:
        self.requests.append(request)
        return b"{}"


class FastChannelTests(SiteTestCase):
    """A request that comes in one piece gets the answer of one that comes in two, and of one that Twisted reads."""

    def setUp(self) -> None:
        super().setUp()
        self.plain = self.make_site(protocol=RealtimeChannel)

    def check_nothing_left(self) -> None:
        super().check_nothing_left()
        self.assertEqual(0, self.plain.connections)

    def assert_same(self, data: bytes, cut: int) -> None:
        whole = self.send(data)
        for other in (self.send(data[:cut], data[cut:]), self.send(data, site=self.plain)):
            self.assertEqual(read_answers(other.value()), read_answers(whole.value()), data)
            self.assertEqual((other.disconnecting, other.half_closed), (whole.disconnecting, whole.half_closed), data)

    @given(
        st.sampled_from((b"GET", b"HEAD", b"get", b"OPTIONS")),
        st.sampled_from(TARGETS),
        st.sampled_from(VERSIONS),
        st.lists(st.sampled_from(LINES), max_size=5),
        st.integers(min_value=1, max_value=30),
    )
    def test_heads(self, method: bytes, target: bytes, version: bytes, lines: list[bytes], cut: int) -> None:
        """Whatever its head is, the answer and the end of the connection are the same."""
        self.assert_same(b"\r\n".join([b" ".join((method, target, version)), *lines, b"", b""]), cut)

    def test_bad(self) -> None:
        """The same holds for each bad request of the table."""
        for data, _, _ in BAD.values():
            self.assert_same(data, len(data) // 2)

    @given(
        st.lists(st.sampled_from(LINES), max_size=3),
        st.lists(
            st.tuples(
                st.sampled_from((b"GET", b"GET", b"GET", b"HEAD", b"OPTIONS")),
                st.sampled_from((*TARGETS, b"/old?a=1", b"/nothing", b"/old/", b"/%6fld")),
                st.lists(st.sampled_from(LINES), max_size=1),
            ),
            min_size=2,
            max_size=4,
        ),
        st.integers(min_value=1, max_value=30),
    )
    def test_sequences(self, lines: list[bytes], requests: list[tuple[bytes, bytes, list[bytes]]], cut: int) -> None:
        """The same holds for requests that follow others with the same header lines, or nearly the same."""
        heads = [
            b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"Host: localhost", *lines, *more, b"", b""])
            for method, target, more in requests
        ]
        whole = self.send(*heads)
        pieces = self.send(*(piece for head in heads for piece in (head[:cut], head[cut:])))
        plain = self.send(*heads, site=self.plain)
        self.assertEqual(pieces.value(), whole.value(), heads)
        # Twisted sends the headers in another order.
        self.assertEqual(sorted(plain.value().split(b"\r\n")), sorted(whole.value().split(b"\r\n")), heads)
        for other in (pieces, plain):
            self.assertEqual((other.disconnecting, other.half_closed), (whole.disconnecting, whole.half_closed), heads)

    def test_reused(self) -> None:
        """The next request with the same header lines isn't parsed, and has all its headers."""
        self.root.putChild(b"kept", kept := _Kept())
        transport = self.send(get(b"/kept?a=1", b"X-A: b"))
        transport.protocol.lineReceived = lambda line: self.fail("it was read line by line")
        transport.protocol._parse_simple_get = lambda data: self.fail("its header lines were read")
        for path in (b"/kept?a=2", b"/kept?a=3", b"/kept/%61?a=4"):
            transport.protocol.dataReceived(get(path, b"X-A: b"))
        self.assertEqual([[b"1"], [b"2"], [b"3"]], [request.args[b"a"] for request in kept.requests])
        for request in kept.requests:
            headers = dict(request.requestHeaders.getAllRawHeaders())
            self.assertEqual({b"Host": [b"localhost"], b"X-A": [b"b"]}, headers)
        self.assertEqual([200, 200, 200, 404], [said.status for said in read_answers(transport.value())])

    def test_not_reused(self) -> None:
        """Headers are parsed each time if they change the answer, have a token, go to the access log, or are long."""
        long = b"X-A: " + b"b" * 2100
        for site, line in (
            (self.site, b"Origin: https://other.example"),
            (self.site, long),
            (self.site, b"Authorization: Bearer t"),
            (self.make_site(access_log=self.mktemp()), b"X-A: b"),
        ):
            self.site = site
            self.addCleanup(site.stopFactory)
            transport = self.send(*[get(b"/", line)] * 3)
            self.assertIsNone(transport.protocol.cached_headers, line)
            self.assertEqual([200] * 3, [said.status for said in read_answers(transport.value())])
            transport.lose()

    def test_reused_and_empty_lines(self) -> None:
        """An empty line between two requests is ignored, as some clients send one."""
        transport = self.send(*[get(), b"\r\n"] * 5)
        self.assertEqual([200] * 5, [said.status for said in read_answers(transport.value())])

    def test_reused_and_escaped(self) -> None:
        """A path with escapes or several segments is found by the usual way."""
        for name in (b"a/b", b"%6fld", b"a b"):
            self.root.putChild(name, _Kept())
        transport = self.send(get(), get(b"/a/b"), get(b"/%256fld"), get(b"/a%20b"), get(b"/a%2fb"))
        self.assertEqual([200, 404, 200, 200, 200], [said.status for said in read_answers(transport.value())])

    def test_reused_and_idle(self) -> None:
        """Each request gives the connection the whole idle time again; without one it is closed."""
        transport = self.send(get())
        for _ in range(3):
            self.wait(50)
            transport.protocol.dataReceived(get())
        self.wait(55)
        self.assertFalse(transport.disconnecting)
        self.wait(6)
        self.assertTrue(transport.disconnecting)
        self.assertEqual(4, len(read_answers(transport.value())))

    def test_reused_and_waiting(self) -> None:
        """A next request may wait for its answer longer than a connection may be idle."""
        transport = self.send(get(), get(b"/later"))
        self.wait(100)
        self.assertFalse(transport.disconnecting)
        self.root.waiting.pop().callback(b"{}")
        self.assertEqual(2, len(read_answers(transport.value())))
        self.assertEqual(1, len(self.wheel))

    def test_stopping(self) -> None:
        """If the site stops, the answer to the request that waits is the last one."""
        transport = self.send(get(), get(b"/later"))
        stopped = self.site.stop()
        self.root.waiting.pop().callback(b"{}")
        self.assertTrue(transport.disconnecting)
        transport.lose()
        self.assertIsNone(self.successResultOf(stopped))

    def test_client_that_reads_nothing(self) -> None:
        """Nothing is read of a client that doesn't read its answers, also if its request waited."""
        transport = self.send(get(), get(b"/later"))
        transport.protocol.pauseProducing()
        self.assertEqual("producing", transport.producerState)
        self.root.waiting.pop().callback(b"{}")
        transport.protocol.pauseProducing()
        self.assertEqual("paused", transport.producerState)
        transport.protocol.resumeProducing()
        self.assertEqual("producing", transport.producerState)
        transport.protocol.dataReceived(get())
        self.assertEqual(3, len(read_answers(transport.value())))

    def test_resumed_while_waiting(self) -> None:
        """If a paused client reads again while its request waits, reading resumes after the answer."""
        transport = self.send(get())
        transport.protocol.pauseProducing()
        transport.protocol.dataReceived(get(b"/later"))
        transport.protocol.resumeProducing()
        self.assertEqual("paused", transport.producerState)
        self.root.waiting.pop().callback(b"{}")
        self.assertEqual("producing", transport.producerState)

    def test_plain(self) -> None:
        """A browser's GET isn't parsed line by line, and has all its headers and parameters."""
        self.root.putChild(b"kept", kept := _Kept())
        lines = (
            b"GET /kept?a=1&a=x%3Ay+z&b HTTP/1.1",
            b"Host: localhost",
            b"Accept-Language: de, en;q=0.5",
            b"A-1:x",
            b"",
            b"",
        )
        transport = self.connect()
        transport.protocol.lineReceived = lambda line: self.fail("it was read line by line")
        transport.protocol.dataReceived(b"\r\n".join(lines))
        (request,) = kept.requests
        self.assertEqual({b"a": [b"1", b"x:y z"]}, request.args)
        headers = dict(request.requestHeaders.getAllRawHeaders())
        self.assertEqual({b"Host": [b"localhost"], b"Accept-Language": [b"de, en;q=0.5"], b"A-1": [b"x"]}, headers)
