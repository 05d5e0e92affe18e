"""The commands that clients send, and how they are decoded (``docs/protocol.rst``)."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from realtime_chat.values.errors import UnreadableCommand
from realtime_chat.values.json import MAX_DEPTH, check_value, decode_body, decode_json, why_not_json

__all__ = [
    "COMMANDS",
    "Command",
    "CommandId",
    "Hello",
    "History",
    "Join",
    "Leave",
    "Members",
    "Ping",
    "Publish",
    "SetState",
    "Signal",
    "decode_command",
    "decode_commands",
]

MAX_COMMANDS = 100
"""How many commands one HTTP request may carry."""

CommandId = Annotated[str, Meta(max_length=64)] | int | float
_Count = Annotated[int, Meta(ge=0)]
_Text = Annotated[str, Meta(max_length=1024)]


class Command(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower):
    """What a client asks for; ``id`` comes back in the reply."""

    id: CommandId | None = None


class Hello(Command, frozen=True):
    """Say who one is; ``client`` makes one the same client again."""

    v: int = 1
    name: _Text | None = None
    token: str | None = None
    client: _Text | None = None


class Join(Command, frozen=True, kw_only=True):
    """Read a room from ``since``, or from ``last`` messages before its top."""

    room: str
    since: _Text | None = None
    last: _Count | None = None


class Leave(Command, frozen=True, kw_only=True):
    """Stop reading a room."""

    room: str


class Publish(Command, frozen=True, kw_only=True):
    """Add a message to a room's log."""

    room: str
    data: Any
    event: str = "message"
    key: str | None = None
    after: str | None = None


class History(Command, frozen=True, kw_only=True):
    """Read a page of a room's log."""

    room: str
    before: _Text | None = None
    since: _Text | None = None
    limit: _Count | None = None


class Signal(Command, frozen=True, kw_only=True):
    """Tell everyone who is in a room now, without storing it."""

    room: str
    event: str
    data: Any


class SetState(Command, frozen=True, kw_only=True, tag="state"):
    """Say something of oneself to all rooms that one is in."""

    state: dict[str, Any]


class Members(Command, frozen=True, kw_only=True):
    """Read a page of a room's members."""

    room: str
    after: _Text = ""


class Ping(Command, frozen=True):
    """Ask for a pong."""


COMMANDS: tuple[type[Command], ...] = (Hello, Join, Leave, Publish, Signal, SetState, Members, History, Ping)

_AnyCommand = Hello | Join | Leave | Publish | Signal | SetState | Members | History | Ping
_command_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(_AnyCommand)
_command_names = frozenset(str(kind.__struct_config__.tag) for kind in COMMANDS)
_KNOWN_COMMANDS = "the commands are " + ", ".join(sorted(_command_names))


def decode_command(raw: bytes) -> Command:
    """Read one command.

    :raises UnreadableCommand: ``bad_request`` or ``unknown_command``.
    """
    try:
        command = _command_decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _explain(decode_json(raw), error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableCommand("bad_request", why_not_json(raw, error)) from error
    if isinstance(command, (Publish, Signal)):
        check_value(command.data, raw, MAX_DEPTH - 1, command.id)
    elif isinstance(command, SetState):
        check_value(command.state, raw, MAX_DEPTH - 1, command.id)
    return command


def decode_commands(raw: bytes) -> tuple[list[Command | UnreadableCommand], bool]:
    """Read one command or an array of them, each of which can be wrong by itself.

    :returns: the commands, and whether they came as an array.
    :raises UnreadableCommand: it is neither.
    """
    body = decode_body(raw)
    if not isinstance(body, list):
        return [decode_command(raw)], False
    if len(body) > MAX_COMMANDS:
        raise UnreadableCommand("bad_request", f"an array of commands holds at most {MAX_COMMANDS}")
    return [_convert(item) for item in body], True


def _convert(item: Any) -> Command | UnreadableCommand:
    kind = item.get("type") if isinstance(item, dict) else None
    if not isinstance(kind, str) or kind not in _command_names:  # told without the work of trying
        return _explain(item)
    try:
        command: Command = msgspec.convert(item, _AnyCommand)
        return command
    except msgspec.ValidationError as error:
        return _explain(item, error)


def _explain(value: Any, error: msgspec.ValidationError | None = None) -> UnreadableCommand:
    """Say what is wrong with a command, without repeating what the client sent."""
    if not isinstance(value, dict):
        return UnreadableCommand("bad_request", 'a command is a JSON object with a "type"')
    sent = value.get("id")
    id = sent if isinstance(sent, (str, int, float)) and not isinstance(sent, bool) and len(str(sent)) <= 64 else None
    kind = value.get("type")
    if not isinstance(kind, str):
        return UnreadableCommand("bad_request", 'a command has a "type", a string', id)
    if kind not in _command_names:
        return UnreadableCommand("unknown_command", _KNOWN_COMMANDS, id)
    return UnreadableCommand("bad_request", f"{kind}: {error}", id)
