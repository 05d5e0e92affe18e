"""Who is in which room, and the signals that clients send each other.

A user is a *member* of a room as long as one of its clients holds a *lease* there, on this node or on another one. A
client holds a lease while it reads the room on any transport, and for a moment after that. So readers don't see clients
leave that are back at once.

Readers that were sent everything up to the last event (``Room.members_version_sent``) are current. All others are sent
a full list. A poll carries the version that it was sent.

Each node has the leases of its own clients (here), publishes them, and knows those of other nodes
(``remote_members.py``). So all nodes have the same members, and each sends the events that a node alone would send.
Nodes name clients by their hashes. If they differ about a client, the last change counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred

from realtime_chat.core.identity import NOBODY, Identity
from realtime_chat.core.interfaces import IBroker
from realtime_chat.core.node import Node
from realtime_chat.core.room import Room, Subscription
from realtime_chat.core.wheel import DeadlineQueue
from realtime_chat.presence.leases import UNKNOWN, UNSEEING, Client, Lease
from realtime_chat.presence.membership import MemberList, MemberPage
from realtime_chat.presence.membership_table import MembershipTable
from realtime_chat.presence.poll_version import PollVersions
from realtime_chat.presence.remote_members import PresenceOutbox, RemoteMembers
from realtime_chat.presence.signals import SignalDelivery
from realtime_chat.presence.visibility import Visibility
from realtime_chat.values import codec
from realtime_chat.values.access import PRESENCE, READ
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import ForwardedCommand, RemoteClient, User, naming

_EMPTY_STATE = b"{}"
_ROOMS_ELSEWHERE = 30
"""In how many rooms a client counts as being that only other nodes know."""


class Presence:
    """The members of the rooms that this node follows.

    :param broker: tells other nodes, if there are any.
    :ivar on_renewed: is called with a client that another node has renewed, and that wasn't verified here.
    :ivar visibility: who is seen, and who sees.
    :ivar remote: who is in the rooms through other nodes.
    :ivar memberships: by room, of the rooms that have members, or had some a moment ago.
    """

    def __init__(self, node: Node, broker: IBroker) -> None:
        if broker.shared:
            node = attrs.evolve(node, limits=_patient(node.limits))
        limits = node.limits
        self._clock = node.clock
        self._limits = limits
        self._counters = node.counters
        self._broker = broker
        self._time_ms = node.time_ms
        self._table = table = MembershipTable(node)
        self.memberships = table.by_room
        self.remote = RemoteMembers(table, node.wheel, self._take_change, self._carry_out)
        self._outbox = PresenceOutbox(node, broker)
        self.visibility = Visibility(table, self._outbox)
        self._signals = SignalDelivery(node, broker.shared)
        self._versions = PollVersions(node, table, self.remote, self._signals, broker.shared)
        self._leaving = DeadlineQueue(node.wheel, limits.leave_delay, self._end)
        self._between_polls = DeadlineQueue(node.wheel, limits.poll_grace - node.wheel.lateness, self._end)
        self._clients: dict[str, Client] = {}  # by client hash
        self.on_renewed: Callable[[str], None] = lambda client: None
        self._stopped = False

    def stop(self) -> None:
        """Forget everybody, and tell nobody."""
        self._stopped = True
        self._clients.clear()
        for part in (self._leaving, self._between_polls, self._table, self._outbox, self._signals, self.remote):
            part.stop()

    # Rooms

    def open_room(self, room: Room) -> None:
        """A room is loaded. Other nodes have said before who is in it; see :class:`RemoteMembers`."""
        if self._broker.shared:
            self.remote.open_room(room)

    def drop_room(self, room: str) -> bool:
        """Drop the room's presence.

        :returns: False if local clients are still in the room, and nothing was dropped.
        """
        membership = self.memberships.get(room)
        if room in self._table.hidden or (membership is not None and membership.has_local_members()):
            return False
        self.remote.drop_room(room)
        if membership is not None:
            self._table.drop(membership)
        return True

    # Joining and leaving

    def enter(self, reader: Subscription, identity: Identity, state: bytes, is_seen: bool = True) -> None:
        """Add a subscription by which a client reads a room.

        :param state: the client's state, which counts if this node doesn't know the client yet.
        :param is_seen: whether the client may see who is in the room, and be seen.
        """
        if not is_seen:
            self.visibility.blind(reader)
        if self._stopped or identity is NOBODY:
            return
        client = self._clients.get(identity.client_hash)
        if client is None:
            client = self._create_client(identity, state, reader.room.name)
        elif client.identity is not identity:
            self._take_identity(client, identity)
        lease = client.find(reader.room.name)
        if lease is None:
            lease = self._add_lease(client, reader.room, is_seen)
        else:
            self._cancel_expiry(lease)
            if lease.hidden is is_seen:
                self.visibility.set_hidden(lease, not is_seen)
        lease.leaving = False
        lease.readers += (reader,)
        reader.lease = lease

    def check_place(self, identity: Identity, room: str, most: int | None) -> None:
        """Check that a client may come into a room.

        :param most: how many members the room may have, if that is fewer than any room may have.
        :raises RealtimeError: ``too_many``.
        """
        membership = self.memberships.get(room)
        most = self._limits.max_members if most is None else min(most, self._limits.max_members)
        if membership is None or len(membership.members) < most or identity is NOBODY:
            return
        if identity.user.id not in membership.members:
            with naming(room):
                raise RealtimeError("too_many", f"this room has {most} members, as many as it may have; try later")

    def _create_client(self, identity: Identity, state: bytes, room: str) -> Client:
        """A client that is new to this node. Another node may know what it doesn't say."""
        user = identity.user
        other = self.remote.find(room, identity.client_hash)
        changed = self._time_ms() if state != _EMPTY_STATE else int(identity.is_named)
        if other is not None and other.user.id == user.id:
            user = user if identity.is_named else other.user
            state = other.state if state == _EMPTY_STATE else state
            same = user == other.user and state == other.state
            changed = other.changed if same else max(self._time_ms(), other.changed + 1)
        client = self._clients[identity.client_hash] = Client(identity, user, state, changed)
        return client

    def _take_identity(self, client: Client, identity: Identity) -> None:
        """A client comes with another identity than before: renewed, renamed, or as a reader."""
        if identity.order < client.identity.order:
            return
        client.identity = identity
        if identity.is_named and identity.user.name != client.user.name:
            self._update_client(client, identity.user, client.state)

    def _add_lease(self, client: Client, room: Room, is_seen: bool) -> Lease:
        lease = Lease(client, room, hidden=not is_seen)
        client.add(lease)
        self.visibility.add(lease)
        return lease

    def identities(self) -> list[Identity]:
        """The clients of this node that are in rooms."""
        return [client.identity for client in self._clients.values()]

    def renew(self, identity: Identity, rights: Callable[[Identity, str], int]) -> None:
        """A client or the rules were renewed: its user may have another name, and other rights where nothing reads.

        :param rights: what an identity may do in a room. Where the client reads, its sessions see to that.
        """
        client = self._clients.get(identity.client_hash)
        if client is None:
            return
        self._take_identity(client, identity)
        for lease in [lease for lease in client.all() if not lease.readers]:
            left = rights(client.identity, lease.room.name)
            if not left & READ:
                self._end(lease)
            elif not left & PRESENCE:
                self.visibility.set_hidden(lease, True)

    def exit(self, reader: Subscription, polls: bool) -> None:
        """A client's subscription has ended.

        :param polls: whether it was a poll's, whose client is expected back.
        """
        if polls and self._broker.shared:
            self._table.stop_awaiting(reader)
            self._signals.forget(reader)
        self._table.remove_unseeing(reader)
        lease: Lease | None = reader.lease
        if lease is None or self._stopped:
            return
        lease.remove_reader(reader)
        if polls:
            lease.polled_at = self._clock.seconds()
            lease.last_signal = self._signals.kept.number
        if not lease.readers:
            self._expire(lease, polls and not lease.leaving)

    def _find_lease(self, identity: Identity, room: str) -> Lease | None:
        known = self._clients.get(identity.client_hash)
        return None if known is None else known.find(room)

    def _expire(self, lease: Lease, between_polls: bool) -> None:
        """End a lease in a while, as nothing reads by it."""
        lease.expiry = self._between_polls if between_polls else self._leaving
        lease.expiry.add(lease)
        if between_polls:
            lease.between_polls = True
            self._signals.keep(lease.room.name)

    def _cancel_expiry(self, lease: Lease) -> None:
        if lease.expiry is not None:
            lease.expiry.drop(lease)
            lease.expiry = None
        if lease.between_polls:
            lease.between_polls = False
            self._signals.stop_keeping(lease.room.name)

    def _end(self, lease: Lease) -> None:
        """A client has not come back in time."""
        self._cancel_expiry(lease)
        client, room = lease.client, lease.room
        self._signals.end(lease)
        client.remove(lease)
        if not client.all():
            del self._clients[client.client_hash]
        self.visibility.remove(lease)
        room.release()

    def leave(self, identity: Identity, room: str) -> None:
        """A client says by a request that its last poll of a room was the last, on whichever node that was.

        :raises RealtimeError: ``not_joined``.
        """
        if self._reading_lease(identity, room) is None and not self.remote.is_in(room, identity.client_hash):
            raise _not_joined()
        command = ForwardedCommand(identity.client_hash, leaves=room)
        self._carry_out(command)
        self._broker.forward(command)

    def _reading_lease(self, identity: Identity, room: str) -> Lease | None:
        """The lease of a client that reads a room on this node, or is between two polls."""
        lease = self._find_lease(identity, room)
        return lease if lease is not None and lease.reads else None

    def await_client(self, identity: Identity, room: str) -> Deferred[None] | None:
        """Answer when another node has published that a client is in a room, or when it is too late for that.

        :returns: None if there is nothing to wait for.
        """
        if identity is NOBODY or self._stopped or self._reading_lease(identity, room) is not None:
            return None
        if self.remote.is_in(room, identity.client_hash):
            return None
        return self.remote.wait_for(room, identity.client_hash, self._limits.presence_wait)

    def forward_renewal(self, identity: Identity) -> None:
        """Tell the other nodes that a client was renewed."""
        renewal = ForwardedCommand(
            identity.client_hash, renewed=identity.client, user=identity.user.id, order=identity.order
        )
        self._broker.forward(renewal)

    # States

    def set_state(self, identity: Identity, state: bytes, charge: Callable[[float], None]) -> bool:
        """Set a client's state, on all nodes that it is with.

        :param state: a compact JSON object.
        :param charge: takes what a new state costs: as much as a signal for each room.
        :returns: False if the client is in no room. Where there are other nodes, that isn't known.
        :raises RealtimeError: ``rate_limited``.
        """
        known = self._clients.get(identity.client_hash)
        if known is None and not self._broker.shared:
            return False
        if known is not None and known.state == state:
            return True
        charge(_ROOMS_ELSEWHERE if known is None else max(1, len(known.all())))
        if known is not None:
            self._update_client(known, known.user, state)
        self._broker.forward(ForwardedCommand(identity.client_hash, state))
        return True

    def _update_client(self, client: Client, user: User, state: bytes) -> None:
        seen = [lease for lease in client.all() if not lease.hidden]
        memberships = [self.memberships[lease.room.name] for lease in seen]
        for membership in memberships:
            membership.before_change(user.id)
        client.update(user, state, max(self._time_ms(), client.changed + 1))
        for membership in memberships:
            membership.after_change()
            self._table.schedule(membership)
        for lease in seen:
            self._outbox.update(lease)

    # What readers are sent

    def list_members(self, room: str, reader: Subscription | None) -> MemberList:
        """The members of a room.

        :param reader: is sent this list, and later changes by events; None if nobody is.
        """
        self._signals.drop_unneeded(room)
        return self._table.list_members(room, reader)

    def defer_list(self, room: str, reader: Subscription | None) -> MemberList:
        """The number of a room's members. The reader is sent a full list when it is live, if it may see that."""
        if reader is not None and reader.members_version_sent != UNSEEING:
            reader.members_version_sent = UNKNOWN
        return MemberList(self.count(room), None)

    def attend(self, room: str, reader: Subscription | None, is_listed: bool) -> MemberList | None:
        """Who is in a room, for the reply to a reader that joins it; None if the reader may not see that.

        :param is_listed: whether the reply lists the members; else they are sent when the reader is live.
        """
        if reader is not None and reader.members_version_sent == UNSEEING:
            self._signals.drop_unneeded(room)
            return None
        return self.list_members(room, reader) if is_listed else self.defer_list(room, reader)

    def send_list(self, reader: Subscription) -> None:
        """Send a full list to a reader that has missed an event."""
        self._table.send_list(reader)

    def resume_poll(self, reader: Subscription, version: str | None, fresh: bool) -> None:
        """Send a poll that has just subscribed what its client has missed in a room.

        :param version: the version that the poll carries, perhaps empty; None if its client doesn't keep it, and this
            node does.
        :param fresh: whether the client knows nothing of the room yet.
        """
        lease: Lease | None = reader.lease
        membership = None
        if reader.members_version_sent != UNSEEING:
            reader.members_version_sent = self._versions.read(reader, lease, version, fresh)
            membership = self.memberships.get(reader.room.name)
        if reader.members_version_sent < reader.room.members_version_sent:
            self._table.send_list(reader)
        elif membership is not None and reader.members_version_sent == membership.version:
            membership.mark_current(reader)
        if lease is not None and self._versions.was_here(version):
            self._signals.resume(reader, lease)

    def poll_version(self, reader: Subscription, remember: bool) -> str:
        """The version of a poll's answer; see ``poll_version.py``.

        :param remember: whether this node keeps it, as the client doesn't.
        """
        return self._versions.text_for(reader, reader.lease if remember else None)

    def page(self, room: str, after: str) -> MemberPage:
        """A page of a room's members, sorted by id."""
        membership = self.memberships.get(room)
        return MemberPage(0, b"[]", None) if membership is None else membership.page(after, self._limits.presence_page)

    def count(self, room: str) -> int:
        """How many members a room has."""
        membership = self.memberships.get(room)
        return 0 if membership is None else len(membership.members)

    # Signals

    def signal(self, identity: Identity, room: str, event: str, data: bytes, at: int) -> None:
        """Send a client's signal to all readers that are live in a room, on all nodes, but not to the client itself.

        :param data: an encoded value.
        :param at: milliseconds since 1970.
        :raises RealtimeError: ``not_joined``.
        """
        user, there, readers = self._sender(identity, room)
        signal = codec.encode_signal(room, event, data, user, at)
        self._counters.signals += 1
        self._signals.deliver(there, signal, identity.client_hash, readers)
        self._broker.signal(room, identity.client_hash, signal)

    def _sender(self, identity: Identity, room: str) -> tuple[User, Room, Sequence[Subscription]]:
        """The user who sends a signal, the room, and the subscriptions by which the client reads it here.

        :raises RealtimeError: ``not_joined``: it isn't in the room through any node.
        """
        lease = self._reading_lease(identity, room)
        if lease is not None:
            return lease.client.user, lease.room, lease.readers
        there = self.remote.rooms.get(room)
        known = None if there is None else self.remote.find(room, identity.client_hash)
        if there is None or known is None:
            raise _not_joined()
        here = self._clients.get(identity.client_hash)
        return known.user if here is None else here.user, there, ()

    def deliver_signal(self, room: Room, signal: bytes, client_hash: str = "") -> None:
        """Deliver an encoded signal to a room's live readers, and to clients that are between two polls.

        :param client_hash: of the client that sent it, which doesn't get it; empty if no client did.
        """
        client = self._clients.get(client_hash)
        lease = None if client is None else client.find(room.name)
        self._signals.deliver(room, signal, client_hash, () if lease is None else lease.readers)

    # Changes on other nodes

    def _take_change(self, client: RemoteClient) -> None:
        """A client that is with this node as well has changed on another one."""
        known = self._clients.get(client.client_hash)
        if known is not None and client.changed > known.changed and client.user.id == known.user.id:
            self._update_client(known, client.user, client.state)
            known.changed = client.changed

    def _carry_out(self, command: ForwardedCommand) -> None:
        """Carry out a command that a client sent to any node."""
        if command.renewed is not None:
            self.on_renewed(command.renewed)
        client = self._clients.get(command.client_hash)
        if client is None:
            return
        if command.state is not None and command.state != client.state:
            self._update_client(client, client.user, command.state)
        lease = None if command.leaves is None else client.find(command.leaves)
        if lease is not None:
            lease.leaving = True
            if lease.between_polls:
                self._cancel_expiry(lease)
                self._expire(lease, False)


def _not_joined() -> RealtimeError:
    return RealtimeError("not_joined", "this client doesn't read that room; join it first, or poll it")


def _patient(limits: Limits) -> Limits:
    """Let leases last a little longer, as a client's next node has to publish its lease first."""
    more = limits.presence_gather + 2 * limits.presence_interval
    return attrs.evolve(limits, leave_delay=limits.leave_delay + more, poll_grace=limits.poll_grace + more)
