"""Tests for :mod:`realtime_chat.http.site`: bytes in, bytes out."""

from __future__ import annotations

import gc
import itertools
import json
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import twisted.test
from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, capturedLogs, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from realtime_chat.core.turns import Turns
from realtime_chat.core.wheel import Wheel
from realtime_chat.http.answers import Answer, JSONResource, answer_later
from realtime_chat.http.origins import HostList, OriginPolicy
from realtime_chat.http.site import MAX_LINE, RealtimeChannel, RealtimeSite
from realtime_chat.transports.fast.direct_send import unsent
from realtime_chat.values.errors import RealtimeError
from tests.core.test_turns import next_turn

MAX_BODY = 100


class Root(JSONResource):
    """Has a resource for whatever can happen below it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Any] = []
        self.cancelled: list[Any] = []
        self.index = _Index()
        self.big, self.late = _Big(), _BigLater()
        for name, child in (
            (b"", self.index),
            (b"later", _Later(self)),
            (b"broken", _Broken()),
            (b"old", _Old()),
            (b"upgrade", _Upgrade(self)),
            (b"guarded", _Guarded()),
            (b"big", self.big),
            (b"late", self.late),
        ):
            self.putChild(name, child)


class _Index(JSONResource):
    """Answers with what it was asked, and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []

    def render_GET(self, request: Request) -> bytes:
        return json.dumps({name.decode(): value[0].decode() for name, value in request.args.items()}).encode()

    def render_POST(self, request: Request) -> Answer:
        self.bodies.append(request.content.read())
        return Answer(b"{}", 201)


class _Guarded(_Index):
    """Is for pages of its own origin, and of those that are listed."""

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


class _Big(JSONResource):
    """Answers at once with more than sockets take unread, and counts how often."""

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


class _BigLater(_Big):
    """The same in a later turn."""

    def render_GET(self, request: Request) -> int:
        later: Deferred[bytes] = Deferred()
        reactor.callLater(0, later.callback, super().render_GET(request))
        return answer_later(request, later)


class _Broken(JSONResource):
    def render_GET(self, request: Request) -> bytes:
        raise ZeroDivisionError("client bytes stand here")


class _Old(Resource):
    """A resource as twisted.web has them."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        return b"old"

    def render_PUT(self, request: Request) -> bytes:
        raise RealtimeError("forbidden", "not you")


class _Upgrade(JSONResource):
    """Gives the connection away, at once or when the test says so."""

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
    """One answer as it was sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """The code of an error object, else None."""
        return json.loads(self.body)["code"] if self.body.startswith(b'{"type":"error"') else None


def read_answers(data: bytes) -> list[Said]:
    """Take a stream of answers apart."""
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
    """A string transport that closes by half as a TCP socket does."""

    protocol: Any = None
    half_closed = False
    closed = False

    def loseWriteConnection(self) -> None:  # noqa: N802
        self.half_closed = True

    def lose(self, error: type[Exception] = ConnectionDone) -> None:
        """The other side goes."""
        if not self.closed:
            self.closed = True
            self.protocol.connectionLost(Failure(error()))

    def abortConnection(self) -> None:
        self.lose(ConnectionLost)


class SiteTestCase(SynchronousTestCase):
    """A site in memory; every test leaves it without connections and deadlines."""

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
            "hosts": HostList(),
            "origins": OriginPolicy(["https://other.example"]),
            "wall": lambda: self.clock.seconds() + self.ahead,
            "max_body": MAX_BODY,
            "max_connections": 2000,
        }
        return RealtimeSite(self.root, self.clock, self.wheel, **arguments | changes)

    def connect(self) -> SocketLike:
        transport = SocketLike()
        channel = self.site.buildProtocol(None)
        transport.protocol = channel
        self.transports.append(transport)
        channel.makeConnection(transport)
        return transport

    def send(self, *pieces: bytes) -> SocketLike:
        transport = self.connect()
        for piece in pieces:
            transport.protocol.dataReceived(piece)
        return transport

    def ask(self, *pieces: bytes) -> Said:
        """Send on a new connection, and read the one answer."""
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


class RefusalTests(SiteTestCase):
    """What is wrong with a request is said, and the connection closed."""

    def test_table(self) -> None:
        """Each bad request gets its status and its code, whole, and nothing else."""
        for name, (data, status, code) in BAD.items():
            said = self.ask(data)
            self.assertEqual((name, said.status, said.code), (name, status, code))

    def test_parameters(self) -> None:
        """Too many parameters are refused with words wherever they are sent, in a head that is whole or in pieces."""
        for path in (b"/", b"/rooms", b"/poll"):
            for method in (b"GET", b"POST", b"OPTIONS"):
                data = get(path + b"?" + b"a=&" * 2000, b"Content-Length: 0", b"Connection: close", method=method)
                for said in (self.ask(data), self.ask(data[:20], data[20:])):
                    self.assertEqual((400, "bad_request"), (said.status, said.code))
                    self.assertIn(b"at most 1,024 parameters", said.body)

    def test_byte_by_byte(self) -> None:
        """The answers are the same where every byte comes by itself."""
        for name, (data, status, code) in BAD.items():
            said = self.ask(*(data[place : place + 1] for place in range(len(data))))
            self.assertEqual((name, said.status, said.code), (name, status, code))

    def test_shape(self) -> None:
        """A refusal says that the connection closes, that it is JSON and not kept, and no version of anything."""
        said = self.ask(get(host=b"evil.example"))
        date = said.headers.pop("date")
        self.assertEqual(date, "thu, 01 jan 1970 00:00:00 gmt")
        self.assertEqual(
            said.headers,
            {
                "connection": "close",
                "content-type": "application/json",
                "content-length": str(len(said.body)),
                "cache-control": "no-store",
                "x-content-type-options": "nosniff",
                "server": "realtime_chat",
            },
        )

    def test_no_echo(self) -> None:
        """Nothing that the client sent comes back."""
        for sent in (get(b"/", b"<img src=x>"), get(host=b"imgsrcx.example"), get(b"imgsrcx"), get(b"/imgsrcx")):
            self.assertNotIn(b"img", self.ask(sent).body)

    def test_head(self) -> None:
        """The answer to a HEAD request has no body, also where it is refused."""
        data = self.send(get(method=b"HEAD", host=b"evil.example")).value()
        self.assertTrue(data.startswith(b"HTTP/1.1 421 ") and data.endswith(b"\r\n\r\n"))

    def test_rest_is_ignored(self) -> None:
        """What comes after a refused request, in the same segment or later, is no request."""
        transport = self.send(get(host=b"evil.example") + get(), get())
        self.assertEqual(len(read_answers(transport.value())), 1)

    def test_half_close(self) -> None:
        """The connection is closed for writing, and read on until the client has gone."""
        transport = self.send(post(b"a" * 1000))
        self.assertEqual((transport.half_closed, transport.disconnecting, transport.closed), (True, False, False))
        transport.protocol.dataReceived(b"a" * 1000)
        transport.lose()
        self.assertEqual(len(self.wheel), 0)

    def test_lingering_ends(self) -> None:
        """A client that doesn't go is cut off after a few seconds."""
        transport = self.send(post(b"a" * 1000))
        self.wait(4.5)
        self.assertFalse(transport.closed)
        self.wait(1)
        self.assertTrue(transport.closed)

    def test_lingering_is_bounded(self) -> None:
        """A client that doesn't stop sending is cut off."""
        transport = self.send(post(b"a" * 1000))
        for _ in range(65):
            transport.protocol.dataReceived(b"a" * 65536)
        self.assertTrue(transport.closed)

    def test_no_body_is_kept(self) -> None:
        """Nothing of a refused request stays in memory while the connection lingers."""
        transport = self.send(CHUNKED + b"60\r\n" + b"a" * 96 + b"\r\n5\r\nabcde\r\n")
        self.assertEqual((transport.protocol.requests, transport.protocol._transferDecoder), ([], None))


class RequestTests(SiteTestCase):
    """What is right is served."""

    def test_get(self) -> None:
        """A request is answered with the headers that all have, and the connection stays open."""
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
        """Who asks before sending a body is told to go on."""
        data = self.send(get(b"/", b"Content-Length: 3", b"Expect: 100-continue", method=b"POST"), b"abc").value()
        self.assertTrue(data.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 "))

    def test_no_continue(self) -> None:
        """Who asks before sending too large a body, or from another site's page, is told so at once."""
        for header, status in ((b"Content-Length: 1000", 413), (b"Content-Length: 1\r\nOrigin: null", 403)):
            said = self.ask(get(b"/", header, b"Expect: 100-continue", method=b"POST"))
            self.assertEqual(said.status, status)

    def test_close(self) -> None:
        """The connection is closed where the client asked for it, also in a list, and after HTTP/1.0."""
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
        """A method that a resource lacks is answered with those that it has."""
        for path, allowed in ((b"/", "get, head, post"), (b"/later", "get, head"), (b"/old", "get, head, put")):
            said = self.ask(get(path, method=b"DELETE"))
            self.assertEqual((said.status, said.code, said.headers["allow"]), (405, "method_not_allowed", allowed))

    def test_plain_resources(self) -> None:
        """twisted.web's own resources are served as well, and their errors are JSON."""
        self.assertEqual(self.ask(get(b"/old")).body, b"old")
        self.assertEqual(self.ask(get(b"/old", method=b"PUT")).code, "forbidden")

    def test_paths(self) -> None:
        """What is at no address of the tree is not found, whatever the address is made of."""
        for path in (b"/nowhere", b"//", b"/../etc/passwd", b"/%2e%2e/", b"/later/", b"/later/x", b"/old%2Fx", b"/%zz"):
            self.assertEqual(self.ask(get(path)).code, "not_found")

    def test_failure(self) -> None:
        """A bug is logged once and answered without a word of it; the connection lives on."""
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
        """What a resource said of its body before is replaced by what its answer says."""

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


class OriginTests(SiteTestCase):
    """Pages of other origins that are listed can use the site, and read its answers."""

    listed = b"Origin: https://other.example"

    def test_listed(self) -> None:
        """A listed origin's page may read the answer, without credentials."""
        said = self.ask(get(b"/", self.listed))
        self.assertEqual(said.headers["access-control-allow-origin"], "https://other.example")
        self.assertEqual(said.headers["access-control-expose-headers"], "retry-after")
        self.assertEqual(said.headers["vary"], "origin")
        self.assertNotIn("access-control-allow-credentials", said.headers)

    def test_errors_can_be_read(self) -> None:
        """A listed origin's page may read why it was refused, too."""
        for request in (get(b"/nowhere", self.listed), post(b"a" * 1000, self.listed)):
            self.assertEqual(self.ask(request).headers["access-control-allow-origin"], "https://other.example")

    def test_own(self) -> None:
        """The site's own pages need nothing; that answers vary is said all the same."""
        said = self.ask(get(b"/", b"Origin: http://localhost:8080", host=b"localhost:8080"))
        self.assertEqual((said.status, said.headers["vary"]), (200, "origin"))
        self.assertNotIn("access-control-allow-origin", said.headers)

    def test_nobody_listed(self) -> None:
        """Where no other origin is listed, answers don't vary."""
        self.site = self.make_site(origins=OriginPolicy())
        self.assertNotIn("vary", self.ask(get()).headers)

    def test_public(self) -> None:
        """What is public can be read by every page, whatever its query; nothing beside it can."""
        self.site = self.make_site(public=frozenset([b"/"]))
        stranger = b"Origin: https://stranger.example"
        for path in (b"/", b"/?version=2"):
            said = self.ask(get(path, stranger))
            self.assertEqual((said.status, said.headers["access-control-allow-origin"]), (200, "*"))
        for path in (b"/later", b"//", b"/nowhere?/"):
            self.assertEqual(self.ask(get(path, stranger)).status, 403)

    def test_preflight(self) -> None:
        """A browser that asks first is told what is allowed, whatever the address."""
        said = self.ask(get(b"/commands", self.listed, b"Access-Control-Request-Method: POST", method=b"OPTIONS"))
        self.assertEqual((said.status, said.body), (204, b""))
        self.assertEqual(said.headers["access-control-allow-methods"], "get, post")
        self.assertEqual(
            said.headers["access-control-allow-headers"], "content-type, realtime-client, last-event-id, authorization"
        )
        self.assertEqual(said.headers["access-control-max-age"], "600")
        self.assertNotIn("content-length", said.headers)

    def test_refused(self) -> None:
        """A page that isn't listed can read why, and the log names the option, and the proxy's setting."""
        with capturedLogs() as events:
            said = self.ask(get(b"/", b"Origin: https://Forgotten.example:443"))
            self.ask(get(b"/", b"Origin: <b>"))
        self.assertEqual(("bad_origin", "*"), (said.code, said.headers["access-control-allow-origin"]))
        first, second = map(formatEvent, events)
        self.assertIn("--allow-origin https://forgotten.example.", first)
        self.assertIn("proxy_set_header Host $http_host", first)
        self.assertIn("ProxyPreserveHost On", first)
        self.assertEqual("a page was refused: its origin is none that a browser sends", second)

    def test_refused_preflight(self) -> None:
        """A browser that asks for another site's page is told no, and without a preflight OPTIONS is no method."""
        wish = b"Access-Control-Request-Method: POST"
        refused = self.ask(get(b"/", b"Origin: https://evil.example", wish, method=b"OPTIONS"))
        self.assertEqual(refused.code, "bad_origin")
        self.assertNotIn("access-control-allow-origin", refused.headers)
        self.assertEqual(self.ask(get(b"/", method=b"OPTIONS")).code, "method_not_allowed")


class ForeignTests(SiteTestCase):
    """What other origins' pages ask for without being able to read it."""

    def statuses(self, path: bytes, *headers: bytes) -> int:
        return self.ask(get(path, *headers)).status

    def test_table(self) -> None:
        """Browsers say that another origin's page is behind it: refused where that matters, if no Origin is allowed."""
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

    def test_remembered(self) -> None:
        """On one connection each address is decided by itself, however often the same headers come."""
        foreign, own = b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Site: same-origin"
        asked = [(b"/", foreign), (b"/guarded", foreign), (b"/guarded", foreign), (b"/guarded", own)]
        asked += [(b"/guarded", own), (b"/", own), (b"/guarded", foreign)]
        transport = self.send(*(get(path, header) for path, header in asked))
        statuses = [said.status for said in read_answers(transport.value())]
        self.assertEqual([200, 403, 403, 200, 200, 200, 403], statuses)


class DeadlineTests(SiteTestCase):
    """Nobody keeps a connection by sending slowly, or nothing."""

    def drip(self, transport: SocketLike, data: bytes, seconds: float) -> None:
        """Send ``data`` again and again, every half second."""
        for _ in range(int(seconds / 0.5)):
            if not transport.half_closed:
                transport.protocol.dataReceived(data)
            self.wait(0.5)

    def test_slow_headers(self) -> None:
        """Headers that aren't complete after 10 seconds are refused, however steadily they come."""
        transport = self.send(b"GET / HTTP/1.1\r\n")
        self.drip(transport, b"X-A: b\r\n", 9.5)
        self.assertEqual(transport.value(), b"")
        self.drip(transport, b"X-A: b\r\n", 1)
        (said,) = read_answers(transport.value())
        self.assertEqual((said.status, said.code, said.headers["connection"]), (408, "bad_request", "close"))
        self.assertTrue(transport.half_closed)

    def test_one_byte(self) -> None:
        """A single byte is an incomplete request."""
        transport = self.send(b"G")
        self.wait(10.5)
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 408 "))

    def test_silence(self) -> None:
        """A connection on which nothing was asked is closed without a word."""
        transport = self.connect()
        self.wait(9.5)
        self.assertFalse(transport.disconnecting)
        self.wait(1)
        self.assertEqual((transport.disconnecting, transport.value()), (True, b""))

    def test_slow_body(self) -> None:
        """A body that isn't complete 30 seconds after its headers is refused."""
        transport = self.send(post(b"a" * 90)[:-90])
        self.drip(transport, b"a", 29.5)
        self.assertEqual(transport.value(), b"")
        self.drip(transport, b"a", 1)
        self.assertEqual(read_answers(transport.value())[0].status, 408)

    def test_slow_chunks(self) -> None:
        """So is one in chunks."""
        transport = self.send(CHUNKED)
        self.drip(transport, b"0", 30.5)
        self.assertEqual(read_answers(transport.value())[0].status, 408)

    def test_steady_body(self) -> None:
        """A body that comes at 500 bytes a second or faster is waited for; one that comes to a stop is refused."""
        self.site.max_body = 200_000
        for late, status in ((0, 201), (90_000, 408)):
            transport = self.send(post(b"a" * 90_000)[:-90_000])
            self.drip(transport, b"a" * 300, 149)
            self.assertEqual((transport.value(), transport.half_closed), (b"", False))
            if not late:
                transport.protocol.dataReceived(b"a" * (90_000 - 298 * 300))
            self.wait(61)
            self.assertEqual(read_answers(transport.value())[0].status, status)

    def test_headers_then_body(self) -> None:
        """The body has its own time, however long the headers took."""
        transport = self.send(b"POST / HTTP/1.1\r\nHost: localhost\r\n")
        self.wait(9)
        transport.protocol.dataReceived(b"Content-Length: 3\r\n\r\n")
        self.wait(29)
        transport.protocol.dataReceived(b"abc")
        self.assertEqual(self.root.index.bodies, [b"abc"])

    def test_idle(self) -> None:
        """A connection is kept for a next request for 60 seconds."""
        transport = self.send(get())
        self.wait(59)
        transport.protocol.dataReceived(get())
        self.wait(59.5)
        self.assertFalse(transport.disconnecting)
        self.wait(1)
        self.assertEqual((transport.disconnecting, len(read_answers(transport.value()))), (True, 2))

    def test_next_headers(self) -> None:
        """The headers of a next request have 10 seconds from its first byte."""
        transport = self.send(get())
        self.wait(50)
        transport.protocol.dataReceived(b"GET")
        self.wait(9.5)
        self.assertFalse(transport.half_closed)
        self.wait(1)
        self.assertEqual(read_answers(transport.value())[1].status, 408)

    def test_next_headers_in_the_same_segment(self) -> None:
        """Completing one request and beginning another, over and over, is no slowness."""
        transport = self.send(get()[:10])
        for _ in range(5):
            self.wait(9)
            transport.protocol.dataReceived(get()[10:] + get()[:10])
        self.assertEqual([said.status for said in read_answers(transport.value())], [200] * 5)

    def test_waiting(self) -> None:
        """A request may wait for its answer for any time; then the connection is idle."""
        transport = self.send(get(b"/later"))
        self.wait(1000)
        self.assertEqual(len(self.wheel), 0)
        self.root.waiting[0].callback(b"1")
        self.wait(60.5)
        self.assertTrue(transport.disconnecting)

    def test_unread_answer(self) -> None:
        """A client that doesn't read what is written last is cut off in the end."""
        transport = self.send(get(b"/", b"Connection: close"))
        self.wait(59)
        self.assertFalse(transport.closed)
        self.wait(2)
        self.assertTrue(transport.closed)

    def test_nothing_logged(self) -> None:
        """A missed deadline is no news."""
        self.send(b"G")
        self.wait(20)
        self.assertEqual(self.flushLoggedErrors(), [])


class LeavingTests(SiteTestCase):
    """Clients that go leave nothing behind."""

    def test_thousand_waiting(self) -> None:
        """A thousand waiting requests whose connections go are told at once, and are gone without a collector."""
        transports = [self.send(get(b"/later")) for _ in range(1000)]
        requests = [weakref.ref(transport.protocol.requests[0]) for transport in transports]
        self.assertEqual((self.site.connections, len(self.wheel)), (1000, 0))
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        for transport in transports:
            transport.lose(ConnectionLost)
        self.assertEqual(len(self.root.cancelled), 1000)
        self.root.waiting.clear()
        self.root.cancelled.clear()
        self.assertEqual([request() for request in requests if request() is not None], [])
        self.assertEqual((self.site.connections, len(self.wheel), self.flushLoggedErrors()), (0, 0, []))

    def test_answer_after_loss(self) -> None:
        """An answer that comes when the client has gone is dropped."""
        transport = self.send(get(b"/later"))
        (waiting,) = self.root.waiting
        waiting.addErrback(lambda _: b"1")
        transport.lose()
        self.assertEqual((transport.value(), self.flushLoggedErrors()), (b"", []))

    def test_in_every_phase(self) -> None:
        """Whatever a connection waited for, when it goes its deadline goes too."""
        for data in (b"", b"G", get()[:-2], post(b"abc")[:-1], get(), get(b"/later"), get(host=b"evil.example")):
            self.send(data).lose()
            self.assertEqual((self.site.connections, len(self.wheel)), (0, 0))


class ConnectionLimitTests(SiteTestCase):
    """Only so many connections are open at once."""

    def setUp(self) -> None:
        super().setUp()
        self.site = self.make_site(max_connections=2)

    def test_refused(self) -> None:
        """The one too many is told so before it asks, and when to come back."""
        kept = [self.connect(), self.connect()]
        said = self.ask()
        self.assertEqual((said.status, said.code), (503, "too_many"))
        self.assertEqual((said.headers["retry-after"], said.headers["connection"]), ("2", "close"))
        kept[0].protocol.dataReceived(get())
        self.assertEqual(read_answers(kept[0].value())[0].status, 200)

    def test_room_again(self) -> None:
        """When one goes, another can come."""
        first, refused, _ = self.connect(), self.connect(), self.connect()
        first.lose()
        refused.lose()
        self.transports[2].lose()
        self.assertEqual(self.ask(get()).status, 200)

    def test_refusals_are_bounded(self) -> None:
        """Where there are many too many, they are only cut off."""
        transports = [self.connect() for _ in range(2 + self.site.max_refusals + 1)]
        self.assertEqual([transport.closed for transport in transports[-2:]], [False, True])
        self.assertEqual(transports[-1].value(), b"")


class StopTests(SiteTestCase):
    """A site that stops closes what waits for nothing."""

    def test_idle(self) -> None:
        """Idle connections are closed at once, the others after their answer."""
        idle, fresh, waiting = self.send(get()), self.connect(), self.send(get(b"/later"))
        stopped = self.site.stop()
        self.assertEqual([each.disconnecting for each in (idle, fresh, waiting)], [True, True, False])
        self.root.waiting[0].callback(b"1")
        self.assertTrue(waiting.disconnecting)
        self.assertNoResult(stopped)
        for transport in self.transports:
            transport.lose()
        self.successResultOf(stopped)

    def test_nothing_open(self) -> None:
        """Without connections there is nothing to wait for."""
        self.successResultOf(self.site.stop())

    def test_upgraded(self) -> None:
        """What became something else is waited for, and left alone."""
        transport = self.send(get(b"/upgrade"))
        stopped = self.site.stop()
        self.assertFalse(transport.disconnecting)
        transport.lose()
        self.successResultOf(stopped)


class TakeOverTests(SiteTestCase):
    """A connection can become something else."""

    def test_taken_over(self) -> None:
        """The new protocol gets what comes in, without a producer, a pause or a deadline of HTTP's."""
        transport = self.send(get(b"/upgrade"), b"abc")
        self.assertEqual(transport.value(), b"upgraded;echo:abc")
        self.assertEqual((transport.producer, transport.producerState, len(self.wheel)), (None, "producing", 0))

    def test_same_segment(self) -> None:
        """What the client sent right behind its request comes first."""
        transport = self.send(get(b"/upgrade") + b"GET / HTTP/1.1\r\n\r\n", b"abc")
        self.assertEqual(transport.value(), b"upgraded;echo:GET / HTTP/1.1\r\n\r\necho:abc")

    def test_later(self) -> None:
        """So it does where the request had waited, and where much had come behind it."""
        sent = b"a" * 20000
        transport = self.send(get(b"/upgrade?later=1") + b"first;", sent)
        self.assertEqual(transport.producerState, "paused")
        _Upgrade.upgrade(self.root.waiting.pop())
        self.assertEqual(transport.value(), b"upgraded;")
        self.clock.advance(0)
        self.assertEqual(transport.value(), b"upgraded;echo:first;" + sent)
        self.assertEqual(transport.producerState, "producing")

    def test_lost(self) -> None:
        """The connection is counted until it is lost, and the new protocol is told why."""
        transport = self.send(get(b"/upgrade?later=1"))
        echo = _Upgrade.upgrade(self.root.waiting.pop())
        self.assertEqual(self.site.connections, 1)
        transport.lose(ConnectionLost)
        self.assertTrue(echo.lost is not None and echo.lost.check(ConnectionLost))
        self.assertEqual(self.site.connections, 0)

    def test_lost_before_the_rest(self) -> None:
        """What had come is not passed on any more when the connection is lost."""
        transport = self.send(get(b"/upgrade?later=1") + b"rest")
        _Upgrade.upgrade(self.root.waiting.pop())
        transport.lose()
        self.clock.advance(0)
        self.assertEqual(transport.value(), b"upgraded;")

    def test_nothing_of_http_is_left(self) -> None:
        """Request and channel are gone at once, without a collector; who waited for the request's end is told."""
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        transport = self.send(get(b"/upgrade?later=1"))
        request = self.root.waiting.pop()
        ended = request.notifyFinish()
        left = [weakref.ref(request), weakref.ref(request.channel)]
        _Upgrade.upgrade(request)
        self.successResultOf(ended)
        del request
        self.assertEqual([each() for each in left], [None, None])
        self.assertFalse(isinstance(transport.protocol, RealtimeChannel))

    def test_not_waiting(self) -> None:
        """Only a waiting request's connection can be taken."""
        transport = self.send(get())
        self.assertRaises(RuntimeError, transport.protocol.take_over, Echo())
        lost = self.send(get(b"/upgrade?later=1"))
        request = self.root.waiting.pop()
        channel = request.channel
        lost.lose()
        self.assertRaises(RuntimeError, channel.take_over, Echo())


class AccessLogTests(SiteTestCase):
    """The access log tells who asked for what, and no secrets."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.mktemp()
        self.site = self.make_site(log_path=self.path)
        self.addCleanup(self.site.doStop)
        self.site.doStart()

    def lines(self) -> list[str]:
        return Path(self.path).read_text("ascii").splitlines()

    def test_line(self) -> None:
        """One line a request, in the combined format."""
        self.send(get(b"/?a=b", b"User-Agent: curl/8", b"Referer: http://localhost/"))
        self.assertEqual(
            self.lines(),
            [
                '192.168.1.1 - - [01/Jan/1970:00:00:00 +0000] "GET /?a=b HTTP/1.1" 200 10 "http://localhost/" "curl/8"',
            ],
        )

    def test_long(self) -> None:
        """Of what is very long, the beginning is written."""
        self.send(get(b"/?a=" + b"b" * 6000, b"User-Agent: " + b"\xff" * 6000))
        (line,) = self.lines()
        self.assertEqual(2, line.count('..."'))
        self.assertLess(len(line), 4096 + 4 * 4096 + 200)

    def test_wall_clock(self) -> None:
        """A line is dated by the wall clock, not by the reactor's."""
        self.ahead = 86400.0
        self.send(get())
        self.assertIn("[02/Jan/1970:00:00:00 +0000]", self.lines()[0])

    def test_secrets(self) -> None:
        """Secret query values are redacted, however their names are written, also in the referrer."""
        query = b"/?room=r&client=SECRET&%63lient=SECRET&Token=SECRET;access_token=SECRET&commands=SECRET&last=1"
        self.send(get(query, b"Referer: http://localhost" + query))
        (line,) = self.lines()
        self.assertNotIn("SECRET", line)
        redacted = "/?room=r&client=REDACTED&%63lient=REDACTED&Token=REDACTED&access_token=REDACTED&commands=REDACTED"
        self.assertEqual(line.count(redacted + "&last=1"), 2)

    def test_absolute(self) -> None:
        """An address with a host, and perhaps a password, isn't written."""
        self.send(get(b"http://me:SECRET@localhost/"))
        self.assertNotIn("SECRET", self.lines()[0])

    def test_escaped(self) -> None:
        """Nothing from a client is written raw."""
        self.send(get(b'/"\\%0a', b'User-Agent: "\\\x1b[31m\xff'))
        self.assertIn('"GET /\\x22\\x5c%0a HTTP/1.1"', self.lines()[0])
        self.assertTrue(self.lines()[0].endswith('"\\x22\\x5c\\x1b[31m\\xff"'))

    def test_refused(self) -> None:
        """Refused requests and upgrades are in it too."""
        for data in (get(host=b"evil.example"), b"nonsense\r\n", get(b"/upgrade")):
            self.send(data)
        self.assertEqual([line.split('" ')[1].split()[0] for line in self.lines()], ["421", "400", "101"])

    def test_off(self) -> None:
        """Without a path there is no log, and no timer for one."""
        self.site = self.make_site()
        self.site.doStart()
        self.addCleanup(self.site.doStop)
        self.send(get()).lose()
        self.wheel.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cannot_be_written(self) -> None:
        """A log that can't be opened is reported once; requests are answered."""
        self.site = self.make_site(log_path=self.mktemp() + "/none/access.log")
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        self.assertEqual([self.ask(get()).status for _ in range(3)], [200] * 3)
        self.assertEqual([event["log_level"] for event in events], [LogLevel.error])
        self.assertRaises(OSError, self.site.open_log)


class SiteTests(SiteTestCase):
    """The site itself."""

    def test_protocols(self) -> None:
        """Over TLS, HTTP/1.1 is what is offered."""
        self.assertEqual(self.site.acceptableProtocols(), [b"http/1.1"])

    def test_date(self) -> None:
        """The date is that of the wall clock, which may step; the reactor's doesn't."""
        self.clock.advance(86400)
        self.assertEqual(self.ask(get()).headers["date"], "fri, 02 jan 1970 00:00:00 gmt")
        self.ahead = 86400.0
        self.assertEqual(self.ask(get()).headers["date"], "sat, 03 jan 1970 00:00:00 gmt")
        self.ahead = -3600.0
        self.assertEqual(self.ask(get()).headers["date"], "thu, 01 jan 1970 23:00:00 gmt")


class RawClient(Protocol):
    """Sends bytes at once, and keeps what comes until the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._searched = 0
        self.received = bytearray()
        self.lost: Deferred[Failure] = Deferred()
        self._waiting: tuple[bytes, Deferred[None]] | None = None

    def connectionMade(self) -> None:
        self.transport.write(self._data)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if self._waiting is not None and self.received.find(self._waiting[0], self._searched) >= 0:
            waiting, self._waiting = self._waiting[1], None
            waiting.callback(None)
        self._searched = max(0, len(self.received) - 100)

    def until(self, text: bytes) -> Deferred[None]:
        """When ``text`` has come."""
        waiting: Deferred[None] = Deferred()
        self._waiting, self._searched = (text, waiting), 0
        self.dataReceived(b"")
        return waiting

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.lost.callback(reason.value)


class TurnTests(SiteTestCase):
    """What a connection does of a heap of requests in one turn."""

    def make_site(self, **changes: Any) -> RealtimeSite:
        seconds = itertools.count()  # each look takes longer than a share
        return super().make_site(turns=Turns(self.clock, lambda: next(seconds)), **changes)

    def test_heap(self) -> None:
        """Of a heap that came at once a turn answers one request, as time is over then; all come, in order."""
        for heap in (
            [get(b"/?n=%d" % number) for number in range(50)],
            [post(b"%d" % number) for number in range(50)],
            [get(b"/?n=%d" % number) if number % 2 else post(b"%d" % number) for number in range(50)],
        ):
            transport = self.send(b"".join(heap) + b"GET /?n=last HTT")
            counts = []
            while len(counts) < 49:
                counts.append(len(read_answers(transport.value())))
                self.assertEqual("paused", transport.producerState)
                next_turn(self.clock)
            self.assertEqual(list(range(1, 50)), counts)
            next_turn(self.clock)  # for what is no whole request yet
            self.assertEqual("producing", transport.producerState)
            transport.protocol.dataReceived(b"P/1.1\r\nHost: localhost\r\n\r\n")
            said = read_answers(transport.value())
            self.assertEqual((51, "last"), (len(said), json.loads(said[-1].body)["n"]))

    def test_chunks(self) -> None:
        """Of a body in many small chunks a turn reads a part, too; what follows it is answered behind it."""
        chunk = b"1;" + b"e" * 50 + b"\r\nx\r\n"
        for size in (40, 60, 90):  # the last chunk ends in other places of what is read at once
            for headers, answers in (((), [201, 200]), ((b"Connection: close",), [201])):
                head = get(b"/", CHUNK, *headers, method=b"POST")
                transport = self.send(head + chunk * size + b"0\r\n\r\n" + get(b"/?n=last"))
                turns = 0
                while not transport.value():
                    self.assertEqual("paused", transport.producerState)
                    next_turn(self.clock)
                    turns += 1
                self.assertGreater(turns, 1)
                self.clock.advance(0)
                self.assertEqual(answers, [said.status for said in read_answers(transport.value())])
                self.assertEqual(b"x" * size, self.root.index.bodies[-1])

    def test_bad_chunks(self) -> None:
        """A body that turns out to be wrong or too large in a later turn is refused then, and nothing behind it is
        answered."""
        for bad, status in ((b"z\r\n" * 1000, 400), (b"1\r\nx\r\n" * 1000, 413)):
            transport = self.send(CHUNKED + (b"1;" + b"e" * 1000 + b"\r\nx\r\n") * 2 + bad + get(b"/?n=last"))
            self.assertEqual(b"", transport.value())
            self.clock.advance(0)
            self.assertEqual([status], [said.status for said in read_answers(transport.value())])

    def test_more_meanwhile(self) -> None:
        """What comes all the same, as over TLS, waits behind the rest."""
        transport = self.send(*[get(b"/?n=%d" % number) * 2 for number in range(5)])
        for _ in range(10):
            self.clock.advance(0)
        self.assertEqual(
            [str(number) for number in range(5) for _ in range(2)],
            [json.loads(said.body)["n"] for said in read_answers(transport.value())],
        )

    def test_lost_meanwhile(self) -> None:
        """A connection that is lost while it waits is forgotten."""
        transport = self.send(get() * 3)
        transport.lose()
        self.clock.advance(0)
        self.assertEqual(1, len(read_answers(transport.value())))

    def test_one_by_one(self) -> None:
        """Requests that come one by one wait for nothing."""
        transport = self.connect()
        for number in range(5):
            transport.protocol.dataReceived(get(b"/?n=%d" % number))
            self.assertEqual(number + 1, len(read_answers(transport.value())))


class SocketTests(TestCase):
    """The same over real sockets: plain, with TLS, and behind a proxy that says whom it speaks for."""

    async def setUp(self) -> None:
        self.wheel = Wheel(reactor)
        self.addCleanup(self.wheel.stop)
        self.root = Root()
        self.site = RealtimeSite(
            self.root, reactor, self.wheel, HostList(), OriginPolicy(), time.time, MAX_BODY, 1000, unsent=unsent
        )
        pem = Path(twisted.test.__file__).with_name("server.pem").read_bytes()
        context = ssl.PrivateCertificate.loadPEM(pem).options()
        self.ports = {
            "tcp": reactor.listenTCP(0, self.site, interface="127.0.0.1"),
            "tls": reactor.listenSSL(0, self.site, context, interface="127.0.0.1"),
            "haproxy": await serverFromString(reactor, "haproxy:tcp:0:interface=127.0.0.1").listen(self.site),
        }
        for port in self.ports.values():
            self.addCleanup(port.stopListening)

    def connect(self, kind: str, data: bytes) -> RawClient:
        client = RawClient((b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" if kind == "haproxy" else b"") + data)
        factory = ClientFactory.forProtocol(lambda: client)
        number = self.ports[kind].getHost().port
        if kind == "tls":
            reactor.connectSSL("127.0.0.1", number, factory, ssl.CertificateOptions(verify=False))
        else:
            reactor.connectTCP("127.0.0.1", number, factory)
        return client

    async def check_all_gone(self) -> None:
        await self.site.stop().addTimeout(5, reactor)
        self.assertEqual((self.site.connections, len(self.wheel)), (0, 0))

    async def test_unread_body(self) -> None:
        """A client that sends megabytes can read that they are too many, and sees a clean end."""
        for kind in self.ports:
            client = self.connect(kind, post(b"a" * 3_000_000))
            error = await client.lost
            self.assertEqual([said.code for said in read_answers(client.received)], ["too_large"])
            self.assertIsInstance(error, ConnectionDone)
        await self.check_all_gone()

    async def test_unread_chunks(self) -> None:
        """So can one that sends them in chunks."""
        for kind in self.ports:
            client = self.connect(kind, CHUNKED + b"fff\r\n%b\r\n" % (b"a" * 4095) * 500)
            await client.lost
            self.assertEqual([said.code for said in read_answers(client.received)], ["too_large"])
        await self.check_all_gone()

    async def test_upgrade(self) -> None:
        """A connection is taken over, with what came behind the request, and let go of in the end."""
        for kind in self.ports:
            client = self.connect(kind, get(b"/upgrade") + b"at once;")
            await client.until(b"echo:at once;")
            client.transport.write(b"later;")
            await client.until(b"echo:later;")
            self.assertEqual(self.site.connections, 1)
            client.transport.loseConnection()
            await client.lost
        await self.check_all_gone()

    async def test_waiting_clients_go(self) -> None:
        """Waiting requests are told at once when their clients go."""
        clients = [self.connect(kind, get(b"/later")) for kind in self.ports for _ in range(100)]
        while len(self.root.waiting) < len(clients):
            await _turn()
        for client in clients:
            client.transport.abortConnection()
        while len(self.root.cancelled) < len(clients):
            await _turn()
        for client in clients:
            await client.lost
        await self.check_all_gone()
        self.assertEqual(self.flushLoggedErrors(), [])

    def held(self) -> int:
        """The most bytes that any connection has in this process, to be sent or to be read."""
        found = [0]
        for channel in self.site._channels:
            transport: Any = channel.transport
            waiting = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
            found += [waiting, len(channel._buffer) + sum(map(len, channel._dataBuffer))]
        return max(found)

    async def check_unread(self, path: bytes, big: _Big, asking: Callable[[bytes], bytes] = get) -> None:
        """Clients ask for fifty answers at once, and read none for a while."""
        count = 50
        for kind in self.ports:
            big.asked = 0
            client = self.connect(kind, asking(path) * count)
            await client.until(b"200 OK")
            client.transport.pauseProducing()
            before = -1
            while before < big.asked:  # until no more are begun in a tenth of a second
                before = big.asked
                await _turn(0.1)
            self.assertLess(big.asked, count // 2)
            self.assertLess(self.held(), 2 * big.size)
            client.transport.resumeProducing()
            await client.until(b"#%d;" % count)
            bodies = [said.body.lstrip() for said in read_answers(client.received)]
            self.assertEqual([b"#%d;" % number for number in range(1, count + 1)], bodies)
            client.transport.loseConnection()
            await client.lost
        await self.check_all_gone()

    async def test_unread_answers(self) -> None:
        """Who reads nothing has one answer waiting, and no further request begun; once it reads, all are answered in
        order."""
        await self.check_unread(b"/big", self.root.big)

    async def test_unread_late_answers(self) -> None:
        """So has who asks for what takes a while."""
        await self.check_unread(b"/late", self.root.late)

    async def test_unread_answers_to_bodies(self) -> None:
        """So has who sends bodies."""
        await self.check_unread(
            b"/big", self.root.big, lambda path: get(path, CHUNK, method=b"POST") + b"1\r\nx\r\n0\r\n\r\n"
        )

    async def test_never_read(self) -> None:
        """Who takes nothing of an answer for a while is cut off; who takes a little now and then is not."""
        self.site.stalled_after = 1.0
        self.root.big.size = 10_000_000
        for kind in ("tcp", "tls"):
            slow, stuck = self.connect(kind, get(b"/big") + get(b"/nowhere")), self.connect(kind, get(b"/big"))
            for client in (slow, stuck):
                await client.until(b"200 OK")
                client.transport.pauseProducing()
            begun = reactor.seconds()
            while self.site.connections > 1 or reactor.seconds() < begun + 3:
                slow.transport.resumeProducing()
                await _turn(0.02)
                slow.transport.pauseProducing()
                await _turn(0.3)
                self.assertLess(reactor.seconds(), begun + 20)
            slow.transport.resumeProducing()
            await slow.until(b'"not_found"')
            slow.transport.loseConnection()
            await slow.lost
            stuck.transport.resumeProducing()
            await stuck.lost
        await self.check_all_gone()

    async def test_stopping(self) -> None:
        """A site that stops finishes the answer that is being read, and begins none of those asked for behind it."""
        client = self.connect("tcp", get(b"/big") * 100)
        await client.until(b"200 OK")
        client.transport.pauseProducing()
        while not self.held():
            await _turn()
        stopped = self.site.stop()
        client.transport.resumeProducing()
        await client.lost
        await stopped
        answers = read_answers(client.received)
        self.assertEqual((self.root.big.asked, self.root.big.size), (len(answers), answers[-1].body.count(b" ")))

    async def test_connection_limit(self) -> None:
        """The connection too many can read that it is, also one that had sent its request already."""
        self.site.max_connections = 0
        for kind in self.ports:
            client = self.connect(kind, post(b"a" * 100_000))
            await client.lost
            self.assertEqual([said.status for said in read_answers(client.received)], [503])
        await self.check_all_gone()


def _turn(seconds: float = 0.005) -> Deferred[None]:
    turned: Deferred[None] = Deferred()
    reactor.callLater(seconds, turned.callback, None)
    return turned
