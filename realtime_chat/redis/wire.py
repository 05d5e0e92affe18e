"""The protocol of one connection to Redis: commands, scripts, replies and published messages."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, Protocol

import hiredis
import txredisapi
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from realtime_chat.values.errors import StoreError

Argument = str | bytes | int
"""An argument of a command, or its name."""

OnMessage = Callable[[bytes | None, bytes, bytes], None]
"""Called with a published message: the pattern (None for a plain subscription), the channel and the payload."""

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
    """Takes commands: a :class:`RedisProtocol`, or a connection that is kept up."""

    def command(self, *words: Argument) -> Deferred[Any]: ...


def ignore_store_error(failure: Failure) -> None:
    """Ignore the error of a command. The connection is mended without it."""
    failure.trap(StoreError)


class ServerError(StoreError):
    """Redis, or one of our scripts, has answered with an error.

    :ivar word: the first word of the error, such as ``OOM``.
    :ivar text: the whole error in one line of ASCII, for logs; not for clients.
    """

    def __init__(self, text: str) -> None:
        self.text = _CONTROL.sub("?", text)[:_MAX_TEXT]
        word = text.partition(" ")[0]
        self.word = word if _WORD.fullmatch(word) else "ERR"
        super().__init__(_ERROR_TEXTS.get(self.word, "the store refused this"), self.text)

    @property
    def needs_reconnect(self) -> bool:
        """Whether a new connection may help: to another server, or to the same one when it is ready again."""
        return self.word in _RECONNECT_WORDS


class Unanswered(StoreError):
    """A command was sent, but the connection was lost before its reply. It may have run."""


class RedisProtocol(txredisapi.HiredisProtocol):
    """txredisapi's protocol without its way to log in and to reconnect.

    Replies are bytes. Each command has a deadline. Published messages go to ``on_message``.

    :param clock: an IReactorTime.
    :param timeout: seconds in which a command has to be answered. After that the connection is aborted, and all
        commands that wait fail.
    :ivar aborted: why this side has aborted the connection; None if it hasn't.
    :ivar reason: why the connection was lost; None while it is open.
    :ivar info: the answer to INFO when the connection was made, see :func:`read_info`.
    """

    def __init__(self, clock: Any, timeout: float, on_message: OnMessage | None = None) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self._clock = clock
        self._timeout = timeout
        self._on_message = on_message
        self._sent_at: deque[float] = deque()
        self._deadline_call: IDelayedCall | None = None
        self._was_late = False
        self._close_waiters: list[Deferred[None]] = []
        self.aborted: str | None = None
        self.reason: Failure | None = None
        self.info: Mapping[str, str] = {}

    def connectionMade(self) -> None:
        """Called by Twisted. txredisapi would log in here, and give up after one refusal."""
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
        """Fire when the connection is closed."""
        if self.reason is not None:
            return succeed(None)
        self._close_waiters.append(Deferred())
        return self._close_waiters[-1]

    def command(self, *words: Argument) -> Deferred[Any]:
        """Send a command.

        :returns: the reply: bytes, an int, None, or a list of these.
        :raises ServerError: Redis answered with an error.
        :raises Unanswered: the connection was lost, or aborted as Redis didn't answer in time.
        :raises StoreError: the connection was closed before, and nothing was sent.
        """
        if not self.open:
            return fail(_not_connected())
        answer: Deferred[Any] = self.execute_command(*words)
        self._sent_at.append(self._clock.seconds())
        if self._deadline_call is None:
            self._deadline_call = self._clock.callLater(self._timeout, self._check_deadline)
        return answer.addErrback(_translate_error)

    def abort(self, why: str) -> None:
        """Abort the connection.

        :param why: for the log.
        """
        if self.open:
            self.aborted = why
            self.transport.abortConnection()

    def _check_deadline(self) -> None:
        """Abort if the oldest command was not answered in time. Else check again at its deadline."""
        self._deadline_call = None
        if not self._sent_at:
            return
        left = self._sent_at[0] + self._timeout - self._clock.seconds()
        if left <= 0 and self._was_late:
            self.abort(f"no answer within {self._timeout:g} s")
        else:  # once is no proof: this process may have been too busy to write or to read
            self._was_late = left <= 0
            self._deadline_call = self._clock.callLater(max(self._timeout / 10, left), self._check_deadline)

    def replyReceived(self, reply: Any) -> None:
        """Called by txredisapi."""
        if self._on_message is not None and isinstance(reply, list) and reply and self._handle_published(reply):
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
        if self._on_message is not None and self.aborted is None:
            self._on_message(pattern, channel, payload)

    def tryConvertData(self, data: Any) -> Any:
        """Called by txredisapi, whose own method walks through every list."""
        return data

    def _build_command(self, *words: Argument, **_: Any) -> bytes:
        """Called by txredisapi, whose own method takes ten times as long."""
        packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # takes any number
        return packed


class Script:
    """A Lua script. Redis runs it as a whole, with nothing else in between.

    :ivar sha: the hash for EVALSHA.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()  # Redis requires SHA-1

    def call(self, redis: Commands, keys: Sequence[str], arguments: Sequence[Argument]) -> Deferred[Any]:
        """Run the script by its hash.

        :raises ServerError: Redis answered with an error; its word is ``NOSCRIPT`` if Redis doesn't know the script.
        """
        return redis.command("EVALSHA", self.sha, len(keys), *keys, *arguments)

    def load(self, redis: Commands) -> Deferred[Any]:
        """Load the script into Redis."""
        return redis.command("SCRIPT", "LOAD", self.text)

    async def run(self, redis: Commands, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Run the script by its hash. If Redis doesn't know it, send its text.

        :param keys: all keys that it uses.
        :raises ServerError: the script or Redis answered with an error.
        :raises StoreError: as with any command.
        """
        try:
            return await self.call(redis, keys, arguments)
        except ServerError as error:
            if error.word != "NOSCRIPT":
                raise
        return await self.send(redis, keys, arguments)

    def send(self, redis: Commands, keys: Sequence[str], arguments: Sequence[Argument]) -> Deferred[Any]:
        """Run the script by its text, which also loads it."""
        return redis.command("EVAL", self.text, len(keys), *keys, *arguments)


def load_script(package: str, *names: str) -> Script:
    """Load a script from a file of a package, or from several files, one after another.

    :param package: such as ``realtime_chat.store.redis``.
    :param names: such as ``lua/append.lua``.
    """
    return Script("".join(resources.files(package).joinpath(name).read_text("utf-8") for name in names))


class Slots:
    """A semaphore. Its waiters are called back in a loop, and not from within each other: so any number of them may
    finish at once without a deep stack. (Twisted's DeferredSemaphore recurses.)

    :param free: how many may hold a slot at a time.
    :ivar waiting: those that wait for a slot.
    """

    def __init__(self, free: int) -> None:
        self._free = free
        self.waiting: deque[Deferred[None]] = deque()
        self._giving = False

    def take(self) -> Deferred[None]:
        """Answer when a slot is free."""
        turn: Deferred[None] = Deferred()
        self.waiting.append(turn)
        self._give()
        return turn

    def give_back(self) -> None:
        """Free the slot."""
        self._free += 1
        self._give()

    def _give(self) -> None:
        if self._giving:
            return
        self._giving = True
        while self._free and self.waiting:
            self._free -= 1
            self.waiting.popleft().callback(None)
        self._giving = False


def read_info(answer: bytes) -> dict[str, str]:
    """Parse the answer to INFO: ``run_id``, ``redis_version``, … ."""
    lines = answer.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _not_connected() -> StoreError:
    return StoreError("the store is not connected")


def _translate_error(failure: Failure) -> Any:
    """Turn the errors of txredisapi into ours."""
    error = failure.value
    if isinstance(error, txredisapi.ResponseError):
        raise ServerError(str(error)) from error
    if isinstance(error, txredisapi.RedisError):
        raise Unanswered("the connection to the store was lost") from error
    return failure
