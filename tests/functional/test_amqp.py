"""``realtime-chat amqp``: real bridges between a real daemon and a real RabbitMQ, any of which is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

from pika import BasicProperties
from twisted.trial.unittest import SynchronousTestCase

from tests.deadlines import DEADLINE
from tests.functional.daemon import NO_LIMITS, SOAK, Daemon, wait_until
from tests.functional.test_console import Console
from tests.rabbitmq_server import shared_server

MANY = 2_000 if SOAK else 150
"""Messages of a burst."""

_PREFETCH = 10


class BridgeTestCase(SynchronousTestCase):
    """A daemon, a RabbitMQ, and bridges as somebody starts them."""

    timeout = 300

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir()
        self.rabbitmq = shared_server(self)
        self.daemon = Daemon(self.directory / "daemon", *self.options(), *NO_LIMITS).start()
        self.addCleanup(self.daemon.kill)
        self.bridges = 0

    def options(self) -> tuple[str, ...]:
        """The daemon's options."""
        return ("--history=100000",)

    def bridge(self, *options: str, who: tuple[str, ...] = ()) -> Console:
        """Start a bridge; it is the same user each time.

        :param who: options that say who it is.
        """
        self.bridges += 1
        who = who or ("--client-file", str(self.directory / "client"))
        words = ("amqp", "--amqp", self.rabbitmq.url, *who, *options)
        bridge = Console(self.directory, self.bridges, words, self.daemon.url)
        self.addCleanup(bridge.kill)
        return bridge

    def consuming(self, *options: str) -> Console:
        """Start a bridge from ``amq.topic`` to the room ``orders``, and wait until it has its queue."""
        bridge = self.bridge("--consume", "amq.topic:orders.#=orders", *options)
        self.wait_queue(bridge, "realtime.orders.amq.topic")
        return bridge

    def wait_queue(self, bridge: Console, queue: str) -> None:
        """Wait until somebody consumes from a queue."""

        def consumes() -> bool:
            assert bridge.process.poll() is None, bridge.noted
            return self.rabbitmq.consumers(queue) > 0

        wait_until(consumes, lambda: bridge.noted)

    def messages(self, room: str) -> list[dict[str, Any]]:
        """What is stored in a room."""
        page: dict[str, Any] = self.daemon.get(f"rooms/{room}/messages?last=500")
        return list(page["messages"])

    def data(self, room: str) -> list[Any]:
        """The data of what is stored in a room."""
        return [message["data"] for message in self.messages(room)]

    def wait_data(self, room: str, expected: list[Any]) -> None:
        """Wait until this is stored, and nothing else."""
        wait_until(lambda: len(self.data(room)) >= len(expected), lambda: f"{self.data(room)}")
        self.assertEqual(expected, self.data(room))

    def say(self, room: str, data: Any) -> None:
        """Publish in a room."""
        body = json.dumps({"data": data}).encode()
        request = urllib.request.Request(
            f"{self.daemon.url}rooms/{room}/messages", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=DEADLINE):
            pass

    def next(self, queue: str) -> tuple[BasicProperties, Any]:
        """Wait for the next message of a queue."""
        found: tuple[BasicProperties, Any] = wait_until(lambda: self.rabbitmq.get(queue))
        return found

    def end(self, bridge: Console) -> None:
        """Press ^C."""
        self.assertEqual(130, bridge.interrupt(), bridge.noted)


class RelayTests(BridgeTestCase):
    """What comes through."""

    def test_to_room(self) -> None:
        """A message is stored with its body, type and id; the same one again is acknowledged, and not stored."""
        bridge = self.consuming()
        for _ in range(2):
            self.rabbitmq.publish("amq.topic", "orders.new", {"id": 1}, type="order", message_id="order-1")
        self.rabbitmq.publish("amq.topic", "other", {"id": 2})
        self.rabbitmq.publish("amq.topic", "orders.new", b"plain text")
        self.wait_data("orders", [{"id": 1}, {"text": "plain text"}])
        first = self.messages("orders")[0]
        self.assertEqual(("order", "order-1"), (first["event"], first["key"]))
        wait_until(lambda: self.rabbitmq.waiting("realtime.orders.amq.topic") == 0)
        self.end(bridge)
        self.assertEqual(0, self.rabbitmq.waiting("realtime.orders.amq.topic"))
        self.assertEqual(("", ""), (bridge.said, bridge.noted))

    def test_to_exchange(self) -> None:
        """A room's message is published with its place and sender. One that is from an exchange isn't, nor is one that
        comes back; what was said while no bridge ran comes later."""
        self.rabbitmq.bind("out", "amq.topic", "lobby")
        options = ("--publish", "lobby=amq.topic", "--positions", str(self.directory / "positions"))
        both = ("--consume", "amq.topic:#=lobby", *options)
        bridge = self.bridge(*both)
        self.wait_queue(bridge, "realtime.lobby.amq.topic")
        wait_until((self.directory / "positions").exists)
        self.say("lobby", {"text": "one"})
        properties, body = self.next("out")
        (stored,) = self.messages("lobby")
        self.assertEqual({"text": "one"}, body)
        self.assertEqual(f"lobby/{stored['position']}", properties.message_id)
        self.assertEqual(
            ("message", 2, "lobby"), (properties.type, properties.delivery_mode, properties.headers["room"])
        )
        self.rabbitmq.publish("amq.topic", "to.lobby", {"text": "two"})
        self.wait_data("lobby", [{"text": "one"}, {"text": "two"}])
        self.end(bridge)
        self.say("lobby", {"text": "three"})
        self.bridge(*both)
        self.assertEqual({"text": "three"}, self.next("out")[1])
        self.assertIsNone(self.rabbitmq.get("out"))
        self.wait_data("lobby", [{"text": text} for text in ("one", "two", "three")])

    def test_tls(self) -> None:
        """RabbitMQ may be reached by TLS, if somebody that the system trusts vouches for it; else it is refused."""
        options = ("--amqp", self.rabbitmq.tls_url, "--consume", "amq.topic:orders.#=orders")
        bridge = self.bridge(*options)
        wait_until(lambda: "certificate verify failed" in bridge.noted, lambda: bridge.noted)
        self.end(bridge)
        self.patch(os, "environ", {**os.environ, "SSL_CERT_FILE": str(self.rabbitmq.certificate)})
        bridge = self.bridge(*options)
        self.rabbitmq.publish("amq.topic", "orders", {"id": 1}, message_id="1")
        self.wait_queue(bridge, "realtime.orders.amq.topic")
        self.rabbitmq.publish("amq.topic", "orders", {"id": 2}, message_id="2")
        wait_until(lambda: {"id": 2} in self.data("orders"), lambda: bridge.noted)

    def test_prefetch(self) -> None:
        """While the daemon hangs, no more than so many messages are under way; they are stored when it goes on."""
        self.consuming("--prefetch", str(_PREFETCH))
        os.kill(self.daemon.pid, signal.SIGSTOP)
        self.addCleanup(os.kill, self.daemon.pid, signal.SIGCONT)
        self.publish_many(range(50))
        wait_until(lambda: self.rabbitmq.waiting("realtime.orders.amq.topic") == 50 - _PREFETCH)
        os.kill(self.daemon.pid, signal.SIGCONT)
        self.wait_data("orders", [*range(50)])

    def publish_many(self, numbers: range) -> None:
        """Publish numbers over one connection, each with an id of its own."""
        with self.rabbitmq.channel() as channel:
            for number in numbers:
                properties = BasicProperties(delivery_mode=2, message_id=f"order-{number}")
                channel.basic_publish("amq.topic", "orders", str(number).encode(), properties)

    def test_killed(self) -> None:
        """Bridge, daemon and RabbitMQ are killed in turn, while messages go both ways. Each is stored once, in order.
        Each reaches its exchange; one that does so twice has the same id."""
        self.rabbitmq.bind("out", "amq.fanout")
        options = ("--publish", "news=amq.fanout", "--positions", str(self.directory / "positions"), "--prefetch=20")
        bridge = self.consuming(*options)
        for turn in range(3):
            self.publish_many(range(turn * MANY, (turn + 1) * MANY))
            self.say("news", turn)
            if turn == 0:
                bridge.kill()
                bridge = self.consuming(*options)
            elif turn == 1:
                self.daemon.kill()
                self.daemon.start()
            else:
                self.rabbitmq.restart()
        wait_until(
            lambda: len(self.all_data("orders")) >= 3 * MANY, lambda: f"{len(self.all_data('orders'))} {bridge.noted}"
        )
        self.assertEqual([*range(3 * MANY)], self.all_data("orders"))
        self.say("news", 3)
        found: dict[str, int] = {}
        while 3 not in found.values():
            properties, body = self.next("out")
            found[str(properties.message_id)] = body
        self.assertEqual([0, 1, 2, 3], [*found.values()])
        self.assertIn("the connection to RabbitMQ is back", bridge.noted)
        self.assertNotIn("guest", bridge.noted)

    def all_data(self, room: str) -> list[Any]:
        """All of a room, page by page."""
        found: list[Any] = []
        epoch, _, _ = str(self.daemon.get(f"rooms/{room}/messages?last=1")["top"]).partition(":")
        since = f"{epoch}:0"
        while True:
            page = self.daemon.get(f"rooms/{room}/messages?limit=500&since={since}")
            found += [message["data"] for message in page["messages"]]
            if not page["messages"]:
                return found
            since = page["position"]

    def test_standby(self) -> None:
        """Of two bridges one is active; when it is killed, the other goes on."""
        first, second = self.consuming(), self.bridge("--consume", "amq.topic:orders.#=orders")
        self.publish_many(range(20))
        first.kill()
        self.publish_many(range(20, 40))
        wait_until(lambda: len(self.data("orders")) == 40, lambda: second.noted)
        self.assertEqual({*range(40)}, {*self.data("orders")})


class RefusalTests(BridgeTestCase):
    """What doesn't come through."""

    def options(self) -> tuple[str, ...]:
        """Guests may write in one room alone."""
        key, config = self.directory / "key", self.directory / "realtime.toml"
        key.write_text("a key that is as long as it should be, and known to nobody\n")
        config.write_text('room = [{match = "orders", guests = "rw"}]\n')
        return ("--token-key", str(key), "--config", str(config))

    def test_unfit(self) -> None:
        """What can't be stored is rejected, which is said, and the next one is stored."""
        bridge = self.consuming()
        self.rabbitmq.publish("amq.topic", "orders", b"\xff\xfe")
        self.rabbitmq.publish("amq.topic", "orders", {"n": 1}, message_id="one")
        self.rabbitmq.publish("amq.topic", "orders", {"n": 2}, message_id="one")
        self.rabbitmq.publish("amq.topic", "orders", {"n": "x" * 100_000})
        self.rabbitmq.publish("amq.topic", "orders", {"n": 3})
        self.wait_data("orders", [{"n": 1}, {"n": 3}])
        for why in ("neither JSON nor text", "key_reused", "too_large"):
            self.assertIn(why, bridge.noted)
        wait_until(lambda: self.rabbitmq.waiting("realtime.orders.amq.topic") == 0)

    def test_forbidden(self) -> None:
        """If the bridge may not write there, it ends, says why, and the message waits for one that may."""
        bridge = self.bridge("--consume", "amq.topic=secret")
        self.wait_queue(bridge, "realtime.secret.amq.topic")
        self.rabbitmq.publish("amq.topic", "x", {"n": 1})
        self.assertEqual(1, bridge.process.wait(DEADLINE))
        self.assertIn("may not", bridge.noted)
        wait_until(lambda: self.rabbitmq.waiting("realtime.secret.amq.topic") == 1)

    def test_no_exchange(self) -> None:
        """An exchange that isn't there ends the bridge, which says its name."""
        for options in (("--consume", "nothing=orders"), ("--publish", "orders=nothing", "--positions", self.mktemp())):
            bridge = self.bridge(*options)
            if "--publish" in options:
                wait_until(Path(options[-1]).exists)
                self.say("orders", 1)
            self.assertEqual(1, bridge.process.wait(DEADLINE))
            self.assertIn("no exchange 'nothing'", bridge.noted)

    def test_patient(self) -> None:
        """If RabbitMQ refuses the password, the bridge says so once, tries on, and tells no password."""
        words = ("--amqp", self.rabbitmq.url.replace("guest:guest", "guest:wrong"), "--consume", "amq.topic=orders")
        bridge = self.bridge(*words)
        wait_until(lambda: "are the user, the password" in bridge.noted, lambda: bridge.noted)
        self.assertNotIn("wrong", bridge.noted)
        self.end(bridge)
        self.assertEqual(1, bridge.noted.count("there is no connection"))

    def test_usage(self) -> None:
        """What is missing on the command line is said."""
        for words, why in (
            ((), "there is nothing to do"),
            (("--publish", "lobby=amq.topic"), "--positions FILE"),
            (("--consume", "amq.topic=lobby", "--prefetch", "0"), "right would be 50"),
            (("--consume", "amq.topic=lobby", "--amqp", "http://x"), "right would be amqp://"),
        ):
            bridge = self.bridge(*words)
            self.assertIn(bridge.process.wait(DEADLINE), (1, 2))
            self.assertIn(why, bridge.noted)
        bridge = self.bridge("--consume", "amq.topic=lobby", who=("--name", "Bridge"))
        self.assertEqual(2, bridge.process.wait(DEADLINE))
        self.assertIn("--client-file FILE", bridge.noted)
