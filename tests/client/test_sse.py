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

    def test_largest(self) -> None:
        """An event of up to 64 MiB comes; one that goes on is refused, whether it is one line or many."""
        many, one = b"data:" + b"x" * 1018 + b"\n", b"data:" + b"x" * 1019
        for begun, more in ((many * (64 * 1024 - 1), many), (one * (64 * 1024 - 1), one)):
            stream = EventStreamParser()
            self.assertEqual([], [*stream.feed(begun + more)])
            self.assertEqual(1, len([*stream.feed(b"\n\n")]))
            self.assertEqual([], [*stream.feed(begun + more)])
            self.assertRaises(ValueError, list, stream.feed(more))
