"""Replies and events, encoded as JSON (``docs/protocol.rst``).

Every message is encoded once, as an :class:`Entry`, and shared by all that send it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from realtime_chat.values.commands import CommandId
from realtime_chat.values.errors import Goodbye, RealtimeError
from realtime_chat.values.json import encode_value
from realtime_chat.values.model import Message, Page, Position, User

__all__ = [
    "Entry",
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
    "encode_presence_delta",
    "encode_published",
    "encode_reset",
    "encode_rooms",
    "encode_signal",
    "encode_welcome",
    "first_of_page",
    "last_of_page",
]


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
        self.json = encode_value(
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
    return encode_value(reply)


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
    return _identified(id, {"type": "joined", "room": room, **places, **_member_fields(count, members)})


def _member_fields(count: int, members: bytes | None) -> dict[str, Any]:
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
    return _identified(id, {"type": "members", "room": room, **_member_fields(count, members), **more})


def encode_member(user: User, state: bytes) -> bytes:
    """A user in a room; ``state`` is an encoded object."""
    return encode_value(_Member(user.id, user.name, user.guest, msgspec.Raw(state)))


def encode_presence(room: str, count: int, members: bytes | None = None) -> bytes:
    """Tell a reader who is in a room; ``members`` is an encoded array, or None where there are too many to list."""
    return encode_value({"type": "presence", "room": room, **_member_fields(count, members)})


def encode_presence_delta(room: str, count: int, joined: bytes, left: bytes) -> bytes:
    """Tell readers who came to a room or changed, and who left it, as encoded arrays."""
    difference = {"joined": msgspec.Raw(joined), "left": msgspec.Raw(left)}
    return encode_value({"type": "presence", "room": room, "count": count, **difference})


def encode_signal(room: str, event: str, data: bytes, user: User | None, at: int) -> bytes:
    """Tell readers what somebody signals, or with no user what was relayed; ``data`` is an encoded value, ``at``
    milliseconds since 1970."""
    sender = None if user is None else _Sender(user.id, user.name)
    return encode_value(_SignalEvent(room, event, msgspec.Raw(data), sender, at))


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
    return encode_value(_page_fields(room, position, page, recovered))


def encode_rooms(rooms: Sequence[tuple[str, int]]) -> bytes:
    """The answer to ``GET /rooms``: names, and how many members each has."""
    return encode_value({"rooms": [{"room": room, "count": count} for room, count in rooms]})


def encode_poll(
    client: str, events: Sequence[bytes], positions: Mapping[str, str], presence: Mapping[str, str]
) -> bytes:
    """The answer to a poll; ``events`` are encoded already, one or more in each of the byte strings, and ``presence``
    are the versions of what it was told of who is in each room."""
    return b'{"type":"poll","client":%b,"events":[%b],"positions":%b,"presence":%b}' % (
        encode_value(client),
        b",".join(events),
        encode_value(positions),
        encode_value(presence),
    )


def encode_reset(room: str, position: Position) -> bytes:
    """Tell a reader that the log no longer holds what it had not seen; delivery goes on after ``position``."""
    return encode_value({"type": "reset", "room": room, "position": str(position)})


def encode_goodbye(goodbye: Goodbye) -> bytes:
    """Tell a client why its connection is being closed."""
    return encode_value(
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
