"""A connection to Redis that reconnects by itself."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.redis.address import RedisAddress
from realtime_chat.redis.wire import Argument, OnMessage, RedisProtocol, ServerError, read_info
from realtime_chat.values.errors import StoreError, StoreRefused

MIN_VERSION = (6, 2)
"""The oldest version of Redis that the scripts can use (XTRIM MINID)."""

_MIN_BACKOFF = 0.05
_MAX_BACKOFF = 2.0
_BACKOFF_FACTOR = 1.7
_START_PATIENCE = 10.0
_STOPPED = "the store is stopped"
_NOT_CONNECTED = "the store is not connected"


class RedisRefused(StoreError):
    """Redis can't be used, and retrying won't help. The detail says what the operator can do."""

    def __init__(self, detail: str) -> None:
        super().__init__(_NOT_CONNECTED, detail)


class ConnectionCounts:
    """Counts for the metrics of a connection. All numbers only grow.

    :ivar connects: connections that were ready for use.
    :ivar attempts: connections that were tried.
    :ivar losses: connections that were lost after they were ready.
    :ivar commands: commands that were sent on a connection that was ready.
    :ivar failures: commands that were not sent, or not answered.
    :ivar errors: commands that Redis answered with an error.
    """

    def __init__(self) -> None:
        self.attempts = self.connects = self.losses = self.commands = self.failures = self.errors = 0


class _SingleUseFactory(Factory):
    """Makes one connection. Twisted's own factories log each attempt."""

    noisy = False

    def __init__(self, connection: RedisProtocol) -> None:
        self._connection = connection

    def buildProtocol(self, addr: Any) -> RedisProtocol:
        """Called by Twisted."""
        return self._connection


class RedisConnection:
    """One connection at a time. If it is lost, another one is made, with growing pauses between attempts.

    A new connection logs in, reads INFO, and awaits ``on_ready``. Then it is ready. While none is ready, commands fail
    at once, and are not kept for later.

    :param reactor: connects, and tells the time.
    :param name: for logs, metrics and Redis' list of its clients: no spaces.
    :param random: gives a float from 0 up to 1, so that not all nodes reconnect together.
    :param on_ready: awaited with each new connection before it is ready. If it raises a ``StoreError``, another
        connection is made. If it raises :class:`RedisRefused` at the start, the start fails.
    :param on_lost: called when a connection that was ready is lost.
    :param on_message: called with published messages, see :data:`~realtime_chat.redis.wire.OnMessage`. A connection is
        used either for subscriptions or for other commands. SUBSCRIBE takes one channel at a time.
    :param timeout: seconds in which a command has to be answered. After that the connection is aborted.
    :ivar info: the answer to INFO of the last connection, see :func:`~realtime_chat.redis.wire.read_info`.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        address: RedisAddress,
        name: str,
        random: Callable[[], float],
        *,
        on_ready: Callable[[RedisProtocol], Awaitable[None]] | None = None,
        on_lost: Callable[[], None] | None = None,
        on_message: OnMessage | None = None,
        timeout: float = 1.5,
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._random = random
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._on_message = on_message
        self._timeout = timeout
        self._connection: RedisProtocol | None = None
        self._in_use = False
        self._stopped = False
        self._supervision: Deferred[None] | None = None
        self._started: Deferred[None] | None = None
        self._give_up_at = 0.0
        self._logged_state = ""
        self._ready_waiters: list[Deferred[None]] = []
        self.name = name
        self.info: Mapping[str, str] = {}
        self.counters = ConnectionCounts()

    @property
    def ready(self) -> bool:
        """Whether commands can be sent."""
        return self._in_use and self._connection is not None and self._connection.open

    def start(self, patience: float = _START_PATIENCE) -> Deferred[None]:
        """Connect, and stay connected from now on.

        :param patience: seconds after which the start fails. It doesn't fail while the server loads its data.
        :returns: fires when the first connection is ready.
        :raises StoreRefused: the start has failed, and nothing is tried any more. The message says what to do.
        """
        self._give_up_at = self._reactor.seconds() + patience
        started = self._started = Deferred()
        self._supervision = Deferred.fromCoroutine(self._supervise())
        self._supervision.addErrback(self._supervision_ended)
        return started

    def stop(self) -> Deferred[None]:
        """Close the connection, and fire when it is closed. Commands in flight fail."""
        connection, self._stopped = self._connection, True
        if self._supervision is not None:
            self._supervision.cancel()
        self._drop_connection()
        return succeed(None) if connection is None else connection.when_closed()

    def when_ready(self) -> Deferred[None]:
        """Fire when commands can be sent.

        :raises StoreError: :meth:`stop` was called.
        """
        if self.ready:
            return succeed(None)
        if self._stopped:
            return fail(StoreError(_STOPPED))
        self._ready_waiters.append(Deferred())
        return self._ready_waiters[-1]

    def command(self, *words: Argument) -> Deferred[Any]:
        """Send a command; see :meth:`RedisProtocol.command`.

        :raises ServerError: Redis answered with an error.
        :raises Unanswered: it may have run.
        :raises StoreError: no connection is ready, and nothing was sent.
        """
        if self._connection is None or not self.ready:
            self.counters.failures += 1
            return fail(StoreError(_NOT_CONNECTED))
        self.counters.commands += 1
        return self._connection.command(*words).addErrback(self._count_failure, self._connection)

    def abort(self, why: str) -> None:
        """Abort this connection, and make another.

        :param why: for the log.
        """
        if self._connection is not None:
            self._connection.abort(why)

    def _count_failure(self, failure: Failure, connection: RedisProtocol) -> Failure:
        error = failure.value
        if not isinstance(error, ServerError):
            self.counters.failures += 1
            return failure
        self.counters.errors += 1
        if error.needs_reconnect:
            connection.abort(error.text)
        return failure

    # Connecting again and again

    async def _supervise(self) -> None:
        failures = 0
        while not self._stopped:
            try:
                connection = await self._connect()
                failures = 0
                why = await self._wait_until_lost(connection)
            except StoreError as error:
                why = error.detail
                self._give_up_if_hopeless(error)
            self._drop_connection()
            self._log_state(why)
            await deferLater(self._reactor, self._backoff(failures))
            failures += 1

    async def _connect(self) -> RedisProtocol:
        self.counters.attempts += 1
        connection = RedisProtocol(self._reactor, self._timeout, self._on_message)
        try:
            await self._address.endpoint(self._reactor).connect(_SingleUseFactory(connection))
        except Exception:
            if self._stopped:  # each kind of endpoint raises another exception when it is cancelled
                raise CancelledError from None
            raise StoreError(_NOT_CONNECTED, self._address.explain(Failure())) from None
        self._connection = connection
        try:
            await self._prepare(connection)
        except StoreError as error:
            raise await self._loss_reason(connection, error) from error
        self._mark_ready()
        return connection

    async def _loss_reason(self, connection: RedisProtocol, error: StoreError) -> StoreError:
        """Return why a connection can't be used. If it was lost, that says more than the command that failed."""
        if isinstance(error, (ServerError, RedisRefused)) and connection.aborted is None:
            return error
        connection.abort(error.detail)
        await connection.when_closed()
        why = self._explain_loss(connection)
        if why.startswith("no secure"):
            return RedisRefused(
                f"{why}; right is the host that stands in the server's certificate, and its CA (--store-ca)"
            )
        return StoreError(_NOT_CONNECTED, why)

    def _explain_loss(self, connection: RedisProtocol) -> str:
        assert connection.reason is not None
        return connection.aborted or self._address.explain(connection.reason)

    async def _prepare(self, connection: RedisProtocol) -> None:
        address = self._address
        if address.password is not None:
            await self._log_in(connection, *filter(None, (address.user, address.password)))
        await _run_optional(connection.command("CLIENT", "SETNAME", f"realtime-{self.name}"))
        if address.database:
            await self._select(connection, address.database)
        self.info = connection.info = await self._read_info(connection)
        if self._on_ready is not None:
            await self._on_ready(connection)

    async def _log_in(self, connection: RedisProtocol, *words: str) -> None:
        try:
            await connection.command("AUTH", *words)
        except ServerError as error:
            if error.word in ("WRONGPASS", "ERR"):
                raise RedisRefused("the user or the password is not what Redis knows") from error
            raise

    async def _select(self, connection: RedisProtocol, database: int) -> None:
        try:
            await connection.command("SELECT", database)
        except ServerError as error:
            if error.word == "ERR":
                raise RedisRefused(
                    f"there is no database {database} in this Redis; its setting databases says how many there are"
                ) from error
            raise

    async def _read_info(self, connection: RedisProtocol) -> Mapping[str, str]:
        try:
            answer = await connection.command("INFO")
        except ServerError as error:
            raise _permission_error(error) from error
        info = read_info(answer)
        if _version(info) < MIN_VERSION:
            raise RedisRefused(
                "Redis {}.{} is too old; right would be {}.{} or newer".format(*_version(info), *MIN_VERSION)
            )
        if info.get("loading", "0") != "0":
            raise ServerError("LOADING Redis is loading the dataset in memory")
        if info.get("role", "master") != "master":
            raise ServerError("READONLY this is a replica, which takes no messages")
        return info

    def _mark_ready(self) -> None:
        self._in_use = True
        self.counters.connects += 1
        self._log_state(f"connected to {self._address.describe()}")
        waiting, self._ready_waiters = self._ready_waiters, []
        for waiter in waiting:
            waiter.callback(None)
        if self._started is not None:
            started, self._started = self._started, None
            self._reactor.callLater(0, started.callback, None)  # the callback may call stop()

    async def _wait_until_lost(self, connection: RedisProtocol) -> str:
        """Wait until the connection is lost. Returns why."""
        await connection.when_closed()
        self.counters.losses += 1
        return self._explain_loss(connection)

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        in_use, self._in_use = self._in_use, False
        if connection is not None:
            connection.abort("not needed any more")
        if in_use and self._on_lost is not None:
            self._on_lost()

    def _backoff(self, failures: int) -> float:
        return float(
            min(_MAX_BACKOFF, _MIN_BACKOFF * _BACKOFF_FACTOR ** min(failures, 20)) * (0.5 + 0.5 * self._random())
        )

    def _give_up_if_hopeless(self, error: StoreError) -> None:
        """Let the first start fail if a retry won't help, or if its patience is over."""
        if self._started is None or (isinstance(error, ServerError) and error.word == "LOADING"):
            return
        if isinstance(error, RedisRefused) or self._reactor.seconds() >= self._give_up_at:
            hope = "" if isinstance(error, RedisRefused) else "; right would be the address of a Redis server that runs"
            raise StoreRefused(f"{self._address.describe()}: {error.detail}{hope}")

    def _supervision_ended(self, failure: Failure) -> None:
        """Called when the supervision ends: by :meth:`stop`, by a start that failed, or by a bug."""
        self._drop_connection()
        waiting, self._ready_waiters = self._ready_waiters, []
        for waiter in waiting:
            waiter.errback(StoreError(_STOPPED))
        started, self._started = self._started, None
        if failure.check(CancelledError):
            return
        if started is not None:
            started.errback(failure)
        else:
            self._log.failure("redis {name}", failure, name=self.name)

    def _log_state(self, state: str) -> None:
        """Log a new state, but not the same one again."""
        if state != self._logged_state:
            self._logged_state = state
            self._log.info("redis {name}: {what}", name=self.name, what=state)


def _version(info: Mapping[str, str]) -> tuple[int, int]:
    """Return the server's major and minor version; :data:`MIN_VERSION` if it gives none."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", info.get("redis_version", ""))
    return (int(found[1]), int(found[2])) if found else MIN_VERSION


async def _run_optional(answer: Deferred[Any]) -> None:
    """Await a command that is useful, but may be forbidden."""
    try:
        await answer
    except ServerError as error:
        if error.word in ("NOAUTH", "LOADING"):
            raise _permission_error(error) from error


def _permission_error(error: ServerError) -> StoreError:
    if error.word == "NOAUTH":
        return RedisRefused("Redis wants a password; right would be --store-password-file, or one in the URL")
    if error.word == "NOPERM":
        return RedisRefused(f"Redis doesn't allow this user what is needed ({error.text})")
    return error
