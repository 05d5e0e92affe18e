"""All Engine.IO connections of one resource, and what is counted of them."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator

from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import NOBODY
from realtime_chat.core.rate_limiter import ONE_CONNECT, Usage
from realtime_chat.engineio.connection import Connection
from realtime_chat.engineio.settings import Settings
from realtime_chat.values.errors import RealtimeError

_SID_BYTES = 15


class Connections:
    """The connections by their session ids. To the hub they are one connection, which it dismisses when it stops.

    :param random_bytes: so many random bytes.
    """

    transport = None

    def __init__(self, hub: Hub, settings: Settings, random_bytes: Callable[[int], bytes]) -> None:
        self._hub = hub
        self._settings = settings
        self._random_bytes = random_bytes
        self._by_sid: dict[str, Connection] = {}
        self._usages: dict[Connection, Usage] = {}
        self._counters = hub.counters
        hub.sessions[self] = None

    def __len__(self) -> int:
        return len(self._by_sid)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._by_sid.values()))

    def get(self, sid: str) -> Connection | None:
        """The connection with a session id, which may be closed and wait for its client's last poll."""
        return self._by_sid.get(sid)

    def new_sid(self) -> str:
        """A session id that nobody can guess."""
        return urlsafe_b64encode(self._random_bytes(_SID_BYTES)).decode()

    def check_capacity(self) -> None:
        """Check that one more connection may be opened.

        :raises RealtimeError: ``too_many`` or ``stopping``.
        """
        self._hub.check_open()
        if len(self) >= self._settings.max_connections:
            raise RealtimeError("too_many", "too many Engine.IO connections are open; come back in a while")

    def count_polling(self, address: str | None) -> Usage | None:
        """Count a connection that begins by polling for its address, as it has no TCP connection that is counted.

        :returns: the usage, for :meth:`add`.
        :raises RealtimeError: ``rate_limited`` or ``too_many``.
        """
        if address is None:
            return None
        self._hub.limiter.draw(NOBODY, address, ONE_CONNECT)
        return self._hub.limiter.admit(address, "connections")

    def add(self, connection: Connection, usage: Usage | None = None) -> None:
        """Add a new connection.

        :param usage: what it counts for, until it has a WebSocket or is closed.
        """
        self._by_sid[connection.sid] = connection
        self._count_open(connection, 1)
        if usage is not None:
            self._usages[connection] = usage

    def _count_open(self, connection: Connection, more: int) -> None:
        self._counters.engineio_connections[connection.transport_name, str(connection.version)] += more

    def count_refusal(self, code: int) -> None:
        """Count a request that was refused."""
        self._counters.engineio_refused[str(code)] += 1

    def on_probed(self, connection: Connection, outcome: str) -> None:
        """Count an attempt to go on over a WebSocket. The WebSocket of an upgraded connection counts for its address.

        :param outcome: ``upgraded`` or ``failed``.
        """
        self._counters.engineio_upgrades[outcome] += 1
        if outcome == "upgraded":
            self._counters.engineio_connections["polling", str(connection.version)] -= 1
            self._count_open(connection, 1)
            self._release(connection)

    def on_closed(self, connection: Connection, reason: str) -> None:
        """Count a connection that was closed."""
        self._counters.engineio_closed[reason] += 1
        self._count_open(connection, -1)
        self._release(connection)

    def _release(self, connection: Connection) -> None:
        usage = self._usages.pop(connection, None)
        if usage is not None:
            self._hub.limiter.close(usage, "connections")

    def forget(self, connection: Connection) -> None:
        """Remove a closed connection."""
        self._by_sid.pop(connection.sid, None)

    # What the hub calls

    def dismiss(self, reason: str) -> None:
        """Close all, as the daemon stops."""
        for connection in self:
            connection.close("server shutting down")

    def renew_rights(self) -> None:
        """Do nothing: connections have no rights."""
