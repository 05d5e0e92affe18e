"""The thread that reads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from realtime_chat.values.errors import StoreError

__all__ = ["ReadThread"]

_MAX_READS = 20_000

_T = TypeVar("_T")


class ReadThread:
    """Runs reads one after another on a thread of its own.

    :param call_from_thread: calls something on the reactor's thread (``IReactorFromThreads.callFromThread``).
    """

    def __init__(self, call_from_thread: Callable[..., Any]) -> None:
        self._call_from_thread = call_from_thread
        self._reads: SimpleQueue[tuple[Callable[[], Any], Deferred[Any]] | None] = SimpleQueue()
        self._waiting = 0
        self._thread = threading.Thread(target=self._run, name="store-reader", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what was asked for, and wait for the end of the thread."""
        self._reads.put(None)
        self._thread.join()

    def run(self, read: Callable[[], _T]) -> Deferred[_T]:
        """Call ``read`` on the thread, and answer with what it returns.

        :raises StoreError: too many reads wait already.
        """
        if self._waiting >= _MAX_READS:
            return fail(StoreError("too many reads wait"))
        self._waiting += 1
        answer: Deferred[_T] = Deferred()
        self._reads.put((read, answer))
        return answer

    def _run(self) -> None:
        while (asked := self._reads.get()) is not None:
            read, answer = asked
            try:
                result = read()
            except StoreError as error:
                result = Failure(error)
            except Exception:
                result = Failure()
            self._call_from_thread(self._answer, answer, result)

    def _answer(self, answer: Deferred[Any], result: Any) -> None:
        self._waiting -= 1
        answer.callback(result)
