"""Tests for :mod:`realtime_chat.legacy.html_text`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.legacy.html_text import html_text
from realtime_chat.values.codec import Entry
from realtime_chat.values.model import Message, Position


def shown(data: str, event: str = "message") -> str | None:
    """What a page shows of a message with this data."""
    return html_text(Entry(Message("lobby", Position("e", 1), event, data.encode(), "anonymous", "anonymous", 0)))


class HTMLTextTests(SynchronousTestCase):
    """What old pages show."""

    def test_text(self) -> None:
        """The text of a message is shown, or else its data as compact JSON; markup is escaped in both."""
        for data, expected in (
            ('{"text":"hi"}', "hi"),
            ('{"text":""}', ""),
            ('{"text":"é \U0001f600\\n\\u0000"}', "é \U0001f600\n\0"),
            ('{"text":"<img src=x onerror=\\"alert(1)\\">"}', "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;"),
            ('{"text":"a & b\'s &lt;"}', "a &amp; b&#x27;s &amp;lt;"),
            ('{"text":"hi","more":[{"text":1}]}', "hi"),
            ('{"text":5}', "{&quot;text&quot;:5}"),
            ('{"Text":"hi"}', "{&quot;Text&quot;:&quot;hi&quot;}"),
            ('"<b>"', "&quot;&lt;b&gt;&quot;"),
            ("[1,2]", "[1,2]"),
            ("null", "null"),
        ):
            self.assertEqual(expected, shown(data), data)

    def test_events(self) -> None:
        """Messages of all events are shown, but for those of the server itself."""
        self.assertEqual(("hi", None), (shown('{"text":"hi"}', "note"), shown('{"text":"hi"}', "$amended")))
