"""Tests for :mod:`realtime_chat.client.http_client`."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from realtime_chat.client.http_client import IdleTimeout


class IdleTimeoutTests(SynchronousTestCase):
    """A time-out of what makes no progress."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.timeout = IdleTimeout(self.clock, 30.0)
        self.running: Deferred[Any] = self.timeout.run(Deferred())

    def test_no_progress(self) -> None:
        """What makes no progress fails when its time is over."""
        self.clock.advance(30.0)
        self.failureResultOf(self.running, TimeoutError)

    def test_progress(self) -> None:
        """Each sign of progress gives it the whole time again."""
        for _ in range(3):
            self.clock.advance(29.0)
            self.timeout.progress()
        self.clock.advance(29.0)
        self.assertNoResult(self.running)


class BusyTests(TestCase):
    """A time-out in a process that was too busy to read what had come."""

    async def test_too_busy(self) -> None:
        """What has come in time is progress, although it is read too late."""
        timeout = IdleTimeout(reactor, 0.1)
        running = timeout.run(Deferred())
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        server = _Server(ours, timeout.progress)
        reactor.addReader(server)
        theirs.send(b"x")
        time.sleep(0.2)
        await deferLater(reactor, 0.02)
        self.assertNoResult(running)
        reactor.removeReader(server)
        await self.assertFailure(running, TimeoutError)


class _Server(FileDescriptor):
    """Takes a byte as progress."""

    def __init__(self, connection: socket.socket, progress: Callable[[], None]) -> None:
        super().__init__(reactor)
        self._connection = connection
        self._progress = progress

    def fileno(self) -> int:
        return self._connection.fileno()

    def doRead(self) -> None:  # noqa: N802
        self._connection.recv(1)
        self._progress()
