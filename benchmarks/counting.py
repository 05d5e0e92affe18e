"""What counting costs: one session that publishes, in one process, counted and not counted in turn.

Two daemons can't tell it: they differ by more from run to run.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from typing import Any
from unittest.mock import patch

from twisted.internet.task import Clock

from benchmarks.wires import ROOM, text_of
from realtime_chat.broker.local import LocalBroker
from realtime_chat.composition import make_hub
from realtime_chat.core.command_session import CommandSession
from realtime_chat.store.memory import MemoryStore
from realtime_chat.store.retention import Retention
from realtime_chat.values.counters import Histogram
from realtime_chat.values.limits import Limits

__all__ = ["measure_counting"]

_A_TURN = 50
_HISTORY = 1000


class _Nowhere:
    """The sink of replies that nobody wants."""

    write_paused = False

    def buffer_reply(self, data: bytes) -> None:
        pass

    def flush_replies(self) -> None:
        pass

    def resume_commands(self) -> None:
        pass


def measure_counting(job: dict[str, Any]) -> dict[str, Any]:
    """Publish ``messages`` messages in each of ``rounds`` rounds, counted and not counted."""
    clock = Clock()
    store = MemoryStore(Retention(_HISTORY), time.time, os.urandom)
    hub = make_hub(store, clock, Limits(), time.time, os.urandom, LocalBroker())
    session = CommandSession(hub, None, _Nowhere())
    command = json.dumps({"type": "publish", "id": 1, "room": ROOM, "data": {"text": text_of()}}).encode()

    def publish() -> float:
        begun = time.thread_time()
        for _ in range(job["messages"] // _A_TURN):
            for _ in range(_A_TURN):
                session.receive(command)
            clock.advance(0)
        return (time.thread_time() - begun) * 1e6 / job["messages"]

    def publish_uncounted() -> float:
        with patch.object(Histogram, "observe", lambda histogram, value, times=1: None):
            return publish()

    pairs = [(publish(), publish_uncounted()) for _ in range(job["rounds"])]
    counted, uncounted = map(statistics.median, zip(*pairs, strict=True))
    return {"counted_us": counted, "uncounted_us": uncounted}
