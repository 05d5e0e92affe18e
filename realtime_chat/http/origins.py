"""Which host names are served, and which origins' pages may use the site. There is no I/O here.

DNS rebinding reaches a server on loopback with a wrong ``Host``. A page of another site sends a wrong ``Origin``.
Clients that aren't browsers send no ``Origin``. They could send any, so refusing them would protect nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from twisted.web.http_headers import Headers

from realtime_chat.values.errors import RealtimeError

__all__ = [
    "FOR_SCRIPTS",
    "LOOPBACK",
    "Authority",
    "HostList",
    "OriginPolicy",
    "destination_of",
    "explain_refusal",
    "is_foreign",
    "normalise_origin",
]

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""The names that are served without any configuration."""

FOR_SCRIPTS = b"empty"
"""The destination of a script's request (Fetch, section 2.2.5). Requests without a browser count as a script's."""

_FOREIGN_SITES = frozenset((b"cross-site", b"same-site"))
_ACCEPT_DESTINATIONS = (
    (b"image/", b"image"),
    (b"text/html,application/xhtml+xml", b"document"),
    (b"text/css", b"style"),
)
"""How an element's ``Accept`` header begins, in browsers without ``Sec-Fetch-Dest``. Java sends text/html alone."""

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.-]{1,253})(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,63})://(.*)", re.DOTALL)
_ABSOLUTE_FORM = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)(/?.*)", re.DOTALL)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_APPLICATION_HOSTS = ("", ".")
"""Hosts in the origins of applications: ``file://`` (Cordova) and ``app://.`` (Electron). No site can have them."""

_MAX_CACHED_HOSTS = 256


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
        return any(Authority(host.name, port) in self._served for port in _DEFAULT_PORTS.values())

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
        if len(self._seen) < _MAX_CACHED_HOSTS:
            self._seen[value] = host
        return host


def _configured_host(text: str) -> Authority:
    try:
        return Authority(_bracketed(text)) if text.count(":") > 1 and text[0] != "[" else Authority.parse(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} can't be served as a host: {error}; right would be chat.example.com or 192.0.2.7:8080"
        ) from None


def normalise_origin(value: str) -> str:
    """Return a configured origin in the form that browsers send.

    ``https://Example.com:443/`` becomes ``https://example.com``. ``*`` stays, and means every origin but ``null``.
    ``null`` stays, and means pages without an origin: files, and sandboxed frames, which any site can make.

    :raises ValueError: it isn't an origin; the message says what is wrong and what would be right.
    """
    if value in ("*", "null"):
        return value
    try:
        return _normalise(value if value.endswith("//") else value.removesuffix("/"))
    except ValueError as error:
        raise ValueError(f"{value!r} is not an origin: {error}; right would be https://example.com") from None


_NEVER_IN_ORIGINS = (
    ("*", "* stands alone and is no pattern, so list every origin by itself"),
    ("@", "an origin has no user name or password"),
    ("/", "an origin has no path"),
    ("?", "an origin has no query"),
    ("#", "an origin has no fragment"),
)


def _normalise(text: str) -> str:
    """Return the canonical form of an origin, as browsers serialise it (RFC 6454, section 6.2).

    :raises ValueError:
    """
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValueError("an origin starts with its scheme and ://")
    scheme, rest = match[1].lower(), match[2]
    for sign, reason in _NEVER_IN_ORIGINS:
        if sign in rest:
            raise ValueError(reason)
    if not rest.isascii():
        raise ValueError("browsers send the name in its ASCII form, xn--…")
    if scheme not in _DEFAULT_PORTS and rest in _APPLICATION_HOSTS:
        return f"{scheme}://{rest}"
    host = Authority.parse(rest)
    return f"{scheme}://{Authority(host.name) if host.port == _DEFAULT_PORTS.get(scheme) else host}"


class OriginPolicy:
    """Which origins' pages may use the site: its own, and those that are listed.

    :param allowed: origins, as :func:`normalise_origin` takes them.
    :raises ValueError: one of them isn't an origin.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._listed = frozenset(map(normalise_origin, allowed))

    def __str__(self) -> str:
        return ", ".join(["same origin", *sorted(self._listed)])

    @property
    def lists_any(self) -> bool:
        """Whether other origins than the site's own are listed."""
        return bool(self._listed)

    def shares(self, origin: bytes) -> bool:
        """Return whether an ``Origin`` header's value is listed, so that its pages may read answers."""
        normal = _parse_origin(origin)
        return normal is not None and self._lists(normal)

    def permits(self, origin: bytes | None, host: bytes, secure: bool) -> bool:
        """Return whether a request may be served.

        If a proxy ends TLS, a page of ``https://example.com`` reaches us over plain HTTP. So over plain HTTP the page's
        scheme may be http or https, if its host and port are ours. Over TLS it must be https.

        :param origin: the ``Origin`` header, or None if the request has none.
        :param host: the request's ``Host`` header.
        :param secure: whether the connection to us is TLS.
        """
        if origin is None:
            return True
        normal = _parse_origin(origin)
        return normal is not None and (self._lists(normal) or _is_own(normal, host, secure))

    def _lists(self, normal: str) -> bool:
        return normal in self._listed or ("*" in self._listed and normal != "null")


def explain_refusal(origins: Sequence[bytes], host: bytes) -> str:
    """Say for the log why a page was refused, and what would let it in. What isn't an origin isn't repeated.

    :param host: the ``Host`` header, which was checked before.
    """
    normal = _parse_origin(origins[0]) if len(origins) == 1 else None
    if normal is None:
        return "its origin is none that a browser sends"
    return (
        f"it is of {normal}, and asked {host.decode()}. If it is yours, add --allow-origin {normal}. If both are one "
        "site, a proxy in between doesn't pass the Host header on (nginx: proxy_set_header Host $http_host; Apache: "
        "ProxyPreserveHost On)"
    )


def is_foreign(headers: Headers) -> bool:
    """Return whether a request without an ``Origin`` was caused by a page of another origin, by its Fetch Metadata.

    A page that may read the answer sends an ``Origin``. A page of a sibling domain is of another origin too.
    """
    return not _FOREIGN_SITES.isdisjoint(_lower(headers, b"Sec-Fetch-Site"))


def destination_of(headers: Headers) -> bytes:
    """Return what a browser wants the answer for. If it doesn't say so, guess from the types that it accepts."""
    said = _lower(headers, b"Sec-Fetch-Dest")
    if said:
        return said[-1]
    accepted = b",".join(_lower(headers, b"Accept")).replace(b" ", b"")
    return next((guess for begin, guess in _ACCEPT_DESTINATIONS if accepted.startswith(begin)), FOR_SCRIPTS)


def _lower(headers: Headers, name: bytes) -> list[bytes]:
    return [value.strip().lower() for value in headers.getRawHeaders(name, ())]


def _parse_origin(origin: bytes) -> str | None:
    """Return the canonical form of an ``Origin`` header, or None if no browser would send it."""
    if origin == b"null":
        return "null"
    try:
        return _normalise(origin.decode("ascii"))
    except ValueError:
        return None


def _is_own(origin: str, host: bytes, secure: bool) -> bool:
    schemes = ("https",) if secure else ("https", "http")
    return any(origin == _own_origin(scheme, host) for scheme in schemes)


def _own_origin(scheme: str, host: bytes) -> str | None:
    return _parse_origin(scheme.encode("ascii") + b"://" + host)
