"""One message to many connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.logger import Logger

from realtime_chat.engineio.connection import Connection
from realtime_chat.engineio.prepared import FrameEncoding, PreparedMessage
from realtime_chat.transports.backpressure import Send
from realtime_chat.transports.fast.direct_send import send_to_sockets

_log = Logger()


def send_to_all(message: PreparedMessage, connections: Iterable[Connection], volatile: bool = False) -> None:
    """Send a message to each connection, as :meth:`Connection.send` does. A connection that fails disturbs no other.

    :param volatile: see :meth:`Connection.send`.
    """
    sends: dict[FrameEncoding, dict[Connection, Send]] = {}
    others: list[Connection] = []
    for connection in connections:
        direct = connection.direct
        if direct is None:
            others.append(connection)
        elif direct[0] in sends:
            sends[direct[0]][connection] = direct[1]
        else:
            sends[direct[0]] = {connection: direct[1]}
    for encoding, to in sends.items():
        for connection, sent in send_to_sockets(message.encode(encoding), to)[1]:
            _attempt(connection.send_rest, message, sent, volatile)
    for connection in others:
        _attempt(connection.send, message, volatile)


def _attempt(send: Callable[..., object], *arguments: Any) -> None:
    try:
        send(*arguments)
    except Exception:
        _log.failure("a message could not be sent to one Engine.IO connection")
