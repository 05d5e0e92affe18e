"""Each proxy of ``docs/howto/proxies.rst``, with the lines that stand there, between a real daemon and its clients."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.deadlines import DEADLINE, Stopwatch
from tests.functional.browsers import PROGRAMS
from tests.functional.daemon import CHECKOUT, Daemon, free_port, wait_until
from tests.functional.proxies import PROXIES, Proxy, documented
from tests.functional.raw_clients import RawEventStream, RawWebSocket

_HOST = "Host: example.com"
_PAGE = "Origin: https://example.com"
_UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
_BROWSER = "127.0.0.2"
"""Where a request comes from that is not the proxy's own."""

_SOON = 1.0
"""Seconds in which a message is seen."""

_QUIET = 1.5
"""Seconds without anything on a connection before that message: longer than what a proxy may batch."""


def _get(path: str, *headers: str) -> bytes:
    return "\r\n".join((f"GET /chat/{path} HTTP/1.1", _HOST, _PAGE, *headers, "", "")).encode()


class _Reader:
    """Keeps what one transport sees, and when by a stopwatch."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self.seen: dict[Any, float] = {}
        self.others: list[dict[str, Any]] = []
        self._more = asyncio.Event()

    def take(self, text: bytes) -> None:
        """One event."""
        event = json.loads(text)
        if event["type"] == "message":
            self.seen[event["data"]] = self._watch.seconds()
        else:
            self.others.append(event)
        self._more.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait till it is so."""
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self._more.clear()
                await self._more.wait()


def _ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE, source_address=(_BROWSER, 0))
    try:
        usual = {"Host": "example.com", "Origin": "https://example.com", "Content-Type": "application/json"}
        connection.request(method, f"/chat/{path}", body and json.dumps(body), {**usual, **headers})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


async def _socket(port: int, watch: Stopwatch) -> tuple[_Reader, Any]:
    reader = _Reader(watch)
    raw = await RawWebSocket.connect(port, _get("ws?room=lobby", *_UPGRADE), reader.take)
    return reader, raw


async def _stream(port: int, watch: Stopwatch) -> tuple[_Reader, Any]:
    reader = _Reader(watch)
    request = _get("sse?room=lobby", "Accept: text/event-stream", "Accept-Encoding: gzip, deflate, br")
    return reader, await RawEventStream.connect(port, request, reader.take)


async def _poll(port: int, reader: _Reader) -> None:
    """Poll till there is a message; who comes and goes ends a poll, too."""
    path, headers = "poll?room=lobby&wait=30", {}
    while not reader.seen:
        status, answer = await asyncio.to_thread(_ask, port, "GET", path, **headers)
        assert status == 200, answer
        for event in answer["events"]:
            reader.take(json.dumps(event).encode())
        since, presence = answer["positions"]["lobby"], answer["presence"]["lobby"]
        path = f"poll?room=lobby&since={since}&presence={presence}&wait=30"
        headers = {"Realtime-Client": answer["client"]}


async def _delays(port: int, daemon: int) -> dict[str, float]:
    """How many seconds after its publish is sent each transport sees a message, after a pause.

    :param daemon: its process.
    """
    watch = Stopwatch(daemon)
    (socket, socket_wire), (stream, stream_wire) = await _socket(port, watch), await _stream(port, watch)
    await socket.until(lambda: any(event["type"] == "joined" for event in socket.others))
    await stream.until(lambda: stream.others)
    poll = _Reader(watch)
    polling = asyncio.create_task(_poll(port, poll))
    await asyncio.sleep(_QUIET)
    begun = watch.seconds()
    status, _ = await asyncio.to_thread(_ask, port, "POST", "rooms/lobby/messages", {"data": "seen"})
    assert status == 201, status
    await polling
    await socket.until(lambda: "seen" in socket.seen)
    await stream.until(lambda: "seen" in stream.seen)
    socket_wire.close()
    stream_wire.close()
    readers = {"WebSocket": socket, "stream": stream, "poll": poll}
    return {kind: reader.seen["seen"] - begun for kind, reader in readers.items()}


class ProxyTestCase(SynchronousTestCase):
    """A daemon behind a proxy."""

    def behind(self, name: str, *options: str, port: int = 0, changes: tuple[tuple[str, str], ...] = ()) -> Proxy:
        """Start both.

        :param port: where the daemon listens for the proxy, if not where it usually does.
        :param changes: of the documented lines.
        """
        self.daemon = Daemon(self.mktemp(), "--open", "--host", "example.com", *options).start()
        self.addCleanup(self.daemon.kill)
        start, language = PROXIES[name]
        snippet = documented(language)
        for there, here in changes:
            self.assertIn(there, snippet)
            snippet = snippet.replace(there, here)
        proxy = start(Path(self.mktemp()).resolve(), port or self.daemon.port, snippet)
        self.addCleanup(proxy.end)
        return proxy


class DocumentedTests(ProxyTestCase):
    """The lines of each proxy as they stand in the documents; the name of each test is the proxy's."""

    def check(self, name: str) -> None:
        """All transports see a message at once; the page's own origin is taken, and another's isn't; many rooms fit."""
        port = self.behind(name).port
        late = {kind: delay for kind, delay in asyncio.run(_delays(port, self.daemon.pid)).items() if delay >= _SOON}
        self.assertEqual({}, late)
        status, error = _ask(port, "POST", "rooms/lobby/messages", {"data": 1}, Origin="https://other.example")
        self.assertEqual((403, "bad_origin"), (status, error["code"]))
        rooms = "&".join(f"room={number}{'x' * 120}" for number in range(60))
        headers = {f"X-Usual-{number}": "x" * 100 for number in range(5)}
        self.assertLess(len(rooms), 7900)
        self.assertEqual(200, _ask(port, "GET", f"poll?{rooms}&wait=0", **headers)[0])

    def test_nginx(self) -> None:
        """nginx."""
        self.check("nginx")

    def test_apache(self) -> None:
        """Apache."""
        self.check("Apache")

    def test_haproxy(self) -> None:
        """haproxy."""
        self.check("haproxy")

    def test_lighttpd(self) -> None:
        """lighttpd."""
        self.check("lighttpd")

    def test_varnish(self) -> None:
        """Varnish."""
        self.check("Varnish")

    def test_host_is_needed(self) -> None:
        """Without its line for the Host header Apache is refused, and the log names that line."""
        changes = (("       ProxyPreserveHost On\n", ""),)
        port = self.behind("Apache", changes=changes).port
        self.assertEqual(403, _ask(port, "POST", "rooms/lobby/messages", {"data": 1})[0])
        wait_until(lambda: "ProxyPreserveHost On" in self.daemon.log, lambda: self.daemon.log)


class AddressTests(ProxyTestCase):
    """Whose address the daemon's log has."""

    def addresses(self, name: str, *changes: tuple[str, str], proxied: bool = False, trusted: bool = True) -> set[str]:
        """The addresses in the access log, of requests that a browser elsewhere sends through the proxy.

        The browser claims to be others, in each way that there is.

        :param proxied: whether the proxy sends the PROXY protocol.
        :param trusted: whether the daemon trusts the proxy.
        """
        log = Path(self.mktemp()).resolve()
        options = ["--access-log", str(log), *["--trusted-proxy", "127.0.0.1"] * trusted]
        port = free_port() if proxied else 0
        if proxied:
            options += ["--listen", f"haproxy:tcp:{port}:interface=127.0.0.1"]
        proxy = self.behind(name, *options, port=port, changes=changes)
        for headers in ({}, {"X-Forwarded-For": "198.51.100.7, 127.0.0.1"}, {"X-Forwarded-For": "garbage"}):
            self.assertEqual(200, _ask(proxy.port, "GET", "rooms/whose/messages", **headers)[0])
        asyncio.run(self._upgrade(proxy.port))
        lines = wait_until(lambda: (lines := _logged(log, "room")) if len(_logged(log, "room")) == 5 else None)
        return {line.split()[0] for line in lines}

    async def _upgrade(self, port: int) -> None:
        """A WebSocket and a stream of the same browser, which claims that it is another."""
        claimed = "X-Forwarded-For: 198.51.100.7"
        for path, more in (("ws", _UPGRADE), ("sse", ("Accept: text/event-stream",))):
            request = _get(f"{path}?room=lobby", *more, claimed)
            raw = await _RAW[path].connect(port, request, lambda data: None, _BROWSER)
            raw.close()

    def test_headers(self) -> None:
        """Each proxy names the browser in X-Forwarded-For, by its documented lines, and what the browser claims counts
        for nothing."""
        for name in PROXIES:
            self.assertEqual({_BROWSER}, self.addresses(name), name)

    def test_forwarded(self) -> None:
        """If a browser sends Forwarded, the proxies of the documents remove it."""
        for name in ("nginx", "haproxy"):
            log = Path(self.mktemp()).resolve()
            proxy = self.behind(name, "--access-log", str(log), "--trusted-proxy", "loopback")
            self.assertEqual(200, _ask(proxy.port, "GET", "rooms/a/messages", Forwarded="for=198.51.100.7")[0])
            self.assertEqual(_BROWSER, wait_until(lambda log=log: _logged(log, "room"))[0].split()[0], name)

    def test_varnish(self) -> None:
        """Varnish tells whom it speaks for, by the documented word for the PROXY protocol."""
        port = '.port = "8080";'
        change = (port, f"{port} .proxy_header = 1;")
        self.assertEqual({_BROWSER}, self.addresses("Varnish", change, proxied=True))

    def test_haproxy(self) -> None:
        """haproxy does so by its documented words, in both versions of the protocol."""
        for words in ("send-proxy", "send-proxy-v2"):
            change = ("8080 check", f"8080 {words} check-send-proxy check")
            self.assertEqual({_BROWSER}, self.addresses("haproxy", change, proxied=True))

    def test_not_trusted(self) -> None:
        """Where the daemon doesn't trust the proxy, the address is the proxy's, whatever it sends."""
        self.assertEqual({"127.0.0.1"}, self.addresses("nginx", trusted=False))
        change = ("8080 check", "8080 send-proxy check-send-proxy check")
        self.assertEqual({"127.0.0.1"}, self.addresses("haproxy", change, proxied=True, trusted=False))
        self.assertIn("--trusted-proxy 127.0.0.1", self.daemon.log)

    def test_others(self) -> None:
        """Who isn't the proxy that is trusted has its own address, whatever it claims to the daemon."""
        log, port = Path(self.mktemp()).resolve(), free_port()
        options = ("--listen", f"haproxy:tcp:{port}:interface=127.0.0.1", "--access-log", str(log))
        self.daemon = Daemon(self.mktemp(), "--open", "--trusted-proxy", "127.0.0.1", *options).start()
        self.addCleanup(self.daemon.kill)
        request = b"GET /rooms/a/messages HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n"
        version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\x7f\0\0\1\0\1\0\2"
        for count, (to, claimed) in enumerate(
            ((self.daemon.port, b""), (port, b"PROXY TCP4 198.51.100.7 127.0.0.1 1 2\r\n"), (port, version_2)), 1
        ):
            with socket.create_connection(("127.0.0.1", to), 20, (_BROWSER, 0)) as browser:
                browser.sendall(claimed + request)
                self.assertIn(b" 200 ", browser.recv(4096))
            lines = wait_until(lambda count=count: (lines := _logged(log, "/a/"))[count - 1 :] and lines)
            self.assertEqual({_BROWSER}, {line.split()[0] for line in lines})

    def test_two_proxies(self) -> None:
        """Through haproxy and then nginx, the address is the browser's."""
        log = Path(self.mktemp()).resolve()
        inner = self.behind("nginx", "--access-log", str(log), "--trusted-proxy", "127.0.0.1")
        start, language = PROXIES["haproxy"]
        path = ("http-request replace-path /chat/(.*) /\\1\n", "http-request set-header X-Outer yes\n")
        snippet = documented(language)
        self.assertIn(path[0], snippet)
        outer = start(
            Path(self.mktemp()).resolve(), inner.port, snippet.replace(*path).replace("/readyz", "/chat/readyz")
        )
        self.addCleanup(outer.end)
        _ask(outer.port, "GET", "rooms/a/messages", **{"X-Forwarded-For": "198.51.100.7"})
        self.assertEqual(_BROWSER, wait_until(lambda: _logged(log, "/rooms/a/"))[0].split()[0])


_CLAIMS = (
    (),
    ("X-Forwarded-For: 198.51.100.7",),
    ("Forwarded: for=198.51.100.8",),
    ("X-Forwarded-For: 198.51.100.9, 127.0.0.1", "Forwarded: for=198.51.100.9, for=127.0.0.1"),
)
"""Headers by which a browser claims that it is another."""


class AddressLimitTests(ProxyTestCase):
    """How many connections an address may have, where a proxy that is trusted says whose they are."""

    def open(self, port: int, source: str, *claims: str, path: str = "ws") -> tuple[int, bytes]:
        """Ask for a WebSocket, which stays open if there is one. Return the status, and the head of the answer."""
        connection = socket.create_connection(("127.0.0.1", port), 20, (source, 0))
        self.addCleanup(connection.close)
        connection.sendall(_get(path, *_UPGRADE, *claims).replace(b"/chat/../", b"/"))
        head = b""
        while b"\r\n\r\n" not in head:
            head += (more := connection.recv(4096))
            self.assertTrue(more, head)
        status = int(head[9:12])
        if status == 101:
            self.opened = connection
        else:
            connection.close()  # until then it counts, too
        return status, head.lower()

    def refused(self) -> float:
        """How many connections ``/metrics`` says that were refused."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=DEADLINE) as answer:
            name = 'realtime_limited_total{kind="connections",scope="address"} '
            (line,) = (line for line in answer.read().decode().splitlines() if line.startswith(name))
        return float(line.removeprefix(name))

    def check(self, port: int, path: str = "ws") -> None:
        """The third WebSocket of an address is refused, whatever it claims, until another one has ended; another
        address has its own."""
        before = self.refused()
        self.assertEqual([101, 101], [self.open(port, _BROWSER, *claims, path=path)[0] for claims in _CLAIMS[2:]])
        last = self.opened
        for claims in _CLAIMS:
            status, head = self.open(port, _BROWSER, *claims, path=path)
            self.assertEqual(429, status, head)
            self.assertIn(b"\r\nretry-after: 5\r\n", head)
        self.assertEqual(len(_CLAIMS), self.refused() - before)
        self.assertEqual(101, self.open(port, "127.0.0.3", "X-Forwarded-For: " + _BROWSER, path=path)[0])
        last.close()
        wait_until(lambda: self.open(port, _BROWSER, path=path)[0] == 101)

    def limited(self, name: str, *changes: tuple[str, str], proxied: bool = False) -> Proxy:
        """Start a proxy, and a daemon with a limit."""
        port = free_port() if proxied else 0
        listen = ("--listen", f"haproxy:tcp:{port}:interface=127.0.0.1") * proxied
        self.metrics = free_port()
        limit = ("--address-connections", "2", "--trusted-proxy", "127.0.0.1")
        listen += ("--metrics-listen", f"tcp:{self.metrics}:interface=127.0.0.1")
        return self.behind(name, *limit, *listen, port=port, changes=changes)

    def test_headers(self) -> None:
        """Behind nginx and haproxy as they are documented."""
        for name in ("nginx", "haproxy"):
            self.check(self.limited(name).port)

    def test_proxy_protocol(self) -> None:
        """Behind haproxy with both versions of the PROXY protocol."""
        for words in ("send-proxy", "send-proxy-v2"):
            change = ("8080 check", f"8080 {words} check-send-proxy check")
            self.check(self.limited("haproxy", change, proxied=True).port)

    def test_past_the_proxy(self) -> None:
        """Who goes past the proxy has the same limit, whatever it claims."""
        self.limited("nginx")
        self.check(self.daemon.port, "../ws")


def _logged(log: Path, word: str) -> list[str]:
    """The lines of an access log with a word."""
    return [line for line in log.read_text().splitlines() if word in line]


_RAW = {"ws": RawWebSocket, "sse": RawEventStream}


class ListTests(SynchronousTestCase):
    """What is written about these proxies, and started."""

    def test_all_of_the_page(self) -> None:
        """Each proxy that has lines in the documents is started here, but Caddy, which Debian 12's tests go without."""
        text = (CHECKOUT / "docs" / "howto" / "proxies.rst").read_text("utf-8").splitlines()
        titles = {line for line, under in itertools.pairwise(text) if line and under == "=" * len(line)}
        self.assertEqual({"Caddy", "The browsers' addresses", "Put it behind a proxy"}, titles - set(PROXIES))
        self.assertEqual(set(), set(PROXIES) - titles)

    def test_packages(self) -> None:
        """``make test`` installs each package that tests start a program of, and the README names it."""
        makefile = (CHECKOUT / "Makefile").read_text("utf-8")
        readme = (CHECKOUT / "README.rst").read_text("utf-8")
        for command, package in PROGRAMS.values():
            self.assertIn(f'command -v {command} >/dev/null || missing="$$missing {package}"', makefile)
            self.assertIn(f"``{package}``", readme)
