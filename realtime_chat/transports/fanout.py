"""Sending the same bytes to many connections."""

from __future__ import annotations

from collections.abc import Collection, MutableMapping
from typing import ClassVar

from realtime_chat.core.interfaces import R
from realtime_chat.transports.batches import FrameBatch
from realtime_chat.transports.fast.direct_send import send_to_all
from realtime_chat.transports.fast.interfaces import Send

__all__ = ["FrameFanout"]


class FrameFanout:
    """The fan-out of a transport whose connections stay open; subclasses encode messages.

    :cvar name: the kind of transport, for counting.
    """

    name: ClassVar[str]

    def send(
        self, batch: FrameBatch, readers: MutableMapping[R, Send | None], first: Collection[R] = ()
    ) -> list[tuple[R, int]]:
        """Send to all readers; see :func:`~realtime_chat.transports.fast.direct_send.send_to_all`."""
        return send_to_all(batch, readers, first)
