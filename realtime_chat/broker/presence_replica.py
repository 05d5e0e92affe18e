"""The clients of other nodes, as this node knows them from Redis.

A room's hash is read when the room is followed, and deltas are applied to it after that. A delta that isn't the next
one says that something was missed: the hash is read again. Where a room has no hash, this node asks the others that
follow it, and each of them answers with its own clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.python.failure import Failure

from realtime_chat.broker.heartbeat import Heartbeat
from realtime_chat.broker.presence_messages import (
    ALL,
    QUESTION,
    Delta,
    Snapshot,
    decode_delta,
    decode_head,
    decode_snapshot,
)
from realtime_chat.broker.presence_publisher import PresencePublisher
from realtime_chat.core.interfaces import MembersListener
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.wire import Argument, load_script
from realtime_chat.values.errors import StoreError
from realtime_chat.values.model import RemoteClient

_MAX_PENDING = 1000
_ANSWER_TIMEOUT = 0.3


class _RoomReplica(msgspec.Struct, eq=False):
    """What this node has read of a room's hash.

    :ivar id: the hash's id; empty if there is none.
    :ivar version: of the last delta that was applied.
    :ivar pending: deltas that came while the hash is being read; None while it isn't.
    :ivar read_again: whether it has to be read once more after that.
    :ivar answers: the clients of each node that has answered; None while no question is open.
    :ivar wanted: how many nodes have to answer.
    :ivar answered: is called back when they have; None while nobody waits for that.
    """

    id: bytes = b""
    version: int = 0
    pending: list[Delta] | None = None
    read_again: bool = False
    answers: dict[str, Sequence[RemoteClient]] | None = None
    wanted: int = 0
    answered: Deferred[None] | None = None

    def take_answer(self, delta: Delta) -> None:
        """A node has published all its clients."""
        if self.answers is None:
            return
        self.answers[delta.node] = delta.came
        if self.answered is not None and len(self.answers) >= self.wanted:
            answered, self.answered = self.answered, None
            answered.callback(None)

    def is_next(self, delta: Delta) -> bool:
        """Whether a delta follows the last one that was applied."""
        return self.id in (delta.id, b"") and delta.version == self.version + 1


class PresenceReplica:
    """Follows rooms, and tells the listener of other nodes' clients in them.

    :param grace: seconds after a loss in which other nodes restore their rows. Until then nobody is forgotten.
    :param repair_later: called when :meth:`read_some` has something to do.
    :ivar listener: None while this node isn't started.
    :ivar stale: the rooms that have to be read again.
    """

    def __init__(
        self,
        clock: Any,
        names: RedisNames,
        node: str,
        connection: RedisConnection,
        heartbeat: Heartbeat,
        publisher: PresencePublisher,
        grace: float,
        repair_later: Callable[[], None],
    ) -> None:
        self.stale: dict[str, None] = {}
        self.listener: MembersListener | None = None
        self._clock = clock
        self._names = names
        self._node = node
        self._connection = connection
        self._heartbeat = heartbeat
        self._publisher = publisher
        self._grace = grace
        self._repair_later = repair_later
        self._rooms: dict[str, _RoomReplica] = {}
        self._incomplete: dict[str, float] = {}  # rooms whose hash may lack rows of other nodes, and until when
        self._read_script = load_script("realtime_chat.broker", "lua/read_members.lua")

    def stop(self) -> None:
        """Tell the listener nothing any more, and wait for no answer."""
        self.listener = None
        for replica in list(self._rooms.values()):
            if replica.answered is not None:
                replica.answered.cancel()

    # Rooms that are followed

    async def follow(self, room: str) -> None:
        """Read a room, and apply what is published from now on. Called again after something may have been missed.

        :raises StoreError: not now.
        """
        replica = self._rooms.get(room)
        if replica is None:
            replica = self._rooms[room] = _RoomReplica()
            await self._read(room, replica, True)
            return
        if not replica.id:  # the other nodes may not hear us yet
            self._mark_incomplete(room)
        await self._read(room, replica)

    def unfollow(self, room: str) -> None:
        """Forget a room."""
        for rooms in (self._rooms, self.stale, self._incomplete):
            rooms.pop(room, None)

    def may_have_hash(self, room: str) -> bool:
        """Whether a room has a hash, or isn't followed."""
        return room not in self._rooms or bool(self._rooms[room].id)

    # Reading

    async def _read(self, room: str, replica: _RoomReplica, first: bool = False) -> None:
        """Read a room, tell the listener, and apply the deltas that came meanwhile.

        :param first: whether nothing is known of the room yet.
        """
        if replica.pending is not None:
            replica.read_again = True
            return
        replica.pending = []
        try:
            snapshot, held = await self._snapshot(room, replica)
        except BaseException:
            replica.pending = replica.answers = None
            raise
        pending, replica.pending = replica.pending, None
        if self._rooms.get(room) is not replica or self.listener is None:
            return
        if not snapshot.complete and not first:  # who hasn't answered is asked again, and not forgotten
            self._mark_incomplete(room)
        self._apply_snapshot(room, replica, snapshot, self.listener, first)
        for node, seconds in held.items():
            self.listener.node_left(node, seconds)
        if snapshot.own != self._publisher.rows.get(room, {}):
            self._publisher.restore_later(room)
        for delta in pending:
            self._apply(room, replica, delta)

    def _apply_snapshot(
        self, room: str, replica: _RoomReplica, snapshot: Snapshot, listener: MembersListener, first: bool
    ) -> None:
        """Tell the listener who is in a room. If the hash is another one than before, other nodes may still have to
        restore their rows: so nobody who is missing is forgotten yet."""
        if replica.id != snapshot.id and not first:
            self._mark_incomplete(room)
        replica.id, replica.version = snapshot.id, snapshot.version
        if room not in self._incomplete:
            listener.snapshot(room, snapshot.others)
            return
        for node, clients in snapshot.others.items():
            listener.delta(room, node, clients, ())

    async def _snapshot(self, room: str, replica: _RoomReplica) -> tuple[Snapshot, Mapping[str, float]]:
        """Read a room's hash, or ask the other nodes if there is none.

        :returns: the clients of nodes that are not gone; and the nodes that have stopped, with the seconds for which
            they are held.
        """
        while True:
            replica.read_again = False
            replica.answers = {}
            words: list[Argument] = [self._names.room(room), self._node, self._publisher.body_of(room)]
            asked, *fields = await self._read_script.run(self._connection, [self._names.members(room)], words)
            snapshot = decode_snapshot(self._node, fields)
            if not fields:
                complete = await self._wait_for_answers(replica, asked - 1)
                snapshot = Snapshot(b"", 0, self._publisher.rows.get(room, {}), replica.answers, complete)
            replica.answers = None
            gone, held = await self._heartbeat.partition(snapshot.others)
            if not replica.read_again:
                others = {node: clients for node, clients in snapshot.others.items() if node not in gone}
                return snapshot._replace(others=others), held

    async def _wait_for_answers(self, replica: _RoomReplica, wanted: int) -> bool:
        """Wait for so many nodes to answer.

        :returns: whether they have.
        """
        if replica.answers is None or len(replica.answers) >= wanted or self.listener is None:
            return True
        replica.wanted, replica.answered = wanted, Deferred()
        try:
            await replica.answered.addTimeout(_ANSWER_TIMEOUT, self._clock)
        except (DeferredTimeout, CancelledError):
            return False
        finally:
            replica.answered = None
        return True

    # Deltas

    def take(self, room: str, payload: bytes) -> bool:
        """Take a payload of presence that this node or another one has published on a room's channel.

        :returns: False if it is malformed.
        """
        head = decode_head(payload)
        if head is not None and head.id == QUESTION and head.node != self._node:
            self._publisher.answer(room)
        replica = self._rooms.get(room)
        if head is None or replica is None:
            return head is not None
        delta = decode_delta(head)
        if delta is None:
            return False
        if delta.id in (ALL, QUESTION) and delta.node != self._node:
            replica.take_answer(delta)
        if replica.pending is None:
            self._apply(room, replica, delta)
        elif len(replica.pending) < _MAX_PENDING:
            replica.pending.append(delta)
        else:
            replica.read_again = True
        return True

    def _apply(self, room: str, replica: _RoomReplica, delta: Delta) -> None:
        """Apply a delta, or read the hash if it isn't the next one."""
        if delta.version == 0:
            self._tell_delta(room, delta)
            return
        if delta.id == replica.id and delta.version <= replica.version:
            return
        if not replica.is_next(delta):
            self._read_soon(room)
            return
        if not replica.id:
            self._hash_was_made(room)
        replica.id, replica.version = delta.id, delta.version
        self._tell_delta(room, delta)

    def _tell_delta(self, room: str, delta: Delta) -> None:
        if delta.node == self._node or self.listener is None:
            return
        self._heartbeat.mark_alive(delta.node)
        if delta.id in (ALL, QUESTION):
            self.listener.node_snapshot(room, delta.node, delta.came)
        else:
            self.listener.delta(room, delta.node, delta.came, delta.gone)

    def _hash_was_made(self, room: str) -> None:
        """A room has a hash now: write our rows into it. It is complete when all nodes have had time for that."""
        self._mark_incomplete(room)
        if room in self._publisher.rows:
            self._publisher.restore(room)

    # What has to be read again

    def _mark_incomplete(self, room: str) -> None:
        self._incomplete[room] = self._clock.seconds() + self._grace

    def read_complete_later(self) -> None:
        """Read the rooms again whose hash should be complete by now."""
        now = self._clock.seconds()
        for room in [room for room, until in self._incomplete.items() if until <= now]:
            del self._incomplete[room]
            self.stale[room] = None
            self._repair_later()

    def read_some(self, limit: int) -> None:
        """Read some of the rooms that have to be read again."""
        for room in list(islice(self.stale, limit)):
            self._read_soon(room)

    def _read_soon(self, room: str) -> None:
        self.stale.pop(room, None)
        replica = self._rooms.get(room)
        if replica is not None:
            Deferred.fromCoroutine(self._read(room, replica)).addErrback(self._not_read, room)

    def _not_read(self, failure: Failure, room: str) -> None:
        failure.trap(StoreError)
        self.stale[room] = None
        self._repair_later()
