"""Recent signals, kept for clients that are between two polls."""

from __future__ import annotations

from collections import deque

from realtime_chat.presence.leases import Lease

__all__ = ["KeptSignals", "RoomSignals"]


class KeptSignals:
    """The signals that all rooms of this node keep, oldest first.

    :param seconds: how long a signal is kept.
    :param most_bytes: how many bytes all signals may have together.
    :ivar size: how many bytes they have.
    """

    __slots__ = ("_most_bytes", "_order", "seconds", "size")

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self.seconds = seconds
        self._most_bytes = most_bytes
        self._order: deque[tuple[float, RoomSignals, int]] = deque()  # rooms may have dropped some of them already
        self.size = 0

    def add(self, now: float, signals: RoomSignals, size: int) -> None:
        """Count a room's newest signal. Drop the oldest of all rooms that are too old or too much.

        :param size: bytes of the signal.
        """
        order = self._order
        order.append((now, signals, signals.number))
        self.size += size
        while order and (self.size > self._most_bytes or order[0][0] < now - self.seconds):
            _, oldest, number = order.popleft()
            oldest.drop_up_to(number)


class RoomSignals:
    """The signals that one room keeps, while at least one client is between two polls.

    :param most_bytes: how many bytes they may have together.
    :param kept: the signals of all rooms, these included. It also drops those that are too old.
    :ivar number: how many signals there were in all.
    :ivar waiting: how many leases are between two polls.
    """

    __slots__ = ("_all", "_kept", "_most_bytes", "_size", "number", "waiting")

    def __init__(self, most_bytes: int, kept: KeptSignals) -> None:
        self._most_bytes = most_bytes
        self._all = kept
        self._kept: deque[tuple[int, str, bytes]] | None = None
        self._size = 0
        self.waiting = 0
        self.number = 0

    def add(self, now: float, client_hash: str, data: bytes) -> None:
        """Count a signal, and keep it if a client is between two polls.

        :param client_hash: of the client that sent it.
        :param data: the encoded event.
        """
        self.number += 1
        self.drop_if_unneeded()
        if not self.waiting:
            return
        if self._kept is None:
            self._kept = deque()
        self._kept.append((self.number, client_hash, data))
        self._size += len(data)
        self._all.add(now, self, len(data))
        while self._kept and self._size > self._most_bytes:
            self._drop_oldest(self._kept)

    def _drop_oldest(self, kept: deque[tuple[int, str, bytes]]) -> None:
        size = len(kept.popleft()[-1])
        self._size -= size
        self._all.size -= size

    def drop_up_to(self, number: int) -> None:
        """Drop the signals up to a number."""
        while self._kept and self._kept[0][0] <= number:
            self._drop_oldest(self._kept)

    def missed(self, lease: Lease, now: float) -> list[bytes]:
        """The signals that other clients sent since a lease's last poll.

        :returns: encoded events; none if the last poll is too long ago.
        """
        last, lease.last_signal = lease.last_signal, self.number
        if lease.polled_at < now - self._all.seconds or self._kept is None:
            return []
        own = lease.client.client_hash
        return [data for number, client_hash, data in self._kept if number > last and client_hash != own]

    def drop_if_unneeded(self) -> None:
        """Drop all signals if no client is between two polls."""
        if not self.waiting:
            self._all.size -= self._size
            self._kept = None
            self._size = 0
