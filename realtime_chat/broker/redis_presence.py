"""Presence over Redis: the parts that know, publish and repair it, put together.

* ``heartbeat.py``: which nodes are alive;
* ``presence_publisher.py``: this node's clients;
* ``presence_replica.py``: the clients of other nodes;
* ``presence_messages.py``: what is written and published.

Rows count as long as their node is alive. Each node restores what Redis loses of its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.broker.heartbeat import BEATS_PER_TIMEOUT, Heartbeat
from realtime_chat.broker.presence_messages import Bye, Gone, Missed, Said, decode_notice
from realtime_chat.broker.presence_publisher import PresencePublisher
from realtime_chat.broker.presence_replica import PresenceReplica
from realtime_chat.broker.renewals import Renewals
from realtime_chat.core.interfaces import MembersListener
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.wire import OnMessage, ignore_store_error, load_script
from realtime_chat.values.errors import StoreError
from realtime_chat.values.model import ForwardedCommand, RemoteClient

_ROOMS_AT_ONCE = 50
_RETRY_DELAY = 1.0
_TIMEOUTS_PER_EXPIRY = 4
"""A room's hash expires after so many timeouts of nodes, if nobody renews it."""


class RedisPresence:
    """Tells other nodes who is in the rooms of this one, and hears it of them.

    :param clock: the reactor.
    :param names: of keys and channels.
    :param node: this node's name, which no other node has.
    :param connection: sends commands to Redis.
    :param random_bytes: gives as many as it is asked for.
    :param node_timeout: seconds after which a node that has died is known to be gone.
    :param held: seconds for which other nodes hold the clients of a node that has stopped.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Any,
        names: RedisNames,
        node: str,
        connection: RedisConnection,
        random_bytes: Callable[[int], bytes],
        *,
        node_timeout: float = 30.0,
        held: float = 5.0,
    ) -> None:
        self._clock = clock
        self._names = names
        self._node = node
        self._connection = connection
        self._beat_interval = node_timeout / BEATS_PER_TIMEOUT
        self._expiry = node_timeout * _TIMEOUTS_PER_EXPIRY
        self._held = held
        grace = node_timeout / 3 + 2 * _RETRY_DELAY  # in which other nodes restore what was lost
        later = self._repair_later
        self.heartbeat = Heartbeat(clock, names, node, connection, node_timeout, grace)
        self.publisher = PresencePublisher(names, node, connection, random_bytes, self._expiry, later)
        self.replica = PresenceReplica(clock, names, node, connection, self.heartbeat, self.publisher, grace, later)
        self._renewals = Renewals(clock, names, node, connection)
        self._repairing: IDelayedCall | None = None
        self._beats = 0
        self._beating = LoopingCall(self._beat)
        self._beating.clock = clock
        self._count = load_script("realtime_chat.broker", "lua/count_users.lua")

    # Starting and stopping

    def channels(self) -> Mapping[str, OnMessage]:
        """The channels that every node subscribes to, each with its callback."""
        return {self._names.nodes: self._on_notice}

    async def start(self, listener: MembersListener) -> None:
        """Tell the listener what other nodes publish, and tell them that this node is there."""
        self.replica.listener = listener
        await self.heartbeat.start()
        self._beating.start(self._beat_interval, now=False)

    def ask_for_renewals(self) -> None:
        """This node has subscribed, perhaps again: ask for the renewals that it has missed."""
        self._renewals.ask()

    def stop_asking(self) -> None:
        """Ask for no more renewals, and publish none again."""
        self._renewals.stop()

    async def stop(self) -> None:
        """Tell the other nodes that this one stops.

        Its rows stay, for nodes that read them while its clients are held. See ``lua/renew_members.lua`` for their end.
        """
        self.replica.stop()
        if self._beating.running:
            self._beating.stop()
        if self._repairing is not None and self._repairing.active():
            self._repairing.cancel()
        await self.heartbeat.stop(self._held)

    # Rooms

    def count(self, rooms: Sequence[str]) -> Deferred[Sequence[int]]:
        """See :meth:`IBroker.count`."""
        keys = list(map(self._names.members, rooms))
        return Deferred.fromCoroutine(self._count.run(self._connection, keys, [self._names.alive("")]))

    def publish_presence(self, room: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        """See :meth:`IBroker.publish_presence`."""
        rows = self.publisher.change(room, came, gone)
        if self.replica.listener is not None:
            self.publisher.publish(room, rows, gone)

    def forward(self, command: ForwardedCommand) -> None:
        """See :meth:`IBroker.forward`."""
        self._renewals.publish(command)

    # What is published to all nodes

    def _on_notice(self, pattern: bytes | None, channel: bytes, payload: bytes) -> None:
        notice = decode_notice(payload)
        if notice is None:
            self._log.warn("something was published on {channel!a} that no node publishes there", channel=channel)
        elif self.replica.listener is not None:
            _NOTICES[type(notice)](self, self.replica.listener, notice)

    def _on_bye(self, listener: MembersListener, bye: Bye) -> None:
        if bye.node != self._node:
            self.heartbeat.mark_stopped(bye.node, bye.held)
            listener.node_left(bye.node, bye.held)

    def _on_gone(self, listener: MembersListener, gone: Gone) -> None:
        if gone.node == self._node:  # this process was suspended for too long
            kept = Deferred.fromCoroutine(self.heartbeat.set_key())
            kept.addCallbacks(lambda _: self.publisher.restore_all_later(), ignore_store_error)
        else:
            self.heartbeat.mark_stopped(gone.node, 0)
            listener.node_left(gone.node, 0)

    def _on_said(self, listener: MembersListener, said: Said) -> None:
        if said.node != self._node:
            if said.renewed is not None:
                self._renewals.forget(said.client_hash, said.order)
            listener.forwarded(said.command())

    def _on_missed(self, listener: MembersListener, missed: Missed) -> None:
        self._renewals.say_again_later()

    # Heartbeat

    async def _beat(self) -> None:
        self.replica.read_complete_later()
        try:
            if not await self.heartbeat.beat():
                self.publisher.restore_all_later()
            self._beats += 1
            if self._beats % BEATS_PER_TIMEOUT == 0:
                await self._renew()
        except StoreError:
            pass  # the next beat is soon
        except Exception:
            self._log.failure("a look at the other nodes failed")

    async def _renew(self) -> None:
        now = self._clock.seconds()
        rooms = [room for room in self.publisher.rows if self.replica.may_have_hash(room)]
        await self.publisher.renew(rooms, self.heartbeat.gone())
        self.heartbeat.forget_gone(now - self._expiry)

    # Repair

    def _repair_later(self) -> None:
        if self._repairing is None and self.replica.listener is not None:
            self._repairing = self._clock.callLater(_RETRY_DELAY, self._start_repair)

    def _start_repair(self) -> None:
        Deferred.fromCoroutine(self._repair()).addErrback(self._repair_failed)

    @property
    def _is_damaged(self) -> bool:
        return bool(self.publisher.lost or self.replica.stale)

    async def _repair(self) -> None:
        """Restore our rows where they were lost, and read rooms again, some at a time."""
        while self._is_damaged and self._connection.ready and self.replica.listener is not None:
            restoring = Deferred.fromCoroutine(self.publisher.restore_some(_ROOMS_AT_ONCE))
            self.replica.read_some(_ROOMS_AT_ONCE)
            if not await restoring:
                break
        self._repairing = None
        if self._is_damaged:
            self._repair_later()

    def _repair_failed(self, failure: Failure) -> None:
        self._repairing = None
        self._log.failure("who is in the rooms could not be put back", failure)


_NOTICES: Mapping[type, Callable[[RedisPresence, MembersListener, Any], None]] = {
    Bye: RedisPresence._on_bye,
    Gone: RedisPresence._on_gone,
    Missed: RedisPresence._on_missed,
    Said: RedisPresence._on_said,
}
