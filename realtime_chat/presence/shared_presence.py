"""Who is in which room by way of any of the nodes that share a store.

Each node has leases of its own clients, tells the others of them, and knows theirs. A member is a user with any of
them, here or elsewhere, so that all nodes have the same members, and tell them as one node alone does. Nothing is
handed from node to node: a client whose polls go to one node after another has a lease at each, which ends there by
itself, and nobody sees that while there is another.

Nodes are told of clients by their *marks*, and of what a client is by when it changed: the last change counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import blake2b

import attrs
from twisted.internet.defer import Deferred

from realtime_chat.core.interfaces import DelayedCall, IBroker, TurnClock
from realtime_chat.core.room import Room
from realtime_chat.core.subscription import Subscription
from realtime_chat.core.wheel import Timeout, Wheel
from realtime_chat.presence.membership import (
    NEVER,
    UNKNOWN,
    Attendance,
    Client,
    Lease,
    Membership,
    RemoteLease,
    digest_of,
)
from realtime_chat.presence.presence import Presence
from realtime_chat.values.counters import Counters
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import ANONYMOUS, ForwardedCommand, RemoteClient, User

__all__ = ["SharedPresence"]

_VERSION = re.compile(r"([0-9a-f]{1,16})\.(0|[1-9][0-9]{0,15})(?:\.([0-9a-f]{16})?(?:\.([0-9a-f]{8}))?)?(?<!\.)")
_NOBODY = digest_of(Attendance(0, b"[]"))
_NOTHING = b"{}"
_NO_NODE = "0"
"""Stands in a version for the node where there is a digest that differs from this node's; the stamp says since when (in
milliseconds since 1970)."""

_MOST_VISITORS = 10_000
_OVERTAKEN = 0.5
"""Seconds by which a signal may come later to one node than to another."""


class SharedPresence(Presence):
    """Everybody in the rooms that are followed here.

    :param broker: tells the other nodes.
    :param client_hash: names a client to them; see :meth:`realtime_chat.core.identity.Identities.client_hash`.
    :param now: milliseconds since 1970.
    """

    def __init__(
        self,
        clock: TurnClock,
        wheel: Wheel,
        limits: Limits,
        counters: Counters,
        node: str,
        broker: IBroker,
        client_hash: Callable[[str], str],
        now: Callable[[], int],
    ) -> None:
        super().__init__(clock, wheel, _patient(limits), counters, node)
        self._wheel = wheel
        self._broker = broker
        self._mark = client_hash
        self._now = now
        self._marks: dict[str, Client] = {}
        self._rooms: dict[str, Room | None] = {}  # that are followed; None until they are there
        self._nodes: dict[str, dict[str, dict[str, RemoteLease]]] = {}  # by node, room and mark
        self._going: dict[str, Timeout] = {}
        self._news: dict[str, dict[str, Lease | None]] = {}  # that the others are to be told, by room and mark
        self._flushing: DelayedCall | None = None
        self._flushed = NEVER
        self._visitors: dict[str, Client] = {}
        self._bringing: tuple[str, bytes] | None = None  # a signal, and to which room
        self._heard: dict[Subscription, tuple[float, str]] = {}  # who has had a signal elsewhere, which may come here
        self._asked: dict[tuple[str, str], list[Deferred[None]]] = {}

    def stop(self) -> None:
        """Forget everybody; nobody is told of anything from now on."""
        super().stop()
        for alarm in self._going.values():
            alarm.cancel()
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        for held in (self._marks, self._rooms, self._nodes, self._going, self._news, self._visitors, self._heard):
            held.clear()
        for room, client_hash in list(self._asked):
            self._answer(room, client_hash)

    # Rooms that are followed

    def opened(self, room: Room) -> None:
        """A room is there, of which :meth:`presence_snapshot` has told already."""
        self._rooms[room.name] = room
        others = [other for _, others in self._others(room.name) for other in others.values()]
        if others:
            membership = self._membership(room)
            for other in others:
                membership.add(other, next(self._stamps))
            membership.news()  # nobody is there yet to be told

    def forget(self, room: str) -> bool:
        """See :meth:`Presence.forget`; who is there by way of other nodes is forgotten then."""
        membership = self.memberships.get(room)
        if membership is not None and membership.holds_own():
            return False
        self._rooms.pop(room, None)
        for node, _ in list(self._others(room)):
            self._forget_others(node, room)
        if membership is not None:
            del self.memberships[room]
            self._dirty.pop(membership, None)
        return True

    def _others(self, room: str) -> Iterator[tuple[str, dict[str, RemoteLease]]]:
        """Those in a room by way of other nodes, by node and mark."""
        for node, rooms in self._nodes.items():
            others = rooms.get(room)
            if others is not None:
                yield node, others

    def _forget_others(self, node: str, room: str) -> None:
        rooms = self._nodes[node]
        del rooms[room]
        if not rooms and node not in self._going:
            del self._nodes[node]

    # What the other nodes tell (see interfaces.Listener)

    def presence_snapshot(self, room: str, others: Mapping[str, Sequence[RemoteClient]]) -> None:
        """Who is in a room by way of other nodes."""
        if self._stopped:
            return
        new = room not in self._rooms
        self._rooms.setdefault(room, None)
        known = {node: set(client_hashes) for node, client_hashes in self._others(room) if node not in self._going}
        for node, attendees in others.items():
            if new or node not in self._going:
                self._change(room, node, attendees, ())
        for node, client_hashes in known.items():
            self._change(
                room, node, (), list(client_hashes.difference(one.client_hash for one in others.get(node, ())))
            )

    def presence_delta(self, room: str, node: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        """Somebody came, changed, or went on another node."""
        if room in self._rooms and node not in self._going:
            self._change(room, node, came, gone)

    def node_snapshot(self, room: str, node: str, there: Sequence[RemoteClient]) -> None:
        """Who is in a room by way of one other node, all of them."""
        if room not in self._rooms or node in self._going:
            return
        gone = set(self._nodes.get(node, {}).get(room, {})).difference(one.client_hash for one in there)
        if there or gone:
            self._change(room, node, there, list(gone))

    def _change(self, room: str, node: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        others = self._nodes.setdefault(node, {}).setdefault(room, {})
        there = self._rooms[room]
        membership = None if there is None else self._membership(there)
        seen = [self._take_in(membership, others, attendee) for attendee in came]
        seen += [self._take_out(membership, others.pop(client_hash, None)) for client_hash in gone]
        if not others:
            self._forget_others(node, room)
        if membership is not None and (any(seen) or not membership.members):
            self._schedule(membership)
        for attendee in came:
            self._resemble(attendee)
            self._answer(room, attendee.client_hash)

    def _take_in(self, membership: Membership | None, others: dict[str, RemoteLease], attendee: RemoteClient) -> bool:
        """Take in who came or changed.

        :returns: whether readers see anything of it.
        """
        other = others.get(attendee.client_hash)
        if other is not None and other.client.user.id != attendee.user.id:
            self._take_out(membership, other)
            other = None
        if other is None:
            other = others[attendee.client_hash] = RemoteLease(attendee)
            return membership is not None and membership.add(other, next(self._stamps))
        if membership is not None:
            return membership.replace(other, attendee, next(self._stamps))
        other.become(attendee)
        return False

    def _take_out(self, membership: Membership | None, other: RemoteLease | None) -> bool:
        return membership is not None and other is not None and membership.remove(other, next(self._stamps))

    def _resemble(self, attendee: RemoteClient) -> None:
        """A client of ours, which is with another node as well, is what it was last."""
        client = self._marks.get(attendee.client_hash)
        if client is not None and attendee.changed > client.changed and attendee.user.id == client.user.id:
            self._alter(client, attendee.user, attendee.state)
            client.changed = attendee.changed

    def node_left(self, node: str, held: float) -> None:
        """A node is no longer there."""
        if node not in self._nodes or node in self._going:
            return
        if held > 0:
            self._going[node] = self._wheel.call_later(held, partial(self._drop, node))
        else:
            self._drop(node)

    def _drop(self, node: str) -> None:
        self._going.pop(node, None)
        for room, others in self._nodes.pop(node).items():
            membership = self.memberships.get(room)
            if membership is not None:
                for other in others.values():
                    membership.remove(other, next(self._stamps))
                self._schedule(membership)

    def forwarded(self, command: ForwardedCommand) -> None:
        """A client has said something to another node."""
        client = self._marks.get(command.client_hash)
        if client is None:
            return
        if command.state not in (None, client.state):
            self._alter(client, client.user, command.state)
        lease = None if command.leaves is None else client.leases.get(command.leaves)
        if lease is not None:
            self._leave(lease)

    # What they are told

    def _meet(self, client: str, user: User, named: bool, state: bytes, room: str) -> Client:
        """A client that isn't here yet; what it doesn't say, another node may know."""
        client_hash = self._mark(client)
        known = max((other.client for other in self._elsewhere(room, client_hash)), key=_changed, default=None)
        changed = self._now() if state != _NOTHING else int(named)
        if known is not None and known.user.id == user.id:
            user = user if named else known.user
            state = known.state if state == _NOTHING else state
            same = user == known.user and state == known.state
            changed = known.changed if same else max(self._now(), known.changed + 1)
        met = self._marks[client_hash] = Client(client, client_hash, user, state, changed)
        return met

    def _elsewhere(self, room: str, client_hash: str) -> list[RemoteLease]:
        """What other nodes say of a client in a room."""
        return [others[client_hash] for _, others in self._others(room) if client_hash in others]

    def _moment(self, client: Client) -> int:
        return max(self._now(), client.changed + 1)

    def _begin(self, client: Client, room: Room) -> Lease:
        lease = super()._begin(client, room)
        lease.attended = client.client_hash in self._news.get(room.name, ())
        self._note(lease)
        return lease

    def _end(self, lease: Lease) -> None:
        super()._end(lease)
        client, room = lease.client, lease.membership.room.name
        if not client.leases:
            del self._marks[client.client_hash]
        if lease.attended:
            self._note(lease, gone=True)
        else:
            del self._news[room][client.client_hash]

    def _alter(self, client: Client, user: User, state: bytes) -> None:
        super()._alter(client, user, state)
        for lease in client.leases.values():
            self._note(lease)

    def _note(self, lease: Lease, gone: bool = False) -> None:
        """The others are to be told of a lease, together with what else changes soon."""
        changes = self._news.setdefault(lease.membership.room.name, {})
        changes[lease.client.client_hash] = None if gone else lease
        if self._flushing is None:
            wait = max(
                self._limits.presence_gather, self._flushed + self._limits.presence_interval - self._clock.seconds()
            )
            self._flushing = self._clock.callLater(wait, self._flush)

    def _flush(self) -> None:
        self._flushing = None
        self._flushed = self._clock.seconds()
        news, self._news = self._news, {}
        for room, changes in news.items():
            came = [_attend(lease) for lease in changes.values() if lease is not None]
            gone = [client_hash for client_hash, lease in changes.items() if lease is None]
            if came or gone:
                self._broker.publish_presence(room, came, gone)

    # What a client asks a node for that it isn't with

    def leave(self, client: str | None, room: str) -> None:
        """See :meth:`Presence.leave`; for all nodes."""
        client_hash = None if client is None else self._mark(client)
        if client_hash is None or not self._elsewhere(room, client_hash):
            self._lease(client, room)
        if client_hash is not None:
            command = ForwardedCommand(client_hash, leaves=room)
            self.forwarded(command)
            self._broker.forward(command)

    def set_state(self, client: str, state: bytes) -> bool:
        """See :meth:`Presence.set_state`; for all nodes, of which any may know the client."""
        known = self._clients.get(client)
        if known is None or known.state != state:
            if known is None:  # how many rooms it is in, other nodes know: it may say a state a second here
                visitor = self._visitor(client, self._mark(client), ANONYMOUS)
                self._count_state(visitor, self._limits.signal_rate)
            super().set_state(client, state)
            self._broker.forward(ForwardedCommand(self._mark(client), state))
        return True

    def meet(self, client: str | None, room: str) -> Deferred[None] | None:
        """Answer when a client is known to be in a room, or when that isn't to be expected any more; None where there
        is nothing to wait for."""
        if client is None or self._stopped or self._reads(client, room):
            return None
        client_hash = self._mark(client)
        if self._elsewhere(room, client_hash):
            return None
        waiting = self._asked.setdefault((room, client_hash), [])
        if not waiting:
            self._wheel.call_later(self._limits.presence_wait, partial(self._answer, room, client_hash))
        answer: Deferred[None] = Deferred()
        waiting.append(answer)
        return answer

    def _answer(self, room: str, client_hash: str) -> None:
        for answer in self._asked.pop((room, client_hash), ()):
            answer.callback(None)

    # Signals

    def signal(self, client: str | None, room: str, event: str, data: bytes, at: int) -> tuple[str, bytes]:
        """See :meth:`Presence.signal`; on all nodes."""
        sent = super().signal(client, room, event, data, at)
        self._broker.signal(room, *sent)
        return sent

    def _sender(self, client: str | None, room: str) -> tuple[Client, Room, Sequence[Subscription]]:
        """See :meth:`Presence._sender`; it may be in the room by way of another node."""
        there = self._rooms.get(room)
        if client is None or there is None or self._reads(client, room):
            return super()._sender(client, room)
        client_hash = self._mark(client)
        elsewhere = max((other.client for other in self._elsewhere(room, client_hash)), key=_changed, default=None)
        if elsewhere is None:
            return super()._sender(client, room)
        return self._clients.get(client) or self._visitor(client, client_hash, elsewhere.user), there, ()

    def _reads(self, client: str, room: str) -> bool:
        """Whether a client reads a room by way of this node."""
        known = self._clients.get(client)
        return known is not None and room in known.leases and known.leases[room].reads

    def _visitor(self, client: str, client_hash: str, user: User) -> Client:
        """A client that signals or says its state here and is elsewhere; remembered for a while, for the
        sake of its rates."""
        visitor = self._visitors.pop(client, None)
        if visitor is None:
            visitor = Client(client, client_hash, user, _NOTHING, 0)
        visitor.user = user
        self._visitors[client] = visitor
        if len(self._visitors) > _MOST_VISITORS:
            del self._visitors[next(iter(self._visitors))]
        return visitor

    def _marked(self, client_hash: str) -> Client | None:
        return self._marks.get(client_hash)

    def _bring(self, room: Room, signal: bytes, client_hash: str, skip: Sequence[Subscription]) -> None:
        """Bring it to nobody whose last poll another node has answered with it."""
        if self._heard:
            word, now = _word(signal), self._clock.seconds()
            skip = [*skip, *(reader for reader, (until, heard) in self._heard.items() if heard == word and until > now)]
        self._bringing = room.name, signal
        try:
            super()._bring(room, signal, client_hash, skip)
        finally:
            self._bringing = None

    # Polls that come from another node

    def exit(self, reader: Subscription, polls: bool) -> None:
        """See :meth:`Presence.exit`."""
        self._drop_late(reader)
        self._heard.pop(reader, None)
        super().exit(reader, polls)

    def refresh(self, reader: Subscription) -> None:
        """See :meth:`Presence.refresh`."""
        self._drop_late(reader)
        super().refresh(reader)

    def _drop_late(self, reader: Subscription) -> None:
        membership = self.memberships.get(reader.room.name)
        if membership is not None and membership.late is not None:
            membership.late.pop(reader, None)

    def _polled_here(self, version: str | None) -> bool:
        return version is not None and version.partition(".")[0] == self._node

    def _version_sent_before(self, reader: Subscription, version: str | None, fresh: bool) -> int:
        if version is None:
            return self._unsaid_version(reader, fresh)
        match = _VERSION.fullmatch(version)
        if match is None:
            return UNKNOWN
        node, stamp, digest, heard = match.groups()
        if node != self._node and heard is not None:
            self._heard[reader] = self._clock.seconds() + _OVERTAKEN, heard
        if node == self._node:
            return self._read_own(f"{node}.{stamp}", digest or "", reader.room)
        if digest is None:
            return UNKNOWN
        return self._read_digest(reader, digest, min(int(stamp), self._now()) if node == _NO_NODE else self._now())

    def _read_own(self, version: str, digest: str, room: Room) -> int:
        told, membership = self._read_version(version, room), self.memberships.get(room.name)
        if told < room.members_version_sent and membership is not None:
            told = max(told, membership.version_of(digest))
        return told

    def _unsaid_version(self, reader: Subscription, fresh: bool) -> int:
        """Of a poll that says nothing, and may have been told by another node, it is not known what it was told. It is
        not told again, as that would answer it at once, over and over."""
        told = super()._version_sent_before(reader, None, fresh)
        lease: Lease | None = reader.lease
        if told != UNKNOWN or fresh or lease is None or not self._elsewhere(reader.room.name, lease.client.client_hash):
            return told
        return lease.membership.version

    def _read_digest(self, reader: Subscription, digest: str, since: int) -> int:
        membership = self.memberships.get(reader.room.name)
        if membership is None:
            return reader.room.members_version_sent if digest == _NOBODY else UNKNOWN
        told = membership.version_of(digest)
        if told != UNKNOWN or self._is_over(since):
            return told
        self._wait(membership, reader, since, digest)  # one of the nodes may be about to hear what the other knows
        return reader.room.members_version_sent

    def _wait(self, membership: Membership, reader: Subscription, since: int, digest: str) -> None:
        if membership.late is None:
            membership.late = {}
        membership.late[reader] = since, digest
        self._schedule(membership)

    def _is_over(self, since: int) -> bool:
        """Whether nodes have had the time to hear of each other what one of them knew at a moment."""
        return self._now() >= since + 2000 * self._limits.presence_interval

    def _tell(self, membership: Membership, now: float) -> None:
        late, membership.late = membership.late or {}, None
        for reader in late:
            membership.spare(reader)
        super()._tell(membership, now)
        for reader, (since, digest) in late.items():
            self._tell_late(membership, reader, since, digest)

    def _tell_late(self, membership: Membership, reader: Subscription, since: int, digest: str) -> None:
        told = membership.version_of(digest)
        if told != UNKNOWN:
            reader.members_version_sent = told
        elif not self._is_over(since):
            self._wait(membership, reader, since, digest)
        elif reader.live:
            self.refresh(reader)
            reader.subscriber.catch_up()
        else:
            reader.members_version_sent = UNKNOWN

    def version(self, reader: Subscription, remember: bool) -> str:
        """See :meth:`Presence.version`; with a digest of what it was told, and a word for the signal that answers it,
        by which other nodes know these."""
        version = super().version(reader, remember)
        name = reader.room.name
        membership = self.memberships.get(name)
        digest: str | None = _NOBODY
        if membership is not None and membership.late and reader in membership.late:
            since, digest = membership.late[reader]
            version = f"{_NO_NODE}.{since}"
        elif membership is not None:
            digest = membership.digest_at(self._told(reader))
        if self._bringing is not None and self._bringing[0] == name:
            return f"{version}.{digest or ''}.{_word(self._bringing[1])}"
        return version if digest is None else f"{version}.{digest}"


def _patient(limits: Limits) -> Limits:
    """Leases last a little longer, as others have to hear that a client is with another node now."""
    more = limits.presence_gather + 2 * limits.presence_interval
    return attrs.evolve(limits, leave_delay=limits.leave_delay + more, poll_grace=limits.poll_grace + more)


def _word(signal: bytes) -> str:
    """A word for a signal, on all nodes the same; each of them says itself when it relayed something."""
    return blake2b(signal.rpartition(b',"at":')[0], digest_size=4).hexdigest()


def _attend(lease: Lease) -> RemoteClient:
    client, lease.attended = lease.client, True
    return RemoteClient(client.client_hash, client.user, client.state, client.changed)


def _changed(attendee: RemoteClient) -> int:
    return attendee.changed
