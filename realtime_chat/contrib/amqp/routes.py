"""Where the bridge takes messages from, and where it brings them."""

from __future__ import annotations

from typing import Final

import attrs

from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import check_room

_RIGHT_SOURCE: Final = "right would be 'amq.topic:orders.#=orders', for an exchange, a binding key and a room"
_RIGHT_DESTINATION: Final = "right would be 'lobby=amq.fanout', for a room and an exchange"
_MOST_BYTES: Final = 100
_ALL: Final = "#"


@attrs.frozen
class Source:
    """An exchange whose messages are stored in a room.

    :ivar binding_key: which of its messages.
    """

    exchange: str
    binding_key: str
    room: str

    @classmethod
    def parse(cls, text: str) -> Source:
        """Parse ``EXCHANGE=ROOM`` or ``EXCHANGE:BINDING-KEY=ROOM``. The last ``=`` and the first ``:`` divide.

        :raises ValueError: the message says what is wrong and what would be right.
        """
        left, _, room = text.rpartition("=")
        exchange, _, key = left.partition(":")
        return cls(_check_name(exchange, text, _RIGHT_SOURCE), key or _ALL, _check_room(room, text, _RIGHT_SOURCE))

    @property
    def queue(self) -> str:
        """The queue that keeps what isn't stored yet. It is durable, so it does so while the bridge is down, too."""
        return f"realtime.{self.room}.{self.exchange}"


@attrs.frozen
class Destination:
    """A room whose messages are published to an exchange."""

    room: str
    exchange: str

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Parse ``ROOM=EXCHANGE``. The first ``=`` divides.

        :raises ValueError: the message says what is wrong and what would be right.
        """
        room, _, exchange = text.partition("=")
        return cls(_check_room(room, text, _RIGHT_DESTINATION), _check_name(exchange, text, _RIGHT_DESTINATION))


def _check_name(exchange: str, text: str, right: str) -> str:
    """Check an exchange's name. The default exchange has none, and can't be bound to."""
    if not (exchange and exchange.isprintable() and len(exchange.encode()) <= _MOST_BYTES):
        raise ValueError(f"{text!r} names no exchange of 1 to {_MOST_BYTES} bytes; {right}")
    return exchange


def _check_room(room: str, text: str, right: str) -> str:
    try:
        return check_room(room)
    except RealtimeError as error:
        raise ValueError(f"{text!r}: {error.message}; {right}") from error
