"""Tests for :mod:`realtime_chat.client.properties`, and properties as chats see them on each transport."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client import Chat, Property, Refused, Room
from realtime_chat.client.properties import PropertySetter, RoomProperties
from realtime_chat.client.subscription import RoomSubscription
from realtime_chat.values.model import Position
from tests.client.served import ChatTestCase


def _property(name: str, offset: int, *data: Any, epoch: str = "e") -> dict[str, Any]:
    """A ``property`` event; without data it is removed."""
    value = {"data": data[0]} if data else {}
    sender = {"id": "u2", "name": "Bob"}
    return {"type": "property", "name": name, "position": f"{epoch}:{offset}", "from": sender, "at": 1, **value}


def _all(*values: dict[str, Any], position: str, **fields: Any) -> dict[str, Any]:
    """The ``properties`` that come first."""
    return {"type": "properties", "position": position, "top": position, "full": True, "values": list(values), **fields}


class RoomPropertiesTests(SynchronousTestCase):
    """What the server tells of a room's properties."""

    def setUp(self) -> None:
        self.properties = RoomProperties("lobby")
        self.told: list[tuple[str, Any]] = []

    def receive(self, event: dict[str, Any]) -> None:
        for change in self.properties.receive(event, None):
            self.told.append((change.name, None if change.removed else change.data))

    def test_snapshot(self) -> None:
        """All properties come first, and each is told."""
        self.assertIs(True, self.properties.request)
        self.receive(_all(_property("a", 1, 1), _property("b", 3, None), position="e:3"))
        self.assertEqual({"a": 1, "b": None}, self.properties.values)
        self.assertEqual(([("a", 1), ("b", None)], "e:3"), (self.told, self.properties.request))

    def test_changes(self) -> None:
        """Each change is told once, and what was removed is gone."""
        self.receive(_all(position="e:0"))
        for event in (_property("a", 1, 1), _property("a", 4, 4), _property("a", 1, 1), _property("b", 5, 5)):
            self.receive(event)
        self.receive(_property("a", 6))
        self.assertEqual({"b": 5}, self.properties.values)
        self.assertEqual([("a", 1), ("a", 4), ("b", 5), ("a", None)], self.told)

    def test_resumed(self) -> None:
        """What has changed since the position is added to what is known."""
        self.receive(_all(_property("a", 1, 1), _property("b", 2, 2), position="e:2"))
        self.receive(_all(_property("b", 5, 5), position="e:5", full=False))
        self.assertEqual({"a": 1, "b": 5}, self.properties.values)

    def test_unseen(self) -> None:
        """What isn't among all properties is dropped, but only once all have come."""
        self.receive(_all(_property("a", 1, 1), _property("b", 2, 2), _property("c", 3, 3), position="e:3"))
        self.receive(_all(_property("a", 7, 7), position="e:7", top="e:9"))
        self.assertEqual({"a": 7, "b": 2, "c": 3}, self.properties.values)
        self.receive(_property("c", 9, 3))
        self.assertEqual({"a": 7, "c": 3}, self.properties.values)
        self.assertEqual(("b", None), self.told[-1])

    def test_first_page_before_the_position(self) -> None:
        """All properties replace what is known, also if their first page ends before the position."""
        self.receive(_all(_property("a", 1, 1), _property("b", 5, 5), position="e:5"))
        self.receive(_all(_property("a", 1, 1), position="e:1", top="e:9"))
        self.receive(_all(_property("c", 8, 8), position="e:9", full=False))
        self.assertEqual(({"a": 1, "c": 8}, "e:9"), (self.properties.values, self.properties.request))

    def test_other_log(self) -> None:
        """Another log replaces everything."""
        self.receive(_all(_property("a", 1, 1), _property("b", 2, 2), position="e:2"))
        self.receive(_all(_property("a", 1, "new", epoch="f"), position="f:1"))
        self.assertEqual({"a": "new"}, self.properties.values)

    def test_other_user(self) -> None:
        """For another user nothing is known."""
        self.receive(_all(_property("a", 1, 1), position="e:1"))
        self.assertEqual(["a"], [change.name for change in self.properties.forget() if change.removed])
        self.assertEqual(({}, True), (self.properties.values, self.properties.request))


class BufferTests(SynchronousTestCase):
    """What waits for the reader of a room."""

    def test_conflated(self) -> None:
        """Of each name only the last change waits."""
        subscription = RoomSubscription("lobby", None, None, 10, RoomProperties("lobby"))
        changes = [Property("lobby", f"p{number % 3}", None, number) for number in range(100)]
        subscription.add_changes(changes)
        found = list(iter(subscription.pop, None))
        self.assertEqual([("p0", 99), ("p1", 97), ("p2", 98)], [(one.name, one.data) for one in found])  # type: ignore[union-attr]


class SetterTests(SynchronousTestCase):
    """Setting properties."""

    def setUp(self) -> None:
        self.sent: list[tuple[dict[str, Any], Deferred[dict[str, Any]]]] = []
        keys = map(str, itertools.count())
        self.setter = PropertySetter(self.query, lambda: next(keys))

    def query(self, command: dict[str, Any]) -> Deferred[dict[str, Any]]:
        self.sent.append((command, Deferred()))
        return self.sent[-1][1]

    def set(self, name: str, number: int) -> Deferred[Position]:
        return self.setter.set("lobby", name, msgspec.Raw(b"%d" % number))

    def answer(self, offset: int) -> None:
        self.sent[-1][1].callback({"position": f"e:{offset}"})

    def values(self) -> list[tuple[str, bytes]]:
        return [(command["name"], bytes(command["data"])) for command, _ in self.sent]

    def test_one_at_a_time(self) -> None:
        """Of a name one value is on its way, and the last one goes next; the others are answered with it."""
        first, second, third = (self.set("a", number) for number in range(3))
        self.assertEqual([("a", b"0")], self.values())
        self.answer(1)
        self.assertEqual(Position("e", 1), self.successResultOf(first))
        self.assertEqual([("a", b"0"), ("a", b"2")], self.values())
        self.answer(2)
        both = self.successResultOf(gatherResults([second, third]))
        self.assertEqual([Position("e", 2)] * 2, both)

    def test_names_apart(self) -> None:
        """Values of different names don't wait for each other, and each has a key of its own."""
        self.set("a", 1)
        self.set("b", 2)
        self.assertEqual([("a", b"1"), ("b", b"2")], self.values())
        self.assertEqual(2, len({command["key"] for command, _ in self.sent}))

    def test_refused(self) -> None:
        """An error is told, and the next value is sent all the same."""
        refused, following = self.set("a", 1), self.set("a", 2)
        self.sent[0][1].errback(Refused("too_many", "there are too many"))
        self.failureResultOf(refused, Refused)
        self.answer(1)
        self.successResultOf(following)

    def test_removed(self) -> None:
        """A property without data is removed."""
        self.setter.set("lobby", "a", None)
        self.assertNotIn("data", self.sent[0][0])


class PropertiesContract:
    """Properties in rooms that several chats read."""

    async def has(self: Any, room: Room, **values: Any) -> None:
        """Take events until a room has these properties, and no others."""
        while room.properties != values:
            await self.event(room, Property)

    async def test_late_comer(self: Any) -> None:
        """Who comes later sees the present value of everything, and then what changes."""
        ann: Chat = await self.chat("websocket", name="Ann")
        await ann.set("lobby", "label", {"text": "old"})
        await ann.set("lobby", "label", {"text": "new"})
        await ann.set("lobby", "open", True)
        room = await (await self.chat()).join("lobby", properties=True)
        await self.has(room, label={"text": "new"}, open=True)
        await ann.unset("lobby", "open")
        await self.has(room, label={"text": "new"})

    async def test_sets(self: Any) -> None:
        """A chat sets and removes properties; it sees its own changes, as others do."""
        mine = await (await self.chat(name="Ann")).join("lobby", properties=True)
        theirs = await (await self.chat("websocket")).join("lobby", properties=True)
        position = await mine.set("label", 1)
        change = await self.event(theirs, Property)
        self.assertEqual((position, 1, "Ann", False), (change.position, change.data, change.sender.name, change.own))
        self.assertIs(True, (await self.event(mine, Property)).own)
        await mine.unset("label")
        self.assertTrue((await self.event(theirs, Property)).removed)

    async def test_not_asked_for(self: Any) -> None:
        """Who doesn't ask for properties gets none."""
        room = await (await self.chat()).join("lobby")
        await room.set("label", 1)
        await room.publish("after it")
        await self.messages(room, 1)
        self.assertIs(None, room.properties)

    async def test_restart(self: Any) -> None:
        """After a restart they are all there, and what changed meanwhile is told."""
        await self.keep_on_disk()
        chat, other = await self.chat(patient=True), await self.chat("websocket", patient=True)
        room = await chat.join("lobby", properties=True)
        await room.set("a", 1)
        await self.has(room, a=1)
        await self.service.stopService()
        await self.start_again()
        await other.set("lobby", "b", 2)
        await self.has(room, a=1, b=2)

    async def test_switching(self: Any) -> None:
        """They are followed from transport to transport."""
        chat, other = await self.chat(), await self.chat("websocket")
        room = await chat.join("lobby", properties=True)
        for number, kind in enumerate(("poll", "sse", "websocket", "poll")):
            await chat.switch(kind)
            await other.set("lobby", "number", number)
            await self.has(room, number=number)


class WebSocketPropertiesTests(PropertiesContract, ChatTestCase):
    """Over WebSocket."""

    transports = ("websocket",)


class SSEPropertiesTests(PropertiesContract, ChatTestCase):
    """Over server-sent events."""

    transports = ("sse",)


class PollPropertiesTests(PropertiesContract, ChatTestCase):
    """Over long poll."""

    transports = ("poll",)
