"""The chat page in Chromium or Firefox, driven by puppeteer: each page has storage of its own, as another person's."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.browser import WATCH, Page
from tests.functional.browsers import NPM_MODULES, Tab, browser, node_environment
from tests.functional.daemon import Daemon

__all__ = ["PageTestCase", "TabPage"]

SIZES = {"phone": (360, 740), "desktop": (1280, 800)}

# Firefox has no command for it by this way; so the page is told that it is dark by its own style sheet.
_SCHEME = """
Array.prototype.forEach.call(document.styleSheets, function walk(sheet) {
  Array.prototype.forEach.call(sheet.cssRules, function (rule) {
    if (rule.media && /prefers-color-scheme|^(not )?all$/.test(rule.media.mediaText)) {
      rule.media.mediaText = arguments_[0] === 'dark' ? 'all' : 'not all';
    } else if (rule.cssRules) {
      walk(rule);
    }
  });
});
"""


@cache
def _axe() -> str:
    node_environment()
    return (NPM_MODULES / "axe-core" / "axe.min.js").read_text("utf-8")


class TabPage(Page):
    """The page in a tab."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page, and give its answer."""
        return self.tab.run(f"return (function () {{ {script} }}).apply(null, {json.dumps(arguments)});")

    def press(self, keys: str) -> None:
        """Press a key, perhaps with Shift: ``Tab``, ``Shift+Enter``."""
        self.tab.press(keys)

    def write(self, text: str) -> None:
        """Type text, key by key, where the focus is."""
        self.tab.write(text)

    def reload(self) -> None:
        """Load the page anew."""
        self.tab.reload()

    def save(self, path: str) -> None:
        """Save what is shown."""
        self.tab.save(path)

    def emulate(self, width: int, height: int, scheme: str) -> None:
        """Give the page another size and colour scheme."""
        self.tab.size(width, height)
        if self.tab.browser.kind == "chromium":
            feature = {"name": "prefers-color-scheme", "value": scheme}
            self.tab.command("Emulation.setEmulatedMedia", features=[feature])
        else:
            self.run(_SCHEME.replace("arguments_[0]", json.dumps(scheme)))

    @property
    def console(self) -> list[str]:
        """All warnings and errors of the browser's console so far."""
        return self.tab.console

    @property
    def faults(self) -> list[str]:
        """What axe-core finds of serious and critical faults, each with the first element that has it."""
        script = f"""
          if (!window.axe) {{ (0, eval)({json.dumps(_axe())}); }}
          var found = await window.axe.run(document, {{resultTypes: ['violations']}});
          return found.violations.filter(fault => /serious|critical/.test(fault.impact))
            .map(fault => fault.id + ' ' + fault.nodes.map(node => node.html).slice(0, 3).join(' '));
        """
        return self.tab.run(script)


class PageTestCase(SynchronousTestCase):
    """Tests of the page in a browser, against a daemon of their own.

    :cvar kind: the browser.
    :cvar options: the daemon's.
    """

    kind = "chromium"
    options: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.daemon = Daemon(self.mktemp(), *self.options).start()
        self.addCleanup(self.daemon.kill)

    def open(self, query: str = "", name: str = "", before: str = "") -> TabPage:
        """Open the page, under a name if one is given, and wait until it is connected."""
        page = self.open_only(query, name, before)
        page.wait_connected()
        return page

    def open_only(self, query: str = "", name: str = "", before: str = "") -> TabPage:
        """Open the page, and don't wait."""
        named = f"window.localStorage.setItem('realtime-name', {json.dumps(name)});" if name else ""
        tab = browser(self.kind).open(self.daemon.url + query, WATCH + named + before, alone=True)
        self.addCleanup(tab.close)
        page = TabPage(tab)
        page.emulate(*SIZES["desktop"], "light")
        return page

    def assert_quiet(self, *pages: TabPage) -> None:
        """No page has reported anything."""
        for page in pages:
            self.assertEqual([], page.trouble)
            self.assertEqual([], page.console)
