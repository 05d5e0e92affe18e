"""The HTTP side of the daemon: makes connections, counts them, and drains them when the daemon stops."""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime, ITransport
from twisted.web import http, server
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource, Resource, getChildForRequest

from realtime_chat.core.rate_limiter import RateLimiter, Usage
from realtime_chat.core.turns import Turns
from realtime_chat.core.wheel import DeadlineQueue, Wheel
from realtime_chat.http.access_log import AccessLog
from realtime_chat.http.client_address import ClientAddresses, TrustedProxies
from realtime_chat.http.host_list import HostList
from realtime_chat.http.origins import OriginPolicy
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.limits import Limits


class SiteIO(Protocol):
    """How a site's bytes get to sockets; :class:`~realtime_chat.transports.fast.choice.SocketIO` is one."""

    def write(self, transport: Any, data: bytes) -> None:
        """Write a whole answer to a transport."""

    def unsent(self, transport: Any) -> int:
        """Return a number that falls as the other side acknowledges what was given to a transport."""


class Channel(Protocol):
    """What the site and requests use of a connection, :class:`~realtime_chat.http.channel.RealtimeChannel`."""

    factory: Any
    cached_headers: Any
    site: RealtimeSite
    transport: Any
    is_closing: bool

    def deadline_passed(self) -> None:
        """Close the connection, or refuse its request."""

    def close_if_idle(self) -> None:
        """Close, unless a request has been begun that isn't answered."""

    def forget_peer(self) -> None:
        """Find out again, with the next request, whose connection this is."""

    def getPeer(self) -> Any:
        """Return the address of the other end."""

    def getHost(self) -> Any:
        """Return the address of this end."""

    def refuse_body(self) -> None:
        """Answer that the body is too large, and close."""

    def head(self, code: bytes, reason: bytes, headers: Headers, version: bytes = ...) -> bytes:
        """Return the head of an answer."""

    def requestDone(self, request: Any) -> None:
        """Go on to the next request."""

    def admit(self, request: Any) -> None:
        """Count a WebSocket or a stream for its address, before it begins."""

    def charge(self, request: Any, error: RealtimeError) -> RealtimeError:
        """Charge an address for an error, and return the error to answer with."""

    def take_over(self, protocol: IProtocol, status: int = ...) -> ITransport:
        """Give the connection to another protocol."""


class RealtimeSite(server.Site):
    """The HTTP side of the daemon.

    :param resource: the root of the tree.
    :param reactor: calls later.
    :param wheel: runs all deadlines.
    :param limits: ``max_message`` bounds a request's body, and ``stalled_after`` the time without progress of a client
        that doesn't read its answers.
    :param io: how bytes get to sockets.
    :param protocol: makes the channel of each connection.
    :param origins: the origins whose pages may use the site.
    :param time: returns the seconds since 1970, which date answers and the access log.
    :param max_connections: open connections, with those that became WebSockets or event streams.
    :param turns: the line of those that have more to do than fits a turn.
    :param read: gets the transport of each new connection, and may read from it in place of the reactor.
    :param access_log: the file of the access log; None for no log.
    :param client_addresses: finds where requests come from.
    :param limiter: limits the connections of each address; None for no limits.
    :ivar hosts: the host names that are served.
    :ivar deadlines: seconds by phase: until the first byte, for a head, for a body, until a next request.
    :ivar body_rate: bytes a second; a body that comes at least as fast gets more time.
    :ivar idle: connections that wait for a next request.
    :ivar stopping: whether no connection is kept open for a next request any more.
    :ivar waiting: new connections that aren't read yet, as their addresses flood; ``max_waiting`` is how many may be.
    """

    deadlines = {"CONNECTED": 10.0, "HEADERS": 10.0, "BODY": 30.0, "IDLE": 60.0}
    body_rate = 500  # as in Apache's mod_reqtimeout
    linger_seconds = 5.0
    linger_bytes = 4 * 1024 * 1024
    max_refusals = 64
    max_waiting = 256

    def __init__(
        self,
        resource: Resource,
        reactor: IReactorTime,
        wheel: Wheel,
        limits: Limits,
        io: SiteIO,
        protocol: Callable[[], Channel],
        origins: OriginPolicy,
        time: Callable[[], float],
        max_connections: int,
        turns: Turns,
        read: Callable[[Any], None] = lambda transport: None,
        access_log: str | None = None,
        client_addresses: ClientAddresses | None = None,
        limiter: RateLimiter | None = None,
    ) -> None:
        super().__init__(resource, reactor=reactor, parsePOSTFormSubmission=False)
        self.wheel = wheel
        self.max_body = limits.max_message
        self.stalled_after = limits.stalled_after
        self.write, self.unsent = io.write, io.unsent
        self.protocol = protocol  # type: ignore[assignment]
        self.hosts = HostList()
        self.origins = origins
        self.max_connections = max_connections
        self.turns = turns
        self.access_log = AccessLog(access_log, time)
        self.client_addresses = client_addresses or ClientAddresses()
        self.limiter = limiter
        self.log = self.access_log.write  # type: ignore[method-assign]
        self.idle: DeadlineQueue[Any] = DeadlineQueue(wheel, self.deadlines["IDLE"], methodcaller("deadline_passed"))
        self.stopping = False
        self.waiting = 0
        self._read = read
        self._time = time
        self._channels: set[Channel] = set()
        self._taken_over = 0
        self._counted_with: RealtimeSite | None = None
        self._drained: Deferred[None] | None = None
        self._second = -1
        self._common_headers = b""

    def acceptableProtocols(self) -> list[bytes]:
        """Offer HTTP/1.1 alone over TLS, as our channel speaks nothing else."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> Channel:  # type: ignore[override]
        """Make a channel for a new connection."""
        channel: Channel = self.protocol()
        channel.factory = channel.site = self
        return channel

    def getResourceFor(self, request: server.Request) -> IResource:  # noqa: N802
        """Return the resource at a request's address."""
        resource: IResource = getChildForRequest(self.resource, request)
        return resource

    def leaf(self, path: bytes) -> IResource | None:
        """Return the leaf directly below the root at ``path``, if there is one and the path has no escapes."""
        leaf: IResource | None = self.resource.children.get(path[1:])
        return leaf if leaf is not None and leaf.isLeaf and path[1:].isalnum() else None

    def body_too_large(self) -> RealtimeError:
        """Return the error for a body over the limit."""
        return RealtimeError("too_large", f"a request's body has at most {self.max_body} bytes")

    def common_headers(self) -> bytes:
        """Return the header lines that end the head of every answer, with the date and the empty line."""
        second = int(self._time())
        if second != self._second:
            self._second = second
            date = http.datetimeToString(second)
            lines = b"Server: realtime_chat\r\nDate: %b\r\nX-Content-Type-Options: nosniff\r\n\r\n" % date
            self._common_headers = lines
        return self._common_headers

    # Connections

    @property
    def connections(self) -> int:
        """The number of open connections, with those that other protocols have taken over."""
        return len(self._channels) + self._taken_over

    def count_with(self, other: RealtimeSite) -> None:
        """Let both sites together have as many connections as one may have."""
        self._counted_with, other._counted_with = other, self

    def excess(self) -> int:
        """Return how many connections are open beyond those that are served."""
        beside = 0 if self._counted_with is None else self._counted_with.connections
        return self.connections + beside - self.max_connections

    def connected(self, channel: Channel) -> None:
        """Count a new connection, and let the site's reader read from it."""
        self._read(channel.transport)
        self._channels.add(channel)

    def check_again(self) -> None:
        """Check the next header lines of each connection, though the same were checked before: hosts may differ now."""
        for channel in self._channels:
            channel.cached_headers = None

    def disconnected(self, channel: object) -> None:
        """Count a connection no more."""
        self._channels.discard(channel)
        self._check_drained()

    def taken_over(self, channel: Channel) -> None:
        """Count a connection as one of another protocol."""
        self._channels.discard(channel)
        self._taken_over += 1

    def taken_over_lost(self, usage: Usage | None) -> None:
        """Count a connection of another protocol no more, and not for its address either."""
        self._taken_over -= 1
        self.end_connection(usage)
        self._check_drained()

    def trust(self, proxies: TrustedProxies) -> None:
        """Believe these proxies, and no others, about their clients' addresses from the next request on."""
        self.client_addresses = ClientAddresses(proxies)
        for channel in self._channels:
            channel.forget_peer()

    def end_connection(self, usage: Usage | None) -> None:
        """Count a connection no more for the address whose usage this is."""
        if usage is not None and self.limiter is not None:
            self.limiter.close(usage, "connections")

    def stop(self) -> Deferred[None]:
        """Close every connection as soon as no request waits on it. Leave those of other protocols alone.

        :returns: fires when no connection is left.
        """
        self.stopping = True
        drained: Deferred[None] = Deferred()
        self._drained = drained
        for channel in tuple(self._channels):
            channel.close_if_idle()
        self._check_drained()
        return drained

    def _check_drained(self) -> None:
        if self._drained is not None and not self.connections:
            drained, self._drained = self._drained, None
            drained.callback(None)

    # The access log

    def startFactory(self) -> None:
        """Open nothing: privileges may not have been dropped yet."""

    def stopFactory(self) -> None:
        """Close the access log."""
        self.access_log.close()
