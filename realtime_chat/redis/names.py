"""The names of keys and channels in Redis. All of them are made here.

The name of a room always comes last, and a prefix has no colon. So no two rooms and no two scopes share a name.
"""

from __future__ import annotations

import re

_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def check_prefix(prefix: str) -> str:
    """Return a prefix if it is valid.

    :raises ValueError: it isn't.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"{prefix!r} is no prefix: 1 to 64 characters of A-Z a-z 0-9 _ . -; right would be realtime")
    return prefix


class RedisNames:
    """The keys and channels of one database of Redis under one prefix.

    The number of the database is part of each name, as the channels of Redis don't belong to a database.

    :ivar scope: what each key and channel begins with.
    :ivar log: the key of the hash that describes the log.
    """

    __slots__ = ("_keys", "_members", "_relay", "_room", "_session", "_stream", "log", "prefix", "scope")

    def __init__(self, prefix: str, database: int) -> None:
        self.prefix = check_prefix(prefix)
        self.scope = f"{prefix}:{database}"
        self.log = f"{self.scope}:log"
        self._stream = f"{self.scope}:stream:"
        self._keys = f"{self.scope}:keys:"
        self._room = f"{self.scope}:room:"
        self._members = f"{self.scope}:members:"
        self._session = f"{self.scope}:session:"
        self._relay = (f"{self.scope}:relay:",) if database else (f"{prefix}:relay:", f"{self.scope}:relay:")

    def stream(self, room: str) -> str:
        """Return the key of a room's messages, a stream."""
        return self._stream + room

    def keys(self, room: str) -> str:
        """Return the key of a room's idempotency keys, a hash."""
        return self._keys + room

    def room(self, room: str) -> str:
        """Return the channel on which nodes announce what happens in a room."""
        return self._room + room

    def room_of(self, channel: str) -> str:
        """Return the room of a channel that :meth:`room` has made."""
        return channel[len(self._room) :]

    def session(self, key: str) -> str:
        """Return the key of what is kept of a Socket.IO socket."""
        return self._session + key

    def members(self, room: str) -> str:
        """Return the key of a room's members, a hash."""
        return self._members + room

    def relay(self, room: str) -> tuple[str, ...]:
        """Return the channels on which other programs send to a room. Database 0 has a second one, without a number."""
        return tuple(channel + room for channel in self._relay)

    def relay_room_of(self, channel: str) -> str:
        """Return the room of a channel that :meth:`relay` has made."""
        return next(channel[len(prefix) :] for prefix in self._relay if channel.startswith(prefix))

    def node(self, node: str) -> str:
        """Return the channel on which a node sends a probe to itself."""
        return f"{self.scope}:node:{node}"

    @property
    def nodes(self) -> str:
        """The channel of all nodes."""
        return f"{self.scope}:nodes"

    def alive(self, node: str) -> str:
        """Return the key that exists while a node is alive."""
        return f"{self.scope}:alive:{node}"
