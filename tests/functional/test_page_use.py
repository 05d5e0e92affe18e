"""What people do with the chat page, in real Chromium and real Firefox, against a real daemon.

With ``SOAK=1`` in the environment Firefox looks for faults on each device in both colour schemes, as Chromium does.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
import urllib.request

from tests.deadlines import DEADLINE
from tests.functional.daemon import SOAK, wait_until
from tests.functional.pages import SIZES, Page, PageTestCase

_BUSY_SEEN = """
window.busy = [];
new MutationObserver(function (changes) {
  changes.forEach(function (change) { window.busy.push(change.target.getAttribute('aria-busy')); });
}).observe(document.getElementById('message-pane'), {subtree: true, attributes: true, attributeFilter: ['aria-busy']});
"""

# Where the first message that is in sight stands, from the top of what scrolls.
_ANCHOR = """
var pane = document.getElementById('message-pane'), top = pane.getBoundingClientRect().top;
var seen = Array.prototype.filter.call(pane.querySelectorAll('.log .message'), function (item) {
  return item.getBoundingClientRect().top >= top;
})[0];
return [seen.querySelector('.text').textContent, Math.round(seen.getBoundingClientRect().top - top)];
"""

_PLACE_OF = """
var text = arguments[0], pane = document.getElementById('message-pane');
var item = Array.prototype.filter.call(pane.querySelectorAll('.log .message'), function (item) {
  return item.querySelector('.text').textContent === text;
})[0];
return [text, Math.round(item.getBoundingClientRect().top - pane.getBoundingClientRect().top)];
"""

_PEOPLE = """
return Array.prototype.map.call(document.querySelectorAll('.person'), function (row) {
  return [row.querySelector('.name').textContent, row.querySelector('.note').textContent];
});
"""

_ROOMS = """
return Array.prototype.map.call(document.querySelectorAll('.room'), function (row) {
  return [row.querySelector('.label').textContent, row.querySelector('.note').textContent.trim(),
    row.querySelector('a').getAttribute('aria-current') || ''];
});
"""

_LINKS = """
return Array.prototype.map.call(document.querySelectorAll('.log a'), function (link) {
  return [link.textContent, link.getAttribute('href'), link.target, link.rel];
});
"""

_ITEMS = """
return Array.prototype.map.call(document.querySelectorAll('.log li'), function (item) {
  var time = item.querySelector('time') || document.createElement('time');
  return [item.className.split(' ').filter(function (name) { return name !== 'message'; }).join(' '),
    (item.querySelector('.text') || item).textContent, time.getAttribute('datetime'), time.title];
});
"""

_HIDE = """
Object.defineProperty(document, 'hidden', {configurable: true, get: function () { return arguments_; }});
document.dispatchEvent(new Event('visibilitychange'));
"""

_WATCH_FOCUS = """
window.focused = [];
document.addEventListener('focusin', function (event) {
  window.focused.push(event.target.id || event.target.tagName);
});
"""

_OLD = """
var young = ['WebSocket', 'EventSource', 'Promise', 'fetch', 'Map', 'Set', 'Symbol', 'CSS', 'MutationObserver'];
young.forEach(function (name) {
  window[name] = undefined;
});
window.history.pushState = undefined;
['classList', 'closest', 'matches', 'remove', 'append', 'prepend', 'hidden'].forEach(function (name) {
  delete Element.prototype[name];
  delete HTMLElement.prototype[name];
});
delete Document.prototype.hidden;
"""
"""A browser of about 2012, as far as a later one can be made one."""


_RETRY = """
var button = document.getElementById('status-retry');
if (!button.hasAttribute('hidden')) {
  button.click();
}
"""


class UseTests(PageTestCase):
    """The page as it is used, in Chromium; subclassed for Firefox.

    :cvar looks: the devices and colour schemes that are looked at.
    """

    looks: tuple[tuple[str, str], ...] = tuple(itertools.product(SIZES, ("light", "dark")))

    def say(self, *texts: str, room: str = "lobby") -> None:
        """Publish messages from outside of any browser."""
        for text in texts:
            body = json.dumps({"data": {"text": text}}).encode()
            asked = urllib.request.Request(
                f"{self.daemon.url}rooms/{room}/messages", body, {"Content-Type": "application/json"}
            )
            urllib.request.urlopen(asked, timeout=DEADLINE).close()

    def scroll(self, page: Page, place: int) -> None:
        page.run("document.getElementById('message-pane').scrollTop = arguments[0]", place)

    def hide(self, page: Page, hidden: bool) -> None:
        """Have the browser say that the window was covered, or is seen again."""
        page.run(_HIDE.replace("arguments_", json.dumps(hidden)))

    # Who is here

    def test_people_and_typing(self) -> None:
        """Who else is here is seen, under the present name, with who is away, and who is typing till that is sent."""
        ann, bob = self.open(name="Ann"), self.open(name="Bob")
        here = [["Ann", "you, guest"], ["Bob", "guest"]]
        wait_until(lambda: ann.run(_PEOPLE) == here, lambda: str(ann.run(_PEOPLE)))
        self.assertEqual("2 people here", ann.read("people-title"))
        self.hide(bob, True)
        wait_until(lambda: ann.run(_PEOPLE)[1] == ["Bob", "guest, away"], lambda: str(ann.run(_PEOPLE)))
        self.hide(bob, False)
        wait_until(lambda: ann.run(_PEOPLE) == here, lambda: str(ann.run(_PEOPLE)))
        bob.rename("Robert")
        wait_until(lambda: ann.run(_PEOPLE)[1][0] == "Robert", lambda: str(ann.run(_PEOPLE)))
        bob.run("document.getElementById('message-text').focus()")
        bob.write("Hello")
        wait_until(lambda: ann.read("typing-line") == "Robert (guest) is typing …", lambda: ann.read("typing-line"))
        self.assertEqual("", bob.read("typing-line"))
        bob.press("Enter")
        ann.wait_for("Hello")
        wait_until(lambda: ann.read("typing-line") == "", lambda: ann.read("typing-line"))
        bob.tab.goto("about:blank")
        wait_until(lambda: len(ann.run(_PEOPLE)) == 1, lambda: str(ann.run(_PEOPLE)))
        self.assert_quiet(ann)

    def test_private_room(self) -> None:
        """Another's private room is refused in words, once; it isn't tried again."""
        page = self.open_only("?room=@somebody")
        wait_until(lambda: "of that id alone may read" in page.problem, lambda: page.problem)
        page.go_to("lobby")
        self.assertEqual("", page.problem)
        page.reload()
        page.wait_connected()
        wait_until(lambda: page.read("people-title") == "1 person here", lambda: page.read("people-title"))
        self.assertEqual(("", [["lobby", "", "page"]]), (page.problem, page.run(_ROOMS)))

    # Reading

    def test_history_by_scrolling(self) -> None:
        """Who scrolls up gets what was said before, in order and to the beginning, and stays where the eyes were."""
        said = [f"line {number}" for number in range(130)]
        self.say(*said)
        page = self.open()
        page.wait_for("line 129")
        wait_until(lambda: page.texts == said[80:], lambda: f"{len(page.texts)} messages")
        page.run(_BUSY_SEEN)
        for begin in (30, 0):
            self.scroll(page, 150)
            before = page.run(_ANCHOR)
            wait_until(lambda begin=begin: page.texts == said[begin:], lambda: f"{len(page.texts)} messages")
            self.assertLessEqual(abs(before[1] - page.run(_PLACE_OF, before[0])[1]), 2)  # places are rounded
        self.assertEqual(["true", "false", "true", "false"], page.run("return window.busy"))
        hidden = "return document.querySelector(arguments[0]).hasAttribute('hidden')"
        self.assertEqual([True, False], [page.run(hidden, name) for name in (".earlier", ".beginning")])
        self.assert_quiet(page)

    def test_newer(self) -> None:
        """Who has scrolled up isn't moved by what is said; a button and the title say how much is new, and it leads
        there."""
        self.say(*(f"line {number}" for number in range(40)))
        page = self.open()
        page.wait_for("line 39")
        self.scroll(page, 300)
        wait_until(lambda: page.run("return document.getElementById('newer-button').hasAttribute('hidden')"))
        before = page.run(_ANCHOR)
        self.say("one", "two", "three")
        page.wait_for("three")
        wait_until(lambda: page.title == "(3) lobby – chat", lambda: page.title)
        self.assertEqual(before, page.run(_ANCHOR))
        self.assertEqual("3 new", page.read("newer-button"))
        kinds = [kind for kind, *_ in page.run(_ITEMS)]
        self.assertEqual(4, len(kinds) - kinds.index("divider"))
        page.click("newer-button")
        wait_until(lambda: page.title == "lobby – chat", lambda: page.title)
        self.assertTrue(page.run("return document.getElementById('newer-button').hasAttribute('hidden')"))
        self.say("four")
        page.wait_for("four")
        self.assertEqual("lobby – chat", page.title)
        self.assert_quiet(page)

    def test_unread_while_covered(self) -> None:
        """What comes while the window is covered is counted in its title until it is seen."""
        page = self.open()
        self.hide(page, True)
        self.say("one", "two")
        wait_until(lambda: page.title == "(2) lobby – chat", lambda: page.title)
        self.hide(page, False)
        self.assertEqual("lobby – chat", page.title)
        self.assertEqual(["New", "Today", "one", "two"], [text for _, text, *_ in page.run(_ITEMS)])

    def test_rooms(self) -> None:
        """Rooms are in the address and in a list, with what is unread in those that were visited; each keeps its
        draft; a room that is left goes."""
        self.say("first", room="elsewhere")
        page = self.open("#news")
        wait_until(lambda: ["elsewhere", "", ""] in page.run(_ROOMS), lambda: str(page.run(_ROOMS)))
        page.run("document.getElementById('message-text').value = 'a draft'")
        page.go_to("lobby")
        self.assertEqual("?room=lobby", page.run("return location.search + location.hash"))
        self.assertEqual("lobby", page.read("room-title"))
        self.assertEqual("", page.run("return document.getElementById('message-text').value"))
        self.say("extra", "extra!", room="news")
        wanted = [["elsewhere", "", ""], ["lobby", "", "page"], ["news", "2", ""]]
        wait_until(lambda: page.run(_ROOMS) == wanted, lambda: str(page.run(_ROOMS)))
        self.assertEqual("(2) lobby – chat", page.title)
        page.reload()
        wait_until(lambda: page.run(_ROOMS) == wanted, lambda: str(page.run(_ROOMS)))
        page.run("document.querySelectorAll('.room a')[2].click()")
        page.wait_for("extra!")
        wait_until(lambda: page.title == "news – chat", lambda: page.title)
        page.run("history.back()")
        wait_until(lambda: page.read("room-title") == "lobby")
        page.run("document.querySelectorAll('.room .leave')[2].click()")
        wait_until(lambda: self.daemon.get("rooms/news/members")["count"] == 0)
        page.go_to("not a room!")
        self.assertIn("“not a room!” can't be a room", page.problem)
        self.assertEqual("lobby", page.read("room-title"))
        self.assert_quiet(page)

    def test_drafts(self) -> None:
        """What was begun in one room is there when one is back."""
        page = self.open()
        page.run("document.getElementById('message-text').value = 'a draft'")
        page.go_to("news")
        self.assertEqual("", page.run("return document.getElementById('message-text').value"))
        page.run("location.hash = 'lobby'")
        wait_until(lambda: page.read("room-title") == "lobby")
        self.assertEqual("a draft", page.run("return document.getElementById('message-text').value"))

    def test_days_and_groups(self) -> None:
        """Days are parted, what one sender says in a breath stands together, and each time is whole in its title and
        for programs."""
        self.say("long ago", "today", "and again")
        self.daemon.terminate()
        then = 1767268800000  # noon of 1 January 2026, UTC
        with sqlite3.connect(self.daemon.directory / "data" / "realtime.sqlite") as database:
            database.execute("UPDATE messages SET at = ? WHERE offset = 1", (then,))
        database.close()
        self.daemon.start()
        page = self.open()
        page.wait_for("and again")
        items = page.run(_ITEMS)
        self.assertEqual(["day", "", "day", "", "continued"], [item[0] for item in items])
        self.assertEqual(["long ago", "Today", "today", "and again"], [item[1] for item in items[1:]])
        self.assertEqual("2026-01-01", items[0][2])
        self.assertIn("2026", items[0][1])
        self.assertEqual("2026-01-01T12:00:00.000Z", items[1][2])
        self.assertIn("2026", items[1][3])

    def test_links(self) -> None:
        """Addresses become links that tell nothing and give nothing away; only of kinds that are harmless."""
        page = self.open()
        self.say(
            "See https://example.com/a_(b)?c=1&d=2, (http://example.org/). Or mailto:ann@example.com!",
            "javascript:alert(1) data:text/html,x ftp://example.com vbscript:x http:// https:/// mailto:",
            'HTTPS://EXAMPLE.COM/"onclick="alert(1) https://example.com/<b>',
        )
        page.wait_for('HTTPS://EXAMPLE.COM/"onclick="alert(1) https://example.com/<b>')
        addresses = [
            *("https://example.com/a_(b)?c=1&d=2", "http://example.org/", "mailto:ann@example.com"),
            *("HTTPS://EXAMPLE.COM/", "https://example.com/"),
        ]
        rel = "noopener noreferrer nofollow ugc"
        self.assertEqual([[address, address, "_blank", rel] for address in addresses], page.run(_LINKS))
        self.assert_quiet(page)

    # Writing

    def test_keyboard_only(self) -> None:
        """With the keyboard alone one gets to each part, writes several lines, sends, and reads; the focus never moves
        by itself."""
        page, other = self.open(name="Ann"), self.open(name="Bob")
        self.assertEqual("BODY", page.focused.split(" ")[0])
        page.press("Tab")
        self.assertEqual("skip-link", page.focused)
        page.press("Enter")
        self.assertEqual("message-text", page.focused)
        height = page.run("return document.getElementById('message-text').offsetHeight")
        page.write("first line")
        page.press("Shift+Enter")
        page.write("second line")
        self.assertGreater(page.run("return document.getElementById('message-text').offsetHeight"), height)
        page.press("Enter")
        other.wait_for("first line\nsecond line")
        page.run(_WATCH_FOCUS)
        self.say(*(f"line {number}" for number in range(40)))
        page.wait_for("line 39")
        self.daemon.kill()
        page.wait_disconnected()
        self.daemon.start()
        page.wait_connected()
        self.assertEqual(("message-text", []), (page.focused, page.run("return window.focused")))
        passed = []
        while page.focused != "message-pane":
            page.press("Shift+Tab")
            passed.append(page.focused)
            self.assertLess(len(passed), 10, passed)
        page.press("Home")
        where = "return document.getElementById('message-pane').scrollTop"
        wait_until(lambda: page.run(where) == 0, lambda: str(page.run(where)))
        for _ in range(12):
            page.press("Tab")
            passed.append(page.focused)
        self.assertLessEqual({"message-pane", "message-text", "send-button", "own-name"}, set(passed))

    def test_pending_then_sent(self) -> None:
        """Without a connection the page says so and what it does about it; what one writes waits, and is sent."""
        page, other = self.open(name="Ann"), self.open(name="Bob")
        page.type("before")
        other.wait_for("before")
        self.daemon.kill()
        wait_until(lambda: page.state == "Connection lost. What you write is kept, and sent later.", lambda: page.state)
        page.type("meanwhile")
        page.type("and more")
        self.assertEqual(["meanwhileWaiting for the connection", "and moreWaiting for the connection"], page.pending)
        wait_until(lambda: page.read("status-countdown").startswith("Trying again"))
        page.rename_only("Anna")
        self.daemon.start()
        page.run(_RETRY)
        for reader in (page, other):
            reader.wait_for("and more")
            self.assertEqual(["before", "meanwhile", "and more"], reader.texts)
        page.wait_connected("WebSocket")
        wait_until(lambda: page.pending == [], lambda: str(page.pending))
        self.assertEqual(["Ann", "Anna", "Anna"], [message["name"] for message in other.messages])
        self.assertTrue(all(message["own"] for message in page.messages))

    def test_refused(self) -> None:
        """What the server doesn't take is said so, kept, and can be tried again or dropped."""
        page = self.open()
        page.run("document.getElementById('message-text').removeAttribute('maxlength')")
        page.type("x" * 70_000)
        wait_until(lambda: page.pending and "Not sent: " in page.pending[0], lambda: str(page.pending)[-200:])
        page.run("document.querySelector('.outbox .again').click()")
        wait_until(lambda: "Not sent: " in page.pending[0])
        page.run("document.querySelector('.outbox .drop').click()")
        self.assertEqual([], page.pending)
        page.type("short")
        page.wait_for("short")

    # Who can't do all

    def test_old_browser(self) -> None:
        """A browser that knows nothing new, and no style sheet, shows a chat that works."""
        page, other = self.open(before=_OLD, name="Old"), self.open(name="New")
        page.run("var sheet = document.querySelector('link[rel=stylesheet]'); sheet.parentNode.removeChild(sheet)")
        page.wait_connected("long poll")
        page.type("from an old one")
        other.wait_for("from an old one")
        other.type("from a new one")
        page.wait_for("from a new one")
        wait_until(lambda: len(page.run(_PEOPLE)) == 2, lambda: str(page.run(_PEOPLE)))
        page.rename("Older")
        page.go_to("news")
        wait_until(lambda: page.read("room-title") == "news")
        page.type("what is new")
        page.wait_for("what is new")
        self.assert_quiet(page, other)

    def test_faults(self) -> None:
        """axe-core finds no serious or critical fault: on a phone and a desktop, light and dark, quiet and busy,
        connected and not."""
        page, other = self.open(name="Ann"), self.open(name="Bob")
        for state in ("empty", "busy", "offline"):
            self.bring(state, page, other)
            for device, scheme in self.looks:
                page.emulate(*SIZES[device], scheme)
                page.screenshot(f"{self.kind}-{state}-{device}-{scheme}")
                self.assertEqual([], page.faults, (state, device, scheme))
        page.run("document.querySelector('label[for=message-text]').textContent = ''")
        page.run("document.getElementById('message-text').removeAttribute('placeholder')")
        self.assertNotEqual([], page.faults)

    def bring(self, state: str, page: Page, other: Page) -> None:
        """Bring the page into a state that is worth a look."""
        if state == "busy":
            for number in range(12):
                other.type(f"Line {number} of https://example.com/")
                page.type(f"I see {number}")
            page.wait_for("I see 11")
            self.scroll(page, 100)
            other.type("Something new")
            self.say("elsewhere", room="news")
            page.wait_for("Something new")
            other.run("document.getElementById('message-text').focus()")
            other.write("Hm")
            wait_until(lambda: page.read("typing-line"))
        elif state == "offline":
            self.daemon.kill()
            page.wait_disconnected()
            self.assertEqual("", page.read("typing-line"))
            page.type("Is anybody there?")


class FirefoxUseTests(UseTests):
    """The page as it is used, in Firefox."""

    kind = "firefox"
    looks = UseTests.looks if SOAK else (("phone", "light"), ("desktop", "dark"))
