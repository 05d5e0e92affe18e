"""A daemon that is killed again and again under load, and the accounts of everyone who wrote and read meanwhile."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Coroutine
from typing import Any

import treq
from autobahn.exception import Disconnected
from twisted.internet import error, reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, RequestNotSent, RequestTransmissionFailed, ResponseFailed
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from tests.clients import Client, EventClient, PollClient, SocketClient
from tests.functional.daemon import NO_LIMITS, DaemonTestCase

ROOM = "lobby"
WINDOW = 8


class Unavailable(Exception):
    """The server says that trying again may help."""


# What a client of a server that is killed, that stops or that is not there yet meets.
GONE = (
    *(error.ConnectError, error.ConnectionClosed, Unavailable),
    *(RequestNotSent, RequestTransmissionFailed, ResponseFailed),  # it ended before, while or after it was asked
)


@implementer(IAgentEndpointFactory)
class Direct:
    """Connects at once, or fails at once: Agent's own endpoints take their time for a second address."""

    def endpointForURI(self, uri: URI) -> TCP4ClientEndpoint:  # noqa: N802
        return TCP4ClientEndpoint(reactor, "127.0.0.1", uri.port, timeout=5)


def make_agent() -> tuple[Any, HTTPConnectionPool]:
    """An agent and its connections, which are given up where they break."""
    pool = HTTPConnectionPool(reactor)
    pool.retryAutomatically = False
    return Agent.usingEndpointFactory(reactor, Direct(), pool), pool


async def pause(seconds: float = 0.02) -> None:
    """Let others run, before the same is tried again."""
    await deferLater(reactor, seconds, lambda: None)


class RestartLedger:
    """What was attempted in a room, and what was acknowledged.

    :ivar attempted: the keys, in no order that matters.
    :ivar acknowledged: positions by key.
    :ivar on_acknowledged: called at each acknowledgement.
    """

    def __init__(self) -> None:
        self.attempted: set[str] = set()
        self.acknowledged: dict[str, str] = {}
        self.moved: list[str] = []
        self.repeated = 0
        self.is_open = True
        self.on_acknowledged: Callable[[], None] = lambda: None

    def acknowledge(self, key: str, position: str) -> None:
        """A publish was acknowledged, perhaps again."""
        if key in self.acknowledged:
            self.repeated += 1
            if self.acknowledged[key] != position:
                self.moved.append(f"{key}: {self.acknowledged[key]} and then {position}")
        else:
            self.acknowledged[key] = position
        self.on_acknowledged()

    @property
    def pending(self) -> int:
        """How many publishes have no acknowledgement."""
        return len(self.attempted) - len(self.acknowledged)


class Writer:
    """Publishes with keys, as fast as is acknowledged, and again with the same key what is not.

    After each connection that was lost it also publishes again what was acknowledged last.

    :ivar heard: how many acknowledgements have come to it.
    """

    stopped = False

    def __init__(self, name: str, ledger: RestartLedger, port: int) -> None:
        self.name = name
        self.ledger = ledger
        self.port = port
        self.number = 0
        self.heard = 0
        self.pending: dict[str, int] = {}

    def next(self) -> str:
        """The key of a new message."""
        self.number += 1
        key = f"{self.name}-{self.number}"
        self.ledger.attempted.add(key)
        self.pending[key] = self.number
        return key

    def data(self, key: str) -> dict[str, Any]:
        """What the message with a key says."""
        return {"text": key, "padding": "x" * (len(key) * 37 % 400)}

    def acknowledged(self, key: str, position: str) -> None:
        """A publish was acknowledged."""
        self.pending.pop(key, None)
        self.heard += 1
        self.ledger.acknowledge(key, position)

    @property
    def last(self) -> list[str]:
        """The key that was acknowledged last, if any was."""
        key = f"{self.name}-{self.number - len(self.pending)}"
        return [key] if key in self.ledger.acknowledged else []

    async def run(self) -> None:
        """Write until the ledger is closed and each publish is acknowledged."""
        while not self.stopped and (self.ledger.is_open or self.pending):
            try:
                await self.write([*self.last, *self.pending])
            except GONE:
                await pause()

    async def write(self, again: list[str]) -> None:
        """Write on one connection, first what has to be written again."""
        raise NotImplementedError


class _Publisher(SocketClient):
    """A connection of a writer: each reply goes to it, and nothing is kept."""

    writer: SocketWriter

    def take(self, event: dict[str, Any]) -> None:
        self.writer.replied(event)
        self.notice()


class SocketWriter(Writer):
    """Publishes over a WebSocket, some at a time."""

    client: str | None = None

    async def write(self, again: list[str]) -> None:
        self.connection = _Publisher(reactor, self.port)
        self.connection.writer = self
        await self.connection.connect()
        try:
            await self.converse(again)
        finally:
            await self.connection.stop()

    async def converse(self, again: list[str]) -> None:
        """Write until the connection is lost, or there is nothing more to write."""
        self.connection.send(type="hello", v=1, id="hello", **({} if self.client is None else {"client": self.client}))
        # A key is a user's own: nothing may be published before it is known who that is.
        await self.connection.until(lambda: not self.connection.open or self.client is not None)
        for key in again:
            self.publish(key)
        self.fill()
        await self.connection.until(lambda: not self.connection.open or not self.pending)

    def fill(self) -> None:
        """Publish as many as may wait for their acknowledgement."""
        while self.ledger.is_open and self.connection.open and len(self.pending) < WINDOW:
            self.publish(self.next())

    def publish(self, key: str) -> None:
        """Send one publish, unless the connection is being closed: it is sent again on the next one."""
        with contextlib.suppress(Disconnected):
            self.connection.send(type="publish", room=ROOM, data=self.data(key), key=key, id=key)

    def replied(self, event: dict[str, Any]) -> None:
        """A reply has come."""
        if event["type"] == "welcome":
            self.client = event["client"]
        elif event["type"] == "published":
            self.acknowledged(event["id"], event["position"])
            self.fill()
        elif event["type"] != "goodbye" and event.get("code") != "stopping":
            raise AssertionError(f"unexpected: {event}")


class HTTPWriter(Writer):
    """Publishes by requests, one after the other."""

    async def write(self, again: list[str]) -> None:
        self.agent, pool = make_agent()
        try:
            for key in again:
                self.acknowledged(key, await self.publish(key))
            while self.ledger.is_open:
                key = self.next()
                self.acknowledged(key, await self.publish(key))
        finally:
            await pool.closeCachedConnections()

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Status and JSON of the answer to a POST."""
        url = f"http://127.0.0.1:{self.port}/{path}"
        response = await treq.post(url, json=body, headers=headers, agent=self.agent, timeout=20)
        answer = json.loads(await response.content())
        if response.code == 503:
            raise Unavailable(answer["message"])
        return response.code, answer

    async def publish(self, key: str) -> str:
        """Publish, and give the position."""
        raise NotImplementedError


class RoomsWriter(HTTPWriter):
    """Publishes by ``POST /rooms/…``, as anonymous."""

    async def publish(self, key: str) -> str:
        new = key not in self.ledger.acknowledged
        status, answer = await self.post(f"rooms/{ROOM}/messages", {"data": self.data(key), "key": key})
        assert status in ((200, 201) if new else (200,)), (status, answer)
        return str(answer["position"])


class CommandsWriter(HTTPWriter):
    """Publishes by ``POST /commands``, always as the same client."""

    client: str | None = None

    async def publish(self, key: str) -> str:
        if self.client is None:
            _, welcome = await self.post("commands", {"type": "hello", "v": 1})
            self.client = welcome["client"]
        command = {"type": "publish", "room": ROOM, "data": self.data(key), "key": key}
        _, answer = await self.post("commands", command, **{"Realtime-Client": self.client})
        assert answer["type"] == "published", answer
        return str(answer["position"])


class ReaderRecord:
    """What one reader has received, what it was told it has missed, and what is wrong with it.

    :ivar received: keys by offset.
    :ivar told: the offsets that it was told are gone.
    :ivar too_early: how many of them may still have been there then.
    """

    def __init__(self, ledger: RestartLedger, history: int) -> None:
        self._ledger = ledger
        self._history = history
        self.at = 0
        self.too_early = 0
        self.received: dict[int, str] = {}
        self.told: list[range] = []
        self.doubled = self.out_of_order = self.silent = 0

    def take(self, event: dict[str, Any]) -> None:
        """Enter an event."""
        offset = int(event.get("position", "x:-1").split(":")[1])
        if event["type"] == "message":
            self._received(offset, event["key"])
        elif event["type"] == "reset" or (event["type"] == "joined" and not event["recovered"]):
            self.told.append(range(self.at + 1, offset + 1))
            self.too_early += max(0, offset - (len(self._ledger.attempted) - self._history))
            self.at = offset
        elif event["type"] == "joined":
            self.silent += abs(offset - self.at)

    def _received(self, offset: int, key: str) -> None:
        if offset == self.at + 1:
            self.received[offset] = key
        elif offset in self.received:
            self.doubled += 1
        elif offset <= self.at:
            self.out_of_order += 1
        else:
            self.silent += offset - self.at - 1
            self.received[offset] = key
        self.at = max(self.at, offset)

    def balance(self, log: dict[int, str]) -> dict[str, int]:
        """The whole account, against what is left of the log: keys by offset."""
        gone = {offset for part in self.told for offset in part}
        return {
            "received": len(self.received),
            "told": len(gone),
            "lost": len(set(range(1, max(log) + 1)) - set(self.received) - gone),
            "doubled": self.doubled,
            "out_of_order": self.out_of_order,
            "silent": self.silent,
            "too_early": self.too_early,
            "other": sum(log.get(offset, key) != key for offset, key in self.received.items()),
        }


class Reader(Client):
    """Reads a room over any number of connections, from its position on; all of it that it can get."""

    account: ReaderRecord
    stopped = False

    def begin(self, position: str, account: ReaderRecord) -> None:
        """Say where to start."""
        self.position = position
        self.account = account

    def take(self, event: dict[str, Any]) -> None:
        self.account.take(event)
        super().take(event)
        self.events.clear()
        self.messages.clear()

    async def run(self, stays_away: Callable[[int], bool] = lambda at: False) -> None:
        """Read until stopped.

        :param stays_away: whether to wait with coming back, at an offset.
        """
        while not self.stopped:
            try:
                await self.read()
            except GONE:
                await pause()
            while stays_away(self.account.at):
                await pause()

    async def read(self) -> None:
        """Read till the connection is lost."""
        raise NotImplementedError


class SocketReader(Reader, SocketClient):
    """A reader on WebSockets."""

    async def read(self) -> None:
        await self.connect({"room": ROOM, "since": self.position, "last": 1000})
        try:
            await self.until(lambda: not self.open)
        finally:
            await SocketClient.stop(self)

    async def stop(self) -> None:
        self.stopped = True
        await SocketClient.stop(self)


class PollReader(Reader, PollClient):
    """A reader by long poll."""

    def begin(self, position: str, account: ReaderRecord) -> None:
        super().begin(position, account)
        self._agent, self._pool = make_agent()

    async def read(self) -> None:
        while not self.stopped:
            answer = await self.get("poll", room=ROOM, since=self.position, last=1000, wait=2)
            if answer["type"] != "poll":
                raise Unavailable(answer)
            self.client = answer["client"]
            for event in answer["events"]:
                self.take(event)
            self.position = answer["positions"][ROOM]

    async def run(self, stays_away: Callable[[int], bool] = lambda at: False) -> None:
        try:
            await super().run(stays_away)
        finally:
            await PollClient.stop(self)

    async def stop(self) -> None:
        self.stopped = True


class EventReader(Reader, EventClient):
    """A reader of event streams, which goes on where the last id says, as a browser does."""

    async def read(self) -> None:
        last_id = (self.stream and self.stream.last_id) or self.position
        stream = await self.connect({"room": ROOM, "last": 1000}, f"Last-Event-ID: {last_id}")
        try:
            if not stream.is_stream:
                raise Unavailable(stream.text)
            await stream.until(lambda: stream.lost)
        finally:
            await self.close()

    async def stop(self) -> None:
        self.stopped = True
        await EventClient.stop(self)


KINDS: tuple[type[Reader], ...] = (SocketReader, PollReader, EventReader)
READERS = 2 * KINDS
WRONG = ("lost", "doubled", "out_of_order", "silent", "too_early", "other")


class LedgerTestCase(DaemonTestCase):
    """Tests of a daemon whose writers and readers keep a ledger."""

    _log = Logger()

    async def begin(self, history: int) -> None:
        """Start a daemon, and its writers."""
        self.history = history
        self.ledger = RestartLedger()
        self.under_way: list[int] = []
        self.tasks: list[Deferred[None]] = []
        self.failures: list[Failure] = []
        self.writers: list[Writer] = []
        self.readers: list[Any] = []
        self.addCleanup(self.end)
        self.server = await self.started("--history", str(history), *NO_LIMITS)
        self.writers = [
            SocketWriter("ws1", self.ledger, self.server.port),
            SocketWriter("ws2", self.ledger, self.server.port),
            RoomsWriter("rooms", self.ledger, self.server.port),
            CommandsWriter("commands", self.ledger, self.server.port),
        ]
        for writer in self.writers:
            self.go(writer.run())
        await self.acknowledged(1)
        self.readers = [self.reader(kind) for kind in READERS]

    def reader(self, kind: type[Reader]) -> Any:
        """A reader who has nothing yet."""
        reader = kind(reactor, self.server.port, ROOM)
        epoch = next(iter(self.ledger.acknowledged.values())).split(":")[0]
        reader.begin(f"{epoch}:0", ReaderRecord(self.ledger, self.history))
        return reader

    def go(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> None:
        """Let something run beside the test, and fail where it fails."""
        self.tasks.append(Deferred.fromCoroutine(coroutine).addErrback(self._failed))

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self.failures.append(failure)
            self.ledger.on_acknowledged()

    async def end(self) -> None:
        """Stop whatever still runs."""
        for client in [*self.writers, *self.readers]:
            client.stopped = True
        for task in self.tasks:
            task.cancel()
        await gatherResults(self.tasks)

    async def acknowledged(self, more: int, then: Callable[[], None] = lambda: None) -> None:
        """Wait for so many more acknowledgements, some to each writer; do something in the turn of the last one."""
        target = len(self.ledger.acknowledged) + more
        heard = {writer: writer.heard + 3 for writer in self.writers}
        reached: Deferred[None] = Deferred()

        def look() -> None:
            enough = all(writer.heard >= heard[writer] for writer in self.writers)
            if not reached.called and (self.failures or (enough and len(self.ledger.acknowledged) >= target)):
                then()
                reached.callback(None)

        self.ledger.on_acknowledged = look
        await reached.addTimeout(30, reactor)
        self.assertEqual([], self.failures)

    async def close(self) -> dict[int, str]:
        """Let the writers finish and the readers read to the end; give the log: keys by offset."""
        self.ledger.is_open = False
        await gatherResults(self.tasks[: len(self.writers)]).addTimeout(30, reactor)
        log = await deferToThread(self.read_log)
        for reader in self.readers:
            await reader.until(lambda reader=reader: self.failures or reader.account.at >= max(log))
            await reader.stop()
        await gatherResults(self.tasks).addTimeout(30, reactor)
        self.assertEqual([], self.failures)
        return log

    def read_log(self) -> dict[int, str]:
        """All that is kept, page by page; each offset follows the one before."""
        log: dict[int, str] = {}
        page = self.server.get(f"rooms/{ROOM}/messages?limit=1")
        epoch, top = page["top"].split(":")
        offset = max(0, int(top) - self.history)
        while offset < int(top):
            page = self.server.get(f"rooms/{ROOM}/messages?since={epoch}:{offset}&limit=700")
            self.assertTrue(page["recovered"] and page["messages"], f"nothing after {offset}")
            for message in page["messages"]:
                offset += 1
                self.assertEqual(f"{epoch}:{offset}", message["position"], "a hole in the log")
                log[offset] = message["key"]
        return log

    def assert_ledger_balances(self, log: dict[int, str]) -> None:
        """What was attempted, what was acknowledged and what is in the log are the same, at the same positions."""
        ledger = self.ledger
        places = {int(place.split(":")[1]): key for key, place in ledger.acknowledged.items()}
        self.assertEqual([], ledger.moved)
        self.assertEqual(ledger.attempted, set(ledger.acknowledged))
        self.assertEqual(len(places), len(ledger.acknowledged), "two messages were acknowledged at one position")
        self.assertEqual(len(log), len(set(log.values())), "a key is in the log twice")
        self.assertEqual(set(range(1, max(log) + 1)), set(places))
        self.assertEqual(log, {offset: places[offset] for offset in log})

    def assert_balanced(self, log: dict[int, str]) -> None:
        """Every reader's account balances."""
        accounts = [reader.account.balance(log) for reader in self.readers]
        self._log.info("{ledger}", ledger=self.report(log, accounts))
        for account in accounts:
            self.assertEqual(max(log), account["received"] + account["told"], accounts)
            self.assertEqual({0}, {account[what] for what in WRONG}, accounts)

    def report(self, log: dict[int, str], accounts: list[dict[str, int]]) -> str:
        """The figures."""
        ledger = self.ledger
        return (
            f"{len(self.under_way)} kills, with so many publishes under way: {self.under_way}; "
            f"attempted {len(ledger.attempted)}, acknowledged {len(ledger.acknowledged)}, again {ledger.repeated}; "
            f"in the log {len(log)} of {max(log)}; {accounts}"
        )


class RestartTests(LedgerTestCase):
    """``kill -9`` in the middle of everything."""

    async def kill(self, after: int) -> None:
        """Kill the daemon at an acknowledgement, and start it again."""
        await self.acknowledged(after, self.server.kill)
        self.under_way.append(self.ledger.pending)
        await deferToThread(self.server.start)

    async def test_twenty_kills(self) -> None:
        """Killed twenty times under load: each acknowledged message is stored once, and read once and in order."""
        await self.begin(history=1_000_000)
        for reader in self.readers:
            self.go(reader.run())
        for _ in range(20):
            await self.kill(after=random.randrange(30, 200))
        log = await self.close()
        self.assert_ledger_balances(log)
        self.assert_balanced(log)
        self.assertEqual([0] * len(READERS), [len(reader.account.told) for reader in self.readers])
        self.assertGreater(min(self.under_way), 0)
        self.assertGreaterEqual(self.ledger.repeated, 20 * len(self.writers))

    async def test_kills_with_little_history(self) -> None:
        """Who stays away for longer than the history lasts is told exactly what is gone, also over kills."""
        await self.begin(history=100)
        late = self.readers[len(KINDS) :]
        for reader in self.readers:
            self.go(reader.run(self.stays_away if reader in late else lambda at: False))
        for _ in range(6):
            await self.kill(after=random.randrange(450, 550))
        log = await self.close()
        self.assertEqual(100, len(log))
        self.assert_ledger_balances(log)
        self.assert_balanced(log)
        told = [len(reader.account.told) for reader in late]
        self.assertGreaterEqual(min(told), 3, told)

    def stays_away(self, at: int) -> bool:
        """Until the room has moved on by much more than its history."""
        return self.ledger.is_open and len(self.ledger.acknowledged) < at + 3 * self.history
