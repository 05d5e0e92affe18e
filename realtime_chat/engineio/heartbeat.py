"""Finding out whether an Engine.IO client is still there.

Deadlines run on the wheel, which is up to half a second late. So who asks at a moment, such as a request that has come,
is answered by the clock (``is_over``).
"""

from __future__ import annotations

from collections.abc import Callable

from realtime_chat.core.wheel import Timeout, Wheel
from realtime_chat.engineio.settings import Settings


def _nothing() -> None:
    pass


def _no_ping() -> bool:
    return False


class ServerPings:
    """The heartbeat of version 4: the server pings, and the client answers.

    :param ping: sends a ping; returns False if the client can't be pinged now, as it reads too slowly.
    :param expire: called once the client has been silent for too long.
    """

    __slots__ = ("_due", "_expire", "_ping", "_settings", "_timeout", "_wheel")

    def __init__(
        self, settings: Settings, wheel: Wheel, ping: Callable[[], bool], expire: Callable[[], object]
    ) -> None:
        self._settings = settings
        self._wheel = wheel
        self._ping = ping
        self._expire = expire
        self._timeout: Timeout | None = None
        self._schedule()

    def _schedule(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
        interval = self._settings.ping_interval
        self._due = self._wheel.seconds() + interval + self._settings.ping_timeout
        self._timeout = self._wheel.call_within(interval, self._send_ping)  # late, the client might give up

    def _send_ping(self) -> None:
        if not self._ping():
            self._schedule()
            return
        now = self._wheel.seconds()
        self._due = max(self._due, now + self._settings.ping_timeout)
        self._timeout = self._wheel.call_later(self._due - now, self._expire)

    def received(self) -> None:
        """The client has answered a ping."""
        self._schedule()

    def is_over(self) -> bool:
        """Whether a ping was due so long ago that its answer is overdue."""
        return self._wheel.seconds() >= self._due

    def stop(self) -> None:
        """Ping no more, and refer to nobody any more."""
        if self._timeout is not None:
            self._timeout.cancel()
        self._ping, self._expire = _no_ping, _nothing


class ClientPings:
    """The heartbeat of version 3: the client pings, and the server answers.

    :param expire: called once the client has been silent for too long.
    """

    __slots__ = ("_due", "_expire", "_patience", "_timeout", "_wheel")

    def __init__(self, settings: Settings, wheel: Wheel, expire: Callable[[], object]) -> None:
        self._patience = settings.ping_interval + settings.ping_timeout
        self._wheel = wheel
        self._expire = expire
        self._timeout: Timeout | None = None
        self.received()

    def received(self) -> None:
        """The client has pinged."""
        if self._timeout is not None:
            self._timeout.cancel()
        self._due = self._wheel.seconds() + self._patience
        self._timeout = self._wheel.call_later(self._patience, self._expire)

    def is_over(self) -> bool:
        """Whether the next ping is overdue."""
        return self._wheel.seconds() >= self._due

    def stop(self) -> None:
        """Expect no more pings, and refer to nobody any more."""
        if self._timeout is not None:
            self._timeout.cancel()
        self._expire = _nothing
