"""What the rest of the package uses of this one. Nothing here depends on how it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Send", "SendQueue", "SocketReader"]

Send = Callable[[bytes], int]
"""Gives bytes to a socket, and returns how many bytes the socket took."""


class SendQueue(Protocol):
    """How much of what was sent is still on its way; counted in bytes."""

    def unsent(self, transport: Any, /) -> int:
        """Bytes that were given to a transport and not yet acknowledged by the peer, as far as can be told."""

    def acknowledged_bytes(self, transport: Any, /) -> int:
        """A number that grows by one with each byte that the peer acknowledges.

        It is the count of all acknowledged bytes where the kernel tells it, and otherwise minus the bytes that are
        still unacknowledged.
        """


class SocketReader(Protocol):
    """Reads from connections."""

    def adopt(self, transport: Any) -> None:
        """Read from a connection from now on."""

    def close(self) -> None:
        """Stop reading in a way of its own: the reactor reads from the connections that are still open."""
