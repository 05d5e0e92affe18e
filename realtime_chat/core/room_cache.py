"""The rooms that are in memory: looked up by their first reader, and forgotten when they have been idle for a while."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.core.catch_up import CatchUpScheduler
from realtime_chat.core.interfaces import IBroker, IMessageStore, Listener
from realtime_chat.core.log_view import LogContext
from realtime_chat.core.node import Node
from realtime_chat.core.properties import ALL_PROPERTIES, PropertyLog
from realtime_chat.core.room import Room
from realtime_chat.core.wheel import DeadlineQueue
from realtime_chat.presence.presence import Presence
from realtime_chat.values import codec
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.json import decode_body, encode_value
from realtime_chat.values.model import Message, Page, is_namespace_log, is_properties_log, properties_log

_TRIES_TO_EVICT = 8


class _Loading:
    """A room that is being looked up: who waits for it, and what happened meanwhile.

    :ivar announced: the last messages that were announced; the room reads those before them itself.
    :ivar may_have_missed: whether something may have been announced that this node didn't hear of.
    """

    __slots__ = ("announced", "may_have_missed", "waiting")

    def __init__(self, most: int) -> None:
        self.waiting: list[Deferred[Room]] = []
        self.announced: deque[Message] = deque(maxlen=most)
        self.may_have_missed = False


class RoomCache(Listener):
    """Rooms by name, at most ``max_rooms_total``: idle ones are evicted first, and then no others are taken in.

    A room without messages, which anybody can make up, is forgotten soon after its last reader has left.

    :ivar rooms: those that are loaded.
    :ivar loading: those that are being looked up.
    :ivar property_bytes: bytes of properties in memory. At ``properties_bytes`` no more such logs are taken in.
    """

    _log = Logger()

    def __init__(
        self, node: Node, store: IMessageStore, broker: IBroker, catch_ups: CatchUpScheduler, presence: Presence
    ) -> None:
        self.rooms: dict[str, Room] = {}
        self.loading: dict[str, _Loading] = {}
        self.members = presence.remote
        self.property_bytes = 0
        self._store = store
        self._broker = broker
        self._limits = limits = node.limits
        self._clock = node.clock
        self._wheel = node.wheel
        self._counters = node.counters
        self._time_ms = node.time_ms
        self._catch_ups = catch_ups
        self._presence = presence
        self._context = LogContext(
            store,
            limits,
            catch_ups.on_gap,
            self._on_tail_growth,
            self._on_properties_growth,
            node.flush_queue.add_room,
            self._on_unused,
            node.time,
            node.clock,
            node.counters,
        )
        self._unread = DeadlineQueue(node.wheel, limits.empty_idle, self._forget_empty)
        self._idle: dict[Room, None] = {}  # rooms with messages, by when they were last left; some are read again
        self._idle_properties: dict[Room, None] = {}  # the logs of properties among them
        self._tails_left = limits.tails_bytes  # bytes by which tails may grow before they are looked at
        self._sweeping = False
        self._stopped = False
        store.watch(self.all_may_have_missed, self.__contains__)

    def stop(self) -> None:
        """Forget no more rooms, and let none catch up, as the process ends."""
        self._stopped = True
        for room in self.rooms.values():
            room.stop()
        self._catch_ups.stop()
        self._unread.stop()

    def __contains__(self, name: str) -> bool:
        """Whether a room is loaded, or about to be; called on any thread."""
        return name in self.rooms or name in self.loading

    # Loading

    def load(self, name: str) -> Deferred[Room]:
        """The room, looked up in the store if need be.

        :raises RealtimeError: ``store_unavailable``, or ``too_many``: no more rooms fit in memory.
        """
        room = self.rooms.get(name)
        if room is not None:
            room.used = self._clock.seconds()
            return succeed(room)
        answer: Deferred[Room] = Deferred()
        loading = self.loading.get(name)
        if loading is None:
            if not self._has_place(name):
                return fail(self._refuse_room())
            loading = self.loading[name] = _Loading(self._limits.page_messages)
            loading.waiting.append(answer)
            Deferred.fromCoroutine(self._load(name)).addCallbacks(
                self._loaded, self._not_loaded, callbackArgs=(name,), errbackArgs=(name,)
            )
        else:
            loading.waiting.append(answer)
        return answer

    async def load_properties(self, room: str) -> PropertyLog:
        """The log of a room's properties; see :meth:`load`."""
        log = await self.load(properties_log(room))
        assert isinstance(log, PropertyLog)
        return log

    async def _load(self, name: str) -> Page:
        """Follow a room first, and then read what was there before."""
        await self._broker.follow(name)
        self._counters.reads += 1
        try:
            if is_properties_log(name):
                return await self._store.read_after(name, 0, ALL_PROPERTIES)
            return await self._store.read_before(name, None, self._limits.page_messages)
        except BaseException:
            self._unfollow(name)
            raise

    def _unfollow(self, name: str) -> None:
        self._broker.unfollow(name)
        self._presence.drop_room(name)

    def _loaded(self, page: Page, name: str) -> None:
        loading = self.loading.pop(name)
        room = self.rooms[name] = self._make_room(name, page)
        room.used = self._clock.seconds()
        for message in loading.announced:
            room.announce(message)
        self._on_unused(room)  # unless somebody takes it
        if loading.may_have_missed:
            self._catch_ups.add(room)
        if not self._sweeping:
            self._sweeping = True
            self._wheel.call_later(self._limits.room_idle / 2, self._sweep)
        for answer in loading.waiting:
            answer.callback(room)

    def _make_room(self, name: str, page: Page) -> Room:
        if is_properties_log(name):
            return PropertyLog(name, page, self._context)
        room = Room(name, page, self._context)
        self._presence.open_room(room)
        return room

    def _not_loaded(self, failure: Failure, name: str) -> None:
        for answer in self.loading.pop(name).waiting:
            answer.errback(failure)

    def _fits(self, name: str) -> bool:
        """Whether one more room fits in memory, or the log of a room's properties."""
        return self._has_space(name) and len(self.rooms) + len(self.loading) < self._limits.max_rooms_total

    def _has_space(self, name: str) -> bool:
        """Whether properties leave space for it."""
        return not is_properties_log(name) or self.property_bytes < self._limits.properties_bytes

    def _has_place(self, name: str) -> bool:
        """The same, if need be in the place of one that is idle."""
        if self._fits(name):
            return True
        idle = self._idle if self._has_space(name) else self._idle_properties
        for room in list(islice(idle, _TRIES_TO_EVICT)):
            if self._forget(room):
                if self._fits(name):
                    return True
                continue
            del idle[room]
            if not room.reader_count:  # somebody will be back
                idle[room] = None
        return False

    def _refuse_room(self) -> RealtimeError:
        self._counters.rooms_refused += 1
        most = self._limits.max_rooms_total
        return RealtimeError(
            "too_many",
            f"this server has {most} rooms open already, or too many properties in memory; try again in a moment",
        )

    # What happens to rooms

    def announce(self, message: Message) -> None:
        """A room's log has grown."""
        room = self.rooms.get(message.room)
        if room is not None:
            room.announce(message)
        elif message.room in self.loading:
            self.loading[message.room].announced.append(message)

    def announced(self, room: str, epoch: str, first: int, count: int, read: Callable[[], Sequence[Message]]) -> None:
        known = self.rooms.get(room)
        wanted = room in self.loading if known is None else not known.knows(epoch, first + count - 1)
        if wanted:
            for message in read():
                self.announce(message)

    def may_have_missed(self, room: str) -> None:
        if room in self.loading:
            self.loading[room].may_have_missed = True
        elif room in self.rooms:
            self._catch_ups.add(self.rooms[room])

    def all_may_have_missed(self) -> None:
        """The logs may be others than before: let every room catch up."""
        for name in (*self.rooms, *self.loading):
            self.may_have_missed(name)

    def signalled(self, room: str, client_hash: str, data: bytes) -> None:
        known = self.rooms.get(room)
        if known is not None:
            self._presence.deliver_signal(known, data, client_hash)

    def relayed(self, room: str, payload: bytes) -> None:
        """Send what isn't a client's as a signal from nobody, if it is a JSON value."""
        known = self.rooms.get(room)
        if known is None or is_namespace_log(room):
            return
        try:
            data = encode_value(decode_body(_check_size(payload, self._limits.max_message)))
        except RealtimeError as error:
            self._counters.relays_refused += 1
            self._log.warn("what was published for the room {room} is not relayed: {why}", room=room, why=error.message)
            return
        self._counters.relayed += 1
        self._presence.deliver_signal(known, codec.encode_signal(room, "relay", data, None, self._time_ms()))

    # Forgetting

    def _sweep(self) -> None:
        """Forget rooms that were idle for a while, and the oldest tails where they are too much together."""
        before = self._clock.seconds() - self._limits.room_idle
        for room in list(self.rooms.values()):
            room.forget_batches()
            if room.used <= before:
                self._forget(room)
        self._shorten_tails()
        self._sweeping = bool(self.rooms)
        if self._sweeping:
            self._wheel.call_later(self._limits.room_idle / 2, self._sweep)

    def _on_unused(self, room: Room) -> None:
        """Nobody reads a room any more: one without messages goes soon, any other when its place is needed."""
        if self._stopped:
            return
        if room.empty:
            if room not in self._unread:
                self._unread.add(room)
            return
        for idle in (self._idle, self._idle_properties) if isinstance(room, PropertyLog) else (self._idle,):
            idle.pop(room, None)
            idle[room] = None

    def _forget_empty(self, room: Room) -> None:
        """Forget a room without messages, unless it is read again. If a lease holds it, its end says so."""
        if self.rooms.get(room.name) is room and not self._forget(room) and not (room.reader_count or room.idle):
            self._on_unused(room)  # when its read has ended

    def _forget(self, room: Room) -> bool:
        """Forget a room, unless it is of interest to somebody."""
        if not room.idle or not self._presence.drop_room(room.name):
            return False
        del self.rooms[room.name]
        if isinstance(room, PropertyLog):
            self.property_bytes -= room.size
        self._idle.pop(room, None)
        self._idle_properties.pop(room, None)
        self._unread.drop(room)
        self._catch_ups.forget(room)
        self._broker.unfollow(room.name)
        return True

    def _on_properties_growth(self, size: int) -> None:
        self.property_bytes += size

    def _on_tail_growth(self, size: int) -> None:
        """Some tail has so many bytes more, and perhaps others less."""
        self._tails_left -= size
        if self._tails_left < 0:
            self._shorten_tails()

    def _shorten_tails(self) -> None:
        """If tails are nearly too large together, clear the oldest, and some more than need be: to look at all of them
        costs something."""
        most = self._limits.tails_bytes
        size = sum(room.tail.size for room in self.rooms.values())
        if size > most - most // 8:
            for room in sorted(self.rooms.values(), key=lambda room: room.used):
                if size <= most - most // 4:
                    break
                size -= room.tail.size
                room.tail.clear()
                room.forget_batches()
        self._tails_left = most - size


def _check_size(payload: bytes, most: int) -> bytes:
    """Give back what isn't too large.

    :raises RealtimeError: ``too_large``.
    """
    if len(payload) > most:
        raise RealtimeError("too_large", f"it has {len(payload)} bytes, and may have {most} (--max-message)")
    return payload
