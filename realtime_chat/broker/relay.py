"""Relays: what other programs PUBLISH to Redis reaches rooms, once for each time it was published."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import check_room

_RIGHT = "right would be 'alerts:*=news', for PUBLISH alerts:fire to reach the room news"
_MOST_BYTES = 256


def read_relay(text: str) -> tuple[str, str]:
    """Parse ``PATTERN=ROOM``. The last ``=`` divides, as a pattern may contain one, and a room's name doesn't.

    :returns: the pattern, as PSUBSCRIBE takes it, and the room.
    :raises ValueError: the message says what is wrong and what would be right.
    """
    pattern, equals, room = text.rpartition("=")
    if not equals or not pattern:
        raise ValueError(f"{text!r} is not PATTERN=ROOM; {_RIGHT}")
    if len(pattern.encode()) > _MOST_BYTES or not pattern.isprintable():
        raise ValueError(f"a pattern has at most {_MOST_BYTES} bytes and no control characters; {_RIGHT}")
    try:
        return pattern, check_room(room)
    except RealtimeError as error:
        raise ValueError(f"{text!r}: {error.message}; {_RIGHT}") from error


class Relay:
    """Removes the duplicates that overlapping subscriptions cause.

    Redis sends one publication once for each matching subscription, one directly after the other: first for the
    channel, then for each pattern. So equal payloads on one channel in a row, each for another subscription, are one
    publication.

    :param deliver: called with a room and a payload.
    """

    def __init__(self, deliver: Callable[[str, bytes], None]) -> None:
        self._deliver = deliver
        self._channel = self._payload = b""
        self._patterns: set[bytes | None] = set()
        self._rooms: set[str] = set()

    def take(self, rooms: Sequence[str], pattern: bytes | None, channel: bytes, payload: bytes) -> None:
        """A payload was received for some rooms.

        :param pattern: of the subscription; None for the channel's own.
        """
        if pattern in self._patterns or channel != self._channel or payload != self._payload:
            self.interrupt()
            self._channel, self._payload = channel, payload
        self._patterns.add(pattern)
        fresh = [room for room in rooms if room not in self._rooms]
        self._rooms.update(fresh)
        for room in fresh:
            self._deliver(room, payload)

    def interrupt(self) -> None:
        """Something else was received: what comes next is another publication."""
        self._channel = self._payload = b""
        self._patterns.clear()
        self._rooms.clear()
