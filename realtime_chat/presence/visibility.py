"""Which clients are seen in their rooms, and which readers see them. Both need the right to presence."""

from __future__ import annotations

from realtime_chat.core.room import Subscription
from realtime_chat.presence.leases import UNKNOWN, UNSEEING, Lease
from realtime_chat.presence.membership_table import MembershipTable
from realtime_chat.presence.remote_members import PresenceOutbox


class Visibility:
    """Makes the clients of leases members, unless they are hidden.

    A hidden lease is like any other for signals and between polls, but its client is no member, here or elsewhere.
    """

    def __init__(self, table: MembershipTable, outbox: PresenceOutbox) -> None:
        self._table = table
        self._outbox = outbox

    def add(self, lease: Lease) -> None:
        """A lease begins."""
        if lease.hidden:
            self._table.hide(lease)
        else:
            self._table.add(self._table.of(lease.room), lease)
            self._outbox.add(lease)

    def remove(self, lease: Lease) -> None:
        """A lease ends."""
        if lease.hidden:
            self._table.unhide(lease)
        else:
            self._table.remove(self._table.by_room[lease.room.name], lease)
            self._outbox.remove(lease)

    def set_hidden(self, lease: Lease, hidden: bool) -> None:
        """The client of a lease may be seen from now on, or no longer."""
        if lease.hidden is hidden:
            return
        self.remove(lease)
        lease.hidden = hidden
        lease.published = False
        self.add(lease)

    def blind(self, reader: Subscription) -> None:
        """A subscription may not see who is in the room."""
        self._table.stop_awaiting(reader)  # or its end would set the version
        reader.members_version_sent = UNSEEING
        self._table.add_unseeing(reader)

    def set_seeing(self, reader: Subscription, may_see: bool) -> None:
        """A subscription may see who is in the room, or not; so its client may be seen, or not."""
        if may_see is (reader.members_version_sent != UNSEEING):
            return
        lease: Lease | None = reader.lease
        if lease is not None:
            self.set_hidden(lease, not may_see)
        if not may_see:
            self.blind(reader)
            return
        self._table.remove_unseeing(reader)
        reader.members_version_sent = UNKNOWN
        if reader.live:
            self._table.send_list(reader)
