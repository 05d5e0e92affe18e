"""Tests for :mod:`realtime_chat.transports.backpressure`, on a transport that counts what is queued."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.wheel import Wheel
from realtime_chat.transports.backpressure import BackpressuredSender
from realtime_chat.transports.frames import FrameBatch
from realtime_chat.values.limits import Limits


class Sender(BackpressuredSender):
    """The sending half of a protocol, which notes what its session is told."""

    write_paused = False
    may_send = True
    hub: Any = None

    def __init__(self) -> None:
        clock = Clock()
        self.hub = SimpleNamespace(clock=clock, wheel=Wheel(clock), limits=Limits())
        self.transport = StringTransport()
        self.calls: list[str] = []
        self.session: Any = SimpleNamespace(
            pause_writing=lambda: self.calls.append("pause"),
            resume_writing=lambda: self.calls.append("resume"),
            dismiss=self.calls.append,
        )
        self.start_sending()

    def pause_reading(self) -> None:
        self.calls.append("stop reading")

    def resume_reading(self) -> None:
        self.calls.append("read")


class BackpressureTests(SynchronousTestCase):
    """A connection that is written to by its transport."""

    def test_producer(self) -> None:
        """It is its transport's push producer, and nothing is sent without the transport."""
        sender = Sender()
        self.assertEqual((sender, True), (sender.transport.producer, sender.transport.streaming))
        self.assertIsNone(sender.direct_send)

    def test_replies(self) -> None:
        """Buffered replies are sent before what comes next, or when they are flushed, and once."""
        sender = Sender()
        sender.buffer_reply(b"a")
        self.assertEqual(b"", sender.transport.value())
        self.assertEqual(2, sender.send_batch(FrameBatch([b"b", b"c"])))
        sender.buffer_reply(b"d")
        sender.flush_replies()
        sender.flush_replies()
        sender.write(b"e")
        self.assertEqual(b"abcde", sender.transport.value())

    def test_paused(self) -> None:
        """While the transport has too much, no message is taken; everything else is queued in order."""
        sender = Sender()
        sender.pauseProducing()
        self.assertEqual((0, True), (sender.send_batch(FrameBatch([b"a"])), sender.write_paused))
        sender.write(b"b")
        self.assertEqual((b"b", ["pause", "stop reading"]), (sender.transport.value(), sender.calls))

    def test_resumed(self) -> None:
        """When the transport has drained, commands are read first, and the session goes on two turns later."""
        sender = Sender()
        sender.pauseProducing()
        sender.calls.clear()
        sender.resumeProducing()
        self.assertEqual(["read"], sender.calls)
        sender.hub.clock.pump([0, 0])
        self.assertEqual(["read", "resume", "read"], sender.calls)

    def test_stalled(self) -> None:
        """A client that acknowledges nothing for long enough is dismissed; one that has drained in time is not."""
        for drains in (False, True):
            sender = Sender()
            sender.pauseProducing()
            if drains:
                sender.resumeProducing()
            sender.hub.clock.pump([1] * round(sender.hub.limits.stalled_after + 2))
            self.assertEqual(not drains, "slow" in sender.calls)

    def test_closing(self) -> None:
        """Nothing more is sent on a connection that is closing."""
        sender = Sender()
        sender.buffer_reply(b"a")
        sender.may_send = False
        sender.flush_replies()
        self.assertEqual((0, b""), (sender.send_batch(FrameBatch([b"b"])), sender.transport.value()))
