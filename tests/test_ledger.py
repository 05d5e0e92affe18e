"""For every reader the ledger balances, whatever the order of things.

Hypothesis draws a string of bytes; each byte is a step of a world in which stores answer late, sockets are full,
clients come and go, logs are trimmed and daemons restart. After each step every reader's account is checked: nothing
lost, doubled, out of order, or missing without a word.
"""

from __future__ import annotations

import json
import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat import codec
from realtime_chat.hub import Hub
from realtime_chat.model import ANONYMOUS, Draft, Position, Stored
from realtime_chat.session import Session
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.transports.poll import PollResource
from tests.fakes import FakeRequest, FakeTransport, HeldStore, make_hub, tokens

RUNS = int(os.environ.get("LEDGER_RUNS", "10000"))
ROOMS = ("a", "b")
HISTORY = 4


class Account:
    """What one reader of one room has seen, and whether that is in order."""

    def __init__(self, world: World, room: str) -> None:
        self.world = world
        self.room = room
        self.position: Position | None = None

    def take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "message":
            self._message(Position.parse(event["position"]), event["data"])
        elif kind == "reset":
            self._moved(Position.parse(event["position"]), recovered=False)
        elif kind == "joined":
            self._moved(Position.parse(event["position"]), event["recovered"])
        elif kind == "error":
            assert event["code"] == "store_unavailable", event

    def _message(self, position: Position, data: Any) -> None:
        assert self.position is not None
        assert position == Position(self.position.epoch, self.position.offset + 1), (self.position, position)
        assert self.world.log[self.room, position] == data
        self.position = position

    def _moved(self, position: Position, recovered: bool) -> None:
        """A loss is announced only where there is one, and is never silent."""
        before, self.position = self.position, position
        if before is None or before == position:
            return
        assert not recovered, (before, position)
        if before.epoch == position.epoch:
            assert position.offset >= before.offset, (before, position)
            kept = self.world.kept(self.room)
            assert Position(before.epoch, before.offset + 1) not in kept, (before, position, kept)


class SocketReader:
    """A client on something like a WebSocket."""

    def __init__(self, world: World, room: str) -> None:
        self.world = world
        self.account = Account(world, room)
        self.session: Session | None = None

    def connect(self, last: int) -> None:
        if self.session is None:
            self.transport = FakeTransport()
            self.session = Session(self.world.hub, self.transport)
            since = self.account.position
            self.session.execute(codec.Join(room=self.account.room, since=since and str(since), last=last))

    def disconnect(self) -> None:
        if self.session is not None:
            self.check()
            self.session.close()
            self.session = None

    def stall(self, window: int) -> None:
        if self.session is not None:
            self.transport.window = window

    def drain(self) -> None:
        if self.session is not None:
            self.transport.window = None
            if self.transport.full:
                self.transport.full = False
                self.session.drained()

    def check(self) -> None:
        if self.session is not None:
            received, self.transport.received = self.transport.received, []
            for event in received:
                self.account.take(event)

    def settle(self) -> None:
        self.check()
        refused = self.session is not None and self.account.room not in self.session.subscriptions
        if refused or self.session is None:
            self.disconnect()
            self.connect(3)
        self.drain()


class PollReader:
    """A client that polls, and asks again with its old position when an answer got lost on its way."""

    def __init__(self, world: World, room: str) -> None:
        self.world = world
        self.account = Account(world, room)
        self.request: FakeRequest | None = None

    def connect(self, last: int) -> None:
        if self.request is None:
            args = {b"room": [self.account.room.encode()], b"last": [b"%d" % last], b"wait": [b"20"]}
            if self.account.position is not None:
                args[b"since"] = [str(self.account.position).encode()]
            self.request = FakeRequest(args)
            PollResource(self.world.hub, jsonp=False).render_GET(self.request)  # type: ignore[arg-type]

    def disconnect(self) -> None:
        """The connection breaks, perhaps with an answer in it."""
        if self.request is not None:
            if not self.request.finished:
                self.request.disconnect()
            self.request = None

    def stall(self, window: int) -> None:
        pass

    def drain(self) -> None:
        pass

    def check(self) -> None:
        if self.request is None or not self.request.finished:
            return
        answer = json.loads(self.request.body)
        self.request = None
        if answer["type"] == "error":
            assert answer["code"] == "store_unavailable", answer
            return
        position = Position.parse(answer["positions"][self.account.room])
        if self.account.position is None:
            first = [event for event in answer["events"] if event["type"] == "message"]
            offset = position.offset - len(first)
            self.account.position = Position(position.epoch, offset)
        for event in answer["events"]:
            self.account.take(event)
        assert self.account.position == position

    def settle(self) -> None:
        self.check()
        self.connect(3)


class World:
    """Everything at once."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.log: dict[tuple[str, Position], Any] = {}
        self.attempted = 0
        self.acknowledged: dict[int, Position] = {}
        self.unsure: list[tuple[str, int]] = []
        self.readers: list[SocketReader | PollReader] = []
        self.steps = 0
        self.new_log()

    # What may happen

    def new_log(self) -> None:
        """The database is made anew, and the daemon restarts."""
        self.stored = MemoryStore(Retention(HISTORY), self.clock.seconds, tokens(self.clock.seconds().__hash__()))
        self.acknowledged.clear()
        self.unsure.clear()
        self.restart()

    def restart(self) -> None:
        """The daemon is killed: what was not committed is lost, what was not answered is unsure."""
        self.clock.advance(1)
        for reader in self.readers:
            reader.disconnect()
        self.held = HeldStore(self.stored, self._committed)
        self.hub = self._make_hub()

    def _make_hub(self) -> Hub:
        return make_hub(
            self.held, self.clock, history=HISTORY, page_messages=3, tail_bytes=600, room_idle=10.0, default_last=2
        )

    def publish(self, room: str) -> None:
        self.attempted += 1
        self._publish(room, self.attempted)

    def burst(self, room: str) -> None:
        """So many at once that the log is trimmed under whoever is behind."""
        for _ in range(HISTORY + 1):
            self.publish(room)
            self.held.commit()
            self.held.acknowledge()
            self.clock.advance(0)

    def publish_elsewhere(self, room: str | None = None) -> None:
        """Another node stores a message, and its announcement doesn't reach us."""
        self.attempted += 1
        draft = Draft(room or ROOMS[self.attempted % 2], "message", b"%d" % self.attempted, ANONYMOUS)
        self.stored.append(draft).addCallback(self._committed)

    def publish_again(self) -> None:
        """Somebody retries what was not acknowledged, with the same key."""
        if self.unsure:
            self._publish(*self.unsure[0])

    def _publish(self, room: str, number: int) -> None:
        if (room, number) not in self.unsure:
            self.unsure.append((room, number))
        command = codec.Publish(room=room, data=number, key=f"k{number}")
        transport = FakeTransport()
        session = Session(self.hub, transport, "somebody")
        self.hub.closed(session)
        answer = session.act(command)
        assert isinstance(answer, Deferred)
        answer.addCallback(self._acknowledged, room, number)

    def _acknowledged(self, raw: bytes, room: str, number: int) -> None:
        position = Position.parse(json.loads(raw)["position"])
        assert self.acknowledged.setdefault(number, position) == position
        if (room, number) in self.unsure:
            self.unsure.remove((room, number))

    def _committed(self, stored: Stored) -> Stored:
        """Write down what the log says: the truth that readers are held against."""
        message = stored.message
        number = json.loads(message.data)
        known = self.log.setdefault((message.room, message.position), number)
        assert known == number
        return stored

    def kept(self, room: str) -> list[Position]:
        page = self.success_of(self.stored.read_before(room, None, HISTORY))
        return [message.position for message in page.messages]

    @staticmethod
    def success_of(deferred: Deferred[Any]) -> Any:
        results: list[Any] = []
        deferred.addCallback(results.append)
        return results[0]

    def step(self, byte: int) -> None:
        self.steps += 1
        what, which = byte % 20, byte // 20
        if what < 3:
            self.publish(ROOMS[which % 2])
        elif what == 3:
            self.burst(ROOMS[which % 2])
        elif what in (14, 15, 16, 17, 18):
            self._reader_step(what, which)
        elif what == 19:
            (self.restart, self.new_log, self.publish_again, self.held.fail_read, self.publish_elsewhere)[which % 5]()
        else:
            (
                self.held.commit,
                self.held.commit,
                self.held.acknowledge,
                self.held.acknowledge,
                lambda: self.held.look(which),
                lambda: self.held.look(0),
                lambda: self.held.answer(which),
                lambda: self.held.answer(0),
                lambda: self.clock.advance(0),
                lambda: self.clock.advance((0.3, 2.0, 25.0)[which % 3]),
            )[what - 4]()
        for reader in self.readers:
            reader.check()

    def _reader_step(self, what: int, which: int) -> None:
        if what == 14 and len(self.readers) < 6:
            kind = (SocketReader, PollReader)[which % 2]
            self.readers.append(kind(self, ROOMS[which // 2 % 2]))
        if self.readers:
            reader = self.readers[which % len(self.readers)]
            {
                14: lambda: reader.connect(which % 4),
                15: lambda: reader.connect(which % 4),
                16: reader.disconnect,
                17: lambda: reader.stall(which % 3),
                18: reader.drain,
            }[what]()

    def settle(self) -> None:
        """Everything that is under way ends, and every reader catches up."""
        for _ in range(60):
            for reader in self.readers:
                reader.settle()
            self.held.settle()
            self.clock.advance(1.5)
        for reader in self.readers:
            reader.check()

    def balance(self) -> None:
        """Everybody has seen the whole log, and everything acknowledged is in it, once."""
        self.settle()
        for room in ROOMS:  # what was announced nowhere is found by the next announcement
            self.publish(room)
        self.settle()
        for reader in self.readers:
            room = reader.account.room
            page = self.success_of(self.stored.read_before(room, None, 1))
            assert reader.account.position == Position(page.epoch, page.top), (room, reader.account.position, page)
        logged = [number for (_, position), number in self.log.items() if position.epoch == page_epoch(self)]
        assert len(logged) == len(set(logged)), "doubled"
        assert set(self.acknowledged) <= set(logged), "lost"


def page_epoch(world: World) -> str:
    return str(world.success_of(world.stored.read_before("a", None, 1)).epoch)


class LedgerTests(SynchronousTestCase):
    """Interleavings of publish, join, poll, drain, stall, trim and restart."""

    @settings(
        max_examples=RUNS, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=False
    )
    @given(st.binary(min_size=8, max_size=96))
    def test_ledger_balances(self, steps: bytes) -> None:
        """Nothing acknowledged is lost, nothing is seen twice or out of order, and no gap is silent."""
        world = World()
        for byte in steps:
            world.step(byte)
        world.balance()

    def test_long_gap(self) -> None:
        """A gap of several pages is filled whole by one announcement."""
        world = World()
        reader = SocketReader(world, ROOMS[0])
        world.readers.append(reader)
        reader.connect(0)
        world.held.settle()
        for _ in range(HISTORY):
            world.publish_elsewhere(ROOMS[0])
        world.publish(ROOMS[0])
        world.settle()
        page = world.success_of(world.stored.read_before(ROOMS[0], None, 1))
        self.assertEqual(Position(page.epoch, page.top), reader.account.position)
