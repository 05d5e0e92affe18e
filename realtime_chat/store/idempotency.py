"""Idempotency keys: what a store remembers of a publish, and how it answers the same publish again."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import AppendResult, Draft, Message, Position

_decode = msgspec.json.Decoder().decode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class KeyEntry(NamedTuple):
    """What was published under a key.

    :param digest: see :func:`content_digest`.
    :param offset: the offset of the message.
    :param at: the time of the message, in milliseconds since 1970.
    :param message: the message itself; None if only the key is kept.
    """

    digest: bytes
    offset: int
    at: int
    message: Message | None = None

    def replay(self, draft: Draft, digest: bytes, epoch: str) -> AppendResult | RealtimeError:
        """Answer a draft that comes under this key again: the first message, or ``key_reused`` for other content."""
        if self.digest != digest:
            return key_reused()
        return AppendResult(self.message or draft.placed(Position(epoch, self.offset), self.at), duplicate=True)


def key_reused() -> RealtimeError:
    """Make the error for a key that was used for another message."""
    return RealtimeError("key_reused", "this key was used for another message in this room")


def content_digest(draft: Draft) -> bytes:
    """Return 16 bytes. Drafts with the same event and equal JSON have the same digest."""
    try:
        data = _encode_sorted(_decode(draft.data))
    except msgspec.DecodeError:  # such as a number out of range, which no client may send
        data = draft.data
    return hashlib.blake2b(b"%b\0%b" % (draft.event.encode(), data), digest_size=16).digest()
