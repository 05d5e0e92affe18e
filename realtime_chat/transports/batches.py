"""Consecutive messages as bytes, for connections that stay open."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

__all__ = ["FrameBatch"]


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
