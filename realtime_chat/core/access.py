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
    RoomRule,
    RoomRules,
)
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import is_private, is_room, private_room
from realtime_chat.values.rates import ROOM, Scope, ScopeLimits

_CACHED_ROOMS = 1024
_CACHED_POLLS = 256
_EVERYTHING = READ | WRITE | SIGNAL | PRESENCE
_WRITING = WRITE | SIGNAL | MODERATE
_HIGH = "\x7f"
"""Sorts after every character that a room's name may have."""
_PRIVATE_BOUNDS = (f"?{_HIGH}", f"@{_HIGH}")
"""What sorts before the names of all private rooms, and after them."""

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
    :ivar limits_rooms: whether a rule limits how fast clients go on in its rooms, or how many there are.
    """

    def __init__(self, rules: RoomRules = RoomRules(), is_open: bool = True) -> None:  # noqa: B008
        self.rules = rules
        self.is_open = is_open
        self._default = _EVERYTHING if is_open else 0
        self._private_default = WRITE | SIGNAL if is_open else 0
        self._free = 0 if rules.rules else self._default  # of guests, in all rooms but private ones
        self._guests_have_own = is_open or any(rule.guests for rule in rules.rules)
        bounds = _bounds(rule.match for rule in rules.rules)
        self._bounds = bounds  # between two that follow each other, the same rules match all names
        limited = [rule for rule in rules.rules if rule.publish_rate or rule.signal_rate or rule.max_members]
        self.limits_rooms = bool(limited)
        self._rates = {rule.match: _rates(rule) for rule in limited}
        self._ruled = lru_cache(_CACHED_ROOMS + 2 * len(bounds))(self._find) if rules.rules else None
        self.are_public = lru_cache(_CACHED_POLLS)(self._are_public)

    def decides_like(self, other: AccessPolicy) -> bool:
        """Whether both decide the same."""
        return (self.rules, self.is_open) == (other.rules, other.is_open)

    def describe(self) -> str:
        """One line for the operator: what guests may do."""
        if not self.is_open:
            return "guests may do what the rules of rooms give them, and nothing else"
        return "guests may read and write every room but private ones" + (
            ", unless a rule says otherwise" if self.rules.rules else ""
        )

    def _find(self, room: str) -> tuple[int, int, bool]:
        """What the rules give to guests and to users in a room, and whether they list it."""
        default = self._private_default if is_private(room) else self._default
        rule = self.rules.find(room)
        guests, users = (None, None) if rule is None else (rule.granted(room, True), rule.granted(room, False))
        return (
            default if guests is None else guests & ~MODERATE,
            default if users is None else users,
            rule is not None and rule.listed,
        )

    def rights(self, identity: Identity | None, room: str) -> int:
        """What somebody may do in a room, whose name is valid.

        :param identity: None for somebody who hasn't said who it is, and has a guest's rights.
        """
        if self._free and (identity is None or identity.expires is None) and room[0] != "@":
            return self._free
        if self._ruled is not None:
            guests, users, _ = self._ruled(room)
        elif room[0] == "@":
            guests = users = self._private_default
        else:
            guests = users = self._default
        if identity is None:
            return guests
        rights = guests if identity.user.guest else users | identity.grants.by_room[room]
        return rights | READ | PRESENCE if room[0] == "@" and room in self._own_rooms(identity) else rights

    def _own_rooms(self, identity: Identity) -> tuple[str, ...]:
        """The private rooms of somebody. Guests have none where they may do nothing else."""
        return own_rooms(identity) if self._guests_have_own or not identity.user.guest else ()

    def _are_public(self, rooms: tuple[str, ...]) -> bool:
        """Whether everybody may read some rooms, and their names are valid."""
        return all(is_room(room) and self.everybody(room) & READ for room in rooms)

    def everybody(self, room: str) -> int:
        """The rights that everybody has in a room."""
        guests, users, _ = self._find(room)
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

    # How much may be done there

    def room_rates(self, room: str) -> Scope | None:
        """How fast one client may go on in a room; None where no rule says that."""
        rule = self.rules.find(room) if self.limits_rooms else None
        return None if rule is None else self._rates.get(rule.match)

    def most_members(self, room: str) -> int | None:
        """How many members a room may have; None where no rule says that."""
        rule = self.rules.find(room) if self.limits_rooms else None
        return None if rule is None else rule.max_members

    # The list of rooms

    def is_listed(self, identity: Identity, room: str) -> bool:
        """Whether the list of rooms names a room to somebody, who may read it."""
        if not self.rights(identity, room) & READ:
            return False
        if self.is_open or room in self._own_rooms(identity):
            return True
        return (self._ruled is not None and self._ruled(room)[2]) or bool(identity.grants.rights(room))

    def listed_ranges(self, identity: Identity, after: str) -> Iterator[tuple[str, str]]:
        """The ranges of names in which all rooms are listed to somebody, in order; no others are listed.

        Each is the name that sorts before it, and its last name. So a list reads no names of rooms that it hides.

        :param after: the list begins after this name.
        """
        bounds = self._bounds | _bounds(
            [*(pattern for pattern, _ in identity.grants.rules), *self._own_rooms(identity)]
        )
        begin, before = None, after
        for bound in sorted(bound for bound in bounds if bound > after):
            is_listed = self.is_listed(identity, bound)  # as all names between the bound before and this one
            if is_listed and begin is None:
                begin = before
            elif not is_listed and begin is not None:
                yield begin, before
                begin = None
            before = bound
        if begin is not None:
            yield begin, before


def _rates(rule: RoomRule) -> Scope | None:
    if rule.publish_rate is None and rule.signal_rate is None:
        return None
    return Scope(ROOM, ScopeLimits(publishes=rule.publish_rate, signals=rule.signal_rate))


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


def _bounds(patterns: Iterable[str]) -> frozenset[str]:
    """Texts that part the names, so that a pattern matches all names after one of them up to the next, or none."""
    bounds = [*_PRIVATE_BOUNDS, _HIGH]
    for pattern in patterns:
        begin = pattern.removesuffix("*")
        if begin:
            bounds += _before(begin), pattern if begin == pattern else begin + _HIGH
    return frozenset(bounds)
