"""The chat page: a few files, kept in memory."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from twisted.web.http import CACHED
from twisted.web.resource import Resource
from twisted.web.server import Request

from realtime_chat.http.answers import Answer, JSONResource

__all__ = ["CONTENT_SECURITY_POLICY", "PageResource", "put_pages"]

CONTENT_SECURITY_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_TYPES = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}


class PageResource(JSONResource):
    """One file.

    :param kind: its ending, which says what it is.
    """

    isLeaf = True

    def __init__(self, content: bytes, kind: str) -> None:
        super().__init__()
        self._content = content
        self._type = _TYPES[kind]
        self._tag = b'"%b"' % hashlib.sha256(content).hexdigest()[:32].encode()

    def render_GET(self, request: Request) -> Answer:
        headers = request.responseHeaders
        headers.setRawHeaders(b"Cache-Control", [b"no-cache"])
        headers.setRawHeaders(b"Content-Security-Policy", [CONTENT_SECURITY_POLICY])
        headers.setRawHeaders(b"Referrer-Policy", [b"no-referrer"])
        if request.setETag(self._tag) is CACHED:
            return Answer(b"", 304, self._type)
        return Answer(self._content, 200, self._type)


def put_pages(root: Resource) -> None:
    """Put the page's files below ``root``, and the page itself at its address."""
    for file in (files("realtime_chat") / "static").iterdir():
        kind = file.name.rpartition(".")[2]
        if kind in _TYPES:
            root.putChild(file.name.encode(), PageResource(file.read_bytes(), kind))
    root.putChild(b"", root.children[b"index.html"])
