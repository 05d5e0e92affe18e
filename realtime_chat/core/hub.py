"""This process's rooms and sessions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.core.catch_up import CatchUpScheduler
from realtime_chat.core.identity import Identities
from realtime_chat.core.interfaces import IBroker, IMessageStore, ReplySink, TurnClock
from realtime_chat.core.room import Room, RoomContext, flush_all_replies
from realtime_chat.core.session import Session
from realtime_chat.core.wheel import DeadlineQueue, Wheel
from realtime_chat.presence.presence import Presence
from realtime_chat.presence.shared_presence import SharedPresence
from realtime_chat.values import codec
from realtime_chat.values.counters import Counters
from realtime_chat.values.errors import RealtimeError, StoreError
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import (
    AppendResult,
    Draft,
    ForwardedCommand,
    Message,
    Page,
    Position,
    RemoteClient,
    User,
    listed_ranges,
)

__all__ = ["Hub"]

_TRIES_TO_EVICT = 8


class _Loading:
    """A room that is being looked up: who waits for it, and what happened meanwhile.

    :ivar announced: the last messages that were announced; the room looks for those before them itself.
    :ivar may_have_missed: whether something may have been announced that wasn't heard.
    """

    __slots__ = ("announced", "may_have_missed", "waiting")

    def __init__(self, most: int) -> None:
        self.waiting: list[Deferred[Room]] = []
        self.announced: deque[Message] = deque(maxlen=most)
        self.may_have_missed = False


class Hub:
    """The rooms that somebody here reads, and the sessions that read them.

    A room is looked up by its first reader, told of every message that is stored, and forgotten when it has been idle
    for a while; a room without readers costs nothing. One without messages, which anybody can make up, goes with its
    last reader. There are at most ``max_rooms_total``: the idle ones go first, and then no others are taken in.

    :param wall: seconds since 1970; orders nothing.
    :param token: gives so many random bytes.
    :param broker: what the other nodes tell; this hub listens to it.
    """

    _log = Logger()

    def __init__(
        self,
        store: IMessageStore,
        clock: TurnClock,
        limits: Limits,
        wall: Callable[[], float],
        token: Callable[[int], bytes],
        broker: IBroker,
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.wheel = Wheel(clock)
        self.counters = Counters()
        self.identities = Identities(lambda: store.secret, token)
        here = clock, self.wheel, limits, self.counters, token(4).hex()
        self._shared = SharedPresence(*here, broker, self.identities.client_hash, self.now) if broker.shared else None
        self.presence = self._shared or Presence(*here)
        self.rooms: dict[str, Room] = {}
        self.sessions: dict[Session, None] = {}
        self.stopping = False
        self._store = store
        self._broker = broker
        self._wall = wall
        self._loading: dict[str, _Loading] = {}
        self._doubts = CatchUpScheduler(clock, self.wheel, limits)
        self._context = RoomContext(
            store, limits, self._schedule, self._doubts.on_gap, self._left, self._tail_grew, wall, clock, self.counters
        )
        self._unread = DeadlineQueue(self.wheel, clock.seconds, limits.empty_idle, self._forget_empty)
        self._idle: dict[Room, None] = {}  # rooms with messages, by when they were last left; some are read again
        self._tails_left = limits.tails_bytes  # bytes by which tails may grow before they are looked at
        self._dirty: list[Room] = []
        self._with_replies: dict[ReplySink, None] = {}
        self._sweeping = False
        self._publishing = 0
        self._publishing_bytes = 0
        self._held_up: dict[Callable[[], object], None] = {}
        self._published: Deferred[None] | None = None
        store.watch(self.doubt, self.is_known)

    # Sessions

    def opened(self, session: Session) -> None:
        """A session has come."""
        self.sessions[session] = None

    def closed(self, session: Session) -> None:
        """A session has gone."""
        self.sessions.pop(session, None)

    def knows(self, client: str) -> bool:
        """Whether a client was issued by us; of one that is in some room that is known without a look at its seal."""
        return self.presence.knows(client) or self.identities.known(client)

    def stop(self) -> None:
        """Take no more messages, and tell everybody goodbye."""
        self.stopping = True
        self._flush()
        self._doubts.stop()
        self._unread.stop()
        self.presence.stop()
        for session in list(self.sessions):
            session.dismiss("stopping")

    def now(self) -> int:
        """Milliseconds since 1970."""
        return int(self._wall() * 1000)

    def check_open(self) -> None:
        """Whether clients may begin something.

        :raises RealtimeError: ``stopping``.
        """
        if self.stopping:
            raise RealtimeError("stopping", "this server is stopping; connect again")

    # Publishing

    def publish(self, draft: Draft) -> Deferred[AppendResult]:
        """Store a message and tell the room's readers; the answer comes when it is durable.

        Who may have many to publish asks for a :meth:`place` before each.

        :raises RealtimeError: ``key_reused``, ``store_unavailable`` or ``stopping``.
        """
        begun = self.clock.seconds()
        size = len(draft.data)
        return self.append(draft).addCallbacks(
            self.stored, self.not_stored, callbackArgs=(begun, size), errbackArgs=(size,)
        )

    def append(self, draft: Draft) -> Deferred[AppendResult]:
        """Store a message, for one who calls :meth:`stored` or :meth:`not_stored` with what comes of it, at once.

        :meth:`publish` does more, which counts where most of what comes is this: who calls this one
        asks :attr:`has_much_to_store` afterwards, and reads no more until it may go on.

        :raises RealtimeError: as that does.
        """
        self.check_open()
        self._publishing += 1
        self._publishing_bytes += len(draft.data)
        return self._store.append(draft)

    @property
    def has_much_to_store(self) -> bool:
        """Whether as much waits for the store as may."""
        limits = self.limits
        return self._publishing >= limits.max_publishing or self._publishing_bytes >= limits.max_publishing_bytes

    def place(self) -> Deferred[None] | None:
        """A place in the line of those that are held up; None where nobody has to wait."""
        if not (self._held_up or self.has_much_to_store):
            return None
        place: Deferred[None] = Deferred()
        self.hold_up(lambda: self._take_place(place))
        return place

    def _take_place(self, place: Deferred[None]) -> None:
        """In the next turn, as one whose publish has just ended may hear of that only now; it counts meanwhile."""
        self._publishing += 1
        self.clock.callLater(0, self._begin_publish, place)

    def _begin_publish(self, place: Deferred[None]) -> None:
        place.callback(None)
        self._publish_ended(0)

    def hold_up(self, go_on: Callable[[], object]) -> None:
        """Have ``go_on()`` called when less waits for the store: one publish for one that ends."""
        self._held_up[go_on] = None

    def stored(self, stored: AppendResult, begun: float, size: int) -> AppendResult:
        """A message is durable: tell the room's readers.

        :param begun: when it was published, by the clock.
        :param size: bytes of the draft's data.
        """
        self._publish_ended(size)
        self.counters.publish_seconds.observe(self.clock.seconds() - begun)
        if stored.duplicate:
            self.counters.duplicates += 1
        else:
            self.counters.published += 1
            self.announce(stored.message)
        return stored

    def not_stored(self, failure: Failure, size: int) -> Failure:
        """A message was refused.

        :param size: bytes of the draft's data.
        """
        self._publish_ended(size)
        error = failure.value
        self.counters.publish_errors[error.code if isinstance(error, RealtimeError) else "internal"] += 1
        return failure

    def _publish_ended(self, size: int) -> None:
        self._publishing -= 1
        self._publishing_bytes -= size
        while self._held_up and not self.has_much_to_store:
            go_on = next(iter(self._held_up))
            del self._held_up[go_on]
            go_on()
            if self._publishing:  # one for one, so that it doesn't become too much again at once
                break
        if not self._publishing and self._published is not None:
            self.clock.callLater(0, self._published.callback, None)
            self._published = None

    def published(self) -> Deferred[None]:
        """Answer when no publish waits for the store any more."""
        if not self._publishing:
            return succeed(None)
        self._published = Deferred()
        return self._published

    def announce(self, message: Message) -> None:
        """A room's log has grown."""
        room = self.rooms.get(message.room)
        if room is not None:
            room.announce(message)
        elif message.room in self._loading:
            self._loading[message.room].announced.append(message)

    # What other nodes tell (see interfaces.Listener)

    def announced(self, room: str, epoch: str, first: int, count: int, read: Callable[[], Sequence[Message]]) -> None:
        """A room's log has grown, here or elsewhere."""
        known = self.rooms.get(room)
        wanted = room in self._loading if known is None else not known.knows(epoch, first + count - 1)
        if wanted:
            for message in read():
                self.announce(message)

    def may_have_missed(self, room: str) -> None:
        """Something may have happened in a room that we didn't hear of."""
        if room in self._loading:
            self._loading[room].may_have_missed = True
        elif room in self.rooms:
            self._doubts.add(self.rooms[room])

    def doubt(self) -> None:
        """The logs may be others than before: every room looks."""
        for room in (*self.rooms, *self._loading):
            self.may_have_missed(room)

    def signalled(self, room: str, client_hash: str, data: bytes) -> None:
        """A client of another node has signalled."""
        known = self.rooms.get(room)
        if known is not None:
            self.presence.bring(known, data, client_hash)

    def relayed(self, room: str, payload: bytes) -> None:
        """Somebody who is no client has sent something to a room: a signal from nobody, if it is a JSON value."""
        known = self.rooms.get(room)
        if known is None:
            return
        try:
            data = codec.encode_value(codec.decode_body(_check_size(payload, self.limits.max_message)))
        except RealtimeError as error:
            self.counters.relays_refused += 1
            self._log.warn("what was published for the room {room} is not relayed: {why}", room=room, why=error.message)
            return
        self.counters.relayed += 1
        self.presence.bring(known, codec.encode_signal(room, "relay", data, None, self.now()))

    def presence_snapshot(self, room: str, others: Mapping[str, Sequence[RemoteClient]]) -> None:
        """Who is in a room by way of other nodes."""
        if self._shared is not None:
            self._shared.presence_snapshot(room, others)

    def presence_delta(self, room: str, node: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        """Somebody came, changed, or went on another node."""
        if self._shared is not None:
            self._shared.presence_delta(room, node, came, gone)

    def node_snapshot(self, room: str, node: str, there: Sequence[RemoteClient]) -> None:
        """Who is in a room by way of one other node, all of them."""
        if self._shared is not None:
            self._shared.node_snapshot(room, node, there)

    def node_left(self, node: str, held: float) -> None:
        """A node is no longer there."""
        if self._shared is not None:
            self._shared.node_left(node, held)

    def forwarded(self, command: ForwardedCommand) -> None:
        """A client has said something to another node that is for all by way of which it is in rooms."""
        if self._shared is not None:
            self._shared.forwarded(command)

    def await_presence(self, room: str, client: str | None = None) -> Deferred[None] | None:
        """Find out who is in a room where other nodes know that, and this one perhaps doesn't yet.

        :param client: one that should be among them.
        :returns: None where there is nothing to find out.
        """
        if self._shared is None:
            return None
        if room in self.rooms:
            return self._shared.meet(client, room)
        return self.room(room).addCallback(lambda _: self.await_presence(room, client))

    # Rooms

    def room(self, name: str) -> Deferred[Room]:
        """The room, looked up in the store where need be.

        :raises RealtimeError: ``store_unavailable``, or ``too_many``: no more rooms fit in memory.
        """
        room = self.rooms.get(name)
        if room is not None:
            room.used = self.clock.seconds()
            return succeed(room)
        answer: Deferred[Room] = Deferred()
        loading = self._loading.get(name)
        if loading is None:
            if not self._has_place():
                return fail(self._refuse_room())
            loading = self._loading[name] = _Loading(self.limits.page_messages)
            loading.waiting.append(answer)
            Deferred.fromCoroutine(self._load(name)).addCallbacks(
                self._loaded, self._not_loaded, callbackArgs=(name,), errbackArgs=(name,)
            )
        else:
            loading.waiting.append(answer)
        return answer

    async def _load(self, name: str) -> Page:
        """Hear of a room first, and then see what was there before."""
        await self._broker.follow(name)
        self.counters.reads += 1
        try:
            return await self._store.read_before(name, None, self.limits.page_messages)
        except BaseException:
            self._unfollow(name)
            raise

    def _unfollow(self, name: str) -> None:
        self._broker.unfollow(name)
        if self._shared is not None:
            self._shared.forget(name)

    def _loaded(self, page: Page, name: str) -> None:
        loading = self._loading.pop(name)
        room = self.rooms[name] = Room(name, page, self._context)
        room.used = self.clock.seconds()
        if self._shared is not None:
            self._shared.opened(room)
        for message in loading.announced:
            room.announce(message)
        self._left(room)  # unless somebody takes it
        if loading.may_have_missed:
            self._doubts.add(room)
        if not self._sweeping:
            self._sweeping = True
            self.wheel.call_later(self.limits.room_idle / 2, self._sweep)
        for answer in loading.waiting:
            answer.callback(room)

    def _not_loaded(self, failure: Failure, name: str) -> None:
        for answer in self._loading.pop(name).waiting:
            answer.errback(failure)

    def _schedule(self, room: Room) -> None:
        self._flush_soon()
        self._dirty.append(room)

    def flush_replies_soon(self, replies: ReplySink) -> None:
        """Send the replies that a sink has buffered at the end of the turn."""
        self._flush_soon()
        self._with_replies[replies] = None

    def _flush_soon(self) -> None:
        if not (self._dirty or self._with_replies):
            self.clock.callLater(0, self._flush)

    def _flush(self) -> None:
        sinks, self._with_replies = self._with_replies, {}
        dirty, self._dirty = self._dirty, []
        flush_all_replies(sinks)
        for room in dirty:
            try:
                room.flush()
            except Exception:  # one bad room never disturbs another
                self._log.failure("a room's messages could not be brought to its readers")

    def _sweep(self) -> None:
        """Forget rooms that were idle for a while, and the oldest tails where they are too much together."""
        before = self.clock.seconds() - self.limits.room_idle
        for room in list(self.rooms.values()):
            room.forget_batches()
            if room.used <= before:
                self._forget(room)
        self._shorten_tails()
        self._sweeping = bool(self.rooms)
        if self._sweeping:
            self.wheel.call_later(self.limits.room_idle / 2, self._sweep)

    def _left(self, room: Room) -> None:
        """Nobody reads a room any more: one without messages goes soon, any other when its place is needed."""
        if self.stopping:
            return
        if room.empty:
            if room not in self._unread:
                self._unread.add(room)
        else:
            self._idle.pop(room, None)
            self._idle[room] = None

    def _forget_empty(self, room: Room) -> None:
        """A room without messages goes, unless it is read again. Where a lease holds it, the end of that says so."""
        if self.rooms.get(room.name) is room and not self._forget(room) and not (room.subscribers or room.idle):
            self._left(room)  # when it has been looked up

    def _forget(self, room: Room) -> bool:
        """Forget a room, unless it is of interest to somebody."""
        if not room.idle or not self.presence.forget(room.name):
            return False
        del self.rooms[room.name]
        self._idle.pop(room, None)
        self._unread.drop(room)
        self._doubts.forget(room)
        self._broker.unfollow(room.name)
        return True

    def _has_place(self) -> bool:
        """Whether one more room fits in memory, if need be in the place of one that is idle."""
        if len(self.rooms) + len(self._loading) < self.limits.max_rooms_total:
            return True
        for _ in range(min(_TRIES_TO_EVICT, len(self._idle))):
            room = next(iter(self._idle))
            if self._forget(room):
                return True
            del self._idle[room]
            if not room.subscribers:  # somebody will be back
                self._idle[room] = None
        return False

    def _refuse_room(self) -> RealtimeError:
        self.counters.rooms_refused += 1
        most = self.limits.max_rooms_total
        return RealtimeError("too_many", f"this server has {most} rooms open already; try again in a moment")

    def _tail_grew(self, size: int) -> None:
        """Some tail has so many bytes more, and perhaps others less."""
        self._tails_left -= size
        if self._tails_left < 0:
            self._shorten_tails()

    def _shorten_tails(self) -> None:
        """Where they are nearly too much together, clear the oldest; so that this isn't looked at all the time, some
        more than need be."""
        most = self.limits.tails_bytes
        size = sum(room.tail.size for room in self.rooms.values())
        if size > most - most // 8:
            for room in sorted(self.rooms.values(), key=lambda room: room.used):
                if size <= most - most // 4:
                    break
                size -= room.tail.size
                room.tail.clear()
                room.forget_batches()
        self._tails_left = most - size

    # Reading without a cursor

    async def history(
        self, room: str, since: Position | None, before: Position | None, limit: int
    ) -> tuple[Page, Position, bool]:
        """A page of a room's log: after ``since``, before ``before``, or else the last messages.

        :returns: the page; the position of its last message, or where reading on would start; and whether nothing is
            missing between ``since`` and the page.
        :raises RealtimeError: ``store_unavailable``, or ``bad_position``: ``before`` is of
            another epoch.
        """
        try:
            return await self._stored_history(room, since, before, limit)
        except StoreError:
            page = self._remembered_history(room, since, before, limit)
            if page is None:
                raise
        return page, _end(page, _start(page, since, before)), True

    async def _stored_history(
        self, room: str, since: Position | None, before: Position | None, limit: int
    ) -> tuple[Page, Position, bool]:
        most = self.limits.answer_bytes
        if since is not None:
            page = await self._store.read_after(room, since.offset, limit)
            if since.epoch == page.epoch and since.offset + 1 >= page.oldest and since.offset <= page.top:
                page = codec.first_of_page(page, most)
                return page, _end(page, since.offset), True
            page = codec.last_of_page(await self._store.read_before(room, None, limit), most)
            return page, _end(page, page.top), False
        page = await self._store.read_before(room, None if before is None else before.offset, limit)
        page = codec.last_of_page(page, most)
        if before is not None and before.epoch != page.epoch:
            raise RealtimeError("bad_position", "that position is of a log that is no longer there")
        return page, _end(page, _start(page, since, before)), True

    def _remembered_history(
        self, room: str, since: Position | None, before: Position | None, limit: int
    ) -> Page | None:
        """The same from memory, as far as that reaches, for when the store can't be read."""
        known = self.rooms.get(room)
        if known is None:
            return None
        return known.cached_page_before(before, limit) if since is None else known.cached_page_after(since, limit)

    def is_known(self, room: str) -> bool:
        """Whether a room is in memory here, or about to be; called on any thread."""
        return room in self.rooms or room in self._loading

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
        """How many members rooms have; of those that aren't followed here the broker knows it."""
        unknown = [room for room in rooms if room not in self.rooms] if self._shared is not None else []
        counts = dict(zip(unknown, await self._broker.count(unknown), strict=True)) if unknown else {}
        return [counts[room] if room in counts else self.presence.count(room) for room in rooms]

    def check_store(self) -> Deferred[None]:
        """Answer when messages can be stored.

        :raises StoreError:
        """
        return self._store.check()


def _check_size(payload: bytes, most: int) -> bytes:
    """Give back what isn't too large.

    :raises RealtimeError: ``too_large``.
    """
    if len(payload) > most:
        raise RealtimeError("too_large", f"it has {len(payload)} bytes, and may have {most} (--max-message)")
    return payload


def _start(page: Page, since: Position | None, before: Position | None) -> int:
    """Where reading on would start after an empty page."""
    if since is not None:
        return since.offset
    return page.top if before is None else max(0, before.offset - 1)


def _end(page: Page, otherwise: int) -> Position:
    return page.messages[-1].position if page.messages else Position(page.epoch, otherwise)
