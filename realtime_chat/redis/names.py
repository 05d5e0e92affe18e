"""What keys and channels are called.

A name is put together here and nowhere else. A room's name always stands last, so that no two rooms meet; a prefix has
no colon, so that no two scopes do.
"""

from __future__ import annotations

import re

__all__ = ["RedisNames", "check_prefix"]

_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def check_prefix(prefix: str) -> str:
    """Give back a prefix.

    :raises ValueError: it isn't one.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"{prefix!r} is no prefix: 1 to 64 characters of A-Z a-z 0-9 _ . -; right would be realtime")
    return prefix


class RedisNames:
    """The keys and channels of one database of Redis under one prefix. Publishing is blind to databases, so that the
    number of the database is part of every name.

    :ivar scope: what every key and channel begins with.
    """

    __slots__ = ("_keys", "_members", "_relay", "_room", "_stream", "log", "prefix", "scope")

    def __init__(self, prefix: str, database: int) -> None:
        self.prefix = check_prefix(prefix)
        self.scope = f"{prefix}:{database}"
        self.log = f"{self.scope}:log"
        self._stream = f"{self.scope}:stream:"
        self._keys = f"{self.scope}:keys:"
        self._room = f"{self.scope}:room:"
        self._members = f"{self.scope}:members:"
        self._relay = (f"{self.scope}:relay:",) if database else (f"{prefix}:relay:", f"{self.scope}:relay:")

    def stream(self, room: str) -> str:
        """The stream of a room's messages."""
        return self._stream + room

    def keys(self, room: str) -> str:
        """The hash of a room's idempotency keys."""
        return self._keys + room

    def room(self, room: str) -> str:
        """The channel on which nodes hear of a room."""
        return self._room + room

    def room_of(self, channel: str) -> str:
        """The room of such a channel."""
        return channel[len(self._room) :]

    def members(self, room: str) -> str:
        """The hash of those who are in a room."""
        return self._members + room

    def relay(self, room: str) -> tuple[str, ...]:
        """The channels on which anybody may send something to a room; of database 0 also that without a number."""
        return tuple(channel + room for channel in self._relay)

    def relay_room_of(self, channel: str) -> str:
        """The room of such a channel."""
        return next(channel[len(prefix) :] for prefix in self._relay if channel.startswith(prefix))

    def node(self, node: str) -> str:
        """The channel of a node's own probe."""
        return f"{self.scope}:node:{node}"

    @property
    def nodes(self) -> str:
        """The channel of all nodes."""
        return f"{self.scope}:nodes"

    def alive(self, node: str) -> str:
        """The key that is there as long as a node lives."""
        return f"{self.scope}:alive:{node}"
