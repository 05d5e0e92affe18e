"""What is written is true: options, errors and goodbyes as they are, and the README's examples as they run."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import urllib.request
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat.broker.local import LocalBroker
from realtime_chat.broker.redis import BrokerCounts
from realtime_chat.composition import make_hub
from realtime_chat.console.options import make_parser
from realtime_chat.http.channel import RealtimeChannel
from realtime_chat.http.monitoring import make_registry
from realtime_chat.http.request import MAX_LINE
from realtime_chat.http.subscribe_params import MAX_PARAMETERS
from realtime_chat.limit_options import LIMIT_OPTIONS
from realtime_chat.options import Options
from realtime_chat.redis.connection import ConnectionCounts
from realtime_chat.socketio import Application
from realtime_chat.socketio.metrics import ApplicationCollector
from realtime_chat.store.append_queue import CommitCounts
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.values.commands import COMMANDS
from realtime_chat.values.errors import ERRORS, GOODBYES
from realtime_chat.values.limits import Limits
from realtime_chat.values.rates import DEFAULTS
from tests.deadlines import DEADLINE
from tests.functional.daemon import CHECKOUT, Daemon
from tools.references import Text, dead_in, dead_references

README = (CHECKOUT / "README.rst").read_text("utf-8")
PROTOCOL = (CHECKOUT / "docs" / "protocol.rst").read_text("utf-8")
OPERATIONS = (CHECKOUT / "docs" / "operations.rst").read_text("utf-8")
PAGES = [CHECKOUT / "README.rst", *sorted((CHECKOUT / "docs").rglob("*.rst"))]

OF_TWISTED = {"help", "version", "pidfile", "logfile", "syslog", "uid", "gid", "umask", "logger"}
CONSOLE_COMMANDS = ("tail", "publish", "members", "rooms", "chat", "key", "token", "nginx", "config", "amqp")
OF_OTHERS = {"json", "draft", "now", "quick", "only", "runs", "noinput", "username", "email", "apply-to"}


def _section(text: str, title: str) -> str:
    """What stands below a title, up to the next one that is underlined in the same way."""
    match = re.search(rf"^{title}\n((.)\2+)\n(.*?)(?=^[^\n]+\n\2{{3,}}$|\Z)", text, re.MULTILINE | re.DOTALL)
    assert match is not None, f"there is no section {title}"
    return match[3]


def _options() -> set[str]:
    """The daemon's own options, as they are given on the command line."""
    return {name.removesuffix("=") for name in Options().longOpt} - OF_TWISTED


def _console_options() -> set[str]:
    """The options of ``realtime-chat`` and all of its commands."""
    text = "".join(_help_of(command) for command in CONSOLE_COMMANDS)
    return set(re.findall(r"--([a-z-]+)", text + make_parser().format_help()))


def _help_of(command: str) -> str:
    """What ``realtime-chat COMMAND --help`` prints."""
    with redirect_stdout(StringIO()) as output, contextlib.suppress(SystemExit):
        make_parser().parse_args([command, "--help"])
    return output.getvalue()


class OptionTests(SynchronousTestCase):
    """The options that are described, and those that there are."""

    def test_all_are_described(self) -> None:
        """The README's table and the operator's list have every option, and no other."""
        options = _options()
        limits = {option.name for option in LIMIT_OPTIONS}  # which stand in one row
        listed = set(re.findall(r"^``--([a-z0-9-]+)``", README, re.MULTILINE))
        self.assertEqual(options - limits, listed)
        self.assertEqual(options, set(re.findall(r"^``--([a-z0-9-]+)[^`]*``$", OPERATIONS, re.MULTILINE)))

    def test_console(self) -> None:
        """The how-to has every command and option of ``realtime-chat``."""
        text = (CHECKOUT / "docs" / "howto" / "console.rst").read_text("utf-8")
        for option in _console_options() - {"version"}:
            self.assertIn(f"--{option}", text)
        for command in CONSOLE_COMMANDS:
            self.assertIn(f"``{command}", text)

    def test_none_is_invented(self) -> None:
        """Wherever an option is mentioned, it exists."""
        known = _options() | OF_TWISTED | OF_OTHERS | _console_options()
        for path in PAGES:
            mentioned = set(re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)", path.read_text("utf-8")))
            self.assertEqual(set(), mentioned - known, path.name)

    def test_limits(self) -> None:
        """The numbers in the protocol are those of the limits."""
        limits, signals = Limits(), DEFAULTS.client.signals
        assert signals is not None
        for number, sentence in (
            (limits.default_last, "{} if left out"),
            (limits.wait, "{:g} if left out, at most"),
            (limits.max_wait, "at most {:g} (more is taken"),
            (limits.max_limit, "at most {:,} (more is taken"),
            (limits.page_messages, "at most one page: {} messages"),
            (limits.page_bytes // 1024, "within {} KiB"),
            (RealtimeChannel.MAX_LENGTH, "at most {:,} bytes, and all together"),
            (RealtimeChannel.totalHeadersSize, "and all together {:,}"),
            (MAX_LINE, "No client needs a line above {:,} bytes"),
            (MAX_LINE, "An id has {:,} bytes at most"),
            (limits.max_errors, "after {:,} the connection is closed"),
            (limits.max_publishes, "{} publishes may wait"),
            (limits.ping, "the server pings every {:g} seconds"),
            (limits.pong, "from which nothing comes within {:g} seconds"),
            (limits.stalled_after, "not one byte was taken in {:g} seconds"),
            (limits.heartbeat, "a comment (``:``) every {:g} seconds"),
            (limits.tcp_user_timeout, "nothing of what was sent within {:g} seconds more"),
            (limits.presence_limit, "more than {} members (``--presence-limit``)"),
            (limits.presence_page, "A page has {} members at most"),
            (limits.presence_interval * 1000, "one event each {:g} milliseconds at most"),
            (limits.presence_slowest, "one in {:g} seconds at least"),
            (limits.leave_delay, "takes effect after {:g} seconds"),
            (limits.poll_grace, "each of which counts for {:g} seconds after its end"),
            (limits.max_state, "an object of at most {:,} bytes"),
            (signals.per_second, "may send {:g} signals a second"),
            (limits.signal_memory, "ended less than {:g} seconds ago"),
            (limits.signal_bytes // 1024, "goes into {} KiB"),
            (limits.signals_bytes // 1024**2, "and into {} MiB with what is kept"),
            (signals.per_second, "tell its state to {:g} rooms a second"),
            (signals.burst, "and to {:g} at once"),
            (MAX_PARAMETERS, "A query has at most {:,} parameters"),
        ):
            self.assertIn(sentence.format(number), re.sub(r"\s+", " ", PROTOCOL))


class TutorialTests(SynchronousTestCase):
    """``docs/tutorial/examples.rst``."""

    def test_examples(self) -> None:
        """Each example is told of, with its command and a picture."""
        folder = CHECKOUT / "docs" / "tutorial"
        text = (folder / "examples.rst").read_text("utf-8")
        names = {path.parent.name for path in CHECKOUT.glob("examples/*/README.rst")}
        self.assertEqual(names, set(re.findall(r"^\.\. figure:: (\S+)\.png$", text, re.MULTILINE)))
        self.assertEqual(names, {path.stem for path in folder.glob("*.png")})
        commands = re.findall(r"\$ make example(?: NAME=(\S+))?$", text, re.MULTILINE)
        self.assertEqual(names, {name or "chat-tutorial" for name in commands})


class CatalogueTests(SynchronousTestCase):
    """The catalogues of what can go wrong, and the protocol's tables."""

    def test_errors(self) -> None:
        """The table has every error code with its status, and whether it is temporary; and no other."""
        rows = re.findall(r"^``(\w+)`` +(\d+) +(yes|no) ", _section(PROTOCOL, "Errors"), re.MULTILINE)
        described = {code: (int(status), temporary == "yes") for code, status, temporary in rows}
        self.assertEqual({code: tuple(kind) for code, kind in ERRORS.items()}, described)

    def test_goodbyes(self) -> None:
        """The table has every goodbye with its close code, and no other."""
        rows = re.findall(r"^(\d{4}) ``(\w+)`` ", _section(PROTOCOL, "Close codes"), re.MULTILINE)
        self.assertEqual({reason: goodbye.code for reason, goodbye in GOODBYES.items()}, {r: int(c) for c, r in rows})

    def test_commands(self) -> None:
        """Every command has a section with its fields, and no section is of another."""
        section = _section(PROTOCOL, "Commands and replies")
        titles = re.findall(r"^``(\w+)``\n-+$", section, re.MULTILINE)
        self.assertEqual(sorted(kind.__struct_config__.tag for kind in COMMANDS), sorted(titles))
        for kind in COMMANDS:
            text = _section(section, f"``{kind.__struct_config__.tag}``")
            for field in set(kind.__struct_fields__) - {"id"}:
                self.assertIn(f"``{field}``", text, kind.__name__)


class ReferenceTests(SynchronousTestCase):
    """What documents, docstrings and comments name."""

    def test_all_exist(self) -> None:
        """Each file, module, class, function and attribute that a text names exists."""
        self.assertEqual([], dead_references())

    def test_kinds(self) -> None:
        """Each kind of reference is looked up: what exists is found, and what doesn't is told."""
        for there, gone in (
            (":class:`~realtime_chat.core.room.Room`", ":class:`~realtime_chat.core.room.Rooms`"),
            (":meth:`fall_behind`", ":meth:`fall_ahead`"),
            (":func:`~realtime_chat.clock.time_steadily`", ":func:`~realtime_chat.clock.steady`"),
            (":attr:`Limits.wait`", ":attr:`Limits.wishes`"),
            (":mod:`realtime_chat.tap`", ":mod:`realtime_chat.tip`"),
            (":exc:`twisted.internet.error.ConnectError`", ":exc:`twisted.internet.error.ConnectMistake`"),
            (":ref:`keys`", ":ref:`locks`"),
            ("``core/room.py``", "``core/rooms.py``"),
            ("``tests/http/``", "``tests/https/``"),
            ("``Room.fall_behind``", "``Room.fall_ahead``"),
            ("``core.room.Room``", "``core.room.Rooms``"),
            ("``fall_behind``", "``fall_far_ahead``"),
            ("``Room`` in ``core/room.py``", "``Roam`` in ``core/room.py``"),
            ("``core/room.py``, ``Room`` and ``fall_behind``", "``core/room.py``, ``Room`` and ``Roam``"),
        ):
            for text, count in ((there, 0), (gone, 1)):
                found = [*dead_in(Text("docs/x.rst", text, "realtime_chat.core.room", "Room"))]
                self.assertEqual(count, len(found), text)


class ArchitectureTests(SynchronousTestCase):
    """The files that the architecture's page names, and those that there are."""

    def test_files(self) -> None:
        """Each file and directory that the page names exists, in the package or in the checkout."""
        text = (CHECKOUT / "docs" / "architecture.rst").read_text("utf-8")
        named = set(re.findall(r"``((?:[\w-]+/)+|(?:[\w-]+/)*[\w-]+\.(?:py|lua|rst))``", text))
        self.assertGreater(len(named), 50)
        missing = [
            name for name in named if not any((top / name).exists() for top in (CHECKOUT, CHECKOUT / "realtime_chat"))
        ]
        self.assertEqual([], sorted(missing))

    def test_glossary(self) -> None:
        """Each word of the glossary stands there once, and the code uses it."""
        section = _section((CHECKOUT / "docs" / "architecture.rst").read_text("utf-8"), "Glossary")
        terms = re.findall(r"^   (\w[\w -]*)$", section, re.MULTILINE)
        self.assertGreater(len(terms), 50)
        self.assertEqual(len(terms), len({*terms}))
        code = "\n".join(path.read_text("utf-8") for path in (CHECKOUT / "realtime_chat").rglob("*.py"))
        unused = [term for term in terms if not re.search(re.sub(r"[ -]", r"[\\s_-]?", term), code, re.IGNORECASE)]
        self.assertEqual([], unused)

    def test_modules(self) -> None:
        """Every package of the code has its list of modules."""
        text = (CHECKOUT / "docs" / "architecture.rst").read_text("utf-8")
        packages = {path.parent.name for path in (CHECKOUT / "realtime_chat").glob("*/__init__.py")}
        self.assertEqual(
            packages | {"start", "base"}, set(re.findall(r"^\.\. module-table:: (\w+)$", text, re.MULTILINE))
        )


def _prose(text: str) -> Iterator[str]:
    """The sentences of a page, without its tables, literal blocks and directives."""
    literal: int | None = None
    for block in text.split("\n\n"):
        indent = len(block) - len(block.lstrip(" \n"))
        if literal is not None and indent > literal:
            continue
        literal = indent if re.match(r"\s*\.\. ", block) or block.endswith("::") else None
        if not re.search(r"^ *(\.\.|[=~-]{3,})", block, re.MULTILINE):
            for item in re.split(r"^ *(?:[*-]|\d+\.) |^ *``[^`]+``$", block, flags=re.MULTILINE):
                yield from re.split(r"(?<=[.:?!])\s", item)


class LanguageTests(SynchronousTestCase):
    """The language of the documents."""

    def test_sentences(self) -> None:
        """No sentence has more than 30 words, so that a reader with little English needs no second reading."""
        pages = [*PAGES, CHECKOUT / "CONTRIBUTING.rst", *(CHECKOUT / "newsfragments").glob("*.rst")]
        long = [
            f"{path.name}: {' '.join(sentence.split())}"
            for path in pages
            for sentence in _prose(path.read_text("utf-8"))
            if len(sentence.split()) > 30
        ]
        self.assertEqual([], long)


class DependencyTests(SynchronousTestCase):
    """What is installed, and the README's reasons for it."""

    def test_each_has_a_reason(self) -> None:
        """The table has every package that the daemon needs, and no other; those for work on it are named below."""
        metadata = ConfigParser()
        metadata.read(CHECKOUT / "setup.cfg")
        extras = metadata["options.extras_require"]
        section = _section(README, "What it needs, and why")
        self.assertEqual(
            _requirements(metadata["options"]["install_requires"]),
            {name.lower() for name in re.findall(r"^([\w.-]+)  +\w", section, re.MULTILINE)},
        )
        for name in _requirements(extras["test"] + extras["lint"] + extras["docs"]):
            self.assertRegex(section, rf"(?i)\b{name}\b")


def _requirements(text: str) -> set[str]:
    return {re.split(r"[\s\[]", line)[0].lower() for line in text.splitlines() if line}


class MetricTests(SynchronousTestCase):
    """The metrics that are described, and those that there are."""

    def test_all_are_described(self) -> None:
        """The operator's table has every metric of the daemon's own, and no other."""
        hub = make_hub(
            MemoryStore(Retention(), lambda: 0.0, bytes), Clock(), Limits(), lambda: 0.0, bytes, LocalBroker()
        )
        names = set()
        store = SimpleNamespace(
            commits=CommitCounts(), links=[SimpleNamespace(name="append", ready=True, counters=ConnectionCounts())]
        )
        broker = SimpleNamespace(counters=BrokerCounts(), subscriptions=())
        registry = make_registry(hub, store, broker)
        registry.register(ApplicationCollector(Application({})))
        for family in registry.collect():
            names.add(family.name + "_total" * (family.type == "counter"))
        own = {name for name in names if name.startswith("realtime_")}
        self.assertEqual(
            own, set(re.findall(r"``(realtime_\w+)``", _section(OPERATIONS, "Metrics").partition("Worth")[0]))
        )


class _Curl:
    """Does what a command line of curl says, as far as the README goes."""

    def __init__(self, line: str, daemon: Daemon) -> None:
        self._words = shlex.split(line.replace("http://localhost:8080/", daemon.url))
        self.data: str | None = None
        self.method: str | None = None
        self.headers: dict[str, str] = {}
        self.url = ""

    def run(self) -> dict[str, Any]:
        """Send it, and give the JSON that is answered."""
        words = iter(self._words[1:])
        for word in words:
            if word == "-d":
                self.data = next(words)
            elif word == "-X":
                self.method = next(words)
            elif word == "-H":
                name, _, value = next(words).partition(": ")
                self.headers[name] = value
            else:
                assert not word.startswith("-"), f"this test doesn't know {word}"
                self.url = word
        data = None if self.data is None else self.data.encode()
        request = urllib.request.Request(self.url, data, self.headers, method=self.method)
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            result: dict[str, Any] = json.load(answer)
        return result


class ExampleTests(SynchronousTestCase):
    """The command lines of the README."""

    def test_curl(self) -> None:
        """Both messages are stored, read again, and waited for; a property is set and read."""
        daemon = Daemon(Path(self.mktemp()), "--store=memory:").start()
        self.addCleanup(daemon.terminate)
        commands = re.findall(r"^   \$ (curl .*)$", README, re.MULTILINE)
        form, body, history, first_poll, next_poll, put, properties = commands
        self.assertEqual("published", _Curl(form, daemon).run()["type"])
        self.assertEqual("published", _Curl(body, daemon).run()["type"])
        texts = [message["data"]["text"] for message in _Curl(history, daemon).run()["messages"]]
        self.assertEqual(["Hello, world", "Hello again"], texts)
        position = _Curl(first_poll, daemon).run()["positions"]["lobby"]
        _Curl(form, daemon).run()
        (event,) = _Curl(next_poll.replace("POSITION", position), daemon).run()["events"]
        self.assertEqual({"text": "Hello, world"}, event["data"])
        self.assertEqual("set", _Curl(put, daemon).run()["type"])
        (value,) = _Curl(properties, daemon).run()["values"]
        self.assertEqual(("notice", {"text": "We open at nine"}), (value["name"], value["data"]))
