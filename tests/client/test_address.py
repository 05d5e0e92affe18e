"""Where a daemon is."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client import connect
from realtime_chat.client.address import Address


class AddressTests(SynchronousTestCase):
    """URLs."""

    def test_slash(self) -> None:
        """A daemon below a path is found with and without a slash at the end."""
        for url in ("https://example.com/chat", "https://example.com/chat/"):
            self.assertEqual("https://example.com/chat/", Address(None, url).url)

    def test_not_a_url(self) -> None:
        """What can't be the URL of a daemon is refused, with what would be right."""
        for url in ("", "localhost:8080", "ws://localhost/", "http://", "http://host/?room=a", "http://me:pw@host/"):
            with self.assertRaisesRegex(ValueError, "right would be http://"):
                Address(None, url)

    def test_port(self) -> None:
        """A port that is none is refused."""
        with self.assertRaises(ValueError):
            Address(None, "http://host:99999/")

    def test_transports(self) -> None:
        """A transport that there isn't is refused, and so is none at all."""
        for transports in (("pigeon",), ()):
            with self.assertRaisesRegex(ValueError, "websocket, sse, poll"):
                connect(None, "http://host/", transports=transports)
