"""Sending on a connection that stays open, no further than its client reads.

WebSocket and server-sent events share this. When the socket takes no more, writing is paused: no more messages are
queued for the client, and its session falls behind. When the socket has drained, the session reads what is missing from
the log.

What the kernel knows of a connection, and may be told about it, is documented in tcp(7).
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from realtime_chat.core.hub import Hub
from realtime_chat.core.wheel import Stall, Timeout
from realtime_chat.transports.frames import FrameBatch
from realtime_chat.transports.sessions import SendingSession

Send = Callable[[bytes], int]
"""Gives bytes to a socket, and returns how many bytes the socket took."""

_ACKED_AT = 120
"""Where ``tcpi_bytes_acked`` stands in ``struct tcp_info`` (linux/tcp.h)."""

_NO_REPLIES: list[bytes] = []
"""Shared by all connections without buffered replies; nothing is ever added to it."""


@implementer(IPushProducer)
class BackpressuredSender:
    """The sending half of a protocol that is the sink of a session.

    It is the producer of its own Twisted transport, which so tells when it has too much and when it has drained. A
    subclass, :class:`~realtime_chat.transports.fast.direct_send.DirectSender`, sends to the socket itself.

    :cvar hub: the hub, whose clock, wheel and limits count.
    :ivar direct_send: what the fan-out may send by without the transport; None where it may not.
    :ivar write_paused: whether the transport or the socket has too much, and has not drained since.
    """

    hub: Hub

    transport: Any
    session: SendingSession | None
    direct_send: Send | None = None
    on_caught_up: ClassVar[None] = None
    write_paused: bool
    _replies: list[bytes] = _NO_REPLIES
    _stall: Stall | None = None
    _timeout: Timeout | None = None

    # What a protocol adds

    @property
    def may_send(self) -> bool:
        """Whether neither side has said yet that it closes the connection."""
        raise NotImplementedError

    def pause_reading(self) -> None:
        """Writing is paused now."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """Writing has been resumed, or the session has done some work since."""
        raise NotImplementedError

    # Sending

    def start_sending(self) -> None:
        """Become the transport's producer; called when the connection is made."""
        self.transport.registerProducer(self, True)

    @property
    def queued(self) -> int:
        """Bytes that wait in this process for the client to read; 0 where that can't be told."""
        return 0

    def unsent(self) -> int:
        """Bytes that were sent and not yet acknowledged by the client, as far as can be told."""
        return in_kernel(self.transport)

    def acknowledged_bytes(self) -> int:
        """A number that grows by one with each byte that the client acknowledges.

        It counts all acknowledged bytes where the kernel tells that. Otherwise it is minus the unacknowledged ones.
        """
        count = acknowledged(self.transport)
        return -self.unsent() if count is None else count

    def write(self, data: bytes) -> None:
        """Send bytes that are no message, in order with everything else."""
        self.transport.write(self._with_replies(data) if self._replies else data)

    def send_batch(self, batch: FrameBatch) -> int:
        """Send messages.

        :returns: how many were taken. If not all were, writing is paused now.
        """
        if self.write_paused or not self.may_send:
            return 0
        self.transport.write(self._with_replies(batch.data) if self._replies else batch.data)
        return batch.count

    def buffer_reply(self, data: bytes) -> None:
        """Keep a reply, and send it together with what is sent next."""
        if self._replies:
            self._replies.append(data)
        else:
            self._replies = [data]

    def _with_replies(self, data: bytes) -> bytes:
        replies, self._replies = self._replies, _NO_REPLIES
        return b"".join((*replies, data))

    def flush_replies(self) -> None:
        """Send the buffered replies, unless the connection is closing."""
        if self._replies and self.may_send:
            self.write(b"")

    # What the Twisted transport calls, whose producer this is

    def pauseProducing(self) -> None:
        """The transport has more than it wants."""
        self._pause_writing()

    def resumeProducing(self) -> None:
        """The transport has given everything to the socket."""
        if not self.write_paused:
            return
        self.write_paused = False
        self._stop_stall_timer()
        self.resume_reading()
        # In the next turn but one: what the client has sent meanwhile is read before the socket is filled again.
        # Otherwise a slow reader could never leave a busy room.
        clock = self.hub.clock
        clock.callLater(0, clock.callLater, 0, self._resume_session)

    def _resume_session(self) -> None:
        if self.session is not None and not self.write_paused:
            self.session.resume_writing()
            if not self.write_paused:  # what the session had to send may have filled the socket again
                self.resume_reading()

    def stopProducing(self) -> None:
        """The connection is lost; ``connectionLost`` is called, too."""

    # While writing is paused, and at the end

    def _pause_writing(self) -> None:
        if self.write_paused:
            return
        self.write_paused = True
        if self.session is not None:
            self.session.pause_writing()
        self.pause_reading()
        self._stall = Stall(
            self.hub.wheel,
            self.hub.limits.stalled_after,
            lambda: -self.acknowledged_bytes(),
            lambda: self.dismiss("slow"),
        )

    def dismiss(self, reason: str) -> None:
        """End the session for one of the reasons in :data:`~realtime_chat.values.errors.GOODBYES`."""
        if self.session is not None:
            self.session.dismiss(reason)

    def stop_timers(self) -> None:
        """The connection is closing, or closed."""
        self._stop_stall_timer()
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    def _stop_stall_timer(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def in_kernel(transport: Any) -> int:
    """Bytes that the kernel holds because the peer has not acknowledged them; 0 where that can't be told.

    A TLS transport has the attributes of the transport below it, whose socket holds the bytes.
    """
    try:
        answer = fcntl.ioctl(transport.socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (AttributeError, OSError):
        return 0
    return int(struct.unpack("i", answer)[0])


def acknowledged(transport: Any) -> int | None:
    """How many bytes the peer has acknowledged in all (``TCP_INFO``); None where the kernel doesn't tell."""
    try:
        information = transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + 8)
        return int(struct.unpack_from("Q", information, _ACKED_AT)[0])
    except (AttributeError, OSError, struct.error):
        return None


def abort_when_stalled(transport: Any, seconds: float) -> None:
    """Let the kernel end a connection whose peer acknowledges nothing for ``seconds``, where the kernel can
    (``TCP_USER_TIMEOUT``, RFC 5482)."""
    connection, option = getattr(transport, "socket", None), getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and isinstance(connection, socket.socket):
        with suppress(OSError):  # the connection is gone, or is not TCP
            connection.setsockopt(socket.IPPROTO_TCP, option, int(seconds * 1000))
