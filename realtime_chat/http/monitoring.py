"""What a monitoring system asks: ``/healthz``, ``/readyz`` and, in Prometheus's text format, ``/metrics``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from twisted.web.server import Request

from realtime_chat import __version__
from realtime_chat.core.hub import Hub
from realtime_chat.http.answers import Answer, JSONResource
from realtime_chat.values.counters import Histogram
from realtime_chat.values.errors import GOODBYES
from realtime_chat.values.json import encode_value
from realtime_chat.values.rates import LIMITED

# Counters start at 0 with all their labels, so that the first event is an increase.
_TRANSPORTS = dict.fromkeys(("legacy_poll", "legacy_websocket", "poll", "sse", "websocket"), 0)
_REASONS = dict.fromkeys(GOODBYES, 0)
_CODES = dict.fromkeys(
    ("in_doubt", "internal", "key_reused", "out_of_order", "rate_limited", "stopping", "store_unavailable", "too_many"),
    0,
)
_LIMITED = {(scope, kind): 0 for scope, kinds in LIMITED.items() for kind in kinds}
_ENGINEIO = {(transport, version): 0 for transport in ("polling", "websocket") for version in ("3", "4")}
_ENGINEIO_COUNTERS = (
    ("closed", "Engine.IO connections closed.", "reason", ("ping timeout", "slow", "transport close")),
    ("refused", "Requests that Engine.IO refused.", "code", tuple("012345")),
    ("upgrades", "Attempts to go on over a WebSocket.", "outcome", ("failed", "upgraded")),
)
"""Counters of Engine.IO: the end of the metric's name, its help text, its label, and values that are there at once."""

_COUNTERS = (
    ("published", "Messages and changes of properties stored.", "published"),
    ("duplicates", "Publishes repeated under their key.", "duplicates"),
    ("store_reads", "Pages read from the store for readers.", "reads"),
    ("presence_events", "Presence events handed to transports.", "presence"),
    ("signals", "Signals sent by clients.", "signals"),
    ("signals_delivered", "Signals handed to transports.", "signals_delivered"),
    ("signals_dropped", "Signals for readers who were behind.", "signals_dropped"),
    ("relayed", "Relayed publications of other programs.", "relayed"),
    ("relays_refused", "The same that were no JSON, or too large.", "relays_refused"),
    ("rooms_refused", "Rooms that were one too many in memory.", "rooms_refused"),
)
"""Counters without labels: the name of the metric, its help text, and where the hub counts it."""


class _HubCollector(Collector):
    """Collects the metrics of the hub, its store and its broker at each scrape."""

    def __init__(self, hub: Hub, store: Any, broker: Any) -> None:
        self._hub = hub
        self._commits = getattr(store, "commits", None)
        self._links = [link for owner in (store, broker) for link in getattr(owner, "links", ())]
        self._broker = broker if hasattr(broker, "counters") else None

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics."""
        yield _gauges("realtime_build_info", "The version that runs.", "version", {__version__: 1.0})
        yield from self._session_metrics()
        yield from self._message_metrics()
        yield from self._engineio_metrics()
        if self._commits is not None:
            yield from self._commit_metrics(self._commits)
        if self._links:
            yield from self._connection_metrics({link.name: link for link in self._links})
        if self._broker is not None:
            yield from self._broker_metrics(self._broker)

    def _session_metrics(self) -> Iterator[Metric]:
        transports = [session.transport for session in self._hub.sessions if session.transport is not None]
        kinds = {**_TRANSPORTS, **Counter(transport.fanout.name for transport in transports)}
        yield _gauges("realtime_sessions", "Connected clients and waiting polls.", "transport", kinds)
        rooms = self._hub.rooms.values()
        live = sum(room.live_count() for room in rooms)
        states = {"live": live, "behind": sum(room.reader_count for room in rooms) - live}
        yield _gauges("realtime_subscriptions", "Cursors of clients in rooms.", "state", states)
        members = sum(len(membership.members) for membership in self._hub.presence.memberships.values())
        yield GaugeMetricFamily("realtime_members", "Users in rooms, counted once in each room.", members)
        yield GaugeMetricFamily("realtime_rooms", "Rooms in memory.", len(rooms))
        tails = sum(room.tail.size for room in rooms)
        yield GaugeMetricFamily("realtime_tail_bytes", "Bytes of messages kept in memory for readers.", tails)
        properties = self._hub.cache.property_bytes
        yield GaugeMetricFamily(
            "realtime_property_bytes", "Bytes of properties kept in memory for readers.", properties
        )
        queued = sum(transport.queued for transport in transports)
        yield GaugeMetricFamily("realtime_queued_bytes", "Bytes that wait for clients to read.", queued)
        goodbyes = self._hub.counters.goodbyes
        yield _counters("realtime_goodbyes", "Connections closed by this server.", "reason", {**_REASONS, **goodbyes})

    def _message_metrics(self) -> Iterator[Metric]:
        counts = self._hub.counters
        for name, help, count in _COUNTERS:
            yield CounterMetricFamily(f"realtime_{name}", help, getattr(counts, count))
        yield _counters("realtime_publish_errors", "Publishes refused.", "code", {**_CODES, **counts.publish_errors})
        yield _counters(
            "realtime_delivered",
            "Messages and properties handed to transports.",
            "transport",
            {**_TRANSPORTS, **counts.delivered},
        )
        yield _histogram("realtime_publish_seconds", "From a publish to its answer.", counts.publish_seconds)
        yield _histogram("realtime_delivery_lag_seconds", "From announcement to sending.", counts.lag_seconds)
        limited = CounterMetricFamily("realtime_limited", "What limits have refused.", labels=["scope", "kind"])
        yield _labelled(limited, {**_LIMITED, **counts.limited})
        resumes = {str(recovered).lower(): counts.resumes[recovered] for recovered in (False, True)}
        yield _counters("realtime_resumes", "Readers who came with a position.", "recovered", resumes)

    def _engineio_metrics(self) -> Iterator[Metric]:
        counts = self._hub.counters
        labels = ["transport", "version"]
        open_now = GaugeMetricFamily("realtime_engineio_connections", "Open Engine.IO connections.", labels=labels)
        yield _labelled(open_now, {**_ENGINEIO, **counts.engineio_connections})
        for name, help, label, values in _ENGINEIO_COUNTERS:
            counted = {**dict.fromkeys(values, 0), **getattr(counts, f"engineio_{name}")}
            yield _counters(f"realtime_engineio_{name}", help, label, counted)

    def _commit_metrics(self, commits: Any) -> Iterator[Metric]:
        yield _histogram("realtime_commit_messages", "Messages in one commit.", commits.sizes)
        yield CounterMetricFamily("realtime_store_errors", "Commits that failed.", commits.failed)

    def _connection_metrics(self, links: Mapping[str, Any]) -> Iterator[Metric]:
        connected = {name: float(link.ready) for name, link in links.items()}
        yield _gauges("realtime_redis_connected", "Whether a connection to Redis can be used.", "link", connected)
        for count, help in (
            ("losses", "Connections to Redis that were lost while in use."),
            ("commands", "Commands sent to Redis."),
            ("failures", "Commands that could not be sent, or were not answered."),
            ("errors", "Commands that Redis answered with an error."),
        ):
            values = {name: getattr(link.counters, count) for name, link in links.items()}
            yield _counters(f"realtime_redis_{count}", help, "link", values)

    def _broker_metrics(self, broker: Any) -> Iterator[Metric]:
        heard = len(broker.subscriptions)
        yield GaugeMetricFamily("realtime_redis_subscriptions", "Channels in Redis that are heard.", heard)
        for count, help in (
            ("announcements", "Announcements of messages that came from Redis."),
            ("signals", "Signals that came from other nodes."),
            ("signals_dropped", "Signals that other nodes were not told."),
            ("malformed", "Publications on the nodes' own channels that no node could have made."),
            ("deaf", "Connections to Redis that were given up as they brought nothing any more."),
        ):
            yield CounterMetricFamily(f"realtime_redis_{count}", help, getattr(broker.counters, count))


def _gauges(name: str, help: str, label: str, values: Mapping[str, float]) -> Metric:
    return _labelled(GaugeMetricFamily(name, help, labels=[label]), values)


def _counters(name: str, help: str, label: str, values: Mapping[str, float]) -> Metric:
    return _labelled(CounterMetricFamily(name, help, labels=[label]), values)


def _labelled(family: Any, values: Mapping[Any, float]) -> Metric:
    for key in sorted(values):
        family.add_metric([key] if isinstance(key, str) else key, values[key])
    metric: Metric = family
    return metric


def _histogram(name: str, help: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, help, buckets=histogram.cumulative(), sum_value=histogram.total)


def make_registry(hub: Hub, store: Any, broker: Any = None) -> CollectorRegistry:
    """Make a registry with the metrics of the hub, its store, its broker, the process and its garbage collector."""
    registry = CollectorRegistry()
    registry.register(_HubCollector(hub, store, broker))
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


class MetricsResource(JSONResource):
    """Answers scrapes."""

    isLeaf = True

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._registry = registry

    def render_GET(self, request: Request) -> Answer:
        """Give all metrics in Prometheus's text format."""
        return Answer(generate_latest(self._registry), 200, CONTENT_TYPE_LATEST.encode())


class HealthResource(JSONResource):
    """Answers with the daemon's version, as long as the process runs."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        return encode_value({"status": "ok", "version": __version__})


class ReadinessResource(JSONResource):
    """Answers ok while messages can be stored and the daemon is not stopping."""

    isLeaf = True

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self._hub = hub

    async def render_GET(self, request: Request) -> bytes:
        self._hub.check_open()
        await self._hub.check_store()
        return encode_value({"status": "ok"})
