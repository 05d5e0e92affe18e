"""What is promised of the disk, of stopping and of starting again, by real daemons."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from tests.clients import PollClient, SocketClient
from tests.deadlines import DEADLINE
from tests.functional.browsers import program
from tests.functional.daemon import NO_LIMITS, Daemon, DaemonTestCase, wait_until
from tests.functional.test_restart import LedgerTestCase, make_agent, pause


class Reply(NamedTuple):
    """What a request was answered with."""

    status: int
    body: Any
    retry_after: str | None


class ServedTestCase(DaemonTestCase):
    """Tests that send requests and commands to one daemon."""

    def setUp(self) -> None:
        self.agent, pool = make_agent()
        self.addCleanup(pool.closeCachedConnections)

    async def ask(self, method: str, path: str, body: Any = None, client: str | None = None) -> Reply:
        """Send a request."""
        headers = {} if client is None else {"Realtime-Client": client}
        more: dict[str, Any] = {} if body is None else {"json": body}
        response = await treq.request(
            method, self.server.url + path, headers=headers, agent=self.agent, timeout=DEADLINE, **more
        )
        (retry_after,) = response.headers.getRawHeaders("Retry-After", [None])
        return Reply(response.code, json.loads(await response.content()), retry_after)

    async def post(self, room: str, data: Any, key: str | None = None) -> Reply:
        """Publish by ``POST /rooms/…``."""
        return await self.ask("POST", f"rooms/{room}/messages", {"data": data, "key": key} if key else {"data": data})

    async def command(self, room: str, data: Any) -> Reply:
        """Publish by ``POST /commands``."""
        return await self.ask("POST", "commands", {"type": "publish", "room": room, "data": data})

    async def log(self, room: str) -> list[Any]:
        """What all kept messages of a room say."""
        page = (await self.ask("GET", f"rooms/{room}/messages?limit=1000")).body
        return [message["data"] for message in page["messages"]]

    async def writer(self) -> SocketClient:
        """A WebSocket that reads no room."""
        client = SocketClient(reactor, self.server.port)
        await client.connect()
        self.addCleanup(client.stop)
        return client

    async def reader(self, kind: type[Any], room: str = "lobby", **query: Any) -> Any:
        """A reader of a room."""
        client = kind(reactor, self.server.port, room)
        await client.start(**query)
        self.addCleanup(client.stop)
        return client

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait till something is true, with a deadline; ``condition`` may be a coroutine function."""
        deadline = reactor.seconds() + DEADLINE
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            self.assertLess(reactor.seconds(), deadline, "not in time")
            await pause(0.05)


class Call(NamedTuple):
    """A system call: the lines of the trace in which it began and ended, and how it reads."""

    begun: int
    ended: int
    text: str


def read_trace(lines: list[str]) -> list[Call]:
    """The calls of all threads, those whole that others interrupted; in the order of their ends."""
    calls: list[Call] = []
    unfinished: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        match = re.match(r"(\d+) +[\d:.]+ (.*)", line)
        if match is None:
            continue
        thread, text = match.groups()
        begun = number
        if text.endswith("<unfinished ...>"):
            unfinished[thread] = (number, text.removesuffix("<unfinished ...>"))
            continue
        if text.startswith("<... "):
            begun, head = unfinished.pop(thread)
            text = head + text.partition("resumed>")[2]
        calls.append(Call(begun, number, text))
    return calls


class SyncTests(ServedTestCase):
    """What the system calls show."""

    async def test_sync_before_reply(self) -> None:
        """On each way to publish, a sync of the commit has succeeded before a byte of the reply is sent."""
        trace = Path(self.mktemp()).resolve()
        watched = "trace=fdatasync,fsync,pwrite64,pwritev,write,writev,sendto,sendmsg"
        options = ("-D", "-f", "-tt", "-y", "-s", "9999", "-o", str(trace), "-e", watched)
        self.server = await self.started(prefix=(program("strace"), *options))
        socket_client = await self.writer()
        socket_client.room = "by-websocket"
        for number in range(5):
            await socket_client.publish({"text": f"needle-{number}-by-websocket"}, key=str(number))
            await self.post("by-rooms", {"text": f"needle-{number}-by-rooms"})
            await self.command("by-commands", {"text": f"needle-{number}-by-commands"})
        await socket_client.stop()
        end = re.compile(rf"^{self.server.pid} .*\+\+\+$", re.MULTILINE)
        await deferToThread(self.server.terminate)
        await self.until(lambda: end.search(trace.read_text(errors="replace")) is not None)
        calls = read_trace(trace.read_text(errors="replace").splitlines())
        for room in ("by-websocket", "by-rooms", "by-commands"):
            for number in range(5):
                self.assert_synced(calls, room, number)

    def assert_synced(self, calls: list[Call], room: str, number: int) -> None:
        """A publish was written to the log, that was synced, and then the reply was sent."""
        needle = f"needle-{number}-{room}"
        written = next(call for call in calls if call.text.startswith("pwrite64(") and needle in call.text)
        self.assertIn("-wal>", written.text)
        replies = [
            call
            for call in calls
            if re.match(r"(sendto|sendmsg|write|writev)\(\d+<(socket|TCP)", call.text)
            and "published" in call.text
            and re.search(rf'position\\?":\\?"[a-z0-9]+:{number + 1}\\?"', call.text)
            and room in call.text
        ]
        self.assertEqual(1, len(replies), replies)
        synced = [
            call
            for call in calls
            if re.match(r"f(data)?sync\(\d+<[^>]*-wal>\) += 0$", call.text)
            and written.ended < call.begun
            and call.ended < replies[0].begun
        ]
        self.assertTrue(synced, (written, replies))


class Shortage(NamedTuple):
    """A disk that can be made full."""

    directory: Path
    fill: Callable[[Daemon], None]
    free: Callable[[Daemon], None]


class DiskTests(ServedTestCase):
    """No room on the disk, and room again."""

    def small_disk(self) -> Shortage:
        """A file system of its own where we may mount one, else a limit."""
        directory = Path(self.mktemp()).resolve()
        directory.mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", directory], capture_output=True, check=False
        ).returncode:
            return self.size_limit()
        self.addCleanup(subprocess.run, ["umount", "-l", directory], check=True)
        filler = directory / "filler"

        def fill(server: Daemon) -> None:
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * 4096)

        return Shortage(directory, fill, lambda server: filler.unlink())

    def size_limit(self) -> Shortage:
        """A limit on the size of the daemon's files."""
        directory = Path(self.mktemp()).resolve()
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

        def fill(server: Daemon) -> None:  # not one page, wherever the write-ahead log begins anew
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (4096, hard))

        def free(server: Daemon) -> None:
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))

        return Shortage(directory, fill, free)

    async def test_full_disk(self) -> None:
        """On a full disk publishing is refused for a while, reading goes on, and no restart is needed."""
        await self.assert_survives(self.small_disk())

    async def test_file_size_limit(self) -> None:
        """The same where writing fails for another reason."""
        await self.assert_survives(self.size_limit())

    async def assert_survives(self, disk: Shortage) -> None:
        """A daemon with its data there refuses what it can't store, and nothing else."""
        self.server = await self.started("--data-dir", str(disk.directory), "--history", "100000", *NO_LIMITS)
        pid = self.server.pid
        readers = [await self.reader(SocketClient), await self.reader(PollClient)]
        self.connection = await self.writer()
        self.sent = 0
        for _ in range(20):
            self.send()
        await self.until(lambda: len(self.published) == 20)
        disk.fill(self.server)
        await self.until(self.is_full)
        await self.assert_refuses()
        await self.assert_reads(readers)
        disk.free(self.server)
        await self.until(self.is_ready)
        self.send()
        late = await self.post("lobby", "late")
        await self.until(lambda: len(self.published) + len(self.refused) == self.sent)
        self.assertEqual((201, pid), (late.status, self.server.pid))
        stored = [text for text in await self.log("lobby") if text != "late"]
        self.assertEqual([self.text(number) for number in sorted(self.published)], stored)
        for reader in readers:
            await reader.count(len(self.published) + 1)
            self.assertEqual((await self.log("lobby"), []), (reader.data, reader.of_type("reset")))

    @property
    def published(self) -> list[int]:
        """The numbers of the messages that were acknowledged."""
        return [event["id"] for event in self.connection.of_type("published")]

    @property
    def refused(self) -> list[int]:
        """The numbers of those that were refused."""
        return [event["id"] for event in self.connection.of_type("error")]

    def text(self, number: int) -> str:
        """What a message says."""
        return f"{number} " + "x" * 3000

    def send(self) -> None:
        """Publish the next message, and don't wait for the reply: while a disk fails, there may be none."""
        self.connection.send(
            type="publish", room="lobby", data=self.text(self.sent), id=self.sent, key=f"key-{self.sent}"
        )
        self.sent += 1

    async def is_full(self) -> bool:
        """Publish, look whether that is refused now, and ask meanwhile whether it would be."""
        asked = []
        for _ in range(5):
            self.send()
            asked.append(Deferred.fromCoroutine(self.ask("GET", "readyz")))
        statuses = {reply.status for reply in await gatherResults(asked)}
        return bool(self.refused) and statuses == {503}

    async def is_ready(self) -> bool:
        """Whether messages can be stored again."""
        return (await self.ask("GET", "readyz")).status == 200

    async def assert_refuses(self) -> None:
        """On each way to publish, the error is the documented one, and a temporary one."""
        error = self.connection.of_type("error")[-1]
        self.assertEqual(("store_unavailable", True), (error["code"], error["temporary"]))
        for reply in (await self.post("lobby", "refused"), await self.command("lobby", "refused")):
            self.assertEqual(
                (503, "store_unavailable", True), (reply.status, reply.body["code"], reply.body["temporary"])
            )
            self.assertGreater(int(reply.retry_after or 0), 0)
        self.assertEqual(503, (await self.ask("GET", "readyz")).status)
        self.assertEqual(200, (await self.ask("GET", "healthz")).status)

    async def assert_reads(self, readers: list[Any]) -> None:
        """What was acknowledged can be read: live, by new readers, and as a page."""
        expected = [self.text(number) for number in sorted(self.published)]
        self.assertEqual(expected, (await self.log("lobby"))[: len(expected)])
        epoch = self.connection.of_type("published")[0]["position"].split(":")[0]
        readers += [await self.reader(kind, since=f"{epoch}:0") for kind in (SocketClient, PollClient)]
        for reader in readers:
            await reader.count(len(expected))
            self.assertEqual(expected, reader.data[: len(expected)])


class RefusalTests(DaemonTestCase):
    """A daemon that can't start says why, in one line."""

    def assert_refused(self, server: Daemon, why: str) -> None:
        """It ends with status 1, and says why, once and without a traceback."""
        log = server.refused()
        said = [line for line in log.splitlines() if re.search(why, line)]
        self.assertEqual((1, False), (len(said), "Traceback" in log), log)
        self.assertEqual(1, server.status, log)

    async def test_second_daemon(self) -> None:
        """A second daemon on the same data ends, and the first one goes on."""
        first = await self.started()
        second = self.daemon("--data-dir", str(first.directory / "data"))
        await deferToThread(self.assert_refused, second, rf"realtime\.sqlite: it is in use by .*{first.pid}")
        self.assertEqual({"status": "ok"}, await deferToThread(first.get, "readyz"))

    async def test_newer_schema(self) -> None:
        """A database that a later release wrote is refused, and left as it is."""
        server = await self.started()
        await deferToThread(server.terminate)
        path = server.directory / "data" / "realtime.sqlite"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 99")
        before = path.read_bytes()
        await deferToThread(self.assert_refused, server, r"realtime\.sqlite: its schema has version 99")
        self.assertEqual(before, path.read_bytes())


class EpochTests(ServedTestCase):
    """What outlives a restart, and what another log is taken for."""

    async def restart(self, *gone: str) -> None:
        """Kill the daemon, remove files, and start it again."""
        await deferToThread(self.server.kill)
        for name in gone:
            (self.server.directory / "data" / name).unlink(missing_ok=True)
        await deferToThread(self.server.start)

    async def test_position_and_key_outlive_a_restart(self) -> None:
        """After a restart the epoch is the same, and a key still answers its first position."""
        self.server = await self.started()
        first = await self.post("lobby", "one", "k1")
        await self.restart()
        again = await self.post("lobby", "one", "k1")
        other = await self.post("lobby", "another", "k1")
        second = await self.post("lobby", "two", "k2")
        epoch = first.body["position"].split(":")[0]
        self.assertEqual((201, 200, 409, 201), (first.status, again.status, other.status, second.status))
        self.assertEqual([f"{epoch}:1"] * 2 + [f"{epoch}:2"], [r.body["position"] for r in (first, again, second)])
        reader = await self.reader(SocketClient, since=first.body["position"])
        await reader.count(1)
        self.assertEqual((["two"], True), (reader.data, reader.of_type("joined")[0]["recovered"]))

    async def test_clients_outlive_a_restart(self) -> None:
        """A client is the same user after a restart, so that its keys are too."""
        self.server = await self.started()
        hello = {"type": "hello", "v": 1}
        welcome = (await self.ask("POST", "commands", hello)).body
        await self.restart()
        again = (await self.ask("POST", "commands", {**hello, "client": welcome["client"]})).body
        self.assertEqual((welcome["client"], welcome["user"]), (again["client"], again["user"]))

    async def test_new_database(self) -> None:
        """A database that was removed is another log, and who has a position of the old one is told."""
        self.server = await self.started()
        old = await self.post("lobby", "old")
        await self.restart("realtime.sqlite", "realtime.sqlite-wal", "realtime.sqlite-shm")
        new = await self.post("lobby", "new")
        self.assertNotEqual(old.body["position"].split(":")[0], new.body["position"].split(":")[0])
        socket_reader = await self.reader(SocketClient, since=old.body["position"])
        poller = await self.reader(PollClient, since=old.body["position"])
        for reader in (socket_reader, poller):
            await reader.count(1)
            self.assertEqual(["new"], reader.data)
        self.assertFalse(socket_reader.of_type("joined")[0]["recovered"])
        self.assertEqual(1, len(poller.of_type("reset")))
        page = (await self.ask("GET", f"rooms/lobby/messages?since={old.body['position']}")).body
        self.assertFalse(page["recovered"])

    async def test_database_removed_while_running(self) -> None:
        """Readers who are connected while the database is removed are told with the first new message."""
        self.server = await self.started()
        old = await self.post("lobby", "old")
        readers = [await self.reader(kind) for kind in (SocketClient, PollClient)]
        for reader in readers:
            await reader.count(1)
        for name in ("realtime.sqlite", "realtime.sqlite-wal", "realtime.sqlite-shm"):
            (self.server.directory / "data" / name).unlink()
        new = await self.post("lobby", "new")
        while new.status == 503:
            await pause(0.2)
            new = await self.post("lobby", "new")
        self.assertNotEqual(old.body["position"].split(":")[0], new.body["position"].split(":")[0])
        for reader in readers:
            await reader.count(2)
            self.assertEqual((["old", "new"], 1), (reader.data, len(reader.of_type("reset"))))

    async def backed_up(self) -> tuple[Path, Path, Any]:
        """A database, a backup that lacks ten acknowledged messages, and the last one's position."""
        database = self.server.directory / "data" / "realtime.sqlite"
        backup = self.server.directory / "backup.sqlite"
        await self.post("lobby", "kept")
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("VACUUM INTO ?", (str(backup),))
        for number in range(10):
            last = await self.post("lobby", number)
        return database, backup, last.body["position"]

    async def test_backup_put_back_while_running(self) -> None:
        """Readers who are connected while a backup is put in the database's place are told, whoever writes then."""
        self.server = await self.started()
        readers = [await self.reader(kind) for kind in (SocketClient, PollClient)]
        database, backup, _ = await self.backed_up()
        for reader in readers:
            await reader.count(11)
        backup.replace(database)
        for suffix in ("-wal", "-shm"):
            Path(f"{database}{suffix}").unlink(missing_ok=True)
        for reader in readers:
            await self.until(lambda reader=reader: len(reader.of_type("reset")) == 1)
        for number in range(12):
            await self.post("lobby", f"new {number}")
        for reader in readers:
            await reader.count(23)
            expected = ["kept", *range(10), *(f"new {number}" for number in range(12))]
            self.assertEqual((expected, 1), (reader.data, len(reader.of_type("reset"))))

    async def test_backup_put_back_while_stopped(self) -> None:
        """Who comes with a position that the backup lacks is told, though that many messages were said since."""
        self.server = await self.started()
        database, backup, position = await self.backed_up()
        await deferToThread(self.server.terminate)
        backup.replace(database)
        await deferToThread(self.server.start)
        for number in range(12):
            await self.post("lobby", f"new {number}")
        socket_reader = await self.reader(SocketClient, since=position)
        poller = await self.reader(PollClient, since=position)
        for reader in (socket_reader, poller):
            await reader.count(13)
        self.assertFalse(socket_reader.of_type("joined")[0]["recovered"])
        self.assertEqual(1, len(poller.of_type("reset")))


class StoppingTests(LedgerTestCase):
    """SIGTERM."""

    async def swarm(self) -> None:
        """200 polls that wait and 200 WebSockets, in a room of their own."""
        port = self.server.port
        self.sockets = [SocketClient(reactor, port, "quiet") for _ in range(200)]
        await gatherResults([Deferred.fromCoroutine(client.start()) for client in self.sockets])
        agent, pool = make_agent()
        self.addCleanup(pool.closeCachedConnections)
        self.polls = []
        for client in [PollClient(reactor, port, "quiet") for _ in range(200)]:
            client._agent = agent
            query = {"room": "quiet", "since": self.sockets[0].position, "wait": 50}
            self.polls.append(Deferred.fromCoroutine(client.get("poll", **query)))
        connections = f"/proc/{self.server.pid}/fd"
        await deferToThread(wait_until, lambda: len(os.listdir(connections)) > 400)

    async def never_reads(self) -> None:
        """A WebSocket whose client reads nothing, while much goes through its room."""
        client = socket.socket()
        self.addCleanup(client.close)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", self.server.port))
        client.sendall(
            b"GET /ws?room=loud HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        writer = SocketClient(reactor, self.server.port, "loud")
        await writer.connect()
        self.addCleanup(writer.stop)
        for _ in range(150):
            writer.send(type="publish", room="loud", data="x" * 60_000, id=1)
        await writer.until(lambda: len(writer.of_type("published")) == 150)

    async def test_sigterm(self) -> None:
        """It answers polls, says goodbye, stores what it acknowledges, and has ended in less than five seconds."""
        await self.begin(history=1_000_000)
        for reader in self.readers:
            self.go(reader.run())
        await self.swarm()
        await self.acknowledged(100)
        await self.assert_stops()
        answers = await gatherResults(self.polls)
        for answer in answers:
            self.assertEqual(["stopping"], [event["reason"] for event in answer["events"]])
        for client in self.sockets:
            await client.until(lambda client=client: not client.open)
            self.assertEqual([("stopping", True)], [(e["reason"], e["reconnect"]) for e in client.of_type("goodbye")])
            self.assertEqual(4000, client.close_code)
        await self.assert_nothing_lost()

    async def test_sigterm_with_a_client_that_never_reads(self) -> None:
        """A client that reads nothing doesn't hold that up for long."""
        await self.begin(history=1_000_000)
        for reader in self.readers:
            self.go(reader.run())
        await self.never_reads()
        await self.acknowledged(100)
        await self.assert_stops()
        await self.assert_nothing_lost()

    async def assert_stops(self) -> None:
        """SIGTERM ends it, in time and in order."""
        seconds = await deferToThread(self.server.terminate)
        self._log.info("stopped in {seconds:.2f} s, status {status}", seconds=seconds, status=self.server.status)
        self.assertLess(seconds, 5)
        self.assertIn("Server Shut Down", self.server.log)
        self.assertNotIn("Traceback", self.server.log)
        # twistd ends by the signal that it was sent, once all is in order.
        self.assertIn(self.server.status, (0, -signal.SIGTERM))

    async def assert_nothing_lost(self) -> None:
        """After the restart everyone carries on, and all accounts balance."""
        self.under_way.append(self.ledger.pending)
        await deferToThread(self.server.start)
        await self.acknowledged(50)
        log = await self.close()
        self.assert_ledger_balances(log)
        self.assert_balanced(log)
