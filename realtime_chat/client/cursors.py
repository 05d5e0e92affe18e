"""The positions up to which rooms have been read over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

_LONGEST_LINE = 7900
"""Bytes of a request line. Nginx accepts 8,192, and other proxies 8,000."""

_SHORTEST_LINE = 500
_RESERVE = 64
"""Bytes by which a position and a version may grow while their room is read by the same request."""


class Cursors:
    """For each room that is read, the position to read on from.

    Servers and proxies limit the length of a request line. Many rooms need more than that, so several requests read
    them side by side.
    """

    def __init__(self) -> None:
        self._positions: dict[str, str] = {}
        self._longest_line = _LONGEST_LINE

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __contains__(self, room: object) -> bool:
        return room in self._positions

    def start(self, room: str, position: str) -> None:
        """Read a room from a position on."""
        self._positions[room] = position

    def stop(self, room: str) -> bool:
        """Stop reading a room. Returns whether it was read."""
        return self._positions.pop(room, None) is not None

    def follow(self, event: Mapping[str, Any]) -> None:
        """Move to the position of a message or a reset."""
        if event.get("type") in ("message", "reset") and event.get("room") in self._positions:
            self._positions[event["room"]] = event["position"]

    def update(self, positions: Mapping[str, str]) -> None:
        """Move to other positions, in the rooms that are still read."""
        self._positions.update({room: at for room, at in positions.items() if room in self._positions})

    def query(self, rooms: Sequence[str]) -> list[tuple[str, str]]:
        """The parameters of a request that reads some of the rooms."""
        return [("room", room) for room in rooms] + [("since", self._positions[room]) for room in rooms]

    def split(self, overhead: int) -> list[tuple[str, ...]]:
        """Split the rooms into groups, each of which one request can read.

        :param overhead: bytes of a request line without the rooms.
        """
        groups: list[list[str]] = []
        left = 0
        for room, since in self._positions.items():
            needed = len(urlencode({"room": room, "since": since, "presence": ""})) + 1 + _RESERVE
            if left < needed:
                groups.append([])
                left = self._longest_line - overhead
            groups[-1].append(room)
            left -= needed
        return [tuple(group) for group in groups]

    def shorten(self) -> bool:
        """Make request lines half as long, as one was too long. Returns False if they can't be shorter."""
        if self._longest_line <= _SHORTEST_LINE:
            return False
        self._longest_line //= 2
        return True
