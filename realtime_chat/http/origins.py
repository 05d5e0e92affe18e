"""Which origins' pages may use the site and read its answers (CORS), and what a browser says of a request.

A page of another site sends a wrong ``Origin``. Clients that aren't browsers send no ``Origin``. They could send any,
so refusing them would protect nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from twisted.logger import Logger
from twisted.web.http_headers import Headers

from realtime_chat.http.host_list import DEFAULT_PORTS, Authority
from realtime_chat.values.errors import RealtimeError

FOR_SCRIPTS = b"empty"
"""The destination of a script's request (Fetch, section 2.2.5). Requests without a browser count as a script's."""

FOREIGN_PAGE = (
    "a page of another site or origin asked for this in a way that no script of it can read; what it may read it asks "
    "for with an Origin header, as fetch and EventSource do, and whoever runs this can list it with --allow-origin"
)
"""Why a request is refused that another origin's page caused without an ``Origin`` header."""

_FOREIGN_SITES = frozenset((b"cross-site", b"same-site"))
_ACCEPT_DESTINATIONS = (
    (b"image/", b"image"),
    (b"text/html,application/xhtml+xml", b"document"),
    (b"text/css", b"style"),
)
"""How an element's ``Accept`` header begins, in browsers without ``Sec-Fetch-Dest``. Java sends text/html alone."""

_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,63})://(.*)", re.DOTALL)
_APPLICATION_HOSTS = ("", ".")
"""Hosts in the origins of applications: ``file://`` (Cordova) and ``app://.`` (Electron). No site can have them."""

_EXPOSED_HEADERS = b"Retry-After"
_PREFLIGHT = (
    (b"Access-Control-Allow-Methods", b"GET, POST, PUT, DELETE"),
    (b"Access-Control-Allow-Headers", b"Content-Type, Realtime-Client, Last-Event-ID, Authorization"),
    (b"Access-Control-Max-Age", b"600"),
)
_OTHER_SITES = "pages of other sites can't use this server; whoever runs it can list an origin with --allow-origin"


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
    if scheme not in DEFAULT_PORTS and rest in _APPLICATION_HOSTS:
        return f"{scheme}://{rest}"
    host = Authority.parse(rest)
    return f"{scheme}://{Authority(host.name) if host.port == DEFAULT_PORTS.get(scheme) else host}"


class OriginPolicy:
    """Which origins' pages may use the site: its own, and those that are listed.

    :param allowed: origins, as :func:`normalise_origin` takes them.
    :param public: paths that pages of every origin may read.
    :raises ValueError: one of them isn't an origin.
    :ivar varies: whether answers differ by origin, which the header ``Vary`` says to caches.
    """

    _log = Logger()

    def __init__(self, allowed: Iterable[str] = (), public: frozenset[bytes] = frozenset()) -> None:
        self._listed = frozenset(map(normalise_origin, allowed))
        self._public = public
        self.varies = bool(self._listed)

    def __str__(self) -> str:
        return ", ".join(["same origin", *sorted(self._listed)])

    def lists(self, origin: bytes) -> bool:
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

    def set_vary(self, response: Headers) -> None:
        """Say that the answer differs by origin."""
        response.setRawHeaders(b"Vary", [b"Origin"])

    def check(
        self, response: Headers, origins: Sequence[bytes], path: bytes, host: bytes, secure: bool, preflight: bool
    ) -> bool:
        """Check a request's ``Origin``, and set the headers that let a page read the answer.

        :param response: the headers of the answer. They are set for a refusal too.
        :param origins: the values of the request's ``Origin`` headers, at least one.
        :param path: the request's path, without its query.
        :param host: the request's ``Host`` header, which was checked before.
        :param secure: whether the connection uses TLS.
        :param preflight: whether the method is ``OPTIONS``.
        :returns: whether the page is of another origin that is listed.
        :raises RealtimeError: ``bad_origin``.
        """
        if path in self._public:
            response.setRawHeaders(b"Access-Control-Allow-Origin", [b"*"])
            return False
        if len(origins) > 1 or not self.permits(origins[0], host, secure):
            if not preflight:  # the error tells no secret, and a page that reads it can say what is wrong
                response.setRawHeaders(b"Access-Control-Allow-Origin", [b"*"])
            self._log.warn("a page was refused: {why}", why=_explain_refusal(origins, host))
            raise RealtimeError("bad_origin", _OTHER_SITES)
        is_listed = self.lists(origins[0])
        if is_listed:
            response.setRawHeaders(b"Access-Control-Allow-Origin", [origins[0]])
            response.setRawHeaders(b"Access-Control-Expose-Headers", [_EXPOSED_HEADERS])
        return is_listed


def allow_preflight(response: Headers) -> None:
    """Set the headers that answer a preflight request."""
    for name, value in _PREFLIGHT:
        response.setRawHeaders(name, [value])


def allow_credentials(response: Headers) -> None:
    """Let pages of a listed origin read an answer to a request with credentials, which nothing here reads."""
    response.setRawHeaders(b"Access-Control-Allow-Credentials", [b"true"])


def _explain_refusal(origins: Sequence[bytes], host: bytes) -> str:
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
