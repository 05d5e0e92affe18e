"""For every reader the ledger balances, whatever the order of things: of messages, and of properties.

Hypothesis draws a string of bytes; each byte is a step of a world in which stores answer late, sockets are full,
clients come and go, logs are trimmed and daemons restart; and of one in which two nodes share a store that may lose its
newest messages, and tell each other of them late, twice, in a wrong order or not at all. After each step every reader's
account is checked: nothing lost, doubled, out of order, or missing without a word. Of properties it ends with the last
value of each name, and sees no older value after a newer one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.core.identity import Identity
from realtime_chat.core.performing_session import PerformingSession
from realtime_chat.store.memory import MemoryStore, _PropertiesLog
from realtime_chat.store.retention import Retention, new_epoch
from realtime_chat.transports.poll import PollResource
from realtime_chat.values import commands
from realtime_chat.values.model import (
    ANONYMOUS,
    AppendResult,
    Draft,
    Message,
    Page,
    Position,
    User,
    is_properties_log,
    properties_log,
)
from tests.fakes import FakeRequest, FakeTransport, HeldBroker, HeldStore, make_hub, make_session, tokens
from tests.soak import examples

RUNS = examples(10_000)
ROOMS = ("a", "b")
HISTORY = 4
NAMES = ("x", "y", "z")
"""Of the properties."""


SOMEBODY = Identity("somebody", "0" * 16, User("~u" + "a" * 16, "Somebody"))
"""Who publishes, whichever node it asks."""


class ForgetfulStore(MemoryStore):
    """Logs that can lose their ends, and then go on in a new epoch with what they kept."""

    def __init__(self, now: Any, token: Any) -> None:
        super().__init__(Retention(HISTORY), now, token)
        self._token = token
        self.begun: dict[str, int] = {}

    @property
    def epoch(self) -> str:
        return self._epoch

    def has(self, room: str) -> bool:
        """Whether a room is there."""
        return room in self._logs

    def lose(self, most: int) -> None:
        """Every room loses so many messages, or all that it keeps."""
        self._epoch = new_epoch(self._token)
        for room, log in self._logs.items():
            lost = min(most, len(log.messages))
            log.top -= lost
            if isinstance(log, _PropertiesLog):
                log.removed = min(log.removed, log.top)
                log.messages = {message.event: message for message in self._kept(log.top, log.messages.values())}
            else:
                log.messages[:] = self._kept(log.top, log.messages)
            log.keys = {name: entry for name, entry in log.keys.items() if entry.offset <= log.top}
            self.begun[room] = log.top

    def _kept(self, top: int, messages: Iterable[Message]) -> list[Message]:
        """Those up to an offset, in the new epoch."""
        return [
            msgspec.structs.replace(one, position=Position(self._epoch, one.position.offset))
            for one in messages
            if one.position.offset <= top
        ]

    def _read(self, room: str, *args: Any) -> Deferred[Page]:
        begun = self.begun.get(room, 0)
        return super()._read(room, *args).addCallback(lambda page: msgspec.structs.replace(page, epoch_start=begun))


class Account:
    """What one reader of one room has seen, and whether that is in order."""

    def __init__(self, world: World, room: str, lasting: bool = False) -> None:
        self.world = world
        self.room = room
        self.lasting = lasting
        self.position: Position | None = None

    def take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "message":
            self._message(Position.parse(event["position"]), event["data"])
        elif kind == "reset":
            before, position = self.position, Position.parse(event["position"])
            self._moved(position, recovered=False)
            if self.lasting:
                self.moved_on(before, position)
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
        epochs = self.world.epochs
        assert epochs.index(position.epoch) >= epochs.index(before.epoch), (before, position, epochs)
        if before.epoch == position.epoch:
            assert position.offset >= before.offset, (before, position)
            kept = self.world.kept(self.room)
            assert Position(before.epoch, before.offset + 1) not in kept, (before, position, kept)

    def moved_on(self, before: Position | None, position: Position) -> None:
        """A connection that lasts comes into a new log with nothing skipped that is there, and nothing shown again."""
        begun = self.world.stored.begun.get(self.room, 0)
        if before is None or position.epoch not in (before.epoch, self.world.stored.epoch):
            return
        if self.world.epochs[-2:] == [before.epoch, position.epoch]:
            resume_offset = min(before.offset, begun)
            assert position.offset >= resume_offset, (before, position, begun)
            following = Position(position.epoch, resume_offset + 1)
            assert position.offset == resume_offset or following not in self.world.kept(self.room), (
                before,
                position,
                begun,
            )


class PropertiesAccount:
    """What one reader of a room's properties holds, and whether it came in order.

    :ivar offsets: by name, that of the last change that was seen, in this epoch.
    """

    def __init__(self, world: World, room: str) -> None:
        self.world = world
        self.log = properties_log(room)
        self.position: Position | None = None
        self.values: dict[str, int] = {}
        self.offsets: dict[str, int] = {}

    def take(self, event: dict[str, Any]) -> None:
        if event["type"] == "joined":
            self._page(event["properties"])
        elif event["type"] == "properties":
            self._page(event)
        elif event["type"] == "property":
            position = Position.parse(event["position"])
            assert self.position is not None
            assert position.epoch == self.position.epoch, (self.position, position)
            assert position.offset > self.position.offset, (self.position, position)
            self._change(event)
            self.position = position

    def _page(self, page: dict[str, Any]) -> None:
        before, position = self.position, Position.parse(page["position"])
        if before is None or before.epoch != position.epoch:
            assert page["full"], (before, page)
            epochs = self.world.epochs
            assert before is None or epochs.index(position.epoch) >= epochs.index(before.epoch), (before, position)
            self.offsets = {}
        if page["full"]:
            self.values = {}
        self.position = position
        for value in page["values"]:
            self._change(value)

    def _change(self, event: dict[str, Any]) -> None:
        """A value is what was set at its position, and no older one of its name comes after it."""
        position, name = Position.parse(event["position"]), event["name"]
        assert self.world.changes[self.log, position] == (name, event.get("data"))
        assert position.offset >= self.offsets.get(name, 0), (name, position, self.offsets)
        self.offsets[name] = position.offset
        self.values.pop(name, None)
        if "data" in event:
            self.values[name] = event["data"]


class SocketReader:
    """A client on something like a WebSocket."""

    def __init__(self, world: World, room: str) -> None:
        self.world = world
        self.account = Account(world, room, lasting=True)
        self.properties = PropertiesAccount(world, room)
        self.session: PerformingSession | None = None

    def connect(self, last: int) -> None:
        if self.session is None:
            self.transport = FakeTransport()
            self.node = self.world.some_node()
            self.session = make_session(self.node.hub, self.transport)
            since = self.account.position
            after = self.properties.position
            properties = True if after is None else str(after)
            self.session.execute(
                commands.Join(room=self.account.room, since=since and str(since), last=last, properties=properties)
            )

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
            if self.transport.write_paused:
                self.transport.write_paused = False
                self.session.resume_writing()

    def check(self) -> None:
        if self.session is not None:
            received, self.transport.received = self.transport.received, []
            for event in received:
                self.account.take(event)
                self.properties.take(event)

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
        self.properties = PropertiesAccount(world, room)
        self.request: FakeRequest | None = None

    def connect(self, last: int) -> None:
        if self.request is None:
            args = {b"room": [self.account.room.encode()], b"last": [b"%d" % last], b"wait": [b"20"]}
            if self.account.position is not None:
                args[b"since"] = [str(self.account.position).encode()]
            args[b"properties"] = [str(self.properties.position or 1).encode()]
            self.request = FakeRequest(args)
            self.node = self.world.some_node()
            PollResource(self.node.hub, jsonp=False).render_GET(self.request)  # type: ignore[arg-type]

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
            self.properties.take(event)
        assert self.account.position == position
        place = answer.get("properties", {}).get(self.account.room)
        assert place in (None, str(self.properties.position))

    def settle(self) -> None:
        self.check()
        self.connect(3)


class Node:
    """One daemon of the world.

    :ivar unaware: whether it has yet to learn that the logs are others.
    """

    def __init__(self, world: World, broker: HeldBroker | None) -> None:
        self.held = HeldStore(world.stored, world.committed)
        self.broker = broker
        self.unaware = False
        self.hub = make_hub(
            self.held,
            world.clock,
            broker,
            history=HISTORY,
            page_messages=3,
            tail_bytes=600,
            room_idle=10.0,
            default_last=2,
            max_catch_ups=2,
        )
        if broker is not None:
            broker.start(self.hub.cache)

    def learn(self) -> None:
        """The store says that the logs are others."""
        if self.unaware:
            self.unaware = False
            self.hub.cache.all_may_have_missed()

    def step(self, what: int, which: int) -> None:
        """Something that only a node among others meets."""
        if self.broker is not None:
            (
                self.broker.subscribe,
                lambda: self.broker.deliver(0),
                lambda: self.broker.deliver(which),
                lambda: self.broker.deliver(which, again=True),
                self.broker.lose,
                self.broker.come_back,
                self.learn,
            )[what]()

    def settle(self) -> None:
        """Let everything happen that is under way."""
        self.learn()
        self.held.settle()
        if self.broker is not None:
            self.broker.come_back()
            while self.broker.asked or self.broker.held:
                self.broker.subscribe()
                self.broker.deliver(0)
                self.held.settle()


class World:
    """Everything at once.

    :ivar epochs: of the logs, in order.
    :ivar forgot: whether the store has forgotten a room.
    """

    def __init__(self, nodes: int = 1) -> None:
        self.clock = Clock()
        self.log: dict[tuple[str, Position], Any] = {}
        self.changes: dict[tuple[str, Position], tuple[str, Any]] = {}
        self.attempted = 0
        self.acknowledged: dict[int, Position] = {}
        self.unsure: list[tuple[str, int]] = []
        self.readers: list[SocketReader | PollReader] = []
        self.steps = 0
        self.epochs: list[str] = []
        self.forgot = False
        self.nodes: list[Node] = []
        self._several = nodes > 1
        self.new_log(nodes)

    @property
    def held(self) -> HeldStore:
        return self.some_node().held

    def some_node(self) -> Node:
        """Another one with each step."""
        return self.nodes[self.steps % len(self.nodes)]

    # What may happen

    def new_log(self, nodes: int = 0) -> None:
        """The database is made anew, and all daemons restart."""
        self.stored = ForgetfulStore(self.clock.seconds, tokens(self.clock.seconds().__hash__()))
        self.epochs.append(self.stored.epoch)
        self.acknowledged.clear()
        self.unsure.clear()
        for index in range(nodes or len(self.nodes)):
            self.restart(index)

    def restart(self, index: int | None = None) -> None:
        """A daemon is killed: what was not committed is lost, what was not answered is unsure."""
        self.clock.advance(1)
        if index is None:
            index = self.steps % len(self.nodes)
        for reader in self.readers:
            if getattr(reader, "node", None) in self.nodes[index : index + 1]:
                reader.disconnect()
        self.nodes[index : index + 1] = [Node(self, HeldBroker() if self._several else None)]

    def lose_tail(self, most: int) -> None:
        """The store loses what came last; the nodes learn of it later."""
        self.stored.lose(most)
        self.epochs.append(self.stored.epoch)
        for room in ROOMS:
            for message in self.success_of(self.stored.read_before(room, None, HISTORY)).messages:
                self.log[room, message.position] = json.loads(message.data)
        logged = {number: position for (_, position), number in self.log.items()}
        self.acknowledged = {number: logged[number] for number in self.acknowledged if self.is_now(logged[number])}
        for room in ROOMS:
            for change in self.success_of(self.stored.read_after(properties_log(room), 0, HISTORY)).messages:
                self._write_down_change(change)
        for node in self.nodes:
            node.unaware = True

    def forget(self, room: str) -> None:
        """The store forgets a room, which may have readers; not one that somebody publishes in again under a key."""
        is_under_way = any(name == room for name, _ in self.unsure) or any(node.held.appends for node in self.nodes)
        if self.stored.has(room) and not is_under_way:
            self.stored.forget(room)
            self.forgot = True

    def is_now(self, position: Position) -> bool:
        """Whether a position is one of the log that there is."""
        return position.epoch == self.stored.epoch

    def publish(self, room: str) -> None:
        self.attempted += 1
        self._publish(room, self.attempted)

    def set(self, room: str, which: int) -> None:
        """Somebody sets or removes a property."""
        self.attempted += 1
        data = UNSET if which % 4 == 3 else self.attempted
        hub = self.some_node().hub
        session = PerformingSession(hub, identity=SOMEBODY)
        hub.sessions.pop(session, None)
        answer = session.act(commands.SetProperty(room=room, name=NAMES[which % len(NAMES)], data=data))
        assert isinstance(answer, Deferred)
        answer.addErrback(lambda failure: None)  # as it is not tried again

    def burst(self, room: str) -> None:
        """So many at once that the log is trimmed under whoever is behind."""
        for _ in range(HISTORY + 1):
            self.publish(room)
            self.held.commit()
            self.held.acknowledge()
            self.clock.advance(0)

    def publish_elsewhere(self, room: str | None = None) -> None:
        """Something else than a node stores a message, which nobody announces."""
        if self._several:
            return
        self.attempted += 1
        draft = Draft(room or ROOMS[self.attempted % 2], "message", b"%d" % self.attempted, ANONYMOUS)
        self.stored.append(draft).addCallback(self._write_down)

    def publish_again(self) -> None:
        """Somebody retries what was not acknowledged, with the same key."""
        if self.unsure:
            self._publish(*self.unsure[0])

    def _publish(self, room: str, number: int) -> None:
        if (room, number) not in self.unsure:
            self.unsure.append((room, number))
        command = commands.Publish(room=room, data=number, key=f"k{number}")
        hub = self.some_node().hub
        session = PerformingSession(hub, identity=SOMEBODY)
        hub.sessions.pop(session, None)
        answer = session.act(command)
        assert isinstance(answer, Deferred)
        answer.addCallback(self._acknowledged, room, number)

    def _acknowledged(self, raw: bytes, room: str, number: int) -> None:
        position = Position.parse(json.loads(raw)["position"])
        if (room, number) in self.unsure:
            self.unsure.remove((room, number))
        if not self.is_now(position):
            return  # what is lost may be acknowledged all the same
        assert self.acknowledged.setdefault(number, position) == position

    def committed(self, stored: AppendResult) -> AppendResult:
        """A node has stored a message, and all nodes are told."""
        self._write_down(stored)
        if not stored.duplicate:
            for node in self.nodes:
                if node.broker is not None:
                    node.broker.announce([stored.message])
        return stored

    def _write_down(self, stored: AppendResult) -> AppendResult:
        """Write down what the log says: the truth that readers are held against."""
        message = stored.message
        if is_properties_log(message.room):
            self._write_down_change(message)
            return stored
        number = json.loads(message.data)
        known = self.log.setdefault((message.room, message.position), number)
        assert known == number
        return stored

    def _write_down_change(self, message: Message) -> None:
        change = message.event, json.loads(message.data) if message.data else None
        self.changes.setdefault((message.room, message.position), change)

    def set_now(self, room: str) -> dict[str, int]:
        """The properties of a room, as the store has them."""
        page = self.success_of(self.stored.read_after(properties_log(room), 0, HISTORY))
        return {message.event: json.loads(message.data) for message in page.messages}

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
            if which < 6:
                self.publish(ROOMS[which % 2])
            else:
                self.set(ROOMS[which % 2], which + self.steps)
            if what and self._several:
                self.held.commit()
        elif what == 3:
            self.burst(ROOMS[which % 2])
        elif what in (14, 15, 16, 17, 18):
            self._reader_step(what, which)
        elif what == 19:
            self._rare_step(which)
        elif what in (5, 8, 11, 12) and self._several:
            self.some_node().step(which % 7, self.steps)
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

    def _rare_step(self, which: int) -> None:
        {
            0: self.restart,
            1: self.new_log,
            2: self.publish_again,
            3: self.held.fail_read,
            4: self.publish_elsewhere,
            5: lambda: self.lose_tail(1),
            6: lambda: self.lose_tail(3),
            7: lambda: self.lose_tail(99),
            8: lambda: self.forget(ROOMS[0]),
            9: lambda: self.forget(ROOMS[1]),
        }[which % 10]()

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
        calm = 0
        for _ in range(60):
            for reader in self.readers:
                reader.settle()
            for node in self.nodes:
                node.settle()
            self.clock.advance(1.5)
            calm = calm + 1 if self.even() else 0
            if calm == 6:  # whoever is told something twice is so by now
                break
        for reader in self.readers:
            reader.check()

    def even(self) -> bool:
        """Whether all readers stand at the tops of their logs."""
        tops = {room: self.success_of(self.stored.read_before(room, None, 0)) for room in ROOMS}
        positions = {room: Position(page.epoch, page.top) for room, page in tops.items()}
        values = {room: self.set_now(room) for room in ROOMS}
        return all(
            reader.account.position == positions[reader.account.room]
            and reader.properties.values == values[reader.account.room]
            for reader in self.readers
        )

    def balance(self) -> None:
        """Everybody has seen the whole log, and everything acknowledged is in it, once."""
        self.settle()
        if not self._several or self.forgot:
            for room in ROOMS:  # what was announced nowhere is found by the next announcement; so is a higher beginning
                self.publish(room)
            self.settle()
        assert self.even(), [
            (reader.account.room, reader.account.position, reader.properties.values, reader.properties.position)
            for reader in self.readers
        ]
        logged = [number for (_, position), number in self.log.items() if self.is_now(position)]
        assert len(logged) == len(set(logged)), "doubled"
        assert set(self.acknowledged) <= set(logged), "lost"


class LedgerTests(SynchronousTestCase):
    """Interleavings of publish, join, poll, drain, stall, trim and restart."""

    @settings(
        max_examples=RUNS, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=False
    )
    @given(st.binary(min_size=8, max_size=96))
    def test_ledger_balances(self, steps: bytes) -> None:
        """Nothing acknowledged is lost, nothing is seen twice or out of order, and no gap is silent."""
        self._check(World(), steps)

    @settings(
        max_examples=RUNS // 4, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=False
    )
    @given(st.binary(min_size=8, max_size=96))
    def test_two_nodes_balance(self, steps: bytes) -> None:
        """The same for clients who are now with one node and now with another, whatever these tell each other."""
        world = World(nodes=2)
        for kind in (SocketReader, SocketReader, PollReader):
            world.steps += 1
            world.readers.append(kind(world, ROOMS[0]))
            world.readers[-1].connect(1)
            world.some_node().settle()
        self._check(world, steps)

    def _check(self, world: World, steps: bytes) -> None:
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
