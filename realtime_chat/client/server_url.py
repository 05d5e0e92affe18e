"""The URL of a daemon, and how to connect to it."""

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

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SEND_BUFFER = 64 * 1024
_EXAMPLE = "http://127.0.0.1:8080/"
_IPV6_EXAMPLE = "http://[::1]:8080/"
_HTTP_SCHEMES = {"ws": "http", "wss": "https"}
_CREDENTIALS = re.compile("(^|://)[^/?#]*@")
_SAFE_IN_PATH = "/%:@!$&'()*+,;=~"


@implementer(IAgentEndpointFactory)
class _EndpointFactory:
    """Gives an ``Agent`` the endpoint of one daemon, for any URI."""

    def __init__(self, server: ServerURL) -> None:
        self._server = server

    def endpointForURI(self, uri: Any) -> IStreamClientEndpoint:  # noqa: N802
        return self._server.endpoint()


@implementer(IStreamClientEndpoint)
class _SmallBufferEndpoint:
    """An endpoint whose sockets have a small send buffer, so that unsent bytes show whether the server reads."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        return self._endpoint.connect(protocolFactory).addCallback(_set_send_buffer)


def _set_send_buffer(protocol: Any) -> Any:
    _tcp_transport(protocol.transport).getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return protocol


def unsent_bytes(transport: Any) -> int:
    """How many bytes wait in the process for the socket to accept them."""
    tcp = _tcp_transport(transport)
    return len(tcp.dataBuffer) - int(tcp.offset) + int(tcp._tempDataLen)


def _tcp_transport(transport: Any) -> Any:
    """The TCP connection, below TLS."""
    while isinstance(transport, TLSMemoryBIOProtocol):
        transport = transport.transport
    return transport


class ServerURL:
    """The URL of a daemon, which a proxy may serve below a path.

    :param url: the daemon's root, ``http://`` or ``https://``, with or without a slash at the end.
    :param trust_root: the authorities that may certify an ``https`` server; None for those that the system trusts.
    :raises ValueError: the URL is invalid; the message says why, and shows no password.
    :ivar url: the URL as requests have it: normalised, with a slash at the end.
    :ivar host: the host as in a ``Host`` header.
    :ivar secure: whether it is ``https``.
    """

    def __init__(self, reactor: Any, url: str, trust_root: Any = None) -> None:
        parts, self._host, port = _parse(url)
        self.reactor = reactor
        self.secure = parts.scheme == "https"
        default_port = _DEFAULT_PORTS[parts.scheme]
        self.host, self.port = self._host.in_url, default_port if port is None else port
        authority = self.host if self.port == default_port else f"{self.host}:{self.port}"
        self.url = f"{parts.scheme}://{authority}{quote(parts.path, _SAFE_IN_PATH).rstrip('/')}/"
        self._trust_root = trust_root

    def endpoint(self) -> IStreamClientEndpoint:
        """The endpoint that connects to it; for ``https`` with TLS, and with the server's name verified."""
        endpoint = self._host.endpoint(self.reactor, self.port)
        if self.secure:
            endpoint = wrapClientTLS(optionsForClientTLS(self._host.name, self._trust_root), endpoint)
        return _SmallBufferEndpoint(endpoint)

    def agent(self, pool: HTTPConnectionPool) -> Agent:
        """An agent whose requests all go to it."""
        agent: Agent = Agent.usingEndpointFactory(self.reactor, _EndpointFactory(self), pool)
        return agent

    def explain(self, failure: Failure) -> str:
        """Say why it can't be reached, for a person."""
        error: Any = failure.value
        if getattr(error, "reasons", None):  # a failed request wraps its errors; the last one ended it
            return self.explain(error.reasons[-1])
        place = f"{self._host} port {self.port}"
        if isinstance(error, DNSLookupError):
            return f"there is no host {self._host}"
        if isinstance(error, (TimeoutError, ConnectTimeoutError)):
            return f"no answer from {place} in time"
        if isinstance(error, ConnectError):  # which Twisted's time-out is as well
            return f"nobody answers at {place}: {str(error).rstrip('.')}"
        if isinstance(error, (ConnectionClosed, ResponseFailed)):
            return f"the connection to {place} was lost"
        if type(error).__name__ == "ParseError":
            return f"what {place} answers is no HTTP"
        if self.secure and tls_reason(error) != type(error).__name__:
            return f"no secure connection to {place}: {tls_reason(error)}"
        return f"{place}: {error!s}" if str(error) else f"{place}: {type(error).__name__}"


def _parse(url: str) -> tuple[SplitResult, Host, int | None]:
    """Return the parts of a daemon's URL, its host, and its port if it has one.

    :raises ValueError: it is invalid; the message suggests a valid one.
    """
    try:
        return _split(url)
    except ValueError as error:
        shown = _CREDENTIALS.sub(r"\1…@", url)
        raise ValueError(f"{shown!r} is not the URL of a daemon: {error}; right would be {_suggest(url)}") from None


def _split(url: str) -> tuple[SplitResult, Host, int | None]:
    if _is_unix_socket(url):
        raise ValueError("clients connect by TCP, not by a Unix socket")
    if "://" not in url:
        raise ValueError("it doesn't begin with http:// or https://")
    try:
        parts = urlsplit(url)
    except ValueError:  # whose words differ between versions of Python
        raise ValueError("it has brackets without an IPv6 address in them") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError("it doesn't begin with http:// or https://, as it does for each transport")
    if parts.username is not None:
        raise ValueError("it has a user name or a password, which no daemon asks for")
    if parts.query or parts.fragment:
        raise ValueError("it has more than a host, a port and a path")
    host = Host.of(parts)
    if parts.scheme == "https" and not host.can_be_certified:
        raise ValueError("no certificate can be for this host")
    return parts, host, port_of(parts)


def _suggest(url: str) -> str:
    """The URL that was probably meant, or an example."""
    start, separator, rest = _CREDENTIALS.sub(r"\1", url).partition("://")
    scheme = _HTTP_SCHEMES.get(start.lower(), start) if separator else "http"
    suggestion = f"{scheme}://{(rest if separator else start).partition('?')[0]}"
    try:
        _split(suggestion)
    except ValueError:
        return _IPV6_EXAMPLE if "[" in url or url.count(":") > 2 else _EXAMPLE
    return _EXAMPLE if _is_unix_socket(url) else suggestion


def _is_unix_socket(url: str) -> bool:
    return url.startswith(("/", "unix:", "http+unix:"))
