"""A line that takes so many bytes a second and no more, and may stop."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall

__all__ = ["SlowLine"]

_STEP = 0.02
_BUFFER = 8 * 1024


class _End(Protocol):
    """One end of a connection over the line."""

    transport: Any

    def __init__(self) -> None:
        self.other: _End | None = None
        self.waiting = bytearray()
        self.over = False

    def connectionMade(self) -> None:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self.transport.getHandle().setsockopt(socket.SOL_SOCKET, option, _BUFFER)

    def dataReceived(self, data: bytes) -> None:
        self.waiting += data
        self.transport.pauseProducing()

    def bring(self, count: int) -> None:
        """Hand on some of what came from here, and take more when all of it is gone."""
        if self.other is None or self.other.transport is None or self.transport is None:
            return
        self.other.transport.write(bytes(self.waiting[:count]))
        del self.waiting[:count]
        if self.over and not self.waiting:
            self.other.transport.loseConnection()
        elif not self.waiting and not self.over and count:
            self.transport.resumeProducing()

    def connectionLost(self, reason: Any = None) -> None:
        self.over = True


class SlowLine(Factory):
    """Listens, and connects each who comes to a port of this host.

    :param rate: bytes a second, each way and for each connection.
    :ivar stopped: whether nothing comes through any more.
    :ivar carried: bytes that came through, both ways.
    """

    noisy = False

    def __init__(self, reactor: Any, port: int, rate: int) -> None:
        self._reactor = reactor
        self._to = port
        self._share = int(rate * _STEP)
        self._ends: list[_End] = []
        self.stopped = False
        self.carried = 0
        self._listening = reactor.listenTCP(0, self, interface="127.0.0.1")
        self._moving = LoopingCall(self._move)
        self._moving.clock = reactor
        self._moving.start(_STEP)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listening.getHost().port)

    def buildProtocol(self, address: Any) -> _End:
        here, there = _End(), _End()
        here.other, there.other = there, here
        self._ends += (here, there)
        connectProtocol(TCP4ClientEndpoint(self._reactor, "127.0.0.1", self._to), there).addErrback(
            lambda failure: here.transport.loseConnection()
        )
        return here

    def _move(self) -> None:
        for end in [] if self.stopped else self._ends:
            self.carried += min(self._share, len(end.waiting))
            end.bring(self._share)
        self._ends = [end for end in self._ends if not end.over or end.waiting]

    async def close(self) -> None:
        """End it, with all its connections."""
        self._moving.stop()
        stopped: Deferred[Any] | None = self._listening.stopListening()
        if stopped is not None:
            await stopped
        for end in self._ends:
            if end.transport is not None:
                end.transport.abortConnection()
