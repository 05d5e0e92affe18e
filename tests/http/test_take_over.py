"""Tests for :meth:`RealtimeChannel.take_over <realtime_chat.http.channel.RealtimeChannel.take_over>`."""

from __future__ import annotations

import gc
import weakref

from twisted.internet.error import ConnectionLost

from realtime_chat.http.channel import RealtimeChannel
from tests.http.site_case import (
    Echo,
    SiteTestCase,
    Upgrade,
    get,
)


class TakeOverTests(SiteTestCase):
    """A connection can be taken over by another protocol."""

    def test_taken_over(self) -> None:
        """The new protocol gets what comes in, without a producer, a pause or a deadline of HTTP's."""
        transport = self.send(get(b"/upgrade"), b"abc")
        self.assertEqual(transport.value(), b"upgraded;echo:abc")
        self.assertEqual((transport.producer, transport.producerState, len(self.wheel)), (None, "producing", 0))

    def test_same_segment(self) -> None:
        """What the client sent right behind its request comes first."""
        transport = self.send(get(b"/upgrade") + b"GET / HTTP/1.1\r\n\r\n", b"abc")
        self.assertEqual(transport.value(), b"upgraded;echo:GET / HTTP/1.1\r\n\r\necho:abc")

    def test_later(self) -> None:
        """It comes first too if the request had waited, and if much had come behind it."""
        sent = b"a" * 20000
        transport = self.send(get(b"/upgrade?later=1") + b"first;", sent)
        self.assertEqual(transport.producerState, "paused")
        Upgrade.upgrade(self.root.waiting.pop())
        self.assertEqual(transport.value(), b"upgraded;")
        self.clock.advance(0)
        self.assertEqual(transport.value(), b"upgraded;echo:first;" + sent)
        self.assertEqual(transport.producerState, "producing")

    def test_lost(self) -> None:
        """The connection is counted until it is lost, and the new protocol is told why."""
        transport = self.send(get(b"/upgrade?later=1"))
        echo = Upgrade.upgrade(self.root.waiting.pop())
        self.assertEqual(self.site.connections, 1)
        transport.lose(ConnectionLost)
        self.assertTrue(echo.lost is not None and echo.lost.check(ConnectionLost))
        self.assertEqual(self.site.connections, 0)

    def test_lost_before_the_rest(self) -> None:
        """What had come is not passed on any more when the connection is lost."""
        transport = self.send(get(b"/upgrade?later=1") + b"rest")
        Upgrade.upgrade(self.root.waiting.pop())
        transport.lose()
        self.clock.advance(0)
        self.assertEqual(transport.value(), b"upgraded;")

    def test_nothing_of_http_is_left(self) -> None:
        """Request and channel leave no garbage cycles, and the request's notifyFinish fires."""
        gc.disable()
        self.addCleanup(gc.enable)
        transport = self.send(get(b"/upgrade?later=1"))
        request = self.root.waiting.pop()
        ended = request.notifyFinish()
        left = [weakref.ref(request), weakref.ref(request.channel)]
        Upgrade.upgrade(request)
        self.successResultOf(ended)
        del request
        self.assertEqual([each() for each in left], [None, None])
        self.assertFalse(isinstance(transport.protocol, RealtimeChannel))

    def test_not_waiting(self) -> None:
        """Only a waiting request's connection can be taken."""
        transport = self.send(get())
        self.assertRaises(RuntimeError, transport.protocol.take_over, Echo())
        lost = self.send(get(b"/upgrade?later=1"))
        request = self.root.waiting.pop()
        channel = request.channel
        lost.lose()
        self.assertRaises(RuntimeError, channel.take_over, Echo())


class PlainTakeOverTests(TakeOverTests):
    """The same with Twisted's own parsing and answering."""

    fast = False
