"""The parser of event streams."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client.sse import EventStreamParser


class EventStreamTests(SynchronousTestCase):
    """Events, whole or in pieces."""

    STREAM = (
        b'retry: 5\n\n:\n\nevent: welcome\ndata: {"a": 1}\n\nid: 7\ndata:{"b":2}\r\n\r\n'
        b"data: c\rdata: d\r\rid: 9\n\ndata: e\n"
    )

    def test_blocks(self) -> None:
        """Events have their data only; comments, ids and events without data are skipped."""
        self.assertEqual([b'{"a": 1}', b'{"b":2}', b"c\nd"], list(EventStreamParser().feed(self.STREAM)))

    @given(st.lists(st.integers(0, 120)))
    def test_pieces(self, cuts: list[int]) -> None:
        """Any division of the stream into pieces gives the same events."""
        stream, found, at = EventStreamParser(), [], 0
        for cut in [*sorted(cuts), len(self.STREAM)]:
            found += stream.feed(self.STREAM[at:cut])
            at = max(at, cut)
        self.assertEqual([b'{"a": 1}', b'{"b":2}', b"c\nd"], found)

    def test_a_line_without_an_end(self) -> None:
        """A line that is too long is refused before it fills the memory."""
        self.patch(__import__("realtime_chat.client.sse", fromlist=["_LARGEST"]), "_LARGEST", 100)
        stream = EventStreamParser()
        with self.assertRaises(ValueError):
            for _ in range(100):
                list(stream.feed(b"data: xxxxxxxxxx"))
