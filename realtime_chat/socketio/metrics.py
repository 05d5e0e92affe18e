"""The metrics of an application."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from realtime_chat.socketio.application import Application
from realtime_chat.socketio.recovery import OUTCOMES

_COUNTERS = (
    ("packets", "Packets that clients sent.", "received"),
    ("refused", "Clients that a namespace refused.", "refused"),
    ("violations", "Connections closed as their client broke the protocol.", "violations"),
    ("acks_timed_out", "Acknowledgements that did not come in time.", "acks_timed_out"),
    ("method_errors", "Methods of namespaces that failed.", "method_errors"),
    ("relayed", "Events that other programs published in Redis.", "relayed"),
    ("relays_refused", "The same that can't be sent.", "relays_refused"),
)
"""The name of the metric, its help text, and where the application counts it."""


class ApplicationCollector(Collector):
    """Collects the metrics of an application at each scrape."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics."""
        counters = self._application.counters
        sockets = GaugeMetricFamily("realtime_socketio_sockets", "Connected Socket.IO sockets.", labels=["namespace"])
        for name, count in sorted(self._application.sockets_by_namespace().items()):
            sockets.add_metric([name], count)
        yield sockets
        for name, help, attribute in _COUNTERS:
            yield CounterMetricFamily(f"realtime_socketio_{name}", help, getattr(counters, attribute))
        recoveries = CounterMetricFamily(
            "realtime_socketio_recoveries", "Clients that came back to a recovery namespace.", labels=["outcome"]
        )
        for outcome in OUTCOMES:
            recoveries.add_metric([outcome], counters.recoveries[outcome])
        yield recoveries
        seconds = counters.method_seconds
        yield HistogramMetricFamily(
            "realtime_socketio_method_seconds",
            "From an event to the end of its method.",
            buckets=seconds.cumulative(),
            sum_value=seconds.total,
        )
