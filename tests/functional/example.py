"""Somebody who follows the README of one of the ``examples/``, word for word but for ports and addresses."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.functional.browsers import NPM_MODULES, Tab, browser, node_environment
from tests.functional.daemon import CHECKOUT, free_port, wait_until
from tests.functional.pages import WATCH, Page

__all__ = ["EXAMPLES", "Example", "ExampleTestCase", "copy_example"]

EXAMPLES = CHECKOUT / "examples"
MOST_LINES = 120
"""Lines of code that an example has at most, without the markup and the style of its pages."""

_SCREENFUL = 80
_PROGRAMS = Path(sys.executable).parent
_IN_CHECKOUT = re.compile(r"(?<!\S)\.venv/bin/")
_CODE = (".py", ".js", ".jsx", ".mjs", ".php", ".tac")
_START = re.compile(r"^    (make example NAME=.+)$", re.MULTILINE)
_COMMAND = re.compile(r"^   \$ (.+)$", re.MULTILINE)
_TEXTS = (".rst", ".toml", ".html", *_CODE)


def on_ports(text: str, ports: Mapping[int, int]) -> str:
    """A text with other ports."""
    for written, used in ports.items():
        text = re.sub(rf"\b(127\.0\.0\.1|localhost|tcp):{written}\b", rf"\1:{used}", text)
    return text


def copy_example(
    name: str,
    directory: Path,
    ports: Mapping[int, int],
    changes: Mapping[str, str] | None = None,
    modules: Path | None = None,
) -> None:
    """Copy an example; see :class:`Example`."""
    shutil.copytree(EXAMPLES / name, directory, ignore=shutil.ignore_patterns("node_modules", "data", "__py*"))
    for path in [path for path in directory.rglob("*") if path.suffix in _TEXTS]:
        text = path.read_text("utf-8")
        for written, used in (changes or {}).items():
            text = text.replace(written, used)
        path.write_text(on_ports(text, ports), "utf-8")
    for package in directory.rglob("package.json"):
        (package.parent / "node_modules").symlink_to(modules or NPM_MODULES)


class Example:
    """A copy of an example, where others may have its ports.

    :param directory: where; it must not exist yet.
    :param ports: those that its text names, each with another one.
    :param changes: other texts of it, such as the address of Redis, and what stands in their place.
    :param modules: the packages of npm; None for those of the tests.
    :ivar readme: its README, with all that in it.
    :ivar environment: variables that its programs find.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        ports: Mapping[int, int],
        changes: Mapping[str, str] | None = None,
        modules: Path | None = None,
    ) -> None:
        self.name = name
        self.ports = ports
        self._root = directory
        self.directory = directory / "examples" / name
        copy_example(name, self.directory, ports, changes, modules)
        self.readme = (self.directory / "README.rst").read_text("utf-8")
        self.log = directory / "log"
        self.environment: dict[str, str] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def starts(self) -> list[str]:
        """The commands of the README that start it, in their order."""
        return _START.findall(self.readme)

    @property
    def commands(self) -> list[str]:
        """The other commands of the README, in their order."""
        return _COMMAND.findall(self.readme)

    def start(self, number: int = 0) -> subprocess.Popen[bytes]:
        """Run what one of :attr:`starts` runs, and wait until all of its ports take connections."""
        process = self.begin(self._recipe(self.starts[number]))
        wait_until(lambda: self._answers(process), self.said)
        return process

    def _recipe(self, command: str) -> str:
        """What ``make`` would run, with what is installed already."""
        name = re.findall(r"NAME=(\S+)", command)
        assert name == [self.name], command
        node_environment()
        old = [f"-o{path}/node_modules/installed" for path in ("browser", *self._packages())]
        old.append("-o.venv/examples.installed")
        words = [*shlex.split(command), f"BIN={_PROGRAMS}", "-n", "--no-print-directory", *old]
        return subprocess.run(words, cwd=CHECKOUT, capture_output=True, check=True, text=True).stdout

    def _packages(self) -> list[str]:
        return [str(path.parent.relative_to(self._root)) for path in self.directory.rglob("package.json")]

    def begin(self, command: str) -> subprocess.Popen[bytes]:
        """Type a command that goes on, in a terminal of its own."""
        command = "exec " * (not command.startswith("cd ")) + _IN_CHECKOUT.sub(f"{_PROGRAMS}/", command)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                ["sh", "-c", command], cwd=self._root, env=self._environment(), stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1", **self.environment}

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, f"it ended with {process.returncode}:\n{self.said()}"
        return all(_listens(port) for port in self.ports.values())

    def said(self) -> str:
        """What its programs have written."""
        return self.log.read_text(errors="replace")

    def type(self, command: str) -> str:
        """Type a command in the directory with ``examples``, and give what it writes.

        :raises AssertionError: it failed.
        """
        command = _IN_CHECKOUT.sub(f"{_PROGRAMS}/", command)
        if command.startswith("curl "):
            command += " -sSf"
        done = subprocess.run(
            ["sh", "-c", command], cwd=self._root, env=self._environment(), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill what was started, with all of its processes."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def interrupt(self, process: subprocess.Popen[bytes]) -> int:
        """Press Ctrl-C, and give the status."""
        process.send_signal(signal.SIGINT)
        return process.wait(20)

    def end(self) -> None:
        """Kill all that still runs."""
        while self._processes:
            self.kill(self._processes.pop())


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class ExampleTestCase(SynchronousTestCase):
    """Tests that follow a README.

    :cvar name: of the example.
    :cvar written: the ports that its README names.
    """

    timeout = 240
    name = ""
    written: tuple[int, ...] = (8080,)

    def example(self, **changes: str) -> Example:
        """A copy of the example, which ends with the test.

        :param changes: ``redis``, the address of a server, or others with names in capitals, as texts to replace.
        """
        texts = {"redis://127.0.0.1/0": changes.pop("redis", "redis://127.0.0.1/0"), **changes}
        ports = {port: free_port() for port in self.written}
        example = Example(self.name, Path(self.mktemp()).resolve(), ports, texts)
        self.addCleanup(example.end)
        return example

    def open(self, url: str, before: str = "") -> Page:
        """Open an address as another person would.

        :param before: a script that is run before those of the page.
        """
        tab: Tab = browser("chromium").open(url, WATCH + before, alone=True)
        self.addCleanup(tab.release)
        return Page(tab)

    def wait_texts(self, page: Page, selector: str, expected: list[str]) -> None:
        """Wait until some elements have these texts."""
        script = f"return Array.from(document.querySelectorAll('{selector}'), (item) => item.innerText)"
        wait_until(lambda: page.run(script) == expected, lambda: f"{page.run(script)} {page.console}, not {expected}")

    def wait_status(self, page: Page, expected: str) -> None:
        """Wait until the page's status begins so."""
        wait_until(lambda: page.read("status").startswith(expected), lambda: f"{page.read('status')} {page.console}")

    def write(self, page: Page, form: str, value: str) -> None:
        """Write into a form's first field, and press its button."""
        page.run(
            "const form = document.getElementById(arguments[0]); form.querySelector('input').value = arguments[1];"
            "form.querySelector('button').click();",
            form,
            value,
        )

    def look(self, page: Page) -> None:
        """The page has no serious fault, and fits on a phone; pictures of it are taken, one for ``docs/tutorial``."""
        for width, height in ((1280, 800), (640, 480), (360, 740)):
            page.emulate(width, height, "light")
            self.assertEqual([], page.faults)
            self.assertLessEqual(page.run("return document.documentElement.scrollWidth"), width)
            page.screenshot(f"{self.name}-{width}")

    def check_readme(self, *words: str) -> None:
        """The README is a screenful and names all files with code, and there isn't more code than one reads."""
        readme = (EXAMPLES / self.name / "README.rst").read_text("utf-8")
        self.assertLess(len(readme.splitlines()), _SCREENFUL)
        found: list[Any] = [path for path in (EXAMPLES / self.name).rglob("*") if path.suffix in _CODE]
        code = [path for path in found if not {"node_modules", "data", "built.js"} & {*path.parts}]
        for name in (*(path.name for path in code), *words):
            self.assertIn(name, readme)
        lines = [line for path in code for line in path.read_text("utf-8").splitlines() if line.strip()]
        self.assertLessEqual(len(lines), MOST_LINES)
