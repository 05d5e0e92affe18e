"""Tests for :mod:`realtime_chat.values.model`."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import (
    Draft,
    Message,
    Position,
    User,
    check_event,
    check_key,
    check_name,
    check_room,
    is_private,
    private_room,
)

BAD_ROOMS = ("", ".", "..", "a b", "a/b", "ä", "a" * 129, "a\n", "\0", "<b>", "a?b", "a#b", "a%20", 4, None, ["a"])
BAD_POSITIONS = ("", ":", "a:", ":1", "a:-1", "a:01", "a:1 ", "a:1.0", "a:\u0661", "a b:1", "a:" + "9" * 17, "a:1:2")


class DraftTests(SynchronousTestCase):
    """Messages before they are stored."""

    def test_placed(self) -> None:
        """A stored message has all of its draft, its position and its time."""
        place = Position("e", 7)
        draft = Draft("lobby", "moved", b"[1]", User("u7", "Bob"), "k", "j")
        self.assertEqual(Message("lobby", place, "moved", b"[1]", "u7", "Bob", 42, "k"), draft.placed(place, 42))


class RoomNameTests(SynchronousTestCase):
    """Names of rooms."""

    def test_good_names(self) -> None:
        """Every character of the documented set is taken, up to 128 of them."""
        for name in ("a", "A.b_c-d:e@f~0", "@u7", "...", "a" * 128):
            self.assertEqual(name, check_room(name))

    def test_bad_names(self) -> None:
        """Everything else is bad_room."""
        for name in BAD_ROOMS:
            self.assertEqual("bad_room", self.assertRaises(RealtimeError, check_room, name).code, repr(name))

    def test_private_rooms(self) -> None:
        """A room @ID belongs to the user with that id, and no other room to anybody."""
        self.assertEqual([True, False, False], [is_private(room) for room in ("@u7", "lobby", "a@u7")])
        self.assertEqual(["@u7", "@~u" + "a" * 16], [private_room(id) for id in ("u7", "~u" + "a" * 16)])


class PositionTests(SynchronousTestCase):
    """Places in a log."""

    @given(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True), st.integers(0, 10**16 - 1))
    def test_round_trip(self, epoch: str, offset: int) -> None:
        """What is written can be read."""
        position = Position(epoch, offset)
        self.assertEqual(position, Position.parse(str(position)))

    def test_bad_positions(self) -> None:
        """Everything else is bad_position."""
        for text in BAD_POSITIONS:
            self.assertEqual("bad_position", self.assertRaises(RealtimeError, Position.parse, text).code, repr(text))


class TextTests(SynchronousTestCase):
    """Names, keys and event names."""

    def test_reserved_events(self) -> None:
        """Names that begin with $ are the server's."""
        self.assertIn("server's own", self.assertRaises(RealtimeError, check_event, "$deleted").message)

    def test_lengths_and_control_characters(self) -> None:
        """Too long, empty, or with control characters: refused, and the message says the bounds."""
        for check, most in ((check_event, 128), (check_key, 128), (check_name, 64)):
            self.assertEqual("x" * most, check("x" * most))
            for text in ("", "x" * (most + 1), "a\nb", "a\0", "\u2028"):
                error = self.assertRaises(RealtimeError, check, text)
                self.assertIn(f"1 to {most} characters", error.message, repr(text))

    def test_name_is_stripped(self) -> None:
        """A name has no white space around it, and isn't white space alone."""
        self.assertEqual("Bob", check_name("  Bob "))
        self.assertRaises(RealtimeError, check_name, "   ")
