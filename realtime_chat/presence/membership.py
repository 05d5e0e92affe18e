"""A room's members, by what they hold their places, and what was told of them.

Every change draws a new *stamp*, a number that only grows. What changed since the last event is told by the next one as
a difference, or as the full set where a difference doesn't say it; in a large room only as a number.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from realtime_chat.core.room import Room
from realtime_chat.core.subscription import Subscription
from realtime_chat.core.wheel import DeadlineQueue
from realtime_chat.values import codec
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import RemoteClient, User

__all__ = [
    "UNKNOWN",
    "Attendance",
    "Client",
    "KeptSignals",
    "Lease",
    "MemberPage",
    "Membership",
    "RemoteLease",
    "Signals",
    "digest_of",
]

UNKNOWN = -1
"""The stamp of who may have been told nothing."""

NEVER = float("-inf")
"""Before all times."""


class Attendance(NamedTuple):
    """Who is in a room.

    :param size: how many they are.
    :param members: a JSON array of them, sorted by id; None where there are too many to list.
    """

    size: int
    members: bytes | None


class MemberPage(NamedTuple):
    """Some of a room's members.

    :param size: how many there are in all.
    :param members: a JSON array of some, sorted by id.
    :param after: the id after which the next page begins; None where there is none.
    """

    size: int
    members: bytes
    after: str | None


class Bucket:
    """Tokens that fill up by time, to those of two seconds at most."""

    __slots__ = ("_filled", "_tokens")

    def __init__(self) -> None:
        self._tokens = 0.0
        self._filled = NEVER

    def take(self, now: float, rate: float, tokens: float) -> bool:
        """Take tokens out of it, if there are so many; a full one has always enough.

        :param rate: tokens a second that come.
        :param tokens: at least one.
        """
        most = 2.0 * rate
        tokens = max(1.0, min(tokens, most))
        self._tokens = min(most, self._tokens + (now - self._filled) * rate)
        self._filled = now
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True


class Client:
    """A client that is in some room here.

    :ivar mark: what names it to other nodes; its key, where there are none.
    :ivar leases: by room.
    :ivar state: what it says of itself, as a compact JSON object.
    :ivar changed: when its name or state changed last, as a number that only grows; where there are other nodes, in
        milliseconds since 1970.
    """

    __slots__ = ("_json", "_signals", "_states", "changed", "client_hash", "key", "leases", "state", "user")

    def __init__(self, key: str, client_hash: str, user: User, state: bytes, changed: int) -> None:
        self.key = key
        self.client_hash = client_hash
        self.user = user
        self.state = state
        self.changed = changed
        self.leases: dict[str, Lease] = {}
        self._json: bytes | None = None
        self._signals: Bucket | None = None
        self._states: Bucket | None = None

    @property
    def json(self) -> bytes:
        """The user as it is sent as a member, the same in all of its rooms."""
        if self._json is None:
            self._json = codec.encode_member(self.user, self.state)
        return self._json

    def alter(self, user: User, state: bytes, changed: int) -> None:
        """Its name or its state is another one from now on."""
        self.user, self.state, self.changed = user, state, changed
        self._json = None

    def may_signal(self, now: float, rate: float) -> bool:
        """Whether it may signal now, which counts."""
        if self._signals is None:
            self._signals = Bucket()
        return self._signals.take(now, rate, 1.0)

    def may_tell(self, now: float, rate: float, rooms: float) -> bool:
        """Whether it may tell its state to so many rooms now, which counts for each of them."""
        if self._states is None:
            self._states = Bucket()
        return self._states.take(now, rate, rooms)


class Lease:
    """What keeps a client's user in a room.

    :ivar readers: by what the client reads the room; none while the lease is only held.
    :ivar held: ends a lease that is only held.
    :ivar away: whether it is held for the client's next poll.
    :ivar leaving: whether the client has said that it is about to go.
    :ivar members_version_sent: the stamp up to which its polls were told, for those that don't say.
    :ivar heard: the number of the last signal before its last poll ended.
    :ivar polled: when that was.
    :ivar attended: whether other nodes were told of it.
    """

    __slots__ = (
        "attended",
        "away",
        "client",
        "heard",
        "held",
        "leaving",
        "members_version_sent",
        "membership",
        "polled",
        "readers",
    )

    def __init__(self, client: Client, membership: Membership) -> None:
        self.client = client
        self.membership = membership
        self.readers: tuple[Subscription, ...] = ()
        self.held: DeadlineQueue[Lease] | None = None
        self.away = False
        self.leaving = False
        self.members_version_sent = UNKNOWN
        self.heard = 0
        self.polled = NEVER
        self.attended = False

    @property
    def leases(self) -> Sequence[Lease | RemoteLease]:
        """What keeps its user in the room, as long as it is alone in that; see :class:`_Member`."""
        return (self,)

    @property
    def json(self) -> bytes:
        """The member as it is sent, as long as it is alone."""
        return self.client.json

    @property
    def reads(self) -> bool:
        """Whether the client reads the room, or is between two polls."""
        return bool(self.readers) or self.away

    def resume(self, reader: Subscription) -> None:
        """Its client reads the room."""
        self.release()
        self.leaving = False
        self.readers += (reader,)
        reader.lease = self

    def remove(self, reader: Subscription) -> None:
        """Its client reads the room by one subscription less."""
        readers = self.readers
        self.readers = () if len(readers) == 1 else tuple(other for other in readers if other is not reader)

    def release(self) -> None:
        """Hold it no longer."""
        if self.held is not None:
            self.held.drop(self)
            self.held = None
        if self.away:
            self.away = False
            self.membership.signals.away -= 1

    def hold(self, hold: DeadlineQueue[Lease], away: bool) -> None:
        """Hold it for a while, though nothing reads by it."""
        self.release()
        self.held = hold
        hold.add(self)
        if away:
            self.away = True
            self.membership.signals.away += 1


class RemoteLease:
    """What keeps a user in a room by way of another node.

    :ivar client: as that node tells it.
    """

    __slots__ = ("_json", "client")

    def __init__(self, client: RemoteClient) -> None:
        self.become(client)

    def become(self, client: RemoteClient) -> None:
        """That node tells it anew."""
        self.client = client
        self._json: bytes | None = None

    @property
    def leases(self) -> Sequence[Lease | RemoteLease]:
        """See :class:`Lease`."""
        return (self,)

    @property
    def json(self) -> bytes:
        """See :class:`Lease`."""
        if self._json is None:
            self._json = codec.encode_member(self.client.user, self.client.state)
        return self._json


class _Member:
    """A user in a room by several leases; one that is alone stands for the member itself."""

    __slots__ = ("_json", "leases")

    def __init__(self, leases: list[Lease | RemoteLease]) -> None:
        self.leases = leases
        self._json: bytes | None = None

    @property
    def client(self) -> Client | RemoteClient:
        """The client whose name or state changed last: it says what the member is called and says of itself."""
        return max((lease.client for lease in self.leases), key=_seniority)

    @property
    def json(self) -> bytes:
        """The member as it is sent."""
        if self._json is None:
            client = self.client
            self._json = codec.encode_member(client.user, client.state)
        return self._json

    def without(self, lease: Lease | RemoteLease) -> Client | RemoteClient:
        """Who would say it without one of its leases; there are others."""
        return max((other.client for other in self.leases if other is not lease), key=_seniority)

    def forget(self) -> None:
        """Something about it changes."""
        self._json = None


_Place = Lease | RemoteLease | _Member
"""What stands for a member."""


def _seniority(client: Client | RemoteClient) -> tuple[int, str, str, bytes]:
    """Orders clients of one user, and what several nodes say of one client, in the same way on every node."""
    return client.changed, client.client_hash, client.user.name, client.state


def _looks_same(one: Client | RemoteClient, other: Client | RemoteClient) -> bool:
    return one is other or (one.state == other.state and one.user == other.user)


class KeptSignals:
    """What is kept of the signals of all rooms, in the order in which they came.

    :param seconds: for how long.
    :param most_bytes: how many bytes of them.
    :ivar size: how many bytes there are.
    """

    __slots__ = ("_most_bytes", "_order", "_seconds", "size")

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self._seconds = seconds
        self._most_bytes = most_bytes
        self._order: deque[tuple[float, Signals, int]] = deque()  # some of these are forgotten already
        self.size = 0

    def add(self, now: float, signals: Signals, size: int) -> None:
        """A room keeps its last signal, of so many bytes; let go of the oldest, where that is too much."""
        order = self._order
        order.append((now, signals, signals.number))
        self.size += size
        while order and (self.size > self._most_bytes or order[0][0] < now - self._seconds):
            _, oldest, number = order.popleft()
            oldest.forget(number)


class Signals:
    """The last signals in a room, kept only while somebody is between two polls.

    :param seconds: for how long.
    :param most_bytes: how many bytes of them.
    :param everywhere: what all rooms keep, these among it.
    :ivar number: how many there were in all.
    :ivar away: how many leases are held for a next poll.
    """

    __slots__ = ("_everywhere", "_kept", "_most_bytes", "_seconds", "_size", "away", "number")

    def __init__(self, seconds: float, most_bytes: int, everywhere: KeptSignals) -> None:
        self._seconds = seconds
        self._most_bytes = most_bytes
        self._everywhere = everywhere
        self._kept: deque[tuple[int, float, str, bytes]] | None = None
        self._size = 0
        self.away = 0
        self.number = 0

    def add(self, now: float, client_hash: str, data: bytes) -> None:
        """The client that has this mark signals."""
        self.number += 1
        self.tidy()
        if not self.away:
            return
        if self._kept is None:
            self._kept = deque()
        self._kept.append((self.number, now, client_hash, data))
        self._size += len(data)
        self._everywhere.add(now, self, len(data))
        while self._kept and (self._size > self._most_bytes or self._kept[0][1] < now - self._seconds):
            self._drop(self._kept)

    def _drop(self, kept: deque[tuple[int, float, str, bytes]]) -> None:
        size = len(kept.popleft()[3])
        self._size -= size
        self._everywhere.size -= size

    def forget(self, number: int) -> None:
        """Keep none up to the one that has this number."""
        while self._kept and self._kept[0][0] <= number:
            self._drop(self._kept)

    def missed(self, lease: Lease, now: float) -> list[bytes]:
        """What was signalled since a lease's last poll, by others, if that is not long ago."""
        heard, lease.heard = lease.heard, self.number
        if lease.polled < now - self._seconds or self._kept is None:
            return []
        own = lease.client.client_hash
        return [data for number, _, client_hash, data in self._kept if number > heard and client_hash != own]

    def tidy(self) -> None:
        """Forget all, if nobody could come back for it."""
        if not self.away:
            self._everywhere.size -= self._size
            self._kept = None
            self._size = 0


class Membership:
    """A room's members, and what its readers were told of them.

    :param limits: how many members are listed at most; in a larger room only their number is told. It is small again
        when a tenth of them are gone, so that one who comes and goes doesn't cost everybody a whole list.
    :param signals: what all rooms keep of them.
    :ivar version: of the last change.
    :ivar due: when the next event may be sent.
    :ivar late: readers who hold a digest of other members than are known here, since when they do (in milliseconds
        since 1970), and that digest.
    """

    __slots__ = (
        "_altered",
        "_before_window",
        "_digest",
        "_digest_sent",
        "_fresh",
        "_full",
        "_gone",
        "_ids",
        "_limits",
        "_needs_snapshot",
        "_only",
        "_several",
        "_signals",
        "_signals_everywhere",
        "_snapshot_given",
        "_told_count",
        "due",
        "late",
        "listed",
        "room",
        "version",
    )

    def __init__(self, room: Room, limits: Limits, version: int, signals: KeptSignals) -> None:
        self.room = room
        self.version = room.members_version_sent = version
        self._only: _Place | None = None  # the only member, where there were never several: most rooms have no more
        self._several: dict[str, _Place] | None = None
        self.late: dict[Subscription, tuple[int, str]] | None = None
        self.due = 0.0
        self.listed = True
        self._fresh: list[Subscription] | None = None
        self._limits = limits
        self._signals: Signals | None = None
        self._signals_everywhere = signals
        self._told_count = 0
        self._full: bytes | None = None
        self._digest: str | None = None
        self._digest_sent: str | None = None
        self._ids: list[str] | None = None
        self._forget_window()

    def _forget_window(self) -> None:
        """All was told: what is collected from here on is the next difference."""
        self._before_window: dict[str, bytes | None] | None = None  # what was told of those who changed
        self._gone: dict[str, bytes] | None = None
        self._altered = False  # whether anything changed since the last event
        self._snapshot_given = False  # whether somebody was given the members after that
        self._needs_snapshot = False  # whether a difference doesn't say it

    @property
    def members(self) -> Mapping[str, _Place]:
        """The members by the ids of their users."""
        if self._several is not None:
            return self._several
        return {} if self._only is None else {self._only.client.user.id: self._only}

    def _put(self, user: str, member: _Place) -> None:
        if self._several is None and (self._only is None or self._only.client.user.id == user):
            self._only = member
            return
        if self._several is None:
            self._several, self._only = dict(self.members), None
        self._several[user] = member

    def _take(self, user: str) -> None:
        if self._several is None:
            self._only = None
        else:
            del self._several[user]

    @property
    def fresh(self) -> list[Subscription]:
        """Readers who were told of everything up to the last change, and not yet by an event."""
        return [] if self._fresh is None else self._fresh

    def take_fresh(self) -> list[Subscription]:
        """Give them, and forget them: there is an event now."""
        fresh, self._fresh = self.fresh, None
        return fresh

    @property
    def signals(self) -> Signals:
        """The last signals in the room."""
        if self._signals is None:
            limits = self._limits
            self._signals = Signals(limits.signal_memory, limits.signal_bytes, self._signals_everywhere)
        return self._signals

    @property
    def signalled(self) -> int:
        """How many signals there were."""
        return 0 if self._signals is None else self._signals.number

    def tidy(self) -> None:
        """Forget the last signals, if nobody could come back for them."""
        if self._signals is not None:
            self._signals.tidy()

    # What changes

    def add(self, lease: Lease | RemoteLease, version: int) -> bool:
        """A client has come.

        :returns: whether anything of that is seen.
        """
        client = lease.client
        user = client.user.id
        member = self.members.get(user)
        if member is None:
            self._note(user)
            self._put(user, lease)
        else:
            before = member.client
            unseen = _looks_same(before, client) or _seniority(before) > _seniority(client)
            if not unseen:
                self._note(user)
            self._put(user, _Member([*member.leases, lease]))
            if unseen:
                return False
        self._changed(version)
        return True

    def remove(self, lease: Lease | RemoteLease, version: int) -> bool:
        """A client has gone.

        :returns: whether anything of that is seen.
        """
        user = lease.client.user.id
        member = self.members[user]
        if not isinstance(member, _Member):
            self._note(user)
            self._take(user)
            if self.listed:
                self._gone = self._gone or {}
                self._gone[user] = member.json
        else:
            unseen = _looks_same(member.client, member.without(lease))
            if not unseen:
                self._note(user)
            rest = [other for other in member.leases if other is not lease]
            self._put(user, rest[0] if len(rest) == 1 else _Member(rest))
            if unseen:
                return False
        self._changed(version)
        return True

    def replace(self, other: RemoteLease, attendee: RemoteClient, version: int) -> bool:
        """Another node says anew what a client of the same user is.

        :returns: whether anything of that is seen.
        """
        user = attendee.user.id
        member = self.members[user]
        before, known = member.client, other.client
        other.become(attendee)
        unseen = _looks_same(before, member.client)
        if not unseen:
            other.become(known)
            self._note(user)
            other.become(attendee)
            self._forget(member)
            self._changed(version)
        return not unseen

    def about_to_alter(self, user: str) -> None:
        """A member's name or state is going to change; :meth:`altered` follows."""
        self._note(user)
        self._forget(self.members[user])

    def _forget(self, member: _Place) -> None:
        """What was encoded of a member is no longer right."""
        if isinstance(member, _Member):
            member.forget()

    def holds_own(self) -> bool:
        """Whether anybody is in the room by way of this node."""
        return any(isinstance(lease, Lease) for member in self.members.values() for lease in member.leases)

    def altered(self, version: int) -> None:
        """A member's name or state has changed."""
        self._changed(version)

    def _note(self, user: str) -> None:
        if not self.listed:
            return
        if self._before_window is None:
            self._before_window = {}
        if user not in self._before_window:
            member = self.members.get(user)
            self._before_window[user] = None if member is None else member.json

    def _changed(self, version: int) -> None:
        self.version = version
        self._altered = True
        self._full = self._digest = None
        self._fresh = None
        if self.listed:
            self._ids = None
        limit = self._limits.presence_limit
        listed = len(self.members) <= (limit if self.listed else limit - limit // 10)
        if listed != self.listed:
            self.listed = listed
            self._needs_snapshot = True
            self._before_window = self._gone = None

    # What is told

    def show(self, reader: Subscription) -> Attendance:
        """All members, as they are now, to somebody who is told of later changes by events."""
        self._snapshot_given = self._snapshot_given or self._altered
        self.knows(reader)
        return self.attendance()

    def knows(self, reader: Subscription) -> None:
        """Take note that a reader needs no event for what has changed up to now."""
        if self._altered:
            self.spare(reader)

    def spare(self, reader: Subscription) -> None:
        """Don't bring a reader the next event."""
        if self._fresh is None:
            self._fresh = []
        self._fresh.append(reader)

    def attendance(self) -> Attendance:
        """The members' number, and a list of them where they are few."""
        if not self.listed:
            return Attendance(len(self.members), None)
        if self._only is not None:  # nothing is kept for it
            return Attendance(1, _array([self._only.json]))
        members = self.members
        if self._full is None:
            self._full = _array([members[user].json for user in sorted(members)])
        return Attendance(len(members), self._full)

    def page(self, after: str, most: int) -> MemberPage:
        """Up to ``most`` members with ids above ``after``. In a large room it may lag behind as much as events do."""
        if self._ids is None:
            self._ids = sorted(self.members)
        start = bisect_right(self._ids, after)
        ids = self._ids[start : start + most]
        members = [self.members[user].json for user in ids if user in self.members]
        more = start + most < len(self._ids)
        return MemberPage(len(self.members), _array(members), ids[-1] if more else None)

    def news(self) -> bytes | None:
        """What was not yet told, as an event that everybody is sent now; None where there is nothing."""
        event = self._event()
        if event is not None:
            self.room.members_version_sent = self.version
            self._told_count = len(self.members)
        self._forget_window()
        self._ids = None
        if self._digest_sent is not None:
            self._digest_sent = self.digest()
        return event

    # What is told, in a word that other nodes understand

    def digest(self) -> str:
        """A word for what somebody knows who was told of everything: the same on all nodes that know the same."""
        if self._digest is None:
            self._digest = digest_of(self.attendance())
        return self._digest

    def digest_at(self, version: int) -> str | None:
        """The same for who was told up to a stamp; None where that can't be said any more."""
        if self._digest_sent is None and not self._altered:
            self._digest_sent = self.digest()  # from now on it is kept
        if version >= self.version or (version >= self.room.members_version_sent and not self._altered):
            return self.digest()
        return self._digest_sent if version == self.room.members_version_sent else None

    def version_of(self, digest: str) -> int:
        """Up to which stamp somebody was told who holds a digest; UNKNOWN if that is of something else."""
        if digest == self.digest():
            return self.version
        return self.room.members_version_sent if digest == self._digest_sent else UNKNOWN

    # What is told, in events

    def _event(self) -> bytes | None:
        name, number = self.room.name, len(self.members)
        if self._needs_snapshot:
            return codec.encode_presence(name, *self.attendance())
        if not self.listed:
            return codec.encode_presence(name, number) if self._snapshot_given or number != self._told_count else None
        joined, left = self._difference()
        return codec.encode_presence_delta(name, number, _array(joined), _array(left)) if joined or left else None

    def _difference(self) -> tuple[list[bytes], list[bytes]]:
        """Who has come or changed, and who has gone; who was shown the members in between needs all that happened."""
        joined, left = [], []
        for user, before in (self._before_window or {}).items():
            member = self.members.get(user)
            if member is not None:
                if self._snapshot_given or member.json != before:
                    joined.append(member.json)
            elif before is not None:
                left.append(before)
            elif self._snapshot_given and self._gone is not None:
                left.append(self._gone[user])
        return joined, left


def digest_of(attendance: Attendance) -> str:
    """A word for who is in a room: 16 hexadecimal characters."""
    size, members = attendance
    return blake2b(b"%d" % size if members is None else members, digest_size=8).hexdigest()


def _array(members: Sequence[bytes]) -> bytes:
    return b"[%b]" % b",".join(members)
