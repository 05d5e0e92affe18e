"""Tests for :mod:`realtime_chat.config_file`: the configuration file, alone and together with the command line."""

from __future__ import annotations

import random
from pathlib import Path

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.limit_options import LIMIT_OPTIONS
from realtime_chat.options import Options
from realtime_chat.values.access import RoomRule, RoomRules, parse_rights
from realtime_chat.values.rates import Rate


class ConfigTestCase(SynchronousTestCase):
    """Has a file read by the options of the command line."""

    def file(self, content: str | bytes) -> str:
        """The path of a file with this content."""
        path = Path(self.mktemp() + ".toml")
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def options(self, content: str | bytes, *arguments: str) -> Options:
        """The options of a file and of a command line."""
        options = Options()
        self.path = self.file(content)
        options.parseOptions(["--config", self.path, *arguments])
        return options

    def refused(self, content: str | bytes, line: int | None, *arguments: str) -> str:
        """Have a file refused; give the message without its place."""
        message = str(self.assertRaises(UsageError, self.options, content, *arguments))
        place = f"--config: {self.path}: " if line is None else f"{self.path}, line {line}: "
        self.assertTrue(message.startswith(place), (content, message))
        self.assertRegex(message, r"right would be|did you mean|such as|leave it out")
        return message.removeprefix(place)


class OptionTests(ConfigTestCase):
    """Options in a file."""

    def test_every_option(self) -> None:
        """Every option has its own name in a file, and means what it means on the command line."""
        key = str(Path(self.file("x" * 32)).absolute())
        values = {
            "listen": ["tcp:0", "tcp:8081"],
            "store": "redis://127.0.0.1/3",
            "store-prefix": "chat",
            "relay": ["a=b"],
            "store-password-file": str(Path(self.file("secret")).absolute()),
            "history": 5,
            "history-age": "2h",
            "host": ["a.example", "b.example"],
            "allow-origin": "https://a.example",
            "max-message": "32k",
            "max-connections": 5000,
            "max-rooms": 8,
            "max-rooms-total": 9,
            "max-rooms-stored": "10",
            "room-rate": 11,
            "stream-lifetime": 0,
            "presence-limit": 12,
            "max-members": 13,
            **{option.name: 14 for option in LIMIT_OPTIONS},
            "page": "on",
            "token-url": "/token/",
            "trusted-proxy": ["10.0.0.5", "unix"],
            "access-log": "/var/log/chat.log",
            "metrics-listen": "tcp:9100",
            "legacy-listen": ["tcp:1025", "tcp:1026"],
            "legacy-room": "old",
            "token-key": [key],
            "token-audience": "chat",
            "token-issuer": "https://a.example",
            "compress": True,
            "allow-jsonp": True,
            "open": True,
            "app": "tests.functional.socketio_app:app",
            "socket-io": True,
            "socket-io-path": "socketio",
            "socket-io-eio3": True,
            "socket-io-script": key,
            "socket-io-history": 700,
        }
        lines, arguments = [], []
        for name, value in values.items():
            for text in value if isinstance(value, list) else [value]:
                arguments += [f"--{name}"] if value is True else [f"--{name}", str(text)]
            lines.append(f"{name} = {str(value).lower() if value is True else repr(value)}")
        expected = Options()
        expected.parseOptions(arguments)
        found = self.options("\n".join(lines))
        self.assertEqual({**expected, "config": self.path}, dict(found))
        known = {name.removesuffix("=") for name in Options().longOpt} - {"help", "version", "config"}
        self.assertEqual(known, {*values, "data-dir", "store-ca"})
        self.assertEqual("/srv", self.options('data-dir = "/srv"')["data-dir"])

    def test_command_line_wins(self) -> None:
        """What is on the command line, in whatever form, replaces what the file says."""
        content = 'max-connections = 5\nhost = ["localhost", "127.0.0.1"]\nallow-jsonp = false\nmax-rooms = 7\n'
        for arguments in (("--max-connections", "6"), ("--max-connections=6",), ("--max-c=6",)):
            options = self.options(content, *arguments, "--host", "::1", "--allow-jsonp")
            self.assertEqual((6, ["::1"]), (options["max-connections"], options["host"]))
            self.assertEqual((1, 7), (options["allow-jsonp"], options["max-rooms"]))

    def test_wrong_but_overridden(self) -> None:
        """A value that doesn't count isn't judged, but its type is."""
        self.assertEqual(6, self.options('history = "many"', "--history", "6")["history"])
        self.refused("history = true", 1, "--history", "6")

    def test_flags(self) -> None:
        """A flag that is false is off."""
        self.assertEqual([0, 1, 0], [self.options(text)["open"] for text in ("open = false", "open = true", "")])

    def test_empty(self) -> None:
        """A file may say nothing."""
        for text in ("", "# nothing\n", "\r\n"):
            options = self.options(text)
            self.assertEqual((1000, RoomRules()), (options["history"], options["rules"]))


class RuleTests(ConfigTestCase):
    """Rules for rooms."""

    def test_rules(self) -> None:
        """Rules are read in their order, and what a rule doesn't say it leaves open."""
        text = """
            [[room]]
            match = "news"
            guests = "r"
            users = "rw"
            listed = true

            [[room]]
            match = "help-*"  # everybody
            guests = ""
            [[room]]
            match = "slow"
            publish-rate = "6/m+2"
            signal-rate = 3
            max-members = 50
            [[room]]
            match = "@*"
        """
        rights = parse_rights
        expected = (
            RoomRule("news", rights("r"), rights("rw"), True),
            RoomRule("help-*", 0),
            RoomRule("slow", publish_rate=Rate(0.1, 2), signal_rate=Rate(3, 6), max_members=50),
            RoomRule("@*"),
        )
        self.assertEqual(RoomRules(expected), self.options(text)["rules"])
        inline = (
            'room = [\n {match = "news", guests = "r", users = "rw", listed = true},\n'
            ' {match = "help-*", guests = ""},\n'
            ' {match = "slow", publish-rate = "6/m+2", signal-rate = 3, max-members = "50"},\n {match = "@*"}]'
        )
        self.assertEqual(RoomRules(expected), self.options(inline)["rules"])

    def test_wrong(self) -> None:
        """A rule that can't be one is refused with its line."""
        rule = '[[room]]\nmatch = "news"\n'
        for text, line, says in (
            ('[[room]]\nguests = "r"', 1, 'match = "lobby"'),
            (f'{rule}\n\n[[room]]\nguests = "r"', 5, 'match = "lobby"'),
            ('[[room]]\nmatch = "a b"', 2, "match: a pattern is a room's name"),
            ('[[room]]\nmatch = "*a"', 2, "match: a pattern"),
            ("[[room]]\nmatch = 7", 2, "match is a whole number; right would be text"),
            (rule + 'guests = "rx"', 3, "guests: rights are some of the letters"),
            (rule + "guests = true", 3, "guests is true or false; right would be text"),
            (rule + 'guests = "rm"', 3, "guests can't moderate"),
            (rule + 'users = ["r"]', 3, "users is a list; right would be text"),
            (rule + 'listed = "yes"', 3, "listed is text; right would be true or false"),
            (rule + 'publish-rate = "5/d"', 3, "publish-rate: '5/d' is no rate; right would be COUNT, COUNT/s"),
            (rule + "signal-rate = true", 3, "signal-rate is true or false; right would be a whole number or text"),
            (rule + "max-members = -1", 3, "max-members: '-1' is not a whole number above 0"),
            (rule + 'publish_rate = "5"', 3, "'publish_rate' is not a key of [[room]]; did you mean publish-rate?"),
            (rule + 'guest = "r"', 3, "'guest' is not a key of [[room]]; did you mean guests?"),
            (rule + "# more\n\nhistory = 7", 5, "'history' is not a key of [[room]]; right would be one of guests, "),
            (f'{rule}guests = "r"\nusers = "r"\n\n[[room]]\nmatch = "b"\nguests = "x"', 8, "guests: rights are some"),
            ('[room]\nmatch = "news"', 1, "right would be [[room]]"),
            ("room = 7", 1, "right would be [[room]]"),
            ("room = [7]", 1, "right would be [[room]]"),
            ('history = 5\nroom = [{match = "a"}, {match = 7}]', 2, "match is a whole number"),
            (f"{rule}{rule}", 3, "'news' in line 1"),
            (f'[[room]]\nmatch = "n*"\n{rule}', 3, "'n*' in line 1 matches all of its rooms, and the first match wins"),
        ):
            self.assertIn(says, self.refused(text, line), text)

    def test_order(self) -> None:
        """A rule that some rooms are left for is none too much; a pattern matches private rooms if it begins with @."""
        for first, second in (("news", "n*"), ("*", "@*"), ("n*", "o*"), ("n*", "*"), ("@a", "@*")):
            self.options(f'[[room]]\nmatch = "{first}"\n[[room]]\nmatch = "{second}"')


class RefusedTests(ConfigTestCase):
    """What no file may say."""

    def test_keys(self) -> None:
        """An unknown key is refused with its line, and what was probably meant."""
        for text, line, says in (
            ("histroy = 5", 1, "'histroy' is not an option; did you mean history?"),
            ("\n# ours\nhistory_age = 5", 3, "did you mean history-age?"),
            ('host = [\n  "a.example", # one\n]\ntoken_key = "a"', 4, "did you mean token-key?"),
            ('listen = """\ntcp:0"""\nx = 1', 3, "'x' is not an option; right would be one of access-log, "),
            ("[options]\nhistory = 5", 1, "'options' is not an option"),
            ("history.age = 5", 1, "history is a table"),
            ('\n[[rooms]]\nmatch = "a"', 2, "'rooms' is not an option; did you mean room?"),
            ("config = 'a'", 1, "'config' is not an option"),
            ("version = 1", 1, "'version' is not an option"),
            ('"a\\u0007" = 5', 1, "'a\\x07' is not an option"),
        ):
            self.assertIn(says, self.refused(text, line), text)

    def test_values(self) -> None:
        """A value that can't be is refused with its line, in the words of the command line."""
        for text, line, says in (
            ("history = 0", 1, "history: '0' is not a whole number above 0; right would be 1000"),
            ('\nhistory-age = "1w"', 2, "history-age: '1w' is not a number above 0"),
            ('host = ["localhost",\n "http://a"]', 1, "host: 'http://a' can't be served"),
            ("history = 1.5", 1, 'history is a float; right would be a whole number or text, such as 1000 or "30d"'),
            ("history = 2026-01-01", 1, "history is a date"),
            ("history = [1]", 1, "history is a list"),
            ("compress = 1", 1, "compress is a whole number; right would be true or false, such as true"),
            ('compress = "yes"', 1, "compress is text"),
            ("host = 7", 1, "host is a whole number; right would be a list or text"),
            ("host = [7]", 1, "host is a whole number"),
            ('store = "memory:"\ndata-dir = "/srv"', 2, "data-dir: leave it out"),
            ('relay = "a=b"', 1, "relay: this is for --store redis"),
            ('\n\naccess-log = "/nowhere/at/all"', 3, "access-log: "),
            ('token-audience = "chat"', 1, "token-audience: "),
            ('token-key = "/nowhere"', 1, "token-key: /nowhere: it can't be read"),
            ('listen = "tcp:8081"', 1, "listen: others can reach 'tcp:8081'"),
            ('host = "example.com"', 1, "host: others can reach 'example.com'"),
            (
                'listen = "tcp:81:interface=127.0.0.1"\nmetrics-listen = "tcp:81:interface=127.0.0.1"',
                2,
                "there already",
            ),
        ):
            self.assertIn(says, self.refused(text, line), text)

    def test_toml(self) -> None:
        """What is no TOML is refused with its line."""
        for text, line, says in (
            ("history = ", 1, "no TOML: Invalid value; right would be a line such as history = 1000"),
            ("history = 5\nhistory = 6", 2, "no TOML"),
            ("\nlisten tcp:8080", 2, "no TOML"),
            ('host = ["a"', 1, "no TOML"),
            ('history = 5\nhost = ["a"\n\n', 2, "no TOML"),
            ("x = " + "[" * 5000, None, "nests too deep"),
            (b"history = 5\n# \xff", 2, "no text in UTF-8"),
            (b"#" * 2**20 + b"\n", None, "mebibyte"),
        ):
            self.assertIn(says, self.refused(text, line), text[:30])

    def test_files(self) -> None:
        """A file that can't be read is refused, and the message says why."""
        for path, why in (("/nowhere/realtime.toml", "No such file or directory"), ("/", "Is a directory")):
            message = str(self.assertRaises(UsageError, Options().parseOptions, ["--config", path]))
            self.assertTrue(message.startswith(f"--config: {path}: it can't be read ({why})"), message)

    def test_anything(self) -> None:
        """Whatever stands in a file, it is accepted or refused with a message."""
        draw = random.Random(17)
        for _ in range(500):
            words = (*("history", "host", "open", "room", "match"), *'[]=".#5\n', "[[", "]]", '"a"')
            text = " ".join(draw.choices(words, k=6))
            try:
                self.options(text)
            except UsageError as error:
                self.assertRegex(str(error), r"right would be|did you mean|such as", text)
