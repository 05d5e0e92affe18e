"""What a log keeps, and how many logs there may be."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

import msgspec

from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.limits import TokenBucket, begin_within
from realtime_chat.values.model import Message, Page

__all__ = [
    "KEY_SECONDS",
    "PAGE_BYTES",
    "SECONDS_AT_ONCE",
    "Retention",
    "RoomCreationLimit",
    "fitting",
    "new_epoch",
    "readable_page",
]

KEY_SECONDS = 300
"""How long a publisher's key is kept at least. It is always kept as long as its message."""

PAGE_BYTES = 1024 * 1024
"""A page ends with the message that makes its data reach this many bytes."""

SECONDS_AT_ONCE = 20
"""The burst of the room limit: what the rate allows in so many seconds."""

_DAY = 86400.0


class Retention(msgspec.Struct, frozen=True):
    """How much of a room's log can be read, and how many rooms there are.

    :param count: messages of a room that are kept.
    :param age: seconds for which a message is kept (see :mod:`realtime_chat.store.retention_clock`); None for ever.
    :param rooms: the most rooms.
    :param room_rate: the most rooms that are created a second, see :data:`SECONDS_AT_ONCE`.
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
        """Seconds for which a room without messages and readers is kept."""
        return _DAY if self.age is None else self.age

    @property
    def too_many_rooms(self) -> RealtimeError:
        """The error for a new room where there are as many as there may be."""
        return RealtimeError(
            "too_many",
            f"there are {self.rooms} rooms, and no more are made (--max-rooms-stored); rooms that exist take messages, "
            "and unused ones are forgotten in time",
        )

    @property
    def too_fast(self) -> RealtimeError:
        """The error for a new room where they are created too fast."""
        return RealtimeError(
            "rate_limited",
            f"at most {self.room_rate:g} rooms a second are made (--room-rate); rooms that exist take messages, and "
            "this one can be made in a moment",
        )

    @property
    def slack(self) -> int:
        """How many messages a store may hold beyond ``count``, so that it deletes many at a time."""
        return max(64, self.count // 10)

    def describe(self) -> str:
        """Say in a few words what is kept, for the operator."""
        kept = f"the last {self.count} messages a room"
        return kept if self.age is None else f"{kept}, for {self.age:g} s"


class RoomCreationLimit:
    """Limits how many rooms there are, and how fast they are created."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._bucket = TokenBucket()

    def refusal(self, rooms: int, now: float) -> RealtimeError | None:
        """Take a token for a new room.

        :param rooms: how many there are.
        :param now: seconds that only grow.
        :returns: None if the room may be created, else the error.
        """
        if rooms >= self._retention.rooms:
            return self._retention.too_many_rooms
        taken = self._bucket.take(now, self._retention.room_rate, burst=SECONDS_AT_ONCE)
        return None if taken else self._retention.too_fast


def new_epoch(random_bytes: Callable[[int], bytes]) -> str:
    """Make a name for a new log: 8 characters.

    :param random_bytes: gives as many as it is asked for.
    """
    return base64.b32encode(random_bytes(5)).decode("ascii").lower()


def readable_page(
    epoch: str, oldest: int, top: int, found: Sequence[Message], cutoff: int, epoch_start: int = 0
) -> Page:
    """Make a page of what was read, without messages that are too old.

    This is the one rule for all stores. The times of messages may go down, if the wall clock was set back. So the page
    begins after the last message that is too old.

    :param oldest: the lowest offset that the store holds.
    :param found: the messages that were read, ascending by offset.
    :param cutoff: see :meth:`realtime_chat.store.retention_clock.RetentionClock.message_cutoff`.
    """
    for index in range(len(found), 0, -1):
        message = found[index - 1]
        if message.at < cutoff:
            return Page(epoch, message.position.offset + 1, top, tuple(found[index:]), epoch_start)
    return Page(epoch, oldest, top, tuple(found), epoch_start)


def fitting(messages: Sequence[Message]) -> int:
    """Return how many of the first messages fit on one page (:data:`PAGE_BYTES`)."""
    return begin_within((len(message.data) for message in messages), PAGE_BYTES)
