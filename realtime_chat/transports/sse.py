"""Server-sent events: a log that is read over one answer that doesn't end (WHATWG HTML, section 9.2).

The connection is taken over from HTTP, as for a WebSocket, and the answer ends with it. So the same bytes go to the
sockets of all who read one room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import attrs
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import NOBODY, Identity
from realtime_chat.core.rate_limiter import ONE_CONNECT
from realtime_chat.core.session import Session
from realtime_chat.http.answers import TAKEN_OVER, Answer, JSONResource, is_gone
from realtime_chat.http.clients import address_of, costs_of, find_identity, is_readable, new_guest, take
from realtime_chat.http.request import RealtimeRequest
from realtime_chat.http.subscribe_params import SubscribeParams, check_rooms, read_subscribe_params
from realtime_chat.transports.backpressure import BackpressuredSender, abort_when_stalled
from realtime_chat.transports.event_blocks import (
    RoomBatch,
    RoomFanout,
    RoomsFanout,
    check_id_length,
    chunk,
    encode_block,
    id_writer,
    identity,
    read_id,
)
from realtime_chat.transports.fast.choice import FAST, SocketIO
from realtime_chat.transports.frames import FrameBatch
from realtime_chat.values import codec
from realtime_chat.values.access import READ
from realtime_chat.values.errors import Goodbye, RealtimeError
from realtime_chat.values.model import Position, naming, properties_log

_HEADERS = (
    (b"Content-Type", b"text/event-stream"),
    (b"Cache-Control", b"no-store"),
    (b"X-Accel-Buffering", b"no"),
    (b"Connection", b"close"),
)

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

    :param chunked: whether the answer has chunks, as every client of HTTP/1.1 understands them.
    :cvar random: gives a number from 0 up to 1, which spreads lifetimes and reconnects.
    """

    random: Callable[[], float]

    fanouts = (RoomFanout(identity), RoomFanout(chunk))
    session: Session | None = None
    write_paused = True  # until it is open
    may_send = False
    _ignored = 0

    def __init__(self, chunked: bool) -> None:
        self.fanout = self.fanouts[chunked]
        self._last_chunk = b"0\r\n\r\n" if chunked else b""
        self._opening: list[bytes] = []
        self._end = inf

    # Opening

    async def open_rooms(self, session: Session, params: SubscribeParams) -> None:
        """Find where the reading of each room starts.

        :raises RealtimeError: ``bad_room``, ``forbidden`` or ``store_unavailable``.
        """
        for name, _ in params.rooms:
            with naming(name):
                session.check_right(name, READ)
        last = session.last(params.last)
        left = self.hub.limits.answer_bytes
        for index, (name, since) in enumerate(params.rooms):
            after = params.properties_of(index)
            with naming(name):
                room, start, log = await self.hub.start_reading(name, since, last, after)
            properties = None if log is None else (log, after)
            joined = session.enter(room, start, listed=left > 0, resumed=since is not None, properties=properties)
            left -= len(joined)
            if log is not None:
                self.note_position(session, log.name)
            self._opening.append(self._encode_placed("joined", joined, name, str(start.position)))

    def note_position(self, session: Session, log: str) -> None:
        """Note where a stream of several logs starts in one of them."""

    def begin(self, session: Session, head: bytes, transport: ITransport) -> None:
        """Send the head of the answer, the welcome and where the rooms start, and then the messages."""
        welcome = self.hub.welcome(None, session.identify(), self.hub.limits.heartbeat)
        retry = b"retry: %d\n" % ((_RETRY + self.random() * _SPREAD) * 1000)
        opening = [retry, encode_block("welcome", welcome), *self._opening]
        self._opening = []
        self.makeConnection(transport)
        self.write(head + self.fanout.envelope(b"".join(opening)))
        session.delivery.pump()

    def connectionMade(self) -> None:
        """The connection is taken over from HTTP."""
        self.transport.setTcpNoDelay(True)
        self.may_send, self.write_paused = True, False
        self.start_sending()
        self.resume_reading()
        lifetime = self.hub.limits.stream_lifetime
        if lifetime is not None:
            spread = 1 + _LIFETIME_SPREAD * (self.random() - 0.5)
            self._end = self.hub.clock.seconds() + lifetime * spread
        self._schedule_heartbeat()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone, in whatever way."""
        self._close()
        self.direct_send = None
        self.session = None

    def dataReceived(self, data: bytes) -> None:
        """A stream takes no requests. A client that goes on sending is cut off."""
        self._ignored += len(data)
        if self._ignored > _MAX_IGNORED and self.may_send:
            self._close()
            self.transport.abortConnection()

    # What the session calls

    def send_event(self, kind: str, data: bytes) -> None:
        """Send an event that stands in no log."""
        block = encode_block(kind, data)
        if self.may_send:
            self.write(self.fanout.envelope(block))
        else:
            self._opening.append(block)

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
        after = round(goodbye.after + self.random() * _SPREAD, 3)
        event = codec.encode_goodbye(goodbye._replace(after=after))
        last_block = encode_block("goodbye", event, f"retry: {after * 1000:.0f}")
        self.write(self.fanout.envelope(last_block) + self._last_chunk)
        self._close()
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._timeout = self.hub.wheel.call_later(_CLOSE_WAIT, self.transport.abortConnection)

    def _close(self) -> None:
        self.may_send = False
        self.stop_timers()
        if self.session is not None:
            self.session.close()

    # What pausing means: a slow client has more time than one that is gone, and the kernel is told how much

    def pause_reading(self) -> None:
        abort_when_stalled(self.transport, self.hub.limits.stalled_after)

    def resume_reading(self) -> None:
        abort_when_stalled(self.transport, self.hub.limits.tcp_user_timeout)

    # Heartbeats: proxies see that the stream lives, and the kernel finds out whether the client does

    def _schedule_heartbeat(self) -> None:
        seconds = min(self.hub.limits.heartbeat, self._end - self.hub.clock.seconds())
        self._timeout = self.hub.wheel.call_later(seconds, self._send_heartbeat)

    def _send_heartbeat(self) -> None:
        if self.hub.clock.seconds() >= self._end:
            self.dismiss("expired")
            return
        if not self.write_paused:
            self.write(self.fanout.envelope(_HEARTBEAT))
        self._schedule_heartbeat()


class RoomsStream(RoomStream):
    """The events of several logs. The last message of each write has an id with all positions.

    :param rooms: the rooms in the order of the URL, and then the logs of properties.
    """

    fanouts = (RoomsFanout(identity), RoomsFanout(chunk))

    def __init__(self, chunked: bool, rooms: Sequence[str]) -> None:
        super().__init__(chunked)
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

    def note_position(self, session: Session, log: str) -> None:
        """Note where the stream starts in a log."""
        subscription = session.delivery.find(log)
        if subscription is not None:
            self._positions[log] = f"{subscription.epoch}:{subscription.offset}"

    def _encode_placed(self, kind: str, data: bytes, room: str, position: str) -> bytes:
        return encode_block(kind, data, f"id: {self._id_at(room, position)}")

    def _id_at(self, room: str, position: str) -> str:
        """The id with all positions, after one of them has changed."""
        self._positions[room] = position
        return self._write_id(self._positions)


class EventsResource(JSONResource):
    """``/sse``.

    :param random: see :class:`RoomStream`.
    :param io: how bytes get to sockets.
    """

    isLeaf = True
    guarded = True

    def __init__(self, hub: Hub, random: Callable[[], float], io: SocketIO = FAST) -> None:
        super().__init__()
        self._hub = hub
        common = {"hub": hub, "random": staticmethod(random)}
        self._room_stream = type("RoomStream", (RoomStream, io.sender), common)
        self._rooms_stream = type("RoomsStream", (RoomsStream, io.sender), common)

    def render(self, request: RealtimeRequest) -> int:  # type: ignore[override]
        """Refuse HEAD, which would be the head of an answer that doesn't end."""
        return self._refuse_method(request) if request.method == b"HEAD" else super().render(request)

    def allowed(self) -> list[str]:
        """The methods that can be used here."""
        return ["GET"]

    async def render_GET(self, request: RealtimeRequest) -> Answer:
        """Begin a stream of events."""
        hub = self._hub
        hub.check_open()
        params = _resume(request, read_subscribe_params(request.args, hub.limits.max_limit))
        check_rooms(params, hub.limits.max_rooms, "a stream", "sse?room=lobby")
        rooms = _logs(params)
        check_id_length(rooms)
        request.channel.admit(request)
        stream = self._make_stream(request.clientproto == b"HTTP/1.1", rooms)
        identity = self._identify(request, params)
        session = stream.session = Session(hub, stream, identity, address=address_of(request))
        try:
            take(request, hub, identity, costs_of(params.joins))
            hub.limiter.draw(identity, None, ONE_CONNECT)  # the address has paid
            await stream.open_rooms(session, params)
            hub.check_open()
            hub.identities.look_again(session.identify())  # if its time is over, the session is closed
        except Exception:
            stream.connectionLost()
            raise
        if is_gone(request):
            stream.connectionLost()
        else:
            _take_over(request, stream, session)
        return TAKEN_OVER

    def _identify(self, request: RealtimeRequest, params: SubscribeParams) -> Identity:
        if not is_readable(request, False):
            return NOBODY
        return find_identity(request, self._hub, params.name) or new_guest(request, self._hub, params.name)

    def _make_stream(self, chunked: bool, rooms: Sequence[str]) -> RoomStream:
        stream: RoomStream = self._room_stream(chunked) if len(rooms) == 1 else self._rooms_stream(chunked, rooms)
        return stream


def _take_over(request: RealtimeRequest, stream: RoomStream, session: Session) -> None:
    for name, value in _HEADERS:
        request.responseHeaders.setRawHeaders(name, [value])
    if request.clientproto == b"HTTP/1.1":
        request.responseHeaders.setRawHeaders(b"Transfer-Encoding", [b"chunked"])
    head = request.channel.head(b"200", b"OK", request.responseHeaders)
    stream.begin(session, head, request.channel.take_over(stream, 200))


def _resume(request: RealtimeRequest, params: SubscribeParams) -> SubscribeParams:
    """The parameters, with the positions of ``Last-Event-ID`` instead of the URL's where the header is given.

    :raises RealtimeError: ``bad_request`` or ``bad_position``.
    """
    values = request.requestHeaders.getRawHeaders(b"Last-Event-ID", ())
    if len(values) > 1:
        raise RealtimeError("bad_request", "the header Last-Event-ID is given at most once")
    text = values[0].decode("ascii", "replace").strip() if values else ""
    if not text:
        return params
    positions = read_id(text, _logs(params))
    rooms = tuple((name, positions.get(name, since)) for name, since in params.rooms)
    asked = zip(rooms, params.properties, strict=False)
    properties = tuple(after and positions.get(properties_log(name), after) for (name, _), after in asked)
    return attrs.evolve(params, rooms=rooms, properties=properties)


def _logs(params: SubscribeParams) -> list[str]:
    """The logs that a stream reads: of the rooms, and then of their properties."""
    rooms = [name for name, _ in params.rooms]
    return rooms + [properties_log(name) for index, name in enumerate(rooms) if params.properties_of(index)]
