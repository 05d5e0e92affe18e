"""Which host names are served. There is no I/O here.

DNS rebinding reaches a server on loopback with a wrong ``Host``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from realtime_chat.values.errors import RealtimeError

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""The names that are served without any configuration."""

DEFAULT_PORTS = {"http": 80, "https": 443}

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.-]{1,253})(?::([0-9]{1,5}))?")
_ABSOLUTE_FORM = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)(/?.*)", re.DOTALL)
_MAX_CACHED = 256


class Authority(NamedTuple):
    """A host and an optional port, as in a ``Host`` header.

    :param name: in lower case; an IPv6 address is in brackets and in its shortest form.
    :param port: None if none was given.
    """

    name: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Authority:
        """Parse ``NAME``, ``NAME:PORT``, ``[IPV6]`` or ``[IPV6]:PORT``.

        :raises ValueError: it is none of them, ends in a dot, or isn't ASCII.
        """
        match = _AUTHORITY.fullmatch(text)
        if match is None:
            raise ValueError("this is not NAME, NAME:PORT, [IPV6] or [IPV6]:PORT")
        return cls(_host_name(match[1]), None if match[2] is None else _port(match[2]))

    def __str__(self) -> str:
        return self.name if self.port is None else f"{self.name}:{self.port}"

    @property
    def is_address(self) -> bool:
        """Whether the host is an IP address."""
        return self.name.startswith("[") or _is_ipv4(self.name)


def _host_name(text: str) -> str:
    if text.startswith("["):
        return _bracketed(text[1:-1])
    if not all(text.split(".")):
        raise ValueError("a host's name has no empty parts: no leading, doubled or trailing dots")
    return text.lower()


def _bracketed(text: str) -> str:
    try:
        return f"[{IPv6Address(text).compressed}]"
    except ValueError:
        raise ValueError("what stands in the brackets is not an IPv6 address") from None


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535 or text != str(port):
        raise ValueError("a port is a number from 1 to 65535, without zeros before it")
    return port


class HostList:
    """The host names that are served.

    :param names: as in a ``Host`` header, in any case. A name without a port is served on every port, and a name with a
        port on that port alone. An IPv6 address may lack its brackets.
    :param any_address: whether every IP address is served too. This is safe: DNS rebinding needs a name.
    :raises ValueError: a name is invalid; the message says why.
    """

    def __init__(self, names: Iterable[str] = LOOPBACK, any_address: bool = False) -> None:
        self._served = frozenset(_configured_host(name) for name in names)
        self._any_address = any_address
        self._seen: dict[bytes, Authority] = {}

    @classmethod
    def listening_on(cls, interfaces: Iterable[str], names: Iterable[str] = ()) -> HostList:
        """Make the default list: loopback, and the addresses that are listened on.

        :param interfaces: addresses; ``""``, ``0.0.0.0`` and ``::`` stand for all interfaces.
        :param names: further names.
        """
        interfaces = set(interfaces)
        everywhere = {"", "0.0.0.0", "::", "[::]"}
        return cls([*LOOPBACK, *names, *(interfaces - everywhere)], bool(interfaces & everywhere))

    def __str__(self) -> str:
        return ", ".join([*sorted(map(str, self._served)), *["any IP address"] * self._any_address])

    def serves(self, host: Authority) -> bool:
        """Return whether a host name is served."""
        return (
            Authority(host.name) in self._served
            or host in self._served
            or (host.port is None and self._serves_default_port(host))
            or (self._any_address and host.is_address)
        )

    def _serves_default_port(self, host: Authority) -> bool:
        return any(Authority(host.name, port) in self._served for port in DEFAULT_PORTS.values())

    def check(self, values: Sequence[bytes]) -> Authority:
        """Parse and check the ``Host`` header of a request.

        :param values: all values of the header.
        :raises RealtimeError: ``bad_request`` unless there is exactly one valid value; ``unknown_host`` if the host
            isn't served.
        """
        if len(values) != 1:
            raise RealtimeError("bad_request", "a request carries exactly one Host header")
        host = self._seen.get(values[0])
        return self._check(values[0]) if host is None else host

    def origin_form(self, target: bytes, host: Authority, method: bytes) -> bytes:
        """Return the path and query of a request's target. Clients of proxies send the scheme and host in front.

        :param host: of the ``Host`` header, which must be the same.
        :raises RealtimeError: ``bad_request`` or ``unknown_host``.
        """
        absolute = _ABSOLUTE_FORM.fullmatch(target)
        if absolute is not None:
            if self.check([absolute[1]]) != host:
                raise RealtimeError("bad_request", "the Host header and the host of the address are the same")
            target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
        elif not (target.startswith(b"/") or (target == b"*" and method == b"OPTIONS")):
            raise RealtimeError("bad_request", "the target of a request is a path that starts with /")
        if not target.isascii():
            raise RealtimeError("bad_request", "an address is ASCII, with everything else percent-encoded")
        return target

    def _check(self, value: bytes) -> Authority:
        try:
            host = Authority.parse(value.decode("ascii"))
        except ValueError:
            raise RealtimeError("bad_request", "the Host header is NAME or NAME:PORT") from None
        if not self.serves(host):
            raise RealtimeError(
                "unknown_host",
                "this server doesn't answer to the name in the Host header; whoever runs it can add names with --host",
            )
        if len(self._seen) < _MAX_CACHED:
            self._seen[value] = host
        return host


def _configured_host(text: str) -> Authority:
    try:
        return Authority(_bracketed(text)) if text.count(":") > 1 and text[0] != "[" else Authority.parse(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} can't be served as a host: {error}; right would be chat.example.com or 192.0.2.7:8080"
        ) from None


def names_loopback(text: str) -> bool:
    """Whether a name that is configured is one of this machine alone.

    :raises ValueError: it can't be served.
    """
    name = _configured_host(text).name
    return name in LOOPBACK or _is_loopback_address(name.strip("[]"))


def _is_loopback_address(text: str) -> bool:
    try:
        return ip_address(text).is_loopback
    except ValueError:
        return False
