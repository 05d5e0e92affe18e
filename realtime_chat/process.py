"""The daemon's process: its signals, and who waits in the terminal to hear what became of its start."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import stat
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

from twisted.logger import Logger, globalLogPublisher
from twisted.python import usage

from realtime_chat.listening import check_parent_directory
from realtime_chat.logs import log_files, reopen

__all__ = ["Process", "check_runner", "leaves_terminal"]

_REOPENING = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""What programs that rotate logs send. Unless somebody listens to them they end a process, without a goodbye."""

_STATUS = "statusPipe"
"""Under this name twistd keeps the pipe from which its first process reads the status that it is to end with."""


def leaves_terminal(runner: Mapping[str, Any]) -> bool:
    """Whether twistd is going to leave its terminal.

    :param runner: its options; none where another one runs this.
    """
    return not runner.get("nodaemon", True) and not runner.get("debug")


def check_runner(runner: Mapping[str, Any]) -> None:
    """Refuse what twistd would end for with a traceback: its files, where nobody could make them."""
    names = {
        "pidfile": runner.get("pidfile"),
        "logfile": runner.get("logfile") or ("twistd.log" if leaves_terminal(runner) else None),
    }
    if runner.get("syslog") or runner.get("logger") or names["logfile"] == "-":
        names["logfile"] = None
    if runner.get("chroot"):
        names["pidfile"] = None
    for option, text in names.items():
        if text:
            _check_runner_file(option, str(text))
    directory = runner.get("rundir")
    if directory and not runner.get("chroot") and not Path(directory).is_dir():
        raise usage.UsageError(f"twistd --rundir: {directory!r} is no directory; right would be one, such as /")


_RUNNER_EXAMPLES = {"pidfile": "--pidfile= for none", "logfile": "--logfile /var/log/realtime/daemon.log"}


def _check_runner_file(option: str, text: str) -> None:
    path, example = Path(text).absolute(), f"{_RUNNER_EXAMPLES[option]}, before realtime"
    try:
        if path.exists() and not (path.is_file() or path.is_char_device()):
            raise ValueError(f"{text!r} is no file; right would be {example}")
        if path.exists() and not os.access(path, os.W_OK):
            raise ValueError(f"{text!r} can't be written to; right would be {example}")
        if not path.exists():
            check_parent_directory(text, text, example)
    except ValueError as error:
        raise usage.UsageError(f"twistd --{option}: {error}") from error


class Process:
    """What the process of the daemon does besides serving.

    ``twistd`` that goes into the background takes a service for started when ``startService`` returns, and its first
    process ends with 0. Where a start fails by ``SystemExit`` it says nothing, and that process waits for ever, as it
    holds the other end of its own pipe. So the pipe is ours from the start on.

    :param runner: twistd's options, where twistd is the runner.
    """

    _log = Logger()

    def __init__(self, reactor: Any, runner: MutableMapping[str, Any] | None) -> None:
        self._reactor = reactor
        self._runner = {} if runner is None else runner
        self._pipe: int | None = None
        self._terminal: int | None = None
        if leaves_terminal(self._runner):
            with contextlib.suppress(OSError):  # there may be no terminal
                self._terminal = os.dup(2)  # as twistd closes it before the service starts
            atexit.register(self._ended)

    def starting(self, reopen_logs: Callable[[], None]) -> None:
        """Hear signals, and see to the exit status of twistd's first process.

        :param reopen_logs: opens the service's own logs again.
        """
        self._pipe = self._runner.pop(_STATUS, None)
        if self._pipe is not None:
            # Behind that twistd ends itself by the signal that stopped it, and nothing else is called.
            self._reactor.addSystemEventTrigger("after", "shutdown", self._ended)
        for number in _REOPENING:
            if signal.getsignal(number) in (None, signal.SIG_DFL, signal.SIG_IGN):
                signal.signal(number, partial(self._reopen_later, reopen_logs))

    def _reopen_later(self, reopen_logs: Callable[[], None], *signalled: object) -> None:
        self._reactor.callFromThread(self._reopen, reopen_logs)

    def _reopen(self, reopen_logs: Callable[[], None]) -> None:
        reopen_logs()
        for file in log_files(globalLogPublisher):
            try:
                reopen(file)
            except OSError as error:
                self._log.error("the log can't be opened again: {error}", error=error)

    def started(self) -> None:
        """The daemon listens; whoever waits for that may send signals then, which the reactor hears once it runs."""
        self._reactor.callWhenRunning(self._tell, b"0")

    def give_up(self, why: str) -> None:
        """Say why on the terminal, stop, and let the process end with status 1.

        Twisted's runners can't be told a status once the reactor runs. Where the log is the terminal it stands there.
        """
        if self._terminal is not None:
            self._say(self._terminal, why)
        elif self._logs_elsewhere():
            self._say(2, why)
        self._tell(b"1 the daemon can't start, see above")
        atexit.register(os._exit, 1)
        self._reactor.callWhenRunning(self._reactor.stop)

    def _logs_elsewhere(self) -> bool:
        options = self._runner
        return options.get("logfile") not in (None, "", "-") or bool(options.get("syslog") or options.get("logger"))

    def _say(self, descriptor: int, why: str) -> None:
        with contextlib.suppress(OSError):
            os.write(descriptor, f"realtime: {why}\n".encode(errors="backslashreplace"))

    def _ended(self) -> None:
        """The process ends: whoever still waits isn't left waiting."""
        pipe = self._runner.pop(_STATUS, None)
        with contextlib.suppress(OSError):
            # What twistd has told and closed itself may be another file by now.
            if pipe is not None and stat.S_ISFIFO(os.fstat(pipe).st_mode):
                self._pipe = pipe
        self._tell(b"1 the daemon has ended while it started")

    def _tell(self, status: bytes) -> None:
        """Tell twistd's first process what to end with, once."""
        pipe, self._pipe = self._pipe, None
        terminal, self._terminal = self._terminal, None
        if pipe is not None:
            with contextlib.suppress(OSError):  # it may be gone
                os.write(pipe, status)
            os.close(pipe)
        if terminal is not None:
            os.close(terminal)
