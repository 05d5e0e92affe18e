"""One node's rooms and sessions, as sessions and transports use them."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred

from realtime_chat.core.identity import Identities
from realtime_chat.core.interfaces import ClientConnection, IBroker, IMessageStore
from realtime_chat.core.node import Node
from realtime_chat.core.publishing import Publisher
from realtime_chat.core.room_cache import RoomCache
from realtime_chat.presence.presence import Presence
from realtime_chat.values import codec
from realtime_chat.values.errors import RealtimeError, StoreError
from realtime_chat.values.model import AppendResult, Draft, Page, Position, User, listed_ranges


class Hub:
    """What sessions and transports use of a node. :func:`realtime_chat.composition.make_hub` builds it.

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
        presence: Presence,
        cache: RoomCache,
        publisher: Publisher,
    ) -> None:
        self.clock = node.clock
        self.limits = node.limits
        self.wheel = node.wheel
        self.time_ms = node.time_ms
        self.counters = node.counters
        self.flush_queue = node.flush_queue
        self.identities = identities
        self.presence = presence
        self.publisher = publisher
        self.cache = cache
        self.rooms = cache.rooms
        self.sessions: dict[ClientConnection, None] = {}
        self.stopping = False
        self._store = store
        self._broker = broker

    # Sessions

    def knows(self, client: str) -> bool:
        """Whether a client was issued by us. If it is in some room, its MAC need not be checked."""
        return self.presence.knows(client) or self.identities.verify(client)

    def stop(self) -> None:
        """Take no more messages, and tell everybody goodbye."""
        self.stopping = True
        self.flush_queue.flush()
        self.cache.stop()
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

    def publish(self, draft: Draft) -> Deferred[AppendResult]:
        """Store a message and tell the room's readers; the answer comes when it is durable.

        :raises RealtimeError: ``key_reused``, ``store_unavailable`` or ``stopping``.
        """
        self.check_open()
        answer: Deferred[AppendResult] = Deferred()
        self.publisher.publish(draft, answer.callback)  # a Failure that it is called with goes to its errbacks
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
        return self.cache.load(room).addCallback(lambda _: self.await_presence(room, client))

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
