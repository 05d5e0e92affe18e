"""What one client has in rooms: its subscriptions, or its leases."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, Protocol, TypeVar

from realtime_chat.core.room import Room


class _InRoom(Protocol):
    @property
    def room(self) -> Room: ...


T = TypeVar("T", bound=_InRoom)


class ByRoom(Generic[T]):
    """At most one item in each room.

    Nearly all clients are in one room. They have no dictionary, which takes 184 bytes.
    """

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: T | dict[str, T] | None = None

    def find(self, room: str) -> T | None:
        """The item in a room; None if there is none."""
        items = self._items
        if isinstance(items, dict):
            return items.get(room)
        return items if items is not None and items.room.name == room else None

    def all(self) -> Collection[T]:
        """All items, in the order in which they were added."""
        items = self._items
        if isinstance(items, dict):
            return items.values()
        return () if items is None else (items,)

    def add(self, item: T) -> None:
        """Add an item, in a room in which there is none."""
        items = self._items
        if items is None:
            self._items = item
        elif isinstance(items, dict):
            items[item.room.name] = item
        else:
            self._items = {items.room.name: items, item.room.name: item}

    def remove(self, item: T) -> None:
        """Remove an item that was added."""
        items = self._items
        if isinstance(items, dict):
            del items[item.room.name]
        if not isinstance(items, dict) or not items:
            self._items = None
