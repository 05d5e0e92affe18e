"""``docs/tutorial``, followed word for word, with its sites and a browser: who chats there, and who can't."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
from twisted.trial.unittest import SynchronousTestCase

from tests.deadlines import TEST_TIMEOUT
from tests.functional.browsers import Tab, browser
from tests.functional.daemon import CHECKOUT, wait_until
from tests.functional.tutorial import OWN_PAGE, TO_TRY, Block, Tutorial, blocks

_PASSWORDS = {"Ann": "open sesame", "Bob": "swordfish"}
_LIFE = 12
"""Seconds for which a token lives where that is waited for; the library asks no earlier than 8 seconds after."""

_NEEDS_TLS = "The Cross-Origin-Opener-Policy header has been ignored, because the URL's origin was untrustworthy."
"""What Chromium says of Django's pages without TLS."""

_MOST_LINES = 15
"""What a site's owner pastes at most."""


class Visitor:
    """Somebody with a browser, in one tab of it, where the chat page stands in a frame.

    :cvar chat: the document with the chat, in JavaScript.
    :cvar field: where a message is written.
    """

    chat = "document.querySelector('iframe').contentDocument"
    field = "#message-text"
    _names_user = "chat.getElementById('own-identity')?.hidden === false && chat.getElementById('own-user').textContent"
    _has_field = "chat.getElementById('composer-form')?.hidden === false"
    _messages = "#message-pane .log .message"
    _line = "item.querySelector('.name').textContent + ': ' + item.querySelector('.text').textContent"

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

    def in_chat(self, script: str) -> Any:
        """Run a script in which ``chat`` is the document with the chat."""
        return self.tab.run(f"const chat = {self.chat}; {script}")

    @property
    def lines(self) -> list[str]:
        """The messages that are shown."""
        return list(
            self.in_chat(f"return Array.from(chat.querySelectorAll('{self._messages}'), (item) => {self._line})")
        )

    @property
    def user(self) -> str:
        """The user that the chat says one is; ``""`` for a guest."""
        return self.in_chat(f"return {self._names_user} || ''")

    @property
    def may_write(self) -> bool:
        """Whether there is a field to write in."""
        return bool(self.in_chat(f"return {self._has_field}"))

    def is_user(self, name: str) -> None:
        """Wait until the chat says that one is this user, who may write."""
        wait_until(
            lambda: self.user == name and self.may_write, lambda: f"{self.user!r}, not {name}; {self.tab.console}"
        )

    def say(self, text: str) -> None:
        """Write a message."""
        self.in_chat(f"chat.defaultView.focus(); chat.querySelector({json.dumps(self.field)}).focus()")
        self.tab.write(text)
        self.tab.press("Enter")

    def sees(self, *lines: str) -> None:
        """Wait until these are the messages that are shown."""
        wait_until(lambda: self.lines == [*lines], lambda: f"{self.lines}, not {lines}; {self.tab.console}")

    def is_only_reader(self) -> None:
        """Wait until there is no field to write in."""
        wait_until(lambda: not (self.user or self.may_write), lambda: f"still {self.user!r}; {self.tab.console}")

    def come_back(self) -> None:
        """Look at this tab again, after another one."""
        self.in_chat("chat.dispatchEvent(new Event('visibilitychange'))")

    def ask(self, path: str) -> dict[str, Any]:
        """What the site answers this visitor: status, Cache-Control, and text."""
        script = f"""
          const answer = await fetch({json.dumps(path)}), [cache, vary] = ['Cache-Control', 'Vary'].map(
            (name) => answer.headers.get(name) || '');
          return {{status: answer.status, cache, vary, text: await answer.text()}};
        """
        return dict(self.tab.run(script))


class OwnPageVisitor(Visitor):
    """The same, where the site's own page has the chat."""

    chat = "document"
    field = "#say input"
    _names_user = "rt.user && !rt.user.guest && rt.user.name"
    _has_field = "!say.hidden"
    _messages = "#chat li"
    _line = "item.textContent"


class TutorialTests(SynchronousTestCase):
    """The tutorial for PHP; subclassed for Django.

    :cvar pages: its pages, in the order in which they are read.
    :cvar ann: what she types to log in; so it is with Bob.
    :cvar ann_id: what the site calls her.
    :cvar refusal: what is different where guests are refused.
    """

    timeout = TEST_TIMEOUT
    kind: type[Visitor] = Visitor
    pages: tuple[str, ...] = ("index.rst", "php.rst")
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
        return self.kind(tab)

    def beside(self, visitor: Visitor, url: str) -> Visitor:
        """The same one in another tab."""
        tab = visitor.tab.open_beside(url)
        self.addCleanup(tab.close)
        return self.kind(tab)

    def token(self, tutorial: Tutorial, visitor: Visitor) -> str:
        """The token that the site gives a visitor who is logged in, which nobody else may store."""
        answer = visitor.ask("/token/")
        self.assertEqual(200, answer["status"], answer)
        self.assertIn("no-store", answer["cache"])
        return str(json.loads(answer["text"])["token"])

    def main_path(self) -> list[Block]:
        """What a site's owner does who takes the daemon's own page."""
        return [block for block in blocks(*self.pages) if block.section not in OWN_PAGE]

    def test_lines(self) -> None:
        """Not more than 15 lines are pasted in all, none of which is too long; the first page says how many."""
        pasted = [block for block in self.main_path() if block.language != "console" and block.section != TO_TRY]
        lines = [line for block in pasted for line in block.pasted]
        self.assertLessEqual(len(lines), _MOST_LINES, "\n".join(lines))
        self.assertEqual([], [line for line in lines if len(line) > 120])
        index = " ".join((CHECKOUT / "docs" / "tutorial" / "index.rst").read_text("utf-8").split())
        (said,) = re.findall(r"You paste (\d+) lines: (\d+) .* (\d+) into nginx's, (\d+) .* (\d+) into", index)
        self.assertEqual([len(lines), *(len(block.pasted) for block in pasted)], [int(number) for number in said])

    def test_chat(self) -> None:
        """Two users write under their names, one of them in two tabs, and a guest reads. Who logs out is a guest there,
        and in the other tab on coming back to it; who logs in as somebody else is that one."""
        tutorial = self.follow(self.main_path())
        guest, first, bob = (self.visitor(tutorial.url) for _ in "123")
        first.log_in("Ann", self.ann)
        second = self.beside(first, tutorial.url)
        for visitor, text in ((first, "Hello"), (second, "Hello from another tab")):
            visitor.is_user("Ann")
            visitor.say(text)
            second.sees("Ann: Hello", *["Ann: Hello from another tab"] * (visitor is second))
        bob.log_in("Bob", self.bob)
        bob.is_user("Bob")
        bob.say("I am Bob")
        said = ["Ann: Hello", "Ann: Hello from another tab", "Bob: I am Bob"]
        for visitor in (first, second, bob, guest):
            visitor.sees(*said)
        guest.is_only_reader()
        first.follow("form button")
        first.is_only_reader()
        self.assertEqual("Ann", second.user)
        second.come_back()
        for visitor in (first, second):
            visitor.is_only_reader()
            visitor.sees(*said)
        self.assertEqual(204, first.ask("/token/")["status"])
        first.log_in("Bob", self.bob)
        second.come_back()
        second.is_user("Bob")
        second.say("I am Bob, too")
        self.all_see([first, second, bob, guest], *said, "Bob: I am Bob, too")

    def all_see(self, visitors: list[Visitor], *lines: str) -> None:
        """Wait until all see these messages. No page has said anything to the console."""
        for visitor in visitors:
            visitor.sees(*lines)
            self.assertEqual([], [line for line in visitor.tab.console if not line.startswith(_NEEDS_TLS)])

    def test_own_page(self) -> None:
        """A page of the site's own does the same, and with its two lines more, all tabs notice a log-out at once."""
        self.kind = OwnPageVisitor
        tutorial = self.follow(blocks(*self.pages))
        wait_until(lambda: "window.onstorage" in self.page(tutorial))
        guest, first = (self.visitor(tutorial.url) for _ in "12")
        first.log_in("Ann", self.ann)
        second = self.beside(first, tutorial.url)
        for visitor in (first, second):
            visitor.is_user("Ann")
            visitor.say("Hello")
        said = ["Ann: Hello", "Ann: Hello"]
        guest.sees(*said)
        guest.is_only_reader()
        first.follow("form button")
        for visitor in (first, second):
            visitor.is_only_reader()
            visitor.sees(*said)
        first.log_in("Bob", self.bob)
        second.is_user("Bob")
        second.say("I am Bob")
        self.all_see([first, second, guest], *said, "Bob: I am Bob")

    def page(self, tutorial: Tutorial) -> str:
        """The site's page, as a guest gets it."""
        request = urllib.request.Request(f"http://127.0.0.1:{tutorial.proxy.port}/", headers={"Host": "example.com"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return str(answer.read().decode())

    def test_pretending(self) -> None:
        """Nobody else gets a user's token; without one, or with one that was made up, nobody writes as that user."""
        tutorial = self.follow(self.main_path())
        guest, ann = self.visitor(tutorial.url), self.visitor(tutorial.url)
        answer = guest.ask("/token/")
        self.assertEqual((204, ""), (answer["status"], answer["text"]))
        self.assertTrue("no-store" in answer["cache"] or "Cookie" in answer["vary"], answer)
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
        """A tab that nobody comes back to goes on with new tokens until its user has logged out; guests see nothing
        here, and all that the tab does ends."""
        tutorial = self.follow(self.main_path(), {"+ 600": f"+ {_LIFE}", 'guests = "r", ': "", **self.refusal})
        ann = self.visitor(tutorial.url)
        ann.log_in("Ann", self.ann)
        first, tab = self.token(tutorial, ann), self.beside(ann, tutorial.url)
        tab.is_user("Ann")
        tab.say("For users only")
        tab.sees("Ann: For users only")
        wait_until(lambda: self.ask(tutorial, "rooms/lobby/messages", first) == (401, "token_expired"))
        tab.say("With the second token")
        tab.sees("Ann: For users only", "Ann: With the second token")
        ann.follow("form button")
        self.assert_ended(ann, tab)
        self.assertEqual((403, "forbidden"), self.ask(tutorial, "rooms/lobby/messages", ""))

    def assert_ended(self, ann: Visitor, tab: Visitor) -> None:
        """It is a guest's."""
        tab.is_only_reader()
        tab.sees()
        self.assertIn("Connected", tab.in_chat("return chat.getElementById('status-text').textContent"))

    def assert_told(self, tutorial: Tutorial, user: str, name: str) -> None:
        """All messages are this user's, as your own programs read them."""
        with urllib.request.urlopen(f"{tutorial.daemon_url}rooms/lobby/messages", timeout=20) as answer:
            senders = [message["from"] for message in json.load(answer)["messages"]]
        self.assertEqual([(user, name)] * len(senders), [(sender["id"], sender["name"]) for sender in senders])


class DjangoTutorialTests(TutorialTests):
    """The tutorial for Django."""

    pages = ("index.rst", "django.rst")
    ann, ann_id, bob = "Ann", "1", "Bob"
    refusal = {"status=204": "status=401"}

    def assert_ended(self, ann: Visitor, tab: Visitor) -> None:
        """It is closed, as the site refuses guests here, and shows nothing until somebody has logged in."""
        tab.is_only_reader()
        tab.sees()
        self.assertIn("Log in, and come back.", tab.in_chat("return chat.getElementById('status-text').textContent"))
        self.assertTrue(any("No token: 401" in line for line in tab.tab.console), tab.tab.console)
        ann.log_in("Ann", self.ann)
        tab.come_back()
        tab.is_user("Ann")
        tab.sees("Ann: For users only", "Ann: With the second token")
