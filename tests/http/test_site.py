"""Tests for :mod:`realtime_chat.http.site`."""

from __future__ import annotations

from tests.http.site_case import (
    SiteTestCase,
    get,
)


class SiteTests(SiteTestCase):
    """The site itself."""

    def test_protocols(self) -> None:
        """Over TLS, only HTTP/1.1 is offered."""
        self.assertEqual(self.site.acceptableProtocols(), [b"http/1.1"])

    def test_date(self) -> None:
        """The date is that of the wall clock, which may step; the reactor's doesn't."""
        self.clock.advance(86400)
        self.assertEqual(self.ask(get()).headers["date"], "fri, 02 jan 1970 00:00:00 gmt")
        self.ahead = 86400.0
        self.assertEqual(self.ask(get()).headers["date"], "sat, 03 jan 1970 00:00:00 gmt")
        self.ahead = -3600.0
        self.assertEqual(self.ask(get()).headers["date"], "thu, 01 jan 1970 23:00:00 gmt")


class StopTests(SiteTestCase):
    """A site that stops closes what waits for nothing."""

    def test_idle(self) -> None:
        """Idle connections are closed at once, the others after their answer."""
        idle, fresh, waiting = self.send(get()), self.connect(), self.send(get(b"/later"))
        stopped = self.site.stop()
        self.assertEqual([each.disconnecting for each in (idle, fresh, waiting)], [True, True, False])
        self.root.waiting[0].callback(b"1")
        self.assertTrue(waiting.disconnecting)
        self.assertNoResult(stopped)
        for transport in self.transports:
            transport.lose()
        self.successResultOf(stopped)

    def test_nothing_open(self) -> None:
        """Without connections there is nothing to wait for."""
        self.successResultOf(self.site.stop())

    def test_upgraded(self) -> None:
        """A connection that was taken over is waited for, and not closed."""
        transport = self.send(get(b"/upgrade"))
        stopped = self.site.stop()
        self.assertFalse(transport.disconnecting)
        transport.lose()
        self.successResultOf(stopped)


class PlainSiteTests(SiteTests):
    """The same with Twisted's own parsing and answering."""

    fast = False


class PlainStopTests(StopTests):
    """The same with Twisted's own parsing and answering."""

    fast = False
