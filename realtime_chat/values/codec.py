"""Replies and events, encoded as JSON (``docs/protocol.rst``).

Every message is encoded once, as an :class:`Entry`, and shared by all that send it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType

from realtime_chat.values.access import format_rights
from realtime_chat.values.commands import CommandId
from realtime_chat.values.errors import Goodbye, RealtimeError
from realtime_chat.values.json import encode_value
from realtime_chat.values.limits import begin_within
from realtime_chat.values.model import Message, Page, Position, User, is_guest_id, room_of_log, shown_id


class _SenderFields(msgspec.Struct, frozen=True):
    id: str
    name: str
    guest: Literal[True] | UnsetType = UNSET


class _MessageEvent(msgspec.Struct, frozen=True, tag="message", tag_field="type", rename={"sender": "from"}):
    room: str
    position: str
    event: str
    data: msgspec.Raw
    sender: _SenderFields
    at: int
    key: str | UnsetType = UNSET


class _PropertyEvent(msgspec.Struct, frozen=True, tag="property", tag_field="type", rename={"sender": "from"}):
    room: str
    position: str
    name: str
    sender: _SenderFields
    at: int
    data: msgspec.Raw | UnsetType = UNSET
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

    :cvar kind: the type of the event.
    :ivar json: the ``message`` event.
    :ivar at: milliseconds since 1970; retention by age needs it.
    """

    __slots__ = ("at", "json", "offset")
    kind: ClassVar[str] = "message"

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
                _sender(message.sender_id, message.sender_name),
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


class PropertyEntry(Entry):
    """A change of a property as it is sent.

    :ivar name: the property's name.
    :ivar removed: whether it was removed.
    """

    __slots__ = ("name", "removed")
    kind: ClassVar[str] = "property"

    def __init__(self, message: Message) -> None:
        position = message.position
        self.offset = position.offset
        self.at = message.at
        self.name = message.event
        self.removed = not message.data
        self.json = encode_value(
            _PropertyEvent(
                room_of_log(message.room),
                f"{position.epoch}:{position.offset}",
                message.event,
                _sender(message.sender_id, message.sender_name),
                message.at,
                msgspec.Raw(message.data) if message.data else UNSET,
                UNSET if message.key is None else message.key,
            )
        )


class PropertiesEntry(Entry):
    """Several properties of a room, all of them or the last ones of a log, as one entry of the log.

    :param offset: the reader's position after it.
    :param json: the ``properties`` event.
    """

    __slots__ = ()
    kind: ClassVar[str] = "properties"

    def __init__(self, offset: int, json: bytes) -> None:
        self.offset = offset
        self.json = json
        self.at = 0


def _sender(id: str, name: str) -> _SenderFields:
    """Who sent something.

    :param id: as it is stored or as it is shown.
    """
    return _SenderFields(shown_id(id), name, True if is_guest_id(id) else UNSET)


_message_decoder = msgspec.json.Decoder(_MessageEvent)


def encode_reply(id: CommandId | None, reply: dict[str, Any]) -> bytes:
    """A reply to a command.

    :param reply: all of its fields but the id; it is changed.
    """
    if id is not None:
        reply["id"] = id
    return encode_value(reply)


def encode_welcome(
    id: CommandId | None,
    user: User,
    clients: Mapping[str, str],
    info: bytes | None,
    expires: int | None,
    bounds: tuple[float, int, int],
) -> bytes:
    """The reply to ``hello``.

    :param clients: the ``client``, the ``reader``, or both.
    :param info: what the user's site vouches for, an encoded object.
    :param expires: when the client's time is over, in milliseconds since 1970; None for never.
    :param bounds: seconds between two pings, how many rooms a connection may read, and bytes of the largest command.
    """
    ping, rooms, size = bounds
    shown = {"id": user.id, "name": user.name, "guest": user.guest}
    vouched = {} if info is None else {"info": msgspec.Raw(info)}
    limits = {"expires": expires, "ping": ping, "rooms": rooms, "size": size}
    return encode_reply(id, {"type": "welcome", "v": 1, **clients, "user": {**shown, **vouched}, **limits})


def encode_joined(
    id: CommandId | None,
    room: str,
    position: Position,
    top: Position,
    recovered: bool,
    members: tuple[int, bytes | None] | None,
    rights: int,
    resumed: bool | None = None,
    properties: PropertiesFields | None = None,
) -> bytes:
    """The reply to ``join``.

    :param members: how many there are, and an encoded array of them, None if there are too many to list. None if the
        reader may not see who is in the room.
    :param rights: what the reader may do in the room.
    :param resumed: whether the reader gave a position; None leaves the field out.
    :param properties: see :func:`properties_fields`; None if it doesn't read them.
    """
    fields: dict[str, Any] = {"type": "joined", "room": room, "position": str(position), "top": str(top)}
    fields["recovered"] = recovered
    if resumed is not None:
        fields["resumed"] = resumed
    fields["rights"] = format_rights(rights)
    if members is not None:
        fields |= _member_fields(*members)
    if properties is not None:
        fields["properties"] = properties
    return encode_reply(id, fields)


def encode_left(room: str) -> bytes:
    """The ``left`` event: the client may no longer read a room."""
    return encode_value({"type": "left", "room": room, "reason": "forbidden"})


def encode_rights(room: str, rights: int) -> bytes:
    """The ``rights`` event: what the client may do in a room has changed."""
    return encode_value({"type": "rights", "room": room, "rights": format_rights(rights)})


def _member_fields(count: int, members: bytes | None) -> dict[str, Any]:
    return {"count": count} if members is None else {"count": count, "members": msgspec.Raw(members)}


def encode_published(id: CommandId | None, room: str, position: Position) -> bytes:
    """The reply to ``publish``."""
    return encode_reply(id, {"type": "published", "room": room, "position": str(position)})


def encode_set(id: CommandId | None, message: Message) -> bytes:
    """The reply to ``set``."""
    room, position = room_of_log(message.room), str(message.position)
    return encode_reply(id, {"type": "set", "room": room, "name": message.event, "position": position})


PropertiesFields = dict[str, Any]
"""The properties of a room, or what has changed of them."""


def properties_fields(full: bool, position: Position, top: Position, values: Sequence[Entry]) -> PropertiesFields:
    """The properties of a room, or what has changed of them.

    :param full: whether these are all.
    :param position: the reader's position after them.
    :param top: where the log of the properties ends.
    """
    shown = {"position": str(position), "top": str(top), "full": full}
    return {**shown, "values": [msgspec.Raw(entry.json) for entry in values]}


def encode_properties(room: str, full: bool, position: Position, top: Position, values: Sequence[Entry]) -> bytes:
    """The ``properties`` event; see :func:`properties_fields`."""
    return encode_value({"type": "properties", "room": room, **properties_fields(full, position, top, values)})


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
    sender = None if user is None else _sender(user.id, user.name)
    return encode_value(_SignalEvent(room, event, msgspec.Raw(data), sender, at))


_MAX_ENVELOPE = 2620
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


def encode_rooms(rooms: Sequence[tuple[str, int | None]]) -> bytes:
    """The answer to ``GET /rooms``: the rooms' names, with how many members each room has.

    The number is None for a room whose members the asker may not see.
    """
    return encode_value({"rooms": [{"room": room} | _count_field(count) for room, count in rooms]})


def _count_field(count: int | None) -> dict[str, Any]:
    return {} if count is None else {"count": count}


def encode_poll(
    client: str,
    is_reader: bool,
    events: Sequence[bytes],
    positions: Mapping[str, str],
    presence: Mapping[str, str],
    rights: Mapping[str, str],
    properties: Mapping[str, str] | None = None,
) -> bytes:
    """The answer to a poll.

    :param client: what this server has issued: its characters need no escapes in JSON.
    :param is_reader: whether ``client`` is a reader.
    :param events: encoded events; each string may hold several, with commas between them.
    :param positions: by room, after which position the next poll goes on.
    :param presence: by room, the version of the members that the poll was sent.
    :param rights: by room, what the client may do there, as letters.
    :param properties: by room, after which position in its properties the next poll goes on.
    """
    return b'{"type":"poll",%b:"%b","events":[%b],"positions":%b,"presence":%b,"rights":%b%b}' % (
        b'"reader"' if is_reader else b'"client"',
        client.encode(),
        b",".join(events),
        encode_value(positions),
        encode_value(presence),
        encode_value(rights),
        b',"properties":%b' % encode_value(properties) if properties else b"",
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
    fields: dict[str, Any] = {"type": "error", "code": error.code, "message": error.message}
    fields["temporary"] = error.kind.temporary
    if error.room is not None:
        fields["room"] = error.room
    if error.after is not None:
        fields["after"] = ceil(error.after * 1000) / 1000
    return encode_reply(error.id, fields)
