"""A :class:`BackpressuredSender` that sends to its socket without the transport in between.

What this gives, and on which names of Twisted it leans, stands in
:mod:`~realtime_chat.transports.fast.direct_send`.
"""

from __future__ import annotations

from realtime_chat.transports.backpressure import BackpressuredSender
from realtime_chat.transports.batches import FrameBatch
from realtime_chat.transports.fast.direct_send import (
    FAILED,
    direct_send,
    finish_frame,
    queued,
    try_send,
    unsent,
)

__all__ = ["LEANS_ON", "DirectSender"]

LEANS_ON = ("twisted.internet.tcp:Server.startWriting",)
"""What is used of Twisted beyond its documented interfaces."""


class DirectSender(BackpressuredSender):
    """Sends to the socket. What the socket doesn't take pauses writing.

    While writing isn't paused, nothing is queued on the transport, so that the fan-out may send to the socket, too.
    Over TLS, and where a transport isn't known, ``direct_send`` is None, and everything is written to the transport.
    """

    def start_sending(self) -> None:
        self.direct_send = direct_send(self.transport)
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

        :param sent: how many bytes were taken, or :data:`~realtime_chat.transports.fast.direct_send.FAILED`.
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
