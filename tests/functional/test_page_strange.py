"""The chat page in real Chromium, in a room where strangers have written whatever takes a page long or stops it."""

from __future__ import annotations

import json
import urllib.request

from tests.deadlines import DEADLINE
from tests.functional.daemon import wait_until
from tests.functional.pages import PageTestCase

_LONG = 60_000
_ENDINGS = (")", ".", "*_", "()", "([{}])", ")(", "!", "]", "a@")
_SHAPES = (None, 0, -1, 1e308, True, "", [], {}, [[]], {"text": None}, {"text": {"text": "x"}}, [None], {"toString": 1})
_SHAPES_TOO = (
    {"__proto__": {"text": "x"}},
    {"constructor": 1, "toJSON": "x", "length": 9},
    json.loads("[" * 28 + "]" * 28),
)


class StrangeTests(PageTestCase):
    """What strangers write is shown, and keeps nobody from seeing the rest."""

    def say(self, data: object, event: str = "message") -> None:
        body = json.dumps({"data": data, "event": event}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.daemon.url}rooms/lobby/messages", body, headers)
        urllib.request.urlopen(request, timeout=DEADLINE).close()

    def test_all_are_shown(self) -> None:
        """Links with sixty thousand brackets, and data of every shape, stand in the history and arrive live."""
        expected = []
        for text in ["http://a/" + (ending * _LONG)[:_LONG] for ending in _ENDINGS] + ["http://a/ " * 6000]:
            self.say({"text": text})
            expected.append(text)
        for data in (*_SHAPES, *_SHAPES_TOO):
            self.say(data)
        self.say({"text": "hidden"}, "__proto__")
        shown = sum(data is not None for data in (*_SHAPES, *_SHAPES_TOO))
        self.say({"text": "the end"})
        page = self.open()
        page.wait_for("the end")
        self.assertEqual(expected, page.texts[: len(expected)])
        self.assertEqual(len(expected) + shown + 1, len(page.texts))
        for text in expected:
            self.say({"text": text})
        self.say({"text": "the very end"})
        page.wait_for("the very end")
        self.assert_quiet(page)

    def test_older_pages(self) -> None:
        """They hold up no page of what was said before, either."""
        for number in range(60):
            self.say({"text": f"http://a/{number}" + ")" * _LONG} if number % 10 == 0 else {"text": str(number)})
        for number in range(50):
            self.say({"text": f"late {number}"})
        page = self.open()
        page.wait_for("late 49")

        def is_all_there() -> bool:
            page.run("document.getElementById('message-pane').scrollTop = 0")
            return len(page.texts) == 110

        wait_until(is_all_there, lambda: f"{len(page.texts)} messages")
        self.assert_quiet(page)
