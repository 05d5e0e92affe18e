"""A site in memory for tests: resources for whatever can happen, requests, and the reading of answers."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from realtime_chat.core.turns import Turns
from realtime_chat.core.wheel import Wheel
from realtime_chat.http.answers import Answer, JSONResource, answer_later
from realtime_chat.http.channel import RealtimeChannel
from realtime_chat.http.fast_channel import FastChannel
from realtime_chat.http.origins import OriginPolicy
from realtime_chat.http.site import RealtimeSite
from realtime_chat.transports.fast.choice import PLAIN
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.limits import Limits

MAX_BODY = 100


class Root(JSONResource):
    """The root, with a resource for whatever can happen."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Any] = []
        self.cancelled: list[Any] = []
        self.index = _Index()
        self.big, self.late = Big(), BigLater()
        for name, child in (
            (b"", self.index),
            (b"later", _Later(self)),
            (b"broken", _Broken()),
            (b"old", _Old()),
            (b"upgrade", Upgrade(self)),
            (b"guarded", _Guarded()),
            (b"big", self.big),
            (b"late", self.late),
        ):
            self.putChild(name, child)


class _Index(JSONResource):
    """Answers with the query, and keeps the bodies that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []

    def render_GET(self, request: Request) -> bytes:
        return json.dumps({name.decode(): value[0].decode() for name, value in request.args.items()}).encode()

    def render_POST(self, request: Request) -> Answer:
        self.bodies.append(request.content.read())
        return Answer(b"{}", 201)


class _Guarded(_Index):
    """Refuses pages of other origins that are not listed."""

    isLeaf = True
    guarded = True


class _Later(JSONResource):
    def __init__(self, root: Root) -> None:
        super().__init__()
        self._root = root

    def render_GET(self, request: Request) -> int:
        waiting: Deferred[bytes] = Deferred(self._root.cancelled.append)
        self._root.waiting.append(waiting)
        return answer_later(request, waiting, cancel=True)


class Big(JSONResource):
    """Answers at once with more than a socket buffers, and counts the requests."""

    isLeaf = True
    size = 300_000

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def render_GET(self, request: Request) -> Any:
        self.asked += 1
        return b" " * self.size + b"#%d;" % self.asked

    def render_POST(self, request: Request) -> Any:
        return self.render_GET(request)


class BigLater(Big):
    """The same in a later turn."""

    def render_GET(self, request: Request) -> int:
        later: Deferred[bytes] = Deferred()
        reactor.callLater(0, later.callback, super().render_GET(request))
        return answer_later(request, later)


class _Broken(JSONResource):
    def render_GET(self, request: Request) -> bytes:
        raise ZeroDivisionError("client bytes stand here")


class _Old(Resource):
    """A resource of twisted.web's own kind."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        return b"old"

    def render_PUT(self, request: Request) -> bytes:
        raise RealtimeError("forbidden", "not you")


class Upgrade(JSONResource):
    """Hands the connection over, at once or when the test says so."""

    def __init__(self, root: Root) -> None:
        super().__init__()
        self._root = root

    def render_GET(self, request: Any) -> int:
        if b"later" in request.args:
            self._root.waiting.append(request)
        else:
            self.upgrade(request)
        return NOT_DONE_YET

    @staticmethod
    def upgrade(request: Any) -> Echo:
        echo = Echo()
        echo.makeConnection(request.channel.take_over(echo))
        echo.transport.write(b"upgraded;")
        return echo


class Echo(Protocol):
    """The protocol after an upgrade."""

    lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"echo:" + data)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.lost = reason


class Said(NamedTuple):
    """One answer, parsed."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """The code of an error object, else None."""
        return json.loads(self.body)["code"] if self.body.startswith(b'{"type":"error"') else None


def read_answers(data: bytes) -> list[Said]:
    """Parse a stream of answers."""
    said = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = int(headers.get("content-length", 0))
        said.append(Said(int(lines[0].split()[1]), headers, data[:length]))
        data = data[length:]
    return said


class SocketLike(StringTransport):
    """A string transport that can be half-closed, as a TCP socket can."""

    protocol: Any = None
    half_closed = False
    closed = False

    def loseWriteConnection(self) -> None:  # noqa: N802
        self.half_closed = True

    def lose(self, error: type[Exception] = ConnectionDone) -> None:
        """Lose the connection."""
        if not self.closed:
            self.closed = True
            self.protocol.connectionLost(Failure(error()))

    def abortConnection(self) -> None:
        self.lose(ConnectionLost)


class SiteTestCase(SynchronousTestCase):
    """A site in memory; every test leaves it without connections and deadlines."""

    fast = True
    """Whether the site reads and answers plain requests by its own code, or all by Twisted's."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.ahead = 0.0
        self.wheel = Wheel(self.clock)
        self.root = Root()
        self.site = self.make_site()
        self.transports: list[SocketLike] = []
        self.addCleanup(self.check_nothing_left)

    def make_site(self, **changes: Any) -> RealtimeSite:
        arguments: dict[str, Any] = {
            "limits": Limits(max_message=MAX_BODY),
            "io": PLAIN,
            "protocol": FastChannel if self.fast else RealtimeChannel,
            "origins": OriginPolicy(["https://other.example"]),
            "time": lambda: self.clock.seconds() + self.ahead,
            "max_connections": 2000,
            "turns": Turns(self.clock),
        }
        return RealtimeSite(self.root, self.clock, self.wheel, **arguments | changes)

    def connect(self, site: RealtimeSite | None = None) -> SocketLike:
        transport = SocketLike()
        channel = (site or self.site).buildProtocol(None)
        transport.protocol = channel
        self.transports.append(transport)
        channel.makeConnection(transport)
        return transport

    def send(self, *pieces: bytes, site: RealtimeSite | None = None) -> SocketLike:
        transport = self.connect(site)
        for piece in pieces:
            transport.protocol.dataReceived(piece)
        return transport

    def ask(self, *pieces: bytes) -> Said:
        """Send on a new connection, and return the one answer."""
        (said,) = read_answers(self.send(*pieces).value())
        return said

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.25)):
            self.clock.advance(0.25)

    def check_nothing_left(self) -> None:
        for transport in self.transports:
            transport.lose()
        self.assertEqual((self.site.connections, len(self.wheel)), (0, 0))


def get(path: bytes = b"/", *headers: bytes, method: bytes = b"GET", host: bytes = b"localhost") -> bytes:
    """A request without a body."""
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: " + host, *headers, b"", b""])


def post(body: bytes, *headers: bytes) -> bytes:
    """A request with a body of its length."""
    return get(b"/", b"Content-Length: %d" % len(body), *headers, method=b"POST") + body


CHUNK = b"Transfer-Encoding: chunked"


CHUNKED = get(b"/", CHUNK, method=b"POST")


BAD = {
    "no request line": (b"hello\r\n\r\n", 400, "bad_request"),
    "empty lines": (b"\r\n\r\n\r\n", 400, "bad_request"),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "bad_request"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
    "HTTP/9.9": (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400, "bad_request"),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "bad_request"),
    "a method that is none": (b"GE(T / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400, "bad_request"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
    "no host, HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", 400, "bad_request"),
    "two hosts": (get(b"/", b"Host: localhost"), 400, "bad_request"),
    "two other hosts": (get(b"/", b"host: evil.example"), 400, "bad_request"),
    "an empty host": (get(host=b""), 400, "bad_request"),
    "a host with a user": (get(host=b"me@localhost"), 400, "bad_request"),
    "a host with a path": (get(host=b"localhost/x"), 400, "bad_request"),
    "hosts in a list": (get(host=b"localhost, evil.example"), 400, "bad_request"),
    "an unknown host": (get(host=b"evil.example"), 421, "unknown_host"),
    "a rebound host": (get(host=b"localhost.evil.example:8080"), 421, "unknown_host"),
    "a colon-less header": (get(b"/", b"nonsense"), 400, "bad_request"),
    "a space before the colon": (get(b"/", b"Content-Length : 3", method=b"POST"), 400, "bad_request"),
    "a NUL in a header": (get(b"/", b"X-A: a\0b"), 400, "bad_request"),
    "a bare CR in a header": (get(b"/", b"X-A: a\rb"), 400, "bad_request"),
    "a bare LF in a header": (get(b"/", b"X-A: a\nTransfer-Encoding: chunked"), 400, "bad_request"),
    "101 headers": (get(b"/", *[b"X-A: b"] * 100), 431, "bad_request"),
    "a long header": (get(b"/", b"X-A: " + b"b" * 17000), 431, "bad_request"),
    "a long header without end": (b"GET / HTTP/1.1\r\nX-A: " + b"b" * 17000, 431, "bad_request"),
    "long headers": (get(b"/", *[b"X-A: " + b"b" * 4000] * 7), 431, "bad_request"),
    "a long address": (get(b"/" + b"a" * 17000), 431, "bad_request"),
    "an authority as target": (get(b"localhost:80", method=b"CONNECT"), 400, "bad_request"),
    "a relative target": (get(b"rooms"), 400, "bad_request"),
    "a star that isn't OPTIONS": (get(b"*"), 400, "bad_request"),
    "bytes in the address": (get(b"/\x80"), 400, "bad_request"),
    "absolute, of another host": (get(b"http://evil.example/"), 421, "unknown_host"),
    "absolute, not the Host header's": (get(b"http://127.0.0.1/"), 400, "bad_request"),
    "absolute, with a user": (get(b"http://a:b@localhost/"), 400, "bad_request"),
    "absolute, another scheme": (get(b"ftp://localhost/"), 400, "bad_request"),
    "a length of 5,000 digits": (get(b"/", b"Content-Length: " + b"9" * 5000, method=b"POST"), 400, "bad_request"),
    "a length of 16 digits": (get(b"/", b"Content-Length: 0000000000000001", method=b"POST"), 400, "bad_request"),
    "a length of 15 digits": (get(b"/", b"Content-Length: 999999999999999", method=b"POST"), 413, "too_large"),
    "a length below 0": (get(b"/", b"Content-Length: -1", method=b"POST"), 400, "bad_request"),
    "a length with a sign": (get(b"/", b"Content-Length: +1", method=b"POST"), 400, "bad_request"),
    "a length in hexadecimal": (get(b"/", b"Content-Length: 0x1", method=b"POST"), 400, "bad_request"),
    "a length with an underscore": (get(b"/", b"Content-Length: 1_0", method=b"POST"), 400, "bad_request"),
    "no length": (get(b"/", b"Content-Length:", method=b"POST"), 400, "bad_request"),
    "lengths in a list": (get(b"/", b"Content-Length: 1, 1", method=b"POST"), 400, "bad_request"),
    "two lengths": (get(b"/", b"Content-Length: 1", b"Content-Length: 1", method=b"POST"), 400, "bad_request"),
    "length and chunks": (post(b"0\r\n\r\n", b"Transfer-Encoding: chunked"), 400, "bad_request"),
    "chunks and length": (
        get(b"/", b"Transfer-Encoding: chunked", b"Content-Length: 5", method=b"POST") + b"0\r\n\r\n",
        400,
        "bad_request",
    ),
    "length and identity": (post(b"a", b"Transfer-Encoding: identity"), 400, "bad_request"),
    "two transfer encodings": (CHUNKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", 400, "bad_request"),
    "gzip and chunked": (get(b"/", b"Transfer-Encoding: gzip, chunked", method=b"POST"), 400, "bad_request"),
    "chunks in HTTP/1.0": (CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0"), 400, "bad_request"),
    "a chunk of no length": (CHUNKED + b"zz\r\nabc\r\n", 400, "bad_request"),
    "a chunk below 0": (CHUNKED + b"-1\r\nabc\r\n", 400, "bad_request"),
    "a chunk that goes on": (CHUNKED + b"3\r\nabcd\r\n", 400, "bad_request"),
    "a chunk's endless length": (CHUNKED + b"0" * 2000, 400, "bad_request"),
    "a body too long": (post(b"a" * (MAX_BODY + 1)), 413, "too_large"),
    "chunks too long": (CHUNKED + b"60\r\n" + b"a" * 96 + b"\r\n5\r\nabcde\r\n0\r\n\r\n", 413, "too_large"),
    "one chunk too long": (CHUNKED + b"fffff\r\n" + b"a" * 101, 413, "too_large"),
    "another site's page": (get(b"/", b"Origin: https://evil.example"), 403, "bad_origin"),
    "a page without origin": (get(b"/", b"Origin: null"), 403, "bad_origin"),
    "two origins": (get(b"/", b"Origin: http://localhost", b"Origin: http://localhost"), 403, "bad_origin"),
}
