"""What is sent to polls: messages and events, of which each poll takes as much as fits its answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from twisted.logger import Logger

from realtime_chat.core.interfaces import R
from realtime_chat.values.codec import Entry
from realtime_chat.values.limits import begin_within

__all__ = ["EventBatch", "MessageBatch", "PollFanout"]


class MessageBatch:
    """Consecutive messages of one room.

    :ivar count: how many messages there are.
    :ivar entries: the messages.
    """

    __slots__ = ("_data", "count", "entries", "epoch", "room")

    def __init__(self, room: str, epoch: str, entries: Sequence[Entry]) -> None:
        self.room = room
        self.epoch = epoch
        self.entries = entries
        self.count = len(entries)
        self._data = _join(entries)

    def first(self, count: int) -> bytes:
        """The first ``count`` messages, as the items of a JSON array."""
        return self._data if count == self.count else _join(self.entries[:count])

    def begin_within(self, size: int) -> int:
        """How many messages begin within ``size`` bytes."""
        if len(self._data) <= size:
            return self.count
        return begin_within((len(entry.json) for entry in self.entries), size)

    def position(self, count: int) -> str:
        """The position after the first ``count`` messages."""
        return f"{self.epoch}:{self.entries[count - 1].offset}"


def _join(entries: Sequence[Entry]) -> bytes:
    return b",".join([entry.json for entry in entries])


class EventBatch:
    """One event that stands in no log.

    :ivar kind: its type.
    :ivar data: its JSON.
    """

    __slots__ = ("data", "kind")
    count: ClassVar[int] = 1

    def __init__(self, kind: str, data: bytes) -> None:
        self.kind = kind
        self.data = data


class PollFanout:
    """The same messages and events for every poll."""

    name = "poll"
    _log = Logger()

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> MessageBatch:
        """Encode consecutive messages of a room."""
        return MessageBatch(room, epoch, entries)

    def encode_event(self, kind: str, data: bytes) -> EventBatch:
        """Make a batch of one event that stands in no log."""
        return EventBatch(kind, data)

    def send(
        self, batch: MessageBatch | EventBatch, readers: Mapping[R, None], first: Collection[R] = ()
    ) -> list[tuple[R, int]]:
        """Answer all polls. None of them is left whose writing could be paused, and none has replies to send."""
        for reader in list(readers):
            try:
                reader.transport.send_batch(batch)
            except Exception:  # one bad client never disturbs another
                self._log.failure("a poll could not be answered")
        return []
