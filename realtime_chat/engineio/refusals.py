"""The requests that Engine.IO refuses, with the codes of its protocol."""

from __future__ import annotations

from realtime_chat.http.answers import Answer
from realtime_chat.values.json import encode_value

CODES = (
    "Transport unknown",
    "Session ID unknown",
    "Bad handshake method",
    "Bad request",
    "Forbidden",
    "Unsupported protocol version",
)
"""What each code means."""

UNKNOWN_TRANSPORT, UNKNOWN_SID, BAD_METHOD, BAD_REQUEST, FORBIDDEN, UNSUPPORTED_VERSION = range(len(CODES))


class Refusal(Exception):
    """A request that is refused.

    :param code: one of :data:`CODES`.
    :param message: what was wrong and what would be right. It repeats nothing of what the client sent.
    """

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{CODES[code]}: {message}")

    def answer(self) -> Answer:
        """The answer, as Engine.IO's clients know it."""
        return Answer(encode_value({"code": self.code, "message": str(self)}), 403 if self.code == FORBIDDEN else 400)
