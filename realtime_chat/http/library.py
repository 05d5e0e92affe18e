"""``realtime.js``, the client library, which pages of every site may load."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from twisted.web.resource import Resource

from realtime_chat.http.pages import PageResource

__all__ = ["NAME", "put_library"]

NAME = "realtime.js"
_TYPES = "realtime.d.ts"

# The script contains no data, so every page may load it. The other addresses check who may use the daemon.
_PUBLIC_HEADERS = ((b"Cross-Origin-Resource-Policy", b"cross-origin"), (b"Referrer-Policy", b"no-referrer"))
_REVALIDATE = (b"Cache-Control", b"no-cache")
_IMMUTABLE = (b"Cache-Control", b"public, max-age=31536000, immutable")


def put_library(root: Resource) -> str:
    """Put the library and its TypeScript types below ``root``.

    The library is also put at a name that changes with its content, so browsers may cache it forever.

    :returns: that name, ``realtime.HASH.js``.
    """
    static = files("realtime_chat") / "static"
    content = static.joinpath(NAME).read_bytes()
    root.putChild(
        _TYPES.encode(), PageResource(static.joinpath(_TYPES).read_bytes(), "txt", (*_PUBLIC_HEADERS, _REVALIDATE))
    )
    hashed = f"realtime.{hashlib.sha256(content).hexdigest()[:16]}.js"
    for name, policy in ((NAME, _REVALIDATE), (hashed, _IMMUTABLE)):
        root.putChild(name.encode(), PageResource(content, "js", (*_PUBLIC_HEADERS, policy)))
    return hashed
