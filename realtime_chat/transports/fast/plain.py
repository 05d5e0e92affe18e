"""The same without tricks: every byte goes through Twisted's transports, and the reactor reads.

It is slower, and leans on nothing but documented interfaces. Tests run with it, and it is the way out if a new version
of Twisted or Autobahn breaks a trick.
"""

from __future__ import annotations

from typing import Any

from realtime_chat.transports import socket_options

__all__ = ["ReactorReader", "accept_as_reactor", "unsent", "write"]


def write(transport: Any, data: bytes) -> None:
    """Write to a transport."""
    transport.write(data)


def unsent(transport: Any) -> int:
    """A number that falls with each byte that the peer acknowledges.

    How many bytes wait in the transport itself can't be told. So this is no count of bytes where the kernel tells how
    many were acknowledged.
    """
    count = socket_options.acknowledged(transport)
    return socket_options.in_kernel(transport) if count is None else -count


def accept_as_reactor(port: Any) -> None:
    """Leave a listening port as it is."""


class ReactorReader:
    """Leaves reading to the reactor, which reads from each connection already."""

    def __init__(self, reactor: Any) -> None:
        pass

    def adopt(self, transport: Any) -> None:
        """Do nothing: the reactor reads from the connection."""

    def close(self) -> None:
        """Do nothing."""
