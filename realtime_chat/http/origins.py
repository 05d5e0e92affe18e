"""Which names the site answers to, and pages of which origins may use it; no I/O.

A wrong ``Host`` is how DNS rebinding reaches a server that listens on loopback; a wrong ``Origin`` is another site's
page in a visitor's browser. Clients that aren't browsers send no ``Origin``, and nothing is gained by refusing them.
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
"""The destination of what a script asks for (Fetch, section 2.2.5), and of what comes from no browser."""

_FOREIGN_SITES = frozenset((b"cross-site", b"same-site"))
_GUESSED = ((b"image/", b"image"), (b"text/html,application/xhtml+xml", b"document"), (b"text/css", b"style"))
"""What elements of browsers that send no ``Sec-Fetch-Dest`` say first that they accept; Java says text/html alone."""

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.-]{1,253})(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,63})://(.*)", re.DOTALL)
_ABSOLUTE_FORM = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)(/?.*)", re.DOTALL)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_APPLICATION_HOSTS = ("", ".")
"""What programs with pages of their own send, that no site could: ``file://`` (Cordova) and ``app://.`` (Electron)."""

_REMEMBERED = 256


class Authority(NamedTuple):
    """A host and perhaps a port, as they stand in a ``Host`` header.

    :param name: lower case; an IPv6 address in brackets and in its shortest form.
    :param port: None where none was given.
    """

    name: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Authority:
        """Read ``NAME``, ``NAME:PORT``, ``[IPV6]`` or ``[IPV6]:PORT``.

        :raises ValueError: it is none of them. A name that ends in a dot or that isn't ASCII is none either.
        """
        match = _AUTHORITY.fullmatch(text)
        if match is None:
            raise ValueError("this is not NAME, NAME:PORT, [IPV6] or [IPV6]:PORT")
        return cls(_host_name(match[1]), None if match[2] is None else _port(match[2]))

    def __str__(self) -> str:
        return self.name if self.port is None else f"{self.name}:{self.port}"

    @property
    def is_address(self) -> bool:
        """Whether the name is an IP address."""
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
    """The names that the site answers to.

    :param names: as in a ``Host`` header, without regard to case. One without a port is served on every port; one with
        a port on that port alone. An IPv6 address may come without its brackets.
    :param any_address: whether every IP address is served too. That is safe wherever one listens on all interfaces:
        DNS rebinding needs a name.
    :raises ValueError: a name can't be one; the message says why.
    """

    def __init__(self, names: Iterable[str] = LOOPBACK, any_address: bool = False) -> None:
        self._served = frozenset(_configured_host(name) for name in names)
        self._any_address = any_address
        self._seen: dict[bytes, Authority] = {}

    @classmethod
    def listening_on(cls, interfaces: Iterable[str], names: Iterable[str] = ()) -> HostList:
        """The default: loopback, and the addresses that are listened on.

        :param interfaces: addresses; ``""``, ``0.0.0.0`` and ``::`` stand for all of the machine's.
        :param names: further names.
        """
        interfaces = set(interfaces)
        everywhere = {"", "0.0.0.0", "::", "[::]"}
        return cls([*LOOPBACK, *names, *(interfaces - everywhere)], bool(interfaces & everywhere))

    def __str__(self) -> str:
        return ", ".join([*sorted(map(str, self._served)), *["any IP address"] * self._any_address])

    def serves(self, host: Authority) -> bool:
        """Whether the site answers to this name."""
        return (
            Authority(host.name) in self._served
            or host in self._served
            or (host.port is None and self._serves_default_port(host))
            or (self._any_address and host.is_address)
        )

    def _serves_default_port(self, host: Authority) -> bool:
        return any(Authority(host.name, port) in self._served for port in _DEFAULT_PORTS.values())

    def check(self, values: Sequence[bytes]) -> Authority:
        """Read the ``Host`` headers of one request.

        :raises RealtimeError: ``bad_request`` where there isn't exactly one of valid syntax, else ``unknown_host``.
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
        if len(self._seen) < _REMEMBERED:
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
    """Bring a configured origin into the form in which browsers send it.

    ``https://Example.com:443/`` becomes ``https://example.com``. ``*`` stays and means every origin but ``null``;
    ``null`` stays and means pages without an origin of their own: files, and frames in a sandbox, which any site can
    make.

    :raises ValueError: it is no origin; the message says what was wrong and what would be right.
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
    """The one form of an origin, as browsers serialise it (RFC 6454, section 6.2).

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
    """Pages of which origins may use the site: its own, and those that are listed.

    :param allowed: see :func:`normalise_origin`.
    :raises ValueError: one of them is no origin.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._listed = frozenset(map(normalise_origin, allowed))

    def __str__(self) -> str:
        return ", ".join(["same origin", *sorted(self._listed)])

    @property
    def lists_any(self) -> bool:
        """Whether other origins than the site's own may use it."""
        return bool(self._listed)

    def shares(self, origin: bytes) -> bool:
        """Whether an ``Origin`` header's value is listed, so that its pages may read answers."""
        normal = _sent(origin)
        return normal is not None and self._lists(normal)

    def permits(self, origin: bytes | None, host: bytes, secure: bool) -> bool:
        """Whether a request may be served.

        Where a proxy ends TLS, a page of ``https://example.com`` reaches us over plain HTTP. So a plain connection
        takes both schemes for the same host and port, and only a connection that is itself secure insists on https.

        :param origin: the ``Origin`` header, or None where there is none: no browser's cross-site request.
        :param host: the ``Host`` header that the request came with.
        :param secure: whether the connection to us is TLS.
        """
        if origin is None:
            return True
        normal = _sent(origin)
        return normal is not None and (self._lists(normal) or _is_same(normal, host, secure))

    def _lists(self, normal: str) -> bool:
        return normal in self._listed or ("*" in self._listed and normal != "null")


def explain_refusal(origins: Sequence[bytes], host: bytes) -> str:
    """Why a page was refused and what would let it in, for the log; what isn't an origin isn't repeated.

    :param host: the ``Host`` header, which was checked.
    """
    normal = _sent(origins[0]) if len(origins) == 1 else None
    if normal is None:
        return "its origin is none that a browser sends"
    return (
        f"it is of {normal}, and asked {host.decode()}. If it is yours, add --allow-origin {normal}. If both are one "
        "site, a proxy in between doesn't pass the Host header on (nginx: proxy_set_header Host $http_host; Apache: "
        "ProxyPreserveHost On)"
    )


def is_foreign(headers: Headers) -> bool:
    """Whether the headers of a request without an ``Origin`` say that a page of another origin is behind it (Fetch
    Metadata). A page that may read the answer asks with an ``Origin``; a sibling's page has an origin of its own."""
    return not _FOREIGN_SITES.isdisjoint(_lower(headers, b"Sec-Fetch-Site"))


def destination_of(headers: Headers) -> bytes:
    """What a browser wants the answer for; where it doesn't say, what is told by the types that it accepts."""
    said = _lower(headers, b"Sec-Fetch-Dest")
    if said:
        return said[-1]
    accepted = b",".join(_lower(headers, b"Accept")).replace(b" ", b"")
    return next((guess for begin, guess in _GUESSED if accepted.startswith(begin)), FOR_SCRIPTS)


def _lower(headers: Headers, name: bytes) -> list[bytes]:
    return [value.strip().lower() for value in headers.getRawHeaders(name, ())]


def _sent(origin: bytes) -> str | None:
    """What a browser's ``Origin`` header says; None where no browser would say it."""
    if origin == b"null":
        return "null"
    try:
        return _normalise(origin.decode("ascii"))
    except ValueError:
        return None


def _is_same(origin: str, host: bytes, secure: bool) -> bool:
    schemes = ("https",) if secure else ("https", "http")
    return any(origin == _own_origin(scheme, host) for scheme in schemes)


def _own_origin(scheme: str, host: bytes) -> str | None:
    return _sent(scheme.encode("ascii") + b"://" + host)
