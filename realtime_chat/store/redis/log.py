"""Which log there is in Redis, whether it is still that of before, and what Redis promises to keep."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from twisted.logger import Logger

from realtime_chat.redis.names import Names
from realtime_chat.redis.scripts import Script, load_script
from realtime_chat.redis.wire import Commands, ServerError, read_info
from realtime_chat.store.retention import Retention, new_epoch

__all__ = ["EARLY", "LATE", "LOST", "Persistence", "RedisLog", "load_store_script"]

LATE = "LATE"
"""What a script says to what was to be stored earlier."""

EARLY = "EARLY"
"""What it says to what is to be stored behind something that isn't there."""

LOST = ("NOLOG", "OTHERLOG")
"""What a script says where there is no log, or one of another run of the server: it has to be begun."""

_ROOMS_KNOWN = 10_000
_ROOMS_AT_ONCE = 1000
_NO_REPLICATION = "0" * 40


def load_store_script(name: str) -> Script:
    """One of the store's scripts."""
    return load_script("realtime_chat.store.redis", "lua/common.lua", f"lua/{name}.lua")


class Persistence(NamedTuple):
    """What Redis promises to keep.

    :param safe: whether a restart loses nothing that was acknowledged.
    :param promise: the same for a person.
    """

    safe: bool
    promise: str


class RedisLog:
    """The log that all nodes with the same scope share.

    :param names: of its keys.
    :param retention: what is kept.
    :param max_message: bytes of the largest message that other programs may append.
    :param seconds: the reactor's clock.
    :param monotonic: seconds that only grow; of them all nodes together make what has elapsed.
    :param token: random bytes, as many as it is asked for.
    :param append: the script by which other programs may append.
    :ivar doubt: is called when there is another log than before.
    """

    _log = Logger()

    def __init__(
        self,
        names: Names,
        retention: Retention,
        max_message: int,
        seconds: Callable[[], float],
        token: Callable[[int], bytes],
        append: Script,
        monotonic: Callable[[], float],
    ) -> None:
        self._names = names
        self._retention = retention
        self._max_message = max_message
        self._seconds = seconds
        self._token = token
        self._append = append
        self._monotonic = monotonic
        self._elapsed_ahead = -monotonic()
        self._begin = load_store_script("begin")
        self._look = load_store_script("look")
        self._run_id = ""
        self._tops: OrderedDict[str, int] = OrderedDict()
        self._redis_ahead = 0.0
        self.persistence = Persistence(False, "")
        self.epoch = ""
        self.secret = token(32)
        self.doubt: Callable[[], None] = lambda: None

    # Redis' clock

    def redis_time(self, seconds: float) -> int:
        """The earliest that Redis' clock can show at a time to come of the reactor's; milliseconds."""
        return int(seconds * 1000 + self._redis_ahead)

    def _hear_time(self, milliseconds: int) -> None:
        """Redis has said what its clock shows: it was asked a little earlier than now."""
        self._redis_ahead = milliseconds - self._seconds() * 1000

    # What has elapsed (see lua/common.lua)

    def elapsed(self) -> int:
        """For how many milliseconds nodes have been there, as far as this one knows; it never goes back."""
        return int((self._monotonic() + self._elapsed_ahead) * 1000)

    def _hear_elapsed(self, milliseconds: int) -> None:
        """Redis has said what had elapsed a little earlier than now."""
        self._elapsed_ahead = max(self._elapsed_ahead, milliseconds / 1000 - self._monotonic())

    # What is known of the log

    def saw(self, epoch: str) -> None:
        """A script has answered with an epoch; where it is new, whatever was known is of no use."""
        if epoch == self.epoch:
            return
        before, self.epoch = self.epoch, epoch
        self._tops.clear()
        if before:
            self._log.warn("Redis has another log than before: epoch {epoch}", epoch=epoch)
            self.doubt()

    def saw_top(self, room: str, top: int) -> None:
        """A script has answered with an offset of this epoch."""
        if self._tops.get(room, 0) >= top:
            return
        self._tops[room] = top
        self._tops.move_to_end(room)
        if len(self._tops) > _ROOMS_KNOWN:
            self._tops.popitem(last=False)

    # Beginning

    async def begin(self, connection: Commands, info: Mapping[str, str]) -> None:
        """Make sure that there is a log, and that it belongs to this run of the server.

        A server that was started anew, or promoted, may have lost what it had answered. Unless it can't have, the log
        gets a new epoch: so every reader is told, and no offset stands for two messages.

        :param info: what INFO said on this connection.
        :raises StoreError:
        """
        run_id = info.get("run_id", "")
        self.persistence = await look_at_persistence(connection, info)
        epoch = await self._run_begin(connection, run_id)
        if epoch == self.epoch and await self._lacks(connection):
            self._log.warn("Redis lacks messages that were acknowledged: its data are older ones")
            epoch = await self._run_begin(connection, run_id, doubtful=epoch)
        await self._append.load(connection)
        self._run_id = run_id
        self.saw(epoch)

    async def _run_begin(self, connection: Commands, run_id: str, doubtful: str = "") -> str:
        age = self._retention.age
        arguments = (
            run_id,
            int(self.persistence.safe),
            new_epoch(self._token),
            self.secret.hex(),
            self._retention.count,
            "" if age is None else int(age * 1000),
            self._max_message,
            self._retention.rooms,
            str(self._retention.room_rate),
            self._append.sha,
            doubtful,
            self.elapsed(),
        )
        epoch, secret, time, elapsed = await self._begin.run(connection, [self._names.log], arguments)
        self._hear_time(time)
        self._hear_elapsed(elapsed)
        self.secret = bytes.fromhex(secret.decode())
        return str(epoch.decode())

    async def _lacks(self, connection: Commands, most: int = _ROOMS_KNOWN) -> bool:
        """Whether a room's top is lower than one that was seen before this was asked; see
        :attr:`realtime_chat.values.model.Page.top`.

        :param most: of how many rooms, those that were written to last.
        """
        seen = list(islice(reversed(self._tops.items()), most))
        for begin in range(0, len(seen), _ROOMS_AT_ONCE):
            some = seen[begin : begin + _ROOMS_AT_ONCE]
            fields = ("floor", *(f"room:{room}" for room, _ in some))
            floor, *states = await connection.command("HMGET", self._names.log, *fields)
            if any(_top(floor if state is None else state) < top for state, (_, top) in zip(states, some, strict=True)):
                return True
        return False

    # Looking

    async def look(self, connection: Commands, info: Mapping[str, str], write: bool = False) -> None:
        """See whether the log is still there, and what Redis promises by now; begin it where that is another thing.

        :param write: whether to see if something can be written.
        :raises StoreError:
        """
        asked = [int(write), self.elapsed()]
        run_id, epoch, time, elapsed = await self._look.run(connection, [self._names.log], asked)
        self._hear_time(time)
        self._hear_elapsed(elapsed)
        if run_id.decode() != info.get("run_id") or not epoch:
            await self.begin(connection, info)
            return
        self.saw(epoch.decode())
        if await self._lacks(connection, _ROOMS_AT_ONCE):
            await self.begin(connection, info)

    async def scan_rooms(self, connection: Commands, cursor: bytes, count: int) -> tuple[bytes, list[str]]:
        """Some rooms of the log, about ``count``; a room may come twice.

        :param cursor: where to go on; ``b"0"`` is the beginning.
        :returns: where to go on, ``b"0"`` after the last of them; and their names.
        :raises StoreError:
        """
        cursor, fields = await connection.command("HSCAN", self._names.log, cursor, "MATCH", "room:*", "COUNT", count)
        return cursor, [name.removeprefix(b"room:").decode() for name in fields[::2]]

    async def look_closely(self, connection: Commands) -> None:
        """See whether Redis promises the same as before, and still knows the script for other programs.

        :raises StoreError:
        """
        info = read_info(await connection.command("INFO"))
        if await look_at_persistence(connection, info) != self.persistence:
            await self.begin(connection, info)
            self._log.info("Redis promises something else now: {promise}", promise=self.persistence.promise)
        if await connection.command("SCRIPT", "EXISTS", self._append.sha) != [1]:
            await self._append.load(connection)


def _top(state: bytes | None) -> int:
    """The top in a room's field of the log, or in that of rooms that are not there."""
    word = (state or b"0").partition(b" ")[0]
    return int(word) if word.isdigit() else 0


async def look_at_persistence(connection: Commands, info: Mapping[str, str]) -> Persistence:
    """What Redis keeps when it ends.

    :raises StoreError: the connection is lost.
    """
    try:
        settings = await _settings(connection, "appendfsync", "save")
    except ServerError:
        return Persistence(False, "what a restart keeps is unknown, as CONFIG GET isn't allowed")
    if info.get("aof_enabled") != "1":
        return Persistence(False, _of_snapshots(settings.get("save", "")))
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


def _of_snapshots(save: str) -> str:
    if not save:
        return "nothing is persistent: a restart of Redis loses everything"
    return "snapshots alone: a crash loses what came after the last one"


def _was_replica(info: Mapping[str, str]) -> bool:
    return (
        info.get("master_replid2", _NO_REPLICATION) != _NO_REPLICATION or info.get("second_repl_offset", "-1") != "-1"
    )
