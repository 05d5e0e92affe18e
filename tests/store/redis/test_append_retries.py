"""What is known of an append that was sent again, with answers that the test gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.wire import Argument, ServerError, Unanswered
from realtime_chat.store.redis.appender import RedisAppender
from realtime_chat.store.redis.shared_logs import SharedLogs
from realtime_chat.store.retention import Retention, RetentionClock
from realtime_chat.values.errors import InDoubt, StoreError
from tests.contracts import draft


class Connection:
    """A connection that is always there."""

    ready = True
    info: Mapping[str, str] = {"run_id": "r"}

    def when_ready(self) -> Deferred[None]:
        return succeed(None)


class AnsweredScript:
    """A script that the test answers.

    :ivar runs: by how often it was run.
    """

    def __init__(self) -> None:
        self.runs: list[Deferred[Any]] = []

    def call(self, redis: Connection, keys: Sequence[str], arguments: Sequence[Argument]) -> Deferred[Any]:
        self.runs.append(Deferred())
        return self.runs[-1]

    send = call


class RetryTests(SynchronousTestCase):
    """An append whose connection is lost, and which Redis refuses when it is sent again."""

    def refused(self, text: str) -> Any:
        """The error of the append, if Redis answers the second time with this one."""
        clock, script = Clock(), AnsweredScript()
        retention = RetentionClock(Retention(), clock.seconds, clock.seconds)
        logs = SharedLogs(RedisNames("realtime", 0), retention, 65536, clock.seconds, bytes)
        logs.append = script  # type: ignore[assignment]
        appender = RedisAppender(clock, Connection(), logs, "node")  # type: ignore[arg-type]
        answer = appender.append(draft("a"))
        clock.advance(0)
        script.runs[0].errback(Unanswered("lost"))
        self.assertNoResult(answer)
        clock.advance(1.5)  # too late to be sent a third time
        script.runs[1].errback(ServerError(text))
        clock.advance(0)
        self.assertEqual(2, len(script.runs))
        return self.failureResultOf(answer).value

    def test_not_stored(self) -> None:
        """If the script itself has refused it, it isn't stored, whatever became of it the first time."""
        for text in ("LATE it is too late", "EARLY not yet", "NOLOG there is no log", "OTHERLOG in another run"):
            self.assertIsInstance(self.refused(text), StoreError, text)

    def test_in_doubt(self) -> None:
        """If Redis didn't run the script, it may have been stored the first time."""
        for text in ("NOSCRIPT no such script", "OOM no memory", "READONLY a replica"):
            self.assertIsInstance(self.refused(text), InDoubt, text)
