"""Server-sent events: a log that is read over one answer that doesn't end (WHATWG HTML, section 9.2).

The connection is taken over from HTTP, as for a WebSocket, and the answer ends with it; so the same bytes go to the
sockets of all who read one room.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from hashlib import blake2b
from math import inf

import attrs
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from realtime_chat.core.hub import Hub
from realtime_chat.core.interfaces import R
from realtime_chat.core.session import Session
from realtime_chat.core.wheel import Stall, Timeout
from realtime_chat.http.answers import Answer, JSONResource, is_gone
from realtime_chat.http.clients import is_readable, known_client_of
from realtime_chat.http.site import MAX_LINE, RealtimeRequest
from realtime_chat.http.subscribe_params import SubscribeParams, check_rooms, read_subscribe_params
from realtime_chat.transports.backpressure import BackpressuredSender
from realtime_chat.transports.fast.direct_send import Frames, Send, give_up_after, send_to_all
from realtime_chat.values import codec
from realtime_chat.values.codec import Entry
from realtime_chat.values.errors import Goodbye, RealtimeError
from realtime_chat.values.model import ANONYMOUS, Position, naming

__all__ = ["EventsResource"]

_HEARTBEAT = b":\n\n"
_POSITION = b'{"type":"position"}'
_RETRY = 1.0
_SPREAD = 2.0
"""Seconds over which those who come back are spread."""

_LONGEST_PLACE = len("=k3x9wq2a:9007199254740992,")
_LIFETIME_SPREAD = 0.2
_CLOSE_WAIT = 2.0
_MOST_IGNORED = 64 * 1024
_MOST_NAMES = 1024
"""Characters of rooms' names that an id may have."""

_TAKEN_OVER = Answer(b"")
"""What a request is answered with whose connection is no longer HTTP's: it goes nowhere."""

_HEADERS = (
    (b"Content-Type", b"text/event-stream"),
    (b"Cache-Control", b"no-store"),
    (b"X-Accel-Buffering", b"no"),
    (b"Connection", b"close"),
)
_ID_EXPECTED = (
    "Last-Event-ID is an id of this stream: the position EPOCH:OFFSET where it reads one room, and else "
    "ROOM=EPOCH:OFFSET for each, with commas between, or what stood there"
)

Random = Callable[[], float]
"""Gives a number from 0 up to 1."""


Envelope = Callable[[bytes], bytes]
"""Makes what goes over the wire of one block, or of several."""


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked answer (RFC 9112, section 7.1). Without chunks, clients that read pieces of a fixed size
    and some proxies hold events back."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _as_it_is(data: bytes) -> bytes:
    return data


def block(kind: str, data: bytes, *fields: str) -> bytes:
    """One event that is no message.

    :param kind: its type, which says who listens for it.
    :param data: its JSON, which has no line breaks.
    :param fields: further lines.
    """
    head = "".join(f"{field}\n" for field in (*fields, f"event: {kind}"))
    return b"%bdata: %b\n\n" % (head.encode(), data)


# Fan-out


class _RoomFanout:
    """The same blocks for every stream of one room; each message's id is its position.

    :param envelope: what each block goes in.
    """

    name = "sse"

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> Frames:
        log = epoch.encode()
        blocks = (b"id: %b:%d\ndata: %b\n\n" % (log, entry.offset, entry.json) for entry in entries)
        return Frames([self.envelope(one) for one in blocks])

    def encode_event(self, kind: str, data: bytes) -> Frames:
        return Frames([self.envelope(block(kind, data))])

    def send(
        self, batch: Frames, readers: MutableMapping[R, Send | None], first: Collection[R] = ()
    ) -> list[tuple[R, int]]:
        return send_to_all(batch, readers, first)


class _Blocks(Frames):
    """Consecutive messages of one room, for streams of several: only they can say where all their rooms stand."""

    __slots__ = ("_before", "_envelope", "_epoch", "_last", "room")

    def __init__(self, room: str, epoch: str, entries: Sequence[Entry], envelope: Envelope) -> None:
        blocks = [b"data: %b\n\n" % entry.json for entry in entries]
        super().__init__([envelope(one) for one in blocks])
        self.room = room
        self._epoch = epoch
        self._before = entries[0].offset - 1
        self._envelope = envelope
        self._last = blocks[-1]

    def position(self, count: int) -> str:
        """The position after the first ``count`` messages."""
        return f"{self._epoch}:{self._before + count}"

    def identified(self, id: str) -> Frames:
        """The same, with an id on the last message."""
        return self.with_last(self._envelope(b"id: %b\n%b" % (id.encode(), self._last)))


class _RoomsFanout(_RoomFanout):
    """The same blocks for every stream of several rooms, each of which adds an id of its own."""

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> Frames:
        return _Blocks(room, epoch, entries, self.envelope)

    def send(
        self, batch: Frames, readers: MutableMapping[R, Send | None], first: Collection[R] = ()
    ) -> list[tuple[R, int]]:
        return send_to_all(batch, dict.fromkeys(readers))  # none holds replies, and all go by their transport


# The streams


class _RoomStream(BackpressuredSender, Protocol):
    """One room's events, as the transport of a session. What its client sends is ignored.

    :param random: spreads lifetimes and reconnects.
    :param chunked: whether the answer has chunks, as every client of HTTP/1.1 understands them.
    """

    fanouts = (_RoomFanout(_as_it_is), _RoomFanout(chunk))
    session: Session | None = None
    direct_send: Send | None = None
    write_paused = True  # until it has begun
    _began = False
    _ended = False
    _ignored = 0
    _alarm: Timeout | None = None
    _slow: Stall | None = None

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
        return self._began and not self._ended

    # How it begins

    async def look(self, session: Session, params: SubscribeParams) -> None:
        """Find where each room's reading starts.

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
            self._opening.append(self._placed("joined", joined, name, str(start.position)))

    def begin(self, session: Session, head: bytes, transport: ITransport) -> None:
        """Send the head of the answer, who the client is and where its rooms stand, and then what there is."""
        user = session.identify()
        assert session.client is not None
        limits = self._hub.limits
        bounds = limits.heartbeat, limits.max_rooms, limits.max_message
        welcome = codec.encode_welcome(None, session.client, user, *bounds)
        opening = [self._retry(_RETRY), block("welcome", welcome), *self._opening]
        self._opening = []
        self.makeConnection(transport)
        self.put(head + self.fanout.envelope(b"".join(opening)))
        session.catch_up()

    def connectionMade(self) -> None:
        """The connection is its own now."""
        self.transport.setTcpNoDelay(True)
        self._began, self.write_paused = True, False
        self.open_outlet()
        self.read_on()
        lifetime = self._hub.limits.stream_lifetime
        if lifetime is not None:
            spread = 1 + _LIFETIME_SPREAD * (self._random() - 0.5)
            self._end = self._hub.clock.seconds() + lifetime * spread
        self._schedule()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone, in whatever way."""
        self._end_all()
        self.direct_send = None
        self.session = None

    def dataReceived(self, data: bytes) -> None:
        """A stream takes no requests: whoever goes on sending is cut off."""
        self._ignored += len(data)
        if self._ignored > _MOST_IGNORED and not self._ended:
            self._end_all()
            self.transport.abortConnection()

    # What the session wants

    def send_event(self, kind: str, data: bytes) -> None:
        """Send an event that stands in no log."""
        if self.may_send:
            self.put(self.fanout.envelope(block(kind, data)))

    def reset(self, room: str, position: Position) -> None:
        reset = self._placed("reset", codec.encode_reset(room, position), room, str(position))
        self.put(self.fanout.envelope(reset))

    def _placed(self, kind: str, data: bytes, room: str, position: str) -> bytes:
        """An event that says where the stream stands in a room."""
        return block(kind, data, f"id: {position}")

    def goodbye(self, goodbye: Goodbye) -> None:
        if not self.may_send:
            return
        after = round(goodbye.after + self._random() * _SPREAD, 3)
        said = codec.encode_goodbye(goodbye._replace(after=after))
        self.put(self.fanout.envelope(block("goodbye", said, f"retry: {after * 1000:.0f}")) + self._last_chunk)
        self._end_all()
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._alarm = self._hub.wheel.call_later(_CLOSE_WAIT, self.transport.abortConnection)

    def _retry(self, seconds: float) -> bytes:
        """When the client is to come back after the connection was lost."""
        return b"retry: %d\n" % ((seconds + self._random() * _SPREAD) * 1000)

    def _end_all(self) -> None:
        self._ended = True
        self.stop_watching()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self.session is not None:
            self.session.close()

    # What being full means

    def stop_reading(self) -> None:
        """What it sends is ignored in any case. Who is slow may be so for a while; the kernel is told."""
        give_up_after(self.transport, self._hub.limits.stalled_after)

    def read_on(self) -> None:
        give_up_after(self.transport, self._hub.limits.tcp_user_timeout)

    # Heartbeats, by which proxies see that it lives, and the kernel whether the client does

    def _schedule(self) -> None:
        seconds = min(self._hub.limits.heartbeat, self._end - self._hub.clock.seconds())
        self._alarm = self._hub.wheel.call_later(seconds, self._beat)

    def _beat(self) -> None:
        if self._hub.clock.seconds() >= self._end:
            if self.session is not None:
                self.session.dismiss("expired")
            return
        if not self.write_paused:
            self.put(self.fanout.envelope(_HEARTBEAT))
        self._schedule()


class _RoomsStream(_RoomStream):
    """The same for several rooms: the last message of a write has an id with all positions."""

    fanouts = (_RoomsFanout(_as_it_is), _RoomsFanout(chunk))

    def __init__(self, hub: Hub, random: Random, chunked: bool, rooms: Sequence[str]) -> None:
        super().__init__(hub, random, chunked)
        self._positions = dict.fromkeys(rooms, "")
        self._write_id = _name_positions if _fits_in_id(rooms) else _list_positions

    def send_batch(self, batch: Frames) -> int:
        if not isinstance(batch, _Blocks):
            return super().send_batch(batch)
        before = self._positions[batch.room]
        taken = super().send_batch(batch.identified(self._id_at(batch.room, batch.position(batch.count))))
        if not taken:
            self._positions[batch.room] = before
        elif taken < batch.count:  # only the last one had an id
            id = self._id_at(batch.room, batch.position(taken))
            self.transport.write(self.fanout.envelope(block("position", _POSITION, f"id: {id}")))
        return taken

    def _placed(self, kind: str, data: bytes, room: str, position: str) -> bytes:
        return block(kind, data, f"id: {self._id_at(room, position)}")

    def _id_at(self, room: str, position: str) -> str:
        """The id that tells where all rooms stand, one of them at another position than before."""
        self._positions[room] = position
        return self._write_id(self._positions)


# The ids of streams of several rooms


def _fits_in_id(rooms: Sequence[str]) -> bool:
    """Whether an id may name all rooms: it comes back in a header, whose length servers and proxies limit."""
    return sum(map(len, rooms)) <= _MOST_NAMES


def _name_positions(positions: Mapping[str, str]) -> str:
    return ",".join([f"{room}={position}" for room, position in positions.items() if position])


def _list_positions(positions: Mapping[str, str]) -> str:
    """The positions in the order of the rooms, and by which rooms these are known again; no room's name has a ``#``."""
    return f"#{_rooms_digest(positions)}=" + ",".join(positions.values())


def _rooms_digest(rooms: Iterable[str]) -> str:
    return blake2b(",".join(rooms).encode(), digest_size=6).hexdigest()


def _read_positions(text: str, rooms: Sequence[str]) -> dict[str, str]:
    """The positions of an id, by their rooms.

    :raises RealtimeError: ``bad_position``.
    """
    digest, _, listed = text.removeprefix("#").partition("=")
    if text.startswith("#"):
        positions = listed.split(",")
        if digest != _rooms_digest(rooms) or len(positions) != len(rooms):
            raise RealtimeError("bad_position", "Last-Event-ID is of a stream of other rooms, or of another order")
        return {room: position for room, position in zip(rooms, positions, strict=True) if position}
    if len(rooms) == 1:
        return {rooms[0]: text}
    pairs = [part.partition("=") for part in text.split(",")]
    if len({room for room, _, _ in pairs}) < len(pairs):
        raise RealtimeError("bad_position", "Last-Event-ID names each room once")
    if not {room for room, _, _ in pairs} <= set(rooms):
        raise RealtimeError("bad_position", "Last-Event-ID names a room that this stream doesn't read")
    return {room: position for room, _, position in pairs}


# The resource


class EventsResource(JSONResource):
    """``/sse``.

    :param random: gives numbers from 0 up to 1, which spread lifetimes and reconnects.
    """

    isLeaf = True
    guarded = True

    def __init__(self, hub: Hub, random: Random) -> None:
        super().__init__()
        self._hub = hub
        self._random = random

    def render(self, request: RealtimeRequest) -> int:  # type: ignore[override]
        """HEAD would be the head of an answer that doesn't end."""
        return self._refuse_method(request) if request.method == b"HEAD" else super().render(request)

    def allowed(self) -> list[str]:
        """The methods that can be used here."""
        return ["GET"]

    async def render_GET(self, request: RealtimeRequest) -> Answer:
        hub = self._hub
        hub.check_open()
        params = _resumed(request, read_subscribe_params(request.args, hub.limits.max_limit))
        check_rooms(params, hub.limits.max_rooms, "a stream", "sse?room=lobby")
        rooms = [name for name, _ in params.rooms]
        _check_id(rooms)
        stream = _make_stream(hub, self._random, request.clientproto == b"HTTP/1.1", rooms)
        client = known_client_of(request, hub.knows) or hub.identities.issue()
        session = stream.session = Session(hub, stream, client, params.name)
        if not is_readable(request, False):
            session.user = ANONYMOUS
        try:
            await stream.look(session, params)
            hub.check_open()
        except Exception:
            stream.connectionLost()
            raise
        if is_gone(request):
            stream.connectionLost()
        else:
            _take_over(request, stream, session)
        return _TAKEN_OVER


def _make_stream(hub: Hub, random: Random, chunked: bool, rooms: Sequence[str]) -> _RoomStream:
    if len(rooms) == 1:
        return _RoomStream(hub, random, chunked)
    return _RoomsStream(hub, random, chunked, rooms)


def _take_over(request: RealtimeRequest, stream: _RoomStream, session: Session) -> None:
    for name, value in _HEADERS:
        request.responseHeaders.setRawHeaders(name, [value])
    if request.clientproto == b"HTTP/1.1":
        request.responseHeaders.setRawHeaders(b"Transfer-Encoding", [b"chunked"])
    head = request.channel.head(b"200", b"OK", request.responseHeaders)
    stream.begin(session, head, request.channel.take_over(stream, 200))


def _resumed(request: RealtimeRequest, params: SubscribeParams) -> SubscribeParams:
    """Wishes with the positions of ``Last-Event-ID``, where there is one, in the place of the URL's.

    :raises RealtimeError: ``bad_request`` or ``bad_position``.
    """
    values = request.requestHeaders.getRawHeaders(b"Last-Event-ID", ())
    if len(values) > 1:
        raise RealtimeError("bad_request", "the header Last-Event-ID is given at most once")
    text = values[0].decode("ascii", "replace").strip() if values else ""
    if not text:
        return params
    positions = _read_id(text, [name for name, _ in params.rooms])
    return attrs.evolve(params, rooms=tuple((name, positions.get(name, since)) for name, since in params.rooms))


def _check_id(rooms: Sequence[str]) -> None:
    """See that the longest id of these rooms fits into a request's header, or the stream couldn't be resumed.

    :raises RealtimeError: ``too_many``.
    """
    if _MOST_NAMES + _LONGEST_PLACE * len(rooms) > MAX_LINE:
        raise RealtimeError(
            "too_many",
            f"the id of a stream of these rooms could be longer than {MAX_LINE} bytes; read some by another stream",
        )


def _read_id(text: str, rooms: Sequence[str]) -> dict[str, Position]:
    positions = _read_positions(text, rooms)
    try:
        return {room: Position.parse(position) for room, position in positions.items()}
    except RealtimeError as error:
        raise RealtimeError("bad_position", _ID_EXPECTED) from error
