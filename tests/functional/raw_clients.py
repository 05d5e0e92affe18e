"""Minimal clients of a daemon and of Redis, on asyncio: requests, WebSockets, event streams, Redis commands."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.web.http import _ChunkedTransferDecoder

from tests.deadlines import DEADLINE

__all__ = ["GONE", "RawEventStream", "RawHTTP", "RawRedis", "RawWebSocket", "RedisError", "Unavailable", "frame"]

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


class Unavailable(Exception):
    """The server says that another attempt may work."""


class RedisError(Exception):
    """An error reply from Redis."""


# The errors that a client sees if the server is killed, stops, hangs, or is not started yet.
GONE = (OSError, EOFError, TimeoutError, Unavailable)


def frame(opcode: int, payload: bytes) -> bytes:
    """A client's WebSocket frame, with a mask of zeros."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, 0x80 | size)) + b"\0\0\0\0" + payload
    code, width = (0xFE, 2) if size < 65536 else (0xFF, 8)
    return bytes((0x80 | opcode, code)) + size.to_bytes(width, "big") + b"\0\0\0\0" + payload


class _RawConnection(asyncio.Protocol):
    """A connection whose answer begins with an HTTP head.

    :ivar head: this head, once it is whole.
    """

    def __init__(self, take: Callable[[bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self.head = b""
        self.opened: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.transport: Any = None
        self._take = take
        self._data = b""

    @classmethod
    async def connect(cls, port: int, request: bytes, take: Callable[[bytes], None], source: str = "127.0.0.1") -> Any:
        """Connect, send the request, and wait for the head of the answer.

        :param take: is called with each piece of the body.
        :param source: the address to connect from.
        :raises Unavailable: the status is neither 101 nor 200.
        """
        loop = asyncio.get_running_loop()
        raw = cls(take)
        async with asyncio.timeout(DEADLINE):
            raw.transport, _ = await loop.create_connection(lambda: raw, "127.0.0.1", port, local_addr=(source, 0))
            raw.transport.write(request)
            try:
                await raw.opened
            except BaseException:
                raw.transport.abort()
                raise
        return raw

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self.head:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return
            self.head, self._data = head, rest
            self._opened()
        self._read()

    def _opened(self) -> None:
        if self.opened.done():
            return
        if self.head[9:12] in (b"101", b"200"):
            self.opened.set_result(None)
        else:
            self.opened.set_exception(Unavailable(self.head[:12].decode() + self._data[:200].decode(errors="replace")))

    def _read(self) -> None:
        raise NotImplementedError

    def connection_lost(self, reason: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionResetError("closed before its answer"))
        if not self.lost.done():
            self.lost.set_result(None)

    def close(self) -> None:
        """Cut the connection."""
        self.transport.abort()


class RawWebSocket(_RawConnection):
    """A WebSocket."""

    def _read(self) -> None:
        data, at, end = self._data, 0, len(self._data)
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                size = int.from_bytes(data[at + 2 : start], "big")
            if end < start + size:
                break
            self._frame(data[at] & 15, data[start : start + size])
            at = start + size
        self._data = data[at:]

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == _TEXT:
            self._take(payload)
        elif opcode == _PING:
            self.transport.write(frame(_PONG, payload))
        elif opcode == _CLOSE:
            self.transport.write(frame(_CLOSE, payload[:2]))
            self.transport.close()

    def send(self, payload: bytes) -> None:
        """Send one text frame.

        :raises ConnectionResetError: the connection is lost already.
        """
        if self.lost.done() or self.transport.is_closing():
            raise ConnectionResetError("the connection is lost")
        self.transport.write(frame(_TEXT, payload))

    def say_goodbye(self) -> None:
        """Send a close frame. The connection is lost when the server has closed it too."""
        self.transport.write(frame(_CLOSE, b"\x03\xe8"))


class RawEventStream(_RawConnection):
    """An event stream in chunks. ``take`` is called with each value of ``data``.

    It closes after the last chunk, as a proxy may keep the connection open.
    """

    def __init__(self, take: Callable[[bytes], None]) -> None:
        super().__init__(take)
        self._text = b""
        self._chunks = _ChunkedTransferDecoder(self._take_text, lambda rest: self.transport.close())

    def _read(self) -> None:
        data, self._data = self._data, b""
        self._chunks.dataReceived(data)

    def _take_text(self, text: bytes) -> None:
        *blocks, self._text = (self._text + text).split(b"\n\n")
        for block in blocks:
            for line in block.split(b"\n"):
                if line.startswith(b"data: "):
                    self._take(line[6:])


class RawHTTP:
    """A persistent connection to a port. It is opened again after it was lost."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"", *headers: str) -> tuple[int, bytes]:
        """Send a request; return the status and the body of the answer.

        :raises OSError, EOFError, TimeoutError: no answer came; the request may have been executed or not.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers, "", ""]
        try:
            async with asyncio.timeout(DEADLINE):
                writer.write("\r\n".join(lines).encode() + body)
                status, length, keep = _read_head(await reader.readuntil(b"\r\n\r\n"))
                answer = await (reader.read() if length is None else reader.readexactly(length))
        except BaseException:
            self.close()
            raise
        if not keep:
            self.close()
        return status, answer

    def close(self) -> None:
        """Cut the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


def _read_head(head: bytes) -> tuple[int, int | None, bool]:
    """The status, the length of the body if it is given, and whether the connection stays open."""
    lines = head.lower().split(b"\r\n")
    fields = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
    length = fields.get(b"content-length")
    keep = length is not None and fields.get(b"connection") != b"close"
    return int(lines[0][9:12]), None if length is None else int(length), keep


class RawRedis:
    """A connection to Redis with pipelining."""

    def __init__(self, port: int, database: int = 0) -> None:
        self.port = port
        self._database = database
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._opening = asyncio.Lock()

    async def do(self, *words: str | bytes | int) -> Any:
        """Send a command; return its answer.

        :raises OSError, EOFError, TimeoutError: no answer came; the command may have been executed or not.
        :raises RedisError:
        """
        async with self._opening:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self.port)
                self._task = asyncio.create_task(self._read(self._streams[0]))
                if self._database:
                    self._send(("SELECT", self._database))
        answer = self._send(words)
        async with asyncio.timeout(DEADLINE):
            return await answer

    def _send(self, words: tuple[str | bytes | int, ...]) -> asyncio.Future[Any]:
        if self._streams is None:
            raise ConnectionResetError("the connection is lost")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._streams[1].write(_command(words))
        return answer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                answer = await _answer(reader)
                waiting = self._waiting.popleft()
                if not waiting.done():
                    waiting.set_exception(answer) if isinstance(answer, RedisError) else waiting.set_result(answer)
        except (OSError, EOFError) as error:
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, deque()
        self.close()
        for answer in waiting:
            if not answer.done():
                answer.set_exception(ConnectionResetError(str(error)))

    def close(self) -> None:
        """Cut the connection."""
        if self._streams is not None:
            with contextlib.suppress(OSError):
                self._streams[1].transport.abort()
            self._streams = None


def _command(words: tuple[str | bytes | int, ...]) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)


async def _answer(reader: asyncio.StreamReader) -> Any:
    line = await reader.readuntil(b"\r\n")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        return RedisError(rest.decode())
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == b"-1" else (await reader.readexactly(int(rest) + 2))[:-2]
    if kind == b"*":
        return None if rest == b"-1" else [await _answer(reader) for _ in range(int(rest))]
    return rest
