"""Makes ``realtime_chat/static/realtime.js`` of the files in ``src``: ``python browser/build.py``.

The same sources give the same bytes, and a test holds the built file to them.
"""

from __future__ import annotations

from pathlib import Path

import rjsmin

BUILT = Path(__file__).parents[1] / "realtime_chat" / "static" / "realtime.js"

FILES = (
    *("basics", "backoff", "memory", "emitter"),
    *("websocket", "http", "sse", "poll", "jsonp"),
    *("link", "outbox", "presence", "room", "connection", "wakeful", "realtime"),
)
"""In the order in which they follow each other: one function is around all of them."""

_HEAD = "(function (window) {\n  'use strict';\n"
_TAIL = "}(window));\n"
_NOTICE = "/* realtime_chat: rooms on any page. MIT licence. Its sources are in browser/src. */\n"


def source() -> str:
    """All sources as one script, comments included."""
    directory = Path(__file__).parent / "src"
    return _HEAD + "".join((directory / f"{name}.js").read_text("utf-8") for name in FILES) + _TAIL


def build() -> bytes:
    """The script as it is served."""
    return (_NOTICE + rjsmin.jsmin(source()) + "\n").encode()


if __name__ == "__main__":
    BUILT.write_bytes(build())
