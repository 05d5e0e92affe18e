"""Tests for :mod:`realtime_chat.reload`: what a daemon goes on with after its files were read again."""

from __future__ import annotations

import gc
import json
import os
import socket
import ssl
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import attrs
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs, formatEvent
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase, TestCase

from realtime_chat import tap
from realtime_chat.http import static_files
from realtime_chat.listening import ListenRefused
from realtime_chat.options import Options
from realtime_chat.process import Process
from realtime_chat.reload import RELOADED, Reload
from realtime_chat.service import RealtimeService
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.rates import Rate, RateLimits, ScopeLimits
from tests.certificates import self_signed
from tests.deadlines import DEADLINE
from tests.tokens.made import OTHER_SECRET, SECRET, token

LOCAL = "tcp:0:interface=127.0.0.1"
SILENT = "nothing was reloaded, and all goes on as before: "


def said_by(call: Callable[[], object]) -> list[str]:
    """What is logged meanwhile."""
    with capturedLogs() as events:
        call()
    return [formatEvent(event) for event in events]


class FilesTestCase(SynchronousTestCase):
    """A directory with files."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def write(self, name: str, text: str) -> Path:
        """Write a file."""
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path


class OptionsAgainTests(FilesTestCase):
    """The same options, read again."""

    def parsed(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(list(arguments))
        return options

    def test_same(self) -> None:
        """Without a change both say the same, though paths are relative and the directory is another one by now."""
        self.write("conf/site.key", SECRET)
        self.write("conf/realtime.toml", 'token-key = "site.key"\naccess-log = "../log"\nstore = "sqlite:data/chat"\n')
        self.write("page/index.html", "x")
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.directory)
        first = self.parsed("--config", "conf/realtime.toml", "--page", "page")
        os.chdir("/")
        second = first.again()
        self.assertEqual(dict(first), dict(second))
        self.assertEqual([str(self.directory / "conf/site.key")], second["token-key"])
        self.assertEqual(f"sqlite:{self.directory}/conf/data/chat", second["store"])
        self.assertEqual((str(self.directory / "log"), self.directory / "page"), (second["access-log"], second["page"]))
        self.assertEqual(dict(first), dict(second.again()))

    def test_changed(self) -> None:
        """It says what the file says now, and the first one says what it said then."""
        path = self.write("realtime.toml", "history = 5\n")
        first = self.parsed("--config", str(path), "--max-rooms", "7")
        self.write("realtime.toml", "history = 6\nmax-rooms = 8\n")
        self.assertEqual((5, 6, 7), (first["history"], first.again()["history"], first.again()["max-rooms"]))

    def test_wrong(self) -> None:
        """A mistake is told with its file and its line, and the process goes on, under twistd too."""
        path = self.write("realtime.toml", "\n")
        first = self.parsed("--config", str(path))
        first.parent = {}
        self.write("realtime.toml", "\nhistory = 'x'\n")
        self.assertIn(f"{path}, line 2: history: 'x' is not", str(self.assertRaises(UsageError, first.again)))

    def test_open_endpoints(self) -> None:
        """What the daemon listens on already isn't checked again: a socket of systemd can't be taken twice."""
        first = self.parsed("--store", "memory:")
        first.words = ["--open", "--listen", "systemd:domain=INET:index=0"]
        self.assertRaises(UsageError, first.again)
        first["listen"] = first.words[-1:]
        self.assertEqual(first["listen"], first.again()["listen"])

    def test_strangers_who_are_there(self) -> None:
        """Without keys the daemon isn't open to whom it listens to now, whatever the file says for the next start."""
        key = self.write("site.key", SECRET)
        path = self.write("realtime.toml", f"token-key = '{key}'\nlisten = 'tcp:0'\n")
        first = self.parsed("--config", str(path))
        self.write("realtime.toml", f"listen = '{LOCAL}'\n")
        self.assertIn("others can reach 'tcp:0'", str(self.assertRaises(UsageError, first.again)))
        self.write("realtime.toml", f"listen = '{LOCAL}'\nopen = true\n")
        first.again()

    def test_metrics_for_others(self) -> None:
        """Where others reach the metrics alone, a daemon without keys is read again."""
        self.parsed("--store", "memory:", "--metrics-listen", "tcp:9100").again()


class ReloadTests(FilesTestCase):
    """What it says, and what it compares with."""

    def setUp(self) -> None:
        super().setUp()
        self.write("realtime.toml", "history = 5\n")
        self.options = Options()
        self.options.parseOptions(["--config", str(self.directory / "realtime.toml"), "--store", "memory:"])
        self.taken: list[Options] = []
        self.error: Exception | None = None
        self.reload = Reload(self.options, self.take)

    def take(self, options: Options) -> bool:
        if self.error is not None:
            raise self.error
        self.taken.append(options)
        return False

    def says(self, text: str | None) -> str:
        """Write the file, reload, and give the one line that is logged."""
        path = self.directory / "realtime.toml"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        (line,) = said_by(self.reload)
        return line

    def test_nothing(self) -> None:
        """Without a change it says so."""
        self.assertEqual("reloaded; nothing has changed", self.says("history = 5\n# a comment\n"))

    def test_now_and_later(self) -> None:
        """It says what is in force now, and what waits for a restart until it is taken back."""
        rule = '[[room]]\nmatch = "news"\nguests = "r"\n'
        self.assertEqual(
            "reloaded; in force now: [[room]], host; in force after a restart: history",
            self.says(f"history = 6\nhost = 'localhost'\n{rule}"),
        )
        self.assertEqual(
            "reloaded; nothing has changed; in force after a restart: history",
            self.says(f"history = 6\nhost = 'localhost'\n{rule}"),
        )
        self.assertEqual("reloaded; in force now: [[room]], host", self.says("history = 5\n"))

    def test_socketio(self) -> None:
        """An application that is the same waits for no restart, and its options do."""
        self.assertEqual(
            "reloaded; nothing has changed; in force after a restart: history, socket-io, socket-io-path",
            self.says('socket-io = true\nsocket-io-path = "x"\n'),
        )
        options = Options()
        options.parseOptions(["--config", str(self.directory / "realtime.toml"), "--store", "memory:"])
        self.reload = Reload(options, self.take)
        self.assertEqual("reloaded; nothing has changed", self.says('socket-io = true\nsocket-io-path = "x"\n'))

    def test_wrong_file(self) -> None:
        """A file that is wrong changes nothing, and is told with its line; the next one is compared as before."""
        for text, where in (
            ("history = 'x'\n", ", line 1: history: 'x' is not"),
            ("\nhistory\n", ", line 2: this is no TOML"),
            ('[[room]]\nmatch = "*"\n[[room]]\nmatch = "a"\n', ", line 3: this rule never counts"),
            (None, ": it can't be read"),
            ("", ": it is empty; right would be a comment"),
        ):
            line = self.says(text)
            self.assertTrue(line.startswith(SILENT), line)
            self.assertIn(f"realtime.toml{where}", line)
        self.assertEqual([], self.taken)
        self.assertEqual("reloaded; in force now: host", self.says("history = 5\nhost = 'localhost'\n"))

    def test_refused_later(self) -> None:
        """What only shows when it is used is told too, and nothing counts as changed."""
        for error in (OSError(13, "Permission denied", "/var/log/a"), ListenRefused("--listen: x")):
            self.error = error
            self.assertEqual(SILENT + str(error), self.says("host = 'localhost'\n"))
        self.error = None
        self.assertEqual(
            "reloaded; in force now: host; in force after a restart: history", self.says("host = 'localhost'\n")
        )

    def test_secrets(self) -> None:
        """Neither a password nor a key stands in the line."""
        self.write("site.key", SECRET)
        line = self.says(f"token-key = '{self.directory}/site.key'\n")
        self.assertEqual("reloaded; in force now: token-key; in force after a restart: history", line)
        self.write("site.key", OTHER_SECRET)
        line = self.says(f"token-key = '{self.directory}/site.key'\nhistory = 5")
        self.assertEqual("reloaded; in force now: token-key", line)

    def test_names(self) -> None:
        """All options that count at once are options."""
        self.assertEqual(set(), set(RELOADED) - set(self.options))


class DaemonTests(TestCase):
    """A daemon in this process whose file changes."""

    at_once: str | None = None
    """What the file says as soon as the daemon begins to start."""

    async def start(self, text: str, *arguments: str, **files: str) -> None:
        """Start it with a configuration file."""
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        for name, content in files.items():
            self.write(name.replace("_", "."), content)
        self.patch(tap, "_on_started", lambda reactor, process: None)
        calls: list[Callable[[], None]] = []

        def starting(process: Process, reopen: Callable[[], None], reload: Callable[[], None]) -> None:
            calls.append(reload)
            if self.at_once is not None:
                self.write("realtime.toml", self.at_once)
                reload()

        self.patch(Process, "starting", starting)
        self.write("realtime.toml", text)
        options = Options()
        listen = [] if any("--listen" in one for one in arguments) else ["--listen", LOCAL]
        config = ["--config", str(self.directory / "realtime.toml")]
        options.parseOptions(["--store", "memory:", *config, *listen, *arguments])
        service = tap.makeService(options)
        assert isinstance(service, RealtimeService)
        self.service = service
        self.service.startService()
        self.addCleanup(self.service.stopService)
        (self.reload,) = calls
        self.port = self.service.ports()[0]

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text or "# nothing\n")
        return path

    def reloaded(self, text: str) -> str:
        """Write the file, reload, and give what was logged."""
        self.write("realtime.toml", text)
        return "\n".join(said_by(self.reload))

    async def status(self, path: str = "healthz", headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """The status and the body of an answer."""

        def ask() -> tuple[int, bytes]:
            request = Request(f"http://127.0.0.1:{self.port}/{path}", headers=dict(headers or {}))
            try:
                with urlopen(request, timeout=DEADLINE) as answer:
                    return answer.status, answer.read()
            except HTTPError as error:
                return error.code, error.read()

        return await deferToThread(ask)

    async def test_hosts_and_origins(self) -> None:
        """Hosts and origins count from then on, and those that were taken away don't."""
        await self.start("host = 'a.example'\nallow-origin = 'https://a.example'\n", "--open")
        a, b = {"Host": "a.example"}, {"Host": "b.example"}
        page = {"Origin": "https://b.example"}
        self.assertEqual([200, 421], [(await self.status(headers=one))[0] for one in (a, b)])
        self.assertEqual(403, (await self.status("rooms", page))[0])
        self.assertIn(
            "in force now: allow-origin, host",
            self.reloaded("host = ['b.example']\nallow-origin = 'https://b.example'\n"),
        )
        self.assertEqual([421, 200], [(await self.status(headers=one))[0] for one in (a, b)])
        self.assertEqual(200, (await self.status("rooms", page))[0])
        self.reloaded("")
        self.assertEqual([421, 421], [(await self.status(headers=one))[0] for one in (a, b)])
        self.assertEqual(200, (await self.status())[0])

    async def test_checked_lines(self) -> None:
        """A connection that stays open has its lines checked again."""
        await self.start("host = 'a.example'\n", "--open")

        def ask(connection: Any) -> bytes:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a.example\r\n\r\n")
            return bytes(connection.recv(65536).split(b"\r\n")[0])

        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as connection:
            first = [await deferToThread(ask, connection) for _ in range(3)]
            self.reloaded("host = 'b.example'\n")
            self.assertEqual([b"HTTP/1.1 200 OK"] * 3, first)
            self.assertIn(b" 421 ", await deferToThread(ask, connection))

    async def test_connections(self) -> None:
        """The number of connections counts from then on."""
        await self.start("max-connections = 7\n")
        (site,) = self.service._all_sites()
        self.assertEqual(7, site.max_connections)
        self.reloaded("max-connections = 9\n")
        self.assertEqual(9, site.max_connections)
        self.reloaded("")
        self.assertGreater(site.max_connections, 100)

    async def test_page(self) -> None:
        """A page of one's own is read again; one that can't be served changes nothing."""
        page = Path(self.mktemp()).absolute()
        page.mkdir()
        index = page / "index.html"
        index.write_text("one")
        await self.start("", "--open", "--page", str(page))
        self.assertEqual((200, b"one"), await self.status(""))
        index.write_text("two")
        self.assertIn("nothing has changed", self.reloaded(""))
        self.assertEqual((200, b"two"), await self.status(""))
        index.write_text("three")
        (page / "ws").mkdir()
        (page / "ws" / "a.html").write_text("x")
        self.assertIn(SILENT + "the page's 'ws' stands in the way", self.reloaded("host = 'a.example'"))
        self.assertEqual((200, b"two"), await self.status(""))
        self.assertEqual(421, (await self.status(headers={"Host": "a.example"}))[0])

    async def test_page_elsewhere(self) -> None:
        """The page may become another one, or nothing, and what is beside it stays."""
        await self.start("")
        own = await self.status("realtime.js")
        self.assertIn("in force now: page", self.reloaded("page = 'off'\n"))
        self.assertEqual(404, (await self.status(""))[0])
        self.assertEqual(own, await self.status("realtime.js"))
        self.assertEqual(200, (await self.status("rooms/lobby/messages"))[0])

    async def test_access_log(self) -> None:
        """The access log goes on in another file, begins and ends; a path that can't be opened changes nothing."""
        await self.start("")
        for name in ("one", "two", None):
            self.reloaded("" if name is None else f"access-log = '{name}.log'\n")
            await self.status(f"healthz?{name}")
            await self.status(f"healthz?{name}")
        for name in ("one", "two"):
            lines = (self.directory / f"{name}.log").read_text().splitlines()
            self.assertEqual([True] * 2, [f"healthz?{name} " in line for line in lines], lines)
        (self.directory / "three.log").touch(0o400)
        self.patch(os, "open", refuse_writing(os.open))
        self.assertIn(SILENT, self.reloaded("access-log = 'three.log'\nhost = 'a.example'\n"))
        self.assertEqual(421, (await self.status(headers={"Host": "a.example"}))[0])

    async def test_tokens(self) -> None:
        """Keys, audience and issuer count from then on; keys may come to a daemon that had none."""
        await self.start("", site_key=SECRET)
        hub = self.service.hub
        self.assertIn("has no keys", self.assertRaises(RealtimeError, hub.verify, token()).message)
        now = time.time()
        audience = token({"aud": "chat", "iss": "me", "exp": now + 60}, now=now)
        said = self.reloaded("token-key = 'site.key'\ntoken-audience = 'chat'\ntoken-issuer = 'me'\n")
        self.assertIn("in force now: token-audience, token-issuer, token-key", said)
        self.assertEqual("u7", hub.verify(audience).sub)
        said = self.reloaded("token-key = 'site.key'\ntoken-issuer = 'me'\ntoken-url = '/token/'\n")
        self.assertIn("in force now: token-audience, token-url", said)
        self.assertRaises(RealtimeError, hub.verify, audience)
        self.assertIn(b'<body data-token-url="/token/">', (await self.status(""))[1])
        self.reloaded("")
        self.assertIn("has no keys", self.assertRaises(RealtimeError, hub.verify, audience).message)
        self.assertTrue(hub.access.is_open)

    async def test_readable_keys(self) -> None:
        """A file of secrets that everybody can read is warned of when it comes, once; again after it was mended."""
        await self.start("", site_key=SECRET, other_key=OTHER_SECRET)
        site, other = (self.directory / name for name in ("site.key", "other.key"))
        warned = lambda said: [path for path in (site, other) if f"can read {path}, and so make tokens" in said]  # noqa: E731
        both = "token-key = ['site.key', 'other.key']\n"
        site.chmod(0o640)
        for mode, text, of in (
            (0o644, "token-key = 'site.key'\n", []),
            (0o644, both, [other]),
            (0o644, both, []),
            (0o640, both, []),
            (0o644, both, [other]),
        ):
            other.chmod(mode)
            self.assertEqual(of, warned(self.reloaded(text)))

    async def test_rules(self) -> None:
        """Rules count from then on, and nothing of the daemon keeps those from before."""
        rule = '[[room]]\nmatch = "lobby"\nguests = "{}"\n'
        await self.start(rule.format("r"), "--open")
        self.reloaded(rule.format("rp"))
        old = weakref.ref(self.service.hub.access)
        since = ""
        for rights, code in (("rw", 200), ("r", 200), ("", 403)):
            self.assertIn("in force now: [[room]]", self.reloaded(rule.format(rights)))
            self.assertEqual(code, (await self.status("rooms/lobby/messages"))[0])
            status, body = await self.status(f"poll?room=lobby&wait=1{since}")
            answer = json.loads(body)
            self.assertEqual((code, {"lobby": rights} if rights else None), (status, answer.get("rights")))
            since = f"&since={answer['positions']['lobby']}" if rights else since
        gc.collect()
        self.assertIsNone(old())

    async def test_old_pages(self) -> None:
        """Hosts, origins and rules count for old pages, too. Their endpoints and their room wait for a restart.

        Rules that close their room are not refused. A warning says so.
        """
        rule = '[[room]]\nmatch = "lobby"\nguests = "{}"\n'
        await self.start(f"legacy-listen = '{LOCAL}'\n{rule.format('rw')}", "--open")
        self.port = self.service.ports()[1]
        page, host = {"Origin": "https://b.example"}, {"Host": "b.example"}
        for headers, status in ((page, 403), (host, 421)):
            self.assertEqual(status, (await self.status("?lastupdate=-1", headers))[0])
        said = self.reloaded(
            f"host = 'b.example'\nallow-origin = 'https://b.example'\nlegacy-listen = '{LOCAL}'\n"
            f"legacy-room = 'other'\n{rule.format('rw')}"
        )
        self.assertIn("in force after a restart: legacy-room", said)
        for headers in (page, host):
            self.assertEqual(200, (await self.status("?lastupdate=-1", headers))[0])
        said = self.reloaded(f"legacy-listen = '{LOCAL}'\n{rule.format('')}")
        self.assertIn("--legacy-room: guests may not read 'lobby'; right would be a rule for it", said)
        self.assertEqual(403, (await self.status("?lastupdate=-1"))[0])
        self.assertIn("in force after a restart: legacy-listen", self.reloaded(rule.format("rw")))

    async def test_rate_limits(self) -> None:
        """Rate limits count from then on."""
        await self.start("")
        limits = RateLimits(client=ScopeLimits(publishes=Rate(1.0, 2.0)))
        self.service.reload(attrs.evolve(self.service._configuration, rate_limits=limits))
        self.assertEqual(limits, self.service.hub.limiter.limits)

    async def test_newer_package(self) -> None:
        """The daemon's own page stays that of its version, though the files of a newer one are there by now."""
        await self.start("")
        before = await self.status(""), await self.status("realtime.js")
        newer = Path(self.mktemp())
        newer.mkdir()
        for file in static_files._STATIC.iterdir():
            (newer / file.name).write_bytes(b"newer")
        self.patch(static_files, "_STATIC", newer)
        self.reloaded("host = 'localhost'\n")
        self.assertEqual(before, (await self.status(""), await self.status("realtime.js")))

    async def test_certificate(self) -> None:
        """New connections get the new certificate; one that doesn't fit its key, or is gone, changes nothing."""
        place = Path(self.mktemp()).absolute()
        place.mkdir()
        key, certificate = place / "key.pem", place / "cert.pem"

        def put(pair: tuple[bytes, bytes]) -> bytes:
            key.write_bytes(pair[0])
            certificate.write_bytes(pair[1])
            return ssl.PEM_cert_to_DER_cert(pair[1].decode())

        first = put(self_signed("localhost"))
        secure = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
        await self.start("", "--open", "--listen", secure)

        def connect() -> ssl.SSLSocket:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            return context.wrap_socket(socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE))

        def seen() -> bytes:
            with connect() as wrapped:
                return wrapped.getpeercert(True) or b""

        def ask(wrapped: ssl.SSLSocket) -> bytes:
            with wrapped:
                wrapped.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return wrapped.recv(65536)

        stays = await deferToThread(connect)
        self.assertEqual(first, stays.getpeercert(True))
        self.assertIn("nothing has changed", self.reloaded(""))
        pair = self_signed("localhost")
        second = put(pair)
        self.assertIn("in force now: host, the certificate", self.reloaded("host = 'localhost'\n"))
        self.assertEqual(second, await deferToThread(seen))
        self.assertTrue((await deferToThread(ask, stays)).startswith(b"HTTP/1.1 200 OK"))
        for wrong in ((self_signed("localhost")[0], pair[1]), (pair[0], b""), (b"", pair[1])):
            if wrong[1]:
                put(wrong)
            else:
                certificate.write_bytes(b"")
            said = self.reloaded("")
            self.assertIn(f"{SILENT}{secure!r} is no endpoint (", said)
            self.assertEqual(second, await deferToThread(seen))
        key.unlink()
        self.assertIn(f"{key} can't be read (No such file or directory); right would be", self.reloaded(""))
        put(pair)
        self.assertIn("in force now: host", self.reloaded(""))

    async def test_before_it_listens(self) -> None:
        """A reload while the daemon still starts counts for what it starts with."""
        self.at_once = "host = 'a.example'\nhistory = 5\n"
        await self.start("", "--open")
        self.assertEqual(200, (await self.status(headers={"Host": "a.example"}))[0])
        self.assertEqual(1000, self.service.hub.limits.history)


def refuse_writing(open_file: Callable[..., int]) -> Callable[..., int]:
    """Refuse to open the third log, also for root."""

    def refusing(path: Any, *more: Any, **given: Any) -> int:
        if str(path).endswith("three.log"):
            raise PermissionError(13, "Permission denied", str(path))
        return open_file(path, *more, **given)

    return refusing
