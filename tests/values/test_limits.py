"""Tests for :mod:`realtime_chat.values.limits`."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.values.limits import TokenBucket, begin_within


class LimitTests(SynchronousTestCase):
    """What several layers limit in the same way."""

    @given(st.lists(st.integers(0, 50), max_size=20), st.integers(-5, 300))
    def test_begin_within(self, sizes: list[int], most: int) -> None:
        """An item counts if those before it have fewer bytes than the limit."""
        expected = [sum(sizes[:index]) < most for index in range(len(sizes))]
        self.assertEqual(sum(expected), begin_within(sizes, most))

    def test_token_bucket(self) -> None:
        """A bucket is full at first, holds a burst at most, and fills by the rate."""
        bucket = TokenBucket()
        taken = [bucket.take(1000.0, 10, burst=3) for _ in range(31)]
        self.assertEqual([True] * 30 + [False], taken)
        self.assertEqual([True, False], [bucket.take(1000.1, 10, burst=3) for _ in range(2)])
        self.assertEqual([True, False], [bucket.take(2000.0, 10, 1000, 3), bucket.take(2000.0, 10, 1, 3)])
