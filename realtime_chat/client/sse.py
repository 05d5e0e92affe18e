"""A link by server-sent events; its commands go by ``POST /commands``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from realtime_chat.client.http_client import BodyReader, IdleTimeout, JSONResponse, read_json
from realtime_chat.client.http_link import HTTPLink
from realtime_chat.client.link import LARGEST_EVENT, ClientIdentity, Disconnect, LinkListener
from realtime_chat.client.server_url import ServerURL

_HEADERS_WITHIN = 10.0
_IDLE_TIMEOUT = 40.0
_NO_SSE = (404, 405, 406, 501)


class EventStreamParser:
    """Parses an event stream (WHATWG HTML, "Server-sent events") into the ``data`` of its events.

    It ignores ``event:`` and ``id:``: the daemon's data has the type and the position, too.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, more: bytes) -> Iterator[bytes]:
        """Add bytes; returns the data of the events that are complete now.

        :raises ValueError: an event is too long.
        """
        # A CR at the end may be the first half of a CRLF, so it waits for the next bytes.
        text = self._rest + more
        keep = b"\r" if text.endswith(b"\r") else b""
        lines = text[: len(text) - len(keep)].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop() + keep
        for line in lines:
            yield from self._line(line)
        if self._size + len(self._rest) > LARGEST_EVENT:
            raise ValueError("an event of the stream has no end")

    def _line(self, line: bytes) -> Iterator[bytes]:
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
                self._size += len(line) + 1
        elif self._data:
            yield b"\n".join(self._data)
            self._data.clear()
            self._size = 0


class SSELink(HTTPLink):
    """One event stream for all rooms, or several if they are too many for one request.

    :ivar _ever_streamed: whether a stream has begun: then server-sent events work here.
    """

    kind = "sse"
    _ever_streamed = False

    def __init__(self, server: ServerURL, listener: LinkListener, identity: ClientIdentity) -> None:
        super().__init__(server, listener, identity)
        self._streams: set[_Stream] = set()

    async def _read(self, rooms: Sequence[str]) -> None:
        await self._resumed()
        generation = self._generation
        response = await self._within(_HEADERS_WITHIN, self._request(rooms))
        media = (response.headers.getRawHeaders("Content-Type") or [""])[0].partition(";")[0].strip().lower()
        if response.code != 200 or media != "text/event-stream":
            await self._not_a_stream(response, generation)
            return
        self._ever_streamed = True
        stream = _Stream(self._server.reactor, partial(self._received, generation))
        self._streams.add(stream)
        reading = stream.read(response)
        if self._paused:
            stream.pause()
        try:
            await reading
        except TimeoutError:
            self._disconnect(Disconnect("the event stream fell silent"))
        else:
            self._disconnect(Disconnect("the event stream ended"))
        finally:
            self._streams.discard(stream)

    async def _request(self, rooms: Sequence[str]) -> Any:
        query = self._cursors.query(rooms) + self._name_query()
        return await self._http.request("sse", query, self._client)

    async def _not_a_stream(self, response: Any, generation: int) -> None:
        answer: JSONResponse = await self._within(_HEADERS_WITHIN, read_json(response))
        error = answer.error("sse")
        if error is not None and generation == self._generation and self._can_go_on(answer, error):
            return
        if not self._ever_streamed and (error is None or error.code == "unexpected" or response.code in _NO_SSE):
            reason = f"/sse was answered with status {response.code} and no event stream"
            self._disconnect(Disconnect(reason, unavailable=True))
        elif error is not None:
            self._disconnect(Disconnect.by_error(error, answer.retry_after))
        else:
            self._disconnect(Disconnect("/sse was answered without an event stream"))

    def _received(self, generation: int, texts: Iterator[bytes]) -> None:
        try:
            for text in texts:
                if not self._closed and generation == self._generation:
                    self._event(msgspec.json.decode(text, type=dict[str, Any]))
        except (KeyError, ValueError) as error:
            self._disconnect(Disconnect(f"the event stream has what the protocol doesn't know: {error!r}"))

    def _event(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "welcome":
            if event.get("client") != self._client and not self._is_user:
                self._disconnect(Disconnect("the server no longer knows this client"))
            else:
                self._read_started()
        elif kind == "joined":
            self._joined(event)
        elif kind == "goodbye":
            self._disconnect(Disconnect.by_goodbye(event))
        else:
            self._deliver(event)

    def _joined(self, event: dict[str, Any]) -> None:
        """The room was joined when its history was read; this adds whether messages were lost, and who is there."""
        if not event.get("recovered", True):
            self._deliver({"type": "reset", "room": event["room"], "position": event["position"]})
        if "properties" in event:
            self._deliver({**event["properties"], "type": "properties", "room": event["room"]})
        if "rights" in event:
            self._deliver({"type": "rights", "room": event["room"], "rights": event["rights"]})
        if "count" in event and not self._closed:
            self._listener.received(self, {**event, "type": "presence"})

    # Backpressure

    def pause(self) -> None:
        super().pause()
        for stream in self._streams:
            stream.pause()

    def resume(self) -> None:
        super().resume()
        for stream in self._streams:
            stream.resume()


class _Stream:
    """One event stream that is read.

    :param on_events: is called with the data of the events that are complete.
    """

    def __init__(self, reactor: Any, on_events: Callable[[Iterator[bytes]], object]) -> None:
        self._on_events = on_events
        self._parser = EventStreamParser()
        self._body = BodyReader(self._received)
        self._timeout = IdleTimeout(reactor, _IDLE_TIMEOUT)

    def read(self, response: Any) -> Deferred[None]:
        """Fires at its end. Cancelling that closes the connection.

        :raises TimeoutError: by the Deferred: nothing came for too long.
        """
        return self._timeout.run(self._body.read(response))

    def _received(self, data: bytes) -> None:
        self._timeout.progress()
        self._on_events(self._parser.feed(data))

    def pause(self) -> None:
        """Stop reading; there is no time-out meanwhile."""
        self._timeout.pause()
        if self._body.transport is not None:
            self._body.transport.pauseProducing()

    def resume(self) -> None:
        """Read on after :meth:`pause`."""
        self._timeout.resume()
        if self._body.transport is not None:
            self._body.transport.resumeProducing()
