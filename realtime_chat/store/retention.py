"""What a log keeps."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence

import msgspec

from realtime_chat.model import Draft, Message

__all__ = ["KEY_SECONDS", "PAGE_BYTES", "Retention", "content_digest", "leading_part", "new_epoch", "young_part"]

KEY_SECONDS = 300
"""How long a publisher's key is kept at least; and always as long as its message."""

PAGE_BYTES = 1024 * 1024
"""A page of a log ends with the message that brings its data to so many bytes."""

_decode = msgspec.json.Decoder().decode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class Retention(msgspec.Struct, frozen=True):
    """How much of a room's log can be read.

    :param count: the last so many messages of a room.
    :param age: seconds; nothing older (see :mod:`realtime_chat.store.ages`). None keeps any age.
    """

    count: int = 1000
    age: float | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("at least one message of a room is kept")
        if self.age is not None and self.age <= 0:
            raise ValueError("the age of what is kept is more than 0 seconds")

    @property
    def slack(self) -> int:
        """How many messages a store may hold beyond what can be read, so that it deletes many at a time."""
        return max(64, self.count // 10)


def new_epoch(token: Callable[[int], bytes]) -> str:
    """A name for a new log: 8 characters.

    :param token: random bytes, as many as it is asked for.
    """
    return base64.b32encode(token(5)).decode("ascii").lower()


def content_digest(draft: Draft) -> bytes:
    """16 bytes that are the same for drafts with the same event and with data that are equal as JSON."""
    try:
        data = _encode_sorted(_decode(draft.data))
    except msgspec.DecodeError:  # such as a number out of range, which no client may send
        data = draft.data
    return hashlib.blake2b(b"%b\0%b" % (draft.event.encode(), data), digest_size=16).digest()


def young_part(messages: Sequence[Message], cutoff: int) -> Sequence[Message]:
    """What follows the last message that is too old: a wall clock may have stepped back.

    :param cutoff: see :meth:`realtime_chat.store.ages.Ages.cutoff`.
    """
    for index in range(len(messages), 0, -1):
        if messages[index - 1].at < cutoff:
            return messages[index:]
    return messages


def leading_part(messages: Sequence[Message]) -> int:
    """How many of the first messages go on one page (:data:`PAGE_BYTES`)."""
    size = 0
    for index, message in enumerate(messages):
        if size >= PAGE_BYTES:
            return index
        size += len(message.data)
    return len(messages)
