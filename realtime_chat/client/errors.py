"""The errors that the client raises."""

from __future__ import annotations

from realtime_chat.values.errors import ERRORS, ErrorKind, RealtimeError


class ChatError(RealtimeError):
    """The base of the client's own errors.

    :ivar code: the server's code (``docs/protocol.rst``), or ``unreachable``, ``unexpected``, ``no_token``,
        ``queue_full``, ``fate_unknown`` or ``closed``.
    :ivar message: what was wrong, and what would be right.
    :ivar temporary: whether the same may succeed later, unchanged.
    :ivar after: seconds to wait before that, if the server says so.
    """

    def __init__(self, code: str, message: str, temporary: bool = False, after: float | None = None) -> None:
        Exception.__init__(self, f"{code}: {message}")
        self.kind = ErrorKind(ERRORS[code].status if code in ERRORS else 0, temporary)
        self.code = code
        self.message = message
        self.id = None
        self.after = after


class Refused(ChatError):
    """The server answered with an error."""


class Unreachable(ChatError):
    """The server could not be reached over any transport, and never was before."""

    def __init__(self, message: str) -> None:
        super().__init__("unreachable", message, True)


class NoToken(ChatError):
    """The application gave no token, for now."""

    def __init__(self, why: str) -> None:
        super().__init__("no_token", f"there is no token: {why}", True)


class QueueFull(ChatError):
    """Too many commands wait for the connection already; this one was not sent."""

    def __init__(self, limit: int) -> None:
        super().__init__("queue_full", f"{limit} commands wait for the connection already; this one was not sent", True)


class FateUnknown(ChatError):
    """The message was sent but never confirmed, and it is too late to check whether it is stored."""

    def __init__(self, why: str) -> None:
        super().__init__("fate_unknown", f"the message was sent, and may have been stored or not: {why}")


class Closed(ChatError):
    """The chat is closed; commands that waited were not sent."""

    def __init__(self, why: str = "the chat is closed") -> None:
        super().__init__("closed", why)
