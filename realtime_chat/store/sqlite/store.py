"""Durable logs in one SQLite file.

One thread writes, and commits together whatever waits; another reads. An append is answered after the commit that
holds it was synced to the disk. While the disk hangs, nothing is answered: what became of a commit is not known before
it returns. Where the sync fails it is looked at, and what can't be seen is answered as in doubt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from realtime_chat.core.interfaces import IMessageStore, TurnClock
from realtime_chat.store.ages import Ages
from realtime_chat.store.retention import Retention
from realtime_chat.store.sqlite.file import SCHEMA, DatabaseFile
from realtime_chat.store.sqlite.reader import LogReader
from realtime_chat.store.sqlite.writer import MOST_DRAFTS, CommitInDoubt, LogWriter, Outcome
from realtime_chat.values.counters import SIZES, Histogram
from realtime_chat.values.errors import InDoubt, RealtimeError, StoreError, StoreRefused
from realtime_chat.values.model import AppendResult, Draft, Page

__all__ = ["Commits", "SQLiteStore"]

_T = TypeVar("_T")
_COMMIT_BYTES = 1024 * 1024
_MOST_WAITING = 20_000
_MOST_WAITING_BYTES = 64 * 1024 * 1024
_MOST_READS = 20_000

_PendingAppend = tuple[Draft | None, int, Deferred[Any]]
"""A draft on its way to the writing thread, its time, and its answer; without a draft, a check.

A NamedTuple would cost each message eight times as much to make.
"""


class _Reactor(TurnClock, Protocol):
    """The reactor as this store sees it (IReactorTime, IReactorFromThreads)."""

    def callFromThread(self, callable: Callable[..., Any], /, *args: Any) -> None: ...


class _Read(NamedTuple):
    """A read on its way to the reading thread."""

    read: Callable[[], Any]
    answer: Deferred[Any]


class Commits:
    """What the writing thread did, for metrics; every number only grows."""

    def __init__(self) -> None:
        self.commits = 0
        self.messages = 0
        self.failed = 0
        self.largest = 0
        self.sizes = Histogram(SIZES)

    def add(self, messages: int) -> None:
        """Count a commit."""
        self.commits += 1
        self.messages += messages
        self.largest = max(self.largest, messages)
        self.sizes.observe(messages)


@implementer(IMessageStore)
class SQLiteStore:
    """Logs in a SQLite file that outlive the process, a kill and a power cut.

    :param reactor: on whose thread everything is called and answered.
    :param path: the database; created where missing, in a directory that exists. Beside it stand ``-wal``, ``-shm`` and
        ``-lock`` files with its name.
    :param retention: what is kept.
    :param now: seconds since 1970, for ``Message.at`` and ages; called on other threads too.
    :param token: random bytes, as many as it is asked for.
    :param schema: see :func:`~realtime_chat.store.sqlite.file.load_schema`.
    :param tick: seconds between two looks after what is too old.
    :param monotonic: seconds that only grow, for ages; called on other threads too.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: _Reactor,
        path: str,
        retention: Retention,
        now: Callable[[], float],
        token: Callable[[int], bytes],
        *,
        schema: Sequence[str] = SCHEMA,
        tick: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reactor = reactor
        self._retention = retention
        self._ages = ages = Ages(retention.age, now, monotonic)
        self._tick = tick
        self._file = DatabaseFile(path, token, schema)
        self._reader = LogReader(self._file, retention, ages)
        self._writer = LogWriter(self._file, retention, ages, self._reader, self._replaced)
        self._collected: list[_PendingAppend] = []
        self._writing = False
        self._arrivals: SimpleQueue[list[_PendingAppend] | None] = SimpleQueue()
        self._answers: list[tuple[_PendingAppend, Outcome | None]] = []
        self._reads: SimpleQueue[_Read | None] = SimpleQueue()
        self._waiting = 0
        self._waiting_bytes = 0
        self._reads_waiting = 0
        self._closed: str | None = "the store is not started"
        self._stopping: list[Deferred[None]] | None = None
        self._doubt: Callable[[], None] = lambda: None
        self.commits = Commits()
        self.secret = b""

    def describe(self) -> str:
        """See :meth:`IMessageStore.describe`."""
        kept = f"the last {self._retention.count} messages a room"
        if self._retention.age is not None:
            kept += f", for {self._retention.age:g} s"
        return f"SQLite {self._file.path} (WAL, synchronous=FULL; {kept})"

    # On the reactor's thread.

    def start(self) -> Deferred[None]:
        """See :meth:`IMessageStore.start`."""
        started: Deferred[None] = Deferred()
        self._write_thread = threading.Thread(target=self._write, args=(started,), name="store-writer", daemon=True)
        self._read_thread = threading.Thread(target=self._read, name="store-reader", daemon=True)
        self._write_thread.start()
        return started

    def _started(self, started: Deferred[None], secret: bytes) -> None:
        self.secret = secret
        self._closed = None
        self._read_thread.start()
        started.callback(None)

    def stop(self) -> Deferred[None]:
        """See :meth:`IMessageStore.stop`."""
        if self._stopping is None:
            if self._closed is not None:
                return succeed(None)
            self._closed = "the store is stopped"
            self._stopping = []
            self._hand_over()
            self._arrivals.put(None)
        elif not self._write_thread.is_alive():
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        self._stopping.append(stopped)
        return stopped

    def _stopped(self) -> None:
        self._write_thread.join()
        for stopped in self._stopping or ():
            stopped.callback(None)

    def append(self, draft: Draft) -> Deferred[AppendResult]:
        """See :meth:`IMessageStore.append`."""
        size = len(draft.data)
        if self._closed is not None:
            return fail(StoreError(self._closed))
        if self._waiting >= _MOST_WAITING or self._waiting_bytes + size > _MOST_WAITING_BYTES:
            return fail(StoreError("too many messages wait to be stored"))
        self._waiting_bytes += size
        answer: Deferred[AppendResult] = Deferred()
        self._collect((draft, int(self._ages.now() * 1000), answer))
        return answer

    def check(self) -> Deferred[None]:
        """See :meth:`IMessageStore.check`."""
        if self._closed is not None:
            return fail(StoreError(self._closed))
        answer: Deferred[None] = Deferred()
        self._collect((None, 0, answer))
        return answer

    def watch(self, doubt: Callable[[], None], is_read: Callable[[str], bool] = lambda room: False) -> None:
        """See :meth:`IMessageStore.watch`; the file may be replaced."""
        self._doubt = doubt
        self._writer.is_read = is_read

    def _replaced(self) -> None:
        """On the writing thread: this is another log now, or has messages that were announced to nobody."""
        self._reactor.callFromThread(self._doubt)

    def _collect(self, arrival: _PendingAppend) -> None:
        """Let an arrival wait for the end of the turn, or for the end of the commit that is under way.

        So that what comes at once is committed together, and the two threads don't wake each other for each draft.
        """
        if not self._collected and not self._writing:
            self._reactor.callLater(0, self._submit)
        self._waiting += 1
        self._collected.append(arrival)

    def _submit(self) -> None:
        """Give the writing thread all that was collected."""
        if self._collected and not self._writing:
            self._writing = True
            self._hand_over()

    def _hand_over(self) -> None:
        self._arrivals.put(self._collected)
        self._collected = []

    def read_after(self, room: str, offset: int, limit: int) -> Deferred[Page]:
        """See :meth:`IMessageStore.read_after`."""
        return self._ask(lambda: self._reader.read_after(room, offset, limit))

    def read_before(self, room: str, offset: int | None, limit: int) -> Deferred[Page]:
        """See :meth:`IMessageStore.read_before`."""
        return self._ask(lambda: self._reader.read_before(room, offset, limit))

    def rooms(self, after: str, limit: int) -> Deferred[Sequence[str]]:
        """See :meth:`IMessageStore.rooms`."""
        return self._ask(lambda: self._reader.rooms(after, limit))

    def _ask(self, read: Callable[[], _T]) -> Deferred[_T]:
        if self._closed is not None:
            return fail(StoreError(self._closed))
        if self._reads_waiting >= _MOST_READS:
            return fail(StoreError("too many reads wait"))
        self._reads_waiting += 1
        answer: Deferred[_T] = Deferred()
        self._reads.put(_Read(read, answer))
        return answer

    def _answer(self, answers: Sequence[tuple[_PendingAppend, Outcome | None]], idle: bool) -> None:
        """Answer arrivals; ``idle`` says that the writing thread has done all that it was given."""
        if idle:
            self._writing = False
            if self._collected:
                self._reactor.callLater(0, self._submit)
        self._waiting -= len(answers)
        for (draft, _, answer), outcome in answers:
            if draft is not None:
                self._waiting_bytes -= len(draft.data)
            if isinstance(outcome, RealtimeError):
                answer.errback(outcome)
            else:
                answer.callback(outcome)

    def _answer_read(self, answer: Deferred[Any], result: Any) -> None:
        self._reads_waiting -= 1
        answer.callback(result)

    # On the reading thread.

    def _read(self) -> None:
        while (asked := self._reads.get()) is not None:
            try:
                result = asked.read()
            except StoreError as error:
                result = Failure(error)
            except Exception:
                result = Failure()
            self._reactor.callFromThread(self._answer_read, asked.answer, result)

    # On the writing thread.

    def _write(self, started: Deferred[None]) -> None:
        try:
            identity = self._writer.open()
        except StoreRefused as refusal:
            self._file.release()
            self._reactor.callFromThread(started.errback, Failure(refusal))
            return
        self._reactor.callFromThread(self._started, started, identity.secret)
        self._write_until_stopped()
        self._close()

    def _write_until_stopped(self) -> None:
        due = time.monotonic()
        while True:
            with suppress(Empty):
                arrivals = self._arrivals.get(timeout=max(0.0, due - time.monotonic()))
                if arrivals is None:
                    return
                self._store_all(arrivals)
            if time.monotonic() >= due:
                self._look_after()
                due = time.monotonic() + self._tick

    def _store_all(self, arrivals: list[_PendingAppend]) -> None:
        done = 0
        while done < len(arrivals):
            begun, done = done, _end_of_commit(arrivals, done)
            self._store(arrivals[begun:done])
            self._post(done == len(arrivals))
            self._writer.tidy()

    def _store(self, arrivals: list[_PendingAppend]) -> None:
        """Store and answer, whatever happens."""
        self._settle()
        drafts = [(draft, at) for draft, at, _ in arrivals if draft is not None]
        try:
            outcomes = self._writer.commit(drafts, check=len(drafts) < len(arrivals))
        except CommitInDoubt:
            self._find_out(arrivals)
        except InDoubt:
            self._leave_in_doubt(arrivals)
        except StoreError as error:
            self._refuse(arrivals, error)
        except Exception:
            self._log.failure("A commit of {count} drafts", count=len(arrivals))
            self._store_one_by_one(arrivals)
        else:
            self.commits.add(len(drafts))
            self._answer_soon(arrivals, outcomes)

    def _store_one_by_one(self, arrivals: list[_PendingAppend]) -> None:
        """Find the draft that can't be stored at all, so that it fails alone."""
        if len(arrivals) == 1:
            self._refuse(arrivals, StoreError("this message can't be stored"))
            return
        for arrival in arrivals:
            self._store([arrival])

    def _find_out(self, arrivals: list[_PendingAppend]) -> None:
        """Answer by what became of a commit whose sync failed, if that can be seen."""
        checks = [arrival for arrival in arrivals if arrival[0] is None]
        drafts = [arrival for arrival in arrivals if arrival[0] is not None]
        try:
            outcomes = self._writer.resolve_in_doubt()
        except StoreError as error:
            self._refuse(arrivals, error)
            return
        if outcomes is None:
            self._leave_in_doubt(arrivals)
        else:
            self._refuse(checks, StoreError("the disk failed"))
            self._answer_soon(drafts, outcomes)

    def _leave_in_doubt(self, arrivals: list[_PendingAppend]) -> None:
        self.commits.failed += 1
        self._answers += [
            (arrival, StoreError("the disk failed") if arrival[0] is None else InDoubt()) for arrival in arrivals
        ]

    def _settle(self) -> None:
        """See what became of the commit that was left in doubt; readers are told of it if it was stored."""
        if not self._writer.in_doubt:
            return
        with suppress(StoreError):
            if self._writer.resolve_in_doubt() is not None:
                self._replaced()

    def _look_after(self) -> None:
        try:
            self._settle()
            self._post()
            self._writer.look_after()
        except Exception:
            self._log.failure("Looking after {path}", path=self._file.path)

    def _answer_soon(self, arrivals: Sequence[_PendingAppend], outcomes: Sequence[Outcome]) -> None:
        """Keep the answers for :meth:`_post`; a check has no outcome, and is answered with None."""
        if len(outcomes) == len(arrivals):
            self._answers += zip(arrivals, outcomes, strict=True)
            return
        rest = iter(outcomes)
        self._answers += [(arrival, None if arrival[0] is None else next(rest)) for arrival in arrivals]

    def _refuse(self, arrivals: Sequence[_PendingAppend], error: StoreError) -> None:
        self.commits.failed += 1
        self._answers += [(arrival, StoreError(error.message)) for arrival in arrivals]

    def _post(self, idle: bool = False) -> None:
        """Send the reactor's thread what was answered."""
        answers, self._answers = self._answers, []
        if answers or idle:
            self._reactor.callFromThread(self._answer, answers, idle)

    def _close(self) -> None:
        self._settle()
        self._post()
        self._reads.put(None)
        self._read_thread.join()
        self._reader.close()
        self._writer.keep_spans()
        self._writer.leave()
        self._file.release()
        self._reactor.callFromThread(self._stopped)


def _end_of_commit(arrivals: Sequence[_PendingAppend], begin: int) -> int:
    """Where the commit ends that begins with this arrival."""
    size, end = 0, min(begin + MOST_DRAFTS, len(arrivals))
    for index in range(begin, end):
        draft = arrivals[index][0]
        if draft is not None:
            size += len(draft.data)
            if size > _COMMIT_BYTES:
                return index + 1
    return end
