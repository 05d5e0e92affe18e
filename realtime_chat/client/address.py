"""Where a daemon is, and how to connect to it."""

from __future__ import annotations

import re
import socket
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseFailed
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from realtime_chat.hosts import Host, port_of, tls_reason

__all__ = ["Address", "unsent"]

_PORTS = {"http": 80, "https": 443}
_SEND_BUFFER = 64 * 1024
_RIGHT = "http://127.0.0.1:8080/"
_RIGHT_BY_ADDRESS = "http://[::1]:8080/"
_MEANT = {"ws": "http", "wss": "https"}
_USER = re.compile("(^|://)[^/?#]*@")
_IN_PATHS = "/%:@!$&'()*+,;=~"


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
    :raises ValueError: the URL can't be one; the message says why, and shows no password.
    :ivar url: the same, with a slash at the end and as it is asked for.
    :ivar host: as in a ``Host`` header.
    :ivar secure: whether it is ``https``.
    """

    def __init__(self, reactor: Any, url: str, trust_root: Any = None) -> None:
        parts, self._host, port = _read(url)
        self.reactor = reactor
        self.secure = parts.scheme == "https"
        usual = _PORTS[parts.scheme]
        self.host, self.port = self._host.in_url, usual if port is None else port
        authority = self.host if self.port == usual else f"{self.host}:{self.port}"
        self.url = f"{parts.scheme}://{authority}{quote(parts.path, _IN_PATHS).rstrip('/')}/"
        self._trust_root = trust_root

    def endpoint(self) -> IStreamClientEndpoint:
        """What connects to it, with TLS and the server's name verified for ``https``."""
        endpoint = self._host.endpoint(self.reactor, self.port)
        if self.secure:
            endpoint = wrapClientTLS(optionsForClientTLS(self._host.name, self._trust_root), endpoint)
        return _Narrow(endpoint)

    def agent(self, pool: HTTPConnectionPool) -> Agent:
        """What asks it by HTTP."""
        agent: Agent = Agent.usingEndpointFactory(self.reactor, _Endpoints(self), pool)
        return agent

    def explain(self, failure: Failure) -> str:
        """Why it can't be reached, for a person."""
        error: Any = failure.value
        if getattr(error, "reasons", None):  # of a request: in whatever wrapper, the last one ended it
            return self.explain(error.reasons[-1])
        place = f"{self._host} port {self.port}"
        if isinstance(error, DNSLookupError):
            return f"there is no host {self._host}"
        if isinstance(error, ConnectError):
            return f"nobody answers at {place}: {str(error).rstrip('.')}"
        if isinstance(error, (TimeoutError, ConnectTimeoutError)):
            return f"no answer from {place} in time"
        if isinstance(error, (ConnectionClosed, ResponseFailed)):
            return f"the connection to {place} was lost"
        if type(error).__name__ == "ParseError":
            return f"what {place} answers is no HTTP"
        if self.secure and tls_reason(error) != type(error).__name__:
            return f"no secure connection to {place}: {tls_reason(error)}"
        return f"{place}: {error!s}" if str(error) else f"{place}: {type(error).__name__}"


def _read(url: str) -> tuple[SplitResult, Host, int | None]:
    """The parts of a daemon's URL, its host, and the port if it says one.

    :raises ValueError: it can't be one.
    """
    try:
        return _parts(url)
    except ValueError as error:
        shown = _USER.sub(r"\1…@", url)
        why = f"{shown!r} is not the URL of a daemon: {error}; right would be {_mended(url)}"
        raise ValueError(why) from None


def _parts(url: str) -> tuple[SplitResult, Host, int | None]:
    if _is_path(url):
        raise ValueError("clients connect by TCP, not by a Unix socket")
    if "://" not in url:
        raise ValueError("it doesn't begin with http:// or https://")
    try:
        parts = urlsplit(url)
    except ValueError:  # which says it in other words with each version of Python
        raise ValueError("it has brackets without an IPv6 address in them") from None
    if parts.scheme not in _PORTS:
        raise ValueError("it doesn't begin with http:// or https://, as it does for each transport")
    if parts.username is not None:
        raise ValueError("it has a user name or a password, which no daemon asks for")
    if parts.query or parts.fragment:
        raise ValueError("it has more than a host, a port and a path")
    host = Host.of(parts)
    if parts.scheme == "https" and not host.can_be_certified:
        raise ValueError("no certificate can be for this host")
    return parts, host, port_of(parts)


def _mended(url: str) -> str:
    """What was probably meant; an example where nobody can tell."""
    kind, slashes, rest = _USER.sub(r"\1", url).partition("://")
    scheme = _MEANT.get(kind.lower(), kind) if slashes else "http"
    mended = f"{scheme}://{(rest if slashes else kind).partition('?')[0]}"
    try:
        _parts(mended)
    except ValueError:
        return _RIGHT_BY_ADDRESS if "[" in url or url.count(":") > 2 else _RIGHT
    return _RIGHT if _is_path(url) else mended


def _is_path(url: str) -> bool:
    return url.startswith(("/", "unix:", "http+unix:"))
