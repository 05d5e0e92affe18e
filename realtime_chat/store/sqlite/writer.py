"""Appending to the logs in SQLite, many drafts a commit."""

from __future__ import annotations

import sqlite3
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace
from twisted.logger import Logger

from realtime_chat.store.ages import Ages, Span
from realtime_chat.store.retention import NewRooms, Retention, content_digest
from realtime_chat.store.sqlite.checkpoints import Checkpoints
from realtime_chat.store.sqlite.file import DatabaseFile, Identity
from realtime_chat.store.sqlite.reader import LogReader
from realtime_chat.values.errors import InDoubt, RealtimeError, StoreError, StoreRefused, out_of_order
from realtime_chat.values.model import AppendResult, Draft, Message, Position

__all__ = ["MOST_DRAFTS", "CommitInDoubt", "LogWriter", "Outcome"]

MOST_DRAFTS = 256
"""How many drafts one commit takes."""

_ROOMS_KNOWN = 10_000
_SECONDS_TO_SWEEP = 0.01
_ROOMS_A_SWEEP = 100
_SECONDS_TO_KEEP_SPANS = 600.0

# Every statement gives up the interpreter's lock, and has to wait up to sys.getswitchinterval() for a busy reactor
# thread to give it back. So a commit is one statement, and triggers do the rest; they stand on the table, as those of a
# view would cost three times as much. Padding with empty rows to one of a few sizes lets prepared statements be reused.
_TRIGGERS = """
CREATE TEMP VIEW trims AS
SELECT NULL AS room, NULL AS below, NULL AS young, NULL AS most;

CREATE TEMP TRIGGER trim INSTEAD OF INSERT ON trims BEGIN
    DELETE FROM messages WHERE room = NEW.room AND offset < min(
        NEW.below,
        NEW.most + ifnull((SELECT min(offset) FROM messages WHERE room = NEW.room), 0));
    DELETE FROM keys WHERE room = NEW.room AND offset < min(
        NEW.below,
        NEW.most + ifnull((SELECT min(offset) FROM keys WHERE room = NEW.room), 0),
        ifnull((SELECT offset FROM keys WHERE room = NEW.room AND at >= NEW.young ORDER BY offset LIMIT 1), NEW.below));
END;

CREATE TEMP TABLE ages (young INTEGER NOT NULL);
INSERT INTO ages (young) VALUES (0);

CREATE TEMP TRIGGER move_top AFTER INSERT ON main.messages BEGIN
    UPDATE rooms SET top = NEW.offset, emptied = NULL WHERE id = NEW.room AND top = NEW.offset - 1;
    SELECT RAISE(ABORT, 'another program has changed it') WHERE changes() = 0;
END;

CREATE TEMP TRIGGER file_key AFTER INSERT ON main.messages WHEN NEW.digest IS NOT NULL BEGIN
    INSERT OR REPLACE INTO keys (room, sender_id, key, offset, at, digest)
    VALUES (NEW.room, NEW.sender_id, NEW.key, NEW.offset, NEW.at, NEW.digest);
END;

CREATE TEMP TRIGGER trim_room AFTER INSERT ON main.messages WHEN NEW.offset %% %(slack)d = 0 BEGIN
    INSERT INTO trims (room, below, young, most)
    VALUES (NEW.room, NEW.offset - %(count)d + 1, (SELECT young FROM ages), %(most)d);
END;
"""
# The sqlite3 module looks for adapters of None and of bytes, not of a bytearray, which costs more than binding it. So
# there are columns for a key only where a draft of the commit has one, and empty rows are of zeros.
_COLUMNS = ("room", "offset", "at", "event", "sender_id", "sender_name", "data")
_KEY_COLUMNS = (*_COLUMNS, "key", "digest")
_DATA = _COLUMNS.index("data")
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, MOST_DRAFTS)
# A prepared statement holds on to what was bound to it last, so commits of much data share a few of them.
_SIZES_OF_MUCH = (16, MOST_DRAFTS)
_MUCH = 64 * 1024


def _insert_of(columns: Sequence[str], size: int) -> str:
    row = f"({','.join('?' * len(columns))})"
    return (
        f"INSERT INTO messages ({', '.join(columns)}) SELECT * FROM (VALUES {','.join([row] * size)}) WHERE column1 > 0"
    )


_INSERTS = {(columns, size): _insert_of(columns, size) for columns in (_COLUMNS, _KEY_COLUMNS) for size in _SIZES}
_ADD_ROOM = "INSERT INTO rooms (id, name, top, begun) VALUES (?1, ?2, ?3, ?3)"
_COUNT_ROOMS = "SELECT floor, (SELECT count(*) FROM rooms) FROM identity"
_FIND_ROOMS = """
SELECT json_group_array(json_array(rooms.name, rooms.id, rooms.top)), (SELECT ifnull(max(id), 0) FROM rooms)
FROM json_each(?) AS asked CROSS JOIN rooms ON rooms.name = asked.value
"""
_FIND_KEYS = """
SELECT json_group_array(json_array(asked.key, hex(keys.digest), keys.offset, keys.at,
                                   messages.at, event, CAST(data AS TEXT), sender_name))
FROM json_each(?) AS asked
CROSS JOIN keys ON keys.room = asked.value ->> 0 AND keys.sender_id = asked.value ->> 1 AND keys.key = asked.value ->> 2
LEFT JOIN messages ON messages.room = keys.room AND messages.offset = keys.offset
"""
_SWEEP = """
INSERT INTO trims (room, below, young, most)
SELECT id, max(top - :count + 1, ifnull(
    (SELECT offset FROM messages WHERE room = rooms.id AND at >= :cutoff ORDER BY offset LIMIT 1), top + 1)),
    :young, :most
FROM rooms WHERE id > :after AND id <= :last
"""
_FIND_EMPTY = """
SELECT id, name, top, emptied, EXISTS (SELECT 1 FROM keys WHERE room = rooms.id) FROM rooms
WHERE id > ? AND id <= ? AND NOT EXISTS (SELECT 1 FROM messages WHERE room = rooms.id)
"""
_SET_EMPTIED = "UPDATE rooms SET emptied = ? WHERE id = ?"
_RAISE_FLOOR = "UPDATE identity SET floor = max(floor, ?)"
_FORGET_ROOM = "DELETE FROM rooms WHERE id = ?"

Outcome = AppendResult | RealtimeError

_encode = msgspec.json.Encoder().encode


class CommitInDoubt(Exception):
    """The disk failed in the middle of a commit: whether it is stored will be seen when the disk can be read."""


class _Room:
    """Where a room stands.

    :param new: whether the database doesn't have it yet.
    """

    __slots__ = ("id", "new", "top")

    def __init__(self, id: int, top: int, new: bool = False) -> None:
        self.id = id
        self.top = top
        self.new = new


class _Known(NamedTuple):
    """What was published under a key; ``message`` is None where only the key is left."""

    digest: bytes
    offset: int
    at: int
    message: Message | None


class _KeyRow(msgspec.Struct, array_like=True, frozen=True):
    index: int
    digest: str
    offset: int
    at: int
    message_at: int | None
    event: str | None
    data: str | None
    sender_name: str | None


_decode_rooms = msgspec.json.Decoder(list[tuple[str, int, int]]).decode
_decode_keys = msgspec.json.Decoder(list[_KeyRow]).decode


class _Batch:
    """What one commit adds, and what each draft will be answered.

    :param rooms: the rooms of the drafts, as far as they exist; its own copies, moved on here.
    :param floor: after which offset a new room begins.
    :param refusal: why a room can't be made, by the number of those that this batch makes before it; None where it can.
    :param known: by room, sender's id and key.
    :param keyed: whether a draft may have a key.
    :ivar made: how many rooms it makes.
    :ivar size: how many bytes of data it adds.
    """

    def __init__(
        self,
        epoch: str,
        rooms: dict[str, _Room],
        next_room: int,
        floor: int,
        refusal: Callable[[int], RealtimeError | None],
        known: dict[tuple[str, str, str], _Known],
        keyed: bool,
    ) -> None:
        self.epoch = epoch
        self.rooms = rooms
        self.next_room = next_room
        self.made = 0
        self.outcomes: list[Outcome] = []
        self.rows: list[Any] = []
        self.columns = _KEY_COLUMNS if keyed else _COLUMNS
        self.size = 0
        self._floor = floor
        self._refusal = refusal
        self._known = known
        self._keyed = keyed

    @property
    def count(self) -> int:
        """How many messages it adds."""
        return len(self.rows) // len(self.columns)

    @property
    def last(self) -> Message | None:
        """The last message that it adds."""
        added = (one.message for one in reversed(self.outcomes) if isinstance(one, AppendResult) and not one.duplicate)
        return next(added, None)

    def add(self, drafts: Sequence[tuple[Draft, int]]) -> None:
        """Give each draft its place, or the answer that its key has already."""
        for draft, at in drafts:
            if draft.key is None:
                self._place(draft, at)
            else:
                self._place_once(draft, at, draft.key)
        self.size = sum(map(len, self.rows[_DATA :: len(self.columns)]))

    def _place_once(self, draft: Draft, at: int, key: str) -> None:
        digest = content_digest(draft)
        name = draft.room, draft.sender.id, key
        known = self._known.get(name)
        if known is None and draft.after is not None and (draft.room, draft.sender.id, draft.after) not in self._known:
            self.outcomes.append(out_of_order())
        elif known is None:
            message = self._place(draft, at, digest)
            if message is not None:
                self._known[name] = _Known(digest, message.position.offset, at, message)
        else:
            self.outcomes.append(self._again(draft, digest, known))

    def _again(self, draft: Draft, digest: bytes, known: _Known) -> Outcome:
        if known.digest != digest:
            return RealtimeError("key_reused", "this key was used for another message in this room")
        return AppendResult(known.message or draft.placed(Position(self.epoch, known.offset), known.at), duplicate=True)

    def _place(self, draft: Draft, at: int, digest: bytes | None = None) -> Message | None:
        room = self.rooms.get(draft.room) or self._add_room(draft.room)
        if room is None:
            return None
        room.top = offset = room.top + 1
        message = draft.placed(Position(self.epoch, offset), at)
        self.outcomes.append(AppendResult(message))
        sender = draft.sender
        self.rows += (room.id, offset, at, draft.event, sender.id, sender.name, bytearray(draft.data))
        if self._keyed:
            self.rows += (draft.key, None if digest is None else bytearray(digest))
        return message

    def _add_room(self, name: str) -> _Room | None:
        refusal = self._refusal(self.made)
        if refusal is not None:
            self.outcomes.append(refusal)
            return None
        room = self.rooms[name] = _Room(self.next_room, self._floor, new=True)
        self.next_room += 1
        self.made += 1
        return room


class LogWriter:
    """The one that changes the database. Everything here happens on one thread.

    :param reader: has the only other connection to the file.
    :param replaced: called when the file was found to be another log.
    :ivar is_read: whether somebody reads a room.
    """

    _log = Logger()

    def __init__(
        self,
        file: DatabaseFile,
        retention: Retention,
        ages: Ages,
        reader: LogReader,
        replaced: Callable[[], None],
    ) -> None:
        self._file = file
        self._retention = retention
        self._ages = ages
        self._spans_said: Sequence[Span] = ()
        self._spans_kept: tuple[Sequence[Span], float] | None = None
        self._reader = reader
        self._replaced = replaced
        self._connection: sqlite3.Connection | None = None
        self._epoch = ""
        self._secret: bytes | None = None
        self._rooms: OrderedDict[str, _Room] = OrderedDict()
        self._next_room = 1
        self._rooms_stored = 0
        self._floor = 0
        self._new_rooms = NewRooms(retention)
        self._total = 0
        self._data_version: Any = None
        self._checkpoints = Checkpoints(file, reader, self._log_throttled)
        self._swept = 0
        self._trouble: str | None = None
        self._in_doubt: _Batch | None = None
        self.is_read: Callable[[str], bool] = lambda room: False

    def open(self) -> Identity:
        """Open or create the database.

        :raises StoreRefused:
        """
        self.close()
        connection, identity = self._file.open_to_write(self._secret, self._total, self._reader.close)
        connection.executescript(self._triggers())
        self._spans_said = ()
        if self._spans_kept is None:
            self._restore_spans(connection)
        if identity.epoch != self._epoch and self._epoch:
            self._log.warn("{path} is another log now", path=self._file.path)
            self._replaced()
        self._epoch = identity.epoch
        self._total = identity.total
        self._data_version = connection.execute("PRAGMA data_version").fetchone()
        self._secret = self._secret or identity.secret
        self._floor, self._rooms_stored = connection.execute(_COUNT_ROOMS).fetchone()
        self._connection = connection
        self._reader.open()
        return identity

    def _triggers(self) -> str:
        return _TRIGGERS % {
            "slack": self._retention.slack,
            "count": self._retention.count,
            "most": self._trim_most,
        }

    @property
    def _trim_most(self) -> int:
        """How many offsets one trim of a room goes through; more than are added until the next."""
        return 4 * self._retention.slack

    def close(self) -> None:
        """Close the connection."""
        self._rooms.clear()
        self._checkpoints.stop()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def leave(self) -> None:
        """Close the connection for good."""
        if self._connection is not None and self._in_doubt is None:
            self._file.leave(self._connection)
        self.close()

    def _ready(self) -> sqlite3.Connection:
        """The connection, opened again if the file was replaced or the last use failed.

        :raises StoreError:
        """
        if self._in_doubt is not None:
            raise StoreError("the disk failed, and can't be read yet")
        if self._connection is None or not self._file.in_place():
            try:
                self.open()
            except StoreRefused as refusal:
                self._log_throttled(str(refusal))
                raise StoreError("the store can't be opened", str(refusal)) from refusal
        assert self._connection is not None
        return self._connection

    def commit(self, drafts: Sequence[tuple[Draft, int]], check: bool = False) -> list[Outcome]:
        """Store drafts in one transaction; answer for each, in order, once they are durable.

        :param drafts: at most :data:`MOST_DRAFTS`, each with its time in milliseconds.
        :param check: write something in any case.
        :raises StoreError: nothing was stored.
        :raises FateUnknown: see :meth:`resolve_in_doubt`.
        :raises InDoubt: it is in a file that is no longer there, but may be moved back.
        """
        connection = self._ready()
        batch = None
        try:
            batch = self._prepare(connection, drafts)
            if self._spans_said is not self._ages.spans:
                self._say_young(connection)
            if batch.rows:
                self._insert(connection, batch)
            elif check:
                connection.execute("UPDATE identity SET checks = checks + 1")
        except sqlite3.Error as error:
            raise self._failure(connection, error, batch) from error
        if not self._file.in_place():
            self._log_throttled("it was moved or replaced")
            self._rooms.clear()
            raise InDoubt
        if batch.rows or check:
            self._log_recovered()
        self._remember(batch)
        return batch.outcomes

    def _say_young(self, connection: sqlite3.Connection) -> int:
        """Let those who trim know which keys are young. Later it is too low, which only keeps more; but after the wall
        clock was set it may be too high."""
        self._spans_said = self._ages.spans
        young = self._ages.young()
        connection.execute("UPDATE ages SET young = ?", (young,))
        return young

    def _restore_spans(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT elapsed, ahead FROM spans ORDER BY elapsed")
        self._ages.restore([Span(*row) for row in rows])
        self._spans_kept = (), 0.0

    def keep_spans(self) -> None:
        """Let the next process know what the wall clock has shown, and how far that has got."""
        if self._connection is None or self._in_doubt is not None or not self._ages.lasting:
            return
        spans, elapsed = self._ages.spans, self._ages.elapsed()
        rows = [*spans, Span(elapsed, spans[-1].ahead)]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("DELETE FROM spans")
            self._connection.executemany("INSERT OR REPLACE INTO spans (elapsed, ahead) VALUES (?, ?)", rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._log_throttled(str(error))
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
        else:
            self._spans_kept = spans, elapsed

    def _spans_are_old(self) -> bool:
        spans, elapsed = self._spans_kept or ((), 0.0)
        return spans is not self._ages.spans or self._ages.elapsed() - elapsed > _SECONDS_TO_KEEP_SPANS

    def _log_throttled(self, trouble: str) -> None:
        """Log what is wrong, once: a full disk is met with every commit."""
        if trouble != self._trouble:
            self._trouble = trouble
            self._log.error("{path}: {trouble}", path=self._file.path, trouble=trouble)

    def _log_recovered(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            self._log.info("{path} can be written to again", path=self._file.path)

    def _prepare(self, connection: sqlite3.Connection, drafts: Sequence[tuple[Draft, int]]) -> _Batch:
        rooms = self._find_rooms(connection, {draft.room for draft, _ in drafts})
        keyed = [draft for draft, _ in drafts if draft.key is not None]
        keyed += [replace(draft, key=draft.after) for draft in keyed if draft.after is not None]
        known = self._find_keys(connection, keyed, rooms) if keyed else {}
        batch = _Batch(self._epoch, rooms, self._next_room, self._floor, self._refusal, known, bool(keyed))
        batch.add(drafts)
        return batch

    def _refusal(self, made: int) -> RealtimeError | None:
        return self._new_rooms.refusal(self._rooms_stored + made, self._ages.elapsed())

    def _find_rooms(self, connection: sqlite3.Connection, names: set[str]) -> dict[str, _Room]:
        rooms = {name: _Room(room.id, room.top) for name in names if (room := self._rooms.get(name)) is not None}
        if len(rooms) < len(names):
            asked = _encode([name for name in names if name not in rooms]).decode()
            found, last_room = connection.execute(_FIND_ROOMS, (asked,)).fetchone()
            rooms |= {name: _Room(id, top) for name, id, top in _decode_rooms(found)}
            self._next_room = last_room + 1
        return rooms

    def _find_keys(
        self, connection: sqlite3.Connection, drafts: Sequence[Draft], rooms: dict[str, _Room]
    ) -> dict[tuple[str, str, str], _Known]:
        keyed = [draft for draft in drafts if draft.room in rooms]
        if not keyed:
            return {}
        asked = _encode([(rooms[draft.room].id, draft.sender.id, draft.key) for draft in keyed]).decode()
        (found,) = connection.execute(_FIND_KEYS, (asked,)).fetchone()
        known = {}
        for row in _decode_keys(found):
            draft = keyed[row.index]
            if draft.key is not None and self._is_kept(row, rooms[draft.room].top):
                known[draft.room, draft.sender.id, draft.key] = self._known(draft, row)
        return known

    def _is_kept(self, row: _KeyRow, top: int) -> bool:
        if row.at >= self._ages.young():
            return True
        return row.offset > top - self._retention.count and row.at >= self._ages.cutoff()

    def _known(self, draft: Draft, row: _KeyRow) -> _Known:
        message = None
        if (
            row.message_at is not None
            and row.event is not None
            and row.data is not None
            and row.sender_name is not None
        ):
            message = Message(
                draft.room,
                Position(self._epoch, row.offset),
                row.event,
                row.data.encode(),
                draft.sender.id,
                row.sender_name,
                row.message_at,
                draft.key,
            )
        return _Known(bytes.fromhex(row.digest), row.offset, row.at, message)

    def _insert(self, connection: sqlite3.Connection, batch: _Batch) -> None:
        new = [(room.id, name, self._floor) for name, room in batch.rooms.items() if room.new]
        if not new:
            self._insert_messages(connection, batch)
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.executemany(_ADD_ROOM, new)
            self._insert_messages(connection, batch)
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise

    def _insert_messages(self, connection: sqlite3.Connection, batch: _Batch) -> None:
        width = len(batch.columns)
        count = len(batch.rows) // width
        sizes = _SIZES if batch.size <= _MUCH else _SIZES_OF_MUCH
        size = sizes[bisect_left(sizes, count)]
        connection.execute(_INSERTS[batch.columns, size], batch.rows + [0] * (width * (size - count)))

    def _failure(self, connection: sqlite3.Connection, error: sqlite3.Error, batch: _Batch | None) -> Exception:
        """What a failed statement means; it was rolled back, unless the disk failed."""
        code = getattr(error, "sqlite_errorcode", 0)
        self._log_throttled(str(error))
        if code & 0xFF == sqlite3.SQLITE_FULL:
            return StoreError("the disk is full")
        self._rooms.clear()
        # What makes a commit one is written last: where writing failed, it isn't there.
        is_written = code & 0xFF == sqlite3.SQLITE_IOERR and code != sqlite3.SQLITE_IOERR_WRITE
        if is_written and batch is not None and batch.rows:
            # Written but not synced, it may be found after a crash: SQLite's memory and the file tell different things.
            self._in_doubt = batch
            return CommitInDoubt(str(error))
        self.close()
        return StoreError("the store can't be written to", str(error))

    def _remember(self, batch: _Batch) -> None:
        self._next_room = batch.next_room
        self._rooms_stored += batch.made
        self._rooms.update(batch.rooms)
        for name in batch.rooms:
            self._rooms.move_to_end(name)
        while len(self._rooms) > _ROOMS_KNOWN:
            self._rooms.popitem(last=False)
        self._total += batch.count + batch.made * self._floor
        self._checkpoints.committed(batch.size)

    @property
    def in_doubt(self) -> bool:
        """Whether there is a commit whose fate is unknown; until it is settled nothing can be stored."""
        return self._in_doubt is not None

    def resolve_in_doubt(self) -> list[Outcome] | None:
        """Find out what became of the commit whose fate was unknown; None while that can't be seen.

        After a checkpoint what is visible is durable, and what isn't visible is gone.

        :raises StoreError: it was not stored.
        """
        batch = self._in_doubt
        last = None if batch is None else batch.last
        if batch is None or last is None:
            return None
        try:
            identity = self.open()
            assert self._connection is not None
            if self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                return None
            sql = "SELECT top FROM rooms WHERE name = ?"
            row = self._connection.execute(sql, (last.room,)).fetchone()
        except (sqlite3.Error, StoreRefused):
            return None
        self._in_doubt = None
        if identity.epoch == batch.epoch and row is not None and row[0] >= last.position.offset:
            return batch.outcomes
        raise StoreError("the disk failed")

    def tidy(self) -> None:
        """Checkpoint when it is time to, so that the write-ahead log stays small; all that came is answered."""
        if self._connection is not None and self._in_doubt is None and self._checkpoints.are_due():
            self._checkpoints.run(self._connection)

    def look_after(self) -> None:
        """Notice that the file was replaced, checkpoint, trim rooms that nobody writes to, and forget the unused."""
        try:
            connection = self._look_again(self._ready())
        except StoreError:
            return
        if self._spans_are_old():
            self.keep_spans()
        self._checkpoints.run(connection)
        end = time.monotonic() + _SECONDS_TO_SWEEP
        try:
            while self._sweep_rooms(connection) and time.monotonic() < end:
                pass
        except sqlite3.Error as error:
            self._log_throttled(f"nothing trimmed: {error}")

    def _look_again(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """See whether another program has changed the database, such as by putting a backup back into it.

        :returns: the connection to go on with.
        :raises StoreError:
        """
        try:
            version = connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            return connection
        if version == self._data_version:
            return connection
        self.close()
        return self._ready()

    def _sweep_rooms(self, connection: sqlite3.Connection) -> bool:
        """Sweep the next rooms; False after the last of them."""
        young = self._say_young(connection)
        last = self._swept + _ROOMS_A_SWEEP
        connection.execute(
            _SWEEP,
            {
                "count": self._retention.count,
                "cutoff": self._ages.cutoff(),
                "young": young,
                "most": self._trim_most,
                "after": self._swept,
                "last": last,
            },
        )
        self._sweep_empty(connection, self._swept, last)
        (more,) = connection.execute("SELECT max(id) > ? FROM rooms", (last,)).fetchone()
        self._swept = last if more else 0
        return bool(more)

    def _sweep_empty(self, connection: sqlite3.Connection, after: int, last: int) -> None:
        """Forget what is unused among some rooms; of a room that is read, remember now and then that it was."""
        ages, patience = self._ages, self._retention.room_age
        now, expired, half = int(ages.now() * 1000), ages.lowest(patience), ages.lowest(patience / 2)
        emptied: list[tuple[int, int]] = []
        unused: list[tuple[int, str, int]] = []
        for id, name, top, since, has_keys in connection.execute(_FIND_EMPTY, (after, last)).fetchall():
            if since is None or (since <= half and self.is_read(name)):
                emptied.append((now, id))
            elif since <= expired and not has_keys:
                unused.append((id, name, top))
        if emptied or unused:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(_SET_EMPTIED, emptied)
                self._forget_rooms(connection, unused)
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise
            self._forgotten(unused)

    def _forget_rooms(self, connection: sqlite3.Connection, rooms: Sequence[tuple[int, str, int]]) -> None:
        if rooms:
            connection.execute(_RAISE_FLOOR, (max(top for _, _, top in rooms),))
            connection.executemany(_FORGET_ROOM, [(id,) for id, _, _ in rooms])

    def _forgotten(self, rooms: Sequence[tuple[int, str, int]]) -> None:
        self._rooms_stored -= len(rooms)
        for _, name, top in rooms:
            self._floor = max(self._floor, top)
            self._total -= top
            self._rooms.pop(name, None)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
