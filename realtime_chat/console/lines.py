"""Lines of standard input, read without holding anything up."""

from __future__ import annotations

import os
from collections import deque
from threading import Semaphore, Thread
from typing import Any

from twisted.internet.defer import Deferred

__all__ = ["Lines"]

_CHUNK = 65536


class Lines:
    """``async for line in Lines(reactor, 0)``: lines as bytes, without their ends.

    A thread reads them, as a terminal's input must not be made non-blocking: its output would be, too. It reads one
    chunk ahead, and it doesn't keep the process from ending.

    :param number: the file descriptor.
    """

    def __init__(self, reactor: Any, number: int) -> None:
        self._reactor = reactor
        self._number = number
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
                chunk = os.read(self._number, _CHUNK)
            except OSError:
                chunk = b""
            self._reactor.callFromThread(self._take, chunk)
            if not chunk:
                return

    def _take(self, chunk: bytes) -> None:
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
