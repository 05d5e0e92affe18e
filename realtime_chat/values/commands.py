"""The commands that clients send, and their decoder (``docs/protocol.rst``)."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import msgspec
from msgspec import UNSET, Meta

from realtime_chat.values.errors import UnreadableCommand
from realtime_chat.values.json import MAX_DEPTH, check_value, decode_body, decode_json, why_not_json

MAX_COMMANDS = 100
"""How many commands one HTTP request may carry."""

CommandId = Annotated[str, Meta(max_length=64)] | int | float
_Count = Annotated[int, Meta(ge=0)]
_Text = Annotated[str, Meta(max_length=1024)]


class Command(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower):
    """What a client asks for.

    :ivar id: comes back in the reply; None if the client wants no reply to be found by it.
    """

    id: CommandId | None = None


class Hello(Command, frozen=True):
    """Begin a session as a user.

    :ivar client: the secret that an earlier ``welcome`` gave; with it the session belongs to the same client.
    """

    v: int = 1
    name: _Text | None = None
    token: str | None = None
    client: str | None = None


class Join(Command, frozen=True, kw_only=True):
    """Subscribe to a room.

    :ivar since: the position after which to begin.
    :ivar last: how many of the newest messages to begin with, if there is no ``since``.
    :ivar properties: whether to read the room's properties, or the position after which to begin.
    """

    room: str
    since: _Text | None = None
    last: _Count | None = None
    properties: bool | _Text = False


class Leave(Command, frozen=True, kw_only=True):
    """Unsubscribe from a room."""

    room: str


class Publish(Command, frozen=True, kw_only=True):
    """Append a message to a room's log.

    :ivar key: the idempotency key.
    :ivar after: the key of an own message that must be stored before this one.
    """

    room: str
    data: Any
    event: str = "message"
    key: str | None = None
    after: str | None = None


class SetProperty(Command, frozen=True, kw_only=True, tag="set"):
    """Set a property of a room.

    :ivar data: its value; UNSET to remove it.
    :ivar key: the idempotency key.
    """

    room: str
    name: str
    data: Any = UNSET
    key: str | None = None


STORING = (Publish, SetProperty)
"""The commands that store something."""


class ReadHistory(Command, frozen=True, kw_only=True, tag="history"):
    """Read a page of a room's log, before or after a position.

    :ivar limit: how many messages at most.
    """

    room: str
    before: _Text | None = None
    since: _Text | None = None
    limit: _Count | None = None


class SendSignal(Command, frozen=True, kw_only=True, tag="signal"):
    """Send an event to everyone who reads a room now. It is not stored."""

    room: str
    event: str
    data: Any


class SetState(Command, frozen=True, kw_only=True, tag="state"):
    """Set the client's presence state in all rooms that it is in."""

    state: dict[str, Any]


class ReadMembers(Command, frozen=True, kw_only=True, tag="members"):
    """Read a page of a room's members.

    :ivar after: the page begins after this user id.
    """

    room: str
    after: _Text = ""


class Ping(Command, frozen=True):
    """Ask for a pong."""


_AnyCommand = Hello | Join | Leave | Publish | SetProperty | SendSignal | SetState | ReadMembers | ReadHistory | Ping

COMMANDS: tuple[type[Command], ...] = get_args(_AnyCommand)
"""The commands that a client can send."""

_command_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(_AnyCommand)
_command_names = frozenset(str(kind.__struct_config__.tag) for kind in COMMANDS)
_KNOWN_COMMANDS = "the commands are " + ", ".join(sorted(_command_names))


def decode_command(raw: bytes) -> Command:
    """Decode one command.

    :raises UnreadableCommand: ``bad_request`` or ``unknown_command``.
    """
    try:
        command = _command_decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _explain(decode_json(raw), error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableCommand("bad_request", why_not_json(raw, error)) from error
    if isinstance(command, (Publish, SendSignal)) or (isinstance(command, SetProperty) and command.data is not UNSET):
        check_value(command.data, raw, MAX_DEPTH - 1, command.id)
    elif isinstance(command, SetState):
        check_value(command.state, raw, MAX_DEPTH - 1, command.id)
    return command


def decode_commands(raw: bytes) -> tuple[list[Command | UnreadableCommand], bool]:
    """Decode one command or an array of commands.

    In an array, each command that can't be read is an error of its own.

    :returns: the commands, and whether they came as an array.
    :raises UnreadableCommand: the text is neither, or the only command can't be read.
    """
    body = decode_body(raw)
    if not isinstance(body, list):
        return [decode_command(raw)], False
    if len(body) > MAX_COMMANDS:
        raise UnreadableCommand("bad_request", f"an array of commands holds at most {MAX_COMMANDS}")
    return [convert_command(item) for item in body], True


def convert_command(item: Any) -> Command | UnreadableCommand:
    """Make a command of decoded JSON, which was checked against the protocol's limits; or say what is wrong."""
    kind = item.get("type") if isinstance(item, dict) else None
    if not isinstance(kind, str) or kind not in _command_names:  # cheaper than a failing conversion
        return _explain(item)
    try:
        command: Command = msgspec.convert(item, _AnyCommand)
        return command
    except msgspec.ValidationError as error:
        return _explain(item, error)


def _explain(value: Any, error: msgspec.ValidationError | None = None) -> UnreadableCommand:
    """Say what is wrong with a command. The message repeats nothing that the client sent."""
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
