"""All tests in one order: a mixed one, in which the last ones are short.

``trial -j`` starts tests in the order in which they are loaded. In the order of names, all attacks would run at the
same time, and later nothing but time-outs. A test that takes long and starts last runs alone in the end. Tests that
start a process or open a port may take long, so none of them is among the last. The order is the same in each run.

A class of tests may say between which ``places`` of the order they stand, from 0 to 1: where some would wait for what
others make, they come later.
"""

from __future__ import annotations

import random
from typing import Any

from twisted.trial.runner import TestLoader, TestSuite

import tests
from tests.quick import more_needed
from tools.run_tests import single_tests

_SHORT_FROM = 0.7
"""From where on in the order all tests are short: these take a quarter of a minute together."""


def places_of(test: Any) -> tuple[float, float]:
    """Between which places in the order a test stands."""
    found: tuple[float, float] = getattr(test, "places", (0.0, 1.0 if more_needed(test) is None else _SHORT_FROM))
    return found


def all_tests() -> list[Any]:
    """Every test of the package, in that order."""
    found = list(single_tests(TestLoader().loadPackage(tests, recurse=True)))
    places = random.Random(1)
    return sorted(found, key=lambda test: places.uniform(*places_of(test)))


def testSuite() -> TestSuite:  # noqa: N802  (trial's name for it)
    """Load every test of the package."""
    return TestSuite(all_tests())
