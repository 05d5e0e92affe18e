"""What the chat page says besides messages, and how it can be seen: banners, refusals, states without colours."""

from __future__ import annotations

import json
import urllib.request

from tests.deadlines import DEADLINE
from tests.functional.daemon import wait_until
from tests.functional.pages import SIZES, Page, PageTestCase

# How far the last message, or what is on its way, reaches below what is in sight, in pixels; and whether it is covered.
_BELOW = """
var pane = document.getElementById('message-pane'), box = pane.getBoundingClientRect();
var all = pane.querySelectorAll('.message'), last = all[all.length - 1].getBoundingClientRect();
var found = document.elementFromPoint(last.left + 20, last.bottom - 4);
return [Math.max(0, Math.round(last.bottom - box.bottom)), !found || !pane.contains(found)];
"""

_OFFLINE = """
Object.defineProperty(navigator, 'onLine', {configurable: true, get: function () { return false; }});
window.dispatchEvent(new Event('offline'));
"""

_ROOM_FIELD = """
var field = document.getElementById('room-name');
return [field.value, field.getAttribute('aria-invalid'), document.activeElement === field,
  document.getElementById(field.getAttribute('aria-describedby') || 'nothing') !== null];
"""

# Where an element is, and where the dot before its text is.
_BOX = """
var node = document.querySelector(arguments[0]), box = node.getBoundingClientRect();
var dot = parseFloat(getComputedStyle(node).fontSize) * 0.8;
return {x: box.left, y: box.top, width: arguments[1] ? dot : box.width, height: box.height};
"""

# Of a picture: how much of it is dark, and which colour it has most of.
_PIXELS = """
const bytes = Uint8Array.from(atob(%s), (letter) => letter.charCodeAt(0));
const picture = await createImageBitmap(new Blob([bytes], {type: 'image/png'}));
const canvas = new OffscreenCanvas(picture.width, picture.height).getContext('2d');
canvas.drawImage(picture, 0, 0);
const {data} = canvas.getImageData(0, 0, picture.width, picture.height), counts = {};
let dark = 0;
for (let at = 0; at < data.length; at += 4) {
  const colour = Array.from(data.slice(at, at + 3)).join(' ');
  counts[colour] = (counts[colour] || 0) + 1;
  dark += data[at] + data[at + 1] + data[at + 2] < 384 ? 1 : 0;
}
return [dark * 4 / data.length, Object.keys(counts).sort((one, two) => counts[two] - counts[one])[0]];
"""

# What is around an element.
_EDGE = """
var style = getComputedStyle(document.querySelector(arguments[0]));
return style.borderTopStyle + ' ' + style.borderTopWidth;
"""

_FORCED = [{"name": "forced-colors", "value": "active"}, {"name": "prefers-color-scheme", "value": "light"}]


class SignCase(PageTestCase):
    """A page with more messages than fit."""

    def filled(self, count: int = 30, before: str = "") -> Page:
        """A page that shows so many messages."""
        for number in range(count):
            body = json.dumps({"data": {"text": f"Line {number}"}}).encode()
            kind = {"Content-Type": "application/json"}
            urllib.request.urlopen(
                urllib.request.Request(f"{self.daemon.url}rooms/lobby/messages", body, kind), timeout=DEADLINE
            ).close()
        page = self.open(name="Ann", before=before)
        if count:
            page.wait_for(f"Line {count - 1}")
        return page

    def check_newest(self, page: Page, what: str) -> None:
        """The newest message is wholly in sight."""
        wait_until(lambda: page.run(_BELOW) == [0, False], lambda: f"{what}: {page.run(_BELOW)}")


class BannerTests(SignCase):
    """What the page says above the messages takes room from them, and hides none; in Chromium."""

    def check_all(self, before: str = "") -> None:
        """Under each banner the newest message is in sight, on a phone and a desktop."""
        page = self.filled(before=before)
        for device, size in SIZES.items():
            page.emulate(*size, "light")
            self.check_newest(page, f"{device}, connected")
            page.run("location.hash = arguments[0]", f"not a room on a {device} " * 5)
            wait_until(lambda: page.problem)
            self.check_newest(page, f"{device}, refused")
            page.screenshot(f"{self.kind}-refused-{device}")
            page.click("problem-dismiss")
            self.check_newest(page, f"{device}, dismissed")
            page.run("document.getElementById('message-text').focus()")
            for _ in range(4):
                page.press("Shift+Enter")
            self.check_newest(page, f"{device}, many lines")
            page.run("document.getElementById('message-text').value = ''")
        self.daemon.kill()
        page.wait_disconnected()
        for device, size in SIZES.items():
            page.emulate(*size, "light")
            self.check_newest(page, f"{device}, disconnected")
            page.type("Is anybody there?")
            self.check_newest(page, f"{device}, pending")
        page.run(_OFFLINE)
        self.check_newest(page, "offline")
        page.screenshot(f"{self.kind}-offline")
        self.daemon.start()
        page.run("document.getElementById('status-retry').click()")
        page.wait_connected()
        self.check_newest(page, "connected again")

    def test_newest_is_in_sight(self) -> None:
        """When a banner comes, changes, or goes, the newest message stays in sight."""
        self.check_all()

    def test_without_observers(self) -> None:
        """So it does in a browser that can't tell when an element's size changes."""
        self.check_all("window.ResizeObserver = undefined;")

    def test_long_name_on_a_small_screen(self) -> None:
        """However long a name is that is refused, and low the screen, the newest message is in sight."""
        page = self.filled()
        page.emulate(568, 320, "light")
        page.run("location.hash = arguments[0]", "no room " * 500)
        wait_until(lambda: page.problem)
        self.check_newest(page, "refused")
        self.daemon.kill()
        page.wait_disconnected()
        self.check_newest(page, "disconnected")
        page.screenshot(f"{self.kind}-small")

    def test_reader_is_left_alone(self) -> None:
        """Who reads further up stays there."""
        page = self.filled()
        page.run("document.getElementById('message-pane').scrollTop = 300")
        page.run("location.hash = 'not a room'")
        wait_until(lambda: page.problem)
        self.daemon.kill()
        page.wait_disconnected()
        page.tab.run("await new Promise(requestAnimationFrame)")
        self.assertEqual(300, page.run("return document.getElementById('message-pane').scrollTop"))


class FirefoxBannerTests(BannerTests):
    """The same in Firefox."""

    kind = "firefox"


class FieldTests(SignCase):
    """What was typed and is refused stays, and is called wrong; in Chromium."""

    def test_room(self) -> None:
        """A room's name that can't be one stays in its field, with the focus, on a phone as well."""
        page = self.filled(0)
        for device, size in SIZES.items():
            page.emulate(*size, "light")
            if device == "phone":
                page.click("rooms-button")
            page.go_to("not a room!")
            self.assertIn("“not a room!” can't be a room", page.problem)
            self.assertEqual(["not a room!", "true", True, True], page.run(_ROOM_FIELD))
            page.screenshot(f"{self.kind}-room-{device}")
            self.assertEqual([], page.faults)
            page.write("?")
            self.assertEqual(["not a room!?", None, True, False], page.run(_ROOM_FIELD))
        page.go_to("news")
        self.assertEqual("", page.problem)
        self.assertEqual("", page.run(_ROOM_FIELD)[0])
        self.assertEqual("news", page.read("room-title"))
        self.assert_quiet(page)

    def test_room_that_the_server_refuses(self) -> None:
        """So does one that the server refuses."""
        page = self.filled(0)
        page.go_to("@somebody")
        wait_until(lambda: page.problem)
        self.assertEqual(["@somebody", "true"], page.run(_ROOM_FIELD)[:2])

    def test_name(self) -> None:
        """A name of nothing but spaces is refused in words, and the name stays what it is."""
        page = self.filled(0)
        page.rename_only("   ")
        self.assertIn("a name is", page.problem)
        self.assertEqual("Ann", page.run("return document.getElementById('own-name').value"))
        page.rename("Anne")
        self.assertEqual("", page.problem)

    def test_message_without_a_room(self) -> None:
        """Where there is no room to say it in, that is said, what was written stays, and goes along to a room."""
        page = self.open_only("?room=not%20a%20room")
        wait_until(lambda: page.problem)
        page.click("problem-dismiss")
        page.type("Hello")
        self.assertIn("can't be a room", page.problem)
        page.go_to("news")
        self.assertEqual("Hello", page.run("return document.getElementById('message-text').value"))

    def test_title_is_that_of_the_room(self) -> None:
        """Where the address comes to name what can't be a room, the room that is shown keeps its name."""
        page = self.filled(0)
        page.run("location.hash = 'not a room'")
        wait_until(lambda: page.problem)
        self.assertEqual("lobby", page.read("room-title"))


class FirefoxFieldTests(FieldTests):
    """The same in Firefox."""

    kind = "firefox"


class ForcedColoursTests(SignCase):
    """Windows's high contrast takes the page's colours away, and no meaning; in Chromium, which can be told of it."""

    def seen(self, page: Page, selector: str, dot: bool = False) -> tuple[float, str]:
        """How much of an element is dark, or of the dot before its text; and its colour."""
        box = {**page.run(_BOX, selector, dot), "scale": 1}
        picture = page.tab.command("Page.captureScreenshot", format="png", clip=box)["data"]
        dark, colour = page.tab.run(_PIXELS % json.dumps(picture))
        return dark, colour

    def force(self, page: Page, device: str) -> None:
        """Force the colours, on a device."""
        page.emulate(*SIZES[device], "light")
        page.tab.command("Emulation.setEmulatedMedia", features=_FORCED)

    def check_filled(self, page: Page, one: tuple[float, str], other: tuple[float, str]) -> None:
        """One dot is filled, and the other isn't."""
        self.assertGreater(one[0], 1.3 * other[0])
        self.assertGreater(other[0], 0)

    def test_people(self) -> None:
        """The dots tell who is here and who is away."""
        page, other = self.filled(0), self.open(name="Bob")
        other.run("Object.defineProperty(document, 'hidden', {configurable: true, get: function () { return true; }})")
        other.run("document.dispatchEvent(new Event('visibilitychange'))")
        wait_until(lambda: page.run("return document.querySelectorAll('.person.away').length"))
        self.force(page, "desktop")
        page.screenshot("forced-people")
        here, away = ".person:not(.away)", ".person.away"
        self.check_filled(page, self.seen(page, here, dot=True), self.seen(page, away, dot=True))

    def test_connection(self) -> None:
        """The dot tells whether one is connected, and banners and messages have edges."""
        page = self.filled(3)
        for device in SIZES:
            self.force(page, device)
            connected = self.seen(page, "#status-text", dot=True)
        self.daemon.kill()
        page.wait_disconnected()
        page.type("Is anybody there?")
        page.run("location.hash = 'not a room'")
        wait_until(lambda: page.problem)
        page.screenshot("forced-disconnected")
        self.check_filled(page, connected, self.seen(page, "#status-text", dot=True))
        for edged in (".status.reconnecting", ".message", "#problem-line"):
            self.assertEqual("solid 1px", page.run(_EDGE, edged), edged)

    def test_rooms(self) -> None:
        """The room that is shown, how much is unread in others, and which panel is open have another colour."""
        page = self.filled(0)
        page.go_to("news")
        page.go_to("lobby")
        other = self.open("?room=news", name="Bob")
        other.type("something new")
        wait_until(lambda: page.read("rooms-count") == "1", lambda: page.read("room-list"))
        self.force(page, "phone")
        page.click("rooms-button")
        page.screenshot("forced-phone")
        plain = self.seen(page, "#rooms-panel h2")[1]
        self.assertNotEqual(plain, self.seen(page, ".room a[aria-current]")[1])
        self.assertEqual(plain, self.seen(page, ".room.unread .label")[1])
        self.assertNotEqual(plain, self.seen(page, ".room.unread .note")[1])
        self.assertNotEqual(self.seen(page, "#people-button")[1], self.seen(page, "#rooms-button")[1])
