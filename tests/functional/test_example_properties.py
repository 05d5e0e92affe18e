"""``examples/label``, ``leaderboard`` and ``widgets``, as their READMEs say, in Chromium."""

from __future__ import annotations

import json
import time
import urllib.request
from itertools import pairwise
from typing import Any
from urllib.error import HTTPError

from tests.functional.daemon import wait_until
from tests.functional.example import Example, ExampleTestCase
from tests.functional.pages import Page
from tests.redis_server import RedisServer

_TYPE = """
const field = document.querySelector('input');
Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, arguments[0]);
field.dispatchEvent(new Event('input', {bubbles: true}));
"""
"""Types as a person does: React only hears of events."""


_ROWS = """
return Array.from(document.getElementById(arguments[0]).rows, (row) => row.innerText.split('\\t').join(' '));
"""
_WATCH = """
window.times = [];
room.on('$property', ({name}) => { if (name === 'top') times.push(performance.now()); });
"""
"""Notes when the best members change."""


_SAY = """
const form = document.getElementById('say'), {fetch} = window;
const answered = new Promise((resolve, reject) => {
  window.fetch = (...all) => {
    const answer = fetch(...all);
    answer.then(resolve, reject);
    return answer;
  };
});
form.elements.text.value = arguments[0];
form.querySelector('button').click();
window.fetch = fetch;
return answered.then(({status}) => status);
"""
"""Says something, and gives the status of the answer."""


class PropertiesTestCase(ExampleTestCase):
    """An example whose page shows the properties of a room."""

    def url(self, example: Example) -> str:
        """Where its daemon is."""
        return f"http://127.0.0.1:{example.ports[8080]}/"

    def post(self, example: Example, commands: list[dict[str, Any]]) -> None:
        """Send commands as another program would."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url(example)}commands", json.dumps(commands).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            self.assertEqual({"set"}, {reply["type"] for reply in json.load(answer)})


class LabelTests(PropertiesTestCase):
    """``examples/label``."""

    name = "label"

    def begin(self) -> Example:
        """The example, with the script that ``npm install`` would have made."""
        example = self.example()
        example.type("cd examples/label && npm run postinstall")
        return example

    def shows(self, page: Page, text: str) -> None:
        """Wait until a page shows a label."""
        self.wait_texts(page, "output", [text])

    def seen(self, page: Page) -> int:
        """How many changes by others a page has seen."""
        return int(page.read("status").rpartition(" ")[2])

    def test_followed(self) -> None:
        """What one types appears at all others, and not again at oneself; who comes later sees it, after a kill too."""
        example = self.begin()
        process, (one, two) = example.start(), (self.open(self.url(example)), self.open(self.url(example)))
        self.shows(one, "Nobody has written anything yet.")
        for text in ("H", "He", "Hello", "Hello </script>"):
            one.run(_TYPE, text)
        for page in (one, two):
            self.shows(page, "Hello </script>")
        self.assertEqual(0, self.seen(one))
        self.look(two)
        example.kill(process)
        one.run(_TYPE, "typed meanwhile")
        process = example.start()
        late = self.open(self.url(example))
        for page in (two, late):
            self.shows(page, "typed meanwhile")
        put, get = example.commands
        example.type(put)
        for page in (one, two, late):
            self.shows(page, "Hello from curl")
        self.assertEqual("Hello from curl", json.loads(example.type(get))["data"])

    def test_socketio(self) -> None:
        """By Socket.IO, too, what one types appears at all others, and who comes later sees it; also after a kill."""
        example = self.begin()
        process, url = example.start(), self.url(example) + "socketio.html"
        one, two = self.open(url), self.open(url)
        for page in (one, two):
            self.wait_status(page, "Connected")
        one.run(_TYPE, "typed")
        self.wait_field(two, "typed")
        self.wait_field(self.open(url), "typed")
        example.kill(process)
        self.wait_status(one, "The connection is lost")
        example.start()
        for page in (one, two):
            self.wait_status(page, "Connected")
        one.run(_TYPE, "typed again")
        self.wait_field(two, "typed again")

    def wait_field(self, page: Page, text: str) -> None:
        """Wait until the field of a page has a text."""
        wait_until(lambda: page.run("return document.querySelector('input').value") == text, lambda: str(page.console))

    def test_conflated(self) -> None:
        """Of 200 changes a second a page sees at most ten a second, and the last one."""
        example = self.begin()
        example.start()
        page = self.open(self.url(example))
        self.shows(page, "Nobody has written anything yet.")
        began = time.monotonic()
        for second in range(2):
            for part in range(20):
                texts = [f"change {200 * second + 10 * part + number}" for number in range(10)]
                self.post(example, [{"type": "set", "room": "label", "name": "text", "data": text} for text in texts])
        self.shows(page, "change 399")
        self.assertLessEqual(self.seen(page), 10 * (time.monotonic() - began) + 2)

    def test_readme(self) -> None:
        """The README is short, and the code too."""
        self.check_readme("realtime.toml", "label.jsx", "examples/leaderboard")


class LeaderboardTests(PropertiesTestCase):
    """``examples/leaderboard``."""

    name = "leaderboard"

    def begin(self) -> Example:
        """The example, with a Redis of its own, where a few have scores."""
        self.redis = RedisServer(self.mktemp(), "--appendonly", "yes").start()
        self.addCleanup(self.redis.kill)
        example = self.example(redis=self.redis.url, **{"redis-cli": f"redis-cli -p {self.redis.port}"})
        self.score(example, Ann=30, Bob=50, Cid=30, Dora=20, Eve=50, Fay=1)
        return example

    def score(self, example: Example, **scores: int) -> None:
        """Set scores."""
        words = " ".join(f"{score} {name}" for name, score in scores.items())
        example.type(f"redis-cli -p {self.redis.port} ZADD scores {words}")

    def rows(self, page: Page, table: str) -> list[str]:
        """The rows of a table: rank, name and score."""
        found: list[str] = page.run(_ROWS, table)
        return found

    def shows(self, page: Page, *rows: str, table: str = "top") -> None:
        """Wait until a table has these rows."""
        wait_until(lambda: self.rows(page, table) == list(rows), lambda: f"{self.rows(page, table)} {page.console}")

    def test_followed(self) -> None:
        """Ties, ranks, neighbours and who is hidden are right, live, and after all programs were killed."""
        example = self.begin()
        process, page = example.start(), self.open(self.url(example))
        follow, _, hide, show = example.commands
        following = example.begin(follow)
        best = ("1 Eve 50", "1 Bob 50", "3 Cid 30", "3 Ann 30", "5 Dora 20", "6 Fay 1")
        self.shows(page, *best)
        self.shows(page, "3 Cid 30", "3 Ann 30", "5 Dora 20", table="around")
        self.write(page, "me", "Eve")
        self.shows(page, "1 Eve 50", "1 Bob 50", table="around")
        self.look(page)
        example.type(hide)
        self.shows(page, "1 Eve 50", "2 Cid 30", "2 Ann 30", "4 Dora 20", "5 Fay 1")
        self.write(page, "me", "Bob")
        self.shows(page, table="around")
        for program in (process, following):
            example.kill(program)
        example.type(show)
        self.score(example, Fay=40)
        example.start()
        example.begin(follow)
        self.shows(page, "1 Eve 50", "1 Bob 50", "3 Fay 40", "4 Cid 30", "4 Ann 30", "6 Dora 20")

    def test_conflated(self) -> None:
        """While 1,000 points a second are made, a page is told ten times a second at most, and all points are shown."""
        example = self.begin()
        example.start()
        page = self.open(self.url(example))
        follow, play, *_ = example.commands
        example.begin(follow)
        page.run(_WATCH)
        playing = example.begin(play)
        wait_until(lambda: page.run("return times.length") >= 20, example.said)
        example.kill(playing)
        score = f"redis-cli -p {self.redis.port} --csv ZREVRANGE scores 0 0 WITHSCORES"
        best, points = json.loads(f"[{example.type(score)}]")
        wait_until(lambda: self.rows(page, "top")[0] == f"1 {best} {points}", lambda: str(self.rows(page, "top")))
        times = page.run("return times")
        self.assertLess(sum(after - before < 50 for before, after in pairwise(times)), len(times) / 4)

    def test_readme(self) -> None:
        """The README is short, and the code too."""
        self.check_readme("realtime.toml", "docs/howto/access.rst")


class WidgetsTests(PropertiesTestCase):
    """``examples/widgets``."""

    name = "widgets"

    def say(self, page: Page, text: str) -> None:
        """Say something on a page, and again if the site wasn't connected yet, as it asks for."""
        wait_until(lambda: page.run(_SAY, text) != 503, lambda: str(page.console))

    def shows(self, page: Page, *lines: str, count: int, author: str = "Ann") -> None:
        """Wait until a page shows these messages, and how many there were."""
        self.wait_texts(page, "#talk li", list(lines))
        self.wait_texts(page, "#count", [f"{count} messages so far, the last one by {author}."])

    def test_followed(self) -> None:
        """The server draws first, then every browser, with the same result, also after a kill in the middle."""
        example = self.example()
        process, one = example.start(), self.open(self.url(example))
        self.shows(one, count=0, author="nobody")
        self.say(one, "</script><b>bold</b> & {{ text }}")
        first = "Ann: </script><b>bold</b> & {{ text }}"
        self.shows(one, first, count=1)
        two = self.open(self.url(example))
        self.shows(two, first, count=1)
        drawn = two.run("return document.getElementById('talk').innerText")
        with urllib.request.urlopen(self.url(example), timeout=30) as answer:
            plain = answer.read().decode()
        self.assertIn("Ann</b>: &lt;/script&gt;&lt;b&gt;bold", plain)
        self.look(two)
        example.kill(process)
        self.wait_status(one, "The connection is lost")
        example.start()
        self.wait_status(one, "Live")
        self.assertEqual(drawn, two.run("return document.getElementById('talk').innerText"))
        post, read = example.commands
        example.type(f"{post} --retry 50 --retry-delay 1")  # the site answers 503 until it is connected again
        for page in (one, two):
            self.shows(page, first, "curl: Hello", count=2, author="curl")
        values = {one["name"]: one["data"] for one in json.loads(example.type(read))["values"]}
        self.assertEqual(2, values["count"]["count"])

    def posted(self, example: Example, number: int) -> bool:
        """Say something as another program would. Returns False if the site isn't connected yet."""
        try:
            urllib.request.urlopen(self.url(example), f"author=Bob&text=line+{number}".encode(), timeout=30).close()
        except HTTPError as error:
            self.assertEqual(503, error.code)
            return False
        return True

    def test_grows(self) -> None:
        """A list grows in all browsers, each message once and in order, and ends at the last fifty."""
        example = self.example()
        example.start()
        page = self.open(self.url(example))
        wait_until(lambda: self.posted(example, 0), example.said)
        for number in range(1, 60):
            self.assertTrue(self.posted(example, number))
        self.shows(page, *(f"Bob: line {number}" for number in range(10, 60)), count=60, author="Bob")

    def test_readme(self) -> None:
        """The README is short, and the code too."""
        self.check_readme("page.html", "docs/howto/access.rst")
