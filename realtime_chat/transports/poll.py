"""Long poll: a read after a position that waits.

A poll is a session with one answer. It starts behind, like every reader; what it finds is its answer, and if it finds
nothing it is live until something comes or its time is up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from realtime_chat.core.hub import Hub
from realtime_chat.core.interfaces import R
from realtime_chat.core.log_view import StartPosition
from realtime_chat.core.room import Room
from realtime_chat.core.session import Session
from realtime_chat.core.wheel import DeadlineQueue
from realtime_chat.http.answers import Answer, JSONResource, answer, error_headers
from realtime_chat.http.clients import Wrap, as_it_is, asks_for_script, is_readable, known_client_of, wrap_for
from realtime_chat.http.site import RealtimeRequest, when_lost
from realtime_chat.http.subscribe_params import (
    SubscribeParams,
    check_rooms,
    memoized,
    natural,
    read_query,
    read_subscribe_params,
)
from realtime_chat.values import codec
from realtime_chat.values.codec import Entry
from realtime_chat.values.errors import Goodbye, RealtimeError, internal_error
from realtime_chat.values.model import ANONYMOUS, Position, check_room, naming, private_owner

__all__ = ["PollResource"]


class _Events:
    """Consecutive messages, of which a poll takes as many as go on its page."""

    __slots__ = ("_data", "count", "entries", "epoch", "room")

    def __init__(self, room: str, epoch: str, entries: Sequence[Entry]) -> None:
        self.room = room
        self.epoch = epoch
        self.entries = entries
        self.count = len(entries)
        self._data = _join(entries)

    def first(self, count: int) -> bytes:
        """The first ``count`` messages, as the members of an array."""
        return self._data if count == self.count else _join(self.entries[:count])

    def begin_within(self, size: int) -> int:
        """How many messages begin within so many bytes."""
        if len(self._data) <= size:
            return self.count
        count = 0
        for entry in self.entries:
            if size <= 0:
                break
            size -= len(entry.json)
            count += 1
        return count

    def position(self, count: int) -> str:
        """The position after the first ``count`` messages."""
        return f"{self.epoch}:{self.entries[count - 1].offset}"


def _join(entries: Sequence[Entry]) -> bytes:
    return b",".join([entry.json for entry in entries])


class _Event:
    """One event that stands in no log."""

    __slots__ = ("data", "kind")
    count: ClassVar[int] = 1

    def __init__(self, kind: str, data: bytes) -> None:
        self.kind = kind
        self.data = data


class _PollFanout:
    """The same events for every poll."""

    name = "poll"
    _log = Logger()

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> _Events:
        return _Events(room, epoch, entries)

    def encode_event(self, kind: str, data: bytes) -> _Event:
        return _Event(kind, data)

    def send(
        self, batch: _Events | _Event, readers: Mapping[R, None], first: Collection[R] = ()
    ) -> list[tuple[R, int]]:
        """Answer them all; none is left that could be full, and none gives commands that have replies."""
        for reader in list(readers):
            try:
                reader.transport.send_batch(batch)
            except Exception:  # one bad client never disturbs another
                self._log.failure("a poll could not be answered")
        return []


class _Poll:
    """One waiting request, as the transport of a session. Its first page is its last, and then it is full."""

    __slots__ = (
        "_at_once",
        "_bytes_left",
        "_client",
        "_events",
        "_events_left",
        "_hold",
        "_ignores_presence",
        "_looking",
        "_positions",
        "_remembers",
        "_request",
        "_room_left",
        "_wrap",
        "session",
        "write_paused",
    )

    fanout: ClassVar[_PollFanout] = _PollFanout()
    direct_send: ClassVar[None] = None
    queued: ClassVar[int] = 0
    _log = Logger()

    def __init__(self, request: Request, wrap: Wrap, hub: Hub, client: str, params: SubscribeParams) -> None:
        self.write_paused = False
        self._request: Request | None = request
        self._wrap = wrap
        self._looking = True  # at what is there already; once that was done, whatever comes is the answer
        self._room_left = hub.limits.page_messages
        self._bytes_left = hub.limits.page_bytes
        self._events_left = hub.limits.answer_bytes  # for what is no message
        self._client = client
        self._events: list[bytes] = []
        self._positions: dict[str, str] = {}
        self._at_once = False
        self._hold: DeadlineQueue[_Poll] | None = None
        self._remembers = bool(params.versions)  # what it was told of who is in a room, so that we needn't
        self._ignores_presence = False  # to that
        self.session = Session(hub, self, client, params.name, self.caught_up)
        when_lost(request, self._gone)

    def go_anonymous(self) -> None:
        """It goes on without its client, and would be another one each time: a guest that is in no room, and not told
        who is, unless it keeps versions."""
        self.session.user = ANONYMOUS
        self._ignores_presence = not self._remembers

    def begin(self, params: SubscribeParams, hold: DeadlineQueue[_Poll]) -> None:
        """Find where each room's reading starts, and what is there already.

        :param hold: ends those that wait as long as this one.
        """
        known = self._known_starts(params)
        if known is None:
            Deferred.fromCoroutine(self._look(params, hold)).addErrback(self.fail)
            return
        for index, (room, start) in enumerate(known):
            self._start_at(room, start, False, _version(params, index))
        self._look_done(hold)

    def check_readable(self, params: SubscribeParams) -> None:
        """See that its client may read all rooms.

        :raises RealtimeError: a room may not be read.
        """
        try:
            for name, _ in params.rooms:
                with naming(name):
                    self.session.check_readable(name)
        except RealtimeError:
            self._let_go()
            raise

    def _known_starts(self, params: SubscribeParams) -> list[tuple[Room, StartPosition]] | None:
        """Where the reading of all rooms starts, if that can be told without the store."""
        rooms = self.session.hub.rooms
        known = []
        for name, since in params.rooms:
            room = rooms.get(name)
            start = None if room is None else room.start_known(since)
            if room is None or start is None:
                return None
            known.append((room, start))
        return known

    async def _look(self, params: SubscribeParams, hold: DeadlineQueue[_Poll]) -> None:
        """The same, where the store has to be asked."""
        hub = self.session.hub
        last = self.session.last(params.last)
        for index, (name, since) in enumerate(params.rooms):
            with naming(name):
                room = await hub.room(name)
                start = await room.start(since, last)
            if self._request is None:
                return  # it is gone: no more rooms are looked up for it
            self._start_at(room, start, since is None, _version(params, index))
        self._look_done(hold)

    def _look_done(self, hold: DeadlineQueue[_Poll]) -> None:
        if self._request is None:
            return
        self.session.catch_up()
        if self._request is not None:
            self._hold = hold
            hold.add(self)
            if isinstance(self._request, RealtimeRequest):
                self._request.forget_question()

    def _start_at(self, room: Room, start: StartPosition, fresh: bool, version: str | None) -> None:
        hub = self.session.hub
        room.used = hub.clock.seconds()
        self._at_once = self._at_once or fresh
        subscription = self.session.subscribe(room, start)
        if subscription is not None and self.write_paused:  # its version says that it wasn't told
            hub.presence.defer_snapshot(room.name, subscription)
        elif subscription is not None:
            hub.presence.resume_poll(subscription, self.session.client, version, fresh)
        if start.recovered:
            self._positions[room.name] = str(start.position)
        else:
            self.reset(room.name, start.position)

    # What the session wants

    def send_event(self, kind: str, data: bytes) -> None:
        self._events.append(data)
        self._events_left -= len(data)
        self.write_paused = self.write_paused or self._events_left <= 0

    def send_batch(self, batch: _Events | _Event) -> int:
        if isinstance(batch, _Event):
            return self._take_event(batch)
        taken = min(self._room_left, batch.begin_within(self._bytes_left))
        if taken:
            events = batch.first(taken)
            self._events.append(events)
            self._positions[batch.room] = batch.position(taken)
            self._room_left -= taken
            self._bytes_left -= len(events)
        self.write_paused = self.write_paused or taken < batch.count or self._bytes_left <= 0
        if not self._looking:
            self.answer()
        return taken

    def _take_event(self, event: _Event) -> int:
        if event.kind == "presence" and self._ignores_presence:
            return 1
        self.send_event(event.kind, event.data)
        if not self._looking:
            self.answer()
        return 1

    def reset(self, room: str, position: Position) -> None:
        self._positions[room] = str(position)
        self._events.append(codec.encode_reset(room, position))

    def caught_up(self) -> None:
        self._looking = False
        if self._events or self._at_once:
            self.answer()

    def goodbye(self, goodbye: Goodbye) -> None:
        self._events.append(codec.encode_goodbye(goodbye))
        self.answer()

    # The one answer

    def answer(self) -> None:
        """Answer with what was collected, and let go of everything."""
        request, self._request = self._request, None
        if request is None:
            return
        versions = self._versions()
        self._let_go()
        body = codec.encode_poll(self._client, self._events, self._positions, versions)
        answer(request, body if self._wrap is as_it_is else self._wrap(Answer(body)))

    def _versions(self) -> dict[str, str]:
        presence, client, remember = self.session.hub.presence, self.session.client, not self._remembers
        subscriptions = self.session.subscriptions.items()
        return {room: presence.poll_version(subscription, client, remember) for room, subscription in subscriptions}

    def fail(self, failure: Failure) -> None:
        """Answer that it went wrong, and let go of everything."""
        request, self._request = self._request, None
        if request is None:
            return
        self._let_go()
        error = failure.value
        if not isinstance(error, RealtimeError):
            self._log.failure("a poll failed", failure)
            error = internal_error()
        answer(request, self._wrap(error_headers(request.responseHeaders, error)))

    def _gone(self) -> None:
        self._request = None
        self._let_go()

    def _let_go(self) -> None:
        self.session.close(polls=True)
        if self._hold is not None:
            self._hold.drop(self)


def _version(params: SubscribeParams, index: int) -> str | None:
    return params.versions[index] if params.versions else None


def _is_open(room: str) -> bool:
    try:
        return private_owner(check_room(room)) is None
    except RealtimeError:
        return False


class _Question(NamedTuple):
    """What a poll's address asks for.

    :ivar wait: in seconds.
    :ivar is_open: whether everybody may read these rooms; else it takes a look whether the client may.
    """

    params: SubscribeParams
    wait: float
    is_open: bool


class PollResource(JSONResource):
    """``/poll``."""

    isLeaf = True

    def __init__(self, hub: Hub, jsonp: bool) -> None:
        super().__init__()
        self._hub = hub
        self._jsonp = jsonp
        self._question = memoized(self._read_question)
        self._holds: dict[float, DeadlineQueue[_Poll]] = {}

    def is_guarded(self, request: Request) -> bool:
        return not asks_for_script(request, self._jsonp)

    def render_GET(self, request: Request) -> int:
        wrap = wrap_for(request, self._jsonp)
        try:
            return self._begin(request, wrap)
        except RealtimeError as error:
            return answer(request, wrap(error_headers(request.responseHeaders, error)))

    def _begin(self, request: Request, wrap: Wrap) -> int:
        self._hub.check_open()
        params, wait, is_open = self._question(request.uri.partition(b"?")[2])
        readable = is_readable(request, self._jsonp)
        client = known_client_of(request, self._hub.knows) if readable else None
        poll = _Poll(request, wrap, self._hub, client or self._hub.identities.issue(), params)
        if not readable or (client is None and all(since is not None for _, since in params.rooms)):
            poll.go_anonymous()
        if not is_open:
            poll.check_readable(params)
        poll.begin(params, self._holds.get(wait) or self._hold_for(wait))
        return NOT_DONE_YET

    def _hold_for(self, wait: float) -> DeadlineQueue[_Poll]:
        """What ends polls that wait so many seconds; there are at most as many as whole seconds in ``max_wait``."""
        wheel, clock = self._hub.wheel, self._hub.clock
        hold = self._holds[wait] = DeadlineQueue(wheel, clock.seconds, wait - wheel.lateness, _Poll.answer)
        return hold

    def _read_question(self, query: bytes) -> _Question:
        """What an address asks for."""
        limits = self._hub.limits
        args = read_query(query)
        params = read_subscribe_params(args, limits.max_limit)
        check_rooms(params, limits.max_rooms, "a poll", "poll?room=lobby")
        wait = natural(args, b"wait", int(limits.max_wait))
        return _Question(params, limits.wait if wait is None else wait, all(_is_open(room) for room, _ in params.rooms))
