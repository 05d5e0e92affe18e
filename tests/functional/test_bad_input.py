"""A table of bad input against a real daemon: each gets the documented error, and nobody else notices anything."""

from __future__ import annotations

import json
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.clients import Client, EventClient, PollClient, SocketClient, Watched
from tests.deadlines import DEADLINE, TEST_TIMEOUT, Stopwatch
from tests.functional.daemon import Daemon

EVIL = "EVIL-MARKER<script>"
"""Stands in many of the inputs, and must not stand in a log."""

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
SMUGGLED = b"GET /rooms/smuggled/messages HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
AT_ONCE = 12
"""How many rows are tried at the same time."""

Outcome = tuple[Any, ...]


class Peer(Watched, Protocol):
    """The other side of one connection: sends any bytes and keeps what comes."""

    reactor = reactor

    def __init__(self) -> None:
        super().__init__()
        self.received = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.notice()

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True
        self.notice()

    def hang_up(self) -> None:
        """Cut the connection."""
        if not self.lost:
            self.transport.abortConnection()


# Reading what the daemon answers


def responses(data: bytes) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """The complete HTTP responses in ``data``: status, headers and body."""
    found = []
    while b"\r\n\r\n" in data:
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        length = int(headers.get(b"content-length", b"0"))
        if len(rest) < length:
            break
        found.append((int(first.split()[1]), headers, rest[:length]))
        data = rest[length:]
    return found


def word(headers: dict[bytes, bytes], body: bytes) -> str:
    """What a response says in one word: its error code, else the type of its first event, else its own."""
    if headers.get(b"content-type", b"").startswith(b"application/javascript"):
        match = re.fullmatch(rb"/\*\*/[\w.$]+\((.*)\);", body, re.DOTALL)
        assert match is not None, body
        body = match[1]
    value = json.loads(body) if body else {}
    first = value[0] if isinstance(value, list) else (value.get("events") or [value])[0]
    return str(first.get("code") or first.get("type") or "")


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The complete WebSocket frames that a server sent: opcode and payload."""
    data = data.partition(b"\r\n\r\n")[2]
    while len(data) >= 2:
        size, start = data[1] & 127, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            return
        yield data[0] & 15, data[start : start + size]
        data = data[start + size :]


# Rows


@attrs.frozen
class Row:
    """One bad input.

    :ivar expected: what must come of it.
    :ivar scripts: whether it goes to the daemon that allows JSONP.
    """

    name: str
    send: bytes
    expected: Outcome
    scripts: bool = False

    async def run(self, peer: Peer) -> Outcome:
        """Send it, and give what came of it."""
        raise NotImplementedError


@attrs.frozen
class Http(Row):
    """Bytes on a new connection; expected are the status and the word of the one answer.

    An answer that says that the connection closes must be the last one on it.
    """

    async def run(self, peer: Peer) -> Outcome:
        peer.transport.write(self.send)
        await peer.until(lambda: peer.lost or responses(peer.received))
        if not peer.received:
            return ("closed",)
        status, headers, body = responses(peer.received)[0]
        if headers.get(b"connection") == b"close":
            await peer.until(lambda: peer.lost)
        if not peer.received.endswith(b"\r\n\r\n" + body):
            return ("more than one answer",)
        if status >= 400 and headers.get(b"x-content-type-options") != b"nosniff":
            return ("without nosniff",)
        return status, word(headers, body)


@attrs.frozen
class Slow(Http):
    """The same, a byte every half second."""

    async def run(self, peer: Peer) -> Outcome:
        outcome = Deferred.fromCoroutine(Http.run(attrs.evolve(self, send=b""), peer))
        for byte in self.send:
            if outcome.called or peer.lost:
                break
            peer.transport.write(bytes((byte,)))
            await deferLater(reactor, 0.5)
        return await outcome


@attrs.frozen
class Flood(Row):
    """A stream, and more behind it than anybody reads: it is cut, and nothing of that was answered."""

    async def run(self, peer: Peer) -> Outcome:
        peer.transport.write(self.send)
        await peer.until(lambda: peer.lost)
        return ("closed",) if peer.received.count(b"HTTP/1.1 ") <= 1 else ("answered",)


@attrs.frozen
class Socket(Row):
    """Frames on a new WebSocket; expected is either the code of the first error event, after which a ping is still
    answered, or the close code, after which the connection ends though its client never answers the close."""

    path: str = "/ws"

    async def run(self, peer: Peer) -> Outcome:
        peer.transport.write(upgrade(self.path))
        await peer.until(lambda: b"\r\n\r\n" in peer.received)
        peer.transport.write(self.send)
        if isinstance(self.expected[0], int):
            await peer.until(lambda: peer.lost or closes(peer))
            await peer.until(lambda: peer.lost)
            if not closes(peer):
                return ("closed without a code",)
            return (closes(peer)[0],)
        await peer.until(lambda: peer.lost or errors(peer))
        peer.transport.write(masked(TEXT, b'{"type":"ping","id":"after"}'))
        await peer.until(lambda: peer.lost or {"type": "pong", "id": "after"} in events(peer))
        return (errors(peer)[0],) if not peer.lost else ("closed", closes(peer))


def events(peer: Peer) -> list[dict[str, Any]]:
    """The replies and events that came."""
    return [json.loads(payload) for opcode, payload in frames(peer.received) if opcode == TEXT]


def errors(peer: Peer) -> list[str]:
    """The codes of the errors among them."""
    return [event["code"] for event in events(peer) if event["type"] == "error"]


def closes(peer: Peer) -> list[int]:
    """The code of the close frame, if it came."""
    return [int.from_bytes(payload[:2], "big") for opcode, payload in frames(peer.received) if opcode == CLOSE]


# Making requests and frames


def request(first: str, *headers: str, body: bytes = b"") -> bytes:
    """A request with the right Host, and just the headers and the body given."""
    return "\r\n".join([first, "Host: 127.0.0.1", *headers, "", ""]).encode("latin-1") + body


def get(target: str, *headers: str) -> bytes:
    return request(f"GET {target} HTTP/1.1", *headers)


def post(target: str, body: bytes | str, *headers: str, kind: str = "application/json") -> bytes:
    body = body.encode() if isinstance(body, str) else body
    lines = (f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers)
    return request(f"POST {target} HTTP/1.1", *lines, body=body)


def command(**fields: Any) -> bytes:
    """A command sent by POST."""
    return post("/commands", json.dumps(fields))


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def upgrade(path: str = "/ws", *headers: str, without: str = "", method: str = "GET") -> bytes:
    lines = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ]
    kept = [line for line in lines if not without or not line.startswith(without)]
    return request(f"{method} {path} HTTP/1.1", *kept, *headers)


def masked(opcode: int, payload: bytes | str, fin: bool = True, reserved: int = 0) -> bytes:
    """A client's frame (RFC 6455, section 5.2), with a mask of zeros."""
    payload = payload.encode() if isinstance(payload, str) else payload
    size = len(payload)
    head = bytes((opcode | (0x80 if fin else 0) | reserved,))
    if size < 126:
        return head + bytes((0x80 | size,)) + bytes(4) + payload
    if size < 65536:
        return head + struct.pack("!BH", 0x80 | 126, size) + bytes(4) + payload
    return head + struct.pack("!BQ", 0x80 | 127, size) + bytes(4) + payload


def told(**fields: Any) -> bytes:
    """A command in a frame."""
    return masked(TEXT, json.dumps(fields))


def closing(code: int) -> bytes:
    return masked(CLOSE, code.to_bytes(2, "big"))


# The table

PUBLISH = '{"type":"publish","room":"lobby","id":7,"data":%s}'
DEEP_32 = "[" * 32 + "]" * 32
DEEP_10000 = "[" * 10_000 + "]" * 10_000
LONG = "x" * 70_000


def is_utf8(data: bytes) -> bool:
    """Whether a text frame may hold these bytes; over HTTP they are refused like any other body."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


BAD_JSON: list[tuple[str, bytes, str]] = [
    # name, what is sent, error code: over HTTP and over WebSocket alike
    ("broken JSON", b'{"type":"publish","room":"lobby","data":"%b' % EVIL.encode(), "bad_request"),
    ("no JSON at all", EVIL.encode(), "bad_request"),
    ("nothing", b"", "bad_request"),
    ("two values", b'{"type":"ping"}{"type":"ping"}', "bad_request"),
    ("a string", b'"%b"' % EVIL.encode(), "bad_request"),
    ("null", b"null", "bad_request"),
    ("no type", b'{"room":"lobby"}', "bad_request"),
    ("a type that is a number", b'{"type":5}', "bad_request"),
    ("an unknown command", b'{"type":"%b"}' % EVIL.encode(), "unknown_command"),
    ("a signal to a room that isn't read", b'{"type":"signal","room":"lobby","event":"e","data":1}', "not_joined"),
    ("publish without data", b'{"type":"publish","room":"lobby"}', "bad_request"),
    ("publish without a room", b'{"type":"publish","data":1}', "bad_request"),
    ("a room that is a number", b'{"type":"join","room":7}', "bad_request"),
    ("last that is a string", b'{"type":"join","room":"lobby","last":"9"}', "bad_request"),
    ("last below 0", b'{"type":"join","room":"lobby","last":-1}', "bad_request"),
    ("a limit with a fraction", b'{"type":"history","room":"lobby","limit":1.5}', "bad_request"),
    ("an id that is an object", b'{"type":"ping","id":{}}', "bad_request"),
    ("an id of 65 characters", b'{"type":"ping","id":"%b"}' % (b"x" * 65), "bad_request"),
    ("a name of 65 characters", b'{"type":"hello","name":"%b"}' % (b"x" * 65), "bad_request"),
    ("a name of 60,000 characters", b'{"type":"hello","name":"%b"}' % (b"x" * 60_000), "bad_request"),
    ("a name of spaces", b'{"type":"hello","name":"   "}', "bad_request"),
    ("a name with a line break", b'{"type":"hello","name":"a\\nb"}', "bad_request"),
    ("an empty room", b'{"type":"join","room":""}', "bad_room"),
    ("a room of 129 characters", b'{"type":"join","room":"%b"}' % (b"x" * 129), "bad_room"),
    ("a room with markup", b'{"type":"join","room":"%b"}' % EVIL.encode(), "bad_room"),
    ("the room ..", b'{"type":"join","room":".."}', "bad_room"),
    ("a room that isn't ASCII", '{"type":"join","room":"löbby"}'.encode(), "bad_room"),
    ("a room with a NUL", b'{"type":"join","room":"a\\u0000b"}', "bad_room"),
    ("somebody's private room", b'{"type":"join","room":"@somebody"}', "forbidden"),
    ("set without a name", b'{"type":"set","room":"lobby","data":1}', "bad_request"),
    ("a property of the server's own", b'{"type":"set","room":"lobby","name":"$a","data":1}', "bad_request"),
    (
        "a property in the log of properties",
        b'{"type":"set","room":"lobby/properties","name":"a","data":1}',
        "bad_room",
    ),
    ("a property of 17 KiB", b'{"type":"set","room":"lobby","name":"a","data":"%b"}' % (b"x" * 17408), "too_large"),
    ("a removal that looks deep", b'{"type":"set","room":"lobby","name":"$%b"}' % (b"[" * 99), "bad_request"),
    ("properties at no position", b'{"type":"join","room":"lobby","properties":"x"}', "bad_position"),
    ("properties of a number", b'{"type":"join","room":"lobby","properties":1}', "bad_request"),
    ("an empty key", b'{"type":"publish","room":"lobby","data":1,"key":""}', "bad_request"),
    ("a key of 129 characters", b'{"type":"publish","room":"lobby","data":1,"key":"%b"}' % (b"k" * 129), "bad_request"),
    ("an event of the server's own", b'{"type":"publish","room":"lobby","data":1,"event":"$deleted"}', "bad_request"),
    ("an empty event", b'{"type":"publish","room":"lobby","data":1,"event":""}', "bad_request"),
    ("an overlong encoding", PUBLISH.encode() % b'"\xc0\xaf"', "bad_request"),
    ("bytes that are no UTF-8", PUBLISH.encode() % b'"\xff\xfe"', "bad_request"),
    ("a surrogate in UTF-8", PUBLISH.encode() % b'"\xed\xa0\x80"', "bad_request"),
    ("a lone surrogate", PUBLISH.encode() % b'"\\ud800"', "bad_request"),
    ("surrogates the wrong way round", PUBLISH.encode() % b'"\\udc00\\ud800"', "bad_request"),
    ("a lone surrogate as a name", PUBLISH.encode() % b'{"\\ud800":1}', "bad_request"),
    ("NaN", PUBLISH.encode() % b"NaN", "bad_request"),
    ("Infinity", PUBLISH.encode() % b"Infinity", "bad_request"),
    ("-Infinity", PUBLISH.encode() % b"-Infinity", "bad_request"),
    ("1e999", PUBLISH.encode() % b"1e999", "bad_request"),
    ("an integer of 400 digits", PUBLISH.encode() % (b"9" * 400), "bad_request"),
    ("an integer of 5,000 digits", PUBLISH.encode() % (b"9" * 5000), "bad_request"),
    ("depth 33", (PUBLISH % DEEP_32).encode(), "bad_request"),
    ("depth 10,000", (PUBLISH % DEEP_10000).encode(), "bad_request"),
    ("30,000 brackets that never close", b"[" * 30_000, "bad_request"),
    ("a position that is none", b'{"type":"join","room":"lobby","since":"%b"}' % EVIL.encode(), "bad_position"),
    ("before of another log", b'{"type":"history","room":"lobby","before":"elsewhere:3"}', "bad_position"),
    ("since and before", b'{"type":"history","room":"lobby","before":"a:3","since":"a:1"}', "bad_request"),
    ("version 2", b'{"type":"hello","v":2}', "bad_request"),
    ("a made-up token", b'{"type":"hello","token":"%b"}' % EVIL.encode(), "unauthorized"),
    ("a signal of the server's own", b'{"type":"signal","room":"lobby","event":"$e","data":1}', "bad_request"),
    ("a signal without data", b'{"type":"signal","room":"lobby","event":"e"}', "bad_request"),
    ("a state that is an array", b'{"type":"state","state":[]}', "bad_request"),
    ("a state of 2,000 bytes", b'{"type":"state","state":{"a":"%b"}}' % (b"x" * 2000), "too_large"),
    ("members of a room that can't be", b'{"type":"members","room":"%b"}' % EVIL.encode(), "bad_room"),
    ("members after a number", b'{"type":"members","room":"lobby","after":5}', "bad_request"),
    ("leaving what wasn't joined", b'{"type":"leave","room":"lobby"}', "not_joined"),
]

STATUS = {"forbidden": 403, "unauthorized": 401, "too_large": 413}

COMMANDS = [Http(name, post("/commands", sent), (STATUS.get(code, 400), code)) for name, sent, code in BAD_JSON]

HTTP = [
    # Commands and publishing
    Http("101 commands", post("/commands", json.dumps([{"type": "ping"}] * 101)), (400, "bad_request")),
    Http("an array of rubbish", post("/commands", b'[1,"x",null,[]]'), (200, "bad_request")),
    Http("JSON as XML", post("/commands", b"{}", kind="application/xml"), (415, "unsupported_media")),
    Http(
        "commands as a form",
        post("/commands", b"a=b", kind="application/x-www-form-urlencoded"),
        (415, "unsupported_media"),
    ),
    Http(
        "a made-up client", post("/commands", b'{"type":"ping"}', "Realtime-Client: " + "A" * 32), (401, "unauthorized")
    ),
    Http(
        "a client with markup", post("/commands", b'{"type":"ping"}', f"Realtime-Client: {EVIL}"), (401, "unauthorized")
    ),
    Http(
        "a client that isn't ASCII",
        post("/commands", b'{"type":"ping"}', "Realtime-Client: \xff\xfe"),
        (401, "unauthorized"),
    ),
    Http("commands by GET", get("/commands?commands=[]"), (403, "forbidden")),
    Http("publish without data by JSON", post("/rooms/lobby/messages", b'{"event":"e"}'), (400, "bad_request")),
    Http("publish an array", post("/rooms/lobby/messages", b"[1]"), (400, "bad_request")),
    Http("publish depth 33", post("/rooms/lobby/messages", f'{{"data":{DEEP_32}}}'), (400, "bad_request")),
    Http("publish a lone surrogate", post("/rooms/lobby/messages", b'{"data":"\\udfff"}'), (400, "bad_request")),
    Http("publish 1e999", post("/rooms/lobby/messages", b'{"data":1e999}'), (400, "bad_request")),
    Http("an event that is a number", post("/rooms/lobby/messages", b'{"data":1,"event":5}'), (400, "bad_request")),
    Http("a key that is an array", post("/rooms/lobby/messages", b'{"data":1,"key":[]}'), (400, "bad_request")),
    Http(
        "a form without text",
        post("/rooms/lobby/messages", b"txt=1", kind="application/x-www-form-urlencoded"),
        (400, "bad_request"),
    ),
    Http(
        "a form that isn't UTF-8",
        post("/rooms/lobby/messages", b"text=\xff", kind="application/x-www-form-urlencoded"),
        (400, "bad_request"),
    ),
    Http(
        "a form of escapes that aren't UTF-8",
        post("/rooms/lobby/messages", b"text=%ff%fe", kind="application/x-www-form-urlencoded"),
        (400, "bad_request"),
    ),
    Http(
        "a form of 1,000 fields",
        post("/rooms/lobby/messages", b"a=&" * 1000 + b"text=1", kind="application/x-www-form-urlencoded"),
        (400, "bad_request"),
    ),
    Http(
        "a form in parts",
        post("/rooms/lobby/messages", b"--x--", kind="multipart/form-data; boundary=x"),
        (415, "unsupported_media"),
    ),
    # Rooms in paths
    Http("the room .", get("/rooms/./messages"), (400, "bad_room")),
    Http("the room ..", get("/rooms/../messages"), (400, "bad_room")),
    Http("the room %2e%2e", get("/rooms/%2e%2e/messages"), (400, "bad_room")),
    Http("a slash, percent-encoded", get("/rooms/a%2fb/messages"), (400, "bad_room")),
    Http("a NUL, percent-encoded", get("/rooms/a%00b/messages"), (400, "bad_room")),
    Http("a line break, percent-encoded", get("/rooms/a%0d%0ab/messages"), (400, "bad_room")),
    Http("a room of 5,000 characters", get(f"/rooms/{'x' * 5000}/messages"), (400, "bad_room")),
    Http("a room of broken UTF-8", get("/rooms/%ff%fe/messages"), (400, "bad_room")),
    Http("publish in a room with markup", post(f"/rooms/{EVIL}/messages", b'{"data":1}'), (400, "bad_room")),
    Http("somebody's private room", get("/rooms/@somebody/messages"), (403, "forbidden")),
    Http("up and out", get("/../../../../etc/passwd"), (404, "not_found")),
    Http("nothing there", get(f"/{EVIL}"), (404, "not_found")),
    # Reading and polling
    Http("a limit that is no number", get(f"/rooms/lobby/messages?limit={EVIL}"), (400, "bad_request")),
    Http("a negative limit", get("/rooms/lobby/messages?limit=-1"), (400, "bad_request")),
    Http("a huge limit", get(f"/rooms/lobby/messages?limit={'9' * 5000}"), (200, "")),
    Http("a limit of other digits", get("/rooms/lobby/messages?limit=%D9%A3"), (400, "bad_request")),
    Http("last that is no number", get("/rooms/lobby/messages?last=1.5"), (400, "bad_request")),
    Http("since and before", get("/rooms/lobby/messages?since=a:1&before=a:2"), (400, "bad_request")),
    Http("before of another log", get("/rooms/lobby/messages?before=elsewhere:1"), (400, "bad_position")),
    Http("poll without a room", get("/poll"), (400, "bad_request")),
    Http("poll a room with markup", get(f"/poll?room={EVIL}"), (400, "bad_room")),
    Http("poll a room of broken UTF-8", get("/poll?room=%ff"), (400, "bad_request")),
    Http("poll 101 rooms", get("/poll?" + "&".join(f"room=r{number}" for number in range(101))), (429, "too_many")),
    Http("poll the same room twice", get("/poll?room=lobby&room=lobby"), (400, "bad_request")),
    Http("one since for two rooms", get("/poll?room=lobby&room=news&since=a:1"), (400, "bad_request")),
    Http("a since that is none", get(f"/poll?room=lobby&since={EVIL}"), (400, "bad_position")),
    Http("a since below 0", get("/poll?room=lobby&since=a:-1"), (400, "bad_position")),
    Http("a since of 400 digits", get(f"/poll?room=lobby&since=a:{'9' * 400}"), (400, "bad_position")),
    Http("a since of another log", get("/poll?room=lobby&since=elsewhere:1"), (200, "reset")),
    Http("a since of a log that is to come", get("/poll?room=empty&since=elsewhere:999999"), (200, "reset")),
    Http("poll a private room", get("/poll?room=@somebody"), (403, "forbidden")),
    Http("wait that is no number", get("/poll?room=lobby&wait=long"), (400, "bad_request")),
    Http("a negative wait", get("/poll?room=lobby&wait=-5"), (400, "bad_request")),
    Http("a huge wait", get(f"/poll?room=empty&wait={'9' * 5000}"), (200, "presence")),
    Http("wait twice", get("/poll?room=lobby&wait=1&wait=2"), (400, "bad_request")),
    Http("last that is no number, polling", get("/poll?room=lobby&last=all"), (400, "bad_request")),
    Http("a name of 65 characters, polling", get(f"/poll?room=lobby&name={'x' * 65}"), (400, "bad_request")),
    Http("a made-up client, polling", get("/poll?room=empty", "Realtime-Client: " + "A" * 32), (200, "presence")),
    # JSONP
    Http("callback while JSONP is off", get("/poll?room=lobby&callback=alert(1)//"), (403, "forbidden")),
    Http("callback=alert(1)//", get("/poll?room=lobby&callback=alert(1)//"), (400, "bad_request"), scripts=True),
    Http("a callback with markup", get(f"/poll?room=lobby&callback={EVIL}"), (400, "bad_request"), scripts=True),
    Http(
        "a callback of 65 characters", get(f"/poll?room=lobby&callback={'f' * 65}"), (400, "bad_request"), scripts=True
    ),
    Http("an empty callback", get("/poll?room=lobby&callback="), (400, "bad_request"), scripts=True),
    Http("two callbacks", get("/poll?room=lobby&callback=f&callback=g"), (400, "bad_request"), scripts=True),
    Http("a callback that isn't ASCII", get("/poll?room=lobby&callback=%C3%BC"), (400, "bad_request"), scripts=True),
    Http(
        "commands by GET without a client", get("/commands?callback=f&commands=[]"), (200, "unauthorized"), scripts=True
    ),
    Http(
        "commands by GET of a made-up client",
        get(f"/commands?callback=f&client={'A' * 32}&commands=[]"),
        (200, "unauthorized"),
        scripts=True,
    ),
    Http("no commands by GET", get(f"/commands?callback=f&client={'A' * 32}"), (200, "bad_request"), scripts=True),
    # Hosts and origins
    Http("no Host", b"GET /healthz HTTP/1.1\r\n\r\n", (400, "bad_request")),
    Http("two Hosts", get("/healthz", "Host: 127.0.0.1"), (400, "bad_request")),
    Http("an unknown Host", b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", (421, "unknown_host")),
    Http("a Host that is none", f"GET /healthz HTTP/1.1\r\nHost: {EVIL}\r\n\r\n".encode(), (400, "bad_request")),
    Http("an empty Host", b"GET /healthz HTTP/1.1\r\nHost:\r\n\r\n", (400, "bad_request")),
    Http("a Host with a user", b"GET /healthz HTTP/1.1\r\nHost: a@127.0.0.1\r\n\r\n", (400, "bad_request")),
    Http("a Host with a great port", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:99999\r\n\r\n", (400, "bad_request")),
    Http("another host in the target", get("http://evil.example/healthz"), (421, "unknown_host")),
    Http("the origin null", get("/poll?room=lobby", "Origin: null"), (403, "bad_origin")),
    Http("a look-alike origin", get("/poll?room=lobby", "Origin: http://127.0.0.1.evil.example"), (403, "bad_origin")),
    Http("an origin on another port", get("/poll?room=lobby", "Origin: http://127.0.0.1:81"), (403, "bad_origin")),
    Http("an origin with markup", get("/poll?room=lobby", f"Origin: {EVIL}"), (403, "bad_origin")),
    Http(
        "two Origins",
        get("/poll?room=lobby", "Origin: http://127.0.0.1", "Origin: http://127.0.0.1"),
        (403, "bad_origin"),
    ),
    Http(
        "a listed and another origin in one",
        get("/healthz", "Origin: http://127.0.0.1, http://evil.example"),
        (403, "bad_origin"),
    ),
    Http(
        "a foreign page that publishes", post("/commands", b"{}", "Origin: https://evil.example"), (403, "bad_origin")
    ),
    Http(
        "a preflight of an unlisted origin",
        request("OPTIONS /commands HTTP/1.1", "Origin: https://evil.example", "Access-Control-Request-Method: POST"),
        (403, "bad_origin"),
    ),
    Http("a WebSocket of a foreign page", upgrade("/ws", "Origin: https://evil.example"), (403, "bad_origin")),
    Http("a WebSocket of the origin null", upgrade("/ws", "Origin: null"), (403, "bad_origin")),
    # Methods and request lines
    Http("an unknown method", request("BREW /poll HTTP/1.1"), (405, "method_not_allowed")),
    Http("a method with markup", request(f"{EVIL} /poll HTTP/1.1"), (400, "bad_request")),
    Http(
        "PUT a message", request("PUT /rooms/lobby/messages HTTP/1.1", "Content-Length: 0"), (405, "method_not_allowed")
    ),
    Http("DELETE a room", request("DELETE /rooms/lobby/messages HTTP/1.1"), (405, "method_not_allowed")),
    Http("CONNECT", request("CONNECT 127.0.0.1:22 HTTP/1.1"), (400, "bad_request")),
    Http("TRACE", request("TRACE /poll HTTP/1.1"), (405, "method_not_allowed")),
    Http("HTTP/0.9", b"GET /poll\r\n\r\n", (400, "bad_request")),
    Http("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, "bad_request")),
    Http("HTTP/9.9", b"GET /healthz HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n", (400, "bad_request")),
    Http("no request", EVIL.encode() + b"\r\n\r\n", (400, "bad_request")),
    Http("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x8a" * 40 + b"\r\n\r\n", (400, "bad_request")),
    Http("NULs", bytes(100) + b"\r\n\r\n", (400, "bad_request")),
    Http(
        "a target that isn't ASCII",
        b"GET /poll?room=\xff\xfe HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        (400, "bad_request"),
    ),
    Http("a target without a slash", get("poll?room=lobby"), (400, "bad_request")),
    # Framing: one request must never be two
    Http(
        "a Content-Length of 5,000 digits",
        request("POST /commands HTTP/1.1", "Content-Length: " + "9" * 5000),
        (400, "bad_request"),
    ),
    Http(
        "a negative Content-Length",
        request("POST /commands HTTP/1.1", "Content-Length: -5", body=b"{}"),
        (400, "bad_request"),
    ),
    Http(
        "a Content-Length of +5",
        request("POST /commands HTTP/1.1", "Content-Length: +5", body=b"{}   "),
        (400, "bad_request"),
    ),
    Http(
        "a Content-Length of 0x5",
        request("POST /commands HTTP/1.1", "Content-Length: 0x5", body=b"{}   "),
        (400, "bad_request"),
    ),
    Http(
        "a Content-Length of 1_0",
        request("POST /commands HTTP/1.1", "Content-Length: 1_0", body=b" " * 10),
        (400, "bad_request"),
    ),
    Http(
        "an empty Content-Length",
        request("POST /commands HTTP/1.1", "Content-Length:", body=SMUGGLED),
        (400, "bad_request"),
    ),
    Http(
        "two Content-Lengths",
        request("POST /commands HTTP/1.1", "Content-Length: 0", "Content-Length: 60", body=SMUGGLED),
        (400, "bad_request"),
    ),
    Http(
        "two lengths in one",
        request("POST /commands HTTP/1.1", "Content-Length: 0, 60", body=SMUGGLED),
        (400, "bad_request"),
    ),
    Http(
        "Transfer-Encoding and Content-Length",
        request(
            "POST /commands HTTP/1.1", "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED
        ),
        (400, "bad_request"),
    ),
    Http(
        "Content-Length and Transfer-Encoding",
        request(
            "POST /commands HTTP/1.1", "Transfer-Encoding: chunked", "Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED
        ),
        (400, "bad_request"),
    ),
    Http(
        "Transfer-Encoding: chunked, identity",
        request("POST /commands HTTP/1.1", "Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n" + SMUGGLED),
        (400, "bad_request"),
    ),
    Http(
        "Transfer-Encoding: xchunked",
        request("POST /commands HTTP/1.1", "Transfer-Encoding: xchunked", body=b"0\r\n\r\n" + SMUGGLED),
        (400, "bad_request"),
    ),
    Http(
        "Transfer-Encoding: identity",
        request("POST /commands HTTP/1.1", "Transfer-Encoding: identity", body=SMUGGLED),
        (400, "bad_request"),
    ),
    Http(
        "two Transfer-Encodings",
        request(
            "POST /commands HTTP/1.1",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: chunked",
            body=b"0\r\n\r\n" + SMUGGLED,
        ),
        (400, "bad_request"),
    ),
    Http(
        "Transfer-Encoding in HTTP/1.0",
        request("POST /commands HTTP/1.0", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED),
        (400, "bad_request"),
    ),
    Http(
        "a space before the colon",
        request("POST /commands HTTP/1.1", "Transfer-Encoding : chunked", body=b"0\r\n\r\n" + SMUGGLED),
        (400, "bad_request"),
    ),
    Http(
        "a folded Transfer-Encoding",
        request("POST /commands HTTP/1.1", "Transfer-Encoding:", " chunked", body=b"0\r\n\r\n"),
        (400, "bad_request"),
    ),
    Http("a first header that is folded", b"GET /healthz HTTP/1.1\r\n Host: 127.0.0.1\r\n\r\n", (400, "bad_request")),
    Http("a bare CR in a header", get("/healthz", "X: a\rTransfer-Encoding: chunked"), (400, "bad_request")),
    Http("a bare LF in a header", get("/healthz", "X: a\nTransfer-Encoding: chunked"), (400, "bad_request")),
    Http("a NUL in a header", get("/healthz", "X: a\0b"), (400, "bad_request")),
    Http("a header without a colon", get("/healthz", EVIL), (400, "bad_request")),
    Http("a header without a name", get("/healthz", f": {EVIL}"), (400, "bad_request")),
    Http("bare LFs for line ends", b"GET /healthz HTTP/1.1\nHost: 127.0.0.1\n\r\n\r\n", (400, "bad_request")),
    Http(
        "chunk lengths that are none",
        request("POST /commands HTTP/1.1", "Transfer-Encoding: chunked", body=b"zz\r\n\r\n"),
        (400, "bad_request"),
    ),
    Http(
        "a negative chunk",
        request("POST /commands HTTP/1.1", "Transfer-Encoding: chunked", body=b"-5\r\nhello\r\n0\r\n\r\n"),
        (400, "bad_request"),
    ),
    Http(
        "a chunk length of 5,000 digits",
        request("POST /commands HTTP/1.1", "Transfer-Encoding: chunked", body=b"f" * 5000 + b"\r\n"),
        (400, "bad_request"),
    ),
    Http(
        "a chunk longer than it says",
        request("POST /commands HTTP/1.1", "Transfer-Encoding: chunked", body=b"2\r\nhello\r\n0\r\n\r\n"),
        (400, "bad_request"),
    ),
    # Sizes
    Http("101 headers", get("/healthz", *["X: y"] * 101), (431, "bad_request")),
    Http("100,000 bytes of headers", get("/healthz", f"X: {'y' * 100_000}"), (431, "bad_request")),
    Http("an address of 100,000 bytes", get("/" + "x" * 100_000), (431, "bad_request")),
    Http("100,000 bytes without a line end", b"x" * 100_000, (431, "bad_request")),
    Http("a body over the limit", post("/commands", PUBLISH % f'"{LONG}"'), (413, "too_large")),
    Http(
        "a length over the limit, without a body",
        request("POST /commands HTTP/1.1", "Content-Length: 999999999"),
        (413, "too_large"),
    ),
    Http(
        "a chunked body over the limit",
        request("POST /commands HTTP/1.1", "Transfer-Encoding: chunked", body=chunked(*[b"x" * 1000] * 100)),
        (413, "too_large"),
    ),
    Http(
        "Expect: 100-continue with a body over the limit",
        request("POST /commands HTTP/1.1", "Content-Length: 70000", "Expect: 100-continue"),
        (413, "too_large"),
    ),
    Http(
        "an upload of 8 MB",
        request("POST /commands HTTP/1.1", "Content-Length: 8000000", body=b"x" * 4_000_000),
        (413, "too_large"),
    ),
    # Event streams
    Http("a stream without a room", get("/sse"), (400, "bad_request")),
    Http("a stream of a room with markup", get(f"/sse?room={EVIL}"), (400, "bad_room")),
    Http("a stream of a private room", get("/sse?room=@somebody"), (403, "forbidden")),
    Http("a stream of a good and a private room", get("/sse?room=lobby&room=@somebody"), (403, "forbidden")),
    Http("101 rooms in a stream", get("/sse?" + "&".join(f"room=r{n}" for n in range(101))), (429, "too_many")),
    Http("the same room twice in a stream", get("/sse?room=lobby&room=lobby"), (400, "bad_request")),
    Http("one since for two rooms in a stream", get("/sse?room=a&room=b&since=a:1"), (400, "bad_request")),
    Http("a stream's since that is none", get(f"/sse?room=lobby&since={EVIL}"), (400, "bad_position")),
    Http("last that is no number, in a stream", get("/sse?room=lobby&last=all"), (400, "bad_request")),
    Http("a name with a line break", get("/sse?room=lobby&name=a%0Ab"), (400, "bad_request")),
    Http("an id that is none", get("/sse?room=lobby", f"Last-Event-ID: {EVIL}"), (400, "bad_position")),
    Http("an id that isn't ASCII", get("/sse?room=lobby", "Last-Event-ID: \xe4:1"), (400, "bad_position")),
    Http("an id of 400 digits", get("/sse?room=lobby", f"Last-Event-ID: a:{'9' * 400}"), (400, "bad_position")),
    Http("an id of another room", get("/sse?room=lobby", f"Last-Event-ID: {EVIL}=a:1"), (400, "bad_position")),
    Http("an id of commas", get("/sse?room=a&room=b", f"Last-Event-ID: {',' * 9000}"), (400, "bad_position")),
    Http("two ids", get("/sse?room=lobby", "Last-Event-ID: a:1", "Last-Event-ID: a:2"), (400, "bad_request")),
    Http("a stream for another origin", get("/sse?room=lobby", "Origin: http://evil.example"), (403, "bad_origin")),
    Http("POST /sse", post("/sse?room=lobby", "{}"), (405, "method_not_allowed")),
    Http("below /sse", get("/sse/lobby"), (404, "not_found")),
    Flood("a megabyte behind a stream's request", get("/sse?room=lobby") + b"x" * 1024 * 1024, ("closed",)),
    Flood("requests behind a stream's", get("/sse?room=lobby") + get("/healthz") * 3000, ("closed",)),
    # Upgrades
    Http("no upgrade", get("/ws"), (426, "upgrade_required")),
    Http("an upgrade to something else", get("/ws", "Upgrade: h2c", "Connection: Upgrade"), (426, "upgrade_required")),
    Http("an upgrade with a body", upgrade("/ws", "Content-Length: 5") + b"hello", (400, "bad_request")),
    Http(
        "an upgrade with a chunked body",
        upgrade("/ws", "Transfer-Encoding: chunked") + chunked(b"hello"),
        (400, "bad_request"),
    ),
    Http("two keys", upgrade("/ws", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), (400, "bad_request")),
    Http("POST /ws", upgrade("/ws", "Content-Length: 0", method="POST"), (405, "method_not_allowed")),
    Http("a WebSocket that joins no room", upgrade("/ws?room=a&room=b&since=a:1"), (400, "bad_request")),
    Http("a WebSocket with a wrong since", upgrade(f"/ws?room=a&since={EVIL}"), (400, "bad_position")),
    Http("an upgrade without a key", upgrade("/ws", without="Sec-WebSocket-Key"), (400, "bad_request")),
    Http(
        "a key that is none", upgrade("/ws", "Sec-WebSocket-Key: x", without="Sec-WebSocket-Key"), (400, "bad_request")
    ),
    Http("no version", upgrade("/ws", without="Sec-WebSocket-Version"), (426, "upgrade_required")),
    Http(
        "a wrong version",
        upgrade("/ws", "Sec-WebSocket-Version: 8", without="Sec-WebSocket-Version"),
        (426, "upgrade_required"),
    ),
    Http("an upgrade by HTTP/1.0", upgrade("/ws").replace(b"HTTP/1.1", b"HTTP/1.0"), (400, "bad_request")),
    Http("Connection without Upgrade", upgrade("/ws", without="Connection"), (400, "bad_request")),
]

SLOW = [
    Slow("slow headers", get("/healthz", "X: " + "y" * 200), (408, "bad_request")),
    Http("nothing at all", b"", ("closed",)),
]

SOCKET = [
    *(Socket(name, masked(TEXT, sent), (code if is_utf8(sent) else 1007,)) for name, sent, code in BAD_JSON),
    Socket("a skipped field that is no UTF-8", masked(TEXT, b'{"type":"ping","skipped":"\xff"}'), (1007,)),
    Socket("an array of commands", masked(TEXT, '[{"type":"ping"}]'), ("bad_request",)),
    Socket("a binary frame", masked(BINARY, '{"type":"ping"}'), ("bad_request",)),
    Socket("joining twice", told(type="join", room="lobby") * 2, ("already_joined",)),
    Socket("hello twice", told(type="hello", name="A") + told(type="hello", name="B"), ("forbidden",)),
    Socket("101 rooms", b"".join(told(type="join", room=f"r{number}") for number in range(101)), ("too_many",)),
    Socket("a bad room by URL", b"", ("bad_room",), path=f"/ws?room={EVIL}"),
    Socket("a private room by URL", b"", ("forbidden",), path="/ws?room=@somebody"),
    Socket(
        "other content under a key",
        told(type="publish", room="x", data=1, key="k") + told(type="publish", room="x", data=2, key="k"),
        ("key_reused",),
    ),
    Socket("a frame over the limit", masked(TEXT, LONG), (1009,)),
    Socket("a frame that says 2 to the 62", b"\x81\xff" + struct.pack("!Q", 2**62) + bytes(4), (1009,)),
    Socket("fragments over the limit", masked(TEXT, LONG[:40_000], fin=False) + masked(0, LONG[:40_000]), (1009,)),
    Socket("a frame without a mask", b"\x81\x0f" + b'{"type":"ping"}', (1002,)),
    Socket("reserved opcode 3", masked(3, EVIL), (1002,)),
    Socket("reserved opcode 3 right behind a join", told(type="join", room="lobby") + masked(3, EVIL), (1002,)),
    Socket("reserved opcode 11", masked(11, EVIL), (1002,)),
    Socket("reserved bit 1", masked(TEXT, EVIL, reserved=0x40), (1002,)),
    Socket("all reserved bits", masked(TEXT, EVIL, reserved=0x70), (1002,)),
    Socket("a continuation of nothing", masked(0, EVIL), (1002,)),
    Socket("a new message in a message", masked(TEXT, EVIL, fin=False) + masked(TEXT, EVIL), (1002,)),
    Socket("a fragmented ping", masked(PING, EVIL, fin=False), (1002,)),
    Socket("a ping of 126 bytes", masked(PING, "x" * 126), (1002,)),
    Socket("a length in too many bytes", b"\x81\xfe\x00\x05" + bytes(4) + b"hello", (1002,)),
    Socket("close with code 1005", closing(1005), (1002,)),
    Socket("close with code 999", closing(999), (1002,)),
    Socket("close with code 5000", closing(5000), (1002,)),
    Socket("close with half a code", masked(CLOSE, b"\x03"), (1002,)),
    Socket("close with a reason that isn't UTF-8", masked(CLOSE, b"\x03\xe8\xff\xfe"), (1007,)),
    Socket("20,000 pings", masked(PING, "x" * 100) * 20_000, (4501,)),
    Socket("200,000 empty fragments", masked(TEXT, "", fin=False) + masked(0, "", fin=False) * 200_000, (4501,)),
    Socket("1,000 errors", masked(TEXT, EVIL) * 1000, (4500,)),
]


class Healthy:
    """Clients of one room, one a transport, that publish in turns as long as it takes.

    :param daemon: the process that serves them.
    :ivar slowest: seconds from a publish till all had it, at worst.
    """

    def __init__(self, port: int, daemon: int) -> None:
        self._daemon = daemon
        kinds: tuple[type[Client], ...] = (SocketClient, EventClient, PollClient)
        self.clients = tuple(kind(reactor, port) for kind in kinds)
        self.sent: list[str] = []
        self.slowest = 0.0
        self.over = False

    async def start(self) -> None:
        """Join the room."""
        for client in self.clients:
            await client.start()  # type: ignore[attr-defined]

    async def chat(self) -> None:
        """Publish in turns until it is over, each time waiting till all have it."""
        while not self.over:
            for writer in self.clients:
                self.sent.append(f"{type(writer).__name__} {len(self.sent)}")
                watch = Stopwatch(self._daemon)
                await writer.publish(self.sent[-1])  # type: ignore[attr-defined]
                for reader in self.clients:
                    await reader.count(len(self.sent))
                self.slowest = max(self.slowest, watch.seconds())
            await deferLater(reactor, 0.05)

    async def stop(self) -> None:
        """Go away."""
        for client in self.clients:
            await client.stop()  # type: ignore[attr-defined]


def descriptors(daemon: Daemon) -> int:
    """How many files and sockets a daemon has open."""
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def resident(daemon: Daemon) -> int:
    """How many bytes of memory a daemon has."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{daemon.pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


class TableTests(SynchronousTestCase):
    """The table itself."""

    def test_size_of_the_table(self) -> None:
        """There are many rows, and no two of a kind have the same name."""
        rows = SLOW + HTTP + SOCKET
        self.assertGreater(len(rows) + len(COMMANDS), 200)
        self.assertEqual(len(rows), len({(type(row).__name__, row.name) for row in rows}))


class BadInputTests(TestCase):
    """Bad input against daemons in processes of their own: one as it comes, and one that allows JSONP."""

    timeout = TEST_TIMEOUT
    ACCESS_LINE = re.compile(
        r'(127\.0\.0\.1|-) - - \[[^]]+\] "([^"\\]|\\x[0-9a-f]{2})*" \d{3} (\d+|-) "([^"\\]|\\x[0-9a-f]{2})*" '
        r'"([^"\\]|\\x[0-9a-f]{2})*"'
    )

    def setUp(self) -> None:
        directory = Path(self.mktemp())
        self.access_log = directory / "access.log"
        directory.mkdir()
        options = (("--access-log", str(self.access_log.resolve())), ("--allow-jsonp",))
        self.daemons = [Daemon(directory / f"{number}", *given) for number, given in enumerate(options)]
        for daemon in self.daemons:
            daemon.start()
            self.addCleanup(daemon.terminate)

    async def try_row(self, row: Row) -> str | None:
        """Try one row on a connection of its own; answer what is wrong with what came of it."""
        endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{self.daemons[row.scripts].port}")
        peer: Peer = await endpoint.connect(Factory.forProtocol(Peer))
        try:
            outcome = await row.run(peer)
        except Exception as error:
            outcome = (repr(error),)
        peer.hang_up()
        if outcome == row.expected:
            return None
        return f"{type(row).__name__} {row.name}: {outcome}, expected {row.expected}; {peer.received[:300]!r}"

    async def try_all(self) -> list[str]:
        """Try all rows, a few at a time and the slow ones beside them; answer what is wrong."""
        semaphore = DeferredSemaphore(AT_ONCE)
        tries = [Deferred.fromCoroutine(self.try_row(row)) for row in SLOW]
        tries += [
            semaphore.run(lambda row=row: Deferred.fromCoroutine(self.try_row(row))) for row in HTTP + COMMANDS + SOCKET
        ]
        return [wrong for wrong in await gatherResults(tries) if wrong is not None]

    async def test_table(self) -> None:
        """Every row gets its documented outcome; healthy clients of the same room notice nothing; nothing is left
        of it all, in memory, among the descriptors or in the log."""
        healthy = Healthy(self.daemons[0].port, self.daemons[0].pid)
        self.addCleanup(healthy.stop)
        await healthy.start()
        before = [(descriptors(daemon), resident(daemon)) for daemon in self.daemons]
        chat = Deferred.fromCoroutine(healthy.chat())
        wrong = await self.try_all()
        healthy.over = True
        await chat
        self.assertEqual([], wrong, "\n".join(wrong))
        self.check_healthy(healthy)
        for daemon, (files, memory) in zip(self.daemons, before, strict=True):
            await self.until(lambda daemon=daemon, files=files: descriptors(daemon) <= files + 2)
            self.assertLess(resident(daemon) - memory, 30 * 1024 * 1024)
            self.check_log(daemon.log)
        self.check_access_log()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, with a deadline."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            self.assertLess(time.monotonic(), deadline, "not in time")
            await deferLater(reactor, 0.05)

    def check_healthy(self, healthy: Healthy) -> None:
        for client in healthy.clients:
            self.assertEqual(healthy.sent, client.data)
            self.assertEqual([], client.of_type("reset") + client.of_type("goodbye") + client.of_type("error"))
        self.assertGreater(len(healthy.sent), 50)
        self.assertLess(healthy.slowest, 2.0)

    def check_log(self, log: str) -> None:
        self.assertNotIn("Traceback", log)
        self.assertNotIn("Unhandled", log)
        self.assertNotIn("EVIL-MARKER", log)

    def check_access_log(self) -> None:
        """Every line has the one form, whatever was sent, and none holds a client."""
        lines = self.access_log.read_text(encoding="ascii").splitlines()
        self.assertGreater(len(lines), 150)
        self.assertEqual([], [line for line in lines if not self.ACCESS_LINE.fullmatch(line)])
        self.assertEqual([], [line for line in lines if "AAAAAAAA" in line])
