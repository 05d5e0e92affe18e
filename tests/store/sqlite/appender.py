"""A process of its own that appends, for tests that kill, trace or starve it.

``python -m tests.store.sqlite.appender PATH COUNT PUBLISHERS [FILE_SIZE]`` prints ``+ OFFSET KEY`` for each message
that is stored, and ``- KEY CODE`` for each that is refused. Each line is one write. ``COUNT`` is for each publisher.
``FILE_SIZE`` is a limit in bytes, which is lifted when a line comes in.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from typing import Any

from twisted.internet import stdio
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Protocol
from twisted.internet.task import react

from realtime_chat.store.retention import Retention
from realtime_chat.store.sqlite.store import SQLiteStore
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.model import Draft, User


class LiftLimit(Protocol):
    """Lifts the limit at the first input."""

    def dataReceived(self, data: bytes) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


async def publish(reactor: Any, store: SQLiteStore, publisher: int, count: int) -> None:
    """Append ``count`` messages, each after the answer to the one before."""
    run = os.getpid()
    for number in range(count):
        key = f"{run}-{publisher}-{number}"
        try:
            stored = await store.append(Draft("lobby", "message", b'"%b"' % (b"x" * 500), User("u", "n"), key))
            line = f"+ {stored.message.position.offset} {key}\n"
        except RealtimeError as error:
            line = f"- {key} {error.code}\n"
            pause: Deferred[None] = Deferred()
            reactor.callLater(0.02, pause.callback, None)
            await pause
        os.write(1, line.encode())


async def main(reactor: Any, path: str, count: str, publishers: str, limit: str = "") -> None:
    """Append until done or killed."""
    store = SQLiteStore(reactor, path, Retention(1_000_000), time.time, os.urandom)
    await store.start()
    if limit:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), hard))
        stdio.StandardIO(LiftLimit())
    os.write(1, b"started\n")
    await gatherResults([publish_later(reactor, store, number, int(count)) for number in range(int(publishers))])
    os.write(1, b"done\n")
    await store.stop()


def publish_later(reactor: Any, store: SQLiteStore, publisher: int, count: int) -> Deferred[None]:
    """:func:`publish` as a Deferred."""
    return Deferred.fromCoroutine(publish(reactor, store, publisher, count))


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
