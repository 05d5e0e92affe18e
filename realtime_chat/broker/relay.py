"""What plain publishing to Redis brings to rooms, once for each time that something was published."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import check_room

__all__ = ["Relay", "read_relay"]

_RIGHT = "right would be 'alerts:*=news', for PUBLISH alerts:fire to reach the room news"
_MOST_BYTES = 256


def read_relay(text: str) -> tuple[str, str]:
    """Read ``PATTERN=ROOM``; the last ``=`` divides, as a pattern may have one and a room's name has none.

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
    """Tells what was published twice from what has reached us by two ways.

    Redis brings one publication to a subscriber once for each of its subscriptions that match, one directly after the
    other: first by the channel, then by each pattern. So as long as the same comes on the same channel, by another way
    each time, it is one publication.

    :param tell: called with a room and a payload.
    """

    def __init__(self, tell: Callable[[str, bytes], None]) -> None:
        self._tell = tell
        self._channel = self._payload = b""
        self._ways: set[bytes | None] = set()
        self._rooms: set[str] = set()

    def take(self, rooms: Sequence[str], way: bytes | None, channel: bytes, payload: bytes) -> None:
        """Something has come for some rooms.

        :param way: the pattern by which it has; None for the channel itself.
        """
        if way in self._ways or channel != self._channel or payload != self._payload:
            self.interrupt()
            self._channel, self._payload = channel, payload
        self._ways.add(way)
        fresh = [room for room in rooms if room not in self._rooms]
        self._rooms.update(fresh)
        for room in fresh:
            self._tell(room, payload)

    def interrupt(self) -> None:
        """Something else has come: what comes next is another publication."""
        self._channel = self._payload = b""
        self._ways.clear()
        self._rooms.clear()
