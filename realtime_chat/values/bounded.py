"""A mapping of which nobody's entries push out all others'."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

V = TypeVar("V")

MOST_RENEWALS = 4096
"""Renewed clients that a node remembers, the latest ones: an entry takes a kilobyte or two."""

MOST_RENEWALS_OF_USER = 64


class BoundedByUser(Generic[V]):
    """The latest entries, each of a user. The oldest of a user go for its later ones, and then the oldest of all.

    :param most: entries that there are at most.
    :param most_of_user: entries that one user has at most.
    :ivar keys: those of all entries.
    """

    def __init__(self, most: int, most_of_user: int) -> None:
        self._most = most
        self._most_of_user = most_of_user
        self._entries: dict[str, tuple[str, V]] = {}  # the oldest first
        self.keys = self._entries.keys()
        self._by_user: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[V]:
        return iter([value for _, value in self._entries.values()])

    def get(self, key: str) -> V | None:
        """The entry of a key, or None."""
        entry = self._entries.get(key)
        return None if entry is None else entry[1]

    def put(self, key: str, user: str, value: V) -> None:
        """Set an entry, which is the latest from now on."""
        self.drop(key)
        keys = self._by_user.get(user, ())
        if len(keys) >= self._most_of_user:
            self.drop(next(iter(keys)))
        if len(self._entries) >= self._most:
            self.drop(next(iter(self._entries)))
        self._entries[key] = user, value
        self._by_user.setdefault(user, {})[key] = None

    def drop(self, key: str) -> None:
        """Remove an entry, if there is one."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            keys = self._by_user[entry[0]]
            del keys[key]
            if not keys:
                del self._by_user[entry[0]]
