"""A real daemon in a process of its own, for tests."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from realtime_chat.limit_options import LIMIT_OPTIONS
from tests.deadlines import DEADLINE, TEST_TIMEOUT, Stopwatch
from tests.functional.forked import ForkedProcess
from tests.secrecy import Secrets, access_logs
from tests.soak import SOAK

__all__ = [
    "CHECKOUT",
    "NO_LIMITS",
    "SOAK",
    "TWISTD",
    "Daemon",
    "DaemonTestCase",
    "free_port",
    "wait_until",
    "with_limits",
]

CHECKOUT = Path(__file__).resolve().parents[2]

TWISTD = "from twisted.scripts.twistd import run; run()"
NO_LIMITS = tuple(f"--{option.name}=0" for option in LIMIT_OPTIONS)
"""Options for a daemon whose load is more than one client may cause."""

_PAGES = ("metrics", "healthz", "rooms", "")


def with_limits(node_timeout: float | None = None, **limits: float) -> str:
    """A program that runs ``twistd`` with other limits: where what is tested is that a time goes by, less goes by.

    :param node_timeout: seconds for which other nodes believe in a node that they don't hear.
    """
    lines = [
        "import functools, realtime_chat.tap as tap",
        f"tap.Limits = functools.partial(tap.Limits, **{limits})",
    ]
    if node_timeout is not None:
        lines += [
            "import realtime_chat.broker.redis_presence as presence",
            f"presence.RedisPresence = functools.partial(presence.RedisPresence, node_timeout={node_timeout})",
        ]
    return "\n".join([*lines, TWISTD])


_PORTS = range(20_000, 32_000)
_BLOCK = 100


@cache
def _own_ports() -> Iterator[int]:
    """Ports that this process alone uses, each once, in an order of its own."""
    blocks = list(range(_PORTS.start, _PORTS.stop, _BLOCK))
    random.shuffle(blocks)
    for block in blocks:
        if _is_ours(block):
            ports = list(range(block, block + _BLOCK))
            random.shuffle(ports)
            yield from ports
    raise AssertionError("all ports are used up, by this run or by others at the same time")


def _is_ours(block: int) -> bool:
    """Take a block of ports, until this process ends; whether no other one has it."""
    taken = socket.socket(socket.AF_UNIX)
    try:
        taken.bind(f"\0realtime-test-ports-{block}")
    except OSError:
        taken.close()
        return False
    _blocks.append(taken)
    return True


_blocks: list[socket.socket] = []
_drawing = threading.Lock()


def free_port() -> int:
    """A free loopback port below the ephemeral range, which nobody was given before: tests may run side by side.

    A client that dials a port in that range while the server is down can connect to itself.
    """
    while True:
        with _drawing:
            port = next(_own_ports())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port


def wait_until(
    condition: Callable[[], Any], describe: Callable[[], str] = lambda: "", patience: float = DEADLINE
) -> Any:
    """Wait until ``condition()`` returns something true, and return that.

    :raises AssertionError: it didn't become true in time.
    """
    begun = time.monotonic()
    while True:
        result = condition()
        if result:
            return result
        waited = time.monotonic() - begun
        if waited > patience:
            raise AssertionError(f"not within {patience} s: {describe()}")
        time.sleep(min(max(0.02, waited / 10), 0.25))  # to ask may cost much, of a browser for example


class Daemon:
    """``twistd -n realtime`` on a free loopback port.

    :param directory: for its data and its log; kept over restarts.
    :param options: further options of ``realtime``.
    :param prefix: a command that runs it, in the same process.
    :param program: Python that is run in the place of ``twistd``.
    :ivar status: what the last one that ended by itself or was asked to has exited with.
    """

    status: int | None = None

    def __init__(
        self, directory: str | Path, *options: str, prefix: tuple[str, ...] = (), program: str = TWISTD
    ) -> None:
        self.directory = Path(directory).resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.prefix = prefix
        self.program = program
        self.port = free_port()
        self.log_path = self.directory / "daemon.log"
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None
        self._secrets = Secrets()

    @property
    def url(self) -> str:
        """The daemon's URL, with a slash at the end."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        """The id of the daemon's process."""
        assert self._process is not None, "the daemon is not running"
        return self._process.pid

    @property
    def log(self) -> str:
        """All that the daemon has written so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self) -> Daemon:
        """Start the daemon, and wait until it answers."""
        self._run()
        wait_until(self._answers, lambda: "the daemon did not answer; its log:\n" + self.log)
        return self

    def refused(self) -> str:
        """Start the daemon, wait until it ends by itself, and return what it wrote meanwhile."""
        before = len(self.log)
        self._run()
        assert self._process is not None
        try:
            self.status = self._process.wait(DEADLINE)
        finally:
            self.kill()
        return self.log[before:]

    def command(self) -> list[str]:
        """The command that starts the daemon."""
        arguments = ["-n", "--pidfile=", "realtime", "--listen", f"tcp:{self.port}:interface=127.0.0.1"]
        if not any(option.startswith(("--data-dir", "--store")) for option in self.options):
            arguments += ["--data-dir", str(self.directory / "data")]
        return [sys.executable, "-c", self.program, *arguments, *self.options]

    def _run(self) -> None:
        command = self.command()
        self._secrets.learn(self.options, self.directory)
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}
        with self.log_path.open("ab") as log:
            more: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            more |= {"cwd": self.directory, "env": environment}
            if self.prefix:
                self._process = subprocess.Popen([*self.prefix, *command], **more)
            else:
                _, _, program, *arguments = command
                self._process = ForkedProcess(program, arguments, **more)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the daemon ended with {self._process.returncode}; its log:\n{self.log}")
        try:
            with urllib.request.urlopen(self.url + "healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        with urllib.request.urlopen(self.url + path, timeout=DEADLINE) as answer:
            return json.load(answer)

    def kill(self) -> None:
        """Kill the daemon with SIGKILL, as a power cut would."""
        self._end(signal.SIGKILL)

    def terminate(self) -> float:
        """Stop the daemon with SIGTERM; return how many seconds that took, as a stopwatch has them."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> float:
        process, self._process = self._process, None
        if process is None:
            return 0.0
        watch = Stopwatch(process.pid)
        process.send_signal(how)
        while process.poll() is None and watch.seconds() < DEADLINE:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        took, self.status = watch.seconds(), process.poll()
        if self.status is None:
            process.kill()
            process.wait()
            raise AssertionError(f"not stopped within {DEADLINE} s; its log:\n{self.log}")
        self.check_secrecy(*access_logs(self.options, self.directory))
        return took

    def check_secrecy(self, *more: Path, text: str = "") -> None:
        """No secret, token, client or reader is in the log.

        :param more: further files to look into.
        :param text: and a text.
        :raises AssertionError: there is one.
        """
        self._secrets.learn(self.options, self.directory)
        texts = {"a text": text, "the log": self.log}
        texts |= {path.name: path.read_text(errors="replace") for path in more if path.is_file()}
        found = {name: self._secrets.found_in(text) for name, text in texts.items()}
        assert not any(found.values()), f"what nobody else may read is in {found}"

    def pages(self) -> str:
        """The pages that a daemon shows to everybody, and its metrics; empty if it runs no longer, or hangs."""
        texts = []
        with contextlib.suppress(OSError, http.client.HTTPException):
            for path in _PAGES if self._process is not None and self._process.poll() is None else ():
                with urllib.request.urlopen(self.url + path, timeout=1) as answer:
                    texts.append(answer.read().decode(errors="replace"))
        return "\n".join(texts)


class DaemonTestCase(TestCase):
    """Tests of daemon processes, with clients on this reactor. The daemons end with the test."""

    timeout = TEST_TIMEOUT

    def daemon(
        self,
        *options: str,
        prefix: tuple[str, ...] = (),
        directory: str | Path | None = None,
        program: str = TWISTD,
    ) -> Daemon:
        """A daemon that is not started yet."""
        daemon = Daemon(directory or self.mktemp(), *options, prefix=prefix, program=program)
        self.addCleanup(self._end, daemon)
        return daemon

    def _end(self, daemon: Daemon) -> None:
        """End a daemon, and see that it has told no secret: in its logs, its pages and its metrics."""
        pages = daemon.pages()
        daemon.kill()
        daemon.check_secrecy(text=pages)

    async def started(self, *options: str, prefix: tuple[str, ...] = ()) -> Daemon:
        """Start a daemon."""
        daemon = self.daemon(*options, prefix=prefix)
        await deferToThread(daemon.start)
        return daemon
