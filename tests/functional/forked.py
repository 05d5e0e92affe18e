"""Processes that start in milliseconds: forks of one interpreter that has imported what they need.

A new Python takes a second of a processor to import the daemon, and the tests start hundreds of daemons, consoles and
clients. A fork runs the same program with its own arguments, environment, directory and files, and is an ordinary
process for whoever looks at it. What must be there before Python starts (``LD_PRELOAD``, strace, limits) needs a new
Python.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["ForkedProcess"]

_CHECKOUT = Path(__file__).resolve().parents[2]
_LARGEST = 1 << 17
"""Bytes of a request: the arguments and the environment."""
_IMPORTED = (
    *("realtime_chat.tap", "realtime_chat.console.main", "twisted.scripts.twistd", "twisted.web.client", "treq"),
    *("twisted.cred.strcred", "twisted.words.iwords", "twisted.trial.itrial", "asyncio", "runpy", "hiredis"),
    *("tests", "tests.views", "tests.functional.raw_clients", "tests.functional.delivery_ledger"),
    "tests.functional.worker_process",
)


class ForkedProcess:
    """A Python process; it can be used as a :class:`subprocess.Popen`.

    :param program: the text of the program, as after ``python -c``.
    :param stdin: what it reads; ``subprocess.PIPE`` for what is written to the attribute of that name.
    :param stdout: where it writes; ``subprocess.PIPE`` for what can be read from the attribute of that name.
    :ivar returncode: the status that it has ended with, negative for a signal; None while nobody has looked.
    """

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        *,
        stdin: int,
        stdout: int | BinaryIO,
        stderr: int | BinaryIO | None,
        env: Mapping[str, str],
        cwd: str | Path | None = None,
    ) -> None:
        self.returncode: int | None = None
        self.stdin: BinaryIO | None = None
        self.stdout: BinaryIO | None = None
        with contextlib.ExitStack() as stack:
            files = [self._given(stdin, stack), self._taken(stdout, stack)]
            files.append(files[1] if stderr == subprocess.STDOUT else _number(stderr, stack))
            self._status, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.callback(its_end.close)
            what = {"program": program, "arguments": list(arguments), "env": dict(env), "cwd": str(cwd or os.getcwd())}
            _interpreter().fork(what, [*files, its_end.fileno()])
        self.pid = int(self._status.recv(64))

    def _given(self, stdin: int, stack: contextlib.ExitStack) -> int:
        if stdin != subprocess.PIPE:
            return _number(stdin, stack)
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        self.stdin = open(writing, "wb")  # noqa: SIM115
        return reading

    def _taken(self, stdout: int | BinaryIO, stack: contextlib.ExitStack) -> int:
        if stdout != subprocess.PIPE:
            return _number(stdout, stack)
        reading, writing = os.pipe()
        stack.callback(os.close, writing)
        self.stdout = open(reading, "rb")  # noqa: SIM115
        return writing

    def poll(self) -> int | None:
        """The status that it has ended with; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and give its status.

        :raises subprocess.TimeoutExpired: it goes on.
        """
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            # It stays there for whoever waits in another thread.
            told = self._status.recv(64, socket.MSG_PEEK)
            self.returncode = int(told) if told else -signal.SIGKILL
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal; nothing where it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        status = getattr(self, "_status", None)
        if status is not None:
            status.close()


def _number(file: int | BinaryIO | None, stack: contextlib.ExitStack) -> int:
    """The descriptor of a file as :class:`subprocess.Popen` takes it; None is our own standard error."""
    if file == subprocess.DEVNULL:
        nothing = os.open(os.devnull, os.O_RDWR)
        stack.callback(os.close, nothing)
        return nothing
    return 2 if file is None else file if isinstance(file, int) else file.fileno()


class _Interpreter:
    """The interpreter that is forked, as this process sees it; it and its forks end with this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._control, its_end):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _LARGEST)
        with its_end:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(its_end.fileno())],
                stdin=subprocess.DEVNULL,
                cwd=_CHECKOUT,
                env={**os.environ, "PYTHONPATH": str(_CHECKOUT)},
                pass_fds=[its_end.fileno()],
                start_new_session=True,  # ^C is for the tests, which then end the forks
            )

    def fork(self, what: Mapping[str, Any], files: Sequence[int]) -> None:
        """Fork a process with these files as its descriptors 0, 1, 2, and one to tell its id and its status on."""
        request = json.dumps(what).encode()
        assert len(request) <= _LARGEST, len(request)
        with self._lock:
            socket.send_fds(self._control, [request], files)


_starting = threading.Lock()


def _interpreter() -> _Interpreter:
    """The one of this process; it starts with the first fork."""
    with _starting:  # a second one, of another thread that forks, would end with its only fork
        return _started()


@cache
def _started() -> _Interpreter:
    return _Interpreter()


# In that interpreter


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork at each request, and tell how forks end; return a fork's request in the fork, and None at the end."""
    statuses: dict[int, socket.socket] = {}
    woken, waking = socket.socketpair()
    waking.setblocking(False)
    signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready = select.select([control, woken], [], [])[0]
        if woken in ready:
            woken.recv(4096)
            _reap(statuses)
        if control in ready:
            request, files, _, _ = socket.recv_fds(control, _LARGEST, 4)
            if not request:
                break
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for inherited in (control, woken, waking, *statuses.values()):
                    inherited.close()
                return _take_place(json.loads(request), files)
            statuses[pid] = socket.socket(fileno=files[3])
            statuses[pid].send(b"%d" % pid)
            for file in files[:3]:
                os.close(file)
    for pid in statuses:
        os.kill(pid, signal.SIGKILL)
    return None


def _reap(statuses: dict[int, socket.socket]) -> None:
    """Tell the status of those that have ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            with statuses.pop(pid) as told, contextlib.suppress(OSError):  # it may be that nobody waits
                told.send(b"%d" % os.waitstatus_to_exitcode(status))


def _take_place(request: dict[str, Any], files: array.array[int] | list[int]) -> dict[str, Any]:
    """Have the files, the environment, the directory and the arguments that a new Python would have."""
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["cwd"])
    sys.argv = ["-c", *request["arguments"]]
    sys.path[0] = ""
    if os.environ.get("PYTHONUNBUFFERED"):
        for number, name in ((1, "stdout"), (2, "stderr")):
            stream = getattr(sys, name)
            raw: Any = io.FileIO(number, "w", closefd=False)
            new = io.TextIOWrapper(raw, encoding=stream.encoding, errors=stream.errors, write_through=True)
            setattr(sys, name, new)
            setattr(sys, f"__{name}__", new)
    return request


def _prepare() -> None:
    """Import what the forks will need, but no reactor: each has its own."""
    from twisted.application.service import IServiceMaker
    from twisted.plugin import getPlugins

    for name in _IMPORTED:
        importlib.import_module(name)
    list(getPlugins(IServiceMaker))
    assert "twisted.internet.reactor" not in sys.modules
    gc.collect()
    gc.freeze()  # or each fork would soon have a copy of all that


if __name__ == "__main__":
    _control = socket.socket(fileno=int(sys.argv[1]))
    _prepare()
    _request = _serve(_control)
    if _request is not None:
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(_request["program"], "<string>", "exec"), sys.modules["__main__"].__dict__)
