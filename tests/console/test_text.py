"""Output for a terminal."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client import Member, Message, Position, Reset, Sender, Signal
from realtime_chat.console.text import as_json, as_line, member_as_line, safe

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def message(data: object, name: str = "Bob", event: str = "message") -> Message:
    """Make a message."""
    return Message("lobby", Position("e", 1), event, data, Sender("u1", name), 0, "k")


class TextTests(SynchronousTestCase):
    """Lines and JSON."""

    @given(st.text(), st.text(), st.text())
    def test_nothing_is_raw(self, text: str, name: str, event: str) -> None:
        """No text, name or event of other users brings a control character to the terminal."""
        for said in (
            as_line(message({"text": text}, name, event)),
            as_line(message({text: [text]}, name, event)),
            as_json(message({text: text}, name, event)),
            member_as_line(Member("u1", name, True, {"a": text})),
        ):
            self.assertIsNone(UNSAFE.search(said), repr(said))

    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def test_json_stays_the_same_value(self, text: str) -> None:
        """Escaped JSON decodes to the same value."""
        self.assertEqual({"text": text}, json.loads(as_json(message({"text": text})))["data"])

    def test_json_is_the_protocols(self) -> None:
        """An event as JSON has the protocol's fields."""
        self.assertEqual(
            {
                "type": "message",
                "room": "lobby",
                "position": "e:1",
                "event": "message",
                "data": None,
                "at": 0,
                "from": {"id": "u1", "name": "Bob"},
                "key": "k",
            },
            json.loads(as_json(message(None))),
        )
        reset = json.loads(as_json(Reset("lobby", Position("e", 7))))
        self.assertEqual({"type": "reset", "room": "lobby", "position": "e:7"}, reset)

    def test_json_of_what_is_nobodys(self) -> None:
        """A relayed signal has the sender null."""
        signal = json.loads(as_json(Signal("lobby", "relay", None, None, 7)))
        expected = {"type": "signal", "room": "lobby", "event": "relay", "data": None, "from": None, "at": 7}
        self.assertEqual(expected, signal)

    def test_people_read_text(self) -> None:
        """Letters and signs of all scripts stay as they are; a line end is escaped."""
        self.assertEqual("Grüße, 世界 👋\\n", safe("Grüße, 世界 👋\n"))
        self.assertTrue(as_line(message({"text": "hi"})).endswith(" Bob: hi"))
        self.assertTrue(as_line(message([1], event="count")).endswith(" Bob [count]: [1]"))
