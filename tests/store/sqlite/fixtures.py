"""What the tests of the store in SQLite share."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase

from realtime_chat.store.retention import Retention
from realtime_chat.store.sqlite.batch import CommitBatch
from realtime_chat.store.sqlite.store import SQLiteStore
from realtime_chat.values.errors import StoreError, StoreRefused
from tests.contracts import START, offsets, whole_log
from tests.deadlines import DEADLINE, TEST_TIMEOUT
from tests.functional.browsers import program

ROOT = Path(__file__).parents[3]


class SQLiteTestCase(TestCase):
    """Stores on one path."""

    timeout = TEST_TIMEOUT

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.ahead = 0.0
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.path = self.directory / "realtime.sqlite"

    def wall(self) -> float:
        """The wall clock, which may be set."""
        return self.clock.seconds() + self.ahead

    def build_store(
        self, count: int = 1000, age: float | None = None, retention: Retention | None = None, **more: Any
    ) -> SQLiteStore:
        more.setdefault("tick", 0.02)
        more.setdefault("monotonic", self.clock.seconds)
        kept = retention or Retention(count, age)
        return SQLiteStore(reactor, str(self.path), kept, self.wall, os.urandom, **more)

    async def open_store(self, count: int = 1000, age: float | None = None, **more: Any) -> SQLiteStore:
        store = self.build_store(count, age, **more)
        await store.start()
        self.addCleanup(store.stop)
        return store

    @contextlib.contextmanager
    def commits_in_doubt(self) -> Iterator[Callable[[], object]]:
        """Let commits fail after they were written, and let nobody find out that they are durable.

        :returns: what lets commits succeed again.
        """
        insert = CommitBatch.insert

        def fails(batch: CommitBatch, connection: sqlite3.Connection) -> None:
            insert(batch, connection)
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error

        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM messages").fetchone()  # so that nobody can tell that it is durable
            self.patch(CommitBatch, "insert", fails)
            yield partial(self.patch, CommitBatch, "insert", insert)

    async def assert_refused(self, pattern: str, **more: Any) -> None:
        """The store can't be started; the message names the file and says why."""
        store = self.build_store(**more)
        try:
            await store.start()
        except StoreRefused as refusal:
            self.assertRegex(str(refusal), pattern)
            self.assertIn(str(self.path), str(refusal))
        else:
            await store.stop()
            raise AssertionError("it was not refused")

    async def assert_unavailable(self, answer: Deferred[Any]) -> StoreError:
        try:
            result = await answer
        except StoreError as error:
            return error
        raise AssertionError(f"{result!r} instead of an error")

    async def eventually(self, attempt: Any, seconds: float = DEADLINE) -> Any:
        """What ``attempt()`` gives as soon as it is true and raises no StoreError."""
        end = reactor.seconds() + seconds
        while True:
            with contextlib.suppress(StoreError):
                if result := await attempt():
                    return result
            if reactor.seconds() > end:
                raise AssertionError("it never became true")
            await deferLater(reactor, 0.01)

    def query(self, statement: str) -> Any:
        """The first row of a statement, through a connection of its own."""
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(statement).fetchone()

    async def assert_ledger(self, children: list[AppenderProcess]) -> SQLiteStore:
        """What was acknowledged is stored once, under its offset; what was refused is not stored."""
        store = await self.open_store(count=1_000_000)
        page = await whole_log(store, "lobby")
        self.assertEqual(offsets(page), list(range(1, page.top + 1)))
        stored = [(message.position.offset, message.key) for message in page.messages]
        self.assertEqual(len({key for _, key in stored}), len(stored))
        acknowledged, refused = set(), set()
        for line in itertools.chain.from_iterable(child.lines for child in children):
            match line.split():
                case ["+", offset, key]:
                    acknowledged.add((int(offset), key))
                case ["-", key, "store_unavailable"]:
                    refused.add(key)
        self.assertGreater(len(acknowledged), 0)
        self.assertEqual(acknowledged - set(stored), set())
        self.assertEqual(refused & {key for _, key in stored}, set())
        return store


class AppenderProcess:
    """A process that runs :mod:`tests.store.sqlite.appender`."""

    def __init__(self, path: Path, count: int, publishers: int, *more: int, before: list[str] | None = None) -> None:
        command = [*(before or []), sys.executable, "-m", "tests.store.sqlite.appender", str(path)]
        self.process = subprocess.Popen(
            [*command, *map(str, (count, publishers, *more))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            start_new_session=True,
        )
        self.lines: list[str] = []

    def read_until(self, wanted: Any, times: int = 1) -> str:
        """Read until so many lines were as wanted; the last of them."""
        for line in self.process.stdout:
            self.lines.append(line.decode().rstrip("\n"))
            times -= bool(wanted(self.lines[-1]))
            if not times:
                return self.lines[-1]
        raise AssertionError(f"it ended after {self.lines[-3:]}")

    def stop(self) -> None:
        """Let it stand still where it is."""
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """Kill it and whatever it started; read what it had written."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        rest = self.process.stdout.read().decode()
        self.lines += [line.rstrip("\n") for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def failing_sync(when: str) -> list[str]:
    """A command before another, by which its fdatasync calls fail ``when`` (as strace reads it)."""
    return [program("strace"), "-f", "-qq", "-o", "/dev/null", "-e", f"inject=fdatasync:error=EIO:when={when}"]


def overwrite(path: Path, start: int = 0, size: int | None = None) -> None:
    """Overwrite bytes of a file with others, from another process: closing it here would drop SQLite's locks."""
    size = path.stat().st_size if size is None else size
    code = (
        "import os, sys; f = open(sys.argv[1], 'r+b'); f.seek(int(sys.argv[2])); f.write(os.urandom(int(sys.argv[3])))"
    )
    subprocess.check_call([sys.executable, "-c", code, str(path), str(start), str(size)])
