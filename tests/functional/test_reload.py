"""SIGHUP to a real daemon: rules, keys and limits that change while clients of all kinds are there."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from tests.certificates import self_signed, write_self_signed
from tests.clients import Client, EventClient, SocketClient
from tests.deadlines import DEADLINE, Stopwatch
from tests.functional.cluster import HISTORY, ClusterTestCase
from tests.functional.daemon import Daemon, free_port, wait_until
from tests.soak import SOAK
from tests.tokens.made import OTHER_SECRET, SECRET, token

WITHIN = 1.5
"""Seconds in which everybody is told; the half is for a machine that others use."""

DONE, REFUSED = "reloaded; ", "nothing was reloaded, and all goes on as before: "


def user_token(sub: str, key: str = SECRET, **rooms: str) -> str:
    """A token that is valid now."""
    now = time.time()
    return token({"sub": sub, "rooms": rooms, "iat": now}, now=now, key=key)


class ReloadTestCase(ClusterTestCase):
    """A daemon with a configuration file and a file of keys."""

    async def begin(self, rules: str, *options: str) -> Daemon:
        """Start it."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.file, self.keys = self.directory / "realtime.toml", self.directory / "site.key"
        self.keys.write_text(SECRET)
        self.file.write_text(self.text(rules))
        words = ("--store=memory:", "--history", HISTORY, "--config", str(self.file))
        self.server = self.daemon(*words, *options)
        await deferToThread(self.server.start)
        return self.server

    def text(self, rules: str, *lines: str) -> str:
        """A configuration file."""
        return "\n".join(['token-key = "site.key"', *lines, *(_rule(*rule.split("=")) for rule in rules.split())])

    async def reload(self, says: str) -> Stopwatch:
        """Send SIGHUP, and wait until the log says how it ended; give a watch that was started before."""
        before, watch = len(self.server.log), Stopwatch(self.server.pid)
        os.kill(self.server.pid, signal.SIGHUP)
        log = lambda: self.server.log[before:]  # noqa: E731
        await deferToThread(wait_until, lambda: DONE in log() or REFUSED in log(), lambda: self.server.log)
        self.assertIn(says, log())
        return watch

    async def arrive(self, kind: type[Client], room: str = "lobby", text: str | None = None) -> Any:
        """A guest, or a user with a token, reads a room."""
        client = kind(reactor, self.server.port, room)
        self.addCleanup(client.stop)  # type: ignore[attr-defined]
        if text is not None and isinstance(client, SocketClient):
            await client.connect()
            await client.tell(type="hello", token=text)
            self.assertEqual("joined", (await client.tell(type="join", room=room))["type"])
        else:
            await client.start()  # type: ignore[attr-defined]
        return client

    async def told(self, client: Any, condition: Callable[[], Any], watch: Stopwatch) -> None:
        """A client is told something within a second."""
        await client.until(condition)
        self.assertLess(watch.seconds(), WITHIN)


def _rule(room: str, guests: str) -> str:
    return f'[[room]]\nmatch = "{room}"\nguests = "{guests}"\nusers = ""\n'


class TightenedTests(ReloadTestCase):
    """Rules that take something away."""

    async def test_everybody_is_told(self) -> None:
        """A WebSocket, a stream and a waiting poll of guests are told within a second, and users stay."""
        await self.begin("lobby=rwsp")
        guests = [await self.arrive(kind) for kind in (SocketClient, EventClient)]
        user = await self.arrive(SocketClient, text=user_token("ann", lobby="rw"))
        waiting = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=DEADLINE)
        self.addCleanup(waiting.close)
        waiting.request("GET", f"/poll?room=lobby&since={user.position}&wait=50")
        await deferToThread(self.server.get, "healthz")  # what came before this waits now
        self.file.write_text(self.text("lobby=r"))
        watch = await self.reload("in force now: [[room]]")
        for client in guests:
            await self.told(client, lambda client=client: client.of_type("rights"), watch)
            self.assertEqual(["r"], [event["rights"] for event in client.of_type("rights")])
        polled = json.load(await deferToThread(waiting.getresponse))
        self.assertEqual({"lobby": "r"}, polled["rights"])
        self.file.write_text(self.text("lobby="))
        watch = await self.reload("in force now: [[room]]")
        for client in guests:
            await self.told(client, lambda client=client: client.of_type("left"), watch)
        self.assertEqual("published", (await user.publish("still here"))["type"])
        await user.count(1)
        self.assertEqual([[], []], [client.messages for client in guests])
        self.assertEqual([None, []], [user.close_code, user.of_type("rights")])
        waiting.request("GET", f"/poll?room=lobby&since={user.position}&wait=50")
        self.assertEqual(403, (await deferToThread(waiting.getresponse)).status)

    async def test_from_elsewhere(self) -> None:
        """Relative paths in the file count from the file, and those on the command line from where it was started."""
        await self.begin("lobby=r", "--access-log", "access.log")
        for content, says in ((OTHER_SECRET, "in force now: token-key"), (OTHER_SECRET, "nothing has changed")):
            self.keys.write_text(content)
            await self.reload(says)
        self.assertTrue((self.server.directory / "access.log").exists())

    async def test_unreadable(self) -> None:
        """Files that are gone change nothing, and are named."""
        await self.begin("lobby=r")
        guest = await self.arrive(SocketClient)
        for path in (self.keys, self.file):
            text = path.read_text()
            path.unlink()
            await self.reload(f"{REFUSED}")
            self.assertIn(f"{path}: it can't be read (No such file or directory)", self.server.log)
            path.write_text(text)
        await self.reload("reloaded; nothing has changed")
        self.assertEqual(([], None), (guest.of_type("left"), guest.close_code))


class CertificateTests(ReloadTestCase):
    """The certificate of an endpoint with TLS."""

    async def test_renewed(self) -> None:
        """New connections get the new certificate, and living ones go on; one that doesn't fit its key changes
        nothing."""
        key, certificate = write_self_signed(self.mktemp(), "localhost")
        port = free_port()
        where = f"ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        await self.begin("lobby=r", "--listen", where)
        first = certificate.read_text()
        stays = await deferToThread(connect, port)
        self.addCleanup(stays.close)
        await self.reload("reloaded; nothing has changed")
        private, second = (pem.decode() for pem in self_signed("localhost"))
        certificate.write_text(second)
        await self.reload(f"{REFUSED}{where!r} is no endpoint (")
        self.assertEqual(first, await deferToThread(served, port))
        key.write_text(private)
        await self.reload("reloaded; in force now: the certificate")
        self.assertEqual(second, await deferToThread(served, port))
        stays.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertTrue((await deferToThread(stays.recv, 4096)).startswith(b"HTTP/1.1 200 "))
        self.assertNotIn("Traceback", self.server.log)


def connect(port: int) -> ssl.SSLSocket:
    """Connect with TLS, whoever it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE))


def served(port: int) -> str:
    """The certificate that a new connection gets."""
    with connect(port) as connection:
        return ssl.DER_cert_to_PEM_cert(connection.getpeercert(True) or b"")


FORWARDED = "203.0.113.9"
"""Whom a proxy speaks for, if it is believed."""

STRICT = ("trusted-proxy = '127.0.0.1'", "user-publish-rate = '1/h+1'")
RELAXED = ("trusted-proxy = '10.0.0.0/8'", "user-publish-rate = '1000/s+20'")
CHANGES = "max-connections{}, trusted-proxy, user-publish-rate"


class LoadTests(ReloadTestCase):
    """Reloads while others write and read."""

    timeout = 600
    rounds = 200 if SOAK else 20

    async def test_under_load(self) -> None:
        """Rules, keys, limits and trusted proxies change again and again, every third file is wrong: nobody is cut off
        who may stay, whoever may not is told within a second, and the ledger balances."""
        await self.begin("lobby=rwsp side=r", "--access-log", "access.log")
        load = self.load([self.server])
        await self.ask(load, "read", kinds={"socket": 4, "events": 4, "poll": 4})
        await self.ask(load, "write", kinds={"socket": 1, "rooms": 1, "commands": 1}, rate=200)
        stays = await self.arrive(SocketClient, text=user_token("ann", lobby="r"))
        self.struck = await self.arrive(SocketClient, "mine", user_token("eve", mine="rw"))
        self.accepted = 0
        self.side = await gatherResults([self.arriving(kind) for kind in (SocketClient, EventClient)])
        is_open = True
        for number in range(self.rounds):
            if number % 3 == 2:
                await self.break_something(number)
            elif is_open:
                await self.close_side(number)
                is_open = False
            else:
                await self.open_side(number)
                is_open = True
            await self.acknowledged(load, 10)
        await self.ask(load, "rest")
        report = await self.ask(load, "balance")
        self.assert_balanced(report)
        self.assert_nothing_lost(report)
        self.assert_nobody_left(report)
        cut = {name: one["connections"] for name, one in report["readers"].items() if not name.startswith("poll")}
        self.assertEqual({1}, set(cut.values()), cut)
        self.assertEqual((None, [], []), (stays.close_code, stays.of_type("left"), stays.of_type("rights")))
        await self.struck.count(self.accepted)
        self.assertEqual((list(range(self.accepted)), None), (self.struck.data, self.struck.close_code))
        self.assertNotIn("Traceback", self.server.log)

    def arriving(self, kind: type[Client]) -> Deferred[Any]:
        """A guest reads the room that is closed and opened."""
        return Deferred.fromCoroutine(self.arrive(kind, "side"))

    async def close_side(self, number: int) -> None:
        """The guests of a room, and a user whose key goes, may stay no longer."""
        self.keys.write_text(f"{SECRET}\n{OTHER_SECRET}\n")
        await self.reload("token-key")
        goes = await self.arrive(SocketClient, text=user_token("ben", OTHER_SECRET, lobby="r"))
        self.keys.write_text(SECRET)
        self.file.write_text(self.text("lobby=rwsp side=", f"max-connections = {500 + number}", *STRICT))
        watch = await self.reload(f"in force now: [[room]], {CHANGES.format(', token-key')}\n")
        for client in self.side:
            await self.told(client, lambda client=client: client.of_type("left"), watch)
        await self.told(goes, lambda: goes.close_code, watch)
        self.assertEqual(4004, goes.close_code)
        for client in self.side:
            await client.stop()
        await self.is_seen_as(FORWARDED, number)
        refusal = await self.publish_until("error")
        self.assertEqual("rate_limited", refusal["code"])
        self.assertGreater(refusal["after"], 1000)

    async def open_side(self, number: int) -> None:
        """Guests may read the room again."""
        self.file.write_text(self.text("lobby=rwsp side=r", f"max-connections = {500 + number}", *RELAXED))
        await self.reload(f"in force now: [[room]], {CHANGES.format('')}\n")
        self.side = await gatherResults([self.arriving(kind) for kind in (SocketClient, EventClient)])
        await self.is_seen_as("127.0.0.1", number)
        await self.publish_until("published")

    async def publish_until(self, kind: str) -> dict[str, Any]:
        """Let the user whose limit changes publish, until that is answered so; a few times at most."""
        for _ in range(5):
            reply: dict[str, Any] = await self.struck.publish(self.accepted)
            self.accepted += reply["type"] == "published"
            if reply["type"] == kind:
                return reply
        raise AssertionError(f"never {kind}")

    async def is_seen_as(self, address: str, number: int) -> None:
        """What a proxy says on this machine is believed or not."""
        path, log = f"healthz?round={number}", self.server.directory / "access.log"
        request = Request(self.server.url + path, headers={"X-Forwarded-For": FORWARDED})
        await deferToThread(lambda: urlopen(request, timeout=DEADLINE).close())
        lines = lambda: [line for line in log.read_text().splitlines() if f"{path} " in line]  # noqa: E731
        (line,) = await deferToThread(wait_until, lines)
        self.assertEqual(address, line.split()[0])

    async def break_something(self, number: int) -> None:
        """A file is wrong: the log says where, and nothing changes."""
        path = (self.file, self.keys)[number % 2]
        text, before = path.read_text(), [len(client.events) for client in self.side]
        path.write_text({self.file: "history = 5\nhost = 7\n", self.keys: f"{SECRET}\nshort\n"}[path])
        await self.reload(REFUSED)
        self.assertIn(f"{path}, line 2: ", self.server.log)
        path.write_text(text)
        self.assertEqual(before, [len(client.events) for client in self.side])
