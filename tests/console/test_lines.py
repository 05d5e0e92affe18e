"""Lines of standard input."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from realtime_chat.console.lines import Lines


class LinesTests(TestCase):
    """Read from a pipe."""

    timeout = 20

    async def read(self, *chunks: bytes) -> list[bytes]:
        """The lines that come of what is written."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        lines = Deferred.fromCoroutine(_all(Lines(reactor, reading)))
        for chunk in chunks:
            await deferToThread(os.write, writing, chunk)
        os.close(writing)
        return await lines

    async def test_lines(self) -> None:
        """Lines come whole, however they are written; the last one needs no end."""
        self.assertEqual([b"a", b"", b"bc", b"d"], await self.read(b"a\n\nb", b"c\nd"))

    async def test_nothing(self) -> None:
        """An input without anything has no lines."""
        self.assertEqual([], await self.read())

    async def test_much(self) -> None:
        """More than a pipe holds comes, too, in order."""
        numbers = [str(number).encode() for number in range(40_000)]
        self.assertEqual(numbers, await self.read(b"\n".join(numbers)))


async def _all(lines: Lines) -> list[Any]:
    return [line async for line in lines]
