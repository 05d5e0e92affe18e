"""All tests in one order, in which those that load the processors stand between those that wait.

``trial -j`` starts tests in the order in which they are loaded. In the order of names, all attacks would run at the
same time, and later nothing but time-outs. The order is the same in each run.
"""

from __future__ import annotations

import random
from typing import Any

from twisted.trial.runner import TestLoader, TestSuite

import tests
from tools.run_tests import single_tests


def all_tests() -> list[Any]:
    """Every test of the package, in that order."""
    found = list(single_tests(TestLoader().loadPackage(tests, recurse=True)))
    random.Random(1).shuffle(found)
    return found


def testSuite() -> TestSuite:  # noqa: N802  (trial's name for it)
    """Load every test of the package."""
    return TestSuite(all_tests())
