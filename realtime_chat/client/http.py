"""What links by HTTP have in common: requests, and commands by ``POST /commands``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from http.cookiejar import CookieJar
from io import BytesIO
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Cooperator, deferLater
from twisted.logger import Logger
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

from realtime_chat.client.address import Address
from realtime_chat.client.errors import Refused
from realtime_chat.client.link import Disconnect, Identity, JoinRequest, Link, LinkListener, refusal
from realtime_chat.values.model import Position

__all__ = ["Answer", "Body", "HTTPLink", "Patience", "Web"]

T = TypeVar("T")

_ANSWER_WITHIN = 30.0
"""Seconds in which an answer, or the next piece of it, has to come, or the server has to take more of a request."""
_PIECE = 16 * 1024
_MOST_COMMANDS = 100
_MOST_BYTES = 32 * 1024
_LONGEST_LINE = 7900
"""Bytes of a request's line; nginx takes 8,192 of it, and we keep below 8,000."""

_SHORTEST_LINE = 500
_TOO_LONG = (414, 431)
_GROWS = 64
"""Bytes that a position and a version may still grow by, while their room is read by the same request."""

_DEFAULT_LAST = 50
_MOST_HELD = 30
_FOR_READERS = ("signal", "state")


class Answer(msgspec.Struct, frozen=True):
    """What a request was answered with; ``body`` is its JSON, or None where it has none."""

    status: int
    body: Any
    retry_after: float = 0.0

    @classmethod
    def of(cls, response: Any, body: bytes) -> Answer:
        """What a response and its whole body say."""
        after = (response.headers.getRawHeaders("Retry-After") or ["0"])[0]
        return cls(response.code, _decode(body), float(after) if after.isdigit() else 0.0)

    def error(self, path: str) -> Refused | None:
        """What the server refuses; None where it answered what was asked for."""
        if isinstance(self.body, dict) and self.body.get("type") == "error":
            return refusal(self.body)
        if 200 <= self.status < 300 and self.body is not None:
            return None
        what = f"/{path} was answered with status {self.status} and no JSON; is this the URL of a realtime_chat daemon?"
        return Refused("unexpected", what, True)


class Body(Protocol):
    """The body of an answer, as it comes.

    :param take: is given its parts.
    """

    transport: Any

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take = take
        self._ended: Deferred[None] = Deferred(self._stop)

    def read(self, response: Any) -> Deferred[None]:
        """Fires when it has ended; cancelling it closes the connection.

        :raises twisted.web.client.ResponseFailed: by the Deferred: it was cut off.
        """
        response.deliverBody(self)
        return self._ended

    def _stop(self, deferred: Deferred[None]) -> None:
        if self.transport is not None:
            self.transport.resumeProducing()
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._take(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._ended.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):  # the latter: it ends with the connection, and can't say more
            self._ended.callback(None)
        else:
            self._ended.errback(reason)


class Patience:
    """A time-out that begins anew with each sign of progress.

    :param seconds: for which there may be none.
    """

    def __init__(self, reactor: Any, seconds: float) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._alarm: IDelayedCall | None = None
        self._is_over = False

    def wait(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
        """Run something.

        :raises TimeoutError: by the Deferred: there was no progress, and it was cancelled.
        """
        waiting = Deferred.fromCoroutine(coroutine)
        self._alarm = self._reactor.callLater(self._seconds, self._end, waiting)
        return waiting.addBoth(self._ended)

    def renew(self) -> None:
        """There is progress."""
        if self._alarm is not None and self._alarm.active():
            self._alarm.reset(self._seconds)

    def _end(self, waiting: Deferred[Any]) -> None:
        self._is_over = True
        waiting.cancel()

    def _ended(self, result: Any) -> Any:
        if self._is_over:
            return Failure(TimeoutError(f"no progress for {self._seconds:g} seconds"))
        if self._alarm is not None:
            self._alarm.cancel()
        return result


class _Pieces(BytesIO):
    """Bytes that are read piece by piece; each time, those before are on their way.

    :param renew: is told.
    """

    def __init__(self, data: bytes, renew: Callable[[], None]) -> None:
        super().__init__(data)
        self._renew = renew

    def read(self, size: int | None = -1) -> bytes:
        self._renew()
        return super().read(size)


def _upload(reactor: Any, body: bytes, renew: Callable[[], None]) -> FileBodyProducer:
    cooperator = Cooperator(scheduler=lambda step: reactor.callLater(0, step))
    return FileBodyProducer(_Pieces(body, renew), cooperator, _PIECE)


class Web:
    """Requests to one daemon, over connections of its own."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._pool = HTTPConnectionPool(address.reactor)
        self._pool.retryAutomatically = False
        # Cookies, as a proxy may know by one which process it has sent us to.
        self._agent = ContentDecoderAgent(CookieAgent(address.agent(self._pool), CookieJar()), [(b"gzip", GzipDecoder)])

    def get(
        self,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        client: str | None = None,
        seconds: float | None = None,
    ) -> Deferred[Answer]:
        """Ask for JSON.

        :param seconds: in which the answer, or the next piece of it, has to come.
        :raises TimeoutError: by the Deferred: it didn't.
        """
        return self._exchange("GET", path, query, client, None, seconds)

    def post(self, path: str, body: bytes, query: Sequence[tuple[str, str]], client: str | None) -> Deferred[Answer]:
        """Send JSON, and read the JSON of the answer.

        :raises TimeoutError: by the Deferred: nothing went on for too long.
        """
        return self._exchange("POST", path, query, client, body, None)

    def _exchange(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        client: str | None,
        body: bytes | None,
        seconds: float | None,
    ) -> Deferred[Answer]:
        patience = Patience(self._address.reactor, _ANSWER_WITHIN if seconds is None else seconds)
        upload = None if body is None else _upload(self._address.reactor, body, patience.renew)
        return patience.wait(self._read(self.request(method, path, query, client, upload), patience.renew))

    def request(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        client: str | None = None,
        body: FileBodyProducer | None = None,
    ) -> Deferred[Any]:
        """Send a request; fires with the response when its headers are there."""
        headers = Headers()
        if client is not None:
            headers.setRawHeaders("Realtime-Client", [client])
        if body is not None:
            headers.setRawHeaders("Content-Type", ["application/json"])
        url = f"{self._address.url}{path}?{urlencode(query)}" if query else self._address.url + path
        asked: Deferred[Any] = self._agent.request(method.encode("ascii"), url.encode("ascii"), headers, body)
        return asked

    async def _read(self, asked: Deferred[Any], renew: Callable[[], None]) -> Answer:
        parts: list[bytes] = []

        def take(part: bytes) -> None:
            parts.append(part)
            renew()

        response = await asked
        renew()
        await Body(take).read(response)
        return Answer.of(response, b"".join(parts))

    def close(self) -> Deferred[None]:
        """Fires when all connections that aren't in use are closed."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None


class HTTPLink(Link):
    """Commands by ``POST /commands``, in order; how events come is a subclass's affair.

    A room is joined by reading its history; from there on, its position is followed by :meth:`_read`. What a server or
    a proxy takes of a request's line is less than many rooms need: they are read by several requests side by side.

    :ivar _cursors: for each room that is read, what follows which position is asked for.
    :ivar _most_rooms: how many that may be; None where the server doesn't say.
    :ivar _longest_line: bytes that a request's line may have.
    """

    kind: str
    _log = Logger()

    def __init__(self, address: Address, above: LinkListener, identity: Identity) -> None:
        self._address = address
        self._above = above
        self._identity = identity
        self._client: str | None = None
        self._web = Web(address)
        self._queue: list[tuple[dict[str, Any], JoinRequest | None]] = []
        self._posting = False
        self._one_by_one = False
        self._held: list[dict[str, Any]] = []
        self._reads = False
        self._cursors: dict[str, str] = {}
        self._most_rooms: int | None = None
        self._longest_line = _LONGEST_LINE
        self._readings: list[Deferred[None]] = []
        self._generation = 0
        self._tasks: set[Deferred[None]] = set()
        self._paused = False
        self._pausing: list[Deferred[None]] = []
        self._closed = False

    # What the core wants

    def open(self) -> None:
        self._spawn(self._say_hello())

    def join(self, wish: JoinRequest) -> None:
        last = _DEFAULT_LAST if wish.last is None else wish.last
        since = {} if wish.since is None else {"since": wish.since}
        if self._cursors.pop(wish.room, None) is not None:
            self._read_anew()
        self._enqueue({"type": "history", "room": wish.room, **since, "limit": last}, wish)

    def leave(self, room: str) -> None:
        if self._cursors.pop(room, None) is not None:
            self._read_anew()
        self._queue = [(command, wish) for command, wish in self._queue if wish is None or wish.room != room]

    def send(self, command: Mapping[str, Any]) -> None:
        if command["type"] in _FOR_READERS and not self._reads:
            self._held = [*self._held[1 - _MOST_HELD :], dict(command)]
        else:
            self._enqueue(dict(command), None)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        pausing, self._pausing = self._pausing, []
        for deferred in pausing:
            deferred.callback(None)

    async def _unpaused(self) -> None:
        """Wait for as long as nothing is to be read."""
        while self._paused:
            self._pausing.append(Deferred())
            await self._pausing[-1]

    def close(self, leaving: bool = False) -> Deferred[None]:
        self._closed = True
        return Deferred.fromCoroutine(self._end(leaving))

    async def _end(self, leaving: bool) -> None:
        await deferLater(self._address.reactor, 0)  # whoever closes us may be called by one of our tasks
        for task in list(self._tasks):
            self._cancel(task)
        await self._web.close()
        for _ in range(2):  # connections that were cut off are no more then
            await deferLater(self._address.reactor, 0)

    # Tasks, which end with the link

    def _spawn(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
        """Let something run; where it fails, the link is lost."""
        task = Deferred.fromCoroutine(coroutine)
        self._tasks.add(task)
        task.addErrback(self._failed, task)
        task.addBoth(lambda result: self._tasks.discard(task))
        return task

    def _cancel(self, task: Deferred[None]) -> None:
        self._tasks.discard(task)
        task.cancel()

    def _failed(self, failure: Failure, task: Deferred[None]) -> None:
        if task in self._tasks:  # what a request that is cancelled fails with depends on how far it was
            self._lost(Disconnect(self._address.explain(failure)))

    def _lost(self, loss: Disconnect) -> None:
        if not self._closed:
            self._above.closed(self, loss)

    def _within(self, seconds: float, coroutine: Coroutine[Deferred[Any], Any, Any]) -> Deferred[Any]:
        return Deferred.fromCoroutine(coroutine).addTimeout(seconds, self._address.reactor)

    # Commands

    async def _say_hello(self) -> None:
        await deferLater(self._address.reactor, 0)  # what fails at once is told later, too
        answer = await self._ask({**self._identity.hello(), "id": "hello"})
        error = answer.error("commands")
        if error is not None:
            self._lost(_loss(error, answer.retry_after))
            return
        self._client = answer.body["client"]
        self._most_rooms = answer.body.get("rooms")
        self._above.opened(self, answer.body)
        self._post_soon()

    async def _ask(self, body: Any) -> Answer:
        name = self._identity.name
        query = [] if name is None else [("name", name)]
        return await self._web.post("commands", msgspec.json.encode(body), query, self._client)

    def _enqueue(self, command: dict[str, Any], wish: JoinRequest | None) -> None:
        self._queue.append((command, wish))
        if self._client is not None:
            self._post_soon()

    def _post_soon(self) -> None:
        """Send what waits, at the end of this turn, so that what comes together goes together."""
        if self._queue and not self._posting and not self._closed:
            self._posting = True
            self._spawn(self._post_all())

    async def _post_all(self) -> None:
        await deferLater(self._address.reactor, 0)
        while self._queue:
            batch = self._next_batch()
            answer = await self._post([command for command, _ in batch])
            if not self._answered(batch, answer):
                return
        self._posting = False

    def _next_batch(self) -> list[tuple[dict[str, Any], JoinRequest | None]]:
        """As many commands as go into one request."""
        size = count = 0
        most = 1 if self._one_by_one else _MOST_COMMANDS
        for command, _ in self._queue[:most]:
            size += len(msgspec.json.encode(command))
            if count and size > _MOST_BYTES:
                break
            count += 1
        batch, self._queue = self._queue[:count], self._queue[count:]
        return batch

    async def _post(self, commands: list[dict[str, Any]]) -> Answer:
        return await self._ask(commands[0] if len(commands) == 1 else commands)

    def _answered(self, batch: list[tuple[dict[str, Any], JoinRequest | None]], answer: Answer) -> bool:
        """Tell what a request was answered with.

        :returns: whether the link is still there.
        """
        replies = answer.body if isinstance(answer.body, list) else [answer.body]
        error = None if isinstance(answer.body, list) else answer.error("commands")
        if error is not None and error.code == "too_large" and len(batch) > 1:
            self._one_by_one = True
            self._queue[:0] = batch
            return True
        if error is not None and (len(batch) > 1 or error.code in _OF_THE_LINK or "type" not in answer.body):
            self._lost(_loss(error, answer.retry_after))
            return False
        for (command, wish), reply in zip(batch, replies, strict=True):
            if not self._closed:
                self._replied({"id": command["id"], **reply} if "id" in command else reply, wish)
        return not self._closed

    def _replied(self, reply: dict[str, Any], wish: JoinRequest | None) -> None:
        if wish is None:
            self._forward(reply)
        elif reply["type"] == "error":
            self._above.refused(self, wish.room, refusal(reply))
        elif self._most_rooms is not None and len(self._cursors.keys() - {wish.room}) >= self._most_rooms:
            message = f"a client reads at most {self._most_rooms} rooms; leave one first"
            self._above.refused(self, wish.room, Refused("too_many", message, True))
        else:
            self._begin_room(wish, reply)

    def _forward(self, reply: dict[str, Any]) -> None:
        if reply["type"] == "error" and reply["code"] == "unauthorized":
            self._lost(_loss(refusal(reply), 0.0))
        elif reply["type"] not in ("left", "ok") and reply.get("code") != "not_joined":
            self._above.received(self, reply)

    # Rooms

    def _begin_room(self, wish: JoinRequest, page: dict[str, Any]) -> None:
        """Join a room with a page of its history, as if it had been joined with a reply to ``join``."""
        recovered = wish.since is not None and page["recovered"]
        joined = {
            "type": "joined",
            "room": wish.room,
            "position": wish.since if recovered else _before(page),
            "top": page["top"],
            "recovered": recovered or wish.since is None,
        }
        self._cursors[wish.room] = page["position"]
        for event in (joined, *page["messages"]):
            if not self._closed:
                self._above.received(self, event)
        self._read_anew()

    def _read_anew(self) -> None:
        """The rooms are others now: ask for them, in a turn of its own."""
        readings, self._readings = self._readings, []
        self._generation += 1
        for reading in readings:  # one of them may be what calls us
            self._address.reactor.callLater(0, self._cancel, reading)
        self._reads = self._reads and bool(self._cursors)
        if self._cursors and not self._closed:
            self._readings.append(self._spawn(self._read_soon(self._generation)))

    def _reading_began(self) -> None:
        """The server knows that this client is in its rooms: say what only those may say who are."""
        self._reads = True
        held, self._held = self._held, []
        for command in held:
            self.send(command)

    async def _read_soon(self, generation: int) -> None:
        await deferLater(self._address.reactor, 0)
        if generation == self._generation:
            for rooms in self._parts():
                self._readings.append(self._spawn(self._read(rooms)))

    def _parts(self) -> list[tuple[str, ...]]:
        """The rooms, in parts that one request each has room for."""
        parts: list[list[str]] = []
        fixed = len(quote(f"{self._address.url}{self._client}{self._identity.name}"))
        left = 0
        for room, since in self._cursors.items():
            needed = len(urlencode({"room": room, "since": since, "presence": ""})) + 1 + _GROWS
            if left < needed:
                parts.append([])
                left = self._longest_line - fixed
            parts[-1].append(room)
            left -= needed
        return [tuple(part) for part in parts]

    async def _read(self, rooms: Sequence[str]) -> None:
        """Bring what follows these rooms' cursors, for as long as the link lives and the generation is the same."""
        raise NotImplementedError

    def _wanted(self, rooms: Sequence[str]) -> list[tuple[str, str]]:
        """Rooms and their cursors, as a query."""
        return [("room", room) for room in rooms] + [("since", self._cursors[room]) for room in rooms]

    def _survives(self, answer: Answer, error: Refused) -> bool:
        """What one room has is that room's trouble, and a request that is too long can be shorter: read on then.

        :param error: what a request to read was answered with.
        :returns: whether that was it; else the link is to be lost.
        """
        room = answer.body.get("room") if isinstance(answer.body, dict) else None
        if room in self._cursors:
            self.leave(room)
            self._above.refused(self, room, error)
        elif answer.status in _TOO_LONG and self._longest_line > _SHORTEST_LINE:
            self._longest_line //= 2
            self._read_anew()
        else:
            return False
        return True

    def _take(self, event: dict[str, Any]) -> None:
        """An event came: follow it, and tell it."""
        if self._closed:
            return
        if event.get("type") in ("message", "reset") and event.get("room") in self._cursors:
            self._cursors[event["room"]] = event["position"]
        self._above.received(self, event)


_OF_THE_LINK = frozenset(("unauthorized", "stopping", "unknown_host", "bad_origin", "not_found", "method_not_allowed"))
"""Errors that say nothing of a command, but that none can be sent."""


def _loss(error: Refused, after: float) -> Disconnect:
    return Disconnect(error.message, after=after, error=error, permanent=not error.temporary)


def _before(page: dict[str, Any]) -> str:
    """The position that a page begins after."""
    if not page["messages"]:
        return str(page["position"])
    first = Position.parse(page["messages"][0]["position"])
    return str(Position(first.epoch, first.offset - 1))
