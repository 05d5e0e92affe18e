"""``twistd realtime``: its options, and the one place that chooses and wires.

The Twisted plugin names this module; nothing imports it but that, ``chatserver.tac`` and tests.
"""

from __future__ import annotations

import difflib
import gc
import importlib.util
import os
import random
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.application.service import IService
from twisted.internet import endpoints
from twisted.logger import globalLogPublisher
from twisted.python import usage

import twisted
from realtime_chat import __version__
from realtime_chat.broker.local import LocalBroker
from realtime_chat.broker.relay import read_relay
from realtime_chat.clock import time_steadily
from realtime_chat.core.interfaces import IBroker, IMessageStore
from realtime_chat.http.origins import HostList, OriginPolicy
from realtime_chat.http.pages import NO_PAGE, OWN_PAGE, check_directory
from realtime_chat.listening import Endpoint
from realtime_chat.logs import throttle
from realtime_chat.process import Process, leaves_terminal
from realtime_chat.redis.address import SCHEMES, RedisAddress, parse_address
from realtime_chat.redis.names import RedisNames, check_prefix
from realtime_chat.service import Configuration, RealtimeService
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.store.sqlite.store import SQLiteStore
from realtime_chat.values.limits import Limits

__all__ = ["Options", "makeService"]

DEFAULT_LISTEN = "tcp:8080:interface=127.0.0.1"
_LISTEN_BY_ADDRESS = r"tcp6:8080:interface=\:\:1 (a backslash before each colon of an address)"
DATABASE = "realtime.sqlite"
_LOG_EXAMPLE = "/var/log/realtime/access.log"
PREFIX = "realtime"

T = TypeVar("T")

_SIZES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_AGES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _whole(text: str, example: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise ValueError(f"{text!r} is not a whole number above 0; right would be {example}")
    return int(text)


def _measured(text: str, units: dict[str, int], example: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})([a-zA-Z]?)", text)
    if match is None or match[2].lower() not in units or int(match[1]) == 0:
        known = " ".join(filter(None, units))
        raise ValueError(f"{text!r} is not a number above 0 and perhaps a unit ({known}); right would be {example}")
    return int(match[1]) * units[match[2].lower()]


def _size(text: str) -> int:
    size = _measured(text, _SIZES, "64k")
    if not 1024 <= size <= 16 * 1024**2:
        raise ValueError(f"{text!r} is not from 1k to 16m; right would be 64k")
    return size


def _age(text: str) -> float:
    return float(_measured(text, _AGES, "30d"))


def _lifetime(text: str) -> float:
    if text == "0":
        return 0.0
    return float(_measured(text, _AGES, "1h, or 0 for no end"))


def _store(text: str) -> str:
    kind, colon, rest = text.partition(":")
    if colon and kind in SCHEMES:
        parse_address(text)
    elif not colon or kind not in ("sqlite", "memory") or (kind == "sqlite") != bool(rest):
        raise ValueError(
            f"{text!r} names no store; right would be sqlite:PATH, redis://HOST/0, or memory: (which forgets "
            "everything when it stops)"
        )
    return text


def _endpoint(text: str) -> str:
    example = _endpoint_example(text)
    try:
        made = endpoints.serverFromString(None, text)
        endpoint = Endpoint.parse(text)
        _check_socket(endpoint, made)
    except OSError as error:  # such as a key
        raise ValueError(f"{text!r}: {error.filename} can't be read ({error.strerror}); {example}") from error
    except Exception as error:
        raise ValueError(f"{text!r} is no endpoint ({_why_no_endpoint(text, error)}); {example}") from error
    _check_interface(endpoint.interface, text)
    if endpoint.path is not None:
        _check_path_of_socket(endpoint.path, text)
    if endpoint.port is not None and not 0 <= int(endpoint.port) <= 65535:
        raise ValueError(f"{text!r} has a port that isn't from 0 to 65535; {example}")
    return text


def _check_interface(interface: str, text: str) -> None:
    try:
        if ":" in interface or "[" in interface:
            IPv6Address(interface)
    except ValueError:
        raise ValueError(
            f"{text!r} has an interface that is no IPv6 address; right would be {_LISTEN_BY_ADDRESS}"
        ) from None


_ENDPOINT_EXAMPLES = {
    "ssl": "ssl:8443:privateKey=key.pem:certKey=cert.pem, with both files in PEM",
    "systemd": "systemd:domain=INET:index=0, started by a .socket unit of systemd",
}


def _endpoint_example(text: str) -> str:
    kind = text.removeprefix("haproxy:").partition(":")[0]
    if kind not in _ENDPOINT_EXAMPLES and ("::" in text or "[" in text):
        return f"right would be {_LISTEN_BY_ADDRESS}"
    return "right would be " + _ENDPOINT_EXAMPLES.get(kind, f"{DEFAULT_LISTEN} or {_SOCKET_EXAMPLE}")


def _why_no_endpoint(text: str, error: Exception) -> str:
    if text.removeprefix("haproxy:").startswith("systemd:") and isinstance(error, LookupError):
        return "no such socket was handed over, see LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID"
    return " ".join(str(error).split())[:200]


def _check_socket(endpoint: Endpoint, made: Any) -> None:
    """See that a socket that was handed over is what it is said to be.

    :param made: what Twisted has made of the endpoint.
    :raises ValueError: it is none, or another one.
    """
    if endpoint.handed_over is None:
        return
    made = getattr(made, "_wrappedEndpoint", made)
    try:
        with socket.socket(fileno=os.dup(made.fileno)) as handed:
            family, listens = handed.family, handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ValueError(f"descriptor {made.fileno} is no socket") from error
    if family != endpoint.handed_over or not listens:
        what = "listens" if listens else "doesn't listen"
        raise ValueError(f"the socket is of domain {family.name.removeprefix('AF_')}, and {what}")


_SOCKET_EXAMPLE = "unix:/run/chat.sock"
_LONGEST_SOCKET = 107
"""Bytes of a Unix socket's path, on Linux."""


def _check_path_of_socket(path: str, text: str) -> None:
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise ValueError(f"{text!r} has a path above {_LONGEST_SOCKET} bytes; right would be {_SOCKET_EXAMPLE}")
    _check_directory_of(path, text, _SOCKET_EXAMPLE)


def _check_directory_of(path: str, text: str, example: str) -> None:
    """Refuse a file that nobody could make.

    :param text: what was given, in which the path stands.
    """
    directory = Path(path).absolute().parent
    if not directory.is_dir():
        raise ValueError(f"{text!r} can't be made: there is no directory {directory}; right would be {example}")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ValueError(f"{text!r} can't be made: {directory} can't be written to; right would be {example}")


def _log_file(directory: Path | None, text: str) -> str:
    """The path of a log file; directories that the daemon makes need not be there yet."""
    path = Path(text).absolute()  # twistd goes elsewhere before it starts
    if not text or path.is_dir():
        raise ValueError(f"{text!r} is no file; right would be {_LOG_EXAMPLE}")
    made = () if directory is None else (directory.absolute(), *directory.absolute().parents)
    if path.parent not in made:
        _check_directory_of(text, text, _LOG_EXAMPLE)
    return str(path)


def _host(text: str) -> str:
    HostList([text])
    return text


def _origin(text: str) -> str:
    OriginPolicy([text])
    return text


def _page(text: str) -> str | Path:
    if text in (OWN_PAGE, NO_PAGE):
        return text
    if not text:
        raise ValueError(f"{text!r} is no page; right would be {OWN_PAGE}, {NO_PAGE} or a directory")
    directory = Path(text).absolute()  # twistd goes elsewhere before it starts
    check_directory(directory)
    return directory


def _help(option: Callable[..., None]) -> Callable[..., None]:
    """Make an option's docstring one line, as Twisted prints its line breaks as they stand."""
    option.__doc__ = " ".join((option.__doc__ or "").split())
    return option


class Options(usage.Options):
    """What can be said on the command line."""

    synopsis = "[--listen ENDPOINT] [--store STORE] [options]"
    longdesc = (
        "Serves chat rooms over WebSocket, server-sent events, long poll and plain HTTP from one durable store. "
        "Without options: a chat page at http://127.0.0.1:8080/ for this machine, and an SQLite database."
    )

    optFlags = [
        ["compress", None, "Compress WebSocket messages for clients that offer it: less traffic for more CPU."],
        ["allow-jsonp", None, "Answer GETs with a callback parameter as scripts, for pages in very old browsers."],
    ]

    def __init__(self) -> None:
        super().__init__()
        defaults, kept = Limits(), Retention()
        self.update(
            {
                "listen": [],
                "store": None,
                "redis": None,
                "store-prefix": PREFIX,
                "store-password-file": None,
                "store-ca": None,
                "relay": [],
                "data-dir": None,
                "history": defaults.history,
                "history-age": None,
                "host": [],
                "allow-origin": [],
                "max-message": defaults.max_message,
                "max-connections": None,
                "max-rooms": defaults.max_rooms,
                "max-rooms-total": defaults.max_rooms_total,
                "max-rooms-stored": kept.rooms,
                "room-rate": kept.room_rate,
                "stream-lifetime": defaults.stream_lifetime,
                "presence-limit": defaults.presence_limit,
                "signal-rate": defaults.signal_rate,
                "page": OWN_PAGE,
                "access-log": None,
                "metrics-listen": [],
            }
        )
        self._defaults = dict(self)

    @_help
    def opt_listen(self, endpoint: str) -> None:
        """Where to listen: a Twisted endpoint; may be given more than once. [default: tcp:8080:interface=127.0.0.1]"""
        self["listen"].append(self._read("listen", endpoint, _endpoint))

    @_help
    def opt_store(self, store: str) -> None:
        """Where messages are kept: sqlite:PATH, memory:, or a Redis server that several nodes share:
        redis://[USER:PASSWORD@]HOST[:PORT]/DB, rediss://... (TLS) or redis+unix:///PATH?db=DB
        [default: realtime.sqlite in the data directory]"""
        self["store"] = self._read("store", store, _store)

    @_help
    def opt_store_prefix(self, prefix: str) -> None:
        """What all keys and channels in Redis begin with; nodes with the same one belong together.
        [default: realtime]"""
        self["store-prefix"] = self._read("store-prefix", prefix, check_prefix)

    @_help
    def opt_store_password_file(self, path: str) -> None:
        """A file whose first line is the password for Redis, which then stands in no list of processes."""
        self["store-password-file"] = path

    @_help
    def opt_store_ca(self, path: str) -> None:
        """A file with the certificates (PEM) that vouch for a rediss:// server. [default: those of the system]"""
        self["store-ca"] = path

    @_help
    def opt_relay(self, relay: str) -> None:
        """PATTERN=ROOM: what anybody publishes in Redis on a channel that this pattern fits (as with PSUBSCRIBE) is
        signalled in the room; may be given more than once. [default: PREFIX:relay:ROOM is, for every room]"""
        self["relay"].append(self._read("relay", relay, read_relay))

    @_help
    def opt_data_dir(self, directory: str) -> None:
        """The data directory, created if need be. [default: /var/lib/realtime_chat
        for root, else realtime_chat in $XDG_DATA_HOME or ~/.local/share]"""
        self["data-dir"] = directory

    @_help
    def opt_history(self, count: str) -> None:
        """How many messages are kept a room. [default: 1000]"""
        self._read_count("history", count)

    @_help
    def opt_history_age(self, age: str) -> None:
        """How long messages are kept: seconds, or with a unit s m h d. [default: for ever]"""
        self["history-age"] = self._read("history-age", age, _age)

    @_help
    def opt_host(self, name: str) -> None:
        """A host name that is served, with :PORT if it is to be that port only;
        may be given more than once. Requests for other hosts get 421; localhost
        is always served. [default: what is listened on]"""
        self["host"].append(self._read("host", name, _host))

    @_help
    def opt_allow_origin(self, origin: str) -> None:
        """A web origin whose pages may use this daemon, besides its own, such as
        https://example.com; may be given more than once. * allows all."""
        self["allow-origin"].append(self._read("allow-origin", origin, _origin))

    @_help
    def opt_max_message(self, size: str) -> None:
        """The largest message, frame or request body: bytes, or with a unit k m. [default: 64k]"""
        self["max-message"] = self._read("max-message", size, _size)

    @_help
    def opt_max_connections(self, count: str) -> None:
        """How many connections are served at once. [default: what the limit of open files allows]"""
        self._read_count("max-connections", count, 1000)

    @_help
    def opt_max_rooms(self, count: str) -> None:
        """How many rooms one connection may read. [default: 100]"""
        self._read_count("max-rooms", count)

    @_help
    def opt_max_rooms_total(self, count: str) -> None:
        """How many rooms are in memory at a time: those that somebody reads, and those that were read in the last
        30 seconds; others are refused for the moment. [default: 50000]"""
        self._read_count("max-rooms-total", count)

    @_help
    def opt_max_rooms_stored(self, count: str) -> None:
        """How many rooms there may be in the store; where there are so many, none is made. [default: 1000000]"""
        self._read_count("max-rooms-stored", count)

    @_help
    def opt_room_rate(self, count: str) -> None:
        """How many rooms are made a second, by all clients together; at once, what 20 seconds would bring.
        [default: 100]"""
        self._read_count("room-rate", count)

    @_help
    def opt_stream_lifetime(self, age: str) -> None:
        """After how long an event stream ends, so that its client comes back, perhaps to another process: seconds, or
        with a unit s m h d; a tenth more or less, so that not all come at once. 0 for no end. [default: 1h]"""
        self["stream-lifetime"] = self._read("stream-lifetime", age, _lifetime)

    @_help
    def opt_presence_limit(self, count: str) -> None:
        """How many members a room may have for them to be listed; of larger rooms only their number is told.
        [default: 200]"""
        self._read_count("presence-limit", count)

    @_help
    def opt_signal_rate(self, count: str) -> None:
        """How many signals one client may send a second, and twice that at once. [default: 30]"""
        self._read_count("signal-rate", count)

    @_help
    def opt_page(self, page: str) -> None:
        """What is at /: the chat page (on), nothing (off), or your own page: a directory
        with an index.html; it is read at start. [default: on]"""
        self["page"] = self._read("page", page, _page)

    @_help
    def opt_access_log(self, path: str) -> None:
        """Write one line a request to this file; secrets in URLs are blacked out. [default: none is written]"""
        self["access-log"] = path

    @_help
    def opt_metrics_listen(self, endpoint: str) -> None:
        """Where Prometheus finds /metrics: an endpoint of its own, such as tcp:9100:interface=127.0.0.1; may be given
        more than once. [default: nowhere]"""
        self["metrics-listen"].append(self._read("metrics-listen", endpoint, _endpoint))

    def _read_count(self, option: str, text: str, example: int | None = None) -> None:
        """Set a number; its default is an example of a right one."""
        self[option] = self._read(option, text, lambda text: _whole(text, example or self._defaults[option]))

    def _read(self, option: str, text: str, read: Callable[[str], T]) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise usage.UsageError(f"--{option}: {error}") from error

    def opt_version(self) -> None:
        """Say the daemon's version and Twisted's, and exit."""
        print(f"realtime_chat {__version__}, Twisted {twisted.__version__}")
        raise SystemExit(0)

    def parseOptions(self, options: Any = None) -> None:
        """Read the command line.

        Where ``twistd`` is asked, a mistake ends the process with its message alone: twistd itself would print all its
        own options before.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            if self.parent is None:
                raise
            raise SystemExit(f"realtime: {error}{self._alike(error)}\nAll options: twistd realtime --help") from error

    def _alike(self, error: usage.UsageError) -> str:
        """Which option was meant where one isn't known."""
        unknown = re.fullmatch(r"option --(\S+) not recognized", str(error))
        known = [name.removesuffix("=") for name in self.longOpt]
        meant = difflib.get_close_matches(unknown[1], known, 1) if unknown else []
        return f"; right would be --{meant[0]}" if meant else ""

    def parseArgs(self, *words: str) -> None:
        """Refuse what belongs to no option."""
        if words:
            raise usage.UsageError(f"{words[0]!r} belongs to no option; right would be an option, which begins with --")

    def postOptions(self) -> None:
        """Refuse what can't work before anything starts."""
        if self.parent is not None:
            _check_runner(self.parent)
        kind = (self["store"] or "sqlite:").partition(":")[0]
        if kind != "sqlite" and self["data-dir"] is not None:
            raise usage.UsageError(f"--data-dir: leave it out with --store {kind}:, which keeps nothing on this disk")
        if kind in SCHEMES:
            _check_redis_installed()
            self["redis"] = self._read_address()
        else:
            self._refuse_redis_options()
        directory = _database(self).parent if kind == "sqlite" else None
        if self["access-log"] is not None:
            self["access-log"] = self._read("access-log", self["access-log"], partial(_log_file, directory))
        self["listen"] = self["listen"] or [DEFAULT_LISTEN]
        taken: set[str] = set()
        for option in ("listen", "metrics-listen"):
            for endpoint in self[option]:
                if endpoint in taken:
                    raise usage.UsageError(f"--{option}: {endpoint!r} is there already; right would be another port")
                if int(Endpoint.parse(endpoint).port or 1) != 0:  # any port that is free
                    taken.add(endpoint)

    def _read_address(self) -> RedisAddress:
        address = parse_address(self["store"])
        for option, read in (
            ("store-password-file", RedisAddress.with_password_of),
            ("store-ca", RedisAddress.with_authorities),
        ):
            if self[option] is not None:
                address = self._read(option, self[option], partial(read, address))
        return address

    def _refuse_redis_options(self) -> None:
        for option, default in (
            ("store-prefix", PREFIX),
            ("store-password-file", None),
            ("store-ca", None),
            ("relay", []),
        ):
            if self[option] != default:
                raise usage.UsageError(f"--{option}: this is for --store redis://HOST/0; leave it out")


def _check_runner(given: Mapping[str, Any]) -> None:
    """Refuse what twistd would end for with a traceback: its files, where nobody could make them."""
    names = {
        "pidfile": given.get("pidfile"),
        "logfile": given.get("logfile") or ("twistd.log" if leaves_terminal(given) else None),
    }
    if given.get("syslog") or given.get("logger") or names["logfile"] == "-":
        names["logfile"] = None
    if given.get("chroot"):
        names["pidfile"] = None
    for option, text in names.items():
        if text:
            _check_file_of_runner(option, str(text))
    directory = given.get("rundir")
    if directory and not given.get("chroot") and not Path(directory).is_dir():
        raise usage.UsageError(f"twistd --rundir: {directory!r} is no directory; right would be one, such as /")


_RUNNER_EXAMPLES = {"pidfile": "--pidfile= for none", "logfile": "--logfile /var/log/realtime/daemon.log"}


def _check_file_of_runner(option: str, text: str) -> None:
    path, example = Path(text).absolute(), f"{_RUNNER_EXAMPLES[option]}, before realtime"
    try:
        if path.exists() and not (path.is_file() or path.is_char_device()):
            raise ValueError(f"{text!r} is no file; right would be {example}")
        if path.exists() and not os.access(path, os.W_OK):
            raise ValueError(f"{text!r} can't be written to; right would be {example}")
        if not path.exists():
            _check_directory_of(text, text, example)
    except ValueError as error:
        raise usage.UsageError(f"twistd --{option}: {error}") from error


def _check_redis_installed() -> None:
    if importlib.util.find_spec("txredisapi") is None:
        raise usage.UsageError(
            "--store: Redis needs txredisapi, which is not installed; right would be pip install txredisapi hiredis"
        )


def default_data_dir(environ: Any = os.environ) -> Path:
    """Where data belongs if nobody says otherwise.

    :raises twisted.python.usage.UsageError: nothing says where.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/realtime_chat")
    try:
        return Path(environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "realtime_chat"
    except RuntimeError as error:  # neither HOME nor an entry in /etc/passwd
        raise usage.UsageError(
            f"--data-dir: user {os.geteuid()} has no home directory; name one with --data-dir /srv/chat"
        ) from error


def _database(options: Options) -> Path:
    """Where SQLite's database is to be."""
    store: str | None = options["store"]
    return (
        Path(options["data-dir"] or default_data_dir()) / DATABASE if store is None else Path(store.partition(":")[2])
    )


def _make_store(options: Options, reactor: Any) -> tuple[IMessageStore, IBroker, Path | None]:
    """The store, what tells other nodes of it, and the directory that it needs."""
    retention = Retention(options["history"], options["history-age"], options["max-rooms-stored"], options["room-rate"])
    store: str | None = options["store"]
    if store is not None and store.startswith("memory:"):
        return MemoryStore(retention, time.time, os.urandom), LocalBroker(), None
    if options["redis"] is not None:
        return *_make_redis(options, reactor, retention), None
    path = _database(options)
    return SQLiteStore(reactor, str(path), retention, time.time, os.urandom), LocalBroker(), path.parent


def _make_redis(options: Options, reactor: Any, retention: Retention) -> tuple[IMessageStore, IBroker]:
    # Only here, as a daemon without Redis needs none of its packages.
    from realtime_chat.broker.redis import RedisBroker
    from realtime_chat.broker.redis_presence import RedisPresence
    from realtime_chat.store.redis.store import RedisStore

    address = options["redis"]
    names = RedisNames(options["store-prefix"], address.database)
    maximum = options["max-message"]
    store = RedisStore(reactor, address, names, retention, maximum, time.time, os.urandom, random.random)
    node, (appending, reading) = os.urandom(4).hex(), store.links
    presence = RedisPresence(reactor, names, node, reading, os.urandom)
    broker = RedisBroker(reactor, address, names, node, random.random, appending, presence, options["relay"])
    return store, broker


def makeService(options: Options) -> IService:
    """Wire the daemon that ``options`` describe; nothing is opened yet."""
    from twisted.internet import reactor

    time_steadily(reactor)  # before anybody asks it for the time
    store, broker, directory = _make_store(options, reactor)
    limits = attrs.evolve(
        Limits(),
        history=options["history"],
        history_age=options["history-age"],
        max_message=options["max-message"],
        max_rooms=options["max-rooms"],
        max_rooms_total=options["max-rooms-total"],
        stream_lifetime=options["stream-lifetime"] or None,
        presence_limit=options["presence-limit"],
        signal_rate=options["signal-rate"],
    )
    configuration = Configuration(
        listen=tuple(options["listen"]),
        directory=directory,
        hosts=tuple(options["host"]),
        origins=tuple(options["allow-origin"]),
        max_connections=options["max-connections"],
        jsonp=bool(options["allow-jsonp"]),
        compress=bool(options["compress"]),
        page=options["page"],
        access_log=options["access-log"],
        metrics_listen=tuple(options["metrics-listen"]),
        limits=limits,
    )
    process = Process(reactor, options.parent)
    return RealtimeService(
        reactor,
        store,
        broker,
        configuration,
        time.time,
        os.urandom,
        process.give_up,
        partial(_begun, reactor, process),
        process.starting,
    )


def _begun(reactor: Any, process: Process) -> None:
    """The daemon listens: strangers can come."""
    process.started()
    _spare_the_garbage_collector()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    reactor.callWhenRunning(_throttle_log, reactor)  # by then Twisted's runners have begun to log


_SWITCH_INTERVAL = 0.0005
"""Seconds after which a busy reactor thread gives the interpreter's lock to the store's thread, whose commit needs it
some times: with Python's own 5 ms a durable publish on a busy daemon takes 30 to 60 ms longer."""


def _throttle_log(reactor: Any) -> None:
    """Leave out of the log what repeats, as strangers can make it."""

    def later(seconds: float, call: Callable[[], object]) -> None:
        reactor.callFromThread(reactor.callLater, seconds, call)

    undo = throttle(globalLogPublisher, time.monotonic, later, (f"{RealtimeService.__module__}.RealtimeService",))
    reactor.addSystemEventTrigger("after", "shutdown", undo)


def _spare_the_garbage_collector() -> None:
    """Let the collector come less often, and never look again at what was made up to now.

    With Python's own thresholds a crowd of waiting polls, each of which is new, brings on a look at everything there is
    again and again (``docs/performance.rst``).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 10, 10)
