"""Tests for :mod:`realtime_chat.core.identity`."""

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.identity import Identities
from realtime_chat.values.errors import RealtimeError
from tests.fakes import tokens


class IdentitiesTests(SynchronousTestCase):
    """Clients and the users behind them."""

    def setUp(self) -> None:
        self.identities = Identities(lambda: b"k" * 32, tokens())

    def test_issued_is_known(self) -> None:
        """What was issued is known, here and wherever the same secret is."""
        client = self.identities.issue()
        self.assertEqual(client, Identities(lambda: b"k" * 32, tokens(9)).check(client))

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
        user = self.identities.guest(client, "Bob")
        self.assertEqual(user.id, Identities(lambda: b"k" * 32, tokens(9)).guest(client).id)
        self.assertNotEqual(user.id, Identities(lambda: b"x" * 32, tokens(9)).guest(client).id)
        self.assertNotIn(client[:8], user.id)
        self.assertTrue(user.guest)

    def test_nameless(self) -> None:
        """Who gives no name gets one."""
        user = self.identities.guest(self.identities.issue())
        self.assertEqual(f"Guest {user.id[1:5]}", user.name)

    def test_mark(self) -> None:
        """Nodes with the same secret give a client the same mark, which no other client has, and which doesn't show
        the client, nor its user."""
        client, other = self.identities.issue(), self.identities.issue()
        client_hash = self.identities.client_hash(client)
        self.assertEqual(client_hash, Identities(lambda: b"k" * 32, tokens(9)).client_hash(client))
        self.assertNotEqual(client_hash, Identities(lambda: b"x" * 32, tokens(9)).client_hash(client))
        self.assertNotEqual(client_hash, self.identities.client_hash(other))
        self.assertRegex(client_hash, "^[0-9a-f]{16}$")
        self.assertNotIn(client[:8], client_hash)
        self.assertNotIn(self.identities.guest(client).id[1:], client_hash)
