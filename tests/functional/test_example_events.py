"""``examples/events``, as its README says: pages, tabs and iframes of other origins, in Chromium."""

from __future__ import annotations

import json
from pathlib import Path

from tests.functional.browsers import serve
from tests.functional.daemon import wait_until
from tests.functional.example import Example, ExampleTestCase
from tests.functional.pages import WITHOUT_WEBSOCKET, Page

_HEARD = "return Array.from(document.querySelectorAll('#heard li'), (item) => item.textContent.replace(/ 20.*/, ''))"
_BACKGROUND = '<!DOCTYPE html><title>A stranger</title><link rel="icon" href="data:,">'
_COLLECT = "window.got = []; window.onmessage = (message) => got.push(message.data);"
_EVENT = "{events: {id: 'x1', name: 'hello', data: 'a stranger'}}"
_ADD_FRAME = """
window.origins = [];
window.addEventListener('message', ({origin}) => origins.push(origin));
const frame = document.createElement('iframe');
frame.src = '%s/';
await new Promise((done) => { frame.onload = done; document.body.append(frame); });
"""
_WATCH_LINK = "addEventListener('message', function () { window.isLinked = true; });"
PAGE, WIDGET = 0, 1


class EventsTests(ExampleTestCase):
    """``examples/events``."""

    name = "events"
    written = (8000, 8001, 8080)

    def pages(self, example: Example, *before: str) -> list[Page]:
        """Open the page several times, and wait until all are in the room, and linked with their widgets.

        :param before: a script for each that is run before those of the page.
        """
        url = f"http://127.0.0.1:{example.ports[8000]}/"
        pages = [self.open(url, _WATCH_LINK + script) for script in before]
        members = f"curl http://127.0.0.1:{example.ports[8080]}/rooms/events/members"
        wait_until(lambda: json.loads(example.type(members))["count"] == len(pages))
        for page in pages:
            wait_until(lambda page=page: page.tab.run("return window.isLinked", WIDGET))
        return pages

    def heard(self, page: Page, frame: int) -> list[str]:
        """What a page or its widget has heard, without times."""
        return list(page.tab.run(_HEARD, frame))

    def wait_heard(self, page: Page, frame: int, *expected: str, since: int) -> None:
        """Wait until a page or its widget has heard this.

        :param since: how much of what it heard before is left out; -1 for all but the last.
        """

        def found() -> list[str]:
            return self.heard(page, frame)[since if since >= 0 else -len(expected) :]

        wait_until(lambda: found() == [*expected], lambda: f"{found()} {page.console}, not {expected}")

    def press(self, page: Page, frame: int, button: str) -> None:
        """Press one of the buttons."""
        page.tab.run(f"document.getElementById('{button}').click()", frame)

    def all_hear(self, pages: list[Page], *expected: str) -> None:
        """Wait until all pages and their widgets have heard this last."""
        for page in pages:
            for frame in (PAGE, WIDGET):
                self.wait_heard(page, frame, *expected, since=-1)

    def meet(self, pages: list[Page]) -> None:
        """Let each page say hello, and all hear it once."""
        for page in pages:
            counts = [len(self.heard(other, frame)) for other in pages for frame in (PAGE, WIDGET)]
            self.press(page, PAGE, "hello")
            self.all_hear(pages, "Hello from the page")
            self.press(page, WIDGET, "hello")
            self.all_hear(pages, "Hello from the page", "Hello from the widget")
            now = [len(self.heard(other, frame)) for other in pages for frame in (PAGE, WIDGET)]
            self.assertEqual([count + 2 for count in counts], now)

    def follow(self, before: str) -> None:
        """Follow the README.

        :param before: a script that is run before those of the second page.
        """
        example = self.example()
        process = example.start()
        one, two = pages = self.pages(example, "", before)
        self.meet(pages)
        self.press(one, PAGE, "login")
        self.all_hear(pages, "Logged in: Ann")
        self.press(two, PAGE, "late")
        self.wait_heard(two, PAGE, "Logged in: Ann", "Bound late: Ann", since=-1)
        self.look(one)
        third = self.open(f"http://127.0.0.1:{example.ports[8000]}/", before)
        self.all_hear([third], "Logged in: Ann")
        self.assertEqual(["Logged in: Ann"], self.heard(third, PAGE))
        read, write = example.commands
        self.assertIn("Ann", json.dumps(json.loads(example.type(read))))
        example.type(write)
        self.all_hear([one, third], "Logged in: Bob")
        example.kill(process)
        self.press(one, PAGE, "hello")
        example.start()
        self.all_hear([one, two, third], "Hello from the page")
        fourth = self.open(f"http://127.0.0.1:{example.ports[8000]}/", before)
        self.all_hear([fourth], "Logged in: Bob")

    def test_followed(self) -> None:
        """All hear each event once, in widgets as well. Who binds late, comes late, or comes after a kill and a restart
        hears the persistent one."""
        self.follow("")

    def test_poll(self) -> None:
        """So do browsers that can only poll."""
        self.follow(WITHOUT_WEBSOCKET)

    def test_early(self) -> None:
        """What was pushed before the script was there is run in order, and what is pushed later at once."""
        example = self.example()
        example.start()
        early = "var ready = [(events) => { events.persistent('user.login', {name: 'Early'}); }];"
        (page,) = self.pages(example, f"if (self === top) {{ {early} }}")
        self.assertEqual("Logged in: Early", self.heard(page, PAGE)[0])
        wait_until(lambda: "Logged in: Early" in self.heard(page, WIDGET))
        self.assertEqual(7, page.run("let seen = 0; ready.push(() => { seen = 7; }); return seen;"))

    def test_strangers(self) -> None:
        """Pages of other origins hear nothing, and what they say isn't heard: around the widget, and in the page."""
        example = self.example()
        example.start()
        folder = Path(self.mktemp())
        folder.mkdir()
        widget = f'<iframe src="http://127.0.0.1:{example.ports[8001]}/" title="The widget"></iframe>'
        (folder / "index.html").write_text(f"{_BACKGROUND}<script>{_COLLECT}</script>{widget}")
        stranger = serve(folder)
        self.addCleanup(stranger.end)
        (page,), thief = self.pages(example, ""), self.open(f"{stranger.origin}/")
        self.press(page, PAGE, "login")
        self.all_hear([page], "Logged in: Ann")
        thief.tab.run(f"frames[0].postMessage({_EVENT}, '*')")
        page.tab.run(_ADD_FRAME % stranger.origin)
        frame = wait_until(lambda: next((number for number in (1, 2) if self.is_stranger(page, number)), None))
        for words in ("{events: 'hello'}", _EVENT):
            page.tab.run(f"parent.postMessage({words}, '*')", frame)
        wait_until(lambda: page.run("return origins").count(stranger.origin) == 2)
        self.press(page, PAGE, "hello")
        self.wait_heard(page, PAGE, "Logged in: Ann", "Hello from the page", since=-1)
        self.assertEqual([[], []], [page.tab.run("return got", frame), thief.run("return got")])
        self.assertNotIn("Hello from a stranger", thief.tab.run(_HEARD, 1))

    def is_stranger(self, page: Page, frame: int) -> bool:
        """Whether a frame of a page is the stranger's, and loaded."""
        return bool(page.tab.run("return document.title", frame) == "A stranger")

    def test_readme(self) -> None:
        """The README is short, and says what each file is."""
        self.check_readme("site/index.html", "widget/index.html", "ready = ready || []")
