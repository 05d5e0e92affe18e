"""Tests for :mod:`realtime_chat.http.access_log`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.logger import LogLevel, globalLogPublisher

from realtime_chat.core.identity import Identities
from realtime_chat.http.access_log import _redact
from realtime_chat.values.access import NO_GRANTS, Claims
from tests.http.site_case import SiteTestCase, get
from tests.tokens.made import token


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
        names = b"client=SECRET&reader=SECRET&%63lient=SECRET&Token=SECRET;access_token=SECRET&commands=SECRET;SECRET"
        names += b"&sid=SECRET"
        query = b"/?room=r&" + names + b"&last=1"
        self.send(get(query, b"Referer: http://localhost" + query))
        (line,) = self.lines()
        self.assertNotIn("SECRET", line)
        redacted = "client=REDACTED&reader=REDACTED&%63lient=REDACTED&Token=REDACTED&commands=REDACTED&sid=REDACTED"
        self.assertEqual(line.count(f"/?room=r&{redacted}&last=1"), 2)

    def test_escaped_by_mistake(self) -> None:
        """Secret values are redacted, too, where what stands before them was escaped, or is a path."""
        for target, written in (
            (b"/poll%3Fclient=SECRET", "/poll%3Fclient=REDACTED"),
            (b"/poll%3Froom=r&client=SECRET", "/poll%3Froom=r&client=REDACTED"),
            (b"/poll?room=r%26client%3dSECRET&last=1", "/poll?room=r%26client%3dREDACTED&last=1"),
            (b"/poll?room=r%2526reader%253DSECRET", "/poll?room=r%2526reader%253DREDACTED"),
            (b"/poll?room=r?client=SECRET", "/poll?room=r?client=REDACTED"),
            (b"/poll?room=r&amp;reader=SECRET", "/poll?room=r&amp;reader=REDACTED"),
            (b"/poll?a=1;cl%2569ent=SECRET", "/poll?a=1;cl%2569ent=REDACTED"),
            (b"/client=SECRET", "/client=REDACTED"),
            (b"/?clients=1&x=token&last=%20", "/?clients=1&x=token&last=%20"),
        ):
            self.assertEqual(written, _redact(target).decode(), target)

    def test_forms(self) -> None:
        """Tokens and sealed clients are redacted wherever they stand, and what only looks a little like them isn't."""
        identities = Identities(lambda: b"k" * 32, lambda count: b"r" * count)
        user = identities.admit(Claims("u7", None, None, NO_GRANTS, 1, None, "0f0f0f0f"))
        reader, guest = identities.reader_of(user).client, identities.new_guest("Bob").client
        for secret in (token(), user.client, reader, guest):
            secret_text = secret.encode()
            self.send(get(b"/rooms/x%b/messages" % secret_text, b"User-Agent: a %b b" % secret_text))
            line = self.lines()[-1]
            self.assertIn("REDACTED", line)
            self.assertTrue(line.endswith('"a REDACTED b"'), line)
            self.assertNotIn(secret[-20:], line)
        self.send(get(b"/rooms/eyJustice.AZjECt/messages"))
        self.assertIn("/rooms/eyJustice.AZjECt/messages", self.lines()[-1])

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
