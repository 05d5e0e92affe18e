"""More tabs than a browser has connections: over HTTP/1.1 it has six to a host, for all of its tabs."""

from __future__ import annotations

import json
import urllib.request

from tests.functional.browsers import Tab
from tests.functional.daemon import wait_until
from tests.functional.test_realtime_js import BrowserTestCase, daemon

_CONNECTIONS = 6
_TABS = _CONNECTIONS + 1
_SECONDS = 2
_NO_WEBSOCKETS = "delete window.WebSocket;"
_POLLS_ALONE = _NO_WEBSOCKETS + "delete window.EventSource;"

_JOIN = """
window.rt = Realtime.connect();
window.room = rt.room(%s);
window.got = [];
window.late = [];
window.wrong = [];
room.on('message', (data, message) => {
  got.push(data.text);
  const took = Date.now() - (data.at || message.at);
  if (took > %d) {
    late.push([data.text, took]);
  }
});
['$reset', '$failed'].forEach((name) => room.on(name, (what) => wrong.push([name, what])));
"""

_PUBLISH = """
const begun = Date.now();
await room.publish({text: %s, at: begun});
return Date.now() - begun;
"""


class ManyTabsTests(BrowserTestCase):
    """Seven tabs of one browser, in Chromium; subclassed for Firefox."""

    def check(self, before: str, transport: str) -> None:
        """Each publishes, and each sees what any of them says, in two seconds; all see all, once and in one order."""
        room = f"tabs-{self.kind}-{transport}"
        self.tabs = []
        for _ in range(_TABS):
            tab = self.open(before=before)
            tab.run(_JOIN % (json.dumps(room), _SECONDS * 1000))
            self.tabs.append(tab)
            self.wait_for(tab, "room.joined")
        *first, last = [tab.run("return rt.transport") for tab in self.tabs]
        self.assertEqual([transport] * _CONNECTIONS, first)
        self.assertIn(last, (transport, "poll"), "if the others give it no connection in a second, it polls")
        said = []
        for number, tab in enumerate(self.tabs):
            said.append(f"tab {number}")
            took = tab.run(_PUBLISH % json.dumps(said[-1]))
            self.assertLess(took, _SECONDS * 1000, said[-1])
        body = json.dumps({"data": {"text": "elsewhere"}}).encode()
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{daemon().url}rooms/{room}/messages", body, headers)).close()
        said.append("elsewhere")
        for tab in self.tabs:
            self.wait_for(tab, f"got.length >= {len(said)}")
            self.assertEqual((said, [], []), tuple(tab.run("return [got, late, wrong]")))

    def wait_for(self, tab: Tab, condition: str) -> None:
        """Wait until something is true in a page."""
        state = "[rt.state, rt.transport, got]"
        wait_until(lambda: tab.run(f"return {condition}"), lambda: str(tab.run(f"return {state}")))

    def test_streams(self) -> None:
        """On event streams."""
        self.check(_NO_WEBSOCKETS, "sse")

    def test_polls(self) -> None:
        """On long polls."""
        self.check(_POLLS_ALONE, "poll")


class FirefoxManyTabsTests(ManyTabsTests):
    """The same in Firefox."""

    kind = "firefox"
