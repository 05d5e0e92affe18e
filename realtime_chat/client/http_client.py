"""HTTP requests to one server, with time-outs that count from the last progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http.cookiejar import CookieJar
from io import BytesIO
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Cooperator
from twisted.python.failure import Failure
from twisted.web.client import (
    ContentDecoderAgent,
    CookieAgent,
    FileBodyProducer,
    GzipDecoder,
    HTTPConnectionPool,
    ResponseDone,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from realtime_chat.client.errors import Refused
from realtime_chat.client.link import refusal
from realtime_chat.client.server_url import ServerURL

T = TypeVar("T")

_IDLE_TIMEOUT = 30.0
"""Seconds without progress after which a request fails: nothing is received, and the server takes nothing of it."""

_CHUNK = 16 * 1024


class JSONResponse(msgspec.Struct, frozen=True):
    """The response to a request; ``body`` is its decoded JSON, or None if it has none."""

    status: int
    body: Any
    retry_after: float = 0.0

    @classmethod
    def of(cls, response: Any, body: bytes) -> JSONResponse:
        """Read Twisted's response and its whole body."""
        after = (response.headers.getRawHeaders("Retry-After") or ["0"])[0]
        return cls(response.code, _decode(body), float(after) if after.isdigit() else 0.0)

    def error(self, path: str) -> Refused | None:
        """The error that the server answered with; None if it answered what was asked for."""
        if isinstance(self.body, dict) and self.body.get("type") == "error":
            return refusal(self.body)
        if 200 <= self.status < 300 and self.body is not None:
            return None
        what = f"/{path} was answered with status {self.status} and no JSON; is this the URL of a realtime_chat daemon?"
        return Refused("unexpected", what, True)


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None


class BodyReader(Protocol):
    """Reads the body of a response.

    :param on_data: is called with each part.
    """

    transport: Any

    def __init__(self, on_data: Callable[[bytes], object]) -> None:
        self._on_data = on_data
        self._ended: Deferred[None] = Deferred(self._cancelled)

    def read(self, response: Any) -> Deferred[None]:
        """Fires at the end of the body. Cancelling it closes the connection.

        :raises twisted.web.client.ResponseFailed: by the Deferred: the body was cut off.
        """
        response.deliverBody(self)
        return self._ended

    def _cancelled(self, deferred: Deferred[None]) -> None:
        if self.transport is not None:
            self.transport.resumeProducing()
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._on_data(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._ended.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):  # PotentialDataLoss: it ends with the connection, as it may
            self._ended.callback(None)
        else:
            self._ended.errback(reason)


class IdleTimeout:
    """A time-out that starts again at each sign of progress.

    What has come while this process was too busy to read it counts as progress.

    :param seconds: how long there may be no progress.
    """

    def __init__(self, reactor: Any, seconds: float) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._timer: IDelayedCall | None = None
        self._timed_out = False
        self._is_late = False
        self._running: Deferred[Any] = Deferred()

    def run(self, running: Deferred[T]) -> Deferred[T]:
        """Cancel what runs when the time is over.

        :raises TimeoutError: by the Deferred: there was no progress.
        """
        self._running = running
        self.resume()
        return running.addBoth(self._ended)

    def progress(self) -> None:
        """Start again, unless it is paused."""
        if self._timer is not None:
            self._is_late = False
            self._timer.reset(self._seconds)

    def pause(self) -> None:
        """Stop counting."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def resume(self) -> None:
        """Start again, after a pause too."""
        self.pause()
        self._is_late = False
        self._timer = self._reactor.callLater(self._seconds, self._time_out)

    def _time_out(self) -> None:
        if not self._is_late:  # the reactor reads what has come before the next turn
            self._is_late = True
            self._timer = self._reactor.callLater(0, self._time_out)
            return
        self._timer = None
        self._timed_out = True
        self._running.cancel()

    def _ended(self, result: Any) -> Any:
        self.pause()
        return Failure(TimeoutError(f"no progress for {self._seconds:g} seconds")) if self._timed_out else result


class _BodyFile(BytesIO):
    """A request's body, which is read chunk by chunk: each read means that the chunk before it is on its way."""

    def __init__(self, data: bytes, on_progress: Callable[[], None]) -> None:
        super().__init__(data)
        self._on_progress = on_progress

    def read(self, size: int | None = -1) -> bytes:
        self._on_progress()
        return super().read(size)


def _body_producer(reactor: Any, body: bytes, on_progress: Callable[[], None]) -> FileBodyProducer:
    cooperator = Cooperator(scheduler=lambda step: reactor.callLater(0, step))
    return FileBodyProducer(_BodyFile(body, on_progress), cooperator, _CHUNK)


class HTTPClient:
    """Makes requests to one server, over connections of its own.

    It keeps cookies, as a proxy may use one to send all requests of a client to the same process.
    """

    def __init__(self, server: ServerURL) -> None:
        self._server = server
        self._pool = HTTPConnectionPool(server.reactor)
        self._pool.retryAutomatically = False
        self._agent = ContentDecoderAgent(CookieAgent(server.agent(self._pool), CookieJar()), [(b"gzip", GzipDecoder)])

    def exchange(
        self,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        client: str | None = None,
        body: bytes | None = None,
        seconds: float | None = None,
    ) -> Deferred[JSONResponse]:
        """Ask for JSON; with a body, which is JSON too, by ``POST``.

        :param seconds: how long there may be no progress; None for 30.
        :raises TimeoutError: by the Deferred: there was none.
        """
        timeout = IdleTimeout(self._server.reactor, _IDLE_TIMEOUT if seconds is None else seconds)
        producer = None if body is None else _body_producer(self._server.reactor, body, timeout.progress)
        response = _respond(self.request(path, query, client, producer), timeout.progress)
        return timeout.run(Deferred.fromCoroutine(response))

    def request(
        self,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        client: str | None = None,
        body: FileBodyProducer | None = None,
    ) -> Deferred[Any]:
        """Send a request; fires with Twisted's response when its headers are there."""
        headers = Headers()
        if client is not None:
            headers.setRawHeaders("Realtime-Client", [client])
        if body is not None:
            headers.setRawHeaders("Content-Type", ["application/json"])
        url = f"{self._server.url}{path}?{urlencode(query)}" if query else self._server.url + path
        method = b"GET" if body is None else b"POST"
        response: Deferred[Any] = self._agent.request(method, url.encode("ascii"), headers, body)
        return response

    def close(self) -> Deferred[None]:
        """Fires when all connections that aren't in use are closed."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed


async def _respond(request: Deferred[Any], on_progress: Callable[[], None]) -> JSONResponse:
    response = await request
    on_progress()
    return await read_json(response, on_progress)


async def read_json(response: Any, on_progress: Callable[[], None] = lambda: None) -> JSONResponse:
    """Read the whole body of Twisted's response.

    :param on_progress: is called when a part of it has come.
    """
    parts: list[bytes] = []

    def on_data(part: bytes) -> None:
        parts.append(part)
        on_progress()

    await BodyReader(on_data).read(response)
    return JSONResponse.of(response, b"".join(parts))
