"""Tests for :mod:`realtime_chat.broker.presence_publisher`: what of this node's clients has to be restored in Redis."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.broker.presence_messages import encode_body, encode_row
from realtime_chat.broker.presence_publisher import PresencePublisher
from realtime_chat.redis.names import RedisNames
from realtime_chat.redis.wire import Argument
from realtime_chat.values.errors import StoreError
from realtime_chat.values.model import RemoteClient, User

ANN = RemoteClient("a1", User("u1", "Ann", True), b"{}", 7)
BOB = RemoteClient("b2", User("u2", "Bob", False), b"{}", 8)


class Connection:
    """A connection to Redis.

    :ivar works: whether commands are answered.
    """

    works = True

    def command(self, *words: Argument) -> Deferred[Any]:
        return succeed(0) if self.works else fail(StoreError("it is gone"))


class LostTests(SynchronousTestCase):
    """A node with a client in each of two rooms."""

    def setUp(self) -> None:
        self.connection, self.repairs = Connection(), 0
        connection: Any = self.connection
        names = RedisNames("realtime", 0)
        self.publisher = PresencePublisher(names, "0abc", connection, bytes, 30.0, self.repair)
        for room, client in (("lobby", ANN), ("garden", BOB)):
            self.publisher.publish(room, self.publisher.change(room, [client], []), [])
        self.assertEqual(({}, 0), (self.publisher.lost, self.repairs))

    def repair(self) -> None:
        self.repairs += 1

    def test_body(self) -> None:
        """It knows its clients by room, until they go."""
        self.assertEqual(encode_body([encode_row(ANN)]), self.publisher.body_of("lobby"))
        self.publisher.change("lobby", [], ["a1"])
        self.assertEqual(encode_body([]), self.publisher.body_of("lobby"))

    def test_not_written(self) -> None:
        """What couldn't be written is restored later, and nobody has to be told of that."""
        self.connection.works = False
        self.publisher.publish("lobby", self.publisher.change("lobby", [BOB], []), [])
        self.assertEqual(({"lobby": False}, 1), (self.publisher.lost, self.repairs))

    def test_all(self) -> None:
        """All rooms are restored later if Redis lost everything, and all nodes read them then."""
        self.publisher.restore_all_later()
        self.assertEqual(({"lobby": True, "garden": True}, 2), (self.publisher.lost, self.repairs))

    def test_some(self) -> None:
        """Some rooms are restored at a time; those that fail are restored again."""
        self.publisher.restore_all_later()
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(self.publisher.restore_some(1))))
        self.assertEqual({"garden": True}, self.publisher.lost)
        self.connection.works = False
        self.assertFalse(self.successResultOf(Deferred.fromCoroutine(self.publisher.restore_some(1))))
        self.assertEqual({"garden": True}, self.publisher.lost)
