"""Pages of a room's log for those who read without a cursor."""

from __future__ import annotations

from collections.abc import Mapping

from realtime_chat.core.interfaces import IMessageStore
from realtime_chat.core.room import Room
from realtime_chat.values import codec
from realtime_chat.values.errors import RealtimeError, StoreError
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import Page, Position

__all__ = ["HistoryReader"]


class HistoryReader:
    """Reads pages from the store; from memory, as far as that reaches, while the store can't be read.

    :param rooms: those that are in memory.
    """

    def __init__(self, store: IMessageStore, limits: Limits, rooms: Mapping[str, Room]) -> None:
        self._store = store
        self._limits = limits
        self._rooms = rooms

    async def page(
        self, room: str, since: Position | None, before: Position | None, limit: int
    ) -> tuple[Page, Position, bool]:
        """A page of a room's log: after ``since``, before ``before``, or else the last messages.

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
        most = self._limits.answer_bytes
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
        known = self._rooms.get(room)
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
