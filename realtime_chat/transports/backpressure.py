"""What goes out on one connection: to its socket at once, and no further than the socket takes it.

Shared by the transports whose connection stays open, WebSocket and server-sent events. What the socket doesn't take
makes the connection full: nothing is queued for it, its session is left behind, and brought what it lacks from the log
when the socket has drained.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from realtime_chat.core.hub import Hub
from realtime_chat.core.session import Session
from realtime_chat.core.wheel import Stall
from realtime_chat.transports.fast.direct_send import (
    FAILED,
    Frames,
    Send,
    acknowledged_bytes,
    direct_send,
    finish_frame,
    queued,
    try_send,
)

__all__ = ["BackpressuredSender"]

_NOTHING: list[bytes] = []
"""What all that hold nothing share; nothing is put into it."""


@implementer(IPushProducer)
class BackpressuredSender:
    """The sending half of a protocol that is the transport of a session.

    It is its own Twisted transport's producer, which tells it that the socket has drained. While it isn't full, nothing
    is queued on its transport, and the fan-out may send to its socket.

    :ivar direct_send: sends to the socket past the transport; None where that can't be done.
    :ivar write_paused: whether the socket has taken less than it was given, and has not drained since.
    """

    transport: Any
    session: Session | None
    direct_send: Send | None
    write_paused: bool
    _held: list[bytes] = _NOTHING
    _slow: Stall | None

    # What a protocol adds

    @property
    def hub(self) -> Hub:
        """Whose clock, wheel and limits count."""
        raise NotImplementedError

    @property
    def may_send(self) -> bool:
        """Whether nobody has said yet that the connection ends."""
        raise NotImplementedError

    def stop_reading(self) -> None:
        """It has become full."""
        raise NotImplementedError

    def read_on(self) -> None:
        """It has drained, and perhaps work was done since."""
        raise NotImplementedError

    # Sending

    def open_outlet(self) -> None:
        """The connection is there: be its producer."""
        self.direct_send = direct_send(self.transport)
        # A pull producer is told each time that the transport has drained, a push producer only after a pause. Over
        # TLS a pull producer would be asked on every turn.
        self.transport.registerProducer(self, self.direct_send is None)

    @property
    def queued(self) -> int:
        """Bytes that wait in this process for the client to read."""
        return queued(self.transport)

    def put(self, data: bytes) -> None:
        """Send bytes that are no message, in order with everything else."""
        if self._held:
            data = self._with_held(data)
        if self.direct_send is None or self.write_paused:
            self.transport.write(data)
            return
        sent = max(0, try_send(self.direct_send, data))
        if sent < len(data):
            self.transport.write(data[sent:])
            self._become_full()

    def send_batch(self, batch: Frames) -> int:
        """Send messages; answer how many were taken. Fewer than all of them means that it is full now."""
        if self.write_paused or not self.may_send:
            return 0
        data = self._with_held(batch.data) if self._held else batch.data
        if self.direct_send is None:
            self.transport.write(data)
            return batch.count
        sent = try_send(self.direct_send, data)
        if sent == len(data):
            return batch.count
        held = len(data) - len(batch.data)
        if sent < held:
            self.transport.write(data[max(0, sent) : held])
        return self.send_rest(batch, max(0, sent - held) if held else sent)

    def buffer_reply(self, data: bytes) -> None:
        """Keep bytes for the next that are sent."""
        if self._held:
            self._held.append(data)
        else:
            self._held = [data]

    def _with_held(self, data: bytes) -> bytes:
        held, self._held = self._held, _NOTHING
        return b"".join((*held, data))

    def flush_replies(self) -> None:
        """Send what is held, unless the connection ends."""
        if self._held and self.may_send:
            self.put(b"")

    def send_rest(self, batch: Frames, sent: int) -> int:
        """The socket took only so many bytes of a batch: finish the frame that was begun, and be full.

        :param sent: the bytes, or :data:`~realtime_chat.transports.fast.direct_send.FAILED`.
        :returns: how many messages are on their way.
        """
        taken = 0
        if sent == FAILED:
            # The socket may say that it can be written to all the while: wait, or we would try without a pause.
            self.hub.wheel.call_later(self.hub.limits.resend, self._try_again)
        elif self.direct_send is not None:
            taken = finish_frame(self.transport, batch, sent)
        self._become_full()
        return taken

    def _try_again(self) -> None:
        if self.direct_send is not None:
            self.transport.startWriting()

    # What the Twisted transport tells, of which this is the producer

    def pauseProducing(self) -> None:
        """The transport has more than it wants to have."""
        self._become_full()

    def resumeProducing(self) -> None:
        """The transport has given everything to the socket."""
        if not self.write_paused:
            return
        self.write_paused = False
        self.stop_watching()
        self.read_on()
        # In the next turn but one: what the client has sent meanwhile is read before the socket is filled again, or a
        # slow reader of a busy room could never leave it.
        clock = self.hub.clock
        clock.callLater(0, clock.callLater, 0, self._drained)

    def _drained(self) -> None:
        if self.session is not None and not self.write_paused:
            self.session.resume_writing()
            self.read_on()

    def stopProducing(self) -> None:
        """The connection is lost; ``connectionLost`` says so, too."""

    # Full, and perhaps for too long

    def _become_full(self) -> None:
        if self.write_paused:
            return
        self.write_paused = True
        if self.session is not None:
            self.session.pause_writing()
        self.stop_reading()
        self._slow = Stall(
            self.hub.wheel, self.hub.limits.stalled_after, lambda: -acknowledged_bytes(self.transport), self._stalled
        )

    def _stalled(self) -> None:
        """It doesn't drain at all."""
        if self.session is not None:
            self.session.dismiss("slow")

    def stop_watching(self) -> None:
        """It is full no more, or over."""
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
