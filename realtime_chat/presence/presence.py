"""Who is in which room, and what they signal to each other without its being stored.

A user is a *member* of a room as long as one of its clients holds a *lease* there: while it reads the room on any
transport, and for a moment after that, so that nobody is seen to leave who is back at once. What changes is told
together, as the difference to what was told before, and in large rooms only as a number.

Who was told of everything up to the last stamp that was told at all (``Room.told``) is up to date; everybody else is
given the full set. A poll carries its stamp as a version.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count

from realtime_chat.core.interfaces import DelayedCall, TurnClock
from realtime_chat.core.room import Room
from realtime_chat.core.subscription import Subscription
from realtime_chat.core.wheel import DeadlineQueue, Wheel
from realtime_chat.presence.membership import UNKNOWN, Attendance, Client, KeptSignals, Lease, MemberPage, Membership
from realtime_chat.values import codec
from realtime_chat.values.counters import Counters
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import ANONYMOUS, User

__all__ = ["Presence"]

_STAMP = re.compile(r"0|[1-9][0-9]{0,15}")


class Presence:
    """Everybody in every room of this node.

    :param wheel: ends what is held.
    :param node: a word that no other node has, and this one only until it ends; polls' versions begin with it.
    :ivar memberships: of the rooms that somebody is in, or was a moment ago.
    """

    def __init__(self, clock: TurnClock, wheel: Wheel, limits: Limits, counters: Counters, node: str) -> None:
        self.memberships: dict[str, Membership] = {}
        self._clients: dict[str, Client] = {}
        self._clock = clock
        self._limits = limits
        self._leaving = DeadlineQueue(wheel, clock.seconds, limits.leave_delay, self._end)
        self._away = DeadlineQueue(wheel, clock.seconds, limits.poll_grace - wheel.lateness, self._end)
        self._counters = counters
        self._node = node
        self._stamps = count(1)
        self._signals = KeptSignals(limits.signal_memory, limits.signals_bytes)
        self._dirty: dict[Membership, None] = {}
        self._timer: DelayedCall | None = None
        self._stopped = False

    def stop(self) -> None:
        """Forget everybody; nobody is told of anything from now on."""
        self._stopped = True
        self._leaving.stop()
        self._away.stop()
        self._clients.clear()
        self.memberships.clear()
        self._dirty.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Coming and going

    def enter(self, reader: Subscription, client: str, user: User, named: bool, state: bytes) -> None:
        """A client reads a room, by one subscription more.

        :param named: whether the user's name was given, or made up because there was none.
        :param state: what it has said of itself, as far as it isn't here yet.
        """
        if self._stopped or user is ANONYMOUS:
            return
        known = self._clients.get(client)
        if known is None:
            known = self._clients[client] = self._meet(client, user, named, state, reader.room.name)
        elif named and user.name != known.user.name:
            self._alter(known, user, known.state)
        self._resume(known, reader)

    def enter_again(self, reader: Subscription, client: str, name: str | None) -> bool:
        """The same of a client that is in some room already, as itself; nothing is done for any other.

        :param name: the name that it gives, if it gives one.
        :returns: whether it is.
        """
        known = self._clients.get(client)
        if known is None or name not in (None, known.user.name):
            return False
        self._resume(known, reader)
        return True

    def _resume(self, client: Client, reader: Subscription) -> None:
        lease = client.leases.get(reader.room.name)
        if lease is None:
            lease = self._begin(client, reader.room)
        lease.resume(reader)

    def _meet(self, client: str, user: User, named: bool, state: bytes, room: str) -> Client:
        return Client(client, client, user, state, next(self._stamps))

    def _begin(self, client: Client, room: Room) -> Lease:
        membership = self._membership(room)
        lease = client.leases[room.name] = Lease(client, membership)
        if membership.add(lease, next(self._stamps)):
            self._schedule(membership)
        return lease

    def _membership(self, room: Room) -> Membership:
        membership = self.memberships.get(room.name)
        if membership is None:
            membership = Membership(room, self._limits, next(self._stamps), self._signals)
            self.memberships[room.name] = membership
        return membership

    def exit(self, reader: Subscription, polls: bool) -> None:
        """A subscription has ended.

        :param polls: whether it was a poll's, whose client is expected back.
        """
        lease, reader.lease = reader.lease, None
        if lease is None or self._stopped:
            return
        lease.remove(reader)
        if polls:
            lease.polled = self._clock.seconds()
            lease.heard = lease.membership.signalled
        if not lease.readers:
            self._hold(lease, polls and not lease.leaving)

    def _hold(self, lease: Lease, away: bool) -> None:
        lease.hold(self._away if away else self._leaving, away)

    def _end(self, lease: Lease) -> None:
        """A client has not come back in time."""
        client, membership = lease.client, lease.membership
        lease.release()
        del client.leases[membership.room.name]
        if not client.leases:
            del self._clients[client.key]
        if membership.remove(lease, next(self._stamps)):
            self._schedule(membership)
        membership.room.release()

    def forget(self, room: str) -> bool:
        """Whether nobody is in a room by way of this node, so that it may be forgotten, as it is here then."""
        return room not in self.memberships

    def leave(self, client: str | None, room: str) -> None:
        """A client says, by a request of its own, that it is about to go: its last poll there was the last.

        :raises RealtimeError: ``not_joined``.
        """
        self._leave(self._lease(client, room))

    def _leave(self, lease: Lease) -> None:
        lease.leaving = True
        if lease.away:
            self._hold(lease, False)

    def knows(self, client: str) -> bool:
        """Whether a client is in some room, and so was issued by us."""
        return client in self._clients

    def _lease(self, client: str | None, room: str) -> Lease:
        known = None if client is None else self._clients.get(client)
        lease = None if known is None else known.leases.get(room)
        if lease is None or not lease.reads:
            raise RealtimeError("not_joined", "this client doesn't read that room; join it first, or poll it")
        return lease

    def set_state(self, client: str, state: bytes) -> bool:
        """Take what a client says of itself.

        :param state: a compact JSON object.
        :returns: whether the client is in any room.
        :raises RealtimeError: ``rate_limited``.
        """
        known = self._clients.get(client)
        if known is None:
            return False
        if known.state != state:
            self._count_state(known, len(known.leases))
            self._alter(known, known.user, state)
        return True

    def _count_state(self, client: Client, rooms: float) -> None:
        """A client has another state for so many rooms, each of which costs what a signal does.

        :raises RealtimeError: ``rate_limited``.
        """
        rate = self._limits.signal_rate
        if not client.may_tell(self._clock.seconds(), rate, rooms):
            message = f"a client may tell its state to {rate:g} rooms a second; say the state again two seconds later"
            raise RealtimeError("rate_limited", message)

    def _alter(self, client: Client, user: User, state: bytes) -> None:
        memberships = [lease.membership for lease in client.leases.values()]
        for membership in memberships:
            membership.about_to_alter(user.id)
        client.alter(user, state, self._moment(client))
        for membership in memberships:
            membership.altered(next(self._stamps))
            self._schedule(membership)

    def _moment(self, client: Client) -> int:
        """When a client changes."""
        return next(self._stamps)

    # Telling

    def _schedule(self, membership: Membership) -> None:
        """Something has changed: tell it soon, together with what else changes until then."""
        self._dirty[membership] = None
        if self._timer is None:
            gather = max(self._limits.presence_gather, membership.due - self._clock.seconds())
            self._timer = self._clock.callLater(min(gather, self._limits.presence_interval), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for membership in [membership for membership in self._dirty if membership.due <= now]:
            del self._dirty[membership]
            self._tell(membership, now)
        if self._dirty:
            self._timer = self._clock.callLater(self._limits.presence_interval, self._tick)

    def _tell(self, membership: Membership, now: float) -> None:
        fresh = membership.take_fresh()
        event = membership.news()
        if event is not None:
            membership.due = now + self._interval(len(membership.members))
            delivered, missed = membership.room.broadcast("presence", event, fresh)
            self._counters.presence += delivered
            for reader in missed:
                reader.members_version_sent = UNKNOWN
        if not membership.members:
            del self.memberships[membership.room.name]
            membership.room.release()

    def _interval(self, members: int) -> float:
        """Seconds between two events of a room, which grow with it, so that traffic doesn't grow with its square."""
        limits = self._limits
        return min(limits.presence_slowest, max(limits.presence_interval, members / 1000))

    # Being told

    def show(self, room: str, reader: Subscription | None) -> Attendance:
        """Who is in a room.

        :param reader: who is told, and of later changes by events; None for somebody who isn't.
        """
        membership = self.memberships.get(room)
        if membership is None:
            return Attendance(0, b"[]")
        membership.tidy()
        if reader is None:
            return membership.attendance()
        reader.members_version_sent = membership.version
        return membership.show(reader)

    def put_off(self, room: str, reader: Subscription | None) -> Attendance:
        """How many are in a room; a reader is told who they are when it is live."""
        if reader is not None:
            reader.members_version_sent = UNKNOWN
        return Attendance(self.count(room), None)

    def refresh(self, reader: Subscription) -> None:
        """Give a reader, who has missed something, all members or their number."""
        attendance = self.show(reader.room.name, reader)
        reader.members_version_sent = max(reader.members_version_sent, reader.room.members_version_sent)
        self._counters.presence += 1
        event = codec.encode_presence(reader.room.name, *attendance)
        reader.transport.send_event("presence", event)

    def resume_poll(self, reader: Subscription, version: str | None, fresh: bool) -> None:
        """Bring a poll that has just subscribed what it has missed in a room.

        :param version: the one that it carries, perhaps empty; None where its client doesn't keep any, and what it
            was told is remembered here.
        :param fresh: whether its client knows nothing of the room yet.
        """
        reader.members_version_sent = self._version_sent_before(reader, version, fresh)
        membership = self.memberships.get(reader.room.name)
        if reader.members_version_sent < reader.room.members_version_sent:
            self.refresh(reader)
        elif membership is not None and reader.members_version_sent == membership.version:
            membership.knows(reader)
        lease = reader.lease
        if lease is not None and self._polled_here(version):
            there = lease.membership
            if lease.heard != there.signalled:
                for signal in there.signals.missed(lease, self._clock.seconds()):
                    self._counters.signals_delivered += 1
                    reader.transport.send_event("signal", signal)
            there.tidy()

    def _polled_here(self, version: str | None) -> bool:
        """Whether a poll's client was not told by another node after its last poll here."""
        return True

    def _version_sent_before(self, reader: Subscription, version: str | None, fresh: bool) -> int:
        if version is not None:
            return self._read_version(version, reader.room)
        if reader.lease is None:
            return reader.room.members_version_sent
        return UNKNOWN if fresh else reader.lease.members_version_sent

    def _read_version(self, version: str, room: Room) -> int:
        node, _, digits = version.partition(".")
        if node != self._node or not _STAMP.fullmatch(digits):
            return UNKNOWN
        membership = self.memberships.get(room.name)
        top = room.members_version_sent if membership is None else membership.version
        return int(digits) if int(digits) <= top else UNKNOWN

    def version(self, reader: Subscription, remember: bool) -> str:
        """What a poll's answer says that it was told.

        :param remember: whether the client doesn't keep that itself.
        """
        told = self._told(reader)
        if remember and reader.lease is not None:
            reader.lease.members_version_sent = told
        return f"{self._node}.{max(told, 0)}"

    def _told(self, reader: Subscription) -> int:
        return (
            max(reader.members_version_sent, reader.room.members_version_sent)
            if reader.live
            else reader.members_version_sent
        )

    def page(self, room: str, after: str) -> MemberPage:
        """A page of a room's members, sorted by id."""
        membership = self.memberships.get(room)
        return MemberPage(0, b"[]", None) if membership is None else membership.page(after, self._limits.presence_page)

    def count(self, room: str) -> int:
        """How many members a room has."""
        membership = self.memberships.get(room)
        return 0 if membership is None else len(membership.members)

    # Signals

    def signal(self, client: str | None, room: str, event: str, data: bytes, at: int) -> tuple[str, bytes]:
        """Bring a signal to everyone who is live in a room, and not to the client that sends it.

        :param data: an encoded value.
        :param at: milliseconds since 1970.
        :returns: the client's mark, and the encoded signal.
        :raises RealtimeError: ``not_joined`` or ``rate_limited``.
        """
        sender, there, readers = self._sender(client, room)
        rate = self._limits.signal_rate
        if not sender.may_signal(self._clock.seconds(), rate):
            raise RealtimeError("rate_limited", f"a client may send {rate:g} signals a second; send fewer of them")
        signal = codec.encode_signal(room, event, data, sender.user, at)
        self._counters.signals += 1
        self._bring(there, signal, sender.client_hash, readers)
        return sender.client_hash, signal

    def _sender(self, client: str | None, room: str) -> tuple[Client, Room, Sequence[Subscription]]:
        """Who signals in a room, and by what it reads the room here.

        :raises RealtimeError: ``not_joined``.
        """
        lease = self._lease(client, room)
        return lease.client, lease.membership.room, lease.readers

    def bring(self, room: Room, signal: bytes, client_hash: str = "") -> None:
        """Bring an encoded signal to everyone who is live in a room, and to who is between two polls.

        :param client_hash: of the client that it comes from, which doesn't get it; empty where it comes from none.
        """
        client = self._marked(client_hash)
        lease = None if client is None else client.leases.get(room.name)
        self._bring(room, signal, client_hash, () if lease is None else lease.readers)

    def _bring(self, room: Room, signal: bytes, client_hash: str, skip: Sequence[Subscription]) -> None:
        behind = room.subscribers - room.live_count()
        membership = self.memberships.get(room.name)
        if membership is not None:  # first, as polls that are told now are away after that
            membership.signals.add(self._clock.seconds(), client_hash, signal)
        delivered, missed = room.broadcast("signal", signal, skip)
        self._counters.signals_delivered += delivered
        self._counters.signals_dropped += behind + len(missed)

    def _marked(self, client_hash: str) -> Client | None:
        return self._clients.get(client_hash)
