"""The members of one room, and the events that tell readers what has changed.

Each change has a *version*, a number that only grows. Changes are collected in a *window*, which :meth:`take_event
<Membership.take_event>` ends. Its event is a difference, or a snapshot where a difference isn't enough. In a large room
it has the number of members alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from realtime_chat.core.room import Room, Subscription
from realtime_chat.presence.leases import (
    UNKNOWN,
    AnyClient,
    AnyLease,
    CachedMember,
    Lease,
    RemoteLease,
    looks_same,
    seniority,
)
from realtime_chat.values import codec
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import RemoteClient

__all__ = ["DIGEST_OF_EMPTY", "MemberList", "MemberPage", "Membership"]


class MemberList(NamedTuple):
    """All members of a room.

    :param size: how many there are.
    :param members: a JSON array, sorted by id; None if there are too many to list.
    """

    size: int
    members: bytes | None

    def digest(self) -> str:
        """A hash of the list, 16 hexadecimal characters. Nodes with the same members have the same digest."""
        return blake2b(b"%d" % self.size if self.members is None else self.members, digest_size=8).hexdigest()


DIGEST_OF_EMPTY = MemberList(0, b"[]").digest()


class MemberPage(NamedTuple):
    """One page of a room's members.

    :param size: how many members there are in all.
    :param members: a JSON array of those on the page, sorted by id.
    :param after: the id after which the next page begins; None on the last page.
    """

    size: int
    members: bytes
    after: str | None


class _JointMember(CachedMember):
    """A member with several leases. A member with one lease is represented by that lease itself."""

    __slots__ = ("leases",)

    def __init__(self, leases: Sequence[AnyLease]) -> None:
        super().__init__()
        self.leases = leases

    @property
    def client(self) -> AnyClient:
        """The client whose name or state changed last. It says the member's name and state."""
        return max((lease.client for lease in self.leases), key=seniority)

    @property
    def source(self) -> AnyClient:
        """See :class:`CachedMember`."""
        return self.client


_Member = Lease | RemoteLease | _JointMember


class Membership:
    """The members of one room, and what its readers were sent of them.

    :param limits: how many members are listed; of a larger room only the number is sent. It counts as small again when
        a tenth of them are gone, so that one client that comes and goes doesn't cause a snapshot each time.
    :param version: the first version.
    :ivar version: of the last change.
    :ivar due: when the next event may be sent.
    :ivar listed: whether the room is small enough to list its members.
    :ivar awaiting_digest: readers that hold another node's digest, which isn't this node's. With each: since when (in
        milliseconds since 1970), and the digest.
    """

    __slots__ = (
        "_already_current",
        "_before_window",
        "_changed_in_window",
        "_count_sent",
        "_digest",
        "_digest_sent",
        "_gone_in_window",
        "_limits",
        "_member_list",
        "_needs_snapshot",
        "_only",
        "_several",
        "_snapshot_given",
        "_sorted_ids",
        "awaiting_digest",
        "due",
        "listed",
        "room",
        "version",
    )

    def __init__(self, room: Room, limits: Limits, version: int) -> None:
        self.room = room
        self.version = room.members_version_sent = version
        self._only: _Member | None = None  # the only member: most rooms never have two, and need no dictionary
        self._several: dict[str, _Member] | None = None
        self.awaiting_digest: dict[Subscription, tuple[int, str]] | None = None
        self.due = 0.0
        self.listed = True
        self._already_current: list[Subscription] | None = None
        self._limits = limits
        self._count_sent = 0
        self._member_list: bytes | None = None
        self._digest: str | None = None
        self._digest_sent: str | None = None
        self._sorted_ids: list[str] | None = None
        self._start_window()

    def _start_window(self) -> None:
        """Everything was sent: collect the changes of the next event."""
        self._before_window: dict[str, bytes | None] | None = None  # the changed members, as they were sent before
        self._gone_in_window: dict[str, bytes] | None = None
        self._changed_in_window = False
        self._snapshot_given = False  # whether a reader got a snapshot after a change in this window
        self._needs_snapshot = False  # whether the event has to be a snapshot

    @property
    def members(self) -> Mapping[str, _Member]:
        """The members by user id."""
        if self._several is not None:
            return self._several
        return {} if self._only is None else {self._only.client.user.id: self._only}

    def has_local_members(self) -> bool:
        """Whether a client of this node is in the room."""
        return any(isinstance(lease, Lease) for member in self.members.values() for lease in member.leases)

    # Changes

    def add(self, lease: AnyLease, version: int) -> bool:
        """Add a lease.

        :returns: whether readers see a change.
        """
        user = lease.client.user.id
        member = self.members.get(user)
        return self._put(user, member, lease if member is None else _JointMember([*member.leases, lease]), version)

    def remove(self, lease: AnyLease, version: int) -> bool:
        """Remove a lease.

        :returns: whether readers see a change.
        """
        user = lease.client.user.id
        member = self.members[user]
        rest = [other for other in member.leases if other is not lease]
        if len(rest) > 1:
            return self._put(user, member, _JointMember(rest), version)
        return self._put(user, member, rest[0] if rest else None, version)

    def _put(self, user: str, before: _Member | None, after: _Member | None, version: int) -> bool:
        """Put one member in the place of another, or of none.

        :returns: whether readers see a change.
        """
        visible = before is None or after is None or not looks_same(before.client, after.client)
        if visible:
            self.before_change(user)
        if after is None:
            self._delete(user)
            if self.listed and before is not None:
                self._gone_in_window = self._gone_in_window or {}
                self._gone_in_window[user] = before.json
        elif self._several is None and (self._only is None or self._only.client.user.id == user):
            self._only = after
        else:
            if self._several is None:
                self._several, self._only = dict(self.members), None
            self._several[user] = after
        if visible:
            self.after_change(version)
        return visible

    def _delete(self, user: str) -> None:
        if self._several is None:
            self._only = None
        else:
            del self._several[user]

    def update(self, lease: RemoteLease, client: RemoteClient, version: int) -> bool:
        """Take what another node published of a client that is in the room already.

        :param client: has the same user as before.
        :returns: whether readers see a change.
        """
        user = client.user.id
        member = self.members[user]
        clients = [client if other is lease else other.client for other in member.leases]
        visible = not looks_same(member.client, max(clients, key=seniority))
        if visible:
            self.before_change(user)
        lease.replace_client(client)
        if visible:
            self.after_change(version)
        return visible

    def before_change(self, user: str) -> None:
        """A member's name or state is about to change; :meth:`after_change` follows."""
        member = self.members.get(user)
        if self.listed:
            if self._before_window is None:
                self._before_window = {}
            if user not in self._before_window:
                self._before_window[user] = None if member is None else member.json
        if isinstance(member, _JointMember):
            member.forget_json()

    def after_change(self, version: int) -> None:
        """Readers see a change: the next event has it."""
        self.version = version
        self._changed_in_window = True
        self._member_list = self._digest = None
        self._already_current = None
        if self.listed:
            self._sorted_ids = None
        limit = self._limits.presence_limit
        listed = len(self.members) <= (limit if self.listed else limit - limit // 10)
        if listed != self.listed:
            self.listed = listed
            self._needs_snapshot = True
            self._before_window = self._gone_in_window = None

    # What readers are sent

    def snapshot_for(self, reader: Subscription) -> MemberList:
        """All members, for a reader that is sent later changes by events."""
        self._snapshot_given = self._snapshot_given or self._changed_in_window
        self.mark_current(reader)
        return self.member_list()

    def mark_current(self, reader: Subscription) -> None:
        """A reader knows all changes up to now: it isn't sent the event of these."""
        if self._changed_in_window:
            if self._already_current is None:
                self._already_current = []
            self._already_current.append(reader)

    @property
    def already_current(self) -> list[Subscription]:
        """Readers that know all changes of this window."""
        return [] if self._already_current is None else self._already_current

    def take_already_current(self) -> list[Subscription]:
        """Return the readers that know all changes of this window, and forget them: its event is sent now."""
        current, self._already_current = self.already_current, None
        return current

    def member_list(self) -> MemberList:
        """All members, or their number if there are too many to list."""
        if not self.listed:
            return MemberList(len(self.members), None)
        if self._only is not None:  # the member itself has its JSON
            return MemberList(1, _array([self._only.json]))
        members = self.members
        if self._member_list is None:
            self._member_list = _array([members[user].json for user in sorted(members)])
        return MemberList(len(members), self._member_list)

    def page(self, after: str, limit: int) -> MemberPage:
        """Up to ``limit`` members with ids above ``after``. In a large room it may be as late as the next event."""
        if self._sorted_ids is None:
            self._sorted_ids = sorted(self.members)
        start = bisect_right(self._sorted_ids, after)
        ids = self._sorted_ids[start : start + limit]
        members = [self.members[user].json for user in ids if user in self.members]
        more = start + limit < len(self._sorted_ids)
        return MemberPage(len(self.members), _array(members), ids[-1] if more else None)

    def take_event(self) -> bytes | None:
        """End the window, and return its encoded event for all readers; None if they see no change."""
        event = self._event()
        if event is not None:
            self.room.members_version_sent = self.version
            self._count_sent = len(self.members)
        self._start_window()
        self._sorted_ids = None
        if self._digest_sent is not None:
            self._digest_sent = self.digest()
        return event

    def _event(self) -> bytes | None:
        name, size = self.room.name, len(self.members)
        if self._needs_snapshot:
            return codec.encode_presence(name, *self.member_list())
        if not self.listed:
            return codec.encode_presence(name, size) if self._snapshot_given or size != self._count_sent else None
        joined, left = self._difference()
        return codec.encode_presence_delta(name, size, _array(joined), _array(left)) if joined or left else None

    def _difference(self) -> tuple[list[bytes], list[bytes]]:
        """The members that joined or changed, and those that left.

        If a reader got a snapshot in this window, changes that cancel out are included, as the snapshot may lie between
        them.
        """
        joined, left = [], []
        for user, before in (self._before_window or {}).items():
            member = self.members.get(user)
            if member is not None:
                if self._snapshot_given or member.json != before:
                    joined.append(member.json)
            elif before is not None:
                left.append(before)
            elif self._snapshot_given and self._gone_in_window is not None:
                left.append(self._gone_in_window[user])
        return joined, left

    # Digests: versions that other nodes understand

    def digest(self) -> str:
        """The digest of the members as they are now."""
        if self._digest is None:
            self._digest = self.member_list().digest()
        return self._digest

    def digest_at(self, version: int) -> str | None:
        """The digest of the members at a version; None if it isn't known any more."""
        if self._digest_sent is None and not self._changed_in_window:
            self._digest_sent = self.digest()  # from now on it is kept
        if version >= self.version or (version >= self.room.members_version_sent and not self._changed_in_window):
            return self.digest()
        return self._digest_sent if version == self.room.members_version_sent else None

    def version_of(self, digest: str) -> int:
        """The version that has a digest; UNKNOWN if it is neither the newest nor the one that was sent last."""
        if digest == self.digest():
            return self.version
        return self.room.members_version_sent if digest == self._digest_sent else UNKNOWN


def _array(members: Sequence[bytes]) -> bytes:
    return b"[%b]" % b",".join(members)
