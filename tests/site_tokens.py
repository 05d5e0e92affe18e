"""Tokens of a made-up site, which say what a test wants and have no signature: what is tested is what follows."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count

import attrs

from realtime_chat.values.access import Claims, Grants
from realtime_chat.values.errors import RealtimeError, token_expired

KEY = "0f0f0f0f"


class SiteTokens:
    """Issues tokens, and verifies those that it has issued.

    :ivar keys: the fingerprints of the keys that are in use.
    """

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self.keys = frozenset((KEY,))
        self._wall = wall
        self._issued: dict[str, Claims] = {}
        self._numbers = count(1)

    def issue(
        self,
        sub: str,
        lifetime: float = 3600.0,
        name: str | None = None,
        info: bytes | None = None,
        key: str = KEY,
        **rooms: str,
    ) -> str:
        """A token. In the rooms' patterns, ``_`` at the end stands for ``*``, and ``at_`` at the start for ``@``."""
        grants = Grants.of({_pattern(room): rights for room, rights in rooms.items()})
        return self.issue_for(sub, grants, lifetime, name, info, key)

    def issue_for(
        self,
        sub: str,
        grants: Grants,
        lifetime: float = 3600.0,
        name: str | None = None,
        info: bytes | None = None,
        key: str = KEY,
    ) -> str:
        """A token with these grants."""
        number = next(self._numbers)
        now = int(self._wall() * 1000)
        token = f"token-{number}-{'x' * 20}"
        self._issued[token] = Claims(sub, name, info, grants, now + int(lifetime * 1000), now + number, key)
        return token

    def issue_together(self, *tokens: str) -> None:
        """Let tokens have been issued at the time of the first one."""
        issued = self._issued[tokens[0]].issued
        self._issued |= {token: attrs.evolve(self._issued[token], issued=issued) for token in tokens}

    def verify(self, token: str) -> Claims:
        """What a token says.

        :raises RealtimeError:
        """
        claims = self._issued.get(token)
        if claims is None or claims.key not in self.keys:
            raise RealtimeError("unauthorized", "no key of this site has signed that")
        if claims.expires <= self._wall() * 1000:
            raise token_expired()
        return claims

    def token_keys(self) -> frozenset[str]:
        """The fingerprints of the keys that are in use."""
        return self.keys


def _pattern(room: str) -> str:
    if room.startswith("at_"):
        room = "@" + room[3:]
    return room[:-1] + "*" if room.endswith("_") else room
