"""Properties: what a join costs with many of them, and what their changes cost their readers."""

from __future__ import annotations

import json
import socket
import time
from itertools import cycle
from typing import TYPE_CHECKING, Any

from benchmarks.dial import dial
from benchmarks.hotloop import WEBSOCKET
from benchmarks.wires import MARK, frame, join_ours, text_of

if TYPE_CHECKING:
    from benchmarks.generate import Bench

__all__ = ["measure_properties"]

_FULL, _PLAIN, _CHANGING = "full", "plain", "changing"
_NAMES = 25
"""Of which one after another is set."""


def measure_properties(bench: Bench, job: dict[str, Any]) -> dict[str, Any]:
    """What a join costs without and with properties; then what a delivery of a change costs."""
    (publisher,) = dial(bench.ports, 1, lambda number: join_ours(_PLAIN))
    publisher.socket.setblocking(True)
    for number in range(job["properties"]):
        _set(publisher.socket, _FULL, f"name{number}")
    bench.settle()
    figures = {"plain_us": _join(bench, job["clients"], _PLAIN), "full_us": _join(bench, job["clients"], _FULL)}
    for joined in dial(bench.ports, job["members"], lambda number: join_ours(_CHANGING, properties=True)):
        bench.read(joined, 0)
    bench.settle()
    with bench.measured(figures, WEBSOCKET):
        figures["changes"] = _change(bench, publisher.socket, job["rate"], job["seconds"])
    figures["lost"] = job["members"] - bench.loop.alive(WEBSOCKET)
    publisher.socket.close()
    return figures


def _join(bench: Bench, clients: int, room: str) -> float:
    """Microseconds of CPU that the server takes for a client that joins a room and leaves it."""
    cpu = bench.cpu()
    for joined in dial(bench.ports, clients, lambda number: join_ours(room, properties=room == _FULL)):
        joined.socket.close()
    bench.settle()
    return (bench.cpu() - cpu) * 1e6 / clients


def _change(bench: Bench, publisher: socket.socket, rate: float, seconds: float) -> int:
    """Set one property after another at a rate, and let the last changes arrive. Return how many were set."""
    changes, begun = 0, time.monotonic()
    for name in cycle(f"name{number}" for number in range(_NAMES)):
        while (due := begun + changes / rate - time.monotonic()) > 0:
            bench.loop.pump(int(due * 1000) + 1)
        if changes >= rate * seconds:
            break
        _set(publisher, _CHANGING, name)
        changes += 1
    bench.settle()
    return changes


def _set(publisher: socket.socket, room: str, name: str) -> None:
    """Set a property to a text that says when it was set."""
    text = text_of().replace(MARK.decode(), f"!{time.monotonic_ns():019}!")
    publisher.sendall(frame(json.dumps({"type": "set", "room": room, "name": name, "data": text})))
