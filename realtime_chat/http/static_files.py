"""Files that are kept in memory: the client library, and the chat page or an operator's own in its place."""

from __future__ import annotations

import hashlib
import html
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType

from twisted.web.resource import Resource
from twisted.web.server import Request

from realtime_chat.http.answers import Answer, JSONResource

OWN_PAGE = "on"
"""Serve the package's own page."""

NO_PAGE = "off"
"""Serve no page."""

LIBRARY = "realtime.js"
"""The client library's file. Its TypeScript types are beside it."""

_LIBRARY_TYPES = "realtime.d.ts"
_STATIC: Traversable = files("realtime_chat") / "static"
_INDEX = "index.html"
_MAX_FILES = 1000
_MAX_BYTES = 64 * 1024**2

_CONNECT = b"connect-src 'self'"
# 'self' also allows WebSockets to the same host, in every browser since 2022. Older browsers use long polls.
CONTENT_SECURITY_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; " + _CONNECT + b"; img-src 'self' data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

# The script contains no data, so every page may load it. The other addresses check who may use the daemon.
_PUBLIC_HEADERS = ((b"Cross-Origin-Resource-Policy", b"cross-origin"), (b"Referrer-Policy", b"no-referrer"))
_REVALIDATE = (b"Cache-Control", b"no-cache")
_IMMUTABLE = (b"Cache-Control", b"public, max-age=31536000, immutable")


def _headers(policy: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return (
        _REVALIDATE,
        (b"Content-Security-Policy", policy),
        (b"Referrer-Policy", b"no-referrer"),
        (b"X-Frame-Options", b"SAMEORIGIN"),
    )


_HEADERS = _headers(CONTENT_SECURITY_POLICY)

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

_ORIGIN = re.compile(r"https?://[^/]+")
_TAGS = re.compile(rb'(?:W/)?("[^"]*")|(\*)')


class FileResource(JSONResource):
    """One file.

    :param kind: the file name's extension, which decides the content type.
    :param headers: headers of its answers, besides the type and the ETag.
    :raises KeyError: the extension has no content type.
    """

    isLeaf = True

    def __init__(self, content: bytes, kind: str, headers: Sequence[tuple[bytes, bytes]] = _HEADERS) -> None:
        super().__init__()
        self._headers = headers
        self._content = content
        self._type = _TYPES[kind]
        self._tag = b'"%b"' % hashlib.sha256(content).hexdigest()[:32].encode()

    def render_GET(self, request: Request) -> Answer:
        """Return the file, or status 304 if the browser has it."""
        for name, value in (*self._headers, (b"ETag", self._tag)):
            request.responseHeaders.setRawHeaders(name, [value])
        if self._has_etag(request):
            return Answer(b"", 304)
        return Answer(self._content, 200, self._type)

    def _has_etag(self, request: Request) -> bool:
        """Return whether ``If-None-Match`` lists our ETag. Proxies that compress make it weak (RFC 9110, 13.1.2)."""
        given = b",".join(request.requestHeaders.getRawHeaders(b"If-None-Match", ()))
        return any(tag == self._tag or star for tag, star in _TAGS.findall(given))


def put_library(root: Resource) -> str:
    """Put the library and its TypeScript types below ``root``.

    The library is also put at a name that changes with its content, so browsers may cache it forever.

    :returns: that name, ``realtime.HASH.js``.
    """
    content, types = _read_package_file(LIBRARY), _read_package_file(_LIBRARY_TYPES)
    root.putChild(_LIBRARY_TYPES.encode(), FileResource(types, "txt", (*_PUBLIC_HEADERS, _REVALIDATE)))
    hashed = f"realtime.{hashlib.sha256(content).hexdigest()[:16]}.js"
    for name, policy in ((LIBRARY, _REVALIDATE), (hashed, _IMMUTABLE)):
        root.putChild(name.encode(), FileResource(content, "js", (*_PUBLIC_HEADERS, policy)))
    return hashed


class PageRefused(ValueError):
    """A directory can't be served as the page. The message says why, and what would be right."""


def check_directory(directory: Path) -> None:
    """Check that a directory can be served as the page, without reading its files.

    :raises PageRefused: it isn't a directory, or has no ``index.html``.
    """
    if not directory.is_dir():
        raise PageRefused(f"{str(directory)!r} is not a directory; right would be one that holds an {_INDEX}")
    if not (directory / _INDEX).is_file():
        raise PageRefused(f"{str(directory)!r} holds no {_INDEX}, which is what would be served at /; put one there")


def read_directory(directory: Path) -> dict[tuple[str, ...], bytes]:
    """Read the files of an operator's page, and return their contents by path below ``directory``.

    Names that begin with a dot, files without a content type, and links to directories are left out.

    :raises PageRefused: a file can't be read, or there are too many or too large files.
    """
    check_directory(directory)
    found: dict[tuple[str, ...], bytes] = {}
    size = 0
    try:
        for path in _walk(directory):
            found[path.relative_to(directory).parts] = content = path.read_bytes()
            size += len(content)
            if len(found) > _MAX_FILES or size > _MAX_BYTES:
                raise PageRefused(
                    f"{str(directory)!r} holds more than {_MAX_FILES} files or {_MAX_BYTES >> 20} MiB, and all are "
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


def _read_package(token_url: str | None) -> dict[tuple[str, ...], bytes]:
    found: dict[tuple[str, ...], bytes] = {
        (file.name,): _read_package_file(file.name) for file in _STATIC.iterdir() if _kind(file.name) in _TYPES
    }
    if token_url is not None:
        body = f'<body data-token-url="{html.escape(token_url)}">'
        found[_INDEX,] = found[_INDEX,].replace(b"<body>", body.encode())
    return found


@cache  # or a daemon that reads its page again would serve that of a newer version
def _read_package_file(name: str) -> bytes:
    return _STATIC.joinpath(name).read_bytes()


def put_page(
    root: Resource,
    page: str | Path = OWN_PAGE,
    names: Mapping[str, str] = MappingProxyType({}),
    token_url: str | None = None,
) -> None:
    """Read the page's files, and put them below ``root``. Put each ``index.html`` at its directory's address too.

    :param page: :data:`OWN_PAGE`, :data:`NO_PAGE` or an operator's directory.
    :param names: files that ``root`` has already, each with its other name. In HTML, ``src="FILE"`` is changed to that.
    :param token_url: where :data:`OWN_PAGE` asks for tokens: a path, or a URL, to whose origin it may then connect.
    :raises PageRefused: the directory can't be served.
    """
    if page == NO_PAGE:
        return
    headers = _headers(_policy_for(token_url))
    for path, content in (read_directory(page) if isinstance(page, Path) else _read_package(token_url)).items():
        if len(path) > 1:
            _put(root, path, content, headers)
        elif path[0] not in names:
            _put(root, path, _replace_sources(content, names) if _kind(path[0]) == "html" else content, headers)


def _policy_for(token_url: str | None) -> bytes:
    origin = _ORIGIN.match(token_url or "")
    allowed = _CONNECT if origin is None else b"%b %b" % (_CONNECT, origin[0].encode())
    return CONTENT_SECURITY_POLICY.replace(_CONNECT, allowed)


def _put(parent: Resource, path: tuple[str, ...], content: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
    *directories, name = map(os.fsencode, path)
    for directory in directories:
        if directory not in parent.children:
            parent.putChild(directory, JSONResource())
        parent = parent.children[directory]
    resource = FileResource(content, _kind(path[-1]), headers)
    parent.putChild(name, resource)
    if path[-1] == _INDEX:
        parent.putChild(b"", resource)


def _replace_sources(page: bytes, names: Mapping[str, str]) -> bytes:
    for name, other in names.items():
        page = page.replace(f'src="{name}"'.encode(), f'src="{other}"'.encode())
    return page
