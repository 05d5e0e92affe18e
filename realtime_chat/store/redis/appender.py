"""Appending to the logs in Redis, a batch of drafts per script.

If the connection is lost before a script is answered, the script is sent again over the next connection, with the same
number. If Redis has run it, it answers as before. If not, it runs it, unless it is too late. No batch is stored before
the batches that were sent before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.rows import MessageRow, encode_row, read_messages
from realtime_chat.redis.wire import Argument, ServerError, Unanswered
from realtime_chat.store.append_queue import (
    Answers,
    AppendOutcome,
    AppendQueue,
    CommitCounts,
    PendingAppend,
    batch_end,
    refusals,
)
from realtime_chat.store.idempotency import content_digest, key_reused
from realtime_chat.store.redis.shared_logs import OUT_OF_SEQUENCE, STALE_LOGS, TOO_LATE, SharedLogs
from realtime_chat.values.errors import InDoubt, RealtimeError, StoreError, out_of_order
from realtime_chat.values.model import AppendResult, Draft, Message, Position, User, is_properties_log

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


@attrs.define(eq=False)
class _ScriptBatch:
    """What one script appends.

    :param number: one more than that of the batch before.
    :param keys: the keys of Redis that it uses.
    :param arguments: the arguments of the script for the drafts.
    :param previous: the batch that was sent before, while it has no answer; it alone waits for that one.
    :ivar in_doubt: whether it may be stored.
    :ivar finished: fires when it will not be sent again.
    """

    number: int
    appends: list[PendingAppend]
    keys: list[str]
    arguments: list[Argument]
    previous: _ScriptBatch | None
    in_doubt: bool = False
    finished: Deferred[None] = attrs.field(factory=Deferred)

    @property
    def arrived(self) -> float:
        """When the first of its drafts came, by the reactor's clock."""
        return self.appends[0].arrived


class RedisAppender:
    """Sends what comes in one turn of the reactor together, with a few scripts in flight.

    :param reactor: its clock.
    :param node: a name that no other node has, nor this one after a restart.
    :ivar counts: counts for the metrics.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        connection: RedisConnection,
        logs: SharedLogs,
        node: str,
    ) -> None:
        self._reactor = reactor
        self._connection = connection
        self._logs = logs
        self._script = logs.append
        self._node = node
        self._clock = logs.clock
        self._queue = AppendQueue(reactor, self._submit)
        self._batches = 0
        self._last: _ScriptBatch | None = None
        self._stopped: Deferred[None] | None = None
        self._in_flight = 0
        self._retrying = 0
        self.counts = CommitCounts()

    def append(self, draft: Draft) -> Deferred[AppendResult]:
        """See :meth:`IMessageStore.append`."""
        if not self._connection.ready:
            return fail(StoreError("the store is not connected"))
        return self._queue.append(draft, self._clock.now_ms(), self._reactor.seconds())

    def stop(self) -> Deferred[None]:
        """Answer all that was accepted, and fire then."""
        self._stopped = Deferred()
        self._answer(())
        return self._stopped

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

    def _make_batch(self, appends: list[PendingAppend]) -> _ScriptBatch:
        self._batches += 1
        previous = None if self._last is None or self._last.finished.called else self._last
        self._last = _ScriptBatch(self._batches, appends, *_encode_drafts(appends, self._logs.names), previous)
        return self._last

    async def _store(self, batch: _ScriptBatch) -> None:
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
            batch.previous = None
            batch.finished.callback(None)
            self._in_flight -= 1
            self._submit()

    def _give_up(self, batch: _ScriptBatch, error: StoreError) -> None:
        """Answer a batch by what is known of it now."""
        self._refuse(batch.appends, InDoubt() if batch.in_doubt else error)

    def _failed(self, failure: Failure, batch: _ScriptBatch) -> None:
        """Log what must not happen: an impossible answer of Redis, or a bug here."""
        self._log.failure("Appending {count} drafts", failure, count=len(batch.appends))
        self._refuse(batch.appends, StoreError("this message can't be stored"))

    async def _run(self, batch: _ScriptBatch) -> Any:
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

    async def _attempt(self, batch: _ScriptBatch, run: Callable[..., Deferred[Any]]) -> Any:
        """Run the script once, and note whether the batch may be stored."""
        was_in_doubt, batch.in_doubt = batch.in_doubt, self._connection.ready
        try:
            return await run(self._connection, batch.keys, self._arguments(batch))
        except Unanswered:
            raise
        except StoreError as error:
            # With these errors the script has found that the batch is not stored. With others it didn't run at all.
            is_absent = isinstance(error, ServerError) and error.word in (*STALE_LOGS, TOO_LATE, OUT_OF_SEQUENCE)
            batch.in_doubt = was_in_doubt and not is_absent
            raise

    def _should_retry(self, batch: _ScriptBatch, reason: StoreError) -> bool:
        passed = self._reactor.seconds() - batch.arrived
        if not isinstance(reason, ServerError):
            return passed < _ANSWER_WITHIN and self._stopped is None
        if reason.word in (*STALE_LOGS, TOO_LATE, OUT_OF_SEQUENCE, "NOSCRIPT"):
            return passed < _STORE_WITHIN
        self._log.warn("Redis refuses to append: {text}", text=reason.text)
        return False

    async def _prepare_retry(self, batch: _ScriptBatch, reason: StoreError) -> None:
        """Wait for the batch before, then reconnect or initialise the logs, as the failure requires."""
        if batch.previous is not None:
            await batch.previous.finished
            batch.previous = None
        if not isinstance(reason, ServerError):
            await self._connection.when_ready()
        elif reason.word not in ("NOSCRIPT", OUT_OF_SEQUENCE):
            await self._logs.check(self._connection, self._connection.info)

    def _arguments(self, batch: _ScriptBatch) -> list[Argument]:
        deadline = self._logs.redis_time(batch.arrived + _STORE_WITHIN)
        now = self._logs.elapsed(), self._clock.message_cutoff()
        previous = "" if batch.previous is None or batch.previous.finished.called else self._answer_slot(batch.previous)
        run_id = self._connection.info["run_id"]
        return [run_id, deadline, self._answer_slot(batch), batch.number, *now, previous, *batch.arguments]

    def _answer_slot(self, batch: _ScriptBatch) -> str:
        return f"{self._node}:{batch.number % _ANSWER_SLOTS}"

    # Answering

    def _outcomes(self, batch: _ScriptBatch, answers: list[Any]) -> list[AppendOutcome]:
        epoch = answers[0].decode()
        self._logs.observe_epoch(epoch)
        self.counts.sizes.observe(len(batch.appends))
        return [self._outcome(one, epoch, answer) for one, answer in zip(batch.appends, answers[1:], strict=True)]

    def _outcome(self, pending: PendingAppend, epoch: str, answer: Any) -> AppendOutcome:
        draft = pending.draft
        assert draft is not None
        if isinstance(answer, int):
            self._logs.observe_top(draft.room, answer)
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
            return self._clock.retention.too_fast(1 / self._clock.retention.room_rate)
        if word == b"FULL":
            return self._clock.retention.too_many_properties
        return key_reused()

    def _refuse(self, appends: Sequence[PendingAppend], error: StoreError | InDoubt) -> None:
        if appends:
            self.counts.failed += 1
            self._answer(refusals(appends, error))

    def _answer(self, answers: Answers) -> None:
        self._queue.answer(answers)
        if self._stopped is not None and not self._stopped.called and not self._queue.unanswered:
            self._stopped.callback(None)


def _first_message(draft: Draft, place: Position, at: int, row: bytes) -> Message:
    """Return the message that was stored under a draft's key. If only the key is left, make it from the draft."""
    if not row:
        return draft.placed(place, at)
    (first,) = read_messages(draft.room, place.epoch, [place.offset], [row])
    return first


def _encode_drafts(appends: Sequence[PendingAppend], names: RedisNames) -> tuple[list[str], list[Argument]]:
    """Make the keys and the arguments of a script from drafts; see ``lua/append.lua``."""
    rooms: dict[str, int] = {}
    keys = [names.log]
    arguments: list[Argument] = []
    for pending in appends:
        draft = pending.draft
        assert draft is not None
        number = rooms.get(draft.room)
        if number is None:
            number = rooms[draft.room] = len(rooms) + 1
            keys += (names.stream(draft.room), names.keys(draft.room))
        at = pending.at
        condition = _property(draft) if is_properties_log(draft.room) else _after(draft)
        arguments += (number, at, _row(draft, at), *_key(draft), condition)
    return keys, arguments


def _row(draft: Draft, at: int) -> bytes:
    sender = draft.sender
    return encode_row(MessageRow(at, draft.event, sender.id, sender.name, draft.key, msgspec.Raw(draft.data)))


def _key(draft: Draft) -> tuple[str, str]:
    """Return the name of a draft's idempotency entry in its room, and the digest of its content."""
    if draft.key is None:
        return "", ""
    return _entry_name(draft.sender, draft.key), content_digest(draft).hex()


def _after(draft: Draft) -> str:
    """Return the name of the entry that has to exist, or nothing."""
    return "" if draft.after is None else _entry_name(draft.sender, draft.after)


def _property(draft: Draft) -> str:
    """Return the size of a property's data, or nothing if it is removed, and its name."""
    return f"{len(draft.data) or ''}:{draft.event}"


def _entry_name(sender: User, key: str) -> str:
    return f"{len(sender.id.encode())}:{sender.id}:{key}"
