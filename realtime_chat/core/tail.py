"""The newest part of a room's log, kept in memory."""

from __future__ import annotations

from realtime_chat.values.codec import Entry


class Tail:
    """Consecutive entries up to the log's top, bounded in count and in bytes.

    :param most: how many entries are kept at most.
    :param most_bytes: how many bytes of encoded messages are kept at most; the newest entry is always kept.
    :ivar changes: a number that grows whenever it holds something else.
    """

    __slots__ = ("_entries", "_forgotten", "_most", "_most_bytes", "changes", "size")

    def __init__(self, most: int, most_bytes: int) -> None:
        self._entries: list[Entry] = []
        self._forgotten = 0  # entries at the front that are not yet cut off
        self._most = most
        self._most_bytes = most_bytes
        self.size = 0
        self.changes = 0

    def __len__(self) -> int:
        return len(self._entries) - self._forgotten

    @property
    def first(self) -> int | None:
        """The lowest offset that it holds; None if it is empty."""
        return self._entries[self._forgotten].offset if len(self) else None

    def append(self, entry: Entry) -> None:
        """Add the entry that follows the last one."""
        self.changes += 1
        self._entries.append(entry)
        self.size += len(entry.json)
        while len(self) > self._most or (self.size > self._most_bytes and len(self) > 1):
            self._forget()
        if self._forgotten > len(self) + 16:
            del self._entries[: self._forgotten]
            self._forgotten = 0

    def _forget(self) -> None:
        self.changes += 1
        self.size -= len(self._entries[self._forgotten].json)
        self._forgotten += 1

    def forget_before(self, at: float) -> None:
        """Forget what is older than ``at``, in milliseconds since 1970."""
        while len(self) and self._entries[self._forgotten].at < at:
            self._forget()

    def clear(self) -> None:
        """Forget all."""
        self.changes += 1
        self._entries.clear()
        self._forgotten = self.size = 0

    def after(self, offset: int, most: int) -> list[Entry] | None:
        """Up to ``most`` entries that follow ``offset``; None if it doesn't reach back so far."""
        first = self.first
        if first is None or offset + 1 < first:
            return None
        start = self._forgotten + offset + 1 - first
        return self._entries[start : start + most]

    def before(self, offset: int, most: int) -> list[Entry]:
        """The last entries that it holds below ``offset``, at most ``most``."""
        first = self.first
        if first is None:
            return []
        start, end = self._forgotten, min(len(self._entries), self._forgotten + offset - first)
        return self._entries[max(start, end - most) : max(start, end)]
