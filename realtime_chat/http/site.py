"""The HTTP side of the daemon: makes connections, counts them, and drains them when the daemon stops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.web import http, server
from twisted.web.resource import IResource, Resource, getChildForRequest

from realtime_chat.core.turns import Turns
from realtime_chat.core.wheel import DeadlineQueue, Wheel
from realtime_chat.http.access_log import AccessLog
from realtime_chat.http.channel import RealtimeChannel
from realtime_chat.http.cors import CORSPolicy
from realtime_chat.http.fast_request import FastRequest
from realtime_chat.http.origins import HostList, OriginPolicy
from realtime_chat.http.request import RealtimeRequest
from realtime_chat.http.request_head import FastHeadReader, HeadReader, PlainHeadReader
from realtime_chat.values.errors import RealtimeError

__all__ = ["RealtimeSite"]


def _write(transport: Any, data: bytes) -> None:
    transport.write(data)


def _nothing_unsent(transport: Any) -> int:
    return 0


def _leave_to_reactor(transport: Any) -> None:
    """Do nothing: the reactor reads from every connection by itself."""


def _children_of(resource: IResource) -> dict[bytes, IResource]:
    """Return a resource's children, if it has no way of its own to find them."""
    if isinstance(resource, Resource) and type(resource).getChildWithDefault is Resource.getChildWithDefault:
        children: dict[bytes, IResource] = resource.children
        return children
    return {}


class RealtimeSite(server.Site):
    """The HTTP side of the daemon.

    :param resource: the root of the tree.
    :param reactor: calls later.
    :param wheel: runs all deadlines.
    :param hosts: the host names that are served.
    :param origins: the origins whose pages may use the site.
    :param time: returns the seconds since 1970, which date answers and the access log.
    :param max_body: bytes in a request's body.
    :param max_connections: open connections, with those that became WebSockets or event streams.
    :param log_path: the file of the access log, or None. :meth:`open_log` opens it; the first line does so otherwise.
    :param write: writes a whole answer to a transport.
    :param unsent: returns how many bytes that were given to a transport the other side has not acknowledged.
    :param read: gets the transport of each new connection, and may read from it in place of the reactor.
    :param stalled_after: seconds without progress after which a client that doesn't read its answers is cut off.
    :param public: paths that pages of every origin may read.
    :param turns: the line of those that have more to do than fits a turn.
    :param fast: whether plain requests are read and answered by our own code. If not, Twisted reads and answers all.
    :ivar deadlines: seconds by phase: until the first byte, for a head, for a body, until a next request.
    :ivar body_rate: bytes a second; a body that comes at least as fast gets more time.
    :ivar idle: connections that wait for a next request.
    :ivar stopping: whether no connection is kept open for a next request any more.
    """

    protocol = RealtimeChannel  # type: ignore[assignment]
    deadlines = {"CONNECTED": 10.0, "HEADERS": 10.0, "BODY": 30.0, "IDLE": 60.0}
    body_rate = 500  # as in Apache's mod_reqtimeout
    linger_seconds = 5.0
    linger_bytes = 4 * 1024 * 1024
    max_refusals = 64

    def __init__(
        self,
        resource: IResource,
        reactor: IReactorTime,
        wheel: Wheel,
        hosts: HostList,
        origins: OriginPolicy,
        time: Callable[[], float],
        max_body: int,
        max_connections: int,
        log_path: str | None = None,
        write: Callable[[Any, bytes], None] = _write,
        unsent: Callable[[Any], int] = _nothing_unsent,
        read: Callable[[Any], None] = _leave_to_reactor,
        stalled_after: float = 60.0,
        public: frozenset[bytes] = frozenset(),
        turns: Turns | None = None,
        fast: bool = True,
    ) -> None:
        super().__init__(resource, reactor=reactor, parsePOSTFormSubmission=False)
        self.head_reader: HeadReader = FastHeadReader() if fast else PlainHeadReader()
        self.request_class: type[RealtimeRequest] = FastRequest if fast else RealtimeRequest
        self._children = _children_of(resource)
        self.idle = DeadlineQueue(wheel, self.deadlines["IDLE"], RealtimeChannel.deadline_passed)
        self.wheel = wheel
        self.hosts = hosts
        self.cors = CORSPolicy(origins, public)
        self._time = time
        self.access_log = None if log_path is None else AccessLog(log_path, time)
        self.max_body = max_body
        self.max_connections = max_connections
        self.write = write
        self.unsent = unsent
        self.stalled_after = stalled_after
        self._read = read
        self.turns = Turns(reactor) if turns is None else turns
        self.stopping = False
        self._channels: set[RealtimeChannel] = set()
        self._successors = 0
        self._drained: Deferred[None] | None = None
        self._second = -1
        self._common_headers = b""

    def acceptableProtocols(self) -> list[bytes]:
        """Offer HTTP/1.1 alone over TLS, as our channel speaks nothing else."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> RealtimeChannel:  # type: ignore[override]
        """Make a channel for a new connection."""
        channel = RealtimeChannel()
        channel.factory = channel.site = self
        return channel

    def getResourceFor(self, request: server.Request) -> IResource:  # noqa: N802
        """Return the resource at a request's address."""
        resource: IResource = getChildForRequest(self.resource, request)
        return resource

    def leaf(self, path: bytes) -> IResource | None:
        """Return the leaf directly below the root at ``path``, if there is one and the path has no escapes."""
        leaf = self._children.get(path[1:])
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
        return len(self._channels) + self._successors

    def connected(self, channel: RealtimeChannel) -> None:
        """Count a new connection, and let the site's reader read from it."""
        self._read(channel.transport)
        self._channels.add(channel)

    def disconnected(self, channel: RealtimeChannel) -> None:
        """Count a connection no more."""
        self._channels.discard(channel)
        self._check_drained()

    def handed_over(self, channel: RealtimeChannel) -> None:
        """Count a connection as one of another protocol."""
        self._channels.discard(channel)
        self._successors += 1

    def successor_lost(self) -> None:
        """Count a connection of another protocol no more."""
        self._successors -= 1
        self._check_drained()

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
        if self.access_log is not None:
            self.access_log.close()

    def open_log(self) -> None:
        """Open the access log, if there is one.

        :raises OSError:
        """
        if self.access_log is not None:
            self.access_log.open()

    def reopen_log(self) -> None:
        """Open the access log's path again, after a rotation."""
        if self.access_log is not None:
            self.access_log.reopen()

    def log(self, request: http.Request) -> None:
        """Write a request's line to the access log, if there is one."""
        if self.access_log is not None:
            self.access_log.write(request)
