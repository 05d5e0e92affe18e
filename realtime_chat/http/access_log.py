"""The access log: one line a request in the combined log format, without secrets and with every byte escaped."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from typing import TextIO
from urllib.parse import unquote_to_bytes

from twisted.logger import Logger
from twisted.web import http

from realtime_chat.logs import reopen

_SECRET_PARAMETERS = frozenset((b"client", b"reader", b"token", b"access_token", b"commands", b"sid"))
_MAY_HOLD_SECRETS = re.compile(rb"(?i)%|client|reader|token|commands|sid")
_PARAMETER_ENDS = re.compile(rb"([?&#])")
_PARAMETER_BEGINS = re.compile(rb"(?i)(?:^|;|%(?:25)*(?:3f|26|3b|23))([^=;]{1,64}?)(=|%(?:25)*3d)")
"""The name of a parameter, also where a ``?``, ``&``, ``;``, ``#`` or ``=`` was escaped by mistake."""

_NAME_ENDS = re.compile(rb"[?&;#/]")
_SECRETS = re.compile(rb"(?:eyJ[A-Za-z0-9_-]{20,}(?:\.[A-Za-z0-9_-]*)*|A[Zp]jEC[A-Za-z0-9_-]{20,})")
"""A token, as its JSON begins in base64url; and a sealed client and its reader, by their first bytes."""

_REDACTED = b"REDACTED"
_MAX_QUOTED = 4096
"""Bytes of one quoted field in the access log. Escaped, they can take four times as many characters."""


class AccessLog:
    """A file with one line a request.

    It replaces Twisted's own log, which keeps a timer running and falls back to the program's log without a path.

    :param path: the file; None for no log. :meth:`open` opens it; the first :meth:`write` does so otherwise.
    :param time: returns the seconds since 1970.
    """

    _log = Logger()

    def __init__(self, path: str | None, time: Callable[[], float]) -> None:
        self.path = path
        self._time = time
        self._file: TextIO | None = None
        self._is_broken = False

    def open(self) -> None:
        """Open the file, unless it is open.

        :raises OSError:
        """
        if self._file is None and self.path is not None:
            self._file = _open_private(self.path)

    def reopen(self) -> None:
        """Open the path again, after a rotation. If that fails, keep the old file and log the error."""
        if self._file is None:
            return
        try:
            reopen(self._file)
        except OSError as error:
            self._log.error("the access log can't be opened again: {error}", error=error)

    def move(self, path: str | None) -> None:
        """Write to another file from now on, or to none.

        :raises OSError: it can't be opened; then nothing has changed.
        """
        if path != self.path:
            file = None if path is None else _open_private(path)
            self.close()
            self.path, self._file = path, file

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, request: http.Request) -> None:
        """Write a request's line. If writing fails, log the first error, and raise nothing."""
        if self.path is None:
            return
        try:
            self.open()
            when = http.datetimeToLogString(self._time())
            if self._file is not None:
                self._file.write(access_line(when, request) + "\n")
            self._is_broken = False
        except OSError as error:
            if not self._is_broken:
                self._log.error("the access log can't be written: {error}", error=error)
            self._is_broken = True


def _open_private(path: str) -> TextIO:
    """Open a file to append lines of ASCII, which its owner alone may read."""
    return open(path, "a", 1, encoding="ascii", newline="\n", opener=partial(os.open, mode=0o600))


def access_line(when: str, request: http.Request) -> str:
    """Format a request in the combined log format. Secrets are redacted, and all that the client sent is escaped.

    :param when: the formatted time, with its brackets.
    """
    address = getattr(request, "client_address", None)
    target = _redact(request.uri) if request.uri.startswith(b"/") else b"-"
    fields = (
        (address and address.host) or "-",
        "- -",
        when,
        _quote(b" ".join((request.method, target, request.clientproto))),
        str(request.code),
        str(request.sentLength or "-"),
        _quote(_redact(request.getHeader(b"Referer") or b"-")),
        _quote(request.getHeader(b"User-Agent") or b"-"),
    )
    return " ".join(fields)


def _redact(url: bytes) -> bytes:
    """Replace the values of query parameters that are secrets, or may hold them."""
    if not _MAY_HOLD_SECRETS.search(url):
        return url
    return b"".join(map(_redact_parameter, _PARAMETER_ENDS.split(url)))


def _redact_parameter(text: bytes) -> bytes:
    """Replace the value of a parameter, and what follows up to the next one."""
    for match in _PARAMETER_BEGINS.finditer(text):
        name = match[1]
        while b"%" in name and name != (name := unquote_to_bytes(name)):
            pass
        last = _NAME_ENDS.split(name.replace(b"+", b" "))[-1]
        if last.strip().lower() in _SECRET_PARAMETERS:
            return text[: match.end()] + _REDACTED
    return text


def _quote(text: bytes) -> str:
    """Quote any bytes as printable ASCII, without tokens and sealed clients. Very long text is cut."""
    text = _SECRETS.sub(_REDACTED, text)
    cut = text[:_MAX_QUOTED]
    escaped = "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in cut)
    return f'"{escaped}..."' if len(text) > _MAX_QUOTED else f'"{escaped}"'
