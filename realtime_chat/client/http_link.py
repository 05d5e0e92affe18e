"""What the links over HTTP share: commands by ``POST /commands``, and which rooms are read from where."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.client.cursors import Cursors
from realtime_chat.client.errors import Refused
from realtime_chat.client.http_client import HTTPClient, JSONResponse
from realtime_chat.client.link import ClientIdentity, Disconnect, JoinRequest, Link, LinkListener, refusal
from realtime_chat.client.server_url import ServerURL
from realtime_chat.values.model import Position

_LINE_TOO_LONG = (414, 431)
_DEFAULT_LAST = 50
_MAX_HELD = 30
_MAX_COMMANDS = 100
_MAX_BYTES = 32 * 1024
_RENEW = "renew"
_FOR_MEMBERS = ("signal", "state")
"""Commands that the server accepts only of clients that read a room."""

_SEALED = 33
"""Characters of the shortest client that holds its guest's name, or its user."""

_REFUSED = frozenset(("unauthorized", "token_expired"))
"""Errors about who the client is."""

_LINK_ERRORS = _REFUSED | frozenset(("stopping", "unknown_host", "bad_origin", "not_found", "method_not_allowed"))
"""Errors that concern all commands: none can be sent."""


class QueuedCommand(NamedTuple):
    """A command; with the request that its reply answers, if it reads the history of a room to join."""

    command: Mapping[str, Any]
    request: JoinRequest | None = None


class CommandQueue:
    """Commands in order, taken in batches."""

    def __init__(self) -> None:
        self._queue: list[QueuedCommand] = []
        self._max_commands = _MAX_COMMANDS

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, command: Mapping[str, Any], request: JoinRequest | None = None) -> None:
        """Add a command at the end."""
        self._queue.append(QueuedCommand(command, request))

    def drop_join(self, room: str) -> None:
        """Remove what would join a room."""
        self._queue = [queued for queued in self._queue if queued.request is None or queued.request.room != room]

    def next_batch(self) -> list[QueuedCommand]:
        """Remove and return as many commands as one request may have."""
        size = count = 0
        for queued in self._queue[: self._max_commands]:
            size += len(msgspec.json.encode(queued.command))
            if count and size > _MAX_BYTES:
                break
            count += 1
        batch, self._queue = self._queue[:count], self._queue[count:]
        return batch

    def send_one_by_one(self, batch: list[QueuedCommand]) -> None:
        """Put a batch that was too large back, and return one command at a time from now on."""
        self._max_commands = 1
        self._queue[:0] = batch


class HTTPLink(Link):
    """A link whose commands go by ``POST /commands``, in order. A subclass's :meth:`_read` brings the events.

    A room is joined by reading its history; then :meth:`_read` follows its position. Whenever the rooms change, all
    reads are stopped and started again: each set of reads is a *generation*.

    :ivar _is_user: whether it is a user's client, which the server never replaces by another one.
    :ivar _max_rooms: how many rooms may be read; None if the server doesn't say.
    :ivar _is_reading: whether the server knows that this client reads rooms.
    :ivar _held: commands that wait until it does.
    """

    kind: str
    _log = Logger()

    def __init__(self, server: ServerURL, listener: LinkListener, identity: ClientIdentity) -> None:
        self._server = server
        self._listener = listener
        self._identity = identity
        self._client: str | None = None
        self._is_user = False
        self._http = HTTPClient(server)
        self._queue = CommandQueue()
        self._posting = False
        self._held: list[Mapping[str, Any]] = []
        self._is_reading = False
        self._cursors = Cursors()
        self._max_rooms: int | None = None
        self._reads: list[Deferred[None]] = []
        self._generation = 0
        self._tasks: set[Deferred[None]] = set()
        self._paused = False
        self._waiting_for_resume: list[Deferred[None]] = []
        self._closed = False

    # The Link interface

    def open(self) -> None:
        self._start_task(self._say_hello())

    def join(self, request: JoinRequest) -> None:
        last = _DEFAULT_LAST if request.last is None else request.last
        since = {} if request.since is None else {"since": request.since}
        if self._cursors.stop(request.room):
            self._restart_reads()
        self._enqueue({"type": "history", "room": request.room, **since, "limit": last}, request)

    def leave(self, room: str) -> None:
        if self._cursors.stop(room):
            self._restart_reads()
        self._queue.drop_join(room)

    def send(self, command: Mapping[str, Any]) -> None:
        if command["type"] in _FOR_MEMBERS and not self._is_reading:
            self._held = [*self._held[1 - _MAX_HELD :], command]
        else:
            self._enqueue(command)

    def renew(self, token: str) -> None:
        self._enqueue({"type": "hello", "id": _RENEW, "token": token})

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        waiting, self._waiting_for_resume = self._waiting_for_resume, []
        for deferred in waiting:
            deferred.callback(None)

    async def _resumed(self) -> None:
        """Wait while the link is paused."""
        while self._paused:
            self._waiting_for_resume.append(Deferred())
            await self._waiting_for_resume[-1]

    def close(self, leaving: bool = False) -> Deferred[None]:
        self._closed = True
        return Deferred.fromCoroutine(self._end(leaving))

    async def _end(self, leaving: bool) -> None:
        await deferLater(self._server.reactor, 0)  # one of our tasks may be calling us
        for task in list(self._tasks):
            self._cancel(task)
        await self._http.close()
        for _ in range(2):  # aborted connections are gone after two turns of the reactor
            await deferLater(self._server.reactor, 0)

    # Tasks, which end with the link

    def _start_task(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> Deferred[None]:
        """Run a coroutine; if it fails, the link is closed."""
        task = Deferred.fromCoroutine(coroutine)
        self._tasks.add(task)
        task.addErrback(self._failed, task)
        task.addBoth(lambda result: self._tasks.discard(task))
        return task

    def _cancel(self, task: Deferred[None]) -> None:
        self._tasks.discard(task)
        task.cancel()

    def _failed(self, failure: Failure, task: Deferred[None]) -> None:
        if task in self._tasks:  # else it was cancelled, and the error says nothing
            self._disconnect(Disconnect(self._server.explain(failure)))

    def _disconnect(self, disconnect: Disconnect) -> None:
        if not self._closed:
            self._listener.closed(self, disconnect)

    def _within(self, seconds: float, coroutine: Coroutine[Deferred[Any], Any, Any]) -> Deferred[Any]:
        return Deferred.fromCoroutine(coroutine).addTimeout(seconds, self._server.reactor)

    # Commands

    async def _say_hello(self) -> None:
        await deferLater(self._server.reactor, 0)  # an error that comes at once must be reported later, too
        response = await self._post_json({**self._identity.hello(), "id": "hello"})
        error = response.error("commands")
        if error is not None:
            self._disconnect(Disconnect.by_error(error, response.retry_after))
            return
        self._client = response.body["client"]
        self._is_user = "reader" in response.body
        self._max_rooms = response.body.get("rooms")
        self._listener.opened(self, response.body)
        self._post_soon()

    async def _post_json(self, body: Any) -> JSONResponse:
        return await self._http.exchange("commands", self._name_query(), self._client, msgspec.json.encode(body))

    def _name_query(self) -> list[tuple[str, str]]:
        """The guest's name, unless its client holds it."""
        name = self._identity.name
        return [] if name is None or len(self._client or "") >= _SEALED else [("name", name)]

    def _enqueue(self, command: Mapping[str, Any], request: JoinRequest | None = None) -> None:
        self._queue.add(command, request)
        if self._client is not None:
            self._post_soon()

    def _post_soon(self) -> None:
        """Post the queue in the next turn of the reactor, so that commands of one turn share a request."""
        if self._queue and not self._posting and not self._closed:
            self._posting = True
            self._start_task(self._post_queue())

    async def _post_queue(self) -> None:
        await deferLater(self._server.reactor, 0)
        while self._queue:
            batch = self._queue.next_batch()
            response = await self._post([queued.command for queued in batch])
            if not self._handle_response(batch, response):
                return
        self._posting = False

    async def _post(self, commands: Sequence[Mapping[str, Any]]) -> JSONResponse:
        return await self._post_json(commands[0] if len(commands) == 1 else commands)

    def _handle_response(self, batch: list[QueuedCommand], response: JSONResponse) -> bool:
        """Report the replies to a batch of commands. Returns whether the link is still open."""
        body = response.body
        error = None if isinstance(body, list) else response.error("commands")
        if error is not None and error.code == "too_large" and len(batch) > 1:
            self._queue.send_one_by_one(batch)
            return True
        is_reply = isinstance(body, dict) and "type" in body  # else a proxy has answered, or another program
        if error is not None and (len(batch) > 1 or not is_reply or _is_of_link(error, batch[0])):
            self._disconnect(Disconnect.by_error(error, response.retry_after))
            return False
        for (command, request), reply in zip(batch, body if isinstance(body, list) else [body], strict=True):
            if not self._closed:
                self._handle_reply({"id": command["id"], **reply} if "id" in command else reply, request)
        return not self._closed

    def _handle_reply(self, reply: dict[str, Any], request: JoinRequest | None) -> None:
        if request is None and reply.get("id") == _RENEW:
            self._renewed(reply)
        elif request is None:
            self._report_reply(reply)
        elif reply["type"] == "error":
            self._listener.refused(self, request.room, refusal(reply))
        elif self._max_rooms is not None and len(self._cursors) - (request.room in self._cursors) >= self._max_rooms:
            message = f"a client reads at most {self._max_rooms} rooms; leave one first"
            self._listener.refused(self, request.room, Refused("too_many", message, True))
        else:
            self._begin_room(request, reply)

    def _report_reply(self, reply: dict[str, Any]) -> None:
        if reply["type"] == "error" and reply["code"] in _REFUSED:
            self._disconnect(Disconnect.by_error(refusal(reply)))
        elif reply["type"] not in ("left", "ok") and reply.get("code") != "not_joined":
            self._listener.received(self, reply)

    def _renewed(self, reply: dict[str, Any]) -> None:
        """A new token is answered. The server renews what reads already; other requests have the new client."""
        if reply["type"] == "welcome":
            self._client = reply["client"]
        self._listener.renewed(self, reply)

    # Rooms

    def _begin_room(self, request: JoinRequest, page: dict[str, Any]) -> None:
        """Join a room with a page of its history, and report what a reply to ``join`` would have said."""
        recovered = request.since is not None and page["recovered"]
        joined = {
            "type": "joined",
            "room": request.room,
            "position": request.since if recovered else _start_of(page),
            "top": page["top"],
            "recovered": recovered or request.since is None,
        }
        self._cursors.start(request.room, page["position"], request.properties)
        for event in (joined, *page["messages"]):
            if not self._closed:
                self._listener.received(self, event)
        self._restart_reads()

    def _restart_reads(self) -> None:
        """The rooms have changed: stop all reads, and start others in the next turn of the reactor."""
        reads, self._reads = self._reads, []
        self._generation += 1
        for read in reads:  # one of them may be calling us
            self._server.reactor.callLater(0, self._cancel, read)
        self._is_reading = self._is_reading and bool(self._cursors)
        if self._cursors and not self._closed:
            self._reads.append(self._start_task(self._start_reads(self._generation)))

    async def _start_reads(self, generation: int) -> None:
        await deferLater(self._server.reactor, 0)
        if generation == self._generation:
            overhead = len(quote(f"{self._server.url}{self._client}{self._identity.name}"))
            for rooms in self._cursors.split(overhead):
                self._reads.append(self._start_task(self._read(rooms)))

    async def _read(self, rooms: Sequence[str]) -> None:
        """Report what follows the cursors of some rooms, while the link is open and the generation is the same."""
        raise NotImplementedError

    def _read_started(self) -> None:
        """The server knows that this client reads rooms: send what waited for that."""
        self._is_reading = True
        held, self._held = self._held, []
        for command in held:
            self.send(command)

    def _read_refused(self, response: JSONResponse, error: Refused, generation: int) -> None:
        """A read was answered with an error: go on without the room, with shorter requests, or not at all."""
        if generation != self._generation or not self._can_go_on(response, error):
            self._disconnect(Disconnect.by_error(error, response.retry_after))

    def _can_go_on(self, response: JSONResponse, error: Refused) -> bool:
        """Leave the one room that an error concerns, or shorten requests that are too long.

        :returns: False if the error is about something else.
        """
        room = response.body.get("room") if isinstance(response.body, dict) else None
        if room is not None and room in self._cursors:
            self.leave(room)
            self._listener.refused(self, room, error)
            return True
        if response.status in _LINE_TOO_LONG and self._cursors.shorten():
            self._restart_reads()
            return True
        return False

    def _deliver(self, event: dict[str, Any]) -> None:
        """An event has come: move its room's cursor, and report it."""
        if not self._closed:
            self._cursors.follow(event)
            if event.get("type") == "left" and self._cursors.stop(event["room"]):
                self._restart_reads()
            self._listener.received(self, event)


def _is_of_link(error: Refused, queued: QueuedCommand) -> bool:
    """Whether an error concerns more than the one command that it answers. That of a new token is about the token."""
    return error.code in _LINK_ERRORS and not (error.code in _REFUSED and queued.command.get("id") == _RENEW)


def _start_of(page: dict[str, Any]) -> str:
    """The position just before the first message of a page."""
    if not page["messages"]:
        return str(page["position"])
    first = Position.parse(page["messages"][0]["position"])
    return str(Position(first.epoch, first.offset - 1))
