"""Tests for :mod:`realtime_chat.http.strict_channel`: what is refused, and how."""

from __future__ import annotations

from tests.http.site_case import (
    BAD,
    CHUNKED,
    SiteTestCase,
    get,
    post,
    read_answers,
)


class RefusalTests(SiteTestCase):
    """A bad request is refused with an error, and the connection is closed."""

    def test_table(self) -> None:
        """Each bad request gets its status and its error code, and nothing else."""
        for name, (data, status, code) in BAD.items():
            said = self.ask(data)
            self.assertEqual((name, said.status, said.code), (name, status, code))

    def test_parameters(self) -> None:
        """Too many parameters are refused at every address, in a head that comes whole or in pieces."""
        for path in (b"/", b"/rooms", b"/poll"):
            for method in (b"GET", b"POST", b"OPTIONS"):
                data = get(path + b"?" + b"a=&" * 2000, b"Content-Length: 0", b"Connection: close", method=method)
                for said in (self.ask(data), self.ask(data[:20], data[20:])):
                    self.assertEqual((400, "bad_request"), (said.status, said.code))
                    self.assertIn(b"at most 1,024 parameters", said.body)

    def test_byte_by_byte(self) -> None:
        """The answers are the same if every byte comes by itself."""
        for name, (data, status, code) in BAD.items():
            said = self.ask(*(data[place : place + 1] for place in range(len(data))))
            self.assertEqual((name, said.status, said.code), (name, status, code))

    def test_shape(self) -> None:
        """A refusal says that it closes, is JSON and isn't cached, and names no version."""
        said = self.ask(get(host=b"evil.example"))
        date = said.headers.pop("date")
        self.assertEqual(date, "thu, 01 jan 1970 00:00:00 gmt")
        self.assertEqual(
            said.headers,
            {
                "connection": "close",
                "content-type": "application/json",
                "content-length": str(len(said.body)),
                "cache-control": "no-store",
                "x-content-type-options": "nosniff",
                "server": "realtime_chat",
            },
        )

    def test_no_echo(self) -> None:
        """Nothing that the client sent comes back."""
        for sent in (get(b"/", b"<img src=x>"), get(host=b"imgsrcx.example"), get(b"imgsrcx"), get(b"/imgsrcx")):
            self.assertNotIn(b"img", self.ask(sent).body)

    def test_head(self) -> None:
        """The answer to a HEAD request has no body, not even a refusal."""
        data = self.send(get(method=b"HEAD", host=b"evil.example")).value()
        self.assertTrue(data.startswith(b"HTTP/1.1 421 ") and data.endswith(b"\r\n\r\n"))

    def test_rest_is_ignored(self) -> None:
        """Whatever comes after a refused request is ignored, in the same segment or later."""
        transport = self.send(get(host=b"evil.example") + get(), get())
        self.assertEqual(len(read_answers(transport.value())), 1)

    def test_half_close(self) -> None:
        """The connection is closed for writing, and read until the client closes it."""
        transport = self.send(post(b"a" * 1000))
        self.assertEqual((transport.half_closed, transport.disconnecting, transport.closed), (True, False, False))
        transport.protocol.dataReceived(b"a" * 1000)
        transport.lose()
        self.assertEqual(len(self.wheel), 0)

    def test_lingering_ends(self) -> None:
        """A client that doesn't close the connection is cut off after a few seconds."""
        transport = self.send(post(b"a" * 1000))
        self.wait(4.5)
        self.assertFalse(transport.closed)
        self.wait(1)
        self.assertTrue(transport.closed)

    def test_lingering_is_bounded(self) -> None:
        """A client that doesn't stop sending is cut off."""
        transport = self.send(post(b"a" * 1000))
        for _ in range(65):
            transport.protocol.dataReceived(b"a" * 65536)
        self.assertTrue(transport.closed)

    def test_no_body_is_kept(self) -> None:
        """Nothing of a refused request stays in memory while the connection lingers."""
        transport = self.send(CHUNKED + b"60\r\n" + b"a" * 96 + b"\r\n5\r\nabcde\r\n")
        self.assertEqual((transport.protocol.requests, transport.protocol._transferDecoder), ([], None))


class PlainRefusalTests(RefusalTests):
    """The same with Twisted's own parsing and answering."""

    fast = False
