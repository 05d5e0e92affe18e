"""Bytes to commands, and replies and events to bytes (``docs/protocol.rst``).

Every message is encoded once, as an :class:`Entry`, and shared by all that send it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import isfinite
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from realtime_chat.values import errors
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import Message, Page, Position, User

__all__ = [
    "COMMANDS",
    "MAX_DEPTH",
    "Command",
    "CommandId",
    "Entry",
    "Hello",
    "History",
    "Join",
    "Leave",
    "Members",
    "Ping",
    "Publish",
    "Signal",
    "State",
    "UnreadableCommand",
    "decode_body",
    "decode_command",
    "decode_commands",
    "decode_json",
    "encode",
    "encode_difference",
    "encode_error",
    "encode_goodbye",
    "encode_history",
    "encode_joined",
    "encode_left",
    "encode_member",
    "encode_members",
    "encode_ok",
    "encode_page",
    "encode_poll",
    "encode_pong",
    "encode_presence",
    "encode_published",
    "encode_reset",
    "encode_rooms",
    "encode_signal",
    "encode_value",
    "encode_welcome",
    "first_of_page",
    "last_of_page",
    "spell",
]

MAX_DEPTH = 32
"""How deep arrays and objects may nest, a command's own object included."""

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


class State(Command, frozen=True, kw_only=True):
    """Say something of oneself to all rooms that one is in."""

    state: dict[str, Any]


class Members(Command, frozen=True, kw_only=True):
    """Read a page of a room's members."""

    room: str
    after: _Text = ""


class Ping(Command, frozen=True):
    """Ask for a pong."""


COMMANDS: tuple[type[Command], ...] = (Hello, Join, Leave, Publish, Signal, State, Members, History, Ping)

_AnyCommand = Hello | Join | Leave | Publish | Signal | State | Members | History | Ping
_command_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(_AnyCommand)
_command_names = frozenset(str(kind.__struct_config__.tag) for kind in COMMANDS)
_KNOWN_COMMANDS = "the commands are " + ", ".join(sorted(_command_names))
_encoder = msgspec.json.Encoder()
encode = _encoder.encode
encode_value = _encoder.encode
_INTEGER_LIMIT = int(1.7976931348623157e308)
_INTEGER_DIGITS = len(str(_INTEGER_LIMIT))
"""An integer with fewer digits than these is within the limit."""

_LONG_RUN = b"0" * _INTEGER_DIGITS
_LONG_INTEGER = re.compile(rb"(?<![0-9])[0-9]{%d,}" % _INTEGER_DIGITS)
_ONE_DIGIT = bytes(ord("0") if chr(byte).isdigit() and byte < 128 else ord(" ") for byte in range(256))
_SQUARE = bytes.maketrans(b"{}", b"[]")
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")  # one down and, as a signed byte, one up
_BYTE = re.compile(r"\(byte ([0-9]+)\)")
_LONE_SURROGATE = re.compile(
    rb"(?:[^\\]++|(?:\\[^u])++|\\u[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}|\\u(?![dD][89a-fA-F]))*+"
    rb"(?=\\u[dD][89a-fA-F][0-9A-Fa-f]{2}.)",
    re.DOTALL,
)
"""What comes before the first escape that is half of a pair; one that the text ends with may have been cut off."""

_NO_MARKS = bytes(byte for byte in range(256) if byte not in b'[]{}"')


class UnreadableCommand(RealtimeError):
    """A command that can't be read; ``id`` is its id where that could be."""


def decode_command(raw: bytes) -> Command:
    """Read one command.

    :raises UnreadableCommand: ``bad_request`` or ``unknown_command``.
    """
    try:
        command = _command_decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _explain(decode_json(raw), error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableCommand("bad_request", _why_not_json(raw, error)) from error
    if isinstance(command, (Publish, Signal)):
        _check_value(command.data, raw, MAX_DEPTH - 1, command.id)
    elif isinstance(command, State):
        _check_value(command.state, raw, MAX_DEPTH - 1, command.id)
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


def decode_body(raw: bytes) -> Any:
    """Read any JSON value that keeps the limits of the protocol.

    :raises UnreadableCommand: ``bad_request``.
    """
    value = decode_json(raw)
    _check_value(value, raw, MAX_DEPTH)
    return value


def spell(value: Any) -> bytes:
    """Say in JSON what is to be a command's ``data`` or ``state``, if a server would take it.

    :raises TypeError: it is of a type that JSON can't say.
    :raises UnreadableCommand: ``bad_request``: it has half a surrogate pair, NaN, an infinity or a number that is out
        of range, or nests too deep.
    """
    try:
        raw = msgspec.json.encode(value)
    except (ValueError, OverflowError, RecursionError) as error:  # among these, text that UTF-8 can't say
        raise UnreadableCommand("bad_request", f"this can't be said in JSON: {error}") from error
    if b"null" in raw and _has_no_number(msgspec.to_builtins(value)):
        raise UnreadableCommand("bad_request", "this can't be said in JSON: NaN and infinities are no numbers there")
    decode_body(b"[%b]" % raw)
    return raw


def _has_no_number(value: Any) -> bool:
    """Whether NaN or an infinity is in it, which would be sent as null."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float) and not isfinite(item):
            return True
        if isinstance(item, dict):
            stack += item.values()
        elif isinstance(item, (list, tuple)):
            stack += item
    return False


def decode_json(raw: bytes) -> Any:
    """Read JSON, of whatever depth and size.

    :raises UnreadableCommand: it is none; the message says why and where, and repeats nothing of it.
    """
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableCommand("bad_request", _why_not_json(raw, error)) from error


def _why_not_json(raw: bytes, error: Exception) -> str:
    """Say why bytes are no JSON, where, and what would be right; nothing of them is repeated.

    :param error: what msgspec has raised.
    """
    if isinstance(error, RecursionError):
        return f"the JSON nests deeper than {MAX_DEPTH} levels"
    if isinstance(error, UnicodeDecodeError):
        return f"JSON is UTF-8, and this is not{_first_of_no_utf8(raw)}"
    place = _BYTE.search(str(error))
    end = len(raw) if place is None else int(place[1])
    lone = _LONE_SURROGATE.match(raw)
    if lone is not None and lone.end() < end:
        return (
            f"this is not JSON: a lone surrogate at byte {lone.end()} is half of a character; "
            "send both halves, as in \\ud83d\\ude00, or the character itself"
        )
    if not raw.strip():
        return "this is not JSON: it is empty"
    if place is None:
        return f"this is not JSON: it ends too early, after {len(raw)} bytes"
    return "this is not JSON: " + str(error).removeprefix("JSON is malformed: ")


def _first_of_no_utf8(raw: bytes) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f" (byte {error.start})"
    return ""


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


def _check_value(value: Any, raw: bytes, most: int, id: CommandId | None = None) -> None:
    """Refuse what not every JSON reader can take: deep nesting, and integers that no double can hold.

    :param raw: the bytes that ``value`` was read from, for telling cheaply that nothing can be wrong.
    :param most: how deep it may nest.
    :raises UnreadableCommand: ``bad_request``.
    """
    if raw.count(b"{") + raw.count(b"[") > most and _nests_deeper(value, most):
        raise UnreadableCommand("bad_request", f"the JSON nests deeper than {MAX_DEPTH} levels", id)
    if len(raw) >= _INTEGER_DIGITS and _LONG_RUN in raw.translate(_ONE_DIGIT) and _has_huge_integer(value):
        raise UnreadableCommand("bad_request", "a number is out of range", id)


def _nests_deeper(value: Any, most: int) -> bool:
    """Whether arrays and objects stand in each other more than ``most`` deep.

    Only the brackets of its JSON are looked at, in C; most are those of what holds nothing, which goes first.
    """
    try:
        text = _encoder.encode(value)
    except RecursionError:
        return True
    # Without what was in between, two strings side by side become one, whose brackets count as little.
    marks = _without_escapes(text).translate(_SQUARE, _NO_MARKS).replace(b'""', b"")
    brackets = b"".join(marks.split(b'"')[::2])
    if len(brackets) <= 2 * most:
        return False
    steps = brackets.replace(b"[]", b"").translate(_STEPS)
    return 1 + max(accumulate(memoryview(steps).cast("b")), default=0) > most


def _has_huge_integer(value: Any) -> bool:
    """Whether it holds an integer that no double can hold; so many digits outside of strings are one, as a float is
    written short."""
    outside = b" ".join(_without_escapes(_encoder.encode(value)).split(b'"')[::2])
    return any(len(run) > _INTEGER_DIGITS or int(run) > _INTEGER_LIMIT for run in _LONG_INTEGER.findall(outside))


def _without_escapes(text: bytes) -> bytes:
    """JSON in which each quotation mark begins or ends a string."""
    return text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text


class _Sender(msgspec.Struct, frozen=True):
    id: str
    name: str


class _MessageEvent(msgspec.Struct, frozen=True, tag="message", tag_field="type", rename={"sender": "from"}):
    room: str
    position: str
    event: str
    data: msgspec.Raw
    sender: _Sender
    at: int
    key: str | UnsetType = UNSET


class _SignalEvent(msgspec.Struct, frozen=True, tag="signal", tag_field="type", rename={"sender": "from"}):
    room: str
    event: str
    data: msgspec.Raw
    sender: _Sender | None
    at: int


class _Member(msgspec.Struct, frozen=True):
    id: str
    name: str
    guest: bool
    state: msgspec.Raw


class Entry:
    """A message as it is sent: its place, and its bytes.

    :ivar json: the ``message`` event.
    :ivar at: milliseconds since 1970, for forgetting by age.
    """

    __slots__ = ("at", "json", "offset")

    def __init__(self, message: Message) -> None:
        position = message.position
        self.offset = position.offset
        self.at = message.at
        self.json = _encoder.encode(
            _MessageEvent(
                message.room,
                f"{position.epoch}:{position.offset}",
                message.event,
                msgspec.Raw(message.data),
                _Sender(message.sender_id, message.sender_name),
                message.at,
                UNSET if message.key is None else message.key,
            )
        )

    def message(self) -> Message:
        """What was encoded."""
        event = _message_decoder.decode(self.json)
        return Message(
            event.room,
            Position.parse(event.position),
            event.event,
            bytes(event.data),
            event.sender.id,
            event.sender.name,
            event.at,
            None if event.key is UNSET else event.key,
        )


_message_decoder = msgspec.json.Decoder(_MessageEvent)


def _identified(id: CommandId | None, reply: dict[str, Any]) -> bytes:
    if id is not None:
        reply["id"] = id
    return _encoder.encode(reply)


def encode_welcome(id: CommandId | None, client: str, user: User, ping: float, rooms: int, size: int) -> bytes:
    """The reply to ``hello``.

    :param ping: seconds between two pings.
    :param rooms: how many a connection may read.
    :param size: bytes of the largest command.
    """
    limits = {"ping": ping, "rooms": rooms, "size": size}
    return _identified(id, {"type": "welcome", "v": 1, "client": client, "user": user, **limits})


def encode_joined(
    id: CommandId | None,
    room: str,
    position: Position,
    top: Position,
    recovered: bool,
    count: int,
    members: bytes | None,
    resumed: bool | None = None,
) -> bytes:
    """The reply to ``join``; ``members`` is an encoded array, or None where there are too many to list.

    :param resumed: whether the reader gave a position; None where that isn't told.
    """
    places: dict[str, Any] = {"position": str(position), "top": str(top), "recovered": recovered}
    if resumed is not None:
        places["resumed"] = resumed
    return _identified(id, {"type": "joined", "room": room, **places, **_attendance(count, members)})


def _attendance(count: int, members: bytes | None) -> dict[str, Any]:
    return {"count": count} if members is None else {"count": count, "members": msgspec.Raw(members)}


def encode_left(id: CommandId | None, room: str) -> bytes:
    """The reply to ``leave``."""
    return _identified(id, {"type": "left", "room": room})


def encode_published(id: CommandId | None, room: str, position: Position) -> bytes:
    """The reply to ``publish``."""
    return _identified(id, {"type": "published", "room": room, "position": str(position)})


def encode_ok(id: CommandId | None) -> bytes:
    """What a command that has no reply is answered with over HTTP."""
    return _identified(id, {"type": "ok"})


def encode_members(id: CommandId | None, room: str, count: int, members: bytes, after: str | None) -> bytes:
    """The reply to ``members``; ``members`` is an encoded array, ``after`` where the next page begins."""
    more = {} if after is None else {"after": after}
    return _identified(id, {"type": "members", "room": room, **_attendance(count, members), **more})


def encode_member(user: User, state: bytes) -> bytes:
    """A user in a room; ``state`` is an encoded object."""
    return _encoder.encode(_Member(user.id, user.name, user.guest, msgspec.Raw(state)))


def encode_presence(room: str, count: int, members: bytes | None = None) -> bytes:
    """Tell a reader who is in a room; ``members`` is an encoded array, or None where there are too many to list."""
    return _encoder.encode({"type": "presence", "room": room, **_attendance(count, members)})


def encode_difference(room: str, count: int, joined: bytes, left: bytes) -> bytes:
    """Tell readers who came to a room or changed, and who left it, as encoded arrays."""
    difference = {"joined": msgspec.Raw(joined), "left": msgspec.Raw(left)}
    return _encoder.encode({"type": "presence", "room": room, "count": count, **difference})


def encode_signal(room: str, event: str, data: bytes, user: User | None, at: int) -> bytes:
    """Tell readers what somebody signals, or with no user what was relayed; ``data`` is an encoded value, ``at``
    milliseconds since 1970."""
    sender = None if user is None else _Sender(user.id, user.name)
    return _encoder.encode(_SignalEvent(room, event, msgspec.Raw(data), sender, at))


def encode_pong(id: CommandId | None) -> bytes:
    """The reply to ``ping``."""
    return _identified(id, {"type": "pong"})


_LONGEST_AROUND = 2600
"""Bytes of an encoded message besides its data at most: of names, whose characters have up to four, and of words."""


def first_of_page(page: Page, most: int) -> Page:
    """The page up to the message that brings it to ``most`` bytes as JSON."""
    count = _begin_within(page.messages, most)
    return page if count == len(page.messages) else msgspec.structs.replace(page, messages=page.messages[:count])


def last_of_page(page: Page, most: int) -> Page:
    """The page from the message on that brings it to ``most`` bytes as JSON, counted from the end."""
    count = _begin_within(page.messages[::-1], most)
    return page if count == len(page.messages) else msgspec.structs.replace(page, messages=page.messages[-count:])


def _begin_within(messages: Sequence[Message], most: int) -> int:
    """How many of the first messages begin within ``most`` bytes of JSON."""
    if len(messages) * _LONGEST_AROUND + sum(len(message.data) for message in messages) <= most:
        return len(messages)  # as nearly always, which is told without encoding them
    size = 0
    for index, message in enumerate(messages):
        if size >= most:
            return index
        size += len(Entry(message).json)
    return len(messages)


def _page_fields(room: str, position: Position, page: Page, recovered: bool) -> dict[str, Any]:
    return {
        "room": room,
        "position": str(position),
        "top": f"{page.epoch}:{page.top}",
        "recovered": recovered,
        "messages": [msgspec.Raw(Entry(message).json) for message in page.messages],
    }


def encode_history(id: CommandId | None, room: str, position: Position, page: Page, recovered: bool) -> bytes:
    """The reply to ``history``; ``position`` is that of the page's last message."""
    return _identified(id, {"type": "history"} | _page_fields(room, position, page, recovered))


def encode_page(room: str, position: Position, page: Page, recovered: bool) -> bytes:
    """The answer to ``GET /rooms/{room}/messages``."""
    return _encoder.encode(_page_fields(room, position, page, recovered))


def encode_rooms(rooms: Sequence[tuple[str, int]]) -> bytes:
    """The answer to ``GET /rooms``: names, and how many members each has."""
    return _encoder.encode({"rooms": [{"room": room, "count": count} for room, count in rooms]})


def encode_poll(
    client: str, events: Sequence[bytes], positions: Mapping[str, str], presence: Mapping[str, str]
) -> bytes:
    """The answer to a poll; ``events`` are encoded already, one or more in each of the byte strings, and ``presence``
    are the versions of what it was told of who is in each room."""
    return b'{"type":"poll","client":%b,"events":[%b],"positions":%b,"presence":%b}' % (
        _encoder.encode(client),
        b",".join(events),
        _encoder.encode(positions),
        _encoder.encode(presence),
    )


def encode_reset(room: str, position: Position) -> bytes:
    """Tell a reader that the log no longer holds what it had not seen; delivery goes on after ``position``."""
    return _encoder.encode({"type": "reset", "room": room, "position": str(position)})


def encode_goodbye(goodbye: errors.Goodbye) -> bytes:
    """Tell a client why its connection is being closed."""
    return _encoder.encode(
        {
            "type": "goodbye",
            "close_code": goodbye.code,
            "code": goodbye.code,  # deprecated: in an error it is a string
            "reason": goodbye.reason,
            "reconnect": goodbye.reconnect,
            "after": goodbye.after,
        }
    )


def encode_error(error: RealtimeError) -> bytes:
    """Tell a client what was wrong."""
    said = {"type": "error", "code": error.code, "message": error.message, "temporary": error.kind.temporary}
    return _identified(error.id, said if error.room is None else {**said, "room": error.room})
