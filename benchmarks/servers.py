"""Everything that is measured: this daemon, its peers and the floors; how each is started, and what it needs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine
from benchmarks.hotloop import BUILD, HERE, compile_c
from benchmarks.wires import SECRET

__all__ = [
    "ALONE",
    "AS_IT_IS",
    "CHECKOUT",
    "COMMIT",
    "METRICS",
    "OURS",
    "OURS_DEFAULTS",
    "OURS_DURABLE",
    "OURS_GUESTS",
    "OURS_LEGACY",
    "OURS_LIMITED",
    "OURS_NODES",
    "OURS_REDIS",
    "OURS_REDIS_SYNCED",
    "OURS_SOCKETS",
    "OURS_SOCKET_IO",
    "OURS_SOCKET_IO_IDLE",
    "OURS_UNLIMITED",
    "OURS_USERS",
    "SERVERS",
    "VARIANTS",
    "Running",
    "Server",
    "running",
    "scratch",
]

PROGRAMS = HERE / "peers"
METRICS = "metrics.sock"
CHECKOUT = HERE.parent
_PATIENCE = 30.0

Command = Callable[[int, Path], list[str]]


class Server(NamedTuple):
    """One contender.

    :ivar name: as it stands in the tables.
    :ivar wire: how one talks to it, a key of :data:`benchmarks.wires.WIRES`.
    :ivar command: starts it, for a port and a directory of its own.
    :ivar distributions: the Python packages that it needs.
    :ivar npm: the npm packages that it needs.
    :ivar programs: the programs that it needs, with the Debian packages that bring them.
    :ivar nodes: how many processes serve clients, each on a port of its own.
    """

    name: str
    wire: str
    command: Command
    distributions: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    programs: tuple[tuple[str, str], ...] = ()
    nodes: int = 1

    def version(self) -> str:
        """The versions of what it needs."""
        found = [f"{name} {importlib.metadata.version(name)}" for name in self.distributions]
        found += [f"{name} {_npm_version(name)}" for name in self.npm]
        return ", ".join(found + [_debian_version(package) for _, package in self.programs])


class Running(NamedTuple):
    """A server that runs.

    :ivar ports: where its nodes listen.
    :ivar pids: its processes.
    :ivar directory: where it may write.
    """

    ports: list[int]
    pids: list[int]
    directory: Path


def _npm_version(package: str) -> str:
    path = BUILD / "node_modules" / package / "package.json"
    return str(json.loads(path.read_text())["version"]) if path.exists() else "?"


def _debian_version(package: str) -> str:
    if shutil.which("dpkg-query") is None:
        return package
    query = ["dpkg-query", "--show", "--showformat=${Version}", package]
    version = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    return f"{package} {version.rpartition(':')[2]}".strip()


# How each is started


_TWISTD = ("-c", "from twisted.scripts.twistd import run; run()")


_FAR = "900000000"
_BY_ADDRESS = ("--trusted-proxy", "192.0.2.1")
"""Once some proxy is trusted, limits by address are on for loopback, too."""


def _limits(limit: str, *more: str) -> Callable[[], list[str]]:
    """All limits of a client, a user and an address set to the same.

    :param more: further options.
    """

    def options() -> list[str]:
        from realtime_chat.limit_options import LIMIT_OPTIONS  # brings Twisted, which no generator wants

        return [*(f"--{option.name}={limit}" for option in LIMIT_OPTIONS), *more]

    return options


_far_limits = _limits(_FAR)
"""One client of a benchmark does more than it may by default. The limits are on, as they cost something."""


def _realtime(
    port: int | str,
    store: str,
    twistd: tuple[str, ...] = _TWISTD,
    limits: Callable[[], list[str]] = _far_limits,
) -> list[str]:
    return [
        *(sys.executable, *twistd, "-n", "--pidfile=", "realtime"),
        *("--listen", f"tcp:{port}:interface=127.0.0.1", "--store", store),
        *limits(),
    ]


def _daemon(store: Callable[[Path], str] = lambda directory: "memory:", **how: Any) -> Command:
    return lambda port, directory: [
        *_realtime(port, store(directory), **how),
        *("--metrics-listen", f"unix:{directory}/{METRICS}"),
    ]


def _closed(port: int, directory: Path) -> list[str]:
    """With a key for tokens, and a rule by which guests may do what users may."""
    (directory / "realtime.key").write_text(f"{SECRET}\n")
    (directory / "realtime.toml").write_text('[[room]]\nmatch = "*"\nguests = "rwsp"\nusers = "rwsp"\n')
    files = ("--token-key", f"{directory}/realtime.key", "--config", f"{directory}/realtime.toml")
    return [*_daemon()(port, directory), *files]


def _legacy(port: int, directory: Path) -> list[str]:
    """With the old pages on the port that is measured."""
    return [*_daemon()(0, directory), "--legacy-listen", f"tcp:{port}:interface=127.0.0.1"]


def _socket_io(port: int, directory: Path) -> list[str]:
    """With an application that does what the peers do."""
    return [*_daemon()(port, directory), "--app", "socketio_app:app"]


def _python(program: str) -> Command:
    return lambda port, directory: [sys.executable, str(PROGRAMS / program), str(port)]


def _node(program: str, *more: str) -> Command:
    return lambda port, directory: ["node", str(PROGRAMS / program), str(port), *more]


def _daphne(port: int | str, directory: Path | None = None) -> list[str]:
    return [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "-v", "0", "channels_rooms:application"]


def _nginx(port: int, directory: Path) -> list[str]:
    text = (PROGRAMS / "nchan.conf").read_text().replace("@PORT@", str(port)).replace("@DIRECTORY@", str(directory))
    (directory / "nchan.conf").write_text(text)
    return ["nginx", "-c", str(directory / "nchan.conf"), "-e", str(directory / "error.log")]


def _over_redis(nodes: int, command: list[str], keeping: str = "memory") -> Command:
    """So many of these over one Redis; ``peers/nodes.py`` says what its words mean."""
    launcher = [sys.executable, str(PROGRAMS / "nodes.py")]
    return lambda port, directory: [*launcher, str(port), str(nodes), keeping, *command]


def _ours_over_redis(nodes: int, keeping: str) -> Command:
    return lambda port, directory: _over_redis(nodes, _realtime("@PORT@", "redis://127.0.0.1:@REDIS@/0"), keeping)(
        port, directory
    )


def _floor(port: int, directory: Path) -> list[str]:
    return [str(compile_c(PROGRAMS / "floor.c", BUILD / "floor")), str(port)]


def _nothing(port: int, directory: Path) -> list[str]:
    """The generator does it all by itself."""
    return []


OURS = "realtime_chat, memory"
OURS_DURABLE = "realtime_chat, SQLite"
OURS_SOCKETS = "realtime_chat, WebSocket"
OURS_SOCKET_IO = "realtime_chat, Socket.IO"
OURS_SOCKET_IO_IDLE = "realtime_chat, Socket.IO on"
OURS_GUESTS = "realtime_chat, guests"
OURS_USERS = "realtime_chat, users"
OURS_LEGACY = "realtime_chat, old pages"
OURS_UNLIMITED = "realtime_chat, no limits"
OURS_LIMITED = "realtime_chat, all limits"
OURS_DEFAULTS = "realtime_chat, default limits"
OURS_REDIS = "realtime_chat, Redis"
OURS_REDIS_SYNCED = "realtime_chat, Redis that syncs"
OURS_NODES = "realtime_chat, Redis, two nodes"
COMMIT = "floor: one SQLite commit"
ALONE = "realtime_chat, one session"
AS_IT_IS = "realtime_chat, as it is"
VARIANTS = {
    AS_IT_IS: "plain",
    "realtime_chat, asyncio and uvloop": "uvloop",
    "realtime_chat, nothing counted": "uncounted",
    "realtime_chat, Python's own garbage collection": "garbage",
    "realtime_chat, corked": "corked",
}
"""Our daemon with one thing done otherwise, and how ``peers/variants.py`` calls that."""

_NODE = (("node", "nodejs"),)
_REDIS = (("redis-server", "redis-server"),)

SERVERS = {
    server.name: server
    for server in (
        Server(OURS, "realtime", _daemon(), ("Twisted", "autobahn")),
        Server(
            OURS_DURABLE,
            "realtime",
            _daemon(store=lambda directory: f"sqlite:{directory}/bench.sqlite"),
            ("Twisted", "autobahn"),
        ),
        *(
            Server(
                title,
                "realtime",
                _daemon(twistd=(str(PROGRAMS / "variants.py"), name)),
                ("Twisted", "uvloop") if name == "uvloop" else ("Twisted",),
            )
            for title, name in VARIANTS.items()
        ),
        Server(OURS_SOCKETS, "realtime sockets", _daemon(), ("Twisted", "autobahn")),
        *(
            Server(title, "realtime", _daemon(limits=limits), ("Twisted", "autobahn"))
            for title, limits in (
                (OURS_UNLIMITED, _limits("0")),
                (OURS_LIMITED, _limits(_FAR, *_BY_ADDRESS)),
                (OURS_DEFAULTS, lambda: list(_BY_ADDRESS)),
            )
        ),
        Server(OURS_SOCKET_IO, "socket.io", _socket_io, ("Twisted", "autobahn")),
        Server(OURS_SOCKET_IO_IDLE, "realtime", _socket_io, ("Twisted", "autobahn")),
        Server(OURS_GUESTS, "realtime guests", _closed, ("Twisted", "autobahn")),
        Server(OURS_USERS, "realtime users", _closed, ("Twisted", "autobahn", "PyJWT")),
        Server(OURS_LEGACY, "realtime legacy", _legacy, ("Twisted", "autobahn")),
        Server("nchan", "nchan", _nginx, programs=(("nginx", "nginx"), ("", "libnginx-mod-nchan"))),
        Server("socket.io", "socket.io", _node("socketio_rooms.js"), npm=("socket.io",), programs=_NODE),
        Server(
            "socket.io, tuned",
            "socket.io",
            _node("socketio_rooms.js", "tuned"),
            npm=("socket.io", "bufferutil", "utf-8-validate"),
            programs=_NODE,
        ),
        Server("ws", "plain", _node("ws_rooms.js"), npm=("ws",), programs=_NODE),
        Server("websockets", "plain", _python("websockets_rooms.py"), ("websockets", "uvloop")),
        Server("Autobahn", "plain", _python("autobahn_rooms.py"), ("autobahn", "Twisted")),
        Server("Tornado", "plain", _python("tornado_rooms.py"), ("tornado",)),
        Server(
            "python-socketio",
            "socket.io",
            _python("python_socketio_rooms.py"),
            ("python-socketio", "uvicorn", "uvloop"),
        ),
        Server("Channels", "channels", _daphne, ("channels", "daphne")),
        Server("floor: send()", "plain", _floor, programs=(("gcc", "gcc"),)),
        Server("floor: NOT_DONE_YET", "bare poll", _python("bare_poll.py"), ("Twisted",)),
        Server(COMMIT, "none", _nothing),
        Server(ALONE, "none", _nothing, ("Twisted",)),
        *(
            Server(
                title,
                "realtime",
                _ours_over_redis(nodes, keeping),
                ("Twisted", "txredisapi", "hiredis"),
                programs=_REDIS,
                nodes=nodes,
            )
            for title, nodes, keeping in (
                (OURS_REDIS, 1, "memory"),
                (OURS_REDIS_SYNCED, 1, "always"),
                (OURS_NODES, 2, "memory"),
            )
        ),
        Server(
            "socket.io over Redis",
            "socket.io",
            _over_redis(2, ["node", str(PROGRAMS / "socketio_rooms.js"), "@PORT@", "redis://127.0.0.1:@REDIS@"]),
            npm=("socket.io", "@socket.io/redis-adapter", "redis"),
            programs=(*_NODE, *_REDIS),
            nodes=2,
        ),
        Server(
            "Channels over Redis",
            "channels",
            _over_redis(2, ["env", "CHANNELS_REDIS=redis://127.0.0.1:@REDIS@", *_daphne("@PORT@")]),
            ("channels", "channels_redis", "daphne"),
            programs=_REDIS,
            nodes=2,
        ),
    )
}


@contextlib.contextmanager
def running(server: Server, directory: Path) -> Iterator[Running]:
    """Start a server on the cores that are not the generator's, and end it and all its processes afterwards.

    :param directory: where it may write; see :func:`scratch`.
    :raises RuntimeError: it doesn't start.
    """
    # One port more than there are nodes: a server over Redis has its own.
    ports = list(machine.free_ports(server.nodes + 1))[: server.nodes]
    command = server.command(ports[0], directory)
    if not command:
        yield Running([], [], directory)
        return
    process = _start(command, directory)
    try:
        for port in ports:
            _wait_for(server, process, port, directory)
        yield Running(ports, machine.process_tree(process.pid), directory)
    finally:
        _end(process)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory on a real disk, which /tmp needn't be."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=BUILD) as name:
        yield Path(name)


def _start(command: list[str], directory: Path) -> subprocess.Popen[bytes]:
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=directory,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_prepare,
        )


def _prepare() -> None:
    """In the new process: its cores, its files, and its end with ours."""
    os.sched_setaffinity(0, machine.server_cores())
    machine.raise_file_limit()
    _die_with_parent()


def _die_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _environment() -> dict[str, str]:
    paths = (str(CHECKOUT), str(PROGRAMS))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "NODE_PATH": str(BUILD / "node_modules")}


def _wait_for(server: Server, process: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            time.sleep(0.1)
            return
        time.sleep(0.02)
    log = (directory / "log").read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{server.name} did not start: {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
