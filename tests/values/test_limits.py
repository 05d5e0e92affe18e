"""Tests for :mod:`realtime_chat.values.limits`."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.values.limits import begin_within


class LimitTests(SynchronousTestCase):
    """What several layers limit in the same way."""

    @given(st.lists(st.integers(0, 50), max_size=20), st.integers(-5, 300))
    def test_begin_within(self, sizes: list[int], most: int) -> None:
        """An item counts if those before it have fewer bytes than the limit."""
        expected = [sum(sizes[:index]) < most for index in range(len(sizes))]
        self.assertEqual(sum(expected), begin_within(sizes, most))
