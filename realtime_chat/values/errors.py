"""What can go wrong between a client and the daemon, as two closed catalogues.

:data:`ERRORS` are the codes of ``{"type": "error"}`` replies with their HTTP status;
:data:`GOODBYES` are the reasons why a connection is closed, with their WebSocket close codes.
``docs/protocol.rst`` describes both; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = [
    "ERRORS",
    "GOODBYES",
    "ErrorKind",
    "Goodbye",
    "InDoubt",
    "RealtimeError",
    "StoreError",
    "StoreRefused",
    "UnreadableCommand",
    "internal_error",
    "out_of_order",
]


class ErrorKind(NamedTuple):
    """How an error code is answered.

    :param status: the HTTP status that it is answered with.
    :param temporary: whether the same request may succeed later, unchanged.
    """

    status: int
    temporary: bool


ERRORS: Mapping[str, ErrorKind] = MappingProxyType(
    {
        "bad_request": ErrorKind(400, False),
        "unknown_command": ErrorKind(400, False),
        "bad_room": ErrorKind(400, False),
        "bad_position": ErrorKind(400, False),
        "not_joined": ErrorKind(400, False),
        "already_joined": ErrorKind(400, False),
        "unauthorized": ErrorKind(401, False),
        "forbidden": ErrorKind(403, False),
        "bad_origin": ErrorKind(403, False),
        "not_found": ErrorKind(404, False),
        "method_not_allowed": ErrorKind(405, False),
        "key_reused": ErrorKind(409, False),
        "too_large": ErrorKind(413, False),
        "unsupported_media": ErrorKind(415, False),
        "unknown_host": ErrorKind(421, False),
        "upgrade_required": ErrorKind(426, False),
        "too_many": ErrorKind(429, True),
        "rate_limited": ErrorKind(429, True),
        "internal": ErrorKind(500, True),
        "store_unavailable": ErrorKind(503, True),
        "in_doubt": ErrorKind(503, True),
        "out_of_order": ErrorKind(503, True),
        "stopping": ErrorKind(503, True),
    }
)


class RealtimeError(Exception):
    """An error that a client is told about.

    :param code: one of :data:`ERRORS`.
    :param message: what was wrong and what would be right, for a person. It never repeats what the client sent
        beyond values that were checked.
    :ivar id: the id of the command that it answers, where one is known.
    :ivar room: the one room that it is about, where a request is about several; a room's name, which was checked.
    """

    room: str | None = None

    def __init__(self, code: str, message: str, id: str | int | float | None = None) -> None:
        self.kind = ERRORS[code]
        self.code = code
        self.message = message
        self.id = id
        super().__init__(f"{code}: {message}")

    @property
    def temporary(self) -> bool:
        """Whether the same may succeed later, unchanged."""
        return self.kind.temporary


class UnreadableCommand(RealtimeError):
    """JSON or a command that can't be read; ``id`` is the command's id where that could be read."""


def internal_error(id: str | int | float | None = None) -> RealtimeError:
    """What a client is told of a failure that is ours, and that is logged."""
    return RealtimeError("internal", "something went wrong here; it has been logged", id)


class StoreError(RealtimeError):
    """The store can't do this now: nothing was stored, and trying again later may work.

    :param message: a fixed sentence, as clients are told it: no path, no address, nothing of another error's text.
    :ivar detail: what only the operator is told, in the log; the message where there is nothing more to tell.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__("store_unavailable", message)
        self.detail = detail or message
        if detail:
            self.args = (f"{self.code}: {message}: {detail}",)


class InDoubt(RealtimeError):
    """Whether a message was stored, or will be in a moment, can't be told now.

    Publishing it again under its key settles that.
    """

    def __init__(self) -> None:
        super().__init__("in_doubt", "it isn't known whether this was stored; publish it again under the same key")


def out_of_order() -> RealtimeError:
    """What is answered to a message that follows one that isn't stored."""
    return RealtimeError("out_of_order", "the message that this one follows is not stored; publish that one first")


class StoreRefused(Exception):
    """The store can't be opened at all, and a person has to act; the message says how."""


class Goodbye(NamedTuple):
    """Why a connection is being closed.

    :param code: the WebSocket close code: 4000–4499 mean "come back", 4500–4999 "don't".
    :param reason: one word for programs.
    :param after: seconds that the client should wait at least before it comes back.
    """

    code: int
    reason: str
    after: float = 0.0

    @property
    def reconnect(self) -> bool:
        """Whether the client should come back."""
        return self.code < 4500


GOODBYES: Mapping[str, Goodbye] = MappingProxyType(
    {
        goodbye.reason: goodbye
        for goodbye in (
            Goodbye(4000, "stopping", 1.0),
            Goodbye(4001, "slow"),
            Goodbye(4002, "silent"),
            Goodbye(4003, "expired"),
            Goodbye(4500, "too_many_errors"),
            Goodbye(4501, "too_many_frames"),
        )
    }
)
