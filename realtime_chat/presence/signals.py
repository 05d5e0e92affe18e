"""How signals reach a room's readers, and how they are kept for clients that are between two polls."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from hashlib import blake2b

from twisted.internet.interfaces import IReactorTime

from realtime_chat.core.node import Node
from realtime_chat.core.room import Room, Subscription
from realtime_chat.presence.leases import Lease

_OVERLAP = 0.5
"""Seconds by which a signal may reach one node later than another."""


class KeptSignals:
    """The signals that all rooms of this node keep, oldest first.

    :param seconds: how long a signal is kept.
    :param most_bytes: how many bytes all signals may have together.
    :ivar number: how many signals were kept in all.
    :ivar size: how many bytes there are now.
    """

    __slots__ = ("_most_bytes", "_order", "number", "seconds", "size")

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self.seconds = seconds
        self._most_bytes = most_bytes
        self._order: deque[tuple[float, RoomSignals, int]] = deque()  # rooms may have dropped some of them already
        self.number = 0
        self.size = 0

    def add(self, now: float, signals: RoomSignals, size: int) -> None:
        """Count a room's newest signal. Drop the oldest of all rooms that are too old or too much.

        :param size: bytes of the signal.
        """
        order = self._order
        order.append((now, signals, self.number))
        self.size += size
        while order and (self.size > self._most_bytes or order[0][0] < now - self.seconds):
            _, oldest, number = order.popleft()
            oldest.drop_up_to(number)


class RoomSignals:
    """The signals that one room keeps, while at least one client is between two polls.

    :param most_bytes: how many bytes they may have together.
    :param kept: the signals of all rooms, these included. It also drops those that are too old.
    :ivar waiting: how many leases are between two polls.
    """

    __slots__ = ("_all", "_kept", "_most_bytes", "_size", "waiting")

    def __init__(self, most_bytes: int, kept: KeptSignals) -> None:
        self._most_bytes = most_bytes
        self._all = kept
        self._kept: deque[tuple[int, str, bytes]] | None = None
        self._size = 0
        self.waiting = 0

    def add(self, now: float, client_hash: str, data: bytes) -> None:
        """Keep a signal if a client is between two polls.

        :param client_hash: of the client that sent it.
        :param data: the encoded event.
        """
        self.drop_if_unneeded()
        if not self.waiting:
            return
        if self._kept is None:
            self._kept = deque()
        self._all.number += 1
        self._kept.append((self._all.number, client_hash, data))
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

    def missed(self, lease: Lease, clock: IReactorTime) -> Sequence[bytes]:
        """The signals that other clients sent since a lease's last poll.

        :returns: encoded events; none if the last poll is too long ago.
        """
        if self._kept is None:
            return ()
        last, lease.last_signal = lease.last_signal, self._all.number
        if lease.polled_at < clock.seconds() - self._all.seconds:
            return ()
        own = lease.client.client_hash
        return [data for number, client_hash, data in self._kept if number > last and client_hash != own]

    def drop_if_unneeded(self) -> None:
        """Drop all signals if no client is between two polls."""
        if not self.waiting:
            self._all.size -= self._size
            self._kept = None
            self._size = 0


class SignalDelivery:
    """Delivers signals to live readers, and to clients that are between two polls.

    A poll may be answered with a signal by one node, and its next poll may reach another node before the signal does.
    So the answer's version has a hash of the signal, and the other node doesn't deliver that signal again.

    :ivar kept: the signals that are kept for clients between two polls.
    """

    def __init__(self, node: Node) -> None:
        self.kept = KeptSignals(node.limits.signal_memory, node.limits.signals_bytes)
        self._clock = node.clock
        self._counters = node.counters
        self._room_bytes = node.limits.signal_bytes
        self._rooms: dict[str, RoomSignals] = {}  # by name, of rooms with clients between two polls
        self._delivering: tuple[str, bytes] | None = None  # a room, and the signal that its readers are sent now
        self._received: dict[Subscription, tuple[float, str]] = {}  # until when, and the hash of the signal

    def stop(self) -> None:
        """Forget all signals."""
        self._received.clear()
        self._rooms.clear()

    # Clients between two polls

    def keep(self, room: str) -> None:
        """A client is between two polls of a room: keep the signals that are sent meanwhile."""
        signals = self._rooms.get(room)
        if signals is None:
            signals = self._rooms[room] = RoomSignals(self._room_bytes, self.kept)
        signals.waiting += 1

    def stop_keeping(self, room: str) -> None:
        """A client is no longer between two polls. Its signals are kept until :meth:`resume`."""
        self._rooms[room].waiting -= 1

    def drop_unneeded(self, room: str) -> None:
        """Drop a room's signals if no client is between two polls."""
        signals = self._rooms.get(room)
        if signals is not None and not signals.waiting:
            signals.drop_if_unneeded()
            del self._rooms[room]

    # Delivery

    def deliver(self, room: Room, signal: bytes, client_hash: str, skip: Sequence[Subscription]) -> None:
        """Send a signal to a room's live readers, and keep it for clients between two polls.

        :param signal: the encoded event.
        :param client_hash: of the client that sent it.
        :param skip: the readers of that client.
        """
        behind = room.reader_count - room.live_count()
        signals = self._rooms.get(room.name)
        if signals is not None:  # first, as polls that are answered now are away after that
            signals.add(self._clock.seconds(), client_hash, signal)
        if self._received:
            skip = [*skip, *self._have_received(_hash(signal))]
        self._delivering = room.name, signal
        try:
            delivered, missed = room.broadcast("signal", signal, skip)
        finally:
            self._delivering = None
        self._counters.signals_delivered += delivered
        self._counters.signals_dropped += behind + len(missed)

    def resume(self, reader: Subscription, lease: Lease) -> None:
        """Send a poll the signals that were sent after its client's last poll."""
        signals = self._rooms.get(lease.room.name)
        if signals is not None:
            for signal in signals.missed(lease, self._clock):
                self._counters.signals_delivered += 1
                reader.transport.send_event("signal", signal)
            self.drop_unneeded(lease.room.name)

    def hash_for(self, room: str) -> str | None:
        """The hash of the signal that a room's readers are sent now; None if they are sent none."""
        delivering = self._delivering
        return None if delivering is None or delivering[0] != room else _hash(delivering[1])

    def has_received(self, reader: Subscription, signal_hash: str) -> None:
        """A poll has received a signal from another node already."""
        self._received[reader] = self._clock.seconds() + _OVERLAP, signal_hash

    def forget(self, reader: Subscription) -> None:
        """A reader has gone."""
        self._received.pop(reader, None)

    def _have_received(self, signal_hash: str) -> list[Subscription]:
        now = self._clock.seconds()
        return [reader for reader, (until, known) in self._received.items() if known == signal_hash and until > now]


def _hash(signal: bytes) -> str:
    """A hash that is the same on all nodes: without the time, which each node adds to what it relays."""
    return blake2b(signal.rpartition(b',"at":')[0], digest_size=4).hexdigest()
