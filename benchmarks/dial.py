"""Many connections at once, each in its conversation with the server till it has joined."""

from __future__ import annotations

import math
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from benchmarks.wires import Conversation

__all__ = ["Joined", "dial", "dial_one"]

_AT_ONCE = 100
_PATIENCE = 120.0


class Joined(NamedTuple):
    """A connection whose conversation has ended.

    :ivar came: all that has come after the first HTTP head.
    :ivar captured: what the conversation found for polls.
    """

    number: int
    socket: socket.socket
    came: bytes
    captured: tuple[str, ...]


class _Call:
    """One connection in its conversation."""

    __slots__ = ("awaited", "came", "conversation", "fresh", "number", "socket")

    def __init__(self, number: int, port: int, conversation: Conversation) -> None:
        self.number = number
        self.conversation = conversation
        self.came = b""
        self.fresh = 0  # where the answer to what was said last begins
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(("127.0.0.1", port))

    def begin(self) -> Joined | None:
        """Connected: say the first."""
        try:
            say, self.awaited = next(self.conversation)
        except StopIteration as end:
            return self._joined(end.value)
        self.socket.send(say)
        return None

    def receive(self) -> Joined | None:
        """Something came; say the next if it was awaited."""
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionError(f"the server closed connection {self.number} after {self.came[-300:]!r}")
        self.came += data
        if self.awaited not in self.came[self.fresh :]:
            return None
        if not self.came.startswith((b"HTTP/1.1 101", b"HTTP/1.1 2")):
            raise ConnectionError(f"the server refused: {self.came[:300]!r}")
        answer, self.fresh = self.came[self.fresh :], len(self.came)
        try:
            say, self.awaited = self.conversation.send(answer)
        except StopIteration as end:
            return self._joined(end.value)
        self.socket.send(say)
        return None

    def _joined(self, captured: tuple[str, ...]) -> Joined:
        return Joined(self.number, self.socket, self.came.partition(b"\r\n\r\n")[2], captured)


def dial(
    ports: Sequence[int],
    count: int,
    converse: Callable[[int], Conversation],
    meanwhile: Callable[[], None] = lambda: None,
    at_once: int = _AT_ONCE,
    rate: float = math.inf,
) -> Iterator[Joined]:
    """Open ``count`` connections and have a conversation on each.

    :param ports: to these in turn.
    :param converse: makes the conversation of the connection with this number.
    :param meanwhile: is called between two looks at what came.
    :param at_once: how many conversations may be under way.
    :param rate: how many are begun a second, at most.
    :raises ConnectionError: one was refused.
    :raises TimeoutError: it takes too long.
    """
    poller, calls, dialled, begun = select.epoll(), {}, 0, time.monotonic()
    deadline = begun + _PATIENCE
    while dialled < count or calls:
        due = min(count, 1 + (time.monotonic() - begun) * rate)
        while dialled < due and len(calls) < at_once:
            call = _Call(dialled, ports[dialled % len(ports)], converse(dialled))
            calls[call.socket.fileno()] = call
            poller.register(call.socket, select.EPOLLOUT)
            dialled += 1
        for fd, event in poller.poll(0.02, 256):
            joined = _advance(poller, calls[fd], event)
            if joined is not None:
                poller.unregister(fd)
                del calls[fd]
                yield joined
        meanwhile()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(calls)} connections of {dialled} did not join within {_PATIENCE:.0f} s")
    poller.close()


def _advance(poller: select.epoll, call: _Call, event: int) -> Joined | None:
    if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
        return call.receive()
    poller.modify(call.socket, select.EPOLLIN)
    return call.begin()


def dial_one(port: int) -> socket.socket:
    """A plain connection, for a publisher by HTTP."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    return connection
