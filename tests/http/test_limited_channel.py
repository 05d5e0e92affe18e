"""Tests for :mod:`realtime_chat.http.limited_channel`: what connections count for the address that they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.web.server import NOT_DONE_YET

from realtime_chat.core.node import Node
from realtime_chat.core.rate_limiter import RateLimiter
from realtime_chat.http.answers import JSONResource
from realtime_chat.http.client_address import ClientAddresses, TrustedProxies
from realtime_chat.http.site import RealtimeSite
from realtime_chat.proxy_protocol import ProxiedConnections
from realtime_chat.values.limits import Limits
from realtime_chat.values.rates import Rate, RateLimits, ScopeLimits
from tests.http.site_case import CHUNKED, SiteTestCase, SocketLike, Upgrade, get, post, read_answers

CLIENT, OTHER, PROXY = "203.0.113.9", "203.0.113.10", "10.0.0.1"


class _Admitting(JSONResource):
    """A stream: it is admitted, and begins at once, later or never."""

    def __init__(self, root: Any) -> None:
        super().__init__()
        self._root = root

    def render_GET(self, request: Any) -> int:
        request.channel.admit(request)
        if b"later" in request.args:
            self._root.waiting.append(request)
        else:
            Upgrade.upgrade(request)
        return NOT_DONE_YET


class LimitedCase(SiteTestCase):
    """A site on which an address has limits, before which there may be a proxy."""

    limits = ScopeLimits(connections=2)

    def setUp(self) -> None:
        super().setUp()
        self.root.putChild(b"stream", _Admitting(self.root))
        self.node = Node("n", self.clock, self.clock.seconds, Limits())
        self.limiter = RateLimiter(self.node, RateLimits(address=self.limits))
        self.site = self.limited_site(PROXY)

    def limited_site(self, *trusted: str, **changes: Any) -> RealtimeSite:
        addresses = ClientAddresses(TrustedProxies.parse(trusted))
        return self.make_site(client_addresses=addresses, limiter=self.limiter, **changes)

    def come(self, peer: str | None, *pieces: bytes, site: Any = None) -> SocketLike:
        """Connect from an address, and send."""
        address = UNIXAddress("") if peer is None else IPv4Address("TCP", peer, 40000)
        transport = SocketLike(peerAddress=address)
        transport.protocol = (site or self.site).buildProtocol(address)
        self.transports.append(transport)
        transport.protocol.makeConnection(transport)
        for piece in pieces:
            transport.protocol.dataReceived(piece)
        return transport

    def through(self, client: str, path: bytes = b"/stream", proxy: str = PROXY) -> SocketLike:
        """Send a request through the proxy."""
        return self.come(proxy, get(path, b"X-Forwarded-For: " + client.encode()))

    def open(self, key: str) -> tuple[int, int]:
        """How many connections count for an address, and how many hold what is known of it."""
        usage = self.limiter.address(key)
        return usage.connections, usage.holders

    def check_refused(self, transport: SocketLike) -> None:
        """A connection was told what is wrong, and when to come back, and was closed."""
        (said,) = read_answers(transport.value())
        self.assertEqual((429, "too_many", "5", "close"), (said.status, said.code, *self.told(said)))
        self.assertIn(b"an address may have 2 connections (--address-connections)", said.body)
        self.assertTrue(transport.half_closed or transport.disconnecting)

    def told(self, said: Any) -> tuple[str, str]:
        return said.headers["retry-after"], said.headers["connection"]

    def check_nothing_left(self) -> None:
        for transport in self.transports:
            transport.lose()
        for usage in (self.limiter.address(key) for key in (CLIENT, OTHER, PROXY)):
            self.assertEqual((0, 0), (usage.connections, usage.holders))
        self.wheel.stop()
        super().check_nothing_left()


class ConnectionTests(LimitedCase):
    """Connections that clients open themselves."""

    def test_refused(self) -> None:
        """One more than an address may have is refused before it has sent anything; it is counted in the metrics."""
        kept = [self.come(CLIENT) for _ in range(2)]
        self.check_refused(self.come(CLIENT))
        self.assertEqual({("address", "connections"): 1}, self.node.counters.limited)
        for transport in (*kept, self.come(OTHER), self.come(OTHER)):
            transport.protocol.dataReceived(get())
            self.assertEqual([200], [said.status for said in read_answers(transport.value())])

    def test_again(self) -> None:
        """When one is closed, there is room for another."""
        first, _ = self.come(CLIENT), self.come(CLIENT)
        refused = self.come(CLIENT)
        first.lose()
        refused.lose()
        said = self.come(CLIENT, get())
        self.assertEqual([200], [said.status for said in read_answers(said.value())])

    def test_many_refused(self) -> None:
        """So many are told; further ones are cut off at once, so that they take no place from others."""
        self.site.max_refusals = 3
        for _ in range(2 + 3):
            self.come(CLIENT)
        self.assertEqual(5, self.site.connections)
        cut = self.come(CLIENT)
        self.assertEqual((True, b"", 5), (cut.closed, cut.value(), self.site.connections))
        self.assertEqual((5, 5), self.open(CLIENT))

    def test_no_limits(self) -> None:
        """Loopback and Unix sockets have none until there is a trusted proxy; a site without a limiter has none."""
        for site, peers in (
            (self.limited_site(), ("127.0.0.1", None)),
            (self.limited_site(PROXY), (PROXY, None)),
            (self.limited_site(PROXY, "unix"), (PROXY, None)),
            (self.make_site(), (CLIENT,)),
        ):
            self.site = site
            for peer in peers:
                for _ in range(4):
                    said = self.come(peer, get(), site=site)
                    self.assertEqual([200], [one.status for one in read_answers(said.value())])
            for transport in self.transports:
                transport.lose()

    def test_new_limits(self) -> None:
        """Limits can be changed while connections are open: those that are open stay."""
        kept = [self.come(CLIENT) for _ in range(2)]
        self.limiter.replace(RateLimits(address=ScopeLimits(connections=1)))
        self.assertFalse(any(transport.closed or transport.half_closed for transport in kept))
        self.assertTrue(self.come(CLIENT).half_closed)
        self.limiter.replace(RateLimits())
        self.assertFalse(self.come(CLIENT).half_closed)

    def test_new_trust(self) -> None:
        """Who is trusted can change while connections are open; each is counted until it is lost."""
        kept = self.come(CLIENT, get())
        self.through(CLIENT)
        self.site.trust(TrustedProxies.parse([CLIENT]))
        self.through(OTHER, proxy=CLIENT)
        kept.protocol.dataReceived(get(b"/stream", b"X-Forwarded-For: " + OTHER.encode()))
        self.assertEqual([(2, 2), (1, 1)], [self.open(CLIENT), self.open(OTHER)])

    def test_proxy_protocol(self) -> None:
        """On an endpoint for the PROXY protocol, who isn't trusted counts, whatever it claims."""
        factory = ProxiedConnections(self.site)
        for number in range(2):
            self.come(CLIENT, b"PROXY TCP4 198.51.100.%d 192.0.2.1 1 2\r\n" % number, site=factory)
        self.assertTrue(self.come(CLIENT, site=factory).value().startswith(b"HTTP/1.1 429 "))
        self.come(PROXY, b"PROXY TCP4 203.0.113.10 192.0.2.1 1 2\r\n" + get(b"/stream"), site=factory)
        self.assertEqual([(3, 3), (1, 1)], [self.open(CLIENT), self.open(OTHER)])
        self.assertEqual((0, 0), self.open("198.51.100.0"))


class ProxiedTests(LimitedCase):
    """WebSockets and streams that come through a proxy."""

    def test_refused(self) -> None:
        """One more than an address may have is refused; others that come through the proxy notice nothing."""
        for _ in range(2):
            self.assertEqual(b"upgraded;", self.through(CLIENT).value())
        self.check_refused(self.through(CLIENT))
        self.assertEqual({("address", "connections"): 1}, self.node.counters.limited)
        self.assertEqual(b"upgraded;", self.through(OTHER).value())
        self.assertEqual([(2, 2), (0, 0)], [self.open(CLIENT), self.open(PROXY)])

    def test_requests(self) -> None:
        """Requests that are answered don't count, however many connections the proxy has."""
        for _ in range(10):
            said = self.through(CLIENT, b"/")
            self.assertEqual([200], [one.status for one in read_answers(said.value())])
        self.assertEqual((0, 0), self.open(CLIENT))

    def test_answered(self) -> None:
        """A stream that is refused after it was admitted counts until it is answered."""
        transport = self.through(CLIENT, b"/stream?later=1")
        self.assertEqual((1, 1), self.open(CLIENT))
        request = self.root.waiting.pop()
        request.setHeader(b"Content-Length", b"0")
        request.finish()
        self.assertEqual((0, 0), self.open(CLIENT))
        transport.protocol.dataReceived(get(b"/stream", b"X-Forwarded-For: " + OTHER.encode()))
        self.assertEqual([(0, 0), (1, 1)], [self.open(CLIENT), self.open(OTHER)])


class PlainConnectionTests(ConnectionTests):
    """The same where Twisted reads all requests."""

    fast = False


class PlainProxiedTests(ProxiedTests):
    """The same where Twisted reads all requests."""

    fast = False


class RateTests(LimitedCase):
    """How often an address may connect."""

    limits = ScopeLimits(connects=Rate(0.5, 2))

    def test_rate(self) -> None:
        """An address that begins WebSockets and streams too often is told when to come back, and is closed."""
        for begin in (lambda client: self.come(client, get(b"/stream")), self.through):
            for _ in range(2):
                self.assertEqual(b"upgraded;", begin(CLIENT).value())
            refused = begin(CLIENT)
            (said,) = read_answers(refused.value())
            self.assertEqual((429, "rate_limited", "2", "close"), (said.status, said.code, *self.told(said)))
            self.assertTrue(refused.disconnecting or refused.half_closed)
            self.assertEqual(b"upgraded;", begin(OTHER).value())
            self.clock.advance(2)
            self.assertEqual(b"upgraded;", begin(CLIENT).value())
            self.clock.advance(100)
        self.assertEqual({("address", "connects"): 2}, self.node.counters.limited)

    def test_requests(self) -> None:
        """Other requests aren't limited by it."""
        for _ in range(10):
            self.assertEqual(200, read_answers(self.come(CLIENT, get()).value())[0].status)


PHASES: dict[str, tuple[bytes, Callable[[LimitedCase, SocketLike], object]]] = {
    "before its first byte": (b"", lambda case, transport: None),
    "in a head": (b"GET / HTTP/1.1\r\nHost: loc", lambda case, transport: None),
    "in a body": (post(b"a" * 90)[:-50], lambda case, transport: None),
    "in a chunked body": (CHUNKED + b"5\r\nab", lambda case, transport: None),
    "in a large chunked body": (CHUNKED + b"1\r\na\r\n" * 60, lambda case, transport: None),
    "while it waits for an answer": (get(b"/later"), lambda case, transport: None),
    "after an answer": (get(), lambda case, transport: None),
    "after an answer, in the next head": (get() + b"GET", lambda case, transport: None),
    "after a refusal": (b"nonsense\r\n\r\n", lambda case, transport: None),
    "after a refusal in a body": (CHUNKED + b"zz\r\n", lambda case, transport: transport.protocol.dataReceived(b"x")),
    "after its deadline": (b"GET", lambda case, transport: case.wait(11)),
    "while it doesn't read": (get(b"/big"), lambda case, transport: transport.protocol.pauseProducing()),
    "before it is taken over": (get(b"/stream?later=1"), lambda case, transport: None),
    "when it is taken over": (get(b"/stream"), lambda case, transport: None),
    "when it is taken over later": (
        get(b"/stream?later=1") + b"rest",
        lambda case, transport: Upgrade.upgrade(case.root.waiting.pop()),
    ),
    "after a last request": (get(b"/", b"Connection: close"), lambda case, transport: None),
    "after an error in a resource": (get(b"/broken"), lambda case, transport: case.flushLoggedErrors()),
    "as the daemon stops": (get(), lambda case, transport: case.site.stop()),
}


class PhaseTests(LimitedCase):
    """A connection that is lost in whatever phase counts no more."""

    limits = ScopeLimits(connections=1)

    def test_lost(self) -> None:
        """After each loss there is room again for exactly one: of a client itself, and through a proxy."""
        for name, (data, go_on) in PHASES.items():
            for direct in (True, False):
                line = b"Host: localhost\r\nX-Forwarded-For: " + CLIENT.encode() + b"\r\n"
                sent = data if direct else data.replace(b"Host: localhost\r\n", line)
                transport = self.come(CLIENT if direct else PROXY, *([sent] if data else []))
                go_on(self, transport)
                self.assertLessEqual(self.open(CLIENT)[0], 1, name)
                transport.lose()
                self.assertEqual([(0, 0), (0, 0)], [self.open(CLIENT), self.open(PROXY)], (name, direct))
                self.flushLoggedErrors()
                self.site.stopping = False

    def test_aborted(self) -> None:
        """A connection that is cut off while it is refused counts no more."""
        self.site.max_refusals = 0
        kept = self.come(CLIENT)
        for _ in range(3):
            self.assertTrue(self.come(CLIENT).closed)
        self.assertEqual((1, 1), self.open(CLIENT))
        kept.lose()
        self.assertEqual((0, 0), self.open(CLIENT))

    def test_full_daemon(self) -> None:
        """A connection that is refused as the whole daemon has too many counts for nobody."""
        self.site.max_connections = 0
        self.assertIn(b" 503 ", self.come(CLIENT).value())
        self.assertEqual((0, 0), self.open(CLIENT))


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(("direct", "proxied", "lose", "finish", "take over", "ask")),
        st.sampled_from((CLIENT, OTHER)),
        st.integers(0, 9),
    ),
    max_size=30,
)


class SequenceTests(LimitedCase):
    """Whatever clients do, the counts are right."""

    limits = ScopeLimits(connections=3)

    @given(_STEPS)
    def test_steps(self, steps: list[tuple[str, str, int]]) -> None:
        """Each connection counts for its address once, as long as it is open, and no address has too many for long."""
        self.setUp()
        direct: dict[SocketLike, str] = {}
        for step, client, number in steps:
            if step == "direct":
                direct[self.come(client)] = client
            elif step == "proxied":
                self.through(client, b"/stream?later=1" if number % 2 else b"/stream")
            elif step in ("finish", "take over") and self.root.waiting:
                request = self.root.waiting.pop(number % len(self.root.waiting))
                if request.channel is not None and not request.channel.is_closing:
                    self.end(step, request)
            elif self.transports:
                self.act(step, self.transports[number % len(self.transports)])
            for address in (CLIENT, OTHER):
                opened = sum(not one.closed and direct.get(one) == address for one in self.transports)
                connections, holders = self.open(address)
                self.assertEqual(connections, holders)
                self.assertGreaterEqual(connections, opened)
        self.check_nothing_left()
        self.transports = []

    def end(self, step: str, request: Any) -> None:
        if step == "take over":
            Upgrade.upgrade(request)
        else:
            request.setHeader(b"Content-Length", b"0")
            request.finish()

    def act(self, step: str, transport: SocketLike) -> None:
        if step == "lose":
            transport.lose()
        elif step == "ask" and not transport.closed:
            transport.protocol.dataReceived(get())


NOWHERE = get(b"/nothing")
FLOOD = 200
"""Requests that are sent in one piece."""


class FloodTests(LimitedCase):
    """A connection on which a limit refuses requests isn't read for a while."""

    limits = ScopeLimits(commands=Rate(2, 4))

    def statuses(self, transport: SocketLike) -> list[int]:
        return [said.status for said in read_answers(transport.value())]

    def test_bounded(self) -> None:
        """A flood over one connection gets what the rate allows, and one refusal a pause: 24 of each in ten seconds."""
        transport = self.come(CLIENT, NOWHERE * FLOOD)
        self.wait(10)
        said = Counter(self.statuses(transport))
        self.assertEqual({404, 429}, set(said))
        self.assertGreaterEqual(4 + 2 * 10, said[404])
        self.assertGreaterEqual(4 + 2 * 10, said[429])
        self.assertEqual("paused", transport.producerState)

    def test_nothing_lost(self) -> None:
        """Requests that were sent behind a refused one are answered in their order, and the connection goes on."""
        sent = [NOWHERE, *(get(b"/?n=%d" % number) for number in range(5))]
        transport = self.come(CLIENT, b"".join(sent) * 6 + sent[1][:9])
        self.assertEqual("paused", transport.producerState)
        self.wait(10)
        transport.protocol.dataReceived(sent[1][9:])
        said = read_answers(transport.value())
        self.assertEqual(6 * 6 + 1, len(said))
        self.assertEqual([b'{"n": "%d"}' % (n % 5) for n in range(31)], [one.body for one in said if one.status == 200])
        self.assertIn(429, self.statuses(transport))
        self.assertEqual("producing", transport.producerState)

    def test_pause(self) -> None:
        """The pause is as long as the refusal says, and a second at most; other connections of the address go on."""
        for rate, least, most in ((Rate(2, 1), 0.5, 1.0), (Rate(0.1, 1), 0.5, 1.0)):
            self.limiter.replace(RateLimits(address=ScopeLimits(commands=rate)))
            transport = self.come(CLIENT, NOWHERE, NOWHERE)
            self.assertEqual([404, 429], self.statuses(transport))
            self.assertEqual([200], self.statuses(self.come(CLIENT, get())))
            self.wait(least - 0.25)
            self.assertEqual("paused", transport.producerState)
            self.wait(most - least + 0.25)
            self.assertEqual("producing", transport.producerState)
            transport.protocol.dataReceived(get())
            self.assertEqual([404, 429, 200], self.statuses(transport))
            self.wait(20)

    def test_full_transport(self) -> None:
        """A pause isn't ended by the client's reading of its answers, and a client that reads none goes on waiting."""
        transport = self.come(CLIENT, NOWHERE * FLOOD)
        transport.protocol.pauseProducing()
        transport.protocol.resumeProducing()
        self.assertEqual("paused", transport.producerState)
        before = len(transport.value())
        transport.protocol.pauseProducing()
        self.wait(2)
        self.assertEqual(before, len(transport.value()))
        transport.protocol.resumeProducing()
        self.assertGreater(len(transport.value()), before)

    def test_proxy(self) -> None:
        """A proxy's connection is read on, as others use it too; the address behind it pays for what is wrong."""
        line = b"X-Forwarded-For: " + CLIENT.encode()
        transport = self.come(PROXY, *[get(b"/nothing", line)] * 6, get(b"/nothing", line[:-1] + b"8"))
        self.assertEqual([404] * 4 + [429] * 2 + [404], self.statuses(transport))
        self.assertEqual("producing", transport.producerState)

    def test_last_request(self) -> None:
        """If a refused request is the connection's last one, or the daemon stops, the connection is closed at once."""
        self.come(CLIENT, NOWHERE * 4)
        self.assertTrue(self.come(CLIENT, get(b"/nothing", b"Connection: close")).disconnecting)
        self.site.stopping = True
        self.assertTrue(self.come(CLIENT, NOWHERE).disconnecting)

    def test_stop(self) -> None:
        """A daemon that stops closes a connection that is paused; what was sent on it before is answered first."""
        paused, full = self.come(CLIENT, *[NOWHERE] * 5), self.come(CLIENT, NOWHERE * 2)
        self.site.stop()
        self.assertTrue(paused.disconnecting)
        self.wait(1)
        self.assertEqual(2, len(self.statuses(full)))
        self.assertTrue(full.disconnecting)

    def test_malformed(self) -> None:
        """What is no request costs a command, too; then it is refused as a flood, and closed all the same."""
        said = [self.come(CLIENT, b"nonsense\r\n\r\n") for _ in range(6)]
        self.assertEqual([[400]] * 4 + [[429]] * 2, [self.statuses(one) for one in said])
        self.assertTrue(all(one.half_closed for one in said))


class PlainFloodTests(FloodTests):
    """The same where Twisted reads all requests."""

    fast = False


class NewConnectionTests(LimitedCase):
    """An address that floods over a new connection for each request."""

    limits = ScopeLimits(commands=Rate(2, 4))

    def flood(self) -> None:
        for _ in range(4 + 100):
            self.come(CLIENT, get(b"/nothing", b"Connection: close")).lose()

    def test_wait(self) -> None:
        """Its new connections are accepted, and read a second later at most; those of others are read at once."""
        self.flood()
        late = self.come(CLIENT)
        self.assertEqual(("paused", "producing"), (late.producerState, self.come(OTHER).producerState))
        self.wait(1)
        self.assertEqual(("producing", 0), (late.producerState, self.site.waiting))
        late.protocol.dataReceived(get())
        self.assertEqual(200, read_answers(late.value())[0].status)

    def test_most(self) -> None:
        """So many wait; further ones are cut off. Whoever goes away while waiting makes room when its time is over."""
        self.flood()
        self.site.max_waiting = 3
        waiting = [self.come(CLIENT) for _ in range(3)]
        self.assertTrue(self.come(CLIENT).closed)
        self.assertFalse(self.come(OTHER).closed)
        waiting[0].lose()
        self.assertEqual(3, self.site.waiting)
        self.wait(1)
        self.assertEqual((0, 2), (self.site.waiting, self.open(CLIENT)[0]))

    def test_over(self) -> None:
        """When the flood is over, new connections are read at once again; five seconds later nothing of it counts."""
        self.come(CLIENT)
        self.flood()
        self.assertEqual("paused", self.come(CLIENT).producerState)
        self.wait(1)
        self.assertEqual("producing", self.come(CLIENT).producerState)
        self.wait(5)
        strikes = self.limiter.address(CLIENT).strikes
        assert strikes is not None
        self.assertLessEqual(strikes.full_at, self.clock.seconds())
