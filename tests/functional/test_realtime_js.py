"""``realtime.js`` in real Chromium and real Firefox, against a real daemon."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from tests.functional.browsers import Site, Tab, browser, serve
from tests.functional.daemon import Daemon

TRANSPORTS = ("websocket", "sse", "poll", "jsonp")

_SUITE = Path(__file__).with_name("suite.js").read_text("utf-8")
_BLANK = '<!doctype html><link rel="icon" href="data:,"><title>A page</title>'


@cache
def _directory() -> Path:
    """A directory that goes when the tests are over."""
    directory = Path(tempfile.mkdtemp(prefix="realtime-js-"))
    reactor.addSystemEventTrigger("after", "shutdown", shutil.rmtree, directory, True)
    return directory


@cache
def site() -> Site:
    """Somebody else's site, for all tests."""
    directory = _directory() / "site"
    directory.mkdir()
    (directory / "blank.html").write_text(_BLANK)
    started = serve(directory)
    reactor.addSystemEventTrigger("after", "shutdown", started.end)
    return started


@cache
def daemon() -> Daemon:
    """A daemon that pages of that site may use, for all tests; it keeps few messages."""
    options = ("--history", "50", "--allow-jsonp", "--allow-origin", site().origin)
    started = Daemon(_directory() / "daemon", *options).start()
    reactor.addSystemEventTrigger("after", "shutdown", started.kill)
    return started


class BrowserTestCase(SynchronousTestCase):
    """Tests of pages in a browser."""

    kind = "chromium"

    def open(self, base: str | None = None, before: str = "", url: str | None = None) -> Tab:
        """A page of somebody else's site, with the library of the daemon at ``base``."""
        tab = browser(self.kind).open(url or f"{site().origin}/blank.html", before)
        self.addCleanup(tab.close)
        tab.run(_load((base or daemon().url) + "realtime.js"))
        return tab

    def run_suite(self, tab: Tab, transports: Any, url: str = "", switching: bool = False) -> None:
        """Run the suite in a page, and say what was wrong."""
        tab.run(f"(0, eval)({json.dumps(_SUITE)})")
        options = json.dumps({"url": url, "transports": transports, "switching": switching})
        wrong = tab.run(f"return window.runSuite({options})")
        self.assertEqual([], wrong, "\n".join(wrong))


def _load(url: str) -> str:
    return f"""
      const element = document.createElement('script');
      element.src = {json.dumps(url)};
      const done = new ((async () => {{}})().constructor)((resolve, reject) => {{
        element.onload = resolve;
        element.onerror = reject;
      }});
      document.head.append(element);
      await done;
    """


class SuiteTests(BrowserTestCase):
    """The same promises on every transport, in Chromium; subclassed for Firefox."""

    def check(self, *transports: str, switching: bool = False) -> None:
        """Run the suite over these transports, without a word on the console."""
        tab = self.open()
        self.run_suite(tab, transports, switching=switching)
        self.assertEqual([], tab.console)

    def test_websocket(self) -> None:
        """The suite passes over WebSocket."""
        self.check("websocket")

    def test_sse(self) -> None:
        """The suite passes over server-sent events and commands."""
        self.check("sse")

    def test_poll(self) -> None:
        """The suite passes over long polls of another origin."""
        self.check("poll")

    def test_jsonp(self) -> None:
        """The suite passes over script elements, both ways."""
        self.check("jsonp")

    def test_switching(self) -> None:
        """The suite passes when both ends move over to another transport between every two messages."""
        self.check(*TRANSPORTS, switching=True)


class FirefoxSuiteTests(SuiteTests):
    """The same promises on every transport, in Firefox."""

    kind = "firefox"
