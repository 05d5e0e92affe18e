"""One node's rooms and sessions, as sessions and transports use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial

from twisted.internet.defer import Deferred

from realtime_chat.core.access import AccessPolicy
from realtime_chat.core.access_renewal import AccessRenewal
from realtime_chat.core.identity import Identities, Identity
from realtime_chat.core.interfaces import ClientConnection, IBroker, IMessageStore, ISessionStore
from realtime_chat.core.log_view import StartPosition
from realtime_chat.core.node import Node
from realtime_chat.core.properties import PropertyLog
from realtime_chat.core.publishing import Publisher
from realtime_chat.core.quota import Quota
from realtime_chat.core.rate_limiter import RateLimiter
from realtime_chat.core.room import Room
from realtime_chat.core.room_cache import RoomCache
from realtime_chat.core.user_sessions import UserSessions
from realtime_chat.presence.presence import Presence
from realtime_chat.values import codec
from realtime_chat.values.access import PRESENCE, Claims
from realtime_chat.values.commands import CommandId
from realtime_chat.values.errors import RealtimeError, StoreError, no_keys, stopping
from realtime_chat.values.model import (
    AppendResult,
    Draft,
    Page,
    Position,
    User,
    check_key,
    check_property,
    is_namespace_log,
    properties_log,
)
from realtime_chat.values.rates import ROOMS


class Hub:
    """What sessions and transports use of a node. :func:`realtime_chat.composition.make_hub` builds it.

    :param verify: verifies a token; None if there are no keys.
    :ivar access: decides who may do what in which room.
    :ivar users: the sessions of users with tokens, which are among ``sessions``.
    :ivar limiter: how much each client, user and address uses of what they are limited in.
    :ivar cache: the rooms that are in memory; it listens to the broker.
    :ivar rooms: the same rooms by name.
    :ivar sessions: those that are open.
    """

    def __init__(
        self,
        node: Node,
        store: IMessageStore,
        broker: IBroker,
        identities: Identities,
        access: AccessPolicy,
        users: UserSessions,
        verify: Callable[[str], Claims] | None,
        presence: Presence,
        cache: RoomCache,
        publisher: Publisher,
        limiter: RateLimiter,
    ) -> None:
        self.clock = node.clock
        self.limits = node.limits
        self.wheel = node.wheel
        self.time_ms = node.time_ms
        self.counters = node.counters
        self.flush_queue = node.flush_queue
        self.identities = identities
        self.access = access
        self.users = users
        self._access_renewal = AccessRenewal(node.clock, self._access_renewals)
        self._verify = verify
        self.presence = presence
        self.publisher = publisher
        self.limiter = limiter
        self.cache = cache
        self.rooms = cache.rooms
        self.sessions: dict[ClientConnection, None] = {}
        self.stopping = False
        self._store = store
        self._broker = broker
        presence.on_renewed = self._renewed_elsewhere

    # Who somebody is

    def verify(self, token: str) -> Claims:
        """What a token says.

        :raises RealtimeError: ``unauthorized`` or ``token_expired``.
        """
        if self._verify is None:
            raise no_keys()
        return self._verify(token)

    def admit(self, claims: Claims, before: Identity | None) -> Identity:
        """The user of a token, with a new client. If the client has had a later token, it goes on with that.

        :param before: who the same client was before; it keeps its hash. None for a new client.
        :raises RealtimeError: ``forbidden``: that was somebody else; ``too_large``; or why the time of the later one is
            over.
        """
        if before is not None and (before.user.guest or before.user.id != claims.sub):
            raise RealtimeError(
                "forbidden", "this token is of another user than the client; who one is never changes: begin a new one"
            )
        admitted = self.identities.admit(claims, before)
        if before is None:
            return admitted
        identity = self.identities.later(admitted, before)
        if identity is not admitted:
            self.identities.check_time(identity)
        return identity

    def renew(self, identity: Identity) -> None:
        """Let all sessions of a client go on with its renewed identity, on all nodes."""
        self._renew_here(identity)
        self.presence.forward_renewal(identity)

    def _renew_here(self, identity: Identity) -> None:
        self.identities.renew(identity)
        self.presence.renew(identity, self.access.rights)
        for session in self.users.of(identity.client_hash):
            session.renew(identity)

    def _renewed_elsewhere(self, client: str) -> None:
        """Another node says that it has renewed a client."""
        try:
            identity = self.identities.find(client, may_be_over=True)  # what it takes away is over all the same
        except RealtimeError:
            return
        if identity is not None and identity.expires is not None and not identity.is_reader:
            self._renew_here(identity)

    def replace_access(self, access: AccessPolicy) -> None:
        """Decide by another policy from now on. What is open follows within a second."""
        self.access = access
        self._access_renewal.begin()

    def _access_renewals(self) -> Iterator[Callable[[], object]]:
        for identity in self.presence.identities():
            yield partial(self._renew_leases, identity)
        for session in self.sessions:
            yield session.renew_rights

    def _renew_leases(self, identity: Identity) -> None:
        self.presence.renew(identity, self.access.rights)

    def welcome(self, id: CommandId | None, identity: Identity, ping: float) -> bytes:
        """The encoded ``welcome`` of a client. With a reader, it doesn't tell the client.

        :param ping: seconds between two pings.
        """
        clients = {} if identity.is_reader else {"client": identity.client or self.identities.issue()}
        if identity.expires is not None:
            clients["reader"] = self.identities.reader_client(identity)
        bounds = ping, self.limits.max_rooms, self.limits.max_message
        return codec.encode_welcome(id, identity.user, clients, identity.info, identity.expires, bounds)

    # Sessions

    def stop(self) -> None:
        """Take no more messages, and tell everybody goodbye."""
        self.stopping = True
        self.flush_queue.flush()
        self._access_renewal.stop()
        self.cache.stop()
        self.presence.stop()
        for session in list(self.sessions):
            session.dismiss("stopping")

    def check_open(self) -> None:
        """Whether clients may begin something.

        :raises RealtimeError: ``stopping``.
        """
        if self.stopping:
            raise stopping()

    def check_store(self) -> Deferred[None]:
        """Answer when messages can be stored.

        :raises StoreError:
        """
        return self._store.check()

    @property
    def session_store(self) -> ISessionStore:
        """What is kept of Socket.IO sockets."""
        store: ISessionStore = self._store.sessions
        return store

    # Rooms

    def publish(self, draft: Draft) -> Deferred[AppendResult]:
        """Store a message and tell the room's readers; the answer comes when it is durable.

        :raises RealtimeError: ``key_reused``, ``store_unavailable`` or ``stopping``.
        """
        self.check_open()
        answer: Deferred[AppendResult] = Deferred()
        self.publisher.publish(draft, answer.callback)  # a Failure that it is called with goes to its errbacks
        return answer

    def take_publish(self, quota: Quota, draft: Draft, room_name: str = "") -> None:
        """Take what a publish costs, before it is stored. Afterwards :meth:`Quota.on_stored` charges for a new room.

        :param room_name: the room, if the draft is of its properties.
        :raises RateLimited: nothing is taken then.
        """
        name = room_name or draft.room
        room = self.rooms.get(name)
        if (room is None or not room.top) and name not in self.limiter.rooms_made:
            quota.check(ROOMS)
        access = self.access
        quota.take_publish(len(draft.data), name, access.room_rates(name) if access.limits_rooms else None)

    def property_draft(self, room: str, name: str, data: bytes, sender: User, key: str | None) -> Draft:
        """A change of a property.

        :param data: its value as compact JSON; empty to remove it.
        :raises RealtimeError: a part of it is refused.
        """
        most = self.limits.max_property
        if len(data) > most:
            raise RealtimeError("too_large", f"a property has at most {most} bytes of JSON, this one has {len(data)}")
        return Draft(properties_log(room), check_property(name), data, sender, None if key is None else check_key(key))

    async def start_reading(
        self, name: str, since: Position | None, last: int, properties: bool | Position
    ) -> tuple[Room, StartPosition, PropertyLog | None]:
        """Where the reading of a room starts, and the log of its properties if it is to be read, too.

        :param last: see :meth:`LogView.start`.
        :param properties: whether to read them, or the reader's position in them.
        :raises RealtimeError: ``store_unavailable`` or ``too_many``.
        """
        log = await self.find_properties(name, properties)
        with nullcontext() if log is None else log.kept():
            room = await self.cache.load(name)
            return room, await room.start(since, last), log

    async def find_properties(self, name: str, properties: bool | Position) -> PropertyLog | None:
        """The log of a room's properties, with all that a reader at a position may know of.

        :param properties: the same as above.
        :returns: None if they are not to be read.
        :raises RealtimeError: ``store_unavailable`` or ``too_many``.
        """
        if properties is False:
            return None
        log = await self.cache.load_properties(name)
        if not log.covers(properties):
            with log.kept():
                await log.catch_up()
        return log

    async def read_properties(self, room: str, since: Position | None) -> PropertyLog:
        """The log of a room's properties, with all that somebody at a position may know of.

        :raises RealtimeError: ``store_unavailable`` or ``too_many``.
        """
        log = await self.find_properties(room, True if since is None else since)
        assert log is not None
        return log

    def known_properties(self, name: str, properties: bool | Position) -> PropertyLog | None:
        """The same without reading the store; None also if that is needed."""
        log = None if properties is False else self.rooms.get(properties_log(name))
        return log if isinstance(log, PropertyLog) and log.covers(properties) else None

    async def list_rooms(
        self, identity: Identity, after: str, limit: int, is_gone: Callable[[], bool] = lambda: False
    ) -> list[tuple[str, int | None]]:
        """The first rooms after a name that are listed to somebody, sorted, and how many members each has.

        The number is None for a room whose members the asker may not see.

        :param is_gone: whether nobody waits for it any more.
        :raises StoreError:
        """
        listed = await self._listed(identity, after, limit, is_gone)
        found = [room for room in listed if self.access.is_listed(identity, room)]  # by the rules that count now
        seen = [room for room in found if self.access.rights(identity, room) & PRESENCE]
        counts = dict(zip(seen, await self._count(seen), strict=True))
        return [(room, counts.get(room)) for room in found]

    async def _listed(self, identity: Identity, after: str, limit: int, is_gone: Callable[[], bool]) -> list[str]:
        """The first rooms after a name that are listed to somebody.

        What the store gives beyond a range is used for the ranges that follow. So it is read at most once for each
        range, and besides only for names that are listed.
        """
        found: list[str] = []
        rooms: Sequence[str] = ()
        asked, is_end = limit, False
        for begin, last in self.access.listed_ranges(identity, after):
            rooms = [room for room in rooms if room > begin]
            while not rooms or rooms[-1] <= last:
                found += [room for room in rooms if not is_namespace_log(room)]
                if is_end or len(found) >= limit or is_gone():
                    return found[:limit]
                rooms = await self._store.rooms(rooms[-1] if rooms else begin, asked)
                is_end = len(rooms) < asked
                asked = min(2 * asked, self.limits.max_limit)
            found += [room for room in rooms if room <= last and not is_namespace_log(room)]
        return found[:limit]

    async def _count(self, rooms: Sequence[str]) -> list[int]:
        """How many members rooms have. The broker knows that of rooms that this node doesn't follow."""
        unknown = [room for room in rooms if room not in self.rooms] if self._broker.shared else []
        counts = dict(zip(unknown, await self._broker.count(unknown), strict=True)) if unknown else {}
        return [counts[room] if room in counts else self.presence.count(room) for room in rooms]

    def await_presence(self, room: str, identity: Identity | None = None) -> Deferred[None] | None:
        """Find out who is in a room where other nodes know that, and this one perhaps doesn't yet.

        :param identity: of a client that should be among them.
        :returns: None where there is nothing to find out.
        """
        if not self._broker.shared:
            return None
        if room in self.rooms:
            return None if identity is None else self.presence.await_client(identity, room)
        return self.cache.load(room).addCallback(lambda _: self.await_presence(room, identity))

    # History

    async def read_history(
        self, room: str, since: Position | None, before: Position | None, limit: int
    ) -> tuple[Page, Position, bool]:
        """Read a page of a room's log: after ``since``, before ``before``, or else the last messages.

        While the store can't be read, the page is from memory, as far as that reaches.

        :returns: the page; the position of its last message, or where reading on would start; and whether nothing is
            missing between ``since`` and the page.
        :raises RealtimeError: ``store_unavailable``, or ``bad_position``: ``before`` is of another epoch.
        """
        try:
            return await self._stored_page(room, since, before, limit)
        except StoreError:
            page = self._cached_page(room, since, before, limit)
            if page is None:
                raise
        return page, _end(page, _start(page, since, before)), True

    async def _stored_page(
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

    def _cached_page(self, room: str, since: Position | None, before: Position | None, limit: int) -> Page | None:
        known = self.rooms.get(room)
        if known is None:
            return None
        return known.cached_page_before(before, limit) if since is None else known.cached_page_after(since, limit)


def _start(page: Page, since: Position | None, before: Position | None) -> int:
    """Where reading on would start after an empty page."""
    if since is not None:
        return since.offset
    return page.top if before is None else max(0, before.offset - 1)


def _end(page: Page, otherwise: int) -> Position:
    return page.messages[-1].position if page.messages else Position(page.epoch, otherwise)
