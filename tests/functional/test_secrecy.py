"""Tokens, clients and readers in every place where a request can have them: nothing of them is told to anybody.

Who sends one where it belongs is served, and nobody reads it in a log. Who sends it elsewhere by mistake, broken, or
to try what happens, is told what would be right, and nothing is repeated.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.identity import Identities
from realtime_chat.values.access import NO_GRANTS, Claims
from tests.deadlines import DEADLINE
from tests.functional.daemon import Daemon, DaemonTestCase
from tests.functional.raw_clients import frame
from tests.secrecy import Secrets, remember
from tests.tokens.made import OTHER_SECRET, SECRET, token

AT_ONCE = 8
HOST = "Host: 127.0.0.1"
PLACE = "{secret}"

HEADERS = (
    *("Authorization: Bearer {secret}", "Authorization: bearer  {secret} ", "Authorization: Basic {secret}"),
    *("Authorization: {secret}", "Authorization: Bearer {secret} {secret}", "Authorization: Bearer x{secret}"),
    *("Authorization: Bearer {secret}\r\nAuthorization: Bearer {secret}", "Authorization: Bearer\r\n {secret}"),
    *("Realtime-Client: {secret}", "Realtime-Client: x{secret}", "Realtime-Client: {secret}\r\nRealtime-Client: x"),
    *("Cookie: {secret}", "Referer: http://localhost/?client={secret}", "Referer: http://localhost/chat/{secret}"),
    *("User-Agent: {secret}", "Origin: http://{secret}", "Origin: {secret}", "X-Forwarded-For: {secret}"),
    *("Content-Type: {secret}/{secret}", "Last-Event-ID: {secret}", "If-None-Match: {secret}", "Range: {secret}"),
    *(
        "Upgrade: {secret}\r\nConnection: {secret}",
        "Sec-Fetch-Dest: {secret}",
        "{secret}: 1",
        "{secret}",
        "Expect: {secret}",
    ),
    *(
        "Content-Length: {secret}",
        "Transfer-Encoding: {secret}",
        "Host: {secret}",
        "Access-Control-Request-Method: {secret}",
    ),
)
PATHS = ("/poll?room=lobby&wait=1&last=1", "/rooms/lobby/messages", "/sse?room=nowhere", "/nowhere", "/ws", "/commands")
TARGETS = (
    *("/poll?room=lobby&wait=1&client={secret}", "/poll?room=lobby&wait=1&reader={secret}", "/poll?room={secret}"),
    *("/poll?room=lobby&wait=1&%63lient={secret}", "/poll?room=lobby&token={secret}&access_token={secret}&wait=1"),
    *("/poll?room=lobby&reader={secret}&client={secret}", "/poll?room=lobby&client={secret}&client={secret}"),
    *("/poll?room=lobby&since={secret}", "/poll?room=lobby&name={secret}&wait=1", "/poll?room=lobby&last={secret}"),
    *(
        "/poll?room=lobby&callback={secret}",
        "/poll?room=lobby&callback=f&client={secret}",
        "/poll?room=lobby&presence={secret}",
    ),
    *("/poll?client={secret}", "/poll%3Froom=lobby&client={secret}", "/poll;client={secret}", "/poll#reader={secret}"),
    *("/poll?room=lobby?client={secret}", "/poll?room=lobby%26client={secret}", "/poll?room=lobby&amp;client={secret}"),
    *(
        "/sse?room=nowhere&reader={secret}",
        "/sse?room=nowhere&client={secret}",
        "/sse/{secret}",
        "/{secret}",
        "/?{secret}",
    ),
    *("/rooms/{secret}/messages", "/rooms/{secret}/members", "/rooms/{secret}", "/rooms/lobby/{secret}"),
    *("/rooms?after={secret}", "/rooms/lobby/messages?before={secret}", "/rooms/lobby/messages?client={secret}"),
    *("/ws?client={secret}", "/ws?token={secret}", "/commands?callback=f&commands={commands}&client={secret}"),
    *(
        "/commands?callback=f&commands={commands}",
        "http://{secret}/",
        "http://u:{secret}@127.0.0.1/",
        "{secret}",
        "*{secret}",
    ),
)
BODIES = (
    *(
        '{"type":"hello","token":"{secret}"}',
        '{"type":"hello","client":"{secret}"}',
        '{"type":"hello","token":{secret}}',
    ),
    *(
        '{"type":"hello","token":["{secret}"]}',
        '{"type":"hello","token":"{secret}","name":"a"}',
        '{"type":"hello","v":"{secret}"}',
    ),
    *(
        '{"type":"hello","token":"{secret}","client":"{secret}"}',
        '{"type":"hello","token":"{secret}',
        '{"type":"{secret}"}',
    ),
    *(
        '{"type":"hello","name":"{secret}{secret}{secret}{secret}"}',
        '{"{secret}":1}',
        '"{secret}"',
        "{secret}",
        '["{secret}"]',
    ),
    *('{"type":"hello","token":"{secret}","token":"{secret}"}', '{"type":"hello","token":"\\u0000{secret}"}'),
    *(
        '{"type":"publish","room":"{secret}{secret}{secret}{secret}{secret}","data":1}',
        '{"type":"join","room":["{secret}"]}',
    ),
    *(
        '{"type":"publish","room":"lobby","data":1,"event":"{secret} {secret}"}',
        '{"type":"history","room":"lobby","since":"{secret}"}',
    ),
    *(
        '{"type":"publish","room":"lobby","data":1,"key":"{secret}{secret} {secret}"}',
        '{"type":"history","room":"lobby","limit":"{secret}"}',
    ),
    *(
        '[{"type":"hello","token":"{secret}"},{"type":"hello","client":"{secret}"}]',
        '{"type":"state","state":"{secret}"}',
    ),
    *('{"type":"members","room":"lobby","after":"{secret}"}', "text={secret}&token={secret}", "client={secret}"),
)


class Secret(NamedTuple):
    """Something that a request should not have told anybody."""

    what: str
    text: str


class Scene:
    """A daemon, what is secret there, and all requests that hold some of it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.told: list[str] = []

    async def secrets(self) -> list[Secret]:
        """Right ones, and wrong ones of each kind."""
        now = time.time()
        good = token({"sub": "u7", "rooms": {"lobby": "rwsp"}}, now=now)
        welcome = await self._hello({"token": good})
        guest, named = await self._hello({}), await self._hello({"name": "Bob"})
        remember(welcome["client"], welcome["reader"], guest["client"], named["client"])
        elsewhere = Identities(lambda: b"x" * 32, lambda count: b"r" * count)
        claims = Claims("u7", None, None, NO_GRANTS, int(now + 3600) * 1000, None, "0f0f0f0f")
        return [
            Secret("a token", good),
            Secret("an expired token", token({"exp": int(now) - 60}, now=now)),
            Secret("a token of another site", token({}, OTHER_SECRET, now=now)),
            Secret("a token that was cut", good[:-5]),
            Secret("a client", welcome["client"]),
            Secret("a reader", welcome["reader"]),
            Secret("a client that was changed", welcome["client"][:-30] + "A" * 30),
            Secret("a client of another daemon", elsewhere.admit(claims).client),
            Secret("a named guest", named["client"]),
        ]

    async def _hello(self, hello: dict[str, str]) -> dict[str, str]:
        body = json.dumps({"type": "hello", **hello})
        answer = await self._send(_request("POST", "/commands", body=body))
        welcome: dict[str, str] = json.loads(answer.partition(b"\r\n\r\n")[2])
        return welcome

    async def tell_all(self) -> int:
        """Send all of it; give how many requests that were."""
        secrets = await self.secrets()
        rows = [(secret, one) for secret in secrets for one in _requests(secret.text)]
        places = asyncio.Semaphore(AT_ONCE)

        async def tell(secret: Secret, request: bytes) -> None:
            async with places:
                self._look(secret, request, await self._send(request))

        await asyncio.gather(*(tell(*row) for row in rows))
        for secret in secrets:
            await self._tell_socket(secret)
        return len(rows)

    async def _send(self, request: bytes) -> bytes:
        """Send a request, and give all that comes of it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.daemon.port)
        try:
            writer.write(request)
            async with asyncio.timeout(DEADLINE):
                return await reader.read() if b"Upgrade: websocket" not in request else await reader.read(65536)
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()

    def _look(self, secret: Secret, request: bytes, answer: bytes) -> None:
        """An answer that is an error repeats nothing of what was sent."""
        self._compare(secret, request, answer if answer[9:12] >= b"400" else _errors(answer))

    def _compare(self, secret: Secret, request: bytes, answer: bytes) -> None:
        text = _ROOM.sub("", answer.decode("latin-1"))
        pieces = [secret.text[start : start + 20] for start in range(0, len(secret.text) - 20, 20)]
        if any(piece in text for piece in pieces):
            self.told.append(f"{secret.what}: {request.decode()[:60]!r} is answered {text!r}")

    async def _tell_socket(self, secret: Secret) -> None:
        """Send it in each place of a WebSocket's frames."""
        for body in (*BODIES, None):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.daemon.port)
            try:
                writer.write(_UPGRADE)
                await reader.readuntil(b"\r\n\r\n")
                if body is None:
                    writer.write(frame(2, secret.text.encode()) + frame(9, secret.text[:120].encode()))
                else:
                    writer.write(frame(1, _filled(body, secret.text).encode()))
                writer.write(frame(1, b'{"type":"ping","id":1}') + frame(8, b"\x0f\xa0" + secret.text[:100].encode()))
                async with asyncio.timeout(DEADLINE):
                    answer = await reader.read()
            finally:
                writer.transport.abort()
            self._compare(secret, str(body).encode(), _errors(answer))


_ROOM = re.compile('"room":"[^"]*"')
"""The room that an error is about: whoever asks for it sees its name again."""

_UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def _errors(answer: bytes) -> bytes:
    return b"".join(re.findall(rb'\{[^{}]*"type":"error"[^{}]*\}', answer))


def _filled(text: str, secret: str) -> str:
    commands = quote(json.dumps({"type": "hello", "token": secret}))
    return text.replace(PLACE, secret).replace("{commands}", commands)


def _request(method: str, target: str, *headers: str, body: str = "", version: str = "HTTP/1.1") -> bytes:
    lines = [f"{method} {target} {version}", *headers]
    if not any(header.startswith("Host:") for header in headers):
        lines.append(HOST)
    if body:
        lines.append(f"Content-Length: {len(body.encode())}")
    return "\r\n".join([*lines, "Connection: close", "", body]).encode()


def _requests(secret: str) -> Iterator[bytes]:
    """All requests that hold a secret."""
    for header in HEADERS:
        for path in PATHS:
            yield _request("GET", path, _filled(header, secret))
    for target in TARGETS:
        for method in ("GET", "POST", "OPTIONS"):
            yield _request(method, _filled(target, secret))
        yield _request("GET", _filled(target, secret), version="HTTP/1.0")
    for body in BODIES:
        kinds = ("", "application/json", "application/x-www-form-urlencoded", "text/html")
        for path in ("/commands", "/rooms/lobby/messages", "/poll"):
            for kind in kinds:
                yield _request("POST", path, f"Content-Type: {kind}", body=_filled(body, secret))
    yield _request(secret, "/")
    yield _request("GET", "/", version=secret)
    yield f"{secret}\r\n\r\n".encode()
    yield f"GET /?client={secret}".encode() + b"\r\n\r\n"


class SecrecyTests(DaemonTestCase):
    """Everything that may be secret, everywhere."""

    async def test_told_nowhere(self) -> None:
        """No log line, error, page or metric has any of it."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        keys, log = directory / "site.key", directory / "access.log"
        keys.write_text(SECRET)
        options = ("--token-key", str(keys), "--access-log", str(log), "--allow-jsonp")
        daemon = self.daemon(*options, directory=directory / "daemon")
        await deferToThread(daemon.start)
        scene = Scene(daemon)
        count = await deferToThread(asyncio.run, scene.tell_all())
        self.assertEqual([], scene.told[:10])
        self.assertGreater(count, 2_000)
        self.assertNotIn("Traceback", daemon.log)
        daemon.check_secrecy(log, text=daemon.pages())


class SearchTests(SynchronousTestCase):
    """The search for secrets finds them."""

    def test_finds(self) -> None:
        """Each kind is found, and ordinary lines hold none."""
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "site.key").write_text(SECRET)
        secrets = Secrets()
        secrets.learn(("--token-key=site.key", "--store", "redis://:hush-hush@127.0.0.1"), directory)
        identities = Identities(lambda: b"x" * 32, lambda count: b"r" * count)
        user = identities.admit(Claims("u7", None, None, NO_GRANTS, 1, None, "0f0f0f0f"))
        guest = identities.issue()
        remember(guest)
        texts = (SECRET, "hush-hush", token(), user.client, identities.reader_of(user).client, guest, guest[:30] + "é")
        for text in texts[:-1]:
            self.assertNotEqual([], secrets.found_in(f"a line with {text} in it"), text)
        self.assertEqual(
            [], secrets.found_in("GET /poll?room=lobby&client=REDACTED 200 0f0f0f0f 3f2504e0-4f89-41d3-9a0c")
        )
