"""What a transport requires of the session behind it."""

from __future__ import annotations

from typing import Protocol


class SendingSession(Protocol):
    """What a connection that stays open tells of its socket."""

    def pause_writing(self) -> None:
        """The socket is full."""

    def resume_writing(self) -> None:
        """The socket has drained."""

    def dismiss(self, reason: str) -> None:
        """Close the connection for one of the reasons in :data:`realtime_chat.values.errors.GOODBYES`."""


class WebSocketSession(SendingSession, Protocol):
    """What a WebSocket gives its client's messages to."""

    @property
    def busy(self) -> bool:
        """Whether it takes no message until it calls ``resume_commands()`` of the WebSocket."""

    def receive(self, text: bytes) -> None:
        """A text message has come, which is valid UTF-8."""

    def close(self) -> None:
        """The WebSocket is closing, or its connection is lost."""
