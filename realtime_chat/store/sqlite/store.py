"""Durable logs in one SQLite file.

One thread writes, and commits together whatever waits (:mod:`~realtime_chat.store.sqlite.group_commit`). Another thread
reads. An append is answered after its commit was synced to the disk. While the disk hangs, nothing is answered, as a
commit that has not returned may succeed. If a sync fails, the store looks whether the commit is on the disk. If that
can't be seen, the answer is ``in_doubt``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from realtime_chat.core.interfaces import IMessageStore
from realtime_chat.store.append_queue import Answers, AppendQueue, CommitCounts
from realtime_chat.store.retention import Retention, RetentionClock
from realtime_chat.store.sqlite.file import SCHEMA, DatabaseFile
from realtime_chat.store.sqlite.group_commit import GroupCommitThread
from realtime_chat.store.sqlite.reader import PageReader
from realtime_chat.store.sqlite.sessions import Change, SQLiteSessions
from realtime_chat.store.sqlite.writer import SQLiteWriter
from realtime_chat.values.errors import StoreError
from realtime_chat.values.model import AppendResult, Draft, Page


@implementer(IMessageStore)
class SQLiteStore:
    """Logs in a SQLite file. They survive the end of the process, a kill and a power cut.

    :param reactor: IReactorTime and IReactorFromThreads; all methods are called, and all answers come, on its thread.
    :param path: the database. It is created if missing, in a directory that exists. Beside it are files with the same
        name and ``-wal``, ``-shm`` and ``-lock`` at the end.
    :param retention: what is kept.
    :param time: seconds since 1970, for ``Message.at`` and ages; called on other threads too.
    :param random_bytes: gives as many as it is asked for.
    :param schema: see :func:`~realtime_chat.store.sqlite.file.load_schema`.
    :param tick: seconds between two sweeps.
    :param monotonic: seconds that only grow, for ages; called on other threads too.
    :ivar commits: counts for the metrics.
    :ivar sessions: see :class:`~realtime_chat.core.interfaces.ISessionStore`.
    """

    def __init__(
        self,
        reactor: Any,
        path: str,
        retention: Retention,
        time: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        *,
        schema: Sequence[str] = SCHEMA,
        tick: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reactor = reactor
        self._retention = retention
        self._clock = RetentionClock(retention, time, monotonic)
        self._file = DatabaseFile(path, random_bytes, schema)
        self._reader = PageReader(self._file, self._clock, reactor.callFromThread)
        self._writer = SQLiteWriter(self._file, self._clock, self._reader, self._notify_change)
        self.commits = CommitCounts()
        self._write_thread = GroupCommitThread(
            self._writer, self.commits, tick, self._send_answers, self._notify_change
        )
        self._queue = AppendQueue(reactor, self._submit)
        self.sessions = SQLiteSessions(self._clock, self._change, self._read_session)
        self._closed: str | None = "the store is not started"
        self._stopping: list[Deferred[None]] | None = None
        self._on_epoch_change: Callable[[], None] = lambda: None
        self.secret = b""

    def describe(self) -> str:
        return f"SQLite {self._file.path} (WAL, synchronous=FULL; {self._retention.describe()})"

    # On the reactor's thread.

    def start(self) -> Deferred[None]:
        started: Deferred[None] = Deferred()
        call = self._reactor.callFromThread
        self._write_thread.start(lambda secret: call(self._opened, started, secret), self._close)
        return started

    def _opened(self, started: Deferred[None], secret: bytes | Failure) -> None:
        if isinstance(secret, Failure):
            started.errback(secret)
            return
        self.secret = secret
        self._closed = None
        self._reader.start()
        started.callback(None)

    def stop(self) -> Deferred[None]:
        if self._stopping is None:
            if self._closed is not None:
                return succeed(None)
            self._closed = "the store is stopped"
            self._stopping = []
            self._write_thread.submit(self._queue.take())
            self._write_thread.stop()
        elif not self._write_thread.is_alive:
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        self._stopping.append(stopped)
        return stopped

    def _stopped(self) -> None:
        self._write_thread.join()
        for stopped in self._stopping or ():
            stopped.callback(None)

    def append(self, draft: Draft) -> Deferred[AppendResult]:
        if self._closed is not None:
            return fail(StoreError(self._closed))
        return self._queue.append(draft, self._clock.now_ms())

    def check(self) -> Deferred[None]:
        return self._refusal() or self._queue.check()

    def _change(self, change: Change) -> Deferred[None]:
        return self._refusal() or self._queue.change(change)

    def _read_session(self, key: str) -> Deferred[bytes | None]:
        return self._refusal() or self._reader.session(key)

    def _submit(self) -> bool:
        """Submit all that waits. What comes during the commit waits, so that threads don't wake up for each draft."""
        self._write_thread.submit(self._queue.take())
        return True

    def _answer(self, answers: Answers, idle: bool) -> None:
        self._queue.answer(answers)
        if idle:
            self._queue.ready()

    def watch(self, on_epoch_change: Callable[[], None], is_read: Callable[[str], bool] = lambda room: False) -> None:
        """The epoch changes if the file is replaced."""
        self._on_epoch_change = on_epoch_change
        self._writer.sweeper.is_read = is_read

    def read_after(self, room: str, offset: int, limit: int) -> Deferred[Page]:
        return self._refusal() or self._reader.read_after(room, offset, limit)

    def read_before(self, room: str, offset: int | None, limit: int) -> Deferred[Page]:
        return self._refusal() or self._reader.read_before(room, offset, limit)

    def rooms(self, after: str, limit: int) -> Deferred[Sequence[str]]:
        return self._refusal() or self._reader.rooms(after, limit)

    def _refusal(self) -> Deferred[Any] | None:
        return None if self._closed is None else fail(StoreError(self._closed))

    # On the writing thread.

    def _notify_change(self) -> None:
        """Called when this is another log now, or has messages that were not announced."""
        self._reactor.callFromThread(lambda: self._on_epoch_change())

    def _send_answers(self, answers: Answers, idle: bool) -> None:
        self._reactor.callFromThread(self._answer, answers, idle)

    def _close(self) -> None:
        self._reader.stop()
        self._writer.close()
        self._reactor.callFromThread(self._stopped)
