"""Pauses the link while the application is slow."""

from __future__ import annotations

from collections.abc import Mapping, Sized

from realtime_chat.client.connector import Connector
from realtime_chat.client.subscription import RoomSubscription

__all__ = ["FlowControl"]


class FlowControl:
    """Pauses reading from the server while every room's reader is behind and no reply is waited for.

    :param rooms: the rooms that are read, by name.
    :param awaiting_reply: the collections of commands that wait for a reply.
    """

    def __init__(self, connector: Connector, rooms: Mapping[str, RoomSubscription], *awaiting_reply: Sized) -> None:
        self._connector = connector
        self._rooms = rooms
        self._awaiting_reply = awaiting_reply
        self._paused = False

    def disconnected(self) -> None:
        """The link is gone; the next one is not paused."""
        self._paused = False

    def update(self) -> None:
        """Pause or resume the link, if what speaks for it has changed."""
        link = self._connector.link
        if link is None or not self._connector.up:
            return
        rooms = self._rooms.values()
        if not self._paused and rooms and all(room.should_pause for room in rooms) and not self._waits():
            self._paused = True
            link.pause()
        elif self._paused and (self._waits() or not rooms or any(room.may_resume for room in rooms)):
            self._paused = False
            link.resume()

    def _waits(self) -> bool:
        return any(map(len, self._awaiting_reply)) or any(not room.joined for room in self._rooms.values())
