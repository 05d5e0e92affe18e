"""The errors and goodbyes that clients get, as two closed catalogues.

:data:`ERRORS` are the codes of ``{"type": "error"}`` replies with their HTTP status;
:data:`GOODBYES` are the reasons for which a connection is closed, with their WebSocket close codes.
``docs/protocol.rst`` describes both. A test compares it with this module.
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
    "RateLimited",
    "RealtimeError",
    "StoreError",
    "StoreRefused",
    "UnreadableCommand",
    "internal_error",
    "out_of_order",
    "stopping",
    "token_expired",
]


class ErrorKind(NamedTuple):
    """What an error code means.

    :param status: its HTTP status.
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
        "token_expired": ErrorKind(401, False),
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
    """An error that is sent to a client.

    :param code: one of :data:`ERRORS`.
    :param message: what was wrong and what would be right, for a person. Of what the client sent it repeats only
        checked values.
    :param after: seconds after which the same request may succeed, if that is known.
    :ivar id: the id of the command, if it is known.
    :ivar room: the valid name of the room that the error is about, if the request is about several rooms.
    """

    room: str | None = None

    def __init__(
        self, code: str, message: str, id: str | int | float | None = None, after: float | None = None
    ) -> None:
        self.kind = ERRORS[code]
        self.code = code
        self.message = message
        self.id = id
        self.after = after
        super().__init__(f"{code}: {message}")

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later, unchanged."""
        return self.kind.temporary


class RateLimited(RealtimeError):
    """A client, a user or an address has reached a limit of its own; ``after`` says when it may go on."""

    def __init__(self, message: str, after: float) -> None:
        super().__init__("rate_limited", message, after=after)


class UnreadableCommand(RealtimeError):
    """JSON or a command that can't be read; ``id`` is the command's id if that can be read."""


def internal_error(id: str | int | float | None = None) -> RealtimeError:
    """The error for a failure of the daemon itself, which has been logged."""
    return RealtimeError("internal", "something went wrong here; it has been logged", id)


def stopping() -> RealtimeError:
    """The error while the daemon stops."""
    return RealtimeError("stopping", "this server is stopping; connect again")


def no_keys() -> RealtimeError:
    """The error for a token where there are no keys."""
    return RealtimeError(
        "unauthorized",
        "this server has no keys for tokens, so leave the token out to be a guest; its operator can give it one with "
        "--token-key",
    )


def token_expired() -> RealtimeError:
    """The error for a client whose time is over."""
    return RealtimeError("token_expired", "the time of this client's token is over; send a new token in hello")


class StoreError(RealtimeError):
    """The store can't do this now. Nothing was stored, and a later attempt may work.

    :param message: a fixed sentence for clients: no path, no address, and no text of another error.
    :ivar detail: more for the operator, in the log; the message if there is no more.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__("store_unavailable", message)
        self.detail = detail or message
        if detail:
            self.args = (f"{self.code}: {message}: {detail}",)


class InDoubt(RealtimeError):
    """It is not known whether a message was stored, or will be in a moment.

    A publish under the same key finds out.
    """

    def __init__(self) -> None:
        super().__init__("in_doubt", "it isn't known whether this was stored; publish it again under the same key")


def out_of_order() -> RealtimeError:
    """The error for a message whose predecessor (``after``) is not stored."""
    return RealtimeError("out_of_order", "the message that this one follows is not stored; publish that one first")


class StoreRefused(Exception):
    """The store can't be opened, and a person has to act. The message says how."""


class Goodbye(NamedTuple):
    """A reason for which a connection is closed.

    :param code: the WebSocket close code: at 4000–4499 the client should reconnect, at 4500–4999 it should not.
    :param reason: one word for programs.
    :param after: seconds that the client should wait at least before it reconnects.
    """

    code: int
    reason: str
    after: float = 0.0

    @property
    def reconnect(self) -> bool:
        """Whether the client should reconnect."""
        return self.code < 4500


GOODBYES: Mapping[str, Goodbye] = MappingProxyType(
    {
        goodbye.reason: goodbye
        for goodbye in (
            Goodbye(4000, "stopping", 1.0),
            Goodbye(4001, "slow"),
            Goodbye(4002, "silent"),
            Goodbye(4003, "expired"),
            Goodbye(4004, "token_expired"),
            Goodbye(4500, "too_many_errors"),
            Goodbye(4501, "too_many_frames"),
        )
    }
)
