"""Tests for :mod:`realtime_chat.proxy_protocol`: headers of the PROXY protocol, right and wrong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import capturedLogs, formatEvent

from realtime_chat.proxy_protocol import ProxiedConnections
from tests.http.site_case import SocketLike, get, read_answers
from tests.http.test_limited_channel import CLIENT, PROXY, LimitedCase

V2 = b"\r\n\r\n\0\r\nQUIT\n"
EVIL = b"\x1b[31m\xff\xfeevil"

RIGHT = {
    "version 1": (b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2\r\n", CLIENT),
    "version 1 of IPv6": (b"PROXY TCP6 2001:db8::9 2001:db8::1 1 2\r\n", "2001:db8::9"),
    "version 1, unknown": (b"PROXY UNKNOWN \r\n", PROXY),
    "version 2": (V2 + b"\x21\x11\0\x0c\xcb\0\x71\x09\xc0\0\2\1\0\1\0\2", CLIENT),
    "version 2, of the proxy itself": (V2 + b"\x20\0\0\0", PROXY),
    "version 2 of a Unix socket": (V2 + b"\x21\x31\0\xd8" + b"/run/x".ljust(216, b"\0"), PROXY),
}

WRONG = {
    "no header": get(),
    "a port that is no number": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 " + EVIL + b"\r\n",
    "a first port that is no number": b"PROXY TCP6 ::1 ::1 x 2\r\n",
    "a port with too many digits": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 " + b"9" * 5000 + b"\r\n",
    "no port": b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
    "an address that is no text": b"PROXY TCP4 " + EVIL + b" 2.2.2.2 1 2\r\n",
    "an address that is no text, of IPv6": b"PROXY TCP6 ::1 " + EVIL + b" 1 2\r\n",
    "no addresses": b"PROXY TCP4\r\nGET",
    "another protocol": b"PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n",
    "no end": b"PROXY " + EVIL * 20,
    "version 2 with a third of an address": V2 + b"\x21\x11\0\x03abc" + EVIL,
    "version 2 of another family": V2 + b"\x21\x91\0\0" + EVIL,
    "version 2 of another protocol": V2 + b"\x21\x1f\0\0" + EVIL,
    "version 2 with another command": V2 + b"\x2f\x11\0\0" + EVIL,
    "version 3": V2 + b"\x31\x11\0\0" + EVIL,
}


class ProxyProtocolTests(LimitedCase):
    """Connections to an endpoint for the PROXY protocol."""

    def setUp(self) -> None:
        super().setUp()
        self.proxied = ProxiedConnections(self.site)

    def say(self, *pieces: bytes, peer: str = PROXY) -> SocketLike:
        """Connect, and send."""
        return self.come(peer, *pieces, site=self.proxied)

    def logged(self, *pieces: bytes, peer: str = PROXY) -> list[str]:
        """What is logged when a connection sends this, which is then cut off without an answer."""
        with capturedLogs() as events:
            transport = self.say(*pieces, peer=peer)
        self.assertEqual((True, b""), (transport.closed, transport.value()), pieces)
        return [formatEvent(event) for event in events]

    def test_right(self) -> None:
        """The request behind a header has the claimed address, in whatever pieces both come; the next one too."""
        for name, (header, host) in RIGHT.items():
            whole = header + get()
            for pieces in ([whole], [header, get()], [whole[:16], whole[16:]], [header[:16], header[16:], get()]):
                transport = self.say(*filter(None, pieces), get())
                self.assertEqual([200, 200], [said.status for said in read_answers(transport.value())], name)
                peer = self.site.client_addresses.peer_of(transport.protocol)
                self.assertEqual(host, peer.client.host, (name, pieces))

    def test_wrong(self) -> None:
        """What a trusted proxy sends wrongly ends its connection, and is one line that has nothing of it."""
        for name, data in WRONG.items():
            for pieces in ([data], [data[:16], data[16:]]):
                (line,) = self.logged(*pieces, get())
                self.assertTrue(line.startswith(f"{PROXY} sent no PROXY header that can be read"), (name, line))
                self.assertNotIn("evil", line)

    def test_strangers(self) -> None:
        """Of others nothing is logged."""
        for name, data in WRONG.items():
            self.assertEqual([], self.logged(data, peer=CLIENT), name)

    @given(st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::1 ", V2, V2 + b"\x21"]), st.binary())
    def test_anything(self, begin: bytes, data: bytes) -> None:
        """No bytes raise an error."""
        self.say(begin + data + b"\r\n", get()).lose()
        self.assertEqual([], self.flushLoggedErrors())

    def test_errors_behind(self) -> None:
        """An error of what is behind the header is none of the header."""
        transport = self.say()
        self.patch(transport.protocol.wrappedProtocol, "dataReceived", lambda data: int("x"))
        self.assertRaises(ValueError, transport.protocol.dataReceived, RIGHT["version 1"][0] + get())
        self.assertFalse(transport.closed)
