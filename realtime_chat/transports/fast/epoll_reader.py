"""Bytes from many sockets: what :mod:`~realtime_chat.transports.fast.direct_send` is for sending.

For each socket that has something to read, a Twisted reactor goes through its logging context and several methods,
which costs more than reading a short command does. Here the plain connections have an ``epoll`` of their own, which
itself is one descriptor to the reactor: all that have something to read are read in one loop.
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
from realtime_chat.transports.fast.direct_send import is_plain

__all__ = ["EpollReader", "accept_few"]

_PIECE = 16 * 1024
"""Bytes that are read of one socket at once. What of them isn't done at once is kept meanwhile."""

_TRANSIENT = frozenset((errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ENOBUFS, errno.ENOMEM))
"""What ``recv`` may fail with on a connection that goes on."""


_ACCEPTS = 8
"""Connections that a port accepts in one turn of the reactor."""


class _PatientPort(tcp.Port):
    """A port whose new connections wait in the kernel's backlog while those that are open are served.

    Twisted accepts 20 more at once each time that so many have come. Strangers who come and go would hold up everybody
    else then.
    """

    numberAccepts = property(lambda self: _ACCEPTS, lambda self, number: None)  # noqa: N815


def accept_few(port: Any) -> None:
    """Have a listening TCP port accept only a few connections in a turn; any other port is left as it is."""
    if type(port) is tcp.Port:
        port.__class__ = _PatientPort


@implementer(IReadDescriptor)
class EpollReader:
    """Reads from connections in the reactor's place, and is the reactor to them.

    A connection that it reads from has it as its ``reactor``, so that whoever pauses, resumes or closes the connection
    by way of Twisted's transport tells it. Everything but reading it passes on. Without ``epoll`` (on other systems
    than Linux) and after :meth:`close` all is left to the reactor.
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
        """Read from a connection from now on, if it is a plain one; any other is left to the reactor."""
        if self._closed or not is_plain(transport):
            return
        if self._poll is None:
            self._poll = select.epoll()
            self._reactor.addReader(self)
        self._reactor.removeReader(transport)
        transport.reactor = self
        self.addReader(transport)

    def close(self) -> None:
        """Leave the connections that are still open to the reactor."""
        self._closed = True
        if self._poll is None:
            return
        self._reactor.removeReader(self)
        self._poll.close()
        self._poll = None
        transports, self._transports = self._transports, {}
        for transport in transports.values():
            self._reactor.addReader(transport)

    # What its connections take for the reactor's

    def addReader(self, transport: Any) -> None:
        """Go on reading, unless the connection was aborted."""
        if self._poll is None:
            self._reactor.addReader(transport)
            return
        descriptor = transport.fileno()
        if self._transports.get(descriptor) is not transport and not getattr(transport, "_aborting", False):
            self._transports[descriptor] = transport
            self._poll.register(descriptor, select.EPOLLIN)

    def removeReader(self, transport: Any) -> None:
        """Read no more for now, or for ever; Twisted says so before it closes the socket."""
        if self._poll is None:
            self._reactor.removeReader(transport)
        elif self._transports.pop(transport.fileno(), None) is not None:
            self._poll.unregister(transport.fileno())

    # What the reactor calls

    def fileno(self) -> int:
        """The descriptor that can be read when one of the sockets can."""
        return -1 if self._poll is None else self._poll.fileno()

    def logPrefix(self) -> str:
        """What the reactor logs errors under."""
        return "epoll reader"

    def doRead(self) -> None:
        """Read what there is, of each socket a piece, for as long as a turn may take; the others come first in the
        next turn."""
        transports = self._transports
        ready = self._ready
        if not ready:
            ready.extend(self._poll.poll(0))
        end = time.monotonic() + TURN
        while ready and time.monotonic() < end:
            descriptor, _ = ready.popleft()
            transport = transports.get(descriptor)
            if transport is None:  # what was read just now of another made it pause or close
                continue
            try:
                data = transport.socket.recv(_PIECE)
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
        """The reactor ends: so does every connection."""
        for transport in list(self._transports.values()):
            self._lose(transport, reason)
        self.close()
