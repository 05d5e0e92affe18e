"""A socket of a recovery namespace, as a reader of the namespace's log, and the record from which it recovers.

The socket is one cursor in the log. While its client reads too slowly, nothing is queued for it: it is left behind, and
goes on from the log. See :mod:`realtime_chat.core.room` for the states of a cursor.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Protocol

import msgspec
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.core.delivery import Delivery
from realtime_chat.core.interfaces import SESSION_SECONDS
from realtime_chat.core.log_view import StartPosition
from realtime_chat.core.room import Subscription
from realtime_chat.engineio.connection import Connection
from realtime_chat.socketio.log import NamespaceLog
from realtime_chat.socketio.log_fanout import LogBatch, LogFanout
from realtime_chat.socketio.membership import Memberships
from realtime_chat.socketio.recovery import MAX_RECORD, Pid, Record, decode_record, encode_record, is_recoverable_id
from realtime_chat.socketio.stored import NOTHING_TO_STORE, Stored
from realtime_chat.values.errors import Goodbye, RealtimeError, StoreError
from realtime_chat.values.json import encode_value
from realtime_chat.values.model import Position


class LogSocket(Protocol):
    """A socket, as its reader sees it.

    :ivar session: what the application keeps of it.
    """

    id: str
    rooms: set[str]
    session: dict[str, Any]

    @property
    def connection(self) -> Connection: ...

    @property
    def is_connected(self) -> bool: ...


class LogReader:
    """A socket's cursor in the log of its namespace.

    :ivar recovered: whether it goes on where its client was disconnected.
    :ivar pid: what its client recovers with; None for a client that can't.
    :ivar last: the offset of the last event that it was sent.
    :ivar connection: what the fan-out sends to.
    :ivar subscription: its cursor; None before it has begun.
    :ivar ended: answers when nothing more is written of the record.
    """

    _log = Logger()
    on_caught_up: ClassVar[None] = None

    def __init__(self, log: NamespaceLog, socket: LogSocket) -> None:
        self.log = log
        self.memberships = Memberships(socket.id)
        self.recovered = False
        self.pid: Pid | None = None
        self.last = 0
        self.ended = Stored()
        self.connection = socket.connection
        self.subscription: Subscription | None = None
        self._socket = socket
        self._hub = log.recovery.hub
        self._delivery = Delivery(self._hub, self)
        self._is_closed = self._is_lost = self._is_saving = self._is_retrying = False
        self._sent = Position("", 0)
        self._session: bytes | None = b"{}"  # as it was stored last
        self._unsaved: list[Stored] = []
        self._final: bytes | None = None

    # Where it begins

    async def begin(self, auth: Mapping[str, Any]) -> None:
        """Go on where the client was disconnected, or begin at the end of the log.

        :raises RealtimeError: ``store_unavailable``: then the connection is closed, so that the client comes back.
        """
        try:
            pid = self._given_pid(auth)
            start = None if pid is None else await self._recover(pid, auth.get("offset"))
            room = await self.log.load()
        except StoreError:
            self.connection.close("transport error")
            raise
        if self._is_closed:
            return
        if start is None:
            start = self._begin_anew(room.position)
        self._sent = start.position
        self.subscription = self._delivery.subscribe(room, start)
        for name in self._socket.rooms:
            self.memberships.enter(name, start.position.offset)
        self.log.fanout.add(self)

    def _given_pid(self, auth: Mapping[str, Any]) -> Pid | None:
        text = auth.get("pid")
        if not isinstance(text, str) or not self._can_recover:
            return None
        pid = self.log.recovery.read_pid(self.log.name, text)
        if pid is None:
            self._count("unknown")
        return pid

    @property
    def _can_recover(self) -> bool:
        return self.connection.version == 4

    def _count(self, outcome: str) -> None:
        self.log.recovery.outcomes[outcome] += 1

    def _begin_anew(self, position: Position) -> StartPosition:
        self.last = self.memberships.floor = position.offset
        if self._can_recover:
            self._hold(self.log.recovery.new_pid(self.log.name, position))
        return StartPosition(position, True)

    def _hold(self, pid: Pid) -> None:
        self.pid = pid
        self.log.holders[pid.key] = self

    def _release(self) -> None:
        if self.pid is not None and self.log.holders.get(self.pid.key) is self:
            del self.log.holders[self.pid.key]

    async def _recover(self, pid: Pid, offset: Any) -> StartPosition | None:
        """Where a client goes on that was away; None if something may be missing, or if nothing is known of it."""
        sessions = self._hub.session_store
        found = await self._take_over(pid)
        if found is None and not self._is_closed:
            found = await sessions.get(pid.key)
        record = decode_record(found)
        outcome, start = ("unknown", None) if record is None else await self._start_of(record, pid, offset)
        if self._is_closed:
            return None
        self._count(outcome)
        if start is None:
            self._release()
            self.pid = self._final = None
            await sessions.remove(pid.key)
        return start

    async def _take_over(self, pid: Pid) -> bytes | None:
        """Hold a client's record, once no other socket does.

        :returns: the record, as the last of those has written it; None if there was none.
        """
        found: bytes | None = None
        holders: dict[str, LogReader] = self.log.holders
        while (holder := holders.get(pid.key)) is not None:
            found = await holder.let_go()
            if holders.get(pid.key) is holder:  # it keeps what could not be stored
                break
        if not self._is_closed:
            self._final = found
            self._hold(pid)
        return found

    async def _start_of(self, record: Record, pid: Pid, offset: Any) -> tuple[str, StartPosition | None]:
        """Where the client of a record goes on, and the outcome."""
        given = _given_offset(offset, pid)
        after = max(given, record.sent) if given == record.last else given
        if after < record.memberships.floor:
            return "trimmed", None
        room = await self.log.load()
        start = await room.start(Position(record.epoch, after), 0)
        if not start.recovered:
            return "trimmed" if start.position.epoch == record.epoch else "other_log", None
        self._restore(record, given)
        return "recovered", start

    def _restore(self, record: Record, last: int) -> None:
        self.recovered, self.last = True, last
        self.memberships = record.memberships
        self._session = bytes(record.session)
        self._socket.id = record.memberships.id
        self._socket.rooms.update(record.memberships.rooms)
        self._socket.session = msgspec.json.decode(record.session)

    def open(self) -> None:
        """The CONNECT was answered: keep a record."""
        self._save()

    # The rooms that it is in

    def enter(self, room: str) -> Stored:
        """Enter a room, after the events that are on their way.

        :returns: answers when the record is stored.
        """
        if self._is_closed or self._is_id_of_other(room):
            return NOTHING_TO_STORE
        stored = Stored()
        self.log.when_stored(partial(self._entered, room, stored))
        return stored

    def _is_id_of_other(self, room: str) -> bool:
        """Whether a room's name is the id of another socket. What is sent to that one reaches nobody else."""
        return room != self._socket.id and (self.log.fanout.has(room) or is_recoverable_id(room))

    def _entered(self, room: str, stored: Stored, top: int) -> None:
        self.memberships.enter(room, top)
        if not self._is_closed:
            self.log.fanout.enter(self, room)
        self._save(stored)

    def leave(self, room: str) -> Stored:
        """Leave a room, after the events that are on their way.

        :returns: answers when the record is stored.
        """
        if self._is_closed:
            return NOTHING_TO_STORE
        stored = Stored()
        self.log.when_stored(partial(self._left, room, stored))
        return stored

    def _left(self, room: str, stored: Stored, top: int) -> None:
        self.memberships.leave(room, top)
        self.log.fanout.leave(self, room, top, self.log.flush())
        if self.subscription is not None and self._cursor().offset < self.memberships.floor:
            self.reset(self.log.name, self._cursor())  # it was in more rooms since then than are known
        self._save(stored)

    # The record

    def session_changed(self) -> None:
        """The application may have changed what it keeps of the socket: if so, store it."""
        if not self._is_closed and self.pid is not None and self._encoded_session() != self._session:
            self._save()

    def _encoded_session(self) -> bytes | None:
        """What the application keeps of the socket; None if JSON can't say it."""
        session = self._socket.session
        try:
            return encode_value(session) if session else b"{}"
        except (TypeError, ValueError, OverflowError, RecursionError):
            return None

    def _save(self, stored: Stored | None = None) -> None:
        """Store the record. What changes until a write under way ends is stored together."""
        stored = Stored() if stored is None else stored
        if self.pid is None or self.subscription is None:
            stored.done()
            return
        self._unsaved.append(stored)
        if not self._is_saving and not self._is_closed:
            self._write(True)

    def _write(self, is_connected: bool) -> None:
        assert self.pid is not None
        self._is_saving = True
        waiting, self._unsaved = self._unsaved, []
        sessions, record = self._hub.session_store, self._encoded_record()
        self._final = None if is_connected else record
        key = self.pid.key
        answer = sessions.remove(key) if record is None else sessions.put(key, record, is_connected)
        answer.addErrback(self._not_saved).addBoth(self._saved, waiting, is_connected)

    def _not_saved(self, failure: Failure) -> Failure:
        error, text = failure.value, "what a socket of {name} recovers by is not stored"
        if isinstance(error, RealtimeError):
            self._log.error(text + ": {why}", name=self.log.name, why=error.message)
        else:
            self._log.failure(text, failure, name=self.log.name)
        return failure

    def _saved(self, result: Failure | None, waiting: list[Stored], is_connected: bool) -> None:
        self._is_saving = False
        for stored in waiting:
            stored.done(result)
        if not is_connected:
            self._end(isinstance(result, Failure))
        elif self._is_closed:
            return
        elif self._unsaved:
            self._write(True)
        elif isinstance(result, Failure) and not self._is_retrying:
            self._is_retrying = True
            self._hub.wheel.call_later(self._hub.limits.retry, self._try_again)

    def _try_again(self) -> None:
        self._is_retrying = False
        self._save()

    def _encoded_record(self) -> bytes | None:
        """The record; None if the socket can't be recovered."""
        if self._is_lost:
            return None
        self._session = session = self._encoded_session()
        cursor = self._cursor()
        raw = msgspec.Raw(session or b"{}")
        record = encode_record(Record(cursor.epoch, self.memberships, raw, cursor.offset, self.last))
        if session is not None and len(record) <= MAX_RECORD:
            return record
        why = "isn't JSON" if session is None else f"has more than {MAX_RECORD} bytes"
        self._log.error("a socket of {name} can't be recovered: its session {why}", name=self.log.name, why=why)
        return None

    def _cursor(self) -> Position:
        """Up to where it was sent all that is for it."""
        subscription = self.subscription
        if subscription is not None and subscription.live:
            self._sent = self.log.flush() or self._sent  # or somewhat less, while it is being sent to
        elif subscription is not None:
            self._sent = Position(subscription.epoch, subscription.offset)
        return self._sent

    # The end

    async def let_go(self) -> bytes | None:
        """End, as the client has connected anew.

        :returns: the record; None if there is none, or if it is as it was stored.
        """
        self.connection.close("transport close")
        await self.ended
        return self._final

    def close(self, is_final: bool) -> None:
        """End.

        :param is_final: whether the client must not recover from this.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._delivery.pause_writing()
        self._cursor()
        self._is_lost |= is_final
        self._delivery.close()
        self.log.fanout.remove(self)
        if self.pid is None or self.subscription is None:
            self._end(self._final is not None)
        else:
            self.log.when_stored(lambda top: self._write(False))

    def _end(self, is_unsaved: bool = False) -> None:
        """Nothing more is written. A record that may not be stored is kept here for as long."""
        if is_unsaved:
            self._hub.wheel.call_later(SESSION_SECONDS, self._release)
        else:
            self._release()
        for stored in self._unsaved:
            stored.done()
        self.ended.done()

    # What its room and its delivery see

    @property
    def is_live(self) -> bool:
        """Whether it was sent all that is stored."""
        return self.subscription is not None and self.subscription.live

    @property
    def fanout(self) -> LogFanout:
        """What sends to all readers of the log."""
        return self.log.fanout

    @property
    def direct_send(self) -> LogReader:
        """What the fan-out gets of each reader."""
        return self

    @property
    def write_paused(self) -> bool:
        """Whether the socket takes nothing now."""
        return not self._socket.is_connected or self.connection.write_paused

    @property
    def queued(self) -> int:
        """Bytes that wait for the client."""
        return self.connection.queued

    def send_batch(self, batch: LogBatch) -> int:
        """Send what is for the socket, as far as it takes that: to a poll, all of it at once."""
        runs = [run for run in batch.runs if run.is_for(self.memberships)]
        if not runs:
            return batch.count
        taken = 0 if self.write_paused else self.connection.send_now([run.prepared for run in runs])
        if taken:
            self.last = runs[taken - 1].last
        return batch.count if taken == len(runs) else batch.count_before(runs[taken])

    def send_event(self, kind: str, data: bytes) -> None:
        """Do nothing: this log has no events of other kinds."""

    def reset(self, room: str, position: Position) -> None:
        """Events are missing: close the connection, so that the client comes back and is told."""
        self._is_lost = True
        self.connection.close("forced close")

    def goodbye(self, goodbye: Goodbye) -> None:
        """Do nothing: it isn't a session of the hub."""

    # What the socket tells

    def pause_writing(self) -> None:
        """The client takes no more for now."""
        self._delivery.pause_writing()

    def resume_writing(self) -> None:
        """The client takes more again."""
        if not self._is_closed:
            self._delivery.pump()


def _given_offset(text: Any, pid: Pid) -> int:
    """Up to which offset a client has all.

    A client that isn't recovered keeps its old offset. If that is from before its ``pid``, it has had no event since.
    """
    try:
        position = Position.parse(text if isinstance(text, str) else "")
    except RealtimeError:
        return pid.start.offset
    return max(position.offset, pid.start.offset) if position.epoch == pid.start.epoch else pid.start.offset
