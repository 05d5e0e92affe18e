"""WebSocket frames as bytes (RFC 6455, section 5), compressed ones (RFC 7692), and batches of frames."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import accumulate

_TEXT = 0x81
_BINARY = 0x82
_COMPRESSED_TEXT = 0xC1
_MASKED = 0x80
_LONGER_HEAD = struct.Struct("!BBH").pack
_LONGEST_HEAD = struct.Struct("!BBQ").pack
_SHORT_HEADS = [bytes((_TEXT, size)) for size in range(126)]
_WORTH_IT = 96
"""Bytes below which deflate saves nothing worth its time."""


class FrameBatch:
    """Consecutive frames: WebSocket frames, or blocks of an event stream.

    :ivar count: how many frames there are.
    :ivar data: all frames, joined.
    :ivar ends: where each frame ends in ``data``.
    """

    __slots__ = ("count", "data", "ends")

    def __init__(self, frames: Sequence[bytes]) -> None:
        self.count = len(frames)
        self.data = frames[0] if self.count == 1 else b"".join(frames)
        self.ends = [len(self.data)] if self.count == 1 else list(accumulate(map(len, frames)))

    def with_last(self, frame: bytes) -> FrameBatch:
        """These frames, with another one in the place of the last."""
        start = self.ends[-2] if self.count > 1 else 0
        other = FrameBatch(())
        other.count = self.count
        other.data = self.data[:start] + frame
        other.ends = [*self.ends[:-1], len(other.data)]
        return other


def frame(payload: bytes) -> bytes:
    """One unmasked text frame (RFC 6455, section 5.2)."""
    size = len(payload)
    return _SHORT_HEADS[size] + payload if size < 126 else _frame(_TEXT, payload)


def binary_frame(payload: bytes) -> bytes:
    """One unmasked binary frame."""
    return _frame(_BINARY, payload)


def deflated_frame(payload: bytes) -> bytes:
    """One compressed text frame, or an uncompressed one where that is shorter.

    It refers to no message before it, and so is right for every client, with and without context takeover
    (RFC 7692, section 7.2.1).
    """
    if len(payload) < _WORTH_IT:
        return frame(payload)
    compressor = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    deflated = deflated.removesuffix(b"\x00\x00\xff\xff")
    return _frame(_COMPRESSED_TEXT, deflated) if len(deflated) < len(payload) else frame(payload)


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return _LONGER_HEAD(first, 126, size) + payload
    return _LONGEST_HEAD(first, 127, size) + payload


def unmask(payload: bytes, mask: bytes) -> bytes:
    """What a client's frame says (RFC 6455, section 5.3); meant for short ones."""
    size = len(payload)
    key = int.from_bytes((mask * ((size + 3) >> 2))[:size], "little")
    return (int.from_bytes(payload, "little") ^ key).to_bytes(size, "little")


def short_frame(data: bytes, start: int, most: int) -> tuple[int, int] | None:
    """Where the payload begins and ends, if a whole, masked text frame of at most so many bytes is at ``start``."""
    if len(data) < start + 6 or data[start] != _TEXT:
        return None
    size, begin = data[start + 1] - _MASKED, start + 6
    if size == 127:  # its length stands in eight more bytes
        return None
    if size == 126:
        size, begin = int.from_bytes(data[start + 2 : start + 4], "big"), start + 8
        if size < 126:  # in more bytes than it needs, which Autobahn refuses
            return None
    if not 0 <= size <= most or begin + size > len(data):
        return None
    return begin, begin + size
