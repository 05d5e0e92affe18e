"""The command ``amqp``: a bridge between rooms and a RabbitMQ (:mod:`realtime_chat.contrib.amqp`)."""

from __future__ import annotations

import argparse
import logging
import os
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from realtime_chat.console.text import safe
from realtime_chat.contrib.amqp.positions import PositionFile, PositionsRefused
from realtime_chat.contrib.amqp.routes import Destination, Source

if TYPE_CHECKING:
    from realtime_chat.client import Chat
    from realtime_chat.console.terminal import Terminal

_DEFAULT_URL = "amqp://guest:guest@localhost/%2F"
_MOST_UNDER_WAY = 100
"""As many messages as the client lets wait while the daemon is away."""

T = TypeVar("T")


def add_amqp_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    where = _DEFAULT_URL.replace("%", "%%")
    parser.add_argument(
        "--amqp",
        metavar="URL",
        help=f"where RabbitMQ is [default: $AMQP_URL, which no list of processes shows, or {where}]",
    )
    parser.add_argument(
        "--consume",
        type=_checked(Source.parse),
        action="append",
        default=[],
        metavar="EXCHANGE[:KEY]=ROOM",
        help="store in a room what is published to an exchange, or what matches the binding key KEY there; repeatable",
    )
    parser.add_argument(
        "--publish",
        type=_checked(Destination.parse),
        action="append",
        default=[],
        metavar="ROOM=EXCHANGE",
        help="publish the messages of a room to an exchange, with the room as routing key; repeatable",
    )
    parser.add_argument(
        "--positions", metavar="FILE", help="where to keep how far rooms are published; made if it isn't there"
    )
    parser.add_argument(
        "--prefetch",
        type=_prefetch,
        default=50,
        metavar="N",
        help=f"how many messages may be under way to rooms, 1 to {_MOST_UNDER_WAY} [default: 50]",
    )


def _checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    def read(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def _prefetch(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MOST_UNDER_WAY):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {_MOST_UNDER_WAY}; right would be 50")
    return int(text)


def check_amqp_options(options: argparse.Namespace) -> str | None:
    """What is wrong with the options, and what would be right; None if nothing is."""
    if not (options.consume or options.publish):
        return "there is nothing to do; right would be --consume EXCHANGE=ROOM, or --publish ROOM=EXCHANGE"
    if options.publish and options.positions is None:
        return "--publish needs a file to remember how far it is; add --positions FILE"
    if options.consume and not (options.client_file or options.token or options.token_file):
        return (
            "--consume has to be the same user each time, so that a message that comes again is stored once; add "
            "--client-file FILE, or a token"
        )
    return None


async def relay(reactor: Any, chat: Chat, options: argparse.Namespace, terminal: Terminal) -> None:
    """Relay until the command is stopped.

    :raises Failed: it can't.
    """
    # Imported here, as the options are read for each command.
    from realtime_chat.client.connector import Backoff
    from realtime_chat.console.commands import Failed

    try:
        from realtime_chat.contrib.amqp.bridge import Bridge
        from realtime_chat.contrib.amqp.connection import BrokerConnection, BrokerRefused, read_url
    except ImportError as error:
        raise Failed(f"this needs pika ({error}); right would be: pip install 'realtime_chat[amqp]'") from error
    logging.getLogger("pika").addHandler(logging.NullHandler())  # or Python writes what it logs to standard error

    def note(line: str) -> None:
        terminal.note(safe(line))

    try:
        url = read_url(options.amqp or os.environ.get("AMQP_URL") or _DEFAULT_URL)
        broker = BrokerConnection(reactor, url, Backoff(random.random), note)
        positions = PositionFile(options.positions)
        await Bridge(reactor, chat, broker, options.consume, options.publish, positions, options.prefetch, note).run()
    except (BrokerRefused, PositionsRefused, ValueError) as error:
        raise Failed(safe(str(error))) from error
