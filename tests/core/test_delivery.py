"""Tests for :mod:`realtime_chat.core.delivery`: readers that are behind, and how they become live."""

from typing import Any

from realtime_chat.values.errors import GOODBYES
from realtime_chat.values.model import Position
from tests.core.world import World


class BehindTests(World):
    """Who can't keep up is left behind and pumped."""

    def test_full_transport_gets_nothing_more(self) -> None:
        """A full transport is sent nothing, and all of it in order when it has drained."""
        session, transport = self.client(window=3)
        self.tell(session, "join", room="lobby")
        for number in range(10):
            self.publish(number)
            self.turn()
        self.assertEqual([0, 1, 2], self.data(transport))
        transport.window, transport.write_paused = None, False
        session.resume_writing()
        self.publish(10)
        self.turn()
        self.assertEqual(list(range(11)), self.data(transport))

    def test_lag(self) -> None:
        """The seconds from a message's announcement until it is sent are counted, once for each reader."""
        for _ in range(3):
            self.joined()
        self.clock.advance(100)
        self.publish(1)
        self.turn()
        lag = self.hub.counters.lag_seconds
        self.assertEqual((3, 0.0), (sum(lag.buckets), lag.total))

    def test_closing_transport(self) -> None:
        """A transport that takes nothing as it is closing, though it is not full, is not tried for ever."""
        session, transport = self.client()
        self.publish(1)
        transport.said_goodbye = GOODBYES["silent"]
        self.tell(session, "join", room="lobby")
        self.assertEqual((["joined"], []), ([event["type"] for event in transport.received], self.data(transport)))

    def test_others_are_not_held_up(self) -> None:
        """One that is full holds up nobody."""
        stalled, _ = self.client(window=0)
        self.tell(stalled, "join", room="lobby")
        _, other = self.joined()
        self.publish(*range(5))
        self.turn()
        self.assertEqual(list(range(5)), self.data(other))

    def test_reset(self) -> None:
        """What was trimmed meanwhile is announced by one reset, at the position where delivery goes on."""
        session, transport = self.client(window=1)
        self.tell(session, "join", room="lobby")
        for number in range(60):
            self.publish(number)
            self.turn()
        transport.window, transport.write_paused = None, False
        session.resume_writing()
        (reset,) = transport.of_type("reset")
        messages = transport.of_type("message")
        self.assertEqual(list(range(60 - self.history, 60)), self.data(transport)[1:])
        self.assertEqual(int(reset["position"].split(":")[1]) + 1, int(messages[1]["position"].split(":")[1]))

    def test_read_failure_is_tried_again(self) -> None:
        """A page that can't be read is tried again after a while; nothing is lost by it."""
        self.slow_hub()
        self.publish(*range(3))
        self.held.settle()
        session, transport = self.client(window=0)
        self.tell(session, "join", room="lobby")
        self.held.settle()
        self.hub.rooms["lobby"].tail.clear()
        transport.window, transport.write_paused = None, False
        session.resume_writing()
        self.held.fail_read()
        self.clock.pump([0.25] * 6)
        self.held.settle()
        self.assertEqual([0, 1, 2], self.data(transport))

    def test_catching_up_shares_reads(self) -> None:
        """However many stand at the same place behind the tail, the store is read once."""
        self.slow_hub()
        self.publish(*range(3))
        self.held.settle()
        self.successResultOf(self.hub.cache.load("lobby")) if "lobby" in self.hub.rooms else None
        sessions = [self.client(window=0) for _ in range(50)]
        for session, _ in sessions:
            self.tell(session, "join", room="lobby")
        self.held.settle()
        self.hub.rooms["lobby"].tail.clear()
        for session, transport in sessions:
            transport.window, transport.write_paused = None, False
            session.resume_writing()
        self.assertEqual(1, len(self.held.looks))
        self.held.settle()
        self.assertEqual([[0, 1, 2]] * 50, [self.data(transport) for _, transport in sessions])


class ResumeTests(World):
    """Readers who come with a position, or ask for messages, that memory doesn't reach back to."""

    def setUp(self) -> None:
        super().setUp()
        self.successResultOf(self.hub.cache.load("lobby"))

    def resumed(self, **fields: Any) -> tuple[list[Any], int]:
        """What a reader is sent of ten messages that only the store has, and how often that is read for it."""
        self.publish(*range(10))
        self.hub.rooms["lobby"].tail.clear()
        reads = self.hub.counters.reads
        _, transport = self.joined(**fields)
        self.assertEqual(1, self.hub.rooms["lobby"].live_count())
        return self.data(transport), self.hub.counters.reads - reads

    def test_position(self) -> None:
        """What follows a position is read once, to find out that it is kept, and to be sent."""
        since = str(Position(self.hub.rooms["lobby"].epoch, 4))
        self.assertEqual(([4, 5, 6, 7, 8, 9], 1), self.resumed(since=since))

    def test_last(self) -> None:
        """The last messages are read once, to find where they begin, and to be sent."""
        self.assertEqual(([7, 8, 9], 1), self.resumed(last=3))
