"""A terminal, or what stands in its place: lines that are read without blocking, and lines that are written."""

from __future__ import annotations

import os
import sys
from collections import deque
from threading import Semaphore, Thread
from typing import Any

from twisted.internet.defer import Deferred

_CHUNK = 65536


class Terminal:
    """Standard input, output and error.

    :ivar interactive: whether a person reads and types.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.interactive = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(line_buffering=True, errors="backslashreplace")

    def input(self) -> Lines:
        """The lines of standard input."""
        return Lines(self._reactor, 0)

    def print(self, line: str) -> None:
        """Write a line of output."""
        sys.stdout.write(line + "\n")

    def note(self, line: str) -> None:
        """Write a line about what happens, beside the output."""
        sys.stderr.write(f"realtime-chat: {line}\n")


class Lines:
    """``async for line in Lines(reactor, 0)``: lines as bytes, without their ends.

    A thread reads them: making a terminal's input non-blocking would make its output non-blocking, too. The thread
    reads a chunk when it is needed, and doesn't keep the process alive.

    :param descriptor: the file descriptor.
    """

    def __init__(self, reactor: Any, descriptor: int) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._ended = False
        self._waiting: Deferred[None] | None = None
        self._wanted = Semaphore(0)
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            self._wanted.acquire()
            try:
                chunk = os.read(self._descriptor, _CHUNK)
            except OSError:
                chunk = b""
            self._reactor.callFromThread(self._received, chunk)
            if not chunk:
                return

    def _received(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if not chunk:
            self._ended = True
            lines += [self._rest] if self._rest else []
        self._lines.extend(lines)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> bytes:
        while not self._lines:
            if self._ended:
                raise StopAsyncIteration
            self._waiting = Deferred()
            self._wanted.release()
            await self._waiting
        return self._lines.popleft()
