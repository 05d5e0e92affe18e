"""Tests for :mod:`realtime_chat.http.origins` and :mod:`realtime_chat.http.host_list`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from realtime_chat.http.host_list import Authority, HostList
from realtime_chat.http.origins import OriginPolicy, destination_of, is_foreign, normalise_origin
from realtime_chat.values.errors import RealtimeError


class AuthorityTests(SynchronousTestCase):
    """Reading the value of a Host header."""

    def test_valid(self) -> None:
        """Names, addresses and ports are read, in one form whatever the case."""
        for text, name, port in (
            ("localhost", "localhost", None),
            ("Chat.Example.COM:8080", "chat.example.com", 8080),
            ("192.0.2.7", "192.0.2.7", None),
            ("[::1]:1", "[::1]", 1),
            ("[0:0:0:0:0:0:0:1]", "[::1]", None),
            ("[2001:DB8::A]", "[2001:db8::a]", None),
            ("a_b-c.example:65535", "a_b-c.example", 65535),
        ):
            self.assertEqual(Authority.parse(text), Authority(name, port))

    def test_invalid(self) -> None:
        """Everything else is refused."""
        for text in (
            "",
            " localhost",
            "localhost ",
            "localhost\n",
            "localhost.",
            ".localhost",
            "a..b",
            "localhost:",
            "localhost:0",
            "localhost:65536",
            "localhost:999999",
            "localhost:-1",
            "localhost:8o",
            "localhost:80:80",
            "local host",
            "me@localhost",
            "localhost/",
            "localhost#",
            "localhost?",
            "localhost,evil",
            "http://localhost",
            "::1",
            "[::1",
            "[]",
            "[localhost]",
            "[::1%eth0]",
            "[:::::]",
            "bücher.example",
            "localhost\u0660",
            "localhost:\u0668",
            "a" * 254,
        ):
            self.assertRaises(ValueError, Authority.parse, text)

    @given(some.text(max_size=300))
    def test_any_text(self, text: str) -> None:
        """Any text is read or refused, and what is read reads as itself."""
        try:
            authority = Authority.parse(text)
        except ValueError:
            return
        self.assertEqual(Authority.parse(str(authority)), authority)


class HostListTests(SynchronousTestCase):
    """Which names the site answers to."""

    def serves(self, hosts: HostList, name: str) -> bool:
        return hosts.serves(Authority.parse(name))

    def test_loopback(self) -> None:
        """Without configuration, the names of loopback are served on every port, and nothing else."""
        hosts = HostList()
        for name in ("localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]:8080"):
            self.assertTrue(self.serves(hosts, name))
        for name in ("127.0.0.2", "evil.example", "localhost.evil.example", "192.0.2.7", "[::2]", "2130706433"):
            self.assertFalse(self.serves(hosts, name))

    def test_names_replace_loopback(self) -> None:
        """Whoever names names serves those alone."""
        hosts = HostList(["Chat.example.com"])
        self.assertTrue(self.serves(hosts, "chat.EXAMPLE.com:8443"))
        self.assertFalse(self.serves(hosts, "localhost"))

    def test_ports(self) -> None:
        """A name with a port is served on that port alone; the port that a scheme implies may be left out."""
        hosts = HostList(["a.example:8080", "b.example:443", "::1"])
        for name, served in (
            ("a.example:8080", True),
            ("a.example:8081", False),
            ("a.example", False),
            ("b.example", True),
            ("b.example:443", True),
            ("b.example:80", False),
            ("[::1]:7", True),
        ):
            self.assertEqual((name, self.serves(hosts, name)), (name, served))

    def test_listening(self) -> None:
        """Loopback and what is listened on are served; listening everywhere serves every address, and no name."""
        one = HostList.listening_on(["192.0.2.7", "2001:db8::1"])
        for name in ("localhost", "192.0.2.7:8080", "[2001:db8::1]"):
            self.assertTrue(self.serves(one, name))
        self.assertFalse(self.serves(one, "192.0.2.8"))
        for everywhere in ("", "0.0.0.0", "::"):
            hosts = HostList.listening_on([everywhere, "127.0.0.1"])
            self.assertTrue(self.serves(hosts, "192.0.2.8") and self.serves(hosts, "[2001:db8::1]:80"))
            self.assertFalse(self.serves(hosts, "evil.example"))

    def test_more_names(self) -> None:
        """Names can be added to what is listened on."""
        self.assertTrue(self.serves(HostList.listening_on([], ["chat.example"]), "chat.example"))

    def test_check(self) -> None:
        """One valid header with a served name is read; the error says which of that was wrong."""
        hosts = HostList()
        self.assertEqual(hosts.check([b"localhost:1"]), Authority("localhost", 1))
        self.assertEqual(hosts.check([b"localhost:1"]), Authority("localhost", 1))
        for values, code in (
            ([], "bad_request"),
            ([b"localhost", b"localhost"], "bad_request"),
            ([b"local host"], "bad_request"),
            ([b"\xff"], "bad_request"),
            ([b"evil.example"], "unknown_host"),
        ):
            self.assertEqual(self.assertRaises(RealtimeError, hosts.check, values).code, code)

    def test_memory(self) -> None:
        """Many ways of writing a served name take no more and more memory."""
        hosts = HostList()
        for port in range(1, 2000):
            hosts.check([b"localhost:%d" % port])
        self.assertLessEqual(len(hosts._seen), 256)

    def test_refused_configuration(self) -> None:
        """A name that can't be one is refused, with one that could."""
        for name in ("", "http://localhost", "local host", "*.example.com", "example.com.", "1:2:3", "localhost:0"):
            error = self.assertRaises(ValueError, HostList, [name])
            self.assertIn(f"{name!r} can't be served as a host: ", str(error))
            self.assertIn("right would be chat.example.com", str(error))

    def test_str(self) -> None:
        """It can be told to the operator."""
        self.assertEqual(str(HostList(["b", "a:1"], any_address=True)), "a:1, b, any IP address")


class NormaliseTests(SynchronousTestCase):
    """Configured origins are brought into the form in which browsers send them."""

    def test_normalised(self) -> None:
        """Case, a default port and a closing slash make no difference."""
        for value, normal in (
            ("https://example.com", "https://example.com"),
            ("https://Example.com:443/", "https://example.com"),
            ("HTTP://example.com:80", "http://example.com"),
            ("http://example.com:443", "http://example.com:443"),
            ("https://example.com:80", "https://example.com:80"),
            ("http://[0::1]:8080", "http://[::1]:8080"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("*", "*"),
            ("null", "null"),
        ):
            self.assertEqual(normalise_origin(value), normal)

    def test_refused(self) -> None:
        """What is no origin is refused with the reason, and with one that would be right."""
        for value, reason in (
            ("", "starts with its scheme"),
            ("example.com", "starts with its scheme"),
            ("https:example.com", "starts with its scheme"),
            ("https://", "not NAME"),
            ("https:///", "no path"),
            ("https://example.com/chat", "no path"),
            ("https://example.com//", "no path"),
            ("https://example.com?x", "no query"),
            ("https://example.com#x", "no fragment"),
            ("https://me@example.com", "no user name"),
            ("https://*.example.com", "no pattern"),
            ("https://bücher.example", "ASCII form"),
            ("https://example.com.", "trailing dots"),
            ("https://example.com:0", "from 1 to 65535"),
            ("https://example.com:x", "not NAME"),
            ("https://a.example https://b.example", "no path"),
            (" https://example.com", "starts with its scheme"),
            ("https://example.com\n", "not NAME"),
        ):
            message = str(self.assertRaises(ValueError, normalise_origin, value))
            self.assertIn(reason, message)
            self.assertTrue(message.startswith(repr(value)) and message.endswith("right would be https://example.com"))


LOOKALIKES = (
    b"null",
    b"",
    b"*",
    b"https://evil.example",
    b"https://example.com.evil.example",
    b"https://evilexample.com",
    b"https://sub.example.com",
    b"https://example.com:8443",
    b"https://example.com:443@evil.example",
    b"https://me@example.com",
    b"https://example.com.",
    b"https://example.com/",
    b"https://example.com/x",
    b"https://example.com, https://evil.example",
    b"https://example.com https://evil.example",
    b"https://example.com\x00",
    b"https://example.co\xd0\xbc",
    b"https://xn--exmple-cua.com",
    b"https://example",
    b"https:example.com",
    b"https:/example.com",
    b"//example.com",
    b"example.com",
    b"ftp://example.com",
    b"file://",
    b"data:text/html,x",
    b"javascript:alert(1)",
    b"blob:https://example.com",
)


class OriginPolicyTests(SynchronousTestCase):
    """Pages of which origins may use the site."""

    def test_no_origin(self) -> None:
        """A request without an Origin header is no browser's cross-site request."""
        self.assertTrue(OriginPolicy().permits(None, b"example.com", False))

    def test_same_origin(self) -> None:
        """The site's own pages may; behind a proxy that ends TLS their scheme isn't ours."""
        policy = OriginPolicy()
        for origin, host in (
            (b"http://example.com", b"example.com"),
            (b"https://example.com", b"example.com"),
            (b"http://example.com:8080", b"example.com:8080"),
            (b"https://example.com:8080", b"Example.com:8080"),
            (b"http://example.com", b"example.com:80"),
            (b"https://example.com", b"example.com:443"),
            (b"http://[::1]:8080", b"[::1]:8080"),
        ):
            self.assertEqual((origin, policy.permits(origin, host, False)), (origin, True))

    def test_other_port(self) -> None:
        """Another port is another origin, whatever the scheme implies."""
        policy = OriginPolicy()
        for origin, host in (
            (b"http://example.com:8081", b"example.com:8080"),
            (b"http://example.com", b"example.com:8080"),
            (b"http://example.com:8080", b"example.com"),
            (b"https://example.com", b"example.com:80"),
            (b"http://example.com", b"example.com:443"),
        ):
            self.assertEqual((origin, policy.permits(origin, host, False)), (origin, False))

    def test_secure(self) -> None:
        """Over TLS a page that came without it is another origin's."""
        policy = OriginPolicy()
        self.assertTrue(policy.permits(b"https://example.com", b"example.com", True))
        self.assertFalse(policy.permits(b"http://example.com", b"example.com", True))

    def test_lookalikes(self) -> None:
        """What only looks like the site's own or a listed origin is refused."""
        for policy in (OriginPolicy(), OriginPolicy(["https://example.com"])):
            for origin in LOOKALIKES:
                self.assertEqual((origin, policy.permits(origin, b"example.com", False)), (origin, False))
                self.assertEqual((origin, policy.lists(origin)), (origin, False))

    def test_listed(self) -> None:
        """A listed origin may, in the form that browsers send, with its own scheme and port alone."""
        policy = OriginPolicy(["https://Example.com:443/", "http://other.example:8080"])
        for origin, listed in (
            (b"https://example.com", True),
            (b"http://example.com", False),
            (b"http://other.example:8080", True),
            (b"http://other.example", False),
        ):
            self.assertEqual((origin, policy.permits(origin, b"localhost", True)), (origin, listed))
            self.assertEqual((origin, policy.lists(origin)), (origin, listed))

    def test_any(self) -> None:
        """``*`` lists every origin that is one, and not ``null``."""
        policy = OriginPolicy(["*"])
        self.assertTrue(policy.permits(b"https://anything.example:1", b"localhost", False))
        for origin in (b"null", b"", b"*", b"https://a.example/"):
            self.assertFalse(policy.permits(origin, b"localhost", False))

    def test_applications(self) -> None:
        """Pages of programs, whose origins name no host, may where these are listed, or every origin is."""
        for origin in ("file://", "app://.", "capacitor://localhost"):
            for listed in (origin, "*"):
                self.assertTrue(OriginPolicy([listed]).permits(origin.encode(), b"localhost", False), origin)
            self.assertFalse(OriginPolicy(["https://a.example"]).permits(origin.encode(), b"localhost", False))
        for wrong in ("https://", "http://.", "app://..", "app://./x"):
            self.assertRaises(ValueError, OriginPolicy, [wrong])

    def test_null(self) -> None:
        """``null`` may where it is listed by name."""
        self.assertTrue(OriginPolicy(["null"]).permits(b"null", b"localhost", False))
        self.assertFalse(OriginPolicy(["null"]).permits(b"https://a.example", b"localhost", False))

    def test_own_is_not_listed(self) -> None:
        """The site's own origin is permitted and needs no leave to read answers."""
        self.assertFalse(OriginPolicy().lists(b"http://localhost"))

    def test_refused_configuration(self) -> None:
        """What is no origin can't be listed."""
        self.assertRaises(ValueError, OriginPolicy, ["example.com"])

    def test_str(self) -> None:
        """It can be told to the operator."""
        self.assertEqual(
            str(OriginPolicy(["https://b.example", "https://a.example"])),
            "same origin, https://a.example, https://b.example",
        )
        self.assertEqual((OriginPolicy().varies, OriginPolicy(["*"]).varies), (False, True))

    @given(some.binary(max_size=60), some.binary(max_size=30))
    def test_any_bytes(self, origin: bytes, host: bytes) -> None:
        """No bytes make it fail, or are permitted by chance."""
        self.assertFalse(OriginPolicy(["https://example.com"]).permits(b"x" + origin, host, False))


class FetchTests(SynchronousTestCase):
    """What browsers say of where a request comes from, and what its answer is for."""

    def test_destinations(self) -> None:
        """A destination is what is said, or else told by how images and pages are asked for; else it is a script's."""
        for header, value, destination in (
            ("Sec-Fetch-Dest", "empty", b"empty"),
            ("Sec-Fetch-Dest", "Image", b"image"),
            ("Sec-Fetch-Dest", "document", b"document"),
            ("Accept", "image/avif,image/webp,*/*;q=0.8", b"image"),
            ("Accept", "image/png, image/svg+xml, image/*;q=0.8, */*;q=0.5", b"image"),
            ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", b"document"),
            ("Accept", "text/html, application/xhtml+xml, */*", b"document"),
            ("Accept", "text/css,*/*;q=0.1", b"style"),
            ("Accept", "*/*", b"empty"),
            ("Accept", "text/event-stream", b"empty"),
            ("Accept", "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", b"empty"),  # Java, no browser
            ("X", "y", b"empty"),
        ):
            self.assertEqual((value, destination), (value, destination_of(Headers({header: [value]}))))

    def test_said_counts(self) -> None:
        """What is said counts more than what is accepted."""
        headers = Headers({"Sec-Fetch-Dest": ["empty"], "Accept": ["image/png"]})
        self.assertEqual(b"empty", destination_of(headers))

    def test_foreign(self) -> None:
        """Another site's page, and one of a sibling, have another origin."""
        for value, foreign in (("cross-site", True), ("Same-Site", True), ("same-origin", False), ("none", False)):
            self.assertEqual((value, foreign), (value, is_foreign(Headers({"Sec-Fetch-Site": [value]}))))
        self.assertFalse(is_foreign(Headers()))
