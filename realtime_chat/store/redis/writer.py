"""Appending to the logs in Redis, many drafts a script.

A script whose answer was lost with its connection is sent again over the next one, under its number: Redis answers as
before if it was done, and does it if not, unless it is too late. None is done before those that were sent before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from realtime_chat.core.interfaces import TurnClock
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import Names
from realtime_chat.redis.rows import Row, as_message, encode_row, read_rows
from realtime_chat.redis.scripts import Script
from realtime_chat.redis.wire import Argument, ServerError, Unanswered
from realtime_chat.store.ages import Ages
from realtime_chat.store.redis.log import EARLY, LATE, LOST, RedisLog
from realtime_chat.store.retention import Retention, content_digest
from realtime_chat.values.counters import SIZES, Histogram
from realtime_chat.values.errors import InDoubt, RealtimeError, StoreError, out_of_order
from realtime_chat.values.model import AppendResult, Draft, Message, Position, User

__all__ = ["Appends", "LogWriter"]

_MOST_DRAFTS = 256
_BATCH_BYTES = 1024 * 1024
_MOST_IN_FLIGHT = 4
_MOST_WAITING = 20_000
_MOST_WAITING_BYTES = 64 * 1024 * 1024
_SECONDS_TO_STORE = 1.3
"""After which Redis stores nothing any more of what has arrived here."""
_SECONDS_TO_ANSWER = 1.7
"""After which we say that it is in doubt; the difference is for Redis' answer to come."""
_SECONDS_TO_WAIT = 1.0
"""For which a draft may wait to be sent at all."""
_BEFORE = b"BEFORE"
"""What a script answers to a message that follows one that isn't there."""
_PLACES = 2 * _MOST_IN_FLIGHT
"""Where Redis remembers its last answers, in turn."""

Outcome = AppendResult | RealtimeError


class Appends:
    """What the scripts did, for metrics; every number only grows."""

    def __init__(self) -> None:
        self.failed = 0
        self.sizes = Histogram(SIZES)


class _PendingAppend:
    """A draft on its way to Redis.

    :ivar came: when, by the reactor's clock.
    """

    __slots__ = ("answer", "at", "came", "draft")

    def __init__(self, draft: Draft, at: int, came: float) -> None:
        self.draft = draft
        self.at = at
        self.came = came
        self.answer: Deferred[AppendResult] = Deferred()


class _Batch:
    """What one script appends.

    :param number: its own.
    :param words: what the script is told of the drafts.
    :param before: the one that was sent before it, while that has no answer.
    :ivar in_doubt: whether it may be stored, as far as is known.
    """

    __slots__ = ("_waiting", "arrivals", "before", "in_doubt", "keys", "number", "words")

    def __init__(
        self, number: int, arrivals: list[_PendingAppend], keys: list[str], words: list[Argument], before: _Batch | None
    ) -> None:
        self.number = number
        self.arrivals = arrivals
        self.keys = keys
        self.words = words
        self.before = before
        self.in_doubt = False
        self._waiting: list[Deferred[None]] | None = []

    @property
    def came(self) -> float:
        """When the first of its drafts came."""
        return self.arrivals[0].came

    def end(self) -> None:
        """Nothing more is sent of it."""
        waiting, self._waiting, self.before = self._waiting or (), None, None
        for ended in waiting:
            ended.callback(None)

    @property
    def has_ended(self) -> bool:
        return self._waiting is None

    def ended(self) -> Deferred[None]:
        """Answers when nothing more is sent of it."""
        if self._waiting is None:
            return succeed(None)
        self._waiting.append(Deferred())
        return self._waiting[-1]


class LogWriter:
    """Appends what comes in a turn together, and keeps a few scripts under way.

    :param node: what no other node is called, nor this one when it is started again.
    :param ages: has the time that messages bear.
    """

    _log = Logger()

    def __init__(
        self,
        clock: TurnClock,
        link: RedisConnection,
        log: RedisLog,
        names: Names,
        script: Script,
        node: str,
        ages: Ages,
        retention: Retention,
    ) -> None:
        self._retention = retention
        self._clock = clock
        self._link = link
        self._redis_log = log
        self._names = names
        self._script = script
        self._node = node
        self._batches = 0
        self._last: _Batch | None = None
        self._stopped = False
        self._ages = ages
        self._collected: deque[_PendingAppend] = deque()
        self._submitting = False
        self._in_flight = 0
        self._repeating = 0
        self._waiting = 0
        self._waiting_bytes = 0
        self._idle: list[Deferred[None]] = []
        self.appends = Appends()

    def append(self, draft: Draft) -> Deferred[AppendResult]:
        """See :meth:`IMessageStore.append`."""
        size = len(draft.data)
        if not self._link.ready:
            return fail(StoreError("the store is not connected"))
        if self._waiting >= _MOST_WAITING or self._waiting_bytes + size > _MOST_WAITING_BYTES:
            return fail(StoreError("too many messages wait to be stored"))
        self._waiting += 1
        self._waiting_bytes += size
        arrival = _PendingAppend(draft, int(self._ages.now() * 1000), self._clock.seconds())
        self._collected.append(arrival)
        if not self._submitting:
            self._submitting = True
            self._clock.callLater(0, self._submit)
        return arrival.answer

    def stop(self) -> Deferred[None]:
        """Answers when everything that was accepted is answered; nothing more is."""
        self._stopped = True
        if not self._waiting:
            return succeed(None)
        self._idle.append(Deferred())
        return self._idle[-1]

    def lost(self) -> None:
        """The connection is gone; what wasn't sent will not be."""
        waiting, self._collected = self._collected, deque()
        self._refuse(waiting, StoreError("the connection to the store was lost"))

    # Sending

    def _submit(self) -> None:
        self._submitting = False
        self._drop_late()
        # What is repeated has its turn before what came later.
        while self._collected and self._in_flight < _MOST_IN_FLIGHT and not self._repeating:
            self._in_flight += 1
            batch = self._encode(self._take())
            Deferred.fromCoroutine(self._store(batch)).addErrback(self._mistake, batch)

    def _drop_late(self) -> None:
        late = []
        while self._collected and self._clock.seconds() - self._collected[0].came > _SECONDS_TO_WAIT:
            late.append(self._collected.popleft())
        self._refuse(late, StoreError("the store is too slow"))

    def _take(self) -> list[_PendingAppend]:
        batch: list[_PendingAppend] = []
        size = 0
        while self._collected and len(batch) < _MOST_DRAFTS and size < _BATCH_BYTES:
            arrival = self._collected.popleft()
            size += len(arrival.draft.data)
            batch.append(arrival)
        return batch

    async def _store(self, batch: _Batch) -> None:
        """Store and answer, whatever happens."""
        patience = max(0.0, batch.came + _SECONDS_TO_ANSWER - self._clock.seconds())
        refusal = self._clock.callLater(patience, self._give_up, batch, StoreError("the store is too slow"))
        try:
            self._answer(batch.arrivals, self._outcomes(batch, await self._run(batch)))
        except StoreError as error:
            self._give_up(batch, error)
        finally:
            if refusal.active():
                refusal.cancel()
            batch.end()
            self._in_flight -= 1
            self._submit()

    def _give_up(self, batch: _Batch, error: StoreError) -> None:
        """Say what is known of it now."""
        self._refuse(batch.arrivals, InDoubt() if batch.in_doubt else error)

    def _mistake(self, failure: Any, batch: _Batch) -> None:
        """Redis has answered something that it can't, or we have made a mistake."""
        self._log.failure("Appending {count} drafts", failure, count=len(batch.arrivals))
        self._refuse(batch.arrivals, StoreError("this message can't be stored"))

    async def _run(self, batch: _Batch) -> Any:
        """Run the script, again if that is of use: what was done but not answered is not done twice."""
        try:
            return await self._attempt(batch, self._script.call)
        except StoreError as error:
            why = error
        self._repeating += 1
        try:
            while self._is_worth_repeating(batch, why):
                try:
                    await self._mend(batch, why)
                    return await self._attempt(batch, self._script.send)
                except StoreError as error:
                    why = error
        finally:
            self._repeating -= 1
        raise why

    async def _attempt(self, batch: _Batch, run: Callable[..., Deferred[Any]]) -> Any:
        """Run the script once, and take note of whether it may have been done."""
        was_in_doubt, batch.in_doubt = batch.in_doubt, self._link.ready
        try:
            return await run(self._link, batch.keys, self._arguments(batch))
        except Unanswered:
            raise
        except StoreError as error:
            # The script's own refusals come after it has looked whether it was done; others don't run it at all.
            knows = isinstance(error, ServerError) and error.word in (*LOST, LATE, EARLY)
            batch.in_doubt = was_in_doubt and not knows
            raise

    def _is_worth_repeating(self, batch: _Batch, why: StoreError) -> bool:
        passed = self._clock.seconds() - batch.came
        if not isinstance(why, ServerError):
            return passed < _SECONDS_TO_ANSWER and not self._stopped
        if why.word in (*LOST, LATE, EARLY, "NOSCRIPT"):
            return passed < _SECONDS_TO_STORE
        self._log.warn("Redis refuses to append: {text}", text=why.text)
        return False

    async def _mend(self, batch: _Batch, why: StoreError) -> None:
        """Do what lets a script run that didn't, or wasn't heard of again; after those that were sent before it."""
        if batch.before is not None:
            await batch.before.ended()
            batch.before = None
        if not isinstance(why, ServerError):
            await self._link.usable()
        elif why.word not in ("NOSCRIPT", EARLY):
            await self._redis_log.look(self._link, self._link.info)

    def _arguments(self, batch: _Batch) -> list[Argument]:
        last = self._redis_log.redis_time(batch.came + _SECONDS_TO_STORE)
        now = self._redis_log.elapsed(), self._ages.cutoff()
        before = "" if batch.before is None or batch.before.has_ended else self._place(batch.before)
        return [self._link.info["run_id"], last, self._place(batch), batch.number, *now, before, *batch.words]

    def _place(self, batch: _Batch) -> str:
        """Where Redis remembers what it has answered."""
        return f"{self._node}:{batch.number % _PLACES}"

    def _encode(self, arrivals: list[_PendingAppend]) -> _Batch:
        rooms: dict[str, int] = {}
        keys = [self._names.log]
        words: list[Argument] = []
        for arrival in arrivals:
            draft = arrival.draft
            number = rooms.get(draft.room)
            if number is None:
                number = rooms[draft.room] = len(rooms) + 1
                keys += (self._names.stream(draft.room), self._names.keys(draft.room))
            words += (number, arrival.at, _row(arrival), *_key(draft), _after(draft))
        self._batches += 1
        before = None if self._last is None or self._last.has_ended else self._last
        self._last = _Batch(self._batches, arrivals, keys, words, before)
        return self._last

    # Answering

    def _outcomes(self, batch: _Batch, answers: list[Any]) -> list[Outcome]:
        epoch = answers[0].decode()
        self._redis_log.saw(epoch)
        self.appends.sizes.observe(len(batch.arrivals))
        return [
            self._outcome(arrival, epoch, answer) for arrival, answer in zip(batch.arrivals, answers[1:], strict=True)
        ]

    def _outcome(self, arrival: _PendingAppend, epoch: str, answer: Any) -> Outcome:
        draft = arrival.draft
        if isinstance(answer, int):
            self._redis_log.saw_top(draft.room, answer)
            return AppendResult(draft.placed(Position(epoch, answer), arrival.at))
        if answer == _BEFORE:
            return out_of_order()
        if not isinstance(answer, list):
            return self._refusal(answer)
        offset, at, row = answer
        return AppendResult(_first(draft, Position(epoch, offset), int(at), row), duplicate=True)

    def _refusal(self, word: bytes) -> RealtimeError:
        if word == b"MANY":
            return self._retention.too_many_rooms
        if word == b"FAST":
            return self._retention.too_fast
        return RealtimeError("key_reused", "this key was used for another message in this room")

    def _answer(self, batch: Sequence[_PendingAppend], outcomes: Sequence[Outcome]) -> None:
        for arrival, outcome in zip(batch, outcomes, strict=True):
            if not arrival.answer.called:
                self._count_out(arrival)
                if isinstance(outcome, RealtimeError):
                    arrival.answer.errback(outcome)
                else:
                    arrival.answer.callback(outcome)
        self._tell_idle()

    def _refuse(self, batch: Sequence[_PendingAppend] | deque[_PendingAppend], error: StoreError | InDoubt) -> None:
        self.appends.failed += bool(batch)
        for arrival in batch:
            if not arrival.answer.called:
                self._count_out(arrival)
                arrival.answer.errback(InDoubt() if isinstance(error, InDoubt) else StoreError(error.message))
        self._tell_idle()

    def _count_out(self, arrival: _PendingAppend) -> None:
        self._waiting -= 1
        self._waiting_bytes -= len(arrival.draft.data)

    def _tell_idle(self) -> None:
        if not self._waiting:
            waiting, self._idle = self._idle, []
            for idle in waiting:
                idle.callback(None)


def _row(arrival: _PendingAppend) -> bytes:
    draft = arrival.draft
    sender = draft.sender
    return encode_row(Row(arrival.at, draft.event, sender.id, sender.name, draft.key, msgspec.Raw(draft.data)))


def _key(draft: Draft) -> tuple[str, str]:
    """The name of a draft's idempotency entry in its room, and the digest of its content."""
    if draft.key is None:
        return "", ""
    return _entry(draft.sender, draft.key), content_digest(draft).hex()


def _after(draft: Draft) -> str:
    """The name of the entry that has to be there before, or nothing."""
    return "" if draft.after is None else _entry(draft.sender, draft.after)


def _entry(sender: User, key: str) -> str:
    return f"{len(sender.id.encode())}:{sender.id}:{key}"


def _first(draft: Draft, place: Position, at: int, row: bytes) -> Message:
    """The message that was stored under a draft's key; of one that is gone, what its key and the draft tell."""
    if not row:
        return draft.placed(place, at)
    (first,) = read_rows([row])
    return as_message(first, draft.room, place.epoch, place.offset)
