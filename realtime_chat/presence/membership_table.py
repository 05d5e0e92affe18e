"""The memberships of all rooms, and the events that tell readers of their changes.

An event is sent a moment after the first change that it has, and not sooner than an interval after the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TypeVar

from twisted.internet.interfaces import IDelayedCall

from realtime_chat.core.node import Node
from realtime_chat.core.room import Room, Subscription
from realtime_chat.presence.leases import UNKNOWN, AnyLease, Lease
from realtime_chat.presence.membership import AwaitingDigest, MemberList, Membership
from realtime_chat.values import codec

T = TypeVar("T")


class MembershipTable:
    """The memberships of the rooms that have members, or had some a moment ago.

    :ivar by_room: the memberships by the names of their rooms.
    :ivar hidden: by room, the leases of clients that may not be seen.
    :ivar on_awaiting_digest: called after an event's time with the membership and the readers that were waiting for
        another node's digest.
    """

    def __init__(self, node: Node) -> None:
        self.by_room: dict[str, Membership] = {}
        self.on_awaiting_digest: Callable[[Membership, AwaitingDigest], None] = lambda membership, awaiting: None
        self.hidden: dict[str, dict[Lease, None]] = {}
        self._unseeing: dict[str, dict[Subscription, None]] = {}
        self._clock = node.clock
        self._limits = node.limits
        self._counters = node.counters
        self._versions = count(1)
        self._changed: dict[Membership, None] = {}
        self._timer: IDelayedCall | None = None

    def stop(self) -> None:
        """Forget everything, and send no more events."""
        for table in (self.by_room, self.hidden, self._unseeing):
            table.clear()
        self._changed.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Changes

    def of(self, room: Room) -> Membership:
        """A room's membership. It is made if there is none."""
        membership = self.by_room.get(room.name)
        if membership is None:
            membership = Membership(room, self._limits, self._versions)
            self.by_room[room.name] = membership
        return membership

    def drop(self, membership: Membership) -> None:
        """Forget a room's membership, and send no event of its changes."""
        del self.by_room[membership.room.name]
        self._changed.pop(membership, None)

    def add(self, membership: Membership, lease: AnyLease) -> None:
        """Add a lease, and send an event of that soon."""
        if membership.add(lease):
            self.schedule(membership)

    def remove(self, membership: Membership, lease: AnyLease) -> None:
        """Remove a lease, and send an event of that soon."""
        if membership.remove(lease):
            self.schedule(membership)

    # Clients that may not be seen, and readers that may not see

    def hide(self, lease: Lease) -> None:
        """Keep a lease whose client may not be seen."""
        self.hidden.setdefault(lease.room.name, {})[lease] = None

    def unhide(self, lease: Lease) -> None:
        """Forget a lease that was kept by :meth:`hide`."""
        _discard(self.hidden, lease.room.name, lease)

    def add_unseeing(self, reader: Subscription) -> None:
        """Send no events of a room's members to a reader."""
        self._unseeing.setdefault(reader.room.name, {})[reader] = None

    def remove_unseeing(self, reader: Subscription) -> None:
        """Send them to the reader again, or forget it."""
        _discard(self._unseeing, reader.room.name, reader)

    # Events

    def schedule(self, membership: Membership) -> None:
        """Send an event of a room's changes soon, together with what else changes until then."""
        self._changed[membership] = None
        if self._timer is None:
            wait = max(self._limits.presence_gather, membership.due - self._clock.seconds())
            self._timer = self._clock.callLater(min(wait, self._limits.presence_interval), self._send_due)

    def _send_due(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for membership in [membership for membership in self._changed if membership.due <= now]:
            del self._changed[membership]
            self._send_event(membership, now)
        if self._changed:
            self._timer = self._clock.callLater(self._limits.presence_interval, self._send_due)

    def _send_event(self, membership: Membership, now: float) -> None:
        awaiting, membership.awaiting_digest = membership.awaiting_digest, None
        skip = [*membership.take_already_current(), *(awaiting or ()), *self._unseeing.get(membership.room.name, ())]
        event = membership.take_event()
        if event is not None:
            membership.due = now + self.interval(len(membership.members))
            delivered, missed = membership.room.broadcast("presence", event, skip)
            self._counters.presence += delivered
            for reader in missed:
                reader.members_version_sent = UNKNOWN
        if not membership.members:
            del self.by_room[membership.room.name]
            membership.room.release()
        if awaiting:
            self.on_awaiting_digest(membership, awaiting)

    def interval(self, members: int) -> float:
        """Seconds between two events of a room. They grow with it, so that traffic doesn't grow with its square."""
        limits = self._limits
        return min(limits.presence_slowest, max(limits.presence_interval, members / 1000))

    # Snapshots

    def list_members(self, room: str, reader: Subscription | None) -> MemberList:
        """A room's members.

        :param reader: is sent this list, and later changes by events; None if nobody is.
        """
        membership = self.by_room.get(room)
        if membership is None:
            return MemberList(0, b"[]")
        if reader is None:
            return membership.member_list()
        reader.members_version_sent = membership.version
        return membership.list_for(reader)

    def send_list(self, reader: Subscription) -> None:
        """Send a full list to a reader that has missed an event."""
        room = reader.room
        self.stop_awaiting(reader)
        members = self.list_members(room.name, reader)
        reader.members_version_sent = max(reader.members_version_sent, room.members_version_sent)
        self._counters.presence += 1
        reader.transport.send_event("presence", codec.encode_presence(room.name, *members))

    def stop_awaiting(self, reader: Subscription) -> None:
        """A reader no longer waits for another node's digest."""
        membership = self.by_room.get(reader.room.name)
        if membership is not None and membership.awaiting_digest is not None:
            membership.awaiting_digest.pop(reader, None)


def _discard(table: dict[str, dict[T, None]], room: str, item: T) -> None:
    items = table.get(room)
    if items is not None:
        items.pop(item, None)
        if not items:
            del table[room]
