"""Giving an HTTP connection to another protocol, such as a WebSocket or an event stream."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.interfaces import IProtocol, IReactorTime, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["CountedProtocol", "HandoverChannel", "HandoverSite", "take_over"]


class HandoverSite(Protocol):
    """What the handover needs of the site."""

    reactor: Any

    def handed_over(self, channel: Any) -> None:
        """Count a connection as one of another protocol."""

    def successor_lost(self) -> None:
        """Count a connection of another protocol no more."""


class HandoverChannel(Protocol):
    """What the handover needs of the connection."""

    transport: Any

    @property
    def site(self) -> HandoverSite:
        """The site."""

    def detach(self, successor: CountedProtocol, status: int) -> bytes:
        """End HTTP on this connection, and return what the client sent behind its request."""


@implementer(IProtocol)
class CountedProtocol:
    """Takes the channel's place in front of the new protocol, so that the site still counts the connection.

    :param protocol: gets everything that comes in.
    """

    __slots__ = ("_protocol", "_site")

    def __init__(self, protocol: IProtocol, site: HandoverSite) -> None:
        self._protocol: IProtocol | None = protocol
        self._site = site

    def dataReceived(self, data: bytes) -> None:
        """Pass data on, unless the connection is lost."""
        if self._protocol is not None:
            self._protocol.dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:
        """Tell the site, then the protocol."""
        protocol, self._protocol = self._protocol, None
        self._site.successor_lost()
        if protocol is not None:
            protocol.connectionLost(reason)

    def makeConnection(self, transport: ITransport) -> None:  # noqa: N802
        """Do nothing: the transport is connected already."""

    def connectionMade(self) -> None:
        """Do nothing: the transport is connected already."""


def take_over(channel: HandoverChannel, protocol: IProtocol, status: int) -> ITransport:
    """Put ``protocol`` in a channel's place, and return the transport.

    :param channel: a connection whose request waits for its answer.
    :param status: what the protocol answers with, for the access log.
    :raises RuntimeError: the transport's protocol can't be replaced.
    """
    transport: ITransport = channel.transport
    site = channel.site
    successor = CountedProtocol(protocol, site)
    _replace_protocol(transport, channel, successor)
    site.handed_over(channel)
    rest = channel.detach(successor, status)
    _release(transport, successor, rest, site.reactor)
    return transport


def _replace_protocol(transport: Any, old: Any, new: IProtocol) -> None:
    """Replace ``old`` in the object that calls it: the transport (a socket, TLS, haproxy), or a wrapper in between."""
    for owner, name in (
        (transport, "wrappedProtocol"),
        (transport, "protocol"),
        (getattr(transport, "protocol", None), "wrappedProtocol"),
    ):
        if getattr(owner, name, None) is old:
            setattr(owner, name, new)
            return
    raise RuntimeError("this transport's protocol can't be replaced")


def _release(transport: Any, successor: CountedProtocol, rest: bytes, reactor: IReactorTime) -> None:
    """Let data flow again. What came before goes first, in a turn of its own."""
    if not rest:
        transport.resumeProducing()
        return
    transport.pauseProducing()

    def deliver() -> None:
        transport.resumeProducing()
        successor.dataReceived(rest)

    reactor.callLater(0, deliver)
