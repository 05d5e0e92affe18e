"""Chromium, driven by selenium, with the chat page in it."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys
from twisted.trial.unittest import SynchronousTestCase

from tests.functional.daemon import CHECKOUT, free_port, wait_until

__all__ = ["DEAF_AT_FIRST", "WATCH", "WITHOUT_WEBSOCKET", "Page", "open_page"]

_ARGUMENTS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)

WATCH = """
window.trouble = [];
document.addEventListener('securitypolicyviolation', function (event) {
  window.trouble.push('CSP: ' + event.violatedDirective + ' ' + event.blockedURI);
});
window.alert = window.confirm = window.prompt = function (text) { window.trouble.push('alert: ' + text); };
"""

WITHOUT_WEBSOCKET = "delete window.WebSocket; delete window.EventSource;"
"""Makes a legacy browser."""

DEAF_AT_FIRST = """
(function (Real) {
  var deaf = {send: function () {}, close: function () {}};
  window.WebSocket = function (url) {
    window.WebSocket = Real;
    return deaf;
  };
}(window.WebSocket));
"""
"""Makes a network in which the first WebSocket neither opens nor fails."""

_FILL = """
var field = document.getElementById(arguments[0]);
field.value = arguments[1];
field.focus();
"""

_KEYS = {
    "Enter": Keys.ENTER,
    "Escape": Keys.ESCAPE,
    "Home": Keys.HOME,
    "Shift": Keys.SHIFT,
    "Tab": Keys.TAB,
}

_READ_MESSAGES = """
return Array.prototype.map.call(document.querySelectorAll('#message-pane .log .message'), function (item) {
  return {
    name: item.querySelector('.name').textContent,
    text: item.querySelector('.text').textContent,
    own: (' ' + item.className + ' ').indexOf(' own ') > 0
  };
});
"""


def _programs() -> tuple[str, str]:
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium")
    driver = shutil.which("chromedriver")
    if not browser or not driver or not shutil.which(browser):
        raise AssertionError(
            "these tests need Chromium and its driver: install the Debian packages chromium and chromium-driver"
            " (CHROMIUM=PATH names another browser)"
        )
    return browser, driver


def _options(browser: str, profile: str) -> ChromeOptions:
    options = ChromeOptions()
    options.binary_location = browser
    options.ignore_local_proxy_environment_variables()
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    return options


class Page:
    """The chat page in a browser of its own, driven by selenium; subclassed for puppeteer.

    :ivar driver: selenium's, for what has no method here.
    """

    driver: Chrome

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self._console: list[str] = []

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page, and give its answer."""
        return self.driver.execute_script(script, *arguments)

    @property
    def state(self) -> str:
        """The connection's state, in the page's words."""
        return self.read("status-text")

    def wait_connected(self, transport: str = "") -> None:
        """Wait until the page says that it is connected, by this transport."""
        wanted = f"Connected by {transport}"
        wait_until(lambda: wanted in self.state, lambda: f"not {wanted}, but {self.state}\n" + "\n".join(self.console))

    def wait_disconnected(self) -> None:
        """Wait until the page says that it isn't connected."""
        wait_until(lambda: "Connected" not in self.state, lambda: "the page believes that it is connected")

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All messages that are shown, each with its name, its text, and whether it is marked as own."""
        return self.run(_READ_MESSAGES)

    @property
    def texts(self) -> list[str]:
        """The texts of all messages that are shown."""
        return [message["text"] for message in self.messages]

    @property
    def pending(self) -> list[str]:
        """The messages that are shown as being on their way, each with its state."""
        return self._texts_of("#message-pane .outbox > .message")

    @property
    def notices(self) -> list[str]:
        """What the page itself says among the messages."""
        return self._texts_of("#message-pane .notice")

    @property
    def problem(self) -> str:
        """What the page says that is wrong."""
        return self.read("problem-text")

    def _texts_of(self, selector: str) -> list[str]:
        script = "return Array.prototype.map.call(document.querySelectorAll(arguments[0]), n => n.textContent)"
        return self.run(script, selector)

    def wait_for(self, text: str, patience: float = 20.0) -> None:
        """Wait until a message is shown."""
        wait_until(lambda: text in self.texts, lambda: f"{text!r} is not among {self.texts}", patience)

    def type(self, text: str) -> None:
        """Type a message, and press Enter."""
        self._enter("message-text", text)

    def _enter(self, field: str, text: str) -> None:
        self.run(_FILL, field, text)  # chromedriver can't type what is outside the BMP
        self.press("Enter")

    def press(self, keys: str) -> None:
        """Press a key, perhaps with Shift: ``Tab``, ``Shift+Enter``."""
        *held, key = [_KEYS[name] for name in keys.split("+")]
        chain = ActionChains(self.driver, 0)
        for name in held:
            chain.key_down(name)
        chain.send_keys(key)
        for name in held:
            chain.key_up(name)
        chain.perform()

    def write(self, text: str) -> None:
        """Type text, key by key, where the focus is."""
        ActionChains(self.driver, 0).send_keys(text).perform()

    def reload(self) -> None:
        """Load the page anew."""
        self.driver.refresh()

    def read(self, id: str) -> str:
        """The text of an element, whether it is in sight or not."""
        return str(self.run("return document.getElementById(arguments[0]).textContent", id))

    def click(self, id: str) -> None:
        """Click on an element."""
        self.run("document.getElementById(arguments[0]).click()", id)

    @property
    def title(self) -> str:
        """What the window is called."""
        return str(self.run("return document.title"))

    @property
    def focused(self) -> str:
        """The id of the element that has the focus, or else its tag and text."""
        return str(
            self.run("var it = document.activeElement; return it.id || it.tagName + ' ' + it.textContent.trim()")
        )

    def rename(self, name: str) -> None:
        """Type another nickname, press Enter, and wait until it is used."""
        self.rename_only(name)
        self.wait_connected()

    def rename_only(self, name: str) -> None:
        """Type another nickname, and press Enter."""
        self._enter("own-name", name)

    def go_to(self, room: str) -> None:
        """Type another room, and press Enter."""
        self._enter("room-name", room)

    @property
    def console(self) -> list[str]:
        """All warnings and errors of the browser's console so far."""
        entries = self.driver.get_log("browser")
        self._console += [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]
        return self._console

    @property
    def trouble(self) -> list[str]:
        """All reports of the content security policy, and all alerts."""
        return self.run("return window.trouble")

    def screenshot(self, name: str) -> None:
        """Save what is shown, for people to look at; SCREENSHOTS names another directory."""
        directory = os.environ.get("SCREENSHOTS") or CHECKOUT / "build" / "screenshots"
        os.makedirs(directory, exist_ok=True)
        self.save(os.path.join(directory, f"{name}.png"))

    def save(self, path: str) -> None:
        """Save what is shown."""
        self.driver.save_screenshot(path)

    def emulate(self, width: int, height: int, scheme: str) -> None:
        """Give the page another size and colour scheme."""
        phone = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def open_page(case: SynchronousTestCase, url: str, before: str = "") -> Page:
    """Open a page in a new browser, which goes when the test is over.

    :param before: a script that is run before those of the page.
    """
    browser, program = _programs()
    profile = tempfile.mkdtemp(prefix="realtime-chromium-")
    case.addCleanup(shutil.rmtree, profile, ignore_errors=True)
    driver = Chrome(_options(browser, profile), Service(program, free_port()))
    case.addCleanup(driver.quit)
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH + before})
    driver.get(url)
    return Page(driver)
