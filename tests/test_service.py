"""Tests for :mod:`realtime_chat.service`: starting, refusing to start, and stopping in order."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource

from realtime_chat import __version__
from realtime_chat.broker.local import LocalBroker
from realtime_chat.composition import make_service
from realtime_chat.http.client_address import TrustedProxies
from realtime_chat.listening import Endpoint
from realtime_chat.service import Configuration, RealtimeService
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.values.rates import DEFAULTS, RateLimits
from tests.clients import PollClient, SocketClient
from tests.deadlines import DEADLINE, Stopwatch
from tests.functional.daemon import CHECKOUT, Daemon, DaemonTestCase
from tests.transports.test_contract import ServedTestCase

LOCAL = "tcp:0:interface=127.0.0.1"


def memory() -> MemoryStore:
    return MemoryStore(Retention(1000), time.time, os.urandom)


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


class HoldingStore:
    """A store in memory whose appends wait till they are let through."""

    def __init__(self) -> None:
        self._store = memory()
        self.held: list[tuple[Any, Deferred[Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def append(self, draft: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.held.append((draft, answer))
        return answer

    def release(self) -> None:
        """Let all through."""
        held, self.held = self.held, []
        for draft, answer in held:
            self._store.append(draft).chainDeferred(answer)


class StartTests(TestCase):
    """Starting in this process."""

    async def said(self, **configuration: Any) -> tuple[RealtimeService, list[str]]:
        """Start and stop a daemon; give what it has logged at the start."""
        service = make_service(reactor, memory(), LocalBroker(), Configuration(**configuration), time.time, os.urandom)
        with capturedLogs() as events:
            service.startService()
        self.ports = service.ports()
        await service.stopService()
        return service, [
            formatEvent(event) for event in events if event["log_namespace"].startswith("realtime_chat.service")
        ]

    async def test_lines(self) -> None:
        """At the start it says in one line each what it is, where it is, where messages are kept, who may come, and
        whether there are limits by address."""
        _, lines = await self.said(listen=(LOCAL,))
        self.assertEqual(5, len(lines), lines)
        self.assertIn(f"realtime_chat {__version__}", lines)
        self.assertIn(f"chat page: http://127.0.0.1:{self.ports[0]}/", lines)
        self.assertEqual(1, len([line for line in lines if line.startswith("store: ") and "memory" in line.lower()]))
        (who,) = (line for line in lines if line.startswith("open to: "))
        self.assertIn("this machine only", who)
        self.assertIn("pages of other origins: none", who)

    async def test_limits_by_address(self) -> None:
        """It says for whom limits by address are off, and how they come on; or which proxies are trusted; or that there
        are none."""
        for trusted, rate_limits, words in (
            ([], DEFAULTS, ("off for loopback and Unix sockets", "--trusted-proxy")),
            (["10.0.0.1", "unix"], DEFAULTS, ("on; ", "10.0.0.1, unix")),
            (["unix"], RateLimits(), ("none",)),
        ):
            proxies = TrustedProxies.parse(trusted)
            _, lines = await self.said(listen=(LOCAL,), trusted_proxies=proxies, rate_limits=rate_limits)
            (limits,) = (line for line in lines if line.startswith("limits by address: "))
            for word in words:
                self.assertIn(word, limits)

    async def test_every_url(self) -> None:
        """Each endpoint has its own line, that of the metrics too."""
        _, lines = await self.said(listen=(LOCAL, LOCAL), metrics_listen=(LOCAL,))
        pages = [f"chat page: http://127.0.0.1:{port}/" for port in self.ports[:2]]
        metrics = f"metrics: http://127.0.0.1:{self.ports[2]}/metrics"
        self.assertEqual(pages, [line for line in lines if line.startswith("chat page: ")])
        self.assertIn(metrics, lines)

    async def test_open_to_all(self) -> None:
        """A daemon that others can reach says so, and for which names and origins."""
        _, lines = await self.said(listen=("tcp:0",), hosts=("chat.example",), origins=("https://a.example",))
        (who,) = (line for line in lines if line.startswith("open to: "))
        for word in ("everyone who can reach it", "chat.example", "https://a.example"):
            self.assertIn(word, who)

    async def test_ipv6(self) -> None:
        """An IPv6 address stands in brackets, in whatever endpoint, and loopback is this machine only."""
        for listen in (
            *(
                r"tcp6:0:interface=\:\:1",
                r"tcp:0:interface=\:\:1",
                r"tcp:0:\:\:1",
                r"tcp6:0:interface=0\:0\:0\:0\:0\:0\:0\:1",
            ),
            *(r"haproxy:tcp6:0:interface=\:\:1", r"tcp6:port=0:backlog=9:interface=\:\:1"),
        ):
            _, lines = await self.said(listen=(listen,), metrics_listen=(listen,))
            self.assertIn(f"chat page: http://[::1]:{self.ports[0]}/", lines)
            self.assertIn(f"metrics: http://[::1]:{self.ports[1]}/metrics", lines)
            (who,) = (line for line in lines if line.startswith("open to: "))
            self.assertIn("this machine only", who, listen)

    async def test_every_ipv6_address(self) -> None:
        """On all addresses it is open to everyone, and says an address that a browser can open."""
        for listen in ("tcp6:0", r"tcp6:0:interface=\:\:"):
            _, lines = await self.said(listen=(listen,))
            self.assertIn(f"chat page: http://[::1]:{self.ports[0]}/", lines)
            (who,) = (line for line in lines if line.startswith("open to: "))
            self.assertIn("everyone who can reach it", who, listen)

    def test_interfaces(self) -> None:
        """What is listened on is told apart in each way to write an endpoint; it decides which hosts are served."""
        for endpoint, interface in (
            *(("tcp:8080", ""), ("tcp6:8080", ""), ("tcp:8080:192.0.2.7", "192.0.2.7"), ("unix:/run/s", "")),
            (r"tcp6:8080:interface=2001\:db8\:\:7", "2001:db8::7"),
            (r"tcp6:8080:50:2001\:db8\:\:7", "2001:db8::7"),
            (r"tcp6:8080:interface=fe80\:\:1%eth0", "fe80::1"),
            (r"haproxy:tcp6:interface=\:\:1:port=8080", "::1"),
            ("ssl:8443:privateKey=k.pem:interface=192.0.2.7", "192.0.2.7"),
        ):
            self.assertEqual(interface, Endpoint.parse(endpoint).interface, endpoint)

    async def test_without_page(self) -> None:
        """Without the page it says where it listens; there is nothing at / but the library stays."""
        _, lines = await self.said(listen=(LOCAL,), page="off")
        self.assertIn(f"listening: http://127.0.0.1:{self.ports[0]}/", lines)
        self.assertEqual([], [line for line in lines if line.startswith("chat page: ")])

    async def test_embedded(self) -> None:
        """With a site of somebody's own there is no chat page."""
        _, lines = await self.said(listen=(LOCAL,), site=Resource())
        self.assertIn(f"listening: http://127.0.0.1:{self.ports[0]}/", lines)
        self.assertEqual([], [line for line in lines if "page: " in line])

    async def test_unix(self) -> None:
        """A daemon can listen on a Unix socket alone."""
        path = os.path.relpath(self.mktemp())
        _, lines = await self.said(listen=(f"unix:{path}",))
        self.assertEqual([], self.ports)
        self.assertIn(f"chat page: unix:{path}", lines)

    async def test_again(self) -> None:
        """After a stop everything is let go of: the same port can be listened on again at once."""
        service, _ = await self.said(listen=(LOCAL,))
        self.assertEqual(0, len(service.hub.wheel))
        await self.said(listen=(f"tcp:{self.ports[0]}:interface=127.0.0.1",))


class BacklogTests(SynchronousTestCase):
    """Bursts of connects."""

    def test_backlog(self) -> None:
        """A burst of a thousand connects finds room, unless the endpoint says otherwise."""
        memory_reactor = MemoryReactorClock()
        listen = ("tcp:81:interface=127.0.0.1", "tcp:82:backlog=7", "haproxy:tcp:83")
        service = make_service(memory_reactor, memory(), LocalBroker(), Configuration(listen), time.time, os.urandom)
        service.startService()
        self.assertEqual(
            [(81, 1024), (82, 7), (83, 1024)], [(server[0], server[2]) for server in memory_reactor.tcpServers]
        )


class FileLimitTests(DaemonTestCase):
    """Every connection is an open file."""

    def test_raised(self) -> None:
        """The soft limit becomes the hard one."""
        script = (
            "import resource\n"
            "from realtime_chat.service import raise_file_limit\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))\n"
            "print(raise_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE), raise_file_limit())\n"
        )
        answer = subprocess.run(
            [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, check=True, timeout=DEADLINE
        )
        self.assertEqual(b"300 300 300 300\n", answer.stdout)

    async def test_daemon(self) -> None:
        """A daemon that is started with a low soft limit raises it."""
        daemon = await self.started("--store", "memory:", prefix=("prlimit", "--nofile=100:1000"))
        self.assertEqual((1000, 1000), resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE))


class PageTests(DaemonTestCase):
    """What is at /; ``tests/functional/test_refusals.py`` has what can't be."""

    def page(self, name: str) -> Path:
        """A directory with a page of a site's own, and one file besides."""
        directory = Path(self.mktemp()).resolve()
        for path in (directory / "index.html", directory / name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('<!doctype html><title>Ours</title><script src="realtime.js"></script>')
        return directory

    async def test_pages(self) -> None:
        """The page is ours, a site's own or none; the library and the rooms are there with each."""
        own = str(self.page("help/more.txt"))
        for page, found in (("on", {"", "chat.css"}), ("off", set()), (own, {"", "help/more.txt"})):
            daemon = await self.started("--store", "memory:", "--page", page)
            answers = {
                path: await deferToThread(_status, daemon.url + path)
                for path in ("", "chat.css", "help/more.txt", "realtime.js", "rooms")
            }
            self.assertEqual({"realtime.js", "rooms", *found}, {path for path in answers if answers[path] == 200}, page)
            await deferToThread(daemon.terminate)


class StopTests(ServedTestCase):
    """Stopping in this process."""

    def serve(self) -> None:
        self.holding = HoldingStore()
        configuration = Configuration((LOCAL,))
        self.service = make_service(
            reactor,
            self.holding,
            LocalBroker(),
            configuration,
            time.time,
            os.urandom,  # type: ignore[arg-type]
        )
        self.service.startService()
        (self.port,) = self.service.ports()

    async def test_order(self) -> None:
        """Publishes in flight are acknowledged, then new ones refused; then everybody is told goodbye, and closed."""
        reader, poller = await self.started(SocketClient), await self.started(PollClient)
        await self.until(lambda: self.service.hub.rooms["lobby"].live_count() == 2)
        reader.send(type="publish", room="lobby", data="in flight", id="first")
        await self.until(lambda: self.holding.held)
        stopped = self.service.stopService()
        await self.until(lambda: self.service.hub.stopping)
        reader.send(type="publish", room="lobby", data="late", id="second")
        reader.send(type="ping", id="third")
        await reader.until(lambda: reader.of_type("pong"))
        self.assertEqual([], reader.of_type("error") + reader.of_type("goodbye"))
        self.holding.release()
        await stopped
        await reader.until(lambda: reader.close_code)
        self.assertEqual(("stopping", "second"), tuple(map(reader.of_type("error")[0].get, ("code", "id"))))
        kinds = [event["type"] for event in reader.events]
        self.assertEqual(["published", "error", "goodbye"], [kind for kind in kinds[-4:] if kind != "message"])
        self.assertEqual(4000, reader.close_code)
        await poller.until(lambda: poller.events)
        self.assertEqual("in flight", poller.data[0])

    async def test_store_that_hangs(self) -> None:
        """A store that never answers holds nothing up for long."""
        reader = await self.started(SocketClient)
        reader.send(type="publish", room="lobby", data="for ever", id="first")
        await self.until(lambda: self.holding.held)
        watch = Stopwatch()
        await self.service.stopService()
        self.assertLess(watch.seconds(), 5)
        await reader.until(lambda: reader.close_code)
        self.assertEqual((4000, []), (reader.close_code, reader.of_type("published")))

    async def test_failing_step(self) -> None:
        """Whatever goes wrong at one step, the store is stopped."""
        reader = await self.started(SocketClient)
        stopped: list[bool] = []
        self.patch(self.service._ports[0], "stopListening", lambda: fail(ValueError("a port that can't be closed")))
        self.patch(self.holding._store, "stop", lambda: succeed(stopped.append(True)))
        self.addCleanup(self.service._ports[0].loseConnection)
        await self.service.stopService()
        await reader.until(lambda: reader.close_code)
        self.assertEqual(([True], 1), (stopped, len(self.flushLoggedErrors(ValueError))))

    async def test_not_accepting(self) -> None:
        """Who comes while it stops finds nobody listening."""
        reader = await self.started(SocketClient)
        reader.send(type="publish", room="lobby", data="in flight")
        await self.until(lambda: self.holding.held)
        stopped = self.service.stopService()
        await deferLater(reactor, 0)
        with socket.socket() as late:
            self.assertNotEqual(0, late.connect_ex(("127.0.0.1", self.port)))
        self.holding.release()
        await stopped


class TerminateTests(DaemonTestCase):
    """SIGTERM to a real daemon."""

    def connect(self, daemon: Daemon, data: bytes) -> socket.socket:
        """A connection that sends something, and never reads what comes after the first bytes of an answer."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", daemon.port))
        connection.sendall(data)
        self.addCleanup(connection.close)
        return connection

    async def test_clients_that_never_read(self) -> None:
        """In under five seconds it is gone, whatever its clients do, and the others were told goodbye."""
        daemon = await self.started()
        upgrade = (
            b"GET /ws?room=lobby HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        deaf = self.connect(daemon, upgrade)
        self.assertIn(b"101", deaf.recv(12))
        reader = SocketClient(reactor, daemon.port)
        await reader.start()
        for _ in range(100):
            await reader.publish("x" * 60_000)
        self.connect(daemon, b"GET /rooms/lobby/messages?limit=1000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 3)
        self.connect(daemon, b"GET /poll?room=lo")
        self.connect(daemon, b"POST /commands HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        self.connect(daemon, b"")
        seconds = await deferToThread(daemon.terminate)
        self.assertLess(seconds, 5)
        self.assertEqual(-signal.SIGTERM, daemon.status)  # twistd ends by the signal that stopped it
        await reader.until(lambda: reader.close_code)
        self.assertEqual((4000, 1), (reader.close_code, len(reader.of_type("goodbye"))))
        self.assertNotIn("Traceback", daemon.log)
        self.assertIn("RealtimeService#info] stopped\n", daemon.log)  # the last step, behind that of the store
