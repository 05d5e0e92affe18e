"""Which client sent a request, and whether it wants its answer as JSON or as a script (JSONP)."""

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

CLIENT_HEADER = b"Realtime-Client"

Wrap = Callable[[Answer], Answer]

_CALLBACK = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*(\.[A-Za-z_$][A-Za-z0-9_$]*)*")


def client_of(request: Request) -> str | None:
    """Return the client id of a request, unchecked, or None.

    It is in the header, or in the URL if a page can't set headers.

    :raises RealtimeError: ``bad_request``.
    """
    header = request.requestHeaders.getRawHeaders(CLIENT_HEADER)
    if header:
        return str(header[-1].decode("ascii", "replace"))
    return one(request.args, b"client")


def known_client_of(request: Request, knows: Callable[[str], bool]) -> str | None:
    """Return the client id of a reader, or None if this server didn't issue it. The reader then gets a new one.

    :param knows: returns whether this server issued a client id.
    :raises RealtimeError: ``bad_request``.
    """
    client = client_of(request)
    return client if client is not None and knows(client) else None


def user_of(request: Request, identities: Identities) -> User:
    """Return the user who sent a request: the guest of its client id, or the anonymous user.

    :raises RealtimeError: ``unauthorized`` or ``bad_request``.
    """
    client = client_of(request)
    if client is None:
        return ANONYMOUS
    return identities.guest(identities.check(client), one(request.args, b"name"))


def asks_for_script(request: Request, jsonp: bool) -> bool:
    """Return whether a request asks for JSONP, and JSONP is on.

    :param jsonp: whether JSONP is on.
    """
    return jsonp and b"callback" in request.args


def is_readable(request: Request, jsonp: bool) -> bool:
    """Return whether a script can read the answer. It can't if an image, a frame or a link asked for it.

    If the browser doesn't say what asked, the answer counts as readable. Old browsers don't say it, and none does over
    plain HTTP from another machine.

    :param jsonp: whether JSONP is on.
    """
    destination = getattr(request, "destination", FOR_SCRIPTS)
    return destination == FOR_SCRIPTS or (destination == b"script" and asks_for_script(request, jsonp))


def wrap_for(request: Request, jsonp: bool) -> Wrap:
    """Return the function that wraps a JSON answer in a script, if the request names a ``callback``.

    :param jsonp: whether JSONP is on.
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
    """Return a JSON answer unchanged."""
    return answer


def _script(callback: bytes, answer: Answer) -> Answer:
    """Return a script that calls ``callback`` with the JSON. Its status is 200, as browsers drop any other script."""
    # The comment keeps content sniffers from taking the callback's name for another file type ("Rosetta Flash").
    # JSON may contain two line separators that scripts before ES2019 may not.
    text = answer.body.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return Answer(b"/**/%b(%b);" % (callback, text), 200, b"application/javascript; charset=utf-8")
