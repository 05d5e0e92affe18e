"""Somebody who follows ``docs/tutorial`` from an empty directory, word for word but for ports and the data's place."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.functional.browsers import PROGRAMS, program
from tests.functional.daemon import CHECKOUT, free_port, wait_until
from tests.functional.proxies import Proxy, nginx

__all__ = ["OWN_PAGE", "TO_TRY", "Block", "Tutorial", "blocks"]

TO_TRY = "A site to try it with"
"""The section with what a reader's own site has already."""

OWN_PAGE = ("Your own page", "Log out at once")
"""The sections after the main path."""

_PAGES = CHECKOUT / "docs" / "tutorial"
_BLOCK = re.compile(r"^\.\. code-block:: (\S+)\n((?:   :[\w-]+:.*\n)*)\n((?:   .*\n|\n)+)", re.MULTILINE)
_ANY_BLOCK = re.compile(r"^\s*\.\. (?:code-block|literalinclude|parsed-literal|code)::|^(?!\.\. ).*::$", re.MULTILINE)
_TERMINAL = "In a terminal of its own"
_AT_ITS_END = ", at its end"
_IN_PLACE = ", in the place of the frame"
_SERVER_OF_NGINX = "/etc/nginx/sites-enabled/example.com"
_APT = "# apt-get install "
_ETC_NGINX = "/etc/nginx/"
_INSTALLS = ("python3 -m venv venv", "venv/bin/pip install ")


class Block(NamedTuple):
    """What stands on a page to be pasted or typed.

    :ivar section: the title that it stands below.
    :ivar caption: the file that it is, or where it is typed; ``""`` if nothing is said.
    :ivar marked: the numbers of the lines that are marked, from 1.
    """

    section: str
    language: str
    caption: str
    marked: frozenset[int]
    text: str

    @property
    def pasted(self) -> list[str]:
        """The lines that a site's owner pastes: the marked ones, or all if none is marked; no empty ones."""
        lines = enumerate(self.text.splitlines(), 1)
        return [line for number, line in lines if line.strip() and (number in self.marked or not self.marked)]


def blocks(*names: str) -> list[Block]:
    """All blocks of some pages, in their order.

    :raises AssertionError: a page has a block of another kind, which nobody would follow.
    """
    found = []
    for name in names:
        page = (_PAGES / name).read_text("utf-8")
        matches = list(_BLOCK.finditer(page))
        assert len(matches) == len(_ANY_BLOCK.findall(page)), f"{name} has a block that this doesn't read"
        for match in matches:
            options = dict(re.findall(r":([\w-]+): (.*)", match[2]))
            section = re.findall(r"^([^\n]+)\n=+$", page[: match.start()], re.MULTILINE)[-1]
            marked = frozenset(_numbers(options.get("emphasize-lines", "")))
            text = textwrap.dedent(match[3]).strip("\n") + "\n"
            found.append(Block(section, match[1], options.get("caption", ""), marked, text))
    return found


def _numbers(text: str) -> Iterator[int]:
    """The numbers that a text such as ``4, 10-16`` names."""
    for part in filter(None, text.replace(" ", "").split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


class Tutorial:
    """Follows the tutorial.

    :param directory: where; it must not exist yet. Beside it is what the tutorial doesn't speak of, such as logs.
    :param changes: what a reader does in another way: texts that stand once in the pages, and others in their place.
    :ivar proxy: nginx, from the line on that reloads it.
    """

    proxy: Proxy

    def __init__(self, directory: Path, changes: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self._beside = directory.with_name(f"{directory.name}-beside")
        self._changes = dict(changes or {})
        self._site, self._daemon = free_port(), free_port()
        self._server = ""
        self._ends: list[Any] = []
        directory.mkdir()
        (self._beside / "sessions").mkdir(parents=True)
        (self._beside / "sessions.ini").write_text(f"session.save_path={self._beside / 'sessions'}\n")

    @property
    def url(self) -> str:
        """The site, as a browser of the tests finds it."""
        return f"http://example.com:{self.proxy.port}/"

    @property
    def daemon_url(self) -> str:
        """The daemon itself, without the proxy."""
        return f"http://127.0.0.1:{self._daemon}/"

    @property
    def log(self) -> str:
        """What all servers have said."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self._beside.glob("*.log")))

    def follow(self, found: list[Block]) -> None:
        """Do what some blocks say.

        :raises AssertionError: one of them says nothing that can be done, a command failed, or a change was not made.
        """
        for block in found:
            text = self._changed(block.text)
            path, place, _ = re.split(f"({_AT_ITS_END}|{_IN_PLACE}|$)", block.caption, maxsplit=1)
            if block.language == "console":
                self._type(text, block.caption)
            elif block.caption == _SERVER_OF_NGINX:
                self._server = text
            else:
                assert path, f"where does this belong?\n{text}"
                self._write(self.directory / path, text, place)
        assert not self._changes, f"not in the pages: {self._changes}"

    def _changed(self, text: str) -> str:
        """A block for this reader: on a machine where others have the ports."""
        for there in [there for there in self._changes if there in text]:
            assert text.count(there) == 1, there
            text = text.replace(there, self._changes.pop(there))
        return text.replace("127.0.0.1:8000", f"127.0.0.1:{self._site}")

    def _write(self, path: Path, text: str, place: str) -> None:
        """Write a file, or more into one.

        :param place: where; ``""`` for the whole file.
        """
        assert path.exists() or not place, f"{path.name} isn't there yet"
        path.parent.mkdir(exist_ok=True)
        before = path.read_text() if place else ""
        if place == _IN_PLACE:
            (frame,) = re.findall(r"^<iframe .*\n", before, re.MULTILINE)
            before, text = before.replace(frame, text), ""
        path.write_text(before + text)

    def _type(self, text: str, caption: str) -> None:
        lines = text.splitlines()
        if lines == ["# systemctl reload nginx"]:
            self.proxy = nginx(self._nginx, None, self._server, listen="listen 80;")
            self._ends.append(self.proxy.end)
            return
        if _ETC_NGINX in text:
            self._run_for_nginx(lines)
            return
        if lines[0].startswith(_APT):
            (line,) = lines
            _check_packages(line.removeprefix(_APT).split())
            return
        assert all(line.startswith("$ ") for line in lines), lines
        commands = [line[2:] for line in lines]
        if caption == _TERMINAL:
            (command,) = commands
            self._start(command)
        elif all(command.startswith(_INSTALLS) for command in commands):
            self._install(commands)
        else:
            assert not caption, caption
            self.run("\n".join(commands))

    @property
    def _nginx(self) -> Path:
        """What stands for ``/etc/nginx``."""
        return self._beside / "nginx"

    def _run_for_nginx(self, lines: list[str]) -> None:
        """Run root's command that writes a file of nginx, which has to find this daemon."""
        (line,) = lines
        (self._nginx / "snippets").mkdir(parents=True)
        command = line.removeprefix("# ").replace(_ETC_NGINX, f"{self._nginx}/")
        self.run(f"{command} --upstream http://127.0.0.1:{self._daemon}")

    def _install(self, commands: list[str]) -> None:
        """What the tests run in stands for what would be installed; tests/test_packaging.py installs the daemon."""
        if commands[0] == _INSTALLS[0]:
            (self.directory / "venv").symlink_to(sys.prefix)
        for command in commands:
            for package in command.partition(_INSTALLS[1])[2].split():
                importlib.metadata.version(package.replace("/path/to/checkout", "realtime_chat"))

    def _environment(self) -> dict[str, str]:
        own = {"HOME": str(self._beside), "PYTHONPATH": str(CHECKOUT), "PHP_INI_SCAN_DIR": f":{self._beside}"}
        return {**os.environ, **own, "PYTHONUNBUFFERED": "1"}

    def run(self, script: str) -> str:
        """Run commands of a shell, and give what they write.

        :raises AssertionError: one of them failed.
        """
        done = subprocess.run(
            ["sh", "-ec", script],
            cwd=self.directory,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output = done.stdout.decode()
        assert done.returncode == 0, f"{script}\nended with {done.returncode}:\n{output}"
        return output

    def _start(self, command: str) -> None:
        """Start a server, and wait until it takes connections."""
        port, name = self._site, "site"
        if " realtime " in command:
            port, name = self._daemon, "daemon"
            command += f" --listen tcp:{port}:interface=127.0.0.1 --data-dir {self._beside / 'data'}"
        elif command.startswith("php "):
            command = program("php") + command.removeprefix("php")
        log = self._beside / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._ends.append(lambda: _end(process))
        wait_until(lambda: _answers(process, port, log), lambda: f"{command}:\n{log.read_text()}")

    def end(self) -> None:
        """Stop all servers."""
        while self._ends:
            self._ends.pop()()


def _check_packages(packages: list[str]) -> None:
    """What Debian's packages have is there."""
    for package in packages:
        if package == "python3-venv":
            importlib.import_module("venv")
        else:
            (name,) = [name for name, (_, of) in PROGRAMS.items() if of == package]
            program(name)


def _answers(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    assert process.poll() is None, f"it ended with {process.returncode}:\n{log.read_text()}"
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server, with the processes that it has started."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
