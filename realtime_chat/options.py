"""The command line of ``twistd realtime``: its options, and how each value is checked."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from twisted.python import usage

import twisted
from realtime_chat import __version__
from realtime_chat.broker.relay import read_relay
from realtime_chat.http.host_list import HostList
from realtime_chat.http.origins import OriginPolicy
from realtime_chat.http.static_files import NO_PAGE, OWN_PAGE, check_directory
from realtime_chat.listening import DEFAULT_LISTEN, Endpoint, check_endpoint, check_parent_directory
from realtime_chat.process import check_runner
from realtime_chat.redis.address import SCHEMES, RedisAddress, parse_address
from realtime_chat.redis.names import check_prefix
from realtime_chat.store.retention import Retention
from realtime_chat.values.limits import Limits

_DATABASE = "realtime.sqlite"
_LOG_EXAMPLE = "/var/log/realtime/access.log"
DEFAULT_PREFIX = "realtime"

T = TypeVar("T")

_SIZES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_DURATIONS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _parse_count(text: str, example: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise ValueError(f"{text!r} is not a whole number above 0; right would be {example}")
    return int(text)


def _parse_quantity(text: str, units: dict[str, int], example: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})([a-zA-Z]?)", text)
    if match is None or match[2].lower() not in units or int(match[1]) == 0:
        known = " ".join(filter(None, units))
        raise ValueError(f"{text!r} is not a number above 0 and perhaps a unit ({known}); right would be {example}")
    return int(match[1]) * units[match[2].lower()]


def _parse_size(text: str) -> int:
    size = _parse_quantity(text, _SIZES, "64k")
    if not 1024 <= size <= 16 * 1024**2:
        raise ValueError(f"{text!r} is not from 1k to 16m; right would be 64k")
    return size


def _parse_duration(text: str) -> float:
    return float(_parse_quantity(text, _DURATIONS, "30d"))


def _parse_lifetime(text: str) -> float:
    if text == "0":
        return 0.0
    return float(_parse_quantity(text, _DURATIONS, "1h, or 0 for no end"))


def _check_store(text: str) -> str:
    kind, colon, rest = text.partition(":")
    if colon and kind in SCHEMES:
        parse_address(text)
    elif not colon or kind not in ("sqlite", "memory") or (kind == "sqlite") != bool(rest):
        raise ValueError(
            f"{text!r} names no store; right would be sqlite:PATH, redis://HOST/0, or memory: (which forgets "
            "everything when it stops)"
        )
    return text


def _parse_log_path(directory: Path | None, text: str) -> str:
    """The path of a log file. It may be in a directory that the daemon will create."""
    path = Path(text).absolute()  # twistd changes the directory before it starts the service
    if not text or path.is_dir():
        raise ValueError(f"{text!r} is no file; right would be {_LOG_EXAMPLE}")
    made = () if directory is None else (directory.absolute(), *directory.absolute().parents)
    if path.parent not in made:
        check_parent_directory(text, text, _LOG_EXAMPLE)
    return str(path)


def _check_host(text: str) -> str:
    HostList([text])
    return text


def _check_origin(text: str) -> str:
    OriginPolicy([text])
    return text


def _parse_page(text: str) -> str | Path:
    if text in (OWN_PAGE, NO_PAGE):
        return text
    if not text:
        raise ValueError(f"{text!r} is no page; right would be {OWN_PAGE}, {NO_PAGE} or a directory")
    directory = Path(text).absolute()  # twistd changes the directory before it starts the service
    check_directory(directory)
    return directory


class Options(usage.Options):
    """The options of the command line, as a mapping from their names to their values."""

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
        self.docs = {name: " ".join(text.split()) for name, text in self.docs.items()}  # Twisted keeps line breaks
        limits, retention = Limits(), Retention()
        self.update({name: [] for name in ("listen", "relay", "host", "allow-origin", "metrics-listen")})
        self._defaults: dict[str, Any] = {
            **dict.fromkeys(("store", "redis", "store-password-file", "store-ca", "data-dir", "access-log")),
            **dict.fromkeys(("history-age", "max-connections")),
            "store-prefix": DEFAULT_PREFIX,
            "history": limits.history,
            "max-message": limits.max_message,
            "max-rooms": limits.max_rooms,
            "max-rooms-total": limits.max_rooms_total,
            "max-rooms-stored": retention.rooms,
            "room-rate": retention.room_rate,
            "stream-lifetime": limits.stream_lifetime,
            "presence-limit": limits.presence_limit,
            "signal-rate": limits.signal_rate,
            "page": OWN_PAGE,
        }
        self.update(self._defaults)

    def opt_listen(self, endpoint: str) -> None:
        """Where to listen: a Twisted endpoint; may be given more than once. [default: tcp:8080:interface=127.0.0.1]"""
        self["listen"].append(self._read("listen", endpoint, check_endpoint))

    def opt_store(self, store: str) -> None:
        """Where messages are kept: sqlite:PATH, memory:, or a Redis server that several nodes share:
        redis://[USER:PASSWORD@]HOST[:PORT]/DB, rediss://... (TLS) or redis+unix:///PATH?db=DB
        [default: realtime.sqlite in the data directory]"""
        self["store"] = self._read("store", store, _check_store)

    def opt_store_prefix(self, prefix: str) -> None:
        """The prefix of all keys and channels in Redis. Nodes with the same prefix share their rooms.
        [default: realtime]"""
        self["store-prefix"] = self._read("store-prefix", prefix, check_prefix)

    def opt_store_password_file(self, path: str) -> None:
        """A file whose first line is the password for Redis, so that no list of processes shows it."""
        self["store-password-file"] = path

    def opt_store_ca(self, path: str) -> None:
        """A file with the CA certificates (PEM) for a rediss:// server. [default: those of the system]"""
        self["store-ca"] = path

    def opt_relay(self, relay: str) -> None:
        """PATTERN=ROOM: what is published in Redis on a channel that matches PATTERN (as with PSUBSCRIBE) becomes a
        signal in the room; may be given more than once. [default: PREFIX:relay:ROOM for every room]"""
        self["relay"].append(self._read("relay", relay, read_relay))

    def opt_data_dir(self, directory: str) -> None:
        """The data directory; it is created if it is missing. [default: /var/lib/realtime_chat for root, else
        realtime_chat in $XDG_DATA_HOME or ~/.local/share]"""
        self["data-dir"] = directory

    def opt_history(self, count: str) -> None:
        """How many messages each room keeps. [default: 1000]"""
        self._read_count("history", count)

    def opt_history_age(self, age: str) -> None:
        """How long messages are kept: seconds, or with a unit s m h d. [default: for ever]"""
        self["history-age"] = self._read("history-age", age, _parse_duration)

    def opt_host(self, name: str) -> None:
        """A host name that is served, with :PORT to serve that port only; may be given more than once. Requests for
        other hosts get 421; localhost is always served. [default: the addresses that are listened on]"""
        self["host"].append(self._read("host", name, _check_host))

    def opt_allow_origin(self, origin: str) -> None:
        """A web origin whose pages may use this daemon, besides its own, such as https://example.com; may be given more
        than once. * allows all."""
        self["allow-origin"].append(self._read("allow-origin", origin, _check_origin))

    def opt_max_message(self, size: str) -> None:
        """The largest message, frame or request body: bytes, or with a unit k m. [default: 64k]"""
        self["max-message"] = self._read("max-message", size, _parse_size)

    def opt_max_connections(self, count: str) -> None:
        """How many connections are served at once. [default: what the limit of open files allows]"""
        self._read_count("max-connections", count, 1000)

    def opt_max_rooms(self, count: str) -> None:
        """How many rooms one connection may read. [default: 100]"""
        self._read_count("max-rooms", count)

    def opt_max_rooms_total(self, count: str) -> None:
        """How many rooms may be in memory: the rooms that have readers, and those that had readers in the last
        30 seconds. Further rooms are refused for the moment. [default: 50000]"""
        self._read_count("max-rooms-total", count)

    def opt_max_rooms_stored(self, count: str) -> None:
        """How many rooms the store may hold. At the limit, no new room is created. [default: 1000000]"""
        self._read_count("max-rooms-stored", count)

    def opt_room_rate(self, count: str) -> None:
        """How many rooms all clients together may create a second; a burst may be 20 times that. [default: 100]"""
        self._read_count("room-rate", count)

    def opt_stream_lifetime(self, age: str) -> None:
        """After how long an event stream ends, so that its client reconnects, perhaps to another process: seconds, or
        with a unit s m h d. Each stream varies by a tenth, so that clients don't reconnect all at once. 0 for no end.
        [default: 1h]"""
        self["stream-lifetime"] = self._read("stream-lifetime", age, _parse_lifetime)

    def opt_presence_limit(self, count: str) -> None:
        """Up to how many members a room lists them. Larger rooms give only the number. [default: 200]"""
        self._read_count("presence-limit", count)

    def opt_signal_rate(self, count: str) -> None:
        """How many signals one client may send a second; a burst may be twice that. [default: 30]"""
        self._read_count("signal-rate", count)

    def opt_page(self, page: str) -> None:
        """What is at /: the chat page (on), nothing (off), or your own page: a directory with an index.html; it is read
        at start. [default: on]"""
        self["page"] = self._read("page", page, _parse_page)

    def opt_access_log(self, path: str) -> None:
        """Write one line for each request to this file; secrets in URLs are masked. [default: no access log]"""
        self["access-log"] = path

    def opt_metrics_listen(self, endpoint: str) -> None:
        """A separate endpoint for Prometheus, which serves /metrics, such as tcp:9100:interface=127.0.0.1; may be given
        more than once. [default: none]"""
        self["metrics-listen"].append(self._read("metrics-listen", endpoint, check_endpoint))

    def _read_count(self, option: str, text: str, example: int | None = None) -> None:
        """Set an option to a number. If the text is not one, the message gives the default as an example."""
        self[option] = self._read(option, text, lambda text: _parse_count(text, example or self._defaults[option]))

    def _read(self, option: str, text: str, read: Callable[[str], T]) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise usage.UsageError(f"--{option}: {error}") from error

    def opt_version(self) -> None:
        """Print the versions of the daemon and of Twisted, and exit."""
        print(f"realtime_chat {__version__}, Twisted {twisted.__version__}")
        raise SystemExit(0)

    def parseOptions(self, options: Any = None) -> None:
        """Read the command line.

        Under ``twistd`` a mistake ends the process, and only its message is printed. twistd itself would print all of
        its own options first.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            if self.parent is None:
                raise
            message = f"realtime: {error}{self._suggestion(error)}\nAll options: twistd realtime --help"
            raise SystemExit(message) from error

    def _suggestion(self, error: usage.UsageError) -> str:
        """Suggest the known option that is most like an unknown option."""
        unknown = re.fullmatch(r"option --(\S+) not recognized", str(error))
        known = [name.removesuffix("=") for name in self.longOpt]
        meant = difflib.get_close_matches(unknown[1], known, 1) if unknown else []
        return f"; right would be --{meant[0]}" if meant else ""

    def parseArgs(self, *words: str) -> None:
        """Refuse arguments that belong to no option."""
        if words:
            raise usage.UsageError(f"{words[0]!r} belongs to no option; right would be an option, which begins with --")

    def postOptions(self) -> None:
        """Refuse options that can't work together, before anything starts."""
        if self.parent is not None:
            check_runner(self.parent)
        kind = (self["store"] or "sqlite:").partition(":")[0]
        if kind != "sqlite" and self["data-dir"] is not None:
            raise usage.UsageError(f"--data-dir: leave it out with --store {kind}:, which keeps nothing on this disk")
        if kind in SCHEMES:
            _check_redis_installed()
            self["redis"] = self._read_address()
        else:
            self._refuse_redis_options()
        directory = database_path(self).parent if kind == "sqlite" else None
        if self["access-log"] is not None:
            self["access-log"] = self._read("access-log", self["access-log"], partial(_parse_log_path, directory))
        self["listen"] = self["listen"] or [DEFAULT_LISTEN]
        taken: set[str] = set()
        for option in ("listen", "metrics-listen"):
            for endpoint in self[option]:
                if endpoint in taken:
                    raise usage.UsageError(f"--{option}: {endpoint!r} is there already; right would be another port")
                if int(Endpoint.parse(endpoint).port or 1) != 0:  # port 0 is any free port
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
        for option in ("store-prefix", "store-password-file", "store-ca", "relay"):
            if self[option] not in (self._defaults.get(option), []):
                raise usage.UsageError(f"--{option}: this is for --store redis://HOST/0; leave it out")


def _check_redis_installed() -> None:
    if importlib.util.find_spec("txredisapi") is None:
        raise usage.UsageError(
            "--store: Redis needs txredisapi, which is not installed; right would be pip install txredisapi hiredis"
        )


def default_data_dir(environ: Any = os.environ) -> Path:
    """The data directory if no option names one.

    :raises twisted.python.usage.UsageError: the user has no home directory.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/realtime_chat")
    try:
        return Path(environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "realtime_chat"
    except RuntimeError as error:  # neither HOME nor an entry in /etc/passwd
        raise usage.UsageError(
            f"--data-dir: user {os.geteuid()} has no home directory; name one with --data-dir /srv/chat"
        ) from error


def database_path(options: Options) -> Path:
    """The path of the SQLite database."""
    store: str | None = options["store"]
    return (
        Path(options["data-dir"] or default_data_dir()) / _DATABASE if store is None else Path(store.partition(":")[2])
    )
