"""A client moves from polling to a WebSocket.

It opens a WebSocket with its session id, and probes it: ``2probe``, answered by ``3probe``. From then on each of its
GETs is answered at once, with a noop if there is nothing else. When none of them is open any more, the client sends
``5``, and from then on everything goes over the WebSocket. Until then nothing but the probe does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from realtime_chat.core.wheel import Wheel
from realtime_chat.engineio.connection import TRANSPORT_CLOSE, Connection
from realtime_chat.engineio.packets import EnginePacket, EnginePacketType
from realtime_chat.engineio.polling import PollingTransport
from realtime_chat.engineio.prepared import PreparedMessage
from realtime_chat.engineio.websocket import WebSocketTransport

_PROBE = b"probe"
_PROBE_ANSWER = PreparedMessage.of_packet(EnginePacketType.PONG, _PROBE)


class Probe:
    """A WebSocket to which a connection may move, until it has moved or the WebSocket is closed.

    :param timeout: seconds for all of it.
    :param ended: called once, with the connection and the outcome: ``upgraded`` or ``failed``.
    """

    __slots__ = ("_connection", "_ended", "_last", "_polling", "_timeout", "_websocket")

    def __init__(
        self,
        connection: Connection,
        polling: PollingTransport,
        websocket: WebSocketTransport,
        wheel: Wheel,
        timeout: float,
        ended: Callable[[Connection, str], object],
    ) -> None:
        self._connection = connection
        self._polling = polling
        self._websocket = websocket
        self._ended = ended
        self._last: tuple[str, Sequence[PreparedMessage]] | None = None
        self._timeout = wheel.call_later(timeout, lambda: self.close(TRANSPORT_CLOSE))
        websocket.listener = connection.probe = self

    def packet_received(self, packet: EnginePacket) -> None:
        """Answer a probe, or upgrade. Anything else ends the attempt, and polling goes on."""
        connection = self._connection
        if connection.is_closed:
            self._end(packet)
        elif packet.type is EnginePacketType.PING and packet.data == _PROBE:
            self._websocket.send((_PROBE_ANSWER,))
            connection.upgrading = True
            self._polling.answer_noop(connection)
        elif packet.type is EnginePacketType.UPGRADE and connection.upgrading:
            self._upgrade()
        else:
            self.close("parse error")

    def _upgrade(self) -> None:
        self._timeout.cancel()
        connection = self._connection
        connection.probe = None
        self._websocket.listener = connection
        connection.upgrade(self._websocket)
        self._ended(connection, "upgraded")

    def connection_closed(self, reason: str, rest: Sequence[PreparedMessage]) -> None:
        """The connection is closed. A client whose probe was answered is told once it has moved.

        The official clients have stopped to poll by then. If the WebSocket were closed before they have moved, they
        would wait for their ping time-out (``_probe`` in ``socket.ts`` of engine.io-client).

        :param rest: what the client should still get.
        """
        if self._connection.upgrading:
            self._last = reason, rest
        else:
            self.close(reason)

    def _end(self, packet: EnginePacket) -> None:
        if packet.type is not EnginePacketType.UPGRADE or self._last is None:
            self.close(TRANSPORT_CLOSE)
            return
        self._timeout.cancel()
        self._connection.probe = None
        self._websocket.end(*self._last)
        self._ended(self._connection, "failed")

    def writable_changed(self) -> None:
        """Send nothing more: only the probe was sent."""

    def close(self, reason: str) -> None:
        """Give the attempt up. Polling goes on."""
        if self._websocket.listener is not self:
            return
        self._timeout.cancel()
        connection = self._connection
        connection.probe, connection.upgrading = None, False
        self._websocket.end(reason)
        self._ended(connection, "failed")
