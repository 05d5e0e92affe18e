"""Where Engine.IO is reached over HTTP: opens connections, and brings each request to its connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType
from typing import Any

from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from realtime_chat.core.hub import Hub
from realtime_chat.core.turns import Turns
from realtime_chat.engineio.connection import TRANSPORT_CLOSE, Connection, Handshake, Receiver, Transport
from realtime_chat.engineio.connections import Connections
from realtime_chat.engineio.polling import PollingTransport
from realtime_chat.engineio.refusals import (
    BAD_METHOD,
    BAD_REQUEST,
    UNKNOWN_SID,
    UNKNOWN_TRANSPORT,
    UNSUPPORTED_VERSION,
    Refusal,
)
from realtime_chat.engineio.settings import Settings
from realtime_chat.engineio.upgrade import Probe
from realtime_chat.engineio.websocket import EngineProtocol, WebSocketTransport
from realtime_chat.http.answers import JSONResource, NotFound, answer, error_headers, failure_answer
from realtime_chat.http.clients import address_of
from realtime_chat.http.origins import allow_credentials
from realtime_chat.http.request import RealtimeRequest
from realtime_chat.transports.fast.choice import FAST, SocketIO
from realtime_chat.transports.handshake import Upgrade, check_upgrade
from realtime_chat.transports.websocket_protocol import protocol_maker, take_over
from realtime_chat.values.errors import RealtimeError

_HEADERS = (b"Host", b"Origin", b"User-Agent", b"Accept-Language")
"""The headers that applications see."""


class ConnectionsResource(JSONResource):
    """``/engine.io/``.

    :param accept: is given each new connection, and returns what receives its messages.
    :param turns: the line of connections that have more to do than fits a turn.
    :param random_bytes: so many random bytes.
    :param io: how bytes get to sockets and come from them.
    :ivar connections: all that are open.
    """

    isLeaf = True

    def __init__(
        self,
        reactor: Any,
        hub: Hub,
        accept: Callable[[Connection], Receiver],
        settings: Settings,
        turns: Turns,
        random_bytes: Callable[[int], bytes],
        io: SocketIO = FAST,
    ) -> None:
        super().__init__()
        self.connections = Connections(hub, settings, random_bytes)
        self._hub = hub
        self._accept = accept
        self._settings = settings
        self._turns = turns
        self._make_protocol = protocol_maker(EngineProtocol, reactor, hub, turns, io, settings.max_payload)

    def is_guarded(self, request: Request) -> bool:
        return not self._is_script(request)

    def allows_credentials(self, request: Request) -> bool:
        return self._settings.eio3 and request.args.get(b"EIO") == [b"3"]

    def _is_script(self, request: Request) -> bool:
        return self._settings.jsonp and b"j" in request.args

    def render(self, request: RealtimeRequest) -> int:  # type: ignore[override]
        """Answer every request in the way that Engine.IO's clients know."""
        if any(request.postpath):
            return NotFound().render(request)
        if request.is_cross_origin and self.allows_credentials(request):
            allow_credentials(request.responseHeaders)
        try:
            return self._dispatch(request)
        except Refusal as refusal:
            return self._refuse(request, refusal)
        except Exception:
            return failure_answer(request, Failure())

    def _refuse(self, request: RealtimeRequest, refusal: Refusal) -> int:
        """Refuse a request in Engine.IO's way, unless its address has made more errors than it may."""
        self.connections.count_refusal(refusal.code)
        error = RealtimeError("bad_request", refusal.message)
        charged = request.charge(error)
        return answer(
            request, refusal.answer() if charged is error else error_headers(request.responseHeaders, charged)
        )

    def _dispatch(self, request: RealtimeRequest) -> int:
        args = request.args
        version = self._version(args.get(b"EIO"))
        transport = b"".join(args.get(b"transport", ()))
        if transport not in (b"polling", b"websocket"):
            raise Refusal(UNKNOWN_TRANSPORT, "transport is polling or websocket")
        if b"j" in args and not self._settings.jsonp:
            raise Refusal(BAD_REQUEST, "JSONP is off on this server; its operator can start it with --allow-jsonp")
        sids = args.get(b"sid")
        if not sids:
            return self._open(request, version, transport)
        connection = self._find(sids, version)
        if transport == b"websocket":
            return self._probe(request, connection)
        return self._poll(request, connection)

    def _version(self, values: Sequence[bytes] | None) -> int:
        if values == [b"4"]:
            return 4
        if values == [b"3"] and self._settings.eio3:
            return 3
        if values == [b"3"]:
            raise Refusal(UNSUPPORTED_VERSION, "version 3 is off here; the operator can allow it with --socket-io-eio3")
        raise Refusal(UNSUPPORTED_VERSION, "EIO is the version of the protocol, which is 4")

    def _find(self, sids: Sequence[bytes], version: int) -> Connection:
        connection = self.connections.get(sids[0].decode("ascii", "replace")) if len(sids) == 1 else None
        if connection is None or (connection.is_overdue() and not connection.is_awaited):
            raise _unknown_sid()
        if connection.version != version:
            raise Refusal(BAD_REQUEST, "EIO is the same in all requests of a session")
        return connection

    # Opening

    def _open(self, request: RealtimeRequest, version: int, transport: bytes) -> int:
        if request.method != b"GET":
            raise Refusal(BAD_METHOD, "a session is opened by a GET")
        open_by = self._open_websocket if transport == b"websocket" else self._open_polling
        return open_by(request, version)

    def _open_polling(self, request: RealtimeRequest, version: int) -> int:
        self.connections.check_capacity()
        usage = self.connections.count_polling(address_of(request))
        polling = PollingTransport(self._hub, self._turns, version, b"b64" in request.args)
        handshake = self._handshake(request)
        connection = polling.connection = self._make(version, handshake, polling, request.authorization)
        self.connections.add(connection, usage)
        try:
            polling.poll(request)
        except Exception:
            connection.close()
            raise
        connection.open(self._accept)
        return NOT_DONE_YET

    def _open_websocket(self, request: RealtimeRequest, version: int) -> int:
        upgrade = _check_upgrade(request)
        self.connections.check_capacity()
        request.channel.admit(request)
        handshake = self._handshake(request)
        authorization = request.authorization
        websocket = self._take_over(request, upgrade, version)
        connection = websocket.listener = self._make(version, handshake, websocket, authorization)
        self.connections.add(connection)
        connection.open(self._accept)
        return NOT_DONE_YET

    def _make(
        self, version: int, handshake: Handshake, transport: Transport, authorization: bytes | None
    ) -> Connection:
        connections = self.connections
        sid = connections.new_sid()
        connection = Connection(
            sid,
            version,
            handshake,
            transport,
            self._settings,
            self._hub.wheel,
            connections.on_closed,
            connections.forget,
        )
        connection.authorization = authorization
        return connection

    def _handshake(self, request: RealtimeRequest) -> Handshake:
        query = {_text(name): _text(values[-1]) for name, values in request.args.items()}
        return Handshake(
            MappingProxyType(query),
            MappingProxyType(dict(_shown_headers(request))),
            address_of(request),
            request.isSecure(),
            self._hub.time_ms() / 1000,
        )

    # Requests of a connection

    def _poll(self, request: RealtimeRequest, connection: Connection) -> int:
        polling = connection.transport
        if not isinstance(polling, PollingTransport):
            raise Refusal(BAD_REQUEST, "this session goes on over its WebSocket")
        if request.method == b"GET":
            return polling.poll(request)
        if request.method == b"POST" and not connection.is_closed:
            return polling.post(request)
        raise Refusal(BAD_REQUEST, "a session is polled by GET and POST")

    def _probe(self, request: RealtimeRequest, connection: Connection) -> int:
        upgrade = _check_upgrade(request)
        if connection.is_closed:
            raise _unknown_sid()
        request.channel.admit(request)
        websocket = self._take_over(request, upgrade, connection.version)
        polling = connection.transport
        if isinstance(polling, PollingTransport) and connection.probe is None:
            Probe(
                connection,
                polling,
                websocket,
                self._hub.wheel,
                self._settings.upgrade_timeout,
                self.connections.on_probed,
            )
        else:  # clients expect a WebSocket that is closed, no error
            websocket.end(TRANSPORT_CLOSE)
        return NOT_DONE_YET

    def _take_over(self, request: RealtimeRequest, upgrade: Upgrade, version: int) -> WebSocketTransport:
        base64 = b"b64" in request.args
        return WebSocketTransport(take_over(self._make_protocol, request, upgrade), version, base64)


def _unknown_sid() -> Refusal:
    return Refusal(UNKNOWN_SID, "no session has this sid, or it is over; open a new one without sid")


def _check_upgrade(request: RealtimeRequest) -> Upgrade:
    if request.method != b"GET":
        raise Refusal(BAD_METHOD, "a WebSocket is opened by a GET")
    try:
        return check_upgrade(request)
    except RealtimeError as error:
        raise Refusal(BAD_REQUEST, error.message) from error


def _shown_headers(request: RealtimeRequest) -> Iterator[tuple[str, str]]:
    for name in _HEADERS:
        values = request.requestHeaders.getRawHeaders(name)
        if values:
            yield name.decode().lower(), _text(values[-1])


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
