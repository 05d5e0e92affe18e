"""Endpoints for the PROXY protocol: what can't be read as its header ends the connection, and nothing else.

Twisted parses the header. For some it raises other errors than its own, such as ValueError for a port that isn't a
number. The reactor would log each with its traceback, and with bytes of whoever sent them. They can't be caught around
Twisted's own wrapper, as the errors of the protocol behind it come out there too. So here its wrapper only parses.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.protocols.haproxy import proxyEndpoint
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory


class _Behind(Protocol):
    """Keeps what comes behind a header."""

    data = b""

    def dataReceived(self, data: bytes) -> None:
        self.data += data


class _NoEndpoint:
    """Stands in for an endpoint, as Twisted gives its parser to no other."""

    def listen(self, factory: Any) -> Any:
        """Give what would listen."""
        return factory


_parsers: Any = proxyEndpoint(_NoEndpoint()).listen(Factory.forProtocol(_Behind))  # type: ignore[arg-type]


class ProxiedConnection(ProtocolWrapper):
    """A connection that begins with a header of the PROXY protocol. It has the addresses that the header claims."""

    _log = Logger()
    _is_header_read = False
    _parser: Any

    def makeConnection(self, transport: Any) -> None:  # noqa: N802
        """Wait for the header."""
        self._parser = _parsers.buildProtocol(None)
        self._parser.transport = transport
        super().makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        """Pass on what comes behind the header."""
        if self._is_header_read:
            self.wrappedProtocol.dataReceived(data)
        elif not self._parser.disconnecting:
            self._read_header(data)

    def _read_header(self, data: bytes) -> None:
        try:
            self._parser.dataReceived(data)
        except Exception:  # whatever the parser doesn't expect
            self._parser.disconnecting = True
        if self._parser.disconnecting:
            self._refuse()
        elif rest := self._parser.wrappedProtocol.data:
            self._is_header_read = True
            self.wrappedProtocol.dataReceived(rest)

    def _refuse(self) -> None:
        peer = self.factory.wrappedFactory.client_addresses.opened_by(self)
        if peer.is_trusted:
            self._log.warn(
                "{peer} sent no PROXY header that can be read, and its connection was closed; right would be "
                "send-proxy or send-proxy-v2 in the configuration of that proxy",
                peer=peer.client.host or "unix",
            )
        self._parser.transport.abortConnection()

    def getPeer(self) -> IAddress:
        """Who the header claims to speak for; the other end, until it is read."""
        return self._parser.getPeer()  # type: ignore[no-any-return]

    def getHost(self) -> IAddress:
        """Where the header claims that they connected to; this end, until it is read."""
        return self._parser.getHost()  # type: ignore[no-any-return]


class ProxiedConnections(WrappingFactory[ProxiedConnection]):
    """Makes connections that begin with a header of the PROXY protocol.

    :param wrapped: the site whose connections these are. Its ``client_addresses`` say who is trusted.
    """

    protocol = ProxiedConnection
