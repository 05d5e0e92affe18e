"""Finding out whether a WebSocket's client is still there."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from realtime_chat.transports.backpressure import BackpressuredSender

_MIN_RATE = 500
"""Bytes a second at which a begun message has to go on, as bodies do over HTTP."""

_MUCH = 4096
"""Bytes before a ping for which a client may need more time than for the ping itself."""


class _Progress(NamedTuple):
    """How far the client's messages had come at a ping.

    :param messages: how many were begun.
    :param size: bytes of the last one.
    """

    messages: int
    size: int
    time: float


class Keepalive(BackpressuredSender):
    """Pings the client, and dismisses it as ``silent`` if it doesn't answer.

    *Waiting* for the next ping, for ``limits.ping`` seconds. Then the ping is sent, and it is *expecting* an answer for
    ``limits.pong`` seconds. Anything that is received is an answer. A client that is still taking what was sent before
    the ping is expected to take some of it within ``limits.stalled_after`` seconds, each time.

    A message that was begun has to go on at some rate. Otherwise half a message, behind which no pong can come, would
    keep a connection alive.
    """

    _is_reading_deferred = False
    _received_since_ping = True
    _pings = 0
    _messages_begun = 0
    _message_size = 0
    _progress: _Progress | None = None

    # What a protocol adds

    inside_message: bool
    sendPing: Callable[[], None]  # noqa: N815

    def schedule_ping(self) -> None:
        """Ping in a while."""
        self._timeout = self.hub.wheel.call_within(self.hub.limits.ping, self._ping)

    def _ping(self) -> None:
        if (self.inside_message or self._progress) and not self._has_progressed():
            self.dismiss("silent")
            return
        self._pings = 0
        self._received_since_ping = False
        ahead, acknowledged = self.unsent(), self.acknowledged_bytes()
        if not self.write_paused:
            self.sendPing()
        patience = self.hub.limits.stalled_after if ahead > _MUCH else 0
        self._await_pong(acknowledged, acknowledged + ahead, patience)

    def _has_progressed(self) -> bool:
        """Whether a message that was begun before the last ping has gone on since, as far as anything was read."""
        before, self._progress = self._progress, None
        if self.write_paused or self._is_reading_deferred or not self.inside_message:
            return True
        now = self.hub.clock.seconds()
        self._progress = _Progress(self._messages_begun, self._message_size, now)
        if before is None or before.messages != self._messages_begun:
            return True
        return self._message_size - before.size >= _MIN_RATE * (now - before.time)

    def _await_pong(self, acknowledged: int, ping_at: int, patience: float) -> None:
        """Expect an answer soon.

        :param acknowledged: bytes that the client has acknowledged.
        :param ping_at: how many it has acknowledged once it has all that was sent before the ping.
        :param patience: seconds for which it may acknowledge nothing of that.
        """
        pong = self.hub.limits.pong
        self._timeout = self.hub.wheel.call_later(
            pong, lambda: self._check_pong(acknowledged, ping_at, patience - pong)
        )

    def _check_pong(self, before: int, ping_at: int, patience: float) -> None:
        acknowledged = min(self.acknowledged_bytes(), ping_at)
        if self._received_since_ping or self.write_paused or self._is_reading_deferred:
            self.schedule_ping()
        elif acknowledged > before and patience > -self.hub.limits.pong:  # that was awaited until now
            self._await_pong(acknowledged, ping_at, self.hub.limits.stalled_after)
        elif patience > 0:
            self._await_pong(before, ping_at, patience)
        else:
            self.dismiss("silent")
