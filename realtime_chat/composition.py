"""The composition root: the parts of one daemon are built here, and given to each other.

``tap.py`` chooses a store and a broker by the options; everything else is made here. Tests make their daemons here too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime

from realtime_chat.clock import time_steadily
from realtime_chat.core.access import AccessPolicy
from realtime_chat.core.catch_up import CatchUpScheduler
from realtime_chat.core.hub import Hub
from realtime_chat.core.identity import Identities
from realtime_chat.core.interfaces import IBroker, IMessageStore
from realtime_chat.core.node import Node
from realtime_chat.core.publishing import Publisher
from realtime_chat.core.rate_limiter import RateLimiter
from realtime_chat.core.room_cache import RoomCache
from realtime_chat.core.turns import Turns
from realtime_chat.core.user_sessions import UserSessions
from realtime_chat.engineio.settings import Settings
from realtime_chat.http.answers import JSONResource
from realtime_chat.http.channel import RealtimeChannel
from realtime_chat.http.client_address import ClientAddresses
from realtime_chat.http.commands import CommandsResource
from realtime_chat.http.embedding import EmbeddingResource
from realtime_chat.http.fast_channel import FastChannel
from realtime_chat.http.monitoring import HealthResource, MetricsResource, ReadinessResource, make_registry
from realtime_chat.http.origins import OriginPolicy
from realtime_chat.http.rooms import RoomsResource
from realtime_chat.http.site import RealtimeSite
from realtime_chat.http.static_files import LIBRARY, PageRefused, put_library, put_page
from realtime_chat.legacy.poll import LegacyResource
from realtime_chat.legacy.websocket import LegacyWebSocketResource
from realtime_chat.presence.presence import Presence
from realtime_chat.service import Configuration, RealtimeService, Sites
from realtime_chat.socketio.metrics import ApplicationCollector
from realtime_chat.socketio.resource import Mount, SocketIOResource
from realtime_chat.transports.fast.choice import FAST, SocketIO, SocketReader
from realtime_chat.transports.poll import PollResource
from realtime_chat.transports.sse import EventsResource
from realtime_chat.transports.websocket import WebSocketResource
from realtime_chat.values.access import Claims
from realtime_chat.values.limits import Limits
from realtime_chat.values.rates import RateLimits

_SPARE_FILES = 64
"""Open files that are kept for the store, the logs and the reactor."""


def make_service(
    reactor: Any,
    store: IMessageStore,
    broker: IBroker,
    configuration: Configuration,
    time: Callable[[], float],
    random_bytes: Callable[[int], bytes],
    give_up: Callable[[str], None] | None = None,
    started: Callable[[], None] = lambda: None,
    starting: Callable[[RealtimeService], None] = lambda service: None,
    io: SocketIO = FAST,
    node: str | None = None,
) -> RealtimeService:
    """Build a daemon. Nothing is opened before it is started.

    :param reactor: its clock doesn't step from now on; see :func:`~realtime_chat.clock.time_steadily`.
    :param time: seconds since 1970, for people.
    :param random_bytes: so many random bytes.
    :param give_up: see :class:`~realtime_chat.service.RealtimeService`, as for the two that follow.
    :param io: how bytes get to sockets and come from them.
    :param node: see :func:`make_hub`.
    """
    time_steadily(reactor)
    tokens = configuration.access, configuration.verify, configuration.token_keys
    limits, rates = configuration.limits, configuration.rate_limits
    hub = make_hub(store, reactor, limits, time, random_bytes, broker, node, *tokens, rates)
    socket_reader = io.make_reader(reactor)
    site_maker = _SiteMaker(reactor, hub, store, broker, time, random_bytes, io, socket_reader)
    return RealtimeService(
        reactor,
        store,
        broker,
        hub,
        configuration,
        site_maker,
        io.accept_few,
        socket_reader.close,
        give_up=give_up,
        started=started,
        starting=starting,
    )


def make_hub(
    store: IMessageStore,
    clock: IReactorTime,
    limits: Limits,
    time: Callable[[], float],
    random_bytes: Callable[[int], bytes],
    broker: IBroker,
    node: str | None = None,
    access: AccessPolicy | None = None,
    verify: Callable[[str], Claims] | None = None,
    token_keys: Callable[[], frozenset[str]] = frozenset,
    rate_limits: RateLimits | None = None,
) -> Hub:
    """Build a hub, and what it is made of. The hub listens to nothing before the broker is started.

    :param time: seconds since 1970; orders nothing.
    :param random_bytes: so many random bytes.
    :param node: its name, up to 16 hexadecimal digits; see :class:`~realtime_chat.core.node.Node`. None draws one.
    :param access: see :class:`~realtime_chat.service.Configuration`, as for the three that follow; None is open.
    :param rate_limits: None for no limits.
    """
    shared = Node(node or random_bytes(4).hex(), clock, time, limits)
    identities = Identities(lambda: store.secret, random_bytes, time, token_keys)
    users = UserSessions(shared, identities, token_keys)
    presence = Presence(shared, broker)
    cache = RoomCache(shared, store, broker, CatchUpScheduler(shared), presence)
    publisher = Publisher(shared, store, cache.announce)
    policy = AccessPolicy() if access is None else access
    limiter = RateLimiter(shared, rate_limits or RateLimits())
    return Hub(shared, store, broker, identities, policy, users, verify, presence, cache, publisher, limiter)


@attrs.frozen
class _SiteMaker:
    """Makes the HTTP sites of one daemon when it starts: only then are pages read, and the limit of files is known."""

    reactor: Any
    hub: Hub
    store: IMessageStore
    broker: IBroker
    time: Callable[[], float]
    random_bytes: Callable[[int], bytes]
    io: SocketIO
    socket_reader: SocketReader
    _own: dict[bytes, JSONResource] = attrs.field(init=False, factory=dict)

    def __call__(self, configuration: Configuration, open_files: int) -> Sites:
        """Make the sites.

        :param open_files: how many files the process may have open.
        :raises PageRefused: the page at ``/`` can't be served.
        """
        turns = Turns(self.reactor, monotonic)
        self._own.update(self._own_resources(configuration, turns))
        root, public = _tree(configuration, self._own)
        limiter = self.hub.limiter
        chat = self._site(configuration, root, turns, open_files, public, limiter)
        metrics = legacy = None
        if configuration.metrics_listen:
            metrics = self._site(configuration, self._metrics_resources(configuration), turns, open_files)
        if configuration.legacy_listen:
            resources = self._legacy_resources(configuration, turns)
            legacy = self._site(configuration, resources, turns, open_files, limiter=limiter)
            chat.count_with(legacy)
        return Sites(chat, metrics, legacy)

    def read_again(self, configuration: Configuration, sites: Sites, open_files: int) -> Callable[[], None]:
        """Read again what the site for clients serves.

        :returns: a function that makes the sites go on with that, and with the configuration.
        :raises PageRefused: the page at ``/`` can't be served.
        """
        root, public = _tree(configuration, self._own)

        def serve() -> None:
            sites.chat.resource = root
            for site in sites.for_clients():
                site.origins = OriginPolicy(configuration.origins, public)
            for site in filter(None, sites):
                site.max_connections = _most_connections(configuration, open_files)
                site.trust(configuration.trusted_proxies)

        return serve

    def _site(
        self,
        configuration: Configuration,
        root: JSONResource,
        turns: Turns,
        open_files: int,
        public: frozenset[bytes] = frozenset(),
        limiter: RateLimiter | None = None,
    ) -> RealtimeSite:
        return RealtimeSite(
            root,
            self.reactor,
            self.hub.wheel,
            configuration.limits,
            self.io,
            FastChannel if self.io.fast_requests else RealtimeChannel,
            OriginPolicy(configuration.origins, public),
            self.time,
            max_connections=_most_connections(configuration, open_files),
            turns=turns,
            read=self.socket_reader.adopt,
            access_log=configuration.access_log,
            client_addresses=ClientAddresses(configuration.trusted_proxies),
            limiter=limiter,
        )

    def _metrics_resources(self, configuration: Configuration) -> JSONResource:
        root = JSONResource()
        registry = make_registry(self.hub, self.store, self.broker)
        if configuration.socketio is not None:
            registry.register(ApplicationCollector(configuration.socketio.application))
        root.putChild(b"metrics", MetricsResource(registry))
        return root

    def _legacy_resources(self, configuration: Configuration, turns: Turns) -> JSONResource:
        hub, room, root = self.hub, configuration.legacy_room, JSONResource()
        root.putChild(b"", LegacyResource(hub, room))
        compress = configuration.compress
        root.putChild(b"ws", LegacyWebSocketResource(self.reactor, hub, compress, turns, self.io, room))
        return root

    def _socketio(self, mount: Mount, configuration: Configuration, turns: Turns) -> SocketIOResource:
        settings = Settings(max_payload=configuration.limits.max_message, eio3=mount.eio3, jsonp=configuration.jsonp)
        script = None if mount.script is None else _read_script(mount.script)
        application, random_bytes = mount.application, self.random_bytes
        return SocketIOResource(application, self.hub, settings, self.reactor, turns, random_bytes, self.io, script)

    def _own_resources(self, configuration: Configuration, turns: Turns) -> Mapping[bytes, JSONResource]:
        hub, jsonp = self.hub, configuration.jsonp
        mount = configuration.socketio
        return {
            **({} if mount is None else {mount.path.encode(): self._socketio(mount, configuration, turns)}),
            b"ws": WebSocketResource(self.reactor, hub, configuration.compress, turns, self.io),
            b"poll": PollResource(hub, jsonp),
            b"sse": EventsResource(hub, partial(_random_fraction, self.random_bytes), self.io),
            b"commands": CommandsResource(hub, jsonp, turns),
            b"rooms": RoomsResource(hub),
            b"healthz": HealthResource(),
            b"readyz": ReadinessResource(hub),
        }


def _read_script(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise PageRefused(f"--socket-io-script: {path!r} can't be read ({error.strerror})") from error


def _most_connections(configuration: Configuration, open_files: int) -> int:
    return configuration.max_connections or max(1, open_files - _SPARE_FILES)


def _tree(configuration: Configuration, own: Mapping[bytes, JSONResource]) -> tuple[JSONResource, frozenset[bytes]]:
    """The tree of resources, and the paths in it that pages of every origin may read.

    :param own: what stands there besides the page and the library.
    """
    root = JSONResource() if configuration.site is None else EmbeddingResource(configuration.site)
    hashed = put_library(root)
    if configuration.site is None:
        put_page(root, configuration.page, {LIBRARY: hashed}, configuration.token_url)
    for path, child in own.items():
        if path in root.children:
            raise PageRefused(f"the page's {path.decode()!r} stands in the way of the daemon's own; call it otherwise")
        root.putChild(path, child)
    return root, frozenset(f"/{name}".encode() for name in (LIBRARY, hashed))


def _random_fraction(random_bytes: Callable[[int], bytes]) -> float:
    """A random number from 0 up to 1."""
    return int.from_bytes(random_bytes(4), "big") / 2**32
