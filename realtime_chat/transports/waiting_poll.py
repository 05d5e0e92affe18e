"""One poll that waits, as the transport of a session.

A poll is a session with one answer. It starts behind, like every reader. What it finds is its answer; if it finds
nothing, it is live until something comes or its time is up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import NOBODY, Identity
from realtime_chat.core.interfaces import R
from realtime_chat.core.log_view import StartPosition
from realtime_chat.core.properties import PropertyLog, after_position
from realtime_chat.core.rate_limiter import Usage
from realtime_chat.core.room import Room
from realtime_chat.core.session import Session
from realtime_chat.core.wheel import DeadlineQueue
from realtime_chat.http.answers import Answer, answer, charged_error
from realtime_chat.http.clients import Wrap, as_it_is, take
from realtime_chat.http.request import RealtimeRequest, when_lost
from realtime_chat.http.subscribe_params import SubscribeParams
from realtime_chat.values import codec
from realtime_chat.values.access import READ, format_rights
from realtime_chat.values.codec import Entry
from realtime_chat.values.errors import Goodbye, RateLimited, RealtimeError, internal_error, token_expired
from realtime_chat.values.limits import begin_within
from realtime_chat.values.model import Position, naming, room_of_log
from realtime_chat.values.rates import JOINS


class MessageBatch:
    """Consecutive messages of one room, of which each poll takes as many as fit its answer.

    :ivar count: how many messages there are.
    """

    __slots__ = ("_data", "_entries", "_epoch", "count", "room")

    def __init__(self, room: str, epoch: str, entries: Sequence[Entry]) -> None:
        self.room = room
        self.count = len(entries)
        self._epoch = epoch
        self._entries = entries
        self._data = _join(entries)

    def first(self, count: int) -> bytes:
        """The first ``count`` messages, as the items of a JSON array."""
        return self._data if count == self.count else _join(self._entries[:count])

    def begin_within(self, size: int) -> int:
        """How many messages begin within ``size`` bytes."""
        if len(self._data) <= size:
            return self.count
        return begin_within((len(entry.json) for entry in self._entries), size)

    def position(self, count: int) -> str:
        """The position after the first ``count`` messages."""
        return f"{self._epoch}:{self._entries[count - 1].offset}"


def _join(entries: Sequence[Entry]) -> bytes:
    return b",".join([entry.json for entry in entries])


class EventBatch:
    """One event that stands in no log.

    :ivar kind: its type.
    :ivar data: its JSON.
    """

    __slots__ = ("data", "kind")
    count: ClassVar[int] = 1

    def __init__(self, kind: str, data: bytes) -> None:
        self.kind = kind
        self.data = data


class PollFanout:
    """The same messages and events for every poll."""

    name = "poll"
    encode = MessageBatch
    encode_event = EventBatch
    _log = Logger()

    def send(
        self, batch: MessageBatch | EventBatch, readers: Mapping[R, None], first: Collection[R] = ()
    ) -> list[tuple[R, int]]:
        """Answer all polls. None of them is left whose writing could be paused, and none has replies to send."""
        for reader in list(readers):
            try:
                reader.transport.send_batch(batch)
            except Exception:  # one bad client never disturbs another
                self._log.failure("a poll could not be answered")
        return []


_NO_EVENTS: list[bytes] = []
"""Shared by all polls without events; nothing is ever added to it."""


class WaitingPoll:
    """One request, as the transport of a session, until it is answered.

    It is *reading* what the rooms have already (:meth:`begin`). If that is anything, it is the answer. Otherwise the
    poll is *waiting*: the next message or event, its deadline or a goodbye is the answer. Then it is *closed*, as it is
    when its client goes away. Writing is paused as soon as the answer is long enough.
    """

    __slots__ = (
        "_answers_at_once",
        "_bytes_left",
        "_deadlines",
        "_events",
        "_events_left",
        "_ignores_presence",
        "_is_reading",
        "_keeps_versions",
        "_messages_left",
        "_positions",
        "_request",
        "_usage",
        "_wrap",
        "session",
        "write_paused",
    )

    fanout: ClassVar[PollFanout] = PollFanout()
    direct_send: ClassVar[None] = None
    queued: ClassVar[int] = 0
    _log = Logger()

    def __init__(
        self,
        request: Request,
        wrap: Wrap,
        hub: Hub,
        identity: Identity,
        params: SubscribeParams,
        usage: Usage | None,
    ) -> None:
        self.write_paused = False
        self._request: Request | None = request
        self._wrap = wrap
        self._is_reading = True
        self._messages_left = hub.limits.page_messages
        self._bytes_left = hub.limits.page_bytes
        self._events_left = hub.limits.answer_bytes  # of events that are no messages
        self._usage = usage  # of its address
        self._events: list[bytes] = _NO_EVENTS
        self._positions: dict[str, str] | None = None  # where a batch was taken; elsewhere the subscription says it
        self._answers_at_once = False
        self._deadlines: DeadlineQueue[WaitingPoll] | None = None
        self._keeps_versions = bool(params.versions)  # of the members that it knows; otherwise the server keeps them
        # Nobody is in no room. It is told who is in the rooms only if it keeps versions.
        self._ignores_presence = identity is NOBODY and not self._keeps_versions
        self.session = Session(hub, self, identity)
        when_lost(request, self)

    def begin(self, params: SubscribeParams, deadlines: DeadlineQueue[WaitingPoll]) -> None:
        """Find where the reading of each room starts, and answer with what is there already, or wait.

        :param deadlines: ends the polls that wait as long as this one.
        :raises RealtimeError: a room may not be read, or has too many members; if that is known at once.
        """
        starts = self._starts_in_memory(params)
        if starts is None:
            self._take_reads(params)
            Deferred.fromCoroutine(self._read_rooms(params, deadlines)).addErrback(self.fail)
            return
        try:
            for index, (room, start) in enumerate(starts):
                self.start_at(room, start, False, _version(params, index))
            if params.properties:
                for (name, _), after in zip(params.rooms, params.properties, strict=True):
                    self._start_properties(self.session.hub.known_properties(name, after), after)
        except RealtimeError:
            self._close()
            raise
        self._wait(deadlines)

    def _take_reads(self, params: SubscribeParams) -> None:
        """Take what it costs to read the store after positions.

        :raises RateLimited: nothing is taken then.
        """
        reads = sum(since is not None for _, since in params.rooms)
        if self._request is None or not reads:
            return
        try:
            take(self._request, self.session.hub, self.session.identify(), ((JOINS, reads),))
        except RateLimited:
            self._close()
            raise

    def check_readable(self, params: SubscribeParams) -> None:
        """Check that the client may read all rooms.

        :raises RealtimeError: a room may not be read.
        """
        try:
            for name, _ in params.rooms:
                with naming(name):
                    self.session.check_right(name, READ)
        except RealtimeError:
            self._close()
            raise

    def _starts_in_memory(self, params: SubscribeParams) -> list[tuple[Room, StartPosition]] | None:
        """Where the reading of all rooms starts; None if the store has to be asked."""
        rooms = self.session.hub.rooms
        starts = []
        for name, since in params.rooms:
            room = rooms.get(name)
            start = None if room is None else room.start_known(since)
            if room is None or start is None:
                return None
            starts.append((room, start))
        if params.properties:
            for (name, _), after in zip(params.rooms, params.properties, strict=True):
                if after is not False and self.session.hub.known_properties(name, after) is None:
                    return None
        return starts

    async def _read_rooms(self, params: SubscribeParams, deadlines: DeadlineQueue[WaitingPoll]) -> None:
        """Find where the reading of each room starts, by the store."""
        last = self.session.last(params.last)
        for index, (name, since) in enumerate(params.rooms):
            with naming(name):
                room, start, log = await self.find_start(name, since, last, properties := params.properties_of(index))
            if self._request is None:
                return  # the client has gone: no more rooms are looked up
            self.start_at(room, start, since is None, _version(params, index))
            self._start_properties(log, properties)
        self._wait(deadlines)

    async def find_start(
        self, name: str, since: Position | None, last: int, properties: bool | Position
    ) -> tuple[Room, StartPosition, PropertyLog | None]:
        """Where the reading of a room starts, by the store; see :meth:`Hub.start_reading`."""
        return await self.session.hub.start_reading(name, since, last, properties)

    def _wait(self, deadlines: DeadlineQueue[WaitingPoll]) -> None:
        if self._request is None:
            return
        self._deadlines = deadlines
        self.session.delivery.pump()
        if self._request is not None:
            deadlines.add(self)
            if isinstance(self._request, RealtimeRequest):
                self._request.release_memory()

    def start_at(self, room: Room, start: StartPosition, is_first: bool, version: str | None) -> None:
        """Read a room from a position on.

        :param is_first: whether the client has given no position.
        :param version: of the members that the client knows; None if it gives none.
        """
        hub = self.session.hub
        room.used = hub.clock.seconds()
        self._answers_at_once = self._answers_at_once or is_first
        subscription = self.session.subscribe(room, start)
        if subscription is not None and self.write_paused:
            hub.presence.defer_list(room.name, subscription)
        elif subscription is not None:
            hub.presence.resume_poll(subscription, version, is_first)
        if not start.recovered:
            self.reset(room.name, start.position)

    def _start_properties(self, log: PropertyLog | None, properties: bool | Position) -> None:
        """Read the properties of a room. If the answer is long enough already, they come with the next one."""
        if log is None or self.session.closed:
            return
        if self.write_paused:
            self.session.delivery.subscribe_properties(log, after_position(properties), 0)
            return
        values = self.session.subscribe_properties((log, properties), None)
        if values.full:
            self.send_event("properties", values.encode(room_of_log(log.name)))
        for entry in () if values.full else values.entries:
            self.send_event(entry.kind, entry.json)

    # What the session calls

    def send_event(self, kind: str, data: bytes) -> None:
        """Add an event to the answer."""
        self._add(data)
        self._events_left -= len(data)
        self.write_paused = self.write_paused or self._events_left <= 0

    def _add(self, event: bytes) -> None:
        if self._events:
            self._events.append(event)
        else:
            self._events = [event]

    def send_batch(self, batch: MessageBatch | EventBatch) -> int:
        """Add messages or an event to the answer; answer at once if the poll is waiting.

        :returns: how many were taken.
        """
        if isinstance(batch, EventBatch):
            return self._take_event(batch)
        taken = min(self._messages_left, batch.begin_within(self._bytes_left))
        if taken:
            events = batch.first(taken)
            self._add(events)
            if self._positions is None:
                self._positions = {}
            self._positions[batch.room] = batch.position(taken)
            self._messages_left -= taken
            self._bytes_left -= len(events)
        self.write_paused = self.write_paused or taken < batch.count or self._bytes_left <= 0
        if not self._is_reading:
            self.answer()
        return taken

    def _take_event(self, event: EventBatch) -> int:
        if event.kind == "presence" and self._ignores_presence:
            return 1
        self.send_event(event.kind, event.data)
        if not self._is_reading:
            self.answer()
        return 1

    def reset(self, room: str, position: Position) -> None:
        """Add that messages are missing, and that delivery goes on after ``position``."""
        if self._positions is not None:
            self._positions.pop(room, None)
        self._add(codec.encode_reset(room, position))

    def on_caught_up(self) -> None:
        """All that the rooms have is read: answer with it, or wait."""
        if self._deadlines is None:
            return  # rights have changed while the rooms are looked up
        self._is_reading = False
        if self._events or self._answers_at_once:
            self.answer()

    def goodbye(self, goodbye: Goodbye) -> None:
        """Answer, with the reason why the session ends."""
        if goodbye.reason == "token_expired":
            self.fail(Failure(token_expired()))
            return
        self._add(codec.encode_goodbye(goodbye))
        self.answer()

    # The one answer

    def answer(self) -> None:
        """Answer with what was collected, and close."""
        request, self._request = self._request, None
        if request is None:
            return
        body = self.encode()
        self._close()
        answer(request, body if self._wrap is as_it_is else self._wrap(Answer(body)))

    def encode(self) -> bytes:
        """Encode what was collected."""
        session = self.session
        identity = session.identity or session.identify()
        events, self._events = self._events, _NO_EVENTS
        client = identity.client or session.hub.identities.issue()
        return codec.encode_poll(client, identity.is_reader, events, *self._rooms_now())

    def _rooms_now(self) -> tuple[dict[str, str], dict[str, str], dict[str, str], dict[str, str]]:
        """By room, its position, the version of its members, the rights in it, and the position in its properties."""
        positions, versions, rights, properties = {}, {}, {}, {}
        taken, presence, remember = self._positions or {}, self.session.hub.presence, not self._keeps_versions
        for subscription in self.session.delivery.all():
            room = subscription.room.name
            position = taken.get(room) or f"{subscription.epoch}:{subscription.offset}"
            if subscription.is_of_properties:
                if subscription.offset >= 0:
                    properties[room_of_log(room)] = position
                continue
            positions[room] = position
            versions[room] = presence.poll_version(subscription, remember)
            rights[room] = format_rights(subscription.rights)
        return positions, versions, rights, properties

    def fail(self, failure: Failure) -> None:
        """Answer with an error, and close."""
        request, self._request = self._request, None
        if request is None:
            return
        self._close()
        error = failure.value
        if not isinstance(error, RealtimeError):
            self._log.failure("a poll failed", failure)
            error = internal_error()
        answer(request, self._wrap(charged_error(request, error)))

    def request_lost(self) -> None:
        """The client has gone away."""
        self._request = None
        self._close()

    def _close(self) -> None:
        self.session.close(polls=True)
        usage, self._usage = self._usage, None
        if usage is not None:
            self.session.hub.limiter.close(usage, "polls")
        if self._deadlines is not None:
            self._deadlines.drop(self)


def open_poll(hub: Hub, address: str | None) -> Usage | None:
    """Count a poll for its address, until the poll is closed.

    :param address: None if there is no limit.
    :returns: the usage of the address.
    :raises RealtimeError: ``too_many``: too many polls of the address wait.
    """
    return None if address is None else hub.limiter.admit(address, "polls")


def _version(params: SubscribeParams, index: int) -> str | None:
    return params.versions[index] if params.versions else None
