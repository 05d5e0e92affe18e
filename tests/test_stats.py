"""Bounds of the code's size and documentation (:mod:`tools.stats`)."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.daemon import CHECKOUT
from tools import stats


class BoundTests(SynchronousTestCase):
    """What ``make stats`` refuses."""

    def test_modules(self) -> None:
        """No module is longer than 450 lines."""
        self.assertEqual(450, stats.MAX_MODULE)
        self.assertEqual({}, {name: lines for name, lines in stats.module_lines().items() if lines > 450})

    def test_longest_function(self) -> None:
        """No function is longer than 45 lines, its docstring counted."""
        self.assertEqual(45, stats.MAX_FUNCTION)
        self.assertEqual([], [function for function in stats.functions() if function.all > 45])

    def test_functions(self) -> None:
        """Half of the functions have at most 5 lines of code, and nine of ten have at most 12."""
        lengths = [function.code for function in stats.functions()]
        self.assertEqual((5, 12), (stats.MAX_MEDIAN, stats.MAX_P90))
        self.assertLessEqual(stats.percentile(lengths, 0.5), 5)
        self.assertLessEqual(stats.percentile(lengths, 0.9), 12)

    def test_documented(self) -> None:
        """At least 98 % of the public modules, classes, functions and methods have a docstring."""
        self.assertEqual(0.98, stats.MIN_DOCUMENTED)
        count, bare = stats.documented()
        self.assertLessEqual(len(bare), 0.02 * count, bare)

    def test_sentences(self) -> None:
        """No sentence of a docstring has more than 30 words."""
        self.assertEqual(30, stats.MAX_WORDS)
        self.assertEqual([], stats.long_sentences())


class ReportTests(SynchronousTestCase):
    """What ``make stats`` prints."""

    def test_status(self) -> None:
        """It ends with status 1 if a bound is broken, and names each broken bound; else with 0."""
        done = subprocess.run(
            [sys.executable, "tools/stats.py"], cwd=CHECKOUT, capture_output=True, text=True, timeout=120
        )
        broken = stats.broken_bounds()
        self.assertEqual((int(bool(broken)), ""), (done.returncode, done.stderr))
        for one in broken:
            self.assertIn(f"    {one}\n", done.stdout)
        self.assertIn(f"modules: {len(stats.module_lines())}, ", done.stdout)

    def test_lines(self) -> None:
        """Each line of the package is of one kind, and each kind is printed."""
        counts = stats.lines_by_kind()
        self.assertEqual(sum(stats.module_lines().values()), sum(counts.values()))
        self.assertEqual({"code", "imports", "docstrings", "comments", "blank"}, {*counts})
        self.assertNotIn(0, counts.values())

    def test_measures(self) -> None:
        """A docstring is no code, a percentile is one of the numbers, and a field is no part of a sentence."""
        (own,) = [function for function in stats.functions() if function.name == "clock.seconds_asleep_too"]
        self.assertEqual((3, 7), (own.code, own.all))
        self.assertEqual([5, 9, 10], [stats.percentile([*range(10), 10], share) for share in (0.5, 0.9, 1)])
        text = "One. Two,\nthree?\n\n===\ntable\n===\n\n:param a: Four"
        self.assertEqual(["One.", "Two, three?", "Four"], [*stats.sentences(text)])
