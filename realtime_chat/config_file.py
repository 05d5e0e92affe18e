"""The configuration file, ``realtime.toml``: options under their own names, and rules for rooms.

``tomllib`` parses it, ``msgspec`` checks its types. The values of options go through the same checks as those of the
command line, in ``options.py``.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import attrs
import msgspec

from realtime_chat.option_values import read_limit, read_rate
from realtime_chat.text_files import FileRefused, read_text_file
from realtime_chat.values.access import MODERATE, RoomRule, RoomRules, check_pattern, covers, parse_rights

_EXAMPLE = "history = 1000"
_WRONG = re.compile(r"Expected (?P<expected>.*), got `(?P<got>\w+)`(?: - at `\$\.(?P<path>.*)`)?")
_INDEX = re.compile(r"\[(\d+)\]")
_PLACE = re.compile(r"(.*) \(at line (\d+), column \d+\)")
_TOML_NAMES = {"str": "text", "int": "a whole number", "bool": "true or false", "array": "a list", "object": "a table"}


class Names(NamedTuple):
    """The names of all options that a file may set.

    :ivar flags: those that are true or false.
    :ivar repeatable: those that may be given more than once. A file gives a list, or one value.
    :ivar single: all others.
    """

    flags: Collection[str]
    repeatable: Collection[str]
    single: Collection[str]


class Setting(NamedTuple):
    """What a file says of one option.

    :ivar texts: its values, as on the command line; for a flag, ``""`` once if it is true, and nothing if it is false.
    :ivar line: where in the file, from 1.
    """

    name: str
    texts: tuple[str, ...]
    line: int


class _Room(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """A ``[[room]]`` as it is written."""

    match: str
    guests: str | None = None
    users: str | None = None
    listed: bool = False
    publish_rate: str | int | None = None
    signal_rate: str | int | None = None
    max_members: str | int | None = None


@attrs.frozen
class ConfigFile:
    """A configuration file.

    :ivar settings: what it says of options, in the order of the file.
    :ivar rules: its rules for rooms.
    :ivar rule_lines: where each rule begins.
    :ivar is_empty: whether there is nothing in it, not even a comment.
    """

    path: str
    settings: tuple[Setting, ...] = ()
    rules: RoomRules = attrs.field(factory=RoomRules)
    rule_lines: tuple[int, ...] = ()
    is_empty: bool = False

    @classmethod
    def read(cls, path: str, names: Names) -> ConfigFile:
        """Read a file.

        :raises FileRefused: it can't be read, is no TOML, or has an unknown key, a value of a wrong type or a rule
            that can't be one. The message names the file and the line, and says what would be right.
        """
        text = read_text_file(path, "a file in TOML")
        found = _parse(path, text)
        lines = _key_lines(text)
        _check_names(path, found, lines, (*names.flags, *names.repeatable, *names.single, "room"), ())
        for index, room in enumerate(found["room"] if isinstance(found.get("room"), list) else ()):
            if isinstance(room, dict):
                _check_names(path, room, lines, _Room.__struct_encode_fields__, ("room", index))
        try:
            rooms = msgspec.convert(found, _struct(names)).room
        except msgspec.ValidationError as error:
            raise _explained(path, str(error), lines) from None
        settings = tuple(Setting(name, _texts(value), lines[name,]) for name, value in found.items() if name != "room")
        return cls(path, settings, *_read_rules(path, rooms, lines), not text)


_Lines = Mapping[tuple[str | int, ...], int]
"""The line of each key, by its path: ``("history",)`` or ``("room", 0, "match")``. A table has that of its header."""


def _parse(path: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _PLACE.fullmatch(str(error))
        line, why = (
            (int(match[2]), match[1]) if match else (text.rstrip().count("\n") + 1, str(error).partition(" (at ")[0])
        )
        raise FileRefused(path, line, f"this is no TOML: {why}; right would be a line such as {_EXAMPLE}") from None
    except RecursionError:
        raise FileRefused(path, None, f"it nests too deep; right would be lines such as {_EXAMPLE}") from None


def _key_lines(text: str) -> _Lines:
    """Find the lines of all keys, as tomllib doesn't tell them.

    Each statement of TOML ends with a line, and no beginning of it is a statement. So the first lines that can be
    parsed by themselves are one.
    """
    found: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    for line, is_header, parsed in _statements(text):
        if is_header:
            (name, value), *_ = parsed.items()
            count = sum(len(path) == 2 and path[0] == name for path in found)
            table = (name, count) if isinstance(value, list) else (name,)
            found.setdefault((name,), line)
            found[table] = line
        else:
            found |= {(*table, key): line for key in parsed}
    return found


def _statements(text: str) -> Iterator[tuple[int, bool, dict[str, Any]]]:
    """Each statement: its first line, whether it is the header of a table, and what it means by itself."""
    begun, chunk = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        if not chunk:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            begun = number
        chunk += line + "\n"
        try:
            parsed = tomllib.loads(chunk)
        except tomllib.TOMLDecodeError:
            continue
        yield begun, chunk.lstrip().startswith("["), parsed
        chunk = ""


def _check_names(
    path: str, found: Mapping[str, Any], lines: _Lines, known: Collection[str], table: tuple[str | int, ...]
) -> None:
    for name in found:
        if name not in known:
            what = "a key of [[room]]" if table else "an option"
            near = difflib.get_close_matches(name.replace("_", "-"), known, 1)
            right = f"did you mean {near[0]}?" if near else f"right would be one of {', '.join(sorted(known))}"
            raise FileRefused(path, lines.get((*table, name)), f"{name[:64]!a} is not {what}; {right}")


def _struct(names: Names) -> Any:
    """The type of a whole file."""
    fields: list[Any] = [
        *((name, bool | None, None) for name in names.flags),
        *((name, str | list[str] | None, None) for name in names.repeatable),
        *((name, str | int | None, None) for name in names.single),
    ]
    return msgspec.defstruct(
        "File",
        [
            *((name.replace("-", "_"), kind, default) for name, kind, default in fields),
            ("room", list[_Room], msgspec.field(default_factory=list)),
        ],
        rename="kebab",
    )


def _explained(path: str, message: str, lines: _Lines) -> FileRefused:
    """What msgspec says, as it is to be read: where, what is wrong, what would be right."""
    match = _WRONG.fullmatch(message)
    if match is None:  # Object missing required field `match` - at `$.room[1]`
        index = _INDEX.search(message)
        place = ("room", int(index[1]) if index else 0)
        return FileRefused(path, lines.get(place), 'this room has no match; right would be match = "lobby"')
    where = tuple(int(part) if part.isdigit() else part for part in re.findall(r"[\w-]+", match["path"] or ""))
    name = next((part for part in reversed(where) if isinstance(part, str)), "")
    line = next((lines[where[:size]] for size in range(len(where), 0, -1) if where[:size] in lines), None)
    got = _TOML_NAMES.get(match["got"], f"a {match['got']}")
    if name == "room":
        return FileRefused(path, line, f"room is {got}; right would be [[room]], and its keys on lines of their own")
    kinds = [kind for kind in re.findall(r"\w+", match["expected"]) if kind not in ("null", "None")]
    right = " or ".join(sorted(_TOML_NAMES.get(kind, kind) for kind in kinds))
    return FileRefused(path, line, f"{name} is {got}; right would be {right}, such as {_EXAMPLES_OF[right]}")


_EXAMPLES_OF: Mapping[str, str] = {
    "true or false": "true",
    "text": '"rw"',
    "a whole number or text": '1000 or "30d"',
    "a list or text": '["example.com"]',
}
"""An example for each kind of value that a key may have."""


def _texts(value: bool | int | str | list[str]) -> tuple[str, ...]:
    if isinstance(value, bool):
        return ("",) * value
    return tuple(value) if isinstance(value, list) else (str(value),)


# Rules for rooms


def _read_rules(path: str, rooms: list[_Room], lines: _Lines) -> tuple[RoomRules, tuple[int, ...]]:
    """The rules, and where they begin."""
    rules: list[RoomRule] = []
    begins: list[int] = []
    for index, room in enumerate(rooms):
        begin = lines.get(("room", index), lines.get(("room",), 1))
        given = {
            name: _checked(path, lines, ("room", index, name.replace("_", "-")), begin, getattr(room, name))
            for name in _CHECKS
        }
        rule = RoomRule(**given, listed=room.listed)
        for earlier, line in zip(rules, begins, strict=True):
            if covers(earlier.match, rule.match):
                raise FileRefused(
                    path,
                    begin,
                    f"this rule never counts, as {earlier.match!a} in line {line} matches all of its rooms, and the "
                    "first match wins; right would be to put it before that one",
                )
        rules.append(rule)
        begins.append(begin)
    return RoomRules(tuple(rules)), tuple(begins)


def _checked(path: str, lines: _Lines, key: tuple[str, int, str], begin: int, value: str | int | None) -> Any:
    """The value of a key of a rule; None if it isn't given."""
    try:
        return None if value is None else _CHECKS[key[2].replace("-", "_")](str(value))
    except ValueError as error:
        raise FileRefused(path, lines.get(key, begin), f"{key[2]}: {error}") from None


def _guest_rights(text: str) -> int:
    rights = parse_rights(text)
    if rights & MODERATE:
        raise ValueError("guests can't moderate, as anybody is a guest; right would be rights without m")
    return rights


_CHECKS: Mapping[str, Callable[[str], Any]] = {
    "match": check_pattern,
    "guests": _guest_rights,
    "users": parse_rights,
    "publish_rate": read_rate,
    "signal_rate": read_rate,
    "max_members": read_limit,
}
"""What the texts of a rule may be."""
