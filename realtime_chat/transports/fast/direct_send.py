"""Sending to sockets without Twisted's transport in between.

``transport.write`` costs an append, two calls of ``epoll_ctl`` and one of ``epoll_wait`` for each socket. Where nothing
is queued on a plain TCP or Unix connection, the bytes can go to its socket at once instead. To 1,000 connections this
takes 8.5 µs of CPU a delivery instead of 24.7; the kernel's ``send`` is nearly all of that.

What the socket doesn't take is not queued: only the frame that was begun is finished, and the reader falls behind. TLS
and every transport that isn't known here is written to as usual.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, MutableMapping
from typing import Any

from twisted.internet import tcp, unix
from twisted.logger import Logger

from realtime_chat.core.interfaces import R, Reader
from realtime_chat.transports import socket_options
from realtime_chat.transports.batches import FrameBatch
from realtime_chat.transports.fast.interfaces import Send

__all__ = [
    "FAILED",
    "LEANS_ON",
    "direct_send",
    "finish_frame",
    "is_plain",
    "queued",
    "send_to_all",
    "try_send",
    "unsent",
    "write_now",
]

LEANS_ON = (
    "twisted.internet.tcp:Server",
    "twisted.internet.tcp:Server.TLS",
    "twisted.internet.tcp:Server.socket",
    "twisted.internet.tcp:Server.disconnected",
    "twisted.internet.tcp:Server.disconnecting",
    "twisted.internet.tcp:Server.dataBuffer",
    "twisted.internet.tcp:Server.offset",
    "twisted.internet.tcp:Server.startWriting",
    "twisted.internet.tcp:Server._tempDataBuffer",
    "twisted.internet.tcp:Server._tempDataLen",
    "twisted.internet.unix:Server",
    "twisted.internet.unix:Server.TLS",
    "twisted.internet.unix:Server.socket",
    "twisted.internet.unix:Server._tempDataBuffer",
)
"""What is used of Twisted beyond its documented interfaces."""

_log = Logger()
_KNOWN = (tcp.Server, unix.Server)

FAILED = -1
"""Stands for the number of bytes taken where ``send`` failed for another reason than a full socket.

Such a failure need not be the end of the connection: the kernel may be out of buffers (ENOBUFS) or of memory (ENOMEM).
Nothing counts as sent then. The reactor tries again, and so finds out whether the connection is broken."""


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


def is_plain(transport: Any) -> bool:
    """Whether a transport is an open connection whose bytes go over its socket unchanged."""
    return type(transport) in _KNOWN and not transport.TLS and not transport.disconnected


def direct_send(transport: Any) -> Send | None:
    """The ``send`` of a transport's socket; None where the transport can't be bypassed.

    It may be used only while nothing is queued on the transport.
    """
    if not is_plain(transport):
        return None
    send: Send = transport.socket.send
    return send


def queued(transport: Any) -> int:
    """Bytes that wait in this process for the socket, as far as can be told."""
    waiting = len(getattr(transport, "dataBuffer", b"")) - getattr(transport, "offset", 0)
    return int(waiting + getattr(transport, "_tempDataLen", 0))


def unsent(transport: Any) -> int:
    """Bytes that the peer has not acknowledged yet, as far as can be told."""
    return queued(transport) + socket_options.in_kernel(transport)


def write_now(transport: Any, data: bytes) -> None:
    """Send to the socket at once where nothing is queued on the transport; otherwise write to the transport."""
    send = direct_send(transport)
    if send is None or transport.dataBuffer or transport._tempDataBuffer or transport.disconnecting:
        transport.write(data)
        return
    sent = max(0, try_send(send, data))
    if sent < len(data):
        transport.write(data[sent:])


def finish_frame(transport: Any, frames: FrameBatch, sent: int) -> int:
    """Finish the frame that was begun, after a send that took only a part of several frames.

    :param transport: one that :func:`direct_send` knows. Its pull producer is called when all of the frame is gone.
    :param sent: how many bytes were taken; not :data:`FAILED`.
    :returns: how many frames are sent or on their way.
    """
    whole = bisect_right(frames.ends, sent)
    if sent == (frames.ends[whole - 1] if whole else 0):
        transport.startWriting()  # with nothing to write: the producer resumes when the socket takes bytes again
        return whole
    transport.write(frames.data[sent : frames.ends[whole]])
    return whole + 1


def send_to_all(
    frames: FrameBatch, readers: MutableMapping[R, Send | None], first: Collection[R] = ()
) -> list[tuple[R, int]]:
    """Send to each reader: by its ``direct_send`` where it has one, otherwise by its transport.

    :param first: those of the readers whose transport has replies buffered, which are sent together with this.
    :returns: those whose writing is paused now, with how many messages each took.
    """
    if not first:
        return _send_to_all(frames, readers)
    sends = [(reader, readers[reader]) for reader in first]
    paused = []
    try:
        for reader in first:
            if reader in readers:
                readers[reader] = len  # takes all and sends nothing: its transport has sent it
            taken = _send_by_transport(reader, frames)
            if reader.transport.write_paused:
                paused.append((reader, taken))
        paused += _send_to_all(frames, readers)
    finally:
        for reader, send in sends:
            if reader in readers:
                readers[reader] = send
    return paused


def _send_to_all(frames: FrameBatch, readers: Mapping[R, Send | None]) -> list[tuple[R, int]]:
    data, size = frames.data, len(frames.data)
    by_transport: list[R] = []
    rest: list[tuple[R, int]] = []
    # Nothing in this loop allocates or changes the readers: with ten thousand readers, a copy would keep the garbage
    # collector busy.
    for reader, send in readers.items():
        if send is None:
            by_transport.append(reader)
            continue
        try:
            sent = send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = FAILED
        if sent != size:
            rest.append((reader, sent))
    paused = [(reader, _send_rest(reader, frames, sent)) for reader, sent in rest]
    for reader in by_transport:
        taken = _send_by_transport(reader, frames)
        if reader.transport.write_paused:
            paused.append((reader, taken))
    return paused


def _send_rest(reader: Reader, frames: FrameBatch, sent: int) -> int:
    transport: Any = reader.transport
    return int(transport.send_rest(frames, sent))


def _send_by_transport(reader: Reader, frames: FrameBatch) -> int:
    try:
        return reader.transport.send_batch(frames)
    except Exception:  # one bad client never disturbs another
        _log.failure("a message could not be sent to one reader")
        return 0
