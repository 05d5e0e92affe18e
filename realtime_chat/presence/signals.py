"""How signals reach a room's readers, and how they are kept for clients that are between two polls."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from itertools import takewhile

from twisted.internet.interfaces import IReactorTime

from realtime_chat.core.node import Node
from realtime_chat.core.room import Room, Subscription
from realtime_chat.presence.leases import Lease

_OVERLAP = 5.0
"""Seconds by which a signal may reach one node later than another, if that one is very busy."""

MOST_HASHES = 16
"""Signals that a poll's version names at most; these are the newest."""

Hashes = dict[str, int]
"""Signals by their hashes, and when somebody had them, in seconds since 1970; the oldest first."""

_MOST_RECENT = 10_000
"""Signals of the last seconds that are known at most; each takes some 300 bytes."""


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

    def missed(self, lease: Lease, clock: IReactorTime) -> Sequence[tuple[str, bytes]]:
        """The signals that other clients sent since a lease's last poll.

        :returns: who sent them, and encoded events; none if the last poll is too long ago.
        """
        if self._kept is None:
            return ()
        last, lease.last_signal = lease.last_signal, self._all.number
        if lease.polled_at < clock.seconds() - self._all.seconds:
            return ()
        own = lease.client.client_hash
        return [(client_hash, data) for number, client_hash, data in self._kept if number > last and client_hash != own]

    def drop_if_unneeded(self) -> None:
        """Drop all signals if no client is between two polls."""
        if not self.waiting:
            self._all.size -= self._size
            self._kept = None
            self._size = 0


class SignalDelivery:
    """Delivers signals to live readers, and to clients that are between two polls.

    A poll may be answered with a signal by one node, and its next poll may reach another node before the signal does.
    So the answer's version has hashes of the signals that its client had in the last seconds, and when. If a node has
    had no signal of a hash yet, it doesn't send the next one to that poll, while it is no older than that. What is
    relayed has no id, and may be the same each second: so the one after that is sent.

    :param shared: whether there may be other nodes.
    :ivar kept: the signals that are kept for clients between two polls.
    """

    def __init__(self, node: Node, shared: bool) -> None:
        self.kept = KeptSignals(node.limits.signal_memory, node.limits.signals_bytes)
        self._clock = node.clock
        self._counters = node.counters
        self._room_bytes = node.limits.signal_bytes
        self._shared = shared
        self._rooms: dict[str, RoomSignals] = {}  # by name, of rooms with clients between two polls
        self._delivering: tuple[str, str] | None = None  # a room, and the hash of what its readers are sent now
        self._time = node.time
        self._recent: dict[tuple[str, str], float] = {}  # when a room had a signal of a hash, the oldest first
        self._had: dict[Subscription, Hashes] = {}  # of what a poll's client had in the last seconds
        self._to_come: dict[Subscription, Hashes] = {}  # those of which this node has had no signal yet
        self._to_come_later: dict[Lease, Hashes] = {}  # the same, of clients between two polls

    def stop(self) -> None:
        """Forget all signals."""
        self._recent.clear()
        self._had.clear()
        self._to_come.clear()
        self._to_come_later.clear()
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

    def end(self, lease: Lease) -> None:
        """A client's lease has ended."""
        self._to_come_later.pop(lease, None)
        self.drop_unneeded(lease.room.name)

    # Delivery

    def deliver(self, room: Room, signal: bytes, client_hash: str, skip: Sequence[Subscription]) -> None:
        """Send a signal to a room's live readers, and keep it for clients between two polls.

        :param signal: the encoded event.
        :param client_hash: of the client that sent it; empty for one that is relayed.
        :param skip: the readers of that client.
        """
        behind = room.reader_count - room.live_count()
        signals = self._rooms.get(room.name)
        if signals is not None:  # first, as polls that are answered now are away after that
            signals.add(self._clock.seconds(), client_hash, signal)
        if self._shared:
            signal_hash = _hash(signal, client_hash)
            self._note(room.name, signal_hash)
            skip = [*skip, *self._have_had(room, signal_hash)]
            self._delivering = room.name, signal_hash
        try:
            delivered, missed = room.broadcast("signal", signal, skip)
        finally:
            self._delivering = None
        self._counters.signals_delivered += delivered
        self._counters.signals_dropped += behind + len(missed)

    def resume(self, reader: Subscription, lease: Lease) -> None:
        """Send a poll the signals that were sent after its client's last poll."""
        signals = self._rooms.get(lease.room.name)
        to_come = self._to_come_later.pop(lease, {})
        if signals is not None:
            for client_hash, signal in signals.missed(lease, self._clock):
                if self._shared and self._is_had(reader, _hash(signal, client_hash), to_come):
                    continue
                self._counters.signals_delivered += 1
                reader.transport.send_event("signal", signal)
            self.drop_unneeded(lease.room.name)

    def _is_had(self, reader: Subscription, signal_hash: str, to_come: Hashes) -> bool:
        """Whether a poll's client has had a signal from another node. It has had it from now on."""
        if self._is_new(to_come.pop(signal_hash, None)):
            return True
        self._had.setdefault(reader, {})[signal_hash] = int(self._time())
        return False

    # What a poll's client has had from other nodes

    def has_had(self, reader: Subscription, hashes: Mapping[str, int]) -> None:
        """A poll comes, whose client had signals of these hashes in the last seconds."""
        self._drop_old()
        room = reader.room.name
        self._had[reader] = {known: at for known, at in hashes.items() if self._is_new(at)}
        if to_come := {known: at for known, at in self._had[reader].items() if (room, known) not in self._recent}:
            self._to_come[reader] = to_come

    def had_by(self, reader: Subscription) -> Hashes:
        """The hashes of what a poll's client has had in the last seconds, with what it is sent now; the newest last."""
        hashes = [(known, at) for known, at in self._had.get(reader, {}).items() if self._is_new(at)]
        if self._delivering is not None and self._delivering[0] == reader.room.name:
            hashes.append((self._delivering[1], int(self._time())))
        return dict(hashes[-MOST_HASHES:])

    def forget(self, reader: Subscription) -> None:
        """A poll has gone. What it isn't sent again may come before the client's next poll."""
        self._had.pop(reader, None)
        to_come = self._to_come.pop(reader, None)
        if to_come and reader.lease is not None:
            self._to_come_later[reader.lease] = to_come

    def _have_had(self, room: Room, signal_hash: str) -> list[Subscription]:
        """The readers of a room that have had a signal from another node. They get the next one that is the same."""
        found = [reader for reader, known in self._to_come.items() if signal_hash in known and reader.room is room]
        return [reader for reader in found if self._is_new(self._to_come[reader].pop(signal_hash))]

    def _is_new(self, at: int | None) -> bool:
        """Whether something was in the last seconds. The clocks of the nodes may differ by some."""
        return at is not None and abs(self._time() - at) <= _OVERLAP

    def _note(self, room: str, signal_hash: str) -> None:
        """This node has a signal."""
        self._recent.pop((room, signal_hash), None)
        self._recent[room, signal_hash] = self._clock.seconds()
        self._drop_old()
        if len(self._recent) > _MOST_RECENT:
            del self._recent[next(iter(self._recent))]

    def _drop_old(self) -> None:
        oldest = self._clock.seconds() - _OVERLAP
        for signal in [signal for signal, _ in takewhile(lambda item: item[1] <= oldest, self._recent.items())]:
            del self._recent[signal]


def _hash(signal: bytes, client_hash: str) -> str:
    """A hash that is the same on all nodes: of what is relayed without the time, which each node adds."""
    return blake2b(signal if client_hash else signal.rpartition(b',"at":')[0], digest_size=4).hexdigest()
