"""What happens on the other nodes, by Redis' own publishing.

A node has one connection that hears, with subscriptions for the rooms only that somebody here reads; what it tells goes
over a connection that it shares with the store. The first byte of what comes on a room's channel says what it is:

* ``m``, an announcement of messages, which the store's script publishes (``redis/rows.py``);
* ``s``, a client's signal: ``sNODE MARK``, a line break, and the encoded event;
* ``p``, who is in the room, which is ``broker/redis_presence.py``'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from realtime_chat.broker.relay import Relay
from realtime_chat.broker.subscriptions import Hear, Subscriptions
from realtime_chat.core.interfaces import IBroker, Listener
from realtime_chat.redis.address import RedisAddress
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.rows import ANNOUNCEMENT, Announcement, as_message, read_announcement, read_rows
from realtime_chat.redis.wire import RedisProtocol, ServerError
from realtime_chat.values.errors import StoreError
from realtime_chat.values.model import ForwardedCommand, Message, RemoteClient

__all__ = ["BrokerCounts", "PresenceBackend", "RedisBroker"]

PRESENCE = b"p"
SIGNAL = b"s"
_SIGNAL_HEAD = re.compile(rb"s([0-9a-f]+) ([0-9a-f]+)")
_FLUSHED = b"__redis__:invalidate"
_MOST_UNDER_WAY = 10_000
_AT_ONCE = 100
_SECONDS_BETWEEN_TRIES = 1.0


class PresenceBackend(Protocol):
    """How nodes tell each other who is in their rooms."""

    def channels(self) -> Mapping[str, Hear]:
        """What every node hears as long as it is connected."""

    async def start(self, listener: Listener) -> None:
        """The node begins."""

    async def stop(self) -> None:
        """The node ends: tell the others."""

    def count(self, rooms: Sequence[str]) -> Deferred[Sequence[int]]:
        """See :meth:`IBroker.count`."""

    async def follow(self, room: str) -> None:
        """A room's channel is heard from now on: tell the listener who is there. Called again when it may not have been
        heard for a while.

        :raises StoreError: not now.
        """

    def unfollow(self, room: str) -> None:
        """A room's channel is heard no more."""

    def heard(self, room: str, payload: bytes) -> bool:
        """Another node, or this one, has published something about a room that begins with :data:`PRESENCE`.

        :returns: whether it can be read.
        """

    def publish_presence(self, room: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        """See :meth:`IBroker.publish_presence`."""

    def forward(self, command: ForwardedCommand) -> None:
        """See :meth:`IBroker.say`."""


class BrokerCounts:
    """What became of what the nodes tell each other, for metrics.

    :ivar announcements: announcements of messages that came in.
    :ivar signals: signals that came in from other nodes.
    :ivar signals_dropped: signals that were not told to the others, as Redis was away or too slow.
    :ivar malformed: publications on our channels that can't be read.
    :ivar deaf: connections that were given up as they brought nothing any more.
    """

    __slots__ = ("announcements", "deaf", "malformed", "signals", "signals_dropped")

    def __init__(self) -> None:
        self.announcements = self.signals = self.signals_dropped = self.malformed = self.deaf = 0


@implementer(IBroker)
class RedisBroker:
    """One node among those that share a database of Redis.

    :param reactor: connects, and tells the time.
    :param names: of keys and channels.
    :param node: what no other node is called.
    :param random: gives a float from 0 up to 1.
    :param commands: by which things are published.
    :param neighbours: tells who is in the rooms.
    :param relays: further patterns of channels, and the rooms that what is published there goes to.
    :param probe: seconds between two looks whether the subscriptions still bring anything.
    """

    _log = Logger()
    shared = True

    def __init__(
        self,
        reactor: Any,
        address: RedisAddress,
        names: RedisNames,
        node: str,
        random: Callable[[], float],
        commands: RedisConnection,
        neighbours: PresenceBackend,
        relays: Sequence[tuple[str, str]] = (),
        *,
        probe: float = 3.0,
    ) -> None:
        self._reactor = reactor
        self._names = names
        self._node = node
        self._commands = commands
        self._neighbours = neighbours
        self._relays = relays
        self._listener: Listener | None = None
        self._relay = Relay(self._relayed)
        self._under_way = 0
        self._probing = LoopingCall(self._probe)
        self._probing.clock = reactor
        self._every = probe
        self._probes = self._probes_heard = 0
        self._renewals = 0
        self._pause: Deferred[None] = succeed(None)
        self._heard: Hear = self._hear_room  # the same for all rooms, each of which costs its channels alone
        self._heard_relay: Hear = self._hear_relay
        always: dict[str, Hear] = {names.node(node): self._hear_probe, **neighbours.channels()}
        self.subscriptions = Subscriptions(always, self._hear_patterns())
        self._link = RedisConnection(
            reactor, address, "subscribe", random, on_ready=self._renew, on_message=self._published
        )
        self.links: Sequence[RedisConnection] = (self._link,)
        self.counters = BrokerCounts()

    def describe(self) -> str:
        """See :meth:`IBroker.describe`."""
        relayed = "".join(f"; {pattern} is relayed to {room}" for pattern, room in self._relays)
        return f"Redis (this is node {self._node} of {self._names.scope}{relayed})"

    # Starting and stopping

    def start(self, listener: Listener) -> Deferred[None]:
        """See :meth:`IBroker.start`."""
        self._listener = listener
        return Deferred.fromCoroutine(self._start(listener))

    async def _start(self, listener: Listener) -> None:
        await self._link.start()
        await self._neighbours.start(listener)
        self._probing.start(self._every, now=False)

    def stop(self) -> Deferred[None]:
        """See :meth:`IBroker.stop`."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._listener = None
        self._pause.cancel()
        if self._probing.running:  # else it was never there for the others
            self._probing.stop()
            await self._say_that_it_stops()
        await self._link.stop()

    async def _say_that_it_stops(self) -> None:
        try:
            await self._neighbours.stop()
        except StoreError as error:
            self._log.warn("the other nodes were not told that this one stops: {why}", why=error.detail)

    # Rooms

    def count(self, rooms: Sequence[str]) -> Deferred[Sequence[int]]:
        """See :meth:`IBroker.count`."""
        return self._neighbours.count(rooms)

    def follow(self, room: str) -> Deferred[None]:
        """See :meth:`IBroker.follow`."""
        if not self._link.ready:
            return fail(StoreError("the other nodes can't be heard"))
        return Deferred.fromCoroutine(self._follow(room))

    async def _follow(self, room: str) -> None:
        await self.subscriptions.add(self._link, room, self._channels(room))
        try:
            await self._neighbours.follow(room)
        except BaseException:
            self.unfollow(room)
            raise

    def _channels(self, room: str) -> dict[str, Hear]:
        return {self._names.room(room): self._heard, **dict.fromkeys(self._names.relay(room), self._heard_relay)}

    def unfollow(self, room: str) -> None:
        """See :meth:`IBroker.unfollow`."""
        self.subscriptions.remove(self._link, room)
        self._neighbours.unfollow(room)

    async def _renew(self, connection: RedisProtocol) -> None:
        """There is a new connection: hear what was heard by the one before, and look for what was missed."""
        await _hear_flushes(connection)
        await self.subscriptions.renew(connection)
        self._renewals += 1
        if self._listener is not None:
            self._doubt_all(self._listener)
            Deferred.fromCoroutine(self._meet_again(self._renewals))

    def _doubt_all(self, listener: Listener) -> None:
        for room in self.subscriptions.groups:
            listener.may_have_missed(room)

    async def _meet_again(self, renewal: int) -> None:
        """Find out who is in the rooms now, some at a time, until that is done for all."""
        rest = self.subscriptions.groups
        while rest and renewal == self._renewals and self._listener is not None:
            some, rest = rest[:_AT_ONCE], rest[_AT_ONCE:]
            found = await gatherResults([Deferred.fromCoroutine(self._is_met(room)) for room in some])
            failed = [room for room, met in zip(some, found, strict=True) if not met]
            if failed:
                rest += failed
                self._pause = deferLater(self._reactor, _SECONDS_BETWEEN_TRIES)
                with suppress(CancelledError):
                    await self._pause

    async def _is_met(self, room: str) -> bool:
        """Find out who is in a room, if it is still followed; answer whether that could be done."""
        try:
            if room in self.subscriptions:
                await self._neighbours.follow(room)
        except StoreError:
            return False
        except Exception:
            self._log.failure("who is in a room could not be found out")
        return True

    # What comes in

    def _published(self, pattern: bytes | None, channel: bytes, payload: bytes) -> None:
        if channel == _FLUSHED and self._listener is not None:
            self._doubt_all(self._listener)
        self.subscriptions.published(pattern, channel, payload)

    def _hear_relay(self, pattern: bytes | None, channel: bytes, payload: bytes) -> None:
        self._relay.take((self._names.relay_room_of(channel.decode()),), pattern, channel, payload)

    def _hear_room(self, pattern: bytes | None, channel: bytes, payload: bytes) -> None:
        self._relay.interrupt()
        room = self._names.room_of(channel.decode())
        hear = _HEARD.get(payload[:1])
        if self._listener is not None and (hear is None or not hear(self, self._listener, room, payload)):
            self._log_throttled(channel)
            self._listener.may_have_missed(room)

    def _hear_messages(self, listener: Listener, room: str, payload: bytes) -> bool:
        try:
            news = read_announcement(payload)
        except ValueError:
            return False
        self.counters.announcements += 1
        listener.announced(room, news.epoch, news.first, news.count, partial(_read, room, news))
        return True

    def _hear_signal(self, listener: Listener, room: str, payload: bytes) -> bool:
        head, _, data = payload.partition(b"\n")
        match = _SIGNAL_HEAD.fullmatch(head)
        if match is None:
            return False
        node, client_hash = match[1].decode(), match[2].decode()
        if node != self._node:
            self.counters.signals += 1
            listener.signalled(room, client_hash, data)
        return True

    def _hear_presence(self, listener: Listener, room: str, payload: bytes) -> bool:
        return self._neighbours.heard(room, payload)

    def _log_throttled(self, channel: bytes) -> None:
        """Something came that nobody of us has published."""
        self.counters.malformed += 1
        self._log.warn("something was published on {channel!a} that no node publishes there", channel=channel)

    # What anybody publishes

    def _hear_patterns(self) -> dict[str, Hear]:
        by_pattern: dict[str, list[str]] = {}
        for pattern, room in self._relays:
            by_pattern.setdefault(pattern, []).append(room)
        return {pattern: partial(self._relay.take, rooms) for pattern, rooms in by_pattern.items()}

    def _relayed(self, room: str, payload: bytes) -> None:
        if self._listener is not None:
            self._listener.relayed(room, payload)

    # What is told to others

    def signal(self, room: str, client_hash: str, data: bytes) -> None:
        """See :meth:`IBroker.signal`."""
        if self._under_way >= _MOST_UNDER_WAY:
            self.counters.signals_dropped += 1
            return
        self._under_way += 1
        payload = b"%b%b %b\n%b" % (SIGNAL, self._node.encode(), client_hash.encode(), data)
        self._commands.command("PUBLISH", self._names.room(room), payload).addBoth(self._signal_told)

    def _signal_told(self, result: object) -> None:
        self._under_way -= 1
        if isinstance(result, Failure):
            result.trap(StoreError)
            self.counters.signals_dropped += 1

    def publish_presence(self, room: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        """See :meth:`IBroker.publish_presence`."""
        self._neighbours.publish_presence(room, came, gone)

    def forward(self, command: ForwardedCommand) -> None:
        """See :meth:`IBroker.say`."""
        self._neighbours.forward(command)

    # Whether anything comes in at all

    async def _probe(self) -> None:
        """Publish something to ourselves. Whatever is answered after that over the connection that hears, comes after
        it; if it has not come by then, it never does."""
        if not self._link.ready:
            return
        renewals, self._probes = self._renewals, self._probes + 1
        try:
            published = await self._is_published(self._probes)
            await self._link.command("PING")  # has to be answered in time, or else the link gives up by itself
        except StoreError:
            return
        if published and self._probes_heard < self._probes and renewals == self._renewals:
            self.counters.deaf += 1
            self._link.abort("it is deaf: what we publish to ourselves doesn't come back")

    async def _is_published(self, probe: int) -> bool:
        try:
            await self._commands.command("PUBLISH", self._names.node(self._node), probe)
        except StoreError:
            return False
        return True

    def _hear_probe(self, pattern: bytes | None, channel: bytes, payload: bytes) -> None:
        self._relay.interrupt()
        if payload.isdigit():
            self._probes_heard = int(payload)


_HEARD: Mapping[bytes, Callable[[RedisBroker, Listener, str, bytes], bool]] = {
    ANNOUNCEMENT: RedisBroker._hear_messages,
    SIGNAL: RedisBroker._hear_signal,
    PRESENCE: RedisBroker._hear_presence,
}


async def _hear_flushes(connection: RedisProtocol) -> None:
    """Be told at once of data that is flushed: as by Redis' client-side caching, with nothing cached. Where it isn't
    allowed, the store finds out when it looks the next time."""
    try:
        number = await connection.command("CLIENT", "ID")
        await connection.command("CLIENT", "TRACKING", "ON", "REDIRECT", number, "OPTIN")
        await connection.command("SUBSCRIBE", _FLUSHED)
    except ServerError as error:
        if error.word != "NOPERM":
            raise


def _read(room: str, announced: Announcement) -> list[Message]:
    """The messages of an announcement."""
    rows = enumerate(read_rows(announced.rows.split(b"\n")), announced.first)
    return [as_message(row, room, announced.epoch, offset) for offset, row in rows]
