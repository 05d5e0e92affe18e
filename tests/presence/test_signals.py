"""Tests for :mod:`realtime_chat.presence.signals`: what a poll that comes from another node is not sent again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.node import Node
from realtime_chat.presence.leases import Lease
from realtime_chat.presence.signals import SignalDelivery
from realtime_chat.values.codec import encode_signal
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import User


@attrs.define(eq=False)
class FakeRoom:
    """A room whose readers are all live."""

    name: str
    readers: list[FakeReader] = attrs.Factory(list)

    @property
    def reader_count(self) -> int:
        return len(self.readers)

    def live_count(self) -> int:
        return len(self.readers)

    def broadcast(self, kind: str, signal: bytes, skip: Any) -> tuple[int, list[Any]]:
        for reader in self.readers:
            if reader not in skip:
                reader.got.append(signal)
                reader.version = reader.node.had_by(reader)  # type: ignore[arg-type]
        return len(self.readers), []


class FakeClient:
    """A client of which only its hash is asked."""

    client_hash = "2" * 16


class FakeTransport(NamedTuple):
    """Keeps events."""

    got: list[bytes]

    def send_event(self, kind: str, data: bytes) -> None:
        self.got.append(data)


@attrs.define(eq=False)
class FakeReader:
    """A poll of one client, with what it was sent, and the hashes in the version of its answer."""

    room: FakeRoom
    node: SignalDelivery
    lease: Any = None
    got: list[bytes] = attrs.Factory(list)
    version: Mapping[str, int] = MappingProxyType({})
    transport: FakeTransport | None = None


class RoamingTests(SynchronousTestCase):
    """Two nodes, and a client that polls one after the other."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.at = 0

    def node(self) -> tuple[SignalDelivery, FakeRoom]:
        node = Node("1", self.clock, self.clock.seconds, Limits())
        self.addCleanup(node.wheel.stop)
        return SignalDelivery(node, True), FakeRoom("news")

    def poll(
        self, there: tuple[SignalDelivery, FakeRoom], version: Mapping[str, int] = MappingProxyType({})
    ) -> FakeReader:
        delivery, room = there
        reader = FakeReader(room, delivery)
        room.readers.append(reader)
        if version:
            delivery.has_had(reader, version)  # type: ignore[arg-type]
        return reader

    def tell(self, there: tuple[SignalDelivery, FakeRoom], data: bytes, sender: User | None = None) -> None:
        """One node delivers a signal, each with a time of its own if it is relayed."""
        delivery, room = there
        if sender is None:
            self.at += 1
        signal = encode_signal(room.name, "tick", data, sender, self.at)
        delivery.deliver(room, signal, "" if sender is None else "1" * 16, ())  # type: ignore[arg-type]

    def test_late(self) -> None:
        """What has answered a poll isn't sent to the next one by a node that hears of it seconds later."""
        for sender in (None, User("ann", "Ann")):
            first, second = self.node(), self.node()
            poll = self.poll(first)
            self.tell(first, b"1", sender)
            later = self.poll(second, poll.version)
            self.clock.advance(4)
            self.tell(second, b"1", sender)
            self.assertEqual([], later.got, sender)

    def test_same_again(self) -> None:
        """The same that is relayed each second is sent each time, by a node that has had it already or gets it late."""
        for is_late in (False, True):
            first, second = self.node(), self.node()
            poll = self.poll(first)
            self.tell(first, b"1")
            if not is_late:
                self.tell(second, b"1")
            later = self.poll(second, poll.version)
            if is_late:
                self.tell(second, b"1")
            for _ in range(3):
                self.clock.advance(1)
                self.tell(second, b"1")
            self.assertEqual(3, len(later.got), is_late)

    def test_never_comes(self) -> None:
        """What a node never got, as nobody read the room there, takes nothing else away after some seconds."""
        first, second = self.node(), self.node()
        poll = self.poll(first)
        self.tell(first, b"1")
        for _ in range(3):  # the poll goes to and fro, and is answered with something else
            for there in (second, first):
                version = poll.node.had_by(poll) or poll.version  # type: ignore[arg-type]
                there[1].readers.clear()
                poll = self.poll(there, version)
                self.clock.advance(1)
        self.tell(first, b"1")
        self.assertEqual(1, len(poll.got))

    def test_client_says_the_same(self) -> None:
        """Two equal signals of a client are two, as each has its time."""
        first, second = self.node(), self.node()
        poll = self.poll(first)
        self.tell(first, b"1", User("ann", "Ann"))
        later = self.poll(second, poll.version)
        self.at += 1
        self.tell(second, b"1", User("ann", "Ann"))
        self.assertEqual(1, len(later.got))

    def test_several_answers(self) -> None:
        """What several answers had is not sent again, whichever node the poll goes to meanwhile."""
        first, second = self.node(), self.node()
        poll = self.poll(first)
        self.tell(first, b"1")
        first[1].readers.clear()
        poll = self.poll(first, poll.version)
        self.tell(first, b"2")
        poll = self.poll(second, poll.version)
        second[1].readers.clear()  # it is answered with something else
        poll = self.poll(second, second[0].had_by(poll))  # type: ignore[arg-type]
        for data in (b"1", b"2", b"3"):
            self.tell(second, data)
        self.assertEqual([3], [json.loads(signal)["data"] for signal in poll.got])

    def test_between_polls(self) -> None:
        """What comes between two polls of a client, and was late, isn't sent to the second one."""
        first, second = self.node(), self.node()
        poll = self.poll(first)
        self.tell(first, b"1")
        before = self.poll(second, poll.version)
        before.lease = lease = Lease(FakeClient(), second[1])  # type: ignore[arg-type]
        lease.polled_at = self.clock.seconds()
        second[0].keep("news")
        second[0].forget(before)  # type: ignore[arg-type]
        second[1].readers.clear()
        for data in (b"1", b"2"):
            self.tell(second, data)
        second[0].stop_keeping("news")
        after = self.poll(second)
        after.transport = FakeTransport(after.got)
        second[0].resume(after, lease)  # type: ignore[arg-type]
        self.assertEqual([2], [json.loads(signal)["data"] for signal in after.got])

    def test_other_room(self) -> None:
        """What was sent in one room is still sent in another."""
        first, second = self.node(), self.node()
        poll = self.poll(first)
        self.tell(first, b"1")
        elsewhere = second[0], FakeRoom("sport")
        self.poll(second, poll.version)
        reader = self.poll(elsewhere)
        self.tell(elsewhere, b"1")
        self.assertEqual(1, len(reader.got))

    def test_bounded(self) -> None:
        """Hashes of what is relayed are kept for seconds, and are forgotten when the node stops."""
        delivery, room = self.node()
        for number in range(5):
            self.tell((delivery, room), b"%d" % number)
            self.clock.advance(1.5)
        self.assertLess(len(delivery._recent), 5)
        delivery.stop()
        self.assertEqual(0, len(delivery._recent))
