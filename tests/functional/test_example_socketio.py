"""``examples/ping-pong`` and ``examples/pubsub-chat``, as their READMEs say, in Chromium."""

from __future__ import annotations

import json

from tests.functional.daemon import SOAK, wait_until
from tests.functional.example import Example, ExampleTestCase
from tests.functional.pages import Page
from tests.rabbitmq_server import shared_server
from tests.redis_server import RedisServer

_QUEUE = "realtime.room-7.amq.topic"
SQLITE, MEMORY, REDIS = range(3)


class StoresTestCase(ExampleTestCase):
    """An example that its README starts with each of three stores."""

    def begin(self) -> Example:
        """The example, with a Redis of its own."""
        redis = RedisServer(self.mktemp(), "--appendonly", "yes").start()
        self.addCleanup(redis.kill)
        return self.example(redis=redis.url)

    def page(self, example: Example) -> Page:
        """Open the page."""
        return self.open(f"http://127.0.0.1:{example.ports[8080]}/")


class PingPongTests(StoresTestCase):
    """``examples/ping-pong``."""

    name = "ping-pong"

    def play(self, page: Page, kind: str) -> None:
        """Press one of the buttons."""
        page.run("document.querySelector(`button[value=${arguments[0]}]`).click()", kind)

    def test_followed(self) -> None:
        """A ball is answered by a sound, a fireball by ten, with each store, and again after a kill and a restart."""
        example = self.begin()
        process, page = example.start(SQLITE), self.page(example)
        self.wait_status(page, "Connected")
        self.play(page, "ball")
        self.play(page, "fireball")
        heard = ["pong", *["bang!"] * 10]
        self.wait_texts(page, "#sounds li", heard)
        self.look(page)
        for store in (MEMORY, REDIS):
            example.kill(process)
            self.wait_status(page, "The connection is lost")
            process = example.start(store)
            self.wait_status(page, "Connected")
            self.play(page, "ball")
            heard.append("pong")
            self.wait_texts(page, "#sounds li", heard)

    def test_readme(self) -> None:
        """The README is short, and the code too."""
        self.check_readme("realtime.toml", "examples/pubsub-chat")


class PubSubChatTests(StoresTestCase):
    """``examples/pubsub-chat``."""

    name = "pubsub-chat"

    def lines(self, page: Page, *expected: str) -> None:
        """Wait until these are shown, where the names of sockets are left out."""
        self.wait_texts(page, "#chat li", list(expected))

    def chat(self, example: Example, store: int) -> None:
        """Two visitors and curl talk, with one store."""
        process = example.start(store)
        one, two = self.page(example), self.page(example)
        for page in (one, two):
            self.wait_status(page, "Subscribed to room-7")
        self.write(one, "say", "I am one")
        name = one.run("return me")
        self.lines(one, "You: I am one")
        self.lines(two, f"{name}: I am one")
        publish, read, *_ = example.commands
        example.type(publish)
        self.lines(one, "You: I am one", "curl: Hello")
        said = [message["data"] for message in json.loads(example.type(read))["messages"]]
        self.assertEqual([{"uid": name, "message": "I am one"}, {"uid": "curl", "message": "Hello"}], said)
        self.look(one)
        self.other_channels(two)
        example.kill(process)
        self.wait_status(one, "The connection is lost")
        process = example.start(store)
        self.wait_status(one, "Subscribed to room-7")
        kept = [] if store == MEMORY else [f"{name}: I am one", "curl: Hello"]
        self.lines(one, *kept)
        self.write(one, "say", "still here")
        self.lines(one, *kept, "You: still here")
        example.kill(process)

    def other_channels(self, page: Page) -> None:
        """Channel 13 is refused, and what is said in another one isn't seen in the first."""
        self.write(page, "choose", "13")
        self.wait_status(page, "There is no such channel.")
        self.write(page, "choose", "8")
        self.wait_status(page, "Subscribed to room-8")
        self.write(page, "say", "in another channel")
        self.lines(page, "You: in another channel")

    def test_followed(self) -> None:
        """Two visitors and curl share a channel, which is there after a kill and a restart; in the memory it isn't."""
        example = self.begin()
        for store in (SQLITE, REDIS, MEMORY) if SOAK else (SQLITE,):
            self.chat(example, store)

    def test_shared(self) -> None:
        """With Redis, the channels are those that were there before."""
        if not SOAK:
            self.chat(self.begin(), REDIS)

    def test_rabbitmq(self) -> None:
        """What is published to RabbitMQ is in the channel, once for each id, and what visitors say is in RabbitMQ; also
        after the bridge, the daemon and RabbitMQ were killed."""
        rabbitmq = shared_server(self)
        example = self.example()
        example.environment["AMQP_URL"] = rabbitmq.url
        _, _, bridge, listen, post = example.commands
        process, page = example.start(MEMORY), self.page(example)
        self.wait_status(page, "Subscribed to room-7")
        bridge += f" --url http://127.0.0.1:{example.ports[8080]}/"
        bridging = example.begin(bridge)
        example.begin(listen)
        wait_until(
            lambda: rabbitmq.consumers("realtime.room-7.amq.topic") and "Listening" in example.said(), example.said
        )
        for _ in range(2):
            example.type(post)
        self.lines(page, "RabbitMQ: Hello from RabbitMQ")
        self.write(page, "say", "Hello from a page")
        wait_until(lambda: f"room-7: {page.run('return me')}: Hello from a page\n" in example.said(), example.said)
        self.assertNotIn("room-7: RabbitMQ", example.said())
        example.kill(bridging)
        example.type(post.replace("id-1", "id-2"))
        rabbitmq.restart()
        example.begin(bridge)
        self.lines(page, "RabbitMQ: Hello from RabbitMQ", "You: Hello from a page", "RabbitMQ: Hello from RabbitMQ")
        example.kill(process)

    def test_readme(self) -> None:
        """The README is short, and says what isn't there."""
        self.check_readme("realtime.toml", "MongoDB")
