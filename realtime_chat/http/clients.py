"""Which client sent a request, and whether it wants its answer as JSON or as a script (JSONP)."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from twisted.web.server import Request

from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import NOBODY, Identity, unknown_client
from realtime_chat.core.rate_limiter import ONE_COMMAND, ONE_GUEST, Costs
from realtime_chat.http.answers import Answer
from realtime_chat.http.fast_channel import CachedHeaders
from realtime_chat.http.origins import FOR_SCRIPTS
from realtime_chat.http.subscribe_params import one
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.json import json_in_script
from realtime_chat.values.rates import JOINS

CLIENT_HEADER = b"Realtime-Client"

Wrap = Callable[[Answer], Answer]

_CALLBACK = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*(\.[A-Za-z_$][A-Za-z0-9_$]*)*")


def client_of(request: Request) -> str | None:
    """Return the client of a request, unchecked, or None.

    It is in the header, or in the URL if a page can't set headers. The header comes first.

    :raises RealtimeError: ``bad_request``: there are two in one place.
    """
    header = request.requestHeaders.getRawHeaders(CLIENT_HEADER)
    if not header:
        return one(request.args, b"client")
    if len(header) > 1:
        raise RealtimeError("bad_request", "the header Realtime-Client is given at most once")
    return str(header[0].decode("ascii", "replace"))


def address_of(request: Request) -> str | None:
    """Return what the address of a request is limited by; None if it is not."""
    address = getattr(request, "client_address", None)
    return None if address is None else address.key


def find_identity(request: Request, hub: Hub, name: str | None = None) -> Identity | None:
    """Find out who sent a request: by a token, a client, or in an address a reader.

    :param name: the name that a guest gives itself.
    :returns: None for somebody new: there is none of these, or it is a guest's client that wasn't issued here.
    :raises RealtimeError: ``unauthorized``, ``token_expired``, ``forbidden`` or ``bad_request``.
    """
    if getattr(request, "authorization", None) is not None:
        identity = identify_bearer(request, hub)
        if identity is not None:
            return identity
    headers, args = request.requestHeaders, request.args
    in_address = b"client" in args or b"reader" in args
    cached = headers if isinstance(headers, CachedHeaders) and name is None and not in_address else None
    if cached is not None and cached.identity is not None:  # nearly all polls
        return hub.identities.look_again(cached.identity)
    client = client_of(request)
    if b"reader" in args:
        return _reader(request, hub, client)
    identity = None if client is None else _find_client(request, hub, client, name)
    if cached is not None and identity is not None and identity.client == client:  # and wasn't renewed
        cached.remember(identity)
    return identity


def take(request: Request, hub: Hub, identity: Identity, costs: Costs = ONE_COMMAND) -> None:
    """Take what a request costs from its client, its user and its address.

    :raises RateLimited: nothing is taken then.
    """
    hub.limiter.draw(identity, address_of(request), costs)


def costs_of(joins: int) -> Costs:
    """What a poll or a stream costs: a command, and a join for each room whose reading begins."""
    return (*ONE_COMMAND, (JOINS, joins)) if joins else ONE_COMMAND


def new_guest(request: Request, hub: Hub, name: str | None) -> Identity:
    """Make a new guest for a request.

    :raises RealtimeError: ``rate_limited``: too many come from its address; ``bad_request``: the name can't be one.
    """
    take(request, hub, NOBODY, ONE_GUEST)
    return hub.identities.new_guest(name)


def _find_client(
    request: Request, hub: Hub, client: str, name: str | None = None, may_be_over: bool = False
) -> Identity | None:
    """Find out whose a client is.

    :raises RealtimeError: as :meth:`Identities.find`, and ``unauthorized``: a user's client stands in the address.
    """
    identity = hub.identities.find(client, name, may_be_over)
    if identity is not None and identity.expires is not None and b"client" in request.args:
        if one(request.args, b"client") != client:
            raise RealtimeError("forbidden", "the header Realtime-Client and client= are of two clients; give one")
        raise RealtimeError(
            "unauthorized",
            "the client of a user may not stand in an address; send it in the header Realtime-Client, or read with "
            "reader= in its place",
        )
    return identity


def identity_of(request: Request, hub: Hub) -> Identity:
    """Return who sent a request that reads no room for longer: the user of its client or token, or the anonymous user.

    :raises RealtimeError: as :func:`find_identity`, and ``unauthorized`` for a client that wasn't issued here.
    """
    identity = find_identity(request, hub, one(request.args, b"name"))
    if identity is None and client_of(request) is not None:
        raise unknown_client()
    return identity or NOBODY


def identify_bearer(request: Request, hub: Hub) -> Identity | None:
    """Return the user of the token that a request brings (RFC 6750, section 2.1), or None if it brings none.

    With a client of the same user, it is that client; else a new one, as nobody may get the rights of another token of
    the same user. Other credentials are for a proxy, and count as none.

    :raises RealtimeError: ``unauthorized``, ``token_expired`` or ``forbidden``.
    """
    token = bearer_token(getattr(request, "authorization", None))
    if token is None:
        return None
    claims = hub.verify(token)
    client = client_of(request)
    if b"reader" in request.args:
        raise RealtimeError("bad_request", "give a token or reader, not both")
    before = None if client is None else _find_client(request, hub, client, may_be_over=True)
    return hub.admit(claims, before)


def bearer_token(authorization: bytes | None) -> str | None:
    """Return the token of an ``Authorization`` header (RFC 6750, section 2.1), or None if it holds none."""
    scheme, _, token = (authorization or b"").partition(b" ")
    return token.strip().decode("ascii", "replace") if scheme.lower() == b"bearer" else None


def _reader(request: Request, hub: Hub, client: str | None) -> Identity:
    if client is not None:
        raise RealtimeError("bad_request", "give client or reader, not both")
    identity = hub.identities.check(one(request.args, b"reader") or "")
    if not identity.is_reader:
        raise RealtimeError("unauthorized", "reader= is for the reader that the welcome gave, and nothing else")
    return identity


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
    if b"callback" in request.args and not jsonp:
        raise RealtimeError("forbidden", "JSONP is off on this server; its operator can start it with --allow-jsonp")
    callback = callback_of(request)
    return as_it_is if callback is None else partial(_script, callback)


def callback_of(request: Request) -> bytes | None:
    """Return the ``callback`` of a request for a script, or None if it names none.

    :raises RealtimeError: ``bad_request``: it is no name of a function.
    """
    callback = one(request.args, b"callback")
    if callback is None:
        return None
    if len(callback) > 64 or not _CALLBACK.fullmatch(callback):
        raise RealtimeError("bad_request", "callback is a plain JavaScript name of at most 64 characters")
    return callback.encode()


def as_it_is(answer: Answer) -> Answer:
    """Return a JSON answer unchanged."""
    return answer


def _script(callback: bytes, answer: Answer) -> Answer:
    """Return a script that calls ``callback`` with the JSON. Its status is 200, as browsers drop any other script."""
    # The comment keeps content sniffers from taking the callback's name for another file type ("Rosetta Flash").
    script = b"/**/%b(%b);" % (callback, json_in_script(answer.body))
    return Answer(script, 200, b"application/javascript; charset=utf-8")
