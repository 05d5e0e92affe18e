"""What a way to the server looks like to the core: the same for every transport."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
from twisted.internet.defer import Deferred

from realtime_chat.client.errors import Refused

__all__ = ["Disconnect", "Identity", "JoinRequest", "Link", "LinkListener", "OpenLink", "loss_by_goodbye", "refusal"]


class Identity(msgspec.Struct, frozen=True):
    """Who to say one is: the client that was issued before, if one was, and a name."""

    client: str | None = None
    name: str | None = None

    def hello(self) -> dict[str, Any]:
        """The command that says so."""
        fields = {"client": self.client, "name": self.name}
        return {"type": "hello", "v": 1, **{name: value for name, value in fields.items() if value is not None}}


class JoinRequest(msgspec.Struct, frozen=True):
    """A room to read, after the position ``since``; or from ``last`` messages before its top."""

    room: str
    since: str | None = None
    last: int | None = None

    def fields(self) -> dict[str, Any]:
        """As in a ``join``."""
        fields = {"room": self.room, "since": self.since, "last": self.last}
        return {name: value for name, value in fields.items() if value is not None}


class Disconnect(msgspec.Struct, frozen=True):
    """Why a link is no more.

    :param after: seconds to wait at least before the next attempt.
    :param error: what the server answered, where that was it.
    :param permanent: whether the same would happen again.
    :param unavailable: whether this transport can't be had here, and another one might.
    :param too_large: whether the server closed it over the size of a command.
    """

    reason: str
    after: float = 0.0
    error: Refused | None = None
    permanent: bool = False
    unavailable: bool = False
    too_large: bool = False


def loss_by_goodbye(goodbye: Mapping[str, Any]) -> Disconnect:
    """What a ``goodbye`` event means for a link."""
    reason = str(goodbye.get("reason", "goodbye"))
    if goodbye.get("reconnect", True):
        return Disconnect(f"the server said goodbye: {reason}", float(goodbye.get("after") or 0))
    error = Refused("closed", f"the server said goodbye, and not to come back: {reason}")
    return Disconnect(error.message, error=error, permanent=True)


def refusal(error: Mapping[str, Any]) -> Refused:
    """The exception for an ``error`` of the server's."""
    code, message = str(error.get("code", "internal")), str(error.get("message", ""))
    return Refused(code, message, bool(error.get("temporary")))


class Link(Protocol):
    """One connection's life, from :meth:`open` to the ``closed`` that it tells, or to :meth:`close`."""

    kind: str

    def open(self) -> None:
        """Begin; ``opened`` or ``closed`` is told later."""

    def join(self, wish: JoinRequest) -> None:
        """Read a room, or read it anew from elsewhere; ``received`` gets a ``joined``, or ``refused`` is told."""

    def leave(self, room: str) -> None:
        """Read a room no longer."""

    def send(self, command: Mapping[str, Any]) -> None:
        """Send another command; its reply is ``received``."""

    def pause(self) -> None:
        """Take nothing from the server for now."""

    def resume(self) -> None:
        """Go on after :meth:`pause`."""

    def close(self, leaving: bool = False) -> Deferred[None]:
        """End it; nothing is told from now on.

        :param leaving: whether this client goes, and doesn't come back on another link.
        :returns: fires when no connection and no timer is left; never fails.
        """


class LinkListener(Protocol):
    """What a link tells, never from within a call of its own methods' ``open``, ``join`` and ``close``."""

    def opened(self, link: Link, welcome: Mapping[str, Any]) -> None:
        """The server has answered the ``hello``."""

    def received(self, link: Link, event: dict[str, Any]) -> None:
        """A reply or an event came."""

    def refused(self, link: Link, room: str, error: Refused) -> None:
        """A room can't be read."""

    def closed(self, link: Link, loss: Disconnect) -> None:
        """The link is no more."""


OpenLink = Callable[[LinkListener, Identity], Link]
"""Makes a link that isn't opened yet."""
