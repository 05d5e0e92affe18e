"""The command line of ``twistd realtime``: its options, and how each value is checked."""

from __future__ import annotations

import contextlib
import difflib
import getopt
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from twisted.python import usage

import twisted
from realtime_chat import __version__
from realtime_chat.broker.relay import read_relay
from realtime_chat.config_file import ConfigFile, Names
from realtime_chat.core.access import AccessPolicy
from realtime_chat.data_dir import database_path
from realtime_chat.http.static_files import NO_PAGE, OWN_PAGE
from realtime_chat.limit_options import LIMIT_OPTIONS, with_limit_options
from realtime_chat.listening import DEFAULT_LISTEN, check_endpoint
from realtime_chat.option_combinations import ENDPOINTS, check_combinations
from realtime_chat.option_values import (
    check_host,
    check_origin,
    check_proxy,
    check_redis_installed,
    check_room_name,
    check_store,
    check_token_url,
    read_count,
    read_duration,
    read_lifetime,
    read_log_path,
    read_page,
    read_size,
    read_text,
)
from realtime_chat.process import check_runner
from realtime_chat.redis.address import SCHEMES, RedisAddress, parse_address
from realtime_chat.redis.names import check_prefix
from realtime_chat.socketio_options import SocketIOOptions
from realtime_chat.store.retention import Retention
from realtime_chat.text_files import FileRefused
from realtime_chat.tokens.keys import TokenKeys
from realtime_chat.values.access import RoomRules
from realtime_chat.values.limits import Limits

_REPEATABLE = (*ENDPOINTS, "relay", "host", "allow-origin", "token-key", "trusted-proxy")
PATHS = (
    *("token-key", "store", "store-password-file", "store-ca", "data-dir", "access-log", "page"),
    "socket-io-script",
)
"""The options that name a file or a directory, which may be relative. Their values are absolute."""
_NOT_IN_FILE = ("config", "help", "version")
DEFAULT_PREFIX = "realtime"

G = TypeVar("G")
T = TypeVar("T")


@with_limit_options
class Options(SocketIOOptions):
    """The options, as a mapping from their names to their values: of the command line, and of ``--config``.

    Besides, ``keys`` are the keys that verify tokens, ``rules`` those for rooms, and ``socketio`` says how Socket.IO is
    served.

    :param started: the options that the daemon was started with, if it runs already; see :meth:`again`.
    :ivar is_embedded: whether a site of somebody's own answers in place of the page.
    :ivar words: the command line.
    :ivar directory: the one in which the daemon was started.
    :ivar given: the texts of the options on the command line.
    :ivar file: the configuration file; None if there is none.
    :ivar defaults: the values of options that are not given.
    :ivar listening: the endpoints that the daemon listens on already, by option.
    """

    synopsis = "[--listen ENDPOINT] [--store STORE] [options]"
    longdesc = (
        "Serves chat rooms over WebSocket, server-sent events, long poll and plain HTTP from one durable store. "
        "Without options: a chat page at http://127.0.0.1:8080/ for this machine, and an SQLite database."
    )

    optFlags = [
        ["compress", None, "Compress WebSocket messages for clients that offer it: less traffic for more CPU."],
        ["allow-jsonp", None, "Answer GETs with a callback parameter as scripts, for pages in very old browsers."],
        ["open", None, "Let guests read and write every room that no rule is for, though others can reach the daemon."],
    ]

    def __init__(self, started: Options | None = None) -> None:
        super().__init__()
        self.is_embedded: bool = started is not None and started.is_embedded
        self.directory: str = os.getcwd() if started is None else started.directory
        self._base = "" if started is None else started.directory  # from which paths count
        self.listening: dict[str, list[str]] = {name: [] if started is None else started[name] for name in ENDPOINTS}
        self.words: list[str] = []
        self.docs = {name: " ".join(text.split()) for name, text in self.docs.items()}  # Twisted keeps line breaks
        limits, retention = Limits(), Retention()
        self.update({name: [] for name in _REPEATABLE})
        self.update(keys=TokenKeys(), rules=RoomRules(), socketio=None)
        self.given: dict[str, list[str]] = {}
        self.file: ConfigFile | None = None
        self._places: dict[str, str] = {}
        self.defaults: dict[str, Any] = {
            **dict.fromkeys(("store", "redis", "store-password-file", "store-ca", "data-dir", "access-log", "config")),
            **dict.fromkeys(("history-age", "max-connections", "token-audience", "token-issuer", "token-url")),
            **dict.fromkeys(("app", "socket-io-path", "socket-io-script")),
            "store-prefix": DEFAULT_PREFIX,
            "history": limits.history,
            "socket-io-history": limits.namespace_history,
            "max-message": limits.max_message,
            "max-rooms": limits.max_rooms,
            "max-rooms-total": limits.max_rooms_total,
            "max-rooms-stored": retention.rooms,
            "room-rate": retention.room_rate,
            "stream-lifetime": limits.stream_lifetime,
            "max-members": limits.max_members,
            "presence-limit": limits.presence_limit,
            **{option.name: option.default for option in LIMIT_OPTIONS},
            "page": OWN_PAGE,
            "legacy-room": "lobby",
        }
        self.update(self.defaults)

    def opt_config(self, path: str) -> None:
        """A file in TOML with options under their own names, and rules for rooms ([[room]]). The command line wins.
        [default: none]"""
        self["config"] = path

    def opt_listen(self, endpoint: str) -> None:
        """Where to listen: a Twisted endpoint; may be given more than once. [default: tcp:8080:interface=127.0.0.1]"""
        self["listen"].append(self._read_endpoint("listen", endpoint))

    def opt_store(self, store: str) -> None:
        """Where messages are kept: sqlite:PATH, memory:, or a Redis server that several nodes share:
        redis://[USER:PASSWORD@]HOST[:PORT]/DB, rediss://... (TLS) or redis+unix:///PATH?db=DB
        [default: realtime.sqlite in the data directory]"""
        kind, _, path = self.check_value("store", store, check_store).partition(":")
        self["store"] = f"{kind}:{self._path(path)}" if kind == "sqlite" else store

    def opt_store_prefix(self, prefix: str) -> None:
        """The prefix of all keys and channels in Redis. Nodes with the same prefix share their rooms.
        [default: realtime]"""
        self["store-prefix"] = self.check_value("store-prefix", prefix, check_prefix)

    def opt_store_password_file(self, path: str) -> None:
        """A file whose first line is the password for Redis, so that no list of processes shows it."""
        self["store-password-file"] = self._path(path)

    def opt_store_ca(self, path: str) -> None:
        """A file with the CA certificates (PEM) for a rediss:// server. [default: those of the system]"""
        self["store-ca"] = self._path(path)

    def opt_relay(self, relay: str) -> None:
        """PATTERN=ROOM: what is published in Redis on a channel that matches PATTERN (as with PSUBSCRIBE) becomes a
        signal in the room; may be given more than once. [default: PREFIX:relay:ROOM for every room]"""
        self["relay"].append(self.check_value("relay", relay, read_relay))

    def opt_data_dir(self, directory: str) -> None:
        """The data directory; it is created if it is missing. [default: /var/lib/realtime_chat for root, else
        realtime_chat in $XDG_DATA_HOME or ~/.local/share]"""
        self["data-dir"] = self._path(directory)

    def opt_history(self, count: str) -> None:
        """How many messages each room keeps. [default: 1000]"""
        self._read_count("history", count)

    def opt_history_age(self, age: str) -> None:
        """How long messages are kept: seconds, or with a unit s m h d. [default: for ever]"""
        self["history-age"] = self.check_value("history-age", age, read_duration)

    def opt_host(self, name: str) -> None:
        """A host name that is served, with :PORT to serve that port only; may be given more than once. Requests for
        other hosts get 421; localhost is always served. [default: the addresses that are listened on]"""
        self["host"].append(self.check_value("host", name, check_host))

    def opt_allow_origin(self, origin: str) -> None:
        """A web origin whose pages may use this daemon, besides its own, such as https://example.com; may be given more
        than once. * allows all."""
        self["allow-origin"].append(self.check_value("allow-origin", origin, check_origin))

    def opt_trusted_proxy(self, proxy: str) -> None:
        """A proxy that is believed about its clients' addresses (X-Forwarded-For, Forwarded, the PROXY protocol): an
        address, a network, loopback or unix; may be given more than once. Limits by address need it behind a proxy.
        [default: none]"""
        self["trusted-proxy"].append(self.check_value("trusted-proxy", proxy, check_proxy))

    def opt_token_key(self, path: str) -> None:
        """A file with the keys that verify your site's tokens: a secret a line, or public keys in PEM or a JWKS; may be
        given more than once. With it, guests may do what rules for rooms say, and else nothing. [default: none]"""
        self["token-key"].append(self._path(path))

    def opt_token_audience(self, name: str) -> None:
        """What aud of each token has to name. [default: a token has no aud]"""
        self["token-audience"] = self.check_value("token-audience", name, read_text)

    def opt_token_issuer(self, name: str) -> None:
        """What iss of each token has to be. [default: any]"""
        self["token-issuer"] = self.check_value("token-issuer", name, read_text)

    def opt_token_url(self, url: str) -> None:
        """Where the chat page asks your site for a visitor's token: a path from the root of the site, such as /token/,
        or a URL. [default: none, and all visitors of the page are guests]"""
        self["token-url"] = self.check_value("token-url", url, check_token_url)

    def opt_max_message(self, size: str) -> None:
        """The largest message, frame or request body: bytes, or with a unit k m. [default: 64k]"""
        self["max-message"] = self.check_value("max-message", size, read_size)

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
        self["stream-lifetime"] = self.check_value("stream-lifetime", age, read_lifetime)

    def opt_presence_limit(self, count: str) -> None:
        """Up to how many members a room lists them. Larger rooms give only the number. [default: 200]"""
        self._read_count("presence-limit", count)

    def opt_max_members(self, count: str) -> None:
        """How many members one room may have. Who would be one more may not join. [default: 100000]"""
        self._read_count("max-members", count)

    def opt_page(self, page: str) -> None:
        """What is at /: the chat page (on), nothing (off), or your own page: a directory with an index.html; it is read
        at start and on SIGHUP. [default: on]"""
        self["page"] = self.check_value("page", page if page in (OWN_PAGE, NO_PAGE) else self._path(page), read_page)

    def opt_access_log(self, path: str) -> None:
        """Write one line for each request to this file; secrets in URLs are masked. [default: no access log]"""
        self["access-log"] = self._path(path)

    def opt_metrics_listen(self, endpoint: str) -> None:
        """A separate endpoint for Prometheus, which serves /metrics, such as tcp:9100:interface=127.0.0.1; may be given
        more than once. [default: none]"""
        self["metrics-listen"].append(self._read_endpoint("metrics-listen", endpoint))

    def opt_legacy_listen(self, endpoint: str) -> None:
        """A separate endpoint for the unchanged pages of the chat tutorial of 2013, such as tcp:1025; may be given more
        than once. [default: none]"""
        self["legacy-listen"].append(self._read_endpoint("legacy-listen", endpoint))

    def opt_legacy_room(self, room: str) -> None:
        """The room of those pages that name none with ?room=. Guests have to be able to read it. [default: lobby]"""
        self["legacy-room"] = self.check_value("legacy-room", room, check_room_name)

    def _read_endpoint(self, option: str, endpoint: str) -> str:
        """Check an endpoint, unless it is listened on: a socket that was handed over can be taken once."""
        is_open = any(endpoint in listening for listening in self.listening.values())
        return endpoint if is_open else self.check_value(option, endpoint, check_endpoint)

    def _path(self, text: str) -> str:
        """Make a path absolute, as twistd changes the directory later. It counts from where it is written."""
        return os.path.abspath(os.path.join(self._base, text)) if text else text

    def _read_count(self, option: str, text: str, example: int | None = None) -> None:
        """Set an option to a number. If the text is not one, the message gives the default as an example."""
        self[option] = self.check_value(option, text, lambda text: read_count(text, example or self.defaults[option]))

    def check_value(self, option: str, given: G, read: Callable[[G], T]) -> T:
        """The value of an option.

        :raises UsageError: ``read`` refuses it. The message says where it was given.
        """
        try:
            return read(given)
        except ValueError as error:
            raise self.refused(option, str(error)) from error

    def is_given(self, name: str) -> bool:
        """Whether the command line or the file says it."""
        return name in self.given or name in self._places

    def refused(self, option: str, what: str) -> usage.UsageError:
        """The error for an option, which says where it was given."""
        return usage.UsageError(f"{self._places.get(option, f'--{option}')}: {what}")

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
            self.words = list(sys.argv[1:] if options is None else options)
            self.given = self._texts_given(self.words)
            super().parseOptions(self.words)
        except usage.UsageError as error:
            if self.parent is None:
                raise
            message = f"realtime: {error}{self.suggestion(error)}\nAll options: twistd realtime --help"
            raise SystemExit(message) from error

    def again(self) -> Options:
        """Read the same command line again, and the files as they are now. This object stays as it is.

        :raises twisted.python.usage.UsageError: something is wrong; the message says where.
        """
        options = Options(self)
        options.parseOptions(self.words)
        if options.file is not None and options.file.is_empty:  # as while somebody writes it
            raise usage.UsageError(f"--config: {options.file.path}: it is empty; right would be a comment at least")
        return options

    def _texts_given(self, words: list[str]) -> dict[str, list[str]]:
        """The options on a command line, by their full names. What is wrong there is told by :meth:`parseOptions`."""
        given: dict[str, list[str]] = {}
        with contextlib.suppress(getopt.error):
            for name, text in getopt.getopt(words, self.shortOpt, self.longOpt)[0]:
                given.setdefault(name.removeprefix("--"), []).append(text)
        return given

    def names(self) -> Names:
        """The options that a configuration file may set."""
        flags = [str(flag[0]) for flags in (self.optFlags, SocketIOOptions.optFlags) for flag in flags]
        known = {name.removesuffix("=") for name in self.longOpt} - {*_NOT_IN_FILE, *_REPEATABLE, *flags}
        return Names(flags, _REPEATABLE, sorted(known))

    def suggestion(self, error: usage.UsageError) -> str:
        """The known option that is most like an unknown option, to be added to a message; empty if there is none."""
        unknown = re.fullmatch(r"option --(\S+) not recognized", str(error))
        known = [name.removesuffix("=") for name in self.longOpt]
        meant = difflib.get_close_matches(unknown[1], known, 1) if unknown else []
        return f"; right would be --{meant[0]}" if meant else ""

    def parseArgs(self, *words: str) -> None:
        """Refuse arguments that belong to no option."""
        if words:
            raise usage.UsageError(f"{words[0]!r} belongs to no option; right would be an option, which begins with --")

    def postOptions(self) -> None:
        """Read the configuration file, and refuse options that can't work together, before anything starts."""
        if self.parent is not None:
            check_runner(self.parent)
        if self["config"] is not None:
            self._apply_file()
        kind = (self["store"] or "sqlite:").partition(":")[0]
        if kind != "sqlite" and self["data-dir"] is not None:
            raise self.refused("data-dir", f"leave it out with --store {kind}:, which keeps nothing on this disk")
        if kind in SCHEMES:
            self.check_value("store", self["store"], check_redis_installed)
            self["redis"] = self._read_address()
        directory = database_path(self).parent if kind == "sqlite" else None
        if self["access-log"] is not None:
            self["access-log"] = self.check_value("access-log", self["access-log"], partial(read_log_path, directory))
        self["listen"] = self["listen"] or [DEFAULT_LISTEN]
        self._read_keys()
        check_combinations(self)
        self["socketio"] = self.read_socketio()

    @property
    def access(self) -> AccessPolicy:
        """Who may do what in which room."""
        return AccessPolicy(self["rules"], bool(self["open"] or not self["token-key"]))

    def _apply_file(self) -> None:
        """Take from the configuration file what the command line doesn't say."""
        names = self.names()
        try:
            file = self.file = ConfigFile.read(os.path.join(self._base, self["config"]), names)
        except FileRefused as error:
            raise usage.UsageError(str(error) if error.line else f"--config: {error}") from error
        self._base = os.path.join(self._base, os.path.dirname(self["config"]))
        for name, texts, line in file.settings:
            if name in self.given:
                continue
            self._places[name] = f"{file.path}, line {line}: {name}"
            if name in names.flags:
                self[name] = len(texts)
            else:
                for text in texts:
                    getattr(self, f"opt_{name.replace('-', '_')}")(text)
        self["rules"] = file.rules

    def _read_keys(self) -> None:
        if self["token-key"]:
            self["keys"] = self.check_value("token-key", self["token-key"], TokenKeys.read)
            return
        for option in ("token-audience", "token-issuer", "token-url"):
            if self[option] is not None:
                raise self.refused(option, "this is for tokens, which need --token-key FILE; leave it out")

    def _read_address(self) -> RedisAddress:
        address = parse_address(self["store"])
        for option, read in (
            ("store-password-file", RedisAddress.with_password_of),
            ("store-ca", RedisAddress.with_authorities),
        ):
            if self[option] is not None:
                address = self.check_value(option, self[option], partial(read, address))
        return address
