"""What can go wrong for who uses the client."""

from __future__ import annotations

from realtime_chat.values.errors import ERRORS, ErrorKind, RealtimeError

__all__ = ["ChatError", "Closed", "FateUnknown", "QueueFull", "Refused", "Unreachable"]


class ChatError(RealtimeError):
    """All that the client raises by itself.

    :ivar code: the server's (``docs/protocol.rst``), or ``unreachable``, ``unexpected``, ``queue_full``,
        ``fate_unknown`` or ``closed``.
    :ivar message: what was wrong and what would be right, for a person.
    :ivar temporary: whether the same may succeed later, unchanged.
    """

    def __init__(self, code: str, message: str, temporary: bool = False) -> None:
        Exception.__init__(self, f"{code}: {message}")
        self.kind = ErrorKind(ERRORS[code].status if code in ERRORS else 0, temporary)
        self.code = code
        self.message = message
        self.id = None


class Refused(ChatError):
    """The server answered with an error."""


class Unreachable(ChatError):
    """No transport reached the server; nothing was connected before."""

    def __init__(self, message: str) -> None:
        super().__init__("unreachable", message, True)


class QueueFull(ChatError):
    """Too much waits already for the connection; nothing was sent."""

    def __init__(self, limit: int) -> None:
        super().__init__("queue_full", f"{limit} commands wait for the connection already; this one was not sent", True)


class FateUnknown(ChatError):
    """It was sent, no answer came, and whether it was stored can no longer be told."""

    def __init__(self, why: str) -> None:
        super().__init__("fate_unknown", f"the message was sent, and may have been stored or not: {why}")


class Closed(ChatError):
    """The chat is closed; what waited was not sent."""

    def __init__(self, why: str = "the chat is closed") -> None:
        super().__init__("closed", why)
