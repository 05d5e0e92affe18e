"""Tests for :mod:`realtime_chat.client.events`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client.events import Sender, Signal, read_event

SIGNAL = {"type": "signal", "room": "lobby", "event": "relay", "data": {"a": 1}, "from": None, "at": 7}


class SignalTests(SynchronousTestCase):
    """Signals as the client reads them."""

    def test_of_a_client(self) -> None:
        """A signal of a client has a sender."""
        sender = {"id": "u7", "name": "Bob"}
        expected = Signal("lobby", "relay", {"a": 1}, Sender("u7", "Bob"), 7)
        self.assertEqual(expected, read_event(SIGNAL | {"from": sender}, None))

    def test_relayed(self) -> None:
        """A signal of another program has no sender."""
        self.assertEqual(Signal("lobby", "relay", {"a": 1}, None, 7), read_event(SIGNAL, None))

    def test_incomplete(self) -> None:
        """A signal without ``from`` is invalid."""
        self.assertRaises(KeyError, read_event, {name: value for name, value in SIGNAL.items() if name != "from"}, None)
