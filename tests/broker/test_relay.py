"""Tests for :mod:`realtime_chat.broker.relay`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.broker.relay import Relay, read_relay


class RelayTests(SynchronousTestCase):
    """Which payloads reach a room once, and which twice."""

    def setUp(self) -> None:
        self.told: list[tuple[str, bytes]] = []
        self.relay = Relay(lambda room, payload: self.told.append((room, payload)))

    def publish(self, *ways: bytes | None, channel: bytes = b"c", payload: bytes = b"1") -> None:
        """Something is published once, and comes by all of these ways, each of which is for one room."""
        for way in ways:
            self.relay.take(("news",), way, channel, payload)

    def test_once(self) -> None:
        """A payload that comes for the channel and for several patterns was published once."""
        self.publish(None, b"c*", b"?")
        self.assertEqual([("news", b"1")], self.told)

    def test_twice(self) -> None:
        """A payload that is published again is delivered again, with one subscription or more."""
        self.publish(None, b"c*")
        self.publish(None, b"c*")
        self.publish(b"c*")
        self.publish(b"c*")
        self.assertEqual([("news", b"1")] * 4, self.told)

    def test_others_in_between(self) -> None:
        """Equal payloads on other channels, and other payloads, are others."""
        self.publish(b"*", channel=b"c")
        self.publish(b"*", channel=b"d")
        self.publish(b"*", channel=b"d", payload=b"2")
        self.publish(b"*", channel=b"c")
        self.assertEqual([b"1", b"1", b"2", b"1"], [payload for _, payload in self.told])

    def test_interrupted(self) -> None:
        """Ways of one publication come directly after each other; after anything else it is another one."""
        self.publish(None)
        self.relay.interrupt()
        self.publish(b"c*")
        self.assertEqual(2, len(self.told))

    def test_several_rooms(self) -> None:
        """One publication reaches each of the rooms that its ways are for, once."""
        self.relay.take(("news",), None, b"c", b"1")
        self.relay.take(("news", "sports"), b"c*", b"c", b"1")
        self.relay.take(("sports", "all"), b"*", b"c", b"1")
        self.assertEqual(["news", "sports", "all"], [room for room, _ in self.told])

    def test_new_way(self) -> None:
        """With a subscription that is new since the last publication, two equal payloads are delivered once each."""
        self.publish(b"c*")
        self.publish(None, b"c*")
        self.publish(None, b"c*")
        self.assertEqual(3, len(self.told))


class ReadTests(SynchronousTestCase):
    """Relays as they stand on the command line."""

    def test_read(self) -> None:
        """The last equals sign divides."""
        self.assertEqual(("a=b*", "@u7"), read_relay("a=b*=@u7"))

    def test_wrong(self) -> None:
        """The error for a text that is no relay says what would be right, in printable characters."""
        for wrong in ("", "=", "a=", "=a", "a=b c", "\x1b[31m=news", "x" * 300 + "=news"):
            message = str(self.assertRaises(ValueError, read_relay, wrong))
            self.assertIn("right would be 'alerts:*=news'", message)
            self.assertTrue(message.isprintable())
