"""The heads of plain requests without a body, as they come in one piece: nearly all that come.

A client that polls sends the same header lines byte for byte each time, and all who poll a room send the same first
line. So both are read once, where what was read of the same bytes can be had again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar, overload

from twisted.web.http_headers import Headers

from realtime_chat.http.subscribe_params import Parameters, memoized, read_query
from realtime_chat.values.errors import RealtimeError

__all__ = ["CachedHeaders", "Target", "read_headers", "read_line", "split_whole"]

D = TypeVar("D")

_HEADER = re.compile(rb"([A-Za-z0-9-]+): ?([!-~](?:[ -~]*[!-~])?)\r\n")
_LINE = re.compile(rb"GET (/[!-~]*) HTTP/1\.1")
_WHOLE = re.compile(
    _LINE.pattern
    + rb"\r\n((?:(?!(?i:Content-Length|Transfer-Encoding|Expect):)"
    + _HEADER.pattern.replace(b"([", b"(?:[")
    + rb")*)\r\n"
)


class Target(NamedTuple):
    """What the first line of a GET asks for.

    :param uri: path and query, as they were sent.
    :param args: the query's; they are shared.
    """

    uri: bytes
    path: bytes
    args: Parameters


@memoized
def read_line(line: bytes) -> Target | None:
    """Read a request's first line; None where it is no plain GET's, or its query can't be read."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    path, _, query = match[1].partition(b"?")
    try:
        return Target(match[1], path, read_query(query))
    except RealtimeError:
        return None


def split_whole(data: bytes) -> tuple[bytes, bytes] | None:
    """The target and the header lines of a request that is all of ``data``, has no body and nothing odd in it; None
    for every other."""
    match = _WHOLE.fullmatch(data)
    return None if match is None else (match[1], match[2])


def read_headers(lines: bytes, most: int) -> Headers | None:
    """Read header lines that :func:`split_whole` gave; None for more than ``most``."""
    found = _HEADER.findall(lines)
    return None if len(found) > most else _headers(found)


def _headers(found: Iterable[tuple[bytes, bytes]]) -> Headers:
    headers = Headers()
    for name, value in found:
        headers.addRawHeader(name, value)
    return headers


class CachedHeaders(Headers):
    """Header lines that were read before, and are read again only when somebody asks.

    All requests with the same lines on a connection share it, so nothing can be put into it: what is put is lost. The
    answer to the last question is kept, as requests of a kind ask the same; the rest isn't, to cost little memory.

    :ivar lines: the lines, with the empty one at their end.
    """

    __slots__ = ("_name", "_values", "lines")

    def __init__(self, lines: bytes) -> None:
        self.lines = lines
        self._name: Any = None
        self._values: Any = None

    @property
    def _rawHeaders(self) -> dict[bytes, list[bytes]]:  # type: ignore[override]
        return self.copy()._rawHeaders

    def copy(self) -> Headers:
        """Headers that can be changed."""
        return _headers(_HEADER.findall(self.lines))

    @overload
    def getRawHeaders(self, name: Any) -> Any: ...

    @overload
    def getRawHeaders(self, name: Any, default: D) -> Any | D: ...

    def getRawHeaders(self, name: Any, default: Any = None) -> Any:  # noqa: N802
        """The values of a header, or ``default``."""
        if name is not self._name:
            self._name, self._values = name, super().getRawHeaders(name)
        return default if self._values is None else self._values
