"""Tests for :mod:`realtime_chat.core.access`."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.access import AccessPolicy, own_rooms
from realtime_chat.core.identity import NOBODY, Identity
from realtime_chat.values.access import (
    MODERATE,
    PRESENCE,
    READ,
    SIGNAL,
    WRITE,
    Grants,
    RoomRule,
    RoomRules,
    format_rights,
)
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import User, is_guest_id, private_room

GUEST = Identity("g" * 32, "0" * 16, User("~u" + "a" * 16, "Bob"))


NAMES = ["".join(name) for length in (1, 2, 3) for name in product("@-a~", repeat=length)]
PATTERNS = st.sampled_from(["*", *NAMES, *(f"{name}*" for name in NAMES)])
SOME_RIGHTS = st.sampled_from([0, READ, WRITE, READ | WRITE])
RULES = st.lists(st.builds(RoomRule, PATTERNS, SOME_RIGHTS, st.none() | SOME_RIGHTS, st.booleans()), max_size=5)
GRANTS = st.dictionaries(PATTERNS, SOME_RIGHTS, max_size=4)


def user(sub: str = "u7", **rooms: str) -> Identity:
    return Identity("c" * 40, "1" * 16, User(sub, "Ann", False), True, None, Grants.of(rooms), 1, 0, "k")


def letters(policy: AccessPolicy, identity: Identity | None, room: str) -> str:
    """What somebody may do in a room."""
    return format_rights(policy.rights(identity, room))


class AccessPolicyTests(SynchronousTestCase):
    """What rules and tokens give together."""

    def letters(self, policy: AccessPolicy, room: str) -> list[str]:
        """What somebody new, nobody, a guest and two users may do in a room."""
        people = (None, NOBODY, GUEST, user(), user(lobby="rm"))
        return [letters(policy, one, room) for one in people]

    def test_open(self) -> None:
        """Where a server is open, everybody may do everything but moderate; a token adds to it."""
        self.assertEqual(["rwsp"] * 4 + ["rwspm"], self.letters(AccessPolicy(), "lobby"))
        self.assertEqual(["ws"] * 5, self.letters(AccessPolicy(), "@u8"))

    def test_public(self) -> None:
        """A poll's rooms are public if guests and users may read each of them, and each has a valid name."""
        rule = RoomRule("news", guests=READ, users=0)
        for policy, rooms, expected in (
            (AccessPolicy(), ("lobby", "news"), True),
            (AccessPolicy(), ("lobby", "@u8"), False),
            (AccessPolicy(), ("lobby", "a room"), False),
            (AccessPolicy(is_open=False), ("lobby",), False),
            (AccessPolicy(RoomRules((rule,))), ("lobby",), True),
            (AccessPolicy(RoomRules((rule,))), ("lobby", "news"), False),
        ):
            for _ in range(2):  # it is remembered
                self.assertIs(expected, policy.are_public(rooms), rooms)

    def test_closed(self) -> None:
        """Where it is closed, guests may do nothing, and users what their tokens grant."""
        policy = AccessPolicy(is_open=False)
        self.assertEqual(["", "", "", "", "rm"], self.letters(policy, "lobby"))
        self.assertEqual([""] * 5, self.letters(policy, "@u8"))

    def test_rules(self) -> None:
        """The first rule that matches says what guests may do, and users; what it doesn't say is as without it."""
        rules = RoomRules(
            (
                RoomRule("lobby", READ | MODERATE),
                RoomRule("lob*", WRITE, users=SIGNAL),
                RoomRule("only-users", users=READ),
                RoomRule("@*", READ | WRITE),
            )
        )
        for is_open, unsaid in ((True, "rwsp"), (False, "")):
            policy = AccessPolicy(rules, is_open)
            self.assertEqual(["r", "r", "r", "rm", "rm"], self.letters(policy, "lobby"))
            self.assertEqual(["w", "w", "w", "s", "s"], self.letters(policy, "lobbies"))
            self.assertEqual([unsaid] * 3 + ["r", "r"], self.letters(policy, "only-users"))
            self.assertEqual(["w"] * 5, self.letters(policy, "@u8"))

    def test_own_rooms(self) -> None:
        """Only the owner reads a private room: a guest by its id with and without ~, a user by its written id."""
        policy = AccessPolicy(RoomRules((RoomRule("lobby", READ),)), is_open=False)
        for one, rooms in (
            (GUEST, ("@" + GUEST.user.id, "@" + GUEST.user.id[1:])),
            (user("u7"), ("@u7",)),
            (user("ann@x y~"), ("@ann@x~20y~7E",)),
            (user("~u" + "a" * 15), ("@~7Eu" + "a" * 15,)),
        ):
            self.assertEqual(rooms, own_rooms(one))
            for room in rooms:
                self.assertEqual("rp", letters(policy, one, room))
                for other in {GUEST, user("u7"), user("ann@x y~"), NOBODY, None}:
                    if other is None or room not in own_rooms(other):
                        self.assertEqual("", letters(policy, other, room))

    def test_guests_without_rights(self) -> None:
        """Where guests may do nothing, they have no private rooms either; users have theirs."""
        policy = AccessPolicy(is_open=False)
        self.assertEqual(["", ""], [letters(policy, GUEST, room) for room in own_rooms(GUEST)])
        self.assertEqual("rp", letters(policy, user("u7"), "@u7"))

    def test_patterns_of_private_rooms(self) -> None:
        """A pattern lets others write to private rooms only if it begins with @, and never read them."""
        policy = AccessPolicy(is_open=False)
        everything = Identity("", "", User("u7", "", False), grants=Grants((("*", 31),)), expires=1)
        self.assertEqual(("rwspm", ""), (letters(policy, everything, "a"), letters(policy, everything, "@u8")))
        private = Identity("", "", User("u7", "", False), grants=Grants((("@*", 31),)), expires=1)
        self.assertEqual(("", "ws"), (letters(policy, private, "a"), letters(policy, private, "@u8")))

    def test_words(self) -> None:
        """What is refused names the right, and never the room."""
        policy = AccessPolicy(is_open=False)
        for right, letter in ((READ, "r"), (WRITE, "w"), (SIGNAL, "s"), (PRESENCE, "p"), (MODERATE, "m")):
            error = self.assertRaises(RealtimeError, policy.check, GUEST, "secret-room", right)
            self.assertEqual("forbidden", error.code)
            self.assertIn(f"grant {letter} for it", error.message)
            self.assertNotIn("secret-room", error.message)

    def test_listed_ranges(self) -> None:
        """The ranges of a list are in order, overlap nowhere, and hold each room that is listed to somebody."""
        rules = RoomRules((RoomRule("news*", READ, listed=True), RoomRule("hidden", READ), RoomRule("new", READ)))
        names = ("a", "help-1", "help-2", "hidden", "new", "news", "news-1", "newt", "~x", "@u7", "@u8", "@u7x")
        ann = Identity("", "", User("u7", "", False), grants=Grants((("help-*", READ), ("*-1", READ))), expires=1)
        for policy, one, listed in (
            (AccessPolicy(rules, False), GUEST, {"news", "news-1"}),
            (AccessPolicy(rules, False), ann, {"news", "news-1", "help-1", "help-2", "@u7"}),
            (AccessPolicy(), ann, {*names} - {"@u8", "@u7x"}),
        ):
            for after in ("", *names):
                ranges = [*policy.listed_ranges(one, after)]
                flat = [bound for bounds in ranges for bound in bounds]
                self.assertEqual(sorted(flat), flat)
                found = {name for name in names if any(first < name <= last for first, last in ranges)}
                self.assertEqual({name for name in listed if name > after}, found)
                self.assertEqual(listed, {name for name in names if policy.is_listed(one, name)})

    @given(RULES, GRANTS, st.booleans(), st.booleans())
    def test_ranges_are_exact(self, rules: list[RoomRule], grants: dict[str, int], guest: bool, is_open: bool) -> None:
        """Whatever the patterns are, a name is in a range exactly if it is listed."""
        policy = AccessPolicy(RoomRules(tuple(rules)), is_open)
        ann = Identity("", "", User("a", "", False), grants=Grants(tuple(grants.items())), expires=1)
        one = GUEST if guest else ann
        ranges = [*policy.listed_ranges(one, "")]
        for name in NAMES:
            in_ranges = sum(first < name <= last for first, last in ranges)
            self.assertEqual(policy.is_listed(one, name), bool(in_ranges), name)
            self.assertLessEqual(in_ranges, 1)


class IdTests(SynchronousTestCase):
    """Ids, and the names of private rooms."""

    def test_no_user_is_a_guest(self) -> None:
        """A guest's id is known by its form, with and without ~; other ids are users'."""
        for id in ("anonymous", "u" + "a2" * 8, "~u" + "b7" * 8):
            self.assertTrue(is_guest_id(id), id)
        for id in ("", "u7", "u" + "a" * 15, "u" + "A" * 16, "u" + "a1" * 8, "~u" + "a" * 17, "Anonymous"):
            self.assertFalse(is_guest_id(id), id)

    def test_private_rooms_differ(self) -> None:
        """No two ids have the same private room."""
        ids = [
            "a b",
            "a~20b",
            "a~7E20b",
            "a~b",
            "ä",
            "~C3~A4",
            "u7",
            "~u7",
            "@u7",
            "a/b",
            "~u" + "a" * 16,
            "u" + "a" * 16,
        ]
        self.assertEqual(len(ids), len({private_room(id) for id in ids}))
