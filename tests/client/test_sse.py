"""The parser of event streams."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client.link import ClientIdentity
from realtime_chat.client.server_url import ServerURL
from realtime_chat.client.sse import EventStreamParser, SSELink
from tests.client.test_http_link import Listener


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
        line = b"data:" + b"x" * (1024 * 1024 - 6) + b"\n"
        many, one = EventStreamParser(), EventStreamParser()
        for _ in range(2):
            self.assertEqual([], [event for _ in range(64) for event in many.feed(line)])
            self.assertEqual(1, len([*many.feed(b"\n")]))
        self.assertEqual([], [event for _ in range(64) for event in many.feed(line)])
        self.assertRaises(ValueError, list, many.feed(b"data:\n"))
        self.assertEqual([], [*one.feed(line[:-1] * 64 + b"x" * 64)])
        self.assertRaises(ValueError, list, one.feed(b"x"))


class LinkTests(SynchronousTestCase):
    """What a link reports of its streams."""

    def test_replaced(self) -> None:
        """What a stream brings that was replaced by another, or whose link was closed, is reported to nobody."""
        listener: Any = Listener()
        link = SSELink(ServerURL(Clock(), "http://localhost:8080/"), listener, ClientIdentity())
        text = b'{"type":"signal","room":"lobby"}'
        link._received(link._generation - 1, iter([text]))
        self.assertEqual([], listener.told["received"])
        link._received(link._generation, iter([text]))
        self.assertEqual(1, len(listener.told["received"]))
        link.close()
        link._received(link._generation, iter([text, b"no JSON"]))
        self.assertEqual((1, []), (len(listener.told["received"]), listener.told["closed"]))
