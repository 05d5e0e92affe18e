"""The chat page in Chromium or Firefox, driven by puppeteer: each page has storage of its own, as another person's."""

from __future__ import annotations

import json
import os
from functools import cache
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.browsers import NPM_MODULES, Tab, browser, node_environment
from tests.functional.daemon import Daemon, wait_until

__all__ = ["DEAF_AT_FIRST", "WITHOUT_WEBSOCKET", "Page", "PageTestCase", "open_tab"]

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

WATCH = """
window.trouble = [];
document.addEventListener('securitypolicyviolation', function (event) {
  window.trouble.push('CSP: ' + event.violatedDirective + ' ' + event.blockedURI);
});
window.alert = window.confirm = window.prompt = function (text) { window.trouble.push('alert: ' + text); };
"""

WITHOUT_WEBSOCKET = "delete window.WebSocket; delete window.EventSource;"
"""Makes a legacy browser."""

DEAF_AT_FIRST = """
(function (Real) {
  var deaf = {send: function () {}, close: function () {}};
  window.WebSocket = function (url) {
    window.WebSocket = Real;
    return deaf;
  };
}(window.WebSocket));
"""
"""Makes a network in which the first WebSocket neither opens nor fails."""

_FILL = """
var field = document.getElementById(arguments[0]);
field.value = arguments[1];
field.focus();
"""

_READ_MESSAGES = """
return Array.prototype.map.call(document.querySelectorAll('#message-pane .log .message'), function (item) {
  return {
    name: item.querySelector('.name').textContent,
    text: item.querySelector('.text').textContent,
    own: (' ' + item.className + ' ').indexOf(' own ') > 0
  };
});
"""


@cache
def _axe() -> str:
    node_environment()
    return (NPM_MODULES / "axe-core" / "axe.min.js").read_text("utf-8")


class Page:
    """The page in a tab of its own."""

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

    @property
    def state(self) -> str:
        """The connection's state, in the page's words."""
        return self.read("status-text")

    def wait_connected(self, transport: str = "") -> None:
        """Wait until the page says that it is connected, by this transport."""
        wanted = f"Connected by {transport}"
        wait_until(lambda: wanted in self.state, lambda: f"not {wanted}, but {self.state}\n" + "\n".join(self.console))

    def wait_disconnected(self) -> None:
        """Wait until the page says that it isn't connected."""
        wait_until(lambda: "Connected" not in self.state, lambda: "the page believes that it is connected")

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All messages that are shown, each with its name, its text, and whether it is marked as own."""
        return self.run(_READ_MESSAGES)

    @property
    def texts(self) -> list[str]:
        """The texts of all messages that are shown."""
        return [message["text"] for message in self.messages]

    @property
    def pending(self) -> list[str]:
        """The messages that are shown as being on their way, each with its state."""
        return self._texts_of("#message-pane .outbox > .message")

    @property
    def notices(self) -> list[str]:
        """What the page itself says among the messages."""
        return self._texts_of("#message-pane .notice")

    @property
    def problem(self) -> str:
        """What the page says that is wrong."""
        return self.read("problem-text")

    def _texts_of(self, selector: str) -> list[str]:
        script = "return Array.prototype.map.call(document.querySelectorAll(arguments[0]), n => n.textContent)"
        return self.run(script, selector)

    def wait_for(self, text: str) -> None:
        """Wait until a message is shown."""
        wait_until(lambda: text in self.texts, lambda: f"{text!r} is not among {self.texts}")

    def type(self, text: str) -> None:
        """Type a message, and press Enter."""
        self._enter("message-text", text)

    def _enter(self, field: str, text: str) -> None:
        self.run(_FILL, field, text)
        self.press("Enter")

    def read(self, id: str) -> str:
        """The text of an element, whether it is in sight or not."""
        return str(self.run("return document.getElementById(arguments[0]).textContent", id))

    def click(self, id: str) -> None:
        """Click on an element."""
        self.run("document.getElementById(arguments[0]).click()", id)

    @property
    def title(self) -> str:
        """What the window is called."""
        return str(self.run("return document.title"))

    @property
    def focused(self) -> str:
        """The id of the element that has the focus, or else its tag and text."""
        return str(
            self.run("var it = document.activeElement; return it.id || it.tagName + ' ' + it.textContent.trim()")
        )

    def rename(self, name: str) -> None:
        """Type another nickname, press Enter, and wait until it is used."""
        self.rename_only(name)
        self.wait_connected()

    def rename_only(self, name: str) -> None:
        """Type another nickname, and press Enter."""
        self._enter("own-name", name)

    def go_to(self, room: str) -> None:
        """Type another room, and press Enter."""
        self._enter("room-name", room)

    @property
    def trouble(self) -> list[str]:
        """All reports of the content security policy, and all alerts."""
        return self.run("return window.trouble")

    def screenshot(self, name: str) -> None:
        """Save what is shown, for people to look at, where SCREENSHOTS names a directory for it."""
        directory = os.environ.get("SCREENSHOTS")
        if directory:
            os.makedirs(directory, exist_ok=True)
            self.save(os.path.join(directory, f"{name}.png"))


def open_tab(case: SynchronousTestCase, url: str, before: str = "", kind: str = "chromium") -> Page:
    """Open an address in a tab with storage of its own, which goes when the test is over.

    :param before: a script that is run before those of the page.
    :param kind: the browser.
    """
    tab = browser(kind).open(url, WATCH + before, alone=True)
    case.addCleanup(tab.release)
    return Page(tab)


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

    def open(self, query: str = "", name: str = "", before: str = "") -> Page:
        """Open the page, under a name if one is given, and wait until it is connected."""
        page = self.open_only(query, name, before)
        page.wait_connected()
        return page

    def open_only(self, query: str = "", name: str = "", before: str = "") -> Page:
        """Open the page, and don't wait."""
        named = f"window.localStorage.setItem('realtime-name', {json.dumps(name)});" if name else ""
        page = open_tab(self, self.daemon.url + query, named + before, self.kind)
        page.emulate(*SIZES["desktop"], "light")
        return page

    def assert_quiet(self, *pages: Page) -> None:
        """No page has reported anything."""
        for page in pages:
            self.assertEqual([], page.trouble)
            self.assertEqual([], page.console)
