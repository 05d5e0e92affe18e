"""Tests for :mod:`realtime_chat.engineio.resource` and :mod:`realtime_chat.engineio.connections`."""

from __future__ import annotations

import gc
import json
import weakref

from realtime_chat.engineio.prepared import PreparedMessage
from realtime_chat.values.rates import Rate, RateLimits, ScopeLimits
from tests.engineio.site import BINARY, EngineTestCase, FakeSocket

PAYLOADS = {
    "empty": b"",
    "no type": b"\x1e",
    "an unknown type": b"7",
    "a letter": b"hello",
    "only separators": b"\x1e\x1e\x1e",
    "invalid UTF-8": b"4\xff",
    "cut UTF-8": b"4\xe2\x82",
    "a surrogate": b"4\xed\xa0\x80",
    "base64 that is none": b"b!!!!",
    "base64 without padding": b"bAQ",
    "base64 with a line end": b"bAQID\n",
    "a separator at the end": b"4a\x1e",
    "a ping": b"2",
    "an open packet": b"0{}",
    "an upgrade packet": b"5",
}
"""Bodies of version 4 that end their session."""

PAYLOADS_3 = {
    "empty": b"",
    "no length": b"4hello",
    "too long": b"7:4hello",
    "too short": b"5:4hello",
    "a length below 0": b"-1:4",
    "a length of 5,000 digits": b"9" * 5000 + b":4",
    "half a character": "2:4\U0001f600".encode(),
    "a length of 0": b"0:",
    "a pong": b"1:3",
    "version 4's": b"4a\x1e4b",
}
BINARY_3 = {
    "a kind that is none": b"\2\1\xff4",
    "digits as text": b"\x001\xff4",
    "no end of the length": b"\0\1\1\1\1\1\1\1\1\1\1\1\1",
    "too long": b"\0\7\xff4hello",
    "no type": b"\1\0\xff",
    "a type that is none": b"\1\2\xff\x09a",
    "invalid UTF-8": b"\0\2\xff4\xff",
}
MESSAGES = {
    "empty": b"",
    "no type": b"hello",
    "an unknown type": b"7",
    "a ping": b"2",
    "an open packet": b"0{}",
    "an upgrade packet": b"5",
    "base64 that is none": b"b!!!!",
}
"""Texts over a WebSocket of version 4 that end their session."""


class MalformedTests(EngineTestCase):
    """What is malformed ends its connection, and nobody else notices: there is no error in the log."""

    settings = {"ping_interval": 25, "ping_timeout": 20}

    def setUp(self) -> None:
        super().setUp()
        self.bystander = self.websocket()

    def check_bystander(self, name: str) -> None:
        self.bystander.send(name.encode().join((b"4", b"")))
        self.assertEqual(b"4" + name.encode(), self.bystander.messages[-1])
        self.assertEqual(1, len([one for one in self.engine.connections if not one.is_closed]), name)

    def check_payloads(self, payloads: dict[str, bytes], *headers: bytes, version: str = "4") -> None:
        for name, body in payloads.items():
            sid = self.open_polling(EIO=version)
            self.post(sid, body, *headers, EIO=version)
            self.assertIsNotNone(self.echoes[-1].reason, name)
            self.assertEqual(400, self.poll(sid, EIO=version).said.status, name)
            self.check_bystander(name)

    def test_payloads(self) -> None:
        """Payloads of version 4."""
        self.check_payloads(PAYLOADS)
        self.check_payloads({"binary": b"\0\1\xff4"}, b"Content-Type: application/octet-stream")

    def test_payloads_of_version_3(self) -> None:
        """Payloads of version 3, in text and in binary."""
        self.check_payloads(PAYLOADS_3, version="3")
        self.check_payloads(BINARY_3, b"Content-Type: application/octet-stream", version="3")

    def test_forms(self) -> None:
        """Forms of JSONP."""
        for name, body in {"no field": b"4a", "two fields": b"d=4a&d=4b", "another": b"e=4a", "none": b""}.items():
            sid = self.open_polling(j="0")
            self.assertEqual(400, self.post(sid, body, j="0").status, name)
            self.check_bystander(name)

    def test_messages(self) -> None:
        """Texts over a WebSocket."""
        for name, text in MESSAGES.items():
            socket = self.websocket()
            socket.send(text)
            self.assertIsNotNone(socket.close_code, name)
            self.assertIsNotNone(self.echoes[-1].reason, name)
            self.check_bystander(name)

    def test_binary_messages_of_version_3(self) -> None:
        """Binary messages of version 3 without a type, or with one that is none."""
        for data in (b"", b"\x07a", b"4a"):
            socket = self.websocket(EIO="3")
            socket.send(data, opcode=BINARY)
            self.assertEqual(1002, socket.close_code, data)
            self.check_bystander("version 3")

    def test_invalid_utf8(self) -> None:
        """A text that is no UTF-8 fails the WebSocket (RFC 6455, section 8.1)."""
        socket = self.websocket()
        socket.send(b"4\xff")
        self.assertEqual((1007, "transport close"), (socket.close_code, self.echoes[-1].reason))

    def test_too_large(self) -> None:
        """A message or a body over the limit is refused."""
        socket = self.websocket()
        socket.send(b"4" + b"a" * 60_000)
        self.assertEqual(1009, socket.close_code)
        sid = self.open_polling()
        self.assertEqual(413, self.post(sid, b"4" + b"a" * 60_000).status)

    def test_session_ids(self) -> None:
        """A sid that was never given, given twice or no text belongs to no session."""
        sid = self.open_polling()
        for query in (
            b"sid=" + b"a" * 20,
            b"sid=%ff",
            b"sid=a&sid=b",
            b"sid=" + sid.encode() + b"&sid=b",
            b"sid=__proto__",
        ):
            said = self.ask_for(self.path() + b"&" + query).said
            self.assertEqual((400, 1), (said.status, json.loads(said.body)["code"]), query)

    def test_broken_handshakes(self) -> None:
        """A WebSocket's request that is none is refused as a bad request."""
        for headers in ((), (b"Upgrade: websocket",), (b"Upgrade: websocket", b"Connection: Upgrade")):
            said = self.ask_for(self.path("websocket"), *headers).said
            self.assertEqual((400, 3), (said.status, json.loads(said.body)["code"]), headers)


class HandshakeTests(EngineTestCase):
    """What an application is told of the request that opened a connection."""

    def test_handshake(self) -> None:
        """The query and a few headers; no cookies, and credentials apart."""
        headers = (b"Cookie: a=secret", b"Authorization: Bearer secret", b"User-Agent: Test", b"X-Other: 1")
        self.ask_for(self.path(name="Ann%20%C3%A9"), *headers)
        connection = self.echoes[0].connection
        handshake = connection.handshake
        self.assertEqual({"host": "localhost", "user-agent": "Test"}, dict(handshake.headers))
        self.assertEqual({"EIO": "4", "transport": "polling", "name": "Ann é"}, dict(handshake.query))
        self.assertEqual((b"Bearer secret", False), (connection.authorization, handshake.secure))
        self.assertNotIn("secret", repr(handshake))

    def test_paths(self) -> None:
        """It is at its path with and without a slash, and nowhere below."""
        for path, status in ((b"/engine.io", 200), (b"/engine.io/", 200), (b"/engine.io/a", 404)):
            said = self.ask_for(path + b"?EIO=4&transport=polling").said
            self.assertEqual(status, said.status, path)


class OriginTests(EngineTestCase):
    """Pages of other origins."""

    version = 3
    origin = b"Origin: https://other.example"
    credentials = "access-control-allow-credentials"

    def test_credentials(self) -> None:
        """Browsers of version 3 send credentials, so a listed origin is allowed to; with version 4 it isn't."""
        for version, allowed in (("3", "true"), ("4", None)):
            for path in (self.path(EIO=version), self.path(EIO=version, sid="unknown")):
                headers = self.ask_for(path, self.origin).said.headers
                self.assertEqual("https://other.example", headers["access-control-allow-origin"])
                self.assertEqual(allowed, headers.get(self.credentials), path)

    def test_preflight(self) -> None:
        """So do their preflights, at this path alone."""
        ask = b"Access-Control-Request-Method: POST"
        for path, allowed in ((self.path(), "true"), (self.path(EIO="4"), None), (b"/?EIO=3", None)):
            said = self.ask_for(path, self.origin, ask, method=b"OPTIONS").said
            self.assertEqual((204, allowed), (said.status, said.headers.get(self.credentials)), path)

    def test_own_pages(self) -> None:
        """A page of the same origin needs nothing."""
        self.assertNotIn(self.credentials, self.ask_for(self.path(), b"Origin: http://localhost").said.headers)

    def test_unlisted(self) -> None:
        """A page of an origin that isn't listed opens nothing."""
        for transport in ("polling", "websocket"):
            asked = self.ask_for(self.path(transport), b"Origin: https://evil.example")
            self.assertEqual(403, asked.said.status)
        self.assertEqual(403, self.ask_for(self.path(), b"Sec-Fetch-Site: cross-site").said.status)
        self.assertEqual(200, self.ask_for(self.path(j="0"), b"Sec-Fetch-Site: cross-site").said.status)
        self.assertEqual(1, len(self.engine.connections))


class Version4AloneTests(EngineTestCase):
    """Where version 3 is off, as it is by default."""

    settings = {"eio3": False}

    def test_refused(self) -> None:
        """A client of version 3 is refused by its code, and gets no credentials."""
        said = self.ask_for(self.path(EIO="3"), OriginTests.origin).said
        self.assertEqual((400, 5), (said.status, json.loads(said.body)["code"]))
        self.assertNotIn(OriginTests.credentials, said.headers)


class LimitTests(EngineTestCase):
    """How many connections there may be."""

    settings = {"max_connections": 3, "ping_interval": 25, "ping_timeout": 20}

    def test_connections(self) -> None:
        """Sessions that poll count, though they have no TCP connection; one more is refused for a while."""
        sids = [self.open_polling() for _ in range(2)]
        self.websocket()
        said = self.ask_for(self.path()).said
        self.assertEqual((429, "too_many"), (said.status, said.code))
        self.assertIn(b"HTTP/1.1 429 ", self.websocket().head)
        self.post(sids[0], b"1")
        self.assertEqual(200, self.ask_for(self.path()).said.status)

    def test_stopping(self) -> None:
        """When the daemon stops, polls are answered, WebSockets closed, and nothing is opened any more."""
        waiting = self.poll(self.open_polling())
        socket: FakeSocket = self.websocket()
        self.hub.stop()
        self.assertEqual((b"1", 1001), (waiting.body, socket.close_code))
        self.assertEqual({"server shutting down"}, {echo.reason for echo in self.echoes})
        self.assertEqual(("stopping", 0), (self.ask_for(self.path()).said.code, len(self.engine.connections)))


class AddressLimitTests(EngineTestCase):
    """How many connections and polls an address may have."""

    settings = {"ping_interval": 25, "ping_timeout": 20}
    rates = RateLimits(address=ScopeLimits(connections=2, polls=1, connects=Rate(0.001, 5)))

    def test_connections(self) -> None:
        """A session that polls counts as a connection of its address, until it is closed or has a WebSocket."""
        sids = [self.open_polling() for _ in range(2)]
        refused = self.ask_for(self.path()).said
        self.assertEqual((429, "too_many"), (refused.status, refused.code))
        self.post(sids[0], b"1")
        self.websocket(sids[1]).send(b"2probe", b"5")
        for _ in range(2):
            self.open_polling()
        refused = self.ask_for(self.path()).said
        self.assertEqual((429, "rate_limited"), (refused.status, refused.code))
        self.assertIn("retry-after", refused.headers)

    def test_polls(self) -> None:
        """A poll that waits counts, and one more is refused, which ends no session."""
        sids = [self.open_polling() for _ in range(2)]
        waiting, refused = self.poll(sids[0]), self.poll(sids[1])
        self.assertEqual((False, 429), (waiting.is_answered, refused.said.status))
        self.echoes[0].connection.send(PreparedMessage([b"a"]))
        self.assertFalse(self.poll(sids[1]).is_answered)
        self.assertEqual([None, None], [echo.reason for echo in self.echoes])

    def test_errors(self) -> None:
        """Refused requests are charged to their address, and refused in another way when it has nothing left."""
        self.site.limiter = self.hub.limiter
        self.hub.limiter.replace(RateLimits(address=ScopeLimits(commands=Rate(0.001, 2))))
        statuses = [self.poll("unknown").said.status for _ in range(3)]
        self.assertEqual([400, 400, 429], statuses)

    def test_nothing_is_left(self) -> None:
        """What was counted for an address is counted no more when its sessions are over."""
        sids = [self.open_polling() for _ in range(2)]
        self.poll(sids[0]).cancel()
        self.websocket(sids[1]).send(b"2probe", b"5", b"1")
        usage = self.hub.limiter.address("192.168.1.1")
        self.assertEqual((0, 0), (usage.connections, usage.polls))


class MetricTests(EngineTestCase):
    """What is counted."""

    settings = {"ping_interval": 25, "ping_timeout": 20}

    def test_counters(self) -> None:
        """Open connections by transport and version, closes by reason, refusals by code, upgrades by outcome."""
        counters = self.hub.counters
        sid, other = self.open_polling(), self.open_polling(EIO="3")
        self.websocket()
        counted = {("polling", "4"): 1, ("polling", "3"): 1, ("websocket", "4"): 1}
        self.assertEqual(counted, counters.engineio_connections)
        self.websocket(sid).send(b"2probe", b"5")
        self.post(other, b"1:1", EIO="3")
        self.poll("unknown")
        self.assertEqual({("websocket", "4"): 2}, +counters.engineio_connections)
        self.assertEqual({"transport close": 1}, counters.engineio_closed)
        self.assertEqual(({"1": 1}, {"upgraded": 1}), (counters.engineio_refused, counters.engineio_upgrades))


class GarbageTests(EngineTestCase):
    """What is left of a connection."""

    settings = {"ping_interval": 25, "ping_timeout": 20}

    def test_no_cycles(self) -> None:
        """A connection that is over needs no garbage collector, however it was reached and ended."""
        for name, end in {
            "a poll that breaks off": lambda sid: self.poll(sid).cancel(),
            "the client's close": lambda sid: self.post(sid, b"1"),
            "a bad body": lambda sid: self.post(sid, b"x"),
            "the server's close": lambda sid: self.echoes[0].connection.close(),
            "an upgrade": lambda sid: self.websocket(sid).send(b"2probe", b"5", b"1"),
            "a WebSocket": lambda sid: self.websocket().transport.lose(),
        }.items():
            gc.collect()
            gc.disable()
            self.addCleanup(gc.enable)
            end(self.open_polling())
            connections = [weakref.ref(echo.connection) for echo in self.echoes]
            self.end_all()
            self.assertEqual([None] * len(connections), [one() for one in connections], name)

    def end_all(self) -> None:
        for connection in self.engine.connections:
            connection.close()
        self.echoes.clear()
        for transport in self.transports:
            transport.lose()
        self.transports.clear()
        self.wait(3)
