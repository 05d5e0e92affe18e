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
        self._properties: dict[str, str] = {}  # the position in them, or 1, of each room whose properties are read
        self._longest_line = _LONGEST_LINE

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[str]:
        return iter(self._positions)

    def __contains__(self, room: object) -> bool:
        return room in self._positions

    def start(self, room: str, position: str, properties: str | bool | None = None) -> None:
        """Read a room from a position on.

        :param properties: the position in its properties, or True; None if they are not read.
        """
        self._positions[room] = position
        if properties is not None:
            self._properties[room] = "1" if properties is True else str(properties)

    def stop(self, room: str) -> bool:
        """Stop reading a room. Returns whether it was read."""
        self._properties.pop(room, None)
        return self._positions.pop(room, None) is not None

    def follow(self, event: Mapping[str, Any]) -> None:
        """Move to the position of a message, a reset or a property."""
        if event.get("type") in ("message", "reset") and event.get("room") in self._positions:
            self._positions[event["room"]] = event["position"]
        elif event.get("type") in ("property", "properties") and event.get("room") in self._properties:
            self._properties[event["room"]] = event["position"]

    def update(self, positions: Mapping[str, str], properties: Mapping[str, str]) -> None:
        """Move to other positions, in the rooms that are still read."""
        self._positions.update({room: at for room, at in positions.items() if room in self._positions})
        self._properties.update({room: at for room, at in properties.items() if room in self._properties})

    def query(self, rooms: Sequence[str]) -> list[tuple[str, str]]:
        """The parameters of a request that reads some of the rooms."""
        query = [("room", room) for room in rooms] + [("since", self._positions[room]) for room in rooms]
        if any(room in self._properties for room in rooms):
            query += [("properties", self._properties.get(room, "")) for room in rooms]
        return query

    def split(self, overhead: int) -> list[tuple[str, ...]]:
        """Split the rooms into groups, each of which one request can read.

        :param overhead: bytes of a request line without the rooms.
        """
        groups: list[list[str]] = []
        left = 0
        for room, since in self._positions.items():
            needed = len(urlencode(self._needed(room, since))) + 1 + _RESERVE
            if left < needed:
                groups.append([])
                left = self._longest_line - overhead
            groups[-1].append(room)
            left -= needed
        return [tuple(group) for group in groups]

    def _needed(self, room: str, since: str) -> dict[str, str]:
        parameters = {"room": room, "since": since, "presence": ""}
        return parameters | {"properties": self._properties.get(room, "")} if self._properties else parameters

    def shorten(self) -> bool:
        """Make request lines half as long, as one was too long. Returns False if they can't be shorter."""
        if self._longest_line <= _SHORTEST_LINE:
            return False
        self._longest_line //= 2
        return True
