"""Bytes to many sockets: the one place that knows what is under a Twisted transport.

``transport.write`` costs an append, two ``epoll_ctl`` and an ``epoll_wait`` for each socket. Where nothing is queued on
a plain TCP or Unix connection the bytes go to the socket at once instead. What the socket doesn't take is not queued:
only the frame that was begun is finished, and the reader is left behind. TLS, and every transport that isn't known
here, takes the ordinary path.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any

from twisted.internet import tcp, unix
from twisted.logger import Logger

from realtime_chat.core.interfaces import R, Reader

__all__ = [
    "FAILED",
    "Frames",
    "Send",
    "acknowledged_bytes",
    "direct_send",
    "finish_frame",
    "give_up_after",
    "is_plain",
    "queued",
    "send_to_all",
    "try_send",
    "unsent",
    "write_now",
]

_log = Logger()
_DIRECT = (tcp.Server, unix.Server)

Send = Callable[[bytes], int]
"""Gives bytes to a socket, and says how many it took."""

FAILED = -1
"""Stands for the bytes that a socket took where ``send`` failed otherwise than by being full.

That need not be the connection's end: the kernel may be out of buffers (ENOBUFS) or of memory (ENOMEM). So nothing is
taken for sent. Whether the connection is broken is found out by the reactor, which tries again."""


_ACKED_AT = 120


def try_send(send: Send, data: bytes) -> int:
    """Send what a socket takes at once.

    :returns: how many bytes it took, or :data:`FAILED`.
    """
    try:
        return send(data)
    except BlockingIOError:
        return 0
    except OSError:
        return FAILED


class Frames:
    """Consecutive messages as frames of bytes.

    :ivar data: all frames, joined.
    :ivar ends: where each frame ends in ``data``.
    """

    __slots__ = ("count", "data", "ends")

    def __init__(self, frames: Sequence[bytes]) -> None:
        self.count = len(frames)
        self.data = frames[0] if self.count == 1 else b"".join(frames)
        self.ends = [len(self.data)] if self.count == 1 else list(accumulate(map(len, frames)))

    def with_last(self, frame: bytes) -> Frames:
        """These frames, with another one in the place of the last."""
        start = self.ends[-2] if self.count > 1 else 0
        other = Frames(())
        other.count = self.count
        other.data = self.data[:start] + frame
        other.ends = [*self.ends[:-1], len(other.data)]
        return other


def is_plain(transport: Any) -> bool:
    """Whether a transport is an open connection whose bytes go over its socket as they are."""
    return type(transport) in _DIRECT and not transport.TLS and not transport.disconnected


def direct_send(transport: Any) -> Send | None:
    """What sends to a transport's socket past the transport, which is right only while nothing is queued on it; None
    where that can't be done."""
    if not is_plain(transport):
        return None
    send: Send = transport.socket.send
    return send


def queued(transport: Any) -> int:
    """Bytes that wait in this process for the socket, as far as can be told."""
    waiting = len(getattr(transport, "dataBuffer", b"")) - getattr(transport, "offset", 0)
    return int(waiting + getattr(transport, "_tempDataLen", 0))


def unsent(transport: Any) -> int:
    """Bytes that the other side has not yet acknowledged, as far as can be told.

    TLS has its own handle, but gives the attributes of the transport below it, whose socket has the bytes.
    """
    try:
        answer = fcntl.ioctl(transport.socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (AttributeError, OSError):
        return queued(transport)
    return queued(transport) + int(struct.unpack("i", answer)[0])


def acknowledged_bytes(transport: Any) -> int:
    """A number that grows by each byte that the other side acknowledges: how many it has acknowledged in all, where
    the kernel tells that (``tcpi_bytes_acked`` of ``TCP_INFO``, linux/tcp.h), else how many it hasn't, negated."""
    try:
        information = transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + 8)
        return int(struct.unpack_from("Q", information, _ACKED_AT)[0])
    except (AttributeError, OSError, struct.error):
        return -unsent(transport)


def give_up_after(transport: Any, seconds: float) -> None:
    """Let the kernel end a connection whose other side takes nothing of what was sent for so long, as far as it can
    (``TCP_USER_TIMEOUT``, RFC 5482)."""
    connection, option = getattr(transport, "socket", None), getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and isinstance(connection, socket.socket):
        with suppress(OSError):  # it is gone, or no TCP
            connection.setsockopt(socket.IPPROTO_TCP, option, int(seconds * 1000))


def write_now(transport: Any, data: bytes) -> None:
    """Write to a transport, past it to its socket where nothing is queued."""
    send = direct_send(transport)
    if send is None or transport.dataBuffer or transport._tempDataBuffer or transport.disconnecting:
        transport.write(data)
        return
    sent = max(0, try_send(send, data))
    if sent < len(data):
        transport.write(data[sent:])


def finish_frame(transport: Any, frames: Frames, sent: int) -> int:
    """After a send that took not everything: finish the frame that was begun, and no more.

    :param transport: one of :func:`direct_send`; its pull producer is told when all of that is gone.
    :param sent: how many bytes were taken; not :data:`FAILED`.
    :returns: how many frames are on their way.
    """
    whole = bisect_right(frames.ends, sent)
    if sent == (frames.ends[whole - 1] if whole else 0):
        transport.startWriting()  # with nothing to write: the producer resumes when the socket takes bytes again
        return whole
    transport.write(frames.data[sent : frames.ends[whole]])
    return whole + 1


def send_to_all(
    frames: Frames, readers: MutableMapping[R, Send | None], first: Collection[R] = ()
) -> list[tuple[R, int]]:
    """Send to each reader, by its :func:`direct_send` where it has one.

    :param first: those of them whose transport has something to send before, together with this.
    :returns: those whose transport is full now, with how many messages each took.
    """
    if not first:
        return _send_to_all(frames, readers)
    outlets = [(reader, readers[reader]) for reader in first]
    full = []
    try:
        for reader in first:
            if reader in readers:
                readers[reader] = len  # takes all, and sends nothing: this one has it
            taken = _send_ordinarily(reader, frames)
            if reader.transport.write_paused:
                full.append((reader, taken))
        full += _send_to_all(frames, readers)
    finally:
        for reader, outlet in outlets:
            if reader in readers:
                readers[reader] = outlet
    return full


def _send_to_all(frames: Frames, readers: Mapping[R, Send | None]) -> list[tuple[R, int]]:
    data, size = frames.data, len(frames.data)
    ordinary: list[R] = []
    rest: list[tuple[R, int]] = []
    # Nothing here allocates or changes the readers: with ten thousand of them a copy would keep the garbage collector
    # busy.
    for reader, send in readers.items():
        if send is None:
            ordinary.append(reader)
            continue
        try:
            sent = send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = FAILED
        if sent != size:
            rest.append((reader, sent))
    full = [(reader, _send_rest(reader, frames, sent)) for reader, sent in rest]
    for reader in ordinary:
        taken = _send_ordinarily(reader, frames)
        if reader.transport.write_paused:
            full.append((reader, taken))
    return full


def _send_rest(reader: Reader, frames: Frames, sent: int) -> int:
    transport: Any = reader.transport
    return int(transport.send_rest(frames, sent))


def _send_ordinarily(reader: Reader, frames: Frames) -> int:
    try:
        return reader.transport.send_batch(frames)
    except Exception:  # one bad client never disturbs another
        _log.failure("a message could not be sent to one reader")
        return 0
