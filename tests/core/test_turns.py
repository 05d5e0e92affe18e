"""Tests for :mod:`realtime_chat.core.turns`."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.turns import ALONE, TURN, Turns


def next_turn(clock: Clock) -> None:
    """Call what is due by now, and not what that schedules in its turn, as a reactor does and a Clock doesn't."""
    for call in [call for call in clock.getDelayedCalls() if call.getTime() <= clock.seconds()]:
        function, arguments = call.func, call.args  # a call that is cancelled forgets them
        call.cancel()
        function(*arguments)


class TurnsTests(SynchronousTestCase):
    """Who does how much in a turn."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.now = 0.0
        self.turns = Turns(self.clock, lambda: self.now)
        self.done: list[str] = []

    def work(self, name: str, times: int, takes: float) -> None:
        """Work so often, for so many seconds each time."""
        self.done.append(name)
        self.now += takes
        if times > 1:
            self.turns.later(lambda: self.work(name, times - 1, takes), lambda: None)

    def begin(self, names: str, times: int, takes: float) -> None:
        for name in names:
            self.turns.later(lambda name=name: self.work(name, times, takes), lambda: None)  # type: ignore[misc]

    def test_share(self) -> None:
        """Where others wait in line, a share ends half a millisecond after it was begun."""
        self.begin("a", 1, 0)
        share = self.turns.share()
        self.assertFalse(self.turns.is_over(share))
        self.now += 0.0004
        self.assertFalse(self.turns.is_over(share))
        self.now += 0.0002
        self.assertTrue(self.turns.is_over(share))

    def test_alone(self) -> None:
        """While nobody waits in line, one goes on for two milliseconds, as a publish takes several turns."""
        share = self.turns.share()
        self.now += 0.0019
        self.assertFalse(self.turns.is_over(share))
        self.now += 0.0002
        self.assertTrue(self.turns.is_over(share))

    def test_several(self) -> None:
        """While nobody waits in line, several go on to the end of the turn, and only the first who want to can."""
        for _ in range(2):
            overs = []
            for _ in range(10):
                share = self.turns.share()
                self.now += ALONE * 0.7
                overs.append(self.turns.is_over(share))
            self.assertEqual([False] * 8 + [True] * 2, overs)
            next_turn(self.clock)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_from_an_earlier_turn(self) -> None:
        """A share from an earlier turn is over, and takes nothing of this one."""
        old = self.turns.share()
        self.now += TURN + 0.0001
        self.assertTrue(self.turns.is_over(old))
        new = self.turns.share()
        self.now += ALONE / 2
        self.assertFalse(self.turns.is_over(new))

    def test_last_in_line(self) -> None:
        """The last in line goes on to the end of the turn; those before it don't."""
        overs = []

        def work() -> None:
            share = self.turns.share()
            self.now += TURN / 10
            overs.append(self.turns.is_over(share))

        for _ in "abc":
            self.turns.later(work, lambda: None)
        next_turn(self.clock)
        self.assertEqual([True, True, False], overs)

    def test_fair(self) -> None:
        """Everybody is called once in a turn, in the order in which they came; who comes again waits for the next."""
        self.begin("abc", 2, 0)
        self.assertEqual("", "".join(self.done))
        next_turn(self.clock)
        self.assertEqual("abc", "".join(self.done))
        next_turn(self.clock)
        self.assertEqual("abcabc", "".join(self.done))
        next_turn(self.clock)  # that begins with all of its time
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_bounded(self) -> None:
        """A turn ends when its time is over, and the next one goes on with those who weren't called."""
        self.begin("abcde", 2, TURN / 2)
        rounds = []
        while len(self.done) < 10:
            before = len(self.done)
            next_turn(self.clock)
            rounds.append("".join(self.done[before:]))
        self.assertEqual(["ab", "cd", "ea", "bc", "de"], rounds)

    def test_next(self) -> None:
        """Who waits for the next turn goes on behind all that wait already."""
        self.begin("a", 1, 0)
        turn = self.turns.next().addCallback(lambda _: self.done.append("b"))
        self.assertNoResult(turn)
        next_turn(self.clock)
        self.assertEqual(["a", "b"], self.done)

    def test_failing(self) -> None:
        """One that raises loses its connection, and disturbs no other."""
        self.turns.later(lambda: 1 / 0, lambda: self.done.append("lost"))
        self.begin("a", 1, 0)
        next_turn(self.clock)
        self.assertEqual(["lost", "a"], self.done)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
