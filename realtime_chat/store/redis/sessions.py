"""The records of Socket.IO sockets in Redis, each in a key of its own that expires.

The record of a connected socket expires, too, as its node may die. So the node prolongs it from time to time.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from realtime_chat.core.interfaces import SESSION_SECONDS, ISessionStore
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.values.errors import StoreError

_KEYS_AT_ONCE = 1000


@implementer(ISessionStore)
class RedisSessions:
    """Records that all nodes share.

    :param connection: takes commands in order with the appends.
    :param seconds: for how long the record of a disconnected socket is kept.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, connection: RedisConnection, names: RedisNames, seconds: float = SESSION_SECONDS
    ) -> None:
        self._connection = connection
        self._names = names
        self._milliseconds = int(seconds * 1000)
        self._connected: dict[str, None] = {}
        self._loop = LoopingCall(self._prolong)
        self._loop.clock = reactor

    def start(self) -> None:
        """Prolong records from now on."""
        self._loop.start(self._milliseconds / 2000, now=False)

    def stop(self) -> None:
        """Prolong nothing more."""
        if self._loop.running:
            self._loop.stop()

    async def _prolong(self) -> None:
        """Let the records of connected sockets expire later: twice as late as those of others."""
        keys = list(self._connected)
        try:
            for start in range(0, len(keys), _KEYS_AT_ONCE):
                await self._prolong_some(keys[start : start + _KEYS_AT_ONCE])
        except StoreError as error:
            if self._connection.ready:  # a lost connection is logged by itself
                self._log.warn("what sockets recover by is not prolonged in Redis: {why}", why=error.detail)
        except Exception:
            self._log.failure("what sockets recover by is not prolonged in Redis")

    async def _prolong_some(self, keys: list[str]) -> None:
        answers = [self._send("PEXPIRE", key, 2 * self._milliseconds) for key in keys if key in self._connected]
        for answer in answers:
            await answer

    def _send(self, command: str, key: str, *words: Any) -> Deferred[Any]:
        return self._connection.command(command, self._names.session(key), *words)

    def put(self, key: str, record: bytes, connected: bool) -> Deferred[None]:
        if connected:
            self._connected[key] = None
        else:
            self._connected.pop(key, None)
        lifetime = self._milliseconds * (2 if connected else 1)
        return self._send("SET", key, record, "PX", lifetime).addCallback(_nothing)

    def get(self, key: str) -> Deferred[bytes | None]:
        return self._send("GET", key)

    def remove(self, key: str) -> Deferred[None]:
        self._connected.pop(key, None)
        return self._send("UNLINK", key).addCallback(_nothing)


def _nothing(answer: Any) -> None:
    """Drop what Redis has answered."""
