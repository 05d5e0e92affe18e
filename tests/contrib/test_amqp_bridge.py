"""The bridge between a fake chat and a fake RabbitMQ: what is acknowledged, what is given back, and when it ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from pika import BasicProperties
from pika.exceptions import ChannelClosedByBroker
from twisted.internet.defer import Deferred, DeferredQueue, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client import FateUnknown, Position, Refused
from realtime_chat.client.errors import QueueFull
from realtime_chat.console.amqp import relay
from realtime_chat.console.commands import Failed
from realtime_chat.contrib.amqp.bridge import Bridge
from realtime_chat.contrib.amqp.positions import PositionFile
from realtime_chat.contrib.amqp.routes import Source


class FakeChannel:
    """A channel with one queue.

    :ivar answers: what became of each message, by its tag.
    """

    def __init__(self) -> None:
        self.is_open = True
        self.on_closed: Deferred[Any] = Deferred()
        self.queue: DeferredQueue[Any] = DeferredQueue()
        self.answers: dict[int, str] = {}
        self.prefetch = 0

    def basic_qos(self, prefetch_count: int) -> Deferred[None]:
        self.prefetch = prefetch_count
        return succeed(None)

    def queue_declare(self, queue: str, durable: bool, arguments: Any) -> Deferred[None]:
        return succeed(None)

    def queue_bind(self, queue: str, exchange: str, key: str) -> Deferred[None]:
        return succeed(None)

    def basic_consume(self, queue: str) -> Deferred[Any]:
        return succeed((self.queue, "tag"))

    def basic_ack(self, tag: int) -> None:
        self.answers[tag] = "ack"

    def basic_reject(self, tag: int, requeue: bool) -> None:
        self.answers[tag] = "requeue" if requeue else "reject"

    def deliver(self, tag: int, body: bytes = b"1", **properties: str) -> None:
        """Bring a message."""
        self.queue.put((self, SimpleNamespace(delivery_tag=tag), BasicProperties(**properties), body))


class FakeBroker:
    """Gives one channel."""

    def __init__(self, channel: FakeChannel) -> None:
        self._channel = channel

    async def stay_connected(self, use: Callable[[Any], Awaitable[None]]) -> None:
        await use(self._channel)


class FakeChat:
    """Keeps what is published; each waits for its answer."""

    def __init__(self) -> None:
        self.published: list[tuple[str, Any, str, str | None]] = []
        self.waiting: list[Deferred[Position]] = []

    def publish(self, room: str, data: Any, event: str, key: str | None) -> Deferred[Position]:
        self.published.append((room, data, event, key))
        self.waiting.append(Deferred())
        return self.waiting[-1]


class BridgeTests(SynchronousTestCase):
    """One exchange, and one room."""

    def setUp(self) -> None:
        self.clock, self.channel, self.chat = Clock(), FakeChannel(), FakeChat()
        self.notes: list[str] = []
        broker: Any = FakeBroker(self.channel)
        chat: Any = self.chat
        sources = (Source("news", "#", "lobby"), Source("other", "#", "lobby"))
        bridge = Bridge(self.clock, chat, broker, sources, (), PositionFile(None), 20, self.notes.append)
        self.running = Deferred.fromCoroutine(bridge.run())
        self.addCleanup(self.running.addErrback, lambda failure: None)
        self.addCleanup(self.running.cancel)

    def refuse(self, error: Exception) -> None:
        """Let the last publish fail."""
        self.chat.waiting[-1].errback(error)

    def test_stored(self) -> None:
        """A message is acknowledged when it is stored, and not before; the prefetch is shared by all queues."""
        self.channel.deliver(1, b'{"a": 1}', message_id="id-1", type="order")
        self.assertEqual([("lobby", {"a": 1}, "order", "id-1")], self.chat.published)
        self.assertEqual(({}, 10), (self.channel.answers, self.channel.prefetch))
        self.chat.waiting[0].callback(Position("e", 1))
        self.assertEqual({1: "ack"}, self.channel.answers)

    def test_temporary(self) -> None:
        """What may be stored later is given back after a while, so that it doesn't come again at once."""
        for tag, error in enumerate((QueueFull(100), FateUnknown("too late"))):
            self.channel.deliver(tag)
            self.refuse(error)
            self.assertNotIn(tag, self.channel.answers)
            self.clock.advance(2)
            self.assertEqual("requeue", self.channel.answers[tag])

    def test_unfit(self) -> None:
        """What can never be stored is rejected, which is said; so is what no room can hold."""
        self.channel.deliver(1)
        self.refuse(Refused("too_large", "it is too large"))
        self.channel.deliver(2, b"\xff")
        self.assertEqual({1: "reject", 2: "reject"}, self.channel.answers)
        self.assertEqual(2, len(self.notes))

    def test_refused(self) -> None:
        """If the bridge itself is refused, it ends, and leaves the message where it is."""
        self.channel.deliver(1)
        self.refuse(Refused("forbidden", "you may not write here"))
        self.assertEqual("forbidden", self.failureResultOf(self.running, Refused).value.code)
        self.assertEqual({}, self.channel.answers)

    def test_closed(self) -> None:
        """When the channel is closed, nothing is answered on it any more, and who gave it hears why."""
        self.channel.deliver(1)
        self.channel.is_open = False
        self.channel.on_closed.callback(ChannelClosedByBroker(404, "NOT_FOUND"))
        self.failureResultOf(self.running, ChannelClosedByBroker)
        self.chat.waiting[0].callback(Position("e", 1))
        self.assertEqual({}, self.channel.answers)


class InstalledTests(SynchronousTestCase):
    """What the command needs."""

    def test_without_pika(self) -> None:
        """Without pika, the command says what to install."""
        name = Bridge.__module__
        self.addCleanup(sys.modules.__setitem__, name, sys.modules[name])
        sys.modules[name] = None  # type: ignore[assignment]
        anything: Any = None
        running = Deferred.fromCoroutine(relay(anything, anything, argparse.Namespace(), anything))
        self.assertIn("realtime_chat[amqp]", str(self.failureResultOf(running, Failed).value))
