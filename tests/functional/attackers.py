"""Strangers who take what they can of a daemon, in a process of their own:
``python -m tests.functional.attackers PORT SOURCE``.

Each thing that the process does is a *way* to attack, bounded in seconds; connections stay open until ``release``.
In what is sent, ``{name}`` stands for a room that nobody has named before, ``{names}`` for a query of a hundred, and
``{address}`` for an address from which nobody has come before.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Address
from typing import Any

from tests.deadlines import DEADLINE
from tests.functional.raw_clients import GONE, frame
from tests.functional.worker_process import WorkerProcess, serve

__all__ = ["Attackers", "get", "post", "upgrade"]

_TEXT = 1
_LEAST = 5
"""What is done at least, connections not counted: on a busy machine a short attack would be none."""
_SMALL = 4096
_ONCE_READ = 1 << 20
_ADDRESSES = int(IPv4Address("198.18.0.0"))
"""Where addresses begin that are given to nobody (RFC 2544); there are 131,072."""


def get(path: str, *headers: str, method: str = "GET") -> str:
    """A request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""])


def post(path: str, body: str) -> str:
    """A request with a JSON body, whose length is counted when its names are filled in."""
    return get(path, "Content-Type: application/json", "Content-Length: {length}", method="POST") + body


def upgrade(*headers: str) -> str:
    """A request for a WebSocket."""
    key = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    return get("/ws", *key, "Sec-WebSocket-Version: 13", *headers)


class _Names:
    """Fills made-up rooms into what is sent."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def fill(self, template: str) -> bytes:
        """The bytes that a template stands for."""
        text = template
        if "{names}" in text:
            text = text.replace("{names}", "&".join(f"room={self._new()}" for _ in range(100)))
        text = re.sub(r"{name}", lambda _: self._new(), text)
        text = re.sub(r"{address}", lambda _: str(IPv4Address(_ADDRESSES + next(self._numbers))), text)
        if "{length}" in text:
            text = text.replace("{length}", str(len(text.partition("\r\n\r\n")[2])))
        return text.encode("latin-1")

    def _new(self) -> str:
        return f"made-{os.getpid()}-{next(self._numbers)}"


class _AttackWorker:
    """What the process does.

    :param source: the address from which it comes.
    """

    def __init__(self, port: int, source: str) -> None:
        os.nice(10)  # the load is not to take the time of those whom it is measured on
        self.port = port
        self._source = (source, 0)
        self._names = _Names()
        self._open: list[socket.socket] = []
        self._counters: Counter[str] = Counter()
        self._insists = False

    # What the ways have in common

    async def _for_a_while(
        self, seconds: float, connections: int, live: Callable[[], Coroutine[Any, Any, None]]
    ) -> Any:
        """Let so many live side by side for some seconds, till they have done something; answer what was counted."""

        async def again() -> None:
            while True:
                try:
                    await live()
                except GONE as error:
                    self._counters[type(error).__name__] += 1
                    await asyncio.sleep(0.01)

        self._counters.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds + DEADLINE), asyncio.TaskGroup() as group:
                lives = [group.create_task(again()) for _ in range(connections)]
                await asyncio.sleep(seconds)
                while not self._has_done_enough():
                    await asyncio.sleep(0.01)
                for life in lives:
                    life.cancel()
        return dict(self._counters)

    def _has_done_enough(self) -> bool:
        if self._insists and not self._counters["429"] + self._counters["errors"]:
            return False
        return self._counters.total() - self._counters["connections"] >= _LEAST

    async def insist(self) -> dict[str, Any]:
        """From now on, end nothing before something was refused, however slow the machine is."""
        self._insists = True
        return {}

    async def _connect(self, receive: int = 0) -> socket.socket:
        """A connection, which is kept.

        :param receive: bytes that its kernel keeps for it.
        """
        connection = socket.socket()
        if receive:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        connection.setblocking(False)
        connection.bind(self._source)
        self._open.append(connection)
        async with asyncio.timeout(DEADLINE):
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.port))
        self._counters["connections"] += 1
        return connection

    def _drop(self, connection: socket.socket) -> None:
        connection.close()
        with contextlib.suppress(ValueError):
            self._open.remove(connection)

    async def release(self) -> dict[str, Any]:
        """Close everything."""
        for connection in list(self._open):
            self._drop(connection)
        return {}

    async def _handshake(self, receive: int = 0) -> socket.socket:
        """An open WebSocket."""
        connection = await self._connect(receive)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, upgrade().encode())
        head = b""
        while b"\r\n\r\n" not in head:
            data = await loop.sock_recv(connection, 1024)
            if not data:
                raise EOFError("closed in the handshake")
            head += data
        return connection

    # The ways

    async def dont_read(self, requests: list[str], connections: int, times: int, seconds: float) -> dict[str, Any]:
        """Send requests behind each other, and read no answer."""

        async def live() -> None:
            connection = await self._connect(_SMALL)
            for _ in range(times):
                for request in requests:
                    await asyncio.get_running_loop().sock_sendall(connection, self._names.fill(request))
                    self._counters["sent"] += 1
                    await asyncio.sleep(0)
            await asyncio.Event().wait()

        return await self._for_a_while(seconds, connections, live)

    async def read_slowly(self, requests: list[str], connections: int, times: int, seconds: float) -> dict[str, Any]:
        """The same, and read a byte a second."""

        async def live() -> None:
            connection = await self._connect(_SMALL)
            loop = asyncio.get_running_loop()
            whole = b"".join(self._names.fill(request) for _ in range(times) for request in requests)
            sending = loop.create_task(loop.sock_sendall(connection, whole))
            try:
                while await loop.sock_recv(connection, 1):
                    self._counters["bytes"] += 1
                    await asyncio.sleep(1)
            finally:
                sending.cancel()
            raise EOFError("closed")

        return await self._for_a_while(seconds, connections, live)

    async def dont_hear(self, commands: list[str], connections: int, times: int, seconds: float) -> dict[str, Any]:
        """Send commands over WebSockets, and read no reply."""

        async def live() -> None:
            connection = await self._handshake(_SMALL)
            for _ in range(times):
                for command in commands:
                    await asyncio.get_running_loop().sock_sendall(connection, frame(_TEXT, self._names.fill(command)))
                    self._counters["sent"] += 1
                    await asyncio.sleep(0)
            await asyncio.Event().wait()

        return await self._for_a_while(seconds, connections, live)

    async def command(self, commands: list[str], connections: int, seconds: float) -> dict[str, Any]:
        """Send commands over WebSockets as fast as they are taken, each list with one name, and read the replies."""

        async def live() -> None:
            connection = await self._handshake()
            loop = asyncio.get_running_loop()
            reading = loop.create_task(self._read_all(connection))
            try:
                while not reading.done():
                    name = self._names.fill("{name}").decode()
                    texts = [frame(_TEXT, self._names.fill(text.replace("{name}", name))) for text in commands]
                    await loop.sock_sendall(connection, b"".join(texts))
                    self._counters["sent"] += len(texts)
                    await asyncio.sleep(0)  # a send that need not wait lets nobody else run, nor the time be over
            finally:
                reading.cancel()
                self._drop(connection)

        return await self._for_a_while(seconds, connections, live)

    async def _read_all(self, connection: socket.socket) -> None:
        while data := await asyncio.get_running_loop().sock_recv(connection, 65536):
            self._counters["errors"] += data.count(b'"type":"error"')

    async def heap(self, requests: list[str], connections: int, times: int, seconds: float) -> dict[str, Any]:
        """Send many requests in one piece, and read all answers."""

        async def live() -> None:
            whole = b"".join(self._names.fill(request) for _ in range(times) for request in requests)
            await self._send_again(await self._connect(), whole)

        return await self._for_a_while(seconds, connections, live)

    async def heap_frames(self, commands: list[str], connections: int, times: int, seconds: float) -> dict[str, Any]:
        """Send many commands over a WebSocket in one piece, and read all replies."""

        async def live() -> None:
            whole = b"".join(frame(_TEXT, self._names.fill(text)) for _ in range(times) for text in commands)
            await self._send_again(await self._handshake(), whole)

        return await self._for_a_while(seconds, connections, live)

    async def _send_again(self, connection: socket.socket, whole: bytes) -> None:
        """Send the same again and again, as long as the daemon takes it."""
        reading = asyncio.create_task(self._read_all(connection))
        try:
            while not reading.done():
                await asyncio.get_running_loop().sock_sendall(connection, whole)
                self._counters["sent"] += 1
                await asyncio.sleep(0)
        finally:
            reading.cancel()
            self._drop(connection)

    async def hold_halves(self, connections: int, seconds: float) -> dict[str, Any]:
        """Open WebSockets, and send the first part of a message that is nearly as large as one may be."""

        async def live() -> None:
            connection = await self._handshake()
            begun = bytes((_TEXT,)) + frame(0, b" " * 65_000)[1:]
            await asyncio.get_running_loop().sock_sendall(connection, begun)
            self._counters["halves"] += 1
            await asyncio.Event().wait()

        return await self._for_a_while(seconds, connections, live)

    async def ask(self, requests: list[str], connections: int, seconds: float) -> dict[str, Any]:
        """Send requests one after the other, and read each answer."""

        async def live() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=self._source)
            try:
                while True:
                    for request in requests:
                        writer.write(self._names.fill(request))
                        head = await reader.readuntil(b"\r\n\r\n")
                        length = head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
                        await reader.readexactly(int(length))
                        self._counters[head[9:12].decode()] += 1
            finally:
                writer.transport.abort()

        return await self._for_a_while(seconds, connections, live)

    async def open_and_drop(self, requests: list[str], connections: int, seconds: float) -> dict[str, Any]:
        """Connect, send, wait for the first bytes of an answer, and cut the connection."""

        async def live() -> None:
            for request in requests:
                connection = await self._connect()
                loop = asyncio.get_running_loop()
                try:
                    await loop.sock_sendall(connection, self._names.fill(request))
                    async with asyncio.timeout(1):
                        data = await loop.sock_recv(connection, _ONCE_READ)
                    self._counters[data[9:12].decode("latin-1")] += 1
                finally:
                    self._drop(connection)

        return await self._for_a_while(seconds, connections, live)

    async def break_off(self, requests: list[str], connections: int, seconds: float) -> dict[str, Any]:
        """Connect, send, and cut the connection at once, with a reset."""

        async def live() -> None:
            for request in requests:
                connection = await self._connect()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                await asyncio.get_running_loop().sock_sendall(connection, self._names.fill(request))
                self._counters["sent"] += 1
                await asyncio.sleep(0)
                self._drop(connection)

        return await self._for_a_while(seconds, connections, live)

    async def break_frames(self, frames: list[str], connections: int, seconds: float) -> dict[str, Any]:
        """Open WebSockets, send bytes that are no good right behind the request, and see the daemon close."""

        async def live() -> None:
            loop = asyncio.get_running_loop()
            for sent in frames:
                connection = await self._connect()
                try:
                    await loop.sock_sendall(connection, upgrade().encode() + sent.encode("latin-1"))
                    await loop.sock_recv(connection, _ONCE_READ)
                    self._counters["sent"] += 1
                finally:
                    self._drop(connection)

        return await self._for_a_while(seconds, connections, live)

    async def swarm(self, room: str, count: int) -> dict[str, Any]:
        """Let so many clients join a room, each with as much to say of itself as there may be."""
        for _ in range(count):
            connection = await self._handshake()
            state = '{"type":"state","state":{"about":"%s"}}' % ("x" * 1000)
            join = f'{{"type":"join","room":"{room}","last":0}}'
            await asyncio.get_running_loop().sock_sendall(
                connection, frame(_TEXT, state.encode()) + frame(_TEXT, join.encode())
            )
        return {}

    async def occupy(self, connections: int, seconds: float) -> dict[str, Any]:
        """Open connections, say nothing, and keep them; open another for each that is closed."""

        async def live() -> None:
            connection = await self._connect()
            self._counters["silent"] += 1
            try:
                data = await asyncio.get_running_loop().sock_recv(connection, _ONCE_READ)
                self._counters[data[9:12].decode("latin-1") or "closed"] += 1
            finally:
                self._drop(connection)

        return await self._for_a_while(seconds, connections, live)


class Attackers(WorkerProcess):
    """Such a process, as a test has it."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        super().__init__("tests.functional.attackers", str(port), source)


if __name__ == "__main__":
    serve(_AttackWorker(int(sys.argv[1]), sys.argv[2]))
