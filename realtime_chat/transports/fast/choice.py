"""The fast and the plain kind of everything that moves bytes; see :mod:`realtime_chat.transports.fast`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

from realtime_chat.transports.backpressure import BackpressuredSender
from realtime_chat.transports.fast import direct_send, plain
from realtime_chat.transports.fast.epoll_reader import EpollReader, accept_few
from realtime_chat.transports.fast.open_websocket import OpenWebSocket
from realtime_chat.transports.handshake import Upgrade


class SocketReader(Protocol):
    """Reads from connections."""

    def adopt(self, transport: Any) -> None:
        """Read from a connection from now on."""

    def close(self) -> None:
        """Leave reading from the connections that are still open to the reactor."""


class WebSocketReceiver(Protocol):
    """The receiving half of a WebSocket; Autobahn's ``WebSocketServerProtocol`` is its base.

    :cvar OPTIONS: options of its factory (``setProtocolOptions``).
    """

    OPTIONS: ClassVar[Mapping[str, Any]]

    @staticmethod
    def class_attributes(factory: Any, longest: int) -> dict[str, Any]:
        """What is the same for all connections of a factory, to be attributes of their class.

        :param longest: bytes of the longest message.
        """

    def answer_handshake(self, upgrade: Upgrade) -> None:
        """Answer a request that was checked. If compression is agreed on, call ``compress()``."""

    def process(self, data: bytes) -> None:
        """Read the frames in a piece of data, until ``has_to_wait()`` is true. What is left stays in ``data``."""

    def text_received(self, text: bytes) -> None:
        """Give a whole text message to the session. Invalid UTF-8 fails the connection (RFC 6455, section 8.1)."""


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


FAST = SocketIO(
    direct_send.write_now,
    direct_send.unsent,
    EpollReader,
    accept_few,
    direct_send.DirectSender,
    OpenWebSocket,
    fast_requests=True,
)
PLAIN = SocketIO(
    plain.write,
    plain.unsent,
    plain.ReactorReader,
    plain.accept_as_reactor,
    BackpressuredSender,
    plain.AutobahnWebSocket,
    fast_requests=False,
)
