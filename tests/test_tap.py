"""Tests for :mod:`realtime_chat.tap`: what is made of the options."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attrs
from twisted.application.service import IService
from twisted.internet import reactor
from twisted.logger import capturedLogs, formatEvent
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from zope.interface.verify import verifyObject

from realtime_chat import data_dir
from realtime_chat.options import Options
from realtime_chat.process import Process
from realtime_chat.service import Configuration, RealtimeService
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.redis.store import RedisStore
from realtime_chat.store.retention import Retention
from realtime_chat.store.sqlite.store import SQLiteStore
from realtime_chat.tap import makeService
from realtime_chat.values.errors import RealtimeError
from realtime_chat.values.limits import Limits
from realtime_chat.values.rates import DEFAULTS, Rate
from tests.tokens.made import OTHER_SECRET, SECRET, private_key, public_pem, token

LOCAL = "tcp:0:interface=127.0.0.1"


def parsed(*arguments: str) -> Options:
    """The options of a command line."""
    options = Options()
    options.parseOptions(list(arguments))
    return options


def reload_of(service: RealtimeService) -> Callable[[], None]:
    """What a signal calls, as a daemon starts."""
    calls: list[Callable[[], None]] = []
    with patch.object(Process, "starting", lambda process, reopen, reload: calls.append(reload)):
        service._starting(service)
    return calls[0]


def said_by(call: Callable[[], object]) -> list[str]:
    """What is logged meanwhile."""
    with capturedLogs() as events:
        call()
    return [formatEvent(event) for event in events]


class MakeServiceTests(SynchronousTestCase):
    """What is wired."""

    def made(self, *arguments: str) -> tuple[Any, Configuration, Any]:
        service = makeService(parsed(*arguments))
        assert isinstance(service, RealtimeService)
        return service, service._configuration, service._store

    def test_service(self) -> None:
        """It is a service."""
        self.assertTrue(verifyObject(IService, makeService(parsed("--store", "memory:"))))

    def test_trusted_proxies(self) -> None:
        """The proxies that are trusted are those of the options."""
        arguments = ("--store", "memory:", "--trusted-proxy", "10.0.0.1", "--trusted-proxy", "unix")
        self.assertEqual("10.0.0.1, unix", str(self.made(*arguments)[1].trusted_proxies))
        self.assertFalse(self.made("--store", "memory:")[1].trusted_proxies)

    def test_memory(self) -> None:
        """memory: needs no directory."""
        _, configuration, store = self.made("--store", "memory:")
        self.assertIsInstance(store, MemoryStore)
        self.assertIsNone(configuration.directory)

    def test_redis(self) -> None:
        """A Redis server needs no directory; it is described without its password."""
        arguments = ("--store", "redis://:secret@db.example:6380/2", "--store-prefix", "chat", "--history", "7")
        _, configuration, store = self.made(*arguments)
        self.assertIsInstance(store, RedisStore)
        self.assertIsNone(configuration.directory)
        self.assertIn("redis://db.example:6380/2 (prefix chat; the last 7 messages a room", store.describe())

    def test_redis_not_installed(self) -> None:
        """Without the packages for Redis the command line is refused, and the message says what to install."""
        with patch.dict(sys.modules, {"txredisapi": None}):
            message = str(self.assertRaises(UsageError, parsed, "--store", "redis://db.example"))
        self.assertIn("txredisapi, which is not installed; right would be pip install txredisapi hiredis", message)

    def test_directory(self) -> None:
        """The database stands in the data directory, which is made; or where the store says."""
        _, configuration, store = self.made("--data-dir", "/srv/chat")
        self.assertIsInstance(store, SQLiteStore)
        self.assertEqual(Path("/srv/chat"), configuration.directory)
        self.assertIn("/srv/chat/realtime.sqlite", store.describe())
        _, configuration, store = self.made("--store", "sqlite:/elsewhere/own.sqlite")
        self.assertEqual(Path("/elsewhere"), configuration.directory)
        self.assertIn("/elsewhere/own.sqlite", store.describe())

    def test_default_directory(self) -> None:
        """Without options it is the default one."""
        self.patch(data_dir, "default_data_dir", lambda: Path("/somewhere/realtime_chat"))
        self.assertEqual(Path("/somewhere/realtime_chat"), self.made()[1].directory)

    def test_everything(self) -> None:
        """All options arrive where they count."""
        service, configuration, _ = self.made(
            *(
                "--store",
                "memory:",
                "--open",
                "--listen",
                "tcp:0",
                "--host",
                "a.example",
                "--allow-origin",
                "https://b.example",
            ),
            *("--history", "5", "--history-age", "1d", "--max-message", "2k", "--max-rooms", "3", "--allow-jsonp"),
            *("--presence-limit", "7", "--signal-rate", "4", "--max-rooms-total", "6"),
            *("--max-connections", "9", "--access-log", "/log", "--metrics-listen", "tcp:9100"),
            *("--stream-lifetime", "10m", "--page", "off"),
        )
        limits = Limits(history=5, history_age=86400.0, max_message=2048, max_rooms=3, presence_limit=7)
        limits = attrs.evolve(limits, stream_lifetime=600.0, max_rooms_total=6)
        expected = Configuration(
            listen=("tcp:0",),
            hosts=("a.example",),
            origins=("https://b.example",),
            max_connections=9,
            jsonp=True,
            page="off",
            access_log="/log",
            metrics_listen=("tcp:9100",),
            limits=limits,
            rate_limits=attrs.evolve(DEFAULTS, client=attrs.evolve(DEFAULTS.client, signals=Rate(4, 8))),
        )
        given = {name: getattr(expected, name) for name in ("access", "verify", "token_keys")}
        found = attrs.evolve(configuration, **given)
        self.assertEqual(expected, found)
        self.assertEqual(limits, service.hub.limits)

    def test_token_url(self) -> None:
        """Where the page asks for tokens arrives where the page is served."""
        key = Path(self.mktemp())
        key.write_text("x" * 32)
        given = ("--store", "memory:", "--token-key", str(key), "--token-url", "/token/")
        self.assertEqual("/token/", self.made(*given)[1].token_url)

    def test_access(self) -> None:
        """Without keys guests may do everything, with keys what rules give them; --open opens it again."""
        rules = Path(self.mktemp())
        rules.write_text('[[room]]\nmatch = "news"\nguests = "r"\n')
        key = Path(self.mktemp())
        key.write_text(SECRET)
        for arguments, is_open, has_keys in (
            ((), True, False),
            (("--open",), True, False),
            (("--token-key", str(key)), False, True),
            (("--token-key", str(key), "--open"), True, True),
        ):
            service, configuration, _ = self.made("--store", "memory:", "--config", str(rules), *arguments)
            self.assertEqual(is_open, configuration.access.is_open, arguments)
            self.assertEqual("news", configuration.access.rules.rules[0].match)
            self.assertEqual(has_keys, bool(configuration.token_keys()))
            claims = {"exp": int(time.time()) + 60, "aud": "chat"}
            if has_keys:
                self.assertEqual(
                    "unauthorized", self.assertRaises(RealtimeError, service.hub.verify, token(claims)).code
                )
                service, _, _ = self.made("--store", "memory:", *arguments, "--token-audience", "chat")
                self.assertEqual("u7", service.hub.verify(token(claims)).sub)

    def test_readable_keys(self) -> None:
        """A file of secrets that everybody on the machine can read is told at the start; public keys may be read."""
        self.patch(Process, "starting", lambda process, *calls: None)
        for content, mode, is_told in (
            (SECRET, 0o644, True),
            (SECRET, 0o640, False),
            (public_pem(private_key("ES256")), 0o644, False),
        ):
            key = Path(self.mktemp()).absolute()
            key.write_text(content)
            key.chmod(mode)
            service, _, _ = self.made("--store", "memory:", "--token-key", str(key))
            with capturedLogs() as events:
                service._starting(service)
            told = [text for text in map(str, map(formatEvent, events)) if "everybody on this machine" in text]
            self.assertEqual(is_told, bool(told), (mode, told))
            self.assertTrue(all(f"--token-key: everybody on this machine can read {key}" in text for text in told))

    def test_embedded(self) -> None:
        """Beside a site of somebody's own, options for the chat page are refused; by a reload, too."""
        site, file = Resource(), Path(self.mktemp()).absolute()
        for words in (("--page", "on"), ("--page", "off"), ("--token-url", "/token/", "--token-key", str(file))):
            file.write_text(SECRET)
            options = parsed("--store", "memory:", *words)
            refused = self.assertRaises(UsageError, makeService, options, site)
            self.assertIn(f"{words[0]}: makeService was given a site", str(refused))
        file.write_text("compress = true")
        service = makeService(parsed("--store", "memory:", "--config", str(file)), site)
        assert isinstance(service, RealtimeService)
        reload = reload_of(service)
        file.write_text("page = 'off'")
        (text,) = said_by(reload)
        self.assertIn(f"nothing was reloaded, and all goes on as before: {file}, line 1: page: makeService", text)

    def test_keys_again(self) -> None:
        """Keys are read again by a reload; what can't be read leaves the keys from before."""
        key = Path(self.mktemp())
        key.write_text(SECRET)
        service, configuration, _ = self.made("--store", "memory:", "--token-key", str(key))
        reload = reload_of(service)
        before = configuration.token_keys()
        for content in ("short", None, f"{SECRET}\n"):
            key.unlink() if content is None else key.write_text(content)
            (text,) = said_by(reload)
            self.assertEqual(before, configuration.token_keys())
            if content in ("short", None):
                self.assertIn(f"nothing was reloaded, and all goes on as before: --token-key: {key.absolute()}", text)
                self.assertNotIn("short;", text)
            else:
                self.assertEqual("reloaded; nothing has changed", text)
        key.write_text(OTHER_SECRET)
        said = said_by(reload)
        (fingerprint,) = configuration.token_keys()
        now = "reloaded; in force now: token-key"
        self.assertEqual([f"tokens are verified by the keys {fingerprint}", now], said)
        self.assertNotIn(fingerprint, before)

    def test_kept(self) -> None:
        """What is kept, and how many rooms there are and are made, arrives at every store."""
        options = ("--history", "5", "--history-age", "1d", "--max-rooms-stored", "6", "--room-rate", "7")
        for store in ("memory:", "sqlite:/nowhere/chat", "redis://127.0.0.1/0"):
            made = self.made("--store", store, *options)[2]
            self.assertEqual(Retention(5, 86400.0, 6, 7), made._retention, store)

    def test_no_end(self) -> None:
        """Streams end after an hour, or never."""
        for arguments, lifetime in (((), 3600.0), (("--stream-lifetime", "0"), None)):
            service, _, _ = self.made("--store", "memory:", *arguments)
            self.assertEqual(lifetime, service.hub.limits.stream_lifetime)

    def test_nothing_is_opened(self) -> None:
        """Privileges are dropped later: no file, directory, socket or thread is opened yet."""
        directory = Path(self.mktemp())
        readers, threads = set(reactor.getReaders()), threading.active_count()  # type: ignore[attr-defined]
        calls = len(reactor.getDelayedCalls())  # type: ignore[attr-defined]
        log = directory.with_name("access.log")
        service, _, _ = self.made("--data-dir", str(directory), "--listen", LOCAL, "--access-log", str(log))
        self.assertFalse(directory.exists())
        self.assertEqual(readers, set(reactor.getReaders()))  # type: ignore[attr-defined]
        self.assertEqual((threads, calls), (threading.active_count(), len(reactor.getDelayedCalls())))  # type: ignore[attr-defined]
        self.assertEqual((False, []), (bool(service.running), service.ports()))
