"""Sweeping: trimming rooms in Redis that are not written to, and forgetting rooms that are unused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from twisted.logger import Logger

from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.store.redis.log import RedisLog, load_store_script
from realtime_chat.store.retention import RetentionClock
from realtime_chat.values.errors import StoreError

__all__ = ["RedisSweeper"]

_ROOMS_PER_SWEEP = 100
_ENTRIES_PER_SWEEP = 256


class RedisSweeper:
    """Goes through all rooms, some at a time."""

    _log = Logger()

    def __init__(
        self,
        connection: RedisConnection,
        log: RedisLog,
        names: RedisNames,
        clock: RetentionClock,
    ) -> None:
        self._connection = connection
        self._redis_log = log
        self._names = names
        self._clock = clock
        self._script = load_store_script("sweep")
        self._cursor = b"0"

    async def sweep(self) -> None:
        """Sweep the next rooms. An error is logged."""
        if not self._connection.ready:
            return
        try:
            self._cursor, rooms = await self._redis_log.scan_rooms(self._connection, self._cursor, _ROOMS_PER_SWEEP)
            await self._sweep_rooms(rooms)
        except StoreError as error:
            self._log.warn("Trimming in Redis: {why}", why=error.detail)
        except Exception:
            self._log.failure("Trimming in Redis")

    async def _sweep_rooms(self, rooms: Sequence[str]) -> None:
        names = self._names
        room_age, elapsed = int(self._clock.retention.room_age * 1000), self._redis_log.elapsed()
        keys = [names.log, *chain.from_iterable((names.stream(room), names.keys(room)) for room in rooms)]
        arguments = (self._clock.retention.count, self._clock.message_cutoff(), _ENTRIES_PER_SWEEP, room_age, elapsed)
        while rooms and self._connection.ready and await self._script.run(self._connection, keys, arguments):
            pass
