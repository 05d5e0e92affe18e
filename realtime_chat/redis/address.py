"""The address of a Redis server, and how to connect to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import attrs
from twisted.internet.endpoints import UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.python.failure import Failure

from realtime_chat.hosts import Host, port_of, tls_reason

SCHEMES = ("redis", "rediss", "redis+unix", "unix")
"""The schemes of the URL of a Redis server."""

_EXAMPLES = "redis://host/0, rediss://user@host:6380/0 (TLS) or redis+unix:///run/redis/redis.sock?db=0"
_PORT = 6379
_MAX_DATABASES = 1_000_000
_CONNECT_TIMEOUT = 2
_CERTIFICATE_END = b"-----END CERTIFICATE-----"


@attrs.frozen
class RedisAddress:
    """A database of a Redis server.

    :param host: a name or an IP address; empty for a Unix socket.
    :param path: the path of a Unix socket; empty for TCP.
    :param database: the number of the database.
    :param user: None for Redis' default user.
    :param password: None for none.
    :param secure: whether to use TLS, and to verify the server's certificate.
    :param authorities: the CA certificates for TLS, in PEM format; None for those that the system trusts.
    """

    host: str = ""
    port: int = _PORT
    path: str = ""
    database: int = 0
    user: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    secure: bool = False
    authorities: bytes | None = attrs.field(default=None, repr=False)

    def describe(self) -> str:
        """Return the address as a URL without the password, for the operator and for logs."""
        user = "" if self.user is None else f"{self.user}@"
        if self.path:
            return f"redis+unix://{user}{self.path}?db={self.database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' if self.secure else ''}://{user}{host}:{self.port}/{self.database}"

    def endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """Make an endpoint that connects to it."""
        if self.path:
            return UNIXClientEndpoint(reactor, self.path, timeout=_CONNECT_TIMEOUT)
        name, _, zone = self.host.partition("%")
        endpoint = Host(name, zone).endpoint(reactor, self.port, _CONNECT_TIMEOUT)
        if not self.secure:
            return endpoint
        trust = None if self.authorities is None else trustRootFromCertificates(_certificates(self.authorities))
        return wrapClientTLS(optionsForClientTLS(self.host, trust), endpoint)

    def with_password_of(self, path: str) -> RedisAddress:
        """Return the address with the password from the first line of a file.

        :raises ValueError: the file has none, or there is a password in the URL as well.
        """
        if self.password is not None:
            raise ValueError("there is a password in the URL as well; right would be one of them")
        try:
            first, *_ = [*Path(path).read_text("utf-8").splitlines(), ""]
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path!r} can't be read ({_reason(error)}); right would be a file of one line") from error
        if not first:
            raise ValueError(f"the first line of {path!r} is empty; right would be the password")
        return attrs.evolve(self, password=first)

    def with_authorities(self, path: str) -> RedisAddress:
        """Return the address with the CA certificates of a PEM file, which replace those of the system.

        :raises ValueError: the file has no certificate, or the address doesn't use TLS.
        """
        if not self.secure:
            raise ValueError("without TLS nothing is vouched for; right would be rediss://")
        try:
            pem = Path(path).read_bytes()
            _certificates(pem)
        except OSError as error:
            raise ValueError(
                f"{path!r} can't be read ({_reason(error)}); right would be a file in PEM format"
            ) from error
        except Exception as error:
            raise ValueError(f"{path!r} holds no certificate; right would be a file in PEM format") from error
        return attrs.evolve(self, authorities=pem)

    def explain(self, failure: Failure) -> str:
        """Say why it can't be reached, for the operator."""
        error = failure.value
        if isinstance(error, DNSLookupError):
            return f"there is no host {self.host}"
        if isinstance(error, (TimeoutError, ConnectTimeoutError)):
            return "nobody answers in time"
        if isinstance(error, ConnectError):
            return f"nobody answers: {str(error).rstrip('.')}"
        if self.secure and not isinstance(error, ConnectionClosed):
            return f"no secure connection: {tls_reason(error)}"
        return "the connection was lost"


def parse_address(url: str) -> RedisAddress:
    """Parse ``redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]``, ``rediss://…`` or ``redis+unix://[USER[:PASSWORD]@]/PATH[?db=N]``.

    Special characters in a name or a password are written as ``%XX``.

    :raises ValueError: the message says what was wrong and what would be right, without the password.
    """
    parts = _split(url)
    unix = parts.scheme.endswith("unix")
    return RedisAddress(
        host="" if unix else _host(parts),
        port=_PORT if unix else _port(parts),
        path=unquote(parts.path) if unix else "",
        database=_database(parts, unix),
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        secure=parts.scheme == "rediss",
    )


def _split(url: str) -> SplitResult:
    kind = url.partition("://")[0]
    try:
        parts = urlsplit(url)
        is_valid = kind in SCHEMES and not parts.fragment and _has_location(parts)
    except ValueError:
        is_valid = False
    if not is_valid:
        shown = f"{kind}://…" if kind in SCHEMES else "this"  # the rest may hold a password
        raise ValueError(f"{shown} is not the address of a Redis server; right would be {_EXAMPLES}")
    return parts


def _has_location(parts: SplitResult) -> bool:
    if parts.scheme.endswith("unix"):
        return parts.hostname is None and parts.path.startswith("/") and len(parts.path) > 1
    return bool(parts.netloc.rpartition("@")[2]) and not parts.query


def _host(parts: SplitResult) -> str:
    try:
        host = Host.of(parts)
    except ValueError as error:
        raise ValueError(
            f"{parts.scheme}://… is not the address of a Redis server: {error}; right would be {_EXAMPLES}"
        ) from None
    if parts.scheme == "rediss" and not host.can_be_certified:
        raise ValueError(f"no certificate can be for the host of rediss://…; right would be {_EXAMPLES}")
    return str(host)


def _port(parts: SplitResult) -> int:
    try:
        return port_of(parts) or _PORT
    except ValueError:
        raise ValueError(
            f"the port of a Redis server is a number from 1 to 65535; right would be {_EXAMPLES}"
        ) from None


def _database(parts: SplitResult, unix: bool) -> int:
    if unix:
        asked = parse_qs(parts.query, keep_blank_values=True)
        text = asked.pop("db", ["0"])[-1]
        if asked:
            raise ValueError(
                "after the ? stands db=NUMBER alone; right would be redis+unix:///run/redis/redis.sock?db=0"
            )
    else:
        text = parts.path.removeprefix("/") or "0"
    if not text.isascii() or not text.isdigit() or len(text) > 7 or int(text) >= _MAX_DATABASES:
        raise ValueError(f"a Redis database is a number, such as 0; right would be {_EXAMPLES}")
    return int(text)


def _certificates(pem: bytes) -> list[Certificate]:
    """Parse all certificates of a PEM file. If there is none, this raises what OpenSSL raises."""
    blocks = [block + _CERTIFICATE_END for block in pem.split(_CERTIFICATE_END)[:-1]]
    return [Certificate.loadPEM(block) for block in blocks or [pem]]


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
