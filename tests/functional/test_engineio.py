"""Engine.IO in a daemon process: official clients from npm, scripts over raw HTTP, and connections that break."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.deadlines import TEST_TIMEOUT
from tests.engineio.echo import program as echo_program
from tests.functional.daemon import NO_LIMITS, Daemon, wait_until
from tests.functional.node_process import NodeProcess
from tests.functional.raw_clients import frame

COUNT = 60
CLIENT = Path(__file__).with_name("engineio_client.mjs")

VERSIONS = {"engine.io-client": 4, "engine.io-client-3": 3}
OPTIONS: dict[str, dict[str, Any]] = {
    "polling": {"transports": ["polling"]},
    "websocket": {"transports": ["websocket"]},
    "upgrading": {},
    "polling, base64": {"transports": ["polling"], "forceBase64": True},
    "websocket, base64": {"transports": ["websocket"], "forceBase64": True},
}


class OfficialClient(NodeProcess):
    """A process with an official client."""

    def __init__(self, package: str, url: str, options: dict[str, Any], count: int = COUNT, pause: int = 1) -> None:
        options = {"path": "/engine.io/", **options}
        super().__init__(CLIENT, package, url, json.dumps(options), str(count), str(pause))

    @property
    def numbers(self) -> list[int]:
        """The numbers of the messages that came back, in order."""
        return [_number(event["data"]) for event in self.of_type("message")]

    def wait_for(self, count: int, name: str) -> None:
        """Wait until so many messages have come back."""
        wait_until(lambda: len(self.numbers) >= count, lambda: f"{name}: {self.events[-3:]}")

    def ask_to_close(self) -> None:
        self.write("close")


def _number(data: str | list[int]) -> int:
    return int(data.split()[1]) if isinstance(data, str) else data[6] + 256 * data[7]


class EchoTestCase(SynchronousTestCase):
    """A daemon with an echo."""

    timeout = TEST_TIMEOUT
    settings: dict[str, Any] = {}

    def setUp(self) -> None:
        settings = {"eio3": True, "jsonp": True, "ping_interval": 1.0, "ping_timeout": 2.0, **self.settings}
        self.daemon = Daemon(self.mktemp(), *NO_LIMITS, program=echo_program(**settings)).start()
        self.addCleanup(self.daemon.kill)

    def client(self, package: str, options: dict[str, Any], count: int = COUNT, pause: int = 1) -> OfficialClient:
        client = OfficialClient(package, self.daemon.url, options, count, pause)
        self.addCleanup(client.kill)
        return client

    def clients(self, *names: str) -> dict[tuple[str, str], OfficialClient]:
        """A client of each version for each of these options."""
        return {(package, name): self.client(package, OPTIONS[name]) for package in VERSIONS for name in names}

    def ask(self, query: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """The status and the body of an answer."""
        url = f"{self.daemon.url}engine.io/?{query}"
        request = urllib.request.Request(url, body, {name.replace("_", "-"): text for name, text in headers.items()})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def check_log(self) -> None:
        """There is no error in the daemon's log."""
        self.assertNotIn("Traceback", self.daemon.log)


class OfficialClientTests(EchoTestCase):
    """engine.io-client of npm, versions 6 and 3."""

    def test_messages(self) -> None:
        """By each transport, all messages come back once, in order, as what they were; and the session stays."""
        clients = self.clients(*OPTIONS)
        for key, client in clients.items():
            client.wait_for(COUNT, str(key))
        threading.Event().wait(4)  # the interval and the time-out of pings, and the wheel's lateness
        for key, client in clients.items():
            self.assertEqual(list(range(COUNT)), client.numbers, key)
            self.assertEqual(([], []), (client.of_type("error"), client.of_type("close")), key)
            self.assertEqual("upgrading" in key, bool(client.of_type("upgrade")), key)
            client.ask_to_close()
        for key, client in clients.items():
            (closed,) = wait_until(lambda client=client: client.of_type("close"))
            self.assertEqual("forced close", closed["reason"], key)
        self.check_log()

    def test_order_through_upgrades(self) -> None:
        """While messages go both ways as fast as they can, an upgrade loses none and changes no order."""
        clients = [self.client(package, {}, 1000, 0) for package in VERSIONS for _ in range(3)]
        for client in clients:
            client.wait_for(1000, "upgrading")
            self.assertEqual(list(range(1000)), client.numbers)
            self.assertEqual(["websocket"], [event["transport"] for event in client.of_type("upgrade")])
        self.check_log()

    def test_stop(self) -> None:
        """When the daemon stops, every client is told at once."""
        clients = self.clients("polling", "websocket")
        for key, client in clients.items():
            client.wait_for(COUNT, str(key))
        self.daemon.terminate()
        for key, client in clients.items():
            self.assertTrue(wait_until(lambda client=client: client.of_type("close"), patience=10), key)
        self.check_log()


class ScriptTests(EchoTestCase):
    """Polling by scripts (JSONP), over raw HTTP."""

    def test_conversation(self) -> None:
        """A session can be opened, written to, read and closed by scripts and forms alone."""
        query = "EIO=4&transport=polling&j=0"
        status, script = self.ask(query)
        self.assertEqual((200, b'___eio[0]("0'), (status, script[:12]))
        opening = json.loads(json.loads(script[len(b"___eio[0](") : -len(b");")])[1:])
        query += f"&sid={opening['sid']}"
        form = {"Content_Type": "application/x-www-form-urlencoded"}
        self.assertEqual((200, b"ok"), self.ask(query, b"d=4a%5Cnb%1EbAQID", **form))
        self.assertEqual((200, b'___eio[0]("4a\\nb\\u001ebAQID");'), self.ask(query))
        self.assertEqual((200, b"ok"), self.ask(query, b"d=1", **form))
        self.assertEqual(400, self.ask(query)[0])
        self.check_log()


HANDSHAKE = (
    b"GET /engine.io/?EIO=4&transport=websocket%b HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
BROKEN: dict[str, bytes] = {
    "half a handshake": HANDSHAKE[:60],
    "a handshake and nothing more": HANDSHAKE % b"",
    "an upgrade of no session": HANDSHAKE % b"&sid=aaaaaaaaaaaaaaaaaaaa",
    "half a frame": HANDSHAKE % b"" + b"\x81\xfe\x10\x00abc",
    "an unmasked frame": HANDSHAKE % b"" + b"\x81\x024a",
    "a reserved opcode": HANDSHAKE % b"" + b"\x83\x80\0\0\0\0",
    "a frame that is too long": HANDSHAKE % b"" + b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
    "no packet": HANDSHAKE % b"" + b"\x81\x83\0\0\0\0abc",
    "a text that is no UTF-8": HANDSHAKE % b"" + b"\x81\x82\0\0\0\x004\xff",
    "fragments without end": HANDSHAKE % b"" + b"\x01\x80\0\0\0\0" + b"\0\x80\0\0\0\0" * 1000,
    "ten thousand pings": HANDSHAKE % b"" + b"\x89\x80\0\0\0\0" * 10_000,
    "ten thousand close packets": HANDSHAKE % b"" + b"\x81\x81\0\0\0\0001" * 10_000,
}
"""What a client sends before it hangs up."""


class BrokenTests(EchoTestCase):
    """What breaks off or is malformed ends its own connection, and nobody else notices."""

    def setUp(self) -> None:
        super().setUp()
        self.bystanders = [self.client(package, {}, 10_000, 20) for package in VERSIONS]
        for client in self.bystanders:
            wait_until(lambda client=client: client.of_type("upgrade"))

    def check_bystanders(self, name: str) -> None:
        for client in self.bystanders:
            client.wait_for(len(client.numbers) + 1, name)
            self.assertEqual(([], []), (client.of_type("close"), client.of_type("error")), name)
            self.assertEqual(list(range(len(client.numbers))), client.numbers, name)

    def send(self, data: bytes) -> None:
        """Send, read what comes for a moment, and hang up."""
        with socket.create_connection(("127.0.0.1", self.daemon.port), timeout=0.2) as peer:
            try:
                peer.sendall(data)
                while peer.recv(65536):
                    pass
            except OSError:
                pass

    def test_websockets(self) -> None:
        """WebSockets, by a table."""
        for name, data in BROKEN.items():
            self.send(data)
            self.check_bystanders(name)
        self.check_log()

    def test_polls_and_upgrades(self) -> None:
        """Polls and bodies that break off, and upgrades that are left alone at each step."""
        upgrade = HANDSHAKE.replace(b"%b", b"&sid=%b")
        for name, rest in (
            ("a poll", b"GET /engine.io/?EIO=4&transport=polling&sid=%b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
            (
                "half a body",
                b"POST /engine.io/?EIO=4&transport=polling&sid=%b HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                b"Content-Length: 100\r\n\r\n4hello",
            ),
            ("a WebSocket without a probe", upgrade),
            ("half a probe", upgrade + b"\x81\x86\0\0\0\x002pr"),
            ("no packet instead of a probe", upgrade + frame(1, b"x")),
            ("an upgrade without a probe", upgrade + frame(1, b"5")),
            ("a probe", upgrade + frame(1, b"2probe")),
            ("a message after the probe", upgrade + frame(1, b"2probe") + frame(1, b"4hello")),
            ("an upgrade", upgrade + frame(1, b"2probe") + frame(1, b"5")),
            ("an upgrade and half a message", upgrade + frame(1, b"2probe") + frame(1, b"5") + b"\x81\x86\0\0\0\x004h"),
        ):
            status, opening = self.ask("EIO=4&transport=polling")
            sid = json.loads(opening[1:])["sid"]
            self.send(rest % sid.encode())
            self.check_bystanders(name)
            self.assertIn(self.ask(f"EIO=4&transport=polling&sid={sid}")[0], (200, 400), status)
        self.check_log()


class SlowTests(EchoTestCase):
    """A client that doesn't read."""

    settings = {"ping_interval": 25.0, "ping_timeout": 20.0}

    def test_slow_reader(self) -> None:
        """What a client sends without reading isn't read any more once its socket is full, so memory stays small."""
        message = b"4" + b"x" * 60_000
        frame = b"\x81\xfe" + len(message).to_bytes(2, "big") + b"\0\0\0\0" + message
        before = self.memory()
        with socket.create_connection(("127.0.0.1", self.daemon.port), timeout=2) as peer:
            peer.sendall(HANDSHAKE % b"")
            self.assertRaises(TimeoutError, peer.sendall, frame * 1000)
            self.assertLess(self.memory() - before, 8 * 1024)
            self.assertEqual(200, self.ask("EIO=4&transport=polling")[0])
        self.check_log()

    def memory(self) -> int:
        """Resident memory of the daemon, in kilobytes."""
        lines = Path(f"/proc/{self.daemon.pid}/status").read_text("ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
