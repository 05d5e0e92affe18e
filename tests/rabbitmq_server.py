"""A real rabbitmq-server in a process of its own, for tests."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates import write_self_signed
from tests.functional.browsers import program
from tests.functional.daemon import free_port, wait_until

__all__ = ["RabbitMQServer", "shared_server"]

_SCRIPT = "/usr/lib/rabbitmq/bin/rabbitmq-server"
"""Debian's own program changes the user and the directory, and then runs this."""

_shared: list[RabbitMQServer] = []


def shared_server(case: SynchronousTestCase) -> RabbitMQServer:
    """One server for all tests of this process, as it takes long to start. The test's queues go with it."""
    if not _shared:
        _shared.append(RabbitMQServer(case.mktemp()).start())
        atexit.register(_shared[0].kill)
    case.addCleanup(_shared[0].delete_queues)
    return _shared[0]


class RabbitMQServer:
    """``rabbitmq-server`` on a free loopback port, with its data in a directory.

    :param directory: for its data and its log; kept over restarts.
    :ivar certificate: the path of the one that it has.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port, self._nodes, self._epmd = free_port(), free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._queues: set[str] = set()
        self._tls_port = free_port()
        key, self.certificate = write_self_signed(self.directory / "tls", "127.0.0.1")
        lines = f"""
            listeners.tcp.1 = 127.0.0.1:{self.port}
            listeners.ssl.1 = 127.0.0.1:{self._tls_port}
            ssl_options.certfile = {self.certificate}
            ssl_options.keyfile = {key}
        """
        (self.directory / "rabbitmq.conf").write_text(textwrap.dedent(lines))
        (self.directory / "plugins").write_text("[].\n")

    @property
    def url(self) -> str:
        """Its default virtual host, as the default user."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    @property
    def tls_url(self) -> str:
        """The same by TLS, with a certificate that nobody vouches for."""
        return f"amqps://guest:guest@127.0.0.1:{self._tls_port}/%2F"

    @property
    def log(self) -> str:
        """What it has written so far."""
        return (self.directory / "log").read_text(errors="replace")

    def _environment(self) -> dict[str, str]:
        beam = f"-kernel inet_dist_use_interface {{127,0,0,1}} -start_epmd false -erl_epmd_port {self._nodes}"
        return {
            **os.environ,
            "HOME": str(self.directory),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._nodes),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": beam,
        }

    def start(self) -> RabbitMQServer:
        """Start it, and wait until it takes connections.

        :raises AssertionError: it isn't installed, or doesn't start.
        """
        assert self._process is None, "rabbitmq-server is running"
        program("rabbitmq")
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_SCRIPT], env=self._environment(), cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_until(self._answers, lambda: "rabbitmq-server did not answer; its log:\n" + self.log)
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "rabbitmq-server ended by itself; its log:\n" + self.log
        with contextlib.suppress(AMQPError, OSError), self.channel():
            return True
        return False

    @contextlib.contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """A channel over a connection of its own, which confirms what is published."""
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel
        finally:
            connection.close()

    def publish(self, exchange: str, key: str, body: Any, **properties: Any) -> None:
        """Publish a message.

        :param body: bytes as they are, or what JSON has.
        """
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        with self.channel() as channel:
            channel.basic_publish(exchange, key, data, pika.BasicProperties(delivery_mode=2, **properties))

    def bind(self, queue: str, exchange: str, key: str = "#") -> None:
        """Make a durable queue for what is published to an exchange."""
        self._queues.add(queue)
        with self.channel() as channel:
            channel.queue_declare(queue, durable=True)
            channel.queue_bind(queue, exchange, key)

    def get(self, queue: str) -> tuple[pika.BasicProperties, Any] | None:
        """Take the next message of a queue; None if there is none."""
        with self.channel() as channel:
            method, properties, body = channel.basic_get(queue, auto_ack=True)
        return None if method is None else (properties, json.loads(body))

    def waiting(self, queue: str) -> int:
        """How many messages of a queue wait for a consumer."""
        return int(self._look_at(queue).message_count)

    def consumers(self, queue: str) -> int:
        """How many consume from a queue; 0 if there is no such queue."""
        with contextlib.suppress(ChannelClosedByBroker):
            return int(self._look_at(queue).consumer_count)
        return 0

    def _look_at(self, queue: str) -> Any:
        self._queues.add(queue)
        with self.channel() as channel:
            return channel.queue_declare(queue, passive=True).method

    def delete_queues(self) -> None:
        """Delete the queues that were used."""
        with self.channel() as channel:
            while self._queues:
                channel.queue_delete(self._queues.pop())

    def kill(self) -> None:
        """End it at once, with all of its processes; nothing where it isn't running."""
        process, self._process = self._process, None
        if process is None:
            return
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 5
        command = [program("epmd"), "-port", str(self._epmd), "-kill"]  # it has left the group
        while b"Killed" not in subprocess.run(command, capture_output=True).stdout and time.monotonic() < deadline:
            time.sleep(0.1)

    def restart(self) -> None:
        """Kill it, and start it on the same port."""
        self.kill()
        self.start()
