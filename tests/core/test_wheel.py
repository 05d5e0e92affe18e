"""Tests for :mod:`realtime_chat.core.wheel`."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.wheel import DeadlineQueue, Stall, Wheel


class WheelTests(SynchronousTestCase):
    """Many deadlines on one timer."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wheel = Wheel(self.clock, 0.25)
        self.rung: list[str] = []

    def test_rings_once(self) -> None:
        """A call comes within a tick after its time, and once."""
        self.wheel.call_later(1.0, lambda: self.rung.append("a"))
        self.clock.pump([0.25] * 4)
        self.assertEqual([], self.rung)
        self.clock.pump([0.25] * 8)
        self.assertEqual(["a"], self.rung)

    def test_within(self) -> None:
        """A call that is wanted within a time comes in its last two ticks, whenever the wheel turns in a tick."""
        for phase in (0.0, 0.1, 0.2):
            self.setUp()
            self.clock.advance(phase)
            self.wheel.call_later(60, lambda: None)
            self.clock.advance(0.125)
            self.wheel.call_within(1.0, lambda: self.rung.append("a"))
            self.clock.pump([0.025] * 20)
            self.assertEqual([], self.rung, phase)
            self.clock.pump([0.025] * 20)
            self.assertEqual(["a"], self.rung, phase)

    def test_cancel(self) -> None:
        """A cancelled call never comes; cancelling again does nothing."""
        alarm = self.wheel.call_later(1.0, lambda: self.rung.append("a"))
        alarm.cancel()
        alarm.cancel()
        self.clock.pump([0.25] * 12)
        self.assertEqual(([], 0), (self.rung, len(self.wheel)))

    def test_cancel_within_the_same_tick(self) -> None:
        """One that rings can cancel another that is due at the same time."""
        second = None
        self.wheel.call_later(1.0, lambda: second.cancel())
        second = self.wheel.call_later(1.0, lambda: self.rung.append("second"))
        self.clock.pump([0.25] * 12)
        self.assertEqual([], self.rung)

    def test_failure_stays_alone(self) -> None:
        """A call that fails is logged and keeps no other from coming."""
        self.wheel.call_later(1.0, lambda: 1 / 0)
        self.wheel.call_later(1.0, lambda: self.rung.append("a"))
        self.clock.pump([0.25] * 12)
        self.assertEqual(["a"], self.rung)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_idle_wheel_is_still(self) -> None:
        """Without deadlines nothing is scheduled on the clock."""
        self.wheel.call_later(1.0, lambda: None)
        self.clock.pump([0.25] * 12)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_stop(self) -> None:
        """A stopped wheel rings nothing and leaves nothing on the clock."""
        self.wheel.call_later(1.0, lambda: self.rung.append("a"))
        self.wheel.stop()
        self.clock.advance(5)
        self.assertEqual(([], []), (self.rung, self.clock.getDelayedCalls()))

    @given(st.lists(st.tuples(st.floats(0, 20), st.floats(0.01, 5)), max_size=12))
    def test_never_early_and_hardly_late(self, plan: list[tuple[float, float]]) -> None:
        """Whatever is asked for, and whenever: never early, and late by two ticks at most."""
        clock = Clock()
        wheel = Wheel(clock, 0.25)
        late: list[float] = []
        for delay, pause in plan:
            due = clock.seconds() + delay
            wheel.call_later(delay, lambda due=due: late.append(clock.seconds() - due))
            clock.pump([0.05] * int(pause / 0.05))
        clock.pump([0.05] * 500)
        self.assertEqual(len(plan), len(late))
        for seconds in late:
            self.assertTrue(-1e-9 <= seconds <= 0.55, late)


class HoldTests(SynchronousTestCase):
    """What is held for the same time each."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wheel = Wheel(self.clock, 0.25)
        self.ended: list[str] = []
        self.hold: DeadlineQueue[str] = DeadlineQueue(self.wheel, 2.0, self.end)

    def end(self, held: str) -> None:
        self.ended.append(held)
        if held == "bad":
            raise ZeroDivisionError

    def test_each_in_its_time(self) -> None:
        """Each is ended after its own time, never before and hardly late, with one alarm for all."""
        for held in "abc":
            self.hold.add(held)
            self.clock.pump([0.25] * 2)
        self.assertEqual(1, len(self.wheel))
        self.clock.pump([0.25] * 1)
        self.assertEqual([], self.ended)
        self.clock.pump([0.25] * 3)
        self.assertEqual(["a"], self.ended)
        self.clock.pump([0.25] * 4)
        self.assertEqual((["a", "b", "c"], 0), (self.ended, len(self.wheel)))

    def test_drop(self) -> None:
        """What is dropped isn't ended, what is held again has all its time again, and dropping again does nothing."""
        self.hold.add("a")
        self.hold.add("b")
        self.clock.pump([0.25] * 6)
        self.hold.drop("a")
        self.hold.drop("a")
        self.hold.add("a")
        self.clock.pump([0.25] * 5)
        self.assertEqual(["b"], self.ended)
        self.hold.drop("a")
        self.assertEqual(0, len(self.wheel))
        self.clock.pump([0.25] * 12)
        self.assertEqual(["b"], self.ended)

    def test_dropped_by_another(self) -> None:
        """One that ends can drop another that is due at the same time."""
        hold: DeadlineQueue[str] = DeadlineQueue(self.wheel, 1.0, lambda held: (self.end(held), hold.drop("b")))
        hold.add("a")
        hold.add("b")
        self.clock.pump([0.25] * 8)
        self.assertEqual((["a"], 0), (self.ended, len(self.wheel)))

    def test_failure_stays_alone(self) -> None:
        """One that can't be ended is logged and keeps no other from ending."""
        self.hold.add("bad")
        self.hold.add("a")
        self.clock.pump([0.25] * 12)
        self.assertEqual(["bad", "a"], self.ended)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))


class StallTests(SynchronousTestCase):
    """Who makes progress is left alone."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wheel = Wheel(self.clock)
        self.left = 1000.0
        self.called: list[float] = []
        self.stall = Stall(self.wheel, 60, lambda: self.left, lambda: self.called.append(self.clock.seconds()))

    def pass_time(self, seconds: float, progress: float = 0) -> None:
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.left -= progress

    def test_none(self) -> None:
        """It is called when there was no progress for the time, once."""
        self.pass_time(300)
        self.assertEqual([True], [60 <= at <= 62 for at in self.called])
        self.assertEqual(0, len(self.wheel))

    def test_some(self) -> None:
        """Any progress gives the whole time again, and what is added is none."""
        self.pass_time(600, progress=1)
        self.left += 10_000
        self.pass_time(45)
        self.assertEqual([], self.called)
        self.pass_time(30)
        self.assertEqual(1, len(self.called))

    def test_cancel(self) -> None:
        """One that was cancelled is never called."""
        self.pass_time(30)
        self.stall.cancel()
        self.stall.cancel()
        self.pass_time(100)
        self.assertEqual(([], 0), (self.called, len(self.wheel)))
