"""A request that comes in one piece is read like one that comes in many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.web.server import Request

from realtime_chat.http.answers import JSONResource
from tests.http.test_site import BAD, SiteTestCase, read_answers

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


class WholeTests(SiteTestCase):
    """The short way for whole requests is only a shorter way."""

    def assert_same(self, data: bytes, cut: int) -> None:
        whole = self.send(data)
        pieces = self.send(data[:cut], data[cut:])
        self.assertEqual(read_answers(pieces.value()), read_answers(whole.value()), data)
        self.assertEqual((pieces.disconnecting, pieces.half_closed), (whole.disconnecting, whole.half_closed), data)

    @given(
        st.sampled_from((b"GET", b"HEAD", b"get", b"OPTIONS")),
        st.sampled_from(TARGETS),
        st.sampled_from(VERSIONS),
        st.lists(st.sampled_from(LINES), max_size=5),
        st.integers(min_value=1, max_value=30),
    )
    def test_heads(self, method: bytes, target: bytes, version: bytes, lines: list[bytes], cut: int) -> None:
        """Whatever its head is, it gets the same answer, and the connection the same end."""
        self.assert_same(b"\r\n".join([b" ".join((method, target, version)), *lines, b"", b""]), cut)

    def test_bad(self) -> None:
        """So does each request that is known to be bad."""
        for data, _, _ in BAD.values():
            self.assert_same(data, len(data) // 2)

    def test_plain(self) -> None:
        """A browser's GET takes the short way, with all its headers and arguments."""
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
