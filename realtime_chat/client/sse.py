"""A link by server-sent events, with commands by ``POST /commands``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
from twisted.internet.interfaces import IDelayedCall

from realtime_chat.client.address import Address
from realtime_chat.client.http import Answer, Body, HTTPLink
from realtime_chat.client.link import Disconnect, Identity, LinkListener, loss_by_goodbye

__all__ = ["EventStream", "SSELink"]

_HEADERS_WITHIN = 10.0
_SILENCE = 40.0
_LARGEST = 64 * 1024 * 1024
_NOT_HERE = (404, 405, 406, 501)


class EventStream:
    """Bytes of an event stream to what stands in its ``data:`` (WHATWG HTML, "Server-sent events").

    The daemon's blocks name their type in their data as well, so ``event:`` isn't looked at; nor is ``id:``, as
    positions stand in the data, too.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, more: bytes) -> Iterator[bytes]:
        """The data of the blocks that are complete now.

        :raises ValueError: a line has no end.
        """
        # A CR at the end may be the first half of a line's end, and is looked at when more is there.
        text = self._rest + more
        keep = b"\r" if text.endswith(b"\r") else b""
        lines = text[: len(text) - len(keep)].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop() + keep
        if len(self._rest) > _LARGEST:
            raise ValueError("a line of the event stream has no end")
        for line in lines:
            yield from self._line(line)

    def _line(self, line: bytes) -> Iterator[bytes]:
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
        elif self._data:
            yield b"\n".join(self._data)
            self._data.clear()


class SSELink(HTTPLink):
    """One event stream for all rooms, or several where these are too many for one; where they change, others."""

    kind = "sse"
    _proven = False

    def __init__(self, address: Address, above: LinkListener, identity: Identity) -> None:
        super().__init__(address, above, identity)
        self._streams: set[_Stream] = set()

    async def _read(self, rooms: Sequence[str]) -> None:
        await self._unpaused()
        generation = self._generation
        response = await self._within(_HEADERS_WITHIN, self._request(rooms))
        media = (response.headers.getRawHeaders("Content-Type") or [""])[0].partition(";")[0].strip().lower()
        if response.code != 200 or media != "text/event-stream":
            await self._not_a_stream(response, generation)
            return
        self._proven = True
        stream = _Stream(self._address.reactor, partial(self._received, generation), self._fell_silent)
        self._streams.add(stream)
        try:
            await stream.read(response, self._paused)
        finally:
            self._streams.discard(stream)
        self._lost(Disconnect("the event stream ended"))

    async def _request(self, rooms: Sequence[str]) -> Any:
        query = self._wanted(rooms)
        if self._identity.name is not None:
            query.append(("name", self._identity.name))
        return await self._web.request("GET", "sse", query, self._client)

    async def _not_a_stream(self, response: Any, generation: int) -> None:
        parts: list[bytes] = []
        await self._within(_HEADERS_WITHIN, _whole(Body(parts.append), response))
        answer = Answer.of(response, b"".join(parts))
        error = answer.error("sse")
        if error is not None and generation == self._generation and self._survives(answer, error):
            return
        if not self._proven and (error is None or error.code == "unexpected" or response.code in _NOT_HERE):
            self._lost(
                Disconnect(f"/sse was answered with status {response.code} and no event stream", unavailable=True)
            )
        elif error is not None:
            self._lost(Disconnect(error.message, answer.retry_after, error, not error.temporary))
        else:
            self._lost(Disconnect("/sse was answered without an event stream"))

    def _received(self, generation: int, texts: Iterator[bytes]) -> None:
        try:
            for text in texts:
                if not self._closed and generation == self._generation:
                    self._event(msgspec.json.decode(text, type=dict[str, Any]))
        except (KeyError, ValueError) as error:
            self._lost(Disconnect(f"the event stream has what the protocol doesn't know: {error!r}"))

    def _event(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "welcome":
            if event["client"] != self._client:
                self._lost(Disconnect("the server no longer knows this client"))
            else:
                self._reading_began()
        elif kind == "joined":
            self._joined(event)
        elif kind == "goodbye":
            self._lost(loss_by_goodbye(event))
        else:
            self._take(event)

    def _joined(self, event: dict[str, Any]) -> None:
        """The room was joined when its history was read; what is new here is whether it goes on, and who is there."""
        if not event.get("recovered", True):
            self._take({"type": "reset", "room": event["room"], "position": event["position"]})
        if "count" in event and not self._closed:
            self._above.received(self, {**event, "type": "presence"})

    # Backpressure, and a stream that says nothing

    def pause(self) -> None:
        super().pause()
        for stream in self._streams:
            stream.pause()

    def resume(self) -> None:
        super().resume()
        for stream in self._streams:
            stream.resume()

    def _fell_silent(self) -> None:
        self._lost(Disconnect("the event stream fell silent"))


class _Stream:
    """One event stream that is read.

    :param take: is given the data of the blocks that are complete, in pieces as they come.
    :param fell_silent: is called when nothing has come for too long.
    """

    def __init__(
        self, reactor: Any, take: Callable[[Iterator[bytes]], object], fell_silent: Callable[[], object]
    ) -> None:
        self._reactor = reactor
        self._take = take
        self._fell_silent = fell_silent
        self._events = EventStream()
        self._body = Body(self._received)
        self._silence: IDelayedCall | None = None

    async def read(self, response: Any, paused: bool) -> None:
        """Read it to its end; cancelling that closes the connection."""
        reading = self._body.read(response)
        if paused:
            self.pause()
        else:
            self._listen()
        try:
            await reading
        finally:
            self._stop_listening()

    def _received(self, data: bytes) -> None:
        if self._silence is not None:
            self._listen()
        self._take(self._events.feed(data))

    def pause(self) -> None:
        """Take nothing from the server for now."""
        self._stop_listening()
        if self._body.transport is not None:
            self._body.transport.pauseProducing()

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._listen()
        if self._body.transport is not None:
            self._body.transport.resumeProducing()

    def _listen(self) -> None:
        if self._silence is not None:
            self._silence.reset(_SILENCE)
        else:
            self._silence = self._reactor.callLater(_SILENCE, self._silent)

    def _stop_listening(self) -> None:
        silence, self._silence = self._silence, None
        if silence is not None:
            silence.cancel()

    def _silent(self) -> None:
        self._silence = None
        self._fell_silent()


async def _whole(body: Body, response: Any) -> None:
    await body.read(response)
