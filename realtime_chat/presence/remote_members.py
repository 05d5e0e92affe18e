"""Who is in a room through other nodes, and what this node tells them of its own clients.

A client may be with several nodes, and has a lease at each. No lease is handed from node to node. When a client goes to
another node, its lease at the old one expires. Readers see nothing of that as long as it has another lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from realtime_chat.core.interfaces import IBroker, MembersListener
from realtime_chat.core.node import Node
from realtime_chat.core.room import Room
from realtime_chat.core.wheel import Timeout, Wheel
from realtime_chat.presence.leases import Lease, RemoteLease
from realtime_chat.presence.membership import Membership
from realtime_chat.presence.membership_table import MembershipTable
from realtime_chat.values.limits import NEVER
from realtime_chat.values.model import ForwardedCommand, RemoteClient


class RemoteMembers(MembersListener):
    """The leases of other nodes' clients, in the rooms that this node follows. Empty where the node is alone.

    :param table: gets the leases of rooms that are open.
    :param on_client: called with each client that another node has published.
    :param forwarded: carries out a command that a client has given another node.
    :ivar rooms: the rooms that are followed; None for those that aren't loaded yet.
    """

    def __init__(
        self,
        table: MembershipTable,
        wheel: Wheel,
        on_client: Callable[[RemoteClient], None],
        forwarded: Callable[[ForwardedCommand], None],
    ) -> None:
        self.rooms: dict[str, Room | None] = {}
        self._table = table
        self._wheel = wheel
        self._on_client = on_client
        self.forwarded = forwarded
        self._nodes: dict[str, dict[str, dict[str, RemoteLease]]] = {}  # by node, room and client hash
        self._leaving: dict[str, Timeout] = {}  # nodes that have stopped, and whose clients stay for a while
        self._waiting: dict[tuple[str, str], list[Deferred[None]]] = {}  # for a client to be in a room
        self._stopped = False

    def stop(self) -> None:
        """Forget everything, and let nobody wait any longer."""
        self._stopped = True
        for timeout in self._leaving.values():
            timeout.cancel()
        for known in (self.rooms, self._nodes, self._leaving):
            known.clear()
        for room, client_hash in list(self._waiting):
            self._stop_waiting(room, client_hash)

    # Rooms

    def open_room(self, room: Room) -> None:
        """A room is loaded. :meth:`snapshot` has said before who is in it."""
        self.rooms[room.name] = room
        leases = [lease for _, leases in self._leases_in(room.name) for lease in leases.values()]
        if leases:
            membership = self._table.of(room)
            for lease in leases:
                membership.add(lease)
            membership.take_event()  # nobody reads the room yet

    def drop_room(self, room: str) -> None:
        """Forget who is in a room, which isn't followed any more."""
        self.rooms.pop(room, None)
        for node, _ in list(self._leases_in(room)):
            self._drop_leases(node, room)

    def _leases_in(self, room: str) -> Iterator[tuple[str, dict[str, RemoteLease]]]:
        """The leases in a room by client hash, with the node of each."""
        for node, rooms in self._nodes.items():
            leases = rooms.get(room)
            if leases is not None:
                yield node, leases

    def _drop_leases(self, node: str, room: str) -> None:
        rooms = self._nodes[node]
        del rooms[room]
        if not rooms and node not in self._leaving:
            del self._nodes[node]

    # Lookups

    def is_in(self, room: str, client_hash: str) -> bool:
        """Whether a client is in a room through another node."""
        return any(client_hash in leases for _, leases in self._leases_in(room))

    def find(self, room: str, client_hash: str) -> RemoteClient | None:
        """A client that is in a room through other nodes, as the one published it that knows the last change."""
        if not self._nodes:
            return None
        clients = [leases[client_hash].client for _, leases in self._leases_in(room) if client_hash in leases]
        return max(clients, key=_changed, default=None)

    def wait_for(self, room: str, client_hash: str, seconds: float) -> Deferred[None]:
        """Answer when another node publishes that a client is in a room, or after some seconds."""
        waiting = self._waiting.setdefault((room, client_hash), [])
        if not waiting:
            self._wheel.call_later(seconds, partial(self._stop_waiting, room, client_hash))
        answer: Deferred[None] = Deferred()
        waiting.append(answer)
        return answer

    def _stop_waiting(self, room: str, client_hash: str) -> None:
        for answer in self._waiting.pop((room, client_hash), ()):
            answer.callback(None)

    # What other nodes publish (see interfaces.MembersListener)

    def snapshot(self, room: str, others: Mapping[str, Sequence[RemoteClient]]) -> None:
        if self._stopped:
            return
        new = room not in self.rooms
        self.rooms.setdefault(room, None)
        known = {node: set(leases) for node, leases in self._leases_in(room) if node not in self._leaving}
        for node, clients in others.items():
            if new or node not in self._leaving:
                self._change(room, node, clients, ())
        for node, client_hashes in known.items():
            there = {client.client_hash for client in others.get(node, ())}
            self._change(room, node, (), list(client_hashes - there))

    def node_snapshot(self, room: str, node: str, clients: Sequence[RemoteClient]) -> None:
        if room not in self.rooms or node in self._leaving:
            return
        gone = set(self._nodes.get(node, {}).get(room, {})).difference(client.client_hash for client in clients)
        if clients or gone:
            self._change(room, node, clients, list(gone))

    def delta(self, room: str, node: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        if room in self.rooms and node not in self._leaving:
            self._change(room, node, came, gone)

    def _change(self, room: str, node: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        leases = self._nodes.setdefault(node, {}).setdefault(room, {})
        there = self.rooms[room]
        membership = None if there is None else self._table.of(there)
        seen = [self._set(membership, leases, client) for client in came]
        seen += [self._remove(membership, leases.pop(client_hash, None)) for client_hash in gone]
        if not leases:
            self._drop_leases(node, room)
        if membership is not None and (any(seen) or not membership.members):
            self._table.schedule(membership)
        for client in came:
            self._on_client(client)
            self._stop_waiting(room, client.client_hash)

    def _set(self, membership: Membership | None, leases: dict[str, RemoteLease], client: RemoteClient) -> bool:
        """Add or update a client's lease.

        :returns: whether readers see a change.
        """
        lease = leases.get(client.client_hash)
        if lease is not None and lease.client.user.id != client.user.id:
            self._remove(membership, lease)
            lease = None
        if lease is None:
            lease = leases[client.client_hash] = RemoteLease(client)
            return membership is not None and membership.add(lease)
        if membership is not None:
            return membership.update(lease, client)
        lease.replace_client(client)
        return False

    def _remove(self, membership: Membership | None, lease: RemoteLease | None) -> bool:
        return membership is not None and lease is not None and membership.remove(lease)

    # Nodes that leave

    def node_left(self, node: str, delay: float) -> None:
        if node not in self._nodes or node in self._leaving:
            return
        if delay > 0:
            self._leaving[node] = self._wheel.call_later(delay, partial(self._drop_node, node))
        else:
            self._drop_node(node)

    def _drop_node(self, node: str) -> None:
        self._leaving.pop(node, None)
        for room, leases in self._nodes.pop(node).items():
            membership = self._table.by_room.get(room)
            if membership is not None:
                for lease in leases.values():
                    membership.remove(lease)
                self._table.schedule(membership)


def _changed(client: RemoteClient) -> int:
    return client.changed


class PresenceOutbox:
    """Gathers leases that were added, changed or removed, and publishes them together.

    :param broker: publishes them. Nothing is gathered if there are no other nodes.
    """

    def __init__(self, node: Node, broker: IBroker) -> None:
        self._clock = node.clock
        self._limits = node.limits
        self._broker = broker
        self._changes: dict[str, dict[str, Lease | None]] = {}  # by room and client hash; None for one that is gone
        self._timer: IDelayedCall | None = None
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
