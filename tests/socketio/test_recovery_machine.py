"""Random interleavings of all that happens in a recovery namespace."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.engineio.settings import Settings
from realtime_chat.socketio import Application, Namespace, membership
from realtime_chat.socketio.stored import Stored
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from tests.fakes import HeldStore, make_hub, tokens
from tests.soak import examples
from tests.socketio.world import SocketIOClient, open_client

HISTORY = 6
AMOUNTS = (0, 0, 1, 2, 5)
ROOMS = st.sampled_from("ab")
CLIENTS = st.integers(0, 2)
WORK = st.sampled_from(AMOUNTS)
"""How much the store does after a step."""


class Chat(Namespace):
    """Has no methods: the machine uses its objects."""

    recovery = True


@attrs.define(eq=False)
class Event:
    """An event of the machine.

    :ivar number: it, and when it was emitted.
    :ivar lost: whether it was on its way when the process was killed.
    """

    number: int
    to: frozenset[str] | None
    skip: frozenset[str]
    stored: Stored
    lost: bool = False


@attrs.define(eq=False)
class Change:
    """An enter or a leave: after the event with that number."""

    after: int
    room: str
    enters: bool
    stored: Stored
    lost: bool = False


@attrs.define(eq=False)
class Stay:
    """What a client should get from one connect that was not recovered to the next.

    :ivar optional: numbers of events that were on their way when it connected.
    """

    sid: str
    begun: int
    optional: set[int]
    changes: list[Change] = attrs.Factory(list)
    seen: list[int] = attrs.Factory(list)

    def rooms(self, number: int) -> set[str]:
        """Where it was when an event was emitted."""
        rooms = {self.sid}
        for change in self.changes:
            if change.after < number and not change.lost:
                (rooms.add if change.enters else rooms.discard)(change.room)
        return rooms

    def wants(self, event: Event) -> bool:
        """Whether it should get an event."""
        rooms = self.rooms(event.number)
        return not event.lost and (event.to is None or bool(rooms & event.to)) and not rooms & event.skip


class Client:
    """A client that recovers as the official one does."""

    def __init__(self) -> None:
        self.pid: str | None = None
        self.offset: str | None = None
        self.io: SocketIOClient | None = None
        self.stay: Stay | None = None
        self.connecting: tuple[int, set[int]] | None = None
        self.recovered: bool | None = None
        self.socket: Any = None
        self.arriving: list[tuple[int, str, int | None, Any]] = []

    def lose(self) -> None:
        """Have no connection, and receive nothing more."""
        self.io = self.socket = self.connecting = None
        self.arriving = []


class RecoveryMachine(RuleBasedStateMachine):
    """Clients come, go, are slow, and come back; events are stored one by one; the process is killed.

    Each client has every event of its rooms once and in order, or is told that it was not recovered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        retention = Retention(5, namespace_count=HISTORY)
        self.store = MemoryStore(retention, self.clock.seconds, tokens(), monotonic=self.clock.seconds)
        self.clients = [Client() for _ in range(3)]
        self.events: list[Event] = []
        self.random_bytes = tokens(1)
        self.start()
        for which in range(3):
            self.connect(which, 9)

    def start(self) -> None:
        """Start a process."""
        self.held = HeldStore(self.store)
        limits = {"history": 5, "namespace_history": HISTORY, "page_messages": 4, "page_bytes": 300, "tail_bytes": 700}
        self.hub = make_hub(self.held, self.clock, **limits)
        self.app = Application({"/chat": Chat})
        self.accept = self.app.acceptor(self.hub, Settings(), self.random_bytes)

    def turn(self) -> None:
        """Let a turn of the reactor end. What was sent is on its way to the clients."""
        self.clock.advance(0.02)
        for client in self.clients:
            if client.io is not None:
                client.arriving += client.io.packets()

    def work(self, times: int) -> None:
        """Let the store do the first things that it was asked for."""
        for _ in range(times):
            self.held.commit()
            self.held.acknowledge()
            self.held.look(0)
            self.held.answer(0)
            self.turn()

    # What clients do

    @rule(which=CLIENTS, work=WORK)
    def connect(self, which: int, work: int) -> None:
        """A client connects, for the first time or again."""
        client = self.clients[which]
        if client.io is not None:
            return
        client.connecting = len(self.events), {event.number for event in self.events if not event.stored.is_done}
        client.io = open_client(self.accept, self.hub, f"sid{which}", partial(self.clock.advance, 0))
        auth = {name: value for name, value in (("pid", client.pid), ("offset", client.offset)) if value is not None}
        client.io.send(f"0/chat,{json.dumps(auth)}")
        self.work(work)

    def receive(self, client: Client, most: int = 1_000_000) -> None:
        """Let a client receive so many packets."""
        self.turn()
        if client.io is None:
            return
        if client.io.closed is not None:
            most = len(client.arriving)
        arrived, client.arriving = client.arriving[:most], client.arriving[most:]
        for type, _, _, data in arrived:
            if type == 0:
                self.connected(client, data["sid"], data["pid"])
            else:
                assert type == 2, data
                assert client.stay is not None
                client.offset = data[-1]
                if data[0] == "number":
                    client.stay.seen.append(data[1])
        if client.io.closed is not None:
            client.lose()

    def connected(self, client: Client, sid: str, pid: str) -> None:
        """The answer to a CONNECT has come."""
        assert client.connecting is not None
        begun, in_flight = client.connecting
        client.recovered = client.pid == pid
        socket: Any = self.app.of("/chat")._index.sockets.get(sid)
        if socket is not None:
            client.socket = socket._application
            assert client.recovered == client.socket.recovered
        if client.recovered:
            assert client.stay is not None
            assert client.stay.sid == sid
            rooms = client.stay.rooms(len(self.events) + 1) - {sid}
            assert socket is None or rooms == socket.rooms, (rooms, socket.rooms)
        else:
            client.stay = Stay(sid, begun, in_flight | set(range(begun + 1, len(self.events) + 1)))
        client.pid = pid
        client.connecting = None

    @rule(which=CLIENTS, received=st.integers(0, 3) | st.just(99), work=WORK)
    def lose(self, which: int, received: int, work: int) -> None:
        """A client loses its connection, perhaps before it has received all that was sent."""
        client = self.clients[which]
        if client.io is not None:
            self.receive(client, received)
        if client.io is not None:
            client.io.connection.close("transport close")
            client.lose()
        self.work(work)

    @rule(which=CLIENTS, received=st.integers(0, 3) | st.just(99), work=WORK)
    def reconnect(self, which: int, received: int, work: int) -> None:
        """A client connects anew, while the server doesn't know yet that its connection is lost."""
        client = self.clients[which]
        if client.io is not None and client.connecting is None:
            self.receive(client, received)
            client.lose()
            self.connect(which, work)

    @rule(which=CLIENTS, most=st.integers(1, 3) | st.just(99))
    def arrive(self, which: int, most: int) -> None:
        """A client receives what was sent, or some of it."""
        self.receive(self.clients[which], most)

    @rule(which=CLIENTS, pauses=st.booleans())
    def pace(self, which: int, pauses: bool) -> None:
        """A client stops or goes on reading."""
        io = self.clients[which].io
        if io is not None:
            (io.pause if pauses else io.resume)()
            self.turn()

    # What the application does

    @rule(which=CLIENTS, room=ROOMS, work=WORK)
    def move(self, which: int, room: str, work: int) -> None:
        """A socket enters a room, or leaves it if it is in it."""
        client = self.clients[which]
        if client.socket is None:
            return
        enters = room not in client.socket.rooms
        stored = client.socket.enter(room) if enters else client.socket.leave(room)
        assert client.stay is not None
        client.stay.changes.append(Change(len(self.events), room, enters, stored))
        self.work(work)

    @rule(
        to=st.none() | st.sets(ROOMS, min_size=1),
        skip=st.sets(ROOMS, max_size=1),
        own=st.none() | CLIENTS,
        count=st.integers(1, 4),
        work=WORK,
    )
    def emit(self, to: set[str] | None, skip: set[str], own: int | None, count: int, work: int) -> None:
        """Something is emitted: to rooms or all, and perhaps to one socket besides."""
        broadcast = self.app.of("/chat").skip(*skip)
        names = None if to is None else frozenset(to)
        if own is not None and (stay := self.clients[own].stay) is not None:
            names = (names or frozenset()) | {stay.sid}
        if names is not None:
            broadcast = broadcast.to(*sorted(names))
        for _ in range(count):
            number = len(self.events) + 1
            self.events.append(Event(number, names, frozenset(skip), broadcast.emit("number", number)))
        self.work(work)

    @rule()
    def emit_volatile(self) -> None:
        """Something is emitted that may get lost."""
        self.app.of("/chat").emit("volatile", volatile=True)
        self.turn()

    # What the store does

    @rule(steps=st.lists(st.sampled_from(("commit", "acknowledge", "look", "answer", "turn")), min_size=1, max_size=6))
    def progress(self, steps: list[str]) -> None:
        """Some of what the store was asked for happens."""
        for step in steps:
            if step == "turn":
                self.turn()
            elif step in ("look", "answer"):
                getattr(self.held, step)(0)
            else:
                getattr(self.held, step)()

    @rule()
    def settle(self) -> None:
        """Everything happens that is under way. Then a client that reads has all."""
        for _ in range(100):
            self.held.settle()
            self.turn()
            if not (self.held.appends or self.held.committed or self.held.looks or self.held.found):
                break
        for client in self.clients:
            self.receive(client)
            if client.io is not None and client.io.transport.writable:
                assert client.stay is not None
                missing = self.wanted(client.stay) - set(client.stay.seen) - client.stay.optional
                assert not missing, (missing, client.stay)

    @precondition(lambda self: len(self.events) % 3 == 0)
    @rule(which=CLIENTS, missed=st.integers(0, 3))
    def come_back(self, which: int, missed: int) -> None:
        """A client that was away for a moment is recovered."""
        client = self.clients[which]
        self.settle()
        if client.socket is None or client.io is None or not client.io.transport.writable:
            return
        self.lose(which, 99, 0)
        self.emit(None, set(), None, missed, 0)
        self.settle()
        self.connect(which, 0)
        self.settle()
        assert client.recovered, self.app.counters.recoveries

    @precondition(lambda self: self.events)
    @rule()
    def kill(self) -> None:
        """The process is killed. What had taken effect is in the store, and nothing else."""
        while self.held.committed:
            self.held.acknowledge()
        for client in self.clients:
            self.receive(client)
            client.lose()
        for event in self.events:
            event.lost |= not event.stored.is_done
        for stay in [client.stay for client in self.clients if client.stay is not None]:
            before = self.wanted(stay)
            for change in stay.changes:
                change.lost |= not change.stored.is_done
            stay.optional |= before ^ self.wanted(stay)  # of these some were sent, as nobody awaited the change
        self.start()

    def wanted(self, stay: Stay) -> set[int]:
        """The numbers of the events that a client should get."""
        return {event.number for event in self.events[stay.begun :] if stay.wants(event)}

    @invariant()
    def in_order(self) -> None:
        """What a client has is what it should have, once and in order, without a gap."""
        for client in self.clients:
            if client.stay is None:
                continue
            stay, seen = client.stay, client.stay.seen
            assert seen == sorted(set(seen)), seen
            wanted = self.wanted(stay)
            assert set(seen) <= wanted | stay.optional, (seen, wanted, stay)
            last = seen[-1] if seen else 0
            assert not {number for number in wanted - stay.optional if number <= last} - set(seen), (seen, wanted, stay)


def random_step(machine: RecoveryMachine, random: Random) -> None:
    """Do something at random."""
    which, work = random.randrange(3), random.choice(AMOUNTS)
    received = random.choice((0, 1, 2, 99))
    to = random.choice((None, {"a"}, {"b"}, {"a", "b"}))
    skip: set[str] = random.choice((set(), set(), {"a"}))
    own = random.choice((None, which))
    steps: list[tuple[int, Callable[[], object]]] = [
        (8, lambda: machine.emit(to, skip, own, random.randrange(1, 4), work)),
        (6, lambda: machine.connect(which, work)),
        (5, lambda: machine.move(which, random.choice("ab"), work)),
        (3, lambda: machine.pace(which, random.random() < 0.3)),
        (2, lambda: machine.lose(which, received, work)),
        (1, lambda: machine.reconnect(which, received, work)),
        (4, lambda: machine.work(work)),
        (8, lambda: machine.arrive(which, random.choice((1, 2, 99)))),
        (1, machine.emit_volatile),
        (1, machine.settle),
        (1, lambda: machine.come_back(which, random.randrange(4))),
        (1, machine.kill),
    ]
    (step,) = random.choices([step for _, step in steps], [weight for weight, _ in steps])
    step()
    machine.in_order()


class RecoveryMachineTests(SynchronousTestCase):
    """Random interleavings."""

    def setUp(self) -> None:
        self.patch(membership, "MAX_ENDED", 2)

    def test_machine(self) -> None:
        """Each socket has every event of its rooms once and in order, or ``recovered`` is false."""
        machine = RecoveryMachine.TestCase("runTest")
        machine.settings = settings(max_examples=examples(500), stateful_step_count=50, deadline=None)
        machine.runTest()

    def test_long_runs(self) -> None:
        """The same holds in long runs, in which more comes together."""
        for seed in range(examples(500)):
            machine, random = RecoveryMachine(), Random(seed)
            for step in range(150):
                try:
                    random_step(machine, random)
                except AssertionError as error:
                    raise AssertionError(f"seed {seed}, step {step}: {error}") from error
