"""Cross-origin resource sharing (CORS): which pages may send requests and read the answers."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger
from twisted.web.http_headers import Headers

from realtime_chat.http.origins import OriginPolicy, explain_refusal
from realtime_chat.values.errors import RealtimeError

__all__ = ["FOREIGN_PAGE", "CORSPolicy", "allow_every_page", "allow_preflight"]

_METHODS = b"GET, POST"
_REQUEST_HEADERS = b"Content-Type, Realtime-Client, Last-Event-ID, Authorization"
_EXPOSED_HEADERS = b"Retry-After"
_MAX_AGE = b"600"
_OTHER_SITES = "pages of other sites can't use this server; whoever runs it can list an origin with --allow-origin"

FOREIGN_PAGE = (
    "a page of another site or origin asked for this in a way that no script of it can read; what it may read it asks "
    "for with an Origin header, as fetch and EventSource do, and whoever runs this can list it with --allow-origin"
)
"""Why a request is refused that another origin's page caused without an ``Origin`` header."""


class CORSPolicy:
    """Checks ``Origin`` headers, and sets the headers that let a page read the answer.

    :param origins: the origins whose pages may use the site.
    :param public: paths that pages of every origin may read.
    """

    _log = Logger()

    def __init__(self, origins: OriginPolicy, public: frozenset[bytes] = frozenset()) -> None:
        self._origins = origins
        self._public = public
        self.varies = origins.lists_any
        """Whether answers differ by origin, which the header ``Vary`` says to caches."""

    def set_vary(self, response: Headers) -> None:
        """Set ``Vary`` if answers differ by origin."""
        if self.varies:
            response.setRawHeaders(b"Vary", [b"Origin"])

    def is_public(self, path: bytes) -> bool:
        """Whether pages of every origin may read what is at ``path``."""
        return path in self._public

    def check(self, response: Headers, origins: Sequence[bytes], host: bytes, secure: bool, preflight: bool) -> bool:
        """Check a request's ``Origin``, and set the answer's headers.

        :param response: the headers of the answer. They are set for a refusal too.
        :param origins: the values of the request's ``Origin`` headers, at least one.
        :param host: the request's ``Host`` header, which was checked before.
        :param secure: whether the connection uses TLS.
        :param preflight: whether the method is ``OPTIONS``.
        :returns: whether the page is of another origin that is listed.
        :raises RealtimeError: ``bad_origin``.
        """
        origin = origins[0]
        if len(origins) > 1 or not self._origins.permits(origin, host, secure):
            if not preflight:  # the error tells no secret, and a page that reads it can say what is wrong
                allow_every_page(response)
            self._log.warn("a page was refused: {why}", why=explain_refusal(origins, host))
            raise RealtimeError("bad_origin", _OTHER_SITES)
        is_listed = self._origins.shares(origin)
        if is_listed:
            response.setRawHeaders(b"Access-Control-Allow-Origin", [origin])
            response.setRawHeaders(b"Access-Control-Expose-Headers", [_EXPOSED_HEADERS])
        return is_listed


def allow_every_page(response: Headers) -> None:
    """Let pages of every origin read the answer."""
    response.setRawHeaders(b"Access-Control-Allow-Origin", [b"*"])


def allow_preflight(response: Headers) -> None:
    """Set the headers that answer a preflight request."""
    response.setRawHeaders(b"Access-Control-Allow-Methods", [_METHODS])
    response.setRawHeaders(b"Access-Control-Allow-Headers", [_REQUEST_HEADERS])
    response.setRawHeaders(b"Access-Control-Max-Age", [_MAX_AGE])
