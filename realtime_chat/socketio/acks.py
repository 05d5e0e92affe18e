"""Events that ask for acknowledgements: who has answered, and when to stop waiting."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from realtime_chat.core.wheel import Wheel
from realtime_chat.socketio.counters import SocketCounters


class TimedOut(Exception):
    """A client has not acknowledged an event in time, or has disconnected before it could.

    :ivar answers: those that came, of an event to several sockets.
    """

    def __init__(self, missing: int, answers: list[Any]) -> None:
        super().__init__(f"{missing} of {missing + len(answers)} acknowledgements have not come")
        self.answers = answers


class Acknowledger(Protocol):
    """A socket, as its acknowledgements see it.

    :ivar acks: the acknowledgements that are awaited of it, by the id of the event.
    """

    acks: dict[int, Acks]


class Acks:
    """The acknowledgements of one event, which one or several sockets were sent.

    :param seconds: how long to wait; they come up to half a second late.
    :ivar id: of the event, in all sockets.
    :ivar all: fires with the answers in the order in which they came; or with :class:`TimedOut`.
    """

    def __init__(
        self, id: int, sockets: Iterable[Acknowledger], wheel: Wheel, seconds: float, counters: SocketCounters
    ) -> None:
        self.id = id
        self.all: Deferred[list[Any]] = Deferred(lambda _: self._end())
        self._counters = counters
        self._answers: list[Any] = []
        self._missing = 0
        self._waiting = dict.fromkeys(sockets)
        self._timeout = wheel.call_later(seconds, self._time_out)
        for socket in self._waiting:
            socket.acks[id] = self

    def received(self, socket: Acknowledger, arguments: list[Any]) -> None:
        """Take the answer of a socket: one argument as it is, none as None, and several as a tuple."""
        self._answers.append(arguments[0] if len(arguments) == 1 else tuple(arguments) or None)
        self._done(socket)

    def disconnected(self, socket: Acknowledger) -> None:
        """Wait no more for a socket that is gone."""
        self._missing += 1
        self._done(socket)

    def _done(self, socket: Acknowledger) -> None:
        self._waiting.pop(socket, None)
        if not self._waiting:
            self._fire()

    def _time_out(self) -> None:
        self._counters.acks_timed_out += len(self._waiting)
        self._missing += len(self._waiting)
        self._fire()

    def _fire(self) -> None:
        self._end()
        if self._missing:
            self.all.errback(TimedOut(self._missing, self._answers))
        else:
            self.all.callback(self._answers)

    def _end(self) -> None:
        self._timeout.cancel()
        for socket in self._waiting:
            socket.acks.pop(self.id, None)
        self._waiting.clear()
