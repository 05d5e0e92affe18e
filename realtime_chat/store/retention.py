"""What a log keeps, for how long, and how many logs there may be.

A stored message bears the time that the wall clock showed. That alone doesn't give its age, as the clock may have been
set since. So :class:`RetentionClock` remembers how far the wall clock was ahead of the monotonic clock, and when.

Say that messages are kept for an hour. A message is too old if its time is lower than the lowest time that the wall
clock has shown within the last hour. So setting the clock can make a message stay longer, but never deletes it early.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.limits import begin_within
from realtime_chat.values.model import Message, Page, is_namespace_log
from realtime_chat.values.rates import Rate, TokenBucket

KEY_SECONDS = 300
"""How long a publisher's key is kept at least. It is always kept as long as its message."""

PAGE_BYTES = 1024 * 1024
"""A page ends with the message that makes its data reach this many bytes."""

SECONDS_AT_ONCE = 20
"""The burst of the room limit: what the rate allows in so many seconds."""

_DAY = 86400.0
"""For how long empty rooms are kept where messages are kept for ever."""

_JITTER = 0.5
"""Seconds by which two readings may differ without the clock having been set: one clock is read after the other."""

_MAX_SPANS = 64


class Retention(msgspec.Struct, frozen=True):
    """How much of a room's log can be read, and how many rooms there are.

    :param count: messages of a room that are kept.
    :param age: seconds for which a message is kept (see :class:`RetentionClock`); None for ever.
    :param rooms: the most rooms.
    :param room_rate: the most rooms that are created a second, see :data:`SECONDS_AT_ONCE`.
    :param namespace_count: events that the log of a Socket.IO namespace keeps.
    :param properties: the most properties of a room.
    :param property_bytes: the most bytes of data that the properties of a room have together.
    """

    count: int = 1000
    age: float | None = None
    rooms: int = 1_000_000
    room_rate: float = 100
    namespace_count: int = 10_000
    properties: int = 1000
    property_bytes: int = PAGE_BYTES

    def __post_init__(self) -> None:
        if min(self.count, self.namespace_count) < 1:
            raise ValueError("at least one message of a room is kept")
        if self.age is not None and self.age <= 0:
            raise ValueError("the age of what is kept is more than 0 seconds")
        if self.rooms < 1 or self.room_rate <= 0:
            raise ValueError("at least one room is kept, and the rate at which rooms are made is more than 0")

    def count_for(self, room: str) -> int:
        """How many messages of a log are kept."""
        return self.namespace_count if is_namespace_log(room) else self.count

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

    def too_fast(self, after: float) -> RealtimeError:
        """The error for a new room where they are created too fast.

        :param after: seconds after which this one can be created.
        """
        return RealtimeError(
            "rate_limited",
            f"at most {self.room_rate:g} rooms a second are made (--room-rate); rooms that exist take messages, and "
            "this one can be made in a moment",
            after=after,
        )

    def refuse_property(self, count: int, size: int) -> RealtimeError | None:
        """The error for a change after which a room has too many properties; None if it may have them.

        :param count: how many it would have.
        :param size: bytes of data in them.
        """
        return None if count <= self.properties and size <= self.property_bytes else self.too_many_properties

    @property
    def too_many_properties(self) -> RealtimeError:
        """The error for a change after which a room has too many properties."""
        return RealtimeError(
            "too_many",
            f"a room has at most {self.properties} properties with {self.property_bytes} bytes of data in them; remove "
            "one first",
        )

    @property
    def slack(self) -> int:
        """How many messages a store may hold beyond ``count``, so that it deletes many at a time."""
        return max(64, self.count // 10)

    def describe(self) -> str:
        """Say in a few words what is kept, for the operator."""
        kept = f"the last {self.count} messages a room"
        return kept if self.age is None else f"{kept}, for {self.age:g} s"


class ClockSpan(NamedTuple):
    """A time in which the wall clock was not set.

    :param start: when it began, in elapsed seconds (:meth:`RetentionClock.elapsed`).
    :param ahead: the wall clock minus the elapsed seconds, the lowest value that was seen.
    """

    start: float
    ahead: float


class RetentionClock:
    """The wall clock, and the oldest times that are kept. May be asked on any thread.

    Elapsed time is that of this process, and of the earlier ones whose spans :meth:`restore` gets. For the time before
    that, :meth:`message_cutoff` assumes that the clock was not set; :meth:`key_cutoff` doesn't.

    :param retention: what is kept; readers and sweepers take it from here.
    :param time: seconds since 1970; this clock may be set at any time.
    :param monotonic: seconds that only grow.
    :ivar spans: what is known of the wall clock, ascending.
    """

    def __init__(self, retention: Retention, time: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self.retention = retention
        self._remembered = max(KEY_SECONDS, _DAY if retention.age is None else retention.age)
        self._time = time
        self._monotonic = monotonic
        self._change = threading.Lock()
        self._started = self._zero = monotonic()
        self.spans: Sequence[ClockSpan] = (ClockSpan(0.0, time()),)
        self._ahead = self.spans[-1].ahead

    @property
    def needs_saving(self) -> bool:
        """Whether the next process needs the spans of this one."""
        return self.retention.age is not None

    def elapsed(self) -> float:
        """Return for how many seconds processes have run."""
        return self._monotonic() - self._zero

    def restore(self, spans: Sequence[ClockSpan]) -> None:
        """Continue with the spans of the last process, before anything else is asked.

        :param spans: the last of them begins where that process ended.
        """
        with self._change:
            if spans:
                self._zero = self._started - spans[-1].start
            now = self.elapsed()
            self._set_spans((*spans, ClockSpan(now, self._time() - now)), now)

    def now_ms(self) -> int:
        """Return the time of the wall clock, in milliseconds since 1970. Each stored time has to come from here."""
        time = self._time()
        if not 0 <= time - self._monotonic() + self._zero - self._ahead < _JITTER:
            self._note_change()
        return int(time * 1000)

    def _note_change(self) -> None:
        """Note that the wall clock was set, or that the gap between two readings was smaller than before."""
        with self._change:
            time, now = self._time(), self.elapsed()
            ahead = time - now
            last = self.spans[-1]
            if abs(ahead - last.ahead) < _JITTER:
                self.spans = (*self.spans[:-1], ClockSpan(last.start, min(last.ahead, ahead)))
                self._ahead = self.spans[-1].ahead
            else:
                self._set_spans((*self.spans, ClockSpan(now, ahead)), now)

    def _set_spans(self, spans: Sequence[ClockSpan], now: float) -> None:
        self.spans = _shortened(spans, now - self._remembered)
        self._ahead = self.spans[-1].ahead

    def message_cutoff(self) -> int:
        """Return the lowest :attr:`~realtime_chat.values.model.Message.at` that can be read."""
        age = self.retention.age
        return 0 if age is None else self.cutoff(age)

    def key_cutoff(self) -> int:
        """Return the lowest time of a key that is kept in any case, in milliseconds since 1970.

        It is 0 until this process has run for that long.
        """
        if self._monotonic() - self._started < KEY_SECONDS:
            return 0
        return max(0, self.cutoff(KEY_SECONDS))

    def cutoff(self, seconds: float) -> int:
        """Return the lowest time that something no older than that may bear, in milliseconds since 1970.

        :param seconds: at most the age for which messages are kept; a day if they are kept for ever.
        """
        return int(self._lowest_time(seconds) * 1000)

    def keeps_key(self, at: int, offset: int, top: int) -> bool:
        """Return whether a key still counts: it is young, or its message is kept.

        :param at: its time, in milliseconds since 1970.
        :param offset: the offset of its message.
        :param top: the top of the room.
        """
        return at >= self.key_cutoff() or (offset > top - self.retention.count and at >= self.message_cutoff())

    def _lowest_time(self, seconds: float) -> float:
        """Return the lowest time that the wall clock has shown within the last seconds."""
        self.now_ms()
        since = self.elapsed() - seconds
        spans = self.spans
        first = next((index for index in range(len(spans) - 1, 0, -1) if spans[index].start < since), 0)
        return min([since + spans[first].ahead, *(span.start + span.ahead for span in spans[first + 1 :])])


def _shortened(spans: Sequence[ClockSpan], before: float) -> Sequence[ClockSpan]:
    """Drop the spans that ended before a time. If too many are left, the two oldest become one."""
    while len(spans) > 1 and spans[1].start < before:
        spans = spans[1:]
    if len(spans) > _MAX_SPANS:
        first, second = spans[:2]
        spans = (ClockSpan(first.start, min(first.ahead, second.ahead)), *spans[2:])
    return spans


class RoomCreationLimit:
    """Limits how many rooms there are, and how fast they are created."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._bucket = TokenBucket()
        self._rate = Rate(retention.room_rate, SECONDS_AT_ONCE * retention.room_rate)

    def refusal(self, rooms: int, now: float) -> RealtimeError | None:
        """Take a token for a new room.

        :param rooms: how many there are.
        :param now: seconds that only grow.
        :returns: None if the room may be created, else the error.
        """
        if rooms >= self._retention.rooms:
            return self._retention.too_many_rooms
        after = self._bucket.take(now, self._rate)
        return self._retention.too_fast(after) if after else None


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
    :param cutoff: see :meth:`RetentionClock.message_cutoff`.
    """
    for index in range(len(found), 0, -1):
        message = found[index - 1]
        if message.at < cutoff:
            return Page(epoch, message.position.offset + 1, top, tuple(found[index:]), epoch_start)
    return Page(epoch, oldest, top, tuple(found), epoch_start)


def fitting(messages: Sequence[Message]) -> int:
    """Return how many of the first messages fit on one page (:data:`PAGE_BYTES`)."""
    return begin_within((len(message.data) for message in messages), PAGE_BYTES)
