"""Tests for :mod:`realtime_chat.core.tail`."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.tail import Tail
from realtime_chat.values.codec import Entry
from realtime_chat.values.model import Message, Position


def entry(offset: int, size: int = 0) -> Entry:
    """A message of about so many bytes, written ``offset`` seconds after 1970."""
    data = b'"' + b"x" * size + b'"'
    return Entry(Message("lobby", Position("e", offset), "message", data, "u", "U", offset * 1000))


class TailTests(SynchronousTestCase):
    """The newest entries of a log."""

    def test_empty(self) -> None:
        """An empty tail reaches back to nothing."""
        tail = Tail(10, 1000)
        self.assertEqual((None, None, 0), (tail.first, tail.after(0, 5), len(tail)))

    def test_age(self) -> None:
        """What is too old is forgotten."""
        tail = Tail(10, 10_000)
        for offset in range(1, 6):
            tail.append(entry(offset))
        tail.forget_before(3000)
        self.assertEqual(3, tail.first)
        tail.forget_before(99_000)
        self.assertEqual((None, 0), (tail.first, tail.size))

    def test_newest_is_kept(self) -> None:
        """One entry is kept however large it is."""
        tail = Tail(10, 100)
        tail.append(entry(1, 5000))
        self.assertEqual(1, tail.first)

    @given(st.lists(st.integers(0, 400), max_size=60), st.integers(1, 12), st.integers(200, 3000), st.integers(0, 70))
    def test_bounds_and_slices(self, sizes: list[int], most: int, most_bytes: int, offset: int) -> None:
        """It keeps its bounds, counts its bytes, and gives exactly what follows an offset or says that it can't."""
        tail = Tail(most, most_bytes)
        entries = [entry(index + 1, size) for index, size in enumerate(sizes)]
        for one in entries:
            tail.append(one)
        kept = entries[len(entries) - len(tail) :]
        self.assertEqual(sum(len(one.json) for one in kept), tail.size)
        self.assertTrue(len(tail) <= most and (tail.size <= most_bytes or len(tail) == 1))
        if kept and offset + 1 >= kept[0].offset:
            self.assertEqual(
                [one.offset for one in entries[offset : offset + 5]], [e.offset for e in tail.after(offset, 5) or []]
            )
        else:
            self.assertIsNone(tail.after(offset, 5))
        below = [one.offset for one in kept if one.offset < offset]
        self.assertEqual(below[-5:], [one.offset for one in tail.before(offset, 5)])
