"""What strangers can take of a daemon: memory, time, the log, and what is stored. The tables name the attacks.

Each is made on a daemon of its own, while a healthy client talks there. With ``SOAK=1`` in the environment an attack
lasts for thirty seconds instead of four tenths of one, and the daemon forgets a room that nobody reads after thirty
seconds instead of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import attrs
from twisted.logger import Logger

from tests.deadlines import DEADLINE
from tests.functional.attackers import Attackers, get, post, upgrade
from tests.functional.daemon import NO_LIMITS, SOAK, TWISTD, Daemon, DaemonTestCase, free_port, with_limits
from tests.functional.healthy_client import HealthyClient
from tests.redis_server import RedisServer

SECONDS = 30.0 if SOAK else 0.4
PROGRAM = TWISTD if SOAK else with_limits(room_idle=1.0)
"""What it takes to see that a room is forgotten is a time that goes by."""
MIB = 1024 * 1024
MEMORY = 64 * MIB
"""By how much a daemon may grow under an attack."""
LOG = MIB * SECONDS / 30
"""By how much its log may grow: a mebibyte while the longest attack lasts."""
DELAY = 250.0
"""How late the daemon may make a healthy client's messages, in milliseconds, but for the last hundredth of them."""
"""Seconds after which all is as before."""
KEPT = "10000"
"""More messages than the healthy client sends: Redis gets a key more when the first message of a room goes."""
LEFT = 32 * MIB
"""What may stay of the memory: what was free once isn't given back to the system whole."""


@attrs.frozen
class Attack:
    """One way to take what isn't one's own.

    :ivar way: what of :mod:`tests.functional.attackers` is done.
    :ivar arguments: with what.
    :ivar options: of the daemon.
    :ivar prepare: what is there before; methods of :class:`Scene`.
    :ivar redis: whether the store has a part in it, so that it is tried on Redis as well.
    :ivar stores: whether something may be stored.
    :ivar descriptors: how many files the daemon may open; None for as many as ever.
    """

    name: str
    way: str
    arguments: Mapping[str, Any]
    options: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    redis: bool = False
    stores: bool = False
    descriptors: int | None = None


def attack(name: str, way: str, *what: str, connections: int = 10, times: int | None = None, **more: Any) -> Attack:
    """A row of a table.

    :param what: is sent, one after the other.
    :param times: how often a connection sends it, where it doesn't wait for the answers.
    """
    arguments: dict[str, Any] = {"connections": connections}
    if what:
        arguments[_WHAT[way]] = what
    if times is not None:
        arguments["times"] = times
    return Attack(name, way, MappingProxyType(arguments), **more)


_WHAT = MappingProxyType(
    {
        "dont_read": "requests",
        "read_slowly": "requests",
        "dont_hear": "commands",
        "command": "commands",
        "ask": "requests",
        "heap": "requests",
        "heap_frames": "commands",
        "open_and_drop": "requests",
        "break_off": "requests",
        "break_frames": "frames",
    }
)


def array(*commands: str) -> str:
    """A request with an array of a hundred commands."""
    return post("/commands", "[" + ",".join(100 // len(commands) * commands) + "]")


PAGE = "/rooms/big/messages?limit=1000"
HISTORY = '{"type":"history","room":"big","limit":1000}'
MEMBERS = '{"type":"members","room":"crowded"}'
PUBLISH = '{"type":"publish","room":"{name}","data":1}'
JOIN, LEAVE = '{"type":"join","room":"{name}"}', '{"type":"leave","room":"{name}"}'
BIG, CROWDED, MANY = ("fill",), ("gather",), ("found",)

ANSWERS = (
    attack("pages of messages", "dont_read", get(PAGE), connections=2, times=850, prepare=BIG, redis=True),
    attack("pages of messages, on many connections", "dont_read", get(PAGE), connections=100, times=20, prepare=BIG),
    attack("pages of members", "dont_read", get("/rooms/crowded/members"), times=500, prepare=CROWDED),
    attack("the list of rooms", "dont_read", get("/rooms"), times=500, prepare=MANY, redis=True),
    attack("polls that wait for nothing", "dont_read", get("/poll?room=big&last=1000"), times=500, prepare=BIG),
    attack("static files", "dont_read", get("/realtime.js"), get("/"), times=2000),
    attack("errors", "dont_read", get("/rooms/!/messages"), times=5000),
    attack("heads of pages", "dont_read", get(PAGE, method="HEAD"), times=500, prepare=BIG),
    attack(
        "scripts",
        "dont_read",
        get("/poll?room=big&last=1000&callback=f"),
        times=500,
        options=("--allow-jsonp",),
        prepare=BIG,
    ),
    attack("arrays of history", "dont_read", array(HISTORY), connections=20, times=1, prepare=BIG, redis=True),
    attack("arrays of members", "dont_read", array(MEMBERS), connections=20, times=1, prepare=CROWDED),
    attack("arrays of errors", "dont_read", array("{}"), connections=20, times=100),
    attack("history on a WebSocket", "dont_hear", HISTORY, times=1000, prepare=BIG, redis=True),
    attack("members on a WebSocket", "dont_hear", MEMBERS, times=1000, prepare=CROWDED),
    attack("errors on a WebSocket", "dont_hear", "{}", times=900),
    attack("a byte a second", "read_slowly", get(PAGE), times=250, prepare=BIG),
    attack("arrays, a byte a second", "read_slowly", array(HISTORY), times=2, prepare=BIG),
)
"""1: what is answered and not read."""

NAMES = (
    attack("joining and leaving", "command", JOIN, LEAVE, connections=2, redis=True),
    attack("polls of a hundred rooms", "ask", get("/poll?{names}&last=0"), connections=2, redis=True),
    attack("streams of a hundred rooms", "open_and_drop", get("/sse?{names}"), connections=2, redis=True),
    attack(
        "WebSockets in a hundred rooms",
        "open_and_drop",
        upgrade().replace("/ws", "/ws?{names}"),
        connections=2,
        redis=True,
    ),
    attack("members of nothing", "ask", get("/rooms/{name}/members"), redis=True),
    attack("messages of nothing", "ask", get("/rooms/{name}/messages"), redis=True),
    attack("arrays of questions", "ask", array(HISTORY.replace("big", "{name}"), JOIN), connections=2, redis=True),
)
"""2: what is named and doesn't exist."""

ROOMS = (
    attack("publishing over HTTP", "ask", post("/rooms/{name}/messages", '{"data":1}'), redis=True, stores=True),
    attack("publishing over WebSockets", "command", PUBLISH, redis=True, stores=True),
    attack("publishing by arrays", "ask", array(PUBLISH), redis=True, stores=True),
    attack("listing one room", "ask", get("/rooms?limit=1"), connections=2, prepare=MANY, redis=True),
    attack("listing all rooms", "ask", get("/rooms?after=made"), connections=2, prepare=MANY, redis=True),
)
"""3: rooms that anybody makes, and lists."""

UPLOAD = get("/commands", "Content-Length: 60000", method="POST") + "x" * 30_000
LOGS = (
    attack("frames without a mask", "break_frames", "\x81\x0fxxxxxxxxxxxxxxx"),
    attack("reserved frames", "break_frames", "\x83\x80\0\0\0\0", "\xf1\x80\0\0\0\0"),
    attack("frames that are too large", "break_frames", "\x81\xff" + "\x10" * 12),
    attack("closes that are no good", "break_frames", "\x88\x82\0\0\0\0\x03\xe7", "\x88\x81\0\0\0\0\x03"),
    attack("text that isn't UTF-8", "break_frames", "\x81\x82\0\0\0\0\xff\xfe", "\x82\x81\0\0\0\0x"),
    attack("bad upgrades", "open_and_drop", get("/ws"), upgrade().replace(": 13", ": 8"), upgrade("Upgrade: h2c")),
    attack("bad requests", "open_and_drop", "\x16\x03\x01\0\r\n\r\n", get("/%ff"), get("*"), "PRI * HTTP/2.0\r\n\r\n"),
    attack(
        "other hosts and origins", "open_and_drop", get("/", "Origin: http://e"), get("/").replace("localhost", "e")
    ),
    attack("uploads that break off", "break_off", UPLOAD, get("/rooms").removesuffix("\r\n"), UPLOAD),
    attack("answers that break off", "break_off", get("/poll?room=a&since=a:1"), get("/sse?room=a"), upgrade()),
    attack("no descriptor left", "occupy", connections=400, descriptors=200, options=("--max-connections", "100000")),
)
"""5: what may be logged."""


NUMBERS = "[" + ",".join(["1"] * 30_000) + "]"
LISTS = "[" + ",".join(["[]"] * 20_000) + "]"
LARGE = '{"type":"publish","room":"flood","data":"' + "x" * 60_000 + '"}'
CHUNKS = get("/commands", "Transfer-Encoding: chunked", method="POST") + "1\r\n \r\n" * 10_000 + "2\r\n[]\r\n0\r\n\r\n"
TURNS = (
    attack("heaps of requests", "heap", get("/healthz"), connections=20, times=1000),
    attack("heaps of requests for nothing", "heap", get("/x"), connections=20, times=1000),
    attack("heaps of pings", "heap_frames", '{"type":"ping"}', connections=20, times=3000),
    attack(
        "heaps of publishes", "heap_frames", PUBLISH.replace("{name}", "flood"), times=1000, stores=True, redis=True
    ),
    attack("heaps of arrays of pings", "heap", array('{"type":"ping"}'), connections=20, times=30),
    attack(
        "heaps of arrays of publishes",
        "heap",
        array(PUBLISH.replace("{name}", "flood")),
        connections=20,
        times=20,
        stores=True,
        redis=True,
    ),
    attack("bodies in chunks of a byte", "heap", CHUNKS, connections=20, times=1),
    attack("arrays of numbers", "ask", post("/commands", NUMBERS), connections=20),
    attack("arrays of arrays", "ask", post("/commands", LISTS), connections=20),
    attack("large publishes", "command", LARGE, connections=20, stores=True, redis=True),
    attack("halves of messages", "hold_halves", connections=400),  # 25 MiB, of which none may go back to the system
)
"""What is small, but comes all at once, or in large pieces: a turn of the reactor is everybody's."""


@attrs.frozen
class Figures:
    """What an attack took.

    :ivar memory: bytes, at most.
    :ivar left: the same in the end.
    :ivar log: bytes.
    :ivar late: the 99th percentile of a healthy client's delays, in milliseconds.
    :ivar lag: by how much that client's process was late itself, the same way: how busy the machine is.
    :ivar back: seconds after which all was as before.
    """

    memory: int
    left: int
    log: int
    late: float
    lag: float
    back: float

    def too_much(self) -> list[str]:
        """Which of these are more than there may be."""
        most = {"memory": MEMORY, "log": LOG, "late": DELAY + self.lag, "back": DEADLINE}
        return [name for name, bound in most.items() if getattr(self, name) > bound]

    def account(self) -> str:
        """All of them, for people."""
        memory = f"memory {self.memory / MIB:+.1f} MiB, in the end {self.left / MIB:+.1f}"
        late = f"{self.late:.0f} ms late, {self.lag:.0f} by itself"
        return f"{memory}; log {self.log / MIB:+.2f} MiB; {late}; back after {self.back:.0f} s"


class Scene:
    """A daemon that is attacked, a healthy client, and the attackers.

    :param source: the attackers' address.
    :ivar redis: the store, if it isn't SQLite.
    """

    def __init__(self, daemon: Daemon, metrics: int, redis: RedisServer | None, source: str) -> None:
        self.daemon = daemon
        self.redis = redis
        self._metrics = f"http://127.0.0.1:{metrics}/metrics"
        self.healthy_client = HealthyClient(daemon.port, daemon.pid, *([] if redis is None else [redis.pid]))
        self.attackers = Attackers(daemon.port, source)

    def end(self) -> None:
        """End those who talk to the daemon."""
        self.healthy_client.kill()
        self.attackers.kill()

    # What is there before the attack

    def fill(self) -> None:
        """A room whose page is as large as one may be."""
        text = "x" * 60_000
        for _ in range(18):
            self._post("rooms/big/messages", {"data": text})

    def gather(self) -> None:
        """A room with as many members as are listed, each with the largest state."""
        self.attackers.ask("swarm", room="crowded", count=200)

    def found(self) -> None:
        """As many rooms as anybody can make in a moment."""
        self.attackers.ask("ask", requests=[array(PUBLISH)], connections=4, seconds=3 if SOAK else 1)

    def _post(self, path: str, value: Any) -> None:
        body = json.dumps(value).encode()
        request = urllib.request.Request(self.daemon.url + path, body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=DEADLINE).close()

    # What is measured

    def memory(self) -> int:
        """Bytes of the daemon's resident memory."""
        pages = Path(f"/proc/{self.daemon.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """How many files the daemon has open."""
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    def log(self) -> int:
        """Bytes of its log."""
        return self.daemon.log_path.stat().st_size

    def held(self) -> dict[str, int]:
        """How many of everything the daemon holds, and Redis for it."""
        counts = {"descriptors": self.descriptors()} | self._counted()
        if self.redis is not None:
            counts["keys in Redis"] = int(self.redis.command("DBSIZE"))
            counts["channels in Redis"] = len(self.redis.command("PUBSUB", "CHANNELS"))
        return counts

    def most_held(self) -> dict[str, int]:
        """The most of each in a row of looks: a poll isn't always waiting."""
        looks = [self.held() for _ in range(10)]
        return {name: max(look[name] for look in looks) for name in looks[0]}

    def metrics(self) -> str:
        """The page for Prometheus."""
        with urllib.request.urlopen(self._metrics, timeout=DEADLINE) as answer:
            text: str = answer.read().decode()
        return text

    def _counted(self) -> dict[str, int]:
        text = self.metrics()
        names = ("realtime_sessions", "realtime_members", "realtime_rooms")
        return {
            name: sum(int(float(count)) for count in re.findall(rf"^{name}(?:{{.*}})? (.*)$", text, re.MULTILINE))
            for name in names
        }

    def stored(self) -> list[str]:
        """The first rooms of the list."""
        return [room["room"] for room in self.daemon.get("rooms")["rooms"]]

    @contextlib.contextmanager
    def peak(self) -> Iterator[Callable[[], int]]:
        """See how much memory the daemon has at most while something is done."""
        seen, over = [self.memory()], threading.Event()

        def look() -> None:
            while not over.wait(0.01):
                seen[0] = max(seen[0], self.memory())

        looking = threading.Thread(target=look)
        looking.start()
        try:
            yield lambda: seen[0]
        finally:
            over.set()
            looking.join()


class ExhaustionTestCase(DaemonTestCase):
    """A daemon under attack, on SQLite or on Redis."""

    _log = Logger()
    timeout = 600
    on_redis: ClassVar[bool] = False
    source: ClassVar[str] = "127.0.0.1"
    """From where the attackers come."""
    left: ClassVar[int] = LEFT

    def withstand(self, attack: Attack) -> tuple[Scene, dict[str, int]]:
        """Measure what an attack takes, and see that it isn't too much.

        :returns: where that was, and what was done.
        """
        scene = self.scene(attack)
        scene.healthy_client.ask("start")
        for what in attack.prepare:
            getattr(scene, what)()
        self.settle(scene)
        memory, log, held, stored = scene.memory(), scene.log(), scene.most_held(), scene.stored()
        scene.healthy_client.ask("figures")
        with scene.peak() as peak:
            done = scene.attackers.ask(attack.way, seconds=SECONDS, **attack.arguments)
            back = self.recover(scene, attack, memory, held)
            talk = scene.healthy_client.ask("figures")
        figures = Figures(peak() - memory, scene.memory() - memory, scene.log() - log, talk["p99"], talk["lag"], back)
        account = f"{attack.name}: {figures.account()}; {done}; {held}, then {scene.held()}"
        self._log.info("{account}", account=account)
        self.assertEqual(([], []), (figures.too_much(), talk["wrong"]), account)
        self.assertNotIn("Traceback", scene.daemon.log)
        if not attack.stores:
            self.assertEqual(stored, scene.stored())
        return scene, done

    def scene(self, attack: Attack) -> Scene:
        """A daemon, and who talks to it."""
        metrics = free_port()
        options = [
            *NO_LIMITS,
            *attack.options,
            "--metrics-listen",
            f"tcp:{metrics}:interface=127.0.0.1",
            "--history",
            KEPT,
        ]
        prefix: tuple[str, ...] = ()
        if attack.descriptors is not None:
            prefix = ("prlimit", f"--nofile={attack.descriptors}:{attack.descriptors}")
        redis = None
        if self.on_redis:
            redis = RedisServer(self.mktemp())
            self.addCleanup(redis.kill)
            redis.start()
            options += ["--store", redis.url]
        scene = Scene(self.daemon(*options, prefix=prefix, program=PROGRAM).start(), metrics, redis, self.source)
        self.addCleanup(scene.end)
        return scene

    def settle(self, scene: Scene) -> None:
        """Wait till what was prepared takes no more memory: twice the same within half a second."""
        deadline = time.monotonic() + DEADLINE
        before = 0
        while abs(scene.memory() - before) > MIB:
            self.assertLess(time.monotonic(), deadline)
            before = scene.memory()
            time.sleep(0.5)

    def recover(self, scene: Scene, attack: Attack, memory: int, held: Mapping[str, int]) -> float:
        """Let the attackers go, and see after how many seconds all is as before."""
        begun = time.monotonic()
        scene.attackers.ask("release")
        while (took := time.monotonic() - begun) <= DEADLINE:
            with contextlib.suppress(OSError):  # it may have no descriptor for us yet
                now = scene.held()
                if attack.stores:
                    now["keys in Redis"] = held.get("keys in Redis", 0)
                if scene.memory() - memory <= self.left and all(now[name] <= count for name, count in held.items()):
                    break
            time.sleep(0.1)
        return took


class OnSQLite(ExhaustionTestCase):
    """All attacks."""


class OnRedis(ExhaustionTestCase):
    """Those attacks that the store has a part in."""

    on_redis = True


def _add(case: type[ExhaustionTestCase], kind: str, attack: Attack) -> None:
    def test(self: ExhaustionTestCase) -> None:
        self.withstand(attack)

    test.__name__ = f"test_{kind}_{re.sub(r'[^a-z]+', '_', attack.name.lower()).strip('_')}"
    test.__doc__ = f"{attack.name[0].upper()}{attack.name[1:]}: nobody takes more than a daemon can spare."
    setattr(case, test.__name__, test)


for _kind, _table in {"answers": ANSWERS, "names": NAMES, "rooms": ROOMS, "logs": LOGS, "turns": TURNS}.items():
    for _attack in _table:
        _add(OnSQLite, _kind, _attack)
        if _attack.redis:
            _add(OnRedis, _kind, _attack)
