"""Which client a request is from, and how it wants its answer: as JSON, or as a script (JSONP)."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from twisted.web.server import Request

from realtime_chat.core.identity import Identities
from realtime_chat.http.answers import Answer
from realtime_chat.http.origins import FOR_SCRIPTS
from realtime_chat.http.subscribe_params import one
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import ANONYMOUS, User

__all__ = [
    "CLIENT_HEADER",
    "Wrap",
    "as_it_is",
    "asks_for_script",
    "client_of",
    "is_readable",
    "known_client_of",
    "user_of",
    "wrap_for",
]

CLIENT_HEADER = b"Realtime-Client"

Wrap = Callable[[Answer], Answer]

_CALLBACK = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*(\.[A-Za-z_$][A-Za-z0-9_$]*)*")


def client_of(request: Request) -> str | None:
    """The client that a request names, in the header or, where a page can't set one, in the URL; not yet checked.

    :raises RealtimeError: ``bad_request``.
    """
    header = request.requestHeaders.getRawHeaders(CLIENT_HEADER)
    if header:
        return str(header[-1].decode("ascii", "replace"))
    return one(request.args, b"client")


def known_client_of(request: Request, knows: Callable[[str], bool]) -> str | None:
    """The same for who reads, and is given a new one in the place of one that wasn't issued here.

    :param knows: tells which were.
    :raises RealtimeError: ``bad_request``.
    """
    client = client_of(request)
    return client if client is not None and knows(client) else None


def user_of(request: Request, identities: Identities) -> User:
    """Who a request is from: the guest behind its client, or anonymous.

    :raises RealtimeError: ``unauthorized`` or ``bad_request``.
    """
    client = client_of(request)
    if client is None:
        return ANONYMOUS
    return identities.guest(identities.check(client), one(request.args, b"name"))


def asks_for_script(request: Request, jsonp: bool) -> bool:
    """Whether a request wants a script that gives its answer to the page, and may have one.

    :param jsonp: whether anyone may.
    """
    return jsonp and b"callback" in request.args


def is_readable(request: Request, jsonp: bool) -> bool:
    """Whether a script can read the answer: not that of an image, a frame or a link. Where the browser doesn't say, as
    old ones don't, and over plain HTTP from elsewhere none does, it is taken to be so.

    :param jsonp: whether an answer may be a script.
    """
    destination = getattr(request, "destination", FOR_SCRIPTS)
    return destination == FOR_SCRIPTS or (destination == b"script" and asks_for_script(request, jsonp))


def wrap_for(request: Request, jsonp: bool) -> Wrap:
    """What makes a JSON answer the one that a request asks for: a script, where it names a ``callback``.

    :param jsonp: whether it may have a script.
    :raises RealtimeError: ``forbidden`` or ``bad_request``.
    """
    callback = one(request.args, b"callback")
    if callback is None:
        return as_it_is
    if not jsonp:
        raise RealtimeError("forbidden", "JSONP is off on this server; its operator can start it with --allow-jsonp")
    if len(callback) > 64 or not _CALLBACK.fullmatch(callback):
        raise RealtimeError("bad_request", "callback is a plain JavaScript name of at most 64 characters")
    return partial(_script, callback.encode())


def as_it_is(answer: Answer) -> Answer:
    """Leave an answer in JSON."""
    return answer


def _script(callback: bytes, answer: Answer) -> Answer:
    """Call ``callback`` with the JSON; the status is always 200, as a page's script element sees no other."""
    # A comment first, so that no content sniffer takes the caller's name for something else (the "Rosetta Flash"
    # attack); and JSON may hold two line separators that scripts of before ES2019 may not.
    text = answer.body.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return Answer(b"/**/%b(%b);" % (callback, text), 200, b"application/javascript; charset=utf-8")
