"""Where a Redis server is, and how to connect to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import attrs
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.python.failure import Failure

__all__ = ["KINDS", "Address", "parse_address"]

KINDS = ("redis", "rediss", "redis+unix", "unix")
"""What the URL of a Redis server begins with."""

_RIGHT = "redis://host/0, rediss://user@host:6380/0 (TLS) or redis+unix:///run/redis/redis.sock?db=0"
_PORT = 6379
_MOST_DATABASES = 1_000_000
_SECONDS_TO_CONNECT = 2
_END_OF_CERTIFICATE = b"-----END CERTIFICATE-----"


@attrs.frozen
class Address:
    """A database of a Redis server.

    :param host: its name or IP address; empty for a Unix socket.
    :param path: of a Unix socket; empty for TCP.
    :param database: the number of the database.
    :param user: None for Redis' default user.
    :param password: None for none.
    :param secure: whether the connection is encrypted, and the server's certificate verified against its host.
    :param authorities: PEM of the certificates that vouch for a secure server; None for what the system trusts.
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
        """Where it is, for a person and for logs: without the password."""
        user = "" if self.user is None else f"{self.user}@"
        if self.path:
            return f"redis+unix://{user}{self.path}?db={self.database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' if self.secure else ''}://{user}{host}:{self.port}/{self.database}"

    def endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """What connects to it."""
        if self.path:
            return UNIXClientEndpoint(reactor, self.path, timeout=_SECONDS_TO_CONNECT)
        endpoint = HostnameEndpoint(reactor, self.host, self.port, timeout=_SECONDS_TO_CONNECT)
        if not self.secure:
            return endpoint
        trust = None if self.authorities is None else trustRootFromCertificates(_certificates(self.authorities))
        return wrapClientTLS(optionsForClientTLS(self.host, trust), endpoint)

    def explain(self, failure: Failure) -> str:
        """Why it can't be reached, for a person."""
        error = failure.value
        if isinstance(error, DNSLookupError):
            return f"there is no host {self.host}"
        if isinstance(error, (TimeoutError, ConnectTimeoutError)):
            return "nobody answers in time"
        if isinstance(error, ConnectError):
            return f"nobody answers: {str(error).rstrip('.')}"
        if self.secure and not isinstance(error, ConnectionClosed):
            return f"no secure connection: {_tls_reason(error)}"
        return "the connection was lost"


def parse_address(url: str, password_file: str | None = None, ca_file: str | None = None) -> Address:
    """Read ``redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]``, ``rediss://…`` or ``redis+unix://[USER[:PASSWORD]@]/PATH[?db=N]``.

    What may stand in a password but not in a URL is written there as ``%XX``.

    :param password_file: its first line is the password.
    :param ca_file: PEM of the certificates that vouch for a ``rediss`` server.
    :raises ValueError: the message says what was wrong and what would be right, and shows no password.
    """
    parts = _split(url)
    unix = parts.scheme.endswith("unix")
    if ca_file is not None and parts.scheme != "rediss":
        raise ValueError("a CA file is for rediss:// alone; leave it out, or connect with TLS")
    return Address(
        host="" if unix else parts.hostname or "",
        port=_PORT if unix else _port(parts),
        path=unquote(parts.path) if unix else "",
        database=_database(parts, unix),
        user=unquote(parts.username) if parts.username else None,
        password=_password(parts, password_file),
        secure=parts.scheme == "rediss",
        authorities=None if ca_file is None else _authorities(ca_file),
    )


def _split(url: str) -> SplitResult:
    kind = url.partition("://")[0]
    try:
        parts = urlsplit(url)
        fitting = kind in KINDS and not parts.fragment and _has_place(parts)
    except ValueError:
        fitting = False
    if not fitting:
        shown = kind if kind in KINDS else "this"
        raise ValueError(f"{shown!r} … is not the address of a Redis server; right would be {_RIGHT}")
    return parts


def _has_place(parts: SplitResult) -> bool:
    if parts.scheme.endswith("unix"):
        return parts.hostname is None and parts.path.startswith("/") and len(parts.path) > 1
    return bool(parts.hostname) and not parts.query


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"the port of a Redis server is a number from 1 to 65535; right would be {_RIGHT}")
    return port or _PORT


def _database(parts: SplitResult, unix: bool) -> int:
    if unix:
        asked = parse_qs(parts.query, keep_blank_values=True)
        text = asked.pop("db", ["0"])[-1]
        if asked:
            raise ValueError(
                "after a ? there is only db=NUMBER; right would be redis+unix:///run/redis/redis.sock?db=0"
            )
    else:
        text = parts.path.removeprefix("/") or "0"
    if not text.isascii() or not text.isdigit() or len(text) > 7 or int(text) >= _MOST_DATABASES:
        raise ValueError(f"a Redis database is a number, such as 0; right would be {_RIGHT}")
    return int(text)


def _password(parts: SplitResult, password_file: str | None) -> str | None:
    given = unquote(parts.password) if parts.password else None
    if password_file is None:
        return given
    if given is not None:
        raise ValueError("there is a password in the URL and one in a file; leave one of them out")
    try:
        lines = Path(password_file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the password file {password_file!r} can't be read: {_reason(error)}") from error
    if not lines or not lines[0]:
        raise ValueError(f"the first line of the password file {password_file!r} is empty; it has to be the password")
    return lines[0]


def _authorities(ca_file: str) -> bytes:
    try:
        pem = Path(ca_file).read_bytes()
        _certificates(pem)
    except OSError as error:
        raise ValueError(f"the CA file {ca_file!r} can't be read: {_reason(error)}") from error
    except Exception as error:
        raise ValueError(f"the CA file {ca_file!r} holds no certificate in PEM format") from error
    return pem


def _certificates(pem: bytes) -> list[Certificate]:
    """All certificates of a PEM file; raises what OpenSSL raises where there is none."""
    blocks = [block + _END_OF_CERTIFICATE for block in pem.split(_END_OF_CERTIFICATE)[:-1]]
    return [Certificate.loadPEM(block) for block in blocks or [pem]]


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _tls_reason(error: BaseException | None) -> str:
    """What OpenSSL or the check of the host name says, in one line."""
    details = error.args[0] if error is not None and error.args else None
    if isinstance(details, list) and details and isinstance(details[-1], tuple):
        return str(details[-1][-1])
    if type(error).__name__ == "VerificationError":
        return "the certificate is for another host"
    return type(error).__name__
