"""The command line of ``realtime-chat``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import realtime_chat
from realtime_chat.client import TRANSPORTS
from realtime_chat.console.amqp import add_amqp_options, check_amqp_options
from realtime_chat.console.nginx import add_nginx_command
from realtime_chat.console.tokens import add_token_commands
from realtime_chat.values.errors import RealtimeError, UnreadableCommand
from realtime_chat.values.json import decode_json
from realtime_chat.values.model import Position, check_event, check_key, check_name, check_property, check_room

DEFAULT_URL = "http://127.0.0.1:8080/"

T = TypeVar("T")
_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def make_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="realtime-chat",
        description="Reads and writes the rooms of a realtime_chat daemon.",
        epilog="It ends with status 0, or with 1 where something failed, 2 for a wrong command line, 130 for ^C.",
        allow_abbrev=False,
        parents=[_common()],
    )
    parser.add_argument("--version", action="version", version=f"realtime-chat {realtime_chat.__version__}")
    parser.set_defaults(connects=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_tail(commands)
    _add_publish(commands)
    members = _add(commands, "members", "list who is in a room")
    members.add_argument("--json", action="store_true", help="one JSON object a line")
    _add(commands, "rooms", "list the rooms that ever had a message", of_room=False)
    _add_properties(commands)
    chat = _add(commands, "chat", "talk in a room: each line that is typed is a message; /help says what else there is")
    chat.add_argument("--last", type=_count, default=10, metavar="N", help="begin with N old messages [default: 10]")
    bridge = _add(commands, "amqp", "relay between rooms and the exchanges of a RabbitMQ, until ^C", of_room=False)
    add_amqp_options(bridge)
    add_token_commands(commands)
    add_nginx_command(commands)
    what = "print which options are in force for a daemon, and where each comes from"
    config = commands.add_parser("config", help=what, description=f"{what.capitalize()}.")
    config.add_argument("daemon", nargs="*", metavar="OPTIONS", help="those of twistd realtime")
    return parser


def _common() -> argparse.ArgumentParser:
    """The options that may stand before or after the command. They have no defaults: one would override the other."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = common.add_argument_group("connection")
    group.add_argument("--url", help=f"where the daemon is [default: $REALTIME_URL, or {DEFAULT_URL}]")
    group.add_argument("--name", type=_checked(check_name), help="what to be called")
    group.add_argument(
        "--token", help="who one is: a token of a site [default: $REALTIME_TOKEN, which no list of processes shows]"
    )
    group.add_argument(
        "--token-file",
        metavar="FILE",
        help="a file with the token; it is read again when the token gets old, so keep a fresh one in it",
    )
    group.add_argument("--transport", choices=TRANSPORTS, help="use this one only [default: the best that can be had]")
    group.add_argument(
        "--client-file",
        metavar="FILE",
        help="be the same user each time: a file for the secret that says who one is, made if it isn't there",
    )
    return common


def _add(commands: _Commands, name: str, what: str, of_room: bool = True) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=what, description=what.capitalize() + ".", parents=[_common()])
    parser.set_defaults(connects=True)
    if of_room:
        parser.add_argument("room", type=_checked(check_room), metavar="ROOM")
    return parser


def _add_tail(commands: _Commands) -> None:
    tail = _add(commands, "tail", "print a room's messages as they come, each once and in order, until ^C")
    tail.add_argument("--since", type=_checked(Position.parse), metavar="POSITION", help="begin after this position")
    tail.add_argument("--last", type=_count, default=10, metavar="N", help="begin with N old messages [default: 10]")
    tail.add_argument("--json", action="store_true", help="one JSON object a line, as the protocol has them")


def _add_publish(commands: _Commands) -> None:
    publish = _add(commands, "publish", "publish a message, or each line of standard input; prints their positions")
    publish.add_argument("text", nargs="?", metavar="TEXT", help="what to say [default: the lines of standard input]")
    publish.add_argument(
        "--event", type=_checked(check_event), default="message", help="the kind of message [default: message]"
    )
    publish.add_argument("--json", action="store_true", help="TEXT, or each line, is a JSON value, and is the data")
    publish.add_argument(
        "--key",
        type=_checked(check_key),
        help="store this only once, also if the command is given again (with --client-file); lines get KEY-1, KEY-2, …",
    )


def _add_properties(commands: _Commands) -> None:
    properties = _add(commands, "properties", "print the properties of a room, which are its named values")
    properties.add_argument("--json", action="store_true", help="one JSON object of names and values")
    for name, what in ("set", "set a property of a room"), ("unset", "remove a property of a room"):
        command = _add(commands, name, f"{what}; prints its position in the room's properties")
        command.add_argument("property", type=_checked(check_property), metavar="NAME")
        if name == "set":
            command.add_argument("text", metavar="TEXT", help="the value")
            command.add_argument("--json", action="store_true", help="TEXT is a JSON value [default: a string]")


def _checked(check: Callable[[str], T]) -> Callable[[str], T]:
    """A type of arguments: what may stand in the protocol."""

    def read(text: str) -> T:
        try:
            return check(text)
        except RealtimeError as error:
            raise argparse.ArgumentTypeError(error.message) from error

    return read


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; right would be 10")
    return int(text)


def read_options(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> argparse.Namespace:
    """Read a command line.

    :raises SystemExit: with 0 for ``--help`` and ``--version``; with 2 after a message, if the command line is wrong.
    """
    if arguments[:1] == ["config"] and not {"-h", "--help"} & {*arguments}:  # the daemon's options are not ours
        return argparse.Namespace(command="config", daemon=list(arguments[1:]))
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command == "publish" and options.text is None and not rest[0].startswith("-"):
        options.text = rest.pop(0)  # before Python 3.13, argparse doesn't find it after an option
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    source = "--url" if hasattr(options, "url") else "REALTIME_URL"
    _set_defaults(options, environ)
    _check_identity(parser, options)
    if options.connects:
        _check_url(parser, source, options.url)
    wrong = check_amqp_options(options) if options.command == "amqp" else None
    if wrong is not None:
        parser.error(wrong)
    if getattr(options, "text", None) is not None and options.json:
        _check_json(parser, options.text.encode(errors="surrogateescape"))
    return options


def _set_defaults(options: argparse.Namespace, environ: Mapping[str, str]) -> None:
    for name in ("name", "transport", "client_file", "token", "token_file"):
        if not hasattr(options, name):
            setattr(options, name, None)
    if not hasattr(options, "url"):
        options.url = environ.get("REALTIME_URL") or DEFAULT_URL
    if options.token is None and options.token_file is None:
        options.token = environ.get("REALTIME_TOKEN") or None


def _check_url(parser: argparse.ArgumentParser, source: str, url: str) -> None:
    from realtime_chat.client.server_url import ServerURL  # which imports what connects

    try:
        ServerURL(None, url)
    except ValueError as error:
        parser.error(f"{source}: {error}")


def _check_identity(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options that say twice who somebody is."""
    if options.token is not None and options.token_file is not None:
        parser.error("--token and --token-file say the same thing; give one of them")
    if options.name is not None and (options.token or options.token_file) is not None:
        parser.error("--name is for guests; a user has the name that is in the token")


def _check_json(parser: argparse.ArgumentParser, text: bytes) -> None:
    try:
        decode_json(text)
    except UnreadableCommand as error:
        parser.error(f'--json: TEXT: {error.message}; right would be \'{{"text": "hi"}}\'')
