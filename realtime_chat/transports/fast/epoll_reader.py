"""Reading from many sockets in one loop, and accepting few connections in a turn.

For each socket that can be read, a Twisted reactor goes through its logging context and several methods. This costs
more than reading a short command does. Here all connections whose transport can be bypassed share an ``epoll`` object,
which is one descriptor to the reactor: all sockets that can be read are read in one loop. A publish to the memory store
takes 23 instead of 26.5 µs, and 26,000 instead of 22,800 messages a second become durable.

Twisted adapts how many connections a port accepts at once, up to hundreds. Strangers who connect and disconnect in a
loop would then delay everybody who is connected. With a few a turn, new connections wait in the kernel's backlog.
"""

# Twisted calls most of what stands here by names of its own.
# ruff: noqa: N802

from __future__ import annotations

import errno
import select
import time
from collections import deque
from typing import Any

from twisted.internet import tcp
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from realtime_chat.core.turns import TURN
from realtime_chat.transports.fast.direct_send import can_bypass

_BOTH = ("reactor", "socket", "_aborting")
LEANS_ON = (
    "twisted.internet.tcp:Port.numberAccepts",
    *(f"twisted.internet.tcp:Server.{name}" for name in ("protocol", "readConnectionLost", "connectionLost")),
    *(f"twisted.internet.{module}:Server.{name}" for module in ("tcp", "unix") for name in _BOTH),
)
"""What is used of Twisted beyond its documented interfaces."""

_READ_SIZE = 16 * 1024
"""Bytes that are read from one socket at a time."""

_TRANSIENT = frozenset((errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ENOBUFS, errno.ENOMEM))
"""Errors of ``recv`` after which the connection goes on."""


@implementer(IReadDescriptor)
class EpollReader:
    """Reads from connections in the reactor's place, and acts as the reactor of these connections.

    An adopted connection has this object as its ``reactor``, and so tells it when it is paused, resumed or closed.
    Everything but reading is passed on to the real reactor. Without ``epoll`` (on systems other than Linux) and after
    :meth:`close`, the reactor does everything.
    """

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._poll: Any = None
        self._transports: dict[int, Any] = {}
        self._ready: deque[tuple[int, int]] = deque()
        self._closed = not hasattr(select, "epoll")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def adopt(self, transport: Any) -> None:
        """Read from a connection from now on, if the transport can be bypassed. Any other is left to the reactor."""
        if self._closed or not can_bypass(transport):
            return
        if self._poll is None:
            self._poll = select.epoll()
            self._reactor.addReader(self)
        self._reactor.removeReader(transport)
        transport.reactor = self
        self.addReader(transport)

    def close(self) -> None:
        """Hand the connections that are still open back to the reactor."""
        self._closed = True
        if self._poll is None:
            return
        self._reactor.removeReader(self)
        self._poll.close()
        self._poll = None
        transports, self._transports = self._transports, {}
        for transport in transports.values():
            self._reactor.addReader(transport)

    # What the adopted connections call

    def addReader(self, transport: Any) -> None:
        """Start or resume reading, unless the connection was aborted."""
        if self._poll is None:
            self._reactor.addReader(transport)
            return
        descriptor = transport.fileno()
        if self._transports.get(descriptor) is not transport and not getattr(transport, "_aborting", False):
            self._transports[descriptor] = transport
            self._poll.register(descriptor, select.EPOLLIN)

    def removeReader(self, transport: Any) -> None:
        """Stop reading, for now or for ever. Twisted calls this before it closes the socket."""
        if self._poll is None:
            self._reactor.removeReader(transport)
        elif self._transports.pop(transport.fileno(), None) is not None:
            self._poll.unregister(transport.fileno())

    # What the reactor calls

    def fileno(self) -> int:
        """The descriptor of the ``epoll`` object, which is readable when one of the sockets is; -1 before the first."""
        return -1 if self._poll is None else self._poll.fileno()

    def logPrefix(self) -> str:
        """The name under which the reactor logs errors."""
        return "epoll reader"

    def doRead(self) -> None:
        """Read once from each socket that can be read, until the turn's time is up.

        The sockets that were not reached come first in the next turn.
        """
        transports = self._transports
        ready = self._ready
        if not ready:
            ready.extend(self._poll.poll(0))
        end = time.monotonic() + TURN
        while ready and time.monotonic() < end:
            descriptor, _ = ready.popleft()
            transport = transports.get(descriptor)
            if transport is None:  # reading from another one has paused or closed it
                continue
            try:
                data = transport.socket.recv(_READ_SIZE)
            except OSError as error:
                if error.errno in _TRANSIENT:
                    continue
                self._lose(transport, Failure(ConnectionLost()))
                continue
            try:
                if data:
                    transport.protocol.dataReceived(data)
                else:
                    self.removeReader(transport)
                    transport.readConnectionLost(Failure(ConnectionDone()))
            except Exception:
                self._log.failure("a connection is closed, as what came from it could not be dealt with")
                self._lose(transport, Failure())

    def _lose(self, transport: Any, reason: Failure) -> None:
        self.removeReader(transport)
        try:
            transport.connectionLost(reason)
        except Exception:  # if the reactor saw it, it would close all of them
            self._log.failure("a connection is closed, and something could not deal with that")

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends: close every connection."""
        for transport in list(self._transports.values()):
            self._lose(transport, reason)
        self.close()


_ACCEPTS = 8
"""Connections that a port accepts in one turn of the reactor."""


class _PatientPort(tcp.Port):
    numberAccepts = property(lambda self: _ACCEPTS, lambda self, number: None)  # noqa: N815


def accept_few(port: Any) -> None:
    """Make a listening TCP port accept only a few connections in a turn. Any other port is left as it is."""
    if type(port) is tcp.Port:
        port.__class__ = _PatientPort
