"""How old a stored message is, while the wall clock is set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.store.retention import KEY_SECONDS, ClockSpan, Retention, RetentionClock

AGE = 60.0
STEPS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1), st.floats(0, 400)),
        st.one_of(st.just(0.0), st.floats(-1, 1), st.floats(-1e5, 1e5)),
        st.booleans(),
    ),
    max_size=100,
)
"""Seconds that pass, by how much the wall clock is set then, and whether something is stored."""


class RetentionClockTests(SynchronousTestCase):
    """Both clocks in the hands of the test."""

    def setUp(self) -> None:
        self.elapsed = 1000.0
        self.ahead = 1.7e9
        self.clock = self.build()

    def build(self, age: float | None = AGE) -> RetentionClock:
        return RetentionClock(Retention(age=age), lambda: self.elapsed + self.ahead, lambda: self.elapsed)

    @given(STEPS)
    def test_never_shorter(self, steps: list[tuple[float, float, bool]]) -> None:
        """Whatever the wall clock does: a message that is younger than the age is not too old."""
        self.setUp()
        stored: list[tuple[float, int]] = []
        for passes, step, stores in steps:
            self.elapsed += passes
            self.ahead += step
            if stores:
                stored.append((self.elapsed, self.clock.now_ms()))
            for when, at in stored:
                if self.elapsed - when < AGE:
                    self.assertGreaterEqual(at, self.clock.message_cutoff())
                if self.elapsed - when < KEY_SECONDS:
                    self.assertGreaterEqual(at, self.clock.key_cutoff())

    @given(STEPS)
    def test_not_for_ever(self, steps: list[tuple[float, float, bool]]) -> None:
        """If the wall clock was not set for the length of an age, the cutoffs are exact."""
        self.setUp()
        for passes, step, _ in steps:
            self.elapsed += passes
            self.ahead += step
            self.clock.now_ms()
        self.clock.now_ms()
        self.elapsed += KEY_SECONDS + 1
        seconds = self.elapsed + self.ahead
        self.assertLess(abs(self.clock.message_cutoff() / 1000 - (seconds - AGE)), 1)
        self.assertLess(abs(self.clock.key_cutoff() / 1000 - max(0, seconds - KEY_SECONDS)), 1)

    def test_forward(self) -> None:
        """If the clock is set forward by an hour, messages age only by the time that passes."""
        at = self.clock.now_ms()
        self.ahead += 3600
        self.elapsed += AGE
        self.assertGreaterEqual(at, self.clock.message_cutoff())
        self.elapsed += 0.002
        self.assertLess(at, self.clock.message_cutoff())

    def test_for_ever(self) -> None:
        """If messages are kept for ever, none is too old."""
        self.assertEqual(0, self.build(None).message_cutoff())

    def test_young_process(self) -> None:
        """A process that has just started takes no key for old, as it doesn't know the clock before."""
        self.elapsed += KEY_SECONDS - 1
        self.assertEqual(0, self.clock.key_cutoff())
        self.elapsed += 2
        self.assertGreater(self.clock.key_cutoff(), 0)

    def test_bounded(self) -> None:
        """However often the clock is set, few spans are kept, and dropped ones only keep messages longer."""
        clock = self.build(1e6)
        at = clock.now_ms()
        for number in range(1000):
            self.elapsed += 10
            self.ahead += 3600 * (-1) ** number
            clock.now_ms()
        self.assertLessEqual(len(clock.spans), 64)
        self.assertGreaterEqual(at, clock.message_cutoff())

    def test_forgotten(self) -> None:
        """What is known of the clock before anything that is kept now is forgotten."""
        for _ in range(5):
            self.elapsed += 10
            self.ahead += 3600
            self.clock.now_ms()
        self.assertEqual(6, len(self.clock.spans))
        self.elapsed += KEY_SECONDS + 1
        self.ahead += 3600
        self.clock.now_ms()
        self.assertEqual(2, len(self.clock.spans))

    def test_next_process(self) -> None:
        """The next process continues with the spans of the last one, however the clock was set in between."""
        at = self.clock.now_ms()
        self.elapsed += 10
        for ahead in (1e9, 1.7e9, 3e9):
            kept = [*self.clock.spans, ClockSpan(self.clock.elapsed(), self.clock.spans[-1].ahead)]
            self.elapsed, self.ahead = 5.0, ahead
            self.clock = self.build()
            self.clock.restore(kept)
            self.elapsed += 15
            self.assertGreaterEqual(at, self.clock.message_cutoff())
        self.elapsed += AGE
        self.assertLess(at, self.clock.message_cutoff())
