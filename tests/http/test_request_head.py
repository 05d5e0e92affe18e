"""Tests for :mod:`realtime_chat.http.request_head`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from realtime_chat.http.request_head import CachedHeaders, read_headers, read_line, split_whole

LINES = b"Host: localhost\r\naccept:text/html\r\nX-A: b, c\r\nx-a: d  e\r\n"


class LineTests(SynchronousTestCase):
    """The first line of a plain GET."""

    def test_plain(self) -> None:
        """Its path and its arguments are told apart."""
        target = read_line(b"GET /poll?room=a&room=%62&wait=5 HTTP/1.1")
        assert target is not None
        self.assertEqual((b"/poll?room=a&room=%62&wait=5", b"/poll"), target[:2])
        self.assertEqual({b"room": [b"a", b"b"], b"wait": [b"5"]}, dict(target.args))

    def test_others(self) -> None:
        """Nothing else is taken for one."""
        for line in (
            b"",
            b"POST / HTTP/1.1",
            b"HEAD / HTTP/1.1",
            b"get / HTTP/1.1",
            b"GET / HTTP/1.0",
            b"GET * HTTP/1.1",
            b"GET http://localhost/ HTTP/1.1",
            b"GET /a b HTTP/1.1",
            b"GET /\x80 HTTP/1.1",
            b"GET / HTTP/1.1\n",
            b"GET / HTTP/1.1\nHost: evil.example",
            b" GET / HTTP/1.1",
        ):
            self.assertIsNone(read_line(line), line)


class HeaderBlockTests(SynchronousTestCase):
    """Header lines that are read when somebody asks."""

    def setUp(self) -> None:
        self.block = CachedHeaders(LINES + b"\r\n")
        whole = split_whole(b"GET / HTTP/1.1\r\n" + LINES + b"\r\n")
        assert whole is not None
        headers = read_headers(whole[1], 4)
        assert headers is not None
        self.headers: Headers = headers

    def test_same(self) -> None:
        """Whatever it is asked, it says what headers that were read at once say, whatever it was asked before."""
        for _ in range(2):
            for name in (b"Host", b"host", "Host", b"X-A", b"X-A", "x-a", b"Nothing", b"Accept"):
                for default in (None, (), [b"x"]):
                    asked = self.headers.getRawHeaders(name, default), self.block.getRawHeaders(name, default)
                    self.assertEqual(*asked, name)
                self.assertEqual(self.headers.hasHeader(name), self.block.hasHeader(name), name)
        self.assertEqual(list(self.headers.getAllRawHeaders()), list(self.block.getAllRawHeaders()))

    def test_unchanged(self) -> None:
        """What is put into it is in no other request's."""
        self.block.setRawHeaders(b"X-B", [b"c"])
        self.block.addRawHeader(b"X-A", b"c")
        self.block.removeHeader(b"Host")
        self.assertEqual(list(self.headers.getAllRawHeaders()), list(self.block.getAllRawHeaders()))

    def test_copy(self) -> None:
        """A copy of it says the same, and can be changed."""
        copy = self.block.copy()
        self.assertEqual(list(self.headers.getAllRawHeaders()), list(copy.getAllRawHeaders()))
        copy.addRawHeader(b"X-A", b"c")
        self.assertIn(b"c", copy.getRawHeaders(b"X-A"))
        self.assertEqual(list(self.headers.getAllRawHeaders()), list(self.block.getAllRawHeaders()))

    def test_too_many(self) -> None:
        """Too many are not read."""
        self.assertIsNone(read_headers(LINES, 3))
