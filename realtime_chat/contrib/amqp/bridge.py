"""The bridge itself: it consumes for rooms, and publishes what rooms have."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

import attrs
from pika import BasicProperties
from pika.adapters.twisted_connection import TwistedChannel
from twisted.internet.defer import Deferred, DeferredList, FirstError
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from realtime_chat.client import Chat, FateUnknown, Message, RealtimeError, Reset, Room
from realtime_chat.contrib.amqp.connection import BrokerConnection
from realtime_chat.contrib.amqp.messages import Unreadable, came_from, make_body, make_properties, read_content
from realtime_chat.contrib.amqp.positions import PositionFile
from realtime_chat.contrib.amqp.routes import Destination, Source

_REQUEUE_AFTER: Final = 2.0
"""Seconds after which a message that couldn't be stored for now is given back."""

_WRITE_EVERY: Final = 0.5
_UNFIT: Final = ("bad_request", "key_reused", "too_large")
"""Errors of one message. All others are of the bridge: what it may do, or who it is."""


@attrs.frozen
class ConsumedMessage:
    """One message that was consumed and is not answered yet."""

    channel: TwistedChannel
    tag: int

    def ack(self) -> None:
        """It is done with."""
        if self.channel.is_open:
            self.channel.basic_ack(self.tag)

    def reject(self, requeue: bool) -> None:
        """It was not stored.

        :param requeue: whether it is to come again. Else it goes where the queue's policy says, or is dropped.
        """
        if self.channel.is_open:
            self.channel.basic_reject(self.tag, requeue=requeue)


class Bridge:
    """Relays between exchanges and rooms.

    :param chat: it is connected, or will be.
    :param positions: where the rooms of ``destinations`` are read on.
    :param prefetch: how many messages may be under way to rooms.
    :param note: is given a line for a person.
    """

    def __init__(
        self,
        reactor: Any,
        chat: Chat,
        broker: BrokerConnection,
        sources: Sequence[Source],
        destinations: Sequence[Destination],
        positions: PositionFile,
        prefetch: int,
        note: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._chat = chat
        self._broker = broker
        self._sources = sources
        self._exchanges = {
            room: [one.exchange for one in destinations if one.room == room]
            for room in dict.fromkeys(one.room for one in destinations)
        }
        self._positions = positions
        self._prefetch = max(1, prefetch // max(1, len(sources)))
        self._note = note
        self._failed: Deferred[None] = Deferred()

    async def run(self) -> None:
        """Relay until it is cancelled.

        :raises RealtimeError: the daemon refuses the bridge.
        :raises BrokerRefused: RabbitMQ does.
        :raises PositionsRefused: the positions can't be kept.
        """
        try:
            rooms = [await self._join(room) for room in self._exchanges]
            forwarding = [self._forward(room) for room in rooms]
            await _together([self._broker.stay_connected(self._consume), self._keep_positions(), *forwarding])
        finally:
            self._positions.write()

    # From exchanges to rooms

    async def _consume(self, channel: TwistedChannel) -> None:
        self._failed = Deferred()
        await channel.basic_qos(prefetch_count=self._prefetch)
        await _together([self._wait_failed(channel), *(self._consume_one(channel, one) for one in self._sources)])

    async def _wait_failed(self, channel: TwistedChannel) -> None:
        channel.on_closed.addCallback(self._fail)
        await self._failed

    def _fail(self, error: BaseException | None) -> None:
        if not self._failed.called:
            self._failed.errback(error)

    async def _consume_one(self, channel: TwistedChannel, source: Source) -> None:
        # With one active consumer, a second bridge stands by, and the room has the order of the queue.
        arguments = {"x-single-active-consumer": True}
        await channel.queue_declare(source.queue, durable=True, arguments=arguments)
        await channel.queue_bind(source.queue, source.exchange, source.binding_key)
        queue, _ = await channel.basic_consume(source.queue)
        while True:
            _, method, properties, body = await queue.get()
            self._take(source.room, ConsumedMessage(channel, method.delivery_tag), properties, body)

    def _take(self, room: str, delivery: ConsumedMessage, properties: BasicProperties, body: bytes) -> None:
        if came_from(properties, room):
            delivery.ack()
            return
        try:
            content = read_content(properties, body)
            stored = self._chat.publish(room, content.data, content.event, content.key)
        except (Unreadable, RealtimeError) as error:
            self._refuse(room, delivery, error)
        else:
            stored.addCallbacks(lambda position: delivery.ack(), partial(self._not_stored, room, delivery))

    def _not_stored(self, room: str, delivery: ConsumedMessage, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, FateUnknown) or (isinstance(error, RealtimeError) and error.temporary):
            self._reactor.callLater(_REQUEUE_AFTER, delivery.reject, True)
        elif isinstance(error, RealtimeError) and error.code in _UNFIT:
            self._refuse(room, delivery, error)
        else:
            self._fail(error)

    def _refuse(self, room: str, delivery: ConsumedMessage, error: Exception) -> None:
        self._note(f"a message for the room {room} is rejected: {error}")
        delivery.reject(False)

    # From rooms to exchanges

    async def _join(self, name: str) -> Room:
        since = self._positions.get(name)
        room = await self._chat.join(name, since=since, last=0)
        if since is None:
            self._positions.set(name, room.position)
        return room

    async def _forward(self, room: Room) -> None:
        async for event in room:
            if isinstance(event, Reset):
                self._note(f"messages of the room {room.name} are missing: the room no longer had them")
            elif not isinstance(event, Message):
                continue
            elif not event.own:  # what came from an exchange goes to none, or it could go round in a circle
                await self._publish(event)
            self._positions.set(room.name, event.position)

    async def _publish(self, message: Message) -> None:
        for exchange in self._exchanges[message.room]:
            await self._broker.publish(exchange, message.room, make_body(message), make_properties(message))

    async def _keep_positions(self) -> None:
        while True:
            self._positions.write()
            await deferLater(self._reactor, _WRITE_EVERY, lambda: None)


async def _together(coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run some coroutines until one of them fails or this is cancelled, and then cancel all."""
    running = [Deferred.fromCoroutine(coroutine) for coroutine in coroutines]
    try:
        await DeferredList(running, fireOnOneErrback=True, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
    finally:
        for one in running:
            one.addErrback(lambda failure: None)
            one.cancel()
