"""WebSocket, as the transport of a session: commands go in, and replies and messages come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.web.server import NOT_DONE_YET

from realtime_chat.core.command_session import CommandSession
from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import Identity
from realtime_chat.core.rate_limiter import ONE_CONNECT
from realtime_chat.core.turns import Turns
from realtime_chat.http.answers import JSONResource
from realtime_chat.http.clients import address_of, identify_bearer
from realtime_chat.http.request import RealtimeRequest
from realtime_chat.http.subscribe_params import SubscribeParams, read_subscribe_params
from realtime_chat.transports.fast.choice import SocketIO
from realtime_chat.transports.fast.direct_send import FrameFanout
from realtime_chat.transports.frames import FrameBatch, deflated_frame, frame
from realtime_chat.transports.handshake import check_upgrade
from realtime_chat.transports.websocket_protocol import WebSocketProtocol, protocol_maker, take_over
from realtime_chat.values import codec, commands
from realtime_chat.values.codec import Entry
from realtime_chat.values.errors import Goodbye, UnreadableCommand
from realtime_chat.values.model import Position


class WebSocketFanout(FrameFanout):
    """The same frames for all WebSockets.

    :param encode: makes a message's frame.
    """

    name = "websocket"

    def __init__(self, encode: Callable[[bytes], bytes]) -> None:
        self._encode = encode

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> FrameBatch:
        return FrameBatch([self._encode(entry.json) for entry in entries])

    def encode_event(self, kind: str, data: bytes) -> FrameBatch:
        return FrameBatch([self._encode(data)])


_UNCOMPRESSED = WebSocketFanout(frame)
_COMPRESSED = WebSocketFanout(deflated_frame)


class RealtimeProtocol(WebSocketProtocol):
    """A WebSocket as the transport of a session."""

    fanout = _UNCOMPRESSED
    session: CommandSession | None = None

    def compress(self) -> None:
        """Send compressed messages, as was agreed."""
        self.fanout = _COMPRESSED

    def begin(self, params: SubscribeParams, identity: Identity | None, address: str | None) -> None:
        """Start the session, with the rooms that the URL names.

        :param identity: the user of the token that came with the request; None if none came.
        :param address: what the address is limited by.
        """
        session = self.session = CommandSession(self.hub, self, self, identity, params.name, address)
        for index, (room, since) in enumerate(params.rooms):
            text, properties = None if since is None else str(since), params.properties_of(index)
            after = str(properties) if isinstance(properties, Position) else properties
            session.execute(commands.Join(room=room, since=text, last=params.last, properties=after))

    def binary_received(self, data: bytes) -> None:
        """Answer that a binary message is no command."""
        if self.session is not None:
            self.session.execute(UnreadableCommand("bad_request", "a command is a text frame, this one was binary"))

    def buffer_reply(self, data: bytes) -> None:
        super().buffer_reply(frame(data))

    def send_event(self, kind: str, data: bytes) -> None:
        """Send one event in a frame."""
        if self.state == self.STATE_OPEN:
            self.write(frame(data))

    def reset(self, room: str, position: Position) -> None:
        """Send a ``reset`` event."""
        self.send_event("reset", codec.encode_reset(room, position))

    def goodbye(self, goodbye: Goodbye) -> None:
        """Send a ``goodbye`` event, and close with its code."""
        self.send_event("goodbye", codec.encode_goodbye(goodbye))
        self.close_with(goodbye.code, goodbye.reason)


class WebSocketResource(JSONResource):
    """``/ws``: turns a GET into a WebSocket.

    :cvar protocol: what a connection does; the sender and the receiver are mixed in.
    :param compress: whether messages are compressed for clients that offer it.
    :param turns: the line of connections that have more to do than fits a turn.
    :param io: how bytes get to sockets and come from them.
    """

    isLeaf = True
    protocol = RealtimeProtocol

    def __init__(self, reactor: Any, hub: Hub, compress: bool, turns: Turns, io: SocketIO) -> None:
        super().__init__()
        self.hub = hub
        longest = hub.limits.max_message
        self.make_protocol: Callable[[], Any] = protocol_maker(
            self.protocol, reactor, hub, turns, io, longest, compress
        )

    def render_GET(self, request: RealtimeRequest) -> int:
        """Upgrade the connection to a WebSocket (RFC 6455, section 4.2)."""
        upgrade = check_upgrade(request)
        self.hub.check_open()
        params = read_subscribe_params(request.args, self.hub.limits.max_limit)
        request.channel.admit(request)
        identity = None if request.authorization is None else identify_bearer(request, self.hub)
        if identity is not None:
            self.hub.limiter.draw(identity, None, ONE_CONNECT)  # the address has paid
        address = address_of(request)
        take_over(self.make_protocol, request, upgrade).begin(params, identity, address)
        return NOT_DONE_YET
