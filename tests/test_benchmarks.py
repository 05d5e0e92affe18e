"""Every scenario of ``make bench`` once, with few clients and this daemon alone: its programs still fit the daemon."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.hotloop import HERE, compile_c
from benchmarks.report import as_markdown, remarks
from benchmarks.run import measure
from benchmarks.scenarios import SCENARIOS, Measurement, Scale
from benchmarks.servers import (
    ALONE,
    OURS,
    OURS_DEFAULTS,
    OURS_DURABLE,
    OURS_LEGACY,
    OURS_LIMITED,
    OURS_NODES,
    OURS_SOCKET_IO,
    OURS_SOCKET_IO_IDLE,
    OURS_USERS,
    VARIANTS,
)

SMALLEST = Scale(seconds=0.1, most=20, runs=1)
CORKED = next(title for title, name in VARIANTS.items() if name == "corked")
ONE_EACH = (
    *(OURS_NODES, CORKED, ALONE, OURS_USERS, OURS_LEGACY, OURS_DEFAULTS, OURS_LIMITED),
    *(OURS_SOCKET_IO, OURS_SOCKET_IO_IDLE, OURS, OURS_DURABLE),
)
"""One of these is measured in each scenario: the first that takes part. The corked one replaces a function of ours."""

BUSY = "the generator was busy"


class ScenarioTests(SynchronousTestCase):
    """Small measurements. The figures mean nothing; that there are some means that nothing is broken."""

    def check(self, measurement: Measurement) -> None:
        """Measure once. Every figure that is shown is there."""
        server = next(name for name in ONE_EACH if name in measurement.servers)
        results = measure([measurement], lambda name: name == server, 1, lambda line: None)
        outcome = results[measurement.title][server]
        self.assertEqual([], [remark for remark in remarks(outcome) if not remark.startswith(BUSY)])
        figures = [outcome.values(column.path) for column in measurement.columns]
        self.assertEqual([1] * len(figures), list(map(len, figures)), measurement.title)
        self.assertGreater(max(figures)[0], 0, measurement.title)
        self.assertIn(server, as_markdown([measurement], results, 1))


def chosen() -> Iterator[tuple[str, Measurement]]:
    """The first measurement of each scenario, and those with a job of a kind that none before them has.

    All of Socket.IO: no other scenario speaks its protocol.
    """
    kinds = set()
    for scenario, make in SCENARIOS.items():
        for index, measurement in enumerate(make(SMALLEST)):
            kind = measurement.job["measure"]
            if scenario == "socketio":
                yield f"test_{scenario}_{kind}_{index}", measurement
            elif index == 0 or kind not in kinds:
                yield f"test_{scenario}_{kind}".replace("-", "_"), measurement
            kinds.add(kind)


def test_of(name: str, measurement: Measurement) -> Callable[[ScenarioTests], None]:
    """A test of one measurement."""

    def test(self: ScenarioTests) -> None:
        self.check(measurement)

    test.__name__ = name
    test.__doc__ = f"There is a figure for: {measurement.title}."
    return test


for name, measurement in chosen():
    setattr(ScenarioTests, name, test_of(name, measurement))


class LoadGeneratorTests(SynchronousTestCase):
    """The parts in C."""

    def test_compiles(self) -> None:
        """They compile without a warning."""
        for source, options in ((HERE / "load.c", ("-shared", "-fPIC")), (HERE / "peers" / "floor.c", ())):
            try:
                compile_c(source, Path(self.mktemp()), "-Werror", *options)
            except subprocess.CalledProcessError as error:
                self.fail(f"{source.name} does not compile: {error}")
