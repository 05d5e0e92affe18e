"""Operating a real daemon: signals, the background, sockets that systemd hands over or that a kill has left."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from tests.clients import SocketClient
from tests.functional.browsers import program
from tests.functional.cluster import ClusterTestCase
from tests.functional.daemon import CHECKOUT, TWISTD, Daemon, DaemonTestCase, free_port, wait_until


class LoggedDaemon(Daemon):
    """``twistd -n --logfile=FILE realtime --access-log=FILE``.

    :ivar logs: both files.
    """

    def __init__(self, directory: str | Path) -> None:
        self.logs = [Path(directory).resolve() / "logs" / name for name in ("chat.log", "access.log")]
        self.logs[0].parent.mkdir(parents=True)
        super().__init__(directory, "--store", "memory:", "--access-log", str(self.logs[1]))

    def command(self) -> list[str]:
        words = super().command()
        words.insert(words.index("realtime"), f"--logfile={self.logs[0]}")
        return words


def _documented_rules(places: Mapping[str, str]) -> str:
    """The rules for logrotate that the operator's page has.

    :param places: what stands there, and what it is here.
    """
    text = (CHECKOUT / "docs" / "operations.rst").read_text("utf-8")
    (rules,) = re.findall(r"^( +)(/var/log/realtime/\*\.log {\n.*?^\1}\n)", text, re.MULTILINE | re.DOTALL)
    here = str(rules[1])
    for there, instead in places.items():
        assert here.count(there) == 1, there
        here = here.replace(there, instead)
    return here


class SignalTests(DaemonTestCase):
    """Signals that programs send which rotate logs."""

    async def reader(self, daemon: Daemon) -> SocketClient:
        """A WebSocket in the lobby."""
        reader = SocketClient(reactor, daemon.port)
        self.addCleanup(reader.stop)
        await reader.start()
        return reader

    async def logged(self) -> tuple[LoggedDaemon, SocketClient]:
        """A daemon with two log files, and a reader."""
        daemon = LoggedDaemon(self.mktemp())
        self.addCleanup(daemon.kill)
        await deferToThread(daemon.start)
        return daemon, await self.reader(daemon)

    async def assert_stays(self, daemon: Daemon, reader: SocketClient) -> None:
        """The daemon serves, its readers are connected, and SIGTERM stops it in order."""
        count = len(reader.of_type("message"))
        await reader.publish("still here")
        await reader.until(lambda: len(reader.of_type("message")) == count + 1)
        self.assertIsNone(reader.close_code)
        await deferToThread(daemon.terminate)
        self.assertEqual(-signal.SIGTERM, daemon.status)
        await reader.until(lambda: reader.close_code)
        self.assertEqual((4000, 1), (reader.close_code, len(reader.of_type("goodbye"))))

    async def test_renamed(self) -> None:
        """On SIGHUP both logs go on in new files with the old ones' modes; nobody is disconnected."""
        daemon, reader = await self.logged()
        old = [path.rename(path.with_suffix(".1")) for path in daemon.logs]
        modes = [stat.S_IMODE(path.stat().st_mode) for path in old]
        os.kill(daemon.pid, signal.SIGHUP)
        await deferToThread(wait_until, lambda: all(path.exists() for path in daemon.logs))
        before = [path.read_text() for path in old]
        await deferToThread(daemon.get, "rooms?new")
        await self.assert_stays(daemon, reader)
        self.assertEqual(before, [path.read_text() for path in old])
        self.assertEqual(modes, [stat.S_IMODE(path.stat().st_mode) for path in daemon.logs])
        self.assertIn("chat page: ", before[0])
        self.assertIn("GET /ws?", before[1])
        new = [path.read_text() for path in daemon.logs]
        self.assertIn("Server Shut Down.", new[0])
        self.assertIn("GET /rooms?new ", new[1])

    async def test_logrotate(self) -> None:
        """What the operator's page has for logrotate rotates both logs, and nobody is disconnected."""
        daemon, reader = await self.logged()
        pid_file, rules = daemon.directory / "twistd.pid", daemon.directory / "rules"
        pid_file.write_text(str(daemon.pid))
        places = {
            "/var/log/realtime/": f"{daemon.logs[0].parent}/",
            "/run/realtime/twistd.pid": str(pid_file),
            "create 0600 chat chat": f"create 0600 {pid_file.owner()} {pid_file.group()}",
        }
        rules.write_text(_documented_rules(places))
        rules.chmod(0o600)
        rotate = [program("logrotate"), "--force", "--state", str(daemon.directory / "state"), str(rules)]
        done = await deferToThread(subprocess.run, rotate, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual((b"", 0), (done.stdout, done.returncode))
        await deferToThread(wait_until, lambda: daemon.get("rooms?new") and daemon.logs[1].read_text())
        await self.assert_stays(daemon, reader)
        old = [path.with_name(f"{path.name}.1").read_text() for path in daemon.logs]
        self.assertIn("chat page: ", old[0])
        self.assertIn("GET /ws?", old[1])
        self.assertNotIn("Server Shut Down.", old[0])
        self.assertIn("Server Shut Down.", daemon.logs[0].read_text())

    async def test_nowhere(self) -> None:
        """Where the paths can't be opened, the old files go on, and the log says so."""
        daemon, reader = await self.logged()
        directory = daemon.logs[0].parent
        moved = directory.rename(directory.with_name("moved"))
        os.kill(daemon.pid, signal.SIGHUP)
        await deferToThread(
            wait_until, lambda: (moved / "chat.log").read_text().count("can't be opened again: ") == len(daemon.logs)
        )
        await deferToThread(daemon.get, "rooms?new")
        await self.assert_stays(daemon, reader)
        self.assertIn("Server Shut Down.", (moved / "chat.log").read_text())
        self.assertIn("GET /rooms?new ", (moved / "access.log").read_text())

    async def test_nothing_to_open(self) -> None:
        """Without log files nothing happens."""
        daemon = await self.started("--store", "memory:")
        reader = await self.reader(daemon)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            os.kill(daemon.pid, number)
            self.assertEqual({"rooms": []}, await deferToThread(daemon.get, "rooms"))
        await self.assert_stays(daemon, reader)


class BackgroundTests(DaemonTestCase):
    """``twistd`` without ``-n``; ``test_refusals.py`` has what it says where it can't start."""

    def begin(self, *options: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Start it; give its first process, and its pid file, whose process ends with the test."""
        directory = Path(self.mktemp()).resolve()
        directory.mkdir()
        pid_file = directory / "chat.pid"
        command = [sys.executable, "-c", TWISTD, f"--pidfile={pid_file}", f"--logfile={directory}/chat.log"]
        process = subprocess.Popen(
            [*command, "realtime", *options],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.addCleanup(self.end, process, pid_file)
        return process, pid_file

    def end(self, process: subprocess.Popen[bytes], pid_file: Path) -> None:
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
        process.kill()
        process.communicate()

    async def test_started(self) -> None:
        """It returns with status 0 and without a word when the daemon can be connected to."""
        for number, store in enumerate(("memory:", "sqlite:chat.sqlite")):
            port = free_port()
            process, pid_file = self.begin("--store", store, "--listen", f"tcp:{port}:interface=127.0.0.1")
            output, _ = await deferToThread(process.communicate, timeout=30)
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                self.assertEqual((b"", 0), (output, process.returncode), number)
            os.kill(int(pid_file.read_text()), signal.SIGTERM)
            await deferToThread(wait_until, lambda path=pid_file: not path.exists())

    async def test_ended_meanwhile(self) -> None:
        """A daemon that is stopped while it waits for its store has not started."""
        process, pid_file = self.begin("--store", "redis://127.0.0.1:1/0")
        await deferToThread(wait_until, lambda: pid_file.exists() and "nobody answers" in _log_beside(pid_file))
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
        output, _ = await deferToThread(process.communicate, timeout=30)
        self.assertEqual(1, process.returncode, output)
        self.assertIn(b"ended while it started", output)


def _log_beside(pid_file: Path) -> str:
    return pid_file.with_suffix(".log").read_text()


def _short_directory(case: DaemonTestCase) -> Path:
    """A directory whose path leaves room for a socket's, which may have 107 bytes; it goes with the test."""
    directory = tempfile.mkdtemp()
    case.addCleanup(shutil.rmtree, directory)
    return Path(directory).resolve()


HANDED_OVER = """
import os, socket, sys
family, address = socket.AddressFamily[sys.argv[1]], sys.argv[2]
listening = socket.socket(family)
listening.bind(address if family == socket.AF_UNIX else (address, int(sys.argv[3])))
listening.listen()
os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="chat", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[4], sys.argv[4:])
"""
"""What systemd does with a socket unit: a blocking socket, as without ``NonBlocking=``."""


class ActivationTests(DaemonTestCase):
    """Sockets that systemd hands over."""

    async def activated(self, domain: str, address: str) -> tuple[Daemon, int]:
        """A daemon that is handed a socket; it also listens on a loopback port of its own. And the socket's port."""
        port = free_port()
        prefix = (sys.executable, "-c", HANDED_OVER, f"AF_{domain}", address, str(port))
        listen = ("--open", "--listen", f"systemd:domain={domain}:index=0")
        return await self.started("--store", "memory:", *listen, prefix=prefix), port

    def status(self, port: int, host: str) -> int:
        """What a request with this ``Host`` is answered."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request("GET", "/rooms", headers={"Host": host})
            return connection.getresponse().status

    async def test_everywhere(self) -> None:
        """A socket of all addresses is said to be open to everyone, and is served by address."""
        for domain, address in (("INET", "0.0.0.0"), ("INET6", "::")):
            daemon, port = await self.activated(domain, address)
            for host, status in (("192.0.2.7", 200), ("[2001:db8::1]", 200), ("evil.example", 421)):
                self.assertEqual(status, await deferToThread(self.status, port, host), host)
            self.assertIn("open to: everyone who can reach it", daemon.log)
            self.assertIn(f":{port}/", daemon.log)
            await deferToThread(daemon.terminate)

    async def test_loopback(self) -> None:
        """A socket of loopback, or a Unix socket, is for this machine only, and no other name is served."""
        daemon, port = await self.activated("INET", "127.0.0.1")
        self.assertEqual(421, await deferToThread(self.status, port, "192.0.2.7"))
        self.assertEqual(200, await deferToThread(self.status, port, "localhost"))
        self.assertIn("open to: this machine only", daemon.log)
        daemon, _ = await self.activated("UNIX", str(_short_directory(self) / "chat.sock"))
        self.assertIn("open to: this machine only", daemon.log)


class UnixSocketTests(DaemonTestCase):
    """Unix sockets that a daemon has left."""

    def path(self) -> Path:
        """Where one may be."""
        return _short_directory(self) / "chat.sock"

    def answers(self, path: Path) -> bool:
        """Whether a daemon answers there."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(path))
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return connection.recv(100).startswith(b"HTTP/1.1 200 ")
        return False

    async def killed(self, listen: str) -> Daemon:
        """A daemon that was killed while it listened."""
        daemon = await self.started("--store", "memory:", "--open", "--listen", listen)
        await deferToThread(daemon.kill)
        return daemon

    async def test_pid_lives_again(self) -> None:
        """After kill -9 it starts again, though the pid in Twisted's lock is another process by now."""
        path = self.path()
        lock = path.with_name("chat.sock.lock")
        for listen in (f"unix:{path}", f"unix:address={path}:mode=600"):
            daemon = await self.killed(listen)
            for pid in (1, os.getpid()):
                lock.unlink()
                lock.symlink_to(str(pid))
                await deferToThread(daemon.start)
                self.assertTrue(await deferToThread(self.answers, path))
                await deferToThread(daemon.kill)
            path.unlink()  # a lock alone
            await deferToThread(daemon.start)
            self.assertTrue(await deferToThread(self.answers, path))
            await deferToThread(daemon.terminate)
            self.assertEqual([], list(path.parent.iterdir()))

    async def test_without_lock(self) -> None:
        """The same without a lock, where Twisted leaves the socket."""
        path = self.path()
        daemon = await self.killed(f"unix:{path}:lockfile=0")
        await deferToThread(daemon.start)
        self.assertTrue(await deferToThread(self.answers, path))

    async def test_one_of_many(self) -> None:
        """Of daemons that start at once where one was killed, one listens; the others are refused."""
        path = self.path()
        daemons = [await self.killed(f"unix:{path}")]
        daemons += [self.daemon("--store", "memory:", "--open", "--listen", f"unix:{path}") for _ in range(3)]
        began = [deferToThread(_starts, daemon) for daemon in daemons]
        results = await gatherResults(began)
        self.assertEqual(1, results.count(True), [daemon.log for daemon in daemons])
        self.assertTrue(await deferToThread(self.answers, path))
        for daemon, result in zip(daemons, results, strict=True):
            self.assertEqual(not result, "it is in use by another program" in daemon.log)


def _starts(daemon: Daemon) -> bool:
    try:
        daemon.start()
    except AssertionError:
        return False
    return True


class ReadmeDaemon(Daemon):
    """A command of the README, on a port of its own.

    :param line: the command.
    """

    def __init__(self, directory: str, line: str) -> None:
        super().__init__(directory)
        self._line = line
        self.log_path = self.directory / f"{self.port}.log"

    def command(self) -> list[str]:
        program, *words = shlex.split(self._line)
        assert program == "twistd", program
        return [sys.executable, "-c", TWISTD, *words, "--listen", f"tcp:{self.port}:interface=127.0.0.1"]


class ReadmeTests(ClusterTestCase):
    """The README's commands that start daemons."""

    async def test_several_on_one(self) -> None:
        """The command for many machines runs several times on one, in the same directory."""
        redis = await self.redis_server()
        text = (CHECKOUT / "README.rst").read_text("utf-8")
        (line,) = re.findall(r"^    (twistd .*realtime --store redis.*)$", text, re.MULTILINE)
        directory = self.mktemp()
        nodes = [ReadmeDaemon(directory, line.replace("redis://redis.example.com/0", redis.url)) for _ in range(2)]
        for node in nodes:
            self.addCleanup(node.kill)
            await deferToThread(node.start)
        for node in nodes:
            self.assertEqual({"rooms": []}, await deferToThread(node.get, "rooms"))

    def test_no_pid_file(self) -> None:
        """No command of the documents for the foreground writes a pid file, for which a second one is refused."""
        for path in (CHECKOUT / "README.rst", *sorted((CHECKOUT / "docs").rglob("*.rst"))):
            for line in re.findall(r"^ .*\btwistd -n.*\brealtime\b.*$", path.read_text("utf-8"), re.MULTILINE):
                self.assertIn(" --pidfile= ", line, path.name)
