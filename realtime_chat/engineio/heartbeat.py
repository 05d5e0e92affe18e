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


class Pings:
    """What both versions have in common: a deadline for the client's next sign of life.

    :param expire: called once the client has been silent for too long.
    """

    __slots__ = ("_due", "_expire", "_settings", "_timeout", "_wheel")

    def __init__(self, settings: Settings, wheel: Wheel, expire: Callable[[], object]) -> None:
        self._settings = settings
        self._wheel = wheel
        self._expire = expire
        self._timeout: Timeout | None = None
        self.received()

    def received(self) -> None:
        """The client has shown that it is there."""
        if self._timeout is not None:
            self._timeout.cancel()
        patience = self._settings.ping_interval + self._settings.ping_timeout
        self._due = self._wheel.seconds() + patience
        self._timeout = self._wait(patience)

    def _wait(self, patience: float) -> Timeout:
        return self._wheel.call_later(patience, self._expire)

    def is_over(self) -> bool:
        """Whether the client has been silent for too long."""
        return self._wheel.seconds() >= self._due

    def stop(self) -> None:
        """Wait no more, and refer to nobody any more."""
        if self._timeout is not None:
            self._timeout.cancel()
        self._expire = _nothing


class ClientPings(Pings):
    """The heartbeat of version 3: the client pings, and the server answers."""

    __slots__ = ()


class ServerPings(Pings):
    """The heartbeat of version 4: the server pings, and the client answers.

    :param ping: sends a ping; returns False if the client can't be pinged now, as it reads too slowly.
    """

    __slots__ = ("_ping",)

    def __init__(
        self, settings: Settings, wheel: Wheel, ping: Callable[[], bool], expire: Callable[[], object]
    ) -> None:
        self._ping = ping
        super().__init__(settings, wheel, expire)

    def _wait(self, patience: float) -> Timeout:
        return self._wheel.call_within(self._settings.ping_interval, self._send_ping)  # late, the client might give up

    def _send_ping(self) -> None:
        if not self._ping():
            self.received()
            return
        now = self._wheel.seconds()
        self._due = max(self._due, now + self._settings.ping_timeout)
        self._timeout = self._wheel.call_later(self._due - now, self._expire)

    def stop(self) -> None:
        """Ping no more, and refer to nobody any more."""
        super().stop()
        self._ping = _no_ping
