"""Users of a site with a login, in real Chromium and Firefox: their pages, and the chat page, against a real daemon."""

from __future__ import annotations

import atexit
import http.server
import json
import shutil
import tempfile
import threading
import time
import urllib.request
from functools import cache
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import jwt

from tests.functional.browsers import browser
from tests.functional.daemon import CHECKOUT, Daemon, wait_until
from tests.functional.pages import Page
from tests.functional.test_realtime_js import BrowserTestCase, load_script

_SECRET = "the secret of this site, of more than 32 bytes"
_RULES = """
[[room]]
match = "news"
guests = "rp"

[[room]]
match = "help*"
guests = "rwsp"
"""
_PAGE = '<!doctype html><link rel="icon" href="data:,"><title>A page of a site</title>'
_CONNECT = """
window.told = [];
window.heard = [];
window.rt = Realtime.connect(%s, {tokenUrl: '/token', transports: [%s]});
rt.on('identity', (user) => told.push(['identity', user.id, user.guest, user.info || null]));
rt.on('unauthorized', (error) => told.push(['unauthorized', error.code]));
window.room = rt.room('team');
room.on('message', (data, message) => heard.push([data, message.from.id, message.own, message.from.guest || false]));
['$rights', '$left', '$reset', '$error'].forEach((name) => room.on(name, (event) => {
  told.push([name, event && (event.reason || event.code) || event]);
}));
"""


_MARKS = """
return Array.prototype.map.call(document.querySelectorAll('#message-pane .log .message'), function (item) {
  var mark = item.querySelector('.guest');
  return mark && mark.offsetWidth ? mark.textContent : null;
});
"""


class _Visitors(http.server.BaseHTTPRequestHandler):
    """A site on which anybody is whom its cookie names, and that gives tokens to its users."""

    server: LoginSite

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        if path == "/login":
            self._answer(200, _PAGE, ("Set-Cookie", f"{self.server.cookie}={query}; HttpOnly; SameSite=Lax"))
        elif path == "/token":
            self.server.asked.append(cookie.value if cookie else "")
            self._give_token(cookie.value if cookie else "")
        else:
            self._answer(200, _PAGE)

    def _give_token(self, user: str) -> None:
        if self.server.status != 200 or not user:
            self._answer(self.server.status if self.server.status != 200 else 204, "")
            return
        self._answer(200, json.dumps({"token": self.server.token(user)}))

    def _answer(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.server.allowed:
            self.send_header("Access-Control-Allow-Origin", self.server.allowed)
            self.send_header("Access-Control-Allow-Credentials", "true")
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


class LoginSite(http.server.ThreadingHTTPServer):
    """The site.

    :ivar cookie: the name of its cookie. Cookies don't know ports (RFC 6265, section 8.5), and sites of other tests are
        on the same host, in the same browser.
    :ivar asked: who has asked for a token.
    :ivar rooms: what its tokens grant.
    :ivar life: for how many seconds its tokens are good.
    :ivar allowed: another origin whose pages may read its answers; ``""`` for none.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Visitors)
        self.origin = f"http://127.0.0.1:{self.server_address[1]}"
        self.cookie = f"user{self.server_address[1]}"
        self.asked: list[str] = []
        self.reset()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def reset(self) -> None:
        """Give everybody the usual tokens again."""
        self.rooms = {"team": "rwsp"}
        self.life = 600
        self.status = 200
        self.allowed = ""

    def token(self, user: str) -> str:
        """A token."""
        now = int(time.time())
        claims = {"sub": user, "name": user.title(), "info": {"role": "staff"}, "rooms": self.rooms}
        return jwt.encode({**claims, "iat": now, "exp": now + self.life}, _SECRET, "HS256")


@cache
def _site() -> LoginSite:
    return LoginSite()


@cache
def _daemon() -> Daemon:
    directory = Path(tempfile.mkdtemp(prefix="realtime-users-"))
    atexit.register(shutil.rmtree, directory, True)
    (directory / "key").write_text(_SECRET)
    (directory / "realtime.toml").write_text(_RULES)
    started = Daemon(
        directory,
        *("--token-key", str(directory / "key"), "--config", str(directory / "realtime.toml"), "--allow-jsonp"),
        *("--allow-origin", _site().origin, "--access-log", str(directory / "access.log")),
    ).start()
    atexit.register(started.kill)
    return started


class UserPageTests(BrowserTestCase):
    """Pages of the site, which is another origin than the daemon."""

    def setUp(self) -> None:
        _site().reset()

    def visit(self, user: str, transport: str) -> Any:
        """A page that a user of the site looks at, or a guest."""
        _site().asked.clear()
        tab = self.open(_daemon().url, url=f"{_site().origin}/login?{user}")
        tab.run(_CONNECT % (json.dumps(_daemon().url), json.dumps(transport)))
        return tab

    def until(self, tab: Any, condition: str) -> None:
        """Wait for a condition in the page."""
        wait_until(
            lambda: tab.run(f"return {condition}"), lambda: json.dumps(tab.run("return [rt.state, told, heard]"))
        )

    def check(self, transport: str) -> None:
        """Who has logged in there chats here under that name, and is renewed, and another one begins anew."""
        ann = self.visit("ann", transport)
        self.until(ann, "room.joined && room.rights === 'rwsp'")
        identity = ["identity", "ann", False, {"role": "staff"}]
        self.assertEqual([identity, ["$rights", "rwsp"]], ann.run("return told"))
        ann.run("await room.publish('of ann')")
        self.until(ann, "heard.length")
        self.assertEqual(["of ann", "ann", True, False], ann.run("return heard[heard.length - 1]"))
        for _ in range(3):
            ann.run("dispatchEvent(new Event('offline')); dispatchEvent(new Event('online'))")
            self.until(ann, "room.joined")
        self.assertEqual(["ann"], _site().asked, "nobody asks the site to connect again")
        _site().rooms = {"team": "rp"}
        ann.run("rt.renew()")
        self.until(ann, "room.rights === 'rp'")
        self.assertEqual("connected", ann.run("return rt.state"))
        self.assertEqual("forbidden", ann.run("return room.publish('no').catch((error) => error.code)"))
        _site().rooms = {"team": "rwsp"}
        ann.run("heard.length = 0; await fetch('/login?bob'); rt.renew()")
        self.until(ann, "rt.user && rt.user.id === 'bob' && room.joined && heard.length")
        self.assertEqual([True] * ann.run("return heard.length"), ann.run("return heard.map((one) => !one[2])"))
        self.assertIn(["$reset", "identity"], ann.run("return told"))
        _site().rooms = {}
        ann.run("rt.renew()")
        self.until(ann, "told.some((one) => one[0] === '$left')")
        self.assertIn(["$left", "forbidden"], ann.run("return told"))
        self.check_secrets(ann)

    def check_secrets(self, tab: Any) -> None:
        """No secret of the page is in a log."""
        client = tab.run("return rt.client")
        log = (_daemon().directory / "access.log").read_text() + _daemon().log
        self.assertGreater(len(client), 64)
        for secret in (client, client[:64], _SECRET, _site().token("ann").split(".")[0] + "."):
            self.assertNotIn(secret, log)

    def test_websocket(self) -> None:
        """A user's life over WebSocket."""
        self.check("websocket")

    def test_sse(self) -> None:
        """A user's life over event streams."""
        self.check("sse")

    def test_poll(self) -> None:
        """A user's life over polls."""
        self.check("poll")

    def test_no_scripts(self) -> None:
        """A user's client stands in no address of a script: JSONP isn't used."""
        tab = self.visit("ann", "jsonp")
        self.until(tab, "rt.state === 'connecting' && told.length === 0")
        time.sleep(1)
        self.assertEqual(0, tab.run("return document.querySelectorAll('script[src*=callback]').length"))

    def test_guest(self) -> None:
        """Who hasn't logged in is a guest, who may not read the room."""
        tab = self.visit("", "websocket")
        self.until(tab, "told.some((one) => one[0] === '$error')")
        self.assertEqual(
            [["identity", True], ["$error", "forbidden"]],
            tab.run("return told.map((one) => [one[0], one[0] === 'identity' ? one[2] : one[1]])"),
        )

    def test_refused(self) -> None:
        """A site that refuses ends the connection with an event, and is asked once."""
        _site().status = 403
        tab = self.visit("ann", "websocket")
        self.until(tab, "rt.state === 'closed'")
        tab.run("dispatchEvent(new Event('focus')); rt.retry()")
        self.assertEqual(([["unauthorized", "unauthorized"]], ["ann"]), (tab.run("return told"), _site().asked))

    def test_expiry(self) -> None:
        """A token whose time is over is replaced by another one, and nothing is lost."""
        for transport in ("websocket", "sse", "poll"):
            _site().life = 3
            tab = self.visit("ann", transport)
            self.until(tab, "room.joined")
            _site().life = 600
            wait_until(lambda: len(_site().asked) == 2)
            tab.run("await room.publish(1)")
            self.until(tab, "heard.some((one) => one[0] === 1)")
            self.assertEqual(
                [["identity", "ann"]],
                tab.run("return told.filter((one) => one[0] === 'identity').map((one) => one.slice(0, 2))"),
            )

    def test_logged_out(self) -> None:
        """Who logs out and loads the page anew is a guest."""
        tab = self.visit("ann", "websocket")
        self.until(tab, "room.joined")
        tab.goto(f"{_site().origin}/login?")
        tab.run(load_script(_daemon().url + "realtime.js"))
        tab.run(_CONNECT % (json.dumps(_daemon().url), "'websocket'"))
        self.until(tab, "rt.user !== null")
        self.assertEqual(True, tab.run("return rt.user.guest"))


class FirefoxUserPageTests(UserPageTests):
    """The same in Firefox."""

    kind = "firefox"


class ChatPageTests(BrowserTestCase):
    """The daemon's own page."""

    def setUp(self) -> None:
        _site().reset()

    def page(self, query: str, user: str = "") -> Page:
        """The page of a guest, or of a user whose client is in the tab's storage."""
        before = ""
        if user:
            client, base = self.client_of(user), _daemon().url
            for name, value in ((f"realtime client {base}", client), (f"realtime user {base}", "1")):
                before += f"sessionStorage.setItem({json.dumps(name)}, {json.dumps(value)});"
        tab = browser(self.kind).open(_daemon().url + query, before, alone=True)
        self.addCleanup(tab.close)
        page = Page(tab)
        page.emulate(1280, 800, "light")
        return page

    def client_of(self, user: str) -> str:
        """The client of a user's token."""
        body = json.dumps({"type": "hello", "token": _site().token(user)}).encode()
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(_daemon().url + "commands", body, headers)) as answer:
            return str(json.load(answer)["client"])

    def shown(self, page: Page, *ids: str) -> list[bool]:
        """Which elements are shown."""
        script = "return arguments[0].map(function (id) { return document.getElementById(id).offsetWidth > 0; })"
        return list(page.run(script, ids))

    def test_user(self) -> None:
        """A user sees its name, and can't change it. Guests are marked wherever their names are."""
        page, guest = self.page(f"?room=help-{self.kind}", "ann"), self.page(f"?room=help-{self.kind}")
        for one in (page, guest):
            one.wait_connected()
        wait_until(lambda: page.read("own-user") == "Ann")
        self.assertEqual([True, False], self.shown(page, "own-identity", "name-form"))
        self.assertEqual([False, True], self.shown(guest, "own-identity", "name-form"))
        guest.rename("Support (staff)")
        guest.wait_connected()
        guest.type("hi")
        page.wait_for("hi")
        self.assertEqual(["guest"], page.run(_MARKS))
        page.type("hello")
        guest.wait_for("hello")
        self.assertEqual(["guest", None], guest.run(_MARKS))
        guest.run("document.getElementById('message-text').focus()")
        guest.write("x")
        wait_until(lambda: page.read("typing-line") == "Support (staff) (guest) is typing …")
        self.assertEqual([], page.faults + guest.faults)

    def test_rights(self) -> None:
        """Where one may only read, there is no field to write in. Who may not be seen isn't listed."""
        _site().rooms = {"news": "rwsp", "team": "r"}
        user, guest = self.page("?room=news", "ann"), self.page("?room=news")
        for page in (user, guest):
            page.wait_connected()
        wait_until(lambda: self.shown(guest, "composer-form", "read-only") == [False, True])
        self.assertEqual([True, False], self.shown(user, "composer-form", "read-only"))
        user.type("only I")
        guest.wait_for("only I")
        user.go_to("team")
        wait_until(lambda: self.shown(user, "composer-form", "read-only") == [False, True])
        self.assertEqual("Who is here isn't shown to you", user.read("people-title"))
        user.go_to("news")
        wait_until(lambda: self.shown(user, "composer-form", "read-only") == [True, False])

    def test_single(self) -> None:
        """With ``only`` in its address the page has no other room, and asks for none."""
        page = self.page("?room=help&only#team")
        page.wait_connected()
        self.assertEqual("help", page.read("room-title"))
        for width, height in ((360, 740), (1280, 800)):
            page.emulate(width, height, "light")
            self.assertEqual([False, False], self.shown(page, "rooms-panel", "rooms-button"))
            self.assertEqual([True, True], self.shown(page, "message-pane", "message-text"))
        asked = page.run("return performance.getEntriesByType('resource').map(function (one) { return one.name; })")
        self.assertEqual([], [url for url in asked if "/rooms?" in url])
        page.type("hi")
        page.wait_for("hi")
        self.assertEqual([], page.faults)


class CopiedPageTests(BrowserTestCase):
    """A copy of the daemon's page."""

    def test_token_url(self) -> None:
        """A copy whose body says where tokens are shows who has logged in."""
        _site().reset()
        directory = Path(self.mktemp()).resolve()
        page = directory / "page"
        shutil.copytree(CHECKOUT / "realtime_chat" / "static", page)
        index = (page / "index.html").read_text("utf-8")
        (page / "index.html").write_text(index.replace("<body>", '<body data-token-url="token.json">'), "utf-8")
        (page / "token.json").write_text(json.dumps({"token": _site().token("ann")}))
        (directory / "key").write_text(_SECRET)
        daemon = Daemon(directory / "daemon", "--page", str(page), "--token-key", str(directory / "key")).start()
        self.addCleanup(daemon.kill)
        tab = browser(self.kind).open(daemon.url + "?room=team", alone=True)
        self.addCleanup(tab.close)
        shown = Page(tab)
        shown.wait_connected()
        wait_until(lambda: shown.read("own-user") == "Ann")
        shown.type("hi")
        shown.wait_for("hi")


class TokenURLTests(BrowserTestCase):
    """The daemon's own page, which is told where tokens are."""

    def setUp(self) -> None:
        _site().reset()
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir()
        (self.directory / "key").write_text(_SECRET)

    def daemon(self, *options: str) -> Daemon:
        """A daemon whose page asks the site, which lets it read the answers."""
        given = ("--token-key", str(self.directory / "key"), "--token-url", f"{_site().origin}/token", *options)
        started = Daemon(self.directory / "daemon", *given).start()
        self.addCleanup(started.kill)
        _site().allowed = started.url.removesuffix("/")
        return started

    def test_another_origin(self) -> None:
        """Tokens may come from another origin, which allows it; the page says who has logged in there."""
        daemon = self.daemon()
        tab = browser(self.kind).open(f"{_site().origin}/login?ann", alone=True)
        self.addCleanup(tab.close)
        tab.goto(f"{daemon.url}?room=team&only")
        page = Page(tab)
        page.wait_connected()
        wait_until(lambda: page.read("own-user") == "Ann", lambda: "\n".join(page.console))
        page.type("hi")
        page.wait_for("hi")

    def test_foreign_frame(self) -> None:
        """A page of another origin can't show the chat in a frame, even that of the site which gives the tokens."""
        daemon = self.daemon("--allow-origin", _site().origin)
        tab = browser(self.kind).open(f"{_site().origin}/login?ann", alone=True)
        self.addCleanup(tab.close)
        _site().asked.clear()
        tab.run(f"""
          const frame = document.createElement('iframe');
          frame.src = {json.dumps(daemon.url)};
          document.body.append(frame);
          await new Promise((done) => {{ frame.onload = done; }});
        """)
        wait_until(lambda: any("frame" in line.lower() for line in tab.console), lambda: repr(tab.console))
        self.assertEqual([], _site().asked)


class FirefoxTokenURLTests(TokenURLTests):
    """The same in Firefox."""

    kind = "firefox"


class FirefoxChatPageTests(ChatPageTests):
    """The same in Firefox."""

    kind = "firefox"
