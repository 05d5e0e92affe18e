"""Lines of standard input."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from realtime_chat.console.terminal import Lines
from tests.deadlines import TEST_TIMEOUT


class LinesTests(TestCase):
    """Read from a pipe."""

    timeout = TEST_TIMEOUT

    async def read(self, *chunks: bytes) -> list[bytes]:
        """Write to the pipe, and return the lines that are read."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        lines = Deferred.fromCoroutine(_all(Lines(reactor, reading)))
        for chunk in chunks:
            await deferToThread(os.write, writing, chunk)
        os.close(writing)
        return await lines

    async def test_lines(self) -> None:
        """Lines are whole, in whatever pieces they are written; the last one needs no line end."""
        self.assertEqual([b"a", b"", b"bc", b"d"], await self.read(b"a\n\nb", b"c\nd"))

    async def test_nothing(self) -> None:
        """An empty input has no lines."""
        self.assertEqual([], await self.read())

    async def test_much(self) -> None:
        """An input larger than a pipe's buffer is read completely, in order."""
        numbers = [str(number).encode() for number in range(40_000)]
        self.assertEqual(numbers, await self.read(b"\n".join(numbers)))


async def _all(lines: Lines) -> list[Any]:
    return [line async for line in lines]
