"""The broker of a node without others: there is nobody to tell."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from realtime_chat.core.interfaces import IBroker, Listener
from realtime_chat.values.model import ForwardedCommand, RemoteClient


@implementer(IBroker)
class LocalBroker:
    """Does nothing, as there are no other nodes."""

    shared = False

    def describe(self) -> str:
        return "none (this is the only node)"

    def start(self, listener: Listener) -> Deferred[None]:
        return succeed(None)

    def stop(self) -> Deferred[None]:
        return succeed(None)

    def count(self, rooms: Sequence[str]) -> Deferred[Sequence[int]]:
        return succeed([0] * len(rooms))

    def follow(self, room: str) -> Deferred[None]:
        return succeed(None)

    def unfollow(self, room: str) -> None: ...

    def signal(self, room: str, client_hash: str, data: bytes) -> None: ...

    def publish_presence(self, room: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None: ...

    def forward(self, command: ForwardedCommand) -> None: ...
