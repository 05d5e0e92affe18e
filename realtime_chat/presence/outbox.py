"""What this node tells the other nodes of its clients, gathered for a moment."""

from __future__ import annotations

from realtime_chat.core.interfaces import DelayedCall, IBroker, TurnClock
from realtime_chat.presence.leases import NEVER, Lease
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import RemoteClient

__all__ = ["PresenceOutbox"]


class PresenceOutbox:
    """Gathers leases that were added, changed or removed, and publishes them together.

    :param broker: publishes them. Nothing is gathered if there are no other nodes.
    """

    def __init__(self, clock: TurnClock, limits: Limits, broker: IBroker) -> None:
        self._clock = clock
        self._limits = limits
        self._broker = broker
        self._changes: dict[str, dict[str, Lease | None]] = {}  # by room and client hash; None for one that is gone
        self._timer: DelayedCall | None = None
        self._published_at = NEVER

    def stop(self) -> None:
        """Forget what was gathered, and publish no more."""
        self._changes.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def add(self, lease: Lease) -> None:
        """Publish a new lease."""
        if self._broker.shared:
            lease.published = lease.client.client_hash in self._changes.get(lease.room.name, ())
            self._put(lease, lease)

    def update(self, lease: Lease) -> None:
        """Publish that the client of a lease has changed."""
        if self._broker.shared:
            self._put(lease, lease)

    def remove(self, lease: Lease) -> None:
        """Publish that a lease is gone, if other nodes know of it."""
        if lease.published:
            self._put(lease, None)
        elif self._broker.shared:
            del self._changes[lease.room.name][lease.client.client_hash]

    def _put(self, lease: Lease, change: Lease | None) -> None:
        self._changes.setdefault(lease.room.name, {})[lease.client.client_hash] = change
        if self._timer is None:
            limits = self._limits
            wait = self._published_at + limits.presence_interval - self._clock.seconds()
            self._timer = self._clock.callLater(max(limits.presence_gather, wait), self._publish)

    def _publish(self) -> None:
        self._timer = None
        self._published_at = self._clock.seconds()
        changes, self._changes = self._changes, {}
        for room, leases in changes.items():
            came = [_publish_client(lease) for lease in leases.values() if lease is not None]
            gone = [client_hash for client_hash, lease in leases.items() if lease is None]
            if came or gone:
                self._broker.publish_presence(room, came, gone)


def _publish_client(lease: Lease) -> RemoteClient:
    client, lease.published = lease.client, True
    return RemoteClient(client.client_hash, client.user, client.state, client.changed)
