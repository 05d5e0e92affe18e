"""Hosts in URLs, and how to connect to them."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import SplitResult, unquote

import attrs
import idna
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint

_LONGEST = 253
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_ZONE = re.compile(r"[A-Za-z0-9_.~-]{1,64}")
_TLS_REASONS = {"wrong version number": "the other side doesn't speak TLS"}


@attrs.frozen
class Host:
    """A host name or an IP address.

    :param name: a name in lower case and ASCII, or an IP address without brackets.
    :param zone: the interface of a link-local IPv6 address (RFC 4007).
    """

    name: str
    zone: str = ""

    @classmethod
    def of(cls, parts: SplitResult) -> Host:
        """The host of a URL.

        :raises ValueError: there is no valid host; the message says why.
        """
        authority = parts.netloc.rpartition("@")[2]
        if "[" in authority:
            return _literal(parts.hostname or "")
        if authority.count(":") > 1:
            raise ValueError("an IPv6 address stands in brackets, as in [::1]")
        return cls(_ascii(parts.hostname or ""))

    def __str__(self) -> str:
        return f"{self.name}%{self.zone}" if self.zone else self.name

    @property
    def in_url(self) -> str:
        """The host for a URL or a ``Host`` header. The zone is left out, as it only has a meaning here (RFC 6874)."""
        return f"[{self.name}]" if ":" in self.name else self.name

    @property
    def can_be_certified(self) -> bool:
        """Whether a TLS certificate can be checked against this host."""
        return not self.zone and (":" in self.name or _is_known_to_idna(self.name))

    def endpoint(self, reactor: Any, port: int, timeout: float = 30) -> IStreamClientEndpoint:
        """An endpoint that connects to this host, without TLS.

        :param timeout: in how many seconds to connect.
        """
        if ":" in self.name or _is_known_to_idna(self.name):
            return HostnameEndpoint(reactor, str(self), port, timeout)
        # Twisted refuses some names that DNS may have, such as chat_server in a container's network.
        endpoint: IStreamClientEndpoint = TCP4ClientEndpoint(reactor, self.name, port, timeout)
        return endpoint


def port_of(parts: SplitResult) -> int | None:
    """The port of a URL; None if the URL has no port.

    :raises ValueError: the port is not from 1 to 65535.
    """
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("a port is a number from 1 to 65535")
    return port


def _literal(text: str) -> Host:
    """Parse an IPv6 address from its brackets. A zone follows ``%25``, or ``%`` as people write it."""
    address, percent, zone = text.partition("%")
    zone = unquote(zone.removeprefix("25") if len(zone) > 2 else zone)
    try:
        name = IPv6Address(address).compressed
    except ValueError:
        raise ValueError("it has brackets without an IPv6 address in them") from None
    if percent and not _ZONE.fullmatch(zone):
        raise ValueError("what stands behind the % is not the name of an interface")
    return Host(name, zone)


def _ascii(text: str) -> str:
    """A host name as DNS is asked for it, in ASCII."""
    if not text:
        raise ValueError("it has no host")
    try:
        name = text if text.isascii() else idna.encode(text, uts46=True).decode("ascii")
    except UnicodeError:
        name = ""
    if len(name) > _LONGEST or not _NAME.fullmatch(name):
        raise ValueError("its host can't be the name of one")
    return name


def _is_known_to_idna(name: str) -> bool:
    try:
        idna.encode(name)
    except UnicodeError:
        return False
    return True


def tls_reason(error: BaseException | None) -> str:
    """Why a TLS connection failed, in one line: the message of OpenSSL or of the check of the host name."""
    details = error.args[0] if error is not None and error.args else None
    if isinstance(details, list) and details and isinstance(details[-1], tuple):
        reason = str(details[-1][-1])
        return _TLS_REASONS.get(reason, reason)
    if type(error).__name__ == "VerificationError":
        return "the certificate is for another host"
    return type(error).__name__
