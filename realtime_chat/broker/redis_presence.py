"""Who is in which room by way of which node, in Redis.

For each room that ever had a message there is a hash with a row for each client, which its node writes and deletes
(``lua/publish_presence.lua``). Every change raises the hash's version and is published with it, so that who follows a
room knows whether it has heard of all changes, and reads the whole hash where it hasn't. Rows are believed as long as
their node renews its key; a node that finds that another's is gone tells all, so that all forget that node's clients
at the same time. What Redis loses, each node puts back.

A room without messages leaves nothing in Redis, as anybody can name any number of them. Its changes are only
published. A node that begins to follow it asks the others that do (``lua/look.lua``), and each of them says who is
there by way of it. After the room's first message the next change makes the hash, and all nodes put into it what is
theirs.

What is published on a room's channel is ``pID VERSION NODE``, a line break, and the JSON array ``[rows of who came or
changed, marks of who went]``; a row is ``[mark, user's id, name, guest, state, changed]``. Where there is no hash the
version is 0, and in the id's place stands ``-`` for a change, ``=`` for all who are there by way of the node, and
``?`` for the same with a question to the others. On the channel of all nodes it is one of the JSON arrays ``["bye",
NODE, SECONDS]``, ``["gone", NODE]`` and ``["said", NODE, MARK, STATE, ROOM]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat.broker.subscriptions import Hear
from realtime_chat.core.interfaces import DelayedCall, Listener
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import Names
from realtime_chat.redis.scripts import load_script
from realtime_chat.redis.wire import Argument, ignore_store_error
from realtime_chat.values.errors import StoreError
from realtime_chat.values.model import ForwardedCommand, RemoteClient, User

__all__ = ["RedisPresence"]

_PACKAGE = "realtime_chat.broker"
_HEAD = re.compile(rb"p([0-9a-f]{1,32}|[-=?]) ([0-9]{1,16}) ([0-9a-f]{1,32})")
_FIELD = re.compile(rb"([0-9a-f]{1,32}):([0-9a-f]{1,32})")
_ROOMS_AT_ONCE = 50
_ROOMS_A_CALL = 500
_MOST_PENDING = 1000
_SECONDS_BETWEEN_TRIES = 1.0
_SECONDS_TO_ANSWER = 0.3
_LOOKS_A_LEASE = 6
_LEASES_OF_A_HASH = 4
_GONE = b"0"
_NULL = b"null"
_CHANGE, _ALL, _QUESTION = b"-", b"=", b"?"
"""What is told of a room that has no hash."""

T = TypeVar("T")


class _Row(msgspec.Struct, array_like=True, frozen=True):
    """See :class:`~realtime_chat.values.model.RemoteClient`."""

    client_hash: str
    id: str
    name: str
    guest: bool
    state: msgspec.Raw
    changed: int


class _Bye(msgspec.Struct, array_like=True, frozen=True, tag="bye"):
    node: str
    held: float


class _Gone(msgspec.Struct, array_like=True, frozen=True, tag="gone"):
    node: str


class _Said(msgspec.Struct, array_like=True, frozen=True, tag="said"):
    node: str
    client_hash: str
    state: msgspec.Raw
    leaves: str | None


_encode = msgspec.json.Encoder().encode
_decode_row = msgspec.json.Decoder(_Row).decode
_decode_change = msgspec.json.Decoder(tuple[list[_Row], list[str]]).decode
_decode_news = msgspec.json.Decoder(_Bye | _Gone | _Said).decode


class _RoomReplica:
    """How far a room was followed.

    :ivar id: of its hash; empty if there is none.
    :ivar pending: what was heard while the hash is being read; None while it isn't.
    :ivar again: whether it has to be read once more.
    :ivar answers: who is there by way of each node that has answered; None while none is asked.
    :ivar wanted: how many nodes have to answer.
    :ivar complete: is told when they have; None while it isn't waited for.
    """

    __slots__ = ("again", "answers", "complete", "id", "pending", "version", "wanted")

    def __init__(self) -> None:
        self.id = b""
        self.version = 0
        self.pending: list[_Delta] | None = None
        self.again = False
        self.answers: dict[str, Sequence[RemoteClient]] | None = None
        self.wanted = 0
        self.complete: Deferred[None] | None = None

    def answer(self, heard: _Delta) -> None:
        """A node says who is there by way of it."""
        if self.answers is None:
            return
        self.answers[heard.node] = heard.came
        if self.complete is not None and len(self.answers) >= self.wanted:
            complete, self.complete = self.complete, None
            complete.callback(None)

    def follows(self, heard: _Delta) -> bool:
        """Whether that is the next change."""
        if self.id in (heard.id, b""):
            return heard.version == self.version + 1
        return False


class _Delta(NamedTuple):
    """A change, as it is published."""

    id: bytes
    version: int
    node: str
    came: Sequence[RemoteClient]
    gone: Sequence[str]


class _Snapshot(NamedTuple):
    """What a room's hash holds, or where there is none, what the other nodes say.

    :param complete: whether all that were asked have answered.
    """

    id: bytes
    version: int
    own: Mapping[str, bytes]
    others: Mapping[str, Sequence[RemoteClient]]
    complete: bool = True


class RedisPresence:
    """What one node tells and hears of who is in the rooms (``broker.redis.PresenceBackend``).

    :param clock: the reactor's.
    :param names: of keys and channels.
    :param node: what no other node is called.
    :param link: by which it is told.
    :param token: random bytes, as many as it is asked for.
    :param lease: seconds after which a node that has died is known to be gone.
    :param held: seconds for which the others hold those who were there by way of a node that has stopped.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Any,
        names: Names,
        node: str,
        link: RedisConnection,
        token: Callable[[int], bytes],
        *,
        lease: float = 30.0,
        held: float = 5.0,
    ) -> None:
        self._clock = clock
        self._names = names
        self._node = node
        self._link = link
        self._token = token
        self._lease = lease
        self._grace = lease / 3 + 2 * _SECONDS_BETWEEN_TRIES  # in which others put back what was lost
        self._held = held
        self._listener: Listener | None = None
        self._rooms: dict[str, _RoomReplica] = {}
        self._own: dict[str, dict[str, bytes]] = {}  # rows by room and mark
        self._nodes: dict[str, None] = {}  # others that are there
        self._going: dict[str, float] = {}  # others that have stopped, and when they are forgotten
        self._incomplete: dict[str, float] = {}  # rooms whose hash may lack what others put back, and until when
        self._stale: dict[str, None] = {}  # rooms whose hash has to be read
        self._lost: dict[str, bool] = {}  # rooms whose rows are to be put back, and whether everybody is to look
        self._mending: DelayedCall | None = None
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock
        self._looks = 0
        self._connects = 0
        self._trusted_from = 0.0
        self._attend, self._look_up, self._put_back, self._renew, self._count = (
            load_script(_PACKAGE, f"lua/{name}.lua")
            for name in ("publish_presence", "look", "put_back", "renew", "count")
        )

    @property
    def nodes(self) -> int:
        """How many nodes are known, this one included."""
        return 1 + len(self._nodes)

    # Starting and stopping

    def channels(self) -> Mapping[str, Hear]:
        """See :meth:`realtime_chat.broker.redis.PresenceBackend.channels`."""
        return {self._names.nodes: self._hear_news}

    async def start(self, listener: Listener) -> None:
        """See :meth:`realtime_chat.broker.redis.PresenceBackend.start`."""
        self._listener = listener
        self._trusted_from = self._clock.seconds() + self._grace
        await self._link.command(*self._heartbeat())
        self._looking.start(self._lease / _LOOKS_A_LEASE, now=False)

    def _heartbeat(self, *condition: str) -> tuple[Argument, ...]:
        """The command that keeps this node's key."""
        milliseconds = int(self._lease * 1000 * (1 - 1 / _LOOKS_A_LEASE))
        return ("SET", self._names.alive(self._node), "1", "PX", milliseconds, *condition)

    async def stop(self) -> None:
        """See :meth:`realtime_chat.broker.redis.PresenceBackend.stop`. What this node wrote stays, for those who look
        while its clients are held; see ``lua/renew.lua``."""
        self._listener = None
        if self._looking.running:
            self._looking.stop()
        if self._mending is not None and self._mending.active():
            self._mending.cancel()
        alive = self._names.alive(self._node)
        await self._link.command("SET", alive, _GONE, "PX", int(self._held * 1000))
        await self._link.command("PUBLISH", self._names.nodes, _encode(_Bye(self._node, self._held)))

    def count(self, rooms: Sequence[str]) -> Deferred[Sequence[int]]:
        """See :meth:`realtime_chat.core.interfaces.IBroker.count`."""
        keys = map(self._names.members, rooms)
        return Deferred.fromCoroutine(self._count.run(self._link, list(keys), [self._names.alive("")]))

    # Rooms that are followed

    async def follow(self, room: str) -> None:
        """See :meth:`realtime_chat.broker.redis.PresenceBackend.follow`."""
        standing = self._rooms.get(room)
        if standing is None:
            standing = self._rooms[room] = _RoomReplica()
            await self._read(room, standing, True)
            return
        if not standing.id:  # the others may not hear us yet
            self._incomplete[room] = self._clock.seconds() + self._grace
        await self._read(room, standing)

    def unfollow(self, room: str) -> None:
        """See :meth:`realtime_chat.broker.redis.PresenceBackend.unfollow`."""
        for rooms in (self._rooms, self._stale, self._incomplete):
            rooms.pop(room, None)

    async def _read(self, room: str, standing: _RoomReplica, first: bool = False) -> None:
        """Read who is in a room, and go on from there with what is heard meanwhile.

        :param first: whether nothing is known of it yet.
        """
        if standing.pending is not None:
            standing.again = True
            return
        standing.pending = []
        try:
            look, held = await self._look_at(room, standing)
        except BaseException:
            standing.pending = standing.answers = None
            raise
        pending, standing.pending = standing.pending, None
        if self._rooms.get(room) is not standing or self._listener is None:
            return
        if not look.complete and not first:  # who hasn't answered is asked again, and not forgotten
            self._incomplete[room] = self._clock.seconds() + self._grace
        self._compare(room, standing, look, self._listener, first)
        for node, seconds in held.items():
            self._listener.node_left(node, seconds)
        if look.own != self._own.get(room, {}):
            self._doubt(room)
        for heard in pending:
            self._take(room, standing, heard)

    def _compare(self, room: str, standing: _RoomReplica, look: _Snapshot, listener: Listener, first: bool) -> None:
        """Tell who is there. Where a hash has taken the place of a lost one, or of none, it is waited for others to put
        back what is theirs before those are forgotten who aren't there."""
        if standing.id != look.id and not first:
            self._incomplete[room] = self._clock.seconds() + self._grace
        standing.id, standing.version = look.id, look.version
        if room not in self._incomplete:
            listener.presence_snapshot(room, look.others)
        for node, there in look.others.items() if room in self._incomplete else ():
            listener.presence_delta(room, node, there, ())

    async def _look_at(self, room: str, standing: _RoomReplica) -> tuple[_Snapshot, Mapping[str, float]]:
        """What a room's hash holds of the nodes that are there, and for how long those of others are held; where there
        is none, who is there by way of those that follow the room."""
        while True:
            standing.again = False
            standing.answers = {}
            own = self._own.get(room, {})
            words: list[Argument] = [self._names.room(room), self._node, b"[[%b],[]]" % b",".join(own.values())]
            asked, *fields = await self._look_up.run(self._link, [self._names.members(room)], words)
            look = self._parse(fields)
            if not fields:
                complete = await self._answered(standing, asked - 1)
                look = _Snapshot(b"", 0, self._own.get(room, {}), standing.answers, complete)
            standing.answers = None
            gone, held = await self._partition_nodes(look.others)
            if not standing.again:
                others = {node: rows for node, rows in look.others.items() if node not in gone}
                return look._replace(others=others), held

    async def _answered(self, standing: _RoomReplica, wanted: int) -> bool:
        """Wait till so many nodes have said who is there by way of them; answer whether they have."""
        if standing.answers is None or len(standing.answers) >= wanted:
            return True
        standing.wanted, standing.complete = wanted, Deferred()
        try:
            await standing.complete.addTimeout(_SECONDS_TO_ANSWER, self._clock)
        except DeferredTimeout:
            return False
        finally:
            standing.complete = None
        return True

    def _parse(self, fields: Sequence[bytes]) -> _Snapshot:
        """Read a hash; what isn't a row is passed over."""
        own: dict[str, bytes] = {}
        others: dict[str, list[RemoteClient]] = {}
        head = {b"id": b"", b"v": b"0"}
        for field, value in zip(fields[::2], fields[1::2], strict=True):
            match = _FIELD.fullmatch(field)
            if match is None:
                head[field] = value
            elif match[1].decode() == self._node:
                own[match[2].decode()] = value
            else:
                others.setdefault(match[1].decode(), []).extend(_read_rows(value))
        return _Snapshot(head[b"id"], int(head[b"v"]), own, others)

    async def _partition_nodes(self, nodes: Iterable[str]) -> tuple[set[str], dict[str, float]]:
        """Which of some nodes are gone, and for how long those are held that have stopped."""
        gone, held = set(), {}
        for node in nodes:
            left = None if node in self._nodes else await self._left_of(node)
            if left is None:
                self._nodes[node] = None
                self._going.pop(node, None)
            elif left > 0:
                held[node] = left
            else:
                gone.add(node)
        return gone, held

    async def _left_of(self, node: str) -> float | None:
        """For how many seconds a node's clients are held; None where it is there."""
        now: float = self._clock.seconds()
        if self._going.get(node, now) <= now:
            alive = self._names.alive(node)
            value = await self._link.command("GET", alive)
            if value not in (None, _GONE):
                return None
            milliseconds = 0 if value is None else await self._link.command("PTTL", alive)
            self._going[node] = now + max(0, milliseconds) / 1000
        return self._going[node] - now

    # What is heard

    def heard(self, room: str, payload: bytes) -> bool:
        """See :meth:`realtime_chat.broker.redis.PresenceBackend.heard`."""
        head, _, body = payload.partition(b"\n")
        match = _HEAD.fullmatch(head)
        if match is not None and match[1] == _QUESTION and match[3].decode() != self._node:
            self._say_all(room)
        standing = self._rooms.get(room)
        if match is None or standing is None:
            return match is not None
        try:
            came, gone = _decode_change(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        heard = _Delta(match[1], int(match[2]), match[3].decode(), list(map(_client_of_row, came)), gone)
        if heard.id in (_ALL, _QUESTION) and heard.node != self._node:
            standing.answer(heard)
        if standing.pending is None:
            self._take(room, standing, heard)
        elif len(standing.pending) < _MOST_PENDING:
            standing.pending.append(heard)
        else:
            standing.again = True
        return True

    def _take(self, room: str, standing: _RoomReplica, heard: _Delta) -> None:
        """Take in a change, or read the hash if this isn't the next one."""
        if heard.version == 0:
            self._take_in(room, heard)
            return
        if heard.id == standing.id and heard.version <= standing.version:
            return
        if not standing.follows(heard):
            self._read_soon(room)
            return
        if not standing.id:
            self._has_hash(room)
        standing.id, standing.version = heard.id, heard.version
        self._take_in(room, heard)

    def _take_in(self, room: str, heard: _Delta) -> None:
        if heard.node == self._node or self._listener is None:
            return
        self._nodes[heard.node] = None
        self._going.pop(heard.node, None)
        if heard.id in (_ALL, _QUESTION):
            self._listener.node_snapshot(room, heard.node, heard.came)
        else:
            self._listener.presence_delta(room, heard.node, heard.came, heard.gone)

    def _has_hash(self, room: str) -> None:
        """A room has a hash now: put into it what is ours, and believe that it is whole when all could do that."""
        self._incomplete[room] = self._clock.seconds() + self._grace
        if room in self._own:
            Deferred.fromCoroutine(self._put(room, False)).addErrback(self._not_put, room, False)

    def _say_all(self, room: str) -> None:
        """Answer who is in a room by way of this node."""
        rows = self._own.get(room, {})
        said = b"p%b 0 %b\n[[%b],[]]" % (_ALL, self._node.encode(), b",".join(rows.values()))
        self._link.command("PUBLISH", self._names.room(room), said).addErrback(ignore_store_error)

    def _read_soon(self, room: str) -> None:
        self._stale.pop(room, None)
        standing = self._rooms.get(room)
        if standing is not None:
            Deferred.fromCoroutine(self._read(room, standing)).addErrback(self._not_read, room)

    def _not_read(self, failure: Failure, room: str) -> None:
        failure.trap(StoreError)
        self._stale[room] = None
        self._mend_later()

    def _hear_news(self, pattern: bytes | None, channel: bytes, payload: bytes) -> None:
        """Something is told to all nodes."""
        try:
            news = _decode_news(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._log.warn("something was published on {channel!a} that no node publishes there", channel=channel)
            return
        if self._listener is not None:
            _NEWS[type(news)](self, self._listener, news)

    def _hear_bye(self, listener: Listener, bye: _Bye) -> None:
        if bye.node != self._node:
            self._nodes.pop(bye.node, None)
            self._going[bye.node] = self._clock.seconds() + bye.held
            listener.node_left(bye.node, bye.held)

    def _hear_gone(self, listener: Listener, gone: _Gone) -> None:
        if gone.node == self._node:  # we have slept for too long
            self._link.command(*self._heartbeat()).addCallbacks(lambda _: self._lose_all(), ignore_store_error)
        else:
            self._nodes.pop(gone.node, None)
            self._going[gone.node] = self._clock.seconds()
            listener.node_left(gone.node, 0)

    def _hear_said(self, listener: Listener, said: _Said) -> None:
        if said.node != self._node:
            state = bytes(said.state)
            listener.forwarded(ForwardedCommand(said.client_hash, None if state == _NULL else state, said.leaves))

    # What is told

    def forward(self, command: ForwardedCommand) -> None:
        """See :meth:`realtime_chat.core.interfaces.IBroker.say`."""
        state = _NULL if command.state is None else command.state
        said = _encode(_Said(self._node, command.client_hash, msgspec.Raw(state), command.leaves))
        self._link.command("PUBLISH", self._names.nodes, said).addErrback(ignore_store_error)

    def publish_presence(self, room: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        """See :meth:`realtime_chat.core.interfaces.IBroker.publish_presence`."""
        rows = {client.client_hash: _encode(_row(client)) for client in came}
        own = self._own.setdefault(room, {})
        own |= rows
        for client_hash in gone:
            own.pop(client_hash, None)
        if not own:
            del self._own[room]
        if self._listener is not None:
            Deferred.fromCoroutine(self._tell(room, rows, gone, len(own))).addErrback(self._not_told, room)

    async def _tell(self, room: str, rows: Mapping[str, bytes], gone: Sequence[str], all: int) -> None:
        body = b"[[%b],%b]" % (b",".join(rows.values()), _encode(gone))
        words = [*self._head(room), body, len(rows), *self._fields(rows), *map(self._field, gone)]
        if await self._attend.run(self._link, self._keys(room), words) and all > len(rows):
            self._doubt(room)  # it was lost, and with it our other rows

    def _keys(self, room: str) -> list[str]:
        return [self._names.members(room), self._names.log]

    def _head(self, room: str) -> list[Argument]:
        seconds = max(1, int(self._lease * _LEASES_OF_A_HASH))
        return [self._names.room(room), room, self._node, self._token(8).hex(), seconds]

    def _field(self, client_hash: str) -> str:
        return f"{self._node}:{client_hash}"

    def _fields(self, rows: Mapping[str, bytes]) -> Iterator[Argument]:
        for client_hash, row in rows.items():
            yield self._field(client_hash)
            yield row

    def _not_told(self, failure: Failure, room: str) -> None:
        failure.trap(StoreError)
        self._doubt(room)

    # What was lost

    def _doubt(self, room: str, look: bool = False) -> None:
        """Our rows may not be what stands there.

        :param look: whether everybody is to look, even if they are.
        """
        self._lost[room] = self._lost.get(room, False) or look
        self._mend_later()

    def _lose_all(self) -> None:
        for room in self._own:
            self._doubt(room, True)

    def _mend_later(self) -> None:
        if self._mending is None and self._listener is not None:
            self._mending = self._clock.callLater(_SECONDS_BETWEEN_TRIES, self._mend)

    def _mend(self) -> None:
        Deferred.fromCoroutine(self._repair()).addErrback(self._failed)

    async def _repair(self) -> None:
        """Put back and read what has to be, a few rooms at a time."""
        while (self._lost or self._stale) and self._link.ready and self._listener is not None:
            lost = list(islice(self._lost.items(), _ROOMS_AT_ONCE))
            stale = list(islice(self._stale, _ROOMS_AT_ONCE))
            for room, _ in lost:
                del self._lost[room]
            put_back = [Deferred.fromCoroutine(self._put(*one)).addErrback(self._not_put, *one) for one in lost]
            for room in stale:
                self._read_soon(room)
            await DeferredList(put_back, consumeErrors=True)
            if any(room in self._lost for room, _ in lost):
                break
        self._mending = None
        if self._lost or self._stale:
            self._mend_later()

    async def _put(self, room: str, look: bool) -> None:
        rows = self._own.get(room, {})
        words = [*self._head(room), int(look), *self._fields(rows)]
        await self._put_back.run(self._link, self._keys(room), words)

    def _not_put(self, failure: Failure, room: str, look: bool) -> None:
        failure.trap(StoreError)
        self._doubt(room, look)

    # Who is there at all

    async def _look(self) -> None:
        """Renew what is ours, and see whether the others do."""
        try:
            await self._look_around()
        except StoreError:
            pass  # the next look is soon
        except Exception:
            self._log.failure("a look at the other nodes failed")

    async def _look_around(self) -> None:
        now = self._clock.seconds()
        for room in [room for room, until in self._incomplete.items() if until <= now]:
            del self._incomplete[room]
            self._stale[room] = None
            self._mend_later()
        if not self._link.ready or self._link.counters.connects != self._connects:
            self._connects = self._link.counters.connects
            self._trusted_from = now + self._grace  # the others may have been cut off as well
        if await self._link.command(*self._heartbeat("XX")) is None:  # it was lost, or we have slept
            await self._link.command(*self._heartbeat())
            self._trusted_from = now + self._grace
            self._lose_all()
        if now >= self._trusted_from:
            await self._look_for_others()
        self._looks += 1
        if self._looks % _LOOKS_A_LEASE == 0:
            await self._renew_rooms()

    async def _look_for_others(self) -> None:
        """Tell everybody which nodes have died."""
        nodes = list(self._nodes)
        if not nodes:
            return
        alive = await self._link.command("MGET", *map(self._names.alive, nodes))
        for node, value in zip(nodes, alive, strict=True):
            if value is None:
                self._log.info("node {node} is gone", node=node)
                await self._link.command("PUBLISH", self._names.nodes, _encode(_Gone(node)))

    async def _renew_rooms(self) -> None:
        """Keep the rooms that our clients are in, and delete there what is left of nodes that are gone."""
        seconds = max(1, int(self._lease * _LEASES_OF_A_HASH))
        now = self._clock.seconds()
        gone = [node for node, until in self._going.items() if until <= now]
        kept = [room for room in self._own if room not in self._rooms or self._rooms[room].id]
        for rooms in _parts(kept, _ROOMS_A_CALL):
            keys = [*map(self._names.alive, gone), *map(self._names.members, rooms)]
            for number in await self._renew.run(self._link, keys, [seconds, *gone]):
                self._doubt(rooms[number])
        forgotten = now - self._lease * _LEASES_OF_A_HASH
        self._going = {node: until for node, until in self._going.items() if until > forgotten}

    def _failed(self, failure: Failure) -> None:
        self._mending = None
        self._log.failure("who is in the rooms could not be put back", failure)


_NEWS: Mapping[type, Callable[[RedisPresence, Listener, Any], None]] = {
    _Bye: RedisPresence._hear_bye,
    _Gone: RedisPresence._hear_gone,
    _Said: RedisPresence._hear_said,
}


def _row(client: RemoteClient) -> _Row:
    user = client.user
    return _Row(client.client_hash, user.id, user.name, user.guest, msgspec.Raw(client.state), client.changed)


def _client_of_row(row: _Row) -> RemoteClient:
    return RemoteClient(row.client_hash, User(row.id, row.name, row.guest), bytes(row.state), row.changed)


def _read_rows(value: bytes) -> Iterator[RemoteClient]:
    """The attendee of a row; none if it isn't one."""
    try:
        yield _client_of_row(_decode_row(value))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
