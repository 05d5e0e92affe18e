"""Limits by address on each transport, over real sockets: of connections, of waiting polls, and of connects."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from realtime_chat.http.client_address import TrustedProxies
from realtime_chat.service import Configuration
from realtime_chat.transports.fast.choice import PLAIN
from realtime_chat.values.errors import StoreError
from realtime_chat.values.model import Draft, User
from realtime_chat.values.rates import Rate, RateLimits, ScopeLimits
from tests.clients import Watched
from tests.transports.test_contract import ServedTestCase

CLIENT, OTHER = "203.0.113.9", "2001:db8:7:8::9"
UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
PATHS = {"websocket": "ws?room=lobby", "sse": "sse?room=lobby", "poll": "poll?room=lobby&wait=50"}


class _Connection(Protocol, Watched):
    """One connection through a proxy, which keeps what comes."""

    def __init__(self) -> None:
        super().__init__()
        self.reactor = reactor
        self.received = b""
        self.is_lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.notice()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_lost = True
        self.notice()

    @property
    def status(self) -> int:
        """Of the first answer; 0 before it."""
        return int(self.received.split()[1]) if b"\r\n\r\n" in self.received else 0

    async def refusal(self) -> tuple[int, str, str]:
        """Wait for the end; give the status of the answer, ``Retry-After``, and the error."""
        await self.until(lambda: self.is_lost)
        head, _, body = self.received.partition(b"\r\n\r\n")
        after = [line.partition(b": ")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"retry-after")]
        return self.status, after[0].decode(), json.loads(body)


class AddressLimitsCase(ServedTestCase):
    """A daemon that trusts this machine as its proxy."""

    of_address = ScopeLimits()

    def configuration(self) -> Configuration:
        return Configuration(
            ("tcp:0:interface=127.0.0.1",),
            trusted_proxies=TrustedProxies.parse(["loopback"]),
            rate_limits=RateLimits(address=self.of_address),
        )

    async def send(self, client: str, path: str, *lines: str) -> _Connection:
        connection = _Connection()
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", self.port), connection)
        self.addCleanup(connection.transport.abortConnection)
        head = (f"GET /{path} HTTP/1.1", "Host: localhost", f"X-Forwarded-For: {client}", *lines, "", "")
        connection.transport.write("\r\n".join(head).encode())
        return connection

    async def begin(self, kind: str, client: str = CLIENT) -> _Connection:
        """Begin a WebSocket, a stream, or a poll that has nothing to tell."""
        if kind != "poll":
            return await self.send(client, PATHS[kind], *(UPGRADE if kind == "websocket" else ()))
        first = await self.send("198.51.100.1", "poll?room=lobby&wait=0", "Connection: close")
        await first.until(lambda: first.is_lost)
        position = json.loads(first.received.partition(b"\r\n\r\n")[2])["positions"]["lobby"]
        return await self.send(client, f"{PATHS[kind]}&since={position}")

    def usage(self, client: str = CLIENT) -> Any:
        key = client if ":" not in client else "2001:db8:7:8::/64"
        return self.service.hub.limiter.address(key)

    async def gone(self) -> None:
        """Wait till nothing counts for the client any more."""
        usage = self.usage()
        await self.until(lambda: (usage.connections, usage.polls, usage.holders) == (0, 0, 0))

    async def open(self, kind: str, client: str = CLIENT) -> _Connection:
        """Begin one, and wait until it is there."""
        usage = self.usage(client)
        before = usage.connections + usage.polls
        connection = await self.begin(kind, client)
        await self.until(lambda: usage.connections + usage.polls > before)
        if kind != "poll":
            await connection.until(lambda: b"joined" in connection.received)
        return connection


class ConnectionsTests(AddressLimitsCase):
    """How many WebSockets and streams an address may have."""

    of_address = ScopeLimits(connections=2)

    async def test_limit(self) -> None:
        """One more is refused with 429, and closed; another address, and a poll, notice nothing. When one ends, there
        is room again."""
        kept = [await self.open("websocket"), await self.open("sse")]
        for kind in ("websocket", "sse"):
            status, after, error = await (await self.begin(kind)).refusal()
            self.assertEqual((429, "5", "too_many", 5.0), (status, after, error["code"], error["after"]))
            self.assertIn("an address may have 2 connections (--address-connections)", error["message"])
        self.assertEqual(2, self.service.hub.limiter._limited["address", "connections"])
        for kind in ("websocket", "sse"):
            await self.open(kind, OTHER)
        await self.open("poll")
        kept.pop().transport.abortConnection()
        await self.until(lambda: self.usage().connections == 1)
        await self.open("websocket")
        self.assertEqual([101], [one.status for one in kept])

    async def test_ends(self) -> None:
        """However a WebSocket or a stream ends, it counts no more."""
        for kind in ("websocket", "sse"):
            for end in ("loseConnection", "abortConnection"):
                connection = await self.open(kind)
                getattr(connection.transport, end)()
                await self.gone()
            await self.open(kind)
            for session in list(self.service.hub.sessions):
                session.dismiss("slow")
            await self.gone()

    async def test_refused_otherwise(self) -> None:
        """A stream or a WebSocket that is refused for another reason doesn't count."""
        for path, lines in (
            ("sse?room=a b", ()),
            ("sse?room=lobby&since=x", ()),
            ("sse?room=lobby", ("Authorization: Bearer wrong",)),
            ("ws?room=lobby", ()),
            ("ws?room=lobby", (*UPGRADE, "Authorization: Bearer wrong")),
        ):
            connection = await self.send(CLIENT, path.replace(" ", "%20"), *lines)
            await connection.until(lambda connection=connection: connection.status >= 400)
            await self.gone()

    async def test_failing_store(self) -> None:
        """A stream for which the store fails doesn't count."""
        self.store.read_before = lambda *args: fail(StoreError("no"))  # type: ignore[method-assign]
        connection = await self.begin("sse")
        await connection.until(lambda: connection.status)
        self.assertEqual(503, connection.status)
        await self.gone()

    async def test_lost_while_it_opens(self) -> None:
        """A stream whose client goes away while the store is read doesn't count."""
        waiting: list[Deferred[Any]] = []
        load = self.service.hub.cache.load

        def held(name: str) -> Deferred[Any]:
            waiting.append(Deferred())
            return waiting[-1].addCallback(lambda _: load(name))

        self.service.hub.cache.load = held  # type: ignore[method-assign]
        connection = await self.begin("sse")
        await self.until(lambda: waiting)
        self.assertEqual(1, self.usage().connections)
        connection.transport.abortConnection()
        await self.until(lambda: self.usage().connections == 0)
        waiting[0].callback(None)
        await self.gone()


class PollsTests(AddressLimitsCase):
    """How many polls of an address may wait."""

    of_address = ScopeLimits(polls=2)

    async def test_limit(self) -> None:
        """One more is refused with 429; another address, WebSockets and streams notice nothing. When one is answered,
        there is room again."""
        kept = [await self.open("poll") for _ in range(2)]
        refused = await self.begin("poll")
        await refused.until(lambda: refused.status)
        error = json.loads(refused.received.partition(b"\r\n\r\n")[2])
        self.assertEqual((429, "too_many", 5.0), (refused.status, error["code"], error["after"]))
        self.assertIn("an address may have 2 polls that wait (--address-polls)", error["message"])
        self.assertIn(b"\r\nRetry-After: 5\r\n", refused.received)
        self.assertEqual(1, self.service.hub.limiter._limited["address", "polls"])
        for kind, client in (("poll", OTHER), ("websocket", CLIENT), ("sse", CLIENT)):
            await self.open(kind, client)
        kept[0].transport.abortConnection()
        await self.until(lambda: self.usage().polls == 1)
        await self.open("poll")
        self.assertEqual(0, kept[1].status)

    async def test_ends(self) -> None:
        """However a poll ends, it counts no more."""
        for end in (self.publish, self.dismiss_all, lambda poll: poll.transport.abortConnection()):
            poll = await self.open("poll")
            end(poll)
            await poll.until(lambda poll=poll: poll.status or poll.is_lost)
            await self.gone()

    def publish(self, poll: _Connection) -> None:
        """The poll is answered by a message."""
        self.service.hub.publish(Draft("lobby", "message", b"1", User("~a", "Ann")))

    def dismiss_all(self, poll: _Connection) -> None:
        """The poll is answered by a goodbye."""
        for session in list(self.service.hub.sessions):
            session.dismiss("stopping")

    async def test_answered_at_once(self) -> None:
        """A poll that is answered at once counts no more, be it with messages, at the end of its wait or an error."""
        for query in ("room=lobby", "room=lobby&wait=0&since=0:0", "room=lobby&wait=1", "room=a%20b", "room=@u1"):
            connection = await self.send(CLIENT, f"poll?{query}")
            await connection.until(lambda connection=connection: connection.status)
            await self.gone()

    async def test_failing_store(self) -> None:
        """A poll for which the store fails counts no more."""
        self.store.read_before = lambda *args: fail(StoreError("no"))  # type: ignore[method-assign]
        connection = await self.send(CLIENT, "poll?room=lobby")
        await connection.until(lambda: connection.status)
        self.assertEqual(503, connection.status)
        await self.gone()


class ConnectsTests(AddressLimitsCase):
    """How often an address may begin a WebSocket or a stream."""

    of_address = ScopeLimits(connects=Rate(0.01, 2))

    async def test_rate(self) -> None:
        """Beyond that it is told after how many seconds to come back; others, and its polls, notice nothing."""
        for kind in ("websocket", "sse"):
            await self.open(kind)
        for kind in ("websocket", "sse"):
            status, after, error = await (await self.begin(kind)).refusal()
            self.assertEqual((429, "100", "rate_limited"), (status, after, error["code"]))
            self.assertIn("--address-connect-rate", error["message"])
        for kind in ("websocket", "sse"):
            await self.open(kind, OTHER)
        await self.open("poll")


class PlainConnectionsTests(ConnectionsTests):
    """The same by Twisted's own methods."""

    io = PLAIN


class PlainPollsTests(PollsTests):
    """The same by Twisted's own methods."""

    io = PLAIN
