"""One connection to Redis: commands out, replies and what was published in."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import hiredis
import txredisapi
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from realtime_chat.values.errors import StoreError

__all__ = [
    "Argument",
    "Commands",
    "Published",
    "RedisProtocol",
    "ServerError",
    "Unanswered",
    "ignore_store_error",
    "read_info",
]

Argument = str | bytes | int
"""A part of a command."""

Published = Callable[[bytes | None, bytes, bytes], None]
"""Is called with the pattern (None for a plain subscription), the channel and the payload of what was published."""

_WORD = re.compile(r"[A-Z]{3,24}")
_CONTROL = re.compile(r"[^ -~]+")
_MAX_TEXT = 200
_ERROR_TEXTS = {
    "OOM": "the store is full",
    "READONLY": "the store is a replica now",
    "LOADING": "the store is loading its data",
    "MASTERDOWN": "the store is a replica without its master",
    "MISCONF": "the store can't save to its disk",
    "BUSY": "the store is busy with a script",
    "NOAUTH": "the store doesn't know who we are",
    "NOPERM": "the store doesn't allow this",
}
_RECONNECT_WORDS = frozenset(("READONLY", "LOADING", "MASTERDOWN", "NOAUTH"))


class Commands(Protocol):
    """What takes commands: a link or a connection."""

    def command(self, *words: Argument) -> Deferred[Any]: ...


def ignore_store_error(failure: Failure) -> None:
    """The end of a command whose failing needs no answer, as the link sees to its own connection."""
    failure.trap(StoreError)


class ServerError(StoreError):
    """Redis, or a script there, has answered with an error.

    :ivar word: the first word of the answer, such as ``OOM``; a script's own errors have their own.
    :ivar text: the whole answer in one line of ASCII, for logs; not for clients.
    """

    def __init__(self, text: str) -> None:
        self.text = _CONTROL.sub("?", text)[:_MAX_TEXT]
        word = text.partition(" ")[0]
        self.word = word if _WORD.fullmatch(word) else "ERR"
        super().__init__(_ERROR_TEXTS.get(self.word, "the store refused this"), self.text)

    @property
    def needs_reconnect(self) -> bool:
        """Whether another connection may do better: to another server, or to the same one when it is ready again."""
        return self.word in _RECONNECT_WORDS


class Unanswered(StoreError):
    """A command was sent, and the connection is gone: whether it was done is unknown."""


class _Call(Protocol):
    def active(self) -> Any: ...
    def cancel(self) -> None: ...


class RedisProtocol(txredisapi.HiredisProtocol):
    """txredisapi's protocol without its ways of connecting: bytes stay bytes, every command has a deadline, and what
    was published goes to ``published``.

    :param clock: an IReactorTime.
    :param timeout: seconds in which a command has to be answered; else the connection is aborted, and all that wait
        fail.
    :ivar aborted: why we have cut the connection ourselves, if we have.
    :ivar reason: why it is gone, once it is.
    :ivar info: what INFO said when the connection was made, see :func:`read_info`.
    """

    def __init__(self, clock: Any, timeout: float, published: Published | None = None) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self._clock = clock
        self._timeout = timeout
        self._published = published
        self._sent_at: deque[float] = deque()
        self._deadline_call: _Call | None = None
        self._was_late = False
        self._close_waiters: list[Deferred[None]] = []
        self.aborted: str | None = None
        self.reason: Failure | None = None
        self.info: Mapping[str, str] = {}

    def connectionMade(self) -> None:
        """Called by Twisted; txredisapi would log in here, and never again after one refusal."""
        for switch in ("setTcpKeepAlive", "setTcpNoDelay"):
            turn = getattr(self.transport, switch, None)  # a Unix socket has none
            if turn is not None:
                turn(True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Called by Twisted."""
        super().connectionLost(reason)
        if self._deadline_call is not None and self._deadline_call.active():
            self._deadline_call.cancel()
        self.reason = reason
        waiting, self._close_waiters = self._close_waiters, []
        for waiter in waiting:
            waiter.callback(None)

    @property
    def open(self) -> bool:
        """Whether commands can be sent."""
        return bool(self.connected) and self.aborted is None

    def when_closed(self) -> Deferred[None]:
        """Answers when the connection is gone."""
        if self.reason is not None:
            return succeed(None)
        self._close_waiters.append(Deferred())
        return self._close_waiters[-1]

    def command(self, *words: Argument) -> Deferred[Any]:
        """Send a command.

        :returns: Redis' answer: bytes, a whole number, None, or a list of such.
        :raises ServerError: Redis answered with an error.
        :raises Unanswered: the connection broke, or was aborted as Redis didn't answer in time.
        :raises StoreError: it was gone before; nothing was sent.
        """
        if not self.open:
            return fail(_not_connected())
        answer: Deferred[Any] = self.execute_command(*words)
        self._sent_at.append(self._clock.seconds())
        if self._deadline_call is None:
            self._deadline_call = self._clock.callLater(self._timeout, self._check_deadline)
        return answer.addErrback(_translate_error)

    def abort(self, why: str) -> None:
        """Cut the connection now, whatever is under way."""
        if self.open:
            self.aborted = why
            self.transport.abortConnection()

    def _check_deadline(self) -> None:
        """Abort if the oldest command wasn't answered in time; else look again when its time is over."""
        self._deadline_call = None
        if not self._sent_at:
            return
        left = self._sent_at[0] + self._timeout - self._clock.seconds()
        if left <= 0 and self._was_late:
            self.abort(f"no answer within {self._timeout:g} s")
        else:  # at first it may be we who were too busy to write or to read
            self._was_late = left <= 0
            self._deadline_call = self._clock.callLater(max(self._timeout / 10, left), self._check_deadline)

    def replyReceived(self, reply: Any) -> None:
        """Called by txredisapi."""
        if self._published is not None and isinstance(reply, list) and reply and self._handle_published(reply):
            return
        if not self._sent_at:
            self.abort("an answer that nobody asked for")
            return
        self._sent_at.popleft()
        self._was_late = False
        super().replyReceived(reply)

    def _handle_published(self, reply: list[Any]) -> bool:
        if reply[0] == b"message":
            self._deliver(None, reply[1], reply[2])
        elif reply[0] == b"pmessage":
            self._deliver(reply[1], reply[2], reply[3])
        else:
            return False
        return True

    def _deliver(self, pattern: bytes | None, channel: bytes, payload: bytes) -> None:
        if self._published is not None and self.aborted is None:
            self._published(pattern, channel, payload)

    def tryConvertData(self, data: Any) -> Any:
        """Called by txredisapi, which would walk through every list."""
        return data

    def _build_command(self, *words: Argument, **_: Any) -> bytes:
        """Called by txredisapi, whose own takes ten times as long."""
        packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # takes any number
        return packed


def read_info(answer: bytes) -> dict[str, str]:
    """Read what INFO answers: ``run_id``, ``redis_version``, … ."""
    lines = answer.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _not_connected() -> StoreError:
    return StoreError("the store is not connected")


def _translate_error(failure: Failure) -> Any:
    """Turn txredisapi's errors into ours."""
    error = failure.value
    if isinstance(error, txredisapi.ResponseError):
        raise ServerError(str(error)) from error
    if isinstance(error, txredisapi.RedisError):
        raise Unanswered("the connection to the store was lost") from error
    return failure
