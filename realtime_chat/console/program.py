"""A command that needs a daemon: connects it to a reactor, a terminal and signals."""

from __future__ import annotations

import argparse
import os
import select
import signal
import stat
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from threading import Thread
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from realtime_chat.client import TRANSPORTS, RealtimeError, Refused, State, Unreachable, connect
from realtime_chat.console.amqp import relay
from realtime_chat.console.commands import COMMANDS, Failed
from realtime_chat.console.terminal import Terminal
from realtime_chat.console.text import safe

FAILED = 1

_BRIDGE = "amqp"
"""The command that waits for the daemon, as the machine may start both at the same time."""


def _connection_notes(terminal: Terminal) -> Callable[[State], None]:
    """Return what notes once that the connection is gone, and once that it is back."""
    gone = False

    def on_state(state: State) -> None:
        nonlocal gone
        if state.kind == "waiting" and not gone:
            gone = True
            terminal.note(f"the connection is gone ({safe(state.reason)}); trying to get it back")
        elif state.kind == "connected" and gone:
            gone = False
            terminal.note("the connection is back")

    return on_state


class _ClientFile:
    """The file with the client's secret, which makes it the same user each time.

    :raises Failed: the file can't be read or written.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path

    def read(self) -> str | None:
        """The secret, if there is one."""
        if self._path is None:
            return None
        try:
            with open(self._path, encoding="ascii") as file:
                return file.read().strip() or None
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Failed(f"--client-file: {self._path}: {error}") from error

    def write(self, client: str | None) -> None:
        """Write the secret, readable by the file's owner only."""
        if self._path is None or client is None or client == self.read():
            return
        try:
            with open(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(client + "\n")
        except OSError as error:
            raise Failed(f"--client-file: {self._path}: {error.strerror}") from error


def _token_of(options: argparse.Namespace) -> str | Callable[[], str] | None:
    """The token, or what reads it from its file each time that one is needed."""
    path = options.token_file
    if path is None:
        return None if options.token is None else str(options.token)

    def read() -> str:
        try:
            with open(path, encoding="ascii") as file:
                token = file.read().strip()
        except (OSError, ValueError) as error:
            raise Refused("unauthorized", f"--token-file: {path}: {error}") from error
        if not token:
            raise Refused("unauthorized", f"--token-file: {path}: it is empty; right would be a token")
        return token

    return read


async def _run(reactor: Any, options: argparse.Namespace, terminal: Terminal) -> None:
    file = _ClientFile(options.client_file)
    chat = connect(
        reactor,
        options.url,
        name=options.name,
        client=file.read(),
        token=_token_of(options),
        patient=options.command == _BRIDGE,
        transports=TRANSPORTS if options.transport is None else (options.transport,),
        on_state=_connection_notes(terminal),
    )
    async with chat:
        file.write(chat.client)
        commands: Mapping[str, Callable[..., Awaitable[None]]] = {**COMMANDS, _BRIDGE: partial(relay, reactor)}
        await commands[options.command](chat, options, terminal)


def _status(failure: Failure, terminal: Terminal, options: argparse.Namespace) -> int:
    """Write what went wrong, and return the exit status."""
    error = failure.value
    if isinstance(error, BrokenPipeError):  # the reader of our output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    if isinstance(error, Unreachable):
        terminal.note(f"{safe(error.message)}\nIs the daemon running? --url says where it is; this was {options.url}")
    elif isinstance(error, RealtimeError):
        terminal.note(safe(error.message) + (" (trying again later may help)" if error.temporary else ""))
    elif isinstance(error, Failed):
        terminal.note(str(error))
    else:
        failure.raiseException()
    return FAILED


class Program:
    """Runs a command.

    :ivar status: the exit status.
    """

    def __init__(self, reactor: Any, options: argparse.Namespace) -> None:
        self._reactor = reactor
        self._options = options
        self._terminal = Terminal(reactor)
        self._running: Deferred[Any] | None = None
        self._output_closed = False
        self.status = 0

    def run(self) -> int:
        """Run the command to its end; return the exit status."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._interrupted)
        self._reactor.callWhenRunning(self._begin)
        self._reactor.run(installSignalHandlers=False)
        return self.status

    def _begin(self) -> None:
        self._running = Deferred.fromCoroutine(_run(self._reactor, self._options, self._terminal))
        self._running.addErrback(self._failed)
        Thread(target=self._watch_output, daemon=True).start()
        self._running.addErrback(self._crashed)
        self._running.addBoth(lambda result: self._reactor.stop())

    def _failed(self, failure: Failure) -> None:
        if not (failure.check(CancelledError) and (self.status or self._output_closed)):
            self.status = _status(failure, self._terminal, self._options)

    def _crashed(self, failure: Failure) -> None:
        """An error that nothing else handles is a bug: print its traceback."""
        failure.printTraceback(sys.stderr)
        self.status = FAILED

    def _watch_output(self) -> None:
        """Stop when the reader of our output has gone, even if there is nothing to write."""
        if stat.S_ISFIFO(os.fstat(1).st_mode):
            output = select.poll()
            output.register(1, 0)  # reports errors only; a closed reader is one
            output.poll()
            self._output_closed = True
            self._reactor.callFromThread(self._cancel)

    def _interrupted(self, number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once
        self.status = 128 + number
        self._reactor.callFromThread(self._cancel)

    def _cancel(self) -> None:
        if self._running is not None:
            self._running.cancel()
