"""The chat page in real Chromium, against a real daemon.

With ``SOAK=1`` in the environment each page says a hundred messages while something happens, and not thirty, and
all names are taken in a page, and not every eighth.
"""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from importlib.resources import files
from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from tests.deadlines import DEADLINE, Stopwatch
from tests.functional.daemon import SOAK, wait_until
from tests.functional.pages import DEAF_AT_FIRST, WITHOUT_WEBSOCKET, Page, PageTestCase

SAID = 100 if SOAK else 30
RENAMED = 1 if SOAK else 8

PAYLOADS = (
    # elements that run something by themselves
    "<img src=x onerror=alert(1)>",
    "<img src=x onerror=alert(1)//",
    '<img src="x" onerror="alert(String.fromCharCode(88))">',
    "<IMG SRC=x ONERROR=alert(1)>",
    "<img/src=x/onerror=alert(1)>",
    '<img """><script>alert(1)</script>">',
    "<svg onload=alert(1)>",
    "<svg/onload=alert(1)//",
    "<svg><script>alert(1)</script></svg>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<svg><a xlink:href=javascript:alert(1)><text y=9>x</text></a>",
    "<script>alert(1)</script>",
    "<ScRiPt>alert(1)</sCrIpT>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<script src=data:text/javascript,alert(1)></script>",
    "<script src=chat.js></script>",
    "</script><script>alert(1)</script>",
    "<body onload=alert(1)>",
    "<video><source onerror=alert(1)></video>",
    "<audio src=x onerror=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<input autofocus onfocus=alert(1)>",
    "<marquee onstart=alert(1)>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<object data=javascript:alert(1)>",
    "<embed src=javascript:alert(1)>",
    "<meta http-equiv=refresh content='0;url=about:blank'>",
    "<base href=about:blank>",
    "<link rel=stylesheet href=data:text/css,*{display:none}>",
    "<style>*{display:none}</style>",
    "<form action=about:blank><button>x",
    "<template><img src=x onerror=alert(1)></template>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    # what breaks out of something
    "</li></ol><h1>out</h1>",
    "</textarea><img src=x onerror=alert(1)>",
    "</title><img src=x onerror=alert(1)>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "--><img src=x onerror=alert(1)>",
    "]]><img src=x onerror=alert(1)>",
    "<![CDATA[<img src=x onerror=alert(1)>]]>",
    "<!-- <img src=x onerror=alert(1)>",
    "';alert(1)//",
    "\\u003cimg src=x onerror=alert(1)\\u003e",
    "\\x3cscript\\x3ealert(1)\\x3c/script\\x3e",
    # links
    "javascript:alert(1)",
    "<a href=javascript:alert(1)>x</a>",
    "[x](javascript:alert(1))",
    "data:text/html,<script>alert(1)</script>",
    # entities, and templates of other programs
    "&lt;img src=x onerror=alert(1)&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "&amp;lt;b&amp;gt; &nbsp; &copy;",
    "{{constructor.constructor('alert(1)')()}}",
    "${alert(1)} <%= alert(1) %> #{alert(1)}",
    "%3Cimg%20src=x%20onerror=alert(1)%3E",
    # names of properties
    "__proto__",
    "constructor",
    "undefined",
    "null",
    '{"type":"message","text":"x"}',
    # tricks with characters
    "＜script＞alert(1)＜/script＞",
    "\u202e<img src=x onerror=alert(1)>\u202c",
    "\u2066<svg onload=alert(1)>\u2069",
    "<\u200bscript>alert(1)</\u200bscript>",
    "\ufeff<img src=x onerror=alert(1)>\ufeff.",
    "+ADw-script+AD4-alert(1)+ADw-/script+AD4-",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 e\u0301 \U0001d54f",
    "z" + "\u0335\u0322\u034a" * 20,
    "مرحبا <b>שלום</b>",
    "\x00<img src=x onerror=alert(1)>\x00",
    "a\x08\x1b[31mb\x7f\x85",
    "two lines\u2028<img src=x onerror=alert(1)>",
    "one\n<img src=x onerror=alert(1)>\n\ttwo",
    # long
    "<b>" * 1000,
    "x" * 9000,
    "\U0001f600" * 2000,
)

_NAMES = tuple(
    payload[:32] if max(payload) > "\uffff" else payload[:64].strip()
    for payload in PAYLOADS
    if not re.search("[\x00-\x1f\x7f-\x9f\u2028\ufeff]", payload)
)

_KEEP_TALKING = """
var prefix = arguments[0], count = arguments[1], pause = arguments[2], sent = 0;
var timer = window.setInterval(function () {
  sent += 1;
  document.getElementById('message-text').value = prefix + sent;
  document.getElementById('send-button').click();
  if (sent === count) {
    window.clearInterval(timer);
  }
}, pause);
"""

_SEND_ALL = """
arguments[0].forEach(function (text) {
  document.getElementById('message-text').value = text;
  document.getElementById('send-button').click();
});
"""

_FOREIGN_ELEMENTS = """
var expected = {OL: 1, LI: 1, DIV: 1, BDI: 1, TIME: 1};
var inside = document.querySelectorAll('.log *, .outbox *');
var strange = Array.prototype.filter.call(inside, function (node) {
  return !expected[node.tagName] && node.outerHTML !== '<span class="guest">guest</span>';
});
return strange.concat(Array.prototype.slice.call(document.querySelectorAll('.log .text *, .name *')))
  .map(function (node) { return node.outerHTML; });
"""

# For every text that is shown: its contrast with the nearest background that isn't transparent (WCAG 2.1, 1.4.3).
_POOR_CONTRASTS = """
function parts(colour) { return colour.match(/[0-9.]+/g).map(Number); }
function luminance(colour) {
  var rgb = parts(colour).slice(0, 3).map(function (part) {
    part /= 255;
    return part <= 0.03928 ? part / 12.92 : Math.pow((part + 0.055) / 1.055, 2.4);
  });
  return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
}
function background(node) {
  var colour = getComputedStyle(node).backgroundColor;
  return parts(colour)[3] === 0 ? background(node.parentElement) : colour;
}
function hasText(node) {
  return /INPUT|TEXTAREA/.test(node.tagName) ||
    Array.prototype.some.call(node.childNodes, function (child) { return child.nodeType === 3 && child.data.trim(); });
}
return Array.prototype.filter.call(document.body.querySelectorAll('*'), function (node) {
  return node.getClientRects().length && hasText(node);
}).map(function (node) {
  var both = [luminance(getComputedStyle(node).color), luminance(background(node))].sort(function (a, b) {
    return a - b;
  });
  return [(both[1] + 0.05) / (both[0] + 0.05), node.tagName + '.' + node.className];
}).filter(function (found) { return found[0] < 4.5; });
"""

_OUTSIDE = """
var viewport = document.documentElement;
return Array.prototype.filter.call(document.querySelectorAll('header, main, form, input, button, textarea, .message'),
  function (node) {
    var box = node.getBoundingClientRect();
    return box.left < 0 || box.right > viewport.clientWidth + 0.5;
  }).map(function (node) { return node.outerHTML; })
  .concat(viewport.scrollWidth > viewport.clientWidth ? ['the page scrolls sideways'] : [])
  .concat(document.getElementById('send-button').getBoundingClientRect().bottom > viewport.clientHeight + 0.5 ?
    ['the message box is below the fold'] : []);
"""

# Also how Chromium calls it when the daemon is killed while it answers.
_REFUSED = re.compile(
    "net::ERR_(CONNECTION_(REFUSED|RESET|CLOSED)|SOCKET_NOT_CONNECTED|EMPTY_RESPONSE|INCOMPLETE_CHUNKED_ENCODING)"
)


class PageTests(PageTestCase):
    """What people see of the daemon."""

    def open_by(self, websocket: bool = True, query: str = "") -> Page:
        """Open the page in a browser of its own, and wait until it is connected."""
        page = self.open(query, before="" if websocket else WITHOUT_WEBSOCKET)
        page.wait_connected("WebSocket" if websocket else "long poll")
        return page

    def assert_quiet(self, *pages: Page, was_down: bool = False) -> None:
        """No page reports anything; connections were refused only if the daemon was down."""
        for page in pages:
            self.assertEqual([], page.trouble)
            console = [line for line in page.console if not (was_down and _REFUSED.search(line))]
            self.assertEqual([], console)

    def say_as(self, name: str, text: str) -> None:
        """Publish a message under a name, from outside of any browser."""
        commands = [{"type": "hello", "name": name}, {"type": "publish", "room": "lobby", "data": {"text": text}}]
        body = json.dumps(commands).encode()
        asked = urllib.request.Request(f"{self.daemon.url}commands", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(asked, timeout=DEADLINE).close()

    def assert_only_text(self, *pages: Page) -> None:
        """Nothing that somebody sent has become an element."""
        for page in pages:
            self.assertEqual([], page.run(_FOREIGN_ELEMENTS))

    def test_both_transports_talk(self) -> None:
        """A page with WebSocket and one without chat in both directions, in order."""
        modern, legacy = self.open_by(), self.open_by(websocket=False)
        expected = []
        for number in range(10):
            for sender, reader, prefix in ((modern, legacy, "m"), (legacy, modern, "l")):
                text = f"{prefix}{number}"
                sender.type(text)
                reader.wait_for(text)
                expected.append(text)
        self.assertEqual(expected, modern.texts)
        self.assertEqual(expected, legacy.texts)
        for page, prefix in ((modern, "m"), (legacy, "l")):
            self.assertEqual([text[0] == prefix for text in expected], [shown["own"] for shown in page.messages])
        self.assert_quiet(modern, legacy)

    def test_history_on_arrival(self) -> None:
        """Who comes later sees what was said; who comes back is known again, by name and as the sender."""
        page = self.open_by()
        page.rename("Zoë")
        for text in ("first", "second"):
            page.type(text)
            page.wait_for(text)
        page.reload()
        page.wait_for("second")
        late = self.open_by(websocket=False)
        late.wait_for("second")
        said = [("Zoë", "first"), ("Zoë", "second")]
        for reader, own in ((page, True), (late, False)):
            shown = [(message["name"], message["text"], message["own"]) for message in reader.messages]
            self.assertEqual([(*message, own) for message in said], shown)
        self.assert_quiet(page, late)

    def test_rooms_by_url(self) -> None:
        """The room stands in the URL, what is said in one is not seen in another, and one can go there."""
        here, there = self.open_by(query="?room=here"), self.open_by(query="?room=there")
        here.type("only here")
        here.wait_for("only here")
        there.type("only there")
        there.wait_for("only there")
        self.assertEqual(["only here"], here.texts)
        self.assertEqual(["only there"], there.texts)
        there.go_to("here")
        there.wait_for("only here")
        self.assertEqual(["only here"], there.texts)
        self.assert_quiet(here, there)

    def test_impossible_room(self) -> None:
        """A room that can't be is refused in words, and its name is text."""
        page = self.open_only("?room=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
        wait_until(lambda: page.problem, lambda: f"the page says {page.state}")
        self.assertIn("a room's name is", page.problem)
        self.assertEqual("<img src=x onerror=alert(1)>", page.read("room-title"))
        self.assertEqual(0, page.run("return document.querySelectorAll('img').length"))
        self.assert_quiet(page)

    def test_killed_in_mid_conversation(self) -> None:
        """After kill -9 and a restart every message is there once and in order, those typed meanwhile included."""
        modern, legacy = self.open_by(), self.open_by(websocket=False)
        pages = {"m": modern, "l": legacy}
        for prefix, page in pages.items():
            page.run(_KEEP_TALKING, prefix, SAID, 3000 / SAID)
        wait_until(lambda: min(len(page.texts) for page in pages.values()) >= SAID * 0.4)
        self.daemon.kill()
        for prefix, page in pages.items():
            page.wait_disconnected()
            wait_until(lambda page=page, last=f"{prefix}{SAID}": any(last in item for item in page.pending))
            page.type(f"{prefix}{SAID + 1}")
        self.daemon.start()
        for page in pages.values():
            wait_until(
                lambda page=page: len(page.texts) >= 2 * SAID + 2, lambda page=page: f"{len(page.texts)} messages"
            )
            page.wait_connected()
        self.assertEqual(modern.texts, legacy.texts)
        for prefix in pages:
            expected = [f"{prefix}{number}" for number in range(1, SAID + 2)]
            self.assertEqual(expected, [text for text in modern.texts if text.startswith(prefix)])
        for page in pages.values():
            self.assertEqual([], page.pending)
            self.assertEqual([], page.notices)
        self.assert_quiet(modern, legacy, was_down=True)

    def test_stopped_and_started(self) -> None:
        """A daemon that is stopped says goodbye; both pages come back to the one that follows."""
        modern, legacy = self.open_by(), self.open_by(websocket=False)
        modern.type("before")
        legacy.wait_for("before")
        self.daemon.terminate()
        for page in (modern, legacy):
            page.wait_disconnected()
        self.daemon.start()
        legacy.type("after")
        for page in (modern, legacy):
            page.wait_for("after")
            self.assertEqual(["before", "after"], page.texts)
        self.assert_quiet(modern, legacy, was_down=True)

    def test_begun_anew(self) -> None:
        """Where the daemon has lost everything, pages say that messages were missed, and talk on."""
        pages = self.open_by(), self.open_by(websocket=False)
        pages[0].type("before")
        pages[1].wait_for("before")
        self.daemon.kill()
        shutil.rmtree(self.daemon.directory / "data")
        self.daemon.start()
        for page in pages:
            wait_until(lambda page=page: page.notices)
            self.assertEqual(["Some messages were missed here: the server no longer has them."], page.notices)
        for sender, reader, text in ((*pages, "after"), (*reversed(pages), "later")):
            sender.type(text)
            reader.wait_for(text)
            sender.wait_for(text)
        for page in pages:
            self.assertEqual(["before", "after", "later"], page.texts)
        self.assert_quiet(*pages, was_down=True)

    def test_websocket_that_never_opens(self) -> None:
        """Where WebSocket doesn't open the page does without; later it tries again, and nothing is lost or doubled."""
        page, other = self.open_only(before=DEAF_AT_FIRST), self.open_by()
        page.wait_connected("server-sent events")
        page.run(_KEEP_TALKING, "p", SAID, 12_000 / SAID)
        other.run(_KEEP_TALKING, "o", SAID, 12_000 / SAID)
        page.wait_connected("WebSocket")
        for reader in (page, other):
            wait_until(
                lambda reader=reader: len(reader.texts) >= 2 * SAID, lambda reader=reader: f"{len(reader.texts)}"
            )
            for prefix in "po":
                expected = [f"{prefix}{number}" for number in range(1, SAID + 1)]
                self.assertEqual(expected, [text for text in reader.texts if text.startswith(prefix)])
        self.assertEqual(page.texts, other.texts)
        self.assert_quiet(page, other)

    def test_typing_ends(self) -> None:
        """Who begins to write and goes away is not said to be typing for long."""
        page, other = self.open(name="Ann"), self.open(name="Bob")
        other.run("document.getElementById('message-text').focus()")
        other.write("Well")
        wait_until(lambda: page.read("typing-line") == "Bob (guest) is typing …")
        wait_until(lambda: page.read("typing-line") == "")

    def test_closing_and_reloading(self) -> None:
        """Who leaves the page is no member after two seconds, whatever its transport was; who reloads it stays one."""

        def members() -> list[str]:
            return [member["id"] for member in self.daemon.get("rooms/lobby/members")["members"]]

        for websocket in (True, False):
            page = self.open_by(websocket)
            (member,) = wait_until(members)
            page.reload()
            page.wait_connected()
            self.assertEqual([member], members())
            watch = Stopwatch(self.daemon.pid)
            page.run("window.location = 'about:blank'")
            wait_until(lambda: not members(), lambda: str(members()))
            self.assertLess(watch.seconds(), 4)  # of which the browser takes some

    def test_text_is_text(self) -> None:
        """Whatever is sent is shown, as it was sent, and is nothing but text."""
        modern, legacy = self.open_by(), self.open_by(websocket=False)
        modern.run(_SEND_ALL, PAYLOADS)
        for page in (modern, legacy):
            page.wait_for(PAYLOADS[-1])
            self.assertEqual(list(PAYLOADS), page.texts)
        self.assert_only_text(modern, legacy)
        self.assert_quiet(modern, legacy)

    def test_name_is_text(self) -> None:
        """Whatever somebody is called is shown, and is nothing but text."""
        modern, legacy = self.open_by(), self.open_by(websocket=False)
        for number, name in enumerate(_NAMES):
            if number % RENAMED == 0:
                modern.rename(name)
                modern.type(f"I am {number}")
                modern.wait_for(f"I am {number}")
            else:
                self.say_as(name, f"I am {number}")
        for page in (modern, legacy):
            page.wait_for(f"I am {len(_NAMES) - 1}")
            self.assertEqual(list(_NAMES), [shown["name"] for shown in page.messages])
        self.assert_only_text(modern, legacy)
        self.assert_quiet(modern, legacy)

    def test_looks(self) -> None:
        """On a phone and on a desktop, light and dark, everything is in sight and can be read."""
        page, other = self.open_by(), self.open_by(websocket=False)
        _talk(page, other)
        for device, width, height in (("phone", 360, 740), ("desktop", 1280, 800)):
            for scheme in ("light", "dark"):
                page.emulate(width, height, scheme)
                page.screenshot(f"{device}-{scheme}")
                self.assertEqual([], page.run(_OUTSIDE), device)
                self.assertEqual([], page.run(_POOR_CONTRASTS), scheme)
        self.daemon.kill()
        page.wait_disconnected()
        page.type("Is anybody there?")
        page.screenshot("desktop-dark-down")
        self.assertEqual([], page.run(_POOR_CONTRASTS))


def _talk(ann: Page, bob: Page) -> None:
    ann.rename("Ann")
    bob.rename("Bob with a rather long name that goes on")
    for sender, text in (
        (ann, "Morning! Does anybody know when the boat leaves?"),
        (bob, "At ten, I think.\nThere is another one at noon."),
        (bob, "https://example.invalid/" + "a-very-long-address-without-any-break" * 4),
        (ann, "Thanks 👍"),
        (ann, "Then I'll have breakfast first. " * 6),
        (bob, "مرحبا، أراك هناك"),
    ):
        sender.type(text)
        ann.wait_for(text)
        bob.wait_for(text)


class FilesTests(SynchronousTestCase):
    """The page's files, read."""

    patterns: ClassVar[dict[str, str]] = {
        "html": r"""(?:href|src|action)\s*=\s*["']?\s*(?!data:)(?:/|[a-z][a-z0-9+.-]*:)[^"'>]*""",
        "css": r"""(?:url\(|@import)\s*["']?\s*(?!data:)(?:/|[a-z][a-z0-9+.-]*:)[^"')]*""",
        "js": r"""["'](?:/|[a-z][a-z0-9+.-]*:/)[^"']*""",
    }

    def files(self) -> dict[str, str]:
        """The page's own files, by their names."""
        directory = files("realtime_chat") / "static"
        names = [file.name for file in directory.iterdir() if not file.name.startswith("realtime.")]
        return {name: (directory / name).read_text("utf-8") for name in names}

    def test_any_mount_path(self) -> None:
        """No URL names a host or starts at the root, so that the page works wherever it is mounted."""
        for name, text in self.files().items():
            pattern = self.patterns[name.rpartition(".")[2]]
            self.assertEqual([], re.findall(pattern, text, re.IGNORECASE), name)

    def test_never_markup(self) -> None:
        """Nothing is ever read as HTML or as a program."""
        for name, text in self.files().items():
            if name.endswith(".js"):
                self.assertNotRegex(text, r"HTML\b|document\.write|\beval\b|new Function|setAttribute\('on", name)

    def test_all_are_loaded(self) -> None:
        """The page loads every script that is there, once, the library first."""
        loaded = re.findall(r'<script src="([^"]+)"></script>', self.files()["index.html"])
        scripts = sorted(name for name in self.files() if name.endswith(".js"))
        self.assertEqual((["realtime.js"], scripts), (loaded[:1], sorted(loaded[1:])))

    def test_without_scripts(self) -> None:
        """Where scripts are off the page says so, and where messages can be read."""
        (text,) = re.findall(r"<noscript>(.*)</noscript>", self.files()["index.html"])
        self.assertIn("JavaScript", text)
        self.assertIn('href="rooms/lobby/messages"', text)

    def test_nothing_inline(self) -> None:
        """No script and no style stands in the page itself, as its content security policy forbids both."""
        self.assertNotRegex(self.files()["index.html"], r"(?i)<style|\sstyle=|\son[a-z]+=|<script(?! src=)")
