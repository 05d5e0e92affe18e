"""The logs in Redis: their epoch, whether they are still the same logs, and what Redis promises to keep."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from twisted.logger import Logger

from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.wire import Commands, Script, ServerError, load_script, read_info
from realtime_chat.store.retention import RetentionClock, new_epoch

TOO_LATE = "LATE"
"""The error of a script that should have run earlier."""

OUT_OF_SEQUENCE = "EARLY"
"""The error of a script if the batch before it is not stored."""

STALE_LOGS = ("NOLOG", "OTHERLOG")
"""The errors of a script if there are no logs, or those of another run of Redis. They have to be initialised."""

_MAX_TOPS = 10_000
_TOPS_PER_COMMAND = 1000
_NO_REPLICATION = "0" * 40


def load_store_script(name: str) -> Script:
    """Load one of the store's scripts."""
    return load_script("realtime_chat.store.redis", "lua/common.lua", f"lua/{name}.lua")


class Persistence(NamedTuple):
    """What Redis promises to keep.

    :param safe: whether a restart keeps all that was acknowledged.
    :param promise: the same in words.
    """

    safe: bool
    promise: str


class SharedLogs:
    """The logs that all nodes with the same scope share.

    They are checked when a connection is made, when a script finds none, and from time to time. If Redis may have lost
    acknowledged messages, they get a new epoch.

    :param names: of the keys.
    :param clock: what is kept; the elapsed time of the logs comes from the clocks of all nodes.
    :param max_message: the most bytes of a message that other programs append.
    :param seconds: the reactor's clock.
    :param random_bytes: gives as many as it is asked for.
    :ivar append: the script that appends; other programs use it too.
    :ivar on_epoch_change: called when the epoch has changed.
    """

    _log = Logger()

    def __init__(
        self,
        names: RedisNames,
        clock: RetentionClock,
        max_message: int,
        seconds: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.names = names
        self.clock = clock
        self.append = load_store_script("append")
        self.persistence = Persistence(False, "")
        self.epoch = ""
        self.secret = random_bytes(32)
        self.on_epoch_change: Callable[[], None] = lambda: None
        self._max_message = max_message
        self._seconds = seconds
        self._random_bytes = random_bytes
        self._initialise_script = load_store_script("initialise")
        self._check_script = load_store_script("check")
        self._tops: OrderedDict[str, int] = OrderedDict()
        self._elapsed_ahead = 0.0
        self._redis_ahead = 0.0

    # Redis' clock

    def redis_time(self, seconds: float) -> int:
        """Convert a time of the reactor's clock to Redis' clock, in milliseconds.

        Redis' clock shows this time or a later one then.
        """
        return int(seconds * 1000 + self._redis_ahead)

    def _note_redis_time(self, milliseconds: int) -> None:
        self._redis_ahead = milliseconds - self._seconds() * 1000

    # Elapsed time (see lua/common.lua)

    def elapsed(self) -> int:
        """Return the elapsed time that this node knows, in milliseconds. It never goes back."""
        return int((self.clock.elapsed() + self._elapsed_ahead) * 1000)

    def _note_elapsed(self, milliseconds: int) -> None:
        self._elapsed_ahead = max(self._elapsed_ahead, milliseconds / 1000 - self.clock.elapsed())

    # Observing answers

    def observe_epoch(self, epoch: str) -> None:
        """Note the epoch that a script has answered. If it is new, forget what was known of the logs."""
        if epoch == self.epoch:
            return
        before, self.epoch = self.epoch, epoch
        self._tops.clear()
        if before:
            self._log.warn("Redis has another log than before: epoch {epoch}", epoch=epoch)
            self.on_epoch_change()

    def observe_top(self, room: str, top: int) -> None:
        """Note an offset of this epoch that a script has answered."""
        if self._tops.get(room, 0) >= top:
            return
        self._tops[room] = top
        self._tops.move_to_end(room)
        if len(self._tops) > _MAX_TOPS:
            self._tops.popitem(last=False)

    # Initialising

    async def initialise(self, connection: Commands, info: Mapping[str, str]) -> None:
        """Create the logs if there are none, and bind them to this run of Redis.

        A server that was restarted or promoted may have lost what it had answered. Then the logs get a new epoch, so
        that all readers are told, and no position is given to two messages.

        :param info: the answer to INFO on this connection.
        :raises StoreError: Redis can't be used.
        """
        run_id, persistence = info.get("run_id", ""), await read_persistence(connection, info)
        epoch = await self._run_initialise(connection, run_id, persistence.safe)
        # Not before: what Redis has not noted yet would not be noticed again by check_settings.
        self.persistence = persistence
        if epoch == self.epoch and await self._has_lost_messages(connection):
            self._log.warn("Redis lacks messages that were acknowledged: its data are older ones")
            epoch = await self._run_initialise(connection, run_id, persistence.safe, damaged_epoch=epoch)
        await self.append.load(connection)
        self.observe_epoch(epoch)

    async def _run_initialise(self, connection: Commands, run_id: str, safe: bool, damaged_epoch: str = "") -> str:
        retention = self.clock.retention
        age = retention.age
        arguments = (
            run_id,
            int(safe),
            new_epoch(self._random_bytes),
            self.secret.hex(),
            retention.count,
            "" if age is None else int(age * 1000),
            self._max_message,
            retention.rooms,
            str(retention.room_rate),
            self.append.sha,
            damaged_epoch,
            self.elapsed(),
            retention.namespace_count,
            retention.properties,
            retention.property_bytes,
        )
        epoch, secret, time, elapsed = await self._initialise_script.run(connection, [self.names.log], arguments)
        self._note_redis_time(time)
        self._note_elapsed(elapsed)
        self.secret = bytes.fromhex(secret.decode())
        return str(epoch.decode())

    async def _has_lost_messages(self, connection: Commands, most: int = _MAX_TOPS) -> bool:
        """Return whether a room's top in Redis is lower than one that was observed.

        :param most: how many rooms are compared, those that were written to last.
        """
        seen = list(islice(reversed(self._tops.items()), most))
        for begin in range(0, len(seen), _TOPS_PER_COMMAND):
            some = seen[begin : begin + _TOPS_PER_COMMAND]
            fields = ("floor", *(f"room:{room}" for room, _ in some))
            floor, *rooms = await connection.command("HMGET", self.names.log, *fields)
            if any(_top(floor if value is None else value) < top for value, (_, top) in zip(rooms, some, strict=True)):
                return True
        return False

    # Checking

    async def check(self, connection: Commands, info: Mapping[str, str], write: bool = False) -> None:
        """Check that the logs are still the same. If they aren't, initialise them.

        :param write: also check that Redis accepts writes.
        :raises StoreError: Redis can't be used.
        """
        asked = [int(write), self.elapsed()]
        run_id, epoch, time, elapsed = await self._check_script.run(connection, [self.names.log], asked)
        self._note_redis_time(time)
        self._note_elapsed(elapsed)
        if run_id.decode() != info.get("run_id") or not epoch:
            await self.initialise(connection, info)
            return
        self.observe_epoch(epoch.decode())
        if await self._has_lost_messages(connection, _TOPS_PER_COMMAND):
            await self.initialise(connection, info)

    async def check_settings(self, connection: Commands) -> None:
        """Check that the settings of Redis promise the same as before, and that it knows the script for other programs.

        :raises StoreError: Redis can't be used.
        """
        info = read_info(await connection.command("INFO"))
        if await read_persistence(connection, info) != self.persistence:
            await self.initialise(connection, info)
            self._log.info("Redis promises something else now: {promise}", promise=self.persistence.promise)
        if await connection.command("SCRIPT", "EXISTS", self.append.sha) != [1]:
            await self.append.load(connection)


def _top(value: bytes | None) -> int:
    """Read the top from a room's field of the log, or from the field ``floor``."""
    word = (value or b"0").partition(b" ")[0]
    return int(word) if word.isdigit() else 0


async def read_persistence(connection: Commands, info: Mapping[str, str]) -> Persistence:
    """Find out what Redis keeps over a restart.

    :raises StoreError: the connection was lost.
    """
    try:
        settings = await _settings(connection, "appendfsync", "save")
    except ServerError:
        return Persistence(False, "what a restart keeps is unknown, as CONFIG GET isn't allowed")
    if info.get("aof_enabled") != "1":
        return Persistence(False, _snapshot_promise(settings.get("save", "")))
    if settings.get("appendfsync") != "always":
        return Persistence(False, "appendonly without appendfsync always: a crash loses the last second or more")
    if _was_replica(info):
        return Persistence(False, "appendonly with appendfsync always, but it was a replica and may lack messages")
    return Persistence(True, "appendonly with appendfsync always: what was acknowledged survives a crash")


async def _settings(connection: Commands, *names: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    for name in names:
        words: Sequence[bytes] = await connection.command("CONFIG", "GET", name)
        settings.update(zip(*(islice(map(bytes.decode, words), start, None, 2) for start in (0, 1)), strict=True))
    return settings


def _snapshot_promise(save: str) -> str:
    if not save:
        return "nothing is persistent: a restart of Redis loses everything"
    return "snapshots alone: a crash loses what came after the last one"


def _was_replica(info: Mapping[str, str]) -> bool:
    return (
        info.get("master_replid2", _NO_REPLICATION) != _NO_REPLICATION or info.get("second_repl_offset", "-1") != "-1"
    )
