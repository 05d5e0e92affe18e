"""The old pages of 2013 on real daemons, over raw HTTP: mixed with each other, over restarts, and on several nodes."""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import count
from typing import Any
from urllib.parse import urlencode

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from tests.functional.cluster import ClusterTestCase
from tests.functional.daemon import Daemon, free_port
from tests.functional.raw_clients import frame
from tests.redis_server import PERSISTENT

ORIGIN = "http://127.0.0.1:8000"
CONNECTED = "connected..."
BURST = 10_000
_PATIENCE = 60.0


class PollingPage:
    """The page that polls: it asks again at once after an answer, and after a second without one.

    :param ports: where it asks, one after another.
    :ivar shown: the texts that it has got.
    """

    def __init__(self, *ports: int, query: str = "") -> None:
        self.shown: list[str] = []
        self._ports = ports
        self._query = query
        self._last_update = "-1"
        self._numbers = count()

    def poll(self) -> None:
        """Ask once."""
        number = next(self._numbers)
        fields = {"lastupdate": self._last_update, "callback": "jQuery1102", "_": number}
        try:
            status, body = ask(self._ports[number % len(self._ports)], f"/?{urlencode(fields)}{self._query}")
        except (OSError, http.client.HTTPException):  # the daemon is away
            time.sleep(0.2)
            return
        match = re.fullmatch(r"/\*\*/typeof jQuery1102==='function'&&jQuery1102\((.*)\);", body)
        assert match or (status, body) == (200, "/**/"), (status, body)
        if match:
            said = json.loads(match[1])
            self._last_update = said["timestamp"]
            self.shown.append(said["data"])

    def until(self, text: str) -> list[str]:
        """Poll until a text is shown, and return all that was shown. As long as more is shown, there is time."""
        count, deadline = len(self.shown), time.monotonic() + _PATIENCE
        while text not in self.shown[-1:]:
            assert time.monotonic() < deadline, self.shown[-5:]
            self.poll()
            if len(self.shown) > count:
                count, deadline = len(self.shown), time.monotonic() + _PATIENCE
        return self.shown


class WebSocketPage:
    """The page with a WebSocket."""

    def __init__(self, port: int, query: str = "", origin: str = ORIGIN) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _PATIENCE)
        lines = [
            f"GET /ws{query} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            f"Origin: {origin}",
            *("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self._file = self._socket.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        while self._file.readline() != b"\r\n":
            pass
        self.shown = [next(self._texts())] if self.status == 101 else []

    def say(self, *texts: str) -> None:
        """Send texts in one go."""
        self._socket.sendall(b"".join([frame(1, text.encode()) for text in texts]))

    def until(self, text: str) -> list[str]:
        """Read until a text is shown, and return all that was shown."""
        for shown in self._texts():
            self.shown.append(shown.removesuffix("\n"))
            if self.shown[-1] == text:
                return self.shown
        raise AssertionError(f"the connection ended after {self.shown[-5:]}")

    def _texts(self) -> Iterator[str]:
        while head := self._file.read(2):
            size = head[1]
            if size >= 126:
                (size,) = struct.unpack("!H" if size == 126 else "!Q", self._file.read(2 if size == 126 else 8))
            payload = self._file.read(size)
            if head[0] == 0x81:
                yield payload.decode()

    def close(self) -> None:
        """Cut the connection."""
        self._file.close()
        self._socket.close()


def ask(port: int, path: str, body: dict[str, str] | None = None, **headers: str) -> tuple[int, str]:
    """Ask once; give the status and the body."""
    data = None if body is None else urlencode(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def post(port: int, text: str, query: str = "") -> None:
    """Send the form of the page that polls."""
    assert ask(port, "/" + query, {"new_message": text}, Origin=ORIGIN) == (200, "")


class LegacyTestCase(ClusterTestCase):
    """Daemons with a listener for old pages."""

    async def serving(self, *options: str) -> tuple[Daemon, int]:
        """Start a daemon; give the port for old pages, too."""
        port = free_port()
        words = ("--legacy-listen", f"tcp:{port}:interface=127.0.0.1", "--allow-origin", ORIGIN)
        return await self.started(*words, *options), port

    async def in_thread(self, call: Any, *arguments: Any) -> Any:
        """Call what blocks, while the reactor goes on."""
        return await deferToThread(call, *arguments)

    def web_socket_page(self, port: int, query: str = "", **more: str) -> WebSocketPage:
        """A page that is closed with the test."""
        page = WebSocketPage(port, query, **more)
        self.addCleanup(page.close)
        return page


class MixedTests(LegacyTestCase):
    """Both kinds of page, and a native client."""

    async def test_mixed(self) -> None:
        """All see the messages of all, each once and in order; another room stays apart."""
        daemon, port = await self.serving("--store=memory:")
        await self.in_thread(self.mix, daemon, port)

    def mix(self, daemon: Daemon, port: int) -> None:
        pages = [PollingPage(port) for _ in range(2)]
        for page in pages:
            page.until(CONNECTED)
        sockets = [self.web_socket_page(port) for _ in range(2)]
        other = self.web_socket_page(port, "?room=other")
        other.say("elsewhere")
        for number in range(10):
            post(port, f"lp {number} é & <b>")
            sockets[number % 2].say(f"ws {number}")
            sockets[0].until(f"ws {number}")
            native = f"{daemon.url}rooms/lobby/messages"
            urllib.request.urlopen(native, urlencode({"text": f"native {number}"}).encode()).close()
        expected = [
            text
            for number in range(10)
            for text in (f"lp {number} é &amp; &lt;b&gt;", f"ws {number}", f"native {number}")
        ]
        for page in pages:
            self.assertEqual([CONNECTED, *expected], page.until("native 9"))
        for page in sockets:
            self.assertEqual(["connected ....\n", *expected], page.until("native 9"))
        self.assertEqual([CONNECTED, "elsewhere"], PollingPage(port, query="&room=other").until("elsewhere"))
        self.assertEqual(["connected ....\n", "elsewhere"], other.until("elsewhere"))

    async def test_burst(self) -> None:
        """Of ten thousand messages that are sent in one go, faster than a client may, all come to the page that polls,
        in order."""
        limits = ("--client-publish-rate=4000/s+500", "--client-command-rate=4000/s+500")
        _, port = await self.serving("--store=memory:", f"--history={BURST}", *limits)
        texts = [str(number) for number in range(BURST)]
        page = PollingPage(port)
        await self.in_thread(page.until, CONNECTED)
        web_socket = self.web_socket_page(port)
        seen, heard, _ = await gatherResults(
            [
                deferToThread(page.until, texts[-1]),
                deferToThread(web_socket.until, texts[-1]),
                deferToThread(web_socket.say, *texts),
            ]
        )
        self.assertEqual(texts, seen[1:])
        self.assertEqual(texts, heard[1:])


class RestartTests(LegacyTestCase):
    """A daemon that is killed."""

    async def test_killed(self) -> None:
        """A page that polls goes on after the last message that it has shown; it sees none twice and misses none."""
        daemon, port = await self.serving()
        page = PollingPage(port)
        await self.in_thread(page.until, CONNECTED)
        await self.in_thread(self.say_some, port, "a")
        await self.in_thread(page.until, "a2")
        await self.in_thread(self.say_some, port, "b")
        daemon.kill()
        await self.in_thread(page.poll)
        await self.in_thread(daemon.start)
        await self.in_thread(self.say_some, port, "c")
        expected = [f"{letter}{number}" for letter in "abc" for number in range(3)]
        self.assertEqual([CONNECTED, *expected], await self.in_thread(page.until, "c2"))

    def say_some(self, port: int, letter: str) -> None:
        for number in range(3):
            post(port, f"{letter}{number}")

    async def test_forgotten(self) -> None:
        """If the log is a new one, the page is told that it is connected, and goes on in that."""
        daemon, port = await self.serving("--store=memory:")
        page = PollingPage(port)
        await self.in_thread(page.until, CONNECTED)
        await self.in_thread(post, port, "before")
        await self.in_thread(page.until, "before")
        daemon.kill()
        await self.in_thread(daemon.start)
        await self.in_thread(page.until, CONNECTED)
        await self.in_thread(post, port, "after")
        shown = await self.in_thread(page.until, "after")
        self.assertEqual([CONNECTED, "before", CONNECTED, "after"], shown)


class NodesTests(LegacyTestCase):
    """Two nodes that share Redis."""

    async def test_two_nodes(self) -> None:
        """Pages on both nodes, and one that polls at another node each time, see the same messages in the same order,
        also after a node was killed."""
        redis = await self.redis_server(*PERSISTENT)
        served = await gatherResults([self._node(redis.url) for _ in range(2)])
        ports = [port for _, port in served]
        await self.in_thread(self.meet, ports)
        node, _ = served[1]
        node.kill()
        await self.in_thread(post, ports[0], "while one is away")
        await self.in_thread(node.start)
        await self.in_thread(self.go_on, ports)

    def _node(self, store: str) -> Any:
        return Deferred.fromCoroutine(self.serving("--store", store))

    def meet(self, ports: list[int]) -> None:
        self.page = PollingPage(*ports)
        self.page.until(CONNECTED)
        web_sockets = [self.web_socket_page(port) for port in ports]
        for number in range(20):
            post(ports[number % 2], f"lp {number}")
            web_sockets[number % 2].say(f"ws {number}")
            for page in web_sockets:
                page.until(f"ws {number}")
        texts = [f"{kind} {number}" for number in range(20) for kind in ("lp", "ws")]
        self.assertEqual([CONNECTED, *texts], self.page.until("ws 19"))
        for page in web_sockets:
            self.assertEqual(["connected ....\n", *texts], page.shown)

    def go_on(self, ports: list[int]) -> None:
        before = len(self.page.shown)
        post(ports[1], "both again")
        self.assertEqual(["while one is away", "both again"], self.page.until("both again")[before:])


class RuleTests(LegacyTestCase):
    """What holds for all clients holds for old pages."""

    async def test_rules(self) -> None:
        """Host, Origin, the size of bodies and the number of connections are checked; old pages are counted."""
        metrics = free_port()
        options = ("--max-connections=3", "--metrics-listen", f"tcp:{metrics}:interface=127.0.0.1")
        _, port = await self.serving("--store=memory:", "--max-message=1k", *options)
        await self.in_thread(self.check, port, metrics)

    def check(self, port: int, metrics: int) -> None:
        form = {"new_message": "x"}
        for body, headers, status, code in (
            (None, {"Host": "evil.example"}, 421, "unknown_host"),
            (form, {"Origin": "http://evil.example"}, 403, "bad_origin"),
            (None, {"Sec-Fetch-Site": "cross-site"}, 403, "bad_origin"),
            ({"new_message": "x" * 2000}, {}, 413, "too_large"),
        ):
            found, answer = ask(port, "/?lastupdate=-1", body, **headers)
            self.assertEqual((status, code), (found, json.loads(answer)["code"]), headers)
        self.assertEqual(403, WebSocketPage(port, origin="http://evil.example").status)
        script = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "script"}
        self.assertEqual(200, ask(port, "/?lastupdate=-1&callback=f", **script)[0])
        pages = [self.web_socket_page(port) for _ in range(3)]
        pages[0].say("x")
        for page in pages:
            page.until("x")
        self.assertEqual(503, ask(port, "/?lastupdate=-1")[0])
        _, text = ask(metrics, "/metrics")
        self.assertIn('realtime_sessions{transport="legacy_websocket"} 3.0', text)
        self.assertIn('realtime_delivered_total{transport="legacy_websocket"} 3.0', text)
        self.assertIn('realtime_sessions{transport="legacy_poll"} 0.0', text)
