"""The site over real sockets."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import twisted.test
from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from realtime_chat.core.turns import Turns
from realtime_chat.core.wheel import Wheel
from realtime_chat.http.fast_channel import FastChannel
from realtime_chat.http.origins import OriginPolicy
from realtime_chat.http.site import RealtimeSite
from realtime_chat.listening import listen
from realtime_chat.transports.fast.choice import FAST
from realtime_chat.values.limits import Limits
from tests.deadlines import DEADLINE
from tests.http.site_case import (
    CHUNK,
    CHUNKED,
    MAX_BODY,
    Big,
    Root,
    get,
    post,
    read_answers,
)


class RawClient(Protocol):
    """Sends bytes at once, and keeps what it receives."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._searched = 0
        self.received = bytearray()
        self.lost: Deferred[Failure] = Deferred()
        self._waiting: tuple[bytes, Deferred[None]] | None = None

    def connectionMade(self) -> None:
        self.transport.write(self._data)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if self._waiting is not None and self.received.find(self._waiting[0], self._searched) >= 0:
            waiting, self._waiting = self._waiting[1], None
            waiting.callback(None)
        self._searched = max(0, len(self.received) - 100)

    def until(self, text: bytes) -> Deferred[None]:
        """Return a Deferred that fires when ``text`` has come."""
        waiting: Deferred[None] = Deferred()
        self._waiting, self._searched = (text, waiting), 0
        self.dataReceived(b"")
        return waiting

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting[1].errback(reason)
        self.lost.callback(reason.value)


class SocketTests(TestCase):
    """The same over real sockets: plain, with TLS, and behind a proxy that says whom it speaks for."""

    async def setUp(self) -> None:
        self.wheel = Wheel(reactor)
        self.addCleanup(self.wheel.stop)
        self.root = Root()
        self.site = RealtimeSite(
            self.root,
            reactor,
            self.wheel,
            Limits(max_message=MAX_BODY),
            FAST,
            FastChannel,
            OriginPolicy(),
            time.time,
            max_connections=1000,
            turns=Turns(reactor),
        )
        self.site.deadlines = dict.fromkeys(self.site.deadlines, DEADLINE)  # how long it takes is not what is tested
        pem = Path(twisted.test.__file__).with_name("server.pem").read_bytes()
        context = ssl.PrivateCertificate.loadPEM(pem).options()
        self.ports = {
            "tcp": reactor.listenTCP(0, self.site, interface="127.0.0.1"),
            "tls": reactor.listenSSL(0, self.site, context, interface="127.0.0.1"),
            "haproxy": await listen(reactor, "haproxy:tcp:0:interface=127.0.0.1", self.site, "listen"),
        }
        for port in self.ports.values():
            self.addCleanup(port.stopListening)

    def connect(self, kind: str, data: bytes) -> RawClient:
        client = RawClient((b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" if kind == "haproxy" else b"") + data)
        factory = ClientFactory.forProtocol(lambda: client)
        number = self.ports[kind].getHost().port
        if kind == "tls":
            reactor.connectSSL("127.0.0.1", number, factory, ssl.CertificateOptions(verify=False))
        else:
            reactor.connectTCP("127.0.0.1", number, factory)
        return client

    async def check_all_gone(self) -> None:
        await self.site.stop().addTimeout(DEADLINE, reactor)
        self.assertEqual((self.site.connections, len(self.wheel)), (0, 0))

    async def test_unread_body(self) -> None:
        """A client that sends megabytes can read that they are too many, and sees a clean end."""
        for kind in self.ports:
            client = self.connect(kind, post(b"a" * 3_000_000))
            error = await client.lost
            self.assertEqual([said.code for said in read_answers(client.received)], ["too_large"])
            self.assertIsInstance(error, ConnectionDone)
        await self.check_all_gone()

    async def test_unread_chunks(self) -> None:
        """A client that sends megabytes in chunks can read it too."""
        for kind in self.ports:
            client = self.connect(kind, CHUNKED + b"fff\r\n%b\r\n" % (b"a" * 4095) * 500)
            await client.lost
            self.assertEqual([said.code for said in read_answers(client.received)], ["too_large"])
        await self.check_all_gone()

    async def test_upgrade(self) -> None:
        """A connection is taken over, with what came behind the request, and let go of in the end."""
        for kind in self.ports:
            client = self.connect(kind, get(b"/upgrade") + b"at once;")
            await client.until(b"echo:at once;")
            client.transport.write(b"later;")
            await client.until(b"echo:later;")
            self.assertEqual(self.site.connections, 1)
            client.transport.loseConnection()
            await client.lost
        await self.check_all_gone()

    async def test_waiting_clients_go(self) -> None:
        """Waiting requests are told at once when their clients go."""
        clients = [self.connect(kind, get(b"/later")) for kind in self.ports for _ in range(100)]
        while len(self.root.waiting) < len(clients):
            await _turn()
        for client in clients:
            client.transport.abortConnection()
        while len(self.root.cancelled) < len(clients):
            await _turn()
        for client in clients:
            await client.lost
        await self.check_all_gone()
        self.assertEqual(self.flushLoggedErrors(), [])

    def held(self) -> int:
        """Return the most bytes that a connection buffers in this process, in one direction."""
        found = [0]
        for channel in self.site._channels:
            transport: Any = channel.transport
            waiting = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
            found += [waiting, len(channel._buffer) + sum(map(len, channel._dataBuffer))]
        return max(found)

    async def check_unread(self, path: bytes, big: Big, asking: Callable[[bytes], bytes] = get) -> None:
        """Clients ask for fifty answers at once, and read none for a while."""
        count = 50
        for kind in self.ports:
            big.asked = 0
            client = self.connect(kind, asking(path) * count)
            await client.until(b"200 OK")
            client.transport.pauseProducing()
            before = -1
            while before < big.asked:  # until no more are begun in a tenth of a second
                before = big.asked
                await _turn(0.1)
            self.assertLess(big.asked, count // 2)
            self.assertLess(self.held(), 2 * big.size)
            client.transport.resumeProducing()
            await client.until(b"#%d;" % count)
            bodies = [said.body.lstrip() for said in read_answers(client.received)]
            self.assertEqual([b"#%d;" % number for number in range(1, count + 1)], bodies)
            client.transport.loseConnection()
            await client.lost
        await self.check_all_gone()

    async def test_unread_answers(self) -> None:
        """A client that reads nothing has one answer waiting, and no further request begun. Once it reads, it gets all
        answers in order."""
        await self.check_unread(b"/big", self.root.big)

    async def test_unread_late_answers(self) -> None:
        """The same holds for answers that come later."""
        await self.check_unread(b"/late", self.root.late)

    async def test_unread_answers_to_bodies(self) -> None:
        """The same holds for requests with bodies."""
        await self.check_unread(
            b"/big", self.root.big, lambda path: get(path, CHUNK, method=b"POST") + b"1\r\nx\r\n0\r\n\r\n"
        )

    async def test_never_read(self) -> None:
        """A client that reads nothing of an answer for a while is cut off; one that reads slowly is not."""
        self.site.stalled_after = 1.0
        self.root.big.size = 10_000_000
        for kind in ("tcp", "tls"):
            slow, stuck = self.connect(kind, get(b"/big") + get(b"/nowhere")), self.connect(kind, get(b"/big"))
            for client in (slow, stuck):
                await client.until(b"200 OK")
                client.transport.pauseProducing()
            begun = reactor.seconds()
            while self.site.connections > 1 or reactor.seconds() < begun + 3:
                slow.transport.resumeProducing()
                await _turn(0.02)
                slow.transport.pauseProducing()
                await _turn(0.3)
                self.assertLess(reactor.seconds(), begun + DEADLINE)
            slow.transport.resumeProducing()
            await slow.until(b'"not_found"')
            slow.transport.loseConnection()
            await slow.lost
            stuck.transport.resumeProducing()
            await stuck.lost
        await self.check_all_gone()

    async def test_stopping(self) -> None:
        """A site that stops finishes the answer that is being read, and begins none of those asked for behind it."""
        client = self.connect("tcp", get(b"/big") * 100)
        await client.until(b"200 OK")
        client.transport.pauseProducing()
        while not self.held():
            await _turn()
        stopped = self.site.stop()
        client.transport.resumeProducing()
        await client.lost
        await stopped
        answers = read_answers(client.received)
        self.assertEqual((self.root.big.asked, self.root.big.size), (len(answers), answers[-1].body.count(b" ")))

    async def test_connection_limit(self) -> None:
        """The connection too many can read that it is, also one that had sent its request already."""
        self.site.max_connections = 0
        for kind in self.ports:
            client = self.connect(kind, post(b"a" * 100_000))
            await client.lost
            self.assertEqual([said.status for said in read_answers(client.received)], [503])
        await self.check_all_gone()


def _turn(seconds: float = 0.005) -> Deferred[None]:
    turned: Deferred[None] = Deferred()
    reactor.callLater(seconds, turned.callback, None)
    return turned
