"""The daemon's process: its signals, its exit status, and twistd's own options."""

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

_REOPEN_SIGNALS = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""The signals that log rotation sends. A process that doesn't catch them is killed by them."""

_STATUS_PIPE = "statusPipe"
"""twistd's option for the pipe from which its first process reads its exit status."""


def leaves_terminal(runner: Mapping[str, Any]) -> bool:
    """Whether twistd will detach from its terminal.

    :param runner: twistd's options; empty if another program runs the daemon.
    """
    return not runner.get("nodaemon", True) and not runner.get("debug")


def check_runner(runner: Mapping[str, Any]) -> None:
    """Refuse paths in twistd's own options that can't be created. twistd itself would end with a traceback.

    :raises twisted.python.usage.UsageError: naming the option.
    """
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
    """The signals and the exit status of the daemon's process.

    If ``twistd`` goes to the background, its first process waits on a pipe for its exit status. twistd writes 0 into
    the pipe when ``startService`` returns, which is too early. If the start ends in ``SystemExit``, twistd writes
    nothing, and the first process waits for ever, as it holds the pipe's other end too. So this class takes the pipe
    over.

    :param runner: twistd's options; None if another program runs the daemon.
    """

    _log = Logger()

    def __init__(self, reactor: Any, runner: MutableMapping[str, Any] | None) -> None:
        self._reactor = reactor
        self._runner = {} if runner is None else runner
        self._pipe: int | None = None
        self._terminal: int | None = None
        if leaves_terminal(self._runner):
            with contextlib.suppress(OSError):  # without a terminal
                self._terminal = os.dup(2)  # twistd closes it before the service starts
            atexit.register(self._on_exit)

    def starting(self, reopen_logs: Callable[[], None], reload: Callable[[], None]) -> None:
        """Catch signals, and take over the pipe for the exit status.

        :param reopen_logs: opens the service's own logs again.
        :param reload: is called after all logs were opened again.
        """
        self._pipe = self._runner.pop(_STATUS_PIPE, None)
        if self._pipe is not None:
            # After that, twistd kills itself with the signal that stopped it, and no exit function is called.
            self._reactor.addSystemEventTrigger("after", "shutdown", self._on_exit)
        for number in _REOPEN_SIGNALS:
            if signal.getsignal(number) in (None, signal.SIG_DFL, signal.SIG_IGN):
                signal.signal(number, partial(self._on_signal, reopen_logs, reload))

    def _on_signal(self, reopen_logs: Callable[[], None], reload: Callable[[], None], *signalled: object) -> None:
        self._reactor.callFromThread(self._reopen, reopen_logs)
        self._reactor.callFromThread(reload)

    def _reopen(self, reopen_logs: Callable[[], None]) -> None:
        reopen_logs()
        for file in log_files(globalLogPublisher):
            try:
                reopen(file)
            except OSError as error:
                self._log.error("the log can't be opened again: {error}", error=error)

    def started(self) -> None:
        """Report success, as the daemon listens. The reactor has to run first, as signals may come then."""
        self._reactor.callWhenRunning(self._report, b"0")

    def give_up(self, why: str) -> None:
        """Print the reason on the terminal, stop, and end the process with status 1.

        The reason is not printed if the log goes to the terminal. An exit function sets the status, as Twisted's
        runners take none once the reactor runs.
        """
        if self._terminal is not None:
            self._print(self._terminal, why)
        elif self._logs_to_file():
            self._print(2, why)
        self._report(b"1 the daemon can't start, see above")
        atexit.register(os._exit, 1)
        self._reactor.callWhenRunning(self._reactor.stop)

    def _logs_to_file(self) -> bool:
        options = self._runner
        return options.get("logfile") not in (None, "", "-") or bool(options.get("syslog") or options.get("logger"))

    def _print(self, descriptor: int, why: str) -> None:
        with contextlib.suppress(OSError):
            os.write(descriptor, f"realtime: {why}\n".encode(errors="backslashreplace"))

    def _on_exit(self) -> None:
        """Report a failure if the process ends while its first process still waits."""
        pipe = self._runner.pop(_STATUS_PIPE, None)
        with contextlib.suppress(OSError):
            # If twistd has used and closed the pipe, its number may belong to another file.
            if pipe is not None and stat.S_ISFIFO(os.fstat(pipe).st_mode):
                self._pipe = pipe
        self._report(b"1 the daemon has ended while it started")

    def _report(self, status: bytes) -> None:
        """Send the exit status to twistd's first process, once."""
        pipe, self._pipe = self._pipe, None
        terminal, self._terminal = self._terminal, None
        if pipe is not None:
            with contextlib.suppress(OSError):  # the first process may have ended
                os.write(pipe, status)
            os.close(pipe)
        if terminal is not None:
            os.close(terminal)
