"""Event streams in real Chromium, read by its own EventSource."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.deadlines import DEADLINE, Stopwatch
from tests.functional.browsers import NPM_MODULES
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


PROGRAMS = Path(__file__).parent

LIBRARIES = {
    "eventsource": ["node", "read_stream.mjs"],
    "eventsource-client": ["node", "read_stream.mjs"],
    "sseclient-py": [sys.executable, "read_stream.py"],
    "requests": [sys.executable, "read_stream.py"],
}


class Follower:
    """A process that reads a stream with some library.

    :ivar events: what it got.
    """

    def __init__(self, library: str, url: str) -> None:
        self.library = library
        program, script = LIBRARIES[library]
        command = [program, str(PROGRAMS / script), library, url, str(NPM_MODULES)]
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if event["type"] != "position":
                self.events.append(event)

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    def kill(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


class LibraryTests(SynchronousTestCase):
    """Streams of several rooms, read by what people read streams with."""

    def setUp(self) -> None:
        self.daemon = Daemon(Path(self.mktemp()))
        self.addCleanup(self.daemon.kill)
        self.daemon.start()

    def say(self, room: str, text: str) -> None:
        """Publish."""
        body = urllib.parse.urlencode({"text": text}).encode()
        urllib.request.urlopen(f"{self.daemon.url}rooms/{room}/messages", body, timeout=DEADLINE).close()

    def follow(self, library: str) -> Follower:
        """A reader of two rooms that has joined them."""
        follower = Follower(library, f"{self.daemon.url}sse?room=a&room=b")
        self.addCleanup(follower.kill)
        wait_until(lambda: len(follower.of_type("joined")) == 2, lambda: f"{library}: {follower.events}")
        return follower

    def with_text(self, follower: Follower, text: str) -> list[dict[str, Any]]:
        return [message for message in follower.of_type("message") if message["data"]["text"] == text]

    def wait_for(self, follower: Follower, condition: Callable[[], Any]) -> None:
        wait_until(condition, lambda: f"{follower.library}: {follower.events}")

    def test_nothing_is_lost(self) -> None:
        """Over a restart, in which both rooms get messages, each library brings every message, and says that nothing is
        missing."""
        for library in LIBRARIES:
            self.check_restart(self.follow(library))

    def check_restart(self, follower: Follower) -> None:
        start = len(follower.of_type("message"))
        for number in range(3):
            self.say("a", f"before {number}")
            self.say("b", f"before {number}")
        self.wait_for(follower, lambda: len(follower.of_type("message")) >= start + 6)
        self.daemon.kill()
        self.daemon.start()
        away = f"{follower.library} away"
        for room in "ab":
            self.say(room, away)
        self.wait_for(follower, lambda: len(self.with_text(follower, away)) == 2)
        for joined in follower.of_type("joined")[2:]:
            self.assertEqual((True, True), (joined["recovered"], joined["resumed"]), follower.library)
        for room in "ab":
            offsets = [message_offset(one) for one in follower.of_type("message") if one["room"] == room]
            self.assertEqual(list(range(min(offsets), max(offsets) + 1)), sorted(set(offsets)), follower.library)
        follower.kill()

    def test_nothing_is_held_back(self) -> None:
        """A short message is there before the next one is published, though nothing follows it."""
        for library in LIBRARIES:
            self.check_at_once(self.follow(library))

    def check_at_once(self, follower: Follower) -> None:
        for number in range(3):
            text = f"{follower.library} {number}"
            watch = Stopwatch(self.daemon.pid, follower.process.pid)
            self.say("a", text)
            self.wait_for(follower, lambda text=text: self.with_text(follower, text))
            # Heartbeats, which would push it out, come every 15 seconds.
            self.assertLess(watch.seconds(), 10, follower.library)
        follower.kill()


def message_offset(message: dict[str, Any]) -> int:
    """A message's offset in its room."""
    return int(message["position"].partition(":")[2])


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
        urllib.request.urlopen(f"{self.daemon.url}rooms/{room}/messages", body, timeout=DEADLINE).close()

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
