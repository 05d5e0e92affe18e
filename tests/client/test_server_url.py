"""The URL of a daemon."""

from __future__ import annotations

from twisted.internet.error import (
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
    TCPTimedOutError,
    TimeoutError,
)
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from realtime_chat.client import connect
from realtime_chat.client.server_url import ServerURL


class ServerURLTests(SynchronousTestCase):
    """URLs."""

    def test_slash(self) -> None:
        """A daemon below a path is found with and without a slash at the end."""
        for url in ("https://example.com/chat", "https://example.com/chat/"):
            self.assertEqual("https://example.com/chat/", ServerURL(None, url).url)

    def test_not_a_url(self) -> None:
        """An invalid URL is refused, and the error has a valid one."""
        for url in ("", "localhost:8080", "ws://localhost/", "http://", "http://host/?room=a", "http://me:pw@host/"):
            with self.assertRaisesRegex(ValueError, "right would be http://"):
                ServerURL(None, url)

    def test_says_what_would_be_right(self) -> None:
        """The error says what is wrong and suggests what was probably meant; it doesn't repeat a password."""
        for url, wrong, right in (
            ("localhost:8080", "http:// or https://", "http://localhost:8080"),
            ("wss://chat.example/", "http:// or https://", "https://chat.example/"),
            ("http://me:secret@host:1/x", "user name", "http://host:1/x"),
            ("me:secret@host", "http:// or https://", "http://host"),
            ("http://host/?room=secret", "more than", "http://host/"),
            ("http://::1:8080/", "stands in brackets", "http://[::1]:8080/"),
            ("http://[::1", "brackets", "http://[::1]:8080/"),
            ("http://[127.0.0.1]:8080/", "brackets", "http://[::1]:8080/"),
            ("http://[v1.x]/", "brackets", "http://[::1]:8080/"),
            ("http://[fe80::1%25 ]/", "interface", "http://[::1]:8080/"),
            ("https://[fe80::1%25lo]/", "certificate", "http://[::1]:8080/"),
            ("https://chat_server/", "certificate", "http://127.0.0.1:8080/"),
            ("unix:/run/chat.sock", "Unix socket", "http://127.0.0.1:8080/"),
            *((f"http://{host}/", "host", "http://127.0.0.1:8080/") for host in ("", "a..b", "a b", "*", "a" * 64)),
            *((f"http://{host}/", "host", "http://127.0.0.1:8080/") for host in ("\u2603", "\ud800", "x%00y", "-")),
            *((f"http://h:{port}/", "1 to 65535", "http://127.0.0.1:8080/") for port in ("0", "65536", "+1", "x")),
        ):
            message = str(self.assertRaises(ValueError, ServerURL, None, url))
            self.assertIn(wrong, message, url)
            self.assertTrue(message.endswith(f"right would be {right}"), message)
            if "@" in url:
                self.assertNotIn("secret", message)

    def test_as_it_is_asked_for(self) -> None:
        """A URL is normalised as in a request: ASCII, brackets, no zone and no default port."""
        for url, asked in (
            ("HTTP://Host:80", "http://host/"),
            ("http://[0::1]:8080/a b", "http://[::1]:8080/a%20b/"),
            ("http://[fe80::1%25eth0]/", "http://[fe80::1]/"),
            ("https://m\u00fcnchen.example:443/\u00e4%20", "https://xn--mnchen-3ya.example/%C3%A4%20/"),
            ("http://chat_server:/", "http://chat_server/"),
        ):
            self.assertEqual(asked, ServerURL(None, url).url)

    def test_port(self) -> None:
        """An invalid port is refused."""
        with self.assertRaises(ValueError):
            ServerURL(None, "http://host:99999/")

    def test_transports(self) -> None:
        """An unknown transport is refused, and so is an empty list."""
        for transports in (("pigeon",), ()):
            with self.assertRaisesRegex(ValueError, "websocket, sse, poll"):
                connect(None, "http://host/", transports=transports)

    def test_explained(self) -> None:
        """Whatever keeps a client from the daemon is said in words that name the place."""
        url = ServerURL(None, "http://chat.example:8080/")
        place = "chat.example port 8080"
        for error, words in (
            (DNSLookupError("no results"), "there is no host chat.example"),
            (ConnectionRefusedError("111: Connection refused."), f"nobody answers at {place}: "),
            (TCPTimedOutError(), f"nobody answers at {place}: "),
            (TimeoutError(), f"no answer from {place} in time"),
            (ConnectionDone(), f"the connection to {place} was lost"),
            (ConnectionLost(), f"the connection to {place} was lost"),
            (ResponseFailed([]), f"the connection to {place} was lost"),
            (ResponseNeverReceived([Failure(ValueError()), Failure(ConnectionDone())]), "was lost"),
            (ValueError("no idea"), f"{place}: no idea"),
            (ValueError(), f"{place}: ValueError"),
        ):
            self.assertIn(words, url.explain(Failure(error)), repr(error))
