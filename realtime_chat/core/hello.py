"""What a ``hello`` makes of a client: a guest, a user of a token, or the same one again."""

from __future__ import annotations

from realtime_chat.core.access import forbid_reader
from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import NOBODY, Identity
from realtime_chat.core.quota import Quota
from realtime_chat.values.commands import Hello
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.rates import GUESTS


def say_hello(hub: Hub, before: Identity | None, hello: Hello, name: str | None, quota: Quota) -> Identity:
    """Find out who says hello. A client that is renewed is renewed everywhere.

    :param before: who the session has been so far; None or nobody if it hasn't said that.
    :param name: the name of a guest that gives no other.
    :param quota: what a new guest draws from.
    :raises RealtimeError: ``bad_request``, ``forbidden``, ``rate_limited``, or why the token or the client isn't
        accepted.
    """
    if hello.v != 1:
        raise RealtimeError("bad_request", "this server speaks version 1 of the protocol")
    known = None if before is NOBODY else before
    if hello.token is not None:
        return _log_in(hub, known, hello, hello.token)
    if known is None:
        return _introduce(hub, hello.client, hello.name or name, quota)
    if hello.client not in (None, known.client) or hello.name not in (None, known.user.name):
        raise _said_once()
    return known


def _introduce(hub: Hub, client: str | None, name: str | None, quota: Quota) -> Identity:
    """Who says hello without a token."""
    known = hub.identities.find(client) if client else None
    if known is None:
        quota.take(GUESTS)
        return hub.identities.new_guest(name)
    is_renamed = name and known.user.guest and not (known.is_named and name.strip() == known.user.name)
    return hub.identities.rename(known, name) if name and is_renamed else known


def _log_in(hub: Hub, before: Identity | None, hello: Hello, token: str) -> Identity:
    """The user of a token. If it had a client before, that is renewed."""
    if hello.name is not None:
        raise RealtimeError("bad_request", "with a token, the name is that in the token; leave name out")
    claims = hub.verify(token)
    said = hub.identities.find(hello.client, may_be_over=True) if hello.client else None
    if any(one is not None and one.is_reader for one in (before, said)):
        raise forbid_reader()
    if before is not None and said is not None and said.client_hash != before.client_hash:
        raise _said_once()
    before = before or said
    identity = hub.admit(claims, before)
    if before is not None:
        hub.renew(identity)
    return identity


def _said_once() -> RealtimeError:
    return RealtimeError("forbidden", "who one is, is said once on a connection, before anything else")
