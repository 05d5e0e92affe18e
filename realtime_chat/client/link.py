"""The interface between the client's core and a link to the server; all transports implement it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred

from realtime_chat.client.errors import Refused

LARGEST_EVENT = 64 * 1024 * 1024
"""The most bytes of an event that a stream or a WebSocket may bring."""


class ClientIdentity(msgspec.Struct, frozen=True):
    """What a link says in its ``hello``: the secret of the client to resume, if there is one, and a name or a token."""

    client: str | None = None
    name: str | None = None
    token: str | None = None

    def hello(self) -> dict[str, Any]:
        """The ``hello`` command."""
        fields = {"client": self.client, "name": self.name, "token": self.token}
        return {"type": "hello", "v": 1, **_without_none(fields)}


class JoinRequest(msgspec.Struct, frozen=True):
    """A room to read: after the position ``since``, or from ``last`` messages before the end of its log.

    :param properties: True, or the position in its properties, to read these, too.
    """

    room: str
    since: str | None = None
    last: int | None = None
    properties: str | bool | None = None

    def fields(self) -> dict[str, Any]:
        """The fields of a ``join`` command."""
        return _without_none({"room": self.room, "since": self.since, "last": self.last, "properties": self.properties})


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


class Disconnect(msgspec.Struct, frozen=True):
    """Why a link is closed.

    :param retry_after: seconds to wait at least before the next attempt.
    :param error: the error that the server answered with, if it did.
    :param permanent: whether the next attempt would end in the same way.
    :param unavailable: whether this transport doesn't work here, while another one might.
    :param too_large: whether the server closed it because a command was too large.
    """

    reason: str
    retry_after: float = 0.0
    error: Refused | None = None
    permanent: bool = False
    unavailable: bool = False
    too_large: bool = False

    @classmethod
    def by_error(cls, error: Refused, retry_after: float = 0.0) -> Disconnect:
        """The server answered with an error."""
        return cls(error.message, error.after or retry_after, error, not error.temporary)

    @classmethod
    def by_goodbye(cls, goodbye: Mapping[str, Any]) -> Disconnect:
        """The server sent a ``goodbye``."""
        reason = str(goodbye.get("reason", "goodbye"))
        if reason == "token_expired":
            error = Refused(reason, "the time of the client is over")
            return cls(f"the server said goodbye: {reason}", float(goodbye.get("after") or 0), error)
        if goodbye.get("reconnect", True):
            return cls(f"the server said goodbye: {reason}", float(goodbye.get("after") or 0))
        return cls.by_error(Refused("closed", f"the server said goodbye, and not to come back: {reason}"))


def refusal(error: Mapping[str, Any]) -> Refused:
    """The exception for an ``error`` of the server."""
    code, message = str(error.get("code", "internal")), str(error.get("message", ""))
    after = error.get("after")
    return Refused(code, message, bool(error.get("temporary")), after if isinstance(after, (int, float)) else None)


class Link(Protocol):
    """One connection to the server.

    It lives from :meth:`open` until it reports ``closed``, or until :meth:`close`.
    """

    kind: str

    def open(self) -> None:
        """Connect; ``opened`` or ``closed`` is reported later."""

    def join(self, request: JoinRequest) -> None:
        """Read a room, or read it from another position; ``received`` gets a ``joined``, or ``refused`` is reported."""

    def leave(self, room: str) -> None:
        """Stop reading a room."""

    def send(self, command: Mapping[str, Any]) -> None:
        """Send another command; ``received`` gets its reply."""

    def renew(self, token: str) -> None:
        """Go on with a new token of the same user; ``renewed`` is reported."""

    def pause(self) -> None:
        """Stop reading from the server."""

    def resume(self) -> None:
        """Read on after :meth:`pause`."""

    def close(self, leaving: bool = False) -> Deferred[None]:
        """Close it; nothing is reported from now on.

        :param leaving: whether the client goes for good, and doesn't continue on another link.
        :returns: fires when no connection and no timer is left; never fails.
        """


class LinkListener(Protocol):
    """Receives what a link reports. A link never reports from inside its own ``open``, ``join`` or ``close``."""

    def opened(self, link: Link, welcome: Mapping[str, Any]) -> None:
        """The server has answered the ``hello``."""

    def renewed(self, link: Link, reply: Mapping[str, Any]) -> None:
        """The server has answered a new token: with a ``welcome`` or an ``error``."""

    def received(self, link: Link, event: dict[str, Any]) -> None:
        """A reply or an event has come."""

    def refused(self, link: Link, room: str, error: Refused) -> None:
        """A room can't be read."""

    def closed(self, link: Link, disconnect: Disconnect) -> None:
        """The link is closed."""


OpenLink = Callable[[LinkListener, ClientIdentity], Link]
"""Makes a link that isn't opened yet."""
