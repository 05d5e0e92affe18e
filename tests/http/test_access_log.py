"""Tests for :mod:`realtime_chat.http.access_log`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.logger import LogLevel, globalLogPublisher

from tests.http.site_case import (
    SiteTestCase,
    get,
)


class AccessLogTests(SiteTestCase):
    """The access log has a line for each request, without secrets."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.mktemp()
        self.site = self.make_site(access_log=self.path)
        self.addCleanup(self.site.doStop)
        self.site.doStart()

    def lines(self) -> list[str]:
        return Path(self.path).read_text("ascii").splitlines()

    def test_line(self) -> None:
        """One line a request, in the combined format."""
        self.send(get(b"/?a=b", b"User-Agent: curl/8", b"Referer: http://localhost/"))
        self.assertEqual(
            self.lines(),
            [
                '192.168.1.1 - - [01/Jan/1970:00:00:00 +0000] "GET /?a=b HTTP/1.1" 200 10 "http://localhost/" "curl/8"',
            ],
        )

    def test_long(self) -> None:
        """Very long fields are cut."""
        self.send(get(b"/?a=" + b"b" * 6000, b"User-Agent: " + b"\xff" * 6000))
        (line,) = self.lines()
        self.assertEqual(2, line.count('..."'))
        self.assertLess(len(line), 4096 + 4 * 4096 + 200)

    def test_wall_clock(self) -> None:
        """A line is dated by the wall clock, not by the reactor's."""
        self.ahead = 86400.0
        self.send(get())
        self.assertIn("[02/Jan/1970:00:00:00 +0000]", self.lines()[0])

    def test_secrets(self) -> None:
        """Secret query values are redacted, in every spelling of their names, and in the referrer."""
        query = b"/?room=r&client=SECRET&%63lient=SECRET&Token=SECRET;access_token=SECRET&commands=SECRET&last=1"
        self.send(get(query, b"Referer: http://localhost" + query))
        (line,) = self.lines()
        self.assertNotIn("SECRET", line)
        redacted = "/?room=r&client=REDACTED&%63lient=REDACTED&Token=REDACTED&access_token=REDACTED&commands=REDACTED"
        self.assertEqual(line.count(redacted + "&last=1"), 2)

    def test_absolute(self) -> None:
        """A target with a host, which may contain a password, isn't written."""
        self.send(get(b"http://me:SECRET@localhost/"))
        self.assertNotIn("SECRET", self.lines()[0])

    def test_escaped(self) -> None:
        """Everything from a client is escaped."""
        self.send(get(b'/"\\%0a', b'User-Agent: "\\\x1b[31m\xff'))
        self.assertIn('"GET /\\x22\\x5c%0a HTTP/1.1"', self.lines()[0])
        self.assertTrue(self.lines()[0].endswith('"\\x22\\x5c\\x1b[31m\\xff"'))

    def test_refused(self) -> None:
        """Refused requests and upgrades are in it too."""
        for data in (get(host=b"evil.example"), b"nonsense\r\n", get(b"/upgrade")):
            self.send(data)
        self.assertEqual([line.split('" ')[1].split()[0] for line in self.lines()], ["421", "400", "101"])

    def test_off(self) -> None:
        """Without a path there is no log, and no timer for one."""
        self.site = self.make_site()
        self.site.doStart()
        self.addCleanup(self.site.doStop)
        self.send(get()).lose()
        self.wheel.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cannot_be_written(self) -> None:
        """A log that can't be opened is reported once; requests are answered."""
        self.site = self.make_site(access_log=self.mktemp() + "/none/access.log")
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        self.assertEqual([self.ask(get()).status for _ in range(3)], [200] * 3)
        self.assertEqual([event["log_level"] for event in events], [LogLevel.error])
        self.assertRaises(OSError, self.site.access_log.open)


class PlainAccessLogTests(AccessLogTests):
    """The same with Twisted's own parsing and answering."""

    fast = False
