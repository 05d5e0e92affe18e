"""``realtime.js``, which pages of every site may load."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from twisted.web.resource import Resource

from realtime_chat.http.pages import PageResource

__all__ = ["NAME", "put_library"]

NAME = "realtime.js"
_TYPES = "realtime.d.ts"

# Whoever may use the daemon is a question for its other addresses: this is a script that tells nothing.
_FOR_ALL = ((b"Cross-Origin-Resource-Policy", b"cross-origin"), (b"Referrer-Policy", b"no-referrer"))
_ASK_AGAIN = (b"Cache-Control", b"no-cache")
_FOR_GOOD = (b"Cache-Control", b"public, max-age=31536000, immutable")


def put_library(root: Resource) -> str:
    """Put the library below ``root`` by its name, and by one that changes with its content and may be kept for good;
    and its types for TypeScript.

    :returns: the latter name, ``realtime.HASH.js``.
    """
    static = files("realtime_chat") / "static"
    content = static.joinpath(NAME).read_bytes()
    root.putChild(_TYPES.encode(), PageResource(static.joinpath(_TYPES).read_bytes(), "txt", (*_FOR_ALL, _ASK_AGAIN)))
    hashed = f"realtime.{hashlib.sha256(content).hexdigest()[:16]}.js"
    for name, policy in ((NAME, _ASK_AGAIN), (hashed, _FOR_GOOD)):
        root.putChild(name.encode(), PageResource(content, "js", (*_FOR_ALL, policy)))
    return hashed
