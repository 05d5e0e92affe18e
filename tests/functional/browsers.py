"""Chromium and Firefox, both driven in one way, by puppeteer; and pages of other origins for them."""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import http.server
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

from tests.deadlines import TEST_TIMEOUT
from tests.functional.daemon import CHECKOUT

__all__ = ["NPM_MODULES", "PROGRAMS", "Browser", "Tab", "browser", "node", "serve"]

_RUN = os.environ.setdefault("REALTIME_TEST_RUN", str(os.getpid()))
"""Names this run to all of its processes: ``trial -j`` loads the tests before it starts those that run them."""

NPM_MODULES = CHECKOUT / "browser" / "node_modules"

PROGRAMS = {
    "chromium": ("chromium-headless-shell", "chromium-headless-shell"),
    "firefox": ("firefox-esr", "firefox-esr"),
    "node": ("node", "nodejs"),
    "npm": ("npm", "npm"),
    "nginx": ("nginx", "nginx"),
    "php": ("php", "php-cli"),
    "haproxy": ("haproxy", "haproxy"),
    "apache": ("apache2", "apache2-bin"),
    "lighttpd": ("lighttpd", "lighttpd"),
    "varnish": ("varnishd", "varnish"),
    "strace": ("strace", "strace"),
    "logrotate": ("logrotate", "logrotate"),
    "rabbitmq": ("rabbitmq-server", "rabbitmq-server"),
    "epmd": ("epmd", "erlang-base"),
}
"""What tests start: the program, and the Debian package that has it."""


def program(name: str) -> str:
    """The path of a program.

    :raises AssertionError: it isn't there; the message names the package.
    """
    command, package = PROGRAMS[name]
    path = shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        raise AssertionError(f"these tests need {command}: install the Debian package {package}")
    return path


@cache
def node_environment() -> dict[str, str]:
    """The environment of a node program that uses packages of npm.

    :raises AssertionError: they aren't there, and can't be installed.
    """
    wanted = json.loads((NPM_MODULES.parent / "package.json").read_text("utf-8"))["dependencies"]
    if not all((NPM_MODULES / name).is_dir() for name in wanted):
        command = [program("npm"), "install", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=NPM_MODULES.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, f"npm install in browser/ failed:\n{done.stdout.decode(errors='replace')}"
    return {**os.environ, "NPM_MODULES": str(NPM_MODULES)}


def node(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a node program to its end."""
    return subprocess.run(
        [program("node"), *arguments], env=node_environment(), capture_output=True, text=True, timeout=TEST_TIMEOUT
    )


class Tab:
    """One page of a browser."""

    def __init__(self, browser: Browser, number: int) -> None:
        self.browser = browser
        self.number = number

    def run(self, script: str, frame: int = 0) -> Any:
        """Run the body of an async function in the page, and give what it returns.

        :param frame: 0 for the page itself, 1 for its first iframe.
        """
        return self.browser.ask("run", page=self.number, script=script, frame=frame)

    def goto(self, url: str) -> None:
        """Go to another page."""
        self.browser.ask("goto", page=self.number, url=url)

    def reload(self) -> None:
        """Load the page anew."""
        self.browser.ask("reload", page=self.number)

    def press(self, keys: str) -> None:
        """Press a key, perhaps with another one held: ``Tab``, ``Shift+Enter``."""
        self.browser.ask("press", page=self.number, keys=keys.split("+"))

    def follow(self, keys: str) -> None:
        """Press a key that leads to another page, and wait until that is loaded."""
        self.browser.ask("follow", page=self.number, keys=keys.split("+"))

    def open_beside(self, url: str) -> Tab:
        """Open a page in another tab of the same person, who has the same cookies and storage there."""
        return Tab(self.browser, self.browser.ask("open", url=url, beside=self.number))

    def write(self, text: str) -> None:
        """Type text, key by key, where the focus is."""
        self.browser.ask("write", page=self.number, text=text)

    def size(self, width: int, height: int) -> None:
        """Give the page another size, in CSS pixels."""
        self.browser.ask("size", page=self.number, width=width, height=height)

    def save(self, path: str) -> None:
        """Save a picture of what is shown."""
        self.browser.ask("save", page=self.number, path=path)

    def command(self, method: str, **parameters: Any) -> Any:
        """A command of Chromium's debugging protocol."""
        return self.browser.ask("command", page=self.number, method=method, parameters=parameters)

    @property
    def console(self) -> list[str]:
        """All warnings and errors of the console, and uncaught exceptions, so far."""
        return self.browser.ask("said", page=self.number)

    def close(self) -> None:
        """Close it."""
        self.browser.ask("close", page=self.number)

    def release(self) -> None:
        """Leave the page, and the window that it had alone to the next one."""
        self.browser.ask("release", page=self.number)


class Browser:
    """A browser in a process of its own, which all processes of a run share; each has tabs of its own in it.

    :param kind: ``chromium`` or ``firefox``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._driver: subprocess.Popen[bytes] | None = None
        self._connection = socket.socket(socket.AF_UNIX)
        self._connect(f"\0realtime-test-{kind}-{_RUN}")
        self._stream = self._connection.makefile("rw", encoding="utf-8")
        self._last = 0

    def _connect(self, address: str) -> None:
        """Connect to the browser; start it, if nobody has."""
        while True:
            with socket.socket(socket.AF_UNIX) as listening:
                if _is_bound(listening, address):
                    listening.listen(64)
                    self._driver = _start(self.kind, listening)
            with contextlib.suppress(ConnectionRefusedError):  # bound, and not listening yet; or just ending
                self._connection.connect(address)
                return
            time.sleep(0.01)

    def ask(self, operation: str, **arguments: Any) -> Any:
        """Have the driver do something, and give its answer.

        :raises AssertionError: it failed.
        """
        self._last += 1
        self._stream.write(json.dumps({"id": self._last, "op": operation, **arguments}) + "\n")
        self._stream.flush()
        line = self._stream.readline()
        assert line, f"the browser {self.kind} ended"
        answer = json.loads(line)
        assert answer["id"] == self._last
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def open(self, url: str, before: str = "", alone: bool = False) -> Tab:
        """Open a page in a tab of its own.

        :param before: a script that is run before those of the page.
        :param alone: with storage of its own, as another person's browser would have; what an earlier page has stored
            there belongs to another origin, as no two daemons of a run have the same port.
        """
        return Tab(self, self.ask("open", url=url, before=before, alone=alone))

    def end(self) -> None:
        """Leave it. It ends when all have; who has started it sees to that."""
        self._stream.close()
        self._connection.close()
        if self._driver is not None:
            self._driver.wait()


def _is_bound(listening: socket.socket, address: str) -> bool:
    """Bind a socket; whether this process is the one that could."""
    try:
        listening.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def _start(kind: str, listening: socket.socket) -> subprocess.Popen[bytes]:
    """Start a browser, for those who connect."""
    home = tempfile.mkdtemp(prefix=f"realtime-{kind}-")
    chosen = os.environ.get("CHROMIUM") if kind == "chromium" else None
    executable = shutil.which(chosen) or chosen if chosen else program(kind)
    driver = Path(__file__).with_name("driver.mjs")
    return subprocess.Popen(
        [program("node"), str(driver), kind, executable, home, str(listening.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**node_environment(), "HOME": home},
        pass_fds=[listening.fileno()],
    )


@cache
def browser(kind: str) -> Browser:
    """The one browser of that kind that all tests share; it goes when they are over."""
    shared = Browser(kind)
    atexit.register(shared.end)
    return shared


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


class Site:
    """Somebody's own web site, on a loopback port: the files of a directory."""

    def __init__(self, directory: str | Path) -> None:
        handler = functools.partial(_Quiet, directory=str(directory))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def origin(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def end(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(directory: str | Path) -> Site:
    """Serve the files of a directory."""
    return Site(directory)
