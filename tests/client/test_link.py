"""Tests for :mod:`realtime_chat.client.link`: what a link says and hears at its ends."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client.link import ClientIdentity, Disconnect, JoinRequest


class SaidTests(SynchronousTestCase):
    """What a link says."""

    def test_hello(self) -> None:
        """A ``hello`` has the version of the protocol, and what is known of the client."""
        self.assertEqual({"type": "hello", "v": 1}, ClientIdentity().hello())
        self.assertEqual({"type": "hello", "v": 1, "client": "c", "name": "Ann"}, ClientIdentity("c", "Ann").hello())

    def test_join(self) -> None:
        """A ``join`` has no field that isn't known."""
        self.assertEqual({"room": "lobby"}, JoinRequest("lobby").fields())
        self.assertEqual({"room": "lobby", "since": "e:1", "last": 0}, JoinRequest("lobby", "e:1", 0).fields())


class GoodbyeTests(SynchronousTestCase):
    """A server's ``goodbye``."""

    def test_after(self) -> None:
        """The client comes back as late as it says, and else at once."""
        for goodbye, after in (({"after": 7}, 7.0), ({"after": None}, 0.0), ({}, 0.0)):
            disconnect = Disconnect.by_goodbye({"reason": "stopping", **goodbye})
            self.assertEqual((after, False, None), (disconnect.retry_after, disconnect.permanent, disconnect.error))
            self.assertIn("stopping", disconnect.reason)

    def test_for_good(self) -> None:
        """If it says not to come back, the client doesn't."""
        disconnect = Disconnect.by_goodbye({"reason": "too_many_errors", "reconnect": False, "after": 7})
        self.assertTrue(disconnect.permanent)
        self.assertEqual("closed", disconnect.error and disconnect.error.code)
