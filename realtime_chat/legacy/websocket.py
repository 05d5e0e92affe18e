"""``/ws`` of the old pages: a WebSocket on which each text frame is a message, in both directions.

No command and no error is ever said, as the pages show whatever comes. So a client that sends faster than its limits
allow isn't refused. It isn't read until there are tokens again, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Collection, MutableMapping, Sequence
from typing import Any

from twisted.web.server import Request

from realtime_chat.core.command_session import CommandSession
from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import NOBODY
from realtime_chat.core.interfaces import R
from realtime_chat.core.log_view import StartPosition
from realtime_chat.core.quota import Quota
from realtime_chat.core.room import Room
from realtime_chat.core.turns import Turns
from realtime_chat.http.answers import TAKEN_OVER, Answer, is_gone
from realtime_chat.http.clients import address_of
from realtime_chat.http.request import RealtimeRequest
from realtime_chat.legacy.html_text import html_text
from realtime_chat.legacy.poll import room_of
from realtime_chat.transports.backpressure import Send
from realtime_chat.transports.fast.choice import SocketIO
from realtime_chat.transports.frames import FrameBatch, deflated_frame, frame
from realtime_chat.transports.handshake import check_upgrade
from realtime_chat.transports.websocket import RealtimeProtocol, WebSocketFanout, WebSocketResource
from realtime_chat.transports.websocket_protocol import take_over
from realtime_chat.values.access import READ
from realtime_chat.values.codec import Entry
from realtime_chat.values.commands import Publish, SetProperty
from realtime_chat.values.errors import RateLimited, RealtimeError
from realtime_chat.values.model import Position

_CONNECTED = frame(b"connected ....\n")


class LegacyFanout(WebSocketFanout):
    """The same texts for all WebSockets of old pages. A message that they don't show is an empty string."""

    name = "legacy_websocket"

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> FrameBatch:
        return FrameBatch([self._encode_text(html_text(entry)) for entry in entries])

    def encode_event(self, kind: str, data: bytes) -> FrameBatch:
        return FrameBatch([b""])

    def _encode_text(self, text: str | None) -> bytes:
        return b"" if text is None else self._encode(text.encode() + b"\n")

    def send(
        self, batch: FrameBatch, readers: MutableMapping[R, Send | None], first: Collection[R] = ()
    ) -> list[tuple[R, int]]:
        return super().send(batch, readers, first) if batch.data else []


_UNCOMPRESSED = LegacyFanout(frame)
_COMPRESSED = LegacyFanout(deflated_frame)


class LegacySession(CommandSession):
    """The session of an old page. Each text is a message of its one room.

    :param room: the room.
    """

    __slots__ = ("_room",)

    def __init__(self, hub: Hub, transport: LegacyProtocol, room: str, address: str | None) -> None:
        super().__init__(hub, transport, transport, NOBODY, address=address)
        self._room = room
        self._quota = Quota(hub.limiter, None, address)  # nobody has none of its own

    def receive(self, raw: bytes) -> None:
        """Publish a text."""
        self.execute(Publish(room=self._room, data={"text": raw.decode()}))

    def refuse_publish(self, command: Publish | SetProperty, error: RealtimeError) -> None:
        """Refuse a publish. If a limit is reached, publish it later, and nothing else before."""
        if not isinstance(error, RateLimited):
            super().refuse_publish(command, error)
            return
        self._blocked = True
        self._queue = [command, *(self._queue or ())]
        self.hub.wheel.call_later(error.after or 0.0, self._go_on)

    def _go_on(self) -> None:
        self._blocked = False
        self._run_queue()
        self._resume_commands()


class LegacyProtocol(RealtimeProtocol):
    """One WebSocket of an old page, on which nothing but texts is sent."""

    fanout = _UNCOMPRESSED

    def compress(self) -> None:
        self.fanout = _COMPRESSED

    def open_room(self, room: Room, start: StartPosition, address: str | None) -> None:
        """Start the session, with what comes after a position in its room.

        :param address: what the address is limited by.
        """
        session = self.session = LegacySession(self.hub, self, room.name, address)
        self.write(_CONNECTED)
        session.subscribe(room, start)
        session.delivery.pump()

    def binary_received(self, data: bytes) -> None:
        """Ignore a binary message, as the old server did."""

    def buffer_reply(self, data: bytes) -> None:
        """Send no reply: the page would show it."""

    def send_event(self, kind: str, data: bytes) -> None:
        """Send no event, for the same reason."""

    def reset(self, room: str, position: Position) -> None:
        """Say where messages are missing, in the only words that the page knows."""
        if self.may_send:
            self.write(_CONNECTED)


class LegacyWebSocketResource(WebSocketResource):
    """``/ws`` of the old pages.

    :param room: the room of pages that name none.
    """

    protocol = LegacyProtocol

    def __init__(self, reactor: Any, hub: Hub, compress: bool, turns: Turns, io: SocketIO, room: str) -> None:
        super().__init__(reactor, hub, compress, turns, io)
        self._room = room

    async def render_GET(self, request: RealtimeRequest) -> Answer:  # type: ignore[override]
        """Upgrade the connection to a WebSocket (RFC 6455, section 4.2)."""
        hub = self.hub
        if not request.requestHeaders.hasHeader(b"Upgrade"):
            raise _no_upgrade()
        upgrade = check_upgrade(request)
        hub.check_open()
        name = room_of(request, hub, self._room, READ)
        request.channel.admit(request)
        room = await hub.cache.load(name)
        start = await room.start(None, 0)
        hub.check_open()
        hub.access.check(NOBODY, name, READ)
        if not is_gone(request):
            take_over(self.make_protocol, request, upgrade).open_room(room, start, address_of(request))
        return TAKEN_OVER

    def render_POST(self, request: Request) -> int:
        """Refuse what browsers without WebSocket send, as gracefulWebSocket.js emulates one."""
        raise _no_upgrade()


def _no_upgrade() -> RealtimeError:
    return RealtimeError(
        "upgrade_required",
        "this is a WebSocket's address; over HTTP, / gives messages, and takes new_message in a form",
    )
