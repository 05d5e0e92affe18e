"""How the time of a reactor's turn is shared between connections, and what is sent at its end.

One read of a socket may bring a thousand commands. If they were all done in one turn, everybody else would wait. So a
connection works for half a millisecond, and queues for a later turn if it has more to do. In a turn, the queue runs for
ten milliseconds. A publish and its delivery take some four turns.

While the queue is empty, a connection works for two milliseconds. So publishes that come at once stay one batch. With
shares of half a millisecond, a fan-out of 64 messages at a time delivers half as much a second, and polls a fifth. With
ten milliseconds, one client that floods the daemon delays everybody by 50.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from realtime_chat.core.interfaces import ReplySink

_log = Logger()

_SHARE = 0.0005
"""Seconds for which a connection works before it queues for its next share."""

ALONE = 0.002
"""Seconds for which it works while nobody queues."""

TURN = 0.01
"""Seconds for which the queue runs in a turn."""


class Turns:
    """The queue of those that have more to do.

    :param clock: calls in the next turn.
    :param seconds: a monotonic clock to measure by; the time of ``clock`` if it isn't given.
    """

    def __init__(self, clock: IReactorTime, seconds: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._seconds = clock.seconds if seconds is None else seconds
        self._waiting: deque[tuple[Callable[[], object], Callable[[], object]]] = deque()
        self._is_due = False
        self._end: float | None = None
        """When the turn ends; None until somebody has used up a share in it."""

    def share(self) -> float:
        """The time at which a share that begins now ends."""
        return self._seconds() + _SHARE

    def is_over(self, share: float) -> bool:
        """Whether a share has ended, and no time is left in the turn to go on."""
        now = self._seconds()
        if now < share:
            return False
        return bool(self._waiting) or now >= min(share - _SHARE + ALONE, self._turn_end(now))

    def _turn_end(self, now: float) -> float:
        if self._end is None:
            self._end = now + TURN
            self._run_soon()
        return self._end

    def later(self, call: Callable[[], object], lose: Callable[[], object]) -> None:
        """Call ``call()`` in a later turn, after all that wait already.

        :param lose: called if that raises.
        """
        self._waiting.append((call, lose))
        self._run_soon()

    def next(self) -> Deferred[None]:
        """Answer in a later turn, after all that wait already."""
        turn: Deferred[None] = Deferred()
        self.later(lambda: turn.callback(None), lambda: None)
        return turn

    def _run_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._clock.callLater(0, self._run)

    def _run(self) -> None:
        self._is_due = False
        self._end = None
        if not self._waiting:
            return
        end = self._turn_end(self._seconds())
        for _ in range(len(self._waiting)):  # what is queued meanwhile waits for the next turn
            call, lose = self._waiting.popleft()
            try:
                call()
            except Exception:
                _log.failure("a connection is closed, as what came from it could not be dealt with")
                lose()
            if self._seconds() >= end:
                break


class _Flushable(Protocol):
    def flush(self) -> None: ...


class FlushQueue:
    """Flushes rooms and sinks of replies at the end of the turn in which they were added.

    :param clock: calls in the next turn.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._rooms: list[_Flushable] = []
        self._replies: dict[ReplySink, None] = {}

    def add_room(self, room: _Flushable) -> None:
        """Flush a room; it is added only once in a turn."""
        self._flush_soon()
        self._rooms.append(room)

    def add_replies(self, replies: ReplySink) -> None:
        """Flush the replies that a sink has buffered."""
        self._flush_soon()
        self._replies[replies] = None

    def _flush_soon(self) -> None:
        if not (self._rooms or self._replies):
            self._clock.callLater(0, self.flush)

    def flush(self) -> None:
        """Flush all, now. A room or a sink that fails disturbs no other."""
        sinks, self._replies = self._replies, {}
        rooms, self._rooms = self._rooms, []
        flush_all_replies(sinks)
        for room in rooms:
            try:
                room.flush()
            except Exception:
                _log.failure("a room's messages could not be brought to its readers")


def flush_all_replies(sinks: Iterable[ReplySink]) -> None:
    """Send the replies that are buffered. A sink that fails disturbs no other."""
    for sink in sinks:
        try:
            sink.flush_replies()
        except Exception:
            _log.failure("replies could not be sent")
