"""Tests for :mod:`realtime_chat.core.identity`."""

import base64

import attrs
import msgspec
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core import identity
from realtime_chat.core.identity import Identities
from realtime_chat.values.access import Claims, Grants, format_rights
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import User
from tests.fakes import tokens


class IdentitiesTests(SynchronousTestCase):
    """Clients and the users behind them."""

    def setUp(self) -> None:
        self.identities = Identities(lambda: b"k" * 32, tokens())

    def test_issued_is_known(self) -> None:
        """What was issued is known, here and wherever the same secret is."""
        client = self.identities.issue()
        self.assertEqual(client, Identities(lambda: b"k" * 32, tokens(9)).check(client).client)

    def test_made_up_is_refused(self) -> None:
        """What nobody issued is unauthorized: made up, changed, from another secret, or no text for it at all."""
        client = self.identities.issue()
        other = Identities(lambda: b"x" * 32, tokens(9)).issue()
        changed = ("A" if client[0] != "A" else "B") + client[1:]
        for wrong in (
            "",
            "a",
            "ü",
            client[:-1],
            client + "=",
            client + "A",
            changed,
            other,
            "A" * 32,
            "\ud800",
            " " + client,
        ):
            self.assertEqual(
                "unauthorized", self.assertRaises(RealtimeError, self.identities.check, wrong).code, repr(wrong)
            )

    def test_clients_differ(self) -> None:
        """No two clients are the same, and each has at least 128 random bits."""
        clients = {self.identities.issue() for _ in range(1000)}
        self.assertEqual(1000, len(clients))
        self.assertEqual({32}, set(map(len, clients)))

    def test_user_is_stable_and_says_nothing(self) -> None:
        """A client's user id is the same after a restart, and the secret is no part of it."""
        client = self.identities.issue()
        user = self.identities.check(client, "Bob").user
        self.assertEqual(user.id, Identities(lambda: b"k" * 32, tokens(9)).check(client).user.id)
        other = Identities(lambda: b"x" * 32, tokens())
        self.assertNotEqual(user.id, other.check(other.issue()).user.id)
        self.assertNotIn(client[:8], user.id)
        self.assertTrue(user.guest)

    def test_nameless(self) -> None:
        """Who gives no name gets one."""
        user = self.identities.new_guest().user
        self.assertEqual(f"Guest {user.id[2:6]}", user.name)

    def test_client_hash(self) -> None:
        """Nodes with the same secret give a client the same hash, which no other client has, and which doesn't show
        the client, nor its user."""
        client, other = self.identities.issue(), self.identities.issue()
        client_hash = self.identities.check(client).client_hash
        self.assertEqual(client_hash, Identities(lambda: b"k" * 32, tokens(9)).check(client).client_hash)
        elsewhere = Identities(lambda: b"x" * 32, tokens())
        self.assertNotEqual(client_hash, elsewhere.check(elsewhere.issue()).client_hash)
        self.assertNotEqual(client_hash, self.identities.check(other).client_hash)
        self.assertRegex(client_hash, "^[0-9a-f]{16}$")
        self.assertNotIn(client[:8], client_hash)
        self.assertNotIn(self.identities.check(client).user.id[1:], client_hash)


class SealedTests(SynchronousTestCase):
    """Clients that seal who their user is."""

    def setUp(self) -> None:
        self.now = 1_000_000
        self.keys = frozenset(("k1",))
        self.identities = self.make()

    def make(self, secret: bytes = b"k" * 32, seed: int = 0) -> Identities:
        return Identities(lambda: secret, tokens(seed), lambda: self.now / 1000, lambda: self.keys)

    def claims(self, sub: str = "u7", expires: int = 2_000_000, **rooms: str) -> Claims:
        return Claims(sub, "Ann", b'{"role":"staff"}', Grants.of(rooms), expires, 500_000, "k1")

    def test_says_all(self) -> None:
        """A sealed client says all that the token said, on every node, and has one more name: its hash."""
        admitted = self.identities.admit(self.claims(lobby="rw", news="r"))
        found = self.make(seed=9).check(admitted.client)
        self.assertEqual(msgspec.structs.astuple(admitted), msgspec.structs.astuple(found))
        self.assertEqual(User("u7", "Ann", False), found.user)
        self.assertEqual((3, 1, 0), (*map(found.grants.rights, ("lobby", "news", "other")),))
        self.assertRegex(found.client_hash, "^[0-9a-f]{16}$")

    def test_renewed(self) -> None:
        """A renewed client keeps its hash, and a new one gets another."""
        first, other = self.identities.admit(self.claims()), self.identities.admit(self.claims())
        renewed = self.identities.admit(self.claims(expires=3_000_000), first)
        self.assertEqual(first.client_hash, renewed.client_hash)
        self.assertNotEqual(first.client, renewed.client)
        self.assertNotEqual(first.client_hash, other.client_hash)

    def test_client_from_before(self) -> None:
        """After a renewal, the client from before is the renewed one, unless that was issued earlier; so is the reader.

        When the time of either is over, it is refused.
        """
        before = self.identities.admit(self.claims(lobby="rw"))
        for issued, grants, goes_on in ((500_000, "r", "r"), (400_000, "rwsp", "r"), (600_000, "s", "s")):
            claims = attrs.evolve(self.claims(expires=1_500_000, lobby=grants), issued=issued)
            self.identities.renew(self.identities.admit(claims, before))
            for client in (before.client, self.identities.reader_of(before).client):
                found = self.identities.check(client)
                self.assertEqual(goes_on, format_rights(found.grants.rights("lobby")))
            self.assertTrue(found.is_reader)
        self.now = 1_500_000
        self.assert_code("token_expired", before.client)

    def test_renewals_are_bounded(self) -> None:
        """Of renewals only the latest are remembered, and many of one client count as one."""
        self.patch(identity, "MOST_RENEWALS", 2)
        self.identities = self.make()
        identities = [self.identities.admit(self.claims(lobby="rw")) for _ in range(3)]
        for one in (*identities[:2], identities[0], identities[2]):
            self.identities.renew(self.identities.admit(self.claims(), one))
        rights = [self.identities.check(one.client).grants.rights("lobby") for one in identities]
        self.assertEqual([0, 3, 0], rights)

    def test_renewals_of_one_user_are_bounded(self) -> None:
        """One user's renewals, however many, leave other users' lost rights lost; that user's own latest ones count."""
        other = self.identities.admit(self.claims("u8", lobby="rw"))
        self.identities.renew(self.identities.admit(self.claims("u8"), other))
        own = [self.identities.admit(self.claims(lobby="rw")) for _ in range(identity.MOST_RENEWALS + 1)]
        for one in own:
            self.identities.renew(self.identities.admit(self.claims(), one))
        last = -identity.MOST_RENEWALS_OF_USER
        for one, rights in ((other, 0), (own[last - 1], 3), (own[last], 0), (own[-1], 0)):
            self.assertEqual(rights, self.identities.check(one.client).grants.rights("lobby"))

    def test_order_of_renewals(self) -> None:
        """Of renewals by tokens of one second, all nodes let the same one count, in whichever order they hear them."""
        nodes = self.make(seed=1), self.make(seed=2), self.make(seed=3)
        for _ in range(20):
            before = nodes[0].admit(self.claims(lobby="rw"))
            one, two = (nodes[at].admit(self.claims(lobby="rs"[at]), before) for at in range(2))
            for node, renewals in zip(nodes, ((one, two), (two, one), (two, one, one, two)), strict=True):
                for renewed in renewals:
                    node.renew(node.check(renewed.client))
            clients = before.client, one.client, two.client, nodes[0].reader_of(before).client
            rights = {node.check(client).grants.rights("lobby") for node in nodes for client in clients}
            self.assertEqual(1, len(rights))

    def test_reader(self) -> None:
        """A reader is the same client, only reads, and can't be made a client by changing its kind."""
        client = self.identities.admit(self.claims(lobby="rw"))
        reader = self.identities.check(self.identities.reader_of(client).client)
        self.assertEqual((client.client_hash, client.user, True), (reader.client_hash, reader.user, reader.is_reader))
        for one, other in ((client, reader), (reader, client)):
            raw, kind = base64.urlsafe_b64decode(one.client + "=="), base64.urlsafe_b64decode(other.client + "==")
            made_up = base64.urlsafe_b64encode(kind[:1] + raw[1:]).rstrip(b"=").decode()
            self.assert_code("unauthorized", made_up)

    def assert_code(self, code: str, client: str) -> None:
        self.assertEqual(code, self.assertRaises(RealtimeError, self.identities.find, client).code, client)

    def test_changed(self) -> None:
        """With any one bit changed, cut, lengthened, spelled otherwise, or of another secret, it is unauthorized."""
        client = self.identities.admit(self.claims(lobby="rw")).client
        raw = base64.urlsafe_b64decode(client + "=" * (-len(client) % 4))
        for bit in range(len(raw) * 8):
            changed = bytearray(raw)
            changed[bit // 8] ^= 1 << bit % 8
            self.assert_code("unauthorized", base64.urlsafe_b64encode(changed).rstrip(b"=").decode())
        for length in range(33, len(client)):
            self.assert_code("unauthorized", client[:length])
        last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        spellings = [client[:-1] + sign for sign in last if sign != client[-1]]
        for wrong in (*spellings, client + "=", client + "A", " " + client, client + "\n", "\ud800" * 40, "A" * 5000):
            self.assert_code("unauthorized", wrong)
        self.assert_code("unauthorized", self.make(b"x" * 32).admit(self.claims()).client)

    def test_time(self) -> None:
        """After its time it is expired, and without its key unauthorized, however often it was accepted before."""
        client = self.identities.admit(self.claims()).client
        held = self.identities.check(client)
        self.assertIs(held, self.identities.check(client))
        self.now = 2_000_000
        self.assert_code("token_expired", client)
        self.assertIs(held, self.identities.find(client, may_be_over=True))
        self.now = 1_999_999
        self.assertIs(held, self.identities.check(client))
        self.keys = frozenset()
        self.assert_code("unauthorized", client)

    def test_remembered_while_held(self) -> None:
        """What was verified is remembered as long as somebody holds it, and no longer."""
        client = self.identities.admit(self.claims()).client
        held = [self.identities.check(client), self.identities.check(self.identities.issue(), "Bob")]
        self.assertEqual(2, len(self.identities._known))
        held.clear()
        self.assertEqual({}, self.identities._known)

    def test_guests(self) -> None:
        """A guest with a name has a sealed client; renamed, it keeps its id and its hash. Its time is never over."""
        classic = self.identities.check(self.identities.issue())
        for guest in (classic, self.identities.new_guest("Bob")):
            renamed = self.identities.check(self.identities.rename(guest, " Rob ").client)
            self.assertEqual(
                (guest.client_hash, guest.user.id, "Rob"), (renamed.client_hash, renamed.user.id, renamed.user.name)
            )
            self.assertEqual((True, None), (renamed.user.guest, renamed.expires))
            self.assertRegex(renamed.user.id, r"^~u[a-z2-7]{16}$")

    def test_nobody_is_a_guest_by_a_token(self) -> None:
        """A token for the id of a guest makes no client, whoever has signed it."""
        for sub in ("anonymous", "~u" + "a" * 16, "u" + "a" * 16):
            error = self.assertRaises(RealtimeError, self.identities.admit, self.claims(sub))
            self.assertEqual("unauthorized", error.code)

    def test_too_large(self) -> None:
        """A token whose client would be too long is refused, with its length and what would be right."""
        rooms = {f"room-{number}-of-many": "rwsp" for number in range(100)}
        error = self.assertRaises(RealtimeError, self.identities.admit, self.claims(**rooms))
        self.assertEqual("too_large", error.code)
        self.assertRegex(error.message, r"would have \d{4} bytes, and 2048 are the most; give .* fewer patterns")
