"""What strangers can write into the log of a real daemon, and who may read what a daemon writes."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import socket
import ssl
import stat
import struct
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread

from realtime_chat import __version__
from tests.certificates import write_self_signed
from tests.deadlines import DEADLINE
from tests.functional.daemon import Daemon, DaemonTestCase, free_port, wait_until

ROUNDS = 200
MOST_BYTES = 12_000
"""What any one attack may add to the log; each of its rounds would add a line or many."""
EVIL = b"EVIL\x1b[2J"
HOST = b"Host: 127.0.0.1\r\n"


def connect(port: int) -> socket.socket:
    """A connection to the daemon."""
    return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)


def drain(connection: socket.socket) -> bytes:
    """Read till the other side closes."""
    received = b""
    with contextlib.suppress(OSError):
        while data := connection.recv(65536):
            received += data
    return received


def say(port: int, *pieces: bytes) -> bytes:
    """Send bytes on a new connection; give what came until it was closed."""
    with connect(port) as connection:
        with contextlib.suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
        return drain(connection)


def reset(connection: socket.socket) -> None:
    """Close a connection by a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def frame(first: int, payload: bytes, size: int | None = None) -> bytes:
    """A masked WebSocket frame; ``size`` is what it says that its payload has."""
    length = len(payload) if size is None else size
    head = bytes((first, 128 | length)) if length < 126 else bytes((first, 254)) + struct.pack(">H", length)
    return head + b"\0\0\0\0" + payload


def upgraded(port: int, extra: bytes = b"") -> socket.socket:
    """A WebSocket whose handshake is done."""
    connection = connect(port)
    key = base64.b64encode(os.urandom(16))
    connection.sendall(
        b"GET /ws?room=lobby HTTP/1.1\r\n%bUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: %b\r\n%b\r\n" % (HOST, key, extra)
    )
    connection.recv(65536)
    return connection


def bad_websockets(port: int) -> None:
    """Every way to be wrong that RFC 6455 has a word for."""
    wrong = (
        frame(0xF1, b"x"),
        frame(0x83, b"x"),
        frame(0x09, b"x"),
        frame(0x80, b"x"),
        frame(0x88, b"\x00\x01"),
        frame(0x88, b"\x03\xe8" + b"\xff" * 9),
        frame(0x82, b"\xff" * 20),
        frame(0x81, b"\xff\xfe"),
        b"\x81\x05" + EVIL[:5],
        b"\x81\xff" + b"\xff" * 8,
        frame(0x81, b"", 60_000),
        b"\x89\xfe\x01\x00" + b"\0\0\0\0" + b"x" * 256,
        b"\x81\xff" + struct.pack(">Q", 1 << 40) + b"\0\0\0\0" + EVIL,
    )
    for number in range(ROUNDS):
        with upgraded(port) as connection, contextlib.suppress(OSError):
            connection.sendall(wrong[number % len(wrong)])
            connection.shutdown(socket.SHUT_WR)
            drain(connection)


def bad_handshakes(port: int) -> None:
    """Upgrades that can't be made."""
    for number in range(ROUNDS):
        version = b"13" if number % 2 else EVIL
        say(
            port,
            b"GET /ws HTTP/1.1\r\n%bUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: %b\r\n"
            b"Sec-WebSocket-Key: %b\r\n\r\n" % (HOST, version, EVIL),
        )


def bad_frames_of_compression(port: int) -> None:
    """Compressed frames that can't be inflated, or become too large."""
    offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    for number in range(ROUNDS):
        with upgraded(port, offer) as connection, contextlib.suppress(OSError):
            connection.sendall(frame(0xC1, os.urandom(100) if number % 2 else b"\xff\xff\x00\x00" + EVIL))
            connection.shutdown(socket.SHUT_WR)
            drain(connection)


def bad_requests(port: int) -> None:
    """What is no HTTP, or no request that can be answered."""
    wrong = (
        EVIL + b"\r\n\r\n",
        b"GET " + EVIL + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: " + EVIL + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /commands HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + EVIL + b"\r\n",
        b"POST /commands HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n" + EVIL[:9].ljust(9),
        b"POST /commands HTTP/1.1\r\n" + HOST + b"Content-Length: 20000\r\n\r\n" + b"[" * 20000,
        b"GET /" + b"%ff%00" * 400 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(100),
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 300 + b"\r\n",
        EVIL + b" / HTTP/1.1\r\n" + HOST + b"\r\n",
    )
    for number in range(ROUNDS):
        say(port, wrong[number % len(wrong)])


def broken_off(port: int) -> None:
    """Connections that are reset in the middle of whatever they are doing."""
    for number in range(ROUNDS):
        if number % 4 == 0:
            reset(upgraded(port))
            continue
        connection = connect(port)
        connection.sendall(
            (
                b"GET /poll?room=lobby HTTP/1.1\r\n" + HOST,
                b"GET /sse?room=lobby HTTP/1.1\r\n" + HOST + b"\r\n",
                b"POST /rooms/lobby/messages HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\n123",
            )[number % 4 - 1]
        )
        reset(connection)


def garbage(port: int) -> None:
    """Bytes that are neither TLS nor haproxy's protocol."""
    wrong = (
        EVIL * 20,
        b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(300),
        b"PROXY TCP4 " + EVIL + b" 2.2.2.2 1 2\r\n\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 99999 x\r\nGET / HTTP/1.1\r\n\r\n",
        b"PROXY UNKNOWN\r\nGET / HTTP/1.1\r\n\r\n",
        b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x03abc" + EVIL * 9,
        b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\xff\xff\xff\xff" + os.urandom(100),
    )
    for number in range(ROUNDS):
        say(port, wrong[number % len(wrong)])


def broken_handshakes(port: int) -> None:
    """TLS that is broken off, or that wants what the server hasn't."""
    for number in range(ROUNDS):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody
        if number % 2:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with contextlib.suppress(OSError), context.wrap_socket(connect(port), server_hostname="localhost") as wrapped:
            wrapped.sendall(b"GET / HTTP/1.1\r\n")
            reset(wrapped)


def status(url: str, data: bytes | None = None) -> tuple[int, Any]:
    """The status and the JSON of one request's answer."""
    try:
        with urllib.request.urlopen(url, data, timeout=DEADLINE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


class FloodTests(DaemonTestCase):
    """Whatever a stranger repeats, the log stays short, and the operator's lines stand in it."""

    async def attacked(self, daemon: Daemon, *attacks: Callable[[int], object], port: int | None = None) -> str:
        """Attack a daemon, and stop it; give what it has logged because of that."""
        before = len(daemon.log)
        for attack in attacks:
            await deferToThread(attack, port or daemon.port)
            self.assertEqual(
                (200, {"status": "ok", "version": __version__}), await deferToThread(status, daemon.url + "healthz")
            )
        await deferToThread(daemon.terminate)
        said = daemon.log[before:]
        self.assertLess(len(said), MOST_BYTES, said[:4000])
        self.assertNotIn("\x1b", said)
        self.assertIn("stopped", said)
        self.assertIn("Server Shut Down.", said)
        return said

    async def test_websockets(self) -> None:
        """Bad WebSockets and bad handshakes."""
        said = await self.attacked(await self.started(), bad_websockets, bad_handshakes)
        self.assertRegex(said, r"\d+ more like this were left out within 60 s: ")

    async def test_compression(self) -> None:
        """Bad compressed frames."""
        await self.attacked(await self.started("--compress"), bad_frames_of_compression)

    async def test_requests(self) -> None:
        """Bad requests, and connections that are broken off."""
        await self.attacked(await self.started(), bad_requests, broken_off)

    async def test_tls(self) -> None:
        """Garbage and broken handshakes where TLS is expected."""
        key, certificate = write_self_signed(self.mktemp(), "localhost")
        port = free_port()
        where = f"ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        await self.attacked(await self.started("--listen", where), garbage, broken_handshakes, port=port)

    async def test_haproxy(self) -> None:
        """Garbage where haproxy's protocol is expected."""
        port = free_port()
        daemon = await self.started("--open", "--listen", f"haproxy:tcp:{port}:interface=127.0.0.1")
        self.assertNotIn("Traceback", await self.attacked(daemon, garbage, port=port))

    async def test_proxy_that_is_trusted(self) -> None:
        """The same from a proxy that is trusted: it is told in few lines, without anything that it has sent."""
        port = free_port()
        where = f"haproxy:tcp:{port}:interface=127.0.0.1"
        daemon = await self.started("--open", "--listen", where, "--trusted-proxy", "loopback")
        said = await self.attacked(daemon, garbage, port=port)
        self.assertIn("127.0.0.1 sent no PROXY header that can be read", said)
        self.assertLessEqual(said.count("can be read"), 4)
        self.assertNotIn("Traceback", said)

    async def test_too_few_files(self) -> None:
        """Connections that can't be accepted, as there are no file descriptors left."""
        daemon = await self.started()
        used = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        limit = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)

        def flood(port: int) -> None:
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (used + 10, limit[1]))
            for _ in range(20):
                connections = [connect(port) for _ in range(40)]
                wait_until(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) >= used + 9)
                for connection in connections:
                    reset(connection)
                wait_until(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= used + 1)
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, limit)

        said = await self.attacked(daemon, flood)
        self.assertIn("EMFILE", said)

    async def test_failing_store(self) -> None:
        """Publishes that can't be stored; what they are told names no path, and the log does."""
        daemon = await self.started()
        database = daemon.directory / "data" / "realtime.sqlite"

        def flood(port: int) -> None:
            url = f"http://127.0.0.1:{port}/"
            database.rename(database.with_suffix(".moved"))
            database.mkdir()
            try:
                for number in range(ROUNDS):
                    room = f"{url}rooms/room{number}/"
                    for answer in (status(room + "messages", b"text=x"), status(url + "readyz"), status(url + "rooms")):
                        self.assertEqual((503, "store_unavailable"), (answer[0], answer[1]["code"]))
                        self.assertNotRegex(answer[1]["message"], r"/|sqlite|\d")
            finally:
                database.rmdir()

        said = await self.attacked(daemon, flood)
        self.assertIn(str(database), said)


class FilesTests(DaemonTestCase):
    """Who may read what a daemon has written."""

    async def test_owner_alone(self) -> None:
        """Whatever the umask is, nobody but the daemon's user may read or write any file or directory of it."""
        top = Path(self.mktemp()).absolute()
        options = ("--data-dir", str(top / "a" / "b" / "data"), "--access-log", str(top / "a" / "access.log"))
        shell = ("/bin/sh", "-c", 'umask 0; exec "$@"', "sh")
        daemon = self.daemon(*options, prefix=shell)
        await deferToThread(daemon.start)

        def use() -> set[Path]:
            for _ in range(20):
                self.assertEqual(201, status(daemon.url + "rooms/lobby/messages", b"text=x")[0])
            self.assertEqual(404, status(daemon.url + "nowhere")[0])
            return self.check(top)

        names = {path.name for path in await deferToThread(use)}
        self.assertEqual(
            {"b", "data", "access.log", *(f"realtime.sqlite{end}" for end in ("", "-wal", "-shm", "-lock"))},
            names - {"a"},
        )
        await deferToThread(daemon.terminate)
        self.check(top)

    def check(self, top: Path) -> set[Path]:
        """Look at everything below a directory."""
        paths = set(top.rglob("*"))
        for path in paths:
            self.assertEqual(0, stat.S_IMODE(path.stat().st_mode) & 0o077, path)
        return paths
