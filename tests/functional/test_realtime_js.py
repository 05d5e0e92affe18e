"""``realtime.js`` in real Chromium and real Firefox, against a real daemon.

With ``SOAK=1`` in the environment the page that is frozen is so for a minute instead of sixteen seconds.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
import textwrap
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.deadlines import DEADLINE
from tests.functional.browsers import Site, Tab, browser, serve
from tests.functional.daemon import SOAK, Daemon, wait_until, with_limits
from tests.functional.proxies import Proxy, documented, haproxy, nginx

TRANSPORTS = ("websocket", "sse", "poll", "jsonp")
PING, PONG = (25, 7) if SOAK else (5, 3)

_SUITE = Path(__file__).with_name("suite.js").read_text("utf-8")
_BLANK = '<!doctype html><link rel="icon" href="data:,"><title>A page</title>'


@cache
def _directory() -> Path:
    """A directory that goes when the tests are over."""
    directory = Path(tempfile.mkdtemp(prefix="realtime-js-"))
    atexit.register(shutil.rmtree, directory, True)
    return directory


@cache
def site() -> Site:
    """Somebody else's site, for all tests."""
    directory = _directory() / "site"
    directory.mkdir()
    (directory / "blank.html").write_text(_BLANK)
    started = serve(directory)
    atexit.register(started.end)
    return started


@cache
def daemon(**limits: float) -> Daemon:
    """A daemon that pages of that site may use, for all tests; it keeps few messages."""
    options = ("--history", "100", "--allow-jsonp", "--allow-origin", site().origin)
    directory = _directory() / "-".join(("daemon", *limits))
    started = Daemon(directory, *options, program=with_limits(**limits)).start()
    atexit.register(started.kill)
    return started


def url_for(*transports: str) -> str:
    """The URL of a daemon for these transports.

    A script that a page aborts keeps its connection until the daemon answers, and a browser has few of them. So, but
    with ``SOAK=1``, polls end after one second where scripts are all that there is. Pages ask for four.
    """
    return daemon(**({"max_wait": 1.0} if transports == ("jsonp",) and not SOAK else {})).url


class BrowserTestCase(SynchronousTestCase):
    """Tests of pages in a browser."""

    kind = "chromium"

    def open(self, base: str | None = None, before: str = "", url: str | None = None) -> Tab:
        """A page of somebody else's site, with the library of the daemon at ``base``."""
        tab = browser(self.kind).open(url or f"{site().origin}/blank.html", before)
        self.addCleanup(tab.close)
        tab.run(load_script((base or daemon().url) + "realtime.js"))
        return tab

    def run_suite(self, tab: Tab, transports: Any, url: str = "", switching: bool = False) -> None:
        """Run the suite in a page, and say what was wrong."""
        tab.run(f"(0, eval)({json.dumps(_SUITE)})")
        options = json.dumps({"url": url, "transports": transports, "switching": switching, "deadline": DEADLINE})
        wrong = tab.run(f"return window.runSuite({options})")
        self.assertEqual([], wrong, "\n".join(wrong))


def _unexpected(tab: Tab) -> list[str]:
    """What the console has, besides a browser's word on the message that is too large and was meant to be."""
    return [line for line in tab.console if "413" not in line]


def load_script(url: str) -> str:
    """A script that loads another one."""
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
        tab = self.open(url_for(*transports))
        self.run_suite(tab, transports, switching=switching)
        self.assertEqual([], _unexpected(tab))

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


_LEGACY = """
['WebSocket', 'fetch', 'Promise', 'EventSource', 'Map', 'Set', 'WeakMap', 'Symbol', 'URL', 'Uint32Array'].forEach(
  function (name) { delete window[name]; });
delete Element.prototype.classList;
delete Document.prototype.currentScript;
delete Navigator.prototype.sendBeacon;
"""
"""Makes a browser of fifteen years ago."""

_WITHOUT_CORS = """
(function (Real) {
  window.XMLHttpRequest = function () {
    this.open = function (method, url) { throw new Error('Access is denied: ' + url); };
  };
}(window.XMLHttpRequest));
"""
"""Takes away requests to other origins, as in Internet Explorer 9."""

_DEAF = """
window.WebSocket = function () { this.readyState = 0; };
window.WebSocket.prototype.send = window.WebSocket.prototype.close = function () {};
"""
"""Makes a network that swallows upgrades."""


class OldBrowserTests(BrowserTestCase):
    """Browsers that lack things, at a page of another origin, with nothing said of transports."""

    def check(self, before: str, transport: str) -> None:
        """The suite passes, over that transport alone, and the console has nothing to say."""
        tab = self.open(url_for(transport), before)
        self.run_suite(tab, None)
        self.assertEqual([transport], tab.run("return window.used"))
        self.assertEqual([], _unexpected(tab))

    def test_poll(self) -> None:
        """Without WebSocket, fetch, Promise, EventSource and all that is newer, everything works over XHR polling."""
        self.check(_LEGACY, "poll")

    def test_jsonp(self) -> None:
        """Without requests to other origins, too, everything works over JSONP."""
        self.check(_LEGACY + _WITHOUT_CORS, "jsonp")


class FirefoxOldBrowserTests(OldBrowserTests):
    """The same in Firefox."""

    kind = "firefox"


_CONNECT = """
const rt = window.rt = Realtime.connect(%s), room = window.room = rt.room(%s);
const got = window.got = []; // its own: an earlier connection of this page may still hear something
room.on('message', (data) => got.push(data));
room.publish(%s);
let turns = 0;
while (!got.length && turns < 750) {
  await new Promise((resolve) => setTimeout(resolve, 20));
  turns += 1;
}
return [rt.transport, turns * 20];
"""


class NetworkTests(BrowserTestCase):
    """Networks and proxies that get in the way."""

    def connect(self, tab: Tab, options: str = "{}", room: str = "lobby") -> tuple[str, float]:
        """Connect, publish, and receive that; give the transport and how long it took.

        It took so many seconds of the page's timers. So a busy machine, whose pages all wait, makes it no longer.
        """
        transport, took = tab.run(_CONNECT % (f"'', {options}", json.dumps(room), json.dumps("hi")))
        return transport, took / 1000

    def behind(self, start: Callable[[Path, int, str], Proxy], snippet: str) -> Tab:
        """A page behind a proxy."""
        proxy = start(Path(self.mktemp()).resolve(), daemon().port, snippet)
        self.addCleanup(proxy.end)
        base = f"http://127.0.0.1:{proxy.port}/chat/"
        return self.open(base, url=f"{base}healthz")

    def check(self, tab: Tab, transport: str) -> None:
        """Connected and receiving within 5 seconds; and the next page of the tab at once, as it knows what worked."""
        found, took = self.connect(tab)
        self.assertEqual(transport, found)
        self.assertLess(took, 5)

    def test_nginx(self) -> None:
        """nginx as it is documented, with its usual buffering: WebSocket, and event streams as well."""
        tab = self.behind(nginx, documented("nginx"))
        self.check(tab, "websocket")
        self.assertEqual([], tab.console)
        self.assertEqual("sse", self.connect(tab, "{transports: ['sse']}", "other")[0])

    def test_address(self) -> None:
        """The daemon's address may be relative to the page's, and need not end in a slash."""
        tab = self.behind(nginx, documented("nginx"))
        for url in ("/chat", "../chat/?a=b#c", "healthz/.."):
            script = _CONNECT % (json.dumps(url), json.dumps(f"room-{len(url)}"), "1")
            self.assertEqual("websocket", tab.run(script)[0])

    def test_haproxy(self) -> None:
        """haproxy as it is documented: the same."""
        tab = self.behind(haproxy, documented("text"))
        self.check(tab, "websocket")
        self.assertEqual([], tab.console)
        self.assertEqual("sse", self.connect(tab, "{transports: ['sse']}", "other")[0])

    def test_nginx_with_short_lines(self) -> None:
        """Where lines may have no more than 2 KiB, more rooms than go into one are read by several requests."""
        short = _BARE.replace("location", "large_client_header_buffers 4 2k;\n    location")
        for kind in ("sse", "poll"):
            tab = self.behind(nginx, short)
            joined, states = tab.run(_MANY % json.dumps(kind))
            self.assertEqual((20, ["connecting", "connected"]), (joined, states))

    def test_slow_line(self) -> None:
        """A first poll whose answer takes twelve seconds to come is neither given up nor asked again."""
        for number in range(8):
            body = json.dumps({"data": f"{number}" * 60_000}).encode()
            request = urllib.request.Request(
                f"{daemon().url}rooms/slow/messages", body, {"Content-Type": "application/json"}
            )
            urllib.request.urlopen(request, timeout=DEADLINE).close()
        slow = "limit_rate 40k;\n    proxy_max_temp_file_size 0;\n    location"
        got, states, took = self.behind(nginx, _BARE.replace("location", slow)).run(_SLOW)
        self.assertEqual((list("01234567"), ["connecting", "connected"]), (got, states))
        self.assertGreater(took, 10)

    def test_nginx_without_upgrades(self) -> None:
        """nginx as it is out of the box refuses upgrades: event streams."""
        self.check(self.behind(nginx, _BARE), "sse")

    def test_nginx_that_buffers(self) -> None:
        """Where event streams are buffered, too, and come only when there is enough: polls."""
        ignoring = "proxy_ignore_headers X-Accel-Buffering;"
        self.check(self.behind(nginx, _BARE.replace("proxy_set", f"{ignoring} proxy_set")), "poll")

    def test_upgrades_swallowed(self) -> None:
        """Where a WebSocket neither opens nor fails, something else is used within 3 seconds."""
        transport, took = self.connect(self.open(before=_DEAF))
        self.assertEqual("sse", transport)
        self.assertLess(took, 3)

    def test_remembered(self) -> None:
        """What worked is tried first by the next page; and what is better is tried again, and used, when it works."""
        tab = self.open(before=_DEAF)
        self.connect(tab)
        tab.goto(f"{site().origin}/blank.html")
        tab.run(load_script(daemon().url + "realtime.js"))
        transport, took = self.connect(tab)
        self.assertEqual("sse", transport)
        self.assertLess(took, 1)


_MANY = """
const rt = Realtime.connect('', {transports: [%s], storage: false}), states = [], begun = Date.now();
rt.on('$state', (state) => states.push(state.state));
const rooms = Array.from({length: 20}, (_, number) => rt.room(number + 'x'.repeat(120)));
let got = 0;
rooms.forEach((room) => {
  room.on('message', () => { got += 1; });
  room.publish(1);
});
while (got < rooms.length && Date.now() - begun < 20000) {
  await new Promise((resolve) => setTimeout(resolve, 20));
}
return [rooms.filter((room) => room.joined).length, states];
"""

_SLOW = """
const rt = Realtime.connect('', {transports: ['poll'], storage: false}), states = [], got = [], begun = Date.now();
rt.on('$state', (state) => states.push(state.state));
rt.room('slow').on('message', (data) => got.push(data[0]));
while (got.length < 8 && Date.now() - begun < 40000) {
  await new Promise((resolve) => setTimeout(resolve, 20));
}
return [got, states, (Date.now() - begun) / 1000];
"""

_BARE = """
server {
    listen 443 ssl;
    location /chat/ {
        proxy_set_header Host $http_host;
        proxy_pass http://127.0.0.1:8080/;
    }
}
"""


_LEDGER = """
window.clients = %s.map((kind) => {
  const rt = Realtime.connect('', {transports: [kind], storage: false, name: kind}), room = rt.room('ledger');
  const client = {rt, room, kind, got: [], wrong: [], states: []};
  room.on('message', (data) => client.got.push(data));
  room.on('$reset', (gap) => client.wrong.push(gap));
  room.on('$failed', (entry) => client.wrong.push(entry));
  rt.on('$state', (state) => client.states.push(state.state));
  return client;
});
window.talk = (count, pause) => {
  let number = 0;
  const timer = setInterval(() => {
    number += 1;
    clients.forEach((client) => client.room.publish(client.kind + ' ' + number));
    if (number === count) {
      clearInterval(timer);
    }
  }, pause);
};
"""


_FORGOTTEN = """
const rt = Realtime.connect(), states = window.states = [];
rt.on('$state', (state) => states.push(state));
"""


class ForgottenOriginTests(BrowserTestCase):
    """A page whose origin nobody has allowed, in Chromium; subclassed for Firefox."""

    def test_told_once(self) -> None:
        """The console has the server's words, with the option, once; it is tried again, and the reason is told."""
        forgetful = Daemon(self.mktemp()).start()
        self.addCleanup(forgetful.kill)
        tab = self.open(forgetful.url)
        tab.run(_FORGOTTEN)
        waits = "states.filter((state) => state.retryIn)"
        wait_until(lambda: tab.run(f"return {waits}.length") >= 3, lambda: str(tab.run("return states")), 30)
        told = [line for line in tab.console if "--allow-origin" in line]
        self.assertEqual(1, len(told), tab.console)
        reasons = f"return {waits}.map(({{reason}}) => [reason instanceof Error, reason.code])"
        self.assertEqual([True, "bad_origin"], tab.run(reasons)[0])


class FirefoxForgottenOriginTests(ForgottenOriginTests):
    """The same in Firefox."""

    kind = "firefox"


class LedgerTestCase(BrowserTestCase):
    """A page with a client of each transport, which keep what they are sent, and a daemon of its own."""

    limits: tuple[str, ...] = ()

    def setUp(self) -> None:
        options = ("--allow-jsonp", "--allow-origin", site().origin, *self.limits)
        self.daemon = Daemon(self.mktemp(), *options, program=with_limits(ping=PING, pong=PONG)).start()
        self.addCleanup(self.daemon.kill)
        self.tab = self.open(self.daemon.url)
        self.tab.run(_LEDGER % json.dumps(TRANSPORTS))
        self.wait_for("clients.every((client) => client.room.joined)")

    def wait_for(self, condition: str) -> None:
        """Wait until something is true in the page."""
        state = "clients.map((client) => [client.kind, client.got.length, client.states.slice(-3), client.wrong])"
        wait_until(lambda: self.tab.run(f"return {condition}"), lambda: str(self.tab.run(f"return {state}")))

    def check_ledger(self, expected: set[str]) -> None:
        """All clients have the same messages in the same order, each once, and each sender's in its own order."""
        self.wait_for(f"clients.every((client) => client.got.length >= {len(expected)})")
        ledgers = self.tab.run("return clients.map((client) => client.got)")
        self.assertEqual([], self.tab.run("return [].concat(...clients.map((client) => client.wrong))"))
        self.assertEqual((len(expected), expected), (len(ledgers[0]), set(ledgers[0])))
        for ledger in ledgers[1:]:
            self.assertEqual(ledgers[0], ledger)
        for kind in TRANSPORTS:
            said = [int(text.split()[1]) for text in ledgers[0] if text.startswith(kind)]
            self.assertEqual(sorted(said), said)

    def said(self, count: int) -> set[str]:
        """What the clients say."""
        return {f"{kind} {number}" for kind in TRANSPORTS for number in range(1, count + 1)}

    def say(self, text: str) -> None:
        """Somebody else says something."""
        body = json.dumps({"data": text}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.daemon.url}rooms/ledger/messages", body, headers)
        urllib.request.urlopen(request, timeout=DEADLINE).close()


class LimitTests(LedgerTestCase):
    """Clients that say more than they may."""

    limits = ("--client-publish-rate=20/s+5", "--client-command-rate=40/s+30", "--client-join-rate=2/s+1")

    def test_kept(self) -> None:
        """All is stored in the end, each message once and in order, and no connection is lost for it."""
        self.tab.run("talk(40, 1)")
        self.check_ledger(self.said(40))
        states = self.tab.run("return clients.map((client) => client.states)")
        self.assertEqual([["connecting", "connected"]] * len(TRANSPORTS), states)


class OutageTests(LedgerTestCase):
    """Whatever happens to the daemon, the network or the page: nothing is lost, and nothing doubled."""

    def test_killed(self) -> None:
        """The daemon is killed while everybody talks, and started again."""
        self.tab.run("talk(24, 50)")
        self.wait_for("clients.every((client) => client.got.length > 20)")
        self.daemon.kill()
        self.wait_for("clients.every((client) => client.rt.state === 'reconnecting')")
        self.daemon.start()
        self.check_ledger(self.said(24))

    def test_offline(self) -> None:
        """The browser loses its network while everybody talks, and gets it back: then all are there at once."""
        self.tab.run("talk(24, 50)")
        self.wait_for("clients.every((client) => client.got.length > 20)")
        network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.tab.command("Network.emulateNetworkConditions", offline=True, **network)
        self.wait_for("clients.every((client) => client.rt.state === 'reconnecting')")
        self.say("else 1")
        self.tab.command("Network.emulateNetworkConditions", offline=False, **network)
        self.check_ledger(self.said(24) | {"else 1"})

    def test_asleep(self) -> None:
        """The page is frozen for twice as long as the daemon waits for an answer to its pings."""
        self.tab.run("talk(3, 20)")
        self.wait_for("clients.every((client) => client.got.length === 12)")
        self.tab.command("Page.setWebLifecycleState", state="frozen")
        for number in range(30):
            self.say(f"else {number}")
            time.sleep(2 * (PING + PONG) / 30)  # this is what is tested: that time goes by
        self.tab.command("Page.setWebLifecycleState", state="active")
        self.check_ledger(self.said(3) | {f"else {number}" for number in range(30)})


class ReadmeTests(BrowserTestCase):
    """What README.rst says that one needs."""

    def test_five_lines(self) -> None:
        """The script tag and the five lines, as they stand there, on a page of another origin."""
        html = textwrap.dedent(documented("html", "../README.rst"))
        script = html.partition("<script>\n")[2].partition("</script>")[0]
        self.assertEqual(5, len(script.splitlines()))
        self.assertIn("http://localhost:8080/", html)
        page = _BLANK + html.replace("http://localhost:8080/", daemon().url)
        (_directory() / "site" / "readme.html").write_text(page)
        tab = browser(self.kind).open(f"{site().origin}/readme.html")
        self.addCleanup(tab.close)
        read = "return [...document.querySelectorAll('#chat li')].map((item) => item.textContent)"
        tab.run("document.getElementById('hello').click();")
        wait_until(lambda: "Hello from my page" in tab.run(read), lambda: str((tab.run(read), tab.console)))
        body = urllib.parse.urlencode({"text": "<b>Hello</b> from elsewhere"}).encode()
        urllib.request.urlopen(f"{daemon().url}rooms/lobby/messages", body, timeout=DEADLINE).close()
        wait_until(lambda: "<b>Hello</b> from elsewhere" in tab.run(read), lambda: str(tab.run(read)))
        self.assertEqual([], tab.console)
