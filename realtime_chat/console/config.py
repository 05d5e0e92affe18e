"""The command ``config``: what is in force for a daemon with these options, and where each value comes from.

It prints a configuration file that says the same.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from twisted.python.usage import UsageError

from realtime_chat.console.text import safe
from realtime_chat.options import PATHS, Options
from realtime_chat.values.access import RoomRule, format_rights

_USAGE = 2
_DEFAULT = re.compile(r"\[default: (.*)\]")


def print_config(options: argparse.Namespace) -> int:
    """Print what is in force. The status is 2 if the daemon would refuse its options."""
    daemon = Options()
    try:
        daemon.parseOptions(options.daemon)
    except UsageError as error:
        sys.stderr.write(f"realtime-chat config: {safe(str(error))}{daemon.suggestion(error)}\n")
        return _USAGE
    for line in _lines(daemon):
        print(line)
    return 0


def _lines(daemon: Options) -> Iterator[str]:
    names = daemon.names()
    settings = {} if daemon.file is None else {setting.name: setting for setting in daemon.file.settings}
    for name in (name.removesuffix("=") for name in daemon.longOpt):
        if name in daemon.given and name != "config":
            yield _line(daemon, name, daemon.given[name], "the command line")
        elif name in settings and daemon.file is not None:
            yield _line(daemon, name, settings[name].texts, f"{daemon.file.path}, line {settings[name].line}")
        elif name in (*names.flags, *names.repeatable, *names.single):
            yield _default_line(daemon, name, name in names.flags)
    if daemon.file is not None:
        for rule, line in zip(daemon["rules"].rules, daemon.file.rule_lines, strict=True):
            yield f"\n[[room]]  # {safe(daemon.file.path)}, line {line}"
            yield from _rule_lines(rule)


def _line(daemon: Options, name: str, texts: Sequence[str], source: str) -> str:
    names = daemon.names()
    value: Any = list(texts) if name in names.repeatable else bool(texts) if name in names.flags else texts[-1]
    if name in PATHS:
        value = daemon[name] if name in names.repeatable else str(daemon[name])
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if name == "store" and daemon["redis"] is not None:
        value = daemon["redis"].describe()  # which has no password
    return f"{name} = {_toml(value)}  # {safe(source)}"


def _rule_lines(rule: RoomRule) -> Iterator[str]:
    yield f"match = {_toml(rule.match)}"
    for name, rights in (("guests", rule.guests), ("users", rule.users)):
        if rights is not None:
            yield f"{name} = {_toml(format_rights(rights))}"
    if rule.listed:
        yield "listed = true"
    for name, rate in (("publish-rate", rule.publish_rate), ("signal-rate", rule.signal_rate)):
        if rate is not None:
            yield f"{name} = {_toml(rate.text())}"
    if rule.max_members is not None:
        yield f"max-members = {rule.max_members}"


def _default_line(daemon: Options, name: str, is_flag: bool) -> str:
    value = daemon[name]
    if is_flag:
        return f"{name} = false  # default"
    if isinstance(value, (int, float)):
        return f"{name} = {int(value)}  # default"
    if isinstance(value, str) or value:
        return f"{name} = {_toml(value)}  # default"
    told = _DEFAULT.search(daemon.docs.get(name, ""))
    return f"# {name}: {told[1] if told else 'none'}"


def _toml(value: Any) -> str:
    """A value in TOML, whose strings are those of JSON but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
