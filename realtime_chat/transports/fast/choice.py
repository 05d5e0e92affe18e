"""The fast and the plain kind of everything that moves bytes; see :mod:`realtime_chat.transports.fast`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from realtime_chat.transports.backpressure import BackpressuredSender
from realtime_chat.transports.fast import direct_send, plain
from realtime_chat.transports.fast.direct_sender import DirectSender
from realtime_chat.transports.fast.epoll_reader import EpollReader
from realtime_chat.transports.fast.interfaces import SocketReader, WebSocketReceiver
from realtime_chat.transports.fast.open_websocket import OpenWebSocket
from realtime_chat.transports.fast.patient_port import accept_few
from realtime_chat.transports.fast.plain_websocket import AutobahnWebSocket

__all__ = ["FAST", "PLAIN", "SocketIO"]


class SocketIO(NamedTuple):
    """How bytes get to sockets and come from them.

    :param write: ``write(transport, data)`` writes to a transport.
    :param unsent: ``unsent(transport)`` is a number that falls as the peer acknowledges bytes.
    :param make_reader: ``make_reader(reactor)`` makes what reads from connections.
    :param accept_few: ``accept_few(port)`` keeps new connections from delaying those that are open.
    :param sender: the sending half of connections that stay open.
    :param websocket: the receiving half of a WebSocket.
    :param fast_requests: whether our own code reads and answers plain requests; see ``http/fast_channel.py``.
    """

    write: Callable[[Any, bytes], None]
    unsent: Callable[[Any], int]
    make_reader: Callable[[Any], SocketReader]
    accept_few: Callable[[Any], None]
    sender: type[BackpressuredSender]
    websocket: type[WebSocketReceiver]
    fast_requests: bool


FAST = SocketIO(direct_send.write_now, direct_send.unsent, EpollReader, accept_few, DirectSender, OpenWebSocket, True)
PLAIN = SocketIO(
    plain.write,
    plain.unsent,
    plain.ReactorReader,
    plain.accept_as_reactor,
    BackpressuredSender,
    AutobahnWebSocket,
    False,
)
