"""A real redis-server in a process of its own, for tests."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import hiredis
from twisted.trial.unittest import TestCase

from realtime_chat.store.redis import appender
from tests.functional.daemon import free_port, wait_until

__all__ = ["PERSISTENT", "RedisServer", "allow_slow_redis", "shared_server"]

PERSISTENT = ("--appendonly", "yes", "--appendfsync", "always")
"""Options with which nothing that was answered is lost by a kill."""

_running: set[RedisServer] = set()
_shared: list[RedisServer] = []


def shared_server(case: TestCase, empty: bool = True) -> RedisServer:
    """One server for all tests that don't harm it.

    :param empty: whether to empty it first.
    """
    if not _shared:
        _shared.append(RedisServer(case.mktemp()).start())
    if empty:
        _shared[0].command("FLUSHALL")
    return _shared[0]


def allow_slow_redis(case: TestCase) -> None:
    """Let stores accept what Redis stores late, in a test that isn't about that: on a busy machine much is late."""
    for name in ("_SEND_WITHIN", "_STORE_WITHIN", "_ANSWER_WITHIN"):
        case.patch(appender, name, 20 * getattr(appender, name))


class RedisServer:
    """``redis-server`` on a free loopback port, which keeps nothing unless ``options`` say otherwise.

    :param directory: for its data and its log; kept over restarts.
    :param options: further options of ``redis-server``.
    :param unix: whether it has a Unix socket as well, ``path``.
    :param tls: the names of a certificate and a key; it listens on ``tls_port`` as well.
    :param password: which it wants.
    """

    def __init__(
        self,
        directory: str | Path,
        *options: str,
        unix: bool = False,
        tls: tuple[str, str] | None = None,
        password: str | None = None,
    ) -> None:
        self.directory = Path(directory).resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.port = free_port()
        self.tls_port = free_port() if tls else 0
        self.password = password
        # Not in the directory, whose path may be longer than the 107 bytes of a socket's.
        self.path = str(Path(tempfile.gettempdir(), f"realtime-redis-{self.port}.sock"))
        self._tls = tls
        self._unix = unix
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its database 0."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """One of its databases."""
        secret = "" if self.password is None else f":{self.password}@"
        return f"redis://{secret}127.0.0.1:{self.port}/{database}"

    @property
    def log(self) -> str:
        """What it has written so far."""
        path = self.directory / "redis.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None, "redis-server is not running"
        return self._process.pid

    def start(self, *options: str, wait: bool = True) -> RedisServer:
        """Start it.

        :param options: further options, this time only.
        :param wait: until it answers, and has loaded its data.
        """
        assert self._process is None, "redis-server is running"
        program = shutil.which("redis-server")
        assert program is not None, "the tests need the Debian package redis-server"
        self._process = subprocess.Popen(
            [program, *self._arguments(), *self.options, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.directory,
        )
        _running.add(self)
        if wait:
            wait_until(self._answers, lambda: "redis-server did not answer; its log:\n" + self.log)
        return self

    def _arguments(self) -> list[str]:
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--save", ""]
        arguments += ["--logfile", str(self.directory / "redis.log"), "--enable-debug-command", "yes"]
        if self._unix:
            arguments += ["--unixsocket", self.path]
        if self._tls:
            certificate, key = self._tls
            arguments += ["--tls-port", str(self.tls_port), "--tls-cert-file", certificate, "--tls-key-file", key]
            arguments += ["--tls-ca-cert-file", certificate, "--tls-auth-clients", "no"]
        if self.password is not None:
            arguments += ["--requirepass", self.password]
        return arguments

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "redis-server ended by itself; its log:\n" + self.log
        with suppress(OSError, hiredis.ReplyError):
            return self.command("PING") == b"PONG"
        return False

    def command(self, *words: str | bytes | int, database: int = 0, timeout: float = 5.0) -> Any:
        """Send one command over a connection of its own, and wait for the answer.

        :raises hiredis.ReplyError: Redis answered with an error.
        :raises OSError: it didn't answer.
        """
        reader = hiredis.Reader()
        with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
            before: list[tuple[str | bytes | int, ...]] = []
            if self.password is not None:
                before.append(("AUTH", self.password))
            if database:
                before.append(("SELECT", database))
            for each in (*before, words):
                connection.sendall(hiredis.pack_command(each))
                answer = _receive(connection, reader)
        return answer

    def info(self, section: str) -> dict[str, str]:
        """A section of INFO."""
        lines = self.command("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def pause(self) -> None:
        """Let it hang."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; nothing where it isn't running."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        _running.discard(self)
        Path(self.path).unlink(missing_ok=True)
        if process is not None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)
            process.wait(20)

    def restart(self, *options: str) -> None:
        """Kill it, and start it on the same port."""
        self.kill()
        self.start(*options)

    def replica_of(self, master: RedisServer) -> None:
        """Follow another server, and wait till it has what that has."""
        self.command("REPLICAOF", "127.0.0.1", master.port)
        wait_until(lambda: self.info("replication")["master_link_status"] == "up", lambda: self.log)

    def promote(self) -> None:
        """Be a master."""
        self.command("REPLICAOF", "NO", "ONE")

    def move(self, port: int) -> None:
        """Listen on another port, as if an address now led here."""
        self.command("CONFIG", "SET", "port", port)
        self.port = port


def _receive(connection: socket.socket, reader: hiredis.Reader) -> Any:
    while (answer := reader.gets()) is False:
        data = connection.recv(65536)
        if not data:
            raise ConnectionResetError("redis-server closed the connection")
        reader.feed(data)
    if isinstance(answer, hiredis.ReplyError):
        raise answer
    return answer


@atexit.register
def _kill_all() -> None:
    """Leave nothing behind, even where a test runner was interrupted."""
    for server in list(_running):
        server.kill()
