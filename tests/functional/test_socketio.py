"""Socket.IO in a daemon process: official clients of three versions from npm, and native clients beside them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.client import connect
from tests.functional.browsers import NPM_MODULES, node, node_environment, program
from tests.functional.daemon import CHECKOUT, NO_LIMITS, TWISTD, Daemon, DaemonTestCase, wait_until
from tests.functional.socketio_sockets import TRANSPORTS, VERSIONS

CLIENT = Path(__file__).with_name("socketio_client.mjs")
EXAMPLES = Path(__file__).with_name("socketio_examples.mjs")
HOWTO = CHECKOUT / "docs" / "howto" / "socket-io.rst"
SCENARIOS = 28


class OfficialClientTests(SynchronousTestCase):
    """Each scenario of ``socketio_client.mjs``, by every version and transport."""

    timeout = 600

    def setUp(self) -> None:
        options = ("--store=memory:", "--app", "tests.functional.socketio_app:app", "--socket-io-eio3", *NO_LIMITS)
        self.daemon = Daemon(self.mktemp(), *options).start()
        self.addCleanup(self.daemon.kill)

    def check(self, version: int) -> None:
        """Run all scenarios by one version."""
        for name, options in TRANSPORTS.items():
            done = node(CLIENT, NPM_MODULES, VERSIONS[version], self.daemon.url, json.dumps(options))
            results = [json.loads(line) for line in done.stdout.splitlines()]
            wrong = {result["title"]: result["wrong"] for result in results if result["wrong"] is not None}
            self.assertEqual({}, wrong, f"version {version}, {name}")
            self.assertEqual((SCENARIOS, 0), (len(results), done.returncode), done.stderr)
        errors = [line for line in self.daemon.log.splitlines() if "Error" in line and "this is raised" not in line]
        self.assertEqual([], errors)

    def test_version_4(self) -> None:
        """socket.io-client 4."""
        self.check(4)

    def test_version_3(self) -> None:
        """socket.io-client 3."""
        self.check(3)

    def test_version_2(self) -> None:
        """socket.io-client 2, which speaks the versions before."""
        self.check(2)


class ExampleTests(DaemonTestCase):
    """What the how-to shows, with the official client."""

    def use(self, name: str, url: str) -> subprocess.Popen[str]:
        """Start the client."""
        command = [program("node"), str(EXAMPLES), str(NPM_MODULES), name, url]
        process = subprocess.Popen(command, env=node_environment(), stdout=subprocess.PIPE, text=True)
        self.addCleanup(_end, process)
        return process

    async def result(self, process: subprocess.Popen[str]) -> Any:
        """The next line that a client prints."""
        assert process.stdout is not None
        line: str = await deferToThread(process.stdout.readline)
        return line.strip() if line.strip() == "ready" else json.loads(line)

    async def test_lobby(self) -> None:
        """Socket.IO clients, native WebSockets, polls and plain HTTP share a room, without a line of Python."""
        server = await self.started("--store=memory:", "--socket-io")
        async with connect(reactor, server.url, name="Ann") as chat:
            room = await chat.join("lobby", last=0)
            page = self.use("rooms", server.url)
            self.assertEqual("ready", await self.result(page))
            await room.publish({"text": "from a WebSocket"})
            posted = urllib.request.Request(server.url + "rooms/lobby/messages", b"text=from%20curl")
            await deferToThread(urllib.request.urlopen, posted)
            texts = ["from Socket.IO", "from a WebSocket", "from curl"]
            self.assertEqual(["joined", texts], await self.result(page))
            polled = await deferToThread(server.get, "poll?room=lobby&last=3")
            self.assertEqual(texts, [event["data"]["text"] for event in polled["events"] if event["type"] == "message"])

    async def test_wsgi(self) -> None:
        """The how-to's file, as it stands there, serves a WSGI page and Socket.IO on one port."""
        folder = Path(self.mktemp())
        server = self.daemon(directory=folder, program=TWISTD)
        howto = HOWTO.read_text("utf-8")
        for name, begin in (("shop.py", "   from realtime_chat.socketio"), ("site.tac", "   from twisted.application")):
            block = re.search(re.escape(begin) + r".*?(?=^\S)", howto, re.DOTALL | re.MULTILINE)
            assert block is not None
            (folder / name).write_text(textwrap.dedent(block[0]).replace("tcp:8080", f"tcp:{server.port}"))
        command = [sys.executable, "-c", TWISTD, "-ny", "site.tac", "--pidfile="]
        server.command = lambda: command  # type: ignore[method-assign]
        await deferToThread(server.start)
        for path, body, shown in (("", None, "/"), ("shoes/red?size=9", b"!", "/shoes/red!")):
            with await deferToThread(urllib.request.urlopen, server.url + path, body) as page:
                self.assertEqual("The shop" + shown, page.read().decode())
        self.assertEqual(["TYPED", "AGAIN"], await self.result(self.use("wsgi", server.url)))
        os.kill(server.pid, signal.SIGHUP)
        await deferToThread(wait_until, lambda: "reload" in server.log.lower(), lambda: server.log)
        with await deferToThread(urllib.request.urlopen, server.url) as page:
            self.assertEqual("The shop/", page.read().decode())

    async def test_path_and_script(self) -> None:
        """The resource may stand elsewhere, and serves the client's script from the operator's file, and no other."""
        script = Path(NPM_MODULES, "socket.io-client", "dist", "socket.io.min.js")
        server = await self.started(
            "--store=memory:", "--socket-io", "--socket-io-path=socketio", f"--socket-io-script={script}"
        )
        with await deferToThread(urllib.request.urlopen, server.url + "socketio/socket.io.js") as answer:
            self.assertEqual("text/javascript; charset=utf-8", answer.headers["Content-Type"])
            self.assertEqual(script.read_bytes(), answer.read())
        opened = await deferToThread(urllib.request.urlopen, server.url + "socketio/?EIO=4&transport=polling")
        with opened:
            self.assertEqual(b"0", opened.read(1))
        for path in ("socketio/other.js", "socket.io/?EIO=4&transport=polling"):
            with self.assertRaises(urllib.error.HTTPError) as refused:
                await deferToThread(urllib.request.urlopen, server.url + path)
            self.assertEqual(404, refused.exception.code)
            refused.exception.close()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
