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
from realtime_chat.values.limits import begin_within
from realtime_chat.values.model import Message, Page, Position, User


class _SenderFields(msgspec.Struct, frozen=True):
    id: str
    name: str


class _MessageEvent(msgspec.Struct, frozen=True, tag="message", tag_field="type", rename={"sender": "from"}):
    room: str
    position: str
    event: str
    data: msgspec.Raw
    sender: _SenderFields
    at: int
    key: str | UnsetType = UNSET


class _SignalEvent(msgspec.Struct, frozen=True, tag="signal", tag_field="type", rename={"sender": "from"}):
    room: str
    event: str
    data: msgspec.Raw
    sender: _SenderFields | None
    at: int


class _MemberFields(msgspec.Struct, frozen=True):
    id: str
    name: str
    guest: bool
    state: msgspec.Raw


class Entry:
    """A message as it is sent: its offset, and its encoded bytes.

    :ivar json: the ``message`` event.
    :ivar at: milliseconds since 1970; retention by age needs it.
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
                _SenderFields(message.sender_id, message.sender_name),
                message.at,
                UNSET if message.key is None else message.key,
            )
        )

    def message(self) -> Message:
        """Decode the message again."""
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


def encode_reply(id: CommandId | None, reply: dict[str, Any]) -> bytes:
    """A reply to a command.

    :param reply: all of its fields but the id; it is changed.
    """
    if id is not None:
        reply["id"] = id
    return encode_value(reply)


def encode_welcome(id: CommandId | None, client: str, user: User, ping: float, rooms: int, size: int) -> bytes:
    """The reply to ``hello``.

    :param ping: seconds between two pings.
    :param rooms: how many rooms a connection may read.
    :param size: bytes of the largest command.
    """
    limits = {"ping": ping, "rooms": rooms, "size": size}
    return encode_reply(id, {"type": "welcome", "v": 1, "client": client, "user": user, **limits})


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
    """The reply to ``join``.

    :param members: an encoded array; None if there are too many to list.
    :param resumed: whether the reader gave a position; None leaves the field out.
    """
    places: dict[str, Any] = {"position": str(position), "top": str(top), "recovered": recovered}
    if resumed is not None:
        places["resumed"] = resumed
    return encode_reply(id, {"type": "joined", "room": room, **places, **_member_fields(count, members)})


def _member_fields(count: int, members: bytes | None) -> dict[str, Any]:
    return {"count": count} if members is None else {"count": count, "members": msgspec.Raw(members)}


def encode_published(id: CommandId | None, room: str, position: Position) -> bytes:
    """The reply to ``publish``."""
    return encode_reply(id, {"type": "published", "room": room, "position": str(position)})


def encode_members(id: CommandId | None, room: str, count: int, members: bytes, after: str | None) -> bytes:
    """The reply to ``members``.

    :param members: an encoded array.
    :param after: where the next page begins; None on the last page.
    """
    more = {} if after is None else {"after": after}
    return encode_reply(id, {"type": "members", "room": room, **_member_fields(count, members), **more})


def encode_member(user: User, state: bytes) -> bytes:
    """One member of a room.

    :param state: an encoded object.
    """
    return encode_value(_MemberFields(user.id, user.name, user.guest, msgspec.Raw(state)))


def encode_presence(room: str, count: int, members: bytes | None = None) -> bytes:
    """The ``presence`` event that lists a room's members.

    :param members: an encoded array; None if there are too many to list.
    """
    return encode_value({"type": "presence", "room": room, **_member_fields(count, members)})


def encode_presence_delta(room: str, count: int, joined: bytes, left: bytes) -> bytes:
    """The ``presence`` event that says what changed.

    :param joined: an encoded array of the members who came or changed.
    :param left: an encoded array of the members who left.
    """
    difference = {"joined": msgspec.Raw(joined), "left": msgspec.Raw(left)}
    return encode_value({"type": "presence", "room": room, "count": count, **difference})


def encode_signal(room: str, event: str, data: bytes, user: User | None, at: int) -> bytes:
    """The ``signal`` event.

    :param data: an encoded value.
    :param user: the sender; None for a signal that was relayed from Redis.
    :param at: milliseconds since 1970.
    """
    sender = None if user is None else _SenderFields(user.id, user.name)
    return encode_value(_SignalEvent(room, event, msgspec.Raw(data), sender, at))


_MAX_ENVELOPE = 2600
"""Bytes that an encoded message has besides its data, at most; characters of names have up to four bytes."""


def first_of_page(page: Page, most: int) -> Page:
    """Cut a page at its end. It keeps the messages that begin within ``most`` bytes of JSON."""
    count = _begin_within(page.messages, most)
    return page if count == len(page.messages) else msgspec.structs.replace(page, messages=page.messages[:count])


def last_of_page(page: Page, most: int) -> Page:
    """Cut a page at its beginning. It keeps the messages that begin within ``most`` bytes, counted from the end."""
    count = _begin_within(page.messages[::-1], most)
    return page if count == len(page.messages) else msgspec.structs.replace(page, messages=page.messages[-count:])


def _begin_within(messages: Sequence[Message], most: int) -> int:
    """How many messages, from the first, begin within ``most`` bytes of JSON."""
    if len(messages) * _MAX_ENVELOPE + sum(len(message.data) for message in messages) <= most:
        return len(messages)  # nearly always, and nothing has to be encoded
    return begin_within((len(Entry(message).json) for message in messages), most)


def _page_fields(room: str, position: Position, page: Page, recovered: bool) -> dict[str, Any]:
    return {
        "room": room,
        "position": str(position),
        "top": f"{page.epoch}:{page.top}",
        "recovered": recovered,
        "messages": [msgspec.Raw(Entry(message).json) for message in page.messages],
    }


def encode_history(id: CommandId | None, room: str, position: Position, page: Page, recovered: bool) -> bytes:
    """The reply to ``history``.

    :param position: that of the page's last message.
    """
    return encode_reply(id, {"type": "history"} | _page_fields(room, position, page, recovered))


def encode_page(room: str, position: Position, page: Page, recovered: bool) -> bytes:
    """The answer to ``GET /rooms/{room}/messages``."""
    return encode_value(_page_fields(room, position, page, recovered))


def encode_rooms(rooms: Sequence[tuple[str, int]]) -> bytes:
    """The answer to ``GET /rooms``: the rooms' names, with how many members each room has."""
    return encode_value({"rooms": [{"room": room, "count": count} for room, count in rooms]})


def encode_poll(
    client: str, events: Sequence[bytes], positions: Mapping[str, str], presence: Mapping[str, str]
) -> bytes:
    """The answer to a poll.

    :param events: encoded events; each string may hold several, with commas between them.
    :param positions: by room, after which position the next poll goes on.
    :param presence: by room, the version of the members that the poll was sent.
    """
    return b'{"type":"poll","client":%b,"events":[%b],"positions":%b,"presence":%b}' % (
        encode_value(client),
        b",".join(events),
        encode_value(positions),
        encode_value(presence),
    )


def encode_reset(room: str, position: Position) -> bytes:
    """The ``reset`` event: the log no longer holds all that the reader missed. Delivery goes on after ``position``."""
    return encode_value({"type": "reset", "room": room, "position": str(position)})


def encode_goodbye(goodbye: Goodbye) -> bytes:
    """The ``goodbye`` event: why the connection is being closed."""
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
    """The ``error`` reply: what was wrong."""
    fields = {"type": "error", "code": error.code, "message": error.message, "temporary": error.kind.temporary}
    return encode_reply(error.id, fields if error.room is None else {**fields, "room": error.room})
