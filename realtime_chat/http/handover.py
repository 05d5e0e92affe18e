"""Giving an HTTP connection to another protocol, such as a WebSocket or an event stream."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocol, IReactorTime, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from realtime_chat.http.site import RealtimeSite

__all__ = ["CountedProtocol", "release", "replace_protocol"]


@implementer(IProtocol)
class CountedProtocol:
    """Takes the channel's place in front of the new protocol, so that the site still counts the connection.

    :param protocol: gets everything that comes in.
    """

    __slots__ = ("_protocol", "_site")

    def __init__(self, protocol: IProtocol, site: RealtimeSite) -> None:
        self._protocol: IProtocol | None = protocol
        self._site = site

    def dataReceived(self, data: bytes) -> None:
        """Pass data on, unless the connection is lost."""
        if self._protocol is not None:
            self._protocol.dataReceived(data)

    def connectionLost(self, reason: Failure) -> None:
        """Tell the site, then the protocol."""
        protocol, self._protocol = self._protocol, None
        self._site.handed_over_lost()
        if protocol is not None:
            protocol.connectionLost(reason)

    def makeConnection(self, transport: ITransport) -> None:  # noqa: N802
        """Do nothing: the transport is connected already."""

    def connectionMade(self) -> None:
        """Do nothing: the transport is connected already."""


def replace_protocol(transport: Any, old: Any, new: IProtocol) -> None:
    """Replace ``old`` in the object that calls it: the transport (a socket, TLS, haproxy), or a wrapper in between.

    :raises RuntimeError: the transport's protocol can't be replaced.
    """
    for owner, name in (
        (transport, "wrappedProtocol"),
        (transport, "protocol"),
        (getattr(transport, "protocol", None), "wrappedProtocol"),
    ):
        if getattr(owner, name, None) is old:
            setattr(owner, name, new)
            return
    raise RuntimeError("this transport's protocol can't be replaced")


def release(transport: Any, successor: CountedProtocol, rest: bytes, reactor: IReactorTime) -> None:
    """Let data flow again. What came before goes first, in a turn of its own."""
    if not rest:
        transport.resumeProducing()
        return
    transport.pauseProducing()

    def deliver() -> None:
        transport.resumeProducing()
        successor.dataReceived(rest)

    reactor.callLater(0, deliver)
