"""Recovery of Socket.IO's sockets by a daemon process: official clients that were away, and daemons that were.

With ``SOAK=1`` in the environment a daemon is ended ten times instead of twice, connections are lost twenty times
instead of three, it and its clients stop for 30 seconds instead of two, and a slow reader misses 80 MB instead of
twelve.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from tests.deadlines import DEADLINE
from tests.functional.daemon import NO_LIMITS, SOAK, TWISTD, Daemon, wait_until
from tests.functional.event_ledger import EventLedger
from tests.functional.socketio_sockets import TRANSPORTS, SocketProcess
from tests.functional.test_growth import MIB, memory
from tests.redis_server import RedisServer

APPLICATION = ("--app", "tests.functional.socketio_recovery_app:app", "--socket-io-eio3", *NO_LIMITS)
ROUNDS = 20 if SOAK else 3
KILLS = 10 if SOAK else 2
STOPPED = 30.0 if SOAK else 2.0
MEGABYTES = 80 if SOAK else 12
SIZE = 50_000
WINDOW = 1.0
SHORT_WINDOW = f"import realtime_chat.store.sqlite.sessions as sessions; sessions.SESSION_SECONDS = {WINDOW}\n{TWISTD}"
SHORT_PINGS = f"""
import functools, realtime_chat.composition as composition
composition.Settings = functools.partial(composition.Settings, ping_interval=0.3, ping_timeout=0.7)
{TWISTD}
"""
ROWS: list[dict[str, Any]] = [
    {"to": ["a"]},
    {"to": ["b"]},
    {},
    {"to": ["a", "b"]},
    {"to": ["a"], "skip": ["b"]},
    {"skip": ["a"]},
    {"to": ["b"], "size": 3000},
    {"to": ["nobody"]},
]
ROOMS: Mapping[str, list[str]] = {"a": ["a"], "b": ["b"], "both": ["a", "b"], "none": []}


class RecoveryTestCase(SynchronousTestCase):
    """A daemon on SQLite, and processes with clients."""

    _log = Logger()
    timeout = 1200 if SOAK else 240

    def setUp(self) -> None:
        self.ledger = EventLedger()
        self.processes: list[SocketProcess] = []

    def start(self, *options: str, program: str = TWISTD) -> None:
        """Start the daemon."""
        self.daemon = Daemon(self.mktemp(), *APPLICATION, *options, program=program).start()
        self.addCleanup(self.daemon.kill)

    def client(self, version: int = 4) -> SocketProcess:
        """A process for sockets."""
        process = SocketProcess(self.daemon.url, self.ledger, version)
        self.addCleanup(process.kill)
        self.processes.append(process)
        return process

    def assert_told(self, last: int) -> None:
        """Each socket that was recovered each time has the last event, and no socket has anything wrong."""
        for process in self.processes:
            for record in process.records.values():
                process.wait_until_told(record, last)
                record.note_positions()
        records = [record for process in self.processes for record in process.records.values()]
        wrong = [what for record in records for what in record.wrong()]
        self.assertFalse(wrong, f"{len(wrong)} are wrong:\n" + "\n".join(wrong[:50]))
        self.assertNotIn("Traceback", self.daemon.log)


class ReconnectTests(RecoveryTestCase):
    """Sockets that lose their connections, by each transport."""

    def test_missed(self) -> None:
        """What it missed comes to a socket once and in order, if it is for it, and its id, rooms and data are there."""
        self.start()
        client, names = self.client(), list(TRANSPORTS)
        client.open("writer")
        ids = [client.open(name, ["a", f"own {name}"], name)["id"] for name in names]
        for name in names:
            client.ask(name, "keep", "label", name)
        self.prepare(client, names)
        client.lose(*names)
        self.write_all(client, ids)
        back = client.come_back(*names)
        self.assertEqual([(True, id) for id in ids], [(event["recovered"], event["id"]) for event in back])
        client.write_event("writer", 99)
        for name in names:
            self.assert_missed(client, name)
        self.assert_sockets(client, names)

    def prepare(self, client: SocketProcess, names: list[str]) -> None:
        """Enter and leave rooms: what was told there before and after isn't for these sockets."""
        client.write_event("writer", 0)
        client.write_event("writer", 1, to=["late"])
        for name in names:
            client.ask(name, "enter", "left")
            client.ask(name, "enter", "late")
            client.ask(name, "leave", "left")
        client.write_event("writer", 2, to=["left"])

    def write_all(self, client: SocketProcess, ids: list[str]) -> None:
        """Emit what some are to get."""
        client.write_event("writer", 10)
        client.write_event("writer", 11, to=["a"], data={"deep": ["é"]})
        client.write_event("writer", 12, to=["b"])
        client.write_event("writer", 13, skip=["a"])
        client.write_event("writer", 14, to=["a", "b"], skip=["own polling"])
        client.write_event("writer", 15, to=["own websocket"])
        client.write_event("writer", 16, to=ids[:2])
        client.write_event("writer", 17, to=["a"], binary=[0, 1, 255])
        client.write_event("writer", 18, to=["late"])
        client.write_event("writer", 19, to=["left"])
        client.write_event("writer", 20, volatile=True)
        client.write_event("writer", 21, skip=ids[2:])
        client.write_event("writer", 22, size=40_000)

    def assert_missed(self, client: SocketProcess, name: str) -> None:
        """It got what was for it."""
        own = {"polling": [16, 21], "websocket": [14, 15, 16, 21], "upgrading": [14]}[name]
        expected = sorted([0, 10, 11, 17, 18, 22, 99, *own])
        wait_until(lambda: 99 in client.told(name))
        self.assertEqual(expected, client.told(name), name)
        data = {event["number"]: event["data"] for event in client.of(name, "told")}
        shown = {"deep": ["é"]}, {"deep": [{"bytes": [0, 1, 255]}]}, 40_000
        self.assertEqual(shown, (data[11], data[17], data[22]))

    def assert_sockets(self, client: SocketProcess, names: list[str]) -> None:
        """What the application sees of them."""
        for name in names:
            rooms = sorted(["a", "late", f"own {name}"])
            state = {"rooms": rooms, "session": {"label": name}, "recovered": True}
            self.assertEqual(state, client.ask(name, "state"))
        self.assertNotIn("Traceback", self.daemon.log)

    def test_again_and_again(self) -> None:
        """A socket that loses its connection many times, with events before, meanwhile and after, misses none."""
        self.start()
        client = self.client()
        client.open("writer", ["writer"])
        for name in TRANSPORTS:
            client.open(name, ["a"], name)
        for number in range(0, 12, 3):
            client.write_event("writer", number, to=["a"])
            client.lose(*TRANSPORTS)
            client.write_event("writer", number + 1, to=["a"])
            client.write_event("writer", number + 2, skip=["a"])
            self.assertEqual([True] * 3, [event["recovered"] for event in client.come_back(*TRANSPORTS)])
        client.write_event("writer", 12)
        self.assert_told(12)

    def test_quiet(self) -> None:
        """A socket for which nothing came is recovered: before the first event, and where the log has gone on since."""
        self.start("--socket-io-history=10")
        client = self.client()
        client.open("writer")
        for name in TRANSPORTS:
            client.open(name, ["quiet"], name)
        client.lose(*TRANSPORTS)
        client.write_event("writer", 0, to=["quiet"])
        self.assertEqual([True] * 3, [event["recovered"] for event in client.come_back(*TRANSPORTS)])
        for number in range(1, 41):
            client.write_event("writer", number, to=["others"])
        client.lose(*TRANSPORTS)
        self.assertEqual([True] * 3, [event["recovered"] for event in client.come_back(*TRANSPORTS)])
        client.write_event("writer", 41)
        self.assert_told(41)

    def test_trimmed(self) -> None:
        """If the log has lost what a socket may have missed, it is a new one, and gets what comes from then on."""
        self.start("--socket-io-history=10")
        client = self.client()
        client.open("writer")
        ids = {name: client.open(name, ["a"], name)["id"] for name in TRANSPORTS}
        client.write_event("writer", 0)
        for name in TRANSPORTS:
            client.wait_for(name, "told")
        client.lose(*TRANSPORTS)
        for number in range(1, 41):
            client.write_event("writer", number, to=["a"])
        self.assert_new(client, ids)

    def assert_new(self, client: SocketProcess, ids: Mapping[str, str]) -> None:
        """The sockets come back as new ones."""
        for event in client.come_back(*ids):
            self.assertEqual((False, True), (event["recovered"], event["id"] != ids[event["socket"]]), event)
        client.write_event("writer", 98)
        client.write_event("writer", 99, to=["a"])
        for name in ids:
            client.wait_for(name, "told", 3)
            self.assertEqual([0, 98, 99], client.told(name), name)
            state = {"rooms": ["a"], "session": {}, "recovered": False}
            self.assertEqual(state, client.ask(name, "state"))
        self.assertNotIn("Traceback", self.daemon.log)

    def test_too_late(self) -> None:
        """After the window a socket is a new one."""
        self.start(program=SHORT_WINDOW)
        client = self.client()
        client.open("writer")
        ids = {name: client.open(name, ["a"], name)["id"] for name in TRANSPORTS}
        client.write_event("writer", 0)
        for name in TRANSPORTS:
            client.wait_for(name, "told")
        client.lose(*ids)
        client.write_event("writer", 1)
        time.sleep(2 * WINDOW)
        self.assert_new(client, ids)

    def test_taken_over(self) -> None:
        """Who comes back before its old connection is seen to be lost is recovered, and the old one is ended."""
        self.start()
        client, again = self.client(), self.client()
        client.open("writer")
        old = client.open("old", ["a"], reconnection=False)
        client.write_event("writer", 0, to=["a"])
        state = {"_pid": old["pid"], "_lastOffset": client.wait_for("old", "told")["position"]}
        new = again.open("old", ["a"], state=state)
        self.assertEqual((True, old["id"]), (new["recovered"], new["id"]))
        client.wait_for("old", "disconnect")
        client.write_event("writer", 1, to=["a"])
        again.wait_for("old", "told")
        self.assertEqual(([0], [1]), (client.told("old"), again.told("old")))


class ForgedTests(RecoveryTestCase):
    """What a client says of its session isn't believed."""

    def setUp(self) -> None:
        super().setUp()
        self.start()
        self.one = self.client()
        self.one.open("writer")

    def lost(self, name: str) -> tuple[dict[str, Any], str]:
        """What the client of a socket knows that has lost its connection, and the socket's id."""
        opened = self.one.open(name, ["a"])
        before = len(self.ledger.emitted)
        self.one.write_event("writer", before, to=["a"])
        position = self.one.wait_for(name, "told")["position"]
        self.one.lose(name)
        self.one.write_event("writer", before + 1, to=["a"])
        return {"_pid": opened["pid"], "_lastOffset": position}, opened["id"]

    def test_forged(self) -> None:
        """By a table: no session comes of a pid that nobody was given, or of a position that wasn't reached."""
        for name, forge in FORGERIES.items():
            state, id = self.lost(name)
            event = self.one.open(f"{name} again", ["b"], state=forge(state))
            self.assertEqual((False, True), (event["recovered"], event["id"] != id), name)
            self.assertEqual(
                {"rooms": ["b"], "session": {}, "recovered": False}, self.one.ask(f"{name} again", "state")
            )
            self.assertEqual([], self.one.told(f"{name} again"), name)
        self.assertNotIn("Traceback", self.daemon.log)

    def test_strange_offsets(self) -> None:
        """By a table: who sends no offset of its session gets all since that began.

        Official clients do that: where they were not recovered, they keep their last offset until the next event.
        """
        for name, offset in STRANGE_OFFSETS.items():
            state, _ = self.lost(name)
            first = len(self.ledger.emitted) - 2
            state["_lastOffset"] = offset(state["_lastOffset"])
            event = self.one.open(f"{name} again", ["b"], state=state)
            self.assertTrue(event["recovered"], name)
            self.one.wait_for(f"{name} again", "told", 2)
            self.assertEqual([first, first + 1], self.one.told(f"{name} again"), name)
        self.assertNotIn("Traceback", self.daemon.log)

    def test_other_namespace(self) -> None:
        """A session is one of its namespace."""
        state, _ = self.lost("x")
        event = self.one.open("y", ["b"], namespace="/other", state=state)
        self.assertEqual((False, []), (event["recovered"], self.one.told("y")))
        self.assertTrue(self.one.come_back("x")[0]["recovered"])

    def test_ended(self) -> None:
        """Who has disconnected, or was disconnected, begins anew."""
        ended = self.one.open("leaves", ["a"]), self.one.open("sent away", ["a"])
        self.one.tell("disconnect", "leaves")
        self.one.tell("emit", "sent away", args=["disconnect_me"])
        for event in ended:
            self.one.wait_for(event["socket"], "disconnect")
            (back,) = self.one.come_back(event["socket"])
            self.assertEqual((False, True), (back["recovered"], back["id"] != event["id"]), event["socket"])


FORGERIES = {
    "an invented pid": lambda state: {**state, "_pid": "A" * 40},
    "an empty pid": lambda state: {**state, "_pid": " "},
    "a long pid": lambda state: {**state, "_pid": state["_pid"] + "A" * 10_000},
    "a changed pid": lambda state: {**state, "_pid": _changed(state["_pid"])},
    "a number": lambda state: {**state, "_pid": 7},
    "a list": lambda state: {**state, "_pid": [state["_pid"]]},
    "an offset that was not reached": lambda state: {**state, "_lastOffset": _later(state["_lastOffset"])},
}
"""What a client may say, made of what it may say rightly."""

STRANGE_OFFSETS: Mapping[str, Callable[[str], Any]] = {
    "none": lambda offset: None,
    "a word": lambda offset: "yesterday",
    "a number": lambda offset: 1,
    "a list": lambda offset: [offset],
    "one of another log": lambda offset: "zzzzzzzz:1",
    "one from before": lambda offset: offset.partition(":")[0] + ":0",
    "a negative one": lambda offset: offset.replace(":", ":-"),
}


def _changed(pid: str) -> str:
    middle = len(pid) // 2
    return pid[:middle] + ("A" if pid[middle] != "A" else "B") + pid[middle + 1 :]


def _later(position: str) -> str:
    epoch, _, offset = position.partition(":")
    return f"{epoch}:{int(offset) + 1_000_000}"


class StreamTestCase(RecoveryTestCase):
    """A writer that doesn't end, and readers of all transports and versions."""

    def begin(self, *options: str, program: str = TWISTD) -> None:
        """Start all of them."""
        self.start(*options, program=program)
        self.writer = self.client()
        self.writer.open("writer")
        self.readers = self.client()
        for transport in TRANSPORTS:
            for name, rooms in ROOMS.items():
                self.readers.open(f"{name} by {transport}", rooms, transport)

    def write_some(self, number: int = 60) -> None:
        """Wait until so many more events were acknowledged."""
        enough = len(self.ledger.stored) + number
        wait_until(lambda: len(self.ledger.stored) >= enough, lambda: f"{self.writer.events[-5:]}")

    def finish(self) -> None:
        """End the stream; everybody has everything, or knows that it hasn't."""
        self.writer.end("writer")
        for process in self.processes:
            process.wait_until_connected()
        last = max(self.ledger.emitted) + 1
        self.writer.write_event("writer", last)
        self.assert_told(last)
        received = sum(len(record.received) for record in self.readers.records.values())
        connects = [recovered for record in self.readers.records.values() for recovered in record.connects[1:]]
        self._log.info(
            "{written} events, {received} received; {recovered} of {connects} connects recovered",
            written=last + 1,
            received=received,
            recovered=sum(connects),
            connects=len(connects),
        )
        self.assertEqual(len(connects), sum(connects))

    def kill_again_and_again(self) -> None:
        """Kill the daemon or ask it to stop, by turns, and start it again, while a stream goes on."""
        self.begin()
        for version in (3, 2):
            old = self.client(version)
            for name, rooms in ROOMS.items():
                old.open(f"{name} of {version}", rooms, "upgrading")
        self.writer.stream("writer", ROWS)
        for number in range(KILLS):
            self.write_some()
            (self.daemon.terminate if number % 2 else self.daemon.kill)()
            self.daemon.start()
        self.write_some()
        self.finish()


class LostTests(StreamTestCase):
    """Connections that are lost in the middle of a stream."""

    def test_lost(self) -> None:
        """Sockets that come back again and again while the stream goes on have all of it."""
        self.begin()
        self.writer.stream("writer", ROWS)
        for _ in range(ROUNDS):
            self.write_some(20)
            self.readers.lose(*self.readers.records)
            self.readers.come_back(*self.readers.records)
        self.finish()

    def test_upgraded(self) -> None:
        """Sockets that are upgraded to WebSockets while the stream goes on miss nothing between the two transports."""
        self.begin()
        self.writer.stream("writer", ROWS, pause=1)
        self.write_some(20)
        for number in range(5 * ROUNDS):
            self.readers.open(f"late {number}", ["a"], "upgrading")
        self.write_some()
        self.finish()


class KilledTests(StreamTestCase):
    """A daemon that is killed and started again on its database."""

    def test_killed(self) -> None:
        """In the middle of a stream, again and again: no socket misses, doubles or mixes up an event, of no version.

        Sockets of the versions before 4 begin anew, and all others are recovered.
        """
        self.kill_again_and_again()

    def test_killed_while_away(self) -> None:
        """Who was away before, while and after the daemon was killed is recovered, with its rooms and its data."""
        self.begin()
        names = [f"both by {transport}" for transport in TRANSPORTS]
        for name in names:
            self.readers.ask(name, "keep", "label", name)
        self.readers.lose(*names)
        self.writer.write_event("writer", 0, to=["a"])
        self.daemon.kill()
        self.daemon.start()
        self.writer.wait_for("writer", "connect", 2)
        self.writer.write_event("writer", 1, to=["b"])
        self.readers.come_back(*names)
        for name in names:
            state = {"rooms": ["a", "b"], "session": {"label": name}, "recovered": True}
            self.assertEqual(state, self.readers.ask(name, "state"))
        self.finish()

    def test_kept_at_once(self) -> None:
        """Rooms and data that a client was acknowledged outlive a kill right after that."""
        self.start()
        client = self.client()
        client.open("x")
        client.ask("x", "enter", "a")
        client.ask("x", "keep", "answer", 42)
        self.daemon.kill()
        self.daemon.start()
        self.assertTrue(client.wait_for("x", "connect", 2)["recovered"])
        self.assertEqual({"rooms": ["a"], "session": {"answer": 42}, "recovered": True}, client.ask("x", "state"))


class RedisTests(StreamTestCase):
    """The same with the log and the sockets' records in Redis."""

    def start(self, *options: str, program: str = TWISTD) -> None:
        redis = RedisServer(self.mktemp())
        self.addCleanup(redis.kill)
        redis.start()
        super().start("--store", redis.url, *options, program=program)

    def test_killed(self) -> None:
        """In the middle of a stream, again and again: all sockets of version 4 are recovered."""
        self.kill_again_and_again()


class StoppedTests(StreamTestCase):
    """Processes that stand still (SIGSTOP)."""

    @contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """Stop a process for a while."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def test_stopped(self) -> None:
        """The readers stand still beyond their pings' deadline while the stream goes on, and then the daemon does."""
        self.begin("--socket-io-history=1000000", program=SHORT_PINGS)
        self.writer.stream("writer", ROWS)
        self.write_some()
        with self.stopped(self.readers.process.pid):
            time.sleep(STOPPED)
        self.write_some()
        with self.stopped(self.daemon.pid):
            time.sleep(STOPPED)
        self.write_some()
        self.finish()
        self.assertTrue(any(len(record.connects) > 1 for record in self.readers.records.values()))


class SlowTests(RecoveryTestCase):
    """Readers that read nothing while much goes by."""

    def stalled(self, name: str, count: int) -> SocketProcess:
        """A process with sockets that reads nothing."""
        process = self.client()
        for number in range(count):
            for transport in TRANSPORTS:
                process.open(f"{name} {number} by {transport}", ["loud"], transport)
                process.ask(f"{name} {number} by {transport}", "state")
        os.kill(process.process.pid, signal.SIGSTOP)
        return process

    def go_by(self, first: int, megabytes: int) -> int:
        """Let events go by, and return the most memory that the daemon had meanwhile."""
        count = megabytes * 1_000_000 // SIZE
        stored = len(self.ledger.stored) + count
        self.writer.stream("writer", [{"to": ["loud"], "size": SIZE}], first, count, pause=0)
        return self.most_memory(lambda: len(self.ledger.stored) >= stored)

    def go_on(self, process: SocketProcess) -> int:
        """Let a process read until its sockets have all, and return the most memory that the daemon had meanwhile."""
        os.kill(process.process.pid, signal.SIGCONT)
        last = max(self.ledger.emitted)
        return self.most_memory(lambda: all(record.last() >= last for record in process.records.values()))

    def most_memory(self, is_over: Callable[[], bool]) -> int:
        """The daemon's resident memory at most until something is true."""
        sizes = []

        def look() -> bool:
            sizes.append(memory(self.daemon.pid))
            return is_over()

        wait_until(look, lambda: f"{[process.events[-3:] for process in self.processes]}", 10 * DEADLINE)
        return max(sizes)

    def test_slow(self) -> None:
        """A socket that reads nothing while many megabytes go by has all of them later, and costs under 2 MiB."""
        self.start()
        self.writer = self.client()
        self.writer.open("writer")
        self.client().open("live", ["loud"])
        self.go_by(0, 16)  # so that all caches have their size
        first = self.stalled("first", 1)
        self.go_by(max(self.ledger.emitted) + 1, 8)
        self.go_on(first)
        first.kill()
        self.processes.remove(first)
        stalled = self.stalled("stalled", 2)
        before = memory(self.daemon.pid)
        waiting = self.go_by(max(self.ledger.emitted) + 1, MEGABYTES) - before
        reading = self.go_on(stalled) - before
        self._log.info(
            f"six slow readers: {waiting / MIB:.2f} MiB while they wait, {reading / MIB:.2f} while they read"
        )
        self.assertLess(max(waiting, reading), 6 * 2 * MIB)
        last = max(self.ledger.emitted) + 1
        self.writer.write_event("writer", last)
        self.assert_told(last)
