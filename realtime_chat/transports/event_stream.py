"""One event stream, as the transport of a session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from realtime_chat.core.hub import Hub
from realtime_chat.core.session import Session
from realtime_chat.core.wheel import Timeout
from realtime_chat.http.subscribe_params import SubscribeParams
from realtime_chat.transports.backpressure import BackpressuredSender, abort_when_stalled
from realtime_chat.transports.event_blocks import RoomBatch, RoomFanout, RoomsFanout, chunk, encode_block, identity
from realtime_chat.transports.event_ids import id_writer
from realtime_chat.transports.frames import FrameBatch
from realtime_chat.values import codec
from realtime_chat.values.errors import Goodbye
from realtime_chat.values.model import Position, naming

__all__ = ["Random", "RoomStream", "RoomsStream"]

Random = Callable[[], float]
"""Gives a number from 0 up to 1."""

_HEARTBEAT = b":\n\n"
_POSITION = b'{"type":"position"}'
_RETRY = 1.0
_SPREAD = 2.0
"""Seconds over which the clients that come back are spread."""

_LIFETIME_SPREAD = 0.2
_CLOSE_WAIT = 2.0
_MAX_IGNORED = 64 * 1024


class RoomStream(BackpressuredSender, Protocol):
    """The events of one room. What its client sends is ignored.

    It is *opening* while the start of each room is looked up (:meth:`open_rooms`). :meth:`begin` gives it its
    connection, and makes it *open*: it sends events and heartbeats. It is *closed* by a goodbye, by a client that sends
    too much, or by the loss of the connection.

    :param random: spreads lifetimes and reconnects.
    :param chunked: whether the answer has chunks, as every client of HTTP/1.1 understands them.
    """

    fanouts = (RoomFanout(identity), RoomFanout(chunk))
    session: Session | None = None
    write_paused = True  # until it is open
    _is_open = False
    _is_closed = False
    _ignored = 0
    _timeout: Timeout | None = None

    def __init__(self, hub: Hub, random: Random, chunked: bool) -> None:
        self._hub = hub
        self._random = random
        self.fanout = self.fanouts[chunked]
        self._last_chunk = b"0\r\n\r\n" if chunked else b""
        self._opening: list[bytes] = []
        self._end = inf

    @property
    def hub(self) -> Hub:
        return self._hub

    @property
    def may_send(self) -> bool:
        return self._is_open and not self._is_closed

    # Opening

    async def open_rooms(self, session: Session, params: SubscribeParams) -> None:
        """Find where the reading of each room starts.

        :raises RealtimeError: ``bad_room``, ``forbidden`` or ``store_unavailable``.
        """
        for name, _ in params.rooms:
            with naming(name):
                session.check_readable(name)
        last = session.last(params.last)
        left = self._hub.limits.answer_bytes
        for name, since in params.rooms:
            with naming(name):
                room = await self._hub.room(name)
                start = await room.start(since, last)
            joined = session.enter(room, start, listed=left > 0, resumed=since is not None)
            left -= len(joined)
            self._opening.append(self._encode_placed("joined", joined, name, str(start.position)))

    def begin(self, session: Session, head: bytes, transport: ITransport) -> None:
        """Send the head of the answer, the welcome and where the rooms start, and then the messages."""
        user = session.identify()
        assert session.client is not None
        limits = self._hub.limits
        bounds = limits.heartbeat, limits.max_rooms, limits.max_message
        welcome = codec.encode_welcome(None, session.client, user, *bounds)
        opening = [self._encode_retry(_RETRY), encode_block("welcome", welcome), *self._opening]
        self._opening = []
        self.makeConnection(transport)
        self.write(head + self.fanout.envelope(b"".join(opening)))
        session.catch_up()

    def connectionMade(self) -> None:
        """The connection belongs to the stream now."""
        self.transport.setTcpNoDelay(True)
        self._is_open, self.write_paused = True, False
        self.start_sending()
        self.resume_reading()
        lifetime = self._hub.limits.stream_lifetime
        if lifetime is not None:
            spread = 1 + _LIFETIME_SPREAD * (self._random() - 0.5)
            self._end = self._hub.clock.seconds() + lifetime * spread
        self._schedule_heartbeat()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone, in whatever way."""
        self._close()
        self.direct_send = None
        self.session = None

    def dataReceived(self, data: bytes) -> None:
        """A stream takes no requests. A client that goes on sending is cut off."""
        self._ignored += len(data)
        if self._ignored > _MAX_IGNORED and not self._is_closed:
            self._close()
            self.transport.abortConnection()

    # What the session calls

    def send_event(self, kind: str, data: bytes) -> None:
        """Send an event that stands in no log."""
        if self.may_send:
            self.write(self.fanout.envelope(encode_block(kind, data)))

    def reset(self, room: str, position: Position) -> None:
        """Say that messages are missing, and that delivery goes on after ``position``."""
        reset = self._encode_placed("reset", codec.encode_reset(room, position), room, str(position))
        self.write(self.fanout.envelope(reset))

    def _encode_placed(self, kind: str, data: bytes, room: str, position: str) -> bytes:
        """An event whose id tells the stream's position in a room."""
        return encode_block(kind, data, f"id: {position}")

    def goodbye(self, goodbye: Goodbye) -> None:
        """Say why the stream ends and when to come back, and close the connection."""
        if not self.may_send:
            return
        after = round(goodbye.after + self._random() * _SPREAD, 3)
        event = codec.encode_goodbye(goodbye._replace(after=after))
        last_block = encode_block("goodbye", event, f"retry: {after * 1000:.0f}")
        self.write(self.fanout.envelope(last_block) + self._last_chunk)
        self._close()
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._timeout = self._hub.wheel.call_later(_CLOSE_WAIT, self.transport.abortConnection)

    def _encode_retry(self, seconds: float) -> bytes:
        """After how long the client is to come back if the connection is lost."""
        return b"retry: %d\n" % ((seconds + self._random() * _SPREAD) * 1000)

    def _close(self) -> None:
        self._is_closed = True
        self.stop_stall_timer()
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        if self.session is not None:
            self.session.close()

    # What pausing means: a slow client has more time than one that is gone, and the kernel is told how much

    def pause_reading(self) -> None:
        abort_when_stalled(self.transport, self._hub.limits.stalled_after)

    def resume_reading(self) -> None:
        abort_when_stalled(self.transport, self._hub.limits.tcp_user_timeout)

    # Heartbeats: proxies see that the stream lives, and the kernel finds out whether the client does

    def _schedule_heartbeat(self) -> None:
        seconds = min(self._hub.limits.heartbeat, self._end - self._hub.clock.seconds())
        self._timeout = self._hub.wheel.call_later(seconds, self._send_heartbeat)

    def _send_heartbeat(self) -> None:
        if self._hub.clock.seconds() >= self._end:
            if self.session is not None:
                self.session.dismiss("expired")
            return
        if not self.write_paused:
            self.write(self.fanout.envelope(_HEARTBEAT))
        self._schedule_heartbeat()


class RoomsStream(RoomStream):
    """The events of several rooms. The last message of each write has an id with all positions.

    :param rooms: their names, in the order of the URL.
    """

    fanouts = (RoomsFanout(identity), RoomsFanout(chunk))

    def __init__(self, hub: Hub, random: Random, chunked: bool, rooms: Sequence[str]) -> None:
        super().__init__(hub, random, chunked)
        self._positions = dict.fromkeys(rooms, "")
        self._write_id = id_writer(rooms)

    def send_batch(self, batch: FrameBatch) -> int:
        """Send messages of one room, with an id on the last one."""
        if not isinstance(batch, RoomBatch):
            return super().send_batch(batch)
        before = self._positions[batch.room]
        taken = super().send_batch(batch.with_id(self._id_at(batch.room, batch.position(batch.count))))
        if not taken:
            self._positions[batch.room] = before
        elif taken < batch.count:  # only the last message had an id
            id = self._id_at(batch.room, batch.position(taken))
            self.transport.write(self.fanout.envelope(encode_block("position", _POSITION, f"id: {id}")))
        return taken

    def _encode_placed(self, kind: str, data: bytes, room: str, position: str) -> bytes:
        return encode_block(kind, data, f"id: {self._id_at(room, position)}")

    def _id_at(self, room: str, position: str) -> str:
        """The id with all positions, after one of them has changed."""
        self._positions[room] = position
        return self._write_id(self._positions)
