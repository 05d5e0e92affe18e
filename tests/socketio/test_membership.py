"""Tests for :mod:`realtime_chat.socketio.membership`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.socketio.membership import MAX_ENDED, Memberships


class MembershipTests(SynchronousTestCase):
    """Where a socket was when an event was stored."""

    def stays(self, rooms: Memberships, room: str, upto: int) -> list[int]:
        """The offsets at which it was in a room."""
        return [offset for offset in range(1, upto + 1) if rooms.was_in(room, offset)]

    def test_stays(self) -> None:
        """A stay begins after one offset and ends with another; a room may be entered again."""
        rooms = Memberships("~me")
        rooms.enter("a", 2)
        rooms.enter("a", 3)
        self.assertEqual([3, 4, 5], self.stays(rooms, "a", 5))
        rooms.leave("a", 4)
        rooms.leave("a", 5)
        rooms.enter("a", 6)
        self.assertEqual([3, 4, 7, 8], self.stays(rooms, "a", 8))
        self.assertEqual([1, 2], self.stays(rooms, "~me", 2))
        self.assertEqual([], self.stays(rooms, "b", 8))
        self.assertTrue(rooms.was_in_any(["b", "a"], 3))
        self.assertFalse(rooms.was_in_any(["b", "a"], 5))

    def test_empty_stay(self) -> None:
        """A stay in which nothing was stored leaves no trace."""
        rooms = Memberships("~me")
        rooms.enter("a", 2)
        rooms.leave("a", 2)
        self.assertEqual(({}, []), (rooms.rooms, rooms.ended))

    def test_bounded(self) -> None:
        """Of too many stays the oldest are forgotten; the floor says up to where."""
        rooms = Memberships("~me")
        for number in range(MAX_ENDED + 3):
            rooms.enter("a", 2 * number)
            rooms.leave("a", 2 * number + 1)
        self.assertEqual((MAX_ENDED, 5), (len(rooms.ended), rooms.floor))
        self.assertEqual([7, 9], self.stays(rooms, "a", 10))
