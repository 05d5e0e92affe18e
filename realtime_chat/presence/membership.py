"""The members of one room, and the events that tell readers what has changed.

Each change has a *version*, a number that only grows. An event has the changes since the last event. It is a
difference, or a full list where a difference isn't enough. In a large room it has the number of members alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

import attrs

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


_Member = Lease | RemoteLease | _JointMember

AwaitingDigest = dict[Subscription, tuple[int, str]]
"""Readers that hold another node's digest, which isn't this node's. With each: since when, in milliseconds since 1970,
and the digest."""


@attrs.define(eq=False, weakref_slot=False)
class Membership:
    """The members of one room, and what its readers were sent of them.

    :param limits: how many members are listed; of a larger room only the number is sent. It counts as small again when
        a tenth of them are gone, so that one client that comes and goes doesn't cause a full list each time.
    :param versions: of the node, for each change.
    :ivar version: of the last change.
    :ivar due: when the next event may be sent.
    :ivar listed: whether the room is small enough to list its members.
    """

    room: Room
    _limits: Limits
    _versions: Iterator[int]
    version: int = attrs.field(init=False)
    due: float = 0.0
    listed: bool = True
    awaiting_digest: AwaitingDigest | None = None
    # The only member: most rooms never have two, and need no dictionary.
    _only: _Member | None = None
    _several: dict[str, _Member] | None = None
    _already_current: list[Subscription] | None = None
    _count_sent: int = 0
    _member_list: bytes | None = None
    _digest: str | None = None
    _digest_sent: str | None = None
    _sorted_ids: list[str] | None = None
    # Since the last event: the changed members as they were sent before it, and those that came and went.
    _sent_members: dict[str, bytes | None] | None = None
    _gone_members: dict[str, bytes] | None = None
    _has_changes: bool = False
    # Whether a reader got a full list after a change, and whether the event has to be one.
    _list_given: bool = False
    _needs_list: bool = False

    def __attrs_post_init__(self) -> None:
        self.version = self.room.members_version_sent = next(self._versions)

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

    def add(self, lease: AnyLease) -> bool:
        """Add a lease.

        :returns: whether readers see a change.
        """
        user = lease.client.user.id
        member = self.members.get(user)
        return self._put(user, member, lease if member is None else _JointMember([*member.leases, lease]))

    def remove(self, lease: AnyLease) -> bool:
        """Remove a lease.

        :returns: whether readers see a change.
        """
        user = lease.client.user.id
        member = self.members[user]
        rest = [other for other in member.leases if other is not lease]
        if len(rest) > 1:
            return self._put(user, member, _JointMember(rest))
        return self._put(user, member, rest[0] if rest else None)

    def _put(self, user: str, before: _Member | None, after: _Member | None) -> bool:
        """Put one member in the place of another, or of none.

        :returns: whether readers see a change.
        """
        visible = before is None or after is None or not looks_same(before.client, after.client)
        if visible:
            self.before_change(user)
        if after is None:
            self._delete(user)
            if self.listed and before is not None:
                self._gone_members = self._gone_members or {}
                self._gone_members[user] = before.json
        elif self._several is None and (self._only is None or self._only.client.user.id == user):
            self._only = after
        else:
            if self._several is None:
                self._several, self._only = dict(self.members), None
            self._several[user] = after
        if visible:
            self.after_change()
        return visible

    def _delete(self, user: str) -> None:
        if self._several is None:
            self._only = None
        else:
            del self._several[user]

    def update(self, lease: RemoteLease, client: RemoteClient) -> bool:
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
            self.after_change()
        return visible

    def before_change(self, user: str) -> None:
        """A member's name or state is about to change; :meth:`after_change` follows."""
        member = self.members.get(user)
        if self.listed:
            if self._sent_members is None:
                self._sent_members = {}
            if user not in self._sent_members:
                self._sent_members[user] = None if member is None else member.json
        if isinstance(member, _JointMember):
            member.forget_json()

    def after_change(self) -> None:
        """Readers see a change: the next event has it."""
        self.version = next(self._versions)
        self._has_changes = True
        self._member_list = self._digest = None
        self._already_current = None
        if self.listed:
            self._sorted_ids = None
        limit = self._limits.presence_limit
        listed = len(self.members) <= (limit if self.listed else limit - limit // 10)
        if listed != self.listed:
            self.listed = listed
            self._needs_list = True
            self._sent_members = self._gone_members = None

    # What readers are sent

    def list_for(self, reader: Subscription) -> MemberList:
        """All members, for a reader that is sent later changes by events."""
        self._list_given = self._list_given or self._has_changes
        self.mark_current(reader)
        return self.member_list()

    def mark_current(self, reader: Subscription) -> None:
        """A reader knows all changes up to now: it isn't sent the event of these."""
        if self._has_changes:
            if self._already_current is None:
                self._already_current = []
            self._already_current.append(reader)

    def take_already_current(self) -> list[Subscription]:
        """Return the readers that know all changes since the last event, and forget them: the event is sent now."""
        current, self._already_current = self._already_current, None
        return [] if current is None else current

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
        """Return the encoded event of all changes since the last one; None if readers see no change."""
        event = self._event()
        if event is not None:
            self.room.members_version_sent = self.version
            self._count_sent = len(self.members)
        self._sent_members = self._gone_members = self._sorted_ids = None
        self._has_changes = self._list_given = self._needs_list = False
        if self._digest_sent is not None:
            self._digest_sent = self.digest()
        return event

    def _event(self) -> bytes | None:
        name, size = self.room.name, len(self.members)
        if self._needs_list:
            return codec.encode_presence(name, *self.member_list())
        if not self.listed:
            return codec.encode_presence(name, size) if self._list_given or size != self._count_sent else None
        joined, left = self._difference()
        return codec.encode_presence_delta(name, size, _array(joined), _array(left)) if joined or left else None

    def _difference(self) -> tuple[list[bytes], list[bytes]]:
        """The members that joined or changed, and those that left.

        If a reader got a full list since the last event, changes that cancel out are included, as the list may lie
        between them.
        """
        joined, left = [], []
        for user, before in (self._sent_members or {}).items():
            member = self.members.get(user)
            if member is not None:
                if self._list_given or member.json != before:
                    joined.append(member.json)
            elif before is not None:
                left.append(before)
            elif self._list_given and self._gone_members is not None:
                left.append(self._gone_members[user])
        return joined, left

    # Digests: versions that other nodes understand

    def digest(self) -> str:
        """The digest of the members as they are now."""
        if self._digest is None:
            self._digest = self.member_list().digest()
        return self._digest

    def digest_at(self, version: int) -> str | None:
        """The digest of the members at a version; None if it isn't known any more."""
        if self._digest_sent is None and not self._has_changes:
            self._digest_sent = self.digest()  # from now on it is kept
        if version >= self.version or (version >= self.room.members_version_sent and not self._has_changes):
            return self.digest()
        return self._digest_sent if version == self.room.members_version_sent else None

    def version_of(self, digest: str) -> int:
        """The version that has a digest; UNKNOWN if it is neither the newest nor the one that was sent last."""
        if digest == self.digest():
            return self.version
        return self.room.members_version_sent if digest == self._digest_sent else UNKNOWN


def _array(members: Sequence[bytes]) -> bytes:
    return b"[%b]" % b",".join(members)
