"""Collaborators for tests without sockets: transports that collect, and a store that answers when it is told to."""

from __future__ import annotations

import contextlib
import gc
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from zope.interface import implementer

from realtime_chat import composition
from realtime_chat.broker.local import LocalBroker
from realtime_chat.core.command_session import CommandSession
from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import Identity
from realtime_chat.core.interfaces import IBroker, Listener
from realtime_chat.values.codec import Entry
from realtime_chat.values.errors import Goodbye, StoreError
from realtime_chat.values.limits import Limits
from realtime_chat.values.model import ForwardedCommand, Message, Position, RemoteClient
from realtime_chat.values.rates import DEFAULTS, RateLimits, ScopeLimits


def tokens(seed: int = 0) -> Callable[[int], bytes]:
    """Repeatable randomness."""
    return random.Random(seed).randbytes


class Batch:
    """Messages of one room, for :class:`FakeTransport`."""

    def __init__(self, entries: Sequence[Any]) -> None:
        self.entries = entries
        self.count = len(entries)


class FakeFanout:
    """Counters how often messages are encoded."""

    name = "fake"

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, room: str, epoch: str, entries: Sequence[Entry]) -> Batch:
        self.encoded += len(entries)
        return Batch(entries)

    def encode_event(self, kind: str, data: bytes) -> Batch:
        return Batch([SimpleNamespace(json=data)])

    def send(self, batch: Batch, readers: Any, first: Any = ()) -> list[tuple[Any, int]]:
        sent = [(reader, reader.transport.send_batch(batch)) for reader in dict.fromkeys((*first, *readers))]
        return [(reader, taken) for reader, taken in sent if reader.transport.write_paused]


FANOUT = FakeFanout()


class FakeTransport:
    """Takes messages until its window is used up; everything that it took stands in ``received``, decoded."""

    def __init__(self, window: int | None = None, fanout: FakeFanout = FANOUT) -> None:
        self.fanout = fanout
        self.window = window
        self.write_paused = False
        self.received: list[dict[str, Any]] = []
        self.held: list[bytes] = []
        self.said_goodbye: Goodbye | None = None
        self.commands_resumed = 0
        self.queued = 0
        self.direct_send = None
        self.on_caught_up = None

    def send(self, data: bytes) -> None:
        self.flush_replies()
        self.received.append(json.loads(data))

    def buffer_reply(self, data: bytes) -> None:
        self.held.append(data)

    def flush_replies(self) -> None:
        held, self.held = self.held, []
        self.received += map(json.loads, held)

    def send_event(self, kind: str, data: bytes) -> None:
        self.send(data)

    def send_batch(self, batch: Batch) -> int:
        if self.write_paused or self.said_goodbye:
            return 0
        self.flush_replies()
        taken = batch.count if self.window is None else min(batch.count, self.window)
        self.received += [json.loads(entry.json) for entry in batch.entries[:taken]]
        if self.window is not None:
            self.window -= taken
            self.write_paused = taken < batch.count
        return taken

    def reset(self, room: str, position: Position) -> None:
        self.received.append({"type": "reset", "room": room, "position": str(position)})

    def resume_commands(self) -> None:
        self.commands_resumed += 1

    def goodbye(self, goodbye: Goodbye) -> None:
        self.said_goodbye = goodbye

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """What was received of one type."""
        return [event for event in self.received if event["type"] == kind]


class HeldSessions:
    """The records of sockets in a :class:`HeldStore`: changes take effect in order with the appends."""

    def __init__(self, held: HeldStore, sessions: Any) -> None:
        self._held = held
        self._sessions = sessions

    def put(self, key: str, record: bytes, connected: bool) -> Deferred[None]:
        return self._held.append(lambda: self._sessions.put(key, record, connected))

    def get(self, key: str) -> Deferred[bytes | None]:
        return self._held.read(lambda: self._sessions.get(key))

    def remove(self, key: str) -> Deferred[None]:
        return self._held.append(lambda: self._sessions.remove(key))


class HeldStore:
    """A store in front of another that answers when it is told to.

    Appends take effect and answer in order, each at a moment of its own; a read sees what had taken effect at the
    moment that :meth:`look` says, and answers later.
    """

    def __init__(self, store: Any, on_commit: Callable[[Any], Any] = lambda stored: stored) -> None:
        self._store = store
        self._on_commit = on_commit
        self.secret = store.secret
        self.watch = store.watch
        self.sessions = HeldSessions(self, store.sessions)
        self.appends: list[tuple[Any, Deferred[Any]]] = []
        self.committed: list[tuple[Any, Deferred[Any]]] = []
        self.looks: list[tuple[Callable[[], Deferred[Any]], Deferred[Any]]] = []
        self.found: list[tuple[Deferred[Any], Deferred[Any]]] = []

    def append(self, draft: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.appends.append((draft, answer))
        return answer

    def read_after(self, *args: Any) -> Deferred[Any]:
        return self.read(lambda: self._store.read_after(*args))

    def read_before(self, *args: Any) -> Deferred[Any]:
        return self.read(lambda: self._store.read_before(*args))

    def read(self, look: Callable[[], Deferred[Any]]) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.looks.append((look, answer))
        return answer

    def commit(self) -> None:
        """Let the next append take effect."""
        if self.appends:
            draft, answer = self.appends.pop(0)
            result = draft() if callable(draft) else self._store.append(draft).addCallback(self._on_commit)
            self.committed.append((result, answer))

    def acknowledge(self) -> None:
        """Answer the next append that took effect."""
        if self.committed:
            result, answer = self.committed.pop(0)
            result.addCallbacks(answer.callback, answer.errback)

    def look(self, index: int) -> None:
        """Let one of the reads see the store as it is now."""
        if self.looks:
            look, answer = self.looks.pop(index % len(self.looks))
            self.found.append((look(), answer))

    def answer(self, index: int) -> None:
        """Answer one of the reads that have looked."""
        if self.found:
            result, answer = self.found.pop(index % len(self.found))
            result.addCallbacks(answer.callback, answer.errback)

    def fail_read(self) -> None:
        """Let the next read fail."""
        if self.looks:
            _, answer = self.looks.pop(0)
            answer.errback(StoreError("the disk is away"))

    def settle(self) -> None:
        """Let everything happen that is under way."""
        while self.appends or self.committed or self.looks or self.found:
            self.commit()
            self.acknowledge()
            self.look(0)
            self.answer(0)


@implementer(IBroker)
class HeldBroker:
    """One node's end of a broker that brings things when it is told to, perhaps twice, in another order, or not at all.

    What it loses it loses as a broker may: it is away then, and when it is back it says which rooms are in doubt.
    """

    shared = True

    def __init__(self) -> None:
        self.listener: Listener | None = None
        self.followed: dict[str, None] = {}
        self.asked: list[tuple[str, Deferred[None]]] = []
        self.held: list[tuple[str, Callable[[Listener], None]]] = []
        self.signals: list[tuple[str, str, bytes]] = []
        self.away = False

    def describe(self) -> str:
        return "held"

    def start(self, listener: Listener) -> Deferred[None]:
        self.listener = listener
        return succeed(None)

    def stop(self) -> Deferred[None]:
        self.listener = None
        return succeed(None)

    def count(self, rooms: Sequence[str]) -> Deferred[Sequence[int]]:
        return succeed([0] * len(rooms))

    def follow(self, room: str) -> Deferred[None]:
        if self.away:
            return fail(StoreError("the broker is away"))
        answer: Deferred[None] = Deferred()
        self.asked.append((room, answer))
        return answer

    def unfollow(self, room: str) -> None:
        del self.followed[room]

    def signal(self, room: str, client_hash: str, data: bytes) -> None:
        self.signals.append((room, client_hash, data))

    def publish_presence(self, room: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        pass

    def forward(self, command: ForwardedCommand) -> None:
        pass

    def announce(self, messages: Sequence[Message]) -> None:
        """A log has grown somewhere."""
        first = messages[0]
        self.bring(
            first.room,
            lambda listener: listener.announced(
                first.room, first.position.epoch, first.position.offset, len(messages), lambda: messages
            ),
        )

    def bring(self, room: str, news: Callable[[Listener], None]) -> None:
        """Something happens in a room."""
        if room in self.followed and not self.away:
            self.held.append((room, news))

    def subscribe(self) -> None:
        """Let the next room that is to be followed be followed."""
        if self.asked:
            room, answer = self.asked.pop(0)
            self.followed[room] = None
            answer.callback(None)

    def deliver(self, index: int, again: bool = False) -> None:
        """Bring something of what is held."""
        if self.held:
            index %= len(self.held)
            room, news = self.held[index]
            if not again:
                del self.held[index]
            if room in self.followed and self.listener is not None:
                news(self.listener)

    def lose(self) -> None:
        """The connection is lost, and with it all that is under way."""
        self.away = True
        self.held.clear()
        asked, self.asked = self.asked, []
        for _, answer in asked:
            answer.errback(StoreError("the broker is away"))

    def come_back(self) -> None:
        """There is a connection again."""
        if self.away:
            self.away = False
            for room in list(self.followed):
                if self.listener is not None:
                    self.listener.may_have_missed(room)


class Recorder:
    """A listener that writes down what it is told.

    :ivar told: what and with which arguments; of announcements the messages, decoded.
    """

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def announced(self, room: str, epoch: str, first: int, count: int, read: Callable[[], Sequence[Message]]) -> None:
        self.told.append(("announced", room, epoch, first, count, list(read())))

    def may_have_missed(self, room: str) -> None:
        self.told.append(("may_have_missed", room))

    def signalled(self, room: str, client_hash: str, data: bytes) -> None:
        self.told.append(("signalled", room, client_hash, data))

    def relayed(self, room: str, payload: bytes) -> None:
        self.told.append(("relayed", room, payload))

    @property
    def members(self) -> Recorder:
        return self

    def snapshot(self, room: str, others: Mapping[str, Sequence[RemoteClient]]) -> None:
        self.told.append(("presence_snapshot", room, others))

    def delta(self, room: str, node: str, came: Sequence[RemoteClient], gone: Sequence[str]) -> None:
        self.told.append(("presence_delta", room, node, came, gone))

    def node_snapshot(self, room: str, node: str, clients: Sequence[RemoteClient]) -> None:
        self.told.append(("node_snapshot", room, node, clients))

    def node_left(self, node: str, delay: float) -> None:
        self.told.append(("node_left", node, delay))

    def forwarded(self, command: ForwardedCommand) -> None:
        self.told.append(("forwarded", command))

    def of(self, *kinds: str) -> list[tuple[Any, ...]]:
        """What was told of these kinds."""
        return [told for told in self.told if told[0] in kinds]


class FakeRequest:
    """As much of a request as a poll needs."""

    def __init__(self, args: dict[bytes, list[bytes]], headers: dict[bytes, list[bytes]] | None = None) -> None:
        self.args = args
        self.uri = b"/?" + urlencode(args, doseq=True).encode()
        self.requestHeaders = Headers(headers)
        self.responseHeaders = Headers()
        self.content = None
        self.body = b""
        self.finished = 0
        self.startedWriting = 0
        self._disconnected = False
        self._gone: list[Deferred[None]] = []

    def notifyFinish(self) -> Deferred[None]:
        self._gone.append(Deferred())
        return self._gone[-1]

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        self.code = code

    def write(self, data: bytes) -> None:
        self.body += data

    def finish(self) -> None:
        self.finished = 1
        self._fire(None)

    def disconnect(self) -> None:
        self._disconnected = True
        self._fire(Failure(ConnectionDone()))

    def _fire(self, result: Any) -> None:
        gone, self._gone = self._gone, []
        for deferred in gone:
            deferred.callback(result)


def make_hub(
    store: Any,
    clock: Clock,
    broker: Any = None,
    time: Callable[[], float] | None = None,
    rates: RateLimits | None = None,
    **limits: Any,
) -> Hub:
    """A hub with small limits, so that tests meet them.

    :param rates: how fast clients, users and addresses may go on; None for no limit but that of signals.
    """
    broker = LocalBroker() if broker is None else broker
    time = time or (lambda: 1_795_000_000.0 + clock.seconds())
    rates = rates or RateLimits(client=ScopeLimits(signals=DEFAULTS.client.signals))
    return composition.make_hub(store, clock, Limits(**limits), time, tokens(1), broker, rate_limits=rates)


def identify(hub: Hub, client: str | None, name: str | None = None) -> Identity | None:
    """Whose client that is; None if there is none."""
    return None if client is None else hub.identities.find(client, name)


def make_session(
    hub: Hub, transport: FakeTransport | None = None, client: str | None = None, name: str | None = None
) -> CommandSession:
    """A session whose messages and replies are collected by one transport."""
    transport = FakeTransport() if transport is None else transport
    identity = identify(hub, client, name)
    return CommandSession(hub, transport, transport, identity, name)


def left_to_collect(call: Callable[[], object], times: int = 20) -> int:
    """How many objects a call leaves that only the garbage collector frees, when it is repeated so often."""
    call()  # the first one may make what stays
    with new_objects_alone():
        for _ in range(times):
            call()
        return gc.collect()


@contextlib.contextmanager
def new_objects_alone() -> Iterator[None]:
    """Let the garbage collector look at what is made in here alone, and only where it is asked to.

    All that the tests of a run have loaded and left takes it a second each time.
    """
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
