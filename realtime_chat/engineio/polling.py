"""Polling as the transport of an Engine.IO connection: GETs that wait bring packets to the client, POSTs from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar, NamedTuple

from twisted.web.server import NOT_DONE_YET, Request

from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import NOBODY
from realtime_chat.core.rate_limiter import Usage
from realtime_chat.core.turns import Turns
from realtime_chat.engineio.connection import TRANSPORT_CLOSE, Connection
from realtime_chat.engineio.packets import (
    EnginePacket,
    EnginePacketType,
    PacketError,
    decode_jsonp_body,
    decode_payload,
    encode_jsonp,
    join_records,
)
from realtime_chat.engineio.prepared import PreparedMessage, payload_encoding
from realtime_chat.engineio.refusals import BAD_REQUEST, Refusal
from realtime_chat.http.answers import Answer, answer
from realtime_chat.http.clients import address_of, take
from realtime_chat.http.commands import body_of, media_type
from realtime_chat.http.request import RealtimeRequest, when_lost
from realtime_chat.transports.waiting_poll import open_poll

_NOOP = PreparedMessage.of_packet(EnginePacketType.NOOP)
_CLOSE = PreparedMessage.of_packet(EnginePacketType.CLOSE)
_TEXT = b"text/plain; charset=UTF-8"
_BINARY = b"application/octet-stream"
_SCRIPT = b"application/javascript; charset=utf-8"
_OK = Answer(b"ok", 200, b"text/html")  # text/plain would be a download in the frame that a JSONP client posts from


class PollingTransport:
    """The polls of one connection.

    :param base64: whether the client can't read binary answers.
    :ivar connection: whose transport this is, until it is over or goes on over another one.
    """

    __slots__ = (
        "_base64",
        "_body",
        "_hub",
        "_is_paused",
        "_last",
        "_poll",
        "_post",
        "_turns",
        "_version",
        "connection",
    )

    name: ClassVar[str] = "polling"
    congested: ClassVar[bool] = False
    queued: ClassVar[int] = 0
    direct: ClassVar[None] = None

    connection: Connection | None

    def __init__(self, hub: Hub, turns: Turns, version: int, base64: bool) -> None:
        self._hub = hub
        self._turns = turns
        self._version = version
        self._base64 = base64
        self.connection = None
        self._poll: _Poll | None = None
        self._post: RealtimeRequest | None = None
        self._body: Iterator[EnginePacket] = iter(())
        self._is_paused = False
        self._last: list[PreparedMessage] | None = None

    # Packets for the client

    def poll(self, request: RealtimeRequest) -> int:
        """Answer a GET, now or as soon as there is something to send.

        :raises Refusal: another one waits already, which ends the connection.
        :raises RealtimeError: a limit of the client's address is reached.
        """
        wrap = _wrap_of(request)
        if self._poll is not None:
            self._close("transport error")
            raise Refusal(BAD_REQUEST, "one GET of a session waits at a time, and this was the second")
        take(request, self._hub, NOBODY)
        poll = self._poll = _Poll(request, wrap, self._hub)
        when_lost(request, self)
        if self._last is not None:
            self._answer([*self._last, _CLOSE])
            self._forget()
        elif self.connection is not None:
            self.connection.writable_changed()
            self._answer_while_upgrading()
        if self._poll is poll:
            request.release_memory()
        return NOT_DONE_YET

    def _answer_while_upgrading(self) -> None:
        if self.connection is not None and self.connection.upgrading:
            self.answer_noop(self.connection)

    def answer_noop(self, connection: Connection) -> None:
        """Answer the GET that waits, so that the client can go on with a WebSocket."""
        if self._poll is not None:
            self._answer([_NOOP])
            connection.writable_changed()

    @property
    def writable(self) -> bool:
        """Whether a GET waits."""
        return self._poll is not None

    def send(self, messages: Sequence[PreparedMessage]) -> int:
        """Answer the GET that waits with all messages."""
        self._answer(messages)
        return len(messages)

    def send_rest(self, message: PreparedMessage, sent: int) -> bool:
        """Nothing is sent past a poll."""
        return False

    def _answer(self, messages: Sequence[PreparedMessage]) -> None:
        poll, self._poll = self._poll, None
        if poll is None:
            return
        is_binary = self._version == 3 and not (self._base64 or poll.wrap) and any(one.has_binary for one in messages)
        encoding = payload_encoding(self._version, is_binary)
        payload = join_records([message.encode(encoding) for message in messages], self._version)
        poll.answer(payload, _BINARY if is_binary else _TEXT)

    def request_lost(self) -> None:
        """The client has gone while its GET waited."""
        poll, self._poll = self._poll, None
        if poll is not None:
            poll.close()
            self._close("transport error")

    # Packets of the client

    def post(self, request: RealtimeRequest) -> int:
        """Give the connection the packets of a POST, and answer when it has taken all.

        :raises Refusal: the body is no payload, or another POST is not answered yet; that ends the connection.
        :raises RealtimeError: a limit of the client's address is reached.
        """
        take(request, self._hub, NOBODY)
        if self._post is not None:
            self._close("transport error")
            raise Refusal(BAD_REQUEST, "one POST of a session is answered after the other")
        try:
            self._body = _read_body(request, self._version)
        except PacketError as error:
            self._close("parse error")
            raise Refusal(BAD_REQUEST, str(error)) from error
        self._post = request
        when_lost(request, _PostWaiter(self))
        self._receive()
        return NOT_DONE_YET

    def _receive(self) -> None:
        """Give packets as long as the connection takes them, and its share of the turn lasts."""
        share = self._turns.share()
        try:
            while not self._is_paused and self.connection is not None:
                packet = next(self._body, None)
                if packet is None:
                    self._end_post(_OK)
                    return
                self.connection.packet_received(packet)
                if self._turns.is_over(share):
                    self._turns.later(self._receive, self.post_lost)
                    return
        except PacketError as error:
            self._end_post(Refusal(BAD_REQUEST, str(error)).answer())
            self._close("parse error")

    def _end_post(self, given: Answer) -> None:
        request, self._post = self._post, None
        self._body = iter(())
        if request is not None:
            answer(request, given)

    def post_lost(self) -> None:
        """The client has gone while its POST waited, or its packets could not be dealt with."""
        if self._post is not None:
            self._post = None
            self._body = iter(())
            self._close("transport error")

    def pause_reading(self) -> None:
        """Leave the rest of a POST for later."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Go on with the rest of a POST in a later turn."""
        self._is_paused = False
        if self._post is not None:
            self._turns.later(self._receive, self.post_lost)

    # The end

    def end(self, reason: str, rest: Sequence[PreparedMessage] = ()) -> bool:
        """Answer what waits. If no GET does, keep what the client should still get for its next one."""
        self._end_post(_OK)
        if self._poll is not None:
            self._answer([_NOOP] if reason == TRANSPORT_CLOSE else [*rest, _CLOSE])
        elif rest:
            self._last = list(rest)
            return True
        self.connection = None
        return False

    def _close(self, reason: str) -> None:
        if self.connection is not None:
            self.connection.close(reason)

    def _forget(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.forget()


class _Poll:
    """A GET that waits for its answer, counted for its address.

    :param wrap: makes the answer's body of the payload; None if it is the payload.
    """

    __slots__ = ("_hub", "_request", "_usage", "wrap")

    def __init__(self, request: Request, wrap: Callable[[bytes], bytes] | None, hub: Hub) -> None:
        self._usage: Usage | None = open_poll(hub, address_of(request))
        self._request = request
        self._hub = hub
        self.wrap = wrap

    def answer(self, payload: bytes, content_type: bytes) -> None:
        """Answer, with a script for JSONP."""
        self.close()
        given = Answer(payload, 200, content_type)
        answer(self._request, given if self.wrap is None else Answer(self.wrap(payload), 200, _SCRIPT))

    def close(self) -> None:
        """Count the poll no more."""
        usage, self._usage = self._usage, None
        if usage is not None:
            self._hub.limiter.close(usage, "polls")


class _PostWaiter(NamedTuple):
    """Waits for the answer to a POST."""

    polling: PollingTransport

    def request_lost(self) -> None:
        """The client has gone."""
        self.polling.post_lost()


def _wrap_of(request: Request) -> Callable[[bytes], bytes] | None:
    """What makes a script of an answer, for a request by JSONP.

    :raises Refusal: its ``j`` is no number.
    """
    index = request.args.get(b"j")
    if index is None:
        return None
    try:
        encode_jsonp(index[-1], b"")
    except PacketError as error:
        raise Refusal(BAD_REQUEST, str(error)) from error
    return partial(encode_jsonp, index[-1])


def _read_body(request: RealtimeRequest, version: int) -> Iterator[EnginePacket]:
    """The packets of a POST.

    :raises PacketError: the body is no payload; or later, with the packet that is none.
    """
    body = body_of(request)
    if b"j" in request.args:
        body = decode_jsonp_body(body)
    return decode_payload(body, version, media_type(request) == _BINARY)
