"""The program ``realtime-chat``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from realtime_chat.console.nginx import print_location
from realtime_chat.console.options import read_options
from realtime_chat.console.tokens import TOKEN_COMMANDS


def _print_config(options: argparse.Namespace) -> int:
    from realtime_chat.console.config import print_config  # which imports all of the daemon

    return print_config(options)


_WITHOUT_DAEMON: Mapping[str, Callable[[argparse.Namespace], int]] = {
    **TOKEN_COMMANDS,
    "config": _print_config,
    "nginx": print_location,
}
"""The commands that only print. Each gives the exit status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``realtime-chat``; return the exit status."""
    options = read_options(sys.argv[1:] if arguments is None else arguments)
    run = _WITHOUT_DAEMON.get(options.command, _run_connected)
    return run(options)


def _run_connected(options: argparse.Namespace) -> int:
    # Imported here, as these take most of the time of a start.
    from twisted.internet import reactor

    from realtime_chat.console.program import Program

    try:
        return Program(reactor, options).run()
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
