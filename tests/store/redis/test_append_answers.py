"""What becomes of an append with the answers of Redis, which the test gives."""

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
from realtime_chat.values.model import Position
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


class AppendTestCase(SynchronousTestCase):
    """One append."""

    def setUp(self) -> None:
        self.clock, self.script = Clock(), AnsweredScript()
        retention = RetentionClock(Retention(), self.clock.seconds, self.clock.seconds)
        logs = SharedLogs(RedisNames("realtime", 0), retention, 65536, self.clock.seconds, bytes)
        logs.append = self.script  # type: ignore[assignment]
        appender = RedisAppender(self.clock, Connection(), logs, "node")  # type: ignore[arg-type]
        self.answer = appender.append(draft("a"))
        self.clock.advance(0)

    def refused(self) -> Any:
        """The error that the append was answered with."""
        self.clock.advance(0)
        return self.failureResultOf(self.answer).value


class AnswerTests(AppendTestCase):
    """The script's answers."""

    def test_stored(self) -> None:
        """An offset says where the message is stored."""
        self.script.runs[0].callback([b"epoch", 7])
        self.clock.advance(0)
        self.assertEqual(Position("epoch", 7), self.successResultOf(self.answer).message.position)

    def test_refused(self) -> None:
        """Each of its words is an error of its own."""
        for word, code in ((b"MANY", "too_many"), (b"FAST", "rate_limited"), (b"REUSED", "key_reused")):
            self.setUp()
            self.script.runs[0].callback([b"epoch", word])
            self.assertEqual(code, self.refused().code)


class RetryTests(AppendTestCase):
    """An append whose connection is lost, and which Redis refuses when it is sent again."""

    def refused_again(self, text: str) -> Any:
        """The error of the append, if Redis answers the second time with this one."""
        self.setUp()
        self.script.runs[0].errback(Unanswered("lost"))
        self.assertNoResult(self.answer)
        self.clock.advance(1.5)  # too late to be sent a third time
        self.script.runs[1].errback(ServerError(text))
        error = self.refused()
        self.assertEqual(2, len(self.script.runs))
        return error

    def test_not_stored(self) -> None:
        """If the script itself has refused it, it isn't stored, whatever became of it the first time."""
        for text in ("LATE it is too late", "EARLY not yet", "NOLOG there is no log", "OTHERLOG in another run"):
            self.assertIsInstance(self.refused_again(text), StoreError, text)

    def test_in_doubt(self) -> None:
        """If Redis didn't run the script, it may have been stored the first time."""
        for text in ("NOSCRIPT no such script", "OOM no memory", "READONLY a replica"):
            self.assertIsInstance(self.refused_again(text), InDoubt, text)
