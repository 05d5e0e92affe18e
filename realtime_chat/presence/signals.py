"""How signals reach a room's readers."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from realtime_chat.core.interfaces import TurnClock
from realtime_chat.core.room import Room
from realtime_chat.core.subscription import Subscription
from realtime_chat.presence.leases import Lease
from realtime_chat.presence.membership_table import MembershipTable
from realtime_chat.values.counters import Counters

__all__ = ["SignalDelivery"]

_OVERLAP = 0.5
"""Seconds by which a signal may reach one node later than another."""


class SignalDelivery:
    """Delivers signals to live readers, and to clients that are between two polls.

    A poll may be answered with a signal by one node, and its next poll may reach another node before the signal does.
    So the answer's version has a hash of the signal, and the other node doesn't deliver that signal again.
    """

    def __init__(self, table: MembershipTable, clock: TurnClock, counters: Counters) -> None:
        self._table = table
        self._clock = clock
        self._counters = counters
        self._delivering: tuple[str, bytes] | None = None  # a room, and the signal that its readers are sent now
        self._received: dict[Subscription, tuple[float, str]] = {}  # until when, and the hash of the signal

    def stop(self) -> None:
        """Forget which signals polls have received from other nodes."""
        self._received.clear()

    def deliver(self, room: Room, signal: bytes, client_hash: str, skip: Sequence[Subscription]) -> None:
        """Send a signal to a room's live readers, and keep it for clients between two polls.

        :param signal: the encoded event.
        :param client_hash: of the client that sent it.
        :param skip: the readers of that client.
        """
        behind = room.subscribers - room.live_count()
        membership = self._table.by_room.get(room.name)
        if membership is not None:  # first, as polls that are answered now are away after that
            membership.signals.add(self._clock.seconds(), client_hash, signal)
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
        membership = self._table.by_room[lease.room.name]
        if lease.last_signal != membership.signal_count:
            for signal in membership.signals.missed(lease, self._clock.seconds()):
                self._counters.signals_delivered += 1
                reader.transport.send_event("signal", signal)
        membership.drop_unneeded_signals()

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
