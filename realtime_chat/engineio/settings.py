"""What an operator chooses for Engine.IO."""

from __future__ import annotations

import attrs


@attrs.frozen
class Settings:
    """The settings of one Engine.IO resource. Times are in seconds, sizes in bytes.

    :ivar ping_interval: time between two pings: of the server in protocol 4, of the client in protocol 3.
    :ivar ping_timeout: time in which a ping must be answered, or in protocol 3 may be late.
    :ivar max_payload: the largest message or body.
    :ivar max_queued: messages that may wait for one client; a client for whom more waits is closed as ``slow``.
    :ivar max_connections: how many connections may be open, those without a TCP connection included.
    :ivar upgrade_timeout: time from a WebSocket's opening until the client has moved to it.
    :ivar close_timeout: time for which a client that is between two polls may get what was sent before the close.
    :ivar connect_timeout: time in which a Socket.IO client must connect to a namespace.
    :ivar eio3: whether clients of protocol 3 are accepted.
    :ivar jsonp: whether polls may be answered by scripts (JSONP).
    """

    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    max_payload: int = 65536
    max_queued: int = 1024 * 1024
    max_connections: int = 100_000
    upgrade_timeout: float = 10.0
    close_timeout: float = 10.0
    connect_timeout: float = 45.0
    eio3: bool = False
    jsonp: bool = False
