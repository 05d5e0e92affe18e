"""The chat page: a few files, kept in memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import MappingProxyType

from twisted.web.resource import Resource
from twisted.web.server import Request

from realtime_chat.http.answers import Answer, JSONResource

__all__ = ["CONTENT_SECURITY_POLICY", "PageResource", "put_pages"]

# 'self' covers WebSockets of the same host too, in every browser since 2022; older ones are left with long poll.
CONTENT_SECURITY_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = (
    (b"Cache-Control", b"no-cache"),
    (b"Content-Security-Policy", CONTENT_SECURITY_POLICY),
    (b"Referrer-Policy", b"no-referrer"),
    (b"X-Frame-Options", b"DENY"),
)

_TYPES = MappingProxyType(
    {
        "css": b"text/css; charset=utf-8",
        "html": b"text/html; charset=utf-8",
        "ico": b"image/x-icon",
        "js": b"text/javascript; charset=utf-8",
        "png": b"image/png",
        "svg": b"image/svg+xml",
        "txt": b"text/plain; charset=utf-8",
        "webmanifest": b"application/manifest+json",
    }
)

_TAGS = re.compile(rb'(?:W/)?("[^"]*")|(\*)')


class PageResource(JSONResource):
    """One file.

    :param kind: its ending, which says what it is.
    :param headers: what its answers carry besides their type and tag.
    :raises KeyError: there is no content type for it.
    """

    isLeaf = True

    def __init__(self, content: bytes, kind: str, headers: Sequence[tuple[bytes, bytes]] = _HEADERS) -> None:
        super().__init__()
        self._headers = headers
        self._content = content
        self._type = _TYPES[kind]
        self._tag = b'"%b"' % hashlib.sha256(content).hexdigest()[:32].encode()

    def render_GET(self, request: Request) -> Answer:
        """The file, or nothing where the browser has it already."""
        for name, value in (*self._headers, (b"ETag", self._tag)):
            request.responseHeaders.setRawHeaders(name, [value])
        if self._is_known(request):
            return Answer(b"", 304)
        return Answer(self._content, 200, self._type)

    def _is_known(self, request: Request) -> bool:
        """Whether ``If-None-Match`` lists our tag; proxies that compress make it a weak one (RFC 9110, 13.1.2)."""
        given = b",".join(request.requestHeaders.getRawHeaders(b"If-None-Match", ()))
        return any(tag == self._tag or star for tag, star in _TAGS.findall(given))


def put_pages(
    root: Resource, directory: Traversable | None = None, names: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Put the page's files below ``root`` by their names, and ``index.html`` at its own address too.

    They are read now, once; a request only ever picks one by its name. What has no content type isn't served.

    :param directory: where they are; the package's own ``static`` by default.
    :param names: files that are there already, and by which name HTML that says ``src="FILE"`` shall refer to each.
    """
    for file in (directory or files("realtime_chat") / "static").iterdir():
        kind = file.name.rpartition(".")[2]
        if kind in _TYPES and not file.name.startswith(".") and file.name not in names:
            content = file.read_bytes()
            root.putChild(file.name.encode(), PageResource(_refer(content, names) if kind == "html" else content, kind))
    root.putChild(b"", root.children[b"index.html"])


def _refer(html: bytes, names: Mapping[str, str]) -> bytes:
    for name, other in names.items():
        html = html.replace(f'src="{name}"'.encode(), f'src="{other}"'.encode())
    return html
