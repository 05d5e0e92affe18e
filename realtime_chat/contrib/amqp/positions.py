"""The file with the positions up to which rooms were published to exchanges."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import Position


class PositionsRefused(Exception):
    """The file can't be read or written; the message says what would be right."""


class PositionFile:
    """Positions by room, in a file that is replaced as a whole.

    :param path: where; it is made if it isn't there. None to keep nothing, where no room is published.
    :raises PositionsRefused: the file can't be read.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._positions = dict(self._read())
        self._is_written = True

    def _read(self) -> Mapping[str, str]:
        if self._path is None:
            return {}
        try:
            with open(self._path, "rb") as file:
                found = msgspec.json.decode(file.read(), type=dict[str, str])
            for position in found.values():
                Position.parse(position)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError, RealtimeError) as error:
            raise PositionsRefused(
                f"{self._path}: {error}; right would be a file that this program has written, or none yet"
            ) from error
        return found

    def get(self, room: str) -> str | None:
        """The position of the last message of a room that was published; None if none was."""
        return self._positions.get(room)

    def set(self, room: str, position: Position) -> None:
        """A room's messages were published up to this one; :meth:`write` keeps that."""
        self._positions[room] = str(position)
        self._is_written = False

    def write(self) -> None:
        """Write the file, if something has changed.

        :raises PositionsRefused: that can't be done.
        """
        if self._is_written or self._path is None:
            return
        new = f"{self._path}.new"
        try:
            with open(new, "wb") as file:
                file.write(msgspec.json.encode(self._positions, order="sorted") + b"\n")
            os.replace(new, self._path)
        except OSError as error:
            raise PositionsRefused(
                f"{self._path}: {error.strerror}; right would be a file that can be written"
            ) from error
        self._is_written = True
