"""Nodes that share a database of Redis tell each other what happens in their rooms, by Redis' publish and subscribe.

A node has one connection that subscribes, to the channels of the rooms that somebody here reads. It publishes over a
connection that it shares with the store. The first byte of a payload on a room's channel is its kind:

* ``m``: an announcement of messages, which the store's script publishes (``redis/rows.py``);
* ``s``: a client's signal: ``sNODE CLIENT_HASH``, a line break, and the encoded event;
* ``p``: a change of presence (``broker/presence_messages.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from realtime_chat.broker.redis_presence import RedisPresence
from realtime_chat.broker.relay import Relay
from realtime_chat.broker.subscriptions import ChannelSubscriptions
from realtime_chat.core.interfaces import IBroker, Listener
from realtime_chat.redis.address import RedisAddress
from realtime_chat.redis.connection import RedisConnection
from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.rows import ANNOUNCEMENT, Announcement, read_announcement, read_messages
from realtime_chat.redis.wire import OnMessage, RedisProtocol, ServerError
from realtime_chat.values.errors import StoreError
from realtime_chat.values.model import ForwardedCommand, Message, RemoteClient, is_properties_log

PRESENCE = b"p"
SIGNAL = b"s"
_SIGNAL_HEAD = re.compile(rb"s([0-9a-f]+) ([0-9a-f]+)")
_FLUSH_CHANNEL = b"__redis__:invalidate"
_MAX_SIGNALS_IN_FLIGHT = 10_000
_ROOMS_AT_ONCE = 100
_RETRY_DELAY = 1.0


class BrokerCounts:
    """Counts for metrics.

    :ivar announcements: announcements of messages that were received.
    :ivar signals: signals that were received from other nodes.
    :ivar signals_dropped: signals that were not published, as Redis was unreachable or too slow.
    :ivar malformed: payloads on our channels that no node publishes.
    :ivar deaf: connections that were closed because they received nothing any more.
    """

    def __init__(self) -> None:
        self.announcements = self.signals = self.signals_dropped = self.malformed = self.deaf = 0


@implementer(IBroker)
class RedisBroker:
    """One node among those that share a database of Redis.

    :param reactor: connects, and tells the time.
    :param names: of keys and channels.
    :param node: this node's name, which no other node has.
    :param random: gives a float from 0 up to 1.
    :param commands: the connection that publishes.
    :param presence: tells other nodes who is in the rooms.
    :param relays: pairs of a pattern of channels, and the room to which their payloads are relayed.
    :param event_relays: patterns of channels, and what each channel and payload is given to.
    :param probe: seconds between two probes of the subscribing connection.
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
        presence: RedisPresence,
        relays: Sequence[tuple[str, str]] = (),
        *,
        event_relays: Mapping[str, Callable[[bytes, bytes], object]] = MappingProxyType({}),
        probe: float = 3.0,
    ) -> None:
        self._reactor = reactor
        self._names = names
        self._node = node
        self._commands = commands
        self._presence = presence
        self._relays = relays
        self._event_relays = event_relays
        self._listener: Listener | None = None
        self._relay = Relay(self._relayed)
        self._signals_in_flight = 0
        self._probing = LoopingCall(self._probe)
        self._probing.clock = reactor
        self._probe_interval = probe
        self._probes = self._last_probe_heard = 0
        self._renewals = 0
        self._pause: Deferred[None] = succeed(None)
        # One bound method for all rooms: each subscription would keep one of its own otherwise.
        self._room_callback: OnMessage = self._on_room
        self._relay_callback: OnMessage = self._on_relay
        permanent: dict[str, OnMessage] = {names.node(node): self._on_probe, **presence.channels()}
        self.subscriptions = ChannelSubscriptions(permanent, self._relay_patterns())
        self._link = RedisConnection(
            reactor, address, "subscribe", random, on_ready=self._renew, on_message=self._published
        )
        self.links: Sequence[RedisConnection] = (self._link,)
        self.counters = BrokerCounts()

    def describe(self) -> str:
        relays = (*self._relays, *((pattern, "the application") for pattern in self._event_relays))
        relayed = "".join(f"; {pattern} is relayed to {room}" for pattern, room in relays)
        return f"Redis (this is node {self._node} of {self._names.scope}{relayed})"

    # Starting and stopping

    def start(self, listener: Listener) -> Deferred[None]:
        self._listener = listener
        return Deferred.fromCoroutine(self._start(listener))

    async def _start(self, listener: Listener) -> None:
        await self._link.start()
        await self._presence.start(listener.members)
        self._probing.start(self._probe_interval, now=False)

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._listener = None
        self._pause.cancel()
        self._presence.stop_asking()
        if self._probing.running:  # else the other nodes never knew of it
            self._probing.stop()
            await self._tell_others_to_go()
        await self._link.stop()

    async def _tell_others_to_go(self) -> None:
        try:
            await self._presence.stop()
        except StoreError as error:
            self._log.warn("the other nodes were not told that this one stops: {why}", why=error.detail)

    # Rooms

    def count(self, rooms: Sequence[str]) -> Deferred[Sequence[int]]:
        return self._presence.count(rooms)

    def follow(self, room: str) -> Deferred[None]:
        if not self._link.ready:
            return fail(StoreError("the other nodes can't be heard"))
        return Deferred.fromCoroutine(self._follow(room))

    async def _follow(self, room: str) -> None:
        await self.subscriptions.add(self._link, room, self._channels(room))
        if is_properties_log(room):
            return  # nobody is in it
        try:
            await self._presence.replica.follow(room)
        except BaseException:
            self.unfollow(room)
            raise

    def _channels(self, room: str) -> dict[str, OnMessage]:
        relays = () if is_properties_log(room) else self._names.relay(room)
        return {self._names.room(room): self._room_callback, **dict.fromkeys(relays, self._relay_callback)}

    def unfollow(self, room: str) -> None:
        self.subscriptions.remove(self._link, room)
        self._presence.replica.unfollow(room)

    async def _renew(self, connection: RedisProtocol) -> None:
        """Subscribe over a new connection, and find out what was missed."""
        await _subscribe_flushes(connection)
        await self.subscriptions.renew(connection)
        self._renewals += 1
        self._pause.cancel()  # the rooms that wait there are among those that are followed again now
        if self._listener is not None:
            self._presence.ask_for_renewals()
            self._report_gaps(self._listener)
            Deferred.fromCoroutine(self._follow_all_again(self._renewals))

    def _report_gaps(self, listener: Listener) -> None:
        for room in self.subscriptions.groups:
            listener.may_have_missed(room)

    async def _follow_all_again(self, renewal: int) -> None:
        """Find out who is in all rooms now, some at a time. Rooms that fail are tried again."""
        rest = self.subscriptions.groups
        while rest and renewal == self._renewals and self._listener is not None:
            some, rest = rest[:_ROOMS_AT_ONCE], rest[_ROOMS_AT_ONCE:]
            found = await gatherResults([Deferred.fromCoroutine(self._followed_again(room)) for room in some])
            failed = [room for room, met in zip(some, found, strict=True) if not met]
            if failed:
                rest += failed
                self._pause = deferLater(self._reactor, _RETRY_DELAY)
                with suppress(CancelledError):
                    await self._pause

    async def _followed_again(self, room: str) -> bool:
        """Find out who is in a room, if it is still followed. Returns False if that has to be tried again."""
        try:
            if room in self.subscriptions and not is_properties_log(room):
                await self._presence.replica.follow(room)
        except StoreError:
            return False
        except Exception:
            self._log.failure("who is in a room could not be found out")
        return True

    # What is received

    def _published(self, pattern: bytes | None, channel: bytes, payload: bytes) -> None:
        if channel == _FLUSH_CHANNEL and self._listener is not None:
            self._report_gaps(self._listener)
        self.subscriptions.published(pattern, channel, payload)

    def _on_relay(self, pattern: bytes | None, channel: bytes, payload: bytes) -> None:
        self._relay.take((self._names.relay_room_of(channel.decode()),), pattern, channel, payload)

    def _on_room(self, pattern: bytes | None, channel: bytes, payload: bytes) -> None:
        self._relay.interrupt()
        room = self._names.room_of(channel.decode())
        take = _BY_FIRST_BYTE.get(payload[:1])
        if self._listener is not None and (take is None or not take(self, self._listener, room, payload)):
            self._warn_malformed(channel)
            self._listener.may_have_missed(room)

    def _on_announcement(self, listener: Listener, room: str, payload: bytes) -> bool:
        """Pass an announcement on; return False if the payload is none. The next two do the same."""
        try:
            news = read_announcement(payload)
        except ValueError:
            return False
        self.counters.announcements += 1
        listener.announced(room, news.epoch, news.first, news.count, partial(_read, room, news))
        return True

    def _on_signal(self, listener: Listener, room: str, payload: bytes) -> bool:
        head, _, data = payload.partition(b"\n")
        match = _SIGNAL_HEAD.fullmatch(head)
        if match is None:
            return False
        node, client_hash = match[1].decode(), match[2].decode()
        if node != self._node:
            self.counters.signals += 1
            listener.signalled(room, client_hash, data)
        return True

    def _on_presence(self, listener: Listener, room: str, payload: bytes) -> bool:
        return self._presence.replica.take(room, payload)

    def _warn_malformed(self, channel: bytes) -> None:
        self.counters.malformed += 1
        self._log.warn("something was published on {channel!a} that no node publishes there", channel=channel)

    # Relays

    def _relay_patterns(self) -> dict[str, OnMessage]:
        by_pattern: dict[str, list[str]] = {}
        for pattern, room in self._relays:
            by_pattern.setdefault(pattern, []).append(room)
        patterns = dict.fromkeys((*by_pattern, *self._event_relays))
        return {pattern: partial(self._on_pattern, by_pattern.get(pattern, ())) for pattern in patterns}

    def _on_pattern(self, rooms: Sequence[str], pattern: bytes | None, channel: bytes, payload: bytes) -> None:
        self._relay.take(rooms, pattern, channel, payload)
        relay = self._event_relays.get((pattern or b"").decode())
        if relay is not None:
            relay(channel, payload)

    def _relayed(self, room: str, payload: bytes) -> None:
        if self._listener is not None:
            self._listener.relayed(room, payload)

    # What is published

    def signal(self, room: str, client_hash: str, data: bytes) -> None:
        if self._signals_in_flight >= _MAX_SIGNALS_IN_FLIGHT:
            self.counters.signals_dropped += 1
            return
        self._signals_in_flight += 1
        payload = b"%b%b %b\n%b" % (SIGNAL, self._node.encode(), client_hash.encode(), data)
        self._commands.command("PUBLISH", self._names.room(room), payload).addBoth(self._signal_published)

    def _signal_published(self, result: object) -> None:
        self._signals_in_flight -= 1
        if isinstance(result, Failure):
            result.trap(StoreError)
            self.counters.signals_dropped += 1

    def publish_presence(self, room: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        self._presence.publish_presence(room, came, gone)

    def forward(self, command: ForwardedCommand) -> None:
        self._presence.forward(command)

    # Probes of the subscribing connection

    async def _probe(self) -> None:
        """PUBLISH to ourselves, then PING over the subscribing connection. If the PONG comes before the probe, the
        connection has lost its subscriptions."""
        if not self._link.ready:
            return
        renewals, self._probes = self._renewals, self._probes + 1
        try:
            published = await self._is_published(self._probes)
            await self._link.command("PING")  # without a PONG in time the connection closes itself
        except StoreError:
            return
        if published and self._last_probe_heard < self._probes and renewals == self._renewals:
            self.counters.deaf += 1
            self._link.abort("it is deaf: what we publish to ourselves doesn't come back")

    async def _is_published(self, probe: int) -> bool:
        try:
            await self._commands.command("PUBLISH", self._names.node(self._node), probe)
        except StoreError:
            return False
        return True

    def _on_probe(self, pattern: bytes | None, channel: bytes, payload: bytes) -> None:
        self._relay.interrupt()
        if payload.isdigit():
            self._last_probe_heard = int(payload)


_BY_FIRST_BYTE: Mapping[bytes, Callable[[RedisBroker, Listener, str, bytes], bool]] = {
    ANNOUNCEMENT: RedisBroker._on_announcement,
    SIGNAL: RedisBroker._on_signal,
    PRESENCE: RedisBroker._on_presence,
}


async def _subscribe_flushes(connection: RedisProtocol) -> None:
    """Have Redis tell us at once when data is flushed. This uses client-side caching, with nothing cached. If that is
    not permitted, the store finds out at its next read."""
    try:
        number = await connection.command("CLIENT", "ID")
        await connection.command("CLIENT", "TRACKING", "ON", "REDIRECT", number, "OPTIN")
        await connection.command("SUBSCRIBE", _FLUSH_CHANNEL)
    except ServerError as error:
        if error.word != "NOPERM":
            raise


def _read(room: str, news: Announcement) -> list[Message]:
    return read_messages(room, news.epoch, count(news.first), news.rows.split(b"\n"))
