"""Tests for :mod:`realtime_chat.transports.keepalive`, with a clock and a client that the test holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.wheel import Wheel
from realtime_chat.transports.keepalive import Keepalive
from realtime_chat.values.limits import Limits


class Connection(Keepalive):
    """A connection whose client acknowledges and sends what the test says.

    :ivar pings: how many were sent.
    :ivar ahead: bytes that the client has yet to take.
    :ivar taken: bytes that it has taken.
    """

    write_paused = False
    inside_message = False
    hub: Any = None

    def __init__(self) -> None:
        clock = Clock()
        self.hub = SimpleNamespace(clock=clock, wheel=Wheel(clock), limits=Limits())
        self.pings = self.ahead = self.taken = 0
        self.dismissed: list[str] = []
        self.schedule_ping()

    def sendPing(self) -> None:  # type: ignore[override]  # noqa: N802
        self.pings += 1

    def dismiss(self, reason: str) -> None:
        self.dismissed.append(reason)

    def unsent(self) -> int:
        return self.ahead

    def acknowledged_bytes(self) -> int:
        return self.taken

    def wait(self, seconds: float) -> None:
        self.hub.clock.pump([0.25] * int(seconds * 4))

    def until_ping(self) -> None:
        """Wait for the next ping."""
        pings = self.pings
        while self.pings == pings and not self.dismissed:
            self.wait(0.25)

    def answer(self) -> None:
        """Something comes from the client, and the next ping is due."""
        self._received_since_ping = True


class SilenceTests(SynchronousTestCase):
    """A client that says nothing."""

    def setUp(self) -> None:
        self.connection = Connection()
        self.limits = self.connection.hub.limits

    def test_silent(self) -> None:
        """It is pinged in time, and dismissed if it doesn't answer in time."""
        self.connection.wait(self.limits.ping)
        self.assertEqual(1, self.connection.pings)
        self.connection.until_ping()
        self.assertEqual((1, ["silent"]), (self.connection.pings, self.connection.dismissed))

    def test_much_before_the_ping(self) -> None:
        """One that has a few KiB to take before the ping has the time of a stalled client for that; for less, not."""
        for ahead, patient in ((4000, False), (6000, True)):
            self.setUp()
            self.connection.ahead = ahead
            self.connection.until_ping()
            self.connection.wait(self.limits.pong + 1)
            self.assertEqual([] if patient else ["silent"], self.connection.dismissed)
        self.connection.wait(self.limits.stalled_after + 1)
        self.assertEqual(["silent"], self.connection.dismissed)

    def test_takes_some(self) -> None:
        """As long as it takes some of what was sent before the ping, it is waited for."""
        self.connection.ahead = 60_000
        self.connection.until_ping()
        for _ in range(5):
            self.connection.wait(self.limits.stalled_after - 1)
            self.connection.taken += 1000
            self.assertEqual([], self.connection.dismissed)
        self.connection.answer()
        self.connection.until_ping()
        self.assertEqual((2, []), (self.connection.pings, self.connection.dismissed))


class HalfMessageTests(SynchronousTestCase):
    """A client that has begun a message."""

    def test_rate(self) -> None:
        """It has to go on at 500 bytes a second from ping to ping."""
        for rate, dismissed in ((490, ["silent"]), (510, [])):
            connection = Connection()
            connection.inside_message = True
            connection.until_ping()
            begun = connection.hub.clock.seconds()
            connection.answer()
            while connection.pings == 1 and not connection.dismissed:
                connection.wait(0.25)
                connection._message_size = int(rate * (connection.hub.clock.seconds() - begun + 0.25))
            self.assertEqual((1 + (not dismissed), dismissed), (connection.pings, connection.dismissed), rate)

    def test_another_message(self) -> None:
        """A message that was begun since the last ping has its time."""
        connection = Connection()
        connection.inside_message = True
        connection.until_ping()
        connection.answer()
        connection._messages_begun += 1
        connection.until_ping()
        self.assertEqual((2, []), (connection.pings, connection.dismissed))
