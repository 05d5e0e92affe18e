"""Tests for :mod:`realtime_chat.http.monitoring` and :mod:`realtime_chat.values.counters`."""

from __future__ import annotations

import os
import time
from typing import Any

import treq
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from realtime_chat import __version__
from realtime_chat.broker.local import LocalBroker
from realtime_chat.composition import make_service
from realtime_chat.service import Configuration, RealtimeService
from realtime_chat.values.counters import Histogram
from realtime_chat.values.limits import Limits
from tests.clients import PollClient, SocketClient
from tests.transports.test_contract import ServedTestCase


class HistogramTests(SynchronousTestCase):
    """Values in buckets."""

    def test_buckets(self) -> None:
        """A value counts in the first bucket whose bound isn't below it, and in all after that."""
        histogram = Histogram((1, 10))
        for value in (0.5, 1, 1.5, 10, 11):
            histogram.observe(value)
        histogram.observe(2, 3)
        self.assertEqual([("1", 2), ("10", 7), ("+Inf", 8)], histogram.cumulative())
        self.assertEqual(30, histogram.total)


class MetricsTests(ServedTestCase):
    """A scrape of a daemon that does something."""

    def make_service(self) -> RealtimeService:
        loopback = "tcp:0:interface=127.0.0.1"
        configuration = Configuration((loopback,), limits=Limits(), metrics_listen=(loopback,))
        return make_service(reactor, self.store, LocalBroker(), configuration, time.time, os.urandom)

    async def scrape(self) -> dict[str, float]:
        response = await treq.get(f"http://127.0.0.1:{self.service.ports()[1]}/metrics", persistent=False)
        self.assertIn("text/plain", response.headers.getRawHeaders("Content-Type")[0])
        families = text_string_to_metric_families(await response.text())
        samples: dict[str, float] = {}
        for family in families:
            for sample in family.samples:
                label = " ".join(value for name, value in sorted(sample.labels.items()) if name != "le")
                samples[f"{sample.name} {label}".strip()] = sample.value
        return samples

    async def test_from_the_start(self) -> None:
        """What has not happened yet is told as 0, and the version that runs is told."""
        samples = await self.scrape()
        for name in (
            "realtime_sessions sse",
            "realtime_delivered_total websocket",
            "realtime_publish_errors_total store_unavailable",
            "realtime_publish_errors_total in_doubt",
            "realtime_limited_total commands client",
            "realtime_limited_total guests address",
            "realtime_limited_total polls address",
            "realtime_limited_total publishes room",
            "realtime_goodbyes_total slow",
            "realtime_resumes_total true",
            "realtime_resumes_total false",
        ):
            self.assertEqual(0, samples[name], name)
        self.assertEqual(1, samples[f"realtime_build_info {__version__}"])

    async def test_scrape(self) -> None:
        """Connections, messages, deliveries, latencies and resumes are told as they are."""
        reader = await self.started(SocketClient)
        poller = await self.started(PollClient)
        for number in range(5):
            await reader.publish(number, key=f"k{number}")
        await reader.publish(4, key="k4")
        await poller.count(5)
        await self.started(SocketClient, since=reader.position)
        await self.started(SocketClient, since="elsewhere:7")
        await self.until(lambda: self.service.hub.rooms["lobby"].live_count() == 4)
        samples = await self.scrape()
        expected: dict[str, Any] = {
            "realtime_sessions websocket": 3,
            "realtime_sessions poll": 1,
            "realtime_subscriptions live": 4,
            "realtime_subscriptions behind": 0,
            "realtime_published_total": 5,
            "realtime_duplicates_total": 1,
            "realtime_delivered_total poll": 5,
            "realtime_delivered_total websocket": 10,
            "realtime_publish_seconds_count": 6,
            "realtime_resumes_total false": 1,
            "realtime_queued_bytes": 0,
        }
        self.assertEqual(expected, {name: samples.get(name) for name in expected})
        self.assertGreaterEqual(samples["realtime_delivery_lag_seconds_count"], 5)
        self.assertIn("process_open_fds", samples)

    async def test_nothing_by_room_or_user(self) -> None:
        """No room and no user appears in what is told."""
        reader = await self.started(SocketClient, "a-room-with-this-name")
        await reader.publish("hi", key="a-key-with-this-name")
        text = " ".join(await self.scrape())
        self.assertNotIn("with-this-name", text)

    async def test_not_on_the_public_port(self) -> None:
        """Metrics are not where the rooms are."""
        response = await treq.get(f"http://127.0.0.1:{self.port}/metrics", persistent=False)
        self.assertEqual(404, response.code)
        await response.text()
