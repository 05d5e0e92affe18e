"""What pages of other origins do with images, frames and forms, against a real daemon; and Chromium does it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.deadlines import DEADLINE
from tests.functional.browsers import Site, browser, serve
from tests.functional.daemon import Daemon, wait_until

OPEN = ("", "index.html", "realtime.js", "healthz", "readyz", "nowhere")
GUARDED = ("poll?room=a&wait=0", "sse?room=a", "commands", "rooms", "rooms/", "rooms/a", "rooms/a/messages")
GUARDED += ("rooms/a/members", "%70oll?room=a&wait=0", "poll/", "poll?room=a&wait=0&callback=f")

IMAGES = """
const addresses = %s;
const element = (name) => (address) => new Promise((done) => {
  const found = document.createElement(name);
  found.onload = found.onerror = done;
  found.src = address + name;
  document.body.append(found);
});
const asked = addresses.flatMap((address) => ['img', 'script', 'iframe'].map((name) => element(name)(address)));
asked.push(...addresses.map((address) => fetch(address + 'fetch', {mode: 'no-cors'}).catch(() => 0)));
await Promise.all(asked);
return asked.length;
"""


def status(daemon: Daemon, path: str, headers: dict[str, str], method: str = "GET") -> tuple[int, str | None]:
    """What a request is answered with: its status, and an error's code."""
    request = urllib.request.Request(daemon.url + path, None, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.status, None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}").get("code")


class ForeignTestCase(SynchronousTestCase):
    """A daemon with some options."""

    options: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.daemon = Daemon(self.mktemp(), *self.options).start()
        self.addCleanup(self.daemon.kill)

    def members(self, room: str) -> list[str]:
        """The names of a room's members."""
        with urllib.request.urlopen(f"{self.daemon.url}rooms/{room}/members", timeout=DEADLINE) as answer:
            return sorted(member["name"] for member in json.load(answer)["members"])


class HeaderTests(ForeignTestCase):
    """By their headers."""

    def test_every_address(self) -> None:
        """Files are for everybody's pages, everything else for those that can say their origin."""
        for site in ("cross-site", "same-site"):
            for path in GUARDED:
                found = status(self.daemon, path, {"Sec-Fetch-Site": site})
                self.assertEqual((path, (403, "bad_origin")), (path, found))
            for path in OPEN:
                found = status(self.daemon, path, {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"})
                self.assertEqual((path, 404 if path == "nowhere" else 200), (path, found[0]))
            post = status(self.daemon, "commands", {"Sec-Fetch-Site": site}, "POST")
            self.assertEqual((403, "bad_origin"), post)

    def test_own(self) -> None:
        """The site's own pages, and people who type the address, are let in."""
        for site in ("same-origin", "none"):
            for path in ("poll?room=a&wait=0", "rooms", "rooms/a/members", "sse?room=a"):
                self.assertEqual((200, None), status(self.daemon, path, {"Sec-Fetch-Site": site}))

    def test_unreadable(self) -> None:
        """What no script can read makes nobody a member, on every transport that makes members, client or not."""
        with urllib.request.urlopen(f"{self.daemon.url}poll?room=other&wait=0", timeout=DEADLINE) as answer:
            client = json.load(answer)["client"]
        unreadable: list[dict[str, str]] = [
            {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
            {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
            {"Accept": "image/avif,image/webp,*/*"},
        ]
        for headers in unreadable:
            for query in ("", f"&client={client}"):
                for path in ("poll?wait=0&", "sse?"):
                    address = f"{path}room=quiet&name=Mallory{query}"
                    self.assertEqual((200, None), status(self.daemon, address, headers))
        self.assertEqual([], self.members("quiet"))
        self.assertEqual(200, status(self.daemon, "poll?wait=0&room=quiet&name=Bob", {"Sec-Fetch-Dest": "empty"})[0])
        self.assertEqual(["Bob"], self.members("quiet"))


class ScriptTests(ForeignTestCase):
    """Where JSONP is on."""

    options = ("--allow-jsonp",)

    def test_scripts(self) -> None:
        """A foreign page gets in by a script element that names its callback, and by nothing else."""
        site = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
        script, image = site | {"Sec-Fetch-Dest": "script"}, site | {"Sec-Fetch-Dest": "image"}
        poll = "poll?wait=0&room=a&name="
        self.assertEqual((200, None), status(self.daemon, f"{poll}Image&callback=f", image))
        self.assertEqual((403, "bad_origin"), status(self.daemon, f"{poll}Plain", script))
        self.assertEqual((403, "bad_origin"), status(self.daemon, "rooms/a/messages?callback=f", script))
        self.assertEqual((403, "bad_origin"), status(self.daemon, "sse?room=a&callback=f", script))
        self.assertEqual([], self.members("a"))
        self.assertEqual((200, None), status(self.daemon, f"{poll}Script&callback=f", script))
        self.assertEqual(["Script"], self.members("a"))
        self.assertEqual((200, None), status(self.daemon, "commands?client=x&commands=1&callback=f", script))


class ChromiumTests(ForeignTestCase):
    """As a browser does it."""

    def site(self) -> Site:
        """Somebody else's site."""
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "blank.html").write_text('<!doctype html><link rel="icon" href="data:,"><title>A page</title>')
        started = serve(directory)
        self.addCleanup(started.end)
        return started

    def ask(self, url: str) -> None:
        """Ask for the room in all ways that need no origin, from a page."""
        tab = browser("chromium").open(url)
        self.addCleanup(tab.close)
        base = self.daemon.url
        asked: Any = tab.run(
            IMAGES % json.dumps([f"{base}poll?wait=1&room=quiet&name=", f"{base}sse?room=quiet&name="])
        )
        self.assertEqual(8, asked)

    def test_members(self) -> None:
        """No image, script, frame, or fetch without an origin makes a member: not from another site, not from a
        sibling's port; a script of the daemon's own page can."""
        other = self.site().origin
        for url in (other.replace("127.0.0.1", "localhost"), other):
            self.ask(f"{url}/blank.html")
            self.assertEqual([], self.members("quiet"))
        tab = browser("chromium").open(f"{self.daemon.url}realtime.js")
        self.addCleanup(tab.close)
        tab.run("await fetch('poll?wait=0&room=quiet&name=Bob')")
        wait_until(lambda: self.members("quiet") == ["Bob"])
