"""The daemon as a Twisted service: opens what was wired, listens, and stops in order."""

from __future__ import annotations

import resource
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, TimeoutError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure

from realtime_chat import __version__
from realtime_chat.clock import time_steadily
from realtime_chat.composition import make_hub
from realtime_chat.core.interfaces import IBroker, IMessageStore
from realtime_chat.core.turns import Turns
from realtime_chat.http.answers import JSONResource
from realtime_chat.http.commands import CommandsResource
from realtime_chat.http.health import HealthResource, ReadinessResource
from realtime_chat.http.library import NAME, put_library
from realtime_chat.http.metrics import MetricsResource, make_registry
from realtime_chat.http.origins import HostList, OriginPolicy
from realtime_chat.http.pages import NO_PAGE, OWN_PAGE, PageRefused, put_pages
from realtime_chat.http.rooms import RoomsResource
from realtime_chat.http.site import RealtimeSite
from realtime_chat.listening import ListenRefused, is_local, listen, names, url
from realtime_chat.transports.fast.direct_send import unsent, write_now
from realtime_chat.transports.fast.epoll_reader import EpollReader, accept_few
from realtime_chat.transports.poll import PollResource
from realtime_chat.transports.sse import EventsResource
from realtime_chat.transports.websocket import WebSocketFactory, WebSocketResource
from realtime_chat.values.errors import RealtimeError, StoreRefused
from realtime_chat.values.limits import Limits

__all__ = ["Configuration", "RealtimeService", "raise_file_limit"]

_PATIENCE = 1.5
"""Seconds that each step of stopping may take; all but one are done in a moment, and five seconds are all there is."""

_SPARE_FILES = 64


@attrs.frozen
class Configuration:
    """What the operator decided.

    :ivar directory: what must exist before the store is opened; None for none.
    :ivar hosts: names that are served besides those of loopback; none for what is listened on.
    :ivar origins: web origins that may use the daemon besides its own.
    :ivar max_connections: None for what the limit of open files allows.
    :ivar page: what is at ``/``, as :func:`~realtime_chat.http.pages.put_pages` takes it.
    :ivar metrics_listen: endpoints for Prometheus.
    """

    listen: tuple[str, ...]
    directory: Path | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_connections: int | None = None
    jsonp: bool = False
    compress: bool = False
    page: str | Path = OWN_PAGE
    access_log: str | None = None
    metrics_listen: tuple[str, ...] = ()
    limits: Limits = attrs.Factory(Limits)


class RealtimeService(Service):
    """One daemon.

    :param reactor: whose clock will not step any more: see :func:`~realtime_chat.clock.time_steadily`.
    :param wall: seconds since 1970, for people.
    :param starting: called with what opens its logs anew, before anything else.
    :param give_up: ends the process when it can't start, and is told why; stops the reactor where it isn't given.
    :param started: called when it listens.
    :ivar hub: its rooms and sessions.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        store: IMessageStore,
        broker: IBroker,
        configuration: Configuration,
        wall: Callable[[], float],
        token: Callable[[int], bytes],
        give_up: Callable[[str], None] | None = None,
        started: Callable[[], None] = lambda: None,
        starting: Callable[[Callable[[], None]], None] = lambda reopen: None,
    ) -> None:
        time_steadily(reactor)
        self._reactor = reactor
        self._wall = wall
        self._give_up = self._stop_reactor if give_up is None else give_up
        self._started = started
        self._starting = starting
        self._store = store
        self._broker = broker
        self._token = token
        self._configuration = configuration
        self._ports: list[IListeningPort] = []
        self._metrics_ports: list[IListeningPort] = []
        self._sites: list[RealtimeSite] = []
        self._epoll_reader = EpollReader(reactor)
        self._turns = Turns(reactor, time.monotonic)
        self._websockets: WebSocketFactory | None = None
        self._public: frozenset[bytes] = frozenset()
        self.hub = make_hub(store, reactor, configuration.limits, wall, token, broker)

    def startService(self) -> None:
        """Open the store and listen; what can't be is said in one line, and the process ends."""
        super().startService()
        self._starting(self._reopen_logs)
        Deferred.fromCoroutine(self._start()).addErrback(self._not_started)

    def _not_started(self, failure: Failure) -> None:
        if not failure.check(StoreRefused, PageRefused, RealtimeError, ListenRefused, OSError):
            self._log.failure("the daemon could not start", failure)
        self._log.critical("realtime: {why}", why=str(failure.value))
        self._give_up(str(failure.value))

    def _stop_reactor(self, why: str) -> None:
        self._reactor.callWhenRunning(self._reactor.stop)

    def _reopen_logs(self) -> None:
        for site in self._sites:
            site.reopen_log()

    async def _start(self) -> None:
        files = raise_file_limit()
        directory = self._configuration.directory
        if directory is not None:
            _make_directory(directory)
        await self._store.start()
        self._log.info("store: {store}", store=self._store.describe())
        await self._broker.start(self.hub)
        if self._broker.shared:
            self._log.info("other nodes: {broker}", broker=self._broker.describe())
        configuration = self._configuration
        site = self._make_site(self._make_resources(), files)
        await self._listen("listen", configuration.listen, site, self._ports, configuration.hosts)
        if configuration.metrics_listen:
            metrics = self._make_site(self._make_metrics(), files)
            await self._listen("metrics-listen", configuration.metrics_listen, metrics, self._metrics_ports)
        self._say_where()
        self._started()

    async def _listen(
        self,
        option: str,
        descriptions: tuple[str, ...],
        site: RealtimeSite,
        ports: list[IListeningPort],
        hosts: tuple[str, ...] = (),
    ) -> None:
        """Listen, and answer to the names that were given, or else to the addresses that there turn out to be."""
        served: set[str] = set()
        for description in descriptions:
            port = await listen(self._reactor, description, site, option)
            accept_few(port)
            ports.append(port)
            served |= names(port, description)
        site.hosts = HostList.listening_on((), hosts) if hosts else HostList.listening_on(served)

    def ports(self) -> list[int]:
        """The TCP ports that are listened on, in the order of the configuration; those for metrics come last."""
        ports = self._ports + self._metrics_ports
        return [address.port for port in ports if hasattr(address := port.getHost(), "port")]

    # What is served

    def _make_site(self, resources: JSONResource, files: int) -> RealtimeSite:
        configuration = self._configuration
        site = RealtimeSite(
            resources,
            self._reactor,
            self.hub.wheel,
            HostList(),
            OriginPolicy(configuration.origins),
            self._wall,
            max_body=configuration.limits.max_message,
            max_connections=configuration.max_connections or max(1, files - _SPARE_FILES),
            log_path=configuration.access_log,
            write=write_now,
            unsent=unsent,
            stalled_after=configuration.limits.stalled_after,
            read=self._epoll_reader.adopt,
            public=self._public,
            turns=self._turns,
        )
        self._sites.append(site)
        return site

    def _make_metrics(self) -> JSONResource:
        root = JSONResource()
        root.putChild(b"metrics", MetricsResource(make_registry(self.hub, self._store, self._broker)))
        return root

    def _make_resources(self) -> JSONResource:
        hub, jsonp = self.hub, self._configuration.jsonp
        self._websockets = WebSocketFactory(self._reactor, hub, self._configuration.compress, self._turns)
        root = JSONResource()
        hashed = put_library(root)
        put_pages(root, self._configuration.page, {NAME: hashed})
        self._public = frozenset(f"/{name}".encode() for name in (NAME, hashed))
        for path, child in (
            (b"ws", WebSocketResource(self._websockets)),
            (b"poll", PollResource(hub, jsonp)),
            (b"sse", EventsResource(hub, partial(_fraction, self._token))),
            (b"commands", CommandsResource(hub, jsonp, self._turns)),
            (b"rooms", RoomsResource(hub)),
            (b"healthz", HealthResource()),
            (b"readyz", ReadinessResource(hub)),
        ):
            if path in root.children:
                raise PageRefused(
                    f"the page's {path.decode()!r} stands in the way of the daemon's own; call it otherwise"
                )
            root.putChild(path, child)
        return root

    def _say_where(self) -> None:
        self._log.info("realtime_chat {version}", version=__version__)
        for port, description in zip(self._ports, self._configuration.listen, strict=True):
            what = "listening" if self._configuration.page == NO_PAGE else "chat page"
            self._log.info("{what}: {url}", what=what, url=url(port, description))
        for port, description in zip(self._metrics_ports, self._configuration.metrics_listen, strict=True):
            self._log.info("metrics: {url}metrics", url=url(port, description))
        configuration = self._configuration
        who = "this machine only" if all(map(is_local, self._ports)) else "everyone who can reach it"
        origins = ", ".join(configuration.origins) or "none"
        hosts = ", ".join(configuration.hosts) or "those of this machine"
        self._log.info(
            "open to: {who}; host names served: {hosts}; pages of other origins: {origins}; guests may read and write "
            "every room but private ones",
            who=who,
            hosts=hosts,
            origins=origins,
        )

    # Stopping

    def stopService(self) -> Deferred[None]:
        """Accept nothing more, finish commits, answer polls, say goodbye, and close the store."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for port in self._ports + self._metrics_ports:
            await _at_most(self._reactor, port.stopListening())
        self.hub.stopping = True
        await _at_most(self._reactor, self.hub.publisher.all_done())
        self.hub.stop()
        # A list, as unlike gatherResults it ends well when it is cancelled: who doesn't read holds nothing up.
        await _at_most(self._reactor, DeferredList([site.stop() for site in self._sites], consumeErrors=True))
        await _at_most(self._reactor, self._broker.stop())
        await _at_most(self._reactor, self._store.stop())
        self._epoll_reader.close()
        self.hub.wheel.stop()
        self._log.info("stopped")


async def _at_most(reactor: Any, step: Awaitable[Any] | None) -> None:
    """Wait for one step of stopping, but not for ever; whatever comes of it, the next ones are taken."""
    if not isinstance(step, Deferred):
        return
    try:
        await step.addTimeout(_PATIENCE, reactor)
    except TimeoutError:
        RealtimeService._log.warn("stopping goes on without a step that took too long")
    except Exception:
        RealtimeService._log.failure("a step of stopping failed")


def _fraction(token: Callable[[int], bytes]) -> float:
    """A random number from 0 up to 1."""
    return int.from_bytes(token(4), "big") / 2**32


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; every connection is one.

    :returns: the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _make_directory(directory: Path) -> None:
    try:
        for parent in reversed([parent for parent in directory.parents if not parent.exists()]):
            parent.mkdir(mode=0o700, exist_ok=True)  # pathlib's own parents=True leaves them to the umask
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreRefused(
            f"the data directory {directory} can't be made ({error.strerror}); name another with --data-dir"
        ) from error
