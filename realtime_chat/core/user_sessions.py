"""The sessions of users with tokens: found by their client's hash, and ended when its time is over."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import Protocol

from realtime_chat.core.identity import Identities, Identity
from realtime_chat.core.node import Node

_LOOK = 0.75
"""Seconds between two looks at the time, at most: nothing goes on for a second after the end of its time."""

_NEVER = sys.maxsize


class UserSession(Protocol):
    """A session, as this knows it."""

    @property
    def identity(self) -> Identity | None:
        """Who it is."""

    def dismiss(self, reason: str) -> None:
        """Say goodbye for one of the reasons in :data:`realtime_chat.values.errors.GOODBYES`, and close."""

    def renew(self, identity: Identity) -> None:
        """Go on with an identity of the same client hash, and give up what it may not do any more."""


class UserSessions:
    """The open sessions of users with tokens. Guests' sessions are not among them, as their time is never over.

    :param token_keys: gives the fingerprints of the keys that verify tokens now. Sessions end whose key is gone. After
        keys were read again it gives another object, as a key may come and go between two looks.
    """

    def __init__(self, node: Node, identities: Identities, token_keys: Callable[[], Collection[str]]) -> None:
        self._wheel = node.wheel
        self._time_ms = node.time_ms
        self._identities = identities
        self._token_keys = token_keys
        self._keys_seen: Collection[str] = ()
        self._by_client_hash: dict[
            str, UserSession | dict[UserSession, None]
        ] = {}  # nearly all clients have one at a time
        self._earliest = _NEVER  # no session's time is over before this, in milliseconds since 1970
        self._is_looking = False

    def add(self, session: UserSession, identity: Identity) -> None:
        """A session belongs to a user from now on. It may be added again when it is renewed."""
        found = self._by_client_hash.setdefault(identity.client_hash, session)
        if found is not session:
            self._add_to(found, session, identity.client_hash)
        if (identity.expires or 0) < self._earliest:
            self._look_from(identity.expires or 0)

    def _add_to(self, found: UserSession | dict[UserSession, None], session: UserSession, client_hash: str) -> None:
        if not isinstance(found, dict):
            found = self._by_client_hash[client_hash] = {found: None}
        found[session] = None

    def remove(self, session: UserSession, identity: Identity) -> None:
        """A session has ended."""
        found = self._by_client_hash.pop(identity.client_hash, None)
        if found is session:
            return
        if isinstance(found, dict):
            found.pop(session, None)
        if found:
            self._by_client_hash[identity.client_hash] = found

    def of(self, client_hash: str) -> list[UserSession]:
        """The open sessions of one client."""
        found = self._by_client_hash.get(client_hash, {})
        return [*found] if isinstance(found, dict) else [found]

    def _look_from(self, earliest: int) -> None:
        """A session's time is over before that of all others."""
        self._earliest = earliest
        if not self._is_looking:
            self._is_looking = True
            self._keys_seen = self._token_keys()
            self._wheel.call_within(_LOOK, self._look)

    def _look(self) -> None:
        """End the sessions whose time is over, if there can be one."""
        if not self._by_client_hash:
            self._is_looking = False
            self._earliest = _NEVER
            return
        self._wheel.call_within(_LOOK, self._look)
        keys = self._token_keys()
        if keys is not self._keys_seen or self._time_ms() >= self._earliest:
            self._keys_seen = keys
            self._end_some()

    def _end_some(self) -> None:
        left = []
        for session in [session for client_hash in self._by_client_hash for session in self.of(client_hash)]:
            identity = session.identity
            if identity is not None and self._identities.is_over(identity):
                session.dismiss("token_expired")
            elif identity is not None and identity.expires is not None:
                left.append(identity.expires)
        self._earliest = min(left, default=_NEVER)
