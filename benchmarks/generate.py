"""The load generator: a process of its own, on a core of its own, for one measurement of one server.

It reads a job (JSON) from its standard input and writes what it has measured (JSON) to its standard output. A job names
the measurement, the server's wire, port and processes, and the measurement's own sizes; scenarios.py makes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.abuse import abuse
from benchmarks.dial import Joined, dial, dial_one
from benchmarks.hotloop import EVENTS, POLL, SINK, WEBSOCKET, HotLoop
from benchmarks.properties import measure_properties
from benchmarks.servers import METRICS
from benchmarks.wires import ROOM, WIRES, Publication, Wire, introduction, posted, publication, text_of

__all__ = ["MEASUREMENTS", "main"]

Job = dict[str, Any]
Figures = dict[str, Any]

_PATIENCE = 3.0
"""Seconds without a delivery after which the rest counts as lost."""

_SETTLE = 0.4
_LONGEST = 120.0
_STORE_READS = re.compile(r"^realtime_store_reads_total(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


class Bench:
    """One server under one load.

    :ivar loop: the hot loop.
    :ivar wire: how one talks to this server.
    """

    def __init__(self, job: Job, readers: int, rooms: int = 1) -> None:
        self.ports: list[int] = job["ports"]
        self.pids: list[int] = job["pids"]
        self.wire: Wire = WIRES[job["wire"]]
        self.loop = HotLoop(readers + rooms, rooms)
        self.sockets: list[socket.socket] = []
        for before, end in self.wire.poll.captures if self.wire.poll else ():
            self.loop.add_capture(before, end)

    # Clients

    def join(self, count: int, room_of: Callable[[int], int] = lambda number: 0, rooms: int = 1) -> None:
        """So many WebSocket clients join; those of one room one after the other."""
        assert self.wire.join is not None
        for joined in dial(self.ports, count, lambda number: self.wire.join(_name(room_of(number), rooms))):
            self.read(joined, room_of(joined.number))
            if self.wire.publish is not None:
                self._let_publish(joined, room_of(joined.number), rooms)
        if self.wire.publish is None:
            for room in range(rooms):
                self.post_to(room, rooms)
        self.settle()

    def follow(self, count: int) -> None:
        """So many clients of server-sent events join; who publishes does it apart, over a WebSocket where it can."""
        wire = self.wire
        assert wire.follow is not None
        for joined in dial(self.ports, count, lambda number: wire.follow(ROOM)):
            self.read(joined, 0, EVENTS)
        if wire.publish is None or wire.connect is None:
            self.post_to()
        else:
            self._publish_from_socket()
        self.settle()

    def read(self, joined: Joined, room: int, kind: int = WEBSOCKET) -> None:
        """Count what a client is sent from now on."""
        self.sockets.append(joined.socket)
        self.loop.add_reader(joined.socket.fileno(), room, kind, joined.came)

    def _let_publish(self, joined: Joined, room: int, rooms: int) -> None:
        """The last one that joined a room publishes to it."""
        assert self.wire.publish is not None
        payload = self.wire.publish(_name(room, rooms), text_of())
        self.loop.add_publisher(room, joined.socket.fileno(), publication(payload))

    def _publish_from_socket(self) -> None:
        """Who publishes does it by a WebSocket that is in no room."""
        wire = self.wire
        assert wire.connect is not None
        assert wire.publish is not None
        for joined in dial(self.ports, 1, lambda number: wire.connect(ROOM)):
            self._publish_apart(0, publication(wire.publish(ROOM, text_of())), joined.socket)

    def post_to(self, room: int = 0, rooms: int = 1) -> None:
        """Who publishes to this room does it by HTTP, on a connection of its own, if this server has that."""
        if self.wire.post is None:
            self._publish_from_socket()
            return
        self._publish_apart(room, posted(self.wire.post(_name(room, rooms), text_of())), dial_one(self.ports[0]))

    def _publish_apart(self, room: int, message: Publication, connection: socket.socket) -> None:
        self.sockets.append(connection)
        self.loop.add_reader(connection.fileno(), room, SINK)
        self.loop.add_publisher(room, connection.fileno(), message)

    def spread(self, count: int) -> None:
        """So many WebSocket clients join on the last node, and who publishes is on the first one."""
        wire = self.wire
        assert wire.join is not None
        assert wire.publish is not None
        for joined in dial(self.ports[-1:], count, lambda number: wire.join(ROOM)):
            self.read(joined, 0)
        for joined in dial(self.ports[:1], 1, lambda number: wire.join(ROOM)):
            self._publish_apart(0, publication(wire.publish(ROOM, text_of())), joined.socket)
        self.settle()

    def poll(self, count: int) -> None:
        """So many clients poll, and wait."""
        poll = self.wire.poll
        assert poll is not None
        for joined in dial(self.ports, count, lambda number: poll.first(ROOM), lambda: self.loop.pump(0)):
            self.sockets.append(joined.socket)
            self.loop.add_poll(joined.socket.fileno(), 0, poll.request(ROOM), joined.captured)
        self.settle()

    def ask(self, count: int) -> None:
        """So many clients, each of which sends what is answered to it alone."""
        wire = self.wire
        assert wire.connect is not None
        assert wire.ask is not None
        for joined in dial(self.ports, count, lambda number: wire.connect(ROOM)):
            self.read(joined, joined.number)
            self.loop.add_publisher(joined.number, joined.socket.fileno(), publication(wire.ask(ROOM)))
        self.settle()

    def settle(self, seconds: float = _SETTLE) -> None:
        """Let everything that is on its way arrive."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.loop.pump(20)

    def fall_quiet(self, seconds: float) -> float:
        """Read until nothing has come for so long; answer when the last came."""
        last, seen, end = time.monotonic(), self.loop.counts.bytes, time.monotonic() + _LONGEST
        while (now := time.monotonic()) - last < seconds and now < end:
            self.loop.pump(20)
            if self.loop.counts.bytes != seen:
                last, seen = time.monotonic(), self.loop.counts.bytes
        return last

    # Measuring

    def cpu(self) -> float:
        """CPU seconds of the server so far."""
        return machine.cpu_seconds(self.pids)

    def redis_cpu(self) -> float:
        """CPU seconds of the Redis among the server's processes."""
        return machine.cpu_seconds(machine.processes_of("redis-server", self.pids))

    def memory(self) -> float:
        """Resident kilobytes of the server."""
        return machine.resident_kilobytes(self.pids)

    @contextlib.contextmanager
    def measured(self, figures: Figures, kind: int) -> Iterator[None]:
        """Count what happens meanwhile, and what it costs."""
        loop = self.loop
        loop.begin()
        redis, cpu, own, begun = self.redis_cpu(), self.cpu(), time.process_time(), time.monotonic()
        yield
        busy, elapsed = time.process_time() - own, time.monotonic() - begun
        cpu = self.cpu() - cpu
        counts = loop.counts
        span = max(counts.last - counts.begun, 1) / 1e9
        names = ("published", "delivered", "answers", "disordered", "refused", "gone")
        figures.update({name: getattr(counts, name) for name in names})
        figures["rate"] = counts.delivered / span
        figures["cpu_us"] = cpu * 1e6 / max(counts.delivered, 1)
        figures["answer_us"] = cpu * 1e6 / max(counts.answers, 1)
        figures["redis_us"] = (self.redis_cpu() - redis) * 1e6 / max(counts.published, 1)
        figures["server_share"] = cpu / elapsed
        figures["generator_share"] = busy / elapsed
        figures.update(zip(("p50_ms", "p95_ms", "p99_ms"), loop.latency(kind, 0.5, 0.95, 0.99), strict=True))

    def phase(self, phase: Job, members: int, kind: int = WEBSOCKET, warm: bool = True) -> Figures:
        """One way of publishing for some seconds; ``members`` readers get each message."""
        figures: Figures = {}
        if warm:
            self.loop.begin()
            self._publish(phase | {"seconds": min(0.5, phase["seconds"] / 4)}, members)
        with self.measured(figures, kind):
            self._publish(phase, members)
        figures["lost"] = figures["published"] * members - figures["delivered"]
        return figures

    def _publish(self, phase: Job, members: int) -> None:
        if "in_flight" in phase:
            self.loop.keep(phase["in_flight"], phase["seconds"], _PATIENCE)
        else:
            self.loop.pace(phase["rate"], phase["seconds"])
        self.loop.wait(self.loop.counts.published * members, _PATIENCE)


def _name(room: int, rooms: int) -> str:
    return ROOM if rooms == 1 else f"{ROOM}{room}"


# The measurements


def _fanout(job: Job) -> Figures:
    rooms, members = job.get("rooms", 1), job["members"]
    bench = Bench(job, rooms * members, rooms)
    cpu, begun = bench.cpu(), time.monotonic()
    bench.join(rooms * members, lambda number: number // members, rooms)
    figures: Figures = {
        "join_us": (bench.cpu() - cpu) * 1e6 / (rooms * members),
        "join_s": time.monotonic() - begun - _SETTLE,
    }
    return figures | _phases(bench, job, WEBSOCKET)


def _poll(job: Job) -> Figures:
    bench = Bench(job, job["members"])
    bench.poll(job["members"])
    bench.post_to()
    return _phases(bench, job, POLL)


def _events(job: Job) -> Figures:
    """Server-sent events; WebSockets where a wire has none."""
    bench = Bench(job, job["members"])
    if bench.wire.follow is None:
        bench.join(job["members"])
        return _phases(bench, job, WEBSOCKET)
    bench.follow(job["members"])
    return _phases(bench, job, EVENTS)


def _across(job: Job) -> Figures:
    """From one node to the other; where there is one node, to other connections."""
    bench = Bench(job, job["members"])
    bench.spread(job["members"])
    return _phases(bench, job, WEBSOCKET)


def _phases(bench: Bench, job: Job, kind: int) -> Figures:
    """One after the other, the first one after a warm-up."""
    return {
        phase["name"]: bench.phase(phase, job["members"], kind, warm=not index)
        for index, phase in enumerate(job["phases"])
    }


def _publish(job: Job) -> Figures:
    if job["wire"] == "none":
        return _commit(job)
    bench = Bench(job, job["publishers"], job["publishers"])
    bench.ask(job["publishers"])
    return bench.phase({"in_flight": 1, "seconds": job["seconds"]}, 1)


def _commit(job: Job) -> Figures:
    """One row, one transaction, one sync: what no durable publish can do without."""
    database = sqlite3.connect(Path(job["directory"], "commit.sqlite"), isolation_level=None)
    for statement in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=0"):
        database.execute(f"PRAGMA {statement}")
    database.execute("CREATE TABLE message (offset INTEGER PRIMARY KEY, data TEXT)")
    times, text, cpu, end = [], text_of(), time.process_time(), time.monotonic() + job["seconds"]
    while (begun := time.monotonic()) < end:
        database.execute("INSERT INTO message (data) VALUES (?)", (text,))
        times.append((time.monotonic() - begun) * 1e3)
    times.sort()
    return {
        "rate": len(times) * 1e3 / sum(times),
        "cpu_us": (time.process_time() - cpu) * 1e6 / len(times),
        "p50_ms": times[len(times) // 2],
        "p99_ms": times[len(times) * 99 // 100],
    }


def _connect(job: Job) -> Figures:
    """Connects a second, and joins if that isn't left out; what one costs."""
    bench = Bench(job, 1)
    converse = bench.wire.join if job.get("join", True) else bench.wire.connect
    assert converse is not None
    warm, count, kept = job["clients"] // 10, job["clients"], []
    kept += dial(bench.ports, warm, lambda number: converse(ROOM))
    cpu, own, begun = bench.cpu(), time.process_time(), time.monotonic()
    kept += dial(bench.ports, count, lambda number: converse(ROOM))
    elapsed, busy = time.monotonic() - begun, time.process_time() - own
    time.sleep(_SETTLE)
    return {
        "rate": count / elapsed,
        "cpu_us": (bench.cpu() - cpu) * 1e6 / count,
        "generator_share": busy / elapsed,
        "lost": warm + count - len(kept),
    }


def _come_back(job: Job) -> Figures:
    """All clients connect at once, say by what they were given before who they are, and join."""
    count = job["clients"]
    bench = Bench(job, 1)
    hello, come_back = bench.wire.hello, bench.wire.come_back
    assert hello is not None
    assert come_back is not None
    clients = [""] * count
    for joined in dial(bench.ports, count, lambda number: introduction(hello(number))):
        clients[joined.number] = joined.captured[0]
        joined.socket.close()
    time.sleep(_SETTLE)
    cpu, own, begun = bench.cpu(), time.process_time(), time.monotonic()
    kept = list(dial(bench.ports, count, lambda number: come_back(ROOM, clients[number]), at_once=count))
    elapsed, busy = time.monotonic() - begun, time.process_time() - own
    time.sleep(_SETTLE)
    return {
        "rate": count / elapsed,
        "cpu_us": (bench.cpu() - cpu) * 1e6 / count,
        "client_bytes": sum(map(len, clients)) / count,
        "generator_share": busy / elapsed,
        "lost": count - len(kept),
    }


def _memory(job: Job) -> Figures:
    """Kilobytes that each client adds, beyond the first ones."""
    count, warm = job["clients"], job["clients"] // 10
    bench = Bench(job, count + warm + 2)
    arrive, kind = {
        "poll": (bench.poll, POLL),
        "events": (bench.follow, EVENTS),
        "WebSocket": (bench.join, WEBSOCKET),
    }[job["as"]]
    arrive(warm)
    before = bench.memory()
    arrive(count)
    return {"kilobytes": (bench.memory() - before) / count, "lost": warm + count - bench.loop.alive(kind)}


def _storm(job: Job) -> Figures:
    """Clients come into one room at a fixed pace, and everybody is told who is there; what a join costs with that."""
    count = job["clients"]
    bench = Bench(job, count)
    enter = bench.wire.enter
    assert enter is not None
    bench.loop.begin()
    told, cpu, own, begun = 0, bench.cpu(), time.process_time(), time.monotonic()
    for joined in dial(bench.ports, count, lambda number: enter(ROOM), _pump(bench), count, job["rate"]):
        told += len(joined.came)
        bench.read(joined, 0)
    joined_s = time.monotonic() - begun
    quiet_s = bench.fall_quiet(max(1.0, count / 500)) - begun
    return {
        "join_us": (bench.cpu() - cpu) * 1e6 / count,
        "kilobytes": (told + bench.loop.counts.bytes) / count / 1e3,
        "joined_s": joined_s,
        "quiet_s": quiet_s,
        "generator_share": (time.process_time() - own) / (time.monotonic() - begun),
        "lost": count - bench.loop.alive(WEBSOCKET),
    }


def _crossing(job: Job) -> Figures:
    """Half of the clients on WebSocket, half on long poll; the latency from the one to the other."""
    half = job["clients"] // 2
    bench = Bench(job, job["clients"])
    bench.poll(half)
    bench.join(half)
    phase = {"rate": job["rate"], "seconds": job["seconds"]}
    figures = {"WebSocket to poll": bench.phase(phase, 2 * half, POLL)}
    bench.post_to()
    return figures | {"poll to WebSocket": bench.phase(phase, 2 * half, WEBSOCKET)}


def _abuse(job: Job) -> Figures:
    """How late others' messages are before somebody begins to abuse the server, and meanwhile."""
    members = job["members"]
    bench = Bench(job, members)
    bench.join(members)
    phase = {"rate": job["rate"], "seconds": job["seconds"]}
    figures: Figures = {"quiet": bench.phase(phase, members)}
    with abuse(job["kind"], bench.ports[0]) as counts:
        figures["abused"] = bench.phase(phase, members, warm=False)
        sent, struck = counts()
    return figures | {"sent": sent, "struck": struck, "abused_share": figures["abused"]["server_share"]}


def _resume(job: Job) -> Figures:
    """All clients come back at once, each so many messages behind."""
    clients, behind = job["clients"], job["behind"]
    position = job.get("position") or _fall_behind(job)["position"]
    bench = Bench(job, clients)
    reads, figures = _store_reads(job), {}
    with bench.measured(figures, WEBSOCKET):
        bench.loop.counts.begun = 0  # what is to come was sent before
        begun = time.monotonic()
        for joined in dial(
            bench.ports, clients, lambda number: bench.wire.resume(ROOM, position), _pump(bench), clients
        ):
            bench.read(joined, 0)
        connected = time.monotonic()
        bench.loop.wait(clients * behind, _PATIENCE)
        caught_up = bench.loop.counts.last / 1e9
    figures |= {"seconds": caught_up - begun, "connected_s": connected - begun}
    figures |= {"rate": clients * behind / figures["seconds"], "lost": clients * behind - figures["delivered"]}
    return figures | {"store_reads": None if reads is None else (_store_reads(job) or 0) - reads}


def _pump(bench: Bench) -> Callable[[], None]:
    return lambda: bench.loop.pump(0)


def _fall_behind(job: Job) -> Figures:
    """Publish what the clients will have missed; find the position before it."""
    bench = Bench(job, 1)
    with contextlib.closing(_first_position(job)) as positions:
        position = next(positions)
    bench.join(1)
    bench.loop.begin()
    bench.loop.burst(job["behind"])
    bench.loop.wait(job["behind"], _PATIENCE)
    if bench.loop.counts.delivered != job["behind"]:
        raise RuntimeError("the messages to catch up with did not arrive")
    for connection in bench.sockets:
        connection.close()
    return {"position": position}


def _first_position(job: Job) -> Iterator[str]:
    poll = WIRES[job["wire"]].poll
    for joined in dial(job["ports"][:1], 1, lambda number: poll.first(ROOM)):
        joined.socket.close()
        yield joined.captured[0]


def _store_reads(job: Job) -> float | None:
    """How often the daemon has read its store, where it counts that among its metrics."""
    path = Path(job["directory"], METRICS)
    if not path.exists():
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        page = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    found = _STORE_READS.findall(page)
    return sum(map(float, found)) if found else None


def _properties(job: Job) -> Figures:
    return measure_properties(Bench(job, job["members"]), job)


def _client(job: Job) -> Figures:
    from benchmarks.python_client import measure_client  # brings Twisted's reactor, which no other job wants

    return measure_client(job)


def _counting(job: Job) -> Figures:
    from benchmarks.counting import measure_counting  # brings the daemon's own modules, which no other job wants

    return measure_counting(job)


MEASUREMENTS: dict[str, Callable[[Job], Figures]] = {
    "fanout": _fanout,
    "poll": _poll,
    "events": _events,
    "publish": _publish,
    "across": _across,
    "connect": _connect,
    "come back": _come_back,
    "memory": _memory,
    "storm": _storm,
    "crossing": _crossing,
    "abuse": _abuse,
    "resume": _resume,
    "fall behind": _fall_behind,
    "properties": _properties,
    "client": _client,
    "counting": _counting,
}


def main() -> None:
    """Do one job."""
    os.sched_setaffinity(0, machine.generator_cores())
    machine.raise_file_limit()
    job = json.load(sys.stdin)
    json.dump(MEASUREMENTS[job["measure"]](job), sys.stdout)


if __name__ == "__main__":
    main()
