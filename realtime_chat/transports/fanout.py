"""Bytes to many sockets: the one place that knows what is under a Twisted transport.

``transport.write`` costs an append, two ``epoll_ctl`` and an ``epoll_wait`` for each socket. Where nothing is queued on
a plain TCP or Unix connection the bytes go to the socket at once instead. What the socket doesn't take is not queued:
only the frame that was begun is finished, and the reader is left behind. TLS, and every transport that isn't known
here, takes the ordinary path.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import ITransport
from twisted.logger import Logger

from realtime_chat.interfaces import R

__all__ = ["Frames", "is_direct", "queued", "send_frames", "send_to_all", "unsent", "write_now"]

_log = Logger()


class Frames:
    """Consecutive messages as frames of bytes.

    :ivar data: all frames, joined.
    :ivar ends: where each frame ends in ``data``.
    """

    __slots__ = ("count", "data", "ends")

    def __init__(self, frames: Sequence[bytes]) -> None:
        self.count = len(frames)
        self.data = b"".join(frames)
        self.ends = list(accumulate(map(len, frames)))


def is_direct(transport: ITransport) -> bool:
    """Whether bytes may go past ``transport`` to its socket while nothing is queued on it."""
    return type(transport) in (tcp.Server, unix.Server) and not getattr(transport, "TLS", False)


def write_now(transport: Any, data: bytes) -> None:
    """Write to a transport, past it to its socket where nothing is queued."""
    if is_direct(transport) and not (transport.dataBuffer or transport._tempDataBuffer or transport.disconnecting):
        try:
            sent = transport.socket.send(data)
        except OSError:  # it is full, or broken: the transport finds out which
            sent = 0
        if sent == len(data):
            return
        data = data[sent:]
    transport.write(data)


def send_frames(transport: Any, frames: Frames) -> tuple[int, bool]:
    """Send as many frames as the socket takes now.

    :param transport: a direct one (:func:`is_direct`), whose pull producer is told when all is gone.
    :returns: how many frames are on their way, and whether the socket took all of them at once.
    """
    if transport.dataBuffer or transport._tempDataBuffer:
        transport.write(frames.data)
        return frames.count, False
    try:
        sent = transport.socket.send(frames.data)
    except BlockingIOError:
        sent = 0
    except OSError:  # a broken connection; the reactor finds out by itself
        return frames.count, True
    if sent == len(frames.data):
        return frames.count, True
    return _finish_frame(transport, frames, sent), False


def _finish_frame(transport: Any, frames: Frames, sent: int) -> int:
    whole = bisect_right(frames.ends, sent)
    if sent == (frames.ends[whole - 1] if whole else 0):
        transport.startWriting()  # with nothing to write: the producer resumes when the socket takes bytes again
        return whole
    transport.write(frames.data[sent : frames.ends[whole]])
    return whole + 1


def send_to_all(frames: Any, readers: Collection[R]) -> list[tuple[R, int]]:
    """Send to each reader; answer those that didn't take everything, with how many messages each took."""
    stragglers = []
    for reader in list(readers):
        try:
            taken = reader.transport.send_batch(frames)
        except Exception:  # one bad client never disturbs another
            _log.failure("a message could not be sent to one reader")
            continue
        if taken < frames.count:
            stragglers.append((reader, taken))
    return stragglers


def queued(transport: Any) -> int:
    """Bytes that wait in this process for the socket, as far as can be told."""
    waiting = len(getattr(transport, "dataBuffer", b"")) - getattr(transport, "offset", 0)
    return int(waiting + getattr(transport, "_tempDataLen", 0))


def unsent(transport: Any) -> int:
    """Bytes that the other side has not yet acknowledged, as far as can be told."""
    try:
        answer = fcntl.ioctl(transport.getHandle().fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (AttributeError, OSError):
        return queued(transport)
    return queued(transport) + int(struct.unpack("i", answer)[0])
