"""Appending to the logs in Redis, a batch of drafts per script.

If the connection is lost before a script is answered, the script is sent again over the next connection, with the same
number. If Redis has run it, it answers as before. If not, it runs it, unless it is too late. No batch is stored before
the batches that were sent before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.rows import as_message, read_rows
from realtime_chat.redis.scripts import Script
from realtime_chat.redis.wire import Argument, ServerError, Unanswered
from realtime_chat.store.append_queue import (
    AppendOutcome,
    AppendQueue,
    CommitCounts,
    PendingAppend,
    batch_end,
    refusals,
)
from realtime_chat.store.idempotency import key_reused
from realtime_chat.store.redis.batch import ScriptBatch, encode_drafts
from realtime_chat.store.redis.log import OUT_OF_SEQUENCE, STALE_LOG, TOO_LATE, RedisLog
from realtime_chat.store.retention_clock import RetentionClock
from realtime_chat.values.errors import InDoubt, RealtimeError, StoreError, out_of_order
from realtime_chat.values.model import AppendResult, Draft, Message, Position

__all__ = ["RedisAppender"]

_MAX_IN_FLIGHT = 4
_STORE_WITHIN = 1.3
"""Seconds after its arrival in which Redis may store a draft."""
_ANSWER_WITHIN = 1.7
"""Seconds after which a draft is in doubt. The difference is for the answer of Redis to come."""
_SEND_WITHIN = 1.0
"""Seconds for which a draft may wait to be sent."""
_PRECEDING_MISSING = b"BEFORE"
"""The script's answer if the message that a message follows isn't there."""
_ANSWER_SLOTS = 2 * _MAX_IN_FLIGHT
"""In how many keys Redis remembers its last answers, in turn."""


class RedisAppender:
    """Sends what comes in one turn of the reactor together, with a few scripts in flight.

    :param reactor: its clock.
    :param script: ``lua/append.lua``.
    :param node: a name that no other node has, nor this one after a restart.
    :param clock: gives the times of messages.
    :ivar counts: counts for the metrics.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        connection: RedisConnection,
        log: RedisLog,
        names: RedisNames,
        script: Script,
        node: str,
        clock: RetentionClock,
    ) -> None:
        self._reactor = reactor
        self._connection = connection
        self._redis_log = log
        self._names = names
        self._script = script
        self._node = node
        self._clock = clock
        self._queue = AppendQueue(reactor, self._submit)
        self._batches = 0
        self._last: ScriptBatch | None = None
        self._stopped = False
        self._in_flight = 0
        self._retrying = 0
        self._idle: list[Deferred[None]] = []
        self.counts = CommitCounts()

    def append(self, draft: Draft) -> Deferred[AppendResult]:
        """See :meth:`IMessageStore.append`."""
        if not self._connection.ready:
            return fail(StoreError("the store is not connected"))
        return self._queue.append(draft, int(self._clock.now() * 1000), self._reactor.seconds())

    def stop(self) -> Deferred[None]:
        """Answer all that was accepted, and fire then."""
        self._stopped = True
        if not self._queue.unanswered:
            return succeed(None)
        self._idle.append(Deferred())
        return self._idle[-1]

    def connection_lost(self) -> None:
        """Refuse what was not sent yet."""
        self._refuse(self._queue.take(), StoreError("the connection to the store was lost"))

    # Sending

    def _submit(self) -> bool:
        self._refuse(self._queue.take(self._count_late()), StoreError("the store is too slow"))
        # Retries go before what came later.
        while self._queue.pending and self._in_flight < _MAX_IN_FLIGHT and not self._retrying:
            self._in_flight += 1
            batch = self._make_batch(self._queue.take(batch_end(self._queue.pending)))
            Deferred.fromCoroutine(self._store(batch)).addErrback(self._failed, batch)
        return False

    def _count_late(self) -> int:
        """Return how many of the first appends have waited for too long."""
        latest = self._reactor.seconds() - _SEND_WITHIN
        pending = self._queue.pending
        return next((index for index, one in enumerate(pending) if one.arrived >= latest), len(pending))

    def _make_batch(self, appends: list[PendingAppend]) -> ScriptBatch:
        self._batches += 1
        previous = None if self._last is None or self._last.is_finished else self._last
        self._last = ScriptBatch(self._batches, appends, *encode_drafts(appends, self._names), previous)
        return self._last

    async def _store(self, batch: ScriptBatch) -> None:
        """Store a batch, and answer it. Whatever happens, each draft gets an answer."""
        patience = max(0.0, batch.arrived + _ANSWER_WITHIN - self._reactor.seconds())
        timeout = self._reactor.callLater(patience, self._give_up, batch, StoreError("the store is too slow"))
        try:
            self._answer(zip(batch.appends, self._outcomes(batch, await self._run(batch)), strict=True))
        except StoreError as error:
            self._give_up(batch, error)
        finally:
            if timeout.active():
                timeout.cancel()
            batch.finish()
            self._in_flight -= 1
            self._submit()

    def _give_up(self, batch: ScriptBatch, error: StoreError) -> None:
        """Answer a batch by what is known of it now."""
        self._refuse(batch.appends, InDoubt() if batch.in_doubt else error)

    def _failed(self, failure: Failure, batch: ScriptBatch) -> None:
        """Log what must not happen: an impossible answer of Redis, or a bug here."""
        self._log.failure("Appending {count} drafts", failure, count=len(batch.appends))
        self._refuse(batch.appends, StoreError("this message can't be stored"))

    async def _run(self, batch: ScriptBatch) -> Any:
        """Run the script, and retry if that may help. A retry never stores anything twice."""
        try:
            return await self._attempt(batch, self._script.call)
        except StoreError as error:
            reason = error
        self._retrying += 1
        try:
            while self._should_retry(batch, reason):
                try:
                    await self._prepare_retry(batch, reason)
                    return await self._attempt(batch, self._script.send)
                except StoreError as error:
                    reason = error
        finally:
            self._retrying -= 1
        raise reason

    async def _attempt(self, batch: ScriptBatch, run: Callable[..., Deferred[Any]]) -> Any:
        """Run the script once, and note whether the batch may be stored."""
        was_in_doubt, batch.in_doubt = batch.in_doubt, self._connection.ready
        try:
            return await run(self._connection, batch.keys, self._arguments(batch))
        except Unanswered:
            raise
        except StoreError as error:
            # With these errors the script has found that the batch is not stored. With others it didn't run at all.
            is_absent = isinstance(error, ServerError) and error.word in (*STALE_LOG, TOO_LATE, OUT_OF_SEQUENCE)
            batch.in_doubt = was_in_doubt and not is_absent
            raise

    def _should_retry(self, batch: ScriptBatch, reason: StoreError) -> bool:
        passed = self._reactor.seconds() - batch.arrived
        if not isinstance(reason, ServerError):
            return passed < _ANSWER_WITHIN and not self._stopped
        if reason.word in (*STALE_LOG, TOO_LATE, OUT_OF_SEQUENCE, "NOSCRIPT"):
            return passed < _STORE_WITHIN
        self._log.warn("Redis refuses to append: {text}", text=reason.text)
        return False

    async def _prepare_retry(self, batch: ScriptBatch, reason: StoreError) -> None:
        """Wait for the batch before, then reconnect or initialise the log, as the failure requires."""
        if batch.previous is not None:
            await batch.previous.when_finished()
            batch.previous = None
        if not isinstance(reason, ServerError):
            await self._connection.when_ready()
        elif reason.word not in ("NOSCRIPT", OUT_OF_SEQUENCE):
            await self._redis_log.check(self._connection, self._connection.info)

    def _arguments(self, batch: ScriptBatch) -> list[Argument]:
        deadline = self._redis_log.redis_time(batch.arrived + _STORE_WITHIN)
        now = self._redis_log.elapsed(), self._clock.message_cutoff()
        previous = "" if batch.previous is None or batch.previous.is_finished else self._answer_slot(batch.previous)
        run_id = self._connection.info["run_id"]
        return [run_id, deadline, self._answer_slot(batch), batch.number, *now, previous, *batch.arguments]

    def _answer_slot(self, batch: ScriptBatch) -> str:
        """Name the key in which Redis remembers its answer."""
        return f"{self._node}:{batch.number % _ANSWER_SLOTS}"

    # Answering

    def _outcomes(self, batch: ScriptBatch, answers: list[Any]) -> list[AppendOutcome]:
        epoch = answers[0].decode()
        self._redis_log.observe_epoch(epoch)
        self.counts.sizes.observe(len(batch.appends))
        return [self._outcome(one, epoch, answer) for one, answer in zip(batch.appends, answers[1:], strict=True)]

    def _outcome(self, pending: PendingAppend, epoch: str, answer: Any) -> AppendOutcome:
        draft = pending.draft
        assert draft is not None
        if isinstance(answer, int):
            self._redis_log.observe_top(draft.room, answer)
            return AppendResult(draft.placed(Position(epoch, answer), pending.at))
        if not isinstance(answer, list):
            return self._refusal(answer)
        offset, at, row = answer
        return AppendResult(_first_message(draft, Position(epoch, offset), int(at), row), duplicate=True)

    def _refusal(self, word: bytes) -> RealtimeError:
        if word == _PRECEDING_MISSING:
            return out_of_order()
        if word == b"MANY":
            return self._clock.retention.too_many_rooms
        if word == b"FAST":
            return self._clock.retention.too_fast
        return key_reused()

    def _refuse(self, appends: Sequence[PendingAppend], error: StoreError | InDoubt) -> None:
        if appends:
            self.counts.failed += 1
            self._answer(refusals(appends, error))

    def _answer(self, answers: Iterable[tuple[PendingAppend, AppendOutcome | None]]) -> None:
        self._queue.answer(answers)
        if not self._queue.unanswered:
            waiting, self._idle = self._idle, []
            for idle in waiting:
                idle.callback(None)


def _first_message(draft: Draft, place: Position, at: int, row: bytes) -> Message:
    """Return the message that was stored under a draft's key. If only the key is left, make it from the draft."""
    if not row:
        return draft.placed(place, at)
    (first,) = read_rows([row])
    return as_message(first, draft.room, place.epoch, place.offset)
