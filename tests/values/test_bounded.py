"""Tests for :mod:`realtime_chat.values.bounded`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.values.bounded import BoundedByUser


class BoundedByUserTests(SynchronousTestCase):
    """The latest entries of each user."""

    def test_bounds(self) -> None:
        """A user's oldest entry goes for its later ones, and of all the oldest one if there are too many."""
        bounded: BoundedByUser[int] = BoundedByUser(4, 2)
        for number, user in enumerate("abaaacd"):
            bounded.put(f"{user}{number}", user, number)
        self.assertEqual([3, 4, 5, 6], [*bounded])
        self.assertEqual((4, None, 3), (len(bounded), bounded.get("b1"), bounded.get("a3")))

    def test_one_key(self) -> None:
        """An entry that is set again counts once, and as the latest; one that was dropped leaves nothing."""
        bounded: BoundedByUser[int] = BoundedByUser(2, 2)
        for number, key in enumerate("xyxz"):
            bounded.put(key, "a", number)
        self.assertEqual([2, 3], [*bounded])
        self.assertEqual((True, False), ("x" in bounded.keys, "y" in bounded.keys))
        for key in "xxz":
            bounded.drop(key)
        self.assertEqual((0, {}), (len(bounded), bounded._by_user))
