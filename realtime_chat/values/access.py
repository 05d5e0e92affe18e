"""Rights by room: what tokens grant, what a site's rules give, and what a token says of its user."""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from realtime_chat.values.rates import Rate

READ, WRITE, SIGNAL, PRESENCE, MODERATE = 1, 2, 4, 8, 16
"""Read a room; publish to it; signal in it; see who is there and be seen; moderate."""

_LETTERS = {"r": READ, "w": WRITE, "s": SIGNAL, "p": PRESENCE, "m": MODERATE}
_TEXTS = tuple("".join(letter for letter, right in _LETTERS.items() if rights & right) for rights in range(32))
_PRIVATE = WRITE | SIGNAL
"""What a pattern can grant in a private room."""

MOST_KNOWN_ROOMS = 64
"""Rooms whose rights the grants of one token remember."""

_PATTERN = re.compile(r"[A-Za-z0-9_.:@~-]{1,128}|[A-Za-z0-9_.:@~-]{0,127}\*")


def parse_rights(text: str) -> int:
    """Parse rights, such as ``rwsp``; the empty text is no right.

    :raises ValueError: it is something else; the message says what would be right.
    """
    rights = 0
    for letter in text:
        right = _LETTERS.get(letter, 0)
        if not right or rights & right:
            raise ValueError(
                "rights are some of the letters r (read), w (write), s (signal), p (presence) and m (moderate), "
                'each once, such as "rwsp"'
            )
        rights |= right
    return rights


def format_rights(rights: int) -> str:
    """Rights as letters, in the order ``rwspm``."""
    return _TEXTS[rights]


def check_pattern(pattern: str) -> str:
    """Give back a pattern: a room's name, or the beginning of names and ``*``.

    :raises ValueError: it is no pattern; the message says what would be right.
    """
    if not _PATTERN.fullmatch(pattern) or pattern in (".", ".."):
        raise ValueError(
            "a pattern is a room's name (1 to 128 characters of A-Z a-z 0-9 _ - . : @ ~), "
            'or the beginning of names and one *, such as "help-*"'
        )
    return pattern


def covers(pattern: str, room: str) -> bool:
    """Whether a pattern matches a room, or all rooms that another pattern matches.

    It matches a private room only if it begins with ``@``.
    """
    if pattern[-1] != "*":
        return pattern == room
    return room.startswith(pattern[:-1]) and (pattern[0] == "@" or room[0] != "@")


def _within(room: str, rights: int) -> int:
    """What is left of rights that a pattern grants in a room: in a private room, only to write and to signal."""
    return rights & _PRIVATE if room[0] == "@" else rights


class _GrantedRights(dict[str, int]):
    """The rights that some rules grant, by room. They are worked out once, as such rules never change."""

    __slots__ = ("_rules",)

    def __init__(self, rules: tuple[tuple[str, int], ...]) -> None:
        self._rules = rules

    def __missing__(self, room: str) -> int:
        rights, begins = 0, f"{room[0]}*"
        for pattern, granted in self._rules:
            if pattern[0] in begins and covers(pattern, room):
                rights |= granted
        if len(self) >= MOST_KNOWN_ROOMS:
            self.clear()
        self[room] = rights = _within(room, rights)
        return rights


@attrs.frozen
class Grants:
    """What a token grants.

    :param rules: patterns and the rights that they grant. All that match count together.
    :ivar by_room: the rights in each room, whose name is valid.
    """

    rules: tuple[tuple[str, int], ...] = ()
    by_room: Mapping[str, int] = attrs.field(init=False, eq=False, repr=False)

    @classmethod
    def of(cls, rooms: Mapping[str, str]) -> Grants:
        """Read a mapping of patterns to letters.

        :raises ValueError: the message names the pattern, and says what would be right.
        """
        return cls(tuple((_named(pattern), _rights_of(pattern, text)) for pattern, text in rooms.items()))

    def rights(self, room: str) -> int:
        """The rights in a room, whose name is valid."""
        return self.by_room[room]

    @by_room.default
    def _by_room(self) -> Mapping[str, int]:
        return _GrantedRights(self.rules)


def _named(pattern: str) -> str:
    try:
        return check_pattern(pattern)
    except ValueError as error:
        raise ValueError(f"{pattern[:130]!a}: {error}") from None


def _rights_of(pattern: str, text: str) -> int:
    try:
        return parse_rights(text)
    except ValueError as error:
        raise ValueError(f"{pattern!a}: {error}") from None


NO_GRANTS = Grants()


@attrs.frozen
class RoomRule:
    """What a site decides for the rooms of one pattern.

    :param match: the pattern.
    :param guests: what guests may do; None if the rule doesn't say.
    :param users: what users of tokens may do besides what their tokens grant; None if the rule doesn't say. Then they
        may do what guests may.
    :param listed: whether ``GET /rooms`` lists these rooms to everyone who may read them.
    :param publish_rate: how fast each client may publish to one of these rooms; None for no limit but its own.
    :param signal_rate: the same for signals.
    :param max_members: how many members one of these rooms has at most; None for as many as any room.
    """

    match: str = attrs.field(converter=check_pattern)
    guests: int | None = None
    users: int | None = None
    listed: bool = False
    publish_rate: Rate | None = None
    signal_rate: Rate | None = None
    max_members: int | None = None

    def granted(self, room: str, guest: bool) -> int | None:
        """What the rule gives to a guest or a user in a room that it matches; None if it doesn't say."""
        rights = self.guests if guest or self.users is None else self.users
        return None if rights is None else _within(room, rights)


@attrs.frozen
class RoomRules:
    """A site's rules, in their order."""

    rules: tuple[RoomRule, ...] = ()

    def find(self, room: str) -> RoomRule | None:
        """The first rule that matches a room."""
        for rule in self.rules:
            if covers(rule.match, room):
                return rule
        return None


@attrs.frozen
class Claims:
    """What a verified token says. Times are milliseconds since 1970.

    :param sub: the user's id.
    :param info: what the site vouches for besides, as a compact JSON object.
    :param key: the fingerprint of the key that verified the token.
    """

    sub: str
    name: str | None
    info: bytes | None
    rooms: Grants
    expires: int
    issued: int | None
    key: str
