"""Plots of CPU a delivery and of latency; needs matplotlib, which the extra ``bench`` brings."""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib

from benchmarks.run import Outcome, Results

matplotlib.use("Agg")
from matplotlib import pyplot

__all__ = ["draw"]

_ROOM = "fan-out, a room of 1,000"
_SHARES = ("p50_ms", "p95_ms", "p99_ms")


def draw(results: Results, directory: Path) -> list[Path]:
    """Draw what was measured; answer the files."""
    room = {name: outcome for name, outcome in results.get(_ROOM, {}).items() if outcome.runs}
    if not room:
        return []
    return [_draw_cpu(room, directory / "cpu.svg"), _draw_latency(room, directory / "latency.svg")]


def _median(outcome: Outcome, *path: str) -> float:
    return statistics.median(outcome.values(path) or [0.0])


def _draw_cpu(room: dict[str, Outcome], path: Path) -> Path:
    figure, axes = pyplot.subplots(figsize=(8, 0.45 * len(room) + 1.2))
    costs = [_median(outcome, "1 in flight", "cpu_us") for outcome in room.values()]
    axes.bar_label(axes.barh(list(room), costs), fmt="%.1f", padding=3)
    axes.set(xscale="log", xlim=(1, max(costs) * 2 + 1), xlabel="µs CPU a delivery; 1,000 subscribers, 1 in flight")
    return _save(figure, axes, path)


def _draw_latency(room: dict[str, Outcome], path: Path) -> Path:
    figure, axes = pyplot.subplots(figsize=(8, 0.45 * len(room) + 1.2))
    for share in _SHARES:
        times = [_median(outcome, "40 a second", share) for outcome in room.values()]
        axes.plot(times, list(room), "o", label=share.removesuffix("_ms"))
    axes.set(xscale="log", xlabel="latency in ms; 1,000 subscribers, 40 messages a second")
    axes.legend()
    return _save(figure, axes, path)


def _save(figure: pyplot.Figure, axes: pyplot.Axes, path: Path) -> Path:
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
    return path
