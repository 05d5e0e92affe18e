"""Tests for :mod:`realtime_chat.options`: the command line."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import attrs
from twisted.python import usage
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat import __version__
from realtime_chat.data_dir import default_data_dir
from realtime_chat.limit_options import LIMIT_OPTIONS, read_limits
from realtime_chat.listening import DEFAULT_LISTEN
from realtime_chat.options import Options
from realtime_chat.redis.address import RedisAddress
from realtime_chat.values.rates import DEFAULTS, Rate

VALUED = (
    "listen",
    "store",
    "store-prefix",
    "store-password-file",
    "store-ca",
    "relay",
    "data-dir",
    "history",
    "history-age",
    "host",
    "allow-origin",
    "max-message",
    "max-connections",
    "max-rooms",
    "max-rooms-total",
    "max-rooms-stored",
    "room-rate",
    "stream-lifetime",
    "presence-limit",
    "max-members",
    *(option.name for option in LIMIT_OPTIONS),
    "page",
    "access-log",
    "metrics-listen",
    "legacy-listen",
    "legacy-room",
    "config",
    "token-key",
    "token-audience",
    "token-issuer",
    "token-url",
    "trusted-proxy",
    "app",
    "socket-io-path",
    "socket-io-script",
    "socket-io-history",
)


def parsed(*arguments: str) -> Options:
    """The options of a command line."""
    options = Options()
    options.parseOptions(list(arguments))
    return options


class LimitTests(SynchronousTestCase):
    """The options for limits."""

    def test_defaults(self) -> None:
        """Without options the limits are the daemon's own, and no option is missing."""
        self.assertEqual(DEFAULTS, read_limits(parsed()))

    def test_each(self) -> None:
        """Each option sets one limit, and 0 takes it away."""
        for option in LIMIT_OPTIONS:
            text, value = ("7/m+5", Rate(7 / 60, 5)) if option.name.endswith("-rate") else ("7", 7)
            for given, expected in ((text, value), ("0", None)):
                scope = attrs.evolve(getattr(DEFAULTS, option.scope), **{option.field: expected})
                limits = attrs.evolve(DEFAULTS, **{option.scope: scope})
                self.assertEqual(limits, read_limits(parsed(f"--{option.name}", given)), option.name)


class OptionsTests(SynchronousTestCase):
    """The command line."""

    def test_defaults(self) -> None:
        """Without options everything has its documented default."""
        options = parsed()
        self.assertEqual([DEFAULT_LISTEN], options["listen"])
        self.assertEqual("tcp:8080:interface=127.0.0.1", DEFAULT_LISTEN)
        for name in ("store", "data-dir", "history-age", "max-connections", "access-log"):
            self.assertIsNone(options[name], name)
        for name in ("host", "allow-origin", "metrics-listen", "trusted-proxy"):
            self.assertEqual([], options[name], name)
        self.assertEqual((1000, 65536, 100), tuple(options[name] for name in ("history", "max-message", "max-rooms")))
        self.assertEqual((50_000, 3600), (options["max-rooms-total"], options["stream-lifetime"]))
        self.assertEqual((1_000_000, 100), (options["max-rooms-stored"], options["room-rate"]))
        self.assertEqual((200, "30/s+60"), (options["presence-limit"], options["signal-rate"]))
        self.assertFalse(options["allow-jsonp"])
        self.assertEqual("on", options["page"])

    def test_page(self) -> None:
        """The page is on, off, or a directory that has an index, wherever the daemon goes afterwards."""
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "index.html").touch()
        for text, value in (("on", "on"), ("off", "off"), (str(directory), directory.absolute())):
            self.assertEqual(value, parsed("--page", text)["page"])

    def test_good_values(self) -> None:
        """Good values are read, units too."""
        for option, text, value in (
            ("store", "memory:", "memory:"),
            ("store", "sqlite:/a/b.sqlite", "sqlite:/a/b.sqlite"),
            ("store", "sqlite:c:d", f"sqlite:{Path('c:d').absolute()}"),
            ("data-dir", "/srv/chat", "/srv/chat"),
            ("history", "1", 1),
            ("history", "999999999", 999_999_999),
            ("history-age", "90", 90.0),
            ("history-age", "90s", 90.0),
            ("history-age", "30d", 30 * 86400.0),
            ("history-age", "2H", 7200.0),
            ("max-message", "1024", 1024),
            ("max-message", "64k", 65536),
            ("max-message", "16M", 16 * 1024**2),
            ("max-connections", "5", 5),
            ("max-rooms", "3", 3),
            ("max-rooms-stored", "5", 5),
            ("room-rate", "7", 7),
            ("stream-lifetime", "90", 90.0),
            ("stream-lifetime", "2h", 7200.0),
            ("stream-lifetime", "0", 0.0),
            ("presence-limit", "1", 1),
            ("max-members", "5", 5),
            *((option.name, "0", "0") for option in LIMIT_OPTIONS),
            *((option.name, "5/m+9", "5/m+9") for option in LIMIT_OPTIONS if option.name.endswith("-rate")),
            ("user-byte-rate", "64k/s+1m", "64k/s+1m"),
            ("address-polls", "17", "17"),
            ("access-log", "/var/log/chat.log", "/var/log/chat.log"),
        ):
            self.assertEqual(value, parsed(f"--{option}", text)[option], (option, text))
        self.assertTrue(parsed("--allow-jsonp")["allow-jsonp"])

    def test_repeated(self) -> None:
        """Endpoints, hosts and origins may be given more than once; of other options the last one counts."""
        for option, values in (
            ("listen", ["tcp:8081", "tcp6:8081", "unix:/run/chat.sock"]),
            ("listen", ["haproxy:tcp:8080", "tcp:port=0", "tcp:port=0"]),
            ("metrics-listen", ["tcp:9100:interface=127.0.0.1", "tcp:9101"]),
            ("host", ["chat.example.com", "example.com:8080", "::1", "192.0.2.7"]),
            ("trusted-proxy", ["10.0.0.5", "10.1.0.0/16", "2001:db8::1", "loopback", "unix"]),
            ("allow-origin", ["https://example.com", "*", "null", "http://localhost:3000"]),
        ):
            arguments = [argument for value in values for argument in (f"--{option}", value)]
            self.assertEqual(values, parsed("--open", *arguments)[option])
        self.assertEqual(7, parsed("--history", "5", "--history", "7")["history"])

    def test_bad_values(self) -> None:
        """A bad value is refused: the message names the option, says what was wrong, and what would be right."""
        for option, texts, right in (
            ("listen", ("", "8080", "tcp", "tcp:http", "carrier:pigeon", "tcp:8080:nonsense=1"), DEFAULT_LISTEN),
            ("listen", ("haproxy:haproxy:tcp:8080", "haproxy:haproxy:haproxy:unix:chat.sock"), DEFAULT_LISTEN),
            ("listen", ("tcp:99999", "tcp:65536", "tcp:-1", "haproxy:tcp:70000", "tcp6:99999"), DEFAULT_LISTEN),
            ("listen", ("tcp:interface=127.0.0.1:port=99999",), DEFAULT_LISTEN),
            ("listen", ("unix:/nowhere/chat.sock", "unix:address=/nowhere/chat.sock"), "/run/chat.sock"),
            ("listen", ("tcp6:8080:interface=::1", "tcp:8080:interface=[::1]", "[::1]:8080"), r"interface=\:\:1"),
            ("listen", (r"tcp6:8080:interface=[\:\:1]", r"tcp6:8080:interface=\:\:g"), r"interface=\:\:1"),
            ("metrics-listen", ("9100", "tcp:99999"), DEFAULT_LISTEN),
            ("legacy-listen", ("1025", "tcp:99999"), DEFAULT_LISTEN),
            ("legacy-room", ("", "a b", "..", "a" * 129), "lobby"),
            ("metrics-listen", ("tcp6:9100:interface=::1",), r"interface=\:\:1"),
            ("store", ("", "sqlite", "sqlite:", "memory", "memory:x", "SQLITE:a"), "sqlite:PATH"),
            ("store-prefix", ("", "a:b", "a b", "a*", "x" * 65), "realtime"),
            ("history", ("", "0", "-1", "1.5", "many", "1e3", "1000000000", "٣"), "1000"),
            ("history-age", ("", "0", "-1d", "1w", "1.5d", "d", "one"), "30d"),
            ("max-message", ("", "0", "-1", "1023", "17m", "1g", "1t", "64 k"), "64k"),
            ("max-connections", ("", "0", "-5", "all"), "1000"),
            ("max-rooms", ("", "0", "-5", "all"), "be 100"),
            ("max-rooms-total", ("", "0", "-5", "all"), "be 50000"),
            ("max-rooms-stored", ("", "0", "-5", "all"), "be 1000000"),
            ("room-rate", ("", "0", "0.5", "all"), "be 100"),
            ("stream-lifetime", ("", "-1", "00", "0s", "1w", "1.5h", "never"), "0 for no end"),
            ("presence-limit", ("", "0", "-5", "all"), "be 200"),
            ("max-members", ("", "0", "-5", "all"), "be 100000"),
            *((option.name, ("", "-5", "0.5", "5/d", "all"), "right would be") for option in LIMIT_OPTIONS),
            ("signal-rate", ("1e3",), "10/s+200"),
            ("client-byte-rate", ("64kb",), "512k/s+8m"),
            ("address-connections", ("5/s",), "be 1000"),
            ("trusted-proxy", ("", "proxy.example", "10.0.0.5:80", "::/0", "Unix"), "10.0.0.5"),
            ("access-log", ("", "/", "/nowhere/at/all", "/nowhere/access.log"), "right would be"),
            ("page", ("", "/nowhere/at/all", __file__), "right would be"),
            (
                "host",
                ("http://example.com", "a b", "example.com:99999", "example.com.", "ä.example"),
                "chat.example.com",
            ),
            (
                "allow-origin",
                ("example.com", "https://", "https://example.com/path", "https://*.example.com", "https://a@b.com"),
                "https://example.com",
            ),
        ):
            for text in texts:
                message = str(self.assertRaises(UsageError, parsed, f"--{option}", text))
                self.assertTrue(message.startswith(f"--{option}: "), (option, text, message))
                self.assertIn("right would be", message)
                self.assertIn(right, message)
                if text:
                    self.assertIn(repr(text), message)

    def test_same_endpoint_twice(self) -> None:
        """Nothing listens twice on one endpoint."""
        for arguments, option in (
            (("--listen", "tcp:8080", "--listen", "tcp:8080"), "listen"),
            (("--listen", "tcp:8080", "--metrics-listen", "tcp:8080"), "metrics-listen"),
            (("--listen", "tcp:8080", "--legacy-listen", "tcp:8080"), "legacy-listen"),
            (("--metrics-listen", DEFAULT_LISTEN), "metrics-listen"),
        ):
            message = str(self.assertRaises(UsageError, parsed, *arguments))
            self.assertTrue(message.startswith(f"--{option}: "), message)
            self.assertIn("right would be", message)

    def test_not_together(self) -> None:
        """A directory for a store that keeps nothing on disk is a mistake."""
        for store in ("memory:", "redis://localhost"):
            message = str(self.assertRaises(UsageError, parsed, "--store", store, "--data-dir", "/srv"))
            self.assertIn("--data-dir", message)

    def test_redis_alone(self) -> None:
        """What is for Redis is a mistake with another store."""
        for option in ("store-prefix", "store-password-file", "store-ca", "relay"):
            for store in ([], ["--store", "memory:"]):
                message = str(
                    self.assertRaises(UsageError, parsed, *store, f"--{option}", "x=y" if option == "relay" else "x")
                )
                self.assertTrue(message.startswith(f"--{option}: "), message)
                self.assertIn("redis://HOST/0", message)

    def test_connections_of_an_address(self) -> None:
        """One address may not be given more connections than all together have; the default isn't taken for given."""
        most = ("--max-connections", "1000")
        message = str(self.assertRaises(UsageError, parsed, *most, "--address-connections", "1001"))
        self.assertEqual(
            "--address-connections: all addresses together have 1000 (max-connections); right would be fewer", message
        )
        for given in ((), ("--address-connections", "1000"), ("--address-connections", "0")):
            self.assertEqual(1000, parsed(*most, *given)["max-connections"])
        self.assertEqual("5000", parsed("--address-connections", "5000")["address-connections"])

    def test_relay(self) -> None:
        """A relay is a pattern and a room, more than one if need be; what is none is told with what would be one."""
        given = ("--relay", "alerts:*=news", "--relay", "a=b=news", "--relay", "[ab]?=@u7")
        options = parsed("--store", "redis://localhost", *given)
        self.assertEqual([("alerts:*", "news"), ("a=b", "news"), ("[ab]?", "@u7")], options["relay"])
        for wrong in ("", "news", "=news", "alerts:*=", "alerts:*=a b", "alerts:*=..", "x\n=news", "x" * 257 + "=news"):
            message = str(self.assertRaises(UsageError, parsed, "--store", "redis://localhost", "--relay", wrong))
            self.assertTrue(message.startswith("--relay: "), message)
            self.assertIn("right would be", message)

    def test_redis_address(self) -> None:
        """The address of a Redis server is read, with its password from a file; a bad one isn't shown."""
        path = Path(self.mktemp())
        path.write_text("a secret\n")
        options = parsed("--store", "redis://bob@db.example/3", "--store-password-file", str(path))
        expected = RedisAddress(host="db.example", database=3, user="bob", password="a secret")
        self.assertEqual(expected, options["redis"])
        for store in ("redis:", "redis://", "redis://:secret@host/x", "redis://:secret@host:0/", "unix://secret"):
            message = str(self.assertRaises(UsageError, parsed, "--store", store))
            self.assertTrue(message.startswith("--store: "), message)
            self.assertIn("right would be redis://host/0", message)
            self.assertNotIn("secret", message)
        for option, value in (("store-password-file", "/nowhere"), ("store-ca", __file__)):
            message = str(self.assertRaises(UsageError, parsed, "--store", "rediss://host", f"--{option}", value))
            self.assertTrue(message.startswith(f"--{option}: "), message)
            self.assertIn("right would be", message)

    def test_unknown(self) -> None:
        """Unknown options, and arguments that belong to none, are refused."""
        self.assertRaises(UsageError, parsed, "--nonsense")
        self.assertRaises(UsageError, parsed, "stray")

    def test_under_twistd(self) -> None:
        """Where twistd asks, a mistake ends the process with a status and its own message, and not with all options."""
        options = Options()
        options.parent = usage.Options()
        message = str(self.assertRaises(SystemExit, options.parseOptions, ["--history", "many"]))
        self.assertEqual(
            "realtime: --history: 'many' is not a whole number above 0; right would be 1000\n"
            "All options: twistd realtime --help",
            message,
        )

    def test_version(self) -> None:
        """--version says the daemon's own."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(0, self.assertRaises(SystemExit, parsed, "--version").code)
        self.assertTrue(out.getvalue().startswith(f"realtime_chat {__version__}, Twisted "), out.getvalue())

    def test_help(self) -> None:
        """--help has every option with a sentence, and the default of every one that has one."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertRaises(SystemExit, parsed, "--help")
        text = out.getvalue()
        for name in (*VALUED, "allow-jsonp"):
            self.assertIn(f"--{name}", text)
        words = " ".join(text.split())
        self.assertGreaterEqual(words.count("[default:"), 9)
        for default in ("tcp:8080:interface=127.0.0.1", "1000", "64k", "/var/lib/realtime_chat"):
            self.assertIn(default, words)
        self.assertEqual([], [line for line in text.splitlines() if len(line) > 120])

    def test_known(self) -> None:
        """These tests know all options."""
        known = {name.removesuffix("=") for name in Options().longOpt}
        self.assertEqual(
            {*VALUED, "version", "help", "compress", "allow-jsonp", "open", "socket-io", "socket-io-eio3"}, known
        )


class OpenTests(SynchronousTestCase):
    """Who may come in without keys: nobody but this machine, unless somebody says so."""

    def key_file(self) -> str:
        path = Path(self.mktemp())
        path.write_text("x" * 32)
        return str(path)

    def test_refused(self) -> None:
        """Where others can reach the daemon it doesn't start without keys; the message names the option and --open."""
        for option, values in (
            ("listen", ("tcp:8081", "tcp6:8081", "tcp:8081:interface=0.0.0.0", r"tcp6:8081:interface=\:\:")),
            ("listen", ("tcp:8081:interface=192.0.2.7", "tcp:8081:interface=db.example", "unix:chat.sock")),
            ("listen", ("haproxy:tcp:8081:interface=127.0.0.1", "haproxy:unix:chat.sock")),
            ("host", ("example.com", "192.0.2.7", "localhost.example.com", "example.com:8080", "2001:db8::7")),
        ):
            for value in values:
                for before in ((), ("--listen", DEFAULT_LISTEN), ("--host", "localhost")):
                    message = str(self.assertRaises(UsageError, parsed, *before, f"--{option}", value))
                    self.assertTrue(message.startswith(f"--{option}: others can reach {value!r}, "), message)
                    for word in ("right would be", "--token-key FILE", "realtime-chat key", "--open"):
                        self.assertIn(word, message)
                for allowed in (("--open",), ("--token-key", self.key_file())):
                    self.assertIn(value, parsed(f"--{option}", value, *allowed)[option])

    def test_loopback(self) -> None:
        """For this machine alone nothing has to be said."""
        for arguments in (
            *((), ("--listen", r"tcp6:8081:interface=\:\:1"), ("--listen", "tcp:8081:interface=127.0.0.9")),
            *(("--listen", "tcp:8081:interface=localhost"), ("--listen", "tcp:8081:127.0.0.1")),
            *(("--host", "localhost:8080"), ("--host", "127.0.0.1"), ("--host", "::1"), ("--host", "[::1]:80")),
            ("--metrics-listen", "tcp:9100"),
        ):
            self.assertFalse(parsed(*arguments)["open"], arguments)

    def test_keys(self) -> None:
        """Keys are read from files, and what is no key is told with its file and line."""
        options = parsed(
            "--token-key", self.key_file(), "--token-audience", "chat", "--token-issuer", "https://a.example"
        )
        self.assertEqual(("HS256",), options["keys"].algorithms)
        self.assertEqual(("chat", "https://a.example"), (options["token-audience"], options["token-issuer"]))
        for content, says in (("short", ", line 1: the secret has 5 bytes"), ("", "no key for signatures in it")):
            path = Path(self.mktemp()).absolute()
            path.write_text(content)
            message = str(self.assertRaises(UsageError, parsed, "--token-key", str(path)))
            self.assertTrue(message.startswith(f"--token-key: {path}"), message)
            self.assertIn(says, message)
        message = str(self.assertRaises(UsageError, parsed, "--token-key", "/nowhere/realtime.key"))
        self.assertIn("--token-key: /nowhere/realtime.key: it can't be read (No such file or directory)", message)

    def test_tokens_alone(self) -> None:
        """What is for tokens is a mistake without a key."""
        self.refused_without_key("token-url", "/token/")
        for option in ("token-audience", "token-issuer"):
            self.refused_without_key(option, "chat")
            for wrong in ("", " ", "a\nb"):
                self.assertIn(
                    "right would be",
                    str(self.assertRaises(UsageError, parsed, "--token-key", self.key_file(), f"--{option}", wrong)),
                )

    def refused_without_key(self, option: str, value: str) -> None:
        """Give an option alone: it is named, and so is what it needs."""
        message = str(self.assertRaises(UsageError, parsed, f"--{option}", value))
        self.assertTrue(message.startswith(f"--{option}: "), message)
        self.assertIn("--token-key", message)

    def test_token_url(self) -> None:
        """Where tokens are is a path of the site or a URL; anything that a browser may take for another place isn't."""
        key = ("--token-key", self.key_file())
        for url in (
            *("/token/", "/token.php", "/", "/a%20b/~ann/t?x=1&y=2"),
            *("https://example.com/token", "http://localhost:8000/token/", "https://[2001:db8::7]:8443/t"),
        ):
            self.assertEqual(url, parsed(*key, "--token-url", url)["token-url"])
        for wrong in (
            *(
                "",
                "token.php",
                "//example.com/token",
                "/\\\\example.com/token",
                "/\\example.com",
                "/a b",
                "/ä",
                "/a\n",
                "/a#b",
            ),
            *("https://example.com", "https:///token", "https://a@b.example/t", "https://b.example:99999/t"),
            *("javascript:alert(1)", "ftp://b.example/t", "https://b.example;/t", 'https://b.example/"'),
        ):
            message = str(self.assertRaises(UsageError, parsed, *key, "--token-url", wrong))
            self.assertTrue(message.startswith(f"--token-url: {wrong!r} "), message)
            self.assertIn("right would be a path from the root of the site, such as /token/", message)

    def test_token_url_without_page(self) -> None:
        """Only the daemon's own page reads where tokens are, so this is refused with another one, and with none."""
        page = Path(self.mktemp())
        page.mkdir()
        (page / "index.html").touch()
        for other in ("off", str(page)):
            given = ("--token-key", self.key_file(), "--token-url", "/token/", "--page", other)
            message = str(self.assertRaises(UsageError, parsed, *given))
            self.assertTrue(message.startswith("--token-url: this is for the chat page"), message)
            self.assertIn("leave it out", message)


class DataDirTests(SynchronousTestCase):
    """Where data belongs."""

    def user(self, number: int) -> None:
        self.patch(os, "geteuid", lambda: number)

    def test_root(self) -> None:
        """Root's is /var/lib/realtime_chat, whatever the environment says."""
        self.user(0)
        self.assertEqual(Path("/var/lib/realtime_chat"), default_data_dir({"XDG_DATA_HOME": "/x"}))

    def test_nobody(self) -> None:
        """A user without a home directory, as containers have, is told to name a directory."""
        self.user(12_345)

        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        self.patch(Path, "home", no_home)
        message = str(self.assertRaises(UsageError, parsed))
        self.assertIn("--data-dir /srv/chat", message)
        self.assertEqual("/srv/chat", parsed("--data-dir", "/srv/chat")["data-dir"])

    def test_user(self) -> None:
        """A user's is below XDG_DATA_HOME, or else below the home directory."""
        self.user(1000)
        self.patch(Path, "home", classmethod(lambda cls: Path("/home/ann")))
        self.assertEqual(Path("/x/realtime_chat"), default_data_dir({"XDG_DATA_HOME": "/x"}))
        for environ in ({}, {"XDG_DATA_HOME": ""}):
            self.assertEqual(Path("/home/ann/.local/share/realtime_chat"), default_data_dir(environ))
