"""Tokens and files of keys, with a real daemon: attacks, keys that change, and the programs of the how-to."""

from __future__ import annotations

import contextlib
import http.client
import http.cookiejar
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from tests.clients import SocketClient
from tests.deadlines import DEADLINE, Stopwatch
from tests.functional.daemon import CHECKOUT, Daemon, DaemonTestCase, free_port, wait_until
from tests.functional.proxies import nginx
from tests.tokens.made import OTHER_SECRET, SECRET, private_key, public_jwk, public_pem, token
from tests.tokens.test_verifier import attacks

README = (CHECKOUT / "README.rst").read_text("utf-8")
_HOWTO = CHECKOUT / "docs" / "howto"
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(CHECKOUT)}


def now_token(claims: dict[str, Any] | None = None, **more: Any) -> str:
    """A token that is valid now, for the room ``lobby``."""
    return token({"rooms": {"lobby": "rwsp"}, **(claims or {})}, now=time.time(), **more)


def answer(daemon: Daemon, path: str, text: str | None = None, body: Any = None) -> tuple[int, dict[str, Any]]:
    """What a request is answered: the status, and the JSON.

    :param text: its token.
    """
    request = urllib.request.Request(daemon.url + path)
    if text is not None:
        request.add_header("Authorization", f"Bearer {text}")
    if body is not None:
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


class KeyTestCase(DaemonTestCase):
    """A daemon with a file of keys."""

    async def begin(self, keys: str = SECRET, *options: str) -> Daemon:
        """Start it."""
        self.file = Path(self.mktemp()).absolute()
        self.file.write_text(keys)
        return await self.started("--store=memory:", "--token-key", str(self.file), *options)

    async def reload(self, daemon: Daemon, keys: str, says: str) -> None:
        """Change the file, send SIGHUP, and wait until the log says something."""
        self.file.write_text(keys)
        before = len(daemon.log)
        os.kill(daemon.pid, signal.SIGHUP)
        await deferToThread(wait_until, lambda: says in daemon.log[before:], lambda: daemon.log)


class AttackTests(KeyTestCase):
    """Tokens that have to be refused, one after the other, by a daemon that goes on."""

    async def test_attacks(self) -> None:
        """Each is refused with its code, in a header and in ``hello``; nothing of it is logged, and no exception is."""
        jwks, pem = Path(self.mktemp()).absolute(), Path(self.mktemp()).absolute()
        jwks.write_text(json.dumps({"keys": [public_jwk("ES256", kid="one"), public_jwk("EdDSA", kid="two")]}))
        pem.write_text(public_pem(private_key("RS256")))
        daemon = await self.begin(SECRET, "--token-key", str(jwks), "--token-key", str(pem))
        rows = [row for row in attacks(time.time()) if row.text.isascii()]
        self.assertGreater(len(rows), 40)
        for row in rows:
            commands = [{"type": "hello", "token": row.text}, {"type": "history", "room": "lobby"}]
            status, replies = await deferToThread(answer, daemon, "commands", None, commands)
            self.assertEqual((200, [row.code, "forbidden"]), (status, [reply["code"] for reply in replies]), row.what)
            self.assertIn(row.says, replies[0]["message"], row.what)
            if row.text.isprintable() and len(row.text) < 8_000:
                status, reply = await deferToThread(answer, daemon, "rooms/lobby/messages", row.text)
                self.assertEqual((401, row.code), (status, reply["code"]), row.what)
        self.assertEqual(200, (await deferToThread(answer, daemon, "rooms/lobby/messages", now_token()))[0])
        self.assertNotIn("Traceback", daemon.log)
        self.assertNotIn(SECRET, daemon.log)
        for row in rows:
            for part in row.text.split("."):
                self.assertFalse(len(part) > 30 and part in daemon.log, row.what)


class ReloadTests(KeyTestCase):
    """Keys that change while the daemon runs."""

    async def test_removed(self) -> None:
        """When a key is gone, its tokens are refused, and its clients end within a second; others stay."""
        daemon = await self.begin(f"{SECRET}\n{OTHER_SECRET}\n")
        gone, stays = SocketClient(reactor, daemon.port), SocketClient(reactor, daemon.port)
        for client, key in ((gone, SECRET), (stays, OTHER_SECRET)):
            await client.connect()
            await client.tell(type="hello", token=now_token(key=key))
            self.assertEqual("joined", (await client.tell(type="join", room="lobby"))["type"])
            self.addCleanup(client.stop)
        text = now_token({"sub": "poller", "rooms": {"lobby": "r"}}, key=SECRET)
        waiting = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=DEADLINE)
        self.addCleanup(waiting.close)
        path = f"/poll?room=lobby&since={gone.position}&wait=50"
        waiting.request("GET", path, headers={"Authorization": f"Bearer {text}"})
        await deferToThread(daemon.get, "healthz")  # what came before this waits now
        await self.reload(daemon, OTHER_SECRET, "tokens are verified by the keys")
        watch = Stopwatch(daemon.pid)
        await gone.until(lambda: gone.close_code)
        polled = await deferToThread(waiting.getresponse)
        self.assertEqual((401, "token_expired"), (polled.status, json.load(polled)["code"]))
        self.assertLess(watch.seconds(), 1.5)
        self.assertEqual(
            (4004, ["token_expired"]), (gone.close_code, [one["reason"] for one in gone.of_type("goodbye")])
        )
        self.assertEqual("published", (await stays.publish("still here"))["type"])
        refused = await deferToThread(answer, daemon, "rooms/lobby/messages", now_token(key=SECRET))
        self.assertEqual((401, "unauthorized"), _code(refused))

    async def test_wrong_file(self) -> None:
        """A file that is wrong changes nothing, and the log says what is wrong with it."""
        daemon = await self.begin()
        await self.reload(daemon, "short", f"--token-key: {self.file}, line 1: the secret has 5 bytes")
        self.assertIn("nothing was reloaded, and all goes on as before: --token-key", daemon.log)
        self.assertEqual(200, (await deferToThread(answer, daemon, "rooms/lobby/messages", now_token()))[0])
        await self.reload(daemon, OTHER_SECRET, "tokens are verified by the keys")
        text = now_token(key=OTHER_SECRET)
        self.assertEqual(200, (await deferToThread(answer, daemon, "rooms/lobby/messages", text))[0])


def _code(answered: tuple[int, dict[str, Any]]) -> tuple[int, Any]:
    return answered[0], answered[1].get("code")


class HowToTests(KeyTestCase):
    """The programs of ``docs/howto/access.rst``, as they stand there."""

    async def assert_accepted(self, daemon: Daemon, text: str, id: str, name: str, room: str = "lobby") -> None:
        """A token is accepted, and is of this user."""
        status, _ = await deferToThread(answer, daemon, f"rooms/{room}/messages", text, {"data": 1})
        self.assertEqual(201, status)
        welcome = (await deferToThread(answer, daemon, "commands", None, {"type": "hello", "token": text}))[1]
        self.assertEqual((id, name), (welcome["user"]["id"], welcome["user"]["name"]))

    async def test_php(self) -> None:
        """In PHP, who is logged in gets a token, and a guest gets 204."""
        daemon = await self.begin(f"{SECRET}\n{OTHER_SECRET}\n")
        directory, port = Path(self.mktemp()).absolute(), free_port()
        directory.mkdir()
        shutil.copy(_HOWTO / "chat_token.php", directory)
        (directory / "login.php").write_text(
            "<?php session_start(); $_SESSION = ['user_id' => 7, 'user_name' => 'Änn'];"
        )
        php = subprocess.Popen(
            ["php", "-d", f"session.save_path={directory}", "-S", f"127.0.0.1:{port}", "-t", str(directory)],
            env={**os.environ, "REALTIME_KEY_FILE": str(self.file)},
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(php.wait)
        self.addCleanup(php.kill)
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        fetch = lambda path: deferToThread(_fetch, browser, f"http://127.0.0.1:{port}/{path}")  # noqa: E731
        self.assertEqual((204, b""), await fetch("chat_token.php"))
        self.assertEqual(200, (await fetch("login.php"))[0])
        status, body = await fetch("chat_token.php")
        self.assertEqual(200, status, body)
        await self.assert_accepted(daemon, json.loads(body)["token"], "7", "Änn")

    async def test_python(self) -> None:
        """In Python, a token is made for a user, and for a program."""
        daemon = await self.begin(f"{SECRET}\n{OTHER_SECRET}\n")
        for user in ((7, "Änn", {"lobby": "rw"}), ("shop", "The web shop", {"orders": "w"})):
            done = await deferToThread(
                subprocess.run,
                [sys.executable, "-c", f"from chat_token import realtime_token; print(realtime_token(*{user!a}))"],
                env={**os.environ, "REALTIME_KEY_FILE": str(self.file)},
                cwd=_HOWTO,
                stdout=subprocess.PIPE,
                check=True,
            )
            id, name, rooms = user
            await self.assert_accepted(daemon, done.stdout.decode().strip(), str(id), name, next(iter(rooms)))


def _fetch(browser: urllib.request.OpenerDirector, url: str) -> tuple[int, bytes]:
    def tried() -> tuple[int, bytes] | None:
        try:
            with browser.open(url, timeout=DEADLINE) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:  # it doesn't listen yet
            return None

    found: tuple[int, bytes] = wait_until(tried)
    return found


class ReadmeTests(DaemonTestCase):
    """What README says of a site of one's own."""

    def console(self, directory: Path, line: str) -> bytes:
        """What a command line of ``realtime-chat`` prints."""
        self.assertIn(line, README)
        program, *words = shlex.split(line.partition(" > ")[0])
        self.assertEqual("realtime-chat", program)
        script = "import sys; from realtime_chat.console.main import main; sys.exit(main())"
        command = [sys.executable, "-c", script, *words]
        done = subprocess.run(
            command, cwd=directory, env=_ENVIRONMENT, stdout=subprocess.PIPE, check=True, timeout=DEADLINE
        )
        return done.stdout

    async def test_site(self) -> None:
        """Behind nginx as it is configured there, a token of the key that is made there lets its user write."""
        (location,) = re.findall(r"^    location /chat/ \{\n.*?^    \}\n", README, re.MULTILINE | re.DOTALL)
        (options,) = re.findall(r"^    twistd -n --pidfile= realtime (--host example.com .*)$", README, re.MULTILINE)
        daemon = self.daemon("--store=memory:", *shlex.split(options))
        key = await deferToThread(self.console, daemon.directory, "realtime-chat key > realtime.key")
        (daemon.directory / "realtime.key").write_bytes(key)
        await deferToThread(daemon.start)
        server = f"server {{\n  listen 443 ssl;\n  server_name example.com;\n{location}}}\n"
        proxy = await deferToThread(nginx, Path(self.mktemp()).absolute(), daemon.port, server)
        self.addCleanup(proxy.end)
        line = "realtime-chat token --sub u7 --name Ann --room 'lobby=rw'"
        text = (await deferToThread(self.console, daemon.directory, line)).decode().strip()
        for host, headers, expected in (
            ("example.com", {}, (403, "forbidden")),
            ("example.com", {"Authorization": f"Bearer {text}"}, (201, None)),
            ("example.com", {"Authorization": f"Bearer {text[:-3]}AAA"}, (401, "unauthorized")),
            ("other.example", {"Authorization": f"Bearer {text}"}, (421, "unknown_host")),
        ):
            self.assertEqual(expected, await deferToThread(_publish, proxy.port, host, headers), host)


def _publish(port: int, host: str, headers: dict[str, str]) -> tuple[int, str | None]:
    """Publish through a proxy: the status of the answer, and its code."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)) as connection:
        headers = {"Host": host, "Content-Type": "application/json", **headers}
        connection.request("POST", "/chat/rooms/lobby/messages", '{"data": 1}', headers)
        reply = connection.getresponse()
        return reply.status, json.load(reply).get("code")
