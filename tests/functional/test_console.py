"""``realtime-chat`` as a person starts it: real processes, against a real daemon that is killed and started again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client import TRANSPORTS
from tests.deadlines import DEADLINE
from tests.functional.daemon import CHECKOUT, Daemon, free_port, wait_until
from tests.functional.forked import ForkedProcess
from tests.redis_server import RedisServer

_PROGRAM = "import sys; from realtime_chat.console.main import main; sys.exit(main())"


class Console:
    """One ``realtime-chat`` in a process of its own.

    :param directory: for what it writes.
    """

    def __init__(self, directory: Path, number: int, arguments: tuple[str, ...], url: str) -> None:
        self.output = directory / f"{number}.out"
        self.errors = directory / f"{number}.err"
        with self.output.open("wb") as output, self.errors.open("wb") as errors:
            self.process = ForkedProcess(
                _PROGRAM,
                arguments,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT), "REALTIME_URL": url},
            )

    @property
    def said(self) -> str:
        """What it has written on standard output."""
        return self.output.read_text()

    @property
    def lines(self) -> list[str]:
        """The same, by lines that are complete."""
        return self.said.split("\n")[:-1]

    @property
    def noted(self) -> str:
        """What it has written on standard error."""
        return self.errors.read_text()

    def type(self, text: str) -> None:
        """Give it something to read."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def end(self, patience: float = DEADLINE) -> int:
        """End its input, and wait for its status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(patience)

    def interrupt(self) -> int:
        """Press ^C, and wait for its status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(10)

    def kill(self) -> None:
        """End it, if it hasn't."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


class ConsoleTestCase(SynchronousTestCase):
    """Tests of consoles and daemons that end with the test."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir()
        self.number = 0

    def daemon(self, *options: str) -> Daemon:
        """A daemon that runs."""
        daemon = Daemon(self.directory / "daemon", *options)
        self.addCleanup(daemon.kill)
        self.url = daemon.url
        return daemon.start()

    def console(self, *arguments: str, url: str | None = None) -> Console:
        """A console that runs."""
        self.number += 1
        console = Console(self.directory, self.number, arguments, url or self.url)
        self.addCleanup(console.kill)
        return console

    def done(self, *arguments: str, status: int = 0, url: str | None = None, typed: str = "") -> Console:
        """A console that has ended, with this status."""
        console = self.console(*arguments, url=url)
        if typed:
            console.type(typed)
        self.assertEqual(status, console.end(), console.noted)
        return console

    def wait_for_line(self, console: Console, count: int) -> None:
        """Wait till a console has written so many lines."""
        wait_until(lambda: len(console.lines) >= count, lambda: f"{console.lines[-3:]}\n{console.noted}", 60)


class RestartTests(ConsoleTestCase):
    """What was begun is completed."""

    def test_killed_three_times(self) -> None:
        """``publish`` and ``tail`` lose no line and double none, over three kills of the daemon."""
        self._killed_three_times()

    def test_killed_three_times_on_polls(self) -> None:
        """The same over long poll."""
        self._killed_three_times("--transport", "poll")

    def test_killed_three_times_on_streams(self) -> None:
        """The same over event streams."""
        self._killed_three_times("--transport", "sse")

    def _killed_three_times(self, *options: str) -> None:
        daemon = self.daemon()
        self.done("publish", "lobby", "first")
        tail = self.console("tail", "lobby", "--last", "1", *options)
        self.wait_for_line(tail, 1)
        publisher = self.console("publish", "lobby", *options)
        count = 0
        for kills in range(1, 4):
            for _ in range(250):
                count += 1
                publisher.type(f"line {count}\n")
            self.wait_for_line(publisher, count - 200)
            daemon.kill()
            publisher.type(f"line {count + 1}\n")
            count += 1
            daemon.start()
            wait_until(lambda: tail.noted.count("is back") == kills, lambda: tail.noted, 60)  # noqa: B023
        self.assertEqual(0, publisher.end(90), publisher.noted)
        self.wait_for_line(tail, count + 1)
        self.assertEqual(130, tail.interrupt())
        said = [line.split(": ", 1)[1] for line in tail.lines]
        self.assertEqual(["first", *(f"line {number}" for number in range(1, count + 1))], said)
        offsets = [int(line.split(":")[1]) for line in publisher.lines]
        self.assertEqual(list(range(2, count + 2)), offsets)
        gone, back = (tail.noted.count(f"the connection is {what}") for what in ("gone", "back"))
        self.assertEqual((3, 3), (gone, back), tail.noted)


class NewcomerTests(ConsoleTestCase):
    """What a person meets who doesn't know it yet."""

    def test_nobody_there(self) -> None:
        """Where no daemon runs, that is said with the address, and the status is 1."""
        url = f"http://127.0.0.1:{free_port()}/"
        console = self.done("tail", "lobby", url=url, status=1)
        self.assertIn("Is the daemon running?", console.noted)
        self.assertIn(url, console.noted)

    def test_wrong_command_lines(self) -> None:
        """What can't be right is refused with status 2, and with what would be right."""
        for arguments, right in (
            (("tail", "a room"), "a room's name is 1 to 128 characters"),
            (("tail", "lobby", "--since", "7"), "EPOCH:OFFSET"),
            (("tail", "lobby", "--last", "-1"), "--last"),
            (("publish", "lobby", "{", "--json"), "not JSON"),
            (("publish", "lobby", r'"\ud800"', "--json"), "a lone surrogate at byte 1 "),
            (("publish", "lobby", "[" * 9000, "--json"), "nests deeper"),
            (("--url", "localhost:8080", "rooms"), "right would be http://localhost:8080"),
            (("rooms", "--transport", "pigeon"), "websocket"),
            (("rooms", "--token", "a.b.c", "--token-file", "t"), "give one of them"),
            (("chat", "lobby", "--token", "a.b.c", "--name", "Ann"), "a user has the name that is in the token"),
            (("shout", "lobby"), "tail"),
            ((), "COMMAND"),
        ):
            self.assertIn(right, self.done(*arguments, url="http://127.0.0.1:1/", status=2).noted)

    def test_ipv6(self) -> None:
        """A daemon that has its messages in a Redis on ``::1``, and listens there, is reached by that address on each
        transport."""
        port = free_port()
        redis = RedisServer(self.directory / "redis", "--bind", "::1", "127.0.0.1")
        self.addCleanup(redis.kill)
        store = f"redis://[::1]:{redis.start().port}/0"
        daemon = self.daemon("--listen", rf"tcp6:{port}:interface=\:\:1", "--store", store)
        self.assertIn(f"connected to {store}", daemon.log)
        self.assertIn(f"chat page: http://[::1]:{port}/", daemon.log)
        for kind in TRANSPORTS:
            self.done("publish", "lobby", kind, "--transport", kind, url=f"http://[::1]:{port}")
        tail = self.console("tail", "lobby", "--url", f"http://[::1]:{port}/", url="http://nobody.invalid/")
        self.wait_for_line(tail, len(TRANSPORTS))
        self.assertEqual(130, tail.interrupt())

    def test_wrong_urls(self) -> None:
        """A URL that can't be one, or that fails at once, ends it in a moment with one message and no traceback; the
        message names the option or the variable that it came from."""
        for url, status, words in (
            ("http://[::1", 2, "REALTIME_URL: 'http://[::1' is not the URL"),
            ("localhost:8080", 2, "right would be http://localhost:8080"),
            ("http://me:secret@host/", 2, "user name"),
            ("http://nobody.invalid/", 1, "there is no host nobody.invalid\nIs the daemon running?"),
            ("http://[::1]:1/", 1, "nobody answers at ::1 port 1"),
            ("http://chat_server.invalid/", 1, "there is no host chat_server.invalid"),
        ):
            console = self.console("rooms", url=url)
            self.assertEqual(status, console.end(), url)
            self.assertIn(words, console.noted)
            self.assertNotIn("Traceback", console.noted)
            self.assertNotIn("secret", console.noted)
        self.assertIn("--url: ", self.done("rooms", "--url", "http://:1/", status=2, url="http://host/").noted)

    def test_help_and_version(self) -> None:
        """``--help`` names all commands, and ``--version`` the version."""
        said = self.done("--help", url="x").said
        for command in ("tail", "publish", "members", "rooms", "chat"):
            self.assertIn(command, said)
        self.assertRegex(self.done("--version", url="x").said, r"^realtime-chat \S+\n$")

    def test_refused_room(self) -> None:
        """A room that may not be read is refused with the server's words and status 1."""
        self.daemon("--store=memory:")
        self.assertIn("of that id alone may read", self.done("tail", "@somebody", status=1).noted)

    def test_not_a_daemon(self) -> None:
        """Another path of a web server is no daemon, and that is asked."""
        self.daemon("--store=memory:")
        console = self.done("rooms", url=self.url + "elsewhere/", status=1)
        self.assertRegex(console.noted, "is this the URL of a realtime_chat daemon|there is nothing at this address")


class UseTests(ConsoleTestCase):
    """What each command does."""

    def test_publish_prints_positions(self) -> None:
        """A message's position is printed, and ``tail --since`` goes on after it."""
        self.daemon("--store=memory:")
        first = self.done("publish", "lobby", "one").lines
        self.done("publish", "lobby", "--json", '{"n": 2}', "--event", "count")
        tail = self.console("tail", "lobby", "--since", first[0], "--json")
        self.wait_for_line(tail, 1)
        self.assertIn('"event":"count","data":{"n":2}', tail.lines[0])
        self.assertEqual(130, tail.interrupt())
        self.assertEqual("", tail.noted)

    def test_key(self) -> None:
        """The same lines under the same key, by the same client, are stored once."""
        self.daemon("--store=memory:")
        options = ("--key", "import-7", "--client-file", str(self.directory / "client"))
        first = self.done("publish", "lobby", *options, typed="a\nb\n")
        self.assertEqual(first.lines, self.done("publish", "lobby", *options, typed="a\nb\n").lines)
        self.assertEqual(2, len(first.lines))
        self.assertEqual(0o600, (self.directory / "client").stat().st_mode & 0o777)
        other = self.done("publish", "lobby", *options, typed="a\nc\n", status=1)
        self.assertIn("line 2: ", other.noted)

    def test_token(self) -> None:
        """A token makes one a user, by an option or a file. A wrong one is refused at once, and not shown."""
        key, token = self.directory / "key", self.directory / "token"
        key.write_text(self.done("key", url="http://127.0.0.1:1/").said)
        daemon = self.daemon("--store=memory:", "--token-key", str(key))
        made = ("token", "--token-key", str(key), "--sub", "ann", "--name", "Ann", "--room", "lobby=rw")
        token.write_text(self.done(*made).said)
        self.done("publish", "lobby", "1", "--token-file", str(token))
        self.done("publish", "lobby", "2", "--token", token.read_text().strip())
        tail = self.console("tail", "lobby", "--json", "--token-file", str(token))
        self.wait_for_line(tail, 2)
        self.assertEqual(130, tail.interrupt())
        self.assertEqual(2, tail.said.count('"from":{"id":"ann","name":"Ann"}'))
        self.assertIn("you may not write", self.done("publish", "lobby", "3", status=1).noted)
        for text, words in (("a.b.c", ""), ("", "it is empty"), ("é", "--token-file")):
            token.write_text(text)
            noted = self.done("publish", "lobby", "4", "--token-file", str(token), status=1).noted
            self.assertIn(words, noted)
            self.assertNotIn("a.b.c", noted)
        self.assertNotIn("Traceback", daemon.log)

    def test_rooms(self) -> None:
        """``rooms`` lists rooms that have messages."""
        self.daemon("--store=memory:")
        self.done("publish", "b", "1")
        self.done("publish", "a", "1")
        self.assertEqual(["a", "b"], self.done("rooms").lines)

    def test_properties(self) -> None:
        """Properties are set, printed and removed; without ``--json`` a value is a text."""
        self.daemon("--store=memory:")
        self.done("set", "shop", "label", "Open \x1b[31mnow")
        self.done("set", "shop", "count", "7", "--json")
        self.assertEqual(["count: 7", "label: Open \\u001b[31mnow"], self.done("properties", "shop").lines)
        self.done("unset", "shop", "label")
        self.assertEqual(['{"count":7}'], self.done("properties", "shop", "--json").lines)

    def test_bad_line(self) -> None:
        """A line that can't be published is named; what stands before it is stored."""
        self.daemon("--store=memory:")
        console = self.done("publish", "lobby", "--json", typed="1\n2\n{\n4\n", status=1)
        self.assertEqual(2, len(console.lines))
        self.assertIn("line 3: this is not JSON", console.noted)

    def test_control_characters(self) -> None:
        """What others send never reaches the terminal raw, neither as text nor as JSON nor as a name."""
        self.daemon("--store=memory:")
        evil = '"\\u001b]0;owned\\u0007\\u202e\\u009b31m\\nfake"'
        self.done("publish", "lobby", "--json", f'{{"text": {evil}}}')
        self.done("publish", "lobby", "--json", f"{{{evil}: {evil}}}")
        for options in ((), ("--json",)):
            tail = self.console("tail", "lobby", *options)
            self.wait_for_line(tail, 2)
            tail.interrupt()
            self.assertNotRegex(tail.said, "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")
            self.assertEqual(2, len(tail.lines))

    def test_head(self) -> None:
        """``tail`` ends, without a complaint, when whoever reads it has had enough."""
        self.daemon("--store=memory:")
        self.done("publish", "lobby", "hi")
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "REALTIME_URL": self.url, "PROGRAM": _PROGRAM}
        line = f'"{sys.executable}" -c "$PROGRAM" tail lobby | head -n 1; echo "${{PIPESTATUS[0]}}"'
        done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, timeout=DEADLINE)
        self.assertRegex(done.stdout, r"hi\n0\n$")
        self.assertEqual("", done.stderr)

    def test_chat(self) -> None:
        """Two who talk see each other's lines; the end of the input ends it, when all is stored."""
        self.daemon("--store=memory:")
        ann = self.console("chat", "lobby", "--name", "Ann")
        bob = self.console("chat", "lobby", "--name", "Bob")
        ann.type("hello Bob\n")
        wait_until(lambda: "Ann (guest): hello Bob" in bob.said, lambda: bob.noted)
        bob.type("hello Ann\n//slash\n")
        self.assertEqual(0, bob.end())
        wait_until(lambda: "Bob (guest): /slash" in ann.said, lambda: ann.noted)
        self.assertEqual(0, ann.end())
        self.assertEqual(3, len(re.findall("hello|slash", bob.said)), bob.said)
