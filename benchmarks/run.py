"""Runs scenarios: server after server, again and again, so that what the machine does meanwhile hits all alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import machine
from benchmarks.installs import missing
from benchmarks.scenarios import Measurement
from benchmarks.servers import CHECKOUT, SERVERS, Running, Server, running, scratch

__all__ = ["Outcome", "Results", "measure"]

_LONGEST = 300.0
"""Seconds for one job."""

Figures = dict[str, Any]


class Outcome:
    """What a measurement has shown of one server.

    :ivar runs: the figures of each run.
    :ivar why: why there are none, or fewer; empty where nothing went wrong.
    """

    def __init__(self) -> None:
        self.runs: list[Figures] = []
        self.why = ""

    def values(self, path: tuple[str, ...]) -> list[float]:
        """One figure of each run."""
        found = (_dig(run, path) for run in self.runs)
        return [value for value in found if value is not None]


Results = dict[str, dict[str, Outcome]]
"""By measurement and server."""


def _dig(figures: Figures, path: tuple[str, ...]) -> float | None:
    value: Any = figures
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def measure(
    measurements: Iterable[Measurement], only: Callable[[str], bool], runs: int, say: Callable[[str], None]
) -> Results:
    """Run each measurement ``runs`` times on each of its servers, alternating."""
    results: Results = {}
    for measurement in measurements:
        servers = [SERVERS[name] for name in measurement.servers if only(name)]
        outcomes = results[measurement.title] = {server.name: Outcome() for server in servers}
        for run in range(runs):
            for server in servers:
                say(f"{measurement.title}: {server.name}, run {run + 1} of {runs}")
                _run(measurement, server, outcomes[server.name], say)
    return results


def _run(measurement: Measurement, server: Server, outcome: Outcome, say: Callable[[str], None]) -> None:
    lacking = missing(server)
    if lacking:
        outcome.why = "missing: " + ", ".join(lacking)
    elif not outcome.why:
        try:
            outcome.runs.append(_measure_once(measurement, server))
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            outcome.why = f"failed: {error}"
    if outcome.why:
        say(f"  {outcome.why}")


def _measure_once(measurement: Measurement, server: Server) -> Figures:
    job = measurement.job
    with scratch() as directory:
        if measurement.before is not None:
            with running(server, directory) as up:
                job = {**job, **_generate(measurement.before, server, up)}
        with running(server, directory) as up:
            return _generate(job, server, up)


def _generate(job: dict[str, Any], server: Server, up: Running) -> Figures:
    """Let a generator do one job."""
    whole = {**job, "wire": server.wire, "ports": up.ports, "pids": up.pids, "directory": str(up.directory)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.generate"],
        input=json.dumps(whole),
        capture_output=True,
        text=True,
        timeout=_LONGEST,
        check=False,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise RuntimeError(f"the generator: {lines[-1]}")
    figures: Figures = json.loads(done.stdout)
    return figures


def settle_down() -> None:
    """Leave the servers' cores to the servers."""
    os.sched_setaffinity(0, machine.generator_cores())
