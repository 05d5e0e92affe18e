"""Tests for :mod:`realtime_chat.values.counters`."""

from __future__ import annotations

from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.values.counters import LATENCIES, SIZES, Histogram


class HistogramTests(SynchronousTestCase):
    """Values in buckets."""

    def test_resolution(self) -> None:
        """A value is known to a factor of two and a half, wherever it is."""
        for bounds in (SIZES, LATENCIES):
            for lower, upper in pairwise(bounds):
                self.assertGreaterEqual(2.5, upper / lower)
                self.assertLess(lower, upper)

    def test_counted(self) -> None:
        """A value counts for the first bound that it doesn't exceed; what exceeds all has a bucket of its own."""
        histogram = Histogram((1, 2, 5))
        for value, times in ((1, 1), (2, 2), (3, 1), (9, 3)):
            histogram.observe(value, times)
        self.assertEqual(([1, 2, 1, 3], 35), (histogram.buckets, histogram.total))
        self.assertEqual([1, 3, 4, 7], [count for _, count in histogram.cumulative()])
