"""Clients, and the leases that keep their users in rooms.

A member of a room is a user with at least one lease there. A :class:`Lease` belongs to a client of this node, a
:class:`RemoteLease` to a client of another node.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import attrs

from realtime_chat.core.by_room import ByRoom
from realtime_chat.core.identity import Identity
from realtime_chat.core.room import Room, Subscription
from realtime_chat.core.wheel import DeadlineQueue
from realtime_chat.values import codec
from realtime_chat.values.limits import NEVER
from realtime_chat.values.model import RemoteClient, User

UNKNOWN = -1
"""The members' version of a reader that may have been sent nothing."""

UNSEEING = sys.maxsize
"""The members' version of a reader that may not see who is in the room: it lacks nothing, whatever happens."""


class Client(ByRoom["Lease"]):
    """A client of this node that is in at least one room, and its leases.

    :ivar identity: what was verified of it last. It is kept here, so that it needn't be verified again.
    :ivar client_hash: its name between nodes, as in its identity.
    :ivar user: the identity's user, with the name that counts now.
    :ivar state: its state, as a compact JSON object.
    :ivar changed: when its name or state changed last; see :class:`~realtime_chat.values.model.RemoteClient`.
    """

    __slots__ = ("_json", "changed", "client_hash", "identity", "state", "user")

    def __init__(self, identity: Identity, user: User, state: bytes, changed: int) -> None:
        super().__init__()
        self.identity = identity
        self.client_hash = identity.client_hash
        self.user = user
        self.state = state
        self.changed = changed
        self._json: bytes | None = None

    @property
    def json(self) -> bytes:
        """The client's user as an encoded member. It is the same in all of the client's rooms."""
        if self._json is None:
            self._json = codec.encode_member(self.user, self.state)
        return self._json

    def update(self, user: User, state: bytes, changed: int) -> None:
        """Set the client's user and state."""
        self.user, self.state, self.changed = user, state, changed
        self._json = None


@attrs.define(eq=False, weakref_slot=False)
class Lease:
    """Keeps the user of one of this node's clients in a room.

    ===================  ===========================================================================================
    state                meaning, and what ends it
    ===================  ===========================================================================================
    reading              The client reads the room: ``readers`` isn't empty. The end of the last reader makes the lease
                         expiring, or between polls if that reader was a poll.
    between polls        The client's next poll is expected. A reader makes it reading; ``leave`` makes it expiring;
                         after ``poll_grace`` seconds the lease ends.
    expiring             Nothing reads by it. A reader makes it reading; after ``leave_delay`` seconds the lease ends.
    ===================  ===========================================================================================

    :ivar room: the room that the client is in.
    :ivar readers: the subscriptions by which the client reads the room.
    :ivar expiry: the queue that ends the lease; None while the client reads.
    :ivar between_polls: whether it waits for the client's next poll.
    :ivar leaving: whether the client has said that its last poll was the last.
    :ivar members_version_sent: the version that its polls were sent, for clients that don't keep it themselves.
    :ivar last_signal: the number of the last signal that was kept before its last poll ended.
    :ivar polled_at: when its last poll ended.
    :ivar published: whether other nodes know of it.
    :ivar hidden: whether its client may not be seen, and so is no member.
    """

    client: Client
    room: Room
    readers: tuple[Subscription, ...] = ()
    expiry: DeadlineQueue[Lease] | None = None
    between_polls: bool = False
    leaving: bool = False
    members_version_sent: int = UNKNOWN
    last_signal: int = 0
    polled_at: float = NEVER
    published: bool = False
    hidden: bool = False

    @property
    def leases(self) -> Sequence[AnyLease]:
        """The leases of the member that this lease stands for: itself."""
        return (self,)

    @property
    def json(self) -> bytes:
        """The encoded member that this lease stands for."""
        return self.client.json

    @property
    def reads(self) -> bool:
        """Whether the client reads the room, or is between two polls."""
        return bool(self.readers) or self.between_polls

    def remove_reader(self, reader: Subscription) -> None:
        """Remove one of the client's subscriptions."""
        readers = self.readers
        self.readers = () if len(readers) == 1 else tuple(other for other in readers if other is not reader)


class CachedMember:
    """Encodes a member once, until :meth:`forget_json` is called."""

    __slots__ = ("_json",)

    def __init__(self) -> None:
        self._json: bytes | None = None

    @property
    def client(self) -> AnyClient:
        """The client that says the member's name and state."""
        raise NotImplementedError

    @property
    def json(self) -> bytes:
        """The encoded member."""
        if self._json is None:
            client = self.client
            self._json = codec.encode_member(client.user, client.state)
        return self._json

    def forget_json(self) -> None:
        """The member's name or state changes: encode it again when it is needed."""
        self._json = None


class RemoteLease(CachedMember):
    """Keeps the user of another node's client in a room.

    :ivar client: the client, as its node published it last.
    """

    __slots__ = ("client",)

    def __init__(self, client: RemoteClient) -> None:
        super().__init__()
        self.client: RemoteClient = client

    def replace_client(self, client: RemoteClient) -> None:
        """Take what the node published of the client now."""
        self.client = client
        self.forget_json()

    @property
    def leases(self) -> Sequence[AnyLease]:
        """The leases of the member that this lease stands for: itself."""
        return (self,)


AnyLease = Lease | RemoteLease
AnyClient = Client | RemoteClient


def seniority(client: AnyClient) -> tuple[int, str, str, bytes]:
    """A sort key: the client that changed last counts. All nodes sort in the same way."""
    return client.changed, client.client_hash, client.user.name, client.state


def looks_same(one: AnyClient, other: AnyClient) -> bool:
    """Whether readers see no difference between two clients of one user."""
    return one is other or (one.state == other.state and one.user == other.user)
