"""This process's rooms and sessions, and what it hears from other nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.core.catch_up import CatchUpScheduler
from realtime_chat.core.flush import FlushQueue
from realtime_chat.core.history import HistoryReader
from realtime_chat.core.identity import Identities
from realtime_chat.core.interfaces import ClientConnection, IBroker, IMessageStore, TurnClock
from realtime_chat.core.publishing import Publisher
from realtime_chat.core.room import Room
from realtime_chat.core.room_cache import RoomCache
from realtime_chat.core.wheel import Wheel
from realtime_chat.presence.presence import Presence
from realtime_chat.values import codec
from realtime_chat.values.counters import Counters
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.json import decode_body, encode_value
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import (
    AppendResult,
    Draft,
    ForwardedCommand,
    Message,
    RemoteClient,
    User,
    listed_ranges,
)

__all__ = ["Hub"]


class Hub:
    """The rooms that somebody here reads, and the sessions that read them; it listens to the broker.

    It is built by :func:`realtime_chat.composition.make_hub`.

    :param now: milliseconds since 1970; orders nothing.
    :ivar rooms: the rooms that are in memory, by name.
    :ivar sessions: those that are open.
    """

    _log = Logger()

    def __init__(
        self,
        store: IMessageStore,
        broker: IBroker,
        limits: Limits,
        clock: TurnClock,
        wheel: Wheel,
        now: Callable[[], int],
        counters: Counters,
        identities: Identities,
        presence: Presence,
        cache: RoomCache,
        catch_ups: CatchUpScheduler,
        flush_queue: FlushQueue,
        publisher: Publisher,
        history: HistoryReader,
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.wheel = wheel
        self.now = now
        self.counters = counters
        self.identities = identities
        self.presence = presence
        self.flush_queue = flush_queue
        self.publisher = publisher
        self.history = history
        self.rooms = cache.rooms
        self.sessions: dict[ClientConnection, None] = {}
        self.stopping = False
        self._store = store
        self._broker = broker
        self._cache = cache
        self._catch_ups = catch_ups
        store.watch(cache.all_may_have_missed, cache.__contains__)

    # Sessions

    def opened(self, session: ClientConnection) -> None:
        """A session has come."""
        self.sessions[session] = None

    def closed(self, session: ClientConnection) -> None:
        """A session has gone."""
        self.sessions.pop(session, None)

    def knows(self, client: str) -> bool:
        """Whether a client was issued by us. If it is in some room, its seal need not be checked."""
        return self.presence.knows(client) or self.identities.verify(client)

    def stop(self) -> None:
        """Take no more messages, and tell everybody goodbye."""
        self.stopping = True
        self.flush_queue.flush()
        self._catch_ups.stop()
        self._cache.stop()
        self.presence.stop()
        for session in list(self.sessions):
            session.dismiss("stopping")

    def check_open(self) -> None:
        """Whether clients may begin something.

        :raises RealtimeError: ``stopping``.
        """
        if self.stopping:
            raise RealtimeError("stopping", "this server is stopping; connect again")

    def check_store(self) -> Deferred[None]:
        """Answer when messages can be stored.

        :raises StoreError:
        """
        return self._store.check()

    # Rooms

    def room(self, name: str) -> Deferred[Room]:
        """The room, looked up in the store if need be.

        :raises RealtimeError: ``store_unavailable``, or ``too_many``: no more rooms fit in memory.
        """
        return self._cache.load(name)

    def publish(self, draft: Draft) -> Deferred[AppendResult]:
        """Store a message and tell the room's readers; the answer comes when it is durable.

        :raises RealtimeError: ``key_reused``, ``store_unavailable`` or ``stopping``.
        """
        self.check_open()
        answer: Deferred[AppendResult] = Deferred()
        self.publisher.publish(draft, _fire, answer)
        return answer

    async def list_rooms(self, user: User, after: str, limit: int) -> list[tuple[str, int]]:
        """The first rooms after a name that a user may read, sorted, and how many members each has.

        :raises StoreError:
        """
        found: list[str] = []
        for begin, last in listed_ranges(user, after):
            rest = limit - len(found)
            if rest > 0:
                found += [room for room in await self._store.rooms(begin, rest) if room <= last]
        return list(zip(found, await self._count(found), strict=True))

    async def _count(self, rooms: Sequence[str]) -> list[int]:
        """How many members rooms have. The broker knows that of rooms that this node doesn't follow."""
        unknown = [room for room in rooms if room not in self.rooms] if self._broker.shared else []
        counts = dict(zip(unknown, await self._broker.count(unknown), strict=True)) if unknown else {}
        return [counts[room] if room in counts else self.presence.count(room) for room in rooms]

    def await_presence(self, room: str, client: str | None = None) -> Deferred[None] | None:
        """Find out who is in a room where other nodes know that, and this one perhaps doesn't yet.

        :param client: one that should be among them.
        :returns: None where there is nothing to find out.
        """
        if not self._broker.shared:
            return None
        if room in self.rooms:
            return self.presence.await_client(client, room)
        return self.room(room).addCallback(lambda _: self.await_presence(room, client))

    # What other nodes tell (see interfaces.Listener)

    def announced(self, room: str, epoch: str, first: int, count: int, read: Callable[[], Sequence[Message]]) -> None:
        """A room's log has grown, here or elsewhere."""
        if self._cache.wants(room, epoch, first + count - 1):
            for message in read():
                self._cache.announce(message)

    def may_have_missed(self, room: str) -> None:
        """Something may have happened in a room that we didn't hear of."""
        self._cache.may_have_missed(room)

    def signalled(self, room: str, client_hash: str, data: bytes) -> None:
        """A client of another node has signalled."""
        known = self.rooms.get(room)
        if known is not None:
            self.presence.deliver_signal(known, data, client_hash)

    def relayed(self, room: str, payload: bytes) -> None:
        """Somebody who is no client has sent something to a room: a signal from nobody, if it is a JSON value."""
        known = self.rooms.get(room)
        if known is None:
            return
        try:
            data = encode_value(decode_body(_check_size(payload, self.limits.max_message)))
        except RealtimeError as error:
            self.counters.relays_refused += 1
            self._log.warn("what was published for the room {room} is not relayed: {why}", room=room, why=error.message)
            return
        self.counters.relayed += 1
        self.presence.deliver_signal(known, codec.encode_signal(room, "relay", data, None, self.now()))

    def presence_snapshot(self, room: str, others: Mapping[str, Sequence[RemoteClient]]) -> None:
        """Who is in a room by way of other nodes."""
        self.presence.remote.snapshot(room, others)

    def presence_delta(self, room: str, node: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        """Somebody came, changed, or went on another node."""
        self.presence.remote.delta(room, node, came, gone)

    def node_snapshot(self, room: str, node: str, there: Sequence[RemoteClient]) -> None:
        """Who is in a room by way of one other node, all of them."""
        self.presence.remote.node_snapshot(room, node, there)

    def node_left(self, node: str, held: float) -> None:
        """A node is no longer there."""
        self.presence.remote.node_left(node, held)

    def forwarded(self, command: ForwardedCommand) -> None:
        """A client has said something to another node that is for all by way of which it is in rooms."""
        self.presence.forwarded(command)


def _check_size(payload: bytes, most: int) -> bytes:
    """Give back what isn't too large.

    :raises RealtimeError: ``too_large``.
    """
    if len(payload) > most:
        raise RealtimeError("too_large", f"it has {len(payload)} bytes, and may have {most} (--max-message)")
    return payload


def _fire(result: AppendResult | Failure, answer: Deferred[AppendResult]) -> None:
    if isinstance(result, Failure):
        answer.errback(result)
    else:
        answer.callback(result)
