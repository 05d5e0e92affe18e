"""The pages of ``examples/chat-tutorial`` in browsers: those of 2013, and the same with realtime.js."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.browsers import Site, browser, serve
from tests.functional.daemon import CHECKOUT, NO_LIMITS, SOAK, Daemon, free_port, wait_until
from tests.functional.example import Example, copy_example
from tests.functional.pages import WATCH, Page

EXAMPLE = CHECKOUT / "examples" / "chat-tutorial"
TABS = 4 if SOAK else 2
"""Tabs of each kind of page."""

BURST = 10_000 if SOAK else 200
OLD_POLL, OLD_WEBSOCKET, POLL, WEBSOCKET = "old-poll", "old-websocket", "poll", "websocket"
OLD = (OLD_POLL, OLD_WEBSOCKET)
MARKUP = "<b>é</b> & <img src=x onerror=\"alert('1')\">"

_TEXTS = """
return Array.prototype.map.call(document.querySelectorAll('#chat li'), function (item) {
  return item.textContent.replace(/\\n$/, '');
});
"""
_SAY = """
var form = document.getElementById('say');
form.elements.text.value = arguments[0];
form.querySelector('button').click();
"""
_SEND_ALL = "for (var number = 0; number < arguments[0]; number++) { socket.send('message ' + number); }"
_ANSWERED = """
return performance.getEntriesByType('resource').filter(function (entry) {
  return /\\/ws\\?previousRequest=/.test(entry.name) && entry.responseEnd;
}).length;
"""


class ChatPage(Page):
    """One of the four pages."""

    @property
    def lines(self) -> list[str]:
        """All that is shown, also what the old pages show first."""
        return list(self.run(_TEXTS))

    @property
    def texts(self) -> list[str]:
        """The messages that are shown."""
        return [line for line in self.lines if not line.startswith("connected")]

    def say(self, text: str) -> None:
        """Write a message, and press the button."""
        self.run(_SAY, text)

    def wait_connected(self, transport: str = "") -> None:
        """Wait until the page has said that it is connected, each kind in its own way."""
        wait_until(lambda: self.run(_CONNECTED), lambda: f"{self.run('return document.body.innerText')} {self.console}")

    def wait_texts(self, expected: list[str]) -> None:
        """Wait until as many messages are shown, which have to be these."""
        wait_until(lambda: len(self.texts) >= len(expected), lambda: f"{self.texts} are not {expected}")
        assert self.texts == expected, f"{self.texts} are not {expected}"


_CONNECTED = """
var status = document.getElementById('status');
return status ? /^connected/.test(status.textContent) : /connected ?\\.\\./.test(document.body.innerText);
"""


def node_modules() -> Path:
    """What the pages use of npm; it is installed, if it isn't yet."""
    made = EXAMPLE / "site" / "node_modules"
    subprocess.run(["make", "-s", f"{made.relative_to(CHECKOUT)}/installed"], cwd=CHECKOUT, check=True)
    return made


class LegacyTestCase(SynchronousTestCase):
    """A daemon with a port for old pages, and a site with these, whose origin is allowed.

    :cvar kind: the browser.
    """

    kind = "chromium"

    def setUp(self) -> None:
        directory = Path(self.mktemp())
        self.daemon = Daemon(directory)
        self.legacy_port = free_port()
        ports = {1025: self.legacy_port, 8080: self.daemon.port}
        copy_example("chat-tutorial", directory / "example", ports, modules=node_modules())
        self.pages = directory / "example" / "site"
        self.site = self.serve()
        listen = f"tcp:{self.legacy_port}:interface=127.0.0.1"
        allowed = ("--legacy-listen", listen, "--allow-origin", self.site.origin)
        self.daemon.options = (*allowed, "--history=20000", *NO_LIMITS)
        self.daemon.start()
        self.addCleanup(self.daemon.kill)

    def serve(self) -> Site:
        """Serve the pages, from an origin of their own."""
        site = serve(self.pages)
        self.addCleanup(site.end)
        return site

    def open(self, name: str, query: str = "", before: str = "", site: Site | None = None) -> ChatPage:
        """Open a page in the browser of somebody else."""
        url = f"{(site or self.site).origin}/{name}.html{query}"
        tab = browser(self.kind).open(url, WATCH + before, alone=True)
        self.addCleanup(tab.release)
        return ChatPage(tab)

    def open_many(self, name: str, count: int) -> list[ChatPage]:
        """Open a page in some tabs of one browser, which share its connections, and wait until all are connected."""
        first = self.open(name)
        pages = [first]
        for _ in range(count - 1):
            tab = first.tab.open_beside(f"{self.site.origin}/{name}.html")
            self.addCleanup(tab.close)
            pages.append(ChatPage(tab))
        for page in pages:
            page.wait_connected()
        return pages

    def post(self, text: str, room: str = "lobby") -> None:
        """Publish as curl does to the old pages' address."""
        body = urllib.parse.urlencode({"new_message": text}).encode()
        urllib.request.urlopen(f"http://127.0.0.1:{self.legacy_port}/?room={room}", body, timeout=20).close()

    def stored(self, room: str = "lobby") -> list[str]:
        """The texts that the room has, in its order."""
        return [message["data"]["text"] for message in self.daemon.get(f"rooms/{room}/messages?last=500")["messages"]]


class MixedTests(LegacyTestCase):
    """All kinds of page in one room."""

    names: tuple[str, ...] = (OLD_POLL, OLD_WEBSOCKET, POLL, WEBSOCKET)

    def test_mixed(self) -> None:
        """All pages and curl see what each of them writes, as it was typed, once and in the room's order, also across
        a restart of a daemon that was killed."""
        opened = {name: self.open_many(name, TABS) for name in self.names}
        pages = [page for some in opened.values() for page in some]
        self.say_all(pages, "before")
        expected = self.stored()
        for page in pages:
            page.wait_texts(expected)
            self.assertEqual([], page.console)
        self.daemon.kill()
        for page in opened.get(WEBSOCKET, ()):
            page.say("without a daemon")
        self.daemon.start()
        for page in opened.get(OLD_WEBSOCKET, ()):
            page.reload()
        for page in pages:
            page.wait_connected()
        self.say_all(pages, "after")
        after = self.stored()[len(expected) :]
        self.assertEqual(TABS if WEBSOCKET in opened else 0, after.count("without a daemon"))
        for name, some in opened.items():
            for page in some:
                page.wait_texts(after if name == OLD_WEBSOCKET else expected + after)
                self.assertEqual([], page.run("return window.trouble || []"))

    def say_all(self, pages: list[ChatPage], when: str) -> None:
        """Write on each page and by HTTP, and wait until all is stored."""
        said = [f"{when} {number} {MARKUP}" for number in range(len(pages))]
        for page, text in zip(pages, said, strict=True):
            page.say(text)
        said += [f"{when} by curl", f"{when} by curl, on the new address"]
        self.post(said[-2])
        urllib.request.urlopen(f"{self.daemon.url}rooms/lobby/messages", f"text={said[-1]}".encode()).close()
        wait_until(lambda: not set(said) - set(self.stored()), lambda: f"{said} are not all of {self.stored()}")
        self.assertEqual(sorted(said), sorted(text for text in self.stored() if text.startswith(when)))


class FirefoxMixedTests(MixedTests):
    """The page that polls, in Firefox, beside one of today."""

    kind = "firefox"
    names = (OLD_POLL, WEBSOCKET)


class OldPagesTests(LegacyTestCase):
    """What the old pages can rely on."""

    def test_rooms(self) -> None:
        """Two rooms stay apart, for each kind of page."""
        rooms = ("attic", "cellar")
        pages = [
            (room, self.open(name, f"?room={room}")) for room, name in zip(rooms * 2, OLD + OLD[::-1], strict=True)
        ]
        for number, (_, page) in enumerate(pages):
            page.wait_connected()
            page.say(f"from {number}")
        for room in rooms:
            wait_until(lambda room=room: len(self.stored(room)) == 2)
        self.assertEqual([], self.stored())
        for room, page in pages:
            page.wait_texts(self.stored(room))
        self.assertEqual(["from 0", "from 2"], sorted(self.stored("attic")))

    def test_foreign(self) -> None:
        """From an origin that isn't listed, nobody can write. A page that polls can read, as scripts may."""
        other = self.serve()
        poll, socket = (self.open(name, site=other) for name in OLD)
        poll.wait_connected()
        wait_until(lambda: socket.run("return window.socket.readyState === 3"))
        poll.say("from elsewhere")
        wait_until(lambda: any("403" in line or "CORS" in line for line in poll.console), lambda: str(poll.console))
        self.post("from here")
        poll.wait_texts(["from here"])
        self.assertEqual(([], ["from here"]), (socket.lines, self.stored()))

    def test_burst(self) -> None:
        """All that somebody sends at once over a WebSocket reaches a page that polls, in order."""
        poll, socket = (self.open(name) for name in OLD)
        poll.wait_connected()
        socket.wait_connected()
        socket.run(_SEND_ALL, BURST)
        expected = [f"message {number}" for number in range(BURST)]
        count = "return document.querySelectorAll('#chat li').length"
        wait_until(lambda: poll.run(count) > BURST, lambda: f"{poll.run(count)}", patience=600)
        self.assertEqual(expected, poll.texts)
        socket.wait_texts(expected)

    def test_without_websocket(self) -> None:
        """A browser without WebSockets asks in the plugin's way, and is shown nothing that isn't a message."""
        page = self.open(OLD_WEBSOCKET, before="delete window.WebSocket;")
        page.say("never sent")
        wait_until(lambda: page.run(_ANSWERED) >= 2, lambda: f"{page.run(_ANSWERED)}")
        wait_until(lambda: sum("426" in line for line in page.console) >= 2, lambda: f"{page.console}")
        self.assertEqual(([], []), (page.lines, self.stored()))


class ReadmeTests(SynchronousTestCase):
    """``examples/chat-tutorial/README.rst``, followed word for word but for the ports."""

    def setUp(self) -> None:
        self.ports = {port: free_port() for port in (1025, 8000, 8080)}
        self.example = Example("chat-tutorial", Path(self.mktemp()).resolve(), self.ports, modules=node_modules())
        self.addCleanup(self.example.end)

    def open(self, query: str = "") -> Page:
        """Open the page with the four pages."""
        tab = browser("chromium").open(f"http://127.0.0.1:{self.ports[8000]}/{query}", WATCH, alone=True)
        self.addCleanup(tab.release)
        return Page(tab)

    def shown(self, page: Page) -> list[list[str]]:
        """The messages of each of the four."""
        script = (
            "return Array.from(frames, (frame) => Array.from(frame.document.querySelectorAll('li'), i => i.innerText))"
        )
        return [[line.strip() for line in lines if not line.startswith("connected")] for lines in page.run(script)]

    def write(self, page: Page, number: int, text: str) -> None:
        """Write on one of the four."""
        page.run(
            "const form = frames[arguments[0]].document.getElementById('say');"
            "form.elements.text.value = arguments[1]; form.querySelector('button').click();",
            number,
            text,
        )

    def wait_shown(self, page: Page, *expected: list[str]) -> None:
        """Wait until each of the four shows these messages."""
        wait_until(lambda: self.shown(page) == list(expected), lambda: f"{self.shown(page)} is not {expected}")

    def test_followed(self) -> None:
        """The command starts all. The pages and curl see one room, which is there after a restart; others are apart."""
        process = self.example.start()
        page = self.open()
        page.emulate(1280, 800, "light")
        ready = "return [2, 3].every((n) => /^connected/.test(frames[n].document.getElementById('status').textContent))"
        wait_until(lambda: page.run(ready + " && [0, 1].every((n) => frames[n].document.querySelector('li'))"))
        said = ["<b>One</b>", "two", "three", "four"]
        for number, text in enumerate(said):
            self.write(page, number, text)
            self.wait_shown(page, *[said[: number + 1]] * 4)
        _, first, _, last = map(self.example.type, self.example.commands)
        self.assertEqual("&lt;b&gt;One&lt;/b&gt;", json.loads(first)["data"])
        said += ["Hello from 2013", "Hello from today"]
        self.assertEqual(said, [message["data"]["text"] for message in json.loads(last)["messages"]])
        self.wait_shown(page, *[said] * 4)
        for size in ((1280, 800), (640, 480), (360, 740)):
            page.emulate(*size, "light")
            self.assertEqual([], page.faults)
            self.assertLessEqual(page.run("return document.documentElement.scrollWidth"), size[0])
            page.screenshot(f"chat-tutorial-{size[0]}")
        self.assertIn(self.example.interrupt(process), (0, -signal.SIGINT))
        self.example.start()
        page.reload()
        self.wait_shown(page, said, [], said, said)
        self.wait_shown(self.open("?room=kitchen"), [], [], [], [])

    def test_all_is_told(self) -> None:
        """The README is a screenful, and names each option and each page."""
        readme = self.example.readme
        self.assertLess(len(readme.splitlines()), 60)
        names = [path.name for path in (EXAMPLE / "site").iterdir() if path.suffix in (".html", ".js")]
        for name in (*names, "example.tac", "--legacy-listen", "--allow-origin", "--history"):
            if name != "index.html":
                self.assertIn(name, readme)
