"""Event streams in real Chromium, read by its own EventSource."""

from __future__ import annotations

import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.daemon import Daemon, wait_until
from tests.functional.pages import Page, open_tab

READ = """
window.got = [];
window.states = [];
var source = new EventSource(arguments[0]);
function note(event) { window.got.push([event.type, event.lastEventId, JSON.parse(event.data)]); }
source.onmessage = note;
['welcome', 'joined', 'reset', 'goodbye'].forEach(function (type) { source.addEventListener(type, note); });
source.onerror = function () { window.states.push(source.readyState); };
"""


class EventSourceTests(SynchronousTestCase):
    """What a page needs no library for."""

    def setUp(self) -> None:
        self.daemon = Daemon(Path(self.mktemp()))
        self.addCleanup(self.daemon.kill)
        self.daemon.start()

    def read(self, address: str) -> Page:
        """A page that reads a stream."""
        page = open_tab(self, self.daemon.url)
        page.run(READ, address)
        wait_until(lambda: self.got(page, "joined"), lambda: f"no stream: {page.run('return window.states')}")
        return page

    def got(self, page: Page, type: str = "message") -> list[list[Any]]:
        """The events of one type: type, last id and object."""
        return [event for event in page.run("return window.got") if event[0] == type]

    def texts(self, page: Page) -> list[str]:
        """What the messages say."""
        return [event[2]["data"]["text"] for event in self.got(page)]

    def say(self, text: str, room: str = "lobby") -> None:
        """Publish."""
        body = urllib.parse.urlencode({"text": text}).encode()
        urllib.request.urlopen(f"{self.daemon.url}rooms/{room}/messages", body, timeout=20).close()

    def test_comes_back(self) -> None:
        """The browser comes back by itself after the daemon was killed, and after it was stopped; it gets what was
        said meanwhile, each message once and in order, and each with its position as the last id."""
        page = self.read("sse?room=lobby")
        self.say("one")
        wait_until(lambda: self.texts(page) == ["one"])
        for end in (self.daemon.kill, self.daemon.terminate):
            number = len(self.got(page, "joined"))
            end()
            self.daemon.start()
            self.say(f"away {number}")
            wait_until(lambda number=number: len(self.got(page, "joined")) > number, lambda: str(self.texts(page)))
            self.say(f"back {number}")
        wait_until(lambda: self.texts(page)[-1] == "back 2", lambda: str(self.texts(page)))
        self.assertEqual(["one", "away 1", "back 1", "away 2", "back 2"], self.texts(page))
        for type, last_id, event in self.got(page) + self.got(page, "joined"):
            self.assertEqual(event["position"], last_id, type)
        self.assertEqual([True] * 3, [event["recovered"] for _, _, event in self.got(page, "joined")])
        self.assertEqual(["stopping"], [event["reason"] for _, _, event in self.got(page, "goodbye")])

    def test_several_rooms(self) -> None:
        """With several rooms the stream's own id does the same, and shows nobody an event of its own."""
        page = self.read("sse?room=a&room=b")
        for room in "aab":
            self.say(room, room)
        wait_until(lambda: sorted(self.texts(page)) == ["a", "a", "b"])
        self.daemon.kill()
        self.daemon.start()
        for room in "ab":
            self.say(f"{room} away", room)
        wait_until(lambda: len(self.texts(page)) >= 5)
        self.assertEqual(["a away", "b away"], sorted(self.texts(page)[3:]))
        self.assertEqual([True] * 4, [event["recovered"] for _, _, event in self.got(page, "joined")])
        self.assertEqual([], page.trouble)
