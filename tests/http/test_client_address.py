"""Tests for :mod:`realtime_chat.http.client_address`: whose address a request has, and who is believed about it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers
from twisted.web.server import Request

from realtime_chat.http.answers import JSONResource
from realtime_chat.http.client_address import ClientAddress, ClientAddresses, TrustedProxies
from realtime_chat.http.site import RealtimeSite
from realtime_chat.proxy_protocol import ProxiedConnections
from tests.http.site_case import SiteTestCase, SocketLike, get

_XFF, _FWD = b"X-Forwarded-For: ", b"Forwarded: "
_CLIENT = "203.0.113.9"
_NGINX, _EDGE = "10.0.0.1", "10.0.0.2"


class Row(NamedTuple):
    """What comes to the daemon, and whose address it is.

    :ivar peer: the address that the kernel gives; None for a Unix socket.
    :ivar lines: header lines.
    :ivar host: the address in the access log; None for a Unix socket.
    :ivar key: what limits by address count by; None for no such limits.
    :ivar proxied: the bytes of the PROXY protocol, on an endpoint that takes it.
    :ivar trusted: what ``--trusted-proxy`` is given.
    """

    peer: str | None
    lines: Sequence[bytes]
    host: str | None
    key: str | None
    proxied: bytes = b""
    trusted: Sequence[str] = ("10.0.0.0/24",)


def _v1(source: str, kind: str = "TCP4") -> bytes:
    return f"PROXY {kind} {source} 192.0.2.1 56324 443\r\n".encode()


def _v2(family: int, addresses: bytes, command: int = 0x21) -> bytes:
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes((command, family)) + len(addresses).to_bytes(2, "big") + addresses


_V2_IPV4 = bytes((203, 0, 113, 9, 192, 0, 2, 1)) + b"\xdc\x04\x01\xbb"
_V2_IPV6 = bytes.fromhex("20010db8000700080000000000000009") + bytes(16) + b"\xdc\x04\x01\xbb"
_V2_UNIX = b"/run/edge.sock".ljust(216, b"\0")


def _told(*lines: bytes) -> Row:
    """A proxy that is trusted names the client."""
    return Row(_NGINX, lines, _CLIENT, _CLIENT)


def _disbelieved(*lines: bytes) -> Row:
    """A proxy that is trusted says nothing that can be believed: the address is its own."""
    return Row(_NGINX, lines, _NGINX, _NGINX)


ROWS = {
    # Peers that aren't trusted
    "nobody in between": Row(_CLIENT, (), _CLIENT, _CLIENT),
    "spoofed X-Forwarded-For": Row(_CLIENT, (_XFF + b"198.51.100.7",), _CLIENT, _CLIENT),
    "spoofed Forwarded": Row(_CLIENT, (_FWD + b"for=198.51.100.7",), _CLIENT, _CLIENT),
    "spoofed, as if by a trusted proxy": Row(_CLIENT, (_XFF + b"198.51.100.7, 10.0.0.1",), _CLIENT, _CLIENT),
    "spoofed PROXY, version 1": Row(_CLIENT, (), _CLIENT, _CLIENT, _v1("198.51.100.7")),
    "spoofed PROXY, version 2": Row("198.51.100.8", (), "198.51.100.8", "198.51.100.8", _v2(0x11, _V2_IPV4)),
    "spoofed PROXY of a trusted proxy": Row(_CLIENT, (_XFF + b"198.51.100.7",), _CLIENT, _CLIENT, _v1(_NGINX)),
    "the next network": Row("10.0.1.1", (_XFF + b"198.51.100.7",), "10.0.1.1", "10.0.1.1"),
    "nobody is trusted": Row(_NGINX, (_XFF + _CLIENT.encode(),), _NGINX, _NGINX, trusted=()),
    "loopback, and nobody is trusted": Row("127.0.0.1", (_XFF + b"198.51.100.7",), "127.0.0.1", None, trusted=()),
    "loopback in IPv6": Row("::1", (), "::1", None, trusted=()),
    "loopback, mapped": Row("::ffff:127.0.0.1", (), "127.0.0.1", None, trusted=()),
    "loopback, and others are trusted": Row("127.0.0.1", (_XFF + b"198.51.100.7",), "127.0.0.1", "127.0.0.1"),
    "a Unix socket, and nobody is trusted": Row(None, (_XFF + b"198.51.100.7",), None, None, trusted=()),
    "a Unix socket that isn't trusted": Row(None, (_XFF + b"198.51.100.7",), None, None),
    # One proxy that is trusted
    "X-Forwarded-For": _told(_XFF + b"203.0.113.9"),
    "X-Forwarded-For, after what the client claims": _told(_XFF + b"198.51.100.7, 203.0.113.9"),
    "X-Forwarded-For in several lines": _told(_XFF + b"198.51.100.7", _XFF + b"203.0.113.9"),
    "X-Forwarded-For with a port": _told(_XFF + b"203.0.113.9:4711"),
    "X-Forwarded-For without spaces": _told(_XFF + b"198.51.100.7,203.0.113.9"),
    "X-Forwarded-For with empty elements": _told(_XFF + b", 198.51.100.7,, ,203.0.113.9 , ,"),
    "8 KB of commas": _disbelieved(_XFF + b"," * 8000),
    "an address behind 8 KB of commas": _told(_XFF + b"," * 8000 + b"203.0.113.9"),
    "an address before 8 KB of commas": _told(_XFF + b"203.0.113.9" + b" ," * 4000),
    "8 KB of what the client claims": _told(_XFF + b"198.51.100.7, " * 600 + b"203.0.113.9"),
    "Forwarded": _told(_FWD + b"for=203.0.113.9"),
    "Forwarded in other letters, with more": _told(_FWD + b'By=10.0.0.1;FOR="203.0.113.9";proto=https'),
    "Forwarded in quotes, with a port": _told(_FWD + b'for="203.0.113.9:47011"'),
    "Forwarded with a hidden port": _told(_FWD + b'for="203.0.113.9:_app"'),
    "Forwarded, with escapes": _told(_FWD + b'for="203\\.0.113.9"'),
    "Forwarded, after what the client claims": _told(_FWD + b"for=198.51.100.7, for=203.0.113.9"),
    "Forwarded, with commas in quotes": _told(_FWD + b'for=198.51.100.7;host="a,\\",b", for=203.0.113.9'),
    "Forwarded in several lines": _told(_FWD + b"for=198.51.100.7", _FWD + b"proto=http; for=203.0.113.9"),
    "Forwarded with empty elements": _told(_FWD + b",, for=203.0.113.9;, ,"),
    "a Unix socket that is trusted": Row(None, (_XFF + b"203.0.113.9",), _CLIENT, _CLIENT, trusted=("unix",)),
    "loopback that is trusted": Row("::1", (_XFF + b"203.0.113.9",), _CLIENT, _CLIENT, trusted=("loopback",)),
    "a trusted proxy by its own": Row(_NGINX, (), _NGINX, None),
    "a trusted Unix socket by its own": Row(None, (), None, None, trusted=("unix",)),
    "a client inside of the trusted network": Row(_NGINX, (_XFF + b"10.0.0.77",), "10.0.0.77", "10.0.0.77"),
    # IPv6
    "IPv6 by its /64": Row("2001:db8:7:8::9", (), "2001:db8:7:8::9", "2001:db8:7:8::/64"),
    "IPv6 with a zone": Row("fe80::9%eth0", (), "fe80::9", "fe80::/64"),
    "IPv4, mapped": Row("::ffff:203.0.113.9", (), _CLIENT, _CLIENT),
    "a trusted proxy, mapped": Row("::ffff:10.0.0.1", (_XFF + b"203.0.113.9",), _CLIENT, _CLIENT),
    "a trusted proxy, in another spelling": Row(
        "2001:db8::1", (_XFF + b"203.0.113.9",), _CLIENT, _CLIENT, trusted=("2001:0DB8:0::/48",)
    ),
    "trust for a mapped address": Row(_NGINX, (_XFF + b"203.0.113.9",), _CLIENT, _CLIENT, trusted=("::ffff:10.0.0.1",)),
    "X-Forwarded-For of IPv6": Row(_NGINX, (_XFF + b"2001:DB8:7:8:0::9",), "2001:db8:7:8::9", "2001:db8:7:8::/64"),
    "X-Forwarded-For of IPv6 with a port": Row(
        _NGINX, (_XFF + b"[2001:db8:7:8::9]:443",), "2001:db8:7:8::9", "2001:db8:7:8::/64"
    ),
    "X-Forwarded-For, mapped": _told(_XFF + b"::ffff:203.0.113.9"),
    "Forwarded of IPv6": Row(_NGINX, (_FWD + b'for="[2001:db8:7:8::9]:4711"',), "2001:db8:7:8::9", "2001:db8:7:8::/64"),
    # Two proxies
    "two proxies": _told(_XFF + b"198.51.100.7, 203.0.113.9, 10.0.0.2"),
    "two proxies, two lines": _told(_XFF + b"203.0.113.9", _XFF + b"10.0.0.2"),
    "two proxies, Forwarded": _told(_FWD + b"for=203.0.113.9, for=10.0.0.2;by=10.0.0.1"),
    "two proxies, the outer one unknown": Row(_NGINX, (_XFF + b"203.0.113.9, 192.0.2.80",), "192.0.2.80", "192.0.2.80"),
    "two proxies, the outer one hides": Row(_NGINX, (_FWD + b"for=_hidden, for=10.0.0.2",), _EDGE, _EDGE),
    "two proxies, PROXY from the inner": Row(_NGINX, (_XFF + b"203.0.113.9",), _CLIENT, _CLIENT, _v1(_EDGE)),
    "more proxies than there can be": Row(_NGINX, (_XFF + b"10.0.0.3, " * 50 + b"10.0.0.2",), "10.0.0.3", "10.0.0.3"),
    # What can't be believed
    "X-Forwarded-For: unknown": _disbelieved(_XFF + b"203.0.113.9, unknown"),
    "X-Forwarded-For: garbage": _disbelieved(_XFF + b"203.0.113.9, '; DROP TABLE"),
    "X-Forwarded-For: bytes": _disbelieved(_XFF + b"203.0.113.9, \xff\xfe"),
    "X-Forwarded-For: other digits": _disbelieved(_XFF + "٢٠٣.0.113.9".encode()),
    "X-Forwarded-For: zeros in front": _disbelieved(_XFF + b"203.000.113.009"),
    "X-Forwarded-For: three numbers": _disbelieved(_XFF + b"203.0.113"),
    "X-Forwarded-For: one number": _disbelieved(_XFF + b"3405803785"),
    "X-Forwarded-For: a large port": _disbelieved(_XFF + b"203.0.113.9:471100"),
    "X-Forwarded-For: IPv4 in brackets": _disbelieved(_XFF + b"[203.0.113.9]"),
    "X-Forwarded-For: a network": _disbelieved(_XFF + b"203.0.113.9/32"),
    "X-Forwarded-For: a zone": _disbelieved(_XFF + b"fe80::1%eth0"),
    "X-Forwarded-For: a name": _disbelieved(_XFF + b"client.example"),
    "Forwarded: unknown": _disbelieved(_FWD + b"for=203.0.113.9, for=unknown"),
    "Forwarded: hidden": _disbelieved(_FWD + b"for=203.0.113.9, for=_SEVKISEK"),
    "Forwarded without for": _disbelieved(_FWD + b"for=203.0.113.9, by=10.0.0.1"),
    "Forwarded: quotes that don't end": _disbelieved(_FWD + b'for=203.0.113.9;host="a, for=203.0.113.9'),
    "Forwarded: a port without quotes": _disbelieved(_FWD + b"for=203.0.113.9:80"),
    "Forwarded: IPv6 without brackets": _disbelieved(_FWD + b'for="2001:db8::9"'),
    "Forwarded: for twice": _disbelieved(_FWD + b"for=203.0.113.9;for=203.0.113.9"),
    "Forwarded: no pair": _disbelieved(_FWD + b"203.0.113.9"),
    "Forwarded: 8 KB of commas": _disbelieved(_FWD + b"," * 8000),
    "Forwarded, long": _disbelieved(_FWD + b"for=198.51.100.7," * 400 + b"for=203.0.113.9"),
    # Both headers
    "both headers agree": _told(_XFF + b"203.0.113.9", _FWD + b"for=203.0.113.9;proto=https"),
    "both headers agree, after more": _told(_XFF + b"203.0.113.9, 10.0.0.2", _FWD + b"for=203.0.113.9"),
    "both headers don't agree": _disbelieved(_XFF + b"203.0.113.9", _FWD + b"for=198.51.100.7"),
    "both headers, one unreadable": _disbelieved(_XFF + b"203.0.113.9", _FWD + b'for="'),
    "both headers, a Unix socket": Row(
        None, (_XFF + b"203.0.113.9", _FWD + b"for=198.51.100.7"), None, "unix", trusted=("unix",)
    ),
    # The PROXY protocol
    "PROXY, version 1": Row(_NGINX, (), _CLIENT, _CLIENT, _v1(_CLIENT)),
    "PROXY, version 1, IPv6": Row(_NGINX, (), "2001:db8:7:8::9", "2001:db8:7:8::/64", _v1("2001:db8:7:8::9", "TCP6")),
    "PROXY, version 1, unknown": Row(_NGINX, (), _NGINX, None, b"PROXY UNKNOWN \r\n"),
    "PROXY, version 1, garbage": Row(_NGINX, (), _NGINX, _NGINX, _v1("\x1b[31m")),
    "PROXY, version 2": Row(_NGINX, (), _CLIENT, _CLIENT, _v2(0x11, _V2_IPV4)),
    "PROXY, version 2, IPv6": Row(_NGINX, (), "2001:db8:7:8::9", "2001:db8:7:8::/64", _v2(0x21, _V2_IPV6)),
    "PROXY, version 2, of the proxy itself": Row(_NGINX, (), _NGINX, None, _v2(0, b"", 0x20)),
    "PROXY, version 2, a Unix socket": Row(_NGINX, (), _NGINX, _NGINX, _v2(0x31, _V2_UNIX)),
    "PROXY of a client that sends headers": Row(_NGINX, (_XFF + b"198.51.100.7",), _CLIENT, _CLIENT, _v1(_CLIENT)),
    "PROXY by a trusted Unix socket": Row(None, (), _CLIENT, _CLIENT, _v1(_CLIENT), ("unix",)),
    "PROXY by a Unix socket": Row(None, (), None, None, _v1(_CLIENT)),
}


def _address(host: str | None) -> Any:
    if host is None:
        return UNIXAddress("")
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, 40000)


class _Kept(JSONResource):
    """Keeps whose requests it gets."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[ClientAddress] = []

    def render_GET(self, request: Request) -> bytes:
        self.addresses.append(request.client_address)
        return b"{}"

    render_POST = render_GET


class AddressTestCase(SiteTestCase):
    """A site that keeps whose requests it gets."""

    def setUp(self) -> None:
        super().setUp()
        self.kept = _Kept()
        self.root.putChild(b"kept", self.kept)

    def site_of(self, trusted: Sequence[str], **changes: Any) -> RealtimeSite:
        self.site = self.make_site(client_addresses=ClientAddresses(TrustedProxies.parse(trusted)), **changes)
        return self.site

    def connect_from(self, peer: str | None, proxied: bytes) -> SocketLike:
        """Connect to the site, by way of the PROXY protocol where there is some."""
        transport = SocketLike(peerAddress=_address(peer))
        factory: Any = self.site
        if proxied:
            factory = ProxiedConnections(self.site)
        transport.protocol = factory.buildProtocol(transport.getPeer())
        self.transports.append(transport)
        transport.protocol.makeConnection(transport)
        if proxied:
            transport.protocol.dataReceived(proxied)
        return transport


class TableTests(AddressTestCase):
    """Whose address a request has."""

    def of(self, row: Row, **changes: Any) -> list[ClientAddress]:
        """Whose addresses two equal requests on one connection have."""
        self.site_of(row.trusted, **changes)
        transport = self.connect_from(row.peer, row.proxied)
        self.kept.addresses = []
        for _ in range(2):
            transport.protocol.dataReceived(get(b"/kept", *row.lines))
        return self.kept.addresses

    def test_rows(self) -> None:
        """Each row of the table, for a first request and for one with the same header lines."""
        for name, row in ROWS.items():
            self.assertEqual([(row.host, row.key)] * 2, self.of(row), name)

    def test_posts(self) -> None:
        """The same holds for a request with a body."""
        for name, row in ROWS.items():
            self.site_of(row.trusted)
            transport = self.connect_from(row.peer, row.proxied)
            self.kept.addresses = []
            lines = (*row.lines, b"Content-Length: 1")
            transport.protocol.dataReceived(get(b"/kept", *lines, method=b"POST") + b"1")
            self.assertEqual([(row.host, row.key)], self.kept.addresses, name)

    def test_access_log(self) -> None:
        """The access log has the whole address, and nothing raw of what was claimed."""
        for name, row in ROWS.items():
            path = self.mktemp()
            self.of(row, access_log=path)
            self.site.stopFactory()
            hosts = [line.split(" - - ")[0] for line in Path(path).read_text("ascii").splitlines()]
            self.assertEqual([row.host or "-"] * 2, hosts, name)

    def test_refused(self) -> None:
        """A request that is refused by its head is logged under its client; one that can't be read, under its peer."""
        path = self.mktemp()
        self.site_of(["10.0.0.1"], access_log=path)
        self.addCleanup(self.site.stopFactory)
        line = _XFF + _CLIENT.encode()
        for data in (get(b"/", line, host=b"evil.example"), get(b"/", line, b"nonsense"), b"nonsense\r\n"):
            self.connect_from(_NGINX, b"").protocol.dataReceived(data)
        logged = [line.split()[0] for line in Path(path).read_text("ascii").splitlines()]
        self.assertEqual([_CLIENT, _NGINX, _NGINX], logged)

    def test_clients_of_one_connection(self) -> None:
        """A proxy that keeps its connections sends requests of many clients over each of them."""
        self.site_of(["10.0.0.1"])
        transport = self.connect_from(_NGINX, b"")
        clients = ["203.0.113.1", "203.0.113.2", "203.0.113.1", "203.0.113.1", "203.0.113.3"]
        for client in clients:
            transport.protocol.dataReceived(get(b"/kept", _XFF + client.encode()))
        self.assertEqual(clients, [address.key for address in self.kept.addresses])

    def test_trust(self) -> None:
        """Whom the site trusts can be changed, and counts for the next request on every connection."""
        self.site_of([])
        transport = self.connect_from(_NGINX, b"")
        request = get(b"/kept", _XFF + _CLIENT.encode())
        transport.protocol.dataReceived(request)
        for trusted in (["10.0.0.1"], []):
            self.site.trust(TrustedProxies.parse(trusted))
            transport.protocol.dataReceived(request)
        self.assertEqual([_NGINX, _CLIENT, _NGINX], [address.host for address in self.kept.addresses])


class PlainTableTests(TableTests):
    """The same where Twisted reads all requests."""

    fast = False


class HintTests(AddressTestCase):
    """An operator who has forgotten ``--trusted-proxy`` is told, once."""

    def hints(self, *rows: Row) -> list[str]:
        """What is logged where these come one after the other."""
        self.site_of(rows[0].trusted)
        with capturedLogs() as events:
            for row in rows:
                self.connect_from(row.peer, row.proxied).protocol.dataReceived(get(b"/kept", *row.lines))
        return [formatEvent(event) for event in events if "client_address" in event["log_namespace"]]

    def test_private_peer(self) -> None:
        """A peer in a private network that sends a header of proxies is named, with what would be right."""
        row = Row(_NGINX, (_XFF + b"1.2.3.4",), None, None, trusted=())
        (hint,) = self.hints(row, row, row._replace(peer=_EDGE))
        self.assertIn("--trusted-proxy 10.0.0.1", hint)
        self.assertIn("X-Forwarded-For", hint)
        self.assertNotIn("1.2.3.4", hint)

    def test_proxy_protocol(self) -> None:
        """So is a peer of whatever network that sends the PROXY protocol."""
        (hint,) = self.hints(Row("198.51.100.8", (), None, None, _v1(_CLIENT), ()))
        self.assertIn("--trusted-proxy 198.51.100.8", hint)
        self.assertIn("PROXY", hint)

    def test_strangers(self) -> None:
        """Strangers can't cause a hint, and loopback has none, as its limits are off."""
        for peer in ("8.8.8.8", "127.0.0.1", None):
            self.assertEqual([], self.hints(Row(peer, (_XFF + b"1.2.3.4",), None, None, trusted=())))
        self.assertEqual([], self.hints(Row(_NGINX, (), None, None, trusted=())))


class TrustedProxiesTests(SynchronousTestCase):
    """What ``--trusted-proxy`` may be given."""

    def test_texts(self) -> None:
        """Addresses, networks, loopback and Unix sockets; they read as they were given."""
        proxies = TrustedProxies.parse(["10.0.0.1", "10.1.0.0/16", "2001:db8::/32", "unix", "loopback"])
        self.assertEqual("10.0.0.1, 10.1.0.0/16, 2001:db8::/32, 127.0.0.0/8, ::1, unix", str(proxies))
        self.assertTrue(proxies)
        self.assertFalse(TrustedProxies())
        self.assertEqual(TrustedProxies(), TrustedProxies.parse([]))

    def test_wrong(self) -> None:
        """Everything else is refused, with what would be right."""
        for text, right in (
            ("", "10.0.0.5"),
            ("proxy.example", "10.0.0.5"),
            ("10.0.0.5:80", "10.0.0.5"),
            ("10.0.0.0/33", "10.0.0.5"),
            ("10.0.0.*", "10.0.0.5"),
            ("[::1]", "10.0.0.5"),
            ("fe80::1%eth0", "10.0.0.5"),
            ("10.0.0.7/8", "10.0.0.0/8"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("0.0.0.0/0", "your proxy's"),
            ("::/0", "your proxy's"),
            ("::ffff:0.0.0.0/96", "your proxy's"),
        ):
            error = self.assertRaises(ValueError, TrustedProxies.parse, [text])
            self.assertIn("right would be", str(error))
            self.assertIn(right, str(error), text)
            self.assertIn(repr(text), str(error))


_HOSTILE = st.text(st.sampled_from('0123456789abcdef.:[]%,;="\\ \tfor_unknown\x00\x1b\xff'), max_size=60)


class GarbageTests(SynchronousTestCase):
    """Whatever a trusted proxy sends."""

    def setUp(self) -> None:
        self.addresses = ClientAddresses(TrustedProxies.parse(["10.0.0.1"]))
        self.peer = self.addresses.peer_of(SocketLike(peerAddress=_address(_NGINX)))

    def of(self, headers: dict[str, list[str]]) -> ClientAddress:
        raw = {name.encode(): [text.encode("latin-1") for text in texts] for name, texts in headers.items()}
        return self.addresses.of(self.peer, Headers(raw))

    @given(
        st.dictionaries(
            st.sampled_from(("X-Forwarded-For", "Forwarded")), st.lists(_HOSTILE, min_size=1, max_size=3), min_size=1
        )
    )
    def test_garbage(self, headers: dict[str, list[str]]) -> None:
        """There is always an address to count by, and it is one of those that IP has."""
        host, key = self.of(headers)
        assert host is not None
        assert key is not None
        self.assertRegex(host, r"\A[0-9a-f:.]{2,39}\Z")
        self.assertRegex(key, r"\A[0-9a-f:.]{2,39}(/64)?\Z")

    def test_cost(self) -> None:
        """The longest headers cost few steps."""
        for name, text in (
            ("X-Forwarded-For", "," * 8000),
            ("X-Forwarded-For", " ," * 4000),
            ("X-Forwarded-For", "10.0.0.1," * 800),
            ("X-Forwarded-For", "198.51.100.7, " * 500),
            ("X-Forwarded-For", "[" * 8000),
            ("X-Forwarded-For", ":" * 8000),
            ("Forwarded", "," * 8000),
            ("Forwarded", "for=10.0.0.1," * 600),
            ("Forwarded", "for=10.0.0.1," * 70),
            ("Forwarded", 'for="' + "\\a" * 500),
            ("Forwarded", "a" * 8000),
        ):
            count = _lines_run(lambda name=name, text=text: self.of({name: [text]}))  # type: ignore[misc]
            self.assertLess(count, 2000, (name, text[:20]))

    def test_memory(self) -> None:
        """Only so many different headers are kept in memory, and no long ones."""
        for number in range(10_000):
            self.of({"X-Forwarded-For": [f"198.51.{number % 256}.{number // 256}"]})
            self.of({"X-Forwarded-For": ["1.2.3.4, " * 100 + f"198.51.{number % 256}.{number // 256}"]})
        self.assertLess(self.addresses.kept, 5000)


def _lines_run(call: Callable[[], object]) -> int:
    """How many lines of Python a call runs."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count
