"""A healthy client, in a process of its own: ``python -m tests.functional.healthy_client PORT PID …``.

It publishes to its room over a WebSocket at a fixed rate, whether earlier messages have arrived or not. It reads the
room over that WebSocket and by polls. What it measures is the daemon's doing: time in which the daemon, its store or
the client itself was ready to go on and had no processor isn't counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.deadlines import RunDelay, stolen_seconds
from tests.functional.attackers import upgrade
from tests.functional.raw_clients import RawHTTP, RawWebSocket
from tests.functional.worker_process import WorkerProcess, serve

__all__ = ["HealthyClient"]

_ROOM = "healthy"
_SECONDS_BETWEEN = 0.02


class _Since(NamedTuple):
    """A moment.

    :ivar at: the monotonic clock.
    :ivar served: how long the daemon and its store had waited for a processor until then.
    :ivar own: how long this process had.
    :ivar stolen: how long the hypervisor had taken processors.
    """

    at: float
    served: float
    own: float
    stolen: float


class _HealthyWorker:
    """The client in the process.

    :param servers: the processes of the daemon and its store.
    :ivar sent: when each message was sent, by its key.
    :ivar missing: by reader, the keys that have not arrived yet.
    :ivar delays: seconds from a publish to each reader.
    :ivar lags: seconds by which this process itself was late; they show how busy the machine is.
    """

    def __init__(self, port: int, servers: Sequence[int]) -> None:
        self.port = port
        self._delays = RunDelay(*servers), RunDelay(os.getpid())
        self.sent: dict[str, _Since] = {}
        self.missing: dict[str, set[str]] = {"websocket": set(), "poll": set()}
        self._next = dict.fromkeys(self.missing, 0)
        self.delays: list[float] = []
        self.lags: list[float] = []
        self.wrong: list[str] = []

    async def start(self) -> dict[str, Any]:
        """Join the room, and begin to publish."""
        self._joined = asyncio.Event()
        self._connection = await RawWebSocket.connect(self.port, upgrade().encode(), self._take)
        self._connection.send(json.dumps({"type": "join", "room": _ROOM, "last": 0}).encode())
        await self._joined.wait()
        polling = asyncio.Event()
        self._tasks = [asyncio.create_task(self._poll(polling)), asyncio.create_task(self._publish(polling))]
        await polling.wait()
        return {}

    async def _publish(self, polling: asyncio.Event) -> None:
        await polling.wait()
        due = time.monotonic()
        while True:
            self.lags.append(time.monotonic() - due)
            key = f"b-{len(self.sent)}"
            self.sent[key] = self._now()
            for keys in self.missing.values():
                keys.add(key)
            self._connection.send(json.dumps({"type": "publish", "room": _ROOM, "data": 1, "key": key}).encode())
            due = max(due + _SECONDS_BETWEEN, time.monotonic())  # late publishes are not made up for
            await asyncio.sleep(due - time.monotonic())

    def _now(self) -> _Since:
        return _Since(time.monotonic(), *(delay.seconds() for delay in self._delays), stolen_seconds())

    def _delay(self, since: _Since, now: _Since) -> float:
        """How much of the time is the daemon's doing: first this process needs a processor, then the daemon, then this
        one again.
        """
        waited = now.served - since.served + now.own - since.own + now.stolen - since.stolen
        return max(0.0, now.at - since.at - waited)

    def _take(self, payload: bytes) -> None:
        event = json.loads(payload)
        self._joined.set()
        self._got("websocket", event)

    def _got(self, reader: str, event: dict[str, Any]) -> None:
        if event["type"] == "message" and event["key"] in self.missing[reader]:
            self.missing[reader].remove(event["key"])
            self._check_order(reader, event["key"])
            self.delays.append(self._delay(self.sent[event["key"]], self._now()))
        elif event["type"] not in ("joined", "published", "presence"):
            self.wrong.append(f"{reader}: {event}")

    def _check_order(self, reader: str, key: str) -> None:
        """Nothing is left out, and nothing comes after what was sent later."""
        before, self._next[reader] = self._next[reader], self._next[reader] + 1
        if key != f"b-{before}":
            self.wrong.append(f"{reader}: {key} came in the place of b-{before}")

    async def _poll(self, polling: asyncio.Event) -> None:
        raw, query, headers = RawHTTP(self.port), "last=0", ()
        while True:
            status, body = await raw.ask("GET", f"/poll?room={_ROOM}&{query}", b"", *headers)
            answer = json.loads(body)
            if status != 200:
                self.wrong.append(f"poll: {answer}")
                await asyncio.sleep(1)
                continue
            for event in answer["events"]:
                self._got("poll", event)
            query = f"since={answer['positions'][_ROOM]}&presence={answer['presence'][_ROOM]}"
            headers = (f"Realtime-Client: {answer['client']}",)
            polling.set()

    async def figures(self) -> dict[str, Any]:
        """Report what was measured since the last report, and begin anew.

        ``p99`` and ``lag`` are 99th percentiles in milliseconds; delays that are not over yet count. ``wrong`` lists
        unexpected events.
        """
        for task in self._tasks:
            if task.done():
                self.wrong.append(repr(task.exception()))
        now = self._now()
        under_way = [self._delay(self.sent[key], now) for keys in self.missing.values() for key in keys]
        late = [delay for delay in under_way if delay > 0.25]
        figures = {"p99": _p99(self.delays + late), "lag": _p99(self.lags), "wrong": self.wrong[:5]}
        self.wrong, self.delays, self.lags = [], [], []
        return figures


def _p99(seconds: list[float]) -> float:
    """The 99th percentile in milliseconds; a day if there are no values."""
    return 1000 * (sorted(seconds)[int(len(seconds) * 0.99)] if seconds else 86_400.0)


class HealthyClient(WorkerProcess):
    """A healthy client, as the test sees it."""

    def __init__(self, port: int, *servers: int) -> None:
        super().__init__("tests.functional.healthy_client", str(port), *map(str, servers))


if __name__ == "__main__":
    serve(_HealthyWorker(int(sys.argv[1]), [int(process) for process in sys.argv[2:]]))
