"""Tests for :mod:`realtime_chat.socketio.metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from realtime_chat.socketio import Namespace, TimedOut
from realtime_chat.socketio.metrics import ApplicationCollector
from tests.socketio.world import SocketIOWorld


class Failing(Namespace):
    """Has one method, which fails."""

    def on_fail(self) -> None:
        raise RuntimeError


class MetricTests(SocketIOWorld):
    """What a scrape shows."""

    def test_metrics(self) -> None:
        """Sockets are counted by the declared name, and what has happened by kind."""
        registry = CollectorRegistry()
        registry.register(ApplicationCollector(self.serve({"/": Failing, "/tenant-*": Failing})))
        client = self.connected("/", "/tenant-1", "/tenant-2")
        client.emit("fail")
        self.app.of("/tenant-1").call("question", timeout=1).addErrback(lambda failure: failure.trap(TimedOut))
        client.send("0/nope,")
        self.open().send("nonsense")
        self.clock.pump([0.25] * 8)
        value = registry.get_sample_value
        for namespace, count in (("/", 1), ("/tenant-*", 2)):
            self.assertEqual(count, value("realtime_socketio_sockets", {"namespace": namespace}))
        names = ("packets", "refused", "violations", "method_errors", "acks_timed_out")
        self.assertEqual([5, 1, 1, 1, 1], [value(f"realtime_socketio_{name}_total") for name in names])
        self.assertEqual(1, value("realtime_socketio_method_seconds_count"))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
