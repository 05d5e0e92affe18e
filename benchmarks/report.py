"""The results, as Markdown and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks import machine
from benchmarks.goals import Verdict, judge
from benchmarks.run import Outcome, Results
from benchmarks.scenarios import Column, Measurement
from benchmarks.servers import (
    AS_IT_IS,
    OURS,
    OURS_DEFAULTS,
    OURS_DURABLE,
    OURS_SOCKET_IO,
    OURS_UNLIMITED,
    SERVERS,
)

__all__ = ["as_json", "as_markdown", "remarks"]

_BUSY = 0.9
"""The share of its core above which the generator may have been the bottleneck."""

_BASES = (OURS, OURS_DURABLE, OURS_DEFAULTS, OURS_UNLIMITED, OURS_SOCKET_IO, AS_IT_IS)
"""The servers to which the others of a table are compared."""

_TROUBLES = ("lost", "disordered", "refused", "gone")


def as_markdown(measurements: Iterable[Measurement], results: Results, runs: int) -> str:
    """Goals first, then a table for each measurement."""
    where = machine.describe()
    parts = [
        "# Benchmark results",
        f"{where['processor']}, {where['cores']} cores, {where['kernel']}, Python {where['python']}; server and "
        f"generator on cores of their own; medians of {runs} alternating runs. `docs/performance.rst` says how to read "
        "them.",
        *_goals(judge(results)),
    ]
    for measurement in measurements:
        parts += _measurement(measurement, results[measurement.title])
    parts += ["## Versions", "\n".join(_versions(results))]
    return "\n\n".join(parts) + "\n"


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" + "|---:" * (len(rows[0]) - 1) + "|")
    return "\n".join(lines)


def _goals(verdicts: list[Verdict]) -> Iterator[str]:
    if not verdicts:
        return
    yield "## Goals"
    rows = [["what", "goal", "measured", "met"]]
    for goal, measured, met in verdicts:
        bound = "at most" if goal.most else "at least"
        limit, value = (f"{_number(number)} {goal.unit}".strip() for number in (goal.limit, measured))
        rows.append([goal.what, f"{bound} {limit}", value, "yes" if met else "**no**"])
    yield _table(rows)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}".rstrip("0").rstrip(".") or "0"


def _measurement(measurement: Measurement, outcomes: dict[str, Outcome]) -> Iterator[str]:
    yield f"## {measurement.title[0].upper()}{measurement.title[1:]}"
    if measurement.remark:
        yield measurement.remark
    base = _base(measurement.columns[0], outcomes)
    rows = [["server", *(column.title for column in measurement.columns), "first figure to ours"]]
    notes = []
    for name, outcome in outcomes.items():
        rows.append(
            [name, *(_cell(column, outcome) for column in measurement.columns), _ratio(base, outcome, measurement)]
        )
        notes += [f"* {name}: {remark}" for remark in remarks(outcome)]
    yield _table(rows)
    if notes:
        yield "\n".join(notes)


def _base(column: Column, outcomes: dict[str, Outcome]) -> float | None:
    """This daemon's figure; with the store that is named first, where there are two."""
    for name, outcome in outcomes.items():
        values = outcome.values(column.path) if name in _BASES else []
        if values:
            return statistics.median(values)
    return None


def _cell(column: Column, outcome: Outcome) -> str:
    values = outcome.values(column.path)
    return f"{statistics.median(values):,.{column.digits}f}" if values else "–"


def _ratio(base: float | None, outcome: Outcome, measurement: Measurement) -> str:
    """The first column, against this daemon's."""
    values = outcome.values(measurement.columns[0].path)
    return f"{statistics.median(values) / base:.2f}" if values and base else "–"


def remarks(outcome: Outcome) -> list[str]:
    """What has to be known about a server's figures: losses, and a generator that had no time left."""
    found = [outcome.why] if outcome.why else []
    for name in _TROUBLES:
        worst = max((max(_all(run, name), default=0) for run in outcome.runs), default=0)
        if worst:
            found.append(f"{name}: up to {worst:,.0f} in one run")
    share = max((max(_all(run, "generator_share"), default=0) for run in outcome.runs), default=0)
    if share > _BUSY:
        found.append(f"the generator was busy for up to {share:.0%}, and may have been the bottleneck")
    return found


def _all(figures: dict[str, Any], name: str) -> list[float]:
    """A figure, of all phases of a run."""
    found = [figures[name]] if name in figures else []
    for value in figures.values():
        if isinstance(value, dict):
            found += _all(value, name)
    return found


def _versions(results: Results) -> Iterator[str]:
    names = {name for outcomes in results.values() for name, outcome in outcomes.items() if outcome.runs}
    for name in SERVERS:
        if name in names and SERVERS[name].version():
            yield f"* {name}: {SERVERS[name].version()}"


def as_json(results: Results) -> dict[str, Any]:
    """Everything that was measured, run by run."""
    return {
        "machine": machine.describe(),
        "goals": [
            {
                "what": goal.what,
                "goal": goal.limit,
                "unit": goal.unit,
                "at_most": goal.most,
                "measured": value,
                "met": met,
            }
            for goal, value, met in judge(results)
        ],
        "results": {
            title: {name: {"runs": outcome.runs, "remarks": remarks(outcome)} for name, outcome in outcomes.items()}
            for title, outcomes in results.items()
        },
    }
