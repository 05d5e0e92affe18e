"""The daemon as a Twisted service: it opens its parts, listens, and stops them in order.

``composition.py`` builds the parts.
"""

from __future__ import annotations

import resource
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, TimeoutError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from realtime_chat import __version__
from realtime_chat.certificates import Certificates
from realtime_chat.core.access import AccessPolicy
from realtime_chat.core.hub import Hub
from realtime_chat.core.interfaces import IBroker, IMessageStore
from realtime_chat.http.client_address import TrustedProxies
from realtime_chat.http.host_list import HostList
from realtime_chat.http.site import RealtimeSite
from realtime_chat.http.static_files import NO_PAGE, OWN_PAGE, PageRefused
from realtime_chat.listening import Endpoint, ListenRefused, is_local, listen, names, url
from realtime_chat.malloc import MemoryTrimmer
from realtime_chat.socketio.resource import Mount
from realtime_chat.values.access import Claims
from realtime_chat.values.errors import RealtimeError, StoreRefused
from realtime_chat.values.limits import Limits
from realtime_chat.values.rates import RateLimits, ScopeLimits

_STEP_TIMEOUT = 1.5
"""Seconds that one step of stopping may take. Most steps take no time; all together have five seconds."""


_RELOADED = (
    *("hosts", "origins", "max_connections", "page", "token_url", "access_log"),
    *("access", "rate_limits", "trusted_proxies"),
)
"""The parts of a configuration that take effect while the daemon runs."""


@attrs.frozen
class Configuration:
    """What the operator has chosen.

    :ivar listen: the endpoints for clients.
    :ivar directory: is created before the store is opened; None for no directory.
    :ivar hosts: host names that are served besides those of loopback. If there are none, the addresses that are
        listened on are served.
    :ivar origins: web origins that may use the daemon besides its own.
    :ivar max_connections: None for as many as the limit of open files allows.
    :ivar jsonp: whether GET requests with a callback are answered as scripts.
    :ivar compress: whether WebSocket messages are compressed for clients that offer it.
    :ivar page: what is at ``/``, as :func:`~realtime_chat.http.static_files.put_page` takes it.
    :ivar token_url: where the chat page asks for a visitor's token; None if all visitors are guests.
    :ivar access_log: the path of the access log; None for no log.
    :ivar trusted_proxies: who is believed about where requests come from.
    :ivar metrics_listen: the endpoints for Prometheus.
    :ivar legacy_listen: the endpoints for pages of the chat tutorial of 2013.
    :ivar legacy_room: the room of those of them that name none.
    :ivar socketio: the Socket.IO application, and how it is served; None if none is.
    :ivar site: answers at all paths that are not the daemon's own, in place of the page; None for the page.
    :ivar access: who may do what in which room.
    :ivar verify: says what a token says, or raises ``unauthorized`` or ``token_expired``; None if no key ever comes.
    :ivar token_keys: gives the fingerprints of the keys that verify tokens now. When one goes, its clients end.
    :ivar rate_limits: how fast clients, users and addresses may go on.
    """

    listen: tuple[str, ...]
    directory: Path | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    max_connections: int | None = None
    jsonp: bool = False
    compress: bool = False
    page: str | Path = OWN_PAGE
    token_url: str | None = None
    access_log: str | None = None
    trusted_proxies: TrustedProxies = attrs.Factory(TrustedProxies)
    metrics_listen: tuple[str, ...] = ()
    legacy_listen: tuple[str, ...] = ()
    legacy_room: str = "lobby"
    limits: Limits = attrs.Factory(Limits)
    socketio: Mount | None = None
    site: IResource | None = None
    access: AccessPolicy = attrs.Factory(AccessPolicy)
    verify: Callable[[str], Claims] | None = None
    token_keys: Callable[[], frozenset[str]] = frozenset
    rate_limits: RateLimits = attrs.Factory(RateLimits)

    @property
    def has_page(self) -> bool:
        """Whether a page of the daemon's is at ``/``: the chat page, or the operator's own."""
        return self.site is None and self.page != NO_PAGE


class Sites(NamedTuple):
    """The HTTP sites of a daemon: for clients, and for Prometheus and for old pages if these are served."""

    chat: RealtimeSite
    metrics: RealtimeSite | None = None
    legacy: RealtimeSite | None = None

    def for_clients(self) -> list[RealtimeSite]:
        """The sites that clients use: by all that they have in common, these are one."""
        return [self.chat, *filter(None, [self.legacy])]


class SiteFactory(Protocol):
    """Makes the sites of a daemon; ``composition.py`` has one."""

    def __call__(self, configuration: Configuration, open_files: int) -> Sites:
        """Make the sites.

        :param open_files: how many files the process may have open.
        """

    def read_again(self, configuration: Configuration, sites: Sites, open_files: int) -> Callable[[], None]:
        """Read again what the sites serve, and return a function that makes them serve it."""


class RealtimeService(Service):
    """One daemon: starts its parts, listens, and stops them.

    :param site_factory: makes the sites when the daemon starts.
    :param adjust_port: is called with each port that is listened on.
    :param stop_reading: is called after all connections are closed.
    :param give_up: is called with the reason if the daemon can't start. By default it stops the reactor.
    :param started: is called when the daemon listens.
    :param starting: is called first, with the service.
    :ivar hub: the rooms and sessions.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        store: IMessageStore,
        broker: IBroker,
        hub: Hub,
        configuration: Configuration,
        site_factory: SiteFactory,
        adjust_port: Callable[[IListeningPort], None],
        stop_reading: Callable[[], None],
        give_up: Callable[[str], None] | None = None,
        started: Callable[[], None] = lambda: None,
        starting: Callable[[RealtimeService], None] = lambda service: None,
    ) -> None:
        self.hub = hub
        self._reactor = reactor
        self._store = store
        self._broker = broker
        self._configuration = configuration
        self._site_factory = site_factory
        self._certificates = Certificates(reactor)
        self._memory_trimmer = MemoryTrimmer(reactor)
        self._adjust_port = adjust_port
        self._stop_reading = stop_reading
        self._give_up = self._stop_reactor if give_up is None else give_up
        self._started = started
        self._starting = starting
        self._ports: list[IListeningPort] = []
        self._metrics_ports: list[IListeningPort] = []
        self._legacy_ports: list[IListeningPort] = []
        self._sites: Sites | None = None
        self._names: set[str] = set()  # of the addresses that are listened on
        self._open_files = 0

    def startService(self) -> None:
        """Open the store and listen. If that fails, log the reason in one line and give up."""
        super().startService()
        self._starting(self)
        Deferred.fromCoroutine(self._start()).addErrback(self._not_started)

    def _not_started(self, failure: Failure) -> None:
        if not failure.check(StoreRefused, PageRefused, RealtimeError, ListenRefused, OSError):
            self._log.failure("the daemon could not start", failure)
        self._log.critical("realtime: {why}", why=str(failure.value))
        self._give_up(str(failure.value))

    def _stop_reactor(self, why: str) -> None:
        self._reactor.callWhenRunning(self._reactor.stop)

    async def _start(self) -> None:
        self._open_files = raise_file_limit()
        directory = self._configuration.directory
        if directory is not None:
            _make_directory(directory)
        await self._store.start()
        self._log.info("store: {store}", store=self._store.describe())
        await self._broker.start(self.hub.cache)
        if self._broker.shared:
            self._log.info("other nodes: {broker}", broker=self._broker.describe())
        configuration = self._configuration
        sites = self._sites = self._site_factory(configuration, self._open_files)
        self._names = await self._listen("listen", configuration.listen, sites.chat, self._ports)
        if sites.legacy is not None:
            self._names |= await self._listen(
                "legacy-listen", configuration.legacy_listen, sites.legacy, self._legacy_ports
            )
        for site in sites.for_clients():
            site.hosts = self._hosts()
        if sites.metrics is not None:
            ports = self._metrics_ports
            served = await self._listen("metrics-listen", configuration.metrics_listen, sites.metrics, ports)
            sites.metrics.hosts = HostList.listening_on(served)
        self._log_addresses()
        self._memory_trimmer.start()
        self._started()

    async def _listen(
        self, option: str, descriptions: tuple[str, ...], site: RealtimeSite, ports: list[IListeningPort]
    ) -> set[str]:
        """Listen on endpoints, and give back the addresses."""
        served: set[str] = set()
        for description in descriptions:
            secure = Endpoint.parse(description).kind == "ssl"
            reactor = self._certificates.listener(description) if secure else self._reactor
            port = await listen(reactor, description, site, option)
            self._adjust_port(port)
            ports.append(port)
            served |= names(port, description)
        return served

    def _all_sites(self) -> list[RealtimeSite]:
        return [site for site in self._sites or () if site is not None]

    def _hosts(self) -> HostList:
        """The host names that are given, or else the addresses that are listened on."""
        hosts = self._configuration.hosts
        return HostList.listening_on((), hosts) if hosts else HostList.listening_on(self._names)

    # Going on with another configuration

    def reopen_logs(self) -> None:
        """Open the access logs again, after a rotation."""
        for site in self._all_sites():
            site.access_log.reopen()

    def reload(self, configuration: Configuration) -> bool:
        """Go on with another configuration, as far as that needs no restart, and with the files as they are now.

        :returns: whether a certificate differs.
        :raises ListenRefused: a certificate can't be used.
        :raises PageRefused: the page can't be served.
        :raises OSError: the access log can't be opened. In all cases nothing has changed.
        """
        changes = {name: getattr(configuration, name) for name in _RELOADED}
        configuration = attrs.evolve(self._configuration, **changes)
        take_certificates = self._certificates.read_again()
        if self._sites is not None:
            serve = self._site_factory.read_again(configuration, self._sites, self._open_files)
            for site in self._all_sites():
                site.access_log.move(configuration.access_log)
            serve()
        self._configuration = configuration
        if self._sites is not None:
            for site in self._sites.for_clients():
                site.hosts = self._hosts()
                site.check_again()
        if not self.hub.access.decides_like(configuration.access):
            self.hub.replace_access(configuration.access)
        self.hub.limiter.replace(configuration.rate_limits)
        return take_certificates()

    def ports(self) -> list[int]:
        """The TCP ports that are listened on, in the order of the configuration: for clients, old pages and metrics."""
        ports = self._all_ports()
        return [address.port for port in ports if hasattr(address := port.getHost(), "port")]

    def _all_ports(self) -> list[IListeningPort]:
        return self._ports + self._legacy_ports + self._metrics_ports

    def _log_addresses(self) -> None:
        self._log.info("realtime_chat {version}", version=__version__)
        for port, description in zip(self._ports, self._configuration.listen, strict=True):
            what = "chat page" if self._configuration.has_page else "listening"
            self._log.info("{what}: {url}", what=what, url=url(port, description))
        for port, description in zip(self._metrics_ports, self._configuration.metrics_listen, strict=True):
            self._log.info("metrics: {url}metrics", url=url(port, description))
        for port, description in zip(self._legacy_ports, self._configuration.legacy_listen, strict=True):
            room = self._configuration.legacy_room
            self._log.info("old pages: {url} in {room}", url=url(port, description), room=room)
        self._log_access()
        self._log_limits()

    def _log_limits(self) -> None:
        has_limits = self._configuration.rate_limits.address != ScopeLimits()
        text = self._configuration.trusted_proxies.describe() if has_limits else "none, as each of them is 0"
        self._log.info("limits by address: {text}", text=text)

    def _log_access(self) -> None:
        configuration = self._configuration
        who = (
            "this machine only" if all(map(is_local, self._ports + self._legacy_ports)) else "everyone who can reach it"
        )
        origins = ", ".join(configuration.origins) or "none"
        hosts = ", ".join(configuration.hosts) or "those of this machine"
        self._log.info(
            "open to: {who}; host names served: {hosts}; pages of other origins: {origins}; {guests}",
            guests=configuration.access.describe(),
            who=who,
            hosts=hosts,
            origins=origins,
        )

    # Stopping

    def stopService(self) -> Deferred[None]:
        """Accept no more connections, finish commits, answer polls, say goodbye, and close the store."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for port in self._all_ports():
            await _finish(self._reactor, port.stopListening())
        self.hub.stopping = True
        await _finish(self._reactor, self.hub.publisher.all_done())
        self.hub.stop()
        # A DeferredList, unlike gatherResults, ends without an error when the timeout cancels it.
        await _finish(self._reactor, DeferredList([site.stop() for site in self._all_sites()], consumeErrors=True))
        await _finish(self._reactor, self._broker.stop())
        await _finish(self._reactor, self._store.stop())
        self._memory_trimmer.stop()
        self._stop_reading()
        self.hub.wheel.stop()
        self._log.info("stopped")


async def _finish(reactor: Any, step: Awaitable[Any] | None) -> None:
    """Wait for one step of stopping, up to a timeout.

    A timeout or an error is logged, and not raised, so that the next steps are taken.
    """
    if not isinstance(step, Deferred):
        return
    try:
        await step.addTimeout(_STEP_TIMEOUT, reactor)
    except TimeoutError:
        RealtimeService._log.warn("stopping goes on without a step that took too long")
    except Exception:
        RealtimeService._log.failure("a step of stopping failed")


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard limit, as each connection is an open file.

    :returns: the limit from now on.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _make_directory(directory: Path) -> None:
    try:
        for parent in reversed([parent for parent in directory.parents if not parent.exists()]):
            parent.mkdir(mode=0o700, exist_ok=True)  # parents=True would give the parents the mode of the umask
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreRefused(
            f"the data directory {directory} can't be made ({error.strerror}); name another with --data-dir"
        ) from error
