"""A reactor whose clock doesn't step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock, LoopingCall
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.clock import seconds_asleep_too, time_steadily


class SteadyReactorTests(SynchronousTestCase):
    """A reactor of our own, driven by hand, under a wall clock that steps."""

    def setUp(self) -> None:
        self.step = 0.0
        self.reactor: Any = SelectReactor()
        self.addCleanup(self.close)
        self.reactor.seconds = self.wall
        self.fired: list[str] = []

    def close(self) -> None:
        for call in self.reactor.getDelayedCalls():
            call.cancel()
        self.reactor.disconnectAll()

    def wall(self) -> float:
        """A wall clock that somebody sets."""
        return time.time() + self.step

    def steady(self) -> None:
        """Let the reactor time its calls steadily."""
        time_steadily(self.reactor, self.reactor.seconds)

    def turn_until(self, condition: Callable[[], Any]) -> None:
        """Let the reactor turn, for two seconds at most."""
        end = time.monotonic() + 2
        while not condition() and time.monotonic() < end:
            self.reactor.runUntilCurrent()
            self.reactor.doIteration(min(0.02, self.reactor.timeout() or 0))

    def test_step_back(self) -> None:
        """What is due soon comes soon when the clock is set back by an hour, also what others scheduled before."""
        self.reactor.callLater(0.05, self.fired.append, "before")
        self.steady()
        self.reactor.callLater(0.05, self.fired.append, "after")
        self.reactor.callLater(0, self.fired.append, "at once")
        self.step = -3600.0
        self.assertLess(self.reactor.timeout(), 0.1)
        self.turn_until(lambda: len(self.fired) == 3)
        self.assertEqual(["after", "at once", "before"], sorted(self.fired))

    def test_step_forward(self) -> None:
        """What is due in a minute doesn't come now as the clock is set forward by an hour."""
        self.steady()
        self.reactor.callLater(60, self.fired.append, "late")
        self.step = 3600.0
        self.reactor.runUntilCurrent()
        self.assertEqual([], self.fired)
        self.assertGreater(self.reactor.timeout(), 50)

    def test_moved(self) -> None:
        """A call that is moved is due after that time, however the clock was set."""
        self.steady()
        call = self.reactor.callLater(60, self.fired.append, "moved")
        self.step = -3600.0
        call.reset(0.01)
        self.turn_until(lambda: self.fired)
        self.assertEqual(["moved"], self.fired)

    def test_loops(self) -> None:
        """What is called regularly neither pauses nor hurries, whichever way the clock is set."""
        self.steady()
        loop = LoopingCall(self.fired.append, "again")
        loop.clock = self.reactor
        loop.start(0.02, now=False)
        self.addCleanup(loop.stop)
        for step in (-3600.0, 3600.0):
            self.step, seen = step, len(self.fired)
            self.turn_until(lambda seen=seen: len(self.fired) >= seen + 3)
            self.assertGreaterEqual(len(self.fired), seen + 3)

    def test_goes_on_from_the_wall(self) -> None:
        """The reactor's seconds go on from those that it had, so that they still look like the time of day."""
        before = self.reactor.seconds()
        self.steady()
        self.assertLess(abs(self.reactor.seconds() - before), 1)

    def test_other_clocks(self) -> None:
        """A reactor that has a clock of its own keeps it, and doing it twice is doing it once."""
        clock = Clock()
        seconds = clock.seconds
        time_steadily(clock)
        self.assertEqual((seconds, 0.0), (clock.seconds, clock.seconds()))
        self.steady()
        steady = self.reactor.seconds
        time_steadily(self.reactor)
        self.assertIs(steady, self.reactor.seconds)

    def test_asleep_too(self) -> None:
        """The clock for what others remember goes on."""
        first = seconds_asleep_too()
        self.assertLessEqual(first, seconds_asleep_too())


class InstalledTests(SynchronousTestCase):
    """Whoever gives us a reactor of Twisted's gets one that is timed steadily."""

    def setUp(self) -> None:
        self.reactor: Any = SelectReactor()
        self.addCleanup(self.reactor.disconnectAll)
        self.assertIs(time.time, self.reactor.seconds)

    def test_service(self) -> None:
        """The service sees to it, also in a program of others."""
        from realtime_chat.broker.local import LocalBroker
        from realtime_chat.composition import make_service
        from realtime_chat.service import Configuration
        from realtime_chat.store.memory import MemoryStore
        from realtime_chat.store.retention import Retention

        store = MemoryStore(Retention(), time.time, bytes)
        make_service(self.reactor, store, LocalBroker(), Configuration(("tcp:0",)), time.time, bytes)
        self.assertIsNot(time.time, self.reactor.seconds)

    def test_client(self) -> None:
        """So does the client."""
        from realtime_chat.client import connect

        connect(self.reactor, "http://127.0.0.1:1/")
        self.assertIsNot(time.time, self.reactor.seconds)
