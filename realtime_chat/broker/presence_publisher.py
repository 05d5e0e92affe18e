"""The clients of this node, as it writes them to Redis and publishes them.

For each room that ever had a message there is a hash with a row for each client, which the client's node writes and
deletes. Every change raises the hash's version and is published with it; see ``lua/publish_presence.lua``. A room
without messages has no hash, as anybody can name any number of such rooms: its changes are only published. After a
room's first message the next change makes the hash, and all nodes write their rows into it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from realtime_chat.broker.presence_messages import encode_all, encode_body, encode_row
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.wire import Argument, ignore_store_error, load_script
from realtime_chat.values.errors import StoreError
from realtime_chat.values.model import RemoteClient

_PACKAGE = "realtime_chat.broker"
_ROOMS_PER_CALL = 500


class PresencePublisher:
    """Publishes this node's clients, and restores what Redis loses of them.

    :param random_bytes: gives as many as it is asked for.
    :param expiry: seconds for which a hash stays if nobody renews it.
    :param repair_later: called when :meth:`restore` has something to do.
    :ivar rows: this node's rows, by room and client hash.
    :ivar lost: the rooms whose rows have to be restored, and whether all nodes have to read them then.
    """

    def __init__(
        self,
        names: RedisNames,
        node: str,
        connection: RedisConnection,
        random_bytes: Callable[[int], bytes],
        expiry: float,
        repair_later: Callable[[], None],
    ) -> None:
        self.rows: dict[str, dict[str, bytes]] = {}
        self.lost: dict[str, bool] = {}
        self._names = names
        self._node = node
        self._connection = connection
        self._random_bytes = random_bytes
        self._expiry = max(1, int(expiry))
        self._repair_later = repair_later
        self._publish, self._restore, self._renew = (
            load_script(_PACKAGE, f"lua/{name}.lua")
            for name in ("publish_presence", "restore_members", "renew_members")
        )

    # Changes

    def change(self, room: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> Mapping[str, bytes]:
        """Note a change of this node's clients.

        :param gone: their hashes.
        :returns: the rows of the clients that came.
        """
        rows = {client.client_hash: encode_row(client) for client in came}
        own = self.rows.setdefault(room, {})
        own |= rows
        for client_hash in gone:
            own.pop(client_hash, None)
        if not own:
            del self.rows[room]
        return rows

    def publish(self, room: str, rows: Mapping[str, bytes], gone: Sequence[str]) -> None:
        """Write a change to the room's hash, if it has one, and publish it. If that fails, it is restored later."""
        total = len(self.rows.get(room, ()))
        Deferred.fromCoroutine(self._write(room, rows, gone, total)).addErrback(self._not_written, room, False)

    async def _write(self, room: str, rows: Mapping[str, bytes], gone: Sequence[str], total: int) -> None:
        body = encode_body(rows.values(), gone)
        words = [*self._head(room), body, len(rows), *self._fields(rows), *map(self._field, gone)]
        is_new = await self._publish.run(self._connection, self._keys(room), words)
        if is_new and total > len(rows):
            self.restore_later(room)  # the old hash was lost, and with it our other rows

    def _not_written(self, failure: Failure, room: str, announce: bool) -> None:
        failure.trap(StoreError)
        self.restore_later(room, announce)

    def _keys(self, room: str) -> list[str]:
        return [self._names.members(room), self._names.log]

    def _head(self, room: str) -> list[Argument]:
        return [self._names.room(room), room, self._node, self._random_bytes(8).hex(), self._expiry]

    def _field(self, client_hash: str) -> str:
        return f"{self._node}:{client_hash}"

    def _fields(self, rows: Mapping[str, bytes]) -> Iterator[Argument]:
        for client_hash, row in rows.items():
            yield self._field(client_hash)
            yield row

    # Answers

    def body_of(self, room: str) -> bytes:
        """All of this node's clients in a room, encoded as the body of a delta."""
        return encode_body(self.rows.get(room, {}).values())

    def answer(self, room: str) -> None:
        """Publish all of this node's clients in a room."""
        payload = encode_all(self._node, self.rows.get(room, {}).values())
        self._connection.command("PUBLISH", self._names.room(room), payload).addErrback(ignore_store_error)

    # What Redis has lost

    def restore_later(self, room: str, announce: bool = False) -> None:
        """Restore our rows of a room, which Redis may not have.

        :param announce: whether all nodes have to read the hash, even if nothing was lost.
        """
        self.lost[room] = self.lost.get(room, False) or announce
        self._repair_later()

    def restore_all_later(self) -> None:
        """Restore our rows of all rooms, and let all nodes read them."""
        for room in self.rows:
            self.restore_later(room, True)

    async def restore_some(self, limit: int) -> bool:
        """Restore our rows of some rooms. Returns False if some of them have to be restored again."""
        some = list(islice(self.lost.items(), limit))
        for room, _ in some:
            del self.lost[room]
        await DeferredList([self.restore(room, announce) for room, announce in some], consumeErrors=True)
        return not any(room in self.lost for room, _ in some)

    def restore(self, room: str, announce: bool = False) -> Deferred[None]:
        """Restore our rows of a room now; see :meth:`restore_later`."""
        rows = self.rows.get(room, {})
        words = [*self._head(room), int(announce), *self._fields(rows)]
        run = self._restore.run(self._connection, self._keys(room), words)
        return Deferred.fromCoroutine(run).addErrback(self._not_written, room, announce)

    async def renew(self, rooms: Sequence[str], gone: Sequence[str]) -> None:
        """Let the hashes of some rooms expire later, and delete the rows of nodes that are gone.

        :raises StoreError: not now.
        """
        for start in range(0, len(rooms), _ROOMS_PER_CALL):
            part = rooms[start : start + _ROOMS_PER_CALL]
            keys = [*map(self._names.alive, gone), *map(self._names.members, part)]
            for number in await self._renew.run(self._connection, keys, [self._expiry, *gone]):
                self.restore_later(part[number])
