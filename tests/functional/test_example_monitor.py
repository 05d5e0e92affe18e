"""``examples/monitor``, as its README says: visitors, their tabs and the staff, in Chromium."""

from __future__ import annotations

from tests.functional.daemon import wait_until
from tests.functional.example import Example, ExampleTestCase
from tests.functional.pages import WITHOUT_WEBSOCKET, Page

_ROWS = """
return Array.from(document.getElementById(arguments[0]).rows, (row) => row.cells[1].innerText).sort();
"""
_OFFER = """
document.getElementById('offer').value = arguments[2];
Array.from(document.getElementById(arguments[0]).rows)
  .find((row) => row.cells[1].innerText === arguments[1]).querySelector('button').click();
"""
_READ_OTHERS = """
const admins = io('/adminchannel');
const refused = new Promise((done) => { admins.on('connect_error', (error) => done(error.message)); });
const code = (error) => error.code;
return [
  await visitors.history().catch(code),
  await connection.room('@somebody').publish('offer', {text: 'Free'}).catch(code),
  await refused,
];
"""
_LATER = "const now = Date.now; Date.now = () => now() + 150_000;"
"""Makes a clock by which nobody has been heard of for long."""

WAYS = ("native", "socketio")


class MonitorTests(ExampleTestCase):
    """``examples/monitor``."""

    name = "monitor"

    def url(self, example: Example, path: str = "") -> str:
        """The address of a page."""
        return f"http://127.0.0.1:{example.ports[8080]}/{path}"

    def beside(self, page: Page, url: str) -> Page:
        """Open another tab of the same visitor."""
        tab = page.tab.open_beside(url)
        self.addCleanup(tab.close)
        return Page(tab)

    def staff(self, example: Example, password: str = "secret") -> Page:
        """Open the console, and log in."""
        page = self.open(self.url(example, "admin.html"))
        self.write(page, "login", password)
        return page

    def wait_seen(self, staff: Page, native: list[str], socketio: list[str]) -> None:
        """Wait until the console shows these pages."""
        expected = [native, socketio]
        wait_until(
            lambda: [staff.run(_ROWS, way) for way in WAYS] == expected,
            lambda: f"{[staff.run(_ROWS, way) for way in WAYS]} {staff.console}, not {expected}",
        )

    def wait_said(self, staff: Page, way: str, expected: str) -> None:
        """Wait until the console says so below one of the tables."""
        status = f"{way}-status"
        wait_until(lambda: staff.read(status).startswith(expected), lambda: f"{staff.read(status)} {staff.console}")

    def wait_offers(self, page: Page, native: list[str], socketio: list[str]) -> None:
        """Wait until a visitor's page shows these offers."""
        for way, offers in zip(WAYS, (native, socketio), strict=True):
            self.wait_texts(page, f"#{way} li", offers)

    def test_followed(self) -> None:
        """The console shows who is there, also to who comes late, and after a kill. Offers reach all tabs of a visitor,
        on the next page and by long polls, too."""
        example = self.example()
        process, one = example.start(), self.open(self.url(example))
        polling, other = self.open(self.url(example), WITHOUT_WEBSOCKET), self.open(self.url(example, "hats.html"))
        two = self.beside(one, self.url(example, "shoes.html"))
        staff = self.staff(example)
        seen = ["/", "/hats.html", "/shoes.html"], ["/", "/, /shoes.html", "/hats.html"]
        self.wait_seen(staff, *seen)
        self.look(staff)
        staff.run(_OFFER, "native", "/shoes.html", "Shoes")
        staff.run(_OFFER, "socketio", "/, /shoes.html", "More shoes")
        for page in (one, two):
            self.wait_offers(page, ["Shoes"], ["More shoes"])
        two.tab.goto(self.url(example, "shirts.html"))
        self.wait_seen(staff, ["/", "/hats.html", "/shirts.html"], ["/", "/, /shirts.html", "/hats.html"])
        staff.run(_OFFER, "native", "/shirts.html", "Shirts")
        staff.run(_OFFER, "socketio", "/, /shirts.html", "More shirts")
        self.wait_offers(one, ["Shoes", "Shirts"], ["More shoes", "More shirts"])
        self.wait_offers(two, ["Shoes", "Shirts"], ["More shirts"])
        two.emulate(640, 400, "light")
        two.screenshot("monitor-visitor")
        self.assertEqual(
            ["poll", "polling"], polling.run("return [connection.transport, socket.io.engine.transport.name]")
        )
        staff.run(_OFFER, "native", "/", "By poll")
        staff.run(_OFFER, "socketio", "/", "By polling")
        self.wait_offers(polling, ["By poll"], ["By polling"])
        example.kill(process)
        self.wait_said(staff, "socketio", "transport close")
        example.start()
        late = self.staff(example)
        for page in (staff, late):
            self.wait_seen(page, ["/", "/hats.html", "/shirts.html"], ["/", "/, /shirts.html", "/hats.html"])
        for page, offers in ((staff, ["Hats"]), (late, ["Hats", "Late hats"])):
            for way in WAYS:
                page.run(_OFFER, way, "/hats.html", offers[-1])
            self.wait_offers(other, offers, offers)
        self.wait_offers(polling, ["By poll"], ["By polling"])
        for page in (one, two, polling, other, staff, late):
            self.assertEqual([], [line for line in page.console if "ERR_CONNECTION" not in line])

    def test_left(self) -> None:
        """Who has left is shown no longer, by Socket.IO at once, and by realtime.js after a while."""
        example = self.example()
        example.start()
        here, left = self.open(self.url(example)), self.open(self.url(example, "hats.html"))
        staff = self.staff(example)
        self.wait_seen(staff, ["/", "/hats.html"], ["/", "/hats.html"])
        left.tab.goto("about:blank")
        self.wait_seen(staff, ["/", "/hats.html"], ["/"])
        later = self.open(self.url(example, "admin.html"), _LATER)
        self.write(later, "login", "secret")
        self.wait_seen(staff, [], ["/"])
        here.run("tell()")
        self.wait_seen(staff, ["/"], ["/"])

    def test_refused(self) -> None:
        """Who isn't of the staff sees nothing and sends no offers, by any way."""
        example = self.example()
        example.start()
        visitor = self.open(self.url(example))
        wait_until(lambda: visitor.run("return connection.state === 'connected' && socket.connected"))
        self.assertEqual(["forbidden", "forbidden", "admins only"], visitor.tab.run(_READ_OTHERS))
        staff = self.staff(example, "guessed")
        for way, said in (("native", "No token: the password is wrong."), ("socketio", "admins only")):
            self.wait_said(staff, way, said)
        self.wait_seen(staff, [], [])
        (curl,) = example.commands
        refused = self.assertRaises(AssertionError, example.type, curl)
        self.assertIn("403", str(refused))
        self.write(staff, "login", "secret")
        self.wait_seen(staff, ["/"], ["/"])

    def test_readme(self) -> None:
        """The README is short, and the code too."""
        self.check_readme("realtime.toml", "docs/howto/access.rst", "storage: 'local'")
