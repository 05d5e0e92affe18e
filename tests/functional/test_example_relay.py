"""``examples/relay``, as its README says: programs that publish in Redis, and pages in Chromium."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.functional.browsers import program
from tests.functional.daemon import wait_until
from tests.functional.example import Example, ExampleTestCase
from tests.functional.pages import Page
from tests.redis_server import RedisServer


class RelayTests(ExampleTestCase):
    """``examples/relay``."""

    name = "relay"

    def begin(self) -> Example:
        """The example with a Redis of its own, where programs look for it."""
        redis = RedisServer(Path(self.mktemp())).start()
        self.addCleanup(redis.kill)
        changes = {"6379": str(redis.port), "redis-cli PUBLISH": f"redis-cli -p {redis.port} PUBLISH"}
        loaded = subprocess.run([program("php"), "-m"], capture_output=True, check=True, text=True).stdout
        assert "redis" in loaded.split(), "this test needs the Debian package php-redis"
        return self.example(redis=redis.url, **changes)

    def wait_shown(self, page: Page, *news: str) -> None:
        """Wait until both halves of a page show this."""
        for half in ("socketio", "native"):
            self.wait_texts(page, f"#{half} li", list(news))

    def test_followed(self) -> None:
        """What a shell, Node and PHP publish is in both pages, and how far the task is; also after a restart, but for
        what was published meanwhile."""
        example = self.begin()
        process = example.start()
        one, two = (self.open(f"http://127.0.0.1:{example.ports[8080]}/") for _ in "12")
        for page in (one, two):
            self.wait_status(page, "Connected")
            wait_until(lambda page=page: page.run("return room.joined"))
        shell, node, php, task = example.commands
        for command in (node, php, task):
            example.type(command)
        self.assertEqual("1\n", example.type(shell))
        news = ["Hello from Node (Node)", "Hello from PHP (PHP)", "It works"]
        for page in (one, two):
            self.wait_shown(page, *news)
            self.assertEqual("backup: 100 %", page.read("task"))
        self.look(one)
        example.kill(process)
        self.wait_status(one, "The connection is lost")
        self.assertEqual("0\n", example.type(shell))
        example.start()
        self.wait_status(one, "Connected")
        wait_until(lambda: one.run("return room.joined && connection.state === 'connected'"))
        example.type(node)
        self.wait_shown(one, *news, news[0])

    def test_readme(self) -> None:
        """The README is short, and says what each file is."""
        self.check_readme("realtime.toml", "Celery", "cron")
