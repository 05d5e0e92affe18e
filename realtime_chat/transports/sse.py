"""Server-sent events: a log that is read over one answer that doesn't end (WHATWG HTML, section 9.2).

The connection is taken over from HTTP, as for a WebSocket, and the answer ends with it. So the same bytes go to the
sockets of all who read one room.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from realtime_chat.core.hub import Hub
from realtime_chat.core.session import Session
from realtime_chat.http.answers import Answer, JSONResource, is_gone
from realtime_chat.http.clients import is_readable, known_client_of
from realtime_chat.http.request import RealtimeRequest
from realtime_chat.http.subscribe_params import SubscribeParams, check_rooms, read_subscribe_params
from realtime_chat.transports.event_ids import check_id_length, read_id
from realtime_chat.transports.event_stream import Random, RoomsStream, RoomStream
from realtime_chat.transports.fast.choice import FAST, SocketIO
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import ANONYMOUS

__all__ = ["EventsResource"]

_TAKEN_OVER = Answer(b"")
"""The answer to a request whose connection is no longer HTTP's: it goes nowhere."""

_HEADERS = (
    (b"Content-Type", b"text/event-stream"),
    (b"Cache-Control", b"no-store"),
    (b"X-Accel-Buffering", b"no"),
    (b"Connection", b"close"),
)


class EventsResource(JSONResource):
    """``/sse``.

    :param random: gives numbers from 0 up to 1, which spread lifetimes and reconnects.
    :param io: how bytes get to sockets.
    """

    isLeaf = True
    guarded = True

    def __init__(self, hub: Hub, random: Random, io: SocketIO = FAST) -> None:
        super().__init__()
        self._hub = hub
        self._random = random
        self._room_stream = type("RoomStream", (RoomStream, io.sender), {})
        self._rooms_stream = type("RoomsStream", (RoomsStream, io.sender), {})

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
        rooms = [name for name, _ in params.rooms]
        check_id_length(rooms)
        stream = self._make_stream(request.clientproto == b"HTTP/1.1", rooms)
        client = known_client_of(request, hub.knows) or hub.identities.issue()
        session = stream.session = Session(hub, stream, client, params.name)
        if not is_readable(request, False):
            session.user = ANONYMOUS
        try:
            await stream.open_rooms(session, params)
            hub.check_open()
        except Exception:
            stream.connectionLost()
            raise
        if is_gone(request):
            stream.connectionLost()
        else:
            _take_over(request, stream, session)
        return _TAKEN_OVER

    def _make_stream(self, chunked: bool, rooms: Sequence[str]) -> RoomStream:
        stream: RoomStream = (
            self._room_stream(self._hub, self._random, chunked)
            if len(rooms) == 1
            else self._rooms_stream(self._hub, self._random, chunked, rooms)
        )
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
    positions = read_id(text, [name for name, _ in params.rooms])
    return attrs.evolve(params, rooms=tuple((name, positions.get(name, since)) for name, since in params.rooms))
