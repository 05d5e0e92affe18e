"""Tests of :mod:`realtime_chat.core.by_room`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.by_room import ByRoom
from tests.core.world import World


def item(room: str) -> Any:
    """An item in a room."""
    return SimpleNamespace(room=SimpleNamespace(name=room))


class ByRoomTests(SynchronousTestCase):
    """At most one item in each room."""

    def setUp(self) -> None:
        self.items: ByRoom[Any] = ByRoom()

    def test_none(self) -> None:
        """Without items none is found."""
        self.assertEqual((None, 0), (self.items.find("a"), len(self.items.all())))

    def test_one(self) -> None:
        """The only item is found in its room and in no other, and then it is gone."""
        one = item("a")
        self.items.add(one)
        self.assertEqual((one, None, [one]), (self.items.find("a"), self.items.find("b"), list(self.items.all())))
        self.items.remove(one)
        self.assertEqual((None, []), (self.items.find("a"), list(self.items.all())))

    def test_several(self) -> None:
        """Each item is found in its room, all are in the order in which they came, and each can go first."""
        for gone in range(3):
            items = [item(room) for room in "abc"]
            for one in items:
                self.items.add(one)
            self.assertEqual(items, [self.items.find(room) for room in "abc"])
            self.assertEqual(items, list(self.items.all()))
            self.items.remove(items.pop(gone))
            self.assertEqual(items, list(self.items.all()))
            for one in items:
                self.items.remove(one)
            self.assertEqual([], list(self.items.all()))


class MemoryTests(World):
    """What a connection in one room holds."""

    def test_no_dictionary(self) -> None:
        """A client in one room has no dictionary of subscriptions and none of leases."""
        session, _ = self.joined()
        (subscription,) = session.delivery.all()
        for owner in (session.delivery, subscription.lease.client):
            self.assertFalse(isinstance(owner._items, dict), owner)
