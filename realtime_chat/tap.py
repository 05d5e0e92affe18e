"""The entry of ``twistd realtime``: it chooses a store and a broker by the options, and has the daemon composed.

The Twisted plugin names this module. Nothing else imports it but ``chatserver.tac`` and tests.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import stat
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import IService
from twisted.logger import Logger, globalLogPublisher
from twisted.web.resource import IResource

from realtime_chat.broker.local import LocalBroker
from realtime_chat.clock import time_steadily
from realtime_chat.composition import make_service
from realtime_chat.core.interfaces import IBroker, IMessageStore
from realtime_chat.data_dir import database_path
from realtime_chat.http.client_address import TrustedProxies
from realtime_chat.limit_options import read_limits
from realtime_chat.logs import throttle
from realtime_chat.option_combinations import check_page
from realtime_chat.option_values import check_guests_read
from realtime_chat.options import Options
from realtime_chat.process import Process
from realtime_chat.redis.names import RedisNames
from realtime_chat.reload import Reload
from realtime_chat.service import Configuration, RealtimeService
from realtime_chat.socketio.resource import Mount
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.store.sqlite.store import SQLiteStore
from realtime_chat.text_files import FileRefused
from realtime_chat.tokens.keys import TokenKeys
from realtime_chat.tokens.verifier import TokenVerifier
from realtime_chat.values.limits import Limits

_log = Logger()

_SWITCH_INTERVAL = 0.0005
"""Seconds after which the reactor's thread gives Python's lock to the store's thread. A commit needs the lock several
times. With Python's own 5 ms, a durable publish on a busy daemon takes 30 to 60 ms longer."""


def _make_store(options: Options, reactor: Any, node: str) -> tuple[IMessageStore, IBroker, Path | None]:
    """Make the store and the broker; the third value is the directory that the store needs, or None."""
    retention = Retention(
        options["history"],
        options["history-age"],
        options["max-rooms-stored"],
        options["room-rate"],
        options["socket-io-history"],
    )
    store: str | None = options["store"]
    if store is not None and store.startswith("memory:"):
        return MemoryStore(retention, time.time, os.urandom), LocalBroker(), None
    if options["redis"] is not None:
        return *_make_redis(options, reactor, node, retention), None
    path = database_path(options)
    return SQLiteStore(reactor, str(path), retention, time.time, os.urandom), LocalBroker(), path.parent


def _make_redis(options: Options, reactor: Any, node: str, retention: Retention) -> tuple[IMessageStore, IBroker]:
    # Imported here, as a daemon without Redis doesn't need Redis's packages.
    from realtime_chat.broker.redis import RedisBroker
    from realtime_chat.broker.redis_presence import RedisPresence
    from realtime_chat.store.redis.store import RedisStore

    address = options["redis"]
    names = RedisNames(options["store-prefix"], address.database)
    maximum = options["max-message"]
    store = RedisStore(reactor, address, names, retention, maximum, time.time, os.urandom, random.random, node=node)
    appending, reading = store.links
    presence = RedisPresence(reactor, names, node, reading, os.urandom)
    mount: Mount | None = options["socketio"]
    relays = {} if mount is None else mount.application.event_relays()
    broker = RedisBroker(
        reactor, address, names, node, random.random, appending, presence, options["relay"], event_relays=relays
    )
    return store, broker


def makeService(options: Options, site: IResource | None = None) -> IService:
    """Compose the daemon that the options describe. Nothing is opened yet, as twistd drops privileges later.

    :param site: answers at all paths that are not the daemon's own, in place of the page; None for the page.
    :raises UsageError: an option has no effect beside the site.
    """
    from twisted.internet import reactor

    if site is not None:
        options.is_embedded = True
        check_page(options)
    time_steadily(reactor)  # before a store asks the reactor for the time
    node = os.urandom(8).hex()
    store, broker, directory = _make_store(options, reactor, node)
    process = Process(reactor, options.parent)
    verifier = TokenVerifier(options["keys"], options["token-audience"], options["token-issuer"], time.time)
    return make_service(
        reactor,
        store,
        broker,
        attrs.evolve(_read_configuration(options, directory, verifier), site=site),
        time.time,
        os.urandom,
        process.give_up,
        partial(_on_started, reactor, process),
        partial(_on_starting, process, verifier, options),
        node=node,
    )


def _on_starting(process: Process, verifier: TokenVerifier, options: Options, service: RealtimeService) -> None:
    """Reload on signals from now on."""
    _log_keys(verifier)
    told: set[str] = set()
    _warn_of_readers(options["token-key"], told)
    process.starting(service.reopen_logs, Reload(options, partial(_go_on, service, verifier, told)))


def _go_on(service: RealtimeService, verifier: TokenVerifier, told: set[str], options: Options) -> bool:
    """Go on with other options; see :class:`~realtime_chat.reload.Reload`.

    :param told: see :func:`_warn_of_readers`.
    """
    is_certified = service.reload(_read_configuration(options, None, verifier))
    before = verifier.fingerprints()
    verifier.replace(options["keys"], options["token-audience"], options["token-issuer"])
    if verifier.fingerprints() != before:
        _log_keys(verifier)
    _warn_of_readers(options["token-key"], told)
    _warn_of_legacy_room(options)
    return is_certified


def _warn_of_legacy_room(options: Options) -> None:
    """Warn if new rules have closed the room of old pages. At a start that is refused."""
    try:
        check_guests_read(options.access, options["legacy-room"])
    except ValueError as error:
        if options["legacy-listen"]:
            _log.warn("--legacy-room: {why}", why=str(error))


def _warn_of_readers(paths: Iterable[str], told: set[str]) -> None:
    """Warn of the files with secrets that everybody on this machine can read.

    :param told: those of which was warned before and which are still like that; they aren't told again.
    """
    readable = set(filter(_is_readable_secret, paths))
    for path in sorted(readable - told):
        _log.warn(
            "--token-key: everybody on this machine can read {path}, and so make tokens; right would be chmod 640, "
            "with the group of your site",
            path=path,
        )
    told.clear()
    told.update(readable)


def _is_readable_secret(path: str) -> bool:
    with contextlib.suppress(FileRefused, OSError):
        return bool(os.stat(path).st_mode & stat.S_IROTH) and "HS256" in TokenKeys.read([path]).algorithms
    return False


def _log_keys(verifier: TokenVerifier) -> None:
    if verifier.fingerprints():
        _log.info("tokens are verified by the keys {keys}", keys=", ".join(sorted(verifier.fingerprints())))


def _read_configuration(options: Options, directory: Path | None, verifier: TokenVerifier) -> Configuration:
    limits = attrs.evolve(
        Limits(),
        history=options["history"],
        namespace_history=options["socket-io-history"],
        history_age=options["history-age"],
        max_message=options["max-message"],
        max_rooms=options["max-rooms"],
        max_rooms_total=options["max-rooms-total"],
        stream_lifetime=options["stream-lifetime"] or None,
        max_members=options["max-members"],
        presence_limit=options["presence-limit"],
    )
    return Configuration(
        listen=tuple(options["listen"]),
        directory=directory,
        hosts=tuple(options["host"]),
        origins=tuple(options["allow-origin"]),
        max_connections=options["max-connections"],
        jsonp=bool(options["allow-jsonp"]),
        compress=bool(options["compress"]),
        page=options["page"],
        token_url=options["token-url"],
        access_log=options["access-log"],
        trusted_proxies=TrustedProxies.parse(options["trusted-proxy"]),
        metrics_listen=tuple(options["metrics-listen"]),
        legacy_listen=tuple(options["legacy-listen"]),
        legacy_room=options["legacy-room"],
        limits=limits,
        socketio=options["socketio"],
        access=options.access,
        verify=verifier.verify,
        token_keys=verifier.fingerprints,
        rate_limits=read_limits(options),
    )


def _on_started(reactor: Any, process: Process) -> None:
    """Prepare the process for clients, as the daemon listens now."""
    process.started()
    _tune_garbage_collector()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    reactor.callWhenRunning(_throttle_log, reactor)  # by then Twisted's runners have begun to log


def _throttle_log(reactor: Any) -> None:
    """Limit repeated lines in the log, as clients can cause them."""

    def later(seconds: float, call: Callable[[], object]) -> None:
        reactor.callFromThread(reactor.callLater, seconds, call)

    spared = [f"{kind.__module__}.{kind.__name__}" for kind in (RealtimeService, Reload)]
    undo = throttle(globalLogPublisher, time.monotonic, later, spared)
    reactor.addSystemEventTrigger("after", "shutdown", undo)


def _tune_garbage_collector() -> None:
    """Run the collector less often, and never over the objects that exist now.

    Each waiting poll is a new object. With Python's own thresholds, many polls make the collector go through all
    objects again and again (``docs/performance.rst``).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 10, 10)
