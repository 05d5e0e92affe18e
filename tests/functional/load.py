"""Writers and readers of one room on many nodes, in a process of their own: ``python -m tests.functional.load PLACE``.

Each connection, and each single poll and POST, goes to a node that is drawn at random; whoever loses its connection
comes back to another one. Writers publish under keys until they are acknowledged, and readers keep accounts
(``delivery_ledger.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import sys
import time
from collections.abc import Coroutine
from typing import Any, NamedTuple

import msgspec

from tests.deadlines import DEADLINE, Stopwatch
from tests.functional.delivery_ledger import DeliveryLedger, ReaderRecord
from tests.functional.raw_clients import GONE, RawEventStream, RawHTTP, RawRedis, RawWebSocket, RedisError, Unavailable
from tests.functional.worker_process import WorkerProcess, serve
from tests.views import View

__all__ = ["Load"]

_WAIT = 4


class Place(msgspec.Struct):
    """Where the room is.

    :ivar nodes: the ports of the nodes, or of what stands before them.
    :ivar redis: Redis's port, for publishers that need no node.
    :ivar prefix: what Redis's keys begin with.
    """

    nodes: list[int]
    room: str = "lobby"
    redis: int | None = None
    prefix: str = "realtime"
    database: int = 0

    @property
    def scope(self) -> str:
        """The prefix of a database's keys."""
        return f"{self.prefix}:{self.database}"


class _Event(msgspec.Struct):
    """The fields of events and replies that are used here, of all types."""

    type: str
    id: Any = None
    position: str = ""
    key: str = ""
    code: Any = ""
    recovered: bool = True
    client: str = ""
    event: str = ""
    data: Any = None
    sender: Any = msgspec.field(default=None, name="from")
    count: int | None = None
    members: list[dict[str, Any]] | None = None
    joined: list[dict[str, Any]] | None = None
    left: list[dict[str, Any]] | None = None


class _Answer(msgspec.Struct):
    """A poll's answer, or an error."""

    type: str
    client: str = ""
    events: list[_Event] = []
    positions: dict[str, str] = {}
    presence: dict[str, str] = {}
    code: str = ""


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_answer = msgspec.json.Decoder(_Answer).decode


class Refused(Exception):
    """A publish is answered with an error."""


class _Writer:
    """Publishes with keys, several at a time. It repeats what is not acknowledged, under the same key.

    :ivar gives_up: whether what was refused as ``store_unavailable`` is not sent again.
    """

    slots = 1
    by_node = True

    def __init__(self, load: _LoadWorker, name: str, gives_up: bool) -> None:
        self.load = load
        self.ledger = load.ledger
        self.name = name
        self.gives_up = gives_up
        self.number = 0

    async def run(self) -> None:
        """Write until the ledger is closed and each publish has its answer."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.slots):
                    group.create_task(self._write())
        finally:
            self.close()

    def close(self) -> None:
        """Cut the connections."""
        raise NotImplementedError

    async def _write(self) -> None:
        while await self.load.may_write():
            self.number += 1
            await self._settle(f"{self.name}-{self.number}")

    async def _settle(self, key: str) -> None:
        """Publish a message until its result is known."""
        data = {"text": key, "padding": "x" * (len(key) * 37 % 200)}
        while True:
            self.ledger.attempt(key)
            watch = Stopwatch()
            try:
                position = await self.publish(key, data)
            except Refused:
                self._answered(watch)
                if self.gives_up:
                    self.ledger.refuse(key)
                    await asyncio.sleep(0.05)
                    return
            except GONE:
                pass
            else:
                self._answered(watch)
                self.ledger.acknowledge(key, position)
                return
            await asyncio.sleep(random.uniform(0.05, 0.2))

    def _answered(self, watch: Stopwatch) -> None:
        if self.by_node:
            self.ledger.slowest = max(self.ledger.slowest, watch.seconds())

    async def publish(self, key: str, data: dict[str, Any]) -> str:
        """Publish once; return the position.

        :raises Refused: it wasn't stored, and won't be.
        """
        raise NotImplementedError

    def check(self, answer: _Event) -> str:
        """The position in a reply."""
        if answer.type == "published":
            return answer.position
        if answer.code == "store_unavailable":
            raise Refused
        if answer.code in ("stopping", "in_doubt"):
            raise Unavailable
        self.load.fail(f"{self.name}: {answer}")
        raise Refused


class _SocketWriter(_Writer):
    """Publishes over a WebSocket."""

    slots = 8
    client = ""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._connection: RawWebSocket | None = None
        self._opening = asyncio.Lock()
        self._waiting: dict[str, asyncio.Future[_Event]] = {}

    async def publish(self, key: str, data: dict[str, Any]) -> str:
        async with self._opening:
            if self._connection is None or self._connection.lost.done():
                await self._open()
        answer = self._waiting[key] = asyncio.get_running_loop().create_future()
        self._send(type="publish", id=key, room=self.load.place.room, data=data, key=key)
        async with asyncio.timeout(DEADLINE):
            return self.check(await answer)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def _open(self) -> None:
        self._connection = await RawWebSocket.connect(self.load.node(), upgrade("/ws"), self._take)
        self._connection.lost.add_done_callback(lambda _: self._lost())
        answer = self._waiting["hello"] = asyncio.get_running_loop().create_future()
        # A key is a user's own: nothing may be published before it is known who that is.
        self._send(type="hello", id="hello", **({"client": self.client} if self.client else {}))
        async with asyncio.timeout(DEADLINE):
            welcome = await answer
        if self.client not in ("", welcome.client):
            self.load.fail(f"{self.name} is another client on another node")
        self.client = welcome.client

    def _send(self, **command: Any) -> None:
        assert self._connection is not None
        self._connection.send(msgspec.json.encode(command))

    def _take(self, payload: bytes) -> None:
        event = _decode_event(payload)
        answer = self._waiting.pop(str(event.id), None)
        if answer is not None and not answer.done():
            answer.set_result(event)

    def _lost(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError())
                answer.exception()


class _HTTPWriter(_Writer):
    """Publishes by HTTP requests, each to a different node."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._clients = _KeptConnections()

    def close(self) -> None:
        self._clients.close()

    async def post(self, path: str, body: Any, *headers: str) -> _Event:
        """Send a POST; return the reply."""
        raw = self._clients.to(self.load.node())
        status, answer = await raw.ask("POST", path, msgspec.json.encode(body), *headers)
        return self.load.read_reply(status, answer)


class _RoomsWriter(_HTTPWriter):
    """Publishes by ``POST /rooms/…``, as anonymous."""

    async def publish(self, key: str, data: dict[str, Any]) -> str:
        return self.check(await self.post(f"/rooms/{self.load.place.room}/messages", {"data": data, "key": key}))


class _CommandsWriter(_HTTPWriter):
    """Publishes by ``POST /commands``, always as the same client."""

    client = ""

    async def publish(self, key: str, data: dict[str, Any]) -> str:
        if not self.client:
            self.client = (await self.post("/commands", {"type": "hello"})).client
        command = {"type": "publish", "room": self.load.place.room, "data": data, "key": key}
        return self.check(await self.post("/commands", command, f"Realtime-Client: {self.client}"))


class _KeptConnections:
    """One persistent connection to each node."""

    def __init__(self) -> None:
        self._clients: dict[int, RawHTTP] = {}

    def to(self, port: int) -> RawHTTP:
        """The connection to a port."""
        return self._clients.setdefault(port, RawHTTP(port))

    def close(self) -> None:
        """Cut all connections."""
        for raw in self._clients.values():
            raw.close()


class _Reader:
    """Reads the room from a position on; each new connection resumes where the last one ended."""

    def __init__(self, load: _LoadWorker, name: str, position: str) -> None:
        self.load = load
        self.name = name
        self.account = ReaderRecord(load.ledger, position)
        self.view = View()
        self.client = ""
        self.signals: list[Any] = []
        self.connections = 0
        self.known = asyncio.Event()

    async def run(self) -> None:
        """Read until the process ends."""
        while True:
            with contextlib.suppress(*GONE):
                await self.read()
            await asyncio.sleep(random.uniform(0, 0.3))

    async def read(self) -> None:
        """Read until the connection ends."""
        raise NotImplementedError

    async def hang_up(self) -> None:
        """Cut the connection."""
        raise NotImplementedError

    def take(self, payload: bytes) -> None:
        """Handle an encoded event."""
        self.take_event(_decode_event(payload))

    def take_event(self, event: _Event) -> None:
        """Handle an event."""
        if event.type == "message":
            self.account.message(event.position, event.key)
        elif event.type == "joined":
            self.account.joined(event.position, event.recovered)
        elif event.type == "reset":
            self.account.reset(event.position)
        elif event.type == "signal":
            self.signals.append([event.event, event.sender, event.data])
        elif event.type == "welcome":
            self.client = event.client
        elif event.type == "error" and event.code not in ("store_unavailable", "stopping"):
            self.load.fail(f"{self.name}: {event}")
        if event.type in ("joined", "presence"):
            self._see(event)
        if event.type == "joined":
            self.known.set()

    def _see(self, event: _Event) -> None:
        told = {name: getattr(event, name) for name in ("type", "count", "members", "joined", "left")}
        try:
            self.view.take({name: value for name, value in told.items() if value is not None})
        except AssertionError as error:
            self.load.fail(f"{self.name}: {error}")

    def query(self) -> str:
        """The query of a URL."""
        name = f"name={self.name}&client={self.client}" if self.client else f"name={self.name}"
        return f"room={self.load.place.room}&since={self.account.position}&{name}"


class _SocketReader(_Reader):
    """Reads over WebSockets."""

    _connection: Any = None

    async def read(self) -> None:
        self._connection = await RawWebSocket.connect(self.load.node(), upgrade("/ws"), self.take)
        self.connections += 1
        try:
            self._send(type="hello", name=self.name, **({"client": self.client} if self.client else {}))
            self._send(type="join", room=self.load.place.room, since=self.account.position)
            await self._connection.lost
        finally:
            self._connection.close()

    def _send(self, **command: Any) -> None:
        self._connection.send(msgspec.json.encode(command))

    def take_event(self, event: _Event) -> None:
        super().take_event(event)
        if event.type == "error" and self._connection is not None:  # the room can't be joined at present
            self._connection.close()

    async def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()


class _EventsReader(_Reader):
    """Reads event streams."""

    _connection: Any = None

    async def read(self) -> None:
        # The position in the address is overruled by the header, as with a browser that comes back.
        request = get(f"/sse?{self.query()}", f"Last-Event-ID: {self.account.position}")
        self._connection = await RawEventStream.connect(self.load.node(), request, self.take)
        self.connections += 1
        try:
            await self._connection.lost
        finally:
            self._connection.close()

    async def hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()


class _PollReader(_Reader):
    """Reads by long polls, each to a different node."""

    version = ""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._clients = _KeptConnections()

    async def read(self) -> None:
        while True:
            headers = [f"Realtime-Client: {self.client}"] if self.client else []
            path = f"/poll?wait={_WAIT}&presence={self.version}&{self.query().partition('&client=')[0]}"
            raw = self._clients.to(self.load.node())
            self.connections += 1
            status, body = await raw.ask("GET", path, b"", *headers)
            if status >= 500:
                raise Unavailable(body.decode(errors="replace"))
            self._answered(_decode_answer(body))

    def _answered(self, answer: _Answer) -> None:
        if answer.type != "poll":
            self.load.fail(f"{self.name}: {answer}")
            raise Unavailable
        self.client = answer.client
        for event in answer.events:
            self.take_event(event)
        room = self.load.place.room
        self.account.stands_at(answer.positions[room])
        self.version = answer.presence[room]
        self.known.set()

    async def hang_up(self) -> None:
        self._clients.close()


class _RedisWriter(_Writer):
    """Publishes in Redis itself, by the append script, as programs in other languages do."""

    slots = 4
    by_node = False
    _sha: bytes | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        assert self.load.place.redis is not None
        self._connection = RawRedis(self.load.place.redis, self.load.place.database)

    def close(self) -> None:
        self._connection.close()

    async def publish(self, key: str, data: dict[str, Any]) -> str:
        place = self.load.place
        keys = f"{place.scope}:log", f"{place.scope}:stream:{place.room}", f"{place.scope}:keys:{place.room}"
        try:
            self._sha = self._sha or await self._connection.do("HGET", keys[0], "append")
            if self._sha is None:
                raise Unavailable
            words = ("message", f"program-{self.name}", "A program", msgspec.json.encode(data), key)
            _, position = await self._connection.do("EVALSHA", self._sha, 3, *keys, *words)
        except RedisError as error:
            if not str(error).startswith(_PASSING):
                self.load.fail(f"{self.name}: {error}")
            self._sha = None
            raise Unavailable from None
        return str(position, "ascii")


_PASSING = ("NOSCRIPT", "NOLOG", "LOADING")
"""The prefixes of Redis errors that are temporary."""


_READERS: dict[str, type[_Reader]] = {"socket": _SocketReader, "events": _EventsReader, "poll": _PollReader}
_WRITERS: dict[str, type[_Writer]] = {
    "socket": _SocketWriter,
    "rooms": _RoomsWriter,
    "commands": _CommandsWriter,
    "redis": _RedisWriter,
}


def upgrade(path: str) -> bytes:
    """The request for a WebSocket."""
    return get(
        path,
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    )


def get(path: str, *headers: str) -> bytes:
    """A GET request."""
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", "")).encode()


class _Log(NamedTuple):
    """A room's log: keys by offset."""

    epoch: str
    messages: dict[int, str]


class _LoadWorker:
    """The functions of the process; the test calls them by name."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.ledger = DeliveryLedger(time.monotonic)
        self.readers: list[_Reader] = []
        self.failures: list[str] = []
        self._total = 0
        self._interval = 0.0
        self._due = 0.0
        self._started = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writing: list[asyncio.Task[None]] = []
        self._visitors: list[RawWebSocket] = []
        self._numbers = itertools.count()

    def node(self) -> int:
        """One of the nodes."""
        return random.choice(self.place.nodes)

    def fail(self, what: str) -> None:
        """Note an error that no reader's record holds."""
        if len(self.failures) < 20:
            self.failures.append(what)

    def read_reply(self, status: int, body: bytes) -> _Event:
        """A reply by HTTP.

        :raises Unavailable: it is none of the daemon's: what stands before it has none at present.
        """
        try:
            return _decode_event(body)
        except msgspec.MsgspecError:
            if status in (502, 503, 504):
                raise Unavailable from None
            raise

    async def may_write(self) -> bool:
        """Wait until it is time for the next message; return False if there is none."""
        if not self.ledger.is_open or (self._total and self._started >= self._total):
            return False
        self._started += 1
        now = time.monotonic()
        self._due = max(self._due + self._interval, now - 0.1)
        if self._due > now:
            await asyncio.sleep(self._due - now)
        return True

    def _go(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.fail(repr(task.exception()))

    # What it is asked for

    async def write(self, kinds: dict[str, int], total: int = 0, rate: float = 0, gives_up: str = "") -> dict[str, Any]:
        """Start writers. They write so many messages in all, or until :meth:`rest`.

        :param rate: messages a second, of all writers together; as fast as they can, if 0.
        :param gives_up: the kinds of writers that leave it at a refusal.
        """
        self._total, self._interval = self._started + total if total else 0, 1 / rate if rate else 0.0
        self.ledger.is_open = True
        for kind, count in kinds.items():
            for index in range(count):
                name = f"{kind}{index}-{next(self._numbers)}"
                self._writing.append(self._go(_WRITERS[kind](self, name, kind in gives_up.split()).run()))
        return {}

    async def read(self, kinds: dict[str, int], since: str = "") -> dict[str, Any]:
        """Start readers, from the beginning or from a position; return when all have begun."""
        position = since or await self._beginning()
        new = [
            _READERS[kind](self, f"{kind}{len(self.readers)}-{index}", position)
            for kind, count in kinds.items()
            for index in range(count)
        ]
        self.readers += new
        for reader in new:
            self._go(reader.run())
        async with asyncio.timeout(DEADLINE):
            for reader in new:
                await reader.known.wait()
        return {}

    async def _beginning(self) -> str:
        status, body = await RawHTTP(self.node()).ask("GET", f"/rooms/{self.place.room}/messages?limit=1")
        assert status == 200, body
        return json.loads(body)["top"].partition(":")[0] + ":0"

    async def progress(self) -> dict[str, Any]:
        """The progress of writers and readers."""
        received = [reader.account.received for reader in self.readers]
        return {
            "attempted": len(self.ledger.attempted),
            "acknowledged": len(self.ledger.acknowledged),
            "refused": len(self.ledger.refused),
            "received": [min(received, default=0), max(received, default=0)],
            "failures": self.failures,
        }

    async def rest(self) -> dict[str, Any]:
        """Let the writers finish."""
        self.ledger.is_open = False
        writing, self._writing = self._writing, []
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*writing, return_exceptions=True)
        return await self.progress()

    async def written(self) -> dict[str, Any]:
        """Return when the writers have written all of their messages."""
        await asyncio.gather(*self._writing, return_exceptions=True)
        return await self.rest()

    async def balance(self, patience: float = DEADLINE) -> dict[str, Any]:
        """Wait until the readers have reached the log's end, and report on all of them."""
        logs = [await self._read_log(port) for port in self.place.nodes]
        log = logs[0]
        top = f"{log.epoch}:{max(log.messages, default=0)}"
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and any(reader.account.position != top for reader in self.readers):
            await asyncio.sleep(0.05)
        return {
            "log_differs": [port for port, other in zip(self.place.nodes, logs, strict=True) if other != log],
            "top": top,
            "ledger": self.ledger.balance(log.messages, log.epoch),
            "unlike_log": self._unlike(log),
            "readers": {reader.name: self._of(reader, log) for reader in self.readers},
            "failures": self.failures,
        }

    def _unlike(self, log: _Log) -> int:
        """Count the positions at which readers received something else than the log holds."""
        seen = self.ledger.seen
        return sum(log.messages.get(int(p.partition(":")[2])) != seen[p] for p in seen if p.startswith(f"{log.epoch}:"))

    def _of(self, reader: _Reader, log: _Log) -> dict[str, Any]:
        account = reader.account
        return {
            "received": account.received,
            "position": account.position,
            "lost": account.lost(log.messages, log.epoch),
            "wrong": account.wrong,
            "told": [[loss.at, loss.before, loss.after] for loss in account.told],
            "connections": reader.connections,
            "signals": reader.signals,
            "count": reader.view.count,
            "left": reader.view.left,
        }

    async def _read_log(self, port: int) -> _Log:
        """Read the whole log from one node, page by page. After the oldest position there is no gap."""
        raw, messages, since = RawHTTP(port), dict[int, str](), None
        while True:
            path = f"/rooms/{self.place.room}/messages?limit=1000" + (f"&since={since}" if since else "")
            status, body = await raw.ask("GET", path)
            assert status == 200, body
            page = json.loads(body)
            epoch = page["top"].partition(":")[0]
            if since is None:
                since = f"{epoch}:0"
                continue
            for message in page["messages"]:
                messages[int(message["position"].partition(":")[2])] = message.get("key", "")
            since = page["position"]
            if since == page["top"]:
                raw.close()
                return _Log(epoch, messages)

    async def churn(self, count: int, at_once: int = 50) -> dict[str, Any]:
        """Connect so many WebSockets, join the room and disconnect; half of them cut the connection."""
        numbers = iter(range(count))

        async def come_and_go() -> None:
            for number in numbers:
                raw = await self._visit()
                if number % 2:
                    raw.close()
                else:
                    raw.say_goodbye()
                    await raw.lost

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(come_and_go())
        return {}

    async def _visit(self) -> RawWebSocket:
        joined = asyncio.Event()

        def take(payload: bytes) -> None:
            event = _decode_event(payload)
            if event.type == "joined":
                joined.set()
            elif event.type == "error":
                self.fail(f"a visitor: {event}")

        request = upgrade(f"/ws?room={self.place.room}&last=0")
        raw: RawWebSocket = await RawWebSocket.connect(self.node(), request, take)
        async with asyncio.timeout(DEADLINE):
            await joined.wait()
        return raw

    async def enter(self, rooms: int, at_once: int = 100) -> dict[str, Any]:
        """Join so many rooms over WebSockets, so many each; return when all are joined."""
        begun = time.monotonic()
        waiting = asyncio.Semaphore(4)
        parts = [range(first, min(first + at_once, rooms)) for first in range(0, rooms, at_once)]
        await asyncio.gather(*(self._enter(part, waiting) for part in parts))
        return {"seconds": time.monotonic() - begun}

    async def _enter(self, rooms: range, waiting: asyncio.Semaphore) -> None:
        left, all_joined = len(rooms), asyncio.Event()

        def take(payload: bytes) -> None:
            nonlocal left
            event = _decode_event(payload)
            if event.type == "error":
                self.fail(f"entering a room: {event}")
            left -= event.type in ("joined", "error")
            if not left:
                all_joined.set()

        async with waiting, asyncio.timeout(DEADLINE):
            raw = await RawWebSocket.connect(self.node(), upgrade("/ws"), take)
            self._visitors.append(raw)
            for number in rooms:
                command = {"type": "join", "room": f"{self.place.room}{number}", "last": 0}
                raw.send(msgspec.json.encode(command))
            await all_joined.wait()

    async def quit(self) -> dict[str, Any]:
        """Leave all of these rooms."""
        visitors, self._visitors = self._visitors, []
        for raw in visitors:
            raw.close()
        return {}

    async def mark(self) -> dict[str, Any]:
        """The clock of the ledger."""
        return {"now": time.monotonic()}

    async def forget_who_left(self) -> dict[str, Any]:
        """Begin to count the leaves that readers see."""
        for reader in self.readers:
            reader.view.left.clear()
        return {}

    async def see(self) -> dict[str, Any]:
        """How many members each reader sees, and the signals that it received."""
        return {reader.name: {"count": reader.view.count, "signals": reader.signals} for reader in self.readers}

    async def losses(self) -> dict[str, Any]:
        """The resets of each reader."""
        return {
            reader.name: [[loss.at, loss.before, loss.after] for loss in reader.account.told] for reader in self.readers
        }

    async def move(self, share: float = 1.0) -> dict[str, Any]:
        """Cut the readers' connections, so that they reconnect to other nodes."""
        for reader in self.readers:
            if random.random() < share:
                await reader.hang_up()
        return {}


class Load(WorkerProcess):
    """A load process, as the test sees it."""

    def __init__(self, place: Place) -> None:
        super().__init__("tests.functional.load", msgspec.json.encode(place).decode())


if __name__ == "__main__":
    serve(_LoadWorker(msgspec.json.decode(sys.argv[1], type=Place)))
