"""``docs/tutorial``, followed word for word, with its sites and a browser: who chats there, and who can't."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
from twisted.trial.unittest import SynchronousTestCase

from tests.functional.browsers import Tab, browser
from tests.functional.daemon import wait_until
from tests.functional.tutorial import AT_ONCE, Block, Tutorial, blocks

_PASSWORDS = {"Ann": "open sesame", "Bob": "swordfish"}
_LIFE = 12
"""Seconds for which a token lives where that is waited for; the library asks no earlier than 8 seconds after."""

_NEEDS_TLS = "The Cross-Origin-Opener-Policy header has been ignored, because the URL's origin was untrustworthy."
"""What Chromium says of Django's pages without TLS."""

_CONFIGURATIONS = ("realtime.toml", "/etc/nginx/sites-enabled/example.com")


class Visitor:
    """Somebody with a browser, in one tab of it."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab

    def focus(self, selector: str) -> None:
        """Put the focus on the first element of a kind."""
        self.tab.run(f"document.querySelector({json.dumps(selector)}).focus()")

    def follow(self, selector: str) -> None:
        """Press Enter on a link or a button."""
        self.focus(selector)
        self.tab.follow("Enter")

    def log_in(self, name: str, user: str) -> None:
        """Log in with the site's form.

        :param user: the name as it is typed.
        """
        if not self.tab.run("return document.querySelector('[type=password]') !== null"):
            self.follow("a[href*=login]")
        self.focus("input[name=username], input[name=login]")
        self.tab.write(user)
        self.focus("[type=password]")
        self.tab.write(_PASSWORDS[name])
        self.tab.follow("Enter")
        assert f"You are {name}." in self.text, self.text

    @property
    def text(self) -> str:
        """All that the page shows."""
        return str(self.tab.run("return document.body.innerText"))

    @property
    def lines(self) -> list[str]:
        """The messages that are shown."""
        return list(self.tab.run("return Array.from(chat.children, (item) => item.textContent)"))

    @property
    def may_write(self) -> bool:
        """Whether there is a field to write in."""
        return not self.tab.run("return say.hidden")

    def say(self, text: str) -> None:
        """Write a message, as soon as there is a field for it."""
        wait_until(lambda: self.may_write, lambda: f"no field in {self.text}; {self.tab.console}")
        self.focus("#say input")
        self.tab.write(text)
        self.tab.press("Enter")

    def sees(self, *lines: str) -> None:
        """Wait until these are the messages that are shown."""
        wait_until(lambda: self.lines == [*lines], lambda: f"{self.lines}, not {lines}; {self.tab.console}")

    def is_only_reader(self) -> None:
        """Wait until there is no field to write in."""
        wait_until(lambda: not self.may_write, lambda: f"still a field in {self.text}; {self.tab.console}")

    def ask(self, path: str) -> dict[str, Any]:
        """What the site answers this visitor: status, Cache-Control, and text."""
        script = f"""
          const answer = await fetch({json.dumps(path)}), cache = answer.headers.get('Cache-Control');
          return {{status: answer.status, cache, text: await answer.text()}};
        """
        return dict(self.tab.run(script))


class TutorialTests(SynchronousTestCase):
    """The tutorial for PHP; subclassed for Django.

    :cvar pages: its pages, in the order in which they are read.
    :cvar program: the files that make a token.
    :cvar lobby: the address of the page with the chat.
    :cvar page: its file.
    :cvar ann: what she types to log in; so it is with Bob.
    :cvar ann_id: what the site calls her.
    :cvar refusal: what is different where guests are refused.
    """

    timeout = 300
    pages: tuple[str, ...] = ("index.rst", "php.rst")
    token_url, program = "token.php", ("site/token.php",)
    lobby, page = "lobby.html", "site/lobby.html"
    ann, ann_id, bob = "ann", "7", "bob"
    refusal: Mapping[str, str] = {}

    def follow(self, found: list[Block], changes: Mapping[str, str] | None = None) -> Tutorial:
        """Follow the pages in an empty directory."""
        tutorial = Tutorial(Path(self.mktemp()).resolve(), changes)
        self.addCleanup(tutorial.end)
        tutorial.follow(found)
        return tutorial

    def visitor(self, url: str) -> Visitor:
        """Somebody new."""
        tab = browser("chromium").open(url, alone=True)
        self.addCleanup(tab.release)
        self.addCleanup(tab.command, "Network.clearBrowserCookies")
        return Visitor(tab)

    def beside(self, visitor: Visitor, url: str) -> Visitor:
        """The same one in another tab."""
        tab = visitor.tab.open_beside(url)
        self.addCleanup(tab.close)
        return Visitor(tab)

    def token(self, tutorial: Tutorial, visitor: Visitor) -> str:
        """The token that the site gives a visitor who is logged in, which nobody else may store."""
        answer = visitor.ask("/" + self.token_url)
        self.assertEqual(200, answer["status"], answer)
        self.assertIn("no-store", answer["cache"])
        return str(json.loads(answer["text"])["token"])

    def test_lines(self) -> None:
        """Not more than 15 lines are pasted so that the daemon knows a site's users; all in all, 37 with the page."""
        found = blocks(*self.pages)
        by_file = {block.caption: len(block.pasted) for block in found}
        self.assertLessEqual(by_file["realtime.toml"] + sum(by_file[name] for name in self.program), 15)
        pasted = (*self.program, *_CONFIGURATIONS, self.page)
        self.assertLessEqual(sum(by_file[name] for name in pasted), 37)

    def test_chat(self) -> None:
        """Two users write under their names, one of them in two tabs, and a guest reads. Who logs out is a guest in all
        tabs, and who logs in as somebody else is that one in all tabs."""
        tutorial = self.follow(blocks(*self.pages))
        guest = self.visitor(tutorial.url + self.lobby)
        ann = self.visitor(tutorial.url)
        ann.log_in("Ann", self.ann)
        first, second = (self.beside(ann, tutorial.url + self.lobby) for _ in "12")
        first.say("Hello")
        second.sees("Ann: Hello")
        second.say("Hello from another tab")
        bob = self.visitor(tutorial.url)
        bob.log_in("Bob", self.bob)
        bob.follow("a[href*=lobby]")
        bob.say("I am Bob")
        said = ["Ann: Hello", "Ann: Hello from another tab", "Bob: I am Bob"]
        for visitor in (first, second, bob, guest):
            visitor.sees(*said)
        guest.is_only_reader()
        ann.follow("form button")
        for visitor in (first, second):
            visitor.is_only_reader()
            visitor.sees(*said)
        self.assertEqual(204, ann.ask("/" + self.token_url)["status"])
        ann.log_in("Bob", self.bob)
        second.say("I am Bob, too")
        for visitor in (first, second, bob, guest):
            visitor.sees(*said, "Bob: I am Bob, too")
            self.assertEqual([], [line for line in visitor.tab.console if not line.startswith(_NEEDS_TLS)])

    def test_pretending(self) -> None:
        """Nobody else gets a user's token; without one, or with one that was made up, nobody writes as that user."""
        tutorial = self.follow(blocks(*self.pages))
        guest, ann = self.visitor(tutorial.url), self.visitor(tutorial.url)
        answer = guest.ask("/" + self.token_url)
        self.assertEqual((204, ""), (answer["status"], answer["text"]))
        self.assertIn("no-store", answer["cache"])
        ann.log_in("Ann", self.ann)
        token = self.token(tutorial, ann)
        key = (tutorial.directory / "realtime.key").read_text().strip()
        claims = jwt.decode(token, key, ["HS256"], options={"verify_sub": False})
        self.assertEqual((self.ann_id, "Ann", 600), (str(claims["sub"]), claims["name"], claims["exp"] - claims["iat"]))
        self.assertIn("Ann", tutorial.run(f"venv/bin/realtime-chat token check {token}"))
        self.assertEqual((201, "published"), self.publish(tutorial, token))
        forged = jwt.encode(claims, "another key, which is as long as it should be", "HS256")
        head, body, signature = token.split(".")
        altered = jwt.encode({**claims, "sub": "9"}, key, "HS256").split(".")[1]
        unsigned = jwt.encode(claims, None, "none")
        for wrong in (forged, f"{head}.{altered}.{signature}", f"{unsigned.split('.')[0]}.{body}.", unsigned, key):
            self.assertEqual((401, "unauthorized"), self.publish(tutorial, wrong), wrong)
        self.assertEqual((403, "forbidden"), self.publish(tutorial, ""))
        for secret in (key, token, forged):
            self.assertNotIn(secret, tutorial.log)
        self.assert_told(tutorial, self.ann_id, "Ann")

    def publish(self, tutorial: Tutorial, token: str) -> tuple[int, str]:
        """Publish in Ann's name, through nginx: the status, and the type of the answer or the code of the error."""
        return self.ask(tutorial, "rooms/lobby/messages?name=Ann", token, b'{"data": {"text": "I am Ann"}}')

    def ask(self, tutorial: Tutorial, path: str, token: str, body: bytes | None = None) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{tutorial.proxy.port}/chat/{path}", body)
        request.add_header("Host", "example.com")
        request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.load(answer).get("type", "")
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["code"]

    def test_nobody_tells(self) -> None:
        """Without the two lines more, another tab goes on with new tokens until its user has logged out; guests see
        nothing here, and all that the tab does ends."""
        found = [block for block in blocks(*self.pages) if block.section != AT_ONCE]
        tutorial = self.follow(found, {"+ 600": f"+ {_LIFE}", 'guests = "r", ': "", **self.refusal})
        ann = self.visitor(tutorial.url)
        ann.log_in("Ann", self.ann)
        first, tab = self.token(tutorial, ann), self.beside(ann, tutorial.url + self.lobby)
        tab.say("For users only")
        tab.sees("Ann: For users only")
        wait_until(lambda: self.ask(tutorial, "rooms/lobby/messages", first) == (401, "token_expired"))
        tab.say("With the second token")
        tab.sees("Ann: For users only", "Ann: With the second token")
        ann.follow("form button")
        self.assert_ended(tab)
        self.assertEqual((403, "forbidden"), self.ask(tutorial, "rooms/lobby/messages", ""))

    def assert_ended(self, tab: Visitor) -> None:
        """It is a guest's."""
        tab.is_only_reader()
        tab.sees()
        self.assertEqual(["connected", True], tab.tab.run("return [rt.state, rt.user.guest]"))

    def assert_told(self, tutorial: Tutorial, user: str, name: str) -> None:
        """All messages are this user's, as your own programs read them."""
        with urllib.request.urlopen(f"{tutorial.daemon_url}rooms/lobby/messages", timeout=20) as answer:
            senders = [message["from"] for message in json.load(answer)["messages"]]
        self.assertEqual([(user, name)] * len(senders), [(sender["id"], sender["name"]) for sender in senders])


class DjangoTutorialTests(TutorialTests):
    """The tutorial for Django."""

    pages = ("index.rst", "django.rst")
    token_url, program = "token/", ("shop/views.py", "shop/urls.py")
    lobby, page = "lobby/", "templates/lobby.html"
    ann, ann_id, bob = "Ann", "1", "Bob"
    refusal = {"status=204": "status=401"}

    def assert_ended(self, tab: Visitor) -> None:
        """It is closed, as the site refuses guests here."""
        wait_until(lambda: tab.tab.run("return rt.state") == "closed")
        self.assertTrue(any("401" in line for line in tab.tab.console), tab.tab.console)
