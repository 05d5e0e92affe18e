"""The Socket.IO programs in ``examples/`` in Chromium: pages with the official client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.deadlines import TEST_TIMEOUT
from tests.functional.browsers import NPM_MODULES, Tab, node_environment
from tests.functional.daemon import NO_LIMITS, Daemon, wait_until
from tests.functional.pages import open_tab

PAGE = """<!DOCTYPE html><html lang="en"><title>Page</title><link rel="icon" href="data:,">
<script src="/socket.io/socket.io.js"></script><script src="/realtime.js"></script></html>"""

_CONNECT = """
window.got = [];
window.socket = io(%r, {auth: {token: 'secret'}});
socket.onAny((...all) => got.push(all));
return new Promise((resolve) => socket.on('connect', () => resolve(socket.id)));
"""


class ExamplePageTests(SynchronousTestCase):
    """Each example with its pages."""

    timeout = TEST_TIMEOUT

    def start(self, name: str, store: str = "memory:") -> None:
        """Start the daemon with an example."""
        node_environment()
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "index.html").write_text(PAGE, "utf-8")
        script = NPM_MODULES / "socket.io-client" / "dist" / "socket.io.min.js"
        options = ("--store", store, "--app", f"examples.{name}:app", f"--socket-io-script={script}")
        self.daemon = Daemon(self.mktemp(), *options, "--page", str(folder.resolve()), *NO_LIMITS).start()
        self.addCleanup(self.daemon.kill)

    def open(self, script: str) -> Tab:
        """Open a page, and run a script in it."""
        tab = open_tab(self, self.daemon.url).tab
        tab.run(script)
        return tab

    def wait_got(self, tab: Tab, expected: Any) -> None:
        """Wait until a page has got this, and nothing else."""
        wait_until(lambda: tab.run("return got") == expected, lambda: f"{tab.run('return got')} {tab.console}")

    def test_label(self) -> None:
        """What one page types, the other shows."""
        self.start("label")
        one, two = self.open(_CONNECT % "/label"), self.open(_CONNECT % "/label")
        one.run("socket.emit('client event', 'typed');")
        greeting = ["server event", {"foo": "bar"}]
        self.wait_got(two, [greeting, ["update label", "typed"]])
        self.wait_got(one, [greeting])

    def test_monitoring(self) -> None:
        """The staff see a visitor, and make an offer to this one alone."""
        self.start("monitoring")
        staff, visitor, other = (self.open(_CONNECT % name) for name in ("/adminchannel", "/", "/"))
        seen = {"page": "/shoes", "socketID": visitor.run("return socket.id")}
        visitor.run("socket.emit('pageChange', {page: '/shoes'});")
        self.wait_got(staff, [["alertAdmin", seen]])
        staff.run("return socket.emitWithAck('adminMessage', {socketID: got[0][1].socketID, text: '10 % off'});")
        self.wait_got(visitor, [["adminBroadcast", {"socketID": seen["socketID"], "text": "10 % off"}]])
        self.wait_got(other, [])
