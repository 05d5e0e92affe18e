"""The chat page, or a site's own in its place: files that are kept in memory."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType

from twisted.web.resource import Resource
from twisted.web.server import Request

from realtime_chat.http.answers import Answer, JSONResource

__all__ = [
    "CONTENT_SECURITY_POLICY",
    "NO_PAGE",
    "OWN_PAGE",
    "PageRefused",
    "PageResource",
    "check_directory",
    "put_pages",
    "read_directory",
]

OWN_PAGE = "on"
"""The package's own page."""

NO_PAGE = "off"
"""No page at all."""

_INDEX = "index.html"
_MOST_FILES = 1000
_MOST_BYTES = 64 * 1024**2

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
        "gif": b"image/gif",
        "html": b"text/html; charset=utf-8",
        "ico": b"image/x-icon",
        "jpeg": b"image/jpeg",
        "jpg": b"image/jpeg",
        "js": b"text/javascript; charset=utf-8",
        "json": b"application/json",
        "png": b"image/png",
        "svg": b"image/svg+xml",
        "txt": b"text/plain; charset=utf-8",
        "webmanifest": b"application/manifest+json",
        "webp": b"image/webp",
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


class PageRefused(ValueError):
    """A directory can't be served as the page, and a person has to act; the message says how."""


def check_directory(directory: Path) -> None:
    """See whether this can be a site's own page, without reading it.

    :raises PageRefused: it isn't a directory, or has no ``index.html``.
    """
    if not directory.is_dir():
        raise PageRefused(f"{str(directory)!r} is not a directory; right would be one that holds an {_INDEX}")
    if not (directory / _INDEX).is_file():
        raise PageRefused(f"{str(directory)!r} holds no {_INDEX}, which is what would be served at /; put one there")


def read_directory(directory: Path) -> dict[tuple[str, ...], bytes]:
    """Read all that will be served of a site's own page: the contents by their paths below ``directory``.

    Left out are names that begin with a dot, what has no content type, and directories that are symbolic links.

    :raises PageRefused: something can't be read, or it is more than can be meant.
    """
    check_directory(directory)
    found: dict[tuple[str, ...], bytes] = {}
    size = 0
    try:
        for path in _walk(directory):
            found[path.relative_to(directory).parts] = content = path.read_bytes()
            size += len(content)
            if len(found) > _MOST_FILES or size > _MOST_BYTES:
                raise PageRefused(
                    f"{str(directory)!r} holds more than {_MOST_FILES} files or {_MOST_BYTES >> 20} MiB, and all are "
                    "kept in memory; right would be a directory with the page alone"
                )
    except OSError as error:
        raise PageRefused(
            f"{str(error.filename)!r} can't be read ({error.strerror}); the daemon's user has to be allowed to"
        ) from error
    return found


def _walk(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if not path.is_symlink():
                yield from _walk(path)
        elif path.is_file() and _kind(path.name) in _TYPES:
            yield path


def _kind(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _read_package() -> dict[tuple[str, ...], bytes]:
    directory: Traversable = files("realtime_chat") / "static"
    return {(file.name,): file.read_bytes() for file in directory.iterdir() if _kind(file.name) in _TYPES}


def put_pages(root: Resource, page: str | Path = OWN_PAGE, names: Mapping[str, str] = MappingProxyType({})) -> None:
    """Put the page's files below ``root`` by their names, and each ``index.html`` at its directory's address too.

    They are read now, once; a request only ever picks one by its name.

    :param page: :data:`OWN_PAGE`, :data:`NO_PAGE` or a site's own directory.
    :param names: files that are there already, and by which name HTML beside them that says ``src="FILE"`` shall refer
        to each.
    :raises PageRefused: the directory can't be served.
    """
    if page == NO_PAGE:
        return
    for path, content in (read_directory(page) if isinstance(page, Path) else _read_package()).items():
        if len(path) > 1:
            _put(root, path, content)
        elif path[0] not in names:
            _put(root, path, _refer(content, names) if _kind(path[0]) == "html" else content)


def _put(parent: Resource, path: tuple[str, ...], content: bytes) -> None:
    *directories, name = map(os.fsencode, path)
    for directory in directories:
        if directory not in parent.children:
            parent.putChild(directory, JSONResource())
        parent = parent.children[directory]
    resource = PageResource(content, _kind(path[-1]))
    parent.putChild(name, resource)
    if path[-1] == _INDEX:
        parent.putChild(b"", resource)


def _refer(html: bytes, names: Mapping[str, str]) -> bytes:
    for name, other in names.items():
        html = html.replace(f'src="{name}"'.encode(), f'src="{other}"'.encode())
    return html
