"""Who may do what in which room.

Guests have what the site's rules give them. Users have that for users, and what their tokens grant. Both only add
rights. It is decided before the store is asked, and in words that don't tell whether a room exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from realtime_chat.core.identity import NOBODY, Identity
from realtime_chat.values.access import (
    MODERATE,
    PRESENCE,
    READ,
    SIGNAL,
    WRITE,
    RoomRules,
    format_rights,
)
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import is_private, private_room

_CACHED_ROOMS = 1024
_EVERYTHING = READ | WRITE | SIGNAL | PRESENCE
_WRITING = WRITE | SIGNAL | MODERATE
_HIGH = "\x7f"
"""Sorts after every character that a room's name may have."""

_FORBIDDEN = {
    READ: "you may not read this room; a token or a rule of this server has to grant r for it",
    WRITE: "you may not write to this room; a token or a rule of this server has to grant w for it",
    SIGNAL: "you may not signal in this room; a token or a rule of this server has to grant s for it",
    PRESENCE: "you may not see who is in this room; a token or a rule of this server has to grant p for it",
    MODERATE: "you may not moderate this room; a token or a rule of this server has to grant m for it",
}
_PRIVATE = {
    READ: "this is a private room, which the user of that id alone may read",
    PRESENCE: "this is a private room, and the user of that id alone may see who is there",
}
_READER = "a reader only reads; send commands with the client itself"


class AccessPolicy:
    """Decides by a site's rules, and by what tokens grant.

    :param rules: the site's rules for its rooms.
    :param is_open: whether guests may do everything but moderate where no rule says what they may do.
    """

    def __init__(self, rules: RoomRules = RoomRules(), is_open: bool = True) -> None:  # noqa: B008
        self.rules = rules
        self.is_open = is_open
        self._default = _EVERYTHING if is_open else 0
        self._private_default = WRITE | SIGNAL if is_open else 0
        self._free = 0 if rules.rules else self._default  # of guests, in all rooms but private ones
        self._ruled = lru_cache(_CACHED_ROOMS)(self._find) if rules.rules else None
        self._guests_have_own = is_open or any(rule.guests for rule in rules.rules)

    def describe(self) -> str:
        """One line for the operator: what guests may do."""
        if not self.is_open:
            return "guests may do what the rules of rooms give them, and nothing else"
        return "guests may read and write every room but private ones" + (
            ", unless a rule says otherwise" if self.rules.rules else ""
        )

    def _find(self, room: str) -> tuple[int, int]:
        """What the rules give to guests and to users in a room."""
        default = self._private_default if is_private(room) else self._default
        rule = self.rules.find(room)
        guests, users = (None, None) if rule is None else (rule.granted(room, True), rule.granted(room, False))
        return (default if guests is None else guests & ~MODERATE), (default if users is None else users)

    def rights(self, identity: Identity | None, room: str) -> int:
        """What somebody may do in a room, whose name is valid.

        :param identity: None for somebody who hasn't said who it is, and has a guest's rights.
        """
        if self._free and (identity is None or identity.expires is None) and room[0] != "@":
            return self._free
        if self._ruled is not None:
            guests, users = self._ruled(room)
        elif room[0] == "@":
            guests = users = self._private_default
        else:
            guests = users = self._default
        if identity is None:
            return guests
        rights = guests if identity.user.guest else users | identity.grants.rights(room)
        return rights | READ | PRESENCE if room[0] == "@" and room in self._own_rooms(identity) else rights

    def _own_rooms(self, identity: Identity) -> tuple[str, ...]:
        """The private rooms of somebody. Guests have none where they may do nothing else."""
        return own_rooms(identity) if self._guests_have_own or not identity.user.guest else ()

    def everybody(self, room: str) -> int:
        """The rights that everybody has in a room."""
        guests, users = self._find(room)
        return guests & users

    def check(self, identity: Identity | None, room: str, right: int) -> str:
        """Check that somebody has a right in a room, whose name is valid. Give back the name.

        :raises RealtimeError: ``forbidden``.
        """
        if self._free & right and (identity is None or identity.expires is None) and room[0] != "@":
            return room
        if not self.rights(identity, room) & right:
            words = _FORBIDDEN[right]
            raise RealtimeError("forbidden", _PRIVATE.get(right, words) if is_private(room) else words)
        if identity is not None and identity.is_reader and right & _WRITING:
            raise forbid_reader()
        return room

    def letters(self, identity: Identity | None, room: str) -> str:
        """The rights in a room as letters."""
        return format_rights(self.rights(identity, room))

    # The list of rooms

    def is_listed(self, identity: Identity, room: str) -> bool:
        """Whether the list of rooms names a room to somebody, who may read it."""
        if not self.rights(identity, room) & READ:
            return False
        if self.is_open or room in self._own_rooms(identity):
            return True
        rule = self.rules.find(room)
        return (rule is not None and rule.listed) or bool(identity.grants.rights(room))

    def listed_ranges(self, identity: Identity, after: str) -> Iterator[tuple[str, str]]:
        """The ranges of names in which rooms may be listed to somebody, in order.

        Each is the names before its first and after its last. Private rooms sort together, so that a list skips the
        private rooms of others without reading their names.

        :param after: the list begins after this name.
        """
        own = list(map(_named, self._own_rooms(identity)))
        if self.is_open:
            ranges = [*_beginning(""), *own]
        else:
            patterns = [rule.match for rule in self.rules.rules if rule.listed]
            patterns += [pattern for pattern, _ in identity.grants.rules]
            ranges = [one for pattern in patterns if pattern[0] != "@" for one in _matching(pattern)] + own
        return ((max(after, first), last) for first, last in _merge(ranges) if after < last)


def own_rooms(identity: Identity) -> tuple[str, ...]:
    """The private rooms that only this user may read. A guest has one by its old id, too."""
    if identity is NOBODY:
        return ()
    id = identity.user.id
    return (f"@{id}", f"@{id[1:]}") if identity.user.guest else (private_room(id),)


def forbid_reader() -> RealtimeError:
    """The error for a reader that is used to write."""
    return RealtimeError("forbidden", _READER)


def _before(name: str) -> str:
    """What sorts before a name, and after every other name that sorts before it."""
    return name[:-1] + chr(ord(name[-1]) - 1) + _HIGH


def _named(room: str) -> tuple[str, str]:
    return _before(room), room


def _beginning(begin: str) -> Iterable[tuple[str, str]]:
    """The names that begin with a text, but for private rooms."""
    return ((_before(begin), begin + _HIGH),) if begin else (("", f"?{_HIGH}"), (f"@{_HIGH}", _HIGH))


def _matching(pattern: str) -> Iterable[tuple[str, str]]:
    return _beginning(pattern[:-1]) if pattern.endswith("*") else (_named(pattern),)


def _merge(ranges: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Sort ranges, and join those that overlap."""
    merged: list[tuple[str, str]] = []
    for first, last in sorted(ranges):
        if merged and first < merged[-1][1]:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged
