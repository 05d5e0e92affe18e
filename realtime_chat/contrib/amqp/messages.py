"""What a message of a room is in AMQP, and what one of AMQP is in a room."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from pika import BasicProperties

from realtime_chat.client import Message
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.json import decode_body
from realtime_chat.values.model import check_event, check_key

APP_ID: Final = "realtime_chat"
"""The ``app_id`` of what the bridge publishes to exchanges."""

_ROOM: Final = "room"
_JSON: Final = "application/json"
_PERSISTENT: Final = 2
_SHORTSTR: Final = 255
"""Bytes that a property in AMQP has at most."""


class Unreadable(ValueError):
    """A message can't be stored in a room; the text says why."""


class Content(NamedTuple):
    """What is published in a room.

    :ivar key: the idempotency key; None if the message has no ``message_id``.
    """

    event: str
    data: Any
    key: str | None


def read_content(properties: BasicProperties, body: bytes) -> Content:
    """Read a message of AMQP: its body as data, its ``type`` as event, and its ``message_id`` as key.

    :raises Unreadable: the body is neither JSON nor text.
    """
    event = _checked(check_event, properties.type) or "message"
    return Content(event, _read_body(properties.content_type or "", body), _read_key(properties.message_id))


def _read_body(content_type: str, body: bytes) -> Any:
    """Read JSON; or text, where no JSON is promised, as the chat page's messages have it."""
    if not content_type.startswith("text/"):
        try:
            return decode_body(body)
        except RealtimeError as error:
            if content_type == _JSON:
                raise Unreadable(error.message) from error
    try:
        return {"text": body.decode()}
    except UnicodeDecodeError as error:
        raise Unreadable("the body is neither JSON nor text in UTF-8") from error


def _read_key(message_id: str | None) -> str | None:
    """The ``message_id``, or a hash of it if it can't be a key."""
    if not message_id:
        return None
    return _checked(check_key, message_id) or hashlib.blake2b(message_id.encode(), digest_size=32).hexdigest()


def _checked(check: Callable[[str], str], text: str | None) -> str | None:
    try:
        return check(text) if text else None
    except RealtimeError:
        return None


def came_from(properties: BasicProperties, room: str) -> bool:
    """Whether a bridge has published a message that is from a room of this name. It would go round in a circle."""
    return properties.app_id == APP_ID and (properties.headers or {}).get(_ROOM) == room


def make_properties(message: Message) -> BasicProperties:
    """Make the properties of a room's message. The same message always has the same ``message_id``."""
    sender = message.sender
    return BasicProperties(
        content_type=_JSON,
        delivery_mode=_PERSISTENT,
        message_id=f"{message.room}/{message.position}",
        timestamp=message.at // 1000,
        type=message.event if len(message.event.encode()) <= _SHORTSTR else None,
        app_id=APP_ID,
        headers={
            _ROOM: message.room,
            "position": str(message.position),
            "event": message.event,
            "sender_id": sender.id,
            "sender_name": sender.name,
            "sender_guest": sender.guest,
        },
    )


def make_body(message: Message) -> bytes:
    """The data of a room's message, as JSON."""
    return msgspec.json.encode(message.data)
