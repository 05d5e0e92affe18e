"""What a log keeps, and how many logs there may be."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence

import msgspec

from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import Draft, Message

__all__ = [
    "KEY_SECONDS",
    "PAGE_BYTES",
    "SECONDS_AT_ONCE",
    "NewRooms",
    "Retention",
    "content_digest",
    "leading_part",
    "new_epoch",
    "young_part",
]

KEY_SECONDS = 300
"""How long a publisher's key is kept at least; and always as long as its message."""

PAGE_BYTES = 1024 * 1024
"""A page of a log ends with the message that brings its data to so many bytes."""

SECONDS_AT_ONCE = 20
"""After a quiet time as many rooms are made at once as the rate allows in so many seconds."""

_DAY = 86400.0

_decode = msgspec.json.Decoder().decode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class Retention(msgspec.Struct, frozen=True):
    """How much of a room's log can be read, and how many rooms there are.

    :param count: the last so many messages of a room.
    :param age: seconds; nothing older (see :mod:`realtime_chat.store.ages`). None keeps any age.
    :param rooms: rooms in all; where there are so many, none is made.
    :param room_rate: rooms that are made a second, see :data:`SECONDS_AT_ONCE`.
    """

    count: int = 1000
    age: float | None = None
    rooms: int = 1_000_000
    room_rate: float = 100

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("at least one message of a room is kept")
        if self.age is not None and self.age <= 0:
            raise ValueError("the age of what is kept is more than 0 seconds")
        if self.rooms < 1 or self.room_rate <= 0:
            raise ValueError("at least one room is kept, and the rate at which rooms are made is more than 0")

    @property
    def room_age(self) -> float:
        """Seconds for which a room is kept that has no messages, and that nobody reads."""
        return _DAY if self.age is None else self.age

    @property
    def too_many_rooms(self) -> RealtimeError:
        """What is said where there are as many rooms as there may be."""
        return RealtimeError(
            "too_many",
            f"there are {self.rooms} rooms, and no more are made (--max-rooms-stored); rooms that exist take messages, "
            "and unused ones are forgotten in time",
        )

    @property
    def too_fast(self) -> RealtimeError:
        """What is said where rooms are made faster than they may be."""
        return RealtimeError(
            "rate_limited",
            f"at most {self.room_rate:g} rooms a second are made (--room-rate); rooms that exist take messages, and "
            "this one can be made in a moment",
        )

    @property
    def slack(self) -> int:
        """How many messages a store may hold beyond what can be read, so that it deletes many at a time."""
        return max(64, self.count // 10)


class NewRooms:
    """Says whether one more room may be made (a token bucket)."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._most = retention.room_rate * SECONDS_AT_ONCE
        self._left = self._most
        self._at = 0.0

    def refusal(self, rooms: int, now: float) -> RealtimeError | None:
        """Why none may be made; None where one may, which counts then.

        :param rooms: how many there are.
        :param now: seconds that only grow.
        """
        if rooms >= self._retention.rooms:
            return self._retention.too_many_rooms
        self._left = min(self._most, self._left + (now - self._at) * self._retention.room_rate)
        self._at = now
        if self._left < 1:
            return self._retention.too_fast
        self._left -= 1
        return None


def new_epoch(token: Callable[[int], bytes]) -> str:
    """A name for a new log: 8 characters.

    :param token: random bytes, as many as it is asked for.
    """
    return base64.b32encode(token(5)).decode("ascii").lower()


def content_digest(draft: Draft) -> bytes:
    """16 bytes that are the same for drafts with the same event and with data that are equal as JSON."""
    try:
        data = _encode_sorted(_decode(draft.data))
    except msgspec.DecodeError:  # such as a number out of range, which no client may send
        data = draft.data
    return hashlib.blake2b(b"%b\0%b" % (draft.event.encode(), data), digest_size=16).digest()


def young_part(messages: Sequence[Message], cutoff: int) -> Sequence[Message]:
    """What follows the last message that is too old: a wall clock may have stepped back.

    :param cutoff: see :meth:`realtime_chat.store.ages.Ages.cutoff`.
    """
    for index in range(len(messages), 0, -1):
        if messages[index - 1].at < cutoff:
            return messages[index:]
    return messages


def leading_part(messages: Sequence[Message]) -> int:
    """How many of the first messages go on one page (:data:`PAGE_BYTES`)."""
    size = 0
    for index, message in enumerate(messages):
        if size >= PAGE_BYTES:
            return index
        size += len(message.data)
    return len(messages)
