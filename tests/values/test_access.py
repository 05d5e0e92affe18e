"""Rights by room: letters, patterns, grants and rules."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.values.access import (
    MODERATE,
    MOST_KNOWN_ROOMS,
    NO_GRANTS,
    PRESENCE,
    READ,
    SIGNAL,
    WRITE,
    Grants,
    RoomRule,
    RoomRules,
    format_rights,
    parse_rights,
)


class RightsTests(SynchronousTestCase):
    """Rights are letters on the wire and bits inside."""

    def test_all_rights_there_and_back(self) -> None:
        """Every set of rights has one text, and its text gives it back."""
        for rights in range(32):
            self.assertEqual(rights, parse_rights(format_rights(rights)))
        self.assertEqual("rwspm", format_rights(READ | WRITE | SIGNAL | PRESENCE | MODERATE))
        self.assertEqual(READ | WRITE, parse_rights("wr"))

    def test_other_letters(self) -> None:
        """What is no right, or is said twice, is refused with what would be right."""
        for text in ("x", "rr", "R", "r w", "rw\n", "\u0440"):
            error = self.assertRaises(ValueError, parse_rights, text)
            self.assertIn("r (read), w (write)", str(error))


class GrantsTests(SynchronousTestCase):
    """A token's patterns grant rights; all that match count."""

    def test_patterns(self) -> None:
        """A pattern is a name, or the beginning of names; what several grant is added up."""
        grants = Grants.of({"lobby": "r", "lob*": "w", "help-*": "rw", "*": "p"})
        self.assertEqual("rwp", format_rights(grants.rights("lobby")))
        self.assertEqual("wp", format_rights(grants.rights("lob")))
        self.assertEqual("p", format_rights(grants.rights("Lobby")))
        self.assertEqual("p", format_rights(grants.rights("help")))
        self.assertEqual("rwp", format_rights(grants.rights("help-")))
        self.assertEqual(0, NO_GRANTS.rights("lobby"))

    def test_private_rooms(self) -> None:
        """A private room is matched only by a pattern that begins with @, and only to write and to signal."""
        self.assertEqual(0, Grants.of({"*": "rwspm"}).rights("@ann"))
        for pattern in ("@ann", "@*", "@an*", "@ann*"):
            self.assertEqual("ws", format_rights(Grants.of({pattern: "rwspm"}).rights("@ann")), pattern)
        self.assertEqual(0, Grants.of({"@*": "rwspm"}).rights("ann"))

    def test_remembered(self) -> None:
        """The rights in a room are the same whenever they are asked for; those of so many rooms are remembered."""
        grants = Grants.of({"a*": "r", "a1": "s", "@a*": "rw"})
        rooms = [f"{begin}{number}" for begin in ("a", "b", "@a") for number in range(MOST_KNOWN_ROOMS)]
        expected = {room: "r" if room[0] == "a" else "w" if room[0] == "@" else "" for room in rooms} | {"a1": "rs"}
        for room in (*rooms, *rooms, *reversed(rooms), *rooms[:2] * 5):
            self.assertEqual(expected[room], format_rights(grants.rights(room)), room)
            self.assertLessEqual(len(grants.by_room), MOST_KNOWN_ROOMS)
        self.assertEqual(Grants(grants.rules), grants)
        self.assertEqual(0, Grants.of({"b*": "r"}).rights("a1"))

    def test_refused(self) -> None:
        """A pattern or a text of rights that can't be one is refused; the message names the pattern."""
        for pattern in ("", "**", "a*b", "a b", ".", "..", "a" * 129, "a" * 128 + "*", "é", "a\n"):
            error = self.assertRaises(ValueError, Grants.of, {pattern: "r"})
            self.assertIn(ascii(pattern[:130]), str(error))
        error = self.assertRaises(ValueError, Grants.of, {"lobby": "q"})
        self.assertIn("'lobby': rights are", str(error))


class RoomRulesTests(SynchronousTestCase):
    """A site's rules: the first that matches a room counts."""

    def test_first_match(self) -> None:
        """The first rule that matches is found, and no other."""
        first, second = RoomRule("help-*", guests=READ), RoomRule("*", users=WRITE)
        rules = RoomRules((first, second))
        self.assertIs(first, rules.find("help-1"))
        self.assertIs(second, rules.find("lobby"))
        self.assertIsNone(rules.find("@ann"))

    def test_guests_and_users(self) -> None:
        """Users may do what guests may, unless the rule gives them something else."""
        self.assertEqual(READ, RoomRule("a", guests=READ).granted("a", guest=True))
        self.assertEqual(READ, RoomRule("a", guests=READ).granted("a", guest=False))
        self.assertEqual(WRITE, RoomRule("a", guests=READ, users=WRITE).granted("a", guest=False))
        self.assertIsNone(RoomRule("a", users=WRITE).granted("a", guest=True))
        self.assertEqual(WRITE, RoomRule("@*", guests=READ | WRITE).granted("@ann", guest=True))

    def test_pattern_is_checked(self) -> None:
        """A rule whose pattern can't be one is refused."""
        self.assertRaises(ValueError, RoomRule, "a b")
