"""Where a daemon is, and how to connect to it."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseFailed
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

__all__ = ["Address", "unsent"]

_PORTS = {"http": 80, "https": 443}
_SEND_BUFFER = 64 * 1024


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """One daemon's endpoint, whatever is asked for."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def endpointForURI(self, uri: Any) -> IStreamClientEndpoint:  # noqa: N802
        return self._address.endpoint()


@implementer(IStreamClientEndpoint)
class _Narrow:
    """An endpoint whose connections have a small buffer to send from: so it is seen whether the other side takes it."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        return self._endpoint.connect(protocolFactory).addCallback(_narrow)


def _narrow(protocol: Any) -> Any:
    _lowest(protocol.transport).getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return protocol


def unsent(transport: Any) -> int:
    """How many bytes wait for the socket to take them."""
    lowest = _lowest(transport)
    return len(lowest.dataBuffer) - int(lowest.offset) + int(lowest._tempDataLen)


def _lowest(transport: Any) -> Any:
    """The TCP connection, below TLS."""
    while isinstance(transport, TLSMemoryBIOProtocol):
        transport = transport.transport
    return transport


class Address:
    """The URL of a daemon, which may stand below a path of a proxy.

    :param url: ``http://`` or ``https://``; the daemon's root, with or without a slash at the end.
    :param trust_root: what vouches for an ``https`` server; None for what the system trusts.
    :raises ValueError: the URL can't be one; the message says why.
    """

    def __init__(self, reactor: Any, url: str, trust_root: Any = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"{url!r} is not the URL of a daemon; right would be http://127.0.0.1:8080/")
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError(f"{url!r} has more than a host, a port and a path; right would be http://host:8080/path/")
        self.reactor = reactor
        self.url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + "/", "", ""))
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or _PORTS[parts.scheme]
        self._trust_root = trust_root

    def endpoint(self) -> IStreamClientEndpoint:
        """What connects to it, with TLS and the server's name verified for ``https``."""
        endpoint: IStreamClientEndpoint = HostnameEndpoint(self.reactor, self._host, self._port)
        if self._secure:
            endpoint = wrapClientTLS(optionsForClientTLS(self._host, self._trust_root), endpoint)
        return _Narrow(endpoint)

    def agent(self, pool: HTTPConnectionPool) -> Agent:
        """What asks it by HTTP."""
        agent: Agent = Agent.usingEndpointFactory(self.reactor, _Endpoints(self), pool)
        return agent

    def explain(self, failure: Failure) -> str:
        """Why it can't be reached, for a person."""
        error = failure.value
        if isinstance(error, ResponseFailed) and error.reasons:
            return self.explain(error.reasons[0])
        place = f"{self._host} port {self._port}"
        if isinstance(error, DNSLookupError):
            return f"there is no host {self._host}"
        if isinstance(error, ConnectError):
            return f"nobody answers at {place}: {str(error).rstrip('.')}"
        if isinstance(error, (TimeoutError, ConnectTimeoutError)):
            return f"no answer from {place} in time"
        if isinstance(error, (ConnectionClosed, ResponseFailed)):
            return f"the connection to {place} was lost"
        return f"{place}: {error!s}" if str(error) else f"{place}: {type(error).__name__}"
