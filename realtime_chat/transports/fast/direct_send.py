"""Sending to sockets without Twisted's transport in between.

``transport.write`` costs an append, two calls of ``epoll_ctl`` and one of ``epoll_wait`` for each socket. Where nothing
is queued on a bare TCP or Unix connection, the bytes can go to its socket at once instead. To 1,000 connections this
takes 8.5 µs of CPU a delivery instead of 24.7; the kernel's ``send`` is nearly all of that.

What the socket doesn't take is not queued: only the frame that was begun is finished, and the reader falls behind. TLS
and every transport that isn't known here is written to as usual.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, MutableMapping
from typing import Any, ClassVar, TypeVar

from twisted.internet import tcp, unix
from twisted.logger import Logger

from realtime_chat.core.interfaces import R, Reader
from realtime_chat.transports.backpressure import BackpressuredSender, Send, in_kernel
from realtime_chat.transports.frames import FrameBatch

_BOTH = ("Server", "Server.TLS", "Server.socket", "Server._tempDataBuffer")
_STATE = ("disconnected", "disconnecting", "dataBuffer", "offset", "startWriting", "_tempDataLen")
LEANS_ON = (
    *(f"twisted.internet.{module}:{name}" for module in ("tcp", "unix") for name in _BOTH),
    *(f"twisted.internet.tcp:Server.{name}" for name in _STATE),
)
"""What is used of Twisted beyond its documented interfaces."""

K = TypeVar("K")

_log = Logger()
_KNOWN = (tcp.Server, unix.Server)

FAILED = -1
"""Stands for the number of bytes taken where ``send`` failed for another reason than a full socket.

Such a failure need not be the end of the connection: the kernel may be out of buffers (ENOBUFS) or of memory (ENOMEM).
Nothing counts as sent then. The reactor tries again, and so finds out whether the connection is broken."""


# One connection


def can_bypass(transport: Any) -> bool:
    """Whether a transport is an open connection whose bytes go over its socket unchanged."""
    return type(transport) in _KNOWN and not transport.TLS and not transport.disconnected


def direct_send_of(transport: Any) -> Send | None:
    """The ``send`` of a transport's socket; None where the transport can't be bypassed.

    It may be used only while nothing is queued on the transport.
    """
    if not can_bypass(transport):
        return None
    send: Send = transport.socket.send
    return send


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


def queued(transport: Any) -> int:
    """Bytes that wait in this process for the socket, as far as can be told."""
    waiting = len(getattr(transport, "dataBuffer", b"")) - getattr(transport, "offset", 0)
    return int(waiting + getattr(transport, "_tempDataLen", 0))


def unsent(transport: Any) -> int:
    """Bytes that the peer has not acknowledged yet, as far as can be told."""
    return queued(transport) + in_kernel(transport)


def write_now(transport: Any, data: bytes) -> None:
    """Send to the socket at once where nothing is queued on the transport; otherwise write to the transport."""
    send = direct_send_of(transport)
    if send is None or transport.dataBuffer or transport._tempDataBuffer or transport.disconnecting:
        transport.write(data)
        return
    sent = max(0, try_send(send, data))
    if sent < len(data):
        transport.write(data[sent:])


def finish_frame(transport: Any, batch: FrameBatch, sent: int) -> int:
    """Finish the frame that was begun, after a send that took only a part of a batch.

    :param transport: one that can be bypassed. Its pull producer is called when all of the frame is gone.
    :param sent: how many bytes were taken; not :data:`FAILED`.
    :returns: how many frames are sent or on their way.
    """
    whole = bisect_right(batch.ends, sent)
    if sent == (batch.ends[whole - 1] if whole else 0):
        transport.startWriting()  # with nothing to write: the producer resumes when the socket takes bytes again
        return whole
    transport.write(batch.data[sent : batch.ends[whole]])
    return whole + 1


class DirectSender(BackpressuredSender):
    """Sends to the socket. What the socket doesn't take pauses writing.

    While writing isn't paused, nothing is queued on the transport, so that the fan-out may send to the socket, too.
    Over TLS, and where a transport isn't known, ``direct_send`` is None, and everything is written to the transport.
    """

    def start_sending(self) -> None:
        self.direct_send = direct_send_of(self.transport)
        # A pull producer is called each time that the transport has drained, a push producer only after a pause. Over
        # TLS a pull producer would be called in every turn.
        self.transport.registerProducer(self, self.direct_send is None)

    @property
    def queued(self) -> int:
        return queued(self.transport)

    def unsent(self) -> int:
        return unsent(self.transport)

    def write(self, data: bytes) -> None:
        if self._replies:
            data = self._with_replies(data)
        if self.direct_send is None or self.write_paused:
            self.transport.write(data)
            return
        sent = max(0, try_send(self.direct_send, data))
        if sent < len(data):
            self.transport.write(data[sent:])
            self._pause_writing()

    def send_batch(self, batch: FrameBatch) -> int:
        if self.write_paused or not self.may_send:
            return 0
        data = self._with_replies(batch.data) if self._replies else batch.data
        if self.direct_send is None:
            self.transport.write(data)
            return batch.count
        sent = try_send(self.direct_send, data)
        if sent == len(data):
            return batch.count
        before = len(data) - len(batch.data)
        if sent < before:
            self.transport.write(data[max(0, sent) : before])
        return self.send_rest(batch, max(0, sent - before) if before else sent)

    def send_rest(self, batch: FrameBatch, sent: int) -> int:
        """Finish the frame that was begun, after the socket took only a part of a batch, and pause writing.

        :param sent: how many bytes were taken, or :data:`FAILED`.
        :returns: how many messages are sent or on their way.
        """
        taken = 0
        if sent == FAILED:
            # The socket may seem writable all the while. Without a wait we would try again in every turn.
            self.hub.wheel.call_later(self.hub.limits.resend, self._retry_send)
        elif self.direct_send is not None:
            taken = finish_frame(self.transport, batch, sent)
        self._pause_writing()
        return taken

    def _retry_send(self) -> None:
        if self.direct_send is not None:
            self.transport.startWriting()


# Many connections


class FrameFanout:
    """The fan-out of a transport whose connections stay open; subclasses encode messages.

    :cvar name: the kind of transport, for counting.
    """

    name: ClassVar[str]

    def send(
        self, batch: FrameBatch, readers: MutableMapping[R, Send | None], first: Collection[R] = ()
    ) -> list[tuple[R, int]]:
        """Send to each reader: by its ``direct_send`` where it has one, otherwise by its transport.

        :param first: those of the readers whose transport has replies buffered, which are sent together with this.
        :returns: those whose writing is paused now, with how many messages each took.
        """
        if not first:
            return _send_to_all(batch, readers)
        sends = [(reader, readers[reader]) for reader in first]
        paused: list[tuple[R, int]] = []
        try:
            for reader in first:
                if reader in readers:
                    readers[reader] = len  # takes all and sends nothing: its transport has sent it
                _send_by_transport(reader, batch, paused)
            paused += _send_to_all(batch, readers)
        finally:
            for reader, send in sends:
                if reader in readers:
                    readers[reader] = send
        return paused


def _send_to_all(batch: FrameBatch, readers: Mapping[R, Send | None]) -> list[tuple[R, int]]:
    by_transport, rest = send_to_sockets(batch.data, readers)
    paused = [(reader, _send_rest(reader, batch, sent)) for reader, sent in rest]
    for reader in by_transport:
        _send_by_transport(reader, batch, paused)
    return paused


def send_to_sockets(data: bytes, sends: Mapping[K, Send | None]) -> tuple[list[K], list[tuple[K, int]]]:
    """Send to each socket.

    :param sends: by whom it is for, its ``direct_send``.
    :returns: those who have none, and those whose socket didn't take all, with how many bytes it took or
        :data:`FAILED`.
    """
    size = len(data)
    without: list[K] = []
    rest: list[tuple[K, int]] = []
    # Nothing in this loop allocates or changes the mapping: with ten thousand readers, a copy would keep the garbage
    # collector busy.
    for key, send in sends.items():
        if send is None:
            without.append(key)
            continue
        try:
            sent = send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = FAILED
        if sent != size:
            rest.append((key, sent))
    return without, rest


def _send_rest(reader: Reader, batch: FrameBatch, sent: int) -> int:
    sender: Any = reader.transport
    return int(sender.send_rest(batch, sent))


def _send_by_transport(reader: R, batch: FrameBatch, paused: list[tuple[R, int]]) -> None:
    taken = 0
    try:
        taken = reader.transport.send_batch(batch)
    except Exception:  # one bad client never disturbs another
        _log.failure("a message could not be sent to one reader")
    if reader.transport.write_paused:
        paused.append((reader, taken))
