"""The commands ``key``, ``token`` and ``token check``: keys and tokens, made and checked without a daemon."""

from __future__ import annotations

import argparse
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from realtime_chat.console.text import safe
from realtime_chat.tokens.keys import TokenKeys
from realtime_chat.tokens.making import make_secret, make_token
from realtime_chat.tokens.signed import SignedToken
from realtime_chat.tokens.verifier import TokenVerifier
from realtime_chat.values.errors import RealtimeError, UnreadableCommand
from realtime_chat.values.json import decode_json, encode_value

DEFAULT_KEY = "realtime.key"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHOWN = ("sub", "name", "info", "rooms", "exp", "nbf", "iat", "aud", "iss")
_TIMES = ("exp", "nbf", "iat")


def add_token_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to a parser."""
    what = "print a new key: a secret that your site signs tokens with, and the daemon verifies them with"
    commands.add_parser("key", help=what, description=_sentence(what))
    what = "print a token for trying things out, or say what is wrong with one (token check)"
    token = commands.add_parser("token", help=what, description=_sentence(what))
    _add_key_options(token)
    token.add_argument("--sub", help="the user's id, as your site knows it")
    token.add_argument("--name", default=argparse.SUPPRESS, help="the user's name")
    token.add_argument("--info", type=_json_object, metavar="JSON", help="what your site vouches for besides")
    token.add_argument(
        "--room",
        type=_grant,
        action="append",
        default=[],
        metavar="PATTERN=RIGHTS",
        help="what the user may do in which rooms, such as 'lobby=rw' or 'help-*=rwsp'; may be given more than once",
    )
    valid = "how long it is valid: seconds, or with a unit s m h d [default: 1h]"
    token.add_argument("--for", dest="seconds", type=_seconds, default=3600, metavar="TIME", help=valid)
    checks = token.add_subparsers(dest="token_command", metavar="[check]")
    what = "say what a token says, and what is wrong with it; the status is 1 if it is refused"
    check = checks.add_parser("check", help=what, description=_sentence(what))
    _add_key_options(check, default=argparse.SUPPRESS)
    check.add_argument("token", nargs="?", metavar="TOKEN", help="[default: the first line of standard input]")


def _sentence(what: str) -> str:
    return what[0].upper() + what[1:] + "."


def _add_key_options(parser: argparse.ArgumentParser, default: Any = None) -> None:
    """The options for which the daemon has the same."""
    parser.add_argument(
        "--token-key", action="append", metavar="FILE", default=default, help=f"the keys [default: {DEFAULT_KEY}]"
    )
    parser.add_argument("--token-audience", metavar="NAME", default=default, help="what aud names [default: none]")
    parser.add_argument("--token-issuer", metavar="NAME", default=default, help="what iss is [default: none]")


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; right would be 90, or with a unit s m h d, such as 1h")
    return int(match[1]) * _UNITS.get(match[2], 1)


def _grant(text: str) -> tuple[str, str]:
    pattern, equals, rights = text.rpartition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} grants nothing; right would be PATTERN=RIGHTS, such as lobby=rw")
    return pattern, rights


def _json_object(text: str) -> dict[str, Any]:
    right = """right would be an object, such as '{"role": "staff"}'"""
    try:
        value = decode_json(text.encode(errors="surrogateescape"))
    except UnreadableCommand as error:
        raise argparse.ArgumentTypeError(f"{error.message}; {right}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"this is no object; {right}")
    return value


def print_key(options: argparse.Namespace) -> int:
    """Print a new key. The status is 0."""
    print(make_secret(os.urandom))
    status = os.fstat(1)
    if stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IROTH:
        _note("everybody on this machine can read that file; right would be chmod 640, with your site's group")
    return 0


def token(options: argparse.Namespace) -> int:
    """Print a token, or check one. The status is 1 if the daemon would refuse it."""
    try:
        keys = TokenKeys.read(options.token_key or [DEFAULT_KEY])
        verifier = TokenVerifier(keys, options.token_audience, options.token_issuer, time.time)
        if options.token_command == "check":
            return _check(options, verifier)
        made = make_token(keys, dict(_claims(options)))
        verifier.verify(made)
    except (ValueError, RealtimeError) as error:
        _note(safe(getattr(error, "message", str(error))))
        return 1
    print(made)
    return 0


def _claims(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """The claims of a new token, without those that nothing is said about."""
    now = int(time.time())
    if options.sub is None:
        raise ValueError("there is no --sub; right would be the user's id, such as --sub u7")
    given = {
        "sub": options.sub,
        "name": options.name,
        "info": options.info,
        "rooms": dict(options.room),
        "aud": options.token_audience,
        "iss": options.token_issuer,
        "iat": now,
        "exp": now + options.seconds,
    }
    return ((name, value) for name, value in given.items() if value not in (None, {}))


def _check(options: argparse.Namespace, verifier: TokenVerifier) -> int:
    """Print what a token says, and what is wrong with it."""
    text = sys.stdin.readline().strip() if options.token in (None, "-") else options.token
    try:
        claims = verifier.verify(text)
    except RealtimeError as error:
        for name, shown in _said(text):
            print(f"{name:6}{shown}")
        _note(safe(error.message))
        return 1
    for name, shown in _said(text):
        print(f"{name:6}{shown}")
    print(f"This token is right; its key is {claims.key}.")
    return 0


def _said(text: str) -> Iterator[tuple[str, str]]:
    """What a token says, whoever signed it; nothing if it can't be read."""
    try:
        claims = SignedToken.parse(text).claims()
    except RealtimeError:
        return
    for name in _SHOWN:
        if name in claims:
            value = claims[name]
            yield name, _time(value) if name in _TIMES else safe(_json(value))


def _json(value: Any) -> str:
    return value if isinstance(value, str) else encode_value(value).decode()


def _time(value: Any) -> str:
    """A time as a date, and how far away it is."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 253_402_300_800:
        return safe(_json(value))
    away = int(value - time.time())
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))
    return f"{when}, {'in ' if away >= 0 else ''}{_span(abs(away))}{'' if away >= 0 else ' ago'}"


def _span(seconds: int) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"


def _note(line: str) -> None:
    sys.stderr.write(f"realtime-chat: {line}\n")


TOKEN_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {"key": print_key, "token": token}
"""The commands by name. Each gives the exit status."""
